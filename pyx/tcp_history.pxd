# Zeek's view of a connection: its history, a letter for what was seen, and its state.
# Zeek's documentation of conn.log.  docs/analysis.md has the rules.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from tcp cimport *

cdef enum:
    HISTORY_MAX = 47

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

cdef enum:  # places of the letters SHADFRIQ
    HISTORY_S = 0
    HISTORY_H = 1
    HISTORY_A = 2
    HISTORY_D = 3
    HISTORY_F = 4
    HISTORY_R = 5
    HISTORY_I = 6
    HISTORY_Q = 7

cdef extern from *:
    """
    static const unsigned char HISTORY_LETTERS[] = "SHADFRIQ";
    """
    const uint8_t HISTORY_LETTERS[8]


cdef inline void analysis_note(analysis *an, uint8_t letter, int side) noexcept nogil:
    """Write a letter of the history, small for b."""
    if an.history_len < HISTORY_MAX:
        an.history[an.history_len] = letter + 32 if side and letter != 94 else letter
        an.history_len += 1


cdef inline void analysis_note_once(analysis *an, int which, int side) noexcept nogil:
    """Write the letter of an event that is told once of each side."""
    if not an.ends[side].noted >> which & 1:
        an.ends[side].noted |= 1 << which
        analysis_note(an, HISTORY_LETTERS[which], side)


cdef inline void analysis_note_count(
    analysis *an, uint8_t letter, int side, uint32_t count
) noexcept nogil:
    """Write the letter of an event that is told at the first, tenth, hundredth time."""
    while count and count % 10 == 0:
        count //= 10
    if count == 1:
        analysis_note(an, letter, side)


cdef inline void analysis_history(
    analysis *an,
    const analysis_rare *counts,
    const flow_rest *rest,
    int side,
    const segment *th,
    uint32_t classes,
) noexcept nogil:
    """Keep Zeek's history: what was seen of either side, in order of its first time."""
    cdef uint16_t control = th.flags & TCPHDR_CONTROL
    if th.bad & BAD_TCP_CSUM:
        analysis_note_count(an, 67, side, rest.bad_checksum[side])  # C
    if classes & TCP_A_LOST_PACKET:
        analysis_note_count(an, 71, side, counts.counts[4])  # G
    if control & TCPHDR_SYN and control != TCPHDR_SYN:
        analysis_note_once(an, HISTORY_Q, side)
    elif control == (TCPHDR_FIN | TCPHDR_RST):
        analysis_note_once(an, HISTORY_I, side)
    elif control == TCPHDR_SYN:
        if th.flags & TCPHDR_ACK and not an.history_len:
            analysis_note(an, 94, side)  # ^
        analysis_note_once(an, HISTORY_H if th.flags & TCPHDR_ACK else HISTORY_S, side)
    if classes & TCP_A_RETRANSMISSION and th.payload_len:
        analysis_note_count(an, 84, side, counts.counts[0])  # T
    if classes & TCP_A_ZERO_WINDOW:
        analysis_note_count(an, 87, side, counts.counts[9])  # W
    if th.payload_len:
        analysis_note_once(an, HISTORY_D, side)
    elif not control and th.flags & TCPHDR_ACK:
        analysis_note_once(an, HISTORY_A, side)
    if control == TCPHDR_FIN:
        analysis_note_once(an, HISTORY_F, side)
    elif control == TCPHDR_RST:
        analysis_note_once(an, HISTORY_R, side)


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
