"""What is lost: SACK's scoreboard, fast retransmit with and without it, undo, proportional rate.

Linux: net/ipv4/tcp_input.c, tcp_rack_reo_timeout in tcp_recovery.c.
RFC 2018, 2883, 5681 3.2, 5682, 6582, 6675, 8985, 9937.
"""

from __future__ import annotations

from .inet_connection_sock import tcp_rearm_rto, tcp_reset_xmit_timer
from .netns import Netns
from .snmp import Mib
from .sock import (
    ICSK_TIME_RETRANS,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcp import MASK32, after, before
from .tcp_cong import (
    CA_EVENT_LOSS,
    tcp_current_ssthresh,
    tcp_enter_cwr,
    tcp_init_cwnd_reduction,
    tcp_set_ca_state,
)
from .tcp_ecn import tcp_ecn_queue_cwr
from .tcp_output import tcp_fragment
from .tcp_rack import (
    tcp_mark_skb_lost,
    tcp_rack_advance,
    tcp_rack_detect_loss,
    tcp_rack_mark_lost,
    tcp_rack_skb_timeout,
)
from .tcp_rate import RateSample, tcp_rate_skb_delivered
from .tcp_retransmit import tcp_xmit_retransmit_queue
from .tcp_undo import (
    tcp_any_retrans_done,
    tcp_check_sack_reordering,
    tcp_try_keep_open,
    tcp_try_undo_dsack,
    tcp_try_undo_loss,
    tcp_try_undo_partial,
    tcp_try_undo_recovery,
)
from .tcp_window import tcp_current_mss, tcp_packets_in_flight, tcp_wnd_end
from .timer import NSEC_PER_MSEC

FLAG_DATA = 0x01  # the segment had data
FLAG_WIN_UPDATE = 0x02
FLAG_DATA_ACKED = 0x04  # data was acknowledged
FLAG_RETRANS_DATA_ACKED = 0x08  # some of it had been sent again
FLAG_SYN_ACKED = 0x10
FLAG_DATA_SACKED = 0x20  # SACK told of something new
FLAG_ECE = 0x40  # the peer tells of a mark
FLAG_ORIG_SACK_ACKED = 0x200  # data of before the loss arrived that was never sent again
FLAG_SND_UNA_ADVANCED = 0x400
FLAG_DSACKING_ACK = 0x800
FLAG_SET_XMIT_TIMER = 0x1000  # wait anew for a probe or the time-out
FLAG_SACK_RENEGING = 0x2000
FLAG_DSACK_TLP = 0x20000  # the duplicate was a probe of the tail
FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED


def tcp_is_sack(tp: TcpSock) -> bool:
    return bool(tp.sack_ok)


def tcp_is_sackblock_valid(tp: TcpSock, start: int, end: int, duplicate: bool) -> bool:
    """True for a block about what was sent and not acknowledged; a duplicate may lie below."""
    tcb = tp.tcb
    if after(end, tcb.snd_nxt) or not before(start, end) or not before(start, tcb.snd_nxt):
        return False
    if after(start, tcb.snd_una):
        return True
    if not duplicate or not tp.undo_marker:
        return False
    return (
        not after(end, tcb.snd_una)
        and not before(start, (tp.undo_marker - tcb.max_window) & MASK32)
        and before(start, tcb.snd_una)
    )


def tcp_check_dsack(
    net: Netns, tp: TcpSock, blocks: list[tuple[int, int]], prior_una: int, ack: int
) -> bool:
    """True if the first block tells of a duplicate (RFC 2883 4); undo counts it."""
    start, end = blocks[0]
    if before(start, ack):
        net.mib[Mib.TCP_DSACKRECV] += 1
    elif len(blocks) > 1 and not before(start, blocks[1][0]) and not after(end, blocks[1][1]):
        net.mib[Mib.TCP_DSACKOFORECV] += 1
    else:
        return False
    span = (end - start) & MASK32
    segs = -(-span // tp.mss_cache) if before(start, end) and span <= tp.tcb.max_window else 0
    tp.dsack_dups += segs
    if not segs or tp.dsack_dups > tp.total_retrans:  # it was not sent again: the network's copy
        net.mib[Mib.TCP_DSACKIGNOREDDUBIOUS] += 1
        return False
    net.mib[Mib.TCP_DSACKRECVSEGS] += segs
    tp.sack_ok |= 4
    tp.delivered += segs
    in_time = not after(end, prior_una) and after(end, tp.undo_marker)
    if tp.undo_marker and tp.undo_retrans > 0 and in_time:
        tp.undo_retrans = max(tp.undo_retrans - segs, 0)
    return True


def tcp_sacktag_write_queue(
    net: Netns,
    tp: TcpSock,
    blocks: list[tuple[int, int]],
    prior_una: int,
    ack: int,
    rs: RateSample,
) -> int:
    """Mark what SACK tells of (RFC 2018 5), in the order of its numbers: FLAG_."""
    flags = 0
    if tcp_check_dsack(net, tp, blocks, prior_una, ack):
        flags = FLAG_DSACKING_ACK
        start, end = blocks[0]
        if tp.tlp_high_seq and tp.tlp_high_seq == end and (end - start) & MASK32 <= tp.mss_cache:
            flags |= FLAG_DSACK_TLP
        elif tp.reord_seen:
            tp.rack_dsack_seen = True
    if not tp.packets_out:
        return flags
    duplicate = bool(flags)
    mss = tcp_current_mss(net, tp)
    told = []
    for i, (start, end) in enumerate(blocks):
        if not tcp_is_sackblock_valid(tp, start, end, duplicate and i == 0):
            if duplicate and i == 0:
                known = tp.undo_marker
                net.mib[Mib.TCP_DSACKIGNOREDOLD if known else Mib.TCP_DSACKIGNOREDNOUNDO] += 1
            else:
                net.mib[Mib.TCP_SACKDISCARD] += 1
            continue
        if after(end, prior_una):
            told.append((start, end))
    told.sort(key=lambda block: (block[0] - prior_una) & MASK32)
    for start, end in told:
        index = 0
        queue = tp.tcp_rtx_queue
        while index < len(queue):
            skb = queue[index]
            if not before(skb.seq, end):
                break
            if after(skb.end_seq, start) and not skb.sacked & TCPCB_SACKED_ACKED:
                if before(skb.seq, start) or after(skb.end_seq, end):
                    index += tcp_sack_split(net, tp, index, start, end, mss)
                    continue
                flags |= tcp_sacktag_one(net, tp, skb, rs)
                tcp_rate_skb_delivered(tp, skb, rs)
            index += 1
    if rs.late and (tp.ca_state != CaState.TCP_CA_LOSS or tp.undo_marker):
        tcp_check_sack_reordering(net, tp, rs.reord, Mib.TCP_SACKREORDER)
    return flags


def tcp_sack_split(net: Netns, tp: TcpSock, index: int, start: int, end: int, mss: int) -> int:
    """Cut a piece that a block covers in part, at whole segments; how many to pass over."""
    skb = tp.tcp_rtx_queue[index]
    if before(skb.seq, start):
        keep = -(-((start - skb.seq) & MASK32) // mss) * mss
        if keep < len(skb.data):
            tcp_fragment(net, tp, tp.tcp_rtx_queue, index, keep, mss)
        return 1
    keep = ((end - skb.seq) & MASK32) // mss * mss
    if not 0 < keep < len(skb.data):
        return 1
    return 1 if tcp_fragment(net, tp, tp.tcp_rtx_queue, index, keep, mss) else 0


def tcp_sacktag_one(net: Netns, tp: TcpSock, skb: SkBuff, rs: RateSample) -> int:
    """The peer has this piece, though not all before it."""
    tcp_rack_advance(net, tp, skb.sacked, skb.end_seq, skb.skb_mstamp_ns)
    if skb.sacked & TCPCB_SACKED_RETRANS:
        if skb.sacked & TCPCB_LOST:
            skb.sacked &= ~TCPCB_LOST
            tp.lost_out -= skb.pcount
        skb.sacked &= ~TCPCB_SACKED_RETRANS
        tp.retrans_out -= skb.pcount
    elif skb.sacked & TCPCB_LOST:
        skb.sacked &= ~TCPCB_LOST
        tp.lost_out -= skb.pcount
    flags = FLAG_DATA_SACKED
    if not skb.sacked & TCPCB_EVER_RETRANS:
        low = rs.reord if rs.late else tp.highest_sack
        if tp.highest_sack and before(skb.seq, low):
            rs.late, rs.reord = True, skb.seq
        rs.last_sackt_ns = skb.skb_mstamp_ns
        if rs.first_sackt_ns < 0:
            rs.first_sackt_ns = skb.skb_mstamp_ns
        if not after(skb.end_seq, tp.high_seq):
            flags |= FLAG_ORIG_SACK_ACKED
    skb.sacked |= TCPCB_SACKED_ACKED
    skb.rack_off = True
    tp.sacked_out += skb.pcount
    tp.delivered += skb.pcount
    if not tp.highest_sack or after(skb.end_seq, tp.highest_sack):
        tp.highest_sack = skb.end_seq
    return flags


def tcp_identify_packet_loss(net: Netns, tp: TcpSock, flags: int) -> bool:
    """Mark what is lost; True if that was lost again which had been sent again."""
    retrans_out = tp.retrans_out
    if tp.packets_out and tcp_is_sack(tp):
        tcp_rack_mark_lost(net, tp)
    elif tp.packets_out:
        tcp_newreno_mark_lost(net, tp, bool(flags & FLAG_SND_UNA_ADVANCED))
    return tp.retrans_out < retrans_out


def tcp_newreno_mark_lost(net: Netns, tp: TcpSock, advanced: bool) -> None:
    """Without SACK only the first piece is known to be lost (RFC 6582 3.2)."""
    if tp.ca_state < CaState.TCP_CA_RECOVERY:
        if tp.sacked_out < tp.reordering:
            return
    elif tp.ca_state != CaState.TCP_CA_RECOVERY or not advanced:
        return
    skb = tp.tcp_rtx_queue[0]
    if skb.sacked & TCPCB_LOST:
        return
    mss = tcp_current_mss(net, tp)
    if skb.pcount > 1:
        tcp_fragment(net, tp, tp.tcp_rtx_queue, 0, mss, mss)
    tcp_mark_skb_lost(net, tp, skb)


def tcp_rack_reo_timeout(net: Netns, tp: TcpSock) -> None:
    """What was late is lost now (RFC 8985 6.3)."""
    flight, lost = tcp_packets_in_flight(tp), tp.lost
    tcp_rack_detect_loss(net, tp)
    if tcp_packets_in_flight(tp) != flight:
        if tp.ca_state != CaState.TCP_CA_RECOVERY:
            tcp_enter_recovery(net, tp, 0)
            tcp_cwnd_reduction(net, tp, 1, tp.lost - lost, 0)
        tcp_xmit_retransmit_queue(net, tp)
    if tp.icsk_pending != ICSK_TIME_RETRANS:
        tcp_rearm_rto(net, tp)


def tcp_check_reno_reordering(net: Netns, tp: TcpSock, acked: int) -> None:
    """More duplicate ACKs than segments that can have left: order was not kept."""
    most = tp.packets_out - min(max(tp.lost_out, 1), tp.packets_out)
    if tp.sacked_out > most:
        tp.sacked_out = most
        tp.reordering = min(tp.packets_out + acked, net.sysctl.tcp_max_reordering)
        tp.reord_seen += 1
        net.mib[Mib.TCP_RENOREORDER] += 1


def tcp_add_reno_sack(net: Netns, tp: TcpSock, segs: int) -> None:
    """Without SACK each duplicate ACK stands for a segment that left the network."""
    prior_sacked = tp.sacked_out
    tp.sacked_out += segs
    tcp_check_reno_reordering(net, tp, 0)
    tp.delivered += max(tp.sacked_out - prior_sacked, 0)


def tcp_remove_reno_sacks(net: Netns, tp: TcpSock, acked: int) -> None:
    if acked > 0:
        tp.delivered += max(acked - tp.sacked_out, 1)
        tp.sacked_out = 0 if acked - 1 >= tp.sacked_out else tp.sacked_out - (acked - 1)
    tcp_check_reno_reordering(net, tp, acked)


def tcp_init_undo(tp: TcpSock) -> None:
    tp.undo_marker = tp.tcb.snd_una or 1
    tp.undo_retrans = tp.retrans_out
    if tp.tlp_high_seq and tp.tlp_retrans:  # its duplicate may be reported yet
        tp.undo_retrans += 1
    if not tp.undo_retrans:
        tp.undo_retrans = -1


def tcp_cwnd_reduction(net: Netns, tp: TcpSock, delivered: int, lost: int, flags: int) -> None:
    """Spread what is sent in recovery over its round trip (RFC 9937)."""
    if delivered <= 0 or not tp.prior_cwnd:
        return
    flight = tcp_packets_in_flight(tp)
    delta = tp.snd_ssthresh - flight
    tp.prr_delivered += delivered
    if delta < 0:
        dividend = tp.snd_ssthresh * tp.prr_delivered + tp.prior_cwnd - 1
        count = dividend // tp.prior_cwnd - tp.prr_out
    else:
        count = max(tp.prr_delivered - tp.prr_out, delivered)
        if flags & FLAG_SND_UNA_ADVANCED and not lost:
            count += 1
        count = min(delta, count)
    count = max(count, 0 if tp.prr_out else 1)
    tp.snd_cwnd = flight + count


def tcp_end_cwnd_reduction(net: Netns, tp: TcpSock) -> None:
    if tp.snd_ssthresh < 0x7FFFFFFF and (tp.undo_marker or tp.ca_state == CaState.TCP_CA_CWR):
        tp.snd_cwnd = tp.snd_ssthresh


def tcp_enter_recovery(net: Netns, tp: TcpSock, flags: int) -> None:
    """Three duplicates: the window shrinks, what is lost is sent again (RFC 5681 3.2)."""
    net.mib[Mib.TCP_SACKRECOVERY if tcp_is_sack(tp) else Mib.TCP_RENORECOVERY] += 1
    tp.prior_ssthresh = 0
    tcp_init_undo(tp)
    if tp.ca_state < CaState.TCP_CA_CWR:
        if not flags & FLAG_ECE:
            tp.prior_ssthresh = tcp_current_ssthresh(tp)
        tcp_init_cwnd_reduction(tp, net.now_ns)
    tcp_set_ca_state(tp, CaState.TCP_CA_RECOVERY, net.now_ns)


def tcp_enter_loss(net: Netns, tp: TcpSock) -> None:
    """The time-out: everything in flight is lost, one segment goes (RFC 5681 3.1, 6298 5.4)."""
    tcb = tp.tcb
    first = tp.ca_state < CaState.TCP_CA_RECOVERY
    head = tp.tcp_rtx_queue[0]
    reneging = bool(head.sacked & TCPCB_SACKED_ACKED)
    if reneging:
        net.mib[Mib.TCP_SACKRENEGING] += 1
        tp.sacked_out = 0
    elif not tcp_is_sack(tp):
        tp.sacked_out = 0
    for skb in tp.tcp_rtx_queue:
        if reneging:
            skb.sacked &= ~TCPCB_SACKED_ACKED
        elif skb is not head and tcp_rack_skb_timeout(net, tp, skb, 0) > 0:
            continue  # sent a moment ago
        tcp_mark_skb_lost(net, tp, skb)
        if skb.sacked & TCPCB_SACKED_RETRANS:
            skb.sacked &= ~TCPCB_SACKED_RETRANS
            tp.retrans_out -= skb.pcount
    if (
        tp.ca_state <= CaState.TCP_CA_DISORDER
        or not after(tp.high_seq, tcb.snd_una)
        or (tp.ca_state == CaState.TCP_CA_LOSS and not tp.retransmits)
    ):
        tp.prior_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_cwnd = tp.snd_cwnd
        tp.snd_ssthresh = tp.ca.ssthresh(tp, net.now_ns)
        tp.ca.cwnd_event(tp, CA_EVENT_LOSS, net.now_ns)
        tcp_init_undo(tp)
    tp.snd_cwnd = tcp_packets_in_flight(tp) + 1
    tp.snd_cwnd_cnt = 0
    if tp.ca_state <= CaState.TCP_CA_DISORDER and tp.sacked_out >= net.sysctl.tcp_reordering:
        tp.reordering = min(tp.reordering, net.sysctl.tcp_reordering)
    tcp_set_ca_state(tp, CaState.TCP_CA_LOSS, net.now_ns)
    tp.high_seq = tcb.snd_nxt
    tp.tlp_high_seq = 0
    tcp_ecn_queue_cwr(tp)
    tp.frto = bool(net.sysctl.tcp_frto and (first or tp.retransmits))


def tcp_simple_retransmit(net: Netns, tp: TcpSock) -> None:
    """What is in flight is too large for the path: it is lost, and that is no congestion."""
    mss = tcp_current_mss(net, tp)
    for skb in tp.tcp_rtx_queue:
        if (skb.gso_size or len(skb.data)) > mss:
            tcp_mark_skb_lost(net, tp, skb)
    if not tp.lost_out:
        return
    if tp.ca_state != CaState.TCP_CA_LOSS:
        tp.high_seq = tp.tcb.snd_nxt
        tp.snd_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_ssthresh = 0
        tp.undo_marker = 0
        tcp_set_ca_state(tp, CaState.TCP_CA_LOSS, net.now_ns)
    tcp_xmit_retransmit_queue(net, tp)


def tcp_process_tlp_ack(net: Netns, tp: TcpSock, ack: int, flags: int) -> None:
    """End a probe's episode: was the tail lost, which the probe has mended? (RFC 8985 7.4)."""
    if before(ack, tp.tlp_high_seq):
        return
    if not tp.tlp_retrans or flags & FLAG_DSACK_TLP:
        tp.tlp_high_seq = 0  # it was new data; or the segment came twice
    elif after(ack, tp.tlp_high_seq):
        tcp_init_cwnd_reduction(tp, net.now_ns)
        tcp_set_ca_state(tp, CaState.TCP_CA_CWR, net.now_ns)
        tcp_end_cwnd_reduction(net, tp)
        tcp_try_keep_open(net, tp)
        net.mib[Mib.TCP_LOSSPROBERECOVERY] += 1
    elif not flags & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        tp.tlp_high_seq = 0  # a bare duplicate: the segment came twice


def tcp_check_sack_reneging(net: Netns, tp: TcpSock, flags: int) -> bool:
    """True if the peer seems to have dropped what it told of (RFC 2018 8): it is given half a
    round trip, then all is lost."""
    if not flags & FLAG_SACK_RENEGING or not flags & FLAG_SND_UNA_ADVANCED:
        return False
    delay_ns = max((tp.srtt_us >> 4) * 1000, 10 * NSEC_PER_MSEC)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, delay_ns)
    return True


def tcp_fastretrans_alert(
    net: Netns, tp: TcpSock, prior_una: int, dup_acks: int, flags: int
) -> bool:
    """Go through the states of recovery with one acknowledgment, where anything is out of order.

    True if new data is to be sent before what is lost (F-RTO).
    """
    tcb = tp.tcb
    if not tp.packets_out and tp.sacked_out:
        tp.sacked_out = 0
    if flags & FLAG_ECE:
        tp.prior_ssthresh = 0  # the window is to shrink, whatever was lost or not
    if tcp_check_sack_reneging(net, tp, flags):
        return False
    if tp.ca_state == CaState.TCP_CA_OPEN:
        tp.retrans_stamp = 0
    elif not before(tcb.snd_una, tp.high_seq):
        if tp.ca_state == CaState.TCP_CA_CWR:
            if tcb.snd_una != tp.high_seq:
                tcp_end_cwnd_reduction(net, tp)
                tcp_set_ca_state(tp, CaState.TCP_CA_OPEN, net.now_ns)
        elif tp.ca_state == CaState.TCP_CA_RECOVERY:
            if not tcp_is_sack(tp):
                tp.sacked_out = 0
            if tcp_try_undo_recovery(net, tp):
                return False
            tcp_end_cwnd_reduction(net, tp)
    duplicate = dup_acks > 0 or flags & FLAG_DATA_SACKED
    if tp.ca_state == CaState.TCP_CA_RECOVERY:
        if flags & FLAG_SND_UNA_ADVANCED:
            if tcp_try_undo_partial(net, tp, prior_una):
                return False
        elif not tcp_is_sack(tp) and duplicate:
            tcp_add_reno_sack(net, tp, dup_acks)
        if tcp_try_undo_dsack(net, tp):
            tcp_try_to_open(net, tp, flags)
        tcp_identify_packet_loss(net, tp, flags)
        if tp.ca_state != CaState.TCP_CA_RECOVERY and tp.lost_out:
            tcp_enter_recovery(net, tp, flags)
        return False
    if tp.ca_state == CaState.TCP_CA_LOSS:
        new = tcp_process_loss(net, tp, flags, dup_acks)
        again = tcp_identify_packet_loss(net, tp, flags)
        if tp.ca_state != CaState.TCP_CA_OPEN and not again:
            return new
    if not tcp_is_sack(tp):
        if flags & FLAG_SND_UNA_ADVANCED:
            tp.sacked_out = 0
        if dup_acks:
            tcp_add_reno_sack(net, tp, dup_acks)
    if tp.ca_state <= CaState.TCP_CA_DISORDER:
        tcp_try_undo_dsack(net, tp)
    tcp_identify_packet_loss(net, tp, flags)
    if tp.lost_out:
        tcp_enter_recovery(net, tp, flags)
    else:
        tcp_try_to_open(net, tp, flags)
    return False


def tcp_try_to_open(net: Netns, tp: TcpSock, flags: int) -> None:
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    if flags & FLAG_ECE:
        tcp_enter_cwr(tp, net.now_ns)
    if tp.ca_state != CaState.TCP_CA_CWR:
        tcp_try_keep_open(net, tp)


def tcp_process_loss(net: Netns, tp: TcpSock, flags: int, dup_acks: int) -> bool:
    """After a time-out: until everything of then is acknowledged. True if new data comes first."""
    tcb = tp.tcb
    recovered = not before(tcb.snd_una, tp.high_seq)
    if flags & FLAG_SND_UNA_ADVANCED and tcp_try_undo_loss(net, tp, False):
        return False
    if tp.frto:  # RFC 5682 3.1: is what comes now of before the time-out, or of the copy?
        if flags & FLAG_ORIG_SACK_ACKED and tcp_try_undo_loss(net, tp, True):
            return False
        if after(tcb.snd_nxt, tp.high_seq):
            if flags & FLAG_DATA_SACKED or dup_acks:
                tp.frto = False  # 3.a: new data arrived, what was before it did not
        elif flags & FLAG_SND_UNA_ADVANCED and not recovered:
            tp.high_seq = tcb.snd_nxt
            if tp.sk_write_queue and after(tcp_wnd_end(tp), tcb.snd_nxt):
                return True  # 2.b
            tp.frto = False
    if recovered:
        tcp_try_undo_recovery(net, tp)
        return False
    if not tcp_is_sack(tp):
        if after(tcb.snd_nxt, tp.high_seq) and dup_acks:
            tcp_add_reno_sack(net, tp, dup_acks)
        elif flags & FLAG_SND_UNA_ADVANCED:
            tp.sacked_out = 0
    return False
