"""How connect() fails at the engine's seam, and what it leaves: a socket as new."""

from __future__ import annotations

import errno
from types import ModuleType
from typing import Any

import pytest
from script import net_of

INET, INET6 = 2, 10
ANY4 = bytes(10) + b"\xff\xff" + bytes(4)


def v4(*parts: int) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(parts)


def v6(last: int, first: int = 0xFD) -> bytes:
    return bytes((first,)) + bytes(14) + bytes((last,))


@pytest.fixture
def net_class(engine: ModuleType) -> Any:
    return net_of(engine)


def host(net_class: Any, *addresses: bytes, **knobs: Any) -> Any:
    net = net_class(bytes(range(16)))
    for address in addresses:
        net.add_address(address, 120)
    for name, value in knobs.items():
        net.set_sysctl(name, value)
    return net


def as_new(net: Any, sock: int) -> None:
    """Nothing tells it from a socket that nobody has used."""
    other = net.socket(net.sockname(sock)[0])
    assert net.endpoints(sock) == net.endpoints(other)
    assert net.peername(sock) == net.peername(other)
    assert net.info(sock) == net.info(other)
    assert net.poll(sock) == net.poll(other)
    assert net.getsockopt(sock, 1, 4) == (0, 0)  # SO_ERROR
    assert net.transmit()[0] == []
    assert net.next_deadline() == -1
    net.close(other)


@pytest.mark.parametrize(
    ("family", "address", "size", "code"),
    [
        (INET, v4(10, 0, 0, 2), 15, errno.EINVAL),
        (INET, v4(10, 0, 0, 2), 0, errno.EINVAL),
        (INET6, v4(10, 0, 0, 2), 28, errno.EAFNOSUPPORT),
        (0, v4(10, 0, 0, 2), 28, errno.EAFNOSUPPORT),
        (99, v4(10, 0, 0, 2), 28, errno.EAFNOSUPPORT),
        (INET, v4(224, 0, 0, 1), 16, errno.ENETUNREACH),
        (INET, v4(239, 255, 255, 255), 16, errno.ENETUNREACH),
        (INET, v4(255, 255, 255, 255), 16, errno.ENETUNREACH),
    ],
)
def test_ipv4(net_class: Any, family: int, address: bytes, size: int, code: int) -> None:
    """9293:MUST-46: a short address, another family, multicast, broadcast."""
    net = host(net_class, v4(10, 0, 0, 1))
    sock = net.socket(4)
    for _ in range(2):
        assert net.connect(sock, family, address, 80, size) == -code
        as_new(net, sock)
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80, 16) == 0
    assert len(net.transmit()[0]) == 1
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80, 16) == -errno.EISCONN


@pytest.mark.parametrize(
    ("family", "address", "size", "code"),
    [
        (INET6, v6(2), 23, errno.EINVAL),
        (INET, v6(2), 16, errno.EAFNOSUPPORT),
        (INET6, v6(1, 0xFF), 28, errno.ENETUNREACH),
        (INET6, v4(10, 0, 0, 2), 28, errno.ENETUNREACH),  # there is no IPv4 here
    ],
)
def test_ipv6(net_class: Any, family: int, address: bytes, size: int, code: int) -> None:
    net = host(net_class, v6(1))
    sock = net.socket(6)
    assert net.connect(sock, family, address, 80, size) == -code
    as_new(net, sock)
    assert net.connect(sock, INET6, v6(2), 80, 28) == 0
    assert len(net.transmit()[0]) == 1


def test_no_route(net_class: Any) -> None:
    """A host of IPv6 alone has no way to an address of IPv4."""
    net = host(net_class, v6(1))
    sock = net.socket(4)
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80) == -errno.ENETUNREACH
    as_new(net, sock)


@pytest.mark.parametrize("bound", [False, True])
def test_no_port_is_left(net_class: Any, bound: bool) -> None:
    """EADDRNOTAVAIL; another peer's port may be the same, and one that is given back is taken."""
    net = host(net_class, v4(10, 0, 0, 1), ip_local_port_range=(40000, 40001))
    socks = [net.socket(4) for _ in range(3)]
    for sock in socks[:2]:
        assert net.connect(sock, INET, v4(10, 0, 0, 2), 80) == 0
    assert len(net.transmit()[0]) == 2
    deadline = net.next_deadline()
    sock = socks[2]
    if bound:
        assert net.setsockopt(sock, 0, 24, 1) in (0, -errno.ENOPROTOOPT)  # IP_BIND_ADDRESS_NO_PORT
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80) == -errno.EADDRNOTAVAIL
    assert net.sockname(sock) == (4, ANY4, 0)
    assert net.peername(sock) == (4, b"", 0)
    assert net.transmit()[0] == []
    assert net.next_deadline() == deadline
    assert net.connect(sock, INET, v4(10, 0, 0, 3), 80) == 0, "another 4-tuple"
    net.abort(socks[0])
    late = net.socket(4)
    net.transmit()
    assert net.connect(late, INET, v4(10, 0, 0, 2), 80) == 0
    assert len(net.transmit()[0]) == 1


def test_a_port_of_ones_own_stays(net_class: Any) -> None:
    """What bind() took is kept when connect() fails."""
    net = host(net_class, v4(10, 0, 0, 1))
    sock = net.socket(4)
    assert net.bind(sock, v4(10, 0, 0, 1), 1234) == 0
    assert net.connect(sock, INET, v4(224, 0, 0, 1), 80) == -errno.ENETUNREACH
    assert net.sockname(sock) == (4, v4(10, 0, 0, 1), 1234)
    twin = net.socket(4)
    assert net.setsockopt(twin, 1, 2, 1) == net.setsockopt(sock, 1, 2, 1) == 0  # SO_REUSEADDR
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80) == 0
    assert net.sockname(sock) == (4, v4(10, 0, 0, 1), 1234)


def test_who_listens_or_is_there_does_not_connect(net_class: Any) -> None:
    net = host(net_class, v4(10, 0, 0, 1))
    sock = net.socket(4)
    assert net.bind(sock, ANY4, 80) == 0
    assert net.listen(sock, 5) == 0
    assert net.connect(sock, INET, v4(10, 0, 0, 2), 80) == -errno.EISCONN
    assert net.state(sock) == 10  # LISTEN
    assert net.accept(sock) == -errno.EAGAIN
    other = net.socket(4)
    assert net.accept(other) == -errno.EINVAL
