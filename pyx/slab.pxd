# Pools of equal items by index: chunks that never move, so a pointer stays good while the pool grows.
# Linux: mm/slub.c.  The reference has Python's own.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

cdef extern from "vmalloc.h" nogil:
    void *vmalloc(size_t size)
    void *vzalloc(size_t size)
    void *vzlazy(size_t size)
    void *vgrow(void *p, size_t old, size_t size)
    void vfree(void *p, size_t size)
    void vkeep(void *p, size_t size)

cdef enum:
    SLAB_SHIFT = 15  # items of a chunk: 4 MiB of flows, two huge pages
    SLAB_MASK = (1 << SLAB_SHIFT) - 1
    SLAB_MAX_CHUNKS = (1 << (32 - SLAB_SHIFT)) - 1  # an index, and one more, fit 32 bits

cdef struct slab:
    uint8_t **chunks
    size_t size  # bytes of an item
    uint32_t n_chunks
    uint32_t max_chunks
    uint32_t used  # items given out

# A pool whose items come back; one that is spare names the next.
cdef struct slab_recycled:
    slab pool
    uint32_t spare  # its index and one; 0 for none


cdef inline void *slab_at(const slab *pool, uint32_t index) noexcept nogil:
    return pool.chunks[index >> SLAB_SHIFT] + (index & SLAB_MASK) * pool.size


cdef inline bint slab_full(const slab *pool) noexcept nogil:
    """True if the next item needs a new chunk."""
    return pool.used >> SLAB_SHIFT == pool.n_chunks


cdef inline int slab_reserve(slab *pool) noexcept nogil:
    """See to it that there is an item `used`, of arbitrary contents; -1 without memory."""
    cdef uint8_t **chunks
    cdef uint32_t more
    if slab_full(pool):
        if pool.n_chunks == SLAB_MAX_CHUNKS:
            return -1
        if pool.n_chunks == pool.max_chunks:
            more = pool.max_chunks * 2 + 16
            chunks = <uint8_t **>realloc(pool.chunks, more * sizeof(uint8_t *))
            if chunks == NULL:
                return -1
            pool.chunks = chunks
            pool.max_chunks = more
        pool.chunks[pool.n_chunks] = <uint8_t *>vmalloc(pool.size << SLAB_SHIFT)
        if pool.chunks[pool.n_chunks] == NULL:
            return -1
        pool.n_chunks += 1
    return 0


cdef inline int slab_reach(slab *pool, uint32_t index) noexcept nogil:
    """See to it that there is this item, whichever others there are, in a pool from which none is
    given out; -1 without memory."""
    cdef uint8_t **chunks
    cdef uint32_t chunk = index >> SLAB_SHIFT
    if chunk >= pool.n_chunks:
        chunks = <uint8_t **>realloc(pool.chunks, (chunk + 1) * sizeof(uint8_t *))
        if chunks == NULL:
            return -1
        memset(chunks + pool.n_chunks, 0, (chunk + 1 - pool.n_chunks) * sizeof(uint8_t *))
        pool.chunks = chunks
        pool.n_chunks = chunk + 1
    if pool.chunks[chunk] == NULL:
        pool.chunks[chunk] = <uint8_t *>vmalloc(pool.size << SLAB_SHIFT)
    return 0 if pool.chunks[chunk] != NULL else -1


cdef inline int slab_alloc(slab *pool) noexcept nogil:
    """Give out item `used`; -1 without memory."""
    if slab_reserve(pool):
        return -1
    pool.used += 1
    return 0


cdef inline uint32_t slab_take(slab_recycled *source) noexcept nogil:
    """Give out an item of zeros, one that was given back if there is any: its index and one; 0
    without memory."""
    cdef uint32_t index = source.spare
    if index:
        source.spare = (<uint32_t *>slab_at(&source.pool, index - 1))[0]
    else:
        if slab_alloc(&source.pool):
            return 0
        index = source.pool.used
    memset(slab_at(&source.pool, index - 1), 0, source.pool.size)
    return index


cdef inline void slab_give(slab_recycled *to, uint32_t index) noexcept nogil:
    """Give back what `slab_take` gave out."""
    (<uint32_t *>slab_at(&to.pool, index - 1))[0] = to.spare
    to.spare = index


cdef inline void slab_free(slab *pool) noexcept nogil:
    cdef uint32_t i
    for i in range(pool.n_chunks):
        vkeep(pool.chunks[i], pool.size << SLAB_SHIFT)
    free(pool.chunks)
    pool.chunks = NULL
    pool.n_chunks = pool.max_chunks = pool.used = 0


# Items of one size by address, in chunks that are given back with the whole.
cdef struct kmem_cache:
    void *free  # the first that is free, which holds the address of the next
    void *chunks
    uint32_t size  # bytes of an item, a multiple of 8
    uint32_t used

cdef enum:
    KMEM_CHUNK = 64  # items that are made at once


cdef inline void kmem_cache_init(kmem_cache *cache, uint32_t size) noexcept nogil:
    cache.free = NULL
    cache.chunks = NULL
    cache.size = (size + 7) & ~<uint32_t>7
    cache.used = 0


cdef inline void *kmem_cache_zalloc(kmem_cache *cache) noexcept nogil:
    """An item of zeros; NULL without memory."""
    cdef uint8_t *chunk
    cdef void **item
    cdef uint32_t i
    if cache.free == NULL:
        chunk = <uint8_t *>malloc(sizeof(void *) + <size_t>cache.size * KMEM_CHUNK)
        if chunk == NULL:
            return NULL
        (<void **>chunk)[0] = cache.chunks
        cache.chunks = chunk
        chunk += sizeof(void *)
        for i in range(KMEM_CHUNK, 0, -1):
            item = <void **>(chunk + <size_t>cache.size * (i - 1))
            item[0] = cache.free
            cache.free = item
    item = <void **>cache.free
    cache.free = item[0]
    cache.used += 1
    memset(item, 0, cache.size)
    return item


cdef inline void kmem_cache_free(kmem_cache *cache, void *item) noexcept nogil:
    (<void **>item)[0] = cache.free
    cache.free = item
    cache.used -= 1


cdef inline void kmem_cache_destroy(kmem_cache *cache) noexcept nogil:
    """Give all back, whatever is in use."""
    cdef void *chunk
    while cache.chunks != NULL:
        chunk = cache.chunks
        cache.chunks = (<void **>chunk)[0]
        free(chunk)
    cache.free = NULL
    cache.used = 0
