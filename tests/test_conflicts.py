"""The columns conflicting_bytes: bytes sent again with other content, made of streams when read."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import capgen
import lockstep
import numpy as np
import pytest
from capgen import ACK, SEC, SYN

import tcpcore
from tcpcore import passive
from tcpcore.cli import main
from tcpcore.columns import CONFLICTS

# Of connection 0 a sends 4 bytes again, 3 of them others; of connection 1 the same again; of
# connection 2 nothing; of connection 3 b sends 2 other bytes.
SENT = (
    (0, 0, b"GOOD"),
    (0, 0, b"GASE"),
    (1, 0, b"same"),
    (1, 0, b"same"),
    (2, 0, b"once"),
    (3, 1, b"here"),
    (3, 1, b"heal"),
)
WANTED = [[3, 0, 0, 0], [0, 0, 0, 2]]
UNKNOWN = [[-1, -1, 0, 0], [0, 0, 0, -1]]


def records(first: int = 0) -> list[capgen.Record]:
    found = []
    for i, (conn, side, payload) in enumerate(SENT):
        ends = ("10.0.0.1", "10.0.0.2", 1000 + conn, 80)
        back = (ends[1], ends[0], ends[3], ends[2])
        if not any(one[0] == conn for one in SENT[:i]):
            found.append((first + i, capgen.frame(*ends, flags=SYN, seq=9)))
            found.append((first + i, capgen.frame(*back, flags=SYN | ACK, seq=9, ack=10)))
        fields: dict[str, Any] = {"flags": ACK, "seq": 10, "ack": 10, "payload": payload}
        found.append((first + i, capgen.frame(*(back if side else ends), **fields)))
    return [(time_ns, data, len(data)) for time_ns, data in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "in.pcap"
    made.write_bytes(capgen.pcap(records()))
    return made


@pytest.fixture
def second_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An item for each time that a capture is read."""
    found: list[int] = []
    chunks = passive.Run.chunks

    def counted(self: passive.Run) -> Iterator[None]:
        found.append(1)
        return chunks(self)

    monkeypatch.setattr(passive.Run, "chunks", counted)
    return found


def columns(source: Any, **options: Any) -> list[list[int]]:
    table = tcpcore.replay(source, analysis=True, **options).connections
    return [table[name].tolist() for name in CONFLICTS]


def test_counts(engine: ModuleType, path: Path, second_replays: list[int]) -> None:
    found = tcpcore.replay(path, analysis=True, engine=engine.ENGINE)
    assert second_replays == [1]
    table = found.connections
    for name in table.names:
        if name not in CONFLICTS:
            assert table[name] is not None
    assert second_replays == [1], "other columns cost no second replay"
    assert [table[name].tolist() for name in CONFLICTS] == WANTED
    assert second_replays == [1, 1], "and both one"
    assert table[CONFLICTS[0]].dtype == np.int64
    assert table.names.index(CONFLICTS[0]) == table.names.index("duplicate_bytes_ba") + 1
    recorded = tcpcore.replay(path, analysis=True, streams=True, engine=engine.ENGINE)
    assert [recorded.connections[name].tolist() for name in CONFLICTS] == WANTED
    assert len(second_replays) == 3, "where payload lies is known"


def test_nothing_came_twice(tmp_path: Path, second_replays: list[int]) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capgen.pcap(capgen.conversation()))
    assert columns(path) == [[0], [0]]
    assert second_replays == [1]


def test_what_cannot_be_read_again(path: Path) -> None:
    """Not known is -1, and where nothing came twice it is known to be 0."""
    data = path.read_bytes()
    assert columns(io.BytesIO(data)) == UNKNOWN
    assert columns([path, io.BytesIO(capgen.pcap([]))]) == UNKNOWN
    assert columns(io.BytesIO(data), streams=True) == WANTED
    assert columns(io.BytesIO(data), streams=True, spool=10) == UNKNOWN
    found = tcpcore.replay(path, analysis=True)
    path.write_bytes(data + b"\0")
    assert [found.connections[name].tolist() for name in CONFLICTS] == UNKNOWN
    path.write_bytes(data)
    found = tcpcore.replay(path, analysis=True)
    path.unlink()
    assert [found.connections[name].tolist() for name in CONFLICTS] == UNKNOWN


def test_batches_do_not_know(path: Path) -> None:
    (batch,) = tcpcore.replay_batches(path, analysis=True)
    assert [batch.connections[name].tolist() for name in CONFLICTS] == UNKNOWN


def test_streams_given_up(path: Path) -> None:
    found = tcpcore.replay(path, analysis=True, streams=True, stream_memory=400)
    assert found.summary["streams_given_up"]
    for name, wanted in zip(CONFLICTS, WANTED, strict=True):
        told = found.connections[name].tolist()
        assert -1 in found.connections[CONFLICTS[0]]
        assert all(one in (-1, want) for one, want in zip(told, wanted, strict=True))


def test_the_second_replay_is_as_the_first(tmp_path: Path) -> None:
    """Several files in another order, compressed, a part of them, some frames, keys, bounds."""
    later, first = tmp_path / "a.pcap.gz", tmp_path / "b.pcap"
    later.write_bytes(gzip.compress(capgen.pcap(records(9 * SEC))))
    first.write_bytes(capgen.pcap(records(SEC)))
    missing = tmp_path / "missing.pcap"
    assert columns(later) == WANTED
    assert columns([later, missing, first], expire_idle_s=1) == [a + a for a in WANTED]
    some = [[3, 0, 0, 0, 3, 0, 0], [0, 0, 0, 2, 0, 0, 0]]
    assert columns([later, first], expire_idle_s=1, count=26) == some
    assert columns([later, first], filter="port 1003") == [[0], [4]]
    assert columns([later, first], to_ns=5 * SEC, checksum="strict") == WANTED
    assert columns(first, max_connections=1, key="vlan,tunnel") == WANTED


def test_conditions_and_exports(path: Path, tmp_path: Path, second_replays: list[int]) -> None:
    found = tcpcore.replay(path, analysis=True, where="conflicting_bytes_ba > 1")
    assert found.connections["conn"].tolist() == [3]
    assert [one["conn"] for one in found.summary["top"]] == [3]
    assert second_replays == [1, 1], "counted once for the rows and for the summary"
    out = tmp_path / "out.csv"
    command = ["replay", "--analysis", "--connections", str(out), str(path)]
    assert main(command) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [[int(row[name]) for row in rows] for name in CONFLICTS] == WANTED
    assert main([*command, "--max-connections", "9"]) == 0  # rows leave while it reads
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row[CONFLICTS[0]] for row in rows] == ["", "", "0", "0"]


def other_payload(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let the random traffic carry random payload, so that copies differ."""
    rng = random.Random(seed)

    def made(what: Any) -> bytes:
        return rng.randbytes(what) if isinstance(what, int) else bytes(what)

    monkeypatch.setattr(lockstep, "bytes", made, raising=False)


@pytest.mark.parametrize("seed", [*range(12), 103])
def test_lockstep(
    reference: ModuleType,
    compiled: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seed: int,
) -> None:
    """Each engine tells what all conflicts of all streams sum to."""
    other_payload(monkeypatch, seed)
    path = tmp_path / "in.pcap"
    path.write_bytes(lockstep.capture(seed))
    found = tcpcore.replay(path, streams=True)
    wanted = [
        [found.stream(conn, d).conflicting_bytes for conn in range(len(found.connections))]
        for d in ("ab", "ba")
    ]
    assert columns(path, engine="reference") == wanted
    assert columns(path, engine="compiled") == wanted
    assert columns(path, engine="reference", streams=True) == wanted


def test_shared_captures(compiled: ModuleType, capture: Path) -> None:
    found = tcpcore.replay(capture, streams=True)
    wanted: list[list[int]] = [[0] * len(found.connections) for _ in range(2)]
    for one in found.streams():
        wanted[one.direction == "ba"][one.conn] = one.conflicting_bytes
    assert columns(capture) == wanted
