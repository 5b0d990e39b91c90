# A TCP header and its options to fields, read no further than capture and IP length both reach.
# Linux: tcp_parse_options in net/ipv4/tcp_input.c.  RFC 9293 3.1 and 3.2; RFC 7323; RFC 2018.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from csum cimport csum_fold64, csum_pseudo, csum_tcpudp_magic, csum_wrong
from tcp cimport *
from unaligned cimport cpu_to_be32, get_be16, get_be32, get_u16, get_u32

cdef enum:
    IPPROTO_TCP = 6
    TCP_HDR_LEN = 20
    # What a segment needs to be one: ports to window. Checksum and urgent pointer may be cut.
    TCP_HDR_MIN = 16
    TCP_CSUM_END = 18


cdef inline int tcp_parse(
    segment *seg, const uint8_t *data, uint32_t room, uint32_t length, bint summed
) noexcept nogil:
    """Read a TCP header into a segment whose addresses are known: Drop, 0 for a segment.

    `room` bytes were captured from the header on; `length` is what IP says there are, and payload
    counts these. What is wrong is added to `seg.bad`; a checksum that is `summed` is known to be
    right.
    """
    cdef uint32_t header
    cdef uint64_t pseudo
    cdef uint16_t word
    if room < TCP_HDR_MIN or length < TCP_HDR_MIN:
        return PKT_TOO_SMALL
    word = get_be16(data + 12)
    header = (word >> 12) * 4
    tcp_header(seg, data, word, length - header if length > header else 0)
    if header < TCP_HDR_LEN:
        # Nobody can tell where the header ends: flags and options are as good as noise.
        seg.flags = 0
        seg.end_seq = seg.seq + seg.payload_len
        seg.bad |= BAD_DOFF
        return 0
    if word & TCPHDR_URG:  # 0 points where 1 does, as in Linux
        seg.urgent = 0
        if min(room, length) >= TCP_HDR_LEN:
            seg.urgent = max(<uint16_t>get_be16(data + 18), <uint16_t>1)
    if room >= length >= TCP_CSUM_END and not summed:
        if seg.ip == 4:
            pseudo = csum_pseudo(&seg.acookie, 8, length, IPPROTO_TCP)
        else:
            pseudo = csum_pseudo(seg.addrs, 32, length, IPPROTO_TCP)
        if csum_tcpudp_magic(data, length, pseudo):
            seg.bad |= BAD_TCP_CSUM | tcp_csum_offload(data, length, pseudo)
    if header > TCP_HDR_LEN:
        tcp_parse_options(seg, data + TCP_HDR_LEN, data + min(header, min(room, length)))
        if header > room:
            seg.opts |= OPT_CUT
    return 0


cdef inline uint8_t tcp_csum_offload(
    const uint8_t *data, uint32_t length, uint64_t pseudo
) noexcept nogil:
    """Bad: what a wrong checksum looks like below the sum of its pseudo header."""
    cdef uint16_t check = get_u16(data + 16)
    cdef uint64_t rest = <uint64_t>csum_fold64(pseudo) + (0xFFFF - check)
    if check == 0:
        return BAD_ZERO
    if not csum_wrong(rest) or not csum_wrong(rest + (<uint32_t>0xFFFFFFFF - cpu_to_be32(length))):
        return BAD_PARTIAL
    return 0


cdef inline void tcp_header(
    segment *seg, const uint8_t *data, uint16_t word, uint32_t payload_len
) noexcept nogil:
    """Read the fields of a TCP header but its options; `word` is that of data offset and flags."""
    cdef uint32_t end_seq = get_be32(data + 4)
    seg.transport_header = data
    seg.ports = get_u32(data)
    seg.seq = end_seq
    end_seq += payload_len
    if word & (TCPHDR_SYN | TCPHDR_FIN):
        end_seq += ((word >> 1) & 1) + (word & 1)
    seg.ack = get_be32(data + 8)
    seg.end_seq = end_seq
    seg.payload_len = payload_len
    seg.flags = word & 0xFFF
    seg.window = get_be16(data + 14)
    seg.doff = word >> 12
    seg.opts = 0


cdef inline void tcp_parse_options(
    segment *seg, const uint8_t *data, const uint8_t *end
) noexcept nogil:
    """Read the options in data[:end] into a segment; a repeated one replaces the former.

    An option whose length is below 2 or reaches past the end hides all that follows (9293:MUST-7);
    one of a known kind with another length than its own counts as unknown and is skipped (MUST-6).
    """
    cdef uint8_t kind, size
    seg.opts = 0
    # The usual layout of every segment of a connection with time stamps (RFC 7323 appendix A).
    if end - data == 12 and get_be32(data) == 0x0101080A:
        seg.tsval = get_be32(data + 4)
        seg.tsecr = get_be32(data + 8)
        seg.opts = OPT_TIMESTAMP
        return
    while data < end:
        kind = data[0]
        if kind == TCPOPT_NOP:
            data += 1
            continue
        if kind == TCPOPT_EOL or data + 1 == end:
            break
        size = data[1]
        if size < 2 or size > end - data:
            break
        if kind == TCPOPT_TIMESTAMP and size == TCPOLEN_TIMESTAMP:
            seg.tsval = get_be32(data + 2)
            seg.tsecr = get_be32(data + 6)
            seg.opts |= OPT_TIMESTAMP
        elif kind == TCPOPT_MSS and size == TCPOLEN_MSS:
            seg.mss = get_be16(data + 2)
            seg.opts |= OPT_MSS
        elif kind == TCPOPT_WINDOW and size == TCPOLEN_WINDOW:
            seg.wscale = data[2]
            seg.opts |= OPT_WSCALE
        elif kind == TCPOPT_SACK_PERM and size == TCPOLEN_SACK_PERM:
            seg.opts |= OPT_SACK_PERM
        data += size
