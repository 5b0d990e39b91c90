# How fast data arrives, how fast it may leave, and what holds it back.
# Linux: net/ipv4/tcp_rate.c, tcp_chrono_start and tcp_chrono_stop in tcp_output.c,
# tcp_update_pacing_rate in tcp_input.c.  RFC 7661; draft-cheng-iccrg-delivery-rate-estimation.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from netns cimport netns
from sock cimport TCP_INIT_CWND, TCPCB_EVER_RETRANS, TCPCB_SACKED_ACKED, skb, tcp_sock
from tcp cimport TCP_CLOSE_WAIT, TCP_ESTABLISHED, after, before
from tcp_cong cimport CA_EVENT_CWND_RESTART, ca_cwnd_event, tcp_current_ssthresh
from timer cimport NSEC_PER_MSEC

# What time is counted for; the later ones go before.
cdef enum:
    TCP_CHRONO_UNSPEC = 0
    TCP_CHRONO_BUSY = 1
    TCP_CHRONO_RWND_LIMITED = 2
    TCP_CHRONO_SNDBUF_LIMITED = 3

cdef extern from *:
    """
    #define PACING_RATE_MAX UINT64_MAX
    """
    const uint64_t PACING_RATE_MAX  # no pace is set

cdef enum:
    PACED_MAX = 1 << 22  # segments of a window

# What one acknowledgment tells: of the newest that it covers, when and after how much.
cdef struct rate_sample:
    int64_t last_sent_ns
    uint32_t prior_us  # when the last before it had arrived; 0: nothing is told
    uint32_t prior_delivered
    uint32_t interval_us  # that sending took
    uint32_t last_end_seq
    uint8_t is_app_limited
    # Of what SACK tells of, sent once: when the first and the last were sent, -1 for none; if
    # any came late, the lowest of that.
    uint8_t late
    uint32_t reord
    int64_t first_sackt_ns
    int64_t last_sackt_ns


# Delivery.


cdef inline void rate_sample_init(rate_sample *rs) noexcept nogil:
    rs.prior_us = 0
    rs.prior_delivered = 0
    rs.late = 0
    rs.first_sackt_ns = rs.last_sackt_ns = -1


cdef inline uint32_t tcp_clock_us(int64_t now_ns) noexcept nogil:
    cdef uint32_t now_us = <uint32_t>(now_ns // 1000)
    return now_us if now_us else 1


cdef inline void tcp_rate_skb_sent(tcp_sock *tp, skb *one, int64_t now_ns) noexcept nogil:
    """Note with a piece what had arrived when it left; after silence time begins anew."""
    if not tp.packets_out:
        tp.first_tx_us = tp.delivered_us = tcp_clock_us(now_ns)
    one.first_tx_us = tp.first_tx_us
    one.delivered_us = tp.delivered_us
    one.delivered = tp.delivered
    one.is_app_limited = tp.app_limited != 0


cdef inline void tcp_rate_skb_delivered(tcp_sock *tp, skb *one, rate_sample *rs) noexcept nogil:
    """A piece has arrived: what it knows counts if none that left later has."""
    cdef int64_t sent_ns = one.skb_mstamp_ns
    if not one.delivered_us:
        return
    if (
        not rs.prior_us
        or sent_ns > rs.last_sent_ns
        or (sent_ns == rs.last_sent_ns and after(one.end_seq, rs.last_end_seq))
    ):
        rs.prior_us = one.delivered_us
        rs.prior_delivered = one.delivered
        rs.is_app_limited = one.is_app_limited
        rs.last_sent_ns = sent_ns
        rs.last_end_seq = one.end_seq
        rs.interval_us = tcp_clock_us(sent_ns) - one.first_tx_us
        tp.first_tx_us = tcp_clock_us(sent_ns)
    if one.sacked & TCPCB_SACKED_ACKED:
        one.delivered_us = 0  # it arrives once


cdef inline void tcp_rate_gen(
    tcp_sock *tp, int64_t delivered, bint reneging, const rate_sample *rs, int64_t now_ns
) noexcept nogil:
    """The rate of an acknowledgment: the slower of sending and arriving.

    One that the caller was too slow for counts only if it is no lower than what is known.
    """
    cdef uint64_t count, interval_us
    if tp.app_limited and after(tp.delivered, tp.app_limited):
        tp.app_limited = 0
    if delivered:
        tp.delivered_us = tcp_clock_us(now_ns)
    if not rs.prior_us or reneging:
        return
    count = <uint32_t>(tp.delivered - rs.prior_delivered)
    interval_us = max(rs.interval_us, <uint32_t>(tcp_clock_us(now_ns) - rs.prior_us))
    if interval_us < tp.rtt_min_us:
        return  # faster than the path: it is about what was sent again
    if (
        not rs.is_app_limited
        or count * tp.rate_interval_us >= tp.rate_delivered * interval_us
    ):
        tp.rate_delivered = <uint32_t>count
        tp.rate_interval_us = <uint32_t>interval_us
        tp.rate_app_limited = rs.is_app_limited


cdef inline void tcp_rate_check_app_limited(tcp_sock *tp, int32_t in_flight) noexcept nogil:
    """The caller writes to a path that waits for him: until all that is out has arrived."""
    cdef uint32_t waiting = tp.write_seq - tp.tcb.snd_nxt
    if (
        waiting < <uint32_t>tp.mss_cache
        and in_flight < tp.snd_cwnd
        and tp.lost_out <= tp.retrans_out
    ):
        tp.app_limited = tp.delivered + <uint32_t>in_flight
        if not tp.app_limited:
            tp.app_limited = 1


cdef inline uint64_t tcp_delivery_rate(const tcp_sock *tp) noexcept nogil:
    """Bytes in a second."""
    if not tp.rate_delivered or not tp.rate_interval_us:
        return 0
    return <uint64_t>tp.rate_delivered * <uint64_t>tp.mss_cache * 1000000 // tp.rate_interval_us


# The pace.


cdef inline void tcp_update_pacing_rate(tcp_sock *tp) noexcept nogil:
    """The window in a round trip, doubled in slow start's first half, else a fifth more."""
    cdef uint64_t rate = <uint64_t>min(max(tp.snd_cwnd, tp.packets_out), <int32_t>PACED_MAX)
    rate *= <uint64_t>tp.mss_cache * (200 if tp.snd_cwnd < tp.snd_ssthresh >> 1 else 120) * 80000
    tp.sk_pacing_rate = rate // <uint64_t>tp.srtt_us if tp.srtt_us else rate


# What limits.


cdef inline void tcp_chrono_set(tcp_sock *tp, uint8_t kind, int64_t now_ns) noexcept nogil:
    cdef uint32_t now_ms = <uint32_t>(now_ns // NSEC_PER_MSEC)
    if tp.chrono_type:
        tp.chrono_stat_ms[tp.chrono_type - 1] += now_ms - tp.chrono_start_ms
    tp.chrono_start_ms = now_ms
    tp.chrono_type = kind


cdef inline void tcp_chrono_start(tcp_sock *tp, uint8_t kind, int64_t now_ns) noexcept nogil:
    """From now on something limits, unless what goes before it does."""
    if kind > tp.chrono_type:
        tcp_chrono_set(tp, kind, now_ns)


cdef inline void tcp_chrono_stop(tcp_sock *tp, uint8_t kind, int64_t now_ns) noexcept nogil:
    """It limits no more: what is left is to be busy, if anything is queued."""
    if tp.tcp_rtx_queue.first == NULL and tp.sk_write_queue.first == NULL:
        tcp_chrono_set(tp, TCP_CHRONO_UNSPEC, now_ns)
    elif kind == tp.chrono_type:
        tcp_chrono_set(tp, TCP_CHRONO_BUSY, now_ns)


cdef inline uint64_t tcp_chrono_us(const tcp_sock *tp, uint8_t kind, int64_t now_ns) noexcept nogil:
    """Time that was counted for something, in us."""
    cdef uint64_t spent_ms = tp.chrono_stat_ms[kind - 1]
    if kind == tp.chrono_type:
        spent_ms += <uint32_t>(<uint32_t>(now_ns // NSEC_PER_MSEC) - tp.chrono_start_ms)
    return spent_ms * 1000


# A window that is not used.


cdef inline void tcp_cwnd_restart(netns *net, tcp_sock *tp, int64_t idle_ns) noexcept nogil:
    """After silence the path is not known any more (RFC 5681 4.1): half for each time-out."""
    cdef int32_t restart = min(<int32_t>TCP_INIT_CWND, tp.snd_cwnd)
    cdef int32_t cwnd
    ca_cwnd_event(tp, CA_EVENT_CWND_RESTART, net.net.now_ns)
    tp.snd_ssthresh = tcp_current_ssthresh(tp)
    cwnd = tp.snd_cwnd
    while True:
        idle_ns -= tp.rto_ns
        if idle_ns <= 0 or cwnd <= restart:
            break
        cwnd >>= 1
    tp.snd_cwnd = max(cwnd, restart)


cdef inline void tcp_slow_start_after_idle_check(netns *net, tcp_sock *tp) noexcept nogil:
    cdef int64_t idle_ns
    if not net.sysctl.tcp_slow_start_after_idle or tp.packets_out:
        return
    idle_ns = net.net.now_ns - tp.lsndtime_ns
    if idle_ns > tp.rto_ns:
        tcp_cwnd_restart(net, tp, idle_ns)


cdef inline void tcp_cwnd_validate(netns *net, tcp_sock *tp, bint limited) noexcept nogil:
    """Remember whether the window was what held sending back (RFC 7661)."""
    if (
        not before(tp.tcb.snd_una, tp.cwnd_usage_seq)
        or limited
        or (not tp.is_cwnd_limited and tp.packets_out > tp.max_packets_out)
    ):
        tp.is_cwnd_limited = limited
        tp.max_packets_out = tp.packets_out
        tp.cwnd_usage_seq = tp.tcb.snd_nxt
    if not limited and tp.nospace and tp.sk_write_queue.first == NULL and (
        tp.tcb.state == TCP_ESTABLISHED or tp.tcb.state == TCP_CLOSE_WAIT
    ):
        tcp_chrono_start(tp, TCP_CHRONO_SNDBUF_LIMITED, net.net.now_ns)
