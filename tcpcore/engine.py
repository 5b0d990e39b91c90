"""Chooses the engine, compiled or reference; nothing else in the package knows there are two.

TCPCORE_PURE=1 takes the reference; TCPCORE_REQUIRE=1 makes a missing compiled engine an error
instead of a warning.
"""

from __future__ import annotations

import os
from types import ModuleType

_missing: ImportError | None = None


def _compiled() -> ModuleType:
    import tcpcore._core as core

    return core


def _reference() -> ModuleType:
    import tcpcore.reference.core as core

    return core


def _choose() -> str:
    """Decide once, when the package is imported, which engine runs unless one is asked for."""
    global _missing
    if _on("TCPCORE_PURE"):
        return "reference"
    try:
        _compiled()
    except ImportError as error:
        _missing = error
    else:
        return "compiled"
    if _on("TCPCORE_REQUIRE"):
        raise ImportError(
            f"TCPCORE_REQUIRE is set, but the compiled engine cannot be imported: {_missing}"
        ) from _missing
    import warnings

    warnings.warn(
        f"tcpcore runs its pure-Python reference engine, which is some hundred times slower: "
        f"the compiled one cannot be imported ({_missing}). "
        f"Install a C compiler and reinstall, or set TCPCORE_PURE=1 if this is what you want.",
        RuntimeWarning,
        stacklevel=3,
    )
    return "reference"


def _on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def load(name: str | None = None) -> ModuleType:
    """Return the module of an engine.

    Parameters
    ----------
    name
        'compiled', 'reference', or None for the one that `ENGINE` names.

    Raises
    ------
    ValueError
        For any other word.
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


ENGINE = _choose()
