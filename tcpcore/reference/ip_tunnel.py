"""What a packet can be wrapped in between link and IP, and between IP and IP: header by header.

Linux: net/8021q, net/mpls, pppoe.c, ip_gre.c, vxlan, geneve.c, gtp.c.  RFC 1042, 2516, 2637, 2784,
2890, 3032, 4380, 4448, 7348, 8926; TS 29.281; draft-foschiano-erspan.  Lengths: T-13.
"""

from __future__ import annotations

from enum import IntFlag
from struct import Struct

from .csum import Buffer
from .ip_fragment import Datagram
from .tcp import Drop

# What follows a header, in EtherTypes.
ETH_P_802_3_MIN = 0x0600  # below it the field is a length and LLC follows
ETH_P_802_2 = 0x0004
ETH_P_IP = 0x0800
ETH_P_TEB = 0x6558  # an Ethernet frame
ETH_P_IPV6 = 0x86DD
ETH_P_MPLS_UC = 0x8847
ETH_P_MPLS_MC = 0x8848
ETH_P_PPP_DISC = 0x8863
ETH_P_PPP_SES = 0x8864
ETH_P_PPP = 0x880B  # PPP in GRE
ETH_P_ERSPAN = 0x88BE
ETH_P_ERSPAN2 = 0x22EB
ETH_P_VLAN = (0x8100, 0x88A8, 0x9100, 0x9200)
KNOWN = (ETH_P_IP, ETH_P_IPV6, 0x0806, ETH_P_MPLS_UC, ETH_P_PPP_DISC, ETH_P_PPP_SES, *ETH_P_VLAN)

ETH_HLEN = 14
VLAN_MAX_DEPTH = 8
VLAN_HLEN = 4
MPLS_MAX_LABELS = 16
GTP_MAX_EXTHDRS = 16
GRE_MAX_ROUTES = 16
UDP_HLEN = 8

VXLAN_PORT = 4789
GENEVE_PORT = 6081
GTPU_PORT = 2152
TEREDO_PORT = 3544

TUNNEL_MIX = 0x9E3779B97F4A7C15
VLAN_MIX = 8191
MASK64 = (1 << 64) - 1

_U16 = Struct(">H")
_U32 = Struct(">I")


class Encap(IntFlag):
    """What wraps a packet, in the order of their drop reasons."""

    WRAP_MPLS = 1 << 0
    WRAP_PPPOE = 1 << 1
    WRAP_LLC = 1 << 2
    WRAP_GRE = 1 << 3
    WRAP_ERSPAN = 1 << 4
    WRAP_IPIP = 1 << 5
    WRAP_IP6 = 1 << 6
    WRAP_VXLAN = 1 << 7
    WRAP_GENEVE = 1 << 8
    WRAP_GTPU = 1 << 9
    WRAP_TEREDO = 1 << 10
    WRAP_FRAGMENTS = 1 << 11


Header = tuple[Buffer, int, int]


class Outer:
    """What was found around the innermost packet."""

    __slots__ = (
        "saddr",
        "daddr",
        "vlans",
        "tunnel",
        "whole",
        "network",
        "transport",
        "encap",
        "vlan",
        "inner_vlan",
        "ip",
    )

    def __init__(self) -> None:
        self.saddr = bytes(16)  # of the outermost packet, if another is in it
        self.daddr = bytes(16)
        self.vlans = 0  # of all tags in order
        self.tunnel = 0  # of all that both directions of a tunnel have in common
        self.whole: Datagram | None = None  # where the segment lies, if it came in fragments
        # Of the innermost IP and TCP headers: data, index of the header, bytes from there on.
        self.network: Header = b"", 0, 0
        self.transport: Header = b"", 0, 0
        self.encap = 0  # Encap
        self.vlan = -1  # id of the first tag, -1 for none
        self.inner_vlan = -1  # of the second
        self.ip = 0  # version of the addresses, 0 for none


class Cursor:
    """Where a header begins and how much of it there is."""

    __slots__ = (
        "data",
        "pos",
        "room",
        "wire",
        "protocol",
        "tso",
        "offset",
        "time_ns",
        "clamped",
        "outer",
    )

    def __init__(self, data: Buffer, pos: int, room: int, wire: int, outer: Outer) -> None:
        self.data = data
        self.pos = pos  # index in data of the header
        self.room = room  # bytes captured from there on
        self.wire = (
            wire  # bytes there were on the wire, or are by the lengths of the headers before
        )
        self.protocol = 0  # EtherType, in IP the protocol
        self.tso = False  # the last IP header told no length
        self.offset = 0  # of data[0] in the capture
        self.time_ns = 0
        self.clamped = False
        self.outer = outer

    def be16(self, at: int) -> int:
        """Two bytes behind the header's first `at`."""
        value: int = _U16.unpack_from(self.data, self.pos + at)[0]
        return value

    def be32(self, at: int) -> int:
        """Four bytes behind the header's first `at`."""
        value: int = _U32.unpack_from(self.data, self.pos + at)[0]
        return value

    def byte(self, at: int) -> int:
        """The byte behind the header's first `at`."""
        return self.data[self.pos + at]


def tunnel_mix(out: Outer, value: int) -> None:
    """Add what tells a tunnel from others."""
    mixed = ((out.tunnel ^ value) * TUNNEL_MIX) & MASK64
    out.tunnel = mixed ^ mixed >> 32


def pass_header(at: Cursor, size: int) -> None:
    at.pos += size
    at.room -= size
    at.wire -= size


def trim(at: Cursor, length: int) -> None:
    """A header says that so many bytes follow: what is behind them is padding."""
    at.wire = min(at.wire, length)
    at.room = min(at.room, at.wire)


def vlan_get_protocol(at: Cursor, field: int, header: int, depth: int) -> int:
    """Read an EtherType and pass VLAN tags.

    `header` is where the link header ends, `depth` how many tags were passed, the last one just
    before the field.
    """
    while depth <= VLAN_MAX_DEPTH:
        if at.room < header:
            return Drop.PKT_TOO_SMALL
        protocol = at.be16(field)
        if depth:
            vid = at.be16(field - 2) & 0xFFF
            at.outer.vlans = (at.outer.vlans * VLAN_MIX + vid + 1) & MASK64
            if at.outer.vlan < 0:
                at.outer.vlan = vid
            elif at.outer.inner_vlan < 0:
                at.outer.inner_vlan = vid
        if protocol not in ETH_P_VLAN:
            at.protocol = protocol
            pass_header(at, header)
            return 0
        field = header + 2
        header += VLAN_HLEN
        depth += 1
    return Drop.ENCAP_DEPTH


def eth_header(at: Cursor) -> int:
    """Pass an Ethernet header and its VLAN tags."""
    drop = vlan_get_protocol(at, 12, ETH_HLEN, 0)
    if not drop and at.protocol < ETH_P_802_3_MIN:
        trim(at, at.protocol)
        at.protocol = ETH_P_802_2
    return drop


def llc_rcv(at: Cursor) -> int:
    """IEEE 802.2: SNAP with an EtherType (RFC 1042, 802.1H), or IP itself."""
    if at.room < 3:
        return Drop.PKT_TOO_SMALL
    access = bytes(at.data[at.pos : at.pos + 3])
    if access == b"\x06\x06\x03":
        at.protocol = ETH_P_IP
        pass_header(at, 3)
    elif access == b"\xaa\xaa\x03":
        if at.room < 8:
            return Drop.PKT_TOO_SMALL
        at.protocol = at.be16(6)
        if at.be32(2) & 0xFFFFFF not in (0, 0x0000F8) or at.protocol < ETH_P_802_3_MIN:
            return Drop.ENCAP_LLC
        pass_header(at, 8)
    else:
        return Drop.ENCAP_LLC
    at.outer.encap |= Encap.WRAP_LLC
    return 0


def mpls_rcv(at: Cursor) -> int:
    """Pass a stack of labels.

    Nothing says what follows: IP by its version; a pseudowire's control word begins with 0
    (RFC 4385, 4448), and so do the addresses of many makers.
    """
    bottom = 0
    for _ in range(MPLS_MAX_LABELS):
        if at.room < 4:
            return Drop.PKT_TOO_SMALL
        bottom = at.byte(2) & 1
        pass_header(at, 4)
        if bottom:
            break
    if not bottom:
        return Drop.ENCAP_DEPTH
    if not at.room:
        return Drop.PKT_TOO_SMALL
    nibble = at.byte(0) >> 4
    if nibble == 1:  # the pseudowire's own control channel
        return Drop.ENCAP_MPLS
    at.outer.encap |= Encap.WRAP_MPLS
    if nibble in (4, 6):
        at.protocol = ETH_P_IP if nibble == 4 else ETH_P_IPV6
        return 0
    at.protocol = ETH_P_TEB
    if nibble:
        return 0
    if at.room < 4:
        return Drop.PKT_TOO_SMALL
    plain = at.room >= ETH_HLEN and at.be16(12) in KNOWN
    if not plain or (at.room >= ETH_HLEN + 4 and at.be16(16) in KNOWN):
        pass_header(at, 4)
    return 0


def pppoe_rcv(at: Cursor) -> int:
    """PPPoE (RFC 2516): the session's frames carry PPP, those of discovery nothing."""
    if at.room < 6:
        return Drop.PKT_TOO_SMALL
    if at.protocol == ETH_P_PPP_DISC or at.be16(0) != 0x1100:
        return Drop.ENCAP_PPPOE
    at.outer.encap |= Encap.WRAP_PPPOE
    tunnel_mix(at.outer, Encap.WRAP_PPPOE << 32 | at.be16(2))
    trim(at, 6 + at.be16(4))
    pass_header(at, 6)
    at.protocol = ETH_P_PPP
    return 0


def gre_rcv(at: Cursor) -> int:
    """GRE of either version (RFC 2784, 2890; 1701's routes; 2637's PPP)."""
    size = 4
    if at.room < size:
        return Drop.PKT_TOO_SMALL
    flags = at.be16(0)
    at.protocol = at.be16(2)
    if flags & 7 == 1:
        if at.protocol != ETH_P_PPP or not flags & 0x2000:
            return Drop.ENCAP_GRE
        size = 8 + (4 if flags & 0x1000 else 0) + (4 if flags & 0x0080 else 0)
        if at.room < size:
            return Drop.PKT_TOO_SMALL
        length = at.be16(4)
        if not length:  # an acknowledgment alone
            return Drop.ENCAP_GRE
        trim(at, size + length)
        pass_header(at, size)
        at.outer.encap |= Encap.WRAP_GRE
        return 0
    if flags & 7 or at.protocol < ETH_P_802_3_MIN:
        return Drop.ENCAP_GRE
    if flags & 0xC000:
        size += 4
    if flags & 0x2000:
        if at.room < size + 4:
            return Drop.PKT_TOO_SMALL
        tunnel_mix(at.outer, Encap.WRAP_GRE << 32 | at.be32(size))
        size += 4
    if flags & 0x1000:
        size += 4
    if flags & 0x4000:
        for depth in range(GRE_MAX_ROUTES + 1):
            if depth == GRE_MAX_ROUTES:
                return Drop.ENCAP_DEPTH
            if at.room < size + 4:
                return Drop.PKT_TOO_SMALL
            length = at.byte(size + 3)
            if at.be16(size) == 0 and not length:
                size += 4
                break
            size += 4 + length
    if at.room < size:
        return Drop.PKT_TOO_SMALL
    pass_header(at, size)
    at.outer.encap |= Encap.WRAP_GRE
    if at.protocol in (ETH_P_ERSPAN, ETH_P_ERSPAN2):
        return erspan_rcv(at, flags & 0x1000 != 0)
    return 0


def erspan_rcv(at: Cursor, numbered: bool) -> int:
    """A mirrored frame: behind no header (type I), or one of 8 (II) or 12 bytes and more (III)."""
    at.outer.encap |= Encap.WRAP_ERSPAN
    size = 12 if at.protocol == ETH_P_ERSPAN2 else 8 if numbered else 0
    at.protocol = ETH_P_TEB
    if not size:
        return 0
    if at.room < size:
        return Drop.PKT_TOO_SMALL
    if at.byte(0) >> 4 != (1 if size == 8 else 2):
        return Drop.ENCAP_ERSPAN
    kind = 0
    if size == 12:
        kind = at.be16(10) >> 10 & 0x1F
        if kind not in (0, 2):
            return Drop.ENCAP_ERSPAN
        if at.byte(11) & 1:
            size += 8
        if at.room < size:
            return Drop.PKT_TOO_SMALL
    pass_header(at, size)
    return ip_version(at, Drop.ENCAP_ERSPAN) if kind else 0  # what had no link header


def ip_version(at: Cursor, otherwise: int) -> int:
    """IP of the version that its first bits say."""
    if not at.room:
        return Drop.PKT_TOO_SMALL
    version = at.byte(0) >> 4
    if version not in (4, 6):
        return otherwise
    at.protocol = ETH_P_IP if version == 4 else ETH_P_IPV6
    return 0


def vxlan_rcv(at: Cursor) -> int:
    if at.room < 8:
        return Drop.PKT_TOO_SMALL
    if not at.byte(0) & 0x08:
        return Drop.ENCAP_VXLAN
    at.outer.encap |= Encap.WRAP_VXLAN
    tunnel_mix(at.outer, Encap.WRAP_VXLAN << 32 | at.be32(4) >> 8)
    pass_header(at, 8)
    at.protocol = ETH_P_TEB
    return 0


def geneve_rcv(at: Cursor) -> int:
    if at.room < 8:
        return Drop.PKT_TOO_SMALL
    size = 8 + (at.byte(0) & 0x3F) * 4
    at.protocol = at.be16(2)
    if at.byte(0) >> 6 or at.protocol < ETH_P_802_3_MIN:
        return Drop.ENCAP_GENEVE
    if at.room < size:
        return Drop.PKT_TOO_SMALL
    at.outer.encap |= Encap.WRAP_GENEVE
    tunnel_mix(at.outer, Encap.WRAP_GENEVE << 32 | at.be32(4) >> 8)
    pass_header(at, size)
    return 0


def gtpu_rcv(at: Cursor) -> int:
    """GTP-U (TS 29.281 5): T-PDUs, whose tunnel ids differ by direction."""
    size = 8
    if at.room < size:
        return Drop.PKT_TOO_SMALL
    if at.byte(0) & 0xF0 != 0x30 or at.byte(1) != 255:
        return Drop.ENCAP_GTPU
    trim(at, 8 + at.be16(2))
    if at.byte(0) & 7:
        size = 12
        if at.room < size:
            return Drop.PKT_TOO_SMALL
        following = at.byte(11) if at.byte(0) & 4 else 0
        for depth in range(GTP_MAX_EXTHDRS + 1):
            if not following:
                break
            if depth == GTP_MAX_EXTHDRS:
                return Drop.ENCAP_DEPTH
            if at.room <= size:
                return Drop.PKT_TOO_SMALL
            length = at.byte(size) * 4
            if not length:
                return Drop.ENCAP_GTPU
            if at.room < size + length:
                return Drop.PKT_TOO_SMALL
            size += length
            following = at.byte(size - 1)
    at.outer.encap |= Encap.WRAP_GTPU
    pass_header(at, size)
    return ip_version(at, Drop.ENCAP_GTPU)


def teredo_rcv(at: Cursor) -> int:
    """Teredo (RFC 4380 5.1.1): maybe authentication, maybe an origin, then IPv6."""
    if at.room >= 4 and at.be16(0) == 1:
        size = 13 + at.byte(2) + at.byte(3)
        if at.room < size:
            return Drop.PKT_TOO_SMALL
        pass_header(at, size)
    if at.room >= 2 and at.be16(0) == 0:
        if at.room < 8:
            return Drop.PKT_TOO_SMALL
        pass_header(at, 8)
    if not at.room:
        return Drop.PKT_TOO_SMALL
    if at.byte(0) >> 4 != 6:
        return Drop.ENCAP_TEREDO
    at.outer.encap |= Encap.WRAP_TEREDO
    at.protocol = ETH_P_IPV6
    return 0


UDP_TUNNELS = {
    VXLAN_PORT: vxlan_rcv,
    GENEVE_PORT: geneve_rcv,
    GTPU_PORT: gtpu_rcv,
    TEREDO_PORT: teredo_rcv,
}


def udp_rcv(at: Cursor) -> int:
    """What is in a UDP datagram, by its ports: the one it goes to, else the one it comes from."""
    if at.room < 4:
        return Drop.IP_NOPROTO
    tunnel = UDP_TUNNELS.get(at.be16(2)) or UDP_TUNNELS.get(at.be16(0))
    if tunnel is None:
        return Drop.IP_NOPROTO
    if at.room < UDP_HLEN:
        return Drop.PKT_TOO_SMALL
    length = at.be16(4)
    if length:  # 0: longer than the field can say (RFC 2675 4)
        if length < UDP_HLEN:
            return Drop.IP_NOPROTO
        trim(at, length)
    pass_header(at, UDP_HLEN)
    return tunnel(at)
