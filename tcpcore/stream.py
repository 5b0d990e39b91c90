"""What each end of a connection said, as bytes gathered from the capture when asked for.

The engine knows where every payload lies (docs/streams.md); sources.py reads the captures again.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator
    from threading import Lock
    from types import ModuleType
    from typing import Any

    from tcpcore.sources import Sources

URGENTS = ("inline", "drop")
OVERLAPS = ("first", "last", "linux", "bsd", "windows")
DIRECTIONS = ("ab", "ba")
RECORDS = 1 << 30  # bytes of records of where payload lies
FILL = 1 << 30  # bytes of a stream whose gaps are filled
GROUP = 32 << 20  # bytes of streams that are gathered together
BATCH = 1 << 20  # records put in order together


class Stream:
    """One direction of a connection.

    Attributes
    ----------
    conn : int
        Its connection.
    direction : str
        'ab', what a sent, or 'ba'.
    length : int
        Bytes that `data` has.
    urgent : list of int
        Offsets of the bytes that urgent pointers mark.
    data : bytes
        What was sent, as far as it was captured.
    gaps : list of (int, int)
        (offset, length) of what was sent and not captured.
    conflicts : list of (int, bytes, bytes)
        (offset, kept, other) where copies of the same bytes differ.

    Offset 0 is the byte after the SYN; of a stream whose SYN was not seen its lowest sequence
    number (RFC 9293 3.4).
    """

    __slots__ = (
        "conn",
        "direction",
        "length",
        "_streams",
        "_gather",
        "_number",
        "_start",
        "_size",
        "_left_out",
        "_data",
    )

    def __init__(
        self, streams: Streams, gather: Any, number: int, ident: int, start: int, end: int
    ) -> None:
        self.conn = ident >> 1
        self.direction = DIRECTIONS[ident & 1]
        self._streams = streams
        self._gather = gather
        self._number = number
        self._start = start
        self._size = end - start
        self._left_out: list[int] = []  # places of urgent bytes, if they are to be
        if streams.urgent == "drop":
            self._left_out = _places(gather.urgent(number), self.gaps, streams.fill)
        self.length = self._size - len(self._left_out)
        self._data: bytes | None = None

    @property
    def data(self) -> bytes:
        """The captured bytes, one after the other; with ``fill=True`` with zeros in the gaps.

        Raises
        ------
        PcapError
            When the capture changed since it was replayed, or could not be kept.
        ValueError
            When it has more than `fill_max` bytes with its gaps filled.
        """
        self._bounded()
        if self._data is None:
            self._data = b"".join(self.pieces(self._size or 1))
        return self._data

    def pieces(self, size: int = GROUP) -> Iterator[bytes]:
        """`data` in pieces of at most `size` bytes, for large streams. Raises as `data`."""
        self._bounded()
        for begin in range(0, self._size, size):
            end = min(begin + size, self._size)
            places = self._start + begin, self._start + end
            yield self._kept(begin, self._streams.sources.read(self._gather, *places)[self._number])

    def _kept(self, begin: int, data: bytes) -> bytes:
        """Bytes from the place `begin` on without those to be left out."""
        first = bisect_left(self._left_out, begin)
        last = bisect_left(self._left_out, begin + len(data))
        if first == last:
            return data
        cuts = [-1, *(place - begin for place in self._left_out[first:last]), len(data)]
        return b"".join(data[one + 1 : other] for one, other in pairwise(cuts))

    def _bounded(self) -> None:
        """Refuse to make more of gaps than was allowed."""
        streams = self._streams
        if streams.fill and self.length > streams.fill_max:
            raise ValueError(
                f"stream {self.conn}:{self.direction} has {self.length} bytes with its gaps "
                f"filled, more than fill_max={streams.fill_max}"
            )

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """`data` in pieces without gaps, each behind its offset."""
        begin = self._gather.handed(self._number)
        offset = 0
        gaps = iter(self.gaps)
        gap, length = next(gaps, (-1, 0))
        for data in [self.data] if self.length <= GROUP else self.pieces():
            done = 0
            while done < len(data):
                while offset == gap:
                    offset += length
                    gap, length = next(gaps, (-1, 0))
                count = len(data) - done
                if gap >= 0:
                    count = min(count, gap - offset)
                yield begin + offset, data[done : done + count]
                done += count
                offset += count

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """(offset, length) of what was sent and not captured, in order."""
        found: list[tuple[int, int]] = self._gather.gaps(self._number)
        return found

    @property
    def urgent(self) -> list[int]:
        """Offsets of the bytes that urgent pointers mark, ascending, captured or not.

        They are part of `data`, unless it is made with ``urgent='drop'``.
        """
        found: list[int] = self._gather.urgent(self._number)
        return found

    @property
    def conflicts(self) -> list[tuple[int, bytes, bytes]]:
        """(offset, kept, other) where copies differ, by offset, equal ones in order of capture.

        At most 16 MiB of them; `conflicting_bytes` counts all. Raises as `data`.
        """
        return self._conflicts()[0]

    @property
    def conflicting_bytes(self) -> int:
        """Bytes of copies that differ from those that were kept."""
        return self._conflicts()[1]

    def _conflicts(self) -> tuple[list[tuple[int, bytes, bytes]], int]:
        streams = self._streams
        ident = 2 * self.conn + DIRECTIONS.index(self.direction)
        gather = streams.gather([ident], fill=False)  # the gaps may have any length
        length = memoryview(gather.starts()).cast("q")[1]
        found: list[tuple[int, bytes, bytes]] = []
        if not gather.losers:
            return found, 0
        for begin in range(0, length, GROUP):
            end = min(begin + GROUP, length)
            streams.sources.read(gather, begin, end, losers=True)
            found += [(at, kept, other) for _, at, kept, other in gather.conflicts()]
        found.sort(key=lambda one: one[0])
        return _with_gaps(found, self.gaps), gather.conflicting.get(0, 0)

    def __repr__(self) -> str:
        return f"<Stream {self.conn}:{self.direction}, {self.length} bytes, {len(self.gaps)} gaps>"


def _places(offsets: list[int], gaps: list[tuple[int, int]], fill: bool) -> list[int]:
    """Places in the gathered bytes of offsets in a stream, those in gaps left out."""
    out = []
    before = number = 0
    for offset in offsets:
        while number < len(gaps) and sum(gaps[number]) <= offset:
            before += gaps[number][1]
            number += 1
        if number == len(gaps) or offset < gaps[number][0]:
            out.append(offset - (0 if fill else before))
    return out


def _with_gaps(
    found: list[tuple[int, bytes, bytes]], gaps: list[tuple[int, int]]
) -> list[tuple[int, bytes, bytes]]:
    """Turn places in the captured bytes into offsets in the stream."""
    out = []
    before = number = 0
    for at, kept, other in found:
        while number < len(gaps) and gaps[number][0] <= at + before:
            before += gaps[number][1]
            number += 1
        out.append((at + before, kept, other))
    return out


class Streams:
    """All streams of a replay, with one policy for overlaps."""

    def __init__(
        self,
        module: ModuleType,
        conntrack: Any,
        lock: Lock,
        sources: Sources,
        overlap: str = "first",
        fill: bool = False,
        fill_max: int | None = None,
        urgent: str = "inline",
        chosen: Callable[[], Container[int]] | None = None,
    ) -> None:
        if urgent not in URGENTS:
            raise ValueError(f"urgent must be 'inline' or 'drop', not {urgent!r}")
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {', '.join(OVERLAPS)}, not {overlap!r}")
        self.sources = sources
        self.overlap = overlap
        self.fill = bool(fill)
        self.fill_max = FILL if fill_max is None else fill_max
        self.urgent = urgent
        self._module = module
        self._conntrack = conntrack
        self._lock = lock
        self._chosen = chosen  # connections that iteration hands out, all if it is None

    def gather(self, idents: Iterable[int], fill: bool | None = None) -> Any:
        """Ask the engine where the bytes of streams lie; 2 * conn, and 1 more for 'ba'."""
        fill = self.fill if fill is None else fill
        with self._lock:
            return self._module.Gather(
                self._conntrack, array("q", idents), overlap=self.overlap, fill=fill
            )

    def records(self) -> tuple[memoryview, memoryview, memoryview]:
        """Connections that have streams, ascending, and each direction's number of records."""
        with self._lock:
            conns, ab, ba = self._module.stream_records(self._conntrack)
        return memoryview(conns).cast("q"), memoryview(ab).cast("q"), memoryview(ba).cast("q")

    def _known(self, conn: int, direction: str) -> int:
        """Check that a connection is there, and that what it sent was not given up."""
        connections, given_up = self._conntrack.begun, self._conntrack.given_up
        if not 0 <= operator.index(conn) < connections:
            raise IndexError(f"no connection {conn}: there are {connections}")
        if given_up:
            conns = self.records()[0]
            at = bisect_left(conns, conn)
            if at == len(conns) or conns[at] != conn:
                raise LookupError(
                    f"stream {conn}:{direction} sent nothing, or its records were given up: "
                    f"stream_memory was too small for {given_up} connections"
                )
        return operator.index(conn)

    def one(self, conn: int, direction: str) -> Stream:
        """One stream, which reads nothing until it is asked for its data."""
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be 'ab' or 'ba', not {direction!r}")
        conn = self._known(conn, direction)
        ident = 2 * conn + DIRECTIONS.index(direction)
        gather = self.gather([ident])
        start, end = memoryview(gather.starts()).cast("q")
        return Stream(self, gather, 0, ident, start, end)

    def __iter__(self) -> Iterator[Stream]:
        return self.some(0)

    def some(self, least: int) -> Iterator[Stream]:
        """Those that have at least so many records."""
        idents = array("q")
        total = 0
        chosen = None if self._chosen is None else self._chosen()
        for conn, *records in zip(*self.records(), strict=True):
            if chosen is not None and conn not in chosen:
                continue
            for side, count in enumerate(records):
                if count >= least:
                    idents.append(2 * conn + side)
                    total += count
            if total >= BATCH:
                yield from self._batch(idents)
                idents = array("q")
                total = 0
        yield from self._batch(idents)

    def conflicting(self, wanted: Collection[int]) -> dict[int, int]:
        """Bytes of copies that differ from what was kept, of the wanted streams by `ident`.

        Left out are those that may have been given up. Raises PcapError as `Stream.data`.
        """
        found = {} if self._conntrack.given_up else dict.fromkeys(wanted, 0)
        idents = array("q")
        total = 0
        for conn, *records in zip(*self.records(), strict=True):
            for ident, count in zip((2 * conn, 2 * conn + 1), records, strict=True):
                if ident in wanted:
                    idents.append(ident)
                    total += count
            if total >= BATCH:
                found |= self._conflicting(idents)
                idents = array("q")
                total = 0
        return found | self._conflicting(idents)

    def _conflicting(self, idents: array[int]) -> dict[int, int]:
        gather = self.gather(idents)
        if gather.losers:
            size = memoryview(gather.starts()).cast("q")[-1]
            for begin in range(0, size, GROUP):
                self.sources.read(gather, begin, min(begin + GROUP, size), losers=True)
                gather.conflicts()
        return {ident: gather.conflicting.get(number, 0) for number, ident in enumerate(idents)}

    def _batch(self, idents: array[int]) -> Iterator[Stream]:
        """Streams of some connections; small ones are read together, in order of capture."""
        gather = self.gather(idents)
        starts = memoryview(gather.starts()).cast("q")
        first = 0
        while first < len(idents):
            last = first + 1
            while last < len(idents) and starts[last + 1] - starts[first] <= GROUP:
                last += 1
            parts = None
            if starts[last] - starts[first] <= GROUP:
                parts = self.sources.read(gather, starts[first], starts[last])
            for number in range(first, last):
                start, end = starts[number], starts[number + 1]
                one = Stream(self, gather, number, idents[number], start, end)
                if parts is not None:
                    one._data = one._kept(0, parts.get(number, b""))
                if one._size or one.gaps:
                    yield one
            first = last


class HasStreams:
    """What a replay with ``streams=True`` can hand out."""

    def __init__(self, streams: Callable[[str, bool, int | None, str], Streams] | None) -> None:
        self._streams = streams

    def stream(
        self,
        conn: int,
        direction: str,
        *,
        overlap: str = "first",
        fill: bool = False,
        fill_max: int | None = None,
        urgent: str = "inline",
    ) -> Stream:
        """What one end of a connection sent: see `tcpcore.stream.Stream`.

        Parameters
        ----------
        conn
            Number of the connection.
        direction
            'ab' or 'ba'.
        overlap
            Which copy of a byte counts: 'first', 'last', 'linux', 'bsd' or 'windows'.
        fill
            Put zeros where bytes are missing.
        fill_max
            Bytes that a stream may then have (default 1 GiB).
        urgent
            'drop' leaves out the bytes that urgent pointers mark, as a receiver does that wants
            them apart (RFC 6093 has them 'inline').

        Raises
        ------
        IndexError
            If there is no such connection.
        LookupError
            If its records were given up to keep to `stream_memory`.
        ValueError
            Without ``streams=True``, and for other words.
        """
        return self._made(overlap, fill, fill_max, urgent).one(conn, direction)

    def streams(
        self,
        *,
        overlap: str = "first",
        fill: bool = False,
        fill_max: int | None = None,
        urgent: str = "inline",
    ) -> Iterator[Stream]:
        """Every stream that is not empty, by `conn`, 'ab' first: the quick way to read all.

        With ``where=`` those of the connections that it selects. Those given up to keep to
        `stream_memory` are left out (`summary` counts them). Parameters and errors as of `stream`.
        """
        return iter(self._made(overlap, fill, fill_max, urgent))

    def _made(self, overlap: str, fill: bool, fill_max: int | None, urgent: str) -> Streams:
        if self._streams is None:
            raise ValueError("no streams were noted: use replay(..., streams=True)")
        return self._streams(overlap, fill, fill_max, urgent)
