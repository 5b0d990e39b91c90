"""From records to a stream: which copy of a byte counts, where it lies, what is missing.

Linux: net/ipv4/tcp.c (tcp_recvmsg), tcp_input.c.  RFC 9293 3.10.7.4; docs/streams.md has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from .tcp_queue import SkbQueue, seq_unwrap

OVERLAP_FIRST = 0
OVERLAP_LAST = 1
OVERLAP_LINUX = 2
OVERLAP_BSD = 3
OVERLAP_WINDOWS = 4

READ_SIZE = 256 << 10  # of the capture at a time
READ_SKIP = 16 << 10  # a hole that is not worth reading over

# Bytes that lie together: where they go, their input, their place there, how many, their stream;
# `loose` as of their span.
Piece = tuple[int, int, int, int, int, bool]


class Span:
    """The captured part of one record, inside its stream."""

    __slots__ = ("seq", "end", "place", "start", "file", "order", "doubtful", "loose")

    def __init__(
        self,
        seq: int,
        end: int,
        place: int,
        file: int,
        order: int,
        doubtful: bool,
        loose: bool,
    ) -> None:
        self.seq = seq
        self.end = end
        self.place = place
        self.start = seq  # of what is left of it, where that can move (BSD)
        self.file = file
        self.order = order  # in the capture
        self.doubtful = doubtful  # state refused it
        self.loose = loose  # and nobody acknowledged it


class Plan:
    """What the capture holds of streams: for each piece where it lies and where it goes."""

    def __init__(self, overlap: int, fill: bool) -> None:
        self.overlap = overlap
        self.fill = fill
        self.at = 0  # end of the last stream
        self.pieces: list[Piece] = []
        self.losers: list[Piece] = []  # copies of bytes that are elsewhere in pieces, too
        self.gaps: list[list[tuple[int, int]]] = []  # of each stream: offset, length
        self.starts: list[int] = []  # of each stream
        self.handed: list[int] = []  # of each its offset: bytes before it were handed out
        self.urgent: list[list[int]] = []  # of each stream: offsets of urgent bytes


def plan_piece(plan: Plan, span: Span, seq: int, end: int, at: int, loser: bool) -> None:
    """Add the bytes [seq, end) of a span, which go to `at`."""
    place = span.place + seq - span.seq
    made = at, span.file, place, end - seq, len(plan.starts) - 1, span.loose
    (plan.losers if loser else plan.pieces).append(made)


def plan_gap(plan: Plan, offset: int, length: int) -> None:
    """Add a gap, which takes room in the stream if gaps are filled."""
    plan.gaps[-1].append((offset, length))
    if plan.fill:
        plan.at += length


def overlap_wins(overlap: int, one: Span, owner: Span) -> bool:
    """True if a byte of `one`, captured later and not yet delivered, replaces that of `owner`."""
    if overlap == OVERLAP_LINUX:
        return one.seq < owner.seq or (one.seq == owner.seq and one.end > owner.end)
    if overlap == OVERLAP_BSD:
        return one.seq < owner.start
    return one.seq < owner.seq and one.end > owner.end


def overlap_place(
    overlap: int,
    one: Span,
    owners: list[Span | None],
    bounds: Sequence[int],
    begin: int,
    end: int,
    delivered: int,
) -> None:
    """Place one span over bounds[begin:end], of which the first `delivered` cannot be changed."""
    first = True
    for k in range(begin, end):
        owner = owners[k]
        if owner is not None and owner.doubtful != one.doubtful:
            wins = owner.doubtful
        elif owner is None or overlap == OVERLAP_LAST:
            wins = True
        elif overlap == OVERLAP_FIRST or k < delivered:
            wins = False
        else:
            wins = overlap_wins(overlap, one, owner)
        if not wins:
            continue
        if owner is not None:
            owner.start = bounds[end]
        if first:
            one.start = bounds[k]
            first = False
        owners[k] = one


def overlap_resolve(plan: Plan, spans: list[Span], at: int) -> None:
    """Add spans that overlap and leave no gap, whose first byte goes to `at`."""
    bounds = sorted({span.seq for span in spans} | {span.end for span in spans})
    place = {seq: k for k, seq in enumerate(bounds)}
    owners: list[Span | None] = [None] * len(bounds)
    delivered = 0
    for one in sorted(spans, key=lambda span: span.order):
        ends = place[one.seq], place[one.end]
        overlap_place(plan.overlap, one, owners, bounds, *ends, delivered)
        while owners[delivered] is not None:
            delivered += 1
    overlap_emit(plan, spans, owners, bounds, at)


def overlap_emit(
    plan: Plan, spans: list[Span], owners: list[Span | None], bounds: list[int], at: int
) -> None:
    """Add what each span has won, in order of the stream, then what it has lost."""
    start = bounds[0]
    k = 0
    while (owner := owners[k]) is not None:
        first = k
        while owners[k] is owner:
            k += 1
        plan_piece(plan, owner, bounds[first], bounds[k], at + bounds[first] - start, False)
    place = {seq: k for k, seq in enumerate(bounds)}
    for span in spans:
        k, end = place[span.seq], place[span.end]
        while k < end:
            first = k
            while k < end and owners[k] is not span:
                k += 1
            if k > first:
                plan_piece(plan, span, bounds[first], bounds[k], at + bounds[first] - start, True)
            while k < end and owners[k] is span:
                k += 1


def queue_spans(queue: SkbQueue) -> tuple[list[Span], int]:
    """The captured parts of a direction's records in order of capture, and the stream's end."""
    acked = seq_unwrap(queue.last, queue.end.tcb.snd_una)
    kept = []
    end = queue.base
    for skb in queue.skbs:
        if skb.urgent:
            continue
        top = skb.seq + skb.length
        loose = skb.doubtful and top > acked
        if not loose:
            end = max(end, top)
        if not loose or skb.overwindow:
            kept.append((skb, loose))
    if queue.fin >= 0:
        end = max(queue.fin, queue.base)
    spans = []
    for order, (skb, loose) in enumerate(kept):
        seq = max(skb.seq, queue.base)
        stop = skb.seq + skb.caplen
        if queue.fin >= 0:
            stop = min(stop, end)  # nothing lies behind a FIN
        if seq < stop:
            place = skb.place + seq - skb.seq
            spans.append(Span(seq, stop, place, skb.file, order, skb.doubtful, loose))
    return spans, end


def queue_urgent(plan: Plan, queue: SkbQueue, end: int) -> None:
    """Add the offsets of a direction's urgent bytes below its stream's `end`."""
    acked = seq_unwrap(queue.last, queue.end.tcb.snd_una)
    for skb in queue.skbs:
        loose = skb.doubtful and skb.seq >= acked
        if skb.urgent and not loose and queue.base <= skb.seq < end:
            plan.urgent[-1].append(skb.seq - queue.base)


def plan_spans(plan: Plan, spans: list[Span], base: int, stream_end: int) -> None:
    """Add a direction's spans and the gaps between them."""
    # What a host has delivered is judged over all that leaves no gap, else only true overlaps are.
    touch = plan.overlap >= OVERLAP_LINUX
    spans.sort(key=lambda span: (span.seq, span.order))
    following = base
    i = 0
    while i < len(spans):
        if spans[i].seq > following:
            if spans[i].loose:
                i += 1
                continue
            plan_gap(plan, following - base, spans[i].seq - following)
        first, end, overlaps = i, spans[i].end, False
        i += 1
        while i < len(spans) and spans[i].seq < end + touch:
            overlaps |= spans[i].seq < end
            end = max(end, spans[i].end)
            i += 1
        if overlaps:
            overlap_resolve(plan, spans[first:i], plan.at)
        else:
            for span in spans[first:i]:
                at = plan.at + span.seq - spans[first].seq
                plan_piece(plan, span, span.seq, span.end, at, False)
        plan.at += end - spans[first].seq
        following = end
    if stream_end > following:
        plan_gap(plan, following - base, stream_end - following)


def plan_stream(plan: Plan, queue: SkbQueue | None) -> None:
    """Add one direction, of None an empty one."""
    plan.starts.append(plan.at)
    plan.gaps.append([])
    plan.handed.append(queue.handed if queue else 0)
    plan.urgent.append([])
    if queue is not None and queue.begun:
        spans, end = queue_spans(queue)
        plan_spans(plan, spans, queue.base, end)
        queue_urgent(plan, queue, end)


def pieces_within(pieces: list[Piece], begin: int, end: int) -> list[Piece]:
    """The parts of pieces that go to [begin, end)."""
    found = []
    for at, file, place, length, stream, loose in pieces:
        low, high = max(at, begin), min(at + length, end)
        if low < high:
            found.append((low, file, place + low - at, high - low, stream, loose))
    return found


def read_end(pieces: list[Piece], first: int) -> int:
    """How many pieces, `first` and those behind it, one read of the capture brings."""
    _, file, low, length, _, _ = pieces[first]
    high = low + length
    for i in range(first + 1, len(pieces)):
        _, other, place, length, _, _ = pieces[i]
        if other != file or place - high > READ_SKIP or place + length - low > READ_SIZE:
            return i
        high = max(high, place + length)
    return len(pieces)
