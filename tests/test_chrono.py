"""Why it is slow: small transfers whose limit is known, as taps in three places see them.

A sender, a receiver and a wire between them are simulated; what a tap sees is replayed.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import capgen
import pytest
from capgen import ACK, FIN, PSH, RST, SEC, SYN

import tcpcore
from tcpcore.columns import CAUSE_NAMES

MS = 1_000_000
MSS = 1460
CAUSES = ("app_limited_ns", "rwnd_limited_ns", "network_limited_ns")
TAPS = {"sender": 0.0, "middle": 0.5, "receiver": 1.0}
Segment = tuple[int, int, dict[str, Any]]  # time in ns at the tap, side, fields


class Wire:
    """A transfer from `side` to the other end; `segments` is what the tap sees.

    `tap` is where it stands, 0 at the sender, 1 at the receiver. The sender knows a fixed cwnd,
    and waits `RTO` for what was lost; the receiver acknowledges each segment at once.
    """

    RTO = 300 * MS

    def __init__(
        self,
        tap: float,
        *,
        side: int = 0,
        rtt: int = 20 * MS,
        cwnd: int = 10 * MSS,
        buffer: int = 65535,
        spacing: int = 100_000,
        lost: tuple[int, ...] = (),
        lost_before_tap: bool = False,
        isn: tuple[int, int] = (1000, 5000),
    ) -> None:
        self.tap, self.side, self.rtt, self.cwnd, self.buffer = tap, side, rtt, cwnd, buffer
        self.spacing, self.lost, self.lost_before_tap = spacing, lost, lost_before_tap
        self.isn = isn
        self.segments: list[Segment] = []
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = 0
        self.now = 0
        # The sender.
        self.una = self.nxt = self.written = 0
        self.window = buffer
        self.sendings = 0
        self.free_ns = 0
        self.sent_ns = 0
        # The receiver.
        self.got: set[tuple[int, int]] = set()
        self.rcv_nxt = self.taken = 0
        self.told = buffer
        self.greedy = True

    def at(self, when: int, do: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, do))

    def see(self, sent: int, to_receiver: bool, **fields: Any) -> None:
        way = self.tap if to_receiver else 1 - self.tap
        side = self.side if to_receiver else 1 - self.side
        self.segments.append((sent + int(way * self.rtt / 2), side, fields))

    def number(self, side: int, offset: int) -> int:
        return (self.isn[side] + 1 + offset) & 0xFFFFFFFF

    def handshake(self, retries: int = 0) -> None:
        """The end that is side 0 opens; its first `retries` SYNs are lost behind the tap."""
        a_sends = self.side == 0
        option = {"options": capgen.mss(MSS)}
        for _ in range(retries):
            self.see(self.now, a_sends, flags=SYN, seq=self.isn[0], window=self.buffer, **option)
            self.now += SEC
        self.see(self.now, a_sends, flags=SYN, seq=self.isn[0], window=self.buffer, **option)
        ack = {"ack": self.number(0, 0), "window": self.buffer}
        answer = self.now + self.rtt // 2
        self.see(answer, not a_sends, flags=SYN | ACK, seq=self.isn[1], **ack, **option)
        done = {"seq": self.number(0, 0), "ack": self.number(1, 0), "window": self.buffer}
        self.now += self.rtt
        self.see(self.now, a_sends, flags=ACK, **done)
        if not a_sends:
            self.now += self.rtt // 2

    def send(self, seq: int, size: int) -> None:
        start = max(self.now, self.free_ns)
        self.free_ns = start + self.spacing
        self.sendings += 1
        lost = self.sendings in self.lost
        if not (lost and self.lost_before_tap):
            fields = {"seq": self.number(self.side, seq), "ack": self.number(1 - self.side, 0)}
            self.see(start, True, flags=ACK, payload=bytes(size), **fields)
        if not lost:
            self.at(start + self.rtt // 2, lambda: self.arrive(seq, size))
        self.sent_ns = start
        self.at(start + self.RTO, self.expire)

    def push(self) -> None:
        """Send what application, cwnd and the window allow."""
        while True:
            room = min(self.una + min(self.cwnd, self.window), self.written) - self.nxt
            size = min(MSS, room)
            if size <= 0 or (size < MSS and self.nxt + size < self.written):
                return  # no silly windows
            self.send(self.nxt, size)
            self.nxt += size

    def expire(self) -> None:
        if self.nxt > self.una and self.now - self.sent_ns >= self.RTO:
            self.send(self.una, min(MSS, self.nxt - self.una))

    def arrive(self, seq: int, size: int) -> None:
        self.got.add((seq, seq + size))
        for begin, end in sorted(self.got):
            if begin <= self.rcv_nxt:
                self.rcv_nxt = max(self.rcv_nxt, end)
        self.answer()

    def answer(self) -> None:
        if self.greedy:
            self.taken = self.rcv_nxt
        self.told = max(self.buffer - (self.rcv_nxt - self.taken), 0)
        ack, window = self.rcv_nxt, self.told
        fields = {"seq": self.number(1 - self.side, 0), "ack": self.number(self.side, ack)}
        self.see(self.now, False, flags=ACK, window=window, **fields)
        self.at(self.now + self.rtt // 2, lambda: self.acked(ack, window))

    def acked(self, ack: int, window: int) -> None:
        if ack >= self.una:
            self.una, self.window = ack, window
            self.push()

    def write(self, size: int) -> None:
        self.written += size
        self.push()

    def read(self, size: int) -> None:
        """The receiving application takes something, and tells if a segment has room again."""
        self.taken = min(self.taken + size, self.rcv_nxt)
        if self.told < MSS <= self.buffer - (self.rcv_nxt - self.taken):
            self.answer()

    def run(self) -> None:
        while self.events:
            self.now, _, do = heapq.heappop(self.events)
            do()

    def records(self) -> list[tuple[int, bytes]]:
        ends = (("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000))
        ordered = sorted(self.segments, key=lambda segment: segment[0])
        return [(SEC + at, capgen.frame(*ends[side], **fields)) for at, side, fields in ordered]


def bulk(wire: Wire, size: int = 240 * MSS) -> Wire:
    wire.handshake()
    wire.at(wire.now, lambda: wire.write(size))
    wire.run()
    return wire


def row(engine: ModuleType, records: list[tuple[int, bytes]]) -> dict[str, Any]:
    """The connection's row; every moment of it has one cause in each direction."""
    source = io.BytesIO(capgen.pcap(records, fmt="pcap-ns"))
    found = tcpcore.replay(source, analysis=True, engine=engine.ENGINE)
    table = found.connections
    assert len(table) == 1
    names = ["handshake_ns", "slow", "first_ns", "last_ns"]
    names += [f"{cause}_{d}" for cause in CAUSES for d in ("ab", "ba")]
    return {name: int(table[name][0]) for name in names}


def assert_sums(seen: dict[str, Any]) -> None:
    """Of a connection that did not end: each direction's clocks add up to its duration."""
    for d in ("ab", "ba"):
        total = seen["handshake_ns"] + sum(seen[f"{cause}_{d}"] for cause in CAUSES)
        assert total == seen["last_ns"] - seen["first_ns"]


def share(seen: dict[str, Any], cause: str, side: int = 0) -> float:
    return seen[f"{cause}_limited_ns_{('ab', 'ba')[side]}"] / (seen["last_ns"] - seen["first_ns"])


tapped = pytest.mark.parametrize("tap", TAPS.values(), ids=TAPS)
sides = pytest.mark.parametrize("side", [0, 1], ids=["a sends", "b sends"])
spaced = pytest.mark.parametrize("spacing", [10_000, 900_000], ids=["bursts", "smooth"])


@tapped
@sides
@spaced
@pytest.mark.parametrize("cwnd", [3, 22])
def test_congestion_window(
    engine: ModuleType, tap: float, side: int, spacing: int, cwnd: int
) -> None:
    """A window of 44 segments, and a cwnd of less: the network."""
    wire = Wire(tap, side=side, spacing=spacing, cwnd=cwnd * MSS)
    seen = row(engine, bulk(wire).records())
    assert_sums(seen)
    assert share(seen, "network", side) >= 0.8
    assert CAUSE_NAMES[seen["slow"]] == "network"


@tapped
@sides
@spaced
def test_small_window(engine: ModuleType, tap: float, side: int, spacing: int) -> None:
    """A cwnd of 40 segments, a window of 10: the receiver."""
    wire = Wire(tap, side=side, spacing=spacing, cwnd=40 * MSS, buffer=10 * MSS)
    seen = row(engine, bulk(wire).records())
    assert_sums(seen)
    assert share(seen, "rwnd", side) >= 0.8
    assert CAUSE_NAMES[seen["slow"]] == "receiver"


@tapped
@sides
def test_slow_reader(engine: ModuleType, tap: float, side: int) -> None:
    """The receiving application takes a segment each 30 ms: its window closes, and stays so."""
    wire = Wire(tap, side=side, cwnd=40 * MSS, buffer=4 * MSS)
    wire.greedy = False
    wire.handshake()
    start = wire.now
    wire.at(start, lambda: wire.write(100 * MSS))
    for i in range(100):
        wire.at(start + i * 30 * MS, lambda: wire.read(MSS))
    wire.run()
    seen = row(engine, wire.records())
    assert_sums(seen)
    assert share(seen, "rwnd", side) >= 0.8
    assert CAUSE_NAMES[seen["slow"]] == "receiver"


@tapped
@sides
def test_application(engine: ModuleType, tap: float, side: int) -> None:
    """100 bytes each 50 ms: the sender has nothing more to say."""
    wire = Wire(tap, side=side)
    wire.handshake()
    for i in range(60):
        wire.at(wire.now + i * 50 * MS, lambda: wire.write(100))
    wire.run()
    seen = row(engine, wire.records())
    assert_sums(seen)
    assert share(seen, "app", side) >= 0.8
    assert share(seen, "app", 1 - side) >= 0.8
    assert CAUSE_NAMES[seen["slow"]] == "application"


@tapped
@sides
def test_large_writes(engine: ModuleType, tap: float, side: int) -> None:
    """Three segments each 300 ms, the last of them full: nothing in flight, nothing to say."""
    wire = Wire(tap, side=side)
    wire.handshake()
    for i in range(10):
        wire.at(wire.now + i * 300 * MS, lambda: wire.write(3 * MSS))
    wire.run()
    seen = row(engine, wire.records())
    assert_sums(seen)
    assert share(seen, "app", side) >= 0.8


@tapped
@sides
@pytest.mark.parametrize("before", [False, True], ids=["lost after the tap", "lost before it"])
def test_loss(engine: ModuleType, tap: float, side: int, before: bool) -> None:
    """A segment in the middle is lost, and the sender waits 300 ms to send it again."""
    wire = Wire(tap, side=side, lost=(25, 60), lost_before_tap=before and tap > 0)
    seen = row(engine, bulk(wire, 80 * MSS + 100).records())
    assert_sums(seen)
    assert share(seen, "network", side) >= 0.8
    assert CAUSE_NAMES[seen["slow"]] == "network"


@pytest.mark.parametrize("tap", [0.0, 0.5], ids=["sender", "middle"])
def test_tail_loss(engine: ModuleType, tap: float) -> None:
    """The last, short segment is lost: the wait for it was not the application's."""
    seen = row(engine, bulk(Wire(tap, lost=(3,)), 2 * MSS + 100).records())
    assert_sums(seen)
    assert share(seen, "network") >= 0.8


@tapped
@sides
def test_long_handshake(engine: ModuleType, tap: float, side: int) -> None:
    wire = Wire(tap, side=side)
    wire.handshake(retries=2)
    wire.at(wire.now, lambda: wire.write(5 * MSS))
    wire.run()
    seen = row(engine, wire.records())
    assert_sums(seen)
    assert seen["handshake_ns"] >= 0.8 * (seen["last_ns"] - seen["first_ns"])
    assert CAUSE_NAMES[seen["slow"]] == "handshake"


@tapped
def test_wrapped_numbers(engine: ModuleType, tap: float) -> None:
    near = ((1 << 32) - 50 * MSS, (1 << 32) - 1)
    for buffer, cause in ((65535, "network"), (5 * MSS, "rwnd")):
        plain = row(engine, bulk(Wire(tap, buffer=buffer)).records())
        wrapped = row(engine, bulk(Wire(tap, buffer=buffer, isn=near)).records())
        assert wrapped == plain
        assert share(wrapped, cause) >= 0.8


@tapped
def test_middle_of_a_connection(engine: ModuleType, tap: float) -> None:
    """Without the handshake there is no time of it; a window of unknown scale limits nobody."""
    records = bulk(Wire(tap)).records()[100:]
    seen = row(engine, records)
    assert_sums(seen)
    assert seen["handshake_ns"] == 0
    assert seen["rwnd_limited_ns_ab"] == 0
    if tap == 0:  # elsewhere nobody can tell how far away the sender is
        assert share(seen, "network") >= 0.8


def talk(*steps: tuple[int, int, int, int, int, int]) -> list[tuple[int, bytes]]:
    """Segments as (ms, side, flags, seq, ack, payload)."""
    ends = (("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000))
    return [
        (
            SEC + at * MS,
            capgen.frame(*ends[side], flags=flags, seq=seq, ack=ack, payload=bytes(size)),
        )
        for at, side, flags, seq, ack, size in steps
    ]


OPENING = (
    (0, 0, SYN, 1000, 0, 0),
    (10, 1, SYN | ACK, 5000, 1001, 0),
    (20, 0, ACK, 1001, 5001, 0),
)


def test_clocks_stand_after_the_end(engine: ModuleType) -> None:
    """Each direction's own FIN stops its clock, once it is acknowledged; a reset stops both."""
    half_closed = talk(
        *OPENING,
        (30, 0, FIN | ACK, 1001, 5001, 0),
        (40, 1, ACK, 5001, 1002, 0),
        (140, 1, PSH | ACK, 5001, 1002, 50),
        (150, 0, ACK, 1002, 5051, 0),
    )
    seen = row(engine, half_closed)
    assert seen["handshake_ns"] == 20 * MS
    assert sum(seen[f"{cause}_ab"] for cause in CAUSES) == 20 * MS
    assert sum(seen[f"{cause}_ba"] for cause in CAUSES) == 130 * MS

    reset = talk(*OPENING, (120, 1, RST | ACK, 5001, 1001, 0), (500, 1, RST | ACK, 5001, 1001, 0))
    seen = row(engine, reset)
    assert [seen[f"{cause}_{d}"] for cause in CAUSES for d in ("ab", "ba")] == [
        *(100 * MS, 100 * MS),
        *(0, 0, 0, 0),
    ]
    assert CAUSE_NAMES[seen["slow"]] == "none"  # no payload


def test_time_that_goes_back_counts_nothing(engine: ModuleType) -> None:
    seen = row(
        engine,
        talk(
            *OPENING,
            (120, 0, PSH | ACK, 1001, 5001, 10),
            (70, 1, ACK, 5001, 1011, 0),
            (110, 0, PSH | ACK, 1011, 5001, 10),
            (220, 1, ACK, 5001, 1021, 0),
        ),
    )
    assert_sums(seen)
    assert seen["app_limited_ns_ab"] == 200 * MS


def test_one_direction_alone(engine: ModuleType) -> None:
    """Where only one end is seen its data end the handshake."""
    steps = [OPENING[0], OPENING[2]]
    steps += [(120 + 10 * i, 0, PSH | ACK, 1001 + 100 * i, 5001, 100) for i in range(10)]
    seen = row(engine, talk(*steps))
    assert_sums(seen)
    assert seen["handshake_ns"] <= 120 * MS


def test_without_analysis(engine: ModuleType) -> None:
    data = io.BytesIO(capgen.pcap(bulk(Wire(0)).records()))
    table = tcpcore.replay(data, analysis=False, engine=engine.ENGINE).connections
    names = {"handshake_ns", "slow", *(f"{c}_{d}" for c in CAUSES for d in ("ab", "ba"))}
    assert not names & set(table.names)
