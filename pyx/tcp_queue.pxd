# Where the payload of followed connections lies: a record a segment, a list of them a direction.
# Linux: net/ipv4/tcp_input.c (tcp_data_queue_ofo).  RFC 9293 3.4; docs/streams.md has the rules.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memset
from slab cimport slab, slab_alloc, slab_at, slab_free
from tcp cimport *

cdef enum:
    QUEUE_NONE = 0xFFFFFFFF
    QUEUE_EPOCH = 4  # times 2**32, which numbers begin above, so that none is below 0
    QUEUE_LOWEST = 1 << 30  # no window is wider: nothing so far below is of this stream
    QUEUE_FEW = 6  # bits of a number of records that may be looked at any time
    SKB_SIZE = 32  # bytes of a record, and of a connection's two lists, as the budget counts them
    SOCK_SIZE = 160
    SKB_DOUBTFUL = 1 << 31  # beside `file`: state refused it, so it counts if it was acknowledged
    SKB_OVERWINDOW = 1 << 30  # besides: or if nothing is missing before it
    SKB_URGENT = 1 << 29  # no payload: an urgent pointer says that the byte at `seq` is

cdef enum:  # Which
    QUEUE_OPEN = 0  # by their first record
    QUEUE_CLOSED = 1  # in order of closing

# One segment's payload. Its number's low half is the sequence number.
cdef struct skb:
    int64_t seq  # of its first byte, unwrapped
    int64_t place  # of its first byte in the (decompressed) input
    uint32_t caplen  # bytes captured
    uint32_t length  # bytes sent
    uint32_t prev  # the record before it
    uint32_t file  # number of the input; SKB_DOUBTFUL, SKB_OVERWINDOW, SKB_URGENT

# One direction's records, in the order of capture.
cdef struct skb_queue:
    int64_t base  # number of the stream's first byte
    int64_t last  # where the last segment in it ended: numbers are unwrapped by it
    int64_t top  # the highest end
    int64_t fin  # number of the FIN, -1 while there is none
    int64_t handed  # offset of `base` in the stream: what was handed out is forgotten
    uint32_t head
    uint32_t tail
    uint32_t records
    uint32_t una  # what the peer had acknowledged, once the flow is gone
    uint8_t begun
    uint8_t syn  # base is the number after a SYN
    uint8_t tangled  # a segment begins below the highest end
    uint8_t broken  # the records are not one behind the other from `base` on, whole, and taken
    uint8_t tried  # bits that `records` has to have before it is looked again what is ready
    uint8_t urgent  # there are records of urgent bytes

# Both directions of one connection.
cdef struct sock_queue:
    skb_queue sides[2]
    uint64_t conn
    uint32_t prev
    uint32_t next
    uint32_t flow  # while it is `live`
    uint32_t touched  # its place in the list of those, from 1 on
    uint8_t which  # Which
    uint8_t given_up
    uint8_t live

# Where those of a connection are.
cdef struct sock_place:
    uint64_t conn
    uint32_t sock
    uint32_t pad

# All of them, under one budget.
cdef struct queue_pool:
    bint on
    uint32_t file  # number of the input at hand
    slab skbs
    slab socks
    uint32_t spare_skb  # chained by prev
    uint32_t spare_sock
    uint32_t heads[2]  # of the lists, by Which
    uint32_t tails[2]
    uint64_t live_skbs
    uint64_t live_socks
    uint64_t budget  # bytes of records and connections
    uint64_t given_up  # connections whose records were given up
    uint64_t given_up_bytes  # their payload
    sock_place *index  # every one by its connection, once somebody asks; NULL after changes
    bint handing  # bytes are handed out as they come
    uint32_t *touched  # then: those with new records
    uint64_t n_touched
    uint64_t max_touched


cdef inline skb *skb_at(const queue_pool *pool, uint32_t index) noexcept nogil:
    return <skb *>slab_at(&pool.skbs, index)


cdef inline sock_queue *sock_at(const queue_pool *pool, uint32_t index) noexcept nogil:
    return <sock_queue *>slab_at(&pool.socks, index)


cdef inline void queue_init(queue_pool *pool, uint64_t budget) noexcept nogil:
    pool.skbs.size = sizeof(skb)
    pool.socks.size = sizeof(sock_queue)
    pool.spare_skb = pool.spare_sock = QUEUE_NONE
    pool.heads[0] = pool.heads[1] = pool.tails[0] = pool.tails[1] = QUEUE_NONE
    pool.budget = budget
    pool.on = budget != 0


cdef inline void queue_exit(queue_pool *pool) noexcept nogil:
    slab_free(&pool.skbs)
    slab_free(&pool.socks)
    free(pool.index)
    free(pool.touched)


cdef inline void sock_push(queue_pool *pool, uint32_t index, uint8_t which) noexcept nogil:
    cdef sock_queue *sk = sock_at(pool, index)
    sk.which = which
    sk.prev = pool.tails[which]
    sk.next = QUEUE_NONE
    if sk.prev == <uint32_t>QUEUE_NONE:
        pool.heads[which] = index
    else:
        sock_at(pool, sk.prev).next = index
    pool.tails[which] = index


cdef inline void sock_take(queue_pool *pool, uint32_t index) noexcept nogil:
    cdef sock_queue *sk = sock_at(pool, index)
    if sk.prev == <uint32_t>QUEUE_NONE:
        pool.heads[sk.which] = sk.next
    else:
        sock_at(pool, sk.prev).next = sk.next
    if sk.next == <uint32_t>QUEUE_NONE:
        pool.tails[sk.which] = sk.prev
    else:
        sock_at(pool, sk.next).prev = sk.prev


cdef inline void sk_close(queue_pool *pool, uint32_t index) noexcept nogil:
    """A connection has closed: from now on it is among the first to be given up."""
    if index == <uint32_t>QUEUE_NONE or sock_at(pool, index).which == QUEUE_CLOSED:
        return
    sock_take(pool, index)
    sock_push(pool, index, QUEUE_CLOSED)


cdef inline bint sk_rmem_full(const queue_pool *pool, uint32_t records) noexcept nogil:
    """True if so many records and one connection more would be above the budget."""
    return (pool.live_skbs + records) * SKB_SIZE + (pool.live_socks + 1) * SOCK_SIZE > pool.budget


cdef inline void sk_prune(queue_pool *pool) noexcept nogil:
    """Give up the records of a connection: the one that closed first, else that began first."""
    cdef uint32_t index = pool.heads[QUEUE_CLOSED]
    cdef sock_queue *sk
    cdef skb_queue *q
    cdef uint32_t at
    cdef int side
    if index == <uint32_t>QUEUE_NONE:
        index = pool.heads[QUEUE_OPEN]
    if index == <uint32_t>QUEUE_NONE:
        return
    sk = sock_at(pool, index)
    sock_take(pool, index)
    for side in range(2):
        q = &sk.sides[side]
        at = q.tail
        while at != <uint32_t>QUEUE_NONE:
            pool.given_up_bytes += skb_at(pool, at).caplen
            at = skb_at(pool, at).prev
        if q.head != <uint32_t>QUEUE_NONE:
            skb_at(pool, q.head).prev = pool.spare_skb
            pool.spare_skb = q.tail
            pool.live_skbs -= q.records
    free(pool.index)
    pool.index = NULL
    sk.given_up = 1  # its flow may still name it
    sk.next = pool.spare_sock
    pool.spare_sock = index
    pool.live_socks -= 1
    if (
        not pool.handing
        or sk.which == QUEUE_OPEN
        or sk.sides[0].records + sk.sides[1].records
    ):  # of a closed one that was handed out nothing is lost
        pool.given_up += 1


cdef inline int64_t sk_alloc(queue_pool *pool, uint64_t conn, uint32_t flow) noexcept nogil:
    """Room for the records of one more connection: its index, -1 without memory."""
    cdef uint32_t index = pool.spare_sock
    cdef sock_queue *sk
    if index != <uint32_t>QUEUE_NONE:
        pool.spare_sock = sock_at(pool, index).next
    else:
        if slab_alloc(&pool.socks):
            return -1
        index = pool.socks.used - 1
    free(pool.index)
    pool.index = NULL
    sk = sock_at(pool, index)
    memset(sk, 0, sizeof(sock_queue))
    sk.conn = conn
    sk.flow = flow
    sk.live = 1
    sk.sides[0].head = sk.sides[0].tail = QUEUE_NONE
    sk.sides[1].head = sk.sides[1].tail = QUEUE_NONE
    sk.sides[0].fin = sk.sides[1].fin = -1
    pool.live_socks += 1
    sock_push(pool, index, QUEUE_OPEN)
    return index


cdef inline int64_t seq_unwrap(int64_t near, uint32_t seq) noexcept nogil:
    """The number that `seq` is the low half of, within 2**31 of `near`."""
    return near + <int32_t>(seq - <uint32_t>near)


cdef inline void queue_begin(skb_queue *q, uint32_t isn, bint syn) noexcept nogil:
    """A direction has its first record; its first byte's number is one above `isn`."""
    q.begun = 1
    q.syn = syn
    q.base = q.last = q.top = (<int64_t>QUEUE_EPOCH << 32) + <uint32_t>(isn + 1)


cdef inline int64_t tcp_data_queue(
    skb_queue *q, const segment *th, uint32_t verdict, bint doubtful, uint32_t una
) noexcept nogil:
    """Take note of a segment, `doubtful` if state refused it, `una` what its peer has acknowledged:
    the number of its payload's first byte, -1 if nothing of it has to be recorded."""
    cdef int64_t seq
    cdef bint old = doubtful or verdict & TCB_OLD
    q.last = max(q.last, seq_unwrap(q.last, una))
    seq = seq_unwrap(q.last, th.seq + ((th.flags & TCPHDR_SYN) != 0))
    if th.flags & TCPHDR_SYN and not q.syn and not old and not q.handed:
        q.base = seq
        q.syn = 1
        q.broken = q.records != 0
    if seq < q.base and not q.handed and not doubtful and not (q.syn and verdict & (TCB_OLD | TCB_PARTIAL)):
        if q.base - seq > QUEUE_LOWEST:
            return -1
        q.base = seq  # captured late, or not what the SYN had promised
        q.syn = 0
        q.broken = q.records != 0
    if th.flags & TCPHDR_FIN and not old and (q.fin < 0 or seq + th.payload_len < q.fin):
        q.fin = seq + th.payload_len
    if th.payload_len == 0:
        return -1
    if not old:
        q.last = seq + th.payload_len
    if q.handed and seq + th.payload_len <= q.base:
        return -1
    return seq


cdef inline int skb_queue_tail(
    queue_pool *pool,
    skb_queue *q,
    int64_t seq,
    uint32_t length,
    int64_t place,
    uint32_t caplen,
    uint32_t file,
) noexcept nogil:
    """Append a record; -1 without memory."""
    cdef uint32_t index = pool.spare_skb
    cdef skb *made
    if index != <uint32_t>QUEUE_NONE:
        pool.spare_skb = skb_at(pool, index).prev
    else:
        if slab_alloc(&pool.skbs):
            return -1
        index = pool.skbs.used - 1
    made = skb_at(pool, index)
    made.seq = seq
    made.place = place
    made.caplen = caplen
    made.length = length
    made.prev = q.tail  # backwards, since the record before is no longer in the cache
    made.file = file
    if q.tail == <uint32_t>QUEUE_NONE:
        q.head = index
    q.tail = index
    if (
        seq != q.top
        or (q.records == 0 and seq != q.base)
        or caplen != length
        or file & SKB_DOUBTFUL
    ):
        q.broken = 1
    q.records += 1
    pool.live_skbs += 1
    q.tangled |= seq < q.top
    q.top = max(q.top, seq + length)
    return 0


cdef inline int sk_touch(queue_pool *pool, uint32_t index) noexcept nogil:
    """A connection has a new record, which may be ready to be handed out; -1 without memory."""
    cdef uint32_t *more
    if sock_at(pool, index).touched:
        return 0
    if pool.n_touched == pool.max_touched:
        more = <uint32_t *>realloc(pool.touched, (pool.max_touched * 2 + 64) * sizeof(uint32_t))
        if more == NULL:
            return -1
        pool.touched = more
        pool.max_touched = pool.max_touched * 2 + 64
    pool.touched[pool.n_touched] = index
    pool.n_touched += 1
    sock_at(pool, index).touched = <uint32_t>pool.n_touched
    return 0


cdef inline bint queue_in_order(const skb_queue *q) noexcept nogil:
    """True if the records are one behind the other, and nothing lies behind a FIN."""
    return not q.broken and (q.fin < 0 or q.top <= q.fin)


cdef inline bint queue_ready(const skb_queue *q) noexcept nogil:
    """True if something may be in order by now, and it is worth while to look."""
    if queue_in_order(q):
        return q.records != 0
    return q.records >> q.tried != 0


cdef inline void skb_queue_purge(queue_pool *pool, skb_queue *q) noexcept nogil:
    """Forget the records, which were in order and handed out."""
    if q.head != <uint32_t>QUEUE_NONE:
        skb_at(pool, q.head).prev = pool.spare_skb
        pool.spare_skb = q.tail
        pool.live_skbs -= q.records
    q.head = q.tail = QUEUE_NONE
    q.handed += q.top - q.base
    q.base = q.top
    q.records = 0


cdef inline void skb_queue_trim(
    queue_pool *pool, skb_queue *q, int64_t seq, int64_t length
) noexcept nogil:
    """Forget what lies before `seq`, of which `length` bytes were handed out."""
    cdef uint32_t at = q.tail, later = QUEUE_NONE, before
    cdef skb *one
    q.head = q.tail = QUEUE_NONE
    while at != <uint32_t>QUEUE_NONE:
        one = skb_at(pool, at)
        before = one.prev
        if one.seq + one.length <= seq:
            one.prev = pool.spare_skb
            pool.spare_skb = at
            pool.live_skbs -= 1
            q.records -= 1
        else:
            if later == <uint32_t>QUEUE_NONE:
                q.tail = at
            else:
                skb_at(pool, later).prev = at
            one.prev = QUEUE_NONE
            q.head = later = at
        at = before
    q.base = seq
    q.handed += length
    q.tried = 0
    q.broken = q.records != 0
    q.tangled &= q.broken
    if q.records >> QUEUE_FEW:
        while q.records >> q.tried:  # not again before there are twice as many
            q.tried += 1


cdef inline int tcp_check_urg(
    queue_pool *pool, skb_queue *q, const segment *th, uint32_t bits
) noexcept nogil:
    """Record which byte a segment calls urgent; -1 without memory. `bits` go beside `file`."""
    cdef uint32_t seq = th.seq + ((th.flags & TCPHDR_SYN) != 0) + th.urgent - 1
    cdef int64_t top = q.top
    cdef uint8_t tangled = q.tangled
    if skb_queue_tail(pool, q, seq_unwrap(q.last, seq), 0, 0, 0, bits | SKB_URGENT):
        return -1
    q.urgent = 1
    q.top = top  # it is no payload, which later segments could lie below
    q.tangled = tangled
    return 0


cdef inline int by_place(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const sock_place *>a).conn, y = (<const sock_place *>b).conn
    return (x > y) - (x < y)


cdef inline int sk_index(queue_pool *pool) noexcept nogil:
    """See to it that there is an index; -1 without memory."""
    cdef uint64_t n = 0
    cdef uint32_t which, at
    if pool.index != NULL:
        return 0
    pool.index = <sock_place *>malloc((pool.live_socks + 1) * sizeof(sock_place))
    if pool.index == NULL:
        return -1
    for which in range(2):
        at = pool.heads[which]
        while at != <uint32_t>QUEUE_NONE:
            pool.index[n].conn = sock_at(pool, at).conn
            pool.index[n].sock = at
            n += 1
            at = sock_at(pool, at).next
    qsort(pool.index, n, sizeof(sock_place), by_place)
    return 0


cdef inline const sock_queue *sk_find(const queue_pool *pool, uint64_t conn) noexcept nogil:
    """The records of a connection, by the index; NULL if there are none."""
    cdef uint64_t low = 0, high = pool.live_socks, middle
    while low < high:
        middle = low + (high - low) // 2
        if pool.index[middle].conn < conn:
            low = middle + 1
        else:
            high = middle
    if low == pool.live_socks or pool.index[low].conn != conn:
        return NULL
    return sock_at(pool, pool.index[low].sock)
