/*
 * MD5 (RFC 1321; Linux: crypto/md5.c): what TCP_MD5SIG signs with. It is broken as a hash and is
 * used for nothing else.
 */
#ifndef TCPCORE_MD5_H
#define TCPCORE_MD5_H

#include <stddef.h>
#include <stdint.h>

struct md5_ctx {
    uint32_t state[4];
    uint64_t length; /* bytes so far */
    uint8_t block[64];
};

void md5_init(struct md5_ctx *ctx);
void md5_update(struct md5_ctx *ctx, const void *data, size_t length);
void md5_final(struct md5_ctx *ctx, uint8_t *digest);

#endif
