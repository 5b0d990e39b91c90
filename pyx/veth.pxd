# What comes into a host: packets of bytes, and segments of a host beside it as they lie there,
# headers and a page of text.  Linux: ip_local_deliver in net/ipv4/ip_input.c, drivers/net/veth.c.  The
# reference has this in core_net.py, and hands bytes over.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from ip_fragment cimport ip_frags_batch
from ip_input cimport DLT_RAW, ip_rcv, ip_rcv_tcp
from ip_output cimport (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    ifaddr_known,
    inet_addr_is_local,
    is_loopback,
)
from ip_tunnel cimport WRAP_FRAGMENTS, outer
from netns cimport NET_INC_STATS, ip_rcv_ecn, netns, netns_reap, out_frame, out_purge
from pcap cimport frame
from snmp cimport *
from sock cimport rcv_skb
from tcp cimport *
from tcp_icmp cimport icmp_rcv, is_icmp
from tcp_ipv4 cimport ip_source_routed, rcv_skb_addr, tcp_v4_rcv
from unaligned cimport get_be16, get_u64, ipv6_addr_set_v4mapped
from wire cimport TCP_HDR_LEN, tcp_header, tcp_parse_options

cdef enum:
    HEADERS_MAX = 100  # bytes of IP's and TCP's headers together


cdef inline bint is_truncated(const segment *th, const outer *around) noexcept nogil:
    """True if the packet is longer than what came of it, or its headers than the packet."""
    cdef const uint8_t *iph = around.network_header
    cdef uint32_t told
    if not around.encap:  # what is put together of fragments is whole
        told = get_be16(iph + (2 if th.ip == 4 else 4))
        if not told:  # a length of none is of what a card would cut
            return True
        if told + (0 if th.ip == 4 else 40) > around.network_room:
            return True
    return 4 * <uint64_t>th.doff + th.payload_len > around.transport_room


cdef inline int ip_rcv_flat(netns *net, const uint8_t *packet, uint32_t length) noexcept nogil:
    """One IP packet of somebody's bytes: Drop, or 0."""
    cdef frame one
    cdef outer around
    cdef rcv_skb r
    cdef int drop
    r.page = NULL
    ip_rcv_ecn(net, packet, length)
    if (
        length >= IPV4_HDR_LEN + TCP_HDR_LEN
        and packet[0] == 0x45
        and ip_rcv_tcp(&net.net, packet, length, &r.th)
    ):
        return ip_local_deliver(net, &r)
    if is_icmp(packet, length):
        return icmp_rcv(net, packet, length)
    memset(&one, 0, sizeof(one))
    one.data = packet
    one.caplen = one.wirelen = length
    one.linktype = DLT_RAW
    one.time_ns = net.net.now_ns
    ip_frags_batch(&net.net.frags)
    drop = ip_rcv(&net.net, &one, &r.th, &around)
    if drop:
        return drop
    if around.encap & ~WRAP_FRAGMENTS or ip_source_routed(packet):
        return IP_NOPROTO  # a host takes nothing out of tunnels
    if r.th.bad & BAD_IP_CSUM:
        return IP_CSUM
    if is_truncated(&r.th, &around):
        NET_INC_STATS(net, IP_INTRUNCATEDPKTS if r.th.ip == 4 else IP6_INTRUNCATEDPKTS)
        return PKT_TOO_SMALL
    return ip_local_deliver(net, &r)


cdef inline int ip_local_deliver(netns *net, rcv_skb *r) noexcept nogil:
    """A whole segment, if it is this host's: Drop, or 0."""
    rcv_skb_addr(r)
    if not inet_addr_is_local(net, r.daddr):
        return TCP_CLOSED  # somebody else's: nobody here says anything
    return tcp_v4_rcv(net, r)


cdef inline void veth_rcv(netns *net, const uint8_t *packet, const out_frame *one) noexcept nogil:
    """A segment of a host beside this one, as it was put together there."""
    cdef rcv_skb r
    cdef const uint8_t *th = packet + IPV4_HDR_LEN
    ip_rcv_ecn(net, packet, one.length)
    if packet[0] >> 4 == 4:
        NET_INC_STATS(net, IP_INRECEIVES)
        r.th.ip = 4
        r.th.acookie = get_u64(packet + 12)
    else:
        NET_INC_STATS(net, IP6_INRECEIVES)
        r.th.ip = 6
        r.th.addrs = packet + 8
        th = packet + IPV6_HDR_LEN
    r.th.bad = 0
    r.page = one.page
    r.data = one.data
    tcp_header(&r.th, th, get_be16(th + 12), one.data_len)
    if packet + one.length > th + TCP_HDR_LEN:
        tcp_parse_options(&r.th, th + TCP_HDR_LEN, packet + one.length)
    rcv_skb_addr(&r)
    if inet_addr_is_local(net, r.daddr):
        tcp_v4_rcv(net, &r)


cdef inline bint is_loopback_frame(const netns *net, const uint8_t *packet) noexcept nogil:
    """True for a packet of a host to itself."""
    cdef uint8_t daddr[16]
    if packet[0] >> 4 == 4:
        ipv6_addr_set_v4mapped(daddr, packet + 16)
    else:
        memcpy(daddr, packet + 24, 16)
    return ifaddr_known(net, daddr) or is_loopback(daddr)


cdef inline uint32_t veth_xmit(netns *net, netns *peer) noexcept nogil:
    """Let a host's frames reach another as they lie: how many.  Linux: drivers/net/veth.c.

    What it sends to itself stays here, and more may be sent because of it.
    """
    cdef uint8_t head[HEADERS_MAX]
    cdef uint32_t i = 0, n = 0
    cdef out_frame one
    cdef const uint8_t *packet
    cdef netns *to
    while i < net.n_out:
        one = net.out[i]
        packet = net.out_bytes + one.offset
        to = peer
        if is_loopback_frame(net, packet):
            to = net
            memcpy(head, packet, one.length)  # its place may move
            packet = head
        else:
            n += 1
        veth_rcv(to, packet, &one)
        netns_reap(to)
        i += 1
    out_purge(net)
    return n
