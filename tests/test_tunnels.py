"""Tunnels: every kind is taken off, every length in one held against what is there.

T-13; RFC 1042, 2516, 2637, 2784, 2890, 3032, 4380, 4448, 7348, 8926; TS 29.281; ERSPAN's draft.
"""

from __future__ import annotations

import io
import random
import struct
from itertools import pairwise

import capgen
import lockstep
import pytest
from capgen import SEC

import tcpcore
from tcpcore.columns import ENCAP_NAMES
from tcpcore.reference.tcp import Drop

V4 = ("10.0.0.1", "192.0.2.9", 40000, 80)
V6 = ("2001:db8::1", "2001:db8::9", 40000, 80)
KINDS = {
    "four": capgen.packet(*V4, seq=77, payload=b"hello"),
    "six": capgen.packet(*V6, seq=77, payload=b"hello"),
}
TUNNELS = [
    pytest.param(frame, id=f"{name} {version}", marks=())
    for version, ip in KINDS.items()
    for name, frame in capgen.tunnels(ip).items()
]


def parse(engine, frame: bytes, wirelen: int | None = None):
    return engine.parse_frame(capgen.ETHERNET, frame, len(frame) if wirelen is None else wirelen)


def drop_of(engine, frame: bytes) -> Drop:
    return Drop(parse(engine, frame)["drop"])


def names(encap: int) -> list[str]:
    return [name for bit, name in enumerate(ENCAP_NAMES) if encap >> bit & 1]


def over4(data: bytes, proto: int) -> bytes:
    return capgen.frame_of(capgen.ipv4(data, "192.0.2.1", "192.0.2.2", proto=proto))


@pytest.mark.parametrize("frame", TUNNELS)
def test_tunnel(engine, frame):
    """The innermost segment is found, whole; padding behind it is none of it."""
    for padding in (b"", bytes(7)):
        seg = parse(engine, frame + padding)
        assert (seg["drop"], seg["seq"], seg["payload_len"]) == (0, 77, 5)
        assert (seg["dport"], seg["bad_tcp_csum"]) == (80, 0)
        assert seg["encap"]


@pytest.mark.parametrize("frame", TUNNELS)
def test_tunnel_cut(engine, frame):
    """T-13: cut at every byte, it is a segment from TCP's sixteenth byte on, and never before."""
    least = len(frame) - 5 - 4
    for cut in range(len(frame)):
        seg = parse(engine, frame[:cut], len(frame))
        assert (seg["drop"] == 0) == (cut >= least), f"{cut=}"


@pytest.mark.parametrize("frame", TUNNELS)
def test_tunnel_bytes(reference, compiled, frame):
    """T-13: every byte of the headers with the values that a length is wrong by."""
    for at in range(12, len(frame) - 5):
        for value in (0, 1, frame[at] - 1, frame[at] + 1, frame[at] ^ 0x80, 0x7F, 0xFE, 0xFF):
            broken = frame[:at] + bytes((value & 0xFF,)) + frame[at + 1 :]
            assert parse(reference, broken) == parse(compiled, broken), f"{at=} {value=}"


def test_what_is_around(engine):
    """The kinds as bits, the first VLAN, the outermost addresses."""
    ip = KINDS["four"]
    seg = parse(engine, capgen.frame_of(ip))
    assert (seg["encap"], seg["vlan"], seg["outer"]) == (0, -1, ())
    inner = capgen.ethernet(ip, 0x0800, [0x8100])
    middle = capgen.ipv6(capgen.udp(capgen.vxlan(inner), 1, 4789), proto=17)
    outer = capgen.ipv4(middle, "192.0.2.1", "192.0.2.2", proto=41)
    seg = parse(engine, capgen.ethernet(outer, 0x0800, [0x88A8, 0x8100]))
    assert names(seg["encap"]) == ["IP6", "VXLAN"]
    assert seg["vlan"] == 100  # of the first tag
    assert seg["outer"] == tuple(map(capgen.address16, ("192.0.2.1", "192.0.2.2")))
    assert seg["saddr"] == capgen.address16(V4[0])


def test_both_directions_are_one_tunnel(engine):
    """Ends of a tunnel in either order are the same tunnel; another network id is another."""
    ip = KINDS["four"]

    def tunnel(source: str, target: str, vni: int) -> int:
        data = capgen.udp(capgen.vxlan(capgen.frame_of(ip), vni), 50000, 4789)
        return parse(engine, capgen.frame_of(capgen.ipv4(data, source, target, proto=17)))["tunnel"]

    one = tunnel("192.0.2.1", "192.0.2.2", 5)
    assert tunnel("192.0.2.2", "192.0.2.1", 5) == one
    assert len({one, tunnel("192.0.2.1", "192.0.2.2", 6), tunnel("192.0.2.1", "192.0.2.3", 5)}) == 3


def test_depth(engine):
    """T-13: sixteen headers in each other are taken off, with a seventeenth it is enough."""
    ip = KINDS["four"]
    for depth in range(1, 20):
        expected = 0 if depth <= 16 else Drop.ENCAP_DEPTH
        assert drop_of(engine, capgen.frame_of(ip)) == expected, f"{depth=}"
        ip = capgen.ipv4(ip, proto=4)


@pytest.mark.parametrize("labels", range(1, 20))
def test_label_stack(engine, labels):
    frame = capgen.ethernet(capgen.mpls(KINDS["four"], *range(labels)), 0x8847)
    assert drop_of(engine, frame) == (0 if labels <= 16 else Drop.ENCAP_DEPTH)


# Behind the labels: control words, and addresses that begin as one does.
WIRES = {
    "word": bytes(4),
    "numbered word": b"\0\0\1\2",
    "flags in the word": b"\0\x40\0\0",
}


@pytest.mark.parametrize("word", WIRES.values(), ids=WIRES)
def test_pseudowire(engine, word):
    """RFC 4448: with a control word and without, whatever maker the address is of."""
    for maker in ("020000", "00005e", "000000", "a0b1c2", "f00000"):
        frame = bytes.fromhex(maker) + bytes(9) + b"\x08\0" + KINDS["four"]
        frame = frame[:12] + b"\x08\0" + KINDS["four"]
        for wire in (frame, word + frame):
            seg = parse(engine, capgen.ethernet(capgen.mpls(wire, 16), 0x8847))
            assert (seg["drop"], seg["seq"]) == (0, 77)


REASONS = [
    (capgen.ethernet(capgen.mpls(b"\x10\0\0\x21", 16), 0x8847), Drop.ENCAP_MPLS),
    (capgen.ethernet(b"\x11\x09\0\0\0\0", 0x8863), Drop.ENCAP_PPPOE),
    (capgen.ethernet(b"\x12\0\0\1\0\0", 0x8864), Drop.ENCAP_PPPOE),
    (capgen.ethernet(capgen.pppoe(b"\xc0\x21" + bytes(8)), 0x8864), Drop.UNHANDLED_PROTO),
    (capgen.ethernet(b"\x42\x42\x03" + bytes(40), 38), Drop.ENCAP_LLC),
    (capgen.ethernet(b"\xaa\xaa\x03\0\0\x0c\x20\0" + bytes(40), 46), Drop.ENCAP_LLC),
    (over4(capgen.gre(0x0800, KINDS["four"], 2), 47), Drop.ENCAP_GRE),
    (over4(capgen.gre(0, bytes(20)), 47), Drop.ENCAP_GRE),
    (over4(capgen.gre(0x880B, b"", 0x2081, bytes(8)), 47), Drop.ENCAP_GRE),
    (over4(capgen.gre(0x0800, bytes(8), 0x4000, b"\x08\0\0\0" * 18), 47), Drop.ENCAP_DEPTH),
    (over4(capgen.gre(0x0806, bytes(28)), 47), Drop.UNHANDLED_PROTO),
    (over4(capgen.gre(0x88BE, bytes(40), 0x1000, bytes(4)), 47), Drop.ENCAP_ERSPAN),
    (over4(capgen.gre(0x22EB, b"\x10" + bytes(40), 0x1000, bytes(4)), 47), Drop.ENCAP_ERSPAN),
    (over4(capgen.udp(bytes(40), 9, 4789), 17), Drop.ENCAP_VXLAN),
    (over4(capgen.udp(b"\x40" + bytes(40), 9, 6081), 17), Drop.ENCAP_GENEVE),
    (over4(capgen.udp(capgen.geneve(bytes(40), 1), 9, 6081), 17), Drop.ENCAP_GENEVE),
    (over4(capgen.udp(b"\x30\x01\0\x04" + bytes(8), 2152, 2152), 17), Drop.ENCAP_GTPU),
    (over4(capgen.udp(b"\x50\xff\0\x04" + bytes(8), 2152, 2152), 17), Drop.ENCAP_GTPU),
    (
        over4(capgen.udp(capgen.gtpu(b"", 0x34, b"\0\0\0\x85" + bytes(8)), 1, 2152), 17),
        Drop.ENCAP_GTPU,
    ),
    (
        over4(capgen.udp(capgen.gtpu(b"", 0x34, b"\0\0\0\1" + b"\1\0\0\1" * 17), 1, 2152), 17),
        Drop.ENCAP_DEPTH,
    ),
    (over4(capgen.udp(b"\x45" + bytes(40), 9, 3544), 17), Drop.ENCAP_TEREDO),
    (over4(KINDS["six"], 4), Drop.IP_INHDR),
    (over4(KINDS["four"], 41), Drop.IP_INHDR),
    (over4(capgen.ipv4(bytes(8), proto=1), 4), Drop.IP_NOPROTO),
]


@pytest.mark.parametrize(("frame", "reason"), REASONS)
def test_reasons(engine, frame, reason):
    """What is no tunnel's data has the tunnel's reason, what is in one and not IP its own."""
    assert drop_of(engine, frame) == reason


def test_ports_of_both_sides(engine):
    """The port that a datagram goes to decides, else the one that it comes from."""
    frame = capgen.frame_of(KINDS["four"])
    for sport, dport in ((1, 4789), (4789, 1), (6081, 4789)):
        assert drop_of(engine, over4(capgen.udp(capgen.vxlan(frame), sport, dport), 17)) == 0
    wrong = over4(capgen.udp(capgen.vxlan(frame), 4789, 6081), 17)
    assert drop_of(engine, wrong) != 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40, 0xFFFF])
def test_udp_length(engine, length):
    """0 is a jumbogram's; too little is none; what it leaves out is not there."""
    frame = capgen.frame_of(KINDS["four"])
    seg = parse(engine, over4(capgen.udp(capgen.vxlan(frame), 1, 4789, length), 17))
    expected = {0: 0, 0xFFFF: 0, 1: Drop.IP_NOPROTO, 7: Drop.IP_NOPROTO}
    assert seg["drop"] == expected.get(length, Drop.PKT_TOO_SMALL)


def followed(engine, frames, **options):
    """Columns of connections and frames, of a pcapng with as many interfaces as frames name."""
    data = capgen.section() + capgen.interface() * 4
    for i, (number, frame) in enumerate(frames):
        data += capgen.enhanced(SEC + i, frame, number=number)
    track = engine.Conntrack(packets=True, **options)
    track.begin(0)
    lockstep.feed(track, data)
    return track


def column(told, name: str, kind: str) -> list:
    return memoryview(bytes(told[1][name])).cast(kind).tolist()


def on_vlan(ip: bytes, *vids: int) -> bytes:
    tags = b"".join(struct.pack(">HH", 0x8100, vid) for vid in vids)
    return capgen.MAC + tags + b"\x08\0" + ip


def via(ip: bytes, source: str, target: str, vni: int) -> bytes:
    data = capgen.udp(capgen.vxlan(capgen.frame_of(ip), vni), 50000, 4789)
    return capgen.frame_of(capgen.ipv4(data, source, target, proto=17))


THERE = capgen.packet(*V4, flags=capgen.SYN, seq=1)
BACK = capgen.packet(V4[1], V4[0], V4[3], V4[2], flags=capgen.SYN | capgen.ACK, seq=5, ack=2)
NAMES = ["interface", "vlan", "inner_vlan", "encap", "outer_a", "outer_b"]


@pytest.mark.parametrize("rows", ["keep", "drain"])
def test_columns(engine, rows):
    """What was around the first segment of each connection, and around each frame."""
    plain = capgen.packet(V4[0], V4[1], 1, 2)
    frames = [
        (2, via(BACK, "192.0.2.2", "192.0.2.1", 5)),  # b sends first: the ends are turned
        (0, on_vlan(THERE, 7, 8)),
        (0, capgen.frame_of(plain)),
        (0, on_vlan(capgen.packet(V4[0], V4[1], 3, 4), 9, 10, 11)),
    ]
    track = followed(engine, frames, rows=rows, max_connections=1 if rows == "drain" else 0)
    told = track.connections(NAMES, True)
    assert told[0] == 3
    assert column(told, "interface", "H") == [2, 0, 0]
    assert column(told, "vlan", "h") == [-1, -1, 9]
    assert column(told, "inner_vlan", "h") == [-1, -1, 10]
    assert column(told, "encap", "H") == [1 << ENCAP_NAMES.index("VXLAN"), 0, 0]
    ends = [capgen.address16("192.0.2.1"), capgen.address16("192.0.2.2")]
    assert bytes(told[1]["outer_a"]) == ends[0] + bytes(32)
    assert bytes(told[1]["outer_b"]) == ends[1] + bytes(32)
    told = track.packets(["interface", "vlan", "inner_vlan", "encap"])
    assert column(told, "interface", "H") == [2, 0, 0, 0]
    assert column(told, "vlan", "h") == [-1, 7, -1, 9]
    assert column(told, "inner_vlan", "h") == [-1, 8, -1, 10]
    assert column(told, "encap", "H") == [1 << ENCAP_NAMES.index("VXLAN"), 0, 0, 0]


WAYS = {
    "vlan": (on_vlan(THERE, 7), on_vlan(BACK, 7), on_vlan(THERE, 8), on_vlan(THERE, 7, 8)),
    "tunnel": (
        via(THERE, "192.0.2.1", "192.0.2.2", 5),
        via(BACK, "192.0.2.2", "192.0.2.1", 5),
        via(THERE, "192.0.2.1", "192.0.2.2", 6),
        via(THERE, "192.0.2.1", "192.0.2.3", 5),
    ),
    "interface": (capgen.frame_of(THERE), capgen.frame_of(BACK)) + (capgen.frame_of(THERE),) * 2,
}


@pytest.mark.parametrize("way", WAYS)
def test_key(engine, way):
    """Both directions of one way are one connection; another way is another if it shall be."""
    numbers = (0, 0, 1, 2) if way == "interface" else (0, 0, 0, 0)
    frames = list(zip(numbers, WAYS[way], strict=True)) * 2
    for name, bit in (("vlan", 1), ("interface", 2), ("tunnel", 4)):
        told = followed(engine, frames, keyed=bit).packets(["conn"])
        expected = [0, 0, 1, 2] if name == way else [0, 0, 0, 0]
        assert column(told, "conn", "q") == expected * 2, name
    assert column(followed(engine, frames).packets(["conn"]), "conn", "q") == [0] * 8


def test_key_by_name(engine):
    frames = [(SEC, frame) for frame in (*WAYS["vlan"], *WAYS["tunnel"])]
    data = capgen.pcap(frames)
    for key, count in (("5tuple", 1), ("vlan", 4), ("tunnel", 4), ("tunnel,vlan", 6)):
        found = tcpcore.replay(io.BytesIO(data), key=key, engine=engine.ENGINE)
        assert len(found.connections) == count, key
    for wrong in ("", "vlans", "vlan,", "5tuple;vlan"):
        with pytest.raises(ValueError, match="key must be of 5tuple, vlan"):
            tcpcore.replay(io.BytesIO(data), key=wrong)
    with pytest.raises(TypeError, match="key must be a str"):
        tcpcore.replay(io.BytesIO(data), key=4)


def test_counters(engine):
    """Each IP header counts as received, as it does in a host that takes the tunnel's end."""
    track = engine.Conntrack()
    frame = capgen.tunnels(KINDS["six"])["VXLAN"]
    capture = capgen.pcap([(0, frame)])
    track.feed(capture, len(capture))
    counters = track.summary()["counters"]
    assert counters[0] == 1  # IpInReceives
    assert counters[10] == 1  # Ip6InReceives
    assert counters[3] == counters[13] == 0  # nothing unknown


@pytest.mark.parametrize("seed", range(10))
def test_random_nesting(reference, compiled, seed):
    """Tunnels in tunnels, cut and broken anywhere: both engines say the same."""
    rng = random.Random(seed)
    for _ in range(60):
        ip = rng.choice(list(KINDS.values()))
        for _ in range(rng.randrange(4)):
            frame = rng.choice(list(capgen.tunnels(ip).values()))
            ip = frame[14:] if frame[12:14] in (b"\x08\0", b"\x86\xdd") else ip
        frame = bytearray(capgen.frame_of(ip))
        for _ in range(rng.choice((0, 0, 1, 3))):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        data = bytes(frame[: rng.choice((len(frame), rng.randrange(len(frame)) + 1))])
        assert parse(reference, data, len(frame)) == parse(compiled, data, len(frame))


def test_no_two_names(engine):
    """Names of kinds are those of drop reasons, in their order."""
    reasons = [drop.name for drop in Drop if drop.name.startswith("ENCAP_")][1:]
    assert [f"ENCAP_{name}" for name in ENCAP_NAMES[: len(reasons)]] == reasons
    assert all(a != b for a, b in pairwise(ENCAP_NAMES))
    assert struct.calcsize("H") * 8 >= len(ENCAP_NAMES)
