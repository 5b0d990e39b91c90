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

/* In line, for headers: a call and the sum across a vector cost more than these few additions. */
static inline uint32_t csum_short(const void *data, size_t length, uint32_t start)
{
    const uint8_t *bytes = data;
    uint64_t even = start, odd = 0;
    uint32_t word, next;
    uint16_t half = 0;

    /* 32-bit words in 64-bit sums, where carries gather in the upper half; two, to add in pairs. */
    for (; length >= 8; length -= 8, bytes += 8) {
        memcpy(&word, bytes, 4);
        memcpy(&next, bytes + 4, 4);
        even += word;
        odd += next;
    }
    if (length & 4) {
        memcpy(&word, bytes, 4);
        even += word;
        bytes += 4;
    }
    if (length & 2) {
        memcpy(&half, bytes, 2);
        odd += half;
        bytes += 2;
    }
    if (length & 1) {
        half = 0;
        memcpy(&half, bytes, 1);
        odd += half;
    }
    return csum_fold64(even + odd);
}

/* For more than CSUM_SHORT bytes; in csum.c, one per instruction set. */
extern uint32_t (*csum_long)(const uint8_t *data, size_t length, uint32_t start);
void csum_select(enum isa isa);

static inline uint32_t csum_partial(const void *data, size_t length, uint32_t start)
{
    return length <= CSUM_SHORT ? csum_short(data, length, start) : csum_long(data, length, start);
}

#endif
