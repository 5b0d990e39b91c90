"""Flags, buffers and wrong arguments of a socket's calls, as the standard library has them.

Each case runs over the system's loopback and over ours; results and errno have to be the same.
"""

from __future__ import annotations

import array
import io
import socket
import struct
import sys
from functools import partial
from typing import Any

import pytest
from socket_api import HOST, Case, Seen, of, same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that we are like")

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def kind(call: Any) -> Any:
    """What a call gives, or the kind of what it raises: words differ between Python's versions."""
    found = of(call)
    raised = isinstance(found, tuple) and len(found) == 3 and isinstance(found[0], str)
    return found[:2] if raised else found


@case
def options_that_are_kept(api: Any) -> Seen:
    sock = api.socket()
    seen: Seen = []
    for level, name, value in (
        (1, 12, 5), (1, 5, 9), (1, 6, 1), (1, 46, -1), (0, 15, 7), (6, 16, 2), (6, 16, 1),
        (6, 27, 3), (6, 27, 2), (1, 19, 1),
    ):  # fmt: skip
        seen.append(kind(partial(sock.setsockopt, level, name, value)))
        seen.append(kind(partial(sock.getsockopt, level, name)))
    seen.append(kind(lambda: sock.setsockopt(0, 12, b"\1")))
    seen.append(kind(lambda: sock.getsockopt(0, 12, 1)))
    seen.append(kind(lambda: sock.setsockopt(0, 12, b"")))
    seen.append(kind(lambda: sock.getsockopt(0, 12)))
    seen.append(kind(lambda: sock.setsockopt(1, 12, b"\1\0\0")))
    seen.append(kind(lambda: sock.getsockopt(0, 14)))
    seen.append(kind(lambda: sock.getsockopt(1, 55, 36)))
    return seen


@case
def buffers_to_send(api: Any) -> Seen:
    one, other = api.pair()
    numbers = array.array("I", [1, 2, 3])
    grid = memoryview(bytes(range(12))).cast("B", (3, 4))
    seen: Seen = [
        one.send(numbers),
        one.send(memoryview(numbers)[1:]),
        one.send(grid),
        kind(lambda: one.send(memoryview(bytes(9))[::2])),
        one.sendmsg([numbers, b"", bytearray(b"x")]),
        kind(lambda: one.sendmsg([])),
        kind(lambda: one.sendmsg([b"a", "b"])),
        kind(lambda: one.sendmsg(b"ab")),
        kind(lambda: one.sendmsg(5)),
        kind(lambda: one.sendmsg([b"n"], [], socket.MSG_NOSIGNAL)),
        kind(lambda: one.sendmsg([b"n"], [], 0, (HOST, 9))),
        kind(lambda: one.sendmsg([b"n"], [(1, 2)])),
        kind(lambda: one.send(b"x", "flags")),
        kind(lambda: one.send(b"y", 0, 0)),
        kind(lambda: one.sendall(b"z", socket.MSG_DONTWAIT)),
    ]
    one.shutdown(socket.SHUT_WR)
    got = bytearray()
    while more := other.recv(4096):
        got += more
    return [*seen, bytes(got)]


@case
def buffers_to_receive(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(bytes(range(100)))
    api.settle()
    numbers = array.array("I", [0] * 3)
    room = bytearray(20)
    grid = memoryview(bytearray(12)).cast("B", (3, 4))
    seen: Seen = [other.recv_into(numbers), numbers.tolist()]
    seen += [other.recv_into(memoryview(room)[5:8]), bytes(room)]
    seen += [other.recv_into(memoryview(room).cast("I"), 6), bytes(room)]
    seen += [other.recv_into(grid), grid.tolist()]
    seen += [other.recv_into(room, 0, socket.MSG_PEEK), bytes(room)]
    seen += [other.recvfrom_into(room, 3), bytes(room)]
    seen += [
        kind(lambda: other.recv_into(memoryview(room)[::2])),
        kind(lambda: other.recv_into(memoryview(b"frozen"))),
        kind(lambda: other.recv_into(bytearray())),
        kind(lambda: other.recv_into("text")),
        kind(lambda: other.recv_into()),
        kind(lambda: other.recvmsg_into([room, b"frozen"])),
        kind(lambda: other.recvmsg_into(room)),
        kind(lambda: other.recvmsg_into([])),
        kind(lambda: other.recvmsg(-1)),
        kind(lambda: other.recvmsg(1, -1)),
        kind(lambda: other.recvmsg_into([room], -1)),
        kind(lambda: other.recvfrom(-1)),
        kind(lambda: other.recvfrom_into(room, -1)),
        kind(lambda: other.recv(1.5)),
        kind(lambda: other.recv()),
        kind(lambda: other.recv(1, "x")),
        kind(lambda: other.recv(None)),
    ]
    return [*seen, other.recvmsg(5, 100), other.recv(100)]


@case
def flags_of_receiving(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(b"0123456789" * 3)
    api.settle()
    room = bytearray(4)
    seen: Seen = [
        other.recv(4, socket.MSG_PEEK),
        other.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL),
        other.recv(4, socket.MSG_WAITALL),
        other.recv(100, socket.MSG_WAITALL | socket.MSG_DONTWAIT)[:4],
        kind(lambda: other.recv(1, socket.MSG_DONTWAIT)),
        kind(lambda: other.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)),
        kind(lambda: other.recv(1, socket.MSG_ERRQUEUE)),
        kind(lambda: other.recvmsg(1, 0, socket.MSG_DONTWAIT)),
    ]
    one.sendall(b"abcdefgh")
    api.settle()
    seen += [
        other.recvmsg(2, 0, socket.MSG_PEEK),
        other.recvmsg_into([room], 0, socket.MSG_PEEK),
        bytes(room),
        other.recvfrom(2, socket.MSG_PEEK),
        len(other.recv(3, socket.MSG_TRUNC)),  # thrown away, not handed out
        other.recv(99),
    ]
    return seen


@case
def waiting_for_all_of_it(api: Any) -> Seen:
    one, other = api.pair()
    one.sendall(b"not")
    one.sendall(b" all")
    one.shutdown(socket.SHUT_WR)
    return [other.recv(100, socket.MSG_WAITALL), other.recv(100, socket.MSG_WAITALL)]


@case
def flags_of_sending(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [
        one.send(b"a", socket.MSG_MORE),
        one.send(b"b", socket.MSG_EOR),
        one.send(b"c", socket.MSG_NOSIGNAL),
        one.send(b"d", socket.MSG_DONTROUTE),
        one.send(b"e", socket.MSG_DONTWAIT),
        one.sendto(b"f", socket.MSG_MORE, (HOST, 1)),
        one.sendmsg([b"g"], [], socket.MSG_MORE),
        one.send(b"h"),
    ]
    api.settle()
    return [*seen, other.recv(99)]


@case
def out_of_band(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [
        kind(lambda: other.recv(1, socket.MSG_OOB)),
        one.send(b"x!", socket.MSG_OOB),
    ]
    api.settle()
    seen += [
        api.poll(other),
        other.recv(1, socket.MSG_OOB | socket.MSG_PEEK),
        other.recvmsg(1, 0, socket.MSG_OOB),
        kind(lambda: other.recv(1, socket.MSG_OOB)),
        other.recv(9),
        kind(lambda: other.recv(9, socket.MSG_DONTWAIT)),
    ]
    one.shutdown(socket.SHUT_WR)
    api.settle()
    return [*seen, kind(lambda: other.recv(1, socket.MSG_OOB)), other.recv(1)]


@case
def wrong_arguments(api: Any) -> Seen:
    sock = api.socket()
    return [
        kind(lambda: sock.listen("x")),
        kind(lambda: sock.listen(1.5)),
        kind(lambda: sock.shutdown("x")),
        kind(lambda: sock.shutdown(None)),
        kind(lambda: sock.settimeout([])),
        kind(lambda: sock.settimeout(True)),
        kind(lambda: sock.settimeout(1e300)),
        kind(lambda: sock.getsockopt("x", 1)),
        kind(lambda: sock.getsockopt(1, 1, "x")),
        kind(lambda: sock.setsockopt(1, 2)),
        kind(lambda: sock.setsockopt(1, 2, 1.5)),
        kind(lambda: sock.setsockopt(1, 2, "text")),
        kind(lambda: sock.setsockopt("x", 2, 1)),
        kind(lambda: sock.bind()),
        kind(lambda: sock.connect((HOST, 80, 1, 2))),
        kind(lambda: sock.connect(("\0", 80))),
        kind(lambda: sock.accept(1)),
        kind(lambda: sock.sendto(b"x", 5)),
        kind(lambda: sock.makefile("rw+")),
    ]


@case
def every_kind_of_file(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = []
    for mode in ("r", "w", "rw", "wr", "rb", "wb", "rwb", "b", ""):
        file = one.makefile(mode)
        seen.append((mode, type(file).__name__, file.readable(), file.writable(), file.closed))
        file.close()
    raw = one.makefile("rwb", buffering=0)
    seen += [type(raw).__name__, raw.write(b"raw"), raw.mode, kind(raw.seek), raw.seekable()]
    api.settle()
    reader = other.makefile("rb", buffering=2)
    room = bytearray(2)
    seen += [reader.read(1), reader.readinto(room), bytes(room)]
    text = one.makefile("w", encoding="utf-16", newline="\r\n")
    text.write("é\n")
    text.flush()
    api.settle()
    seen += [other.recv(99), text.encoding, text.errors]
    for file in (raw, reader, text):
        file.close()
    other.setblocking(False)
    late = other.makefile("rb", buffering=0)
    seen += [late.read(1), late.readinto(room)]
    other.settimeout(0.01)
    seen += [kind(lambda: late.read(1)), kind(lambda: late.read(1))]
    late.close()
    return [*seen, kind(lambda: late.read(1))]


@case
def duplicates(api: Any) -> Seen:
    one, other = api.pair()
    one.settimeout(5)
    twin = api.keep(one.dup())
    seen: Seen = [
        twin.gettimeout(),
        twin.getpeername() == one.getpeername(),
        twin.family == one.family,
        twin.send(b"by both"),
        one.close(),
        kind(lambda: one.send(b"x")),
        twin.send(b" ends"),
    ]
    api.settle()
    seen += [other.recv(99), twin.close(), other.recv(99)]
    return [*seen, kind(one.dup)]


@case
def detached(api: Any) -> Seen:
    one, other = api.pair()
    handle = one.detach()
    seen: Seen = [
        handle >= 0,
        one.fileno(),
        one.detach(),
        kind(lambda: one.send(b"x")),
        one.close(),
        one.family,
        one.type,
        one.gettimeout(),
    ]
    api.settle()
    other.setblocking(False)
    return [
        *seen,
        kind(lambda: other.recv(1)) if hasattr(one, "stack") else ("BlockingIOError", "EAGAIN"),
    ]


@case
def timed_out(api: Any) -> Seen:
    one, other = api.pair()
    other.settimeout(0.01)
    room = bytearray(1)
    return [
        of(lambda: other.recv(1)),
        of(lambda: other.recv_into(room)),
        of(lambda: other.recvfrom(1)),
        of(lambda: other.recvmsg(1)),
        of(lambda: other.recv(1, socket.MSG_PEEK)),
        of(lambda: api.listener().settimeout(0)),
        of(lambda: other.recv(0)),
        of(lambda: other.recv_into(bytearray())),
        of(lambda: (other.settimeout(0), other.recv(1))),
        isinstance(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), bytes),
    ]


@case
def sending_files(api: Any) -> Seen:
    one, other = api.pair()
    seen: Seen = [
        one.sendfile(io.BytesIO(b"in memory")),
        one.sendfile(io.BytesIO(b"0123456789"), 3, 4),
        one.sendfile(io.BytesIO(b"")),
        one.sendfile(io.BytesIO(b"x"), 5),
        kind(lambda: one.sendfile(io.StringIO("text"))),
        kind(lambda: one.sendfile(io.BytesIO(b"x"), 0, 1.5)),
        kind(lambda: one.sendfile(io.BytesIO(b"x"), 0, 0)),
    ]
    one.shutdown(socket.SHUT_WR)
    return [*seen, other.recv(99, socket.MSG_WAITALL)]


@case
def linger_values(api: Any) -> Seen:
    sock = api.socket()
    seen: Seen = []
    for on, seconds in ((1, 5), (0, 7), (1, 0), (5, 65535)):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds))
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    return seen


@case
def kernel_timeouts(api: Any) -> Seen:
    one, other = api.pair()
    listener = api.listener()
    seen: Seen = []
    for value in ((0, 1), (0, 4001), (2, 999999), (0, 1000000), (0, -1), (-1, 0), (1 << 62, 0)):
        for name in (20, 21, 66):
            data = struct.pack("qq", *value)
            seen.append(kind(partial(other.setsockopt, 1, name, data)))
            seen.append(kind(partial(other.getsockopt, 1, name, 16)))
    seen.append(kind(lambda: other.setsockopt(1, 20, 1)))
    seen.append(kind(lambda: other.setsockopt(1, 20, bytes(8))))
    seen.append(kind(lambda: other.getsockopt(1, 20)))
    for sock in (one, other, listener):
        sock.setsockopt(1, 20, struct.pack("qq", 0, 10000))
        sock.setsockopt(1, 21, struct.pack("qq", 0, 10000))
    seen += [
        kind(lambda: other.recv(1)),
        kind(lambda: other.recv_into(bytearray(1))),
        kind(lambda: other.recvmsg(1)),
        kind(lambda: api.keep(other.dup()).getsockopt(1, 20, 16)),
        kind(listener.accept),
        one.send(b"abc"),
    ]
    api.settle()
    seen += [
        kind(lambda: other.recv(9, socket.MSG_WAITALL | socket.MSG_PEEK)),
        kind(lambda: other.recv(9, socket.MSG_WAITALL)),
        one.send(bytes(1 << 24)) < 1 << 24,
        kind(lambda: one.send(bytes(1 << 24))),
        kind(lambda: one.sendall(bytes(1 << 24))),
    ]
    one.settimeout(0.02)
    return [*seen, kind(lambda: one.send(bytes(1 << 24)))]


@case
def accepted_sockets_inherit(api: Any) -> Seen:
    listener = api.listener()
    options = (
        (1, 5, 1), (1, 12, 3), (1, 36, 7), (1, 42, 4), (0, 15, 1), (0, 11, 1), (0, 2, 9), (6, 7, 3),
        (6, 8, 9), (6, 16, 1), (6, 27, 1), (6, 36, 1), (6, 44, 2000), (1, 10, 1), (6, 1, 1),
    )  # fmt: skip
    seen: Seen = []
    for level, name, value in options:
        seen.append(kind(partial(listener.setsockopt, level, name, value)))
    listener.setsockopt(1, 20, struct.pack("qq", 3, 0))
    one = api.socket()
    one.connect(listener.getsockname())
    other = api.keep(listener.accept()[0])
    seen += [kind(partial(other.getsockopt, level, name)) for level, name, _ in options]
    other.setsockopt(1, 5, 0)
    return [
        *seen,
        other.getsockopt(1, 20, 16),
        other.getsockopt(1, 21, 16),
        listener.getsockopt(1, 5),
    ]


@case
def dropped_and_looked_at(api: Any) -> Seen:
    one, other = api.pair()
    one.send(b"0123456789abcdefghij")
    api.settle()
    room = bytearray(b"....")
    drop, look = socket.MSG_TRUNC, socket.MSG_PEEK
    seen: Seen = [
        len(other.recv(2, drop)),
        other.recv_into(room, 3, drop),
        other.recv_into(room, 3, drop | look),
        bytes(room),
        other.recvmsg_into([room], 0, drop)[0],
        other.recvmsg(2)[:2],
        bytes(room),
        other.recv(2),
        kind(lambda: other.setsockopt(1, 42, 0)),
        other.recv(3, look),
        other.recv(3, look),
        other.getsockopt(1, 42),
        other.recv(1),
        other.getsockopt(1, 42),
        other.recv(9, look | socket.MSG_DONTWAIT),
        kind(lambda: other.recv(9, look | socket.MSG_DONTWAIT)),
        kind(lambda: other.setsockopt(1, 42, -1)),
        other.recv(9, look),
    ]
    one.shutdown(socket.SHUT_WR)
    return [*seen, other.recv(99, look | socket.MSG_WAITALL), other.recv(99, socket.MSG_WAITALL)]


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_like_the_standard_library(name: str, engine: str) -> None:
    same(CASES[name], engine)
