"""What is refused of a connection's segments, and what is said to it.

Linux: net/ipv4/tcp_input.c (tcp_validate_incoming).  RFC 9293 3.10.7.4; RFC 5961; RFC 7323 5.
"""

from __future__ import annotations

from .netns import Netns
from .snmp import Mib
from .sock import TCP_MAX_QUICKACKS, TCP_PAWS_24DAYS_NS, TcpSock
from .tcb import (
    TCB_CHALLENGE,
    TCB_OLD,
    TCB_PAWS,
    tcp_may_update_window,
    tcp_paws_check,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_LAST_ACK,
    TCP_SYN_RECV,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Opt,
    Segment,
    after,
    before,
)
from .tcp_data_queue import tcp_dsack_set, tcp_enter_quickack_mode
from .tcp_output import tcp_oow_rate_limited, tcp_send_ack, tcp_send_challenge_ack

OPT_TIMESTAMP = int(Opt.OPT_TIMESTAMP)
REPLY_NONE, REPLY_ACK, REPLY_RST = 0, 1, 2


def tcp_beyond_window(tp: TcpSock, th: Segment) -> bool:
    """True for a segment across the largest window ever offered while something waits for a reader.

    Deviation: as Linux, from RFC 9293 3.10.7.4, first, which trims it.  A FIN may stand outside.
    """
    tcb = tp.tcb
    edge = tcb.rcv_nxt if before(tcb.rcv_mwnd_seq, tcb.rcv_nxt) else tcb.rcv_mwnd_seq
    end = th.end_seq - (th.flags & TCPHDR_FIN != 0) & MASK32
    return (
        bool(tp.sk_receive_queue)
        and after(end, edge)
        and not after(th.seq, edge)
        and not tcp_paws_check(tcb, th)
    )


def tcp_is_late(tp: TcpSock, th: Segment) -> bool:
    """True for what is in already, but not acknowledged before its end: old, yet acceptable.

    Deviation: as Linux, from RFC 9293 3.4: its acknowledgment counts.
    """
    tcb = tp.tcb
    return (
        tcb.state not in (TCP_SYN_RECV, TCP_CLOSE)
        and before(th.seq, tcb.rcv_nxt)
        and not after(th.end_seq, tcb.rcv_nxt)
        and not before(th.end_seq, tp.rcv_wup)
        and not tcp_paws_check(tcb, th)
    )


def tcp_note_timestamp(tp: TcpSock, th: Segment) -> None:
    tp.saw_tstamp = bool(th.opts & OPT_TIMESTAMP and tp.tstamp_ok)
    if tp.saw_tstamp:
        tp.rcv_tsecr = th.tsecr
    else:
        th.opts &= ~OPT_TIMESTAMP


def tcp_paws_pardon(net: Netns, tp: TcpSock, th: Segment) -> None:
    """A time stamp that went back, and yet does not make a segment old (RFC 7323 5.3, 5.5).

    It is one tick; none was known; 24 days have passed; or it is of a duplicate ACK that others
    have overtaken on the way, by less than a time-out (Linux's `tcp_disordered_ack`).
    """
    tcb = tp.tcb
    behind = (tcb.ts_recent - th.tsval) & MASK32
    overtaken = (
        th.flags & TCPHDR_ACK
        and th.seq == th.end_seq == tcb.rcv_nxt
        and th.ack == tcb.snd_una
        and not tcp_may_update_window(tcb, th.ack, th.seq, th.window << tcb.snd_wscale)
        and behind <= tp.rto_ns * 12 // 10_000_000
    )
    if behind == 1 or overtaken:
        th.tsval = tcb.ts_recent
    elif not tcb.ts_recent or net.now_ns - tp.ts_recent_stamp_ns >= TCP_PAWS_24DAYS_NS:
        tcb.ts_recent = th.tsval


def tcp_refuse(net: Netns, tp: TcpSock, th: Segment, verdict: int, state: int) -> int:
    """Not taken, but answered, so that a real peer can set things right."""
    if verdict & TCB_PAWS:
        if th.flags & TCPHDR_SYN:
            tcp_syn_challenge(net, tp)
            return REPLY_NONE
        if th.flags & TCPHDR_ACK and th.seq == th.end_seq and before(th.seq, tp.tcb.rcv_nxt):
            return REPLY_NONE  # old ACKs are common: nobody asks what became of them
        net.mib[Mib.TCP_PAWSESTABREJECTED] += 1
        if th.seq != th.end_seq or not tcp_oow_rate_limited(net, tp, Mib.TCP_ACKSKIPPEDPAWS):
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


def tcp_unacceptable(net: Netns, tp: TcpSock, th: Segment, length: int, beyond: bool) -> None:
    """Outside the window: told where it is, unless it is a reset (RFC 9293 3.10.7.4, first)."""
    if th.flags & TCPHDR_RST:
        return
    if th.flags & TCPHDR_SYN:
        tcp_syn_challenge(net, tp)
        return
    if beyond:
        net.mib[Mib.TCP_BEYONDWINDOW] += 1
    # Only empty segments can go round in a loop.
    empty = not length and not th.flags & TCPHDR_FIN
    if not empty or not tcp_oow_rate_limited(net, tp, Mib.TCP_ACKSKIPPEDSEQ):
        tcp_send_dupack(net, tp, th)


def tcp_syn_challenge(net: Netns, tp: TcpSock) -> None:
    """A SYN for a connection that is there (RFC 5961 4.2)."""
    if tp.tcb.state == TCP_ESTABLISHED:
        net.mib[Mib.TCP_INERRS] += 1
    net.mib[Mib.TCP_SYNCHALLENGE] += 1
    tcp_send_challenge_ack(net, tp)


def tcp_send_dupack(net: Netns, tp: TcpSock, th: Segment) -> None:
    """Acknowledge at once; what came twice is told as such (RFC 2883)."""
    if th.end_seq != th.seq and before(th.seq, tp.tcb.rcv_nxt):
        net.mib[Mib.TCP_DELAYEDACKLOST] += 1
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        if tp.sack_ok and net.sysctl.tcp_dsack:
            end = th.end_seq
            tcp_dsack_set(net, tp, th.seq, tp.tcb.rcv_nxt if after(end, tp.tcb.rcv_nxt) else end)
    tcp_send_ack(net, tp)


def tcp_reset_check(tp: TcpSock, th: Segment, verdict: int) -> bool:
    """A reset that is not where the next byte is, and yet where the peer's may stand.

    Deviation: as Linux, beyond RFC 5961 3.2: at the end of what SACK has told of, and before a FIN
    that is in already.
    """
    if verdict & (TCB_OLD | TCB_CHALLENGE) and th.seq == tp.tcb.rcv_nxt - 1 & MASK32:
        return tp.tcb.state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING)
    ends = [end for _, end in tp.sack]
    if not verdict & TCB_CHALLENGE or not ends:
        return False
    return bool(th.seq == max(ends, key=lambda end: end - tp.tcb.rcv_nxt & MASK32))
