"""SYN-ACKs of one connection with different numbers: each is kept until an ACK picks it (T-18).

Linux has no such thing: an endpoint takes the first that reaches it, which the tap cannot know.
RFC 9293 3.10.7.3.
"""

from __future__ import annotations

from copy import copy

from .tcb import tcb_rcv
from .tcp import (
    MASK32,
    TCP_ESTABLISHED,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCPHDR_ACK,
    TCPHDR_RST,
    TCPHDR_SYN,
    Flow,
    Segment,
    Tcb,
    TcbFlag,
    between,
)

SYNACK_MAX = 256  # kept of all connections; the oldest goes
SYNACK_EACH = 4  # kept of one connection

TCB_SND = int(TcbFlag.TCB_SND)
TCB_OF_SYN = int(TcbFlag.TCB_SND | TcbFlag.TCB_WSCALE_SENT)


class Synacks:
    """What both ends are, by connection and by side and number of a SYN-ACK that may be taken."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, int, tuple[Tcb, Tcb]] | None] = [None] * SYNACK_MAX
        self.next = 0  # place of the next one


def synack_rival(flow: Flow, side: int, th: Segment) -> bool:
    """True of a SYN-ACK with another number than the one that was taken, but for the same SYN."""
    snd, rcv = flow.ends[side].tcb, flow.ends[1 - side].tcb
    return bool(
        th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST) == TCPHDR_SYN | TCPHDR_ACK
        and snd.state == TCP_SYN_RECV
        and snd.flags & TCB_SND
        and snd.snd_una != th.seq
        and rcv.state == TCP_ESTABLISHED
        and between(th.ack, rcv.snd_una, rcv.snd_nxt)
    )


def synack_keep(synacks: Synacks, flow: Flow, side: int, th: Segment) -> bool:
    """Keep a rival; its sender in `flow` has sent it already. False if it was kept before."""
    for one in synacks.kept:
        if one is not None and one[0] == flow.conn and one[2][side].snd_una == th.seq:
            return False
    ends = copy(flow.ends[0].tcb), copy(flow.ends[1].tcb)
    rcv = ends[1 - side]
    rcv.state = TCP_SYN_SENT  # as it was before the first one
    rcv.snd_una = (th.ack - 1) & MASK32
    rcv.flags &= TCB_OF_SYN
    tcb_rcv(rcv, th)
    synacks.kept[synacks.next] = flow.conn, side, ends
    synacks.next = (synacks.next + 1) % SYNACK_MAX
    return True


def synack_pick(synacks: Synacks, flow: Flow, side: int, th: Segment) -> bool:
    """Let both ends be what the SYN-ACK made them that `th` acknowledges, if it is a rival."""
    for i, one in enumerate(synacks.kept):
        if one is not None and one[:2] == (flow.conn, 1 - side):
            ends = one[2]
            if ends[1 - side].snd_nxt == th.ack:
                flow.ends[0].tcb, flow.ends[1].tcb = ends
                synacks.kept[i] = None
                return True
    return False
