"""The seam at its edges: without memory, without `__init__`, and after rows were handed out.

T-13: whatever happens, nothing is read or written that is not ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import capgen
import lockstep
import pytest
from capgen import ACK, SYN

TESTS = Path(__file__).parent
# Feeds SYNs until memory runs out, as soon as some half megabytes are taken; then looks around.
HUNGRY = """
import resource, sys
import capgen, lockstep
from capgen import SYN
from tcpcore.engine import load

six, room, bound, rows = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
host = "2001:db8::" if six else "10.0.0."
frame = bytearray(capgen.frame(host + "1", host + "2", 1, 2, flags=SYN))
at = 14 + (20 if six else 12)  # the last four bytes of the sender's address

def flood(first, n):
    out = bytearray()
    for number in range(first, first + n):
        frame[at : at + 4] = number.to_bytes(4, "big")
        out += capgen.pcap_record(0, frame)
    return bytes(out)

def look():
    summary = conntrack.summary()
    n, columns = conntrack.connections(lockstep.CONNECTION_NAMES, True)
    assert n == summary["connections"] == sum(summary["states"].values()), (n, summary)
    assert set(bytes(columns["ip"])) <= {6 if six else 4}
    conns = memoryview(columns["conn"]).cast("B").cast("q")
    assert sorted(conns) == list(range(n))
    frames, columns = conntrack.packets(lockstep.PACKET_NAMES)
    assert len(columns["seq"]) == 4 * frames <= 4 * summary["packets"]
    return summary["live"]

conntrack = load("compiled").Conntrack(packets=True, max_connections=bound, rows=rows)
header = capgen.pcap_header()
pieces = [flood(5000 * i, 5000) for i in range(16)]
last = flood(1 << 20, 40_000)
conntrack.feed(header, len(header))
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (room << 19), hard))
try:
    for piece in pieces:
        conntrack.feed(piece, len(piece))
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert conntrack.done and "no memory" in conntrack.error[1]
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
live = look()
conntrack.begin(1)
assert not conntrack.done
assert conntrack.feed(header + last, len(header + last)) == len(header + last)
assert look() == (bound or live + 40_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by RLIMIT_AS, reads /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan maps terabytes")
@pytest.mark.parametrize(("bound", "rows"), [(0, "keep"), (30_000, "keep"), (30_000, "drain")])
@pytest.mark.parametrize("six", [0, 1])
def test_without_memory(compiled: ModuleType, six: int, bound: int, rows: str) -> None:
    """Wherever it runs out, no connection is there by half, and the engine goes on afterwards."""
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    for room in (1, 12, 22, 30, 38, 44):
        arguments = [str(six), str(room), str(bound), rows]
        done = subprocess.run(
            [sys.executable, "-c", HUNGRY, *arguments],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), room


def test_not_initialised(compiled: ModuleType) -> None:
    conntrack = compiled.Conntrack.__new__(compiled.Conntrack)
    data = capgen.pcap(capgen.conversation())
    for call in (
        lambda: conntrack.begin(0),
        lambda: conntrack.feed(data, len(data)),
        lambda: conntrack.end(0),
        conntrack.summary,
        lambda: conntrack.connections(["conn"]),
        lambda: conntrack.packets(["conn"]),
        conntrack.drain,
    ):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    assert (conntrack.live, conntrack.done, conntrack.error) == (0, False, None)
    assert conntrack.capture()["packets"] == 0


def test_rows_handed_out_stay_as_they_are(engine: ModuleType) -> None:
    """Whether they still lie where new ones are added, or were copied, or forgotten."""
    conntrack = engine.Conntrack(packets=True)
    many = capgen.pcap_record(0, capgen.frame(flags=ACK)) * 40_000  # more than there is room for
    header, syn = capgen.pcap_header(), capgen.pcap_record(0, capgen.frame(flags=SYN))
    told = []
    for data in (header + syn, syn, many, syn):
        conntrack.feed(data, len(data))
        told += [conntrack.packets(["seq", "verdict"]), conntrack.connections(["packets_ab"])]
    seen = [lockstep.rows(one) for one in told]
    conntrack.drain()
    conntrack.feed(many, len(many))
    assert [lockstep.rows(one) for one in told] == seen
    assert [len(memoryview(columns["seq"])) for _, columns in told[::2]] == [
        4 * rows for rows in (1, 2, 40_002, 40_003)
    ]


def test_a_column_named_twice(engine: ModuleType) -> None:
    conntrack = engine.Conntrack(packets=True)
    lockstep.feed(conntrack, capgen.pcap(capgen.conversation()))
    for ask, name in ((conntrack.connections, "isn_ab"), (conntrack.packets, "seq")):
        assert lockstep.rows(ask([name] * 100)) == lockstep.rows(ask([name]))


def test_a_refused_question_keeps_nobody_out(engine: ModuleType) -> None:
    """Whatever raises, the next call is let in."""
    conntrack = engine.Conntrack(packets=True)
    for ask in (conntrack.connections, conntrack.packets):
        with pytest.raises(KeyError):
            ask(["conn", "nothing"])
    with pytest.raises(ValueError, match="length"):
        conntrack.feed(b"", 1)
    data = capgen.pcap(capgen.conversation())
    assert conntrack.feed(data, len(data)) == len(data)


TOO_MANY_ROWS = """
import resource, sys
from pathlib import Path
import capgen, lockstep
from tcpcore.engine import load

frames = [(i, capgen.frame(sport=1 + i % 60000)) for i in range(40_000)]
data = capgen.pcap(frames, fmt="pcap-ns")
used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
conntrack = load("compiled").Conntrack(packets=True)
conntrack.begin(0)
conntrack.size = len(data) * 1000  # 40 million rows: room for the first columns, not for all
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
lockstep.feed(conntrack, data)
count, columns = conntrack.packets(["packet", "time_ns", "caplen"])
assert count == 40_000
assert memoryview(columns["packet"]).cast("q").tolist() == list(range(1, count + 1))
assert memoryview(columns["time_ns"]).cast("q").tolist() == list(range(count))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_room_for_rows_that_is_not_to_be_had(compiled: ModuleType) -> None:
    """A size that promises too many rows costs nothing: columns that had grown shrink again."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", TOO_MANY_ROWS], check=True, env=environment)
