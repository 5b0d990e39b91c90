"""Ethernet under a stack: whose hardware address is whose, asked by ARP and neighbour discovery.

RFC 826; RFC 4861 4.3, 4.4, 7.2. Nothing expires: what a neighbour says replaces what was known.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque

from tcpcore.link import ETH_HLEN, like
from tcpcore.transfer import V4MAPPED, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Interface, IPv6Interface

BROADCAST = b"\xff" * 6
ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
ARP_HEAD = b"\0\1\x08\0\6\4\0"  # Ethernet, IPv4, sizes of both addresses; then the operation
ICMPV6, SOLICIT, ADVERTISE = 58, 135, 136
KNOWN_MAX = 4096  # neighbours
ASKED_MAX = 256  # those that have not answered
WAITING_MAX = 64  # packets for each of them


class Neighbours:
    """The neighbours of one interface.

    Parameters
    ----------
    interfaces
        This host's addresses and their networks.
    hwaddr
        Its hardware address, 6 bytes; None: one of its own making, from the addresses.
    gateway
        16 bytes of the router's address for all that is on no network of ours; b'': there is none.
    """

    def __init__(
        self,
        interfaces: Iterable[IPv4Interface | IPv6Interface],
        hwaddr: bytes | None,
        gateway: bytes = b"",
    ) -> None:
        self.mine = [mapped(one.ip.packed) for one in interfaces]
        self.networks = [
            (
                int.from_bytes(mapped(one.network.network_address.packed), "big"),
                one.network.max_prefixlen - one.network.prefixlen,
                one.version,
            )
            for one in interfaces
        ]
        made = hashlib.blake2b(b"".join(self.mine), digest_size=5).digest()
        self.hwaddr = hwaddr or b"\x02" + made
        self.gateway = gateway
        self.known: dict[bytes, bytes] = {}
        self.asked: dict[bytes, deque[bytes]] = {}

    def receive(self, frame: bytes, out: deque[bytes]) -> bytes | None:
        """A frame: the IP packet in it, if it is one for this host; answers go to `out`."""
        if len(frame) < ETH_HLEN or not (frame[:6] == self.hwaddr or frame[0] & 1):
            return None
        kind, packet = frame[12:14], frame[ETH_HLEN:]
        if kind == ETH_P_ARP:
            self.arp_rcv(packet, out)
            return None
        if kind == ETH_P_IPV6 and len(packet) >= 64 and packet[6] == ICMPV6 and packet[7] == 255:
            self.ndisc_rcv(packet, out)
            return None
        return packet if kind in (ETH_P_IP, ETH_P_IPV6) else None

    def send(self, packet: bytes, out: deque[bytes]) -> None:
        """Put a packet into a frame; while nobody knows for whom, it waits and he is asked for."""
        four = packet[0] >> 4 == 4
        target = self.next_hop(mapped(packet[16:20] if four else packet[24:40]))
        hwaddr = self.known.get(target)
        if hwaddr is not None:
            head = hwaddr + self.hwaddr + (ETH_P_IP if four else ETH_P_IPV6)
            out.append(like(packet, head + packet))
            return
        if target not in self.asked and len(self.asked) >= ASKED_MAX:
            del self.asked[next(iter(self.asked))]
        self.asked.setdefault(target, deque(maxlen=WAITING_MAX)).append(packet)
        self.ask(target, out)

    def next_hop(self, target: bytes) -> bytes:
        """Who is to get what is for `target`: he himself, or the router."""
        number = int.from_bytes(target, "big")
        if not self.gateway or any(number >> bits == net >> bits for net, bits, _ in self.networks):
            return target
        return self.gateway

    def learn(self, address: bytes, hwaddr: bytes, out: deque[bytes], asked_only: bool) -> None:
        """Somebody told his hardware address; send what waited for it."""
        if hwaddr[0] & 1 or (
            asked_only and address not in self.asked and address not in self.known
        ):
            return
        if address not in self.known and len(self.known) >= KNOWN_MAX:
            del self.known[next(iter(self.known))]
        self.known[address] = hwaddr
        for packet in self.asked.pop(address, ()):
            self.send(packet, out)

    def ask(self, target: bytes, out: deque[bytes]) -> None:
        """Who has this address?"""
        if target.startswith(V4MAPPED):
            mine = next((one for one in self.mine if one.startswith(V4MAPPED)), bytes(16))
            out.append(self.arp(BROADCAST, 1, mine, bytes(6), target))
            return
        mine = next((one for one in self.mine if not one.startswith(V4MAPPED)), bytes(16))
        group = b"\xff\x02" + bytes(9) + b"\1\xff" + target[13:]
        message = struct.pack(">BBHI", SOLICIT, 0, 0, 0) + target + b"\1\1" + self.hwaddr
        out.append(self.icmpv6(b"\x33\x33" + group[12:], mine, group, message))

    def arp(self, to: bytes, op: int, mine: bytes, hwaddr: bytes, target: bytes) -> bytes:
        """A frame with an ARP message."""
        head = to + self.hwaddr + ETH_P_ARP + ARP_HEAD + bytes((op,))
        return head + self.hwaddr + mine[12:] + hwaddr + target[12:]

    def arp_rcv(self, packet: bytes, out: deque[bytes]) -> None:
        """Somebody asks or tells (RFC 826, packet reception)."""
        if len(packet) < 28 or packet[:7] != ARP_HEAD:
            return
        hwaddr, sender = packet[8:14], mapped(packet[14:18])
        target = mapped(packet[24:28])
        self.learn(sender, hwaddr, out, asked_only=target not in self.mine)
        if packet[7] == 1 and target in self.mine:
            out.append(self.arp(hwaddr, 2, target, hwaddr, sender))

    def ndisc_rcv(self, packet: bytes, out: deque[bytes]) -> None:
        """Somebody asks or tells (RFC 4861 7.2.3, 7.2.5)."""
        kind, target = packet[40], packet[48:64]
        if kind not in (SOLICIT, ADVERTISE) or packet[41]:
            return
        hwaddr = b""
        at = 64
        while at + 8 <= len(packet) and packet[at + 1]:
            if packet[at] == (1 if kind == SOLICIT else 2):
                hwaddr = packet[at + 2 : at + 8]
            at += 8 * packet[at + 1]
        if not hwaddr:
            return
        if kind == ADVERTISE:
            self.learn(target, hwaddr, out, asked_only=True)
        elif target in self.mine:
            self.learn(packet[8:24], hwaddr, out, asked_only=False)
            message = struct.pack(">BBHI", ADVERTISE, 0, 0, 3 << 29) + target + b"\2\1"
            out.append(self.icmpv6(hwaddr, target, packet[8:24], message + self.hwaddr))

    def icmpv6(self, to: bytes, source: bytes, target: bytes, message: bytes) -> bytes:
        """A frame with an ICMPv6 message, its checksum filled in."""
        pseudo = source + target + struct.pack(">II", len(message), ICMPV6)
        total = sum(struct.unpack(f">{(len(pseudo) + len(message)) // 2}H", pseudo + message))
        check = ~(total % 0xFFFF) & 0xFFFF
        message = message[:2] + check.to_bytes(2, "big") + message[4:]
        head = struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, 255)
        return to + self.hwaddr + ETH_P_IPV6 + head + source + target + message
