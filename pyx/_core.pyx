# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The seam: captures in, columns out. One handle class over the structs; all below it runs without
the GIL and knows no Python.

Linux: include/net/net_namespace.h (struct net).  docs/architecture.md, "The seam".
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport (
    INT64_MAX,
    INT64_MIN,
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy, memset

from csum cimport csum_fold, csum_partial, tcpcore_isa, tcpcore_isa_select
from inet_hashtables cimport flow_hash as c_flow_hash
from inet_hashtables cimport bucket
from ip_input cimport ip_rcv
from net cimport net
from pcap cimport *
from secure_seq cimport siphash as c_siphash
from slab cimport slab_at, vfree, vgrow, vzalloc
from tcb cimport tcb_rcv as c_tcb_rcv
from tcb cimport tcb_xmit as c_tcb_xmit
from tcb cimport tcp_sequence as c_tcp_sequence
from tcp cimport *
from tcp_conntrack cimport (
    BATCH,
    IDLE,
    NIL,
    ROWS_DRAIN,
    ROWS_KEEP,
    TOP_MAX,
    addrs_of,
    batch,
    conntrack,
    conntrack_depart,
    conntrack_free,
    conntrack_init,
    conntrack_parse,
    depart,
    departed,
    fate,
    flow_addrs_v4,
    flow_at,
    flow_completeness,
    flow_frame_bytes,
    link_at,
    rest_at,
    tcp_conntrack_batch,
)
from wire cimport tcp_parse_options

ENGINE = "compiled"
CHUNK = 256 << 10  # fits the second-level cache beside the batch

FORMATS = ("", "pcap", "pcap-ns", "pcap-modified", "pcapng")
PCAP_REASONS = (
    "",
    "not a pcap or pcapng capture",
    "file header is cut",
    "record header is cut",
    "record is cut",
    "record claims {} bytes",
    "block header is cut",
    "block is cut",
    "block claims {} bytes",
    "block lengths differ",
    "section has no byte-order magic",
    "section is of version {}",
    "section has more than 65536 interfaces",
    "packet of interface {}, which is not declared",
    "packet claims {} bytes",
    "no memory for the interface",
)

tcpcore_isa_select(NULL)


def isa():
    """The instruction set that checksum and hash run on: 'avx512', 'avx2' or 'baseline'."""
    return tcpcore_isa().decode()


def isa_select(name):
    """Force an instruction set, for tests and comparisons; ValueError if the machine lacks it."""
    if tcpcore_isa_select(name.encode()):
        raise ValueError(f"no instruction set {name!r} here; this machine runs {isa()!r}")


# ---- columns out

cdef class Region:
    """Memory that the engine made and a column reads: freed when the last reader lets go."""

    cdef void *data
    cdef size_t size  # bytes mapped
    cdef size_t length  # bytes shown

    def __dealloc__(self):
        vfree(self.data, self.size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 1, flags)

    def __len__(self):
        return self.length


cdef char EMPTY[1]


cdef Region region(size_t length):
    """A writable piece for one column, zeroed."""
    cdef Region made = Region.__new__(Region)
    made.length = length
    made.size = length or 1
    made.data = vzalloc(made.size)
    if made.data == NULL:
        made.size = 0
        raise MemoryError(f"no {length} bytes for a column")
    return made


# The columns of tcpcore/columns.py in its order; a test holds the two equal.
cdef enum:  # Column
    C_CONN, C_IP, C_A_ADDR, C_A_PORT, C_B_ADDR, C_B_PORT
    C_FIRST_NS, C_LAST_NS, C_FIRST_PACKET
    C_PACKETS_AB, C_PACKETS_BA, C_FRAME_BYTES_AB, C_FRAME_BYTES_BA
    C_PAYLOAD_BYTES_AB, C_PAYLOAD_BYTES_BA, C_FLAGS_AB, C_FLAGS_BA, C_ISN_AB, C_ISN_BA
    C_MSS_AB, C_MSS_BA, C_WSCALE_AB, C_WSCALE_BA, C_SACK_PERMITTED_AB, C_SACK_PERMITTED_BA
    C_TIMESTAMPS_AB, C_TIMESTAMPS_BA, C_BAD_CHECKSUM_AB, C_BAD_CHECKSUM_BA
    C_STATE_A, C_STATE_B, C_COMPLETENESS, C_INITIAL_RTT_NS

CONNECTIONS = tuple(
    "conn ip a_addr a_port b_addr b_port first_ns last_ns first_packet packets_ab packets_ba "
    "frame_bytes_ab frame_bytes_ba payload_bytes_ab payload_bytes_ba flags_ab flags_ba isn_ab "
    "isn_ba mss_ab mss_ba wscale_ab wscale_ba sack_permitted_ab sack_permitted_ba timestamps_ab "
    "timestamps_ba bad_checksum_ab bad_checksum_ba state_a state_b completeness "
    "initial_rtt_ns".split()
)
CONNECTION_SIZES = bytes(
    [8, 1, 16, 2, 16, 2, 8, 8, 8] + [8] * 6 + [2, 2, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1, 8, 8, 1, 1, 1, 8]
)

cdef enum:  # PacketColumn
    P_PACKET, P_FILE, P_CONN, P_DIR, P_TIME_NS, P_OFFSET, P_CAPLEN, P_WIRELEN
    P_SEQ, P_ACK, P_FLAGS, P_WINDOW, P_PAYLOAD_LEN, P_VERDICT, P_DROP_REASON
    N_PACKET_COLUMNS

PACKETS = tuple(
    "packet file conn dir time_ns offset caplen wirelen seq ack flags window payload_len verdict "
    "drop_reason".split()
)
PACKET_SIZES = bytes([8, 4, 8, 1, 8, 8, 4, 4, 4, 4, 2, 4, 4, 4, 1])

cdef enum:
    BLOCK = 128  # rows made together: their flows stay in the first-level cache
    FIRST_ROWS = 1 << 15

cdef struct packet_rows:
    uint8_t *columns[N_PACKET_COLUMNS]
    uint8_t sizes[N_PACKET_COLUMNS]
    size_t used
    size_t room


cdef inline int64_t wide(uint32_t low, uint16_t high) noexcept nogil:
    return <int64_t>high << 32 | low


# One row's sources.
cdef struct row_source:
    const flow *fl
    const flow_rest *rest
    const flow_addrs *addrs  # NULL for IPv4
    uint64_t conn


cdef void fill_end(
    int column, int side, const row_source *rows, int n, uint8_t *out
) noexcept nogil:
    """One column of one end, `n` rows; `column` is the one of a."""
    cdef int i
    cdef const end *e
    cdef const flow_rest *rest
    for i in range(n):
        e = &rows[i].fl.ends[side]
        rest = rows[i].rest
        if column == C_PACKETS_AB:
            (<int64_t *>out)[i] = wide(e.packets, rest.packets_hi[side])
        elif column == C_FRAME_BYTES_AB:
            (<int64_t *>out)[i] = wide(e.frame_bytes, rest.frame_bytes_hi[side])
        elif column == C_PAYLOAD_BYTES_AB:
            (<int64_t *>out)[i] = wide(e.payload_bytes, rest.payload_bytes_hi[side])
        elif column == C_FLAGS_AB:
            (<uint16_t *>out)[i] = e.flags
        elif column == C_ISN_AB:
            (<int64_t *>out)[i] = <int64_t>rest.isn[side] if e.opts & OPT_ISN else -1
        elif column == C_MSS_AB:
            (<int32_t *>out)[i] = <int32_t>rest.mss[side] if e.opts & OPT_MSS else -1
        elif column == C_WSCALE_AB:
            (<int16_t *>out)[i] = <int16_t>rest.wscale[side] if e.opts & OPT_WSCALE else -1
        elif column == C_SACK_PERMITTED_AB:
            out[i] = (e.opts & OPT_SACK_PERM) != 0
        elif column == C_TIMESTAMPS_AB:
            out[i] = (e.opts & OPT_TIMESTAMP) != 0
        else:
            (<int64_t *>out)[i] = rest.bad_checksum[side]


cdef void fill(int column, const row_source *rows, int n, uint8_t *out) noexcept nogil:
    """One column of `n` rows."""
    cdef int i
    cdef const flow *f
    cdef flow_addrs v4
    cdef const flow_addrs *addrs
    if C_PACKETS_AB <= column <= C_BAD_CHECKSUM_BA:
        i = (column - C_PACKETS_AB) & 1
        fill_end(column - i, i, rows, n, out)
        return
    for i in range(n):
        f = rows[i].fl
        if column == C_CONN:
            (<int64_t *>out)[i] = rows[i].conn
        elif column == C_IP:
            out[i] = f.ip
        elif column == C_A_ADDR or column == C_B_ADDR:
            addrs = rows[i].addrs
            if addrs == NULL:
                flow_addrs_v4(f, &v4)
                addrs = &v4
            if column == C_A_ADDR:
                memcpy(out + 16 * i, addrs.a, 16)
            else:
                memcpy(out + 16 * i, addrs.b, 16)
        elif column == C_A_PORT:
            (<uint16_t *>out)[i] = f.a_port
        elif column == C_B_PORT:
            (<uint16_t *>out)[i] = f.b_port
        elif column == C_FIRST_NS:
            (<int64_t *>out)[i] = rows[i].rest.first_ns
        elif column == C_FIRST_PACKET:
            (<int64_t *>out)[i] = rows[i].rest.first_packet
        elif column == C_LAST_NS:
            (<int64_t *>out)[i] = f.last_ns
        elif column == C_STATE_A:
            out[i] = f.ends[0].tcb.state
        elif column == C_STATE_B:
            out[i] = f.ends[1].tcb.state
        elif column == C_COMPLETENESS:
            out[i] = flow_completeness(f, rows[i].rest)
        else:
            (<int64_t *>out)[i] = rows[i].rest.rtt_ns if f.bits & FLOW_RTT else -1


# Where a row lies: a live flow's index, or ENDED and an ended row's.
cdef struct row_place:
    uint64_t conn
    uint32_t index
    uint32_t ended


cdef int by_conn(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const row_place *>a).conn, y = (<const row_place *>b).conn
    return (x > y) - (x < y)


cdef struct totals:
    int64_t packets
    int64_t bytes
    int64_t first_ns
    int64_t last_ns


cdef inline void totals_clear(totals *t) noexcept nogil:
    t.packets = t.bytes = 0
    t.first_ns = INT64_MAX
    t.last_ns = INT64_MIN


cdef class Conntrack:
    """Follows both ends of every connection of the captures that are fed to it."""

    cdef conntrack *ct
    cdef capture cap
    cdef batch *batches
    cdef packet_rows rows
    cdef list owners  # of packet columns that were handed out: a Region each, else None
    cdef totals total
    cdef totals input
    cdef uint64_t numbered  # frames seen, those outside the time window too
    cdef uint64_t count
    cdef int64_t from_ns
    cdef int64_t to_ns
    cdef uint64_t time_clamped
    cdef int file
    cdef bint want_packets
    cdef bint busy

    def __cinit__(self):
        self.ct = <conntrack *>vzalloc(sizeof(conntrack))
        self.batches = <batch *>vzalloc(3 * sizeof(batch))
        if self.ct == NULL or self.batches == NULL:
            raise MemoryError()
        memcpy(self.rows.sizes, PyBytes_AS_STRING(PACKET_SIZES), N_PACKET_COLUMNS)
        self.owners = [None] * N_PACKET_COLUMNS
        totals_clear(&self.total)
        totals_clear(&self.input)

    def __init__(
        self,
        *,
        bint packets=False,
        bint strict=False,
        str rows="keep",
        uint64_t max_connections=0,
        uint64_t expire_idle_ns=0,
        uint64_t expire_closed_ns=0,
        int64_t from_ns=INT64_MIN,
        int64_t to_ns=INT64_MAX,
        uint64_t count=0,
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
        self.ct.rows = ("keep", "drain", "drop").index(rows)
        self.ct.max_connections = max_connections
        self.ct.expire_idle_ns = expire_idle_ns
        self.ct.expire_closed_ns = expire_closed_ns
        self.ct.bounded = bool(max_connections or expire_idle_ns or expire_closed_ns)
        self.ct.linked = self.ct.bounded or self.ct.rows != ROWS_KEEP
        self.want_packets = self.ct.want_fates = packets
        self.from_ns = from_ns
        self.to_ns = to_ns
        self.count = count
        self.ct.departed = <departed *>vzalloc(sizeof(departed))
        if self.ct.departed == NULL or conntrack_init(self.ct) or pcap_open(&self.cap):
            raise MemoryError()

    def __dealloc__(self):
        cdef int i
        pcap_close(&self.cap)
        if self.ct != NULL:
            conntrack_free(self.ct)
            vfree(self.ct.departed, sizeof(departed))
            vfree(self.ct, sizeof(conntrack))
        vfree(self.batches, 3 * sizeof(batch))
        for i in range(N_PACKET_COLUMNS):
            if self.owners is None or self.owners[i] is None:
                vfree(self.rows.columns[i], self.rows.room * self.rows.sizes[i])

    # ---- captures in

    def begin(self, int file):
        """A new input starts; `file` is its number in the column of that name."""
        self.enter()
        self.busy = False
        self.file = file
        totals_clear(&self.input)
        if pcap_open(&self.cap):
            raise MemoryError()

    def feed(self, data, Py_ssize_t length):
        """Process the whole records in data[:length]; returns the bytes consumed."""
        cdef Py_buffer view
        cdef Py_ssize_t consumed
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= length <= view.len or length > 1 << 30:
                raise ValueError(f"length {length} is not within the data's {view.len} bytes")
            self.enter()
            with nogil:
                consumed = self.feed_records(<const uint8_t *>view.buf, <uint32_t>length)
            self.busy = False
        finally:
            PyBuffer_Release(&view)
        if consumed < 0:
            raise MemoryError("no memory to follow more connections")
        return consumed

    def end(self, uint32_t left):
        """The input is at its end with `left` bytes that feed did not take."""
        pcap_end(&self.cap, left)

    cdef int enter(self) except -1:
        if self.busy:
            raise RuntimeError("this Conntrack is at work in another thread")
        self.busy = True
        return 0

    cdef Py_ssize_t feed_records(self, const uint8_t *data, uint32_t length) noexcept nogil:
        """Three batches at a time: while one is followed, the lines of two are on their way."""
        cdef batch *now = &self.batches[0]
        cdef batch *next = &self.batches[1]
        cdef batch *last = &self.batches[2]
        cdef uint32_t consumed = 0
        cdef uint64_t limit
        cdef int found
        now.n = now.m = next.n = next.m = 0
        while True:
            limit = BATCH
            if self.count and self.count - self.total.packets < limit:
                limit = self.count - self.total.packets
            found = 0
            if limit:
                consumed += pcap_index(
                    &self.cap, data + consumed, length - consumed, last.frames, <int>limit, &found
                )
            last.n = self.take(last.frames, last.packets, found)
            conntrack_parse(self.ct, last)
            if tcp_conntrack_batch(self.ct, now, next, last) or self.settle(now):
                return -1
            if not (found or last.n or next.n):
                break
            now, next, last = next, last, now
        return consumed

    cdef int take(self, frame *frames, uint64_t *packets, int n) noexcept nogil:
        """Number the frames, leave out those of other times, sum the rest up; how many are left."""
        cdef int64_t from_ns = self.from_ns, to_ns = self.to_ns, time_ns
        cdef int64_t first_ns = self.input.first_ns, last_ns = self.input.last_ns
        cdef uint64_t number = self.numbered, total = 0
        cdef int i, m = 0, clamped = 0
        if from_ns != INT64_MIN or to_ns != INT64_MAX:
            for i in range(n):
                number += 1
                if frames[i].time_ns < from_ns or frames[i].time_ns >= to_ns:
                    continue
                frames[m] = frames[i]
                packets[m] = number
                m += 1
            n = m
        else:
            for i in range(n):
                packets[i] = number + i + 1
            number += n
        for i in range(n):
            time_ns = frames[i].time_ns
            total += frames[i].wirelen
            first_ns = min(first_ns, time_ns)
            last_ns = max(last_ns, time_ns)
            clamped += frames[i].clamped
        self.numbered = number
        self.time_clamped += clamped
        self.input.packets += n
        self.input.bytes += total
        self.input.first_ns = first_ns
        self.input.last_ns = last_ns
        self.total.packets += n
        self.total.bytes += total
        self.total.first_ns = min(self.total.first_ns, first_ns)
        self.total.last_ns = max(self.total.last_ns, last_ns)
        return n

    cdef int settle(self, const batch *b) noexcept nogil:
        """Write the packets' rows; -1 without memory."""
        cdef const frame *frames = &b.frames[0]
        cdef const segment *segs = &b.segs[0]
        cdef const fate *fates = &b.fates[0]
        cdef int i, n = b.n
        cdef uint8_t **to = &self.rows.columns[0]
        cdef size_t row = self.rows.used
        if not self.want_packets:
            return 0
        if row + n > self.rows.room and self.grow_rows():
            return -1
        for i in range(n):
            (<int64_t *>to[P_PACKET])[row + i] = b.packets[i]
        for i in range(n):
            (<int32_t *>to[P_FILE])[row + i] = self.file
        for i in range(n):
            (<int64_t *>to[P_TIME_NS])[row + i] = frames[i].time_ns
        for i in range(n):
            (<int64_t *>to[P_OFFSET])[row + i] = frames[i].offset
        for i in range(n):
            (<uint32_t *>to[P_CAPLEN])[row + i] = frames[i].caplen
            (<uint32_t *>to[P_WIRELEN])[row + i] = frames[i].wirelen
        for i in range(n):
            to[P_DROP_REASON][row + i] = fates[i].drop
            if 0 < fates[i].drop < IP_CSUM:
                (<int64_t *>to[P_CONN])[row + i] = -1
                (<int8_t *>to[P_DIR])[row + i] = -1
                (<uint32_t *>to[P_VERDICT])[row + i] = 0
                (<uint32_t *>to[P_SEQ])[row + i] = 0
                (<uint32_t *>to[P_ACK])[row + i] = 0
                (<uint16_t *>to[P_FLAGS])[row + i] = 0
                (<uint32_t *>to[P_WINDOW])[row + i] = 0
                (<uint32_t *>to[P_PAYLOAD_LEN])[row + i] = 0
            else:
                (<int64_t *>to[P_CONN])[row + i] = fates[i].conn
                (<int8_t *>to[P_DIR])[row + i] = fates[i].dir
                (<uint32_t *>to[P_VERDICT])[row + i] = fates[i].verdict
                (<uint32_t *>to[P_SEQ])[row + i] = segs[i].seq
                (<uint32_t *>to[P_ACK])[row + i] = segs[i].ack
                (<uint16_t *>to[P_FLAGS])[row + i] = segs[i].flags
                (<uint32_t *>to[P_WINDOW])[row + i] = fates[i].window
                (<uint32_t *>to[P_PAYLOAD_LEN])[row + i] = segs[i].payload_len
            if frames[i].clamped:
                (<uint32_t *>to[P_VERDICT])[row + i] |= CT_TIME_CLAMPED
        self.rows.used += n
        return 0

    cdef int grow_rows(self) noexcept nogil:
        """Room for twice as many rows; -1 without memory."""
        cdef size_t room = self.rows.room * 2 if self.rows.room else FIRST_ROWS
        cdef void *more
        cdef int i
        cdef bint shared
        for i in range(N_PACKET_COLUMNS):
            with gil:
                shared = self.owners[i] is not None
            if shared:  # a reader holds it: go on in a copy
                more = vzalloc(room * self.rows.sizes[i])
                if more != NULL:
                    memcpy(more, self.rows.columns[i], self.rows.used * self.rows.sizes[i])
            else:
                more = vgrow(
                    self.rows.columns[i],
                    self.rows.room * self.rows.sizes[i],
                    room * self.rows.sizes[i],
                )
            if more == NULL:
                return -1
            self.rows.columns[i] = <uint8_t *>more
            if shared:
                with gil:
                    self.owners[i] = None
        self.rows.room = room
        return 0

    @property
    def done(self):
        """True when this input is damaged or enough frames were taken."""
        return bool(self.cap.damage) or (
            self.count != 0 and <uint64_t>self.total.packets >= self.count
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
    def memory(self):
        """Bytes of live state and table."""
        cdef uint64_t each = sizeof(flow) + sizeof(flow_rest)
        if self.ct.linked:
            each += sizeof(flow_link)
        return (
            self.ct.flows.used * each
            + self.ct.addrs.used * sizeof(flow_addrs)
            + (sizeof(bucket) << self.ct.table.shift)
        )

    # ---- summary and columns out

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
        cdef departed *gone = <departed *>malloc(sizeof(departed))
        cdef int i, j
        cdef bint some = self.total.packets > 0
        if gone == NULL:
            raise MemoryError()
        try:
            self.enter()
            with nogil:
                gone[0] = self.ct.departed[0]
                self.depart_rest(gone)
            self.busy = False
            states = {
                (i, j): gone.states[i][j]
                for i in range(TCP_MAX_STATES)
                for j in range(TCP_MAX_STATES)
                if gone.states[i][j]
            }
            busiest = [row_dict(&gone.top[i]) for i in range(min(top, gone.n_top))]
            bad = (gone.bad_checksum[0], gone.bad_checksum[1])
        finally:
            free(gone)
        return {
            "packets": self.total.packets,
            "bytes": self.total.bytes,
            "tcp_segments": self.ct.tcp_segments,
            "connections": self.ct.connections,
            "first_ns": self.total.first_ns if some else None,
            "last_ns": self.total.last_ns if some else None,
            "states": states,
            "top": busiest,
            "drops": {i: self.ct.drops[i] for i in range(1, NR_DROPS) if self.ct.drops[i]},
            "bad_ip_checksums": self.ct.net.mib[IP_CSUMERRORS],
            "bad_tcp_checksums": bad,
            "evicted": self.ct.evicted,
            "expired": self.ct.expired,
            "time_clamped": self.time_clamped,
            "live": self.ct.live,
            "counters": [self.ct.net.mib[i] for i in range(NR_MIBS)],
        }

    cdef void depart_rest(self, departed *gone) noexcept nogil:
        """Fold in every connection whose row is still here."""
        cdef conntrack *ct = self.ct
        cdef uint32_t i
        cdef int at
        cdef flow_row *row
        if ct.rows == ROWS_KEEP:
            for i in range(ct.ended.used):
                row = <flow_row *>slab_at(&ct.ended, i)
                at = depart(gone, &row.flow, &row.rest, row.conn)
                if at >= 0:
                    gone.top[at] = row[0]
        if not ct.linked:
            for i in range(ct.flows.used):
                conntrack_depart(ct, gone, i)
            return
        i = ct.idle.head
        while i != <uint32_t>NIL:
            conntrack_depart(ct, gone, i)
            i = link_at(ct, i).next[IDLE]

    def connections(self, names, bint final=False):
        """Columns of the connections' rows: (rows, {name: buffer})."""
        cdef row_place *places = NULL
        cdef uint64_t n
        cdef int k, column
        cdef list regions = []
        cdef uint8_t *out[64]
        cdef int columns[64]
        cdef Region made
        names = list(names)
        if len(set(names)) != len(names):
            raise ValueError("a column is named twice")
        self.enter()
        try:
            if self.ct.linked:
                n = self.ct.ended.used
                if self.ct.rows == ROWS_KEEP or final:
                    n += self.ct.live
                places = <row_place *>malloc((n or 1) * sizeof(row_place))
                if places == NULL:
                    raise MemoryError()
                self.place_rows(places, n)
            else:
                n = self.ct.flows.used
            for k, name in enumerate(names):
                if name not in CONNECTIONS:
                    raise KeyError(name)
                column = CONNECTIONS.index(name)
                made = region(n * CONNECTION_SIZES[column])
                regions.append(made)
                out[k] = <uint8_t *>made.data
                columns[k] = column
            k = len(names)
            with nogil:
                self.fill_rows(places, n, columns, out, k)
        finally:
            self.busy = False
            free(places)
        return n, dict(zip(names, regions))

    cdef void place_rows(self, row_place *places, uint64_t n) noexcept nogil:
        """Ended rows in order of closing, then the live ones by conn; all by conn if they stay."""
        cdef conntrack *ct = self.ct
        cdef uint64_t i = 0
        cdef uint32_t index
        for i in range(ct.ended.used):
            places[i].conn = (<flow_row *>slab_at(&ct.ended, <uint32_t>i)).conn
            places[i].index = <uint32_t>i
            places[i].ended = 1
        i = ct.ended.used
        if n > i:
            index = ct.idle.head
            while index != <uint32_t>NIL:
                places[i].conn = link_at(ct, index).conn
                places[i].index = index
                places[i].ended = 0
                i += 1
                index = link_at(ct, index).next[IDLE]
        if ct.rows == ROWS_KEEP:
            qsort(places, n, sizeof(row_place), by_conn)
        elif n > ct.ended.used:
            qsort(places + ct.ended.used, n - ct.ended.used, sizeof(row_place), by_conn)

    cdef void fill_rows(
        self, const row_place *places, uint64_t n, const int *columns, uint8_t **out, int wanted
    ) noexcept nogil:
        """Make the wanted columns block by block, so that a flow is fetched once for all of them."""
        cdef row_source rows[BLOCK]
        cdef uint8_t sizes[64]
        cdef conntrack *ct = self.ct
        cdef flow_row *row
        cdef uint64_t begin = 0
        cdef uint32_t index
        cdef int i, k, m
        for k in range(wanted):
            sizes[k] = column_size(columns[k])
        while begin < n:
            m = <int>min(n - begin, <uint64_t>BLOCK)
            for i in range(m):
                if places == NULL:
                    index = <uint32_t>(begin + i)
                    rows[i].conn = index
                else:
                    index = places[begin + i].index
                    rows[i].conn = places[begin + i].conn
                    if places[begin + i].ended:
                        row = <flow_row *>slab_at(&ct.ended, index)
                        rows[i].fl = &row.flow
                        rows[i].rest = &row.rest
                        rows[i].addrs = &row.addrs
                        continue
                rows[i].fl = flow_at(ct, index)
                rows[i].rest = rest_at(ct, index)
                rows[i].addrs = addrs_of(ct, rows[i].fl, index)
            for k in range(wanted):
                fill(columns[k], rows, m, out[k] + begin * sizes[k])
            begin += m

    def packets(self, names):
        """Columns of the packets' rows: (rows, {name: buffer})."""
        cdef Region made
        cdef int i
        columns = {}
        self.enter()
        try:
            for name in names:
                if name not in PACKETS:
                    raise KeyError(name)
                i = PACKETS.index(name)
                if self.owners[i] is None or (<Region>self.owners[i]).data == NULL:
                    made = Region.__new__(Region)
                    made.data = self.rows.columns[i]
                    made.size = self.rows.room * self.rows.sizes[i]
                    if made.data == NULL:
                        columns[name] = b""
                        continue
                    self.owners[i] = made
                (<Region>self.owners[i]).length = self.rows.used * self.rows.sizes[i]
                columns[name] = self.owners[i]
        finally:
            self.busy = False
        return self.rows.used, columns

    def drain(self):
        """Forget the packets' rows and those of ended connections: they were handed out."""
        cdef int i
        self.enter()
        for i in range(N_PACKET_COLUMNS):
            if self.owners[i] is None:
                vfree(self.rows.columns[i], self.rows.room * self.rows.sizes[i])
            self.owners[i] = None
            self.rows.columns[i] = NULL
        self.rows.used = self.rows.room = 0
        if self.ct.rows == ROWS_DRAIN:
            self.ct.ended.used = 0
        self.busy = False


cdef inline uint8_t column_size(int column) noexcept nogil:
    if column == C_A_ADDR or column == C_B_ADDR:
        return 16
    if column == C_A_PORT or column == C_B_PORT:
        return 2
    if C_FLAGS_AB <= column <= C_FLAGS_BA or C_WSCALE_AB <= column <= C_WSCALE_BA:
        return 2
    if C_MSS_AB <= column <= C_MSS_BA:
        return 4
    if column == C_IP or C_STATE_A <= column <= C_COMPLETENESS:
        return 1
    if C_SACK_PERMITTED_AB <= column <= C_TIMESTAMPS_BA:
        return 1
    return 8


cdef dict row_dict(const flow_row *row):
    cdef const end *a = &row.flow.ends[0]
    cdef const end *b = &row.flow.ends[1]
    return {
        "conn": row.conn,
        "ip": row.flow.ip,
        "a_addr": PyBytes_FromStringAndSize(<const char *>row.addrs.a, 16),
        "a_port": row.flow.a_port,
        "b_addr": PyBytes_FromStringAndSize(<const char *>row.addrs.b, 16),
        "b_port": row.flow.b_port,
        "packets": wide(a.packets, row.rest.packets_hi[0]) + wide(b.packets, row.rest.packets_hi[1]),
        "frame_bytes": <int64_t>flow_frame_bytes(&row.flow, &row.rest),
        "payload_bytes": wide(a.payload_bytes, row.rest.payload_bytes_hi[0])
        + wide(b.payload_bytes, row.rest.payload_bytes_hi[1]),
        "state_a": a.tcb.state,
        "state_b": b.tcb.state,
        "first_ns": row.rest.first_ns,
        "last_ns": row.flow.last_ns,
    }


# ---- doors to lower floors, for the tests that hold the twins equal


def pcap_peek(data, Py_ssize_t length):
    """The format of an input by its first bytes, and the time of its first frame in ns or None."""
    cdef capture cap
    cdef frame first
    cdef Py_buffer view
    cdef int n = 0
    memset(&cap, 0, sizeof(cap))
    if pcap_open(&cap):
        raise MemoryError()
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= length <= view.len or length > 1 << 30:
            raise ValueError(f"length {length} is not within the data's {view.len} bytes")
        pcap_index(&cap, <const uint8_t *>view.buf, <uint32_t>length, &first, 1, &n)
        return FORMATS[cap.fmt], first.time_ns if n else None
    finally:
        PyBuffer_Release(&view)
        pcap_close(&cap)


def csum(bytes data, uint32_t start=0):
    """The folded ones' complement sum of data, in network order."""
    cdef uint16_t folded = csum_fold(
        csum_partial(PyBytes_AS_STRING(data), len(data), cpu_to_be16_sum(start))
    )
    return (folded >> 8) | ((folded & 0xFF) << 8)


cdef inline uint32_t cpu_to_be16_sum(uint32_t start) noexcept nogil:
    cdef uint16_t folded = csum_fold(start)
    return (folded >> 8) | ((folded & 0xFF) << 8)


def siphash(bytes key, bytes data):
    """SipHash-2-4 of data, 64 bits."""
    cdef uint64_t k[2]
    if len(key) != 16:
        raise ValueError(f"key must have 16 bytes, not {len(key)}")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    return c_siphash(k, PyBytes_AS_STRING(data), len(data))


def flow_hash(bytes key, bytes saddr, bytes daddr, uint16_t sport, uint16_t dport):
    """The hash of a 4-tuple, the same for both directions."""
    cdef uint64_t k[2]
    if len(key) != 16 or len(saddr) != 16 or len(daddr) != 16:
        raise ValueError("key and addresses have 16 bytes")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    return c_flow_hash(
        k,
        <const uint8_t *>PyBytes_AS_STRING(saddr),
        <const uint8_t *>PyBytes_AS_STRING(daddr),
        sport,
        dport,
    )


def parse_frame(int linktype, bytes data, uint32_t wirelen):
    """Every field of the segment in a frame, or only `drop` where it is none."""
    cdef frame at
    cdef segment seg
    cdef net n
    cdef int drop
    cdef dict fields
    memset(&at, 0, sizeof(at))
    memset(&seg, 0, sizeof(seg))
    memset(&n, 0, sizeof(n))
    at.data = <const uint8_t *>PyBytes_AS_STRING(data)
    at.caplen = len(data)
    at.wirelen = max(<uint32_t>len(data), wirelen)
    at.linktype = linktype
    drop = ip_rcv(&n, &at, &seg)
    if drop:
        return {"drop": drop}
    fields = seg
    fields["saddr"] = PyBytes_FromStringAndSize(<const char *>seg.saddr, 16)
    fields["daddr"] = PyBytes_FromStringAndSize(<const char *>seg.daddr, 16)
    return fields


def parse_options(bytes options):
    """The options that a header's option bytes hold."""
    cdef segment seg
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(options)
    memset(&seg, 0, sizeof(seg))
    tcp_parse_options(&seg, data, data + len(options))
    return {
        "opts": seg.opts,
        "mss": seg.mss,
        "wscale": seg.wscale,
        "tsval": seg.tsval,
        "tsecr": seg.tsecr,
    }


cdef int fill_segment(segment *seg, dict fields) except -1:
    """A segment from its judged fields; what is not named is 0, end_seq follows from the rest."""
    memset(seg, 0, sizeof(seg[0]))
    seg.seq = fields.get("seq", 0)
    seg.ack = fields.get("ack", 0)
    seg.flags = fields.get("flags", 0)
    seg.window = fields.get("window", 0)
    seg.payload_len = fields.get("payload_len", 0)
    seg.opts = fields.get("opts", 0)
    seg.mss = fields.get("mss", 0)
    seg.wscale = fields.get("wscale", 0)
    seg.tsval = fields.get("tsval", 0)
    seg.tsecr = fields.get("tsecr", 0)
    seg.end_seq = (
        seg.seq
        + seg.payload_len
        + ((seg.flags & TCPHDR_SYN) != 0)
        + ((seg.flags & TCPHDR_FIN) != 0)
    )
    return 0


cdef int fill_tcb(tcb *tp, dict fields) except -1:
    memset(tp, 0, sizeof(tp[0]))
    tp.state = fields.get("state", TCP_CLOSE)
    tp.snd_una = fields.get("snd_una", 0)
    tp.snd_nxt = fields.get("snd_nxt", 0)
    tp.snd_wl1 = fields.get("snd_wl1", 0)
    tp.snd_wnd = fields.get("snd_wnd", 0)
    tp.max_window = fields.get("max_window", 0)
    tp.rcv_nxt = fields.get("rcv_nxt", 0)
    tp.rcv_mwnd_seq = fields.get("rcv_mwnd_seq", 0)
    tp.ts_recent = fields.get("ts_recent", 0)
    tp.snd_wscale = fields.get("snd_wscale", 0)
    tp.rcv_wscale = fields.get("rcv_wscale", 0)
    tp.flags = fields.get("flags", 0)
    return 0


def tcb_xmit(dict tcb_fields, dict seg):
    """Move one end by a segment that it sent: (tcb, verdict)."""
    cdef tcb tp
    cdef segment th
    fill_tcb(&tp, tcb_fields)
    fill_segment(&th, seg)
    verdict = c_tcb_xmit(&tp, &th)
    return dict(tp), verdict


def tcb_rcv(dict tcb_fields, dict seg):
    """Move one end by a segment that reached it: (tcb, verdict)."""
    cdef tcb tp
    cdef segment th
    fill_tcb(&tp, tcb_fields)
    fill_segment(&th, seg)
    verdict = c_tcb_rcv(&tp, &th)
    return dict(tp), verdict


def tcp_sequence(dict tcb_fields, uint32_t seq, uint32_t end_seq):
    """0 if a segment of these numbers is acceptable, else TCB_OLD or TCB_OVERWINDOW."""
    cdef tcb tp
    fill_tcb(&tp, tcb_fields)
    return c_tcp_sequence(&tp, seq, end_seq)


def sizes():
    """Bytes of the structs whose layout is a promise: whole cache lines by use."""
    return {
        "tcb": sizeof(tcb),
        "end": sizeof(end),
        "flow": sizeof(flow),
        "flow_rest": sizeof(flow_rest),
        "flow_link": sizeof(flow_link),
        "bucket": sizeof(bucket),
    }
