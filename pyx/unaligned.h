/*
 * Loads of network and file fields from any address, huge memory, prefetch: what C has and Cython has no word for.
 * Linux: include/linux/unaligned.h, mm/mremap.c.
 */
#ifndef TCPCORE_UNALIGNED_H
#define TCPCORE_UNALIGNED_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* mremap */
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define cpu_to_be16(x) ((uint16_t)(x))
#define cpu_to_be32(x) ((uint32_t)(x))
#define cpu_to_be64(x) ((uint64_t)(x))
#else
#define cpu_to_be16(x) __builtin_bswap16(x)
#define cpu_to_be32(x) __builtin_bswap32(x)
#define cpu_to_be64(x) __builtin_bswap64(x)
#endif

#define prefetch(p) __builtin_prefetch(p)
#define prefetchw(p) __builtin_prefetch(p, 1)

static inline uint16_t get_u16(const void *p) { uint16_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint32_t get_u32(const void *p) { uint32_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint64_t get_u64(const void *p) { uint64_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint16_t get_be16(const void *p) { return cpu_to_be16(get_u16(p)); }
static inline uint32_t get_be32(const void *p) { return cpu_to_be32(get_u32(p)); }
static inline uint64_t get_be64(const void *p) { return cpu_to_be64(get_u64(p)); }
static inline uint16_t swab16_if(int swapped, uint16_t x) { return swapped ? __builtin_bswap16(x) : x; }
static inline uint32_t swab32_if(int swapped, uint32_t x) { return swapped ? __builtin_bswap32(x) : x; }
static inline uint64_t swab64_if(int swapped, uint64_t x) { return swapped ? __builtin_bswap64(x) : x; }

/*
 * Zeroed memory for tables and columns, in huge pages where there are any: at ten million connections most of a packet's
 * time would go into walking page tables. Growing moves pages, not bytes.
 */
static inline void *vzalloc(size_t size)
{
#ifdef __linux__
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
#else
    return calloc(1, size);
#endif
}

static inline void vfree(void *p, size_t size)
{
    if (!p)
        return;
#ifdef __linux__
    munmap(p, size);
#else
    (void)size;
    free(p);
#endif
}

/* NULL where there is no memory; then the old piece stands. What is new is zero on Linux only. */
static inline void *vgrow(void *p, size_t old, size_t size)
{
    if (!p)
        return vzalloc(size);
#ifdef __linux__
    p = mremap(p, old, size, MREMAP_MAYMOVE);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
#else
    (void)old;
    return realloc(p, size);
#endif
}

#endif
