# Streams handed out: what to read of the captures, and where each byte of it goes. A part of _core.pyx.
# Linux: net/ipv4/tcp.c (tcp_recvmsg).  docs/streams.md has the rules.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from conntrack cimport conntrack_una
from tcp_queue cimport (
    QUEUE_NONE,
    queue_in_order,
    queue_pool,
    queue_ready,
    sk_find,
    sk_index,
    skb,
    skb_at,
    skb_queue,
    skb_queue_purge,
    skb_queue_trim,
    sock_at,
    sock_queue,
)
from tcp_recvmsg cimport (
    piece,
    pieces_sort,
    pieces_within,
    plan_free,
    plan_stream,
    read_end,
    recv_plan,
    stream,
)

cdef tuple DIRECTIONS = ("ab", "ba")
cdef tuple OVERLAPS = ("first", "last", "linux", "bsd", "windows")
# Where the bytes of one stream's part go.
cdef struct part:
    uint8_t *data
    int64_t at  # place of its first byte among all streams

cdef enum:
    CONFLICT_BYTES = 16 << 20  # of differing copies that one Gather tells
    RECEIVE_READS = 4096  # of earlier bytes that are made at once; more wait for the end,
    RECEIVE_BYTES = 32 << 20  # so do more bytes


def stream_records(Conntrack conntrack):
    """Connections with records, ascending, and how many each direction has: three int64 buffers."""
    cdef queue_pool *pool = &conntrack.ct.queues
    cdef uint64_t i, n
    cdef int64_t *out[3]
    cdef list made
    conntrack.enter()
    try:
        n = pool.live_socks
        made = [PyBytes_FromStringAndSize(NULL, n * 8) for _ in range(3)]
        if sk_index(pool):
            raise MemoryError("no memory for an index of streams")
        for i in range(3):
            out[i] = <int64_t *>PyBytes_AS_STRING(made[i])
        for i in range(n):
            out[0][i] = pool.index[i].conn
            out[1][i] = sock_at(pool, pool.index[i].sock).sides[0].records
            out[2][i] = sock_at(pool, pool.index[i].sock).sides[1].records
    finally:
        conntrack.leave()
    return tuple(made)


def stream_receive(Conntrack conntrack, data, Py_ssize_t length, int64_t place, bint again):
    """What has come to be in order since the last call, with handing=True: a list of (conn,
    direction, offset, bytes). data[:length] lies at `place` of the input at hand. Where other bytes
    are needed, and inputs can be read `again`, it is in a second list, with the reads (input,
    begin, end) for bytes."""
    cdef queue_pool *pool = &conntrack.ct.queues
    cdef Py_buffer view
    cdef sock_queue *sk
    cdef uint64_t i
    cdef int side
    cdef int64_t offset
    cdef list found = [], late = []
    get_buffer(data, length, &view)
    try:
        conntrack.enter()
        try:
            for i in range(pool.n_touched):
                sk = sock_at(pool, pool.touched[i])
                if sk.touched != i + 1 or sk.given_up:  # its place may be another's by now
                    continue
                sk.touched = 0
                for side in range(2):
                    if not queue_ready(&sk.sides[side]):
                        continue
                    offset = sk.sides[side].handed
                    made = receive_order(pool, &sk.sides[side], <uint8_t *>view.buf, length, place)
                    if made is None:
                        made = receive_plan(
                            conntrack, sk, side, <uint8_t *>view.buf, length, place, again
                        )
                    if made:
                        one = sk.conn, DIRECTIONS[side], offset, made
                        found.append(one) if type(made) is bytes else late.append(one)
            pool.n_touched = 0
        finally:
            conntrack.leave()
    finally:
        PyBuffer_Release(&view)
    return found, late


cdef inline bint lies_within(int64_t at, int64_t length, int64_t place, int64_t size) noexcept:
    return at >= place and at + length <= place + size


cdef bytes receive_order(
    queue_pool *pool, skb_queue *q, const uint8_t *data, int64_t size, int64_t place
):
    """The bytes of records in order, which are then forgotten; None unless all are in `data`."""
    cdef int64_t total = q.top - q.base
    cdef uint32_t at = q.tail
    cdef bytes made
    cdef uint8_t *out
    cdef const skb *one
    if not queue_in_order(q):
        return None
    made = PyBytes_FromStringAndSize(NULL, total)
    out = <uint8_t *>PyBytes_AS_STRING(made) + total
    while at != <uint32_t>QUEUE_NONE:
        one = skb_at(pool, at)
        if one.file != pool.file or not lies_within(one.place, one.caplen, place, size):
            return None
        out -= one.caplen
        memcpy(out, data + (one.place - place), one.caplen)
        at = one.prev
    skb_queue_purge(pool, q)
    return made


cdef receive_plan(
    Conntrack conntrack,
    sock_queue *sk,
    int side,
    const uint8_t *data,
    int64_t size,
    int64_t place,
    bint again,
):
    """The same of records in any order, up to what is missing; or where the bytes are to be read.
    None if there are none, or if they are not to be read now."""
    cdef queue_pool *pool = &conntrack.ct.queues
    cdef skb_queue *q = &sk.sides[side]
    cdef recv_plan plan
    cdef stream only
    cdef const piece *one
    cdef bytes made
    cdef int64_t length
    cdef uint64_t n = 0
    cdef bint here = True
    memset(&plan, 0, sizeof(plan))
    plan.streams = &only
    try:
        if plan_stream(&plan, pool, q, conntrack_una(conntrack.ct, sk, side)):
            raise MemoryError("no memory to put a stream in order")
        length = plan.at
        if plan.n_gaps:
            length = plan.gaps[0].offset
        while n < plan.n_pieces and plan.pieces[n].at < length:
            one = &plan.pieces[n]
            if one.loose:
                length = one.at
                break
            here &= one.file == pool.file and lies_within(one.place, one.length, place, size)
            n += 1
        if here:
            made = PyBytes_FromStringAndSize(NULL, length)
            for i in range(n):
                one = &plan.pieces[i]
                memcpy(PyBytes_AS_STRING(made) + one.at, data + (one.place - place), one.length)
            found = made
        elif again and n <= RECEIVE_READS and length <= RECEIVE_BYTES:
            found = [
                (
                    plan.pieces[i].file,
                    plan.pieces[i].place,
                    plan.pieces[i].place + plan.pieces[i].length,
                )
                for i in range(n)
            ]
        else:
            found = None
            length = 0
        skb_queue_trim(pool, q, q.base + length, length)
        return found
    finally:
        plan.streams = NULL
        plan_free(&plan)


cdef class Gather:
    """Some streams, one behind the other, and where their bytes lie in the captures."""

    cdef recv_plan plan
    cdef piece *active  # of the window, in the order of the capture
    cdef uint64_t n_active
    cdef list reads  # (first piece, first byte) of each
    cdef readonly dict parts  # of the window: each stream's bytes by its number
    cdef part *outs  # where they are, from stream `first` on
    cdef uint32_t first
    cdef int64_t begin
    cdef int64_t end
    cdef bint losing
    cdef list found
    cdef int64_t room  # for conflicts, in bytes
    cdef readonly dict conflicting  # bytes of copies that differ, by the number of the stream

    def __init__(self, Conntrack conntrack, ids, *, str overlap="first", bint fill=False):
        cdef Py_buffer view
        cdef const int64_t *wanted
        cdef uint32_t i, n
        cdef const sock_queue *sk
        cdef int failed = 0, side
        if self.plan.streams != NULL:
            raise RuntimeError("a Gather is made once")
        if overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {OVERLAPS}, not {overlap!r}")
        self.plan.overlap = OVERLAPS.index(overlap)
        self.plan.fill = fill
        self.found = []
        self.reads = []
        self.parts = {}
        self.conflicting = {}
        self.room = CONFLICT_BYTES
        get_buffer(ids, 0, &view)
        try:
            conntrack.enter()
            try:
                wanted = <const int64_t *>view.buf
                n = <uint32_t>(view.len // 8)
                self.plan.streams = <stream *>calloc(n + 1, sizeof(stream))
                if self.plan.streams == NULL:
                    raise MemoryError()
                with nogil:
                    failed = sk_index(&conntrack.ct.queues)
                    for i in range(n):
                        if failed:
                            break
                        side = <int>(wanted[i] & 1)
                        sk = sk_find(&conntrack.ct.queues, <uint64_t>wanted[i] >> 1)
                        failed = plan_stream(
                            &self.plan,
                            &conntrack.ct.queues,
                            <const skb_queue *>&sk.sides[side] if sk != NULL else NULL,
                            conntrack_una(conntrack.ct, sk, side) if sk != NULL else 0,
                        )
                if failed:
                    raise MemoryError("no memory to put streams in order")
            finally:
                conntrack.leave()
        finally:
            PyBuffer_Release(&view)

    def __dealloc__(self):
        plan_free(&self.plan)
        free(self.active)
        free(self.outs)

    def starts(self):
        """Where each stream begins, and where the last one ends: an int64 buffer."""
        cdef uint32_t i
        cdef bytes made = PyBytes_FromStringAndSize(NULL, (self.plan.n_streams + 1) * 8)
        cdef int64_t *out = <int64_t *>PyBytes_AS_STRING(made)
        for i in range(self.plan.n_streams):
            out[i] = self.plan.streams[i].start
        out[self.plan.n_streams] = self.plan.at
        return made

    def handed(self, uint32_t number):
        """Bytes of a stream that were handed out as they came, and are not of this one's."""
        if number >= self.plan.n_streams:
            raise IndexError(number)
        return self.plan.streams[number].handed

    def gaps(self, uint32_t number):
        """What is missing of a stream: (offset, length) of each hole."""
        cdef uint64_t i
        cdef const stream *one
        if number >= self.plan.n_streams:
            raise IndexError(number)
        one = &self.plan.streams[number]
        return [
            (self.plan.gaps[i].offset, self.plan.gaps[i].length)
            for i in range(one.gap, one.gap + one.gaps)
        ]

    def urgent(self, uint32_t number):
        """Offsets of a stream's urgent bytes, ascending, captured or not."""
        cdef uint64_t i
        cdef const stream *one
        if number >= self.plan.n_streams:
            raise IndexError(number)
        one = &self.plan.streams[number]
        return sorted({self.plan.urgent[i] for i in range(one.urgent, one.urgent + one.urgents)})

    def window(self, int64_t begin, int64_t end, bint losers=False):
        """Begin on bytes [begin, end) of all streams: the reads (input, begin, end) that they need.

        With `losers` the reads that the other copies of the same bytes need.
        """
        cdef const piece *pieces = self.plan.losers if losers else self.plan.pieces
        cdef uint64_t n = self.plan.n_losers if losers else self.plan.n_pieces
        cdef uint64_t first, i
        cdef int failed = 0
        if not 0 <= begin <= end <= self.plan.at:
            raise ValueError(f"no bytes {begin} to {end} here")
        if losers and (self.begin != begin or self.end != end):
            raise ValueError("a window's bytes come before their other copies")
        free(self.active)
        self.active = NULL
        self.n_active = 0
        self.reads = []
        self.losing = losers
        if not losers:
            self.make_parts(begin, end)
        if not losers and n:
            first = self.first_within(begin)
            pieces += first
            n = min(self.first_within(end) + 1, n) - first
        self.active = <piece *>malloc((n + 1) * sizeof(piece))
        if self.active == NULL:
            raise MemoryError()
        with nogil:
            self.n_active = pieces_within(pieces, n, begin, end, self.active)
            failed = pieces_sort(&self.active, self.n_active)
        if failed:
            self.n_active = 0
            raise MemoryError()
        reads = []
        first = 0
        while first < self.n_active:
            i = read_end(self.active, first, self.n_active)
            self.reads.append((first, i))
            reads.append(
                (
                    self.active[first].file,
                    self.active[first].place,
                    max_end(self.active, first, i),
                )
            )
            first = i
        return reads

    cdef int make_parts(self, int64_t begin, int64_t end) except -1:
        """Make room for the bytes [begin, end) of all streams."""
        cdef const stream *streams = self.plan.streams
        cdef uint32_t low = 0, high = self.plan.n_streams, middle, n
        cdef int64_t start, size
        cdef part *outs
        cdef bytes made
        self.parts = {}
        self.begin = self.end = -1
        while low < high:
            middle = low + (high - low) // 2
            if streams[middle].start + streams[middle].length <= begin:
                low = middle + 1
            else:
                high = middle
        while high < self.plan.n_streams and streams[high].start < end:
            high += 1
        outs = <part *>malloc((high - low + 1) * sizeof(part))
        if outs == NULL:
            raise MemoryError()
        free(self.outs)
        self.outs = outs
        self.first = low
        for n in range(low, high):
            start = max(streams[n].start, begin)
            size = min(streams[n].start + streams[n].length, end) - start
            outs[n - low].data = NULL
            outs[n - low].at = start
            if size <= 0:
                continue
            made = PyBytes_FromStringAndSize(NULL, size)
            outs[n - low].data = <uint8_t *>PyBytes_AS_STRING(made)
            if self.plan.fill and streams[n].gaps:
                memset(outs[n - low].data, 0, size)
            self.parts[n] = made
        self.begin = begin
        self.end = end
        return 0

    cdef uint8_t *out(self, const piece *one) noexcept nogil:
        """Where a piece's bytes go."""
        cdef const part *to = &self.outs[one.stream - self.first]
        return to.data + (one.at - to.at)

    cdef uint64_t first_within(self, int64_t at) noexcept:
        """The first piece that ends behind `at`."""
        cdef uint64_t low = 0, high = self.plan.n_pieces, middle
        while low < high:
            middle = low + (high - low) // 2
            if self.plan.pieces[middle].at + self.plan.pieces[middle].length <= at:
                low = middle + 1
            else:
                high = middle
        return low

    def take(self, Py_ssize_t number, data):
        """The bytes of a read have come."""
        cdef Py_buffer view
        cdef uint64_t first, end, i
        cdef const piece *one
        cdef int64_t place
        first, end = self.reads[number]
        place = self.active[first].place
        get_buffer(data, max_end(self.active, first, end) - place, &view)
        try:
            if not self.losing:
                with nogil:
                    for i in range(first, end):
                        one = &self.active[i]
                        memcpy(
                            self.out(one),
                            <const uint8_t *>view.buf + (one.place - place),
                            one.length,
                        )
                return
            for i in range(first, end):
                one = &self.active[i]
                if memcmp(
                    self.out(one),
                    <const uint8_t *>view.buf + (one.place - place),
                    one.length,
                ):
                    self.differ(one, <const uint8_t *>view.buf + (one.place - place))
        finally:
            PyBuffer_Release(&view)

    cdef int differ(self, const piece *one, const uint8_t *other) except -1:
        """Note where a copy differs from what was kept."""
        cdef const uint8_t *kept = self.out(one)
        cdef uint32_t i = 0, first
        cdef int64_t differing = 0
        while i < one.length:
            if kept[i] == other[i]:
                i += 1
                continue
            first = i
            while i < one.length and kept[i] != other[i]:
                i += 1
            differing += i - first
            self.room -= i - first + 64  # what a tuple of two strings takes besides
            if self.room >= 0:
                self.found.append(
                    (
                        one.stream,
                        one.at - self.plan.streams[one.stream].start + first,
                        (<const char *>kept)[first:i],
                        (<const char *>other)[first:i],
                    )
                )
        self.conflicting[one.stream] = self.conflicting.get(one.stream, 0) + differing
        return 0

    def conflicts(self):
        """What was found since the last call: (stream, position, kept, other), in order of capture."""
        found = self.found
        self.found = []
        return found

    @property
    def losers(self):
        """True if some bytes are there more than once."""
        return self.plan.n_losers != 0


cdef int64_t max_end(const piece *pieces, uint64_t first, uint64_t end) noexcept:
    """Where the last byte of some pieces lies."""
    cdef int64_t most = 0
    cdef uint64_t i
    for i in range(first, end):
        most = max(most, pieces[i].place + pieces[i].length)
    return most
