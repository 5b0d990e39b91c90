"""What a host holds at most, whether memory is there or not, and that it counts to the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import capgen
import pytest
from capgen import ACK
from script import HOST4, PEER4, SEC, Host, Script, net_of
from scripts import SACK
from test_endpoint_scripts import SYSCTL

import tcpcore
from tcpcore.mib import COUNTERS

TESTS = Path(__file__).parent


@pytest.fixture
def script(engine: ModuleType) -> Script:
    return Script(Host(net_of(engine), SYSCTL))


def counted(script: Script, name: str) -> int:
    return int(script.host.net.counters()[COUNTERS.index(name)])


def test_frames_that_nobody_takes(script: Script) -> None:
    """T-27: 65,536 frames wait to be fetched at most; the rest is counted and lost."""
    net = script.host.net
    packet = capgen.packet(PEER4, HOST4, 40000, 81, flags=ACK)
    for _ in range(66_000):
        net.receive(packet, script.host.now_ns)
    assert len(net.transmit()[0]) == 65_536
    assert counted(script, "IpOutDiscards") == 66_000 - 65_536


def test_frames_that_no_loop_takes(engine: ModuleType) -> None:
    """T-27: as many wait in a stack whose loop only ever brings frames; the oldest are lost."""
    packet = capgen.packet(PEER4, HOST4, 40000, 81, flags=ACK)
    stack = tcpcore.Stack(HOST4, clock=tcpcore.VirtualClock(), engine=engine.ENGINE)
    for _ in range(70):
        stack.receive([packet] * 1000)
    assert len(stack.transmit()) == 65_536


def test_frames_for_a_host_that_nobody_drives() -> None:
    """T-27: as many wait in a link; what comes then is dropped, and told."""
    link = tcpcore.CallableLink(len)
    for _ in range(70):
        link.deliver([b"frame"] * 1000)
    assert (len(link.recv(0)), link.dropped) == (65_536, 70_000 - 65_536)


def test_wakes_that_nobody_asks_for(script: Script) -> None:
    """Handles to be told are those of sockets that there are, and as many again."""
    net = script.host.net
    for _ in range(2000):
        sk = net.socket(4)
        net.connect(sk, 2, capgen.address16("127.0.0.1"), 9)  # refused
        script.host.drain()
        net.abort(sk)
        net.close(sk)
    assert len(net.wakes()) <= 2 * 10 + 64
    assert net.wakes() == []


def test_a_fin_that_waited(script: Script) -> None:
    """A FIN behind a hole ends the count of open connections as any other."""
    script.accepted(SACK)
    script.put("FPA", b"world", seq=7)
    script.put("PA", b"hello ", seq=1)
    assert script.state() == "CLOSE_WAIT"
    assert counted(script, "TcpCurrEstab") == 1  # RFC 4022: CLOSE-WAIT is
    script.host.close(script.sk)
    assert counted(script, "TcpCurrEstab") == 0


def test_doublings_are_counted_to_255(script: Script) -> None:
    """A time-out that doubles for days is one of two minutes: its count does not go round."""
    script.accepted(SACK)
    script.set(6, 18, 10**9)
    script.host.send(script.sk, b"x")
    script.host.wait(40_000 * SEC)
    info = script.host.net.info(script.sk)
    assert (info["tcpi_backoff"], info["tcpi_rto"]) == (255, 120_000_000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan has its own malloc")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("seed", range(1, 4))
def test_without_memory(compiled: ModuleType, tmp_path: Path, seed: int) -> None:
    """T-26: whichever allocation fails, alone, with two more, or with all after it: no crash, no
    leak, errors that calls may give, and hosts that go on."""
    library = tmp_path / "failing_malloc.so"
    source = TESTS / "failing_malloc.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    made = subprocess.run(
        [sys.executable, TESTS / "failing.py", str(seed), "400", "1"],
        env=os.environ | {"PYTHONPATH": path, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    told, refused = map(int, made.stdout.split())
    assert told > 0
    assert refused > 0
