# Frames of a pcap or pcapng capture that comes piece by piece, as places in the piece.
# Every length is held against a bound and against the bytes there are before it is used (T-23).
# Drafts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from unaligned cimport get_u16, get_u32, get_u64, swab16_if, swab32_if, swab64_if

cdef extern from *:
    """
    /* floor(ticks / resolution) in ns: resolution is 10^e, or 2^e with the top bit set; saturates. */
    static inline int64_t pcap_ticks_to_ns(int64_t ticks, uint8_t resolution, int64_t offset_s, uint8_t *clamped)
    {
        static const int64_t pow10[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
        int e = resolution & 0x7f;
        __int128 ns = ticks;

        if (resolution & 0x80) {
            ns = ns * 1000000000 >> e;
        } else if (e <= 9) {
            ns *= pow10[9 - e];
        } else {
            /* Floor by floor is the floor of the whole; after 19 digits only the sign is left. */
            for (e = e > 9 + 20 ? 20 : e - 9; e > 0; e--)
                ns = ns / 10 - (ns % 10 < 0);
        }
        ns += (__int128)offset_s * 1000000000;
        *clamped = ns < INT64_MIN || ns > INT64_MAX;
        return ns < INT64_MIN ? INT64_MIN : ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
    }
    """
    int64_t pcap_ticks_to_ns(
        int64_t ticks, uint8_t resolution, int64_t offset_s, uint8_t *clamped
    ) noexcept nogil

cdef enum:
    MAX_RECORD = 16 << 20  # bytes captured of one frame
    MAX_BLOCK = MAX_RECORD + 64  # a pcapng block that has to be there whole
    MAX_INTERFACES = 65536  # in one section
    MIN_WANT = 24  # bytes; the largest header of a file or a record
    FILE_HEADER = 24
    SHB = 0x0A0D0D0A  # the same in either byte order
    IDB = 1
    OPB = 2  # the obsolete packet block
    SPB = 3
    EPB = 6
    BLOCK_HEADER = 8
    BLOCK_TRAILER = 4
    BYTE_ORDER_MAGIC = 0x1A2B3C4D
    OPT_ENDOFOPT = 0
    IF_TSRESOL = 9
    IF_TSOFFSET = 14

cdef enum:  # Format
    FMT_NONE = 0
    FMT_PCAP = 1
    FMT_PCAP_NS = 2
    FMT_PCAP_MODIFIED = 3
    FMT_PCAPNG = 4

# What is wrong with a capture; PCAP_REASONS in core has the words.
cdef enum:  # Damage
    DAMAGE_NONE = 0
    NOT_A_CAPTURE = 1
    FILE_HEADER_CUT = 2
    RECORD_HEADER_CUT = 3
    RECORD_CUT = 4
    RECORD_CLAIMS = 5
    BLOCK_HEADER_CUT = 6
    BLOCK_CUT = 7
    BLOCK_CLAIMS = 8
    BLOCK_LENGTHS_DIFFER = 9
    SECTION_NO_MAGIC = 10
    SECTION_VERSION = 11
    TOO_MANY_INTERFACES = 12
    INTERFACE_UNDECLARED = 13
    PACKET_CLAIMS = 14
    NO_MEMORY = 15

cdef struct frame:
    const uint8_t *data
    int64_t offset  # of its data in the capture
    int64_t time_ns
    uint32_t caplen
    uint32_t wirelen
    uint16_t linktype
    uint8_t clamped  # its time did not fit
    uint32_t interface  # its number in this section; 0 in a pcap

# What an interface says of its frames.
cdef struct interface:
    uint16_t linktype
    uint8_t resolution  # if_tsresol
    uint32_t snaplen
    int64_t offset_s

# Where the reader of one input stands.
cdef struct capture:
    int fmt
    bint swapped  # fields are in the other byte order
    interface *interfaces  # of this section
    uint32_t n_interfaces
    uint32_t max_interfaces
    uint64_t repaired  # packets whose length on the wire was below what was captured
    uint16_t *linktypes  # of the whole input, in order of appearance
    uint32_t n_linktypes
    uint8_t *seen_linktypes  # one bit each
    uint32_t record  # bytes of a record header
    uint32_t scale  # ns of a unit of its fraction
    int64_t offset  # of the next unread byte in the input
    int64_t block  # offset of the unknown block that is being passed
    uint32_t total  # its length
    uint32_t skip  # bytes of it to go
    uint32_t want  # bytes that have to be there for the reader to go on
    int damage  # Damage
    int64_t damage_offset
    uint32_t damage_value


cdef inline int pcap_open(capture *cap) noexcept nogil:
    """Begin an input; -1 without memory."""
    pcap_close(cap)
    memset(cap, 0, sizeof(capture))
    cap.want = MIN_WANT
    cap.linktypes = <uint16_t *>calloc(65536, sizeof(uint16_t))
    cap.seen_linktypes = <uint8_t *>calloc(65536 // 8, 1)
    if cap.linktypes == NULL or cap.seen_linktypes == NULL:
        pcap_damage(cap, 0, NO_MEMORY, 0)  # so nothing is read
        return -1
    return 0


cdef inline void pcap_close(capture *cap) noexcept nogil:
    free(cap.interfaces)
    free(cap.linktypes)
    free(cap.seen_linktypes)
    cap.interfaces = NULL
    cap.linktypes = NULL
    cap.seen_linktypes = NULL


cdef inline int pcap_damage(
    capture *cap, int64_t offset, int damage, uint32_t value
) noexcept nogil:
    cap.damage = damage
    cap.damage_offset = offset
    cap.damage_value = value
    return damage


cdef inline uint32_t pcap_index(
    capture *cap, const uint8_t *data, uint32_t length, frame *frames, int limit, int *found
) noexcept nogil:
    """Find up to `limit` next frames, the same ones however the input is cut into pieces.

    `data` begins at `cap.offset`; at damage `cap.damage` is set and nothing more is read. Returns
    the bytes read, to be left out of the next piece.
    """
    cdef uint32_t consumed
    found[0] = 0
    if cap.fmt == FMT_NONE:
        recognise(cap, data, length)
    if cap.fmt == FMT_NONE or cap.damage:
        return 0
    cap.want = MIN_WANT
    if cap.fmt == FMT_PCAPNG:
        consumed = index_blocks(cap, data, length, frames, limit, found)
    else:
        consumed = index_records(cap, data, length, frames, limit, found)
    cap.offset += consumed
    return consumed


cdef inline void pcap_end(capture *cap, uint32_t left) noexcept nogil:
    """Take note that the input is at its end with `left` bytes that `pcap_index` did not read."""
    if cap.damage:
        return
    if cap.fmt == FMT_NONE:
        pcap_damage(cap, 0, NOT_A_CAPTURE, 0)
    elif cap.skip:
        pcap_damage(cap, cap.block, BLOCK_CUT, 0)
    elif left and cap.fmt == FMT_PCAPNG:
        pcap_damage(cap, cap.offset, BLOCK_CUT if left >= BLOCK_HEADER else BLOCK_HEADER_CUT, 0)
    elif left and not cap.offset:
        pcap_damage(cap, 0, FILE_HEADER_CUT, 0)
    elif left:
        pcap_damage(cap, cap.offset, RECORD_CUT if left >= cap.record else RECORD_HEADER_CUT, 0)


cdef inline void recognise(capture *cap, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef uint32_t magic
    if length < 4:
        return
    magic = get_u32(data)
    if magic == SHB:
        if length < 12:
            return
        magic = get_u32(data + 8)
        if magic == BYTE_ORDER_MAGIC or magic == swab32_if(True, BYTE_ORDER_MAGIC):
            cap.fmt = FMT_PCAPNG
            return
    else:
        cap.swapped = (magic >> 16) != 0xA1B2
        magic = swab32_if(cap.swapped, magic)
        cap.record = 16
        cap.scale = 1000
        if magic == <uint32_t>0xA1B2C3D4:
            cap.fmt = FMT_PCAP
            return
        if magic == <uint32_t>0xA1B23C4D:
            cap.fmt = FMT_PCAP_NS
            cap.scale = 1
            return
        if magic == <uint32_t>0xA1B2CD34:
            cap.fmt = FMT_PCAP_MODIFIED
            cap.record = 24
            return
    pcap_damage(cap, 0, NOT_A_CAPTURE, 0)


cdef inline int declare(
    capture *cap, uint32_t linktype, uint32_t snaplen, uint8_t resolution, int64_t offset_s
) noexcept nogil:
    """Add an interface; -1 without memory."""
    cdef interface *more
    if cap.n_interfaces == cap.max_interfaces:
        more = <interface *>realloc(
            cap.interfaces, (cap.max_interfaces * 2 + 8) * sizeof(interface)
        )
        if more == NULL:
            return -1
        cap.interfaces = more
        cap.max_interfaces = cap.max_interfaces * 2 + 8
    linktype &= 0xFFFF  # above it: length of the frame check sequence
    cap.interfaces[cap.n_interfaces].linktype = linktype
    cap.interfaces[cap.n_interfaces].snaplen = snaplen
    cap.interfaces[cap.n_interfaces].resolution = resolution
    cap.interfaces[cap.n_interfaces].offset_s = offset_s
    cap.n_interfaces += 1
    if not cap.seen_linktypes[linktype >> 3] & (1 << (linktype & 7)):
        cap.seen_linktypes[linktype >> 3] |= 1 << (linktype & 7)
        cap.linktypes[cap.n_linktypes] = linktype
        cap.n_linktypes += 1
    return 0


cdef inline uint32_t index_records(
    capture *cap, const uint8_t *data, uint32_t length, frame *frames, int limit, int *found
) noexcept nogil:
    """Index pcap records."""
    cdef uint32_t pos = 0, caplen, wirelen
    cdef uint32_t header = cap.record, scale = cap.scale
    cdef bint swapped = cap.swapped
    cdef uint16_t linktype
    cdef frame *at
    cdef int n = 0, repaired = 0
    if not cap.offset:
        if length < FILE_HEADER:
            return 0
        if declare(
            cap,
            swab32_if(swapped, get_u32(data + 20)),
            swab32_if(swapped, get_u32(data + 16)),
            0,
            0,
        ):
            pcap_damage(cap, 0, NO_MEMORY, 0)
            return 0
        pos = FILE_HEADER
    linktype = cap.interfaces[0].linktype
    while n < limit and header <= length - pos:
        caplen = swab32_if(swapped, get_u32(data + pos + 8))
        wirelen = swab32_if(swapped, get_u32(data + pos + 12))
        if caplen > length - pos - header:
            if caplen > MAX_RECORD:
                pcap_damage(cap, cap.offset + pos, RECORD_CLAIMS, caplen)
            else:
                cap.want = max(header + caplen, <uint32_t>MIN_WANT)
            break
        if caplen > MAX_RECORD:
            pcap_damage(cap, cap.offset + pos, RECORD_CLAIMS, caplen)
            break
        at = &frames[n]
        at.time_ns = (
            <int64_t>swab32_if(swapped, get_u32(data + pos)) * 1000000000
            + <int64_t>swab32_if(swapped, get_u32(data + pos + 4)) * scale
        )
        pos += header
        at.data = data + pos
        at.offset = cap.offset + pos
        at.caplen = caplen
        at.wirelen = max(caplen, wirelen)
        at.linktype = linktype
        at.clamped = 0
        at.interface = 0
        repaired += caplen > wirelen
        n += 1
        pos += caplen
    cap.repaired += repaired
    found[0] = n
    return pos


cdef inline uint32_t min_block(uint32_t kind) noexcept nogil:
    """The least that a block which is read can be; 0 for all others, which are passed over."""
    if kind == EPB or kind == OPB:
        return 32
    if kind == IDB:
        return 20
    if kind == SPB:
        return 16
    return 28 if kind == SHB else 0


cdef inline uint32_t index_blocks(
    capture *cap, const uint8_t *data, uint32_t length, frame *frames, int limit, int *found
) noexcept nogil:
    """Index pcapng blocks."""
    cdef uint32_t pos = 0, room, kind, total, known
    while found[0] < limit:
        if cap.skip:
            pos += pass_block(cap, data + pos, length - pos)
            if cap.skip or cap.damage:
                break
            continue
        room = length - pos
        if room < BLOCK_HEADER:
            break
        kind = swab32_if(cap.swapped, get_u32(data + pos))
        if kind == SHB:
            if room < BLOCK_HEADER + 4:
                break
            if get_u32(data + pos + 8) == BYTE_ORDER_MAGIC:
                cap.swapped = False
            elif get_u32(data + pos + 8) == swab32_if(True, BYTE_ORDER_MAGIC):
                cap.swapped = True
            else:
                pcap_damage(cap, cap.offset + pos, SECTION_NO_MAGIC, 0)
                break
        total = swab32_if(cap.swapped, get_u32(data + pos + 4))
        known = min_block(kind)
        if total < (known if known else BLOCK_HEADER + BLOCK_TRAILER) or total % 4:
            pcap_damage(cap, cap.offset + pos, BLOCK_CLAIMS, total)
            break
        if not known:
            cap.block = cap.offset + pos
            cap.total = total
            cap.skip = total - BLOCK_HEADER
            pos += BLOCK_HEADER
            continue
        if total > MAX_BLOCK:
            pcap_damage(cap, cap.offset + pos, BLOCK_CLAIMS, total)
            break
        if room < total:
            cap.want = max(total, <uint32_t>MIN_WANT)
            break
        if read_block(cap, data + pos, kind, total, pos, &frames[found[0]], found):
            break
        pos += total
    return pos


cdef inline uint32_t pass_block(capture *cap, const uint8_t *data, uint32_t room) noexcept nogil:
    """Go on passing an unknown block; its last four bytes have to repeat its length."""
    cdef uint32_t body = min(cap.skip - BLOCK_TRAILER, room)
    cap.skip -= body
    if cap.skip > BLOCK_TRAILER or room - body < BLOCK_TRAILER:
        return body
    if swab32_if(cap.swapped, get_u32(data + body)) != cap.total:
        pcap_damage(cap, cap.block, BLOCK_LENGTHS_DIFFER, 0)
        return body
    cap.skip = 0
    return body + BLOCK_TRAILER


cdef inline int read_block(
    capture *cap,
    const uint8_t *data,
    uint32_t kind,
    uint32_t total,
    uint32_t pos,
    frame *at,
    int *found,
) noexcept nogil:
    """Read one whole block of a known kind, `pos` bytes into the piece: Damage."""
    cdef bint swapped = cap.swapped
    cdef int64_t offset = cap.offset + pos
    cdef uint32_t number, caplen, wirelen, start, room
    cdef uint64_t ticks = 0
    cdef interface *port
    if swab32_if(swapped, get_u32(data + total - BLOCK_TRAILER)) != total:
        return pcap_damage(cap, offset, BLOCK_LENGTHS_DIFFER, 0)
    if kind == SHB:
        if swab16_if(swapped, get_u16(data + 12)) != 1:
            return pcap_damage(
                cap, offset, SECTION_VERSION, swab16_if(swapped, get_u16(data + 12))
            )
        cap.n_interfaces = 0
        return 0
    if kind == IDB:
        return read_interface(cap, data, total, offset)
    if kind == SPB:
        number = 0
        wirelen = swab32_if(swapped, get_u32(data + 8))
        caplen = wirelen
        start = 12
    else:
        number = swab32_if(swapped, get_u32(data + 8))
        if kind == OPB:
            number = swab16_if(swapped, get_u16(data + 8))
        ticks = <uint64_t>swab32_if(swapped, get_u32(data + 12)) << 32
        ticks |= swab32_if(swapped, get_u32(data + 16))
        caplen = swab32_if(swapped, get_u32(data + 20))
        wirelen = swab32_if(swapped, get_u32(data + 24))
        start = 28
    if number >= cap.n_interfaces:
        return pcap_damage(cap, offset, INTERFACE_UNDECLARED, number)
    port = &cap.interfaces[number]
    room = total - BLOCK_TRAILER - start
    if kind == SPB and port.snaplen:
        caplen = min(caplen, port.snaplen)
    if caplen > room or caplen > MAX_RECORD:
        return pcap_damage(cap, offset, PACKET_CLAIMS, caplen)
    at.clamped = 0
    if kind == SPB:
        at.time_ns = 0
    else:
        at.time_ns = pcap_ticks_to_ns(<int64_t>ticks, port.resolution, port.offset_s, &at.clamped)
    at.data = data + start
    at.offset = offset + start
    at.caplen = caplen
    at.wirelen = max(caplen, wirelen)
    at.linktype = port.linktype
    at.interface = number
    cap.repaired += caplen > wirelen
    found[0] += 1
    return 0


cdef inline int read_interface(
    capture *cap, const uint8_t *data, uint32_t total, int64_t offset
) noexcept nogil:
    """Read an interface description block: Damage."""
    cdef uint32_t pos = 16, stop = total - BLOCK_TRAILER
    cdef uint16_t code, size
    cdef uint8_t resolution = 6
    cdef int64_t offset_s = 0
    if cap.n_interfaces == MAX_INTERFACES:
        return pcap_damage(cap, offset, TOO_MANY_INTERFACES, 0)
    while pos + 4 <= stop:
        code = swab16_if(cap.swapped, get_u16(data + pos))
        size = swab16_if(cap.swapped, get_u16(data + pos + 2))
        pos += 4
        if code == OPT_ENDOFOPT or pos + size > stop:
            break
        if code == IF_TSRESOL and size == 1:
            resolution = data[pos]
        elif code == IF_TSOFFSET and size == 8:
            offset_s = <int64_t>swab64_if(cap.swapped, get_u64(data + pos))
        pos += (size + 3) & ~3
    if declare(
        cap,
        swab16_if(cap.swapped, get_u16(data + 8)),
        swab32_if(cap.swapped, get_u32(data + 12)),
        resolution,
        offset_s,
    ):
        return pcap_damage(cap, offset, NO_MEMORY, 0)
    return 0
