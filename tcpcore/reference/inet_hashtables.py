"""The table of connections: one key for both directions of a 4-tuple.

Linux: net/ipv4/inet_hashtables.c.  RFC 9293 3.4 (a connection is a pair of sockets).
"""

from __future__ import annotations

from .secure_seq import siphash
from .tcp import Flow, Segment


def _ordered(saddr: bytes, daddr: bytes, sport: int, dport: int) -> bytes:
    if (saddr, sport) > (daddr, dport):
        saddr, daddr, sport, dport = daddr, saddr, dport, sport
    return saddr + daddr + (sport << 16 | dport).to_bytes(4, "big")


def flow_hash(key: bytes, saddr: bytes, daddr: bytes, sport: int, dport: int) -> int:
    """Hash a 4-tuple so that both directions agree.

    Parameters
    ----------
    key : bytes, 16
    saddr, daddr : bytes, 16 each, IPv4 mapped
    sport, dport : int, 16 bits

    Returns
    -------
    int : 64 bits, SipHash-2-4 of the lower address, the upper one, and their ports in that order
    """
    return siphash(key, _ordered(saddr, daddr, sport, dport))


def flow_key(saddr: bytes, daddr: bytes, sport: int, dport: int, ip: int) -> bytes:
    """Name a 4-tuple, the same for both directions: what `flow_hash` hashes, and the IP version.

    The version is there because IPv4's a.b.c.d is not IPv6's ::ffff:a.b.c.d.
    """
    return _ordered(saddr, daddr, sport, dport) + bytes((ip,))


def flow_side(flow: Flow, th: Segment) -> int:
    """Tell who sent a segment of a connection: 0 for a, 1 for b."""
    return 0 if th.sport == flow.a_port and th.saddr == flow.a_addr else 1


class FlowTable:
    """Connections by `flow_key`.

    A dict: Python hashes bytes by SipHash under a key of its own, drawn at its start, so nobody
    chooses 4-tuples that collide (T-02).
    """

    __slots__ = ("flows",)

    def __init__(self) -> None:
        self.flows: dict[bytes, Flow] = {}

    def inet_lookup_established(self, key: bytes) -> Flow | None:
        """Find the connection that a 4-tuple has now."""
        return self.flows.get(key)

    def inet_hash(self, key: bytes, flow: Flow) -> None:
        """Enter a connection; it takes the place of an older one of its 4-tuple."""
        self.flows[key] = flow

    def inet_unhash(self, key: bytes) -> None:
        """Forget the connection that a 4-tuple has."""
        del self.flows[key]
