"""Each packet script, run on the engine, gives what Linux 7.3 gave (tests/data/linux.txt).

A script's docstring names the rows that it shows: `9293:MUST-8`, `RFC 5961`, `T-08`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from script import Host, Script, net_of
from scripts import every_script

SCRIPTS = every_script()
GOLDEN = Path(__file__).parent / "data" / "linux.txt"
# Of the Linux that was asked.
SYSCTL = {"tcp_rmem": (4096, 131072, 6291456), "tcp_early_retrans": 0}
TIMED = re.compile(r"\s*(\d+\.\d{3}) (.*)")
# Linux's timers have grains that grow with the time, an eighth at most, and its scripts a clock
# that runs while they think; ours are exact to the tick.
SLACK, GRAIN = 0.05, 0.13


def without_windows(line: str) -> str:
    return re.sub(r" win \d+", "", line)


def without_rtt(line: str) -> str:
    return re.sub(r" rto=\d+", "", line)


def unscaled(line: str) -> str:
    return re.sub(r" win (502|64240|64230)", "", line)


# Where this stack is not like Linux, and why; both sides are compared after what is named here.
DEVIATES: dict[str, tuple[str, Callable[[str], str]]] = {
    "matrix_SYN_RECV_ACTIVE": (
        "Linux scales the windows of a simultaneous open that offered no scale (RFC 7323 2.2)",
        unscaled,
    ),
    "simultaneous_open_ack": ("the same", unscaled),
    "quick_acks": ("a truesize's last bytes: windows differ by up to 4 units", without_windows),
    "quick_acks_read": ("the same", without_windows),
    "delayed_ack": ("the same", without_windows),
    "quickack_option": ("the same", without_windows),
    "out_of_order": ("the same", without_windows),
    "zero_window": ("the same", without_windows),
    "zero_window_rst": ("the same", without_windows),
    "zero_window_small": ("the same", without_windows),
}
# What is not compared with Linux: ours alone is stated, in test_endpoint.py.
OURS_ALONE = {
    "fast_retransmit_sack": "its handshake takes no time here, and RACK waits a part of that",
    "paws_24_days": "25 days take too long where time is not virtual",
}


@cache
def golden() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("== "):
            lines = found[line[3:]] = []
        else:
            lines.append(line)
    return found


def run(engine: ModuleType, name: str) -> list[str]:
    net_class = net_of(engine)
    if net_class is None:
        pytest.skip("this engine has no endpoint")
    function = SCRIPTS[name]
    script = Script(Host(net_class, SYSCTL | function.sysctl), function.ip)
    function(script)
    script.take()
    return script.lines


def same(theirs: list[str], ours: list[str]) -> str:
    """Empty, or what differs first."""
    last = 0.0, 0.0
    for i, (one, other) in enumerate(zip(theirs, ours, strict=False)):
        a, b = TIMED.fullmatch(one), TIMED.fullmatch(other)
        if a is None or b is None:
            if one != other:
                return f"line {i}: Linux {one!r}, here {other!r}"
            continue
        times = float(a[1]), float(b[1])
        steps = [max(now - then, 0) for now, then in zip(times, last, strict=True)]
        last = times
        close = abs(steps[0] - steps[1]) <= SLACK + GRAIN * max(steps)
        close = close or abs(times[0] - times[1]) <= SLACK + GRAIN * max(times)
        if a[2] != b[2] or not close:
            return f"line {i}: Linux {one!r}, here {other!r}"
    if len(theirs) != len(ours):
        return f"Linux has {len(theirs)} lines, here are {len(ours)}"
    return ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_linux(engine: ModuleType, name: str) -> None:
    ours = run(engine, name)
    if name in OURS_ALONE:
        return
    theirs = golden()[name]
    if name in DEVIATES:
        alike = DEVIATES[name][1]
        theirs, ours = [alike(line) for line in theirs], [alike(line) for line in ours]
    different = same(theirs, ours)
    assert not different, "\n".join([different, *ours])


@pytest.mark.parametrize("name", [n for n in SCRIPTS if n.startswith("matrix_")])
def test_matrix(engine: ModuleType, name: str) -> None:
    """RFC 9293 3.10.7, RFC 5961: what holds in every state, whatever Linux does."""
    for line in run(engine, name):
        match = re.fullmatch(r"> (\w+) (\w+): (.*) -> (\w+)", line)
        assert match, line
        flags, place, answer, state = match.groups()
        if flags == "R" or flags == "RA":
            assert not re.search(r"\bR", answer), f"{line}: a reset never answers one"
            if place in ("below", "above") and "SENT" not in name:
                assert answer == "-" or name.endswith("LISTEN"), line
                assert state != "CLOSE" or name in ("matrix_CLOSE", "matrix_LISTEN"), line
        if name == "matrix_ESTABLISHED":
            if flags == "R" and place == "at":
                assert state == "CLOSE", line
            elif flags.startswith("R"):
                assert state == ("CLOSE" if place == "at" else "ESTABLISHED"), line
            if flags in ("S", "SA"):
                assert (answer[:2], state) == ("A ", "ESTABLISHED"), line
            if place in ("below", "above") and flags in ("A", "FA", "data"):
                assert (answer[:2], state) == ("A ", "ESTABLISHED"), line
        if name == "matrix_CLOSE" and not flags.startswith("R"):
            assert answer.startswith("R"), line
