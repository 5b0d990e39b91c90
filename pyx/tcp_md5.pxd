# Segments that are signed with a key which both ends know: TCP_MD5SIG.
# Linux: tcp_md5_do_lookup, tcp_md5_do_add, tcp_v4_md5_hash_skb in net/ipv4/tcp_ipv4.c,
# tcp_parse_auth_options in tcp_input.c.  RFC 2385; RFC 1321.

from libc.errno cimport ENOENT, ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy, memmove, memset
from sock cimport rcv_skb, tcp_md5sig_info, tcp_md5sig_key
from tcp cimport TCPOPT_EOL, TCPOPT_NOP, segment
from unaligned cimport ipv6_addr_v4mapped, put_be16, put_be32, put_u16
from wire cimport IPPROTO_TCP, TCP_HDR_LEN

cdef extern from "md5.h":
    struct md5_ctx:
        pass

    void md5_init(md5_ctx *ctx) nogil
    void md5_update(md5_ctx *ctx, const void *data, size_t length) nogil
    void md5_final(md5_ctx *ctx, uint8_t *digest) nogil

cdef extern from *:
    bint unlikely(bint condition) nogil  # a macro that Cython has

cdef enum:
    TCPOPT_MD5SIG = 19
    TCPOPT_AO = 29
    TCPOLEN_MD5SIG = 18
    TCPOLEN_MD5SIG_ALIGNED = 20
    MD5_AT = 4  # where a digest stands behind the option's own place: padding, kind and length
    MD5_DIGEST = 16
    TCP_MD5SIG_MAXKEYLEN = 80
    TCP_MD5SIG_KEYS_MAX = 963  # of one socket: what optmem_max, 128 KiB, has room for in Linux
    OPTIONS_UNSEEN = 4  # no option of a key is so short


cdef inline void md5(const void *data, size_t length, uint8_t *digest) noexcept nogil:
    """MD5 of data."""
    cdef md5_ctx ctx
    md5_init(&ctx)
    md5_update(&ctx, data, length)
    md5_final(&ctx, digest)


cdef inline bint md5_addr_match(const uint8_t *a, const uint8_t *b, int bits) noexcept nogil:
    """Whether the first bits of two addresses are alike."""
    cdef int whole = bits >> 3, rest = bits & 7
    if memcmp(a, b, whole):
        return False
    return not rest or (a[whole] ^ b[whole]) >> (8 - rest) == 0


cdef inline const tcp_md5sig_key *tcp_md5_do_lookup(
    const tcp_md5sig_info *info, const uint8_t *addr
) noexcept nogil:
    """The key for a peer, or NULL: that of the longest prefix, of equals the newest."""
    cdef const tcp_md5sig_key *best = NULL
    cdef const tcp_md5sig_key *one
    cdef bint v4 = ipv6_addr_v4mapped(addr)
    cdef uint32_t i = info.n
    while i:
        i -= 1
        one = &info.keys[i]
        if best != NULL and one.prefixlen <= best.prefixlen:
            continue
        if ipv6_addr_v4mapped(one.addr) == v4 and md5_addr_match(addr, one.addr, one.prefixlen):
            best = one
    return best


cdef inline tcp_md5sig_key *tcp_md5_do_lookup_exact(
    const tcp_md5sig_info *info, const uint8_t *addr, int prefixlen, int flags
) noexcept nogil:
    """The key that was set for just this, or NULL."""
    cdef tcp_md5sig_key *one
    cdef uint32_t i
    for i in range(info.n):
        one = &info.keys[i]
        if one.prefixlen == prefixlen and one.flags == flags and not memcmp(one.addr, addr, 16):
            return one
    return NULL


cdef inline int tcp_md5_do_add(
    tcp_md5sig_info *info,
    const uint8_t *addr,
    int prefixlen,
    int flags,
    const uint8_t *key,
    int keylen,
) noexcept nogil:
    """Set a key, or another secret of one that is there; 0 or -ENOMEM, as beyond the bound."""
    cdef tcp_md5sig_key *one = tcp_md5_do_lookup_exact(info, addr, prefixlen, flags)
    cdef uint32_t room
    if one == NULL:
        if info.n >= TCP_MD5SIG_KEYS_MAX:
            return -ENOMEM
        if info.n == info.room:
            room = 2 * info.room if info.room else 1
            one = <tcp_md5sig_key *>realloc(info.keys, room * sizeof(tcp_md5sig_key))
            if one == NULL:
                return -ENOMEM
            info.keys = one
            info.room = room
        one = &info.keys[info.n]
        info.n += 1
        memcpy(one.addr, addr, 16)
        one.prefixlen = <uint8_t>prefixlen
        one.flags = <uint8_t>flags
    one.keylen = <uint8_t>keylen
    memset(one.key, 0, TCP_MD5SIG_MAXKEYLEN)
    memcpy(one.key, key, keylen)
    return 0


cdef inline int tcp_md5_do_del(
    tcp_md5sig_info *info, const uint8_t *addr, int prefixlen, int flags
) noexcept nogil:
    """Forget a key; 0 or -ENOENT."""
    cdef tcp_md5sig_key *one = tcp_md5_do_lookup_exact(info, addr, prefixlen, flags)
    if one == NULL:
        return -ENOENT
    info.n -= 1
    memmove(one, one + 1, (info.keys + info.n - one) * sizeof(tcp_md5sig_key))
    memset(&info.keys[info.n], 0, sizeof(tcp_md5sig_key))
    return 0


cdef inline void tcp_md5_hash(
    const tcp_md5sig_key *key,
    const uint8_t *saddr,
    const uint8_t *daddr,
    const uint8_t *header,
    uint32_t length,
    const uint8_t *data,
    uint32_t data_len,
    uint8_t *digest,
) noexcept nogil:
    """The signature of a segment of `length` bytes (RFC 2385 2.0); addresses are IPv4 mapped.

    Covered are the pseudo header, the header without options and checksum, the text, the secret.
    """
    cdef uint8_t front[60]
    cdef uint8_t *at = front
    cdef md5_ctx ctx
    if ipv6_addr_v4mapped(saddr):
        memcpy(at, saddr + 12, 4)
        memcpy(at + 4, daddr + 12, 4)
        at[8] = 0
        at[9] = IPPROTO_TCP
        put_be16(at + 10, <uint16_t>length)
        at += 12
    else:
        memcpy(at, saddr, 16)
        memcpy(at + 16, daddr, 16)
        put_be32(at + 32, length)
        put_be32(at + 36, IPPROTO_TCP)
        at += 40
    memcpy(at, header, TCP_HDR_LEN)
    put_u16(at + 16, 0)
    md5_init(&ctx)
    md5_update(&ctx, front, at + TCP_HDR_LEN - front)
    md5_update(&ctx, data, data_len)
    md5_update(&ctx, key.key, key.keylen)
    md5_final(&ctx, digest)


cdef inline bint tcp_md5_verify(
    const tcp_md5sig_key *key, const rcv_skb *r, const uint8_t *at
) noexcept nogil:
    """Whether the digest at `at` of a packet is right, in a time that tells nothing of it."""
    cdef uint8_t digest[16]  # MD5_DIGEST
    cdef uint8_t differs = 0
    cdef int i
    tcp_md5_hash(
        key,
        r.saddr,
        r.daddr,
        r.th.transport_header,
        4 * <uint32_t>r.th.doff + r.th.payload_len,
        r.data,
        r.th.payload_len,
        digest,
    )
    for i in range(MD5_DIGEST):
        differs |= digest[i] ^ at[i]
    return differs == 0


cdef inline int tcp_parse_auth_options(const segment *th, const uint8_t **found) noexcept nogil:
    """Where a segment's digest lies, NULL for none; -1 for options to be dropped for.

    Those lie of their lengths, sign twice, or sign as nobody here can (RFC 5925).

    Deviation: as Linux, from 9293:MUST-7, a segment whose options lie is dropped without a word;
    the last four bytes may say what they will.
    """
    cdef const uint8_t *at = th.transport_header + TCP_HDR_LEN
    cdef const uint8_t *end = th.transport_header + 4 * th.doff
    found[0] = NULL
    while end - at > OPTIONS_UNSEEN and at[0] != TCPOPT_EOL:
        if at[0] == TCPOPT_NOP:
            at += 1
            continue
        if at[1] < 2 or at[1] > end - at or at[0] == TCPOPT_AO:
            return -1
        if at[0] == TCPOPT_MD5SIG:
            if found[0] != NULL or at[1] != TCPOLEN_MD5SIG:
                return -1
            found[0] = at + 2
        at += at[1]
    return 0
