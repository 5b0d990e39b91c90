"""The life of followed connections: begun, queued, given up, expired, and what is kept of them.

Linux: net/netfilter/nf_conntrack_core.c.  docs/replay.md has the rules.
"""

from __future__ import annotations

from bisect import insort

from .inet_hashtables import FlowTable, flow_key
from .net import Net
from .offload import Offload
from .synack import Synacks
from .tcp import (
    NR_CLASSES,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    Analysis,
    Class,
    Drop,
    Flow,
    FlowBit,
    FlowOuter,
    Segment,
    tcp_is_synack,
)
from .tcp_queue import (
    QueuePool,
    sk_close,
)

# What becomes of connections' rows: every one stays; those that ended wait to be handed out; none
# is kept.
ROWS_KEEP = 0
ROWS_DRAIN = 1
ROWS_DROP = 2

TOP_MAX = 64
RTT_BUCKETS = 488
Frame = tuple[int, int, int]  # its index in the data, its offset in the input, bytes captured
HALF_OPEN_STATES = (TCP_SYN_SENT, TCP_SYN_RECV, TCP_LISTEN)
CLOSED_STATES = (TCP_CLOSE, TCP_TIME_WAIT)


class Departed:
    """What the summary keeps of connections whose rows are gone."""

    def __init__(self) -> None:
        self.states: dict[tuple[int, int], int] = {}
        self.bad_checksum = [0, 0]
        self.rtts = [0] * RTT_BUCKETS  # connections by their initial RTT
        self.top: list[tuple[int, int, Flow]] = []  # by frame bytes, negative, and conn

    def copy(self) -> Departed:
        """Copy what later connections would change."""
        copy = Departed()
        copy.states = dict(self.states)
        copy.bad_checksum = list(self.bad_checksum)
        copy.rtts = list(self.rtts)
        copy.top = list(self.top)
        return copy


class Tracker:
    """Every live flow in its table and, where lives are bounded, in its queues."""

    def __init__(
        self,
        strict: bool,
        auto: bool,
        rows: int,
        max_connections: int,
        expire_idle_ns: int,
        expire_closed_ns: int,
        streams: int,
        handing: bool,
        analysis: bool,
        keyed: int,
    ) -> None:
        self.queues = QueuePool(streams, handing)  # where payload lies, if streams are wanted
        self.net = Net()
        self.table = FlowTable()
        self.strict = strict
        self.auto = auto  # strict, but for what offload explains
        self.keyed = keyed
        self.rows = rows
        self.max_connections = max_connections
        self.analysis = analysis
        self.expire_idle_ns = expire_idle_ns
        self.expire_closed_ns = expire_closed_ns
        self.bounded = bool(max_connections or expire_idle_ns or expire_closed_ns)
        # Dicts keep the order of insertion: the first key is the oldest.
        self.idle: dict[int, Flow] = {}  # every flow, by its last segment
        self.half_open: dict[int, Flow] = {}  # by its first
        self.closed: dict[int, Flow] = {}  # by its last
        self.connections = 0
        self.live = 0
        self.evicted = 0
        self.expired = 0
        self.drops = [0] * Drop.NR_DROPS
        self.tcp_segments = 0
        self.classes = [0] * NR_CLASSES  # segments by what the analysis says of them
        self.retrans_bytes = 0
        self.ended: list[Flow] = []  # in order of closing
        self.departed = Departed()
        self.offload = Offload()
        self.synacks = Synacks()


def flow_frame_bytes(flow: Flow) -> int:
    """Wire lengths of both directions."""
    return flow.ends[0].frame_bytes + flow.ends[1].frame_bytes


def rtt_bucket(ns: int) -> int:
    """Find where a time counts: up to 15 ns alone, then in eight parts of each power of two."""
    shift = max(ns.bit_length() - 4, 0)
    return shift * 8 + (ns >> shift)


def conntrack_classes(ct: Tracker, classes: int, payload_len: int) -> None:
    """Count the classes of a segment that has some, for the summary."""
    for i in range(NR_CLASSES):
        ct.classes[i] += classes >> i & 1
    if classes & Class.TCP_A_RETRANSMISSION:
        ct.retrans_bytes += payload_len


def depart(gone: Departed, flow: Flow) -> None:
    """Fold a connection into the summary."""
    pair = flow.ends[0].tcb.state, flow.ends[1].tcb.state
    gone.states[pair] = gone.states.get(pair, 0) + 1
    gone.bad_checksum[0] += flow.bad_checksum[0]
    gone.bad_checksum[1] += flow.bad_checksum[1]
    if flow.bits & FlowBit.FLOW_RTT and flow.rtt_ns >= 0:
        gone.rtts[rtt_bucket(flow.rtt_ns)] += 1
    insort(gone.top, (-flow_frame_bytes(flow), flow.conn, flow))
    del gone.top[TOP_MAX:]


def conntrack_close(ct: Tracker, flow: Flow) -> None:
    """A flow has closed: its records are among the first to be given up."""
    sk_close(ct.queues, flow.conn)


def conntrack_release(ct: Tracker, flow: Flow) -> None:
    """Follow a flow no more; its row waits among the ended."""
    ct.queues.gone.discard(flow.conn)
    four = flow_key(flow.a_addr, flow.b_addr, flow.a_port, flow.b_port, flow.ip)
    ct.table.inet_unhash(four, flow.around.context)
    ct.idle.pop(flow.conn, None)
    ct.half_open.pop(flow.conn, None)
    ct.closed.pop(flow.conn, None)
    ct.live -= 1
    conntrack_close(ct, flow)
    if ct.rows != ROWS_KEEP:
        depart(ct.departed, flow)
    if ct.rows != ROWS_DROP:
        ct.ended.append(flow)


def queue_expire(ct: Tracker, queue: dict[int, Flow], limit_ns: int) -> None:
    """Release the flows of a queue that were silent for longer than `limit_ns`; 0 is no limit."""
    while limit_ns and queue:
        flow = next(iter(queue.values()))
        if ct.net.now_ns - flow.stamp_ns <= limit_ns:
            break
        conntrack_release(ct, flow)
        ct.expired += 1


def conntrack_expire(ct: Tracker) -> None:
    """Release what has been silent for too long by the capture's own clock."""
    queue_expire(ct, ct.closed, ct.expire_closed_ns)
    queue_expire(ct, ct.idle, ct.expire_idle_ns)


def conntrack_victim(ct: Tracker) -> Flow:
    """Who makes room: the oldest half-open connection goes first, then the longest idle."""
    return next(iter((ct.half_open or ct.idle).values()))


def conntrack_evict(ct: Tracker) -> None:
    """Make room for one more."""
    ct.evicted += 1
    conntrack_release(ct, conntrack_victim(ct))


def conntrack_requeue(ct: Tracker, flow: Flow) -> None:
    """Put a flow where its state and its latest segment belong in the queues."""
    flow.stamp_ns = ct.net.now_ns
    conn = flow.conn
    ct.idle.pop(conn, None)
    ct.idle[conn] = flow
    a, b = flow.ends[0].tcb.state, flow.ends[1].tcb.state
    if a in HALF_OPEN_STATES or b in HALF_OPEN_STATES:
        ct.half_open.setdefault(conn, flow)
    else:
        ct.half_open.pop(conn, None)
    ct.closed.pop(conn, None)
    if a in CLOSED_STATES and b in CLOSED_STATES:
        ct.closed[conn] = flow


def conntrack_new(ct: Tracker, th: Segment, time_ns: int, packet: int, around: FlowOuter) -> Flow:
    """A connection begins; who is `a` is decided here for good.

    `around` tells of its first segment, the ends as they are a's and b's.
    """
    if ct.max_connections and ct.live >= ct.max_connections:
        conntrack_evict(ct)
    flow = Flow()
    flow.a_addr, flow.b_addr, flow.a_port, flow.b_port = th.saddr, th.daddr, th.sport, th.dport
    if tcp_is_synack(th):
        flow.a_addr, flow.b_addr, flow.a_port, flow.b_port = th.daddr, th.saddr, th.dport, th.sport
    flow.around = around
    flow.ip = th.ip
    flow.first_ns = flow.last_ns = time_ns
    flow.first_packet = packet
    flow.conn = ct.connections
    if ct.analysis:
        flow.analysis = Analysis()
    ct.connections += 1
    ct.live += 1
    four = flow_key(th.saddr, th.daddr, th.sport, th.dport, th.ip)
    ct.table.inet_hash(four, around.context, flow)
    return flow
