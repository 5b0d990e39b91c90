"""Data that comes in: what can be read, what waits behind holes, when to acknowledge, buffers.

Linux: net/ipv4/tcp_input.c (tcp_data_queue, tcp_ofo_queue, tcp_event_data_recv).
RFC 9293 3.10.7.4 (seventh), 3.8.6.3; RFC 2018 3 and 4; RFC 2883.
"""

from __future__ import annotations

from .netns import Netns, sk_wake
from .snmp import Mib
from .sock import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_NOW,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    PAGE,
    SKB_HEAD_TEXT,
    SKB_HEADROOM,
    SKB_OVERHEAD,
    SKB_SHARED_INFO,
    SKB_SMALL_HEAD,
    TCP_ATO_MIN_NS,
    TCP_MAX_QUICKACKS,
    TCP_MIN_MSS,
    TCP_MSS_DEFAULT,
    TCP_PINGPONG_THRESH,
    TCP_RMEM_TO_WIN_SCALE,
    TCP_URG_NOTYET,
    TCP_URG_VALID,
    SkBuff,
    TcpSock,
)
from .tcb import (
    TCB_DATA,
    TCB_FIN_TAKEN,
    TCB_OFO,
    TCB_OLD,
    TCB_OVERWINDOW,
    TCB_PARTIAL,
    tcb_pull,
    tcp_paws_check,
)
from .tcp import (
    MASK32,
    TCP_ESTABLISHED,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_SYN,
    TCPHDR_URG,
    Segment,
    after,
    before,
)
from .tcp_comp_sack import tcp_sack_compress_blocks, tcp_send_dup_ack
from .tcp_ecn import tcp_data_ecn_check
from .tcp_output import tcp_send_ack, tcp_send_delayed_ack
from .tcp_prune import tcp_prune_queue
from .tcp_rcv_space import tcp_rcv_rtt_measure, tcp_rcvbuf_grow
from .tcp_window import (
    tcp_choose_window,
    tcp_receive_window,
    tcp_space,
    tcp_win_from_space,
)

TCP_NUM_SACKS = 4
TCP_REMNANT = TCPHDR_FIN | TCPHDR_URG | TCPHDR_SYN | TCPHDR_PSH  # it may be shorter than others


def tcp_fits_forward_alloc(net: Netns, tp: TcpSock, seq: int, length: int) -> bool:
    """True for the predicted segment that fits what is left of the last page that was charged.

    Linux has such a segment pass without a look at the buffer's bound.
    """
    left = -(tp.sk_rmem_alloc + tp.sk_wmem_queued) % PAGE
    return (
        seq == tp.tcb.rcv_nxt
        and tp.tcb.state == TCP_ESTABLISHED
        and not tp.out_of_order_queue
        and not tp.urg_data
        and tp.rcv_wnd > 0
        and skb_truesize(length, net.gso_size) <= left
    )


def tcp_is_predicted(net: Netns, tp: TcpSock, th: Segment) -> bool:
    """True for text that Linux predicts and whose header says nothing new: what waits to be sent
    goes on waiting."""
    tcb = tp.tcb
    return (
        th.payload_len > 0
        and th.flags & ~TCPHDR_PSH == TCPHDR_ACK
        and th.ack == tcb.snd_una
        and th.window << tcb.snd_wscale == tcb.snd_wnd
        and 4 * th.doff == tp.tcp_header_len
        and tp.saw_tstamp == tp.tstamp_ok
        and not tcp_paws_check(tcb, th)
        and tcp_fits_forward_alloc(net, tp, th.seq, th.payload_len)
    )


def tcp_try_rmem_schedule(net: Netns, tp: TcpSock, seq: int, length: int) -> bool:
    """True if there is room, or has been made."""
    if tp.sk_rmem_alloc <= tp.sk_rcvbuf:
        return True
    if length and tcp_fits_forward_alloc(net, tp, seq, length):
        return True
    if tcp_prune_queue(net, tp, seq):
        return True
    if tp.sk_receive_queue or after(seq, tp.tcb.rcv_nxt):
        return False
    tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_NOW | ICSK_ACK_NOMEM
    return True  # the stream gets on, whatever lies behind holes


def skb_head_size(length: int, joined: int) -> int:
    """The buffer of a received segment as Linux's allocator has it; beyond 4 KiB it has pages.

    What a device has joined has its text in pages alone, else the first of it is in the head.
    """
    size = (length + SKB_HEADROOM + 63 & ~63) + SKB_SHARED_INFO
    if size <= SKB_SMALL_HEAD:
        return SKB_SMALL_HEAD
    if size <= PAGE:
        return 1 << (size - 1).bit_length()
    if joined:
        return SKB_SMALL_HEAD + -(-length // PAGE) * PAGE
    return PAGE + -(-(length - SKB_HEAD_TEXT) // PAGE) * PAGE


def skb_truesize(length: int, joined: int) -> int:
    """Memory that a received segment takes."""
    return SKB_OVERHEAD + skb_head_size(length, joined)


def skb_tailroom(length: int) -> int:
    """How much text a received segment's buffer has room for; none beyond it if there are pages."""
    room = skb_head_size(length, 0) - SKB_SHARED_INFO - SKB_HEADROOM
    return room if room + SKB_SHARED_INFO + SKB_HEADROOM <= PAGE else length


def tcp_data_queue(
    net: Netns, tp: TcpSock, th: Segment, data: bytes, verdict: int, rcv_nxt: int
) -> bool:
    """Put text where it belongs (RFC 9293 3.10.7.4, seventh); `rcv_nxt` was expected.

    Returns
    -------
    bool : True if the peer's FIN is in
    """
    tp.duplicate_sack = None  # an ACK that waits tells of the last one alone
    if verdict & TCB_OFO:
        if before(th.seq, (rcv_nxt + tcp_receive_window(tp)) & MASK32):
            tcp_data_queue_ofo(net, tp, th, data)
            return False
        verdict = TCB_OVERWINDOW  # the window was larger once, and is taken back
    if verdict & (TCB_DATA | TCB_FIN_TAKEN):
        if verdict & TCB_PARTIAL:
            tcp_dsack_set(net, tp, th.seq, rcv_nxt)
        skip = (rcv_nxt - th.seq) & MASK32
        if th.payload_len > skip:
            tcp_queue_rcv(net, tp, rcv_nxt, data[skip:], th.flags)
            tcp_event_data_recv(net, tp, th)
        elif verdict & TCB_FIN_TAKEN:
            tcp_queue_rcv(net, tp, rcv_nxt, b"", th.flags)
        fin = bool(verdict & TCB_FIN_TAKEN)
        if tp.out_of_order_queue and not fin:  # behind a FIN is nothing
            fin = tcp_ofo_queue(net, tp)
            if fin or not tp.out_of_order_queue:
                tp.ack_pending |= ICSK_ACK_NOW
        tp.bytes_received += fin
        if tp.sack and not fin:  # the ACK of a FIN that waited still tells of it
            tcp_sack_remove(tp)
        if not fin and not tp.dead:
            sk_wake(net, tp)
        return fin
    if verdict & TCB_OLD:
        net.mib[Mib.TCP_DELAYEDACKLOST] += 1
        tcp_dsack_set(net, tp, th.seq, th.end_seq)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    elif verdict & TCB_OVERWINDOW:
        net.mib[Mib.TCP_BEYONDWINDOW] += 1
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    return False


def tcp_rcv_skb(net: Netns, before_it: SkBuff | None, seq: int, data: bytes, flags: int) -> SkBuff:
    """What came, and what it costs; pages alone are handed on to what they follow."""
    skb = SkBuff(seq, data, flags)
    skb.end_seq = (seq + len(data)) & MASK32
    skb.truesize = skb_truesize(len(data), net.gso_size)
    skb.frag = skb_tailroom(len(data))
    if (
        net.gso_size
        and before_it
        and before_it.end_seq == seq
        and skb.truesize > SKB_OVERHEAD + PAGE
        and not before_it.tcp_flags & TCPHDR_FIN
    ):
        skb.truesize -= SKB_OVERHEAD + SKB_SMALL_HEAD
    return skb


def skb_joins(skb: SkBuff, data: bytes) -> bool:
    """True if what follows a piece fits its buffer, where it is now."""
    if skb.tcp_flags & TCPHDR_FIN or len(skb.data) + len(data) > skb.frag:
        return False
    skb.data = bytes(skb.data) + data
    return True


def tcp_queue_rcv(net: Netns, tp: TcpSock, seq: int, data: bytes, flags: int) -> None:
    """Append to what can be read; small pieces join."""
    tp.bytes_received += len(data)
    queue = tp.sk_receive_queue
    if queue and queue[-1].end_seq == seq and skb_joins(queue[-1], data):
        queue[-1].end_seq = (seq + len(data)) & MASK32
        queue[-1].skb_mstamp_ns = net.now_ns
        return
    skb = tcp_rcv_skb(net, queue[-1] if queue else None, seq, data, flags)
    skb.skb_mstamp_ns = net.now_ns
    tp.sk_rmem_alloc += skb.truesize
    queue.append(skb)


def tcp_data_queue_ofo(net: Netns, tp: TcpSock, th: Segment, data: bytes) -> None:
    """Keep what lies behind a hole (9293:SHLD-31), without what is kept already."""
    if tp.ecn_flags and tcp_data_ecn_check(tp, net.ip_dsfield):
        tcp_enter_quickack_mode(tp, 2)
    if not tcp_try_rmem_schedule(net, tp, th.seq, len(data)):
        net.mib[Mib.TCP_OFODROP] += 1
        return
    net.mib[Mib.TCP_OFOQUEUE] += 1
    tp.rcv_ooopack += 1
    tp.ack_pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(net, tp, th)
    queue = tp.out_of_order_queue
    seq, end_seq = th.seq, th.end_seq
    at = len(queue)
    while at and after(queue[at - 1].seq, seq):
        at -= 1
    if at and after(queue[at - 1].end_seq, seq):
        before_it = queue[at - 1]
        if not after(end_seq, before_it.end_seq):
            net.mib[Mib.TCP_OFOMERGE] += 1
            tcp_dsack_set(net, tp, seq, end_seq)
            tcp_sack_new_ofo_skb(net, tp, seq, end_seq)
            return
        tcp_dsack_set(net, tp, seq, before_it.end_seq)
        data = data[(before_it.end_seq - seq) & MASK32 :]
        seq = before_it.end_seq
    while at < len(queue) and after(end_seq, queue[at].seq):
        behind = queue[at]
        if before(end_seq, behind.end_seq):
            tcp_dsack_extend(net, tp, behind.seq, end_seq)
            data = data[: (behind.seq - seq) & MASK32]
            end_seq = behind.seq
            break
        tcp_dsack_extend(net, tp, behind.seq, behind.end_seq)
        tp.sk_rmem_alloc -= behind.truesize
        net.mib[Mib.TCP_OFOMERGE] += 1
        del queue[at]
    flags = th.flags if end_seq == th.end_seq else th.flags & ~TCPHDR_FIN
    cost = 0
    if at and queue[at - 1].end_seq == seq and skb_joins(queue[at - 1], data):
        queue[at - 1].end_seq = end_seq
        queue[at - 1].tcp_flags |= flags
        queue[at - 1].skb_mstamp_ns = net.now_ns
    else:
        skb = tcp_rcv_skb(net, queue[at - 1] if at else None, seq, data, flags)
        skb.skb_mstamp_ns = net.now_ns
        skb.end_seq = end_seq
        cost = skb.truesize
        queue.insert(at, skb)
        tp.ofo_due -= tp.ofo_due > 0
    tcp_sack_new_ofo_skb(net, tp, th.seq, th.end_seq)
    if tp.sack_ok:  # a window that grows is no duplicate ACK to those who know no SACK
        tcp_grow_window(net, tp, th.payload_len)
    tp.sk_rmem_alloc += cost
    if tp.listener is None and not tp.dead:
        tcp_rcvbuf_grow(net, tp, tp.rcvq_space)


def tcp_dsack_set(net: Netns, tp: TcpSock, start: int, end: int) -> None:
    if tp.sack_ok and net.sysctl.tcp_dsack and before(start, end):
        old = before(start, tp.tcb.rcv_nxt)
        net.mib[Mib.TCP_DSACKOLDSENT if old else Mib.TCP_DSACKOFOSENT] += 1
        tp.duplicate_sack = (start, end)


def tcp_dsack_extend(net: Netns, tp: TcpSock, start: int, end: int) -> None:
    if not tp.duplicate_sack:
        tcp_dsack_set(net, tp, start, end)
        return
    low, high = tp.duplicate_sack
    if after(start, high) or after(low, end):
        return  # apart from the first, which is told alone
    if before(start, low):
        low = start
    if after(end, high):
        high = end
    tp.duplicate_sack = low, high


def tcp_sack_new_ofo_skb(net: Netns, tp: TcpSock, start: int, end: int) -> None:
    """The block with the newest segment comes first (RFC 2018 4)."""
    if not tp.sack_ok:
        return
    if tp.compressed_ack:
        tcp_sack_compress_blocks(net, tp, start, end)
    rest = []
    for low, high in tp.sack:
        if before(end, low) or after(start, high):
            rest.append((low, high))
        else:
            start = low if before(low, start) else start
            end = high if after(high, end) else end
    tp.sack = [(start, end), *rest][:TCP_NUM_SACKS]


def tcp_sack_remove(tp: TcpSock) -> None:
    if not tp.out_of_order_queue:
        tp.sack.clear()
        return
    tp.sack = [block for block in tp.sack if before(tp.tcb.rcv_nxt, block[0])]


def tcp_ofo_queue(net: Netns, tp: TcpSock) -> bool:
    """Take in what waited behind a hole that is filled now; True if the FIN was with it."""
    queue = tp.out_of_order_queue
    fin = False
    dsack_high = tp.tcb.rcv_nxt
    while queue and not after(queue[0].seq, tp.tcb.rcv_nxt):
        skb = queue.pop(0)
        tp.sk_rmem_alloc -= skb.truesize
        rcv_nxt = tp.tcb.rcv_nxt
        if before(skb.seq, dsack_high):  # it came again with what filled the hole
            end = skb.end_seq if before(skb.end_seq, dsack_high) else dsack_high
            tcp_dsack_extend(net, tp, skb.seq, end)
        if not after(skb.end_seq, rcv_nxt):
            continue
        skip = (rcv_nxt - skb.seq) & MASK32
        fin = bool(skb.tcp_flags & TCPHDR_FIN)
        tcp_queue_rcv(net, tp, rcv_nxt, bytes(skb.data)[skip:], skb.tcp_flags)
        tp.sk_receive_queue[-1].skb_mstamp_ns = skb.skb_mstamp_ns
        tcb_pull(tp.tcb, skb.end_seq, fin)
        if fin:
            break
    return fin


def tcp_check_urg(net: Netns, tp: TcpSock, th: Segment, rcv_nxt: int) -> None:
    """The urgent pointer, which is of the octet after the urgent one (RFC 6093 as Linux has it)."""
    ptr = th.urgent
    if ptr and not net.sysctl.tcp_stdurg:
        ptr -= 1
    ptr = (ptr + th.seq) & MASK32
    if after(tp.copied_seq, ptr) or before(ptr, rcv_nxt):
        return  # it was read, or was there before
    if tp.urg_data and not after(ptr, tp.urg_seq):
        return
    if tp.urg_seq == tp.copied_seq != rcv_nxt and tp.urg_data and not tp.oobinline:
        # The one before is lost, as nobody has asked for it.
        tp.copied_seq = (tp.copied_seq + 1) & MASK32
        queue = tp.sk_receive_queue
        if queue and not before(tp.copied_seq, queue[0].end_seq):
            tp.sk_rmem_alloc -= queue.popleft().truesize
    tp.urg_data = TCP_URG_NOTYET
    tp.urg_seq = ptr
    sk_wake(net, tp)


def tcp_urg(net: Netns, tp: TcpSock, th: Segment, data: bytes) -> None:
    """The urgent octet may come later than its pointer."""
    if tp.urg_data == TCP_URG_NOTYET:
        at = (tp.urg_seq - th.seq) & MASK32
        if at < len(data):
            tp.urg_data = TCP_URG_VALID | data[at]
            sk_wake(net, tp)


# When to acknowledge.


def tcp_incr_quickack(tp: TcpSock, most: int) -> None:
    quick = tp.rcv_wnd // (2 * tp.rcv_mss) or 2
    tp.ack_quick = max(tp.ack_quick, min(quick, most))


def tcp_enter_quickack_mode(tp: TcpSock, most: int) -> None:
    tcp_incr_quickack(tp, most)
    tp.ack_pingpong = 0
    tp.ack_ato_ns = TCP_ATO_MIN_NS


def tcp_in_quickack_mode(tp: TcpSock) -> bool:
    return bool(tp.ack_quick) and tp.ack_pingpong < TCP_PINGPONG_THRESH


def tcp_initialize_rcv_mss(tp: TcpSock) -> None:
    hint = min(tp.advmss, tp.mss_cache, tp.rcv_wnd // 2, TCP_MSS_DEFAULT)
    tp.rcv_mss = max(hint, TCP_MIN_MSS)


def tcp_measure_rcv_mss(net: Netns, tp: TcpSock, th: Segment) -> None:
    """What the peer's full segments hold, as far as it can be told."""
    length = net.gso_size or th.payload_len
    last, tp.last_seg_size = tp.last_seg_size, 0
    if length >= tp.rcv_mss:
        if length != tp.rcv_mss:
            tcp_measure_scaling_ratio(net, tp, th.payload_len)
        tp.rcv_mss = min(length, tp.advmss)
        if th.flags & TCPHDR_PSH:  # it may end a write, so that no more follows
            tp.ack_pending |= ICSK_ACK_PUSHED
        return
    whole = length + 4 * th.doff  # its options may take what text could
    if whole >= TCP_MSS_DEFAULT + 20 or (whole >= TCP_MIN_MSS + 20 and not th.flags & TCP_REMNANT):
        tp.last_seg_size = length = whole - tp.tcp_header_len
        if length == last:
            tp.rcv_mss = length
            return
    if tp.ack_pending & ICSK_ACK_PUSHED:
        tp.ack_pending |= ICSK_ACK_PUSHED2
    tp.ack_pending |= ICSK_ACK_PUSHED


def tcp_measure_scaling_ratio(net: Netns, tp: TcpSock, length: int) -> None:
    """What the peer's segments cost tells how much of the memory a window may fill."""
    old = tp.scaling_ratio
    cost = skb_truesize(length, net.gso_size)
    tp.scaling_ratio = (length << TCP_RMEM_TO_WIN_SCALE) // cost or 1
    if tp.scaling_ratio != old:
        tp.window_clamp = tcp_win_from_space(tp, tp.sk_rcvbuf)
        tp.rcvq_space = min(tp.rcvq_space, tp.window_clamp)


def tcp_event_data_recv(net: Netns, tp: TcpSock, th: Segment) -> None:
    """Data came in order: owe an acknowledgment, guess how long it may wait."""
    length = th.payload_len
    tp.ack_pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(net, tp, th)
    tcp_rcv_rtt_measure(net, tp)
    now_ns = net.now_ns
    if not tp.ack_ato_ns:  # the first
        tcp_incr_quickack(tp, TCP_MAX_QUICKACKS)
        tp.ack_ato_ns = TCP_ATO_MIN_NS
    else:
        gap_ns = now_ns - tp.ack_lrcvtime_ns
        if gap_ns <= TCP_ATO_MIN_NS // 2:
            tp.ack_ato_ns = (tp.ack_ato_ns >> 1) + TCP_ATO_MIN_NS // 2
        elif gap_ns < tp.ack_ato_ns:
            tp.ack_ato_ns = min((tp.ack_ato_ns >> 1) + gap_ns, tp.rto_ns)
        elif gap_ns > tp.rto_ns:
            tcp_incr_quickack(tp, TCP_MAX_QUICKACKS)
    tp.ack_lrcvtime_ns = now_ns
    if tp.ecn_flags and tcp_data_ecn_check(tp, net.ip_dsfield):
        tcp_enter_quickack_mode(tp, 2)
    if length >= 128:
        tcp_grow_window(net, tp, length)


def tcp_grow_window(net: Netns, tp: TcpSock, length: int) -> None:
    """Open the window by what is sure to fit the buffer."""
    room = min(tp.window_clamp, tcp_space(tp)) - tp.rcv_ssthresh
    if room <= 0:
        return
    cost = tcp_win_from_space(tp, skb_truesize(length, net.gso_size))
    more = 2 * tp.advmss
    if cost > length:  # small segments in large buffers: the more has been offered, the less
        cost >>= 1
        window = tcp_win_from_space(tp, net.sysctl.tcp_rmem[2]) >> 1
        while tp.rcv_ssthresh <= window and cost > length:
            cost >>= 1
            window >>= 1
        more = 2 * tp.rcv_mss if tp.rcv_ssthresh <= window else 0
    if more:
        tp.rcv_ssthresh += min(room, max(more, 2 * length))
        tp.ack_quick |= 1


def tcp_ack_snd_check(net: Netns, tp: TcpSock) -> None:
    """Acknowledge now, later, or not (9293:SHLD-18, SHLD-19, MUST-58)."""
    if not tp.ack_pending & ICSK_ACK_SCHED:
        return
    tcb = tp.tcb
    more = (tcb.rcv_nxt - tp.rcv_wup) & MASK32 > tp.rcv_mss
    if (
        (more and tcp_choose_window(net, tp) >= tp.rcv_wnd)
        or tcp_in_quickack_mode(tp)
        or net.route.quickack
        or tp.ack_pending & ICSK_ACK_NOW
    ):
        tcp_send_ack(net, tp)
    elif not tp.out_of_order_queue:
        tcp_send_delayed_ack(net, tp)
    else:
        tcp_send_dup_ack(net, tp)
