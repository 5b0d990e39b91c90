/* The bodies of csum_long: one loop, compiled for each instruction set (RFC 1071, section 4). */
#include "csum.h"

/* A vector read from it that ends n bytes past its middle: ones in the last n bytes, else zeros. */
static const uint8_t last_bytes[2 * CSUM_SHORT] = {[CSUM_SHORT ... 2 * CSUM_SHORT - 1] = 0xff};

/*
 * One body in GNU C vectors, for every width up to CSUM_SHORT bytes. Each 64-bit lane is added
 * whole, its carries lost, and its upper half once more: the lower halves' sum is what the upper
 * ones do not account for. That is three operations a vector; splitting each lane would take four.
 * Nothing overflows below 4 GiB.
 *
 * What fills no vector is taken from the data's last whole vector with the bytes already summed
 * masked out. Words keep their place in it only at an even length: an odd last byte goes first.
 * The loop reads through volatile so that gcc loads once: it would load again for the second use,
 * and since most loads cross a cache line, loads would then bound the loop.
 */
#define CSUM_LONG(name, width, target)                                                             \
    target static uint32_t name(const uint8_t *data, size_t length, uint32_t start)                \
    {                                                                                              \
        typedef uint64_t vector __attribute__((vector_size(width), aligned(1), may_alias));        \
        vector whole = {0}, whole2 = {0}, upper = {0}, upper2 = {0}, x, y;                         \
        uint64_t sum = start;                                                                      \
                                                                                                   \
        if (length & 1)                                                                            \
            sum += csum_short(data + --length, 1, 0);                                              \
        for (; length >= 2 * width; length -= 2 * width, data += 2 * width) {                      \
            x = *(const volatile vector *)data;                                                    \
            y = *(const volatile vector *)(data + width);                                          \
            whole += x;                                                                            \
            upper += x >> 32;                                                                      \
            whole2 += y;                                                                           \
            upper2 += y >> 32;                                                                     \
        }                                                                                          \
        if (length >= width) {                                                                     \
            x = *(const volatile vector *)data;                                                    \
            whole += x;                                                                            \
            upper += x >> 32;                                                                      \
            length -= width;                                                                       \
            data += width;                                                                         \
        }                                                                                          \
        x = *(const vector *)(data + length - width);                                              \
        x &= *(const vector *)(last_bytes + CSUM_SHORT + length - width);                          \
        whole += x + whole2;                                                                       \
        upper += (x >> 32) + upper2;                                                               \
        whole += upper - (upper << 32);                                                            \
        for (int lane = 0; lane < width / 8; lane++)                                               \
            sum += whole[lane];                                                                    \
        return csum_fold64(sum);                                                                   \
    }

CSUM_LONG(csum_baseline, 16, )
#ifdef ISA_X86
CSUM_LONG(csum_avx2, 32, TARGET_AVX2)
CSUM_LONG(csum_avx512, 64, TARGET_AVX512)
#endif

uint32_t (*csum_long)(const uint8_t *data, size_t length, uint32_t start) = csum_baseline;

void csum_select(enum isa isa)
{
    static uint32_t (*const bodies[])(const uint8_t *, size_t, uint32_t) = {
#ifdef ISA_X86
        [ISA_AVX512] = csum_avx512,
        [ISA_AVX2] = csum_avx2,
#endif
        [ISA_BASELINE] = csum_baseline,
    };

    csum_long = bodies[isa];
}
