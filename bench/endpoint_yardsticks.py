"""What the endpoint must reach: each figure a ratio to a peer, or to itself, measured in one run.

CPU time of both ends; contenders in turn, round by round; medians. The kernel's congestion control
is CUBIC, as ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench.yardsticks import ROOT, Unavailable, Yardsticks, compiled, spend, worker
from tcpcore.engine import load

WRITE = 1 << 16  # bytes of a write and of a read, of every contender that has them
LOOPBACK_MTU = 65535


class Entrant:
    """Somebody who does a job: `run` gives what a unit of it costs, in seconds."""

    def __init__(self, run: Callable[[], float]) -> None:
        self.run = run
        self.times: list[float] = []
        self.missing = ""

    def once(self) -> None:
        if not self.missing:
            try:
                self.times.append(self.run())
            except Unavailable as reason:
                self.missing = str(reason)

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


class EndpointYardsticks(Yardsticks):
    """The races of the endpoint, and of the scripts that it is tested by; their verdicts."""

    def run(self) -> None:
        self.told: dict[str, list[str]] = {}  # what the peers say of themselves
        for race in (
            self.bulk,
            self.handshakes,
            self.from_python,
            self.segments,
            self.reference,
            self.memory,
            self.flood,
            self.scripts,
        ):
            self.say(f"measuring: endpoint, {race.__name__.replace('_', ' ')}")
            race()

    # ---- contenders

    def ours(self, job: str, **arguments: object) -> Entrant:
        def run() -> float:
            done = worker(job, **arguments)
            return done["seconds"] / (done.get("bytes") or done["count"])

        return Entrant(run)

    def peer(self, name: str, libraries: str, units: int, *arguments: object) -> Entrant:
        """A C peer, which prints its CPU seconds and what is to be told of it."""

        def run() -> float:
            program = compiled(name, libraries, self.work)
            seconds, *self.told[name] = spend([program, *map(str, arguments)])[1].split()
            return float(seconds) / units

        return Entrant(run)

    def compete(self, *entrants: Entrant) -> None:
        for _ in range(self.rounds):
            for one in entrants:
                one.once()

    def beats(
        self, what: str, one: Entrant, other: Entrant, least: float, note: Callable[[], str]
    ) -> None:
        missing = one.missing or other.missing
        if missing:
            self.unmeasured(what, missing, least=least, unit="x")
        else:
            ratio = other.seconds / one.seconds
            self.target(what, lambda: ratio, least=least, unit="x", note=note())

    # ---- races

    def bulk(self) -> None:
        total = 50_000_000 if self.quick else 2_000_000_000
        idle = 100 if self.quick else 10_000
        job = {"engine": "compiled", "total": total, "write": WRITE}
        plain = self.ours("bulk", **job)
        large = self.ours("bulk", **job, mtu=LOOPBACK_MTU)
        handed = self.ours("bulk", **job, gso=True)
        crowd = self.ours("bulk", **job, idle=idle)
        kernel = self.peer("loopback", "", total, "bulk", total, WRITE)
        lwip = self.peer("lwip_loop", "-I/usr/include/lwip -llwip", total // 4, total // 4)
        self.compete(plain, kernel, large, lwip, handed, crowd)

        def rates(one: Entrant, other: Entrant) -> Callable[[], str]:
            return lambda: f"{1e-9 / one.seconds:.2f} and {1e-9 / other.seconds:.2f} GB/s"

        def lwips() -> str:
            mss, window = self.told["lwip_loop"]
            return f"{rates(plain, lwip)()}; its MSS {mss}, its window {window}"

        self.beats("bulk, MTU 1500: lwIP", plain, lwip, 3, lwips)
        self.beats("bulk, MTU 1500: Linux loopback", plain, kernel, 0.75, rates(plain, kernel))
        what = "bulk, segments of 64 KiB: Linux loopback"
        self.beats(what, large, kernel, 2, rates(large, kernel))
        what = "bulk, MTU 1500, cut by the link: Linux loopback"
        self.beats(what, handed, kernel, 2, rates(handed, kernel))
        what = f"bulk, MTU 1500, {idle:,} idle connections beside: none beside"
        self.beats(what, crowd, plain, 0.9, rates(crowd, plain))

    def handshakes(self) -> None:
        count = 500 if self.quick else 20_000
        ours = self.ours("connects", engine="compiled", count=count)
        kernel = self.peer("loopback", "", count, "connect", count)
        self.compete(ours, kernel)
        what = "connect, accept, close, in the engine: Linux loopback"
        self.beats(what, ours, kernel, 10, self.micros(ours, kernel))

    def micros(self, one: Entrant, other: Entrant) -> Callable[[], str]:
        return lambda: f"{one.seconds * 1e6:.2f} and {other.seconds * 1e6:.2f} µs"

    def from_python(self) -> None:
        count = 500 if self.quick else 20_000
        for what, job in (
            ("connect, accept, close, from Python", "api_connects"),
            ("64 bytes there and back, from Python", "pingpong"),
        ):
            ours = self.ours(job, system=False, count=count)
            system = self.ours(job, system=True, count=count)
            self.compete(ours, system)
            name = f"{what}: CPython's sockets"
            self.beats(name, ours, system, 3, self.micros(ours, system))

    def segments(self) -> None:
        count = 1_000 if self.quick else 200_000
        runs = [worker("segments", count=count) for _ in range(self.rounds)]
        segment, step = (
            statistics.median(run[name] for run in runs) for name in ("segment_ns", "step_ns")
        )
        self.target(
            "a 64-byte segment in order, received: frames of the judge's",
            lambda: segment / step,
            most=4,
            unit="x",
            note=f"{segment:.0f} and {step:.0f} ns, each with its parse and checksum",
        )

    def reference(self) -> None:
        few, many = (300, 3_000) if self.quick else (1_000, 20_000)
        fast = self.ours("connects", engine="compiled", count=many)
        slow = self.ours("connects", engine="reference", count=few)
        total = 5_000_000 if self.quick else 20_000_000
        job = {"write": WRITE}
        quick = self.ours("bulk", engine="compiled", total=50 * total, **job)
        steady = self.ours("bulk", engine="reference", total=total, **job)
        self.compete(fast, slow, quick, steady)
        what = "compiled engine: reference engine, "
        self.beats(f"{what}bulk", quick, steady, 100, lambda: "")
        self.beats(f"{what}handshakes", fast, slow, 50, self.micros(fast, slow))

    def memory(self) -> None:
        count = 1_000 if self.quick else 200_000
        sizes = load("compiled").sizes()
        for what, name, most in (
            ("tcp_sock", "an established endpoint", 1024),
            ("request_sock", "a request", 128),
            ("timewait_sock", "a connection in TIME-WAIT", 96),
        ):
            done = worker("memory", what=what, count=count)
            self.target(
                f"{name}: engine bytes",
                lambda what=what: sizes[what],
                most=most,
                unit=" B",
                note=f"RSS grows by {done['bytes']:.0f} B, places in tables and timers in it",
            )
        if self.quick:
            return
        done = worker("memory", what="tcp_sock", count=1_000_000)
        self.target(
            "a million idle connections in one process, both ends: RSS grows by, an endpoint",
            lambda: done["bytes"],
            most=1024,
            unit=" B",
            note=f"{done['bytes'] * done['count'] / 1e9:.2f} GB, {done['seconds']:.0f} s",
        )

    def flood(self) -> None:
        count, total = (2_000, 10_000_000) if self.quick else (200_000, 2_000_000_000)
        runs = [worker("flood", count=count, total=total) for _ in range(self.rounds)]

        def median(name: str) -> float:
            return statistics.median(run[name] for run in runs)

        self.target(
            "a SYN answered with a cookie: its parse and checksum",
            lambda: median("cookie_ns") / median("bare_ns"),
            most=6,
            unit="x",
            note=f"{median('cookie_ns'):.0f} and {median('bare_ns'):.0f} ns",
        )
        self.target(
            "a flood and a transfer in turn: the time of each alone",
            lambda: median("beside"),
            most=1.1,
            unit="x",
            note=f"{median('requests'):.0f} requests held, RSS grew by {median('grown'):.0f} B",
        )

    def scripts(self) -> None:
        """packetdrill in virtual time; beside the kernel, that has to wait, one script of eight."""
        paths = sorted(map(str, (ROOT / "tests" / "packetdrill").glob("*/*.pkt")))
        few = paths[::8] if not self.quick else paths[:1]
        ours = [worker("scripts", paths=paths, target="tcpcore") for _ in range(self.rounds)]
        self.target(
            f"{len(paths)} packetdrill scripts, compiled engine: CPU time",
            lambda: statistics.median(run["seconds"] for run in ours),
            most=5,
            unit=" s",
            note=ours[0]["reason"] or "all passed",
        )
        what = "packetdrill scripts in virtual time: the same against the kernel"
        kernel = worker("scripts", paths=few, target="kernel")
        if not kernel["walls"]:
            self.unmeasured(what, kernel["reason"], least=100, unit="x")
            return
        here = worker("scripts", paths=list(kernel["walls"]), target="tcpcore", runs=2)
        ratio = sum(kernel["walls"].values()) / here["seconds"]
        self.target(
            what,
            lambda: ratio,
            least=100,
            unit="x",
            note=f"wall time to CPU time of {len(kernel['walls'])} that this kernel passes",
        )
