"""What the benchmarks share: both engines, CPU time a packet, captures kept between runs."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bench import captures
from tcpcore.engine import load

KEY = bytes(range(16))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="once over small inputs, to see it run")
    parser.addoption(
        "--work", type=Path, default=Path("build", "bench"), help="folder for captures"
    )


@pytest.fixture(params=["compiled", "reference"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    """Each engine in turn."""
    try:
        return load(request.param)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("quick"))


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Path:
    """The folder for captures; an environment of CI may throw it away."""
    return Path(request.config.getoption("work"))


@pytest.fixture
def followed(engine: ModuleType) -> Callable[..., object]:
    """Make a Conntrack that has seen records already, so that its memory is there."""

    def make(warm: np.ndarray | None = None, **options: object) -> object:
        conntrack = engine.Conntrack(**{"key": KEY, "analysis": False} | options)
        conntrack.begin(0)
        conntrack.feed(captures.HEADER, len(captures.HEADER))
        if warm is not None:
            feed(conntrack, warm, engine.CHUNK)
        return conntrack

    return make


def feed(conntrack: object, records: np.ndarray, chunk: int) -> None:
    """Give records of one size to an engine, in pieces of the size of its reads."""
    data = memoryview(records.view(np.uint8)).cast("B")
    step = chunk // records.itemsize * records.itemsize
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        taken = conntrack.feed(piece, len(piece))
        assert taken == len(piece), "every record is whole"


@pytest.fixture
def gauge(benchmark: object, engine: ModuleType, quick: bool) -> Callable[..., None]:
    """Measure `work` on what `setup` makes; the cost of one of its `n` packets stands beside it.

    With `base`, the same without the step of interest, `net_ns` is what the step adds.
    """
    slow = engine.ENGINE == "reference"
    rounds = 1 if quick else 3 if slow else 15

    def measure(
        group: str,
        case: str,
        n: int,
        work: Callable[..., object],
        setup: Callable[[], object],
        base: tuple[Callable[..., object], Callable[[], object]] | None = None,
        most: int = 15,
        **extra: float,
    ) -> None:
        times = min(rounds, most)
        without: list[int] = []

        def prepare() -> tuple[tuple[object], dict[str, object]]:
            """Measure `base` just before each round, so that both have the same machine."""
            if base is not None:
                without.append(cpu_ns(*base))
            return (setup(),), {}

        benchmark.group = f"{group}: {case}"
        benchmark.pedantic(work, setup=prepare, rounds=times, warmup_rounds=not quick)
        ns = benchmark.stats.stats.median / n * 1e9
        if base is not None:
            extra["net_ns"] = ns - statistics.median(without[-times:]) / n
        benchmark.extra_info.update(
            operation=group, case=case, engine=engine.ENGINE, ns=ns, mpps=1e3 / ns, **extra
        )

    return measure


def cpu_ns(work: Callable[..., object], setup: Callable[[], object]) -> int:
    """CPU time of `work(setup())`, setup not counted."""
    one = setup()
    started = time.process_time_ns()
    work(one)
    return time.process_time_ns() - started


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
