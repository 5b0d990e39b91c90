"""Both engines as endpoints, side by side: the same calls, the same frames byte for byte.

Two hosts exchange seeded random traffic in virtual time; what either engine answers, sends, counts
and when it wants to be called again is held against the other after every event.
"""

from __future__ import annotations

import heapq
import random

import pytest
import script
import test_endpoint
from lockstep import Nets
from scripts import every_script
from test_endpoint_scripts import SYSCTL

from tcpcore.engine import ENGINE
from tcpcore.link import mark_ce
from tcpcore.mib import COUNTERS
from tcpcore.reference.core_net import Net as ReferenceNet

compiled = pytest.importorskip("tcpcore._core") if ENGINE == "compiled" else None
pytestmark = pytest.mark.skipif(compiled is None, reason="needs the compiled engine")

MS, SEC = 1_000_000, 1_000_000_000
V4 = bytes(10) + b"\xff\xff"
ADDR = {
    4: (V4 + bytes((10, 0, 0, 1)), V4 + bytes((10, 0, 0, 2))),
    6: (bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")),
}
ANY = {4: V4 + bytes(4), 6: bytes(16)}


class Host(Nets):
    """One host in both engines."""

    def __init__(self, key: bytes) -> None:
        super().__init__((ReferenceNet, compiled.Net), key)
        self.listeners: list[int] = []


def checksum(data: bytes) -> bytes:
    """The Internet checksum of some bytes."""
    total = int.from_bytes(data + bytes(len(data) & 1), "big") % 0xFFFF
    return (0xFFFF - total).to_bytes(2, "big")


def icmp(frame: bytes, rng: random.Random) -> bytes:
    """An error about a connection of who is to get a frame; numbers may be those of its ACK."""
    four = frame[0] >> 4 == 4
    size, at = (4, 12) if four else (16, 8)
    th = 20 if four else 40
    theirs, ours = frame[at : at + size], frame[at + size : at + 2 * size]
    number = int.from_bytes(frame[th + 8 : th + 12], "big") + rng.choice((0, 0, 1, -1, 99999))
    said = bytearray(frame[:th])
    said[at : at + 2 * size] = ours + theirs
    said += frame[th + 2 : th + 4] + frame[th : th + 2] + (number & 0xFFFFFFFF).to_bytes(4, "big")
    kind, code = (
        rng.choice((3, 3, 11, 12, 4, 1, 1, 2)),
        rng.choice((0, 1, 3, 4, 4, 5, 6, 7, 15, 16)),
    )
    if rng.random() < 0.5:
        kind, code = (3, 4) if four else (2, 0)
    mtu = rng.choice((0, 500, 600, 1000, 1280, 1400, 65535))
    message = bytes((kind, code, 0, 0)) + mtu.to_bytes(4, "big") + said
    if rng.random() < 0.05:
        message = message[: rng.randrange(8, len(message))]
    if not four:
        pseudo = theirs + ours + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58))
        message = message[:2] + checksum(pseudo + message) + message[4:]
        return (
            frame[:4] + len(message).to_bytes(2, "big") + bytes((58, 64)) + theirs + ours + message
        )
    message = message[:2] + checksum(message) + message[4:]
    head = bytes((0x45, 0)) + (20 + len(message)).to_bytes(2, "big") + bytes((0, 0, 0, 0, 64, 1))
    head = head + checksum(head + theirs + ours) + theirs + ours
    return head + message


class World:
    """Two hosts and a link that loses, delays, doubles and damages by a seed."""

    def __init__(self, seed: int, **link: float) -> None:
        self.random = random.Random(seed)
        self.hosts = (Host(b"a" * 16), Host(b"b" * 16))
        for i, host in enumerate(self.hosts):
            for ip in (4, 6):
                host.add_address(ADDR[ip][i], 120)
        self.now = 0
        self.flying: list[tuple[int, int, int, bytes]] = []
        self.n = 0
        self.delay_ns = int(link.get("delay_ms", 10) * MS)
        self.link = link

    def pump(self) -> None:
        for i, host in enumerate(self.hosts):
            for frame in host.transmit()[0]:
                if self.random.random() < self.link.get("loss", 0):
                    continue
                copies = 2 if self.random.random() < self.link.get("double", 0) else 1
                if self.random.random() < self.link.get("damage", 0):
                    at = self.random.randrange(len(frame))
                    bit = 1 << self.random.randrange(8)
                    frame = frame[:at] + bytes([frame[at] ^ bit]) + frame[at + 1 :]
                if self.random.random() < self.link.get("marked", 0):
                    frame = mark_ce(frame, 0)
                if self.random.random() < self.link.get("forged", 0):
                    self.hosts[1 - i].receive(self.forge(frame), self.now)
                for _ in range(copies):
                    late = 0
                    if self.random.random() < self.link.get("reorder", 0):
                        late = self.random.randrange(3 * self.delay_ns)
                    self.n += 1
                    when = self.now + self.delay_ns + late
                    heapq.heappush(self.flying, (when, self.n, 1 - i, frame))

    def forge(self, frame: bytes) -> bytes:
        """What somebody sends who knows a connection: other flags, numbers nearby, or a rest."""
        rng = self.random
        if rng.random() < 0.2:
            return frame[: rng.randrange(len(frame))]
        if rng.random() < 0.2:
            return icmp(frame, rng)
        th = 4 * (frame[0] & 15) if frame[0] >> 4 == 4 else 40
        if len(frame) < th + 20:
            return frame
        out = bytearray(frame)
        if rng.random() < 0.7:
            out[th + 13] = rng.choice((0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x18, 0x30, 0))
        if rng.random() < 0.3:  # ECN
            out[th + 13] ^= rng.choice((0x40, 0x80, 0xC0))
            out[th + 12] ^= rng.random() < 0.2
            out[1] ^= rng.randrange(4) << 4 if th == 40 else 0
        for at in (th + 4, th + 8):
            number = int.from_bytes(out[at : at + 4], "big")
            number += rng.choice((0, 0, 0, -1, 1, rng.randrange(-70000, 70000)))
            out[at : at + 4] = (number & 0xFFFFFFFF).to_bytes(4, "big")
        if rng.random() < 0.2:
            out[th + 14 : th + 16] = rng.choice((0, 1, 100, 65535)).to_bytes(2, "big")
        if rng.random() < 0.2:
            out[th + 13] |= 0x20
            out[th + 18 : th + 20] = rng.choice((0, 1, 2, 500, 65535)).to_bytes(2, "big")
        stamp = th + 24  # of a segment of an open connection, behind two NOPs
        if rng.random() < 0.5 and out[th + 12] >> 4 >= 8 and out[stamp - 2 : stamp] == b"\x08\x0a":
            value = int.from_bytes(out[stamp : stamp + 4], "big")
            value += rng.choice((-1, -2, -100, -5000, -(1 << 30), 1 << 30))
            out[stamp : stamp + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")
        out[th + 16 : th + 18] = bytes(2)
        addrs = out[12:20] if th == 20 else out[8:40]
        pseudo = addrs + (len(out) - th).to_bytes(4, "big") + bytes((0, 0, 0, 6))
        out[th + 16 : th + 18] = checksum(bytes(pseudo + out[th:]))
        if th == 20 and rng.random() < 0.1:
            out[20:20] = rng.choice((b"\x83\3\4\0", b"\1\x89\3\4", b"\1\1\1\0", b"\x07\0\0\0"))
            out[0] = 0x46
            out[2:4] = len(out).to_bytes(2, "big")
            out[10:12] = bytes(2)
            out[10:12] = checksum(bytes(out[:24]))
        return bytes(out)

    def run(self, until: int) -> None:
        """Deliver and fire until a time, and compare what both engines say of themselves."""
        while True:
            self.pump()
            due = [d for d in (host.next_deadline() for host in self.hosts) if d >= 0]
            due += [self.flying[0][0]] if self.flying else []
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            while self.flying and self.flying[0][0] <= self.now:
                _, _, to, frame = heapq.heappop(self.flying)
                self.hosts[to].receive(frame, self.now)
            for host in self.hosts:
                host.advance(self.now)
        self.now = max(self.now, until)
        for host in self.hosts:
            host.advance(self.now)
            host.counters()
            host.wakes()
        self.pump()


OPTIONS = [
    (1, 7, (2000, 10000, 100000)),
    (1, 8, (2000, 10000, 300000)),
    (1, 9, (0, 1)),
    (1, 10, (0, 1)),
    (1, 18, (1, 500)),
    (6, 1, (0, 1)),
    (6, 2, (0, 100, 536, 1400)),
    (6, 3, (0, 1)),
    (6, 4, (1, 5, 40)),
    (6, 5, (1, 3)),
    (6, 6, (1, 3)),
    (6, 8, (-1, 0, 1, 70)),
    (6, 9, (0, 3)),
    (6, 10, (0, 3000)),
    (6, 12, (0, 1, 2)),
    (6, 18, (0, 500, 5000)),
    (6, 44, (999, 1000, 5000)),
    (6, 45, (5000, 50000)),
    (0, 1, (0, 16)),
    (0, 2, (-1, 12)),
    (41, 67, (0, 8)),
    (41, 26, (0, 1)),
    (0, 11, (0, 1)),
    (41, 25, (0, 1)),
    (1, 29, (0, 1)),
    (1, 35, (0, 1)),
    (1, 37, (0, 0x10, 0x312, 0x392, 0xB92, 0x10B92, 0x10000, 0x1B92)),
    (1, 60, (0, 1, 1, 2)),
    (1, 32, (-1, 5000, 1 << 30)),
    (1, 33, (-1, 5000, 1 << 30)),
    (1, 42, (-1, 0, 0, 5, 1 << 30)),
    (6, 46, (4000, 9000, 60000)),
]
READ_FLAGS = [0, 0, 0, 0, 0, 2, 1, 0x20, 0x102, 0x22]
FLAGS = [0, 0, 0, 0x8000, 0x80, 0x1, 0x4000000, 0x4000000, 0x4000080, 0x4000100]


def act(world: World) -> None:
    """One thing that a program does."""
    rng = world.random
    side = rng.randrange(2)
    host = world.hosts[side]
    what = rng.randrange(100)
    if what < 8 and len(host.open) < 12:
        ip = rng.choice((4, 4, 6))
        handle = host.socket(ip)
        host.open.append(handle)
        for _ in range(rng.randrange(3)):
            level, name, values = rng.choice(OPTIONS)
            host.setsockopt(handle, level, name, rng.choice(values))
        if rng.random() < 0.2:
            host.bind(handle, ANY[ip], rng.choice((0, 5000, 5001)))
        if rng.random() < 0.2:
            host.set_congestion(handle, "reno")
        port = rng.choice((80, 80, 80, 81))
        host.connect(handle, 2 if ip == 4 else 10, ADDR[ip][1 - side], port)
        return
    if what < 16:
        for listener in list(host.listeners):
            child = host.accept(listener)
            if child > 0:
                host.open.append(child)
        return
    if what < 18:
        if host.listeners and rng.random() < 0.5:
            host.close(host.listeners.pop(rng.randrange(len(host.listeners))))
        else:
            listen(world, side)
        return
    if not host.open:
        return
    handle = rng.choice(host.open)
    if what < 50:
        size = rng.choice((1, 10, 100, 1000, 5000, 40000, 100000))
        stamps = rng.choice((-1, -1, -1, 0, 0x302, 0x1000))
        stride = rng.choice((0, 0, 0, 1000))
        host.sendmsg(handle, rng.randbytes(size), rng.choice(FLAGS), stamps, stride)
    elif what < 80:
        host.recvmsg(handle, rng.choice((1, 100, 5000, 1 << 20)), rng.choice(READ_FLAGS))
        host.rx_stamp(handle)
        host.inq(handle)
        for _ in range(rng.randrange(4)):
            host.recv_error(handle)
    elif what < 84:
        level, name, values = rng.choice(OPTIONS)
        host.setsockopt(handle, level, name, rng.choice(values))
    elif what < 87:
        host.shutdown(handle, rng.randrange(3))
    elif what < 90:
        host.open.remove(handle)
        host.close(handle)
    elif what < 91:
        host.abort(handle)
    elif what < 92:
        host.set_linger(handle, True, rng.choice((0, 5)))
    else:
        host.info(handle)
        host.poll(handle)
        host.error_reports(handle)
        host.sockname(handle)
        host.peername(handle)
        for level, name, _ in OPTIONS:
            host.getsockopt(handle, level, name)
        host.getsockopt(handle, 1, 4)
        host.meminfo(handle)
        for request in (0x541B, 0x5411, 0x8905, 0x894B):
            host.ioctl(handle, request)


def listen(world: World, side: int) -> None:
    rng = world.random
    host = world.hosts[side]
    ip = rng.choice((4, 6, 6))
    handle = host.socket(ip)
    if rng.random() < 0.3:
        level, name, values = rng.choice(OPTIONS)
        host.setsockopt(handle, level, name, rng.choice(values))
    host.bind(handle, ANY[ip], rng.choice((80, 81)))
    host.listen(handle, rng.choice((0, 1, 5, 100)))
    host.listeners.append(handle)


LINKS = [
    {},
    {"loss": 0.02},
    {"loss": 0.2},
    {"reorder": 0.1},
    {"loss": 0.05, "reorder": 0.1, "double": 0.05},
    {"loss": 0.02, "damage": 0.02, "reorder": 0.05},
    {"delay_ms": 0.05},
    {"delay_ms": 300, "loss": 0.05},
    {"forged": 0.1, "loss": 0.02},
    {"forged": 0.05, "reorder": 0.1},
    {"marked": 0.1, "loss": 0.01},
    {"marked": 0.3, "forged": 0.05, "reorder": 0.1},
]
KNOBS = [
    ("tcp_timestamps", 0),
    ("tcp_sack", 0),
    ("tcp_window_scaling", 0),
    ("tcp_syncookies", 0),
    ("tcp_syncookies", 2),
    ("tcp_abort_on_overflow", 1),
    ("tcp_congestion_control", "reno"),
    ("tcp_tw_reuse", 1),
    ("tcp_max_tw_buckets", 2),
    ("tcp_rfc1337", 1),
    ("tcp_slow_start_after_idle", 0),
    ("tcp_retries2", 4),
    ("tcp_max_orphans", 1),
    ("tcp_stdurg", 1),
    ("tcp_comp_sack_delay_ns", 50 * MS),
    ("tcp_comp_sack_nr", 2),
    ("ip_local_port_range", (40000, 40003)),
    ("tcp_rmem", (4096, 20000, 60000)),
    ("tcp_ecn", 0),
    ("tcp_ecn", 1),
    ("tcp_ecn", 1),
    ("tcp_ecn_fallback", 0),
]


@pytest.mark.parametrize("seed", range(30))
def test_both_engines_are_one_host(seed: int) -> None:
    world = World(seed, **LINKS[seed % len(LINKS)])
    rng = world.random
    for host in world.hosts:
        for name, value in rng.sample(KNOBS, rng.randrange(4)):
            host.set_sysctl(name, value)
    for host in world.hosts:
        if rng.random() < 0.3:
            metrics = {"mtu": 900, "advmss": 800, "initcwnd": 3, "initrwnd": 5, "rto_min": 40}
            some = dict(rng.sample(sorted(metrics.items()), 2))
            host.set_route(**some, quickack=rng.random() < 0.5, ecn=rng.random() < 0.5)
    listen(world, 0)
    listen(world, 1)
    for _ in range(600):
        act(world)
        pause = rng.choice((0, 0, MS // 10, 5 * MS, 30 * MS, 300 * MS, 3 * SEC))
        world.run(world.now + pause)
        if rng.random() < 0.01:
            host = rng.choice(world.hosts)
            host.set_qdisc(True)
            act(world)
            world.run(world.now + rng.choice((0, MS, 300 * MS)))
            host.set_qdisc(False)
        if rng.random() < 0.005:
            world.run(world.now + 200 * SEC)
    for host in world.hosts:
        for handle in host.open + host.listeners:
            host.close(handle)
    world.run(world.now + 2000 * SEC)
    for host in world.hosts:
        assert host.counters()[list(COUNTERS).index("TcpCurrEstab")] == 0


@pytest.mark.parametrize("name", every_script())
def test_scripts_are_the_same(name: str) -> None:
    """Each packet script, byte for byte."""
    function = every_script()[name]
    host = script.Host(Host, SYSCTL | function.sysctl)
    function(script.Script(host, function.ip))
    host.net.counters()


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_the_same(seed: int) -> None:
    """Damaged, cut and random segments on an open connection."""
    test_endpoint.test_noise(Host, seed)


def test_a_transfer_is_the_same() -> None:
    """A bulk transfer through loss, and every byte of it."""
    world = World(1, loss=0.03, reorder=0.02)
    a, b = world.hosts
    listener = b.socket(4)
    b.bind(listener, ANY[4], 80)
    b.listen(listener, 5)
    handle = a.socket(4)
    assert a.connect(handle, 2, ADDR[4][1], 80) == 0
    world.run(5 * SEC)
    child = b.accept(listener)
    data = random.Random(2).randbytes(300_000)
    got = bytearray()
    sent = 0
    while len(got) < len(data):
        taken = a.sendmsg(handle, data[sent : sent + 65536])
        sent += max(taken, 0)
        world.run(world.now + 20 * MS)
        got += b.recvmsg(child, 1 << 20)[1]
        assert world.now < 1000 * SEC
    assert got == data
