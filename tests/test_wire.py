"""A frame to a segment: every cut, every flag, every option's length byte has its own outcome.

T-13; RFC 9293 3.1 and 3.2; RFC 7323; RFC 2018.
"""

from __future__ import annotations

import random
import struct

import capgen
import pytest
from capgen import ACK, CWR, ECE, EOL, FIN, NOP, PSH, SACK_PERM, SYN, mss, timestamp, wscale

from tcpcore.reference.tcp import Drop, Opt

SEED = 9293
V4 = ("10.0.0.1", "192.0.2.9", 40000, 80)
V6 = ("2001:db8::1", "2001:db8::9", 40000, 80)
OPTIONS = mss(1460) + SACK_PERM + timestamp(7, 9) + NOP + wscale(7)


def parse(engine, frame: bytes, linktype: int = capgen.ETHERNET, wirelen: int | None = None):
    return engine.parse_frame(linktype, frame, len(frame) if wirelen is None else wirelen)


# ---- a whole frame -------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("linktype", capgen.LINKTYPES)
def test_fields(engine, linktype, ends):
    """9293 3.1: every field of the header, host order, whatever the link layer is."""
    fields = {
        "seq": 0xFFFFFFF0,
        "ack": 0xDEADBEEF,
        "flags": SYN | ACK | ECE | CWR | 0xF00,
        "window": 0xFEDC,
        "options": OPTIONS,
        "payload": b"0123456789abcdefg",
    }
    frame = capgen.frame(*ends, linktype=linktype, **fields)
    seg = parse(engine, frame, linktype)
    assert seg == {
        "transport_header": len(frame) - 40 - 17,
        "saddr": capgen.address16(ends[0]),
        "daddr": capgen.address16(ends[1]),
        "sport": 40000,
        "dport": 80,
        "ip": 4 if ends is V4 else 6,
        "seq": 0xFFFFFFF0,
        "ack": 0xDEADBEEF,
        "end_seq": 2,  # 17 bytes and a SYN further, past the wrap
        "payload_len": 17,
        "flags": SYN | ACK | ECE | CWR | 0xF00,
        "window": 0xFEDC,
        "doff": 10,
        "opts": Opt.OPT_MSS | Opt.OPT_SACK_PERM | Opt.OPT_TIMESTAMP | Opt.OPT_WSCALE,
        "mss": 1460,
        "urgent": 0,
        "wscale": 7,
        "tsval": 7,
        "tsecr": 9,
        "vlan": -1,
        "inner_vlan": -1,
        "vlans": 0,
        "encap": 0,
        "tunnel": 0,
        "outer": (),
        "bad_ip_csum": 0,
        "bad_tcp_csum": 0,
        "drop": 0,
    }


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("linktype", capgen.LINKTYPES)
def test_every_cut(engine, linktype, ends):
    """T-13: a frame cut by the snap length at any byte gives what lies before the cut.

    Its checksum is wrong, which shows once the last byte is there and not before.
    """
    fields = {"flags": SYN, "options": OPTIONS, "payload": b"payload"}
    whole = bytearray(capgen.frame(*ends, linktype=linktype, **fields))
    whole[-1] ^= 1
    tcp = len(whole) - 40 - 7
    known = [
        (24, Opt.OPT_MSS),
        (26, Opt.OPT_SACK_PERM),
        (36, Opt.OPT_TIMESTAMP),
        (40, Opt.OPT_WSCALE),
    ]
    for cut in range(len(whole) + 1):
        seg = parse(engine, bytes(whole[:cut]), linktype, len(whole))
        if cut == 1 and linktype in (capgen.PPP, capgen.PPP_HDLC):
            assert seg["drop"] == Drop.UNHANDLED_PROTO  # half of ff 03 is a protocol by itself
        elif cut < tcp + 16:
            assert seg["drop"] == Drop.PKT_TOO_SMALL, f"{cut=}"
        else:
            opts = sum(opt for end, opt in known if tcp + end <= cut)
            opts |= Opt.OPT_CUT if cut < tcp + 40 else 0
            assert (seg["drop"], seg["payload_len"], seg["doff"]) == (0, 7, 10), f"{cut=}"
            assert (seg["flags"], seg["window"]) == (SYN, 65535), f"{cut=}"
            assert seg["opts"] == opts, f"{cut=}"
            assert seg["bad_tcp_csum"] == (cut == len(whole)), f"{cut=}"


def test_nothing_behind_a_cut_is_read(engine):
    """T-13: what follows a cut frame in memory never shows in its row."""
    whole = capgen.frame(*V4, flags=SYN, options=OPTIONS, payload=b"payload")
    names = ["conn", "seq", "flags", "window", "payload_len", "verdict", "drop_reason"]
    ends = ["mss_ab", "wscale_ab", "sack_permitted_ab", "timestamps_ab", "bad_checksum_ab"]
    for cut in range(len(whole)):
        seen = set()
        for follower in (bytes(100), b"\xff" * 100, whole[cut:], b"\x08\x0a" * 50):
            capture = capgen.pcap([(0, whole[:cut], len(whole)), (1, follower)])
            track = engine.Conntrack(packets=True, count=1)
            track.begin(0)
            track.feed(capture, len(capture))
            tables = track.packets(names), track.connections(ends)
            seen.add(tuple((n, *(bytes(column) for column in t.values())) for n, t in tables))
        assert len(seen) == 1, f"{cut=}"


# ---- the TCP header ------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
def test_data_offset(engine, ends):
    """T-13: every data offset. Below 5 there are no flags, options or checksum verdict."""
    for doff in range(16):
        fields = {"flags": SYN | ACK, "options": OPTIONS, "payload": bytes(10), "doff": doff}
        seg = parse(engine, capgen.frame(*ends, csum=0, **fields))
        length = 20 + 20 + 10
        assert seg["payload_len"] == max(length - 4 * doff, 0), f"{doff=}"
        assert (seg["doff"], seg["window"], seg["ack"]) == (doff, 65535, 0)
        if doff < 5:
            assert seg["drop"] == Drop.TCP_BAD_DOFF
            assert (seg["flags"], seg["opts"], seg["bad_tcp_csum"]) == (0, 0, 0)
            assert seg["end_seq"] == seg["seq"] + seg["payload_len"]
        else:
            assert (seg["drop"], seg["flags"], seg["bad_tcp_csum"]) == (0, SYN | ACK, 1)
            assert bool(seg["opts"] & Opt.OPT_MSS) == (doff >= 6)
            assert bool(seg["opts"] & Opt.OPT_WSCALE) == (doff >= 10)
            assert seg["end_seq"] == seg["seq"] + seg["payload_len"] + 1


def test_every_flag(engine):
    """9293 3.1: the twelve bits below the data offset, reserved ones included."""
    for flags in range(0x1000):
        seg = parse(engine, capgen.frame(*V4, flags=flags, seq=10, payload=b"x", csum=0))
        assert seg["flags"] == flags
        assert seg["end_seq"] == 11 + bool(flags & SYN) + bool(flags & FIN)


def test_end_seq_wraps(engine):
    """T-29: payload, SYN and FIN take numbers modulo 2**32."""
    for distance in range(8):
        seq = 2**32 - distance
        fields = {"flags": SYN | FIN, "seq": seq, "payload": b"abc"}
        seg = parse(engine, capgen.frame(*V4, **fields))
        assert seg["end_seq"] == (seq + 5) % 2**32
        assert seg["seq"] == seq % 2**32


def test_short_segments(engine):
    """A segment needs 16 bytes of header inside IP's length, though more be captured."""
    frame = capgen.frame(*V4, payload=bytes(20), csum=0)
    for length in range(21):
        total = struct.pack(">H", 20 + length)
        seg = parse(engine, frame[:16] + total + frame[18:])
        if length < 16:
            assert seg["drop"] == Drop.PKT_TOO_SMALL
        else:
            assert (seg["drop"], seg["payload_len"], seg["flags"]) == (0, 0, ACK)
            assert seg["bad_tcp_csum"] == (length >= 18)  # the checksum itself has to be there


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
def test_checksum(engine, ends):
    """9293:MUST-3: one flipped bit anywhere in the segment or its pseudo header shows."""
    frame = capgen.frame(*ends, options=OPTIONS, payload=b"odd")
    assert parse(engine, frame)["bad_tcp_csum"] == 0
    tcp = len(frame) - 40 - 3
    addresses = 8 if ends is V4 else 32
    for byte in range(tcp - addresses, len(frame)):
        bad = bytearray(frame)
        bad[byte] ^= 0x80 if byte - tcp != 12 else 0x01  # leave the data offset alone
        seg = parse(engine, bytes(bad))
        assert (seg["drop"], seg["bad_tcp_csum"]) == (0, 1), f"{byte=}"


def test_checksum_of_two_zeros(engine):
    """RFC 1071: 0x0000 in the field is right where 0xFFFF is."""
    rng = random.Random(SEED)
    seen = 0
    for _ in range(20):
        payload = rng.randbytes(12)
        ip = capgen.packet(*V4, payload=payload + b"\0\0", csum=0)
        # The word that makes the sum come out at 0xFFFF with a checksum field of 0.
        right = capgen.packet(*V4, payload=payload + b"\0\0")[36:38]
        for field in (b"\0\0", b"\xff\xff"):
            frame = ip[:36] + field + ip[38:-2] + right
            seg = parse(engine, capgen.ethernet(frame, 0x0800))
            seen += seg["bad_tcp_csum"] == 0
    assert seen == 40, f"{SEED=}"


def test_checksum_not_captured(engine):
    """A checksum that cannot be verified is not bad."""
    frame = capgen.frame(*V4, payload=bytes(100), csum=0x1234)
    assert parse(engine, frame)["bad_tcp_csum"] == 1
    assert parse(engine, frame[:-1], wirelen=len(frame))["bad_tcp_csum"] == 0
    assert parse(engine, frame[:54], wirelen=len(frame))["bad_tcp_csum"] == 0


# ---- options -------------------------------------------------------------------------------------


def options_of(data: bytes) -> dict[str, int]:
    """9293 3.1 as a list of (kind, value): what is known and well-formed, the last of each kind."""
    found = {"opts": 0, "mss": 0, "wscale": 0, "tsval": 0, "tsecr": 0}
    while data and data[0] != 0:
        if data[0] == 1:
            data = data[1:]
            continue
        if len(data) < 2 or not 2 <= data[1] <= len(data):
            break
        kind, value, data = data[0], data[2 : data[1]], data[data[1] :]
        if (kind, len(value)) == (2, 2):
            found["opts"] |= Opt.OPT_MSS
            found["mss"] = int.from_bytes(value, "big")
        elif (kind, len(value)) == (3, 1):
            found["opts"] |= Opt.OPT_WSCALE
            found["wscale"] = value[0]
        elif (kind, len(value)) == (4, 0):
            found["opts"] |= Opt.OPT_SACK_PERM
        elif (kind, len(value)) == (8, 8):
            found["opts"] |= Opt.OPT_TIMESTAMP
            found["tsval"], found["tsecr"] = struct.unpack(">II", value)
    return found


def test_options_in_every_order(engine):
    """9293:MUST-4, MUST-64: each option at each alignment, between NOPs and before EOL."""
    parts = [mss(1460), SACK_PERM, timestamp(2**32 - 1, 1), wscale(14)]
    rng = random.Random(SEED)
    for shift in range(4):
        for _ in range(24):
            rng.shuffle(parts)
            for tail in (b"", EOL, EOL + b"\x02\x04\xff\xff"):
                found = engine.parse_options(NOP * shift + b"".join(parts) + tail)
                assert found == {
                    "opts": 15,
                    "mss": 1460,
                    "wscale": 14,
                    "tsval": 2**32 - 1,
                    "tsecr": 1,
                }, f"{shift=} {SEED=}"


def test_nothing_after_eol(engine):
    """9293:MUST-69: what follows the end of the list is padding, whatever it holds."""
    assert engine.parse_options(EOL + mss(1460))["opts"] == 0
    assert engine.parse_options(SACK_PERM + EOL + wscale(7))["opts"] == Opt.OPT_SACK_PERM


def test_unknown_options(engine):
    """9293:MUST-6: every kind we do not know is skipped by its length."""
    for kind in range(256):
        if kind in (0, 1):
            continue
        for size in (2, 3, 4, 10, 36):
            data = bytes((kind, size)) + b"\x02" * (size - 2) + mss(1234)
            found = engine.parse_options(data)
            assert found == options_of(data), f"{kind=} {size=}"
            assert found["mss"] == 1234


def test_every_option_length(engine):
    """9293:MUST-7, T-13: each length byte for each known kind, with more behind it and without."""
    for kind in (2, 3, 4, 5, 8, 30, 34, 253, 254):
        for size in range(256):
            for room in (0, 1, 2, 8, 38):
                data = bytes((kind, size)) + mss(1460) * 10
                data = data[: 2 + room]
                assert engine.parse_options(data) == options_of(data), f"{kind=} {size=} {room=}"
    for kind in range(256):
        assert engine.parse_options(bytes((kind,)))["opts"] == 0


def test_repeated_option(engine):
    """The last of a kind stands, as in a loop over them."""
    assert engine.parse_options(mss(1) + mss(2) + mss(3))["mss"] == 3
    assert engine.parse_options(wscale(1) + b"\x03\x04\x09\x09" + wscale(2))["wscale"] == 2


def test_raw_values(engine):
    """RFC 7323 2.3: a shift above 14 is told as it was sent."""
    for shift in range(256):
        assert engine.parse_options(wscale(shift))["wscale"] == shift
    for size in (0, 1, 536, 65535):
        assert engine.parse_options(mss(size))["mss"] == size


def test_any_bytes_as_options(engine):
    """9293:MUST-7: soups of option-like bytes parse as the definition says."""
    rng = random.Random(SEED)
    likely = [0, 1, 2, 2, 3, 3, 4, 4, 5, 8, 10, 2, 3, 4, 10, 255]
    for i in range(5000):
        size = rng.randrange(41)
        data = bytes(rng.choice(likely) for _ in range(size)) if i % 2 else rng.randbytes(size)
        assert engine.parse_options(data) == options_of(data), f"{i=} {SEED=} {data.hex()}"


def test_options_in_any_segment(engine):
    """9293:MUST-5: options count on data, FIN and RST as on a SYN; payload is never options."""
    for flags in (ACK, PSH | ACK, FIN | ACK, 4, SYN, 0):
        fields = {"flags": flags, "options": NOP * 2 + timestamp(3, 4), "payload": mss(9)}
        seg = parse(engine, capgen.frame(*V4, **fields))
        assert (seg["opts"], seg["tsval"], seg["tsecr"]) == (Opt.OPT_TIMESTAMP, 3, 4)


def test_options_end_with_ip(engine):
    """T-13: a header longer than IP's length has the options that lie within."""
    frame = capgen.frame(*V4, flags=SYN, options=OPTIONS)
    for length in range(16, 41):
        total = struct.pack(">H", 20 + length)
        seg = parse(engine, frame[:16] + total + frame[18:])
        assert seg["opts"] == options_of(OPTIONS[: max(length - 20, 0)])["opts"], f"{length=}"
        assert seg["payload_len"] == 0


# ---- anything at all -----------------------------------------------------------------------------


def test_any_bytes(engine):
    """T-13: no frame raises, and a segment never claims more payload than the wire had."""
    rng = random.Random(SEED)
    linktypes = (*capgen.LINKTYPES, capgen.IPV4, capgen.IPV6)
    seeds = [capgen.frame(*ends, options=OPTIONS, payload=bytes(20)) for ends in (V4, V6)]
    headers = [(0, capgen.extension(16)), (51, b"\4" + bytes(22)), (44, bytes(7))]
    seeds.append(capgen.frame(*V6, ip={"headers": headers}))
    seeds.append(capgen.ethernet(capgen.packet(*V4), 0x0800, [0x8100]))
    for i in range(4000):
        frame = bytearray(rng.choice(seeds) if i % 2 else rng.randbytes(rng.randrange(120)))
        for _ in range(rng.randrange(4)):
            if frame:
                frame[rng.randrange(len(frame))] = rng.choice(
                    (0, 1, 0x7F, 0xFF, rng.getrandbits(8))
                )
        frame = frame[: rng.randrange(len(frame) + 1)] if rng.random() < 0.5 else frame
        wirelen = len(frame) + rng.choice((0, 0, 1, 1500))
        linktype = 1 if i % 2 else rng.choice(linktypes)
        seg = parse(engine, bytes(frame), linktype, wirelen)
        assert 0 <= seg["drop"] < Drop.NR_DROPS, f"{i=} {SEED=}"
        if seg["drop"] in (0, Drop.TCP_BAD_DOFF):
            assert 0 <= seg["payload_len"] <= wirelen, f"{i=} {SEED=}"
            assert seg["ip"] in (4, 6), f"{i=} {SEED=}"
