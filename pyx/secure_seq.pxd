# SipHash-2-4: the keyed hash under every table whose keys a sender chooses (T-02); siphash.c.
# Linux: lib/siphash.c, net/core/secure_seq.c.  RFC 6528, RFC 6056.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from unaligned cimport get_be32, ipv6_addr_v4mapped, put_be16, swab16_if, swab32_if

cdef extern from "siphash.h" nogil:
    enum:
        SIPHASH_LANES
    uint64_t siphash(const uint64_t *key, const void *data, size_t length)
    uint64_t siphash_words(const uint64_t *key, uint64_t first, uint64_t second, size_t length)
    void siphash_lanes(
        const uint64_t *key, const uint64_t (*words)[16], int count, uint64_t *hashes, int n
    )


cdef inline uint64_t hash_what(const char *what) noexcept nogil:
    return <uint8_t>what[0] | <uint64_t><uint8_t>what[1] << 8 | <uint64_t><uint8_t>what[2] << 16


cdef inline uint64_t hash_tuple(
    const uint64_t *key,
    const char *what,
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
) noexcept nogil:
    """Of three letters that say what for, and a 4-tuple: of IPv4 15 bytes, else 39."""
    cdef uint8_t data[39]
    cdef uint64_t first, second, s, d
    if ipv6_addr_v4mapped(saddr) and ipv6_addr_v4mapped(daddr):
        s = swab32_if(True, get_be32(saddr + 12))
        d = swab32_if(True, get_be32(daddr + 12))
        first = hash_what(what) | s << 24 | d << 56
        second = d >> 8 | <uint64_t>swab16_if(True, sport) << 24 | <uint64_t>swab16_if(True, dport) << 40
        return siphash_words(key, first, second, 15)
    memcpy(data, what, 3)
    memcpy(data + 3, saddr, 16)
    memcpy(data + 19, daddr, 16)
    put_be16(data + 35, sport)
    put_be16(data + 37, dport)
    return siphash(key, data, 39)


cdef inline uint32_t secure_tcp_seq(
    const uint64_t *key,
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
    int64_t now_ns,
) noexcept nogil:
    """An initial sequence number: a secret offset for each 4-tuple, and a clock (RFC 6528 3).

    Deviation: as in Linux the clock ticks every 64 ns instead of every 4 us.
    """
    cdef uint32_t offset = <uint32_t>hash_tuple(key, b"seq", saddr, daddr, sport, dport)
    return offset + <uint32_t>(now_ns >> 6)


cdef inline uint64_t secure_tcp_ts_off(
    const uint64_t *key, const uint8_t *saddr, const uint8_t *daddr, uint16_t sport, uint16_t dport
) noexcept nogil:
    """The low half: where the time stamps of a 4-tuple begin (RFC 7323 5.4). They let everybody see
    it; the high half is a secret of the same hash, with which cookies begin."""
    return hash_tuple(key, b"tso", saddr, daddr, sport, dport)


cdef inline uint64_t secure_tcp_cookie(
    const uint64_t *key, uint64_t tuple, uint32_t count
) noexcept nogil:
    """Of what `secure_tcp_ts_off` tells of a 4-tuple, and of a number: 15 bytes."""
    cdef uint64_t first = hash_what(b"cky") | tuple << 24
    return siphash_words(key, first, tuple >> 40 | <uint64_t>count << 24, 15)


cdef inline uint64_t secure_port(
    const uint64_t *key, const uint8_t *saddr, const uint8_t *daddr, uint16_t dport
) noexcept nogil:
    """Where the search for a port begins, by its peer (RFC 6056 3.3.3)."""
    return hash_tuple(key, b"prt", saddr, daddr, 0, dport)
