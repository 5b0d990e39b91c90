# Frames in batches through the stages, so that no stage waits for the memory of the next.
# Linux: net/core/dev.c (netif_receive_skb_list).  docs/architecture.md, "The path of a packet".

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from conntrack cimport *
from inet_hashtables cimport flow_words4, flow_words6, inet_home, inet_lookup_tag
from filter cimport filter
from ip_fragment cimport ip_frags_batch
from ip_input cimport ip_rcv, ip_rcv_plain
from ip_tunnel cimport TUNNEL_MIX, outer
from secure_seq cimport SIPHASH_LANES, siphash, siphash_lanes
from snmp cimport *
from tcp cimport *
from tcp_conntrack cimport BATCH, batch, fate, tcp_conntrack
from unaligned cimport held, prefetch, prefetchw

# What is summed up of the frames of one input, or of all.
cdef struct totals:
    int64_t packets
    int64_t bytes
    int64_t first_ns
    int64_t last_ns
    uint64_t clamped  # times that did not fit

# The capture times that are wanted, and how many frames were seen in all.
cdef struct window:
    int64_t from_ns
    int64_t to_ns
    uint64_t numbered


cdef inline void totals_clear(totals *t) noexcept nogil:
    t.packets = t.bytes = 0
    t.first_ns = INT64_MAX
    t.last_ns = INT64_MIN
    t.clamped = 0


cdef inline void totals_add(totals *t, const totals *more) noexcept nogil:
    t.packets += more.packets
    t.bytes += more.bytes
    t.first_ns = min(t.first_ns, more.first_ns)
    t.last_ns = max(t.last_ns, more.last_ns)
    t.clamped += more.clamped


cdef inline int batch_take(
    batch *b, int n, window *within, totals *input, totals *total
) noexcept nogil:
    """Number `n` frames, leave out those of other times, sum the rest up; how many are left."""
    cdef int64_t from_ns = within.from_ns, to_ns = within.to_ns, time_ns
    cdef uint64_t number = within.numbered
    cdef totals sums
    cdef int i, m = 0
    within.numbered += n
    for i in range(n):
        b.packets[i] = number + i + 1
    if from_ns != INT64_MIN or to_ns != INT64_MAX:
        for i in range(n):
            time_ns = b.frames[i].time_ns
            if time_ns < from_ns or (time_ns >= to_ns and to_ns != INT64_MAX):
                continue
            b.frames[m] = b.frames[i]
            b.packets[m] = b.packets[i]
            m += 1
        n = m
    totals_clear(&sums)
    sums.packets = n
    for i in range(n):
        time_ns = b.frames[i].time_ns
        sums.bytes += b.frames[i].wirelen
        sums.first_ns = min(sums.first_ns, time_ns)
        sums.last_ns = max(sums.last_ns, time_ns)
        sums.clamped += b.frames[i].clamped
    totals_add(input, &sums)
    totals_add(total, &sums)
    return n


cdef inline void no_segment(fate *out, segment *th) noexcept nogil:
    """What the columns say of a frame that is none."""
    out.conn = -1
    out.dir = -1
    out.verdict = 0
    out.window = 0
    out.analysed.classes = out.analysed.dup_ack_num = 0
    out.analysed.reason = 0
    th.seq = th.ack = 0
    th.flags = 0
    th.payload_len = 0


cdef inline void batch_clear(batch *b) noexcept nogil:
    """Let what is behind the last frame of a batch be no segments."""
    cdef int i
    for i in range(b.n, BATCH):
        b.segs[i].ip = 0


cdef inline void batch_parse(conntrack *ct, batch *b, const filter *wanted) noexcept nogil:
    """First stage: frames to segments and their hashes."""
    cdef uint64_t words4[2][SIPHASH_LANES]
    cdef uint64_t words6[5][SIPHASH_LANES]
    cdef uint64_t hashes[SIPHASH_LANES]
    cdef uint64_t mib[NR_MIBS]
    cdef segment *th
    cdef outer *around
    cdef int i, n4 = 0, n6 = 0
    cdef uint8_t drop
    b.wrapped = 0
    ip_frags_batch(&ct.net.frags)
    for i in range(b.n):
        th = <segment *>held(&b.segs[i])
        if wanted.length:
            memcpy(mib, ct.net.mib, sizeof(mib))
        drop = 0
        around = NULL
        if not ip_rcv_plain(&ct.net, &b.frames[i], th):
            around = &b.outers[i]
            drop = ip_rcv(&ct.net, &b.frames[i], th, around)
            if around.encap or around.vlan >= 0:
                b.wrapped |= <uint32_t>1 << i
        if wanted.length and not wanted.run(
            wanted, &b.frames[i], NULL if drop else th, around
        ):
            memcpy(ct.net.mib, mib, sizeof(mib))  # it leaves no trace
            drop = SOCKET_FILTER
        if drop:
            ct.drops[drop] += 1
            th.ip = 0
            b.fates[i].drop = drop
            if ct.want_fates:
                no_segment(&b.fates[i], th)
        elif th.ip == 4:
            flow_words4(th.acookie, th.ports, &words4[0][i])
            n4 += 1
        else:
            flow_words6(th.addrs, th.ports, &words6[0][i])
            n6 += 1
    batch_clear(b)
    ct.tcp_segments += n4 + n6
    ct.net.mib[TCP_INSEGS] += n4 + n6
    if n4:
        siphash_lanes(ct.key, words4, 2, b.hashes, b.n)
    if n6:
        siphash_lanes(ct.key, words6, 5, hashes, b.n)
        for i in range(b.n):
            if b.segs[i].ip == 6:
                b.hashes[i] = hashes[i]
    if ct.keyed:
        batch_key(ct, b)


cdef inline void batch_key(const conntrack *ct, batch *b) noexcept nogil:
    """Let what is part of the key besides the 4-tuple be part of the hash."""
    cdef uint64_t pair[2]
    cdef uint64_t context
    cdef int i
    for i in range(b.n):
        context = 0
        if b.wrapped >> i & 1:
            if ct.keyed & KEY_VLAN:
                context = b.outers[i].vlans
            if ct.keyed & KEY_TUNNEL:
                context = context * TUNNEL_MIX + b.outers[i].tunnel
        if ct.keyed & KEY_INTERFACE:
            context = context * TUNNEL_MIX + b.frames[i].interface
        b.contexts[i] = context
        if context:
            pair[0] = b.hashes[i]
            pair[1] = context
            b.hashes[i] = siphash(ct.key, pair, 16)


cdef inline void batch_sift(batch *b) noexcept nogil:
    """Close the gaps that frames leave which the filter did not want, once a batch is followed."""
    cdef uint32_t wrapped = b.wrapped
    cdef int i, m = 0
    b.wrapped = 0
    for i in range(b.n):
        if b.segs[i].ip == 0 and b.fates[i].drop == SOCKET_FILTER:
            continue
        if wrapped >> i & 1:
            b.outers[m] = b.outers[i]
            b.wrapped |= <uint32_t>1 << m
        b.frames[m] = b.frames[i]
        b.segs[m] = b.segs[i]
        b.packets[m] = b.packets[i]
        b.fates[m] = b.fates[i]
        m += 1
    b.n = m


cdef inline void batch_prefetch(conntrack *ct, batch *b, int i) noexcept nogil:
    """Third stage: the flow that a segment belongs to, by its tag, is sent for."""
    cdef uint32_t guess = inet_lookup_tag(&ct.table, b.hashes[i] >> 32)
    cdef uint8_t *an
    if guess == 0:
        b.flows[i] = NULL
        return
    guess -= 1
    b.guesses[i] = guess
    b.flows[i] = flow_at(ct, guess)
    prefetchw(b.flows[i])
    prefetchw(&b.flows[i].ends[1])
    if ct.analysis:
        an = <uint8_t *>analysis_at(ct, guess)
        prefetchw(an)
        prefetchw(an + 64)
        if b.segs[i].flags & (TCPHDR_SYN | TCPHDR_FIN):
            prefetchw(more_at(ct, guess))
            prefetchw(<uint8_t *>more_at(ct, guess) + 64)
    if b.segs[i].flags & TCPHDR_SYN:
        prefetchw(rest_at(ct, guess))


cdef inline int batch_receive(
    conntrack *ct, batch *now, batch *next, batch *last
) noexcept nogil:
    """Fourth stage for `now`, segment by segment; beside each, one of `next` in the third stage and
    one of `last` in the second, which sends for its bucket. So lines have a batch's time to come,
    and never more are under way than a core can wait for. -1 without memory."""
    cdef int i
    next.releases = ct.releases
    for i in range(BATCH):
        prefetch(&ct.table.buckets[inet_home(&ct.table, last.hashes[i] >> 32)])
        if next.segs[i].ip:
            batch_prefetch(ct, next, i)
        if now.segs[i].ip and tcp_conntrack(ct, now, i):
            return -1
    return 0
