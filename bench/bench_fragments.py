"""IPv4 fragments at their worst: datagrams of a thousand pieces, the last one first (T-07).

Time per fragment has to be flat, however many there are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tcpcore

PIECES = 1000  # of 8 bytes, of a datagram
DATAGRAMS = (1, 10, 100, 1000)


def fragments(path: Path, datagrams: int) -> Path:
    """A capture of TCP segments in fragments, whose sums are not filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for number in range(datagrams):
            for at in range(PIECES - 1, -1, -1):
                word = at | (0x2000 if at < PIECES - 1 else 0)
                ip = struct.pack(">BBHHHBBH", 0x45, 0, 28, number, word, 64, 6, 0)
                ip += bytes((10, 0, 0, 1, 10, 0, 0, 2))
                sums = sum(struct.unpack(">10H", ip))
                csum = 0xFFFF - (sums % 0xFFFF or 0xFFFF)
                packet = ip[:10] + csum.to_bytes(2, "big") + ip[12:] + bytes(8)
                out.write(struct.pack("<IIII", number, at, len(packet), len(packet)) + packet)
    return path


@pytest.mark.parametrize("datagrams", DATAGRAMS)
def bench_worst_order(
    datagrams: int, engine: ModuleType, quick: bool, work: Path, gauge: Callable[..., None]
) -> None:
    if datagrams > 10 and (quick or engine.ENGINE == "reference"):
        pytest.skip("quick, or the reference")
    path = fragments(work / f"fragments-{datagrams}.pcap", datagrams)
    count = datagrams * PIECES

    def replay(_: object) -> None:
        found = tcpcore.replay(path, analysis=False, checksum="ignore", engine=engine.ENGINE)
        assert found.counters["IpReasmOKs"] == datagrams

    gauge("fragments", f"{count:,} fragments, backwards", count, replay, lambda: 0, most=5)
