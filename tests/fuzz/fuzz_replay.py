"""What is done with one fuzzed input: six bytes of options, maybe a filter, then a capture.

It goes through the compiled reader, parser, tracker and rows twice, in pieces of two sizes, its
streams are read out, and both have to give the same. The sanitizers see to the rest.
"""

from __future__ import annotations

from typing import Any

import inputs

from tcpcore import _core
from tcpcore.columns import CONFLICTS, CONNECTIONS, PACKETS
from tcpcore.filter import compile_filter
from tcpcore.stream import OVERLAPS

CONNECTION_NAMES = [column.name for column in CONNECTIONS if column.name not in CONFLICTS]
PACKET_NAMES = [column.name for column in PACKETS]
PROGRAMS = [compile_filter(text) for text in inputs.FILTERS]
HEAD = 6
LARGEST = 1 << 16


def options(head: bytes) -> dict[str, Any]:
    """Read the options of a run from its first bytes; the filter is not among them."""
    return {
        "packets": bool(head[0] & 1),
        "analysis": bool(head[0] & 2),
        "rows": ("keep", "drain", "drop", "keep")[head[0] >> 2 & 3],
        "strict": head[0] >> 4 & 3 == 1,
        "auto": head[0] >> 4 & 3 == 2,
        "max_connections": head[1] & 7,
        "expire_idle_ns": (0, 1, 10**9, 1 << 63)[head[1] >> 3 & 3],
        "expire_closed_ns": (0, 1, 10**9, 1 << 63)[head[1] >> 5 & 3],
        "count": head[2] if head[1] & 128 else 0,
        "keyed": head[3] & 7,
        "streams": (head[4] * 64 or 1 << 20) if head[3] & 8 else 0,
    }


def filter_of(head: bytes, data: bytes) -> tuple[list[inputs.Instruction], bytes]:
    """The filter that a run has, and what is left of its data, the capture."""
    kind, number = head[0] >> 6, head[5]
    if kind == 1:
        return PROGRAMS[number % len(PROGRAMS)], data
    if kind == 2:
        return inputs.program_of(data[:number]), data[number:]
    return [], data


def outcome(
    capture: bytes, size: int, chosen: dict[str, Any], overlap: str, fill: bool
) -> tuple[object, ...]:
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
    streams: object = None
    if chosen["streams"]:
        streams = inputs.streams_of(_core, conntrack, [capture], overlap, fill)
    return conntrack.error, conntrack.capture(), conntrack.summary(), rows, streams


def one(data: bytes) -> None:
    """Run one input; an exception is a finding."""
    if not HEAD <= len(data) <= LARGEST:
        return
    head = data[:HEAD]
    chosen = options(head)
    chosen["filter"], capture = filter_of(head, data[HEAD:])
    try:
        _core.Conntrack(**chosen)
    except ValueError:  # this program is no filter
        return
    overlap, fill = OVERLAPS[(head[3] >> 4 & 7) % len(OVERLAPS)], bool(head[3] & 128)
    whole = outcome(capture, LARGEST, chosen, overlap, fill)
    pieces = outcome(capture, 61 + (head[2] & 127), chosen, overlap, fill)
    assert whole == pieces, "other pieces gave another outcome"
