"""Rows of the analysis: what is known of what happened on the wire, as columns of connections.

docs/analysis.md and docs/slow.md say what they mean; tcpcore/columns.py has them all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from .tcp import MASK32, AnalysisEnd, Flow
from .tcp_analysis import analysis_shift
from .tcp_chrono import Cause, chrono_slow, limited_value

# By place in the counts of the analysis.
CLASS_COLUMNS = (
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "out_of_order",
    "lost_segment",
    "ack_lost_segment",
    "duplicate_ack",
    "keep_alive",
    "keep_alive_ack",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "window_full",
    "window_update",
    "reused_ports",
)
ANALYSIS_COLUMNS: dict[str, Callable[[AnalysisEnd], int]] = {
    "retrans_bytes": lambda e: e.retrans_bytes,
    "rtt_min_ns": lambda e: e.rtt_min_ns if e.rtt_samples else -1,
    "rtt_mean_ns": lambda e: e.rtt_sum_ns // e.rtt_samples if e.rtt_samples else -1,
    "rtt_max_ns": lambda e: e.rtt_max_ns if e.rtt_samples else -1,
    "rtt_samples": lambda e: e.rtt_samples,
    "in_flight_max": lambda e: e.in_flight_max,
    "gaps": lambda e: e.gaps + len(e.holes),
    "gap_bytes": lambda e: e.gap_bytes + sum((end - begin) & MASK32 for begin, end in e.holes),
    "duplicate_bytes": lambda e: e.duplicate_bytes,
}
CHRONO_COLUMNS = {
    "app_limited_ns": Cause.LIMITED_APPLICATION,
    "rwnd_limited_ns": Cause.LIMITED_RECEIVER,
    "network_limited_ns": Cause.LIMITED_NETWORK,
    "handshake_ns": Cause.LIMITED_HANDSHAKE,
}
NOT_ANALYSED = AnalysisEnd()
HISTORY_WIDTH = 48


def fill_analysis(column: str, side: int, flows: Sequence[Flow]) -> bytes:
    """Make one column of the analysis of one end."""
    ends = [flow.analysis.ends[side] if flow.analysis else NOT_ANALYSED for flow in flows]
    if column in CLASS_COLUMNS:
        at = CLASS_COLUMNS.index(column)
        return array("q", (e.counts[at] for e in ends)).tobytes()
    if column.startswith("window_m"):
        shifts = [max(analysis_shift(flow, side), 0) for flow in flows]
        values = (
            getattr(e, column) << shift if e.window_min <= e.window_max else -1
            for e, shift in zip(ends, shifts, strict=True)
        )
        return array("q", values).tobytes()
    return array("q", map(ANALYSIS_COLUMNS[column], ends)).tobytes()


def fill_chrono(column: str, side: int, flows: Sequence[Flow]) -> bytes:
    """Make one column of what limited the connections."""
    analyses = [flow.analysis for flow in flows]
    if column == "slow":
        sides = map(busy_side, flows)
        pairs = zip(analyses, sides, strict=True)
        return bytes(chrono_slow(an, s) if an else 0 for an, s in pairs)
    cause = CHRONO_COLUMNS[column]
    return array("q", (limited_value(an, side, cause) if an else 0 for an in analyses)).tobytes()


def busy_side(flow: Flow) -> int:
    """Tell the side with more payload, a if both have the same; -1 without any."""
    a, b = (end.payload_bytes for end in flow.ends)
    return int(b > a) if a or b else -1


def fill_history(flows: Sequence[Flow]) -> bytes:
    """Make the column of histories."""
    texts = (bytes(flow.analysis.history) if flow.analysis else b"" for flow in flows)
    return b"".join(text.ljust(HISTORY_WIDTH, b"\0") for text in texts)
