# What happened on the wire: the classes of Wireshark's TCP analysis, RTT, holes, Zeek's history.
# Wireshark User's Guide, "TCP Analysis"; RFC 9293 3.4, 3.8.1; RFC 7323 4; Zeek's conn.log.
# docs/analysis.md has the rules.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove, memset
from slab cimport slab_at, slab_recycled
from tcp cimport *
from tcp_history cimport (
    COUNTS_MAX,
    HISTORY_A,
    HISTORY_D,
    analysis_far_of,
    analysis_history,
    analysis_rare_of,
)

cdef enum:
    HOLES_MAX = 3
    OOO_NS = 3000000  # a segment that is so little late was reordered, unless the RTT is known
    RTT_LONG = 0xFFFFFFFF  # of four seconds and more: analysis_far has it
    FAST_RETRANS_NS = 20000000  # a fast retransmission follows its last duplicate ACK within

cdef enum:  # Reason
    REASON_NONE = 0
    REASON_CONTROL = 1
    REASON_ACK = 2
    REASON_NEW_DATA = 3
    REASON_AFTER_HOLE = 4
    REASON_REORDERED = 5
    REASON_HOLE_FILLED = 6
    REASON_FULL_RETRANS = 7
    REASON_PARTIAL_RETRANS = 8
    REASON_DUPLICATED = 9
    REASON_PROBE = 10

cdef enum:  # AnalysisBit
    AN_KEEP_ALIVE = 1  # its last segment was one
    AN_PROBE = 2  # or a zero window probe
    AN_SYN = 4  # or a SYN, whose window is not scaled
    AN_SEEN = 8  # there was a segment of this end
    AN_TIMING = 16  # rtt_sent_ns is when what ends at rtt_seq was sent
    AN_RESENT = 32  # and it was sent again since
    AN_DUPACKS = 64  # dupacks counts
    AN_HOLE = 128  # not all was seen up to nextseq, but up to maxack
    AN_LAST = AN_KEEP_ALIVE | AN_PROBE | AN_SYN

cdef inline void analysis_init(analysis *an, analysis_more *more) noexcept nogil:
    memset(an, 0, sizeof(analysis))
    memset(more, 0, sizeof(analysis_more))
    an.ends[0].window_min = an.ends[1].window_min = 0xFFFF
    an.ends[0].rtt_min_ns = an.ends[1].rtt_min_ns = RTT_LONG


cdef inline int analysis_count(
    analysis_rare *c, slab_recycled *fars, uint32_t classes
) noexcept nogil:
    """Count a segment in each of its classes; -1 without memory."""
    cdef analysis_far *far
    cdef uint64_t place
    cdef int i
    for i in range(NR_CLASSES):
        if not classes >> i & 1:
            continue
        place = c.places >> 4 * i & 15
        if place == 0:
            place = (c.places >> 4 * NR_CLASSES) + 1
            if place > COUNTS_MAX and analysis_far_of(c, fars) == NULL:
                return -1
            c.places += <uint64_t>1 << 4 * NR_CLASSES | place << 4 * i
        if place <= COUNTS_MAX:
            c.counts[place - 1] += 1
        else:
            far = analysis_far_of(c, fars)
            far.counts[place - COUNTS_MAX - 1] += 1
    return 0


cdef inline uint32_t analysis_maxack(
    const analysis *an, const analysis_more *more, const slab_recycled *rares, int side
) noexcept nogil:
    """Up to where all was seen of an end: the most that can be acknowledged."""
    if an.ends[side].bits & AN_HOLE:
        return (<const analysis_rare *>slab_at(&rares.pool, more.rare[side] - 1)).maxack
    return an.ends[side].nextseq


cdef inline void analysis_rtt_sent(
    analysis_end *e, uint32_t end_seq, int64_t time_ns
) noexcept nogil:
    """Time a segment that carries something new, one at a time."""
    if not e.bits & AN_TIMING:
        e.bits = (e.bits & ~AN_RESENT) | AN_TIMING
        e.rtt_seq = end_seq
        e.rtt_sent_ns = time_ns


cdef inline void analysis_rtt_sample(
    analysis_end *e, uint64_t rtt_ns, uint32_t short_ns
) noexcept nogil:
    if short_ns < e.rtt_min_ns:
        e.rtt_min_ns = short_ns
    if short_ns > e.rtt_max_ns:
        e.rtt_max_ns = short_ns
    e.rtt_sum_ns += rtt_ns
    if e.rtt_sum_ns >> 63:
        e.rtt_sum_ns = INT64_MAX
    e.rtt_samples += 1


cdef inline int analysis_rtt_acked(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    int side,
    const segment *th,
    int64_t time_ns,
) noexcept nogil:
    """`th` acknowledges what is timed: a sample, unless it may be of another copy (Karn's rule).
    -1 without memory.

    Of a segment that was sent again the time stamp tells which copy is acknowledged.
    """
    cdef analysis_end *e = &an.ends[side]
    cdef analysis_rare *c
    cdef analysis_far *far
    cdef uint64_t rtt_ns = <uint64_t>time_ns - <uint64_t>e.rtt_sent_ns
    e.bits &= ~AN_TIMING
    if e.bits & AN_RESENT:
        c = analysis_rare_of(more, side, rares)
        if not (th.opts & OPT_TIMESTAMP and c.rtt_tsval and before(th.tsecr, c.rtt_tsval)):
            return 0
    if time_ns < e.rtt_sent_ns or rtt_ns >> 47:
        return 0
    if rtt_ns < <uint64_t>RTT_LONG:
        analysis_rtt_sample(e, rtt_ns, <uint32_t>rtt_ns)
        return 0
    c = analysis_rare_of(more, side, rares)
    if c == NULL:
        return -1
    far = analysis_far_of(c, fars)
    if far == NULL:
        return -1
    if not far.rtt_max_ns or rtt_ns < far.rtt_min_ns:
        far.rtt_min_ns = rtt_ns
    far.rtt_max_ns = max(far.rtt_max_ns, rtt_ns)
    analysis_rtt_sample(e, rtt_ns, RTT_LONG)
    return 0


cdef inline void analysis_retire(analysis_far *c) noexcept nogil:
    """Count the lowest hole for good, to make room for another."""
    c.gaps += 1
    c.gap_bytes += c.holes[0].end - c.holes[0].begin
    c.n_holes -= 1
    memmove(&c.holes[0], &c.holes[1], c.n_holes * sizeof(hole))


cdef inline void analysis_hole(analysis_far *c, uint32_t begin, uint32_t end) noexcept nogil:
    """A hole opens above all others; those half the circle below can no longer be filled."""
    while c.n_holes and (begin - c.holes[0].begin) >> 31:
        analysis_retire(c)
    if c.n_holes == HOLES_MAX:
        analysis_retire(c)
    c.holes[c.n_holes].begin = begin
    c.holes[c.n_holes].end = end
    c.n_holes += 1


cdef inline uint32_t analysis_fill(
    analysis_far *c, uint32_t edge, uint32_t begin, uint32_t end
) noexcept nogil:
    """Take a range of numbers below `edge` out of the holes; how many lay in them.

    All are compared by how far they lie below it.
    """
    cdef uint32_t above = edge - begin, below = edge - end, filled = 0
    cdef uint32_t first, last, left, right, i = 0
    while i < c.n_holes:
        left = c.holes[i].begin
        right = c.holes[i].end
        first = min(above, edge - left)
        last = max(below, edge - right)
        if first <= last:
            i += 1
            continue
        filled += first - last
        first = edge - first
        last = edge - last
        if first == left and last == right:
            c.n_holes -= 1
            memmove(&c.holes[i], &c.holes[i + 1], (c.n_holes - i) * sizeof(hole))
        elif first == left:
            c.holes[i].begin = last
            i += 1
        elif last == right:
            c.holes[i].end = first
            i += 1
        else:  # in the middle of it, and so of none other
            c.holes[i].end = first
            if c.n_holes == HOLES_MAX:
                analysis_retire(c)
            else:
                i += 1
            memmove(&c.holes[i + 1], &c.holes[i], (c.n_holes - i) * sizeof(hole))
            c.holes[i].begin = last
            c.holes[i].end = right
            c.n_holes += 1
            break
    return min(filled, above - below)


cdef inline bint analysis_soon(int64_t time_ns, int64_t since_ns, uint64_t limit_ns) noexcept nogil:
    return time_ns >= since_ns and <uint64_t>time_ns - <uint64_t>since_ns < limit_ns


cdef inline uint32_t analysis_late(
    const analysis *an,
    int side,
    const segment *th,
    int64_t time_ns,
    uint64_t late_ns,
    const analysis_rare *acks,
) noexcept nogil:
    """Which class repeated or late data are: retransmissions, or out of order. `acks` is the
    peer's where it has sent duplicate ACKs."""
    cdef const analysis_end *e = &an.ends[side]
    cdef const analysis_end *peer = &an.ends[1 - side]
    cdef uint32_t seq = th.seq, length = th.payload_len
    if length and peer.lastack and not after(seq + length, peer.lastack):
        return TCP_A_RETRANSMISSION | TCP_A_SPURIOUS_RETRANSMISSION
    if not e.nextseq or not before(seq, e.nextseq):
        return 0
    if length > 1 and e.nextseq - 1 == seq:
        return 0  # a keep-alive's number, and more than one: new data
    if (
        acks != NULL
        and acks.dupacks >= 2
        and peer.lastack == seq
        and analysis_soon(time_ns, acks.dupack_ns, FAST_RETRANS_NS)
    ):
        return TCP_A_RETRANSMISSION | TCP_A_FAST_RETRANSMISSION
    if (
        analysis_soon(time_ns, e.nextseq_ns, late_ns)
        and e.nextseq != seq + length + ((th.flags & (TCPHDR_SYN | TCPHDR_FIN)) != 0)
    ):
        return TCP_A_OUT_OF_ORDER
    return TCP_A_RETRANSMISSION


cdef inline uint32_t analysis_acks(analysis *an, int side, const segment *th) noexcept nogil:
    """Which classes an empty segment has by its window and acknowledgment alone."""
    cdef analysis_end *e = &an.ends[side]
    cdef analysis_end *peer = &an.ends[1 - side]
    if th.payload_len or th.flags & TCPHDR_CONTROL or th.seq != e.nextseq:
        return 0
    if th.window == 0:
        if e.window == 0 and peer.bits & AN_PROBE:
            if th.ack == e.lastack:
                return TCP_A_ZERO_WINDOW_PROBE_ACK
            if th.ack == e.lastack + 1:  # it took the byte of the probe
                peer.nextseq = th.ack
                peer.bits &= ~AN_HOLE
                return TCP_A_ZERO_WINDOW_PROBE_ACK
        return 0
    if th.ack != e.lastack:
        return 0
    if th.window != e.window:
        return TCP_A_WINDOW_UPDATE
    if peer.bits & AN_KEEP_ALIVE:
        return TCP_A_KEEP_ALIVE_ACK
    return TCP_A_DUPLICATE_ACK


cdef inline int analysis_shift(const flow *fl, int side) noexcept nogil:
    """By how much windows of `side` are shifted; -1 where a SYN was not seen."""
    cdef uint8_t both = fl.ends[0].opts & fl.ends[1].opts
    if not both & OPT_ISN:
        return -1
    return fl.ends[side].shift if both & OPT_WSCALE else 0


cdef inline bint analysis_window_full(
    const analysis_end *peer, const flow *fl, int side, const segment *th
) noexcept nogil:
    """True if the data end where the window that the other side offered does."""
    cdef int shift = analysis_shift(fl, 1 - side)
    cdef uint32_t window = peer.window
    if shift > 0 and not peer.bits & AN_SYN:
        window <<= shift
    return shift >= 0 and th.seq + th.payload_len == peer.lastack + window


cdef inline uint32_t analysis_classes(
    analysis *an,
    analysis_more *more,
    const flow *fl,
    int side,
    const segment *th,
    int64_t time_ns,
    uint64_t late_ns,
    slab_recycled *rares,
    bint reused,
) noexcept nogil:
    """Wireshark's classes of a segment; a number that is 0 is not known, as there."""
    cdef analysis_end *e = &an.ends[side]
    cdef analysis_end *peer = &an.ends[1 - side]
    cdef uint32_t seq = th.seq, length = th.payload_len
    cdef uint16_t control = th.flags & TCPHDR_CONTROL
    cdef const analysis_rare *acks = NULL
    cdef uint32_t maxack
    cdef uint32_t classes = TCP_A_REUSED_PORTS if reused else 0
    if not e.bits & AN_SEEN:
        more.base[side] = seq if control & TCPHDR_SYN else seq - 1
    elif tcp_is_synack(th) and more.base[side] != seq:
        more.base[side] = seq
        classes |= TCP_A_REUSED_PORTS
    if length == 1 and seq == e.nextseq and peer.bits & AN_SEEN and peer.window == 0:
        classes |= TCP_A_ZERO_WINDOW_PROBE
    else:
        if th.window == 0 and not control:
            classes |= TCP_A_ZERO_WINDOW
        if e.nextseq:
            if after(seq, e.nextseq) and not control & TCPHDR_RST:
                classes |= TCP_A_LOST_PACKET
            elif length <= 1 and seq == e.nextseq - 1 and not control:
                classes |= TCP_A_KEEP_ALIVE
        if length and not control and peer.bits & AN_SEEN:
            if analysis_window_full(peer, fl, side, th):
                classes |= TCP_A_WINDOW_FULL
        classes |= analysis_acks(an, side, th)
    if th.ack != e.lastack:
        e.bits &= ~AN_DUPACKS
    maxack = analysis_maxack(an, more, rares, 1 - side)
    if maxack and th.flags & TCPHDR_ACK and after(th.ack, maxack):
        if peer.bits & AN_PROBE and th.ack == maxack + 1:
            classes |= TCP_A_WINDOW_UPDATE  # the probe's byte was taken, and there is room again
            peer.nextseq = th.ack
        else:
            classes |= TCP_A_ACK_LOST_PACKET
        peer.bits &= ~AN_HOLE
    if (length or control & (TCPHDR_SYN | TCPHDR_FIN)) and not classes & TCP_A_KEEP_ALIVE:
        if peer.bits & AN_DUPACKS:
            acks = analysis_rare_of(more, 1 - side, rares)
        classes |= analysis_late(an, side, th, time_ns, late_ns, acks)
    return classes


cdef inline uint8_t analysis_reason(
    const analysis *an, int side, const segment *th, uint32_t classes, uint32_t filled, bint quick
) noexcept nogil:
    """Our own verdict: what of a segment is new, told by what was seen, not by time alone."""
    cdef const analysis_end *e = &an.ends[side]
    cdef uint32_t length = th.payload_len
    cdef bint old = e.nextseq and before(th.seq, e.nextseq)
    if classes & (TCP_A_KEEP_ALIVE | TCP_A_ZERO_WINDOW_PROBE):
        return REASON_PROBE
    if classes & TCP_A_LOST_PACKET:
        return REASON_AFTER_HOLE
    if not length:
        if not th.flags & TCPHDR_CONTROL:
            return REASON_ACK
        if not old or th.flags & TCPHDR_RST:
            return REASON_CONTROL
    elif not old:
        return REASON_NEW_DATA
    elif filled == length:
        return REASON_REORDERED if quick else REASON_HOLE_FILLED
    elif filled or after(th.seq + length, e.nextseq):
        return REASON_PARTIAL_RETRANS
    if (
        quick
        and th.ack == e.lastack
        and th.window == e.window
        and not an.ends[1 - side].bits & AN_DUPACKS
    ):
        return REASON_DUPLICATED
    return REASON_FULL_RETRANS


cdef inline bint analysis_predict(
    analysis_end *e,
    analysis_end *peer,
    const flow *fl,
    int side,
    const segment *th,
    int64_t time_ns,
    uint8_t *reason,
) noexcept nogil:
    """A predicted segment, the next in order or an ACK that moves on, with nothing to say of it:
    what `tcp_analyze` would do, in few steps. False, and nothing done, for anything else. Fields
    are read where they are used: there are not registers for all."""
    cdef uint32_t flight, end_seq
    cdef uint64_t rtt_ns
    if (
        th.seq != e.nextseq
        or not e.nextseq
        or e.bits & (AN_DUPACKS | AN_LAST | AN_HOLE)
        or not th.window
        or peer.bits & AN_HOLE
        or not peer.nextseq
        or after(th.ack, peer.nextseq)
    ):
        return False
    if th.payload_len:
        end_seq = th.seq + th.payload_len
        flight = end_seq - peer.lastack
        if not e.noted >> HISTORY_D & 1 or not peer.lastack or not flight:
            return False
        if th.payload_len >> 31:  # then the end does not lie behind the beginning
            return False
        if flight >= peer.window and (
            peer.window == 0 or flight >> 31 or analysis_window_full(peer, fl, side, th)
        ):
            return False
    elif th.ack == e.lastack or not e.noted >> HISTORY_A & 1:
        return False
    if peer.bits & AN_TIMING and not before(th.ack, peer.rtt_seq):
        rtt_ns = <uint64_t>time_ns - <uint64_t>peer.rtt_sent_ns
        if peer.bits & AN_RESENT or rtt_ns >= <uint64_t>RTT_LONG:
            return False
        peer.bits &= ~AN_TIMING
        analysis_rtt_sample(peer, rtt_ns, <uint32_t>rtt_ns)
    reason[0] = REASON_ACK
    if th.payload_len:
        reason[0] = REASON_NEW_DATA
        end_seq = th.seq + th.payload_len
        flight = end_seq - peer.lastack
        e.nextseq = end_seq
        e.nextseq_ns = time_ns
        if flight > e.in_flight_max:
            e.in_flight_max = flight
        analysis_rtt_sent(e, end_seq, time_ns)
    e.lastack = th.ack
    e.window = th.window
    if th.window < e.window_min:
        e.window_min = th.window
    if th.window > e.window_max:
        e.window_max = th.window
    return True


cdef inline int tcp_analyze(
    analysis *an,
    analysis_more *more,
    const flow *fl,
    const flow_rest *rest,
    slab_recycled *rares,
    slab_recycled *fars,
    int side,
    const segment *th,
    int64_t time_ns,
    bint reused,
    analysed *out,
) noexcept nogil:
    """Analyse one segment, `reused` if it begins a connection on a known 4-tuple; -1 without
    memory."""
    cdef analysis_end *e = &an.ends[side]
    cdef analysis_end *peer = &an.ends[1 - side]
    cdef analysis_rare *c = NULL
    cdef analysis_far *far = NULL
    cdef uint32_t seq = th.seq, length = th.payload_len, filled = 0, classes, last, end_seq
    cdef uint32_t maxack
    cdef uint64_t late_ns = OOO_NS
    cdef bint quick
    out.classes = out.dup_ack_num = 0
    out.reason = REASON_NONE
    if th.bad & BAD_DOFF:
        return 0
    if e.nextseq and before(seq, e.nextseq) and fl.bits & FLOW_RTT and rest.rtt_ns > 0:
        late_ns = rest.rtt_ns  # where nothing is late its line is left alone
    quick = analysis_soon(time_ns, e.nextseq_ns, late_ns)
    classes = analysis_classes(an, more, fl, side, th, time_ns, late_ns, rares, reused)
    out.classes = classes
    end_seq = seq + length + ((th.flags & (TCPHDR_SYN | TCPHDR_FIN)) != 0)

    # What is missing, what came twice.
    if classes or (length and e.nextseq and before(seq, e.nextseq)):
        c = analysis_rare_of(more, side, rares)
        if c == NULL or analysis_count(c, fars, classes):
            return -1
        if classes & TCP_A_LOST_PACKET and analysis_far_of(c, fars) == NULL:
            return -1
        if c.far:
            far = analysis_far_of(c, fars)
        if classes & TCP_A_DUPLICATE_ACK:
            c.dupacks = c.dupacks + 1 if e.bits & AN_DUPACKS else 1
            e.bits |= AN_DUPACKS
            out.dup_ack_num = c.dupacks
        if classes & TCP_A_RETRANSMISSION:
            c.retrans_bytes += length
        if classes & TCP_A_LOST_PACKET:
            analysis_hole(far, e.nextseq, seq)
        elif (
            length
            and e.nextseq
            and before(seq, e.nextseq)
            and not classes & (TCP_A_KEEP_ALIVE | TCP_A_ZERO_WINDOW_PROBE)
        ):
            last = seq + min(length, e.nextseq - seq)
            if far != NULL:
                filled = analysis_fill(far, e.nextseq, seq, last)
            c.duplicate_bytes += last - seq - filled
    out.reason = analysis_reason(an, side, th, classes, filled, quick)

    # Round trips.
    if (
        th.flags & TCPHDR_ACK
        and peer.bits & AN_TIMING
        and not before(th.ack, peer.rtt_seq)
    ):
        if analysis_rtt_acked(an, more, rares, fars, 1 - side, th, time_ns):
            return -1
    if end_seq != seq and not classes & (TCP_A_KEEP_ALIVE | TCP_A_ZERO_WINDOW_PROBE):
        if not e.nextseq or after(end_seq, e.nextseq):
            analysis_rtt_sent(e, end_seq, time_ns)
        if (
            e.bits & AN_TIMING
            and e.nextseq
            and before(seq, e.nextseq)
            and before(seq, e.rtt_seq)
            and not e.bits & AN_RESENT
        ):
            c = analysis_rare_of(more, side, rares)
            if c == NULL:
                return -1
            c.rtt_tsval = th.tsval if th.opts & OPT_TIMESTAMP else 0
            e.bits |= AN_RESENT

    # What is known after it.
    if not classes & TCP_A_ZERO_WINDOW_PROBE:
        last = e.nextseq
        maxack = analysis_maxack(an, more, rares, side)
        if not e.nextseq or after(end_seq, e.nextseq):
            e.nextseq = end_seq
            e.nextseq_ns = time_ns
        if not maxack or seq == maxack:
            e.bits &= ~AN_HOLE
        elif not e.bits & AN_HOLE and e.nextseq != last:
            c = analysis_rare_of(more, side, rares)
            if c == NULL:
                return -1
            c.maxack = maxack
            e.bits |= AN_HOLE
    e.window = th.window
    e.lastack = th.ack
    if e.bits & AN_DUPACKS:
        analysis_rare_of(more, side, rares).dupack_ns = time_ns
    e.bits = (e.bits & ~AN_LAST) | AN_SEEN
    if classes & TCP_A_KEEP_ALIVE:
        e.bits |= AN_KEEP_ALIVE
    if classes & TCP_A_ZERO_WINDOW_PROBE:
        e.bits |= AN_PROBE
    if th.flags & TCPHDR_SYN:
        e.bits |= AN_SYN
    if length and peer.lastack and not (e.nextseq - peer.lastack) >> 31:
        e.in_flight_max = max(e.in_flight_max, e.nextseq - peer.lastack)
    if (th.flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK)) == TCPHDR_ACK:
        e.window_min = min(e.window_min, th.window)
        e.window_max = max(e.window_max, th.window)
    analysis_history(an, more, c, far, rest, side, th, classes)
    return 0
