"""What a host holds at most, whether memory is there or not, and that it counts to the end."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import ModuleType

import capgen
import pytest
from capgen import ACK, NOP, SACK_PERM, mss, wscale
from script import HOST4, PEER4, SEC, Host, Script, net_of
from scripts import SACK
from test_endpoint_scripts import SYSCTL

import tcpcore
from tcpcore.mib import COUNTERS
from tcpcore.neigh import ARP_HEAD, ETH_P_ARP, Neighbours

TESTS = Path(__file__).parent
SEGMENT_MAX = 256 + 2048  # what one of 1,460 bytes is charged with


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


def test_path_mtus(engine: ModuleType) -> None:
    """4,096 destinations have a path MTU of their own; the one told of first is forgotten."""
    net = net_of(engine)(b"0123456789abcdef")
    net.add_address(capgen.address16(HOST4), 120)
    peers = [f"10.{number >> 8}.{number & 255}.7" for number in range(4100)]

    def dial(peer: str) -> tuple[int, bytes]:
        sk = net.socket(4)
        assert net.connect(sk, 2, capgen.address16(peer), 9) == 0
        ((syn,), _) = net.transmit()
        return sk, syn

    def path_mtu(peer: str) -> int:
        sk, syn = dial(peer)
        net.close(sk)
        return int(struct.unpack_from(">H", syn, 42)[0]) + 40  # MSS is the first option

    for peer in peers:
        sk, syn = dial(peer)
        body = struct.pack(">BBHI", 3, 4, 0, 1000) + syn[:28]
        body = body[:2] + capgen.checksum(body).to_bytes(2, "big") + body[4:]
        net.receive(capgen.ipv4(body, "10.9.9.9", HOST4, proto=1), 0)
        net.transmit()
        assert net.getsockopt(sk, 0, 14)[1] == 1000
        net.close(sk)
        net.transmit()
    assert [path_mtu(peer) for peer in (peers[0], peers[3], peers[4], peers[-1])] == [
        1500,
        1500,
        1000,
        1000,
    ]


def test_fragments_for_a_host(script: Script) -> None:
    """T-07: 64 datagrams of a source and 4,096 in all wait to be whole, as in captures."""
    packet = capgen.packet(PEER4, HOST4, 40000, 81, flags=ACK, payload=bytes(64))

    def count(sources: list[str], each: int) -> int:
        before = counted(script, "IpReasmOKs")
        pieces = []
        for source in sources:
            whole = capgen.ipv4(packet[20:], source, HOST4)
            pieces += [capgen.fragments(whole, 40, number=number) for number in range(each)]
        for place in (0, 1):
            for one in pieces:
                script.host.net.receive(one[place], script.host.now_ns)
            script.host.drain()
        script.host.wait(60 * SEC)
        return counted(script, "IpReasmOKs") - before

    assert count([PEER4], 66) <= 64
    assert count([f"10.1.{number}.1" for number in range(66)], 63) <= 4096
    assert counted(script, "IpReasmFails") > 0


def test_neighbours() -> None:
    """4,096 neighbours are known; 256 are asked for at a time, with 64 packets each."""
    interface = ipaddress.ip_interface("10.0.0.1/8")
    neighbours = Neighbours([interface], None)
    out: deque[bytes] = deque()
    mine = interface.ip.packed
    for number in range(5000):
        address = bytes((10, 1, number >> 8, number & 255))
        asks = ARP_HEAD + b"\1" + b"\2" + address + b"\0" + address + bytes(6) + mine
        neighbours.receive(b"\xff" * 6 + bytes(6) + ETH_P_ARP + asks, out)
    assert len(neighbours.known) == 4096
    for number in range(300):
        target = f"10.2.{number >> 8}.{number & 255}"
        for _ in range(70):
            neighbours.send(capgen.packet("10.0.0.1", target, 1, 2), out)
    assert len(neighbours.asked) == 256
    assert {len(waiting) for waiting in neighbours.asked.values()} == {64}


def test_rests_of_connections(engine: ModuleType) -> None:
    """T-26: tcp_max_tw_buckets connections are in TIME-WAIT; others end at once."""
    script = Script(Host(net_of(engine), {**SYSCTL, "tcp_max_tw_buckets": 4}))
    for port in range(40000, 40010):
        script.accepted(SACK, port=port)
        script.close()
        script.put("FA", ack=2)
        assert script.host.net.sockstat()["tw"] <= 4
    assert counted(script, "TcpExtTCPTimeWaitOverflow") == 6
    assert script.host.net.sockstat()["used"] == 1  # the listener


@pytest.mark.parametrize("order", ["falling", "rising", "shuffled", "overlapping", "with_reads"])
@pytest.mark.parametrize("rmem", [(4096, 8192, 8192), (4096, 16384, 131072)])
def test_tiny_segments_behind_holes(
    engine: ModuleType, order: str, rmem: tuple[int, int, int]
) -> None:
    """T-06: whatever a peer puts behind holes, what waits is charged with less than the buffer
    and one segment; and no peer makes the buffer larger than tcp_rmem says."""
    rng = random.Random(order)
    script = Script(Host(net_of(engine), {**SYSCTL, "tcp_rmem": rmem}))
    script.accepted(mss(1460) + SACK_PERM + NOP + wscale(7))
    net = script.host.net
    count = 4000 if engine.__name__ == "tcpcore._core" else 1200
    window = max(rmem[1] // 2, 2000)
    at = [2 + 2 * i % window for i in range(count)]
    if order == "falling":
        at.sort(reverse=True)
    elif order != "rising":
        rng.shuffle(at)
    end, most = 1, 0
    for number, place in enumerate(at):
        size = rng.choice((1, 2, 700, 1460)) if order == "overlapping" else 1
        script.put("A", size, seq=end + place)
        if order == "with_reads" and not number % 7:
            script.put("PA", rng.choice((1, 300)), seq=end)
            got = script.host.recv(script.sk, 1 << 20)
            end += len(got) if isinstance(got, bytes) else 0
        held, buffer = net.meminfo(script.sk)[:2]
        assert buffer <= rmem[2]
        assert held <= buffer + SEGMENT_MAX
        most = max(most, held)
    script.lines.clear()
    assert most > rmem[1] // 4
    assert net.sockstat()["mem"] == net.meminfo(script.sk)[0]
    net.abort(script.sk)
    assert net.sockstat()["mem"] == 0


def test_listeners_at_every_port(script: Script) -> None:
    """One of each version of IP: a second one is refused, and nothing is left of those."""
    net = script.host.net
    first = net.socket(4)
    assert net.listen(first, 8, True) == 0
    for _ in range(100):
        sk = net.socket(4)
        assert net.listen(sk, 8, True) == -errno.EADDRINUSE
        net.close(sk)
    assert net.sockstat()["any_address"] == 1
    net.close(first)
    assert net.sockstat()["any_address"] == 0


def test_overdue_timers(engine: ModuleType) -> None:
    """After a pause: each at its own time in virtual time; once, now, by the system's clock."""
    for real_time, times in ((False, 8), (True, 1)):  # after 1, 2, 3, 4, 5, 7, 11 and 19 s
        net = net_of(engine)(b"0123456789abcdef")
        net.set_real_time(real_time)
        net.add_address(capgen.address16(HOST4), 120)
        sk = net.socket(4)
        assert net.connect(sk, 2, capgen.address16(PEER4), 9) == 0
        assert len(net.transmit()[0]) == 1
        net.advance(20 * SEC)
        assert len(net.transmit()[0]) == times
        assert net.next_deadline() > 20 * SEC


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
