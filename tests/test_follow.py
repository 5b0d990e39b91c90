"""Streams handed out while the capture is read: the same bytes, early, and little kept."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import capgen
import pytest
from capgen import ACK, FIN, RST, SYN
from test_streams import A, B, ab, ba, capture, handshake, one, worst

import tcpcore
from tcpcore import PcapError, Replay, StreamReplay
from tcpcore.sources import SPOOL
from tcpcore.stream import Stream

Told = dict[tuple[int, str], tuple[bytes, list[tuple[int, int]]]]


def gathered(chunks: Iterable[tuple[int, str, int, bytes]]) -> Told:
    """Each stream's bytes, and its gaps as offsets tell them; they have to ascend."""
    data: dict[tuple[int, str], bytearray] = {}
    gaps: dict[tuple[int, str], list[tuple[int, int]]] = {}
    ends: dict[tuple[int, str], int] = {}
    for conn, direction, offset, piece in chunks:
        name = conn, direction
        end = ends.get(name, 0)
        assert piece
        assert offset >= end
        if offset > end:
            gaps.setdefault(name, []).append((end, offset - end))
        ends[name] = offset + len(piece)
        data.setdefault(name, bytearray()).extend(piece)
    return {name: (bytes(data[name]), gaps.get(name, [])) for name in data}


def asked_for(made: Replay) -> Told:
    """The same of all streams asked for; a gap behind the last byte nobody sees while reading."""

    def inner(stream: Stream) -> list[tuple[int, int]]:
        end = stream.length + sum(length for _, length in stream.gaps)
        return [gap for gap in stream.gaps if sum(gap) < end]

    return {
        (stream.conn, stream.direction): (stream.data, inner(stream))
        for stream in made.streams()
        if stream.length
    }


def followed(engine: ModuleType, frames: Sequence[bytes], **options: object) -> StreamReplay:
    data = io.BytesIO(capture(frames))
    return tcpcore.replay_streams(data, engine=engine.ENGINE, **options)


def test_every_byte_once(engine: ModuleType) -> None:
    frames = [
        *handshake(),
        ab(100, 0, b"question"),
        one(B, A, seq=501, ack=109, flags=ACK, payload=b"answer"),
    ]
    run = followed(engine, frames)
    assert run.replay is None
    assert sorted(run) == [(0, "ab", 0, b"question"), (0, "ba", 0, b"answer")]
    assert run.replay is not None
    assert run.replay.connections["a_port"].tolist() == [A[1]]
    assert "conflicting_bytes_ab" not in run.replay.connections.names
    with pytest.raises(ValueError, match="streams=True"):
        run.replay.stream(0, "ab")
    assert list(run) == []


def test_the_same_as_asked_for(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, disorder, copies, overlaps and holes, whatever the size of a read."""
    for seed in range(40):
        rng = random.Random(seed)
        monkeypatch.setattr(engine, "CHUNK", rng.choice((50, 300, 5000, 1 << 18)))
        data = rng.randbytes(rng.randrange(1, 6000))
        isn = rng.choice((0, 100, 2**32 - 1, 2**32 - 2000, 2**31 - 7))
        frames = handshake(isn)
        at = 0
        segments = []
        while at < len(data):
            size = rng.randrange(1, 400)
            if rng.random() < 0.95:
                segments.append((at, data[at : at + size]))
            at += size
        for _ in range(rng.randrange(8)):
            start = rng.randrange(len(data))
            copy = (start, data[start : start + rng.randrange(1, 900)])
            segments.insert(rng.randrange(len(segments) + 1), copy)
        for _ in range(rng.randrange(12)):
            i, k = rng.randrange(len(segments)), rng.randrange(len(segments))
            segments[i], segments[k] = segments[k], segments[i]
        frames += [ab(isn, offset, payload) for offset, payload in segments]
        if rng.random() < 0.5:
            frames.append(ab(isn, len(data), flags=FIN | ACK))
        asked = tcpcore.replay(io.BytesIO(capture(frames)), streams=True, engine=engine.ENGINE)
        assert gathered(followed(engine, frames)) == asked_for(asked), seed


def test_shared_captures(capture: Path, compiled: ModuleType) -> None:
    """Of all that real stacks sent and real taps missed."""
    asked = asked_for(tcpcore.replay(capture, streams=True))
    found = gathered(tcpcore.replay_streams(capture))
    assert {name for name in asked if found.get(name) != asked[name]} == set()


def test_in_order_bytes_are_not_kept(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come while there is more to read, and take no notes: the budget is for what waits."""
    monkeypatch.setattr(engine, "CHUNK", 2000)
    frames = handshake() + [ab(100, 10 * i, b"0123456789") for i in range(300)]
    run = followed(engine, frames, stream_memory=2000)
    early = 0
    data = b""
    for _, _, offset, piece in run:
        assert offset == len(data)
        early += run.replay is None
        data += piece
    assert data == b"0123456789" * 300
    assert early > 10
    assert run.replay.summary["streams_given_up"] == 0


def test_a_hole_holds_back_what_is_behind_it(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is filled; if it never is, until the capture ends. Two connections do not wait for
    each other."""
    monkeypatch.setattr(engine, "CHUNK", 100)
    other = ("10.0.0.3", 7)
    frames = [*handshake(), ab(100, 0, b"a"), ab(100, 2, b"c"), ab(100, 4, b"e")]
    frames += [one(other, B, seq=1, ack=1, flags=ACK, payload=b"x"), ab(100, 1, b"b"), ba(110)]
    run = followed(engine, frames)
    assert list(run) == [
        (0, "ab", 0, b"a"),
        (1, "ab", 0, b"x"),
        (0, "ab", 1, b"bc"),
        (0, "ab", 4, b"e"),
    ]


def test_what_was_handed_out_stays(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, bytes before a stream whose SYN was not seen, and a FIN below its end."""
    monkeypatch.setattr(engine, "CHUNK", 100)
    frames = [ab(100, 4, b"GOOD"), ba(109), ab(100, 4, b"EVIL"), ab(100, 0, b"late")]
    frames += [ab(100, 6, flags=FIN | ACK), ab(100, 8, b"more")]
    found = gathered(followed(engine, frames))[(0, "ab")]
    assert found[0].startswith(b"GOOD")
    assert b"EVIL" not in found[0]
    assert b"late" not in found[0]


def test_refused_segments(engine: ModuleType) -> None:
    """T-15: what lies beyond the window and nobody acknowledges holds nothing back."""
    frames = [*handshake(), ab(100, 0, b"good"), ab(100, 1 << 22, b"evil"), ab(100, 4, b"+more")]
    assert gathered(followed(engine, frames)) == {(0, "ab"): (b"good+more", [])}


def test_sources(engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain file, a compressed one, a pipe: what had to wait is read again."""
    monkeypatch.setattr(engine, "CHUNK", 100)
    frames = [*handshake(), *(ab(100, i, b"%c" % (97 + i)) for i in (3, 1, 0, 4, 2))]
    data = capture(frames)
    plain, zipped = tmp_path / "a.pcap", tmp_path / "a.pcap.gz"
    plain.write_bytes(data)
    zipped.write_bytes(gzip.compress(data))
    for source in (plain, zipped, io.BytesIO(data)):
        run = tcpcore.replay_streams(source, engine=engine.ENGINE)
        assert gathered(run) == {(0, "ab"): (b"abcde", [])}
    run = tcpcore.replay_streams(io.BytesIO(data), spool=200, engine=engine.ENGINE)
    with pytest.raises(PcapError, match="200 bytes are spooled"):
        list(run)
    run = tcpcore.replay_streams([plain, zipped], engine=engine.ENGINE)
    assert gathered(run)[(0, "ab")] == (b"abcde", [])


def test_a_changed_file_is_an_error(engine: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(capture([*handshake(), ab(100, 0, b"a"), ab(100, 2, b"c")]))
    chunks = iter(tcpcore.replay_streams(path, engine=engine.ENGINE))
    assert next(chunks)[3] == b"a"
    os.utime(path, ns=(0, 0))
    with pytest.raises(PcapError, match="has changed"):
        list(chunks)
    with pytest.raises(FileNotFoundError):
        list(tcpcore.replay_streams(tmp_path / "none", engine=engine.ENGINE))


def test_files_are_never_spooled(
    engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-24: nothing is written for them, so nothing caps them; all else has 1 GiB."""

    def full(**_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    data = capture([*handshake(), ab(100, 0, b"hello "), ab(100, 6, b"world")])
    (tmp_path / "a.pcap").write_bytes(data)
    (tmp_path / "a.pcap.gz").write_bytes(gzip.compress(data))
    for path in (tmp_path / "a.pcap", tmp_path / "a.pcap.gz"):
        made = tcpcore.replay(path, streams=True, engine=engine.ENGINE)
        assert made.stream(0, "ab").data == b"hello world"
    made = tcpcore.replay(io.BytesIO(data), streams=True, engine=engine.ENGINE)
    with pytest.raises(PcapError, match="0 bytes are spooled"):
        made.stream(0, "ab").data  # noqa: B018
    assert SPOOL == 1 << 30


def test_closed_connections_are_not_given_up(engine: ModuleType) -> None:
    """T-21: with the budget full, those go first of which nothing waits; that is no loss."""
    frames = []
    for port in range(30):
        end = ("10.0.0.1", 1000 + port)
        frames.append(one(end, B, seq=100, flags=SYN))
        frames.append(one(end, B, seq=101, flags=ACK, payload=b"%02d" % port))
        frames.append(one(end, B, seq=103, flags=RST))
    run = followed(engine, frames, stream_memory=100_000)
    assert [piece for *_, piece in run] == [b"%02d" % i for i in range(30)]
    assert run.replay.summary["streams_given_up"] == 0


def test_what_waits_is_given_up(engine: ModuleType) -> None:
    """T-21: of connections that wait for a hole those that began first; the rest comes."""
    frames = []
    for port in range(20):
        end = ("10.0.0.1", 1000 + port)
        frames.append(one(end, B, seq=100, flags=SYN))
        frames.append(one(end, B, seq=106, flags=ACK, payload=b"%02d" % port))
    run = followed(engine, frames, stream_memory=10 * 192)
    found = list(run)
    given_up = run.replay.summary["streams_given_up"]
    assert given_up == 20 - len(found) > 0
    assert found == [(i, "ab", 5, b"%02d" % i) for i in range(given_up, 20)]


def test_one_sided_and_mid_stream(engine: ModuleType) -> None:
    """T-22: nobody acknowledges and nothing says where it began: it comes all the same."""
    frames = [ab(100, 7 + 3 * i, b"abc") for i in range(50)]
    assert gathered(followed(engine, frames)) == {(0, "ab"): (b"abc" * 50, [])}


def test_time_bounds(engine: ModuleType) -> None:
    """Frames outside are as if they were not there: here a hole, and an end."""
    frames = [*handshake(), *(ab(100, i, b"%c" % (97 + i)) for i in range(6))]
    options = {"from_ns": 4000, "to_ns": 8000, "engine": engine.ENGINE}
    data = capture(frames)
    found = gathered(tcpcore.replay_streams(io.BytesIO(data), **options))
    assert found == {(0, "ab"): (b"bcde", [])}
    assert asked_for(tcpcore.replay(io.BytesIO(data), streams=True, **options)) == found
    found = gathered(tcpcore.replay_streams(io.BytesIO(data), count=5, engine=engine.ENGINE))
    assert found == {(0, "ab"): (b"ab", [])}


def test_more_than_four_gibibytes(engine: ModuleType) -> None:
    """T-29: offsets have 64 bits; of what the tap lost nothing is made."""
    step = 1 << 29
    frames = handshake()
    for i in range(20):
        seq = (101 + i * step) % 2**32
        frames.append(one(A, B, seq=seq, ack=501, flags=ACK, payload=bytes([i + 65])))
        frames.append(ba((seq + 1) % 2**32))
    found = [(offset, data) for _, _, offset, data in followed(engine, frames)]
    assert found == [(i * step, bytes([i + 65])) for i in range(20)]


MEMORY = """
import resource, sys, tcpcore
path, how = sys.argv[1:]
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tcpcore.replay("examples/http.pcap", streams=True).stream(0, "ab").data
before = peak()
if how == "reading":
    size = sum(len(data) for *_, data in tcpcore.replay_streams(path, checksum="ignore"))
else:
    made = tcpcore.replay(path, streams=True, checksum="ignore", analysis=False)
    one = made.stream(0, "ab", overlap=how)
    size = len(one.data)
    one.conflicts
print(size, peak() - before)
"""


@pytest.mark.parametrize("how", ["reading", "first", "last", "linux", "bsd", "windows"])
@pytest.mark.parametrize("kind", ["backwards", "copies", "overlaps"])
def test_memory_is_bounded(compiled: ModuleType, tmp_path: Path, kind: str, how: str) -> None:
    """T-06, T-22: 150,000 one-byte segments in the worst order; 50,000 that come twice; and 5,000
    of which each overlaps a thousand others. 32 bytes are noted, 200 put a segment in order."""
    path = tmp_path / "a.pcap"
    if kind == "overlaps":
        frames = [ab(100, i, bytes([i % 251]) * 1000) for i in range(5_000)]
        random.Random(1).shuffle(frames)
        path.write_bytes(capture(handshake() + frames))
        count, size = 5_000, 5_999
    else:
        size = 150_000 if kind == "backwards" else 50_000
        count = size if kind == "backwards" else 2 * size
        path.write_bytes(worst(size, 3))
        if kind == "copies":
            data = path.read_bytes()
            path.write_bytes(data + data[24:])
    command = [sys.executable, "-c", MEMORY, path, how]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    got, grown = map(int, done.stdout.split())
    assert got == size
    assert grown < (24 << 20) + 232 * count + 2 * 8 * size


def test_empty_and_damaged(engine: ModuleType) -> None:
    run = tcpcore.replay_streams(io.BytesIO(capgen.pcap([])), engine=engine.ENGINE)
    assert list(run) == []
    assert run.replay.error is None
    data = capture([*handshake(), ab(100, 0, b"data"), ab(100, 4, b"more")])
    run = tcpcore.replay_streams(io.BytesIO(data[:-1]), engine=engine.ENGINE)
    assert gathered(run) == {(0, "ab"): (b"data", [])}
    assert run.replay.error.reason == "record is cut"
