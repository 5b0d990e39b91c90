"""What each end of a connection said, as bytes gathered from the capture when asked for.

The engine knows where every payload lies (docs/streams.md); here the captures are read again.
"""

from __future__ import annotations

import io
import operator
import os
from array import array
from bisect import bisect_left

from tcpcore.pcap import Input, PcapError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator
    from threading import Lock
    from types import ModuleType
    from typing import Any, BinaryIO

OVERLAPS = ("first", "last", "linux", "bsd", "windows")
DIRECTIONS = ("ab", "ba")
SPOOL = 1 << 30  # bytes kept of inputs that cannot be read again
RECORDS = 1 << 30  # bytes of records of where payload lies
FILL = 1 << 30  # bytes of a stream whose gaps are filled
GROUP = 32 << 20  # bytes of streams that are gathered together
BATCH = 1 << 20  # records put in order together
PAST = 1 << 20  # bytes read at once to get past what is not wanted


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
        "_data",
    )

    def __init__(
        self, streams: Streams, gather: Any, number: int, ident: int, start: int, end: int
    ) -> None:
        self.conn = ident >> 1
        self.direction = DIRECTIONS[ident & 1]
        self.length = end - start
        self._streams = streams
        self._gather = gather
        self._number = number
        self._start = start
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
            self._data = b"".join(self.pieces(self.length or 1))
        return self._data

    def pieces(self, size: int = GROUP) -> Iterator[bytes]:
        """`data` in pieces of at most `size` bytes, for large streams. Raises as `data`."""
        self._bounded()
        for begin in range(self._start, self._start + self.length, size):
            end = min(begin + size, self._start + self.length)
            yield self._streams.sources.read(self._gather, begin, end)[self._number]

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
        chosen: Callable[[], Container[int]] | None = None,
    ) -> None:
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {', '.join(OVERLAPS)}, not {overlap!r}")
        self.sources = sources
        self.overlap = overlap
        self.fill = bool(fill)
        self.fill_max = FILL if fill_max is None else fill_max
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
                    one._data = parts.get(number, b"")
                if one.length or one.gaps:
                    yield one
            first = last


class HasStreams:
    """What a replay with ``streams=True`` can hand out."""

    def __init__(self, streams: Callable[[str, bool, int | None], Streams] | None) -> None:
        self._streams = streams

    def stream(
        self,
        conn: int,
        direction: str,
        *,
        overlap: str = "first",
        fill: bool = False,
        fill_max: int | None = None,
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

        Raises
        ------
        IndexError
            If there is no such connection.
        LookupError
            If its records were given up to keep to `stream_memory`.
        ValueError
            Without ``streams=True``, and for other words.
        """
        return self._made(overlap, fill, fill_max).one(conn, direction)

    def streams(
        self, *, overlap: str = "first", fill: bool = False, fill_max: int | None = None
    ) -> Iterator[Stream]:
        """Every stream that is not empty, by `conn`, 'ab' first: the quick way to read all.

        With ``where=`` those of the connections that it selects. Those given up to keep to
        `stream_memory` are left out (`summary` counts them). Parameters and errors as of `stream`.
        """
        return iter(self._made(overlap, fill, fill_max))

    def _made(self, overlap: str, fill: bool, fill_max: int | None) -> Streams:
        if self._streams is None:
            raise ValueError("no streams were noted: use replay(..., streams=True)")
        return self._streams(overlap, fill, fill_max)


class Sources:
    """The inputs of a replay, to be read again: files as they lie, all else from a spool.

    Parameters
    ----------
    spool : int
        Bytes kept of inputs that cannot be read again, in a temporary file without a name.
    """

    def __init__(self, spool: int = SPOOL) -> None:
        from threading import Lock

        self._lock = Lock()
        self._spool = spool
        self._file: BinaryIO | None = None
        self._inputs: dict[int, tuple[Input, int]] = {}  # and where it begins in the spool
        self._kept: dict[int, int] = {}
        self._now = 0  # number of the input at hand
        self._open: tuple[int, Any] | None = None  # the input that is being read
        self._room = bytearray()
        self.again = True  # any part of the inputs so far can be read without those before it

    def __del__(self) -> None:
        self.close()
        if self._file is not None:
            self._file.close()

    def begin(self, number: int, one: Input) -> None:
        """An input is open, and from now on at hand."""
        self._inputs[number] = one, sum(self._kept.values())
        self._kept[number] = 0
        self._now = number

    def keep(self, data: memoryview) -> None:
        """Spool what was read of the input at hand, unless it can be read again."""
        one = self._inputs[self._now][0]
        if one.status is not None:
            self.again &= not one.compression
            return
        count = min(len(data), self._spool - sum(self._kept.values()))
        self.again &= count == len(data)
        if not count:
            return
        try:
            if self._file is None:
                import tempfile

                self._file = tempfile.TemporaryFile(prefix="tcpcore-")  # noqa: SIM115
            self._file.seek(0, io.SEEK_END)
            self._file.write(data[:count])
        except OSError:  # no room there: what could be kept is the spool
            self._spool = sum(self._kept.values())
            self.again = False
            return
        self._kept[self._now] += count

    def read(self, gather: Any, begin: int, end: int, losers: bool = False) -> dict[int, bytes]:
        """Bytes [begin, end) of all streams, each stream's by its number; with `losers` look at
        their other copies as well.
        """
        with self._lock:
            try:
                self._read(gather, begin, end, False)
                if losers:
                    self._read(gather, begin, end, True)
            finally:
                self.close()
            parts: dict[int, bytes] = gather.parts
            return parts

    def read_list(self, reads: Iterable[tuple[int, int, int]]) -> bytes:
        """Parts of inputs, (input, begin, end) each, one behind the other.

        The input that was read last stays open for the next call.
        """
        made = []
        with self._lock:
            for file, low, high in reads:
                room = bytearray(high - low)
                self._fetch(file, low, memoryview(room))
                made.append(room)
        return b"".join(made)

    def _read(self, gather: Any, begin: int, end: int, losers: bool) -> None:
        for number, (file, low, high) in enumerate(gather.window(begin, end, losers)):
            if len(self._room) < high - low:
                self._room = bytearray(high - low)
            with memoryview(self._room)[: high - low] as room:
                self._fetch(file, low, room)
                gather.take(number, room)

    def _fetch(self, number: int, low: int, room: memoryview) -> None:
        """Read a part of an input: [low, low + len(room)) of its decompressed bytes."""
        one, base = self._inputs[number]
        if one.status is None:
            if low + len(room) > self._kept[number]:
                raise PcapError(
                    one.name,
                    self._kept[number],
                    f"bytes from here on were not kept: it cannot be read again, and "
                    f"{self._spool} bytes are spooled",
                )
            assert self._file is not None
            self._file.seek(base + low)
            _fill(self._file, room, one.name, low)
            return
        if (
            self._open is None
            or self._open[0] != number
            or (one.compression and self._open[1].tell() > low)
        ):
            self.close()
            reader: Any = _Again(one) if one.compression else _Plain(one)
            self._open = number, reader
        reader = self._open[1]
        reader.seek(low)
        _fill(reader, room, one.name, low)

    def close(self) -> None:
        """Close the input that was read last; whether it changed is looked at when it is opened."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _fill(file: Any, room: memoryview, name: str, low: int) -> None:
    done = 0
    while done < len(room):
        try:
            count = file.readinto(room[done:])
        except OSError as error:
            raise PcapError(name, low + done, error.strerror or str(error)) from error
        if not count:
            raise PcapError(name, low + done, "the file is shorter than when it was replayed")
        done += count


def identity(one: Input) -> tuple[int, ...] | None:
    """What tells a file, as it was when it was opened, from all others; None if it is none."""
    return None if one.status is None else _identity(one.status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _check(one: Input, status: os.stat_result | None) -> None:
    """Raise PcapError unless a file is the one that was replayed, as it was then."""
    if status is None or one.status is None or _identity(status) != _identity(one.status):
        raise PcapError(one.name, 0, "the file has changed since it was replayed")


class _Plain:
    """A capture that lies there as it is."""

    def __init__(self, one: Input) -> None:
        try:
            file = io.FileIO(os.fsencode(one.path or ""), "rb")
        except OSError as error:
            raise PcapError(one.name, 0, error.strerror or str(error)) from error
        self.close, self.tell, self.seek = file.close, file.tell, file.seek
        self.readinto = file.readinto
        try:
            _check(one, os.fstat(file.fileno()))
        except PcapError:
            self.close()
            raise


class _Again:
    """A compressed capture, read from its start."""

    def __init__(self, one: Input) -> None:
        self._input = Input(one.path or "")
        try:
            self._input.open()
        except OSError as error:
            raise PcapError(one.name, 0, error.strerror or str(error)) from error
        self._past = memoryview(bytearray(PAST))
        self._block = memoryview(bytearray(PAST))
        self._held = self._block[:0]
        self._at = 0
        self.close = self._input.close
        try:
            _check(one, self._input.status)
        except PcapError:
            self.close()
            raise

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> None:
        """Go on to a place, which is not before this one."""
        while (left := place - self._at) > 0:
            if not self.readinto(self._past[: min(left, PAST)]):
                return

    def readinto(self, room: memoryview) -> int:
        if not self._held:
            count = self._input.readinto(self._block)
            self._held = self._block[:count]
        count = min(len(self._held), len(room))
        room[:count] = self._held[:count]
        self._held = self._held[count:]
        self._at += count
        return count
