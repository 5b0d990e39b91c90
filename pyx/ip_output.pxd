# The one door out: routes, path MTU, and a segment's bytes put into IP packets.
# Linux: net/ipv4/ip_output.c, route.c, net/ipv6/ip6_output.c, tcp_options_write in tcp_output.c.
# RFC 791 3.1, RFC 8200 3, RFC 9293 3.1, RFC 1191, RFC 8201, RFC 6864.

from libc.errno cimport EADDRNOTAVAIL, ENETUNREACH, ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, realloc
from libc.string cimport memcmp, memcpy
from csum cimport csum_fold, csum_fold64, csum_partial, csum_pseudo, csum_short64
from netns cimport NET_INC_STATS, PMTU_MAX, netns, out_frame
from netns cimport path_mtu, path_mtus
from secure_seq cimport siphash
from skbuff cimport refcount_inc
from snmp cimport *
from sock cimport sack_block, skb_data, tcp_md5sig_key
from tcp cimport *
from tcp_md5 cimport (
    TCPOLEN_MD5SIG,
    TCPOLEN_MD5SIG_ALIGNED,
    TCPOPT_MD5SIG,
    tcp_md5_hash,
    unlikely,
)
from timer cimport NSEC_PER_SEC
from unaligned cimport get_u32, ipv6_addr_v4mapped, put_be16, put_be32, put_u16
from wire cimport IPPROTO_TCP, TCP_HDR_LEN

cdef enum:
    TCPOPT_SACK = 5
    IPV4_HDR_LEN = 20
    IPV6_HDR_LEN = 40
    IPV6_MIN_MTU = 1280
    IP_MAX_MTU = 65535  # what a total length can tell
    MAX_OPTIONS = 40  # bytes
    OUT_QUEUE_MAX = 65536  # frames that wait to be fetched
    NET_XMIT_DROP = 1  # include/linux/netdevice.h
    IP_DF = 0x4000

# What a segment's options say; those that are not there are left out.
cdef struct options:
    uint16_t mss
    uint8_t has_wscale
    uint8_t wscale
    uint8_t sack_perm
    uint8_t has_tstamp
    uint8_t n_sacks
    uint32_t tsval
    uint32_t tsecr
    sack_block sack[4]
    const tcp_md5sig_key *md5  # NULL: it is not signed

# Everything that a segment's headers are made of.
cdef struct segment_out:
    const uint8_t *saddr
    const uint8_t *daddr
    uint16_t sport
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint16_t flags
    uint16_t window
    uint16_t urg
    uint16_t ident
    uint8_t tos
    uint8_t ttl
    uint8_t df
    const tcp_md5sig_key *md5  # what signs it, or NULL
    uint8_t md5_at  # where the digest stands in the options
    uint8_t options_len
    uint8_t options[40]  # MAX_OPTIONS


cdef inline bint ipv6_addr_any(const uint8_t *addr) noexcept nogil:
    cdef uint64_t halves[2]
    memcpy(halves, addr, 16)
    return (halves[0] | halves[1]) == 0


cdef inline uint32_t tcp_option_word(uint8_t a, uint8_t b, uint8_t c, uint8_t d) noexcept nogil:
    """Four bytes that are stored at once, so that they can be loaded at once."""
    return <uint32_t>a << 24 | <uint32_t>b << 16 | <uint32_t>c << 8 | d


cdef inline int tcp_md5_option(uint8_t *at) noexcept nogil:
    """Room for a signature: bytes."""
    put_be32(at, tcp_option_word(TCPOPT_NOP, TCPOPT_NOP, TCPOPT_MD5SIG, TCPOLEN_MD5SIG))
    return TCPOLEN_MD5SIG_ALIGNED


cdef inline int tcp_options_write(uint8_t *out, const options *opts) noexcept nogil:
    """Lay options out as Linux does: whole words, the padding in front where it can be; bytes."""
    cdef uint8_t *at = out
    cdef uint8_t size
    cdef int i
    if unlikely(opts.md5 != NULL):
        at += tcp_md5_option(at)
    if opts.mss:
        put_be32(at, tcp_option_word(TCPOPT_MSS, 4, <uint8_t>(opts.mss >> 8), <uint8_t>opts.mss))
        at += 4
    if opts.has_tstamp:
        if opts.sack_perm:
            put_be32(at, tcp_option_word(TCPOPT_SACK_PERM, 2, TCPOPT_TIMESTAMP, 10))
        else:
            put_be32(at, tcp_option_word(TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10))
        put_be32(at + 4, opts.tsval)
        put_be32(at + 8, opts.tsecr)
        at += 12
    elif opts.sack_perm:
        put_be32(at, tcp_option_word(TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK_PERM, 2))
        at += 4
    if opts.has_wscale:
        put_be32(at, tcp_option_word(TCPOPT_NOP, TCPOPT_WINDOW, 3, opts.wscale))
        at += 4
    if opts.n_sacks:
        size = <uint8_t>(2 + 8 * opts.n_sacks)
        put_be32(at, tcp_option_word(TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK, size))
        at += 4
        for i in range(opts.n_sacks):
            put_be32(at, opts.sack[i].start)
            put_be32(at + 4, opts.sack[i].end)
            at += 8
    return <int>(at - out)


cdef inline bint is_multicast(const uint8_t *addr) noexcept nogil:
    """True for what no connection can be made to: multicast, broadcast, nobody."""
    if ipv6_addr_v4mapped(addr):
        return addr[12] >= 224 or get_u32(addr + 12) == 0
    return addr[0] == 0xFF or ipv6_addr_any(addr)


cdef inline bint is_loopback(const uint8_t *addr) noexcept nogil:
    cdef uint64_t first
    if ipv6_addr_v4mapped(addr):
        return addr[12] == 127
    memcpy(&first, addr, 8)
    return first == 0 and get_u32(addr + 8) == 0 and addr[12] == 0 and addr[13] == 0 and (
        addr[14] == 0 and addr[15] == 1
    )


cdef inline bint ifaddr_known(const netns *net, const uint8_t *addr) noexcept nogil:
    cdef uint32_t i
    for i in range(net.n_addrs):
        if memcmp(net.addrs[i].addr, addr, 16) == 0:
            return True
    return False


cdef inline bint inet_addr_is_local(const netns *net, const uint8_t *addr) noexcept nogil:
    """True for an address of this host, or where it takes every address for its own."""
    return ifaddr_known(net, addr) or is_loopback(addr) or net.any_address > 0


cdef inline uint32_t addr_common(const uint8_t *a, const uint8_t *b) noexcept nogil:
    """Bits in front that two addresses share."""
    cdef uint32_t i, bits
    cdef uint8_t other
    for i in range(16):
        other = a[i] ^ b[i]
        if other:
            bits = 0
            while not other & 0x80:
                other = <uint8_t>(other << 1)
                bits += 1
            return 8 * i + bits
    return 128


cdef inline int ip_route_connect(
    netns *net, const uint8_t *daddr, const uint8_t *saddr, uint8_t *found
) noexcept nogil:
    """Find a way to an address, from `saddr` if that is not NULL; 0 or a negative errno."""
    cdef bint v4 = ipv6_addr_v4mapped(daddr)
    cdef int64_t length = -1
    cdef uint32_t i, prefix, common
    cdef const uint8_t *best = NULL
    if is_multicast(daddr):
        return -ENETUNREACH
    if saddr != NULL:
        memcpy(found, saddr, 16)
        return 0 if inet_addr_is_local(net, saddr) else -EADDRNOTAVAIL
    if is_loopback(daddr) or ifaddr_known(net, daddr):
        memcpy(found, daddr, 16)
        return 0
    for i in range(net.n_addrs):
        if ipv6_addr_v4mapped(net.addrs[i].addr) != v4:
            continue
        prefix = net.addrs[i].prefix
        common = addr_common(net.addrs[i].addr, daddr)
        if common >= prefix and <int64_t>prefix > length:  # on that address's own network
            best = net.addrs[i].addr
            length = prefix
        elif best == NULL:
            best = net.addrs[i].addr
    if best == NULL:
        return -ENETUNREACH
    memcpy(found, best, 16)
    return 0


cdef inline int64_t dst_mtu(netns *net, const uint8_t *daddr) noexcept nogil:
    """What fits a packet to an address: what the path told, else the link's."""
    cdef const path_mtu *path
    cdef uint32_t *at
    cdef int64_t mtu = net.route.mtu if net.route.mtu else net.mtu
    if net.n_pmtu and not net.route.mtu_lock:
        at = pmtu_at(net, daddr)
        if at[0]:
            path = &net.pmtu.paths[at[0] - 1]
            if net.net.now_ns < path.expires_ns:
                return min(path.mtu, net.mtu)
            pmtu_forget(net, at)
    if net.any_address == 0 and inet_addr_is_local(net, daddr):
        mtu = net.loopback_mtu
    return min(mtu, <int64_t>IP_MAX_MTU) if ipv6_addr_v4mapped(daddr) else mtu


cdef inline uint32_t *pmtu_at(netns *net, const uint8_t *daddr) noexcept nogil:
    """Where a path's number stands, or would."""
    cdef path_mtus *all = net.pmtu
    cdef uint32_t *at = &all.buckets[siphash(net.key, daddr, 16) & (PMTU_MAX - 1)]
    while at[0] and memcmp(all.paths[at[0] - 1].addr, daddr, 16):
        at = &all.paths[at[0] - 1].next
    return at


cdef inline void pmtu_forget(netns *net, uint32_t *at) noexcept nogil:
    cdef path_mtus *all = net.pmtu
    cdef uint32_t number = at[0]
    cdef path_mtu *path = &all.paths[number - 1]
    at[0] = path.next
    if path.older:
        all.paths[path.older - 1].newer = path.newer
    else:
        all.oldest = path.newer
    if path.newer:
        all.paths[path.newer - 1].older = path.older
    else:
        all.newest = path.older
    path.next = all.spare
    all.spare = number
    net.n_pmtu -= 1


cdef inline void ip_rt_update_pmtu(netns *net, const uint8_t *daddr, int64_t mtu) noexcept nogil:
    """A router told that less fits (RFC 1191 6.3, RFC 8201 4); never below the floor."""
    cdef bint v4 = ipv6_addr_v4mapped(daddr)
    cdef int64_t low = net.sysctl.min_pmtu if v4 else IPV6_MIN_MTU
    cdef path_mtus *all
    cdef path_mtu *path
    cdef uint32_t *at
    cdef uint32_t number
    if dst_mtu(net, daddr) < mtu or (not v4 and mtu < IPV6_MIN_MTU):
        return  # an older word was of less; no IPv6 link has less
    if net.pmtu == NULL:
        net.pmtu = <path_mtus *>calloc(1, sizeof(path_mtus))
        if net.pmtu == NULL:
            return
    all = net.pmtu
    at = pmtu_at(net, daddr)
    if not at[0] and net.n_pmtu >= PMTU_MAX:
        pmtu_forget(net, pmtu_at(net, all.paths[all.oldest - 1].addr))
        at = pmtu_at(net, daddr)
    number = at[0]
    if not number:
        number = all.spare
        if number:
            all.spare = all.paths[number - 1].next
        else:
            all.used += 1
            number = all.used
        path = &all.paths[number - 1]
        memcpy(path.addr, daddr, 16)
        path.next = path.newer = 0
        path.older = all.newest
        if path.older:
            all.paths[path.older - 1].newer = number
        else:
            all.oldest = number
        all.newest = number
        at[0] = number
        net.n_pmtu += 1
    path = &all.paths[number - 1]
    path.mtu = max(mtu, low)
    path.expires_ns = net.net.now_ns + net.sysctl.mtu_expires * NSEC_PER_SEC


cdef inline uint8_t *out_reserve(netns *net, uint32_t length) noexcept nogil:
    """Where the next frame goes; NULL without memory."""
    cdef out_frame *frames
    cdef uint8_t *memory
    cdef uint64_t room
    if net.n_out == net.max_out:
        frames = <out_frame *>realloc(net.out, (net.max_out * 2 + 64) * sizeof(out_frame))
        if frames == NULL:
            return NULL
        net.out = frames
        net.max_out = net.max_out * 2 + 64
    if net.out_used + length > net.out_room:
        room = (net.out_used + length) * 2 + 65536
        memory = <uint8_t *>realloc(net.out_bytes, room)
        if memory == NULL:
            return NULL
        net.out_bytes = memory
        net.out_room = room
    return net.out_bytes + net.out_used


cdef inline int ip_queue_xmit(
    netns *net,
    const segment_out *seg,
    skb_data *page,
    const uint8_t *data,
    uint32_t length,
    int64_t mss,
) noexcept nogil:
    """Queue a segment, cut to `mss` where the link does not take it whole; 0, or -ENOBUFS.

    Its text stays where it lies, in a page. NET_XMIT_DROP: the queue before the link refused it.
    With a key each segment is signed: no link could cut it.
    """
    cdef segment_out one
    cdef uint32_t at, size, last
    if net.n_out >= OUT_QUEUE_MAX:
        NET_INC_STATS(net, IP_OUTDISCARDS)
        return -ENOBUFS
    if net.qdisc_drops:
        return NET_XMIT_DROP
    if not mss or length <= mss or (net.gso and seg.md5 == NULL):
        return tcp_build_frame(
            net, seg, page, data, length, <uint32_t>mss if mss and length > mss else 0
        )
    last = <uint32_t>((length - 1) // mss * mss)
    one = seg[0]
    at = 0
    while at < length:
        size = min(<uint32_t>mss, length - at)
        one.seq = seg.seq + at
        # FIN and PSH belong to the end, CWR to the beginning.
        one.flags = seg.flags & ~(0 if at == last else 0x009) & ~(0x080 if at else 0)
        one.urg = 0 if at else seg.urg
        one.ident = <uint16_t>(seg.ident + at // mss)
        if tcp_build_frame(net, &one, page, data + at, size, 0):
            return -ENOBUFS
        at += size
    return 0


cdef inline int tcp_build_frame(
    netns *net,
    const segment_out *seg,
    skb_data *page,
    const uint8_t *data,
    uint32_t length,
    uint32_t gso_size,
) noexcept nogil:
    """Queue one IP packet with one segment in it; 0, or -ENOBUFS. Its checksums come later."""
    cdef bint v4 = ipv6_addr_v4mapped(seg.saddr)
    cdef uint32_t ip_len = IPV4_HDR_LEN if v4 else IPV6_HDR_LEN
    cdef uint32_t header = TCP_HDR_LEN + seg.options_len
    cdef uint32_t tcp_len = header + length
    cdef uint8_t *frame = out_reserve(net, ip_len + TCP_HDR_LEN + MAX_OPTIONS)
    cdef uint8_t *th
    cdef out_frame *queued
    if frame == NULL:
        NET_INC_STATS(net, IP_OUTDISCARDS)
        return -ENOBUFS
    if v4:
        frame[0] = 0x45
        frame[1] = seg.tos
        put_be16(frame + 2, <uint16_t>(ip_len + tcp_len) if ip_len + tcp_len < 65536 else 0)
        put_be16(frame + 4, seg.ident)
        put_be16(frame + 6, IP_DF if seg.df else 0)
        frame[8] = seg.ttl
        frame[9] = IPPROTO_TCP
        put_u16(frame + 10, 0)
        memcpy(frame + 12, seg.saddr + 12, 4)
        memcpy(frame + 16, seg.daddr + 12, 4)
    else:
        put_be32(frame, <uint32_t>6 << 28 | <uint32_t>seg.tos << 20)
        put_be16(frame + 4, <uint16_t>tcp_len)
        frame[6] = IPPROTO_TCP
        frame[7] = seg.ttl
        memcpy(frame + 8, seg.saddr, 16)
        memcpy(frame + 24, seg.daddr, 16)
    th = frame + ip_len
    put_be16(th, seg.sport)
    put_be16(th + 2, seg.dport)
    put_be32(th + 4, seg.seq)
    put_be32(th + 8, seg.ack)
    put_be16(th + 12, <uint16_t>(header // 4 << 12 | seg.flags))
    put_be16(th + 14, seg.window)
    put_u16(th + 16, 0)
    put_be16(th + 18, seg.urg)
    memcpy(th + TCP_HDR_LEN, seg.options, MAX_OPTIONS)  # how many there are costs more to ask
    if unlikely(seg.md5 != NULL):
        tcp_md5_hash(
            seg.md5,
            seg.saddr,
            seg.daddr,
            th,
            tcp_len,
            data,
            length,
            th + TCP_HDR_LEN + seg.md5_at,
        )
    queued = &net.out[net.n_out]
    queued.offset = net.out_used
    queued.length = ip_len + header
    queued.gso_size = gso_size
    queued.data_len = length
    queued.data = data
    queued.page = page if length else NULL
    if length:
        refcount_inc(&page.refs)
    net.n_out += 1
    net.out_used += ip_len + header
    return 0


cdef inline void skb_copy_and_csum(const netns *net, uint32_t i, uint8_t *frame) noexcept nogil:
    """Lay a frame out as it goes over a wire, both checksums right.

    For a link that finishes checksums TCP's is the sum of the pseudo header alone.
    """
    cdef const out_frame *one = &net.out[i]
    cdef uint32_t ip_len, tcp_len
    cdef uint64_t pseudo
    cdef uint8_t *th
    memcpy(frame, net.out_bytes + one.offset, one.length)
    if one.data_len:
        memcpy(frame + one.length, one.data, one.data_len)
    ip_len = IPV4_HDR_LEN if frame[0] >> 4 == 4 else IPV6_HDR_LEN
    tcp_len = one.length + one.data_len - ip_len
    if ip_len == IPV4_HDR_LEN:
        put_u16(frame + 10, csum_fold(csum_fold64(csum_short64(frame, 20, 0))) ^ 0xFFFF)
        pseudo = csum_pseudo(frame + 12, 8, tcp_len, IPPROTO_TCP)
    else:
        pseudo = csum_pseudo(frame + 8, 32, tcp_len, IPPROTO_TCP)
    th = frame + ip_len
    if net.hw_csum:  # the link finishes what begins with the pseudo header's sum
        put_u16(th + 16, csum_fold(csum_fold64(pseudo)))
    else:
        put_u16(th + 16, csum_fold(csum_partial(th, tcp_len, csum_fold64(pseudo))) ^ 0xFFFF)
