"""The Internet checksum, 20 bytes to 64 KiB, by the door of each engine.

What calling the door from Python costs is measured with no bytes and taken off in `net_ns`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat
from types import ModuleType

import numpy as np
import pytest


@pytest.mark.parametrize("size", [20, 40, 64, 256, 1460, 8192, 65536])
def bench_csum(size: int, engine: ModuleType, gauge: Callable[..., None]) -> None:
    data = np.random.default_rng(1).bytes(size)
    n = max(100, 400_000 // size)

    def each(data: bytes) -> None:
        deque(map(engine.csum, repeat(data, n)), maxlen=0)

    gauge("checksum", f"{size:,} B", n, each, lambda: data, base=(each, bytes), bytes=size)
