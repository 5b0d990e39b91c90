# What is lost: SACK's scoreboard, fast retransmit with and without it, undo, proportional rate.
# Linux: net/ipv4/tcp_input.c, tcp_rack_reo_timeout in tcp_recovery.c.
# RFC 2018, 2883, 5681 3.2, 5682, 6582, 6675, 8985, 9937.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from inet_connection_sock cimport tcp_rearm_rto, tcp_reset_xmit_timer
from netns cimport NET_ADD_STATS, NET_INC_STATS, netns
from rbtree cimport RB_NEVER, RB_UNSACKED, rb_changed, rb_changed_all, rb_find, rb_seek
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_cong cimport (
    CA_EVENT_LOSS,
    ca_cwnd_event,
    ca_ssthresh,
    tcp_current_ssthresh,
    tcp_enter_cwr,
    tcp_set_ca_state,
    tcp_init_cwnd_reduction,
)
from tcp_ecn cimport tcp_ecn_queue_cwr
from tcp_output cimport tcp_fragment
from tcp_rack cimport (
    mark_lost,
    tcp_mark_skb_lost,
    tcp_rack_advance,
    tcp_rack_detect_loss,
    tcp_rack_mark_lost,
    tcp_rack_skb_timeout,
)
from tcp_rate cimport rate_sample, tcp_rate_skb_delivered
from tcp_retransmit cimport tcp_xmit_retransmit_queue
from tcp_undo cimport (
    tcp_check_sack_reordering,
    tcp_any_retrans_done,
    tcp_try_keep_open,
    tcp_try_undo_dsack,
    tcp_try_undo_loss,
    tcp_try_undo_partial,
    tcp_try_undo_recovery,
)
from tcp_window cimport tcp_current_mss, tcp_packets_in_flight, tcp_wnd_end
from timer cimport NSEC_PER_MSEC

cdef enum:
    FLAG_DATA = 0x01  # the segment had data
    FLAG_WIN_UPDATE = 0x02
    FLAG_DATA_ACKED = 0x04  # data was acknowledged
    FLAG_RETRANS_DATA_ACKED = 0x08  # some of it had been sent again
    FLAG_SYN_ACKED = 0x10
    FLAG_DATA_SACKED = 0x20  # SACK told of something new
    FLAG_ECE = 0x40  # the peer tells of a mark
    FLAG_ORIG_SACK_ACKED = 0x200  # data of before the loss arrived that was never sent again
    FLAG_SND_UNA_ADVANCED = 0x400
    FLAG_DSACKING_ACK = 0x800
    FLAG_SET_XMIT_TIMER = 0x1000  # wait anew for a probe or the time-out
    FLAG_SACK_RENEGING = 0x2000
    FLAG_DSACK_TLP = 0x20000  # the duplicate was a probe of the tail
    FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
    FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED


cdef inline bint tcp_is_sack(const tcp_sock *tp) noexcept nogil:
    return tp.sack_ok != 0


cdef inline bint tcp_is_sackblock_valid(
    const tcp_sock *tp, uint32_t start, uint32_t end, bint duplicate
) noexcept nogil:
    """True for a block about what was sent and not acknowledged; a duplicate may lie below."""
    cdef const tcb *known = &tp.tcb
    if after(end, known.snd_nxt) or not before(start, end) or not before(start, known.snd_nxt):
        return False
    if after(start, known.snd_una):
        return True
    if not duplicate or not tp.undo_marker:
        return False
    return (
        not after(end, known.snd_una)
        and not before(start, tp.undo_marker - known.max_window)
        and before(start, known.snd_una)
    )


cdef inline bint tcp_check_dsack(
    netns *net, tcp_sock *tp, const sack_block *blocks, int count, uint32_t prior_una, uint32_t ack
) noexcept nogil:
    """True if the first block tells of a duplicate (RFC 2883 4); undo counts it."""
    cdef uint32_t start = blocks[0].start, end = blocks[0].end, segs = 0
    if before(start, ack):
        NET_INC_STATS(net, TCP_DSACKRECV)
    elif count > 1 and not before(start, blocks[1].start) and not after(end, blocks[1].end):
        NET_INC_STATS(net, TCP_DSACKOFORECV)
    else:
        return False
    if before(start, end) and end - start <= tp.tcb.max_window:
        segs = (end - start + <uint32_t>tp.mss_cache - 1) // <uint32_t>tp.mss_cache
    tp.dsack_dups += segs
    if not segs or tp.dsack_dups > tp.total_retrans:  # it was not sent again: the network's copy
        NET_INC_STATS(net, TCP_DSACKIGNOREDDUBIOUS)
        return False
    NET_ADD_STATS(net, TCP_DSACKRECVSEGS, segs)
    tp.sack_ok |= 4
    tp.delivered += segs
    if tp.undo_marker and tp.undo_retrans > 0 and not after(end, prior_una):
        if after(end, tp.undo_marker):
            tp.undo_retrans = max(tp.undo_retrans - <int32_t>segs, <int32_t>0)
    return True


cdef inline int tcp_sacktag_write_queue(
    netns *net, tcp_sock *tp, const sack_block *blocks, int count, uint32_t prior_una,
    uint32_t ack, rate_sample *rs
) noexcept nogil:
    """Mark what SACK tells of (RFC 2018 5), in the order of its numbers: FLAG_."""
    cdef int flags = 0, i, n = 0, at
    cdef bint duplicate, first, known
    cdef int64_t mss
    cdef sack_block told[4]
    cdef skb *one
    cdef skb *next
    if tcp_check_dsack(net, tp, blocks, count, prior_una, ack):
        flags = FLAG_DSACKING_ACK
        if tp.tlp_high_seq and tp.tlp_high_seq == blocks[0].end:
            if <uint32_t>(blocks[0].end - blocks[0].start) <= <uint32_t>tp.mss_cache:
                flags |= FLAG_DSACK_TLP
        if not flags & FLAG_DSACK_TLP and tp.reord_seen:
            tp.rack_dsack_seen = 1
    if not tp.packets_out:
        return flags
    duplicate = flags != 0
    mss = tcp_current_mss(net, tp)
    for i in range(count):
        first = duplicate and i == 0
        if not tcp_is_sackblock_valid(tp, blocks[i].start, blocks[i].end, first):
            if first:
                known = tp.undo_marker != 0
                NET_INC_STATS(net, TCP_DSACKIGNOREDOLD if known else TCP_DSACKIGNOREDNOUNDO)
            else:
                NET_INC_STATS(net, TCP_SACKDISCARD)
        elif after(blocks[i].end, prior_una):
            at = n
            while at and before(blocks[i].start, told[at - 1].start):
                told[at] = told[at - 1]
                at -= 1
            told[at] = blocks[i]
            n += 1
    for i in range(n):
        one = rb_find(&tp.tcp_rtx_queue, told[i].start)
        if one == NULL:
            one = tp.tcp_rtx_queue.first
        elif not after(one.end_seq, told[i].start):
            one = one.next
        one = rb_seek(one, RB_UNSACKED, RB_NEVER)
        while one != NULL and before(one.seq, told[i].end):
            next = one.next
            if before(one.seq, told[i].start) or after(one.end_seq, told[i].end):
                next = tcp_sack_split(net, tp, one, told[i].start, told[i].end, mss)
            else:
                flags |= tcp_sacktag_one(net, tp, one, rs)
                tcp_rate_skb_delivered(tp, one, rs)
            one = rb_seek(next, RB_UNSACKED, RB_NEVER)
    if rs.late and (tp.ca_state != TCP_CA_LOSS or tp.undo_marker):
        tcp_check_sack_reordering(net, tp, rs.reord, TCP_SACKREORDER)
    return flags


cdef inline skb *tcp_sack_split(
    netns *net, tcp_sock *tp, skb *one, uint32_t start, uint32_t end, int64_t mss
) noexcept nogil:
    """Cut a piece that a block covers in part, at whole segments; which to look at next."""
    cdef int64_t keep
    if before(one.seq, start):
        keep = (<uint32_t>(start - one.seq) + mss - 1) // mss * mss
        if keep < one.len:
            tcp_fragment(net, tp, &tp.tcp_rtx_queue, one, keep, mss)
        return one.next
    keep = <uint32_t>(end - one.seq) // mss * mss
    if 0 < keep < one.len and tcp_fragment(net, tp, &tp.tcp_rtx_queue, one, keep, mss) == 0:
        return one
    return one.next


cdef inline int tcp_sacktag_one(
    netns *net, tcp_sock *tp, skb *one, rate_sample *rs
) noexcept nogil:
    """The peer has this piece, though not all before it."""
    cdef int flags = FLAG_DATA_SACKED
    cdef uint32_t low
    tcp_rack_advance(net, tp, one.sacked, one.end_seq, one.skb_mstamp_ns)
    if one.sacked & TCPCB_SACKED_RETRANS:
        if one.sacked & TCPCB_LOST:
            one.sacked &= <uint8_t>~TCPCB_LOST
            tp.lost_out -= one.pcount
        one.sacked &= <uint8_t>~TCPCB_SACKED_RETRANS
        tp.retrans_out -= one.pcount
    elif one.sacked & TCPCB_LOST:
        one.sacked &= <uint8_t>~TCPCB_LOST
        tp.lost_out -= one.pcount
    if not one.sacked & TCPCB_EVER_RETRANS:
        low = rs.reord if rs.late else tp.highest_sack
        if tp.highest_sack and before(one.seq, low):
            rs.late = 1
            rs.reord = one.seq
        rs.last_sackt_ns = one.skb_mstamp_ns
        if rs.first_sackt_ns < 0:
            rs.first_sackt_ns = one.skb_mstamp_ns
        if not after(one.end_seq, tp.high_seq):
            flags |= FLAG_ORIG_SACK_ACKED
    one.sacked |= TCPCB_SACKED_ACKED
    one.rack_off = 1
    tp.sacked_out += one.pcount
    tp.delivered += one.pcount
    if not tp.highest_sack or after(one.end_seq, tp.highest_sack):
        tp.highest_sack = one.end_seq
    rb_changed(one)
    return flags


cdef inline bint tcp_identify_packet_loss(netns *net, tcp_sock *tp, int flags) noexcept nogil:
    """Mark what is lost; True if that was lost again which had been sent again."""
    cdef int32_t retrans_out = tp.retrans_out
    if tp.packets_out and tcp_is_sack(tp):
        tcp_rack_mark_lost(net, tp)
    elif tp.packets_out:
        tcp_newreno_mark_lost(net, tp, flags & FLAG_SND_UNA_ADVANCED != 0)
    return tp.retrans_out < retrans_out


cdef inline void tcp_newreno_mark_lost(netns *net, tcp_sock *tp, bint advanced) noexcept nogil:
    """Without SACK only the first piece is known to be lost (RFC 6582 3.2)."""
    cdef skb *one = tp.tcp_rtx_queue.first
    cdef int64_t mss
    if tp.ca_state < TCP_CA_RECOVERY:
        if tp.sacked_out < tp.reordering:
            return
    elif tp.ca_state != TCP_CA_RECOVERY or not advanced:
        return
    if one.sacked & TCPCB_LOST:
        return
    mss = tcp_current_mss(net, tp)
    if one.pcount > 1:
        tcp_fragment(net, tp, &tp.tcp_rtx_queue, one, mss, mss)
    tcp_mark_skb_lost(net, tp, one)


cdef inline void tcp_rack_reo_timeout(netns *net, tcp_sock *tp) noexcept nogil:
    """What was late is lost now (RFC 8985 6.3)."""
    cdef int32_t flight = tcp_packets_in_flight(tp)
    cdef uint32_t lost = tp.lost
    tcp_rack_detect_loss(net, tp)
    if tcp_packets_in_flight(tp) != flight:
        if tp.ca_state != TCP_CA_RECOVERY:
            tcp_enter_recovery(net, tp, 0)
            tcp_cwnd_reduction(net, tp, 1, <uint32_t>(tp.lost - lost), 0)
        tcp_xmit_retransmit_queue(net, tp)
    if tp.icsk_pending != ICSK_TIME_RETRANS:
        tcp_rearm_rto(net, tp)


cdef inline void tcp_check_reno_reordering(
    netns *net, tcp_sock *tp, int32_t acked
) noexcept nogil:
    """More duplicate ACKs than segments that can have left: order was not kept."""
    cdef int32_t most = tp.packets_out - min(max(tp.lost_out, <int32_t>1), tp.packets_out)
    cdef int64_t reordering = tp.packets_out + acked
    if tp.sacked_out > most:
        tp.sacked_out = most
        tp.reordering = <int32_t>min(reordering, net.sysctl.tcp_max_reordering)
        tp.reord_seen += 1
        NET_INC_STATS(net, TCP_RENOREORDER)


cdef inline void tcp_add_reno_sack(netns *net, tcp_sock *tp, int32_t segs) noexcept nogil:
    """Without SACK each duplicate ACK stands for a segment that left the network."""
    cdef int32_t prior_sacked = tp.sacked_out
    tp.sacked_out += segs
    tcp_check_reno_reordering(net, tp, 0)
    tp.delivered += max(tp.sacked_out - prior_sacked, <int32_t>0)


cdef inline void tcp_remove_reno_sacks(netns *net, tcp_sock *tp, int32_t acked) noexcept nogil:
    if acked > 0:
        tp.delivered += max(acked - tp.sacked_out, <int32_t>1)
        tp.sacked_out = 0 if acked - 1 >= tp.sacked_out else tp.sacked_out - (acked - 1)
    tcp_check_reno_reordering(net, tp, acked)


cdef inline void tcp_init_undo(tcp_sock *tp) noexcept nogil:
    tp.undo_marker = tp.tcb.snd_una if tp.tcb.snd_una else 1
    tp.undo_retrans = tp.retrans_out
    if tp.tlp_high_seq and tp.tlp_retrans:  # its duplicate may be reported yet
        tp.undo_retrans += 1
    if not tp.undo_retrans:
        tp.undo_retrans = -1


cdef inline void tcp_cwnd_reduction(
    netns *net, tcp_sock *tp, int64_t delivered, int64_t lost, int flags
) noexcept nogil:
    """Spread what is sent in recovery over its round trip (RFC 9937)."""
    cdef int64_t flight, delta, count
    if delivered <= 0 or not tp.prior_cwnd:
        return
    flight = tcp_packets_in_flight(tp)
    delta = tp.snd_ssthresh - flight
    tp.prr_delivered += <int32_t>delivered
    if delta < 0:
        count = <int64_t>tp.snd_ssthresh * tp.prr_delivered + tp.prior_cwnd - 1
        count = count // tp.prior_cwnd - tp.prr_out
    else:
        count = max(<int64_t>tp.prr_delivered - tp.prr_out, delivered)
        if flags & FLAG_SND_UNA_ADVANCED and not lost:
            count += 1
        count = min(delta, count)
    count = max(count, <int64_t>(0 if tp.prr_out else 1))
    tp.snd_cwnd = <int32_t>(flight + count)


cdef inline void tcp_end_cwnd_reduction(netns *net, tcp_sock *tp) noexcept nogil:
    if tp.snd_ssthresh < 0x7FFFFFFF and (tp.undo_marker or tp.ca_state == TCP_CA_CWR):
        tp.snd_cwnd = tp.snd_ssthresh


cdef inline void tcp_enter_recovery(netns *net, tcp_sock *tp, int flags) noexcept nogil:
    """Three duplicates: the window shrinks, what is lost is sent again (RFC 5681 3.2)."""
    NET_INC_STATS(net, TCP_SACKRECOVERY if tcp_is_sack(tp) else TCP_RENORECOVERY)
    tp.prior_ssthresh = 0
    tcp_init_undo(tp)
    if tp.ca_state < TCP_CA_CWR:
        if not flags & FLAG_ECE:
            tp.prior_ssthresh = tcp_current_ssthresh(tp)
        tcp_init_cwnd_reduction(tp, net.net.now_ns)
    tcp_set_ca_state(tp, TCP_CA_RECOVERY, net.net.now_ns)


cdef inline void tcp_enter_loss(netns *net, tcp_sock *tp) noexcept nogil:
    """The time-out: everything in flight is lost, one segment goes (RFC 5681 3.1, 6298 5.4)."""
    cdef skb *one = tp.tcp_rtx_queue.first
    cdef bint reneging = one.sacked & TCPCB_SACKED_ACKED
    cdef bint first = tp.ca_state < TCP_CA_RECOVERY
    if reneging:
        NET_INC_STATS(net, TCP_SACKRENEGING)
        tp.sacked_out = 0
    elif not tcp_is_sack(tp):
        tp.sacked_out = 0
    while one != NULL:
        if reneging:
            one.sacked &= <uint8_t>~TCPCB_SACKED_ACKED
        elif one != tp.tcp_rtx_queue.first:
            if tcp_rack_skb_timeout(net, tp, one.skb_mstamp_ns, 0) > 0:  # sent a moment ago
                one = one.next
                continue
        mark_lost(net, tp, one)
        if one.sacked & TCPCB_SACKED_RETRANS:
            one.sacked &= <uint8_t>~TCPCB_SACKED_RETRANS
            tp.retrans_out -= one.pcount
        one = one.next
    rb_changed_all(&tp.tcp_rtx_queue)
    if (
        tp.ca_state <= TCP_CA_DISORDER
        or not after(tp.high_seq, tp.tcb.snd_una)
        or (tp.ca_state == TCP_CA_LOSS and not tp.retransmits)
    ):
        tp.prior_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_cwnd = tp.snd_cwnd
        tp.snd_ssthresh = ca_ssthresh(tp, net.net.now_ns)
        ca_cwnd_event(tp, CA_EVENT_LOSS, net.net.now_ns)
        tcp_init_undo(tp)
    tp.snd_cwnd = tcp_packets_in_flight(tp) + 1
    tp.snd_cwnd_cnt = 0
    if tp.ca_state <= TCP_CA_DISORDER and tp.sacked_out >= net.sysctl.tcp_reordering:
        tp.reordering = <int32_t>min(<int64_t>tp.reordering, net.sysctl.tcp_reordering)
    tcp_set_ca_state(tp, TCP_CA_LOSS, net.net.now_ns)
    tp.high_seq = tp.tcb.snd_nxt
    tp.tlp_high_seq = 0
    tcp_ecn_queue_cwr(tp)
    tp.frto = net.sysctl.tcp_frto and (first or tp.retransmits)


cdef inline void tcp_simple_retransmit(netns *net, tcp_sock *tp) noexcept nogil:
    """What is in flight is too large for the path: it is lost, and that is no congestion."""
    cdef int64_t mss = tcp_current_mss(net, tp)
    cdef skb *one = tp.tcp_rtx_queue.first
    while one != NULL:
        if (one.gso_size if one.gso_size else one.len) > mss:
            tcp_mark_skb_lost(net, tp, one)
        one = one.next
    if not tp.lost_out:
        return
    if tp.ca_state != TCP_CA_LOSS:
        tp.high_seq = tp.tcb.snd_nxt
        tp.snd_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_ssthresh = 0
        tp.undo_marker = 0
        tcp_set_ca_state(tp, TCP_CA_LOSS, net.net.now_ns)
    tcp_xmit_retransmit_queue(net, tp)


cdef inline void tcp_process_tlp_ack(
    netns *net, tcp_sock *tp, uint32_t ack, int flags
) noexcept nogil:
    """End a probe's episode: was the tail lost, which the probe has mended? (RFC 8985 7.4)."""
    if before(ack, tp.tlp_high_seq):
        return
    if not tp.tlp_retrans or flags & FLAG_DSACK_TLP:
        tp.tlp_high_seq = 0  # it was new data; or the segment came twice
    elif after(ack, tp.tlp_high_seq):
        tcp_init_cwnd_reduction(tp, net.net.now_ns)
        tcp_set_ca_state(tp, TCP_CA_CWR, net.net.now_ns)
        tcp_end_cwnd_reduction(net, tp)
        tcp_try_keep_open(net, tp)
        NET_INC_STATS(net, TCP_LOSSPROBERECOVERY)
    elif not flags & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        tp.tlp_high_seq = 0  # a bare duplicate: the segment came twice


cdef inline bint tcp_check_sack_reneging(netns *net, tcp_sock *tp, int flags) noexcept nogil:
    """True if the peer seems to have dropped what it told of (RFC 2018 8): it is given half a
    round trip, then all is lost."""
    cdef int64_t delay_ns
    if not flags & FLAG_SACK_RENEGING or not flags & FLAG_SND_UNA_ADVANCED:
        return False
    delay_ns = max((tp.srtt_us >> 4) * 1000, <int64_t>10 * NSEC_PER_MSEC)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, delay_ns)
    return True


cdef inline bint tcp_fastretrans_alert(
    netns *net, tcp_sock *tp, uint32_t prior_una, int32_t dup_acks, int flags
) noexcept nogil:
    """Go through the states of recovery with one acknowledgment, where anything is out of order.

    True if new data is to be sent before what is lost (F-RTO).
    """
    cdef bint new, again
    if not tp.packets_out and tp.sacked_out:
        tp.sacked_out = 0
    if flags & FLAG_ECE:
        tp.prior_ssthresh = 0  # the window is to shrink, whatever was lost or not
    if tcp_check_sack_reneging(net, tp, flags):
        return False
    if tp.ca_state == TCP_CA_OPEN:
        tp.retrans_stamp = 0
    elif not before(tp.tcb.snd_una, tp.high_seq):
        if tp.ca_state == TCP_CA_CWR:
            if tp.tcb.snd_una != tp.high_seq:
                tcp_end_cwnd_reduction(net, tp)
                tcp_set_ca_state(tp, TCP_CA_OPEN, net.net.now_ns)
        elif tp.ca_state == TCP_CA_RECOVERY:
            if not tcp_is_sack(tp):
                tp.sacked_out = 0
            if tcp_try_undo_recovery(net, tp):
                return False
            tcp_end_cwnd_reduction(net, tp)
    if tp.ca_state == TCP_CA_RECOVERY:
        if flags & FLAG_SND_UNA_ADVANCED:
            if tcp_try_undo_partial(net, tp, prior_una):
                return False
        elif not tcp_is_sack(tp) and (dup_acks > 0 or flags & FLAG_DATA_SACKED):
            tcp_add_reno_sack(net, tp, dup_acks)
        if tcp_try_undo_dsack(net, tp):
            tcp_try_to_open(net, tp, flags)
        tcp_identify_packet_loss(net, tp, flags)
        if tp.ca_state != TCP_CA_RECOVERY and tp.lost_out:
            tcp_enter_recovery(net, tp, flags)
        return False
    if tp.ca_state == TCP_CA_LOSS:
        new = tcp_process_loss(net, tp, flags, dup_acks)
        again = tcp_identify_packet_loss(net, tp, flags)
        if tp.ca_state != TCP_CA_OPEN and not again:
            return new
    if not tcp_is_sack(tp):
        if flags & FLAG_SND_UNA_ADVANCED:
            tp.sacked_out = 0
        if dup_acks:
            tcp_add_reno_sack(net, tp, dup_acks)
    if tp.ca_state <= TCP_CA_DISORDER:
        tcp_try_undo_dsack(net, tp)
    tcp_identify_packet_loss(net, tp, flags)
    if tp.lost_out:
        tcp_enter_recovery(net, tp, flags)
    else:
        tcp_try_to_open(net, tp, flags)
    return False


cdef inline void tcp_try_to_open(netns *net, tcp_sock *tp, int flags) noexcept nogil:
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    if flags & FLAG_ECE:
        tcp_enter_cwr(tp, net.net.now_ns)
    if tp.ca_state != TCP_CA_CWR:
        tcp_try_keep_open(net, tp)


cdef inline bint tcp_process_loss(
    netns *net, tcp_sock *tp, int flags, int32_t dup_acks
) noexcept nogil:
    """After a time-out: until everything of then is acknowledged. True if new data comes first."""
    cdef bint recovered = not before(tp.tcb.snd_una, tp.high_seq)
    if flags & FLAG_SND_UNA_ADVANCED and tcp_try_undo_loss(net, tp, False):
        return False
    if tp.frto:  # RFC 5682 3.1: is what comes now of before the time-out, or of the copy?
        if flags & FLAG_ORIG_SACK_ACKED and tcp_try_undo_loss(net, tp, True):
            return False
        if after(tp.tcb.snd_nxt, tp.high_seq):
            if flags & FLAG_DATA_SACKED or dup_acks:
                tp.frto = 0  # 3.a: new data arrived, what was before it did not
        elif flags & FLAG_SND_UNA_ADVANCED and not recovered:
            tp.high_seq = tp.tcb.snd_nxt
            if tp.sk_write_queue.first != NULL and after(tcp_wnd_end(tp), tp.tcb.snd_nxt):
                return True  # 2.b
            tp.frto = 0
    if recovered:
        tcp_try_undo_recovery(net, tp)
        return False
    if not tcp_is_sack(tp):
        if after(tp.tcb.snd_nxt, tp.high_seq) and dup_acks:
            tcp_add_reno_sack(net, tp, dup_acks)
        elif flags & FLAG_SND_UNA_ADVANCED:
            tp.sacked_out = 0
    return False
