"""Routers of a network in memory: a hop less, fragments where they are allowed, ICMP else.

RFC 1812 5.2, 5.3; RFC 792, 1191; RFC 4443 3, 8200 5.
"""

from __future__ import annotations

import struct

from tcpcore.transfer import mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from tcpcore.link import MemoryLink

IPV4_HDR_LEN, IPV6_HDR_LEN, IPV6_MIN_MTU = 20, 40, 1280
DF, MF = 0x4000, 0x2000
ICMP, ICMPV6 = 1, 58
ROUTER4 = bytes((192, 0, 0, 8))  # of a router without an address (RFC 7600 4.8)
ROUTER6 = b"\xfd" + bytes(13) + b"\xff\xfe"

# What an ICMP message says: type and code for IPv4, for IPv6.
UNREACHABLE = ((3, 0), (1, 0))
TOO_BIG = ((3, 4), (2, 0))
TIME_EXCEEDED = ((11, 0), (3, 0))


class Router:
    """Passes packets on, by the shortest way. It speaks no TCP.

    Attributes
    ----------
    name : str
    default : str
        The neighbour that gets what is for nobody the network knows; '': nobody.
    dropped : int
        Packets without a way, whose time to live was over, or too large for the next link; their
        senders are told by ICMP.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.default = ""
        self.dropped = 0
        self.ports: list[tuple[str, MemoryLink]] = []
        self.routes: dict[bytes, MemoryLink] = {}

    @property
    def next_deadline(self) -> int | None:
        """When the next packet comes, ns."""
        times = [when for _, port in self.ports if (when := port.next_arrival) is not None]
        return min(times) if times else None

    def run(self, now_ns: int) -> None:
        """Pass on what has come."""
        for _, port in self.ports:
            for frame in port.recv(now_ns):
                self.forward(frame, now_ns)

    def forward(self, packet: bytes, now_ns: int) -> None:
        """One packet: a hop less, and on."""
        if not is_packet(packet):
            self.dropped += 1
            return
        made = one_hop(packet)
        port = self.port(packet)
        if not made:
            self.refuse(packet, TIME_EXCEEDED, 0, now_ns)
        elif port is None:
            self.refuse(packet, UNREACHABLE, 0, now_ns)
        elif len(made) <= port.mtu or port.gso:
            port.send([made], now_ns)
        elif packet[0] >> 4 == 4 and not packet[6] & DF >> 8:
            port.send(list(fragments(made, port.mtu)), now_ns)
        else:
            self.refuse(packet, TOO_BIG, port.mtu, now_ns)

    def refuse(
        self, packet: bytes, why: tuple[tuple[int, int], ...], word: int, now_ns: int
    ) -> None:
        """Drop a packet, and tell its sender."""
        self.dropped += 1
        message = icmp(packet, why, word)
        back = self.port(message) if message else None
        if back is not None:
            back.send([message], now_ns)

    def port(self, packet: bytes) -> MemoryLink | None:
        """Where a packet leaves."""
        four = packet[0] >> 4 == 4
        found = self.routes.get(mapped(packet[16:20] if four else packet[24:40]))
        if found is None and self.default:
            found = dict(self.ports).get(self.default)
        return found

    def __repr__(self) -> str:
        return f"<Router {self.name}>"


def is_packet(packet: bytes) -> bool:
    """True if there is a whole header; a damaged one of IPv4 is none."""
    if len(packet) < IPV4_HDR_LEN:
        return False
    if packet[0] >> 4 == 4:
        size = 4 * (packet[0] & 15)
        return IPV4_HDR_LEN <= size <= len(packet) and not checksum(packet[:size])
    return packet[0] >> 4 == 6 and len(packet) >= IPV6_HDR_LEN


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    words: tuple[int, ...] = struct.unpack(f">{len(data) // 2}H", data)
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_checksum(head: bytes) -> bytes:
    """An IPv4 header with its checksum made."""
    return head[:10] + checksum(head[:10] + b"\0\0" + head[12:]).to_bytes(2, "big") + head[12:]


def one_hop(packet: bytes) -> bytes:
    """A packet with a time to live of one less; empty if it was over."""
    four = packet[0] >> 4 == 4
    at = 8 if four else 7
    if packet[at] <= 1:
        return b""
    made = packet[:at] + bytes((packet[at] - 1,)) + packet[at + 1 :]
    if not four:
        return made
    size = 4 * (packet[0] & 15)
    return with_checksum(made[:size]) + made[size:]


def fragments(packet: bytes, mtu: int) -> Iterator[bytes]:
    """An IPv4 packet in parts (RFC 791 3.2); its options go with the first alone."""
    size = 4 * (packet[0] & 15)
    word = int.from_bytes(packet[6:8], "big")
    data = packet[size:]
    at = 0
    head = packet[:size]
    while at < len(data):
        piece = data[at : at + (mtu - len(head)) // 8 * 8]
        more = MF if at + len(piece) < len(data) else word & MF
        flags = (word & ~MF) + at // 8 | more
        total = len(head) + len(piece)
        made = head[:2] + struct.pack(">H2sH", total, head[4:6], flags) + head[8:]
        yield with_checksum(made) + piece
        at += len(piece)
        head = bytes((0x45,)) + packet[1:IPV4_HDR_LEN]


def icmp(packet: bytes, why: tuple[tuple[int, int], ...], word: int) -> bytes:
    """What tells the sender of a packet why it was dropped; empty where nothing may be said."""
    if packet[0] >> 4 == 4:
        protocol, offset = packet[9], int.from_bytes(packet[6:8], "big") & 0x1FFF
        if offset or packet[16] >= 224 or protocol == ICMP:
            return b""
        kind, code = why[0]
        said = packet[: 4 * (packet[0] & 15) + 8]
        body = struct.pack(">BBHI", kind, code, 0, word) + said + bytes(len(said) % 2)
        body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
        size = IPV4_HDR_LEN + len(body)
        head = struct.pack(">BBHHHBBH", 0x45, 0xC0, size, 0, 0, 64, ICMP, 0)
        return with_checksum(head + ROUTER4 + packet[12:16]) + body
    if packet[24] == 0xFF or packet[6] == ICMPV6:
        return b""
    kind, code = why[1]
    said = packet[: IPV6_MIN_MTU - IPV6_HDR_LEN - 8]
    body = struct.pack(">BBHI", kind, code, 0, word) + said + bytes(len(said) % 2)
    pseudo = ROUTER6 + packet[8:24] + struct.pack(">II", len(body), ICMPV6)
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    head = struct.pack(">IHBB", 6 << 28, len(body), ICMPV6, 64)
    return head + ROUTER6 + packet[8:24] + body
