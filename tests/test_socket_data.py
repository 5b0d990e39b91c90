"""Sending, receiving, closing and options of a socket, as the standard library has them.

Each case runs over the system's loopback and over ours; results and errno have to be the same.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import pytest
from socket_api import HOST, Case, Seen, of, same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that we are like")

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


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
    seen += [lines.mode, list(lines)]
    seen += [of(lambda: one.makefile("x")), of(lambda: one.makefile("r", 0))]
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


# ---- the comparison -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_like_the_standard_library(name: str, engine: str) -> None:
    same(CASES[name], engine)
