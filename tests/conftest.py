"""What every test may ask for: either engine, the compiled one, the shared captures."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from tcpcore.engine import load

SUFFIXES = (".pcap", ".pcapng", ".cap")


def _load(name: str) -> ModuleType:
    try:
        return load(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["reference", "compiled"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    """Each engine in turn."""
    return _load(request.param)


@pytest.fixture
def compiled() -> ModuleType:
    """The compiled engine."""
    return _load("compiled")


@pytest.fixture
def reference() -> ModuleType:
    """The reference engine."""
    return _load("reference")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Call a test that takes `capture` with each file of the folder TCPCORE_CAPTURES."""
    if "capture" not in metafunc.fixturenames:
        return
    folder = os.environ.get("TCPCORE_CAPTURES")
    if folder:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in SUFFIXES)
        metafunc.parametrize("capture", files, ids=lambda path: path.name)
    else:
        reason = "TCPCORE_CAPTURES does not name the folder of the shared captures"
        metafunc.parametrize("capture", [pytest.param(None, marks=pytest.mark.skip(reason=reason))])
