# What an acknowledgment frees and teaches: the retransmit queue, round trips, the window.
# Linux: tcp_ack, tcp_clean_rtx_queue in net/ipv4/tcp_input.c.
# RFC 9293 3.10.7.4 (fifth), 6298, 5681.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from errqueue cimport skb_zcopy_clear
from inet_connection_sock cimport (
    tcp_clamp_probe0_to_user_timeout,
    tcp_clear_xmit_timer,
    tcp_probe0_when_ns,
    tcp_reset_xmit_timer,
    tcp_set_xmit_timer,
)
from netns cimport NET_ADD_STATS, netns, sk_wake
from rbtree cimport rb_changed, rb_erase
from skbuff cimport kfree_skb, skb_pull
from snmp cimport TCP_DELIVEREDCE, TCP_SACKREORDER
from sock cimport *
from tcp cimport TCPHDR_SYN, after, before
from tcp_cong cimport ca_cong_avoid, ca_pkts_acked
from tcp_ecn cimport (
    INET_ECN_MASK,
    TCPHDR_CWR,
    TCPHDR_ECE,
    tcp_ecn_accept_cwr,
    tcp_ecn_rcv_ecn_echo,
    tcp_ecn_received,
)
from tcp_output cimport tcp_push_pending_frames
from tcp_rack cimport tcp_rack_advance, tcp_rack_update_reo_wnd
from tcp_rate cimport (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_SNDBUF_LIMITED,
    rate_sample,
    rate_sample_init,
    tcp_chrono_stop,
    tcp_rate_gen,
    tcp_rate_skb_delivered,
    tcp_update_pacing_rate,
)
from tcp_recovery cimport *
from tcp_tstamp cimport tcp_ack_tstamp
from tcp_retransmit cimport tcp_xmit_retransmit_queue
from tcp_rtt cimport tcp_rtt_estimator, tcp_rtt_tsopt_us, tcp_set_rto
from tcp_undo cimport tcp_check_sack_reordering
from tcp_window cimport tcp_current_mss, tcp_packets_in_flight, tcp_set_skb_tso_segs, tcp_wnd_end
from timer cimport NSEC_PER_MSEC


cdef inline int tcp_clean_rtx_queue(
    netns *net, tcp_sock *tp, uint32_t prior_una, uint32_t prior_fack, rate_sample *rs
) noexcept nogil:
    """Free what is acknowledged: FLAG_. `prior_fack` is the highest that was told of, or 0."""
    cdef uint32_t reord = prior_fack
    cdef int64_t rtt_us = -1, sack_us = -1, ca_us = -1
    cdef uint32_t una = tp.tcb.snd_una
    cdef int64_t first_ns = -1, last_ns = -1, now_ns = net.net.now_ns
    cdef int flags = 0
    cdef int32_t acked = 0, pcount
    cdef skb *one = tp.tcp_rtx_queue.first
    cdef uint8_t sacked
    cdef bint whole
    while one != NULL:
        whole = not after(one.end_seq, una)
        if whole:
            pcount = one.pcount
        else:
            if not after(una, one.seq):
                break
            pcount = tcp_trim_head(net, tp)
            if not pcount:
                break
        sacked = one.sacked
        if sacked & TCPCB_EVER_RETRANS:
            if sacked & TCPCB_SACKED_RETRANS:
                tp.retrans_out -= pcount
            flags |= FLAG_RETRANS_DATA_ACKED
        elif not sacked & TCPCB_SACKED_ACKED:
            last_ns = one.skb_mstamp_ns
            if first_ns < 0:
                first_ns = last_ns
            if before(one.seq, reord):
                reord = one.seq
            if not after(one.end_seq, tp.high_seq):
                flags |= FLAG_ORIG_SACK_ACKED
        if sacked & TCPCB_SACKED_ACKED:
            tp.sacked_out -= pcount
        elif tcp_is_sack(tp):
            tp.delivered += pcount
            if not tcp_skb_spurious_retrans(tp, one):
                tcp_rack_advance(net, tp, sacked, one.end_seq, one.skb_mstamp_ns)
        if sacked & TCPCB_LOST:
            tp.lost_out -= pcount
        tp.packets_out -= pcount
        acked += pcount
        if one.tcp_flags & TCPHDR_SYN:
            flags |= FLAG_SYN_ACKED
            tp.retrans_stamp = 0
        else:
            flags |= FLAG_DATA_ACKED
        tcp_rate_skb_delivered(tp, one, rs)
        if not whole:
            break
        rb_erase(&tp.tcp_rtx_queue, one)
        tp.sk_wmem_queued -= one.truesize
        if one.tx_flags:
            tcp_ack_tstamp(net, tp, one, prior_una)
        skb_zcopy_clear(net, tp, one)
        kfree_skb(&net.skbs, one)
        one = tp.tcp_rtx_queue.first
    if one == NULL:
        tcp_chrono_stop(tp, TCP_CHRONO_BUSY, now_ns)
    if tp.highest_sack and not before(una, tp.highest_sack):
        tp.highest_sack = 0
    if between_up(prior_una, tp.snd_up, una):
        tp.snd_up = una
    one = tp.tcp_rtx_queue.first
    if one != NULL:
        if one.tx_flags:
            tcp_ack_tstamp(net, tp, one, prior_una)
        if one.sacked & TCPCB_SACKED_ACKED:
            flags |= FLAG_SACK_RENEGING
    if first_ns >= 0 and not flags & FLAG_RETRANS_DATA_ACKED:
        rtt_us = (now_ns - first_ns) // 1000
        ca_us = (now_ns - last_ns) // 1000
    if rs.first_sackt_ns >= 0:
        sack_us = (now_ns - rs.first_sackt_ns) // 1000
        ca_us = (now_ns - rs.last_sackt_ns) // 1000
    if ca_us >= 0:
        ca_pkts_acked(tp, max(ca_us, <int64_t>1), now_ns)
    if flags & (FLAG_DATA_ACKED | FLAG_SYN_ACKED) and not tcp_is_sack(tp):
        tcp_remove_reno_sacks(net, tp, acked)
        if flags & FLAG_RETRANS_DATA_ACKED:  # nobody knows what else was the copy's
            flags &= ~FLAG_ORIG_SACK_ACKED
    elif prior_fack and reord != prior_fack:
        # A hole was filled by what was sent once.
        tcp_check_sack_reordering(net, tp, reord, TCP_SACKREORDER)
    tcp_ack_update_rtt(net, tp, flags, rtt_us if rtt_us >= 0 else sack_us, ca_us)
    if flags & FLAG_ACKED or (one != NULL and sack_us > (now_ns - one.skb_mstamp_ns) // 1000):
        flags |= FLAG_SET_XMIT_TIMER  # not for SACK alone, if the first went since
    return flags


cdef inline bint tcp_skb_spurious_retrans(const tcp_sock *tp, const skb *one) noexcept nogil:
    """True if the echo of a time stamp tells that a piece had arrived before it went again."""
    cdef uint32_t sent_ms = <uint32_t>(one.skb_mstamp_ns // NSEC_PER_MSEC)
    return (
        one.sacked & TCPCB_EVER_RETRANS
        and tp.saw_tstamp
        and tp.rcv_tsecr
        and before(tp.rcv_tsecr, sent_ms + tp.tsoffset)
    )


cdef inline bint between_up(uint32_t low, uint32_t value, uint32_t high) noexcept nogil:
    return not before(value, low) and not after(value, high)


cdef inline int32_t tcp_trim_head(netns *net, tcp_sock *tp) noexcept nogil:
    """Of a piece that is acknowledged in part, free the whole segments: how many."""
    cdef skb *one = tp.tcp_rtx_queue.first
    cdef uint32_t gone = tp.tcb.snd_una - one.seq
    cdef int32_t was = one.pcount
    skb_pull(one, gone)
    one.seq = tp.tcb.snd_una
    one.truesize -= gone
    tp.sk_wmem_queued -= gone
    if was > 1:
        tcp_set_skb_tso_segs(one, tcp_current_mss(net, tp))
        one.pcount = min(one.pcount, was)
        rb_changed(one)
    return was - one.pcount


cdef inline void tcp_ack_update_rtt(
    netns *net, tcp_sock *tp, int flags, int64_t rtt_us, int64_t ca_us
) noexcept nogil:
    """Learn from the round trips of the first and the last of what arrived, -1 if there are none.

    By Karn's rule, or by the echo of a time stamp (RFC 7323 4).
    """
    if rtt_us < 0 and tp.saw_tstamp and tp.rcv_tsecr and flags & FLAG_ACKED:
        rtt_us = ca_us = tcp_rtt_tsopt_us(net.net.now_ns, tp.rcv_tsecr, tp.tsoffset)
    if rtt_us < 0:
        return
    tp.rtt_min_us = <uint32_t>min(<int64_t>tp.rtt_min_us, max(ca_us, <int64_t>1))
    tcp_rtt_estimator(tp, rtt_us if rtt_us else 1)
    tcp_set_rto(tp)
    tp.backoff = 0


cdef inline void tcp_ack_probe(netns *net, tcp_sock *tp) noexcept nogil:
    """The peer answers: a window that is open again needs no probes."""
    cdef int64_t delay_ns
    if tp.sk_write_queue.first == NULL:
        return
    if not after(tp.sk_write_queue.first.end_seq, tcp_wnd_end(tp)):
        tp.backoff = 0
        tp.probes_tstamp_ns = 0
        if tp.icsk_pending == ICSK_TIME_PROBE0:
            tcp_clear_xmit_timer(tp)
    else:
        delay_ns = tcp_clamp_probe0_to_user_timeout(net, tp, tcp_probe0_when_ns(tp))
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, delay_ns)


cdef inline bint tcp_may_raise_cwnd(
    const netns *net, const tcp_sock *tp, int flags
) noexcept nogil:
    if tp.reordering > net.sysctl.tcp_reordering:
        return flags & (FLAG_DATA_SACKED | FLAG_DATA_ACKED)
    return flags & FLAG_DATA_ACKED


cdef inline void tcp_cong_control(
    netns *net, tcp_sock *tp, int64_t delivered, int64_t lost, int flags
) noexcept nogil:
    """Move the congestion window by one acknowledgment."""
    if tp.ca_state == TCP_CA_CWR or tp.ca_state == TCP_CA_RECOVERY:
        tcp_cwnd_reduction(net, tp, delivered, lost, flags)
    elif tcp_may_raise_cwnd(net, tp, flags):
        ca_cong_avoid(tp, delivered, net.net.now_ns)
    tcp_update_pacing_rate(tp)


cdef inline void tcp_update_rto_time(netns *net, tcp_sock *tp) noexcept nogil:
    """A row of time-outs is over: how long did it take?"""
    if tp.rto_stamp_ms and tp.ca_state != TCP_CA_LOSS:
        tp.total_rto_time += <uint32_t>(net.net.now_ns // NSEC_PER_MSEC) - tp.rto_stamp_ms
        tp.rto_stamp_ms = 0


cdef inline int tcp_ack(
    netns *net, tcp_sock *tp, const rcv_skb *r, uint32_t prior_una, int flags
) noexcept nogil:
    """Act on an acceptable acknowledgment that the judge has taken in already: FLAG_, what it did.

    `prior_una` is snd_una before it, `flags` FLAG_DATA and FLAG_WIN_UPDATE as far as they hold.
    """
    cdef int32_t prior_packets = tp.packets_out
    cdef uint32_t delivered = tp.delivered, lost = tp.lost
    cdef uint32_t prior_fack = tp.highest_sack if tcp_is_sack(tp) else 0
    cdef rate_sample rs
    cdef int32_t dup_acks
    cdef bint dubious, reneging_now, new_first = False
    cdef int reneging = FLAG_SACK_RENEGING | FLAG_SND_UNA_ADVANCED  # it has a timer of its own
    if before(r.th.ack, prior_una):
        return tcp_old_ack(net, tp, r, prior_una, flags)
    rate_sample_init(&rs)
    tp.rack_waits = 0
    tp.probes_out = 0
    tp.rcv_tstamp_ns = net.net.now_ns
    tp.sk_err_soft = 0
    if after(tp.tcb.snd_una, prior_una):
        flags |= FLAG_SND_UNA_ADVANCED
        tp.retransmits = 0
        tp.bytes_acked += <uint32_t>(tp.tcb.snd_una - prior_una)
    if net.ip_dsfield & INET_ECN_MASK:
        tcp_ecn_received(tp)
    if r.n_sacks and tcp_is_sack(tp):
        flags |= tcp_sacktag_write_queue(net, tp, r.sack, r.n_sacks, prior_una, r.th.ack, &rs)
    if r.th.flags & (TCPHDR_ECE | TCPHDR_CWR):
        if tcp_ecn_accept_cwr(tp, r.th.flags) and r.th.end_seq != r.th.seq:
            tp.ack_pending |= ICSK_ACK_NOW
        if tcp_ecn_rcv_ecn_echo(tp, r.th.flags) and not r.th.flags & TCPHDR_SYN:
            flags |= FLAG_ECE
    if not prior_packets:
        if flags & FLAG_DSACKING_ACK:  # a reduction may have been for nothing
            tcp_fastretrans_alert(net, tp, prior_una, 0, flags)
        tcp_ack_probe(net, tp)
        if tp.tlp_high_seq:
            tcp_process_tlp_ack(net, tp, r.th.ack, flags)
        return flags
    flags |= tcp_clean_rtx_queue(net, tp, prior_una, prior_fack, &rs)
    tcp_rack_update_reo_wnd(net, tp, &rs)
    if tp.tlp_high_seq:
        tcp_process_tlp_ack(net, tp, r.th.ack, flags)
    dubious = (
        not flags & FLAG_NOT_DUP
        or flags & (FLAG_DATA_SACKED | FLAG_ECE)
        or tp.ca_state != TCP_CA_OPEN
    )
    if dubious:
        dup_acks = 0
        if not flags & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DSACKING_ACK):
            dup_acks = 1
        new_first = tcp_fastretrans_alert(net, tp, prior_una, dup_acks, flags)
        tcp_update_rto_time(net, tp)
        if flags & FLAG_ECE:
            tp.delivered_ce += tp.delivered - delivered
            NET_ADD_STATS(net, TCP_DELIVEREDCE, tp.delivered - delivered)
    reneging_now = dubious and flags & reneging == reneging
    if flags & FLAG_SET_XMIT_TIMER and not reneging_now and not tp.rack_waits:
        tcp_set_xmit_timer(net, tp)
    tcp_rate_gen(
        tp, tp.delivered - delivered, flags & FLAG_SACK_RENEGING != 0, &rs, net.net.now_ns
    )
    if not flags & FLAG_DATA or flags & FLAG_SND_UNA_ADVANCED:
        tcp_cong_control(net, tp, tp.delivered - delivered, tp.lost - lost, flags)
    tcp_xmit_recovery(net, tp, new_first)
    return flags


cdef inline int tcp_old_ack(
    netns *net, tcp_sock *tp, const rcv_skb *r, uint32_t prior_una, int flags
) noexcept nogil:
    """Others have overtaken it: only what its blocks tell of is news, and even that not counted."""
    cdef uint32_t delivered = tp.delivered
    cdef rate_sample rs
    cdef bint new_first
    if not r.n_sacks or not tcp_is_sack(tp):
        return flags
    rate_sample_init(&rs)
    tp.rack_waits = 0
    flags |= tcp_sacktag_write_queue(net, tp, r.sack, r.n_sacks, prior_una, r.th.ack, &rs)
    tp.delivered = delivered
    new_first = tcp_fastretrans_alert(net, tp, prior_una, 0, flags)
    tcp_update_rto_time(net, tp)
    tcp_xmit_recovery(net, tp, new_first)
    return flags


cdef inline void tcp_xmit_recovery(netns *net, tcp_sock *tp, bint new_first) noexcept nogil:
    """Send what is lost, or new data if F-RTO wants to see what becomes of that."""
    cdef bint recovers = tp.ca_state == TCP_CA_RECOVERY or tp.ca_state == TCP_CA_LOSS
    if not new_first and not tp.lost_out and not recovers:
        return
    if new_first:
        tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), TCP_NAGLE_OFF)
        if after(tp.tcb.snd_nxt, tp.high_seq):
            return
        tp.frto = 0
    tcp_xmit_retransmit_queue(net, tp)


cdef inline void tcp_check_space(netns *net, tcp_sock *tp) noexcept nogil:
    """Room to write again, where the caller had found none."""
    if tp.nospace:
        tcp_new_space(net, tp)
        if not tp.nospace:
            tcp_chrono_stop(tp, TCP_CHRONO_SNDBUF_LIMITED, net.net.now_ns)


cdef inline bint sk_stream_memory_free(
    const netns *net, const tcp_sock *tp, int wake
) noexcept nogil:
    """True if a write is taken: there is memory, and little waits to be sent (TCP_NOTSENT_LOWAT).

    Who waits is woken (`wake` 1) when half of it is left.
    """
    cdef uint32_t lowat = tp.notsent_lowat
    if not lowat:
        lowat = <uint32_t>net.sysctl.tcp_notsent_lowat
    return tp.sk_wmem_queued < tp.sk_sndbuf and (
        <uint32_t>((tp.write_seq - tp.tcb.snd_nxt) << wake) < lowat
    )


cdef inline bint sk_stream_is_writeable(const netns *net, const tcp_sock *tp) noexcept nogil:
    """True if a third of the buffer is free, and so is the rest of what a write asks for."""
    return 3 * tp.sk_wmem_queued <= 2 * <int64_t>tp.sk_sndbuf and sk_stream_memory_free(net, tp, 1)


cdef inline void tcp_new_space(netns *net, tcp_sock *tp) noexcept nogil:
    """Grow the buffer, unless the congestion window is what holds back; tell the caller."""
    if tcp_packets_in_flight(tp) < tp.snd_cwnd:
        tcp_sndbuf_expand(net, tp)
    if sk_stream_is_writeable(net, tp):
        tp.nospace = False
        sk_wake(net, tp)


cdef inline void tcp_sndbuf_expand(netns *net, tcp_sock *tp) noexcept nogil:
    """The send buffer holds two windows of what a segment costs; never beyond tcp_wmem[2]."""
    cdef int64_t size, segs, per_mss = 1
    if tp.userlocks & SOCK_SNDBUF_LOCK:
        return
    size = max(tp.mss_clamp, tp.mss_cache) + MAX_TCP_HEADER + SKB_SHARED_INFO
    while per_mss < size:
        per_mss <<= 1
    per_mss += SKB_OVERHEAD
    segs = max(<int64_t>TCP_INIT_CWND, max(<int64_t>tp.snd_cwnd, <int64_t>tp.reordering + 1))
    if tp.sk_sndbuf < 2 * segs * per_mss:
        tp.sk_sndbuf = <int32_t>min(2 * segs * per_mss, net.sysctl.tcp_wmem[2])
