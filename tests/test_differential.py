"""Random sequences: each engine gives what Linux 7.3 gave, and what the machine's own Linux gives.

tests/data/differential.txt holds plans with the answers and times of Linux 7.3, a line each.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from differential import Maker, differs, kernel, replay
from script import net_of

ANSWERS = Path(__file__).parent / "data" / "differential.txt"
SECONDS = 4  # of a plan that the machine's own kernel is asked for


@cache
def answers() -> dict[int, dict[str, Any]]:
    """What Linux 7.3 said, by seed."""
    found = map(json.loads, ANSWERS.read_text().splitlines())
    return {answer["plan"]["seed"]: answer for answer in found}


@pytest.mark.parametrize("seed", answers())
def test_as_linux_7_3(engine: ModuleType, seed: int) -> None:
    """Every packet and every result, at its time."""
    answer = answers()[seed]
    different = differs(answer, replay(net_of(engine), answer))
    assert not different, f"seed {seed}: {different}"


@cache
def asked() -> list[dict[str, Any]]:
    """What the machine's own kernel says to some of the plans, over TUN in namespaces."""
    chosen = [
        answer["plan"]
        for answer in answers().values()
        if answer.get("old") and answer["times"][-1] < SECONDS * 10**9
    ]
    return list(kernel(random.Random(0).sample(chosen, min(len(chosen), 12)), beside=6))


def test_as_the_machines_linux(engine: ModuleType) -> None:
    """The same of the machine's own kernel; who is late is asked once more."""
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("needs root and TUN")
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version is None or (int(version[1]), int(version[2])) < (6, 18):
        pytest.skip("needs Linux 6.18, whose receive windows are as those of 7.3")

    def wrong(told: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
        found = []
        for answer in told:
            if "error" in answer:
                pytest.skip(answer["error"])
            different = differs(answer, replay(net_of(engine), answer))
            if different:
                found.append((answer["plan"], different))
        return found

    found = wrong(asked())
    if found:
        found = wrong(kernel([plan for plan, _ in found], beside=6))
    assert not found, [(plan["seed"], different) for plan, different in found]


@pytest.mark.parametrize("seed", range(20))
def test_both_engines_make_the_same_plans(compiled: ModuleType, seed: int) -> None:
    """A plan follows the timers of the engine that takes its steps: they are alike."""
    reference = net_of(__import__("tcpcore.reference.core", fromlist=["core"]))
    assert Maker(net_of(compiled), seed).make() == Maker(reference, seed).make()
