"""Data through a socket, in all the ways that `socket.socket` has.

POSIX, Linux: send(2), recv(2); Python's library reference, `socket`.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import socket as _socket
import stat
import sys

from tcpcore import cmsg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from tcpcore.stack import Stack

    Buffer = bytes | bytearray | memoryview
    Address = tuple[Any, ...]

V4MAPPED = bytes(10) + b"\xff\xff"
MSG_ZEROCOPY = 0x4000000
SIOCATMARK = 0x8905
SO_RCVTIMEO, SO_SNDTIMEO = (_socket.SOL_SOCKET, 20), (_socket.SOL_SOCKET, 21)
TCP_INQ = (_socket.IPPROTO_TCP, 36)
PIECE = 1 << 18  # bytes handed to the engine at once
ANSWER = 4 | 8 | 16  # POLLOUT, POLLERR, POLLHUP: a call to send has an answer


def mapped(packed: bytes) -> bytes:
    """An address of 4 or 16 bytes as 16, IPv4 mapped."""
    return V4MAPPED + packed if len(packed) == 4 else packed


def fail(number: int) -> NoReturn:
    """Raise what the system raises for an errno."""
    raise OSError(number, os.strerror(number))


def view_of(data: Any) -> memoryview:
    """The bytes of what can be sent."""
    try:
        view = memoryview(data)
    except TypeError:
        kind = type(data).__name__
        raise TypeError(f"a bytes-like object is required, not '{kind}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B")


def room_of(call: str, buffer: Any) -> memoryview:
    """The bytes of what can be received into."""
    try:
        view = memoryview(buffer).cast("B")
    except TypeError:
        view = None
    if view is None or view.readonly:
        kind = "None" if buffer is None else type(buffer).__name__
        raise TypeError(f"{call}() argument 1 must be read-write bytes-like object, not {kind}")
    return view


def result_of(found: int) -> int | None:
    """What the engine answers: None for EAGAIN; errors are raised."""
    if found == -errno.EAGAIN:
        return None
    if found < 0:
        fail(-found)
    return found


class Transfer:
    """Sending and receiving; `Socket` adds the rest."""

    _net: Any
    _handle: int
    _stack: Stack
    _kept: dict[tuple[int, int], int]
    _timeout_ns: int | None

    def getblocking(self) -> bool:
        """Whether calls may wait."""
        return self._timeout_ns != 0

    def _open(self) -> int:
        raise NotImplementedError

    def _wait(
        self,
        attempt: Callable[[int], Any],
        flags: int = 0,
        timeout_ns: int | None = -1,
        end_ns: int | None = None,
    ) -> Any:
        """A call that waits as the socket is told to; `attempt` gives None to be asked again.

        Where it waits as long as it takes, `end_ns` is when that is over: EAGAIN, as without
        waiting.
        """
        if timeout_ns == -1:
            timeout_ns = self._timeout_ns
        if flags & _socket.MSG_DONTWAIT:
            timeout_ns = 0
        if timeout_ns is None and end_ns is not None:
            left_ns = max(end_ns - self._stack.clock.now_ns(), 0)
            self._open()
            value = self._stack.wait(lambda: attempt(self._open()), left_ns)
            if value is None:
                fail(errno.EAGAIN)
            return value
        self._open()
        value = self._stack.wait(lambda: attempt(self._open()), timeout_ns)
        if value is not None:
            return value
        if timeout_ns == 0:
            fail(errno.EAGAIN)
        raise TimeoutError("timed out")

    def _end_ns(self, option: tuple[int, int]) -> int | None:
        """When SO_RCVTIMEO or SO_SNDTIMEO ends a call that begins now; None: never.

        It counts where there is no timeout of Python's, as with the system's sockets.
        """
        span_ns = self._kept.get(option) if self._timeout_ns is None else None
        return None if span_ns is None else self._stack.clock.now_ns() + span_ns

    def _at_once(self, attempt: Callable[[int], Any]) -> Any:
        """What an attempt gives where the peer is a host beside this one, and nothing is to wait
        for; None elsewhere."""
        stack = self._stack
        if stack._peer is None or self._handle < 0:
            return None
        with stack._lock:
            stack._alive()
            peer = stack._peer
            if peer is None:
                return None
            net, now = self._net, stack.clock.now_ns()
            net.advance(now)
            value = attempt(self._handle)
            net.exchange(peer, now)
        return value

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Queue data: how many bytes were taken. Without a timeout all of them are."""
        return self._send_all(data, flags, -1)

    def _send_all(self, data: Buffer, flags: int, tsflags: int) -> int:
        stack = self._stack
        sent = 0
        if stack._peer is not None and type(data) is bytes and not flags and tsflags < 0:
            with stack._lock:
                peer, handle = stack._peer, self._handle
                if peer is not None and handle >= 0:
                    sent = self._net.send_beside(handle, data, peer, stack.clock.now_ns())
            if sent == len(data):
                return sent
            sent = result_of(sent) or 0
            if sent and self._timeout_ns is not None:
                return sent
        view = view_of(data)
        end_ns = self._end_ns(SO_SNDTIMEO)
        if not sent:
            sent = self._send(view, flags, self._timeout_ns, tsflags, end_ns)
        while self._timeout_ns is None and not flags & _socket.MSG_DONTWAIT and sent < len(view):
            try:
                sent += self._send(view[sent:], flags, None, tsflags, end_ns)
            except OSError:
                if sent:
                    break
                raise
        return sent

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Queue all data; the timeout is for the whole of it."""
        view = view_of(data)
        end_ns = None
        if self._timeout_ns:
            end_ns = self._stack.clock.now_ns() + self._timeout_ns
        sent = 0
        while True:
            left_ns = self._timeout_ns
            if end_ns is not None:
                left_ns = end_ns - self._stack.clock.now_ns()
                if left_ns <= 0:
                    raise TimeoutError("timed out")
            if SO_SNDTIMEO in self._kept:
                sent += self._send_all(view[sent:], flags, -1)
            else:
                sent += self._send(view[sent:], flags, left_ns)
            if sent >= len(view):
                return

    def _send(
        self,
        view: memoryview,
        flags: int,
        timeout_ns: int | None,
        tsflags: int = -1,
        end_ns: int | None = None,
    ) -> int:
        full = False
        most = len(view) if flags & MSG_ZEROCOPY else PIECE  # which is told of as one
        flags &= ~_socket.MSG_WAITALL
        if timeout_ns is None and not flags & _socket.MSG_DONTWAIT:
            flags |= _socket.MSG_WAITALL  # the rest follows

        def attempt(handle: int) -> int | None:
            nonlocal full
            if full and not self._net.poll(handle) & ANSWER:
                return None  # who found no room is woken when a third of the buffer is free
            full = True
            whole = type(view.obj) is bytes and len(view) == len(view.obj) <= most
            piece = view.obj if whole else bytes(view[:most])  # of bytes no copy is made
            more = flags | _socket.MSG_MORE if len(view) > most else flags
            found: int = self._net.sendmsg(handle, piece, more & ~_socket.MSG_DONTWAIT, tsflags)
            return result_of(found)

        found: int = self._wait(attempt, flags, timeout_ns, end_ns)
        return found

    def sendto(self, data: Buffer, *rest: Any) -> int:
        """`send`: of a stream the address is of no meaning."""
        if not 1 <= len(rest) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(rest)} given)")
        if not isinstance(rest[-1], tuple):
            kind = type(rest[-1]).__name__
            raise TypeError(f"sendto(): AF_INET address must be tuple, not {kind}")
        return self.send(data, rest[0] if len(rest) == 2 else 0)

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Address | None = None,
    ) -> int:
        """`send` of several buffers, one after the other.

        Ancillary data may be SO_TIMESTAMPING of SOL_SOCKET: which stamps this write asks for.
        """
        tsflags = -1
        for item in ancdata:
            if not isinstance(item, tuple) or len(item) != 3:
                raise TypeError("[sendmsg() ancillary data items] must be sequences of length 3")
            value = bytes(view_of(item[2]))
            if item[:2] != (_socket.SOL_SOCKET, cmsg.SO_TIMESTAMPING) or len(value) != 4:
                fail(errno.EINVAL)
            tsflags = int.from_bytes(value, sys.byteorder)
        return self._send_all(b"".join(view_of(one) for one in buffers), flags, tsflags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send what is left of a file, or `count` bytes of it; how many that were."""
        if self._timeout_ns == 0:
            raise ValueError("non-blocking sockets are not supported")
        if count is not None and count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
        try:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except (AttributeError, io.UnsupportedOperation):
            regular = False
        if offset or regular:  # of what has a descriptor the offset counts from its start
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            piece = file.read(PIECE if count is None else min(PIECE, count - sent))
            if not piece:
                break
            self.sendall(piece)
            sent += len(piece)
        return sent

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Data as they come, at most so many bytes; none: the peer has sent all."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        stack = self._stack
        if stack._peer is not None and bufsize and not flags:
            with stack._lock:
                peer, handle = stack._peer, self._handle
                found = None
                if peer is not None and handle >= 0:
                    found = self._net.recv_beside(handle, bufsize, peer, stack.clock.now_ns())
            if found is not None and (not found[0] or result_of(found[0]) is not None):
                data: bytes = found[1]
                return data
        return self._recv(bufsize, flags)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Address | None]:
        """`recv`; a stream tells no address."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        return self._recv(bufsize, flags), None

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """`recv` into a buffer; how many bytes that were."""
        view = room_of("recv_into", buffer)
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        if nbytes > len(view):
            raise ValueError("buffer too small for requested bytes")
        view = view[: nbytes or len(view)]
        if flags or not len(view):
            data = self._recv(len(view), flags)
            if not flags & cmsg.MSG_TRUNC or flags & cmsg.MSG_ERRQUEUE:
                view[: len(data)] = data
            return len(data)

        def attempt(handle: int) -> int | None:
            return result_of(self._net.recv_into(handle, view))

        found: int | None = self._at_once(attempt)
        if found is None:
            found = self._wait(attempt, end_ns=self._end_ns(SO_RCVTIMEO))
        return found

    def recvfrom_into(
        self, buffer: Any, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Address | None]:
        """`recv_into`; a stream tells no address."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Address | None]:
        """(data, ancillary data, flags, address); a stream tells no address.

        With MSG_ERRQUEUE it is the oldest message of the error queue, or BlockingIOError.
        """
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        return *self._recvmsg(bufsize, ancbufsize, flags), None

    def _recvmsg(
        self, size: int, room: int, flags: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        told = int(flags & _socket.MSG_OOB)
        if flags & cmsg.MSG_ERRQUEUE:
            data, messages = self._recv_error()
            told = cmsg.MSG_ERRQUEUE | (cmsg.MSG_TRUNC if len(data) > size else 0)
            data = data[:size]
        else:
            data = self._recv(size, flags)
            with self._stack._lock:
                messages = cmsg.of_data(self._net, self._open(), bool(self._kept.get(TCP_INQ)))
        fitting, cut = cmsg.fit(messages, room)
        return data, fitting, told | cut

    def _recv_error(self) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        """The oldest message of the error queue; nobody ever waits for one."""
        handle = self._open()
        with self._stack._lock:
            self._stack._sync()
            found = cmsg.of_error(self._net, handle, self._stack.clock.now_ns())
        if found is None:
            fail(errno.EAGAIN)
        return found

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Address | None]:
        """`recvmsg` into buffers, one after the other."""
        views = [room_of("recvmsg_into", one) for one in buffers]
        if ancbufsize < 0:
            raise ValueError("invalid ancillary data buffer length")
        size = sum(len(view) for view in views)
        data, messages, told = self._recvmsg(size, ancbufsize, flags)
        at = 0
        for view in views:
            piece = data[at : at + len(view)]
            if not flags & cmsg.MSG_TRUNC or flags & cmsg.MSG_ERRQUEUE:
                view[: len(piece)] = piece
            at += len(piece)
        return len(data), messages, told, None

    def _recv(self, size: int, flags: int) -> bytes:
        size, flags = operator.index(size), operator.index(flags)
        if flags & cmsg.MSG_ERRQUEUE:
            return self._recv_error()[0][:size]
        if not size:
            return b""
        wanted = flags & ~(_socket.MSG_DONTWAIT | _socket.MSG_WAITALL)

        def attempt(handle: int) -> bytes | None:
            found, data = self._net.recvmsg(handle, size, wanted)
            return None if result_of(found) is None else data

        end_ns = self._end_ns(SO_RCVTIMEO)
        waits = self.getblocking() and not flags & _socket.MSG_DONTWAIT
        if not flags & _socket.MSG_WAITALL or not waits:
            found: bytes = self._wait(attempt, flags, end_ns=end_ns)
            return found
        if flags & _socket.MSG_PEEK:
            wanted |= _socket.MSG_WAITALL  # None until all of it is there
            try:
                seen: bytes = self._wait(attempt, end_ns=end_ns)
            except (BlockingIOError, TimeoutError):
                wanted &= ~_socket.MSG_WAITALL
                with self._stack._lock:
                    some = attempt(self._open())
                if some is None:
                    raise
                seen = some
            return seen
        data = bytearray()
        whole = size
        while size:
            try:
                piece: bytes = self._wait(attempt, flags, end_ns=end_ns)
            except OSError:
                if data:
                    break
                raise
            data += piece
            size = whole - len(data)
            if not piece or self._net.ioctl(self._open(), SIOCATMARK)[1]:
                break  # urgent data are read to, not over
        return bytes(data)
