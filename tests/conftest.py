"""What every test may ask for: either engine, the compiled one, the shared captures."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from tcpcore.engine import load

SUFFIXES = (".pcap", ".pcapng", ".cap")
NO_CAPTURES = "TCPCORE_CAPTURES does not name the folder of the shared captures"


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


@pytest.fixture(scope="session")
def captures() -> list[Path]:
    """All files of the folder TCPCORE_CAPTURES."""
    folder = os.environ.get("TCPCORE_CAPTURES")
    if not folder:
        pytest.skip(NO_CAPTURES)
    return sorted(path for path in Path(folder).iterdir() if path.suffix in SUFFIXES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Call a test that takes `capture` with each file of the folder TCPCORE_CAPTURES."""
    if "capture" not in metafunc.fixturenames:
        return
    folder = os.environ.get("TCPCORE_CAPTURES")
    if folder:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in SUFFIXES)
        metafunc.parametrize("capture", files, ids=lambda path: path.name)
    else:
        missing = pytest.param(None, marks=pytest.mark.skip(reason=NO_CAPTURES))
        metafunc.parametrize("capture", [missing])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what asks for the compiled engine by name where there is none."""
    callspec = getattr(item, "callspec", None)
    if callspec and any(isinstance(v, str) and v == "compiled" for v in callspec.params.values()):
        _load("compiled")
