# Pieces of a queue as a tree beside their list: one is found, entered, taken out or changed in
# steps that grow with the logarithm of how many there are, whatever order a peer thinks of (T-03,
# T-06, T-22).  Linux: lib/rbtree.c; here a treap (Seidel and Aragon), by keyed random numbers.
# A branch knows what SACK's scoreboard and RACK ask for.  The reference walks its lists.

from libc.stdint cimport int64_t, uint32_t
from skbuff cimport skb_queue_after, skb_unlink
from sock cimport TCPCB_LOST, TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS, skb, skb_queue
from tcp cimport after

# What a piece is, or whether a branch has any of it.
cdef enum:
    RB_UNSACKED = 1  # the peer has not told that it has it
    RB_TO_RESEND = 2  # lost, not sent again
    RB_LOST = 4
    RB_SENT = 8  # nothing that was sent later has arrived
    RB_OVERTAKEN = 16  # something has: it is late, but not lost

cdef extern from *:
    """
    #define RB_NEVER INT64_MAX
    #define RB_ALWAYS INT64_MIN
    """
    const int64_t RB_NEVER
    const int64_t RB_ALWAYS


cdef inline uint32_t rb_marks(const skb *one) noexcept nogil:
    """What a piece is."""
    cdef uint32_t marks = RB_LOST if one.sacked & TCPCB_LOST else 0
    if one.sacked & TCPCB_SACKED_ACKED:
        return marks
    if marks and not one.sacked & TCPCB_SACKED_RETRANS:
        marks |= RB_TO_RESEND
    elif not one.rack_off:
        marks |= RB_OVERTAKEN if one.overtaken else RB_SENT
    return marks | RB_UNSACKED


cdef inline bint rb_is(const skb *one, uint32_t marks, int64_t before_ns) noexcept nogil:
    return rb_marks(one) & marks and one.skb_mstamp_ns < before_ns


cdef inline bint rb_has(const skb *branch, uint32_t marks, int64_t before_ns) noexcept nogil:
    if branch == NULL or not branch.rb_marks & marks:
        return False
    if marks == RB_SENT:
        return branch.rb_sent_ns < before_ns
    return branch.rb_overtaken_ns < before_ns if marks == RB_OVERTAKEN else True


cdef inline void rb_sum(skb *one) noexcept nogil:
    """Tell of a branch by its two and its own piece."""
    cdef const skb *side
    cdef uint32_t marks = rb_marks(one)
    cdef int64_t sent_ns = RB_NEVER, overtaken_ns = RB_NEVER, last_ns = RB_ALWAYS
    cdef int i
    if marks & RB_SENT:
        sent_ns = one.skb_mstamp_ns
    elif marks & RB_OVERTAKEN:
        overtaken_ns = last_ns = one.skb_mstamp_ns
    for i in range(2):
        side = one.rb_right if i else one.rb_left
        if side != NULL:
            marks |= side.rb_marks
            sent_ns = min(sent_ns, side.rb_sent_ns)
            overtaken_ns = min(overtaken_ns, side.rb_overtaken_ns)
            last_ns = max(last_ns, side.rb_overtaken_last_ns)
    one.rb_marks = marks
    one.rb_sent_ns = sent_ns
    one.rb_overtaken_ns = overtaken_ns
    one.rb_overtaken_last_ns = last_ns


cdef inline void rb_changed(skb *one) noexcept nogil:
    """A piece of the tree is not what it was."""
    while one != NULL:
        rb_sum(one)
        one = one.rb_parent


cdef inline void rb_rotate(skb *one) noexcept nogil:
    """Move a piece above its parent; its sums are to be made yet."""
    cdef skb *above = one.rb_parent
    cdef skb *top = above.rb_parent
    cdef skb *between
    if above.rb_left == one:
        between = one.rb_right
        above.rb_left = between
        one.rb_right = above
    else:
        between = one.rb_left
        above.rb_right = between
        one.rb_left = above
    if between != NULL:
        between.rb_parent = above
    above.rb_parent = one
    rb_hang(top, above, one)
    rb_sum(above)


cdef inline void rb_hang(skb *top, const skb *old, skb *new) noexcept nogil:
    """Put a piece, or none, where another hung."""
    if new != NULL:
        new.rb_parent = top
    if top != NULL:
        if top.rb_left == old:
            top.rb_left = new
        else:
            top.rb_right = new


cdef inline void rb_insert(skb_queue *queue, skb *where, skb *one) noexcept nogil:
    """Enter a piece into list and tree behind another, in front of all for NULL."""
    cdef skb *at = where
    skb_queue_after(queue, where, one)
    one.rb_left = one.rb_right = NULL
    if where != NULL and where.rb_right == NULL:
        where.rb_right = one
    else:
        at = one.next
        if at != NULL:
            at.rb_left = one
    one.rb_parent = at
    while one.rb_parent != NULL and one.rb_parent.rb_priority < one.rb_priority:
        rb_rotate(one)
    rb_changed(one)


cdef inline void rb_erase(skb_queue *queue, skb *one) noexcept nogil:
    """Take a piece out of list and tree."""
    cdef skb *side
    cdef skb *top
    skb_unlink(queue, one)
    while one.rb_left != NULL and one.rb_right != NULL:
        side = one.rb_left
        if one.rb_right.rb_priority > side.rb_priority:
            side = one.rb_right
        rb_rotate(side)
    side = one.rb_left if one.rb_left != NULL else one.rb_right
    top = one.rb_parent
    rb_hang(top, one, side)
    rb_changed(top)


cdef inline skb *rb_root(const skb_queue *queue) noexcept nogil:
    """The piece that all others hang on, above the first; NULL if there is none."""
    cdef skb *one = queue.first
    while one != NULL and one.rb_parent != NULL:
        one = one.rb_parent
    return one


cdef inline skb *rb_find(const skb_queue *queue, uint32_t seq) noexcept nogil:
    """The last piece that begins at a number or before it, or NULL."""
    cdef skb *one
    cdef skb *found = queue.last
    if found == NULL or not after(found.seq, seq):
        return found
    one = rb_root(queue)
    found = NULL
    while one != NULL:
        if after(one.seq, seq):
            one = one.rb_left
        else:
            found = one
            one = one.rb_right
    return found


cdef inline skb *rb_seek(skb *one, uint32_t marks, int64_t before_ns) noexcept nogil:
    """The first piece, from this one on, that is any of `marks` and was sent before a time.

    Times are kept of RB_SENT and RB_OVERTAKEN; else it is RB_NEVER.
    """
    cdef skb *below
    while one != NULL:
        if rb_is(one, marks, before_ns):
            return one
        below = one.rb_right
        if rb_has(below, marks, before_ns):
            while below != NULL:
                if rb_has(below.rb_left, marks, before_ns):
                    below = below.rb_left
                elif rb_is(below, marks, before_ns):
                    return below
                else:
                    below = below.rb_right
        while one.rb_parent != NULL and one.rb_parent.rb_right == one:
            one = one.rb_parent
        one = one.rb_parent
    return NULL


cdef inline void rb_changed_all(skb_queue *queue) noexcept nogil:
    """Any piece may not be what it was."""
    cdef skb *one = rb_root(queue)
    cdef skb *next
    while one != NULL:  # down to a leaf, up again as both sides are done
        if one.rb_left != NULL:
            one = one.rb_left
            continue
        while one.rb_right == NULL:
            rb_sum(one)
            next = one.rb_parent
            while next != NULL and next.rb_right == one:
                one = next
                rb_sum(one)
                next = one.rb_parent
            if next == NULL:
                return
            one = next
        one = one.rb_right


cdef inline uint32_t rb_depth(const skb_queue *queue, uint32_t *pieces) noexcept nogil:
    """Steps to the piece that is farthest from the root, and how many there are: for tests."""
    cdef const skb *one = queue.first
    cdef const skb *above
    cdef uint32_t most = 0, steps
    while one != NULL:
        pieces[0] += 1
        steps = 0
        above = one
        while above != NULL:
            steps += 1
            above = above.rb_parent
        most = max(most, steps)
        one = one.next
    return most
