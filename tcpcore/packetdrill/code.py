"""Python snippets: each runs at its time, with TCP_INFO's fields as names, all in one namespace."""

from __future__ import annotations

import ast
import contextlib
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, Any

from tcpcore.packetdrill.constants import CODE_CONSTANTS, INFO_NAMES, SK_MEMINFO
from tcpcore.packetdrill.lexer import WORDS_MAX
from tcpcore.packetdrill.target import Failure, alarm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    from tcpcore.packetdrill.script import Code


class Snippets:
    """All snippets of one script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: dict[str, Any] = {"__name__": "packetdrill", **CODE_CONSTANTS}
        self.compiled: dict[int, CodeType] = {}

    def prepare(self, snippets: Iterable[Code]) -> None:
        """Compile them before time begins, as that takes some; errors are told in their turn."""
        for snippet in snippets:
            with contextlib.suppress(Exception):
                self.compiled[id(snippet)] = self._compile(snippet)

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
            with contextlib.redirect_stdout(sys.stderr), alarm():
                exec(self.compiled.get(id(snippet)) or self._compile(snippet), self.names)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not self._is_its_own(error):
                raise
            raise self._failure(error, snippet) from None

    def _compile(self, snippet: Code) -> CodeType:
        before = snippet.line - 1
        try:
            try:
                tree = ast.parse(snippet.text, self.name)
            except IndentationError:
                first, newline, others = snippet.text.partition("\n")
                tree = ast.parse(first.strip() + newline + textwrap.dedent(others), self.name)
        except SyntaxError as error:
            error.lineno = (error.lineno or 1) + before
            raise
        return compile(ast.increment_lineno(tree, before), self.name, "exec")

    def _is_its_own(self, error: BaseException) -> bool:
        """Whether it was raised by the snippet's own lines."""
        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and frames[-1].filename == self.name

    def _failure(self, error: BaseException, snippet: Code) -> Failure:
        """What went wrong, and on which line of the script."""
        line = snippet.line
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == self.name and frame.lineno:
                line = frame.lineno
        if isinstance(error, SyntaxError) and error.lineno and error.filename == self.name:
            line = error.lineno
        lines = snippet.text.split("\n")
        at = line - snippet.line
        shown = lines[at].strip()[:WORDS_MAX] if 0 <= at < len(lines) else ""
        words = f"{type(error).__name__}: {error}".rstrip(": ")
        return Failure(f"snippet: line {line}: {words}", [f"    {shown}"] if shown else [])
