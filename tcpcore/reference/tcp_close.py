"""The end of a socket: shut down, abort, close.

Linux: net/ipv4/tcp.c (tcp_shutdown, tcp_disconnect, __tcp_close), inet_connection_sock.c.
RFC 9293 3.10.4, 3.10.5.
"""

from __future__ import annotations

from errno import (
    ECONNRESET,
    EINVAL,
    ENOTCONN,
)

from .errqueue import (
    skb_errqueue_purge,
)
from .inet_connection_sock import (
    inet_csk_destroy_sock,
    inet_csk_reqsk_queue_remove,
    tcp_done,
    tcp_set_state,
    tcp_write_queue_purge,
)
from .inet_ports import inet_put_port
from .inet_timewait_sock import tcp_time_wait
from .netns import Netns, sk_reset_timer
from .snmp import Mib
from .sock import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    TCP_TIMEWAIT_LEN_NS,
    RequestSock,
    TcpSock,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from .tcp_cong import tcp_init_congestion_control
from .tcp_input import tcp_fin_time_ns
from .tcp_minisocks import reqsk_drop
from .tcp_output import (
    tcp_send_active_reset,
    tcp_send_fin,
)

# What closing this end's stream makes of a state, and whether a FIN is to be sent.
NEW_STATE = {
    TCP_ESTABLISHED: (TCP_FIN_WAIT1, True),
    TCP_SYN_SENT: (TCP_CLOSE, False),
    TCP_SYN_RECV: (TCP_FIN_WAIT1, True),
    TCP_CLOSE_WAIT: (TCP_LAST_ACK, True),
    TCP_LISTEN: (TCP_CLOSE, False),
}


def tcp_close_state(net: Netns, tp: TcpSock) -> bool:
    """Move as this end has nothing more to send; True if a FIN is to be sent."""
    state = tp.tcb.state
    new, fin = NEW_STATE.get(state, (state, False))
    tcp_set_state(net, tp, new)
    return fin


def tcp_shutdown(net: Netns, tp: TcpSock, how: int) -> int:
    """SHUT_RD 0, SHUT_WR 1, SHUT_RDWR 2; 0 or a negative errno."""
    how += 1
    if how & ~SHUTDOWN_MASK or not how:
        return -EINVAL
    state = tp.tcb.state
    if state == TCP_CLOSE:
        tp.shutdown |= how  # whoever polls it is to see that
        return -ENOTCONN
    if state == TCP_LISTEN:
        if how & RCV_SHUTDOWN:
            inet_csk_listen_stop(net, tp)
            tcp_set_state(net, tp, TCP_CLOSE)
        return 0
    if state == TCP_SYN_SENT:
        tcp_disconnect(net, tp)
        return 0
    tp.shutdown |= how
    open_ = state in (TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT)
    if how & SEND_SHUTDOWN and open_ and tcp_close_state(net, tp):
        tcp_send_fin(net, tp)
    return 0


def tcp_need_reset(state: int) -> bool:
    return state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV)


def tcp_disconnect(net: Netns, tp: TcpSock) -> None:
    """ABORT (RFC 9293 3.10.5): what is queued is lost, the peer is told; then it is as new."""
    if tp.tcb.state == TCP_LISTEN:
        inet_csk_listen_stop(net, tp)
    if tcp_need_reset(tp.tcb.state):
        tcp_send_active_reset(net, tp)
        tp.sk_err = ECONNRESET
    elif tp.tcb.state == TCP_SYN_SENT:
        tp.sk_err = ECONNRESET
    tcp_write_queue_purge(net, tp)
    tcp_set_state(net, tp, TCP_CLOSE)  # its caller's wish: no attempt has failed
    tcp_done(net, tp)
    tp.sk_receive_queue.clear()
    tp.out_of_order_queue.clear()
    tp.sk_rmem_alloc = 0 if tp.errors is None else tp.errors.rmem_alloc
    if not tp.dead:
        tcp_renew(net, tp)


def tcp_renew(net: Netns, tp: TcpSock) -> None:
    """Forget a connection, keep what the caller has asked for: options, and what he bound."""
    new = TcpSock()
    for name in KEPT:
        setattr(new, name, getattr(tp, name))
    if tp.userlocks & SOCK_BINDADDR_LOCK:
        new.saddr = tp.saddr
    if tp.userlocks & SOCK_BINDPORT_LOCK:
        new.sport, new.bound = tp.sport, tp.bound
    else:
        inet_put_port(net, tp)
    for name in TcpSock.__slots__:
        if name not in ("retransmit_timer", "delack_timer", "sk_timer"):  # they know their owner
            setattr(tp, name, getattr(new, name))
    tcp_init_congestion_control(tp, tp.ca.name, net.now_ns)


# What a socket keeps when its connection is forgotten.
KEPT = (
    "handle",
    "ip",
    "userlocks",
    "reuse",
    "reuseport",
    "dead",
    "zapped",
    "errors",
    "md5sig_info",
    "sk_rmem_alloc",
    "sk_err",
    "nonagle",
    "keepopen",
    "oobinline",
    "ipv6only",
    "linger",
    "linger_s",
    "sk_rcvbuf",
    "sk_sndbuf",
    "sk_rcvlowat",
    "tos",
    "ttl",
    "recverr",
    "user_mss",
    "user_timeout_ms",
    "syn_retries",
    "keepalive_time_s",
    "keepalive_intvl_s",
    "keepalive_probes",
    "linger2_s",
    "defer_accept",
    "notsent_lowat",
    "pmtudisc",
    "reordering",
    "rto_min_us",
    "rto_max_ms",
    "delack_max_ticks",
    "ca",
)


def inet_csk_listen_stop(net: Netns, tp: TcpSock) -> None:
    """Requests are forgotten, connections that nobody has accepted are reset."""
    while tp.accept_queue:
        child = inet_csk_reqsk_queue_remove(tp)
        child.dead = True
        tcp_disconnect(net, child)
    for sk in list(net.established.values()):
        if isinstance(sk, RequestSock) and sk.listener is tp:
            reqsk_drop(net, sk)
    if not tp.sport:
        net.any_address -= 1


def tcp_close(net: Netns, tp: TcpSock) -> None:
    """The caller lets go (RFC 9293 3.10.4): the rest is sent, or the peer learns what is lost."""
    state = tp.tcb.state
    tp.shutdown = SHUTDOWN_MASK
    if state == TCP_LISTEN:
        inet_csk_listen_stop(net, tp)
        tcp_set_state(net, tp, TCP_CLOSE)
    unread = sum(len(skb.data) for skb in tp.sk_receive_queue) - (
        (tp.copied_seq - tp.sk_receive_queue[0].seq) & MASK32 if tp.sk_receive_queue else 0
    )
    tp.sk_receive_queue.clear()
    skb_errqueue_purge(tp, True)
    tp.sk_rmem_alloc = 0
    if tp.tcb.state == TCP_CLOSE:
        tp.dead = True
        inet_csk_destroy_sock(net, tp)
        return
    if unread:
        net.mib[Mib.TCP_ABORTONCLOSE] += 1
        tcp_set_state(net, tp, TCP_CLOSE)
        tcp_send_reset_now(net, tp, state)
    elif tp.linger and not tp.linger_s:
        net.mib[Mib.TCP_ABORTONDATA] += 1
        tcp_disconnect(net, tp)
    elif tcp_close_state(net, tp):
        tcp_send_fin(net, tp)
    tp.dead = True
    if tp.tcb.state == TCP_CLOSE:
        inet_csk_destroy_sock(net, tp)
        return
    net.n_orphans += 1
    tp.zapped = True
    if tp.tcb.state == TCP_FIN_WAIT2:
        if tp.linger2_s < 0:
            tcp_set_state(net, tp, TCP_CLOSE)
            tcp_send_reset_now(net, tp, TCP_FIN_WAIT2)
            net.mib[Mib.TCP_ABORTONLINGER] += 1
        else:
            wait_ns = tcp_fin_time_ns(tp)
            if wait_ns > TCP_TIMEWAIT_LEN_NS:
                sk_reset_timer(net, tp.sk_timer, net.now_ns + wait_ns - TCP_TIMEWAIT_LEN_NS)
            else:
                tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)
                return
    if tp.tcb.state != TCP_CLOSE and net.n_orphans > net.sysctl.tcp_max_orphans:
        net.mib[Mib.TCP_ABORTONMEMORY] += 1
        tcp_send_active_reset(net, tp)
        tcp_set_state(net, tp, TCP_CLOSE)
    if tp.tcb.state == TCP_CLOSE:
        inet_csk_destroy_sock(net, tp)


def tcp_send_reset_now(net: Netns, tp: TcpSock, state: int) -> None:
    """A reset from a socket that is closed already."""
    tp.tcb.state = state
    tcp_send_active_reset(net, tp)
    tp.tcb.state = TCP_CLOSE
