"""A socket's names, bind, listen, connect, accept, readiness, as the standard library has them.

Each case runs over the system's loopback and over ours; results and errno have to be the same.
"""

from __future__ import annotations

import errno
import select
import selectors
import socket
import struct
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from socket_api import HOST, HOST6, Case, Ours, Seen, System, ends, of, same

import tcpcore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that we are like")

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


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


@case
def ipv6_only(api: Any) -> Seen:
    """IPV6_V6ONLY: who shares a port with whom, what it says, and when it is too late."""
    seen: Seen = []
    v6only = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)

    def socks(only: int, where: str = "::") -> tuple[Any, Any]:
        six, four = api.socket(family=socket.AF_INET6), api.socket()
        six.setsockopt(*v6only, only)
        six.bind((where, 0))
        return six, four

    for only in (0, 1):
        for where in ("::", HOST6):
            six, four = socks(only, where)
            seen += [only, where, six.getsockopt(*v6only)]
            seen.append(of(lambda four=four, six=six: four.bind(("0.0.0.0", six.getsockname()[1]))))
            seen.append(of(lambda six=six: six.setsockopt(*v6only, 0)))
    four = api.socket()
    seen.append(of(lambda: four.setsockopt(*v6only, 1)))
    seen.append(of(lambda: four.getsockopt(*v6only)))
    six = api.socket(family=socket.AF_INET6)
    six.setsockopt(*v6only, 1)
    seen.append(of(lambda: six.bind(("::ffff:127.0.0.1", 0))))
    seen.append(of(lambda: six.connect(("::ffff:127.0.0.1", 9))))
    six.bind(("::", 0))
    six.listen()
    port = six.getsockname()[1]
    seen.append(of(lambda: api.socket().connect((HOST, port))))
    other = api.socket(family=socket.AF_INET6)
    seen.append(of(lambda: other.connect((HOST6, port))))
    accepted = api.keep(six.accept()[0])
    seen.append(accepted.getsockopt(*v6only))
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
def mapped(api: Any) -> Seen:
    """An IPv6 socket speaks IPv4 to an address that is mapped."""
    listener = api.listener()
    one = api.socket(socket.AF_INET6)
    seen: Seen = [of(lambda: one.connect(("::ffff:127.0.0.1", listener.getsockname()[1])))]
    other, address = listener.accept()
    api.keep(other)
    one.sendall(bytes(5000))
    seen += [ends(address), ends(one.getsockname()), ends(one.getpeername())]
    return [*seen, len(other.recv(5000, socket.MSG_WAITALL))]


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


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_like_the_standard_library(name: str, engine: str) -> None:
    same(CASES[name], engine)


@pytest.fixture(params=["reference", "compiled"])
def ours(request: pytest.FixtureRequest) -> Iterator[Ours]:
    made = Ours(request.param)
    yield made
    made.close()


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
    assert len(one.getsockopt(socket.SOL_SOCKET, 55, 100)) == 36  # SO_MEMINFO
    packed = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1024)
    assert len(packed) == 280
    assert struct.unpack_from("=Q", packed, 120)[0] == 6
    assert struct.unpack_from("=I", packed, 16)[0] == info["tcpi_snd_mss"]


def test_it_cannot_be_pickled(ours: Ours) -> None:
    import pickle

    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(ours.socket())


def test_selector(ours: Ours) -> None:
    """As `selectors.DefaultSelector` has it, over both."""

    def seen(api: Any, selector: Any) -> Seen:
        one, other = api.pair()
        one.sendall(b"x")
        api.settle()
        key = selector.register(other, selectors.EVENT_READ | selectors.EVENT_WRITE, "data")
        both = [(found.data, bits) for found, bits in selector.select(1)]
        selector.modify(other, selectors.EVENT_READ)
        other.recv(1)
        after = [
            key.data,
            selector.select(0),
            selector.select(-1),
            selector.get_key(other).events,
            len(selector.get_map()),
        ]
        errors = [
            of(lambda: selector.register(other, selectors.EVENT_READ))[0],
            of(lambda: selector.register(one, 8)),
            of(lambda: selector.unregister(one))[0],
        ]
        one.close()
        api.settle()
        end = [bits for _, bits in selector.select(1)]
        other.close()
        selector.unregister(other)
        errors.append(of(lambda: selector.register(other, selectors.EVENT_READ)))
        selector.close()
        return [both, after, errors, end]

    system = System()
    try:
        expected = seen(system, selectors.DefaultSelector())
    finally:
        system.close()
    assert seen(ours, tcpcore.Selector()) == expected
    empty = tcpcore.Selector()
    assert empty.select(0) == empty.select(-1) == empty.select(0.1) == []
    with pytest.raises(ValueError, match="nothing to wait for"):
        empty.select()


def test_not_inherited(ours: Ours) -> None:
    sock = ours.socket()
    sock.set_inheritable(False)
    assert not sock.get_inheritable()
    with pytest.raises(OSError, match="descriptor"):
        sock.set_inheritable(True)
