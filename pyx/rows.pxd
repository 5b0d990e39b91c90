# Rows: what is known of connections and of frames as columns, and what is left for the summary.
# Linux: net/netfilter/nf_conntrack_standalone.c.  tcpcore/columns.py has the columns.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset
from conntrack cimport (
    IDLE,
    NIL,
    ROWS_KEEP,
    addrs_of,
    analysis_at,
    conntrack,
    conntrack_depart,
    depart,
    departed,
    flow_at,
    link_at,
    rest_at,
)
from pcap cimport frame
from slab cimport slab_at, vfree, vgrow, vkeep, vmalloc
from tcp cimport (
    CT_TIME_CLAMPED,
    FLOW_RTT,
    NR_CLASSES,
    OPT_ISN,
    OPT_MSS,
    OPT_SACK_PERM,
    OPT_TIMESTAMP,
    OPT_WSCALE,
    analysis,
    analysis_counts,
    analysis_gauge,
    analysis_rare,
    analysis_rtt,
    end,
    flow,
    flow_addrs,
    flow_rest,
    flow_row,
    segment,
)
from tcp_chrono cimport LIMITED_HANDSHAKE, chrono_slow, limited_value
from tcp_conntrack cimport batch, fate, flow_completeness
from tcp_history cimport conn_state
from unaligned cimport cpu_to_be16, ipv6_addr_set_v4mapped

# In the order of tcpcore/columns.py; core has the names.
cdef enum:  # Column
    C_CONN, C_IP, C_A_ADDR, C_A_PORT, C_B_ADDR, C_B_PORT
    C_FIRST_NS, C_LAST_NS, C_FIRST_PACKET
    C_PACKETS_AB, C_PACKETS_BA, C_FRAME_BYTES_AB, C_FRAME_BYTES_BA
    C_PAYLOAD_BYTES_AB, C_PAYLOAD_BYTES_BA, C_FLAGS_AB, C_FLAGS_BA, C_ISN_AB, C_ISN_BA
    C_MSS_AB, C_MSS_BA, C_WSCALE_AB, C_WSCALE_BA, C_SACK_PERMITTED_AB, C_SACK_PERMITTED_BA
    C_TIMESTAMPS_AB, C_TIMESTAMPS_BA, C_BAD_CHECKSUM_AB, C_BAD_CHECKSUM_BA
    C_STATE_A, C_STATE_B, C_COMPLETENESS, C_INITIAL_RTT_NS
    C_CLASSES  # of the analysis, each of a to b and of b to a
    C_RETRANS_BYTES_AB = C_CLASSES + 2 * NR_CLASSES
    C_RETRANS_BYTES_BA, C_RTT_MIN_NS_AB, C_RTT_MIN_NS_BA, C_RTT_MEAN_NS_AB, C_RTT_MEAN_NS_BA
    C_RTT_MAX_NS_AB, C_RTT_MAX_NS_BA, C_RTT_SAMPLES_AB, C_RTT_SAMPLES_BA
    C_IN_FLIGHT_MAX_AB, C_IN_FLIGHT_MAX_BA, C_WINDOW_MIN_AB, C_WINDOW_MIN_BA
    C_WINDOW_MAX_AB, C_WINDOW_MAX_BA, C_GAPS_AB, C_GAPS_BA, C_GAP_BYTES_AB, C_GAP_BYTES_BA
    C_DUPLICATE_BYTES_AB, C_DUPLICATE_BYTES_BA, C_HISTORY, C_CONN_STATE
    C_HANDSHAKE_NS, C_APP_LIMITED_NS_AB, C_APP_LIMITED_NS_BA, C_RWND_LIMITED_NS_AB
    C_RWND_LIMITED_NS_BA, C_NETWORK_LIMITED_NS_AB, C_NETWORK_LIMITED_NS_BA, C_SLOW
    N_COLUMNS

cdef enum:  # PacketColumn
    P_PACKET, P_FILE, P_CONN, P_DIR, P_TIME_NS, P_OFFSET, P_CAPLEN, P_WIRELEN
    P_SEQ, P_ACK, P_FLAGS, P_WINDOW, P_PAYLOAD_LEN, P_VERDICT, P_DROP_REASON
    P_ANALYSIS, P_DUP_ACK_NUM, P_REASON
    N_PACKET_COLUMNS

cdef enum:
    ROWS_BLOCK = 128  # rows made together: their flows stay in the first-level cache
    PACKET_ROWS_MIN = 1 << 15  # room at first

# Where a connection's row lies: a live flow's index, or an ended row's.
cdef struct row_place:
    uint64_t conn
    uint32_t index
    uint32_t ended

# What one row is made of.
cdef struct row_source:
    const flow *fl
    const flow_rest *rest
    const flow_addrs *addrs  # NULL for IPv4
    const analysis *an  # NULL if it is not wanted
    const analysis_rare *rare  # NULL where nothing happened
    uint64_t conn

# Frames' rows grow at the end, so they are kept as columns.
cdef struct packet_rows:
    uint8_t *columns[N_PACKET_COLUMNS]
    uint8_t shared[N_PACKET_COLUMNS]  # a reader holds it, and frees it: never moved
    size_t used
    size_t room
    size_t expected  # rows there will be, as far as one can tell


cdef inline uint8_t column_size(int column) noexcept nogil:
    """Bytes of one value."""
    if column == C_A_ADDR or column == C_B_ADDR:
        return 16
    if column == C_A_PORT or column == C_B_PORT:
        return 2
    if C_FLAGS_AB <= column <= C_FLAGS_BA or C_WSCALE_AB <= column <= C_WSCALE_BA:
        return 2
    if C_MSS_AB <= column <= C_MSS_BA:
        return 4
    if column == C_HISTORY:
        return 48
    if column == C_CONN_STATE or column == C_SLOW:
        return 1
    if column == C_IP or C_STATE_A <= column <= C_COMPLETENESS:
        return 1
    if C_SACK_PERMITTED_AB <= column <= C_TIMESTAMPS_BA:
        return 1
    return 8


cdef inline uint8_t packet_column_size(int column) noexcept nogil:
    """Bytes of one value."""
    if column == P_DIR or column == P_DROP_REASON or column == P_REASON:
        return 1
    if column == P_FLAGS:
        return 2
    if column == P_PACKET or column == P_CONN or column == P_TIME_NS or column == P_OFFSET:
        return 8
    return 4


cdef inline int64_t wide(uint32_t low, uint16_t high) noexcept nogil:
    """A count from its two parts."""
    return <int64_t>high << 32 | low


cdef inline void fill_end(
    int column, int side, const row_source *rows, int n, uint8_t *out
) noexcept nogil:
    """One column of one end, `n` rows; `column` is the one of a. A loop each: no test is in one."""
    cdef int i
    cdef int64_t *wides = <int64_t *>out
    if column == C_PACKETS_AB:
        for i in range(n):
            wides[i] = wide(rows[i].fl.ends[side].packets, rows[i].rest.packets_hi[side])
    elif column == C_FRAME_BYTES_AB:
        for i in range(n):
            wides[i] = wide(rows[i].fl.ends[side].frame_bytes, rows[i].rest.frame_bytes_hi[side])
    elif column == C_PAYLOAD_BYTES_AB:
        for i in range(n):
            wides[i] = wide(
                rows[i].fl.ends[side].payload_bytes, rows[i].rest.payload_bytes_hi[side]
            )
    elif column == C_FLAGS_AB:
        for i in range(n):
            (<uint16_t *>out)[i] = rows[i].fl.ends[side].flags
    elif column == C_ISN_AB:
        for i in range(n):
            wides[i] = (
                <int64_t>rows[i].rest.isn[side] if rows[i].fl.ends[side].opts & OPT_ISN else -1
            )
    elif column == C_MSS_AB:
        for i in range(n):
            (<int32_t *>out)[i] = (
                <int32_t>rows[i].rest.mss[side] if rows[i].fl.ends[side].opts & OPT_MSS else -1
            )
    elif column == C_WSCALE_AB:
        for i in range(n):
            (<int16_t *>out)[i] = (
                <int16_t>rows[i].rest.wscale[side]
                if rows[i].fl.ends[side].opts & OPT_WSCALE
                else -1
            )
    elif column == C_SACK_PERMITTED_AB:
        for i in range(n):
            out[i] = (rows[i].fl.ends[side].opts & OPT_SACK_PERM) != 0
    elif column == C_TIMESTAMPS_AB:
        for i in range(n):
            out[i] = (rows[i].fl.ends[side].opts & OPT_TIMESTAMP) != 0
    else:
        for i in range(n):
            wides[i] = rows[i].rest.bad_checksum[side]


cdef inline void fill_addrs(int column, const row_source *rows, int n, uint8_t *out) noexcept nogil:
    """One of the two columns of addresses."""
    cdef int i
    for i in range(n):
        if rows[i].addrs == NULL:
            ipv6_addr_set_v4mapped(
                out + 16 * i, &rows[i].fl.a_addr if column == C_A_ADDR else &rows[i].fl.b_addr
            )
        elif column == C_A_ADDR:
            memcpy(out + 16 * i, rows[i].addrs.a, 16)
        else:
            memcpy(out + 16 * i, rows[i].addrs.b, 16)


cdef inline void fill_analysis(
    int column, const row_source *rows, int n, int64_t *out
) noexcept nogil:
    """One column of the analysis."""
    cdef int i, side = (column - C_CLASSES) & 1
    for i in range(n):
        if column < C_RETRANS_BYTES_AB:
            out[i] = 0
            if rows[i].rare != NULL:
                out[i] = rows[i].rare.ends[side].counts[(column - C_CLASSES) >> 1]
        elif C_RTT_MIN_NS_AB <= column <= C_WINDOW_MAX_BA:
            out[i] = gauge_value(column - side, side, rows[i].an)
        else:
            out[i] = counts_value(column - side, side, rows[i].rare)


cdef inline int64_t gauge_value(int column, int side, const analysis *an) noexcept nogil:
    """What was measured of one end; `column` is the one of a."""
    cdef const analysis_rtt *rtt
    cdef const analysis_gauge *g
    if an == NULL:
        return 0 if column == C_RTT_SAMPLES_AB or column == C_IN_FLIGHT_MAX_AB else -1
    rtt = &an.rtts[side]
    g = &an.gauges[side]
    if column == C_RTT_SAMPLES_AB:
        return rtt.samples
    if column == C_IN_FLIGHT_MAX_AB:
        return g.in_flight_max
    if column == C_WINDOW_MIN_AB or column == C_WINDOW_MAX_AB:
        if g.window_min > g.window_max:
            return -1
        return g.window_min if column == C_WINDOW_MIN_AB else g.window_max
    if not rtt.samples:
        return -1
    if column == C_RTT_MIN_NS_AB:
        return wide(rtt.min_ns, rtt.min_ns_hi)
    if column == C_RTT_MAX_NS_AB:
        return wide(rtt.max_ns, rtt.max_ns_hi)
    return rtt.sum_ns // rtt.samples


cdef inline int64_t counts_value(int column, int side, const analysis_rare *rare) noexcept nogil:
    """Bytes and holes of one end; `column` is the one of a."""
    cdef const analysis_counts *c
    cdef int64_t total
    cdef uint32_t i
    if rare == NULL:
        return 0
    c = &rare.ends[side]
    if column == C_RETRANS_BYTES_AB:
        return c.retrans_bytes
    if column == C_DUPLICATE_BYTES_AB:
        return c.duplicate_bytes
    if column == C_GAPS_AB:
        return <int64_t>c.gaps + c.n_holes
    total = c.gap_bytes
    for i in range(c.n_holes):
        total += <uint32_t>(c.holes[i].end - c.holes[i].begin)
    return total


cdef inline void fill_chrono(
    int column, const row_source *rows, int n, uint8_t *out
) noexcept nogil:
    """One column of what limited the connections."""
    cdef int i, k = column - C_HANDSHAKE_NS
    cdef const analysis *an
    for i in range(n):
        an = rows[i].an
        if column == C_SLOW:
            out[i] = 0 if an == NULL else chrono_slow(an, busy_side(rows[i].fl, rows[i].rest))
        elif an == NULL:
            (<int64_t *>out)[i] = 0
        elif k == 0:
            (<int64_t *>out)[i] = limited_value(an, 0, LIMITED_HANDSHAKE)
        else:
            (<int64_t *>out)[i] = limited_value(an, (k - 1) & 1, ((k - 1) >> 1) + 1)


cdef inline int busy_side(const flow *fl, const flow_rest *rest) noexcept nogil:
    """The side with more payload, a if both have the same; -1 without any."""
    cdef int64_t a = wide(fl.ends[0].payload_bytes, rest.payload_bytes_hi[0])
    cdef int64_t b = wide(fl.ends[1].payload_bytes, rest.payload_bytes_hi[1])
    if a == 0 and b == 0:
        return -1
    return b > a


cdef inline void fill(int column, const row_source *rows, int n, uint8_t *out) noexcept nogil:
    """One column of `n` rows."""
    cdef int i
    cdef int64_t *wides = <int64_t *>out
    if C_PACKETS_AB <= column <= C_BAD_CHECKSUM_BA:
        i = (column - C_PACKETS_AB) & 1
        fill_end(column - i, i, rows, n, out)
    elif column == C_HISTORY:
        for i in range(n):
            memset(out + 48 * i, 0, 48)
            if rows[i].an != NULL:
                memcpy(out + 48 * i, rows[i].an.history, rows[i].an.history_len)
    elif column == C_CONN_STATE:
        for i in range(n):
            out[i] = conn_state(rows[i].fl, flow_completeness(rows[i].fl, rows[i].rest))
    elif C_HANDSHAKE_NS <= column <= C_SLOW:
        fill_chrono(column, rows, n, out)
    elif C_CLASSES <= column < C_HISTORY:
        fill_analysis(column, rows, n, wides)
    elif column == C_CONN:
        for i in range(n):
            wides[i] = rows[i].conn
    elif column == C_IP:
        for i in range(n):
            out[i] = rows[i].fl.ip
    elif column == C_A_ADDR or column == C_B_ADDR:
        fill_addrs(column, rows, n, out)
    elif column == C_A_PORT:
        for i in range(n):
            (<uint16_t *>out)[i] = cpu_to_be16(rows[i].fl.a_port)
    elif column == C_B_PORT:
        for i in range(n):
            (<uint16_t *>out)[i] = cpu_to_be16(rows[i].fl.b_port)
    elif column == C_FIRST_NS:
        for i in range(n):
            wides[i] = rows[i].rest.first_ns
    elif column == C_FIRST_PACKET:
        for i in range(n):
            wides[i] = rows[i].rest.first_packet
    elif column == C_LAST_NS:
        for i in range(n):
            wides[i] = rows[i].fl.last_ns
    elif column == C_STATE_A:
        for i in range(n):
            out[i] = rows[i].fl.ends[0].tcb.state
    elif column == C_STATE_B:
        for i in range(n):
            out[i] = rows[i].fl.ends[1].tcb.state
    elif column == C_COMPLETENESS:
        for i in range(n):
            out[i] = flow_completeness(rows[i].fl, rows[i].rest)
    else:
        for i in range(n):
            wides[i] = rows[i].rest.rtt_ns if rows[i].fl.bits & FLOW_RTT else -1


cdef inline const analysis_rare *rare_of(const conntrack *ct, const analysis *an) noexcept nogil:
    """The counts of a connection where something happened; NULL if nothing did."""
    if an == NULL or not an.rare:
        return NULL
    return <const analysis_rare *>slab_at(&ct.rares, an.rare - 1)


cdef inline void fill_rows(
    const conntrack *ct,
    const row_place *places,
    uint64_t n,
    const int *columns,
    uint8_t **out,
    int wanted,
) noexcept nogil:
    """Make `wanted` columns of `n` rows block by block, so that a flow is fetched once for all.

    Without `places` a flow's index is its number.
    """
    cdef row_source rows[ROWS_BLOCK]
    cdef flow_row *row
    cdef uint64_t begin = 0
    cdef uint32_t index
    cdef int i, k, m
    while begin < n:
        m = <int>min(n - begin, <uint64_t>ROWS_BLOCK)
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
                    rows[i].an = NULL
                    if ct.analysis:
                        rows[i].an = <analysis *>slab_at(&ct.ended_analyses, index)
                    rows[i].rare = rare_of(ct, rows[i].an)
                    continue
            rows[i].fl = flow_at(ct, index)
            rows[i].rest = rest_at(ct, index)
            rows[i].addrs = addrs_of(ct, rows[i].fl, index)
            rows[i].an = analysis_at(ct, index) if ct.analysis else NULL
            rows[i].rare = rare_of(ct, rows[i].an)
        for k in range(wanted):
            fill(columns[k], rows, m, out[k] + begin * column_size(columns[k]))
        begin += m


cdef inline int by_conn(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const row_place *>a).conn, y = (<const row_place *>b).conn
    return (x > y) - (x < y)


cdef inline void place_rows(const conntrack *ct, row_place *places, uint64_t n) noexcept nogil:
    """Ended rows in order of closing, then the live ones by conn; all by conn if they stay."""
    cdef uint64_t ended = ct.ended.used, i
    cdef uint32_t index
    for i in range(ended):
        places[i].conn = (<flow_row *>slab_at(&ct.ended, <uint32_t>i)).conn
        places[i].index = <uint32_t>i
        places[i].ended = 1
    if n > ended:
        i = ended
        index = ct.idle.head
        while index != <uint32_t>NIL:
            places[i].conn = link_at(ct, index).conn
            places[i].index = index
            places[i].ended = 0
            i += 1
            index = link_at(ct, index).next[IDLE]
    if ct.rows == ROWS_KEEP:
        ended = 0
    qsort(places + ended, n - ended, sizeof(row_place), by_conn)


cdef inline void depart_rest(const conntrack *ct, departed *gone) noexcept nogil:
    """Fold every connection whose row is still here into a summary of those that left."""
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


cdef inline int packet_rows_grow(packet_rows *rows, size_t room) noexcept nogil:
    """Room for `room` rows; -1 without memory."""
    cdef size_t size
    cdef void *more
    cdef int i
    for i in range(N_PACKET_COLUMNS):
        size = packet_column_size(i)
        if rows.shared[i]:
            more = vmalloc(room * size)
            if more != NULL:
                memcpy(more, rows.columns[i], rows.used * size)
        else:
            more = vgrow(rows.columns[i], rows.room * size, room * size)
        if more == NULL:
            while i:  # all have one length: those that grew shrink, which needs no memory
                i -= 1
                size = packet_column_size(i)
                if rows.room:
                    vgrow(rows.columns[i], room * size, rows.room * size)
                else:
                    vfree(rows.columns[i], room * size)
                    rows.columns[i] = NULL
            return -1
        rows.columns[i] = <uint8_t *>more
        rows.shared[i] = 0
    rows.room = room
    return 0


cdef inline void packet_rows_free(packet_rows *rows) noexcept nogil:
    """Forget all rows; columns that are shared are their readers' now."""
    cdef int i
    for i in range(N_PACKET_COLUMNS):
        if not rows.shared[i]:
            vkeep(rows.columns[i], rows.room * packet_column_size(i))
        rows.columns[i] = NULL
        rows.shared[i] = 0
    rows.used = rows.room = 0


cdef inline int packet_rows_write(packet_rows *rows, const batch *b, int file) noexcept nogil:
    """Add the frames of a batch; -1 without memory. A column after the other, each in one go."""
    cdef const frame *frames = &b.frames[0]
    cdef const segment *segs = &b.segs[0]
    cdef const fate *fates = &b.fates[0]
    cdef size_t row = rows.used
    cdef int i, n = b.n
    cdef int64_t *wides
    cdef uint32_t *words
    cdef uint16_t *halves
    cdef uint8_t *octets
    if row + n > rows.room:
        if not rows.room:
            if packet_rows_grow(rows, PACKET_ROWS_MIN):
                return -1
        elif rows.expected <= 2 * rows.room or packet_rows_grow(rows, rows.expected):
            if packet_rows_grow(rows, 2 * rows.room):
                return -1
    wides = <int64_t *>rows.columns[P_PACKET] + row
    for i in range(n):
        wides[i] = b.packets[i]
    words = <uint32_t *>rows.columns[P_FILE] + row
    for i in range(n):
        words[i] = file
    wides = <int64_t *>rows.columns[P_CONN] + row
    for i in range(n):
        wides[i] = fates[i].conn
    octets = rows.columns[P_DIR] + row
    for i in range(n):
        octets[i] = fates[i].dir
    wides = <int64_t *>rows.columns[P_TIME_NS] + row
    for i in range(n):
        wides[i] = frames[i].time_ns
    wides = <int64_t *>rows.columns[P_OFFSET] + row
    for i in range(n):
        wides[i] = frames[i].offset
    words = <uint32_t *>rows.columns[P_CAPLEN] + row
    for i in range(n):
        words[i] = frames[i].caplen
    words = <uint32_t *>rows.columns[P_WIRELEN] + row
    for i in range(n):
        words[i] = frames[i].wirelen
    words = <uint32_t *>rows.columns[P_SEQ] + row
    for i in range(n):
        words[i] = segs[i].seq
    words = <uint32_t *>rows.columns[P_ACK] + row
    for i in range(n):
        words[i] = segs[i].ack
    halves = <uint16_t *>rows.columns[P_FLAGS] + row
    for i in range(n):
        halves[i] = segs[i].flags
    words = <uint32_t *>rows.columns[P_WINDOW] + row
    for i in range(n):
        words[i] = fates[i].window
    words = <uint32_t *>rows.columns[P_PAYLOAD_LEN] + row
    for i in range(n):
        words[i] = segs[i].payload_len
    words = <uint32_t *>rows.columns[P_VERDICT] + row
    for i in range(n):
        words[i] = fates[i].verdict | (CT_TIME_CLAMPED if frames[i].clamped else 0)
    octets = rows.columns[P_DROP_REASON] + row
    for i in range(n):
        octets[i] = fates[i].drop
    words = <uint32_t *>rows.columns[P_ANALYSIS] + row
    for i in range(n):
        words[i] = fates[i].analysed.classes
    words = <uint32_t *>rows.columns[P_DUP_ACK_NUM] + row
    for i in range(n):
        words[i] = fates[i].analysed.dup_ack_num
    octets = rows.columns[P_REASON] + row
    for i in range(n):
        octets[i] = fates[i].analysed.reason
    rows.used += n
    return 0
