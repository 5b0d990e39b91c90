"""Frames and captures for the tests, built field by field and independent of the package.

A builder takes what is wrong as gladly as what is right: lengths and checksums are arguments.
RFC 791, 8200, 9293, 7323; draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

ETHERNET, RAW, NULL, LOOP, PPP, PPP_HDLC = 1, 101, 0, 108, 9, 50
SLL, SLL2, IPV4, IPV6 = 113, 276, 228, 229
LINKTYPES = (ETHERNET, RAW, 12, 14, NULL, LOOP, PPP, PPP_HDLC, SLL, SLL2)

US, NS = 1_000, 1
SEC = 1_000_000_000

# ---- TCP and IP ---------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """RFC 1071 as it is defined: the complement of the ones' complement sum of 16-bit words."""
    total = 0
    for word in struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def address(text: str) -> bytes:
    """The 4 or 16 bytes of an address."""
    return ipaddress.ip_address(text).packed


def address16(text: str) -> bytes:
    """The 16 bytes that the tables hold: IPv4 mapped."""
    packed = address(text)
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def mss(size: int) -> bytes:
    return struct.pack(">BBH", 2, 4, size)


def wscale(shift: int) -> bytes:
    return bytes((3, 3, shift))


def timestamp(tsval: int, tsecr: int) -> bytes:
    return struct.pack(">BBII", 8, 10, tsval & 0xFFFFFFFF, tsecr & 0xFFFFFFFF)


NOP = b"\x01"
EOL = b"\x00"
SACK_PERM = b"\x04\x02"


def padded(options: bytes) -> bytes:
    """Options filled up with EOL to whole words."""
    return options + bytes(-len(options) % 4)


def segment(
    saddr: str = "10.0.0.1",
    daddr: str = "10.0.0.2",
    sport: int = 40000,
    dport: int = 80,
    *,
    seq: int = 1000,
    ack: int = 0,
    flags: int = ACK,
    window: int = 65535,
    urgent: int = 0,
    options: bytes = b"",
    payload: bytes = b"",
    doff: int | None = None,
    csum: int | None = None,
) -> bytes:
    """A TCP segment; its checksum is right unless it is given."""
    options = padded(options)
    if doff is None:
        doff = 5 + len(options) // 4
    head = struct.pack(">HHII", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
    head += struct.pack(">HH", doff << 12 | flags, window)
    tail = struct.pack(">H", urgent) + options + payload
    if csum is None:
        length = len(head) + 2 + len(tail)
        pseudo = address(saddr) + address(daddr) + struct.pack(">II", length, 6)
        csum = checksum(pseudo + head + b"\0\0" + tail)
    return head + struct.pack(">H", csum) + tail


def ipv4(
    payload: bytes,
    saddr: str = "10.0.0.1",
    daddr: str = "10.0.0.2",
    *,
    proto: int = 6,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
    fragment: int = 0,
    csum: int | None = None,
) -> bytes:
    """An IPv4 packet; `fragment` is the word of flags and offset."""
    options = padded(options)
    size = 20 + len(options)
    first = version << 4 | (size // 4 if ihl is None else ihl)
    if total is None:
        total = size + len(payload)
    head = struct.pack(">BBHHHBB", first, 0, total, 1, fragment, 64, proto)
    tail = address(saddr) + address(daddr) + options
    if csum is None:
        csum = checksum(head + b"\0\0" + tail)
    return head + struct.pack(">H", csum) + tail + payload


def ipv6(
    payload: bytes,
    saddr: str = "2001:db8::1",
    daddr: str = "2001:db8::2",
    *,
    proto: int = 6,
    headers: Sequence[tuple[int, bytes]] = (),
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """An IPv6 packet; each extension header is its number and its bytes after the first."""
    kinds = [kind for kind, _ in headers] + [proto]
    body = b"".join(bytes((kinds[i + 1],)) + rest for i, (_, rest) in enumerate(headers)) + payload
    if length is None:
        length = len(body)
    head = struct.pack(">IHBB", version << 28, length, kinds[0], 64)
    return head + address(saddr) + address(daddr) + body


def extension(size: int = 8) -> bytes:
    """The bytes after the first of an extension header that is `size` long."""
    return bytes((size // 8 - 1,)) + bytes(size - 2)


def packet(
    saddr: str = "10.0.0.1",
    daddr: str = "10.0.0.2",
    sport: int = 40000,
    dport: int = 80,
    *,
    ip: dict[str, object] | None = None,
    **tcp: object,
) -> bytes:
    """An IP packet with a TCP segment; `ip` has arguments for the IP header."""
    wrap = ipv6 if ":" in saddr else ipv4
    return wrap(segment(saddr, daddr, sport, dport, **tcp), saddr, daddr, **(ip or {}))


# ---- link layers --------------------------------------------------------------------------------

MAC = bytes.fromhex("020000000002020000000001")


def ethernet(payload: bytes, ethertype: int, tags: Sequence[int] = ()) -> bytes:
    """An Ethernet frame; `tags` are the EtherTypes of its VLAN tags."""
    kinds = [*tags, ethertype]
    vlan = b"".join(struct.pack(">HH", 100 + i, kind) for i, kind in enumerate(kinds[1:]))
    return MAC + struct.pack(">H", kinds[0]) + vlan + payload


def link(linktype: int, ip: bytes) -> bytes:
    """A frame of any link type that carries an IP packet."""
    six = ip[0] >> 4 == 6
    ethertype = 0x86DD if six else 0x0800
    if linktype == ETHERNET:
        return ethernet(ip, ethertype)
    if linktype in (RAW, 12, 14, IPV4, IPV6):
        return ip
    if linktype == NULL:
        return struct.pack("<I", 30 if six else 2) + ip
    if linktype == LOOP:
        return struct.pack(">I", 24 if six else 2) + ip
    if linktype in (PPP, PPP_HDLC):
        return b"\xff\x03" + struct.pack(">H", 0x57 if six else 0x21) + ip
    if linktype == SLL:
        return struct.pack(">HHH8sH", 0, 1, 6, MAC[:8], ethertype) + ip
    if linktype == SLL2:
        return struct.pack(">HHIHBB8s", ethertype, 0, 1, 1, 0, 6, MAC[:8]) + ip
    raise ValueError(f"link type {linktype}")


def frame(*endpoints: object, linktype: int = ETHERNET, **fields: object) -> bytes:
    """A frame with a TCP segment: addresses and ports, then what `packet` takes."""
    return link(linktype, packet(*endpoints, **fields))


def conversation(
    client: str = "10.0.0.1",
    server: str = "10.0.0.2",
    sport: int = 40000,
    dport: int = 80,
    *,
    payloads: Sequence[bytes] = (b"GET /\r\n", b"200 OK\r\n"),
    isn: tuple[int, int] = (1000, 5000),
    start_ns: int = SEC,
    step_ns: int = 1_000_000,
    linktype: int = ETHERNET,
) -> list[tuple[int, bytes]]:
    """One whole connection as (time, frame): the ends speak in turn, the client first."""
    ends = ((client, server, sport, dport), (server, client, dport, sport))
    sent = [isn[0] + 1, isn[1] + 1]
    steps = [
        (0, {"flags": SYN, "seq": isn[0], "options": mss(1460) + wscale(7) + SACK_PERM}),
        (1, {"flags": SYN | ACK, "seq": isn[1], "ack": sent[0], "options": mss(1400) + wscale(8)}),
        (0, {"flags": ACK, "seq": sent[0], "ack": sent[1]}),
    ]
    for turn, payload in enumerate(payloads):
        side = turn % 2
        fields = {"flags": PSH | ACK, "seq": sent[side], "ack": sent[1 - side], "payload": payload}
        steps.append((side, fields))
        sent[side] += len(payload)
    for side in (0, 1):
        steps.append((side, {"flags": FIN | ACK, "seq": sent[side], "ack": sent[1 - side]}))
        sent[side] += 1
    steps.append((0, {"flags": ACK, "seq": sent[0], "ack": sent[1]}))
    return [
        (start_ns + i * step_ns, frame(*ends[side], linktype=linktype, **fields))
        for i, (side, fields) in enumerate(steps)
    ]


# ---- pcap ---------------------------------------------------------------------------------------

PCAP_FORMATS = {
    "pcap": (0xA1B2C3D4, US),
    "pcap-ns": (0xA1B23C4D, NS),
    "pcap-modified": (0xA1B2CD34, US),
}


def pcap_header(
    linktype: int = ETHERNET, *, fmt: str = "pcap", endian: str = "<", snaplen: int = 262144
) -> bytes:
    return struct.pack(endian + "IHHiIII", PCAP_FORMATS[fmt][0], 2, 4, 0, 0, snaplen, linktype)


def pcap_record(
    time_ns: int,
    data: bytes,
    wirelen: int | None = None,
    *,
    fmt: str = "pcap",
    endian: str = "<",
    caplen: int | None = None,
) -> bytes:
    sec, rest = divmod(time_ns, SEC)
    caplen = len(data) if caplen is None else caplen
    wirelen = len(data) if wirelen is None else wirelen
    head = struct.pack(endian + "IIII", sec, rest // PCAP_FORMATS[fmt][1], caplen, wirelen)
    if fmt == "pcap-modified":
        head += struct.pack(endian + "IHBx", 2, 0x0800, 0)
    return head + data


def pcap(
    records: Iterable[Sequence[object]],
    linktype: int = ETHERNET,
    *,
    fmt: str = "pcap",
    endian: str = "<",
) -> bytes:
    """A pcap capture of (time in ns, data[, wire length])."""
    head = pcap_header(linktype, fmt=fmt, endian=endian)
    return head + b"".join(pcap_record(*record, fmt=fmt, endian=endian) for record in records)


# ---- pcapng -------------------------------------------------------------------------------------

SECTION, INTERFACE, OBSOLETE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
IF_TSRESOL, IF_TSOFFSET = 9, 14


def block(
    kind: int,
    body: bytes,
    *,
    endian: str = "<",
    total: int | None = None,
    trailer: int | None = None,
) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12 if total is None else total
    trailer = total if trailer is None else trailer
    return struct.pack(endian + "II", kind, total) + body + struct.pack(endian + "I", trailer)


def option(code: int, value: bytes, endian: str = "<") -> bytes:
    return struct.pack(endian + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(endian: str = "<", *, major: int = 1, minor: int = 0, options: bytes = b"") -> bytes:
    body = struct.pack(endian + "IHHq", 0x1A2B3C4D, major, minor, -1)
    return block(SECTION, body + options, endian=endian)


def interface(
    linktype: int = ETHERNET,
    *,
    snaplen: int = 0,
    resolution: int | None = None,
    offset_s: int | None = None,
    options: bytes = b"",
    endian: str = "<",
) -> bytes:
    """An interface; `resolution` is the byte of if_tsresol."""
    if resolution is not None:
        options += option(IF_TSRESOL, bytes((resolution,)), endian)
    if offset_s is not None:
        options += option(IF_TSOFFSET, struct.pack(endian + "q", offset_s), endian)
    return block(
        INTERFACE, struct.pack(endian + "HHI", linktype, 0, snaplen) + options, endian=endian
    )


def enhanced(
    ticks: int,
    data: bytes,
    wirelen: int | None = None,
    *,
    number: int = 0,
    caplen: int | None = None,
    options: bytes = b"",
    endian: str = "<",
) -> bytes:
    """An enhanced packet on interface `number`; ticks may be negative."""
    ticks &= (1 << 64) - 1
    caplen = len(data) if caplen is None else caplen
    wirelen = len(data) if wirelen is None else wirelen
    body = struct.pack(endian + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, caplen, wirelen)
    return block(ENHANCED, body + data + bytes(-len(data) % 4) + options, endian=endian)


def obsolete(
    ticks: int, data: bytes, wirelen: int | None = None, *, number: int = 0, endian: str = "<"
) -> bytes:
    """A packet in the block type that the enhanced one replaced."""
    wirelen = len(data) if wirelen is None else wirelen
    fields = (number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wirelen)
    return block(OBSOLETE, struct.pack(endian + "HHIIII", *fields) + data, endian=endian)


def simple(data: bytes, wirelen: int | None = None, *, endian: str = "<") -> bytes:
    """A simple packet: no interface, no time, no captured length."""
    wirelen = len(data) if wirelen is None else wirelen
    return block(SIMPLE, struct.pack(endian + "I", wirelen) + data, endian=endian)


def pcapng(
    records: Iterable[Sequence[object]], linktype: int = ETHERNET, *, endian: str = "<"
) -> bytes:
    """A pcapng capture of (time in ns, data[, wire length]), one section and interface."""
    head = section(endian) + interface(linktype, resolution=9, endian=endian)
    return head + b"".join(enhanced(*record, endian=endian) for record in records)
