# A captured frame to a segment: link header, VLAN tags, IP and its extension headers, TCP.
# Linux: net/ethernet/eth.c, net/8021q, net/ipv4/ip_input.c, net/ipv6/ip6_input.c, exthdrs_core.c.
# RFC 791 3.1, RFC 8200 4, RFC 1661, RFC 4302 2.  Every length is held against the captured bytes (T-13).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from csum cimport csum_tcpudp_magic, csum_wrong, ip_fast_csum
from net cimport net
from pcap cimport frame
from tcp cimport *
from unaligned cimport cpu_to_be32, get_be16, get_be32, get_u16, get_u32, get_u64
from wire cimport IPPROTO_TCP, TCP_HDR_LEN, tcp_header, tcp_parse, tcp_parse_options

# Link types (LINKTYPE_ values of captures).
cdef enum:
    DLT_NULL = 0
    DLT_EN10MB = 1
    DLT_PPP = 9
    DLT_RAW_BSD = 12
    DLT_RAW_OPENBSD = 14
    DLT_PPP_SERIAL = 50
    DLT_RAW = 101
    DLT_LOOP = 108
    DLT_LINUX_SLL = 113
    DLT_IPV4 = 228
    DLT_IPV6 = 229
    DLT_LINUX_SLL2 = 276

cdef enum:
    ETH_HLEN = 14
    ETH_P_802_3_MIN = 0x0600  # below it the field is a length and LLC follows
    ETH_P_IP = 0x0800
    ETH_P_IPV6 = 0x86DD
    VLAN_MAX_DEPTH = 8
    VLAN_HLEN = 4
    PPP_IP = 0x0021
    PPP_IPV6 = 0x0057
    AF_INET = 2

cdef enum:
    IPPROTO_IPIP = 4
    IPPROTO_UDP = 17
    IPPROTO_IPV6 = 41
    IPPROTO_FRAGMENT = 44
    IPPROTO_GRE = 47
    IPPROTO_AH = 51
    IP_HDR_LEN = 20
    IP6_HDR_LEN = 40
    IP6_MAX_EXTHDRS = 16
    IP6_EXTHDR_MIN = 8  # bytes, of any of them
    IP_OFFSET_OR_MF = 0x3FFF
    IP6_OFFSET_OR_MF = 0xFFF9


# Where a header begins and how much of it there is.
cdef struct cursor:
    const uint8_t *data
    uint32_t room  # bytes captured from here on
    uint32_t wire  # bytes there were on the wire
    uint16_t protocol  # EtherType, later the IP protocol


cdef inline int ip_rcv(net *net, const frame *frame, segment *seg) noexcept nogil:
    """Find the TCP segment in a frame: Drop, 0 when `seg` is filled."""
    cdef cursor at
    cdef int drop
    if ip_rcv_plain(net, frame, seg):
        return 0
    seg.bad = 0
    at.data = frame.data
    at.room = frame.caplen
    at.wire = frame.wirelen
    drop = eth_type_trans(frame.linktype, &at)
    if drop:
        return drop
    if at.protocol == ETH_P_IP:
        return ip_rcv_core(net, at.data, at.room, at.wire, seg)
    return ip6_rcv_core(net, &at, seg)


cdef inline bint ip_rcv_plain(net *net, const frame *frame, segment *seg) noexcept nogil:
    """What nearly every frame is, with few tests and no cursor: TCP in IPv4 without options in
    Ethernet, all of it captured. False, and nothing done, for anything else."""
    cdef const uint8_t *iph = frame.data + ETH_HLEN
    cdef const uint8_t *th = iph + IP_HDR_LEN
    cdef uint32_t length, header, total
    cdef uint64_t pseudo
    cdef uint16_t word
    if (
        frame.linktype != DLT_EN10MB
        or frame.caplen < ETH_HLEN + IP_HDR_LEN + TCP_HDR_LEN
        or (get_be32(frame.data + 12) & <uint32_t>0xFFFFFF00) != ETH_P_IP << 16 | 0x4500
        or (get_be32(iph + 6) & <uint32_t>0x3FFF00FF) != IPPROTO_TCP  # and no fragment
    ):
        return False
    total = get_be16(iph + 2)
    word = get_be16(th + 12)
    header = (word >> 12) * 4
    if (
        header < TCP_HDR_LEN
        or total < IP_HDR_LEN + header
        or total > frame.caplen - ETH_HLEN
    ):
        return False
    pseudo = <uint64_t>get_u32(iph + 12) + get_u32(iph + 16)
    if csum_wrong(pseudo + get_u32(iph) + get_u32(iph + 4) + get_u32(iph + 8)):
        return False
    length = total - IP_HDR_LEN
    pseudo += <uint64_t>cpu_to_be32(length) + cpu_to_be32(IPPROTO_TCP)
    if csum_tcpudp_magic(th, length, pseudo):
        return False
    net.mib[IP_INRECEIVES] += 1
    seg.bad = 0
    seg.acookie = get_u64(iph + 12)
    tcp_header(seg, th, word, length - header)
    seg.ip = 4
    if header > TCP_HDR_LEN:
        tcp_parse_options(seg, th + TCP_HDR_LEN, th + header)
    return True


cdef inline void pass_header(cursor *at, uint32_t size) noexcept nogil:
    at.data += size
    at.room -= size
    at.wire -= size


cdef inline int eth_type_trans(uint16_t linktype, cursor *at) noexcept nogil:
    """Pass a link header and its VLAN tags; `protocol` is then ETH_P_IP or ETH_P_IPV6."""
    if linktype == DLT_EN10MB:
        return vlan_get_protocol(at, 12, 14)
    if linktype == DLT_LINUX_SLL:
        return vlan_get_protocol(at, 14, 16)
    if linktype == DLT_LINUX_SLL2:
        return vlan_get_protocol(at, 0, 20)
    if linktype == DLT_RAW or linktype == DLT_RAW_BSD or linktype == DLT_RAW_OPENBSD:
        return raw_get_protocol(at)
    if linktype == DLT_IPV4 or linktype == DLT_IPV6:
        at.protocol = ETH_P_IP if linktype == DLT_IPV4 else ETH_P_IPV6
        return 0
    if linktype == DLT_NULL or linktype == DLT_LOOP:
        return null_get_protocol(at)
    if linktype == DLT_PPP or linktype == DLT_PPP_SERIAL:
        return ppp_get_protocol(linktype, at)
    return LINKTYPE_UNKNOWN


cdef inline int vlan_get_protocol(cursor *at, uint32_t field, uint32_t header) noexcept nogil:
    """Read an EtherType and pass VLAN tags; `header` is where the link header ends."""
    cdef int depth
    cdef uint16_t protocol
    for depth in range(VLAN_MAX_DEPTH + 1):
        if at.room < header:
            return PKT_TOO_SMALL
        protocol = get_be16(at.data + field)
        if protocol == ETH_P_IP or protocol == ETH_P_IPV6:
            at.protocol = protocol
            pass_header(at, header)
            return 0
        if not is_vlan(protocol):
            return ethertype(protocol)
        field = header + 2
        header += VLAN_HLEN
    return ENCAP_DEPTH


cdef inline bint is_vlan(uint16_t protocol) noexcept nogil:
    return protocol == 0x8100 or protocol == 0x88A8 or protocol == 0x9100 or protocol == 0x9200


cdef inline int ethertype(uint16_t protocol) noexcept nogil:
    if protocol < ETH_P_802_3_MIN:
        return ENCAP_LLC
    if protocol == 0x8847 or protocol == 0x8848:
        return ENCAP_MPLS
    if protocol == 0x8863 or protocol == 0x8864:
        return ENCAP_PPPOE
    return UNHANDLED_PROTO


cdef inline int raw_get_protocol(cursor *at) noexcept nogil:
    cdef uint8_t version
    if at.room == 0:
        return PKT_TOO_SMALL
    version = at.data[0] >> 4
    if version != 4 and version != 6:
        return UNHANDLED_PROTO
    at.protocol = ETH_P_IP if version == 4 else ETH_P_IPV6
    return 0


cdef inline bint af_inet6(uint32_t family) noexcept nogil:
    """Linux's, NetBSD's, FreeBSD's and Darwin's AF_INET6."""
    return family == 10 or family == 24 or family == 28 or family == 30


cdef inline int null_get_protocol(cursor *at) noexcept nogil:
    """An address family in the byte order of the host that captured, whichever that was."""
    cdef uint32_t family, swapped
    if at.room < 4:
        return PKT_TOO_SMALL
    family = get_u32(at.data)
    swapped = (family >> 24) | ((family >> 8) & 0xFF00) | ((family & 0xFF00) << 8) | (family << 24)
    if family == AF_INET or swapped == AF_INET:
        at.protocol = ETH_P_IP
    elif af_inet6(family) or af_inet6(swapped):
        at.protocol = ETH_P_IPV6
    else:
        return UNHANDLED_PROTO
    pass_header(at, 4)
    return 0


cdef inline int ppp_get_protocol(uint16_t linktype, cursor *at) noexcept nogil:
    """PPP with or without HDLC's address and control, its protocol maybe compressed; Cisco HDLC."""
    cdef uint16_t framing = get_be16(at.data) if at.room >= 2 else 0
    cdef uint16_t protocol
    if framing == 0xFF03:
        pass_header(at, 2)
    elif linktype == DLT_PPP_SERIAL and (framing == 0x0F00 or framing == 0x8F00):
        return vlan_get_protocol(at, 2, 4)
    if at.room == 0:
        return PKT_TOO_SMALL
    protocol = at.data[0]
    pass_header(at, 1)
    if not protocol & 1:
        if at.room == 0:
            return PKT_TOO_SMALL
        protocol = protocol << 8 | at.data[0]
        pass_header(at, 1)
    if protocol != PPP_IP and protocol != PPP_IPV6:
        return UNHANDLED_PROTO
    at.protocol = ETH_P_IP if protocol == PPP_IP else ETH_P_IPV6
    return 0


cdef inline int ip_rcv_core(
    net *net, const uint8_t *iph, uint32_t room, uint32_t wire, segment *seg
) noexcept nogil:
    """Read an IPv4 header and deliver what it carries."""
    cdef uint32_t header, length
    cdef uint16_t tot_len
    net.mib[IP_INRECEIVES] += 1
    if room < IP_HDR_LEN:
        net.mib[IP_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    header = (iph[0] & 0xF) * 4
    if iph[0] >> 4 != 4 or header < IP_HDR_LEN:
        net.mib[IP_INHDRERRORS] += 1
        return IP_INHDR
    if room < header:
        net.mib[IP_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    tot_len = get_be16(iph + 2)
    if 0 < tot_len < header:
        net.mib[IP_INHDRERRORS] += 1
        return IP_INHDR
    if ip_fast_csum(iph, header // 4):
        net.mib[IP_CSUMERRORS] += 1
        seg.bad = BAD_IP_CSUM if get_u16(iph + 10) else BAD_IP_CSUM | BAD_IP_ZERO
    if get_be16(iph + 6) & IP_OFFSET_OR_MF:
        net.mib[IP_REASMREQDS] += 1
        return IP_FRAGMENT
    # TSO leaves a total length of 0: then the frame is the datagram.
    length = wire if tot_len == 0 else min(<uint32_t>tot_len, wire)
    room -= header
    length -= header
    if iph[9] != IPPROTO_TCP:
        net.mib[IP_INUNKNOWNPROTOS] += 1
        return ip_protocol_unknown(iph[9], iph + header, min(room, length))
    seg.ip = 4
    seg.acookie = get_u64(iph + 12)
    return tcp_rcv(seg, iph + header, room, length, tot_len == 0)


cdef inline int tcp_rcv(
    segment *seg, const uint8_t *data, uint32_t room, uint32_t length, bint tso
) noexcept nogil:
    """Read a segment; that IP told no length explains what is wrong with its checksums."""
    cdef int drop = tcp_parse(seg, data, room, length)
    if tso and seg.bad & (BAD_IP_CSUM | BAD_TCP_CSUM):
        seg.bad |= BAD_TSO
    return drop


cdef inline int ip6_rcv_core(net *net, cursor *at, segment *seg) noexcept nogil:
    """Read an IPv6 header and deliver what it carries."""
    cdef const uint8_t *iph = at.data
    cdef uint32_t length
    cdef uint16_t payload_len
    cdef int drop
    net.mib[IP6_INRECEIVES] += 1
    if at.room < IP6_HDR_LEN:
        net.mib[IP6_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    if iph[0] >> 4 != 6:
        net.mib[IP6_INHDRERRORS] += 1
        return IP_INHDR
    payload_len = get_be16(iph + 4)
    at.protocol = iph[6]
    pass_header(at, IP6_HDR_LEN)
    # A jumbogram (RFC 2675), and what BIG TCP leaves, has a payload length of 0.
    length = at.wire if payload_len == 0 else min(<uint32_t>payload_len, at.wire)
    drop = ipv6_skip_exthdr(at, &length)
    if drop:
        if drop == PKT_TOO_SMALL:
            net.mib[IP6_INTRUNCATEDPKTS] += 1
        elif drop == IP_FRAGMENT:
            net.mib[IP6_REASMREQDS] += 1
        else:
            net.mib[IP6_INHDRERRORS] += 1
        return drop
    if at.protocol != IPPROTO_TCP:
        net.mib[IP6_INUNKNOWNPROTOS] += 1
        return ip_protocol_unknown(at.protocol, at.data, min(at.room, length))
    seg.ip = 6
    seg.addrs = iph + 8
    memcpy(&seg.acookie, iph + 20, 4)
    memcpy(<uint8_t *>&seg.acookie + 4, iph + 36, 4)
    return tcp_rcv(seg, at.data, at.room, length, payload_len == 0)


cdef inline bint is_exthdr(uint16_t protocol) noexcept nogil:
    """Hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6."""
    return (
        protocol == 0
        or protocol == 43
        or protocol == IPPROTO_FRAGMENT
        or protocol == IPPROTO_AH
        or protocol == 60
        or protocol == 135
        or protocol == 139
        or protocol == 140
    )


cdef inline int ipv6_skip_exthdr(cursor *at, uint32_t *length) noexcept nogil:
    """Pass extension headers; `length` is what the IPv6 header claims and loses what they take."""
    cdef int depth = 0
    cdef uint32_t size
    while is_exthdr(at.protocol):
        if depth == IP6_MAX_EXTHDRS:
            return ENCAP_DEPTH
        if length[0] < IP6_EXTHDR_MIN:
            return IPV6_BAD_EXTHDR
        if at.room < IP6_EXTHDR_MIN:
            return PKT_TOO_SMALL
        if at.protocol == IPPROTO_FRAGMENT:
            # An atomic fragment (RFC 6946) is a whole datagram.
            if get_be16(at.data + 2) & IP6_OFFSET_OR_MF:
                return IP_FRAGMENT
            size = IP6_EXTHDR_MIN
        elif at.protocol == IPPROTO_AH:
            size = (at.data[1] + 2) * 4
        else:
            size = (at.data[1] + 1) * 8
        if size > length[0]:
            return IPV6_BAD_EXTHDR
        if size > at.room:
            return PKT_TOO_SMALL
        at.protocol = at.data[0]
        pass_header(at, size)
        length[0] -= size
        depth += 1
    return 0


cdef inline int ip_protocol_unknown(
    uint16_t protocol, const uint8_t *data, uint32_t room
) noexcept nogil:
    """Say which encapsulation a protocol other than TCP is, as far as `room` bytes tell."""
    cdef int drop
    if protocol == IPPROTO_UDP:
        if room < 4:
            return IP_NOPROTO
        drop = udp_tunnel(get_be16(data + 2))
        if drop == IP_NOPROTO:  # these two answer from their port
            drop = udp_tunnel(get_be16(data))
            if drop != ENCAP_TEREDO and drop != ENCAP_GTPU:
                return IP_NOPROTO
        return drop
    if protocol == IPPROTO_GRE:
        if room >= 4 and (get_be16(data + 2) == 0x88BE or get_be16(data + 2) == 0x22EB):
            return ENCAP_ERSPAN
        return ENCAP_GRE
    if protocol == IPPROTO_IPIP:
        return ENCAP_IPIP
    if protocol == IPPROTO_IPV6:
        return ENCAP_IP6
    return IP_NOPROTO


cdef inline int udp_tunnel(uint16_t port) noexcept nogil:
    if port == 4789:
        return ENCAP_VXLAN
    if port == 6081:
        return ENCAP_GENEVE
    if port == 2152:
        return ENCAP_GTPU
    if port == 3544:
        return ENCAP_TEREDO
    return IP_NOPROTO
