"""pcap and pcapng: every byte order, every damage, and the same rows however the input is cut.

T-23; draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import capgen
import numpy as np
import pytest
from capgen import SEC, block, enhanced, interface, obsolete, option, section, simple

from tcpcore.columns import PACKETS
from tcpcore.reference.tcp import Drop, Verdict

SEED = 23
MAX_RECORD = 16 << 20
INT64 = np.iinfo(np.int64)
NAMES = [
    "packet",
    "file",
    "offset",
    "caplen",
    "wirelen",
    "time_ns",
    "seq",
    "verdict",
    "drop_reason",
]
DTYPES = {column.name: column.dtype for column in PACKETS}
ORDERS = pytest.mark.parametrize("endian", ["<", ">"], ids=["little", "big"])
FRAMES = capgen.conversation()


class Found(NamedTuple):
    """What came out of an input."""

    rows: dict[str, list[int]]
    error: tuple[int, str] | None
    capture: dict[str, object]


def read(engine, data: bytes, cuts: Iterable[int] = (), count: int = 0) -> Found:
    """Feed an input in the pieces between the cuts, as a reader of a pipe does."""
    track = engine.Conntrack(packets=True, count=count)
    track.begin(0)
    held = b""
    edges = [0, *cuts, len(data)]
    for start, end in pairwise(edges):
        held += data[start:end]
        used = track.feed(held, len(held))
        held = held[used:]
        assert 24 <= track.want <= MAX_RECORD + 64
        if track.done:
            break
        # All that could be read was read: what is held is less than the next record.
        assert len(held) < track.want
    if not track.done:
        track.end(len(held))
    n, columns = track.packets(NAMES)
    rows = {name: np.frombuffer(columns[name], DTYPES[name]).tolist() for name in NAMES}
    assert all(len(column) == n for column in rows.values())
    return Found(rows, track.error, track.capture())


def bytes_of(data: bytes, found: Found) -> list[bytes]:
    """The frames' bytes by their offsets."""
    rows = found.rows
    places = zip(rows["offset"], rows["caplen"], strict=True)
    return [data[offset : offset + caplen] for offset, caplen in places]


def pcapng_of_all_kinds(endian: str = "<") -> bytes:
    """Two sections, three interfaces, every block that is read, and two that are not."""
    data = [frame for _, frame in FRAMES]
    other = {"<": ">", ">": "<"}[endian]
    return b"".join(
        (
            section(endian, options=option(4, b"capgen", endian) + option(0, b"", endian)),
            interface(resolution=9, endian=endian),
            enhanced(1, data[0], options=option(1, b"a comment", endian), endian=endian),
            block(0x0BAD, b"unknown, 18 bytes.", endian=endian),
            interface(capgen.RAW, resolution=6, offset_s=-5, endian=endian),
            enhanced(-7, data[1][14:], 2000, number=1, endian=endian),
            simple(data[2], endian=endian),
            obsolete(3, data[3], number=0, endian=endian),
            block(5, bytes(12), endian=endian),
            section(other),
            interface(147, endian=other),
            enhanced(5_000_000, data[4], endian=other),
            block(0x80000000 | 77, b"", endian=other),
        )
    )


CAPTURES = {
    **{
        f"{fmt} {endian}": capgen.pcap(FRAMES[:4], fmt=fmt, endian=endian)
        for fmt in capgen.PCAP_FORMATS
        for endian in "<>"
    },
    **{f"pcapng {endian}": pcapng_of_all_kinds(endian) for endian in "<>"},
}
EVERY = pytest.mark.parametrize("data", CAPTURES.values(), ids=CAPTURES)


# ---- pcap ---------------------------------------------------------------------------------------


@ORDERS
@pytest.mark.parametrize("fmt", capgen.PCAP_FORMATS)
def test_pcap(engine, fmt, endian):
    """Three magics in two byte orders: the same frames, times to the format's resolution."""
    unit = capgen.PCAP_FORMATS[fmt][1]
    records = [(4_294_967_295 * SEC + 999_999_999, FRAMES[0][1]), (0, FRAMES[1][1], 9000)]
    data = capgen.pcap(records, fmt=fmt, endian=endian)
    found = read(engine, data)
    assert found.error is None
    assert found.capture == {
        "format": fmt,
        "link_types": [1],
        "packets": 2,
        "bytes": len(FRAMES[0][1]) + 9000,
        "first_ns": 0,
        "last_ns": records[0][0] // unit * unit,
    }
    rows = found.rows
    assert rows["time_ns"] == [records[0][0] // unit * unit, 0]
    assert rows["caplen"] == [len(FRAMES[0][1]), len(FRAMES[1][1])]
    assert rows["wirelen"] == [len(FRAMES[0][1]), 9000]
    assert rows["packet"] == [1, 2]
    assert bytes_of(data, found) == [FRAMES[0][1], FRAMES[1][1]]
    assert rows["drop_reason"] == [0, 0]


def test_fraction_beyond_a_second(engine):
    """Files have it: the fraction is added as it stands."""
    for fmt, scale in (("pcap", 1000), ("pcap-ns", 1)):
        record = capgen.pcap_record(0, FRAMES[0][1], fmt=fmt)
        record = struct.pack("<II", 7, 0xFFFFFFFF) + record[8:]
        found = read(engine, capgen.pcap_header(fmt=fmt) + record)
        assert found.rows["time_ns"] == [7 * SEC + 0xFFFFFFFF * scale]


def test_captured_more_than_sent(engine):
    """T-23 (CVE-2018-17580): a wire length below the captured one is repaired."""
    frame = FRAMES[3][1]
    for data in (
        capgen.pcap([(0, frame, 5)]),
        section() + interface() + enhanced(0, frame, 5),
        section() + interface() + obsolete(0, frame, 5),
    ):
        found = read(engine, data)
        assert found.rows["wirelen"] == found.rows["caplen"] == [len(frame)]
        assert found.rows["seq"] == [1001]


def test_link_type_under_fcs_bits(engine):
    """The field's upper bits tell of the frame check sequence, not of the link type."""
    found = read(engine, capgen.pcap(FRAMES, 0x2400_0000 | 1))
    assert found.capture["link_types"] == [1]
    assert set(found.rows["drop_reason"]) == {0}


def test_empty_frames(engine):
    """No bytes captured is a frame all the same."""
    found = read(engine, capgen.pcap([(0, b"", 60), (1, b"")]))
    assert found.error is None
    assert found.rows["wirelen"] == [60, 0]
    assert found.rows["drop_reason"] == [Drop.PKT_TOO_SMALL] * 2


def test_unknown_link_type(engine):
    """An interface of an unknown link type is counted and skipped."""
    found = read(engine, capgen.pcap(FRAMES, 147))
    assert found.error is None
    assert found.capture["packets"] == len(FRAMES)
    assert set(found.rows["drop_reason"]) == {Drop.LINKTYPE_UNKNOWN}


@ORDERS
def test_largest_record(engine, endian):
    """T-23: 16 MiB are read, one byte more is a lie, told before it is waited for."""
    frame = FRAMES[0][1]
    data = capgen.pcap([(1, frame), (2, bytes(MAX_RECORD)), (3, frame)], endian=endian)
    cuts = [1000, MAX_RECORD // 2]
    found = read(engine, data, cuts)
    assert found.error is None
    assert found.rows["caplen"] == [len(frame), MAX_RECORD, len(frame)]
    offset = 24 + 16 + len(frame)
    for claim in (MAX_RECORD + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        head = capgen.pcap([(1, frame)], endian=endian)
        data = head + capgen.pcap_record(2, b"", caplen=claim, endian=endian)
        found = read(engine, data)
        assert found.error == (offset, f"record claims {claim} bytes")
        assert found.rows["packet"] == [1]


# ---- pcapng -------------------------------------------------------------------------------------


@ORDERS
def test_pcapng(engine, endian):
    """Sections of either byte order, interfaces of several kinds, each packet block."""
    data = pcapng_of_all_kinds(endian)
    found = read(engine, data)
    frames = [frame for _, frame in FRAMES]
    assert found.error is None
    assert found.capture["format"] == "pcapng"
    assert found.capture["link_types"] == [1, 101, 147]
    assert found.rows["time_ns"] == [1, -7000 - 5 * SEC, 0, 3, 5 * SEC]
    assert found.rows["wirelen"] == [
        *(2000 if i == 1 else len(frame) for i, frame in enumerate(frames[:5]))
    ]
    assert found.rows["drop_reason"] == [0, 0, 0, 0, Drop.LINKTYPE_UNKNOWN]
    assert found.rows["seq"][:4] == [1000, 5000, 1001, 1001]
    expected = [frames[0], frames[1][14:], *frames[2:5]]
    assert bytes_of(data, found) == expected


def resolution_of(byte: int) -> int:
    exponent = byte & 0x7F
    return 2**exponent if byte & 0x80 else 10**exponent


@ORDERS
@pytest.mark.parametrize("byte", [0, 3, 6, 8, 9, 10, 12, 18, 19, 127, 0x80, 0x9E, 0xBE, 0xFF])
def test_resolution(engine, byte, endian):
    """if_tsresol: powers of 10 and of 2, rounded down; what does not fit saturates with a flag."""
    rng = random.Random(SEED + byte)
    edges = [0, 1, 999, 1000, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -1, -999, -1000, -(2**63)]
    ticks = edges + [rng.getrandbits(rng.randrange(1, 63)) * rng.choice((1, -1)) for _ in range(40)]
    for offset_s in (None, 0, 1_600_000_000, -1_600_000_000, 2**62, -(2**63)):
        head = section(endian) + interface(resolution=byte, offset_s=offset_s, endian=endian)
        data = head + b"".join(enhanced(t, FRAMES[0][1], endian=endian) for t in ticks)
        rows = read(engine, data).rows
        for t, time_ns, verdict in zip(ticks, rows["time_ns"], rows["verdict"], strict=True):
            exact = t * SEC // resolution_of(byte) + (offset_s or 0) * SEC
            expected = min(max(exact, INT64.min), INT64.max)
            context = f"{t=} {offset_s=} {SEED=}"
            assert time_ns == expected, context
            assert bool(verdict & Verdict.CT_TIME_CLAMPED) == (expected != exact), context


def test_resolution_by_default(engine):
    """Without if_tsresol a tick is a microsecond; options of a wrong length are no options."""
    wrong = option(capgen.IF_TSRESOL, b"\x09\x09") + option(capgen.IF_TSOFFSET, bytes(4))
    for options in (b"", wrong, option(2, b"eth0"), option(0, b"") + option(9, b"\x09")):
        data = section() + interface(options=options) + enhanced(5, FRAMES[0][1])
        assert read(engine, data).rows["time_ns"] == [5000]


def test_options_of_an_interface(engine):
    """An option may follow others, padded to four bytes; one that lies ends the list."""
    name = option(2, b"name5")
    last = option(capgen.IF_TSRESOL, b"\x09")
    data = section() + interface(options=name + last) + enhanced(5, FRAMES[0][1])
    assert read(engine, data).rows["time_ns"] == [5]
    lying = struct.pack("<HH", 2, 1000)
    data = section() + interface(options=last + lying + last) + enhanced(5, FRAMES[0][1])
    found = read(engine, data)
    assert (found.error, found.rows["time_ns"]) == (None, [5])
    valueless = struct.pack("<HH", capgen.IF_TSRESOL, 1)
    data = section() + interface(options=valueless) + enhanced(5, FRAMES[0][1])
    assert read(engine, data).rows["time_ns"] == [5000]


def test_sections_start_over(engine):
    """A new section knows no interface of the one before."""
    data = section() + interface() + enhanced(0, FRAMES[0][1]) + section()
    found = read(engine, data + enhanced(0, FRAMES[1][1]))
    assert found.rows["packet"] == [1]
    assert found.error is not None
    assert found.error[0] == len(data)


def test_simple_packets(engine):
    """The captured length is the lesser of wire length and snap length; the block must have it."""
    frame = FRAMES[3][1]
    for snaplen, wirelen, caplen in (
        (0, len(frame), len(frame)),
        (60, len(frame), 60),
        (60, 40, 40),
        (5000, len(frame), len(frame)),
    ):
        data = section() + interface(snaplen=snaplen) + simple(frame, wirelen)
        found = read(engine, data)
        assert found.error is None
        assert (found.rows["caplen"], found.rows["wirelen"]) == ([caplen], [wirelen])
        assert found.rows["time_ns"] == [0]
    lying = read(engine, section() + interface() + simple(frame, 5000))
    assert lying.error == (len(section() + interface()), "packet claims 5000 bytes")


def test_every_minor_version(engine):
    """1.x is read; another major version is not."""
    for minor in (0, 1, 2, 9):
        data = section(minor=minor) + interface() + enhanced(0, FRAMES[0][1])
        assert read(engine, data).error is None
    for major in (0, 2, 0x100):
        found = read(engine, section(major=major) + interface())
        assert found.error == (0, f"section is of version {major}")


@ORDERS
def test_many_interfaces(engine, endian):
    """T-23: 65,536 interfaces in a section, each with its own number; one more is damage."""
    one = interface(endian=endian)
    last = interface(capgen.RAW, endian=endian)
    data = section(endian) + one * 65535 + last
    data += enhanced(0, FRAMES[0][1][14:], number=65535, endian=endian)
    found = read(engine, data)
    assert (found.error, found.rows["drop_reason"]) == (None, [0])
    found = read(engine, data + one)
    assert found.error is not None
    assert found.error[0] == len(data)
    assert "65536 interfaces" in found.error[1]
    # Another section may have as many again.
    again = section(endian) + one + enhanced(0, FRAMES[0][1], endian=endian)
    found = read(engine, data + again)
    assert (found.error, len(found.rows["packet"])) == (None, 2)


@ORDERS
def test_long_unknown_block(engine, endian):
    """A block of a kind that is not read is passed over however long, in a small buffer."""
    size = MAX_RECORD + 4096
    head = section(endian) + interface(endian=endian)
    long = block(0x40000001, bytes(size), endian=endian)
    data = head + long + enhanced(1, FRAMES[0][1], endian=endian)
    track = engine.Conntrack(packets=True)
    track.begin(0)
    held = b""
    for start in range(0, len(data), 65536):
        held += data[start : start + 65536]
        held = held[track.feed(held, len(held)) :]
        assert len(held) < 200
        assert track.want < 200
    track.end(len(held))
    assert track.error is None
    assert track.packets(["packet"])[0] == 1


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\r\r\n",
        b"\n\r\r\n\x1c\0\0\0abcd" + bytes(16),
        bytes(100),
        b"GIF89a" + bytes(30),
        bytes.fromhex("a1b2c3d5") + bytes(20),
        bytes.fromhex("1f8b0800") + bytes(20),
        capgen.pcap(FRAMES)[1:],
    ],
)
def test_no_capture(engine, data):
    """What begins with no magic is no capture, whatever its length and however it comes."""
    for cuts in ((), range(1, len(data)), (3,), (4,), (11,)):
        found = read(engine, data, [cut for cut in cuts if cut < len(data)])
        assert found.error == (0, "not a pcap or pcapng capture")
        assert found.capture["format"] == ""
        assert found.rows["packet"] == []


def ends_of_records(engine, data: bytes) -> list[int]:
    """Where an input may end: after its header, and after each record or block."""
    if data[:4] == b"\n\r\r\n":
        ends, pos, order = [], 0, "<"
        while pos < len(data):
            if data[pos : pos + 4] == b"\n\r\r\n":
                order = "<" if data[pos + 8] == 0x4D else ">"
            pos += struct.unpack_from(order + "I", data, pos + 4)[0]
            ends.append(pos)
        return ends
    rows = read(engine, data).rows
    return [24, *(o + n for o, n in zip(rows["offset"], rows["caplen"], strict=True))]


def reason_of_cut(fmt: str, offset: int, left: int) -> str:
    if fmt == "pcapng":
        return "block header is cut" if left < 8 else "block is cut"
    if offset == 0:
        return "file header is cut"
    header = 24 if fmt == "pcap-modified" else 16
    return "record header is cut" if left < header else "record is cut"


@EVERY
def test_cut_at_every_byte(engine, data):
    """T-23: what is whole before the cut comes out, then the error at the record that is not."""
    whole = read(engine, data)
    ends = ends_of_records(engine, data)
    assert ends[-1] == len(data)
    magic = 12 if whole.capture["format"] == "pcapng" else 4
    places = zip(whole.rows["offset"], whole.rows["caplen"], strict=True)
    taken = [min(end for end in ends if end >= offset + caplen) for offset, caplen in places]
    for cut in range(len(data)):
        found = read(engine, data[:cut])
        n = sum(end <= cut for end in taken)
        assert found.rows == {name: rows[:n] for name, rows in whole.rows.items()}, f"{cut=}"
        if cut in ends:
            assert found.error is None, f"{cut=}"
        elif cut < magic:
            assert found.error == (0, "not a pcap or pcapng capture"), f"{cut=}"
        else:
            offset = max((end for end in ends if end < cut), default=0)
            reason = reason_of_cut(whole.capture["format"], offset, cut - offset)
            assert found.error == (offset, reason), f"{cut=}"


@EVERY
def test_pieces(engine, data):
    """The same rows and error for every cut in two, for single bytes, and for random pieces."""
    damaged = data[:-3]
    for source in (data, damaged):
        whole = read(engine, source)
        for cut in range(1, len(source)):
            assert read(engine, source, [cut]) == whole, f"{cut=}"
        assert read(engine, source, range(1, len(source))) == whole
    rng = random.Random(SEED)
    whole = read(engine, data)
    for _ in range(50):
        cuts = sorted(rng.sample(range(1, len(data)), rng.randrange(1, 20)))
        assert read(engine, data, cuts) == whole, f"{cuts=} {SEED=}"


@EVERY
def test_mutations(engine, data):
    """T-23: no damage raises; rows lie inside the input; pieces still change nothing."""
    rng = random.Random(SEED)
    for i in range(250):
        bad = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            pos = rng.randrange(len(bad))
            if rng.random() < 0.5:
                bad[pos] = rng.choice((0, 1, 4, 0x7F, 0x80, 0xFF, rng.getrandbits(8)))
            else:
                word = rng.choice((0, 1, 8, 11, 12, 0x7FFFFFFF, 0xFFFFFFFF, MAX_RECORD + 1))
                bad[pos : pos + 4] = struct.pack(rng.choice("<>") + "I", word)
        whole = read(engine, bytes(bad))
        places = zip(whole.rows["offset"], whole.rows["caplen"], strict=True)
        assert all(offset >= 0 and offset + caplen <= len(bad) for offset, caplen in places)
        if whole.error:
            assert 0 <= whole.error[0] <= len(bad), f"{i=} {SEED=}"
        cuts = sorted(rng.sample(range(1, len(bad)), 5))
        assert read(engine, bytes(bad), cuts) == whole, f"{i=} {cuts=} {SEED=}"


HEAD = section() + interface()
FRAME = FRAMES[0][1]
EPB = capgen.ENHANCED
LIES = {
    "block claims 28 bytes": block(EPB, bytes(20), total=28),
    "block claims 0 bytes": block(EPB, bytes(20), total=0),
    "block claims 33 bytes": block(EPB, bytes(20), total=33),
    "block claims 4294967292 bytes": block(EPB, bytes(20), total=0xFFFFFFFC),
    "block claims 16777284 bytes": block(EPB, bytes(20), total=MAX_RECORD + 68),
    "block claims 8 bytes": block(0x0BAD, b"", total=8),
    "block claims 14 bytes": block(0x0BAD, b"", total=14),
    "block claims 16 bytes": block(capgen.INTERFACE, bytes(4)),
    "block claims 12 bytes": block(capgen.SIMPLE, b""),
    "block claims 20 bytes": block(capgen.OBSOLETE, bytes(8)),
    "block claims 24 bytes": struct.pack("<III", capgen.SECTION, 24, 0x1A2B3C4D) + bytes(12),
    "block lengths differ": block(EPB, bytes(20), trailer=36),
    "block lengths differ ": block(0x0BAD, bytes(8), trailer=24),
    "packet claims 69 bytes": enhanced(0, FRAME, caplen=69),
    "packet claims 4294967295 bytes": enhanced(0, FRAME, caplen=0xFFFFFFFF),
    "packet of interface 1, which is not declared": enhanced(0, FRAME, number=1),
    "packet of interface 65535, which is not declared": obsolete(0, FRAME, number=0xFFFF),
    "section has no byte-order magic": struct.pack("<III", capgen.SECTION, 28, 0x1A2B3C4E),
    "section is of version 3": section(major=3),
}


@pytest.mark.parametrize(("reason", "lie"), LIES.items(), ids=LIES)
def test_lying_block(engine, reason, lie):
    """T-23: every length and number is held against what is there; before it, all comes out."""
    data = HEAD + enhanced(0, FRAME)
    whole = data + lie + enhanced(1, FRAME) * 3
    found = read(engine, whole)
    assert found.rows["packet"] == [1]
    assert found.error == (len(data), reason.strip())
    for cut in range(1, len(whole), 7):
        assert read(engine, whole, [cut]) == found, f"{cut=}"


def test_magic_is_looked_at_first(engine):
    """A section's byte order is known, or not, before its length says whether it is whole."""
    for reason in ("section has no byte-order magic", "block claims 24 bytes"):
        assert read(engine, HEAD + LIES[reason][:12]).error == (len(HEAD), reason)


def test_packet_before_any_interface(engine):
    for packet in (enhanced(0, FRAME), simple(FRAME), obsolete(0, FRAME)):
        found = read(engine, section() + packet)
        assert found.error is not None
        assert (found.error[0], found.rows["packet"]) == (28, [])


def test_largest_block(engine):
    """T-23: a packet of 16 MiB with its block around it is read."""
    data = HEAD + enhanced(0, bytes(MAX_RECORD)) + enhanced(1, FRAME)
    found = read(engine, data, [5000])
    assert (found.error, found.rows["caplen"]) == (None, [MAX_RECORD, len(FRAME)])
    found = read(engine, HEAD + enhanced(0, bytes(MAX_RECORD), options=bytes(32)))
    assert found.error is None
    found = read(engine, HEAD + enhanced(0, bytes(MAX_RECORD), options=bytes(36)))
    assert found.error == (len(HEAD), f"block claims {MAX_RECORD + 68} bytes")
    found = read(engine, HEAD + enhanced(0, bytes(MAX_RECORD + 4)))
    assert found.error == (len(HEAD), f"packet claims {MAX_RECORD + 4} bytes")


def test_nothing_after_damage(engine):
    """Once an input is damaged it is done: a piece more changes nothing."""
    data = capgen.pcap(FRAMES[:1])
    bad = data + capgen.pcap_record(0, b"", caplen=0xFFFFFFFF)
    track = engine.Conntrack(packets=True)
    track.begin(0)
    track.feed(bad, len(bad))
    assert track.done
    assert track.feed(data, len(data)) == 0
    track.end(5)
    assert track.error[0] == len(data)
    assert track.packets(["packet"])[0] == 1


@EVERY
def test_count(engine, data):
    """After `count` frames no byte more is read, and what is wrong with it is not told."""
    whole = read(engine, data)
    ends = ends_of_records(engine, data)
    for count, offset in enumerate(whole.rows["offset"], 1):
        bad = data[: min(end for end in ends if end > offset)] + b"\xff" * 100
        for cuts in ((), range(1, len(bad))):
            found = read(engine, bad, cuts, count=count)
            assert found.error is None
            assert found.rows == {name: rows[:count] for name, rows in whole.rows.items()}
        assert read(engine, bad, count=count + 1).error is not None


def test_next_input_starts_over(engine):
    """Format, byte order, interfaces, offsets and damage end with their input."""
    bad = capgen.pcapng(FRAMES, endian=">") + bytes(64)
    good = capgen.pcap(FRAMES)
    track = engine.Conntrack(packets=True)
    for number, data in enumerate((bad, good, b"junk, no capture", bad)):
        track.begin(number)
        assert (track.error, track.done, track.want) == (None, False, 24)
        used = track.feed(data, len(data))
        track.end(len(data) - used)
        assert (track.error is None) == (data is good)
    n, columns = track.packets(["packet", "file", "offset"])
    assert n == 3 * len(FRAMES)
    assert np.frombuffer(columns["packet"], "i8").tolist() == [*range(1, n + 1)]
    assert np.frombuffer(columns["file"], "i4").tolist() == [
        number for number in (0, 1, 3) for _ in FRAMES
    ]
    offsets = np.frombuffer(columns["offset"], "i8").reshape(3, -1)
    assert offsets[0].tolist() == offsets[2].tolist()
    assert offsets[1][0] == 40


# ---- peek ---------------------------------------------------------------------------------------


@EVERY
def test_peek(engine, data):
    """The format, and the time of the first frame once it is there whole."""
    whole = read(engine, data)
    first = whole.rows["offset"][0] + whole.rows["caplen"][0]
    seen = [engine.pcap_peek(data, n) for n in range(len(data) + 1)]
    assert seen[-1] == (whole.capture["format"], whole.rows["time_ns"][0])
    known = 12 if whole.capture["format"] == "pcapng" else 4
    for n, (fmt, time_ns) in enumerate(seen):
        assert fmt == ("" if n < known else whole.capture["format"]), f"{n=}"
        if n < first:
            assert time_ns is None, f"{n=}"


def test_peek_looks_no_further_than_told(engine):
    data = bytearray(capgen.pcap(FRAMES)) + bytearray(1000)
    assert engine.pcap_peek(data, 3) == ("", None)
    assert engine.pcap_peek(data, 24) == ("pcap", None)
    assert engine.pcap_peek(memoryview(data), 300) == ("pcap", FRAMES[0][0])
    assert engine.pcap_peek(b"", 0) == ("", None)
    assert engine.pcap_peek(b"no capture at all, to be sure", 29) == ("", None)
