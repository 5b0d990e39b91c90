"""Loss by time: what was sent before something that has arrived is late, and then lost.

Linux: net/ipv4/tcp_recovery.c, tcp_mark_skb_lost in tcp_input.c.  RFC 8985 6.
"""

from __future__ import annotations

from .inet_connection_sock import tcp_reset_xmit_timer
from .netns import Netns
from .snmp import Mib
from .sock import (
    ICSK_TIME_REO_TIMEOUT,
    TCP_RACK_RECOVERY_THRESH,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcp import MASK32, after, before
from .tcp_rate import RateSample

TCP_RACK_STATIC_REO_WND = 2  # bits of tcp_recovery; the first is without meaning
TCP_RACK_NO_DUPTHRESH = 4
TCP_RACK_SLACK_US = 2000


def tcp_mark_skb_lost(net: Netns, tp: TcpSock, skb: SkBuff) -> None:
    if skb.sacked & TCPCB_SACKED_ACKED:
        return
    if skb.sacked & TCPCB_LOST:
        if skb.sacked & TCPCB_SACKED_RETRANS:  # what was sent again is lost too
            skb.sacked &= ~TCPCB_SACKED_RETRANS
            tp.retrans_out -= skb.pcount
            tp.lost += skb.pcount
            net.mib[Mib.TCP_LOSTRETRANSMIT] += skb.pcount
        return
    skb.sacked |= TCPCB_LOST
    tp.lost_out += skb.pcount
    tp.lost += skb.pcount


def tcp_skb_sent_after(sent_us: int, other_us: int, end_seq: int, other_seq: int) -> bool:
    """True if one piece left after another; of one time, the one that ends behind it."""
    return sent_us > other_us or (sent_us == other_us and after(end_seq, other_seq))


def tcp_rack_advance(net: Netns, tp: TcpSock, sacked: int, end_seq: int, sent_ns: int) -> None:
    """A piece has arrived: it may be the latest sent of all that have (RFC 8985 6.2, step 2).

    One that was sent again, and came sooner than any round trip, is the first copy.
    """
    sent_us = sent_ns // 1000
    rtt_us = net.now_ns // 1000 - sent_us
    if rtt_us < tp.rtt_min_us and sacked & (TCPCB_EVER_RETRANS | TCPCB_SACKED_RETRANS):
        return
    tp.rack_advanced = True
    tp.rack_rtt_us = min(rtt_us, MASK32)
    if tcp_skb_sent_after(sent_us, tp.rack_mstamp_us, end_seq, tp.rack_end_seq):
        tp.rack_mstamp_us = sent_us
        tp.rack_end_seq = end_seq


def tcp_rack_reo_wnd(net: Netns, tp: TcpSock) -> int:
    """How long a piece may be late, us (RFC 8985 6.2, step 4): none where order was kept so far
    and loss is likely."""
    if not tp.reord_seen:
        if tp.ca_state >= CaState.TCP_CA_RECOVERY:
            return 0
        if tp.sacked_out >= tp.reordering and not net.sysctl.tcp_recovery & TCP_RACK_NO_DUPTHRESH:
            return 0
    return min((tp.rtt_min_us >> 2) * tp.rack_reo_wnd_steps, tp.srtt_us >> 3)


def tcp_rack_skb_timeout(net: Netns, tp: TcpSock, skb: SkBuff, reo_wnd_us: int) -> int:
    """How much longer a piece is waited for, us; not positive once it is lost."""
    return tp.rack_rtt_us + reo_wnd_us - (net.now_ns // 1000 - skb.skb_mstamp_ns // 1000)


def tcp_rack_detect_loss(net: Netns, tp: TcpSock) -> int:
    """Mark what is lost (RFC 8985 6.2, step 5); how long until all that is late is, us, or 0."""
    reo_wnd_us = tcp_rack_reo_wnd(net, tp)
    timeout_us = 0
    for skb in tp.tcp_rtx_queue:
        resend = skb.sacked & TCPCB_LOST and not skb.sacked & TCPCB_SACKED_RETRANS
        if skb.rack_off or resend or skb.sacked & TCPCB_SACKED_ACKED:
            continue
        sent_us = skb.skb_mstamp_ns // 1000
        if not tcp_skb_sent_after(tp.rack_mstamp_us, sent_us, tp.rack_end_seq, skb.end_seq):
            continue
        left_us = tcp_rack_skb_timeout(net, tp, skb, reo_wnd_us)
        if left_us <= 0:
            tcp_mark_skb_lost(net, tp, skb)
            skb.rack_off = True
        timeout_us = max(timeout_us, left_us)
    return timeout_us


def tcp_rack_mark_lost(net: Netns, tp: TcpSock) -> None:
    """After an acknowledgment: what is lost now, and a timer for what is only late."""
    if not tp.rack_advanced:
        return
    tp.rack_advanced = False
    timeout_us = tcp_rack_detect_loss(net, tp)
    if timeout_us:
        tp.rack_waits = True
        delay_ns = min((timeout_us + TCP_RACK_SLACK_US) * 1000, tp.rto_ns)
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_REO_TIMEOUT, delay_ns)


def tcp_rack_update_reo_wnd(net: Netns, tp: TcpSock, rs: RateSample) -> None:
    """A copy that was not needed widens the window, once a round trip, for 16 recoveries."""
    if net.sysctl.tcp_recovery & TCP_RACK_STATIC_REO_WND or not rs.prior_us:
        return
    if before(rs.prior_delivered, tp.rack_last_delivered):
        tp.rack_dsack_seen = False
    if tp.rack_dsack_seen:
        tp.rack_reo_wnd_steps = min(tp.rack_reo_wnd_steps + 1, 255)
        tp.rack_dsack_seen = False
        tp.rack_last_delivered = tp.delivered
        tp.rack_reo_wnd_persist = TCP_RACK_RECOVERY_THRESH
    elif not tp.rack_reo_wnd_persist:
        tp.rack_reo_wnd_steps = 1
