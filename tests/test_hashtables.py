"""The table of connections against a dict: what was entered is found, what left is not.

Through whole captures, as nothing else enters or leaves. T-02: a secret key changes nothing.
"""

from __future__ import annotations

import random
from array import array
from types import ModuleType

import capgen
import lockstep
import pytest
from capgen import ACK, SYN

CONNECTIONS = 3000


def frame(number: int, flags: int = ACK) -> bytes:
    """A segment of connection `number`; neighbours differ in one field, in either direction."""
    host, port = divmod(number, 60)
    ends = (f"10.0.{host >> 8}.{host & 255}", "10.9.9.9", 1024 + port, 80)
    if number % 3 == 0:
        ends = (f"2001:db8::{host:x}", "2001:db8::ffff", 1024 + port, 80)
    if flags == ACK and number % 2:
        ends = (ends[1], ends[0], ends[3], ends[2])
    return capgen.frame(*ends, flags=flags, seq=7)


def conns(conntrack: object, names: tuple[str, ...] = ("conn",)) -> array[int]:
    return array("q", bytes(conntrack.packets(list(names))[1]["conn"]))


def test_every_one_is_found(engine: ModuleType) -> None:
    """In both directions, however often the table grew in between."""
    rng = random.Random(1)
    later = rng.sample(range(CONNECTIONS), CONNECTIONS)
    frames = [frame(n, SYN) for n in range(CONNECTIONS)] + [frame(n) for n in later]
    conntrack = engine.Conntrack(packets=True, key=rng.randbytes(16))
    lockstep.feed(conntrack, capgen.pcap((n, one) for n, one in enumerate(frames)))
    assert list(conns(conntrack)) == [*range(CONNECTIONS), *later]
    assert conntrack.live == CONNECTIONS


@pytest.mark.parametrize("seed", range(4))
def test_those_that_leave_are_gone(engine: ModuleType, seed: int) -> None:
    """A model with a dict: the longest idle leaves, and the others are still found."""
    rng = random.Random(seed)
    bound = rng.choice((1, 3, 50, 300))
    told = [rng.randrange(bound * 2) for _ in range(4000)]
    live: dict[int, int] = {}
    expected, evicted = [], 0
    for number in told:
        if number not in live and len(live) == bound:
            del live[next(iter(live))]
            evicted += 1
        conn = live.pop(number, None)
        live[number] = len(set(expected)) if conn is None else conn
        expected.append(live[number])
    conntrack = engine.Conntrack(packets=True, max_connections=bound, key=rng.randbytes(16))
    lockstep.feed(conntrack, capgen.pcap((n, frame(one)) for n, one in enumerate(told)))
    assert list(conns(conntrack)) == expected
    assert conntrack.summary()["evicted"] == evicted
    assert conntrack.live == len(live)


def test_the_key_changes_nothing(engine: ModuleType) -> None:
    data = [lockstep.capture(3)]
    one = lockstep.outcome(engine, data, key=bytes(16), max_connections=9)
    for key in (b"\xff" * 16, bytes(range(16))):
        other = lockstep.outcome(engine, data, key=key, max_connections=9)
        lockstep.assert_same(one, other)


def test_memory_follows_the_live(engine: ModuleType) -> None:
    data = capgen.pcap((n, frame(n, SYN)) for n in range(CONNECTIONS))
    free, bound = engine.Conntrack(), engine.Conntrack(max_connections=100)
    lockstep.feed(free, data)
    lockstep.feed(bound, data)
    assert bound.memory < free.memory / 4
