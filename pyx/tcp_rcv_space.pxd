# How much memory a receiver needs: its view of the round trip, and a buffer that follows it.
# Linux: net/ipv4/tcp_input.c (tcp_rcv_rtt_measure, tcp_rcvbuf_grow, tcp_rcv_space_adjust).
# RFC 7323 4; RFC 9293 3.8.6.

from libc.stdint cimport int32_t, int64_t, uint32_t
from netns cimport netns
from sock cimport *
from tcp cimport *
from tcp_window cimport tcp_full_space, tcp_space_from_win, tcp_win_from_space

cdef enum:
    RCVBUF_LOW_RTT_US = 1000  # tcp_rcvbuf_low_rtt: on shorter ways it grows by a share of it


cdef inline void tcp_init_buffer_space(netns *net, tcp_sock *tp) noexcept nogil:
    """An open connection's buffer, before anything has come."""
    cdef int64_t most = tcp_full_space(tp), advmss = tp.advmss
    tp.rcvq_time_ns = net.net.now_ns
    tp.rcvq_seq = tp.copied_seq
    if tp.window_clamp >= most:
        tp.window_clamp = <int32_t>most
    if tp.window_clamp > 2 * advmss and tp.window_clamp + advmss > most:
        tp.window_clamp = <int32_t>max(2 * advmss, most - advmss)  # room for one segment more
    tp.rcv_ssthresh = min(tp.rcv_ssthresh, tp.window_clamp)
    tp.rcvq_space = <uint32_t>min(min(tp.rcv_ssthresh, tp.rcv_wnd), TCP_INIT_CWND * advmss)


cdef inline void tcp_rcv_rtt_measure(netns *net, tcp_sock *tp) noexcept nogil:
    """The peer's round trip by a window's worth of data: at most so long."""
    cdef int64_t now_ns = net.net.now_ns
    if tp.rcv_rtt_time_ns and before(tp.tcb.rcv_nxt, tp.rcv_rtt_seq):
        return
    if tp.rcv_rtt_time_ns:
        tcp_rcv_rtt_update(tp, max((now_ns - tp.rcv_rtt_time_ns) // 1000, <int64_t>1), True)
    tp.rcv_rtt_seq = tp.tcb.rcv_nxt + <uint32_t>tp.rcv_wnd
    tp.rcv_rtt_time_ns = now_ns


cdef inline void tcp_rcv_rtt_measure_ts(
    netns *net, tcp_sock *tp, const segment *th
) noexcept nogil:
    """The round trip by an echo that a full segment brings (RFC 7323 4)."""
    cdef uint32_t delta_ms
    if not tp.saw_tstamp or not tp.rcv_tsecr or tp.rcv_tsecr == tp.rcv_rtt_last_tsecr:
        return
    tp.rcv_rtt_last_tsecr = tp.rcv_tsecr
    if <int64_t>(<uint32_t>(th.end_seq - th.seq)) < tp.rcv_mss:
        return
    delta_ms = <uint32_t>(net.net.now_ns // 1000000) + tp.tsoffset - tp.rcv_tsecr
    if 0 < delta_ms < 1 << 21:
        tcp_rcv_rtt_update(tp, <int64_t>delta_ms * 1000, False)


cdef inline void tcp_rcv_rtt_update(
    tcp_sock *tp, int64_t sample_us, bint window
) noexcept nogil:
    """The least that a window's worth has taken; echoes are smoothed, while nothing waits."""
    if not tp.rcv_rtt_us or sample_us << 3 < tp.rcv_rtt_us:
        tp.rcv_rtt_us = sample_us << 3
    elif not window and tp.tcb.rcv_nxt == tp.copied_seq:
        tp.rcv_rtt_us += sample_us - (tp.rcv_rtt_us >> 3)


cdef inline void tcp_rcvbuf_grow(netns *net, tcp_sock *tp, int64_t space) noexcept nogil:
    """Hold twice what one round trip brings, what it has grown by, and what waits behind holes.

    Deviation: 16 segments more while it grows, as Linux before 6.17: short queues stay filled.
    """
    cdef int64_t old = tp.rcvq_space, rtt_us = tp.rcv_rtt_us >> 3, window, buffer
    tp.rcvq_space = <uint32_t>space
    if not net.sysctl.tcp_moderate_rcvbuf or tp.userlocks & SOCK_RCVBUF_LOCK:
        return
    # Beyond 1 GiB it is all that tcp_rmem allows, and products would not fit.
    space = min(space, <int64_t>1 << 30)
    window = 2 * space
    if rtt_us < RCVBUF_LOW_RTT_US:
        window += window * rtt_us // RCVBUF_LOW_RTT_US
    elif space > old > 0:
        window += 2 * window * (space - old) // old + 16 * <int64_t>tp.advmss
    if tp.out_of_order_queue.last != NULL:
        window += <uint32_t>(tp.out_of_order_queue.last.end_seq - tp.tcb.rcv_nxt)
    buffer = tcp_space_from_win(tp, min(window, <int64_t>1 << 33))
    buffer = min(buffer, net.sysctl.tcp_rmem[2])
    if buffer > tp.sk_rcvbuf:
        tp.sk_rcvbuf = <int32_t>buffer
        tp.window_clamp = <int32_t>tcp_win_from_space(tp, buffer)


cdef inline void tcp_rcv_space_adjust(netns *net, tcp_sock *tp) noexcept nogil:
    """Once a round trip: look how much the caller has read, without what is left to read."""
    cdef int64_t elapsed_us = (net.net.now_ns - tp.rcvq_time_ns) // 1000
    cdef int64_t copied
    if elapsed_us < tp.rcv_rtt_us >> 3 or not tp.rcv_rtt_us:
        return
    copied = <uint32_t>(tp.copied_seq - tp.rcvq_seq)
    copied -= <uint32_t>(tp.tcb.rcv_nxt - tp.copied_seq)
    if copied > tp.rcvq_space:
        tcp_rcvbuf_grow(net, tp, copied)
    tp.rcvq_seq = tp.copied_seq
    tp.rcvq_time_ns = net.net.now_ns
