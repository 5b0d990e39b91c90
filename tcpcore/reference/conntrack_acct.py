"""What is counted of every segment, whether or not state takes it: sums, options, times, RTT.

Linux: net/netfilter/nf_conntrack_acct.c.  docs/replay.md has the rules.
"""

from __future__ import annotations

from .net import INT64_MAX
from .tcp import (
    COMPLETE_ACK,
    COMPLETE_DATA,
    COMPLETE_FIN,
    COMPLETE_RST,
    COMPLETE_SYN,
    COMPLETE_SYNACK,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Bad,
    Flow,
    FlowBit,
    Opt,
    Segment,
)

# Plain ints: an enum member's `|` costs more than the step itself.
OPT_MSS, OPT_WSCALE = int(Opt.OPT_MSS), int(Opt.OPT_WSCALE)
OPT_ISN, OPT_BASE = int(Opt.OPT_ISN), int(Opt.OPT_BASE)
OPT_OF_SYN = OPT_MSS | OPT_WSCALE | int(Opt.OPT_SACK_PERM)
BAD_TCP_CSUM = int(Bad.BAD_TCP_CSUM)
FLOW_SYN, FLOW_SYN_BA = int(FlowBit.FLOW_SYN), int(FlowBit.FLOW_SYN_BA)
FLOW_RTT = int(FlowBit.FLOW_RTT)


def conntrack_splits(flow: Flow, side: int, th: Segment) -> bool:
    """True if `th` opens a new connection on this one's 4-tuple: only a SYN with another number."""
    end = flow.ends[side]
    return bool(
        th.flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN
        and end.opts & (OPT_ISN | OPT_BASE)
        and end.isn != th.seq
    )


def conntrack_count(flow: Flow, side: int, th: Segment, time_ns: int, wirelen: int) -> None:
    """What is counted of every segment, whether or not state takes it."""
    end, peer = flow.ends[side], flow.ends[1 - side]
    flags = th.flags
    if flags & TCPHDR_SYN and not end.opts & OPT_ISN:
        end.isn = th.seq
        end.opts |= OPT_ISN
    elif not end.packets and not flags & TCPHDR_SYN:
        end.isn = (th.seq - 1) & 0xFFFFFFFF
        end.opts |= OPT_BASE
    if not peer.packets and flags & TCPHDR_ACK and not peer.opts & OPT_BASE:
        peer.isn = (th.ack - 1) & 0xFFFFFFFF
        peer.opts |= OPT_BASE
    end.packets += 1
    end.frame_bytes += wirelen
    end.payload_bytes += th.payload_len
    end.flags |= flags
    flow.bad_checksum[side] += th.bad & BAD_TCP_CSUM != 0
    if th.opts:
        opts = th.opts
        if not flags & TCPHDR_SYN:
            opts &= ~OPT_OF_SYN
        if opts & ~end.opts & OPT_MSS:
            end.mss = th.mss
        if opts & ~end.opts & OPT_WSCALE:
            end.wscale = th.wscale
        end.opts |= opts

    if flags & TCPHDR_SYN:
        flow.completeness |= COMPLETE_SYNACK if flags & TCPHDR_ACK else COMPLETE_SYN
    elif flags & TCPHDR_ACK:
        flow.completeness |= COMPLETE_ACK
    if th.payload_len:
        flow.completeness |= COMPLETE_DATA
    if flags & TCPHDR_FIN:
        flow.completeness |= COMPLETE_FIN
    if flags & TCPHDR_RST:
        flow.completeness |= COMPLETE_RST

    if time_ns > flow.last_ns:
        flow.last_ns = time_ns
    elif time_ns < flow.first_ns:
        flow.first_ns = time_ns
    if not flow.bits & FLOW_RTT:
        conntrack_rtt(flow, side, flags, time_ns)


def conntrack_rtt(flow: Flow, side: int, flags: int, time_ns: int) -> None:
    """The handshake's round trip: the latest SYN to its sender's first ACK without SYN."""
    if flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN:
        flow.rtt_ns = time_ns
        flow.bits = (flow.bits & ~FLOW_SYN_BA) | FLOW_SYN | (FLOW_SYN_BA if side else 0)
    elif (
        flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_ACK
        and flow.bits & FLOW_SYN
        and flow.completeness & COMPLETE_SYNACK
        and bool(flow.bits & FLOW_SYN_BA) == bool(side)
    ):
        # Time that went back leaves it absent for good.
        flow.rtt_ns = min(time_ns - flow.rtt_ns, INT64_MAX) if time_ns >= flow.rtt_ns else -1
        flow.bits |= FLOW_RTT
