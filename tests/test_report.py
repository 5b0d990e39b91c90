"""The report: what the analysis says of all segments, and where a terminal leaves little room."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import capgen
import lockstep
import numpy as np
import pytest
from capgen import ACK, SEC, SYN

import tcpcore
from tcpcore import report
from tcpcore.columns import ANALYSIS_NAMES

CAPTURE = capgen.pcap(capgen.conversation())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_addresses_leave_room_for_the_numbers(width):
    found = tcpcore.replay(io.BytesIO(CAPTURE))
    top = {**found.summary["top"][0], "a": "2001:db8:1111:2222:3333:4444:5555:6666"}
    top["b"] = top["a"].replace("6666", "7777")
    words = report.text({**found.summary, "top": [top]}, found._details, width=width)
    head, row = words.partition("Busiest connections\n")[2].splitlines()[:2]
    assert head.endswith("bytes")
    assert len(row) <= width
    assert row.endswith(report.size(top["frame_bytes"]))
    assert f":{top['a_port']}" in row


@pytest.mark.parametrize("options", [{}, {"max_connections": 5}, {"expire_idle_s": 1.0}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_sums_of_the_analysis(engine: ModuleType, seed: int, options: dict[str, Any]) -> None:
    """They are those of the table, whatever became of its rows; times are near the true ones."""
    data = lockstep.capture(seed, talks=40)
    options |= {"engine": engine.ENGINE, "analysis": True}
    made = tcpcore.replay(io.BytesIO(data), **options)
    table, told = made.connections, made.summary["analysis"]
    for name in (*ANALYSIS_NAMES, "retrans_bytes"):
        assert told[name] == table[f"{name}_ab"].sum() + table[f"{name}_ba"].sum(), name
    assert sum(told[name] for name in ANALYSIS_NAMES) > 0
    rtts = np.sort(table["initial_rtt_ns"][table["initial_rtt_ns"] >= 0])
    spread = told["initial_rtt"]
    assert spread["count"] == len(rtts)
    if not len(rtts):
        return
    for name, share in (("min_ns", 0), ("median_ns", 0.5), ("p95_ns", 0.95), ("max_ns", 1)):
        true = np.quantile(rtts, share, method="inverted_cdf")
        assert spread[name] == pytest.approx(true, rel=0.07, abs=1), name
    *_, last = tcpcore.replay_batches(io.BytesIO(data), batch_packets=50, **options)
    assert last.summary["analysis"] == told


@pytest.mark.parametrize("rtt_ns", [0, 1, 15, 16, 17, 10**6, 3 * 10**9, 9 * 10**18])
def test_every_time_has_its_bucket(engine: ModuleType, rtt_ns: int) -> None:
    frames = [
        (0, capgen.frame(flags=SYN, seq=1)),
        (0, capgen.frame("10.0.0.2", "10.0.0.1", 80, 40000, flags=SYN | ACK, seq=8, ack=2)),
        (rtt_ns, capgen.frame(flags=ACK, seq=2, ack=9)),
    ]
    out = capgen.section() + capgen.interface(1, resolution=9)
    out += b"".join(capgen.enhanced(at, data) for at, data in frames)
    made = tcpcore.replay(io.BytesIO(out), engine=engine.ENGINE)
    assert made.connections["initial_rtt_ns"].tolist() == [rtt_ns]
    spread = made.summary["analysis"]["initial_rtt"]
    assert spread["count"] == 1
    assert spread["median_ns"] == pytest.approx(rtt_ns, rel=0.07)


def test_the_analysis_is_shown() -> None:
    data = capgen.frame(flags=ACK, seq=1, ack=1, payload=b"again")
    again = [*capgen.conversation(), (9 * SEC, data), (10 * SEC, data)]
    made = tcpcore.replay(io.BytesIO(capgen.pcap(again)))
    assert made.summary["analysis"]["retransmission"]
    words = report.text(made.summary, made._details)
    assert "initial RTT " in words
    assert ", median " in words
    assert "Analysis\n" in words
    assert "sent again, of every kind; " in words
    assert "<td>retransmission</td>" in made._repr_html_()
    without = tcpcore.replay(io.BytesIO(capgen.pcap(again)), analysis=False)
    assert "analysis" not in without.summary
    assert "Analysis" not in report.text(without.summary, without._details)
    quiet = tcpcore.replay(io.BytesIO(CAPTURE))
    assert "Analysis" not in report.text(quiet.summary, quiet._details)
    empty = tcpcore.replay(io.BytesIO(capgen.pcap([])))
    assert empty.summary["analysis"]["initial_rtt"]["median_ns"] is None
    assert "RTT" not in repr(empty)
