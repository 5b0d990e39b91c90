"""What peers, packets and callers do to hosts to harm them, and the bounds that hold.

docs/hostile.md says what tcpcore does about each; tests/fuzz looks for what nobody thought of.
"""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from types import ModuleType
from typing import Any

import capgen
import pytest
from capgen import SYN, mss, timestamp
from script import HOST4, PEER4, SEC, Host, Script, net_of
from scripts import ALL, SACK
from test_endpoint_scripts import SYSCTL

import tcpcore
from tcpcore.mib import COUNTERS

MS = 1_000_000
FLAGS = ("S", "SA", "R", "RA", "A", "PA", "FA", "FPA")


@pytest.fixture
def net_class(engine: ModuleType) -> Any:
    return net_of(engine)


@pytest.fixture
def script(net_class: Any) -> Script:
    return Script(Host(net_class, SYSCTL))


def counted(script: Script, name: str) -> int:
    return int(script.host.net.counters()[COUNTERS.index(name)])


def fast(net_class: Any) -> bool:
    """True for the compiled engine, which may be asked for more."""
    return "reference" not in net_class.__module__


class Pair:
    """Two hosts, 5 ms apart, the second of which serves at port 80."""

    def __init__(self, net_class: Any, start_ns: int = 1000 * SEC) -> None:
        self.hosts = [net_class(bytes([i]) * 16) for i in range(2)]
        self.now_ns = start_ns
        for host, text in zip(self.hosts, (PEER4, HOST4), strict=True):
            host.add_address(capgen.address16(text), 120)
            host.advance(start_ns)
        self.server = self.hosts[1].socket(4)
        self.hosts[1].bind(self.server, capgen.address16("0.0.0.0"), 80)
        self.hosts[1].listen(self.server, 16)
        self.seen: list[bytes] = []

    def open(self, port: int = 0) -> tuple[int, int]:
        """A connection: handles of both ends."""
        a, b = self.hosts
        one = a.socket(4)
        if port:
            a.bind(one, capgen.address16("0.0.0.0"), port)
        assert a.connect(one, 2, capgen.address16(HOST4), 80) == 0
        for _ in range(3):
            self.turn()
        return one, b.accept(self.server)

    def turn(self) -> None:
        """What both have sent arrives, 5 ms later; what is for nobody here is lost."""
        sent = [host.transmit()[0] for host in self.hosts]
        self.now_ns += 5 * MS
        for host, frames, text in zip(self.hosts, sent[::-1], (PEER4, HOST4), strict=True):
            host.advance(self.now_ns)
            address = capgen.address(text)
            for frame in frames:
                self.seen = [frame]
                if frame[16:20] == address:
                    host.receive(frame, self.now_ns)

    def transfer(self, one: int, other: int, data: bytes) -> int:
        """Send and read all of it; in how many turns."""
        got, at, turns = bytearray(), 0, 0
        while len(got) < len(data):
            at += max(self.hosts[0].sendmsg(one, data[at : at + 65536]), 0)
            self.turn()
            got += self.hosts[1].recvmsg(other, 1 << 20)[1]
            turns += 1
            assert turns < 5000
        assert got == data
        return turns

    def end(self) -> None:
        """Two minutes and more pass, and nothing is held any more."""
        for _ in range(200):
            self.turn()
            self.now_ns += SEC
        for host in self.hosts:
            assert not any(host.sockstat().values()), host.sockstat()
            assert host.next_deadline() == -1
            assert host.counters()[COUNTERS.index("TcpCurrEstab")] == 0


# T-01, T-02: floods.


def flood(first: int, count: int) -> list[bytes]:
    """SYNs from addresses all over; every sum is the same, so that one checksum fits all."""
    syn = capgen.packet("11.0.244.255", HOST4, 0, 80, seq=0xFFFF, flags=SYN, options=ALL)
    begin, middle, end = syn[:12], syn[16:20], syn[28:]
    out = []
    for at in range(first, first + count):
        high, port = 0x0B00 + at % 40_000, at // 40_000 * 7919 % 60_000
        address = high << 16 | 0xFFFF - high
        ports = port << 48 | 80 << 32 | 0xFFFF - port
        out.append(begin + address.to_bytes(4, "big") + middle + ports.to_bytes(8, "big") + end)
    return out


def test_a_million_syns_beside_a_transfer(net_class: Any) -> None:
    """T-01: they hold no more than the backlog, and the transfer takes the turns that it takes."""
    many, size = (1_000_000, 1_500_000) if fast(net_class) else (3000, 150_000)
    quiet = Pair(net_class)
    data = bytes(size)
    turns = quiet.transfer(*quiet.open(), data)
    pair = Pair(net_class)
    ends = pair.open()
    share = many // turns + 1
    turn, sent = pair.turn, 0

    def flooded() -> None:
        nonlocal sent
        for low in range(0, share, 20_000):  # no more frames at a time than may wait to leave
            for syn in flood(sent, min(20_000, share - low)):
                assert pair.hosts[1].receive(syn, pair.now_ns) == 0
                sent += 1
            held = pair.hosts[1].sockstat()
            assert held["requests"] <= 17
            assert held["inuse"] <= 18
        turn()

    pair.turn = flooded  # type: ignore[method-assign]
    assert pair.transfer(*ends, data) == turns
    assert sent >= many
    assert pair.hosts[1].counters()[COUNTERS.index("TcpExtSyncookiesSent")] >= many - 50


def test_tuples_chosen_to_collide(net_class: Any) -> None:
    """T-02: 4-tuples whose sums and exclusive ors are all the same are found by a keyed hash;
    nothing that a stranger can compute tells which ones meet."""
    script = Script(Host(net_class, {"tcp_syncookies": 0, "tcp_max_syn_backlog": 1 << 20}))
    script.listen(100_000)
    script.host.net.set_sysctl("somaxconn", 1 << 20)
    many = 20_000 if fast(net_class) else 500
    for syn in flood(0, many):
        script.host.inject(syn)
    assert script.host.net.sockstat()["requests"] <= 4097
    found = script.host.net.state_of(
        capgen.address16(HOST4), 80, capgen.address16("11.1.244.254"), 0
    )
    assert found == 3


# T-04, T-05, T-08 to T-11: what guesses and lies of a peer do.


@pytest.mark.parametrize("size", [0, 1, 8, 48])
def test_tiny_segments(script: Script, size: int) -> None:
    """T-04: an MSS below tcp_min_snd_mss is not believed: no segment holds less than 8 octets."""
    script.accepted(mss(size) + SACK)
    script.host.send(script.sk, bytes(3000))
    for _ in range(400):
        for _, packet in script.host.drain():
            payload = len(packet) - 20 - (packet[32] >> 4) * 4
            script.rcv += payload
            assert payload >= 8 or script.rcv == 3001
        script.put("A")
        script.lines.clear()
        script.host.wait(50 * MS)
        if script.rcv >= 3001:
            break
    assert script.rcv == 3001


def test_challenge_acks_are_few(script: Script) -> None:
    """T-05: each connection answers one probe in half a second, whatever others do."""
    for port in (40000, 40001):
        script.accepted(SACK, port=port)
    for i in range(200):
        for port in (40000, 40001):
            script.port, script.peer_port = 80, port
            script.put("S", seq=50 + i)
        script.wait(0.01)
    assert 2 * 4 <= len(script.lines) <= 2 * 5
    assert all(line.split()[1] == "A" for line in script.lines)


@pytest.mark.parametrize("seed", range(4))
def test_guessed_segments(script: Script, seed: int) -> None:
    """T-08: of 2**11 guesses of resets, SYNs and data none does harm that is not exact."""
    rng = random.Random(seed)
    script.accepted(SACK)
    script.send(5000)
    for _ in range(2048):
        place = rng.choice((rng.randrange(1 << 32), rng.randrange(2, 64000)))
        flags = rng.choice(("S", "R", "RA", "PA", "FA"))
        lie = rng.randrange(1 << 20, (1 << 32) - (1 << 20))
        script.put(flags, 0 if "R" in flags else 10, seq=place, ack=lie if "A" in flags else None)
        script.lines.clear()
    assert script.state() == "ESTABLISHED"
    script.put("PA", b"true")
    assert script.host.recv(script.sk, 100) == b"true"
    script.put("R", seq=script.seq)
    assert script.state() == "CLOSE"


def test_acks_in_pieces(net_class: Any) -> None:
    """T-09: an octet acknowledged at a time opens the window no more than all at once does; what
    was not sent is not acknowledged by anybody."""

    def window(step: int) -> int:
        script = Script(Host(net_class, SYSCTL))
        script.hold = True
        script.accepted(mss(1000))
        script.rcv = 1
        script.send(60_000)
        script.lines.clear()
        for acked in range(1 + step, 5002, step):
            script.put("A", ack=acked)
        return int(script.host.net.info(script.sk)["tcpi_snd_cwnd"])

    assert window(1) <= window(1000) <= window(5000) <= 20
    script = Script(Host(net_class, SYSCTL))
    script.accepted(mss(1000))
    script.hold = True
    script.send(3000)
    before = script.host.net.info(script.sk)["tcpi_snd_cwnd"]
    for ahead in (3002, 4000, 10_000, 100_000):
        script.put("A", ack=ahead)
    assert script.host.net.info(script.sk)["tcpi_snd_cwnd"] == before
    assert script.host.net.info(script.sk)["tcpi_unacked"] == 3


def spread(numbers: list[int], bits: int = 6) -> bool:
    """True if the upper bits of 32-bit numbers are as chance has them (a chance below 1e-6)."""
    buckets = [0] * (1 << bits)
    for number in numbers:
        buckets[number >> (32 - bits)] += 1
    expected = len(numbers) / len(buckets)
    chi2 = sum((count - expected) ** 2 / expected for count in buckets)
    return 20 < chi2 < 140  # 63 degrees of freedom


def steps(numbers: list[int]) -> list[int]:
    return [(b - a) & 0xFFFFFFFF for a, b in pairwise(numbers)]


def firsts(net_class: Any, count: int) -> tuple[list[int], list[int], list[int]]:
    """Of connections to `count` peers: initial numbers, local ports, time stamps."""
    host = net_class(b"0123456789abcdef")
    host.add_address(capgen.address16(HOST4), 120)
    host.advance(1000 * SEC)
    numbers, ports, stamps = [], [], []
    for i in range(count):
        handle = host.socket(4)
        host.connect(handle, 2, capgen.address16(f"10.77.{i >> 8 & 255}.{i & 255 | 1}"), 1 + i)
        ((syn,), _) = host.transmit()
        sport, _, number = struct.unpack_from(">HHI", syn, 20)
        numbers.append(number)
        ports.append(sport)
        stamps.append(struct.unpack_from(">I", syn, 48)[0])
        host.close(handle)
    return numbers, ports, stamps


def test_initial_numbers_tell_nothing(net_class: Any) -> None:
    """T-10: of 60,000 at one time neither the numbers nor their steps have a pattern."""
    numbers, _, _ = firsts(net_class, 60_000 if fast(net_class) else 2000)
    assert spread(numbers)
    assert spread(steps(numbers))
    assert spread(steps(steps(numbers)))
    assert len(set(numbers)) > len(numbers) * 0.99


def test_ports_and_stamps_tell_nothing(net_class: Any) -> None:
    """T-11: to each peer another port and another stamp, without a pattern."""
    _, ports, stamps = firsts(net_class, 20_000 if fast(net_class) else 2000)
    assert spread(stamps)
    assert spread(steps(stamps))
    places = [(port - 32768) * (1 << 32) // (61000 - 32768) for port in ports]
    assert spread(places)
    assert all(32768 <= port < 61000 for port in ports)


# T-12: urgent data in every state.


def begin(script: Script, state: str) -> None:
    """Bring a connection to a state."""
    if state == "SYN_RECV":
        script.listen()
        script.fresh(40000)
        script.put("S", opts=SACK)
        return
    script.accepted(SACK)
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        script.put("FA")
    if state in ("FIN_WAIT1", "FIN_WAIT2", "CLOSING", "TIME_WAIT", "LAST_ACK"):
        script.hold = state != "FIN_WAIT2"
        script.shutdown()
    if state == "FIN_WAIT2":
        script.put("A")
    if state in ("CLOSING", "TIME_WAIT"):
        script.put("FA", ack=1)
    if state == "TIME_WAIT":
        script.put("A", ack=2)
    assert script.state() == state


STATES = "SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE_WAIT CLOSING LAST_ACK TIME_WAIT"


@pytest.mark.parametrize("state", STATES.split())
def test_urgent_in_every_state(net_class: Any, state: str) -> None:
    """T-12: any pointer, with and without data, FIN, SYN and holes: no length is below zero."""
    for urgent in (0, 1, 2, 9, 10, 11, 32767, 32768, 65535):
        for flags in ("AU", "PAU", "FAU", "SAU", "U"):
            for ahead in (-5, 0, 5):
                script = Script(Host(net_class, SYSCTL))
                begin(script, state)
                script.put(flags, 10, seq=script.seq + ahead, urg=urgent)
                script.put("PA", 5)
                sk = script.sk
                if sk < 0:
                    sk = script.host.accept(script.listener)
                if sk > 0 and state not in ("TIME_WAIT", "SYN_RECV"):
                    total = b""
                    for _ in range(4):
                        data = script.host.recv(sk, 100)
                        total += data if isinstance(data, bytes) else b""
                    script.host.recv(sk, 1, 1)
                    script.host.recv(sk, 1, 1)
                    assert len(total) <= 15
                    assert script.host.net.sockstat()["mem"] < 10_000


# T-26: who holds on without reading.


def test_orphans_before_shut_windows(net_class: Any) -> None:
    """T-26: closed connections whose peers shut their windows: tcp_max_orphans at a time, each
    with its send buffer, and all end though every probe is answered."""
    script = Script(Host(net_class, {"tcp_max_orphans": 8}))
    script.listen(64)
    for port in range(40000, 40032):
        script.accepted(mss(1000), port=port)
        script.put("A", win=0)
        script.send(16_000)
        script.close()
        held = script.host.net.sockstat()
        assert held["orphan"] <= 8
        assert held["mem"] <= 9 * 100_000
    assert counted(script, "TcpExtTCPAbortOnMemory") == 24
    for _ in range(300):
        script.wait(10)
        for port in range(40000, 40032):
            script.peer_port = port
            script.put("A", win=0, ack=1, seq=1)
        script.lines.clear()
    held = script.host.net.sockstat()
    assert (held["orphan"], held["mem"]) == (0, 0)


def test_windows_that_stay_shut(script: Script) -> None:
    """T-26: TCP_USER_TIMEOUT ends a connection whose peer answers every probe with no window."""
    script.accepted(mss(1000))
    script.set(6, 18, 30_000)
    script.put("A", win=0)
    script.send(5000)
    for _ in range(120):
        script.wait(1)
        script.put("A", win=0)
        script.lines.clear()
    assert script.state() == "CLOSE"
    assert script.host.net.sockstat()["mem"] == 0


def test_who_never_reads(net_class: Any) -> None:
    """T-26: what waits to be read is bounded by SO_RCVBUF, whatever the sizes of segments."""
    for size in (1, 7, 100, 1460):
        script = Script(Host(net_class, {"tcp_rmem": (4096, 65536, 65536)}))
        script.accepted(SACK)
        for i in range(1000 if fast(net_class) else 400):
            script.put("PA", size, seq=1 + i * size * (2 if i & 1 else 1))
            if not i % 50:
                assert script.host.net.sockstat()["mem"] <= 65536 + 5000
        script.lines.clear()


# T-27: reflection.


def test_bytes_out_for_bytes_in(net_class: Any) -> None:
    """T-27: to who was never heard twice a host sends 7 octets for each it got, at most: a
    SYN-ACK and five more, or one reset."""
    for flags in ("S", "A", "PA", "FA", "SA", "R", "", "SF", "FPU"):
        for opts in (b"", mss(1460), ALL + timestamp(1, 0)):
            script = Script(Host(net_class, SYSCTL))
            script.listen()
            script.fresh(40000)
            script.ts = None
            packet = capgen.packet(
                PEER4, HOST4, 40000, 80, flags=sum(FLAG[letter] for letter in flags),
                seq=7, ack=9, options=opts,
            )  # fmt: skip
            script.host.inject(packet)
            script.host.wait(1000 * SEC)
            out = [frame for _, frame in script.host.drain()]
            assert sum(map(len, out)) <= 7 * len(packet)
            assert len(out) <= (6 if flags == "S" else 1)


FLAG = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32}


# T-28: old duplicates.


def test_time_wait_is_not_ended(net_class: Any) -> None:
    """T-28; RFC 1337: with tcp_rfc1337 nothing of old ends TIME-WAIT, nor is it let in anew."""
    script = Script(Host(net_class, {**SYSCTL, "tcp_rfc1337": 1}))
    begin(script, "TIME_WAIT")
    seq = script.seq
    for flags in FLAGS:
        for place in (seq - 2000, seq - 1, seq, seq + 1):
            if flags == "S" and place > seq:
                continue  # that is a new connection
            script.put(flags, 10 if "P" in flags else 0, seq=place)
            assert script.state() == "TIME_WAIT", (flags, place)


def test_old_duplicates(script: Script) -> None:
    """T-28; RFC 7323 5: a segment of 2**32 octets ago has an old stamp, and is no data."""
    script.ts = 100_000, 0
    script.accepted(ALL + timestamp(100_000, 0))
    script.ts = 200_000, script.ts[1]
    script.put("PA", b"first")
    script.ts = 150_000, script.ts[1]
    script.put("PA", b"stale")
    assert script.host.recv(script.sk, 100) == b"first"
    assert counted(script, "TcpExtPAWSEstab") == 1


# T-29: numbers that wrap.


@pytest.mark.parametrize("before", [1, 1000, 60_000])
def test_transfers_across_the_wrap(net_class: Any, before: int) -> None:
    """T-29: initial numbers of either side just below 2**32 and 2**31, stamps that wrap."""
    data = random.Random(before).randbytes(200_000)
    pair = Pair(net_class)
    pair.open(5000)
    acks = struct.unpack_from(">II", pair.seen[0], 24)
    stamp = struct.unpack_from(">I", pair.seen[0], 44)[0]
    starts = [
        1000 * SEC + 64 * ((edge - before - number) & 0xFFFFFFFF)
        for number in acks
        for edge in (1 << 32, 1 << 31)
    ]
    starts.append(1000 * SEC + MS * (((1 << 32) - 50 - stamp) & 0xFFFFFFFF))
    for start in starts:
        pair = Pair(net_class, start)
        ends = pair.open(5000)
        pair.transfer(*ends, data)
        pair.hosts[0].close(ends[0])
        pair.turn()
        pair.hosts[1].close(ends[1])
        pair.hosts[1].close(pair.server)
        pair.end()


# T-31: calls from within calls.


def test_calls_from_a_link(engine: ModuleType) -> None:
    """T-31: a link that is handed a frame may call the host: close who sends it, open, run."""
    sent: list[bytes] = []
    sockets: list[tcpcore.Socket] = []

    def send(frame: bytes) -> None:
        sent.append(frame)
        if sockets:
            sockets.pop().close()
        if len(sent) < 20:
            one = stack.socket()
            one.setblocking(False)
            sockets.append(one)
            assert one.connect_ex((PEER4, 80)) == 115
        stack.run()

    link = tcpcore.CallableLink(send)
    with tcpcore.Stack(
        HOST4, link=link, clock=tcpcore.VirtualClock(), engine=engine.ENGINE
    ) as stack:
        with stack.socket() as first:
            first.setblocking(False)
            assert first.connect_ex((PEER4, 80)) == 115
        assert len(sent) == 20
        assert len({struct.unpack_from(">H", frame, 20) for frame in sent}) == 20
        assert stack.counters["frames_sent"] == 20


# Ends.


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_left(net_class: Any, seed: int) -> None:
    """T-26: connections of any end, through loss: all that is held is as at the beginning."""
    rng = random.Random(seed)
    pair = Pair(net_class)
    turn = pair.turn
    ends = [pair.open() for _ in range(6)]

    def lossy() -> None:
        for host in pair.hosts:
            frames = [frame for frame in host.transmit()[0] if rng.random() > 0.2]
            rng.shuffle(frames)
            other = pair.hosts[1 - pair.hosts.index(host)]
            for frame in frames:
                other.receive(frame, pair.now_ns)
        turn()

    for _ in range(120):
        side = rng.randrange(2)
        handle, host = rng.choice(ends)[side], pair.hosts[side]
        if handle > 0:
            host.sendmsg(handle, bytes(rng.choice((1, 2000, 50_000))))
            if rng.random() < 0.5:
                host.recvmsg(handle, 1 << 20)
            if rng.random() < 0.05:
                host.shutdown(handle, rng.randrange(3))
        lossy()
    for one, other in ends:
        for host, handle in zip(pair.hosts, (one, other), strict=True):
            if handle > 0:
                if rng.random() < 0.3:
                    host.set_linger(handle, True, 0)
                host.close(handle)
    pair.hosts[1].close(pair.server)
    pair.now_ns += 2000 * SEC
    pair.end()
