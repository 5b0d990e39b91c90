"""Fuzz endpoints: bytes are calls, segments, damage, ICMP and jumps of time on two hosts.

``python tests/fuzz/fuzz_endpoint.py --seconds 600`` holds both engines against each other after
every step; a finding is told by its seed, which ``--seed N --count 1`` runs again. `one` is
libFuzzer's entry as well (run.py), where the compiled engine runs alone.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path += [str(HERE.parent), str(HERE.parent.parent)]

import capgen  # noqa: E402
from lockstep import Nets  # noqa: E402

MS, SEC = 1_000_000, 1_000_000_000
ADDRS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}
ANY = {4: "0.0.0.0", 6: "::"}
FRAMES = 64  # that wait to arrive, at most
OPEN = 12  # sockets at a time, at most
STEPS = 400
LARGEST = 4096
OPTIONS = (
    *((1, name) for name in (2, 7, 8, 9, 10, 13, 15, 18, 4, 30)),
    *((6, name) for name in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 18, 25, 44)),
    *((0, name) for name in (1, 2, 10, 11)),
    *((41, name) for name in (16, 67)),
)
VALUES = (0, 1, 2, 3, -1, 8, 48, 100, 536, 1400, 2000, 40000, 100_000, 300_000, (1 << 31) - 1)
SIZES = (1, 0, 10, 100, 1448, 1460, 3000, 20_000, 70_000)
TIMES = (0, MS, 5 * MS, 40 * MS, 200 * MS, SEC, 3 * SEC, 61 * SEC, 700 * SEC, 7300 * SEC)
SYSCTLS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("tcp_timestamps", (0, 1)),
    ("tcp_sack", (0, 1)),
    ("tcp_window_scaling", (0, 1)),
    ("tcp_syncookies", (0, 1, 2)),
    ("tcp_abort_on_overflow", (0, 1)),
    ("tcp_congestion_control", ("reno", "cubic")),
    ("tcp_tw_reuse", (0, 1, 2)),
    ("tcp_max_tw_buckets", (0, 1, 65536)),
    ("tcp_max_orphans", (0, 1, 65536)),
    ("tcp_retries2", (0, 3, 15)),
    ("tcp_shrink_window", (0, 1)),
    ("tcp_min_snd_mss", (48, 536)),
    ("ip_local_port_range", ((40000, 40003), (32768, 60999))),
    ("tcp_rmem", ((4096, 4096, 8192), (4096, 131072, 6291456))),
    ("tcp_wmem", ((4096, 4608, 8192), (4096, 16384, 4194304))),
)
NUMBERS = (0, 1, -1, 2, 1000, -1000, 65535, 1 << 20, 1 << 30, 1 << 31)


class End(Exception):
    """The input is used up."""


class Input:
    """Numbers out of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise End
        self.at += 1
        return self.data[self.at - 1]

    def bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def pick(self, values: Any) -> Any:
        return values[self.byte() % len(values)]


class World:
    """Two hosts, and what is on its way between them."""

    def __init__(self, makers: list[Callable[[bytes], Any]], data: bytes) -> None:
        self.input = Input(data)
        self.hosts = [Nets(makers, bytes([65 + i]) * 16) for i in range(2)]
        self.now_ns = 1000 * SEC
        self.wire: list[list[bytes]] = [[], []]  # to either host
        self.seen: list[bytes] = []  # the last ones, for who forges
        for i, host in enumerate(self.hosts):
            for ip, prefix in ((4, 120), (6, 64)):
                host.add_address(capgen.address16(ADDRS[ip][i]), prefix)
            host.advance(self.now_ns)
            self.listen(i, 6, 80, 3)

    def listen(self, side: int, ip: int, port: int, backlog: int) -> None:
        host = self.hosts[side]
        handle = host.socket(ip)
        host.open.append(handle)
        host.bind(handle, capgen.address16(ANY[ip]), port)
        host.listen(handle, backlog, port == 0)

    def run(self) -> None:
        """All steps, and after each the engines have to be alike."""
        try:
            for _ in range(STEPS):
                self.input.pick(ACTIONS)(self)
                self.settle()
        except End:
            pass
        self.finish()

    def settle(self) -> None:
        for i, host in enumerate(self.hosts):
            for frame in host.transmit()[0]:
                self.seen = [*self.seen[-7:], frame]
                if len(self.wire[1 - i]) < FRAMES:
                    self.wire[1 - i].append(frame)
            host.next_deadline()
            host.counters()
            host.wakes()
            held = host.sockstat()
            assert held["orphan"] >= 0 <= held["tw"], held

    def finish(self) -> None:
        """Everything is closed, the peers are silent, and time passes: nothing is left."""
        for host in self.hosts:
            host.set_sysctl("tcp_retries2", 15)
            for handle in host.open:
                host.close(handle)
        for _ in range(60):
            self.now_ns += 50_000 * SEC  # no user's time-out is longer
            for host in self.hosts:
                host.advance(self.now_ns)
                host.transmit()
        for host in self.hosts:
            assert not any(host.sockstat().values()), host.sockstat()
            assert host.next_deadline() == -1
            assert host.counters()[CURRESTAB] == 0, "established, and nobody is there"

    def receive(self, side: int, frame: bytes) -> None:
        self.hosts[side].receive(frame, self.now_ns)

    # What happens.

    def exchange(self) -> None:
        """What is on its way arrives, and what answers it, for a while."""
        for _ in range(1 + self.input.byte() % 8):
            for side in range(2):
                frames, self.wire[side] = self.wire[side], []
                for frame in frames:
                    self.receive(side, frame)
            self.now_ns += MS
            self.settle()

    def deliver(self) -> None:
        side = self.input.byte() & 1
        for _ in range(1 + self.input.byte() % 4):
            if self.wire[side]:
                self.receive(side, self.wire[side].pop(0))

    def lose(self) -> None:
        what = self.input.byte()
        frames = self.wire[what & 1]
        if frames:
            at = (what >> 2) % len(frames)
            frame = frames.pop(at)
            if what & 2:  # only late
                frames.append(frame)

    def double(self) -> None:
        side = self.input.byte() & 1
        if self.wire[side]:
            self.receive(side, self.wire[side][0])

    def pass_time(self) -> None:
        self.now_ns += self.input.pick(TIMES)
        for host in self.hosts:
            host.advance(self.now_ns)

    def next_timer(self) -> None:
        due = [when for when in (host.next_deadline() for host in self.hosts) if when >= 0]
        self.now_ns = max([self.now_ns, *due[:1]])
        for host in self.hosts:
            host.advance(self.now_ns)

    def socket(self) -> Nets | None:
        what = self.input.byte()
        host = self.hosts[what & 1]
        if len(host.open) >= OPEN:
            return None
        ip = 4 if what & 2 else 6
        handle = host.socket(ip)
        host.open.append(handle)
        if what & 4:
            host.bind(handle, capgen.address16(ANY[ip]), self.input.pick((0, 80, 81, 5000)))
        if what & 8:
            self.option(host, handle)
        if what & 48 == 48:
            host.listen(handle, self.input.pick((0, 1, 5, 100)), bool(what & 64))
        else:
            to = ADDRS[ip][1 - (what & 1)]
            if what & 128 and what & 64:
                to = self.input.pick((ADDRS[ip][what & 1], "127.0.0.1", "224.0.0.1", "0.0.0.0"))
            host.connect(
                handle, 2 if ip == 4 else 10, capgen.address16(to), self.input.pick((80, 80, 81, 0))
            )
        return host

    def accept(self) -> None:
        host = self.hosts[self.input.byte() & 1]
        for handle in list(host.open):
            if host.state(handle) == 10 and len(host.open) < OPEN:
                child = host.accept(handle)
                if child > 0:
                    host.open.append(child)

    def chosen(self) -> tuple[Nets, int] | None:
        what = self.input.byte()
        host = self.hosts[what & 1]
        return (host, host.open[(what >> 1) % len(host.open)]) if host.open else None

    def option(self, host: Nets, handle: int) -> None:
        level, name = self.input.pick(OPTIONS)
        host.setsockopt(handle, level, name, self.input.pick(VALUES))

    def call(self) -> None:
        """Some call on some socket."""
        one = self.chosen()
        what = self.input.byte()
        if one is None:
            return
        host, handle = one
        kind = what % 12
        if kind < 3:
            flags = self.input.pick((0, 0, 0x8000, 0x80, 0x1))
            host.sendmsg(handle, bytes(self.input.pick(SIZES)), flags)
        elif kind < 6:
            host.recvmsg(handle, self.input.pick(SIZES), self.input.pick((0, 0, 2, 1)))
        elif kind == 6:
            self.option(host, handle)
        elif kind == 7:
            host.shutdown(handle, what // 12 % 4)
        elif kind == 8:
            host.open.remove(handle)
            host.close(handle)
        elif kind == 9:
            host.abort(handle)
        elif kind == 10:
            host.set_linger(handle, bool(what & 64), self.input.pick((0, 1, 100)))
            host.set_congestion(handle, ("reno", "cubic", "none")[what // 12 % 3])
        else:
            host.info(handle)
            host.poll(handle)
            host.sockname(handle)
            host.peername(handle)
            for level, name in OPTIONS:
                host.getsockopt(handle, level, name)

    def knob(self) -> None:
        name, values = self.input.pick(SYSCTLS)
        self.hosts[self.input.byte() & 1].set_sysctl(name, self.input.pick(values))

    def link(self) -> None:
        what = self.input.byte()
        self.hosts[what & 1].set_link(self.input.pick((68, 576, 1280, 1500, 9000)), bool(what & 2))

    # What somebody else sends.

    def victim(self) -> tuple[int, bytearray] | None:
        """A frame that was seen, and to whom it goes."""
        if not self.seen:
            return None
        frame = bytearray(self.input.pick(self.seen))
        return self.to(frame), frame

    def to(self, frame: bytes | bytearray) -> int:
        """Which host has the address that a frame is for."""
        return frame[19] - 1 & 1 if frame[0] >> 4 == 4 else frame[39] - 1 & 1

    def forge(self) -> None:
        """A segment of a connection with other flags, numbers, window, options or length."""
        found = self.victim()
        what = self.input.byte()
        if found is None:
            return
        side, frame = found
        head = 20 if frame[0] >> 4 == 4 else 40
        end = head + (frame[head + 12] >> 4) * 4
        sport, dport, seq, ack, bits, window, _, urgent = struct.unpack_from(
            ">HHIIHHHH", frame, head
        )
        options, payload = bytes(frame[head + 20 : end]), bytes(frame[end:])
        if what & 1:
            bits = self.input.byte()
        if what & 2:
            seq += self.input.pick(NUMBERS)
        if what & 4:
            ack += self.input.pick(NUMBERS)
        if what & 8:
            window = self.input.pick((0, 1, 500, 65535))
        if what & 16:
            urgent, bits = self.input.pick((0, 1, 2, 500, 65535)), bits | 32
        if what & 32:
            payload = self.input.bytes(self.input.byte() % 40) * self.input.pick((0, 1, 30))
        if what & 64:
            options = self.input.bytes(self.input.byte() % 41)
        if what & 128 and b"\x08\x0a" in options:
            at = options.index(b"\x08\x0a") + 2
            if at + 4 <= len(options):
                old = int.from_bytes(options[at : at + 4], "big") + self.input.pick(NUMBERS)
                options = options[:at] + (old % 2**32).to_bytes(4, "big") + options[at + 4 :]
        ends = (ADDRS[4] if head == 20 else ADDRS[6])[:: 1 if side else -1]
        self.receive(
            side,
            capgen.packet(
                *ends, sport, dport, seq=seq % 2**32, ack=ack % 2**32, flags=bits & 0xFF,
                window=window, urgent=urgent, options=options, payload=payload,
            ),
        )  # fmt: skip

    def damage(self) -> None:
        found = self.victim()
        if found is None:
            return
        side, frame = found
        at, what = self.input.byte(), self.input.byte()
        frame[(at * 3) % len(frame)] ^= what or 1
        self.receive(side, bytes(frame[: len(frame) - (what & 7) * (at & 15)]))

    def raw(self) -> None:
        side = self.input.byte() & 1
        self.receive(side, self.input.bytes(self.input.byte()))

    def syn(self) -> None:
        """A SYN out of nowhere."""
        what = self.input.byte()
        ip = 4 if what & 2 else 6
        ends = ADDRS[ip][:: 1 if what & 1 else -1]
        options = self.input.bytes(self.input.byte() % 41)
        self.receive(
            what & 1,
            capgen.packet(*ends, 1000 + (what >> 2), 80, flags=2, seq=what << 25, options=options),
        )

    def pieces(self) -> None:
        """A frame in fragments, maybe not all of them."""
        found = self.victim()
        what = self.input.byte()
        if found is None:
            return
        side, frame = found
        rest = len(frame) - (20 if frame[0] >> 4 == 4 else 40)
        if rest <= 16:
            return
        parts = capgen.fragments(bytes(frame), 8 + (what * 8) % (rest - 8) // 8 * 8, number=what)
        if what & 1:
            parts.reverse()
        for part in parts[: len(parts) - (what >> 1 & 1)]:
            self.receive(side, part)

    def icmp(self) -> None:
        """An error about a frame, to who sent it."""
        found = self.victim()
        what = self.input.byte()
        if found is None:
            return
        side, frame = found
        four = frame[0] >> 4 == 4
        head = 20 if four else 40
        kind = self.input.pick((3, 3, 11, 12, 4) if four else (1, 2, 2, 3, 4))
        number = struct.unpack_from(">I", frame, head + 4)[0] + self.input.pick((0, 0, 1, -1, 9999))
        struct.pack_into(">I", frame, head + 4, number % 2**32)
        mtu = self.input.pick((0, 1, 68, 552, 600, 1280, 1400, 65535))
        body = struct.pack(">BBHI", kind, what & 15, 0, mtu) + bytes(frame[: head + 8 + what // 16])
        ends = (ADDRS[4] if four else ADDRS[6])[:: 1 if 1 - side else -1]
        if four:
            check = capgen.checksum(body)
        else:
            pseudo = capgen.address(ends[0]) + capgen.address(ends[1])
            check = capgen.checksum(pseudo + struct.pack(">II", len(body), 58) + body)
        body = body[:2] + check.to_bytes(2, "big") + body[4:]
        wrap = capgen.ipv4(body, *ends, proto=1) if four else capgen.ipv6(body, *ends, proto=58)
        self.receive(1 - side, wrap)


ACTIONS = (
    *[World.exchange] * 5,
    *[World.deliver] * 3,
    *[World.call] * 10,
    *[World.socket] * 3,
    *[World.accept] * 3,
    *[World.forge] * 5,
    World.lose,
    World.lose,
    World.double,
    World.pass_time,
    World.next_timer,
    World.next_timer,
    World.knob,
    World.link,
    World.damage,
    World.raw,
    World.syn,
    World.pieces,
    World.icmp,
)


def nets(*names: str) -> list[Callable[[bytes], Any]]:
    """What makes a host, of engines by name."""
    from tcpcore.reference.core_net import Net

    made: list[Callable[[bytes], Any]] = []
    for name in names:
        if name == "compiled":
            from tcpcore import _core

            made.append(_core.Net)
        else:
            made.append(Net)
    return made


def one(data: bytes, *names: str) -> None:
    """Run one input; an exception is a finding."""
    if len(data) <= LARGEST:
        World(nets(*(names or ("compiled",))), data).run()


def drawn(seed: int) -> bytes:
    """An input by its seed."""
    rng = random.Random(seed)
    return rng.randbytes(rng.choice((100, 400, 1000, 2000)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="the first (0)")
    parser.add_argument("--count", type=int, default=0, help="inputs at most (no bound)")
    parser.add_argument("--engine", choices=("both", "reference", "compiled"), default="both")
    options = parser.parse_args()
    names = ("reference", "compiled") if options.engine == "both" else (options.engine,)
    end, seed, found = time.monotonic() + options.seconds, options.seed, 0
    while time.monotonic() < end and (not options.count or seed < options.seed + options.count):
        try:
            one(drawn(seed), *names)
        except Exception as problem:
            found += 1
            first = (str(problem).splitlines() or [""])[0]
            print(f"seed {seed}: {type(problem).__name__}: {first[:300]}", flush=True)
        seed += 1
    print(f"{seed - options.seed} inputs, {found} findings")
    return found > 0


from tcpcore.mib import COUNTERS  # noqa: E402

CURRESTAB = COUNTERS.index("TcpCurrEstab")

if __name__ == "__main__":
    sys.exit(main())
