"""What to take back when nothing was lost: the window, the marks, the state.

Linux: net/ipv4/tcp_input.c.  RFC 4015, 3708, 5682, 6582 4.1.
"""

from __future__ import annotations

from .netns import Netns
from .snmp import Mib
from .sock import (
    TCP_RACK_RECOVERY_THRESH,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    CaState,
    TcpSock,
)
from .tcp import MASK32, before
from .tcp_cong import tcp_set_ca_state
from .tcp_ecn import tcp_ecn_withdraw_cwr


def tcp_packet_delayed(tp: TcpSock) -> bool:
    """True if what is acknowledged left before the first retransmission (RFC 3522), or none did."""
    if tp.retrans_stamp:
        first = (tp.retrans_stamp + tp.tsoffset) & MASK32
        return bool(tp.saw_tstamp and tp.rcv_tsecr) and before(tp.rcv_tsecr, first)
    if not tp.sack_ok and not before(tp.tcb.snd_una, tp.high_seq):
        return False  # it was forgotten (tcp_is_non_sack_preventing_reopen)
    return tp.bytes_acked > 1  # of a SYN, too


def tcp_may_undo(tp: TcpSock) -> bool:
    """True if nothing was lost: each copy was reported twice, or what was missing was late."""
    return bool(tp.undo_marker) and (not tp.undo_retrans or tcp_packet_delayed(tp))


def tcp_check_sack_reordering(net: Netns, tp: TcpSock, low_seq: int, mib: Mib) -> None:
    """A piece came after later ones: so many segments of disorder are no loss."""
    high = tp.highest_sack or tp.tcb.snd_una
    if not before(low_seq, high):
        return
    metric = (high - low_seq) & MASK32
    if metric > tp.reordering * tp.mss_cache:
        tp.reordering = min(-(-metric // tp.mss_cache), net.sysctl.tcp_max_reordering)
    tp.reord_seen += 1
    net.mib[mib] += 1


def tcp_any_retrans_done(tp: TcpSock) -> bool:
    return bool(
        tp.retrans_out or (tp.tcp_rtx_queue and tp.tcp_rtx_queue[0].sacked & TCPCB_EVER_RETRANS)
    )


def tcp_is_non_sack_preventing_reopen(tp: TcpSock) -> bool:
    """Without SACK, duplicates of the last retransmissions must not begin another recovery."""
    if tp.tcb.snd_una != tp.high_seq or tp.sack_ok:
        return False
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    return True


def tcp_try_keep_open(net: Netns, tp: TcpSock) -> None:
    left_out = tp.sacked_out + tp.lost_out
    state = CaState.TCP_CA_DISORDER if left_out or tcp_any_retrans_done(tp) else CaState.TCP_CA_OPEN
    if tp.ca_state != state:
        tcp_set_ca_state(tp, state, net.now_ns)
        tp.high_seq = tp.tcb.snd_nxt


def tcp_undo_cwnd_reduction(tp: TcpSock, unmark: bool) -> None:
    if unmark:
        for skb in tp.tcp_rtx_queue:
            skb.sacked &= ~TCPCB_LOST
        tp.lost_out = 0
    if tp.prior_ssthresh:
        tp.snd_cwnd = tp.ca.undo_cwnd(tp)
        if tp.prior_ssthresh > tp.snd_ssthresh:
            tp.snd_ssthresh = tp.prior_ssthresh
            tcp_ecn_withdraw_cwr(tp)
    tp.undo_marker = 0
    tp.rack_advanced = True  # look again at what may be lost


def tcp_try_undo_recovery(net: Netns, tp: TcpSock) -> bool:
    """At the end of recovery: True if it goes on for NewReno's sake (RFC 6582 4.1)."""
    if tcp_may_undo(tp):
        loss = tp.ca_state == CaState.TCP_CA_LOSS
        net.mib[Mib.TCP_LOSSUNDO if loss else Mib.TCP_FULLUNDO] += 1
        tcp_undo_cwnd_reduction(tp, False)
    elif tp.rack_reo_wnd_persist:
        tp.rack_reo_wnd_persist -= 1
    if tcp_is_non_sack_preventing_reopen(tp):
        return True
    tcp_set_ca_state(tp, CaState.TCP_CA_OPEN, net.now_ns)
    return False


def tcp_try_undo_dsack(net: Netns, tp: TcpSock) -> bool:
    """Each copy was reported twice: the loss was none."""
    if not tp.undo_marker or tp.undo_retrans:
        return False
    tp.rack_reo_wnd_persist = min(tp.rack_reo_wnd_persist + 1, TCP_RACK_RECOVERY_THRESH)
    tcp_undo_cwnd_reduction(tp, False)
    net.mib[Mib.TCP_DSACKUNDO] += 1
    return True


def tcp_try_undo_partial(net: Netns, tp: TcpSock, prior_una: int) -> bool:
    """A part was acknowledged before its copy could be: it was late; True if copies are out yet."""
    if not tp.undo_marker or not tcp_packet_delayed(tp):
        return False
    tcp_check_sack_reordering(net, tp, prior_una, Mib.TCP_TSREORDER)
    if tp.retrans_out:
        return True  # they are waited for: no more is marked, no more sent again
    if not tcp_any_retrans_done(tp):
        tp.retrans_stamp = 0
    tcp_undo_cwnd_reduction(tp, True)
    net.mib[Mib.TCP_PARTIALUNDO] += 1
    tcp_try_keep_open(net, tp)
    return False


def tcp_try_undo_loss(net: Netns, tp: TcpSock, frto_undo: bool) -> bool:
    """The time-out was none, as F-RTO has found or `tcp_may_undo`."""
    if not frto_undo and not tcp_may_undo(tp):
        return False
    tcp_undo_cwnd_reduction(tp, True)
    net.mib[Mib.TCP_LOSSUNDO] += 1
    net.mib[Mib.TCP_SPURIOUSRTOS] += frto_undo
    tp.retransmits = 0
    if tcp_is_non_sack_preventing_reopen(tp):
        return True
    if frto_undo or tp.sack_ok:
        tcp_set_ca_state(tp, CaState.TCP_CA_OPEN, net.now_ns)
    return True
