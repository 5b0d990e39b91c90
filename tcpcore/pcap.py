"""Opens captures: files, pipes and file objects, plain or compressed, one or several; writes them.

What the bytes mean is the engine's business (draft-ietf-opsawg-pcap, -pcapng); here they are only
fetched, into memory the caller reuses. Compression: gzip (RFC 1952), zstd (RFC 8878), lz4 frames.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    Source = Path | BinaryIO | Iterable[Path | BinaryIO]
    Peek = Callable[[bytearray, int], tuple[str, int | None]]

RECORD_MAX = (16 << 20) + 64  # what the engine may ask to see at once
PLAIN = 65536  # compressed bytes fetched at a time
PIECE = 262144  # decompressed bytes made at a time

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPED = b"\x2a\x4d\x18"  # after 50 to 5f: a frame that zstd skips
_LZ4 = b"\x04\x22\x4d\x18"


class PcapError(ValueError):
    """A capture that cannot be read, or not to its end.

    Attributes
    ----------
    file : str
        Name of the input.
    offset : int
        Where, in bytes of the decompressed input.
    reason : str
    replay : Replay or None
        With ``strict=True``: what could be read.
    """

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(file, offset, reason)
        self.file = file
        self.offset = offset
        self.reason = reason
        self.replay: Any = None

    def __str__(self) -> str:
        return f"{self.file}: byte {self.offset}: {self.reason}"


class Input:
    """One capture, read from its start to its end.

    Attributes
    ----------
    name : str
        As the user knows it: the path, '-', or what a file object calls itself.
    compression : str
        '', 'gzip', 'zstd' or 'lz4'; known once something was read.
    format : str
        The engine's name of the format, once `first_ns` looked for it.
    size, taken : int
        Bytes of the file as it lies (None: not known), and how many of them were read.
    offset : int
        Decompressed bytes handed out.
    unpack_max : int or None
        Bytes that compressed data may become, if there is a bound.
    missing : OSError or None
        Why `arrange` could not open it.
    status : os.stat_result or None
        Of a regular file named by its path, as it was when it was opened.
    path : str or bytes or None
        Its path, if it has one.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        self._path: str | bytes | None = None
        self._object: Any = None
        if isinstance(source, (str, bytes, os.PathLike)):
            path = os.fspath(source)
            self.name = os.fsdecode(path)
            if self.name != "-":
                self._path = path
        else:
            self._object = source
            if isinstance(self._object, io.TextIOBase) or not _readable(source):
                raise TypeError(
                    f"a source is a path, '-', a binary file object or a list of them, "
                    f"not {type(source).__name__}"
                )
            name = getattr(source, "name", None)
            if not isinstance(name, str) or not name:  # gzip.open(BytesIO()) says ""
                name = f"<{type(source).__name__}>"
            self.name = name
        self.compression = ""
        self.format = ""
        self.size: int | None = None
        self.taken = 0
        self.offset = 0
        self.unpack_max: int | None = None
        self.missing: OSError | None = None
        self.status: os.stat_result | None = None
        self._again = False  # can be closed and read again from its start
        self._close: Callable[[], None] | None = None
        self._raw: Callable[[memoryview], int] | None = None
        self._pieces: Iterator[bytes] | None = None
        self._piece = memoryview(b"")
        self._unpacked = 0
        self._sniffed = False
        self._kept = memoryview(b"")  # peeked at, to be handed out again
        self._failed: PcapError | None = None  # met while peeking

    @property
    def standard_input(self) -> bool:
        """Whether it is '-'."""
        return self._path is None and self._object is None

    @property
    def path(self) -> str | bytes | None:
        """Its path, if it has one."""
        return self._path

    def open(self) -> None:
        """Open it, unless it is open. Raises OSError."""
        if self._raw is not None:
            return
        if self._object is not None:
            self._raw = _object_reader(self._object)
            return
        if self._path is None:
            if sys.stdin is None:
                raise OSError(errno.EBADF, "standard input is closed")
            self._raw = _object_reader(sys.stdin.buffer)
            return
        raw = open(self._path, "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(raw.fileno())
        if stat.S_ISREG(status.st_mode):
            self.size = status.st_size
            self.status = status
            self._again = True
        self._close = raw.close
        self._raw = _object_reader(raw)

    def close(self) -> None:
        """Close what `open` opened; a file object stays open."""
        if self._close is not None:
            self._close()
            self._close = None
        self._raw = None
        self._pieces = None
        self._piece = memoryview(b"")

    def readinto(self, room: memoryview) -> int:
        """Put decompressed bytes into `room` (at least 4 bytes), as many as there are for now.

        Returns
        -------
        int
            How many; 0 at the end.

        Raises
        ------
        PcapError
            When compressed data are cut or corrupt, after all that came out before it, or when
            the system cannot read on.
        """
        if self._kept:
            count = min(len(self._kept), len(room))
            room[:count] = self._kept[:count]
            self._kept = self._kept[count:]
            self.offset += count
            return count
        if self._failed is not None:
            raise self._failed
        try:
            if self._pieces is not None:
                count = self._decompressed(room)
            elif self._sniffed:
                count = self._fetch(room)
            else:
                count = self._begin(room)
        except _BadData as error:
            raise PcapError(self.name, self.offset, str(error)) from error.__cause__
        except OSError as error:
            reason = error.strerror or str(error)
            raise PcapError(self.name, self.offset, reason) from error
        self.offset += count
        return count

    def first_ns(self, peek: Peek) -> int | None:
        """Time of the first packet, without taking anything from what `readinto` will give.

        None if there is no packet within the first `RECORD_MAX` bytes. Regular files are closed
        afterwards, so that thousands can be put in order.
        """
        self.open()
        data = bytearray(PLAIN)
        length = looked = 0
        first: int | None = None
        try:
            while True:
                with memoryview(data) as view:
                    count = self.readinto(view[length:])
                length += count
                if not count or length <= PLAIN or length >= 2 * looked:
                    looked = length
                    self.format, first = peek(data, length)
                    if first is not None or (not self.format and length >= 32):
                        break
                if not count or length >= RECORD_MAX:
                    break
                if len(data) - length < 4096:
                    data.extend(bytes(len(data)))
        except PcapError as error:
            self._failed = error
            self.format, first = peek(data, length)
        if self._again:
            self.close()
            self._sniffed = False
            self._failed = None
            self.taken = 0
        else:
            self._kept = memoryview(data)[:length]
        self.offset = 0
        return first

    def _fetch(self, room: memoryview) -> int:
        assert self._raw is not None
        count = self._raw(room)
        self.taken += count
        return count

    def _begin(self, room: memoryview) -> int:
        """First read: a plain capture's goes straight into the caller's memory."""
        count = 0
        while count < 4:
            more = self._fetch(room[count:])
            if not more:
                break
            count += more
        self._sniffed = True
        head = bytes(room[:4])
        if head[:2] == _GZIP:
            self.compression = "gzip"
            decode = _gunzip
        elif head == _ZSTD or (head[1:] == _SKIPPED and 0x50 <= head[0] <= 0x5F):
            self.compression = "zstd"
            decode = _unzstd
        elif head == _LZ4:
            self.compression = "lz4"
            decode = _unlz4
        else:
            return count
        self._pieces = decode(self._compressed(bytes(room[:count])))
        self._unpacked = 0
        return self._decompressed(room)

    def _compressed(self, head: bytes) -> Iterator[bytes]:
        yield head
        room = memoryview(bytearray(PLAIN))
        while count := self._fetch(room):
            yield bytes(room[:count])

    def _decompressed(self, room: memoryview) -> int:
        assert self._pieces is not None
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        count = min(len(self._piece), len(room))
        if self.unpack_max is not None:
            count = min(count, self.unpack_max - self._unpacked)
            if not count:
                raise _BadData(f"{self.compression}: unpacks to more than {self.unpack_max} bytes")
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._unpacked += count
        return count


class PcapWriter:
    """Writes frames as pcapng, times to the nanosecond. Use it in a ``with`` statement.

    Parameters
    ----------
    target
        A path, or a binary file object that is left open.
    linktype
        Of the first interface: 101 IP packets, 1 Ethernet.

    Raises
    ------
    OSError
        When the file cannot be opened, or written.
    """

    def __init__(self, target: Path | BinaryIO, linktype: int = 101) -> None:
        self._owned = isinstance(target, (str, bytes, os.PathLike))
        opened: Any = open(target, "wb") if self._owned else target  # type: ignore[arg-type]  # noqa: SIM115
        self._file = opened
        self._interfaces = 0
        self._first = linktype
        self._file.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))

    def interface(self, name: str = "", linktype: int = 101) -> int:
        """Declare one more interface; its number, from 0."""
        options = b""
        if name:
            word = name.encode()[:255]
            options += struct.pack("<HH", 2, len(word)) + word + bytes(-len(word) % 4)
        options += struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)  # if_tsresol: 10**-9 s
        size = 20 + len(options)
        self._file.write(
            struct.pack("<IIHHI", 1, size, linktype, 0, 0) + options + struct.pack("<I", size)
        )
        self._interfaces += 1
        return self._interfaces - 1

    def write(self, frame: bytes, time_ns: int, interface: int = 0) -> None:
        """Append a frame, `time_ns` since 1970 (or where virtual time begins)."""
        if not self._interfaces:
            self.interface(linktype=self._first)
        if not 0 <= interface < self._interfaces:
            raise ValueError(f"there is no interface {interface}")
        padded = frame + bytes(-len(frame) % 4)
        size = 32 + len(padded)
        head = (6, size, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(frame), len(frame))
        self._file.write(struct.pack("<7I", *head) + padded + struct.pack("<I", size))

    def flush(self) -> None:
        """Let everything be in the file that was written."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """End the file, if it was opened here."""
        if self._file.closed:
            return
        if not self._interfaces:
            self.interface(linktype=self._first)
        self.flush()
        if self._owned:
            self._file.close()

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def inputs(source: Source) -> list[Input]:
    """The inputs that `source` names, none of them opened yet.

    Raises
    ------
    TypeError
        If something is neither a path nor a binary file object.
    ValueError
        If there is none, or if standard input or a file object is named twice.
    """
    anything: Any = source
    path = isinstance(source, (str, bytes, os.PathLike))
    one = path or _readable(source) or not hasattr(source, "__iter__")
    found = [Input(each) for each in ([anything] if one else anything)]
    if not found:
        raise ValueError("no capture given")
    if sum(each.standard_input for each in found) > 1:
        raise ValueError("standard input ('-') can be read only once")
    objects = [id(each._object) for each in found if each._object is not None]
    if len(objects) != len(set(objects)):
        raise ValueError("a file object can be read only once")
    return found


def arrange(found: list[Input], peek: Peek) -> list[Input]:
    """Put inputs in the order of their first packets; those without packets come last.

    One that cannot be opened comes last too: opening it again will tell why.
    """
    times: list[tuple[bool, int]] = []
    for one in found:
        try:
            first = one.first_ns(peek)
        except OSError as error:
            one.missing = error
            first = None
        times.append((first is None, first or 0))
    order = sorted(range(len(found)), key=times.__getitem__)
    return [found[i] for i in order]


def _readable(source: object) -> bool:
    return hasattr(source, "read") or hasattr(source, "readinto")


def _object_reader(file: Any) -> Callable[[memoryview], int]:
    """How to fetch from a file object: what is there, without waiting for a full buffer."""
    into: Any = getattr(file, "readinto1", None) or getattr(file, "readinto", None)

    def readinto(room: memoryview) -> int:
        while (count := into(room)) is None:  # a descriptor that does not block
            import select

            select.select([file], [], [])
        return int(count)

    def read(room: memoryview) -> int:
        data = file.read(len(room))
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"read() must return bytes, not {type(data).__name__}")
        count = len(data)
        if count > len(room):
            raise ValueError(f"read({len(room)}) returned {count} bytes")
        room[:count] = data
        return count

    return readinto if into is not None else read


class _BadData(Exception):
    """Compressed data that cannot be read on."""


def _gunzip(data: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip, any number of members, zero padding between and after them allowed."""
    import zlib

    held = memoryview(b"")
    members = 0
    while True:
        while not held or (held[0] == 0 and members):
            if held:
                held = memoryview(bytes(held).lstrip(b"\0"))
            else:
                more = next(data, None)
                if more is None:
                    return
                held = memoryview(more)
        member = zlib.decompressobj(wbits=31)
        size = 512  # grows: what follows a short member is looked at once more, and must be short
        while not member.eof:
            if not held:
                held = memoryview(next(data, b""))
            piece = held[:size]
            before = member.copy()
            try:
                out = member.decompress(piece, PIECE)
            except zlib.error as error:
                yield from _salvage(before, piece)
                reason = str(error).partition(": ")[2]
                if members and reason == "incorrect header check":
                    reason = "what follows the compressed data is no gzip"
                raise _BadData(f"gzip: {reason}") from error
            if out:
                yield out
            elif not piece and not member.eof:
                raise _BadData("gzip: the compressed data are cut")
            held = held[len(piece) - len(member.unconsumed_tail) - len(member.unused_data) :]
            size = min(2 * size, 16384)
        members += 1


def _salvage(before: Any, piece: memoryview) -> Iterator[bytes]:
    """Decompress what stands before the first bad byte of `piece`, for any cut of the input."""
    import zlib

    while piece:
        half = piece[: (len(piece) + 1) // 2]
        trial = before.copy()
        try:
            out = trial.decompress(half)
        except zlib.error:
            if len(piece) == 1:
                return
            piece = half
        else:
            before = trial
            piece = piece[len(half) :]
            if out:
                yield out


def _unlz4(data: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress lz4 frames (the extra 'lz4')."""
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError as error:
        raise _BadData("lz4 needs an extra: pip install 'tcpcore[lz4]'") from error
    return _frames("lz4", _cut(data, 4096), LZ4FrameDecompressor, RuntimeError)


def _unzstd(data: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress zstd frames (Python 3.14, or the extra 'zstd')."""
    try:
        from compression.zstd import ZstdDecompressor, ZstdError  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        return _frames("zstd", _cut(data, 4096), ZstdDecompressor, ZstdError)
    try:
        import zstandard
    except ImportError as error:
        raise _BadData("zstd needs an extra: pip install 'tcpcore[zstd]'") from error
    # This module does not bound what comes out; 512 bytes hold 128 blocks, 16 MiB, at most.
    return _frames("zstd", _cut(data, 512), _Zstandard, zstandard.ZstdError)


class _Zstandard:
    """The module zstandard behind the standard library's interface of decompressors."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._object = zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(data)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _cut(data: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Cut a stream into pieces of `size`, the same ones whatever the reads were."""
    held = b""
    for more in data:
        held += more
        whole = len(held) - len(held) % size
        for start in range(0, whole, size):
            yield held[start : start + size]
        held = held[whole:]
    if held:
        yield held


def _frames(
    name: str, data: Iterator[bytes], make: Callable[[], Any], bad: type[Exception]
) -> Iterator[bytes]:
    held = next(data, b"")
    while held:
        frame = make()
        while not frame.eof:
            if frame.needs_input and not held:
                held = next(data, b"")
                if not held:
                    raise _BadData(f"{name}: the compressed data are cut")
            piece, held = (held, b"") if frame.needs_input else (b"", held)
            try:
                out = frame.decompress(piece, PIECE)
            except bad as error:
                raise _BadData(f"{name}: {error}") from error
            if out:
                yield out
        held = bytes(frame.unused_data or b"") + held or next(data, b"")
