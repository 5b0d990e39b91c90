# Options of a socket, by Linux's numbers; what it is ready for.
# Linux: do_tcp_setsockopt, do_tcp_getsockopt in net/ipv4/tcp.c; sk_setsockopt.

from libc.errno cimport EINVAL, ENOBUFS, ENOENT, ENOMEM, ENOPROTOOPT, ENOTTY, EOPNOTSUPP
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from errqueue cimport skb_errqueue_purge, sk_errors_alloc, sock_set_timestamping
from netns cimport netns, sk_reset_timer, sk_stop_timer, tcp_md5sig_info_add
from skbuff cimport skb_queue_bytes
from sock cimport *
from tcp cimport *
from tcp_ack cimport sk_stream_is_writeable
from tcp_cong cimport CA_CUBIC, CA_RENO, tcp_init_congestion_control
from tcp_input cimport keepalive_time_when
from tcp_md5 cimport tcp_md5_do_add, tcp_md5_do_del
from tcp_timer cimport keepalive_intvl_when
from tcp_output cimport tcp_data_snd_check, tcp_push_pending_frames
from tcp_user cimport tcp_cleanup_rbuf
from tcp_window cimport SOCK_MIN_RCVBUF, tcp_current_mss, tcp_set_window_clamp, tcp_win_from_space
from timer cimport NSEC_PER_MSEC, NSEC_PER_SEC, TICK_NS, jiffies_up

cdef enum:
    SOL_IP = 0
    SOL_SOCKET = 1
    SOL_TCP = 6
    SOL_IPV6 = 41

cdef enum:
    SO_REUSEADDR = 2
    SO_TYPE = 3
    SO_ERROR = 4
    SO_SNDBUF = 7
    SO_RCVBUF = 8
    SO_KEEPALIVE = 9
    SO_OOBINLINE = 10
    SO_LINGER = 13
    SO_REUSEPORT = 15
    SO_RCVLOWAT = 18
    SO_ACCEPTCONN = 30
    SO_SNDBUFFORCE = 32
    SO_RCVBUFFORCE = 33
    SO_PEEK_OFF = 42
    SO_PROTOCOL = 38
    SO_DOMAIN = 39
    SO_TIMESTAMP = 29
    SO_TIMESTAMPNS = 35
    SO_TIMESTAMPING = 37
    SO_ZEROCOPY = 60

cdef enum:
    TCP_NODELAY = 1
    TCP_MAXSEG = 2
    TCP_CORK = 3
    TCP_KEEPIDLE = 4
    TCP_KEEPINTVL = 5
    TCP_KEEPCNT = 6
    TCP_SYNCNT = 7
    TCP_LINGER2 = 8
    TCP_DEFER_ACCEPT = 9
    TCP_WINDOW_CLAMP = 10
    TCP_INFO = 11
    TCP_QUICKACK = 12
    TCP_CONGESTION = 13
    TCP_USER_TIMEOUT = 18
    TCP_NOTSENT_LOWAT = 25
    TCP_RTO_MAX_MS = 44
    TCP_RTO_MIN_US = 45
    TCP_DELACK_MAX_US = 46

cdef enum:
    SIOCINQ = 0x541B
    SIOCOUTQ = 0x5411
    SIOCATMARK = 0x8905
    SIOCOUTQNSD = 0x894B

cdef enum:
    IP_TOS = 1
    IP_TTL = 2
    IP_MTU_DISCOVER = 10
    IP_RECVERR = 11
    IP_MTU = 14
    IPV6_UNICAST_HOPS = 16
    IPV6_RECVERR = 25
    IPV6_V6ONLY = 26
    IPV6_TCLASS = 67

cdef enum:
    SOCK_MIN_SNDBUF = 4608
    MAX_SOCK_BUF = 0x7FFFFFFF >> 1

# poll(2)'s bits.
cdef enum:
    EPOLLIN = 0x001
    EPOLLPRI = 0x002
    EPOLLOUT = 0x004
    EPOLLERR = 0x008
    EPOLLHUP = 0x010
    EPOLLRDHUP = 0x2000


cdef inline int sock_setsockopt(netns *net, tcp_sock *tp, int name, int64_t value) noexcept nogil:
    """SOL_SOCKET; 0 or a negative errno."""
    cdef int64_t most
    if name == SO_REUSEADDR:
        tp.reuse = value != 0
    elif name == SO_REUSEPORT:
        tp.reuseport = value != 0
    elif name == SO_SNDBUF or name == SO_SNDBUFFORCE:
        tp.userlocks |= SOCK_SNDBUF_LOCK
        most = net.sysctl.wmem_max if name == SO_SNDBUF else <int64_t>MAX_SOCK_BUF
        value = sock_buffer_size(value, most, name == SO_SNDBUF)
        tp.sk_sndbuf = <int32_t>max(value, <int64_t>SOCK_MIN_SNDBUF)
    elif name == SO_RCVBUF or name == SO_RCVBUFFORCE:
        tp.userlocks |= SOCK_RCVBUF_LOCK
        most = net.sysctl.rmem_max if name == SO_RCVBUF else <int64_t>MAX_SOCK_BUF
        value = sock_buffer_size(value, most, name == SO_RCVBUF)
        tp.sk_rcvbuf = <int32_t>max(value, <int64_t>SOCK_MIN_RCVBUF)
        tcp_set_window_clamp(tp, tcp_win_from_space(tp, tp.sk_rcvbuf))
    elif name == SO_KEEPALIVE:
        tp.keepopen = value != 0
        if tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
            return 0
        if value:
            sk_reset_timer(
                net, &tp.sk.sk_timer, net.net.now_ns + keepalive_time_when(net, tp)
            )
        else:
            sk_stop_timer(&tp.sk.sk_timer)
    elif name == SO_OOBINLINE:
        tp.oobinline = value != 0
    elif name == SO_RCVLOWAT:
        most = tp.sk_rcvbuf
        if not tp.userlocks & SOCK_RCVBUF_LOCK:
            most = net.sysctl.tcp_rmem[2]
        value = min(value if value >= 0 else <int64_t>MAX_SOCK_BUF, most >> 1)
        tp.sk_rcvlowat = value if value else 1
    elif name == SO_PEEK_OFF:
        if sk_errors_alloc(tp) == NULL:
            return -ENOBUFS
        tp.errors.peek_off = <int32_t>value
    elif name == SO_TIMESTAMPING:
        return sock_set_timestamping(tp, value)
    elif name == SO_ZEROCOPY and not 0 <= value <= 1:
        return -EINVAL
    elif name == SO_TIMESTAMP or name == SO_TIMESTAMPNS or name == SO_ZEROCOPY:
        if sk_errors_alloc(tp) == NULL:
            return -ENOBUFS
        if name == SO_ZEROCOPY:
            tp.errors.zerocopy = value != 0
        else:
            tp.errors.rcvtstamp = 0
            if value:
                tp.errors.rcvtstamp = 1 if name == SO_TIMESTAMP else 2
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int64_t sock_buffer_size(int64_t value, int64_t most, bint bounded) noexcept nogil:
    """Twice what was asked for, as not all of it is data; a bound counts without a sign."""
    value = <int64_t><uint32_t>value if bounded else max(value, <int64_t>0)
    return 2 * min(value, most, <int64_t>MAX_SOCK_BUF)


cdef inline int sock_set_linger(tcp_sock *tp, bint on, int64_t seconds) noexcept nogil:
    """SO_LINGER; 0."""
    tp.linger = on
    tp.linger_s = <int32_t>min(max(seconds, <int64_t>0), <int64_t>0x7FFFFFFF)
    return 0


cdef inline int tcp_setsockopt(netns *net, tcp_sock *tp, int name, int64_t value) noexcept nogil:
    """SOL_TCP; 0 or a negative errno."""
    cdef int64_t since_ns
    if name == TCP_NODELAY:
        tcp_set_nodelay(net, tp, value != 0)
    elif name == TCP_CORK:
        tcp_set_cork(net, tp, value != 0)
    elif name == TCP_MAXSEG:
        if value and not 88 <= value <= 32767:
            return -EINVAL
        tp.user_mss = <int32_t>value
    elif name == TCP_KEEPIDLE:
        if not 1 <= value <= MAX_TCP_KEEPIDLE:
            return -EINVAL
        tp.keepalive_time_s = <uint16_t>value
        if tp.keepopen and tp.tcb.state != TCP_CLOSE and tp.tcb.state != TCP_LISTEN:
            since_ns = max(tp.ack_lrcvtime_ns, tp.rcv_tstamp_ns)
            sk_reset_timer(
                net, &tp.sk.sk_timer, max(since_ns + value * NSEC_PER_SEC, net.net.now_ns)
            )
    elif name == TCP_KEEPINTVL:
        if not 1 <= value <= MAX_TCP_KEEPINTVL:
            return -EINVAL
        tp.keepalive_intvl_s = <uint16_t>value
    elif name == TCP_KEEPCNT:
        if not 1 <= value <= MAX_TCP_KEEPCNT:
            return -EINVAL
        tp.keepalive_probes = <uint8_t>value
    elif name == TCP_SYNCNT:
        if not 1 <= value <= MAX_TCP_SYNCNT:
            return -EINVAL
        tp.syn_retries = <uint8_t>value
    elif name == TCP_LINGER2:
        tp.linger2_s = -1 if value < 0 else <int32_t>min(value, <int64_t>120)
        if not value:
            tp.linger2_s = <int32_t>net.sysctl.tcp_fin_timeout
    elif name == TCP_DEFER_ACCEPT:
        tp.defer_accept = <uint8_t>secs_to_retrans(value)
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
            if (
                tp.tcb.state == TCP_ESTABLISHED or tp.tcb.state == TCP_CLOSE_WAIT
            ) and tp.ack_pending & ICSK_ACK_SCHED:
                tp.ack_pending |= ICSK_ACK_PUSHED
                tcp_cleanup_rbuf(net, tp, 1)
                if not value & 1:
                    tp.ack_pingpong = TCP_PINGPONG_THRESH
    elif name == TCP_USER_TIMEOUT:
        if value < 0:
            return -EINVAL
        tp.user_timeout_ms = <uint32_t>value
    elif name == TCP_NOTSENT_LOWAT:
        tp.notsent_lowat = value
    elif name == TCP_RTO_MAX_MS:
        if not 1000 <= value <= TCP_RTO_MAX_NS // NSEC_PER_MSEC:
            return -EINVAL
        tp.rto_max_ms = <uint32_t>(jiffies_up(0, value * NSEC_PER_MSEC) // NSEC_PER_MSEC)
    elif name == TCP_RTO_MIN_US:
        value = jiffies_up(0, value * 1000)
        if not TCP_TIMEOUT_MIN_NS <= value <= TCP_RTO_MIN_NS:
            return -EINVAL
        tp.rto_min_us = <uint32_t>(value // 1000)
    elif name == TCP_DELACK_MAX_US:
        value = jiffies_up(0, value * 1000)
        if not TCP_TIMEOUT_MIN_NS <= value <= TCP_DELACK_MAX_NS:
            return -EINVAL
        tp.delack_max_ticks = <uint8_t>(value // TICK_NS)
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int tcp_poll(const netns *net, tcp_sock *tp) noexcept nogil:
    """What a socket is ready for, as poll(2) has it."""
    cdef int state = tp.tcb.state, mask = 0
    cdef int64_t readable
    if state == TCP_LISTEN:
        return EPOLLIN if tp.accept_tail != NULL else 0
    if tp.shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= EPOLLHUP
    if tp.shutdown & RCV_SHUTDOWN:
        mask |= EPOLLIN | EPOLLRDHUP
    if state != TCP_SYN_SENT and state != TCP_SYN_RECV:
        readable = <uint32_t>(tp.tcb.rcv_nxt - tp.copied_seq)
        if state == TCP_CLOSE_WAIT or state == TCP_LAST_ACK or tp.shutdown & RCV_SHUTDOWN:
            readable = <int64_t>skb_queue_bytes(&tp.sk_receive_queue)
        if tp.sk_receive_queue.first != NULL and readable >= min(
            tp.sk_rcvlowat, tp.sk_rcvbuf >> 1
        ):
            mask |= EPOLLIN
        if tp.shutdown & SEND_SHUTDOWN or sk_stream_is_writeable(net, tp):
            mask |= EPOLLOUT
        else:
            tp.nospace = True
        if tp.urg_data & TCP_URG_VALID:
            mask |= EPOLLPRI
    if tp.sk_err:
        mask |= EPOLLERR | EPOLLIN | EPOLLOUT
    if tp.errors != NULL and tp.errors.first != NULL:
        mask |= EPOLLERR
    return mask


cdef inline void tcp_set_nodelay(netns *net, tcp_sock *tp, bint on) noexcept nogil:
    if on:
        tp.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        if tp.tcb.state == TCP_ESTABLISHED or tp.tcb.state == TCP_CLOSE_WAIT:
            tcp_data_snd_check(net, tp)
    else:
        tp.nonagle &= <uint8_t>~TCP_NAGLE_OFF


cdef inline void tcp_set_cork(netns *net, tcp_sock *tp, bint on) noexcept nogil:
    if on:
        tp.nonagle |= TCP_NAGLE_CORK
        return
    tp.nonagle &= <uint8_t>~TCP_NAGLE_CORK
    if tp.nonagle & TCP_NAGLE_OFF:
        tp.nonagle |= TCP_NAGLE_PUSH
    if tp.tcb.state == TCP_ESTABLISHED or tp.tcb.state == TCP_CLOSE_WAIT:
        if tp.sk_write_queue.first != NULL:
            tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), tp.nonagle)


cdef inline int64_t tcp_inq_hint(const tcp_sock *tp) noexcept nogil:
    """Bytes that reads would give (TCP_CM_INQ); the peer's FIN counts as one of them."""
    cdef uint32_t left = tp.tcb.rcv_nxt - tp.copied_seq
    return left if left else tp.done


cdef inline int secs_to_retrans(int64_t seconds) noexcept nogil:
    """How many SYN-ACKs go in a time."""
    cdef int count = 0
    cdef int64_t period = 0, wait = 1
    while period < seconds and count < 255:
        count += 1
        period += wait
        wait = min(wait * 2, <int64_t>120)
    return count


cdef inline int64_t retrans_to_secs(int count) noexcept nogil:
    cdef int64_t period = 0, wait = 1
    while count > 0:
        period += wait
        wait = min(wait * 2, <int64_t>120)
        count -= 1
    return period


cdef inline int tcp_set_congestion_control(netns *net, tcp_sock *tp, int which) noexcept nogil:
    """TCP_CONGESTION; 0 or -ENOENT."""
    if which != CA_RENO and which != CA_CUBIC:
        return -ENOENT
    tcp_init_congestion_control(tp, which, net.net.now_ns)
    return 0


cdef inline int tcp_md5_setsockopt(
    netns *net,
    tcp_sock *tp,
    const uint8_t *addr,
    int prefixlen,
    int flags,
    const uint8_t *key,
    int keylen,
) noexcept nogil:
    """TCP_MD5SIG (RFC 2385): set a key, or forget it if it is empty; 0 or a negative errno.

    The address has 16 bytes, IPv4 mapped, of which `prefixlen` bits count; a key of other flags is
    another one.
    """
    cdef tcp_md5sig_info *info
    if not keylen:
        if not tp.sk.md5sig_info:
            return -ENOENT
        return tcp_md5_do_del(&net.md5sigs[tp.sk.md5sig_info], addr, prefixlen, flags)
    info = tcp_md5sig_info_add(net, &tp.sk)
    if info == NULL:
        return -ENOMEM
    return tcp_md5_do_add(info, addr, prefixlen, flags, key, keylen)


cdef inline int ip_setsockopt(tcp_sock *tp, int level, int name, int64_t value) noexcept nogil:
    """SOL_IP and SOL_IPV6 (9293:MUST-48, MUST-49); 0 or a negative errno."""
    if level == SOL_IPV6 and tp.sk.ip == 4:
        return -ENOPROTOOPT
    if level == SOL_IPV6 and name == IPV6_TCLASS and not -1 <= value <= 255:
        return -EINVAL
    if (level == SOL_IP and name == IP_TOS) or (level == SOL_IPV6 and name == IPV6_TCLASS):
        value = 0 if level == SOL_IPV6 and value == -1 else value & 255
        # Of a stream's the last two bits are ECN's (RFC 3168 23.1).
        tp.sk.tos = <uint8_t>((value & ~<int64_t>3) | (tp.sk.tos & 3))
    elif (level == SOL_IP and name == IP_TTL) or (
        level == SOL_IPV6 and name == IPV6_UNICAST_HOPS
    ):
        if value != -1 and not 1 <= value <= 255:
            return -EINVAL
        tp.ttl = <uint8_t>(64 if value == -1 else value)
    elif level == SOL_IP and name == IP_MTU_DISCOVER:
        if not 0 <= value <= 5:
            return -EINVAL
        tp.pmtudisc = <uint8_t>value
    elif (level == SOL_IP and name == IP_RECVERR) or (
        level == SOL_IPV6 and name == IPV6_RECVERR
    ):
        tp.recverr = value != 0
        if not value:
            skb_errqueue_purge(tp, False)
    elif level == SOL_IPV6 and name == IPV6_V6ONLY:
        if tp.sk.sport:
            return -EINVAL
        tp.ipv6only = value != 0
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int tcp_setsockopt_level(
    netns *net, tcp_sock *tp, int level, int name, int64_t value
) noexcept nogil:
    """One option that is a number; 0 or a negative errno."""
    if level == SOL_SOCKET:
        return sock_setsockopt(net, tp, name, value)
    if level == SOL_TCP:
        return tcp_setsockopt(net, tp, name, value)
    return ip_setsockopt(tp, level, name, value)


cdef inline int tcp_getsockopt_level(
    netns *net, tcp_sock *tp, int level, int name, int64_t *value
) noexcept nogil:
    """One option that is a number; 0 or a negative errno."""
    value[0] = 0
    if level == SOL_SOCKET:
        return sock_getsockopt(tp, name, value)
    if level == SOL_TCP:
        return tcp_getsockopt(net, tp, name, value)
    if level == SOL_IPV6 and tp.sk.ip == 4:
        return -EOPNOTSUPP
    if (level == SOL_IP and name == IP_TOS) or (level == SOL_IPV6 and name == IPV6_TCLASS):
        value[0] = tp.sk.tos
    elif (level == SOL_IP and name == IP_TTL) or (
        level == SOL_IPV6 and name == IPV6_UNICAST_HOPS
    ):
        value[0] = tp.ttl
    elif level == SOL_IP and name == IP_MTU_DISCOVER:
        value[0] = tp.pmtudisc
    elif (level == SOL_IP and name == IP_RECVERR) or (
        level == SOL_IPV6 and name == IPV6_RECVERR
    ):
        value[0] = tp.recverr
    elif level == SOL_IPV6 and name == IPV6_V6ONLY:
        value[0] = tp.ipv6only
    elif level == SOL_IP and name == IP_MTU:
        value[0] = tp.pmtu_cookie
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int sock_getsockopt(tcp_sock *tp, int name, int64_t *value) noexcept nogil:
    if name == SO_ERROR:  # told once
        value[0] = tp.sk_err if tp.sk_err else tp.sk_err_soft
        tp.sk_err = tp.sk_err_soft = 0
    elif name == SO_REUSEADDR:
        value[0] = tp.reuse
    elif name == SO_REUSEPORT:
        value[0] = tp.reuseport
    elif name == SO_TYPE:
        value[0] = 1
    elif name == SO_PROTOCOL:
        value[0] = 6
    elif name == SO_DOMAIN:
        value[0] = 2 if tp.sk.ip == 4 else 10
    elif name == SO_SNDBUF:
        value[0] = tp.sk_sndbuf
    elif name == SO_RCVBUF:
        value[0] = tp.sk_rcvbuf
    elif name == SO_KEEPALIVE:
        value[0] = tp.keepopen
    elif name == SO_OOBINLINE:
        value[0] = tp.oobinline
    elif name == SO_RCVLOWAT:
        value[0] = tp.sk_rcvlowat
    elif name == SO_ACCEPTCONN:
        value[0] = tp.tcb.state == TCP_LISTEN
    elif name == SO_TIMESTAMP:
        value[0] = tp.errors != NULL and tp.errors.rcvtstamp == 1
    elif name == SO_TIMESTAMPNS:
        value[0] = tp.errors != NULL and tp.errors.rcvtstamp == 2
    elif name == SO_TIMESTAMPING:
        value[0] = tp.errors.tsflags if tp.errors != NULL else 0
    elif name == SO_ZEROCOPY:
        value[0] = tp.errors != NULL and tp.errors.zerocopy
    elif name == SO_PEEK_OFF:
        value[0] = tp.errors.peek_off if tp.errors != NULL else -1
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int tcp_getsockopt(netns *net, tcp_sock *tp, int name, int64_t *value) noexcept nogil:
    if name == TCP_NODELAY:
        value[0] = tp.nonagle & TCP_NAGLE_OFF != 0
    elif name == TCP_CORK:
        value[0] = tp.nonagle & TCP_NAGLE_CORK != 0
    elif name == TCP_MAXSEG:
        value[0] = tp.mss_cache
        if tp.user_mss and (tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN):
            value[0] = tp.user_mss
    elif name == TCP_KEEPIDLE:
        value[0] = keepalive_time_when(net, tp) // NSEC_PER_SEC
    elif name == TCP_KEEPINTVL:
        value[0] = keepalive_intvl_when(net, tp) // NSEC_PER_SEC
    elif name == TCP_KEEPCNT:
        value[0] = tp.keepalive_probes if tp.keepalive_probes else net.sysctl.tcp_keepalive_probes
    elif name == TCP_SYNCNT:
        value[0] = tp.syn_retries if tp.syn_retries else net.sysctl.tcp_syn_retries
    elif name == TCP_LINGER2:
        value[0] = tp.linger2_s
    elif name == TCP_DEFER_ACCEPT:
        value[0] = retrans_to_secs(tp.defer_accept)
    elif name == TCP_WINDOW_CLAMP:
        value[0] = tp.window_clamp
    elif name == TCP_QUICKACK:
        value[0] = tp.ack_pingpong < TCP_PINGPONG_THRESH
    elif name == TCP_USER_TIMEOUT:
        value[0] = tp.user_timeout_ms
    elif name == TCP_NOTSENT_LOWAT:
        value[0] = <int32_t>tp.notsent_lowat
    elif name == TCP_RTO_MAX_MS:
        value[0] = tp.rto_max_ms
    elif name == TCP_RTO_MIN_US:
        value[0] = tp.rto_min_us
    elif name == TCP_DELACK_MAX_US:
        value[0] = tp.delack_max_ticks * (<int64_t>TICK_NS // 1000)
    else:
        return -ENOPROTOOPT
    return 0


cdef inline int tcp_ioctl(const tcp_sock *tp, int request, int64_t *value) noexcept nogil:
    """What is queued: SIOCINQ, to be read; SIOCOUTQ, not acknowledged; SIOCOUTQNSD, not sent.

    SIOCATMARK: whether what is read next is the urgent octet. 0 or a negative errno; bytes
    """
    cdef bint opening = tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV
    value[0] = 0
    if request == SIOCATMARK:
        value[0] = tp.urg_data != 0 and tp.urg_seq == tp.copied_seq
        return 0
    if tp.tcb.state == TCP_LISTEN:
        return -EINVAL
    if request == SIOCINQ:
        value[0] = 0 if opening else tcp_inq(tp)
    elif request == SIOCOUTQ:
        value[0] = 0 if opening else <uint32_t>(tp.write_seq - tp.tcb.snd_una)
    elif request == SIOCOUTQNSD:
        value[0] = 0 if opening else <uint32_t>(tp.write_seq - tp.tcb.snd_nxt)
    else:
        return -ENOTTY
    return 0


cdef inline int64_t tcp_inq(const tcp_sock *tp) noexcept nogil:
    """Bytes that can be read, up to the urgent octet unless that is in line."""
    cdef int64_t ready = <uint32_t>(tp.tcb.rcv_nxt - tp.copied_seq)
    if (
        tp.urg_data
        and not tp.oobinline
        and not before(tp.urg_seq, tp.copied_seq)
        and before(tp.urg_seq, tp.tcb.rcv_nxt)
    ):
        return <uint32_t>(tp.urg_seq - tp.copied_seq)
    return ready - 1 if ready and tp.done else ready
