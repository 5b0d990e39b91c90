# The Internet checksum: ones' complement sums of 16-bit words as they lie in memory (csum.c).
# Linux: lib/checksum.c, include/net/checksum.h.  RFC 1071; RFC 9293 3.1 (pseudo header).

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from unaligned cimport cpu_to_be32

cdef extern from "csum.h" nogil:
    uint32_t csum_short(const void *data, size_t length, uint32_t start)
    uint32_t csum_partial(const void *data, size_t length, uint32_t start)
    uint16_t csum_fold(uint32_t csum)
    uint32_t csum_fold64(unsigned long long csum)

cdef extern from "isa.h" nogil:
    const char *tcpcore_isa()
    int tcpcore_isa_select(const char *name)


cdef inline uint16_t csum_tcpudp_magic(
    const uint8_t *saddr, const uint8_t *daddr, uint32_t length, uint8_t proto, uint32_t csum
) noexcept nogil:
    """Complete the sum of a segment by its pseudo header; 0 when its checksum is right.

    Addresses are 16 bytes: the prefix ::ffff: of IPv4 adds 0xffff, ones' complement's other zero.
    """
    cdef unsigned long long total = csum_short(saddr, 16, csum)
    total += csum_short(daddr, 16, 0)
    total += <unsigned long long>cpu_to_be32(length) + cpu_to_be32(proto)
    return <uint16_t>~csum_fold(csum_fold64(total))


cdef inline uint16_t ip_fast_csum(const uint8_t *header, uint32_t length) noexcept nogil:
    """Sum an IPv4 header, options included: 0 when its checksum is right (RFC 791 3.1)."""
    return <uint16_t>~csum_fold(csum_short(header, length, 0))
