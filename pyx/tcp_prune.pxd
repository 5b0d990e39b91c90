# What gives way where a receive buffer is full: the window, small pieces, what is behind holes.
# Linux: net/ipv4/tcp_input.c (tcp_prune_queue, tcp_clamp_window, tcp_collapse, tcp_prune_ofo_queue).
# RFC 9293 3.8.6; RFC 2018 8.

from libc.stdint cimport int64_t, uint16_t, uint32_t
from netns cimport NET_INC_STATS, netns
from rbtree cimport rb_erase, rb_insert
from skbuff cimport alloc_skb, kfree_skb, skb_pull, skb_put_data, skb_queue_after, skb_unlink
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_window cimport tcp_win_from_space

cdef enum:
    COLLAPSE_ROOM = PAGE - SKB_SHARED_INFO  # text of a joined piece
    OFO_WALK_FREE = 64  # so many pieces behind holes are looked at whenever memory runs out
    OFO_DUE_MAX = 65535
    LOOKED_AT = 1  # in `sacked`, which what was received has no other use for


cdef inline bint tcp_prune_queue(netns *net, tcp_sock *tp, uint32_t seq) noexcept nogil:
    """Make room in a buffer that is full; True if there is some now."""
    NET_INC_STATS(net, PRUNECALLED)
    tcp_clamp_window(net, tp)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    tcp_collapse_ofo_queue(net, tp)
    tcp_collapse_receive_queue(net, tp)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    tcp_prune_ofo_queue(net, tp, seq)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    NET_INC_STATS(net, RCVPRUNED)
    return False


cdef inline void tcp_clamp_window(netns *net, tcp_sock *tp) noexcept nogil:
    """Hold what is there already, unless the caller has set a bound; then offer little."""
    cdef int64_t most = net.sysctl.tcp_rmem[2]
    tp.ack_quick = 0
    if tp.sk_rcvbuf < most and not tp.userlocks & SOCK_RCVBUF_LOCK:
        tp.sk_rcvbuf = min(<int64_t>tp.sk_rmem_alloc, most)
    if tp.sk_rmem_alloc > tp.sk_rcvbuf:
        tp.rcv_ssthresh = min(tp.window_clamp, 2 * <int32_t>tp.advmss)


cdef inline void tcp_collapse_receive_queue(netns *net, tcp_sock *tp) noexcept nogil:
    """Join what can be read, from the last piece on that was looked at before."""
    cdef skb *one = tp.sk_receive_queue.last
    cdef uint32_t start
    if one == NULL:
        return
    while one.prev != NULL and not one.sacked:
        one = one.prev
    start = one.seq if before(tp.copied_seq, one.seq) else tp.copied_seq
    tcp_collapse(net, tp, &tp.sk_receive_queue, one, NULL, start, tp.tcb.rcv_nxt)
    tp.sk_receive_queue.last.sacked = LOOKED_AT


cdef inline void tcp_collapse_ofo_queue(netns *net, tcp_sock *tp) noexcept nogil:
    """Join what waits behind holes, each run for itself; small runs are left, and many end it.

    All are looked at again once an eighth of them is new, so that each pays for eight at most.
    """
    cdef skb_queue *queue = &tp.out_of_order_queue
    cdef skb *head = queue.first
    cdef skb *one = head
    cdef skb *last
    cdef int64_t cost, tiny = 0
    cdef uint32_t pieces = 0
    if tp.ofo_due:
        return
    while one != NULL:
        pieces += 1
        one = one.next
    if pieces > OFO_WALK_FREE:
        tp.ofo_due = <uint16_t>min(pieces >> 3, <uint32_t>OFO_DUE_MAX)
    while head != NULL:
        last = head
        cost = head.truesize
        one = head.next
        while one != NULL and one.seq == last.end_seq:
            cost += one.truesize
            last = one
            one = one.next
        if last != head or <uint32_t>(last.end_seq - head.seq) >= COLLAPSE_ROOM:
            tcp_collapse(net, tp, queue, head, one, head.seq, last.end_seq)
        else:
            tiny += cost
            if tiny > tp.sk_rcvbuf >> 3:
                return
        head = one


cdef inline void tcp_collapse(
    netns *net,
    tcp_sock *tp,
    skb_queue *queue,
    skb *one,
    const skb *tail,
    uint32_t start,
    uint32_t end,
) noexcept nogil:
    """Copy a run of pieces into larger ones, from the first on that wastes its memory."""
    cdef bint tree = queue == &tp.out_of_order_queue, wasted
    cdef skb *made
    cdef skb *where
    cdef skb *behind
    cdef uint32_t room, left, length
    while one != tail:
        wasted = tcp_win_from_space(tp, one.truesize) > one.len or before(one.seq, start)
        if wasted and before(start, one.end_seq) and not one.tcp_flags & TCPHDR_FIN:
            break
        start = one.end_seq
        one = one.next
    while one != tail and not one.tcp_flags & TCPHDR_FIN:
        room = min(<uint32_t>(end - start), <uint32_t>COLLAPSE_ROOM)
        made = alloc_skb(&net.skbs, room)
        if made == NULL:
            return  # what was joined stays so
        where = one.prev
        made.seq = start
        made.tcp_flags = one.tcp_flags
        made.truesize = skb_collapsed_size(room)
        made.frag = made.truesize - SKB_OVERHEAD - SKB_SHARED_INFO
        made.skb_mstamp_ns = one.skb_mstamp_ns
        tp.sk_rmem_alloc += made.truesize
        while room and one != tail and not one.tcp_flags & TCPHDR_FIN:
            left = one.end_seq - start
            length = min(left, room)
            skb_pull(one, one.len - left)
            skb_put_data(made, one.data, length)
            skb_pull(one, length)
            start += length
            one.seq = start
            room -= length
            if length == left:
                NET_INC_STATS(net, TCP_RCVCOLLAPSED)
                tp.sk_rmem_alloc -= one.truesize
                behind = one.next
                if tree:
                    rb_erase(queue, one)
                else:
                    skb_unlink(queue, one)
                kfree_skb(&net.skbs, one)
                one = behind
        made.end_seq = start
        if tree:
            rb_insert(queue, where, made)
        else:
            skb_queue_after(queue, where, made)


cdef inline uint32_t skb_collapsed_size(uint32_t length) noexcept nogil:
    """Memory that a joined piece takes, which has no headers."""
    cdef uint32_t size = ((length + 63) & ~<uint32_t>63) + SKB_SHARED_INFO
    cdef uint32_t power = 1024
    if size <= SKB_SMALL_HEAD:
        return SKB_OVERHEAD + SKB_SMALL_HEAD
    while power < size:
        power <<= 1
    return SKB_OVERHEAD + power


cdef inline void tcp_prune_ofo_queue(netns *net, tcp_sock *tp, uint32_t seq) noexcept nogil:
    """Drop what lies behind a number, the last first, an eighth of the buffer at a time."""
    cdef skb_queue *queue = &tp.out_of_order_queue
    cdef skb *last = queue.last
    cdef int64_t goal = tp.sk_rcvbuf >> 3
    if last == NULL or after(seq, last.seq):
        return
    NET_INC_STATS(net, TCP_OFOPRUNE)
    tp.n_sacks = 0  # as after a time-out: nothing is told of that may be gone
    while last != NULL and not after(seq, last.seq):
        tp.sk_rmem_alloc -= last.truesize
        goal -= last.truesize
        rb_erase(queue, last)
        kfree_skb(&net.skbs, last)
        last = queue.last
        if goal <= 0:
            if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
                break
            goal = tp.sk_rcvbuf >> 3
