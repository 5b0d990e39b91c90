/*
 * The internet checksum's ones' complement sum (RFC 1071; Linux: lib/checksum.c). Words of 16 bits
 * are summed as they lie in memory, since swapping a sum's bytes is swapping every word's; an odd
 * last byte starts a word that ends in zero. Data may lie anywhere; nothing beside it is read.
 * Pieces are chained through `start`, all but the last of even length.
 */
#ifndef TCPCORE_CSUM_H
#define TCPCORE_CSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "unaligned.h"

enum { CSUM_SHORT = 64 };

/* Carries come round: 2^32 is 1 modulo 2^16 - 1. */
static inline uint32_t csum_fold64(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (uint32_t)(sum + (sum >> 32));
}

/* The sum itself, not its complement. 0 is the sum of zeros alone: 0xffff is the other zero. */
static inline uint16_t csum_fold(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)(sum + (sum >> 16));
}

/* A carry out of the top comes round as well: 2^64 is 1 modulo 2^16 - 1. */
static inline uint64_t csum_add(uint64_t sum, uint64_t word)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __asm__("addq %1, %0\n\tadcq $0, %0" : "+r"(sum) : "rm"(word) : "cc"); /* in C it takes five */
    return sum;
#else
    sum += word;
    return sum + (sum < word);
#endif
}

/* In line, for headers: a call and a vector's horizontal sum would cost more than these few additions. Not folded. */
static inline uint64_t csum_short64(const void *data, size_t length, uint64_t start)
{
    static const uint64_t mask[4] = {0, 0, UINT64_MAX, UINT64_MAX};
    const uint8_t *bytes = data, *end = bytes + length;
    uint64_t sum = start, word;

    /* Most segments without data: no branch on how long, as the last 16 bytes lose what was counted. */
    if (length - 18 <= 14 && !(length & 1)) {
        const uint8_t *rest = (const uint8_t *)mask + length - 16;

        sum = csum_add(sum, get_u64(bytes));
        sum = csum_add(sum, get_u64(bytes + 8));
        sum = csum_add(sum, get_u64(end - 16) & get_u64(rest));
        return csum_add(sum, get_u64(end - 8) & get_u64(rest + 8));
    }
    for (; end - bytes >= 8; bytes += 8)
        sum = csum_add(sum, get_u64(bytes));
    /* The rest without a branch on its length: the last 8 bytes, those that were counted shifted out. */
    if (length >= 8) {
        unsigned counted = 8 * (7 - (unsigned)(end - bytes));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = get_u64(end - 8) << counted << 8;
#else
        word = get_u64(end - 8) >> counted >> 8;
#endif
    } else {
        word = 0;
        memcpy(&word, bytes, length);
    }
    return csum_add(sum, word);
}

static inline uint32_t csum_short(const void *data, size_t length, uint32_t start)
{
    return csum_fold64(csum_short64(data, length, start));
}

/* For more than CSUM_SHORT bytes; in csum.c, one per instruction set. */
extern uint32_t (*csum_long)(const uint8_t *data, size_t length, uint32_t start);
void csum_select(enum isa isa);

static inline uint32_t csum_partial(const void *data, size_t length, uint32_t start)
{
    return length <= CSUM_SHORT ? csum_short(data, length, start) : csum_long(data, length, start);
}

/*
 * True if a sum over data and their checksum is not that of a right one. 2^16 is 1 modulo 2^16 - 1,
 * so the sum needs no folding: one multiplication tells. It must not be 0, and no header's is.
 */
static inline int csum_wrong(uint64_t sum)
{
    return sum * 0xfffefffefffeffff > UINT64_MAX / 0xffff; /* sum % 0xffff != 0, by 0xffff's inverse */
}

/* An IPv4 header of `words` 32-bit words, at least 5: 0 when its checksum is right (RFC 791 3.1). */
static inline int ip_fast_csum(const void *header, unsigned words)
{
    const uint8_t *h = header;
    uint64_t sum = (uint64_t)get_u32(h) + get_u32(h + 4) + get_u32(h + 8) + get_u32(h + 12) + get_u32(h + 16);

    if (words > 5)
        sum = csum_short64(h + 20, (words - 5) * 4, sum);
    return csum_wrong(sum);
}

/* A segment below its pseudo header's sum, not folded: 0 when its checksum is right (RFC 9293 3.1). */
static inline int csum_tcpudp_magic(const void *segment, size_t length, uint64_t pseudo)
{
    return csum_wrong(length <= CSUM_SHORT ? csum_short64(segment, length, pseudo)
                                           : csum_long(segment, length, csum_fold64(pseudo)));
}

#endif
