# Timers: deadlines in nanoseconds, handed back in exact order, equal ones in arming order.
# Linux: kernel/time/timer.c.  A heap of four branches with one entry a timer. What is armed anew
# all the time is lazy: its entry may stand too early, and goes where it belongs when it comes up.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef enum:
    TICK_NS = 4000000  # HZ=250
    NSEC_PER_SEC = 1000000000
    NSEC_PER_MSEC = 1000000

# One deadline of one owner; `kind` says which.
cdef struct timer:
    uint32_t slot  # its entry, and one; 0 while it has none
    uint8_t kind
    uint8_t lazy  # it is the beginning of a lazy_timer
    uint8_t armed

# One that knows its deadline beside its entry.
cdef struct lazy_timer:
    timer timer
    int64_t expires_ns
    uint64_t order

cdef struct timer_entry:
    int64_t expires_ns
    uint64_t order
    timer *timer

# All timers of an engine.
cdef struct timers:
    timer_entry *heap
    uint32_t n
    uint32_t room
    uint32_t reserved  # timers that may be armed at once
    uint64_t armed  # how often one was armed


cdef inline int64_t jiffies_up(int64_t now_ns, int64_t delay_ns) noexcept nogil:
    """The first tick at which `delay_ns` has passed: where Linux counts in jiffies."""
    return (now_ns + delay_ns + (TICK_NS - 1)) // TICK_NS * TICK_NS


cdef inline int timers_reserve(timers *all, uint32_t more) noexcept nogil:
    """Make room for `more` timers, so that arming one cannot fail; -1 without memory."""
    cdef timer_entry *heap
    cdef uint32_t room
    if all.reserved + more > all.room:
        room = all.room * 2 + 64
        heap = <timer_entry *>realloc(all.heap, room * sizeof(timer_entry))
        if heap == NULL:
            return -1
        all.heap = heap
        all.room = room
    all.reserved += more
    return 0


cdef inline bint entry_before(const timer_entry *a, const timer_entry *b) noexcept nogil:
    return a.expires_ns < b.expires_ns or (a.expires_ns == b.expires_ns and a.order < b.order)


cdef inline void heap_up(timers *all, uint32_t at, timer_entry moved) noexcept nogil:
    """Put an entry at a place or above it."""
    cdef timer_entry *heap = all.heap
    cdef uint32_t above
    while at:
        above = (at - 1) >> 2
        if not entry_before(&moved, &heap[above]):
            break
        heap[at] = heap[above]
        heap[at].timer.slot = at + 1
        at = above
    heap[at] = moved
    moved.timer.slot = at + 1


cdef inline void heap_down(timers *all, uint32_t at, timer_entry moved) noexcept nogil:
    """Put an entry at a place or below it."""
    cdef timer_entry *heap = all.heap
    cdef uint32_t below, least, end
    while True:
        below = at * 4 + 1
        if below >= all.n:
            break
        end = below + 4 if below + 4 < all.n else all.n
        least = below
        below += 1
        while below < end:
            if entry_before(&heap[below], &heap[least]):
                least = below
            below += 1
        if not entry_before(&heap[least], &moved):
            break
        heap[at] = heap[least]
        heap[at].timer.slot = at + 1
        at = least
    heap[at] = moved
    moved.timer.slot = at + 1


cdef inline void heap_remove(timers *all, uint32_t at) noexcept nogil:
    cdef timer_entry last
    all.heap[at].timer.slot = 0
    all.n -= 1
    if at == all.n:
        return
    last = all.heap[all.n]
    if at and entry_before(&last, &all.heap[(at - 1) >> 2]):
        heap_up(all, at, last)
    else:
        heap_down(all, at, last)


cdef inline void timer_mod(timers *all, timer *one, int64_t expires_ns) noexcept nogil:
    """Arm a timer, or move it."""
    cdef timer_entry entry
    all.armed += 1
    one.armed = 1
    if one.lazy:
        (<lazy_timer *>one).expires_ns = expires_ns
        (<lazy_timer *>one).order = all.armed
        if one.slot and all.heap[one.slot - 1].expires_ns <= expires_ns:
            return
    entry.expires_ns = expires_ns
    entry.order = all.armed
    entry.timer = one
    if not one.slot:
        all.n += 1
        heap_up(all, all.n - 1, entry)
    elif entry_before(&entry, &all.heap[one.slot - 1]):
        heap_up(all, one.slot - 1, entry)
    else:
        heap_down(all, one.slot - 1, entry)


cdef inline void timer_del(timer *one) noexcept nogil:
    """Disarm a timer."""
    one.armed = 0


cdef inline void timer_forget(timers *all, timer *one) noexcept nogil:
    """A timer goes away: nothing may name it any more."""
    one.armed = 0
    if one.slot:
        heap_remove(all, one.slot - 1)


cdef inline int64_t timer_next(timers *all) noexcept nogil:
    """When the next timer is due; -1 if none is armed."""
    cdef timer_entry entry
    cdef const lazy_timer *one
    while all.n:
        entry = all.heap[0]
        one = <lazy_timer *>entry.timer
        if not entry.timer.armed:
            heap_remove(all, 0)
        elif not entry.timer.lazy or one.order == entry.order:
            return entry.expires_ns
        else:
            entry.expires_ns = one.expires_ns
            entry.order = one.order
            heap_down(all, 0, entry)
    return -1


cdef inline timer *timer_advance(timers *all, int64_t now_ns) noexcept nogil:
    """Disarm and hand back the first timer that is due by now, if any."""
    cdef int64_t due = timer_next(all)
    cdef timer *one
    if due < 0 or due > now_ns:
        return NULL
    one = all.heap[0].timer
    heap_remove(all, 0)
    one.armed = 0
    return one


cdef inline void timers_free(timers *all) noexcept nogil:
    free(all.heap)
    all.heap = NULL
    all.n = all.room = all.reserved = 0
