"""The judge against its definition: acceptability, PAWS, the send window, every change of state.

Each at every corner of the 2**32 circle (T-29), through the doors `tcb_xmit` and `tcb_rcv`.
RFC 9293 3.4 and 3.10.7; RFC 7323 2 and 5; RFC 5961.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from capgen import ACK, FIN, RST, SYN

from tcpcore.reference.tcp import TCP_CLOSE as CLOSED
from tcpcore.reference.tcp import TCP_CLOSE_WAIT as CLOSE_WAIT
from tcpcore.reference.tcp import TCP_CLOSING as CLOSING
from tcpcore.reference.tcp import TCP_ESTABLISHED as ESTABLISHED
from tcpcore.reference.tcp import TCP_FIN_WAIT1 as FIN_WAIT1
from tcpcore.reference.tcp import TCP_FIN_WAIT2 as FIN_WAIT2
from tcpcore.reference.tcp import TCP_LAST_ACK as LAST_ACK
from tcpcore.reference.tcp import TCP_LISTEN as LISTEN
from tcpcore.reference.tcp import TCP_SYN_RECV as SYN_RECEIVED
from tcpcore.reference.tcp import TCP_SYN_SENT as SYN_SENT
from tcpcore.reference.tcp import TCP_TIME_WAIT as TIME_WAIT
from tcpcore.reference.tcp import Opt, TcbFlag, Verdict

CORNERS = (0, 1, 100, (1 << 31) - 50, 1 << 31, (1 << 32) - 60, (1 << 32) - 1)
MASK = 0xFFFFFFFF
WINDOW = 1000
KNOWN = TcbFlag.TCB_SND | TcbFlag.TCB_RCV | TcbFlag.TCB_WINDOW | TcbFlag.TCB_PEER_WINDOW
TIMESTAMP, WSCALE = int(Opt.OPT_TIMESTAMP), int(Opt.OPT_WSCALE)

Fields = dict[str, int]


def an_end(at: int = 5000, **fields: int) -> Fields:
    """An open end; 100 bytes that it sent from `at` on are in flight, `at` is expected next too."""
    end = {
        "state": ESTABLISHED,
        "snd_una": at,
        "snd_nxt": (at + 100) & MASK,
        "snd_wl1": (at - 1) & MASK,
        "snd_wnd": WINDOW,
        "max_window": WINDOW,
        "rcv_nxt": at,
        "rcv_mwnd_seq": (at + WINDOW) & MASK,
        "ts_recent": 0,
        "snd_wscale": 0,
        "rcv_wscale": 0,
        "flags": int(KNOWN),
    }
    return end | fields


def a_segment(seq: int, ack: int = 0, flags: int = ACK, size: int = 0, **fields: int) -> Fields:
    segment = {"seq": seq & MASK, "ack": ack & MASK, "flags": flags, "payload_len": size}
    return segment | {"window": WINDOW} | fields


class Ends:
    """Two ends and a wire that an observer watches."""

    def __init__(self, engine: ModuleType, isn: tuple[int, int] = (100, 300)) -> None:
        self.engine = engine
        self.tcb: list[Fields] = [{"state": CLOSED}, {"state": LISTEN}]
        self.isn = isn

    def send(
        self, side: int, flags: int, seq: int, ack: int = 0, size: int = 0, **more: int
    ) -> int:
        """Numbers are relative to the ends' first ones; the verdicts of both ends together."""
        if flags & ACK:
            ack += self.isn[1 - side]
        segment = a_segment(self.isn[side] + seq, ack, flags, size, **more)
        self.tcb[side], sent = self.engine.tcb_xmit(self.tcb[side], segment)
        self.tcb[1 - side], took = self.engine.tcb_rcv(self.tcb[1 - side], segment)
        return int(sent | took)

    def open(self, **options: int) -> Ends:
        self.send(0, SYN, 0, **options)
        self.send(1, SYN | ACK, 0, 1, **options)
        self.send(0, ACK, 1, 1)
        assert self.states == (ESTABLISHED, ESTABLISHED)
        return self

    @property
    def states(self) -> tuple[int, int]:
        return self.tcb[0]["state"], self.tcb[1]["state"]


@pytest.fixture(params=CORNERS)
def at(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# Sequence numbers (RFC 9293 3.4; T-15, T-29).


@pytest.mark.parametrize("window", [0, 1, 10])
@pytest.mark.parametrize("size", [0, 1, 5, 30])
def test_acceptability(engine: ModuleType, at: int, size: int, window: int) -> None:
    """Table 6, its four cases: the number of the first byte or the last is in the window."""
    end = an_end(at, rcv_mwnd_seq=(at + window) & MASK)
    for first in range(-40, 41):
        last = first + size - 1
        if size == 0:
            right = first == 0 if window == 0 else 0 <= first < window
            right = right or first == window  # Deviation: an acknowledgment on the right edge
        elif window == 0:
            right = False
        else:
            right = 0 <= first < window or 0 <= last < window
            right = right or (first < 0 and last >= window)  # Deviation: takes what fits
        old = first < 0 if size == 0 else last < 0
        wrong = Verdict.TCB_OLD if old else Verdict.TCB_OVERWINDOW
        seq, end_seq = (at + first) & MASK, (at + first + size) & MASK
        assert engine.tcp_sequence(end, seq, end_seq) == (0 if right else wrong), (first, last)


def test_what_it_takes(engine: ModuleType, at: int) -> None:
    """In order, the new part of what overlaps, nothing of what is old or far ahead."""
    for seq, size, moved, bit in (
        (0, 10, 10, Verdict.TCB_DATA),
        (-5, 10, 5, Verdict.TCB_PARTIAL),
        (-10, 10, 0, Verdict.TCB_OLD),
        (5, 10, 0, Verdict.TCB_OFO),
        (WINDOW, 10, 0, Verdict.TCB_OVERWINDOW),
    ):
        after, verdict = engine.tcb_rcv(an_end(at), a_segment(at + seq, at, size=size))
        assert after["rcv_nxt"] == (at + moved) & MASK
        assert verdict & bit


def test_prediction_changes_nothing(engine: ModuleType, at: int) -> None:
    """What header prediction takes, and the same with URG, which it does not, end alike."""
    end, urgent = an_end(at), 0x20
    fast, verdict = engine.tcb_rcv(end, a_segment(at, at + 50, size=10))
    slow, slower = engine.tcb_rcv(end, a_segment(at, at + 50, ACK | urgent, size=10))
    assert fast == slow
    assert verdict == slower | Verdict.TCB_FAST


def test_closed_window(engine: ModuleType, at: int) -> None:
    """9293:MUST-66: it refuses data, but takes RST, ACK and a bare FIN."""
    end = an_end(at, rcv_mwnd_seq=at)
    after, verdict = engine.tcb_rcv(end, a_segment(at, at + 40, size=1))
    assert verdict & Verdict.TCB_OVERWINDOW
    assert (after["rcv_nxt"], after["snd_una"]) == (at, (at + 40) & MASK)
    after, verdict = engine.tcb_rcv(end, a_segment(at, at, FIN | ACK))
    assert (verdict & Verdict.TCB_FIN_TAKEN, after["state"]) == (
        Verdict.TCB_FIN_TAKEN,
        CLOSE_WAIT,
    )
    for size in (0, 5):  # 9293:SHLD-2: a reset may carry data
        after, verdict = engine.tcb_rcv(end, a_segment(at, 0, RST, size))
        assert (verdict, after["state"]) == (Verdict.TCB_RST_TAKEN, CLOSED)


# Acknowledgments and windows (RFC 9293 3.10.7.4, fifth step; RFC 5961 5.2).


def test_acknowledgment(engine: ModuleType, at: int) -> None:
    for ack, una, bit in (
        (0, 0, 0),
        (1, 1, Verdict.TCB_ACKED),
        (100, 100, Verdict.TCB_ACKED),
        (101, 0, Verdict.TCB_ACK_UNSENT),
        (-WINDOW, 0, 0),
        (-WINDOW - 1, 0, Verdict.TCB_ACK_OLD),
    ):
        after, verdict = engine.tcb_rcv(an_end(at), a_segment(at, at + ack, size=3))
        assert after["snd_una"] == (at + una) & MASK
        assert verdict & ~(Verdict.TCB_FAST | Verdict.TCB_DATA | Verdict.TCB_WINUPDATE) == bit
        refused = bit in (Verdict.TCB_ACK_OLD, Verdict.TCB_ACK_UNSENT)
        assert after["rcv_nxt"] == (at if refused else (at + 3) & MASK)


def test_send_window(engine: ModuleType, at: int) -> None:
    """It moves by what is newer: an acknowledgment, else a number, else more room or none."""
    for seq, ack, window, moves in (
        (0, 0, 500, True),  # number after snd_wl1
        (-1, 1, 500, True),  # the same number, but acknowledges more
        (-1, 0, 1500, True),  # the same in all, but more room
        (-1, 0, 500, False),
        (-1, 0, 0, True),  # none at all
    ):
        end = an_end(at, rcv_nxt=(at - 1) & MASK)
        after, verdict = engine.tcb_rcv(end, a_segment(at + seq, at + ack, window=window))
        assert after["snd_wnd"] == (window if moves else WINDOW)
        assert bool(verdict & Verdict.TCB_WINUPDATE) == moves


def test_window_scale(engine: ModuleType) -> None:
    """RFC 7323 2: both SYNs offer one or neither counts, 14 at most, not for a SYN's own window."""
    for wscale, answer, shift in ((7, WSCALE, 7), (200, WSCALE, 14), (7, 0, 0)):
        ends = Ends(engine)
        ends.send(0, SYN, 0, opts=WSCALE, wscale=wscale, window=900)
        assert ends.tcb[1]["snd_wnd"] == 900
        ends.send(1, SYN | ACK, 0, 1, opts=answer)
        ends.send(0, ACK, 1, 1, window=3)
        assert ends.tcb[1]["snd_wnd"] == 3 << shift
        assert ends.tcb[0]["rcv_mwnd_seq"] == 301 + (3 << shift)


def test_the_right_edge_stays(engine: ModuleType, at: int) -> None:
    """9293:SHLD-14 for the peer's sake: what was offered once is still taken."""
    end, _ = engine.tcb_xmit(an_end(at), a_segment(at + 100, at, window=10))
    assert end["rcv_mwnd_seq"] == (at + WINDOW) & MASK
    end, _ = engine.tcb_xmit(end, a_segment(at + 100, at, window=2000))
    assert end["rcv_mwnd_seq"] == (at + 2000) & MASK


# Time stamps (RFC 7323 5).


def test_paws(engine: ModuleType, at: int) -> None:
    end = an_end(ts_recent=at, flags=int(KNOWN | TcbFlag.TCB_TSTAMP))
    for tsval, taken in ((0, True), (1, True), (-1, False), ((1 << 31) - 1, True)):
        stamp = {"opts": TIMESTAMP, "tsval": (at + tsval) & MASK}
        after, verdict = engine.tcb_rcv(end, a_segment(5000, 5000, size=9, **stamp))
        assert bool(verdict & Verdict.TCB_PAWS) != taken
        assert after == end or taken
        assert after["ts_recent"] == (at + max(tsval, 0)) & MASK
    stamp["tsval"] = (at - 1) & MASK
    after, verdict = engine.tcb_rcv(end, a_segment(5000, 0, RST, **stamp))
    assert verdict == Verdict.TCB_RST_TAKEN  # 5.2: a reset is not subject to it
    assert engine.tcb_rcv(end, a_segment(5000, 5000, size=9))[1] & Verdict.TCB_DATA  # without one


def test_time_stamp_of_half_a_circle(engine: ModuleType) -> None:
    """More data than half the circle, as a lying length claims: what is in order still counts."""
    data = a_segment(5000, 5000, size=3 << 30, opts=TIMESTAMP, tsval=7)
    tcb, verdict = engine.tcb_rcv(an_end(flags=int(KNOWN | TcbFlag.TCB_TSTAMP)), data)
    assert verdict & Verdict.TCB_FAST
    assert (tcb["ts_recent"], tcb["rcv_nxt"]) == (7, 5000 + (3 << 30))


def test_time_stamp_ahead_of_a_hole(engine: ModuleType) -> None:
    """RFC 7323 4.3: only what is in order tells the time."""
    end = an_end(ts_recent=7, flags=int(KNOWN | TcbFlag.TCB_TSTAMP))
    ahead = a_segment(5010, 5000, size=9, opts=TIMESTAMP, tsval=9)
    assert engine.tcb_rcv(end, ahead)[0]["ts_recent"] == 7


# Resets and SYNs where they do not belong (RFC 5961; T-15).


def test_reset(engine: ModuleType, at: int) -> None:
    for seq, verdict in (
        (0, Verdict.TCB_RST_TAKEN),
        (1, Verdict.TCB_CHALLENGE),
        (WINDOW, Verdict.TCB_CHALLENGE),
        (WINDOW + 1, Verdict.TCB_OVERWINDOW),
        (-1, Verdict.TCB_OLD),
    ):
        after, got = engine.tcb_rcv(an_end(at), a_segment(at + seq, 0, RST))
        assert got == verdict
        assert after["state"] == (CLOSED if verdict == Verdict.TCB_RST_TAKEN else ESTABLISHED)


def test_reset_in_syn_sent(engine: ModuleType, at: int) -> None:
    """RFC 9293 3.10.7.3: only one that acknowledges the SYN."""
    end = {"state": SYN_SENT, "snd_una": at, "snd_nxt": (at + 1) & MASK, "flags": 1}
    for flags, ack, state in ((RST, 1, SYN_SENT), (RST | ACK, 0, SYN_SENT), (RST | ACK, 1, CLOSED)):
        after, _ = engine.tcb_rcv(end, a_segment(0, at + ack, flags))
        assert after["state"] == state


@pytest.mark.parametrize("seq", [0, 5, -1, -4000, WINDOW + 10])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_syn_in_an_open_connection(engine: ModuleType, seq: int, flags: int) -> None:
    """RFC 5961 4.2: whatever its number, a challenge ACK and nothing else."""
    end = an_end()
    after, verdict = engine.tcb_rcv(end, a_segment(5000 + seq, 5050, flags))
    assert verdict & Verdict.TCB_CHALLENGE
    assert after == end


# States: opening.


def test_handshake(engine: ModuleType, at: int) -> None:
    ends = Ends(engine, (at, at ^ (1 << 31)))
    ends.send(0, SYN, 0)
    assert ends.states == (SYN_SENT, SYN_RECEIVED)
    assert ends.send(1, SYN | ACK, 0, 1) & Verdict.TCB_ESTAB
    assert ends.states == (ESTABLISHED, SYN_RECEIVED)
    assert ends.send(0, ACK, 1, 1) & Verdict.TCB_ESTAB
    assert ends.states == (ESTABLISHED, ESTABLISHED)
    assert ends.send(0, ACK, 1, 1, 10) & Verdict.TCB_FAST
    assert ends.send(1, ACK, 1, 11) & Verdict.TCB_ACKED


def test_simultaneous_open(engine: ModuleType, at: int) -> None:
    """9293:MUST-10, figure 7: both SYNs are under way at once, and both are answered."""
    ends = Ends(engine, (at, at))
    ends.tcb[1]["state"] = CLOSED
    for side in (0, 1):
        syn = a_segment(at, 0, SYN)
        ends.tcb[side], _ = engine.tcb_xmit(ends.tcb[side], syn)
    for side in (0, 1):
        ends.tcb[side], _ = engine.tcb_rcv(ends.tcb[side], syn)
    assert ends.states == (SYN_RECEIVED, SYN_RECEIVED)
    ends.send(0, SYN | ACK, 0, 1)
    ends.send(1, SYN | ACK, 0, 1)
    assert ends.states == (ESTABLISHED, ESTABLISHED)
    assert ends.send(1, ACK, 1, 1, 10) & Verdict.TCB_DATA


@pytest.mark.parametrize("steps", [4, 5])
def test_split_handshake(engine: ModuleType, steps: int) -> None:
    """T-18: the server answers by a SYN of its own, with an ACK before it or without."""
    ends = Ends(engine)
    ends.send(0, SYN, 0)
    if steps == 5:
        ends.send(1, ACK, 0, 1)
    ends.send(1, SYN, 0)
    assert ends.states[0] == SYN_RECEIVED
    ends.send(0, SYN | ACK, 0, 1)
    ends.send(1, ACK, 1, 1)
    assert ends.states == (ESTABLISHED, ESTABLISHED)


def test_repeated_handshake(engine: ModuleType) -> None:
    """Repeats change nothing; those of a SYN may carry data that were not taken (RFC 7413 3)."""
    ends = Ends(engine)
    ends.send(0, SYN, 0)
    for size in (0, 50):
        assert ends.send(0, SYN, 0, size=size) & Verdict.TCB_OLD
        assert ends.states == (SYN_SENT, SYN_RECEIVED)
    ends.send(1, SYN | ACK, 0, 1)
    assert ends.send(1, SYN | ACK, 0, 1) & Verdict.TCB_RESENT
    ends.send(0, ACK, 1, 1)
    assert ends.states == (ESTABLISHED, ESTABLISHED)


def test_another_syn_begins_anew(engine: ModuleType) -> None:
    ends = Ends(engine)
    ends.send(0, SYN, 0)
    ends.send(0, SYN, 7000)
    assert ends.tcb[0]["snd_una"] == 7100


# States: closing.


@pytest.mark.parametrize("first", [0, 1])
def test_close(engine: ModuleType, at: int, first: int) -> None:
    ends = Ends(engine, (at, at ^ (1 << 31))).open()
    other = 1 - first

    def states() -> tuple[int, int]:
        return ends.states[first], ends.states[other]

    ends.send(first, FIN | ACK, 1, 1)
    assert states() == (FIN_WAIT1, CLOSE_WAIT)
    ends.send(other, ACK, 1, 2)
    assert states() == (FIN_WAIT2, CLOSE_WAIT)
    assert ends.send(other, ACK, 1, 2, 10) & Verdict.TCB_DATA  # half-closed: it may go on sending
    ends.send(other, FIN | ACK, 11, 2)
    assert states() == (TIME_WAIT, LAST_ACK)
    ends.send(first, ACK, 2, 12)
    assert states() == (TIME_WAIT, CLOSED)


def test_close_in_three(engine: ModuleType) -> None:
    ends = Ends(engine).open()
    ends.send(0, FIN | ACK, 1, 1)
    ends.send(1, FIN | ACK, 1, 2)
    assert ends.states == (TIME_WAIT, LAST_ACK)


def test_simultaneous_close(engine: ModuleType) -> None:
    ends = Ends(engine).open()
    crossing = [a_segment(101, 301, FIN | ACK), a_segment(301, 101, FIN | ACK)]
    for side in (0, 1):
        ends.tcb[side], _ = engine.tcb_xmit(ends.tcb[side], crossing[side])
    for side in (0, 1):
        ends.tcb[side], _ = engine.tcb_rcv(ends.tcb[side], crossing[1 - side])
    assert ends.states == (CLOSING, CLOSING)
    ends.send(0, ACK, 2, 2)
    ends.send(1, ACK, 2, 2)
    assert ends.states == (TIME_WAIT, TIME_WAIT)


def test_fin_of_a_life_before(engine: ModuleType) -> None:
    """A SYN begins anew, and who only listens has nothing to end: no open end has sent a FIN."""
    sent = int(TcbFlag.TCB_FIN_SENT)
    end, _ = engine.tcb_xmit(an_end(state=LISTEN), a_segment(5100, 5000, FIN | ACK))
    assert not end["flags"] & sent
    for state in (CLOSED, LISTEN, SYN_SENT, SYN_RECEIVED):
        was = an_end(state=state, flags=int(KNOWN) | sent)
        end, _ = engine.tcb_xmit(was, a_segment(7, flags=SYN))
        assert not end["flags"] & sent


def test_fin_before_its_turn(engine: ModuleType) -> None:
    """T-16: it waits, and so does data behind one that was taken."""
    ends = Ends(engine).open()
    assert ends.send(0, FIN | ACK, 11, 1) & Verdict.TCB_OFO
    assert ends.states == (FIN_WAIT1, ESTABLISHED)
    ends.send(0, FIN | ACK, 1, 1, 10)
    assert ends.states == (FIN_WAIT1, CLOSE_WAIT)
    assert ends.send(0, ACK, 12, 1, 5) & Verdict.TCB_OLD


@pytest.mark.parametrize("state", [CLOSED, LISTEN])
def test_nobody_there(engine: ModuleType, state: int) -> None:
    for flags in (ACK, RST, FIN | ACK, SYN | ACK):
        after, verdict = engine.tcb_rcv({"state": state}, a_segment(1, 1, flags))
        assert (after["state"], verdict) == (state, Verdict.TCB_NO_CONN)


# What the tap did not see.


def test_unseen_syn_ack(engine: ModuleType) -> None:
    """One direction only: the ACK shows that there was one, and its shift may be any."""
    ends = Ends(engine)
    ends.send(0, SYN, 0, opts=WSCALE, wscale=7)
    assert ends.send(0, ACK, 1, 1, window=3) & Verdict.TCB_ESTAB
    assert ends.states == (ESTABLISHED, ESTABLISHED)
    assert ends.tcb[1]["snd_wnd"] == 3 << 7
    ends.send(1, ACK, 1, 1, window=2)
    assert ends.send(0, ACK, 1 + 20_000, 1, 10) & Verdict.TCB_OFO  # inside 2 << 14


def test_unseen_handshake(engine: ModuleType, at: int) -> None:
    """A SYN, then one that goes on: it was answered."""
    ends = Ends(engine, (at, at))
    ends.send(0, SYN, 0)
    ends.send(1, ACK, 1, 1, 10)
    assert ends.states[1] == ESTABLISHED
    ends.send(0, ACK, 1, 11, 10)
    assert ends.states == (ESTABLISHED, ESTABLISHED)


def middle(engine: ModuleType, at: int) -> Ends:
    """Ends of a connection that was open before the tap was."""
    ends = Ends(engine, (at, at))
    scaled = int(TcbFlag.TCB_WSCALE_SENT | TcbFlag.TCB_WSCALE_RCVD)
    ends.tcb = [
        {"state": ESTABLISHED, "snd_wscale": 14, "rcv_wscale": 14, "flags": scaled}
        for _ in range(2)
    ]
    return ends


def test_picked_up_in_the_middle(engine: ModuleType, at: int) -> None:
    ends = middle(engine, at)
    assert ends.send(0, ACK, 0, 0, 10) & Verdict.TCB_DATA
    assert ends.send(1, ACK, -500, 10, 500)
    assert ends.send(1, ACK, 0, 10, 20) & Verdict.TCB_DATA
    assert ends.send(0, ACK, 10, 20) & Verdict.TCB_ACKED
    ends.send(0, FIN | ACK, 10, 20)
    ends.send(1, FIN | ACK, 20, 11)
    assert ends.states == (TIME_WAIT, LAST_ACK)


@pytest.mark.parametrize("hole", [5_000, 1 << 21, (1 << 31) - 1, 1 << 31, 3 << 30])
def test_hole(engine: ModuleType, at: int, hole: int) -> None:
    """Whatever its size, even round half the circle, the connection goes on behind it."""
    ends = Ends(engine, (at, at)).open()
    assert ends.send(0, ACK, 1 + hole, 1, 10) & Verdict.TCB_JUMP
    ends.send(1, ACK, 1, 1 + hole + 10)  # it has all of it, though the tap has not
    assert ends.tcb[1]["rcv_nxt"] == (at + 11 + hole) & MASK
    assert ends.send(0, ACK, 11 + hole, 1, 10) & Verdict.TCB_DATA
    assert ends.send(1, ACK, 1, 21 + hole) & Verdict.TCB_ACKED
    assert ends.states == (ESTABLISHED, ESTABLISHED)


@pytest.mark.parametrize("hole", [5_000, (1 << 31) - 1, 3 << 30])
def test_hole_of_one_direction(engine: ModuleType, at: int, hole: int) -> None:
    """An end that is never heard cannot say how much it has."""
    ends = middle(engine, at)
    ends.send(0, ACK, 0, 0, 10)
    assert ends.send(0, ACK, 0, 0, 10) & Verdict.TCB_OLD
    assert ends.send(0, ACK, 10 + hole, 0, 10) & Verdict.TCB_DATA
    assert ends.send(0, ACK, 20 + hole, 0, 10) & Verdict.TCB_DATA


def test_what_an_end_sends_is_the_truth(engine: ModuleType, at: int) -> None:
    """A guess too far ahead by what a window holds stands, by more it does not."""
    end = an_end(at, rcv_nxt=(at + 900) & MASK)
    near, _ = engine.tcb_xmit(end, a_segment(at + 100, at))
    assert near["rcv_nxt"] == (at + 900) & MASK
    end["rcv_nxt"] = (at + (1 << 21)) & MASK
    far, _ = engine.tcb_xmit(end, a_segment(at + 100, at))
    assert far["rcv_nxt"] == at


def test_repeats_move_nothing(engine: ModuleType, at: int) -> None:
    end = an_end(at)
    after, verdict = engine.tcb_xmit(end, a_segment(at + 40, at, size=60))
    assert (after["snd_nxt"], verdict) == ((at + 100) & MASK, Verdict.TCB_RESENT)
    after, verdict = engine.tcb_xmit(end, a_segment(at + 40, at, size=61))
    assert (after["snd_nxt"], verdict) == ((at + 101) & MASK, Verdict.TCB_RESENT)


def test_a_reset_does_nothing_where_it_is_sent(engine: ModuleType) -> None:
    end: dict[str, Any] = an_end()
    after, verdict = engine.tcb_xmit(end, a_segment(5100, 5000, RST | ACK))
    assert (after["state"], verdict) == (ESTABLISHED, 0)


def test_syn_whose_options_are_cut(engine: ModuleType) -> None:
    """RFC 7323 2.2: a SYN that the snap length cut may have offered any shift."""
    cut = int(Opt.OPT_CUT)
    syn = {"seq": 100, "flags": SYN, "window": 1000, "opts": cut}
    answer = {"seq": 500, "ack": 101, "flags": SYN | ACK, "window": 1000, "opts": cut}
    end, _ = engine.tcb_xmit({"state": CLOSED}, syn)
    end, _ = engine.tcb_rcv(end, answer)
    end, _ = engine.tcb_xmit(end, {"seq": 101, "ack": 501, "flags": ACK, "window": 1000})
    end, verdict = engine.tcb_rcv(
        end, {"seq": 501 + 200_000, "ack": 101, "flags": ACK, "window": 1000, "payload_len": 1400}
    )
    assert verdict & Verdict.TCB_OFO
    assert not verdict & Verdict.TCB_OVERWINDOW
