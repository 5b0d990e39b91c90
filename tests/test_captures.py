"""Every shared capture against its ground truth: rows 1 to 12 of their README.

The truth is tshark's, made without this package. The tables below say which captures and which
comparisons its definitions leave out, which differences stay, and why; an entry that is no longer
needed is an error, too. docs/differences.md has the same for people.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tcpcore
from tcpcore.columns import ANALYSIS_NAMES, REASON_NAMES
from tcpcore.stream import Stream

# What the truth leaves out: rows 2 to 6 are not compared.
NOT_FOLLOWED = {
    "tcpdump__bigtcp-ipv6.pcap": "BIG TCP, which tshark does not read",
}

# Explained: (theirs, ours). Of the datagram in four fragments that overlap RFC 5722 and Linux make
# nothing; tshark takes what came last, and its checksum is wrong.
END = ("128.32.46.142", 7790)
EXPLAINED: dict[str, Facts] = {
    "zeek__fragmented-4.pcap": {
        "tcp_segments": (3, 2),
        (*END, "packets"): (2, 1),
        (*END, "frame_bytes"): (136, 54),
        (*END, "payload_bytes"): (69, 0),
        (*END, "bad_checksum"): (1, 0),
    }
}

# Row 3: "leaves out the times of the pcapng example file", which do not fit 64-bit nanoseconds.
NO_TIMES = {"pcapplusplus__pcapng-example.pcapng"}
TIMES = {"first_ns", "last_ns"}
# Columns that differ where the snap length cut segments: tshark tells an option's kind where the
# option itself is cut.
CUT = {"zeek__truncated-header.pcap": {"timestamps"}}

# Row 10: connections whose initial round trip differs from tshark's, and why.
NO_SYNACK = "no SYN-ACK in the capture"
ANSWERED_BY_RST = "a reset answered the SYN"
OTHER_RTT = {
    ("mercury__emix.pcap", 474): ANSWERED_BY_RST,
    ("ndpi__fuzz-2006-09-29-28586.pcap", 8): NO_SYNACK,
    ("ndpi__fuzz-2006-09-29-28586.pcap", 12): "tshark takes the first ACK of either side",
    ("pcapplusplus__pcapng-example.pcapng", 11): ANSWERED_BY_RST,
    ("pcapplusplus__raw_ip.pcap", 2): NO_SYNACK,
    ("pcapplusplus__raw_ip.pcap", 5): NO_SYNACK,
    ("pcapplusplus__unidirectional_tcp_stream_with_missing_packet.pcap", 0): NO_SYNACK,
    ("zeek__mixed-vlan-mpls.pcap", 0): NO_SYNACK,
    ("zeek__rst-inject-rae.pcap", 0): ANSWERED_BY_RST,
}

# Rows 5, 7 and 8: directions (connection, which) that differ from tshark's, and why.
BEHIND_A_FIN = "what the padding of later segments adds behind the FIN"
NOT_AS_TSHARK = {
    ("ndpi__heuristic_tcp_ack_payload.pcap", 0, "ba"): BEHIND_A_FIN,
    ("ndpi__heuristic_tcp_ack_payload.pcap", 1, "ab"): BEHIND_A_FIN,
    ("ndpi__heuristic_tcp_ack_payload.pcap", 2, "ab"): BEHIND_A_FIN,
    ("ndpi__heuristic_tcp_ack_payload.pcap", 2, "ba"): BEHIND_A_FIN,
    ("ndpi__heuristic_tcp_ack_payload.pcap", 3, "ab"): BEHIND_A_FIN,
    ("ndpi__heuristic_tcp_ack_payload.pcap", 4, "ab"): BEHIND_A_FIN,
    ("ndpi__reasm_crash_anon.pcapng", 0, "ab"): "fuzzed: tshark gives up a direction at a hole",
    ("ndpi__ip_fragmented_garbage.pcap", 1, "ab"): "neither SYN, RST nor ACK",
    ("zeek__fragmented-4.pcap", 1, "ab"): "overlapping fragments, of which nothing is made",
}

# Rows 11 and 12, class by class and conversation by conversation: by how much ours and tshark's
# counts differ in a capture, and why. Everything else is equal.
REPEATED = "tshark does not always say again that what was acknowledged was not seen"
FUZZED = "fuzzed: numbers that jump about"
DIFFERENT = {
    ("arkime__tcp-reassembly-synthetic.pcap", "ack_lost_segment"): (1, REPEATED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "ack_lost_segment"): (9, REPEATED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "fast_retransmission"): (1, FUZZED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "lost_segment"): (1, FUZZED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "out_of_order"): (1, FUZZED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "retransmission"): (1, FUZZED),
    ("ndpi__fuzz-2006-09-29-28586.pcap", "reused_ports"): (1, FUZZED),
    ("ndpi__reasm_crash_anon.pcapng", "ack_lost_segment"): (159, REPEATED),
    ("suricata-verify__http-gap-double__input.pcap", "ack_lost_segment"): (1, REPEATED),
    ("tcpflow__jpegs.cap", "ack_lost_segment"): (5, REPEATED),
    ("zeek__bigtransfer.pcap", "ack_lost_segment"): (2, REPEATED),
    ("zeek__ipv6-http-atomic-frag.pcap", "ack_lost_segment"): (1, REPEATED),
    ("zeek__reassembly.pcap", "ack_lost_segment"): (1, REPEATED),
    ("zeek__reassembly.pcap", "fast_retransmission"): (
        3,
        "tshark takes a repeated FIN for a fast retransmission without duplicate ACKs before it",
    ),
}

Facts = dict[Any, Any]
SIDES = ("packets", "frame_bytes", "payload_bytes", "flags", "isn", "mss", "wscale")
SIDES += ("sack_permitted", "timestamps", "bad_checksum")
# Wireshark's classes that the truth counts.
CLASSES = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
CLASSES += ("lost_segment", "ack_lost_segment", "duplicate_ack", "zero_window", "zero_window_probe")
CLASSES += ("keep_alive", "keep_alive_ack", "window_full", "reused_ports")


@cache
def truth_of(capture: Path) -> Facts:
    truth: Facts = json.loads((capture.parent / "truth" / f"{capture.name}.json").read_text())
    fields = truth["conversation_fields"]
    truth["conversations"] = [dict(zip(fields, row, strict=True)) for row in truth["conversations"]]
    return truth


def explained(truth: Facts) -> Facts:
    return EXPLAINED.get(truth["file"], {})


def nanoseconds(text: str) -> int:
    seconds, fraction = text.split(".")
    return int(seconds) * 10**9 + int(fraction)


def sides(value: Any, absent: int = 0) -> tuple[Any, Any]:
    """A pair of the truth, where a bare 0 stands for two that are zero or absent."""
    if value == 0:
        return absent, absent
    return tuple(absent if one is None else one for one in value)


def expected(truth: Facts) -> dict[frozenset[Any], list[Facts]]:
    """The truth's conversations by 4-tuple, in order; what is of one side, by address and port."""
    found = defaultdict(list)
    for row in truth["conversations"]:
        ends = (row["a"], row["aport"]), (row["b"], row["bport"])
        columns = {
            "packets": sides(row["frames"]),
            "frame_bytes": sides(row["frame_bytes"]),
            "payload_bytes": sides(row["payload_bytes"]),
            "flags": sides(row["flags"]),
            "isn": sides(row["syn_seq"], -1),
            "mss": sides(row["mss"], -1),
            "wscale": sides(row["wscale"], -1),
            "sack_permitted": [bool(n) for n in sides(row["sackperm"])],
            "timestamps": [bool(n) for n in sides(row["ts"])],
            "bad_checksum": sides(row["bad_tcp_ck"]),
        }
        facts = {(*end, name): columns[name][i] for i, end in enumerate(ends) for name in SIDES}
        facts["first_ns"] = nanoseconds(row["first"])
        facts["last_ns"] = nanoseconds(row["last"])
        facts["snap"] = sum(sides(row["snap"])) > 0
        facts["rtt"] = row["init_rtt"]
        facts["classes"] = {
            (*end, name): sides(row[name])[i] for i, end in enumerate(ends) for name in CLASSES
        }
        found[frozenset(ends)].append(facts)
    return found


def measured(replay: tcpcore.Replay) -> dict[frozenset[Any], list[Facts]]:
    """Our connections in the same shape."""
    table = {name: replay.connections[name].tolist() for name in replay.connections.names}
    found = defaultdict(list)
    for i, ip in enumerate(table["ip"]):
        ends = []
        for side in ("a", "b"):
            packed = bytes(table[f"{side}_addr"][i])
            address = ipaddress.ip_address(packed if ip == 6 else packed[12:])
            ends.append((str(address), table[f"{side}_port"][i]))
        facts = {
            (*end, name): table[f"{name}_{way}"][i]
            for end, way in zip(ends, ("ab", "ba"), strict=True)
            for name in SIDES
        }
        facts["first_ns"] = table["first_ns"][i]
        facts["last_ns"] = table["last_ns"][i]
        facts["conn"] = i
        facts["classes"] = {
            (*end, name): table[f"{name}_{way}"][i]
            for end, way in zip(ends, ("ab", "ba"), strict=True)
            for name in CLASSES
        }
        found[frozenset(ends)].append(facts)
    return found


@pytest.fixture
def replayed(capture: Path, engine: ModuleType) -> tcpcore.Replay:
    return tcpcore.replay(capture, packets=True, analysis=True, engine=engine.ENGINE)


@pytest.fixture
def truth(capture: Path) -> Facts:
    if capture.name in NOT_FOLLOWED:
        pytest.skip(NOT_FOLLOWED[capture.name])
    return truth_of(capture)


def test_frames(replayed: tcpcore.Replay, capture: Path) -> None:
    """Row 1: frames read, and an error after them where the file is damaged."""
    truth = truth_of(capture)
    assert replayed.summary["packets"] == truth["frames"] == len(replayed.packets)
    assert (replayed.error is not None) == (truth["tshark_rc"] != 0)


def test_segments(replayed: tcpcore.Replay, truth: Facts) -> None:
    """Rows 2 and 6: segments; conversations, split by a SYN with another number alone."""
    segments = truth["tcp_segments"], replayed.summary["tcp_segments"]
    assert segments == explained(truth).get("tcp_segments", segments)
    assert (segments[0] == segments[1]) == ("tcp_segments" not in explained(truth))
    assert len(replayed.connections) == truth["tcp_conversations"]


def test_conversations(replayed: tcpcore.Replay, truth: Facts) -> None:
    """Rows 3 and 4: what each side of each conversation sent."""
    theirs, ours = expected(truth), measured(replayed)
    assert ours.keys() == theirs.keys()
    differ, times, cut = {}, set(), set()
    for ends, rows in theirs.items():
        for one, other in zip(rows, ours[ends], strict=True):
            for key in one.keys() - {"snap", "rtt", "classes"}:
                if one[key] == other[key]:
                    continue
                if key in TIMES and truth["file"] in NO_TIMES:
                    times.add(key)
                elif one["snap"] and key[-1] in CUT.get(truth["file"], ()):
                    cut.add(key[-1])
                else:
                    differ[key] = one[key], other[key]
    assert differ == {key: v for key, v in explained(truth).items() if key != "tcp_segments"}
    assert bool(times) == (truth["file"] in NO_TIMES)
    assert cut == CUT.get(truth["file"], set())
    assert replayed.summary["bad_ip_checksums"] == truth["bad_ip_checksum_frames"]


def test_what_is_left_out(replayed: tcpcore.Replay, capture: Path) -> None:
    """Row 2: only what tshark has no segment of, and we do: one longer than IP can say."""
    ours = replayed.summary["tcp_segments"]
    only_ours = ours > 0 and truth_of(capture)["tcp_segments"] == 0
    assert only_ours == (capture.name in NOT_FOLLOWED)
    if only_ours:
        assert ours == len(replayed.connections) == 1
        assert replayed.connections["payload_bytes_ab"].tolist() == [79968]
        assert replayed.summary["bad_tcp_checksums"] == 1  # offloaded, as the length is


# Connections by VLAN too, where that makes a difference.
BY_VLAN = {
    "suricata-verify__syn_retransmit_with_ts.pcap": 2,  # a tag in one direction only
    "zeek__vlan-collisions.pcap": 3,  # the same exchange on three VLANs at once
}


def test_vlans_as_part_of_the_key(capture: Path, truth: Facts, engine: ModuleType) -> None:
    """By default one connection, as to tshark; whoever wants can have the VLANs apart."""
    found = tcpcore.replay(capture, key="vlan", engine=engine.ENGINE).connections
    assert len(found) == BY_VLAN.get(capture.name, truth["tcp_conversations"])


def test_initial_rtt(replayed: tcpcore.Replay, truth: Facts) -> None:
    """Row 10: the handshake's time, known or not."""
    rtt = replayed.connections["initial_rtt_ns"].tolist()
    ours = measured(replayed)
    differ = set()
    for ends, rows in expected(truth).items():
        for one, other in zip(rows, ours[ends], strict=True):
            theirs = nanoseconds(one["rtt"]) if one["rtt"] else -1
            if abs(rtt[other["conn"]] - theirs) >= 1000 or (theirs < 0) != (rtt[other["conn"]] < 0):
                differ.add((truth["file"], other["conn"]))
    assert differ == {one for one in OTHER_RTT if one[0] == truth["file"]}


def directions(replayed: tcpcore.Replay, truth: Facts) -> Iterator[tuple[int, str, Facts | None]]:
    """Connection, direction, and what the truth has of its data."""
    rows = defaultdict(list)
    for row in truth["conversations"]:
        rows[frozenset(((row["a"], row["aport"]), (row["b"], row["bport"])))].append(row)
    for ends, ours in measured(replayed).items():
        for row, facts in zip(rows[ends], ours, strict=True):
            conn = facts["conn"]
            table = replayed.connections
            packed = bytes(table["a_addr"][conn])
            a = ipaddress.ip_address(packed if table["ip"][conn] == 6 else packed[12:])
            same = (str(a), table["a_port"][conn]) == (row["a"], row["aport"])
            data = row["data"] or (None, None)
            for i, told in enumerate(data):
                yield conn, "ab" if same == (i == 0) else "ba", told


def same_gaps(stream: Stream, told: Facts) -> bool:
    """Holes where the truth has them: (offset in the bytes present, missing) of each."""
    found, before = [], 0
    for offset, length in stream.gaps:
        found.append([offset - before, length])
        before += length
    if "gap_at" in told:
        return bool(found == told["gap_at"])
    return len(found) == told["gaps"] and before == told["gap_bytes"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_streams(capture: Path, engine: ModuleType, truth: Facts) -> None:
    """Rows 5 and 7 to 9: what each side sent, by its sum. tshark keeps what is damaged."""
    made = tcpcore.replay(capture, streams=True, checksum="ignore", engine=engine.ENGINE)
    differ = set()
    for conn, direction, told in directions(made, truth):
        stream = made.stream(conn, direction)
        if not told:
            assert stream.data == b""
            continue
        data, kind = stream.data, told["is"]
        same = kind == "snap"
        if kind == "full":
            same = sha256(data) == told["sha256"]
        elif kind == "stalled":
            same = sha256(data[: told["n"]]) == told["sha256"]
        elif kind == "gap":
            same = sha256(data) == told["sha256"] and same_gaps(stream, told)
            if not same and "ft" in told:  # as far as it was captured, acknowledged or not
                last = made.stream(conn, direction, fill=True, overlap="last").data
                same = [len(last), sha256(last)] == told["ft"]
        if not same:
            differ.add((capture.name, conn, direction))
    assert differ == {one for one in NOT_AS_TSHARK if one[0] == capture.name}


def test_analysis(replayed: tcpcore.Replay, truth: Facts) -> None:
    """Rows 11 and 12: the segments of each class that each side of each conversation sent."""
    theirs, ours = expected(truth), measured(replayed)
    apart: dict[str, int] = defaultdict(int)
    for ends, rows in theirs.items():
        for one, other in zip(rows, ours[ends], strict=True):
            for key, count in one["classes"].items():
                apart[key[-1]] += abs(count - other["classes"][key])
    explained = {key[1]: one[0] for key, one in DIFFERENT.items() if key[0] == truth["file"]}
    assert {name: n for name, n in apart.items() if n} == explained


def test_full_retransmissions(replayed: tcpcore.Replay) -> None:
    """Row 11: what we call one is a retransmission, out of order or a keep-alive to tshark."""
    full = replayed.packets["reason"] == REASON_NAMES.index("full_retransmission")
    kinds = ("retransmission", "out_of_order", "keep_alive")
    bits = sum(1 << ANALYSIS_NAMES.index(name) for name in kinds)
    assert (replayed.packets["analysis"][full] & bits).all()


def test_no_analysis(capture: Path, engine: ModuleType) -> None:
    """Without it its columns are not there, and all others are the same."""
    on = tcpcore.replay(capture, engine=engine.ENGINE)
    off = tcpcore.replay(capture, engine=engine.ENGINE, analysis=False)
    assert [name for name in on.connections.names if "retransmission" in name]
    for name in off.connections.names:
        assert (off.connections[name] == on.connections[name]).all(), name
    extra = on.connections.names[len(off.connections.names) :]
    assert not [name for name in extra if name in off.connections.names]


def test_the_page_of_differences() -> None:
    """docs/differences.md names every capture of the tables above."""
    page = (Path(__file__).parent.parent / "docs" / "differences.md").read_text()
    tables = (NOT_AS_TSHARK, DIFFERENT, OTHER_RTT)
    named = {key[0] for table in tables for key in table}
    named |= {*NOT_FOLLOWED, *EXPLAINED, *NO_TIMES, *CUT, *BY_VLAN}
    assert {name for name in named if f"`{name}`" not in page} == set()
    for name, kind in DIFFERENT:
        assert any(f"`{name}`" in line and kind in line for line in page.splitlines()), (name, kind)
