# A captured frame to a segment: link header, IP and its extension headers, what wraps them, TCP.
# Linux: net/ethernet/eth.c, net/ipv4/ip_input.c, net/ipv6/ip6_input.c, exthdrs_core.c.
# RFC 791 3.1, RFC 8200 4, RFC 1661, RFC 4302 2.  Every length is held against the captured bytes (T-13).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from csum cimport csum_tcpudp_magic, csum_wrong, ip_fast_csum
from ip_fragment cimport datagram, frag_key, ip_defrag
from ip_tunnel cimport *
from net cimport net
from pcap cimport frame
from snmp cimport *
from tcp cimport *
from unaligned cimport (
    cpu_to_be32,
    get_be16,
    get_be32,
    get_be64,
    get_u16,
    get_u32,
    get_u64,
    ipv6_addr_set_v4mapped,
)
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
    PPP_IP = 0x0021
    PPP_IPV6 = 0x0057
    PPP_MPLS_UC = 0x0281
    PPP_MPLS_MC = 0x0283
    AF_INET = 2

cdef enum:
    IPPROTO_IPIP = 4
    IPPROTO_UDP = 17
    IPPROTO_IPV6 = 41
    IPPROTO_FRAGMENT = 44
    IPPROTO_GRE = 47
    IPPROTO_AH = 51
    IPPROTO_MPLS = 137
    IP_HDR_LEN = 20
    IP6_HDR_LEN = 40
    IP6_MAX_EXTHDRS = 16
    IP6_EXTHDR_MIN = 8  # bytes, of any of them
    IP_MF = 0x2000
    IP_OFFSET = 0x1FFF
    IP6_MF = 0x0001
    IP6_OFFSET = 0xFFF8
    ENCAP_MAX_DEPTH = 16  # headers in each other, from the first behind the link header to TCP's


cdef inline int ip_rcv(
    net *net, const frame *frame, segment *seg, outer *out
) noexcept nogil:
    """Find the innermost TCP segment in a frame, header by header: Drop, 0 when `seg` is filled.

    `out` tells what is around it, as far as it was read.
    """
    cdef cursor at
    cdef int drop, depth
    seg.bad = 0
    outer_clear(out)
    at.data = frame.data
    at.room = frame.caplen
    at.wire = frame.wirelen
    at.tso = 0
    at.frame = frame
    at.outer = out
    drop = eth_type_trans(frame.linktype, &at)
    for depth in range(ENCAP_MAX_DEPTH):
        if drop:
            return drop
        if at.protocol == ETH_P_IP:
            drop = ip_rcv_core(net, &at, seg)
        elif at.protocol == ETH_P_IPV6:
            drop = ip6_rcv_core(net, &at, seg)
        else:
            drop = netif_receive(&at)
            continue
        if drop == 0 and at.protocol == IPPROTO_TCP:
            # What a link says of a checksum is of the outermost packet.
            return tcp_rcv(&at, seg, net.ip_summed and not out.encap)
        if drop == 0:
            drop = ip_protocol_deliver(net, &at, seg)
    return drop if drop else ENCAP_DEPTH


cdef inline int tcp_rcv(cursor *at, segment *seg, bint summed) noexcept nogil:
    """Read a segment; that IP told no length explains what is wrong with its checksums."""
    cdef int drop = tcp_parse(seg, at.data, at.room, at.wire, summed)
    at.outer.transport_room = at.room
    if at.tso and seg.bad & (BAD_IP_CSUM | BAD_TCP_CSUM):
        seg.bad |= BAD_TSO
    return drop


cdef inline int netif_receive(cursor *at) noexcept nogil:
    """Pass a header that is not IP's; `protocol` then says what follows."""
    cdef uint16_t protocol = at.protocol
    if is_vlan(protocol):
        return vlan_get_protocol(at, 2, 4, 1)
    if protocol == ETH_P_TEB:
        return eth_header(at)
    if protocol == ETH_P_MPLS_UC or protocol == ETH_P_MPLS_MC:
        return mpls_rcv(at)
    if protocol == ETH_P_PPP_SES or protocol == ETH_P_PPP_DISC:
        return pppoe_rcv(at)
    if protocol == ETH_P_PPP:
        return ppp_get_protocol(DLT_PPP, at)
    if protocol < ETH_P_802_3_MIN:
        return llc_rcv(at)
    return UNHANDLED_PROTO


cdef inline bint ip_rcv_plain(net *net, const frame *frame, segment *seg) noexcept nogil:
    """What nearly every frame is, with few tests and no cursor: TCP in IPv4 without options in
    Ethernet, all of it captured. False, and nothing done, for anything else."""
    return (
        frame.linktype == DLT_EN10MB
        and frame.caplen >= ETH_HLEN + IP_HDR_LEN + TCP_HDR_LEN
        and (get_be32(frame.data + 12) & <uint32_t>0xFFFFFF00) == ETH_P_IP << 16 | 0x4500
        and ip_rcv_tcp(net, frame.data + ETH_HLEN, frame.caplen - ETH_HLEN, seg)
    )


cdef inline bint ip_rcv_tcp(
    net *net, const uint8_t *iph, uint32_t room, segment *seg
) noexcept nogil:
    """The same of an IPv4 header of 20 bytes, behind which TCP's has room."""
    cdef const uint8_t *th = iph + IP_HDR_LEN
    cdef uint32_t length, header, total
    cdef uint64_t pseudo
    cdef uint16_t word
    if (get_be32(iph + 6) & <uint32_t>0x3FFF00FF) != IPPROTO_TCP:  # or a fragment
        return False
    total = get_be16(iph + 2)
    word = get_be16(th + 12)
    header = (word >> 12) * 4
    if (
        header < TCP_HDR_LEN
        or word & TCPHDR_URG
        or total < IP_HDR_LEN + header
        or total > room
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


cdef inline int eth_type_trans(uint16_t linktype, cursor *at) noexcept nogil:
    """Pass a link header and its VLAN tags; `protocol` is then the EtherType of what follows."""
    if linktype == DLT_EN10MB:
        return eth_header(at)
    if linktype == DLT_LINUX_SLL:
        return vlan_get_protocol(at, 14, 16, 0)
    if linktype == DLT_LINUX_SLL2:
        return vlan_get_protocol(at, 0, 20, 0)
    if linktype == DLT_RAW or linktype == DLT_RAW_BSD or linktype == DLT_RAW_OPENBSD:
        return ip_version(at, UNHANDLED_PROTO)
    if linktype == DLT_IPV4 or linktype == DLT_IPV6:
        at.protocol = ETH_P_IP if linktype == DLT_IPV4 else ETH_P_IPV6
        return 0
    if linktype == DLT_NULL or linktype == DLT_LOOP:
        return null_get_protocol(at)
    if linktype == DLT_PPP or linktype == DLT_PPP_SERIAL:
        return ppp_get_protocol(linktype, at)
    return LINKTYPE_UNKNOWN


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
        return vlan_get_protocol(at, 2, 4, 0)
    if at.room == 0:
        return PKT_TOO_SMALL
    protocol = at.data[0]
    pass_header(at, 1)
    if not protocol & 1:
        if at.room == 0:
            return PKT_TOO_SMALL
        protocol = protocol << 8 | at.data[0]
        pass_header(at, 1)
    if protocol == PPP_IP:
        at.protocol = ETH_P_IP
    elif protocol == PPP_IPV6:
        at.protocol = ETH_P_IPV6
    elif protocol == PPP_MPLS_UC or protocol == PPP_MPLS_MC:
        at.protocol = ETH_P_MPLS_UC
    else:
        return UNHANDLED_PROTO
    return 0


cdef inline int ip_rcv_core(net *net, cursor *at, segment *seg) noexcept nogil:
    """Pass an IPv4 header; `wire` is then the length of what it carries."""
    cdef const uint8_t *iph = at.data
    cdef uint32_t header, word
    cdef uint16_t tot_len
    cdef bint bad, cut
    net.mib[IP_INRECEIVES] += 1
    if at.room < IP_HDR_LEN:
        net.mib[IP_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    header = (iph[0] & 0xF) * 4
    if iph[0] >> 4 != 4 or header < IP_HDR_LEN:
        net.mib[IP_INHDRERRORS] += 1
        return IP_INHDR
    if at.room < header:
        net.mib[IP_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    tot_len = get_be16(iph + 2)
    if 0 < tot_len < header:
        net.mib[IP_INHDRERRORS] += 1
        return IP_INHDR
    bad = ip_fast_csum(iph, header // 4)
    if bad:
        net.mib[IP_CSUMERRORS] += 1
        if get_u16(iph + 10):
            seg.bad = BAD_IP_CSUM
        elif seg.bad == 0:  # of several, all have to be unfilled
            seg.bad = BAD_IP_CSUM | BAD_IP_ZERO
    at.tso = tot_len == 0
    at.outer.network_header = iph
    at.outer.network_room = at.room
    cut = at.room < (tot_len if tot_len else at.wire)
    if tot_len:  # TSO leaves a total length of 0: then the frame is the datagram
        at.wire = min(at.wire, <uint32_t>tot_len)
    pass_header(at, header)
    at.protocol = iph[9]
    seg.ip = 4
    seg.acookie = get_u64(iph + 12)
    word = get_be16(iph + 6)
    if word & (IP_MF | IP_OFFSET):
        return ip_fragment_rcv(net, at, iph, word, bad, cut)
    return 0


cdef inline int ip_fragment_rcv(
    net *net, cursor *at, const uint8_t *iph, uint32_t word, bint bad, bint cut
) noexcept nogil:
    """Take a fragment; 0 where it makes a datagram whole, to which the cursor then goes. One whose
    header is damaged, or that is cut, is left out."""
    cdef frag_key key
    net.mib[IP_REASMREQDS] += 1
    if bad:
        return IP_FRAGMENT
    if cut:
        net.mib[IP_INTRUNCATEDPKTS] += 1
        return IP_FRAGMENT
    memset(&key, 0, sizeof(key))
    ipv6_addr_set_v4mapped(key.saddr, iph + 12)
    ipv6_addr_set_v4mapped(key.daddr, iph + 16)
    key.id = get_be16(iph + 4)
    key.proto = at.protocol
    key.ip = 4
    return fragment_rcv(net, at, &key, (word & IP_OFFSET) * 8, word & IP_MF)


cdef inline int fragment_rcv(
    net *net, cursor *at, frag_key *key, uint32_t begin, uint32_t more
) noexcept nogil:
    """Give a fragment, all of it captured, to its datagram; 0 where that is whole now."""
    cdef const datagram *whole
    key.vlans = at.outer.vlans
    key.tunnel = at.outer.tunnel
    whole = ip_defrag(
        &net.frags,
        key,
        at.outer.whole,
        at.frame,
        at.data,
        begin,
        at.wire,
        more != 0,
        <uint8_t>at.protocol,
        net.mib,
    )
    if whole == NULL:
        return IP_FRAGMENT
    at.outer.whole = whole
    at.outer.encap |= WRAP_FRAGMENTS
    at.data = whole.data
    at.room = at.wire = whole.length
    at.protocol = whole.protocol
    return 0


cdef inline int ip6_rcv_core(net *net, cursor *at, segment *seg) noexcept nogil:
    """Pass an IPv6 header and its extensions; `wire` is then the length of what they carry."""
    cdef const uint8_t *iph = at.data
    cdef uint32_t payload_len
    cdef bint cut
    cdef int drop
    net.mib[IP6_INRECEIVES] += 1
    if at.room < IP6_HDR_LEN:
        net.mib[IP6_INTRUNCATEDPKTS] += 1
        return PKT_TOO_SMALL
    if iph[0] >> 4 != 6:
        net.mib[IP6_INHDRERRORS] += 1
        return IP_INHDR
    payload_len = get_be16(iph + 4)
    at.tso = payload_len == 0
    at.outer.network_header = iph
    at.outer.network_room = at.room
    at.protocol = iph[6]
    pass_header(at, IP6_HDR_LEN)
    cut = at.room < (payload_len if payload_len else at.wire)
    if payload_len:  # that of a jumbogram (RFC 2675), and what BIG TCP leaves, is 0
        at.wire = min(at.wire, payload_len)
    drop = ipv6_skip_exthdr(at)
    if drop == IP_FRAGMENT:
        drop = ipv6_frag_rcv(net, at, iph, cut)
        if drop:
            return drop
        drop = ipv6_skip_exthdr(at)
        if drop == IP_FRAGMENT:  # a fragment of a fragment, which nobody sends
            drop = IPV6_BAD_EXTHDR
    if drop:
        net.mib[IP6_INTRUNCATEDPKTS if drop == PKT_TOO_SMALL else IP6_INHDRERRORS] += 1
        return drop
    seg.ip = 6
    seg.addrs = iph + 8
    memcpy(&seg.acookie, iph + 20, 4)
    memcpy(<uint8_t *>&seg.acookie + 4, iph + 36, 4)
    return 0


cdef inline int ipv6_frag_rcv(
    net *net, cursor *at, const uint8_t *iph, bint cut
) noexcept nogil:
    """Take a fragment, at whose header the cursor is; 0 where it makes a datagram whole."""
    cdef frag_key key
    cdef uint16_t word = get_be16(at.data + 2)
    net.mib[IP6_REASMREQDS] += 1
    memset(&key, 0, sizeof(key))
    memcpy(key.saddr, iph + 8, 16)
    memcpy(key.daddr, iph + 24, 16)
    key.id = get_be32(at.data + 4)
    key.ip = 6
    at.protocol = at.data[0]
    pass_header(at, IP6_EXTHDR_MIN)
    if cut:
        net.mib[IP6_INTRUNCATEDPKTS] += 1
        return IP_FRAGMENT
    if word & IP6_MF and at.wire & 7:  # RFC 8200 4.5
        net.mib[IP6_INHDRERRORS] += 1
        return IPV6_BAD_EXTHDR
    return fragment_rcv(net, at, &key, word & IP6_OFFSET, word & IP6_MF)


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


cdef inline int ipv6_skip_exthdr(cursor *at) noexcept nogil:
    """Pass extension headers, up to that of a fragment; `wire` is what the IPv6 header claims."""
    cdef int depth = 0
    cdef uint32_t size
    while is_exthdr(at.protocol):
        if depth == IP6_MAX_EXTHDRS:
            return ENCAP_DEPTH
        if at.wire < IP6_EXTHDR_MIN:
            return IPV6_BAD_EXTHDR
        if at.room < IP6_EXTHDR_MIN:
            return PKT_TOO_SMALL
        if at.protocol == IPPROTO_FRAGMENT:
            # An atomic fragment (RFC 6946) is a whole datagram.
            if get_be16(at.data + 2) & (IP6_OFFSET | IP6_MF):
                return IP_FRAGMENT
            size = IP6_EXTHDR_MIN
        elif at.protocol == IPPROTO_AH:
            size = (at.data[1] + 2) * 4
        else:
            size = (at.data[1] + 1) * 8
        if size > at.wire:
            return IPV6_BAD_EXTHDR
        if size > at.room:
            return PKT_TOO_SMALL
        at.protocol = at.data[0]
        pass_header(at, size)
        depth += 1
    return 0


cdef inline int ip_protocol_deliver(net *net, cursor *at, const segment *seg) noexcept nogil:
    """Pass the header of a tunnel in IP; `protocol` is then the EtherType of what it carries."""
    cdef uint16_t protocol = at.protocol
    cdef uint64_t source, target
    cdef int drop = IP_NOPROTO
    at.room = min(at.room, at.wire)
    if protocol == IPPROTO_UDP:
        drop = udp_rcv(at)
    elif protocol == IPPROTO_GRE:
        drop = gre_rcv(at)
    elif protocol == IPPROTO_IPIP or protocol == IPPROTO_IPV6:
        at.outer.encap |= WRAP_IPIP if protocol == IPPROTO_IPIP else WRAP_IP6
        at.protocol = ETH_P_IP if protocol == IPPROTO_IPIP else ETH_P_IPV6
        drop = 0
    elif protocol == IPPROTO_MPLS:
        at.protocol = ETH_P_MPLS_UC
        drop = 0
    if drop == IP_NOPROTO:
        net.mib[IP_INUNKNOWNPROTOS if seg.ip == 4 else IP6_INUNKNOWNPROTOS] += 1
    if drop:
        return drop
    if seg.ip == 4:
        source = get_be32(&seg.acookie)
        target = get_be32(<const uint8_t *>&seg.acookie + 4)
    else:
        source = get_be64(seg.addrs) * TUNNEL_MIX ^ get_be64(seg.addrs + 8)
        target = get_be64(seg.addrs + 16) * TUNNEL_MIX ^ get_be64(seg.addrs + 24)
    tunnel_mix(at.outer, min(source, target))
    tunnel_mix(at.outer, max(source, target))
    if at.outer.ip == 0:
        at.outer.ip = seg.ip
        if seg.ip == 4:
            ipv6_addr_set_v4mapped(at.outer.addrs, &seg.acookie)
            ipv6_addr_set_v4mapped(at.outer.addrs + 16, <const uint8_t *>&seg.acookie + 4)
        else:
            memcpy(at.outer.addrs, seg.addrs, 32)
    return 0
