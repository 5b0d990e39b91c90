"""What an ICMP message does to a connection: less fits, nobody is there.

Linux: tcp_v4_err, tcp_v6_err, icmp_rcv.  RFC 5927 4, 1191 6.3, 8201 4, 1122 4.2.3.9.
Only a message about what is in flight counts, and most errors are soft.
"""

from __future__ import annotations

from errno import (
    EACCES,
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from struct import Struct

from .csum import csum_fold, csum_partial
from .inet_connection_sock import tcp_done_with_error, tcp_error
from .ip_output import (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    V4MAPPED,
    dst_mtu,
    inet_addr_is_local,
    ip_rt_update_pmtu,
)
from .netns import Netns
from .sock import TCPCB_SACKED_ACKED, CaState, RequestSock, TcpSock
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    Drop,
    after,
    before,
)
from .tcp_cong import tcp_current_ssthresh, tcp_set_ca_state
from .tcp_minisocks import reqsk_drop
from .tcp_output import tcp_xmit_retransmit_queue
from .tcp_recovery import tcp_mark_skb_lost
from .tcp_window import tcp_current_mss, tcp_sync_mss
from .wire import IPPROTO_TCP

IPPROTO_ICMP, IPPROTO_ICMPV6 = 1, 58
ICMP_HDR_LEN = 8
ICMP_DEST_UNREACH, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB = 3, 11, 12
ICMP_FRAG_NEEDED = 4
ICMPV6_DEST_UNREACH, ICMPV6_PKT_TOOBIG, ICMPV6_TIME_EXCEED, ICMPV6_PARAMPROB = 1, 2, 3, 4

# errno by code of "destination unreachable", IPv4's and IPv6's.
UNREACH4 = (
    ENETUNREACH, EHOSTUNREACH, ENOPROTOOPT, ECONNREFUSED, EMSGSIZE, EOPNOTSUPP, ENETUNREACH,
    EHOSTUNREACH, ENETUNREACH, ENETUNREACH, EHOSTUNREACH, ENETUNREACH, EHOSTUNREACH, EHOSTUNREACH,
    EHOSTUNREACH, EHOSTUNREACH,
)  # fmt: skip
UNREACH6 = (ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES)
# Of requests: only these end them (RFC 1122 4.2.3.9 calls the others soft).
SOFT = (ENETUNREACH, EHOSTUNREACH, EPROTO)

_PORTS = Struct(">HHI")


def is_icmp(packet: bytes) -> bool:
    """True for an ICMP message in an IP packet without options, fragments and extensions."""
    if len(packet) >= IPV4_HDR_LEN and packet[0] == 0x45:
        return packet[9] == IPPROTO_ICMP and not (packet[6] & 0x3F or packet[7])
    return len(packet) >= IPV6_HDR_LEN and packet[0] >> 4 == 6 and packet[6] == IPPROTO_ICMPV6


def icmp_rcv(net: Netns, packet: bytes) -> int:
    """Take an ICMP message that is about one of this host's segments: Drop, or 0."""
    four = packet[0] >> 4 == 4
    at = IPV4_HDR_LEN if four else IPV6_HDR_LEN
    told = int.from_bytes(packet[2:4] if four else packet[4:6], "big") - (at if four else 0)
    if len(packet) < at + ICMP_HDR_LEN or not ICMP_HDR_LEN <= told <= len(packet) - at:
        return Drop.PKT_TOO_SMALL
    message = packet[at : at + told]
    if four and csum_fold(csum_partial(packet[:at])) != 0xFFFF:
        return Drop.IP_CSUM
    pseudo = b"" if four else packet[8:40] + told.to_bytes(4, "big") + bytes((0, 0, 0, 58))
    if csum_fold(csum_partial(message, csum_partial(pseudo))) != 0xFFFF:
        return Drop.IP_CSUM
    daddr = V4MAPPED + packet[16:20] if four else packet[24:40]
    if not inet_addr_is_local(net, daddr):
        return Drop.TCP_CLOSED
    kind, code, word = message[0], message[1], int.from_bytes(message[4:8], "big")
    err, mtu = (icmp_error if four else icmpv6_error)(kind, code, word)
    if err:
        tcp_v4_err(net, message[ICMP_HDR_LEN:], four, err, mtu)
    return 0


def icmp_error(kind: int, code: int, word: int) -> tuple[int, int]:
    """What a message means: (errno or 0, MTU or 0)."""
    if kind == ICMP_DEST_UNREACH and code < len(UNREACH4):
        return UNREACH4[code], word & 0xFFFF if code == ICMP_FRAG_NEEDED else 0
    if kind == ICMP_TIME_EXCEEDED:
        return EHOSTUNREACH, 0
    return (EPROTO if kind == ICMP_PARAMETERPROB else 0), 0


def icmpv6_error(kind: int, code: int, word: int) -> tuple[int, int]:
    if kind == ICMPV6_DEST_UNREACH and code < len(UNREACH6):
        return UNREACH6[code], 0
    if kind == ICMPV6_PKT_TOOBIG:
        return EMSGSIZE, word
    if kind == ICMPV6_TIME_EXCEED:
        return EHOSTUNREACH, 0
    return (EPROTO if kind == ICMPV6_PARAMPROB else 0), 0


def tcp_v4_err(net: Netns, said: bytes, four: bool, err: int, mtu: int) -> None:
    """An error about the segment whose beginning the message holds."""
    at = 4 * (said[0] & 15) if four and said else IPV6_HDR_LEN
    if len(said) < at + _PORTS.size or at < IPV4_HDR_LEN:
        return
    if said[9 if four else 6] != IPPROTO_TCP:
        return
    saddr = V4MAPPED + said[12:16] if four else said[8:24]
    daddr = V4MAPPED + said[16:20] if four else said[24:40]
    sport, dport, seq = _PORTS.unpack_from(said, at)
    sk = net.established.get((saddr, sport, daddr, dport))
    if isinstance(sk, RequestSock):
        if seq == sk.snt_isn and err in SOFT:
            reqsk_drop(net, sk)
        return
    if not isinstance(sk, TcpSock) or sk.tcb.state in (TCP_CLOSE, TCP_LISTEN):
        return
    tcb = sk.tcb
    if before(seq, tcb.snd_una) or after(seq, tcb.snd_nxt):
        return  # nothing like it is in flight: somebody guesses (RFC 5927 4.1)
    if err == EMSGSIZE:
        if mtu:
            tcp_v4_mtu_reduced(net, sk, daddr, mtu)
    elif tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        tcp_done_with_error(net, sk, err)
    elif sk.recverr:
        tcp_error(net, sk, err)
    else:
        sk.sk_err_soft = err  # it may pass: the connection lives until it times out


def tcp_v4_mtu_reduced(net: Netns, tp: TcpSock, daddr: bytes, mtu: int) -> None:
    """Less fits the path: send smaller segments, and at once those that did not get through."""
    if tp.pmtudisc == 0 or mtu >= dst_mtu(net, daddr):
        return
    ip_rt_update_pmtu(net, daddr, mtu)
    mtu = dst_mtu(net, daddr)
    if tp.pmtu_cookie > mtu:
        tcp_sync_mss(net, tp, mtu)
        tcp_simple_retransmit(net, tp)


def tcp_simple_retransmit(net: Netns, tp: TcpSock) -> None:
    """What is larger than a segment may be now is lost; congestion it was not (RFC 1191 6.5)."""
    mss = tcp_current_mss(net, tp)
    for skb in tp.tcp_rtx_queue:
        size = len(skb.data) if skb.pcount <= 1 else -(-len(skb.data) // skb.pcount)
        if size > mss and not skb.sacked & TCPCB_SACKED_ACKED:
            tcp_mark_skb_lost(tp, skb)
    if not tp.lost_out:
        return
    if tp.ca_state != CaState.TCP_CA_LOSS:
        tp.high_seq = tp.tcb.snd_nxt & MASK32
        tp.snd_ssthresh = tcp_current_ssthresh(tp)
        tp.prior_ssthresh = 0
        tp.undo_marker = 0
        tcp_set_ca_state(tp, CaState.TCP_CA_LOSS, net.now_ns)
    tcp_xmit_retransmit_queue(net, tp)
