# Checksum offload: which wrong checksums a sender's own network card explains, host by host.
# Linux: net/core/dev.c (skb_checksum_help), include/linux/skbuff.h (CHECKSUM_PARTIAL).  RFC 1624.
# A host's card fills checksums in after the tap: what the tap sees instead says so by itself.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from secure_seq cimport siphash
from tcp cimport (
    BAD_IP_CSUM,
    BAD_IP_ZERO,
    BAD_PARTIAL,
    BAD_TCP_CSUM,
    BAD_TSO,
    BAD_ZERO,
    segment,
)
from unaligned cimport ipv6_addr_set_v4mapped

cdef enum:
    OFFLOAD_MAX = 1024  # hosts that are remembered; a power of two
    OFFLOAD_LEARNT = 4  # segments that explain themselves, after which the host is known
    OFFLOAD_SLOTS = 2048  # of the hash table

# A sender on one interface, and how its segments with wrong checksums look.
cdef struct offload_host:
    uint8_t addr[16]
    uint32_t interface
    uint8_t ip
    uint64_t partial
    uint64_t zero
    uint64_t tso
    uint64_t other  # nothing explains them but that the host is known

# All senders of wrong checksums, as far as there is room, in order of appearance.
cdef struct offload:
    uint32_t n_hosts
    uint64_t explained  # segments that explain themselves
    uint64_t learnt  # segments that a known host explains
    uint64_t damaged  # segments that nothing explains
    uint16_t slots[OFFLOAD_SLOTS]  # number of a host, plus 1
    offload_host hosts[OFFLOAD_MAX]


cdef inline offload_host *offload_find(
    offload *o, const uint64_t *key, const segment *th, uint32_t interface
) noexcept nogil:
    """The sender of a segment on its interface; NULL where there is no room for another."""
    cdef uint8_t name[21]
    cdef offload_host *host
    cdef uint32_t at
    if th.ip == 4:
        ipv6_addr_set_v4mapped(name, &th.acookie)
    else:
        memcpy(name, th.addrs, 16)
    memcpy(name + 16, &interface, 4)
    name[20] = th.ip
    at = <uint32_t>siphash(key, name, 21) & (OFFLOAD_SLOTS - 1)
    while o.slots[at]:
        host = &o.hosts[o.slots[at] - 1]
        if host.interface == interface and host.ip == th.ip and not memcmp(host.addr, name, 16):
            return host
        at = (at + 1) & (OFFLOAD_SLOTS - 1)
    if o.n_hosts == OFFLOAD_MAX:
        return NULL
    host = &o.hosts[o.n_hosts]
    memcpy(host.addr, name, 16)
    host.interface = interface
    host.ip = th.ip
    o.n_hosts += 1
    o.slots[at] = o.n_hosts
    return host


cdef inline uint8_t offload_learn(
    offload *o, const uint64_t *key, const segment *th, uint32_t interface, uint16_t mss
) noexcept nogil:
    """Count a segment with a wrong checksum: Bad, what of it is really wrong; 0 if all of it is
    explained. `mss` is the most that its receiver takes, 0 if that is not known."""
    cdef offload_host *host = offload_find(o, key, th, interface)
    cdef uint8_t bad = th.bad & (BAD_IP_CSUM | BAD_TCP_CSUM)
    cdef bint tso = th.bad & BAD_TSO or (mss and th.payload_len > mss)
    if tso or th.bad & (BAD_PARTIAL | BAD_ZERO):
        bad &= ~<uint8_t>BAD_TCP_CSUM
    if tso or th.bad & BAD_IP_ZERO:
        bad &= ~<uint8_t>BAD_IP_CSUM
    if host != NULL:
        if bad:
            host.other += 1
        elif tso:
            host.tso += 1
        elif th.bad & BAD_PARTIAL:
            host.partial += 1
        else:
            host.zero += 1
    if not bad:
        o.explained += 1
    elif host != NULL and host.partial + host.zero + host.tso >= OFFLOAD_LEARNT:
        o.learnt += 1
        bad = 0
    else:
        o.damaged += 1
    return bad
