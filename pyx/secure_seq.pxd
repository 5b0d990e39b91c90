# SipHash-2-4: the keyed hash under every table whose keys a sender chooses (T-02); siphash.c.
# Linux: lib/siphash.c, net/core/secure_seq.c.

from libc.stdint cimport uint64_t

cdef extern from "siphash.h" nogil:
    enum:
        SIPHASH_LANES
    uint64_t siphash(const uint64_t *key, const void *data, size_t length)
    void siphash_lanes(
        const uint64_t *key, const uint64_t (*words)[16], int count, uint64_t *hashes, int n
    )
