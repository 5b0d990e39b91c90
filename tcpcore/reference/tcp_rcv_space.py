"""How much memory a receiver needs: its view of the round trip, and a buffer that follows it.

Linux: net/ipv4/tcp_input.c (tcp_rcv_rtt_measure, tcp_rcvbuf_grow, tcp_rcv_space_adjust).
RFC 7323 4; RFC 9293 3.8.6.
"""

from __future__ import annotations

from .netns import Netns
from .sock import SOCK_RCVBUF_LOCK, TCP_INIT_CWND, TcpSock
from .tcp import MASK32, Segment, before
from .tcp_window import tcp_full_space, tcp_space_from_win, tcp_win_from_space

RCVBUF_LOW_RTT_US = 1000  # tcp_rcvbuf_low_rtt: on shorter ways the buffer grows by a share of it


def tcp_init_buffer_space(net: Netns, tp: TcpSock) -> None:
    """An open connection's buffer, before anything has come."""
    tp.rcvq_time_ns = net.now_ns
    tp.rcvq_seq = tp.copied_seq
    most = tcp_full_space(tp)
    if tp.window_clamp >= most:
        tp.window_clamp = most
    if tp.window_clamp > 2 * tp.advmss and tp.window_clamp + tp.advmss > most:
        tp.window_clamp = max(2 * tp.advmss, most - tp.advmss)  # room for one segment more
    tp.rcv_ssthresh = min(tp.rcv_ssthresh, tp.window_clamp)
    tp.rcvq_space = min(tp.rcv_ssthresh, tp.rcv_wnd, TCP_INIT_CWND * tp.advmss)


def tcp_rcv_rtt_measure(net: Netns, tp: TcpSock) -> None:
    """The peer's round trip by a window's worth of data: at most so long."""
    if tp.rcv_rtt_time_ns and before(tp.tcb.rcv_nxt, tp.rcv_rtt_seq):
        return
    if tp.rcv_rtt_time_ns:
        tcp_rcv_rtt_update(tp, max((net.now_ns - tp.rcv_rtt_time_ns) // 1000, 1), True)
    tp.rcv_rtt_seq = (tp.tcb.rcv_nxt + tp.rcv_wnd) & MASK32
    tp.rcv_rtt_time_ns = net.now_ns


def tcp_rcv_rtt_measure_ts(net: Netns, tp: TcpSock, th: Segment) -> None:
    """The round trip by an echo that a full segment brings (RFC 7323 4)."""
    if not tp.saw_tstamp or not tp.rcv_tsecr or tp.rcv_tsecr == tp.rcv_rtt_last_tsecr:
        return
    tp.rcv_rtt_last_tsecr = tp.rcv_tsecr
    if (th.end_seq - th.seq) & MASK32 < tp.rcv_mss:
        return
    delta_ms = (net.now_ns // 1_000_000 + tp.tsoffset - tp.rcv_tsecr) & MASK32
    if 0 < delta_ms < 1 << 21:
        tcp_rcv_rtt_update(tp, delta_ms * 1000, False)


def tcp_rcv_rtt_update(tp: TcpSock, sample_us: int, window: bool) -> None:
    """The least that a window's worth has taken; echoes are smoothed, while nothing waits."""
    if not tp.rcv_rtt_us or sample_us << 3 < tp.rcv_rtt_us:
        tp.rcv_rtt_us = sample_us << 3
    elif not window and tp.tcb.rcv_nxt == tp.copied_seq:
        tp.rcv_rtt_us += sample_us - (tp.rcv_rtt_us >> 3)


def tcp_rcvbuf_grow(net: Netns, tp: TcpSock, space: int) -> None:
    """Hold twice what one round trip brings, what it has grown by, and what waits behind holes.

    Deviation: 16 segments more while it grows, as Linux before 6.17: short queues stay filled.
    """
    old, tp.rcvq_space = tp.rcvq_space, space
    if not net.sysctl.tcp_moderate_rcvbuf or tp.userlocks & SOCK_RCVBUF_LOCK:
        return
    window = 2 * space
    rtt_us = tp.rcv_rtt_us >> 3
    if rtt_us < RCVBUF_LOW_RTT_US:
        window += window * rtt_us // RCVBUF_LOW_RTT_US
    elif space > old > 0:
        window += 2 * window * (space - old) // old + 16 * tp.advmss
    if tp.out_of_order_queue:
        window += (tp.out_of_order_queue[-1].end_seq - tp.tcb.rcv_nxt) & MASK32
    buffer = min(tcp_space_from_win(tp, window), net.sysctl.tcp_rmem[2])
    if buffer > tp.sk_rcvbuf:
        tp.sk_rcvbuf = buffer
        tp.window_clamp = tcp_win_from_space(tp, buffer)


def tcp_rcv_space_adjust(net: Netns, tp: TcpSock) -> None:
    """Once a round trip: look how much the caller has read, without what is left to read."""
    elapsed_us = (net.now_ns - tp.rcvq_time_ns) // 1000
    if elapsed_us < tp.rcv_rtt_us >> 3 or not tp.rcv_rtt_us:
        return
    copied = (tp.copied_seq - tp.rcvq_seq) & MASK32
    copied -= (tp.tcb.rcv_nxt - tp.copied_seq) & MASK32
    if copied > tp.rcvq_space:
        tcp_rcvbuf_grow(net, tp, copied)
    tp.rcvq_seq = tp.copied_seq
    tp.rcvq_time_ns = net.now_ns
