"""Where the payload of followed connections lies: a record a segment, a list of them a direction.

Linux: net/ipv4/tcp_input.c (tcp_data_queue_ofo).  RFC 9293 3.4; docs/streams.md has the rules.
"""

from __future__ import annotations

from .tcp import MASK32, TCPHDR_FIN, TCPHDR_SYN, End, Flow, Segment, TcbFlag, Verdict

QUEUE_EPOCH = 4  # times 2**32, which numbers begin above, so that none is below 0
QUEUE_LOWEST = 1 << 30  # no window is wider: nothing so far below is of this stream
QUEUE_FEW = 6  # bits of a number of records that may be looked at any time
SKB_SIZE = 32  # bytes of a record, and of a connection's two lists, as the budget counts them
SOCK_SIZE = 160

TCB_OLD, TCB_PARTIAL = int(Verdict.TCB_OLD), int(Verdict.TCB_PARTIAL)
TCB_SND = int(TcbFlag.TCB_SND)
TCB_OVERWINDOW = int(Verdict.TCB_OVERWINDOW)


class Skb:
    """One segment's payload; the low half of `seq` is the sequence number."""

    __slots__ = ("seq", "place", "caplen", "length", "file", "doubtful", "overwindow", "urgent")

    def __init__(
        self,
        seq: int,
        place: int,
        caplen: int,
        length: int,
        file: int,
        doubtful: bool,
        overwindow: bool,
        urgent: bool = False,
    ) -> None:
        self.seq = seq  # of its first byte, unwrapped
        self.place = place  # of its first byte in the (decompressed) input
        self.caplen = caplen  # bytes captured
        self.length = length  # bytes sent
        self.file = file
        self.doubtful = doubtful  # state refused it, so it counts if it was acknowledged
        self.overwindow = overwindow  # or if nothing is missing before it
        self.urgent = urgent  # no payload: an urgent pointer says that the byte at `seq` is


class SkbQueue:
    """One direction's records, in the order of capture."""

    __slots__ = (
        "base",
        "last",
        "top",
        "fin",
        "handed",
        "skbs",
        "begun",
        "syn",
        "broken",
        "tried",
        "end",
    )

    def __init__(self, end: End) -> None:
        self.end = end  # that sends it
        self.base = 0  # number of the stream's first byte
        self.last = 0  # where the last segment in it ended: numbers are unwrapped by it
        self.top = 0  # the highest end
        self.fin = -1  # number of the FIN
        self.handed = 0  # offset of `base` in the stream: what was handed out is forgotten
        self.skbs: list[Skb] = []
        self.begun = False
        self.syn = False  # base is the number after a SYN
        # The records are not one behind the other from `base` on, whole, and taken by state.
        self.broken = False
        self.tried = 0  # bits that the number of records has to have before it is looked again


class QueuePool:
    """The records of all connections, under one budget."""

    def __init__(self, budget: int, handing: bool = False) -> None:
        self.on = budget != 0
        self.file = 0  # number of the input at hand
        self.budget = budget
        self.live_skbs = 0
        # By connection, in the order in which they are given up: the closed ones come first.
        self.open: dict[int, tuple[SkbQueue, SkbQueue]] = {}
        self.closed: dict[int, tuple[SkbQueue, SkbQueue]] = {}
        self.gone: set[int] = set()  # given up and still followed
        self.handing = handing  # bytes are handed out as they come
        self.touched: dict[int, None] = {}  # then: connections with new records
        self.given_up = 0
        self.given_up_bytes = 0


def sk_close(pool: QueuePool, conn: int) -> None:
    """A connection has closed: from now on it is among the first to be given up."""
    if conn in pool.open:
        pool.closed[conn] = pool.open.pop(conn)


def sk_rmem_full(pool: QueuePool, records: int) -> bool:
    """True if so many records and one connection more would be above the budget."""
    socks = len(pool.open) + len(pool.closed)
    return (pool.live_skbs + records) * SKB_SIZE + (socks + 1) * SOCK_SIZE > pool.budget


def sk_prune(pool: QueuePool) -> None:
    """Give up the records of a connection: the one that closed first, else that began first."""
    socks = pool.closed or pool.open
    if not socks:
        return
    conn = next(iter(socks))
    sides = socks.pop(conn)
    for queue in sides:
        pool.live_skbs -= len(queue.skbs)
        pool.given_up_bytes += sum(skb.caplen for skb in queue.skbs)
    pool.gone.add(conn)
    if not pool.handing or socks is pool.open or any(queue.skbs for queue in sides):
        pool.given_up += 1  # of a closed one that was handed out nothing is lost


def sk_alloc(pool: QueuePool, flow: Flow) -> None:
    """Room for the records of one more connection."""
    a, b = flow.ends
    pool.open[flow.conn] = SkbQueue(a), SkbQueue(b)


def sk_find(pool: QueuePool, conn: int, side: int) -> SkbQueue | None:
    """The records of one direction."""
    found = pool.open.get(conn) or pool.closed.get(conn)
    return found[side] if found else None


def seq_unwrap(near: int, seq: int) -> int:
    """The number that `seq` is the low half of, within 2**31 of `near`."""
    ahead = (seq - near) & MASK32
    return near + ahead - (ahead >> 31 << 32)


def queue_begin(queue: SkbQueue, isn: int, syn: bool) -> None:
    """A direction has its first record; its first byte's number is one above `isn`."""
    queue.begun = True
    queue.syn = syn
    queue.base = queue.last = queue.top = (QUEUE_EPOCH << 32) + ((isn + 1) & MASK32)


def tcp_data_queue(queue: SkbQueue, th: Segment, verdict: int, doubtful: bool) -> int:
    """Take note of a segment, `doubtful` if state refused it: the number of its payload's first
    byte, -1 if nothing of it has to be recorded."""
    old = doubtful or verdict & TCB_OLD != 0
    partial = verdict & (TCB_OLD | TCB_PARTIAL)
    snd = queue.end.tcb
    if snd.flags & TCB_SND:  # then the peer's acknowledgments tell, too
        queue.last = max(queue.last, seq_unwrap(queue.last, snd.snd_una))
    seq = seq_unwrap(queue.last, th.seq + (th.flags & TCPHDR_SYN != 0))
    if th.flags & TCPHDR_SYN and not queue.syn and not old and not queue.handed:
        queue.base = seq
        queue.syn = True
        queue.broken = bool(queue.skbs)
    if seq < queue.base and not (queue.handed or doubtful or (queue.syn and partial)):
        if queue.base - seq > QUEUE_LOWEST:
            return -1
        queue.base = seq  # captured late, or not what the SYN had promised
        queue.syn = False
        queue.broken = bool(queue.skbs)
    end = seq + th.payload_len
    if th.flags & TCPHDR_FIN and not old and (queue.fin < 0 or end < queue.fin):
        queue.fin = end
    if th.payload_len == 0:
        return -1
    if not old:
        queue.last = end
    if queue.handed and end <= queue.base:
        return -1
    return seq


def tcp_check_urg(pool: QueuePool, queue: SkbQueue, th: Segment, doubtful: bool) -> None:
    """Record which byte a segment calls urgent."""
    seq = th.seq + (th.flags & TCPHDR_SYN != 0) + th.urgent - 1
    seq = seq_unwrap(queue.last, seq)
    skb_queue_tail(pool, queue, Skb(seq, 0, 0, 0, pool.file, doubtful, False, urgent=True))


def skb_queue_tail(pool: QueuePool, queue: SkbQueue, made: Skb) -> None:
    """Append a record."""
    first = not queue.skbs
    queue.broken |= made.seq != queue.top or (first and made.seq != queue.base)
    queue.broken |= made.caplen != made.length or made.doubtful
    queue.skbs.append(made)
    pool.live_skbs += 1
    queue.top = max(queue.top, made.seq + made.length)


def sk_touch(pool: QueuePool, conn: int) -> None:
    """A connection has a new record, which may be ready to be handed out."""
    pool.touched[conn] = None


def queue_in_order(queue: SkbQueue) -> bool:
    """True if the records are one behind the other, and nothing lies behind a FIN."""
    return not queue.broken and (queue.fin < 0 or queue.top <= queue.fin)


def queue_ready(queue: SkbQueue) -> bool:
    """True if something may be in order by now, and it is worth while to look."""
    if queue_in_order(queue):
        return bool(queue.skbs)
    return len(queue.skbs) >> queue.tried != 0


def skb_queue_purge(pool: QueuePool, queue: SkbQueue) -> None:
    """Forget the records, which were in order and handed out."""
    pool.live_skbs -= len(queue.skbs)
    queue.skbs = []
    queue.handed += queue.top - queue.base
    queue.base = queue.top


def skb_queue_trim(pool: QueuePool, queue: SkbQueue, seq: int, length: int) -> None:
    """Forget what lies before `seq`, of which `length` bytes were handed out."""
    kept = [skb for skb in queue.skbs if skb.seq + skb.length > seq]
    pool.live_skbs -= len(queue.skbs) - len(kept)
    queue.skbs = kept
    queue.base = seq
    queue.handed += length
    queue.broken = bool(kept)
    bits = len(kept).bit_length()  # not again before there are twice as many
    queue.tried = bits if bits > QUEUE_FEW else 0
