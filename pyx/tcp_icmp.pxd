# What a router or a host says of a segment of ours: soft errors, hard ones, a smaller path MTU.
# Linux: tcp_v4_err, tcp_v4_mtu_reduced, tcp_v6_err, icmp_rcv.  RFC 9293 3.9.2.2; RFC 5927;
# RFC 1191; RFC 8201; RFC 6069.

from libc.errno cimport EHOSTUNREACH, EMSGSIZE, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy
from csum cimport csum_fold, csum_fold64, csum_partial, csum_pseudo
from errqueue cimport ip_icmp_error
from inet_connection_sock cimport tcp_done_with_error, tcp_error, tcp_reset_xmit_timer
from inet_ports cimport request_or_sock
from ip_output cimport (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    dst_mtu,
    inet_addr_is_local,
    ip_rt_update_pmtu,
)
from netns cimport NET_INC_STATS, netns
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_minisocks cimport reqsk_drop
from tcp_recovery cimport tcp_simple_retransmit
from tcp_rtt cimport tcp_set_rto, tcp_rto_max_ns
from tcp_timer cimport tcp_retransmit_timer
from tcp_window cimport tcp_sync_mss
from unaligned cimport get_be16, get_be32, ipv6_addr_set_v4mapped
from wire cimport IPPROTO_TCP

cdef enum:
    IPPROTO_ICMP = 1
    IPPROTO_ICMPV6 = 58
    ICMP_HDR_LEN = 8
    ICMP_DEST_UNREACH = 3
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETERPROB = 12
    ICMP_FRAG_NEEDED = 4
    ICMPV6_DEST_UNREACH = 1
    ICMPV6_PKT_TOOBIG = 2
    ICMPV6_TIME_EXCEED = 3
    ICMPV6_PARAMPROB = 4
    PORTS_LEN = 8  # all of a segment that an error has to tell: ports and number

cdef extern from *:
    """
    #include <errno.h>
    /* What a destination's unreachability is called, by its code. */
    static const int ICMP_ERR_CONVERT[16] = {
        ENETUNREACH, EHOSTUNREACH, ENOPROTOOPT, ECONNREFUSED, EMSGSIZE, EOPNOTSUPP, ENETUNREACH,
        EHOSTDOWN, ENONET, ENETUNREACH, EHOSTUNREACH, ENETUNREACH, EHOSTUNREACH, EHOSTUNREACH,
        EHOSTUNREACH, EHOSTUNREACH,
    };
    static const int ICMPV6_ERR_CONVERT[7] = {
        ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES,
    };
    """
    const int *ICMP_ERR_CONVERT
    const int *ICMPV6_ERR_CONVERT

# Whose segment an error is about, and what is to be done for it.
cdef struct icmp_about:
    uint8_t saddr[16]
    uint8_t daddr[16]
    int err  # errno
    int64_t mtu  # what would have fitted; -1 where that was not the matter
    bint fatal  # a request is given up for it
    # For the error queue.
    uint8_t who[16]
    uint8_t kind
    uint8_t code
    uint32_t info
    uint32_t front  # bytes of the segment that are told
    bint revert  # it takes a doubling of the time-out back (RFC 6069)


cdef inline bint is_icmp(const uint8_t *packet, uint32_t length) noexcept nogil:
    """True for an ICMP message in an IP packet that is whole and without extensions."""
    if length >= IPV4_HDR_LEN and packet[0] >> 4 == 4:
        return packet[9] == IPPROTO_ICMP and not (packet[6] & 0x3F or packet[7])
    return length >= IPV6_HDR_LEN and packet[0] >> 4 == 6 and packet[6] == IPPROTO_ICMPV6


cdef inline int icmp_rcv(netns *net, const uint8_t *packet, uint32_t length) noexcept nogil:
    """Take an ICMP message: Drop, or 0."""
    cdef bint four = packet[0] >> 4 == 4
    cdef uint32_t at = 4 * <uint32_t>(packet[0] & 15) if four else IPV6_HDR_LEN
    cdef int64_t told = get_be16(packet + 2) - <int64_t>at if four else get_be16(packet + 4)
    cdef const uint8_t *message = packet + at
    cdef uint8_t daddr[16]
    cdef uint32_t pseudo = 0, left
    NET_INC_STATS(net, IP_INRECEIVES if four else IP6_INRECEIVES)
    if at < IPV4_HDR_LEN or not ICMP_HDR_LEN <= told <= <int64_t>length - at:
        return PKT_TOO_SMALL
    if four and csum_fold(csum_partial(packet, at, 0)) != 0xFFFF:
        return IP_CSUM
    if not four:
        pseudo = csum_fold64(csum_pseudo(packet + 8, 32, <uint32_t>told, IPPROTO_ICMPV6))
    if csum_fold(csum_partial(message, <size_t>told, pseudo)) != 0xFFFF:
        return IP_CSUM
    if four:
        ipv6_addr_set_v4mapped(daddr, packet + 16)
    else:
        memcpy(daddr, packet + 24, 16)
    if not inet_addr_is_local(net, daddr):
        return TCP_CLOSED
    left = <uint32_t>told - ICMP_HDR_LEN
    if four:
        icmp_err(net, message, left, packet + 12)
    else:
        icmpv6_err(net, message, left, packet + 8)
    return 0


cdef inline void icmp_err(
    netns *net, const uint8_t *message, uint32_t length, const uint8_t *who
) noexcept nogil:
    """An ICMPv4 error about the packet of which `length` bytes follow the message's header."""
    cdef const uint8_t *inner = message + ICMP_HDR_LEN
    cdef uint8_t kind = message[0], code = message[1]
    cdef uint32_t header
    cdef icmp_about about
    if length < IPV4_HDR_LEN or inner[9] != IPPROTO_TCP:
        return
    header = 4 * <uint32_t>(inner[0] & 15)
    if inner[0] >> 4 != 4 or header < IPV4_HDR_LEN or length < header + PORTS_LEN:
        return
    about.fatal = kind == ICMP_PARAMETERPROB or kind == ICMP_TIME_EXCEEDED
    about.revert = False
    about.mtu = -1
    if kind == ICMP_DEST_UNREACH and code < 16:
        about.err = ICMP_ERR_CONVERT[code]
        about.fatal = about.revert = code < 2
        if code == ICMP_FRAG_NEEDED:
            about.mtu = get_be16(message + 6)
    elif kind == ICMP_PARAMETERPROB:
        about.err = EPROTO
    elif kind == ICMP_TIME_EXCEEDED and not code:  # else of a reassembly
        about.err = EHOSTUNREACH
    else:
        return  # 9293:MUST-55: source quench, and whatever is no error
    ipv6_addr_set_v4mapped(about.saddr, inner + 12)
    ipv6_addr_set_v4mapped(about.daddr, inner + 16)
    about.kind = kind
    about.code = code
    about.info = get_be32(message + 4) if kind == ICMP_PARAMETERPROB else 0
    ipv6_addr_set_v4mapped(about.who, who)
    about.front = length - header
    tcp_v4_err(net, &about, inner + header)


cdef inline void icmpv6_err(
    netns *net, const uint8_t *message, uint32_t length, const uint8_t *who
) noexcept nogil:
    """An ICMPv6 error about the packet of which `length` bytes follow the message's header."""
    cdef const uint8_t *inner = message + ICMP_HDR_LEN
    cdef uint8_t kind = message[0], code = message[1]
    cdef icmp_about about
    if length < IPV6_HDR_LEN + PORTS_LEN or inner[0] >> 4 != 6 or inner[6] != IPPROTO_TCP:
        return
    about.fatal = kind == ICMPV6_PARAMPROB
    about.revert = kind == ICMPV6_DEST_UNREACH and code == 0
    about.mtu = -1
    if kind == ICMPV6_DEST_UNREACH and code < 7:
        about.err = ICMPV6_ERR_CONVERT[code]
        about.fatal = code == 1 or code >= 4
    elif kind == ICMPV6_PKT_TOOBIG:
        about.err = EMSGSIZE
        about.mtu = get_be32(message + 4)
    elif kind == ICMPV6_TIME_EXCEED:
        about.err = EHOSTUNREACH
    elif kind == ICMPV6_PARAMPROB:
        about.err = EPROTO
    else:
        return
    memcpy(about.saddr, inner + 8, 16)
    memcpy(about.daddr, inner + 24, 16)
    about.kind = kind
    about.code = code
    about.info = get_be32(message + 4)
    memcpy(about.who, who, 16)
    about.front = length - IPV6_HDR_LEN
    tcp_v4_err(net, &about, inner + IPV6_HDR_LEN)


cdef inline int tcp_v4_err(
    netns *net, const icmp_about *about, const uint8_t *th
) noexcept nogil:
    """Tell a connection of an error (9293:MUST-54, MUST-56, SHLD-25, SHLD-26): Drop, or 0.

    Only a number in flight is believed (RFC 5927 4.1). An open connection is never aborted, an
    attempt at one always.
    """
    cdef uint32_t seq = get_be32(th + 4)
    cdef sock_common *sk = request_or_sock(
        net, about.saddr, get_be16(th), about.daddr, get_be16(th + 2)
    )
    cdef tcp_sock *tp
    if sk == NULL or sk.kind == SK_TIMEWAIT:
        return TCP_CLOSED
    if sk.kind == SK_REQUEST:
        if seq != (<request_sock *>sk).snt_isn:
            NET_INC_STATS(net, OUTOFWINDOWICMPS)
        elif about.fatal:
            NET_INC_STATS(net, TCP_LISTENDROPS)
            reqsk_drop(net, <request_sock *>sk)
        return 0
    tp = <tcp_sock *>sk
    if not between(seq, tp.tcb.snd_una, tp.tcb.snd_nxt):
        NET_INC_STATS(net, OUTOFWINDOWICMPS)
        return TCP_CLOSED
    if about.mtu >= 0:
        tcp_v4_mtu_reduced(net, tp, about.mtu)
        return 0
    if about.revert:
        tcp_ld_rto_revert(net, tp, seq)
    if tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV:
        # Deviation: Linux ends an attempt for every error; 9293:MUST-56 would try on.
        if tp.sk.ip == 4 or tp.recverr:
            ip_icmp_error(
                net, tp, about.err, about.kind, about.code, about.info, about.who, th, about.front
            )
        tcp_done_with_error(net, tp, about.err)
    elif tp.recverr:
        tcp_error(net, tp, about.err)
    else:
        tp.sk_err_soft = about.err
    return 0


cdef inline void tcp_v4_mtu_reduced(netns *net, tcp_sock *tp, int64_t mtu) noexcept nogil:
    """Less fits through the path: cut what is in flight anew and send it (RFC 1191 6.5)."""
    cdef int64_t now
    if tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
        return
    ip_rt_update_pmtu(net, tp.sk.daddr, mtu)
    now = dst_mtu(net, tp.sk.daddr)
    if mtu < now and tp.pmtudisc:
        tp.sk_err_soft = EMSGSIZE
    if tp.pmtudisc and tp.pmtu_cookie > now:
        tcp_sync_mss(net, tp, now)
        tcp_simple_retransmit(net, tp)


cdef inline void tcp_ld_rto_revert(netns *net, tcp_sock *tp, uint32_t seq) noexcept nogil:
    """The path is broken, not congested: take one doubling of the time-out back (RFC 6069)."""
    cdef const skb *head = tp.tcp_rtx_queue.first
    cdef int64_t left_ns
    if seq != tp.tcb.snd_una or not tp.retransmits or not tp.backoff or head == NULL:
        return
    tp.backoff -= 1
    if tp.srtt_us:
        tcp_set_rto(tp)
    else:
        tp.rto_ns = TCP_TIMEOUT_INIT_NS
    tp.rto_ns = min(tp.rto_ns << min(<int>tp.backoff, 20), tcp_rto_max_ns(tp))
    left_ns = tp.rto_ns - (net.net.now_ns - head.skb_mstamp_ns)
    if left_ns > 0:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, left_ns)
    else:
        tcp_retransmit_timer(net, tp)
