"""What a peer can make long is never walked: T-03, T-06 and T-22 of the endpoint's queues.

Steps are counted, never time: the depth of a tree is what finding, entering, taking out and telling
of a piece cost. Both engines give the same answers on the same queues.
"""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import pytest
from capgen import NOP, SACK_PERM, mss, timestamp, wscale
from script import Host, Script

from tcpcore.engine import ENGINE

compiled = pytest.importorskip("tcpcore._core") if ENGINE == "compiled" else None
needs_compiled = pytest.mark.skipif(compiled is None, reason="needs the compiled engine")

SOL_SOCKET, SO_SNDBUF, SO_RCVBUF = 1, 7, 8
WIDE = mss(48) + SACK_PERM + NOP + wscale(14)
TRUESIZE = 256 + 640  # of a segment of little


def blocks(script: Script, *edges: tuple[int, int]) -> bytes:
    base = script.host_isn or 0
    numbers = [(base + edge) & 0xFFFFFFFF for pair in edges for edge in pair]
    return NOP * 2 + struct.pack(f">BB{len(numbers)}I", 5, 2 + 4 * len(numbers), *numbers)


def depth_for(pieces: int) -> float:
    """Of a random search tree: twice ln n on average; beyond twice that as good as never."""
    return 4 * math.log(pieces + 1) + 8


def in_flight(net_class: Any, size: int) -> Script:
    """A connection with that much in flight in segments of 48 bytes, nothing of it acknowledged."""
    script = Script(Host(net_class, {"tcp_wmem": (4096, 16384, 1 << 28)}))
    script.accepted(WIDE)
    script.set(SOL_SOCKET, SO_SNDBUF, 2 * size)
    script.rcv = 1
    while script.host.net.info(script.sk)["tcpi_snd_cwnd"] * 48 < size:
        script.host.send(script.sk, bytes(script.host.net.info(script.sk)["tcpi_snd_cwnd"] * 48))
        script.wait(0.0)
        script.put("A")
    script.hold = True
    script.host.send(script.sk, bytes(size))
    script.wait(0.0)
    return script


@needs_compiled
def test_sack_slowness() -> None:
    """T-03: four blocks an ACK all over a window of 4 MiB in segments of 48 bytes, worst order."""
    size = 1 << 22
    script = in_flight(compiled.Net, size)
    first = script.rcv
    rng = random.Random(3)
    at = list(range(48, size - 48, 192))
    rng.shuffle(at)
    for i in range(0, len(at), 4):
        edges = [(first + low, first + low + 48) for low in at[i : i + 4]]
        script.put("A", ack=first, opts=blocks(script, *edges))
    info = script.host.net.info(script.sk)
    (pieces, steps), _ = script.host.net.steps(script.sk)
    assert pieces > len(at) // 2
    assert pieces <= 2 * (4 * size + 132_224) // 896 + 2  # tcp_fragment's bound
    assert steps < depth_for(pieces)
    assert 0 < info["tcpi_sacked"] <= len(at)
    assert info["tcpi_sacked"] + info["tcpi_lost"] <= info["tcpi_unacked"]


@needs_compiled
@pytest.mark.parametrize("seed", range(12))
def test_scoreboards_are_the_same(seed: int) -> None:
    """T-03: blocks wherever, ACKs, time-outs, what is told and then denied: both engines agree."""
    from test_active_lockstep import Host as Both

    rng = random.Random(seed)
    stamps = seed % 3 == 0
    script = Script(Host(Both, {"tcp_wmem": (4096, 16384, 1 << 28)}))
    script.ts = (1, 0) if stamps else None
    script.accepted(WIDE + (NOP * 2 + timestamp(1, 0) if stamps else b""))
    script.set(SOL_SOCKET, SO_SNDBUF, 1 << 20)
    script.rcv = 1
    for _ in range(rng.randrange(4, 9)):
        script.host.send(script.sk, bytes(1 << 12))
        script.wait(0.02)
        script.put("A")
    script.hold = True
    script.host.send(script.sk, bytes(1 << 16))
    script.wait(0.001)
    una, grain = script.rcv, rng.choice((1, 12, 36, 48, 48))
    for _ in range(150):
        edges = []
        for _ in range(rng.randrange(4)):
            low = una + rng.randrange(-2000, 40000) // grain * grain
            edges.append((low, low + rng.choice((1, grain, 5 * grain, 4000))))
        if rng.random() < 0.3:
            una += rng.choice((1, grain, 48 * 7, 2000, 10000))
        if stamps:
            script.ts = script.ts[0] + 1, script.ts[1] - rng.choice((0, 0, 0, 50))
        script.put("A", ack=una, opts=blocks(script, *edges[:3]) if edges else b"")
        script.lines.clear()
        script.wait(rng.choice((0, 0, 0.001, 0.01, 0.01, 0.3, 2)))
        script.host.send(script.sk, bytes(rng.choice((0, 0, 100, 5000))))
        info = script.host.net.info(script.sk)
        assert 0 <= info["tcpi_sacked"] + info["tcpi_lost"] <= info["tcpi_unacked"]
    script.host.net.counters()


@needs_compiled
@pytest.mark.parametrize("seed", range(12))
def test_what_waits_is_the_same(seed: int) -> None:
    """T-06: any sizes in any order into a small buffer, and reads: both engines agree."""
    from test_active_lockstep import Host as Both

    rng = random.Random(seed)
    script = Script(Host(Both))
    script.listen()
    script.host.setsockopt(script.listener, SOL_SOCKET, SO_RCVBUF, rng.choice((8000, 50000)))
    script.accepted(mss(1460) + SACK_PERM + NOP + wscale(rng.choice((0, 7))))
    data, at = rng.randbytes(200_000), 0
    got = b""
    while len(got) < len(data) and at < 4000:
        at += 1
        low = len(got) + rng.choice((0, rng.randrange(3000), rng.randrange(6000)))
        size = rng.choice((1, 1, 2, 30, 300, 1400))
        text = data[low : low + size]
        last = low + size >= len(data) and rng.random() < 0.5
        script.put("FA" if last else "A", text, seq=1 + low)
        if rng.random() < 0.02:
            more = script.host.recv(script.sk, rng.randrange(1, 20000))
            got += more if isinstance(more, bytes) else b""
        assert data.startswith(got)
        script.host.net.info(script.sk)
    script.host.net.counters()


@needs_compiled
@pytest.mark.parametrize("order", ["falling", "rising", "shuffled", "inwards"])
def test_segment_smack(order: str) -> None:
    """T-06, T-22: 20,000 segments of one byte, no two adjacent, and nobody reads: the queue is a
    tree, and holds what the buffer allows."""
    count, buffer = 20_000, 8 << 20
    script = Script(Host(compiled.Net))
    script.listen()
    script.host.setsockopt(script.listener, SOL_SOCKET, SO_RCVBUF, buffer // 2)
    script.accepted(mss(1460) + SACK_PERM + NOP + wscale(14))
    at = list(range(3, 3 + 2 * count, 2))
    if order == "falling":
        at.reverse()
    elif order == "shuffled":
        random.Random(6).shuffle(at)
    elif order == "inwards":
        at = [x for pair in zip(at, reversed(at), strict=True) for x in pair][:count]
    for seq in at:
        script.put("A", b"x", seq=seq)
    script.lines.clear()
    _, (pieces, steps) = script.host.net.steps(script.sk)
    assert pieces <= buffer // TRUESIZE + 1
    assert pieces >= buffer // TRUESIZE * 7 // 8
    assert steps < depth_for(pieces)


@needs_compiled
def test_path_mtus() -> None:
    """T-21, RFC 1191 6.3: of 5,000 paths that routers told of the last 4,096 are known."""
    from test_active_lockstep import Host as Both

    script = Script(Host(Both, {"tcp_syn_retries": 1}))
    peers = [f"10.9.{i >> 8}.{i & 255}" for i in range(5000)]
    for i, peer in enumerate(peers):
        script.peer = peer
        script.dial(9000)
        script.icmp(3, 4, rest=1000 + i % 400)
        assert script.host.net.info(script.sk)["tcpi_pmtu"] == 1000 + i % 400
        script.host.net.abort(script.sk)
        script.host.close(script.sk)
        script.lines.clear()
    for i in (0, 903, 904, 2500, 4999):
        script.peer = peers[i]
        script.dial(9000)
        pmtu = script.host.net.info(script.sk)["tcpi_pmtu"]
        assert pmtu == (1500 if i < 904 else 1000 + i % 400)
    script.icmp(3, 4, rest=900)  # of 4999, which is known: nobody is forgotten for it
    assert script.host.net.info(script.sk)["tcpi_pmtu"] == 900
    script.peer = peers[904]
    script.dial(9000)
    assert script.host.net.info(script.sk)["tcpi_pmtu"] == 1000 + 904 % 400


@needs_compiled
def test_sizes() -> None:
    """T-01, T-26: what a connection, a request and what is left of a connection cost."""
    sizes = compiled.sizes()
    assert sizes["tcp_sock"] <= 1024
    assert sizes["request_sock"] <= 128
    assert sizes["timewait_sock"] <= 96
