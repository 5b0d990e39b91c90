"""SipHash of the 4-tuple and the look-up, for frames of connections chosen at random.

As in bench_parse no state is touched: what a row costs beyond that of one connection is the
memory that the table and the connections are in.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from bench.captures import START_US, SYN, records
from bench.conftest import feed


@pytest.mark.parametrize("conns", [1, 1_000, 10_000, 100_000, 1_000_000])
def bench_hash(
    conns: int,
    engine: ModuleType,
    quick: bool,
    followed: Callable[..., object],
    gauge: Callable[..., None],
) -> None:
    if engine.ENGINE == "reference" and conns > 10_000:
        pytest.skip("the reference gets smaller inputs")
    if quick and conns > 1_000:
        pytest.skip("quick")
    n = 20_000 if conns <= 10_000 else 1_000_000  # more than any cache holds

    def syns(conn: np.ndarray) -> np.ndarray:
        return records(
            START_US + np.arange(len(conn)),
            saddr=0x0A000000 + conn,
            daddr=0xC0A80001,
            sport=1024 + (conn * 40503 & 0x7FFF),
            dport=443,
            seq=conn,
            flags=SYN,
            damaged=True,
        )

    conntrack = followed(syns(np.arange(conns)), strict=True)
    chosen = syns(np.random.default_rng(3).integers(0, conns, n))
    assert conntrack.live == conns
    gauge(
        "hash and look-up",
        f"{conns:,} connection{'s' * (conns > 1)}",
        n,
        lambda ct: feed(ct, chosen, engine.CHUNK),
        lambda: conntrack,
        most=5,
    )
