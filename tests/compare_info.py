"""TCP_INFO and SO_MEMINFO after each event of packet scripts: what Linux tells and what we do."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tcpcore.packetdrill import runner, session
from tcpcore.packetdrill.script import Event
from tcpcore.packetdrill.target import Result

# How far a time may be off: by the kernel's ticks, and by what its events take.
GRAIN = {
    "tcpi_last_data_sent": 9, "tcpi_last_data_recv": 9, "tcpi_last_ack_recv": 9,  # ms
    "tcpi_rtt": 2000, "tcpi_rttvar": 2000, "tcpi_rto": 8000, "tcpi_min_rtt": 2000,  # us
    "tcpi_rcv_rtt": 4000, "tcpi_busy_time": 9000, "tcpi_rwnd_limited": 9000,
    "tcpi_sndbuf_limited": 9000, "tcpi_total_rto_time": 20,
}  # fmt: skip
SHARE = {
    "tcpi_pacing_rate": 0.2, "tcpi_delivery_rate": 0.3,  # they follow the round trip
    "tcpi_total_rto_time": 0.06, "tcpi_busy_time": 0.06, "tcpi_rwnd_limited": 0.06,
    "tcpi_rtt": 0.3, "tcpi_rttvar": 0.3,
}  # fmt: skip
NOT_TOLD = {"tcpi_scales", "tcpi_flags", "tcpi_max_pacing_rate"}
SHOWN = 4
TOLERANCE_US = 30_000  # looking takes the kernel a while


def watched(script: str, target: str, engine: str | None) -> tuple[Result, list[Any]]:
    """Run a script; (line, fields) after each event of it."""
    seen = "info:"

    class Watcher(runner.Runner):
        def look(self, event: Event) -> None:
            fd = None if self.flow is None else self.flow.fd
            live = None if fd is None else self.calls.fds.get(fd)
            if live is not None and not self.blocked:
                self.log.append(seen + json.dumps([event.line, self.target.info(live)]))

        def perform(self, event: Event, start: int, end: int) -> None:
            super().perform(event, start, end)
            self.look(event)

        def outbound(self, event: Event) -> None:
            super().outbound(event)
            self.look(event)

    kept, runner.Runner = runner.Runner, Watcher  # type: ignore[misc]
    try:
        options = {"tolerance_usecs": TOLERANCE_US}
        result = session.run(script, target=target, engine=engine, options=options)
    finally:
        runner.Runner = kept  # type: ignore[misc]
    return result, [
        json.loads(one.removeprefix(seen)) for one in result.log if one.startswith(seen)
    ]


def alike(name: str, theirs: int, ours: int) -> bool:
    if name.startswith("tcpi_last_") and theirs >> 31:
        return True  # nothing came yet: it is since the machine began
    share = SHARE.get(name, 0) * max(theirs, ours)
    return abs(theirs - ours) <= max(share, GRAIN.get(name, 0))


def compare(answers: str, engine: str | None) -> int:
    counts: Counter[str] = Counter()
    places: dict[str, list[str]] = defaultdict(list)
    events = 0
    told_of: dict[str, list[Any]] = defaultdict(list)
    for text in Path(answers).read_text().splitlines():
        script, line, info = json.loads(text)
        told_of[script].append((line, defaultdict(int, info)))
    for script, told in told_of.items():
        result, ours = watched(script, "tcpcore", engine)
        if result.kind != "pass":
            print(f"{script}: {result.error}")
        for (line, theirs), (_, found) in zip(told, ours, strict=False):
            events += 1
            mine = dict.fromkeys(theirs, 0) | found
            for name in sorted(mine.keys() - NOT_TOLD):
                if not alike(name, theirs[name], mine[name]):
                    counts[name] += 1
                    places[name].append(f"{script}:{line} {theirs[name]} {mine[name]}")
    for name, count in counts.most_common():
        print(f"{name}: {count} of {events}")
        for place in places[name][:SHOWN]:
            print(f"    {place}")
    return 1 if counts else 0


def main(arguments: list[str]) -> int:
    """`kernel SCRIPT.pkt…` asks it (root, TUN); `compare ANSWERS [ENGINE]`; `show SCRIPT [ENGINE]`.

    What is compared is told by field: how often it differs, and where first.
    """
    verb, *rest = arguments
    if verb == "kernel":
        for script in rest:
            result, told = watched(script, "kernel", None)
            if result.kind != "pass":
                print(f"{script}: {result.error}", file=sys.stderr)
            for line, info in told:
                print(json.dumps([script, line, {k: v for k, v in info.items() if v}]))
        return 0
    engine = rest[1] if rest[1:] else None
    if verb == "compare":
        return compare(rest[0], engine)
    target, engine = ("kernel", None) if engine == "kernel" else ("tcpcore", engine)
    for line, info in watched(rest[0], target, engine)[1]:
        print(line, " ".join(f"{name}={value}" for name, value in info.items() if value))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
