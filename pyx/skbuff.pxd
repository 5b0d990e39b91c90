# Pieces of streams: their records, their bytes from pools by size, and queues of them.
# Linux: include/linux/skbuff.h.  The reference has Python's own.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from slab cimport kmem_cache, kmem_cache_destroy, kmem_cache_free, kmem_cache_init
from slab cimport kmem_cache_zalloc
from sock cimport skb, skb_data, skb_queue

# Pages pass from host to host, and each has a lock of its own.
cdef extern from "refcount.h" nogil:
    void refcount_inc(int32_t *refs)
    bint refcount_dec_and_test(int32_t *refs)

cdef enum:
    SKB_POOLS = 9  # 256 bytes to 64 KiB
    SKB_POOL_MIN = 256
    SKB_POOL_KEEP = 4 << 20  # bytes that are kept for the next
    SKB_LEND_MIN = 512  # fewer bytes are copied: that is cheaper than to hold a page

cdef struct skb_pools:
    kmem_cache records
    skb_data *free[9]
    skb_data *lent  # pages that go back to who lent them, once that is allowed
    uint64_t kept
    uint32_t random  # of the next piece's place in a tree


cdef inline void skb_pools_init(skb_pools *pools, uint32_t random) noexcept nogil:
    kmem_cache_init(&pools.records, sizeof(skb))
    pools.random = random | 1


cdef inline uint32_t skb_pool_of(uint32_t size) noexcept nogil:
    cdef uint32_t pool = 0
    while pool < SKB_POOLS and <uint32_t>SKB_POOL_MIN << pool < size:
        pool += 1
    return pool


cdef inline skb_data *skb_data_alloc(skb_pools *pools, uint32_t size) noexcept nogil:
    """Room for `size` bytes at least; NULL without memory."""
    cdef uint32_t pool = skb_pool_of(size)
    cdef skb_data *made
    if pool < SKB_POOLS:
        size = <uint32_t>SKB_POOL_MIN << pool
        made = pools.free[pool]
        if made != NULL:
            pools.free[pool] = made.next
            pools.kept -= size
            made.refs = 1
            return made
    made = <skb_data *>malloc(sizeof(skb_data) + <size_t>size)
    if made != NULL:
        made.owner = NULL
        made.refs = 1
        made.size = size
    return made


cdef inline skb_data *skb_data_lend(void *owner) noexcept nogil:
    """A page of somebody's bytes, who is held until the last piece is gone; NULL without memory."""
    cdef skb_data *made = <skb_data *>malloc(sizeof(skb_data))
    if made != NULL:
        made.owner = owner
        made.refs = 1
        made.size = 0
    return made


cdef inline void skb_data_put(skb_pools *pools, skb_data *data) noexcept nogil:
    """One piece fewer has it."""
    cdef uint32_t pool
    if data == NULL or not refcount_dec_and_test(&data.refs):
        return
    if data.owner != NULL:
        data.next = pools.lent
        pools.lent = data
        return
    pool = skb_pool_of(data.size)
    if pool < SKB_POOLS and pools.kept + data.size <= SKB_POOL_KEEP:
        data.next = pools.free[pool]
        pools.free[pool] = data
        pools.kept += data.size
    else:
        free(data)


cdef inline void *skb_data_owner(skb_pools *pools) noexcept nogil:
    """Who is held no longer and is to be told, one at a time; NULL when all were."""
    cdef skb_data *one = pools.lent
    cdef void *owner
    if one == NULL:
        return NULL
    pools.lent = one.next
    owner = one.owner
    free(one)
    return owner


cdef inline void skb_pools_free(skb_pools *pools) noexcept nogil:
    cdef skb_data *one
    cdef int pool
    for pool in range(SKB_POOLS):
        while pools.free[pool] != NULL:
            one = pools.free[pool]
            pools.free[pool] = one.next
            free(one)
    kmem_cache_destroy(&pools.records)


cdef inline skb *skb_record(skb_pools *pools) noexcept nogil:
    """A piece that has nothing yet but its place in a tree; NULL without memory."""
    cdef skb *made = <skb *>kmem_cache_zalloc(&pools.records)
    if made != NULL:
        pools.random ^= pools.random << 13
        pools.random ^= pools.random >> 17
        pools.random ^= pools.random << 5
        made.rb_priority = pools.random
    return made


cdef inline skb *alloc_skb(skb_pools *pools, uint32_t size) noexcept nogil:
    """An empty piece with room for `size` bytes; NULL without memory."""
    cdef skb *made = skb_record(pools)
    if made == NULL:
        return NULL
    if size:
        made.head = skb_data_alloc(pools, size)
        if made.head == NULL:
            kmem_cache_free(&pools.records, made)
            return NULL
        made.data = <uint8_t *>(made.head + 1)
    return made


cdef inline skb *build_skb(
    skb_pools *pools, skb_data *page, const uint8_t *data, uint32_t length, uint32_t size
) noexcept nogil:
    """A piece of bytes that lie in a page already, where there is one and it is worth it; else an
    empty one, as `alloc_skb` makes it. NULL without memory."""
    cdef skb *made
    if page == NULL or length < SKB_LEND_MIN:
        return alloc_skb(pools, size)
    made = skb_record(pools)
    if made == NULL:
        return NULL
    refcount_inc(&page.refs)
    made.head = page
    made.data = <uint8_t *>data
    made.len = length
    made.lent = 1
    return made


cdef inline void kfree_skb(skb_pools *pools, skb *one) noexcept nogil:
    skb_data_put(pools, one.head)
    kmem_cache_free(&pools.records, one)


cdef inline uint32_t skb_tailroom(const skb *one) noexcept nogil:
    """Bytes that can be added to the last piece that shares its memory."""
    if one.head == NULL or one.lent:
        return 0
    return <uint32_t>(<uint8_t *>(one.head + 1) + one.head.size - (one.data + one.len))


cdef inline int skb_grow(skb_pools *pools, skb *one, uint32_t more, uint32_t most) noexcept nogil:
    """Make room for `more` bytes behind those there are, and for others up to `most`; -1: none."""
    cdef skb_data *made
    cdef uint32_t size = 2 * (one.len + more)
    if skb_tailroom(one) >= more:
        return 0
    if size > most:
        size = most
    if size < one.len + more:
        size = one.len + more
    made = skb_data_alloc(pools, size)
    if made == NULL:
        return -1
    memcpy(made + 1, one.data, one.len)
    skb_data_put(pools, one.head)
    one.head = made
    one.data = <uint8_t *>(made + 1)
    one.lent = 0
    return 0


cdef inline void skb_put_data(skb *one, const uint8_t *data, uint32_t length) noexcept nogil:
    """Add bytes for which there is room."""
    if length:
        memcpy(one.data + one.len, data, length)
        one.len += length


cdef inline int skb_append(
    skb_pools *pools, skb *one, const uint8_t *data, uint32_t length, uint32_t most
) noexcept nogil:
    """Add bytes, and make room for them as `skb_grow` does; -1 without memory."""
    if skb_grow(pools, one, length, most):
        return -1
    skb_put_data(one, data, length)
    return 0


cdef inline void skb_pull(skb *one, uint32_t length) noexcept nogil:
    """Let go of bytes in front."""
    if length > one.len:
        length = one.len
    one.data += length
    one.len -= length


cdef inline int skb_shift(
    skb_pools *pools, skb *one, skb *behind, uint32_t length, uint32_t most
) noexcept nogil:
    """Move the first bytes of a piece to the end of the one before it; -1 without memory."""
    cdef skb_data *made
    cdef uint32_t size
    if one.head != NULL and one.head == behind.head and one.data + one.len == behind.data:
        one.len += length  # they lie there already
    else:
        if one.head == NULL or one.head.refs > 1 or skb_tailroom(one) < length:
            size = max(one.len + length, min(2 * (one.len + length), most))
            made = skb_data_alloc(pools, size)
            if made == NULL:
                return -1
            if one.len:
                memcpy(made + 1, one.data, one.len)
            skb_data_put(pools, one.head)
            one.head = made
            one.data = <uint8_t *>(made + 1)
            one.lent = 0
        skb_put_data(one, behind.data, length)
    skb_pull(behind, length)
    return 0


# Queues.


cdef inline void skb_queue_after(skb_queue *queue, skb *where, skb *one) noexcept nogil:
    """Put a piece behind another, in front of all for NULL."""
    one.prev = where
    one.next = where.next if where != NULL else queue.first
    if where != NULL:
        where.next = one
    else:
        queue.first = one
    if one.next != NULL:
        one.next.prev = one
    else:
        queue.last = one


cdef inline void skb_queue_tail(skb_queue *queue, skb *one) noexcept nogil:
    skb_queue_after(queue, queue.last, one)


cdef inline void skb_unlink(skb_queue *queue, skb *one) noexcept nogil:
    if one.prev != NULL:
        one.prev.next = one.next
    else:
        queue.first = one.next
    if one.next != NULL:
        one.next.prev = one.prev
    else:
        queue.last = one.prev


cdef inline void skb_queue_purge(skb_pools *pools, skb_queue *queue) noexcept nogil:
    cdef skb *one
    while queue.first != NULL:
        one = queue.first
        queue.first = one.next
        kfree_skb(pools, one)
    queue.last = NULL


cdef inline uint64_t skb_queue_bytes(const skb_queue *queue) noexcept nogil:
    """Of a queue without holes."""
    return <uint32_t>(queue.last.end_seq - queue.first.seq) if queue.first != NULL else 0
