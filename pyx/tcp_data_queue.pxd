# Data that comes in: what can be read, what waits behind holes, when to acknowledge, buffers.
# Linux: net/ipv4/tcp_input.c (tcp_data_queue, tcp_ofo_queue, tcp_event_data_recv).
# RFC 9293 3.10.7.4 (seventh), 3.8.6.3; RFC 2018 3 and 4; RFC 2883.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from netns cimport NET_INC_STATS, netns, sk_wake
from rbtree cimport rb_erase, rb_find, rb_insert
from skbuff cimport build_skb, kfree_skb, skb_append, skb_put_data, skb_queue_tail, skb_unlink
from snmp cimport *
from sock cimport *
from tcb cimport tcb_pull, tcp_paws_check
from tcp cimport *
from tcp_comp_sack cimport tcp_sack_compress_blocks, tcp_send_dup_ack
from tcp_ecn cimport tcp_data_ecn_check
from tcp_output cimport tcp_send_ack, tcp_send_delayed_ack
from tcp_prune cimport tcp_prune_queue
from tcp_rcv_space cimport tcp_rcv_rtt_measure, tcp_rcvbuf_grow
from tcp_window cimport (
    tcp_choose_window,
    tcp_receive_window,
    tcp_space,
    tcp_win_from_space,
)

cdef enum:
    # Flags of a segment that may be shorter than others.
    TCP_REMNANT = TCPHDR_FIN | TCPHDR_URG | TCPHDR_SYN | TCPHDR_PSH
    RCV_ROOM_AT_ONCE = 4096  # larger pieces get room for more only when more comes


cdef inline bint tcp_fits_forward_alloc(
    const netns *net, const tcp_sock *tp, uint32_t seq, uint32_t length
) noexcept nogil:
    """True for the predicted segment that fits what is left of the last page that was charged.

    Linux has such a segment pass without a look at the buffer's bound.
    """
    cdef int64_t left = -(tp.sk_rmem_alloc + tp.sk_wmem_queued) & (PAGE - 1)
    return (
        seq == tp.tcb.rcv_nxt
        and tp.tcb.state == TCP_ESTABLISHED
        and tp.out_of_order_queue.first == NULL
        and not tp.urg_data
        and tp.rcv_wnd > 0
        and skb_truesize(length, net.net.gso_size) <= left
    )


cdef inline bint tcp_is_predicted(
    const netns *net, const tcp_sock *tp, const segment *th
) noexcept nogil:
    """True for text that Linux predicts and whose header says nothing new: what waits to be sent
    goes on waiting."""
    cdef const tcb *known = &tp.tcb
    return (
        th.payload_len > 0
        and (th.flags & ~<uint32_t>TCPHDR_PSH) == TCPHDR_ACK
        and th.ack == known.snd_una
        and <uint32_t>th.window << known.snd_wscale == known.snd_wnd
        and 4 * th.doff == tp.tcp_header_len
        and tp.saw_tstamp == tp.tstamp_ok
        and not tcp_paws_check(known, th)
        and tcp_fits_forward_alloc(net, tp, th.seq, th.payload_len)
    )


cdef inline bint tcp_try_rmem_schedule(
    netns *net, tcp_sock *tp, uint32_t seq, uint32_t length
) noexcept nogil:
    """True if there is room, or has been made."""
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    if length and tcp_fits_forward_alloc(net, tp, seq, length):
        return True
    if tcp_prune_queue(net, tp, seq):
        return True
    if tp.sk_receive_queue.first != NULL or after(seq, tp.tcb.rcv_nxt):
        return False
    tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_NOW | ICSK_ACK_NOMEM
    return True  # the stream gets on, whatever lies behind holes


cdef inline uint32_t skb_head_size(uint32_t length, uint32_t joined) noexcept nogil:
    """The buffer of a received segment as Linux's allocator has it; beyond 4 KiB it has pages.

    What a device has joined has its text in pages alone, else the first of it is in the head.
    """
    cdef uint32_t size = ((length + SKB_HEADROOM + 63) & ~<uint32_t>63) + SKB_SHARED_INFO
    cdef uint32_t power = 1024
    if size <= SKB_SMALL_HEAD:
        return SKB_SMALL_HEAD
    if size <= PAGE:
        while power < size:
            power <<= 1
        return power
    if joined:
        return SKB_SMALL_HEAD + (length + PAGE - 1) // PAGE * PAGE
    return PAGE + (length - SKB_HEAD_TEXT + PAGE - 1) // PAGE * PAGE


cdef inline uint32_t skb_truesize(uint32_t length, uint32_t joined) noexcept nogil:
    """Memory that a received segment takes."""
    return SKB_OVERHEAD + skb_head_size(length, joined)


cdef inline uint32_t skb_tailroom(uint32_t length) noexcept nogil:
    """How much text a received segment's buffer has room for; none beyond it if there are pages."""
    cdef uint32_t size = skb_head_size(length, 0)
    return size - SKB_SHARED_INFO - SKB_HEADROOM if size <= PAGE else length


cdef inline bint tcp_data_queue(
    netns *net, tcp_sock *tp, const rcv_skb *r, uint32_t verdict, uint32_t rcv_nxt
) noexcept nogil:
    """Put text where it belongs (RFC 9293 3.10.7.4, seventh); `rcv_nxt` was expected.

    True if the peer's FIN is in.
    """
    cdef const segment *th = &r.th
    cdef uint32_t skip
    cdef bint fin
    tp.has_dsack = 0  # an ACK that waits tells of the last one alone
    if verdict & TCB_OFO:
        if before(th.seq, <uint32_t>(rcv_nxt + tcp_receive_window(tp))):
            tcp_data_queue_ofo(net, tp, r)
            return False
        verdict = TCB_OVERWINDOW  # the window was larger once, and is taken back
    if verdict & (TCB_DATA | TCB_FIN_TAKEN):
        if verdict & TCB_PARTIAL:
            tcp_dsack_set(net, tp, th.seq, rcv_nxt)
        skip = rcv_nxt - th.seq
        if th.payload_len > skip:
            tcp_queue_rcv(net, tp, rcv_nxt, r.page, r.data + skip, r.len - skip, th.flags)
            tcp_event_data_recv(net, tp, th)
        elif verdict & TCB_FIN_TAKEN:
            tcp_queue_rcv(net, tp, rcv_nxt, r.page, r.data, 0, th.flags)
        fin = verdict & TCB_FIN_TAKEN != 0
        if tp.out_of_order_queue.first != NULL and not fin:  # behind a FIN is nothing
            fin = tcp_ofo_queue(net, tp)
            if fin or tp.out_of_order_queue.first == NULL:
                tp.ack_pending |= ICSK_ACK_NOW
        tp.bytes_received += fin
        if tp.n_sacks and not fin:  # the ACK of a FIN that waited still tells of it
            tcp_sack_remove(tp)
        if not fin and not tp.dead:
            sk_wake(net, tp)
        return fin
    if verdict & TCB_OLD:
        NET_INC_STATS(net, TCP_DELAYEDACKLOST)
        tcp_dsack_set(net, tp, th.seq, th.end_seq)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    elif verdict & TCB_OVERWINDOW:
        NET_INC_STATS(net, TCP_BEYONDWINDOW)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    return False


cdef inline skb *tcp_rcv_skb(
    netns *net,
    const skb *before_it,
    uint32_t seq,
    skb_data *page,
    const uint8_t *data,
    uint32_t length,
    uint16_t flags,
) noexcept nogil:
    """What came, and what it costs; pages alone are handed on to what they follow.

    A copy, unless it lies in a page that can be held; NULL without memory.
    """
    cdef uint32_t joined = net.net.gso_size, frag = skb_tailroom(length)
    cdef uint32_t room = frag if frag <= RCV_ROOM_AT_ONCE else length
    cdef skb *one = build_skb(&net.skbs, page, data, length, room)
    if one == NULL:
        return NULL
    if not one.lent:
        skb_put_data(one, data, length)
    one.seq = seq
    one.end_seq = seq + length
    one.tcp_flags = <uint8_t>flags
    one.truesize = skb_truesize(length, joined)
    one.frag = frag
    one.skb_mstamp_ns = net.net.now_ns
    if joined and before_it != NULL and before_it.end_seq == seq:
        if one.truesize > SKB_OVERHEAD + PAGE and not before_it.tcp_flags & TCPHDR_FIN:
            one.truesize -= SKB_OVERHEAD + SKB_SMALL_HEAD
    return one


cdef inline bint skb_joins(
    netns *net, skb *one, const uint8_t *data, uint32_t length
) noexcept nogil:
    """True if what follows a piece fits its buffer, where it is now."""
    if one.tcp_flags & TCPHDR_FIN or one.len + length > one.frag:
        return False
    return not skb_append(&net.skbs, one, data, length, one.frag)


cdef inline void tcp_queue_rcv(
    netns *net,
    tcp_sock *tp,
    uint32_t seq,
    skb_data *page,
    const uint8_t *data,
    uint32_t length,
    uint16_t flags,
) noexcept nogil:
    """Append to what can be read; small pieces join."""
    cdef skb *last = tp.sk_receive_queue.last
    cdef skb *one
    tp.bytes_received += length
    if last != NULL and last.end_seq == seq and skb_joins(net, last, data, length):
        last.end_seq = seq + length
        last.skb_mstamp_ns = net.net.now_ns
        return
    one = tcp_rcv_skb(net, last, seq, page, data, length, flags)
    if one == NULL:
        tp.nomem = 1  # the judge has taken it: the connection cannot go on
        return
    tp.sk_rmem_alloc += one.truesize
    skb_queue_tail(&tp.sk_receive_queue, one)


cdef inline void tcp_data_queue_ofo(netns *net, tcp_sock *tp, const rcv_skb *r) noexcept nogil:
    """Keep what lies behind a hole (9293:SHLD-31), without what is kept already."""
    cdef skb_queue *queue = &tp.out_of_order_queue
    cdef uint32_t seq = r.th.seq, end_seq = r.th.end_seq, length = r.len
    cdef const uint8_t *data = r.data
    cdef uint16_t flags = r.th.flags
    cdef skb *where
    cdef skb *behind
    cdef skb *one
    cdef uint32_t skip, cost = 0
    if tp.ecn_flags and tcp_data_ecn_check(tp, net.ip_dsfield):
        tcp_enter_quickack_mode(tp, 2)
    if not tcp_try_rmem_schedule(net, tp, seq, length):
        NET_INC_STATS(net, TCP_OFODROP)
        return
    NET_INC_STATS(net, TCP_OFOQUEUE)
    tp.rcv_ooopack += 1
    tp.ack_pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(net, tp, &r.th)
    where = rb_find(queue, seq)
    if where != NULL and after(where.end_seq, seq):
        if not after(end_seq, where.end_seq):
            NET_INC_STATS(net, TCP_OFOMERGE)
            tcp_dsack_set(net, tp, seq, end_seq)
            tcp_sack_new_ofo_skb(net, tp, seq, end_seq)
            return
        tcp_dsack_set(net, tp, seq, where.end_seq)
        skip = min(<uint32_t>(where.end_seq - seq), length)
        data += skip
        length -= skip
        seq = where.end_seq
    while True:
        behind = where.next if where != NULL else queue.first
        if behind == NULL or not after(end_seq, behind.seq):
            break
        if before(end_seq, behind.end_seq):
            tcp_dsack_extend(net, tp, behind.seq, end_seq)
            length = min(length, <uint32_t>(behind.seq - seq))
            end_seq = behind.seq
            break
        tcp_dsack_extend(net, tp, behind.seq, behind.end_seq)
        tp.sk_rmem_alloc -= behind.truesize
        NET_INC_STATS(net, TCP_OFOMERGE)
        rb_erase(queue, behind)
        kfree_skb(&net.skbs, behind)
    if end_seq != r.th.end_seq:
        flags &= <uint16_t>~TCPHDR_FIN
    if where != NULL and where.end_seq == seq and skb_joins(net, where, data, length):
        where.end_seq = end_seq
        where.tcp_flags |= <uint8_t>flags
        where.skb_mstamp_ns = net.net.now_ns
    else:
        one = tcp_rcv_skb(net, where, seq, r.page, data, length, flags)
        if one == NULL:
            return  # it is as if it had been lost
        one.end_seq = end_seq
        cost = one.truesize
        rb_insert(queue, where, one)
        tp.ofo_due -= tp.ofo_due > 0
    tcp_sack_new_ofo_skb(net, tp, r.th.seq, r.th.end_seq)
    if tp.sack_ok:  # a window that grows is no duplicate ACK to those who know no SACK
        tcp_grow_window(net, tp, r.len)
    tp.sk_rmem_alloc += cost
    if tp.listener == NULL and not tp.dead:
        tcp_rcvbuf_grow(net, tp, tp.rcvq_space)


cdef inline void tcp_dsack_set(
    netns *net, tcp_sock *tp, uint32_t start, uint32_t end
) noexcept nogil:
    cdef bint old
    if tp.sack_ok and net.sysctl.tcp_dsack and before(start, end):
        old = before(start, tp.tcb.rcv_nxt)
        NET_INC_STATS(net, TCP_DSACKOLDSENT if old else TCP_DSACKOFOSENT)
        tp.duplicate_sack.start = start
        tp.duplicate_sack.end = end
        tp.has_dsack = 1


cdef inline void tcp_dsack_extend(
    netns *net, tcp_sock *tp, uint32_t start, uint32_t end
) noexcept nogil:
    if not tp.has_dsack:
        tcp_dsack_set(net, tp, start, end)
        return
    if after(start, tp.duplicate_sack.end) or after(tp.duplicate_sack.start, end):
        return  # apart from the first, which is told alone
    if before(start, tp.duplicate_sack.start):
        tp.duplicate_sack.start = start
    if after(end, tp.duplicate_sack.end):
        tp.duplicate_sack.end = end


cdef inline void tcp_sack_new_ofo_skb(
    netns *net, tcp_sock *tp, uint32_t start, uint32_t end
) noexcept nogil:
    """The block with the newest segment comes first (RFC 2018 4)."""
    cdef sack_block blocks[5]
    cdef int i, n = 1
    cdef sack_block old
    if not tp.sack_ok:
        return
    if tp.compressed_ack:
        tcp_sack_compress_blocks(net, tp, start, end)
    for i in range(tp.n_sacks):
        old = tp.sack[i]
        if before(end, old.start) or after(start, old.end):
            blocks[n] = old
            n += 1
        else:
            if before(old.start, start):
                start = old.start
            if after(old.end, end):
                end = old.end
    blocks[0].start = start
    blocks[0].end = end
    n = min(n, <int>TCP_NUM_SACKS)
    for i in range(n):
        tp.sack[i] = blocks[i]
    tp.n_sacks = <uint8_t>n


cdef inline void tcp_sack_remove(tcp_sock *tp) noexcept nogil:
    cdef int i, n = 0
    if tp.out_of_order_queue.first != NULL:
        for i in range(tp.n_sacks):
            if before(tp.tcb.rcv_nxt, tp.sack[i].start):
                tp.sack[n] = tp.sack[i]
                n += 1
    tp.n_sacks = <uint8_t>n


cdef inline bint tcp_ofo_queue(netns *net, tcp_sock *tp) noexcept nogil:
    """Take in what waited behind a hole that is filled now; True if the FIN was with it."""
    cdef skb_queue *queue = &tp.out_of_order_queue
    cdef skb *one
    cdef uint32_t dsack_high = tp.tcb.rcv_nxt
    cdef uint32_t rcv_nxt, skip, end_seq
    cdef bint fin = False
    while queue.first != NULL and not after(queue.first.seq, tp.tcb.rcv_nxt):
        one = queue.first
        rb_erase(queue, one)
        tp.sk_rmem_alloc -= one.truesize
        rcv_nxt = tp.tcb.rcv_nxt
        if before(one.seq, dsack_high):  # it came again with what filled the hole
            end_seq = one.end_seq if before(one.end_seq, dsack_high) else dsack_high
            tcp_dsack_extend(net, tp, one.seq, end_seq)
        if after(one.end_seq, rcv_nxt):
            skip = min(<uint32_t>(rcv_nxt - one.seq), one.len)
            fin = one.tcp_flags & TCPHDR_FIN
            end_seq = one.end_seq
            tcp_queue_rcv(
                net, tp, rcv_nxt, one.head, one.data + skip, one.len - skip, one.tcp_flags
            )
            if tp.sk_receive_queue.last != NULL:
                tp.sk_receive_queue.last.skb_mstamp_ns = one.skb_mstamp_ns
            tcb_pull(&tp.tcb, end_seq, fin)
        kfree_skb(&net.skbs, one)
        if fin:
            break
    return fin


cdef inline void tcp_check_urg(
    netns *net, tcp_sock *tp, const rcv_skb *r, uint32_t rcv_nxt
) noexcept nogil:
    """The urgent pointer, which is of the octet after the urgent one (RFC 6093 as Linux has it)."""
    cdef uint32_t ptr = r.urgent
    cdef skb *one
    if ptr and not net.sysctl.tcp_stdurg:
        ptr -= 1
    ptr += r.th.seq
    if after(tp.copied_seq, ptr) or before(ptr, rcv_nxt):
        return  # it was read, or was there before
    if tp.urg_data and not after(ptr, tp.urg_seq):
        return
    if (
        tp.urg_data
        and not tp.oobinline
        and tp.urg_seq == tp.copied_seq
        and tp.copied_seq != rcv_nxt
    ):
        # The one before is lost, as nobody has asked for it.
        tp.copied_seq += 1
        one = tp.sk_receive_queue.first
        if one != NULL and not before(tp.copied_seq, one.end_seq):
            tp.sk_rmem_alloc -= one.truesize
            skb_unlink(&tp.sk_receive_queue, one)
            kfree_skb(&net.skbs, one)
    tp.urg_data = TCP_URG_NOTYET
    tp.urg_seq = ptr
    sk_wake(net, tp)


cdef inline void tcp_urg(netns *net, tcp_sock *tp, const rcv_skb *r) noexcept nogil:
    """The urgent octet may come later than its pointer."""
    cdef uint32_t at
    if tp.urg_data == TCP_URG_NOTYET:
        at = tp.urg_seq - r.th.seq
        if at < r.len:
            tp.urg_data = TCP_URG_VALID | r.data[at]
            sk_wake(net, tp)


# When to acknowledge.


cdef inline void tcp_incr_quickack(tcp_sock *tp, uint32_t most) noexcept nogil:
    cdef int64_t quick = tp.rcv_wnd // (2 * tp.rcv_mss)
    if not quick:
        quick = 2
    tp.ack_quick = <uint8_t>max(<int64_t>tp.ack_quick, min(quick, <int64_t>most))


cdef inline void tcp_enter_quickack_mode(tcp_sock *tp, uint32_t most) noexcept nogil:
    tcp_incr_quickack(tp, most)
    tp.ack_pingpong = 0
    tp.ack_ato_ns = TCP_ATO_MIN_NS


cdef inline bint tcp_in_quickack_mode(const tcp_sock *tp) noexcept nogil:
    return tp.ack_quick != 0 and tp.ack_pingpong < TCP_PINGPONG_THRESH


cdef inline void tcp_initialize_rcv_mss(tcp_sock *tp) noexcept nogil:
    cdef int64_t hint = min(min(tp.advmss, tp.mss_cache), <uint16_t>TCP_MSS_DEFAULT)
    hint = min(hint, tp.rcv_wnd // 2)
    tp.rcv_mss = <int32_t>max(hint, <int64_t>TCP_MIN_MSS)


cdef inline void tcp_measure_rcv_mss(
    const netns *net, tcp_sock *tp, const segment *th
) noexcept nogil:
    """What the peer's full segments hold, as far as it can be told."""
    cdef int32_t last = tp.last_seg_size
    cdef int64_t length = net.net.gso_size, whole
    if not length:
        length = th.payload_len
    tp.last_seg_size = 0
    if length >= tp.rcv_mss:
        if length != tp.rcv_mss:
            tcp_measure_scaling_ratio(net, tp, th.payload_len)
        tp.rcv_mss = <int32_t>min(length, <int64_t>tp.advmss)
        if th.flags & TCPHDR_PSH:  # it may end a write, so that no more follows
            tp.ack_pending |= ICSK_ACK_PUSHED
        return
    whole = length + 4 * <int64_t>th.doff  # its options may take what text could
    if whole >= TCP_MSS_DEFAULT + 20 or (
        whole >= TCP_MIN_MSS + 20 and not th.flags & TCP_REMNANT
    ):
        length = whole - tp.tcp_header_len
        tp.last_seg_size = <int32_t>length
        if length == last:
            tp.rcv_mss = <int32_t>length
            return
    if tp.ack_pending & ICSK_ACK_PUSHED:
        tp.ack_pending |= ICSK_ACK_PUSHED2
    tp.ack_pending |= ICSK_ACK_PUSHED


cdef inline void tcp_measure_scaling_ratio(
    const netns *net, tcp_sock *tp, int64_t length
) noexcept nogil:
    """What the peer's segments cost tells how much of the memory a window may fill."""
    cdef uint8_t old = tp.scaling_ratio
    cdef int64_t cost = skb_truesize(<uint32_t>length, net.net.gso_size)
    cdef int64_t ratio = (length << TCP_RMEM_TO_WIN_SCALE) // cost
    tp.scaling_ratio = <uint8_t>(ratio if ratio else 1)
    if tp.scaling_ratio != old:
        tp.window_clamp = <int32_t>tcp_win_from_space(tp, tp.sk_rcvbuf)
        tp.rcvq_space = <uint32_t>min(<int64_t>tp.rcvq_space, tp.window_clamp)


cdef inline void tcp_event_data_recv(
    netns *net, tcp_sock *tp, const segment *th
) noexcept nogil:
    """Data came in order: owe an acknowledgment, guess how long it may wait."""
    cdef uint32_t length = th.payload_len
    cdef int64_t now_ns = net.net.now_ns
    cdef int64_t gap_ns
    tp.ack_pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(net, tp, th)
    tcp_rcv_rtt_measure(net, tp)
    if not tp.ack_ato_ns:  # the first
        tcp_incr_quickack(tp, TCP_MAX_QUICKACKS)
        tp.ack_ato_ns = TCP_ATO_MIN_NS
    else:
        gap_ns = now_ns - tp.ack_lrcvtime_ns
        if gap_ns <= TCP_ATO_MIN_NS // 2:
            tp.ack_ato_ns = (tp.ack_ato_ns >> 1) + TCP_ATO_MIN_NS // 2
        elif gap_ns < tp.ack_ato_ns:
            tp.ack_ato_ns = min((tp.ack_ato_ns >> 1) + gap_ns, tp.rto_ns)
        elif gap_ns > tp.rto_ns:
            tcp_incr_quickack(tp, TCP_MAX_QUICKACKS)
    tp.ack_lrcvtime_ns = now_ns
    if tp.ecn_flags and tcp_data_ecn_check(tp, net.ip_dsfield):
        tcp_enter_quickack_mode(tp, 2)
    if length >= 128:
        tcp_grow_window(net, tp, length)


cdef inline void tcp_grow_window(netns *net, tcp_sock *tp, uint32_t length) noexcept nogil:
    """Open the window by what is sure to fit the buffer."""
    cdef int64_t room = min(tp.window_clamp, tcp_space(tp)) - tp.rcv_ssthresh
    cdef int64_t cost, window, more
    if room <= 0:
        return
    cost = tcp_win_from_space(tp, skb_truesize(length, net.net.gso_size))
    more = 2 * <int64_t>tp.advmss
    if cost > length:  # small segments in large buffers: the more has been offered, the less
        cost >>= 1
        window = tcp_win_from_space(tp, net.sysctl.tcp_rmem[2]) >> 1
        while tp.rcv_ssthresh <= window and cost > length:
            cost >>= 1
            window >>= 1
        more = 2 * <int64_t>tp.rcv_mss if tp.rcv_ssthresh <= window else 0
    if more:
        tp.rcv_ssthresh += <int32_t>min(room, max(more, 2 * <int64_t>length))
        tp.ack_quick |= 1


cdef inline void tcp_ack_snd_check(netns *net, tcp_sock *tp) noexcept nogil:
    """Acknowledge now, later, or not (9293:SHLD-18, SHLD-19, MUST-58)."""
    cdef bint more
    if not tp.ack_pending & ICSK_ACK_SCHED:
        return
    more = <int64_t>(<uint32_t>(tp.tcb.rcv_nxt - tp.rcv_wup)) > tp.rcv_mss
    if (
        (more and tcp_choose_window(net, tp) >= tp.rcv_wnd)
        or tcp_in_quickack_mode(tp)
        or net.route.quickack
        or tp.ack_pending & ICSK_ACK_NOW
    ):
        tcp_send_ack(net, tp)
    elif tp.out_of_order_queue.first == NULL:
        tcp_send_delayed_ack(net, tp)
    else:
        tcp_send_dup_ack(net, tp)
