"""Frames through the parser, 2,048 of a kind that stay in the cache, in one connection.

The TCP checksums are wrong and the mode strict, so nothing reaches the state; every row includes
the walk over the records, which the first row has alone, and those of TCP one cached look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from bench.captures import ACK, START_US, TIMESTAMPS, records
from bench.conftest import feed

N = 2048
SACK = TIMESTAMPS + bytes.fromhex("0101051a") + bytes(range(24))
SHAPES = {
    "records alone, left out by time": {},
    "UDP, 60 B: the IP header": {"protocol": 17},
    "TCP, 60 B": {},
    "TCP, 66 B, timestamps": {"options": TIMESTAMPS, "size": 66},
    "TCP, 94 B, timestamps and 3 SACK blocks": {"options": SACK, "size": 94},
    "TCP, 1,514 B, timestamps": {"options": TIMESTAMPS, "size": 1514, "payload": 1448},
}


@pytest.mark.parametrize("shape", SHAPES)
def bench_parse(
    shape: str, engine: ModuleType, followed: Callable[..., object], gauge: Callable[..., None]
) -> None:
    ends = {"saddr": 0x0A000001, "daddr": 0x0A000002, "sport": 40000, "dport": 80}
    fields = {**ends, "seq": 1000, "ack": 2000, "flags": ACK, **SHAPES[shape]}
    frames = records(START_US + np.arange(N), damaged=True, **fields)
    options = {"to_ns": 0} if shape.startswith("records") else {"strict": True}
    conntrack = followed(frames, **options)
    gauge("parse", shape, N, lambda ct: feed(ct, frames, engine.CHUNK), lambda: conntrack)
