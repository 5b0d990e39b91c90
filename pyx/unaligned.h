/*
 * Loads of network and file fields from any address, prefetch, a lock: what C has and Cython has no word for.
 * Linux: include/linux/unaligned.h, prefetch.h, spinlock.h.
 */
#ifndef TCPCORE_UNALIGNED_H
#define TCPCORE_UNALIGNED_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define cpu_to_be16(x) ((uint16_t)(x))
#define cpu_to_be32(x) ((uint32_t)(x))
#define cpu_to_be64(x) ((uint64_t)(x))
#define cpu_to_le64(x) __builtin_bswap64(x)
#else
#define cpu_to_be16(x) __builtin_bswap16(x)
#define cpu_to_be32(x) __builtin_bswap32(x)
#define cpu_to_be64(x) __builtin_bswap64(x)
#define cpu_to_le64(x) ((uint64_t)(x))
#endif

/* A lock that is never waited for; it holds where Python has no lock of its own, too. */
static inline int spin_trylock(int *lock) { return !__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE); }
static inline void spin_unlock(int *lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

#define prefetch(p) __builtin_prefetch(p)
#define prefetchw(p) __builtin_prefetch(p, 1)

/* p, which the compiler shall hold in a register: it would else compute base + index anew at every field. */
static inline void *held(const void *p) { __asm__("" : "+r"(p)); return (void *)p; }

static inline uint16_t get_u16(const void *p) { uint16_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint32_t get_u32(const void *p) { uint32_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint64_t get_u64(const void *p) { uint64_t x; memcpy(&x, p, sizeof x); return x; }
static inline uint16_t get_be16(const void *p) { return cpu_to_be16(get_u16(p)); }
static inline uint32_t get_be32(const void *p) { return cpu_to_be32(get_u32(p)); }
static inline uint64_t get_be64(const void *p) { return cpu_to_be64(get_u64(p)); }
static inline uint64_t get_le64(const void *p) { return cpu_to_le64(get_u64(p)); }
static inline void put_u16(void *p, uint16_t x) { memcpy(p, &x, sizeof x); }
static inline void put_be16(void *p, uint16_t x) { put_u16(p, cpu_to_be16(x)); }
static inline void put_be32(void *p, uint32_t x) { x = cpu_to_be32(x); memcpy(p, &x, sizeof x); }
static inline uint16_t swab16_if(int swapped, uint16_t x) { return swapped ? __builtin_bswap16(x) : x; }
static inline uint32_t swab32_if(int swapped, uint32_t x) { return swapped ? __builtin_bswap32(x) : x; }
static inline uint64_t swab64_if(int swapped, uint64_t x) { return swapped ? __builtin_bswap64(x) : x; }

/*
 * Copy to memory that nobody reads soon, past the caches: written the usual way, every line of it would first be read.
 * Others may look after stream_end.
 */
#ifdef __SSE2__
#include <emmintrin.h>
static inline void stream_copy(void *to, const void *from, size_t length)
{
    __m128i *t = to;
    const __m128i *f = from;

    if (((uintptr_t)to | length) & 15) {
        memcpy(to, from, length);
        return;
    }
    for (; length; length -= 16)
        _mm_stream_si128(t++, _mm_loadu_si128(f++));
}
#define stream_end() _mm_sfence()
#else
#define stream_copy(to, from, length) memcpy(to, from, length)
#define stream_end() ((void)0)
#endif

/* Linux: include/asm-generic/bitops/fls64.h: the place of the highest bit, from 1. */
static inline int fls64(uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }

/* Two fields side by side change places: what goes back compares with what went there. */
static inline uint32_t swap_u16s(uint32_t pair) { return pair << 16 | pair >> 16; }
static inline uint64_t swap_u32s(uint64_t pair) { return pair << 32 | pair >> 32; }

/* ::ffff:a.b.c.d, as two whole words: a load of one that was stored in parts would wait for them. */
static inline void ipv6_addr_set_v4mapped(void *addr, const void *v4)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    uint64_t words[2] = {0, (uint64_t)0xffff << 32 | get_u32(v4)};
#else
    uint64_t words[2] = {0, (uint64_t)get_u32(v4) << 32 | 0xffff0000};
#endif
    memcpy(addr, words, sizeof words);
}

static inline int ipv6_addr_v4mapped(const void *addr)
{
    const unsigned char *at = addr;
    uint64_t zeros;
    memcpy(&zeros, at, 8);
    return !zeros && !at[8] && !at[9] && at[10] == 0xff && at[11] == 0xff;
}

#endif
