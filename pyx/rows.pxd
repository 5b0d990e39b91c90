# Rows: what is known of connections and of frames as columns, and what is left for the summary.
# Linux: net/netfilter/nf_conntrack_standalone.c.  tcpcore/columns.py has the columns.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
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
    more_at,
    outer_of,
    rest_at,
)
from pcap cimport frame
from slab cimport slab_at, vfree, vgrow, vkeep, vmalloc
from tcp cimport (
    CT_TIME_CLAMPED,
    FLOW_RTT,
    OPT_ISN,
    OPT_MSS,
    OPT_SACK_PERM,
    OPT_TIMESTAMP,
    OPT_WSCALE,
    analysis,
    analysis_more,
    end,
    flow,
    flow_outer,
    flow_row,
    segment,
)
from rows_analysis cimport *
from conntrack_acct cimport flow_completeness
from tcp_conntrack cimport batch, fate
from tcp_history cimport conn_state
from unaligned cimport cpu_to_be16, ipv6_addr_set_v4mapped, stream_copy, stream_end

# In the order of tcpcore/columns.py; core has the names.
cdef enum:  # PacketColumn
    P_PACKET, P_FILE, P_CONN, P_DIR, P_TIME_NS, P_OFFSET, P_CAPLEN, P_WIRELEN
    P_SEQ, P_ACK, P_FLAGS, P_WINDOW, P_PAYLOAD_LEN, P_VERDICT, P_DROP_REASON
    P_INTERFACE, P_VLAN, P_INNER_VLAN, P_ENCAP
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

# Frames' rows grow at the end, so they are kept as columns.
cdef struct packet_rows:
    uint8_t *columns[N_PACKET_COLUMNS]
    uint8_t shared[N_PACKET_COLUMNS]  # a reader holds it, and frees it: never moved
    size_t used
    size_t room
    size_t expected  # rows there will be, as far as one can tell


cdef inline uint8_t column_size(int column) noexcept nogil:
    """Bytes of one value."""
    if C_OUTER_A <= column <= C_OUTER_B or column == C_A_ADDR or column == C_B_ADDR:
        return 16
    if C_INTERFACE <= column <= C_ENCAP:
        return 2
    if column == C_A_PORT or column == C_B_PORT:
        return 2
    if C_FLAGS_AB <= column <= C_FLAGS_BA or C_WSCALE_AB <= column <= C_WSCALE_BA:
        return 2
    if C_MSS_AB <= column <= C_MSS_BA:
        return 4
    if column == C_HISTORY:
        return HISTORY_WIDTH
    if column == C_CONN_STATE or column == C_SLOW:
        return 1
    if column == C_IP or C_STATE_A <= column <= C_COMPLETENESS:
        return 1
    if C_SACK_PERMITTED_AB <= column <= C_TIMESTAMPS_BA:
        return 1
    return 8


cdef inline bint column_is_zero(const conntrack *ct, int column) noexcept nogil:
    """True of what is around first segments, but for VLANs, where nothing ever was."""
    if column < C_INTERFACE or column > C_OUTER_B or column == C_VLAN or column == C_INNER_VLAN:
        return False
    return ct.outers.n_chunks == 0 and ct.ended_outers.n_chunks == 0


cdef inline uint8_t packet_column_size(int column) noexcept nogil:
    """Bytes of one value."""
    if column == P_DIR or column == P_DROP_REASON or column == P_REASON:
        return 1
    if column == P_FLAGS or P_INTERFACE <= column <= P_ENCAP:
        return 2
    if column == P_PACKET or column == P_CONN or column == P_TIME_NS or column == P_OFFSET:
        return 8
    return 4


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


cdef inline void fill_outer(
    int column, const row_source *rows, int n, uint8_t *out
) noexcept nogil:
    """One column of what was around the first segment."""
    cdef int i
    cdef int16_t *halves = <int16_t *>out
    cdef const flow_outer *around
    memset(out, 0xFF if column in (C_VLAN, C_INNER_VLAN) else 0, n * column_size(column))
    for i in range(n):
        around = rows[i].outer
        if around == NULL:
            continue
        if column == C_INTERFACE:
            halves[i] = <int16_t>around.interface
        elif column == C_VLAN:
            halves[i] = around.vlan
        elif column == C_INNER_VLAN:
            halves[i] = around.inner_vlan
        elif column == C_ENCAP:
            halves[i] = <int16_t>around.encap
        else:
            memcpy(out + 16 * i, around.addrs + (0 if column == C_OUTER_A else 16), 16)


cdef inline void fill(int column, const row_source *rows, int n, uint8_t *out) noexcept nogil:
    """One column of `n` rows."""
    cdef int i
    cdef int64_t *wides = <int64_t *>out
    if C_PACKETS_AB <= column <= C_BAD_CHECKSUM_BA:
        i = (column - C_PACKETS_AB) & 1
        fill_end(column - i, i, rows, n, out)
    elif column == C_HISTORY:
        fill_history(rows, n, out)
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
    elif column == C_INITIAL_RTT_NS:
        for i in range(n):
            wides[i] = rows[i].rest.rtt_ns if rows[i].fl.bits & FLOW_RTT else -1
    else:
        fill_outer(column, rows, n, out)


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
    cdef uint8_t values[ROWS_BLOCK * HISTORY_WIDTH]
    cdef flow_row *row
    cdef size_t size
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
                        rows[i].more = <analysis_more *>slab_at(&ct.ended_mores, index)
                    find_rares(ct, &rows[i])
                    rows[i].outer = NULL
                    if row.flow.wrapped:
                        rows[i].outer = <flow_outer *>slab_at(&ct.ended_outers, index)
                    continue
            rows[i].fl = flow_at(ct, index)
            rows[i].rest = rest_at(ct, index)
            rows[i].addrs = addrs_of(ct, rows[i].fl, index)
            rows[i].an = analysis_at(ct, index) if ct.analysis else NULL
            rows[i].more = more_at(ct, index) if ct.analysis else NULL
            find_rares(ct, &rows[i])
            rows[i].outer = outer_of(ct, rows[i].fl, index)
        for k in range(wanted):
            size = column_size(columns[k])
            fill(columns[k], rows, m, values)
            stream_copy(out[k] + begin * size, values, m * size)
        begin += m
    stream_end()


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
                    more = vgrow(rows.columns[i], room * size, rows.room * size)
                    if more != NULL:
                        rows.columns[i] = <uint8_t *>more
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


cdef inline void packet_rows_outer(packet_rows *rows, const batch *b) noexcept nogil:
    """What was around the frames of a batch, which follow the rows that are used."""
    cdef uint16_t *interfaces = <uint16_t *>rows.columns[P_INTERFACE] + rows.used
    cdef int16_t *vlans = <int16_t *>rows.columns[P_VLAN] + rows.used
    cdef int16_t *inner = <int16_t *>rows.columns[P_INNER_VLAN] + rows.used
    cdef uint16_t *encaps = <uint16_t *>rows.columns[P_ENCAP] + rows.used
    cdef int i
    for i in range(b.n):
        interfaces[i] = b.frames[i].interface
    for i in range(b.n):
        vlans[i] = inner[i] = -1
        encaps[i] = 0
    if b.wrapped:
        for i in range(b.n):
            if b.wrapped >> i & 1:
                vlans[i] = b.outers[i].vlan
                inner[i] = b.outers[i].inner_vlan
                encaps[i] = b.outers[i].encap


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
    if n == 0:
        return 0
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
    packet_rows_outer(rows, b)
    rows.used += n
    return 0
