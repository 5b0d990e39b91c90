"""Streams at their worst: one connection of one-byte segments, in an order that leaves holes.

From the capture's first byte until the stream is handed out; time per segment has to be flat.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tcpcore

SEGMENTS = (10_000, 100_000, 1_000_000)
FRAME = bytes.fromhex(
    "020000000002020000000001 0800 4500 0029 0000 4000 4006 0000 0a000001 0a000002"
    "03e8 0050 00000000 000001f5 5010 ffff 0000 0000 78"
)


def worst(path: Path, count: int) -> Path:
    """Every third byte of the stream backwards, then every third of the rest, then the last."""
    record = np.frombuffer(struct.pack("<IIII", 0, 0, len(FRAME), len(FRAME)) + FRAME, np.uint8)
    rows = np.tile(record, (count, 1))
    order = np.concatenate([np.arange(count - 1 - start, -1, -3) for start in range(3)])
    rows[:, 16 + 38 : 16 + 42] = order.astype(">u4").view(np.uint8).reshape(count, 4)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + rows.tobytes())
    return path


@pytest.mark.parametrize("count", SEGMENTS)
def bench_worst_order(
    count: int, engine: ModuleType, quick: bool, work: Path, gauge: Callable[..., None]
) -> None:
    if count > 10_000 and (quick or engine.ENGINE == "reference"):
        pytest.skip("quick, or the reference")
    path = worst(work / f"worst-{count}.pcap", count)

    def streams(_: object) -> None:
        found = tcpcore.replay(path, streams=True, engine=engine.ENGINE)
        assert sum(len(one.data) for one in found.streams()) > 0

    gauge("streams", f"{count:,} one-byte segments, worst order", count, streams, lambda: 0, most=5)
