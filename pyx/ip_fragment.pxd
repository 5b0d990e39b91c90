# Fragments of IPv4 and IPv6 to datagrams: copied, bounded in every respect, in capture time.
# Linux: net/ipv4/ip_fragment.c, inet_fragment.c, net/ipv6/reassembly.c.
# RFC 791 3.2, RFC 5722, RFC 8200 4.5.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove
from pcap cimport frame
from secure_seq cimport siphash
from snmp cimport (
    IP6_REASMFAILS,
    IP6_REASMOKS,
    IP6_REASMTIMEOUT,
    IP_REASMFAILS,
    IP_REASMOKS,
    IP_REASMOVERLAPS,
    IP_REASMTIMEOUT,
)

cdef enum:
    IPFRAG_HIGH_THRESH = 4 << 20  # bytes of all datagrams under way, as Linux counts by default
    IPFRAG_TIME_S = 30
    IPFRAG_MAX_DATAGRAMS = 4096  # at a time
    IPFRAG_MAX_DIST = 64  # at a time of one source
    IPFRAG_MAX_PIECES = 1024  # of a datagram
    IPFRAG_MAX_LENGTH = 65515  # bytes that any IP header leaves room for
    IPFRAG_TRUESIZE = 128  # what a datagram costs besides its pieces
    IPFRAG_PIECE = 32  # what a piece costs besides its bytes
    IPFRAG_HASHSZ = 1024
    IPFRAG_BATCHES = 3  # batches under way, whose datagrams have to stay

# Whose fragment it is (T-20): also which VLANs and tunnels it came by. Compared as bytes.
cdef struct frag_key:
    uint8_t saddr[16]
    uint8_t daddr[16]
    uint64_t vlans
    uint64_t tunnel
    uint32_t id
    uint8_t proto  # of IPv4; an IPv6 identification serves all
    uint8_t ip
    uint16_t pad

# A run of bytes that lie together in the capture.
cdef struct piece:
    uint32_t offset  # in the datagram
    uint32_t length
    uint32_t at  # where it was put as it came
    uint32_t file  # number of the input
    int64_t source  # offset in the capture

cdef struct datagram:
    frag_key key
    datagram *next  # all that are under way, or all that are done, the oldest first
    datagram *prev
    datagram *chain  # of its bucket, the oldest first
    uint32_t bucket
    int64_t stamp_ns  # when it began
    uint64_t epoch  # the batch that completed it
    uint8_t *data  # in the order in which they came; when it is whole, in its own
    piece *pieces  # in order of offset
    uint32_t used  # bytes here
    uint32_t room
    uint32_t n_pieces
    uint32_t max_pieces
    uint32_t length  # of the whole, as far as one can tell
    uint32_t truesize
    uint8_t last  # its end is here
    uint8_t mixed  # pieces did not come in order
    uint8_t protocol  # what it carries, by its first fragment

cdef struct ip_frags:
    datagram **buckets
    datagram *head  # under way
    datagram *tail
    datagram *done_head  # whole, and kept for the batches that have their segments
    datagram *done_tail
    uint32_t datagrams
    uint32_t mem
    uint32_t file  # number of the input at hand
    int64_t now_ns  # the largest time of a fragment
    uint64_t epoch
    uint64_t key[2]

cdef inline void frag_free(datagram *whole) noexcept nogil:
    free(whole.data)
    free(whole.pieces)
    free(whole)

cdef inline void ip_frags_free(ip_frags *frags) noexcept nogil:
    """Forget all datagrams."""
    cdef datagram *one
    while frags.head != NULL:
        one = frags.head
        frags.head = one.next
        frag_free(one)
    while frags.done_head != NULL:
        one = frags.done_head
        frags.done_head = one.next
        frag_free(one)
    free(frags.buckets)
    frags.buckets = NULL

cdef inline void ip_frags_batch(ip_frags *frags) noexcept nogil:
    """A batch begins: datagrams whose segments no batch holds any more are freed."""
    cdef datagram *one
    frags.epoch += 1
    while frags.done_head != NULL and frags.done_head.epoch + IPFRAG_BATCHES <= frags.epoch:
        one = frags.done_head
        frags.done_head = one.next
        frag_free(one)
    if frags.done_head == NULL:
        frags.done_tail = NULL

cdef inline void frag_unlink(ip_frags *frags, datagram *one) noexcept nogil:
    """Take a datagram out of those that are under way."""
    cdef datagram **at = &frags.buckets[one.bucket]
    while at[0] != one:
        at = &at[0].chain
    at[0] = one.chain
    if one.prev == NULL:
        frags.head = one.next
    else:
        one.prev.next = one.next
    if one.next == NULL:
        frags.tail = one.prev
    else:
        one.next.prev = one.prev
    frags.datagrams -= 1
    frags.mem -= one.truesize

cdef inline void frag_kill(ip_frags *frags, datagram *one, uint64_t *mib) noexcept nogil:
    """Give a datagram up."""
    mib[IP_REASMFAILS if one.key.ip == 4 else IP6_REASMFAILS] += 1
    frag_unlink(frags, one)
    frag_free(one)

cdef inline void frag_expire(ip_frags *frags, uint64_t *mib) noexcept nogil:
    """Give up the datagrams that began too long ago by the capture's clock."""
    while (
        frags.head != NULL
        and <uint64_t>frags.now_ns - <uint64_t>frags.head.stamp_ns
        > <uint64_t>IPFRAG_TIME_S * 1000000000
    ):
        mib[IP_REASMTIMEOUT if frags.head.key.ip == 4 else IP6_REASMTIMEOUT] += 1
        frag_kill(frags, frags.head, mib)

cdef inline datagram *frag_create(
    ip_frags *frags, const frag_key *key, uint32_t bucket
) noexcept nogil:
    """A datagram begins; NULL without memory."""
    cdef datagram *one = <datagram *>calloc(1, sizeof(datagram))
    cdef datagram **at = &frags.buckets[bucket]
    if one == NULL:
        return NULL
    one.key = key[0]
    one.bucket = bucket
    one.stamp_ns = frags.now_ns
    one.truesize = IPFRAG_TRUESIZE
    while at[0] != NULL:
        at = &at[0].chain
    at[0] = one
    one.prev = frags.tail
    if frags.tail == NULL:
        frags.head = one
    else:
        frags.tail.next = one
    frags.tail = one
    frags.datagrams += 1
    frags.mem += one.truesize
    return one

cdef inline datagram *frag_find(
    ip_frags *frags, const frag_key *key, uint64_t *mib
) noexcept nogil:
    """The datagram that a fragment belongs to, maybe a new one; NULL without memory. A source that
    has its share under way loses its oldest (T-07), and so do all when they are too many."""
    cdef uint32_t bucket = siphash(frags.key, key.saddr, 16) % IPFRAG_HASHSZ
    cdef uint32_t share = 0
    cdef datagram *oldest = NULL
    cdef datagram *one
    if frags.buckets == NULL:
        frags.buckets = <datagram **>calloc(IPFRAG_HASHSZ, sizeof(datagram *))
        if frags.buckets == NULL:
            return NULL
    one = frags.buckets[bucket]
    while one != NULL:
        if one.key.ip == key.ip and memcmp(one.key.saddr, key.saddr, 16) == 0:
            if memcmp(&one.key, key, sizeof(frag_key)) == 0:
                return one
            if oldest == NULL:
                oldest = one
            share += 1
        one = one.chain
    if share == IPFRAG_MAX_DIST:
        frag_kill(frags, oldest, mib)
    elif frags.datagrams == IPFRAG_MAX_DATAGRAMS:
        frag_kill(frags, frags.head, mib)
    return frag_create(frags, key, bucket)

cdef inline uint32_t frag_runs(
    const ip_frags *frags,
    const datagram *inside,
    const frame *at,
    const uint8_t *data,
    uint32_t length,
    piece *out,
) noexcept nogil:
    """Where bytes lie in the captures: the runs that they consist of, written to `out` unless that
    is NULL, and how many these are. They lie in a frame, or `inside` a datagram of fragments."""
    cdef uint32_t begin, end, low, high, i, n = 0
    if inside == NULL:
        if out != NULL:
            out.length = length
            out.source = at.offset + (data - at.data)
            out.file = frags.file
        return 1
    begin = <uint32_t>(data - inside.data)
    end = begin + length
    for i in range(inside.n_pieces):
        low = max(begin, inside.pieces[i].offset)
        high = min(end, inside.pieces[i].offset + inside.pieces[i].length)
        if low >= high:
            continue
        if out != NULL:
            out[n].length = high - low
            out[n].source = inside.pieces[i].source + (low - inside.pieces[i].offset)
            out[n].file = inside.pieces[i].file
        n += 1
    return n

cdef inline int frag_reserve(datagram *one, uint32_t length, uint32_t runs) noexcept nogil:
    """Room for so many bytes and runs more; -1 without memory."""
    cdef void *more
    cdef uint32_t room
    if one.used + length > one.room:
        room = max(one.used + length, 2 * one.room)
        more = realloc(one.data, room)
        if more == NULL:
            return -1
        one.data = <uint8_t *>more
        one.room = room
    if one.n_pieces + runs > one.max_pieces:
        room = max(one.n_pieces + runs, 2 * one.max_pieces)
        more = realloc(one.pieces, room * sizeof(piece))
        if more == NULL:
            return -1
        one.pieces = <piece *>more
        one.max_pieces = room
    return 0

cdef inline bint frag_dup(
    const datagram *one, uint32_t i, uint32_t begin, uint32_t end
) noexcept nogil:
    """True if bytes that overlap the i-th piece, and none before, are all here already.

    Linux takes that for a repetition. IPv6 has to abandon the datagram (RFC 5722) unless they
    begin and end where fragments did (RFC 8200 4.5).
    """
    cdef const piece *pieces = one.pieces
    cdef uint32_t to = pieces[i].offset + pieces[i].length
    if pieces[i].offset > begin or (one.key.ip == 6 and pieces[i].offset != begin):
        return False
    i += 1
    while to < end and i < one.n_pieces and pieces[i].offset == to:
        to += pieces[i].length
        i += 1
    return to == end or (to > end and one.key.ip == 4)

cdef inline int frag_queue(
    ip_frags *frags,
    datagram *one,
    const datagram *inside,
    const frame *at,
    const uint8_t *data,
    uint32_t begin,
    uint32_t end,
    bint more,
    uint64_t *mib,
) noexcept nogil:
    """Put bytes `begin` to `end` into their datagram; -1 if that has to be given up."""
    cdef uint32_t low = 0, high, mid, runs, offset, length, cost, i
    cdef piece *fresh
    if end > IPFRAG_MAX_LENGTH:
        return -1
    if more:
        end &= ~<uint32_t>7  # only the last may have an odd length
        if end > one.length:
            if one.last:
                return -1
            one.length = end
    else:
        if end < one.length or (one.last and end != one.length):
            return -1
        one.last = 1
        one.length = end
    if end <= begin:
        return -1
    length = end - begin
    high = one.n_pieces
    while low < high:  # the first piece that ends behind `begin`
        mid = (low + high) // 2
        if one.pieces[mid].offset + one.pieces[mid].length > begin:
            high = mid
        else:
            low = mid + 1
    if low < one.n_pieces and one.pieces[low].offset < end:
        if frag_dup(one, low, begin, end):
            return 0
        if one.key.ip == 4:
            mib[IP_REASMOVERLAPS] += 1
        return -1
    runs = frag_runs(frags, inside, at, data, length, NULL)
    if one.n_pieces + runs > IPFRAG_MAX_PIECES or frag_reserve(one, length, runs):
        return -1
    fresh = one.pieces + low
    memmove(fresh + runs, fresh, (one.n_pieces - low) * sizeof(piece))
    if low < one.n_pieces:
        one.mixed = 1
    frag_runs(frags, inside, at, data, length, fresh)
    offset = begin
    for i in range(runs):
        fresh[i].offset = offset
        fresh[i].at = one.used + (offset - begin)
        offset += fresh[i].length
    memcpy(one.data + one.used, data, length)
    one.n_pieces += runs
    one.used += length
    cost = length + runs * IPFRAG_PIECE
    one.truesize += cost
    frags.mem += cost
    return 0

cdef inline int frag_reasm(ip_frags *frags, datagram *one) noexcept nogil:
    """A datagram is whole: its bytes in order, kept while a batch needs them. -1 without memory."""
    cdef uint8_t *data
    cdef piece *p
    cdef uint32_t i
    if one.mixed:
        data = <uint8_t *>malloc(one.length)
        if data == NULL:
            return -1
        for i in range(one.n_pieces):
            p = &one.pieces[i]
            memcpy(data + p.offset, one.data + p.at, p.length)
        free(one.data)
        one.data = data
    frag_unlink(frags, one)
    one.epoch = frags.epoch
    one.next = NULL
    if frags.done_tail == NULL:
        frags.done_head = one
    else:
        frags.done_tail.next = one
    frags.done_tail = one
    return 0

cdef inline const datagram *ip_defrag(
    ip_frags *frags,
    const frag_key *key,
    const datagram *inside,
    const frame *at,
    const uint8_t *data,
    uint32_t begin,
    uint32_t length,
    bint more,
    uint8_t protocol,
    uint64_t *mib,
) noexcept nogil:
    """Take a fragment, `length` bytes at `data` that belong at `begin`; the datagram if it is
    whole now, else NULL.

    The bytes lie in the frame `at`, or `inside` a datagram that was itself made of fragments.
    """
    cdef datagram *one
    if at.time_ns > frags.now_ns and not at.clamped:
        frags.now_ns = at.time_ns
    frag_expire(frags, mib)
    one = frag_find(frags, key, mib)
    if one == NULL:
        mib[IP_REASMFAILS if key.ip == 4 else IP6_REASMFAILS] += 1
        return NULL
    if begin == 0:
        one.protocol = protocol
    if frag_queue(frags, one, inside, at, data, begin, begin + length, more, mib):
        frag_kill(frags, one, mib)
        return NULL
    if not one.last or one.used != one.length:
        while frags.mem > IPFRAG_HIGH_THRESH:  # the oldest make room, and this one last of all
            frag_kill(frags, frags.head, mib)
        return NULL
    if frag_reasm(frags, one):
        frag_kill(frags, one, mib)
        return NULL
    mib[IP_REASMOKS if key.ip == 4 else IP6_REASMOKS] += 1
    return one
