"""The tracker against the contract of the tables: who is a, what begins a connection, what counts.

RFC 9293 3.10; T-15 (insertion and evasion), T-18 (handshake tricks), T-30 (time).
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import capgen
import lockstep
import numpy as np
import pytest
from capgen import ACK, FIN, PSH, RST, SEC, SYN

from tcpcore.columns import CONNECTIONS, DROP_NAMES, PACKETS, STATE_NAMES, VERDICT_NAMES
from tcpcore.mib import COUNTERS

CLIENT, SERVER = ("10.0.0.1", "10.0.0.2", 40000, 80), ("10.0.0.2", "10.0.0.1", 80, 40000)
MS = SEC // 1000
DTYPES = {column.name: column.dtype for column in (*CONNECTIONS, *PACKETS)}

Step = tuple[Any, ...]  # side, flags, seq, ack


class Seen:
    """What an engine tells of some frames: rows as dicts, and the summary."""

    def __init__(
        self, engine: ModuleType, records: list[tuple[int, bytes]] | bytes, **options: Any
    ) -> None:
        self.conntrack = engine.Conntrack(packets=True, **options)
        if not isinstance(records, bytes):
            records = capgen.pcap(records, fmt="pcap-ns")
        lockstep.feed(self.conntrack, records)
        names = lockstep.CONNECTION_NAMES
        self.connections = self.rows(self.conntrack.connections(names, True))
        self.packets = self.rows(self.conntrack.packets(lockstep.PACKET_NAMES))
        self.summary = self.conntrack.summary()

    @staticmethod
    def rows(told: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
        count, columns = told
        values = {}
        for name in columns:
            buffer = bytes(columns[name])
            if DTYPES[name] == "uint8[16]":
                values[name] = [buffer[i * 16 : i * 16 + 16] for i in range(count)]
            else:
                values[name] = np.frombuffer(buffer, DTYPES[name]).tolist()
        return [{name: values[name][i] for name in values} for i in range(count)]

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(STATE_NAMES[c["state_a"]], STATE_NAMES[c["state_b"]]) for c in self.connections]

    def verdicts(self) -> list[set[str]]:
        return [
            {name for bit, name in enumerate(VERDICT_NAMES) if packet["verdict"] >> bit & 1}
            for packet in self.packets
        ]

    def drops(self) -> list[str]:
        return [DROP_NAMES[packet["drop_reason"]] for packet in self.packets]

    @property
    def counters(self) -> dict[str, int]:
        return dict(zip(COUNTERS, self.summary["counters"], strict=True))


def segment(side: int, flags: int, seq: int = 0, ack: int = 0, **fields: Any) -> bytes:
    return capgen.frame(*(CLIENT, SERVER)[side], flags=flags, seq=seq, ack=ack, **fields)


def timed(*frames: bytes, step_ns: int = MS) -> list[tuple[int, bytes]]:
    return [(SEC + i * step_ns, frame) for i, frame in enumerate(frames)]


def steps(*told: Step) -> list[tuple[int, bytes]]:
    return timed(*(segment(*one) for one in told))


def opened(sport: int, start_ns: int, upto: int = 3) -> list[tuple[int, bytes]]:
    """The first segments of a connection of its own."""
    return capgen.conversation(sport=sport, start_ns=start_ns)[:upto]


HANDSHAKE = (
    segment(0, SYN, 100),
    segment(1, SYN | ACK, 300, 101),
    segment(0, ACK, 101, 301),
)

# Who is a.


@pytest.mark.parametrize(
    ("first", "a"), [((0, SYN), 0), ((1, SYN | ACK), 0), ((1, ACK), 1), ((1, RST | ACK), 1)]
)
def test_who_is_a(engine: ModuleType, first: Step, a: int) -> None:
    """A SYN's sender, a SYN-ACK's receiver, else the sender; and for good."""
    seen = Seen(engine, steps((*first, 500, 800), (0, ACK, 800, 501), (1, PSH | ACK, 501, 800)))
    (row,) = seen.connections
    assert (row["a_port"], row["b_port"]) == (CLIENT, SERVER)[a][2:]
    assert row["a_addr"] == capgen.address16((CLIENT, SERVER)[a][0])
    side = first[0] ^ a
    assert [packet["dir"] for packet in seen.packets] == [side, a, 1 ^ a]


def test_times_as_far_apart_as_can_be(engine: ModuleType) -> None:
    """From one end of the clock to the other is not one step further."""
    last, first = 2**63 - 1, -(2**63)
    sent = ((0, ACK, 500, 800), (1, ACK, 800, 500))
    times = [last] * 60 + [first]  # long enough that headers are predicted
    frames = [segment(*sent[i % 2]) for i in range(len(times))]
    capture = capgen.section() + capgen.interface(resolution=9)
    seen = Seen(engine, capture + b"".join(map(capgen.enhanced, times, frames)))
    (row,) = seen.connections
    assert (row["first_ns"], row["last_ns"], row["packets_ab"]) == (first, last, 31)


@pytest.mark.parametrize("flags", [SYN, SYN | ACK, ACK])
@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1"])
def test_both_ends_are_one(engine: ModuleType, address: str, flags: int) -> None:
    """What a socket that is connected to itself sends goes from a to b, whatever comes first."""
    ends = (address, address, 5, 5)
    seen = Seen(engine, timed(*(capgen.frame(*ends, flags=f, seq=9) for f in (flags, ACK))))
    assert [(packet["conn"], packet["dir"]) for packet in seen.packets] == [(0, 0), (0, 0)]


def test_mapped_addresses_are_others(engine: ModuleType) -> None:
    """::ffff:10.0.0.1 is not 10.0.0.1."""
    six = ("::ffff:10.0.0.1", "::ffff:10.0.0.2", 40000, 80)
    seen = Seen(engine, timed(segment(0, SYN, 100), capgen.frame(*six, flags=SYN, seq=200)))
    assert [row["ip"] for row in seen.connections] == [4, 6]
    assert seen.connections[0]["a_addr"] == seen.connections[1]["a_addr"]


# A new connection on a known 4-tuple: only a SYN whose number is not the base of its direction.


@pytest.mark.parametrize(
    ("told", "connections"),
    [
        # The base is the direction's first SYN ...
        ([(0, SYN, 100), (0, SYN, 100)], 1),
        ([(0, SYN, 100), (0, SYN, 101)], 2),
        ([(0, SYN, 100), (0, RST, 101), (0, SYN, 100)], 1),
        ([(0, SYN, 100), (0, SYN, 200), (0, SYN, 100)], 3),
        # ... without one its first segment's number - 1 ...
        ([(0, ACK, 500), (0, SYN, 499)], 1),
        ([(0, ACK, 500), (0, SYN, 500)], 2),
        ([(0, ACK, 0), (0, SYN, 0xFFFFFFFF)], 1),
        ([(0, ACK, 500), (0, SYN, 499), (0, ACK, 900), (0, SYN, 499)], 1),
        # ... where only the other side was seen that side's first ack - 1.
        ([(1, ACK, 300, 800), (0, SYN, 799)], 1),
        ([(1, ACK, 300, 800), (0, SYN, 800)], 2),
        ([(1, ACK, 300, 800), (1, ACK, 300, 900), (0, SYN, 799)], 1),
        ([(1, ACK, 300, 800), (0, ACK, 900), (0, SYN, 899)], 1),
        ([(1, ACK, 300, 800), (0, ACK, 900), (0, SYN, 799)], 2),
        ([(1, SYN | ACK, 300, 800), (0, SYN, 799)], 1),
        # No base at all: nothing splits.
        ([(0, SYN, 100), (1, SYN, 7)], 1),
        # Nothing but a SYN without ACK splits.
        ([(0, SYN, 100), (1, SYN | ACK, 300, 101), (1, SYN | ACK, 999, 101)], 1),
        ([(0, SYN, 100), (1, RST | ACK, 0, 101), (0, ACK, 5000), (1, FIN | ACK, 9)], 1),
    ],
)
def test_what_begins_a_connection(engine: ModuleType, told: list[Step], connections: int) -> None:
    seen = Seen(engine, steps(*told))
    assert len(seen.connections) == seen.summary["connections"] == connections
    assert [row["conn"] for row in seen.connections] == list(range(connections))
    reused = sum("CT_REUSED" in verdict for verdict in seen.verdicts())
    assert reused == connections - 1
    assert seen.summary["live"] == 1


# What counts.


def test_columns_of_a_connection(engine: ModuleType) -> None:
    frames = capgen.conversation(payloads=(b"x" * 10, b"y" * 20), isn=(0xFFFFFFFE, 5000))
    (row,) = Seen(engine, frames).connections
    first, last = frames[0][0], frames[-1][0]
    assert (row["first_ns"], row["last_ns"], row["first_packet"]) == (first, last, 1)
    sizes = [len(frame) for _, frame in frames]
    assert (row["packets_ab"], row["packets_ba"]) == (5, 3)
    assert row["frame_bytes_ab"] + row["frame_bytes_ba"] == sum(sizes)
    assert (row["payload_bytes_ab"], row["payload_bytes_ba"]) == (10, 20)
    assert row["flags_ab"] == row["flags_ba"] == SYN | ACK | PSH | FIN
    assert (row["isn_ab"], row["isn_ba"]) == (0xFFFFFFFE, 5000)
    assert (row["mss_ab"], row["mss_ba"], row["wscale_ab"], row["wscale_ba"]) == (1460, 1400, 7, 8)
    assert (row["sack_permitted_ab"], row["sack_permitted_ba"]) == (True, False)
    assert row["completeness"] == 31
    assert row["initial_rtt_ns"] == frames[2][0] - first


def test_options_of_a_side(engine: ModuleType) -> None:
    """MSS and shift of its first SYN that has them, raw; SACK of a SYN, time stamps of any."""
    (row,) = Seen(
        engine,
        timed(
            segment(0, SYN, 100, options=capgen.mss(500)),
            segment(0, SYN, 100, options=capgen.mss(600) + capgen.wscale(255)),
            segment(1, ACK, 300, 101, options=capgen.SACK_PERM + capgen.mss(9) + capgen.wscale(2)),
            segment(1, ACK, 300, 101, options=capgen.timestamp(1, 2)),
        ),
    ).connections
    assert (row["mss_ab"], row["wscale_ab"], row["timestamps_ab"]) == (500, 255, False)
    assert (row["isn_ba"], row["mss_ba"], row["wscale_ba"]) == (-1, -1, -1)
    assert (row["sack_permitted_ba"], row["timestamps_ba"]) == (False, True)


@pytest.mark.parametrize("backwards", [False, True])
def test_completeness(engine: ModuleType, backwards: bool) -> None:
    """An OR in any order, of what state refuses too."""
    bits = [
        (segment(0, SYN, 100), 1),
        (segment(1, SYN | ACK, 300, 101), 2),
        (segment(0, ACK, 101, 301), 4),
        (segment(0, ACK, 101, 9_000_000, payload=b"x"), 8 | 4),
        (segment(1, FIN, 5), 16),
        (segment(1, RST, 5), 32),
    ]
    if backwards:
        bits.reverse()
    for upto in range(1, len(bits) + 1):
        seen = Seen(engine, timed(*(frame for frame, _ in bits[:upto])))
        expected = int(np.bitwise_or.reduce([bit for _, bit in bits[:upto]]))
        assert seen.connections[0]["completeness"] == expected


SYN_AT, ACK_AT, SYN_ACK_AT = (0, SYN, 100), (0, ACK, 101, 301), (1, SYN | ACK, 300, 101)


@pytest.mark.parametrize(
    ("told", "rtt_ms"),
    [
        ([(0, SYN_AT), (5, SYN_ACK_AT), (9, ACK_AT), (20, ACK_AT)], 9),
        ([(0, SYN_AT), (3, SYN_AT), (5, SYN_ACK_AT), (9, ACK_AT)], 6),  # the latest SYN
        ([(0, SYN_AT), (5, ACK_AT), (7, SYN_ACK_AT), (9, ACK_AT)], 9),  # once both were seen
        ([(5, SYN_ACK_AT), (6, SYN_AT), (9, ACK_AT)], 3),
        ([(0, SYN_AT), (9, ACK_AT)], -1),
        ([(0, SYN_AT), (5, SYN_ACK_AT), (6, (1, ACK, 301, 101))], -1),
        ([(9, SYN_AT), (5, SYN_ACK_AT), (4, ACK_AT), (20, ACK_AT)], -1),  # time went back
        ([(0, SYN_AT), (2, (1, SYN, 300)), (5, (0, SYN | ACK, 100, 301)), (9, ACK_AT),
          (12, (1, ACK, 301, 101))], 10),  # both ask: the one that asked last
    ],
)  # fmt: skip
def test_initial_rtt(engine: ModuleType, told: list[Any], rtt_ms: int) -> None:
    records = [(SEC + at * MS, segment(*one)) for at, one in told]
    (row,) = Seen(engine, records).connections
    assert row["initial_rtt_ns"] == (rtt_ms * MS if rtt_ms >= 0 else -1)


def test_time_goes_back(engine: ModuleType) -> None:
    """T-30: first and last are the least and the greatest."""
    records = [(n * SEC, segment(0, ACK, 100)) for n in (5, 9, 2, 6)]
    seen = Seen(engine, records)
    (row,) = seen.connections
    assert (row["first_ns"], row["last_ns"]) == (2 * SEC, 9 * SEC)
    assert (seen.summary["first_ns"], seen.summary["last_ns"]) == (2 * SEC, 9 * SEC)
    assert row["first_packet"] == 1


def test_window_column(engine: ModuleType) -> None:
    """Scaled where both SYNs were seen and offered it, by 14 at most; raw in a SYN."""
    for a, b, expected in (
        (7, 2, [512 << 7, 512 << 2]),
        (255, 0, [512 << 14, 512]),
        (7, None, [512, 512]),
    ):
        answer = capgen.wscale(b) if b is not None else b""
        seen = Seen(
            engine,
            timed(
                segment(0, SYN, 100, window=512, options=capgen.wscale(a)),
                segment(1, SYN | ACK, 300, 101, window=512, options=answer),
                segment(0, ACK, 101, 301, window=512),
                segment(1, ACK, 301, 101, window=512),
            ),
        )
        assert [packet["window"] for packet in seen.packets] == [512, 512, *expected]
    seen = Seen(engine, timed(segment(0, ACK, 101, 301, window=512)))
    assert seen.packets[0]["window"] == 512


# Checksums.


@pytest.mark.parametrize("wrong", [{"csum": 1}, {"ip": {"csum": 1}}])
def test_checksum_modes(engine: ModuleType, wrong: dict[str, Any]) -> None:
    """Both count such a segment; strict keeps it from state."""
    frames = (*HANDSHAKE, segment(0, FIN | ACK, 101, 301, payload=b"x", **wrong))
    reason = "TCP_CSUM" if "csum" in wrong else "IP_CSUM"
    for strict, drop, state in (
        (False, "SKB_NOT_DROPPED_YET", ("FIN-WAIT-1", "CLOSE-WAIT")),
        (True, reason, ("ESTABLISHED", "ESTABLISHED")),
    ):
        seen = Seen(engine, timed(*frames), strict=strict)
        (row,) = seen.connections
        assert (seen.drops()[-1], seen.states[0]) == (drop, state)
        assert (row["packets_ab"], row["payload_bytes_ab"], row["flags_ab"] & FIN) == (3, 1, FIN)
        assert row["bad_checksum_ab"] == seen.counters["TcpInCsumErrors"] == int("csum" in wrong)
        assert seen.summary["bad_ip_checksums"] == int("ip" in wrong)
        assert seen.summary["bad_tcp_checksums"] == (int("csum" in wrong), 0)


def test_data_offset_too_small(engine: ModuleType) -> None:
    """It counts, but has no flags, no options and no state."""
    seen = Seen(engine, timed(segment(0, SYN, 100, doff=4, csum=1, options=capgen.mss(500))))
    (row,) = seen.connections
    assert seen.drops() == ["TCP_BAD_DOFF"]
    assert (row["packets_ab"], row["flags_ab"], row["bad_checksum_ab"]) == (1, 0, 0)
    assert (row["isn_ab"], row["mss_ab"]) == (-1, -1)


# What state does not take, and why (T-15).


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (segment(0, ACK, 101, 301, options=capgen.timestamp(1, 0)), "TCP_RFC7323_PAWS"),
        (segment(0, ACK, 90, 301, payload=b"x" * 11), "TCP_OLD_DATA"),
        (segment(0, ACK, 900_000, 301, payload=b"x"), "TCP_OVERWINDOW"),
        (segment(0, ACK, 101, (301 - 70_000) & 0xFFFFFFFF), "TCP_TOO_OLD_ACK"),
        (segment(0, SYN, 100), "TCP_INVALID_SYN"),
        (segment(0, SYN | ACK, 101, 301), "TCP_INVALID_SYN"),
        (segment(0, RST, 900_000), "TCP_OVERWINDOW"),
        (segment(0, RST, 100), "TCP_OLD_DATA"),
        (segment(0, PSH, 101, payload=b"x"), "TCP_FLAGS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tricks(engine: ModuleType, trick: bytes, reason: str) -> None:
    """T-15: it has its reason, and the connection goes on as if it had not come."""
    opening = (
        segment(0, SYN, 100, options=capgen.timestamp(1000, 0)),
        segment(1, SYN | ACK, 300, 101, options=capgen.timestamp(7, 1000)),
        segment(0, ACK, 101, 301, options=capgen.timestamp(1000, 7)),
    )
    seen = Seen(engine, timed(*opening, trick, segment(0, ACK, 101, 301, payload=b"y")))
    assert seen.drops() == [*["SKB_NOT_DROPPED_YET"] * 3, reason, "SKB_NOT_DROPPED_YET"]
    assert "TCB_DATA" in seen.verdicts()[-1]
    assert seen.states == [("ESTABLISHED", "ESTABLISHED")]


def test_syn_sent_refuses(engine: ModuleType) -> None:
    told = [(0, SYN, 100), (1, SYN | ACK, 300, 55), (1, RST, 300), (1, RST | ACK, 0, 101)]
    seen = Seen(engine, steps(*told, (1, ACK, 300, 101)))
    none = "SKB_NOT_DROPPED_YET"
    assert seen.drops() == [none, "TCP_INVALID_ACK", "TCP_INVALID_RST", none, "TCP_CLOSED"]
    assert seen.states == [("CLOSED", "CLOSED")]
    assert seen.counters["TcpAttemptFails"] == 2


@pytest.mark.parametrize("seq", [101, 5000])
def test_reset_in_the_window(engine: ModuleType, seq: int) -> None:
    """An endpoint would challenge one that is only near; an observer believes it."""
    seen = Seen(engine, timed(*HANDSHAKE, segment(0, RST, seq)))
    assert seen.states == [("CLOSED", "CLOSED")]
    assert seen.verdicts()[-1] == {"TCB_RST_TAKEN"}
    assert seen.counters["TcpEstabResets"] == 2
    assert seen.counters["TcpExtTCPChallengeACK"] == 0


def test_fin_before_the_handshake(engine: ModuleType) -> None:
    """It ends nothing: the acknowledgments of what comes later are not its own."""
    ack = (0, ACK, 101, 301)
    told = ((0, SYN | RST, 100), (1, FIN | ACK, 300, 101), (0, SYN, 100), ack, ack, ack)
    assert Seen(engine, steps(*told)).states == [("ESTABLISHED", "ESTABLISHED")]


def test_refused_and_asked_again(engine: ModuleType) -> None:
    told = [(0, SYN, 100), (1, RST | ACK, 0, 101), (0, SYN, 100), (1, SYN | ACK, 300, 101)]
    seen = Seen(engine, steps(*told, (0, ACK, 101, 301)))
    assert seen.states == [("ESTABLISHED", "ESTABLISHED")]


def test_counters(engine: ModuleType) -> None:
    counters = Seen(engine, capgen.conversation()).counters
    assert counters["TcpActiveOpens"] == counters["TcpPassiveOpens"] == 1
    assert counters["TcpInSegs"] == counters["IpInReceives"] == 8
    assert counters["TcpExtTW"] == 1
    assert counters["TcpEstabResets"] == counters["TcpInErrs"] == 0


# The tap: where it came late, what it missed.


def test_picked_up_in_the_middle(engine: ModuleType) -> None:
    seen = Seen(engine, capgen.conversation()[3:])
    assert seen.verdicts()[0] >= {"CT_NEW", "CT_MIDSTREAM"}
    assert seen.states == [("TIME-WAIT", "CLOSED")]
    assert set(seen.drops()) == {"SKB_NOT_DROPPED_YET"}


@pytest.mark.parametrize(
    ("missing", "states"),
    [
        *((n, ("TIME-WAIT", "CLOSED")) for n in range(1, 5)),
        (5, ("CLOSE-WAIT", "FIN-WAIT-2")),  # that it was a FIN which was missed nobody can tell
        (6, ("FIN-WAIT-1", "CLOSE-WAIT")),
        (7, ("TIME-WAIT", "LAST-ACK")),
    ],
)
def test_one_segment_missed(engine: ModuleType, missing: int, states: tuple[str, str]) -> None:
    """Whichever it is, the next ones tell of it and are taken."""
    frames = capgen.conversation()
    del frames[missing]
    seen = Seen(engine, frames)
    assert seen.states == [states]
    assert set(seen.drops()) == {"SKB_NOT_DROPPED_YET"}


@pytest.mark.parametrize("side", [0, 1])
def test_one_direction(engine: ModuleType, side: int) -> None:
    frames = [one for one in capgen.conversation() if one[1][26:30][-1] == side + 1]
    seen = Seen(engine, frames)
    assert set(seen.drops()) == {"SKB_NOT_DROPPED_YET"}
    assert seen.connections[0]["packets_ab" if side == 0 else "packets_ba"] == len(frames)


def test_acknowledged_but_not_seen(engine: ModuleType) -> None:
    seen = Seen(engine, timed(*HANDSHAKE, segment(1, ACK, 301, 5000), segment(0, ACK, 5000, 301)))
    assert "CT_HOLE" in seen.verdicts()[3]
    assert set(seen.drops()) == {"SKB_NOT_DROPPED_YET"}


# Bounds: eviction and expiry by capture time.


def test_the_oldest_half_open_goes_first(engine: ModuleType) -> None:
    records = [
        *opened(1000, 1 * SEC),
        *opened(1001, 2 * SEC, upto=1),
        *opened(1002, 3 * SEC, upto=2),
        *[(4 * SEC, capgen.frame(*CLIENT[:2], 1001, 80, flags=SYN, seq=1000))],  # not younger
        *opened(1003, 5 * SEC, upto=1),
    ]
    seen = Seen(engine, records, max_connections=3, rows="drain")
    assert [row["a_port"] for row in seen.connections] == [1001, 1000, 1002, 1003]
    assert (seen.summary["evicted"], seen.summary["live"]) == (1, 3)


def test_then_the_longest_idle(engine: ModuleType) -> None:
    records = [
        *opened(1000, 1 * SEC),
        *opened(1001, 2 * SEC),
        (3 * SEC, capgen.frame(*CLIENT[:2], 1000, 80, flags=ACK, seq=1001, ack=5001)),
        *opened(1002, 4 * SEC),
        *opened(1003, 5 * SEC),
    ]
    seen = Seen(engine, records, max_connections=2, rows="drain")
    assert [row["a_port"] for row in seen.connections] == [1001, 1000, 1002, 1003]
    assert seen.summary["evicted"] == 2
    kept = Seen(engine, records, max_connections=2)
    assert [row["a_port"] for row in kept.connections] == [1000, 1001, 1002, 1003]


def test_evicted_and_back(engine: ModuleType) -> None:
    """It is another connection then, and picked up in the middle."""
    back = capgen.frame(*CLIENT[:2], 1000, 80, flags=ACK, seq=1001, ack=5001)
    records = [*opened(1000, SEC), *opened(1001, 2 * SEC), (3 * SEC, back)]
    seen = Seen(engine, records, max_connections=1)
    assert [row["a_port"] for row in seen.connections] == [1000, 1001, 1000]
    assert "CT_MIDSTREAM" in seen.verdicts()[-1]
    assert "CT_REUSED" not in seen.verdicts()[-1]


def test_expiry_of_the_idle(engine: ModuleType) -> None:
    """After more than so long without a segment; time that goes back expires nothing."""
    again = capgen.frame(*CLIENT[:2], 1000, 80, flags=ACK, seq=1001, ack=5001)
    for later, expired in ((10 * SEC, 0), (10 * SEC + 1, 1), (-SEC, 0)):
        start = 100 * SEC
        last = opened(1000, start)[-1][0]
        records = [*opened(1000, start), (last + later, again)]
        seen = Seen(engine, records, expire_idle_ns=10 * SEC)
        assert seen.summary["expired"] == expired
        assert len(seen.connections) == 1 + expired


def test_expiry_of_the_closed(engine: ModuleType) -> None:
    records = [
        *capgen.conversation(sport=1000, start_ns=SEC),
        *opened(1001, SEC + 20 * MS),
        *opened(1002, 3 * SEC),
    ]
    seen = Seen(engine, records, expire_closed_ns=SEC, rows="drain")
    assert seen.summary["expired"] == 1
    assert [row["a_port"] for row in seen.connections] == [1000, 1001, 1002]
    assert seen.summary["live"] == 2
    assert Seen(engine, records).summary["expired"] == 0  # off unless it is asked for


@pytest.mark.parametrize("rows", ["keep", "drain", "drop"])
def test_bounded_memory(engine: ModuleType, rows: str) -> None:
    """T-21: no more connections at a time than was said, whoever begins how many."""
    conntrack = engine.Conntrack(rows=rows, max_connections=10)
    records = [(n * MS, capgen.frame(*CLIENT[:2], 1000 + n, 80, flags=SYN)) for n in range(500)]
    lockstep.feed(conntrack, capgen.pcap(records))
    assert conntrack.live == 10
    assert conntrack.summary()["connections"] == 500
    assert conntrack.connections(["conn"])[0] == {"keep": 500, "drain": 490, "drop": 0}[rows]


# What is taken of the input.


def test_count(engine: ModuleType) -> None:
    data = capgen.pcap(capgen.conversation())
    conntrack = engine.Conntrack(packets=True, count=3)
    used = conntrack.feed(data, len(data))
    assert conntrack.done
    assert used == 24 + sum(16 + len(frame) for _, frame in capgen.conversation()[:3])
    assert conntrack.summary()["packets"] == conntrack.packets(["packet"])[0] == 3
    conntrack.begin(1)
    assert conntrack.feed(data, len(data)) == 0


def test_span_of_time(engine: ModuleType) -> None:
    """Frames outside are numbered, and that is all they do."""
    frames = capgen.conversation()
    seen = Seen(engine, frames, from_ns=frames[2][0], to_ns=frames[4][0], count=2)
    assert [packet["packet"] for packet in seen.packets] == [3, 4]
    assert seen.connections[0]["first_packet"] == 3
    assert seen.conntrack.capture()["packets"] == seen.summary["packets"] == 2


def test_span_without_an_end(engine: ModuleType) -> None:
    """A time that saturated is after all others, but not after an end that was not set."""
    ((_, data), *_) = capgen.conversation()
    capture = capgen.section() + capgen.interface(resolution=0)  # whole seconds
    capture += b"".join(capgen.enhanced(ticks, data) for ticks in (1, 2, 1 << 62))
    conntrack = engine.Conntrack(packets=True, from_ns=2 * SEC)
    conntrack.feed(capture, len(capture))
    assert conntrack.summary()["last_ns"] == np.iinfo(np.int64).max
    assert np.frombuffer(conntrack.packets(["packet"])[1]["packet"], np.int64).tolist() == [2, 3]


@pytest.mark.parametrize("options", [{"rows": "all"}, {"key": b"short"}])
def test_wrong_arguments(engine: ModuleType, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        engine.Conntrack(**options)


def test_wrong_length(engine: ModuleType) -> None:
    with pytest.raises(ValueError, match="length"):
        engine.Conntrack().feed(bytes(10), 11)


def test_unknown_column(engine: ModuleType) -> None:
    with pytest.raises(KeyError):
        engine.Conntrack().connections(["nothing"])


def test_one_thread_at_a_time(engine: ModuleType) -> None:
    """Entering twice raises, in the one that came second, and spoils nothing."""
    conntrack = engine.Conntrack()
    conntrack.feed(capgen.pcap_header(), 24)
    records = capgen.pcap_record(0, b"") * 50_000
    fed, refused = [], []

    def work() -> None:
        for _ in range(200):
            try:
                fed.append(conntrack.feed(records, len(records)))
            except RuntimeError as error:
                refused.append(error)
            if refused:
                return

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused
    assert conntrack.summary()["packets"] == 50_000 * len(fed)
