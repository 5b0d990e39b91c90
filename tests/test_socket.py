"""Each method of a socket against the standard library's own over loopback: results and errno.

A case is a function of an `api`, the system's or a stack's, that returns what it saw; both have
to see the same.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tcpcore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that we are like")

HOST, HOST6 = "127.0.0.1", "::1"
Seen = list[Any]
CASES: dict[str, Callable[[Any], Any]] = {}


def case(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[function.__name__] = function
    return function


class Api:
    """What both have: sockets, a way to wait for what is under way, readiness."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def keep(self, sock: Any) -> Any:
        self.made.append(sock)
        return sock

    def listener(self, **options: Any) -> Any:
        sock = self.socket(**options)
        sock.bind((HOST6 if options.get("family") == socket.AF_INET6 else HOST, 0))
        sock.listen()
        return sock

    def pair(self) -> tuple[Any, Any]:
        listener = self.listener()
        one = self.socket()
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        return one, self.keep(other)

    def close(self) -> None:
        for sock in self.made:
            sock.close()


class System(Api):
    select = staticmethod(select.select)

    def socket(self, family: int = socket.AF_INET, *args: int) -> Any:
        return self.keep(socket.socket(family, *(args or (socket.SOCK_STREAM,))))

    def settle(self) -> None:
        time.sleep(0.01)

    def poll(self, sock: Any, mask: int = 0x2007) -> int:
        poller = select.poll()
        poller.register(sock, mask)
        return sum(bits for _, bits in poller.poll(0))


class Ours(Api):
    select = staticmethod(tcpcore.select)

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.stack = tcpcore.Stack([HOST + "/8", HOST6, "10.9.9.9"], seed=1, engine=engine)

    def socket(self, family: int = socket.AF_INET, *args: int) -> Any:
        return self.keep(self.stack.socket(family, *args))

    def settle(self) -> None:
        self.stack.clock.advance(0.01)

    def poll(self, sock: Any, mask: int = 0x2007) -> int:
        poller = tcpcore.poll()
        poller.register(sock, mask)
        return sum(bits for _, bits in poller.poll(0))

    def close(self) -> None:
        super().close()
        self.stack.close()


def of(call: Callable[[], Any]) -> Any:
    """What a call gives or raises, in words that can be compared."""
    try:
        value = call()
    except Exception as error:
        number = getattr(error, "errno", None)
        return type(error).__name__, errno.errorcode.get(number or 0), str(error)
    return value


def ends(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """An address without its port, which is random."""
    return (address[0], address[1] > 0, *address[2:])


# ---- the names of a socket ----------------------------------------------------------------------


@case
def fresh(api: Any) -> Seen:
    sock = api.socket()
    return [
        sock.family,
        sock.type,
        sock.proto,
        sock.timeout,
        sock.getsockname(),
        of(sock.getpeername),
        of(sock.accept),
        of(lambda: sock.recv(1)),
        of(lambda: sock.recv(0)),
        of(lambda: sock.send(b"x")),
        of(lambda: sock.sendall(b"x")),
        of(lambda: sock.shutdown(socket.SHUT_RDWR)),
        of(lambda: sock.shutdown(7)),
        api.poll(sock),
    ]


@case
def kinds(api: Any) -> Seen:
    return [
        of(lambda: api.socket(socket.AF_INET, socket.SOCK_STREAM, 17)),
        of(lambda: api.socket(socket.AF_INET, socket.SOCK_STREAM, 6).proto),
        of(lambda: api.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).timeout),
    ]


@case
def closed(api: Any) -> Seen:
    sock = api.socket()
    sock.close()
    sock.close()
    address = (HOST, 9)
    return [
        sock.fileno(),
        of(lambda: sock.recv(1)),
        of(lambda: sock.send(b"x")),
        of(lambda: sock.bind(address)),
        of(lambda: sock.listen()),
        of(sock.accept),
        of(lambda: sock.connect(address)),
        of(lambda: sock.connect_ex(address)),
        of(sock.getsockname),
        of(sock.getpeername),
        of(lambda: sock.shutdown(2)),
        of(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)),
        of(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)),
        of(lambda: api.select([sock], [], [], 0)),
    ]


@case
def timeouts(api: Any) -> Seen:
    sock = api.socket()
    seen: Seen = [sock.gettimeout(), sock.getblocking()]
    for value in (0, 0.0, 1.5, 1e-9, None):
        sock.settimeout(value)
        seen += [sock.gettimeout(), sock.getblocking()]
    for flag in (False, True):
        sock.setblocking(flag)
        seen += [sock.gettimeout(), sock.getblocking()]
    for bad in (-1, "x", float("nan")):
        seen.append(of(lambda bad=bad: sock.settimeout(bad)))
    return seen


@case
def bad_addresses(api: Any) -> Seen:
    sock = api.socket()
    six = api.socket(socket.AF_INET6)
    seen: Seen = []
    for address in (
        "x", (HOST,), (HOST, 1, 2), (HOST, "80"), (HOST, 65536), (HOST, -1), (5, 80),
        [HOST, 80], None, ("::1", 80), ("no.such.name.invalid", 80),
    ):  # fmt: skip
        for call in (sock.bind, sock.connect, sock.connect_ex):
            found = of(lambda call=call, address=address: call(address))
            # What a resolver says of a name depends on the machine.
            seen.append(found[0] if isinstance(found, tuple) and found[0] == "gaierror" else found)
    for address in ((HOST6,), (HOST6, 1, 2, 3, 4), (HOST6, 65536), (HOST6, 70000, 0, 0)):
        seen.append(of(lambda address=address: six.connect(address)))
    return seen


# ---- bind and listen ----------------------------------------------------------------------------


@case
def binding(api: Any) -> Seen:
    one, two = api.socket(), api.socket()
    seen: Seen = [of(lambda: one.bind((HOST, 0))), ends(one.getsockname())]
    port = one.getsockname()[1]
    seen += [
        of(lambda: one.bind((HOST, 0))),
        of(lambda: two.bind((HOST, port))),
        of(lambda: two.bind(("127.0.0.2", port))),
        of(lambda: api.socket().bind(("", port))),
        of(lambda: api.socket().bind(("192.0.2.77", 0))),
        of(lambda: api.socket().bind(("localhost", 0))),
        of(lambda: api.socket(socket.AF_INET6).bind(("::1", 0))),
        of(lambda: api.socket(socket.AF_INET6).bind(("2001:db8::1", 0))),
    ]
    return seen


@case
def reuse(api: Any) -> Seen:
    seen: Seen = []
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        one, two = api.socket(), api.socket()
        for sock in (one, two):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind((HOST, 0))
        port = one.getsockname()[1]
        seen.append(of(lambda two=two, port=port: two.bind((HOST, port))))
        seen.append(of(one.listen))
        seen.append(of(two.listen))
        three = api.socket()
        three.setsockopt(socket.SOL_SOCKET, option, 1)
        seen.append(of(lambda three=three, port=port: three.bind((HOST, port))))
    return seen


@case
def listening(api: Any) -> Seen:
    sock = api.socket()
    seen: Seen = [of(sock.listen), ends(sock.getsockname()), of(lambda: sock.listen(5))]
    seen += [
        of(lambda: sock.listen(-1)),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
        of(lambda: sock.recv(1)),
        of(lambda: sock.recv(0)),
        of(lambda: sock.send(b"x")),
        of(lambda: sock.connect((HOST, 1))),
        of(sock.getpeername),
        api.poll(sock),
    ]
    sock.settimeout(0.01)
    seen.append(of(sock.accept))
    sock.setblocking(False)
    seen.append(of(sock.accept))
    seen.append(of(lambda: sock.shutdown(socket.SHUT_WR)))
    seen.append(of(lambda: sock.shutdown(socket.SHUT_RD)))
    seen.append(of(sock.accept))
    one, _ = api.pair()
    seen.append(of(one.listen))
    return seen


# ---- connect and accept -------------------------------------------------------------------------


@case
def connecting(api: Any) -> Seen:
    listener = api.listener()
    one = api.socket()
    seen: Seen = [one.connect(listener.getsockname()), api.poll(one), api.poll(listener)]
    other, address = listener.accept()
    api.keep(other)
    return [
        *seen,
        address == one.getsockname(),
        one.getpeername() == listener.getsockname(),
        other.getpeername() == one.getsockname(),
        other.getsockname() == listener.getsockname(),
        other.family,
        other.gettimeout(),
        of(lambda: one.connect(listener.getsockname())),
        one.connect_ex(listener.getsockname()),
        of(lambda: one.bind((HOST, 0))),
        of(one.accept),
        api.poll(listener),
        api.poll(other),
    ]


@case
def connecting_v6(api: Any) -> Seen:
    listener = api.listener(family=socket.AF_INET6)
    one = api.socket(socket.AF_INET6)
    one.connect(listener.getsockname()[:2])
    other, address = listener.accept()
    api.keep(other)
    one.sendall(b"six")
    return [ends(address), ends(other.getsockname()), ends(one.getsockname()), other.recv(9)]


@case
def both_families(api: Any) -> Seen:
    listener = api.socket(socket.AF_INET6)
    listener.bind(("::", 0))
    listener.listen()
    one = api.socket()
    one.connect((HOST, listener.getsockname()[1]))
    other, address = listener.accept()
    api.keep(other)
    return [listener.getsockname()[0], other.family, ends(address), ends(other.getsockname())]


@case
def refused(api: Any) -> Seen:
    gone = api.socket()
    gone.bind((HOST, 0))
    port = gone.getsockname()[1]
    one = api.socket()
    seen: Seen = [of(lambda: one.connect((HOST, port))), one.connect_ex((HOST, port))]
    seen += [
        of(one.getpeername),
        of(lambda: one.send(b"x")),
        of(lambda: one.recv(1)),
        one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    ]
    listener = api.listener()
    seen.append(of(lambda: one.connect(listener.getsockname())))
    seen.append(of(lambda: one.send(b"again")))
    other, _ = listener.accept()
    seen.append(api.keep(other).recv(9))
    return seen


@case
def refused_without_blocking(api: Any) -> Seen:
    gone = api.socket()
    gone.bind((HOST, 0))
    one = api.socket()
    one.setblocking(False)
    seen: Seen = [one.connect_ex(gone.getsockname()) in (errno.EINPROGRESS, errno.ECONNREFUSED)]
    api.settle()
    seen += [
        api.poll(one),
        [len(found) for found in api.select([one], [one], [one], 0)],
        one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    ]
    return seen


@case
def connecting_without_blocking(api: Any) -> Seen:
    listener = api.listener()
    one = api.socket()
    one.setblocking(False)
    seen: Seen = [of(lambda: one.connect(listener.getsockname()))]
    api.settle()
    return [
        *seen,
        api.poll(one),
        one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        one.connect_ex(listener.getsockname()),
        one.connect_ex(listener.getsockname()),
        of(lambda: one.recv(1)),
        one.send(b"x"),
    ]


@case
def impossible(api: Any) -> Seen:
    return [
        of(lambda: api.socket().connect((HOST, 0))),
        of(lambda: api.socket().connect(("224.0.0.1", 80))),
        of(lambda: api.socket().connect(("255.255.255.255", 80))),
    ]


@case
def to_oneself(api: Any) -> Seen:
    """A simultaneous open with nobody else."""
    one = api.socket()
    one.bind((HOST, 0))
    one.connect(one.getsockname())
    one.sendall(b"echo")
    return [one.recv(9), one.getpeername() == one.getsockname()]


@case
def to_nobody_is_to_oneself(api: Any) -> Seen:
    listener = api.listener()
    one = api.socket()
    one.connect(("", listener.getsockname()[1]))
    return [one.getpeername()[0], one.getsockname()[0]]


@case
def an_option_of_the_listener_is_inherited(api: Any) -> Seen:
    listener = api.listener()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.settimeout(3)
    one = api.socket()
    one.connect(listener.getsockname())
    other, _ = listener.accept()
    api.keep(other)
    return [
        other.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        other.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        other.gettimeout(),
    ]


# ---- data ---------------------------------------------------------------------------------------


@case
def sending(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [
        one.send(b"abc"),
        one.sendall(b"def"),
        one.sendmsg([b"gh", bytearray(b"i"), memoryview(b"jk")]),
        one.send(memoryview(struct.pack("3H", 1, 2, 3))),
        one.sendto(b"l", (HOST, 9)),
        one.sendto(b"m", 0, (HOST, 9)),
        one.send(b""),
        one.sendall(b""),
        of(lambda: one.send("text")),
        of(lambda: one.send(5)),
        of(lambda: one.sendall(None)),
        of(lambda: one.sendto(b"x")),
    ]
    one.shutdown(socket.SHUT_WR)
    return [*seen, other.recv(100, socket.MSG_WAITALL), other.recv(100), other.recv(1)]


@case
def receiving(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(b"0123456789abcdefghij")
    api.settle()
    room, other_room = bytearray(4), bytearray(3)
    return [
        other.recv(3, socket.MSG_PEEK),
        other.recv(3),
        other.recvfrom(2),
        other.recv_into(room),
        bytes(room),
        other.recv_into(room, 2),
        bytes(room),
        of(lambda: other.recv_into(room, 5)),
        other.recvmsg(2),
        other.recvmsg_into([room, other_room]),
        bytes(room + other_room),
        of(lambda: other.recv(1, socket.MSG_DONTWAIT)),
        of(lambda: other.recv(-1)),
        of(lambda: other.recv_into(room, -1)),
        of(lambda: other.recv_into(b"frozen")),
        of(lambda: other.recv_into(None)),
        other.recv(0),
    ]


@case
def nothing_there(api: Any) -> Seen:
    one, other = api.pair()
    other.setblocking(False)
    seen: Seen = [of(lambda: other.recv(1)), of(lambda: other.recv_into(bytearray(1)))]
    other.settimeout(0.01)
    seen += [of(lambda: other.recv(1)), of(lambda: other.recvmsg(1)), api.poll(other)]
    one.sendall(b"x")
    api.settle()
    return [*seen, api.poll(other), other.recv(1), api.poll(other)]


@case
def the_end_of_the_stream(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(b"last words")
    one.close()
    api.settle()
    return [
        api.poll(other),
        other.recv(4),
        other.recv(100),
        other.recv(100),
        other.recv(1),
        other.send(b"to nobody"),
        (api.settle(), of(lambda: other.send(b"again")))[1],
        of(lambda: other.recv(1)),
    ]


@case
def half_closed(api: Any) -> Seen:
    one, other = api.pair()
    one.shutdown(socket.SHUT_WR)
    api.settle()
    seen: Seen = [
        of(lambda: one.send(b"x")),
        of(lambda: one.shutdown(socket.SHUT_WR)),
        api.poll(one),
        api.poll(other),
        other.recv(1),
    ]
    other.sendall(b"still")
    api.settle()
    seen += [one.recv(9), api.poll(one)]
    other.shutdown(socket.SHUT_RDWR)
    api.settle()
    return [*seen, one.recv(1), of(lambda: other.shutdown(2)), of(lambda: other.recv(1))]


@case
def deaf(api: Any) -> Seen:
    one, other = api.pair()
    other.shutdown(socket.SHUT_RD)
    seen: Seen = [other.recv(1), api.poll(other)]
    one.sendall(b"unheard")
    api.settle()
    return [*seen, other.send(b"but heard"), one.recv(99)]


@case
def reset_by_unread_data(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(b"never read")
    api.settle()
    other.close()
    api.settle()
    seen: Seen = [api.poll(one)]
    return [*seen, of(lambda: one.recv(1)), of(lambda: one.recv(1)), of(lambda: one.send(b"x"))]


@case
def reset_by_linger(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)]
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    seen.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    one.close()
    api.settle()
    return [
        *seen,
        api.poll(other),
        of(lambda: other.send(b"x")),
        of(lambda: other.send(b"x")),
        of(lambda: other.recv(1)),
        of(other.getpeername),
    ]


@case
def lingering(api: Any) -> Seen:
    one, other = api.pair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    one.sendall(b"all of it")
    return [of(one.close), other.recv(99), other.recv(1)]


@case
def urgent(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [of(lambda: other.recv(1, socket.MSG_OOB))]
    one.sendall(b"abc")
    one.send(b"d!", socket.MSG_OOB)
    one.sendall(b"ef")
    api.settle()
    seen += [
        api.poll(other),
        [len(found) for found in api.select([other], [], [other], 0)],
        other.recv(1, socket.MSG_OOB),
        of(lambda: other.recv(1, socket.MSG_OOB)),
        other.recv(99),
        other.recv(99),
        of(lambda: other.recv(1, socket.MSG_DONTWAIT)),
    ]
    other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    one.send(b"gh", socket.MSG_OOB)
    api.settle()
    return [*seen, of(lambda: other.recv(1, socket.MSG_OOB)), other.recv(9), other.recv(9)]


@case
def a_full_buffer(api: Any) -> Seen:
    one, other = api.pair()
    one.setblocking(False)
    sent = 0
    while isinstance(found := of(lambda: one.send(bytes(65536))), int):
        sent += found
        api.settle()
    seen: Seen = [found, api.poll(one)]
    one.settimeout(0.01)
    seen += [of(lambda: one.send(b"x")), of(lambda: one.sendall(b"x"))]
    left = sent
    while left:
        left -= len(other.recv(1 << 20))
    api.settle()
    return [*seen, api.poll(one), one.send(b"x")]


@case
def files(api: Any) -> Seen:
    one, other = api.pair()
    writer, reader = one.makefile("wb"), other.makefile("rb")
    writer.write(b"line one\nline two\nrest")
    writer.close()
    one.shutdown(socket.SHUT_WR)
    seen: Seen = [reader.readline(), reader.readline(), reader.read(), reader.read()]
    text = other.makefile("w", encoding="ascii", newline="\n")
    other.close()
    text.write("said late\n")
    seen.append(of(lambda: other.recv(1)))
    text.close()
    reader.close()
    lines = one.makefile()
    seen += [lines.mode, list(lines), of(lambda: one.makefile("x")), of(lambda: one.makefile("r", 0))]
    lines.close()
    seen.append(type(one.makefile("rwb")).__name__)
    return seen


@case
def context(api: Any) -> Seen:
    with api.socket() as sock:
        inside = sock.fileno() is not None
    return [inside, sock.fileno(), of(lambda: sock.__enter__().fileno())]


@case
def a_file_is_sent(api: Any) -> Seen:
    import tempfile

    one, other = api.pair()
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.seek(0)
        seen: Seen = [one.sendfile(file, 2), one.sendfile(file, 0, 3)]
        seen.append(of(lambda: one.sendfile(file, 0, -1)))
        one.setblocking(False)
        seen.append(of(lambda: one.sendfile(file)))
    one.close()
    return [*seen, other.recv(99, socket.MSG_WAITALL)]


# ---- options ------------------------------------------------------------------------------------

SOL, TCP, IP, IP6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
NUMBERS = [
    (SOL, "SO_REUSEADDR"), (SOL, "SO_REUSEPORT"), (SOL, "SO_KEEPALIVE"), (SOL, "SO_OOBINLINE"),
    (SOL, "SO_RCVLOWAT"), (TCP, "TCP_NODELAY"), (TCP, "TCP_CORK"), (TCP, "TCP_KEEPIDLE"),
    (TCP, "TCP_KEEPINTVL"), (TCP, "TCP_KEEPCNT"), (TCP, "TCP_SYNCNT"), (TCP, "TCP_LINGER2"),
    (TCP, "TCP_DEFER_ACCEPT"), (TCP, "TCP_USER_TIMEOUT"), (TCP, "TCP_NOTSENT_LOWAT"),
    (TCP, "TCP_QUICKACK"), (IP, "IP_TOS"), (IP, "IP_TTL"), (TCP, "TCP_MAXSEG"),
]  # fmt: skip


@case
def options_read(api: Any) -> Seen:
    sock = api.socket()
    only_read = [(SOL, "SO_TYPE"), (SOL, "SO_PROTOCOL"), (SOL, "SO_DOMAIN"), (SOL, "SO_ERROR")]
    skip = {"TCP_NOTSENT_LOWAT"}
    return [
        (name, of(lambda level=level, name=name: sock.getsockopt(level, getattr(socket, name))))
        for level, name in [*NUMBERS, *only_read, (SOL, "SO_ACCEPTCONN")]
        if name not in skip
    ]


@case
def options_set(api: Any) -> Seen:
    seen: Seen = []
    for level, name in NUMBERS:
        number = getattr(socket, name)
        for value in (0, 1, 2, 7, 100, -1, 1 << 20):
            sock = api.socket()
            found = of(lambda: sock.setsockopt(level, number, value))  # noqa: B023
            back = of(lambda: sock.getsockopt(level, number))  # noqa: B023
            seen.append((name, value, found, back))
            sock.close()
    return seen


@case
def options_of_no_meaning(api: Any) -> Seen:
    sock = api.socket()
    return [
        of(lambda: sock.setsockopt(TCP, 9999, 1)),
        of(lambda: sock.getsockopt(TCP, 9999)),
        of(lambda: sock.getsockopt(SOL, 9999)),
        of(lambda: sock.setsockopt(TCP, socket.TCP_NODELAY, b"")),
        of(lambda: sock.setsockopt(TCP, socket.TCP_NODELAY, b"\1")),
        of(lambda: sock.setsockopt(TCP, socket.TCP_NODELAY, 1 << 31)),
        of(lambda: sock.setsockopt(TCP, socket.TCP_NODELAY, None)),
        of(lambda: sock.setsockopt(SOL, socket.SO_LINGER, 1)),
        of(lambda: sock.setsockopt(SOL, socket.SO_LINGER, b"1234")),
        of(lambda: sock.getsockopt(SOL, socket.SO_TYPE, -1)),
        of(lambda: sock.getsockopt(SOL, socket.SO_TYPE, 2000)),
    ]


@case
def options_as_bytes(api: Any) -> Seen:
    sock = api.socket()
    sock.setsockopt(TCP, socket.TCP_NODELAY, struct.pack("i", 5))
    seen: Seen = [
        sock.getsockopt(TCP, socket.TCP_NODELAY, 4),
        sock.getsockopt(TCP, socket.TCP_NODELAY, 100),
        of(lambda: sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")),
        sock.getsockopt(TCP, socket.TCP_CONGESTION, 16),
        of(lambda: sock.setsockopt(TCP, socket.TCP_CONGESTION, b"nonsense")),
    ]
    info = sock.getsockopt(TCP, socket.TCP_INFO, 8)
    return [*seen, info[0], len(info)]


@case
def buffer_sizes(api: Any) -> Seen:
    seen: Seen = []
    for name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        for value in (0, 1, 5000, 60000):
            sock = api.socket()
            sock.setsockopt(SOL, name, value)
            seen.append(sock.getsockopt(SOL, name))
    return seen


# ---- readiness ----------------------------------------------------------------------------------


@case
def selecting(api: Any) -> Seen:
    one, other = api.pair()
    listener = api.listener()

    def state() -> list[list[int]]:
        socks = [one, other, listener]
        return [[socks.index(s) for s in found] for found in api.select(socks, socks, socks, 0)]

    seen: Seen = [state()]
    one.sendall(b"x")
    api.settle()
    seen.append(state())
    third = api.socket()
    third.connect(listener.getsockname())
    api.settle()
    seen.append(state())
    other.close()
    api.settle()
    socks = [one]
    seen.append([len(found) for found in api.select(socks, socks, socks, 0)])
    seen.append(of(lambda: api.select([one], [], [], -1)))
    return seen


# ---- the comparison -----------------------------------------------------------------------------


@pytest.fixture(params=["reference"])
def ours(request: pytest.FixtureRequest) -> Iterator[Ours]:
    made = Ours(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_like_the_standard_library(name: str, ours: Ours) -> None:
    system = System()
    try:
        expected = CASES[name](system)
    finally:
        system.close()
    found = CASES[name](ours)
    different = [
        (index, a, b)
        for index, (a, b) in enumerate(zip(expected, found, strict=False))
        if a != b
    ]
    assert not different, "(place, the system's, ours)"
    assert len(found) == len(expected)


# ---- what is ours alone -------------------------------------------------------------------------


def test_no_descriptor(ours: Ours) -> None:
    sock = ours.socket()
    assert sock.fileno() == -1
    with pytest.raises(ValueError, match="negative"):
        select.select([sock], [], [], 0)


def test_detach(ours: Ours) -> None:
    one, other = ours.pair()
    handle = one.detach()
    again = ours.keep(tcpcore.Socket(ours.stack, handle=handle))
    again.sendall(b"still here")
    assert other.recv(99) == b"still here"
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.send(b"x")


def test_unclosed_is_told_and_closed(ours: Ours) -> None:
    listener = ours.listener()
    one = ours.stack.connect(listener.getsockname())
    other, _ = listener.accept()
    ours.keep(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        unraised: list[Any] = []
        hook, sys.unraisablehook = sys.unraisablehook, unraised.append
        try:
            del one
        finally:
            sys.unraisablehook = hook
    assert [type(one.exc_value) for one in unraised] == [ResourceWarning]
    assert other.recv(1) == b""


def test_info(ours: Ours) -> None:
    one, _ = ours.pair()
    one.sendall(b"12345")
    ours.settle()
    info = one.info()
    assert info["tcpi_state"] == 1
    assert info["tcpi_bytes_acked"] == 6  # the SYN counts
    packed = one.getsockopt(TCP, socket.TCP_INFO, 1024)
    assert len(packed) == 240
    assert struct.unpack_from("=Q", packed, 120)[0] == 6
    assert struct.unpack_from("=I", packed, 16)[0] == info["tcpi_snd_mss"]


def test_it_cannot_be_pickled(ours: Ours) -> None:
    import pickle

    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(ours.socket())
