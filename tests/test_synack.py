"""T-18: several SYN-ACKs with different numbers for one SYN; the one counts that an ACK picks."""

from __future__ import annotations

import io
import random
from types import ModuleType
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, PSH, SEC, SYN

import tcpcore
from tcpcore.columns import DROP_NAMES, STATE_NAMES, VERDICT_NAMES

ENDS = ("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000)
NEAR = (1 << 32) - 2  # numbers wrap around


def segment(side: int, flags: int, seq: int, ack: int = 0, **fields: Any) -> bytes:
    return capgen.frame(*ENDS[side], flags=flags, seq=seq, ack=ack, **fields)


def synack(isn: int, stamp: int = 0, **fields: Any) -> bytes:
    options = capgen.mss(1400) + (capgen.timestamp(stamp, 1) if stamp else b"")
    return segment(1, SYN | ACK, isn, NEAR + 1, options=options + capgen.wscale(2), **fields)


def told(engine: ModuleType, *frames: bytes, **options: Any) -> dict[str, Any]:
    records = [(SEC + i, data) for i, data in enumerate(frames)]
    return lockstep.outcome(engine, [capgen.pcap(records, fmt="pcap-ns")], **options)


def states(outcome: dict[str, Any]) -> tuple[str, str]:
    table = outcome["connections"]
    return STATE_NAMES[table["state_a"][0]], STATE_NAMES[table["state_b"][0]]


def reasons(outcome: dict[str, Any]) -> list[str]:
    return [DROP_NAMES[drop] if drop else "" for drop in outcome["packets"]["drop_reason"]]


def verdicts(outcome: dict[str, Any]) -> list[set[str]]:
    words = memoryview(outcome["packets"]["verdict"]).cast("I")
    return [{n for bit, n in enumerate(VERDICT_NAMES) if word >> bit & 1} for word in words]


def dialogue(isn: int) -> list[bytes]:
    """What follows when the client took the SYN-ACK of this number."""
    data = {"payload": b"x" * 100}
    return [
        segment(0, ACK, NEAR + 1, isn + 1),
        segment(0, PSH | ACK, NEAR + 1, isn + 1, **data),
        segment(1, PSH | ACK, isn + 1, NEAR + 101, **data),
        segment(0, ACK, NEAR + 101, isn + 101),
    ]


SYN_OUT = segment(0, SYN, NEAR, options=capgen.timestamp(1, 0) + capgen.wscale(7))
# Far from each other and near, before and after, and around the end of the numbers.
NUMBERS = [(5000, 9000), (9000, 5000), (5000, 5001), (1, 1 << 31), ((1 << 32) - 1, 0)]


@pytest.mark.parametrize("picked", [0, 1])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_ack_picks(engine: ModuleType, numbers: tuple[int, int], picked: int) -> None:
    """T-18: whichever it is, the other leaves no trace."""
    frames = [SYN_OUT, *map(synack, numbers), *dialogue(numbers[picked])]
    outcome = told(engine, *frames)
    assert states(outcome) == ("ESTABLISHED", "ESTABLISHED")
    assert reasons(outcome) == ["", "", "TCP_INVALID_SYN", "", "", "", ""]
    said = verdicts(outcome)
    assert "TCB_CHALLENGE" in said[2]
    assert "TCB_ESTAB" in said[3]
    assert not {"CT_HOLE", "TCB_JUMP", "TCB_RESENT"} & set.union(*said[3:])
    assert {"TCB_FAST", "TCB_DATA"} <= said[4]
    assert "TCB_DATA" in said[5]
    # The column keeps to the first SYN of its side.
    assert memoryview(outcome["connections"]["isn_ba"]).cast("q")[0] == numbers[0]


def test_what_was_not_picked_leaves_nothing(engine: ModuleType) -> None:
    """Neither its time stamp, by which all that follows would be too old, nor its shift."""
    forged = synack(77, stamp=1 << 30)
    stamps = {"options": capgen.timestamp(9, 1), "payload": b"x"}
    frames = [SYN_OUT, forged, synack(5000, stamp=5), segment(0, ACK, NEAR + 1, 5001)]
    frames.append(segment(1, PSH | ACK, 5001, NEAR + 1, **stamps))
    outcome = told(engine, *frames)
    assert reasons(outcome)[3:] == ["", ""]
    assert "TCB_DATA" in verdicts(outcome)[4]


def test_each_is_kept(engine: ModuleType) -> None:
    """Four of a connection beside the first, repeated ones once; a fifth is not."""
    numbers = [1000 * (1 + i) for i in range(6)]
    frames = [SYN_OUT, *map(synack, numbers), synack(numbers[2]), synack(numbers[0])]
    for i in range(5):
        outcome = told(engine, *frames, *dialogue(numbers[i]))
        assert states(outcome) == ("ESTABLISHED", "ESTABLISHED")
        assert set(reasons(outcome)[len(frames) :]) == {""}


def test_a_wrong_ack_picks_nothing(engine: ModuleType) -> None:
    outcome = told(engine, SYN_OUT, synack(5000), synack(9000), segment(0, ACK, NEAR + 1, 5000))
    assert states(outcome) == ("ESTABLISHED", "SYN-RECEIVED")


def test_of_all_connections_they_are_bounded(reference: ModuleType, compiled: ModuleType) -> None:
    """A flood pushes the oldest out; those connections go on by what their ends send."""
    frames = []
    for stage in range(5):
        for i in range(400):
            ends = [("10.0.0.1", "10.0.0.2", 1000 + i, 80), ("10.0.0.2", "10.0.0.1", 80, 1000 + i)]
            steps = (
                (0, {"flags": SYN, "seq": 9}),
                (1, {"flags": SYN | ACK, "seq": 5000, "ack": 10}),
                (1, {"flags": SYN | ACK, "seq": 9000, "ack": 10}),
                (0, {"flags": ACK, "seq": 10, "ack": 9001}),
                (1, {"flags": ACK, "seq": 9001, "ack": 10, "payload": b"x"}),
            )
            side, fields = steps[stage]
            frames.append(capgen.frame(*ends[side], **fields))
    one = told(compiled, *frames)
    lockstep.assert_same(one, told(reference, *frames))
    assert one["summary"]["states"] == {(1, 1): 400}


@pytest.mark.parametrize("seed", range(15))
def test_lockstep(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    frames = []
    for _ in range(200):
        numbers = [rng.choice((NEAR, 0, 5000, 5001, 1 << 31)) for _ in range(2)]
        kind = rng.randrange(6)
        if kind == 0:
            frames.append(SYN_OUT)
        elif kind < 3:
            frames.append(synack(numbers[0], rng.choice((0, 5, 1 << 30))))
        elif kind == 3:
            frames.extend(dialogue(numbers[0])[: rng.randrange(5)])
        else:
            flags = rng.choice((SYN, ACK, PSH | ACK, capgen.RST, capgen.FIN | ACK, SYN | ACK))
            frames.append(segment(rng.randrange(2), flags, numbers[0], numbers[1] + 1))
    for options in ({}, {"max_connections": 1, "rows": "drain"}):
        one = told(reference, *frames, **options)
        lockstep.assert_same(one, told(compiled, *frames, **options))


def test_streams_ask_the_ends_that_were_picked(engine: ModuleType) -> None:
    """What had been refused counts once its receiver acknowledges it, though both ends changed."""
    frames = [
        SYN_OUT,
        synack(5000),
        synack(9000, payload=b"early"),
        segment(0, ACK, NEAR + 1, 9006),
    ]
    data = io.BytesIO(capgen.pcap([(SEC + i, frame) for i, frame in enumerate(frames)]))
    made = tcpcore.replay(data, streams=True, packets=True, engine=engine.ENGINE)
    assert made.packets["drop_reason"][2], "it was refused"
    assert made.stream(0, "ba").data == b"early"
