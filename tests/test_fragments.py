"""Fragments: datagrams made whole, overlaps, bounds, time, and where the bytes come from.

T-07, T-13, T-14, T-20, T-22; RFC 791 3.2, RFC 5722, RFC 6946, RFC 8200 4.5.
"""

from __future__ import annotations

import io
import random
from itertools import pairwise, permutations
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, SEC

import tcpcore
from tcpcore.columns import DROP_NAMES
from tcpcore.mib import COUNTERS

PAYLOAD = bytes(range(100)) * 2
ENDS = {
    4: ("10.0.0.1", "192.0.2.9", 40000, 80),
    6: ("2001:db8::1", "2001:db8::9", 40000, 80),
}
PREFIX = {4: "Ip", 6: "Ip6"}


def packet(ip: int, **fields: Any) -> bytes:
    return capgen.packet(*ENDS[ip], **({"seq": 77, "flags": ACK, "payload": PAYLOAD} | fields))


def head_of(ip: int) -> bytes:
    return packet(ip)[: 40 if ip == 6 else 20]


def body_of(ip: int) -> bytes:
    return packet(ip)[40 if ip == 6 else 20 :]


class Told:
    """What an engine tells of frames, one a millisecond or at their times."""

    def __init__(self, engine, frames, **options):
        records = [
            one if isinstance(one, tuple) else (SEC + i * 1_000_000, one)
            for i, one in enumerate(frames)
        ]
        track = engine.Conntrack(packets=True, **options)
        track.begin(0)
        lockstep.feed(track, capgen.pcap(records))
        rows, columns = track.packets(["drop_reason", "payload_len", "conn"])
        self.drops = [DROP_NAMES[d] for d in bytes(columns["drop_reason"])]
        self.lengths = memoryview(bytes(columns["payload_len"])).cast("I").tolist()
        self.summary = track.summary()
        counters = zip(COUNTERS, self.summary["counters"], strict=True)
        self.counters = {name: n for name, n in counters if n}
        assert len(self.drops) == rows == len(records)

    def reassembly(self, ip: int) -> tuple[int, int, int, int]:
        """Counters: fragments, datagrams whole, given up, of these timed out."""
        names = ("Reqds", "OKs", "Fails", "Timeout")
        return tuple(self.counters.get(f"{PREFIX[ip]}Reasm{name}", 0) for name in names)


def told(engine, packets, **options) -> Told:
    return Told(engine, [capgen.frame_of(one) for one in packets], **options)


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("order", [*permutations(range(4))])
def test_any_order(engine, ip, order):
    """The frame that makes a datagram whole has its segment, the others are parts; all the bytes
    are under the checksum."""
    pieces = capgen.fragments(packet(ip), 24, 80, 160)
    got = told(engine, [pieces[i] for i in order])
    assert got.drops == ["IP_FRAGMENT"] * 3 + ["SKB_NOT_DROPPED_YET"]
    assert got.lengths == [0, 0, 0, 200]
    assert got.summary["tcp_segments"] == 1
    assert got.summary["bad_tcp_checksums"] == (0, 0)
    assert got.reassembly(ip) == (4, 1, 0, 0)


@pytest.mark.parametrize("ip", [4, 6])
def test_header_in_pieces(engine, ip):
    """A first fragment of eight bytes hides TCP's flags from who does not reassemble."""
    got = told(engine, capgen.fragments(packet(ip), *range(8, 216, 8)))
    assert got.drops[-1] == "SKB_NOT_DROPPED_YET"
    assert got.lengths[-1] == 200


@pytest.mark.parametrize("ip", [4, 6])
def test_a_changed_byte_is_seen(engine, ip):
    pieces = capgen.fragments(packet(ip), 80)
    pieces[0] = pieces[0][:-1] + b"\x99"
    assert told(engine, pieces).summary["bad_tcp_checksums"] == (1, 0)


@pytest.mark.parametrize("ip", [4, 6])
def test_keys(engine, ip):
    """T-20: another source, destination, identification, protocol (IPv4) or VLAN is another
    datagram."""
    one, two = capgen.fragments(packet(ip), 80)
    for at in {4: (12, 16, 5, 9), 6: (8, 24, 47)}[ip]:
        other = bytearray(two)
        other[at] ^= 1
        if ip == 4:
            other[10:12] = bytes(2)
            other[10:12] = capgen.checksum(bytes(other[:20])).to_bytes(2, "big")
        assert told(engine, [one, bytes(other)]).summary["tcp_segments"] == 0, f"{at=}"
    kind = 0x86DD if ip == 6 else 0x0800
    frames = [capgen.ethernet(one, kind), capgen.ethernet(two, kind, [0x8100])]
    assert Told(engine, frames).summary["tcp_segments"] == 0
    frames = [capgen.ethernet(piece, kind, [0x8100]) for piece in (one, two)]
    assert Told(engine, frames).summary["tcp_segments"] == 1


@pytest.mark.parametrize("ip", [4, 6])
def test_identification_used_again(engine, ip):
    """T-20: once it is whole a datagram is gone, and its number is free."""
    pieces = capgen.fragments(packet(ip), 80)
    got = told(engine, pieces * 3)
    assert got.summary["tcp_segments"] == 3
    assert got.reassembly(ip) == (6, 3, 0, 0)


@pytest.mark.parametrize("ip", [4, 6])
def test_repeated_fragment(engine, ip):
    """RFC 8200 4.5: an exact repetition does no harm, whatever is in it."""
    one, two, three = capgen.fragments(packet(ip), 24, 80)
    changed = two[:-1] + b"\x99"
    got = told(engine, [one, two, changed, one, three])
    assert got.drops == ["IP_FRAGMENT"] * 4 + ["SKB_NOT_DROPPED_YET"]
    assert got.summary["bad_tcp_checksums"] == (0, 0)
    assert got.reassembly(ip) == (5, 1, 0, 0)


def overlaps() -> list[tuple[int, int]]:
    """Ranges of eight bytes' multiples that overlap 40 to 80 in every way but as a whole."""
    places = range(16, 112, 8)
    return [(a, b) for a in places for b in places if a < b and a < 80 and b > 40]


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize(("begin", "end"), overlaps())
def test_overlap(engine, ip, begin, end):
    """T-14, RFC 5722: an overlap ends the datagram. What lies within what is here repeats it for
    Linux in IPv4; in IPv6 it does only if it begins and ends where a fragment did."""
    head, body = head_of(ip), body_of(ip)
    spans = [(40, 80), (begin, end), (0, 40), (80, len(body))]
    pieces = [capgen.fragment(head, body[a:b], a, b < len(body)) for a, b in spans]
    got = told(engine, pieces)
    inside = begin >= 40 and end <= 80
    fine = inside if ip == 4 else (begin, end) == (40, 80)
    assert got.summary["tcp_segments"] == fine
    assert got.counters.get("IpExtReasmOverlaps", 0) == (ip == 4 and not fine)
    assert got.reassembly(ip)[1:] == ((1, 0, 0) if fine else (0, 1, 0))


@pytest.mark.parametrize("ip", [4, 6])
def test_ends_that_differ(engine, ip):
    """Two ends, or bytes behind the end: nothing of it is to be believed."""
    head, body = head_of(ip), body_of(ip)
    last = capgen.fragment(head, body[80:], 80, False)
    for other in (
        capgen.fragment(head, bytes(8), 400, False),
        capgen.fragment(head, bytes(8), 400, True),
        capgen.fragment(head, bytes(8), 88, False),
        capgen.fragment(head, b"", 40, True),
        capgen.fragment(head, b"", 0, True),
    ):
        got = told(engine, [last, other])
        assert got.reassembly(ip) == (2, 0, 1, 0)


def test_odd_length(engine):
    """Only the last may have one: IPv4 forgets the odd bytes, IPv6 the fragment."""
    head, body = head_of(4), body_of(4)
    spans = [(0, 43), (40, 220)]
    pieces = [capgen.fragment(head, body[a:b], a, b < 220) for a, b in spans]
    assert told(engine, pieces).summary["tcp_segments"] == 1
    piece = capgen.fragment(head_of(6), bytes(43), 0, True)
    got = told(engine, [piece])
    assert got.drops == ["IPV6_BAD_EXTHDR"]
    assert got.counters["Ip6InHdrErrors"] == 1


@pytest.mark.parametrize("ip", [4, 6])
def test_longest(engine, ip):
    """T-13 (Ripple20): no datagram is longer than IP's length can say."""
    whole = packet(ip, payload=bytes(65515 - 20))
    cuts = range(1480, 65515, 1480)
    got = told(engine, capgen.fragments(whole, *cuts))
    assert got.lengths[-1] == 65495
    for begin, size in ((65512, 8), (65528, 1), (65528, 1400), (65512, 4)):
        got = told(engine, [capgen.fragment(head_of(ip), bytes(size), begin, False)])
        assert got.reassembly(ip) == (1, 0, 1, 0)


def test_left_out(engine):
    """What Linux would not get to see: a header with a bad checksum, a fragment that is cut."""
    one, two = capgen.fragments(packet(4), 80)
    bad = one[:10] + b"\0\0" + one[12:]
    got = told(engine, [bad, two])
    assert got.drops == ["IP_FRAGMENT"] * 2
    assert got.counters["IpExtInCsumErrors"] == 1
    for ip in (4, 6):
        one, two = capgen.fragments(packet(ip), 80)
        frame = capgen.frame_of(one)
        got = Told(engine, [(SEC, frame[:-1], len(frame)), (SEC, capgen.frame_of(two))])
        assert got.drops == ["IP_FRAGMENT"] * 2
        assert got.counters[f"{PREFIX[ip]}InTruncatedPkts"] == 1
        got = Told(engine, [frame[:-1], capgen.frame_of(two)])  # cut on the wire
        assert got.drops == ["IP_FRAGMENT"] * 2


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize(("after_ns", "whole"), [(30 * SEC, True), (30 * SEC + 1000, False)])
def test_time(engine, ip, after_ns, whole):
    """T-20: thirty seconds of capture time after its first fragment a datagram is given up."""
    pieces = [capgen.frame_of(piece) for piece in capgen.fragments(packet(ip), 24, 80)]
    times = (SEC, SEC + 20 * SEC, SEC + after_ns)
    got = Told(engine, list(zip(times, pieces, strict=True)))
    assert got.summary["tcp_segments"] == whole
    assert got.reassembly(ip) == ((3, 1, 0, 0) if whole else (3, 0, 1, 1))


def test_time_goes_back(engine):
    """T-30: the largest time counts."""
    one, two = (capgen.frame_of(piece) for piece in capgen.fragments(packet(4), 80))
    other = capgen.frame_of(capgen.fragments(packet(4), 80, number=9)[0])
    got = Told(engine, [(100 * SEC, one), (SEC, two)])
    assert got.summary["tcp_segments"] == 1
    got = Told(engine, [(SEC, one), (100 * SEC, other), (SEC, two)])
    assert got.summary["tcp_segments"] == 0


def from_source(i: int, number: int, payload: bytes = bytes(8)) -> bytes:
    head = bytearray(head_of(4))
    head[12:16] = (0x0B000000 + i).to_bytes(4, "big")
    return capgen.fragment(bytes(head), payload, 0, True, number=number)


def test_share_of_a_source(engine):
    """T-07: a source that begins ever more datagrams loses its oldest, nobody else's."""
    one, two = capgen.fragments(packet(4), 80)
    mine = capgen.fragments(packet(4), 80, number=8)
    flood = [from_source(0, number) for number in range(500)]
    got = told(engine, [one, *flood, two])
    assert got.summary["tcp_segments"] == 1
    assert got.reassembly(4) == (502, 1, 500 - 64, 0)
    own = [capgen.fragments(packet(4), 80, number=n)[0] for n in range(100, 164)]
    got = told(engine, [mine[0], *own, mine[1]])
    assert got.summary["tcp_segments"] == 0


def test_datagrams_at_a_time(engine):
    """T-07, T-21: of many sources the oldest datagram makes room."""
    flood = [from_source(i, 1) for i in range(5000)]
    assert told(engine, flood).reassembly(4) == (5000, 0, 5000 - 4096, 0)


def test_memory(engine):
    """T-07, T-21: 4 MiB of all pieces together, the oldest making room."""
    flood = [from_source(i, 1, bytes(60_000)) for i in range(200)]
    kept = (4 << 20) // (60_000 + 128 + 32)
    assert told(engine, flood).reassembly(4) == (200, 0, 200 - kept, 0)


def test_pieces_of_a_datagram(engine):
    """T-07: a datagram in 1024 pieces is made whole, one in more is given up."""
    whole = packet(4, payload=bytes(8 * 1024 - 20))
    got = told(engine, capgen.fragments(whole, *range(8, 8 * 1024, 8)))
    assert got.reassembly(4) == (1024, 1, 0, 0)
    whole = packet(4, payload=bytes(8 * 1025 - 20))
    got = told(engine, capgen.fragments(whole, *range(8, 8 * 1025, 8)))
    assert got.reassembly(4)[1:3] == (0, 1)


def test_worst_order(engine):
    """T-07, T-22: fragments of many datagrams, the last first; bench/ has the time."""
    head = head_of(4)
    datagrams = 40 if engine.ENGINE == "compiled" else 4
    pieces = [
        capgen.frame_of(capgen.fragment(head, bytes(8), 8 * at, at < 999, number=number))
        for number in range(datagrams)
        for at in range(999, -1, -1)
    ]
    track = engine.Conntrack()
    lockstep.feed(track, capgen.pcap([(SEC, piece) for piece in pieces]))
    counters = dict(zip(COUNTERS, track.summary()["counters"], strict=True))
    assert counters["IpReasmReqds"] == len(pieces)
    assert counters["IpReasmOKs"] == datagrams


@pytest.mark.parametrize("ip", [4, 6])
def test_fragments_in_tunnels(engine, ip):
    """A tunnel's own fragments, fragments in a tunnel, and both at once."""
    inner = capgen.fragments(packet(ip), 80)
    proto = 41 if ip == 6 else 4
    for got in (
        told(engine, [capgen.ipv4(piece, proto=proto) for piece in inner]),
        told(engine, capgen.fragments(capgen.ipv4(packet(ip), proto=proto), 48, 96)),
        told(engine, capgen.fragments(capgen.ipv6(packet(ip), proto=proto), 48, 96)),
        told(
            engine,
            [
                part
                for n, piece in enumerate(inner)
                for part in capgen.fragments(capgen.ipv4(piece, proto=proto), 24, 48, number=n)
            ],
        ),
    ):
        assert got.summary["tcp_segments"] == 1
        assert got.lengths[-1] == 200
        assert got.summary["bad_tcp_checksums"] == (0, 0)


def bytes_at(frames: list[bytes], pieces: list[tuple[int, int, int]]) -> bytes:
    """What lies in a capture where the pieces say."""
    capture = b"".join(frames)
    return b"".join(capture[source : source + length] for _, length, source in pieces)


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_where_the_bytes_lie(engine, ip, seed):
    """Each piece's offset in the capture is kept, through fragments of fragments too."""
    rng = random.Random(seed)
    inner = capgen.fragments(packet(ip), 24, 80, 160)
    rng.shuffle(inner)
    frames = [capgen.frame_of(piece) for piece in inner]
    assert bytes_at(frames, engine.fragment_pieces(capgen.ETHERNET, frames)) == body_of(ip)
    proto = 41 if ip == 6 else 4
    frames = []
    for number, piece in enumerate(inner):
        parts = capgen.fragments(capgen.ipv4(piece, proto=proto), 24, 32, number=number)
        rng.shuffle(parts)
        frames += [capgen.frame_of(part) for part in parts]
    pieces = engine.fragment_pieces(capgen.ETHERNET, frames)
    assert bytes_at(frames, pieces) == body_of(ip)
    ends = [(offset, offset + length) for offset, length, _ in pieces]
    assert all(one[1] == other[0] for one, other in pairwise(ends))
    assert engine.fragment_pieces(capgen.ETHERNET, frames[:-1]) == []


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_streams(engine, ip, seed):
    """Payload is read where each fragment has it: in any order, in tunnels, in two inputs."""
    rng = random.Random(seed)
    ends = ("10.0.0.1", "10.0.0.2") if ip == 4 else ("2001:db8::1", "2001:db8::2")
    sent = rng.randbytes(5000)
    frames = []
    for number, begin in enumerate(range(0, 5000, 1000)):
        one = capgen.packet(*ends, seq=begin, flags=ACK, payload=sent[begin : begin + 1000])
        cuts = sorted(rng.sample(range(8, 1016, 8), rng.randrange(6)))
        pieces = capgen.fragments(one, *cuts, number=number) if cuts else [one]
        rng.shuffle(pieces)
        tunnel = rng.random() < 0.5
        for piece in pieces:
            outer = capgen.ipv4(piece, "192.0.2.1", "192.0.2.2", proto=4 if ip == 4 else 41)
            parts = [piece]
            if tunnel:
                parts = capgen.fragments(outer, 8, 24, number=rng.randrange(1 << 16))
            frames += [capgen.frame_of(part) for part in parts]
    half = len(frames) // 2
    inputs = [
        io.BytesIO(capgen.pcap([(SEC + i, frame) for i, frame in enumerate(part, first)]))
        for first, part in ((0, frames[:half]), (half, frames[half:]))
    ]
    made = tcpcore.replay(inputs, streams=True, engine=engine.ENGINE)
    stream = made.stream(0, "ab")
    assert stream.data == sent
    assert stream.gaps == []


def test_stream_memory(engine):
    """T-22: each piece of a datagram is a note, and counts as one."""
    frames = []
    for port in range(4):
        whole = capgen.packet(sport=1000 + port, flags=ACK, payload=bytes(8 * 100 - 20))
        frames += map(capgen.frame_of, capgen.fragments(whole, *range(8, 800, 8), number=port))
    data = capgen.pcap([(SEC + i, frame) for i, frame in enumerate(frames)])
    bound = 2 * (100 * 32 + 136)
    made = tcpcore.replay(io.BytesIO(data), streams=True, stream_memory=bound, engine=engine.ENGINE)
    assert made.summary["streams_given_up"] == 2
    assert [stream.length for stream in made.streams()] == [780, 780]


def test_fragment_of_a_fragment(engine):
    """T-13: a fragment header in a datagram made of fragments is an error, not a way on."""
    chain = capgen.ipv6(
        bytes(24), proto=6, headers=[(60, capgen.extension(8)), (44, b"\0\0\1\0\0\0\2")]
    )
    got = told(engine, capgen.fragments(chain, 16))
    assert got.drops == ["IP_FRAGMENT", "IPV6_BAD_EXTHDR"]


@pytest.mark.parametrize("seed", range(20))
def test_both_engines(reference, compiled, seed):
    """T-13, T-14: random pieces of few datagrams; both engines make the same of them."""
    rng = random.Random(seed)
    frames = []
    for _ in range(400):
        ip = rng.choice((4, 6))
        body = body_of(ip)
        cuts = sorted(rng.sample(range(0, 216, 8), 2))
        begin, end = rng.choice([*pairwise((0, 40, 80, 120, 160, 220)), tuple(cuts)])
        piece = capgen.fragment(
            head_of(ip), body[begin:end], begin, end < 220, number=rng.randrange(3)
        )
        if rng.random() < 0.2:
            piece = capgen.ipv4(piece, proto=41 if ip == 6 else 4)
            if rng.random() < 0.7:
                parts = capgen.fragments(piece, rng.choice((16, 24, 40)), number=rng.randrange(2))
                frames += [capgen.frame_of(part) for part in parts]
                continue
        frames.append(capgen.frame_of(piece))
    now = SEC
    records = []
    for frame in frames:
        now += rng.choice((0, 1000, 1_000_000, SEC))
        if rng.random() < 0.02:
            now += rng.choice((40 * SEC, -SEC))
        records.append((now, frame))
    data = [capgen.pcap(records)]
    lockstep.assert_same(lockstep.outcome(reference, data), lockstep.outcome(compiled, data))
