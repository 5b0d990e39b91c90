"""What gives way where a receive buffer is full: the window, small pieces, what is behind holes.

Linux: net/ipv4/tcp_input.c (tcp_prune_queue, tcp_clamp_window, tcp_collapse, tcp_prune_ofo_queue).
RFC 9293 3.8.6; RFC 2018 8.
"""

from __future__ import annotations

from .netns import Netns
from .snmp import Mib
from .sock import (
    PAGE,
    SKB_OVERHEAD,
    SKB_SHARED_INFO,
    SKB_SMALL_HEAD,
    SOCK_RCVBUF_LOCK,
    SkBuff,
    TcpSock,
)
from .tcp import MASK32, TCPHDR_FIN, after, before
from .tcp_window import tcp_win_from_space

COLLAPSE_ROOM = PAGE - SKB_SHARED_INFO  # text of a joined piece
OFO_WALK_FREE = 64  # so many pieces behind holes are looked at whenever memory runs out
OFO_DUE_MAX = 65535
LOOKED_AT = 1  # in `sacked`, which what was received has no other use for


def tcp_prune_queue(net: Netns, tp: TcpSock, seq: int) -> bool:
    """Make room in a buffer that is full; True if there is some now."""
    net.mib[Mib.PRUNECALLED] += 1
    tcp_clamp_window(net, tp)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    tcp_collapse_ofo_queue(net, tp)
    tcp_collapse_receive_queue(net, tp)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    tcp_prune_ofo_queue(net, tp, seq)
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    net.mib[Mib.RCVPRUNED] += 1
    return False


def tcp_clamp_window(net: Netns, tp: TcpSock) -> None:
    """Hold what is there already, unless the caller has set a bound; then offer little."""
    tp.ack_quick = 0
    most = net.sysctl.tcp_rmem[2]
    if tp.sk_rcvbuf < most and not tp.userlocks & SOCK_RCVBUF_LOCK:
        tp.sk_rcvbuf = min(tp.sk_rmem_alloc, most)
    if tp.sk_rmem_alloc > tp.sk_rcvbuf:
        tp.rcv_ssthresh = min(tp.window_clamp, 2 * tp.advmss)


def tcp_collapse_receive_queue(net: Netns, tp: TcpSock) -> None:
    """Join what can be read, from the last piece on that was looked at before."""
    queue = tp.sk_receive_queue
    if not queue:
        return
    run = [queue.pop()]
    while queue and not run[-1].sacked:
        run.append(queue.pop())
    run.reverse()
    start = run[0].seq if before(tp.copied_seq, run[0].seq) else tp.copied_seq
    queue.extend(tcp_collapse(net, tp, run, start, tp.tcb.rcv_nxt))
    queue[-1].sacked = LOOKED_AT


def tcp_collapse_ofo_queue(net: Netns, tp: TcpSock) -> None:
    """Join what waits behind holes, each run for itself; small runs are left, and many end it.

    All are looked at again once an eighth of them is new, so that each pays for eight at most.
    """
    queue = tp.out_of_order_queue
    if tp.ofo_due:
        return
    if len(queue) > OFO_WALK_FREE:
        tp.ofo_due = min(len(queue) >> 3, OFO_DUE_MAX)
    tiny = at = 0
    while at < len(queue):
        last, cost = at + 1, queue[at].truesize
        while last < len(queue) and queue[last].seq == queue[last - 1].end_seq:
            cost += queue[last].truesize
            last += 1
        start, end = queue[at].seq, queue[last - 1].end_seq
        if last > at + 1 or (end - start) & MASK32 >= COLLAPSE_ROOM:
            joined = tcp_collapse(net, tp, queue[at:last], start, end)
            queue[at:last] = joined
            at += len(joined)
        else:
            at = last
            tiny += cost
            if tiny > tp.sk_rcvbuf >> 3:
                return


def tcp_collapse(net: Netns, tp: TcpSock, run: list[SkBuff], start: int, end: int) -> list[SkBuff]:
    """Copy a run of pieces into larger ones, from the first on that wastes its memory."""
    at = 0
    while at < len(run):
        skb = run[at]
        wasted = tcp_win_from_space(tp, skb.truesize) > len(skb.data) or before(skb.seq, start)
        if wasted and before(start, skb.end_seq) and not skb.tcp_flags & TCPHDR_FIN:
            break
        start = skb.end_seq
        at += 1
    joined, rest = run[:at], run[at:]
    while rest and not rest[0].tcp_flags & TCPHDR_FIN:
        room = min((end - start) & MASK32, COLLAPSE_ROOM)
        made = SkBuff(start, b"", rest[0].tcp_flags)
        made.truesize = skb_collapsed_size(room)
        made.frag = made.truesize - SKB_OVERHEAD - SKB_SHARED_INFO
        made.skb_mstamp_ns = rest[0].skb_mstamp_ns
        tp.sk_rmem_alloc += made.truesize
        while room and rest and not rest[0].tcp_flags & TCPHDR_FIN:
            skb = rest[0]
            left = (skb.end_seq - start) & MASK32
            length = min(left, room)
            skip = len(skb.data) - left
            made.data = bytes(made.data) + bytes(skb.data)[skip : skip + length]
            start = (start + length) & MASK32
            room -= length
            if length == left:
                net.mib[Mib.TCP_RCVCOLLAPSED] += 1
                tp.sk_rmem_alloc -= rest.pop(0).truesize
        made.end_seq = start
        joined.append(made)
    return joined + rest


def skb_collapsed_size(length: int) -> int:
    """Memory that a joined piece takes, which has no headers."""
    size = (length + 63 & ~63) + SKB_SHARED_INFO
    if size <= SKB_SMALL_HEAD:
        return SKB_OVERHEAD + SKB_SMALL_HEAD
    return SKB_OVERHEAD + (1 << (size - 1).bit_length())


def tcp_prune_ofo_queue(net: Netns, tp: TcpSock, seq: int) -> None:
    """Drop what lies behind a number, the last first, an eighth of the buffer at a time."""
    queue = tp.out_of_order_queue
    goal = tp.sk_rcvbuf >> 3
    if not queue or after(seq, queue[-1].seq):
        return
    net.mib[Mib.TCP_OFOPRUNE] += 1
    tp.sack.clear()  # as after a time-out: nothing is told of that may be gone
    while queue and not after(seq, queue[-1].seq):
        last = queue.pop()
        tp.sk_rmem_alloc -= last.truesize
        goal -= last.truesize
        if goal <= 0:
            if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
                break
            goal = tp.sk_rcvbuf >> 3
