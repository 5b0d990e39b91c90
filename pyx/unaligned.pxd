# Loads of network and file fields from any address, prefetch, a lock (unaligned.h).
# Linux: include/linux/unaligned.h, prefetch.h, spinlock.h, bitops.h.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "unaligned.h" nogil:
    uint16_t get_u16(const void *p)
    uint32_t get_u32(const void *p)
    uint64_t get_u64(const void *p)
    uint16_t get_be16(const void *p)
    uint32_t get_be32(const void *p)
    uint64_t get_be64(const void *p)
    uint64_t get_le64(const void *p)
    void put_u16(void *p, uint16_t x)
    void put_be16(void *p, uint16_t x)
    void put_be32(void *p, uint32_t x)
    uint16_t cpu_to_be16(uint16_t x)
    uint32_t cpu_to_be32(uint32_t x)
    uint16_t swab16_if(bint swapped, uint16_t x)
    uint32_t swab32_if(bint swapped, uint32_t x)
    uint64_t swab64_if(bint swapped, uint64_t x)
    uint32_t swap_u16s(uint32_t pair)
    uint64_t swap_u32s(uint64_t pair)
    void ipv6_addr_set_v4mapped(void *addr, const void *v4)
    bint ipv6_addr_v4mapped(const void *addr)
    void stream_copy(void *to, const void *source, size_t length)
    void stream_end()
    void *held(const void *p)
    void prefetch(const void *p)
    void prefetchw(const void *p)
    int fls64(uint64_t x)
    bint spin_trylock(int *lock)
    void spin_unlock(int *lock)
