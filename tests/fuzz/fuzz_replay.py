"""What is done with one fuzzed input: three bytes of options, then a capture.

It goes through the compiled reader, parser, tracker and rows twice, in pieces of two sizes, and has
to give the same. The sanitizers see to the rest.
"""

from __future__ import annotations

from typing import Any

from tcpcore import _core
from tcpcore.columns import CONFLICTS, CONNECTIONS, PACKETS

CONNECTION_NAMES = [column.name for column in CONNECTIONS if column.name not in CONFLICTS]
PACKET_NAMES = [column.name for column in PACKETS]
HEAD = 3
LARGEST = 1 << 16


def options(head: bytes) -> dict[str, Any]:
    """Read the options of a run from its first bytes."""
    return {
        "packets": bool(head[0] & 1),
        "strict": bool(head[0] & 2),
        "analysis": bool(head[0] & 16),
        "auto": bool(head[0] & 32),
        "streams": (head[0] >> 6 & 1) << 20,
        "rows": ("keep", "drain", "drop", "keep")[head[0] >> 2 & 3],
        "max_connections": head[1] & 7,
        "expire_idle_ns": (0, 1, 10**9, 1 << 63)[head[1] >> 3 & 3],
        "expire_closed_ns": (0, 1, 10**9, 1 << 63)[head[1] >> 5 & 3],
        "count": head[2] if head[0] & 128 else 0,
    }


def outcome(capture: bytes, size: int, chosen: dict[str, Any]) -> tuple[object, ...]:
    """Replay in pieces of `size` bytes; everything that the engine tells of it."""
    conntrack = _core.Conntrack(**chosen)
    conntrack.begin(0)
    held, at = b"", 0
    while not conntrack.done:
        piece = capture[at : at + size]
        at += len(piece)
        held += piece
        if held:
            held = held[conntrack.feed(held, len(held)) :]
        if not piece:
            conntrack.end(len(held))
            break
    tables = (conntrack.connections(CONNECTION_NAMES, True), conntrack.packets(PACKET_NAMES))
    rows = [(n, {name: bytes(data) for name, data in columns.items()}) for n, columns in tables]
    return conntrack.error, conntrack.capture(), conntrack.summary(), rows


def one(data: bytes) -> None:
    """Run one input; an exception is a finding."""
    if not HEAD <= len(data) <= LARGEST:
        return
    chosen, capture = options(data), data[HEAD:]
    whole = outcome(capture, LARGEST, chosen)
    pieces = outcome(capture, 61 + (data[2] & 127), chosen)
    assert whole == pieces, "other pieces gave another outcome"
