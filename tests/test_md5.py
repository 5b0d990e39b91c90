"""TCP_MD5SIG on both engines: keys, signatures of every segment, and what is not signed."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import struct
from collections.abc import Callable

import pytest
from test_active_lockstep import ADDR, MS, SEC, V4, Host, World, act, listen

import tcpcore
from tcpcore.engine import ENGINE

ENGINES = ("reference", "compiled") if ENGINE == "compiled" else ("reference",)
TCP, MD5SIG, MD5SIG_EXT, PREFIX, IFINDEX = 6, 14, 32, 1, 2
OPTION = b"\1\1\x13\x12"


def md5sig(
    addr: str,
    key: bytes,
    flags: int = 0,
    prefixlen: int = 0,
    *,
    ifindex: int = 0,
    family: int | None = None,
    keylen: int | None = None,
) -> bytes:
    """struct tcp_md5sig."""
    if ":" in addr:
        family = socket.AF_INET6 if family is None else family
        name = struct.pack("=HHI16s", family, 0, 0, socket.inet_pton(socket.AF_INET6, addr))
    else:
        family = socket.AF_INET if family is None else family
        name = struct.pack("=HH4s", family, 0, socket.inet_aton(addr))
    size = len(key) if keylen is None else keylen
    return struct.pack("=128sBBHi80s", name, flags, prefixlen, size, ifindex, key)


def signature(packet: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The digest in a packet, and the one that RFC 2385 asks for."""
    if packet[0] >> 4 == 4:
        tcp = packet[20 : int.from_bytes(packet[2:4], "big")]
        pseudo = packet[12:20] + struct.pack(">BBH", 0, 6, len(tcp))
    else:
        tcp = packet[40:]
        pseudo = packet[8:40] + struct.pack(">II", len(tcp), 6)
    head = 4 * (tcp[12] >> 4)
    at = tcp[20:head].find(OPTION)
    assert at >= 0, f"no signature: {tcp[20:head].hex()}"
    made = hashlib.md5(pseudo + tcp[:16] + bytes(2) + tcp[18:20] + tcp[head:] + key).digest()
    return tcp[24 + at : 40 + at], made


def fails(call: Callable[..., object], *arguments: object) -> int | None:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None


@pytest.fixture(params=ENGINES)
def stack(request: pytest.FixtureRequest) -> tcpcore.Stack:
    return tcpcore.Stack("10.0.0.9", engine=request.param)


# What setsockopt takes. Errors are Linux 7.3's, asked for each of these.

REFUSED: dict[str, tuple[int, bytes, int]] = {
    "short": (MD5SIG, md5sig("10.0.0.1", b"k")[:-1], errno.EINVAL),
    "a number": (MD5SIG, b"\1\0\0\0", errno.EINVAL),
    "another family": (MD5SIG, md5sig("::1", b"k"), errno.EINVAL),
    "no family": (MD5SIG, md5sig("10.0.0.1", b"k", family=0), errno.EINVAL),
    "81 bytes": (MD5SIG, md5sig("10.0.0.1", b"k", keylen=81), errno.EINVAL),
    "a prefix of 33": (MD5SIG_EXT, md5sig("10.0.0.0", b"k", PREFIX, 33), errno.EINVAL),
    "a VRF": (MD5SIG_EXT, md5sig("10.0.0.3", b"k", IFINDEX, ifindex=1), errno.EINVAL),
    "forget what is not there": (MD5SIG, md5sig("10.0.0.1", b""), errno.ENOENT),
}
TAKEN: dict[str, tuple[int, bytes]] = {
    "long": (MD5SIG, md5sig("10.0.0.1", b"k") + bytes(84)),
    "80 bytes": (MD5SIG, md5sig("10.0.0.1", b"k" * 80)),
    "a prefix": (MD5SIG_EXT, md5sig("10.0.0.0", b"k", PREFIX, 24)),
    "everybody": (MD5SIG_EXT, md5sig("0.0.0.0", b"k", PREFIX, 0)),
    "flags that are not looked at": (MD5SIG, md5sig("10.0.0.0", b"k", PREFIX, 99)),
    "flags that nobody knows": (MD5SIG_EXT, md5sig("10.0.0.0", b"k", 0xFC, 99)),
    "no VRF": (MD5SIG_EXT, md5sig("10.0.0.3", b"k", IFINDEX)),
    "an ifindex that is not looked at": (MD5SIG_EXT, md5sig("10.0.0.4", b"k", ifindex=1)),
    "nobody's address": (MD5SIG, md5sig("224.0.0.1", b"k")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(stack: tcpcore.Stack, case: str) -> None:
    name, value, error = REFUSED[case]
    with stack.socket() as sock:
        assert fails(sock.setsockopt, TCP, name, value) == error


@pytest.mark.parametrize("case", TAKEN)
def test_taken(stack: tcpcore.Stack, case: str) -> None:
    with stack.socket() as sock:
        sock.setsockopt(TCP, *TAKEN[case])
        assert fails(sock.getsockopt, TCP, TAKEN[case][0], 216) == errno.ENOPROTOOPT


def test_an_int_is_no_key(stack: tcpcore.Stack) -> None:
    with stack.socket() as sock:
        assert fails(sock.setsockopt, TCP, MD5SIG, 1) == errno.EINVAL


def test_keys_of_ipv6_sockets(stack: tcpcore.Stack) -> None:
    with stack.socket(socket.AF_INET6) as sock:
        known = [
            (MD5SIG, md5sig("10.0.0.1", b"k"), errno.EINVAL),
            (MD5SIG, md5sig("2001:db8::1", b"k"), None),
            (MD5SIG, md5sig("::ffff:10.0.0.1", b"k"), None),
            (MD5SIG_EXT, md5sig("::ffff:10.0.0.1", b"k", PREFIX, 33), errno.EINVAL),
            (MD5SIG_EXT, md5sig("::ffff:10.0.0.1", b"k", PREFIX, 32), None),
            (MD5SIG_EXT, md5sig("2001:db8::1", b"k", PREFIX, 128), None),
            (MD5SIG_EXT, md5sig("2001:db8::1", b"k", PREFIX, 129), errno.EINVAL),
            (MD5SIG, md5sig("2001:db8::1", b""), None),
            (MD5SIG, md5sig("2001:db8::1", b""), errno.ENOENT),
            (MD5SIG, md5sig("::ffff:10.0.0.1", b""), None),
        ]
        for name, value, error in known:
            assert fails(sock.setsockopt, TCP, name, value) == error, value[:32].hex()


def test_a_key_is_another_with_other_bits(stack: tcpcore.Stack) -> None:
    with stack.socket() as sock:
        sock.setsockopt(TCP, MD5SIG_EXT, md5sig("10.0.0.0", b"k", PREFIX, 24))
        sock.setsockopt(TCP, MD5SIG_EXT, md5sig("10.0.0.3", b"k", IFINDEX))
        assert fails(sock.setsockopt, TCP, MD5SIG, md5sig("10.0.0.0", b"")) == errno.ENOENT
        other = md5sig("10.0.0.7", b"", PREFIX, 24)
        assert fails(sock.setsockopt, TCP, MD5SIG_EXT, other) == errno.ENOENT
        assert fails(sock.setsockopt, TCP, MD5SIG, md5sig("10.0.0.3", b"")) == errno.ENOENT
        sock.setsockopt(TCP, MD5SIG_EXT, md5sig("10.0.0.0", b"", PREFIX, 24))
        sock.setsockopt(TCP, MD5SIG_EXT, md5sig("10.0.0.3", b"", IFINDEX))


def test_bound_of_keys(stack: tcpcore.Stack) -> None:
    """963 keys of a socket, as many as Linux's optmem_max allows; each socket has its own."""

    def name(i: int) -> str:
        return f"10.{i >> 8}.{i & 255}.1"

    sock, other = stack.socket(), stack.socket()
    for i in range(963):
        sock.setsockopt(TCP, MD5SIG, md5sig(name(i), b"k"))
    assert fails(sock.setsockopt, TCP, MD5SIG, md5sig("11.0.0.1", b"k")) == errno.ENOMEM
    sock.setsockopt(TCP, MD5SIG, md5sig(name(7), b"another"))
    sock.setsockopt(TCP, MD5SIG, md5sig(name(7), b""))
    sock.setsockopt(TCP, MD5SIG, md5sig("11.0.0.1", b"k"))
    assert fails(sock.setsockopt, TCP, MD5SIG, md5sig(name(7), b"k")) == errno.ENOMEM
    other.setsockopt(TCP, MD5SIG, md5sig(name(7), b"k"))
    for one in (sock, other):
        one.close()


# Two hosts.

Keys = list[tuple[int, bytes]]


def hosts(
    engine: str, server: Keys, client: Keys, v6: bool = False, **link: object
) -> tuple[tcpcore.Network, list[bytes], tcpcore.Socket, tcpcore.Socket]:
    """A network with a tap, a listener with keys, a socket with keys."""
    network = tcpcore.Network(seed=3, engine=engine)
    ends = ("fd00::1/64", "fd00::2/64") if v6 else ("10.0.0.1/24", "10.0.0.2/24")
    a, b = network.host("a", ends[0]), network.host("b", ends[1])
    network.link(a, b, delay_s=0.01, **link)  # type: ignore[arg-type]
    seen: list[bytes] = []
    for end in network.links[0].ends:
        end.tap(lambda frame, now_ns: seen.append(bytes(frame)))
    family = socket.AF_INET6 if v6 else socket.AF_INET
    listener, sock = b.socket(family), a.socket(family)
    listener.bind(("", 179))
    for value in server:
        listener.setsockopt(TCP, *value)
    listener.listen()
    for value in client:
        sock.setsockopt(TCP, *value)
    return network, seen, listener, sock


def counts(sock: tcpcore.Socket) -> tuple[int, ...]:
    names = ("NotFound", "Unexpected", "Failure")
    return tuple(sock.stack.counters.get(f"TcpExtTCPMD5{name}", 0) for name in names)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_every_segment_is_signed(engine: str, v6: bool, loss: float) -> None:
    key = b"of both"
    ends = ("fd00::1", "fd00::2") if v6 else ("10.0.0.1", "10.0.0.2")
    server, client = ((MD5SIG, md5sig(one, key)) for one in ends)
    network, seen, listener, sock = hosts(engine, [server], [client], v6, loss=loss)
    sock.connect((ends[1], 179))
    other, _ = listener.accept()
    data = random.Random(5).randbytes(60000)

    def sends() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    def reads() -> bytes:
        got = b""
        while piece := other.recv(65536):
            got += piece
        return got

    assert network.run(sends, reads)[1] == data
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()  # a reset
    network.advance(5)
    assert len(seen) > 60
    assert max(map(len, seen)) <= 1500
    for packet in seen:
        told, made = signature(packet, key)
        assert told == made
    assert counts(sock) == counts(listener) == (0, 0, 0)
    for one in (sock, listener):
        one.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("server", "client", "counted"),
    [(b"one", b"", 0), (b"", b"one", 1), (b"one", b"two", 2)],
    ids=["missing", "unexpected", "wrong"],
)
def test_silence(engine: str, server: bytes, client: bytes, counted: int) -> None:
    """What is not signed as it should be is not answered, and counted by the names of 7.3."""
    keys = [
        [(MD5SIG, md5sig(addr, key))] if key else []
        for addr, key in (("10.0.0.1", server), ("10.0.0.2", client))
    ]
    _, seen, listener, sock = hosts(engine, *keys)
    sock.settimeout(2.5)
    with pytest.raises(TimeoutError):
        sock.connect(("10.0.0.2", 179))
    assert len(seen) == 3  # SYNs alone
    assert counts(listener) == tuple(3 * (i == counted) for i in range(3))
    sock.close()
    listener.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_longest_prefix_counts_and_of_equals_the_newest(engine: str) -> None:
    keys = [
        (MD5SIG_EXT, md5sig("10.0.0.1", b"longest", PREFIX, 31)),
        (MD5SIG_EXT, md5sig("0.0.0.0", b"everybody", PREFIX, 0)),
        (MD5SIG_EXT, md5sig("10.0.0.0", b"newest", PREFIX, 31)),
        (MD5SIG_EXT, md5sig("10.0.0.4", b"others", PREFIX, 30)),
        (MD5SIG_EXT, md5sig("10.0.0.0", b"shorter", PREFIX, 30)),
    ]
    client = (MD5SIG_EXT, md5sig("0.0.0.0", b"newest", PREFIX, 0))
    _, seen, listener, sock = hosts(engine, keys, [client])
    sock.connect(("10.0.0.2", 179))
    other, _ = listener.accept()
    assert all(told == made for told, made in (signature(one, b"newest") for one in seen))
    for one in (other, sock, listener):
        one.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_ipv6_for_everybody_is_not_for_ipv4(engine: str) -> None:
    """A listener of both: a key for ::/0 says nothing of mapped addresses."""
    network = tcpcore.Network(seed=3, engine=engine)
    a, b = network.host("a", "10.0.0.1/24"), network.host("b", "10.0.0.2/24")
    network.link(a, b)
    listener = b.socket(socket.AF_INET6)
    listener.bind(("::", 179))
    listener.setsockopt(TCP, MD5SIG_EXT, md5sig("::", b"six", PREFIX, 0))
    listener.listen()
    sock = a.socket()
    sock.connect(("10.0.0.2", 179))
    sock.close()
    signed = a.socket()
    signed.setsockopt(TCP, MD5SIG, md5sig("10.0.0.2", b"four"))
    listener.setsockopt(TCP, MD5SIG, md5sig("::ffff:10.0.0.1", b"four"))
    signed.connect(("10.0.0.2", 179))
    assert counts(listener) == (0, 0, 0)
    signed.close()
    listener.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_may_change(engine: str) -> None:
    """Both ends set another one while the connection is open: what was lost goes on with it."""
    pair = [(MD5SIG, md5sig(one, b"old")) for one in ("10.0.0.1", "10.0.0.2")]
    network, seen, listener, sock = hosts(engine, pair[:1], pair[1:])
    sock.connect(("10.0.0.2", 179))
    other, _ = listener.accept()
    sock.sendall(b"by the old one")
    assert other.recv(100) == b"by the old one"
    network.advance(1)
    sock.setsockopt(TCP, MD5SIG, md5sig("10.0.0.2", b"new"))
    sock.sendall(b"not heard yet")
    network.advance(0.1)
    assert counts(other)[2] > 0
    other.setsockopt(TCP, MD5SIG, md5sig("10.0.0.1", b"new"))
    seen.clear()
    assert other.recv(100) == b"not heard yet"
    assert all(told == made for told, made in (signature(one, b"new") for one in seen))
    for one in (sock, other, listener):
        one.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_link_cuts_what_is_signed(engine: str) -> None:
    """Large segments go whole to a link that takes them, signed ones do not."""
    a, b = (tcpcore.Stack(f"10.0.0.{i}", engine=engine) for i in (1, 2))
    for one in (a, b):
        one._net.set_link(1500, True)
    listener = b.listen(("", 179))
    sock = a.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.2", 179))
    now_ns = 0

    def exchange(turns: int = 20) -> list[bytes]:
        nonlocal now_ns
        seen = []
        for _ in range(turns):
            now_ns += 1_000_000
            for source, to in ((a, b), (b, a)):
                frames = source.transmit(now_ns)
                seen += [bytes(one) for one in frames]
                to.receive(frames, now_ns)
        return seen

    exchange()
    other, _ = listener.accept()
    sock.send(bytes(20000))
    assert max(map(len, exchange())) > 1500
    sock.send(bytes(20000))  # leaves unsigned, is dropped, goes again in signed segments
    sock.setsockopt(TCP, MD5SIG, md5sig("10.0.0.2", b"late"))
    other.setsockopt(TCP, MD5SIG, md5sig("10.0.0.1", b"late"))
    exchange()
    sock.send(bytes(8000))
    seen = exchange(2000)
    assert max(map(len, seen)) == 1500
    assert all(told == made for told, made in (signature(one, b"late") for one in seen))
    assert counts(sock) == (0, 0, 0)
    assert counts(other)[0] > 0 == sum(counts(other)[1:])
    assert len(other.recv(1 << 20)) == 48000
    for one in (sock, other, listener):
        one.close()


# Both engines, call by call.


@pytest.mark.skipif(ENGINE != "compiled", reason="needs the compiled engine")
@pytest.mark.parametrize("seed", range(12))
def test_lockstep(seed: int) -> None:
    """Random traffic between hosts whose sockets get and lose keys."""
    rng = random.Random(seed)
    world = World(seed, loss=rng.choice((0, 0.02, 0.1)), forged=0.05, damage=0.01)
    world.random = rng
    names = (b"", b"k", b"k", b"k", b"another" * 11)

    def key(side: int, handle: int) -> None:
        ip = rng.choice((4, 6))
        bits = rng.choice((0, 90, 120, 127, 128))
        bits = max(bits, 96) if ip == 4 else bits
        host = world.hosts[side]
        host.set_md5(handle, ADDR[ip][1 - side], bits, rng.choice((0, 0, 2)), rng.choice(names))

    for host in world.hosts:
        if seed % 3 == 0:
            host.set_sysctl("tcp_syncookies", 2)

        def made(ip: int, host: Host = host, make: Callable[[int], int] = host.socket) -> int:
            """A socket that has the key of all, mostly."""
            handle = make(ip)
            if rng.random() < 0.9:
                for any_, bits in ((V4 + bytes(4), 96), (bytes(16), 0)):
                    host.set_md5(handle, any_, bits, 0, b"k")
            return handle

        host.socket = made  # type: ignore[method-assign]
    for side in range(2):
        listen(world, side)
    for _ in range(150):
        act(world)
        side = rng.randrange(2)
        host = world.hosts[side]
        if rng.random() < 0.1 and (host.open or host.listeners):
            key(side, rng.choice(host.open + host.listeners))
        world.run(world.now + rng.choice((MS, 20 * MS, 300 * MS, 3 * SEC)))
    for host in world.hosts:
        for handle in host.open + host.listeners:
            host.close(handle)
    world.run(world.now + 200 * SEC)
