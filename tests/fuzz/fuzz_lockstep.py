"""Fuzz both engines side by side: what one tells of a capture, the other has to tell.

``python tests/fuzz/fuzz_lockstep.py --seconds 600``; a finding is told by its seed, which
``--seed N --count 1`` runs again. The captures are random traffic, traffic at the edges of what
numbers and clocks can be, and real captures, in tunnels and fragments too, most of it damaged.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if __name__ == "__main__":
    sys.path += [str(HERE.parent), str(ROOT)]

import capgen  # noqa: E402
import inputs  # noqa: E402
import lockstep  # noqa: E402
from capgen import SEC  # noqa: E402
from lockstep import CONNECTION_NAMES, PACKET_NAMES  # noqa: E402

from tcpcore.filter import compile_filter  # noqa: E402
from tcpcore.stream import OVERLAPS  # noqa: E402

TOP = (1 << 63) - 1
TIMES = (0, 1, -1, 5 * SEC, 10**18, 1 << 62, TOP - 1, TOP, -TOP, -TOP - 1, 24 * 86400 * SEC)
SUFFIXES = (".pcap", ".pcapng", ".cap")
STEPS = (0, 0, 0, 1, 1000, 10**6, SEC, 10 * SEC, 31 * SEC)
ENDS = (
    ("10.0.0.1", "10.0.0.2", 1, 2),
    ("10.0.0.1", "10.0.0.1", 5, 5),
    ("10.0.0.1", "10.0.0.1", 5, 6),
    ("2001:db8::1", "2001:db8::2", 1, 2),
    ("::ffff:10.0.0.1", "::ffff:10.0.0.2", 1, 2),
    ("2001:db8::1", "2001:db8::1", 7, 7),
    ("2001:db8:1::1", "2001:db8::1", 1, 1),
)
FLAGS = (2, 2, 0x12, 0x12, *(0x10,) * 6, 0x18, 0x18, 0x11, 0x11, 4, 0x14, 1, 0, 3, 6, 0x30, 0x29)
PLACES = (0, 0, 1, 1, 1, 2, 3, 11, 12, 101, -1, 1000, 70000, 1 << 20, 1 << 30, (1 << 31) + 1)
WIRELENS = ((1 << 32) - 1, 1 << 31, (1 << 32) - 100, 3 << 30, 1 << 30)


# ---- captures -----------------------------------------------------------------------------------


def edges(rng: random.Random, count: int) -> Iterator[lockstep.Record]:
    """Segments of a few 4-tuples whose numbers, times and lengths stand at their edges."""
    tuples = rng.sample(ENDS, rng.randrange(1, 5))
    bases = [rng.choice((0, 1, 1 << 31, (1 << 32) - 3, rng.randrange(1 << 32))) for _ in range(2)]
    follows, back = rng.random() < 0.7, rng.random() < 0.3
    follow: dict[tuple[object, ...], int] = {}
    now = rng.choice(TIMES)
    for _ in range(count):
        a, b, sport, dport = rng.choice(tuples)
        side = rng.randrange(2)
        ends = (b, a, dport, sport) if side else (a, b, sport, dport)
        peer = (ends[1], ends[0], ends[3], ends[2])
        flags = rng.choice(FLAGS) if rng.random() < 0.97 else rng.randrange(4096)
        seq, ack = bases[side] + rng.choice(PLACES), bases[1 - side] + rng.choice(PLACES)
        if follows and rng.random() < 0.8:
            seq = bases[side] if flags & 2 else follow.get(ends, bases[side])
            ack = follow.get(peer, bases[1 - side])
        size = rng.choice((0, 0, 0, 1, 10, 100))
        follow[ends] = seq + size + (flags & 1) + (flags >> 1 & 1)
        options = b""
        if rng.random() < 0.3:
            options += capgen.timestamp(rng.choice((0, 1, 5, 1 << 31, (1 << 32) - 1)), 0)
        if rng.random() < 0.3:
            options += capgen.mss(rng.choice((0, 500, 1460)))
            options += capgen.NOP + capgen.wscale(rng.choice((0, 1, 7, 14, 15, 255)))
        fields: dict[str, Any] = {
            "seq": seq & 0xFFFFFFFF,
            "ack": ack & 0xFFFFFFFF,
            "flags": flags,
            "window": rng.choice((0, 1, 100, 65535)),
            "options": options,
            "payload": rng.randbytes(size),
        }
        if rng.random() < 0.03:
            fields["csum"] = rng.randrange(1 << 16)
        large = rng.random() < 0.06
        if large:
            fields["ip"] = {"length" if ":" in a else "total": 0}
        data = capgen.frame(*ends, **fields)
        wirelen = len(data) + (rng.randrange(3000) if rng.random() < 0.05 else 0)
        if large:
            wirelen = rng.choice((*WIRELENS, len(data) + 70000))
        if rng.random() < 0.03:
            data = data[: rng.randrange(len(data) + 1)]
        now += rng.choice(STEPS) if rng.random() < 0.3 else 0
        if back and rng.random() < 0.06:
            now = rng.choice((*TIMES, now - SEC, now - 10**12))
        now = max(min(now, TOP), -TOP - 1)
        yield now, data, wirelen


def packets_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Times and IP packets of a pcap of Ethernet or raw IP."""
    endian = {b"\xd4\xc3\xb2\xa1": "little", b"\xa1\xb2\xc3\xd4": "big"}.get(data[:4], "")
    if not endian:
        return
    raw = int.from_bytes(data[20:24], endian) & 0xFFFF != capgen.ETHERNET
    at = 24
    while at + 16 <= len(data):
        words = [int.from_bytes(data[at + i : at + i + 4], endian) for i in (0, 4, 8)]
        frame = data[at + 16 : at + 16 + words[2]]
        at += 16 + words[2]
        ip = frame if raw else frame[14:]
        if ip and (raw or frame[12:14] in (b"\x08\0", b"\x86\xdd")):
            yield words[0] * SEC + words[1] % 1_000_000 * 1000, ip


def wrapped(data: bytes, rng: random.Random) -> bytes:
    """The packets of a capture in tunnels and fragments, by several interfaces, as pcapng."""
    out = capgen.section() + capgen.interface(resolution=9) * 2
    kind = rng.choice((0, 0.2, 1))
    broken = rng.choice((0, 0.2, 0.7))
    for time_ns, ip in packets_of(data):
        frames = [capgen.frame_of(ip)]
        if rng.random() < kind and len(ip) < 60000:
            frames = [rng.choice(list(capgen.tunnels(ip).values()))]
            ip = frames[0][14:] if frames[0][12:14] == b"\x08\0" else ip
        least = 40 if ip[0] >> 4 == 6 else 20
        if rng.random() < broken and least + 8 < len(ip) < 60000 and len(ip) > (ip[0] & 15) * 4:
            cuts = sorted(rng.sample(range(8, len(ip) - least + 7, 8), 1 + (len(ip) > 99)))
            cuts = [cut for cut in cuts if cut < len(ip) - least]
            pieces = capgen.fragments(ip, *cuts, number=rng.randrange(1 << 16))
            frames = [capgen.frame_of(piece) for piece in pieces]
            if rng.random() < 0.3:
                rng.shuffle(frames)
        for frame in frames:
            out += capgen.enhanced(time_ns, frame, number=rng.randrange(2))
    return out


@cache
def real(folder: str) -> list[bytes]:
    """The starts of captures."""
    return [path.read_bytes()[:60_000] for path in captures_in(folder)]


def captures_in(folder: str) -> list[Path]:
    """The examples, and the captures of a folder that may be named."""
    found = sorted((ROOT / "examples").glob("*.pcap*"))
    if folder:
        found += sorted(p for p in Path(folder).iterdir() if p.suffix in SUFFIXES)
    return found


def capture(rng: random.Random, folder: str) -> bytes:
    """A capture of some kind, damaged or not."""
    kind = rng.random()
    if kind < 0.3:
        return lockstep.capture(rng.randrange(1 << 30), talks=rng.choice((3, 8, 15)))
    if kind < 0.5:
        records = edges(rng, rng.choice((5, 20, 60, 150)))
        data = capgen.pcapng(records, endian=rng.choice("<>"))
        return data if rng.random() < 0.8 else lockstep.mutated(data, rng.randrange(1 << 30))
    data = rng.choice(real(folder))[: rng.choice((2000, 10_000, 40_000))]
    if rng.random() < 0.5:
        data = wrapped(data, rng)
    return lockstep.mutated(data, rng.randrange(1 << 30)) if rng.random() < 0.8 else data


# ---- options ------------------------------------------------------------------------------------


def options(rng: random.Random) -> dict[str, Any]:
    """Arguments for a Conntrack, any of them at times."""
    chosen: dict[str, Any] = {
        "rows": rng.choice(("keep", "keep", "drain", "drop")),
        "analysis": rng.random() < 0.7,
        "packets": rng.random() < 0.9,
        "keyed": rng.choice((0, 0, rng.randrange(8))),
    }
    if rng.random() < 0.5:
        chosen[rng.choice(("strict", "auto"))] = True
    if rng.random() < 0.4:
        chosen["max_connections"] = rng.choice((1, 2, 3, 5, 20))
    if rng.random() < 0.3:
        chosen["expire_idle_ns"] = rng.choice((1, 10**6, SEC, 10**12, 1 << 63, (1 << 64) - 1))
    if rng.random() < 0.3:
        chosen["expire_closed_ns"] = rng.choice((1, 10**6, SEC, 10**12, (1 << 64) - 1))
    if rng.random() < 0.1:
        chosen["count"] = rng.randrange(1, 60)
    if rng.random() < 0.1:
        chosen["from_ns"] = rng.choice(TIMES)
    if rng.random() < 0.1:
        chosen["to_ns"] = rng.choice(TIMES)
    if rng.random() < 0.6:
        chosen["streams"] = rng.choice((1 << 20, 1 << 20, 20_000, 3000, rng.randrange(1, 3000)))
    if rng.random() < 0.3:
        one, other = rng.sample(inputs.FILTERS, 2)
        text = rng.choice((one, f"({one}) or {other}", f"({one}) and not ({other})"))
        chosen["filter"] = compile_filter(text)
    return chosen


# ---- one input ----------------------------------------------------------------------------------


def outcome(
    engine: ModuleType,
    captures: list[bytes],
    chunk: int,
    chosen: dict[str, Any],
    key: bytes = bytes(16),
    group: int = 32 << 20,
    pauses: bool = False,
) -> dict[str, Any]:
    """Everything that an engine tells, streams too if there are any; `pauses`: between captures
    as well, and what was told is forgotten."""
    conntrack = engine.Conntrack(key=key, **chosen)
    early: dict[str, Any] = {}

    def pause(number: int) -> None:
        if not pauses:
            return
        for part, names in (("connections", CONNECTION_NAMES), ("packets", PACKET_NAMES)):
            early[f"{part} so far {number}"] = lockstep.rows(getattr(conntrack, part)(names))
        early[f"summary so far {number}"] = conntrack.summary()
        if chosen.get("streams"):
            streams = inputs.streams_of(engine, conntrack, captures, "first", False, group)
            early[f"streams so far {number}"] = streams
        conntrack.drain()

    told = lockstep.told_of(conntrack, captures, chunk, pause) | early
    if chosen.get("streams"):
        told["memory of streams"] = conntrack.given_up, conntrack.begun
        for overlap in OVERLAPS:
            told[f"streams {overlap}"] = inputs.streams_of(
                engine, conntrack, captures, overlap, overlap in ("last", "bsd"), group
            )
    return told


def one(seed: int, reference: ModuleType, compiled: ModuleType, folder: str = "") -> None:
    """Run one input through both engines; an AssertionError is a finding."""
    rng = random.Random(seed)
    captures = [capture(rng, folder) for _ in range(rng.choice((1, 1, 2)))]
    chosen = options(rng)
    chunks = [rng.choice((1 << 16, 1 << 16, 4096, 333)) for _ in range(2)]
    pauses = rng.random() < 0.3
    wanted = outcome(reference, captures, chunks[0], chosen, pauses=pauses)
    group = rng.choice((32 << 20, 5000, 97))
    found = outcome(compiled, captures, chunks[1], chosen, rng.randbytes(16), group, pauses)
    lockstep.assert_same(wanted, found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="the first (0)")
    parser.add_argument("--count", type=int, default=0, help="inputs at most (no bound)")
    parser.add_argument("--captures", default=os.environ.get("TCPCORE_CAPTURES", ""))
    chosen = parser.parse_args()
    from tcpcore.engine import load

    engines = load("reference"), load("compiled")
    end, seed, found = time.monotonic() + chosen.seconds, chosen.seed, 0
    while time.monotonic() < end and (not chosen.count or seed < chosen.seed + chosen.count):
        try:
            one(seed, *engines, chosen.captures)
        except Exception as problem:
            found += 1
            first = (str(problem).splitlines() or [""])[0]
            print(f"seed {seed}: {type(problem).__name__}: {first[:150]}", flush=True)
        seed += 1
    print(f"{seed - chosen.seed} inputs, {found} findings")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
