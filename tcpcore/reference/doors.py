"""Doors to lower floors, for the tests that hold the twins equal; `core` hands them on."""

from __future__ import annotations

from . import csum as _csum
from . import tcb as _tcb
from .inet_hashtables import flow_hash
from .ip_input import ip_rcv
from .net import Net
from .secure_seq import siphash
from .tcp import MASK32, TCPHDR_FIN, TCPHDR_SYN, Bad, Drop, Segment, Tcb
from .tcp_md5 import md5
from .wire import tcp_parse_options

__all__ = [
    "csum",
    "flow_hash",
    "fragment_pieces",
    "md5",
    "parse_frame",
    "parse_options",
    "siphash",
    "tcb_rcv",
    "tcb_xmit",
    "tcp_sequence",
]


def csum(data: bytes, start: int = 0) -> int:
    """Sum 16-bit words in ones' complement, folded and not inverted."""
    return _csum.csum_fold(_csum.csum_partial(data, start))


def parse_frame(linktype: int, data: bytes, wirelen: int) -> dict[str, int | bytes]:
    """Give every field of the segment in a frame, or only `drop` where it is none."""
    seg = Segment()
    drop, outer = ip_rcv(Net(), linktype, data, 0, len(data), max(wirelen, len(data)), seg)
    if drop:
        return {"drop": int(drop)}
    fields = {name: getattr(seg, name) for name in Segment.__slots__}
    bad = fields.pop("bad")
    return {
        **fields,
        **{
            name: getattr(outer, name)
            for name in ("vlan", "inner_vlan", "vlans", "encap", "tunnel")
        },
        "outer": (outer.saddr, outer.daddr) if outer.ip else (),
        "bad_ip_csum": int(bad & Bad.BAD_IP_CSUM != 0),
        "bad_tcp_csum": int(bad & Bad.BAD_TCP_CSUM != 0),
        "drop": int(Drop.TCP_BAD_DOFF) if bad & Bad.BAD_DOFF else 0,
    }


def fragment_pieces(linktype: int, frames: list[bytes]) -> list[tuple[int, int, int]]:
    """Where the datagram lies that the last of these frames makes whole.

    Their bytes follow one another in a capture: (offset in the datagram, length, offset in the
    capture) of each piece.
    """
    net = Net()
    offset = 0
    whole = None
    for data in frames:
        drop, outer = ip_rcv(net, linktype, data, 0, len(data), len(data), Segment(), offset)
        offset += len(data)
        whole = None if drop else outer.whole
    return [(one.offset, one.length, one.source) for one in whole.pieces] if whole else []


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
