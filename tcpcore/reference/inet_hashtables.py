"""The table of connections: one key for both directions of a 4-tuple.

Linux: net/ipv4/inet_hashtables.c.  RFC 9293 3.4 (a connection is a pair of sockets).
"""

from __future__ import annotations

from .secure_seq import siphash
from .tcp import Flow, Segment


def _ordered(saddr: bytes, daddr: bytes, sport: int, dport: int) -> bytes:
    ends = (saddr, sport.to_bytes(2, "big")), (daddr, dport.to_bytes(2, "big"))
    low, high = sorted(ends, key=_rank)
    return low[0] + high[0] + low[1] + high[1]


def _rank(end: tuple[bytes, bytes]) -> tuple[int, bytes | int]:
    """Order two ends as the compiled engine does, for which this is cheapest."""
    addr, port = end
    return int.from_bytes(port, "little"), int.from_bytes(addr, "little") if len(
        addr
    ) == 4 else addr


def flow_hash(key: bytes, saddr: bytes, daddr: bytes, sport: int, dport: int) -> int:
    """Hash a 4-tuple so that both directions agree.

    Parameters
    ----------
    key : bytes, 16
    saddr, daddr : bytes, 4 or 16 each
    sport, dport : int, 16 bits

    Returns
    -------
    int : 64 bits, SipHash-2-4 of both addresses and then their ports, those of one end first

    Raises
    ------
    ValueError : a key of another length than 16, addresses of another than 4 or 16
    """
    if len(key) != 16 or len(saddr) != len(daddr) or len(saddr) not in (4, 16):
        raise ValueError("a key has 16 bytes, addresses have 4 or 16")
    return siphash(key, _ordered(saddr, daddr, sport, dport))


def flow_key(saddr: bytes, daddr: bytes, sport: int, dport: int, ip: int) -> bytes:
    """Name a 4-tuple, the same for both directions, and the IP version.

    The version is there because IPv4's a.b.c.d is not IPv6's ::ffff:a.b.c.d.
    """
    if (saddr, sport) > (daddr, dport):
        saddr, daddr, sport, dport = daddr, saddr, dport, sport
    return saddr + daddr + (sport << 24 | dport << 8 | ip).to_bytes(5, "big")


def flow_side(flow: Flow, th: Segment) -> int:
    """Tell who sent a segment of a connection: 0 for a, 1 for b."""
    return 0 if th.sport == flow.a_port and th.saddr == flow.a_addr else 1


class FlowTable:
    """Connections by `flow_key`, and what else is part of the key.

    A dict: Python hashes bytes by SipHash under a key of its own, drawn at its start, so nobody
    chooses 4-tuples that collide (T-02).
    """

    __slots__ = ("flows",)

    def __init__(self) -> None:
        self.flows: dict[tuple[bytes, tuple[int, ...]], Flow] = {}

    def inet_lookup_established(self, key: bytes, context: tuple[int, ...]) -> Flow | None:
        """Find the connection that a 4-tuple has now."""
        return self.flows.get((key, context))

    def inet_hash(self, key: bytes, context: tuple[int, ...], flow: Flow) -> None:
        """Enter a connection; it takes the place of an older one of its 4-tuple."""
        self.flows[key, context] = flow

    def inet_unhash(self, key: bytes, context: tuple[int, ...]) -> None:
        """Forget the connection that a 4-tuple has."""
        del self.flows[key, context]
