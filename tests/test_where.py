"""Conditions on columns: what they select, what absent values do, errors with their place."""

from __future__ import annotations

import io
from typing import Any

import capgen
import numpy as np
import pytest
from capgen import ACK, SYN

import tcpcore
from tcpcore.assembler import FilterError
from tcpcore.columns import CONNECTIONS
from tcpcore.where import NESTING_MAX, TEXT_MAX, Where

RECORDS = [
    *capgen.conversation(),
    *capgen.conversation("2001:db8::1", "2001:db8::2", dport=443, step_ns=20_000_000),
    (99 * capgen.SEC, capgen.frame("10.0.0.7", "10.0.0.2", 1, 2, flags=SYN, payload=b"x" * 900)),
    (99 * capgen.SEC, capgen.frame("::ffff:10.0.0.7", "::1", 3, 4, flags=ACK)),
]
CAPTURE = capgen.pcap(RECORDS, fmt="pcap-ns")


def replay(**options: Any) -> tcpcore.Replay:
    return tcpcore.replay(io.BytesIO(CAPTURE), **options)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("b_port == 443", [1]),
        (" b_port == 443", [1]),
        ("b_port ==\n443", [1]),
        ("443 == b_port", [1]),
        ("initial_rtt_ns > 30e6 and b_port == 443", [1]),
        ("initial_rtt_ns < 50e9", [0, 1]),  # absent is not less
        ("not initial_rtt_ns < 50e9", [2, 3]),
        ("initial_rtt_ns != 1", [0, 1]),
        ("initial_rtt_ns == None", [2, 3]),
        ("initial_rtt_ns is not None", [0, 1]),
        ("None != mss_ab", [0, 1]),
        ("state_a == 'TIME-WAIT'", [0, 1]),
        ("'syn-sent' == state_a", [2]),
        ("state_a == state_b", [3]),
        ("state_a != 6", [2, 3]),
        ("a_addr == '10.0.0.7'", [2]),
        ("a_addr == '::ffff:10.0.0.7'", [3]),
        ("'2001:db8:0::1' == a_addr or a_addr == '10.0.0.1'", [0, 1]),
        ("a_addr != '10.0.0.7'", [0, 1, 3]),
        ("a_addr == b_addr", []),
        ("sack_permitted_ab", [0, 1]),
        ("not sack_permitted_ab", [2, 3]),
        ("sack_permitted_ab == True", [0, 1]),
        ("1 < packets_ab + packets_ba <= 8", [0, 1]),
        ("packets_ab / packets_ba > 1.5", [0, 1]),  # by zero: no value
        ("packets_ab % packets_ba == 2 or packets_ab // packets_ba == 1", [0, 1]),
        ("flags_ab & 16 == 0", [2]),
        ("(flags_ab | 1) ^ 1 == 2", [2]),
        ("first_ns * first_ns > 1e18", [2, 3]),  # more than 64 bits
        ("-b_port < -100", [1]),
        ("+b_port == 80", [0]),
        ("packets_ab & 1.5 == 0", []),
        ("b_port == 10000000000000000000000", []),
        ("True", [0, 1, 2, 3]),
        ("1 > 2", []),
        ("ip == 4 and (b_port == 80 or b_port == 2) and not b_port == 2", [0]),
    ],
)
def test_rows(text: str, rows: list[int]) -> None:
    where = Where(text)
    found = where.rows(replay().connections)
    assert found.tolist() == rows
    assert found.dtype == np.int64
    assert set(where.names) <= {column.name for column in CONNECTIONS}
    assert replay(where=text).connections["conn"].tolist() == rows


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("", 0, "syntax"),
        ("b_prt == 443", 0, "'b_prt'"),
        ("b_port == 443 and é > 1 or x", 18, "'é'"),
        ("  a_port == 1 and foo", 18, "'foo'"),
        ("b_port", 0, "comparison"),
        ("b_port == 1 and 2", 16, "comparison"),
        ("not b_port", 4, "comparison"),
        ("b_port in (80, 443)", 10, "only comparisons"),
        ("b_port.real == 1", 0, "only comparisons"),
        ("__import__('os').system('true')", 0, "only comparisons"),
        ("len(a_addr) == 1", 0, "only comparisons"),
        ("[b_port][0] == 1", 0, "only comparisons"),
        ("(lambda: True)()", 0, "only comparisons"),
        ("(x := 1) == 1", 1, "only comparisons"),
        ("f'{b_port}' == a_addr", 0, "only comparisons"),
        ("~b_port == 1", 0, "only comparisons"),
        ("b_port ** 2 == 1", 10, "operators"),
        ("b_port << 2 == 1", 10, "operators"),
        ("1j == b_port", 0, "constant"),
        ("b'x' == b_port", 0, "constant"),
        ("(b_port == 1) + 1 == 2", 1, "number"),
        ("b_port == '80'", 10, "text"),
        ("state_a == 'OPEN'", 11, "no state"),
        ("a_addr == 'host'", 10, "no address"),
        ("a_addr > '1.2.3.4'", 9, "address"),
        ("a_addr == 1", 10, "address"),
        ("b_port == a_addr", 10, "address"),
        ("'x' == 'y'", 0, "column"),
        ("b_port < None", 9, "== and !="),
        ("b_port is 5", 10, "comparisons are"),
        ("sack_permitted_ab == 1", 21, "not compared"),
        ("b_port == 1) or (True", 11, "unmatched"),
        ("b_port == " + "9" * 400, 10, "large"),
    ],
)
def test_errors_show_the_place(text: str, position: int, word: str) -> None:
    with pytest.raises(FilterError) as caught:
        Where(text)
    assert word in caught.value.reason
    assert caught.value.position == position
    assert str(caught.value).endswith("^")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "True" + ")" * 5000,
        "not " * (NESTING_MAX + 1) + "True",
        "+".join(["1"] * 4000) + " == 1",
        "True or " * TEXT_MAX + "True",
        "9" * 5000 + " == b_port",
        "True\0",
    ],
    ids=["parentheses", "not", "sum", "long", "digits", "nul"],
)
def test_bounds(text: str) -> None:
    """T-25: length and nesting are bounded, and so are numbers."""
    with pytest.raises(FilterError):
        Where(text)


def test_replay() -> None:
    found = replay(where="b_port == 443", packets=True)
    whole = replay(packets=True)
    assert found.packets["conn"].tolist() == [1] * 8
    assert found.packets["packet"].tolist() == list(range(9, 17))
    assert [one["conn"] for one in found.summary["top"]] == [1]
    assert found.summary["top"][0] == whole.summary["top"][whole_place(whole, 1)]
    for name in ("connections", "packets", "states", "counters"):
        assert found.summary[name] == whole.summary[name]
    assert found.connections["a_addr"].shape == (1, 16)
    assert replay(where="False").summary["top"] == []
    assert len(replay(where="False", packets=True).packets) == 0
    with pytest.raises(TypeError, match="where"):
        replay(where=5)


def whole_place(found: tcpcore.Replay, conn: int) -> int:
    return [one["conn"] for one in found.summary["top"]].index(conn)


def test_top_is_as_the_engine_has_it() -> None:
    assert replay(where="True").summary["top"] == replay().summary["top"]


def test_batches() -> None:
    """What is selected of all batches is what is selected of the whole."""
    whole = replay(where="ip == 6 or b_port == 2")
    options: dict[str, Any] = {"batch_packets": 1, "max_connections": 1}
    batches = list(
        tcpcore.replay_batches(io.BytesIO(CAPTURE), where="ip == 6 or b_port == 2", **options)
    )
    conns = sorted(conn for batch in batches for conn in batch.connections["conn"].tolist())
    assert conns == whole.connections["conn"].tolist() == [1, 2, 3]
    assert batches[-1].summary["top"] == whole.summary["top"]
    with pytest.raises(ValueError, match="use replay"):
        tcpcore.replay_batches(io.BytesIO(CAPTURE), where="True", packets=True)


def test_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from tcpcore.cli import main

    path, rows, frames = tmp_path / "x.pcap", tmp_path / "c.csv", tmp_path / "p.csv"
    path.write_bytes(CAPTURE)
    tables = ["--connections", str(rows), "--packets", str(frames)]
    for bound in ([], ["--max-connections", "1"]):
        arguments = ["replay", str(path), "--where", "ip == 6", "--filter", "not port 3", *bound]
        assert main([*arguments, *tables]) == 0
        assert [line.split(",")[0] for line in rows.read_text().splitlines()[1:]] == ["1"]
        assert len(frames.read_text().splitlines()) == 9
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "2001:db8::1" in out
        assert "10.0.0.1" not in out
    for option, text in (("--where", "b_port ="), ("--filter", "prot 80")):
        with pytest.raises(SystemExit) as caught:
            main(["replay", str(path), option, text])
        assert caught.value.code == 2
        assert capsys.readouterr().err.rstrip().endswith("^")
