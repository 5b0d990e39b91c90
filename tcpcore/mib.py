"""The counters by the names that Linux prints in /proc/net/snmp, netstat and snmp6, in one order.

Linux: net/ipv4/proc.c, net/ipv6/proc.c.  RFC 4022, RFC 4293.
"""

from __future__ import annotations

COUNTERS = (
    "IpInReceives",
    "IpInHdrErrors",
    "IpInTruncatedPkts",
    "IpInUnknownProtos",
    "IpExtInCsumErrors",
    "IpReasmReqds",
    "IpReasmTimeout",
    "IpReasmOKs",
    "IpReasmFails",
    "IpExtReasmOverlaps",
    "Ip6InReceives",
    "Ip6InHdrErrors",
    "Ip6InTruncatedPkts",
    "Ip6InUnknownProtos",
    "Ip6ReasmReqds",
    "Ip6ReasmTimeout",
    "Ip6ReasmOKs",
    "Ip6ReasmFails",
    "TcpActiveOpens",
    "TcpPassiveOpens",
    "TcpAttemptFails",
    "TcpEstabResets",
    "TcpInSegs",
    "TcpInErrs",
    "TcpInCsumErrors",
    "TcpExtPAWSEstab",
    "TcpExtTCPOFOQueue",
    "TcpExtTCPChallengeACK",
    "TcpExtTCPSYNChallenge",
    "TcpExtTW",
)
