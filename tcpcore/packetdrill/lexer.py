"""Text to tokens: the longest match wins, and every token knows where it stands.

The language is packetdrill's: https://github.com/google/packetdrill.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits, hexdigits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
SCRIPT_MAX = 4 << 20  # characters of a script
WORDS_MAX = 300  # characters of a message


# Kinds in the order in which a tie is decided: what they begin with, and all of them.
KINDS = (
    ("ellipsis", ".", re.compile(r"\.\.\.")),
    ("option", "-", re.compile(r"--\w+", re.ASCII)),
    ("float", "-." + digits, re.compile(r"-?\d*\.\d+", re.ASCII)),
    ("integer", "-" + digits, re.compile(r"-?\d+", re.ASCII)),
    ("hex", "0", re.compile(r"0[xX][0-9a-fA-F]+")),
    ("word", "_" + ascii_letters + digits, re.compile(r"\w+", re.ASCII)),
    ("string", '"', re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)),
    ("shell", "`", re.compile(r"`[^`\\]*(?:\\.[^`\\]*)*`", re.DOTALL)),
    ("code", "%", re.compile(r"%\{.*?\}%", re.DOTALL)),
    ("ipv4", digits, re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII)),
    (
        "ipv6",
        ":" + hexdigits,
        re.compile(r"(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4}|\d+(?:\.\d+){3})?"),
    ),
)
BEGINNINGS = {
    first: [(name, pattern.match) for name, firsts, pattern in KINDS if first in firsts]
    for first in map(chr, range(128))
}
CHARACTERS = frozenset("<>()[]{},:=.*+~|-/&!")
ESCAPES = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class ScriptError(Exception):
    """A script that is none: where, and why.

    Attributes
    ----------
    line, column : int
        From 1; 0 where the place is not known.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message[:WORDS_MAX])
        self.line = line
        self.column = column


class Token:
    """One token: its kind, its text, the value of a string, and where it begins and ends."""

    __slots__ = ("kind", "text", "start", "end", "line", "column")

    def __init__(self, kind: str, text: str, start: int, end: int, line: int, column: int) -> None:
        self.kind = kind
        self.text = text
        self.start = start
        self.end = end
        self.line = line
        self.column = column

    def __repr__(self) -> str:
        return f"{self.kind} {self.text!r}"


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1."""
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1


def unescape(text: str) -> str:
    r"""What a string's escapes stand for: ``\n``, ``\x41`` and so on."""

    def one(found: re.Match[str]) -> str:
        word = found[1]
        return chr(int(word[1:], 16)) if len(word) == 3 else ESCAPES.get(word, word)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", one, text, flags=re.DOTALL)


def defined(word: str) -> tuple[str, str]:
    """Kind and text of what a definition puts in a word's place."""
    if len(word) > 1 and word[0] == word[-1] == '"':
        return "string", unescape(word[1:-1])
    if len(word) > 1 and word[0] == word[-1] == "`":
        return "shell", word[1:-1]
    if re.fullmatch(r"-?\d+", word, re.ASCII):
        return "integer", word
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", word):
        return "hex", word
    return "word", word


def tokens(text: str, at: int, defines: dict[str, str]) -> Iterator[Token]:
    """The tokens of a text from an offset on; the last one is of the kind 'end'.

    Raises
    ------
    ScriptError
        At what is no token.
    """
    line, column = place(text, at)
    line_start, counted = at + 1 - column, at
    while True:
        if blank := BLANK.match(text, at):
            at = blank.end()
        if newlines := text.count("\n", counted, at):
            line += newlines
            line_start = text.rfind("\n", counted, at) + 1
        counted = at
        column = at + 1 - line_start
        if at == len(text):
            yield Token("end", "", at, at, line, column)
            return
        if text.startswith("/*", at):
            raise ScriptError("a comment without an end", line, column)
        kind, end = "", at
        for name, match in BEGINNINGS.get(text[at], ()):
            found = match(text, at)
            if found and found.end() > end:
                kind, end = name, found.end()
        if not kind:
            if text[at] not in CHARACTERS:
                what = {'"': "a string without an end", "`": "a command without an end"}
                what["%"] = "a snippet without an end"
                words = what.get(text[at], f"unexpected character {text[at]!r}")
                raise ScriptError(words, line, column)
            kind, end = "char", at + 1
        word = text[at:end]
        if kind == "string":
            word = unescape(word[1:-1])
        elif kind == "shell":
            word = word[1:-1]
        elif kind == "code":
            word = word[2:-2].strip(" \t")
        elif kind == "word" and word in defines:
            kind, word = defined(defines[word])
        yield Token(kind, word, at, end, line, column)
        at = end
