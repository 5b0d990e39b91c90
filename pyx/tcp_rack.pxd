# Loss by time: what was sent before something that has arrived is late, and then lost.
# Linux: net/ipv4/tcp_recovery.c, tcp_mark_skb_lost in tcp_input.c.  RFC 8985 6.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from inet_connection_sock cimport tcp_reset_xmit_timer
from netns cimport NET_ADD_STATS, netns
from rbtree cimport RB_ALWAYS, RB_OVERTAKEN, RB_SENT, rb_changed, rb_root, rb_seek
from snmp cimport TCP_LOSTRETRANSMIT
from sock cimport *
from tcp cimport after, before
from tcp_rate cimport rate_sample

cdef enum:
    TCP_RACK_STATIC_REO_WND = 2  # bits of tcp_recovery; the first is without meaning
    TCP_RACK_NO_DUPTHRESH = 4
    TCP_RACK_SLACK_US = 2000


cdef inline void tcp_mark_skb_lost(netns *net, tcp_sock *tp, skb *one) noexcept nogil:
    mark_lost(net, tp, one)
    rb_changed(one)


cdef inline void mark_lost(netns *net, tcp_sock *tp, skb *one) noexcept nogil:
    if one.sacked & TCPCB_SACKED_ACKED:
        return
    if one.sacked & TCPCB_LOST:
        if one.sacked & TCPCB_SACKED_RETRANS:  # what was sent again is lost too
            one.sacked &= <uint8_t>~TCPCB_SACKED_RETRANS
            tp.retrans_out -= one.pcount
            tp.lost += one.pcount
            NET_ADD_STATS(net, TCP_LOSTRETRANSMIT, one.pcount)
        return
    one.sacked |= TCPCB_LOST
    tp.lost_out += one.pcount
    tp.lost += one.pcount


cdef inline bint tcp_skb_sent_after(
    int64_t sent_us, int64_t other_us, uint32_t end_seq, uint32_t other_seq
) noexcept nogil:
    """True if one piece left after another; of one time, the one that ends behind it."""
    return sent_us > other_us or (sent_us == other_us and after(end_seq, other_seq))


cdef inline void tcp_rack_advance(
    netns *net, tcp_sock *tp, int sacked, uint32_t end_seq, int64_t sent_ns
) noexcept nogil:
    """A piece has arrived: it may be the latest sent of all that have (RFC 8985 6.2, step 2).

    One that was sent again, and came sooner than any round trip, is the first copy.
    """
    cdef int64_t sent_us = sent_ns // 1000
    cdef int64_t rtt_us = net.net.now_ns // 1000 - sent_us
    if rtt_us < tp.rtt_min_us and sacked & (TCPCB_EVER_RETRANS | TCPCB_SACKED_RETRANS):
        return
    tp.rack_advanced = 1
    tp.rack_rtt_us = <uint32_t>min(rtt_us, <int64_t>0xFFFFFFFF)
    if tcp_skb_sent_after(sent_us, tp.rack_mstamp_us, end_seq, tp.rack_end_seq):
        tp.rack_mstamp_us = sent_us
        tp.rack_end_seq = end_seq


cdef inline int64_t tcp_rack_reo_wnd(const netns *net, const tcp_sock *tp) noexcept nogil:
    """How long a piece may be late, us (RFC 8985 6.2, step 4): none where order was kept so far
    and loss is likely."""
    if not tp.reord_seen:
        if tp.ca_state >= TCP_CA_RECOVERY:
            return 0
        if tp.sacked_out >= tp.reordering and not net.sysctl.tcp_recovery & TCP_RACK_NO_DUPTHRESH:
            return 0
    return min(<int64_t>(tp.rtt_min_us >> 2) * tp.rack_reo_wnd_steps, tp.srtt_us >> 3)


cdef inline int64_t tcp_rack_skb_timeout(
    const netns *net, const tcp_sock *tp, int64_t sent_ns, int64_t reo_wnd_us
) noexcept nogil:
    """How much longer a piece is waited for, us; not positive once it is lost."""
    return tp.rack_rtt_us + reo_wnd_us - (net.net.now_ns // 1000 - sent_ns // 1000)


cdef inline int64_t tcp_rack_detect_loss(netns *net, tcp_sock *tp) noexcept nogil:
    """Mark what is lost (RFC 8985 6.2, step 5); how long until all that is late is, us, or 0.

    A piece is looked at twice each time it is sent, however many there are: when something sent
    later has arrived, and when it is lost (T-03).
    """
    cdef int64_t reo_wnd_us = tcp_rack_reo_wnd(net, tp)
    cdef int64_t before_ns = (tp.rack_mstamp_us + 1) * 1000, last_ns
    cdef skb *one = rb_seek(tp.tcp_rtx_queue.first, RB_SENT, before_ns)
    while one != NULL:
        if one.skb_mstamp_ns // 1000 == tp.rack_mstamp_us and not after(
            tp.rack_end_seq, one.end_seq
        ):
            before_ns = tp.rack_mstamp_us * 1000  # of its time, all from here on are behind it
        else:
            one.overtaken = 1
            rb_changed(one)
        one = rb_seek(one, RB_SENT, before_ns)
    before_ns = (net.net.now_ns // 1000 - tp.rack_rtt_us - reo_wnd_us + 1) * 1000
    one = rb_seek(tp.tcp_rtx_queue.first, RB_OVERTAKEN, before_ns)
    while one != NULL:
        one.rack_off = 1
        tcp_mark_skb_lost(net, tp, one)
        one = rb_seek(one, RB_OVERTAKEN, before_ns)
    one = rb_root(&tp.tcp_rtx_queue)
    if one == NULL:
        return 0
    last_ns = one.rb_overtaken_last_ns
    return 0 if last_ns == RB_ALWAYS else tcp_rack_skb_timeout(net, tp, last_ns, reo_wnd_us)


cdef inline void tcp_rack_mark_lost(netns *net, tcp_sock *tp) noexcept nogil:
    """After an acknowledgment: what is lost now, and a timer for what is only late."""
    cdef int64_t timeout_us, delay_ns
    if not tp.rack_advanced:
        return
    tp.rack_advanced = 0
    timeout_us = tcp_rack_detect_loss(net, tp)
    if timeout_us:
        tp.rack_waits = 1
        delay_ns = min((timeout_us + TCP_RACK_SLACK_US) * 1000, tp.rto_ns)
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_REO_TIMEOUT, delay_ns)


cdef inline void tcp_rack_update_reo_wnd(
    const netns *net, tcp_sock *tp, const rate_sample *rs
) noexcept nogil:
    """A copy that was not needed widens the window, once a round trip, for 16 recoveries."""
    if net.sysctl.tcp_recovery & TCP_RACK_STATIC_REO_WND or not rs.prior_us:
        return
    if before(rs.prior_delivered, tp.rack_last_delivered):
        tp.rack_dsack_seen = 0
    if tp.rack_dsack_seen:
        tp.rack_reo_wnd_steps = <uint8_t>min(<int>tp.rack_reo_wnd_steps + 1, 255)
        tp.rack_dsack_seen = 0
        tp.rack_last_delivered = tp.delivered
        tp.rack_reo_wnd_persist = TCP_RACK_RECOVERY_THRESH
    elif not tp.rack_reo_wnd_persist:
        tp.rack_reo_wnd_steps = 1
