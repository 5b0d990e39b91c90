"""All state of one engine that is nobody's in particular: its clock and its counters.

Linux: include/net/net_namespace.h, snmp.h.
"""

from __future__ import annotations

from .tcp import Mib

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1


class Net:
    """One engine's clock (the largest capture time seen) and its counters."""

    __slots__ = ("now_ns", "mib")

    def __init__(self) -> None:
        self.now_ns = INT64_MIN
        self.mib = [0] * Mib.NR_MIBS
