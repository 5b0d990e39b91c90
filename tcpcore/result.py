"""What a replay hands out: tables, streams, a summary, a report."""

from __future__ import annotations

from tcpcore import report
from tcpcore.stream import HasStreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tcpcore.pcap import PcapError
    from tcpcore.stream import Streams
    from tcpcore.table import Table


class Replay(HasStreams):
    """What a replay learned.

    Attributes
    ----------
    connections : Table
        A row for each connection, in order of `conn`.
    summary : dict
        The object that ``tcpcore replay --json`` prints.
    counters : dict
        Counters by their Linux names.
    error : PcapError or None
        The first input that could not be read, or not to its end.
    errors : list of PcapError
        All of them.
    """

    def __init__(
        self,
        connections: Table,
        packets: Table | None,
        summary: dict[str, Any],
        errors: list[PcapError],
        details: dict[str, Any],
        streams: Callable[..., Streams] | None = None,
    ) -> None:
        super().__init__(streams)
        self.connections = connections
        self._packets = packets
        self.summary = summary
        self.errors = errors
        self._details = details  # what the text report tells beyond the summary

    @property
    def packets(self) -> Table:
        """A row for each frame. Raises ValueError unless asked for with ``packets=True``."""
        if self._packets is None:
            raise ValueError("no packet rows were kept: use replay(..., packets=True)")
        return self._packets

    @property
    def counters(self) -> dict[str, int]:
        """Counters by their Linux names."""
        return dict(self.summary["counters"])

    @property
    def error(self) -> PcapError | None:
        """The first input that could not be read, or not to its end."""
        return self.errors[0] if self.errors else None

    def __repr__(self) -> str:
        return report.short(self.summary, self._details)

    def _repr_html_(self) -> str:
        return report.html(self.summary, self._details)
