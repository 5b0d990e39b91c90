# Rows of the analysis: what is known of what happened on the wire, as columns of connections.
# docs/analysis.md and docs/slow.md say what they mean; tcpcore/columns.py has them all.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from conntrack cimport conntrack
from slab cimport slab_at
from tcp cimport (
    NR_CLASSES,
    analysis,
    analysis_end,
    analysis_far,
    analysis_more,
    analysis_rare,
    flow,
    flow_addrs,
    flow_outer,
    flow_rest,
)
from tcp_analysis cimport RTT_LONG, analysis_shift
from tcp_chrono cimport LIMITED_HANDSHAKE, chrono_slow, limited_value
from tcp_history cimport class_count, history_letter

cdef enum:
    HISTORY_WIDTH = 48

# In the order of tcpcore/columns.py; core has the names.
cdef enum:  # Column
    C_CONN, C_IP, C_A_ADDR, C_A_PORT, C_B_ADDR, C_B_PORT
    C_FIRST_NS, C_LAST_NS, C_FIRST_PACKET
    C_PACKETS_AB, C_PACKETS_BA, C_FRAME_BYTES_AB, C_FRAME_BYTES_BA
    C_PAYLOAD_BYTES_AB, C_PAYLOAD_BYTES_BA, C_FLAGS_AB, C_FLAGS_BA, C_ISN_AB, C_ISN_BA
    C_MSS_AB, C_MSS_BA, C_WSCALE_AB, C_WSCALE_BA, C_SACK_PERMITTED_AB, C_SACK_PERMITTED_BA
    C_TIMESTAMPS_AB, C_TIMESTAMPS_BA, C_BAD_CHECKSUM_AB, C_BAD_CHECKSUM_BA
    C_STATE_A, C_STATE_B, C_COMPLETENESS, C_INITIAL_RTT_NS
    C_INTERFACE, C_VLAN, C_INNER_VLAN, C_ENCAP, C_OUTER_A, C_OUTER_B
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

# What one row is made of.
cdef struct row_source:
    const flow *fl
    const flow_rest *rest
    const flow_addrs *addrs  # NULL for IPv4
    const analysis *an  # NULL if it is not wanted
    const analysis_more *more
    const analysis_rare *rare[2]  # NULL where nothing happened
    const analysis_far *far[2]
    const flow_outer *outer  # NULL for nothing
    uint64_t conn


cdef inline int64_t wide(uint32_t low, uint16_t high) noexcept nogil:
    """A count from its two parts."""
    return <int64_t>high << 32 | low


cdef inline void fill_analysis(
    int column, const row_source *rows, int n, int64_t *out
) noexcept nogil:
    """One column of the analysis."""
    cdef int i, which, side = (column - C_CLASSES) & 1
    for i in range(n):
        if column < C_RETRANS_BYTES_AB:
            out[i] = 0
            if rows[i].rare[side] != NULL:
                which = (column - C_CLASSES) >> 1
                out[i] = class_count(rows[i].rare[side], rows[i].far[side], which)
        elif C_RTT_MIN_NS_AB <= column <= C_WINDOW_MAX_BA:
            out[i] = gauge_value(column - side, side, &rows[i])
        else:
            out[i] = counts_value(column - side, rows[i].rare[side], rows[i].far[side])


cdef inline int64_t gauge_value(int column, int side, const row_source *row) noexcept nogil:
    """What was measured of one end; `column` is the one of a."""
    cdef const analysis_end *e
    if row.an == NULL:
        return 0 if column == C_RTT_SAMPLES_AB or column == C_IN_FLIGHT_MAX_AB else -1
    e = &row.an.ends[side]
    if column == C_RTT_SAMPLES_AB:
        return e.rtt_samples
    if column == C_IN_FLIGHT_MAX_AB:
        return e.in_flight_max
    if column == C_WINDOW_MIN_AB or column == C_WINDOW_MAX_AB:
        if e.window_min > e.window_max:
            return -1
        return <int64_t>(e.window_min if column == C_WINDOW_MIN_AB else e.window_max) << max(
            analysis_shift(row.fl, side), 0
        )
    if not e.rtt_samples:
        return -1
    if column == C_RTT_MIN_NS_AB:
        if e.rtt_min_ns == RTT_LONG:
            return row.far[side].rtt_min_ns
        return e.rtt_min_ns
    if column == C_RTT_MAX_NS_AB:
        if e.rtt_max_ns == RTT_LONG:
            return row.far[side].rtt_max_ns
        return e.rtt_max_ns
    return e.rtt_sum_ns // e.rtt_samples


cdef inline int64_t counts_value(
    int column, const analysis_rare *c, const analysis_far *far
) noexcept nogil:
    """Bytes and holes of one end; `column` is the one of a."""
    cdef int64_t total
    cdef uint32_t i
    if c == NULL:
        return 0
    if column == C_RETRANS_BYTES_AB:
        return c.retrans_bytes
    if column == C_DUPLICATE_BYTES_AB:
        return c.duplicate_bytes
    if far == NULL:
        return 0
    if column == C_GAPS_AB:
        return <int64_t>far.gaps + far.n_holes
    total = far.gap_bytes
    for i in range(far.n_holes):
        total += <uint32_t>(far.holes[i].end - far.holes[i].begin)
    return total


cdef inline void fill_chrono(
    int column, const row_source *rows, int n, uint8_t *out
) noexcept nogil:
    """One column of what limited the connections."""
    cdef int i, side, cause = LIMITED_HANDSHAKE
    cdef const row_source *row
    cdef const analysis_far *far
    for i in range(n):
        row = &rows[i]
        side = (column - C_APP_LIMITED_NS_AB) & 1
        if column == C_HANDSHAKE_NS:
            side = 0
        elif column == C_SLOW:
            side = busy_side(row.fl, row.rest)
        else:
            cause = ((column - C_APP_LIMITED_NS_AB) >> 1) + 1
        far = row.far[1 if side > 0 else 0]
        if column == C_SLOW:
            out[i] = 0
            if row.an != NULL:
                out[i] = chrono_slow(row.an, row.more, far, row.fl.last_ns, side)
        elif row.an == NULL:
            (<int64_t *>out)[i] = 0
        else:
            (<int64_t *>out)[i] = limited_value(
                row.an, row.more, far, row.fl.last_ns, side, cause
            )


cdef inline int busy_side(const flow *fl, const flow_rest *rest) noexcept nogil:
    """The side with more payload, a if both have the same; -1 without any."""
    cdef int64_t a = wide(fl.ends[0].payload_bytes, rest.payload_bytes_hi[0])
    cdef int64_t b = wide(fl.ends[1].payload_bytes, rest.payload_bytes_hi[1])
    if a == 0 and b == 0:
        return -1
    return b > a


cdef inline void fill_history(const row_source *rows, int n, uint8_t *out) noexcept nogil:
    """The column of histories."""
    cdef int i, k
    memset(out, 0, HISTORY_WIDTH * n)
    for i in range(n):
        if rows[i].an != NULL:
            for k in range(rows[i].more.history_len):
                out[HISTORY_WIDTH * i + k] = history_letter(rows[i].more, k)


cdef inline void find_rares(const conntrack *ct, row_source *row) noexcept nogil:
    """Where the counts of both ends are; NULL where nothing happened."""
    cdef int side
    for side in range(2):
        row.rare[side] = NULL
        row.far[side] = NULL
        if row.an == NULL or not row.more.rare[side]:
            continue
        row.rare[side] = <const analysis_rare *>slab_at(&ct.rares.pool, row.more.rare[side] - 1)
        if row.rare[side].far:
            row.far[side] = <const analysis_far *>slab_at(&ct.fars.pool, row.rare[side].far - 1)
