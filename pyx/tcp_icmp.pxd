# What an ICMP message does to a connection: less fits, nobody is there.
# Linux: tcp_v4_err, tcp_v6_err, icmp_rcv.  RFC 5927 4, 1191 6.3, 8201 4, 1122 4.2.3.9.
# Only a message about what is in flight counts, and most errors are soft.

from libc.errno cimport (
    EACCES,
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from csum cimport csum_fold, csum_fold64, csum_partial, csum_pseudo
from inet_connection_sock cimport tcp_done_with_error, tcp_error
from inet_ports cimport request_or_sock
from ip_output cimport (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    dst_mtu,
    inet_addr_is_local,
    ip_rt_update_pmtu,
)
from netns cimport netns
from sock cimport *
from tcp cimport *
from tcp_cong cimport tcp_current_ssthresh, tcp_set_ca_state
from tcp_minisocks cimport reqsk_drop
from tcp_retransmit cimport tcp_xmit_retransmit_queue
from tcp_recovery cimport tcp_mark_skb_lost
from tcp_window cimport tcp_current_mss, tcp_sync_mss
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

cdef extern from *:
    """
    #include <errno.h>
    /* errno by code of "destination unreachable", IPv4's and IPv6's. */
    static const int UNREACH4[16] = {
        ENETUNREACH, EHOSTUNREACH, ENOPROTOOPT, ECONNREFUSED, EMSGSIZE, EOPNOTSUPP, ENETUNREACH,
        EHOSTUNREACH, ENETUNREACH, ENETUNREACH, EHOSTUNREACH, ENETUNREACH, EHOSTUNREACH,
        EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH,
    };
    static const int UNREACH6[7] = {
        ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES,
    };
    """
    const int *UNREACH4
    const int *UNREACH6


cdef inline bint is_icmp(const uint8_t *packet, uint32_t length) noexcept nogil:
    """True for an ICMP message in an IP packet without options, fragments and extensions."""
    if length >= IPV4_HDR_LEN and packet[0] == 0x45:
        return packet[9] == IPPROTO_ICMP and not (packet[6] & 0x3F or packet[7])
    return length >= IPV6_HDR_LEN and packet[0] >> 4 == 6 and packet[6] == IPPROTO_ICMPV6


cdef inline int icmp_rcv(netns *net, const uint8_t *packet, uint32_t length) noexcept nogil:
    """Take an ICMP message that is about one of this host's segments: Drop, or 0."""
    cdef bint four = packet[0] >> 4 == 4
    cdef uint32_t at = IPV4_HDR_LEN if four else IPV6_HDR_LEN
    cdef int64_t told = get_be16(packet + 2) - <int64_t>at if four else get_be16(packet + 4)
    cdef const uint8_t *message = packet + at
    cdef uint8_t daddr[16]
    cdef uint32_t pseudo = 0
    cdef int64_t mtu = 0
    cdef int err
    if length < at + ICMP_HDR_LEN or not ICMP_HDR_LEN <= told <= <int64_t>length - at:
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
    if four:
        err = icmp_error(message[0], message[1], get_be32(message + 4), &mtu)
    else:
        err = icmpv6_error(message[0], message[1], get_be32(message + 4), &mtu)
    if err:
        tcp_v4_err(net, message + ICMP_HDR_LEN, <uint32_t>told - ICMP_HDR_LEN, four, err, mtu)
    return 0


cdef inline int icmp_error(uint8_t kind, uint8_t code, uint32_t word, int64_t *mtu) noexcept nogil:
    """What a message means: errno or 0, and the MTU if it tells one."""
    if kind == ICMP_DEST_UNREACH and code < 16:
        if code == ICMP_FRAG_NEEDED:
            mtu[0] = word & 0xFFFF
        return UNREACH4[code]
    if kind == ICMP_TIME_EXCEEDED:
        return EHOSTUNREACH
    return EPROTO if kind == ICMP_PARAMETERPROB else 0


cdef inline int icmpv6_error(
    uint8_t kind, uint8_t code, uint32_t word, int64_t *mtu
) noexcept nogil:
    if kind == ICMPV6_DEST_UNREACH and code < 7:
        return UNREACH6[code]
    if kind == ICMPV6_PKT_TOOBIG:
        mtu[0] = word
        return EMSGSIZE
    if kind == ICMPV6_TIME_EXCEED:
        return EHOSTUNREACH
    return EPROTO if kind == ICMPV6_PARAMPROB else 0


cdef inline void tcp_v4_err(
    netns *net, const uint8_t *said, uint32_t length, bint four, int err, int64_t mtu
) noexcept nogil:
    """An error about the segment whose beginning the message holds."""
    cdef uint32_t at = IPV6_HDR_LEN, seq
    cdef uint8_t saddr[16]
    cdef uint8_t daddr[16]
    cdef sock_common *sk
    cdef tcp_sock *tp
    if four and length:
        at = 4 * (said[0] & 15)
    if length < at + 8 or at < IPV4_HDR_LEN:
        return
    if said[9 if four else 6] != IPPROTO_TCP:
        return
    if four:
        ipv6_addr_set_v4mapped(saddr, said + 12)
        ipv6_addr_set_v4mapped(daddr, said + 16)
    else:
        memcpy(saddr, said + 8, 16)
        memcpy(daddr, said + 24, 16)
    seq = get_be32(said + at + 4)
    sk = request_or_sock(net, saddr, get_be16(said + at), daddr, get_be16(said + at + 2))
    if sk == NULL:
        return
    if sk.kind == SK_REQUEST:
        if seq == (<request_sock *>sk).snt_isn and (
            err == ENETUNREACH or err == EHOSTUNREACH or err == EPROTO
        ):
            reqsk_drop(net, <request_sock *>sk)
        return
    tp = <tcp_sock *>sk
    if sk.kind != SK_TCP or tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
        return
    if before(seq, tp.tcb.snd_una) or after(seq, tp.tcb.snd_nxt):
        return  # nothing like it is in flight: somebody guesses (RFC 5927 4.1)
    if err == EMSGSIZE:
        if mtu:
            tcp_v4_mtu_reduced(net, tp, daddr, mtu)
    elif tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV:
        tcp_done_with_error(net, tp, err)
    elif tp.recverr:
        tcp_error(net, tp, err)
    else:
        tp.sk_err_soft = err  # it may pass: the connection lives until it times out


cdef inline void tcp_v4_mtu_reduced(
    netns *net, tcp_sock *tp, const uint8_t *daddr, int64_t mtu
) noexcept nogil:
    """Less fits the path: send smaller segments, and at once those that did not get through."""
    if tp.pmtudisc == 0 or mtu >= dst_mtu(net, daddr):
        return
    ip_rt_update_pmtu(net, daddr, mtu)
    mtu = dst_mtu(net, daddr)
    if tp.pmtu_cookie > mtu:
        tcp_sync_mss(net, tp, mtu)
        tcp_simple_retransmit(net, tp)


cdef inline void tcp_simple_retransmit(netns *net, tcp_sock *tp) noexcept nogil:
    """What is larger than a segment may be now is lost; congestion it was not (RFC 1191 6.5)."""
    cdef int64_t mss = tcp_current_mss(net, tp), size
    cdef skb *one = tp.tcp_rtx_queue.first
    while one != NULL:
        size = one.len
        if one.pcount > 1:
            size = (size + one.pcount - 1) // one.pcount
        if size > mss and not one.sacked & TCPCB_SACKED_ACKED:
            tcp_mark_skb_lost(tp, one)
        one = one.next
    if not tp.lost_out:
        return
    if tp.ca_state != TCP_CA_LOSS:
        tp.high_seq = tp.tcb.snd_nxt
        tp.snd_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_ssthresh = 0
        tp.undo_marker = 0
        tcp_set_ca_state(tp, TCP_CA_LOSS, net.net.now_ns)
    tcp_xmit_retransmit_queue(net, tp)
