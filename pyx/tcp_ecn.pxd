# Explicit congestion notification: what both ends agreed on, what is owed, what was seen.
# Linux: include/net/tcp_ecn.h.  RFC 3168 6.1.

from libc.stdint cimport int64_t, uint8_t, uint16_t
from sock cimport request_sock, tcp_sock

cdef enum:
    TCPHDR_ECE = 0x40
    TCPHDR_CWR = 0x80
    TCPHDR_AE = 0x100
    TCPHDR_SYN_ECN = 0xC2  # a SYN that asks for it

cdef enum:
    INET_ECN_MASK = 3  # of IPv4's TOS and IPv6's traffic class
    INET_ECN_NOT_ECT = 0
    INET_ECN_ECT_1 = 1
    INET_ECN_ECT_0 = 2
    INET_ECN_CE = 3

# Of a socket's ecn_flags.
cdef enum:
    TCP_ECN_MODE_RFC3168 = 1
    TCP_ECN_QUEUE_CWR = 2  # the window was reduced, which the next new data tells
    TCP_ECN_DEMAND_CWR = 4  # a mark came: each segment says so until the peer has reduced its window
    TCP_ECN_SEEN = 8  # data came that could have been marked

# Values of tcp_ecn whose SYNs ask for it.
cdef enum:
    TCP_ECN_IN_ECN_OUT_ECN = 1
    TCP_ECN_IN_ACCECN_OUT_ACCECN = 3
    TCP_ECN_IN_ACCECN_OUT_ECN = 4


# The handshake.


cdef inline uint8_t tcp_ecn_send_syn(
    tcp_sock *tp, int64_t tcp_ecn, bint route_ecn
) noexcept nogil:
    """Flags of the SYN of an active open, by the knob and the route (RFC 3168 6.1.1).

    Deviation: from Linux, whose SYN with tcp_ecn 3 asks for AccECN (RFC 9768) first.
    """
    tp.ecn_flags = 0
    tp.sk.tos &= <uint8_t>~INET_ECN_MASK
    if (
        tcp_ecn != TCP_ECN_IN_ECN_OUT_ECN
        and tcp_ecn != TCP_ECN_IN_ACCECN_OUT_ACCECN
        and tcp_ecn != TCP_ECN_IN_ACCECN_OUT_ECN
        and not route_ecn
    ):
        return 0
    tp.ecn_flags = TCP_ECN_MODE_RFC3168
    return TCPHDR_ECE | TCPHDR_CWR


cdef inline void tcp_ecn_rcv_synack(tcp_sock *tp, uint16_t flags) noexcept nogil:
    """A SYN-ACK agrees by ECE alone; with CWR somebody has copied the SYN's (RFC 3168 6.1.1)."""
    if (flags & (TCPHDR_ECE | TCPHDR_CWR)) != TCPHDR_ECE:
        tp.ecn_flags = 0


cdef inline void tcp_ecn_rcv_syn(tcp_sock *tp, uint16_t flags) noexcept nogil:
    """A SYN that crosses this end's own agrees by asking for the same."""
    if (flags & TCPHDR_SYN_ECN) != TCPHDR_SYN_ECN:
        tp.ecn_flags = 0


cdef inline uint8_t tcp_ecn_send_synack(const tcp_sock *tp, uint8_t flags) noexcept nogil:
    """Flags of the SYN-ACK that this end's SYN becomes then."""
    flags &= <uint8_t>~(TCPHDR_ECE | TCPHDR_CWR)
    return flags | <uint8_t>TCPHDR_ECE if tp.ecn_flags else flags


cdef inline uint8_t tcp_ecn_clear_syn(uint8_t flags, int64_t tcp_ecn_fallback) noexcept nogil:
    """Flags of a SYN that goes again: what is in the way may drop it for these (6.1.1.1)."""
    if tcp_ecn_fallback and (flags & TCPHDR_SYN_ECN) == TCPHDR_SYN_ECN:
        flags &= <uint8_t>~(TCPHDR_ECE | TCPHDR_CWR)
    return flags


cdef inline void tcp_ecn_create_request(
    request_sock *req, uint16_t flags, uint8_t dsfield, int64_t tcp_ecn, bint route_ecn
) noexcept nogil:
    """Agree to what a SYN asks for, unless it could be marked itself: RFC 3168 has none that is.

    One for AccECN may be (RFC 9768 3.1.1); where that is not known it is answered as an old one.
    """
    cdef bint plain = not dsfield & INET_ECN_MASK or flags & TCPHDR_AE
    req.ecn_ok = 0
    if (flags & TCPHDR_SYN_ECN) == TCPHDR_SYN_ECN:
        req.ecn_ok = plain and (tcp_ecn or route_ecn)


cdef inline void tcp_ecn_openreq_child(tcp_sock *tp, const request_sock *req) noexcept nogil:
    tp.ecn_flags = TCP_ECN_MODE_RFC3168 if req.ecn_ok else 0


# The sender.


cdef inline uint16_t tcp_ecn_send(tcp_sock *tp, bint new_data) noexcept nogil:
    """Flags of a segment. New data alone may be marked: ECT(0) stays in `tos` until what cannot.

    That is a bare ACK, a probe, a retransmission (RFC 3168 6.1.4 to 6.1.6).
    """
    cdef uint16_t flags = 0
    if tp.ecn_flags & TCP_ECN_DEMAND_CWR:
        flags = TCPHDR_ECE
    tp.sk.tos &= <uint8_t>~INET_ECN_MASK
    if not new_data:
        return flags
    tp.sk.tos |= INET_ECN_ECT_0
    if tp.ecn_flags & TCP_ECN_QUEUE_CWR:
        tp.ecn_flags &= <uint8_t>~TCP_ECN_QUEUE_CWR
        flags |= TCPHDR_CWR
    return flags


cdef inline void tcp_ecn_queue_cwr(tcp_sock *tp) noexcept nogil:
    """The window was reduced: the peer is told (RFC 3168 6.1.2)."""
    if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        tp.ecn_flags |= TCP_ECN_QUEUE_CWR


cdef inline void tcp_ecn_withdraw_cwr(tcp_sock *tp) noexcept nogil:
    """The reduction was taken back."""
    tp.ecn_flags &= <uint8_t>~TCP_ECN_QUEUE_CWR


cdef inline bint tcp_ecn_rcv_ecn_echo(const tcp_sock *tp, uint16_t flags) noexcept nogil:
    """True if the peer tells of a mark."""
    return flags & TCPHDR_ECE and tp.ecn_flags & TCP_ECN_MODE_RFC3168


# The receiver.


cdef inline void tcp_ecn_received(tcp_sock *tp) noexcept nogil:
    """A segment came that could have been marked, though that was not agreed on."""
    if not tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        tp.ecn_flags |= TCP_ECN_SEEN


cdef inline bint tcp_ecn_accept_cwr(tcp_sock *tp, uint16_t flags) noexcept nogil:
    """True if the peer has reduced its window, which may be so small that it waits for an ACK."""
    if not flags & TCPHDR_CWR or not tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        return False
    tp.ecn_flags &= <uint8_t>~TCP_ECN_DEMAND_CWR
    return True


cdef inline bint tcp_data_ecn_check(tcp_sock *tp, uint8_t dsfield) noexcept nogil:
    """Data came (RFC 3168 6.1.3): True if ACKs had better not wait.

    What cannot be marked, where others could, is most likely a retransmission.
    """
    cdef uint8_t known = tp.ecn_flags, ecn = dsfield & INET_ECN_MASK
    if not known & TCP_ECN_MODE_RFC3168:
        return False
    if ecn == INET_ECN_NOT_ECT:
        return known & TCP_ECN_SEEN
    tp.ecn_flags = known | TCP_ECN_SEEN
    if ecn != INET_ECN_CE:
        return False
    tp.ecn_flags |= TCP_ECN_DEMAND_CWR
    return not known & TCP_ECN_DEMAND_CWR
