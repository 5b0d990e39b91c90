"""The inputs of a replay, to be read again: files as they lie, compressed ones from their start.

Of all else a copy is kept; docs/streams.md has the rules.
"""

from __future__ import annotations

import io
import os

from tcpcore.pcap import Input, PcapError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO

SPOOL = 1 << 30  # bytes kept of inputs that cannot be read again
PAST = 1 << 20  # bytes read at once to get past what is not wanted


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
