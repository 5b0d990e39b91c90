"""A captured frame to a segment: link header, VLAN tags, IP and its extension headers, TCP.

Linux: net/ethernet/eth.c, net/8021q, net/ipv4/ip_input.c, net/ipv6/ip6_input.c, exthdrs_core.c.
RFC 791 3.1, RFC 8200 4, RFC 1661.  Every length is held against the captured bytes (T-13).
"""

from __future__ import annotations

from struct import Struct

from .csum import Buffer, ip_fast_csum
from .net import Net
from .tcp import Bad, Drop, Mib, Segment
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

ETH_P_802_3_MIN = 0x0600  # below it the field is a length and LLC follows
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETH_P_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
ETH_P_MPLS = (0x8847, 0x8848)
ETH_P_PPPOE = (0x8863, 0x8864)
VLAN_MAX_DEPTH = 8
VLAN_HLEN = 4

PPP_IP = 0x0021
PPP_IPV6 = 0x0057
# AF_INET6 is 10 in Linux, 24 in NetBSD, 28 in FreeBSD, 30 in Darwin.
AF_INET = 2
AF_INET6 = (10, 24, 28, 30)

IPPROTO_IPIP = 4
IPPROTO_UDP = 17
IPPROTO_IPV6 = 41
IPPROTO_FRAGMENT = 44
IPPROTO_GRE = 47
IPPROTO_AH = 51
# Besides these two: hop-by-hop, routing, destination options, mobility, HIP, shim6.
IP6_EXTHDRS = frozenset((IPPROTO_FRAGMENT, IPPROTO_AH, 0, 43, 60, 135, 139, 140))
IP6_MAX_EXTHDRS = 16
IP6_EXTHDR_MIN = 8  # bytes, of any of them

IP_OFFSET_OR_MF = 0x3FFF
IP6_OFFSET_OR_MF = 0xFFF9

GRE_ERSPAN = (0x88BE, 0x22EB)
UDP_TUNNELS = {
    4789: Drop.ENCAP_VXLAN,
    6081: Drop.ENCAP_GENEVE,
    2152: Drop.ENCAP_GTPU,
    3544: Drop.ENCAP_TEREDO,
}
UDP_TUNNELS_BY_SOURCE = (3544, 2152)  # these answer from their port

BAD_IP_CSUM, BAD_TCP_CSUM = int(Bad.BAD_IP_CSUM), int(Bad.BAD_TCP_CSUM)
BAD_TSO, BAD_IP_ZERO = int(Bad.BAD_TSO), int(Bad.BAD_IP_ZERO)

_MAPPED = bytes(10) + b"\xff\xff"
_IPHDR = Struct(">BxHxxHxBxx4s4s")  # version and ihl, total length, fragment, protocol, addresses
_IP6HDR = Struct(">B3xHBx16s16s")  # version, payload length, next header, addresses
_U16 = Struct(">H")
_PORTS = Struct(">HH")


def ip_rcv(
    net: Net,
    linktype: int,
    data: Buffer,
    start: int,
    caplen: int,
    wirelen: int,
    seg: Segment,
) -> int:
    """Find the TCP segment in a frame.

    Parameters
    ----------
    net : Net; its IP counters move
    linktype : int, LINKTYPE_ value of the interface
    data : buffer of bytes
    start : int, index in data of the frame
    caplen : int, bytes of it that were captured
    wirelen : int, bytes it had on the wire, not below caplen
    seg : Segment to fill

    Returns
    -------
    int : Drop, 0 when `seg` is filled
    """
    seg.bad = 0
    end = start + caplen
    drop, protocol, pos = eth_type_trans(linktype, data, start, end)
    if drop:
        return drop
    wire = start + wirelen - pos
    if protocol == ETH_P_IP:
        return ip_rcv_core(net, data, pos, end, wire, seg)
    return ip6_rcv_core(net, data, pos, end, wire, seg)


def eth_type_trans(linktype: int, data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    """Pass a link header and its VLAN tags: (Drop, ETH_P_IP or ETH_P_IPV6, index of IP)."""
    if linktype == DLT_EN10MB:
        return vlan_get_protocol(data, start + 12, start + 14, end)
    if linktype == DLT_LINUX_SLL:
        return vlan_get_protocol(data, start + 14, start + 16, end)
    if linktype == DLT_LINUX_SLL2:
        return vlan_get_protocol(data, start, start + 20, end)
    if linktype in DLT_RAW:
        return raw_get_protocol(data, start, end)
    if linktype == DLT_IPV4:
        return 0, ETH_P_IP, start
    if linktype == DLT_IPV6:
        return 0, ETH_P_IPV6, start
    if linktype in (DLT_NULL, DLT_LOOP):
        return null_get_protocol(data, start, end)
    if linktype in (DLT_PPP, DLT_PPP_SERIAL):
        return ppp_get_protocol(linktype, data, start, end)
    return Drop.LINKTYPE_UNKNOWN, 0, start


def vlan_get_protocol(data: Buffer, field: int, pos: int, end: int) -> tuple[int, int, int]:
    """Read an EtherType and pass VLAN tags; `pos` is where the link header ends."""
    for _ in range(VLAN_MAX_DEPTH + 1):
        if pos > end:
            return Drop.PKT_TOO_SMALL, 0, pos
        (protocol,) = _U16.unpack_from(data, field)
        if protocol not in ETH_P_VLAN:
            return ethertype(protocol), protocol, pos
        field = pos + 2
        pos += VLAN_HLEN
    return Drop.ENCAP_DEPTH, 0, pos


def ethertype(protocol: int) -> int:
    if protocol in (ETH_P_IP, ETH_P_IPV6):
        return 0
    if protocol < ETH_P_802_3_MIN:
        return Drop.ENCAP_LLC
    if protocol in ETH_P_MPLS:
        return Drop.ENCAP_MPLS
    if protocol in ETH_P_PPPOE:
        return Drop.ENCAP_PPPOE
    return Drop.UNHANDLED_PROTO


def raw_get_protocol(data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    if start == end:
        return Drop.PKT_TOO_SMALL, 0, start
    version = data[start] >> 4
    if version == 4:
        return 0, ETH_P_IP, start
    if version == 6:
        return 0, ETH_P_IPV6, start
    return Drop.UNHANDLED_PROTO, 0, start


def null_get_protocol(data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    """An address family in the byte order of the host that captured, whichever that was."""
    pos = start + 4
    if pos > end:
        return Drop.PKT_TOO_SMALL, 0, pos
    field = bytes(data[start:pos])
    families = int.from_bytes(field, "big"), int.from_bytes(field, "little")
    if AF_INET in families:
        return 0, ETH_P_IP, pos
    if families[0] in AF_INET6 or families[1] in AF_INET6:
        return 0, ETH_P_IPV6, pos
    return Drop.UNHANDLED_PROTO, 0, pos


def ppp_get_protocol(linktype: int, data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    """PPP with or without HDLC's address and control, its protocol maybe compressed; Cisco HDLC."""
    pos = start
    framing = bytes(data[start : min(start + 2, end)])
    if framing == b"\xff\x03":
        pos += 2
    elif linktype == DLT_PPP_SERIAL and framing in (b"\x0f\x00", b"\x8f\x00"):
        return vlan_get_protocol(data, start + 2, start + 4, end)
    if pos >= end:
        return Drop.PKT_TOO_SMALL, 0, pos
    protocol = data[pos]
    pos += 1
    if not protocol & 1:
        if pos >= end:
            return Drop.PKT_TOO_SMALL, 0, pos
        protocol = protocol << 8 | data[pos]
        pos += 1
    if protocol == PPP_IP:
        return 0, ETH_P_IP, pos
    if protocol == PPP_IPV6:
        return 0, ETH_P_IPV6, pos
    return Drop.UNHANDLED_PROTO, 0, pos


def ip_rcv_core(net: Net, data: Buffer, pos: int, end: int, wire: int, seg: Segment) -> int:
    """Read an IPv4 header and deliver what it carries.

    Parameters
    ----------
    pos, end : int, indices in data of the header and of the end of the captured bytes
    wire : int, bytes the frame had on the wire from the header on
    """
    mib = net.mib
    mib[Mib.IP_INRECEIVES] += 1
    if end - pos < _IPHDR.size:
        mib[Mib.IP_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    version, tot_len, frag_off, protocol, saddr, daddr = _IPHDR.unpack_from(data, pos)
    header = (version & 0xF) * 4
    if version >> 4 != 4 or header < _IPHDR.size:
        mib[Mib.IP_INHDRERRORS] += 1
        return Drop.IP_INHDR
    if end - pos < header:
        mib[Mib.IP_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    if 0 < tot_len < header:
        mib[Mib.IP_INHDRERRORS] += 1
        return Drop.IP_INHDR
    if ip_fast_csum(data[pos : pos + header]):
        mib[Mib.IP_CSUMERRORS] += 1
        unfilled = not (data[pos + 10] or data[pos + 11])
        seg.bad = BAD_IP_CSUM | (BAD_IP_ZERO if unfilled else 0)
    if frag_off & IP_OFFSET_OR_MF:
        mib[Mib.IP_REASMREQDS] += 1
        return Drop.IP_FRAGMENT
    # TSO leaves a total length of 0: then the frame is the datagram.
    length = min(tot_len or wire, wire) - header
    pos += header
    if protocol != IPPROTO_TCP:
        mib[Mib.IP_INUNKNOWNPROTOS] += 1
        return ip_protocol_unknown(protocol, data, pos, min(end - pos, length))
    seg.ip = 4
    seg.saddr = _MAPPED + saddr
    seg.daddr = _MAPPED + daddr
    return tcp_rcv(seg, data, pos, end - pos, length, not tot_len)


def tcp_rcv(seg: Segment, data: Buffer, pos: int, room: int, length: int, tso: bool) -> int:
    """Read a segment; that IP told no length explains what is wrong with its checksums."""
    drop = tcp_parse(seg, data, pos, room, length)
    if tso and seg.bad & (BAD_IP_CSUM | BAD_TCP_CSUM):
        seg.bad |= BAD_TSO
    return drop


def ip6_rcv_core(net: Net, data: Buffer, pos: int, end: int, wire: int, seg: Segment) -> int:
    """Read an IPv6 header and deliver what it carries; parameters as in `ip_rcv_core`."""
    mib = net.mib
    mib[Mib.IP6_INRECEIVES] += 1
    if end - pos < _IP6HDR.size:
        mib[Mib.IP6_INTRUNCATEDPKTS] += 1
        return Drop.PKT_TOO_SMALL
    version, payload_len, protocol, seg.saddr, seg.daddr = _IP6HDR.unpack_from(data, pos)
    if version >> 4 != 6:
        mib[Mib.IP6_INHDRERRORS] += 1
        return Drop.IP_INHDR
    pos += _IP6HDR.size
    wire -= _IP6HDR.size
    # A jumbogram (RFC 2675), and what BIG TCP leaves, has a payload length of 0.
    length = min(payload_len or wire, wire)
    drop, protocol, size = ipv6_skip_exthdr(protocol, data, pos, end - pos, length)
    if drop:
        mib[_EXTHDR_MIB[drop]] += 1
        return drop
    pos += size
    length -= size
    if protocol != IPPROTO_TCP:
        mib[Mib.IP6_INUNKNOWNPROTOS] += 1
        return ip_protocol_unknown(protocol, data, pos, min(end - pos, length))
    seg.ip = 6
    return tcp_rcv(seg, data, pos, end - pos, length, not payload_len)


_EXTHDR_MIB = {
    Drop.PKT_TOO_SMALL: Mib.IP6_INTRUNCATEDPKTS,
    Drop.IPV6_BAD_EXTHDR: Mib.IP6_INHDRERRORS,
    Drop.ENCAP_DEPTH: Mib.IP6_INHDRERRORS,
    Drop.IP_FRAGMENT: Mib.IP6_REASMREQDS,
}


def ipv6_skip_exthdr(
    protocol: int, data: Buffer, start: int, room: int, length: int
) -> tuple[Drop, int, int]:
    """Pass extension headers: (Drop, protocol after them, bytes they take).

    `room` bytes were captured from start on, `length` is what the IPv6 header claims.
    """
    size = depth = 0
    while protocol in IP6_EXTHDRS:
        if depth == IP6_MAX_EXTHDRS:
            return Drop.ENCAP_DEPTH, protocol, size
        if length - size < IP6_EXTHDR_MIN:
            return Drop.IPV6_BAD_EXTHDR, protocol, size
        if room - size < IP6_EXTHDR_MIN:
            return Drop.PKT_TOO_SMALL, protocol, size
        pos = start + size
        if protocol == IPPROTO_FRAGMENT:
            # An atomic fragment (RFC 6946) is a whole datagram.
            if _U16.unpack_from(data, pos + 2)[0] & IP6_OFFSET_OR_MF:
                return Drop.IP_FRAGMENT, protocol, size
            size += IP6_EXTHDR_MIN
        elif protocol == IPPROTO_AH:
            size += (data[pos + 1] + 2) * 4
        else:
            size += (data[pos + 1] + 1) * 8
        if size > length:
            return Drop.IPV6_BAD_EXTHDR, protocol, size
        if size > room:
            return Drop.PKT_TOO_SMALL, protocol, size
        protocol = data[pos]
        depth += 1
    return Drop.SKB_NOT_DROPPED_YET, protocol, size


def ip_protocol_unknown(protocol: int, data: Buffer, pos: int, room: int) -> Drop:
    """Say which encapsulation a protocol other than TCP is, as far as `room` bytes tell."""
    if protocol == IPPROTO_UDP and room >= _PORTS.size:
        sport, dport = _PORTS.unpack_from(data, pos)
        if dport in UDP_TUNNELS:
            return UDP_TUNNELS[dport]
        if sport in UDP_TUNNELS_BY_SOURCE:
            return UDP_TUNNELS[sport]
    elif protocol == IPPROTO_GRE:
        if room >= 4 and _U16.unpack_from(data, pos + 2)[0] in GRE_ERSPAN:
            return Drop.ENCAP_ERSPAN
        return Drop.ENCAP_GRE
    elif protocol == IPPROTO_IPIP:
        return Drop.ENCAP_IPIP
    elif protocol == IPPROTO_IPV6:
        return Drop.ENCAP_IP6
    return Drop.IP_NOPROTO
