"""Streams: what each end sent, byte for byte, whatever the network and its users did.

Threats T-14 to T-22, T-24, T-29 and T-30 of the requirements, as far as they are about reassembly.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import capgen
import pytest
from capgen import ACK, FIN, PSH, RST, SEC, SYN

import tcpcore
from tcpcore import PcapError, Replay

A, B = ("10.0.0.1", 1000), ("10.0.0.2", 80)
OVERLAPS = ("first", "last", "linux", "bsd", "windows")
Sent = tuple[int, bytes]


def one(src: tuple[str, int], dst: tuple[str, int], **fields: object) -> bytes:
    return capgen.frame(src[0], dst[0], src[1], dst[1], **fields)


def ab(isn: int, offset: int, payload: bytes = b"", flags: int = ACK, **fields: object) -> bytes:
    """A frame from a whose payload is at an offset of the stream."""
    return one(A, B, seq=isn + 1 + offset, ack=501, flags=flags, payload=payload, **fields)


def ba(ack: int, flags: int = ACK, **fields: object) -> bytes:
    """A frame from b without payload."""
    return one(B, A, seq=501, ack=ack, flags=flags, **fields)


def handshake(isn: int = 100) -> list[bytes]:
    return [
        one(A, B, seq=isn, flags=SYN),
        one(B, A, seq=500, ack=isn + 1, flags=SYN | ACK),
        one(A, B, seq=isn + 1, ack=501, flags=ACK),
    ]


def capture(frames: Sequence[bytes], snap: int = 1 << 18) -> bytes:
    return capgen.pcap([(i * 1000, frame[:snap], len(frame)) for i, frame in enumerate(frames)])


def replay(engine: ModuleType, frames: Sequence[bytes], snap: int = 1 << 18) -> Replay:
    data = capture(frames, snap)
    return tcpcore.replay(io.BytesIO(data), streams=True, engine=engine.ENGINE)


def sent(engine: ModuleType, segments: Sequence[Sent], isn: int = 100, **options: object) -> object:
    """The stream of a connection of which a sent these (offset, payload), in this order."""
    frames = handshake(isn) + [ab(isn, offset, payload) for offset, payload in segments]
    return replay(engine, frames).stream(0, "ab", **options)


# What a stream is.


def test_both_directions(engine: ModuleType) -> None:
    frames = [
        *handshake(),
        ab(100, 0, b"question"),
        one(B, A, seq=501, ack=109, flags=PSH | ACK, payload=b"answer"),
    ]
    made = replay(engine, frames)
    assert made.stream(0, "ab").data == b"question"
    assert made.stream(0, "ba").data == b"answer"
    assert [(s.conn, s.direction, s.data) for s in made.streams()] == [
        (0, "ab", b"question"),
        (0, "ba", b"answer"),
    ]
    assert made.stream(0, "ab").length == 8


def test_out_of_order(engine: ModuleType) -> None:
    stream = sent(engine, [(6, b"ghi"), (3, b"def"), (0, b"abc")])
    assert (stream.data, stream.gaps, stream.conflicts) == (b"abcdefghi", [], [])


def test_gaps_are_told_and_filled_when_asked(engine: ModuleType) -> None:
    segments = [(2, b"cd"), (10, b"kl")]
    stream = sent(engine, segments)
    assert stream.data == b"cdkl"
    assert stream.gaps == [(0, 2), (4, 6)]
    stream = sent(engine, segments, fill=True)
    assert stream.data == b"\0\0cd" + bytes(6) + b"kl"


def test_mid_stream_begins_at_the_lowest_number(engine: ModuleType) -> None:
    frames = [ab(0, 100, b"late"), ab(0, 96, b"soon"), ab(0, 104, b"last")]
    stream = replay(engine, frames).stream(0, "ab")
    assert (stream.data, stream.gaps) == (b"soonlatelast", [])


def test_one_sided(engine: ModuleType) -> None:
    """T-22: a direction whose peer was never seen."""
    frames = [one(A, B, seq=100, flags=SYN)]
    frames += [ab(100, i * 3, b"abc") for i in range(9)]
    assert replay(engine, frames).stream(0, "ab").data == b"abc" * 9


def test_data_on_syn(engine: ModuleType) -> None:
    frames = [one(A, B, seq=100, flags=SYN, payload=b"early"), *handshake()[1:]]
    frames[2:] = [ab(100, 5, b"+late")]
    assert replay(engine, frames).stream(0, "ab").data == b"early+late"


def test_cut_by_the_snap_length(engine: ModuleType) -> None:
    frames = [*handshake(), ab(100, 0, b"abcdefgh"), ab(100, 8, b"ijklmnop"), ba(117)]
    stream = replay(engine, frames, snap=58).stream(0, "ab")
    assert stream.data == b"abcdijkl"
    assert stream.gaps == [(4, 4), (12, 4)]


def test_every_segment_of_every_conversation(engine: ModuleType) -> None:
    """Random sizes, order and copies: what comes out is what went in."""
    for seed in range(10):
        rng = random.Random(seed)
        data = rng.randbytes(rng.randrange(1, 5000))
        isn = rng.choice((0, 100, 2**32 - 1, 2**32 - 2000, 2**31 - 7))
        segments = []
        at = 0
        while at < len(data):
            size = rng.randrange(1, 700)
            segments.append((at, data[at : at + size]))
            at += size
        segments += [segments[rng.randrange(len(segments))] for _ in range(5)]
        for _ in range(8):
            start = rng.randrange(len(data))
            segments.append((start, data[start : start + rng.randrange(1, 900)]))
        rng.shuffle(segments)
        for overlap in OVERLAPS:
            stream = sent(engine, segments, isn, overlap=overlap)
            assert stream.data == data, seed
            assert (stream.gaps, stream.conflicts) == ([], []), seed


# T-14: copies that differ.


def model(segments: Sequence[Sent], overlap: str) -> dict[int, int]:
    """Byte by byte what each policy keeps, written apart from the engine."""
    kept: dict[int, tuple[int, int]] = {}  # offset: segment, byte
    starts = [offset for offset, _ in segments]  # BSD trims fronts
    covered = {at for offset, data in segments for at in range(offset, offset + len(data))}
    delivered: set[int] = set()  # what the tap missed was delivered, too
    for i, (offset, payload) in enumerate(segments):
        end = offset + len(payload)
        won = []
        for at in range(offset, end):
            owner = kept.get(at, (-1, 0))[0]
            if owner < 0 or overlap == "last":
                wins = True
            elif overlap == "first" or at in delivered:
                wins = False
            else:
                other, size = segments[owner][0], len(segments[owner][1])
                wins = {
                    "linux": offset < other or (offset == other and len(payload) > size),
                    "bsd": offset < starts[owner],
                    "windows": offset < other and end > other + size,
                }[overlap]
            if wins:
                won.append((at, owner))
        for at, owner in won:
            kept[at] = i, payload[at - offset]
            if owner >= 0:
                starts[owner] = end
        if won:
            starts[i] = won[0][0]
        for at in sorted(kept):
            if at - 1 in delivered or at - 1 not in covered:
                delivered.add(at)
    return {at: byte for at, (_, byte) in kept.items()}


def check_overlap(engine: ModuleType, segments: Sequence[Sent], isn: int) -> None:
    frames = handshake(isn) + [ab(isn, offset, payload) for offset, payload in segments]
    made = replay(engine, frames)
    for overlap in OVERLAPS:
        stream = made.stream(0, "ab", overlap=overlap, fill=True)
        wanted = model(segments, overlap)
        got = {at: byte for at, byte in enumerate(stream.data) if byte}
        assert got == wanted, (overlap, segments)
        differing = [
            (at, wanted[at], payload[at - offset])
            for offset, payload in segments
            for at in range(offset, offset + len(payload))
            if payload[at - offset] != wanted[at]
        ]
        told = [
            (offset + k, kept[k], other[k])
            for offset, kept, other in stream.conflicts
            for k in range(len(kept))
        ]
        assert sorted(told) == sorted(differing), (overlap, segments)
        assert stream.conflicting_bytes == len(differing)


def test_good_and_evil(engine: ModuleType) -> None:
    """T-14: the other value of each byte is told."""
    stream = sent(engine, [(0, b"GOOD"), (0, b"EVIL")])
    assert (stream.data, stream.conflicts) == (b"GOOD", [(0, b"GOOD", b"EVIL")])
    stream = sent(engine, [(0, b"GOOD"), (0, b"EVIL")], overlap="last")
    assert (stream.data, stream.conflicts) == (b"EVIL", [(0, b"EVIL", b"GOOD")])
    stream = sent(engine, [(2, b"GOOD"), (2, b"GOLD"), (9, b"x"), (9, b"y")])
    assert stream.conflicts == [(4, b"O", b"L"), (9, b"x", b"y")]


def test_pairs(engine: ModuleType) -> None:
    """T-14: each way in which two segments can overlap, behind a hole and without one."""
    spans = [(s, e) for s in range(4) for e in range(s + 1, 5)]
    for base, (one, two) in itertools.product((0, 1), itertools.product(spans, spans)):
        segments = [(base + s, bytes([65 + i]) * (e - s)) for i, (s, e) in enumerate((one, two))]
        check_overlap(engine, segments, 2**32 - 3)


def test_triplets(compiled: ModuleType) -> None:
    """T-14: the same of three (the reference is held to the compiled engine elsewhere)."""
    spans = [(s, e) for s in range(4) for e in range(s + 1, 5)]
    for base in (0, 1):
        for three in itertools.product(spans, repeat=3):
            segments = [(base + s, bytes([65 + i]) * (e - s)) for i, (s, e) in enumerate(three)]
            check_overlap(compiled, segments, 100)


def test_random_overlaps(engine: ModuleType) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        segments = [
            (rng.randrange(20), bytes([65 + i]) * rng.randrange(1, 12))
            for i in range(rng.randrange(2, 9))
        ]
        check_overlap(engine, segments, rng.choice((100, 2**32 - 5)))


# T-15 to T-18: what a receiver would not have taken.


def test_refused_segments_stay_out(engine: ModuleType) -> None:
    """T-15: far beyond the window, and never acknowledged."""
    frames = [*handshake(), ab(100, 0, b"good"), ab(100, 1 << 22, b"evil"), ab(100, 4, b"+more")]
    stream = replay(engine, frames).stream(0, "ab")
    assert (stream.data, stream.gaps) == (b"good+more", [])


def test_what_was_acknowledged_was_taken(engine: ModuleType) -> None:
    """A tap that knows too small a window loses nothing that its receiver had."""
    syn = handshake()
    syn[1] = one(B, A, seq=500, ack=101, flags=SYN | ACK, window=4)
    frames = [*syn, ab(100, 0, b"four"), ab(100, 8, b"behind"), ab(100, 4, b"more"), ba(115)]
    assert replay(engine, frames).stream(0, "ab").data == b"fourmorebehind"


def test_bad_checksums_count_unless_strict(engine: ModuleType) -> None:
    """T-15: with checksum='strict' an inserted segment with a bad one is not there."""
    frames = [*handshake(), ab(100, 0, b"EVIL", csum=1), ab(100, 0, b"GOOD")]
    for checksum, data in (("ignore", b"EVIL"), ("strict", b"GOOD")):
        made = tcpcore.replay(
            io.BytesIO(capture(frames)), streams=True, checksum=checksum, engine=engine.ENGINE
        )
        assert made.stream(0, "ab").data == data


def test_nothing_behind_a_fin(engine: ModuleType) -> None:
    """T-16: what is below the FIN counts even when it comes later, what is behind it does not."""
    frames = [
        *handshake(),
        ab(100, 4, b"end", FIN | ACK),
        ab(100, 7, b"beyond"),
        ab(100, 0, b"the "),
    ]
    stream = replay(engine, frames).stream(0, "ab")
    assert (stream.data, stream.gaps) == (b"the end", [])


def test_a_missing_end_is_a_gap(engine: ModuleType) -> None:
    frames = [*handshake(), ab(100, 0, b"begin"), ab(100, 9, b"", FIN | ACK), ba(111)]
    assert replay(engine, frames).stream(0, "ab").gaps == [(5, 4)]


def test_nothing_after_a_reset(engine: ModuleType) -> None:
    """T-16: nor after its sender's reset, if that is accepted; one that is far off changes
    nothing."""
    far = ab(100, 1 << 29, b"", RST)
    frames = [*handshake(), ab(100, 0, b"one"), far, ab(100, 3, b"two"), ab(100, 6, b"", RST)]
    frames += [ab(100, 6, b"three")]
    assert replay(engine, frames).stream(0, "ab").data == b"onetwo"


def test_a_reset_of_the_other_end(engine: ModuleType) -> None:
    """T-16: who is reset has sent on until it learns of it; nothing comes of it but what is next,
    and no byte that was there before is changed."""
    far = one(B, A, seq=1 << 30, ack=0, flags=RST)
    frames = [*handshake(), ab(100, 0, b"one"), far, ab(100, 3, b"two"), ba(107, RST | ACK)]
    frames += [ab(100, 0, b"ONETWO+"), ab(100, 7, b"more"), ab(100, 5000, b"far")]
    stream = replay(engine, frames).stream(0, "ab", overlap="last")
    assert (stream.data, stream.gaps) == (b"onetwo+more", [])


def urgent(offset: int, payload: bytes, pointer: int, flags: int = ACK) -> bytes:
    return ab(100, offset, payload, capgen.URG | flags, urgent=pointer)


URGENT = {
    # What a sends after the handshake, its stream in line, which offsets are urgent.
    "the last byte": ([urgent(0, b"ab!", 3), ab(100, 3, b"cd")], b"ab!cd", [2]),
    "the first byte": ([urgent(0, b"!ab", 1), ab(100, 3, b"cd")], b"!abcd", [0]),
    "pointer 0": ([urgent(0, b"!ab", 0), ab(100, 3, b"cd")], b"!abcd", [0]),
    "in a later segment": ([urgent(0, b"ab", 4), ab(100, 2, b"c!d")], b"abc!d", [3]),
    "told without data": ([urgent(0, b"", 2), ab(100, 0, b"a!b")], b"a!b", [1]),
    "twice": ([urgent(0, b"a!", 2), urgent(0, b"a!", 2), urgent(2, b"b!c", 2)], b"a!b!c", [1, 3]),
    "never sent": ([urgent(0, b"abc", 9)], b"abc", []),
    "in a gap": ([urgent(0, b"ab", 4), ab(100, 6, b"cd")], b"abcd", [3]),
    "behind a gap": ([ab(100, 0, b"ab"), urgent(6, b"c!d", 2)], b"abc!d", [7]),
    "out of order": ([urgent(3, b"c!d", 2), ab(100, 0, b"abc")], b"abcc!d", [4]),
    "on a FIN": ([urgent(0, b"ab!", 3, FIN | ACK)], b"ab!", [2]),
    "behind a FIN": ([ab(100, 0, b"ab", FIN | ACK), urgent(2, b"!", 1)], b"ab", []),
    "refused": ([ab(100, 0, b"ab"), urgent(1 << 22, b"!", 1)], b"ab", []),
}


@pytest.mark.parametrize("what", URGENT)
def test_urgent_data(engine: ModuleType, what: str) -> None:
    """T-12, T-17: in line as RFC 6093 has it, or left out; told in both cases."""
    frames, data, offsets = URGENT[what]
    made = replay(engine, [*handshake(), *frames])
    stream = made.stream(0, "ab")
    assert (stream.data, stream.urgent) == (data, offsets)
    apart = data.replace(b"!", b"") if offsets else data
    stream = made.stream(0, "ab", urgent="drop")
    assert (stream.data, stream.length, stream.urgent) == (apart, len(apart), offsets)
    assert b"".join(stream.pieces(2)) == apart
    assert [one.data for one in made.streams(urgent="drop")] == [apart]
    filled = made.stream(0, "ab", fill=True)
    assert filled.data.replace(b"\0", b"") == data
    filled = made.stream(0, "ab", fill=True, urgent="drop")
    assert filled.data.replace(b"\0", b"") == apart
    with pytest.raises(ValueError, match="urgent must be"):
        made.stream(0, "ab", urgent="later")


@pytest.mark.parametrize("pointer", [0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("isn", [100, 2**32 - 3, 2**31 - 2])
def test_urgent_pointers(engine: ModuleType, pointer: int, isn: int) -> None:
    """T-12, T-17, T-29: every pointer is inside the stream or nowhere, at any number."""
    sent = bytes(range(1, 101))
    fields = {"flags": capgen.URG | ACK, "urgent": pointer}
    frames = [*handshake(isn), ab(isn, 0, sent, **fields), ab(isn, 100, bytes(70_000 - 100)[:1300])]
    for flags in (capgen.URG | SYN, capgen.URG | RST, capgen.URG):
        frames.append(ab(isn, 50, b"", flags, urgent=pointer))
    made = replay(engine, frames[:-3])
    place = max(pointer, 1) - 1
    assert made.stream(0, "ab").urgent == ([place] if place < 1400 else [])
    assert made.stream(0, "ab", urgent="drop").length == 1400 - (place < 1400)
    assert replay(engine, frames).stream(0, "ab").data[:100] == sent


def test_urgent_bytes_and_conflicts(engine: ModuleType) -> None:
    """T-14, T-17: copies are told by their offsets in the stream, whatever is left out."""
    frames = [*handshake(), urgent(0, b"!GOOD", 1), ab(100, 1, b"EVIL")]
    stream = replay(engine, frames).stream(0, "ab", urgent="drop")
    assert (stream.data, stream.conflicts) == (b"GOOD", [(1, b"GOOD", b"EVIL")])


def test_a_new_connection_has_new_streams(engine: ModuleType) -> None:
    """T-18: the 4-tuple taken again."""
    frames = [*handshake(), ab(100, 0, b"old"), *handshake(9000), ab(9000, 0, b"new")]
    made = replay(engine, frames)
    assert [made.stream(i, "ab").data for i in (0, 1)] == [b"old", b"new"]


def test_synack_first(engine: ModuleType) -> None:
    """T-18: the opening captured in the wrong order."""
    syn, synack, ack = handshake()
    made = replay(engine, [synack, syn, ack, ab(100, 0, b"data")])
    assert (made.stream(0, "ab").data, made.stream(0, "ab").gaps) == (b"data", [])


# T-19, T-29: numbers.


@pytest.mark.parametrize("isn", [2**32 - 1, 2**32 - 2, 2**32 - 6, 2**31 - 1, 2**31 - 4, 0])
def test_sequence_numbers_wrap(engine: ModuleType, isn: int) -> None:
    """T-19, T-29: at every edge of the circle, in and out of order."""
    segments = [(0, b"abc"), (6, b"ghi"), (3, b"def"), (2, b"cdefgh"), (9, b"jkl")]
    assert sent(engine, segments, isn).data == b"abcdefghijkl"


def test_more_than_four_gibibytes(engine: ModuleType) -> None:
    """T-29: offsets have 64 bits. The tap lost nearly all of it; what it has is in its place."""
    step = 1 << 29
    frames = handshake()
    for i in range(20):
        offset = i * step
        seq = (101 + offset) % 2**32
        frames.append(one(A, B, seq=seq, ack=501, flags=ACK, payload=bytes([i + 65])))
        frames.append(ba((seq + 1) % 2**32))
    stream = replay(engine, frames).stream(0, "ab")
    assert stream.data == bytes(range(65, 85))
    assert stream.gaps[-1] == (18 * step + 1, step - 1)
    with pytest.raises(ValueError, match="fill_max"):
        replay(engine, frames).stream(0, "ab", fill=True).data  # noqa: B018


# T-21, T-22: memory and time.


def test_a_gap_costs_nothing(engine: ModuleType) -> None:
    """T-21: two bytes a gigabyte apart are two bytes."""
    frames = [ab(0, 0, b"a"), ab(0, 1 << 29, b"b"), ab(0, 1 << 30, b"c")]
    stream = replay(engine, frames).stream(0, "ab")
    assert len(stream.data) == 3
    with pytest.raises(ValueError, match="fill_max=1000"):
        replay(engine, frames).stream(0, "ab", fill=True, fill_max=1000).data  # noqa: B018


def test_conflicts_take_the_time_of_what_was_captured(engine: ModuleType) -> None:
    """T-24: gaps of any length cost nothing, filled or not."""
    far = [ab(100, n * (3 << 29), b"abc") for n in range(1000)]
    made = replay(engine, [*far, ab(100, 999 * (3 << 29), b"abd")])
    for fill in (False, True):
        stream = made.stream(0, "ab", fill=fill)
        assert [gap[1] for gap in stream.gaps] == [(3 << 29) - 3] * 999
        assert stream.conflicts == [(999 * (3 << 29) + 2, b"c", b"d")]
        assert stream.conflicting_bytes == 1


def test_budget(engine: ModuleType) -> None:
    """T-21: above the budget the closed ones go first, then those that began first."""
    frames = []
    for port in range(20):
        end = ("10.0.0.1", 1000 + port)
        frames.append(one(end, B, seq=100, flags=SYN))
        frames.append(one(end, B, seq=101, flags=ACK, payload=b"%02d" % port))
        if port == 3:
            frames.append(one(end, B, seq=103, flags=RST))
    data = io.BytesIO(capture(frames))
    made = tcpcore.replay(data, streams=True, stream_memory=18 * 192, engine=engine.ENGINE)
    there = [stream.conn for stream in made.streams()]
    given_up = made.summary["streams_given_up"]
    assert given_up == 20 - len(there) > 1
    assert there == [i for i in range(20) if i != 3][given_up - 1 :]
    assert all(stream.data == b"%02d" % stream.conn for stream in made.streams())
    with pytest.raises(LookupError, match="given up"):
        made.stream(3, "ab")


def test_one_connection_above_the_budget(engine: ModuleType) -> None:
    """T-21: it is given up whole, and does not come back by half."""
    frames = handshake() + [ab(100, i, b"x") for i in range(100)]
    data = io.BytesIO(capture(frames))
    made = tcpcore.replay(data, streams=True, stream_memory=1000, engine=engine.ENGINE)
    assert list(made.streams()) == []
    assert made.summary["streams_given_up"] == 1


def test_a_bounded_tracker_keeps_streams(engine: ModuleType) -> None:
    """Streams of connections that are followed no more are there."""
    frames = []
    for port in range(9):
        end = ("10.0.0.1", 1000 + port)
        frames.append(one(end, B, seq=100, flags=SYN))
        frames.append(one(end, B, seq=101, flags=ACK, payload=b"%02d" % port))
    data = io.BytesIO(capture(frames))
    made = tcpcore.replay(data, streams=True, max_connections=2, engine=engine.ENGINE)
    assert [stream.data for stream in made.streams()] == [b"%02d" % i for i in range(9)]


def worst(count: int, step: int) -> bytes:
    """A connection of one-byte segments, every `step`-th first, each with a copy."""
    frame = bytearray(one(A, B, seq=0, ack=501, flags=ACK, payload=b"x"))
    records = [(0, bytes(one), len(one)) for one in handshake()]
    for start in range(step):
        for at in range(count - 1 - start, -1, -step):
            frame[38:42] = (101 + at).to_bytes(4, "big")
            records.append((0, bytes(frame), len(frame)))
    return capgen.pcap(records)


def test_one_byte_segments_backwards(compiled: ModuleType) -> None:
    """T-06, T-22: many segments in the worst order, all policies; bench/ has the time of each."""
    count = 100_000
    data = io.BytesIO(worst(count, 3))
    made = tcpcore.replay(data, streams=True, checksum="ignore", engine="compiled")
    for overlap in OVERLAPS:
        assert len(made.stream(0, "ab", overlap=overlap).data) == count


# Where the bytes come from.


FRAMES = [*handshake(), ab(100, 0, b"hello "), ab(100, 6, b"world")]


def test_a_file_is_read_again(engine: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(capture(FRAMES))
    made = tcpcore.replay(path, streams=True, engine=engine.ENGINE)
    assert made.stream(0, "ab").data == b"hello world"


def test_a_compressed_file_is_read_again(engine: ModuleType, tmp_path: Path) -> None:
    """T-24: what a gzip holds is neither kept nor written anywhere."""
    path = tmp_path / "a.pcap.gz"
    path.write_bytes(gzip.compress(capture(FRAMES)))
    made = tcpcore.replay(path, streams=True, engine=engine.ENGINE)
    assert [stream.data for stream in made.streams()] == [b"hello world"]
    assert made.stream(0, "ab").data == b"hello world"


def test_a_changed_file_is_an_error(engine: ModuleType, tmp_path: Path) -> None:
    for name in ("a.pcap", "a.pcap.gz"):
        path = tmp_path / name
        data = capture(FRAMES)
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        made = tcpcore.replay(path, streams=True, engine=engine.ENGINE)
        os.utime(path, ns=(0, 0))
        with pytest.raises(PcapError, match="has changed"):
            made.stream(0, "ab").data  # noqa: B018
        path.unlink()
        with pytest.raises(PcapError, match="No such file"):
            list(made.streams())


def test_a_pipe_is_spooled(engine: ModuleType) -> None:
    read, write = os.pipe()
    os.write(write, capture(FRAMES))
    os.close(write)
    with open(read, "rb") as pipe:
        made = tcpcore.replay(pipe, streams=True, engine=engine.ENGINE)
    assert made.stream(0, "ab").data == b"hello world"


def test_the_spool_is_bounded(engine: ModuleType) -> None:
    """T-24: beyond the cap nothing is kept, and nothing is made up."""
    data = io.BytesIO(capture(FRAMES))
    made = tcpcore.replay(data, streams=True, spool=100, engine=engine.ENGINE)
    with pytest.raises(PcapError, match="100 bytes are spooled"):
        made.stream(0, "ab").data  # noqa: B018


def test_several_inputs(engine: ModuleType, tmp_path: Path) -> None:
    """A stream over a plain file, a compressed one and a file object."""
    pieces = [FRAMES[:4], FRAMES[4:], [ab(100, 11, b"!")]]
    captures = [
        capgen.pcap([(SEC * (i + 1), one, len(one)) for one in frames])
        for i, frames in enumerate(pieces)
    ]
    (tmp_path / "1.pcap").write_bytes(captures[0])
    (tmp_path / "2.pcap").write_bytes(gzip.compress(captures[1]))
    source = [io.BytesIO(captures[2]), tmp_path / "2.pcap", tmp_path / "1.pcap"]
    made = tcpcore.replay(source, streams=True, engine=engine.ENGINE)
    assert made.stream(0, "ab").data == b"hello world!"


def test_time_that_goes_back(engine: ModuleType) -> None:
    """T-30: the order is that of the file, whatever the stamps say."""
    frames = [*handshake(), ab(100, 0, b"GOOD"), ab(100, 0, b"EVIL"), ab(100, 4, b"!")]
    records = [((9 - i) * SEC, one, len(one)) for i, one in enumerate(frames)]
    made = tcpcore.replay(io.BytesIO(capgen.pcap(records)), streams=True, engine=engine.ENGINE)
    assert made.stream(0, "ab").data == b"GOOD!"


def test_misuse(engine: ModuleType) -> None:
    made = replay(engine, FRAMES)
    with pytest.raises(ValueError, match="direction"):
        made.stream(0, "up")
    with pytest.raises(ValueError, match="overlap"):
        made.stream(0, "ab", overlap="best")
    with pytest.raises(IndexError, match="no connection 7"):
        made.stream(7, "ab")
    with pytest.raises(ValueError, match="streams=True"):
        tcpcore.replay(io.BytesIO(capture(FRAMES)), engine=engine.ENGINE).stream(0, "ab")


def test_a_stream_in_pieces(engine: ModuleType) -> None:
    made = sent(engine, [(6, b"ghi"), (0, b"abcdefg"), (12, b"mn")])
    assert list(made.pieces(4)) == [b"abcd", b"efgh", b"imn"]
