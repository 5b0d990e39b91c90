"""The columns `conflicting_bytes`: bytes that were sent again with other content.

No engine keeps payload, so they are made of streams when they are first read (docs/analysis.md).
"""

from __future__ import annotations

from tcpcore.columns import CONFLICTS
from tcpcore.pcap import PcapError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from tcpcore.stream import Streams
    from tcpcore.table import Fetch

# Where none of these is above its number no byte came twice: probes carry old bytes, which do not
# count as duplicate; behind holes of half of all numbers nobody can tell which are old.
SIGNS = {"duplicate_bytes": 0, "keep_alive": 0, "zero_window_probe": 0, "gap_bytes": 1 << 30}
UNKNOWN = -1


class Conflicts:
    """The two columns of one replay.

    Parameters
    ----------
    streams
        Gives the streams of what was replayed; None where they cannot be had.
    found
        The replay's own, which keeps what is counted, once: bytes by 2 * conn, and 1 more for
        'ba'. That the replay has no reference to this object leaves both without a cycle.
    """

    def __init__(self, streams: Callable[[], Streams | None], found: list[dict[int, int]]) -> None:
        self._streams = streams
        self._found = found

    def fetch(self, fetch: Fetch) -> Fetch:
        """Make of what fetches an engine's columns what fetches these two as well."""

        def fetched(names: list[str]) -> tuple[int, dict[str, Any]]:
            known = [name for name in names if name not in CONFLICTS]
            if len(known) == len(names):
                return fetch(names)
            signs = [f"{sign}_{d}" for sign in SIGNS for d in ("ab", "ba")]
            count, buffers = fetch(list(dict.fromkeys([*known, "conn", *signs])))
            return count, buffers | self._columns(buffers, count)

        return fetched

    def _columns(self, buffers: dict[str, Any], count: int) -> dict[str, NDArray[Any]]:
        import numpy as np

        columns = {name: np.zeros(count, "int64") for name in CONFLICTS}
        if not count:
            return columns
        conns = np.frombuffer(buffers["conn"], "int64", count)
        rows = []
        for d in ("ab", "ba"):
            signs = [
                np.frombuffer(buffers[f"{sign}_{d}"], "int64", count) > most
                for sign, most in SIGNS.items()
            ]
            rows.append(np.flatnonzero(np.any(signs, axis=0)))
        idents = [(2 * conns[one] + side).tolist() for side, one in enumerate(rows)]
        if idents[0] or idents[1]:
            found = self._counted({*idents[0], *idents[1]})
            for name, one, which in zip(CONFLICTS, rows, idents, strict=True):
                columns[name][one] = [found.get(ident, UNKNOWN) for ident in which]
        return columns

    def _counted(self, wanted: set[int]) -> dict[int, int]:
        """Count of each stream the bytes that differ; of one that is missing it is not known."""
        if not self._found:
            try:
                streams = self._streams()
                self._found.append({} if streams is None else streams.conflicting(wanted))
            except PcapError:  # the capture is not there any more as it was
                self._found.append({})
        return self._found[0]
