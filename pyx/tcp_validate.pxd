# What is refused of a connection's segments, and what is said to it.
# Linux: net/ipv4/tcp_input.c (tcp_validate_incoming).  RFC 9293 3.10.7.4; RFC 5961; RFC 7323 5.

from libc.stdint cimport uint8_t, uint32_t
from netns cimport NET_INC_STATS, netns
from snmp cimport *
from sock cimport *
from tcb cimport tcp_may_update_window, tcp_paws_check
from tcp cimport *
from tcp_data_queue cimport tcp_dsack_set, tcp_enter_quickack_mode
from tcp_output cimport tcp_oow_rate_limited, tcp_send_ack, tcp_send_challenge_ack

cdef enum:
    REPLY_NONE = 0
    REPLY_ACK = 1
    REPLY_RST = 2


cdef inline bint tcp_beyond_window(const tcp_sock *tp, const segment *th) noexcept nogil:
    """True for a segment across the largest window ever offered while something waits for a reader.

    Deviation: as Linux, from RFC 9293 3.10.7.4, first, which trims it.  A FIN may stand outside.
    """
    cdef const tcb *known = &tp.tcb
    cdef uint32_t edge = known.rcv_mwnd_seq
    if before(edge, known.rcv_nxt):
        edge = known.rcv_nxt
    return (
        tp.sk_receive_queue.first != NULL
        and after(th.end_seq - (1 if th.flags & TCPHDR_FIN else 0), edge)
        and not after(th.seq, edge)
        and not tcp_paws_check(known, th)
    )


cdef inline bint tcp_is_late(const tcp_sock *tp, const segment *th) noexcept nogil:
    """True for what is in already, but not acknowledged before its end: old, yet acceptable.

    Deviation: as Linux, from RFC 9293 3.4: its acknowledgment counts.
    """
    cdef const tcb *known = &tp.tcb
    return (
        known.state != TCP_SYN_RECV
        and known.state != TCP_CLOSE
        and before(th.seq, known.rcv_nxt)
        and not after(th.end_seq, known.rcv_nxt)
        and not before(th.end_seq, tp.rcv_wup)
        and not tcp_paws_check(known, th)
    )


cdef inline void tcp_note_timestamp(tcp_sock *tp, segment *th) noexcept nogil:
    tp.saw_tstamp = th.opts & OPT_TIMESTAMP and tp.tstamp_ok
    if tp.saw_tstamp:
        tp.rcv_tsecr = th.tsecr
    else:
        th.opts &= <uint8_t>~OPT_TIMESTAMP


cdef inline void tcp_paws_pardon(netns *net, tcp_sock *tp, segment *th) noexcept nogil:
    """A time stamp that went back, and yet does not make a segment old (RFC 7323 5.3, 5.5).

    It is one tick; none was known; 24 days have passed; or it is of a duplicate ACK that others
    have overtaken on the way, by less than a time-out (Linux's `tcp_disordered_ack`).
    """
    cdef tcb *known = &tp.tcb
    cdef uint32_t behind = known.ts_recent - th.tsval
    cdef bint overtaken = (
        th.flags & TCPHDR_ACK != 0
        and th.seq == th.end_seq
        and th.seq == known.rcv_nxt
        and th.ack == known.snd_una
        and not tcp_may_update_window(
            known, th.ack, th.seq, <uint32_t>th.window << known.snd_wscale
        )
        and behind <= tp.rto_ns * 12 // 10000000
    )
    if behind == 1 or overtaken:
        th.tsval = known.ts_recent
    elif not known.ts_recent or net.net.now_ns - tp.ts_recent_stamp_ns >= TCP_PAWS_24DAYS_NS:
        known.ts_recent = th.tsval


cdef inline int tcp_refuse(
    netns *net, tcp_sock *tp, const segment *th, uint32_t verdict, int state
) noexcept nogil:
    """Not taken, but answered, so that a real peer can set things right."""
    if verdict & TCB_PAWS:
        if th.flags & TCPHDR_SYN:
            tcp_syn_challenge(net, tp)
            return REPLY_NONE
        if th.flags & TCPHDR_ACK and th.seq == th.end_seq and before(th.seq, tp.tcb.rcv_nxt):
            return REPLY_NONE  # old ACKs are common: nobody asks what became of them
        NET_INC_STATS(net, TCP_PAWSESTABREJECTED)
        if th.seq != th.end_seq or not tcp_oow_rate_limited(
            net, &tp.last_oow_ack_ms, TCP_ACKSKIPPEDPAWS
        ):
            tcp_send_dupack(net, tp, th)
        return REPLY_NONE
    if verdict & TCB_CHALLENGE:
        if th.flags & TCPHDR_SYN:
            tcp_syn_challenge(net, tp)
        else:
            tcp_send_challenge_ack(net, tp)
        return REPLY_NONE
    if state == TCP_SYN_RECV:
        return REPLY_RST
    tcp_send_challenge_ack(net, tp)
    return REPLY_NONE


cdef inline void tcp_unacceptable(
    netns *net, tcp_sock *tp, const segment *th, uint32_t length, bint beyond
) noexcept nogil:
    """Outside the window: told where it is, unless it is a reset (RFC 9293 3.10.7.4, first)."""
    cdef bint empty
    if th.flags & TCPHDR_RST:
        return
    if th.flags & TCPHDR_SYN:
        tcp_syn_challenge(net, tp)
        return
    if beyond:
        NET_INC_STATS(net, TCP_BEYONDWINDOW)
    # Only empty segments can go round in a loop.
    empty = not length and not th.flags & TCPHDR_FIN
    if not empty or not tcp_oow_rate_limited(net, &tp.last_oow_ack_ms, TCP_ACKSKIPPEDSEQ):
        tcp_send_dupack(net, tp, th)


cdef inline void tcp_syn_challenge(netns *net, tcp_sock *tp) noexcept nogil:
    """A SYN for a connection that is there (RFC 5961 4.2)."""
    if tp.tcb.state == TCP_ESTABLISHED:
        NET_INC_STATS(net, TCP_INERRS)
    NET_INC_STATS(net, TCP_SYNCHALLENGE)
    tcp_send_challenge_ack(net, tp)


cdef inline void tcp_send_dupack(netns *net, tcp_sock *tp, const segment *th) noexcept nogil:
    """Acknowledge at once; what came twice is told as such (RFC 2883)."""
    cdef uint32_t end
    if th.end_seq != th.seq and before(th.seq, tp.tcb.rcv_nxt):
        NET_INC_STATS(net, TCP_DELAYEDACKLOST)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        if tp.sack_ok and net.sysctl.tcp_dsack:
            end = tp.tcb.rcv_nxt if after(th.end_seq, tp.tcb.rcv_nxt) else th.end_seq
            tcp_dsack_set(net, tp, th.seq, end)
    tcp_send_ack(net, tp)


cdef inline bint tcp_reset_check(
    const tcp_sock *tp, const segment *th, uint32_t verdict
) noexcept nogil:
    """A reset that is not where the next byte is, and yet where the peer's may stand.

    Deviation: as Linux, beyond RFC 5961 3.2: at the end of what SACK has told of, and before a FIN
    that is in already.
    """
    cdef uint32_t rcv_nxt = tp.tcb.rcv_nxt, farthest = 0
    cdef int state = tp.tcb.state, i
    if verdict & (TCB_OLD | TCB_CHALLENGE) and th.seq == rcv_nxt - 1:
        return state == TCP_CLOSE_WAIT or state == TCP_LAST_ACK or state == TCP_CLOSING
    if not verdict & TCB_CHALLENGE or not tp.n_sacks:
        return False
    for i in range(tp.n_sacks):
        farthest = max(farthest, tp.sack[i].end - rcv_nxt)
    return th.seq - rcv_nxt == farthest
