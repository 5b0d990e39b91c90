"""SipHash-2-4 against its official vectors, and the flow hash that stands on it."""

from __future__ import annotations

import random
import struct

import capgen
import pytest

SEED = 24

# vectors_sip64 of the reference implementation: key 00..0f, data of 0..63 bytes 00, 01, 02...,
# hashes as eight bytes, the lowest first.
VECTORS = bytes.fromhex(
    "310e0edd47db6f72fd67dc93c539f8745a4fa9d909806c0d2d7efbd796666785"
    "b7877127e09427cf8da699cd64557618cee3fe586e46c9cb37d1018bf50002ab"
    "6224939a79f5f593b0e4a90bdf82009ef3b9dd94c5bb5d7aa7ad6b22462fb3f4"
    "fbe50e86bc8f1e75903d84c02756ea14eef27a8e90ca23f7e545be4961ca29a1"
    "db9bc2577fcc2a3f9447be2cf5e99a699cd38d96f0b3c14bbd6179a71dc96dbb"
    "98eea21af25cd6bec7673b2eb0cbf2d0883ea3e395675393c8ce5ccd8c030ca8"
    "94af49f6c650adb8eab8858ade92e1bcf315bb5bb835d817adcf6b0763612e2f"
    "a5c91da7acaa4dde716595876650a2a628ef495c53a387ad42c341d8fa92d832"
    "ce7cf2722f512771e37859f94623f3a7381205bb1ab0e012ae97a10fd434e015"
    "b4a31508beff4d3181396229f09079024d0cf49ee5d4dcca5c73336a76d8bf9a"
    "d0a704536ba93e0e925958fcd6420cada915c29bc8067318952b79f3bc0aa6d4"
    "f21df2e41d4535f987577519048f53a910a56cf5dfcd9adbeb75095ccd986cd0"
    "51a9cb9ecba312e696afadfc2ce666c772fe52975a4364ee5a1645b276d592a1"
    "b274cb8ebf87870a6f9bb4203de7b381eaecb2a30b22a87f9924a43cc1315724"
    "bd838d3aafbf8db70b1a2a3265d51aea135079a3231ce660932b2846e4d70666"
    "e1915f5cb1eca46cf325965ca16d629f575ff28e60381be5724506eb4c328a95"
)
KEY = bytes(range(16))


def random_tuple(rng: random.Random) -> tuple[bytes, bytes, int, int]:
    if rng.random() < 0.5:
        ends = [rng.randbytes(4) for _ in range(2)]
    else:
        ends = [rng.randbytes(16) for _ in range(2)]
    return ends[0], ends[1], rng.getrandbits(16), rng.getrandbits(16)


def test_vectors(engine):
    """T-02: SipHash-2-4 of every length of data up to eight words less a byte."""
    for length in range(64):
        expected = int.from_bytes(VECTORS[8 * length : 8 * length + 8], "little")
        assert engine.siphash(KEY, bytes(range(length))) == expected, f"{length=}"


def test_every_key_bit(engine):
    """T-02: another key is another function."""
    hashes = {engine.siphash((1 << bit).to_bytes(16, "little"), b"tcpcore") for bit in range(128)}
    assert len(hashes) == 128


def test_flow_hash_definition(engine):
    """SipHash over both addresses and then both ports, as on the wire, one end's first."""
    rng = random.Random(SEED)
    for _ in range(200):
        saddr, daddr, sport, dport = random_tuple(rng)
        either = {
            engine.siphash(KEY, saddr + daddr + struct.pack(">HH", sport, dport)),
            engine.siphash(KEY, daddr + saddr + struct.pack(">HH", dport, sport)),
        }
        assert engine.flow_hash(KEY, saddr, daddr, sport, dport) in either, f"{SEED=}"


def test_flow_hash_is_symmetric(engine):
    """Both directions of a connection meet, also between two ports of one address."""
    rng = random.Random(SEED)
    for i in range(200):
        saddr, daddr, sport, dport = random_tuple(rng)
        if i % 3 == 0:
            daddr = saddr
        there = engine.flow_hash(KEY, saddr, daddr, sport, dport)
        assert there == engine.flow_hash(KEY, daddr, saddr, dport, sport), f"{SEED=}"


def test_flow_hash_keeps_ports_with_their_addresses(engine):
    """a:1 to b:2 is not a:2 to b:1."""
    rng = random.Random(SEED)
    for _ in range(100):
        saddr, daddr, sport, dport = random_tuple(rng)
        if sport == dport:
            continue
        there = engine.flow_hash(KEY, saddr, daddr, sport, dport)
        assert there != engine.flow_hash(KEY, saddr, daddr, dport, sport), f"{SEED=}"


@pytest.mark.parametrize("size", [4, 16])
def test_flow_hash_spreads(engine, size):
    """T-02: 4-tuples that differ least, a sender's choice, fill the buckets as chance would."""
    low, high = (capgen.address16(f"10.0.0.{i}")[-size:] for i in (1, 2))
    buckets = [0] * 256
    n = 8192
    for port in range(n):
        buckets[engine.flow_hash(KEY, low, high, port, 80) & 0xFF] += 1
    expected = n / len(buckets)
    chi2 = sum((count - expected) ** 2 / expected for count in buckets)
    assert 150 < chi2 < 380  # 255 degrees of freedom: outside with a chance below 1e-6


def test_versions_do_not_meet(engine):
    """IPv4's a.b.c.d and IPv6's ::ffff:a.b.c.d are two connections."""
    track = engine.Conntrack()
    track.begin(0)
    ends = ("192.0.2.1", "192.0.2.2", 1, 2)
    mapped = ("::ffff:192.0.2.1", "::ffff:192.0.2.2", 1, 2)
    back = ("192.0.2.2", "192.0.2.1", 2, 1)
    capture = capgen.pcap([(i, capgen.frame(*t)) for i, t in enumerate((ends, mapped, back))])
    assert track.feed(capture, len(capture)) == len(capture)
    track.end(0)
    assert track.summary()["connections"] == 2


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_lanes(compiled, isa):
    """The lanes hash as one does: batches of any size find the connections of any other."""
    chosen = compiled.isa()
    try:
        compiled.isa_select(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        rng = random.Random(SEED)
        ends = [("10.0.0.1", f"10.1.{i}.2", rng.getrandbits(16), 80) for i in range(100)]
        ends += [("2001:db8::1", f"2001:db8::{i:x}:2", rng.getrandbits(16), 80) for i in range(100)]
        track = compiled.Conntrack(key=KEY)
        track.begin(0)
        track.feed(capgen.pcap_header(), 24)
        for i in range(300):
            some = rng.sample(ends, rng.randrange(1, 80))
            piece = b"".join(capgen.pcap_record(i, capgen.frame(*end)) for end in some)
            assert track.feed(piece, len(piece)) == len(piece)
        assert track.summary()["connections"] == len(ends), f"{SEED=}"
    finally:
        compiled.isa_select(chosen)
