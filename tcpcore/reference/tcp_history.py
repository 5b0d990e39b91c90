"""Zeek's view of a connection: its history, a letter for what was seen, and its state.

Zeek's documentation of conn.log.  docs/analysis.md has the rules.
"""

from __future__ import annotations

from enum import IntEnum

from .tcp import (
    COMPLETE_SYN,
    COMPLETE_SYNACK,
    TCPHDR_ACK,
    TCPHDR_CONTROL,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Analysis,
    Bad,
    Class,
    Flow,
    Segment,
)

HISTORY_MAX = 36


class ConnState(IntEnum):
    """Zeek's state of a connection (the column `conn_state`)."""

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


# Letters of Zeek's history; its bit tells that a side has it already.
HISTORY_LETTERS = b"SHADFRIQ"
HISTORY_S, HISTORY_H, HISTORY_A, HISTORY_D, HISTORY_F, HISTORY_R = range(6)
HISTORY_I, HISTORY_Q = 6, 7

# Plain ints: an enum member's `|` costs more than the step itself.
RETRANSMISSION = int(Class.TCP_A_RETRANSMISSION)
LOST_PACKET, ZERO_WINDOW = int(Class.TCP_A_LOST_PACKET), int(Class.TCP_A_ZERO_WINDOW)


def analysis_note(an: Analysis, letter: int, side: int) -> None:
    """Write a letter of the history, small for b."""
    if len(an.history) < HISTORY_MAX:
        an.history.append(letter + 32 if side and letter != ord("^") else letter)


def analysis_note_once(an: Analysis, which: int, side: int) -> None:
    """Write the letter of an event that is told once of each side."""
    if not an.noted[side] >> which & 1:
        an.noted[side] |= 1 << which
        analysis_note(an, HISTORY_LETTERS[which], side)


def analysis_note_count(an: Analysis, letter: int, side: int, count: int) -> None:
    """Write the letter of an event that is told at the first, tenth, hundredth time."""
    while count % 10 == 0 and count:
        count //= 10
    if count == 1:
        analysis_note(an, letter, side)


def analysis_history(an: Analysis, flow: Flow, side: int, th: Segment, classes: int) -> None:
    """Keep Zeek's history: what was seen of either side, in order of its first time."""
    flags = th.flags
    if th.bad & Bad.BAD_TCP_CSUM:
        analysis_note_count(an, ord("C"), side, flow.bad_checksum[side])
    if classes & LOST_PACKET:
        analysis_note_count(an, ord("G"), side, an.ends[side].counts[4])
    if flags & TCPHDR_SYN and flags & (TCPHDR_FIN | TCPHDR_RST):
        analysis_note_once(an, HISTORY_Q, side)
    elif flags & TCPHDR_FIN and flags & TCPHDR_RST:
        analysis_note_once(an, HISTORY_I, side)
    elif flags & TCPHDR_SYN:
        if flags & TCPHDR_ACK and not an.history:
            analysis_note(an, ord("^"), side)
        analysis_note_once(an, HISTORY_H if flags & TCPHDR_ACK else HISTORY_S, side)
    if classes & RETRANSMISSION and th.payload_len:
        analysis_note_count(an, ord("T"), side, an.ends[side].counts[0])
    if classes & ZERO_WINDOW:
        analysis_note_count(an, ord("W"), side, an.ends[side].counts[9])
    if th.payload_len:
        analysis_note_once(an, HISTORY_D, side)
    elif flags & (TCPHDR_CONTROL | TCPHDR_ACK) == TCPHDR_ACK:
        analysis_note_once(an, HISTORY_A, side)
    if flags & (TCPHDR_CONTROL) == TCPHDR_FIN:
        analysis_note_once(an, HISTORY_F, side)
    elif flags & (TCPHDR_CONTROL) == TCPHDR_RST:
        analysis_note_once(an, HISTORY_R, side)


def conn_state(flow: Flow) -> int:
    """Zeek's state: who opened, who closed, who reset."""
    a, b = flow.ends[0].flags, flow.ends[1].flags
    syn, synack = flow.completeness & COMPLETE_SYN, flow.completeness & COMPLETE_SYNACK
    if b & TCPHDR_RST:
        if not syn:
            return ConnState.CONN_RSTRH
        return ConnState.CONN_RSTR if synack else ConnState.CONN_REJ
    if a & TCPHDR_RST:
        return ConnState.CONN_RSTO if synack else ConnState.CONN_RSTOS0
    if a & b & TCPHDR_FIN:
        return ConnState.CONN_SF
    if a & TCPHDR_FIN:
        return ConnState.CONN_S2 if synack else ConnState.CONN_SH
    if b & TCPHDR_FIN:
        return ConnState.CONN_S3 if syn else ConnState.CONN_SHR
    if not syn:
        return ConnState.CONN_OTH
    if synack:
        return ConnState.CONN_S1
    return ConnState.CONN_OTH if flow.ends[1].packets else ConnState.CONN_S0
