# SYN-ACKs of one connection with different numbers: each is kept until an ACK picks it (T-18).
# Linux has no such thing: an endpoint takes the first that reaches it, which the tap cannot know.
# RFC 9293 3.10.7.3.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from tcb cimport tcb_rcv
from tcp cimport *

cdef enum:
    SYNACK_MAX = 256  # kept of all connections; the oldest goes
    SYNACK_EACH = 4  # kept of one connection

# What both ends are if this SYN-ACK is the one that was taken.
cdef struct synack:
    uint64_t conn
    uint8_t used
    uint8_t side  # that sent it
    tcb ends[2]

cdef struct synacks:
    uint32_t next  # place of the next one
    synack kept[SYNACK_MAX]


cdef inline bint synack_rival(const flow *fl, int side, const segment *th) noexcept nogil:
    """True of a SYN-ACK with another number than the one that was taken, but for the same SYN."""
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef const tcb *rcv = &fl.ends[1 - side].tcb
    return (
        (th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST)) == (TCPHDR_SYN | TCPHDR_ACK)
        and snd.state == TCP_SYN_RECV
        and snd.flags & TCB_SND
        and snd.snd_una != th.seq
        and rcv.state == TCP_ESTABLISHED
        and between(th.ack, rcv.snd_una, rcv.snd_nxt)
    )


cdef inline bint synack_keep(
    synacks *all, uint64_t conn, const flow *fl, int side, const segment *th
) noexcept nogil:
    """Keep a rival; its sender in `fl` has sent it already. False if it was kept before."""
    cdef synack *one
    cdef tcb *rcv
    cdef int i
    for i in range(SYNACK_MAX):
        one = &all.kept[i]
        if one.used and one.conn == conn and one.ends[side].snd_una == th.seq:
            return False
    one = &all.kept[all.next]
    all.next = (all.next + 1) % SYNACK_MAX
    one.conn = conn
    one.used = 1
    one.side = side
    one.ends[side] = fl.ends[side].tcb
    one.ends[1 - side] = fl.ends[1 - side].tcb
    rcv = &one.ends[1 - side]
    rcv.state = TCP_SYN_SENT  # as it was before the first one
    rcv.snd_una = th.ack - 1
    rcv.flags &= TCB_SND | TCB_WSCALE_SENT
    tcb_rcv(rcv, th)
    return True


cdef inline bint synack_pick(
    synacks *all, uint64_t conn, flow *fl, int side, const segment *th
) noexcept nogil:
    """Let both ends be what the SYN-ACK made them that `th` acknowledges, if it is a rival."""
    cdef synack *one
    cdef int i
    for i in range(SYNACK_MAX):
        one = &all.kept[i]
        if (
            one.used
            and one.conn == conn
            and one.side == 1 - side
            and one.ends[1 - side].snd_nxt == th.ack
        ):
            fl.ends[0].tcb = one.ends[0]
            fl.ends[1].tcb = one.ends[1]
            one.used = 0
            return True
    return False
