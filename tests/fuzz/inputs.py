"""What the fuzzers share: filters to choose from, raw programs, streams read out of memory."""

from __future__ import annotations

from threading import Lock
from types import ModuleType
from typing import Any

from tcpcore import stream
from tcpcore.sources import Sources
from tcpcore.stream import Streams

FILL_MAX = 1 << 20
FILTERS = (
    "tcp",
    "ip6 or vlan",
    "port 80 or 443",
    "src net 10 and not dst port 80",
    "not (host 10.0.0.1 and portrange 40000-40001)",
    "net 2001:db8::/32 or net ::ffff:0:0/96",
    "vlan and vlan 101",
    "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) = 0",
    "tcp[((tcp[12] & 0xf0) >> 2):4] != 0 and ip[2:2] > 41",
    "ip6[6] = 6 or ip[(ip[0] & 15) << 2:2] < 1024",
    "ether[len - 60:4] % (len - 66) != 1",
    "greater 60 and less 1400 and len & 1 = 0",
)

Instruction = tuple[int, int, int, int, int, int]


def program_of(data: bytes) -> list[Instruction]:
    """Bytes as a program, six an instruction, whose jumps go forward: many are sound."""
    size = len(data) // 6
    made = []
    for i in range(size):
        code, arg, jt, jf, k, m = data[6 * i : 6 * i + 6]
        ends = min(i + 1 + jt % 8, size + (jt >> 7)), min(i + 1 + jf % 8, size + (jf >> 7))
        wide = (k, k << 8 | m, 1 << 31 | m, 0xFFFFFFFF)[arg >> 6]
        made.append((code % 23, arg & 7, *ends, wide, m * 257))
    return made


class Held(Sources):
    """Captures in memory, to be read again."""

    def __init__(self, captures: list[bytes]) -> None:
        super().__init__()
        self._captures = captures

    def _fetch(self, number: int, low: int, room: memoryview) -> None:
        room[:] = self._captures[number][low : low + len(room)]


def streams_of(
    engine: ModuleType,
    conntrack: Any,
    captures: list[bytes],
    overlap: str,
    fill: bool,
    group: int = stream.GROUP,
) -> list[tuple[object, ...]]:
    """Everything that is told of every stream, gathered `group` bytes at a time."""
    sources = Held(captures)
    told: list[tuple[object, ...]] = []
    usual, stream.GROUP = stream.GROUP, group
    try:
        for one in Streams(engine, conntrack, Lock(), sources, overlap, fill, FILL_MAX):
            told.append((one.conn, one.direction, one.length, one.gaps, differing(one)))
            if one.length <= FILL_MAX:
                told.append((one.data,))
            if one.length < 2000:
                assert b"".join(one.pieces(37)) == one.data, "other pieces have other bytes"
    finally:
        stream.GROUP = usual
    return told


def differing(one: stream.Stream) -> object:
    """Its conflicts byte by byte, since runs end where what was gathered together does."""
    found = [
        (at + i, a, b)
        for at, kept, other in one.conflicts
        for i, (a, b) in enumerate(zip(kept, other, strict=True))
    ]
    return sorted(found), one.conflicting_bytes
