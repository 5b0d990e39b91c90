"""Function by function, both engines say the same of random and of broken arguments.

`test_lockstep` compares them as wholes; this one finds which floor differs. Also here: the words
that users read are those of the vocabulary, and a struct has the size that its file promises.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import capgen
import lockstep
import numpy as np
import pytest
from capgen import ACK, FIN, PSH, RST, SYN, URG

from tcpcore.columns import CONFLICTS, CONNECTIONS, DROP_NAMES, PACKETS, VERDICT_NAMES
from tcpcore.mib import COUNTERS
from tcpcore.reference import snmp, tcp

SEEDS = range(20)
DOORS = (
    "ENGINE CHUNK isa pcap_peek arrow_release Conntrack csum siphash flow_hash fragment_pieces "
    "parse_frame parse_options tcb_xmit tcb_rcv tcp_sequence"
)
# Numbers at the corners of the circle, near enough to each other to meet.
NUMBERS = (0, 1, 2, 1000, 1460, (1 << 31) - 1, 1 << 31, (1 << 32) - 1460, (1 << 32) - 1)


def same(reference: ModuleType, compiled: ModuleType, door: str, *arguments: Any) -> None:
    one, other = getattr(reference, door)(*arguments), getattr(compiled, door)(*arguments)
    assert one == other, (door, arguments)


def number(rng: random.Random) -> int:
    return (rng.choice(NUMBERS) + rng.randrange(-3, 4)) & 0xFFFFFFFF


def random_end(rng: random.Random) -> dict[str, int]:
    tcb = {name: number(rng) for name in tcp.Tcb.__slots__[:8]}
    tcb["snd_wnd"] &= (1 << 30) - 1
    tcb["max_window"] = tcb["snd_wnd"]
    tcb["state"] = rng.randrange(1, tcp.TCP_MAX_STATES)
    tcb["snd_wscale"], tcb["rcv_wscale"] = rng.randrange(15), rng.randrange(15)
    return tcb | {"flags": rng.choice((rng.randrange(256), 0x0F, 0x7F, 0xFF))}


def random_segment(rng: random.Random) -> dict[str, int]:
    flags = rng.choice((ACK, ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, PSH | URG, 0xFFF))
    return {
        "seq": number(rng),
        "ack": number(rng),
        "flags": flags,
        "payload_len": rng.choice((0, 0, 1, 1460, 65535, (1 << 31) + 1000, 3 << 30)),
        "window": rng.choice((0, 1, 1000, 65535)),
        "opts": rng.randrange(16),
        "mss": rng.randrange(1 << 16),
        "wscale": rng.choice((0, 7, 14, 15, 255)),
        "tsval": number(rng),
        "tsecr": number(rng),
    }


@pytest.mark.parametrize("door", ["tcb_xmit", "tcb_rcv"])
@pytest.mark.parametrize("seed", SEEDS)
def test_judge(reference: ModuleType, compiled: ModuleType, seed: int, door: str) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        same(reference, compiled, door, random_end(rng), random_segment(rng))


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_acceptability(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        seq = number(rng)
        end_seq = (seq + rng.choice((0, 1, 1460))) & 0xFFFFFFFF
        same(reference, compiled, "tcp_sequence", random_end(rng), seq, end_seq)


@pytest.mark.parametrize("seed", SEEDS)
def test_frames(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    """T-13: cut anywhere, of any link type, with any bytes changed."""
    rng = random.Random(seed)
    linktypes = (*capgen.LINKTYPES, capgen.IPV4, capgen.IPV6, 147)
    for _, data, wirelen in lockstep.traffic(seed, talks=5):
        linktype = rng.choice((capgen.ETHERNET, capgen.ETHERNET, *linktypes))
        if rng.random() < 0.5:
            data = capgen.link(linktype, data[14:]) if _linkable(linktype, data) else data
        broken = bytearray(data)
        for _ in range(rng.choice((0, 1, 3)) if broken else 0):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        data = bytes(broken[: rng.choice((len(broken), rng.randrange(len(broken) + 1)))])
        same(reference, compiled, "parse_frame", linktype, data, max(wirelen, len(data)))


def _linkable(linktype: int, data: bytes) -> bool:
    return len(data) > 14 and linktype in capgen.LINKTYPES


@pytest.mark.parametrize("seed", SEEDS)
def test_options(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    pieces: tuple[Callable[[], bytes], ...] = (
        lambda: capgen.mss(rng.randrange(1 << 16)),
        lambda: capgen.wscale(rng.randrange(256)),
        lambda: capgen.timestamp(rng.getrandbits(32), rng.getrandbits(32)),
        lambda: capgen.SACK_PERM,
        lambda: capgen.NOP,
        lambda: capgen.EOL,
        lambda: rng.randbytes(rng.randrange(5)),
        lambda: bytes((rng.randrange(10), rng.randrange(12))),
    )
    for _ in range(200):
        options = b"".join(rng.choice(pieces)() for _ in range(rng.randrange(8)))[:40]
        same(reference, compiled, "parse_options", options)


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_sums_and_hashes(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        data = rng.randbytes(rng.choice((rng.randrange(80), rng.randrange(3000))))
        key = rng.randbytes(16)
        same(reference, compiled, "csum", data, rng.getrandbits(16))
        same(reference, compiled, "siphash", key, data)
        same(reference, compiled, "md5", data)
        ends = rng.randbytes(16), rng.randbytes(16), rng.getrandbits(16), rng.getrandbits(16)
        same(reference, compiled, "flow_hash", key, *ends)


@pytest.mark.parametrize("seed", SEEDS)
def test_first_look(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    data = lockstep.capture(seed, talks=1)
    for _ in range(30):
        piece = lockstep.mutated(data[:200], rng.getrandbits(32))
        same(reference, compiled, "pcap_peek", piece, rng.randrange(len(piece) + 1))


# Words and sizes.


def test_doors(engine: ModuleType) -> None:
    assert [name for name in DOORS.split() if not hasattr(engine, name)] == []
    assert engine.ENGINE in engine.__name__ or engine.ENGINE == "compiled"


def test_words() -> None:
    assert [1 << bit for bit, _ in enumerate(VERDICT_NAMES)] == [int(v) for v in tcp.Verdict]
    assert list(VERDICT_NAMES) == [verdict.name for verdict in tcp.Verdict]
    assert list(DROP_NAMES) == [drop.name for drop in tcp.Drop][:-1]
    assert len(DROP_NAMES) == tcp.Drop.NR_DROPS
    assert len(COUNTERS) == snmp.Mib.NR_MIBS


def test_columns(engine: ModuleType) -> None:
    """Every column's buffer holds its dtype."""
    conntrack = engine.Conntrack(packets=True)
    lockstep.feed(conntrack, lockstep.capture(0))
    theirs = [column for column in CONNECTIONS if column.name not in CONFLICTS]
    for columns, ask in ((theirs, conntrack.connections), (PACKETS, conntrack.packets)):
        count, buffers = ask([column.name for column in columns])
        for column in columns:
            size = 16 if column.dtype == "uint8[16]" else np.dtype(column.dtype).itemsize
            assert memoryview(buffers[column.name]).nbytes == count * size, column


def test_sizes(compiled: ModuleType) -> None:
    """A flow is two cache lines, the rest of it one, and a bucket of the table one."""
    sizes = compiled.sizes()
    wanted = {"tcb": 36, "end": 52, "flow": 128, "flow_rest": 64, "bucket": 64}
    wanted |= {"skb": 32, "sock_queue": 160}  # as the budget counts them
    assert {name: sizes[name] for name in wanted} == wanted
