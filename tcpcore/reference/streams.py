"""Streams handed out: what to read of the captures, and where each byte of it goes.

Linux: net/ipv4/tcp.c (tcp_recvmsg).  docs/streams.md has the rules.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .tcp_queue import (
    QueuePool,
    SkbQueue,
    queue_in_order,
    queue_ready,
    sk_find,
    skb_queue_purge,
    skb_queue_trim,
)
from .tcp_recvmsg import Piece, Plan, pieces_within, plan_stream, read_end

if TYPE_CHECKING:
    from .core import Conntrack

OVERLAPS = ("first", "last", "linux", "bsd", "windows")
DIRECTIONS = ("ab", "ba")
CONFLICT_BYTES = 16 << 20  # of differing copies that one Gather tells
RECEIVE_READS = 4096  # of earlier bytes that are made at once; more wait for the end,
RECEIVE_BYTES = 32 << 20  # so do more bytes

Read = tuple[int, int, int]  # input, begin, end


def stream_records(conntrack: Conntrack) -> tuple[bytes, bytes, bytes]:
    """Connections with records, ascending, and how many each direction has: int64 buffers."""
    pool = conntrack.tracker.queues
    socks = sorted((pool.open | pool.closed).items())
    columns = (
        [conn for conn, _ in socks],
        [len(sides[0].skbs) for _, sides in socks],
        [len(sides[1].skbs) for _, sides in socks],
    )
    conns, ab, ba = (array("q", column).tobytes() for column in columns)
    return conns, ab, ba


def stream_receive(
    conntrack: Conntrack,
    data: bytes | bytearray | memoryview,
    length: int,
    place: int,
    again: bool,
) -> tuple[list[tuple[int, str, int, bytes]], list[tuple[int, str, int, list[Read]]]]:
    """Give what has come to be in order since the last call, with handing=True.

    Parameters
    ----------
    conntrack : Conntrack
    data, length, place : data[:length] lies at `place` of the input at hand
    again : bool, inputs can be read again

    Returns
    -------
    list : (conn, direction, offset, bytes)
    list : the same where bytes are needed that are not in `data`, with the reads for bytes
    """
    pool = conntrack.tracker.queues
    found: list[tuple[int, str, int, bytes]] = []
    late: list[tuple[int, str, int, list[Read]]] = []
    made: bytes | list[Read] | None
    for conn in pool.touched:
        for side in range(2):
            queue = sk_find(pool, conn, side)
            if queue is None or not queue_ready(queue):
                continue
            at = conn, DIRECTIONS[side], queue.handed
            made = receive_order(pool, queue, data, length, place)
            if made is None:
                made = receive_plan(pool, queue, data, length, place, again)
            if isinstance(made, bytes):
                found += [(*at, made)] if made else []
            elif made:
                late.append((*at, made))
    pool.touched = {}
    return found, late


def receive_order(
    pool: QueuePool, queue: SkbQueue, data: bytes | bytearray | memoryview, size: int, place: int
) -> bytes | None:
    """The bytes of records in order, which are then forgotten; None unless all are in `data`."""
    reads = [(skb.file, skb.place, skb.place + skb.caplen) for skb in queue.skbs]
    if not queue_in_order(queue) or not lie_within(pool, reads, size, place):
        return None
    skb_queue_purge(pool, queue)
    return b"".join(bytes(data[low - place : high - place]) for _, low, high in reads)


def receive_plan(
    pool: QueuePool,
    queue: SkbQueue,
    data: bytes | bytearray | memoryview,
    size: int,
    place: int,
    again: bool,
) -> bytes | list[Read] | None:
    """The same of records in any order, up to what is missing; or where the bytes are to be read.
    None if they are not to be read now."""
    plan = Plan(OVERLAPS.index("first"), False)
    plan_stream(plan, queue)
    length = plan.gaps[0][0][0] if plan.gaps[0] else plan.at
    length = min([length, *(at for at, _, _, _, _, loose in plan.pieces if loose)])
    reads = [(file, low, low + n) for at, file, low, n, _, _ in plan.pieces if at < length]
    found: bytes | list[Read] | None = reads
    if lie_within(pool, reads, size, place):
        found = b"".join(bytes(data[low - place : high - place]) for _, low, high in reads)
    elif not again or len(reads) > RECEIVE_READS or length > RECEIVE_BYTES:
        found = None
        length = 0
    skb_queue_trim(pool, queue, queue.base + length, length)
    return found


def lie_within(pool: QueuePool, reads: list[Read], size: int, place: int) -> bool:
    """True if all is among `size` bytes from `place` on of the input at hand."""
    return all(
        file == pool.file and place <= low and high <= place + size for file, low, high in reads
    )


class Gather:
    """Some streams, one behind the other, and where their bytes lie in the captures.

    Parameters
    ----------
    conntrack : Conntrack
    ids : int64 buffer, twice the connection's number, and 1 more for what b sent
    overlap : str, which copy of a byte counts
    fill : bool, gaps take room in the streams
    """

    def __init__(
        self,
        conntrack: Conntrack,
        ids: Sequence[int],
        *,
        overlap: str = "first",
        fill: bool = False,
    ) -> None:
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {OVERLAPS}, not {overlap!r}")
        self._plan = Plan(OVERLAPS.index(overlap), fill)
        for one in memoryview(ids).cast("B").cast("q"):  # type: ignore[arg-type]
            plan_stream(self._plan, sk_find(conntrack.tracker.queues, one >> 1, one & 1))
        self.conflicting: dict[int, int] = {}  # bytes of copies that differ, by stream
        self._begin = 0
        self._out = bytearray()
        self._active: list[Piece] = []
        self._reads: list[tuple[int, int, int]] = []  # first piece, last one, first byte
        self._losing = False
        self._found: list[tuple[int, int, bytes, bytes]] = []
        self._room = CONFLICT_BYTES

    def starts(self) -> bytes:
        """Where each stream begins, and where the last one ends: an int64 buffer."""
        return array("q", [*self._plan.starts, self._plan.at]).tobytes()

    def handed(self, number: int) -> int:
        """Bytes of a stream that were handed out as they came, and are not of this one's."""
        return self._plan.handed[number]

    def gaps(self, number: int) -> list[tuple[int, int]]:
        """What is missing of a stream: (offset, length) of each hole."""
        return list(self._plan.gaps[number])

    def urgent(self, number: int) -> list[int]:
        """Offsets of a stream's urgent bytes, ascending, captured or not."""
        return sorted(set(self._plan.urgent[number]))

    def window(self, begin: int, end: int, losers: bool = False) -> list[tuple[int, int, int]]:
        """Begin on bytes [begin, end) of all streams: the reads (input, begin, end) they need.

        With `losers` the reads that the other copies of the same bytes need.
        """
        if not 0 <= begin <= end <= self._plan.at:
            raise ValueError(f"no bytes {begin} to {end} here")
        if losers and (self._begin != begin or len(self._out) != end - begin):
            raise ValueError("a window's bytes come before their other copies")
        if not losers:
            self._out = bytearray(end - begin)
        self._losing = losers
        self._begin = begin
        pieces = self._plan.losers if losers else self._plan.pieces
        self._active = sorted(pieces_within(pieces, begin, end), key=lambda one: (one[1], one[2]))
        self._reads = []
        reads = []
        first = 0
        while first < len(self._active):
            last = read_end(self._active, first)
            _, file, low, *_ = self._active[first]
            high = max(one[2] + one[3] for one in self._active[first:last])
            self._reads.append((first, last, low))
            reads.append((file, low, high))
            first = last
        return reads

    @property
    def parts(self) -> dict[int, bytes]:
        """What the window has of each stream, by its number."""
        bounds = [*self._plan.starts, self._plan.at]
        found = {}
        for number, (start, stop) in enumerate(pairwise(bounds)):
            low, high = max(start - self._begin, 0), max(stop - self._begin, 0)
            if part := bytes(self._out[low:high]):
                found[number] = part
        return found

    def take(self, number: int, data: bytes | bytearray | memoryview) -> None:
        """The bytes of a read have come."""
        first, last, low = self._reads[number]
        for at, _, place, length, stream, _ in self._active[first:last]:
            came = bytes(data[place - low : place - low + length])
            to = slice(at - self._begin, at - self._begin + length)
            if not self._losing:
                self._out[to] = came
            elif self._out[to] != came:
                self._differ(stream, at, bytes(self._out[to]), came)

    def _differ(self, stream: int, at: int, kept: bytes, other: bytes) -> None:
        """Note where a copy differs from what was kept."""
        at -= self._plan.starts[stream]
        i = 0
        while i < len(kept):
            first = i
            while i < len(kept) and kept[i] != other[i]:
                i += 1
            if i > first:
                self.conflicting[stream] = self.conflicting.get(stream, 0) + i - first
                self._room -= i - first + 64  # what a tuple of two strings takes besides
                if self._room >= 0:
                    self._found.append((stream, at + first, kept[first:i], other[first:i]))
            i += 1

    def conflicts(self) -> list[tuple[int, int, bytes, bytes]]:
        """What was found since the last call: (stream, position, kept, other) as captured."""
        found = self._found
        self._found = []
        return found

    @property
    def losers(self) -> bool:
        """True if some bytes are there more than once."""
        return bool(self._plan.losers)
