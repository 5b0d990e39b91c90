"""Which engine runs: what the environment asks for, and what is said where it cannot be had.

The choice is made once, at import, so each test starts a Python of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from tcpcore import engine as engines

SHOW = "import tcpcore; from tcpcore import engine; print(tcpcore.ENGINE, engine.load().isa())"
MISSING = "import sys; sys.modules['tcpcore._core'] = None; "
WHEEL = """
import importlib.metadata as metadata
class Installed:
    def read_text(self, name):
        return "Wheel-Version: 1.0\\nTag: {tag}\\n"
metadata.distribution = lambda name: Installed()
"""


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("TCPCORE_", "PYTHONWARN"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=kept | env, capture_output=True, text=True, check=False)


def test_pure() -> None:
    done = python(SHOW, TCPCORE_PURE="1", TCPCORE_ISA="baseline", TCPCORE_REQUIRE="1")
    assert (done.stdout, done.stderr) == ("reference python\n", "")


def test_zero_is_off(compiled: ModuleType) -> None:
    assert python(SHOW, TCPCORE_PURE="0").stdout.split()[0] == "compiled"


def test_missing_is_loud() -> None:
    done = python(MISSING + SHOW)
    assert done.stdout == "reference python\n"
    assert "RuntimeWarning" in done.stderr
    assert "TCPCORE_REQUIRE=1" in done.stderr


def test_missing_where_required() -> None:
    done = python(MISSING + SHOW, TCPCORE_REQUIRE="1")
    assert done.returncode == 1
    assert "ImportError: TCPCORE_REQUIRE is set" in done.stderr


def test_pure_wheel_is_quiet() -> None:
    """It was asked for; the wheel of a build that failed has its platform's tag."""
    asked = python(WHEEL.format(tag="py3-none-any") + MISSING + SHOW)
    assert (asked.stdout, asked.stderr) == ("reference python\n", "")
    failed = python(WHEEL.format(tag="cp311-cp311-linux_x86_64") + MISSING + SHOW)
    assert "RuntimeWarning" in failed.stderr


def test_isa(compiled: ModuleType) -> None:
    assert python(SHOW, TCPCORE_ISA="baseline").stdout == "compiled baseline\n"
    assert python(SHOW, TCPCORE_ISA="").stdout.startswith("compiled ")


def test_isa_that_is_none(compiled: ModuleType) -> None:
    done = python(SHOW, TCPCORE_ISA="mmx")
    assert done.returncode == 1
    assert "ValueError: TCPCORE_ISA: no instruction set 'mmx' here" in done.stderr


def test_load(engine: ModuleType) -> None:
    assert engines.load(engine.ENGINE) is engine
    assert engines.load().ENGINE == engines.ENGINE


def test_load_another_word() -> None:
    with pytest.raises(ValueError, match="'fast'"):
        engines.load("fast")
