"""The counters of SNMP at the end of packet scripts: what Linux counts and what we do."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tcpcore.mib import COUNTERS
from tcpcore.packetdrill import runner, session

if TYPE_CHECKING:
    from tcpcore.packetdrill.script import Event
    from tcpcore.packetdrill.target import Result, Target

SEEN = "counters:"
SHOWN = 4
TOLERANCE_US = 30_000  # the first look takes the kernel a while


def counters(target: Target) -> dict[str, int]:
    """Every counter of a target by its name."""
    if target.name == "tcpcore":
        return target.counters()  # type: ignore[attr-defined, no-any-return]
    found: dict[str, int] = {}
    for path in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = [line.split() for line in Path(path).read_text().splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group = names[0].removesuffix(":")
            found |= {group + one: int(value) for one, value in zip(names, values, strict=True)
                      if not one.endswith(":")}  # fmt: skip
    return found


def watched(script: str, target: str, engine: str | None) -> tuple[Result, dict[str, int]]:
    """Run a script; what was counted while it ran."""
    counted: dict[str, int] = {}

    class Watcher(runner.Runner):
        base: dict[str, int] | None = None

        def perform(self, event: Event, start: int, end: int) -> None:
            if self.base is None:
                self.base = counters(self.target)
            super().perform(event, start, end)

        def run(self) -> None:
            super().run()
            base = self.base or {}
            since = {name: n - base.get(name, 0) for name, n in counters(self.target).items()}
            self.log.append(SEEN + json.dumps({name: n for name, n in since.items() if n}))

    kept, runner.Runner = runner.Runner, Watcher  # type: ignore[misc]
    try:
        options = {"tolerance_usecs": TOLERANCE_US}
        result = session.run(script, target=target, engine=engine, options=options)
    finally:
        runner.Runner = kept  # type: ignore[misc]
    for one in result.log:
        if one.startswith(SEEN):  # the log alone comes back from the kernel's process
            counted = json.loads(one.removeprefix(SEEN))
    return result, counted


def compare(answers: str, engine: str | None) -> int:
    """Tell of each counter in how many scripts it differs."""
    places: dict[str, list[str]] = defaultdict(list)
    not_ours: Counter[str] = Counter()
    scripts = Path(answers).read_text().splitlines()
    for text in scripts:
        script, theirs = json.loads(text)
        result, ours = watched(script, "tcpcore", engine)
        if result.kind != "pass":
            print(f"{script}: {result.error}")
        not_ours.update(theirs.keys() - set(COUNTERS))
        for name in COUNTERS:
            told = theirs.get(name, 0), ours.get(name, 0)
            if told[0] != told[1]:
                places[name].append("{} {} {}".format(script, *told))
    for name in sorted(places, key=lambda name: -len(places[name])):
        print(f"{name}: {len(places[name])} of {len(scripts)}")
        for place in places[name][:SHOWN]:
            print(f"    {place}")
    print("not ours:", *(f"{name}={count}" for name, count in not_ours.most_common()))
    return 1 if places else 0


def main(arguments: list[str]) -> int:
    """`kernel SCRIPT.pkt…` asks it (root, TUN); `compare ANSWERS [ENGINE]`; `show SCRIPT [TARGET]`.

    Each place is a script, the kernel's count and ours.
    """
    verb, *rest = arguments
    if verb == "kernel":
        for script in rest:
            result, counted = watched(script, "kernel", None)
            if result.kind == "pass":
                print(json.dumps([script, counted]))
            else:
                print(f"{script}: {result.error}", file=sys.stderr)
        return 0
    if verb == "compare":
        return compare(rest[0], rest[1] if rest[1:] else None)
    _, counted = watched(rest[0], rest[1] if rest[1:] else "tcpcore", None)
    print(" ".join(f"{name}={value}" for name, value in counted.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
