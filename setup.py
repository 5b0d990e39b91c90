"""The one extension, tcpcore._core: Cython over pyx/, and the C files beside it.

TCPCORE_PURE=1: a py3-none-any wheel without it. TCPCORE_REQUIRE=1: no compiler is an error.
TCPCORE_DEBUG=1, TCPCORE_SANITIZE=1, TCPCORE_COVERAGE=1: see docs/building.md.
"""

from __future__ import annotations

import os
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError, PlatformError

PURE, REQUIRE, DEBUG, SANITIZE, COVERAGE = (
    os.environ.get(f"TCPCORE_{name}", "0") not in ("", "0")
    for name in ("PURE", "REQUIRE", "DEBUG", "SANITIZE", "COVERAGE")
)
CHECKED = DEBUG or SANITIZE or COVERAGE

WARNING = """
************************************************************************************
tcpcore._core could not be built: {reason}
What is installed is the pure-Python reference, about a hundred times slower.
Install a C compiler and try again; TCPCORE_REQUIRE=1 makes this an error, and
TCPCORE_PURE=1 asks for the pure build.
************************************************************************************
"""


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments; no -march, since the C files choose lanes at run time."""
    if sys.platform == "win32":
        return (["/Od", "/Zi"], ["/DEBUG"]) if CHECKED else (["/O2"], [])
    if not CHECKED:
        return ["-O3", "-fvisibility=hidden"], []
    compile_args = ["-O1" if SANITIZE else "-O0", "-g", "-UNDEBUG"]
    link_args = []
    if SANITIZE:
        sanitizers = "-fsanitize=address,undefined"
        compile_args += [sanitizers, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
        link_args.append(sanitizers)
    if COVERAGE:
        compile_args.append("--coverage")
        link_args.append("--coverage")
    return compile_args, link_args


class BuildCore(build_ext):
    """Runs Cython when the extension is built, so that an sdist or metadata need none."""

    def build_extension(self, ext: Extension) -> None:
        # Nothing in a time stamp tells that the flags changed, so the last build's are kept.
        stamp = Path("build", "flags")
        wanted = f"{self.get_ext_fullpath(ext.name)} {flags()}"
        if not stamp.exists() or stamp.read_text() != wanted:
            self.force = True
        try:
            ext.sources = self.cythonize(ext)
            super().build_extension(ext)
        except (BaseError, CCompilerError, CompileError) as error:  # what `optional` forgives
            if ext.optional:
                print(WARNING.format(reason=error), file=sys.stderr, flush=True)
            raise
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(wanted)

    def cythonize(self, ext: Extension) -> list[str]:
        try:
            from Cython.Build import cythonize
        except ImportError as error:
            raise PlatformError(f"no Cython: {error}") from error
        (built,) = cythonize(
            ext,
            include_path=["pyx"],
            build_dir="build",
            force=bool(self.force),
            quiet=True,
            emit_linenums=CHECKED,  # gdb, the sanitizers and gcov then speak of .pxd lines
            compiler_directives={
                "language_level": 3,
                "boundscheck": CHECKED,
                "wraparound": False,
                "initializedcheck": CHECKED,
                "cdivision": True,
                "freethreading_compatible": True,
                "auto_pickle": False,
                "autotestdict": False,
            },
        )
        return list(built.sources)


compile_args, link_args = flags()
core = Extension(
    "tcpcore._core",
    ["pyx/_core.pyx", *sorted(glob("pyx/*.c"))],
    include_dirs=["pyx"],
    depends=sorted(glob("pyx/*.px[di]") + glob("pyx/*.h")),
    define_macros=[] if CHECKED else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    optional=not REQUIRE,
)

setup(ext_modules=[] if PURE else [core], cmdclass={"build_ext": BuildCore})
