"""Python snippets: each runs at its time, with TCP_INFO's fields as names, all in one namespace."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, Any

from tcpcore.packetdrill.constants import CODE_CONSTANTS, INFO_NAMES, SK_MEMINFO
from tcpcore.packetdrill.target import Failure

if TYPE_CHECKING:
    from types import CodeType

    from tcpcore.packetdrill.script import Code


class Snippets:
    """All snippets of one script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: dict[str, Any] = {"__name__": "packetdrill", **CODE_CONSTANTS}

    def run(self, snippet: Code, info: dict[str, int]) -> None:
        """Run one; what it prints goes to standard error.

        Raises
        ------
        Failure
            If it raises something, or is not Python.
        """
        self.names |= dict.fromkeys(INFO_NAMES, 0)
        self.names |= {f"SK_MEMINFO_{name}": 0 for name in SK_MEMINFO}
        self.names |= info
        try:
            with contextlib.redirect_stdout(sys.stderr):
                exec(self._compiled(snippet), self.names)
        except (Exception, SystemExit) as error:
            raise self._failure(error, snippet) from None

    def _compiled(self, snippet: Code) -> CodeType:
        before = "\n" * (snippet.line - 1)
        try:
            return compile(before + snippet.text, self.name, "exec")
        except IndentationError:
            first, newline, others = snippet.text.partition("\n")
            text = first.strip() + newline + textwrap.dedent(others)
            return compile(before + text, self.name, "exec")

    def _failure(self, error: BaseException, snippet: Code) -> Failure:
        """What went wrong, and on which line of the script."""
        line = snippet.line
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == self.name and frame.lineno:
                line = frame.lineno
        if isinstance(error, SyntaxError) and error.lineno:
            line = error.lineno
        lines = snippet.text.split("\n")
        at = line - snippet.line
        shown = lines[at].strip() if 0 <= at < len(lines) else ""
        words = f"{type(error).__name__}: {error}".rstrip(": ")
        return Failure(f"snippet: line {line}: {words}", [f"    {shown}"] if shown else [])
