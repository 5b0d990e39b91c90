"""Packets as bytes: made of a script's line, taken apart, and written as a script writes them."""

from __future__ import annotations

import hashlib
import ipaddress
import struct

from tcpcore.packetdrill.script import TcpOption

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = 1, 2, 4, 8, 16, 32, 64, 128, 256
MASK32 = 0xFFFFFFFF
ECN_BITS = {"noecn": 0, "ect1": 1, "ect0": 2, "ce": 3}
IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP = 1, 6, 17
FOEXP_MAGIC = 0xF989
_TCP = struct.Struct(">HHIIHHHH")

# Kinds of options by the words of scripts.
KINDS = {
    "eol": 0, "nop": 1, "mss": 2, "wscale": 3, "sackOK": 4, "sack": 5, "TS": 8, "md5": 19,
    "FO": 34, "ECN0": 172, "ECN1": 174, "FOEXP": 254,
}  # fmt: skip
NAMES = {kind: name for name, kind in KINDS.items()}


def checksum(data: bytes) -> int:
    """Of whole words, and a last byte filled up with zero (RFC 1071)."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF
    return 0xFFFF - total if total or not any(data) else 0


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What the checksum covers in front of the segment (RFC 9293 3.1)."""
    return source + destination + struct.pack(">HH", protocol, length)


def ipv4(
    source: str, destination: str, protocol: int, body: bytes, tos: int = 0, ttl: int = 255
) -> bytes:
    """A packet of IPv4: DF clear, identification 0."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    total = min(20 + len(body), 65535)
    head = struct.pack(">BBHHHBBH", 0x45, tos, total, 0, 0, ttl, protocol, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def option_bytes(option: TcpOption) -> bytes:
    """One option as it is on the wire."""
    name = option.name
    kind = KINDS[name]
    if kind <= 1:
        return bytes([kind])
    if name == "mss":
        body = struct.pack(">H", option.values[0])
    elif name == "wscale":
        body = bytes(option.values)
    elif name in ("TS", "sack"):
        body = struct.pack(f">{len(option.values)}I", *option.values)
    elif name in ("ECN0", "ECN1"):
        body = b"".join(value.to_bytes(3, "big") for value in option.values)
    elif name == "FOEXP":
        body = struct.pack(">H", FOEXP_MAGIC) + option.blob
    else:
        body = option.blob
    return bytes([kind, 2 + len(body)]) + body


def parse_options(raw: bytes) -> list[TcpOption] | None:
    """Options of a segment; None where their lengths do not add up."""
    found = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind <= 1:
            found.append(TcpOption(NAMES[kind]))
            at += 1
            continue
        if at + 1 >= len(raw) or raw[at + 1] < 2 or at + raw[at + 1] > len(raw):
            return None
        body = raw[at + 2 : at + raw[at + 1]]
        at += 2 + len(body)
        found.append(_option(kind, body))
    return found


def _option(kind: int, body: bytes) -> TcpOption:
    name = NAMES.get(kind, f"kind{kind}")
    if (name == "mss" and len(body) == 2) or (name == "wscale" and len(body) == 1):
        return TcpOption(name, (int.from_bytes(body, "big"),))
    if (name == "TS" and len(body) == 8) or (name == "sack" and not len(body) % 8):
        return TcpOption(name, struct.unpack(f">{len(body) // 4}I", body))
    if name in ("ECN0", "ECN1") and not len(body) % 3:
        values = (int.from_bytes(body[i : i + 3], "big") for i in range(0, len(body), 3))
        return TcpOption(name, tuple(values))
    if name == "FOEXP" and body[:2] == struct.pack(">H", FOEXP_MAGIC):
        return TcpOption(name, blob=body[2:])
    return TcpOption(name, blob=body)


class Segment:
    """A TCP packet of IPv4 with all that is compared; numbers as they are on the wire."""

    __slots__ = (
        "source", "destination", "sport", "dport", "tos", "ttl", "seq", "ack", "flags",
        "reserved", "window", "urg", "raw_options", "payload", "bad_checksum", "time_us",
    )  # fmt: skip

    def __init__(self) -> None:
        self.source = self.destination = b""
        self.sport = self.dport = 0
        self.tos = 0
        self.ttl = 255
        self.seq = self.ack = 0
        self.flags = self.reserved = 0
        self.window = self.urg = 0
        self.raw_options = b""
        self.payload = b""
        self.bad_checksum = False
        self.time_us = 0

    def md5(self, key: bytes) -> bytes:
        """The segment's signature under a key (RFC 2385 2.0)."""
        head = 20 + len(self.raw_options)
        word = head // 4 << 12 | self.flags
        ends = pseudo_header(self.source, self.destination, IPPROTO_TCP, head + len(self.payload))
        bare = _TCP.pack(self.sport, self.dport, self.seq, self.ack, word, self.window, 0, self.urg)
        return hashlib.md5(ends + bare + self.payload + key, usedforsecurity=False).digest()

    def build(self) -> bytes:
        """The bytes of the packet, both checksums right."""
        head = 20 + len(self.raw_options)
        word = head // 4 << 12 | self.flags
        tcp = _TCP.pack(self.sport, self.dport, self.seq, self.ack, word, self.window, 0, self.urg)
        tcp += self.raw_options + self.payload
        check = checksum(pseudo_header(self.source, self.destination, IPPROTO_TCP, len(tcp)) + tcp)
        tcp = tcp[:16] + struct.pack(">H", check) + tcp[18:]
        source, destination = (
            str(ipaddress.ip_address(a)) for a in (self.source, self.destination)
        )
        return ipv4(source, destination, IPPROTO_TCP, tcp, self.tos, self.ttl)


def dissect(packet: bytes, time_us: int = 0, offloaded: bool = False) -> Segment | None:
    """Take a packet apart; None for what is no whole TCP segment of IPv4.

    Parameters
    ----------
    packet : bytes
    time_us : int
        When it was seen.
    offloaded : bool
        Its TCP checksum is yet to be made: it is not looked at.
    """
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != IPPROTO_TCP:
        return None
    at = (packet[0] & 15) * 4
    length = int.from_bytes(packet[2:4], "big") or len(packet)
    if not at + 20 <= length <= len(packet) or at < 20:
        return None
    made = Segment()
    tcp = packet[at:length]
    made.sport, made.dport, made.seq, made.ack, word, made.window, _, made.urg = _TCP.unpack_from(
        tcp
    )
    head = (word >> 12) * 4
    if not 20 <= head <= len(tcp):
        return None
    made.source, made.destination = packet[12:16], packet[16:20]
    made.tos, made.ttl = packet[1], packet[8]
    made.flags, made.reserved = word & 0x1FF, word >> 9 & 7
    made.raw_options, made.payload = tcp[20:head], tcp[head:]
    made.time_us = time_us
    made.bad_checksum = checksum(packet[:at]) != 0
    if not offloaded:
        pseudo = pseudo_header(made.source, made.destination, IPPROTO_TCP, len(tcp))
        made.bad_checksum = made.bad_checksum or checksum(pseudo + tcp) != 0
    return made


def flag_words(flags: int) -> str:
    """Flags as a script writes them."""
    bits = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (URG, "U"), (ECE, "E"), (CWR, "W"))
    words = "".join(letter for bit, letter in bits if flags & bit)
    words += "A" * bool(flags & AE) + "." * bool(flags & ACK)
    return words or "-"


def option_words(options: list[TcpOption]) -> str:
    """Options as a script writes them, in < and >."""
    words = []
    for one in options:
        if one.name == "TS" and len(one.values) == 2:
            words.append(f"TS val {one.values[0]} ecr {one.values[1]}")
        elif one.name == "sack":
            pairs = zip(one.values[::2], one.values[1::2], strict=True)
            words.append("sack " + " ".join(f"{a}:{b}" for a, b in pairs))
        elif one.name in ("ECN0", "ECN1"):
            order = ("e0b", "ceb", "e1b") if one.name == "ECN0" else ("e1b", "ceb", "e0b")
            counters = (f"{word} {value}" for word, value in zip(order, one.values, strict=False))
            words.append(" ".join(("ECN", *counters)))
        else:
            extra = " ".join(str(value) for value in one.values) or one.blob.hex()
            extra = "valid" if one.name == "md5" and one.values else extra
            words.append(f"{one.name} {extra}".strip())
    return f"<{','.join(words)}>" if words else ""


def packet_words(
    flags: int,
    seq: int,
    length: int,
    ack: int,
    window: int | None,
    urg: int,
    options: list[TcpOption] | None,
) -> str:
    """A packet as a script writes it, from its flags on."""
    words = [flag_words(flags), f"{seq}:{(seq + length) & MASK32}({length})"]
    if flags & ACK or ack:
        words.append(f"ack {ack}")
    if window is not None:
        words.append(f"win {window}")
    if urg:
        words.append(f"urg {urg}")
    words.append("<...>" if options is None else option_words(options))
    return " ".join(words).strip()
