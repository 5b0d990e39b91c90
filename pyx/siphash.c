/* SipHash-2-4 on a word and on vectors of words. */
#include "siphash.h"
#include "unaligned.h"

#ifdef ISA_X86
#include <immintrin.h>
#endif

/*
 * The rounds are written once, in operators that mean the same on a word and on a vector of words.
 * SWAP turns by 32 bits: on AVX2, which has no rotation, that is one shuffle, where gcc would make
 * two shifts and an OR of it.
 */
#define ROTL(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))
#define SWAP_WORD(x) ROTL(x, 32)
#define SWAP_AVX2(x) (vector)_mm256_shuffle_epi32((__m256i)(x), _MM_SHUFFLE(2, 3, 0, 1))

#define SIPROUND(v, SWAP)                                                                          \
    do {                                                                                           \
        v[0] += v[1];                                                                              \
        v[2] += v[3];                                                                              \
        v[1] = ROTL(v[1], 13) ^ v[0];                                                              \
        v[3] = ROTL(v[3], 16) ^ v[2];                                                              \
        v[0] = SWAP(v[0]) + v[3];                                                                  \
        v[2] += v[1];                                                                              \
        v[3] = ROTL(v[3], 21) ^ v[0];                                                              \
        v[1] = ROTL(v[1], 17) ^ v[2];                                                              \
        v[2] = SWAP(v[2]);                                                                         \
    } while (0)

/* The constants spell "somepseudorandomlygeneratedbytes". */
#define SIPHASH_INIT(v, key)                                                                       \
    do {                                                                                           \
        v[0] ^= (key)[0] ^ 0x736f6d6570736575;                                                     \
        v[1] ^= (key)[1] ^ 0x646f72616e646f6d;                                                     \
        v[2] ^= (key)[0] ^ 0x6c7967656e657261;                                                     \
        v[3] ^= (key)[1] ^ 0x7465646279746573;                                                     \
    } while (0)

#define SIPHASH_WORD(v, word)                                                                      \
    do {                                                                                           \
        v[3] ^= word;                                                                              \
        SIPROUND(v, SWAP_WORD);                                                                    \
        SIPROUND(v, SWAP_WORD);                                                                    \
        v[0] ^= word;                                                                              \
    } while (0)

uint64_t siphash(const uint64_t key[2], const void *data, size_t length)
{
    const uint8_t *bytes = data, *end = bytes + length;
    uint64_t v[4] = {0}, word, last = (uint64_t)length << 56;
    unsigned rest = length & 7;

    SIPHASH_INIT(v, key);
    for (; end - bytes >= 8; bytes += 8) {
        word = get_le64(bytes);
        SIPHASH_WORD(v, word);
    }
    if (length >= 8 && rest) /* the last eight bytes, those that were taken already shifted out */
        last |= get_le64(end - 8) >> (64 - 8 * rest);
    else
        while (rest--)
            last |= (uint64_t)bytes[rest] << 8 * rest;
    SIPHASH_WORD(v, last);
    v[2] ^= 0xff;
    for (int round = 0; round < 4; round++)
        SIPROUND(v, SWAP_WORD);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t siphash_words(const uint64_t key[2], uint64_t first, uint64_t second, size_t length)
{
    uint64_t v[4] = {0};

    second |= (uint64_t)length << 56;
    SIPHASH_INIT(v, key);
    SIPHASH_WORD(v, first);
    SIPHASH_WORD(v, second);
    v[2] ^= 0xff;
    for (int round = 0; round < 4; round++)
        SIPROUND(v, SWAP_WORD);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* A round's steps wait for each other and leave the processor idle: two vectors go side by side. */
#define SIPHASH_BODY(name, lanes, attributes, SWAP, target)                                        \
    target static void name(const uint64_t key[2],                                                 \
                            const uint64_t words[][SIPHASH_LANES], int count,                      \
                            uint64_t hashes[SIPHASH_LANES], int n)                                 \
    {                                                                                              \
        typedef uint64_t vector attributes;                                                        \
                                                                                                   \
        for (int lane = 0; lane < n; lane += 2 * lanes) {                                          \
            vector v[4] = {0}, w[4] = {0}, x, y;                                                   \
                                                                                                   \
            SIPHASH_INIT(v, key);                                                                  \
            SIPHASH_INIT(w, key);                                                                  \
            for (int i = 0; i < count; i++) {                                                      \
                x = *(const vector *)&words[i][lane];                                              \
                y = *(const vector *)&words[i][lane + lanes];                                      \
                v[3] ^= x;                                                                         \
                w[3] ^= y;                                                                         \
                for (int round = 0; round < 2; round++) {                                          \
                    SIPROUND(v, SWAP);                                                             \
                    SIPROUND(w, SWAP);                                                             \
                }                                                                                  \
                v[0] ^= x;                                                                         \
                w[0] ^= y;                                                                         \
            }                                                                                      \
            v[2] ^= 0xff;                                                                          \
            w[2] ^= 0xff;                                                                          \
            for (int round = 0; round < 4; round++) {                                              \
                SIPROUND(v, SWAP);                                                                 \
                SIPROUND(w, SWAP);                                                                 \
            }                                                                                      \
            *(vector *)&hashes[lane] = v[0] ^ v[1] ^ v[2] ^ v[3];                                  \
            *(vector *)&hashes[lane + lanes] = w[0] ^ w[1] ^ w[2] ^ w[3];                          \
        }                                                                                          \
    }

#define VECTOR(lanes) __attribute__((vector_size(8 * lanes), aligned(8), may_alias))

SIPHASH_BODY(lanes_baseline, 1, , SWAP_WORD, )
#ifdef ISA_X86
SIPHASH_BODY(lanes_avx2, 4, VECTOR(4), SWAP_AVX2, TARGET_AVX2)
SIPHASH_BODY(lanes_avx512, 8, VECTOR(8), SWAP_WORD, TARGET_AVX512)
#endif

void (*siphash_lanes)(const uint64_t key[2],
                      const uint64_t words[][SIPHASH_LANES], int count,
                      uint64_t hashes[SIPHASH_LANES], int n) = lanes_baseline;

void siphash_select(enum isa isa)
{
    static void (*const bodies[])(const uint64_t *, const uint64_t (*)[SIPHASH_LANES], int,
                                  uint64_t *, int) = {
#ifdef ISA_X86
        [ISA_AVX512] = lanes_avx512,
        [ISA_AVX2] = lanes_avx2,
#endif
        [ISA_BASELINE] = lanes_baseline,
    };

    siphash_lanes = bodies[isa];
}
