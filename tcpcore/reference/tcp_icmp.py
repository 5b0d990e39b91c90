"""What a router or a host says of a segment of ours: soft errors, hard ones, a smaller path MTU.

Linux: tcp_v4_err, tcp_v4_mtu_reduced, tcp_v6_err, icmp_rcv.  RFC 9293 3.9.2.2; RFC 5927; RFC 1191;
RFC 8201; RFC 6069.
"""

from __future__ import annotations

from errno import (
    EACCES,
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from struct import Struct

from .csum import csum_fold, csum_partial
from .errqueue import ip_icmp_error
from .inet_connection_sock import tcp_done_with_error, tcp_error, tcp_reset_xmit_timer
from .inet_ports import request_or_sock
from .ip_output import (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    V4MAPPED,
    dst_mtu,
    inet_addr_is_local,
    ip_rt_update_pmtu,
)
from .netns import Netns
from .snmp import Mib
from .sock import ICSK_TIME_RETRANS, RequestSock, TcpSock, TimewaitSock
from .tcp import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, Drop, between
from .tcp_minisocks import reqsk_drop
from .tcp_recovery import tcp_simple_retransmit
from .tcp_rtt import tcp_rto_max_ns, tcp_set_rto
from .tcp_timer import tcp_retransmit_timer
from .tcp_window import tcp_sync_mss
from .wire import IPPROTO_TCP

IPPROTO_ICMP = 1
IPPROTO_ICMPV6 = 58
ICMP_HDR_LEN = 8
ICMP_DEST_UNREACH, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB = 3, 11, 12
ICMP_FRAG_NEEDED = 4
ICMPV6_DEST_UNREACH, ICMPV6_PKT_TOOBIG, ICMPV6_TIME_EXCEED, ICMPV6_PARAMPROB = 1, 2, 3, 4

# What a destination's unreachability is called, by its code.
ICMP_ERR_CONVERT = (
    ENETUNREACH,
    EHOSTUNREACH,
    ENOPROTOOPT,
    ECONNREFUSED,
    EMSGSIZE,
    EOPNOTSUPP,
    ENETUNREACH,
    EHOSTDOWN,
    ENONET,
    ENETUNREACH,
    EHOSTUNREACH,
    ENETUNREACH,
    EHOSTUNREACH,
    EHOSTUNREACH,
    EHOSTUNREACH,
    EHOSTUNREACH,
)
ICMPV6_ERR_CONVERT = (
    ENETUNREACH,
    EACCES,
    EHOSTUNREACH,
    EHOSTUNREACH,
    ECONNREFUSED,
    EACCES,
    EACCES,
)
_PORTS = Struct(">HHI")  # all of a segment that an error has to tell: ports and number


def is_icmp(packet: bytes) -> bool:
    """True for an ICMP message in an IP packet that is whole and without extensions."""
    if len(packet) >= IPV4_HDR_LEN and packet[0] >> 4 == 4:
        return packet[9] == IPPROTO_ICMP and not (packet[6] & 0x3F or packet[7])
    return len(packet) >= IPV6_HDR_LEN and packet[0] >> 4 == 6 and packet[6] == IPPROTO_ICMPV6


def icmp_rcv(net: Netns, packet: bytes) -> int:
    """Take an ICMP message: Drop, or 0."""
    four = packet[0] >> 4 == 4
    net.mib[Mib.IP_INRECEIVES if four else Mib.IP6_INRECEIVES] += 1
    at = 4 * (packet[0] & 15) if four else IPV6_HDR_LEN
    told = int.from_bytes(packet[2:4] if four else packet[4:6], "big") - (at if four else 0)
    if at < IPV4_HDR_LEN or not ICMP_HDR_LEN <= told <= len(packet) - at:
        return Drop.PKT_TOO_SMALL
    body = packet[at : at + told]
    if four and csum_fold(csum_partial(packet[:at])) != 0xFFFF:
        return Drop.IP_CSUM
    pseudo = b"" if four else packet[8:40] + told.to_bytes(4, "big") + bytes((0, 0, 0, 58))
    if csum_fold(csum_partial(body, csum_partial(pseudo))) != 0xFFFF:
        return Drop.IP_CSUM
    if not inet_addr_is_local(net, V4MAPPED + packet[16:20] if four else packet[24:40]):
        return Drop.TCP_CLOSED
    kind, code, inner = body[0], body[1], body[ICMP_HDR_LEN:]
    if four:
        icmp_err(net, kind, code, int.from_bytes(body[4:8], "big"), inner, packet[12:16])
    else:
        icmpv6_err(net, kind, code, int.from_bytes(body[4:8], "big"), inner, packet[8:24])
    return 0


def icmp_err(net: Netns, kind: int, code: int, info: int, inner: bytes, who: bytes) -> None:
    """An ICMPv4 error about the packet of which `inner` is the front, from `who`."""
    if len(inner) < IPV4_HDR_LEN or inner[9] != IPPROTO_TCP:
        return
    header = (inner[0] & 15) * 4
    if inner[0] >> 4 != 4 or header < IPV4_HDR_LEN or len(inner) < header + _PORTS.size:
        return
    fatal = kind in (ICMP_PARAMETERPROB, ICMP_TIME_EXCEEDED)
    if kind == ICMP_DEST_UNREACH and code < len(ICMP_ERR_CONVERT):
        err = ICMP_ERR_CONVERT[code]
        fatal = code in (0, 1)
    elif kind == ICMP_PARAMETERPROB:
        err = EPROTO
    elif kind == ICMP_TIME_EXCEEDED and not code:  # else of a reassembly
        err = EHOSTUNREACH
    else:
        return  # 9293:MUST-55: source quench, and whatever is no error
    too_big = kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED
    revert = kind == ICMP_DEST_UNREACH and code in (0, 1)
    saddr, daddr = V4MAPPED + inner[12:16], V4MAPPED + inner[16:20]
    sport, dport, seq = _PORTS.unpack_from(inner, header)
    mtu = info & 0xFFFF if too_big else -1
    told = kind, code, info if kind == ICMP_PARAMETERPROB else 0, V4MAPPED + who, inner[header:]
    tcp_v4_err(net, (saddr, sport, daddr, dport), seq, err, mtu, fatal, revert, told)


def icmpv6_err(net: Netns, kind: int, code: int, info: int, inner: bytes, who: bytes) -> None:
    """An ICMPv6 error about the packet of which `inner` is the front, from `who`."""
    if len(inner) < IPV6_HDR_LEN + _PORTS.size or inner[0] >> 4 != 6 or inner[6] != IPPROTO_TCP:
        return
    fatal = kind == ICMPV6_PARAMPROB
    if kind == ICMPV6_DEST_UNREACH and code < len(ICMPV6_ERR_CONVERT):
        err = ICMPV6_ERR_CONVERT[code]
        fatal = code in (1, 4, 5, 6)
    elif kind == ICMPV6_PKT_TOOBIG:
        err = EMSGSIZE
    elif kind == ICMPV6_TIME_EXCEED:
        err = EHOSTUNREACH
    elif kind == ICMPV6_PARAMPROB:
        err = EPROTO
    else:
        return
    revert = kind == ICMPV6_DEST_UNREACH and code == 0
    sport, dport, seq = _PORTS.unpack_from(inner, IPV6_HDR_LEN)
    key = inner[8:24], sport, inner[24:40], dport
    mtu = info if kind == ICMPV6_PKT_TOOBIG else -1
    told = kind, code, info, who, inner[IPV6_HDR_LEN:]
    tcp_v4_err(net, key, seq, err, mtu, fatal, revert, told)


def tcp_v4_err(
    net: Netns,
    key: tuple[bytes, int, bytes, int],
    seq: int,
    err: int,
    mtu: int,
    fatal: bool,
    revert: bool,
    told: tuple[int, int, int, bytes, bytes],
) -> int:
    """Tell a connection of an error (9293:MUST-54, MUST-56, SHLD-25, SHLD-26): Drop, or 0.

    Only a number in flight is believed (RFC 5927 4.1). An open connection is never aborted, an
    attempt at one always.

    Parameters
    ----------
    net : Netns
    key : saddr, sport, daddr, dport of the segment that caused it
    seq : int, its number
    err : int, errno
    mtu : int, what would have fitted; -1 where that was not the matter
    fatal : bool, a request is given up for it
    revert : bool, it takes a doubling of the time-out back (RFC 6069)
    told : type, code, information, sender and the front of the segment, for the error queue
    """
    sk = request_or_sock(net, *key)
    if sk is None or isinstance(sk, TimewaitSock):
        return Drop.TCP_CLOSED
    if isinstance(sk, RequestSock):
        if seq != sk.snt_isn:
            net.mib[Mib.OUTOFWINDOWICMPS] += 1
        elif fatal:
            net.mib[Mib.TCP_LISTENDROPS] += 1
            reqsk_drop(net, sk)
        return 0
    tcb = sk.tcb
    if not between(seq, tcb.snd_una, tcb.snd_nxt):
        net.mib[Mib.OUTOFWINDOWICMPS] += 1
        return Drop.TCP_CLOSED
    if mtu >= 0:
        tcp_v4_mtu_reduced(net, sk, mtu)
        return 0
    if revert:
        tcp_ld_rto_revert(net, sk, seq)
    if tcb.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        # Deviation: Linux ends an attempt for every error; 9293:MUST-56 would try on.
        if sk.ip == 4 or sk.recverr:
            ip_icmp_error(net, sk, err, *told)
        tcp_done_with_error(net, sk, err)
    elif sk.recverr:
        tcp_error(net, sk, err)
    else:
        sk.sk_err_soft = err
    return 0


def tcp_v4_mtu_reduced(net: Netns, tp: TcpSock, mtu: int) -> None:
    """Less fits through the path: cut what is in flight anew and send it (RFC 1191 6.5)."""
    if tp.tcb.state in (TCP_CLOSE, TCP_LISTEN):
        return
    ip_rt_update_pmtu(net, tp.daddr, mtu)
    now = dst_mtu(net, tp.daddr)
    if mtu < now and tp.pmtudisc:
        tp.sk_err_soft = EMSGSIZE
    if tp.pmtudisc and tp.pmtu_cookie > now:
        tcp_sync_mss(net, tp, now)
        tcp_simple_retransmit(net, tp)


def tcp_ld_rto_revert(net: Netns, tp: TcpSock, seq: int) -> None:
    """The path is broken, not congested: take one doubling of the time-out back (RFC 6069)."""
    if seq != tp.tcb.snd_una or not tp.retransmits or not tp.backoff or not tp.tcp_rtx_queue:
        return
    tp.backoff -= 1
    if tp.srtt_us:
        tcp_set_rto(tp)
    else:
        tp.rto_ns = 1_000_000_000
    tp.rto_ns = min(tp.rto_ns << tp.backoff, tcp_rto_max_ns(tp))
    left_ns = tp.rto_ns - (net.now_ns - tp.tcp_rtx_queue[0].skb_mstamp_ns)
    if left_ns > 0:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, left_ns)
    else:
        tcp_retransmit_timer(net, tp)
