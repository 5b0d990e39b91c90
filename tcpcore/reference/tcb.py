"""The judge: what is known of one end moves by `tcb_xmit` (a segment this end sent) and `tcb_rcv`
(a segment that reached it); neither knows who is asking, an endpoint or an observer.

Linux: net/ipv4/tcp_input.c.  RFC 9293 3.3.1, 3.4, 3.10.7; RFC 7323 2 and 5; RFC 5961.
"""

from __future__ import annotations

from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPHDR_URG,
    Opt,
    Segment,
    Tcb,
    TcbFlag,
    Verdict,
    after,
    before,
)

# Plain ints: an enum member's `|` costs more than the step itself.
TCB_SND, TCB_RCV = int(TcbFlag.TCB_SND), int(TcbFlag.TCB_RCV)
TCB_WINDOW, TCB_PEER_WINDOW = int(TcbFlag.TCB_WINDOW), int(TcbFlag.TCB_PEER_WINDOW)
TCB_WSCALE_SENT, TCB_WSCALE_RCVD = int(TcbFlag.TCB_WSCALE_SENT), int(TcbFlag.TCB_WSCALE_RCVD)
TCB_TSTAMP, TCB_FIN_SENT = int(TcbFlag.TCB_TSTAMP), int(TcbFlag.TCB_FIN_SENT)
TCB_WSCALE = TCB_WSCALE_SENT | TCB_WSCALE_RCVD
TCB_KNOWN = TCB_SND | TCB_RCV | TCB_WINDOW | TCB_PEER_WINDOW

TCB_FAST, TCB_DATA = int(Verdict.TCB_FAST), int(Verdict.TCB_DATA)
TCB_PARTIAL, TCB_OFO = int(Verdict.TCB_PARTIAL), int(Verdict.TCB_OFO)
TCB_OLD, TCB_OVERWINDOW = int(Verdict.TCB_OLD), int(Verdict.TCB_OVERWINDOW)
TCB_PAWS, TCB_ACKED = int(Verdict.TCB_PAWS), int(Verdict.TCB_ACKED)
TCB_ACK_OLD, TCB_ACK_UNSENT = int(Verdict.TCB_ACK_OLD), int(Verdict.TCB_ACK_UNSENT)
TCB_WINUPDATE, TCB_SYN_TAKEN = int(Verdict.TCB_WINUPDATE), int(Verdict.TCB_SYN_TAKEN)
TCB_FIN_TAKEN, TCB_RST_TAKEN = int(Verdict.TCB_FIN_TAKEN), int(Verdict.TCB_RST_TAKEN)
TCB_CHALLENGE, TCB_ESTAB = int(Verdict.TCB_CHALLENGE), int(Verdict.TCB_ESTAB)
TCB_NO_CONN, TCB_RESENT = int(Verdict.TCB_NO_CONN), int(Verdict.TCB_RESENT)
TCB_JUMP = int(Verdict.TCB_JUMP)

OPT_WSCALE, OPT_TIMESTAMP = int(Opt.OPT_WSCALE), int(Opt.OPT_TIMESTAMP)
OPT_CUT = int(Opt.OPT_CUT)

# How far behind what is known a number may lie and still be old rather than the sign of a hole
# that went round the circle: the largest window seen, and never less than this.
TCB_REACH = 1 << 20
TCP_MAX_WINDOW = 1 << 30  # RFC 7323 2.3


def tcp_shift(tcb: Tcb, wscale: int) -> int:
    """A shift counts once both SYNs have offered one (RFC 7323 2.2)."""
    return wscale if tcb.flags & TCB_WSCALE == TCB_WSCALE else 0


def tcp_sequence(tcb: Tcb, seq: int, end_seq: int) -> int:
    """0 if the segment is acceptable, else TCB_OLD or TCB_OVERWINDOW (RFC 9293 3.4, table 6).

    Deviation: as in Linux, an empty segment on the right edge is acceptable, as whoever has filled
    the window sends its acknowledgments there; so is one that reaches across the whole window.
    """
    if not tcb.flags & TCB_WINDOW:
        # It has offered none: only what it has already is refused, not what a hole lies before.
        behind = (tcb.rcv_nxt - end_seq) & MASK32
        return TCB_OLD if behind <= TCB_REACH and (behind or end_seq != seq) else 0
    edge = tcb.rcv_nxt if before(tcb.rcv_mwnd_seq, tcb.rcv_nxt) else tcb.rcv_mwnd_seq
    if end_seq == seq:
        if before(seq, tcb.rcv_nxt):
            return TCB_OLD
        return TCB_OVERWINDOW if after(seq, edge) else 0
    if not after(end_seq, tcb.rcv_nxt):
        return TCB_OLD
    return 0 if before(seq, edge) and edge != tcb.rcv_nxt else TCB_OVERWINDOW


def tsval_before(ts1: int, ts2: int) -> bool:
    """True if a time stamp is older; one half of the circle away it is not (RFC 7323 5.2)."""
    return 0 < (ts2 - ts1) & MASK32 < 1 << 31


def tcp_paws_check(tcb: Tcb, th: Segment) -> bool:
    """True if the time stamp is too old to be taken (RFC 7323 5.3); a reset is never refused."""
    return bool(
        th.opts & OPT_TIMESTAMP
        and tcb.flags & TCB_TSTAMP
        and not th.flags & TCPHDR_RST
        and tsval_before(th.tsval, tcb.ts_recent)
    )


def tcp_may_update_window(tcb: Tcb, ack: int, seq: int, wnd: int) -> bool:
    """True if the segment may move the send window (RFC 9293 3.10.7.4, fifth step)."""
    return (
        after(ack, tcb.snd_una)
        or after(seq, tcb.snd_wl1)
        or (seq == tcb.snd_wl1 and (wnd > tcb.snd_wnd or not wnd))
    )


def tcp_fast_path_on(tcb: Tcb, th: Segment) -> bool:
    """Header prediction: the next segment in order of an open connection, nothing special on it."""
    return (
        tcb.state == TCP_ESTABLISHED
        and th.flags & (TCPHDR_FIN | TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK | TCPHDR_URG)
        == TCPHDR_ACK
        and th.seq == tcb.rcv_nxt
        and tcb.flags & TCB_KNOWN == TCB_KNOWN
        and not before(th.ack, tcb.snd_una)
        and not after(th.ack, tcb.snd_nxt)
        and not after(th.end_seq, tcb.rcv_mwnd_seq)
        and not (
            th.opts & OPT_TIMESTAMP
            and tcb.flags & TCB_TSTAMP
            and tsval_before(th.tsval, tcb.ts_recent)
        )
    )


def tcp_fin(tcb: Tcb) -> None:
    """The peer's FIN is in (RFC 9293 3.10.7.4, eighth step)."""
    if tcb.state in (TCP_SYN_RECV, TCP_ESTABLISHED):
        tcb.state = TCP_CLOSE_WAIT
    elif tcb.state == TCP_FIN_WAIT1:
        tcb.state = TCP_CLOSING
    elif tcb.state == TCP_FIN_WAIT2:
        tcb.state = TCP_TIME_WAIT


def tcb_pull(tcb: Tcb, seq: int, fin: bool) -> None:
    """Take in what waited behind a hole, up to `seq`; `fin` if the peer's FIN was its last."""
    if not tcb.flags & TCB_RCV or after(seq, tcb.rcv_nxt):
        tcb.rcv_nxt = seq
        tcb.flags |= TCB_RCV
    if fin:
        tcp_fin(tcb)


def tcb_offer(tcb: Tcb, ack: int, wnd: int) -> None:
    """This end says that it has everything before `ack` and room for `wnd` more.

    Its word may lie behind the guess by what was in flight, a window at most; from further behind,
    or from ahead, the guess was wrong (a hole of the tap). The right edge never moves left.
    """
    if not tcb.flags & TCB_RCV or (tcb.rcv_nxt - ack) & MASK32 > max(wnd, TCB_REACH):
        tcb.rcv_nxt = ack
    room = (tcb.rcv_mwnd_seq - ack) & MASK32
    if not tcb.flags & TCB_WINDOW or room < wnd or room > TCP_MAX_WINDOW:
        tcb.rcv_mwnd_seq = (ack + wnd) & MASK32
    tcb.flags |= TCB_RCV | TCB_WINDOW


def tcb_xmit(tcb: Tcb, th: Segment) -> int:
    """This end sent `th`: what an end sends is the truth about it, whatever was guessed before."""
    if th.flags & TCPHDR_RST:
        return 0  # what a reset does is decided where it arrives
    if th.flags & TCPHDR_SYN:
        return tcb_xmit_syn(tcb, th)
    if tcb.state == TCP_CLOSE:
        return 0
    verdict = 0
    if tcb.state == TCP_SYN_SENT or (tcb.state == TCP_SYN_RECV and th.end_seq != th.seq):
        # It goes on, so its handshake ended where the tap did not see.
        tcb.state = TCP_ESTABLISHED
        if not tcb.flags & (TCB_WSCALE_RCVD | TCB_PEER_WINDOW):
            tcb.snd_wscale = TCP_MAX_WSCALE
            tcb.flags |= TCB_WSCALE_RCVD
        if not tcb.flags & TCB_SND:
            tcb.rcv_wscale = TCP_MAX_WSCALE
            tcb.flags |= TCB_WSCALE_SENT

    if not tcb.flags & TCB_SND:
        tcb.snd_una = th.seq
        tcb.snd_nxt = th.end_seq
        tcb.flags |= TCB_SND
    elif not before(th.seq, tcb.snd_nxt):
        if th.seq != tcb.snd_nxt:
            verdict = TCB_JUMP
        tcb.snd_nxt = th.end_seq
        if (tcb.snd_nxt - tcb.snd_una) & MASK32 > TCP_MAX_WINDOW:
            tcb.snd_una = th.seq  # more than can be in flight: acknowledged where nobody saw
    elif (tcb.snd_nxt - th.seq) & MASK32 > max(tcb.max_window, TCB_REACH):
        verdict = TCB_JUMP
        tcb.snd_una = th.seq
        tcb.snd_nxt = th.end_seq
    else:
        if th.end_seq != th.seq:
            verdict = TCB_RESENT
        if after(th.end_seq, tcb.snd_nxt):
            tcb.snd_nxt = th.end_seq

    if th.flags & TCPHDR_ACK:
        tcb_offer(tcb, th.ack, th.window << tcp_shift(tcb, tcb.rcv_wscale))
    if th.flags & TCPHDR_FIN and tcb.state != TCP_LISTEN:  # who only listens has nothing to end
        tcb.flags |= TCB_FIN_SENT
        if tcb.state in (TCP_SYN_RECV, TCP_ESTABLISHED):
            tcb.state = TCP_FIN_WAIT1
        elif tcb.state == TCP_CLOSE_WAIT:
            tcb.state = TCP_LAST_ACK
    return verdict


def tcb_xmit_syn(tcb: Tcb, th: Segment) -> int:
    """A SYN or SYN-ACK of this end's: each that asks anew begins anew, an echo changes nothing."""
    if tcb.state not in (TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT, TCP_SYN_RECV):
        return TCB_RESENT
    if th.flags & TCPHDR_ACK:
        tcb.state = TCP_SYN_RECV
    elif tcb.state != TCP_SYN_RECV or not tcb.flags & TCB_SND:
        tcb.state = TCP_SYN_SENT  # it did not get the SYN that it seemed to: simultaneous open
    tcb.flags &= ~TCB_FIN_SENT  # of its life before
    verdict = 0
    if tcb.flags & TCB_SND and tcb.snd_una == th.seq:
        verdict = TCB_RESENT
        if after(th.end_seq, tcb.snd_nxt):
            tcb.snd_nxt = th.end_seq
    else:
        tcb.snd_una = th.seq
        tcb.snd_nxt = th.end_seq
        tcb.flags |= TCB_SND
    if th.opts & OPT_WSCALE:
        tcb.rcv_wscale = min(th.wscale, TCP_MAX_WSCALE)
        tcb.flags |= TCB_WSCALE_SENT
    elif th.opts & OPT_CUT:  # any shift is possible, so the widest window is believed
        tcb.rcv_wscale = TCP_MAX_WSCALE
        tcb.flags |= TCB_WSCALE_SENT
    else:
        tcb.rcv_wscale = 0
        tcb.flags &= ~TCB_WSCALE_SENT
    if th.flags & TCPHDR_ACK:
        tcb_offer(tcb, th.ack, th.window)  # a SYN's window is never scaled (RFC 7323 2.2)
    return verdict


def tcb_rcv_syn(tcb: Tcb, th: Segment) -> None:
    """What the peer's SYN tells: its number, shift, window and time stamp."""
    tcb.rcv_nxt = (th.seq + 1) & MASK32
    tcb.flags |= TCB_RCV | TCB_PEER_WINDOW
    tcb.snd_wl1 = th.seq
    tcb.snd_wnd = tcb.max_window = th.window
    if th.opts & OPT_WSCALE:
        tcb.snd_wscale = min(th.wscale, TCP_MAX_WSCALE)
        tcb.flags |= TCB_WSCALE_RCVD
    elif th.opts & OPT_CUT:
        tcb.snd_wscale = TCP_MAX_WSCALE
        tcb.flags |= TCB_WSCALE_RCVD
    else:
        tcb.snd_wscale = 0
        tcb.flags &= ~TCB_WSCALE_RCVD
    if th.opts & OPT_TIMESTAMP:
        tcb.ts_recent = th.tsval
        tcb.flags |= TCB_TSTAMP


def tcb_rcv_synsent(tcb: Tcb, th: Segment) -> int:
    """SYN-SENT (RFC 9293 3.10.7.3)."""
    if th.flags & TCPHDR_ACK and (not after(th.ack, tcb.snd_una) or after(th.ack, tcb.snd_nxt)):
        return TCB_ACK_UNSENT
    if th.flags & TCPHDR_RST:
        if not th.flags & TCPHDR_ACK:
            return 0
        tcb.state = TCP_CLOSE
        return TCB_RST_TAKEN
    if not th.flags & TCPHDR_SYN:
        return 0
    tcb_rcv_syn(tcb, th)
    if not th.flags & TCPHDR_ACK:
        tcb.state = TCP_SYN_RECV  # simultaneous open
        return TCB_SYN_TAKEN
    tcb.snd_una = th.ack
    tcb.state = TCP_ESTABLISHED
    verdict = TCB_SYN_TAKEN | TCB_ACKED | TCB_ESTAB
    if th.payload_len:
        tcb.rcv_nxt = (tcb.rcv_nxt + th.payload_len) & MASK32
        verdict |= TCB_DATA
    return verdict


def tcb_rcv(tcb: Tcb, th: Segment) -> int:
    """`th` reached this end: is it taken, and what does it move? (RFC 9293 3.10.7)"""
    if tcp_fast_path_on(tcb, th):
        return tcb_rcv_established(tcb, th)
    return tcb_rcv_state(tcb, th)


def tcb_rcv_state(tcb: Tcb, th: Segment) -> int:
    """The steps of RFC 9293 3.10.7 in their order, for what was not predicted."""
    if tcb.state == TCP_CLOSE:
        return TCB_NO_CONN
    if tcb.state == TCP_LISTEN:
        if th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST) != TCPHDR_SYN:
            return TCB_NO_CONN
        tcb_rcv_syn(tcb, th)
        tcb.state = TCP_SYN_RECV
        return TCB_SYN_TAKEN
    if tcb.state == TCP_SYN_SENT:
        return tcb_rcv_synsent(tcb, th)

    # First: sequence number, time stamp.
    if not tcb.flags & TCB_RCV:
        tcb.rcv_nxt = th.seq
        tcb.flags |= TCB_RCV
    if tcp_paws_check(tcb, th):
        return TCB_PAWS
    return tcb_rcv_steps(tcb, th, tcp_sequence(tcb, th.seq, th.end_seq))


def tcb_rcv_steps(tcb: Tcb, th: Segment, refused: int) -> int:
    """The steps behind the first, of which `refused` is what it said."""
    # A closed window refuses data, but not RST, SYN and ACK (9293:MUST-66).
    if refused and (refused == TCB_OLD or after(th.seq, tcb.rcv_nxt)):
        if tcb.state != TCP_SYN_RECV:
            if th.flags & (TCPHDR_SYN | TCPHDR_RST) == TCPHDR_SYN:
                refused |= TCB_CHALLENGE
            return refused
        if (
            th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST) != TCPHDR_SYN | TCPHDR_ACK
            or th.end_seq != tcb.rcv_nxt
            or th.ack != tcb.snd_nxt
        ):
            return refused
        # The SYN-ACK of a simultaneous open repeats the SYN, its ACK is news.
    # Second: RST (RFC 5961 3.2). Fourth: SYN (RFC 5961 4.2).
    elif th.flags & TCPHDR_RST:
        if th.seq != tcb.rcv_nxt:
            return TCB_CHALLENGE
        tcb.state = TCP_CLOSE
        return TCB_RST_TAKEN
    elif th.flags & TCPHDR_SYN:
        if tcb.state == TCP_SYN_RECV and th.seq == (tcb.rcv_nxt - 1) & MASK32:
            return TCB_OLD  # the same once more, with data that were not taken
        return TCB_CHALLENGE
    # Fifth: ACK (RFC 5961 5.2).
    if not th.flags & TCPHDR_ACK:
        return refused
    if not tcb.flags & TCB_SND:
        tcb.snd_una = tcb.snd_nxt = th.ack
        tcb.flags |= TCB_SND
        if tcb.state == TCP_SYN_RECV:  # nobody saw its SYN, which is acknowledged, nor its shift
            tcb.snd_una = (th.ack - 1) & MASK32
            tcb.rcv_wscale = TCP_MAX_WSCALE
            tcb.flags |= TCB_WSCALE_SENT
    if after(th.ack, tcb.snd_nxt):
        return TCB_ACK_UNSENT
    if not tcb.flags & TCB_PEER_WINDOW:
        if before(th.ack, tcb.snd_una):
            tcb.snd_una = th.ack  # picked up in the middle: what was in flight then
    elif before(th.ack, (tcb.snd_una - tcb.max_window) & MASK32):
        return TCB_ACK_OLD
    verdict = 0
    if tcb.state == TCP_SYN_RECV:
        if not after(th.ack, tcb.snd_una):
            return TCB_ACK_OLD
        tcb.state = TCP_ESTABLISHED
        verdict = TCB_ESTAB
    verdict |= tcb_rcv_ack(tcb, th)
    if tcb.flags & TCB_FIN_SENT and tcb.snd_una == tcb.snd_nxt:
        if tcb.state == TCP_FIN_WAIT1:
            tcb.state = TCP_FIN_WAIT2
        elif tcb.state == TCP_CLOSING:
            tcb.state = TCP_TIME_WAIT
        elif tcb.state == TCP_LAST_ACK:
            tcb.state = TCP_CLOSE
    # Seventh and eighth: text and FIN.
    if th.end_seq == th.seq or th.flags & TCPHDR_SYN:
        return verdict
    if refused and th.payload_len:
        return verdict | refused  # a bare FIN takes no room
    if tcb.state not in (TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2):
        return verdict | TCB_OLD  # behind a FIN that was taken
    if tcb.flags & TCB_WINDOW and not after(th.end_seq, tcb.rcv_nxt):
        return verdict | TCB_OLD
    if after(th.seq, tcb.rcv_nxt):
        if tcb.flags & TCB_WINDOW:
            return verdict | TCB_OFO
        tcb.rcv_nxt = th.seq  # never heard, it cannot tell us that it waits: a hole of the tap
    if before(th.seq, tcb.rcv_nxt):
        verdict |= TCB_PARTIAL
    tcb.rcv_nxt = th.end_seq
    if th.payload_len:
        verdict |= TCB_DATA
    if th.flags & TCPHDR_FIN:
        tcp_fin(tcb)
        verdict |= TCB_FIN_TAKEN
    return verdict


def tcb_rcv_ack(tcb: Tcb, th: Segment) -> int:
    """What an acceptable acknowledgment moves: snd_una, the send window, ts_recent."""
    verdict = 0
    wnd = th.window << tcp_shift(tcb, tcb.snd_wscale)
    if not tcb.flags & TCB_PEER_WINDOW or tcp_may_update_window(tcb, th.ack, th.seq, wnd):
        if wnd != tcb.snd_wnd:
            verdict = TCB_WINUPDATE
        tcb.snd_wl1 = th.seq
        tcb.snd_wnd = wnd
        tcb.max_window = max(tcb.max_window, wnd)
        tcb.flags |= TCB_PEER_WINDOW
    if after(th.ack, tcb.snd_una):
        tcb.snd_una = th.ack
        verdict |= TCB_ACKED
    # RFC 7323 4.3 compares with the last ACK sent; what is in order is as good for PAWS.
    if (
        th.opts & OPT_TIMESTAMP
        and not after(th.seq, tcb.rcv_nxt)
        and (not tcb.flags & TCB_TSTAMP or not tsval_before(th.tsval, tcb.ts_recent))
    ):
        tcb.ts_recent = th.tsval
        tcb.flags |= TCB_TSTAMP
    return verdict


def tcb_rcv_established(tcb: Tcb, th: Segment) -> int:
    """The predicted segment: no test is left to make."""
    verdict = TCB_FAST | tcb_rcv_ack(tcb, th)
    if th.payload_len:
        tcb.rcv_nxt = th.end_seq
        verdict |= TCB_DATA
    return verdict
