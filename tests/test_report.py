"""The text report where a terminal leaves little room."""

from __future__ import annotations

import io

import capgen
import pytest

import tcpcore
from tcpcore import report

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
