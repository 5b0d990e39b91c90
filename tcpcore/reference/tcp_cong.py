"""Congestion control: how much may fly. Reno and CUBIC behind one interface.

Linux: net/ipv4/tcp_cong.c, tcp_cubic.c.  RFC 5681, RFC 9438.
"""

from __future__ import annotations

from .sock import CaState, TcpSock
from .tcp import after
from .tcp_ecn import tcp_ecn_queue_cwr
from .timer import NSEC_PER_SEC

CA_EVENT_TX_START = 0  # sends after everything was acknowledged
CA_EVENT_CWND_RESTART = 1
CA_EVENT_LOSS = 3

# CUBIC counts time in 1/1024 s and windows in segments.
BICTCP_BETA = 717  # of 1024: what is left of the window after a loss
BICTCP_HZ = 10  # bits of a second's fraction
_CUBE_SHIFT = 10 + 3 * BICTCP_HZ
_CUBE = 41 * 10  # C in 1/1024: 0.4 as 41 / 1024 * 10
_RENO_SCALE = 8 * (1024 + BICTCP_BETA) // 3 // (1024 - BICTCP_BETA)
HYSTART_LOW_WINDOW = 16
HYSTART_MIN_SAMPLES = 8
HYSTART_DELAY_MIN_US = 4000
HYSTART_DELAY_MAX_US = 16000
HYSTART_ACK_DELTA_US = 2000


def tcp_in_slow_start(tp: TcpSock) -> bool:
    return tp.snd_cwnd < tp.snd_ssthresh


def tcp_is_cwnd_limited(tp: TcpSock) -> bool:
    """True if more could have been sent had the window been larger (RFC 7661's question)."""
    if tp.is_cwnd_limited:
        return True
    return tcp_in_slow_start(tp) and tp.snd_cwnd < 2 * tp.max_packets_out


def tcp_slow_start(tp: TcpSock, acked: int) -> int:
    """Grow by what was acknowledged, up to ssthresh (RFC 5681 3.1); what is left of it."""
    cwnd = min(tp.snd_cwnd + acked, tp.snd_ssthresh)
    acked -= cwnd - tp.snd_cwnd
    tp.snd_cwnd = min(cwnd, tp.snd_cwnd_clamp)
    return acked


def tcp_cong_avoid_ai(tp: TcpSock, w: int, acked: int) -> None:
    """One segment more for every `w` acknowledged."""
    if tp.snd_cwnd_cnt >= w:  # the window's slope has changed: what was saved counts once
        tp.snd_cwnd_cnt = 0
        tp.snd_cwnd += 1
    tp.snd_cwnd_cnt += acked
    if tp.snd_cwnd_cnt >= w:
        delta = tp.snd_cwnd_cnt // w
        tp.snd_cwnd_cnt -= delta * w
        tp.snd_cwnd += delta
    tp.snd_cwnd = min(tp.snd_cwnd, tp.snd_cwnd_clamp)


class Reno:
    """RFC 5681."""

    name = "reno"
    __slots__ = ()

    def init(self, tp: TcpSock, now_ns: int) -> None:
        """A connection takes this controller."""

    def ssthresh(self, tp: TcpSock, now_ns: int) -> int:
        """What slow start may grow to after a loss."""
        return max(tp.snd_cwnd >> 1, 2)

    def cong_avoid(self, tp: TcpSock, acked: int, now_ns: int) -> None:
        """`acked` segments were acknowledged, and nothing is wrong."""
        if not tcp_is_cwnd_limited(tp):
            return
        if tcp_in_slow_start(tp):
            acked = tcp_slow_start(tp, acked)
        if acked:
            tcp_cong_avoid_ai(tp, tp.snd_cwnd, acked)

    def undo_cwnd(self, tp: TcpSock) -> int:
        """The window if the loss was none."""
        return max(tp.snd_cwnd, tp.prior_cwnd)

    def set_state(self, tp: TcpSock, state: int, now_ns: int) -> None:
        """ca_state becomes `state`."""

    def cwnd_event(self, tp: TcpSock, event: int, now_ns: int) -> None:
        """CA_EVENT_: something else has happened."""

    def pkts_acked(self, tp: TcpSock, rtt_us: int, now_ns: int) -> None:
        """An acknowledgment gave a sample of the round trip."""


class Cubic(Reno):
    """RFC 9438, with fast convergence and the Reno-friendly region; HyStart ends slow start."""

    name = "cubic"
    __slots__ = (
        "cnt",
        "last_max_cwnd",
        "last_cwnd",
        "last_time",
        "bic_origin_point",
        "bic_k",
        "delay_min_us",
        "epoch_start",
        "ack_cnt",
        "tcp_cwnd",
        "round_start_ns",
        "end_seq",
        "last_ack_ns",
        "curr_rtt_us",
        "sample_cnt",
        "found",
    )

    def __init__(self) -> None:
        self.reset()
        self.round_start_ns = 0
        self.end_seq = 0
        self.last_ack_ns = 0
        self.curr_rtt_us = 0
        self.sample_cnt = 0

    def reset(self) -> None:
        self.cnt = 0  # acknowledged segments that are worth one segment of window
        self.last_max_cwnd = 0
        self.last_cwnd = 0
        self.last_time = 0
        self.bic_origin_point = 0
        self.bic_k = 0
        self.delay_min_us = 0
        self.epoch_start = 0
        self.ack_cnt = 0
        self.tcp_cwnd = 0
        self.found = False

    def init(self, tp: TcpSock, now_ns: int) -> None:
        self.reset()
        self.hystart_reset(tp, now_ns)

    def ssthresh(self, tp: TcpSock, now_ns: int) -> int:
        self.epoch_start = 0
        if tp.snd_cwnd < self.last_max_cwnd:  # fast convergence (RFC 9438 4.7)
            self.last_max_cwnd = tp.snd_cwnd * (1024 + BICTCP_BETA) // 2048
        else:
            self.last_max_cwnd = tp.snd_cwnd
        return max(tp.snd_cwnd * BICTCP_BETA // 1024, 2)

    def cong_avoid(self, tp: TcpSock, acked: int, now_ns: int) -> None:
        if not tcp_is_cwnd_limited(tp):
            return
        if tcp_in_slow_start(tp):
            acked = tcp_slow_start(tp, acked)
            if not acked:
                return
        self.update(tp.snd_cwnd, acked, now_ns)
        tcp_cong_avoid_ai(tp, self.cnt, acked)

    def update(self, cwnd: int, acked: int, now_ns: int) -> None:
        """W(t) of today, as the slope that leads there in a round trip (RFC 9438 4.2 to 4.5)."""
        now = (now_ns << BICTCP_HZ) // NSEC_PER_SEC + 1  # 0 is no time
        self.ack_cnt += acked
        if self.last_cwnd == cwnd and now - self.last_time <= 32:
            return
        if not (self.epoch_start and now == self.last_time):
            self.last_cwnd = cwnd
            self.last_time = now
            if not self.epoch_start:
                self.epoch_start = now
                self.ack_cnt = acked
                self.tcp_cwnd = cwnd
                if self.last_max_cwnd <= cwnd:
                    self.bic_k = 0
                    self.bic_origin_point = cwnd
                else:
                    below = self.last_max_cwnd - cwnd
                    self.bic_k = cubic_root((below << _CUBE_SHIFT) // _CUBE)
                    self.bic_origin_point = self.last_max_cwnd
            t = now - self.epoch_start + (self.delay_min_us << BICTCP_HZ) // 1_000_000
            away = abs(t - self.bic_k)
            delta = _CUBE * away**3 >> _CUBE_SHIFT
            target = self.bic_origin_point + (delta if t >= self.bic_k else -delta)
            self.cnt = cwnd // (target - cwnd) if target > cwnd else 100 * cwnd
            if not self.last_max_cwnd and self.cnt > 20:
                self.cnt = 20  # nothing is known yet: 5 % a round trip
        # Never slower than Reno would be (RFC 9438 4.3).
        per_segment = cwnd * _RENO_SCALE >> 3
        if per_segment and self.ack_cnt > per_segment:
            more = (self.ack_cnt - 1) // per_segment
            self.ack_cnt -= more * per_segment
            self.tcp_cwnd += more
        if self.tcp_cwnd > cwnd:
            self.cnt = min(self.cnt, cwnd // (self.tcp_cwnd - cwnd))
        self.cnt = max(self.cnt, 2)

    def set_state(self, tp: TcpSock, state: int, now_ns: int) -> None:
        if state == CaState.TCP_CA_LOSS:
            self.reset()
            self.hystart_reset(tp, now_ns)

    def cwnd_event(self, tp: TcpSock, event: int, now_ns: int) -> None:
        """Idle time is no time of the curve."""
        if event == CA_EVENT_TX_START and self.epoch_start:
            idle_ns = now_ns - tp.lsndtime_ns
            if idle_ns > 0:
                now = (now_ns << BICTCP_HZ) // NSEC_PER_SEC + 1
                idle = (idle_ns << BICTCP_HZ) // NSEC_PER_SEC
                self.epoch_start = min(self.epoch_start + idle, now)

    def pkts_acked(self, tp: TcpSock, rtt_us: int, now_ns: int) -> None:
        if rtt_us <= 0:
            return
        if self.epoch_start:
            since = now_ns - ((self.epoch_start - 1) * NSEC_PER_SEC >> BICTCP_HZ)
            if since < NSEC_PER_SEC:  # after a loss the queue is still long
                return
        if not self.delay_min_us or rtt_us < self.delay_min_us:
            self.delay_min_us = rtt_us
        if not self.found and tcp_in_slow_start(tp) and tp.snd_cwnd >= HYSTART_LOW_WINDOW:
            self.hystart_update(tp, rtt_us, now_ns)

    def hystart_reset(self, tp: TcpSock, now_ns: int) -> None:
        self.round_start_ns = self.last_ack_ns = now_ns
        self.end_seq = tp.tcb.snd_nxt
        self.curr_rtt_us = 0
        self.sample_cnt = 0

    def hystart_update(self, tp: TcpSock, rtt_us: int, now_ns: int) -> None:
        """Leave slow start when a round's acknowledgments fill half a round trip, or come late."""
        if after(tp.tcb.snd_una, self.end_seq):
            self.hystart_reset(tp, now_ns)
        if now_ns - self.last_ack_ns <= HYSTART_ACK_DELTA_US * 1000:
            self.last_ack_ns = now_ns
            if now_ns - self.round_start_ns > self.delay_min_us * 500:
                self.found = True
        if not self.curr_rtt_us or rtt_us < self.curr_rtt_us:
            self.curr_rtt_us = rtt_us
        if self.sample_cnt < HYSTART_MIN_SAMPLES:
            self.sample_cnt += 1
        else:
            eta_us = min(max(self.delay_min_us >> 3, HYSTART_DELAY_MIN_US), HYSTART_DELAY_MAX_US)
            if self.curr_rtt_us > self.delay_min_us + eta_us:
                self.found = True
        if self.found:
            tp.snd_ssthresh = tp.snd_cwnd


def cubic_root(n: int) -> int:
    """The whole part of the cube root (Newton's method from above)."""
    if not n:
        return 0
    x = 1 << (n.bit_length() + 2) // 3
    while True:
        y = (2 * x + n // (x * x)) // 3
        if y >= x:
            return x
        x = y


CONGESTION_CONTROLS = {"reno": Reno, "cubic": Cubic}


def tcp_init_congestion_control(tp: TcpSock, name: str, now_ns: int) -> None:
    tp.ca = CONGESTION_CONTROLS[name]()
    tp.ca.init(tp, now_ns)


def tcp_set_ca_state(tp: TcpSock, state: int, now_ns: int) -> None:
    tp.ca.set_state(tp, state, now_ns)
    tp.ca_state = state


def tcp_init_cwnd_reduction(tp: TcpSock, now_ns: int) -> None:
    tp.high_seq = tp.tcb.snd_nxt
    tp.tlp_high_seq = 0
    tp.snd_cwnd_cnt = 0
    tp.prior_cwnd = tp.snd_cwnd
    tp.prr_delivered = tp.prr_out = 0
    tp.snd_ssthresh = tp.ca.ssthresh(tp, now_ns)
    tcp_ecn_queue_cwr(tp)


def tcp_enter_cwr(tp: TcpSock, now_ns: int) -> None:
    """Less is to be sent, though nothing was lost."""
    tp.prior_ssthresh = 0
    if tp.ca_state < CaState.TCP_CA_CWR:
        tp.undo_marker = 0
        tcp_init_cwnd_reduction(tp, now_ns)
        tcp_set_ca_state(tp, CaState.TCP_CA_CWR, now_ns)


def tcp_current_ssthresh(tp: TcpSock) -> int:
    """What ssthresh would be if the window were reduced now."""
    if tp.ca_state in (CaState.TCP_CA_CWR, CaState.TCP_CA_RECOVERY):
        return tp.snd_ssthresh
    return max(tp.snd_ssthresh, (tp.snd_cwnd >> 1) + (tp.snd_cwnd >> 2))
