"""Whether an emitted packet is what a line says: checks in the order in which they are told."""

from __future__ import annotations

from tcpcore.packetdrill.flow import Flow
from tcpcore.packetdrill.packet import (
    ACK,
    AE,
    CWR,
    ECE,
    ECN_BITS,
    FIN,
    MASK32,
    PSH,
    RST,
    SYN,
    URG,
    Segment,
    option_bytes,
    parse_options,
)
from tcpcore.packetdrill.packet_parser import ACE_SHIFT, option_size
from tcpcore.packetdrill.script import TcpOption, TcpPacket

FLAG_NAMES = ((FIN, "FIN"), (SYN, "SYN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"), (URG, "URG"))
ECN_FLAGS = ((ECE, "ECE"), (CWR, "CWR"), (AE, "AE"))
MERGED = PSH | FIN | CWR  # what may differ within a burst


def continues(first: Segment, before: Segment, after: Segment) -> bool:
    """Whether a packet goes on where the one before ended, as part of one burst."""
    return (
        (before.flags ^ after.flags) & ~MERGED == 0
        and before.ack == after.ack
        and before.window == after.window
        and before.urg == after.urg
        and len(before.raw_options) == len(after.raw_options)
        and after.seq == (before.seq + len(before.payload)) & MASK32
        and len(before.payload) == len(first.payload) > 0
    )


def merge(parts: list[Segment]) -> Segment:
    """One packet of a burst: number and CWR of the first, all else of the last."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return first
    made = Segment()
    for name in Segment.__slots__:
        setattr(made, name, getattr(last, name))
    made.seq = first.seq
    made.flags = (last.flags & ~CWR) | (first.flags & CWR)
    made.payload = b"".join(one.payload for one in parts)
    made.bad_checksum = any(one.bad_checksum for one in parts)
    return made


def difference(
    flow: Flow, line: TcpPacket, seen: Segment, ts_tolerance: int | None, md5_key: bytes = b""
) -> str:
    """What is different, in words; empty if nothing is.

    Parameters
    ----------
    flow : Flow
    line : TcpPacket
    seen : Segment
    ts_tolerance : int or None
        How far a timestamp may be from where the script has it, ticks; None: as it likes.
    md5_key : bytes
        What a valid signature is made with.
    """
    if seen.bad_checksum:
        return "a wrong checksum"
    found = _ip(line, seen)
    if found:
        return found
    options = line.options
    if len(seen.payload) != line.length:
        return _told("payload length", line.length, len(seen.payload))
    if options is not None:
        size = sum(option_size(one) for one in options)
        if size != len(seen.raw_options):
            return _told("length of options", size, len(seen.raw_options))
    for bit, name in FLAG_NAMES:
        if (line.flags ^ seen.flags) & bit:
            return _told(name, int(bool(line.flags & bit)), int(bool(seen.flags & bit)))
    if line.ace is not None:
        if seen.flags >> ACE_SHIFT != line.ace:
            return _told("ACE", line.ace, seen.flags >> ACE_SHIFT)
    else:
        for bit, name in ECN_FLAGS:
            if (line.flags ^ seen.flags) & bit:
                return _told(name, int(bool(line.flags & bit)), int(bool(seen.flags & bit)))
    if seen.reserved:
        return _told("reserved bits", 0, seen.reserved)
    return _numbers(flow, line, seen) or _options(flow, line, seen, ts_tolerance, md5_key)


def _told(what: str, expected: object, sent: object) -> str:
    return f"{what}: expected {expected}, sent {sent}"


def _ip(line: TcpPacket, seen: Segment) -> str:
    if line.tos is not None and seen.tos != line.tos:
        return _told("TOS", hex(line.tos), hex(seen.tos))
    if line.ecn is not None:
        bits = seen.tos & 3
        if line.ecn == "ect01":
            if bits not in (1, 2):
                return _told("ECN", line.ecn, bits)
        elif bits != ECN_BITS[line.ecn]:
            return _told("ECN", line.ecn, bits)
    if line.ttl is not None and seen.ttl != line.ttl:
        return _told("TTL", line.ttl, seen.ttl)
    return ""


def _numbers(flow: Flow, line: TcpPacket, seen: Segment) -> str:
    syn = bool(line.flags & SYN)
    seq = flow.local(line.seq, syn)
    if seq != seen.seq:
        return _told("sequence number", line.seq, (line.seq + seen.seq - seq) & MASK32)
    ack = flow.remote(line.ack, syn) if line.flags & ACK else line.ack
    if ack != seen.ack:
        return _told("acknowledgment number", line.ack, (line.ack + seen.ack - ack) & MASK32)
    if line.window is not None and line.window != seen.window:
        return _told("window", line.window, seen.window)
    if line.urg != seen.urg:
        return _told("urgent pointer", line.urg, seen.urg)
    return ""


def _options(
    flow: Flow, line: TcpPacket, seen: Segment, ts_tolerance: int | None, md5_key: bytes
) -> str:
    sent = parse_options(seen.raw_options)
    if sent is None:
        return "options whose lengths do not add up"
    if line.options is not None:
        syn = bool(line.flags & SYN)
        names = [one.name for one in line.options], [one.name for one in sent]
        if names[0] != names[1]:
            return _told("options", ",".join(names[0]), ",".join(names[1]))
        for wanted, one in zip(line.options, sent, strict=True):
            if wanted.name == "TS":
                found = _timestamp(flow, wanted, one, ts_tolerance)
                if found:
                    return found
                continue
            if wanted.name == "sack":
                edges = tuple(flow.remote(edge, syn) for edge in wanted.values)
                wanted = TcpOption("sack", edges)
            if wanted.name == "md5" and wanted.values:
                wanted = TcpOption("md5", blob=seen.md5(md5_key))
            if option_bytes(wanted) != option_bytes(one):
                return f"option {one.name}"
    if any(seen.payload):
        return "payload: expected zeros"
    return ""


def _timestamp(flow: Flow, wanted: TcpOption, one: TcpOption, ts_tolerance: int | None) -> str:
    if ts_tolerance is None or flow.ts_base is None:
        return ""
    script = _signed(wanted.values[0] - flow.ts_base[0])
    live = _signed(one.values[0] - flow.ts_base[1])
    if abs(live - script) > ts_tolerance:
        sent = (flow.ts_base[0] + live) & MASK32
        return _told("TS val", wanted.values[0], f"{sent}, tolerance {ts_tolerance}")
    return ""


def _signed(number: int) -> int:
    return ((number + (1 << 31)) & MASK32) - (1 << 31)
