"""What lies below TCP: link headers, VLAN tags, IPv4, IPv6 and its extension headers.

T-13; RFC 791, 8200, 1661, 6946, 4302; link types as the tcpdump group numbers them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import capgen
import pytest
from capgen import NOP

from tcpcore.mib import COUNTERS
from tcpcore.reference.tcp import Drop

SEED = 791
V4 = ("10.0.0.1", "192.0.2.9", 40000, 80)
V6 = ("2001:db8::1", "2001:db8::9", 40000, 80)


def parse(engine, frame: bytes, linktype: int = capgen.ETHERNET, wirelen: int | None = None):
    return engine.parse_frame(linktype, frame, len(frame) if wirelen is None else wirelen)


def drop_of(engine, frame: bytes, linktype: int = capgen.ETHERNET) -> Drop:
    return Drop(parse(engine, frame, linktype)["drop"])


def counters_of(engine, frame: bytes, wirelen: int | None = None) -> dict[str, int]:
    """The counters that one Ethernet frame moves."""
    track = engine.Conntrack()
    track.begin(0)
    capture = capgen.pcap([(0, frame, wirelen)])
    track.feed(capture, len(capture))
    counters = track.summary()["counters"]
    return {name: n for name, n in zip(COUNTERS, counters, strict=True) if n}


# ---- link layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("linktype", [2, 6, 10, 51, 104, 105, 127, 147, 192, 275, 277, 65535])
def test_unknown_link_type(engine, linktype):
    assert drop_of(engine, capgen.frame(*V4), linktype) == Drop.LINKTYPE_UNKNOWN


@pytest.mark.parametrize("tag", [0x8100, 0x88A8, 0x9100, 0x9200])
def test_vlan_stack(engine, tag):
    """802.1Q: up to eight tags of any kind are passed over, a ninth is too many."""
    for depth in range(9):
        tags = ([tag, 0x8100, 0x88A8] * 3)[:depth]
        seg = parse(engine, capgen.ethernet(capgen.packet(*V4, seq=77), 0x0800, tags))
        assert (seg["drop"], seg["seq"]) == (0, 77), f"{depth=}"
    assert drop_of(engine, capgen.ethernet(capgen.packet(*V4), 0x0800, [tag] * 9)) == (
        Drop.ENCAP_DEPTH
    )


def test_vlan_cut(engine):
    """T-13: a tag counts once it is there whole."""
    frame = capgen.ethernet(b"", 0x0800, [0x8100] * 8)
    for cut in range(len(frame)):
        assert drop_of(engine, frame[:cut]) == Drop.PKT_TOO_SMALL, f"{cut=}"
    frame = capgen.ethernet(b"", 0x0800, [0x8100] * 9)
    for cut in range(len(frame)):
        expected = Drop.PKT_TOO_SMALL if cut < 14 + 8 * 4 else Drop.ENCAP_DEPTH
        assert drop_of(engine, frame[:cut]) == expected, f"{cut=}"


ETHERTYPES = [
    (0x0004, Drop.ENCAP_LLC),
    (0x05FF, Drop.ENCAP_LLC),
    (0x0600, Drop.UNHANDLED_PROTO),
    (0x0806, Drop.UNHANDLED_PROTO),
    (0x8863, Drop.ENCAP_PPPOE),
    (0x8864, Drop.ENCAP_PPPOE),
    (0x88CC, Drop.UNHANDLED_PROTO),
    (0xFFFF, Drop.UNHANDLED_PROTO),
]


@pytest.mark.parametrize(("ethertype", "reason"), ETHERTYPES)
def test_ethertypes(engine, ethertype, reason):
    """Other encapsulations are told apart, behind a VLAN tag and in cooked captures too."""
    ip = capgen.packet(*V4)
    assert drop_of(engine, capgen.ethernet(ip, ethertype)) == reason
    assert drop_of(engine, capgen.ethernet(ip, ethertype, [0x8100])) == reason
    sll = struct.pack(">HHH8sH", 0, 1, 6, bytes(8), ethertype) + ip
    assert drop_of(engine, sll, capgen.SLL) == reason
    sll2 = struct.pack(">HHIHBB8s", ethertype, 0, 1, 1, 0, 6, bytes(8)) + ip
    assert drop_of(engine, sll2, capgen.SLL2) == reason
    hdlc = struct.pack(">HH", 0x0F00, ethertype) + ip
    assert drop_of(engine, hdlc, capgen.PPP_HDLC) == reason


def test_vlan_in_a_cooked_capture(engine):
    ip = struct.pack(">HH", 5, 0x86DD) + capgen.packet(*V6, seq=5)
    sll = struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x8100) + ip
    assert parse(engine, sll, capgen.SLL)["seq"] == 5
    sll2 = struct.pack(">HHIHBB8s", 0x8100, 0, 1, 1, 0, 6, bytes(8)) + ip
    assert parse(engine, sll2, capgen.SLL2)["seq"] == 5


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("linktype", [capgen.NULL, capgen.LOOP])
def test_address_families(engine, linktype, order):
    """Null and loop: the host's byte order is unknown; IPv6 has a number on each system."""
    expected = {2: (V4, 0), 10: (V6, 0), 24: (V6, 0), 28: (V6, 0), 30: (V6, 0)}
    for family in range(64):
        ends, reason = expected.get(family, (V4, Drop.UNHANDLED_PROTO))
        field = struct.pack(order + "I", family)
        assert drop_of(engine, field + capgen.packet(*ends), linktype) == reason, f"{family=}"
        bare = reason or Drop.PKT_TOO_SMALL
        assert drop_of(engine, field, linktype) == bare, f"{family=}"


def test_family_decides(engine):
    """IPv6 under IPv4's family is a bad IPv4 header."""
    frame = struct.pack("<I", 2) + capgen.packet(*V6)
    assert drop_of(engine, frame, capgen.NULL) == Drop.IP_INHDR


@pytest.mark.parametrize("linktype", [capgen.PPP, capgen.PPP_HDLC])
def test_ppp_forms(engine, linktype):
    """RFC 1661 6.5, 6.6: address and control, and the protocol's first byte, may be missing."""
    for framing in (b"", b"\xff\x03"):
        for ends, number in ((V4, 0x21), (V6, 0x57)):
            for protocol in (bytes((0, number)), bytes((number,))):
                frame = framing + protocol + capgen.packet(*ends, seq=3)
                assert parse(engine, frame, linktype)["seq"] == 3, f"{framing=} {protocol=}"
        for protocol in (b"\xc0\x21", b"\x80\x21", b"\x02\x85", b"\x00\x2d"):
            frame = framing + protocol + capgen.packet(*V4)
            assert drop_of(engine, frame, linktype) == Drop.UNHANDLED_PROTO, f"{protocol=}"


@pytest.mark.parametrize("first", [b"\x0f\x00", b"\x8f\x00"])
def test_cisco_hdlc(engine, first):
    """Link type 50 may be Cisco's framing, where an EtherType follows; 9 may not."""
    for ends, ethertype in ((V4, b"\x08\x00"), (V6, b"\x86\xdd")):
        frame = first + ethertype + capgen.packet(*ends, seq=4)
        assert parse(engine, frame, capgen.PPP_HDLC)["seq"] == 4
        assert drop_of(engine, frame, capgen.PPP) == Drop.UNHANDLED_PROTO


def test_raw_goes_by_the_version(engine):
    for version in range(16):
        ip = bytearray(capgen.packet(*V4))
        ip[0] = version << 4 | 5
        for linktype in (12, 14, 101):
            drop = drop_of(engine, bytes(ip), linktype)
            assert (drop == Drop.UNHANDLED_PROTO) == (version not in (4, 6)), f"{version=}"


def test_raw_of_one_version(engine):
    """Link types 228 and 229 say which IP it is; the header has to agree."""
    assert parse(engine, capgen.packet(*V4), capgen.IPV4)["ip"] == 4
    assert parse(engine, capgen.packet(*V6), capgen.IPV6)["ip"] == 6
    assert drop_of(engine, capgen.packet(*V6), capgen.IPV4) == Drop.IP_INHDR
    assert drop_of(engine, capgen.packet(*V4), capgen.IPV6) == Drop.IP_INHDR
    for linktype in (101, capgen.IPV4, capgen.IPV6):
        assert drop_of(engine, b"", linktype) == Drop.PKT_TOO_SMALL


# ---- IPv4 ----------------------------------------------------------------------------------------


def ether4(*ends: object, padding: bytes = b"", ip: dict[str, object] | None = None, **tcp: object):
    return capgen.ethernet(capgen.packet(*ends, ip=ip, **tcp) + padding, 0x0800)


def test_ipv4_version_and_header_length(engine):
    """RFC 791 3.1: a version other than 4, or a header below 20 bytes, is no IPv4."""
    for version in range(16):
        for ihl in range(16):
            frame = ether4(*V4, ip={"version": version, "ihl": ihl}, payload=bytes(60))
            drop = drop_of(engine, frame)
            assert (drop == Drop.IP_INHDR) == (version != 4 or ihl < 5), f"{version=} {ihl=}"


def test_ipv4_options(engine):
    """9293:MUST-50: options are passed over; the checksum is still found."""
    for words in range(11):
        frame = ether4(*V4, ip={"options": NOP * (4 * words)}, payload=b"x", seq=9)
        seg = parse(engine, frame)
        assert (seg["seq"], seg["payload_len"]) == (9, 1)
        assert (seg["bad_ip_csum"], seg["bad_tcp_csum"]) == (0, 0)
        for cut in range(14, 14 + 20 + 4 * words):
            assert drop_of(engine, frame[:cut]) == Drop.PKT_TOO_SMALL, f"{cut=} {words=}"


def test_ipv4_total_length(engine):
    """T-13: every total length: 0 is TSO's, one below the header's wrong, a large one clamped."""
    frame = ether4(*V4, payload=bytes(30))
    for total in range(120):
        seg = parse(engine, frame[:16] + struct.pack(">H", total) + frame[18:])
        length = min(total or 70, 70) - 20
        if 0 < total < 20:
            assert seg["drop"] == Drop.IP_INHDR, f"{total=}"
        elif length < 16:
            assert seg["drop"] == Drop.PKT_TOO_SMALL, f"{total=}"
        else:
            assert (seg["drop"], seg["payload_len"]) == (0, max(length - 20, 0)), f"{total=}"


def test_tso(engine):
    """A total length of 0: the frame's own length counts, beyond 64 KiB too, captured or not."""
    for wire in (54, 55, 1514, 65535, 65550, 200000):
        seg = parse(engine, ether4(*V4, ip={"total": 0}), wirelen=wire)
        assert (seg["drop"], seg["payload_len"]) == (0, wire - 54)


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
def test_tso_checksum(engine, ends):
    """RFC 2675 4: a segment of over 64 KiB is summed whole, with its whole length."""
    fields = {"total": 0} if ends is V4 else {"length": 0}
    ip = capgen.packet(*ends, ip=fields, payload=random.Random(SEED).randbytes(70001))
    for flipped in (0, 1):
        frame = bytearray(capgen.link(capgen.ETHERNET, ip))
        frame[-1] ^= flipped
        seg = parse(engine, bytes(frame))
        assert (seg["payload_len"], seg["bad_tcp_csum"]) == (70001, flipped)


def test_padding_is_no_payload(engine):
    """Ethernet fills up to 60 bytes; IP's length says what is data, and what is summed."""
    for size in range(7):
        for padding in (bytes(6 - size), b"\xff" * 40):
            seg = parse(engine, ether4(*V4, payload=bytes(size), padding=padding))
            assert (seg["payload_len"], seg["bad_tcp_csum"]) == (size, 0)
            six = capgen.ethernet(capgen.packet(*V6, payload=bytes(size)) + padding, 0x86DD)
            seg = parse(engine, six)
            assert (seg["payload_len"], seg["bad_tcp_csum"]) == (size, 0)


def test_ipv4_checksum(engine):
    """RFC 791 3.1: any flipped bit of the header that leaves its shape is seen and goes on."""
    frame = ether4(*V4, ip={"options": NOP * 4})
    assert parse(engine, frame)["bad_ip_csum"] == 0
    for byte in (1, 4, 5, 8, 10, 11, 20, 22):
        for bit in range(8):
            bad = bytearray(frame)
            bad[14 + byte] ^= 1 << bit
            seg = parse(engine, bytes(bad))
            assert (seg["drop"], seg["bad_ip_csum"], seg["bad_tcp_csum"]) == (0, 1, 0)


@pytest.mark.parametrize("word", [0x2000, 0x0001, 0x1FFF, 0x3FFF, 0x6000, 0xA000])
def test_ipv4_fragments(engine, word):
    """RFC 791 3.2: more fragments, or an offset; for UDP too, whose ports may be elsewhere."""
    assert drop_of(engine, ether4(*V4, ip={"fragment": word})) == Drop.IP_FRAGMENT
    udp = capgen.ipv4(bytes(20), proto=17, fragment=word)
    assert drop_of(engine, capgen.ethernet(udp, 0x0800)) == Drop.IP_FRAGMENT


@pytest.mark.parametrize("word", [0x4000, 0x8000, 0xC000])
def test_ipv4_whole(engine, word):
    """Don't-fragment and the reserved bit make no fragment."""
    assert drop_of(engine, ether4(*V4, ip={"fragment": word})) == 0


# ---- what IP carries -----------------------------------------------------------------------------

UDP = struct.Struct(">HHHH")
PAYLOADS = [
    (1, bytes(20), Drop.IP_NOPROTO),
    (17, UDP.pack(53, 40000, 8, 0), Drop.IP_NOPROTO),
    (17, UDP.pack(40000, 4789, 7, 0), Drop.IP_NOPROTO),
    (17, UDP.pack(40000, 4789, 8, 0)[:3], Drop.IP_NOPROTO),
    (17, b"", Drop.IP_NOPROTO),
    (50, bytes(20), Drop.IP_NOPROTO),
    (132, bytes(20), Drop.IP_NOPROTO),
    (255, bytes(20), Drop.IP_NOPROTO),
]


@pytest.mark.parametrize(("proto", "payload", "reason"), PAYLOADS)
def test_other_protocols(engine, proto, payload, reason):
    """What is not TCP is told apart as far as its captured bytes inside IP's length tell."""
    four, six = capgen.ipv4(payload, proto=proto), capgen.ipv6(payload, proto=proto)
    for padding in (b"", bytes.fromhex("22eb22eb22eb")):
        assert drop_of(engine, capgen.ethernet(four + padding, 0x0800)) == reason
        if payload or not padding:  # an IPv6 length of 0 makes the padding count
            assert drop_of(engine, capgen.ethernet(six + padding, 0x86DD)) == reason


def test_no_next_header(engine):
    """RFC 8200 4.7: 59 says that nothing follows. In IPv4 it is a number like others."""
    assert drop_of(engine, capgen.ethernet(capgen.ipv6(b"", proto=59), 0x86DD)) == Drop.IP_NOPROTO


# ---- IPv6 ----------------------------------------------------------------------------------------


def ether6(headers: Sequence[tuple[int, bytes]] = (), **tcp: object) -> bytes:
    return capgen.ethernet(capgen.packet(*V6, ip={"headers": headers}, **tcp), 0x86DD)


ATOMIC = (44, bytes(7))  # RFC 6946
AH = (51, bytes((4,)) + bytes(22))  # (4 + 2) * 4 bytes (RFC 4302 2.2)
EXTENSIONS = [(kind, capgen.extension(8)) for kind in (0, 43, 60, 135, 139, 140)]


def test_ipv6_version(engine):
    for version in range(16):
        ip = capgen.packet(*V6, ip={"version": version})
        expected = 0 if version == 6 else Drop.IP_INHDR
        assert drop_of(engine, capgen.ethernet(ip, 0x86DD)) == expected, f"{version=}"


def test_ipv6_payload_length(engine):
    """Every payload length: 0 is a jumbogram's or BIG TCP's, a large one is clamped."""
    frame = ether6(payload=bytes(30))
    for length in range(120):
        seg = parse(engine, frame[:18] + struct.pack(">H", length) + frame[20:])
        used = min(length or 50, 50)
        if used < 16:
            assert seg["drop"] == Drop.PKT_TOO_SMALL, f"{length=}"
        else:
            assert (seg["drop"], seg["payload_len"]) == (0, max(used - 20, 0)), f"{length=}"


@pytest.mark.parametrize("header", [*EXTENSIONS, AH, ATOMIC], ids=lambda header: str(header[0]))
def test_extension_header(engine, header):
    """RFC 8200 4: each kind, alone and among others, is passed over by its own rule of length."""
    for headers in ([header], [header] * 3, [*EXTENSIONS, header, AH], [ATOMIC, header]):
        seg = parse(engine, ether6(headers, seq=8, payload=b"abc"))
        assert (seg["drop"], seg["seq"], seg["payload_len"]) == (0, 8, 3)
        assert seg["bad_tcp_csum"] == 0


@pytest.mark.parametrize("kind", [0, 43, 60, 135, 139, 140])
def test_extension_header_lengths(engine, kind):
    """T-13: every length byte: past IP's length it is wrong, past the captured bytes it is cut."""
    for units in range(256):
        size = 8 * (units + 1)
        frame = ether6([(kind, capgen.extension(size))], seq=6)
        assert parse(engine, frame)["seq"] == 6, f"{units=}"
        room = len(frame) - 14 - 40
        for cut in (size - 8, size - 1, size, size + 15, size + 16):
            expected = 0 if cut >= size + 16 else Drop.PKT_TOO_SMALL
            seg = parse(engine, frame[: 54 + cut], wirelen=len(frame))
            assert seg["drop"] == expected, f"{units=} {cut=}"
        for length in (size - 1, size, size + 15, size + 16):
            short = frame[:18] + struct.pack(">H", length) + frame[20:]
            if length < size:
                expected = Drop.IPV6_BAD_EXTHDR
            else:
                expected = Drop.PKT_TOO_SMALL if length < size + 16 else 0
            assert length <= room
            assert drop_of(engine, short) == expected, f"{units=} {length=}"


def test_authentication_header_lengths(engine):
    """RFC 4302 2.2: in words of four bytes, less two."""
    for units in range(256):
        size = 4 * (units + 2)
        frame = ether6([(51, bytes((units,)) + bytes(size - 2))], seq=6)
        assert parse(engine, frame)["seq"] == 6, f"{units=}"


def test_extension_header_cut(engine):
    """T-13 (GHSA-jj65-mrgg-f5fx): a chain cut anywhere ends where the captured bytes do."""
    frame = ether6([*EXTENSIONS, AH, ATOMIC])
    for cut in range(len(frame)):
        expected = 0 if cut >= len(frame) - 4 else Drop.PKT_TOO_SMALL
        assert parse(engine, frame[:cut], wirelen=len(frame))["drop"] == expected, f"{cut=}"


def test_extension_header_depth(engine):
    """T-13: sixteen headers are followed, a seventeenth is too many."""
    assert drop_of(engine, ether6([EXTENSIONS[2]] * 16)) == 0
    assert drop_of(engine, ether6([EXTENSIONS[2]] * 17)) == Drop.ENCAP_DEPTH


@pytest.mark.parametrize("word", [0x0001, 0x0008, 0xFFF8, 0x0009])
def test_ipv6_fragments(engine, word):
    """RFC 8200 4.5: more fragments, or an offset."""
    header = (44, b"\0" + struct.pack(">HI", word, 1))
    assert drop_of(engine, ether6([header], payload=bytes(4))) == Drop.IP_FRAGMENT
    frame = ether6([EXTENSIONS[0], header], payload=bytes(4))
    assert drop_of(engine, frame) == Drop.IP_FRAGMENT
    # It is one as soon as its header is captured, and only if IP's length holds it.
    for cut, reason in ((69, Drop.PKT_TOO_SMALL), (70, Drop.IP_FRAGMENT)):
        assert parse(engine, frame[:cut], wirelen=len(frame))["drop"] == reason
    for length, reason in ((15, Drop.IPV6_BAD_EXTHDR), (16, Drop.IP_FRAGMENT)):
        assert drop_of(engine, frame[:18] + struct.pack(">H", length) + frame[20:]) == reason


@pytest.mark.parametrize("word", [0x0000, 0x0002, 0x0004, 0x0006])
def test_ipv6_atomic_fragment(engine, word):
    """RFC 6946: no offset and no more is a whole datagram, whatever the reserved bits."""
    header = (44, b"\xff" + struct.pack(">HI", word, 1))
    assert drop_of(engine, ether6([header])) == 0


# ---- counters ------------------------------------------------------------------------------------


def test_counters(engine):
    """Linux's names, one frame each; TcpInSegs and below are the tracker's."""
    ip = "IpInReceives"
    good = ether4(*V4)
    assert counters_of(engine, good)[ip] == 1
    assert counters_of(engine, capgen.ethernet(b"", 0x0806)) == {}
    assert counters_of(engine, good[:20]) == {ip: 1, "IpInTruncatedPkts": 1}
    options = ether4(*V4, ip={"options": NOP * 8})[:40]
    assert counters_of(engine, options) == {ip: 1, "IpInTruncatedPkts": 1}
    assert counters_of(engine, ether4(*V4, ip={"ihl": 4})) == {ip: 1, "IpInHdrErrors": 1}
    assert counters_of(engine, ether4(*V4, ip={"total": 19})) == {ip: 1, "IpInHdrErrors": 1}
    assert counters_of(engine, ether4(*V4, ip={"fragment": 1})) == {ip: 1, "IpReasmReqds": 1}
    icmp = capgen.ethernet(capgen.ipv4(bytes(8), proto=1), 0x0800)
    assert counters_of(engine, icmp) == {ip: 1, "IpInUnknownProtos": 1}
    rsvp = capgen.ethernet(capgen.ipv4(bytes(8), proto=46, csum=0), 0x0800)
    expected = {ip: 1, "IpInUnknownProtos": 1, "IpExtInCsumErrors": 1}
    assert counters_of(engine, rsvp) == expected


def test_counters_of_ipv6(engine):
    ip = "Ip6InReceives"
    good = ether6()
    assert counters_of(engine, good)[ip] == 1
    assert counters_of(engine, good[:50]) == {ip: 1, "Ip6InTruncatedPkts": 1}
    four = capgen.ethernet(capgen.packet(*V4, payload=bytes(20)), 0x86DD)
    assert counters_of(engine, four) == {ip: 1, "Ip6InHdrErrors": 1}
    cut = ether6([EXTENSIONS[0]])[:58]
    assert counters_of(engine, cut, 82) == {ip: 1, "Ip6InTruncatedPkts": 1}
    assert counters_of(engine, cut) == {ip: 1, "Ip6InHdrErrors": 1}  # cut on the wire as well
    lying = capgen.ethernet(capgen.ipv6(b"\x06\x09" + bytes(30), proto=0), 0x86DD)
    assert counters_of(engine, lying) == {ip: 1, "Ip6InHdrErrors": 1}
    deep = ether6([EXTENSIONS[2]] * 17)
    assert counters_of(engine, deep) == {ip: 1, "Ip6InHdrErrors": 1}
    piece = ether6([(44, b"\0\0\1" + bytes(4))], payload=bytes(4))
    assert counters_of(engine, piece) == {ip: 1, "Ip6ReasmReqds": 1}
    udp = capgen.ethernet(capgen.ipv6(bytes(8), proto=17), 0x86DD)
    assert counters_of(engine, udp) == {ip: 1, "Ip6InUnknownProtos": 1}
