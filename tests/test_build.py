"""Every way to build and install; the engine asked for is the engine that runs.

No index is needed: the builds use the setuptools and Cython of the environment the tests run in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
FOLDERS = ("tcpcore", "pyx", "tests", "bench", "docs", "examples")
LOUD = "tcpcore._core could not be built"
SMOKE = """
import sys, tcpcore
replay = tcpcore.replay(sys.argv[1])
print(tcpcore.ENGINE, len(replay.connections), replay.connections["conn"][-1])
"""


def missing() -> str:
    """Say what the environment lacks to build without an index."""
    for name, major in (("setuptools", 77), ("cython", 3)):
        try:
            if int(metadata.version(name).split(".")[0]) < major:
                return f"{name} is older than {major}"
        except metadata.PackageNotFoundError:
            return f"{name} is not installed"
    return "" if shutil.which("cc") or shutil.which("gcc") else "no C compiler"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("TCPCORE_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pip_wheel(source: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    offline = ("--no-build-isolation", "--no-deps", "--no-index")
    return run("-m", "pip", "wheel", "-v", *offline, "-w", out, source, cwd=out, **environment)


def unpack(wheel: Path, out: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out)
    return out


def smoke(installed: Path, **environment: str) -> tuple[list[str], str]:
    """Replay the shipped capture in a fresh process; its words and what it wrote to stderr."""
    capture = ROOT / "examples" / "http.pcap"
    # -S: no .pth file brings in what the environment itself has installed as editable.
    path = os.pathsep.join([str(installed), sysconfig.get_path("platlib")])
    done = run("-S", "-c", SMOKE, capture, cwd=installed, PYTHONPATH=path, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clean copy of the sources, and beside it a place for wheels."""
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    (tmp_path / "out").mkdir()
    return copy


def test_pure_wheel(source: Path, tmp_path: Path) -> None:
    done = pip_wheel(source, tmp_path / "out", TCPCORE_PURE="1")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    installed = unpack(wheel, tmp_path / "installed")
    assert not list(installed.rglob("*_core*.so"))
    assert (installed / "tcpcore" / "py.typed").exists()
    words, complaint = smoke(installed)
    assert words == ["reference", "6", "5"]
    assert not complaint, "this build was asked for, so there is nothing to warn of"


def test_no_compiler_is_loud(source: Path, tmp_path: Path) -> None:
    done = pip_wheel(source, tmp_path / "out", CC="/bin/false")
    assert done.returncode == 0, done.stderr
    assert LOUD in done.stdout + done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert not wheel.name.endswith("-py3-none-any.whl"), "the pure wheel is another one"
    installed = unpack(wheel, tmp_path / "installed")
    words, complaint = smoke(installed)
    assert words == ["reference", "6", "5"]
    assert "RuntimeWarning" in complaint
    assert smoke(installed, TCPCORE_PURE="1") == (["reference", "6", "5"], "")


def test_no_compiler_where_one_is_required(source: Path, tmp_path: Path) -> None:
    done = pip_wheel(source, tmp_path / "out", CC="/bin/false", TCPCORE_REQUIRE="1")
    assert done.returncode != 0
    assert not list((tmp_path / "out").glob("*.whl"))


def test_wheel_from_sdist(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    succeed("-c", build, out, cwd=source)
    (sdist,) = out.glob("*.tar.gz")
    unpacked = tmp_path / "sdist"
    shutil.unpack_archive(sdist, unpacked)
    (top,) = unpacked.iterdir()
    packed = {str(path.relative_to(top)) for path in top.rglob("*")}
    wanted = {
        str(path.relative_to(source))
        for folder in FOLDERS
        for path in (source / folder).rglob("*")
        if path.suffix != ".pyc" and path.name != "__pycache__"
    }
    assert wanted <= packed
    assert not [path for path in packed if path.endswith(".so") or path.startswith("build/")]

    done = pip_wheel(sdist, out, TCPCORE_REQUIRE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    installed = unpack(wheel, tmp_path / "installed")
    assert smoke(installed) == (["compiled", "6", "5"], "")
    assert smoke(installed, TCPCORE_PURE="1") == (["reference", "6", "5"], "")


def test_editable(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    offline = ("--no-build-isolation", "--no-deps", "--no-index")
    install = ("-m", "pip", "install", "-q", *offline, "--target", target, "-e", source)
    succeed(*install, cwd=tmp_path, TCPCORE_REQUIRE="1")
    assert list((source / "tcpcore").glob("_core*"))
    # A folder on PYTHONPATH is not searched for .pth files; the source is what they point at.
    assert smoke(source) == (["compiled", "6", "5"], "")


def test_a_change_of_a_header_rebuilds(source: Path) -> None:
    build = ("setup.py", "-q", "build_ext", "--inplace")
    succeed(*build, cwd=source, TCPCORE_DEBUG="1")
    (built,) = (path for path in (source / "tcpcore").glob("_core.*") if path.suffix != ".pyi")
    before = built.stat().st_mtime_ns
    succeed(*build, cwd=source, TCPCORE_DEBUG="1")
    assert built.stat().st_mtime_ns == before
    (source / "pyx" / "tcp.pxd").touch()
    succeed(*build, cwd=source, TCPCORE_DEBUG="1")
    assert built.stat().st_mtime_ns != before
