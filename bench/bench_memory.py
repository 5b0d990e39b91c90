"""What a connection takes: bytes of live state and table, and the packet that opens it.

`bytes_connection` is the engine's own count, `rss_connection` what the process grew by.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from bench.captures import flood
from bench.conftest import feed, resident


@pytest.mark.parametrize("analysis", [False, True])
@pytest.mark.parametrize("conns", [10_000, 100_000, 1_000_000])
def bench_memory(
    conns: int,
    analysis: bool,
    engine: ModuleType,
    quick: bool,
    followed: Callable[..., object],
    gauge: Callable[..., None],
) -> None:
    if conns > 10_000 and (quick or engine.ENGINE == "reference"):
        pytest.skip("the reference gets smaller inputs")
    syns = next(flood(conns, chunk=conns))
    before = resident()
    conntrack = followed(syns, analysis=analysis)
    grown = (resident() - before) / conns
    counted = conntrack.memory / conntrack.live
    del conntrack
    gauge(
        "new connection",
        f"{conns:,} connections" + (", analysis" if analysis else ""),
        conns,
        lambda ct: feed(ct, syns, engine.CHUNK),
        lambda: followed(analysis=analysis),
        most=3,
        bytes_connection=counted,
        rss_connection=grown,
    )
