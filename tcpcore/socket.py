"""A handle into a stack, with the methods, options, exceptions and errno of `socket.socket`.

POSIX, Linux: socket(7), tcp(7), ip(7); Python's library reference, `socket`.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import operator
import os
import socket as _socket
import stat
import struct
import warnings

from tcpcore.sockopt import TCP_CONGESTION, TCP_INFO, tcp_info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, NoReturn

    from tcpcore.stack import Stack

    Buffer = bytes | bytearray | memoryview
    Address = tuple[Any, ...]

__all__ = ["POLLERR", "POLLHUP", "POLLIN", "POLLOUT", "POLLPRI", "POLLRDHUP"]
__all__ += ["Socket", "mapped"]

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLRDHUP = 1, 2, 4, 8, 16, 0x2000

V4MAPPED = bytes(10) + b"\xff\xff"
PIECE = 1 << 18  # bytes handed to the engine at once
CLOSING_STATES = (4, 11, 9)  # FIN-WAIT-1, CLOSING, LAST-ACK: the peer has not everything yet
SYN_SENT, SYN_RECV = 2, 3


def mapped(packed: bytes) -> bytes:
    """An address of 4 or 16 bytes as 16, IPv4 mapped."""
    return V4MAPPED + packed if len(packed) == 4 else packed


def view_of(data: Any) -> memoryview:
    """The bytes of what can be sent."""
    try:
        return memoryview(data).cast("B")
    except TypeError:
        kind = type(data).__name__
        raise TypeError(f"a bytes-like object is required, not '{kind}'") from None


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


def fail(number: int) -> NoReturn:
    """Raise what the system raises for an errno."""
    raise OSError(number, os.strerror(number))


class Socket:
    """A TCP socket of a stack. `Stack.socket` makes one, `accept` too.

    Methods and their arguments are those of `socket.socket`; whatever that raises, this raises.
    It has no descriptor: `fileno` is -1, and `tcpcore.poll` and `tcpcore.select` take the place
    of the `select` module's.
    """

    def __init__(
        self,
        stack: Stack,
        family: int = _socket.AF_INET,
        type: int = _socket.SOCK_STREAM,
        proto: int = 0,
        *,
        handle: int | None = None,
    ) -> None:
        self._handle = -1
        self._stack = stack
        self._net = stack._net
        self._io_refs = 0
        self._closed = False
        self._connecting = False
        self._timeout_ns: int | None = None
        if family not in (_socket.AF_INET, _socket.AF_INET6):
            fail(errno.EAFNOSUPPORT)
        if type & 0xF != _socket.SOCK_STREAM:
            fail(errno.ESOCKTNOSUPPORT)
        if proto not in (0, _socket.IPPROTO_TCP):
            fail(errno.EPROTONOSUPPORT)
        if type & _socket.SOCK_NONBLOCK:
            self._timeout_ns = 0
        self._family = _socket.AddressFamily(family)
        self._proto = proto
        if handle is None:
            with stack._lock:
                handle = self._net.socket(4 if family == _socket.AF_INET else 6)
        self._handle = handle

    # What it is.

    @property
    def stack(self) -> Stack:
        """Whose it is."""
        return self._stack

    @property
    def family(self) -> _socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return self._family

    @property
    def type(self) -> _socket.SocketKind:
        """SOCK_STREAM."""
        return _socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        """As it was given: 0 or IPPROTO_TCP."""
        return self._proto

    @property
    def timeout(self) -> float | None:
        """As `gettimeout` tells it."""
        return self.gettimeout()

    def fileno(self) -> int:
        """-1: the system knows nothing of it."""
        return -1

    @property
    def state(self) -> str:
        """State of the connection, as `tcpcore.columns.STATE_NAMES` names them."""
        from tcpcore.columns import STATE_NAMES

        with self._stack._lock:
            return STATE_NAMES[self._net.state(self._open())]

    def info(self) -> dict[str, int]:
        """What TCP_INFO tells, by Linux's names; times in us, those with `last` in ms."""
        with self._stack._lock:
            made: dict[str, int] = self._net.info(self._open())
            return made

    def __repr__(self) -> str:
        if self._handle < 0:
            return "<tcpcore.Socket [closed]>"
        try:
            ends = f"laddr={self.getsockname()}"
            with self._stack._lock:
                peer = self._net.peername(self._handle)
            if peer[1]:
                ends += f", raddr={self._name(peer)}"
        except OSError:
            ends = "gone"
        return f"<tcpcore.Socket of {self._stack.name}, {ends}>"

    # Time.

    def settimeout(self, value: float | None) -> None:
        """Seconds that a call may take; None: as long as it takes; 0: it never waits."""
        if value is None:
            self._timeout_ns = None
            return
        if not isinstance(value, (int, float)):
            value = operator.index(value)
        seconds = float(value)
        if seconds != seconds:
            raise ValueError("Invalid value NaN (not a number)")
        if seconds < 0:
            raise ValueError("Timeout value out of range")
        if seconds > 9.2e9:
            raise OverflowError("timeout doesn't fit into C timeval")
        self._timeout_ns = -(-int(seconds * 1e12) // 1000) if seconds else 0

    def gettimeout(self) -> float | None:
        """Seconds, or None."""
        return None if self._timeout_ns is None else self._timeout_ns / 1e9

    def setblocking(self, flag: bool) -> None:
        """True: calls wait as long as it takes; False: they never wait."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether calls may wait."""
        return self._timeout_ns != 0

    # Addresses.

    def bind(self, address: Address) -> None:
        """Take an address and port for this end's own."""
        packed, port = self._resolve("bind", address)
        self._now(lambda handle: self._net.bind(handle, packed, port))

    def listen(self, backlog: int | None = None, *, every_port: bool = False) -> None:
        """Let peers connect; at most `backlog` connections wait for `accept`.

        `every_port` is ours: see `Stack.listen`.
        """
        size = min(_socket.SOMAXCONN, 128) if backlog is None else max(backlog, 0)
        self._now(lambda handle: self._net.listen(handle, size, every_port))

    def accept(self) -> tuple[Socket, Address]:
        """The oldest connection that waits: a new socket, and its peer's address."""

        def attempt(handle: int) -> int | None:
            found: int = self._net.accept(handle)
            return _result(found)

        handle = self._wait(attempt)
        made = Socket(self._stack, self._family, self.type, self._proto, handle=handle)
        with self._stack._lock:
            peer = self._name(self._net.endpoints(handle)[1])
        return made, peer

    def connect(self, address: Address) -> None:
        """Open a connection to a peer."""
        found = self._connect(*self._resolve("connect", address))
        if found:
            fail(found)

    def connect_ex(self, address: Address) -> int:
        """Open a connection: 0 or an errno, where `connect` raises an OSError of the network's."""
        where = self._resolve("connect_ex", address)
        try:
            return self._connect(*where)
        except TimeoutError:
            return errno.EAGAIN
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno

    def _connect(self, packed: bytes, port: int) -> int:
        family = self._family
        if family == _socket.AF_INET6 and packed.startswith(V4MAPPED):
            family = _socket.AF_INET
        with self._stack._lock:
            handle = self._open()
            state = self._net.state(handle)
            if self._connecting:
                if state in (SYN_SENT, SYN_RECV):
                    if self._timeout_ns == 0:
                        return errno.EALREADY
                else:
                    return self._connected(handle) or 0
            else:
                made: int = self._net.connect(handle, int(family), packed, port)
                if made:
                    return -made
                self._connecting = True
                self._stack._flush(self._stack.clock.now_ns())
        if self._timeout_ns == 0:
            return errno.EINPROGRESS
        found: int = self._wait(self._connected)
        return found

    def _connected(self, handle: int) -> int | None:
        """How an attempt has ended: 0 or an errno; None while it has not."""
        if self._net.state(handle) in (SYN_SENT, SYN_RECV):
            return None
        _, number = self._net.getsockopt(handle, _socket.SOL_SOCKET, _socket.SO_ERROR)
        self._connecting = False
        if not number and not self._net.peername(handle)[1]:
            number = errno.ECONNABORTED
        if number:
            self._net.abort(handle)
        return int(number)

    def getsockname(self) -> Address:
        """This end's address; of an accepted socket where the peer had sent to."""
        with self._stack._lock:
            return self._name(self._net.endpoints(self._open())[0])

    def getpeername(self) -> Address:
        """The other end's address."""
        with self._stack._lock:
            peer = self._net.peername(self._open())
        if not peer[1]:
            fail(errno.ENOTCONN)
        return self._name(peer)

    def _name(self, end: tuple[int, bytes, int]) -> Address:
        _, packed, port = end
        if self._family == _socket.AF_INET:
            return _socket.inet_ntop(_socket.AF_INET, packed[12:]), port
        return _socket.inet_ntop(_socket.AF_INET6, packed), port, 0, 0

    def _resolve(self, call: str, address: Address) -> tuple[bytes, int]:
        """16 bytes and a port; complaints are the standard library's."""
        family = "AF_INET" if self._family == _socket.AF_INET else "AF_INET6"
        if not isinstance(address, tuple):
            raise TypeError(
                f"{call}(): {family} address must be tuple, not {type(address).__name__}"
            )
        most = 2 if family == "AF_INET" else 4
        if not 2 <= len(address) <= most:
            pair = (
                "a pair (host, port)"
                if most == 2
                else "a tuple (host, port[, flowinfo[, scopeid]])"
            )
            raise TypeError(f"{family} address must be {pair}")
        host, port = address[:2]
        if not isinstance(port, int):
            raise TypeError(f"'{type(port).__name__}' object cannot be interpreted as an integer")
        if not isinstance(host, (str, bytes, bytearray)):
            raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
        packed = self._lookup(host if isinstance(host, str) else bytes(host).decode("ascii"))
        if not 0 <= port <= 65535:
            raise OverflowError(f"{call}(): port must be 0-65535.")
        return packed, port

    def _lookup(self, host: str) -> bytes:
        four = self._family == _socket.AF_INET
        host = self._stack.hosts.get(host, host)
        if not host:
            return mapped(bytes(4)) if four else bytes(16)
        if host == "<broadcast>" and four:
            return mapped(b"\xff\xff\xff\xff")
        if host == "localhost":
            host = "127.0.0.1" if four else "::1"
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            found = None
        if found is None or (found.version == 6 and four):
            kind = _socket.EAI_NONAME if found is None else -9
            words = "Name or service not known"
            if found is not None:
                words = "Address family for hostname not supported"
            raise _socket.gaierror(kind, words)
        return mapped(found.packed)

    # Data.

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Queue data: how many bytes were taken. Without a timeout all of them are."""
        view = view_of(data)
        sent = self._send(view, flags, self._timeout_ns)
        while self._timeout_ns is None and not flags & _socket.MSG_DONTWAIT and sent < len(view):
            try:
                sent += self._send(view[sent:], flags, None)
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
            sent += self._send(view[sent:], flags, left_ns)
            if sent >= len(view):
                return

    def _send(self, view: memoryview, flags: int, timeout_ns: int | None) -> int:
        def attempt(handle: int) -> int | None:
            piece = bytes(view[:PIECE])
            more = flags | _socket.MSG_MORE if len(view) > PIECE else flags
            found: int = self._net.sendmsg(handle, piece, more & ~_socket.MSG_DONTWAIT)
            return _result(found)

        found: int = self._wait(attempt, flags, timeout_ns)
        return found

    def sendto(self, data: Buffer, *rest: Any) -> int:
        """`send`: of a stream the address is of no meaning."""
        if not 1 <= len(rest) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(rest)} given)")
        return self.send(data, rest[0] if len(rest) == 2 else 0)

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Address | None = None,
    ) -> int:
        """`send` of several buffers, one after the other; there is no ancillary data to send."""
        if list(ancdata):
            fail(errno.EINVAL)
        return self.send(b"".join(view_of(one) for one in buffers), flags)

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
        data = self._recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def recvfrom_into(
        self, buffer: Any, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Address | None]:
        """`recv_into`; a stream tells no address."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Address | None]:
        """(data, ancillary data, flags, address): of a stream only the first tells anything."""
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        return self._recv(bufsize, flags), [], flags & _socket.MSG_OOB, None

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Address | None]:
        """`recvmsg` into buffers, one after the other."""
        views = [room_of("recvmsg_into", one) for one in buffers]
        data = self._recv(sum(len(view) for view in views), flags)
        at = 0
        for view in views:
            piece = data[at : at + len(view)]
            view[: len(piece)] = piece
            at += len(piece)
        return len(data), [], flags & _socket.MSG_OOB, None

    def _recv(self, size: int, flags: int) -> bytes:
        if not size:
            return b""
        wanted = flags & ~(_socket.MSG_DONTWAIT | _socket.MSG_WAITALL)

        def attempt(handle: int) -> bytes | None:
            found, data = self._net.recvmsg(handle, size, wanted)
            return None if _result(found) is None else data

        if not flags & _socket.MSG_WAITALL or flags & _socket.MSG_PEEK or not self.getblocking():
            found: bytes = self._wait(attempt, flags)
            return found
        data = bytearray()
        whole = size
        while size:
            try:
                piece: bytes = self._wait(attempt, flags)
            except OSError:
                if data:
                    break
                raise
            data += piece
            size = whole - len(data)
            if not piece:
                break
        return bytes(data)

    # The end.

    def shutdown(self, how: int) -> None:
        """SHUT_RD, SHUT_WR or SHUT_RDWR."""
        self._now(lambda handle: self._net.shutdown(handle, how))

    def close(self) -> None:
        """Let go; what was sent still goes, and the peer is told. Files of `makefile` keep it."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _real_close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        stack, net = self._stack, self._net
        with stack._lock:
            linger, seconds = net.linger(handle)
            net.close(handle)
            stack._flush(stack.clock.now_ns())
        if linger and seconds and self._timeout_ns != 0:

            def done() -> bool | None:
                try:
                    return None if net.state(handle) in CLOSING_STATES else True
                except OSError:
                    return True

            stack.wait(done, seconds * 1_000_000_000)

    def detach(self) -> int:
        """The engine's handle, for `Socket(stack, handle=…)`; this object is closed."""
        handle, self._handle = self._handle, -1
        self._closed = True
        return handle

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", -1)
        if handle >= 0:
            self._handle = -1
            self._stack._garbage.append(handle)  # the engine may be in the midst of something
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file object, as `socket.socket.makefile` has it."""
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writes = "w" in mode
        reads = "r" in mode or not writes
        raw: Any = _socket.SocketIO(self, "r" * reads + "w" * writes)  # type: ignore[arg-type]
        self._io_refs += 1
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        if not size:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw
        made: Any
        if reads and writes:
            made = io.BufferedRWPair(raw, raw, size)
        elif reads:
            made = io.BufferedReader(raw, size)
        else:
            made = io.BufferedWriter(raw, size)
        if "b" in mode:
            return made
        text: Any = io.TextIOWrapper(made, encoding, errors, newline)
        text.mode = mode
        return text

    def _decref_socketios(self) -> None:
        self._io_refs = max(self._io_refs - 1, 0)
        if self._closed:
            self.close()

    # Options.

    def setsockopt(
        self, level: int, optname: int, value: int | Buffer | None, optlen: int | None = None
    ) -> None:
        """An option by its number: an int, or bytes as C has them."""
        handle = self._open()
        linger = level == _socket.SOL_SOCKET and optname == _socket.SO_LINGER
        if value is None and optlen is not None:
            fail(errno.EFAULT if optlen >= 4 else errno.EINVAL)
        with self._stack._lock:
            if isinstance(value, int):
                if not -(1 << 31) <= value < 1 << 31:
                    raise TypeError("a bytes-like object is required, not 'int'")
                if linger or (level, optname) == TCP_CONGESTION:
                    fail(errno.EINVAL if linger else errno.ENOENT)
                made: int = self._net.setsockopt(handle, level, optname, value)
            else:
                data = bytes(view_of(value))
                if (level, optname) == TCP_CONGESTION:
                    word = data.split(b"\0")[0].decode("ascii", "replace")
                    made = self._net.set_congestion(handle, word) if data else -errno.EINVAL
                elif linger:
                    if len(data) < 8:
                        fail(errno.EINVAL)
                    on, seconds = struct.unpack_from("ii", data)
                    made = self._net.set_linger(handle, bool(on), seconds)
                elif len(data) < 4:
                    made = -errno.EINVAL
                else:
                    made = self._net.setsockopt(
                        handle, level, optname, struct.unpack_from("i", data)[0]
                    )
            self._stack._flush(self._stack.clock.now_ns())
        if made:
            fail(-made)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """An option: an int, or `buflen` bytes at most as C has them."""
        handle = self._open()
        if not 0 <= buflen <= 1024:
            raise OSError("getsockopt buflen out of range")
        with self._stack._lock:
            if level == _socket.SOL_SOCKET and optname == _socket.SO_LINGER:
                on, seconds = self._net.linger(handle)
                data = struct.pack("ii", on, seconds)
            elif (level, optname) == TCP_CONGESTION:
                data = self._net.congestion(handle).encode().ljust(16, b"\0")
            elif (level, optname) == TCP_INFO:
                data = tcp_info(self._net.info(handle))
            else:
                failed, value = self._net.getsockopt(handle, level, optname)
                if failed:
                    fail(-failed)
                data = struct.pack("I", value & 0xFFFFFFFF)
        if buflen:
            return data[:buflen]
        number: int = struct.unpack_from("i", data)[0]
        return number

    # Readiness.

    def poll(self) -> int:
        """What it is ready for now: the bits of poll(2), POLLIN and so on."""
        with self._stack._lock:
            handle = self._open()
            self._stack._pump(self._stack.clock.now_ns())
            bits: int = self._net.poll(handle)
            return bits

    # How calls reach the engine.

    def _open(self) -> int:
        if self._handle < 0:
            fail(errno.EBADF)
        return self._handle

    def _now(self, call: Callable[[int], int]) -> None:
        """A call that never waits."""
        with self._stack._lock:
            found = call(self._open())
            self._stack._flush(self._stack.clock.now_ns())
        if found < 0:
            fail(-found)

    def _wait(
        self, attempt: Callable[[int], Any], flags: int = 0, timeout_ns: int | None = -1
    ) -> Any:
        """A call that waits as the socket is told to; `attempt` gives None to be asked again."""
        if timeout_ns == -1:
            timeout_ns = self._timeout_ns
        if flags & _socket.MSG_DONTWAIT:
            timeout_ns = 0
        self._open()
        value = self._stack.wait(lambda: attempt(self._open()), timeout_ns)
        if value is not None:
            return value
        if timeout_ns == 0:
            fail(errno.EAGAIN)
        raise TimeoutError("timed out")


def _result(found: int) -> int | None:
    """What the engine answers: None for EAGAIN; errors are raised."""
    if found == -errno.EAGAIN:
        return None
    if found < 0:
        fail(-found)
    return found
