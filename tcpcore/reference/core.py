"""The seam: captures in piece by piece, connections and frames out as columns.

Both engines have these names, tcpcore/_core.pyi their types; docs/architecture.md says who calls.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import chain

from . import csum as _csum
from . import tcb as _tcb
from .inet_hashtables import flow_hash
from .ip_input import ip_rcv
from .net import INT64_MAX, INT64_MIN, Net
from .pcap import Capture, pcap_end, pcap_index, pcap_peek
from .secure_seq import siphash
from .tcp import (
    MASK32,
    TCP_MAX_WSCALE,
    TCPHDR_FIN,
    TCPHDR_SYN,
    Drop,
    End,
    Flow,
    FlowBit,
    Mib,
    Opt,
    Segment,
    Tcb,
    Verdict,
)
from .tcp_conntrack import Tracker, tcp_conntrack
from .wire import tcp_parse_options

__all__ = [
    "CHUNK",
    "ENGINE",
    "Conntrack",
    "csum",
    "flow_hash",
    "isa",
    "parse_frame",
    "parse_options",
    "pcap_peek",
    "siphash",
    "tcb_rcv",
    "tcb_xmit",
    "tcp_sequence",
]

ENGINE = "reference"
CHUNK = 32768  # a tenth of a second's work at most, so that Ctrl-C is heard

BATCH = 256  # frames indexed at a time
TOP_ENDED = 64  # connections remembered for `summary` of those whose rows are gone

CT_NEW, CT_TIME_CLAMPED = int(Verdict.CT_NEW), int(Verdict.CT_TIME_CLAMPED)
OPT_SCALED = int(Opt.OPT_ISN | Opt.OPT_WSCALE)
ROWS = ("keep", "drain", "drop")


def isa() -> str:
    """Name the instruction set that the checksum and the hash run on."""
    return "python"


class Conntrack:
    """Both ends of every connection of one or several captures.

    Parameters
    ----------
    packets : bool
        Keep a row for every frame.
    strict : bool
        State does not take segments whose checksum, or whose IP header's, is bad.
    rows : str
        'keep': the row of every connection; 'drain': of those that ended, until `drain`; 'drop':
        of none, they count in `summary` alone.
    max_connections : int
        Bound of live connections, 0 for none.
    expire_idle_ns, expire_closed_ns : int
        Capture time without a segment after which any connection, or a closed one, is released;
        0 for never.
    from_ns, to_ns : int
        Frames before the one, or not before the other, are numbered and that is all.
    count : int
        Frames to take, 0 for all.
    key : bytes, 16
        Of the table's hash; of no use here, where the table is a dict.
    """

    def __init__(
        self,
        *,
        packets: bool = False,
        strict: bool = False,
        rows: str = "keep",
        max_connections: int = 0,
        expire_idle_ns: int = 0,
        expire_closed_ns: int = 0,
        from_ns: int = INT64_MIN,
        to_ns: int = INT64_MAX,
        count: int = 0,
        key: bytes = bytes(16),
    ) -> None:
        if rows not in ROWS:
            raise ValueError(f"rows must be one of {ROWS}, not {rows!r}")
        if len(key) != 16:
            raise ValueError("key must be 16 bytes")
        self._net = Net()
        self._ct = Tracker(max_connections, expire_idle_ns, expire_closed_ns)
        self._strict = strict
        self._rows = rows
        self._from_ns = from_ns
        self._to_ns = to_ns
        self._count = count
        self._busy = False
        self._seg = Segment()

        self._flows: list[Flow] = []  # 'keep': all, by conn
        self._ended: list[Flow] = []  # 'drain': those that ended, in order of closing
        self._states: dict[tuple[int, int], int] = {}  # not 'keep': of those that ended
        self._top: list[tuple[int, int, Flow]] = []  # not 'keep': a heap, the least on top
        self._frames: list[tuple[int, ...]] | None = [] if packets else None

        self._number = 0  # frames numbered
        self._segments = 0
        self._bad_tcp = [0, 0]
        self._clamped = 0
        self._drops = [0] * Drop.NR_DROPS
        self._all = Span()
        self.begin(0)

    def begin(self, file: int) -> None:
        """Start on a new input, which is number `file` in the column of that name."""
        self._file = file
        self._cap = Capture()
        self._input = Span()

    def feed(self, data: bytes | bytearray | memoryview, length: int) -> int:
        """Process the whole records in the first `length` bytes of `data`.

        Returns
        -------
        int : bytes consumed; what is left has to come again, with more behind it

        Raises
        ------
        RuntimeError : if another thread is in here
        ValueError : if `data` has not so many bytes
        """
        view = memoryview(data)
        if not 0 <= length <= len(view):
            raise ValueError(f"length {length} is not within the data's {len(view)} bytes")
        if self._busy:
            raise RuntimeError("this Conntrack is at work in another thread")
        self._busy = True
        try:
            return self._feed(view, length)
        finally:
            self._busy = False

    def _feed(self, data: memoryview, length: int) -> int:
        used = 0
        while not self.done:
            limit = min(BATCH, self._count - self._all.packets) if self._count else BATCH
            piece = data[used:length]
            consumed, frames = pcap_index(self._cap, piece, length - used, limit)
            for frame in frames:
                self._number += 1
                time_ns = frame[4]
                if time_ns >= self._from_ns and (time_ns < self._to_ns or self._to_ns == INT64_MAX):
                    self._frame(piece, *frame)
            used += consumed
            if not frames and not consumed:
                break
        self._settle()
        return used

    def _frame(
        self,
        data: memoryview,
        start: int,
        offset: int,
        caplen: int,
        wirelen: int,
        time_ns: int,
        linktype: int,
        clamped: bool,
    ) -> None:
        """Take one frame: parse it, follow it, write down what became of it."""
        self._all.add(time_ns, wirelen)
        self._input.add(time_ns, wirelen)
        th = self._seg
        drop = ip_rcv(self._net, linktype, data, start, caplen, wirelen, th)
        verdict = 0
        if drop:
            conn = side = -1
            seen = (0, 0, 0, 0, 0)
        else:
            flow, side, verdict, drop = tcp_conntrack(
                self._ct, self._net, th, time_ns, clamped, wirelen, self._number, self._strict
            )
            self._segments += 1
            self._bad_tcp[side] += th.bad_tcp_csum
            if verdict & CT_NEW and self._rows == "keep":
                self._flows.append(flow)
            window = _window(th, flow.ends[side], flow.ends[1 - side])
            conn = flow.conn
            seen = (th.seq, th.ack, th.flags, window, th.payload_len)
        if clamped:
            verdict |= CT_TIME_CLAMPED
            self._clamped += 1
        self._drops[drop] += 1
        if self._frames is not None:
            name = (self._number, self._file, conn, side, time_ns, offset, caplen, wirelen)
            self._frames.append((*name, *seen, verdict, drop))

    def _settle(self) -> None:
        """Put the connections that ended where `rows` wants them."""
        if self._rows != "keep":
            for flow in self._ct.ended:
                _count_state(self._states, flow)
                heapq.heappush(self._top, (_frame_bytes(flow), -flow.conn, flow))
                if len(self._top) > TOP_ENDED:
                    heapq.heappop(self._top)
        if self._rows == "drain":
            self._ended += self._ct.ended
        self._ct.ended.clear()

    def end(self, left: int) -> None:
        """Take note that the input is at its end, `left` bytes not consumed."""
        pcap_end(self._cap, left)

    @property
    def done(self) -> bool:
        """True if no more of this input is wanted: `count` frames taken, or damage."""
        return self._cap.error is not None or 0 < self._count <= self._all.packets

    @property
    def want(self) -> int:
        """Bytes there have to be at once for `feed` to go on."""
        return self._cap.want

    @property
    def error(self) -> tuple[int, str] | None:
        """Damage of this input: (offset in bytes, reason)."""
        return self._cap.error

    @property
    def live(self) -> int:
        """Connections that are followed now."""
        return self._ct.live

    @property
    def memory(self) -> int:
        """Bytes of live state and table."""
        flow = sum(map(sys.getsizeof, (Flow(), End(), End(), Tcb(), Tcb(), [0, 0])))
        return self.live * flow + sys.getsizeof(self._ct.table.flows)

    def capture(self) -> dict[str, object]:
        """Tell of the input at hand: format, link_types, packets, bytes, first_ns, last_ns."""
        return {
            "format": self._cap.fmt,
            "link_types": list(self._cap.linktypes),
            **self._input.row(),
        }

    def summary(self, top: int = 10) -> dict[str, object]:
        """Tell of all inputs so far; `top` connections with the most frame bytes by name."""
        flows = self._flows if self._rows == "keep" else self._live()
        states = dict(self._states)
        for flow in flows:
            _count_state(states, flow)
        busiest = heapq.nsmallest(
            top,
            chain(flows, (ended[2] for ended in self._top)),
            key=lambda flow: (-_frame_bytes(flow), flow.conn),
        )
        return {
            **self._all.row(),
            "tcp_segments": self._segments,
            "connections": self._ct.connections,
            "states": states,
            "top": [_top_row(flow) for flow in busiest],
            "drops": {drop: n for drop, n in enumerate(self._drops) if drop and n},
            "bad_ip_checksums": self._net.mib[Mib.IP_CSUMERRORS],
            "bad_tcp_checksums": (self._bad_tcp[0], self._bad_tcp[1]),
            "evicted": self._ct.evicted,
            "expired": self._ct.expired,
            "time_clamped": self._clamped,
            "live": self.live,
            "counters": list(self._net.mib),
        }

    def connections(
        self, names: Sequence[str], final: bool = False
    ) -> tuple[int, dict[str, bytes]]:
        """Give columns of connections.

        Parameters
        ----------
        names : sequence of str, of tcpcore.columns.CONNECTIONS
        final : bool, those that are still followed come too, in order of conn, if rows do not stay

        Returns
        -------
        int : rows
        dict : for each name a buffer of that many values; addresses are 16 bytes each
        """
        flows = self._flows if self._rows == "keep" else list(self._ended)
        if final and self._rows != "keep":
            flows += self._live()
        return len(flows), {name: _connection_column(name, flows) for name in names}

    def packets(self, names: Sequence[str]) -> tuple[int, dict[str, bytes]]:
        """Give columns of frames since the last `drain`, as `connections` does."""
        frames = self._frames or []
        columns = {}
        for name in names:
            index = PACKET_INDEX[name]
            column = array(PACKET_COLUMNS[name], (frame[index] for frame in frames))
            columns[name] = column.tobytes()
        return len(frames), columns

    def drain(self) -> None:
        """Forget the rows of frames and of ended connections, which were handed out."""
        self._ended.clear()
        if self._frames is not None:
            self._frames.clear()

    def _live(self) -> list[Flow]:
        return sorted(self._ct.table.flows.values(), key=lambda flow: flow.conn)


class Span:
    """Number, bytes and times of frames."""

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0
        self.first_ns = INT64_MAX
        self.last_ns = INT64_MIN

    def add(self, time_ns: int, wirelen: int) -> None:
        """Count one frame."""
        self.packets += 1
        self.bytes += wirelen
        if time_ns < self.first_ns:
            self.first_ns = time_ns
        if time_ns > self.last_ns:
            self.last_ns = time_ns

    def row(self) -> dict[str, object]:
        """Name what was counted; there are no times without frames."""
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "first_ns": self.first_ns if self.packets else None,
            "last_ns": self.last_ns if self.packets else None,
        }


def _window(th: Segment, end: End, peer: End) -> int:
    """Scale a window where both SYNs were seen and offered it (RFC 7323 2.2), else leave it raw."""
    if th.flags & TCPHDR_SYN or end.opts & peer.opts & OPT_SCALED != OPT_SCALED:
        return th.window
    return th.window << min(end.wscale, TCP_MAX_WSCALE)


def _frame_bytes(flow: Flow) -> int:
    return flow.ends[0].frame_bytes + flow.ends[1].frame_bytes


def _count_state(states: dict[tuple[int, int], int], flow: Flow) -> None:
    pair = flow.ends[0].tcb.state, flow.ends[1].tcb.state
    states[pair] = states.get(pair, 0) + 1


def _top_row(flow: Flow) -> dict[str, object]:
    a, b = flow.ends
    return {
        "conn": flow.conn,
        "ip": flow.ip,
        "a_addr": flow.a_addr,
        "a_port": flow.a_port,
        "b_addr": flow.b_addr,
        "b_port": flow.b_port,
        "packets": a.packets + b.packets,
        "frame_bytes": a.frame_bytes + b.frame_bytes,
        "payload_bytes": a.payload_bytes + b.payload_bytes,
        "state_a": a.tcb.state,
        "state_b": b.tcb.state,
        "first_ns": flow.first_ns,
        "last_ns": flow.last_ns,
    }


# Type codes are those of `array`; -1 stands for what is absent.
FLOW_COLUMNS: dict[str, tuple[str, Callable[[Flow], int]]] = {
    "conn": ("q", lambda flow: flow.conn),
    "ip": ("B", lambda flow: flow.ip),
    "a_port": ("H", lambda flow: flow.a_port),
    "b_port": ("H", lambda flow: flow.b_port),
    "first_ns": ("q", lambda flow: flow.first_ns),
    "last_ns": ("q", lambda flow: flow.last_ns),
    "first_packet": ("q", lambda flow: flow.first_packet),
    "bad_checksum_ab": ("q", lambda flow: flow.bad_checksum[0]),
    "bad_checksum_ba": ("q", lambda flow: flow.bad_checksum[1]),
    "state_a": ("B", lambda flow: flow.ends[0].tcb.state),
    "state_b": ("B", lambda flow: flow.ends[1].tcb.state),
    "completeness": ("B", lambda flow: flow.completeness),
    "initial_rtt_ns": ("q", lambda flow: flow.rtt_ns if flow.bits & FlowBit.FLOW_RTT else -1),
}
END_COLUMNS: dict[str, tuple[str, Callable[[End], int]]] = {
    "packets": ("q", lambda end: end.packets),
    "frame_bytes": ("q", lambda end: end.frame_bytes),
    "payload_bytes": ("q", lambda end: end.payload_bytes),
    "flags": ("H", lambda end: end.flags),
    "isn": ("q", lambda end: end.isn if end.opts & Opt.OPT_ISN else -1),
    "mss": ("i", lambda end: end.mss if end.opts & Opt.OPT_MSS else -1),
    "wscale": ("h", lambda end: end.wscale if end.opts & Opt.OPT_WSCALE else -1),
    "sack_permitted": ("B", lambda end: int(end.opts & Opt.OPT_SACK_PERM != 0)),
    "timestamps": ("B", lambda end: int(end.opts & Opt.OPT_TIMESTAMP != 0)),
}
PACKET_COLUMNS = {
    "packet": "q",
    "file": "i",
    "conn": "q",
    "dir": "b",
    "time_ns": "q",
    "offset": "q",
    "caplen": "I",
    "wirelen": "I",
    "seq": "I",
    "ack": "I",
    "flags": "H",
    "window": "I",
    "payload_len": "I",
    "verdict": "I",
    "drop_reason": "B",
}
PACKET_INDEX = {name: index for index, name in enumerate(PACKET_COLUMNS)}


def _connection_column(name: str, flows: list[Flow]) -> bytes:
    if name == "a_addr":
        return b"".join(flow.a_addr for flow in flows)
    if name == "b_addr":
        return b"".join(flow.b_addr for flow in flows)
    if name in FLOW_COLUMNS:
        code, of_flow = FLOW_COLUMNS[name]
        return array(code, map(of_flow, flows)).tobytes()
    code, of_end = END_COLUMNS[name[:-3]]
    side = ("_ab", "_ba").index(name[-3:])
    return array(code, (of_end(flow.ends[side]) for flow in flows)).tobytes()


# Doors to lower floors, for the tests that hold the twins equal.


def csum(data: bytes, start: int = 0) -> int:
    """Sum 16-bit words in ones' complement, folded and not inverted."""
    return _csum.csum_fold(_csum.csum_partial(data, start))


def parse_frame(linktype: int, data: bytes, wirelen: int) -> dict[str, int | bytes]:
    """Give every field of the segment in a frame, or only `drop` where it is none."""
    seg = Segment()
    drop = ip_rcv(Net(), linktype, data, 0, len(data), max(wirelen, len(data)), seg)
    if drop:
        return {"drop": int(drop)}
    return {name: getattr(seg, name) for name in Segment.__slots__}


def parse_options(options: bytes) -> dict[str, int]:
    """Read TCP options: opts, mss, wscale, tsval, tsecr."""
    seg = Segment()
    tcp_parse_options(seg, options, 0, len(options))
    return {name: getattr(seg, name) for name in ("opts", "mss", "wscale", "tsval", "tsecr")}


def tcb_xmit(tcb_fields: dict[str, int], seg: dict[str, int]) -> tuple[dict[str, int], int]:
    """Move one end by a segment that it sent: (tcb, verdict)."""
    tp = _tcb_of(tcb_fields)
    verdict = _tcb.tcb_xmit(tp, _segment_of(seg))
    return {name: getattr(tp, name) for name in Tcb.__slots__}, verdict


def tcb_rcv(tcb_fields: dict[str, int], seg: dict[str, int]) -> tuple[dict[str, int], int]:
    """Move one end by a segment that reached it: (tcb, verdict)."""
    tp = _tcb_of(tcb_fields)
    verdict = _tcb.tcb_rcv(tp, _segment_of(seg))
    return {name: getattr(tp, name) for name in Tcb.__slots__}, verdict


def tcp_sequence(tcb_fields: dict[str, int], seq: int, end_seq: int) -> int:
    """0 if a segment of these numbers is acceptable, else TCB_OLD or TCB_OVERWINDOW."""
    return _tcb.tcp_sequence(_tcb_of(tcb_fields), seq, end_seq)


def _tcb_of(fields: dict[str, int]) -> Tcb:
    """An end from its fields; what is not named is as in a closed one."""
    tp = Tcb()
    for name, value in fields.items():
        setattr(tp, name, value)
    return tp


def _segment_of(fields: dict[str, int]) -> Segment:
    """A segment from its judged fields; what is not named is 0, end_seq follows from the rest."""
    seg = Segment()
    for name, value in fields.items():
        setattr(seg, name, value)
    syn_fin = (seg.flags & TCPHDR_SYN != 0) + (seg.flags & TCPHDR_FIN != 0)
    seg.end_seq = (seg.seq + seg.payload_len + syn_fin) & MASK32
    return seg
