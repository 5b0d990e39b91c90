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


def fragments(ip: bytes, *cuts: int, number: int = 7) -> list[bytes]:
    """A packet in fragments, cut at these offsets of what it carries."""
    six = ip[0] >> 4 == 6
    size = 40 if six else max((ip[0] & 15) * 4, 20)
    head, body = ip[:size], ip[size:]
    pieces = []
    for begin, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        more = end < len(body)
        pieces.append(fragment(head, body[begin:end], begin, more, number=number))
    return pieces


def fragment(head: bytes, data: bytes, begin: int, more: bool, *, number: int = 7) -> bytes:
    """One fragment of the packet whose header this is: `data` at offset `begin`."""
    if head[0] >> 4 == 6:
        field = struct.pack(">BBHI", head[6], 0, begin | more, number)
        return head[:4] + struct.pack(">HB", 8 + len(data), 44) + head[7:40] + field + data
    out = bytearray(head)
    out[2:4] = struct.pack(">H", len(head) + len(data))
    out[4:8] = struct.pack(">HH", number & 0xFFFF, begin // 8 | more << 13)
    out[10:12] = bytes(2)
    out[10:12] = struct.pack(">H", checksum(bytes(out)))
    return bytes(out) + data


# ---- tunnels ------------------------------------------------------------------------------------


def frame_of(ip: bytes) -> bytes:
    """An IP packet in an Ethernet frame."""
    return ethernet(ip, 0x86DD if ip[0] >> 4 == 6 else 0x0800)


def udp(data: bytes, sport: int, dport: int, length: int | None = None) -> bytes:
    length = 8 + len(data) if length is None else length
    return struct.pack(">HHHH", sport, dport, length, 0) + data


def gre(protocol: int, data: bytes, flags: int = 0, fields: bytes = b"") -> bytes:
    return struct.pack(">HH", flags, protocol) + fields + data


def mpls(data: bytes, *labels: int) -> bytes:
    """Labels before data, the last of them marked as the bottom of the stack."""
    words = [label << 12 | 64 for label in labels]
    words[-1] |= 0x100
    return struct.pack(f">{len(words)}I", *words) + data


def ppp(ip: bytes) -> bytes:
    return (b"\0\x57" if ip[0] >> 4 == 6 else b"\0\x21") + ip


def pppoe(data: bytes, session: int = 1) -> bytes:
    return struct.pack(">BBHH", 0x11, 0, session, len(data)) + data


def vxlan(frame: bytes, vni: int = 5) -> bytes:
    return struct.pack(">II", 0x08000000, vni << 8) + frame


def geneve(data: bytes, protocol: int, options: bytes = b"", vni: int = 5) -> bytes:
    return struct.pack(">BBHI", len(options) // 4, 0, protocol, vni << 8) + options + data


def gtpu(ip: bytes, flags: int = 0x30, fields: bytes = b"", teid: int = 9) -> bytes:
    return struct.pack(">BBHI", flags, 255, len(fields) + len(ip), teid) + fields + ip


def snap(protocol: int, data: bytes) -> bytes:
    """An 802.3 frame: a length, LLC, SNAP with an EtherType."""
    body = b"\xaa\xaa\x03\0\0\0" + struct.pack(">H", protocol) + data
    return ethernet(body, len(body))


def tunnels(ip: bytes) -> dict[str, bytes]:
    """The same packet in every kind of tunnel, as Ethernet frames."""
    kind = 0x86DD if ip[0] >> 4 == 6 else 0x0800
    frame = frame_of(ip)

    def carried(data: bytes, proto: int) -> bytes:
        return frame_of(ipv4(data, "192.0.2.1", "192.0.2.2", proto=proto))

    found = {
        "MPLS": ethernet(mpls(ip, 100, 200), 0x8847),
        "MPLS multicast": ethernet(mpls(ip, 100), 0x8848),
        "MPLS pseudowire": ethernet(mpls(frame, 100), 0x8847),
        "MPLS control word": ethernet(mpls(bytes(4) + frame, 100), 0x8847),
        "MPLS in IP": carried(mpls(ip, 100), 137),
        "PPPoE": ethernet(pppoe(ppp(ip)), 0x8864),
        "SNAP": snap(kind, ip),
        "GRE": carried(gre(kind, ip), 47),
        "GRE checksum": carried(gre(kind, ip, 0x8000, bytes(4)), 47),
        "GRE all": carried(gre(kind, ip, 0xB000, bytes(12)), 47),
        "GRE routes": carried(gre(kind, ip, 0x4000, bytes(4) + b"\x08\0\0\x04abcd" + bytes(4)), 47),
        "GRE Ethernet": carried(gre(0x6558, frame), 47),
        "GRE MPLS": carried(gre(0x8847, mpls(ip, 9)), 47),
        "GRE VLAN": carried(gre(0x8100, struct.pack(">HH", 5, kind) + ip), 47),
        "PPTP": carried(
            gre(0x880B, ppp(ip), 0x3081, struct.pack(">HHII", 2 + len(ip), 5, 1, 1)), 47
        ),
        "ERSPAN I": carried(gre(0x88BE, frame), 47),
        "ERSPAN II": carried(
            gre(0x88BE, struct.pack(">II", 1 << 28, 0) + frame, 0x1000, bytes(4)), 47
        ),
        "ERSPAN III": carried(
            gre(0x22EB, struct.pack(">IIHHQ", 2 << 28, 0, 0, 1, 0) + frame, 0x1000, bytes(4)), 47
        ),
        "ERSPAN III IP": carried(
            gre(0x22EB, struct.pack(">IIHH", 2 << 28, 0, 0, 2 << 10) + ip, 0x1000, bytes(4)), 47
        ),
        "IP in IP": carried(ip, 41 if kind == 0x86DD else 4),
        "VXLAN": carried(udp(vxlan(frame), 50000, 4789), 17),
        "GENEVE": carried(udp(geneve(ip, kind), 50000, 6081), 17),
        "GENEVE Ethernet": carried(udp(geneve(frame, 0x6558, bytes(8)), 50000, 6081), 17),
        "GTP-U": carried(udp(gtpu(ip), 2152, 2152), 17),
        "GTP-U number": carried(udp(gtpu(ip, 0x32, bytes(4)), 2152, 2152), 17),
        "GTP-U extensions": carried(
            udp(gtpu(ip, 0x34, b"\0\0\0\x85\x01\x10\x01\xc0\x01\0\0\0"), 2152, 2152), 17
        ),
    }
    if kind == 0x86DD:
        found |= {
            "Teredo": carried(udp(ip, 50000, 3544), 17),
            "Teredo origin": carried(udp(bytes(8) + ip, 3544, 50000), 17),
            "Teredo all": carried(
                udp(b"\0\x01\x02\x03" + bytes(14) + bytes(8) + ip, 50000, 3544), 17
            ),
        }
    return found


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
