"""Frames of a pcap or pcapng capture that comes piece by piece, as offsets into the piece.

Every length is held against a bound and against the bytes there are before it is used (T-23).
Drafts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

from struct import Struct

Buffer = bytes | bytearray | memoryview

# A frame: index of its data in the piece, offset of its data in the capture, captured length,
# length on the wire, time in ns, link type, True if the time did not fit 64-bit nanoseconds, number
# of the interface in its section.
Frame = tuple[int, int, int, int, int, int, bool, int]

MAX_RECORD = 16 << 20  # bytes captured of one frame
MAX_BLOCK = MAX_RECORD + 64  # a pcapng block that has to be there whole
MAX_INTERFACES = 65536  # in one section
MIN_WANT = 24  # bytes; the largest header of a file or a record

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1
NSEC_PER_SEC = 1_000_000_000

FILE_HEADER = 24
# Magic in either byte order: format, swapped, ticks a second, bytes of a record header.
MAGICS = {
    order(magic): (fmt, swapped, resolution, size)
    for magic, fmt, resolution, size in (
        ("a1b2c3d4", "pcap", 1_000_000, 16),
        ("a1b23c4d", "pcap-ns", NSEC_PER_SEC, 16),
        ("a1b2cd34", "pcap-modified", 1_000_000, 24),
    )
    for swapped, order in ((True, bytes.fromhex), (False, lambda s: bytes.fromhex(s)[::-1]))
}

SHB = 0x0A0D0D0A  # the same in either byte order
IDB = 1
OPB = 2  # the obsolete packet block
SPB = 3
EPB = 6
BLOCK_HEADER = 8
BLOCK_TRAILER = 4
# The blocks that are read, and the least each can be; all others are passed over.
MIN_BLOCK = {SHB: 28, IDB: 20, OPB: 32, SPB: 16, EPB: 32}
SHB_MAGIC = bytes.fromhex("0a0d0d0a")
BYTE_ORDER_MAGIC = {bytes.fromhex("1a2b3c4d"): True, bytes.fromhex("4d3c2b1a"): False}
OPT_ENDOFOPT = 0
IF_TSRESOL = 9
IF_TSOFFSET = 14

NOT_A_CAPTURE = "not a pcap or pcapng capture"


class _Layout:
    """The structures of both formats in one byte order."""

    def __init__(self, order: str) -> None:
        self.word = Struct(order + "I")
        self.pair = Struct(order + "II")
        self.record = Struct(order + "IIII")  # seconds, fraction, captured and wire length
        self.version = Struct(order + "H")
        self.interface = Struct(order + "HxxI")  # link type, snaplen
        self.option = Struct(order + "HH")
        self.int64 = Struct(order + "q")
        self.enhanced = Struct(order + "IIIII")  # interface, time high and low, lengths
        self.obsolete = Struct(order + "HxxIIII")


_LAYOUTS = {False: _Layout("<"), True: _Layout(">")}


class Interface:
    """What an interface says of its frames."""

    __slots__ = ("linktype", "snaplen", "resolution", "offset_ns")

    def __init__(self, linktype: int, snaplen: int, resolution: int, offset_ns: int) -> None:
        self.linktype = linktype
        self.snaplen = snaplen
        self.resolution = resolution  # ticks a second
        self.offset_ns = offset_ns


class Capture:
    """Where the reader of one input stands."""

    __slots__ = (
        "fmt",
        "swapped",
        "interfaces",
        "linktypes",
        "record",
        "offset",
        "block",
        "total",
        "skip",
        "want",
        "error",
        "repaired",
    )

    def __init__(self) -> None:
        self.fmt = ""  # 'pcap', 'pcap-ns', 'pcap-modified', 'pcapng', '' not known
        self.swapped = False  # fields are big-endian
        self.interfaces: list[Interface] = []  # of this section
        self.linktypes: dict[int, None] = {}  # of the whole input, in order of appearance
        self.record = 0  # bytes of a record header
        self.offset = 0  # of the next unread byte in the input
        self.block = 0  # offset of the unknown block that is being passed
        self.total = 0  # its length
        self.skip = 0  # bytes of it to go
        self.want = MIN_WANT  # bytes that have to be there for the reader to go on
        self.error: tuple[int, str] | None = None  # offset in the input, reason
        self.repaired = 0  # packets whose length on the wire was below what was captured


def pcap_index(cap: Capture, data: Buffer, length: int, limit: int) -> tuple[int, list[Frame]]:
    """Find the next frames; the same ones however the input is cut into pieces.

    Parameters
    ----------
    cap : Capture, where the reader stands; at damage `error` is set and nothing more is read
    data : buffer of bytes; its first is the one at `cap.offset`
    length : int, bytes of it to read
    limit : int, frames to find at most

    Returns
    -------
    int : bytes read, to be left out of the next piece
    list of Frame
    """
    frames: list[Frame] = []
    if not cap.fmt:
        recognise(cap, data, length)
    if not cap.fmt or cap.error is not None:
        return 0, frames
    cap.want = MIN_WANT
    if cap.fmt == "pcapng":
        consumed = index_blocks(cap, data, length, limit, frames)
    else:
        consumed = index_records(cap, data, length, limit, frames)
    cap.offset += consumed
    return consumed, frames


def pcap_end(cap: Capture, left: int) -> None:
    """Take note that the input is at its end with `left` bytes that `pcap_index` did not read."""
    if cap.error is not None:
        return
    if not cap.fmt:
        cap.error = (0, NOT_A_CAPTURE)
    elif cap.skip:
        cap.error = (cap.block, "block is cut")
    elif left and cap.fmt == "pcapng":
        cap.error = (cap.offset, "block is cut" if left >= BLOCK_HEADER else "block header is cut")
    elif left and not cap.offset:
        cap.error = (0, "file header is cut")
    elif left:
        cap.error = (cap.offset, "record is cut" if left >= cap.record else "record header is cut")


def pcap_peek(data: Buffer, length: int) -> tuple[str, int | None]:
    """Name the format of an input by its first bytes, and the time of its first frame in ns.

    The format is '' for what is no capture, the time None where the bytes hold no whole frame.
    """
    cap = Capture()
    _, frames = pcap_index(cap, data, length, 1)
    return cap.fmt, frames[0][4] if frames else None


def recognise(cap: Capture, data: Buffer, length: int) -> None:
    if length < 4:
        return
    magic = bytes(data[:4])
    if magic == SHB_MAGIC:
        if length < 12:
            return
        if bytes(data[8:12]) in BYTE_ORDER_MAGIC:
            cap.fmt = "pcapng"
            return
    elif magic in MAGICS:
        cap.fmt, cap.swapped, resolution, cap.record = MAGICS[magic]
        cap.interfaces.append(Interface(0, 0, resolution, 0))
        return
    cap.error = (0, NOT_A_CAPTURE)


def index_records(cap: Capture, data: Buffer, length: int, limit: int, frames: list[Frame]) -> int:
    """Index pcap records."""
    layout = _LAYOUTS[cap.swapped]
    interface = cap.interfaces[0]
    pos = 0
    if not cap.offset:
        if length < FILE_HEADER:
            return 0
        interface.snaplen, network = layout.pair.unpack_from(data, 16)
        interface.linktype = network & 0xFFFF  # above it: length of the frame check sequence
        cap.linktypes[interface.linktype] = None
        pos = FILE_HEADER
    unpack = layout.record.unpack_from
    header = cap.record
    linktype = interface.linktype
    scale = NSEC_PER_SEC // interface.resolution
    offset = cap.offset
    while len(frames) < limit and pos + header <= length:
        sec, fraction, caplen, wirelen = unpack(data, pos)
        if caplen > MAX_RECORD:
            cap.error = (offset + pos, f"record claims {caplen} bytes")
            break
        start = pos + header
        if start + caplen > length:
            cap.want = max(header + caplen, MIN_WANT)
            break
        if caplen > wirelen:
            wirelen = caplen
            cap.repaired += 1
        time_ns = sec * NSEC_PER_SEC + fraction * scale
        frames.append((start, offset + start, caplen, wirelen, time_ns, linktype, False, 0))
        pos = start + caplen
    return pos


def index_blocks(cap: Capture, data: Buffer, length: int, limit: int, frames: list[Frame]) -> int:
    """Index pcapng blocks."""
    pos = 0
    while len(frames) < limit:
        if cap.skip:
            pos += pass_block(cap, data, pos, length)
            if cap.skip or cap.error is not None:
                break
            continue
        room = length - pos
        if room < BLOCK_HEADER:
            break
        kind, total = _LAYOUTS[cap.swapped].pair.unpack_from(data, pos)
        if kind == SHB:
            if room < BLOCK_HEADER + 4:
                break
            magic = bytes(data[pos + 8 : pos + 12])
            if magic not in BYTE_ORDER_MAGIC:
                cap.error = (cap.offset + pos, "section has no byte-order magic")
                break
            cap.swapped = BYTE_ORDER_MAGIC[magic]
            (total,) = _LAYOUTS[cap.swapped].word.unpack_from(data, pos + 4)
        known = kind in MIN_BLOCK
        if total < MIN_BLOCK.get(kind, BLOCK_HEADER + BLOCK_TRAILER) or total % 4:
            cap.error = (cap.offset + pos, f"block claims {total} bytes")
            break
        if not known:
            cap.block = cap.offset + pos
            cap.total = total
            cap.skip = total - BLOCK_HEADER
            pos += BLOCK_HEADER
            continue
        if total > MAX_BLOCK:
            cap.error = (cap.offset + pos, f"block claims {total} bytes")
            break
        if room < total:
            cap.want = max(total, MIN_WANT)
            break
        reason = read_block(cap, data, pos, kind, total, frames)
        if reason:
            cap.error = (cap.offset + pos, reason)
            break
        pos += total
    return pos


def pass_block(cap: Capture, data: Buffer, pos: int, length: int) -> int:
    """Go on passing an unknown block; its last four bytes have to repeat its length."""
    body = min(cap.skip - BLOCK_TRAILER, length - pos)
    cap.skip -= body
    pos += body
    if cap.skip > BLOCK_TRAILER or length - pos < BLOCK_TRAILER:
        return body
    if _LAYOUTS[cap.swapped].word.unpack_from(data, pos)[0] != cap.total:
        cap.error = (cap.block, "block lengths differ")
        return body
    cap.skip = 0
    return body + BLOCK_TRAILER


def read_block(
    cap: Capture, data: Buffer, pos: int, kind: int, total: int, frames: list[Frame]
) -> str:
    """Read one whole block of a known kind: what is wrong with it, or nothing."""
    body = pos + BLOCK_HEADER
    end = pos + total - BLOCK_TRAILER
    if _LAYOUTS[cap.swapped].word.unpack_from(data, end)[0] != total:
        return "block lengths differ"
    if kind == SHB:
        return read_section(cap, data, body)
    if kind == IDB:
        return read_interface(cap, data, body, end)
    return read_packet(cap, data, body, end, kind, frames)


def read_section(cap: Capture, data: Buffer, body: int) -> str:
    (major,) = _LAYOUTS[cap.swapped].version.unpack_from(data, body + 4)
    if major != 1:
        return f"section is of version {major}"
    cap.interfaces = []
    return ""


def read_interface(cap: Capture, data: Buffer, body: int, end: int) -> str:
    if len(cap.interfaces) == MAX_INTERFACES:
        return f"section has more than {MAX_INTERFACES} interfaces"
    layout = _LAYOUTS[cap.swapped]
    linktype, snaplen = layout.interface.unpack_from(data, body)
    interface = Interface(linktype, snaplen, 1_000_000, 0)
    cap.interfaces.append(interface)
    cap.linktypes[linktype] = None
    pos = body + 8
    while pos + 4 <= end:
        code, size = layout.option.unpack_from(data, pos)
        pos += 4
        if code == OPT_ENDOFOPT or pos + size > end:
            break
        if code == IF_TSRESOL and size == 1:
            exponent = data[pos] & 0x7F
            interface.resolution = 1 << exponent if data[pos] & 0x80 else 10**exponent
        elif code == IF_TSOFFSET and size == 8:
            interface.offset_ns = layout.int64.unpack_from(data, pos)[0] * NSEC_PER_SEC
        pos += (size + 3) & ~3
    return ""


def read_packet(
    cap: Capture, data: Buffer, body: int, end: int, kind: int, frames: list[Frame]
) -> str:
    layout = _LAYOUTS[cap.swapped]
    if kind == SPB:
        number = high = low = 0
        (wirelen,) = layout.word.unpack_from(data, body)
        start = body + 4
        caplen = wirelen
    else:
        fields = layout.enhanced if kind == EPB else layout.obsolete
        number, high, low, caplen, wirelen = fields.unpack_from(data, body)
        start = body + 20
    if number >= len(cap.interfaces):
        return f"packet of interface {number}, which is not declared"
    interface = cap.interfaces[number]
    if kind == SPB:
        caplen = min(caplen, interface.snaplen or caplen)
        time_ns, clamped = 0, False  # a simple packet has no time
    else:
        time_ns, clamped = pcap_ticks_to_ns(high << 32 | low, interface)
    if caplen > min(end - start, MAX_RECORD):
        return f"packet claims {caplen} bytes"
    if wirelen < caplen:
        wirelen = caplen
        cap.repaired += 1
    offset = cap.offset + start
    linktype = interface.linktype
    frames.append((start, offset, caplen, wirelen, time_ns, linktype, clamped, number))
    return ""


def pcap_ticks_to_ns(ticks: int, interface: Interface) -> tuple[int, bool]:
    """Turn 64 bits of ticks, signed, into ns: (rounded down and saturated, True if it was)."""
    if ticks > INT64_MAX:
        ticks -= 1 << 64
    time_ns = ticks * NSEC_PER_SEC // interface.resolution + interface.offset_ns
    clamped = min(max(time_ns, INT64_MIN), INT64_MAX)
    return clamped, clamped != time_ns
