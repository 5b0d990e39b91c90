"""The endpoint by requirement: what the packet scripts do not show, and that no row is silent."""

from __future__ import annotations

import random
import re
import struct
from itertools import pairwise
from types import ModuleType
from typing import Any

import capgen
import pytest
from capgen import NOP, SACK_PERM, mss, timestamp, wscale
from script import HOST4, PEER4, PEER6, SEC, Host, Script, net_of
from scripts import ALL, SACK, every_script
from test_endpoint_scripts import OURS_ALONE, SYSCTL, same

from tcpcore.mib import COUNTERS

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6 = 0, 1, 6, 41
IP_TOS, IP_TTL, IP_RECVERR, TCLASS, HOPS, SO_ERROR = 1, 2, 11, 67, 16, 4
EADDRNOTAVAIL, ENETUNREACH, EINVAL = 99, 101, 22

MATRIX = [name for name in every_script() if name.startswith("matrix_")]


@pytest.fixture
def net_class(engine: ModuleType) -> Any:
    found = net_of(engine)
    if found is None:
        pytest.skip("this engine has no endpoint")
    return found


@pytest.fixture
def script(net_class: Any) -> Script:
    return Script(Host(net_class, SYSCTL))


def packets(net_class: Any, function: Any, start_ns: int = 1000 * SEC, isn: int = 5_000_000) -> Any:
    """A script's lines, and each packet that the host has emitted."""
    host = Host(net_class, SYSCTL | function.sysctl)
    host.wait(start_ns - host.now_ns)
    taken: list[bytes] = []
    drain = host.drain

    def record() -> list[tuple[int, bytes]]:
        out = drain()
        taken.extend(packet for _, packet in out)
        return out

    host.drain = record  # type: ignore[method-assign]
    script = Script(host, function.ip)
    script.isn = isn
    function(script)
    script.take()
    return script.lines, taken, script


def checksum_of(packet: bytes) -> int:
    if packet[0] >> 4 == 4:
        at, ends = (packet[0] & 15) * 4, packet[12:20]
        assert capgen.checksum(packet[:at]) == 0
    else:
        at, ends = 40, packet[8:40]
    return capgen.checksum(ends + struct.pack(">II", len(packet) - at, 6) + packet[at:])


def options_of(packet: bytes) -> bytes:
    at = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    return packet[at + 20 : at + (packet[at + 12] >> 4) * 4]


@pytest.mark.parametrize("name", every_script())
def test_whatever_leaves(net_class: Any, name: str) -> None:
    """9293:MUST-2, MUST-65, MUST-68, MUST-69, MUST-16, MUST-45: of each packet of each script."""
    _, taken, script = packets(net_class, every_script()[name])
    for packet in taken:
        assert checksum_of(packet) == 0
        assert len(packet) <= 1500
        source = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
        assert source == capgen.address(script.here)
        options, at, kinds = options_of(packet), 0, []
        while at < len(options):
            kind = options[at]
            if kind == 0:
                assert not any(options[at:])
                break
            kinds.append(kind)
            at += 1 if kind == 1 else options[at + 1]
        assert at <= len(options)
        flags = packet[((packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40) + 13]
        assert (2 in kinds) == bool(flags & 2)
        assert not {3, 4} & set(kinds) or flags & 2


@pytest.mark.parametrize("name", [n for n in every_script() if n != "cookies"])
def test_across_the_wrap(net_class: Any, name: str) -> None:
    """T-29: numbers of both sides go round 2**32 (the host's in its first connection)."""
    function = every_script()[name]
    lines, _, first = packets(net_class, function)
    for isn in (0xFFFFFFFF, 0xFFFFFFFF - 600, 0x7FFFFFFF - 600):
        again, _, _ = packets(net_class, function, isn=isn)
        assert not same(lines, again)
    if name not in MATRIX and name not in OURS_ALONE:
        host_isn = 0 if first.host_isn is None else first.host_isn
        for target in (0xFFFFFFFF - 50, 0xFFFFFFFF - 3000):
            ticks = (target - host_isn) & 0xFFFFFFFF
            again, _, _ = packets(net_class, function, 1000 * SEC + ticks * 64)
            assert not same(lines, again)


def isn_of(script: Script, port: int) -> int:
    script.fresh(port)
    script.put("S", opts=ALL, ts=False)
    assert script.host_isn is not None
    found = script.host_isn
    script.put("R")
    return found


def test_initial_numbers(net_class: Any, script: Script) -> None:
    """9293:MUST-8, MUST-9, SHLD-1; T-10; RFC 6528: a clock, and a secret of each 4-tuple."""
    script.listen(100)
    first = isn_of(script, 40000)
    script.wait(1)
    assert (isn_of(script, 40000) - first) & 0xFFFFFFFF == SEC // 64
    numbers = [isn_of(script, 41000 + i) for i in range(200)]
    steps = {(b - a) & 0xFFFFFFFF for a, b in pairwise(numbers)}
    assert len(steps) == 199
    assert 60 < sum(n >> 31 for n in numbers) < 140
    other = Script(Host(net_class))
    other.host.net = net_class(b"another secret!!")
    other.host.net.add_address(capgen.address16(HOST4), 120)
    other.host.net.advance(other.host.now_ns)
    other.listen(100)
    assert isn_of(other, 40000) != first


def test_time_stamps_begin_anywhere(script: Script) -> None:
    """T-11: the offset of time stamps depends on both ports."""
    script.listen(100)
    seen = set()
    for i in range(50):
        script.fresh(40000 + i)
        script.ts = 1, 0
        script.put("S", opts=mss(1460) + NOP * 2 + timestamp(1, 0), ts=False)
        seen.add(script.ts[1])
    assert len(seen) == 50


def test_ports(script: Script) -> None:
    """T-11; RFC 6056: ports are not told from one another, none is used twice at a time."""
    ports = []
    for _ in range(100):
        script.dial(9000)
        ports.append(script.port)
    assert len(set(ports)) == 100
    assert all(32768 <= port <= 60999 for port in ports)
    firsts = set()
    for i in range(50):
        script.dial(10000 + i)
        firsts.add(script.port)
    assert len(firsts) > 40


@pytest.mark.parametrize(("early_retrans", "opts"), [(0, SACK), (3, SACK), (4, SACK), (3, b"")])
def test_tail_loss_probe(net_class: Any, early_retrans: int, opts: bytes) -> None:
    """RFC 8985 7: after two round trips the last segment goes again, once; then the time-out."""
    script = Script(Host(net_class, SYSCTL | {"tcp_early_retrans": early_retrans}))
    script.accepted(opts or None)
    script.hold = True
    script.wait(1)
    script.send(3 * 1460)
    count = script.host.net.counters
    script.wait(1)
    probes = COUNTERS.index("TcpExtTCPLossProbes")
    assert count()[probes] == (1 if early_retrans and opts else 0)
    assert count()[COUNTERS.index("TcpExtTCPTimeouts")] == 2
    script.put("A", ack=script.rcv + 3 * 1460)
    assert count()[COUNTERS.index("TcpExtTCPLossProbeRecovery")] == 0  # the time-out has told


@pytest.mark.parametrize("bad", ["224.0.0.1", "255.255.255.255", "239.1.1.1"])
def test_invalid_peers(script: Script, bad: str) -> None:
    """9293:MUST-46, MUST-57, MUST-63: no SYN to them, none taken from or to them."""
    sk = script.host.socket(4)
    assert script.host.connect(sk, bad, 80) == -ENETUNREACH
    script.listen()
    for source, target in ((bad, HOST4), (PEER4, bad), ("0.0.0.0", HOST4)):
        packet = capgen.packet(source, target, 40000, 80, flags=capgen.SYN, options=mss(1460))
        script.host.inject(packet)
        assert not script.host.drain()


def test_own_address(script: Script) -> None:
    """9293:MUST-43, MUST-44: the caller's address, else the one that routing chooses."""
    host = script.host
    host.net.add_address(capgen.address16("10.99.0.7"), 120)
    sk = host.socket(4)
    assert host.bind(sk, "10.99.0.7", 4321) == 0
    host.connect(sk, PEER4, 9000)
    ((_, packet),) = host.drain()
    assert packet[12:16] == capgen.address("10.99.0.7")
    assert packet[20:22] == struct.pack(">H", 4321)
    assert host.bind(host.socket(4), "10.98.0.1", 0) == -EADDRNOTAVAIL
    host.connect(host.socket(4), "10.99.0.9", 9000)
    ((_, packet),) = host.drain()
    assert packet[12:16] == capgen.address("10.99.0.7")


@pytest.mark.parametrize("ip", [4, 6])
def test_tos_and_ttl(net_class: Any, ip: int) -> None:
    """9293:MUST-48, MUST-49, SHLD-21, SHLD-22: DSCP and TTL as they are set, at any time."""
    host = Host(net_class)
    sk = host.socket(ip)
    tos, ttl = (
        ((SOL_IP, IP_TOS), (SOL_IP, IP_TTL)) if ip == 4 else ((SOL_IPV6, TCLASS), (SOL_IPV6, HOPS))
    )

    def seen() -> tuple[int, int]:
        ((_, packet),) = host.drain()
        if ip == 4:
            return packet[1], packet[8]
        return int.from_bytes(packet[:2], "big") >> 4 & 0xFF, packet[7]

    assert host.setsockopt(sk, *tos, 0xB8) == 0
    assert host.setsockopt(sk, *ttl, 7) == 0
    assert host.setsockopt(sk, *ttl, 256) == -EINVAL
    peer = PEER4 if ip == 4 else PEER6
    host.connect(sk, peer, 9000)
    assert seen() == (0xB8, 7)
    assert host.setsockopt(sk, *tos, 0x28) == 0
    assert host.setsockopt(sk, *ttl, 255) == 0
    host.wait(round(1.01 * SEC))
    assert seen() == (0x28, 255)


@pytest.mark.parametrize(
    "options", [NOP * 4, b"\x07\x07\x04" + bytes(5), b"\x9f\x04ab", b"\x94\x04\0\0"]
)
def test_ip_options(script: Script, options: bytes) -> None:
    """9293:MUST-50: IP options are passed over."""
    script.accepted()
    script.put("PA", b"hello", ip={"options": options})
    assert script.host.recv(script.sk, 100) == b"hello"


@pytest.mark.parametrize("kind", [131, 137])
def test_source_routes(script: Script, kind: int) -> None:
    """RFC 791 3.1: a packet that its sender routes is not taken."""
    script.accepted()
    script.put("PA", b"hello", ip={"options": bytes((1, kind, 7, 4)) + bytes(4)})
    assert script.host.recv(script.sk, 100) == -11


@pytest.mark.parametrize("ip", [4, 6])
def test_fragments(net_class: Any, ip: int) -> None:
    """RFC 791 3.2, RFC 8200 4.5: a segment in fragments, in any order, is one segment."""
    script = Script(Host(net_class), ip)
    script.accepted()
    data = bytes(range(200))
    whole = capgen.packet(
        script.peer, script.here, script.peer_port, 80, seq=script.isn + 1,
        ack=(script.host_isn or 0) + 1, payload=data,
    )  # fmt: skip
    for piece in reversed(capgen.fragments(whole, 64, 128)):
        script.host.inject(piece)
    assert script.host.recv(script.sk, 1000) == data


def test_damaged_headers(script: Script) -> None:
    """9293:MUST-3; RFC 1122 3.2.1: a wrong IP checksum, lengths that lie, tunnels: not taken."""
    script.accepted()
    for ip in ({"csum": 1}, {"total": 0}, {"total": 30}, {"total": 2000}, {"version": 6}):
        script.put("PA", b"hello", seq=1, ip=ip)
    inner = capgen.packet(
        script.peer, script.here, script.peer_port, 80, seq=script.isn + 1,
        ack=(script.host_isn or 0) + 1, payload=b"hello",
    )  # fmt: skip
    for packet in (
        capgen.ipv4(inner, script.peer, script.here, proto=4),
        capgen.ipv4(capgen.gre(0x0800, inner), script.peer, script.here, proto=47),
    ):
        script.host.inject(packet)
    assert script.host.recv(script.sk, 100) == -11
    script.put("PA", b"hello", seq=1)
    assert script.host.recv(script.sk, 100) == b"hello"


@pytest.mark.parametrize("mtu", [68, 576, 1280, 1500, 9000, 65535])
@pytest.mark.parametrize("ip", [4, 6])
def test_mss_of_a_link(net_class: Any, mtu: int, ip: int) -> None:
    """9293:MUST-67, SHLD-5, MAY-3: the MSS fits the link, both headers counted; no less is told."""
    if ip == 6 and mtu < 1280:
        return
    host = Host(net_class)
    host.net.set_link(mtu, False)
    script = Script(host, ip)
    script.dial()
    fits = mtu - (40 if ip == 4 else 60)
    script.fresh(9000)
    script.dial()
    told = re.findall(r"mss (\d+)", " ".join(script.lines))
    assert told
    assert {int(value) for value in told} == {fits}


def test_identical_retransmission(script: Script) -> None:
    """9293:MAY-4: a retransmission has an IPv4 identifier of its own; it is atomic (RFC 6864)."""
    script.accepted()
    script.host.send(script.sk, b"x" * 100)
    script.host.wait(2 * SEC)
    sent = [packet for _, packet in script.host.drain()]
    assert len(sent) >= 2
    assert all(packet[6] & 0x40 for packet in sent)
    assert len({packet[20:36] + packet[40:] for packet in sent}) == 1


def test_soft_errors(script: Script) -> None:
    """9293:SHLD-9, SHLD-20, MUST-47: trouble is readable; IP_RECVERR says who wants to be told."""
    script.accepted(SACK)
    host = script.host
    script.send(10)
    script.wait(3)
    assert host.net.info(script.sk)["tcpi_retransmits"] >= 3
    script.icmp(3, 1, seq=1)
    assert host.poll(script.sk) & 8 == 0
    assert host.getsockopt(script.sk, SOL_SOCKET, SO_ERROR) == 113
    host.setsockopt(script.sk, SOL_IP, IP_RECVERR, 1)
    script.icmp(3, 1, seq=1)
    assert host.poll(script.sk) & 8
    assert host.send(script.sk, b"x") == -113
    assert script.state() == "ESTABLISHED"


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_congestion_control_is_chosen(script: Script, name: str) -> None:
    """9293:MAY-18; RFC 5681 3.1: whichever controls, slow start doubles and a time-out ends it."""
    net = script.host.net
    script.accepted(mss(1000) + NOP + wscale(7))
    assert net.set_congestion(script.sk, name) == 0
    assert net.congestion(script.sk) == name
    assert net.set_congestion(script.sk, "nothing") == -2
    script.send(60000)
    script.wait(0.05)
    before = net.info(script.sk)["tcpi_snd_cwnd"]
    script.put("A")
    assert net.info(script.sk)["tcpi_snd_cwnd"] == 2 * before
    script.wait(3)
    info = net.info(script.sk)
    assert info["tcpi_snd_cwnd"] == 1
    assert info["tcpi_snd_ssthresh"] >= before


def test_challenges_are_each_connections_own(net_class: Any) -> None:
    """T-05: probing one connection never changes what another answers."""

    def answers(probes: int) -> list[str]:
        script = Script(Host(net_class))
        script.listen()
        script.accepted(SACK, port=40000)
        for _ in range(probes):
            script.put("S", seq=50)
            script.wait(0.01)
        script.accepted(SACK, port=40001)
        for _ in range(5):
            script.put("R", seq=50)
            script.wait(0.6)
        return [line.split(maxsplit=1)[1] for line in script.lines]

    assert answers(0) == answers(200)
    assert len(answers(0)) == 5


def test_blind_resets(script: Script) -> None:
    """T-08: of guesses all over the window only the exact one resets."""
    script.accepted(SACK)
    for guess in range(2, 64000, 997):
        script.put("R", seq=guess)
    assert script.state() == "ESTABLISHED"
    script.put("R", seq=1)
    assert script.state() == "CLOSE"


def test_a_flood_of_syns(script: Script) -> None:
    """T-01; RFC 4987: requests are bounded, then cookies hold nothing; a peer still comes in."""
    script.listen(16)
    for i in range(200):
        script.fresh(20000 + i)
        script.put("S", opts=ALL)
    held = sum(
        script.host.state(script.here, 80, script.peer, 20000 + i) == "SYN_RECV" for i in range(200)
    )
    assert held <= 17
    script.fresh(30000)
    script.put("S", opts=ALL)
    assert script.state() == "CLOSE"
    script.put("PA", b"here I am")
    assert script.state() == "ESTABLISHED"
    sk = script.host.accept(script.listener)
    assert script.host.recv(sk, 100) == b"here I am"


def test_cookies_carry_options(net_class: Any) -> None:
    """T-01: window scale and SACK come back by the time stamp's echo; an old cookie is refused."""
    host = Host(net_class, {"tcp_syncookies": 2})
    script = Script(host)
    script.listen()
    script.ts = 9, 0
    script.put("S", opts=mss(1460) + SACK_PERM + timestamp(9, 0) + NOP + wscale(5), ts=False)
    script.put("A")
    info = host.net.info(host.accept(script.listener))
    assert info["tcpi_snd_wscale"] == 5
    assert info["tcpi_options"] & 7 == 7
    script.fresh(40001)
    script.ts = None
    script.put("S", opts=mss(1460))
    script.wait(180)
    script.put("A")
    assert script.state() == "CLOSE"


@pytest.mark.parametrize(("wait_s", "failed"), [(1, 1), (119, 1), (121, 0)])
def test_cookies_are_looked_at_while_one_can_be_out(
    net_class: Any, wait_s: int, failed: int
) -> None:
    """T-01: a listener that has sent none for two minutes answers ACKs without a hash."""
    host = Host(net_class, {"tcp_syncookies": 2})
    script = Script(host)
    script.listen()
    script.put("A", ack=7)
    script.put("S", opts=mss(1460))
    script.wait(wait_s)
    script.put("A", ack=7)
    assert host.net.counters()[COUNTERS.index("TcpExtSyncookiesFailed")] == failed


def test_nothing_is_amplified(script: Script) -> None:
    """T-27: what a spoofed segment can make the host send, retransmissions and all, is bounded."""
    script.listen()
    for flags, n in (("S", 0), ("A", 0), ("PA", 1000), ("FA", 0), ("", 100)):
        script.fresh(40000)
        script.host.drain()
        script.put(flags, n, ack=7 if "A" in flags else None)
        script.lines.clear()
        script.wait(300)
        out = script.lines
        assert len(out) <= (5 if flags == "S" else 0)


@pytest.mark.parametrize("pointer", [0, 1, 5, 6, 7, 100, 32768, 65535])
@pytest.mark.parametrize("at", [-3, 0, 3])
def test_urgent_pointers(script: Script, pointer: int, at: int) -> None:
    """T-12: any pointer on old, new and early data; every octet but the urgent one is read."""
    script.accepted()
    script.put("PA", b"abc")
    script.put("PAU", b"defghi", urg=pointer, seq=4 + at)
    if at > 0:
        script.put("PA", b"xyz", seq=4)
    stream = b""
    for _ in range(5):
        data = script.host.recv(script.sk, 100)
        if isinstance(data, bytes):
            stream += data
    urgent = script.host.recv(script.sk, 1, 1)
    whole = {-3: b"abcghi", 0: b"abcdefghi", 3: b"abcxyzdefghi"}[at]
    assert len(stream) in (len(whole), len(whole) - 1)
    if isinstance(urgent, bytes) and urgent:
        assert len(stream) == len(whole) - 1


def test_small_pieces_with_sack(script: Script) -> None:
    """T-03: the smallest MSS and blocks all over it: counts hold, everything arrives."""
    script.hold = True
    script.accepted(mss(48) + SACK_PERM)
    script.rcv = 1
    script.send(4000)
    script.wait(0.01)
    base = script.host_isn or 0
    for low in range(97, 400, 96):
        edges = struct.pack(">II", (base + low) & 0xFFFFFFFF, (base + low + 48) & 0xFFFFFFFF)
        script.put("A", ack=1, opts=NOP * 2 + b"\x05\x0a" + edges)
    script.hold = False
    info = script.host.net.info(script.sk)
    assert info["tcpi_sacked"] + info["tcpi_lost"] <= info["tcpi_unacked"]
    for _ in range(200):
        script.wait(0.3)
        script.put("A")
    assert script.rcv == 4001


def test_less_fits_the_path_but_segments_do(script: Script) -> None:
    """RFC 1191 6.3, 6.5: what is in flight in segments that fit is not sent again."""
    script.hold = True
    script.accepted(mss(536))
    script.send(5360)
    script.wait(0.0)
    script.lines.clear()
    script.icmp(3, 4, rest=1400, seq=1)
    assert script.lines == []
    script.icmp(3, 4, rest=560, seq=1)
    assert script.lines


def test_memory_is_given_back(net_class: Any) -> None:
    """T-26, T-31: after every script and a day nothing is left but what the caller holds."""
    for name in ("close_active", "close_passive", "close_simultaneous", "fin_wait2", "time_wait"):
        _, _, script = packets(net_class, every_script()[name])
        script.host.wait(86400 * SEC)
        for port in range(40000, 40004):
            assert script.host.state(HOST4, 80, PEER4, port) == "CLOSE", name


@pytest.mark.parametrize("seed", range(8))
def test_noise(net_class: Any, seed: int) -> None:
    """T-12, T-09: damaged, cut and random segments on an open connection: nothing breaks."""
    rng = random.Random(seed)
    script = Script(Host(net_class, SYSCTL), (4, 6)[seed & 1])
    script.accepted(ALL)
    for i in range(600):
        flags = "".join(letter for letter in "FSRPAUEC" if rng.random() < 0.3)
        if rng.random() < 0.97:
            flags = flags.replace("R", "")
        script.put(
            flags or "A",
            rng.randrange(0, 1500),
            seq=script.seq + rng.choice((0, 0, 0, -5000, 5000, 1 << 31, rng.randrange(1 << 32))),
            ack=rng.choice((script.rcv, script.rcv, rng.randrange(1 << 32))),
            win=rng.choice((0, 1, 500, 65535)),
            urg=rng.choice((0, 1, 1000, 65535)),
            opts=rng.randbytes(rng.choice((0, 0, 4, 12, 20))),
        )
        script.host.send(script.sk, bytes(rng.randrange(3000)))
        if i % 7 == 0:
            script.host.recv(script.sk, rng.randrange(1, 5000))
        script.wait(rng.choice((0, 0.001, 0.3, 5)))
        packet = bytearray(capgen.packet(script.peer, script.here, 40000, 80, payload=bytes(9)))
        for _ in range(rng.randrange(4)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        script.host.inject(bytes(packet[: rng.randrange(len(packet) + 1)]))
        script.icmp(*rng.choice(((3, 4), (3, 1), (2, 0), (1, 4))), rest=rng.randrange(1 << 16))
        script.lines.clear()
        info = script.host.net.info(script.sk)
        assert 0 <= info["tcpi_sacked"] + info["tcpi_lost"] <= info["tcpi_unacked"]
        assert info["tcpi_retrans"] <= info["tcpi_unacked"]
