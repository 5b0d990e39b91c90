# An endpoint's whole state: clock, timers, tables, addresses, keys, knobs, what waits to leave.
# Linux: include/net/net_namespace.h, netns/ipv4.h.

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from ip_fragment cimport ip_frags_free
from net cimport net as host
from secure_seq cimport siphash
from skbuff cimport skb_data_put, skb_pools, skb_pools_free, skb_pools_init, skb_queue_purge
from slab cimport (
    kmem_cache,
    kmem_cache_destroy,
    kmem_cache_free,
    kmem_cache_init,
    kmem_cache_zalloc,
)
from snmp cimport IP6_NOECTPKTS, IP_NOECTPKTS
from sock cimport *
from tcp_md5 cimport tcp_md5_do_add, tcp_md5_do_lookup, unlikely
from timer cimport (
    lazy_timer,
    timer,
    timer_del,
    timer_forget,
    timer_mod,
    timers,
    timers_free,
    timers_reserve,
)

cdef enum:
    LOOPBACK_MTU = 65536
    LISTEN_BUCKETS = 256
    PMTU_MAX = 4096
    OUT_KEEP = 4 << 20  # bytes of memory that are kept for the next frames

cdef struct ifaddr:
    uint8_t addr[16]
    uint32_t prefix

# Who is at a port.
cdef struct inet_bind_bucket:
    tcp_sock *owners
    uint32_t n_tw  # what is in TIME-WAIT there

# What a path told; the numbers of others count from 1.
cdef struct path_mtu:
    uint8_t addr[16]
    int64_t expires_ns
    int64_t mtu
    uint32_t next  # of its bucket, or of what is spare
    uint32_t older
    uint32_t newer

cdef struct path_mtus:
    path_mtu paths[4096]
    uint32_t buckets[4096]
    uint32_t used
    uint32_t spare
    uint32_t oldest
    uint32_t newest

# A segment that waits to be fetched: its headers, checksums not filled, and where its text lies.
cdef struct out_frame:
    uint64_t offset
    uint32_t length
    uint32_t gso_size
    uint32_t data_len
    const uint8_t *data
    skb_data *page  # NULL without text

# One host. Sockets are known outside by a handle that is never used again.
# What the administrator has said of the way to peers (RTAX_); 0: nothing.
cdef struct route:
    int64_t mtu
    int64_t mtu_lock  # what routers say does not matter
    int64_t advmss
    int64_t initcwnd
    int64_t initrwnd
    int64_t rto_min  # ms
    int64_t quickack
    int64_t ecn  # RTAX_FEATURE_ECN

cdef struct netns:
    host net
    uint64_t key[2]
    sysctls sysctl
    timers timers
    skb_pools skbs
    kmem_cache sock_cache
    kmem_cache request_cache
    kmem_cache timewait_cache
    timewait_sock *replaced  # whose place a connection takes
    sock_common *grave  # over, and freed when the event that ended them is
    ifaddr *addrs
    uint32_t n_addrs
    int64_t any_address  # listeners that take every address for theirs
    int64_t mtu
    int64_t loopback_mtu
    bint gso  # the link takes segments larger than its MTU
    bint hw_csum  # the link finishes checksums
    bint qdisc_drops  # the queue before the link refuses every packet
    route route
    path_mtus *pmtu  # once there is one
    uint32_t n_pmtu
    sock_common **established  # by 4-tuple
    uint32_t established_mask
    uint32_t n_established
    tcp_sock *listening[256]  # by port
    inet_bind_bucket *bound  # by port
    uint64_t perturb[256]
    uint8_t *out_bytes
    uint64_t out_used
    uint64_t out_room
    out_frame *out
    uint32_t n_out
    uint32_t max_out
    tcp_sock **socks  # by handle
    uint32_t socks_mask
    uint32_t n_socks
    uint64_t handles
    int64_t n_orphans
    int64_t n_tw
    uint64_t *wake  # handles of which something can be told
    uint32_t n_wake
    uint32_t max_wake
    tcp_md5sig_info *md5sigs  # keys of sockets, by number; 0 is nobody's
    uint32_t n_md5sigs
    uint32_t max_md5sigs
    uint32_t md5sig_spare
    uint16_t ip_id
    uint8_t ip_dsfield  # TOS or traffic class of what comes now
    uint64_t rng


cdef inline void NET_INC_STATS(netns *net, int mib) noexcept nogil:
    net.net.mib[mib] += 1


cdef inline void NET_ADD_STATS(netns *net, int mib, int64_t count) noexcept nogil:
    net.net.mib[mib] += <uint64_t>count


cdef inline void ip_rcv_ecn(
    netns *net, const uint8_t *packet, uint32_t length
) noexcept nogil:
    """Count a packet by its ECN field (RFC 3168 5), which is kept for the segment in it."""
    net.ip_dsfield = 0
    if length < 20:
        return
    if packet[0] >> 4 == 4:
        net.ip_dsfield = packet[1]
        net.net.mib[IP_NOECTPKTS + (packet[1] & 3)] += 1
    elif length >= 40:
        net.ip_dsfield = <uint8_t>(packet[0] << 4 | packet[1] >> 4)
        net.net.mib[IP6_NOECTPKTS + (net.ip_dsfield & 3)] += 1


cdef inline int netns_init(netns *net, const uint8_t *key) noexcept nogil:
    """Begin with Linux's defaults, in memory of zeros; -1 without memory."""
    cdef sysctls *knobs = &net.sysctl
    memcpy(net.key, key, 16)
    net.net.frags.key[0] = net.key[0]
    net.net.frags.key[1] = net.key[1]
    knobs.ip_default_ttl = 64
    knobs.ip_local_port_range[0] = 32768
    knobs.ip_local_port_range[1] = 60999
    knobs.icmp_ratelimit = 1000
    knobs.min_pmtu = 552
    knobs.mtu_expires = 600
    knobs.rmem_max = 4194304
    knobs.somaxconn = 4096
    knobs.tcp_adv_win_scale = 1
    knobs.tcp_autocorking = 1
    knobs.tcp_base_mss = 1024
    knobs.tcp_challenge_ack_limit = 0x7FFFFFFF
    knobs.tcp_comp_sack_delay_ns = 1000000
    knobs.tcp_comp_sack_nr = 44
    knobs.tcp_comp_sack_rtt_percent = 33
    knobs.tcp_comp_sack_slack_ns = 10000
    knobs.tcp_congestion_control = 1
    knobs.tcp_early_retrans = 3
    knobs.tcp_ecn = 2
    knobs.tcp_ecn_fallback = 1
    knobs.tcp_fin_timeout = 60
    knobs.tcp_frto = 2
    knobs.tcp_invalid_ratelimit = 500
    knobs.tcp_keepalive_intvl = 75
    knobs.tcp_keepalive_probes = 9
    knobs.tcp_keepalive_time = 7200
    knobs.tcp_limit_output_bytes = 4194304
    knobs.tcp_max_orphans = 65536
    knobs.tcp_max_reordering = 300
    knobs.tcp_max_syn_backlog = 4096
    knobs.tcp_max_tw_buckets = 65536
    knobs.tcp_min_snd_mss = 48
    knobs.tcp_min_tso_segs = 2
    knobs.tcp_moderate_rcvbuf = 1
    knobs.tcp_notsent_lowat = 0xFFFFFFFF
    knobs.tcp_recovery = 1
    knobs.tcp_reordering = 3
    knobs.tcp_retries1 = 3
    knobs.tcp_retries2 = 15
    knobs.tcp_rmem[0] = 4096
    knobs.tcp_rmem[1] = 131072
    knobs.tcp_rmem[2] = 33554432
    knobs.tcp_rto_max_ms = 120000
    knobs.tcp_rto_min_us = 200000
    knobs.tcp_sack = 1
    knobs.tcp_dsack = 1
    knobs.tcp_slow_start_after_idle = 1
    knobs.tcp_syn_linear_timeouts = 4
    knobs.tcp_syn_retries = 6
    knobs.tcp_synack_retries = 5
    knobs.tcp_syncookies = 1
    knobs.tcp_timestamps = 1
    knobs.tcp_tso_win_divisor = 3
    knobs.tcp_tw_reuse = 2
    knobs.tcp_window_scaling = 1
    knobs.tcp_wmem[0] = 4096
    knobs.tcp_wmem[1] = 16384
    knobs.tcp_wmem[2] = 4194304
    knobs.wmem_max = 4194304
    net.mtu = 1500
    net.loopback_mtu = LOOPBACK_MTU
    skb_pools_init(&net.skbs, <uint32_t>siphash(net.key, b"skb", 3))
    kmem_cache_init(&net.sock_cache, sizeof(tcp_sock))
    kmem_cache_init(&net.request_cache, sizeof(request_sock))
    kmem_cache_init(&net.timewait_cache, sizeof(timewait_sock))
    net.established_mask = net.socks_mask = 255
    net.established = <sock_common **>calloc(256, sizeof(sock_common *))
    net.socks = <tcp_sock **>calloc(256, sizeof(tcp_sock *))
    net.bound = <inet_bind_bucket *>calloc(65536, sizeof(inet_bind_bucket))
    return 0 if net.established != NULL and net.socks != NULL and net.bound != NULL else -1


cdef inline void sk_queues_purge(netns *net, tcp_sock *tp) noexcept nogil:
    """Give back all that a socket holds."""
    cdef sock_errors *errors = tp.errors
    cdef err_skb *one
    cdef ubuf_info *ubuf
    skb_queue_purge(&net.skbs, &tp.sk_write_queue)
    skb_queue_purge(&net.skbs, &tp.tcp_rtx_queue)
    skb_queue_purge(&net.skbs, &tp.sk_receive_queue)
    skb_queue_purge(&net.skbs, &tp.out_of_order_queue)
    if errors == NULL:
        return
    while errors.first != NULL:
        one = errors.first
        errors.first = one.next
        free(one)
    while errors.ubufs != NULL:
        ubuf = errors.ubufs
        errors.ubufs = ubuf.next
        free(ubuf)
    free(errors)
    tp.errors = NULL


cdef inline void sk_bury(netns *net, sock_common *sk) noexcept nogil:
    """Something is over: until the event is, it may still be looked at."""
    sk.ehash_next = net.grave
    net.grave = sk


cdef inline void netns_reap(netns *net) noexcept nogil:
    """An event is over, and with it whom it ended."""
    cdef sock_common *sk
    cdef tcp_sock *tp
    while net.grave != NULL:
        sk = net.grave
        net.grave = sk.ehash_next
        timer_forget(&net.timers, &sk.sk_timer)
        if sk.md5sig_info:
            tcp_clear_md5_list(net, sk)
        if sk.kind == SK_TCP:
            tp = <tcp_sock *>sk
            timer_forget(&net.timers, &tp.retransmit_timer.timer)
            timer_forget(&net.timers, &tp.delack_timer.timer)
            sk_queues_purge(net, tp)
            net.timers.reserved -= 3
            kmem_cache_free(&net.sock_cache, sk)
        else:
            net.timers.reserved -= 1
            kmem_cache_free(
                &net.request_cache if sk.kind == SK_REQUEST else &net.timewait_cache, sk
            )


cdef inline void out_purge(netns *net) noexcept nogil:
    """Whatever waits to leave has left."""
    cdef uint32_t i
    for i in range(net.n_out):
        skb_data_put(&net.skbs, net.out[i].page)
    net.n_out = 0
    net.out_used = 0
    if net.out_room > OUT_KEEP:
        free(net.out_bytes)
        net.out_bytes = NULL
        net.out_room = 0


cdef inline void netns_free(netns *net) noexcept nogil:
    cdef tcp_sock *tp
    cdef uint32_t i
    netns_reap(net)
    if net.socks != NULL:
        for i in range(net.socks_mask + 1):
            tp = net.socks[i]
            while tp != NULL:
                sk_queues_purge(net, tp)
                tp = tp.handle_next
    for i in range(net.n_md5sigs):
        free(net.md5sigs[i + 1].keys)
    free(net.md5sigs)
    out_purge(net)
    ip_frags_free(&net.net.frags)
    timers_free(&net.timers)
    skb_pools_free(&net.skbs)
    kmem_cache_destroy(&net.sock_cache)
    kmem_cache_destroy(&net.request_cache)
    kmem_cache_destroy(&net.timewait_cache)
    free(net.addrs)
    free(net.pmtu)
    free(net.established)
    free(net.socks)
    free(net.bound)
    free(net.out_bytes)
    free(net.out)
    free(net.wake)


cdef inline sock_common *sk_prot_alloc(netns *net, int kind) noexcept nogil:
    """A socket, a request or a rest of zeros, its timers ready; NULL without memory."""
    cdef kmem_cache *cache = &net.sock_cache
    cdef sock_common *sk
    cdef tcp_sock *tp
    if kind != SK_TCP:
        cache = &net.request_cache if kind == SK_REQUEST else &net.timewait_cache
    if timers_reserve(&net.timers, 3 if kind == SK_TCP else 1):
        return NULL
    sk = <sock_common *>kmem_cache_zalloc(cache)
    if sk == NULL:
        net.timers.reserved -= 3 if kind == SK_TCP else 1
        return NULL
    sk.kind = <uint8_t>kind
    sk.ip = 4
    if kind == SK_TCP:
        tp = <tcp_sock *>sk
        sk.sk_timer.kind = ICSK_TIME_KEEPOPEN
        tp.retransmit_timer.timer.kind = ICSK_TIME_RETRANS
        tp.retransmit_timer.timer.lazy = 1
        tp.delack_timer.timer.kind = ICSK_TIME_DACK
        tp.delack_timer.timer.lazy = 1
    else:
        sk.sk_timer.kind = TCP_SYNACK_TIMER if kind == SK_REQUEST else TCP_TW_TIMER
    return sk


cdef inline void *timer_owner(timer *one) noexcept nogil:
    """Whose timer it is, by where it lies."""
    cdef uint8_t *at = <uint8_t *>one
    if one.kind == ICSK_TIME_RETRANS:
        return at - sizeof(sock_common)
    if one.kind == ICSK_TIME_DACK:
        return at - sizeof(sock_common) - sizeof(lazy_timer)
    return at


cdef inline int sk_enter(netns *net, tcp_sock *tp) noexcept nogil:
    """Give a socket its handle; -1 without memory."""
    cdef tcp_sock **socks
    cdef tcp_sock *one
    cdef tcp_sock *next
    cdef uint64_t *wake
    cdef uint32_t i, mask, at
    if net.n_socks > net.socks_mask:
        mask = net.socks_mask * 2 + 1
        socks = <tcp_sock **>calloc(<size_t>mask + 1, sizeof(tcp_sock *))
        if socks == NULL:
            return -1
        for i in range(net.socks_mask + 1):
            one = net.socks[i]
            while one != NULL:
                next = one.handle_next
                at = <uint32_t>one.handle & mask
                one.handle_next = socks[at]
                socks[at] = one
                one = next
        free(net.socks)
        net.socks = socks
        net.socks_mask = mask
    if net.n_wake > 2 * net.n_socks + 64:  # nobody has asked: those that are gone go
        at = 0
        for i in range(net.n_wake):
            if sk_lookup(net, net.wake[i]) != NULL:
                net.wake[at] = net.wake[i]
                at += 1
        net.n_wake = at
    if net.n_wake + net.n_socks >= net.max_wake:  # each waits there once at most, and the gone
        mask = 2 * (net.n_wake + net.n_socks) + 64
        wake = <uint64_t *>realloc(net.wake, mask * sizeof(uint64_t))
        if wake == NULL:
            return -1
        net.wake = wake
        net.max_wake = mask
    net.handles += 1
    tp.handle = net.handles
    at = <uint32_t>tp.handle & net.socks_mask
    tp.handle_next = net.socks[at]
    net.socks[at] = tp
    net.n_socks += 1
    return 0


cdef inline tcp_sock *sk_lookup(netns *net, uint64_t handle) noexcept nogil:
    """The socket with a handle, or NULL."""
    cdef tcp_sock *tp = net.socks[<uint32_t>handle & net.socks_mask]
    while tp != NULL and tp.handle != handle:
        tp = tp.handle_next
    return tp


cdef inline void sk_leave(netns *net, tcp_sock *tp) noexcept nogil:
    """Nobody may find it by its handle any more."""
    cdef tcp_sock **at = &net.socks[<uint32_t>tp.handle & net.socks_mask]
    while at[0] != tp:
        at = &at[0].handle_next
    at[0] = tp.handle_next
    net.n_socks -= 1


cdef inline int64_t sk_memory_allocated(const netns *net) noexcept nogil:
    """Truesize of all that sockets have queued, bytes."""
    cdef const tcp_sock *tp
    cdef int64_t total = 0
    cdef uint32_t i
    for i in range(net.socks_mask + 1):
        tp = net.socks[i]
        while tp != NULL:
            total += tp.sk_wmem_queued + tp.sk_rmem_alloc
            tp = tp.handle_next
    return total


cdef inline uint32_t get_random_u32(netns *net) noexcept nogil:
    """The next number of the engine's own series."""
    cdef uint8_t data[11]
    cdef int i
    net.rng += 1
    memcpy(data, b"rng", 3)
    for i in range(8):
        data[3 + i] = <uint8_t>(net.rng >> (8 * i))
    return <uint32_t>siphash(net.key, data, 11)


cdef inline uint32_t get_random_u32_below(netns *net, uint32_t n) noexcept nogil:
    return <uint32_t>(<uint64_t>get_random_u32(net) * n >> 32)


cdef inline void sk_reset_timer(netns *net, timer *one, int64_t expires_ns) noexcept nogil:
    timer_mod(&net.timers, one, expires_ns)


cdef inline void sk_stop_timer(timer *one) noexcept nogil:
    timer_del(one)


cdef inline void sk_wake(netns *net, tcp_sock *tp) noexcept nogil:
    """Tell whoever drives the engine that a socket may be ready for something."""
    if tp.handle and not tp.dead and not tp.woken and net.n_wake < net.max_wake:
        tp.woken = 1
        net.wake[net.n_wake] = tp.handle
        net.n_wake += 1


cdef inline tcp_md5sig_info *tcp_md5sig_info_add(netns *net, sock_common *sk) noexcept nogil:
    """The keys of a socket, or room for the first; NULL without memory."""
    cdef tcp_md5sig_info *infos = net.md5sigs
    cdef uint32_t number = sk.md5sig_info, room
    if number:
        return &infos[number]
    number = net.md5sig_spare
    if number:
        net.md5sig_spare = infos[number].spare
    else:
        if net.n_md5sigs + 1 >= net.max_md5sigs:
            room = 2 * net.max_md5sigs + 8
            infos = <tcp_md5sig_info *>realloc(net.md5sigs, room * sizeof(tcp_md5sig_info))
            if infos == NULL:
                return NULL
            net.md5sigs = infos
            net.max_md5sigs = room
        net.n_md5sigs += 1
        number = net.n_md5sigs
    memset(&infos[number], 0, sizeof(tcp_md5sig_info))
    sk.md5sig_info = number
    return &infos[number]


cdef inline void tcp_clear_md5_list(netns *net, sock_common *sk) noexcept nogil:
    """A socket's keys go with it."""
    cdef tcp_md5sig_info *info = &net.md5sigs[sk.md5sig_info]
    free(info.keys)
    info.keys = NULL
    info.spare = net.md5sig_spare
    net.md5sig_spare = sk.md5sig_info
    sk.md5sig_info = 0


cdef inline const tcp_md5sig_key *tcp_md5_lookup(
    const netns *net, const sock_common *sk
) noexcept nogil:
    """The key of a connection, or of what is left of it; NULL for none."""
    if unlikely(sk.md5sig_info != 0):
        return tcp_md5_do_lookup(&net.md5sigs[sk.md5sig_info], sk.daddr)
    return NULL


cdef inline int tcp_md5_key_copy(
    netns *net, sock_common *to, const tcp_md5sig_key *key
) noexcept nogil:
    """Let a child, or the rest of a connection, have the key for its peer alone; 0 or -ENOMEM."""
    cdef tcp_md5sig_info *info
    if key == NULL:
        return 0
    info = tcp_md5sig_info_add(net, to)
    if info == NULL:
        return -ENOMEM
    return tcp_md5_do_add(info, to.daddr, 128, key.flags, key.key, key.keylen)
