"""What fuzzing found stays found: every input that was a finding runs once more.

The fuzzers of tests/fuzz look for more of them, docs/fuzzing.md tells how.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.append(str(FUZZ))

import fuzz_endpoint  # noqa: E402
import fuzz_filter  # noqa: E402
import fuzz_lockstep  # noqa: E402

FOUND = sorted((FUZZ / "found").iterdir())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_found(compiled, path):
    """T-13, T-23: no input crashes the engine, and no way to cut it changes what comes out."""
    one = "import sys, fuzz_replay; fuzz_replay.one(sys.stdin.buffer.read())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FUZZ), *sys.path])}
    with path.open("rb") as file:
        subprocess.run([sys.executable, "-c", one], stdin=file, check=True, env=environment)


@pytest.mark.parametrize("first", range(0, 400, 10))
def test_both_engines(reference, compiled, first):
    """T-13, T-23: on captures of any kind, with any options, both engines tell the same."""
    folder = os.environ.get("TCPCORE_CAPTURES", "")
    for seed in range(first, first + 10):
        print(f"seed {seed}")
        fuzz_lockstep.one(seed, reference, compiled, folder)


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_filters(reference, compiled, first):
    """T-25: what was written of a filter, and what of a program, never does harm."""
    for seed in range(first, first + 100):
        print(f"seed {seed}")
        fuzz_filter.text(seed, reference, compiled)
        fuzz_filter.program(seed, reference, compiled)


@pytest.mark.parametrize("first", range(0, 300, 20))
def test_endpoints(reference, compiled, first):
    """T-12, T-26: whatever two hosts are asked, sent and told, both engines do the same of it;
    once all is closed and time has passed, nothing is left."""
    for seed in range(first, first + 20):
        print(f"seed {seed}")
        fuzz_endpoint.one(fuzz_endpoint.drawn(seed), "reference", "compiled")


@pytest.mark.parametrize("first", range(1000, 1600, 100))
def test_endpoints_alone(compiled, first):
    """T-12, T-26: the compiled engine alone, which the sanitizers watch."""
    for seed in range(first, first + 100):
        print(f"seed {seed}")
        fuzz_endpoint.one(fuzz_endpoint.drawn(seed))
