"""ICMP errors about the socket under test."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tcpcore.packetdrill.packet import (
    ECN_BITS,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    checksum,
    ipv4,
)
from tcpcore.packetdrill.target import Failure, Unsupported

if TYPE_CHECKING:
    from tcpcore.packetdrill.flow import Flow
    from tcpcore.packetdrill.options import Config
    from tcpcore.packetdrill.script import IcmpPacket

ECHOES = (0, 8, 13, 14, 15, 16, 17, 18)  # types that quote nothing
PROTOCOLS = {6: IPPROTO_TCP, 17: IPPROTO_UDP, 255: 255}


def icmp_packet(line: IcmpPacket, flow: Flow, config: Config) -> bytes:
    """The bytes of a line; it comes from the peer.

    Raises
    ------
    Failure
        If there is no packet that the error could be about.
    Unsupported
        For ICMPv6.
    """
    if line.version != 4:
        raise Unsupported("ICMPv6")
    rest = struct.pack(">HH", line.ident or 0, line.mtu or 0)
    body = struct.pack(">BBH", line.type, line.code, 0) + rest
    if line.type not in ECHOES:
        body += _quoted(line, flow, config)
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    tos = line.tos or 0
    if line.ecn is not None:
        tos = tos & ~3 | ECN_BITS[line.ecn]
    ttl = 255 if line.ttl is None else line.ttl
    return ipv4(config.remote_ip, config.local_ip, IPPROTO_ICMP, body, tos, ttl)


def _quoted(line: IcmpPacket, flow: Flow, config: Config) -> bytes:
    """IP's header of what we had sent, and the first 8 octets of what was in it."""
    if flow.local_port is None or flow.remote_port is None:
        raise Failure("an ICMP error needs a connection that it is about")
    head = struct.pack(">HH", flow.local_port, flow.remote_port)
    seq = flow.local(line.seq, syn=False)
    head += struct.pack(">I", seq) if line.protocol == IPPROTO_TCP else bytes(4)
    size = line.length + (20 if line.protocol == IPPROTO_TCP else 8)
    whole = head + bytes(max(min(size, 65515) - len(head), 0))
    return ipv4(config.local_ip, config.remote_ip, PROTOCOLS[line.protocol], whole, ttl=64)[:28]
