"""What happened on the wire: the classes of Wireshark's TCP analysis, RTT, holes, Zeek's history.

Wireshark User's Guide, "TCP Analysis"; RFC 9293 3.4, 3.8.1; RFC 7323 4; Zeek's conn.log.
docs/analysis.md has the rules.
"""

from __future__ import annotations

from enum import IntEnum

from .tcp import (
    MASK32,
    NR_CLASSES,
    TCPHDR_ACK,
    TCPHDR_CONTROL,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Analysis,
    AnalysisEnd,
    Bad,
    Class,
    Flow,
    FlowBit,
    Opt,
    Segment,
    after,
    before,
    tcp_is_synack,
)
from .tcp_history import analysis_history

HOLES_MAX = 3
OOO_NS = 3_000_000  # a segment that is so little late was reordered, unless the RTT is known
FAST_RETRANS_NS = 20_000_000  # a fast retransmission follows its last duplicate ACK within


class Reason(IntEnum):
    """Our own verdict on what a segment is (the column `reason`)."""

    REASON_NONE = 0  # no segment, or nobody can tell where its header ends
    REASON_CONTROL = 1  # SYN, FIN or RST, for the first time
    REASON_ACK = 2
    REASON_NEW_DATA = 3
    REASON_AFTER_HOLE = 4  # new data, or an ACK, behind what was not seen
    REASON_REORDERED = 5  # fills a hole, sooner than its loss can have been noticed
    REASON_HOLE_FILLED = 6  # fills a hole: sent again because the first copy was lost
    REASON_FULL_RETRANS = 7
    REASON_PARTIAL_RETRANS = 8  # and something new, or missing so far, in it
    REASON_DUPLICATED = 9  # the same again, sooner than a loss can have been noticed: the network
    REASON_PROBE = 10  # keep-alive or zero window probe


# Plain ints: an enum member's `|` costs more than the step itself.
RETRANSMISSION = int(Class.TCP_A_RETRANSMISSION)
FAST_RETRANSMISSION = int(Class.TCP_A_FAST_RETRANSMISSION)
SPURIOUS_RETRANSMISSION = int(Class.TCP_A_SPURIOUS_RETRANSMISSION)
OUT_OF_ORDER = int(Class.TCP_A_OUT_OF_ORDER)
LOST_PACKET, ACK_LOST_PACKET = int(Class.TCP_A_LOST_PACKET), int(Class.TCP_A_ACK_LOST_PACKET)
DUPLICATE_ACK = int(Class.TCP_A_DUPLICATE_ACK)
KEEP_ALIVE, KEEP_ALIVE_ACK = int(Class.TCP_A_KEEP_ALIVE), int(Class.TCP_A_KEEP_ALIVE_ACK)
ZERO_WINDOW, PROBE = int(Class.TCP_A_ZERO_WINDOW), int(Class.TCP_A_ZERO_WINDOW_PROBE)
PROBE_ACK = int(Class.TCP_A_ZERO_WINDOW_PROBE_ACK)
WINDOW_FULL, WINDOW_UPDATE = int(Class.TCP_A_WINDOW_FULL), int(Class.TCP_A_WINDOW_UPDATE)
REUSED_PORTS = int(Class.TCP_A_REUSED_PORTS)


def analysis_rtt_sent(e: AnalysisEnd, end_seq: int, time_ns: int) -> None:
    """Time a segment that carries something new, one at a time."""
    if not e.timing:
        e.timing = True
        e.resent = False
        e.rtt_seq = end_seq
        e.rtt_sent_ns = time_ns


def analysis_rtt_acked(e: AnalysisEnd, th: Segment, time_ns: int) -> None:
    """`th` acknowledges what is timed: a sample, unless it may be of another copy (Karn's rule).

    Of a segment that was sent again the time stamp tells which copy is acknowledged.
    """
    e.timing = False
    if e.resent and not (
        th.opts & Opt.OPT_TIMESTAMP and e.rtt_tsval and before(th.tsecr, e.rtt_tsval)
    ):
        return
    rtt_ns = time_ns - e.rtt_sent_ns
    if not 0 <= rtt_ns < 1 << 47:
        return
    e.rtt_min_ns = min(e.rtt_min_ns, rtt_ns) if e.rtt_samples else rtt_ns
    e.rtt_max_ns = max(e.rtt_max_ns, rtt_ns)
    e.rtt_sum_ns = min(e.rtt_sum_ns + rtt_ns, (1 << 63) - 1)
    e.rtt_samples += 1


def analysis_retire(e: AnalysisEnd) -> None:
    """Count the lowest hole for good, to make room for another."""
    begin, end = e.holes.pop(0)
    e.gaps += 1
    e.gap_bytes += (end - begin) & MASK32


def analysis_hole(e: AnalysisEnd, begin: int, end: int) -> None:
    """A hole opens above all others; those half the circle below can no longer be filled."""
    while e.holes and (begin - e.holes[0][0]) & MASK32 > 0x7FFFFFFF:
        analysis_retire(e)
    if len(e.holes) == HOLES_MAX:
        analysis_retire(e)
    e.holes.append((begin, end))


def analysis_fill(e: AnalysisEnd, begin: int, end: int) -> int:
    """Take a range of numbers below `nextseq` out of the holes; how many lay in them.

    All are compared by how far they lie below `nextseq`.
    """
    edge = e.nextseq
    above, below = (edge - begin) & MASK32, (edge - end) & MASK32
    filled = 0
    i = 0
    while i < len(e.holes):
        left, right = e.holes[i]
        first = min(above, (edge - left) & MASK32)
        last = max(below, (edge - right) & MASK32)
        if first <= last:
            i += 1
            continue
        filled += first - last
        first, last = (edge - first) & MASK32, (edge - last) & MASK32
        if first == left and last == right:
            del e.holes[i]
        elif first == left:
            e.holes[i] = last, right
            i += 1
        elif last == right:
            e.holes[i] = left, first
            i += 1
        else:  # in the middle of it, and so of none other
            e.holes[i] = left, first
            e.holes.insert(i + 1, (last, right))
            if len(e.holes) > HOLES_MAX:
                analysis_retire(e)
            break
    return min(filled, above - below)


def analysis_late(
    e: AnalysisEnd, peer: AnalysisEnd, th: Segment, time_ns: int, late_ns: int
) -> int:
    """Which class repeated or late data are: retransmissions, or out of order."""
    seq, length = th.seq, th.payload_len
    if length and peer.lastack and not after((seq + length) & MASK32, peer.lastack):
        return RETRANSMISSION | SPURIOUS_RETRANSMISSION
    if not e.nextseq or not before(seq, e.nextseq):
        return 0
    if length > 1 and (e.nextseq - 1) & MASK32 == seq:
        return 0  # a keep-alive's number, and more than one: new data
    if peer.dupacks >= 2 and peer.lastack == seq and 0 <= time_ns - peer.last_ns < FAST_RETRANS_NS:
        return RETRANSMISSION | FAST_RETRANSMISSION
    end_seq = (seq + length + (th.flags & (TCPHDR_SYN | TCPHDR_FIN) != 0)) & MASK32
    if 0 <= time_ns - e.nextseq_ns < late_ns and e.nextseq != end_seq:
        return OUT_OF_ORDER
    return RETRANSMISSION


def analysis_acks(e: AnalysisEnd, peer: AnalysisEnd, th: Segment) -> int:
    """Which classes an empty segment has by its window and acknowledgment alone."""
    if th.payload_len or th.flags & TCPHDR_CONTROL or th.seq != e.nextseq:
        return 0
    if th.window == 0:
        if e.window == 0 and peer.last & PROBE:
            if th.ack == e.lastack:
                return PROBE_ACK
            if th.ack == (e.lastack + 1) & MASK32:  # it took the byte of the probe
                peer.nextseq = peer.maxack = th.ack
                return PROBE_ACK
        return 0
    if th.ack != e.lastack:
        return 0
    if th.window != e.window:
        return WINDOW_UPDATE
    if peer.last & KEEP_ALIVE:
        return KEEP_ALIVE_ACK
    e.dupacks += 1
    return DUPLICATE_ACK


def analysis_classes(
    an: Analysis, flow: Flow, side: int, th: Segment, time_ns: int, late_ns: int, reused: bool
) -> int:
    """Wireshark's classes of a segment; a number that is 0 is not known, as there."""
    e, peer = an.ends[side], an.ends[1 - side]
    seq, ack, length, flags, window = th.seq, th.ack, th.payload_len, th.flags, th.window
    control = flags & TCPHDR_CONTROL
    classes = REUSED_PORTS if reused else 0
    if not e.seen:
        e.base = seq if flags & TCPHDR_SYN else (seq - 1) & MASK32
    elif tcp_is_synack(th) and e.base != seq:
        e.base = seq
        classes |= REUSED_PORTS
    if length == 1 and seq == e.nextseq and peer.seen and peer.window == 0:
        classes |= PROBE
    else:
        if window == 0 and not control:
            classes |= ZERO_WINDOW
        if e.nextseq:
            if after(seq, e.nextseq) and not flags & TCPHDR_RST:
                classes |= LOST_PACKET
            elif length <= 1 and seq == (e.nextseq - 1) & MASK32 and not control:
                classes |= KEEP_ALIVE
        if length and not control and peer.seen:
            shift = analysis_shift(flow, 1 - side)
            edge = peer.lastack + (peer.window << (0 if peer.syn_last else max(shift, 0)))
            if shift >= 0 and (seq + length - edge) & MASK32 == 0:
                classes |= WINDOW_FULL
        classes |= analysis_acks(e, peer, th)
    if ack != e.lastack:
        e.dupacks = 0
    if peer.maxack and flags & TCPHDR_ACK and after(ack, peer.maxack):
        if peer.last & PROBE and ack == (peer.maxack + 1) & MASK32:
            classes |= WINDOW_UPDATE  # the probe's byte was taken, and there is room again
            peer.nextseq = ack
        else:
            classes |= ACK_LOST_PACKET
        peer.maxack = peer.nextseq
    if (length or flags & (TCPHDR_SYN | TCPHDR_FIN)) and not classes & KEEP_ALIVE:
        classes |= analysis_late(e, peer, th, time_ns, late_ns)
    return classes


def analysis_shift(flow: Flow, side: int) -> int:
    """By how much windows of `side` are shifted; -1 where a SYN was not seen."""
    a, b = flow.ends
    both = a.opts & b.opts
    if not both & Opt.OPT_ISN:
        return -1
    return min(flow.ends[side].wscale, 14) if both & Opt.OPT_WSCALE else 0


def analysis_reason(
    e: AnalysisEnd, peer: AnalysisEnd, th: Segment, classes: int, filled: int, quick: bool
) -> int:
    """Our own verdict: what of a segment is new, told by what was seen, not by time alone."""
    length, flags = th.payload_len, th.flags
    if classes & (KEEP_ALIVE | PROBE):
        return Reason.REASON_PROBE
    if classes & LOST_PACKET:
        return Reason.REASON_AFTER_HOLE
    old = e.nextseq and before(th.seq, e.nextseq)
    if not length:
        if not flags & TCPHDR_CONTROL:
            return Reason.REASON_ACK
        if not old or flags & TCPHDR_RST:
            return Reason.REASON_CONTROL
    elif not old:
        return Reason.REASON_NEW_DATA
    elif filled == length:
        return Reason.REASON_REORDERED if quick else Reason.REASON_HOLE_FILLED
    elif filled or after((th.seq + length) & MASK32, e.nextseq):
        return Reason.REASON_PARTIAL_RETRANS
    same = th.ack == e.lastack and th.window == e.window and peer.dupacks == 0
    return Reason.REASON_DUPLICATED if quick and same else Reason.REASON_FULL_RETRANS


def tcp_analyze(
    flow: Flow, side: int, th: Segment, time_ns: int, reused: bool
) -> tuple[int, int, int]:
    """Analyse one segment: (classes, number of the duplicate ACK, reason).

    `reused` if it begins a connection on a known 4-tuple.
    """
    an = flow.analysis
    assert an is not None
    e, peer = an.ends[side], an.ends[1 - side]
    if th.bad & Bad.BAD_DOFF:
        return 0, 0, Reason.REASON_NONE
    seq, length, flags = th.seq, th.payload_len, th.flags
    late_ns = OOO_NS
    if flow.bits & FlowBit.FLOW_RTT and flow.rtt_ns > 0:
        late_ns = flow.rtt_ns
    quick = 0 <= time_ns - e.nextseq_ns < late_ns
    classes = analysis_classes(an, flow, side, th, time_ns, late_ns, reused)
    dup_num = e.dupacks if classes & DUPLICATE_ACK else 0
    for i in range(NR_CLASSES):
        e.counts[i] += classes >> i & 1
    end_seq = (seq + length + (flags & (TCPHDR_SYN | TCPHDR_FIN) != 0)) & MASK32

    # What is missing, what came twice.
    filled = 0
    if classes & RETRANSMISSION:
        e.retrans_bytes += length
    if classes & LOST_PACKET:
        analysis_hole(e, e.nextseq, seq)
    elif length and e.nextseq and before(seq, e.nextseq) and not classes & (KEEP_ALIVE | PROBE):
        last = (seq + min(length, (e.nextseq - seq) & MASK32)) & MASK32
        filled = analysis_fill(e, seq, last)
        e.duplicate_bytes += ((last - seq) & MASK32) - filled
    reason = analysis_reason(e, peer, th, classes, filled, quick)

    # Round trips.
    if flags & TCPHDR_ACK and peer.timing and not before(th.ack, peer.rtt_seq):
        analysis_rtt_acked(peer, th, time_ns)
    if end_seq != seq and not classes & (KEEP_ALIVE | PROBE):
        if not e.nextseq or after(end_seq, e.nextseq):
            analysis_rtt_sent(e, end_seq, time_ns)
        old = e.nextseq and before(seq, e.nextseq)
        if e.timing and not e.resent and old and before(seq, e.rtt_seq):
            e.resent = True
            e.rtt_tsval = th.tsval if th.opts & Opt.OPT_TIMESTAMP else 0

    # What is known after it.
    if not classes & PROBE:
        if not e.nextseq or after(end_seq, e.nextseq):
            e.nextseq = end_seq
            e.nextseq_ns = time_ns
        if not e.maxack or seq == e.maxack:
            e.maxack = e.nextseq
    e.window = th.window
    e.lastack = th.ack
    e.seen = True
    e.last_ns = time_ns
    e.last = classes & (KEEP_ALIVE | PROBE)
    e.syn_last = flags & TCPHDR_SYN != 0
    if length and peer.lastack:
        in_flight = (e.nextseq - peer.lastack) & MASK32
        if in_flight < 1 << 31:
            e.in_flight_max = max(e.in_flight_max, in_flight)
    if flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK) == TCPHDR_ACK:
        e.window_min = min(e.window_min, th.window)
        e.window_max = max(e.window_max, th.window)
    analysis_history(an, flow, side, th, classes)
    return classes, dup_num, int(reason)
