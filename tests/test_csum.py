"""The Internet checksum against its definition: RFC 1071, every length and every body."""

from __future__ import annotations

import random

import capgen
import pytest

SEED = 1071
LONG = [1459, 1460, 1461, 9000, 65535, 65536, 262145]


def ones_complement_sum(data: bytes, start: int = 0) -> int:
    """RFC 1071 1 word by word; its 0 is 0 only when every addend is."""
    total = start
    for i in range(0, len(data), 2):
        total += data[i] << 8 | (data[i + 1] if i + 1 < len(data) else 0)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_worked_example(engine):
    """RFC 1071 3: the words 0001 f203 f4f5 f6f7 sum to ddf2."""
    assert engine.csum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_every_length(engine):
    """RFC 1071: every length up to eight of the widest vectors, odd tails included."""
    rng = random.Random(SEED)
    data = rng.randbytes(1024)
    for length in range(len(data) + 1):
        piece = data[-length:] if length else b""
        assert engine.csum(piece) == ones_complement_sum(piece), f"{length=} {SEED=}"


@pytest.mark.parametrize("length", LONG)
@pytest.mark.parametrize("fill", [None, 0x00, 0xFF, 0x80])
def test_long(engine, length, fill):
    """RFC 1071: no carry is lost where lanes are widest and values largest."""
    data = random.Random(SEED).randbytes(length) if fill is None else bytes([fill]) * length
    assert engine.csum(data) == ones_complement_sum(data), f"{SEED=}"


def test_two_zeros(engine):
    """RFC 1071 2: all-zero data sum to 0, other multiples of 0xFFFF to 0xFFFF, so 0 is not -0."""
    for length in range(200):
        assert engine.csum(bytes(length)) == 0
        assert engine.csum(bytes(2 * length) + b"\xff\xff" + bytes(length)) == 0xFFFF
        assert engine.csum(bytes(2 * length), 0xFFFF) == 0xFFFF


def test_start(engine):
    """RFC 1071 2 (A): a sum that continues another is the sum of both, wherever the even cut."""
    rng = random.Random(SEED)
    for _ in range(300):
        data = rng.randbytes(rng.randrange(400))
        start = rng.choice((0, 1, 0xFFFF, 0x10000, 0x1FFFE, rng.getrandbits(32), 0xFFFFFFFF))
        assert engine.csum(data, start) == ones_complement_sum(data, start), f"{start=} {SEED=}"
        cut = rng.randrange(0, len(data) + 1, 2)
        pieces = engine.csum(data[cut:], engine.csum(data[:cut]))
        assert pieces == engine.csum(data), f"{cut=} {SEED=}"


def test_byte_order(engine):
    """RFC 1071 2 (B): swapping the bytes of every word swaps those of the sum."""
    rng = random.Random(SEED)
    for _ in range(200):
        data = rng.randbytes(2 * rng.randrange(1, 300))
        swapped = bytearray(data)
        swapped[::2], swapped[1::2] = data[1::2], data[::2]
        total = engine.csum(data)
        assert engine.csum(bytes(swapped)) == (total & 0xFF) << 8 | total >> 8, f"{SEED=}"


def test_complement_verifies(engine):
    """9293:MUST-2: data with their own checksum sum to 0xFFFF, and one flipped bit shows."""
    rng = random.Random(SEED)
    for _ in range(200):
        data = bytearray(rng.randbytes(2 * rng.randrange(10, 800)))
        data[16:18] = b"\0\0"
        data[16:18] = (engine.csum(bytes(data)) ^ 0xFFFF).to_bytes(2, "big")
        assert engine.csum(bytes(data)) == 0xFFFF, f"{SEED=}"
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        assert engine.csum(bytes(data)) != 0xFFFF, f"{SEED=}"


@pytest.mark.parametrize("ends", [("10.0.0.1", "192.0.2.255"), ("2001:db8::1", "ffff::ffff")])
def test_segment_at_every_alignment(engine, ends):
    """9293:MUST-3: a segment is verified wherever it lies in memory and whatever its length.

    Options and VLAN tags move it by 4 bytes each, the link types by the rest.
    """
    rng = random.Random(SEED)
    for size in (0, 1, 2, 3, 5, 31, 64, 127, 200, 1459, 1460):
        payload = rng.randbytes(size)
        good = capgen.packet(*ends, payload=payload)
        bad = bytearray(good)
        bad[-1] ^= 0x10
        for linktype in capgen.LINKTYPES:
            for ip, verdict in ((good, 0), (bytes(bad), 1)):
                frame = capgen.link(linktype, ip)
                parsed = engine.parse_frame(linktype, frame, len(frame))
                assert parsed["bad_tcp_csum"] == verdict, f"{linktype=} {size=} {SEED=}"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_body(compiled, isa):
    """Each body of the compiled checksum, at every length and from every start."""
    chosen = compiled.isa()
    try:
        compiled.isa_select(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        assert compiled.isa() == isa
        test_every_length(compiled)
        test_start(compiled)
        test_two_zeros(compiled)
        for fill in (None, 0x00, 0xFF, 0x80):
            for length in LONG:
                test_long(compiled, length, fill)
    finally:
        compiled.isa_select(chosen)
