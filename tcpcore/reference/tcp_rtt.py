"""Round trips: the smoothed time, its deviation, and the time-out that they give.

Linux: tcp_rtt_estimator, tcp_set_rto in net/ipv4/tcp_input.c.  RFC 6298.
Deviation: Linux's floor is 200 ms of deviation instead of 1 s of time-out (tcp_rto_min_us).
"""

from __future__ import annotations

from .sock import TcpSock
from .tcp import MASK32, after
from .timer import NSEC_PER_MSEC, TICK_NS


def tcp_rto_min_ns(tp: TcpSock) -> int:
    return tp.rto_min_us * 1000


def tcp_rto_max_ns(tp: TcpSock) -> int:
    return tp.rto_max_ms * 1_000_000


def tcp_user_timeout_ns(tp: TcpSock) -> int:
    return tp.user_timeout_ms * 1_000_000


def tcp_delack_max_ns(tp: TcpSock) -> int:
    """How long an ACK may be owed: less than the peer's least time-out, if that is as this one's.

    200 ms at most (9293:MUST-40), or TCP_DELACK_MAX_US.
    """
    rto_min_ns: int = max(tp.rto_min_us * 1000, 2 * TICK_NS)
    return min(tp.delack_max_ticks * TICK_NS, rto_min_ns - TICK_NS)


def tcp_rtt_tsopt_us(now_ns: int, tsecr: int, tsoffset: int) -> int:
    """The round trip that an echoed time stamp tells, us; -1 if it cannot be (RFC 7323 4.1)."""
    delta_ms = (now_ns // NSEC_PER_MSEC + tsoffset - tsecr) & MASK32
    return max(delta_ms, 1) * 1000 if delta_ms < 1 << 22 else -1


def tcp_rtt_estimator(tp: TcpSock, mrtt_us: int) -> None:
    """Take in one sample (RFC 6298 2.2 and 2.3).

    The deviation is the largest of a round trip, and falls by a quarter a round trip; a sample that
    is below the mean by more than the deviation counts an eighth, so that falling round trips do
    not raise the time-out.
    """
    if not tp.srtt_us:
        tp.srtt_us = mrtt_us << 3
        tp.mdev_us = mrtt_us << 1
        tp.rttvar_us = tp.mdev_max_us = max(tp.mdev_us, tp.rto_min_us)
        tp.rtt_seq = tp.tcb.snd_nxt
        return
    error = mrtt_us - (tp.srtt_us >> 3)
    tp.srtt_us += error
    more = abs(error) - (tp.mdev_us >> 2)
    tp.mdev_us += more >> 3 if error < 0 < more else more
    if tp.mdev_us > tp.mdev_max_us:
        tp.mdev_max_us = tp.mdev_us
        tp.rttvar_us = max(tp.rttvar_us, tp.mdev_max_us)
    if after(tp.tcb.snd_una, tp.rtt_seq):
        if tp.mdev_max_us < tp.rttvar_us:
            tp.rttvar_us -= (tp.rttvar_us - tp.mdev_max_us) >> 2
        tp.rtt_seq = tp.tcb.snd_nxt
        tp.mdev_max_us = tp.rto_min_us


def tcp_set_rto(tp: TcpSock) -> None:
    """The time-out of today's estimate, in whole ticks (RFC 6298 2.3 to 2.5)."""
    rto_ns = ((tp.srtt_us >> 3) + tp.rttvar_us) * 1000
    tp.rto_ns = min(-(-rto_ns // TICK_NS) * TICK_NS, tcp_rto_max_ns(tp))
