"""What happened on the wire: classes, our own verdict, round trips, holes, Zeek's words.

Each test sends a few segments of one connection and says what is told of each.
"""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, FIN, PSH, RST, SEC, SYN

import tcpcore
from tcpcore.columns import ANALYSIS_NAMES, CONN_STATE_NAMES, REASON_NAMES

MS = 1_000_000
ENDS = (("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000))
Step = tuple[int, int, int, int, int, int]  # time in ms, side, flags, seq, ack, size


class Seen:
    """A replay of segments: the words for each, and the connection's row."""

    def __init__(self, engine: ModuleType, steps: list[Step], **fields: Any) -> None:
        records = []
        for i, (at, side, flags, seq, ack, size) in enumerate(steps):
            more = {key: value[i] for key, value in fields.items() if value[i] is not None}
            options = {"seq": seq, "ack": ack, "flags": flags, "payload": bytes(size), **more}
            records.append((SEC + at * MS, capgen.frame(*ENDS[side], **options)))
        data = io.BytesIO(capgen.pcap(records))
        self.replay = tcpcore.replay(data, packets=True, analysis=True, engine=engine.ENGINE)
        packets = self.replay.packets
        self.classes = [
            {name for bit, name in enumerate(ANALYSIS_NAMES) if value >> bit & 1}
            for value in packets["analysis"].tolist()
        ]
        self.reasons = [REASON_NAMES[value] for value in packets["reason"]]
        self.dup_acks = packets["dup_ack_num"].tolist()

    def __getitem__(self, name: str) -> Any:
        return self.replay.connections[name][-1]


# a has sent up to 101, b up to 501; the round trip takes 20 ms.
OPEN: list[Step] = [
    (0, 0, SYN, 100, 0, 0),
    (10, 1, SYN | ACK, 500, 101, 0),
    (20, 0, ACK, 101, 501, 0),
]


def after_open(engine: ModuleType, *steps: Step, **fields: Any) -> Seen:
    """Segments of an open connection; what is told begins with the first of them."""
    fields = {key: [None] * 3 + value for key, value in fields.items()}
    seen = Seen(engine, OPEN + list(steps), **fields)
    assert seen.classes[:3] == [set()] * 3
    seen.classes, seen.reasons = seen.classes[3:], seen.reasons[3:]
    seen.dup_acks = seen.dup_acks[3:]
    return seen


def test_nothing_to_say(engine: ModuleType) -> None:
    seen = after_open(engine, (30, 0, ACK, 101, 501, 50), (40, 1, ACK, 501, 151, 0))
    assert seen.classes == [set(), set()]
    assert seen.reasons == ["new_data", "ack"]
    assert (seen["history"], CONN_STATE_NAMES[seen["conn_state"]]) == (b"ShADa", "S1")


@pytest.mark.parametrize(("late_ms", "name"), [(5, "out_of_order"), (200, "retransmission")])
def test_late(engine: ModuleType, late_ms: int, name: str) -> None:
    """What fills a hole was out of order, unless it took longer than the initial RTT."""
    seen = after_open(engine, (30, 0, ACK, 201, 501, 100), (30 + late_ms, 0, ACK, 101, 501, 100))
    assert seen.classes == [{"lost_segment"}, {name}]
    assert seen.reasons[1] == ("reordered" if late_ms == 5 else "hole_filled")
    assert (seen["gaps_ab"], seen["gap_bytes_ab"], seen["duplicate_bytes_ab"]) == (0, 0, 0)


def test_retransmissions(engine: ModuleType) -> None:
    seen = after_open(
        engine,
        (30, 0, ACK, 101, 501, 100),
        (31, 0, ACK, 101, 501, 100),  # the network had it twice
        (300, 0, ACK, 101, 501, 100),
        (600, 0, ACK, 151, 501, 100),  # half of it is new
        (610, 1, ACK, 501, 251, 0),
        (620, 0, ACK, 101, 501, 50),
    )
    assert [sorted(one) for one in seen.classes] == [
        [],
        ["retransmission"],
        ["retransmission"],
        ["retransmission"],
        ["ack_lost_segment"],  # so says Wireshark, for whom new data begin where old ones ended
        ["retransmission", "spurious_retransmission"],
    ]
    assert seen.reasons == [
        *("new_data", "duplicated", "full_retransmission", "partial_retransmission", "ack"),
        "full_retransmission",
    ]
    assert (seen["retransmission_ab"], seen["retrans_bytes_ab"]) == (4, 350)
    assert seen["duplicate_bytes_ab"] == 100 + 100 + 50 + 50


def test_fast_retransmission(engine: ModuleType) -> None:
    """Duplicate ACKs are counted, and the third brings the segment again."""
    ack = (1, ACK, 501, 101, 0)
    seen = after_open(
        engine,
        (30, 0, ACK, 101, 501, 100),
        (31, 0, ACK, 201, 501, 100),
        (39, *ack),
        (40, *ack),
        (41, *ack),
        (45, 0, ACK, 101, 501, 100),
    )
    assert seen.dup_acks == [0, 0, 1, 2, 3, 0]  # the SYN-ACK was the first with that number
    assert seen.classes[2:] == [
        {"duplicate_ack"},
        {"duplicate_ack"},
        {"duplicate_ack"},
        {"retransmission", "fast_retransmission"},
    ]


def test_windows(engine: ModuleType) -> None:
    """Full, closed, probed, open again."""
    seen = after_open(
        engine,
        (30, 1, ACK, 501, 101, 0),
        (40, 0, ACK, 101, 501, 100),
        (50, 1, ACK, 501, 201, 0),
        (300, 0, ACK, 201, 501, 1),
        (310, 1, ACK, 501, 201, 0),
        (400, 1, ACK, 501, 201, 0),
        window=[100, None, 0, None, 0, 5000],
    )
    assert seen.classes == [
        {"window_update"},
        {"window_full"},
        {"zero_window"},
        {"zero_window_probe"},
        {"zero_window", "zero_window_probe_ack"},
        {"window_update"},
    ]
    assert seen.reasons[3] == "probe"
    assert (seen["window_min_ba"], seen["window_max_ba"]) == (0, 5000)
    assert (seen["in_flight_max_ab"], seen["duplicate_bytes_ab"]) == (100, 0)


def test_keep_alive(engine: ModuleType) -> None:
    seen = after_open(
        engine,
        (30, 1, ACK, 501, 101, 0),
        (9000, 0, ACK, 100, 501, 1),
        (9010, 1, ACK, 501, 101, 0),
    )
    assert seen.classes[1:] == [{"keep_alive"}, {"keep_alive_ack"}]
    assert seen.reasons[1] == "probe"


def test_what_the_capture_missed(engine: ModuleType) -> None:
    """Acknowledged and never seen; a hole that stays."""
    seen = after_open(
        engine,
        (30, 1, ACK, 501, 301, 0),
        (40, 0, ACK, 301, 501, 10),
        (50, 0, ACK, 411, 501, 10),
    )
    assert seen.classes == [{"ack_lost_segment"}, {"lost_segment"}, {"lost_segment"}]
    assert (seen["gaps_ab"], seen["gap_bytes_ab"]) == (2, 300)


def test_reused_ports(engine: ModuleType) -> None:
    seen = Seen(engine, [*OPEN, (500, 0, SYN, 7000, 0, 0)])
    assert seen.classes[3] == {"reused_ports"}
    assert seen.replay.connections["reused_ports_ab"].tolist() == [0, 1]


@pytest.mark.parametrize("resent", [False, True])
@pytest.mark.parametrize("stamps", [False, True])
def test_round_trips(engine: ModuleType, stamps: bool, resent: bool) -> None:
    """Karn's rule: a segment that was sent twice gives no sample, unless the time stamp tells."""
    steps: list[Step] = [(100, 0, ACK, 101, 501, 10)]
    options = [capgen.timestamp(1000, 0)]
    if resent:
        steps.append((120, 0, ACK, 101, 501, 10))
        options.append(capgen.timestamp(1020, 0))
    steps.append((130, 1, ACK, 501, 111, 0))
    options.append(capgen.timestamp(7, 1000))
    seen = after_open(engine, *steps, options=options if stamps else [b""] * len(steps))
    wanted = [10, 30] if stamps or not resent else [10]
    assert seen["rtt_samples_ab"] == len(wanted)  # the first is of the SYN
    assert seen["rtt_min_ns_ab"] == 10 * MS
    assert seen["rtt_max_ns_ab"] == wanted[-1] * MS
    assert seen["rtt_mean_ns_ab"] == sum(wanted) * MS // len(wanted)
    assert (seen["rtt_samples_ba"], seen["rtt_mean_ns_ba"]) == (1, 10 * MS)


@pytest.mark.parametrize(
    ("steps", "state", "history"),
    [
        ([(0, SYN)], "S0", b"S"),
        ([(0, SYN), (1, RST | ACK)], "REJ", b"Sr"),
        ([(0, SYN), (1, SYN | ACK), (0, ACK)], "S1", b"ShA"),
        ([(0, SYN), (1, SYN | ACK), (0, RST)], "RSTO", b"ShR"),
        ([(0, SYN), (1, SYN | ACK), (0, ACK), (1, RST)], "RSTR", b"ShAr"),
        ([(0, SYN), (0, RST)], "RSTOS0", b"SR"),
        ([(1, SYN | ACK), (1, RST)], "RSTRH", b"^hr"),
        ([(0, SYN), (0, FIN | ACK)], "SH", b"SF"),
        ([(1, SYN | ACK), (1, FIN | ACK)], "SHR", b"^hf"),
        ([(0, SYN), (1, SYN | ACK), (0, FIN | ACK)], "S2", b"ShF"),
        ([(0, SYN), (1, SYN | ACK), (1, FIN | ACK)], "S3", b"Shf"),
        ([(0, SYN), (1, SYN | ACK), (0, FIN | ACK), (1, FIN | ACK)], "SF", b"ShFf"),
        ([(0, ACK), (1, ACK)], "OTH", b"Aa"),
        ([(0, SYN | FIN), (0, FIN | RST)], "RSTOS0", b"QI"),
    ],
)
def test_zeek(engine: ModuleType, steps: list[tuple[int, int]], state: str, history: bytes) -> None:
    numbers = ((100, 501), (500, 101))
    told = [(i, side, flags, *numbers[side], 0) for i, (side, flags) in enumerate(steps)]
    seen = Seen(engine, told)  # type: ignore[arg-type]
    assert CONN_STATE_NAMES[seen["conn_state"]] == state
    assert seen["history"] == history


def test_history_is_bounded(engine: ModuleType) -> None:
    """No more than 36 letters; what is repeated is told by powers of ten."""
    steps: list[Step] = [(i * 500, 0, ACK | PSH, 101, 501, 10) for i in range(101)]
    assert after_open(engine, *steps)["history"] == b"ShADTTT"


def test_a_long_history(engine: ModuleType) -> None:
    """What is repeated is told by powers of ten, of either side."""
    sides = (0, 1)
    steps: list[Step] = [
        (400 * i, side, ACK, 101 + 400 * side, 501 - 400 * side, 10)
        for i in range(1, 102)
        for side in sides
    ]
    jumps = 100
    steps += [
        (50_000 + i, side, ACK, 1000 * (i + 1), 1000 * i, 10)
        for i in range(1, jumps + 1)
        for side in sides
    ]
    closed = [None] * (len(steps) - 2 * jumps) + [0] * (2 * jumps)
    steps += [
        (60_000, side, flags, 200_000, 200_000, 0)
        for flags in (FIN | RST, FIN | ACK, RST)
        for side in sides
    ]
    seen = after_open(engine, *steps, window=closed + [None] * 6)
    assert seen["history"] == b"ShADdTtTtTtGWgwGWgwGWgwIiFfRr"


def test_many_classes(engine: ModuleType) -> None:
    """An end whose segments are of more classes than most, and a round trip of six seconds."""
    seen = after_open(
        engine,
        (30, 0, ACK, 101, 501, 100),
        (40, 0, ACK, 101, 501, 100),
        (50, 0, ACK, 301, 501, 100),
        (51, 0, ACK, 201, 501, 100),
        (6030, 1, ACK, 501, 401, 0),
        (6040, 0, ACK, 101, 501, 100),
        (6050, 0, ACK, 400, 501, 1),
        (6060, 0, ACK, 401, 501, 0),
        (6070, 0, ACK, 401, 501, 0),
        (6080, 0, ACK, 401, 900, 0),
        (6090, 1, ACK, 501, 401, 100),
        (6100, 1, ACK, 601, 401, 100),
        (6110, 0, ACK, 401, 701, 10),
        (12200, 1, ACK, 701, 411, 0),
    )
    counts = [int(seen[f"{name}_ab"]) for name in ANALYSIS_NAMES]
    assert counts == [2, 0, 1, 1, 1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert (seen["rtt_samples_ab"], seen["rtt_min_ns_ab"]) == (2, 10 * MS)
    assert seen["rtt_max_ns_ab"] == 6090 * MS


def test_holes_are_bounded(engine: ModuleType) -> None:
    """Of many holes the lowest are given up; those still open can be filled."""
    steps: list[Step] = [(30 + i, 0, ACK, 201 + 200 * i, 501, 100) for i in range(10)]
    open_still: list[Step] = [(900 + i, 0, ACK, 101 + 200 * i, 501, 100) for i in range(7, 10)]
    seen = after_open(engine, *steps, *open_still)
    assert (seen["gaps_ab"], seen["gap_bytes_ab"]) == (7, 700)
    late = after_open(engine, *steps, (900, 0, ACK, 101, 501, 100))
    assert (late["gaps_ab"], late["duplicate_bytes_ab"]) == (10, 100)


def test_a_hole_in_parts(engine: ModuleType) -> None:
    """Filled in its middle, it is two."""
    seen = after_open(engine, (30, 0, ACK, 401, 501, 10), (900, 0, ACK, 201, 501, 50))
    assert (seen["gaps_ab"], seen["gap_bytes_ab"]) == (2, 250)


def test_rows_that_leave_have_it(engine: ModuleType) -> None:
    """Of connections that were given up, handed out and forgotten, as of those that stay."""
    data = lockstep.capture(3, talks=40)
    keep = tcpcore.replay(io.BytesIO(data), max_connections=3, analysis=True, engine=engine.ENGINE)
    names = [c.name for c in keep.connections.schema if c.group.startswith("analysis")]
    names += ["conn", "history", "conn_state"]
    rows = sorted(zip(*(keep.connections[name].tolist() for name in names[::-1]), strict=True))
    left: list[Any] = []
    batches = tcpcore.replay_batches(
        io.BytesIO(data),
        max_connections=3,
        batch_packets=20,
        analysis=True,
        engine=engine.ENGINE,
    )
    for batch in batches:
        columns = (batch.connections[name].tolist() for name in names[::-1])
        left += zip(*columns, strict=True)
    assert sorted(left) == rows
    assert any(row[3] for row in rows)


def test_live_state_is_bounded(compiled: ModuleType) -> None:
    """What a connection takes, an end where something happened, and one with holes."""
    sizes = compiled.sizes()
    assert sizes["analysis"] + sizes["analysis_more"] == 240
    assert (sizes["analysis_rare"], sizes["analysis_far"]) == (72, 104)


def test_lengths_beyond_half_the_numbers(engine: ModuleType) -> None:
    """A segment whose end does not lie behind its beginning, as numbers go, moves nothing."""
    giant = capgen.frame(*ENDS[0], seq=101, ack=501, flags=ACK, ip={"total": 0})
    sent = capgen.frame(*ENDS[0], seq=101, ack=501, flags=ACK, payload=bytes(50))
    records = [
        (SEC + at * MS, capgen.frame(*ENDS[side], seq=seq, ack=ack, flags=flags))
        for at, side, flags, seq, ack, _ in OPEN
    ]
    records += [(2 * SEC, giant, 3 << 30), (2 * SEC + 1, sent), (2 * SEC + 2, giant, 3 << 30)]
    data = io.BytesIO(capgen.pcap(records, fmt="pcap-ns"))
    found = tcpcore.replay(data, packets=True, analysis=True, engine=engine.ENGINE)
    assert found.packets["payload_len"][-1] > 1 << 31
    assert [REASON_NAMES[value] for value in found.packets["reason"][3:5]] == ["new_data"] * 2
    assert found.connections["duplicate_bytes_ab"].tolist() == [50]
