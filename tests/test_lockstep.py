"""The engines are one: the same captures give the same columns, counters and summary.

A failing test's name has its seed.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import lockstep
import pytest
from capgen import SEC

import tcpcore

SEEDS = range(40)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"strict": True},
    {"auto": True},
    {"max_connections": 4},
    {"max_connections": 1, "rows": "drain"},
    {"expire_idle_ns": 2 * SEC},
    {"expire_closed_ns": SEC // 10, "rows": "drop"},
    {"expire_idle_ns": 60 * SEC, "expire_closed_ns": SEC, "max_connections": 7, "strict": True},
    {"rows": "drain"},
    {"rows": "drop"},
    {"count": 50},
    {"keyed": 1},
    {"keyed": 4, "max_connections": 5, "rows": "drain"},
    {"keyed": 7, "expire_idle_ns": 2 * SEC},
    {"from_ns": 3 * SEC, "to_ns": 1_700_000_010 * SEC},
)
STREAM_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"checksum": "strict"},
    {"max_connections": 4},
    {"stream_memory": 2000},
    {"stream_memory": 1500, "max_connections": 7, "expire_closed_s": 1},
)
OVERLAPS = ("first", "last", "linux", "bsd", "windows")


def name_of(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items()) or "plain"


@pytest.mark.parametrize("seed", SEEDS)
def test_random_traffic(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    data = [lockstep.capture(seed)]
    lockstep.assert_same(lockstep.outcome(reference, data), lockstep.outcome(compiled, data))


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
@pytest.mark.parametrize("seed", SEEDS[:5])
def test_options(
    reference: ModuleType, compiled: ModuleType, options: dict[str, Any], seed: int
) -> None:
    data = [lockstep.capture(seed), lockstep.capture(seed + 1000)]
    lockstep.assert_same(
        lockstep.outcome(reference, data, **options), lockstep.outcome(compiled, data, **options)
    )


def streams_of(engine: ModuleType, captures: list[bytes], **options: Any) -> list[Any]:
    """Every stream with every policy, and what was given up."""
    sources = [io.BytesIO(data) for data in captures]
    made = tcpcore.replay(sources, streams=True, engine=engine.ENGINE, **options)
    found: list[Any] = [made.summary["streams_given_up"]]
    for overlap in OVERLAPS:
        for one in made.streams(overlap=overlap):
            found.append((one.conn, one.direction, one.data, one.gaps, one.conflicts))
            found.append(one.conflicting_bytes)
            found.append(one.urgent)
    found += [one.data for one in made.streams(urgent="drop")]
    return found


@pytest.mark.parametrize("options", STREAM_OPTIONS, ids=name_of)
@pytest.mark.parametrize("seed", SEEDS[:12])
def test_streams(
    reference: ModuleType, compiled: ModuleType, options: dict[str, Any], seed: int
) -> None:
    data = [lockstep.capture(seed), lockstep.capture(seed + 1000)]
    assert streams_of(reference, data, **options) == streams_of(compiled, data, **options)


def test_streams_of_shared_captures(
    reference: ModuleType, compiled: ModuleType, capture: Path
) -> None:
    data = [capture.read_bytes()]
    assert streams_of(reference, data) == streams_of(compiled, data)


def test_streams_of_damaged_captures(
    reference: ModuleType, compiled: ModuleType, capture: Path
) -> None:
    """T-14, T-19, T-21: bytes changed anywhere."""
    whole = capture.read_bytes()[:60_000]
    for seed in range(3):
        data = [lockstep.mutated(whole, seed)]
        one = streams_of(reference, data, stream_memory=20_000)
        assert one == streams_of(compiled, data, stream_memory=20_000)


def handed_out(engine: ModuleType, captures: list[bytes], **options: Any) -> list[Any]:
    """What comes while captures are read, piece by piece, and the summary of streams."""
    sources = [io.BytesIO(data) for data in captures]
    run = tcpcore.replay_streams(sources, engine=engine.ENGINE, **options)
    found: list[Any] = list(run)
    assert run.replay is not None
    return [*found, run.replay.summary["streams_given_up"]]


@pytest.mark.parametrize("options", STREAM_OPTIONS, ids=name_of)
@pytest.mark.parametrize("seed", SEEDS[:12])
def test_handed_out(
    reference: ModuleType,
    compiled: ModuleType,
    options: dict[str, Any],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for engine in (reference, compiled):
        monkeypatch.setattr(engine, "CHUNK", 100 << seed)
    data = [lockstep.capture(seed), lockstep.capture(seed + 1000)]
    assert handed_out(reference, data, **options) == handed_out(compiled, data, **options)


def test_handed_out_of_shared_captures(
    reference: ModuleType, compiled: ModuleType, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are, and with bytes changed anywhere."""
    for engine in (reference, compiled):
        monkeypatch.setattr(engine, "CHUNK", 4000)
    whole = capture.read_bytes()
    for data in (whole, *(lockstep.mutated(whole[:60_000], seed) for seed in range(3))):
        one = handed_out(reference, [data], stream_memory=20_000)
        assert one == handed_out(compiled, [data], stream_memory=20_000)


def test_shared_captures(reference: ModuleType, compiled: ModuleType, capture: Path) -> None:
    data = [capture.read_bytes()]
    lockstep.assert_same(lockstep.outcome(reference, data), lockstep.outcome(compiled, data))


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_traffic(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    data = [lockstep.mutated(lockstep.capture(seed, talks=8), seed)]
    lockstep.assert_same(lockstep.outcome(reference, data), lockstep.outcome(compiled, data))


def test_damaged_captures(reference: ModuleType, compiled: ModuleType, capture: Path) -> None:
    """T-13, T-23: bytes changed anywhere; what comes out is the same, and neither engine falls."""
    whole = capture.read_bytes()[:60_000]
    for seed in range(4):
        data = [lockstep.mutated(whole, seed)]
        one = lockstep.outcome(reference, data, max_connections=50)
        lockstep.assert_same(one, lockstep.outcome(compiled, data, max_connections=50))


@pytest.mark.parametrize("chunk", [1, 7, 100, 4096])
@pytest.mark.parametrize("seed", range(8))
def test_any_chunk(engine: ModuleType, seed: int, chunk: int) -> None:
    """The same input gives the same output however it is cut into pieces."""
    data = [lockstep.capture(seed, talks=6), lockstep.capture(seed + 1, talks=6)]
    options = OPTIONS[6]
    whole = lockstep.outcome(engine, data, **options)
    lockstep.assert_same(whole, lockstep.outcome(engine, data, chunk, **options))


def test_any_chunk_of_a_capture(engine: ModuleType, capture: Path) -> None:
    data = capture.read_bytes()[:200_000]
    whole = lockstep.outcome(engine, [data])
    lockstep.assert_same(whole, lockstep.outcome(engine, [data], chunk=1009))


@pytest.mark.parametrize("seed", range(8))
def test_modes_of_rows(engine: ModuleType, seed: int) -> None:
    """Rows that leave at once are those that would have stayed; the summary counts all alike."""
    data = lockstep.capture(seed)
    bounds = {"max_connections": 5, "expire_closed_ns": SEC}
    keep = lockstep.outcome(engine, [data], **bounds)
    drop = lockstep.outcome(engine, [data], rows="drop", **bounds)
    assert drop["summary"] == keep["summary"]
    assert drop["packets"] == keep["packets"]

    conntrack = engine.Conntrack(packets=True, analysis=True, rows="drain", **bounds)
    left: list[dict[str, bytes]] = []
    frames: list[dict[str, bytes]] = []

    def drain(final: bool = False) -> None:
        told = lockstep.rows(conntrack.connections(lockstep.CONNECTION_NAMES, final))
        left.extend(lockstep.by_row(told))
        frames.extend(lockstep.by_row(lockstep.rows(conntrack.packets(lockstep.PACKET_NAMES))))
        conntrack.drain()

    lockstep.feed(conntrack, data, 2000, drain)
    drain(final=True)
    assert conntrack.summary() == keep["summary"]
    assert frames == lockstep.by_row(keep["packets"])
    left.sort(key=lambda row: int.from_bytes(row["conn"], "little"))
    assert left == lockstep.by_row(keep["connections"])
