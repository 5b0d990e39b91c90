"""What is left of a connection for 2 MSL after this end closed it first.

Linux: net/ipv4/inet_timewait_sock.c, tcp_minisocks.c (tcp_time_wait).  RFC 9293 3.6.1.
"""

from __future__ import annotations

from .inet_connection_sock import tcp_clear_xmit_timers, tcp_done
from .inet_ports import inet_ehash_insert, inet_inherit_port, inet_put_port, inet_unhash
from .netns import (
    Netns,
    sk_reset_timer,
    sk_stop_timer,
    tcp_md5_key_copy,
    tcp_md5_lookup,
)
from .snmp import Mib
from .sock import TCP_TIMEWAIT_LEN_NS, TCP_TW_SHORT_NS, TcpSock, TimewaitSock
from .tcp import TCP_TIME_WAIT
from .tcp_window import tcp_receive_window
from .timer import NSEC_PER_SEC


def tcp_time_wait(net: Netns, tp: TcpSock, state: int, timeout_ns: int) -> None:
    """Leave a small rest of a socket in its place, and end the socket."""
    if net.n_tw >= net.sysctl.tcp_max_tw_buckets:
        net.mib[Mib.TCP_TIMEWAITOVERFLOW] += 1
        tcp_done(net, tp)
        return
    tcb = tp.tcb
    tw = TimewaitSock()
    tw.ip = tp.ip
    tw.saddr, tw.daddr, tw.sport, tw.dport = tp.saddr, tp.daddr, tp.sport, tp.dport
    tw.substate = state
    tw.rcv_nxt = tcb.rcv_nxt
    tw.snd_nxt = tcb.snd_nxt
    tw.rcv_wnd = tcp_receive_window(tp)
    tw.rcv_wscale = tcb.rcv_wscale if tp.wscale_ok else 0
    tw.ts_recent = tcb.ts_recent
    tw.ts_recent_stamp = (tp.ts_recent_stamp_ns or net.now_ns) // NSEC_PER_SEC
    tw.ts_offset = tp.tsoffset
    tw.tstamp_ok = tp.tstamp_ok
    tw.last_oow_ack_ms = tp.last_oow_ack_ms
    tw.tos = tp.tos
    tcp_md5_key_copy(tw, tcp_md5_lookup(tp))
    tcp_clear_xmit_timers(tp)
    inet_unhash(net, tp)
    had_port = tp.bound
    if had_port:
        inet_put_port(net, tp)
        inet_inherit_port(net, tw)
    inet_ehash_insert(net, tw)
    net.n_tw += 1
    rto_ns = (tp.rto_ns << 2) - (tp.rto_ns >> 1)
    timeout_ns = max(timeout_ns, rto_ns)
    if state == TCP_TIME_WAIT:
        timeout_ns = TCP_TIMEWAIT_LEN_NS
    net.mib[Mib.TCP_TWKILLED if timeout_ns <= TCP_TW_SHORT_NS else Mib.TCP_TW] += 1
    inet_twsk_schedule(net, tw, timeout_ns)
    tcp_done(net, tp)


def inet_twsk_schedule(net: Netns, tw: TimewaitSock, timeout_ns: int) -> None:
    sk_reset_timer(net, tw.timer, net.now_ns + timeout_ns)


def inet_twsk_kill(net: Netns, tw: TimewaitSock) -> None:
    """Its time is over, or its place is needed."""
    sk_stop_timer(tw.timer)
    inet_unhash(net, tw)
    inet_put_port(net, tw)
    net.n_tw -= 1


def tw_timer_handler(net: Netns, tw: TimewaitSock) -> None:
    inet_twsk_kill(net, tw)
