"""What a script says, parsed: options, events, packets, calls, expressions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Expressions. An int, a str of bytes, or one of these.


@dataclass(frozen=True)
class Name:
    """A constant by its name."""

    name: str


class Rest:
    """`...`: the usual thing."""

    def __repr__(self) -> str:
        return "..."


REST = Rest()


@dataclass(frozen=True)
class Or:
    """A | B | C."""

    terms: tuple[Any, ...]


@dataclass(frozen=True)
class Inverse:
    """~A."""

    term: Any


@dataclass(frozen=True)
class Call:
    """htons(80), inet_addr("1.2.3.4")."""

    name: str
    argument: Any


@dataclass(frozen=True)
class Text:
    """A string; `open` if its end does not matter."""

    text: str
    open: bool = False


@dataclass(frozen=True)
class Listing:
    """[a, b]."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Struct:
    """{a, b} or {key = a, key(n) = b}: what has a key is in `fields`, with its n in `counts`."""

    items: tuple[Any, ...]
    fields: dict[str, Any] = field(default_factory=dict, hash=False)
    counts: dict[str, Any] = field(default_factory=dict, hash=False)


# Packets.


@dataclass
class TcpOption:
    """One option: its kind, what it carries, and the word it was written with."""

    name: str
    values: tuple[int, ...] = ()
    blob: bytes = b""


@dataclass
class Packet:
    """What all packet lines have."""

    inbound: bool
    ecn: str | None = None
    tos: int | None = None
    ttl: int | None = None
    flowlabel: int | None = None


@dataclass
class TcpPacket(Packet):
    """FLAGS SEQ [ack N] [win N] [urg N] [<OPTIONS>]."""

    ports: tuple[int, int] | None = None
    flags: int = 0
    ace: int | None = None  # the digit, if flags had one
    seq: int = 0
    length: int = 0
    ack: int = 0
    window: int | None = None
    urg: int = 0
    options: list[TcpOption] | None = field(default_factory=list)  # None: any


@dataclass
class IcmpPacket(Packet):
    """icmp TYPE [CODE] [mtu N] [id N] [[SEQ]]."""

    type: int = 0
    code: int = 0
    mtu: int | None = None
    ident: int | None = None
    seq: int = 0
    length: int = 0
    protocol: int = 6
    version: int = 4


@dataclass
class OtherPacket(Packet):
    """What is parsed and not supported: UDP, encapsulation."""

    what: str = ""


# Events.


@dataclass
class Time:
    """When: microseconds; `end` of a range or of a blocking call.

    Attributes
    ----------
    kind : 'absolute', 'relative' or 'any'
    start_us : int
    end_us : int or None
    blocking : bool
        Whether it was written with `...`.
    """

    kind: str
    start_us: int = 0
    end_us: int | None = None
    blocking: bool = False


@dataclass
class SystemCall:
    """name(arguments) = result errno."""

    name: str
    arguments: tuple[Any, ...]
    result: Any
    errno: str | None = None


@dataclass
class Command:
    """A shell's text."""

    text: str


@dataclass
class Code:
    """A Python snippet, and the line on which its text begins."""

    text: str
    line: int


@dataclass
class Event:
    """When, what, and where it is written."""

    time: Time
    action: Packet | SystemCall | Command | Code
    line: int
    column: int


@dataclass
class Script:
    """A whole script."""

    name: str
    options: dict[str, str]
    init: str | None
    events: list[Event]
    cleanup: Event | None
