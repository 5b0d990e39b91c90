"""Which segments' payload is noted for streams, and where it lies: in a frame, or in fragments.

Linux: net/ipv4/tcp_input.c (tcp_data_queue).  docs/streams.md has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from .conntrack import CLOSED_STATES, Frame, Tracker, conntrack_close
from .ip_fragment import Datagram, Piece
from .tcp import TCPHDR_FIN, TCPHDR_RST, TCPHDR_SYN, TCPHDR_URG, Drop, Flow, Opt, Segment
from .tcp_queue import (
    TCB_OVERWINDOW,
    QueuePool,
    Skb,
    SkbQueue,
    queue_begin,
    sk_alloc,
    sk_find,
    sk_prune,
    sk_rmem_full,
    sk_touch,
    skb_queue_tail,
    tcp_check_urg,
    tcp_data_queue,
)


def queue_takes(drop: int, sent: int) -> bool:
    """True for what a receiver took or had, or may have taken all the same, of a sender that `sent`
    these flags: not what is damaged, and not what comes after the sender's own reset."""
    if drop == Drop.TCP_CLOSED:
        return not sent & TCPHDR_RST
    return drop not in (Drop.IP_CSUM, Drop.TCP_CSUM, Drop.TCP_BAD_DOFF)


def queue_pieces(
    pool: QueuePool, queue: SkbQueue, made: Skb, begin: int, pieces: Sequence[Piece]
) -> None:
    """Append a record for each run of a payload that came in `pieces` of a datagram.

    `made` is as if it were one, `begin` where in the datagram it begins.
    """
    end = begin + made.length
    for piece in pieces:
        low, high = max(begin, piece.offset), min(end, piece.end)
        if low < high:
            seq = made.seq + low - begin
            place = piece.source + low - piece.offset
            length = high - low
            one = Skb(seq, place, length, length, piece.file, made.doubtful, made.overwindow)
            skb_queue_tail(pool, queue, one)


def conntrack_queue(
    ct: Tracker,
    flow: Flow,
    side: int,
    th: Segment,
    frame: Frame,
    whole: Datagram | None,
    verdict: int,
    drop: int,
) -> None:
    """Record where a segment's payload lies, if it may be of the stream.

    It lies in the frame, or in a datagram that was made `whole`.
    """
    pool, conn = ct.queues, flow.conn
    if th.payload_len or th.flags & (TCPHDR_SYN | TCPHDR_FIN | TCPHDR_URG):
        records = (len(whole.pieces) if whole else 1) + (th.flags & TCPHDR_URG != 0)
        while sk_rmem_full(pool, records) and (pool.open or pool.closed):
            sk_prune(pool)
        queue = sk_find(pool, conn, side)
        begins = th.payload_len or th.flags & (TCPHDR_FIN | TCPHDR_URG)
        if queue is None and conn not in pool.gone and begins:
            sk_alloc(pool, flow)
            queue = sk_find(pool, conn, side)
        takes = queue_takes(drop, flow.ends[side].flags)
        if queue is not None and takes and not th.flags & TCPHDR_RST:
            if not queue.begun:
                end = flow.ends[side]
                queue_begin(queue, end.isn, end.opts & Opt.OPT_ISN != 0)
            doubtful = drop not in (0, Drop.TCP_OLD_DATA)
            seq = tcp_data_queue(queue, th, verdict, doubtful)
            if th.flags & TCPHDR_URG and th.urgent and not pool.handing:  # there they stay in line
                tcp_check_urg(pool, queue, th, doubtful)
            if seq >= 0:
                start, offset, caplen = frame
                payload = th.transport_header + 4 * th.doff
                caplen = max(min(th.payload_len, caplen - (payload - start)), 0)
                place = offset + payload - start
                beyond = verdict & TCB_OVERWINDOW != 0 or drop == Drop.TCP_CLOSED
                made = Skb(seq, place, caplen, th.payload_len, pool.file, doubtful, beyond)
                if whole:
                    queue_pieces(pool, queue, made, payload, whole.pieces)
                else:
                    skb_queue_tail(pool, queue, made)
                if pool.handing:
                    sk_touch(pool, conn)
    states = (end.tcb.state for end in flow.ends)
    if all(state in CLOSED_STATES for state in states):
        conntrack_close(ct, flow)
