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
    "Ip6InReceives",
    "Ip6InHdrErrors",
    "Ip6InTruncatedPkts",
    "Ip6InUnknownProtos",
    "Ip6ReasmReqds",
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
