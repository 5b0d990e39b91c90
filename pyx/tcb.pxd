# The judge: what is known of one end moves by `tcb_xmit` (a segment this end sent) and `tcb_rcv`
# (a segment that reached it); neither knows who is asking, an endpoint or an observer.
# Linux: net/ipv4/tcp_input.c.  RFC 9293 3.3.1, 3.4, 3.10.7; RFC 7323 2 and 5; RFC 5961.

from libc.stdint cimport uint8_t, uint32_t
from tcp cimport *

# How far behind what is known a number may lie and still be old rather than the sign of a hole
# that went round the circle: the largest window seen, and never less than this.
cdef enum:
    TCB_REACH = 1 << 20
    TCP_MAX_WINDOW = 1 << 30  # RFC 7323 2.3
    TCB_WSCALE = TCB_WSCALE_SENT | TCB_WSCALE_RCVD
    TCB_KNOWN = TCB_SND | TCB_RCV | TCB_WINDOW | TCB_PEER_WINDOW


cdef inline uint8_t tcp_shift(const tcb *tp, uint8_t wscale) noexcept nogil:
    """A shift counts once both SYNs have offered one (RFC 7323 2.2)."""
    return wscale if (tp.flags & TCB_WSCALE) == TCB_WSCALE else 0


cdef inline uint32_t tcp_sequence(const tcb *tp, uint32_t seq, uint32_t end_seq) noexcept nogil:
    """0 if the segment is acceptable, else TCB_OLD or TCB_OVERWINDOW (RFC 9293 3.4, table 6).

    Deviation: as in Linux, an empty segment on the right edge is acceptable, as whoever has filled
    the window sends its acknowledgments there; so is one that reaches across the whole window.
    """
    cdef uint32_t behind, edge
    if not tp.flags & TCB_WINDOW:
        # It has offered none: only what it has already is refused, not what a hole lies before.
        behind = tp.rcv_nxt - end_seq
        if behind <= <uint32_t>TCB_REACH and (behind or end_seq != seq):
            return TCB_OLD
        return 0
    edge = tp.rcv_nxt if before(tp.rcv_mwnd_seq, tp.rcv_nxt) else tp.rcv_mwnd_seq
    if end_seq == seq:
        if before(seq, tp.rcv_nxt):
            return TCB_OLD
        return TCB_OVERWINDOW if after(seq, edge) else 0
    if not after(end_seq, tp.rcv_nxt):
        return TCB_OLD
    return 0 if before(seq, edge) and edge != tp.rcv_nxt else TCB_OVERWINDOW


cdef inline bint tsval_before(uint32_t ts1, uint32_t ts2) noexcept nogil:
    """True if a time stamp is older; one half of the circle away it is not (RFC 7323 5.2)."""
    return <int32_t>(ts2 - ts1) > 0


cdef inline bint tcp_paws_check(const tcb *tp, const segment *th) noexcept nogil:
    """True if the time stamp is too old to be taken (RFC 7323 5.3); a reset is never refused."""
    return (
        th.opts & OPT_TIMESTAMP
        and tp.flags & TCB_TSTAMP
        and not th.flags & TCPHDR_RST
        and tsval_before(th.tsval, tp.ts_recent)
    )


cdef inline bint tcp_may_update_window(
    const tcb *tp, uint32_t ack, uint32_t seq, uint32_t wnd
) noexcept nogil:
    """True if the segment may move the send window (RFC 9293 3.10.7.4, fifth step)."""
    return (
        after(ack, tp.snd_una)
        | after(seq, tp.snd_wl1)
        | ((seq == tp.snd_wl1) & ((wnd > tp.snd_wnd) | (wnd == 0)))
    )


cdef inline bint tcp_fast_path_on(const tcb *tp, const segment *th) noexcept nogil:
    """Header prediction: the next segment in order of an open connection, nothing special on it."""
    return (
        tp.state == TCP_ESTABLISHED
        and (tp.flags & TCB_KNOWN) == TCB_KNOWN
        and tcp_predicted(tp, th)
    )


cdef inline bint tcp_predicted(const tcb *tp, const segment *th) noexcept nogil:
    """What `tcp_fast_path_on` asks of the segment, where the end is known to be ready for it."""
    return (
        (th.flags & (TCPHDR_FIN | TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK | TCPHDR_URG))
        == TCPHDR_ACK
        and th.seq == tp.rcv_nxt
        and not before(th.ack, tp.snd_una)
        and not after(th.ack, tp.snd_nxt)
        and not after(th.end_seq, tp.rcv_mwnd_seq)
        and not (
            th.opts & OPT_TIMESTAMP
            and tp.flags & TCB_TSTAMP
            and tsval_before(th.tsval, tp.ts_recent)
        )
    )


cdef inline void tcp_fin(tcb *tp) noexcept nogil:
    """The peer's FIN is in (RFC 9293 3.10.7.4, eighth step)."""
    if tp.state == TCP_SYN_RECV or tp.state == TCP_ESTABLISHED:
        tp.state = TCP_CLOSE_WAIT
    elif tp.state == TCP_FIN_WAIT1:
        tp.state = TCP_CLOSING
    elif tp.state == TCP_FIN_WAIT2:
        tp.state = TCP_TIME_WAIT


cdef inline void tcb_pull(tcb *tp, uint32_t seq, bint fin) noexcept nogil:
    """Take in what waited behind a hole, up to `seq`; `fin` if the peer's FIN was the last of it."""
    if not tp.flags & TCB_RCV or after(seq, tp.rcv_nxt):
        tp.rcv_nxt = seq
        tp.flags |= TCB_RCV
    if fin:
        tcp_fin(tp)


cdef inline void tcb_offer(tcb *tp, uint32_t ack, uint32_t wnd) noexcept nogil:
    """This end says that it has everything before `ack` and room for `wnd` more.

    Its word may lie behind the guess by what was in flight, a window at most; from further behind,
    or from ahead, the guess was wrong (a hole of the tap). The right edge never moves left.
    """
    cdef uint32_t room = tp.rcv_mwnd_seq - ack
    # Every other segment goes either way here: & spares the branches that nobody can predict.
    cdef bint known = (room >= wnd) & (room <= TCP_MAX_WINDOW) & ((tp.flags & TCB_WINDOW) != 0)
    if not tp.flags & TCB_RCV or tp.rcv_nxt - ack > max(wnd, <uint32_t>TCB_REACH):
        tp.rcv_nxt = ack
    tp.rcv_mwnd_seq = tp.rcv_mwnd_seq if known else ack + wnd
    if (tp.flags & (TCB_RCV | TCB_WINDOW)) != (TCB_RCV | TCB_WINDOW):
        tp.flags |= TCB_RCV | TCB_WINDOW


cdef inline uint32_t tcb_xmit(tcb *tp, const segment *th) noexcept nogil:
    """This end sent `th`: what an end sends is the truth about it, whatever was guessed before."""
    cdef uint32_t verdict = 0
    if th.flags & (TCPHDR_RST | TCPHDR_SYN):
        if th.flags & TCPHDR_RST:
            return 0  # what a reset does is decided where it arrives
        return tcb_xmit_syn(tp, th)
    if tp.state == TCP_CLOSE:
        return 0
    if tp.state == TCP_SYN_SENT or (tp.state == TCP_SYN_RECV and th.end_seq != th.seq):
        # It goes on, so its handshake ended where the tap did not see.
        tp.state = TCP_ESTABLISHED
        if not tp.flags & (TCB_WSCALE_RCVD | TCB_PEER_WINDOW):
            tp.snd_wscale = TCP_MAX_WSCALE
            tp.flags |= TCB_WSCALE_RCVD
        if not tp.flags & TCB_SND:
            tp.rcv_wscale = TCP_MAX_WSCALE
            tp.flags |= TCB_WSCALE_SENT

    if not tp.flags & TCB_SND:
        tp.snd_una = th.seq
        tp.snd_nxt = th.end_seq
        tp.flags |= TCB_SND
    elif not before(th.seq, tp.snd_nxt):
        if th.seq != tp.snd_nxt:
            verdict = TCB_JUMP
        tp.snd_nxt = th.end_seq
        if tp.snd_nxt - tp.snd_una > <uint32_t>TCP_MAX_WINDOW:
            tp.snd_una = th.seq  # more than can be in flight: acknowledged where nobody saw
    elif tp.snd_nxt - th.seq > max(tp.max_window, <uint32_t>TCB_REACH):
        verdict = TCB_JUMP
        tp.snd_una = th.seq
        tp.snd_nxt = th.end_seq
    else:
        if th.end_seq != th.seq:
            verdict = TCB_RESENT
        if after(th.end_seq, tp.snd_nxt):
            tp.snd_nxt = th.end_seq

    if th.flags & TCPHDR_ACK:
        tcb_offer(tp, th.ack, <uint32_t>th.window << tcp_shift(tp, tp.rcv_wscale))
    if th.flags & TCPHDR_FIN and tp.state != TCP_LISTEN:  # who only listens has nothing to end
        tp.flags |= TCB_FIN_SENT
        if tp.state == TCP_SYN_RECV or tp.state == TCP_ESTABLISHED:
            tp.state = TCP_FIN_WAIT1
        elif tp.state == TCP_CLOSE_WAIT:
            tp.state = TCP_LAST_ACK
    return verdict


cdef inline void tcb_xmit_established(tcb *tp, const segment *th, uint32_t wnd) noexcept nogil:
    """This end sent what was predicted: the next segment in order, `wnd` its window, scaled."""
    cdef uint32_t room
    tp.snd_nxt = th.end_seq
    if th.end_seq - tp.snd_una > <uint32_t>TCP_MAX_WINDOW:
        tp.snd_una = th.seq
    room = tp.rcv_mwnd_seq - th.ack
    if tp.rcv_nxt - th.ack > max(wnd, <uint32_t>TCB_REACH):
        tp.rcv_nxt = th.ack
    if not (room >= wnd) & (room <= TCP_MAX_WINDOW):
        tp.rcv_mwnd_seq = th.ack + wnd


cdef inline uint32_t tcb_xmit_syn(tcb *tp, const segment *th) noexcept nogil:
    """A SYN or SYN-ACK of this end's: each that asks anew begins anew, an echo changes nothing."""
    cdef uint32_t verdict = 0
    if not (
        tp.state == TCP_CLOSE
        or tp.state == TCP_LISTEN
        or tp.state == TCP_SYN_SENT
        or tp.state == TCP_SYN_RECV
    ):
        return TCB_RESENT
    if th.flags & TCPHDR_ACK:
        tp.state = TCP_SYN_RECV
    elif tp.state != TCP_SYN_RECV or not tp.flags & TCB_SND:
        tp.state = TCP_SYN_SENT  # it did not get the SYN that it seemed to: simultaneous open
    tp.flags &= <uint8_t>~TCB_FIN_SENT  # of its life before
    if tp.flags & TCB_SND and tp.snd_una == th.seq:
        verdict = TCB_RESENT
        if after(th.end_seq, tp.snd_nxt):
            tp.snd_nxt = th.end_seq
    else:
        tp.snd_una = th.seq
        tp.snd_nxt = th.end_seq
        tp.flags |= TCB_SND
    if th.opts & OPT_WSCALE:
        tp.rcv_wscale = min(th.wscale, <uint8_t>TCP_MAX_WSCALE)
        tp.flags |= TCB_WSCALE_SENT
    elif th.opts & OPT_CUT:  # any shift is possible, so the widest window is believed
        tp.rcv_wscale = TCP_MAX_WSCALE
        tp.flags |= TCB_WSCALE_SENT
    else:
        tp.rcv_wscale = 0
        tp.flags &= <uint8_t>~TCB_WSCALE_SENT
    if th.flags & TCPHDR_ACK:
        tcb_offer(tp, th.ack, th.window)  # a SYN's window is never scaled (RFC 7323 2.2)
    return verdict


cdef inline void tcb_rcv_syn(tcb *tp, const segment *th) noexcept nogil:
    """What the peer's SYN tells: its number, shift, window and time stamp."""
    tp.rcv_nxt = th.seq + 1
    tp.flags |= TCB_RCV | TCB_PEER_WINDOW
    tp.snd_wl1 = th.seq
    tp.snd_wnd = tp.max_window = th.window
    if th.opts & OPT_WSCALE:
        tp.snd_wscale = min(th.wscale, <uint8_t>TCP_MAX_WSCALE)
        tp.flags |= TCB_WSCALE_RCVD
    elif th.opts & OPT_CUT:
        tp.snd_wscale = TCP_MAX_WSCALE
        tp.flags |= TCB_WSCALE_RCVD
    else:
        tp.snd_wscale = 0
        tp.flags &= <uint8_t>~TCB_WSCALE_RCVD
    if th.opts & OPT_TIMESTAMP:
        tp.ts_recent = th.tsval
        tp.flags |= TCB_TSTAMP


cdef inline uint32_t tcb_rcv_synsent(tcb *tp, const segment *th) noexcept nogil:
    """SYN-SENT (RFC 9293 3.10.7.3)."""
    cdef uint32_t verdict
    if th.flags & TCPHDR_ACK and (not after(th.ack, tp.snd_una) or after(th.ack, tp.snd_nxt)):
        return TCB_ACK_UNSENT
    if th.flags & TCPHDR_RST:
        if not th.flags & TCPHDR_ACK:
            return 0
        tp.state = TCP_CLOSE
        return TCB_RST_TAKEN
    if not th.flags & TCPHDR_SYN:
        return 0
    tcb_rcv_syn(tp, th)
    if not th.flags & TCPHDR_ACK:
        tp.state = TCP_SYN_RECV  # simultaneous open
        return TCB_SYN_TAKEN
    tp.snd_una = th.ack
    tp.state = TCP_ESTABLISHED
    verdict = TCB_SYN_TAKEN | TCB_ACKED | TCB_ESTAB
    if th.payload_len:
        tp.rcv_nxt += th.payload_len
        verdict |= TCB_DATA
    return verdict


cdef inline uint32_t tcb_rcv(tcb *tp, const segment *th) noexcept nogil:
    """`th` reached this end: is it taken, and what does it move? (RFC 9293 3.10.7)"""
    if tcp_fast_path_on(tp, th):
        return tcb_rcv_established(
            tp, th, <uint32_t>th.window << tcp_shift(tp, tp.snd_wscale)
        )
    return tcb_rcv_state(tp, th)


cdef inline uint32_t tcb_rcv_state(tcb *tp, const segment *th) noexcept nogil:
    """The steps of RFC 9293 3.10.7 in their order, for what was not predicted."""
    if tp.state == TCP_CLOSE:
        return TCB_NO_CONN
    if tp.state == TCP_LISTEN:
        if (th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST)) != TCPHDR_SYN:
            return TCB_NO_CONN
        tcb_rcv_syn(tp, th)
        tp.state = TCP_SYN_RECV
        return TCB_SYN_TAKEN
    if tp.state == TCP_SYN_SENT:
        return tcb_rcv_synsent(tp, th)

    # First: sequence number, time stamp.
    if not tp.flags & TCB_RCV:
        tp.rcv_nxt = th.seq
        tp.flags |= TCB_RCV
    if tcp_paws_check(tp, th):
        return TCB_PAWS
    return tcb_rcv_steps(tp, th, tcp_sequence(tp, th.seq, th.end_seq))


cdef inline uint32_t tcb_rcv_steps(tcb *tp, const segment *th, uint32_t refused) noexcept nogil:
    """The steps behind the first, of which `refused` is what it said."""
    cdef uint32_t verdict
    # A closed window refuses data, but not RST, SYN and ACK (9293:MUST-66).
    if refused and (refused == TCB_OLD or after(th.seq, tp.rcv_nxt)):
        if tp.state != TCP_SYN_RECV:
            if (th.flags & (TCPHDR_SYN | TCPHDR_RST)) == TCPHDR_SYN:
                refused |= TCB_CHALLENGE
            return refused
        if (
            (th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST)) != (TCPHDR_SYN | TCPHDR_ACK)
            or th.end_seq != tp.rcv_nxt
            or th.ack != tp.snd_nxt
        ):
            return refused
        # The SYN-ACK of a simultaneous open repeats the SYN, its ACK is news.
    # Second: RST (RFC 5961 3.2). Fourth: SYN (RFC 5961 4.2).
    elif th.flags & TCPHDR_RST:
        if th.seq != tp.rcv_nxt:
            return TCB_CHALLENGE
        tp.state = TCP_CLOSE
        return TCB_RST_TAKEN
    elif th.flags & TCPHDR_SYN:
        if tp.state == TCP_SYN_RECV and th.seq == tp.rcv_nxt - 1:
            return TCB_OLD  # the same once more, with data that were not taken
        return TCB_CHALLENGE
    # Fifth: ACK (RFC 5961 5.2).
    if not th.flags & TCPHDR_ACK:
        return refused
    if not tp.flags & TCB_SND:
        tp.snd_una = tp.snd_nxt = th.ack
        tp.flags |= TCB_SND
        if tp.state == TCP_SYN_RECV:  # nobody saw its SYN, which is acknowledged, nor its shift
            tp.snd_una = th.ack - 1
            tp.rcv_wscale = TCP_MAX_WSCALE
            tp.flags |= TCB_WSCALE_SENT
    if after(th.ack, tp.snd_nxt):
        return TCB_ACK_UNSENT
    if not tp.flags & TCB_PEER_WINDOW:
        if before(th.ack, tp.snd_una):
            tp.snd_una = th.ack  # picked up in the middle: what was in flight then
    elif before(th.ack, tp.snd_una - tp.max_window):
        return TCB_ACK_OLD
    verdict = 0
    if tp.state == TCP_SYN_RECV:
        if not after(th.ack, tp.snd_una):
            return TCB_ACK_OLD
        tp.state = TCP_ESTABLISHED
        verdict = TCB_ESTAB
    verdict |= tcb_rcv_ack(tp, th)
    if tp.flags & TCB_FIN_SENT and tp.snd_una == tp.snd_nxt:
        if tp.state == TCP_FIN_WAIT1:
            tp.state = TCP_FIN_WAIT2
        elif tp.state == TCP_CLOSING:
            tp.state = TCP_TIME_WAIT
        elif tp.state == TCP_LAST_ACK:
            tp.state = TCP_CLOSE
    # Seventh and eighth: text and FIN.
    if th.end_seq == th.seq or th.flags & TCPHDR_SYN:
        return verdict
    if refused and th.payload_len:
        return verdict | refused  # a bare FIN takes no room
    if not (
        tp.state == TCP_ESTABLISHED or tp.state == TCP_FIN_WAIT1 or tp.state == TCP_FIN_WAIT2
    ):
        return verdict | TCB_OLD  # behind a FIN that was taken
    if tp.flags & TCB_WINDOW and not after(th.end_seq, tp.rcv_nxt):
        return verdict | TCB_OLD
    if after(th.seq, tp.rcv_nxt):
        if tp.flags & TCB_WINDOW:
            return verdict | TCB_OFO
        tp.rcv_nxt = th.seq  # never heard, it cannot tell us that it waits: a hole of the tap
    if before(th.seq, tp.rcv_nxt):
        verdict |= TCB_PARTIAL
    tp.rcv_nxt = th.end_seq
    if th.payload_len:
        verdict |= TCB_DATA
    if th.flags & TCPHDR_FIN:
        tcp_fin(tp)
        verdict |= TCB_FIN_TAKEN
    return verdict


cdef inline uint32_t tcb_rcv_ack(tcb *tp, const segment *th) noexcept nogil:
    """What an acceptable acknowledgment moves: snd_una, the send window, ts_recent."""
    cdef uint32_t verdict = 0
    cdef uint32_t wnd = <uint32_t>th.window << tcp_shift(tp, tp.snd_wscale)
    if not tp.flags & TCB_PEER_WINDOW or tcp_may_update_window(tp, th.ack, th.seq, wnd):
        tp.snd_wl1 = th.seq
        if wnd != tp.snd_wnd or not tp.flags & TCB_PEER_WINDOW:
            verdict = TCB_WINUPDATE if wnd != tp.snd_wnd else 0
            tp.snd_wnd = wnd
            tp.max_window = max(tp.max_window, wnd)
            tp.flags |= TCB_PEER_WINDOW
    verdict |= TCB_ACKED if after(th.ack, tp.snd_una) else 0
    tp.snd_una = th.ack if after(th.ack, tp.snd_una) else tp.snd_una
    # RFC 7323 4.3 compares with the last ACK sent; what is in order is as good for PAWS.
    if th.opts & OPT_TIMESTAMP and not after(th.seq, tp.rcv_nxt):
        if not tp.flags & TCB_TSTAMP:
            tp.ts_recent = th.tsval
            tp.flags |= TCB_TSTAMP
        elif not tsval_before(th.tsval, tp.ts_recent):
            tp.ts_recent = th.tsval
    return verdict


cdef inline uint32_t tcb_rcv_established(tcb *tp, const segment *th, uint32_t wnd) noexcept nogil:
    """The predicted segment, `wnd` its window, scaled: no test is left to make."""
    cdef uint32_t verdict = TCB_FAST
    if tcp_may_update_window(tp, th.ack, th.seq, wnd):
        tp.snd_wl1 = th.seq
        if wnd != tp.snd_wnd:
            verdict = TCB_FAST | TCB_WINUPDATE
            tp.snd_wnd = wnd
            tp.max_window = max(tp.max_window, wnd)
    verdict |= TCB_ACKED if th.ack != tp.snd_una else 0
    tp.snd_una = th.ack
    if th.opts & OPT_TIMESTAMP:
        tp.ts_recent = th.tsval
        tp.flags |= TCB_TSTAMP
    tp.rcv_nxt = th.end_seq
    return verdict | (TCB_DATA if th.payload_len else 0)
