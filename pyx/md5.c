/* MD5: a block in four rounds of sixteen steps (RFC 1321 3.4). */
#include "md5.h"

#include <string.h>

/* floor(2^32 * |sin(i + 1)|). */
static const uint32_t SINES[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};
static const uint8_t SHIFTS[4][4] = {
    {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static inline uint32_t rotate(uint32_t word, int by)
{
    return word << by | word >> (32 - by);
}

/* Words are little endian in memory, whatever the machine's are. */
static inline uint32_t get_le32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline void put_le32(uint8_t *at, uint32_t word)
{
    at[0] = (uint8_t)word;
    at[1] = (uint8_t)(word >> 8);
    at[2] = (uint8_t)(word >> 16);
    at[3] = (uint8_t)(word >> 24);
}

static void md5_transform(uint32_t state[4], const uint8_t *block)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], words[16];
    for (int i = 0; i < 16; i++)
        words[i] = get_le32(block + 4 * i);
    for (int i = 0; i < 64; i++) {
        uint32_t mixed, next;
        int which;
        if (i < 16) {
            mixed = d ^ (b & (c ^ d));
            which = i;
        } else if (i < 32) {
            mixed = c ^ (d & (b ^ c));
            which = (5 * i + 1) & 15;
        } else if (i < 48) {
            mixed = b ^ c ^ d;
            which = (3 * i + 5) & 15;
        } else {
            mixed = c ^ (b | ~d);
            which = 7 * i & 15;
        }
        next = b + rotate(a + mixed + SINES[i] + words[which], SHIFTS[i >> 4][i & 3]);
        a = d;
        d = c;
        c = b;
        b = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

void md5_init(struct md5_ctx *ctx)
{
    ctx->state[0] = 0x67452301;
    ctx->state[1] = 0xefcdab89;
    ctx->state[2] = 0x98badcfe;
    ctx->state[3] = 0x10325476;
    ctx->length = 0;
}

void md5_update(struct md5_ctx *ctx, const void *data, size_t length)
{
    const uint8_t *at = data;
    size_t had = ctx->length & 63, room = 64 - had;
    if (!length)
        return;
    ctx->length += length;
    if (had && length >= room) {
        memcpy(ctx->block + had, at, room);
        md5_transform(ctx->state, ctx->block);
        at += room;
        length -= room;
        had = 0;
    }
    for (; length >= 64; at += 64, length -= 64)
        md5_transform(ctx->state, at);
    memcpy(ctx->block + had, at, length);
}

void md5_final(struct md5_ctx *ctx, uint8_t *digest)
{
    static const uint8_t padding[64] = {0x80};
    uint64_t bits = ctx->length << 3;
    uint8_t tail[8];
    put_le32(tail, (uint32_t)bits);
    put_le32(tail + 4, (uint32_t)(bits >> 32));
    md5_update(ctx, padding, 1 + ((55 - ctx->length) & 63));
    md5_update(ctx, tail, 8);
    for (int i = 0; i < 4; i++)
        put_le32(digest + 4 * i, ctx->state[i]);
}
