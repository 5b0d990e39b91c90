"""A TCP header and its options to fields, read no further than capture and IP length both reach.

Linux: tcp_parse_options in net/ipv4/tcp_input.c.  RFC 9293 3.1 and 3.2; RFC 7323; RFC 2018.
"""

from __future__ import annotations

from struct import Struct

from .csum import Buffer, csum_partial, csum_tcpudp_magic
from .tcp import (
    MASK32,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TCPHDR_URG,
    TCPOLEN_MSS,
    TCPOLEN_SACK_PERM,
    TCPOLEN_TIMESTAMP,
    TCPOLEN_WINDOW,
    TCPOPT_EOL,
    TCPOPT_MSS,
    TCPOPT_NOP,
    TCPOPT_SACK_PERM,
    TCPOPT_TIMESTAMP,
    TCPOPT_WINDOW,
    Bad,
    Drop,
    Opt,
    Segment,
)

IPPROTO_TCP = 6
TCP_HDR_LEN = 20

# What a segment needs to be one: ports to window. Checksum and urgent pointer may be cut.
_TCPHDR = Struct(">HHIIHH")
_CSUM_END = 18
_TIMESTAMPS = Struct(">II")

OPT_MSS = int(Opt.OPT_MSS)
OPT_WSCALE = int(Opt.OPT_WSCALE)
OPT_SACK_PERM = int(Opt.OPT_SACK_PERM)
OPT_TIMESTAMP = int(Opt.OPT_TIMESTAMP)
OPT_CUT = int(Opt.OPT_CUT)
BAD_PARTIAL, BAD_ZERO = int(Bad.BAD_PARTIAL), int(Bad.BAD_ZERO)
BAD_TCP_CSUM, BAD_DOFF = int(Bad.BAD_TCP_CSUM), int(Bad.BAD_DOFF)


def tcp_parse(
    seg: Segment, data: Buffer, start: int, room: int, length: int, summed: bool = False
) -> int:
    """Read a TCP header into a segment whose addresses are known; add what is wrong to its `bad`.

    Parameters
    ----------
    seg : Segment, its `saddr` and `daddr` filled
    data : buffer of bytes
    start : int, index in data of the TCP header
    room : int, bytes captured from there on
    length : int, bytes that IP says there are; payload counts these, not the captured ones
    summed : bool, the checksum is known to be right

    Returns
    -------
    int : PKT_TOO_SMALL, or 0 for a segment
    """
    if min(room, length) < _TCPHDR.size:
        return Drop.PKT_TOO_SMALL
    seg.sport, seg.dport, seg.seq, seg.ack, word, seg.window = _TCPHDR.unpack_from(data, start)
    seg.transport_header = start
    doff = word >> 12
    header = doff * 4
    payload_len = seg.payload_len = max(length - header, 0)
    seg.doff = doff
    if header < TCP_HDR_LEN:
        # Nobody can tell where the header ends: flags and options are as good as noise.
        seg.flags = 0
        seg.end_seq = (seg.seq + payload_len) & MASK32
        seg.bad |= BAD_DOFF
        tcp_parse_options(seg, data, start, start)
        return 0
    flags = seg.flags = word & 0xFFF
    syn_fin = (flags & TCPHDR_SYN != 0) + (flags & TCPHDR_FIN != 0)
    seg.end_seq = (seg.seq + payload_len + syn_fin) & MASK32
    if flags & TCPHDR_URG:  # 0 points where 1 does, as in Linux
        seg.urgent = 0
        if min(room, length) >= TCP_HDR_LEN:
            seg.urgent = max(data[start + 18] << 8 | data[start + 19], 1)
    if room >= length >= _CSUM_END and not summed:
        csum = csum_partial(data[start : start + length])
        if csum_tcpudp_magic(seg.saddr, seg.daddr, length, IPPROTO_TCP, csum):
            seg.bad |= BAD_TCP_CSUM | tcp_csum_offload(seg, data, start, length)
    tcp_parse_options(seg, data, start + TCP_HDR_LEN, start + min(header, room, length))
    if header > max(room, TCP_HDR_LEN):
        seg.opts |= OPT_CUT
    return 0


def tcp_csum_offload(seg: Segment, data: Buffer, start: int, length: int) -> int:
    """Tell what a wrong checksum looks like: Bad."""
    check = data[start + 16] << 8 | data[start + 17]
    if not check:
        return BAD_ZERO
    for claimed in (length, 0):
        pseudo = csum_tcpudp_magic(seg.saddr, seg.daddr, claimed, IPPROTO_TCP, 0) ^ 0xFFFF
        if check == pseudo:
            return BAD_PARTIAL
    return 0


def tcp_parse_options(seg: Segment, data: Buffer, start: int, end: int) -> None:
    """Read the options in data[start:end] into a segment; a repeated one replaces the former.

    An option whose length is below 2 or reaches past the end hides all that follows (9293:MUST-7);
    one of a known kind with another length than its own counts as unknown and is skipped (MUST-6).
    """
    opts = mss = wscale = tsval = tsecr = 0
    while start < end:
        kind = data[start]
        if kind == TCPOPT_NOP:
            start += 1
            continue
        if kind == TCPOPT_EOL or start + 1 == end:
            break
        size = data[start + 1]
        if size < 2 or start + size > end:
            break
        if kind == TCPOPT_TIMESTAMP and size == TCPOLEN_TIMESTAMP:
            tsval, tsecr = _TIMESTAMPS.unpack_from(data, start + 2)
            opts |= OPT_TIMESTAMP
        elif kind == TCPOPT_MSS and size == TCPOLEN_MSS:
            mss = data[start + 2] << 8 | data[start + 3]
            opts |= OPT_MSS
        elif kind == TCPOPT_WINDOW and size == TCPOLEN_WINDOW:
            wscale = data[start + 2]
            opts |= OPT_WSCALE
        elif kind == TCPOPT_SACK_PERM and size == TCPOLEN_SACK_PERM:
            opts |= OPT_SACK_PERM
        start += size
    seg.opts = opts
    seg.mss = mss
    seg.wscale = wscale
    seg.tsval = tsval
    seg.tsecr = tsecr
