"""SipHash-2-4: the keyed hash under every table whose keys a sender chooses (T-02).

Linux: lib/siphash.c, net/core/secure_seq.c.  Aumasson and Bernstein, "SipHash", 2012.
"""

from __future__ import annotations

from struct import Struct

_MASK64 = 0xFFFFFFFFFFFFFFFF
_KEY = Struct("<QQ")
_WORD = Struct("<Q")
_V4MAPPED = bytes(10) + b"\xff\xff"


def _rounds(v0: int, v1: int, v2: int, v3: int, n: int) -> tuple[int, int, int, int]:
    for _ in range(n):
        v0 = (v0 + v1) & _MASK64
        v2 = (v2 + v3) & _MASK64
        v1 = (v1 << 13 | v1 >> 51) & _MASK64 ^ v0
        v3 = (v3 << 16 | v3 >> 48) & _MASK64 ^ v2
        v0 = (v0 << 32 | v0 >> 32) & _MASK64
        v2 = (v2 + v1) & _MASK64
        v0 = (v0 + v3) & _MASK64
        v1 = (v1 << 17 | v1 >> 47) & _MASK64 ^ v2
        v3 = (v3 << 21 | v3 >> 43) & _MASK64 ^ v0
        v2 = (v2 << 32 | v2 >> 32) & _MASK64
    return v0, v1, v2, v3


def siphash(key: bytes, data: bytes) -> int:
    """Hash data under a key.

    Parameters
    ----------
    key : bytes, 16
    data : bytes

    Returns
    -------
    int : 64 bits; the paper prints them as eight bytes, the lowest first
    """
    k0, k1 = _KEY.unpack(key)
    v0 = k0 ^ 0x736F6D6570736575  # "somepseudorandomlygeneratedbytes"
    v1 = k1 ^ 0x646F72616E646F6D
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573
    # The last word holds what is left of the data below the length's low byte.
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in _WORD.iter_unpack(padded):
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ word, 2)
        v0 ^= word
    v0, v1, v2, v3 = _rounds(v0, v1, v2 ^ 0xFF, v3, 4)
    return v0 ^ v1 ^ v2 ^ v3


def secure_tcp_seq(
    key: bytes, saddr: bytes, daddr: bytes, sport: int, dport: int, now_ns: int
) -> int:
    """An initial sequence number: a secret offset for each 4-tuple, and a clock (RFC 6528 3).

    Deviation: as in Linux the clock ticks every 64 ns instead of every 4 us.
    """
    return (
        siphash(key, b"seq" + hash_tuple(saddr, daddr, sport, dport)) + (now_ns >> 6)
    ) & 0xFFFFFFFF


def secure_tcp_ts_off(key: bytes, saddr: bytes, daddr: bytes, sport: int, dport: int) -> int:
    """The low half: where the time stamps of a 4-tuple begin (RFC 7323 5.4).

    They let everybody see it; the high half is a secret of the same hash, with which cookies begin.
    """
    return siphash(key, b"tso" + hash_tuple(saddr, daddr, sport, dport))


def secure_tcp_cookie(key: bytes, secret: int, count: int) -> int:
    """Of what `secure_tcp_ts_off` tells of a 4-tuple, and of a number."""
    return siphash(key, b"cky" + secret.to_bytes(8, "little") + count.to_bytes(4, "little"))


def secure_port(key: bytes, saddr: bytes, daddr: bytes, dport: int) -> int:
    """Where the search for a port begins, by its peer (RFC 6056 3.3.3)."""
    return siphash(key, b"prt" + hash_tuple(saddr, daddr, 0, dport))


def hash_tuple(saddr: bytes, daddr: bytes, sport: int, dport: int) -> bytes:
    """A 4-tuple as it is hashed: of IPv4 the four bytes of each address alone."""
    if saddr[:12] == daddr[:12] == _V4MAPPED:
        saddr, daddr = saddr[12:], daddr[12:]
    return saddr + daddr + (sport << 16 | dport).to_bytes(4, "big")
