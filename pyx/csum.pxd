# The Internet checksum: ones' complement sums of 16-bit words as they lie in memory (csum.c).
# Linux: lib/checksum.c, include/net/checksum.h.  RFC 1071; RFC 9293 3.1 (pseudo header).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from unaligned cimport cpu_to_be32

cdef extern from "csum.h" nogil:
    uint32_t csum_partial(const void *data, size_t length, uint32_t start)
    uint64_t csum_short64(const void *data, size_t length, uint64_t start)
    uint16_t csum_fold(uint32_t csum)
    uint32_t csum_fold64(uint64_t sum)
    bint csum_wrong(uint64_t total)
    bint ip_fast_csum(const void *header, unsigned int words)
    bint csum_tcpudp_magic(const void *segment, size_t length, uint64_t pseudo)

cdef extern from "isa.h" nogil:
    const char *tcpcore_isa()
    int tcpcore_isa_select(const char *name)


cdef inline uint64_t csum_pseudo(
    const void *addrs, uint32_t size, uint32_t length, uint8_t proto
) noexcept nogil:
    """The sum of a pseudo header, not folded; the two addresses have `size` bytes, side by side."""
    return csum_short64(addrs, size, <uint64_t>cpu_to_be32(length) + cpu_to_be32(proto))
