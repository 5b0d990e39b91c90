# Segments of followed connections on their way to the analysis, the plain ones by few steps.
# The reference calls tcp_analyze and tcp_chrono itself.  docs/architecture.md, "Header prediction".

from libc.stdint cimport int64_t, uint32_t
from conntrack cimport *
from slab cimport SLAB_MASK, SLAB_SHIFT, slab_recycled
from tcp cimport *
from tcp_analysis cimport analysis_init, analysis_predict, tcp_analyze
from tcp_chrono cimport chrono_init, chrono_predict, tcp_chrono
from unaligned cimport held

ctypedef int analyze_type(
    conntrack *, analysed *, flow *, uint32_t, int, const segment *, int64_t
) noexcept nogil


cdef inline void conntrack_analyze_init(conntrack *ct, uint32_t index) noexcept nogil:
    """Begin with nothing known of a flow."""
    analysis_init(analysis_at(ct, index), more_at(ct, index))
    chrono_init(analysis_at(ct, index))


cdef inline int conntrack_analyze_plain(
    conntrack *ct,
    analysed *out,
    flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    int64_t time_ns,
) noexcept nogil:
    """Have a predicted segment analysed, and let the flow's time move; -1 without memory."""
    cdef analysis *an = <analysis *>held(analysis_at(ct, index))
    cdef analysis_end *e = <analysis_end *>held(&an.ends[side])
    cdef analysis_end *peer = <analysis_end *>held(&an.ends[1 - side])
    cdef analyze_type *rest
    if not analysis_predict(e, peer, fl, side, th, time_ns, &out.reason):
        rest = <analyze_type *>held(<void *>conntrack_analyze_rest)
        return rest(ct, out, fl, index, side, th, time_ns)
    out.classes = out.dup_ack_num = 0
    if not chrono_predict(
        e,
        peer,
        <analysis_more *>ct.mores.chunks[index >> SLAB_SHIFT],
        index & SLAB_MASK,
        &fl.ends[side].tcb,
        &fl.ends[1 - side].tcb,
        th,
        time_ns,
    ):
        rest = <analyze_type *>held(<void *>conntrack_chrono_rest)
        return rest(ct, out, fl, index, side, th, time_ns)
    fl.last_ns = time_ns
    return 0


cdef inline int conntrack_analyze_rest(
    conntrack *ct,
    analysed *out,
    flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    int64_t time_ns,
) noexcept nogil:
    """The same, of a segment of which there is something to say."""
    cdef int64_t was_ns = fl.last_ns
    fl.last_ns = time_ns
    return conntrack_analyze(ct, out, fl, index, side, th, time_ns, was_ns, False)


cdef inline int conntrack_chrono_rest(
    conntrack *ct,
    analysed *out,
    flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    int64_t time_ns,
) noexcept nogil:
    """The same, of one that moves clocks alone."""
    cdef int64_t was_ns = fl.last_ns
    fl.last_ns = time_ns
    return tcp_chrono(
        analysis_at(ct, index),
        more_at(ct, index),
        &ct.rares,
        &ct.fars,
        fl,
        rest_at(ct, index),
        side,
        th,
        was_ns,
        0,
    )


cdef inline int conntrack_analyze(
    conntrack *ct,
    analysed *out,
    const flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    int64_t time_ns,
    int64_t was_ns,
    bint reused,
) noexcept nogil:
    """Have a segment analysed; `was_ns` is the flow's last time before it. -1 without memory."""
    cdef analysis *an = analysis_at(ct, index)
    cdef analysis_more *more = more_at(ct, index)
    cdef const flow_rest *rest = rest_at(ct, index)
    cdef slab_recycled *rares = &ct.rares
    cdef slab_recycled *fars = &ct.fars
    if tcp_analyze(an, more, fl, rest, rares, fars, side, th, time_ns, reused, out):
        return -1
    if out.classes:
        conntrack_classes(ct, out.classes, th.payload_len)
    return tcp_chrono(an, more, rares, fars, fl, rest, side, th, was_ns, out.classes)
