# SipHash-2-4: the keyed hash under every table whose keys a sender chooses (T-02); siphash.c.
# Linux: lib/siphash.c, net/core/secure_seq.c.  RFC 6528, RFC 6056.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from unaligned cimport ipv6_addr_v4mapped, put_be16

cdef extern from "siphash.h" nogil:
    enum:
        SIPHASH_LANES
    uint64_t siphash(const uint64_t *key, const void *data, size_t length)
    void siphash_lanes(
        const uint64_t *key, const uint64_t (*words)[16], int count, uint64_t *hashes, int n
    )


cdef inline size_t hash_tuple(
    uint8_t *data,
    const char *what,
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
) noexcept nogil:
    """Three letters that say what for, and a 4-tuple: how many bytes, of IPv4 15, else 39."""
    cdef bint v4 = ipv6_addr_v4mapped(saddr) and ipv6_addr_v4mapped(daddr)
    cdef size_t n = 4 if v4 else 16
    memcpy(data, what, 3)
    if v4:
        memcpy(data + 3, saddr + 12, 4)
        memcpy(data + 7, daddr + 12, 4)
    else:
        memcpy(data + 3, saddr, 16)
        memcpy(data + 19, daddr, 16)
    put_be16(data + 3 + 2 * n, sport)
    put_be16(data + 5 + 2 * n, dport)
    return 7 + 2 * n


cdef inline uint64_t secure_tuple(
    const uint64_t *key,
    const char *what,
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
) noexcept nogil:
    cdef uint8_t data[39]
    return siphash(key, data, hash_tuple(data, what, saddr, daddr, sport, dport))


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
    return <uint32_t>secure_tuple(key, b"seq", saddr, daddr, sport, dport) + <uint32_t>(now_ns >> 6)


cdef inline uint32_t secure_tcp_ts_off(
    const uint64_t *key, const uint8_t *saddr, const uint8_t *daddr, uint16_t sport, uint16_t dport
) noexcept nogil:
    """Where a connection's time stamps begin, another for each 4-tuple (RFC 7323 5.4)."""
    return <uint32_t>secure_tuple(key, b"tso", saddr, daddr, sport, dport)


cdef inline uint64_t secure_port(
    const uint64_t *key, const uint8_t *saddr, const uint8_t *daddr, uint16_t dport
) noexcept nogil:
    """Where the search for a port begins, by its peer (RFC 6056 3.3.3)."""
    return secure_tuple(key, b"prt", saddr, daddr, 0, dport)
