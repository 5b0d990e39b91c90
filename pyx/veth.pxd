# Two hosts of one process: what leaves one reaches the other as it lies, headers and a page of text.
# Linux: drivers/net/veth.c.  The reference hands bytes over (core_net.py).

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from ip_output cimport (
    IPV4_HDR_LEN,
    IPV6_HDR_LEN,
    ifaddr_known,
    inet_addr_is_local,
    is_loopback,
)
from netns cimport NET_INC_STATS, netns, netns_reap, out_frame, out_purge
from sock cimport rcv_skb
from tcp cimport IP6_INRECEIVES, IP_INRECEIVES
from tcp_ipv4 cimport rcv_skb_addr, tcp_v4_rcv
from unaligned cimport get_be16, get_u64, ipv6_addr_set_v4mapped
from wire cimport TCP_HDR_LEN, tcp_header, tcp_parse_options

cdef enum:
    HEADERS_MAX = 100  # bytes of IP's and TCP's headers together


cdef inline void veth_rcv(netns *net, const uint8_t *packet, const out_frame *one) noexcept nogil:
    """A segment of a host beside this one, as it was put together there."""
    cdef rcv_skb r
    cdef const uint8_t *th = packet + IPV4_HDR_LEN
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
