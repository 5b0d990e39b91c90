# The life of followed connections: begun, queued, given up, expired, and what is kept of them.
# Linux: net/netfilter/nf_conntrack_core.c.  docs/replay.md has the rules.

from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from inet_hashtables cimport *
from ip_fragment cimport ip_frags_free
from net cimport net
from offload cimport offload
from slab cimport (
    SLAB_MASK,
    SLAB_SHIFT,
    slab,
    slab_alloc,
    slab_at,
    slab_free,
    slab_full,
    slab_give,
    slab_reach,
    slab_recycled,
    slab_reserve,
)
from synack cimport synacks
from tcp cimport *
from tcp_queue cimport *
from unaligned cimport fls64, ipv6_addr_set_v4mapped, prefetchw, swap_u16s, swap_u32s

cdef enum:
    NIL = 0xFFFFFFFF
    IDLE = 0  # the queue of every flow, by its last segment
    AGED = 1  # that of the half-open, by their first, or of the closed, by their last
    TOP_MAX = 64
    RTT_BUCKETS = 488

cdef enum:  # Rows
    ROWS_KEEP = 0
    ROWS_DRAIN = 1
    ROWS_DROP = 2

cdef struct queue:
    uint32_t head
    uint32_t tail

# What the summary keeps of connections whose rows are gone.
cdef struct departed:
    uint64_t states[TCP_MAX_STATES][TCP_MAX_STATES]
    uint64_t bad_checksum[2]
    uint64_t rtts[RTT_BUCKETS]  # connections by their initial RTT
    uint32_t n_top
    uint64_t top_bytes[TOP_MAX]  # descending, equal ones by conn
    flow_row top[TOP_MAX]

# Every live flow in its table and, where lives are bounded or rows leave, in its queues.
cdef struct conntrack:
    net net
    flow_table table
    uint64_t key[2]
    slab flows
    slab rests  # flow_rest, by the same index
    slab addrs  # flow_addrs, of IPv6
    slab links  # used when `linked`: else a flow's index is its number and none ever leaves
    slab ended  # flow_row, in order of closing
    slab analyses  # analysis, by the same index as flows, if it is wanted
    slab mores  # analysis_more, likewise
    slab ended_analyses  # those of `ended`
    slab ended_mores
    slab_recycled rares  # analysis_rare
    slab_recycled fars  # analysis_far
    bint analysis
    slab outers  # flow_outer, by the flow's index, of those that have one
    slab ended_outers  # and by the ended row's
    bint linked
    bint bounded
    bint strict
    bint auto  # strict, but for what offload explains
    int keyed  # Key
    int rows  # Rows
    uint64_t max_connections
    uint64_t expire_idle_ns
    uint64_t expire_closed_ns
    queue idle  # every live flow, by its last segment
    queue half_open  # by when they became so
    queue closed  # by their last segment
    uint32_t spare  # first flow that was released and not used again, chained by next[IDLE]
    uint64_t connections  # ever begun; the next one's number
    uint64_t live
    uint64_t evicted
    uint64_t expired
    uint64_t releases  # flows that left the table, for whatever reason
    bint want_fates  # somebody reads what became of each frame
    uint64_t drops[NR_DROPS]
    uint64_t tcp_segments
    uint64_t classes[NR_CLASSES]  # segments by what the analysis says of them
    uint64_t retrans_bytes
    departed *departed
    queue_pool queues  # where payload lies, if streams are wanted
    slab socks  # of each flow the index of its sock_queue, if they are
    offload *offload
    synacks synacks


cdef inline flow *flow_at(const conntrack *ct, uint32_t index) noexcept nogil:
    return <flow *>ct.flows.chunks[index >> SLAB_SHIFT] + (index & SLAB_MASK)


cdef inline flow_rest *rest_at(const conntrack *ct, uint32_t index) noexcept nogil:
    return <flow_rest *>ct.rests.chunks[index >> SLAB_SHIFT] + (index & SLAB_MASK)


cdef inline flow_link *link_at(const conntrack *ct, uint32_t index) noexcept nogil:
    return <flow_link *>ct.links.chunks[index >> SLAB_SHIFT] + (index & SLAB_MASK)


cdef inline analysis *analysis_at(const conntrack *ct, uint32_t index) noexcept nogil:
    """The analysis of a flow, which never lies as its flow does in a page: a load that a store to
    such a place is under way for would wait for it."""
    return <analysis *>ct.analyses.chunks[index >> SLAB_SHIFT] + ((index & SLAB_MASK) ^ 1)


cdef inline analysis_more *more_at(const conntrack *ct, uint32_t index) noexcept nogil:
    return <analysis_more *>ct.mores.chunks[index >> SLAB_SHIFT] + (index & SLAB_MASK)


cdef inline void analysis_free(conntrack *ct, const analysis_more *more) noexcept nogil:
    """Let another connection have the counts of one that is gone."""
    cdef int side
    cdef uint32_t far
    for side in range(2):
        if more.rare[side]:
            far = (<analysis_rare *>slab_at(&ct.rares.pool, more.rare[side] - 1)).far
            if far:
                slab_give(&ct.fars, far)
            slab_give(&ct.rares, more.rare[side])


cdef inline void conntrack_drain(conntrack *ct) noexcept nogil:
    """Forget the rows of ended connections, which were handed out."""
    cdef uint32_t i
    for i in range(ct.ended_mores.used):
        analysis_free(ct, <analysis_more *>slab_at(&ct.ended_mores, i))
    ct.ended.used = ct.ended_analyses.used = ct.ended_mores.used = 0


cdef inline flow_addrs *addrs_of(
    const conntrack *ct, const flow *fl, uint32_t index
) noexcept nogil:
    """The addresses of an IPv6 flow; NULL for IPv4, whose flow holds them."""
    if fl.ip == 4:
        return NULL
    return <flow_addrs *>slab_at(&ct.addrs, rest_at(ct, index).addrs)


cdef inline const flow_outer *outer_of(
    const conntrack *ct, const flow *fl, uint32_t index
) noexcept nogil:
    """What was around a flow's first segment; NULL for nothing."""
    if not fl.wrapped:
        return NULL
    return <const flow_outer *>slab_at(&ct.outers, index)


cdef inline uint64_t flow_context(
    const conntrack *ct, const flow *fl, uint32_t index
) noexcept nogil:
    """What is part of a flow's key besides its 4-tuple."""
    cdef const flow_outer *around = outer_of(ct, fl, index)
    return 0 if around == NULL else around.context


cdef inline void conntrack_row(const conntrack *ct, uint32_t index, flow_row *row) noexcept nogil:
    """Copy what is known of a live flow."""
    cdef flow *fl = flow_at(ct, index)
    row.flow = fl[0]
    row.rest = rest_at(ct, index)[0]
    row.conn = link_at(ct, index).conn if ct.linked else index
    if fl.ip == 4:
        flow_addrs_v4(fl, &row.addrs)
    else:
        row.addrs = addrs_of(ct, fl, index)[0]


cdef inline void flow_addrs_v4(const flow *fl, flow_addrs *addrs) noexcept nogil:
    """IPv4's addresses as ::ffff:a.b.c.d."""
    ipv6_addr_set_v4mapped(addrs.a, &fl.a_addr)
    ipv6_addr_set_v4mapped(addrs.b, &fl.b_addr)


cdef inline void queue_push(conntrack *ct, queue *q, int which, uint32_t index) noexcept nogil:
    cdef flow_link *link = link_at(ct, index)
    link.prev[which] = q.tail
    link.next[which] = NIL
    if q.tail == <uint32_t>NIL:
        q.head = index
    else:
        link_at(ct, q.tail).next[which] = index
    q.tail = index


cdef inline void queue_take(conntrack *ct, queue *q, int which, uint32_t index) noexcept nogil:
    cdef flow_link *link = link_at(ct, index)
    if link.prev[which] == <uint32_t>NIL:
        q.head = link.next[which]
    else:
        link_at(ct, link.prev[which]).next[which] = link.next[which]
    if link.next[which] == <uint32_t>NIL:
        q.tail = link.prev[which]
    else:
        link_at(ct, link.next[which]).prev[which] = link.prev[which]


cdef inline uint64_t flow_frame_bytes(const flow *fl, const flow_rest *rest) noexcept nogil:
    return (
        <uint64_t>fl.ends[0].frame_bytes
        + fl.ends[1].frame_bytes
        + (<uint64_t>rest.frame_bytes_hi[0] << 32)
        + (<uint64_t>rest.frame_bytes_hi[1] << 32)
    )


cdef inline uint32_t rtt_bucket(uint64_t ns) noexcept nogil:
    """Where a time counts: up to 15 ns alone, then in eight parts of each power of two."""
    cdef uint32_t shift = 0 if ns < 16 else fls64(ns) - 4
    return shift * 8 + <uint32_t>(ns >> shift)


cdef inline void conntrack_classes(
    conntrack *ct, uint32_t classes, uint32_t payload_len
) noexcept nogil:
    """Count the classes of a segment that has some, for the summary."""
    cdef int i
    for i in range(NR_CLASSES):
        ct.classes[i] += classes >> i & 1
    if classes & TCP_A_RETRANSMISSION:
        ct.retrans_bytes += payload_len


cdef inline int depart(departed *gone, const flow *fl, const flow_rest *rest, uint64_t conn) noexcept nogil:
    """Fold a connection into the summary; its place among the busiest, where a row is to be put,
    or -1."""
    cdef uint64_t total = flow_frame_bytes(fl, rest)
    cdef uint32_t at = gone.n_top
    gone.states[fl.ends[0].tcb.state][fl.ends[1].tcb.state] += 1
    gone.bad_checksum[0] += rest.bad_checksum[0]
    gone.bad_checksum[1] += rest.bad_checksum[1]
    if fl.bits & FLOW_RTT and rest.rtt_ns >= 0:
        gone.rtts[rtt_bucket(<uint64_t>rest.rtt_ns)] += 1
    if at == TOP_MAX:
        if total < gone.top_bytes[TOP_MAX - 1] or (
            total == gone.top_bytes[TOP_MAX - 1] and conn > gone.top[TOP_MAX - 1].conn
        ):
            return -1
        at -= 1
    else:
        gone.n_top += 1
    while at and (
        gone.top_bytes[at - 1] < total
        or (gone.top_bytes[at - 1] == total and gone.top[at - 1].conn > conn)
    ):
        gone.top_bytes[at] = gone.top_bytes[at - 1]
        gone.top[at] = gone.top[at - 1]
        at -= 1
    gone.top_bytes[at] = total
    return at


cdef inline void conntrack_depart(
    const conntrack *ct, departed *gone, uint32_t index
) noexcept nogil:
    """Fold a live flow into the summary."""
    cdef int at = depart(
        gone,
        flow_at(ct, index),
        rest_at(ct, index),
        link_at(ct, index).conn if ct.linked else index,
    )
    if at >= 0:
        conntrack_row(ct, index, &gone.top[at])


cdef inline uint32_t *sock_of(const conntrack *ct, uint32_t index) noexcept nogil:
    return <uint32_t *>slab_at(&ct.socks, index)


cdef inline sock_queue *conntrack_sock(const conntrack *ct, uint32_t index) noexcept nogil:
    """The records of a live flow; NULL if it has none, or if they were given up."""
    cdef uint32_t at = sock_of(ct, index)[0]
    cdef sock_queue *sk
    if at == <uint32_t>QUEUE_NONE:
        return NULL
    sk = sock_at(&ct.queues, at)
    if sk.given_up or sk.conn != (link_at(ct, index).conn if ct.linked else index):
        return NULL
    return sk


cdef inline void conntrack_close(conntrack *ct, uint32_t index) noexcept nogil:
    """A flow has closed: its records are among the first to be given up."""
    if conntrack_sock(ct, index) != NULL:
        sk_close(&ct.queues, sock_of(ct, index)[0])


cdef inline void conntrack_unlink(conntrack *ct, uint32_t index) noexcept nogil:
    """A flow is followed no more; what is known of acknowledgments stays with its records."""
    cdef sock_queue *sk = conntrack_sock(ct, index)
    cdef int side
    if sk == NULL:
        return
    for side in range(2):
        sk.sides[side].una = flow_at(ct, index).ends[side].tcb.snd_una
    sk.live = 0
    sk_close(&ct.queues, sock_of(ct, index)[0])


cdef inline uint32_t conntrack_una(
    const conntrack *ct, const sock_queue *sk, int side
) noexcept nogil:
    """What the peer has acknowledged of a direction."""
    return flow_at(ct, sk.flow).ends[side].tcb.snd_una if sk.live else sk.sides[side].una


cdef inline int conntrack_reserve_ended(conntrack *ct, const flow *fl) noexcept nogil:
    """Give out an ended row for a flow, and room for what goes with it; -1 without memory."""
    if fl.wrapped and slab_reach(&ct.ended_outers, ct.ended.used):
        return -1
    if ct.analysis and (slab_reserve(&ct.ended_analyses) or slab_reserve(&ct.ended_mores)):
        return -1
    return slab_alloc(&ct.ended)


cdef inline int conntrack_release(conntrack *ct, uint32_t index, uint32_t tag) noexcept nogil:
    """Follow a flow no more; its row waits among the ended. -1 without memory."""
    cdef flow *fl = flow_at(ct, index)
    cdef flow_outer *around
    cdef analysis *an
    cdef analysis_more *more
    cdef bint kept = ct.linked and ct.rows != ROWS_DROP
    if kept and conntrack_reserve_ended(ct, fl):  # what may fail comes first
        return -1
    inet_unhash(&ct.table, tag, index)
    ct.live -= 1
    ct.releases += 1
    if ct.queues.on:
        conntrack_unlink(ct, index)
    if not ct.linked:
        return 0
    queue_take(ct, &ct.idle, IDLE, index)
    if fl.bits & FLOW_HALF_OPEN:
        queue_take(ct, &ct.half_open, AGED, index)
    elif fl.bits & FLOW_CLOSED:
        queue_take(ct, &ct.closed, AGED, index)
    if ct.rows != ROWS_KEEP:
        conntrack_depart(ct, ct.departed, index)
    if kept:
        conntrack_row(ct, index, <flow_row *>slab_at(&ct.ended, ct.ended.used - 1))
        if fl.wrapped:
            around = <flow_outer *>slab_at(&ct.ended_outers, ct.ended.used - 1)
            around[0] = outer_of(ct, fl, index)[0]
        if ct.analysis:
            an = <analysis *>slab_at(&ct.ended_analyses, ct.ended_analyses.used)
            an[0] = analysis_at(ct, index)[0]
            more = <analysis_more *>slab_at(&ct.ended_mores, ct.ended_mores.used)
            more[0] = more_at(ct, index)[0]
            ct.ended_analyses.used += 1
            ct.ended_mores.used += 1
    elif ct.analysis:
        analysis_free(ct, more_at(ct, index))
    link_at(ct, index).next[IDLE] = ct.spare
    ct.spare = index
    return 0


cdef inline int queue_expire(conntrack *ct, const queue *q, uint64_t limit_ns) noexcept nogil:
    """Release the flows of a queue that were silent for longer than `limit_ns`, the longest first;
    0 is no limit. -1 without memory."""
    cdef const flow_link *link
    while limit_ns and q.head != <uint32_t>NIL:
        link = link_at(ct, q.head)
        if <uint64_t>ct.net.now_ns - <uint64_t>link.stamp_ns <= limit_ns:
            break
        if conntrack_release(ct, q.head, link.tag):
            return -1
        ct.expired += 1
    return 0


cdef inline int conntrack_expire(conntrack *ct) noexcept nogil:
    """Release what has been silent for too long by the capture's own clock. -1 without memory."""
    if queue_expire(ct, &ct.closed, ct.expire_closed_ns):
        return -1
    return queue_expire(ct, &ct.idle, ct.expire_idle_ns)


cdef inline uint32_t conntrack_victim(const conntrack *ct) noexcept nogil:
    """Who makes room: the oldest half-open connection goes first, then the longest idle."""
    return ct.half_open.head if ct.half_open.head != <uint32_t>NIL else ct.idle.head


cdef inline int conntrack_evict(conntrack *ct) noexcept nogil:
    """Make room for one more; the lines of the next to go are sent for."""
    cdef uint32_t index = conntrack_victim(ct)
    cdef flow_link *link
    if conntrack_release(ct, index, link_at(ct, index).tag):
        return -1
    ct.evicted += 1
    index = conntrack_victim(ct)
    if index != <uint32_t>NIL:
        link = link_at(ct, index)
        prefetchw(flow_at(ct, index))
        prefetchw(&flow_at(ct, index).ends[1])
        prefetchw(rest_at(ct, index))
        prefetchw(&ct.table.buckets[inet_home(&ct.table, link.tag)])
        if link.next[AGED] != <uint32_t>NIL:
            prefetchw(link_at(ct, link.next[AGED]))
    return 0


cdef inline bint is_half_open(uint8_t state) noexcept nogil:
    return state == TCP_SYN_SENT or state == TCP_SYN_RECV or state == TCP_LISTEN


cdef inline bint is_closed(uint8_t state) noexcept nogil:
    return state == TCP_CLOSE or state == TCP_TIME_WAIT


cdef inline void conntrack_requeue(conntrack *ct, flow *fl, uint32_t index) noexcept nogil:
    """Put a flow where its state and its latest segment belong in the queues."""
    cdef uint8_t a = fl.ends[0].tcb.state, b = fl.ends[1].tcb.state
    link_at(ct, index).stamp_ns = ct.net.now_ns
    if ct.idle.tail != index:
        queue_take(ct, &ct.idle, IDLE, index)
        queue_push(ct, &ct.idle, IDLE, index)
    if is_half_open(a) or is_half_open(b):
        if fl.bits & FLOW_HALF_OPEN:
            return
        if fl.bits & FLOW_CLOSED:
            queue_take(ct, &ct.closed, AGED, index)
        fl.bits = (fl.bits & ~FLOW_CLOSED) | FLOW_HALF_OPEN
        queue_push(ct, &ct.half_open, AGED, index)
        return
    if fl.bits & FLOW_HALF_OPEN:
        queue_take(ct, &ct.half_open, AGED, index)
    elif fl.bits & FLOW_CLOSED:
        queue_take(ct, &ct.closed, AGED, index)
    fl.bits &= ~(FLOW_HALF_OPEN | FLOW_CLOSED)
    if is_closed(a) and is_closed(b):
        fl.bits |= FLOW_CLOSED
        queue_push(ct, &ct.closed, AGED, index)


cdef inline int conntrack_reserve(conntrack *ct, uint8_t ip) noexcept nogil:
    """See to it that there is room for one more flow everywhere, before anything is changed: so
    without memory (-1) no flow is there by half."""
    cdef bint fresh = ct.spare == <uint32_t>NIL
    if fresh and slab_full(&ct.flows):  # the others go in step, so it comes last
        if ct.linked and slab_reserve(&ct.links):
            return -1
        if ct.queues.on and slab_reserve(&ct.socks):
            return -1
        if ct.analysis and (slab_reserve(&ct.analyses) or slab_reserve(&ct.mores)):
            return -1
        if slab_reserve(&ct.rests) or slab_reserve(&ct.flows):
            return -1
    if ip == 6 and (fresh or not rest_at(ct, ct.spare).has_addrs) and slab_reserve(&ct.addrs):
        return -1
    return inet_reserve(&ct.table)


cdef inline int64_t conntrack_new(
    conntrack *ct,
    const segment *th,
    uint32_t tag,
    int64_t time_ns,
    uint64_t packet,
    bint wrapped,
) noexcept nogil:
    """A connection begins; who is `a` is decided here for good. Its index, -1 without memory."""
    cdef uint32_t index
    cdef flow *fl
    cdef flow_rest *rest
    cdef uint32_t addrs_at = 0
    cdef uint8_t has_addrs = 0
    cdef flow_addrs *addrs
    cdef bint reply = tcp_is_synack(th)
    cdef uint64_t acookie = swap_u32s(th.acookie) if reply else th.acookie
    cdef uint32_t ports = swap_u16s(th.ports) if reply else th.ports
    if ct.max_connections and ct.live >= ct.max_connections and conntrack_evict(ct):
        return -1
    if conntrack_reserve(ct, th.ip):
        return -1
    index = ct.spare
    if wrapped and slab_reach(
        &ct.outers, index if index != <uint32_t>NIL else ct.flows.used
    ):
        return -1
    if index != <uint32_t>NIL:
        ct.spare = link_at(ct, index).next[IDLE]
        addrs_at = rest_at(ct, index).addrs
        has_addrs = rest_at(ct, index).has_addrs
    else:
        index = ct.flows.used
        ct.flows.used += 1
        ct.rests.used += 1
        ct.links.used += ct.linked
        ct.socks.used += ct.queues.on
        ct.analyses.used += ct.analysis
        ct.mores.used += ct.analysis
    inet_hash(&ct.table, tag, index)
    fl = flow_at(ct, index)
    rest = rest_at(ct, index)
    memset(fl, 0, sizeof(flow))
    memset(rest, 0, sizeof(flow_rest))
    if th.ip == 6 and not has_addrs:
        addrs_at = ct.addrs.used
        has_addrs = 1
        ct.addrs.used += 1
    rest.addrs = addrs_at
    rest.has_addrs = has_addrs
    if th.ip == 6:
        addrs = <flow_addrs *>slab_at(&ct.addrs, rest.addrs)
        memcpy(addrs.a, th.addrs + 16 if reply else th.addrs, 16)
        memcpy(addrs.b, th.addrs if reply else th.addrs + 16, 16)
    memcpy(&fl.a_addr, &acookie, 8)
    memcpy(&fl.a_port, &ports, 4)
    fl.wrapped = wrapped
    fl.ip = th.ip
    fl.last_ns = time_ns
    fl.ends[0].tcb.state = TCP_CLOSE
    fl.ends[1].tcb.state = TCP_CLOSE
    rest.first_ns = time_ns
    rest.first_packet = packet
    if ct.queues.on:
        sock_of(ct, index)[0] = QUEUE_NONE
    if ct.linked:
        link_at(ct, index).conn = ct.connections
        link_at(ct, index).tag = tag
        queue_push(ct, &ct.idle, IDLE, index)
    ct.connections += 1
    ct.live += 1
    return index


cdef inline int conntrack_init(conntrack *ct) noexcept nogil:
    """Begin with nothing but options and key set; -1 without memory."""
    ct.net.now_ns = ct.net.frags.now_ns = INT64_MIN
    ct.net.frags.key[0] = ct.key[0]
    ct.net.frags.key[1] = ct.key[1]
    ct.flows.size = sizeof(flow)
    ct.rests.size = sizeof(flow_rest)
    ct.addrs.size = sizeof(flow_addrs)
    ct.links.size = sizeof(flow_link)
    ct.ended.size = sizeof(flow_row)
    ct.socks.size = sizeof(uint32_t)
    ct.analyses.size = ct.ended_analyses.size = sizeof(analysis)
    ct.mores.size = ct.ended_mores.size = sizeof(analysis_more)
    ct.rares.pool.size = sizeof(analysis_rare)
    ct.fars.pool.size = sizeof(analysis_far)
    ct.outers.size = ct.ended_outers.size = sizeof(flow_outer)
    ct.idle.head = ct.idle.tail = NIL
    ct.half_open.head = ct.half_open.tail = NIL
    ct.closed.head = ct.closed.tail = NIL
    ct.spare = NIL
    return inet_table_init(&ct.table)


cdef inline void conntrack_free(conntrack *ct) noexcept nogil:
    inet_table_free(&ct.table)
    ip_frags_free(&ct.net.frags)
    slab_free(&ct.flows)
    slab_free(&ct.rests)
    slab_free(&ct.addrs)
    slab_free(&ct.links)
    slab_free(&ct.ended)
    slab_free(&ct.socks)
    queue_exit(&ct.queues)
    slab_free(&ct.analyses)
    slab_free(&ct.mores)
    slab_free(&ct.ended_analyses)
    slab_free(&ct.ended_mores)
    slab_free(&ct.rares.pool)
    slab_free(&ct.fars.pool)
    slab_free(&ct.outers)
    slab_free(&ct.ended_outers)
