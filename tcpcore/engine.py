"""Chooses the engine, compiled or reference; nothing else in the package knows there are two.

TCPCORE_PURE=1 takes the reference; TCPCORE_REQUIRE=1 makes a missing compiled engine an error
instead of a warning; TCPCORE_ISA names the instruction set that the compiled one runs on.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

_core: ModuleType | None = None


def _compiled() -> ModuleType:
    """Import the compiled engine; its instruction set is chosen here, before anything runs."""
    global _core
    if _core is None:
        import tcpcore._core as core

        isa = os.environ.get("TCPCORE_ISA")
        if isa:
            try:
                core.isa_select(isa)
            except ValueError as error:
                raise ValueError(f"TCPCORE_ISA: {error}") from None
        _core = core
    return _core


def _reference() -> ModuleType:
    import tcpcore.reference.core as core

    return core


def _choose() -> str:
    """Decide once, when the package is imported, which engine runs unless one is asked for."""
    if _on("TCPCORE_PURE"):
        return "reference"
    try:
        _compiled()
    except ImportError as error:
        if _on("TCPCORE_REQUIRE"):
            raise ImportError(
                f"TCPCORE_REQUIRE is set, but the compiled engine cannot be imported: {error}"
            ) from error
        if not _pure_wheel():
            _warn(error)
        return "reference"
    return "compiled"


def _on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _pure_wheel() -> bool:
    """Tell whether the reference was asked for at the build: a failed one keeps its platform."""
    from importlib import metadata

    try:
        return "Tag: py3-none-any" in (metadata.distribution("tcpcore").read_text("WHEEL") or "")
    except metadata.PackageNotFoundError:
        return False


def _warn(error: ImportError) -> None:
    import warnings

    warnings.warn(
        f"the pure-Python reference runs, about a hundred times slower, because the compiled "
        f"engine cannot be imported ({error}): reinstall with TCPCORE_REQUIRE=1 to see why it was "
        f"not built, or set TCPCORE_PURE=1 to ask for the reference",
        RuntimeWarning,
        stacklevel=4,
    )


def load(name: str | None = None) -> ModuleType:
    """Return the module of an engine.

    Parameters
    ----------
    name
        'compiled', 'reference', or None for the one that `ENGINE` names.

    Raises
    ------
    ValueError
        For any other word, and if the machine lacks the instruction set in TCPCORE_ISA.
    ImportError
        If the compiled engine is asked for and cannot be imported.
    """
    if name is None:
        name = ENGINE
    if name == "reference":
        return _reference()
    if name != "compiled":
        raise ValueError(f"engine must be 'compiled' or 'reference', not {name!r}")
    try:
        return _compiled()
    except ImportError as error:
        raise ImportError(f"the compiled engine cannot be imported: {error}") from error


def load_net(name: str | None = None) -> Any:
    """Return the class of an endpoint's engine; parameters and errors are those of `load`."""
    if load(name) is _core:
        return _compiled().Net
    from tcpcore.reference.core_net import Net

    return Net


ENGINE = _choose()
