"""A captured frame to a segment: link header, IP and its extension headers, what wraps them, TCP.

Linux: net/ethernet/eth.c, net/ipv4/ip_input.c, net/ipv6/ip6_input.c, exthdrs_core.c.
RFC 791 3.1, RFC 8200 4, RFC 1661.  Every length is held against the captured bytes (T-13).
"""

from __future__ import annotations

from struct import Struct

from .csum import Buffer, ip_fast_csum
from .ip_fragment import FragKey, ip_defrag
from .ip_tunnel import (
    ETH_P_802_3_MIN,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_MC,
    ETH_P_MPLS_UC,
    ETH_P_PPP,
    ETH_P_PPP_DISC,
    ETH_P_PPP_SES,
    ETH_P_TEB,
    ETH_P_VLAN,
    MASK64,
    TUNNEL_MIX,
    Cursor,
    Encap,
    Outer,
    eth_header,
    gre_rcv,
    ip_version,
    llc_rcv,
    mpls_rcv,
    pass_header,
    pppoe_rcv,
    tunnel_mix,
    udp_rcv,
    vlan_get_protocol,
)
from .net import Net
from .snmp import Mib
from .tcp import Bad, Drop, Segment
from .wire import IPPROTO_TCP, tcp_parse

# Link types (LINKTYPE_ values of captures).
DLT_NULL = 0
DLT_EN10MB = 1
DLT_PPP = 9
DLT_PPP_SERIAL = 50
DLT_RAW = (12, 14, 101)
DLT_LOOP = 108
DLT_LINUX_SLL = 113
DLT_IPV4 = 228
DLT_IPV6 = 229
DLT_LINUX_SLL2 = 276

PPP_IP = 0x0021
PPP_IPV6 = 0x0057
PPP_MPLS_UC = 0x0281
PPP_MPLS_MC = 0x0283
PPP_PROTOCOLS = {
    PPP_IP: ETH_P_IP,
    PPP_IPV6: ETH_P_IPV6,
    PPP_MPLS_UC: ETH_P_MPLS_UC,
    PPP_MPLS_MC: ETH_P_MPLS_UC,
}
# AF_INET6 is 10 in Linux, 24 in NetBSD, 28 in FreeBSD, 30 in Darwin.
AF_INET = 2
AF_INET6 = (10, 24, 28, 30)

IPPROTO_IPIP = 4
IPPROTO_UDP = 17
IPPROTO_IPV6 = 41
IPPROTO_FRAGMENT = 44
IPPROTO_GRE = 47
IPPROTO_AH = 51
IPPROTO_MPLS = 137
# Besides these two: hop-by-hop, routing, destination options, mobility, HIP, shim6.
IP6_EXTHDRS = frozenset((IPPROTO_FRAGMENT, IPPROTO_AH, 0, 43, 60, 135, 139, 140))
IP6_MAX_EXTHDRS = 16
IP6_EXTHDR_MIN = 8  # bytes, of any of them

IP_MF = 0x2000
IP_OFFSET = 0x1FFF
IP6_MF = 0x0001
IP6_OFFSET = 0xFFF8
ENCAP_MAX_DEPTH = 16  # headers in each other, from the first behind the link header to TCP's

BAD_IP_CSUM, BAD_TCP_CSUM = int(Bad.BAD_IP_CSUM), int(Bad.BAD_TCP_CSUM)
BAD_TSO, BAD_IP_ZERO = int(Bad.BAD_TSO), int(Bad.BAD_IP_ZERO)

_MAPPED = bytes(10) + b"\xff\xff"
_IPHDR = Struct(
    ">BxHHHxBxx4s4s"
)  # version and ihl, total length, id, fragment, protocol, addresses
_IP6HDR = Struct(">B3xHBx16s16s")  # version, payload length, next header, addresses


def ip_rcv(
    net: Net,
    linktype: int,
    data: Buffer,
    start: int,
    caplen: int,
    wirelen: int,
    seg: Segment,
    offset: int = 0,
    time_ns: int = 0,
    clamped: bool = False,
) -> tuple[int, Outer]:
    """Find the innermost TCP segment in a frame, header by header.

    Parameters
    ----------
    net : Net; its IP counters move, and it keeps fragments
    linktype : int, LINKTYPE_ value of the interface
    data : buffer of bytes
    start : int, index in data of the frame
    caplen : int, bytes of it that were captured
    wirelen : int, bytes it had on the wire, not below caplen
    seg : Segment to fill
    offset : int, where in the capture the frame's first byte is
    time_ns, clamped : int and bool, its time, and whether that is not to be believed

    Returns
    -------
    int : Drop, 0 when `seg` is filled
    Outer : what is around the segment, as far as it was read
    """
    seg.bad = 0
    at = Cursor(data, start, caplen, wirelen, Outer())
    at.offset = offset - start
    at.time_ns = time_ns
    at.clamped = clamped
    drop = eth_type_trans(linktype, at)
    for _ in range(ENCAP_MAX_DEPTH):
        if drop:
            return drop, at.outer
        if at.protocol == ETH_P_IP:
            drop = ip_rcv_core(net, at, seg)
        elif at.protocol == ETH_P_IPV6:
            drop = ip6_rcv_core(net, at, seg)
        else:
            drop = netif_receive(at)
            continue
        if not drop and at.protocol == IPPROTO_TCP:
            # What a link says of a checksum is of the outermost packet.
            return tcp_rcv(at, seg, net.ip_summed and not at.outer.encap), at.outer
        if not drop:
            drop = ip_protocol_deliver(net, at, seg)
    return drop or Drop.ENCAP_DEPTH, at.outer


def tcp_rcv(at: Cursor, seg: Segment, summed: bool) -> int:
    """Read a segment; that IP told no length explains what is wrong with its checksums."""
    drop = tcp_parse(seg, at.data, at.pos, at.room, at.wire, summed)
    at.outer.transport = (at.data, at.pos, at.room)
    if at.tso and seg.bad & (BAD_IP_CSUM | BAD_TCP_CSUM):
        seg.bad |= BAD_TSO
    return drop


def netif_receive(at: Cursor) -> int:
    """Pass a header that is not IP's; `protocol` then says what follows."""
    protocol = at.protocol
    if protocol in ETH_P_VLAN:
        return vlan_get_protocol(at, 2, 4, 1)
    if protocol == ETH_P_TEB:
        return eth_header(at)
    if protocol in (ETH_P_MPLS_UC, ETH_P_MPLS_MC):
        return mpls_rcv(at)
    if protocol in (ETH_P_PPP_SES, ETH_P_PPP_DISC):
        return pppoe_rcv(at)
    if protocol == ETH_P_PPP:
        return ppp_get_protocol(DLT_PPP, at)
    if protocol < ETH_P_802_3_MIN:
        return llc_rcv(at)
    return Drop.UNHANDLED_PROTO


def eth_type_trans(linktype: int, at: Cursor) -> int:
    """Pass a link header and its VLAN tags; `protocol` is then the EtherType of what follows."""
    if linktype == DLT_EN10MB:
        return eth_header(at)
    if linktype == DLT_LINUX_SLL:
        return vlan_get_protocol(at, 14, 16, 0)
    if linktype == DLT_LINUX_SLL2:
        return vlan_get_protocol(at, 0, 20, 0)
    if linktype in DLT_RAW:
        return ip_version(at, Drop.UNHANDLED_PROTO)
    if linktype in (DLT_IPV4, DLT_IPV6):
        at.protocol = ETH_P_IP if linktype == DLT_IPV4 else ETH_P_IPV6
        return 0
    if linktype in (DLT_NULL, DLT_LOOP):
        return null_get_protocol(at)
    if linktype in (DLT_PPP, DLT_PPP_SERIAL):
        return ppp_get_protocol(linktype, at)
    return Drop.LINKTYPE_UNKNOWN


def null_get_protocol(at: Cursor) -> int:
    """An address family in the byte order of the host that captured, whichever that was."""
    if at.room < 4:
        return Drop.PKT_TOO_SMALL
    field = bytes(at.data[at.pos : at.pos + 4])
    families = int.from_bytes(field, "big"), int.from_bytes(field, "little")
    if AF_INET in families:
        at.protocol = ETH_P_IP
    elif families[0] in AF_INET6 or families[1] in AF_INET6:
        at.protocol = ETH_P_IPV6
    else:
        return Drop.UNHANDLED_PROTO
    pass_header(at, 4)
    return 0


def ppp_get_protocol(linktype: int, at: Cursor) -> int:
    """PPP with or without HDLC's address and control, its protocol maybe compressed; Cisco HDLC."""
    framing = at.be16(0) if at.room >= 2 else 0
    if framing == 0xFF03:
        pass_header(at, 2)
    elif linktype == DLT_PPP_SERIAL and framing in (0x0F00, 0x8F00):
        return vlan_get_protocol(at, 2, 4, 0)
    if not at.room:
        return Drop.PKT_TOO_SMALL
    protocol = at.byte(0)
    pass_header(at, 1)
    if not protocol & 1:
        if not at.room:
            return Drop.PKT_TOO_SMALL
        protocol = protocol << 8 | at.byte(0)
        pass_header(at, 1)
    if protocol not in PPP_PROTOCOLS:
        return Drop.UNHANDLED_PROTO
    at.protocol = PPP_PROTOCOLS[protocol]
    return 0


def ip_rcv_core(net: Net, at: Cursor, seg: Segment) -> int:
    """Pass an IPv4 header; `wire` is then the length of what it carries."""
    mib = net.mib
    mib[Mib.IP_INRECEIVES] += 1
    if at.room < _IPHDR.size:
        mib[Mib.IP_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    fields = _IPHDR.unpack_from(at.data, at.pos)
    version, tot_len, number, word, protocol, saddr, daddr = fields
    header = (version & 0xF) * 4
    if version >> 4 != 4 or header < _IPHDR.size:
        mib[Mib.IP_INHDRERRORS] += 1
        return Drop.IP_INHDR
    if at.room < header:
        mib[Mib.IP_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    if 0 < tot_len < header:
        mib[Mib.IP_INHDRERRORS] += 1
        return Drop.IP_INHDR
    bad = bool(ip_fast_csum(at.data[at.pos : at.pos + header]))
    if bad:
        mib[Mib.IP_CSUMERRORS] += 1
        if at.byte(10) or at.byte(11):
            seg.bad = BAD_IP_CSUM
        elif not seg.bad:  # of several, all have to be unfilled
            seg.bad = BAD_IP_CSUM | BAD_IP_ZERO
    at.tso = not tot_len
    tot_len = tot_len or at.wire  # TSO leaves a total length of 0: then the frame is the datagram
    cut = at.room < tot_len
    at.wire = min(at.wire, tot_len)
    at.outer.network = (at.data, at.pos, at.room)
    pass_header(at, header)
    at.protocol = protocol
    seg.ip = 4
    seg.saddr = _MAPPED + saddr
    seg.daddr = _MAPPED + daddr
    if word & (IP_MF | IP_OFFSET):
        return ip_fragment_rcv(net, at, seg, number, word, bad, cut)
    return 0


def ip_fragment_rcv(
    net: Net, at: Cursor, seg: Segment, number: int, word: int, bad: bool, cut: bool
) -> int:
    """Take a fragment; 0 where it makes a datagram whole, to which the cursor then goes.

    One whose header is damaged, or that is cut, is left out.
    """
    net.mib[Mib.IP_REASMREQDS] += 1
    if bad:
        return Drop.IP_FRAGMENT
    if cut:
        net.mib[Mib.IP_INTRUNCATEDPKTS] += 1
        return Drop.IP_FRAGMENT
    outer = at.outer
    key = FragKey(4, seg.saddr, seg.daddr, number, at.protocol, outer.vlans, outer.tunnel)
    return fragment_rcv(net, at, key, (word & IP_OFFSET) * 8, bool(word & IP_MF))


def fragment_rcv(net: Net, at: Cursor, key: FragKey, begin: int, more: bool) -> int:
    """Give a fragment, all of it captured, to its datagram; 0 where that is whole now."""
    whole = ip_defrag(
        net.frags,
        key,
        at.outer.whole,
        at.data,
        at.pos,
        at.offset + at.pos,
        begin,
        at.wire,
        more,
        at.protocol,
        at.time_ns,
        at.clamped,
        net.mib,
    )
    if whole is None:
        return Drop.IP_FRAGMENT
    at.outer.whole = whole
    at.outer.encap |= Encap.WRAP_FRAGMENTS
    at.data = whole.data
    at.pos = 0
    at.room = at.wire = whole.length
    at.protocol = whole.protocol
    return 0


def ip6_rcv_core(net: Net, at: Cursor, seg: Segment) -> int:
    """Pass an IPv6 header and its extensions; `wire` is then the length of what they carry."""
    mib = net.mib
    mib[Mib.IP6_INRECEIVES] += 1
    if at.room < _IP6HDR.size:
        mib[Mib.IP6_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    version, payload_len, at.protocol, saddr, daddr = _IP6HDR.unpack_from(at.data, at.pos)
    if version >> 4 != 6:
        mib[Mib.IP6_INHDRERRORS] += 1
        return Drop.IP_INHDR
    at.tso = not payload_len
    at.outer.network = (at.data, at.pos, at.room)
    pass_header(at, _IP6HDR.size)
    payload_len = payload_len or at.wire  # a jumbogram's (RFC 2675), and what BIG TCP leaves, is 0
    cut = at.room < payload_len
    at.wire = min(at.wire, payload_len)
    drop = ipv6_skip_exthdr(at)
    if drop == Drop.IP_FRAGMENT:
        drop = ipv6_frag_rcv(net, at, saddr, daddr, cut)
        if drop:
            return drop
        drop = ipv6_skip_exthdr(at)
        if drop == Drop.IP_FRAGMENT:  # a fragment of a fragment, which nobody sends
            drop = Drop.IPV6_BAD_EXTHDR
    if drop:
        cut_off = drop == Drop.PKT_TOO_SMALL
        mib[Mib.IP6_INTRUNCATEDPKTS if cut_off else Mib.IP6_INHDRERRORS] += 1
        return drop
    seg.ip = 6
    seg.saddr, seg.daddr = saddr, daddr
    return 0


def ipv6_frag_rcv(net: Net, at: Cursor, saddr: bytes, daddr: bytes, cut: bool) -> int:
    """Take a fragment, at whose header the cursor is; 0 where it makes a datagram whole."""
    word, number = at.be16(2), at.be32(4)
    net.mib[Mib.IP6_REASMREQDS] += 1
    at.protocol = at.byte(0)
    pass_header(at, IP6_EXTHDR_MIN)
    if cut:
        net.mib[Mib.IP6_INTRUNCATEDPKTS] += 1
        return Drop.IP_FRAGMENT
    if word & IP6_MF and at.wire & 7:  # RFC 8200 4.5
        net.mib[Mib.IP6_INHDRERRORS] += 1
        return Drop.IPV6_BAD_EXTHDR
    key = FragKey(6, saddr, daddr, number, 0, at.outer.vlans, at.outer.tunnel)
    return fragment_rcv(net, at, key, word & IP6_OFFSET, bool(word & IP6_MF))


def ipv6_skip_exthdr(at: Cursor) -> int:
    """Pass extension headers, up to that of a fragment; `wire` is what the IPv6 header claims."""
    depth = 0
    while at.protocol in IP6_EXTHDRS:
        if depth == IP6_MAX_EXTHDRS:
            return Drop.ENCAP_DEPTH
        if at.wire < IP6_EXTHDR_MIN:
            return Drop.IPV6_BAD_EXTHDR
        if at.room < IP6_EXTHDR_MIN:
            return Drop.PKT_TOO_SMALL
        if at.protocol == IPPROTO_FRAGMENT:
            # An atomic fragment (RFC 6946) is a whole datagram.
            if at.be16(2) & (IP6_OFFSET | IP6_MF):
                return Drop.IP_FRAGMENT
            size = IP6_EXTHDR_MIN
        elif at.protocol == IPPROTO_AH:
            size = (at.byte(1) + 2) * 4
        else:
            size = (at.byte(1) + 1) * 8
        if size > at.wire:
            return Drop.IPV6_BAD_EXTHDR
        if size > at.room:
            return Drop.PKT_TOO_SMALL
        at.protocol = at.byte(0)
        pass_header(at, size)
        depth += 1
    return 0


def ip_protocol_deliver(net: Net, at: Cursor, seg: Segment) -> int:
    """Pass the header of a tunnel in IP; `protocol` is then the EtherType of what it carries."""
    protocol = at.protocol
    at.room = min(at.room, at.wire)
    drop: int = Drop.IP_NOPROTO
    if protocol == IPPROTO_UDP:
        drop = udp_rcv(at)
    elif protocol == IPPROTO_GRE:
        drop = gre_rcv(at)
    elif protocol in (IPPROTO_IPIP, IPPROTO_IPV6):
        four = protocol == IPPROTO_IPIP
        at.outer.encap |= Encap.WRAP_IPIP if four else Encap.WRAP_IP6
        at.protocol = ETH_P_IP if four else ETH_P_IPV6
        drop = 0
    elif protocol == IPPROTO_MPLS:
        at.protocol = ETH_P_MPLS_UC
        drop = 0
    if drop == Drop.IP_NOPROTO:
        net.mib[Mib.IP_INUNKNOWNPROTOS if seg.ip == 4 else Mib.IP6_INUNKNOWNPROTOS] += 1
    if drop:
        return drop
    ends = sorted(_one_number(address, seg.ip) for address in (seg.saddr, seg.daddr))
    tunnel_mix(at.outer, ends[0])
    tunnel_mix(at.outer, ends[1])
    if not at.outer.ip:
        at.outer.ip = seg.ip
        at.outer.saddr, at.outer.daddr = seg.saddr, seg.daddr
    return 0


def _one_number(address: bytes, ip: int) -> int:
    if ip == 4:
        return int.from_bytes(address[12:], "big")
    first, second = int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big")
    return (first * TUNNEL_MIX & MASK64) ^ second
