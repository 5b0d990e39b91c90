"""Checksum offload: which wrong checksums a sender's own network card explains, host by host.

Linux: net/core/dev.c (skb_checksum_help), include/linux/skbuff.h (CHECKSUM_PARTIAL).  RFC 1624.
A host's card fills checksums in after the tap: what the tap sees instead says so by itself.
"""

from __future__ import annotations

from .tcp import Bad, Segment

OFFLOAD_MAX = 1024  # hosts that are remembered
OFFLOAD_LEARNT = 4  # segments that explain themselves, after which the host is known

BAD_IP_CSUM, BAD_TCP_CSUM = int(Bad.BAD_IP_CSUM), int(Bad.BAD_TCP_CSUM)
BAD_PARTIAL, BAD_ZERO = int(Bad.BAD_PARTIAL), int(Bad.BAD_ZERO)
BAD_TSO, BAD_IP_ZERO = int(Bad.BAD_TSO), int(Bad.BAD_IP_ZERO)


class Host:
    """A sender on one interface, and how its segments with wrong checksums look."""

    def __init__(self, addr: bytes, interface: int, ip: int) -> None:
        self.addr = addr
        self.interface = interface
        self.ip = ip
        self.partial = 0
        self.zero = 0
        self.tso = 0
        self.other = 0  # nothing explains them but that the host is known


class Offload:
    """All senders of wrong checksums, as far as there is room, in order of appearance."""

    def __init__(self) -> None:
        self.hosts: dict[tuple[bytes, int, int], Host] = {}
        self.explained = 0  # segments that explain themselves
        self.learnt = 0  # segments that a known host explains
        self.damaged = 0  # segments that nothing explains


def offload_find(offload: Offload, th: Segment, interface: int) -> Host | None:
    """Find the sender of a segment on its interface; None where there is no room for another."""
    name = th.saddr, interface, th.ip
    host = offload.hosts.get(name)
    if host is None and len(offload.hosts) < OFFLOAD_MAX:
        host = offload.hosts[name] = Host(*name)
    return host


def offload_learn(offload: Offload, th: Segment, interface: int, mss: int) -> int:
    """Count a segment with a wrong checksum.

    Parameters
    ----------
    offload : Offload
    th : Segment
    interface : int, number of the interface that captured it
    mss : int, the most that its receiver takes, 0 if that is not known

    Returns
    -------
    int : Bad, what of it is really wrong; 0 if all of it is explained
    """
    host = offload_find(offload, th, interface)
    bad = th.bad & (BAD_IP_CSUM | BAD_TCP_CSUM)
    tso = bool(th.bad & BAD_TSO or 0 < mss < th.payload_len)
    if tso or th.bad & (BAD_PARTIAL | BAD_ZERO):
        bad &= ~BAD_TCP_CSUM
    if tso or th.bad & BAD_IP_ZERO:
        bad &= ~BAD_IP_CSUM
    if host is not None:
        if bad:
            host.other += 1
        elif tso:
            host.tso += 1
        elif th.bad & BAD_PARTIAL:
            host.partial += 1
        else:
            host.zero += 1
    if not bad:
        offload.explained += 1
    elif host is not None and host.partial + host.zero + host.tso >= OFFLOAD_LEARNT:
        offload.learnt += 1
        bad = 0
    else:
        offload.damaged += 1
    return bad
