"""Options of a socket, by Linux's numbers; what it is ready for.

Linux: do_tcp_setsockopt, do_tcp_getsockopt, tcp_get_info in net/ipv4/tcp.c; sk_setsockopt.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOBUFS, ENOENT, ENOPROTOOPT, ENOTTY, EOPNOTSUPP

from .errqueue import sk_errors_alloc, skb_errqueue_purge, sock_set_timestamping
from .netns import Netns, sk_reset_timer, sk_stop_timer
from .sock import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    MAX_TCP_KEEPCNT,
    MAX_TCP_KEEPIDLE,
    MAX_TCP_KEEPINTVL,
    MAX_TCP_SYNCNT,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_RCVBUF_LOCK,
    SOCK_SNDBUF_LOCK,
    TCP_DELACK_MAX_NS,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_PINGPONG_THRESH,
    TCP_RTO_MAX_NS,
    TCP_RTO_MIN_NS,
    TCP_TIMEOUT_MIN_NS,
    TCP_URG_VALID,
    TcpSock,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    before,
)
from .tcp_ack import sk_stream_is_writeable
from .tcp_cong import CONGESTION_CONTROLS, tcp_init_congestion_control
from .tcp_input import keepalive_time_when
from .tcp_md5 import tcp_md5_do_add, tcp_md5_do_del
from .tcp_output import tcp_data_snd_check, tcp_push_pending_frames
from .tcp_timer import keepalive_intvl_when
from .tcp_user import tcp_cleanup_rbuf
from .tcp_window import tcp_current_mss, tcp_set_window_clamp, tcp_win_from_space
from .timer import NSEC_PER_MSEC, NSEC_PER_SEC, TICK_NS, jiffies_up

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6 = 0, 1, 6, 41

SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF = 2, 3, 4, 7, 8
SO_KEEPALIVE, SO_OOBINLINE, SO_LINGER, SO_REUSEPORT = 9, 10, 13, 15
SO_RCVLOWAT, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN = 18, 30, 38, 39
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PEEK_OFF = 32, 33, 42
SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, SO_ZEROCOPY = 29, 35, 37, 60

TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL = 1, 2, 3, 4, 5
TCP_KEEPCNT, TCP_SYNCNT, TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP = 6, 7, 8, 9, 10
TCP_INFO, TCP_QUICKACK, TCP_CONGESTION, TCP_USER_TIMEOUT = 11, 12, 13, 18
TCP_NOTSENT_LOWAT = 25
TCP_RTO_MAX_MS, TCP_RTO_MIN_US, TCP_DELACK_MAX_US = 44, 45, 46
SIOCINQ, SIOCOUTQ, SIOCATMARK, SIOCOUTQNSD = 0x541B, 0x5411, 0x8905, 0x894B

IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 1, 2, 10, 11, 14
IPV6_UNICAST_HOPS, IPV6_RECVERR, IPV6_V6ONLY, IPV6_TCLASS = 16, 25, 26, 67

SOCK_MIN_SNDBUF, SOCK_MIN_RCVBUF = 4608, 2304
MAX_SOCK_BUF = 0x7FFFFFFF >> 1

# poll(2)'s bits.
EPOLLIN = 0x001
EPOLLPRI = 0x002
EPOLLOUT = 0x004
EPOLLERR = 0x008
EPOLLHUP = 0x010
EPOLLRDHUP = 0x2000


def sock_setsockopt(net: Netns, tp: TcpSock, name: int, value: int) -> int:
    """SOL_SOCKET; 0 or a negative errno."""
    if name == SO_REUSEADDR:
        tp.reuse = bool(value)
    elif name == SO_REUSEPORT:
        tp.reuseport = bool(value)
    elif name in (SO_SNDBUF, SO_SNDBUFFORCE):
        tp.userlocks |= SOCK_SNDBUF_LOCK
        most = net.sysctl.wmem_max if name == SO_SNDBUF else MAX_SOCK_BUF
        tp.sk_sndbuf = max(sock_buffer_size(value, most, name == SO_SNDBUF), SOCK_MIN_SNDBUF)
    elif name in (SO_RCVBUF, SO_RCVBUFFORCE):
        tp.userlocks |= SOCK_RCVBUF_LOCK
        most = net.sysctl.rmem_max if name == SO_RCVBUF else MAX_SOCK_BUF
        tp.sk_rcvbuf = max(sock_buffer_size(value, most, name == SO_RCVBUF), SOCK_MIN_RCVBUF)
        tcp_set_window_clamp(tp, tcp_win_from_space(tp, tp.sk_rcvbuf))
    elif name == SO_KEEPALIVE:
        tp.keepopen = bool(value)
        if tp.tcb.state in (TCP_CLOSE, TCP_LISTEN):
            return 0
        if value:
            sk_reset_timer(net, tp.sk_timer, net.now_ns + keepalive_time_when(net, tp))
        else:
            sk_stop_timer(tp.sk_timer)
    elif name == SO_OOBINLINE:
        tp.oobinline = bool(value)
    elif name == SO_RCVLOWAT:
        most = tp.sk_rcvbuf if tp.userlocks & SOCK_RCVBUF_LOCK else net.sysctl.tcp_rmem[2]
        tp.sk_rcvlowat = min(value if value >= 0 else MAX_SOCK_BUF, most >> 1) or 1
    elif name == SO_PEEK_OFF:
        errors = sk_errors_alloc(tp)
        if errors is None:
            return -ENOBUFS
        errors.peek_off = value
    elif name == SO_TIMESTAMPING:
        return sock_set_timestamping(tp, value)
    elif name == SO_ZEROCOPY and not 0 <= value <= 1:
        return -EINVAL
    elif name in (SO_TIMESTAMP, SO_TIMESTAMPNS, SO_ZEROCOPY):
        errors = sk_errors_alloc(tp)
        if errors is None:
            return -ENOBUFS
        if name == SO_ZEROCOPY:
            errors.zerocopy = bool(value)
        else:
            errors.rcvtstamp = (1 if name == SO_TIMESTAMP else 2) if value else 0
    else:
        return -ENOPROTOOPT
    return 0


def sock_buffer_size(value: int, most: int, bounded: bool) -> int:
    """Twice what was asked for, as not all of it is data; a bound counts without a sign."""
    value = value & MASK32 if bounded else max(value, 0)
    return 2 * min(value, most, MAX_SOCK_BUF)


def sock_set_linger(tp: TcpSock, on: bool, seconds: int) -> int:
    """SO_LINGER; 0."""
    tp.linger = on
    tp.linger_s = min(max(seconds, 0), 0x7FFFFFFF)
    return 0


def tcp_setsockopt(net: Netns, tp: TcpSock, name: int, value: int) -> int:
    """SOL_TCP; 0 or a negative errno."""
    if name == TCP_NODELAY:
        tcp_set_nodelay(net, tp, bool(value))
    elif name == TCP_CORK:
        tcp_set_cork(net, tp, bool(value))
    elif name == TCP_MAXSEG:
        if value and not 88 <= value <= 32767:
            return -EINVAL
        tp.user_mss = value
    elif name == TCP_KEEPIDLE:
        if not 1 <= value <= MAX_TCP_KEEPIDLE:
            return -EINVAL
        tp.keepalive_time_s = value
        if tp.keepopen and tp.tcb.state not in (TCP_CLOSE, TCP_LISTEN):
            since = max(tp.ack_lrcvtime_ns, tp.rcv_tstamp_ns)
            sk_reset_timer(net, tp.sk_timer, max(since + value * NSEC_PER_SEC, net.now_ns))
    elif name == TCP_KEEPINTVL:
        if not 1 <= value <= MAX_TCP_KEEPINTVL:
            return -EINVAL
        tp.keepalive_intvl_s = value
    elif name == TCP_KEEPCNT:
        if not 1 <= value <= MAX_TCP_KEEPCNT:
            return -EINVAL
        tp.keepalive_probes = value
    elif name == TCP_SYNCNT:
        if not 1 <= value <= MAX_TCP_SYNCNT:
            return -EINVAL
        tp.syn_retries = value
    elif name == TCP_LINGER2:
        most = 120
        tp.linger2_s = -1 if value < 0 else min(value, most)
        if not value:
            tp.linger2_s = net.sysctl.tcp_fin_timeout
    elif name == TCP_DEFER_ACCEPT:
        tp.defer_accept = secs_to_retrans(value)
    elif name == TCP_WINDOW_CLAMP:
        if not value and tp.tcb.state != TCP_CLOSE:
            return -EINVAL
        if value:
            tcp_set_window_clamp(tp, value)
        else:
            tp.window_clamp = 0
    elif name == TCP_QUICKACK:
        if not value:
            tp.ack_pingpong = TCP_PINGPONG_THRESH
        else:
            tp.ack_pingpong = 0
            open_ = tp.tcb.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT)
            if open_ and tp.ack_pending & ICSK_ACK_SCHED:
                tp.ack_pending |= ICSK_ACK_PUSHED
                tcp_cleanup_rbuf(net, tp, 1)
                if not value & 1:
                    tp.ack_pingpong = TCP_PINGPONG_THRESH
    elif name == TCP_USER_TIMEOUT:
        if value < 0:
            return -EINVAL
        tp.user_timeout_ms = value
    elif name == TCP_NOTSENT_LOWAT:
        tp.notsent_lowat = value & MASK32
    elif name == TCP_RTO_MAX_MS:
        if not 1000 <= value <= TCP_RTO_MAX_NS // NSEC_PER_MSEC:
            return -EINVAL
        tp.rto_max_ms = jiffies_up(0, value * NSEC_PER_MSEC) // NSEC_PER_MSEC
    elif name == TCP_RTO_MIN_US:
        rto_min_ns = jiffies_up(0, value * 1000)
        if not TCP_TIMEOUT_MIN_NS <= rto_min_ns <= TCP_RTO_MIN_NS:
            return -EINVAL
        tp.rto_min_us = rto_min_ns // 1000
    elif name == TCP_DELACK_MAX_US:
        delack_max_ns = jiffies_up(0, value * 1000)
        if not TCP_TIMEOUT_MIN_NS <= delack_max_ns <= TCP_DELACK_MAX_NS:
            return -EINVAL
        tp.delack_max_ticks = delack_max_ns // TICK_NS
    else:
        return -ENOPROTOOPT
    return 0


def tcp_set_nodelay(net: Netns, tp: TcpSock, on: bool) -> None:
    if on:
        tp.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        if tp.tcb.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            tcp_data_snd_check(net, tp)
    else:
        tp.nonagle &= ~TCP_NAGLE_OFF


def tcp_set_cork(net: Netns, tp: TcpSock, on: bool) -> None:
    if on:
        tp.nonagle |= TCP_NAGLE_CORK
        return
    tp.nonagle &= ~TCP_NAGLE_CORK
    if tp.nonagle & TCP_NAGLE_OFF:
        tp.nonagle |= TCP_NAGLE_PUSH
    if tp.tcb.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and tp.sk_write_queue:
        tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), tp.nonagle)


def tcp_inq_hint(tp: TcpSock) -> int:
    """Bytes that reads would give (TCP_CM_INQ); the peer's FIN counts as one of them."""
    return (tp.tcb.rcv_nxt - tp.copied_seq) & MASK32 or int(tp.done)


def tcp_poll(net: Netns, tp: TcpSock) -> int:
    """What a socket is ready for, as poll(2) has it."""
    state = tp.tcb.state
    if state == TCP_LISTEN:
        return EPOLLIN if tp.accept_queue else 0
    mask = 0
    if tp.shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= EPOLLHUP
    if tp.shutdown & RCV_SHUTDOWN:
        mask |= EPOLLIN | EPOLLRDHUP
    if state not in (TCP_SYN_SENT, TCP_SYN_RECV):
        readable = (tp.tcb.rcv_nxt - tp.copied_seq) & MASK32
        if state in (TCP_CLOSE_WAIT, TCP_LAST_ACK) or tp.shutdown & RCV_SHUTDOWN:
            readable = sum(len(skb.data) for skb in tp.sk_receive_queue)
        if tp.sk_receive_queue and readable >= min(tp.sk_rcvlowat, tp.sk_rcvbuf >> 1):
            mask |= EPOLLIN
        if tp.shutdown & SEND_SHUTDOWN or sk_stream_is_writeable(net, tp):
            mask |= EPOLLOUT
        else:
            tp.nospace = True
        if tp.urg_data & TCP_URG_VALID:
            mask |= EPOLLPRI
    if tp.sk_err:
        mask |= EPOLLERR | EPOLLIN | EPOLLOUT
    if tp.errors is not None and tp.errors.queue:
        mask |= EPOLLERR
    return mask


def secs_to_retrans(seconds: int) -> int:
    """How many SYN-ACKs go in a time."""
    count = 0
    period, wait = 0, 1
    while period < seconds and count < 255:
        count += 1
        period += wait
        wait = min(wait * 2, 120)
    return count


def retrans_to_secs(count: int) -> int:
    period, wait = 0, 1
    for _ in range(count):
        period += wait
        wait = min(wait * 2, 120)
    return period


def tcp_set_congestion_control(net: Netns, tp: TcpSock, name: str) -> int:
    """TCP_CONGESTION; 0 or -ENOENT."""
    if name not in CONGESTION_CONTROLS:
        return -ENOENT
    tcp_init_congestion_control(tp, name, net.now_ns)
    return 0


def tcp_md5_setsockopt(tp: TcpSock, addr: bytes, prefixlen: int, flags: int, key: bytes) -> int:
    """TCP_MD5SIG (RFC 2385): set a key, or forget it if it is empty; 0 or a negative errno.

    Parameters
    ----------
    tp : TcpSock
    addr : bytes, 16, IPv4 mapped
    prefixlen : int, of the 16 bytes
    flags : int, kept: a key is another one where they are others
    key : bytes, 80 at most
    """
    if not key:
        return tcp_md5_do_del(tp.md5sig_info or [], addr, prefixlen, flags)
    if tp.md5sig_info is None:
        tp.md5sig_info = []
    return tcp_md5_do_add(tp.md5sig_info, addr, prefixlen, flags, key)


def ip_setsockopt(tp: TcpSock, level: int, name: int, value: int) -> int:
    """SOL_IP and SOL_IPV6 (9293:MUST-48, MUST-49); 0 or a negative errno."""
    if level == SOL_IPV6 and tp.ip == 4:
        return -ENOPROTOOPT
    if (level, name) == (SOL_IPV6, IPV6_TCLASS) and not -1 <= value <= 255:
        return -EINVAL
    if (level, name) in ((SOL_IP, IP_TOS), (SOL_IPV6, IPV6_TCLASS)):
        value = 0 if level == SOL_IPV6 and value == -1 else value & 255
        # Of a stream's the last two bits are ECN's (RFC 3168 23.1).
        tp.tos = (value & ~3) | (tp.tos & 3)
    elif (level, name) in ((SOL_IP, IP_TTL), (SOL_IPV6, IPV6_UNICAST_HOPS)):
        if value != -1 and not 1 <= value <= 255:
            return -EINVAL
        tp.ttl = 64 if value == -1 else value
    elif (level, name) == (SOL_IP, IP_MTU_DISCOVER):
        if not 0 <= value <= 5:
            return -EINVAL
        tp.pmtudisc = value
    elif (level, name) in ((SOL_IP, IP_RECVERR), (SOL_IPV6, IPV6_RECVERR)):
        tp.recverr = bool(value)
        if not value:
            skb_errqueue_purge(tp, False)
    elif (level, name) == (SOL_IPV6, IPV6_V6ONLY):
        if tp.sport:
            return -EINVAL
        tp.ipv6only = bool(value)
    else:
        return -ENOPROTOOPT
    return 0


def tcp_setsockopt_level(net: Netns, tp: TcpSock, level: int, name: int, value: int) -> int:
    """One option that is a number; 0 or a negative errno."""
    if level == SOL_SOCKET:
        return sock_setsockopt(net, tp, name, value)
    if level == SOL_TCP:
        return tcp_setsockopt(net, tp, name, value)
    return ip_setsockopt(tp, level, name, value)


def tcp_getsockopt_level(net: Netns, tp: TcpSock, level: int, name: int) -> tuple[int, int]:
    """One option that is a number: (0 or a negative errno, its value)."""
    if level == SOL_SOCKET and name == SO_ERROR:  # told once
        err = tp.sk_err or tp.sk_err_soft
        tp.sk_err = tp.sk_err_soft = 0
        return 0, err
    values = OPTIONS.get((level, name))
    if level == SOL_IPV6 and tp.ip == 4:
        return -EOPNOTSUPP, 0
    if values is None:
        return -ENOPROTOOPT, 0
    return 0, int(values(net, tp))


OPTIONS: dict[tuple[int, int], Callable[[Netns, TcpSock], int]] = {
    (SOL_SOCKET, SO_REUSEADDR): lambda net, tp: tp.reuse,
    (SOL_SOCKET, SO_REUSEPORT): lambda net, tp: tp.reuseport,
    (SOL_SOCKET, SO_TYPE): lambda net, tp: 1,
    (SOL_SOCKET, SO_PROTOCOL): lambda net, tp: 6,
    (SOL_SOCKET, SO_DOMAIN): lambda net, tp: 2 if tp.ip == 4 else 10,
    (SOL_SOCKET, SO_SNDBUF): lambda net, tp: tp.sk_sndbuf,
    (SOL_SOCKET, SO_RCVBUF): lambda net, tp: tp.sk_rcvbuf,
    (SOL_SOCKET, SO_KEEPALIVE): lambda net, tp: tp.keepopen,
    (SOL_SOCKET, SO_OOBINLINE): lambda net, tp: tp.oobinline,
    (SOL_SOCKET, SO_RCVLOWAT): lambda net, tp: tp.sk_rcvlowat,
    (SOL_SOCKET, SO_ACCEPTCONN): lambda net, tp: tp.tcb.state == TCP_LISTEN,
    (SOL_TCP, TCP_NODELAY): lambda net, tp: tp.nonagle & TCP_NAGLE_OFF != 0,
    (SOL_TCP, TCP_CORK): lambda net, tp: tp.nonagle & TCP_NAGLE_CORK != 0,
    (SOL_TCP, TCP_MAXSEG): lambda net, tp: (
        tp.user_mss if tp.user_mss and tp.tcb.state in (TCP_CLOSE, TCP_LISTEN) else tp.mss_cache
    ),
    (SOL_TCP, TCP_KEEPIDLE): lambda net, tp: keepalive_time_when(net, tp) // NSEC_PER_SEC,
    (SOL_TCP, TCP_KEEPINTVL): lambda net, tp: keepalive_intvl_when(net, tp) // NSEC_PER_SEC,
    (SOL_TCP, TCP_KEEPCNT): lambda net, tp: tp.keepalive_probes or net.sysctl.tcp_keepalive_probes,
    (SOL_TCP, TCP_SYNCNT): lambda net, tp: tp.syn_retries or net.sysctl.tcp_syn_retries,
    (SOL_TCP, TCP_LINGER2): lambda net, tp: tp.linger2_s,
    (SOL_TCP, TCP_DEFER_ACCEPT): lambda net, tp: retrans_to_secs(tp.defer_accept),
    (SOL_TCP, TCP_WINDOW_CLAMP): lambda net, tp: tp.window_clamp,
    (SOL_TCP, TCP_QUICKACK): lambda net, tp: tp.ack_pingpong < TCP_PINGPONG_THRESH,
    (SOL_TCP, TCP_USER_TIMEOUT): lambda net, tp: tp.user_timeout_ms,
    (SOL_TCP, TCP_NOTSENT_LOWAT): lambda net, tp: (tp.notsent_lowat ^ 1 << 31) - (1 << 31),
    (SOL_TCP, TCP_RTO_MAX_MS): lambda net, tp: tp.rto_max_ms,
    (SOL_TCP, TCP_RTO_MIN_US): lambda net, tp: tp.rto_min_us,
    (SOL_TCP, TCP_DELACK_MAX_US): lambda net, tp: tp.delack_max_ticks * TICK_NS // 1000,
    (SOL_IP, IP_TOS): lambda net, tp: tp.tos,
    (SOL_IP, IP_TTL): lambda net, tp: tp.ttl,
    (SOL_IP, IP_MTU_DISCOVER): lambda net, tp: tp.pmtudisc,
    (SOL_IP, IP_RECVERR): lambda net, tp: tp.recverr,
    (SOL_IP, IP_MTU): lambda net, tp: tp.pmtu_cookie,
    (SOL_IPV6, IPV6_RECVERR): lambda net, tp: tp.recverr,
    (SOL_SOCKET, SO_TIMESTAMP): lambda net, tp: tp.errors is not None and tp.errors.rcvtstamp == 1,
    (SOL_SOCKET, SO_TIMESTAMPNS): lambda net, tp: (
        tp.errors is not None and tp.errors.rcvtstamp == 2
    ),
    (SOL_SOCKET, SO_TIMESTAMPING): lambda net, tp: tp.errors.tsflags if tp.errors else 0,
    (SOL_SOCKET, SO_ZEROCOPY): lambda net, tp: tp.errors is not None and tp.errors.zerocopy,
    (SOL_SOCKET, SO_PEEK_OFF): lambda net, tp: tp.errors.peek_off if tp.errors else -1,
    (SOL_IPV6, IPV6_V6ONLY): lambda net, tp: tp.ipv6only,
    (SOL_IPV6, IPV6_TCLASS): lambda net, tp: tp.tos,
    (SOL_IPV6, IPV6_UNICAST_HOPS): lambda net, tp: tp.ttl,
}


def tcp_ioctl(tp: TcpSock, request: int) -> tuple[int, int]:
    """What is queued: SIOCINQ, to be read; SIOCOUTQ, not acknowledged; SIOCOUTQNSD, not sent.

    SIOCATMARK: whether what is read next is the urgent octet. (0 or a negative errno, bytes)
    """
    tcb = tp.tcb
    if request == SIOCATMARK:
        return 0, int(bool(tp.urg_data) and tp.urg_seq == tp.copied_seq)
    if tcb.state == TCP_LISTEN:
        return -EINVAL, 0
    opening = tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV)
    if request == SIOCINQ:
        return 0, 0 if opening else tcp_inq(tp)
    if request == SIOCOUTQ:
        return 0, 0 if opening else (tp.write_seq - tcb.snd_una) & MASK32
    if request == SIOCOUTQNSD:
        return 0, 0 if opening else (tp.write_seq - tcb.snd_nxt) & MASK32
    return -ENOTTY, 0


def tcp_inq(tp: TcpSock) -> int:
    """Bytes that can be read, up to the urgent octet unless that is in line."""
    urgent = tp.urg_data and not tp.oobinline
    if urgent and not before(tp.urg_seq, tp.copied_seq) and before(tp.urg_seq, tp.tcb.rcv_nxt):
        return (tp.urg_seq - tp.copied_seq) & MASK32
    ready = (tp.tcb.rcv_nxt - tp.copied_seq) & MASK32
    return ready - 1 if ready and tp.done else ready
