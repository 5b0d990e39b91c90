# What is counted of every segment, whether or not state takes it: sums, options, times, round trip.
# Linux: net/netfilter/nf_conntrack_acct.c.  docs/replay.md has the rules.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from conntrack cimport conntrack, rest_at
from tcp cimport *
from unaligned cimport held


cdef inline bint conntrack_splits(
    const end *e, const flow_rest *rest, int side, const segment *th
) noexcept nogil:
    """True if `th` opens a new connection on this one's 4-tuple: only a SYN with another number."""
    return e.opts & (OPT_ISN | OPT_BASE) and rest.isn[side] != th.seq


cdef inline void conntrack_count(
    conntrack *ct,
    flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    int64_t time_ns,
    uint32_t wirelen,
) noexcept nogil:
    """What is counted of every segment, whether or not state takes it."""
    cdef end *e = <end *>held(&fl.ends[side])
    cdef uint32_t packets = e.packets + 1
    cdef uint32_t frame_bytes = e.frame_bytes + wirelen
    cdef uint32_t payload_bytes = e.payload_bytes + th.payload_len
    if (
        not fl.bits & FLOW_PLAIN
        or th.flags & TCPHDR_SYN
        or th.opts & ~e.opts
        or time_ns < fl.last_ns
        or th.bad & BAD_TCP_CSUM
    ):
        conntrack_count_rare(fl, rest_at(ct, index), side, th, time_ns)
    else:
        fl.last_ns = time_ns
        if not fl.completeness & COMPLETE_ACK and th.flags & TCPHDR_ACK:
            fl.completeness |= COMPLETE_ACK
    if packets == 0 or frame_bytes < wirelen or payload_bytes < th.payload_len:
        rest_at(ct, index).packets_hi[side] += packets == 0
        rest_at(ct, index).frame_bytes_hi[side] += frame_bytes < wirelen
        rest_at(ct, index).payload_bytes_hi[side] += payload_bytes < th.payload_len
    e.flags |= th.flags
    e.packets = packets
    e.frame_bytes = frame_bytes
    e.payload_bytes = payload_bytes


cdef inline uint8_t flow_completeness(const flow *fl, const flow_rest *rest) noexcept nogil:
    """The column: what is kept of SYNs and ACKs, and what the counts tell of the rest."""
    cdef uint8_t bits = fl.completeness
    cdef uint16_t flags = fl.ends[0].flags | fl.ends[1].flags
    if (
        fl.ends[0].payload_bytes
        | fl.ends[1].payload_bytes
        | rest.payload_bytes_hi[0]
        | rest.payload_bytes_hi[1]
    ):
        bits |= COMPLETE_DATA
    if flags & TCPHDR_FIN:
        bits |= COMPLETE_FIN
    if flags & TCPHDR_RST:
        bits |= COMPLETE_RST
    return bits


cdef inline void conntrack_count_rare(
    flow *fl, flow_rest *rest, int side, const segment *th, int64_t time_ns
) noexcept nogil:
    """What first segments, handshakes, late and bad ones add."""
    cdef end *e = &fl.ends[side]
    cdef end *peer = &fl.ends[1 - side]
    cdef uint16_t flags = th.flags
    if flags & TCPHDR_SYN:
        if not e.opts & OPT_ISN:
            rest.isn[side] = th.seq
            e.opts |= OPT_ISN
        if th.opts & ~e.opts & OPT_MSS:
            rest.mss[side] = th.mss
        if th.opts & ~e.opts & OPT_WSCALE:
            rest.wscale[side] = th.wscale
            e.shift = min(th.wscale, <uint8_t>TCP_MAX_WSCALE)
        e.opts |= th.opts
        fl.completeness |= COMPLETE_SYNACK if flags & TCPHDR_ACK else COMPLETE_SYN
    else:
        fl.completeness |= COMPLETE_ACK if flags & TCPHDR_ACK else 0
        if not e.opts & OPT_ISN and e.packets == 0 and rest.packets_hi[side] == 0:
            rest.isn[side] = th.seq - 1
            e.opts |= OPT_BASE
        e.opts |= th.opts & (OPT_TIMESTAMP | OPT_CUT)
    if not peer.opts & (OPT_ISN | OPT_BASE) and flags & TCPHDR_ACK:
        rest.isn[1 - side] = th.ack - 1
        peer.opts |= OPT_BASE
    if th.bad & BAD_TCP_CSUM:
        rest.bad_checksum[side] += 1
    if time_ns >= fl.last_ns:
        fl.last_ns = time_ns
    elif time_ns < rest.first_ns:
        rest.first_ns = time_ns
    if not fl.bits & FLOW_RTT:
        conntrack_rtt(fl, rest, side, flags, time_ns)
    if peer.packets and (fl.bits & (FLOW_SYN | FLOW_RTT)) != FLOW_SYN:
        fl.bits |= FLOW_PLAIN
    else:
        fl.bits &= ~FLOW_PLAIN


cdef inline void conntrack_rtt(
    flow *fl, flow_rest *rest, int side, uint16_t flags, int64_t time_ns
) noexcept nogil:
    """The handshake's round trip: the latest SYN to its sender's first ACK without SYN."""
    cdef uint64_t rtt_ns
    if (flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN:
        rest.rtt_ns = time_ns
        fl.bits = (fl.bits & ~FLOW_SYN_BA) | FLOW_SYN | (FLOW_SYN_BA if side else 0)
    elif (
        (flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_ACK
        and fl.bits & FLOW_SYN
        and fl.completeness & COMPLETE_SYNACK  # of what came before
        and ((fl.bits & FLOW_SYN_BA) != 0) == side
    ):
        fl.bits |= FLOW_RTT
        if time_ns < rest.rtt_ns:
            rest.rtt_ns = -1
        else:
            rtt_ns = <uint64_t>time_ns - <uint64_t>rest.rtt_ns
            rest.rtt_ns = INT64_MAX if rtt_ns > <uint64_t>INT64_MAX else <int64_t>rtt_ns
