# Zeek's view of a connection: its history, a letter for what was seen, and its state.
# Zeek's documentation of conn.log.  docs/analysis.md has the rules.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from slab cimport slab_at, slab_recycled, slab_take
from tcp cimport *

cdef enum:
    HISTORY_MAX = 36
    COUNTS_MAX = 5  # of classes in analysis_rare, more are in analysis_far

cdef enum:  # ConnState
    CONN_OTH = 0
    CONN_S0 = 1
    CONN_S1 = 2
    CONN_SF = 3
    CONN_REJ = 4
    CONN_S2 = 5
    CONN_S3 = 6
    CONN_RSTO = 7
    CONN_RSTR = 8
    CONN_RSTOS0 = 9
    CONN_RSTRH = 10
    CONN_SH = 11
    CONN_SHR = 12

cdef enum:  # places of the letters SHADFRIQCGTW^; of the first eight a bit of `noted` is kept
    HISTORY_S = 0
    HISTORY_H = 1
    HISTORY_A = 2
    HISTORY_D = 3
    HISTORY_F = 4
    HISTORY_R = 5
    HISTORY_I = 6
    HISTORY_Q = 7
    HISTORY_C = 8
    HISTORY_G = 9
    HISTORY_T = 10
    HISTORY_W = 11
    HISTORY_TURNED = 12
    HISTORY_EACH = 12  # how many a word has

cdef extern from *:
    """
    static const unsigned char HISTORY_LETTERS[] = "SHADFRIQCGTW^";
    """
    const uint8_t HISTORY_LETTERS[13]


cdef inline analysis_rare *analysis_rare_of(
    analysis_more *more, int side, slab_recycled *rares
) noexcept nogil:
    """The counts of an end where something happened, made now if need be; NULL without memory."""
    if not more.rare[side]:
        more.rare[side] = slab_take(rares)
        if not more.rare[side]:
            return NULL
    return <analysis_rare *>slab_at(&rares.pool, more.rare[side] - 1)


cdef inline analysis_far *analysis_far_of(analysis_rare *c, slab_recycled *fars) noexcept nogil:
    """What few ends have, made now if need be; NULL without memory."""
    if not c.far:
        c.far = slab_take(fars)
        if not c.far:
            return NULL
    return <analysis_far *>slab_at(&fars.pool, c.far - 1)


cdef inline uint32_t class_count(
    const analysis_rare *c, const analysis_far *far, int which
) noexcept nogil:
    """How many segments were of a class, by its bit's place."""
    cdef uint32_t place = c.places >> 4 * which & 15
    if place == 0:
        return 0
    return c.counts[place - 1] if place <= COUNTS_MAX else far.counts[
        place - COUNTS_MAX - 1
    ]


cdef inline void analysis_note(analysis_more *more, uint8_t which, int side) noexcept nogil:
    """Write a letter of the history, small for b: its place and one, and 13 more for b."""
    cdef uint64_t code = which + (14 if side and which != HISTORY_TURNED else 1)
    if more.history_len < HISTORY_MAX:
        more.history[more.history_len // HISTORY_EACH] |= code << (
            5 * (more.history_len % HISTORY_EACH)
        )
        more.history_len += 1


cdef inline uint8_t history_letter(const analysis_more *more, int at) noexcept nogil:
    """The letter at a place of the history."""
    cdef uint8_t code = more.history[at // HISTORY_EACH] >> 5 * (at % HISTORY_EACH) & 31
    return HISTORY_LETTERS[code - 1] if code <= 13 else HISTORY_LETTERS[code - 14] + 32


cdef inline void analysis_note_once(
    analysis *an, analysis_more *more, int which, int side
) noexcept nogil:
    """Write the letter of an event that is told once of each side."""
    if not an.ends[side].noted >> which & 1:
        an.ends[side].noted |= 1 << which
        analysis_note(more, which, side)


cdef inline void analysis_note_count(
    analysis_more *more, int which, int side, uint32_t count
) noexcept nogil:
    """Write the letter of an event that is told at the first, tenth, hundredth time."""
    while count and count % 10 == 0:
        count //= 10
    if count == 1:
        analysis_note(more, which, side)


cdef inline void analysis_history(
    analysis *an,
    analysis_more *more,
    const analysis_rare *counts,
    const analysis_far *far,
    const flow_rest *rest,
    int side,
    const segment *th,
    uint32_t classes,
) noexcept nogil:
    """Keep Zeek's history: what was seen of either side, in order of its first time."""
    cdef uint16_t control = th.flags & TCPHDR_CONTROL
    cdef int which
    if th.bad & BAD_TCP_CSUM:
        analysis_note_count(more, HISTORY_C, side, rest.bad_checksum[side])
    if classes & TCP_A_LOST_PACKET:
        analysis_note_count(more, HISTORY_G, side, class_count(counts, far, 4))
    if control & TCPHDR_SYN and control != TCPHDR_SYN:
        analysis_note_once(an, more, HISTORY_Q, side)
    elif control == (TCPHDR_FIN | TCPHDR_RST):
        analysis_note_once(an, more, HISTORY_I, side)
    elif control == TCPHDR_SYN:
        if th.flags & TCPHDR_ACK and not more.history_len:
            analysis_note(more, HISTORY_TURNED, side)
        which = HISTORY_H if th.flags & TCPHDR_ACK else HISTORY_S
        analysis_note_once(an, more, which, side)
    if classes & TCP_A_RETRANSMISSION and th.payload_len:
        analysis_note_count(more, HISTORY_T, side, class_count(counts, far, 0))
    if classes & TCP_A_ZERO_WINDOW:
        analysis_note_count(more, HISTORY_W, side, class_count(counts, far, 9))
    if th.payload_len:
        analysis_note_once(an, more, HISTORY_D, side)
    elif not control and th.flags & TCPHDR_ACK:
        analysis_note_once(an, more, HISTORY_A, side)
    if control == TCPHDR_FIN:
        analysis_note_once(an, more, HISTORY_F, side)
    elif control == TCPHDR_RST:
        analysis_note_once(an, more, HISTORY_R, side)


cdef inline uint8_t conn_state(const flow *fl, uint8_t completeness) noexcept nogil:
    """Zeek's state: who opened, who closed, who reset."""
    cdef uint16_t a = fl.ends[0].flags, b = fl.ends[1].flags
    cdef bint syn = completeness & COMPLETE_SYN, synack = completeness & COMPLETE_SYNACK
    if b & TCPHDR_RST:
        if not syn:
            return CONN_RSTRH
        return CONN_RSTR if synack else CONN_REJ
    if a & TCPHDR_RST:
        return CONN_RSTO if synack else CONN_RSTOS0
    if a & b & TCPHDR_FIN:
        return CONN_SF
    if a & TCPHDR_FIN:
        return CONN_S2 if synack else CONN_SH
    if b & TCPHDR_FIN:
        return CONN_S3 if syn else CONN_SHR
    if not syn:
        return CONN_OTH
    if synack:
        return CONN_S1
    return CONN_OTH if fl.ends[1].packets else CONN_S0
