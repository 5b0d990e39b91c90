"""Why it is slow: time of each direction by what limited it, as a tap can tell.

Linux: tcp_output.c (tcp_chrono_start).  RFC 4898 4.5 (SndLimTime); docs/slow.md has the rules.
"""

from __future__ import annotations

from enum import IntEnum

from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCPHDR_SYN,
    Analysis,
    Class,
    Flow,
    FlowBit,
    Opt,
    Segment,
    Tcb,
    TcbFlag,
    after,
    before,
)


class Cause(IntEnum):
    """What limits an end (the column `slow`)."""

    LIMITED_NONE = 0
    LIMITED_APPLICATION = 1
    LIMITED_RECEIVER = 2
    LIMITED_NETWORK = 3
    LIMITED_HANDSHAKE = 4


# Plain ints: an enum member's `|` costs more than the step itself.
NONE, APPLICATION, RECEIVER, NETWORK, HANDSHAKE = map(int, Cause)
RETRANSMISSION = int(Class.TCP_A_RETRANSMISSION)
SPURIOUS_RETRANSMISSION = int(Class.TCP_A_SPURIOUS_RETRANSMISSION)
NOT_NEW = RETRANSMISSION | int(
    Class.TCP_A_OUT_OF_ORDER | Class.TCP_A_KEEP_ALIVE | Class.TCP_A_ZERO_WINDOW_PROBE
)
TCB_SND, TCB_PEER_WINDOW = int(TcbFlag.TCB_SND), int(TcbFlag.TCB_PEER_WINDOW)
TCB_FIN_SENT = int(TcbFlag.TCB_FIN_SENT)

FULL_SIZE_MIN = 512  # no path carries less: 576 bytes and headers with options (RFC 791 3.2)
NEAR_FACTOR = 8  # a sender that is so much nearer than its peer is as good as here
FAR_NS = 1_000_000_000  # nobody is farther away than that
PAUSE_NS = 100_000_000
TIMESTAMP_ROOM = 12  # its option, padded
HALF_OPEN = 1 << TCP_LISTEN | 1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV
INT64_MAX = (1 << 63) - 1


def chrono_distance(an: Analysis, side: int) -> int:
    """Time from here to an end and back, as its quickest acknowledgment tells; 0 if none has."""
    peer = an.ends[1 - side]
    return min(peer.rtt_min_ns, FAR_NS) if peer.rtt_samples else 0


def chrono_later(time_ns: int, by_ns: int) -> int:
    """Return a time that is later, as far as there are any."""
    return min(time_ns + by_ns, INT64_MAX)


def chrono_flight(snd: Tcb) -> int:
    """Bytes in flight."""
    flight = (snd.snd_nxt - snd.snd_una) & MASK32
    return 0 if not snd.flags & TCB_SND or flight >> 31 else flight


def chrono_cause(an: Analysis, flow: Flow, side: int) -> int:
    """What limits an end from now on."""
    snd, e = flow.ends[side].tcb, an.chrono.ends[side]
    flight = chrono_flight(snd)
    states = 1 << snd.state | 1 << flow.ends[1 - side].tcb.state
    if not flow.bits & FlowBit.FLOW_JUDGED or states & HALF_OPEN:
        return HANDSHAKE
    if snd.state == TCP_CLOSE or (snd.flags & TCB_FIN_SENT and not flight):
        return NONE
    known, window = snd.flags & TCB_PEER_WINDOW, snd.snd_wnd
    if not flight:
        if known and (window == 0 or (window < e.full_size and not e.short)):
            return RECEIVER
        return APPLICATION
    if e.recovering:
        return NETWORK
    if known and (e.full or flight + e.full_size > window):
        return RECEIVER
    return APPLICATION if e.short else NETWORK


def chrono_spend(an: Analysis, side: int, was_ns: int, now_ns: int, lost: bool) -> None:
    """Add the time since the last segment, which came at `was_ns`, to the cause that held; if
    something was `lost`, the end has waited for it."""
    e = an.chrono.ends[side]
    if lost and e.cause != NONE:
        e.cause = NETWORK
        e.answering = False
    elif e.answering and now_ns >= e.answer_end_ns:
        e.limited_ns[e.cause] += e.answer_end_ns - was_ns
        was_ns = e.answer_end_ns
        e.cause = APPLICATION
        e.answering = e.full = False
    if e.cause != NONE:
        e.limited_ns[e.cause] += now_ns - was_ns


def chrono_round(an: Analysis, flow: Flow, side: int, now_ns: int) -> None:
    """Begin a round: what comes within it was sent without knowing a later window than this."""
    ch, snd = an.chrono, flow.ends[side].tcb
    distance = chrono_distance(an, side)
    near = distance == 0 or distance < chrono_distance(an, 1 - side) // NEAR_FACTOR
    ch.round_full = False
    if near or not snd.flags & TCB_PEER_WINDOW:
        ch.round_side = None
        ch.ends[side].full = False
        ch.round_end_ns = chrono_later(now_ns, PAUSE_NS)
    else:
        ch.round_side = side
        ch.round_edge = (snd.snd_una + snd.snd_wnd) & MASK32
        ch.round_end_ns = chrono_later(now_ns, distance)


def chrono_round_ends(an: Analysis, side: int, th: Segment) -> None:
    """A round is over: did what came within it, and the segment after it, fill the window?"""
    ch = an.chrono
    if ch.round_side is not None:
        e = ch.ends[ch.round_side]
        e.full = ch.round_full
        if ch.round_side == side and th.payload_len:
            edge = (th.seq + min(th.payload_len, e.full_size) + e.full_size) & MASK32
            e.full = e.full or after(edge, ch.round_edge)
    ch.round_end_ns = ch.round_side = None


def chrono_sent(an: Analysis, flow: Flow, side: int, th: Segment) -> None:
    """New data of an end: is the segment as long as it could be, and the window full?"""
    ch, e, peer = an.chrono, an.chrono.ends[side], flow.ends[1 - side]
    if th.payload_len > e.full_size:
        room = peer.mss if peer.opts & Opt.OPT_MSS else 0xFFFF
        if th.opts & Opt.OPT_TIMESTAMP and room > TIMESTAMP_ROOM:
            room -= TIMESTAMP_ROOM
        e.full_size = max(e.full_size, min(th.payload_len, room))
    e.short = th.payload_len < e.full_size
    if ch.round_end_ns is None and not e.short:
        chrono_round(an, flow, side, flow.last_ns)
    if ch.round_side == side:
        edge = (flow.ends[side].tcb.snd_nxt + e.full_size) & MASK32
        ch.round_full = ch.round_full or after(edge, ch.round_edge)


def chrono_limit(an: Analysis, flow: Flow, side: int) -> None:
    """Find out what limits an end from now on."""
    snd, e, peer = flow.ends[side].tcb, an.chrono.ends[side], an.chrono.ends[1 - side]
    if e.recovering and not before(snd.snd_una, e.recover):
        e.recovering = False
    cause = chrono_cause(an, flow, side)
    if cause == APPLICATION and chrono_flight(snd) == 0:
        if e.answering:
            return
        distance = chrono_distance(an, side)
        if distance and e.cause in (RECEIVER, NETWORK):
            e.answering = True
            e.answer_end_ns = flow.last_ns + distance + distance // 8
            if peer.answering:  # only one is waited for
                peer.answering = False
                peer.cause = APPLICATION
            return
    e.answering = False
    e.cause = cause


def tcp_chrono(flow: Flow, side: int, th: Segment, was_ns: int, classes: int) -> None:
    """Move the clocks by one segment of `side`; `was_ns` is the flow's last time before it."""
    an = flow.analysis
    assert an is not None
    ch, e, snd = an.chrono, an.chrono.ends[side], flow.ends[side].tcb
    now_ns = flow.last_ns
    lost = bool(classes & RETRANSMISSION) and not (snd.flags & TCB_PEER_WINDOW and snd.snd_wnd == 0)
    if now_ns > was_ns:
        if ch.ends[0].cause == HANDSHAKE:
            ch.handshake_ns += now_ns - was_ns
        else:
            chrono_spend(an, side, was_ns, now_ns, lost)
            chrono_spend(an, 1 - side, was_ns, now_ns, False)
        if ch.round_end_ns is not None and now_ns >= ch.round_end_ns:
            chrono_round_ends(an, side, th)
    if th.payload_len and not classes & NOT_NEW:
        chrono_sent(an, flow, side, th)
    elif classes & RETRANSMISSION and not classes & SPURIOUS_RETRANSMISSION:
        e.recovering = True
        e.recover = snd.snd_nxt
    if th.opts & Opt.OPT_MSS and th.flags & TCPHDR_SYN:
        peer = ch.ends[1 - side]
        peer.full_size = min(peer.full_size, flow.ends[side].mss)
    chrono_limit(an, flow, side)
    chrono_limit(an, flow, 1 - side)


def limited_value(an: Analysis, side: int, cause: int) -> int:
    """How long a cause held, as the column has it."""
    if cause == HANDSHAKE:
        return min(an.chrono.handshake_ns, INT64_MAX)
    return min(an.chrono.ends[side].limited_ns[cause], INT64_MAX)


def chrono_slow(an: Analysis, side: int) -> int:
    """The cause that held longest in a direction, if there is one; `side` is -1 for none."""
    if side < 0:
        return NONE
    times = [limited_value(an, side, cause) for cause in range(APPLICATION, HANDSHAKE + 1)]
    most = max(times)
    return times.index(most) + APPLICATION if most and times.count(most) == 1 else NONE
