"""What tcpcore must reach, each figure a ratio to a peer or to itself, measured in one run.

CPU time; contenders in turn, round by round; medians. Peers are whole processes (user and system
time, their children's too) less what they take for a capture of ten packets.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import captures

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MIB = 1 << 20
LIBRARIES = {"loop": "-lpcap", "nids": "-lnids -lpcap -lnet -lglib-2.0 -lgthread-2.0"}
# What a row wants is said, so that no default of tcpcore changes what it means.
PLAIN = {"analysis": False, "checksum": "ignore"}
ANALYSED = {"analysis": True, "checksum": "auto"}
SCRIPTS = {"dpkt": "dpkt_flows.py", "nfstream": "nfstream_flows.py"}


class Unavailable(Exception):
    """A peer or a capture is not here; the message says why."""


def spend(command: Sequence[str | Path]) -> tuple[float, str]:
    """CPU seconds of a process with all its children, and what it printed."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with child.stdout as pipe:
            text = pipe.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            last = (errors.read().splitlines() or [f"status {child.returncode}"])[-1]
            raise Unavailable(f"{Path(command[0]).name}: {last}")
    return usage.ru_utime + usage.ru_stime, text


def worker(job: str, **arguments: object) -> dict[str, float]:
    """The result of a job of bench.worker."""
    command = [sys.executable, "-m", "bench.worker", json.dumps([job, arguments])]
    return json.loads(spend(command)[1])


class Contender:
    """Somebody who takes a capture: `run` gives CPU seconds and packets."""

    def __init__(self, name: str, run: Callable[[], tuple[float, int]]) -> None:
        self.name = name
        self.run = run
        self.times: list[float] = []
        self.packets = 0
        self.missing = ""

    def once(self) -> None:
        if self.missing:
            return
        try:
            seconds, self.packets = self.run()
        except Unavailable as reason:
            self.missing = str(reason)
        else:
            self.times.append(seconds)

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds

    @property
    def ns(self) -> float:
        """CPU time a packet."""
        return 1e9 / self.rate


def compiled(name: str, libraries: str, work: Path) -> Path:
    """A C peer's program."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("no C compiler")
    source, program = HERE / "peers" / f"{name}.c", work / name
    command = [compiler, "-O2", "-o", program, source, *libraries.split()]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        lines = [line for line in built.stderr.splitlines() if "error" in line or "cannot" in line]
        raise Unavailable(f"{name}.c does not build: {(lines or ['?'])[0].split(': ', 1)[-1]}")
    return program


class Peers:
    """The peers' commands and what each takes to start; made when first asked for."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.ten = captures.write(work / "ten.pcap", captures.flood(10))
        self.commands: dict[str, list[str | Path]] = {}
        self.startup: dict[str, float] = {}

    def command(self, name: str) -> list[str | Path]:
        if name not in self.commands:
            if name == "tshark":
                if shutil.which(name) is None:
                    raise Unavailable("tshark is not installed")
                made = [name, "-n", "-q", "-z", "conv,tcp", "-r"]
            elif name in LIBRARIES:
                made = [compiled(name, LIBRARIES[name], self.work)]
            elif importlib.util.find_spec(name) is None:
                raise Unavailable(f"{name} is not installed")
            else:
                made = [sys.executable, HERE / "peers" / SCRIPTS[name]]
            self.startup[name] = statistics.median(spend([*made, self.ten])[0] for _ in range(3))
            self.commands[name] = made
        return self.commands[name]

    def contender(self, name: str, label: str, path: Path, packets: int) -> Contender:
        def run() -> tuple[float, int]:
            seconds, text = spend([*self.command(name), path])
            if name in ("loop", "dpkt") and int(text) != packets:
                raise ValueError(f"{name} saw {text.strip()} packets, not {packets}")
            return max(seconds - self.startup[name], 1e-6), packets

        return Contender(label, run)


def ours(label: str, path: Path, **options: object) -> Contender:
    """tcpcore, from Python on a path, second of two runs in one process; `PLAIN` besides."""

    def run() -> tuple[float, int]:
        result = worker("replay", **{"path": str(path), "tables": False} | PLAIN | options)
        return result["seconds"], int(result["packets"])

    return Contender(label, run)


def reading(path: Path, packets: int) -> Contender:
    """What bounds every other: the bytes, and nothing done with them."""

    def run() -> tuple[float, int]:
        return worker("reading", path=str(path))["seconds"], packets

    return Contender("nothing but read()", run)


def handing(path: Path) -> Contender:
    """tcpcore until all bytes of all streams are handed out, as libnids does: while reading."""

    def run() -> tuple[float, int]:
        result = worker("handing", path=str(path))
        return result["seconds"], int(result["packets"])

    return Contender("tcpcore, streams handed out", run)


class Yardsticks:
    """All races and their verdicts, kept as rows for the report."""

    def __init__(
        self,
        work: Path,
        *,
        rounds: int = 5,
        quick: bool = False,
        large: bool = False,
        folder: Path | None = None,
        files: dict[str, Path] | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.work = work
        self.rounds = 1 if quick else rounds
        self.quick = quick
        self.large = large
        self.folder = folder
        self.files = files or {}
        self.say = say
        self.peers = Peers(work)
        self.rates: list[dict[str, object]] = []
        self.targets: list[dict[str, object]] = []

    def run(self) -> None:
        for race in (
            self.minimal,
            self.real,
            self.flood,
            self.bounded,
            self.population,
            self.live_state,
            self.one_byte,
            self.engines,
            self.command_line,
        ):
            self.say(f"measuring: {race.__name__.replace('_', ' ')}")
            race()

    # ---- captures

    def capture(self, name: str) -> Path:
        """A yardstick capture: a given file, or one that is made and kept."""
        if name in self.files:
            return self.files[name]
        if name == "real":
            if self.folder is None:
                raise Unavailable("no folder of real captures: --captures or TCPCORE_CAPTURES")
            path = self.work / ("real-quick.pcap" if self.quick else "real.pcap")
            if not path.exists():
                made = captures.Replicas(self.folder)
                captures.write(path, made.records(1 if self.quick else 400_000_000))
            return path
        if name == "flood":
            n = 20_000 if self.quick else 2_000_000
            return captures.write(self.work / f"flood-{n}.pcap", captures.flood(n))
        conns, packets = {
            "min64": (100_000, 5_000_000),
            "million": (1_000_000, 8_000_000),
            "large": (10_000_000, 80_000_000),
        }[name]
        if self.quick:
            conns, packets = conns // 200, packets // 200
        path = self.work / f"minimal-{conns}.pcap"
        return captures.write(path, captures.minimal(conns, packets))

    def start_of(self, name: str, packets: int) -> tuple[Path, int]:
        """The first packets of a capture, for those who would take too long for all of it."""
        path = self.work / f"start-of-{name}.pcap"
        return path, captures.head(self.capture(name), path, packets=packets)

    # ---- rows

    def race(self, capture: str, contenders: list[Contender], known: int = 0) -> None:
        """Let each run once a round, page cache warm; the first `known` have their rows already."""
        with open(self.capture(capture), "rb") as file:
            while file.read(MIB):
                pass
        for _ in range(self.rounds):
            for one in contenders:
                one.once()
        for one in contenders[known:]:
            row: dict[str, object] = {"capture": capture, "who": one.name, "note": one.missing}
            if one.times:
                row |= {"packets": one.packets, "mpps": one.rate / 1e6, "ns": one.ns}
            self.rates.append(row)

    def target(
        self,
        what: str,
        measure: Callable[[], float],
        *,
        least: float | None = None,
        most: float | None = None,
        unit: str = "",
        needs: Sequence[Contender] = (),
        note: str = "",
    ) -> None:
        """One figure of what must be reached, or why it was not measured."""
        row = {"what": what, "least": least, "most": most, "unit": unit, "note": note}
        missing = next((one.missing for one in needs if one.missing), "")
        if missing:
            row |= {"measured": None, "met": None, "note": missing}
        else:
            value = measure()
            row |= {"measured": value, "met": value >= least if most is None else value <= most}
        self.targets.append(row)

    def faster(self, what: str, one: Contender, other: Contender, least: float) -> None:
        """The ratio of two rates of packets."""
        self.target(what, lambda: one.rate / other.rate, least=least, needs=(one, other), unit="x")

    def slower(self, what: str, one: Contender, other: Contender, most: float) -> None:
        """The ratio of two times a packet."""
        self.target(what, lambda: one.ns / other.ns, most=most, needs=(one, other), unit="x")

    def unmeasured(self, what: str, reason: str, **bound: object) -> None:
        self.targets.append(
            {"least": None, "most": None, "unit": "", **bound}
            | {"what": what, "measured": None, "met": None, "note": reason}
        )

    # ---- the races

    def count(self, path: Path) -> int:
        return int(worker("replay", path=str(path), tables=False, runs=1, **PLAIN)["packets"])

    def minimal(self) -> None:
        path = self.capture("min64")
        n = self.count(path)
        start, first = self.start_of("min64", 1_000 if self.quick else 200_000)
        summary = ours("tcpcore, to the summary", path)
        columns = ours("tcpcore, all connection columns", path, tables=True)
        packets = ours("tcpcore, all columns of packets too", path, tables=True, packets=True)
        loop = self.peers.contender("loop", "bare libpcap loop", path, n)
        nids = self.peers.contender("nids", "libnids, checksums on", path, n)
        dpkt = self.peers.contender("dpkt", "dpkt and a dict", start, first)
        analysed = ours("tcpcore, analysis on, to the summary", path, **ANALYSED)
        streams = ours("tcpcore, streams handed out", path, streams=True)
        tshark = self.peers.contender("tshark", "tshark -z conv,tcp", start, first)
        entrants = [reading(path, n), summary, loop, columns, packets, nids, dpkt]
        self.race("min64", [*entrants, analysed, tshark, streams])
        what = "minimal frames, to the summary"
        self.faster(f"{what}: libpcap loop", summary, loop, 0.9)
        self.faster(f"{what}: libpcap loop (aim)", summary, loop, 1.1)
        self.faster(f"{what}: libnids", summary, nids, 15)
        self.faster(f"{what}: dpkt and a dict", summary, dpkt, 200)
        self.slower("minimal frames, columns of packets too: time", packets, columns, 1.5)
        self.faster("minimal frames, analysis on: libpcap loop", analysed, loop, 0.7)
        self.faster("minimal frames, analysis on: tshark -z conv,tcp", analysed, tshark, 130)
        self.faster("minimal frames, streams handed out: libnids", streams, nids, 3)

    def real(self) -> None:
        what = "real traffic, to the connection columns"
        wide = "real traffic, columns of packets too: time"
        bounds = {
            f"{what}: libpcap loop": 1.6,
            f"{what}: libnids": 4,
            f"{what}: nfstream": 45,
            "real traffic, analysis on, to the columns: libpcap loop": 1.4,
            "real traffic, analysis on, to the columns: tshark -z conv,tcp": 65,
            "real traffic, streams handed out: libnids": 3,
        }
        try:
            path = self.capture("real")
        except (Unavailable, FileNotFoundError) as reason:
            for name, least in bounds.items():
                self.unmeasured(name, str(reason), least=least, unit="x")
            self.unmeasured(wide, str(reason), most=1.5, unit="x")
            return
        n = self.count(path)
        start, first = self.start_of("real", 1_000 if self.quick else 200_000)
        columns = ours("tcpcore, all connection columns", path, tables=True)
        packets = ours("tcpcore, all columns of packets too", path, tables=True, packets=True)
        loop = self.peers.contender("loop", "bare libpcap loop", path, n)
        nids = self.peers.contender("nids", "libnids, checksums on", path, n)
        nfstream = self.peers.contender("nfstream", "nfstream, no dissection", start, first)
        label = "tcpcore, analysis on, all connection columns"
        analysed = ours(label, path, tables=True, **ANALYSED)
        streams = handing(path)
        tshark = self.peers.contender("tshark", "tshark -z conv,tcp", start, first)
        entrants = [reading(path, n), columns, loop, packets, nids, nfstream]
        self.race("real", [*entrants, analysed, tshark, streams])
        ones = [columns, columns, columns, analysed, analysed, streams]
        others = [loop, nids, nfstream, loop, tshark, nids]
        for (name, least), one, other in zip(bounds.items(), ones, others, strict=True):
            self.faster(name, one, other, least)
        self.slower(wide, packets, columns, 1.5)

    def flood(self) -> None:
        path = self.capture("flood")
        n = self.count(path)
        summary = ours("tcpcore, to the summary", path)
        columns = ours("tcpcore, all connection columns", path, tables=True)
        loop = self.peers.contender("loop", "bare libpcap loop", path, n)
        self.race("flood", [reading(path, n), summary, loop, columns])
        self.faster("flood of SYNs, to the summary: libpcap loop", summary, loop, 0.6)
        self.faster("flood of SYNs, to all columns: libpcap loop", columns, loop, 0.4)

    def bounded(self) -> None:
        """The flood with --max-connections: does memory stay, does the rate."""
        path, most = self.capture("flood"), 10_000 if self.quick else 100_000
        runs = [worker("bounded", path=str(path), most=most) for _ in range(self.rounds)]

        def median(name: str) -> float:
            return statistics.median(run[name] for run in runs)

        option = f"--max-connections {most}"
        what = f"flood, {option}"
        self.rates.append(
            {
                "capture": "flood",
                "who": f"tcpcore, {option}",
                "packets": runs[0]["packets"],
                "ns": median("seconds") / runs[0]["packets"] * 1e9,
                "mpps": runs[0]["packets"] / median("seconds") / 1e6,
                "note": "",
            }
        )
        self.target(
            f"{what}: peak RSS grew by",
            lambda: median("grown") / 1e6,
            most=64 + most * 224 / 1e6,
            unit=" MB",
            note=f"{median('grown_filling') / 1e6:.0f} MB when the bound was met",
        )
        self.target(
            f"{what}: time a packet, past the bound to before it",
            lambda: median("full_ns") / median("filling_ns"),
            most=1.0,
            unit="x",
            note=f"{median('filling_ns'):.0f} ns before, {median('full_ns'):.0f} ns past it",
        )

    def population(self) -> None:
        """A million connections, and ten."""
        rounds = self.rounds if not self.large else min(self.rounds, 3)
        names = ["million", "large"] if self.large else ["million"]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                path = str(self.capture(name))
                found[name].append(worker("replay", path=path, tables=False, **PLAIN))
        ns = {}
        for name, runs in found.items():
            conns, packets = runs[0]["connections"], runs[0]["packets"]
            ns[name] = statistics.median(run["seconds"] for run in runs) / packets * 1e9
            self.rates.append(
                {
                    "capture": f"minimal, {conns:,.0f} connections",
                    "who": "tcpcore, to the summary",
                    "packets": packets,
                    "ns": ns[name],
                    "mpps": 1e3 / ns[name],
                    "note": "",
                }
            )
            grown = statistics.median(run["grown"] for run in runs)
            self.target(
                f"{conns:,.0f} connections: peak RSS beyond 64 MB, a connection",
                lambda grown=grown, conns=conns: max(0.0, grown - 64e6) / conns,
                most=224,
                unit=" B",
                note=f"RSS grew by {grown / 1e6:,.0f} MB, {grown / conns:.0f} B a connection",
            )
        what = "10,000,000 connections: time a packet to that of 1,000,000"
        if self.large:
            self.target(what, lambda: ns["large"] / ns["million"], most=2.2, unit="x")
        else:
            self.unmeasured(what, "with --large (6 GB of disk)", most=2.2, unit="x")

    def live_state(self) -> None:
        """A million connections with the analysis, as the engine counts them and as RSS has it."""
        path = str(self.capture("million"))
        runs = [worker("live", path=path, analysis=True) for _ in range(self.rounds)]
        conns = runs[0]["live"]
        what = f"{conns:,.0f} connections, analysis on"
        grown = statistics.median(run["grown"] for run in runs)
        self.target(
            f"{what}: live state, a connection",
            lambda: runs[0]["memory"] / conns,
            most=512,
            unit=" B",
            note="as the engine counts it",
        )
        self.target(
            f"{what}: peak RSS beyond 64 MB, a connection",
            lambda: max(0.0, grown - 64e6) / conns,
            most=512,
            unit=" B",
            note=f"RSS grew by {grown / 1e6:,.0f} MB, {grown / conns:.0f} B a connection",
        )

    def one_byte(self) -> None:
        """Streams of one-byte segments: time a segment, and memory, in any order."""
        counts = (100, 1_000) if self.quick else (10_000, 100_000, 1_000_000)
        most, grown = counts[-1], {}
        for order in captures.ORDERS:
            found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
            for _ in range(self.rounds):
                for count, runs in found.items():
                    name = f"one-byte-{order.replace(' ', '-')}-{count}.pcap"
                    path = captures.write(self.work / name, captures.one_byte(count, order))
                    job = {"path": str(path), "tables": False, "streams": True} | PLAIN
                    runs.append(worker("replay", **job))
            ns = {}
            for count, runs in found.items():
                if any(run["handed"] != count for run in runs):
                    raise ValueError(f"{order}: not {count} bytes were handed out")
                ns[count] = statistics.median(run["seconds"] for run in runs) / count * 1e9
                self.rates.append(
                    {
                        "capture": f"one-byte segments, {order}",
                        "who": "tcpcore, streams handed out",
                        "packets": count,
                        "ns": ns[count],
                        "mpps": 1e3 / ns[count],
                        "note": "",
                    }
                )
            grown[order] = statistics.median(run["grown"] for run in found[most])
            self.target(
                f"{most:,} one-byte segments, {order}: time a segment to that of {counts[0]:,}",
                lambda ns=ns: ns[most] / ns[counts[0]],
                most=2,
                unit="x",
                note=", ".join(f"{value:.0f} ns" for value in ns.values()),
            )
        order = max(grown, key=lambda order: grown[order])
        self.target(
            f"{most:,} one-byte segments, any order: peak RSS beyond 64 MB, a segment",
            lambda: max(0.0, grown[order] - 64e6) / most,
            most=232,
            unit=" B",
            note=f"{order}: {grown[order] / 1e6:,.0f} MB; 32 B are noted, 200 put in order",
        )

    def engines(self) -> None:
        path, _ = self.start_of("min64", 1_000 if self.quick else 20_000)
        slow = ours("tcpcore, reference engine, to the summary", path, engine="reference", runs=1)
        fast = ours("tcpcore, compiled", self.capture("min64"), engine="compiled")
        self.race("min64", [fast, slow], known=1)
        self.faster("compiled engine: reference engine", fast, slow, 100)
        rate = " packets/s"
        self.target("reference engine", lambda: slow.rate, least=20_000, unit=rate, needs=(slow,))

    def command_line(self) -> None:
        """`tcpcore replay` of 10 MB beside a Python that imports what any command would."""
        source = self.capture("real" if self.folder or "real" in self.files else "min64")
        path = self.work / "ten-megabytes.pcap"
        captures.head(source, path, size=100_000 if self.quick else 10_000_000)
        script = Path(sys.executable).with_name("tcpcore")
        command = [script] if script.exists() else [sys.executable, "-m", "tcpcore"]
        with_work, without = [], []
        for _ in range(3 * self.rounds):
            plain = ["replay", "--no-analysis", "--checksum", "ignore", path]
            with_work.append(spend([*command, *plain])[0])
            without.append(spend([sys.executable, "-c", "import argparse, json"])[0])
        base = statistics.median(without)
        self.target(
            "`tcpcore replay` of 10 MB beyond `import argparse, json`",
            lambda: (statistics.median(with_work) - base) * 1e3,
            most=60,
            unit=" ms",
            note=f"which takes {base * 1e3:.0f} ms",
        )
