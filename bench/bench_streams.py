"""Streams at their worst: one connection of one-byte segments, in orders that leave holes.

From the capture's first byte until the stream is handed out; time per segment has to be flat.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tcpcore
from bench import captures

SEGMENTS = (10_000, 100_000, 1_000_000)


@pytest.mark.parametrize("order", captures.ORDERS)
@pytest.mark.parametrize("count", SEGMENTS)
def bench_one_byte(
    count: int,
    order: str,
    engine: ModuleType,
    quick: bool,
    work: Path,
    gauge: Callable[..., None],
) -> None:
    if count > 10_000 and (quick or engine.ENGINE == "reference"):
        pytest.skip("quick, or the reference")
    name = f"one-byte-{order.replace(' ', '-')}-{count}.pcap"
    path = captures.write(work / name, captures.one_byte(count, order))
    plain = {"analysis": False, "checksum": "ignore", "engine": engine.ENGINE}

    def streams(_: object) -> None:
        found = tcpcore.replay(path, streams=True, **plain)
        assert sum(len(one.data) for one in found.streams()) == count

    gauge("streams", f"{count:,} one-byte segments, {order}", count, streams, lambda: 0, most=5)
