"""How fast data arrives, how fast it may leave, and what holds it back.

Linux: net/ipv4/tcp_rate.c, tcp_chrono_start and tcp_chrono_stop in tcp_output.c,
tcp_update_pacing_rate in tcp_input.c.  RFC 7661; draft-cheng-iccrg-delivery-rate-estimation.
"""

from __future__ import annotations

from .netns import Netns
from .sock import TCP_INIT_CWND, TCPCB_SACKED_ACKED, SkBuff, TcpSock
from .tcp import MASK32, TCP_CLOSE_WAIT, TCP_ESTABLISHED, after, before
from .tcp_cong import CA_EVENT_CWND_RESTART, tcp_current_ssthresh
from .timer import NSEC_PER_MSEC

# What time is counted for; the later ones go before.
TCP_CHRONO_UNSPEC, TCP_CHRONO_BUSY, TCP_CHRONO_RWND_LIMITED, TCP_CHRONO_SNDBUF_LIMITED = range(4)
PACING_RATE_MAX = (1 << 64) - 1  # no pace is set
PACED_MAX = 1 << 22  # segments of a window


class RateSample:
    """What one acknowledgment tells: of the newest that it covers, when and after how much."""

    __slots__ = (
        "prior_us", "prior_delivered", "interval_us", "is_app_limited", "last_sent_ns",
        "last_end_seq", "first_sackt_ns", "last_sackt_ns", "late", "reord",
    )  # fmt: skip

    def __init__(self) -> None:
        self.prior_us = 0  # when the last before it had arrived; 0: nothing is told
        self.prior_delivered = 0
        self.interval_us = 0  # that sending took
        self.is_app_limited = False
        self.last_sent_ns = 0
        self.last_end_seq = 0
        # Of what SACK tells of, sent once: when the first and the last were sent, -1 for none; if
        # any came late, the lowest of that.
        self.first_sackt_ns = self.last_sackt_ns = -1
        self.late = False
        self.reord = 0


# Delivery.


def tcp_clock_us(now_ns: int) -> int:
    return now_ns // 1000 & MASK32 or 1


def tcp_rate_skb_sent(tp: TcpSock, skb: SkBuff, now_ns: int) -> None:
    """Note with a piece what had arrived when it left; after silence time begins anew."""
    if not tp.packets_out:
        tp.first_tx_us = tp.delivered_us = tcp_clock_us(now_ns)
    skb.first_tx_us = tp.first_tx_us
    skb.delivered_us = tp.delivered_us
    skb.delivered = tp.delivered
    skb.is_app_limited = bool(tp.app_limited)


def tcp_rate_skb_delivered(tp: TcpSock, skb: SkBuff, rs: RateSample) -> None:
    """A piece has arrived: what it knows counts if none that left later has."""
    if not skb.delivered_us:
        return
    sent_ns = skb.skb_mstamp_ns
    if (
        not rs.prior_us
        or sent_ns > rs.last_sent_ns
        or (sent_ns == rs.last_sent_ns and after(skb.end_seq, rs.last_end_seq))
    ):
        rs.prior_us = skb.delivered_us
        rs.prior_delivered = skb.delivered
        rs.is_app_limited = skb.is_app_limited
        rs.last_sent_ns = sent_ns
        rs.last_end_seq = skb.end_seq
        rs.interval_us = (tcp_clock_us(sent_ns) - skb.first_tx_us) & MASK32
        tp.first_tx_us = tcp_clock_us(sent_ns)
    if skb.sacked & TCPCB_SACKED_ACKED:
        skb.delivered_us = 0  # it arrives once


def tcp_rate_gen(tp: TcpSock, delivered: int, reneging: bool, rs: RateSample, now_ns: int) -> None:
    """The rate of an acknowledgment: the slower of sending and arriving.

    One that the caller was too slow for counts only if it is no lower than what is known.
    """
    if tp.app_limited and after(tp.delivered, tp.app_limited):
        tp.app_limited = 0
    if delivered:
        tp.delivered_us = tcp_clock_us(now_ns)
    if not rs.prior_us or reneging:
        return
    count = (tp.delivered - rs.prior_delivered) & MASK32
    interval_us = max(rs.interval_us, (tcp_clock_us(now_ns) - rs.prior_us) & MASK32)
    if interval_us < tp.rtt_min_us:
        return  # faster than the path: it is about what was sent again
    if not rs.is_app_limited or count * tp.rate_interval_us >= tp.rate_delivered * interval_us:
        tp.rate_delivered = count
        tp.rate_interval_us = interval_us
        tp.rate_app_limited = rs.is_app_limited


def tcp_rate_check_app_limited(tp: TcpSock, in_flight: int) -> None:
    """The caller writes to a path that waits for him: until all that is out has arrived."""
    waiting = (tp.write_seq - tp.tcb.snd_nxt) & MASK32
    if waiting < tp.mss_cache and in_flight < tp.snd_cwnd and tp.lost_out <= tp.retrans_out:
        tp.app_limited = (tp.delivered + in_flight) & MASK32 or 1


def tcp_delivery_rate(tp: TcpSock) -> int:
    """Bytes in a second."""
    if not tp.rate_delivered or not tp.rate_interval_us:
        return 0
    return int(tp.rate_delivered * tp.mss_cache * 1_000_000 // tp.rate_interval_us)


# The pace.


def tcp_update_pacing_rate(tp: TcpSock) -> None:
    """The window in a round trip, doubled in slow start's first half, else a fifth more."""
    ratio = 200 if tp.snd_cwnd < tp.snd_ssthresh >> 1 else 120
    segments = min(max(tp.snd_cwnd, tp.packets_out), PACED_MAX)
    rate = segments * tp.mss_cache * ratio * 80_000
    tp.sk_pacing_rate = rate // tp.srtt_us if tp.srtt_us else rate


# What limits.


def tcp_chrono_set(tp: TcpSock, kind: int, now_ns: int) -> None:
    now_ms = now_ns // NSEC_PER_MSEC & MASK32
    old = tp.chrono_type
    if old:
        tp.chrono_stat_ms[old - 1] += now_ms - tp.chrono_start_ms
        tp.chrono_stat_ms[old - 1] &= MASK32
    tp.chrono_start_ms = now_ms
    tp.chrono_type = kind


def tcp_chrono_start(tp: TcpSock, kind: int, now_ns: int) -> None:
    """From now on something limits, unless what goes before it does."""
    if kind > tp.chrono_type:
        tcp_chrono_set(tp, kind, now_ns)


def tcp_chrono_stop(tp: TcpSock, kind: int, now_ns: int) -> None:
    """It limits no more: what is left is to be busy, if anything is queued."""
    if not tp.tcp_rtx_queue and not tp.sk_write_queue:
        tcp_chrono_set(tp, TCP_CHRONO_UNSPEC, now_ns)
    elif kind == tp.chrono_type:
        tcp_chrono_set(tp, TCP_CHRONO_BUSY, now_ns)


def tcp_chrono_us(tp: TcpSock, kind: int, now_ns: int) -> int:
    """Time that was counted for something, in us."""
    spent_ms = tp.chrono_stat_ms[kind - 1]
    if kind == tp.chrono_type:
        spent_ms += (now_ns // NSEC_PER_MSEC - tp.chrono_start_ms) & MASK32
    return int(spent_ms * 1000)


# A window that is not used.


def tcp_cwnd_restart(net: Netns, tp: TcpSock, idle_ns: int) -> None:
    """After silence the path is not known any more (RFC 5681 4.1): half for each time-out."""
    restart = min(TCP_INIT_CWND, tp.snd_cwnd)
    tp.ca.cwnd_event(tp, CA_EVENT_CWND_RESTART, net.now_ns)
    tp.snd_ssthresh = tcp_current_ssthresh(tp)
    cwnd = tp.snd_cwnd
    while (idle_ns := idle_ns - tp.rto_ns) > 0 and cwnd > restart:
        cwnd >>= 1
    tp.snd_cwnd = max(cwnd, restart)


def tcp_slow_start_after_idle_check(net: Netns, tp: TcpSock) -> None:
    if not net.sysctl.tcp_slow_start_after_idle or tp.packets_out:
        return
    idle_ns = net.now_ns - tp.lsndtime_ns
    if idle_ns > tp.rto_ns:
        tcp_cwnd_restart(net, tp, idle_ns)


def tcp_cwnd_validate(net: Netns, tp: TcpSock, limited: bool) -> None:
    """Remember whether the window was what held sending back (RFC 7661)."""
    if (
        not before(tp.tcb.snd_una, tp.cwnd_usage_seq)
        or limited
        or (not tp.is_cwnd_limited and tp.packets_out > tp.max_packets_out)
    ):
        tp.is_cwnd_limited = limited
        tp.max_packets_out = tp.packets_out
        tp.cwnd_usage_seq = tp.tcb.snd_nxt
    open_state = tp.tcb.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT)
    if not limited and tp.nospace and not tp.sk_write_queue and open_state:
        tcp_chrono_start(tp, TCP_CHRONO_SNDBUF_LIMITED, net.now_ns)
