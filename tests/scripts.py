"""What packet scripts share: options of SYNs, numbers of options, the table of all scripts.

A script names in its docstring what it shows (rows of RFC 9293, threats); tests/data/linux.txt
holds Linux's answers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from capgen import NOP, SACK_PERM, mss, wscale
from script import Script

SOL_SOCKET, SOL_TCP = 1, 6
SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_OOBINLINE = 4, 7, 8, 9, 10
NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER = 1, 3, 4, 5, 6, 7, 8, 9
QUICKACK, USER_TIMEOUT, MAXSEG, NOTSENT_LOWAT = 12, 18, 2, 25
OOB, PEEK, EOR, MORE = 1, 2, 0x80, 0x8000
SACK = mss(1460) + SACK_PERM
WIDE = mss(1460) + NOP + wscale(7)
ALL = mss(1460) + SACK_PERM + NOP + wscale(7)

SCRIPTS: dict[str, Callable[[Script], None]] = {}


def script(ip: int = 4, **sysctl: Any) -> Callable[[Any], Any]:
    def enter(function: Any) -> Any:
        function.ip, function.sysctl = ip, sysctl
        SCRIPTS[function.__name__] = function
        return function

    return enter


def every_script() -> dict[str, Callable[[Script], None]]:
    """All scripts by name."""
    for name in ("open", "receive", "send", "close", "socket", "states"):
        import_module(f"scripts_{name}")
    return SCRIPTS
