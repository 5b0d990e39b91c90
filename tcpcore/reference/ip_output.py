"""The one door out: routes, path MTU, and a segment's bytes put into IP packets.

Linux: net/ipv4/ip_output.c, route.c, net/ipv6/ip6_output.c, tcp_options_write in tcp_output.c.
RFC 791 3.1, RFC 8200 3, RFC 9293 3.1, RFC 1191, RFC 8201, RFC 6864.
"""

from __future__ import annotations

from errno import EADDRNOTAVAIL, ENETUNREACH, ENOBUFS
from struct import Struct

from .csum import csum_partial, csum_tcpudp_magic, ip_fast_csum
from .netns import Netns
from .snmp import Mib
from .tcp import (
    MASK32,
    TCPOPT_MSS,
    TCPOPT_NOP,
    TCPOPT_SACK_PERM,
    TCPOPT_TIMESTAMP,
    TCPOPT_WINDOW,
)
from .tcp_md5 import MD5_AT, MD5_DIGEST, MD5_OPTION, Md5SigKey, tcp_md5_hash
from .timer import NSEC_PER_SEC
from .wire import IPPROTO_TCP, TCP_HDR_LEN

TCPOPT_SACK = 5
IPV4_HDR_LEN = 20
IPV6_HDR_LEN = 40
IPV6_MIN_MTU = 1280
IP_MAX_MTU = 65535  # what a total length can tell
OUT_QUEUE_MAX = 65536  # frames that wait to be fetched
NET_XMIT_DROP = 1  # include/linux/netdevice.h

V4MAPPED = bytes(10) + b"\xff\xff"
_IPHDR = Struct(">BBHHHBBH4s4s")
_IP6HDR = Struct(">IHBB16s16s")
_TCPHDR = Struct(">HHIIHHHH")
_U32 = Struct(">I")


class Options:
    """What a segment's options say; those that are None or empty are left out."""

    __slots__ = ("mss", "wscale", "sack_perm", "tsval", "tsecr", "sack", "md5")

    def __init__(self) -> None:
        self.mss = 0
        self.wscale: int | None = None
        self.sack_perm = False
        self.tsval: int | None = None
        self.tsecr = 0
        self.sack: list[tuple[int, int]] = []
        self.md5: Md5SigKey | None = None


def tcp_options_write(opts: Options) -> bytes:
    """Lay options out as Linux does: whole words, the padding in front where it can be."""
    out = bytearray(b"" if opts.md5 is None else MD5_OPTION)
    if opts.mss:
        out += bytes((TCPOPT_MSS, 4)) + opts.mss.to_bytes(2, "big")
    if opts.tsval is not None:
        out += bytes((TCPOPT_SACK_PERM, 2) if opts.sack_perm else (TCPOPT_NOP, TCPOPT_NOP))
        out += bytes((TCPOPT_TIMESTAMP, 10)) + _U32.pack(opts.tsval) + _U32.pack(opts.tsecr)
    elif opts.sack_perm:
        out += bytes((TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK_PERM, 2))
    if opts.wscale is not None:
        out += bytes((TCPOPT_NOP, TCPOPT_WINDOW, 3, opts.wscale))
    if opts.sack:
        out += bytes((TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK, 2 + 8 * len(opts.sack)))
        for start, end in opts.sack:
            out += _U32.pack(start) + _U32.pack(end)
    return bytes(out)


def is_multicast(addr: bytes) -> bool:
    """True for what no connection can be made to: multicast, broadcast, nobody."""
    if addr.startswith(V4MAPPED):
        return addr[12] >= 224 or addr[12:] == bytes(4)
    return addr[0] == 0xFF or addr == bytes(16)


def is_loopback(addr: bytes) -> bool:
    return addr[12] == 127 if addr.startswith(V4MAPPED) else addr == bytes(15) + b"\1"


def inet_addr_is_local(net: Netns, addr: bytes) -> bool:
    """True for an address of this host, or where it takes every address for its own."""
    return addr in net.addrs or is_loopback(addr) or net.any_address > 0


def ip_route_connect(net: Netns, daddr: bytes, saddr: bytes) -> tuple[int, bytes]:
    """Find a way to an address: (0 or a negative errno, source address)."""
    if is_multicast(daddr):
        return -ENETUNREACH, b""
    if saddr:
        return (0, saddr) if inet_addr_is_local(net, saddr) else (-EADDRNOTAVAIL, b"")
    if is_loopback(daddr) or daddr in net.addrs:
        return 0, daddr
    v4 = daddr.startswith(V4MAPPED)
    best, length = b"", -1
    for addr, prefix in net.addrs.items():
        if addr.startswith(V4MAPPED) != v4:
            continue
        same = int.from_bytes(addr, "big") ^ int.from_bytes(daddr, "big")
        common = 128 - same.bit_length()
        if common >= prefix > length:  # on that address's own network
            best, length = addr, prefix
        elif not best:
            best = addr
    return (0, best) if best else (-ENETUNREACH, b"")


def dst_mtu(net: Netns, daddr: bytes) -> int:
    """What fits a packet to an address: what the path told, else the link's."""
    known = None if net.route.mtu_lock else net.pmtu.get(daddr)
    if known is not None:
        mtu, expires_ns = known
        if net.now_ns < expires_ns:
            return min(mtu, net.mtu)
        del net.pmtu[daddr]
    mtu = net.route.mtu or net.mtu
    if not net.any_address and inet_addr_is_local(net, daddr):
        mtu = net.loopback_mtu
    return min(mtu, IP_MAX_MTU) if daddr.startswith(V4MAPPED) else mtu


def ip_rt_update_pmtu(net: Netns, daddr: bytes, mtu: int) -> None:
    """A router told that less fits (RFC 1191 6.3, RFC 8201 4); never below the floor."""
    v4 = daddr.startswith(V4MAPPED)
    if dst_mtu(net, daddr) < mtu or (not v4 and mtu < IPV6_MIN_MTU):
        return  # an older word was of less; no IPv6 link has less
    if daddr not in net.pmtu and len(net.pmtu) >= net.pmtu_max:
        net.pmtu.pop(next(iter(net.pmtu)))
    low = net.sysctl.min_pmtu if v4 else IPV6_MIN_MTU
    net.pmtu[daddr] = max(mtu, low), net.now_ns + net.sysctl.mtu_expires * NSEC_PER_SEC


def ip_queue_xmit(
    net: Netns,
    saddr: bytes,
    daddr: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    urg: int,
    options: bytes,
    data: bytes,
    mss: int,
    tos: int,
    ttl: int,
    ident: int,
    df: bool,
    md5: Md5SigKey | None = None,
    md5_at: int = MD5_AT,
) -> int:
    """Queue a segment, cut to `mss` where the link does not take it whole; 0, or -ENOBUFS.

    NET_XMIT_DROP: the queue before the link has refused it. With a key each segment is signed, its
    digest put into the options at `md5_at`: no link could cut it.
    """
    if len(net.out) >= OUT_QUEUE_MAX:
        net.mib[Mib.IP_OUTDISCARDS] += 1
        return -ENOBUFS
    if net.qdisc_drops:
        return NET_XMIT_DROP
    size = max(len(data), 1) if not mss or (net.gso and md5 is None) else mss
    last = (max(len(data), 1) - 1) // size * size
    for at in range(0, last + 1, size):
        # FIN and PSH belong to the end, CWR to the beginning.
        these = flags & ~(0 if at == last else 0x009) & ~(0x080 if at else 0)
        frame = tcp_build_frame(
            saddr,
            daddr,
            sport,
            dport,
            (seq + at) & MASK32,
            ack,
            these,
            window,
            urg if not at else 0,
            options,
            data[at : at + size],
            tos,
            ttl,
            ident + at // size & 0xFFFF,
            df,
            net.hw_csum,
            md5,
            md5_at,
        )
        net.out.append((frame, mss if 0 < mss < size else 0))
    return 0


def tcp_build_frame(
    saddr: bytes,
    daddr: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    urg: int,
    options: bytes,
    data: bytes,
    tos: int,
    ttl: int,
    ident: int,
    df: bool,
    partial: bool = False,
    md5: Md5SigKey | None = None,
    md5_at: int = MD5_AT,
) -> bytes:
    """One IP packet with one segment in it, both checksums right.

    With `partial` TCP's is the sum of the pseudo header alone: who sends it adds the rest.
    """
    header = TCP_HDR_LEN + len(options)
    word = header // 4 << 12 | flags
    tcp = _TCPHDR.pack(sport, dport, seq, ack, word, window, 0, urg) + options
    length = len(tcp) + len(data)
    if md5 is not None:
        at = TCP_HDR_LEN + md5_at
        digest = tcp_md5_hash(md5, saddr, daddr, tcp, length, data)
        tcp = tcp[:at] + digest + tcp[at + MD5_DIGEST :]
    if partial:
        check = csum_tcpudp_magic(saddr, daddr, length, IPPROTO_TCP, 0) ^ 0xFFFF
    else:
        csum = csum_partial(data, csum_partial(tcp))
        check = csum_tcpudp_magic(saddr, daddr, length, IPPROTO_TCP, csum)
    tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
    if not saddr.startswith(V4MAPPED):
        return (
            _IP6HDR.pack(6 << 28 | tos << 20, length, IPPROTO_TCP, ttl, saddr, daddr) + tcp + data
        )
    total = IPV4_HDR_LEN + length
    ip = _IPHDR.pack(
        0x45,
        tos,
        total if total < 65536 else 0,
        ident,
        0x4000 if df else 0,
        ttl,
        IPPROTO_TCP,
        0,
        saddr[12:],
        daddr[12:],
    )
    return ip[:10] + ip_fast_csum(ip).to_bytes(2, "big") + ip[12:] + tcp + data
