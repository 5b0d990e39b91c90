# What goes again, and what asks: retransmissions, and probes of a shut window.
# Linux: net/ipv4/tcp_output.c.  RFC 9293 3.8.1, 3.8.6.1; RFC 6298; RFC 6675; RFC 8985 7.

from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t
from errqueue cimport tcp_skb_collapse_tstamp
from inet_connection_sock cimport (
    tcp_clamp_probe0_to_user_timeout,
    tcp_probe0_when_ns,
    tcp_rearm_rto,
    tcp_reset_xmit_timer,
)
from netns cimport NET_ADD_STATS, NET_INC_STATS, netns
from rbtree cimport RB_NEVER, RB_TO_RESEND, rb_changed, rb_erase, rb_seek
from skbuff cimport kfree_skb, skb_pull, skb_shift
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_ecn cimport tcp_ecn_clear_syn
from tcp_output cimport (
    skb_control,
    tcp_adjust_pcount,
    tcp_clock_ms,
    tcp_event_new_data_sent,
    tcp_fragment,
    tcp_transmit_skb,
    tcp_write_xmit,
)
from tcp_window cimport (
    tcp_current_mss,
    tcp_packets_in_flight,
    tcp_set_skb_tso_segs,
    tcp_snd_wnd_test,
    tcp_tso_segs,
    tcp_wnd_end,
)
from timer cimport NSEC_PER_MSEC


# Again.


cdef inline int tcp_retransmit_skb(netns *net, tcp_sock *tp, skb *one, int64_t segs) noexcept nogil:
    """Send a lost piece again, at most `segs` of it; 0, -EAGAIN if the window is shut, -ENOBUFS."""
    cdef int err = __tcp_retransmit_skb(net, tp, one, segs)
    if not err and not one.sacked & TCPCB_SACKED_RETRANS:
        one.sacked |= TCPCB_SACKED_RETRANS
        tp.retrans_out += one.pcount
    if not tp.retrans_stamp:
        tp.retrans_stamp = tcp_clock_ms(net)
    if tp.undo_retrans < 0:
        tp.undo_retrans = 0
    tp.undo_retrans += one.pcount
    rb_changed(one)
    return err


cdef inline int __tcp_retransmit_skb(
    netns *net, tcp_sock *tp, skb *one, int64_t segs
) noexcept nogil:
    """Send a piece again without taking it for lost: so a probe of the tail does."""
    cdef int64_t mss = tcp_current_mss(net, tp)
    cdef int64_t avail, length
    cdef uint32_t gone
    cdef int32_t was
    cdef int err
    if before(one.seq, tp.tcb.snd_una):  # its front was acknowledged meanwhile
        gone = tp.tcb.snd_una - one.seq
        skb_pull(one, gone - (1 if one.tcp_flags & TCPHDR_SYN else 0))
        one.seq = tp.tcb.snd_una
    avail = <uint32_t>(tcp_wnd_end(tp) - one.seq)
    if avail > 0x7FFFFFFF or not avail:
        if one.seq != tp.tcb.snd_una:
            return -EAGAIN
        avail = mss  # the first one is a probe of a window that shrank (RFC 9293 3.8.6)
    length = mss * segs
    if length > avail:
        length = max(avail // mss * mss, avail if avail < mss else mss)
    if one.len > length:
        err = tcp_fragment(net, tp, &tp.tcp_rtx_queue, one, length, mss)
        if err:
            return err
    elif one.pcount:
        was = one.pcount
        tcp_set_skb_tso_segs(one, mss)
        if was != one.pcount:
            tcp_adjust_pcount(tp, one.sacked, was - one.pcount)
        tcp_retrans_try_collapse(net, tp, one, min(avail, mss))
    one.tcp_flags = tcp_ecn_clear_syn(one.tcp_flags, net.sysctl.tcp_ecn_fallback)
    err = tcp_transmit_skb(
        net, tp, one, tp.tcb.rcv_nxt if tp.tcb.state != TCP_SYN_SENT else 0, mss
    )
    NET_ADD_STATS(net, TCP_RETRANSSEGS, one.pcount)
    if one.tcp_flags & TCPHDR_SYN:
        NET_INC_STATS(net, TCP_SYNRETRANS)
    tp.total_retrans += one.pcount
    tp.bytes_retrans += one.len
    one.sacked |= TCPCB_EVER_RETRANS  # even where it did not leave: its time is none to learn from
    if err:
        NET_ADD_STATS(net, TCP_RETRANSFAIL, one.pcount)
    rb_changed(one)
    return err


cdef inline void tcp_retrans_try_collapse(
    netns *net, tcp_sock *tp, skb *one, int64_t space
) noexcept nogil:
    """Small pieces that go again are joined, up to a segment."""
    cdef skb *behind = one.next
    cdef uint32_t length
    if one.pcount != 1 or one.tcp_flags & TCPHDR_SYN:
        return
    while behind != NULL and not one.eor and not one.sacked & TCPCB_SACKED_ACKED:
        length = behind.len
        if behind.pcount > 1 or behind.sacked & TCPCB_SACKED_ACKED:
            break
        if one.ubuf != NULL or behind.ubuf != NULL:
            break
        if one.len + length > space or after(behind.end_seq, tcp_wnd_end(tp)):
            break
        if length and skb_shift(&net.skbs, one, behind, length, one.len + length):
            break
        one.end_seq = behind.end_seq
        one.tcp_flags |= behind.tcp_flags
        one.sacked |= behind.sacked & TCPCB_EVER_RETRANS
        one.eor = behind.eor
        tcp_skb_collapse_tstamp(one, behind)
        one.truesize += length
        tp.sk_wmem_queued -= behind.truesize - length
        tcp_adjust_pcount(tp, behind.sacked, behind.pcount)
        rb_erase(&tp.tcp_rtx_queue, behind)
        kfree_skb(&net.skbs, behind)
        behind = one.next


cdef inline void tcp_xmit_retransmit_queue(netns *net, tcp_sock *tp) noexcept nogil:
    """Send again what is marked lost, as far as the window allows."""
    cdef skb *one = NULL
    cdef skb *next
    cdef int32_t room, most
    if not tp.packets_out:
        return
    most = <int32_t>tcp_tso_segs(net, tp, tcp_current_mss(net, tp))
    while True:
        room = tp.snd_cwnd - tcp_packets_in_flight(tp)
        if room <= 0:
            break
        next = one.next if one != NULL else tp.tcp_rtx_queue.first  # it may have been joined
        one = rb_seek(next, RB_TO_RESEND, RB_NEVER)
        if one == NULL:
            break
        if tcp_retransmit_skb(net, tp, one, min(room, most)):
            break
        NET_ADD_STATS(
            net,
            TCP_SLOWSTARTRETRANS if tp.ca_state == TCP_CA_LOSS else TCP_FASTRETRANS,
            one.pcount,
        )
        if tp.ca_state == TCP_CA_CWR or tp.ca_state == TCP_CA_RECOVERY:
            tp.prr_out += one.pcount
        if one != tp.tcp_rtx_queue.first or tp.icsk_pending == ICSK_TIME_PROBE0:
            continue
        if tp.icsk_pending != ICSK_TIME_REO_TIMEOUT:
            tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, tp.rto_ns)


# Probes.


cdef inline void tcp_send_loss_probe(netns *net, tcp_sock *tp) noexcept nogil:
    """Make the peer tell of its tail: new data if it takes any, else the last segment again.

    RFC 8985 7.3. One probe is out at a time; the time-out runs on behind it.
    """
    cdef int64_t mss = tcp_current_mss(net, tp)
    if not tp.tlp_high_seq and tcp_loss_probe_skb(net, tp, mss):
        tp.tlp_high_seq = tp.tcb.snd_nxt
        NET_INC_STATS(net, TCP_LOSSPROBES)
        tp.icsk_pending = 0  # the time-out starts anew
    tcp_rearm_rto(net, tp)


cdef inline bint tcp_loss_probe_skb(netns *net, tcp_sock *tp, int64_t mss) noexcept nogil:
    """True if a probe was sent."""
    cdef skb *one = tp.sk_write_queue.first
    cdef int32_t had = tp.packets_out
    cdef int64_t before_last
    tp.tlp_retrans = 0
    if one != NULL and tcp_snd_wnd_test(tp, one, mss):
        tcp_write_xmit(net, tp, mss, TCP_NAGLE_OFF, 2)
        return tp.packets_out > had
    one = tp.tcp_rtx_queue.last
    if one == NULL:
        return False
    before_last = (one.pcount - 1) * mss
    if one.pcount > 1 and one.len > before_last:
        if tcp_fragment(net, tp, &tp.tcp_rtx_queue, one, before_last, mss):
            return False
        one = tp.tcp_rtx_queue.last
    tp.tlp_retrans = not __tcp_retransmit_skb(net, tp, one, 1)
    return tp.tlp_retrans


cdef inline int tcp_xmit_probe_skb(netns *net, tcp_sock *tp, bint urgent) noexcept nogil:
    """An empty segment before what is acknowledged: its answer tells that the peer is there."""
    cdef skb one
    skb_control(&one, tp.tcb.snd_una if urgent else tp.tcb.snd_una - 1, TCPHDR_ACK)
    return tcp_transmit_skb(net, tp, &one, tp.tcb.rcv_nxt, 0)


cdef inline int tcp_write_wakeup(netns *net, tcp_sock *tp) noexcept nogil:
    """Probe: with data where the window takes any, else with nothing; 1 if neither is there."""
    cdef skb *one = tp.sk_write_queue.first
    cdef int64_t mss, room
    cdef int err
    if tp.tcb.state == TCP_CLOSE:
        return -1
    if one != NULL and before(one.seq, tcp_wnd_end(tp)):
        mss = tcp_current_mss(net, tp)
        room = <uint32_t>(tcp_wnd_end(tp) - one.seq)
        if room < <int64_t>(<uint32_t>(one.end_seq - one.seq)) or one.len > mss:
            room = min(room, mss)
            one.tcp_flags |= TCPHDR_PSH
            if one.len > room and tcp_fragment(net, tp, &tp.sk_write_queue, one, room, mss):
                return -ENOMEM
        tcp_set_skb_tso_segs(one, mss)
        one.tcp_flags |= TCPHDR_PSH
        err = tcp_transmit_skb(net, tp, one, tp.tcb.rcv_nxt, mss)
        if not err:
            tcp_event_new_data_sent(net, tp, one)
        return err
    if before(tp.tcb.snd_una, tp.snd_up) and not after(tp.snd_up, tp.tcb.snd_una + 0xFFFF):
        tcp_xmit_probe_skb(net, tp, True)
    return tcp_xmit_probe_skb(net, tp, False)


cdef inline void tcp_send_probe0(netns *net, tcp_sock *tp) noexcept nogil:
    """Probe a shut window, ever more rarely (RFC 9293 3.8.6.1)."""
    cdef int err = tcp_write_wakeup(net, tp)
    cdef int64_t delay_ns = <int64_t>500 * NSEC_PER_MSEC
    if tp.packets_out or tp.sk_write_queue.first == NULL:
        tp.probes_out = 0
        tp.backoff = 0
        tp.probes_tstamp_ns = 0
        return
    tp.probes_out += 1
    if err <= 0:
        if tp.backoff < net.sysctl.tcp_retries2 and tp.backoff < 255:
            tp.backoff += 1
        delay_ns = tcp_probe0_when_ns(tp)
    delay_ns = tcp_clamp_probe0_to_user_timeout(net, tp, delay_ns)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, delay_ns)
