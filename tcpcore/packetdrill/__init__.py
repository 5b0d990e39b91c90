"""Linux's way of testing TCP: packetdrill scripts run against a host in virtual time, or a kernel.

`run` runs one script; `tcpcore packetdrill` is the command. docs/packetdrill.md describes both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpcore.packetdrill.lexer import ScriptError
    from tcpcore.packetdrill.session import run
    from tcpcore.packetdrill.target import Result

__all__ = ["Result", "ScriptError", "run"]

_FILES = {"Result": "target", "ScriptError": "lexer", "run": "session"}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for."""
    from importlib import import_module

    if name in _FILES:
        return getattr(import_module(f"tcpcore.packetdrill.{_FILES[name]}"), name)
    raise AttributeError(f"module 'tcpcore.packetdrill' has no attribute {name!r}")
