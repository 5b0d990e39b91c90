# Round trips: the smoothed time, its deviation, and the time-out that they give.
# Linux: tcp_rtt_estimator, tcp_set_rto in net/ipv4/tcp_input.c.  RFC 6298.
# Deviation: Linux's floor is 200 ms of deviation instead of 1 s of time-out (tcp_rto_min_us).

from libc.stdint cimport int64_t, uint32_t
from sock cimport tcp_sock
from tcp cimport after
from timer cimport NSEC_PER_MSEC, TICK_NS


cdef inline int64_t tcp_rto_min_ns(const tcp_sock *tp) noexcept nogil:
    return <int64_t>tp.rto_min_us * 1000


cdef inline int64_t tcp_rto_max_ns(const tcp_sock *tp) noexcept nogil:
    return <int64_t>tp.rto_max_ms * 1000000


cdef inline int64_t tcp_user_timeout_ns(const tcp_sock *tp) noexcept nogil:
    return <int64_t>tp.user_timeout_ms * 1000000


cdef inline int64_t tcp_delack_max_ns(const tcp_sock *tp) noexcept nogil:
    """How long an ACK may be owed: less than the peer's least time-out, if that is as this one's.

    200 ms at most (9293:MUST-40), or TCP_DELACK_MAX_US.
    """
    cdef int64_t rto_min_ns = max(<int64_t>tp.rto_min_us * 1000, <int64_t>2 * TICK_NS)
    return min(<int64_t>tp.delack_max_ticks * TICK_NS, rto_min_ns - TICK_NS)


cdef inline int64_t tcp_rtt_tsopt_us(
    int64_t now_ns, uint32_t tsecr, uint32_t tsoffset
) noexcept nogil:
    """The round trip that an echoed time stamp tells, us; -1 if it cannot be (RFC 7323 4.1)."""
    cdef uint32_t delta_ms = <uint32_t>(now_ns // NSEC_PER_MSEC) + tsoffset - tsecr
    if delta_ms >= 1 << 22:
        return -1
    return <int64_t>(delta_ms if delta_ms else 1) * 1000


cdef inline void tcp_rtt_estimator(tcp_sock *tp, int64_t mrtt_us) noexcept nogil:
    """Take in one sample (RFC 6298 2.2 and 2.3).

    The deviation is the largest of a round trip, and falls by a quarter a round trip; a sample that
    is below the mean by more than the deviation counts an eighth, so that falling round trips do
    not raise the time-out.
    """
    cdef int64_t error, more
    if not tp.srtt_us:
        tp.srtt_us = mrtt_us << 3
        tp.mdev_us = mrtt_us << 1
        tp.rttvar_us = tp.mdev_max_us = max(tp.mdev_us, tp.rto_min_us)
        tp.rtt_seq = tp.tcb.snd_nxt
        return
    error = mrtt_us - (tp.srtt_us >> 3)
    tp.srtt_us += error
    more = (error if error > 0 else -error) - (tp.mdev_us >> 2)
    tp.mdev_us += more >> 3 if error < 0 and more > 0 else more
    if tp.mdev_us > tp.mdev_max_us:
        tp.mdev_max_us = tp.mdev_us
        tp.rttvar_us = max(tp.rttvar_us, tp.mdev_max_us)
    if after(tp.tcb.snd_una, tp.rtt_seq):
        if tp.mdev_max_us < tp.rttvar_us:
            tp.rttvar_us -= (tp.rttvar_us - tp.mdev_max_us) >> 2
        tp.rtt_seq = tp.tcb.snd_nxt
        tp.mdev_max_us = tp.rto_min_us


cdef inline void tcp_set_rto(tcp_sock *tp) noexcept nogil:
    """The time-out of today's estimate, in whole ticks (RFC 6298 2.3 to 2.5)."""
    cdef int64_t rto_ns = ((tp.srtt_us >> 3) + tp.rttvar_us) * 1000
    tp.rto_ns = min((rto_ns + TICK_NS - 1) // TICK_NS * TICK_NS, tcp_rto_max_ns(tp))
