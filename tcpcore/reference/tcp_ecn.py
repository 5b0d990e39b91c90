"""Explicit congestion notification: what both ends agreed on, what is owed, what was seen.

Linux: include/net/tcp_ecn.h.  RFC 3168 6.1.
"""

from __future__ import annotations

from .sock import RequestSock, TcpSock

TCPHDR_ECE, TCPHDR_CWR, TCPHDR_AE = 0x40, 0x80, 0x100
TCPHDR_SYN_ECN = 0xC2  # a SYN that asks for it
INET_ECN_MASK = 3  # of IPv4's TOS and IPv6's traffic class
INET_ECN_NOT_ECT, INET_ECN_ECT_1, INET_ECN_ECT_0, INET_ECN_CE = 0, 1, 2, 3
# Of a socket's ecn_flags.
TCP_ECN_MODE_RFC3168 = 1
TCP_ECN_QUEUE_CWR = 2  # the window was reduced, which the next new data tells
TCP_ECN_DEMAND_CWR = 4  # a mark came: each segment says so until the peer has reduced its window
TCP_ECN_SEEN = 8  # data came that could have been marked
# Values of tcp_ecn whose SYNs ask for it.
TCP_ECN_IN_ECN_OUT_ECN, TCP_ECN_IN_ACCECN_OUT_ACCECN, TCP_ECN_IN_ACCECN_OUT_ECN = 1, 3, 4


# The handshake.


def tcp_ecn_send_syn(tp: TcpSock, tcp_ecn: int, route_ecn: bool) -> int:
    """Flags of the SYN of an active open, by the knob and the route (RFC 3168 6.1.1).

    Deviation: from Linux, whose SYN with tcp_ecn 3 asks for AccECN (RFC 9768) first.
    """
    asks = (TCP_ECN_IN_ECN_OUT_ECN, TCP_ECN_IN_ACCECN_OUT_ACCECN, TCP_ECN_IN_ACCECN_OUT_ECN)
    tp.ecn_flags = 0
    tp.tos &= ~INET_ECN_MASK
    if tcp_ecn not in asks and not route_ecn:
        return 0
    tp.ecn_flags = TCP_ECN_MODE_RFC3168
    return TCPHDR_ECE | TCPHDR_CWR


def tcp_ecn_rcv_synack(tp: TcpSock, flags: int) -> None:
    """A SYN-ACK agrees by ECE alone; with CWR somebody has copied the SYN's (RFC 3168 6.1.1)."""
    if flags & (TCPHDR_ECE | TCPHDR_CWR) != TCPHDR_ECE:
        tp.ecn_flags = 0


def tcp_ecn_rcv_syn(tp: TcpSock, flags: int) -> None:
    """A SYN that crosses this end's own agrees by asking for the same."""
    if flags & TCPHDR_SYN_ECN != TCPHDR_SYN_ECN:
        tp.ecn_flags = 0


def tcp_ecn_send_synack(tp: TcpSock, flags: int) -> int:
    """Flags of the SYN-ACK that this end's SYN becomes then."""
    return flags & ~(TCPHDR_ECE | TCPHDR_CWR) | (TCPHDR_ECE if tp.ecn_flags else 0)


def tcp_ecn_clear_syn(flags: int, tcp_ecn_fallback: int) -> int:
    """Flags of a SYN that goes again: what is in the way may drop it for these (6.1.1.1)."""
    if tcp_ecn_fallback and flags & TCPHDR_SYN_ECN == TCPHDR_SYN_ECN:
        return flags & ~(TCPHDR_ECE | TCPHDR_CWR)
    return flags


def tcp_ecn_create_request(
    req: RequestSock, flags: int, dsfield: int, tcp_ecn: int, route_ecn: bool
) -> None:
    """Agree to what a SYN asks for, unless it could be marked itself: RFC 3168 has none that is.

    One for AccECN may be (RFC 9768 3.1.1); where that is not known it is answered as an old one.
    """
    if flags & TCPHDR_SYN_ECN != TCPHDR_SYN_ECN:
        return
    plain = not dsfield & INET_ECN_MASK or flags & TCPHDR_AE
    req.ecn_ok = bool(plain and (tcp_ecn or route_ecn))


def tcp_ecn_openreq_child(tp: TcpSock, req: RequestSock) -> None:
    tp.ecn_flags = TCP_ECN_MODE_RFC3168 if req.ecn_ok else 0


# The sender.


def tcp_ecn_send(tp: TcpSock, new_data: bool) -> int:
    """Flags of a segment. New data alone may be marked: ECT(0) stays in `tos` until what cannot.

    That is a bare ACK, a probe, a retransmission (RFC 3168 6.1.4 to 6.1.6).
    """
    flags = TCPHDR_ECE if tp.ecn_flags & TCP_ECN_DEMAND_CWR else 0
    tp.tos &= ~INET_ECN_MASK
    if not new_data:
        return flags
    tp.tos |= INET_ECN_ECT_0
    if tp.ecn_flags & TCP_ECN_QUEUE_CWR:
        tp.ecn_flags &= ~TCP_ECN_QUEUE_CWR
        flags |= TCPHDR_CWR
    return flags


def tcp_ecn_queue_cwr(tp: TcpSock) -> None:
    """The window was reduced: the peer is told (RFC 3168 6.1.2)."""
    if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        tp.ecn_flags |= TCP_ECN_QUEUE_CWR


def tcp_ecn_withdraw_cwr(tp: TcpSock) -> None:
    """The reduction was taken back."""
    tp.ecn_flags &= ~TCP_ECN_QUEUE_CWR


def tcp_ecn_rcv_ecn_echo(tp: TcpSock, flags: int) -> bool:
    """True if the peer tells of a mark."""
    return bool(flags & TCPHDR_ECE and tp.ecn_flags & TCP_ECN_MODE_RFC3168)


# The receiver.


def tcp_ecn_received(tp: TcpSock) -> None:
    """A segment came that could have been marked, though that was not agreed on."""
    if not tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        tp.ecn_flags |= TCP_ECN_SEEN


def tcp_ecn_accept_cwr(tp: TcpSock, flags: int) -> bool:
    """True if the peer has reduced its window, which may be so small that it waits for an ACK."""
    if not flags & TCPHDR_CWR or not tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        return False
    tp.ecn_flags &= ~TCP_ECN_DEMAND_CWR
    return True


def tcp_data_ecn_check(tp: TcpSock, dsfield: int) -> bool:
    """Data came (RFC 3168 6.1.3): True if ACKs had better not wait.

    What cannot be marked, where others could, is most likely a retransmission.
    """
    if not tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        return False
    ecn = dsfield & INET_ECN_MASK
    if ecn == INET_ECN_NOT_ECT:
        return bool(tp.ecn_flags & TCP_ECN_SEEN)
    known = tp.ecn_flags
    tp.ecn_flags |= TCP_ECN_SEEN
    if ecn != INET_ECN_CE:
        return False
    tp.ecn_flags |= TCP_ECN_DEMAND_CWR
    return not known & TCP_ECN_DEMAND_CWR
