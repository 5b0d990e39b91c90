/*
 * SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012; Linux:
 * lib/siphash.c): the keyed hash of every table and of initial sequence numbers (RFC 6528), of one
 * message or of many lanes at once.
 */
#ifndef TCPCORE_SIPHASH_H
#define TCPCORE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

#include "isa.h"

enum { SIPHASH_LANES = 16 };

uint64_t siphash(const uint64_t key[2], const void *data, size_t length);

/*
 * The hash of a message of 8 to 15 bytes that lies in registers, little endian, zeros behind it:
 * one that was stored in parts could not be loaded in words at once.
 */
uint64_t siphash_words(const uint64_t key[2], uint64_t first, uint64_t second, size_t length);

/*
 * The hashes of n messages of `count` words. words[i][lane] is word i, little endian, of a lane's
 * message; the last has the message's length in its top byte. They lie word by word so that a
 * vector is one load. Lanes up to the next multiple of 16 are read and their hashes written too.
 */
extern void (*siphash_lanes)(const uint64_t key[2],
                             const uint64_t words[][SIPHASH_LANES], int count,
                             uint64_t hashes[SIPHASH_LANES], int n);
void siphash_select(enum isa isa);

#endif
