"""Time-outs: retransmission, window probe, delayed acknowledgment, keep-alive.

Linux: net/ipv4/tcp_timer.c.  RFC 6298 5, 9293 3.8.3.
"""

from __future__ import annotations

from errno import ETIMEDOUT

from .inet_connection_sock import (
    tcp_done,
    tcp_done_with_error,
    tcp_probe0_base_ns,
    tcp_reset_xmit_timer,
)
from .inet_timewait_sock import tcp_time_wait
from .netns import Netns, sk_reset_timer
from .snmp import Mib
from .sock import (
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_ATO_MIN_NS,
    TCP_PINGPONG_THRESH,
    TCP_TIMEWAIT_LEN_NS,
    TcpSock,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from .tcp_comp_sack import tcp_sack_compress_send_ack
from .tcp_input import keepalive_time_when, tcp_fin_time_ns
from .tcp_output import tcp_send_ack, tcp_send_active_reset
from .tcp_recovery import tcp_enter_loss, tcp_rack_reo_timeout
from .tcp_retransmit import (
    tcp_retransmit_skb,
    tcp_send_loss_probe,
    tcp_send_probe0,
    tcp_write_wakeup,
)
from .tcp_rtt import tcp_rto_max_ns, tcp_rto_min_ns, tcp_user_timeout_ns
from .timer import NSEC_PER_MSEC, NSEC_PER_SEC, jiffies_up


def tcp_write_err(net: Netns, tp: TcpSock) -> None:
    """Nobody answers (9293:MUST-20)."""
    net.mib[Mib.TCP_ABORTONTIMEOUT] += 1
    tcp_done_with_error(net, tp, tp.sk_err_soft or ETIMEDOUT)


def tcp_orphan_retries(net: Netns, tp: TcpSock, alive: bool) -> int:
    retries = net.sysctl.tcp_orphan_retries
    if tp.sk_err_soft and not alive:
        return 0
    return 8 if not retries and alive else retries


def tcp_model_timeout_ns(tp: TcpSock, boundary: int, base_ns: int) -> int:
    """How long `boundary` retransmissions take, each after twice the time of the one before."""
    threshold = (tcp_rto_max_ns(tp) // base_ns).bit_length() - 1
    if boundary <= threshold:
        return ((2 << boundary) - 1) * base_ns
    return ((2 << threshold) - 1) * base_ns + (boundary - threshold) * tcp_rto_max_ns(tp)


def retransmits_timed_out(net: Netns, tp: TcpSock, boundary: int, timeout_ns: int) -> bool:
    if not tp.retransmits:
        return False
    start_ns = tp.retrans_stamp * NSEC_PER_MSEC
    if not timeout_ns:
        base_ns = (
            NSEC_PER_SEC if tp.tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV) else tcp_rto_min_ns(tp)
        )
        timeout_ns = tcp_model_timeout_ns(tp, boundary, base_ns)
    return net.now_ns - start_ns >= timeout_ns


def tcp_write_timeout(net: Netns, tp: TcpSock) -> bool:
    """True if it is time to give up (R2; 9293:MUST-20, MUST-23, SHLD-11)."""
    sysctl = net.sysctl
    if tp.tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        retry_until = tp.syn_retries or sysctl.tcp_syn_retries
        linear = sysctl.tcp_syn_linear_timeouts if tp.tcb.state == TCP_SYN_SENT else 0
        expired = tp.retransmits >= retry_until + linear
    else:
        retry_until = sysctl.tcp_retries2
        if tp.dead:
            alive = tp.rto_ns < tcp_rto_max_ns(tp)
            retry_until = tcp_orphan_retries(net, tp, alive)
            if not alive and not tp.retransmits:
                retry_until = 0
        expired = False
    expired = expired or retransmits_timed_out(net, tp, retry_until, tcp_user_timeout_ns(tp))
    if expired:
        tcp_write_err(net, tp)
    else:
        tp.timeout_rehash += 1  # another way may work
    return expired


def tcp_update_rto_stats(net: Netns, tp: TcpSock) -> None:
    if not tp.retransmits:
        tp.total_rto_recoveries += 1
        tp.rto_stamp_ms = net.now_ns // NSEC_PER_MSEC & MASK32
    tp.retransmits += 1
    tp.total_rto += 1


def tcp_retransmit_timer(net: Netns, tp: TcpSock) -> None:
    """The time-out of what was sent first (RFC 6298 5.4 to 5.7)."""
    if not tp.packets_out or not tp.tcp_rtx_queue:
        return
    tcb = tp.tcb
    head = tp.tcp_rtx_queue[0]
    if not tcb.snd_wnd and not tp.dead and tcb.state not in (TCP_SYN_SENT, TCP_SYN_RECV):
        # The window has shrunk to nothing: as long as the peer answers it lives (9293:SHLD-17).
        if tcp_rtx_probe0_timed_out(net, tp):
            tcp_write_err(net, tp)
            return
        tcp_enter_loss(net, tp)
        tcp_retransmit_skb(net, tp, head, 1)
        tcp_out_reset_timer(net, tp)
        return
    net.mib[Mib.TCP_TIMEOUTS] += 1
    if tcp_write_timeout(net, tp):
        return
    tcp_enter_loss(net, tp)
    tcp_update_rto_stats(net, tp)
    if tcp_retransmit_skb(net, tp, head, 1) and tp.tcb.state != TCP_CLOSE:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, 500 * NSEC_PER_MSEC)
        return
    tcp_out_reset_timer(net, tp)


def tcp_rtx_probe0_timed_out(net: Netns, tp: TcpSock) -> bool:
    timeout_ns = 2 * tcp_rto_max_ns(tp)
    if tp.user_timeout_ms:
        since_ns = net.now_ns - tp.retrans_stamp * NSEC_PER_MSEC
        if tp.retrans_stamp and since_ns > tcp_user_timeout_ns(tp):
            return True  # whatever the peer answers, nothing gets on
        timeout_ns = min(timeout_ns, tcp_user_timeout_ns(tp))
    return net.now_ns - max(tp.rcv_tstamp_ns, 1) > timeout_ns


def tcp_out_reset_timer(net: Netns, tp: TcpSock) -> None:
    """Wait twice as long (RFC 6298 5.5); the first SYNs go at even times."""
    linear = net.sysctl.tcp_syn_linear_timeouts
    if tp.tcb.state != TCP_SYN_SENT or tp.retransmits > linear:
        tp.backoff = min(tp.backoff + 1, 255)
        tp.rto_ns = min(tp.rto_ns << 1, tcp_rto_max_ns(tp))
    delay_ns = tp.rto_ns
    if tp.user_timeout_ms and tp.retrans_stamp:
        left = tcp_user_timeout_ns(tp) - (net.now_ns - tp.retrans_stamp * NSEC_PER_MSEC)
        delay_ns = max(min(delay_ns, left), NSEC_PER_MSEC)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, delay_ns)


def tcp_probe_timer(net: Netns, tp: TcpSock) -> None:
    """The peer's window is shut: ask, and go on as long as it answers (9293:MUST-36, MUST-37)."""
    if tp.packets_out or not tp.sk_write_queue:
        tp.probes_out = 0
        tp.probes_tstamp_ns = 0
        return
    if not tp.probes_tstamp_ns:
        tp.probes_tstamp_ns = max(net.now_ns, 1)
    elif tp.user_timeout_ms and net.now_ns - tp.probes_tstamp_ns >= tcp_user_timeout_ns(tp):
        tcp_write_err(net, tp)
        return
    most = net.sysctl.tcp_retries2
    if tp.dead:
        alive = min(tcp_probe0_base_ns(tp) << tp.backoff, tcp_rto_max_ns(tp)) < tcp_rto_max_ns(tp)
        most = tcp_orphan_retries(net, tp, alive)
        if not alive and tp.backoff >= most:
            tcp_write_err(net, tp)
            return
    if tp.probes_out >= most:
        tcp_write_err(net, tp)
    else:
        tcp_send_probe0(net, tp)


def tcp_write_timer(net: Netns, tp: TcpSock) -> None:
    event = tp.icsk_pending
    if tp.tcb.state in (TCP_CLOSE, TCP_LISTEN):
        tp.icsk_pending = 0
        return
    if event == ICSK_TIME_LOSS_PROBE:
        tcp_send_loss_probe(net, tp)
        return
    if event == ICSK_TIME_REO_TIMEOUT:
        tcp_rack_reo_timeout(net, tp)
        return
    tp.icsk_pending = 0
    if event == ICSK_TIME_RETRANS:
        tcp_retransmit_timer(net, tp)
    elif event == ICSK_TIME_PROBE0:
        tcp_probe_timer(net, tp)


def tcp_delack_timer(net: Netns, tp: TcpSock) -> None:
    """What was owed is due."""
    if tp.tcb.state in (TCP_CLOSE, TCP_LISTEN):
        return
    if tp.compressed_ack:
        tcp_sack_compress_send_ack(net, tp)
        return
    if not tp.ack_pending & ICSK_ACK_TIMER:
        return
    tp.ack_pending &= ~ICSK_ACK_TIMER
    if tp.ack_pending & ICSK_ACK_SCHED:
        if tp.ack_pingpong < TCP_PINGPONG_THRESH:
            tp.ack_ato_ns = min(tp.ack_ato_ns << 1, tp.rto_ns)
        else:
            tp.ack_pingpong = 0
            tp.ack_ato_ns = TCP_ATO_MIN_NS
        net.mib[Mib.TCP_DELAYEDACKS] += 1
        tcp_send_ack(net, tp)


def tcp_keepalive_timer(net: Netns, tp: TcpSock) -> None:
    """Silence: is the peer there? (9293:MUST-24 to MUST-29). An orphan in FIN-WAIT-2 ends."""
    if tp.tcb.state == TCP_LISTEN:
        return
    if tp.tcb.state == TCP_FIN_WAIT2 and tp.dead:
        wait_ns = tcp_fin_time_ns(tp) - TCP_TIMEWAIT_LEN_NS
        if tp.linger2_s >= 0 and wait_ns > 0:
            tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)
        else:
            tcp_send_active_reset(net, tp)
            tcp_done(net, tp)
        return
    if not tp.keepopen or tp.tcb.state in (TCP_CLOSE, TCP_SYN_SENT):
        return
    elapsed_ns = keepalive_time_when(net, tp)
    if not (tp.packets_out or tp.sk_write_queue):
        idle_ns = net.now_ns - max(tp.ack_lrcvtime_ns, tp.rcv_tstamp_ns)
        if idle_ns >= elapsed_ns:
            probes = tp.keepalive_probes or net.sysctl.tcp_keepalive_probes
            late = (
                idle_ns >= tcp_user_timeout_ns(tp) and tp.probes_out
                if tp.user_timeout_ms
                else tp.probes_out >= probes
            )
            if late:
                tcp_send_active_reset(net, tp)
                tcp_write_err(net, tp)
                return
            net.mib[Mib.TCP_KEEPALIVES] += 1
            if tcp_write_wakeup(net, tp) <= 0:
                tp.probes_out += 1
                elapsed_ns = keepalive_intvl_when(net, tp)
            else:
                elapsed_ns = 500 * NSEC_PER_MSEC
        else:
            elapsed_ns -= idle_ns
    sk_reset_timer(net, tp.sk_timer, jiffies_up(net.now_ns, elapsed_ns))


def keepalive_intvl_when(net: Netns, tp: TcpSock) -> int:
    return (tp.keepalive_intvl_s or net.sysctl.tcp_keepalive_intvl) * NSEC_PER_SEC
