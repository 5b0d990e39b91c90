"""What goes again, and what asks: retransmissions, and probes of a shut window.

Linux: net/ipv4/tcp_output.c.  RFC 9293 3.8.1, 3.8.6.1; RFC 6298; RFC 6675; RFC 8985 7.
"""

from __future__ import annotations

from errno import EAGAIN

from .errqueue import tcp_skb_collapse_tstamp
from .inet_connection_sock import (
    tcp_clamp_probe0_to_user_timeout,
    tcp_probe0_base_ns,
    tcp_rearm_rto,
    tcp_reset_xmit_timer,
)
from .netns import Netns
from .snmp import Mib
from .sock import (
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_NAGLE_OFF,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_SYN_SENT,
    TCPHDR_ACK,
    TCPHDR_PSH,
    TCPHDR_SYN,
    after,
    before,
)
from .tcp_ecn import tcp_ecn_clear_syn
from .tcp_output import (
    tcp_adjust_pcount,
    tcp_event_new_data_sent,
    tcp_fragment,
    tcp_transmit_skb,
    tcp_write_xmit,
)
from .tcp_rtt import tcp_rto_max_ns
from .tcp_window import (
    tcp_current_mss,
    tcp_packets_in_flight,
    tcp_set_skb_tso_segs,
    tcp_snd_wnd_test,
    tcp_tso_segs,
    tcp_wnd_end,
)
from .timer import NSEC_PER_MSEC

# Again.


def tcp_retransmit_skb(net: Netns, tp: TcpSock, skb: SkBuff, segs: int) -> int:
    """Send a lost piece again, at most `segs` of it; 0, -EAGAIN if the window is shut, -ENOBUFS."""
    err = __tcp_retransmit_skb(net, tp, skb, segs)
    if not err and not skb.sacked & TCPCB_SACKED_RETRANS:
        skb.sacked |= TCPCB_SACKED_RETRANS
        tp.retrans_out += skb.pcount
    if not tp.retrans_stamp:
        tp.retrans_stamp = net.now_ns // NSEC_PER_MSEC or 1
    if tp.undo_retrans < 0:
        tp.undo_retrans = 0
    tp.undo_retrans += skb.pcount
    return err


def __tcp_retransmit_skb(net: Netns, tp: TcpSock, skb: SkBuff, segs: int) -> int:
    """Send a piece again without taking it for lost: so a probe of the tail does."""
    mss = tcp_current_mss(net, tp)
    tcb = tp.tcb
    if before(skb.seq, tcb.snd_una):  # its front was acknowledged meanwhile
        gone = (tcb.snd_una - skb.seq) & MASK32
        skb.data = skb.data[gone - (1 if skb.tcp_flags & TCPHDR_SYN else 0) :]
        skb.seq = tcb.snd_una
    avail = (tcp_wnd_end(tp) - skb.seq) & MASK32
    if avail > 0x7FFFFFFF or not avail:
        if skb.seq != tcb.snd_una:
            return -EAGAIN
        avail = mss  # the first one is a probe of a window that shrank (RFC 9293 3.8.6)
    length = mss * segs
    if length > avail:
        length = max(avail // mss * mss, avail if avail < mss else mss)
    if len(skb.data) > length:
        err = tcp_fragment(net, tp, tp.tcp_rtx_queue, tp.tcp_rtx_queue.index(skb), length, mss)
        if err:
            return err
    elif skb.pcount:
        was = skb.pcount
        tcp_set_skb_tso_segs(skb, mss)
        if was != skb.pcount:
            tcp_adjust_pcount(tp, skb.sacked, was - skb.pcount)
        tcp_retrans_try_collapse(tp, skb, min(avail, mss))
    skb.tcp_flags = tcp_ecn_clear_syn(skb.tcp_flags, net.sysctl.tcp_ecn_fallback)
    err = tcp_transmit_skb(net, tp, skb, tcb.rcv_nxt if tcb.state != TCP_SYN_SENT else 0, mss)
    net.mib[Mib.TCP_RETRANSSEGS] += skb.pcount
    if skb.tcp_flags & TCPHDR_SYN:
        net.mib[Mib.TCP_SYNRETRANS] += 1
    tp.total_retrans += skb.pcount
    tp.bytes_retrans += len(skb.data)
    skb.sacked |= TCPCB_EVER_RETRANS  # even where it did not leave: its time is none to learn from
    if err:
        net.mib[Mib.TCP_RETRANSFAIL] += skb.pcount
    return err


def tcp_retrans_try_collapse(tp: TcpSock, skb: SkBuff, space: int) -> None:
    """Small pieces that go again are joined, up to a segment."""
    queue = tp.tcp_rtx_queue
    if skb.pcount != 1 or skb.tcp_flags & TCPHDR_SYN:
        return
    at = queue.index(skb) + 1
    while at < len(queue) and not skb.eor and not skb.sacked & TCPCB_SACKED_ACKED:
        behind = queue[at]
        if behind.pcount > 1 or behind.sacked & TCPCB_SACKED_ACKED:
            break
        if skb.ubuf is not None or behind.ubuf is not None:
            break
        if len(skb.data) + len(behind.data) > space or after(behind.end_seq, tcp_wnd_end(tp)):
            break
        skb.data = bytes(skb.data) + behind.data
        skb.end_seq = behind.end_seq
        skb.tcp_flags |= behind.tcp_flags
        skb.sacked |= behind.sacked & TCPCB_EVER_RETRANS
        skb.eor = behind.eor
        tcp_skb_collapse_tstamp(skb, behind)
        skb.truesize += len(behind.data)
        tp.sk_wmem_queued -= behind.truesize - len(behind.data)
        tcp_adjust_pcount(tp, behind.sacked, behind.pcount)
        del queue[at]


def tcp_xmit_retransmit_queue(net: Netns, tp: TcpSock) -> None:
    """Send again what is marked lost, as far as the window allows."""
    if not tp.packets_out:
        return
    most = tcp_tso_segs(net, tp, tcp_current_mss(net, tp))
    at = 0
    while at < len(tp.tcp_rtx_queue):
        skb = tp.tcp_rtx_queue[at]
        at += 1
        room = tp.snd_cwnd - tcp_packets_in_flight(tp)
        if room <= 0:
            break
        if skb.sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS) or not skb.sacked & TCPCB_LOST:
            continue
        if tcp_retransmit_skb(net, tp, skb, min(room, most)):
            break
        net.mib[
            Mib.TCP_SLOWSTARTRETRANS if tp.ca_state == CaState.TCP_CA_LOSS else Mib.TCP_FASTRETRANS
        ] += skb.pcount
        if tp.ca_state in (CaState.TCP_CA_CWR, CaState.TCP_CA_RECOVERY):
            tp.prr_out += skb.pcount
        if skb is tp.tcp_rtx_queue[0] and tp.icsk_pending not in (
            ICSK_TIME_PROBE0,
            ICSK_TIME_REO_TIMEOUT,
        ):
            tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, tp.rto_ns)


# Probes.


def tcp_send_loss_probe(net: Netns, tp: TcpSock) -> None:
    """Make the peer tell of its tail: new data if it takes any, else the last segment again.

    RFC 8985 7.3. One probe is out at a time; the time-out runs on behind it.
    """
    mss = tcp_current_mss(net, tp)
    if not tp.tlp_high_seq and tcp_loss_probe_skb(net, tp, mss):
        tp.tlp_high_seq = tp.tcb.snd_nxt
        net.mib[Mib.TCP_LOSSPROBES] += 1
        tp.icsk_pending = 0  # the time-out starts anew
    tcp_rearm_rto(net, tp)


def tcp_loss_probe_skb(net: Netns, tp: TcpSock, mss: int) -> bool:
    """True if a probe was sent."""
    tp.tlp_retrans = False
    if tp.sk_write_queue and tcp_snd_wnd_test(tp, tp.sk_write_queue[0], mss):
        had = tp.packets_out
        tcp_write_xmit(net, tp, mss, TCP_NAGLE_OFF, 2)
        return tp.packets_out > had
    if not tp.tcp_rtx_queue:
        return False
    skb = tp.tcp_rtx_queue[-1]
    before_last = (skb.pcount - 1) * mss
    if skb.pcount > 1 and len(skb.data) > before_last:
        at = len(tp.tcp_rtx_queue) - 1
        if tcp_fragment(net, tp, tp.tcp_rtx_queue, at, before_last, mss):
            return False
        skb = tp.tcp_rtx_queue[-1]
    tp.tlp_retrans = not __tcp_retransmit_skb(net, tp, skb, 1)
    return tp.tlp_retrans


def tcp_xmit_probe_skb(net: Netns, tp: TcpSock, urgent: bool) -> int:
    """An empty segment before what is acknowledged: its answer tells that the peer is there."""
    seq = tp.tcb.snd_una if urgent else (tp.tcb.snd_una - 1) & MASK32
    skb = SkBuff(seq, b"", TCPHDR_ACK)
    return tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, 0)


def tcp_write_wakeup(net: Netns, tp: TcpSock) -> int:
    """Probe: with data where the window takes any, else with nothing; 1 if neither is there."""
    if tp.tcb.state == TCP_CLOSE:
        return -1
    if tp.sk_write_queue and before(tp.sk_write_queue[0].seq, tcp_wnd_end(tp)):
        skb = tp.sk_write_queue[0]
        mss = tcp_current_mss(net, tp)
        room = (tcp_wnd_end(tp) - skb.seq) & MASK32
        if room < ((skb.end_seq - skb.seq) & MASK32) or len(skb.data) > mss:
            room = min(room, mss)
            skb.tcp_flags |= TCPHDR_PSH
            if len(skb.data) > room:
                tcp_fragment(net, tp, tp.sk_write_queue, 0, room, mss)
        tcp_set_skb_tso_segs(skb, mss)
        skb.tcp_flags |= TCPHDR_PSH
        err = tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, mss)
        if not err:
            tcp_event_new_data_sent(net, tp, skb)
        return err
    if before(tp.tcb.snd_una, tp.snd_up) and not after(
        tp.snd_up, (tp.tcb.snd_una + 0xFFFF) & MASK32
    ):
        tcp_xmit_probe_skb(net, tp, True)
    return tcp_xmit_probe_skb(net, tp, False)


def tcp_send_probe0(net: Netns, tp: TcpSock) -> None:
    """Probe a shut window, ever more rarely (RFC 9293 3.8.6.1)."""
    err = tcp_write_wakeup(net, tp)
    if tp.packets_out or not tp.sk_write_queue:
        tp.probes_out = 0
        tp.backoff = 0
        tp.probes_tstamp_ns = 0
        return
    tp.probes_out += 1
    if err <= 0:
        if tp.backoff < net.sysctl.tcp_retries2:
            tp.backoff += 1
        delay_ns = min(tcp_probe0_base_ns(tp) << tp.backoff, tcp_rto_max_ns(tp))
    else:
        delay_ns = 500 * NSEC_PER_MSEC
    delay_ns = tcp_clamp_probe0_to_user_timeout(net, tp, delay_ns)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, delay_ns)
