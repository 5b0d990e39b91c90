"""A handle into a stack, with the methods, options, exceptions and errno of `socket.socket`.

POSIX, Linux: socket(7), tcp(7), ip(7); Python's library reference, `socket`.
"""

from __future__ import annotations

import errno
import functools
import io
import ipaddress
import operator
import socket as _socket
import warnings

from tcpcore.sockopt import Options, inherited
from tcpcore.transfer import SO_RCVTIMEO, SO_SNDTIMEO, fail, mapped, result_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

    from tcpcore.stack import Stack

    Buffer = bytes | bytearray | memoryview
    Address = tuple[Any, ...]

__all__ = ["POLLERR", "POLLHUP", "POLLIN", "POLLOUT", "POLLPRI", "POLLRDHUP"]
__all__ += ["Socket"]

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLRDHUP = 1, 2, 4, 8, 16, 0x2000

CLOSING_STATES = (4, 11, 9)  # FIN-WAIT-1, CLOSING, LAST-ACK: the peer has not everything yet
SYN_SENT, SYN_RECV = 2, 3
_FAMILIES: dict[int, _socket.AddressFamily] = {
    one: one for one in (_socket.AF_INET, _socket.AF_INET6)
}


@functools.lru_cache(maxsize=256)
def parsed(host: str) -> bytes | None:
    """The 4 or 16 bytes of an address in words; None if it is none."""
    try:
        return ipaddress.ip_address(host).packed
    except ValueError:
        return None


class Socket(Options):
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
        self._kept = {}
        self._net = stack._net
        self._io_refs = 0
        self._closed = False
        self._connecting = False
        self._timeout_ns: int | None = None
        if family not in (_socket.AF_INET, _socket.AF_INET6):
            fail(errno.EAFNOSUPPORT)
        if proto not in (0, _socket.IPPROTO_TCP):
            fail(errno.EPROTONOSUPPORT)
        if type is not _socket.SOCK_STREAM:
            if type & 0xF != _socket.SOCK_STREAM:
                fail(errno.ESOCKTNOSUPPORT)
            if type & _socket.SOCK_NONBLOCK:
                self._timeout_ns = 0
        self._family = _FAMILIES[family]
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

    def get_inheritable(self) -> bool:
        """False: no other program can have it."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """False is what it is; True is EBADF, as there is no descriptor to inherit."""
        if inheritable:
            fail(errno.EBADF)

    @property
    def state(self) -> str:
        """State of the connection, as `tcpcore.columns.STATE_NAMES` names them."""
        from tcpcore.columns import STATE_NAMES

        with self._stack._lock:
            return STATE_NAMES[self._net.state(self._open())]

    def info(self) -> dict[str, int]:
        """What TCP_INFO tells, by Linux's names; times in us, those with `last` in ms."""
        with self._stack._lock:
            self._stack._sync()
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
            value = operator.index(value)  # type: ignore[unreachable]
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

    # Addresses.

    def bind(self, address: Address) -> None:
        """Take an address and port for this end's own."""
        packed, port = self._resolve("bind", address)
        self._now(lambda handle: self._net.bind(handle, packed, port))

    def listen(self, backlog: int | None = None, *, every_port: bool = False) -> None:
        """Let peers connect; at most `backlog` connections wait for `accept`.

        `every_port` is ours: see `Stack.listen`.
        """
        size = min(_socket.SOMAXCONN, 128)
        if backlog is not None:
            size = max(operator.index(backlog), 0)
        self._now(lambda handle: self._net.listen(handle, size, every_port))

    def accept(self) -> tuple[Socket, Address]:
        """The oldest connection that waits: a new socket, and its peer's address."""

        def attempt(handle: int) -> int | None:
            found: int = self._net.accept(handle)
            return result_of(found)

        handle = self._at_once(attempt)
        if handle is None:
            handle = self._wait(attempt, end_ns=self._end_ns(SO_RCVTIMEO))
        made = Socket(self._stack, self._family, proto=self._proto, handle=handle)
        if self._kept:
            made._kept = inherited(self._kept)
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
        late = errno.EALREADY if self._connecting else errno.EINPROGRESS
        with self._stack._lock:
            handle = self._open()
            self._stack._sync()
            state = self._net.state(handle)
            if self._connecting:
                if state in (SYN_SENT, SYN_RECV):
                    if self._timeout_ns == 0:
                        return errno.EALREADY
                else:
                    return self._connected(handle) or 0
            else:
                made: int = self._net.connect(handle, int(self._family), packed, port)
                if made:
                    return -made
                self._connecting = True
                self._stack._flush(self._stack.clock.now_ns())
                if self._timeout_ns != 0 and self._stack._peer is not None:
                    ended = self._connected(handle)  # with a host beside this one it is over
                    if ended is not None:
                        return ended
        if self._timeout_ns == 0:
            return errno.EINPROGRESS
        end_ns = self._end_ns(SO_SNDTIMEO)
        try:
            found: int = self._wait(self._connected, end_ns=end_ns)
        except BlockingIOError:
            return late
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
        if "\0" in str(host):
            raise TypeError("host name must not contain null character")
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
        found = parsed(host)
        if found is None or (len(found) == 16 and four):
            kind = _socket.EAI_NONAME if found is None else -9
            words = "Name or service not known"
            if found is not None:
                words = "Address family for hostname not supported"
            raise _socket.gaierror(kind, words)
        return mapped(found)

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
            if stack._unshare(handle):
                return  # another one has it still
            stack._sync()
            linger, seconds = net.linger(handle)
            net.close(handle)
            stack._flush(stack.clock.now_ns())
            stack._stir()
        if linger and seconds and self._timeout_ns != 0:

            def done() -> bool | None:
                try:
                    return None if net.state(handle) in CLOSING_STATES else True
                except OSError:
                    return True

            stack.wait(done, seconds * 1_000_000_000)

    def detach(self) -> int:
        """The engine's handle, for `Socket(stack, handle=…)`; this object is closed."""
        with self._stack._lock:
            handle, self._handle = self._handle, -1
            self._closed = True
            self._stack._stir()
        return handle

    def dup(self) -> Socket:
        """Another object of the same connection, which ends when the last of them is closed."""
        with self._stack._lock:
            handle = self._open()
            self._stack._shared[handle] = self._stack._shared.get(handle, 1) + 1
        made = Socket(self._stack, self._family, self.type, self._proto, handle=handle)
        made._timeout_ns = self._timeout_ns
        made._kept = self._kept
        return made

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self,
        kind: Any,
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
            words = f"unclosed <tcpcore.Socket of {self._stack.name}, handle {handle}>"
            warnings.warn(words, ResourceWarning, source=self, stacklevel=2)

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
            self._stack._sync()
            found = call(self._open())
            self._stack._flush(self._stack.clock.now_ns())
            self._stack._stir()
        if found < 0:
            fail(-found)
