"""Random sequences of segments and calls, run on an engine and on Linux, held against each other.

A plan is made from a seed; an engine takes its steps at the times when the kernel took them.
`python tests/differential.py plan 0 100 > plans`, `kernel < plans > answers`, `compare < answers`.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

from capgen import NOP, SACK_PERM, mss, timestamp, wscale
from script import PORT, SEC, Host, Script, net_of

MS = 1_000_000
SOL_SOCKET, SOL_TCP = 1, 6
# Linux's timers are late by a tick, or by an eighth of what they wait; its caller takes time, too.
SLACK_NS, LATE = 16 * MS, 0.14
NEAR_NS = 12 * MS
SYSCTL = {"tcp_rmem": (4096, 131072, 6291456)}
# TCP_INFO that does not hang on a clock.
FIELDS = (
    "state", "options", "snd_wscale", "rcv_wscale", "snd_mss", "rcv_mss", "unacked", "sacked",
    "retransmits", "probes", "backoff", "pmtu", "rcv_ssthresh", "snd_ssthresh", "snd_cwnd",
    "advmss", "total_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in",
    "notsent_bytes", "data_segs_in", "data_segs_out", "delivered", "bytes_sent", "bytes_retrans",
    "dsack_dups", "rcv_ooopack", "snd_wnd", "rcv_wnd",
)  # fmt: skip
STAMP = timestamp(1000, 0)

Step = list[Any]
Plan = dict[str, Any]


class Walk(Script):
    """A script that a plan tells what to do."""

    def __init__(self, host: Any, plan: Plan, clock: list[int] | None = None) -> None:
        super().__init__(host, plan["ip"])
        self.clock = clock  # when each step is taken, if others have said
        self.times: list[int] = []
        self.acked = 0  # what the host has acknowledged, relative
        self.first_port = self.peer_port = plan["port"]
        self.isn = plan["isn"]
        self.stamp = self.echo = 0  # of the peer; last of the host's
        self.socks: list[int] = []

    def line(self, packet: bytes) -> str:
        text = super().line(packet)
        found = re.search(r" ack (\d+)", text)
        if found and int(found[1]) < 1 << 31:
            self.acked = int(found[1])
        return text

    def options(self, raw: bytes) -> list[str]:
        at = raw.find(b"\x08\x0a")
        if at >= 0:
            self.echo = int.from_bytes(raw[at + 2 : at + 6], "big")
        return super().options(raw)

    def take_step(self, step: Step) -> None:
        if self.clock is not None:
            self.host.wait(max(self.start_ns + self.clock[len(self.times)] - self.host.now_ns, 0))
        self.take()
        began_ns = self.host.now_ns
        self.lines.append(f"# {json.dumps(step)}")
        getattr(self, f"do_{step[0]}")(*step[1:])
        # The kernel's caller takes its time before it acts.
        acted_ns = max(getattr(self.host, "acted_ns", 0), began_ns)
        self.times.append(acted_ns - self.start_ns)
        self.take()

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            self.take_step(step)
        if self.clock is not None:
            self.host.wait(max(self.start_ns + self.clock[len(steps)] - self.host.now_ns, 0))
        self.take()
        self.times.append(self.host.now_ns - self.start_ns)

    # Steps.

    def do_put(
        self, flags: str, n: int, at: str, seq: int, ack: int, win: int, opts: str, urg: int,
        stamp: int | None,
    ) -> None:  # fmt: skip
        base = self.acked if at == "acked" else self.seq
        raw = bytes.fromhex(opts)
        ts = None
        if STAMP in raw:
            self.stamp = 1000
            if "A" in flags:
                raw = raw.replace(STAMP, timestamp(1000, self.echo))
        elif self.stamp and stamp is not None:
            ts = self.stamp + stamp & 0xFFFFFFFF, self.echo
            self.stamp = max(self.stamp, self.stamp + min(stamp, 5))
        self.put(
            flags, n, seq=base + seq, ack=self.rcv + ack if "A" in flags else None, win=win,
            opts=raw, urg=urg, ts=ts if ts else False,
        )  # fmt: skip
        if at == "next" and not seq:
            self.seq += n + ("S" in flags) + ("F" in flags)

    def do_wait(self, ns: int) -> None:
        if self.clock is None:
            self.host.wait(ns)

    def do_listen(self, backlog: int, options: list[tuple[int, int, int]]) -> None:
        self.listener = self.host.socket(self.ip)
        self.socks.append(self.listener)
        for option in options:
            self.do_set(*option, self.listener)
        self.host.bind(self.listener, self.any(), PORT)
        self.host.listen(self.listener, backlog)

    def do_accept(self) -> None:
        sk = self.host.accept(self.listener)
        if sk >= 0:
            self.sk = sk
            self.socks.append(sk)
        self.say("accept", 0 if sk >= 0 else sk)

    def do_dial(self, options: list[tuple[int, int, int]]) -> None:
        self.sk = self.host.socket(self.ip)
        self.socks.append(self.sk)
        for option in options:
            self.do_set(*option)
        self.say("connect", self.host.connect(self.sk, self.peer, self.first_port))

    def do_send(self, n: int, flags: int) -> None:
        if self.sk in self.socks:
            self.say("send", self.host.send(self.sk, bytes(n), flags))

    def do_recv(self, n: int, flags: int) -> None:
        if self.sk in self.socks:
            got = self.host.recv(self.sk, n, flags)
            self.say("recv", len(got) if isinstance(got, bytes) else got)

    def do_shutdown(self, how: int) -> None:
        if self.sk in self.socks:
            self.say("shutdown", self.host.shutdown(self.sk, how))

    def do_close(self) -> None:
        if self.sk in self.socks:
            self.socks.remove(self.sk)
            self.host.close(self.sk)

    def do_linger(self, on: bool, seconds: int) -> None:
        if self.sk in self.socks:
            self.say("linger", self.host.linger(self.sk, on, seconds))

    def do_set(self, level: int, name: int, value: int, sk: int | None = None) -> None:
        sk = self.sk if sk is None else sk
        if sk in self.socks:
            self.say("setsockopt", self.host.setsockopt(sk, level, name, value))

    def do_get(self, level: int, name: int) -> None:
        if self.sk in self.socks:
            self.say("getsockopt", self.host.getsockopt(self.sk, level, name))

    def do_poll(self) -> None:
        if self.sk in self.socks:
            self.say("poll", self.host.poll(self.sk))

    def do_info(self) -> None:
        if self.sk in self.socks:
            info = self.host.info(self.sk)
            self.say(" ".join(f"{name}={info['tcpi_' + name]}" for name in FIELDS))

    def do_state(self) -> None:
        self.say(self.state())

    def end(self) -> None:
        """Nothing of it is to stay behind in a host that others use."""
        for sk in self.socks:
            self.host.linger(sk, True, 0)
            self.host.close(sk)
        self.put("R", seq=self.acked, ts=False)
        self.put("R", seq=self.seq, ts=False)


# Plans.


class Maker:
    """One plan, made by a seed while an engine takes its steps: waits have to suit its timers."""

    def __init__(self, net_class: Any, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.plan: Plan = {
            "seed": seed,
            "ip": 6 if rng.random() < 0.15 else 4,
            "port": 10000 + seed % 50000,
            "isn": rng.choice((5_000_000, 5_000_000, 0xFFFFFF00, 0x7FFFFF00, 0)),
            "steps": [],
        }
        self.host = Host(net_class, SYSCTL)
        self.walk = Walk(self.host, self.plan)
        self.step_ns = self.host.now_ns

    def do(self, *step: Any) -> None:
        self.plan["steps"].append(list(step))
        self.walk.take_step(list(step))
        self.step_ns = self.host.now_ns
        if 0 <= self.host.net.next_deadline() < self.host.now_ns + NEAR_NS:
            self.wait(MS)  # a timer that is due within a tick or two

    def late_ns(self, due_ns: int) -> int:
        return SLACK_NS + round(LATE * (due_ns - self.step_ns))

    def wait(self, ns: int) -> None:
        """Wait so long, and longer where it would be left to chance which timers have run."""
        start_ns = self.host.now_ns
        end_ns = start_ns + ns
        for _ in range(100):
            due_ns = self.host.net.next_deadline()
            if due_ns < 0 or due_ns > end_ns + SLACK_NS:
                break
            end_ns = max(end_ns, due_ns + self.late_ns(due_ns))
            self.host.wait(max(due_ns - self.host.now_ns, 0))
        self.plan["steps"].append(["wait", end_ns - start_ns])
        self.host.wait(end_ns - self.host.now_ns)
        walk = self.walk
        walk.take()
        walk.times.append(start_ns - walk.start_ns)

    def options(self, syn: bool = True) -> bytes:
        """What a SYN may offer."""
        rng = self.rng
        size = rng.choice((1460, 1460, 1460, 1000, 536, 100, 65495, 20))
        parts = [mss(size)] if rng.random() < 0.9 else []
        if rng.random() < 0.6:
            parts.append(SACK_PERM)
        if rng.random() < 0.5:
            parts.append(NOP * rng.randrange(3) + STAMP)
        if rng.random() < 0.5:
            parts.append(NOP + wscale(rng.choice((0, 2, 7, 14, 15))))
        if rng.random() < 0.2:
            rng.shuffle(parts)
        return b"".join(parts)

    def put(
        self, flags: str, n: int = 0, *, at: str = "next", seq: int = 0, ack: int = 0,
        win: int | None = None, opts: bytes = b"", urg: int = 0, stamp: int | None = 1,
    ) -> None:  # fmt: skip
        if win is None:
            win = self.walk.win
        self.do("put", flags, n, at, seq, ack, win, opts.hex(), urg, stamp)

    def make(self) -> Plan:
        rng = self.rng
        start = rng.choice(("accept",) * 6 + ("connect",) * 3 + ("listen", "synsent"))
        buffers = []
        if rng.random() < 0.3:
            buffers.append((SOL_SOCKET, 8, rng.choice((1000, 4000, 10000, 40000, 200000))))
        if rng.random() < 0.15:
            buffers.append((SOL_SOCKET, 7, rng.choice((1000, 6000, 20000, 100000))))
        if rng.random() < 0.2:
            buffers.append((SOL_TCP, 2, rng.choice((100, 536, 1000, 5000))))
        if rng.random() < 0.1:
            buffers.append((SOL_TCP, 10, rng.choice((100, 3000, 20000))))
        if start in ("accept", "listen"):
            self.do("listen", rng.choice((0, 1, 5)), buffers)
            if start == "listen":
                for _ in range(rng.randrange(8)):
                    self.odd()
            else:
                self.put("S", win=rng.choice((65535, 65535, 1000, 0)), opts=self.options())
                if rng.random() < 0.15:
                    self.step()
                self.put("A", rng.choice((0, 0, 0, 10, 1000)))
                self.do("accept")
        else:
            self.do("dial", buffers)
            if start == "synsent":
                for _ in range(rng.randrange(6)):
                    self.odd()
            opts = self.options()
            if start == "connect":
                self.put("SA", win=rng.choice((65535, 65535, 1000, 0)), opts=opts)
        for _ in range(rng.randrange(4, 24)):
            self.step()
        self.wait(rng.choice((100, 1000, 5000)) * MS)
        self.do("state")
        self.do("info")
        self.walk.run([])
        return self.plan

    def step(self) -> None:
        rng = self.rng
        kind = rng.choices(
            ("data", "ack", "send", "recv", "odd", "wait", "call", "end"),
            (20, 14, 14, 8, 14, 20, 12, 3),
        )[0]
        if kind == "data":
            n = rng.choice((1, 10, 100, 500, 536, 1000, 1460, 1448, rng.randrange(1, 1461)))
            flags = rng.choice(("A", "PA"))
            for _ in range(rng.choice((1, 1, 1, 2, 4, 10))):
                self.put(flags, n)
        elif kind == "ack":
            ack = 0 if rng.random() < 0.7 else -rng.choice((1, 10, 500, 1460, 3000))
            win = None if rng.random() < 0.7 else rng.choice((0, 1, 100, 1460, 5000, 65535))
            if win is not None and rng.random() < 0.5:
                self.walk.win = win
            self.put("A", ack=ack, win=win)
        elif kind == "send":
            n = rng.choice((1, 10, 500, 1460, 1461, 3000, 10000, 30000, rng.randrange(1, 5000)))
            flags = rng.choice((0,) * 8 + (0x8000, 0x80, 1))
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                self.do("send", n, flags)
        elif kind == "recv":
            self.do(
                "recv", rng.choice((1, 100, 1000, 1 << 20, 1 << 20)), rng.choice((0, 0, 0, 2, 1))
            )
        elif kind == "odd":
            self.odd()
        elif kind == "wait":
            self.wait(rng.choice((1, 5, 10, 30, 60, 120, 250, 500, 1100, 3000)) * MS)
        elif kind == "call":
            self.call()
        else:
            self.ending()

    def odd(self) -> None:
        """A segment that is wrong in something."""
        rng = self.rng
        flags = rng.choice(
            ("A",) * 6 + ("PA",) * 3 + ("R", "R", "RA", "S", "S", "SA", "FA", "FA", "F", "PAU", "",
            "SF", "SR", "FR", "UPF", "P", "FPU")
        )  # fmt: skip
        n = rng.choice((0, 0, 0, 1, 100, 1000, 1460))
        at = rng.choice(("next", "acked", "acked"))
        seq = rng.choice(
            (0, 0, 0, 0, -1, 1, -10, 10, -100, 100, 500, 1000, -1000, 1460, 5000, 30000, 64240,
             64241, -70000, 70000, 100000, 1 << 30, 1 << 31)
        )  # fmt: skip
        ack = rng.choice((0, 0, 0, 0, -1, 1, -100, 10, 5000, -65536, -70000, 1 << 30, 1 << 31))
        win = rng.choice((None, None, None, 0, 1, 500, 65535))
        opts = b""
        if "S" in flags:
            opts = self.options()
        elif rng.random() < 0.1:
            opts = rng.choice(
                (b"\x6f\x04ab", mss(500), b"\xfd\x02", wscale(3), SACK_PERM, b"\5\x0a" * 4)
            )
        urg = rng.choice((0, 1, 2, n, n + 5, 65535)) if "U" in flags else 0
        stamp = rng.choice((1, 1, 1, 0, -1, -1, -100, -100000, 1 << 31, 1000, None))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            self.put(flags, n, at=at, seq=seq, ack=ack, win=win, opts=opts, urg=urg, stamp=stamp)

    def call(self) -> None:
        rng = self.rng
        what = rng.choice(("set", "set", "set", "get", "poll", "info", "info", "state"))
        if what == "set":
            choices = (
                (SOL_TCP, 1, rng.randrange(2)),
                (SOL_TCP, 2, rng.choice((0, 50, 300, 900))),
                (SOL_TCP, 3, rng.randrange(2)),
                (SOL_TCP, 8, rng.choice((-1, 0, 2, 100))),
                (SOL_TCP, 10, rng.choice((0, 1000, 30000))),
                (SOL_TCP, 12, rng.randrange(3)),
                (SOL_TCP, 18, rng.choice((0, 500, 3000))),
                (SOL_SOCKET, 7, rng.choice((1000, 20000))),
                (SOL_SOCKET, 8, rng.choice((1000, 20000, 100000))),
                (SOL_SOCKET, 10, rng.randrange(2)),
                (SOL_SOCKET, 18, rng.choice((1, 100, 5000))),
            )
            self.do("set", *rng.choice(choices))
        elif what == "get":
            names = ((SOL_SOCKET, 4), (SOL_SOCKET, 7), (SOL_SOCKET, 8))
            names += tuple((SOL_TCP, name) for name in (1, 2, 8, 10, 12, 18))
            self.do("get", *rng.choice(names))
        else:
            self.do(what)

    def ending(self) -> None:
        rng = self.rng
        what = rng.choice(("fin", "shutdown", "close", "linger", "rst"))
        if what == "fin":
            self.put("FA", rng.choice((0, 0, 10)))
        elif what == "shutdown":
            self.do("shutdown", rng.choice((0, 1, 1, 1, 2)))
        elif what == "linger":
            self.do("linger", True, 0)
            self.do("close")
        elif what == "rst":
            self.put("R", at="acked")
        else:
            self.do("close")


# Comparing.


def differs(answer: Plan, ours: list[str]) -> str:
    """Empty, or the first difference: a step, a line of each."""
    theirs, times = answer["lines"], answer["times"]
    step, began, index = "", 0.0, 0
    timed = re.compile(r"\s*(\d+\.\d{3}) (.*)")
    for i in range(max(len(theirs), len(ours))):
        one = theirs[i] if i < len(theirs) else "-"
        other = ours[i] if i < len(ours) else "-"
        if one == other and one.startswith("#"):
            step = one
            if not step.startswith('# ["wait"'):
                began = times[index] / SEC
            index += 1
            continue
        a, b = timed.fullmatch(one), timed.fullmatch(other)
        if a and b and a[2] == b[2]:
            now = float(b[1])
            if -0.01 <= float(a[1]) - now <= 0.02 + LATE * max(now - began, min(now, 2)):
                continue
        elif one == other:
            continue
        return f"{step}\n  Linux {one.strip()}\n  here  {other.strip()}"
    return ""


def replay(net_class: Any, answer: Plan) -> list[str]:
    """What an engine says to a plan, at the times of an answer."""
    walk = Walk(Host(net_class, SYSCTL), answer["plan"], answer["times"])
    walk.run(answer["plan"]["steps"])
    return walk.lines


def kernel(plans: list[Plan], beside: int = 1) -> Iterator[Plan]:
    """Linux's answers; batches have a namespace each, and `beside` of them run at a time."""
    batches = [plans[first : first + 100] for first in range(0, len(plans), 100)]
    if beside > 1:
        batches = [plans[i::beside] for i in range(beside)]
    for first in range(0, len(batches), beside):
        running = []
        for batch in batches[first : first + beside]:
            read, write = os.pipe()
            if not (child := os.fork()):
                os.close(read)
                try:
                    with os.fdopen(write, "w") as file:
                        for answer in answers(batch):
                            file.write(json.dumps(answer) + "\n")
                finally:
                    os._exit(0)
            os.close(write)
            running.append((child, read))
        for child, read in running:
            with os.fdopen(read) as file:
                yield from map(json.loads, file)
            os.waitpid(child, 0)


def answers(plans: list[Plan]) -> Iterator[Plan]:
    """What the machine's kernel says, in a namespace that this process now has."""
    from linux_host import LinuxHost

    host = LinuxHost()
    host.patience = 1
    host.sysctl("tcp_early_retrans", "3")
    for plan in plans:
        walk = Walk(host, plan)
        try:
            walk.run(plan["steps"])
            yield {"plan": plan, "lines": walk.lines, "times": walk.times}
        except Exception as error:
            yield {"plan": plan, "lines": walk.lines, "error": repr(error)}
        walk.end()


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "kernel":
        for answer in kernel([json.loads(line) for line in sys.stdin]):
            print(json.dumps(answer), flush=True)
        return
    from tcpcore.engine import load

    if what == "plan":
        net_class = net_of(load("compiled"))
        for seed in range(int(rest[0]), int(rest[1])):
            print(json.dumps(Maker(net_class, seed).make()))
        return
    net_class = net_of(load(rest[0] if rest else "compiled"))
    for line in sys.stdin:
        answer = json.loads(line)
        seed = answer["plan"]["seed"]
        if "error" in answer:
            print(f"== {seed}: {answer['error']}")
            continue
        different = differs(answer, replay(net_class, answer))
        print(f"== {seed}: {different or 'alike'}")


if __name__ == "__main__":
    main()
