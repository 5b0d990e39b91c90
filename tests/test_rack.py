"""RACK: both engines agree on what is lost (RFC 8985); tests/packetdrill/rack is held to Linux."""

from __future__ import annotations

import random

import pytest
from capgen import NOP, timestamp
from script import Host, Script
from test_queues import SO_SNDBUF, SOL_SOCKET, WIDE, blocks, needs_compiled

RECOVERY, LOSS = 3, 4


@needs_compiled
@pytest.mark.parametrize("seed", range(24))
def test_both_engines_find_the_same_lost(seed: int) -> None:
    """RFC 8985 6.2: segments late, twice or never, near a round trip: both engines agree."""
    from test_active_lockstep import Host as Both

    rng = random.Random(seed)
    stamps = seed % 3 == 0
    knobs = {
        "tcp_wmem": (4096, 16384, 1 << 28),
        "tcp_recovery": rng.choice((0, 1, 1, 2, 4, 6)),
        "tcp_early_retrans": rng.choice((0, 3)),
        "tcp_frto": rng.choice((0, 2)),
    }
    script = Script(Host(Both, knobs))
    script.ts = (1, 0) if stamps else None
    script.accepted(WIDE + (NOP * 2 + timestamp(1, 0) if stamps else b""))
    script.set(SOL_SOCKET, SO_SNDBUF, 1 << 20)
    script.rcv = 1
    for _ in range(5):
        script.host.send(script.sk, bytes(1 << 12))
        script.wait(0.02)
        script.put("A")
    script.hold = True
    script.host.send(script.sk, bytes(1 << 16))
    una, grain, states = script.rcv, rng.choice((1460, 1460, 48, 536)), set()
    for _ in range(120):
        edges = []
        for _ in range(rng.randrange(4)):
            low = una + rng.randrange(-3, 25) * grain
            edges.append((low, low + grain * rng.choice((1, 1, 2, 5))))
        if rng.random() < 0.3:
            una += rng.choice((1, 2, 7)) * grain
        if stamps:
            script.ts = script.ts[0] + 1, script.ts[1] - rng.choice((0, 0, 0, 50))
        script.put("A", ack=una, opts=blocks(script, *edges) if edges else b"")
        script.lines.clear()
        script.wait(rng.choice((0, 0, 0.001, 0.004, 0.01, 0.02, 0.02, 0.05, 0.3)))
        script.host.send(script.sk, bytes(rng.choice((0, 0, 1460, 5000))))
        info = script.host.net.info(script.sk)
        states.add(info["tcpi_ca_state"])
        assert 0 <= info["tcpi_sacked"] + info["tcpi_lost"] <= info["tcpi_unacked"]
    script.host.net.counters()
    assert states & {RECOVERY, LOSS}
