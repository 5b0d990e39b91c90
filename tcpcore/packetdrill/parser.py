"""Tokens to a script: options, then events, each a packet, a call, a command or a snippet."""

from __future__ import annotations

import re
from typing import Any

from tcpcore.packetdrill.lexer import SCRIPT_MAX, ScriptError, Token, place, tokens
from tcpcore.packetdrill.options import Config, configure
from tcpcore.packetdrill.packet_parser import PacketParser
from tcpcore.packetdrill.script import (
    REST,
    Call,
    Code,
    Command,
    Event,
    Inverse,
    Listing,
    Name,
    Or,
    Script,
    Struct,
    SystemCall,
    Text,
    Time,
)

DEPTH_MAX = 32  # of expressions within expressions
DIGITS_MAX = 40  # of a number
# A script about PSP, which is skipped whatever else is in it.
PSP = re.compile(r"^--psp_udp_port|\bpsp_[rt]x_assoc\b|\bpsp\s+spi\b", re.MULTILINE)


class Parser(PacketParser):
    """One pass over the tokens of a script."""

    def __init__(self, text: str, at: int, defines: dict[str, str]) -> None:
        self.text = text
        self.tokens = list(tokens(text, at, defines))
        self.at = 0
        self.begin = 0  # of the event that is read
        self.depth = 0

    # Tokens.

    @property
    def token(self) -> Token:
        """The next one."""
        return self.tokens[self.at]

    def error(self, message: str, token: Token | None = None) -> ScriptError:
        """What to raise about a token, by default the next one."""
        token = token or self.token
        return ScriptError(message, token.line, token.column)

    def unexpected(self, wanted: str) -> ScriptError:
        """What to raise where something else is wanted."""
        found = self.token
        what = "the end of the script" if found.kind == "end" else repr(found.text[:40])
        message = f"expected {wanted}, found {what}"
        before = self.tokens[self.at - 1]
        if self.at > self.begin and before.line < found.line:  # it is missing behind that
            return ScriptError(message, *place(self.text, before.end))
        return self.error(message)

    def take(self) -> Token:
        """The next token, which is then behind us."""
        token = self.token
        if token.kind != "end":
            self.at += 1
        return token

    def sees(self, text: str, ahead: int = 0) -> bool:
        """Whether a character or word is next, or `ahead` tokens later."""
        at = min(self.at + ahead, len(self.tokens) - 1)
        token = self.tokens[at]
        return token.text == text and token.kind in ("char", "word", "ellipsis")

    def accept(self, text: str) -> bool:
        """Take a character or word, if it is next."""
        if self.sees(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str, wanted: str = "") -> Token:
        """Take a character or word.

        Raises
        ------
        ScriptError
            If something else is next.
        """
        if not self.sees(text):
            raise self.unexpected(wanted or repr(text))
        return self.take()

    def number(self, wanted: str, low: int = 0, high: int = 0xFFFFFFFF) -> int:
        """Take a whole number within bounds."""
        token = self.token
        if token.kind not in ("integer", "hex"):
            raise self.unexpected(wanted)
        if len(token.text) > DIGITS_MAX:
            raise self.error(f"{wanted} has too many digits")
        value = int(token.text, 16 if token.kind == "hex" else 10)
        if not low <= value <= high:
            raise self.error(f"{wanted} must be from {low} to {high}, not {value}")
        self.at += 1
        return value

    # Events.

    def script(self, name: str, options: dict[str, str]) -> Script:
        """All of it."""
        init = self.take().text if self.token.kind == "shell" else None
        events: list[Event] = []
        cleanup: Event | None = None
        while self.token.kind != "end":
            if self.token.kind == "shell" and events:
                token = self.take()
                cleanup = Event(Time("any"), Command(token.text), token.line, token.column)
                if self.token.kind != "end":
                    raise self.unexpected("the end of the script after the cleanup command")
                break
            events.append(self.event(first=not events))
        if not events:
            raise self.unexpected("an event")
        return Script(name, options, init, events, cleanup)

    def event(self, first: bool) -> Event:
        """TIME ACTION."""
        token = self.token
        self.begin = self.at
        time = self.time()
        if first and (time.kind == "any" or time.start_us):
            raise self.error("the first event must be at time 0", token)
        action: Any
        kind = self.token.kind
        if self.sees("<") or self.sees(">"):
            inbound = self.sees("<")
            if inbound and (time.kind == "any" or time.end_us is not None):
                raise self.error("an inbound packet has one time", token)
            if time.blocking:
                raise self.error("START...END is for system calls; a range has ~", token)
            action = self.packet()
        elif kind == "word":
            action = self.call()
            if time.end_us is not None and not time.blocking:
                raise self.error("a range of times is for outbound packets", token)
        elif kind in ("shell", "code"):
            text = self.take()
            action = Command(text.text) if kind == "shell" else Code(text.text, text.line)
            if time.end_us is not None:
                raise self.error(f"a {'command' if kind == 'shell' else 'snippet'} has one time")
        else:
            raise self.unexpected("a packet, a system call, a command or a snippet")
        if time.kind == "any" and kind != "char":
            raise self.error("the time * is for outbound packets", token)
        return Event(time, action, token.line, token.column)

    def time(self) -> Time:
        """1.25, +.25, 1.2~1.4, +.2~+.4, 0.5...0.8, +.1...0.3 or *."""
        if self.accept("*"):
            return Time("any")
        start_token = self.token
        relative = self.accept("+")
        kind = "relative" if relative else "absolute"
        start = self.seconds()
        end: int | None = None
        blocking = False
        if self.accept("~"):
            if self.accept("+") != relative:
                raise self.error("both ends of a range have a +, or none", start_token)
            end = self.seconds()
        elif self.token.kind == "ellipsis":
            self.take()
            self.accept("+")
            end = self.seconds()
            blocking = True
        if end is not None and end < start:
            raise self.error("the end of a range lies before its start", start_token)
        return Time(kind, start, end, blocking)

    def seconds(self) -> int:
        """A time in microseconds."""
        token = self.token
        if token.kind not in ("integer", "float"):
            raise self.unexpected("a time")
        if token.text.startswith("-"):
            raise self.error(f"a time is not negative: {token.text}")
        whole, _, fraction = token.text.partition(".")
        if len(whole) > 9:
            raise self.error(f"{token.text} seconds are too long")
        self.at += 1
        places = fraction[:7].ljust(7, "0")
        return int(whole or "0") * 1_000_000 + (int(places) + 5) // 10

    # Calls.

    def call(self) -> SystemCall:
        """name(arguments) = result [ERRNO] [(note)]."""
        name = self.take().text
        self.expect("(")
        arguments = self.expressions(")")
        self.expect("=", "'=' and the result of the call")
        result = self.result()
        errno = None
        if self.token.kind == "word":
            errno = self.take().text
            if not re.fullmatch(r"E[A-Z0-9]+", errno):
                raise self.error(f"expected an errno, found {errno!r}", self.tokens[self.at - 1])
        if self.accept("("):
            while not self.sees(")"):
                if self.token.kind == "end":
                    raise self.unexpected("')' after the note")
                self.take()
            self.take()
        return SystemCall(name, arguments, result, errno)

    def result(self) -> Any:
        """What a call returns; behind names may stand a note, so a bracket makes none a call."""
        if self.token.kind != "word":
            return self.expression()
        names = [Name(self.take().text)]
        while self.accept("|"):
            names.append(Name(self.take().text))
        return names[0] if len(names) == 1 else Or(tuple(names))

    def expressions(self, end: str) -> tuple[Any, ...]:
        """a, b, c and what closes them."""
        found: list[Any] = []
        while not self.sees(end):
            if found:
                self.expect(",", f"',' or '{end}'")
            found.append(self.expression())
        self.take()
        return tuple(found)

    def expression(self) -> Any:
        """A | B, or what is without a bar; with a key before it as in a structure: a Struct."""
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self.error("expressions are nested too deep")
        term = self.term()
        if self.sees("|"):
            terms = [term]
            while self.accept("|"):
                terms.append(self.term())
            term = Or(tuple(terms))
        elif isinstance(term, Name) and self.sees("="):
            self.take()
            term = Struct((), {term.name: self.expression()})
        self.depth -= 1
        return term

    def term(self) -> Any:
        token = self.token
        kind = token.kind
        if kind == "ellipsis":
            self.take()
            return REST
        if kind in ("integer", "hex"):
            return self.number("a number", -(1 << 63), (1 << 64) - 1)
        if kind == "string":
            pieces = []
            while self.token.kind == "string":
                pieces.append(self.take().text)
            return Text("".join(pieces), self.accept("..."))
        if self.accept("~"):
            self.depth += 1
            if self.depth > DEPTH_MAX:
                raise self.error("expressions are nested too deep")
            inverse = Inverse(self.term())
            self.depth -= 1
            return inverse
        if self.accept("["):
            return Listing(self.expressions("]"))
        if self.accept("{"):
            return self.structure()
        if kind == "word":
            self.take()
            if self.accept("("):
                argument = self.expression()
                self.expect(")")
                return Call(token.text, argument)
            return Name(token.text)
        raise self.unexpected("a value")

    def structure(self) -> Struct:
        """What stands between { and }."""
        items: list[Any] = []
        fields: dict[str, Any] = {}
        counts: dict[str, Any] = {}
        while not self.sees("}"):
            if items or fields:
                self.expect(",", "',' or '}'")
            item = self.expression()
            if isinstance(item, Struct) and not item.items and len(item.fields) == 1:
                fields.update(item.fields)
                counts.update(item.counts)
            elif isinstance(item, Call) and self.accept("="):
                counts[item.name] = item.argument
                fields[item.name] = self.expression()
            else:
                items.append(item)
        self.take()
        return Struct(tuple(items), fields, counts)


def parse(
    text: str, name: str = "<script>", given: list[tuple[str, str | None]] | None = None
) -> tuple[Script, Config]:
    """A script and its options.

    Parameters
    ----------
    text : str
    name : str
        For messages.
    given : list of (name, value), optional
        Options of the command line, which win.

    Raises
    ------
    ScriptError
        With line and column.
    ValueError
        For an option of `given`.
    """
    if len(text) > SCRIPT_MAX:
        raise ScriptError(f"a script of more than {SCRIPT_MAX >> 20} Mi characters")
    config, options, at = configure(text, given or [])
    config.psp = config.psp or PSP.search(text) is not None
    try:
        script = Parser(text, at, config.defines).script(name, options)
    except ScriptError:
        if not config.psp:
            raise
        script = Script(name, options, None, [], None)  # skipped, and nobody here knows PSP
    return script, config
