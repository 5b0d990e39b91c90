"""What an acknowledgment frees and teaches: the retransmit queue, round trips, the window.

Linux: tcp_ack, tcp_clean_rtx_queue in net/ipv4/tcp_input.c.  RFC 9293 3.10.7.4 (fifth), 6298, 5681.
"""

from __future__ import annotations

from .errqueue import skb_zcopy_clear
from .inet_connection_sock import (
    tcp_clamp_probe0_to_user_timeout,
    tcp_clear_xmit_timer,
    tcp_probe0_base_ns,
    tcp_reset_xmit_timer,
    tcp_set_xmit_timer,
)
from .netns import Netns, sk_wake
from .snmp import Mib
from .sock import (
    ICSK_ACK_NOW,
    ICSK_TIME_PROBE0,
    MAX_TCP_HEADER,
    SKB_OVERHEAD,
    SKB_SHARED_INFO,
    TCP_NAGLE_OFF,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcp import MASK32, TCPHDR_SYN, Segment, after, before
from .tcp_ecn import (
    INET_ECN_MASK,
    TCPHDR_CWR,
    TCPHDR_ECE,
    tcp_ecn_accept_cwr,
    tcp_ecn_rcv_ecn_echo,
    tcp_ecn_received,
)
from .tcp_output import tcp_push_pending_frames
from .tcp_rack import tcp_rack_advance, tcp_rack_update_reo_wnd
from .tcp_rate import (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_SNDBUF_LIMITED,
    RateSample,
    tcp_chrono_stop,
    tcp_rate_gen,
    tcp_rate_skb_delivered,
    tcp_update_pacing_rate,
)
from .tcp_recovery import (
    FLAG_ACKED,
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_DATA_SACKED,
    FLAG_DSACKING_ACK,
    FLAG_ECE,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_RETRANS_DATA_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SND_UNA_ADVANCED,
    FLAG_SYN_ACKED,
    tcp_cwnd_reduction,
    tcp_fastretrans_alert,
    tcp_is_sack,
    tcp_process_tlp_ack,
    tcp_remove_reno_sacks,
    tcp_sacktag_write_queue,
)
from .tcp_retransmit import tcp_xmit_retransmit_queue
from .tcp_rtt import tcp_rto_max_ns, tcp_rtt_estimator, tcp_rtt_tsopt_us, tcp_set_rto
from .tcp_tstamp import tcp_ack_tstamp
from .tcp_undo import tcp_check_sack_reordering
from .tcp_window import (
    tcp_current_mss,
    tcp_packets_in_flight,
    tcp_set_skb_tso_segs,
    tcp_wnd_end,
)
from .timer import NSEC_PER_MSEC


def tcp_clean_rtx_queue(
    net: Netns, tp: TcpSock, prior_una: int, prior_fack: int, rs: RateSample
) -> int:
    """Free what is acknowledged: FLAG_. `prior_fack` is the highest that was told of, or 0."""
    flags = acked = 0
    reord = prior_fack
    una = tp.tcb.snd_una
    sack_free = 0
    first_ns = last_ns = -1
    queue = tp.tcp_rtx_queue
    while queue:
        skb = queue[0]
        whole = not after(skb.end_seq, una)
        if whole:
            pcount = skb.pcount
        else:
            if not after(una, skb.seq):
                break
            pcount = tcp_trim_head(net, tp)
            if not pcount:
                break
        sacked = skb.sacked
        if sacked & TCPCB_EVER_RETRANS:
            if sacked & TCPCB_SACKED_RETRANS:
                tp.retrans_out -= pcount
            flags |= FLAG_RETRANS_DATA_ACKED
        elif not sacked & TCPCB_SACKED_ACKED:
            last_ns = skb.skb_mstamp_ns
            first_ns = last_ns if first_ns < 0 else first_ns
            if before(skb.seq, reord):
                reord = skb.seq
            if not after(skb.end_seq, tp.high_seq):
                flags |= FLAG_ORIG_SACK_ACKED
        if sacked & TCPCB_SACKED_ACKED:
            tp.sacked_out -= pcount
            sack_free += pcount
        elif tcp_is_sack(tp):
            tp.delivered += pcount
            if not tcp_skb_spurious_retrans(tp, skb):
                tcp_rack_advance(net, tp, sacked, skb.end_seq, skb.skb_mstamp_ns)
        if sacked & TCPCB_LOST:
            tp.lost_out -= pcount
        tp.packets_out -= pcount
        acked += pcount
        if skb.tcp_flags & TCPHDR_SYN:
            flags |= FLAG_SYN_ACKED
            tp.retrans_stamp = 0
        else:
            flags |= FLAG_DATA_ACKED
        tcp_rate_skb_delivered(tp, skb, rs)
        if not whole:
            break
        queue.popleft()
        tp.sk_wmem_queued -= skb.truesize
        tcp_ack_tstamp(net, tp, skb, prior_una)
        skb_zcopy_clear(net, tp, skb)
    if not queue:
        tcp_chrono_stop(tp, TCP_CHRONO_BUSY, net.now_ns)
    if tp.highest_sack and not before(una, tp.highest_sack):
        tp.highest_sack = 0
    if between_up(prior_una, tp.snd_up, una):
        tp.snd_up = una
    if queue:
        tcp_ack_tstamp(net, tp, queue[0], prior_una)
        if queue[0].sacked & TCPCB_SACKED_ACKED:
            flags |= FLAG_SACK_RENEGING
    rtt_us = sack_us = ca_us = -1
    if first_ns >= 0 and not flags & FLAG_RETRANS_DATA_ACKED:
        rtt_us = (net.now_ns - first_ns) // 1000
        ca_us = (net.now_ns - last_ns) // 1000
    if rs.first_sackt_ns >= 0:
        sack_us = (net.now_ns - rs.first_sackt_ns) // 1000
        ca_us = (net.now_ns - rs.last_sackt_ns) // 1000
    if ca_us >= 0:
        tp.ca.pkts_acked(tp, max(ca_us, 1), net.now_ns)
    if flags & (FLAG_DATA_ACKED | FLAG_SYN_ACKED) and not tcp_is_sack(tp):
        tcp_remove_reno_sacks(net, tp, acked)
        if flags & FLAG_RETRANS_DATA_ACKED:  # nobody knows what else was the copy's
            flags &= ~FLAG_ORIG_SACK_ACKED
    elif prior_fack and reord != prior_fack:
        # A hole was filled by what was sent once.
        tcp_check_sack_reordering(net, tp, reord, Mib.TCP_SACKREORDER)
    tcp_ack_update_rtt(net, tp, flags, rtt_us if rtt_us >= 0 else sack_us, ca_us)
    if flags & FLAG_ACKED or (queue and sack_us > (net.now_ns - queue[0].skb_mstamp_ns) // 1000):
        flags |= FLAG_SET_XMIT_TIMER  # not for SACK alone, if the first went since
    return flags


def tcp_skb_spurious_retrans(tp: TcpSock, skb: SkBuff) -> bool:
    """True if the echo of a time stamp tells that a piece had arrived before it went again."""
    return bool(
        skb.sacked & TCPCB_EVER_RETRANS
        and tp.saw_tstamp
        and tp.rcv_tsecr
        and before(tp.rcv_tsecr, (skb.skb_mstamp_ns // NSEC_PER_MSEC + tp.tsoffset) & MASK32)
    )


def between_up(low: int, value: int, high: int) -> bool:
    return not before(value, low) and not after(value, high)


def tcp_trim_head(net: Netns, tp: TcpSock) -> int:
    """Of a piece that is acknowledged in part, free the whole segments: how many."""
    skb: SkBuff = tp.tcp_rtx_queue[0]
    una = tp.tcb.snd_una
    gone = (una - skb.seq) & MASK32
    was = skb.pcount
    skb.data = skb.data[gone:]
    skb.seq = una
    skb.truesize -= gone
    tp.sk_wmem_queued -= gone
    if was > 1:
        tcp_set_skb_tso_segs(skb, tcp_current_mss(net, tp))
        skb.pcount = min(skb.pcount, was)
    return int(was - skb.pcount)


def tcp_ack_update_rtt(net: Netns, tp: TcpSock, flags: int, rtt_us: int, ca_us: int) -> None:
    """Learn from the round trips of the first and the last of what arrived, -1 if there are none.

    By Karn's rule, or by the echo of a time stamp (RFC 7323 4).
    """
    if rtt_us < 0 and tp.saw_tstamp and tp.rcv_tsecr and flags & FLAG_ACKED:
        rtt_us = ca_us = tcp_rtt_tsopt_us(net.now_ns, tp.rcv_tsecr, tp.tsoffset)
    if rtt_us < 0:
        return
    tp.rtt_min_us = min(tp.rtt_min_us, max(ca_us, 1))
    tcp_rtt_estimator(tp, rtt_us or 1)
    tcp_set_rto(tp)
    tp.backoff = 0


def tcp_ack_probe(net: Netns, tp: TcpSock) -> None:
    """The peer answers: a window that is open again needs no probes."""
    if not tp.sk_write_queue:
        return
    if not after(tp.sk_write_queue[0].end_seq, tcp_wnd_end(tp)):
        tp.backoff = 0
        tp.probes_tstamp_ns = 0
        if tp.icsk_pending == ICSK_TIME_PROBE0:
            tcp_clear_xmit_timer(tp)
    else:
        delay_ns = min(tcp_probe0_base_ns(tp) << tp.backoff, tcp_rto_max_ns(tp))
        delay_ns = tcp_clamp_probe0_to_user_timeout(net, tp, delay_ns)
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, delay_ns)


def tcp_may_raise_cwnd(net: Netns, tp: TcpSock, flags: int) -> bool:
    if tp.reordering > net.sysctl.tcp_reordering:
        return bool(flags & (FLAG_DATA_SACKED | FLAG_DATA_ACKED))
    return bool(flags & FLAG_DATA_ACKED)


def tcp_cong_control(net: Netns, tp: TcpSock, delivered: int, lost: int, flags: int) -> None:
    """Move the congestion window by one acknowledgment."""
    if tp.ca_state in (CaState.TCP_CA_CWR, CaState.TCP_CA_RECOVERY):
        tcp_cwnd_reduction(net, tp, delivered, lost, flags)
    elif tcp_may_raise_cwnd(net, tp, flags):
        tp.ca.cong_avoid(tp, delivered, net.now_ns)
    tcp_update_pacing_rate(tp)


def tcp_update_rto_time(net: Netns, tp: TcpSock) -> None:
    """A row of time-outs is over: how long did it take?"""
    if tp.rto_stamp_ms and tp.ca_state != CaState.TCP_CA_LOSS:
        tp.total_rto_time += (net.now_ns // NSEC_PER_MSEC - tp.rto_stamp_ms) & MASK32
        tp.total_rto_time &= MASK32
        tp.rto_stamp_ms = 0


def tcp_ack(
    net: Netns,
    tp: TcpSock,
    th: Segment,
    sack: list[tuple[int, int]],
    prior_una: int,
    flags: int,
) -> int:
    """Act on an acceptable acknowledgment that the judge has taken in already.

    Parameters
    ----------
    net : Netns
    tp : TcpSock
    th : Segment
    sack : list of (int, int), its blocks
    prior_una : int, snd_una before it
    flags : int, FLAG_DATA and FLAG_WIN_UPDATE as far as they hold

    Returns
    -------
    int : FLAG_, all that it did
    """
    tcb = tp.tcb
    if before(th.ack, prior_una):
        return tcp_old_ack(net, tp, th, sack, prior_una, flags)
    tp.probes_out = 0
    tp.rcv_tstamp_ns = net.now_ns
    tp.sk_err_soft = 0
    tp.rack_waits = False
    prior_fack = tp.highest_sack if tcp_is_sack(tp) else 0
    prior_packets = tp.packets_out
    delivered, lost = tp.delivered, tp.lost
    rs = RateSample()
    if after(tcb.snd_una, prior_una):
        flags |= FLAG_SND_UNA_ADVANCED
        tp.retransmits = 0
        tp.bytes_acked += (tcb.snd_una - prior_una) & MASK32
    if net.ip_dsfield & INET_ECN_MASK:
        tcp_ecn_received(tp)
    if sack and tcp_is_sack(tp):
        flags |= tcp_sacktag_write_queue(net, tp, sack, prior_una, th.ack, rs)
    if th.flags & (TCPHDR_ECE | TCPHDR_CWR):
        if tcp_ecn_accept_cwr(tp, th.flags) and th.end_seq != th.seq:
            tp.ack_pending |= ICSK_ACK_NOW
        if tcp_ecn_rcv_ecn_echo(tp, th.flags) and not th.flags & TCPHDR_SYN:
            flags |= FLAG_ECE
    if not prior_packets:
        if flags & FLAG_DSACKING_ACK:  # a reduction may have been for nothing
            tcp_fastretrans_alert(net, tp, prior_una, 0, flags)
        tcp_ack_probe(net, tp)
        if tp.tlp_high_seq:
            tcp_process_tlp_ack(net, tp, th.ack, flags)
        return flags
    flags |= tcp_clean_rtx_queue(net, tp, prior_una, prior_fack, rs)
    tcp_rack_update_reo_wnd(net, tp, rs)
    if tp.tlp_high_seq:
        tcp_process_tlp_ack(net, tp, th.ack, flags)
    dubious = (
        not flags & FLAG_NOT_DUP
        or flags & (FLAG_DATA_SACKED | FLAG_ECE)
        or tp.ca_state != CaState.TCP_CA_OPEN
    )
    new_first = False
    if dubious:
        dup_acks = 0
        if not flags & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DSACKING_ACK):
            dup_acks = 1
        new_first = tcp_fastretrans_alert(net, tp, prior_una, dup_acks, flags)
        tcp_update_rto_time(net, tp)
        if flags & FLAG_ECE:
            tp.delivered_ce += tp.delivered - delivered
            net.mib[Mib.TCP_DELIVEREDCE] += tp.delivered - delivered
    reneging = FLAG_SACK_RENEGING | FLAG_SND_UNA_ADVANCED  # it has a timer of its own
    reneging_now = dubious and flags & reneging == reneging
    if flags & FLAG_SET_XMIT_TIMER and not reneging_now and not tp.rack_waits:
        tcp_set_xmit_timer(net, tp)
    tcp_rate_gen(tp, tp.delivered - delivered, bool(flags & FLAG_SACK_RENEGING), rs, net.now_ns)
    if not flags & FLAG_DATA or flags & FLAG_SND_UNA_ADVANCED:
        tcp_cong_control(net, tp, tp.delivered - delivered, tp.lost - lost, flags)
    tcp_xmit_recovery(net, tp, new_first)
    return flags


def tcp_old_ack(
    net: Netns, tp: TcpSock, th: Segment, sack: list[tuple[int, int]], prior_una: int, flags: int
) -> int:
    """Others have overtaken it: only what its blocks tell of is news, and even that not counted."""
    if not sack or not tcp_is_sack(tp):
        return flags
    delivered = tp.delivered
    tp.rack_waits = False
    flags |= tcp_sacktag_write_queue(net, tp, sack, prior_una, th.ack, RateSample())
    tp.delivered = delivered
    new_first = tcp_fastretrans_alert(net, tp, prior_una, 0, flags)
    tcp_update_rto_time(net, tp)
    tcp_xmit_recovery(net, tp, new_first)
    return flags


def tcp_xmit_recovery(net: Netns, tp: TcpSock, new_first: bool) -> None:
    """Send what is lost, or new data if F-RTO wants to see what becomes of that."""
    recovers = tp.ca_state in (CaState.TCP_CA_RECOVERY, CaState.TCP_CA_LOSS)
    if not new_first and not tp.lost_out and not recovers:
        return
    if new_first:
        tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), TCP_NAGLE_OFF)
        if after(tp.tcb.snd_nxt, tp.high_seq):
            return
        tp.frto = False
    tcp_xmit_retransmit_queue(net, tp)


def tcp_check_space(net: Netns, tp: TcpSock) -> None:
    """Room to write again, where the caller had found none."""
    had_none = tp.nospace
    if had_none:
        tcp_new_space(net, tp)
    if had_none and not tp.nospace:
        tcp_chrono_stop(tp, TCP_CHRONO_SNDBUF_LIMITED, net.now_ns)


def sk_stream_memory_free(net: Netns, tp: TcpSock, wake: int) -> bool:
    """True if a write is taken: there is memory, and little waits to be sent (TCP_NOTSENT_LOWAT).

    Who waits is woken (`wake` 1) when half of it is left.
    """
    lowat = tp.notsent_lowat or net.sysctl.tcp_notsent_lowat
    notsent = (tp.write_seq - tp.tcb.snd_nxt) & MASK32
    return tp.sk_wmem_queued < tp.sk_sndbuf and (notsent << wake) & MASK32 < lowat


def sk_stream_is_writeable(net: Netns, tp: TcpSock) -> bool:
    """True if a third of the buffer is free, and so is the rest of what a write asks for."""
    return 3 * tp.sk_wmem_queued <= 2 * tp.sk_sndbuf and sk_stream_memory_free(net, tp, 1)


def tcp_new_space(net: Netns, tp: TcpSock) -> None:
    """Grow the buffer with the congestion window, unless that holds back; tell the caller."""
    if tcp_packets_in_flight(tp) < tp.snd_cwnd:
        tcp_sndbuf_expand(net, tp)
    if sk_stream_is_writeable(net, tp):
        tp.nospace = False
        sk_wake(net, tp)


def tcp_sndbuf_expand(net: Netns, tp: TcpSock) -> None:
    """The send buffer holds two windows of what a segment costs; never beyond tcp_wmem[2]."""
    if tp.userlocks & 4:
        return
    per_mss = max(tp.mss_clamp, tp.mss_cache) + MAX_TCP_HEADER + SKB_SHARED_INFO
    per_mss = (1 << (per_mss - 1).bit_length()) + SKB_OVERHEAD
    segs = max(10, tp.snd_cwnd, tp.reordering + 1)
    if tp.sk_sndbuf < 2 * segs * per_mss:
        tp.sk_sndbuf = min(2 * segs * per_mss, net.sysctl.tcp_wmem[2])
