"""A socket's life: made, moved from state to state, put into the accept queue, ended.

Linux: net/ipv4/inet_connection_sock.c, tcp.c (tcp_set_state, tcp_done).
"""

from __future__ import annotations

from .errqueue import skb_zcopy_clear
from .inet_ports import inet_put_port, inet_unhash
from .netns import Netns, sk_reset_timer, sk_stop_timer, sk_wake
from .snmp import Mib
from .sock import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    SHUTDOWN_MASK,
    TCP_DELACK_MAX_NS,
    TCP_TIMEOUT_INIT_NS,
    TCP_TLP_SLACK_NS,
    CaState,
    TcpSock,
)
from .tcp import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from .tcp_cong import tcp_init_congestion_control
from .tcp_rate import TCP_CHRONO_BUSY, tcp_chrono_stop
from .tcp_rtt import tcp_rto_max_ns, tcp_rto_min_ns, tcp_user_timeout_ns
from .timer import NSEC_PER_MSEC, TICK_NS, jiffies_up


def sk_alloc(net: Netns) -> TcpSock:
    """A new socket with the stack's defaults."""
    tp = TcpSock()
    sysctl = net.sysctl
    tp.sk_rcvbuf = sysctl.tcp_rmem[1]
    tp.sk_sndbuf = sysctl.tcp_wmem[1]
    tp.ttl = sysctl.ip_default_ttl
    tp.pmtudisc = 0 if sysctl.ip_no_pmtu_disc else 1
    tp.reordering = sysctl.tcp_reordering
    tp.rto_min_us = sysctl.tcp_rto_min_us
    tp.rto_max_ms = sysctl.tcp_rto_max_ms
    tp.delack_max_ticks = TCP_DELACK_MAX_NS // TICK_NS
    tp.linger2_s = sysctl.tcp_fin_timeout
    tcp_init_congestion_control(tp, sysctl.tcp_congestion_control, net.now_ns)
    if len(net.wake) > 2 * len(net.socks) + 64:  # nobody has asked: those that are gone go
        net.wake = {handle: None for handle in net.wake if handle in net.socks}
    net.handles += 1
    tp.handle = net.handles
    net.socks[tp.handle] = tp
    return tp


def tcp_set_state(net: Netns, tp: TcpSock, state: int) -> None:
    """Move a socket that no segment moves: connect, listen, close, abort, time-out."""
    old = tp.tcb.state
    tp.tcb.state = state
    tcp_count_state(net, tp, old, state)


def tcp_count_state(net: Netns, tp: TcpSock, old: int, state: int) -> None:
    """Count and tidy what a change of state means to the host."""
    was_open = old in (TCP_ESTABLISHED, TCP_CLOSE_WAIT)
    net.mib[Mib.TCP_CURRESTAB] += (state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT)) - was_open
    if state == TCP_CLOSE:
        net.mib[Mib.TCP_ESTABRESETS] += was_open
        sk_unhash(net, tp)


def sk_unhash(net: Netns, tp: TcpSock) -> None:
    if tp in net.listening.get(tp.sport, ()):
        listeners = net.listening[tp.sport]
        listeners.remove(tp)
        if not listeners:
            del net.listening[tp.sport]
    if tp.daddr:
        inet_unhash(net, tp)


def tcp_write_queue_purge(net: Netns, tp: TcpSock) -> None:
    tcp_chrono_stop(tp, TCP_CHRONO_BUSY, net.now_ns)
    for queue in (tp.sk_write_queue, tp.tcp_rtx_queue):
        while queue:
            skb_zcopy_clear(net, tp, queue.popleft())
    tp.sk_wmem_queued = 0
    tp.packets_out = 0  # what was lost, repeated or told of by SACK is left for TCP_INFO
    tp.backoff = 0


def tcp_clear_xmit_timers(tp: TcpSock) -> None:
    tp.icsk_pending = 0
    tp.ack_pending = 0
    for timer in (tp.retransmit_timer, tp.delack_timer, tp.sk_timer):
        sk_stop_timer(timer)


def tcp_done(net: Netns, tp: TcpSock) -> None:
    """The connection is over."""
    if tp.tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        net.mib[Mib.TCP_ATTEMPTFAILS] += 1
    tcp_set_state(net, tp, TCP_CLOSE)
    tcp_clear_xmit_timers(tp)
    if tp.shutdown != SHUTDOWN_MASK:
        tp.shutdown = SHUTDOWN_MASK
    if tp.dead:
        inet_csk_destroy_sock(net, tp)
    else:
        sk_wake(net, tp)


def tcp_done_with_error(net: Netns, tp: TcpSock, err: int) -> None:
    tp.sk_err = err
    tcp_write_queue_purge(net, tp)
    tcp_done(net, tp)


def inet_csk_destroy_sock(net: Netns, tp: TcpSock) -> None:
    """Nobody has it any more: give everything back."""
    tcp_clear_xmit_timers(tp)
    tcp_write_queue_purge(net, tp)
    tp.errors = None
    tp.sk_receive_queue.clear()
    tp.out_of_order_queue.clear()
    tp.sk_rmem_alloc = 0
    sk_unhash(net, tp)
    inet_put_port(net, tp)
    if net.socks.pop(tp.handle, None) is not None and tp.dead:
        net.n_orphans -= tp.zapped
        tp.zapped = False


def sk_acceptq_is_full(tp: TcpSock) -> bool:
    return len(tp.accept_queue) > tp.max_ack_backlog


def inet_csk_reqsk_queue_is_full(tp: TcpSock) -> bool:
    return tp.n_reqs > tp.max_ack_backlog


def inet_csk_reqsk_queue_add(net: Netns, listener: TcpSock, child: TcpSock) -> bool:
    """A connection is ready to be accepted; False if nobody listens any more."""
    if listener.tcb.state != TCP_LISTEN:
        return False
    child.listener = listener
    listener.accept_queue.append(child)
    sk_wake(net, listener)
    return True


def inet_csk_reqsk_queue_remove(listener: TcpSock) -> TcpSock:
    """Who waits longest, of some who do."""
    oldest: TcpSock = listener.accept_queue.popleft()
    return oldest


def tcp_error(net: Netns, tp: TcpSock, err: int) -> None:
    """Let the caller know, once."""
    tp.sk_err = err
    sk_wake(net, tp)


# Timers that sending arms.


def tcp_reset_xmit_timer(net: Netns, tp: TcpSock, what: int, delay_ns: int) -> None:
    tp.icsk_pending = what
    delay_ns = min(delay_ns, tcp_rto_max_ns(tp))
    sk_reset_timer(net, tp.retransmit_timer, jiffies_up(net.now_ns, delay_ns))


def tcp_clear_xmit_timer(tp: TcpSock) -> None:
    tp.icsk_pending = 0
    sk_stop_timer(tp.retransmit_timer)


def tcp_rearm_rto(net: Netns, tp: TcpSock) -> None:
    """Start the time-out anew while something is in flight (RFC 6298 5.1 to 5.3).

    Where it takes the place of a probe's or of RACK's, it runs since the first segment was sent.
    """
    if not tp.packets_out:
        tcp_clear_xmit_timer(tp)
    elif tp.icsk_pending in (ICSK_TIME_LOSS_PROBE, ICSK_TIME_REO_TIMEOUT):
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, max(tcp_rto_delta_ns(net, tp), 1000))
    else:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, tp.rto_ns)


def tcp_rto_delta_ns(net: Netns, tp: TcpSock) -> int:
    """How long until the first segment's time-out; not positive once that is past."""
    if not tp.tcp_rtx_queue:
        return tp.rto_ns
    sent_ns: int = tp.tcp_rtx_queue[0].skb_mstamp_ns
    return sent_ns + tp.rto_ns - net.now_ns


def tcp_schedule_loss_probe(net: Netns, tp: TcpSock, advancing_rto: bool) -> bool:
    """Probe the tail after two round trips, before the time-out would (RFC 8985 7.2).

    True if that timer runs now. `advancing_rto` if the time-out would start anew with it.
    """
    if net.sysctl.tcp_early_retrans not in (3, 4) or not tp.packets_out or not tp.sack_ok:
        return False
    if tp.ca_state not in (CaState.TCP_CA_OPEN, CaState.TCP_CA_CWR):
        return False
    if tp.srtt_us:
        timeout_ns = (tp.srtt_us >> 2) * 1000
        # One segment alone: its acknowledgment may be delayed.
        timeout_ns += tcp_rto_min_ns(tp) if tp.packets_out == 1 else TCP_TLP_SLACK_NS
    else:
        timeout_ns = TCP_TIMEOUT_INIT_NS
    rto_ns = tp.rto_ns if advancing_rto else tcp_rto_delta_ns(net, tp)
    if rto_ns > 0:
        timeout_ns = min(timeout_ns, rto_ns)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_LOSS_PROBE, timeout_ns)
    return True


def tcp_set_xmit_timer(net: Netns, tp: TcpSock) -> None:
    """Something was acknowledged: wait anew for a probe or the time-out."""
    if not tcp_schedule_loss_probe(net, tp, True):
        tcp_rearm_rto(net, tp)


def tcp_probe0_base_ns(tp: TcpSock) -> int:
    return max(tp.rto_ns, 200 * NSEC_PER_MSEC)


def tcp_clamp_probe0_to_user_timeout(net: Netns, tp: TcpSock, delay_ns: int) -> int:
    """Not beyond the time that the caller gives a shut window."""
    if not tp.user_timeout_ms or not tp.probes_tstamp_ns:
        return delay_ns
    left_ns = tcp_user_timeout_ns(tp) - (net.now_ns - tp.probes_tstamp_ns)
    return min(delay_ns, max(left_ns, 2 * TICK_NS))


def tcp_check_probe_timer(net: Netns, tp: TcpSock) -> None:
    """Nothing is in flight to wait for, but something waits: look after it."""
    if not tp.packets_out and not tp.icsk_pending:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, tcp_probe0_base_ns(tp))
