# From records to a stream: which copy of a byte counts, where it lies, what is missing.
# Linux: net/ipv4/tcp.c (tcp_recvmsg), tcp_input.c.  RFC 9293 3.10.7.4; docs/streams.md has the rules.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memset
from tcp_queue cimport (
    QUEUE_NONE,
    SKB_DOUBTFUL,
    SKB_OVERWINDOW,
    SKB_URGENT,
    queue_pool,
    seq_unwrap,
    skb,
    skb_at,
    skb_queue,
)

cdef enum:  # Overlap
    OVERLAP_FIRST = 0
    OVERLAP_LAST = 1
    OVERLAP_LINUX = 2
    OVERLAP_BSD = 3
    OVERLAP_WINDOWS = 4

cdef enum:
    READ_SIZE = 256 << 10  # of the capture at a time
    READ_SKIP = 16 << 10  # a hole that is not worth reading over

# Bytes that lie together in the capture and in the streams.
cdef struct piece:
    int64_t at  # in the streams, one behind the other
    int64_t place  # in the input
    uint32_t length
    uint32_t file
    uint32_t stream
    uint32_t loose  # as of its span

cdef struct stream_gap:
    int64_t offset  # from the stream's first byte
    int64_t length

# One direction, as it will be handed out.
cdef struct stream:
    int64_t start  # in the streams, one behind the other
    int64_t length
    int64_t handed  # its offset: bytes before it were handed out as they came
    uint64_t gap  # its first one
    uint64_t gaps
    uint64_t urgent  # its first urgent byte
    uint64_t urgents

# The captured part of one record, inside its stream.
cdef struct span:
    int64_t seq
    int64_t end
    int64_t place
    int64_t start  # of what is left of it, where that can move (BSD)
    uint32_t file
    uint32_t order  # in the capture
    bint doubtful  # state refused it
    bint loose  # and nobody acknowledged it

# What the capture holds of streams: for each piece where it lies and where it goes.
cdef struct recv_plan:
    int overlap  # Overlap
    bint fill
    int64_t at  # end of the last stream
    piece *pieces
    uint64_t n_pieces
    uint64_t max_pieces
    piece *losers  # copies of bytes that are elsewhere in pieces, too
    uint64_t n_losers
    uint64_t max_losers
    stream_gap *gaps
    uint64_t n_gaps
    uint64_t max_gaps
    int64_t *urgent  # offsets of urgent bytes, the last captured first
    uint64_t n_urgent
    uint64_t max_urgent
    stream *streams
    uint32_t n_streams


cdef inline void *plan_room(void *items, uint64_t used, uint64_t *room, size_t size) noexcept nogil:
    """Room for one item more; NULL without memory, `items` is then as it was."""
    cdef void *more
    if used < room[0]:
        return items
    more = realloc(items, (room[0] * 2 + 64) * size)
    if more != NULL:
        room[0] = room[0] * 2 + 64
    return more


cdef inline int plan_piece(
    recv_plan *plan, const span *from_, int64_t seq, int64_t length, int64_t at, bint loser
) noexcept nogil:
    """Add `length` bytes of a span from `seq` on, which go to `at`; -1 without memory."""
    cdef void *room
    cdef piece *made
    if loser:
        room = plan_room(plan.losers, plan.n_losers, &plan.max_losers, sizeof(piece))
        if room == NULL:
            return -1
        plan.losers = <piece *>room
        made = &plan.losers[plan.n_losers]
        plan.n_losers += 1
    else:
        room = plan_room(plan.pieces, plan.n_pieces, &plan.max_pieces, sizeof(piece))
        if room == NULL:
            return -1
        plan.pieces = <piece *>room
        made = &plan.pieces[plan.n_pieces]
        plan.n_pieces += 1
    made.at = at
    made.place = from_.place + (seq - from_.seq)
    made.length = <uint32_t>length
    made.file = from_.file
    made.stream = plan.n_streams
    made.loose = from_.loose
    return 0


cdef inline int plan_gap(recv_plan *plan, int64_t offset, int64_t length) noexcept nogil:
    """Add a gap, which takes room in the stream if gaps are filled; -1 without memory."""
    cdef void *room = plan_room(plan.gaps, plan.n_gaps, &plan.max_gaps, sizeof(stream_gap))
    if room == NULL:
        return -1
    plan.gaps = <stream_gap *>room
    plan.gaps[plan.n_gaps].offset = offset
    plan.gaps[plan.n_gaps].length = length
    plan.n_gaps += 1
    if plan.fill:
        plan.at += length
    return 0


cdef inline int by_seq(const void *a, const void *b) noexcept nogil:
    cdef const span *x = <const span *>a
    cdef const span *y = <const span *>b
    if x.seq != y.seq:
        return -1 if x.seq < y.seq else 1
    return -1 if x.order < y.order else 1


cdef inline int by_number(const void *a, const void *b) noexcept nogil:
    cdef int64_t x = (<const int64_t *>a)[0], y = (<const int64_t *>b)[0]
    return (x > y) - (x < y)


cdef inline uint32_t bound_of(const int64_t *bounds, uint32_t n, int64_t seq) noexcept nogil:
    """Where `seq`, which is one of them, stands among the ascending `bounds`."""
    cdef uint32_t low = 0, middle
    while n - low > 1:
        middle = low + (n - low) // 2
        if bounds[middle] <= seq:
            low = middle
        else:
            n = middle
    return low


cdef inline bint overlap_wins(int overlap, const span *one, const span *owner) noexcept nogil:
    """True if a byte of `one`, captured later and not yet delivered, replaces that of `owner`."""
    if overlap == OVERLAP_LINUX:
        return one.seq < owner.seq or (one.seq == owner.seq and one.end > owner.end)
    if overlap == OVERLAP_BSD:
        return one.seq < owner.start
    return one.seq < owner.seq and one.end > owner.end  # OVERLAP_WINDOWS


cdef inline void overlap_place(
    int overlap,
    span *spans,
    uint32_t one,
    int64_t *owners,
    const int64_t *bounds,
    uint32_t begin,
    uint32_t end,
    uint32_t delivered,
) noexcept nogil:
    """Place one span over bounds[begin:end], of which the first `delivered` cannot be changed."""
    cdef uint32_t k
    cdef bint first = True, wins
    cdef int64_t owner
    for k in range(begin, end):
        owner = owners[k]
        if owner >= 0 and spans[owner].doubtful != spans[one].doubtful:
            wins = spans[owner].doubtful
        elif owner < 0 or overlap == OVERLAP_LAST:
            wins = True
        elif overlap == OVERLAP_FIRST or k < delivered:
            wins = False
        else:
            wins = overlap_wins(overlap, &spans[one], &spans[owner])
        if not wins:
            continue
        if owner >= 0:
            spans[owner].start = bounds[end]
        if first:
            spans[one].start = bounds[k]
            first = False
        owners[k] = one


cdef inline int overlap_resolve(
    recv_plan *plan, span *spans, uint32_t n, int64_t at
) noexcept nogil:
    """Add spans that overlap and leave no gap, whose first byte goes to `at`; -1 without memory."""
    cdef int64_t *bounds = <int64_t *>malloc(<size_t>n * 2 * sizeof(int64_t))
    cdef int64_t *owners = <int64_t *>malloc(<size_t>n * 2 * sizeof(int64_t))
    cdef int64_t *orders = <int64_t *>malloc(<size_t>n * sizeof(int64_t))
    cdef int64_t start
    cdef uint32_t i, k, m = 0, one, end, delivered = 0
    cdef int failed = bounds == NULL or owners == NULL or orders == NULL or n >> 30
    if not failed:
        start = spans[0].seq
        for i in range(n):
            spans[i].start = spans[i].seq
            bounds[2 * i] = spans[i].seq
            bounds[2 * i + 1] = spans[i].end
            orders[i] = <int64_t>spans[i].order << 32 | i
        qsort(bounds, 2 * n, sizeof(int64_t), by_number)
        qsort(orders, n, sizeof(int64_t), by_number)
        for i in range(2 * n):
            if i == 0 or bounds[i] != bounds[m - 1]:
                bounds[m] = bounds[i]
                m += 1
        memset(owners, -1, m * sizeof(int64_t))
        for i in range(n):
            one = <uint32_t>(orders[i] & <int64_t>0xFFFFFFFF)
            k = bound_of(bounds, m, spans[one].seq)
            end = bound_of(bounds, m, spans[one].end)
            overlap_place(plan.overlap, spans, one, owners, bounds, k, end, delivered)
            while delivered < m - 1 and owners[delivered] >= 0:
                delivered += 1
        failed = overlap_emit(plan, spans, n, owners, bounds, m, at, start)
    free(bounds)
    free(owners)
    free(orders)
    return -1 if failed else 0


cdef inline int overlap_emit(
    recv_plan *plan,
    const span *spans,
    uint32_t n,
    const int64_t *owners,
    const int64_t *bounds,
    uint32_t m,
    int64_t at,
    int64_t start,
) noexcept nogil:
    """Add what each span has won, in order of the stream, then what it has lost."""
    cdef uint32_t i, k = 0, first, end
    while k < m - 1:
        first = k
        while k < m - 1 and owners[k] == owners[first]:
            k += 1
        if plan_piece(
            plan,
            &spans[owners[first]],
            bounds[first],
            bounds[k] - bounds[first],
            at + (bounds[first] - start),
            False,
        ):
            return -1
    for i in range(n):
        k = bound_of(bounds, m, spans[i].seq)
        end = bound_of(bounds, m, spans[i].end)
        while k < end:
            first = k
            while k < end and owners[k] != i:
                k += 1
            if k > first and plan_piece(
                plan,
                &spans[i],
                bounds[first],
                bounds[k] - bounds[first],
                at + (bounds[first] - start),
                True,
            ):
                return -1
            while k < end and owners[k] == i:
                k += 1
    return 0


cdef inline uint32_t queue_spans(
    const queue_pool *pool, const skb_queue *q, uint32_t una, span *spans, int64_t *end
) noexcept nogil:
    """The captured parts of a direction's records, in order of capture; `end` is the stream's."""
    cdef uint32_t at = q.tail, i = q.records, n = 0
    cdef const skb *one
    cdef int64_t top = q.base, acked = seq_unwrap(q.last, una)
    while i:
        i -= 1
        one = skb_at(pool, at)
        spans[i].seq = one.seq
        spans[i].end = one.seq + one.caplen
        spans[i].place = one.place
        spans[i].file = one.file & (SKB_URGENT - 1)
        spans[i].order = i
        spans[i].doubtful = (one.file & SKB_DOUBTFUL) != 0
        spans[i].loose = spans[i].doubtful and one.seq + one.length > acked
        if one.file & SKB_URGENT:
            pass
        elif not spans[i].loose:
            top = max(top, one.seq + one.length)
        elif not one.file & SKB_OVERWINDOW:
            spans[i].end = one.seq
        at = one.prev
    end[0] = max(q.fin, q.base) if q.fin >= 0 else top
    for i in range(q.records):
        if q.fin >= 0 and spans[i].end > end[0]:
            spans[i].end = end[0]  # nothing lies behind a FIN
        if spans[i].seq < q.base:
            spans[i].place += q.base - spans[i].seq
            spans[i].seq = q.base
        if spans[i].seq < spans[i].end:
            spans[n] = spans[i]
            n += 1
    return n


cdef inline int queue_urgent(
    recv_plan *plan, const queue_pool *pool, const skb_queue *q, uint32_t una, int64_t end
) noexcept nogil:
    """Add the offsets of a direction's urgent bytes below its stream's `end`; -1 without memory."""
    cdef uint32_t at = q.tail
    cdef const skb *one
    cdef void *room
    cdef int64_t acked = seq_unwrap(q.last, una)
    while at != <uint32_t>QUEUE_NONE:
        one = skb_at(pool, at)
        at = one.prev
        if (
            not one.file & SKB_URGENT
            or (one.file & SKB_DOUBTFUL and one.seq >= acked)
            or not q.base <= one.seq < end
        ):
            continue
        room = plan_room(plan.urgent, plan.n_urgent, &plan.max_urgent, sizeof(int64_t))
        if room == NULL:
            return -1
        plan.urgent = <int64_t *>room
        plan.urgent[plan.n_urgent] = one.seq - q.base
        plan.n_urgent += 1
    return 0


cdef inline int plan_spans(
    recv_plan *plan, span *spans, uint32_t n, bint tangled, int64_t base, int64_t stream_end
) noexcept nogil:
    """Add a direction's spans and the gaps between them; -1 without memory."""
    cdef int64_t next = base, end
    cdef uint32_t i = 0, first
    cdef bint overlaps
    # What a host has delivered is judged over all that leaves no gap, else only true overlaps are.
    cdef int64_t touch = plan.overlap >= OVERLAP_LINUX
    if tangled:
        qsort(spans, n, sizeof(span), by_seq)
    while i < n:
        if spans[i].seq > next:
            if spans[i].loose:
                i += 1
                continue
            if plan_gap(plan, next - base, spans[i].seq - next):
                return -1
        first = i
        end = spans[i].end
        overlaps = False
        i += 1
        if tangled:
            while i < n and spans[i].seq < end + touch:
                overlaps |= spans[i].seq < end
                end = max(end, spans[i].end)
                i += 1
        if overlaps:
            if overlap_resolve(plan, spans + first, i - first, plan.at):
                return -1
            plan.at += end - spans[first].seq
        else:
            for first in range(first, i):
                if plan_piece(
                    plan,
                    &spans[first],
                    spans[first].seq,
                    spans[first].end - spans[first].seq,
                    plan.at,
                    False,
                ):
                    return -1
                plan.at += spans[first].end - spans[first].seq
        next = end
    if stream_end > next and plan_gap(plan, next - base, stream_end - next):
        return -1
    return 0


cdef inline int plan_stream(
    recv_plan *plan, const queue_pool *pool, const skb_queue *q, uint32_t una
) noexcept nogil:
    """Add one direction, of which the peer acknowledged what is below `una`; of NULL an empty one.
    -1 without memory."""
    cdef stream *made = &plan.streams[plan.n_streams]
    cdef span *spans
    cdef int64_t end
    cdef uint32_t n
    cdef int failed = 0
    made.start = plan.at
    made.gap = plan.n_gaps
    made.handed = q.handed if q != NULL else 0
    made.urgent = plan.n_urgent
    if q != NULL and q.begun:
        spans = <span *>malloc((<size_t>q.records + 1) * sizeof(span))
        if spans == NULL:
            return -1
        n = queue_spans(pool, q, una, spans, &end)
        failed = plan_spans(plan, spans, n, q.tangled, q.base, end)
        free(spans)
        if q.urgent and not failed:
            failed = queue_urgent(plan, pool, q, una, end)
    made.length = plan.at - made.start
    made.gaps = plan.n_gaps - made.gap
    made.urgents = plan.n_urgent - made.urgent
    plan.n_streams += 1
    return failed


cdef inline void plan_free(recv_plan *plan) noexcept nogil:
    free(plan.pieces)
    free(plan.losers)
    free(plan.gaps)
    free(plan.urgent)
    free(plan.streams)


cdef inline uint64_t piece_key(const piece *one) noexcept nogil:
    return <uint64_t>one.file << 44 | <uint64_t>one.place & ((<uint64_t>1 << 44) - 1)


cdef inline int pieces_sort(piece **pieces, uint64_t n) noexcept nogil:
    """Put pieces in the order of the capture, digit by digit; -1 without memory."""
    cdef uint64_t least = <uint64_t>-1, most = 0, key, i, sum, held
    cdef uint64_t counts[256]
    cdef piece *from_ = pieces[0]
    cdef piece *to
    cdef int shift = 0
    for i in range(n):
        key = piece_key(&from_[i])
        least = min(least, key)
        most = max(most, key)
    if n < 2:
        return 0
    to = <piece *>malloc(n * sizeof(piece))
    if to == NULL:
        return -1
    while shift < 64 and (most - least) >> shift:
        memset(counts, 0, sizeof(counts))
        for i in range(n):
            counts[(piece_key(&from_[i]) - least) >> shift & 0xFF] += 1
        sum = 0
        for i in range(256):
            held = counts[i]
            counts[i] = sum
            sum += held
        for i in range(n):
            key = (piece_key(&from_[i]) - least) >> shift & 0xFF
            to[counts[key]] = from_[i]
            counts[key] += 1
        from_, to = to, from_
        shift += 8
    free(to)
    pieces[0] = from_
    return 0


cdef inline int64_t pieces_within(
    const piece *pieces, uint64_t n, int64_t begin, int64_t end, piece *out
) noexcept nogil:
    """Copy the parts of pieces that go to [begin, end); how many there are."""
    cdef uint64_t i, found = 0
    cdef int64_t low, high
    for i in range(n):
        low = max(pieces[i].at, begin)
        high = min(pieces[i].at + pieces[i].length, end)
        if low >= high:
            continue
        out[found] = pieces[i]
        out[found].place += low - pieces[i].at
        out[found].at = low
        out[found].length = <uint32_t>(high - low)
        found += 1
    return found


cdef inline uint64_t read_end(const piece *pieces, uint64_t first, uint64_t n) noexcept nogil:
    """How many pieces, `first` and those behind it, one read of the capture brings."""
    cdef const piece *one = &pieces[first]
    cdef int64_t low = one.place, high = one.place + one.length
    cdef uint64_t i = first + 1
    while i < n:
        one = &pieces[i]
        if (
            one.file != pieces[first].file
            or one.place - high > READ_SKIP
            or one.place + one.length - low > READ_SIZE
        ):
            break
        high = max(high, one.place + one.length)
        i += 1
    return i
