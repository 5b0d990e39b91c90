# The table of connections: buckets of a cache line each, eight (tag, flow) lanes compared at once.
# Linux: net/ipv4/inet_hashtables.c.  RFC 9293 3.4 (a connection is a pair of sockets).

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from secure_seq cimport SIPHASH_LANES, siphash_lanes
from slab cimport vfree, vkeep, vzalloc
from tcp cimport flow, flow_addrs, segment
from unaligned cimport get_le64, get_u32, get_u64, held, swap_u16s, swap_u32s

cdef extern from *:
    """
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* Which of eight lanes hold x, a bit each: no branch tells how far a search had to go. */
    static inline unsigned lanes_equal(const uint32_t lanes[8], uint32_t x)
    {
    #ifdef __SSE2__
        __m128i all = _mm_set1_epi32((int)x);
        __m128i low = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)lanes), all);
        __m128i high = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)(lanes + 4)), all);
        return (unsigned)_mm_movemask_ps(_mm_castsi128_ps(low)) |
               (unsigned)_mm_movemask_ps(_mm_castsi128_ps(high)) << 4;
    #else
        unsigned bits = 0;
        for (int i = 0; i < 8; i++)
            bits |= (unsigned)(lanes[i] == x) << i;
        return bits;
    #endif
    }
    """
    unsigned int lanes_equal(const uint32_t *lanes, uint32_t x) noexcept nogil
    int __builtin_ctz(unsigned int bits) noexcept nogil

cdef enum:
    TABLE_MIN_SHIFT = 9  # log2 of the buckets at first
    LANES = 8

# The tag is the hash's upper half. A flow's home is the bucket of the tag's upper bits, or where
# that is full the next one that is not. So the table in order is (nearly) in order of tags, and
# doubling it is one pass over both, without a random access.
cdef struct bucket:
    uint32_t tags[LANES]
    uint32_t flows[LANES]  # index + 1; 0 is a free lane

cdef struct flow_table:
    bucket *buckets
    uint32_t shift  # log2 of the buckets
    uint32_t used


cdef inline void flow_words4(uint64_t acookie, uint32_t ports, uint64_t *words) noexcept nogil:
    """The two words that SipHash takes of an IPv4 4-tuple, the same for both directions: the two
    addresses and then their ports, as they lie in memory, those of the lower end first."""
    cdef uint64_t s = (acookie & <uint32_t>0xFFFFFFFF) | <uint64_t>(ports & 0xFFFF) << 32
    cdef uint64_t d = acookie >> 32 | <uint64_t>(ports >> 16) << 32
    cdef uint64_t low = min(s, d), high = max(s, d)
    words[0] = (low & <uint32_t>0xFFFFFFFF) | high << 32
    words[SIPHASH_LANES] = <uint64_t>12 << 56 | high >> 32 << 16 | low >> 32


cdef inline void flow_words6(const uint8_t *addrs, uint32_t ports, uint64_t *words) noexcept nogil:
    """The five words of an IPv6 4-tuple."""
    cdef uint32_t s = ports & 0xFFFF, d = ports >> 16
    cdef const uint8_t *low = addrs
    cdef const uint8_t *high = addrs + 16
    if s > d or (s == d and memcmp(low, high, 16) > 0):
        low, high, ports = high, low, swap_u16s(ports)
    words[0] = get_le64(low)
    words[SIPHASH_LANES] = get_le64(low + 8)
    words[2 * SIPHASH_LANES] = get_le64(high)
    words[3 * SIPHASH_LANES] = get_le64(high + 8)
    words[4 * SIPHASH_LANES] = <uint64_t>36 << 56 | ports


cdef inline bint same_addr(const uint8_t *a, const uint8_t *b) noexcept nogil:
    return ((get_u64(a) ^ get_u64(b)) | (get_u64(a + 8) ^ get_u64(b + 8))) == 0


cdef inline int flow_side(const flow *fl, const flow_addrs *addrs, const segment *th) noexcept nogil:
    """0 if `th` goes from a to b, 1 if from b to a, -1 if it is of another connection.

    `addrs` is read for IPv6 alone.
    """
    cdef uint64_t acookie = get_u64(&fl.a_addr)
    cdef uint32_t ports = get_u32(&fl.a_port)
    # Which way it goes is a coin's toss: both are compared, 0 is equal, and no branch tells them.
    cdef uint64_t ab = (acookie ^ th.acookie) | (ports ^ th.ports)
    cdef uint64_t ba = (acookie ^ swap_u32s(th.acookie)) | (ports ^ swap_u16s(th.ports))
    if (ab and ba) or fl.ip != th.ip:
        return -1
    if fl.ip == 6:
        return flow_side6(addrs, th.addrs, ab == 0, ba == 0)
    return ab != 0


cdef inline int flow_side6(
    const flow_addrs *addrs, const uint8_t *saddr, bint ab, bint ba
) noexcept nogil:
    """The same of an IPv6 flow, of which the addresses' last bytes and the ports tell which way a
    segment can go."""
    if ab and same_addr(addrs.a, saddr) and same_addr(addrs.b, saddr + 16):
        return 0
    return 1 if ba and same_addr(addrs.a, saddr + 16) and same_addr(addrs.b, saddr) else -1


cdef inline uint32_t inet_home(const flow_table *table, uint32_t tag) noexcept nogil:
    """The bucket where the search for a tag begins."""
    return tag >> (32 - table.shift)


cdef inline uint32_t inet_next(const flow_table *table, uint32_t at) noexcept nogil:
    return (at + 1) & ((<uint32_t>1 << table.shift) - 1)


cdef inline uint32_t inet_lookup_tag(const flow_table *table, uint32_t tag) noexcept nogil:
    """A flow (index + 1) with this tag in its home, 0 if there is none: a guess, for a prefetch."""
    cdef const bucket *b = &table.buckets[inet_home(table, tag)]
    cdef unsigned int found = lanes_equal(b.tags, tag)
    return b.flows[__builtin_ctz(found)] if found else 0


cdef inline void inet_enter(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    """Put a flow into its home or, where that is full, the next bucket that is not."""
    cdef uint32_t at = inet_home(table, tag)
    cdef unsigned int free = lanes_equal(table.buckets[at].flows, 0)
    while not free:
        at = inet_next(table, at)
        free = lanes_equal(table.buckets[at].flows, 0)
    table.buckets[at].tags[__builtin_ctz(free)] = tag
    table.buckets[at].flows[__builtin_ctz(free)] = index + 1


cdef inline uint32_t lanes_used(const bucket *b) noexcept nogil:
    """How many lanes of a bucket are taken, where those are the first ones."""
    cdef unsigned int free = lanes_equal(b.flows, 0)
    return __builtin_ctz(free) if free else LANES


cdef inline int inet_grow(flow_table *table) noexcept nogil:
    """Double the buckets; -1 without memory."""
    cdef flow_table grown
    cdef const bucket *old
    cdef bucket *new
    cdef uint32_t at, home
    cdef uint32_t used[2]
    cdef int lane
    if table.shift == 28:
        return -1
    grown.shift = table.shift + 1
    grown.used = table.used
    grown.buckets = <bucket *>vzalloc(sizeof(bucket) << grown.shift)
    if grown.buckets == NULL:
        return -1
    for at in range(<uint32_t>1 << table.shift):
        # Nearly all of a bucket goes to the two that it becomes, lane by lane; what had no room at
        # home is entered anew.
        old = <const bucket *>held(&table.buckets[at])
        new = <bucket *>held(&grown.buckets[2 * at])
        used[0] = lanes_used(&new[0])
        used[1] = lanes_used(&new[1])
        for lane in range(LANES):
            if not old.flows[lane]:
                continue
            home = inet_home(&grown, old.tags[lane])
            if home >> 1 == at and used[home & 1] < LANES:
                new[home & 1].tags[used[home & 1]] = old.tags[lane]
                new[home & 1].flows[used[home & 1]] = old.flows[lane]
                used[home & 1] += 1
            else:
                inet_enter(&grown, old.tags[lane], old.flows[lane] - 1)
                used[0] = lanes_used(&new[0])
                used[1] = lanes_used(&new[1])
    vfree(table.buckets, sizeof(bucket) << table.shift)
    table[0] = grown
    return 0


cdef inline int inet_reserve(flow_table *table) noexcept nogil:
    """See to it that there is room for one more; -1 without memory."""
    return (
        inet_grow(table) if table.used >= (<uint64_t>LANES * 3 << table.shift) >> 2 else 0
    )


cdef inline void inet_hash(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    """Enter a flow, for which `inet_reserve` saw to room."""
    inet_enter(table, tag, index)
    table.used += 1


cdef inline void inet_unhash(flow_table *table, uint32_t tag, uint32_t index) noexcept nogil:
    """Forget a flow; one from behind that had no room in its home moves up into the gap."""
    cdef uint32_t gap = inet_home(table, tag), at, home
    cdef unsigned int found = lanes_equal(table.buckets[gap].flows, index + 1)
    cdef int hole, lane
    cdef bint full
    while not found:
        gap = inet_next(table, gap)
        found = lanes_equal(table.buckets[gap].flows, index + 1)
    hole = __builtin_ctz(found)
    full = lanes_equal(table.buckets[gap].flows, 0) == 0
    table.buckets[gap].flows[hole] = 0
    table.used -= 1
    at = gap
    while full:  # only a full bucket has sent flows on to the next
        at = inet_next(table, at)
        full = lanes_equal(table.buckets[at].flows, 0) == 0
        for lane in range(LANES):
            if not table.buckets[at].flows[lane]:
                continue
            home = inet_home(table, table.buckets[at].tags[lane])
            # It may move if its home does not lie behind the gap, on the circle.
            if ((at - home) & ((<uint32_t>1 << table.shift) - 1)) >= (
                (at - gap) & ((<uint32_t>1 << table.shift) - 1)
            ):
                table.buckets[gap].tags[hole] = table.buckets[at].tags[lane]
                table.buckets[gap].flows[hole] = table.buckets[at].flows[lane]
                table.buckets[at].flows[lane] = 0
                gap = at
                hole = lane
                break


cdef inline int inet_table_init(flow_table *table) noexcept nogil:
    table.shift = TABLE_MIN_SHIFT
    table.used = 0
    table.buckets = <bucket *>vzalloc(sizeof(bucket) << TABLE_MIN_SHIFT)
    return -1 if table.buckets == NULL else 0


cdef inline void inet_table_free(flow_table *table) noexcept nogil:
    vkeep(table.buckets, sizeof(bucket) << table.shift)
    table.buckets = NULL


cdef inline uint64_t flow_hash(
    const uint64_t *key, const uint8_t *addrs, uint32_t ports, uint8_t ip
) noexcept nogil:
    """SipHash-2-4 of the lower address, the upper one, and their ports in that order."""
    cdef uint64_t words[5][SIPHASH_LANES]
    cdef uint64_t hashes[SIPHASH_LANES]
    if ip == 4:
        flow_words4(get_u64(addrs), ports, &words[0][0])
    else:
        flow_words6(addrs, ports, &words[0][0])
    siphash_lanes(key, words, 2 if ip == 4 else 5, hashes, 1)
    return hashes[0]
