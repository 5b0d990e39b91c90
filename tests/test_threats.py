"""Threats that no test of one floor shows whole: what hostile traffic does to the engine in sum.

T-06, T-15, T-18, T-19, T-21 to T-23, T-29, T-30 and T-32; docs/hostile.md says where each threat's
tests are.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, FIN, PSH, RST, SEC, SYN, URG

import tcpcore
from tcpcore.cli import main
from tcpcore.columns import CONN_STATE_NAMES, DROP_NAMES, VERDICT_NAMES
from tcpcore.export import writer

ENDS = ("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000)
NEAR = (1 << 32) - 3


def segment(side: int, flags: int, seq: int, ack: int = 0, **fields: Any) -> bytes:
    return capgen.frame(*ENDS[side], flags=flags, seq=seq, ack=ack, **fields)


def opening(isn: int = 100, other: int = 500) -> list[bytes]:
    return [
        segment(0, SYN, isn),
        segment(1, SYN | ACK, other, isn + 1),
        segment(0, ACK, isn + 1, other + 1),
    ]


def replay(engine: ModuleType, frames: Sequence[bytes], **options: Any) -> tcpcore.Replay:
    """What is told of frames, a millisecond between two."""
    records = [(SEC + i * 1_000_000, frame) for i, frame in enumerate(frames)]
    options = {"packets": True, "streams": True} | options
    return tcpcore.replay(io.BytesIO(capgen.pcap(records)), engine=engine.ENGINE, **options)


def reasons(made: tcpcore.Replay) -> list[str]:
    return [DROP_NAMES[drop] if drop else "" for drop in made.packets["drop_reason"]]


# T-06, T-22: many small segments.


def smack(count: int, order: str) -> bytes:
    """A connection of one-byte segments of which one end alone is seen, each of them twice."""
    frame = bytearray(segment(0, ACK, 0, 501, payload=b"x"))
    places = {
        "backwards": range(count - 1, -1, -1),
        "interleaved": [*range(0, count, 2), *range(1, count, 2)],
        "ends": [at // 2 if at % 2 else count - 1 - at // 2 for at in range(count)],
    }[order]
    out = [capgen.pcap([(0, segment(0, SYN, NEAR))])]
    head = struct.pack("<IIII", 0, 0, len(frame), len(frame))
    for at in places:
        frame[38:42] = ((NEAR + 1 + at) % 2**32).to_bytes(4, "big")
        out.append((head + frame) * 2)
    return b"".join(out)


@pytest.mark.parametrize("order", ["backwards", "interleaved", "ends"])
def test_a_million_one_byte_segments(engine: ModuleType, order: str) -> None:
    """T-06, T-22: SegmentSmack. Every byte is charged to the budget, and above that the connection
    goes as a whole; what one end sends needs no word of the other. bench/ has the time."""
    many = 500_000 if engine.ENGINE == "compiled" else 6000
    data = io.BytesIO(smack(many, order))
    options: dict[str, Any] = {"streams": True, "checksum": "ignore", "engine": engine.ENGINE}
    stream = tcpcore.replay(data, **options).stream(0, "ab")
    assert (stream.data, stream.gaps) == (b"x" * many, [])
    notes = 32 * 2 * many
    for memory, given_up in ((notes + 1000, 0), (notes, 1)):
        data.seek(0)
        made = tcpcore.replay(data, stream_memory=memory, **options)
        assert made.summary["streams_given_up"] == given_up


# T-15: insertion.


INSERTIONS = {
    "bad checksum": (segment(0, ACK, 101, 501, payload=b"EVIL", csum=1), "TCP_CSUM"),
    "old": (segment(0, ACK, 97, 501, payload=b"EVIL"), "TCP_OLD_DATA"),
    "beyond the window": (segment(0, ACK, 101 + (1 << 20), 501, payload=b"EVIL"), "TCP_OVERWINDOW"),
    "old ACK": (segment(0, ACK, 101, 501 - (1 << 20), payload=b"EVIL"), "TCP_TOO_OLD_ACK"),
    "SYN": (segment(0, SYN | ACK, 101, 501, payload=b"EVIL"), "TCP_INVALID_SYN"),
    "no flags": (segment(0, PSH, 101, 0, payload=b"EVIL"), "TCP_FLAGS"),
    "bad data offset": (segment(0, ACK, 101, 501, payload=b"EVIL", doff=4), "TCP_BAD_DOFF"),
    "reset, far off": (segment(0, RST, 101 + (1 << 20)), "TCP_OVERWINDOW"),
}


@pytest.mark.parametrize("trick", INSERTIONS)
def test_insertion(engine: ModuleType, trick: str) -> None:
    """T-15: what a receiver refuses counts, with its reason, and changes no byte of the stream."""
    frame, reason = INSERTIONS[trick]
    frames = [*opening(), frame, segment(0, ACK, 101, 501, payload=b"GOOD")]
    made = replay(engine, [*frames, segment(1, ACK, 501, 105)], checksum="strict")
    assert reasons(made) == ["", "", "", reason, "", ""]
    assert made.summary["drop_reasons"] == {reason: 1}
    assert made.connections["packets_ab"].tolist() == [4]
    stream = made.stream(0, "ab")
    assert stream.data == b"GOOD"
    if reason in ("TCP_CSUM", "TCP_BAD_DOFF"):  # no copy of anything: nobody can have taken it
        assert stream.conflicts == []


def test_insertion_that_nobody_can_tell(engine: ModuleType) -> None:
    """T-15: how far a low TTL reaches the tap cannot know; the copy that differs is told."""
    low = bytearray(segment(0, ACK, 101, 501, payload=b"EVIL"))
    low[22] = 1
    low[24:26] = bytes(2)
    low[24:26] = capgen.checksum(bytes(low[14:34])).to_bytes(2, "big")
    made = replay(engine, [*opening(), bytes(low), segment(0, ACK, 101, 501, payload=b"GOOD")])
    assert made.summary["bad_ip_checksums"] == made.summary["bad_tcp_checksums"] == 0
    assert made.stream(0, "ab").conflicts == [(0, b"EVIL", b"GOOD")]
    assert made.stream(0, "ab", overlap="last").data == b"GOOD"


# T-18: handshakes.


S, SA, A, R = SYN, SYN | ACK, ACK, RST
DATA = (0, PSH | A, 101, 501)
# Segments (side, flags, number, acknowledgment), then who is a, history, state, verdicts.
TRICKS: dict[str, tuple[list[tuple[int, int, int, int]], int, bytes, str, set[str]]] = {
    "plain": ([(0, S, 100, 0), (1, SA, 500, 101), (0, A, 101, 501), DATA], 0, b"ShAD", "S1", set()),
    "four-way": (
        [(0, S, 100, 0), (1, S, 500, 0), (0, SA, 100, 501), (1, A, 501, 101), DATA],
        *(0, b"SsHaD", "S1", set()),
    ),
    "five-way": (
        [(0, S, 100, 0), (1, A, 501, 101), (1, S, 500, 0), (0, SA, 100, 501), (1, A, 501, 101)],
        *(0, b"SasH", "S1", set()),
    ),
    "simultaneous": (
        [(0, S, 100, 0), (1, S, 500, 0), (0, SA, 100, 501), (1, SA, 500, 101), DATA],
        *(0, b"SsHhD", "S1", set()),
    ),
    "SYN-ACK first": (
        [(1, SA, 500, 101), (0, S, 100, 0), (0, A, 101, 501), DATA],
        *(0, b"^hSAD", "S1", set()),
    ),
    "picked up by the server": (
        [(1, A, 501, 101), DATA],
        *(1, b"Ad", "OTH", {"CT_MIDSTREAM"}),
    ),
}


@pytest.mark.parametrize("isn", [0, NEAR - 101])
@pytest.mark.parametrize("trick", TRICKS)
def test_handshake_tricks(engine: ModuleType, trick: str, isn: int) -> None:
    """T-18: who opens, what was seen and in which order; the data counts however it began."""
    steps, a, history, state, verdicts = TRICKS[trick]
    frames = [
        segment(
            side,
            flags,
            (seq + isn) % 2**32,
            (ack + isn) % 2**32 if flags & ACK else 0,
            payload=b"data" if flags & PSH else b"",
        )
        for side, flags, seq, ack in steps
    ]
    made = replay(engine, frames, analysis=True)
    (port,) = made.connections["a_port"].tolist()
    assert port == ENDS[a][2]
    assert bytes(made.connections["history"][0]) == history
    assert CONN_STATE_NAMES[made.connections["conn_state"][0]] == state
    first = made.packets["verdict"].tolist()[0]
    told = {name for bit, name in enumerate(VERDICT_NAMES) if first >> bit & 1}
    assert told >= {"CT_NEW", *verdicts}
    assert ("CT_MIDSTREAM" in told) == ("CT_MIDSTREAM" in verdicts)
    if DATA in steps:
        assert made.stream(0, "ab" if a == 0 else "ba").data == b"data"


def test_data_on_a_syn(engine: ModuleType) -> None:
    """T-18: it is of the stream, and told; sent again on the next segment it is not new."""
    frames = [segment(0, SYN, 100, payload=b"early"), *opening()[1:]]
    frames.append(segment(0, PSH | ACK, 101, 501, payload=b"early, late"))
    made = replay(engine, frames, analysis=True)
    assert made.stream(0, "ab").data == b"early, late"
    assert bytes(made.connections["history"][0])[:2] in (b"SD", b"Sh")


def test_used_again(engine: ModuleType) -> None:
    """T-18: a SYN with another number on a known pair of ends begins another connection."""
    made = replay(engine, [*opening(), *opening(9000, 7000), segment(0, SYN, 9000)])
    assert made.packets["conn"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert made.packets["verdict"].tolist()[3] & 1 << VERDICT_NAMES.index("CT_REUSED")


# T-19, T-29: numbers.


@pytest.mark.parametrize("isn", [0, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("ahead", [2**30 - 1, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 5])
def test_regions_at_the_edges(engine: ModuleType, isn: int, ahead: int) -> None:
    """T-19: no difference of two numbers becomes a length that is not there (CVE-2024-55627)."""
    frames = [segment(0, ACK, (isn + at) % 2**32, 1, payload=b"abcd") for at in (0, ahead, 4)]
    made = replay(engine, frames, stream_memory=1 << 16)
    stream = made.stream(0, "ab")
    assert b"abcdabcd" in stream.data
    assert len(stream.data) == stream.length <= 12
    assert all(offset >= 0 and 0 < length < 2**32 for offset, length in stream.gaps)
    filled = made.stream(0, "ab", fill=True, fill_max=1 << 20)
    assert filled.length == stream.length + sum(length for _, length in stream.gaps)
    if filled.length > 1 << 20:
        with pytest.raises(ValueError, match="fill_max"):
            filled.data  # noqa: B018


def test_lengths_that_lie(engine: ModuleType) -> None:
    """T-19, T-29: the wire says 4 GiB a segment, and nothing of it is there: counts have 64 bits,
    and what was not captured is a gap, not memory."""
    wire = 2**32 - 1
    frames = [
        segment(
            0, ACK, (NEAR + i * 1000) % 2**32, 1, payload=b"x" * 1000, ip={"total": 0, "csum": 0}
        )
        for i in range(5)
    ]
    records = [(SEC + i, frame, wire) for i, frame in enumerate(frames)]
    made = tcpcore.replay(io.BytesIO(capgen.pcap(records)), streams=True, engine=engine.ENGINE)
    assert made.summary["bytes"] == 5 * wire
    assert made.connections["frame_bytes_ab"].tolist() == [5 * wire]
    assert made.connections["payload_bytes_ab"].tolist() == [5 * (wire - 54)]
    stream = made.stream(0, "ab")
    assert stream.length <= 5000
    assert all(0 < length < 2**33 for _, length in stream.gaps)


def talk(seed: int, isns: tuple[int, int], stamp: int) -> tuple[bytes, set[int]]:
    """A random conversation of two ends, at any place of the circle of numbers and stamps; and the
    numbers that its segments begin and end with."""
    rng = random.Random(seed)
    sent = [1, 1]
    frames = opening(*isns)
    numbers = set()
    for i in range(60):
        side = rng.randrange(2)
        size = rng.choice((0, 1, 100, 1400))
        back = rng.choice((0, 0, 0, 0, 1, 700, 1400, -1400))
        seq, ack = isns[side] + sent[side] - back, isns[1 - side] + sent[1 - side]
        late = rng.choice((0, 0, 0, 5))
        numbers |= {(seq + at) % 2**32 for at in (0, size, size + 1)} | {ack % 2**32}
        frames.append(
            segment(
                side,
                rng.choice((ACK, ACK, ACK, PSH | ACK, FIN | ACK if i > 50 else ACK)),
                seq % 2**32,
                (ack - rng.choice((0, 0, 0, 1400))) % 2**32,
                payload=bytes(size),
                options=capgen.timestamp(stamp + i - late, stamp + i),
            )
        )
        if back <= 0:
            sent[side] += size - back
    records = [(SEC + i * 3_000_000, frame) for i, frame in enumerate(frames)]
    return capgen.pcap(records), numbers


@pytest.mark.parametrize("seed", range(6))
def test_turned_around_the_circle(engine: ModuleType, seed: int) -> None:
    """T-29: where numbers and time stamps wrap makes no difference to anything but themselves,
    save that the analysis, like Wireshark's, takes the number 0 for none."""

    def told(data: bytes, analysis: bool) -> dict[str, Any]:
        found = lockstep.outcome(engine, [data], analysis=analysis)
        for name in ("isn_ab", "isn_ba"):
            del found["connections"][name]
        for name in ("seq", "ack"):
            del found["packets"][name]
        return found

    plain, _ = talk(seed, (1 << 20, 1 << 21), 1 << 20)
    rng = random.Random(seed)
    for edge in (2**31, 2**32):
        for back in (1, 2, 1401, rng.randrange(60_000)):
            place = (edge - back) % 2**32, (edge - rng.randrange(9000)) % 2**32
            turned, numbers = talk(seed, place, (edge - rng.randrange(60)) % 2**32)
            analysis = not numbers & {0, 2**32 - 1}
            lockstep.assert_same(told(plain, analysis), told(turned, analysis))


# T-21: output.


def test_output_is_no_more_than_payload(engine: ModuleType, tmp_path: Path) -> None:
    """T-21: tcpflow's issue 106: holes in the numbers are not bytes in the files."""
    frames = []
    for port in range(30):
        ends = ("10.0.0.1", "10.0.0.2", 1000 + port, 80)
        for i in range(4):
            fields = {"seq": (i << 29) % 2**32, "ack": 1, "payload": b"1234567"}
            frames.append(capgen.frame(*ends, flags=ACK, **fields))
    path, out = tmp_path / "in.pcap", tmp_path / "out"
    path.write_bytes(capgen.pcap([(SEC, frame) for frame in frames]))
    options = ["--engine", engine.ENGINE]
    assert main(["streams", str(path), "--out", str(out), *options]) == 0
    assert sum(one.stat().st_size for one in out.iterdir()) == 30 * 4 * 7
    assert main(["streams", str(path), "--out", str(out), "--fill", "--fill-max", "100"]) == 1
    assert list(out.iterdir()) == []


# T-23: captures.


def test_a_file_that_shrinks(engine: ModuleType, tmp_path: Path) -> None:
    """T-23: cut while it is read, it ends there; it is never mapped, so nothing can fall."""
    path = tmp_path / "a.pcap"
    path.write_bytes(capgen.pcap([(SEC, frame) for frame in opening()] * 4000))
    seen = 0
    for batch in tcpcore.replay_batches(path, batch_packets=1, engine=engine.ENGINE):
        os.truncate(path, 300_000)
        seen = batch.summary["packets"]
    assert batch.errors[0].reason == "record is cut"
    assert 300_000 // 70 - 1 <= seen < 12_000


@pytest.mark.parametrize("snaplen", [0, 1, 0xFFFFFFFF])
def test_snap_lengths(engine: ModuleType, snaplen: int) -> None:
    """T-23: what the header claims binds nobody; records longer than 65535 bytes are read."""
    frame = segment(0, ACK, 1, 1, payload=bytes(60_000)) + bytes(20_000)
    data = capgen.pcap_header(snaplen=snaplen) + capgen.pcap_record(SEC, frame)
    other = capgen.section() + capgen.interface(snaplen=snaplen) + capgen.enhanced(1, frame)
    for capture in (data, other):
        made = tcpcore.replay(io.BytesIO(capture), engine=engine.ENGINE)
        assert made.error is None
        assert made.connections["payload_bytes_ab"].tolist() == [60_000]


# T-30: clocks.


@pytest.mark.parametrize("clock", ["permuted", "equal", "backwards", "epoch", "extremes"])
@pytest.mark.parametrize("seed", range(3))
def test_clocks(reference: ModuleType, compiled: ModuleType, seed: int, clock: str) -> None:
    """T-30: whatever the stamps say, every segment is in a row, in the order of the file, and no
    connection is kept for ever."""
    rng = random.Random(seed)
    records = lockstep.traffic(seed)
    times = [record[0] for record in records]
    if clock == "permuted":
        rng.shuffle(times)
    elif clock == "equal":
        times = [SEC] * len(times)
    elif clock == "backwards":
        times.sort(reverse=True)
    elif clock == "epoch":
        times = [rng.choice((0, 1, -1, -SEC)) for _ in times]
    else:
        times = [rng.choice((0, 2**63 - 1, -(2**63), SEC)) for _ in times]
    # A last segment, later than all of them can be.
    records = [(at, *record[1:]) for at, record in zip(times, records, strict=True)]
    data = capgen.pcapng([*records, (2**63 - 1, segment(0, SYN, 1))])
    bounds = {"expire_idle_ns": 5 * SEC, "expire_closed_ns": SEC, "rows": "drain"}
    lockstep.assert_same(lockstep.outcome(reference, [data]), lockstep.outcome(compiled, [data]))
    for engine in (reference, compiled):
        whole = lockstep.outcome(engine, [data])
        assert (
            _sum(whole, "packets_ab") + _sum(whole, "packets_ba")
            == (whole["summary"]["tcp_segments"])
        )
        track = engine.Conntrack(**bounds)
        lockstep.feed(track, data)
        if clock != "extremes":  # the latest time is there from the start
            assert track.live == 1
        rows, columns = track.connections(["packets_ab", "packets_ba"], True)
        assert rows == track.summary()["connections"]
        sums = (sum(memoryview(bytes(one)).cast("q")) for one in columns.values())
        assert sum(sums) == track.summary()["tcp_segments"]


def _sum(told: dict[str, Any], name: str) -> int:
    return sum(memoryview(told["connections"][name]).cast("q"))


# T-32: output.


HOSTILE = "=cmd|' \x1b[31m\r\n\x07\u202e<script>\x9b"
CELL = re.compile(r"|-?[0-9]+(\.[0-9]+)?|[0-9a-f.:]+|\^?[A-Za-z]*|[A-Z][A-Z0-9_-]*|[a-z_]+")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_names_of_files(
    engine: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    """T-32: nothing of a file's name is obeyed by a terminal, whatever becomes of the file."""
    path = tmp_path / HOSTILE.replace("/", "")
    whole = capgen.pcap([(SEC, frame) for frame in opening()])
    for data in (whole, whole[:-3], b"no capture", None):
        if data is not None:
            path.write_bytes(data)
        else:
            path.unlink()
        for verb in (["replay", *form], ["streams", "--stream", "0:ab"]):
            main([*verb, "--engine", engine.ENGINE, str(path)])
        out, err = capsys.readouterr()
        for text in (out, err):
            assert not set(text) & set("\x1b\r\x07\x9b\u202e")
        if form and data is whole:
            shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
            assert shown["files"][0]["path"] == str(path)
    path.write_bytes(whole)
    assert "<script>" not in tcpcore.replay(path, engine=engine.ENGINE)._repr_html_()


@pytest.mark.parametrize("seed", range(4))
def test_cells(engine: ModuleType, tmp_path: Path, seed: int) -> None:
    """T-32: of no traffic does a cell hold a control byte, a quote, or a formula's first sign."""
    data = io.BytesIO(lockstep.mutated(lockstep.capture(seed), seed))
    made = tcpcore.replay(data, packets=True, analysis=True, engine=engine.ENGINE)
    for name, table in (("connections", made.connections), ("packets", made.packets)):
        path = tmp_path / f"{name}.csv"
        with writer(path, schema=table.schema) as out:
            out.write(table)
        lines = path.read_bytes().decode("ascii").splitlines()
        assert len(lines) == len(table) + 1
        for line in lines[1:]:
            for cell in line.split(","):
                assert CELL.fullmatch(cell), cell


@pytest.mark.parametrize("seed", range(4))
def test_names_of_streams(engine: ModuleType, tmp_path: Path, seed: int) -> None:
    """T-32: files are named by digits, letters, dots, dashes and underscores, in one folder."""
    path, out = tmp_path / "in.pcap", tmp_path / "out"
    path.write_bytes(lockstep.capture(seed))
    main(["streams", str(path), "--out", str(out), "--engine", engine.ENGINE])
    names = os.listdir(out)
    assert names
    assert set(os.listdir(tmp_path)) == {"in.pcap", "out"}
    for name in names:
        assert re.fullmatch(r"[0-9]{8}(-[0-9a-f_.]{2,64}){2}\.(ab|ba)", name), name
        assert (out / name).is_file()


def test_errors_show_nothing_raw(capsys: pytest.CaptureFixture[str]) -> None:
    """T-32: expressions that are shown again are shown as text."""
    for option in ("--filter", "--where", "--key"):
        with pytest.raises(SystemExit):
            main(["replay", "examples/http.pcap", option, "host \x1b]0;x\x07"])
        assert not set(capsys.readouterr().err) & set("\x1b\x07")


def test_urgent_marks_are_no_bytes(engine: ModuleType) -> None:
    """T-12, T-17, T-21: a flood of urgent pointers is charged to the budget as segments are."""
    flood = [segment(0, URG | ACK, 101, 501, urgent=1 + i) for i in range(200)]
    frames = [*opening(), segment(0, ACK, 101, 501, payload=b"x"), *flood]
    made = replay(engine, frames, stream_memory=32 * 201 + 1000)
    assert (made.stream(0, "ab").data, made.stream(0, "ab").urgent) == (b"x", [0])
    assert replay(engine, frames, stream_memory=32 * 200).summary["streams_given_up"] == 1


ROW = re.compile(r"^\| (T-[0-9]{2}) .*\| ([^|]*) \|$", re.MULTILINE)
WANTED = (  # of captures, of hosts
    "06 07 13 14 15 16 17 18 19 20 21 22 23 24 25 29 30 32 "
    "01 02 03 04 05 08 09 10 11 12 26 27 28 29 31"
)


def test_the_page_of_threats() -> None:
    """docs/hostile.md names each threat, and tests that are there and name it, too."""
    folder = Path(__file__).parent
    rows = ROW.findall((folder.parent / "docs" / "hostile.md").read_text())
    assert [threat for threat, _ in rows] == [f"T-{number}" for number in WANTED.split()]
    for threat, tests in rows:
        named = re.findall(r"`(test_[a-z_]+)::(test_[a-z_]+)`", tests)
        assert named, threat
        for module, test in named:
            text = (folder / f"{module}.py").read_text()
            body = re.search(rf"^def {test}\(.*?(?=^def |\Z)", text, re.MULTILINE | re.DOTALL)
            assert body, (threat, test)
            assert threat in body[0].partition("\n\n\n")[0], (threat, test)
