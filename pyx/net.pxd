# All state of one engine that is nobody's in particular: its clock and its counters.
# Linux: include/net/net_namespace.h, snmp.h.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from ip_fragment cimport ip_frags
from snmp cimport NR_MIBS

cdef struct net:
    int64_t now_ns  # the largest capture time seen
    uint64_t mib[NR_MIBS]
    ip_frags frags
    uint8_t ip_summed  # checksums of what comes now are right, or not made yet
    uint16_t gso_size  # payload of the segments that what comes now was joined of; 0: it is one
