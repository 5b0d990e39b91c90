# What to take back when nothing was lost: the window, the marks, the state.
# Linux: net/ipv4/tcp_input.c.  RFC 4015, 3708, 5682, 6582 4.1.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from netns cimport NET_INC_STATS, netns
from rbtree cimport RB_LOST, RB_NEVER, rb_changed, rb_seek
from snmp cimport *
from sock cimport *
from tcp cimport before
from tcp_cong cimport ca_undo_cwnd, tcp_set_ca_state
from tcp_ecn cimport tcp_ecn_withdraw_cwr


cdef inline bint tcp_packet_delayed(const tcp_sock *tp) noexcept nogil:
    """True if what is acknowledged left before the first retransmission (RFC 3522), or none did."""
    if tp.retrans_stamp:
        if not tp.saw_tstamp or not tp.rcv_tsecr:
            return False
        return before(tp.rcv_tsecr, <uint32_t>tp.retrans_stamp + tp.tsoffset)
    if not tp.sack_ok and not before(tp.tcb.snd_una, tp.high_seq):
        return False  # it was forgotten (tcp_is_non_sack_preventing_reopen)
    return tp.bytes_acked > 1  # of a SYN, too


cdef inline bint tcp_may_undo(const tcp_sock *tp) noexcept nogil:
    """True if nothing was lost: each copy was reported twice, or what was missing was late."""
    return tp.undo_marker and (not tp.undo_retrans or tcp_packet_delayed(tp))


cdef inline void tcp_check_sack_reordering(
    netns *net, tcp_sock *tp, uint32_t low_seq, int mib
) noexcept nogil:
    """A piece came after later ones: so many segments of disorder are no loss."""
    cdef uint32_t high = tp.highest_sack if tp.highest_sack else tp.tcb.snd_una
    cdef int64_t metric = <uint32_t>(high - low_seq), mss = tp.mss_cache
    if not before(low_seq, high):
        return
    if metric > tp.reordering * mss:
        tp.reordering = <int32_t>min((metric + mss - 1) // mss, net.sysctl.tcp_max_reordering)
    tp.reord_seen += 1
    NET_INC_STATS(net, mib)


cdef inline bint tcp_any_retrans_done(const tcp_sock *tp) noexcept nogil:
    cdef const skb *one = tp.tcp_rtx_queue.first
    return tp.retrans_out or (one != NULL and one.sacked & TCPCB_EVER_RETRANS)


cdef inline bint tcp_is_non_sack_preventing_reopen(tcp_sock *tp) noexcept nogil:
    """Without SACK, duplicates of the last retransmissions must not begin another recovery."""
    if tp.tcb.snd_una != tp.high_seq or tp.sack_ok:
        return False
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    return True


cdef inline void tcp_try_keep_open(netns *net, tcp_sock *tp) noexcept nogil:
    cdef int state = TCP_CA_OPEN
    if tp.sacked_out + tp.lost_out or tcp_any_retrans_done(tp):
        state = TCP_CA_DISORDER
    if tp.ca_state != state:
        tcp_set_ca_state(tp, state, net.net.now_ns)
        tp.high_seq = tp.tcb.snd_nxt


cdef inline void tcp_undo_cwnd_reduction(tcp_sock *tp, bint unmark) noexcept nogil:
    cdef skb *one
    if unmark:
        one = rb_seek(tp.tcp_rtx_queue.first, RB_LOST, RB_NEVER)
        while one != NULL:
            one.sacked &= <uint8_t>~TCPCB_LOST
            rb_changed(one)
            one = rb_seek(one, RB_LOST, RB_NEVER)
        tp.lost_out = 0
    if tp.prior_ssthresh:
        tp.snd_cwnd = ca_undo_cwnd(tp)
        if tp.prior_ssthresh > tp.snd_ssthresh:
            tp.snd_ssthresh = tp.prior_ssthresh
            tcp_ecn_withdraw_cwr(tp)
    tp.undo_marker = 0
    tp.rack_advanced = 1  # look again at what may be lost


cdef inline bint tcp_try_undo_recovery(netns *net, tcp_sock *tp) noexcept nogil:
    """At the end of recovery: True if it goes on for NewReno's sake (RFC 6582 4.1)."""
    if tcp_may_undo(tp):
        NET_INC_STATS(net, TCP_LOSSUNDO if tp.ca_state == TCP_CA_LOSS else TCP_FULLUNDO)
        tcp_undo_cwnd_reduction(tp, False)
    elif tp.rack_reo_wnd_persist:
        tp.rack_reo_wnd_persist -= 1
    if tcp_is_non_sack_preventing_reopen(tp):
        return True
    tcp_set_ca_state(tp, TCP_CA_OPEN, net.net.now_ns)
    return False


cdef inline bint tcp_try_undo_dsack(netns *net, tcp_sock *tp) noexcept nogil:
    """Each copy was reported twice: the loss was none."""
    if not tp.undo_marker or tp.undo_retrans:
        return False
    if tp.rack_reo_wnd_persist < TCP_RACK_RECOVERY_THRESH:
        tp.rack_reo_wnd_persist += 1
    tcp_undo_cwnd_reduction(tp, False)
    NET_INC_STATS(net, TCP_DSACKUNDO)
    return True


cdef inline bint tcp_try_undo_partial(
    netns *net, tcp_sock *tp, uint32_t prior_una
) noexcept nogil:
    """A part was acknowledged before its copy could be: it was late; True if copies are out yet."""
    if not tp.undo_marker or not tcp_packet_delayed(tp):
        return False
    tcp_check_sack_reordering(net, tp, prior_una, TCP_TSREORDER)
    if tp.retrans_out:
        return True  # they are waited for: no more is marked, no more sent again
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    tcp_undo_cwnd_reduction(tp, True)
    NET_INC_STATS(net, TCP_PARTIALUNDO)
    tcp_try_keep_open(net, tp)
    return False


cdef inline bint tcp_try_undo_loss(netns *net, tcp_sock *tp, bint frto_undo) noexcept nogil:
    """The time-out was none, as F-RTO has found or `tcp_may_undo`."""
    if not frto_undo and not tcp_may_undo(tp):
        return False
    tcp_undo_cwnd_reduction(tp, True)
    NET_INC_STATS(net, TCP_LOSSUNDO)
    if frto_undo:
        NET_INC_STATS(net, TCP_SPURIOUSRTOS)
    tp.retransmits = 0
    if tcp_is_non_sack_preventing_reopen(tp):
        return True
    if frto_undo or tp.sack_ok:
        tcp_set_ca_state(tp, TCP_CA_OPEN, net.net.now_ns)
    return True
