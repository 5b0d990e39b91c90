"""All state of one engine that is nobody's in particular: its clock and its counters.

Linux: include/net/net_namespace.h, snmp.h.
"""

from __future__ import annotations

from .ip_fragment import IpFrags
from .snmp import Mib

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1


class Net:
    """One engine's clock (the largest capture time seen), its counters and its fragments.

    `ip_summed`: checksums of what comes now are known to be right, or are not made yet.
    `gso_size`: payload of the segments that what comes now was joined of; 0: it is one.
    """

    __slots__ = ("now_ns", "mib", "frags", "ip_summed", "gso_size")

    def __init__(self) -> None:
        self.now_ns = INT64_MIN
        self.mib = [0] * Mib.NR_MIBS
        self.frags = IpFrags()
        self.ip_summed = False
        self.gso_size = 0
