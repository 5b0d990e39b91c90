"""A connection's life in virtual time: when what is sent, how long what is waited for."""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

import tcpcore

ENGINES = ["reference", "compiled"]
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET


class Wire:
    """What a link saw: time in s, sender, flags, payload bytes."""

    def __init__(self, cable: tcpcore.network.Cable) -> None:
        self.seen: list[tuple[float, str, int, int]] = []
        for name, end in zip((cable.a, cable.b), cable.ends, strict=True):
            end.tap(lambda frame, now_ns, name=name: self.saw(name, frame, now_ns))

    def saw(self, name: str, frame: bytes, now_ns: int) -> None:
        word = struct.unpack_from(">H", frame, 32)[0]
        size = len(frame) - 20 - 4 * (word >> 12)
        self.seen.append((now_ns / 1e9, name, word & 0x3F, size))

    def take(self) -> list[tuple[float, str, int, int]]:
        found, self.seen = self.seen, []
        return found

    def times(self, name: str, flags: int = 0) -> list[float]:
        return [one[0] for one in self.take() if one[1] == name and one[2] & flags == flags]


class World:
    """Two hosts, a link of 10 ms, and its tap."""

    def __init__(self, engine: str, **knobs: object) -> None:
        self.network = tcpcore.Network(1, sysctl=knobs, engine=engine)
        self.client = self.network.host("client")
        self.server = self.network.host("server")
        self.cable = self.network.link(self.client, self.server, delay_s=0.01)
        self.wire = Wire(self.cable)
        self.listener: tcpcore.Socket | None = None

    def pair(self, backlog: int = 8) -> tuple[tcpcore.Socket, tcpcore.Socket]:
        self.listener = self.server.listen(("", 80), backlog)
        one = self.client.connect(("server", 80))
        other, _ = self.listener.accept()
        self.network.advance(1)
        self.wire.take()
        return one, other


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Iterator[object]:
    made: list[World] = []

    def world(**knobs: object) -> World:
        made.append(World(request.param, **knobs))
        return made[-1]

    yield world
    for one in made:
        one.network.close()


def close(*socks: tcpcore.Socket) -> None:
    for sock in socks:
        sock.close()


def code(call: object) -> int:
    """The errno that a call raises; 0 for none."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


# ---- to open ------------------------------------------------------------------------------------


def test_a_syn_is_sent_again(make) -> None:
    """1 s apart four times, then twice as far each time (tcp_syn_linear_timeouts)."""
    world = make()
    world.cable.down()
    sock = world.client.socket()
    world.cable.ends[0].path = tcpcore.Path(loss=1.0)
    assert code(lambda: sock.connect(("server", 80))) == errno.ETIMEDOUT
    times = world.wire.times("client", SYN)
    assert [round(t) for t in times] == [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67]
    assert world.network.now_s == pytest.approx(131, abs=0.1)
    close(sock)


def test_a_syn_ack_is_sent_again(make) -> None:
    world = make(tcp_synack_retries=3)
    listener = world.server.listen(("", 80))
    world.cable.change("server", loss=1.0)
    sock = world.client.socket()
    sock.setblocking(False)
    sock.connect_ex(("server", 80))
    world.network.advance(0.5)
    world.cable.change("client", loss=1.0)  # of the client's SYNs no more come through
    world.network.advance(100)
    times = world.wire.times("server", SYN | ACK)
    assert [round(t) for t in times] == [0, 1, 3, 7]
    close(sock, listener)


def test_simultaneous_open(make) -> None:
    world = make()
    one, other = world.client.socket(), world.server.socket()
    one.bind(("", 1111))
    other.bind(("", 2222))
    one.setblocking(False)
    other.setblocking(False)
    one.connect_ex(("server", 2222))
    other.connect_ex(("client", 1111))
    world.network.advance(1)
    assert one.state == other.state == "ESTABLISHED"
    one.send(b"both")
    other.send(b"ways")
    world.network.advance(1)
    assert one.recv(9) + other.recv(9) == b"waysboth"
    close(one, other)


@pytest.mark.parametrize("abort", [0, 1])
def test_a_full_accept_queue(make, abort: int) -> None:
    """An ACK for which there is no room is asked for again, or answered with a reset."""
    world = make(tcp_abort_on_overflow=abort)
    listener = world.server.listen(("", 80), 1)
    socks = [world.client.connect(("server", 80))]
    for _ in range(2):
        sock = world.client.socket()
        sock.setblocking(False)
        sock.connect_ex(("server", 80))
        socks.append(sock)
    world.network.advance(0.5)
    assert world.server.counters["TcpExtListenOverflows"] == 1
    taken = [listener.accept()[0], listener.accept()[0]]
    listener.settimeout(30)
    late: list[tcpcore.Socket] = []
    failed = code(lambda: late.append(listener.accept()[0]))
    assert bool(failed) == bool(abort)
    assert code(lambda: socks[2].recv(1)) == (errno.ECONNRESET if abort else errno.EAGAIN)
    close(listener, *socks, *taken, *late)


def test_a_good_cookie_without_room_is_left_alone(make) -> None:
    world = make(tcp_syncookies=2)
    listener = world.server.listen(("", 80), 1)
    socks = [world.client.connect(("server", 80)) for _ in range(2)]
    world.network.advance(1)
    late = world.client.socket()
    late.settimeout(0.5)
    code(lambda: late.connect(("server", 80)))
    assert not any(flags & RST for _, _, flags, _ in world.wire.take())
    close(listener, late, *socks)


def test_defer_accept(make) -> None:
    """A connection is handed out when its first data are there."""
    world = make()
    listener = world.server.socket()
    listener.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 5)
    listener.bind(("", 80))
    listener.listen()
    sock = world.client.connect(("server", 80))
    world.network.advance(0.2)
    assert not listener.poll()
    sock.sendall(b"now")
    other, _ = listener.accept()
    assert other.recv(9) == b"now"
    close(sock, other, listener)


def test_every_port_is_taken(make) -> None:
    world = make(ip_local_port_range=(40000, 40003))
    listener = world.server.listen(("", 80))
    socks = [world.client.connect(("server", 80)) for _ in range(4)]
    assert len({sock.getsockname()[1] for sock in socks}) == 4
    sock = world.client.socket()
    assert code(lambda: sock.connect(("server", 80))) == errno.EADDRNOTAVAIL
    assert sock.getsockname() == ("0.0.0.0", 0), "as new"
    close(sock, listener, *socks)


# ---- to wait ------------------------------------------------------------------------------------


def test_an_ack_waits_no_longer_than_40_ms(make) -> None:
    world = make()
    one, other = world.pair()
    other.setsockopt(TCP, socket.TCP_QUICKACK, 0)
    one.sendall(b"x")
    world.network.advance(1)
    (sent,) = [t for t, name, _, size in world.wire.seen if name == "client" and size]
    (acked,) = world.wire.times("server", ACK)
    assert 0.01 <= acked - sent <= 0.01 + 0.044
    close(one, other, world.listener)


@pytest.mark.parametrize("nodelay", [0, 1])
def test_nagle(make, nodelay: int) -> None:
    """A small segment waits until nothing is on its way; not with TCP_NODELAY."""
    world = make()
    one, other = world.pair()
    one.setsockopt(TCP, socket.TCP_NODELAY, nodelay)
    for _ in range(3):
        one.sendall(b"small")
    assert other.recv(15, socket.MSG_WAITALL) == b"small" * 3
    sizes = [size for _, name, _, size in world.wire.take() if name == "client" and size]
    assert sizes == ([5, 5, 5] if nodelay else [5, 10])
    close(one, other, world.listener)


def test_cork_and_more(make) -> None:
    world = make()
    one, other = world.pair()
    one.setsockopt(TCP, socket.TCP_CORK, 1)
    one.sendall(b"a")
    one.sendall(b"b")
    world.network.advance(0.1)
    assert not other.poll() & 1
    one.setsockopt(TCP, socket.TCP_CORK, 0)
    assert other.recv(9) == b"ab"
    world.network.advance(0.1)  # an ACK would let it go
    one.send(b"c", socket.MSG_MORE)
    world.network.advance(0.1)
    assert not other.poll() & 1
    one.send(b"d")
    assert other.recv(9) == b"cd"
    close(one, other, world.listener)


def test_a_corked_segment_leaves_after_200_ms(make) -> None:
    world = make()
    one, other = world.pair()
    one.setsockopt(TCP, socket.TCP_CORK, 1)
    begun = world.network.now_s
    one.sendall(b"a")
    assert other.recv(9) == b"a"
    assert 0.2 <= world.network.now_s - begun <= 0.25
    close(one, other, world.listener)


def test_a_zero_window_is_probed(make) -> None:
    """The reader sleeps for minutes; the sender asks now and then, and goes on at once after."""
    world = make(tcp_rmem=(4096, 16384, 16384))
    one, other = world.pair()
    one.setblocking(False)
    data = bytes(range(256)) * 400
    sent = one.send(data)
    world.network.advance(300)
    probes = [t for t, name, _, _ in world.wire.take() if name == "client" and t > 10]
    assert 4 <= len(probes) <= 40
    got = bytearray()
    begun = world.network.now_s
    one.setblocking(True)

    def write() -> None:
        one.sendall(data[sent:])
        one.shutdown(socket.SHUT_WR)

    def read() -> None:
        while more := other.recv(4096):
            got.extend(more)

    world.network.run(write, read)
    assert bytes(got) == data
    assert world.network.now_s - begun < 5
    close(one, other, world.listener)


def test_keep_alive(make) -> None:
    world = make()
    one, other = world.pair()
    one.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
    for name, value in (("IDLE", 10), ("INTVL", 2), ("CNT", 3)):
        one.setsockopt(TCP, getattr(socket, f"TCP_KEEP{name}"), value)
    world.network.advance(35)
    assert len(world.wire.times("client")) == 3, "a probe each 10 s, and each is answered"
    world.cable.down()
    assert code(lambda: one.recv(1)) == errno.ETIMEDOUT
    close(one, other, world.listener)


def test_user_timeout(make) -> None:
    world = make()
    one, other = world.pair()
    one.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 5000)
    world.cable.down()
    begun = world.network.now_s
    one.sendall(b"to nobody")
    assert code(lambda: one.recv(1)) == errno.ETIMEDOUT
    assert 4.5 <= world.network.now_s - begun <= 8
    close(one, other, world.listener)


def test_r2(make) -> None:
    """Without any answer a connection is given up after tcp_retries2, in Linux's time."""
    world = make()
    one, other = world.pair()
    world.cable.down()
    begun = world.network.now_s
    one.sendall(b"to nobody")
    assert code(lambda: one.recv(1)) == errno.ETIMEDOUT
    assert 800 <= world.network.now_s - begun <= 1100, "924.6 s with the least RTO"
    close(one, other, world.listener)


def test_back_off_doubles(make) -> None:
    world = make()
    one, other = world.pair()
    world.cable.ends[0].path = tcpcore.Path(loss=1.0)
    one.sendall(b"x")
    world.network.advance(30)
    times = [t for t, name, _, size in world.wire.take() if name == "client" and size]
    waits = [b - a for a, b in itertools.pairwise(times[1:])]  # the first one again was a probe
    assert len(waits) > 4
    assert all(1.9 < b / a < 2.1 for a, b in itertools.pairwise(waits))
    close(one, other, world.listener)


# ---- to close -----------------------------------------------------------------------------------


def test_close_from_each_side(make) -> None:
    for first in (0, 1):
        world = make()
        ends = world.pair()
        ends[first].close()
        world.network.advance(0.1)
        assert ends[1 - first].recv(1) == b""
        ends[1 - first].close()
        begun = world.network.now_s
        world.listener.close()
        world.network.advance(200)
        flags = [one[2] for one in world.wire.take()]
        assert sum(bool(one & FIN) for one in flags) == 2
        assert not any(one & RST for one in flags)
        hosts = (world.client, world.server)
        assert [host.counters["TcpExtTW"] for host in hosts] == [first == 0, first == 1]
        assert begun < 2


def test_simultaneous_close(make) -> None:
    world = make()
    one, other = world.pair()
    one.shutdown(socket.SHUT_WR)
    other.shutdown(socket.SHUT_WR)
    world.network.advance(0.015)
    assert one.state == other.state == "CLOSING"
    world.network.advance(1)
    close(one, other, world.listener)
    world.network.advance(100)
    assert [host.counters["TcpExtTW"] for host in (world.client, world.server)] == [1, 1]


def test_half_close(make) -> None:
    world = make()
    one, other = world.pair()
    one.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    other.sendall(b"still " * 10_000)
    other.shutdown(socket.SHUT_WR)
    assert len(one.recv(60_000, socket.MSG_WAITALL)) == 60_000
    assert one.recv(1) == b""
    close(one, other, world.listener)


def test_fin_wait_2_of_an_orphan_ends(make) -> None:
    world = make(tcp_fin_timeout=7)
    one, other = world.pair()
    one.close()
    world.network.advance(5)
    other.sendall(b"x")  # nobody reads it: it is answered with a reset
    world.network.advance(1)
    assert code(lambda: other.sendall(b"x")) == errno.EPIPE
    close(other, world.listener)
    world.network.advance(100)
    assert world.client.next_deadline is None


def test_time_wait_keeps_the_port(make) -> None:
    world = make()
    one, other = world.pair()
    port = one.getsockname()[1]
    one.close()
    world.network.advance(0.1)
    other.close()
    world.network.advance(1)
    again = world.client.socket()
    assert code(lambda: again.bind(("10.0.0.1", port))) == errno.EADDRINUSE
    world.network.advance(60)
    assert code(lambda: again.bind(("10.0.0.1", port))) == 0
    close(again, world.listener)


def test_early_reuse_of_time_wait(make) -> None:
    """A SYN with a later time stamp begins anew at the side that waits (RFC 6191)."""
    world = make(tcp_tw_reuse=0)
    one, other = world.pair()
    here = one.getsockname()
    other.close()  # the server waits
    world.network.advance(0.1)
    one.close()
    world.network.advance(2)
    again = world.client.socket()
    again.bind(here)
    again.connect(("server", 80))
    assert again.state == "ESTABLISHED"
    other, _ = world.listener.accept()
    again.sendall(b"new")
    assert other.recv(9) == b"new"
    close(again, other, world.listener)


def test_a_listener_that_closes_resets_who_waits(make) -> None:
    world = make()
    listener = world.server.listen(("", 80))
    sock = world.client.connect(("server", 80))
    world.network.advance(1)
    listener.close()
    assert code(lambda: sock.recv(1)) == errno.ECONNRESET
    assert code(lambda: world.client.connect(("server", 80))) == errno.ECONNREFUSED
    close(sock)


def test_reset_while_sending(make) -> None:
    world = make()
    one, other = world.pair()
    other.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.setblocking(False)
    one.send(bytes(100_000))
    other.close()
    world.network.advance(1)
    assert one.poll() & 8
    assert code(lambda: one.send(b"x")) == errno.ECONNRESET
    assert code(lambda: one.send(b"x")) == errno.EPIPE
    close(one, world.listener)
    world.network.advance(100)
    assert world.client.next_deadline is None


def test_lingering_waits_for_the_ack(make) -> None:
    world = make()
    one, other = world.pair()
    one.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 3))
    one.sendall(b"x" * 1000)
    begun = world.network.now_s
    one.close()
    assert 0.02 <= world.network.now_s - begun < 0.1
    assert other.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
    again = world.client.connect(("server", 80))
    again.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 3))
    world.cable.down()
    again.sendall(b"x")
    begun = world.network.now_s
    again.close()
    assert world.network.now_s - begun == pytest.approx(3)
    close(other, world.listener)


def test_nothing_is_left(make) -> None:
    """After many connections, all ways to end, hosts have no timer and no port left."""
    world = make(ip_local_port_range=(50000, 50009))
    for turn in range(30):
        one, other = world.pair()
        ends = (one, other) if turn % 2 else (other, one)
        if turn % 3 == 0:
            ends[0].setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if turn % 5 == 0:
            ends[0].sendall(b"unread")
        close(*ends, world.listener)
        world.network.advance(70)
    world.network.advance(200)
    assert world.client.next_deadline is None
    assert world.server.next_deadline is None
