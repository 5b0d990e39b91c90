"""Rows: what is known of connections and of frames as columns, and what is left for the summary.

Linux: net/netfilter/nf_conntrack_standalone.c.  tcpcore/columns.py has the columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from .conntrack import ROWS_KEEP, Departed, Tracker, depart
from .rows_analysis import CHRONO_COLUMNS, fill_analysis, fill_chrono, fill_history
from .tcp import End, Flow, FlowBit, FlowOuter, Opt
from .tcp_history import conn_state

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
    "conn_state": ("B", conn_state),
}
OUTER_COLUMNS: dict[str, tuple[str, Callable[[FlowOuter], int]]] = {
    "interface": ("H", lambda around: around.interface),
    "vlan": ("h", lambda around: around.vlan),
    "inner_vlan": ("h", lambda around: around.inner_vlan),
    "encap": ("H", lambda around: around.encap),
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
SIDES = {"ab": 0, "ba": 1}
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
    "interface": "H",
    "vlan": "h",
    "inner_vlan": "h",
    "encap": "H",
    "analysis": "I",
    "dup_ack_num": "I",
    "reason": "B",
}


class PacketRows:
    """Frames' rows grow at the end, so they are kept as columns."""

    def __init__(self) -> None:
        self.columns = {name: array(code) for name, code in PACKET_COLUMNS.items()}


def fill_end(column: str, side: int, flows: Sequence[Flow]) -> bytes:
    """Make one column of one end."""
    code, value = END_COLUMNS[column]
    return array(code, (value(flow.ends[side]) for flow in flows)).tobytes()


def fill_addrs(column: str, flows: Sequence[Flow]) -> bytes:
    """Make one of the two columns of addresses."""
    if column == "a_addr":
        return b"".join(flow.a_addr for flow in flows)
    return b"".join(flow.b_addr for flow in flows)


def fill_outer(column: str, flows: Sequence[Flow]) -> bytes:
    """Make one column of what was around the first segment."""
    if column == "outer_a":
        return b"".join(flow.around.a_addr for flow in flows)
    if column == "outer_b":
        return b"".join(flow.around.b_addr for flow in flows)
    code, value = OUTER_COLUMNS[column]
    return array(code, (value(flow.around) for flow in flows)).tobytes()


def fill(column: str, flows: Sequence[Flow]) -> bytes:
    """Make one column."""
    if column in ("a_addr", "b_addr"):
        return fill_addrs(column, flows)
    if column == "history":
        return fill_history(flows)
    if column in ("handshake_ns", "slow"):
        return fill_chrono(column, 0, flows)
    if column in FLOW_COLUMNS:
        code, value = FLOW_COLUMNS[column]
        return array(code, map(value, flows)).tobytes()
    if column in OUTER_COLUMNS or column in ("outer_a", "outer_b"):
        return fill_outer(column, flows)
    name, _, direction = column.rpartition("_")
    if name in END_COLUMNS:
        return fill_end(name, SIDES[direction], flows)
    if name in CHRONO_COLUMNS:
        return fill_chrono(name, SIDES[direction], flows)
    return fill_analysis(name, SIDES[direction], flows)


def fill_rows(flows: Sequence[Flow], columns: Sequence[str]) -> dict[str, bytes]:
    """Make the columns that are wanted."""
    return {column: fill(column, flows) for column in columns}


def place_rows(ct: Tracker, final: bool) -> list[Flow]:
    """Ended rows in order of closing, then the live ones by conn; all by conn if they stay."""
    live = list(ct.table.flows.values())
    if ct.rows == ROWS_KEEP:
        return sorted(ct.ended + live, key=by_conn)
    return ct.ended + (sorted(live, key=by_conn) if final else [])


def by_conn(flow: Flow) -> int:
    """Order rows by the number of their connection."""
    return flow.conn


def depart_rest(ct: Tracker) -> Departed:
    """Fold every connection whose row is still here into a summary of those that left."""
    gone = ct.departed.copy()
    kept = ct.ended if ct.rows == ROWS_KEEP else []
    for flow in (*kept, *ct.table.flows.values()):
        depart(gone, flow)
    return gone


def packet_rows_write(rows: PacketRows, values: tuple[int, ...]) -> None:
    """Add one frame: its values in the order of the columns."""
    for column, value in zip(rows.columns.values(), values, strict=True):
        column.append(value)
