"""Two hosts in one process that hand each other their frames: the same as over a wire, and faster.

Text goes by reference there, from the caller's bytes to the reader's; nothing may be seen of that.
"""

from __future__ import annotations

import gc
import random
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tcpcore import MemoryLink, Path, Stack, VirtualClock
from tcpcore.engine import ENGINE, load_net

ENGINES = ["reference", "compiled"] if ENGINE == "compiled" else ["reference"]
V4 = bytes(10) + b"\xff\xff"
HERE, THERE = V4 + bytes((10, 0, 0, 1)), V4 + bytes((10, 0, 0, 2))
MS, SEC = 1_000_000, 1_000_000_000


def hosts(engine: str, mtu: int = 1500, gso: bool = False) -> SimpleNamespace:
    """Two hosts, a connection between them."""
    net = load_net(engine)
    a, b = net(b"a" * 16), net(b"b" * 16)
    for host, address in ((a, HERE), (b, THERE)):
        host.add_address(address, 120)
        host.set_link(mtu, gso)
        host.advance(SEC)
    listener = b.socket(4)
    b.bind(listener, THERE, 80)
    b.listen(listener, 5)
    handle = a.socket(4)
    assert a.connect(handle, 2, THERE, 80) == 0
    assert a.exchange(b, SEC) == 3
    return SimpleNamespace(a=a, b=b, handle=handle, child=b.accept(listener), listener=listener)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest) -> SimpleNamespace:
    return hosts(request.param)


def wire(one: Any, other: Any, now: int, lost: random.Random) -> None:
    """Hand frames over as bytes, and lose some."""
    for frame in one.transmit()[0]:
        if lost.random() > 0.1:
            other.receive(frame, now)


def story(engine: str, seed: int) -> list[Any]:
    """What both hosts answer, count and read while a seeded program runs."""
    rng, lost = random.Random(seed), random.Random(seed)
    mtu, gso = rng.choice(((1500, False), (1500, True), (65536, False), (600, False)))
    pair = hosts(engine, mtu, gso)
    ends = [(pair.a, pair.handle), (pair.b, pair.child)]
    sent, got, told = [bytearray(), bytearray()], [bytearray(), bytearray()], []
    now = SEC
    for _ in range(250):
        side = rng.randrange(2)
        net, handle = ends[side]
        what = rng.random()
        if what < 0.4:
            data: Any = rng.randbytes(rng.choice((1, 100, 600, 3000, 70_000, 200_000)))
            if rng.random() < 0.3:
                data = bytearray(data)
            taken = net.sendmsg(handle, data, rng.choice((0, 0, 0x8000)))
            sent[side] += data[: max(taken, 0)]
            told.append(taken)
            if isinstance(data, bytearray):
                data[:] = bytes(len(data))  # it is the caller's again
        elif what < 0.6:
            room = bytearray(rng.choice((1, 500, 5000, 300_000)))
            read = net.recv_into(handle, room)
            got[1 - side] += room[: max(read, 0)]
            told.append(read)
        elif what < 0.7:
            err, data = net.recvmsg(handle, rng.choice((10, 100_000)))
            got[1 - side] += data
            told.append((err, len(data)))
        elif what < 0.75:
            wire(pair.a, pair.b, now, lost)
            wire(pair.b, pair.a, now, lost)
        else:
            told.append(pair.a.exchange(pair.b, now))
        now += rng.choice((0, 0, MS // 50, MS, 50 * MS, SEC))
        told += [pair.a.counters(), pair.b.counters(), pair.a.next_deadline()]
    for _ in range(8000):
        told.append(pair.a.exchange(pair.b, now))
        for side, (net, handle) in enumerate(ends):
            got[1 - side] += net.recvmsg(handle, 1 << 20)[1]
        now += 50 * MS
        if [len(one) for one in got] == [len(one) for one in sent]:
            break
    assert got == sent
    told += [net.info(handle) for net, handle in ends]
    return told


@pytest.mark.skipif(ENGINE != "compiled", reason="needs both engines")
@pytest.mark.parametrize("seed", range(12))
def test_both_engines_exchange_alike(seed: int) -> None:
    assert story("reference", seed) == story("compiled", seed)


def test_an_exchange_ends_when_nobody_sends(pair: SimpleNamespace) -> None:
    assert pair.a.exchange(pair.b, SEC) == 0
    assert pair.a.sendmsg(pair.handle, b"x" * 3000) == 3000
    assert pair.b.exchange(pair.a, SEC) >= 3
    assert pair.b.recvmsg(pair.child, 5000) == (0, b"x" * 3000)


def test_a_host_is_no_peer_of_its_own(pair: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="peer"):
        pair.a.exchange(pair.a, SEC)


def test_what_is_for_somebody_else_gets_no_answer(pair: SimpleNamespace) -> None:
    stray = pair.a.socket(4)
    assert pair.a.connect(stray, 2, V4 + bytes((10, 0, 0, 9)), 80) == 0
    assert pair.a.exchange(pair.b, SEC) == 1


def test_a_batch_is_packet_after_packet(pair: SimpleNamespace) -> None:
    pair.a.sendmsg(pair.handle, b"abc" * 1000)
    pair.b.receive_batch(pair.a.transmit()[0], SEC)
    assert pair.b.recvmsg(pair.child, 5000)[1] == b"abc" * 1000


def test_bytes_are_given_back(pair: SimpleNamespace) -> None:
    """Sent by reference, an object is held until it was acknowledged and read."""
    data = random.Random(1).randbytes(20_000)
    before = sys.getrefcount(data)
    assert pair.a.sendmsg(pair.handle, data) == len(data)
    got = b""
    now = SEC
    while len(got) < len(data):
        pair.a.exchange(pair.b, now)
        got += pair.b.recvmsg(pair.child, 7000)[1]
        now += 50 * MS
    pair.a.exchange(pair.b, now)
    assert got == data
    assert sys.getrefcount(data) == before


def test_bytes_are_given_back_by_who_is_gone(pair: SimpleNamespace) -> None:
    data = bytes(range(256)) * 30
    before = sys.getrefcount(data)
    assert pair.a.sendmsg(pair.handle, data) == len(data)
    pair.a.exchange(pair.b, SEC)
    del pair.a
    gc.collect()
    assert pair.b.recvmsg(pair.child, 100)[1] == data[:100]  # the reader outlives the writer
    assert pair.b.recvmsg(pair.child, 10_000)[1] == data[100:]
    del pair.b
    gc.collect()
    assert sys.getrefcount(data) == before


def test_a_wire_carries_right_checksums(pair: SimpleNamespace) -> None:
    """A frame's checksums are made when it becomes bytes, not where it is handed on."""
    pair.a.sendmsg(pair.handle, b"seen" * 100)
    frames = pair.a.transmit()[0]
    for frame in frames:
        assert pair.b.receive(frame, SEC) == 0
    damaged = frames[0][:-1] + bytes((frames[0][-1] ^ 1,))
    assert pair.b.receive(damaged, SEC) != 0


# Two hosts with nothing between them.


def beside(engine: str) -> tuple[Stack, Stack, MemoryLink, MemoryLink]:
    """Two hosts on a link on which nothing happens to a frame."""
    a, b = MemoryLink.pair()
    clock = VirtualClock()
    one = Stack("10.0.0.1/24", link=a, clock=clock, seed=1, engine=engine)
    other = Stack("10.0.0.2/24", link=b, clock=clock, seed=2, engine=engine)
    return one, other, a, b


def talk(one: Stack, other: Stack, port: int) -> None:
    """A connection, data both ways, its end."""
    listener = other.listen(("", port))
    with one.connect(("10.0.0.2", port)) as client, listener, listener.accept()[0] as server:
        client.sendall(bytes(range(256)) * 1200)
        got = b""
        while len(got) < 256 * 1200:
            got += server.recv(70_000)
        assert got == bytes(range(256)) * 1200
        assert server.send(b"answer") == 6
        room = bytearray(100)
        assert client.recv_into(room) == 6
        assert room[:6] == b"answer"


def test_frames_pass_a_plain_link_by_and_are_counted(engine: str) -> None:
    one, other, a, b = beside(engine)
    talk(one, other, 80)
    sent, received = one.counters["frames_sent"], one.counters["frames_received"]
    assert sent > 200
    assert other.counters["frames_received"] == sent == a.counts["sent"]
    assert other.counters["frames_sent"] == received == b.counts["sent"]
    assert a.in_flight == 0


def test_a_link_that_does_something_gets_its_frames(engine: str) -> None:
    """A tap, a delay or a loss that begins later is seen at once, and its end too."""
    one, other, a, _ = beside(engine)
    talk(one, other, 80)
    a.path = Path(delay_s=0.01)
    before = one.clock.now_ns()
    talk(one, other, 81)
    assert one.clock.now_ns() >= before + 10_000_000
    a.path = Path()
    talk(one, other, 82)
    seen: list[bytes] = []
    a.tap(lambda frame, now_ns: seen.append(frame))
    talk(one, other, 83)
    assert len(seen) > 200
    assert a.counts["sent"] == one.counters["frames_sent"]


def test_a_host_talks_to_itself_beside_another(engine: str) -> None:
    one, _, a, _ = beside(engine)
    listener = one.listen(("", 80))
    client = one.connect(("127.0.0.1", 80))
    server, _ = listener.accept()
    client.sendall(bytes(200_000))
    assert server.recv(200_000, socket.MSG_WAITALL) == bytes(200_000)
    assert a.counts["sent"] == 0
    for sock in (listener, client, server):
        sock.close()


def test_a_closed_host_gets_nothing_more(engine: str) -> None:
    one, other, _, _ = beside(engine)
    listener = other.listen(("", 80))
    client = one.connect(("10.0.0.2", 80))
    listener.accept()[0].detach()
    other.close()
    client.settimeout(5)
    client.sendall(b"to nobody")
    with pytest.raises(TimeoutError):
        client.recv(10)
    client.close()
    listener.detach()
