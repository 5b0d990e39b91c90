# cython: language_level=3
"""The seam: captures in, columns out. One handle class over the structs; all below it runs without
the GIL and knows no Python.

Linux: include/net/net_namespace.h (struct net).  docs/architecture.md, "The seam".
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from conntrack cimport (
    ROWS_DRAIN,
    ROWS_KEEP,
    conntrack,
    conntrack_drain,
    conntrack_free,
    conntrack_init,
    departed,
    flow_frame_bytes,
)
from csum cimport tcpcore_isa, tcpcore_isa_select
from dev cimport (
    batch_clear,
    batch_parse,
    batch_receive,
    batch_sift,
    batch_take,
    totals,
    totals_clear,
    window,
)
from filter cimport filter
from inet_hashtables cimport bucket
from offload cimport offload
from pcap cimport (
    NO_MEMORY,
    capture,
    frame,
    pcap_close,
    pcap_damage,
    pcap_end,
    pcap_index,
    pcap_open,
)
from rows cimport (
    N_COLUMNS,
    N_PACKET_COLUMNS,
    column_is_zero,
    column_size,
    depart_rest,
    fill_rows,
    packet_column_size,
    packet_rows,
    packet_rows_free,
    packet_rows_write,
    place_rows,
    row_place,
    wide,
)
from slab cimport vfree, vkeep, vmalloc, vzalloc, vzlazy
from snmp cimport IP_CSUMERRORS, NR_MIBS
from tcp cimport (
    SOCKET_FILTER,
    TCP_MAX_STATES,
    analysis,
    analysis_far,
    analysis_more,
    analysis_rare,
    end,
    flow,
    flow_addrs,
    flow_link,
    flow_outer,
    flow_rest,
    flow_row,
)
from tcp_conntrack cimport BATCH, batch
from tcp_queue cimport SKB_SIZE, SOCK_SIZE, queue_init
from unaligned cimport cpu_to_be16, spin_trylock, spin_unlock

cdef extern from "arrow.h":
    void arrow_release_schema()
    void arrow_release_array()
    void arrow_release_stream()
    void arrow_free_capsule()

ENGINE = "compiled"
CHUNK = 256 << 10  # fits the second-level cache beside the batch

include "names.pxi"

tcpcore_isa_select(NULL)


def isa():
    """The instruction set that checksum and hash run on: 'avx512', 'avx2' or 'baseline'."""
    return tcpcore_isa().decode()


def isa_select(str name):
    """Force an instruction set, for tests and comparisons; ValueError if the machine lacks it."""
    if tcpcore_isa_select(name.encode()):
        raise ValueError(f"no instruction set {name!r} here; this machine runs {isa()!r}")


include "filter.pxi"
include "offload.pxi"


cdef int get_buffer(data, Py_ssize_t length, Py_buffer *view) except -1:
    """Borrow the memory of `data`, which has to have `length` bytes at least."""
    cdef Py_ssize_t there
    PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
    there = view.len
    if not 0 <= length <= there or length > 1 << 30:
        PyBuffer_Release(view)
        raise ValueError(f"length {length} is not within the data's {there} bytes")
    return 0


def pcap_peek(data, Py_ssize_t length):
    """The format of an input by its first bytes, and the time of its first frame in ns or None."""
    cdef capture cap
    cdef frame first
    cdef Py_buffer view
    cdef int n = 0
    memset(&cap, 0, sizeof(cap))
    get_buffer(data, length, &view)
    try:
        if pcap_open(&cap):
            raise MemoryError()
        pcap_index(&cap, <const uint8_t *>view.buf, <uint32_t>length, &first, 1, &n)
        return FORMATS[cap.fmt], first.time_ns if n else None
    finally:
        pcap_close(&cap)
        PyBuffer_Release(&view)


def arrow_release():
    """Addresses of the functions in arrow.c: release of a schema, an array and a stream, and a
    capsule's destructor."""
    return (
        <size_t>&arrow_release_schema,
        <size_t>&arrow_release_array,
        <size_t>&arrow_release_stream,
        <size_t>&arrow_free_capsule,
    )


cdef class _Column:
    """Memory that the engine made and a column reads: freed when the last reader lets go."""

    cdef void *data
    cdef size_t size  # bytes mapped
    cdef size_t length  # bytes shown

    def __dealloc__(self):
        vkeep(self.data, self.size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 1, flags)


cdef _Column column_of(size_t length, bint zeros):
    """A writable piece for one column, of `zeros` or of arbitrary contents."""
    cdef _Column made = _Column.__new__(_Column)
    made.length = length
    made.size = length or 1
    made.data = vzlazy(made.size) if zeros else vmalloc(made.size)
    if made.data == NULL:
        made.size = 0
        raise MemoryError(f"no {length} bytes for a column")
    return made


cdef list columns_named(tuple known, names):
    """Places in `known` of the columns that are named, each once; KeyError for another name."""
    cdef dict found = {}
    for name in names:
        if name not in known:
            raise KeyError(name)
        found[known.index(name)] = None
    return list(found)


cdef class Conntrack:
    """Follows both ends of every connection of the captures that are fed to it."""

    cdef conntrack *ct
    cdef capture cap
    cdef batch *batches
    cdef packet_rows rows
    cdef list owners  # of the packet columns that are shared: a _Column each, else None
    cdef uint64_t repaired  # lengths, in the inputs before this one
    cdef totals total
    cdef totals input
    cdef window window
    cdef filter wanted  # frames; without instructions it wants all
    cdef uint64_t count
    cdef int file
    cdef public int64_t size  # of the input in bytes, 0 where nobody knows: to make room ahead
    cdef bint want_packets
    cdef int lock  # held while a thread is in here

    def __cinit__(self):
        self.ct = <conntrack *>vzalloc(sizeof(conntrack))
        self.batches = <batch *>vzalloc(3 * sizeof(batch))
        if self.ct == NULL or self.batches == NULL:
            raise MemoryError()
        self.owners = [None] * N_PACKET_COLUMNS
        totals_clear(&self.total)
        totals_clear(&self.input)

    def __init__(
        self,
        *,
        bint packets=False,
        bint analysis=False,
        bint strict=False,
        bint auto=False,
        str rows="keep",
        uint64_t max_connections=0,
        uint64_t expire_idle_ns=0,
        uint64_t expire_closed_ns=0,
        int64_t from_ns=INT64_MIN,
        int64_t to_ns=INT64_MAX,
        uint64_t count=0,
        uint64_t streams=0,
        bint handing=False,
        filter=(),
        int keyed=0,
        bytes key=bytes(16),
    ):
        if self.ct.flows.size:
            raise RuntimeError("a Conntrack is made once")
        if rows not in ("keep", "drain", "drop"):
            raise ValueError(f"rows must be 'keep', 'drain' or 'drop', not {rows!r}")
        if len(key) != 16:
            raise ValueError(f"key must have 16 bytes, not {len(key)}")
        memcpy(self.ct.key, PyBytes_AS_STRING(key), 16)
        self.ct.strict = strict
        self.ct.auto = auto
        self.ct.keyed = keyed
        self.ct.analysis = analysis
        self.ct.rows = ("keep", "drain", "drop").index(rows)
        self.ct.max_connections = max_connections
        self.ct.expire_idle_ns = expire_idle_ns
        self.ct.expire_closed_ns = expire_closed_ns
        self.ct.bounded = bool(max_connections or expire_idle_ns or expire_closed_ns)
        self.ct.linked = self.ct.bounded or self.ct.rows != ROWS_KEEP
        self.want_packets = self.ct.want_fates = packets
        self.window.from_ns = from_ns
        self.window.to_ns = to_ns
        self.count = count
        queue_init(&self.ct.queues, streams)
        self.ct.queues.handing = handing
        take_filter(&self.wanted, filter)
        self.ct.departed = <departed *>vzalloc(sizeof(departed))
        self.ct.offload = <offload *>vzalloc(sizeof(offload))
        if self.ct.offload == NULL:
            raise MemoryError()
        if self.ct.departed == NULL or conntrack_init(self.ct) or pcap_open(&self.cap):
            raise MemoryError()

    def __dealloc__(self):
        pcap_close(&self.cap)
        if self.ct != NULL:
            conntrack_free(self.ct)
            vfree(self.ct.departed, sizeof(departed))
            vfree(self.ct.offload, sizeof(offload))
            vfree(self.ct, sizeof(conntrack))
        vfree(self.batches, 3 * sizeof(batch))
        free(self.wanted.insns)
        packet_rows_free(&self.rows)

    def begin(self, int file):
        """A new input starts; `file` is its number in the column of that name."""
        self.enter()
        try:
            self.file = file
            self.ct.queues.file = self.ct.net.frags.file = file
            self.size = 0
            totals_clear(&self.input)
            self.repaired += self.cap.repaired
            if pcap_open(&self.cap):
                raise MemoryError("no memory to begin an input")
        finally:
            self.leave()

    def feed(self, data, Py_ssize_t length):
        """Process the whole records in data[:length]; returns the bytes consumed."""
        cdef Py_buffer view
        cdef Py_ssize_t consumed
        get_buffer(data, length, &view)
        try:
            self.enter()
            try:
                with nogil:
                    consumed = self.feed_records(<const uint8_t *>view.buf, <uint32_t>length)
                self.disown()
                self.expect()
                if consumed < 0:  # how far it came nobody can tell, so this input is at its end
                    pcap_damage(&self.cap, self.cap.offset, NO_MEMORY, 0)
                    raise MemoryError("no memory to follow more connections")
            finally:
                self.leave()
        finally:
            PyBuffer_Release(&view)
        return consumed

    def end(self, uint32_t left):
        """The input is at its end with `left` bytes that feed did not take."""
        self.enter()
        pcap_end(&self.cap, left)
        self.leave()

    cdef int enter(self) except -1:
        """Keep other threads out until `leave`."""
        if self.ct.table.buckets == NULL:
            raise RuntimeError("this Conntrack was not initialised")
        if not spin_trylock(&self.lock):
            raise RuntimeError("this Conntrack is at work in another thread")
        return 0

    cdef void leave(self) noexcept:
        spin_unlock(&self.lock)

    cdef Py_ssize_t feed_records(self, const uint8_t *data, uint32_t length) noexcept nogil:
        """Three batches at a time: while one is followed, the lines of two are on their way."""
        cdef batch *now = &self.batches[0]
        cdef batch *next = &self.batches[1]
        cdef batch *last = &self.batches[2]
        cdef uint32_t consumed = 0
        cdef uint64_t limit
        cdef int found
        now.n = next.n = 0
        batch_clear(now)
        batch_clear(next)
        while True:
            limit = BATCH
            if self.count and self.count - self.taken() < limit:
                limit = self.count - self.taken()
            found = 0
            if limit:
                consumed += pcap_index(
                    &self.cap, data + consumed, length - consumed, last.frames, <int>limit, &found
                )
            last.n = batch_take(last, found, &self.window, &self.input, &self.total)
            batch_parse(self.ct, last, &self.wanted)
            if batch_receive(self.ct, now, next, last):
                return -1
            if self.want_packets and self.wanted.length:
                batch_sift(now)
            if self.want_packets and packet_rows_write(&self.rows, now, self.file):
                return -1
            if not (found or last.n or next.n):
                break
            now, next, last = next, last, now
        return consumed

    cdef uint64_t taken(self) noexcept nogil:
        """Frames that the filter wants."""
        return self.total.packets - self.ct.drops[SOCKET_FILTER]

    cdef void expect(self) noexcept:
        """Guess from the input so far how many rows of packets there will be."""
        cdef int64_t left = self.size - self.cap.offset
        self.rows.expected = 0
        if left > 0 and self.cap.offset and self.ct.rows == ROWS_KEEP and not self.count:
            self.rows.expected = self.rows.used + <size_t>(
                1.06 * left * self.input.packets / self.cap.offset
            )

    cdef int disown(self) except -1:
        """Let go of packet columns that readers hold and that longer copies have replaced."""
        cdef int i
        for i in range(N_PACKET_COLUMNS):
            if not self.rows.shared[i]:
                self.owners[i] = None
        return 0

    @property
    def done(self):
        """True when this input is damaged or enough frames were taken."""
        return bool(self.cap.damage) or (
            self.count != 0 and self.taken() >= self.count
        )

    @property
    def want(self):
        """Bytes the buffer must be able to hold for the next record."""
        return self.cap.want

    @property
    def error(self):
        """What is wrong with the current input: (byte offset, reason), or None."""
        if not self.cap.damage:
            return None
        reason = PCAP_REASONS[self.cap.damage].format(self.cap.damage_value)
        return self.cap.damage_offset, reason

    @property
    def live(self):
        """Connections that are followed now."""
        return self.ct.live

    @property
    def begun(self):
        """Connections so far."""
        return self.ct.connections

    @property
    def given_up(self):
        """Connections whose records of streams were given up."""
        return self.ct.queues.given_up

    @property
    def memory(self):
        """Bytes of live state and table."""
        cdef uint64_t each = sizeof(flow) + sizeof(flow_rest)
        if self.ct.linked:
            each += sizeof(flow_link)
        return (
            self.ct.flows.used * each
            + self.ct.analyses.used * (sizeof(analysis) + sizeof(analysis_more))
            + self.ct.rares.pool.used * sizeof(analysis_rare)
            + self.ct.fars.pool.used * sizeof(analysis_far)
            + self.ct.addrs.used * sizeof(flow_addrs)
            + (self.ct.flows.used * sizeof(flow_outer) if self.ct.outers.n_chunks else 0)
            + (sizeof(bucket) << self.ct.table.shift)
            + self.ct.queues.live_skbs * SKB_SIZE
            + self.ct.queues.live_socks * SOCK_SIZE
        )

    def capture(self):
        """What is known of the current input."""
        cdef bint some = self.input.packets > 0
        return {
            "format": FORMATS[self.cap.fmt],
            "link_types": [self.cap.linktypes[i] for i in range(self.cap.n_linktypes)],
            "packets": self.input.packets,
            "bytes": self.input.bytes,
            "first_ns": self.input.first_ns if some else None,
            "last_ns": self.input.last_ns if some else None,
        }

    def summary(self, top=10):
        """Everything at a glance: totals, states, busiest connections, drops, counters."""
        cdef departed *gone = NULL
        cdef bint some
        self.enter()
        try:
            gone = <departed *>malloc(sizeof(departed))
            if gone == NULL:
                raise MemoryError()
            with nogil:
                gone[0] = self.ct.departed[0]
                depart_rest(self.ct, gone)
            states = {
                (i, j): gone.states[i][j]
                for i in range(TCP_MAX_STATES)
                for j in range(TCP_MAX_STATES)
                if gone.states[i][j]
            }
            busiest = [row_dict(&gone.top[i]) for i in range(min(top, gone.n_top))]
            some = self.total.packets > 0
            return {
                "packets": self.total.packets,
                "bytes": self.total.bytes,
                "tcp_segments": self.ct.tcp_segments,
                "connections": self.ct.connections,
                "first_ns": self.total.first_ns if some else None,
                "last_ns": self.total.last_ns if some else None,
                "states": states,
                "top": busiest,
                "filtered": self.ct.drops[SOCKET_FILTER],
                "drops": {
                    i: self.ct.drops[i] for i in range(1, SOCKET_FILTER) if self.ct.drops[i]
                },
                "bad_ip_checksums": self.ct.net.mib[IP_CSUMERRORS],
                "bad_tcp_checksums": (gone.bad_checksum[0], gone.bad_checksum[1]),
                "evicted": self.ct.evicted,
                "expired": self.ct.expired,
                "time_clamped": self.total.clamped,
                "repaired": self.repaired + self.cap.repaired,
                "offload": offload_dict(self.ct.offload),
                "analysis": analysis_dict(self.ct, gone),
                "live": self.ct.live,
                "streams_given_up": self.ct.queues.given_up,
                "stream_bytes_given_up": self.ct.queues.given_up_bytes,
                "counters": [self.ct.net.mib[i] for i in range(NR_MIBS)],
            }
        finally:
            free(gone)
            self.leave()

    def connections(self, names, bint final=False):
        """Columns of the connections' rows: (rows, {name: buffer})."""
        cdef row_place *places = NULL
        cdef _Column piece
        cdef uint64_t n
        cdef int column, wanted = 0
        cdef bint zeros
        cdef dict made = {}
        cdef uint8_t *out[N_COLUMNS]
        cdef int columns[N_COLUMNS]
        cdef list found = columns_named(CONNECTIONS, names)
        self.enter()
        try:
            if self.ct.linked:
                n = self.ct.ended.used
                if self.ct.rows == ROWS_KEEP or final:
                    n += self.ct.live
                places = <row_place *>malloc((n or 1) * sizeof(row_place))
                if places == NULL:
                    raise MemoryError()
                with nogil:
                    place_rows(self.ct, places, n)
            else:
                n = self.ct.flows.used
            for column in found:
                zeros = column_is_zero(self.ct, column)
                piece = column_of(n * column_size(column), zeros)
                made[CONNECTIONS[column]] = piece
                if zeros:
                    continue
                out[wanted] = <uint8_t *>piece.data
                columns[wanted] = column
                wanted += 1
            with nogil:
                fill_rows(self.ct, places, n, columns, out, wanted)
            return n, made
        finally:
            free(places)
            self.leave()

    def packets(self, names):
        """Columns of the packets' rows: (rows, {name: buffer})."""
        cdef _Column column
        cdef int i
        cdef list found = columns_named(PACKETS, names)
        columns = {}
        self.enter()
        try:
            for i in found:
                if self.rows.columns[i] == NULL:
                    columns[PACKETS[i]] = b""
                    continue
                if not self.rows.shared[i]:
                    column = _Column.__new__(_Column)
                    column.data = self.rows.columns[i]
                    column.size = column.length = self.rows.room * packet_column_size(i)
                    self.owners[i] = column
                    self.rows.shared[i] = 1
                # Rows that come later are not in it, though they lie in the same memory.
                columns[PACKETS[i]] = memoryview(self.owners[i])[
                    : self.rows.used * packet_column_size(i)
                ]
            return self.rows.used, columns
        finally:
            self.leave()

    def drain(self):
        """Forget the packets' rows and those of ended connections: they were handed out."""
        self.enter()
        try:
            packet_rows_free(&self.rows)
            self.disown()
            if self.ct.rows == ROWS_DRAIN:
                conntrack_drain(self.ct)
        finally:
            self.leave()


include "conntrack.pxi"
include "streams.pxi"
include "doors.pxi"
include "tcp_info.pxi"
include "core_net.pxi"
