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

/* In line, for headers: a call and a vector's horizontal sum would cost more than these few additions. Not folded. */
static inline uint64_t csum_short64(const void *data, size_t length, uint64_t start)
{
    const uint8_t *bytes = data, *end = bytes + length;
    uint64_t sum = start, word;

#if defined(__SIZEOF_INT128__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Most segments without data: no branch on how long, but that it is in here. */
    if (length - 17 < 16) {
        unsigned __int128 rest;

        memcpy(&rest, end - 16, 16);
        rest >>= 8 * (32 - length);
        word = get_u64(bytes);
        sum += word;
        sum += sum < word;
        word = get_u64(bytes + 8);
        sum += word;
        sum += sum < word;
        word = (uint64_t)rest;
        sum += word;
        sum += sum < word;
        word = (uint64_t)(rest >> 64);
        sum += word;
        return sum + (sum < word);
    }
#endif
    /* 2^64 is 1 modulo 2^16 - 1 as well: whole 64-bit words, their carries brought round. */
    for (; end - bytes >= 8; bytes += 8) {
        word = get_u64(bytes);
        sum += word;
        sum += sum < word;
    }
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
    sum += word;
    return sum + (sum < word);
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

/* An IPv4 header of `words` 32-bit words, at least 5: 0 when its checksum is right (RFC 791 3.1). */
static inline uint16_t ip_fast_csum(const void *header, unsigned words)
{
    const uint8_t *h = header;
    uint64_t sum = (uint64_t)get_u32(h) + get_u32(h + 4) + get_u32(h + 8) + get_u32(h + 12) + get_u32(h + 16);

    if (words > 5)
        sum = csum_short64(h + 20, (words - 5) * 4, sum);
    return (uint16_t)~csum_fold(csum_fold64(sum));
}

/* A segment below its pseudo header's sum, not folded: 0 when its checksum is right (RFC 9293 3.1). */
static inline uint16_t csum_tcpudp_magic(const void *segment, size_t length, uint64_t pseudo)
{
    if (length <= CSUM_SHORT)
        return (uint16_t)~csum_fold(csum_fold64(csum_short64(segment, length, pseudo)));
    return (uint16_t)~csum_fold(csum_long(segment, length, csum_fold64(pseudo)));
}

#endif
