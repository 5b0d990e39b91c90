# The table of connections: open addressing over (tag, flow) slots, one line a look-up as a rule.
# Linux: net/ipv4/inet_hashtables.c.  RFC 9293 3.4 (a connection is a pair of sockets).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from secure_seq cimport SIPHASH_WORDS, siphash
from slab cimport vfree, vzalloc
from tcp cimport flow, flow_addrs, segment
from unaligned cimport cpu_to_be32, get_be64, get_u32, get_u64

cdef enum:
    TABLE_MIN_SHIFT = 12  # log2 of the slots at first

# The tag is the hash's upper half. A flow's home is the tag's upper bits, so the table in order of
# slots is (nearly) in order of tags and doubling it is one pass over both, without a random access.
cdef struct slot:
    uint32_t tag
    uint32_t flow  # its index + 1; 0 is a free slot

cdef struct flow_table:
    slot *slots
    uint32_t shift  # log2 of the slots
    uint32_t used


cdef inline void flow_words(
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
    uint64_t *words,
    int stride,
) noexcept nogil:
    """The five words that SipHash takes of a 4-tuple, the same for both directions."""
    cdef uint64_t s = get_be64(saddr), d = get_be64(daddr)
    cdef bint swap
    if s == d:
        s = get_be64(saddr + 8)
        d = get_be64(daddr + 8)
    swap = s > d or (s == d and sport > dport)
    words[0] = get_u64(daddr if swap else saddr)
    words[stride] = get_u64((daddr if swap else saddr) + 8)
    words[2 * stride] = get_u64(saddr if swap else daddr)
    words[3 * stride] = get_u64((saddr if swap else daddr) + 8)
    if swap:
        sport, dport = dport, sport
    # The ports as they lie in memory, in network order; the length goes on top.
    words[4 * stride] = <uint64_t>36 << 56 | cpu_to_be32(<uint32_t>sport << 16 | dport)


cdef inline bint same_addr(const uint8_t *a, const uint8_t *b) noexcept nogil:
    return ((get_u64(a) ^ get_u64(b)) | (get_u64(a + 8) ^ get_u64(b + 8))) == 0


cdef inline int flow_side(const flow *fl, const flow_addrs *addrs, const segment *th) noexcept nogil:
    """0 if `th` goes from a to b, 1 if from b to a, -1 if it is of another connection.

    `addrs` is read for IPv6 alone.
    """
    cdef uint32_t saddr = get_u32(th.saddr + 12), daddr = get_u32(th.daddr + 12)
    # Which way it goes is a coin's toss: both are compared, 0 is equal, and no branch tells them.
    cdef uint32_t ab = (
        (fl.a_addr ^ saddr) | (fl.b_addr ^ daddr) | (fl.a_port ^ th.sport) | (fl.b_port ^ th.dport)
    )
    cdef uint32_t ba = (
        (fl.a_addr ^ daddr) | (fl.b_addr ^ saddr) | (fl.a_port ^ th.dport) | (fl.b_port ^ th.sport)
    )
    if min(ab, ba) or fl.ip != th.ip:
        return -1
    if fl.ip == 6:
        ab |= not (same_addr(addrs.a, th.saddr) and same_addr(addrs.b, th.daddr))
        ba |= not (same_addr(addrs.a, th.daddr) and same_addr(addrs.b, th.saddr))
        if ab and ba:
            return -1
    return ab != 0


cdef inline uint32_t inet_slot(const flow_table *table, uint32_t tag) noexcept nogil:
    """Where the search for a tag begins."""
    return tag >> (32 - table.shift)


cdef inline uint32_t inet_next(const flow_table *table, uint32_t at) noexcept nogil:
    return (at + 1) & ((<uint32_t>1 << table.shift) - 1)


cdef inline uint32_t inet_lookup_tag(const flow_table *table, uint32_t tag) noexcept nogil:
    """The first flow (index + 1) with this tag, 0 if there is none: a guess good for a prefetch."""
    cdef uint32_t at = inet_slot(table, tag)
    while table.slots[at].flow:
        if table.slots[at].tag == tag:
            return table.slots[at].flow
        at = inet_next(table, at)
    return 0


cdef inline void inet_enter(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    cdef uint32_t at = inet_slot(table, tag)
    while table.slots[at].flow:
        at = inet_next(table, at)
    table.slots[at].tag = tag
    table.slots[at].flow = index + 1


cdef inline int inet_grow(flow_table *table) noexcept nogil:
    """Double the slots; -1 without memory."""
    cdef flow_table grown
    cdef uint32_t i, begin, n = <uint32_t>1 << table.shift
    if table.shift == 31:
        return -1
    grown.shift = table.shift + 1
    grown.used = table.used
    grown.slots = <slot *>vzalloc(sizeof(slot) << grown.shift)
    if grown.slots == NULL:
        return -1
    # From behind a free slot on: a run that goes round the end would else be taken in two pieces.
    begin = 0
    while table.slots[begin].flow:
        begin += 1
    for i in range(n):
        begin = inet_next(table, begin)
        if table.slots[begin].flow:
            inet_enter(&grown, table.slots[begin].tag, table.slots[begin].flow - 1)
    vfree(table.slots, sizeof(slot) << table.shift)
    table[0] = grown
    return 0


cdef inline int inet_hash(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    """Enter a flow; -1 without memory."""
    if table.used >= (<uint64_t>3 << table.shift) >> 2 and inet_grow(table):
        return -1
    inet_enter(table, tag, index)
    table.used += 1
    return 0


cdef inline void inet_unhash(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    """Forget a flow; those behind it that the gap would hide move up."""
    cdef uint32_t gap = inet_slot(table, tag), at, home
    while table.slots[gap].flow != index + 1:
        gap = inet_next(table, gap)
    at = gap
    while True:
        at = inet_next(table, at)
        if not table.slots[at].flow:
            break
        home = inet_slot(table, table.slots[at].tag)
        # Stays if its home lies between the gap and itself, on the circle.
        if (at - home) & ((<uint32_t>1 << table.shift) - 1) < (at - gap) & (
            (<uint32_t>1 << table.shift) - 1
        ):
            continue
        table.slots[gap] = table.slots[at]
        gap = at
    table.slots[gap].flow = 0
    table.used -= 1


cdef inline int inet_table_init(flow_table *table) noexcept nogil:
    table.shift = TABLE_MIN_SHIFT
    table.used = 0
    table.slots = <slot *>vzalloc(sizeof(slot) << TABLE_MIN_SHIFT)
    return -1 if table.slots == NULL else 0


cdef inline void inet_table_free(flow_table *table) noexcept nogil:
    vfree(table.slots, sizeof(slot) << table.shift)
    table.slots = NULL


cdef inline uint64_t flow_hash(
    const uint64_t *key,
    const uint8_t *saddr,
    const uint8_t *daddr,
    uint16_t sport,
    uint16_t dport,
) noexcept nogil:
    """SipHash-2-4 of the lower address, the upper one, and their ports in that order."""
    cdef uint64_t words[SIPHASH_WORDS]
    flow_words(saddr, daddr, sport, dport, words, 1)
    return siphash(key, words, 36)
