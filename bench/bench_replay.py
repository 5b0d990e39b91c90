"""`tcpcore.replay` of a file in the page cache: everything, to the summary.

Minimal frames, so that the rows tell what a packet costs; the reference takes the file's start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tcpcore
from bench import captures

PACKETS = {1: 200_000, 10_000: 500_000, 100_000: 5_000_000, 1_000_000: 8_000_000}


@pytest.mark.parametrize("conns", PACKETS)
def bench_replay(
    conns: int, engine: ModuleType, quick: bool, work: Path, gauge: Callable[..., None]
) -> None:
    slow = engine.ENGINE == "reference"
    if slow and conns > 10_000:
        pytest.skip("the reference gets smaller inputs")
    if quick and conns > 1:
        pytest.skip("quick")
    name = f"minimal-{conns}.pcap"
    path = captures.write(work / name, captures.minimal(conns, PACKETS[conns]))
    n = min(PACKETS[conns], 20_000) if slow or quick else PACKETS[conns]

    def replay(count: int) -> None:
        plain = {"analysis": False, "checksum": "ignore", "engine": engine.ENGINE}
        assert tcpcore.replay(path, count=count, **plain).summary["packets"] == n

    gauge(
        "replay",
        f"{conns:,} connection{'s' * (conns > 1)}",
        n,
        replay,
        lambda: n,
        most=3 if slow else 5,
    )
