"""The seam: captures in piece by piece, connections and frames out as columns.

Both engines have these names, tcpcore/_core.pyi their types; docs/architecture.md says who calls.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .conntrack import ROWS_DRAIN, ROWS_DROP, ROWS_KEEP, Tracker, flow_frame_bytes
from .doors import (
    csum,
    flow_hash,
    fragment_pieces,
    md5,
    parse_frame,
    parse_options,
    siphash,
    tcb_rcv,
    tcb_xmit,
    tcp_sequence,
)
from .filter import Instruction, filter_check, filter_run
from .ip_input import ip_rcv
from .net import INT64_MAX, INT64_MIN
from .offload import Offload
from .pcap import Capture, pcap_end, pcap_index, pcap_peek
from .rows import PacketRows, depart_rest, fill_rows, packet_rows_write, place_rows
from .snmp import Mib
from .streams import Gather, stream_receive, stream_records
from .tcp import Drop, End, Flow, Segment, Tcb, Verdict
from .tcp_conntrack import tcp_conntrack

__all__ = [
    "CHUNK",
    "ENGINE",
    "Conntrack",
    "Gather",
    "arrow_release",
    "csum",
    "flow_hash",
    "fragment_pieces",
    "isa",
    "parse_frame",
    "parse_options",
    "pcap_peek",
    "md5",
    "siphash",
    "stream_receive",
    "stream_records",
    "tcb_rcv",
    "tcb_xmit",
    "tcp_sequence",
]

ENGINE = "reference"
CHUNK = 32768  # a tenth of a second's work at most, so that Ctrl-C is heard
BATCH = 256  # frames indexed at a time

CT_TIME_CLAMPED = int(Verdict.CT_TIME_CLAMPED)
ROWS = {"keep": ROWS_KEEP, "drain": ROWS_DRAIN, "drop": ROWS_DROP}


def isa() -> str:
    """Name the instruction set that the checksum and the hash run on."""
    return "python"


def arrow_release() -> None:
    """Tell that there are no C functions here to release what Arrow borrowed."""


class Conntrack:
    """Both ends of every connection of one or several captures.

    Parameters
    ----------
    packets : bool
        Keep a row for every frame.
    analysis : bool
        Classify segments and sum up what happened on the wire (docs/analysis.md).
    strict : bool
        State does not take segments whose checksum, or whose IP header's, is bad.
    auto : bool
        State does not take those whose bad checksum the sender's checksum offload does not explain.
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
    streams : int
        Bytes that records of where payload lies may take, 0 for none.
    handing : bool
        Bytes in order are handed out as they come (`stream_receive`) and forgotten.
    filter : sequence of (code, arg, jt, jf, k, m)
        A program that tells which frames are wanted, as `tcpcore.filter` makes them; an empty one
        wants all.
    keyed : int
        What else than addresses and ports tells connections apart: VLANs 1, interface 2, tunnel 4.
    key : bytes, 16
        Of the table's hash; of no use here, where the table is a dict.
    """

    def __init__(
        self,
        *,
        packets: bool = False,
        analysis: bool = False,
        strict: bool = False,
        auto: bool = False,
        rows: str = "keep",
        max_connections: int = 0,
        expire_idle_ns: int = 0,
        expire_closed_ns: int = 0,
        from_ns: int = INT64_MIN,
        to_ns: int = INT64_MAX,
        count: int = 0,
        streams: int = 0,
        handing: bool = False,
        filter: Sequence[Instruction] = (),
        keyed: int = 0,
        key: bytes = bytes(16),
    ) -> None:
        if rows not in ROWS:
            raise ValueError(f"rows must be one of {(*ROWS,)}, not {rows!r}")
        if len(key) != 16:
            raise ValueError(f"key must have 16 bytes, not {len(key)}")
        self._ct = self.tracker = Tracker(
            strict,
            auto,
            ROWS[rows],
            max_connections,
            expire_idle_ns,
            expire_closed_ns,
            streams,
            handing,
            analysis,
            keyed,
        )
        self._rows = PacketRows() if packets else None
        self._from_ns = from_ns
        self._to_ns = to_ns
        self._count = count
        if not filter_check(filter):
            raise ValueError("this program is no filter")
        self._filter = tuple(filter)
        self._busy = False
        self._seg = Segment()
        self._number = 0  # frames numbered
        self._time_clamped = 0
        self._total = Totals()
        self._repaired = 0  # of the inputs before this one
        self._cap = Capture()
        self.begin(0)

    def begin(self, file: int) -> None:
        """Start on a new input, which is number `file` in the column of that name."""
        self.size = 0  # in bytes, where it is known: for an engine that makes room ahead
        self._file = self._ct.queues.file = self._ct.net.frags.file = file
        self._repaired += self._cap.repaired
        self._cap = Capture()
        self._input = Totals()

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
            limit = min(BATCH, self._count - self._taken()) if self._count else BATCH
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
        interface: int,
    ) -> None:
        """Take one frame: parse it, follow it, write down what became of it."""
        self._total.add(time_ns, wirelen)
        self._input.add(time_ns, wirelen)
        th = self._seg
        net = self._ct.net
        counters = net.mib[:] if self._filter else []
        drop, outer = ip_rcv(
            net, linktype, data, start, caplen, wirelen, th, offset, time_ns, clamped
        )
        if self._filter:
            at = (linktype, data, start, caplen, wirelen)
            if not filter_run(self._filter, *at, None if drop else th, outer):
                net.mib[:] = counters
                self._ct.drops[Drop.SOCKET_FILTER] += 1
                self._time_clamped += clamped
                return
        if drop:
            self._ct.drops[drop] += 1
            conn = side = -1
            verdict = 0
            fields = (0, 0, 0, 0, 0)
            told = (0, 0, 0)
        else:
            conn, side, verdict, window, drop, told = tcp_conntrack(
                self._ct,
                th,
                time_ns,
                clamped,
                wirelen,
                self._number,
                (start, offset, caplen),
                outer,
                interface,
            )
            fields = (th.seq, th.ack, th.flags, window, th.payload_len)
        if clamped:
            verdict |= CT_TIME_CLAMPED
            self._time_clamped += 1
        if self._rows is not None:
            name = (self._number, self._file, conn, side, time_ns, offset, caplen, wirelen)
            around = (interface, outer.vlan, outer.inner_vlan, outer.encap)
            packet_rows_write(self._rows, (*name, *fields, verdict, drop, *around, *told))

    def _taken(self) -> int:
        """Frames that the filter wants."""
        return self._total.packets - self._ct.drops[Drop.SOCKET_FILTER]

    def end(self, left: int) -> None:
        """Take note that the input is at its end, `left` bytes not consumed."""
        pcap_end(self._cap, left)

    @property
    def done(self) -> bool:
        """True if no more of this input is wanted: `count` frames taken, or damage."""
        return self._cap.error is not None or 0 < self._count <= self._taken()

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
    def begun(self) -> int:
        """Connections so far."""
        return self._ct.connections

    @property
    def given_up(self) -> int:
        """Connections whose records of streams were given up."""
        return self._ct.queues.given_up

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
        ct = self._ct
        gone = depart_rest(ct)
        return {
            **self._total.row(),
            "tcp_segments": ct.tcp_segments,
            "connections": ct.connections,
            "states": gone.states,
            "top": [_row_dict(flow) for _, _, flow in gone.top[:top]],
            "filtered": ct.drops[Drop.SOCKET_FILTER],
            "drops": {drop: n for drop, n in enumerate(ct.drops[: Drop.SOCKET_FILTER]) if n},
            "bad_ip_checksums": ct.net.mib[Mib.IP_CSUMERRORS],
            "bad_tcp_checksums": (gone.bad_checksum[0], gone.bad_checksum[1]),
            "evicted": ct.evicted,
            "expired": ct.expired,
            "time_clamped": self._time_clamped,
            "repaired": self._repaired + self._cap.repaired,
            "offload": _offload_dict(ct.offload),
            "analysis": {
                "classes": list(ct.classes),
                "retrans_bytes": ct.retrans_bytes,
                "rtts": {i: n for i, n in enumerate(gone.rtts) if n},
            },
            "live": ct.live,
            "streams_given_up": ct.queues.given_up,
            "stream_bytes_given_up": ct.queues.given_up_bytes,
            "counters": list(ct.net.mib),
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
        flows = place_rows(self._ct, final)
        return len(flows), fill_rows(flows, names)

    def packets(self, names: Sequence[str]) -> tuple[int, dict[str, bytes]]:
        """Give columns of frames since the last `drain`, as `connections` does."""
        rows = self._rows or PacketRows()
        columns = {name: rows.columns[name].tobytes() for name in names}
        return len(rows.columns["packet"]), columns

    def drain(self) -> None:
        """Forget the rows of frames and of ended connections, which were handed out."""
        if self._ct.rows == ROWS_DRAIN:
            self._ct.ended.clear()
        if self._rows is not None:
            self._rows = PacketRows()


class Totals:
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


def _offload_dict(offload: Offload) -> dict[str, object]:
    names = ("addr", "ip", "interface", "partial", "zero", "tso", "other")
    return {
        "explained": offload.explained,
        "learnt": offload.learnt,
        "damaged": offload.damaged,
        "hosts": [{name: getattr(host, name) for name in names} for host in offload.hosts.values()],
    }


def _row_dict(flow: Flow) -> dict[str, object]:
    a, b = flow.ends
    return {
        "conn": flow.conn,
        "ip": flow.ip,
        "a_addr": flow.a_addr,
        "a_port": flow.a_port,
        "b_addr": flow.b_addr,
        "b_port": flow.b_port,
        "packets": a.packets + b.packets,
        "frame_bytes": flow_frame_bytes(flow),
        "payload_bytes": a.payload_bytes + b.payload_bytes,
        "state_a": a.tcb.state,
        "state_b": b.tcb.state,
        "first_ns": flow.first_ns,
        "last_ns": flow.last_ns,
    }
