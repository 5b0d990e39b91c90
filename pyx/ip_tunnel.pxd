# What a packet can be wrapped in between link and IP, and between IP and IP: header by header.
# Linux: net/8021q, net/mpls, pppoe.c, ip_gre.c, vxlan, geneve.c, gtp.c.  RFC 1042, 2516, 2637,
# 2784, 2890, 3032, 4380, 4448, 7348, 8926; TS 29.281; draft-foschiano-erspan.  Lengths: T-13.

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from ip_fragment cimport datagram
from pcap cimport frame
from tcp cimport *
from unaligned cimport get_be16, get_be32

# What follows a header, in EtherTypes.
cdef enum:
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

cdef enum:
    ETH_HLEN = 14
    VLAN_MAX_DEPTH = 8
    VLAN_HLEN = 4
    MPLS_MAX_LABELS = 16
    GTP_MAX_EXTHDRS = 16
    GRE_MAX_ROUTES = 16
    UDP_HLEN = 8

cdef enum:  # Udp
    VXLAN_PORT = 4789
    GENEVE_PORT = 6081
    GTPU_PORT = 2152
    TEREDO_PORT = 3544

cdef enum:  # Encap
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

cdef extern from *:
    """
    #define TUNNEL_MIX 0x9E3779B97F4A7C15ull
    #define VLAN_MIX 8191ull
    """
    const uint64_t TUNNEL_MIX
    const uint64_t VLAN_MIX

# What was found around the innermost packet.
cdef struct outer:
    uint8_t addrs[32]  # the outermost packet's, if another is in it: source and destination
    uint64_t vlans  # of all tags in order
    uint64_t tunnel  # of all that both directions of a tunnel have in common
    const datagram *whole  # where the segment lies, if it came in fragments
    const uint8_t *network_header  # the innermost
    uint32_t network_room  # bytes captured from there on
    uint32_t transport_room  # and from the segment's header on
    uint16_t encap  # Encap
    int16_t vlan  # id of the first tag, -1 for none
    int16_t inner_vlan  # of the second
    uint8_t ip  # version of `addrs`, 0 for none

# Where a header begins and how much of it there is.
cdef struct cursor:
    const uint8_t *data
    uint32_t room  # bytes captured from here on
    uint32_t wire  # bytes there were on the wire, or are by the lengths of the headers before
    uint16_t protocol  # EtherType, in IP the protocol
    uint8_t tso  # the last IP header told no length
    const frame *frame
    outer *outer


cdef inline void outer_clear(outer *out) noexcept nogil:
    out.vlans = out.tunnel = 0
    out.whole = NULL
    out.encap = 0
    out.vlan = out.inner_vlan = -1
    out.ip = 0


cdef inline void tunnel_mix(outer *out, uint64_t value) noexcept nogil:
    """Add what tells a tunnel from others."""
    out.tunnel = (out.tunnel ^ value) * TUNNEL_MIX
    out.tunnel ^= out.tunnel >> 32


cdef inline void pass_header(cursor *at, uint32_t size) noexcept nogil:
    at.data += size
    at.room -= size
    at.wire -= size


cdef inline void trim(cursor *at, uint32_t length) noexcept nogil:
    """A header says that so many bytes follow: what is behind them is padding."""
    at.wire = min(at.wire, length)
    at.room = min(at.room, at.wire)


cdef inline bint is_vlan(uint16_t protocol) noexcept nogil:
    return protocol == 0x8100 or protocol == 0x88A8 or protocol == 0x9100 or protocol == 0x9200


cdef inline int vlan_get_protocol(
    cursor *at, uint32_t field, uint32_t header, int depth
) noexcept nogil:
    """Read an EtherType and pass VLAN tags; `header` is where the link header ends, `depth` how
    many tags were passed, the last one just before the field."""
    cdef uint16_t protocol, vid
    while depth <= VLAN_MAX_DEPTH:
        if at.room < header:
            return PKT_TOO_SMALL
        protocol = get_be16(at.data + field)
        if depth:
            vid = get_be16(at.data + field - 2) & 0xFFF
            at.outer.vlans = at.outer.vlans * VLAN_MIX + vid + 1
            if at.outer.vlan < 0:
                at.outer.vlan = vid
            elif at.outer.inner_vlan < 0:
                at.outer.inner_vlan = vid
        if not is_vlan(protocol):
            at.protocol = protocol
            pass_header(at, header)
            return 0
        field = header + 2
        header += VLAN_HLEN
        depth += 1
    return ENCAP_DEPTH


cdef inline int eth_header(cursor *at) noexcept nogil:
    """Pass an Ethernet header and its VLAN tags."""
    cdef int drop = vlan_get_protocol(at, 12, ETH_HLEN, 0)
    if drop == 0 and at.protocol < ETH_P_802_3_MIN:
        trim(at, at.protocol)
        at.protocol = ETH_P_802_2
    return drop


cdef inline int llc_rcv(cursor *at) noexcept nogil:
    """IEEE 802.2: SNAP with an EtherType (RFC 1042, 802.1H), or IP itself."""
    cdef uint32_t oui
    if at.room < 3:
        return PKT_TOO_SMALL
    if at.data[0] == 0x06 and at.data[1] == 0x06 and at.data[2] == 3:
        at.protocol = ETH_P_IP
        pass_header(at, 3)
    elif at.data[0] == 0xAA and at.data[1] == 0xAA and at.data[2] == 3:
        if at.room < 8:
            return PKT_TOO_SMALL
        oui = get_be32(at.data + 2) & 0xFFFFFF
        at.protocol = get_be16(at.data + 6)
        if (oui != 0 and oui != 0x0000F8) or at.protocol < ETH_P_802_3_MIN:
            return ENCAP_LLC
        pass_header(at, 8)
    else:
        return ENCAP_LLC
    at.outer.encap |= WRAP_LLC
    return 0


cdef inline bint known_ethertype(uint16_t protocol) noexcept nogil:
    """True if it is likely that these two bytes are an EtherType."""
    return (
        protocol == ETH_P_IP
        or protocol == ETH_P_IPV6
        or protocol == 0x0806
        or protocol == ETH_P_MPLS_UC
        or protocol == ETH_P_PPP_DISC
        or protocol == ETH_P_PPP_SES
        or is_vlan(protocol)
    )


cdef inline int mpls_rcv(cursor *at) noexcept nogil:
    """Pass a stack of labels. Nothing says what follows: IP by its version; a pseudowire's control
    word begins with 0 (RFC 4385, 4448), and so do the addresses of many makers."""
    cdef int depth
    cdef bint bottom = False
    cdef uint8_t nibble
    for depth in range(MPLS_MAX_LABELS):
        if at.room < 4:
            return PKT_TOO_SMALL
        bottom = at.data[2] & 1
        pass_header(at, 4)
        if bottom:
            break
    if not bottom:
        return ENCAP_DEPTH
    if at.room == 0:
        return PKT_TOO_SMALL
    nibble = at.data[0] >> 4
    if nibble == 1:  # the pseudowire's own control channel
        return ENCAP_MPLS
    at.outer.encap |= WRAP_MPLS
    if nibble == 4 or nibble == 6:
        at.protocol = ETH_P_IP if nibble == 4 else ETH_P_IPV6
        return 0
    at.protocol = ETH_P_TEB
    if nibble:
        return 0
    if at.room < 4:
        return PKT_TOO_SMALL
    if at.room >= ETH_HLEN and known_ethertype(get_be16(at.data + 12)):
        if at.room < ETH_HLEN + 4 or not known_ethertype(get_be16(at.data + 16)):
            return 0
    pass_header(at, 4)
    return 0


cdef inline int pppoe_rcv(cursor *at) noexcept nogil:
    """PPPoE (RFC 2516): the session's frames carry PPP, those of discovery nothing."""
    if at.room < 6:
        return PKT_TOO_SMALL
    if at.protocol == ETH_P_PPP_DISC or at.data[0] != 0x11 or at.data[1]:
        return ENCAP_PPPOE
    at.outer.encap |= WRAP_PPPOE
    tunnel_mix(at.outer, <uint64_t>WRAP_PPPOE << 32 | get_be16(at.data + 2))
    trim(at, 6 + <uint32_t>get_be16(at.data + 4))
    pass_header(at, 6)
    at.protocol = ETH_P_PPP
    return 0


cdef inline int gre_rcv(cursor *at) noexcept nogil:
    """GRE of either version (RFC 2784, 2890; 1701's routes; 2637's PPP)."""
    cdef uint16_t flags, length
    cdef uint32_t size = 4
    cdef int depth
    if at.room < size:
        return PKT_TOO_SMALL
    flags = get_be16(at.data)
    at.protocol = get_be16(at.data + 2)
    if flags & 7 == 1:
        if at.protocol != ETH_P_PPP or not flags & 0x2000:
            return ENCAP_GRE
        size = 8 + (4 if flags & 0x1000 else 0) + (4 if flags & 0x0080 else 0)
        if at.room < size:
            return PKT_TOO_SMALL
        length = get_be16(at.data + 4)
        if length == 0:  # an acknowledgment alone
            return ENCAP_GRE
        trim(at, size + <uint32_t>length)
        pass_header(at, size)
        at.outer.encap |= WRAP_GRE
        return 0
    if flags & 7 or at.protocol < ETH_P_802_3_MIN:
        return ENCAP_GRE
    if flags & 0xC000:
        size += 4
    if flags & 0x2000:
        if at.room < size + 4:
            return PKT_TOO_SMALL
        tunnel_mix(at.outer, <uint64_t>WRAP_GRE << 32 | get_be32(at.data + size))
        size += 4
    if flags & 0x1000:
        size += 4
    if flags & 0x4000:
        for depth in range(GRE_MAX_ROUTES + 1):
            if depth == GRE_MAX_ROUTES:
                return ENCAP_DEPTH
            if at.room < size + 4:
                return PKT_TOO_SMALL
            length = at.data[size + 3]
            if get_be16(at.data + size) == 0 and length == 0:
                size += 4
                break
            size += 4 + length
    if at.room < size:
        return PKT_TOO_SMALL
    pass_header(at, size)
    at.outer.encap |= WRAP_GRE
    if at.protocol == ETH_P_ERSPAN or at.protocol == ETH_P_ERSPAN2:
        return erspan_rcv(at, flags & 0x1000 != 0)
    return 0


cdef inline int erspan_rcv(cursor *at, bint numbered) noexcept nogil:
    """A mirrored frame: behind no header (type I), or one of 8 (II) or 12 bytes and more (III)."""
    cdef uint32_t size = 0
    cdef uint16_t kind = 0
    at.outer.encap |= WRAP_ERSPAN
    if at.protocol == ETH_P_ERSPAN2:
        size = 12
    elif numbered:
        size = 8
    at.protocol = ETH_P_TEB
    if size == 0:
        return 0
    if at.room < size:
        return PKT_TOO_SMALL
    if at.data[0] >> 4 != (1 if size == 8 else 2):
        return ENCAP_ERSPAN
    if size == 12:
        kind = get_be16(at.data + 10) >> 10 & 0x1F
        if kind != 0 and kind != 2:
            return ENCAP_ERSPAN
        if at.data[11] & 1:
            size += 8
        if at.room < size:
            return PKT_TOO_SMALL
    pass_header(at, size)
    return ip_version(at, ENCAP_ERSPAN) if kind else 0  # what had no link header


cdef inline int ip_version(cursor *at, int otherwise) noexcept nogil:
    """IP of the version that its first bits say."""
    cdef uint8_t version
    if at.room == 0:
        return PKT_TOO_SMALL
    version = at.data[0] >> 4
    if version != 4 and version != 6:
        return otherwise
    at.protocol = ETH_P_IP if version == 4 else ETH_P_IPV6
    return 0


cdef inline int vxlan_rcv(cursor *at) noexcept nogil:
    if at.room < 8:
        return PKT_TOO_SMALL
    if not at.data[0] & 0x08:
        return ENCAP_VXLAN
    at.outer.encap |= WRAP_VXLAN
    tunnel_mix(at.outer, <uint64_t>WRAP_VXLAN << 32 | get_be32(at.data + 4) >> 8)
    pass_header(at, 8)
    at.protocol = ETH_P_TEB
    return 0


cdef inline int geneve_rcv(cursor *at) noexcept nogil:
    cdef uint32_t size
    if at.room < 8:
        return PKT_TOO_SMALL
    size = 8 + (at.data[0] & 0x3F) * 4
    at.protocol = get_be16(at.data + 2)
    if at.data[0] >> 6 or at.protocol < ETH_P_802_3_MIN:
        return ENCAP_GENEVE
    if at.room < size:
        return PKT_TOO_SMALL
    at.outer.encap |= WRAP_GENEVE
    tunnel_mix(at.outer, <uint64_t>WRAP_GENEVE << 32 | get_be32(at.data + 4) >> 8)
    pass_header(at, size)
    return 0


cdef inline int gtpu_rcv(cursor *at) noexcept nogil:
    """GTP-U (TS 29.281 5): T-PDUs, whose tunnel ids differ by direction."""
    cdef uint32_t size = 8, length
    cdef uint8_t following
    cdef int depth
    if at.room < size:
        return PKT_TOO_SMALL
    if at.data[0] & 0xF0 != 0x30 or at.data[1] != 255:
        return ENCAP_GTPU
    trim(at, 8 + <uint32_t>get_be16(at.data + 2))
    if at.data[0] & 7:
        size = 12
        if at.room < size:
            return PKT_TOO_SMALL
        following = at.data[11] if at.data[0] & 4 else 0
        for depth in range(GTP_MAX_EXTHDRS + 1):
            if following == 0:
                break
            if depth == GTP_MAX_EXTHDRS:
                return ENCAP_DEPTH
            if at.room <= size:
                return PKT_TOO_SMALL
            length = at.data[size] * 4
            if length == 0:
                return ENCAP_GTPU
            if at.room < size + length:
                return PKT_TOO_SMALL
            size += length
            following = at.data[size - 1]
    at.outer.encap |= WRAP_GTPU
    pass_header(at, size)
    return ip_version(at, ENCAP_GTPU)


cdef inline int teredo_rcv(cursor *at) noexcept nogil:
    """Teredo (RFC 4380 5.1.1): maybe authentication, maybe an origin, then IPv6."""
    cdef uint32_t size
    if at.room >= 4 and get_be16(at.data) == 1:
        size = 13 + at.data[2] + at.data[3]
        if at.room < size:
            return PKT_TOO_SMALL
        pass_header(at, size)
    if at.room >= 2 and get_be16(at.data) == 0:
        if at.room < 8:
            return PKT_TOO_SMALL
        pass_header(at, 8)
    if at.room == 0:
        return PKT_TOO_SMALL
    if at.data[0] >> 4 != 6:
        return ENCAP_TEREDO
    at.outer.encap |= WRAP_TEREDO
    at.protocol = ETH_P_IPV6
    return 0


cdef inline bint is_udp_tunnel(uint16_t port) noexcept nogil:
    return (
        port == VXLAN_PORT or port == GENEVE_PORT or port == GTPU_PORT or port == TEREDO_PORT
    )


cdef inline int udp_rcv(cursor *at) noexcept nogil:
    """What is in a UDP datagram, by its ports: the one it goes to, else the one it comes from."""
    cdef uint16_t port, length
    if at.room < 4:
        return IP_NOPROTO
    port = get_be16(at.data + 2)
    if not is_udp_tunnel(port):
        port = get_be16(at.data)
        if not is_udp_tunnel(port):
            return IP_NOPROTO
    if at.room < UDP_HLEN:
        return PKT_TOO_SMALL
    length = get_be16(at.data + 4)
    if length:  # 0: longer than the field can say (RFC 2675 4)
        if length < UDP_HLEN:
            return IP_NOPROTO
        trim(at, length)
    pass_header(at, UDP_HLEN)
    if port == VXLAN_PORT:
        return vxlan_rcv(at)
    if port == GENEVE_PORT:
        return geneve_rcv(at)
    if port == GTPU_PORT:
        return gtpu_rcv(at)
    return teredo_rcv(at)
