"""Fuzz the compiled engine with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

``python tests/fuzz/run.py --seconds 60``; `--target endpoint` for hosts instead of captures. Needs
clang and a shared libpython. docs/fuzzing.md tells more. Exit status 0: nothing was found; 77: it
cannot run here, and the reason is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
UNAVAILABLE = 77
SANITIZERS = "address,undefined"
SEED_BYTES = 6000
# Options by fuzz_replay.options: everything; small bounds; a filter and its program; nothing.
HEADS = (
    b"\x23\x00\x00\x08\x00\x00",
    b"\x17\x2a\x40\xaf\x20\x00",
    b"\x43\x02\x00\x19\x00\x03",
    b"\x83\x00\x00\x38\x00\x06\x00\x00\x00\x01\x04\x00",
    b"\x00\x00\x00\x00\x00\x00",
)


def unavailable() -> str:
    """Tell why it cannot run here, or nothing."""
    if shutil.which("clang") is None:
        return "no clang"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return "this Python has no shared library"
    return ""


def build(work: Path, target: str) -> Path:
    """Build the package and a fuzzer with clang's sanitizers; where the fuzzer is."""
    package, program = work / "lib", work / target
    environment = os.environ | {
        "CC": "clang",
        "LDSHARED": "clang -shared",
        "CFLAGS": f"-fsanitize=fuzzer-no-link -fsanitize-ignorelist={HERE / 'ignore.txt'}",
        "TCPCORE_SANITIZE": "1",
        "TCPCORE_REQUIRE": "1",
    }
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", package]
    subprocess.run([*command, "--build-temp", work / "temp"], cwd=ROOT, env=environment, check=True)
    libdir = sysconfig.get_config_var("LIBDIR")
    command = ["clang", "-g", "-O1", f"-fsanitize=fuzzer,{SANITIZERS}", HERE / "fuzz_replay.c"]
    command += [
        f'-DMODULE="{target}"',
        "-I",
        sysconfig.get_path("include"),
        "-L",
        libdir,
        f"-Wl,-rpath,{libdir}",
    ]
    command += [f"-lpython{sysconfig.get_config_var('LDVERSION')}", "-o", program]
    subprocess.run(command, check=True)
    return program


def events(folder: Path) -> None:
    """Write some random streams of events, as many as fill a minute."""
    import fuzz_endpoint

    for seed in range(200):
        (folder / str(seed)).write_bytes(fuzz_endpoint.drawn(seed))


def seeds(folder: Path, captures: str) -> None:
    """Write the heads of captures, as they are and in tunnels and fragments, under some options;
    and what was found before."""
    import fuzz_lockstep

    for path in (HERE / "found").iterdir():
        shutil.copy(path, folder)
    for path in fuzz_lockstep.captures_in(captures):
        with path.open("rb") as file:
            data = file.read(SEED_BYTES)
        wrapped = fuzz_lockstep.wrapped(data, random.Random(path.name))
        for i, head in enumerate(HEADS):
            (folder / f"{path.name}.{i}").write_bytes(head + data)
            (folder / f"{path.name}.wrapped.{i}").write_bytes(head + wrapped[: 2 * SEED_BYTES])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--captures", default=os.environ.get("TCPCORE_CAPTURES", ""))
    parser.add_argument("--target", choices=("replay", "endpoint"), default="replay")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz")
    options, more = parser.parse_known_args()
    if reason := unavailable():
        print(f"not fuzzed: {reason}")
        return UNAVAILABLE
    work = options.work.resolve()
    program = build(work, f"fuzz_{options.target}")
    corpus = work / ("corpus" if options.target == "replay" else f"corpus-{options.target}")
    corpus.mkdir(parents=True, exist_ok=True)
    sys.path += [str(HERE.parent), str(ROOT)]
    if options.target == "replay":
        seeds(corpus, options.captures)
    else:
        events(corpus)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [work / "lib", HERE, *sys.path[1:]])),
        "PYTHONHOME": sys.base_prefix,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [program, "-close_fd_mask=1", "-rss_limit_mb=4096", "-timeout=10"]
    command += [f"-max_total_time={options.seconds}", f"-artifact_prefix={work}/", *more]
    return subprocess.run([*command, corpus], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
