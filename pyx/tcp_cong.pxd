# Congestion control: how much may fly. Reno and CUBIC behind one interface.
# Linux: net/ipv4/tcp_cong.c, tcp_cubic.c.  RFC 5681, RFC 9438.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset
from sock cimport *
from tcp cimport after
from tcp_ecn cimport tcp_ecn_queue_cwr
from timer cimport NSEC_PER_SEC

cdef enum:
    CA_EVENT_TX_START = 0  # sends after everything was acknowledged
    CA_EVENT_CWND_RESTART = 1
    CA_EVENT_LOSS = 3

# CUBIC counts time in 1/1024 s and windows in segments.
cdef enum:
    BICTCP_BETA = 717  # of 1024: what is left of the window after a loss
    BICTCP_HZ = 10  # bits of a second's fraction
    CUBE_SHIFT = 10 + 3 * 10
    CUBE = 41 * 10  # C in 1/1024: 0.4 as 41 / 1024 * 10
    CUBE_MOST = 344000  # a time beyond which every window is far away, and the cube too large
    RENO_SCALE = 8 * (1024 + 717) // 3 // (1024 - 717)
    HYSTART_LOW_WINDOW = 16
    HYSTART_MIN_SAMPLES = 8
    HYSTART_DELAY_MIN_US = 4000
    HYSTART_DELAY_MAX_US = 16000
    HYSTART_ACK_DELTA_US = 2000

# Controllers, by their place in the names that the seam knows.
cdef enum:
    CA_RENO = 0
    CA_CUBIC = 1


cdef inline int64_t to_bictcp(int64_t ns) noexcept nogil:
    """Nanoseconds, not negative, in 1/1024 s."""
    return ((ns // NSEC_PER_SEC) << BICTCP_HZ) + (
        (ns % NSEC_PER_SEC << BICTCP_HZ) // NSEC_PER_SEC
    )


cdef inline bint tcp_in_slow_start(const tcp_sock *tp) noexcept nogil:
    return tp.snd_cwnd < tp.snd_ssthresh


cdef inline bint tcp_is_cwnd_limited(const tcp_sock *tp) noexcept nogil:
    """True if more could have been sent had the window been larger (RFC 7661's question)."""
    if tp.is_cwnd_limited:
        return True
    return tcp_in_slow_start(tp) and tp.snd_cwnd < 2 * <int64_t>tp.max_packets_out


cdef inline int64_t tcp_slow_start(tcp_sock *tp, int64_t acked) noexcept nogil:
    """Grow by what was acknowledged, up to ssthresh (RFC 5681 3.1); what is left of it."""
    cdef int64_t cwnd = min(tp.snd_cwnd + acked, <int64_t>tp.snd_ssthresh)
    acked -= cwnd - tp.snd_cwnd
    tp.snd_cwnd = <int32_t>cwnd
    return acked


cdef inline void tcp_cong_avoid_ai(tcp_sock *tp, int64_t w, int64_t acked) noexcept nogil:
    """One segment more for every `w` acknowledged."""
    cdef int64_t delta
    if tp.snd_cwnd_cnt >= w:  # the window's slope has changed: what was saved counts once
        tp.snd_cwnd_cnt = 0
        tp.snd_cwnd += 1
    tp.snd_cwnd_cnt += <int32_t>acked
    if tp.snd_cwnd_cnt >= w:
        delta = tp.snd_cwnd_cnt // w
        tp.snd_cwnd_cnt -= <int32_t>(delta * w)
        tp.snd_cwnd += <int32_t>delta


# The interface: each asks which controller it is.


cdef inline void ca_init(tcp_sock *tp, int64_t now_ns) noexcept nogil:
    """A connection takes its controller."""
    if tp.ca == CA_CUBIC:
        cubic_reset(&tp.cubic)
        hystart_reset(tp, now_ns)


cdef inline int32_t ca_ssthresh(tcp_sock *tp, int64_t now_ns) noexcept nogil:
    """What slow start may grow to after a loss."""
    cdef int64_t cwnd = tp.snd_cwnd
    if tp.ca == CA_RENO:
        return <int32_t>max(cwnd >> 1, <int64_t>2)
    tp.cubic.epoch_start = 0
    if cwnd < tp.cubic.last_max_cwnd:  # fast convergence (RFC 9438 4.7)
        tp.cubic.last_max_cwnd = cwnd * (1024 + BICTCP_BETA) // 2048
    else:
        tp.cubic.last_max_cwnd = cwnd
    return <int32_t>max(cwnd * BICTCP_BETA // 1024, <int64_t>2)


cdef inline void ca_cong_avoid(tcp_sock *tp, int64_t acked, int64_t now_ns) noexcept nogil:
    """`acked` segments were acknowledged, and nothing is wrong."""
    if not tcp_is_cwnd_limited(tp):
        return
    if tcp_in_slow_start(tp):
        acked = tcp_slow_start(tp, acked)
        if not acked:
            return
    if tp.ca == CA_CUBIC:
        cubictcp_update(&tp.cubic, tp.snd_cwnd, acked, now_ns)
        tcp_cong_avoid_ai(tp, tp.cubic.cnt, acked)
    elif acked:
        tcp_cong_avoid_ai(tp, tp.snd_cwnd, acked)


cdef inline int32_t ca_undo_cwnd(const tcp_sock *tp) noexcept nogil:
    """The window if the loss was none."""
    return max(tp.snd_cwnd, tp.prior_cwnd)


cdef inline void ca_set_state(tcp_sock *tp, int state, int64_t now_ns) noexcept nogil:
    """ca_state becomes `state`."""
    if tp.ca == CA_CUBIC and state == TCP_CA_LOSS:
        cubic_reset(&tp.cubic)
        hystart_reset(tp, now_ns)


cdef inline void ca_cwnd_event(tcp_sock *tp, int event, int64_t now_ns) noexcept nogil:
    """CA_EVENT_: something else has happened. Idle time is no time of CUBIC's curve."""
    cdef int64_t idle_ns
    if tp.ca == CA_CUBIC and event == CA_EVENT_TX_START and tp.cubic.epoch_start:
        idle_ns = now_ns - tp.lsndtime_ns
        if idle_ns > 0:
            tp.cubic.epoch_start = min(
                tp.cubic.epoch_start + to_bictcp(idle_ns), to_bictcp(now_ns) + 1
            )


cdef inline void ca_pkts_acked(tcp_sock *tp, int64_t rtt_us, int64_t now_ns) noexcept nogil:
    """An acknowledgment gave a sample of the round trip."""
    cdef int64_t epoch
    if tp.ca == CA_RENO or rtt_us <= 0:
        return
    if tp.cubic.epoch_start:
        epoch = tp.cubic.epoch_start - 1
        epoch = (epoch >> BICTCP_HZ) * NSEC_PER_SEC + (
            (epoch & 1023) * NSEC_PER_SEC >> BICTCP_HZ
        )
        if now_ns - epoch < NSEC_PER_SEC:  # after a loss the queue is still long
            return
    if not tp.cubic.delay_min_us or rtt_us < tp.cubic.delay_min_us:
        tp.cubic.delay_min_us = <uint32_t>rtt_us
    if not tp.cubic.found and tcp_in_slow_start(tp) and tp.snd_cwnd >= HYSTART_LOW_WINDOW:
        hystart_update(tp, rtt_us, now_ns)


# CUBIC: RFC 9438, with fast convergence and the Reno-friendly region; HyStart ends slow start.


cdef inline void cubic_reset(cubic *ca) noexcept nogil:
    ca.cnt = ca.last_max_cwnd = ca.last_cwnd = ca.last_time = 0
    ca.bic_origin_point = ca.bic_k = ca.delay_min_us = 0
    ca.epoch_start = ca.ack_cnt = ca.tcp_cwnd = 0
    ca.found = 0


cdef inline void cubictcp_update(
    cubic *ca, int64_t cwnd, int64_t acked, int64_t now_ns
) noexcept nogil:
    """W(t) of today, as the slope that leads there within a round trip (RFC 9438 4.2 to 4.5)."""
    cdef int64_t now = to_bictcp(now_ns) + 1  # 0 is no time
    cdef int64_t t, away, delta, target, per_segment, more
    ca.ack_cnt += acked
    if ca.last_cwnd == cwnd and now - ca.last_time <= 32:
        return
    if not (ca.epoch_start and now == ca.last_time):
        ca.last_cwnd = cwnd
        ca.last_time = now
        if not ca.epoch_start:
            ca.epoch_start = now
            ca.ack_cnt = acked
            ca.tcp_cwnd = cwnd
            if ca.last_max_cwnd <= cwnd:
                ca.bic_k = 0
                ca.bic_origin_point = cwnd
            else:
                ca.bic_k = cubic_root(
                    (<uint64_t>(ca.last_max_cwnd - cwnd) << CUBE_SHIFT) // CUBE
                )
                ca.bic_origin_point = ca.last_max_cwnd
        t = now - ca.epoch_start + (<int64_t>ca.delay_min_us << BICTCP_HZ) // 1000000
        away = t - ca.bic_k if t >= ca.bic_k else ca.bic_k - t
        away = min(away, <int64_t>CUBE_MOST)
        delta = <int64_t>(<uint64_t>CUBE * away * away * away >> CUBE_SHIFT)
        target = ca.bic_origin_point + (delta if t >= ca.bic_k else -delta)
        ca.cnt = cwnd // (target - cwnd) if target > cwnd else 100 * cwnd
        if not ca.last_max_cwnd and ca.cnt > 20:
            ca.cnt = 20  # nothing is known yet: 5 % a round trip
    # Never slower than Reno would be (RFC 9438 4.3).
    per_segment = cwnd * RENO_SCALE >> 3
    if per_segment and ca.ack_cnt > per_segment:
        more = (ca.ack_cnt - 1) // per_segment
        ca.ack_cnt -= more * per_segment
        ca.tcp_cwnd += more
    if ca.tcp_cwnd > cwnd:
        ca.cnt = min(ca.cnt, cwnd // (ca.tcp_cwnd - cwnd))
    ca.cnt = max(ca.cnt, <int64_t>2)


cdef inline void hystart_reset(tcp_sock *tp, int64_t now_ns) noexcept nogil:
    tp.cubic.round_start_ns = tp.cubic.last_ack_ns = now_ns
    tp.cubic.end_seq = tp.tcb.snd_nxt
    tp.cubic.curr_rtt_us = 0
    tp.cubic.sample_cnt = 0


cdef inline void hystart_update(tcp_sock *tp, int64_t rtt_us, int64_t now_ns) noexcept nogil:
    """Leave slow start when a round's acknowledgments fill half a round trip, or come late."""
    cdef cubic *ca = &tp.cubic
    cdef int64_t eta_us
    if after(tp.tcb.snd_una, ca.end_seq):
        hystart_reset(tp, now_ns)
    if now_ns - ca.last_ack_ns <= HYSTART_ACK_DELTA_US * 1000:
        ca.last_ack_ns = now_ns
        if now_ns - ca.round_start_ns > <int64_t>ca.delay_min_us * 500:
            ca.found = 1
    if not ca.curr_rtt_us or rtt_us < ca.curr_rtt_us:
        ca.curr_rtt_us = <uint32_t>rtt_us
    if ca.sample_cnt < HYSTART_MIN_SAMPLES:
        ca.sample_cnt += 1
    else:
        eta_us = min(
            max(<int64_t>ca.delay_min_us >> 3, <int64_t>HYSTART_DELAY_MIN_US),
            <int64_t>HYSTART_DELAY_MAX_US,
        )
        if ca.curr_rtt_us > ca.delay_min_us + eta_us:
            ca.found = 1
    if ca.found:
        tp.snd_ssthresh = tp.snd_cwnd


cdef inline int64_t cubic_root(uint64_t n) noexcept nogil:
    """The whole part of the cube root (Newton's method from above)."""
    cdef uint64_t x, y, rest = n
    cdef int bits = 0
    if not n:
        return 0
    while rest:
        rest >>= 1
        bits += 1
    x = <uint64_t>1 << (bits + 2) // 3
    while True:
        y = (2 * x + n // (x * x)) // 3
        if y >= x:
            return <int64_t>x
        x = y


cdef inline void tcp_init_congestion_control(tcp_sock *tp, int which, int64_t now_ns) noexcept nogil:
    tp.ca = <uint8_t>which
    memset(&tp.cubic, 0, sizeof(cubic))
    ca_init(tp, now_ns)


cdef inline void tcp_set_ca_state(tcp_sock *tp, int state, int64_t now_ns) noexcept nogil:
    ca_set_state(tp, state, now_ns)
    tp.ca_state = <uint8_t>state


cdef inline void tcp_init_cwnd_reduction(tcp_sock *tp, int64_t now_ns) noexcept nogil:
    tp.high_seq = tp.tcb.snd_nxt
    tp.tlp_high_seq = 0
    tp.snd_cwnd_cnt = 0
    tp.prior_cwnd = tp.snd_cwnd
    tp.prr_delivered = tp.prr_out = 0
    tp.snd_ssthresh = ca_ssthresh(tp, now_ns)
    tcp_ecn_queue_cwr(tp)


cdef inline void tcp_enter_cwr(tcp_sock *tp, int64_t now_ns) noexcept nogil:
    """Less is to be sent, though nothing was lost."""
    tp.prior_ssthresh = 0
    if tp.ca_state < TCP_CA_CWR:
        tp.undo_marker = 0
        tcp_init_cwnd_reduction(tp, now_ns)
        tcp_set_ca_state(tp, TCP_CA_CWR, now_ns)


cdef inline int32_t tcp_current_ssthresh(const tcp_sock *tp) noexcept nogil:
    """What ssthresh would be if the window were reduced now."""
    if tp.ca_state == TCP_CA_CWR or tp.ca_state == TCP_CA_RECOVERY:
        return tp.snd_ssthresh
    return max(tp.snd_ssthresh, (tp.snd_cwnd >> 1) + (tp.snd_cwnd >> 2))
