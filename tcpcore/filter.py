"""pcap-filter(7) to a small program that an engine runs on every frame.

A program jumps forward alone, so it takes at most as many steps as it has instructions (T-25).
docs/filter.md has the language, and where it differs from libpcap's.
"""

from __future__ import annotations

import re
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Instruction = tuple[int, int, int, int, int, int]
    Node = tuple[Any, ...]

PROGRAM_MAX = 4096  # instructions
STACK_MAX = 16  # numbers that one comparison may hold at a time
NESTING_MAX = 30  # parentheses, `not` and brackets inside of one another
VLAN_MAX = 8  # tags of a frame


class Code(IntEnum):
    """Instructions; `tcpcore/reference/filter.py` says what each does."""

    FILTER_IP = 0
    FILTER_ADDR4 = 1
    FILTER_ADDR6 = 2
    FILTER_PORT = 3
    FILTER_LEN = 4
    FILTER_VLAN = 5
    FILTER_EQ = 6
    FILTER_GT = 7
    FILTER_GE = 8
    FILTER_CONST = 9
    FILTER_WIRELEN = 10
    FILTER_LOAD = 11
    FILTER_ADD = 12
    FILTER_SUB = 13
    FILTER_MUL = 14
    FILTER_DIV = 15
    FILTER_MOD = 16
    FILTER_AND = 17
    FILTER_OR = 18
    FILTER_XOR = 19
    FILTER_LSH = 20
    FILTER_RSH = 21


SRC, DST, EITHER, BOTH = 1, 2, 3, 4  # which end of a segment a test looks at
ANY_ID = 0xFFFFFFFF
BASES = {"link": 0, "ether": 0, "ip": 1, "ip6": 1, "tcp": 2}  # headers that loads start from
IP_OF = {"ip": 4, "ip6": 6, "tcp": 4}  # as in libpcap: tcp[...] reads IPv4 alone
SYMBOLS = {
    "tcpflags": 13,
    "tcp-fin": 1,
    "tcp-syn": 2,
    "tcp-rst": 4,
    "tcp-push": 8,
    "tcp-ack": 16,
    "tcp-urg": 32,
    "tcp-ece": 64,
    "tcp-cwr": 128,
}
# Operators by how tightly they bind.
OPERATORS = (
    {"|": Code.FILTER_OR},
    {"^": Code.FILTER_XOR},
    {"&": Code.FILTER_AND},
    {"<<": Code.FILTER_LSH, ">>": Code.FILTER_RSH},
    {"+": Code.FILTER_ADD, "-": Code.FILTER_SUB},
    {"*": Code.FILTER_MUL, "/": Code.FILTER_DIV, "%": Code.FILTER_MOD},
)
# Comparisons: the instruction, and whether it is to be false.
RELATIONS = {
    "=": (Code.FILTER_EQ, False),
    "==": (Code.FILTER_EQ, False),
    "!=": (Code.FILTER_EQ, True),
    ">": (Code.FILTER_GT, False),
    "<=": (Code.FILTER_GT, True),
    ">=": (Code.FILTER_GE, False),
    "<": (Code.FILTER_GE, True),
}
# Words of libpcap's language that are about what is no TCP.
_OTHERS = re.compile(
    "udp|icmp6?|igmp|r?arp|sctp|ah|esp|pim|vrrp|atalk|aarp|decnet|iso|stp|ipx|netbeui|fddi|tr|wlan|"
    "mpls|pppoe[ds]|geneve|broadcast|multicast|gateway|proto|protochain"
)

_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r"[A-Za-z][A-Za-z0-9]*(?:-[a-z]+)?|[0-9][0-9A-Za-z.:]*|&&|\|\||<<|>>|[=!<>]=|\S"
)
_NAME = re.compile(r"[0-9A-Za-z:][-0-9A-Za-z_.:/]*")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+")
_BRACKET = re.compile(r"\s*\[")
_OPERATOR = re.compile(r"\s*(?!&&|\|\|)(?:[-=<>+*/%&|^]|!=)")


class FilterError(ValueError):
    """A filter, or a condition on columns, that cannot be understood.

    Attributes
    ----------
    reason : str
    text : str
        The expression.
    position : int
        Index in `text` of the place that is wrong.
    """

    def __init__(self, reason: str, text: str, position: int) -> None:
        self.reason = reason
        self.text = text
        self.position = min(max(position, 0), len(text))
        super().__init__(reason, text, position)

    def __str__(self) -> str:
        shown = "".join(c if c.isprintable() else " " for c in self.text)
        first = max(self.position - 60, 0)  # of a long expression only what is around the place
        line = shown[first : self.position + 40]
        return f"{self.reason}\n  {line}\n  {' ' * (self.position - first)}^"


def compile_filter(text: str) -> list[Instruction]:
    """Compile an expression of pcap-filter(7).

    Parameters
    ----------
    text
        The expression; an empty one takes every frame.

    Returns
    -------
    list of (code, arg, jt, jf, k, m)
        What `Conntrack(filter=...)` takes. A test goes on at instruction `jt` if it holds, else
        at `jf`; the number after the last instruction takes the frame, the one after that
        leaves it out.

    Raises
    ------
    FilterError
        With the place that is wrong.
    """
    if not isinstance(text, str):
        raise TypeError(f"filter must be a string or None, not {type(text).__name__}")
    if not text.strip():
        return []
    parser = _Parser(text)
    node = parser.whole()
    return _Assembler(text).program(node)


class _Parser:
    """Recursive descent; a node is a tuple: its kind, then what it is made of.

    ('and' | 'or', left, right), ('not', node), ('test', code, arg, k, m), ('compare', code, left,
    right, position), and of numbers ('number', value), ('len',), ('load', base, size, index,
    protocols), ('binary', code, left, right). `and` and `or` bind alike, as in libpcap.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.nesting = 0
        self.numbers = 0  # above 0 nothing but numbers is expected
        self.qualifier: tuple[str, int, str] | None = None  # what a bare name repeats
        self.tags = 0  # VLAN tags that `and` has already asked for

    def fail(self, reason: str, position: int | None = None) -> NoReturn:
        raise FilterError(reason, self.text, self.at if position is None else position)

    def peek(self) -> str:
        """The next token, '' at the end; `at` is then where it begins."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        found = _TOKEN.match(self.text, self.at)
        return found[0] if found else ""

    def take(self) -> str:
        token = self.peek()
        self.at += len(token)
        return token

    def accept(self, *tokens: str) -> str:
        return self.take() if self.peek() in tokens else ""

    def expect(self, token: str) -> None:
        found = self.peek()
        if found != token:
            self.fail(f"{token!r} is missing" + (f" before {found!r}" if found else ""))
        self.take()

    def enter(self) -> None:
        self.nesting += 1
        if self.nesting > NESTING_MAX:
            self.fail(f"nested more than {NESTING_MAX} deep")

    def whole(self) -> Node:
        node = self.expression()
        if self.peek():
            self.fail(f"{self.peek()!r} is not expected here")
        return self.condition(node, len(self.text))

    def condition(self, node: Node, position: int) -> Node:
        if _is_number(node):
            self.fail("a number is no condition: a comparison is missing", position)
        return node

    def expression(self) -> Node:
        """Terms that `and` and `or` join from left to right; it may be a single number."""
        before = self.tags
        node = self.term()
        while word := self.accept("and", "&&", "or", "||"):
            node = self.condition(node, self.at - len(word))
            tags = self.tags
            if word in ("or", "||"):
                self.tags = before
            right = self.condition(self.term(), self.at)
            self.tags = max(self.tags, tags)
            node = ("and" if word in ("and", "&&") else "or", node, right)
        return node

    def term(self) -> Node:
        if self.accept("not", "!"):
            self.enter()
            tags = self.tags
            node = self.condition(self.term(), self.at)
            self.tags = tags
            self.nesting -= 1
            return "not", node
        node = self.number_or_test(0)
        if self.peek() not in RELATIONS:
            return node
        if not _is_number(node):
            self.fail("only numbers are compared")
        position = self.at
        code, negated = RELATIONS[self.take()]
        right = self.number(0)
        self.qualifier = None
        compared: Node = ("compare", code, node, right, position)
        if negated:
            compared = ("not", compared)
        for version in sorted(_versions(node) | _versions(right)):
            compared = ("and", ("test", Code.FILTER_IP, 0, version, 0), compared)
        return compared

    def number(self, level: int) -> Node:
        self.peek()
        position = self.at
        self.numbers += 1
        node = self.number_or_test(level)
        self.numbers -= 1
        if not _is_number(node):
            self.fail("a number is missing", position)
        return node

    def number_or_test(self, level: int) -> Node:
        if level == len(OPERATORS):
            return self.primary()
        node = self.number_or_test(level + 1)
        while (token := self.peek()) in OPERATORS[level]:
            if not _is_number(node):
                self.fail(f"{token!r} takes numbers")
            code = OPERATORS[level][self.take()]
            self.peek()
            position = self.at
            right = self.number(level + 1)
            if code in (Code.FILTER_DIV, Code.FILTER_MOD) and right == ("number", 0):
                self.fail("division by zero", position)
            node = ("binary", code, node, right, _versions(node) | _versions(right))
        return node

    def primary(self) -> Node:
        token = self.peek()
        position = self.at
        if not token:
            self.fail("the expression ends here, a term is missing")
        if token == "(":
            self.enter()
            self.take()
            node = self.expression()
            self.expect(")")
            self.nesting -= 1
            return node
        if token == "-":
            self.enter()
            self.take()
            value = self.number(len(OPERATORS))
            node = ("binary", Code.FILTER_SUB, ("number", 0), value, _versions(value))
            self.nesting -= 1
            return node
        if token in SYMBOLS:
            self.take()
            return "number", SYMBOLS[token]
        if token in BASES and _BRACKET.match(self.text, position + len(token)):
            return self.load()
        if token == "len":
            self.take()
            return ("len",)
        if token[0].isdigit() or ":" in token[:5] or self.is_bare(token):
            return self.bare()
        return self.primitive()

    def is_bare(self, token: str) -> bool:
        """True of a name that is no word of the language, where one may be repeated."""
        if self.qualifier is None or not token[0].isalpha() or _OTHERS.fullmatch(token):
            return False
        return token not in (
            *("host", "net", "port", "portrange", "src", "dst", "ip", "ip6", "tcp", "ether"),
            *("link", "vlan", "less", "greater", "and", "or", "not", "mask"),
        )

    def bare(self) -> Node:
        """A number, or a name that repeats the last qualifiers: `host a or b`."""
        number = _NUMBER.match(self.text, self.at)
        name = _NAME.match(self.text, self.at)
        whole = number is not None and name is not None and number[0] == name[0]
        if number and (self.numbers or (self.qualifier is None and whole)):
            return self.constant()
        if self.qualifier is None:
            if number and self.text[number.end() : number.end() + 1] == "-":
                return self.constant()
            self.fail("a name alone: what is it? write host, net or port before it")
        ranged = self.qualifier[2] == "portrange" and name is not None and "-" in name[0]
        if number and not ranged and _OPERATOR.match(self.text, number.end()):
            return self.constant()
        return self.named(*self.qualifier)

    def constant(self) -> Node:
        found = _NUMBER.match(self.text, self.at)
        if not found:
            self.fail("a number is missing")
        digits = found[0]
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
        try:
            value = int(digits, 8 if octal else 0)
        except ValueError:
            self.fail(f"{digits!r} is no number")
        if value > 0xFFFFFFFF:
            self.fail("a number has at most 32 bits")
        self.at = found.end()
        return "number", value

    def load(self) -> Node:
        """`tcp[13]`, `ip[6:2]`: bytes of a header."""
        protocol = self.take()
        self.expect("[")
        self.enter()
        index = self.number(0)
        size = 1
        if self.accept(":"):
            self.peek()
            position = self.at
            size = self.constant()[1]
            if size not in (1, 2, 4):
                self.fail("a load has 1, 2 or 4 bytes", position)
        self.expect("]")
        self.nesting -= 1
        versions = _versions(index) | ({IP_OF[protocol]} if protocol in IP_OF else set())
        return "load", BASES[protocol], size, index, versions

    def primitive(self) -> Node:
        """Everything that begins with a word: qualifiers and a name, or a word alone."""
        start = self.at
        token = self.peek()
        if token in ("less", "greater"):
            self.take()
            self.peek()
            value = self.constant()[1]
            self.qualifier = None
            low, high = (0, value) if token == "less" else (value, 0xFFFFFFFF)
            return "test", Code.FILTER_LEN, 0, low, high
        if token == "vlan":
            return self.vlan()
        if _OTHERS.fullmatch(token):
            self.fail(f"{token!r} is not supported: connections of TCP are followed, nothing else")
        protocol = self.accept("ip", "ip6", "tcp")
        end = self.direction()
        kind = self.accept("host", "net", "portrange", "port")
        if not protocol and not end and not kind:
            known = "no word of a filter" if token[0].isalnum() else "not expected here"
            self.fail(f"{token!r} is {known}")
        if protocol and not end and not kind:
            follows = self.peek()
            if not follows or not (follows[0].isdigit() or ":" in follows):
                self.qualifier = None
                version = {"ip": 4, "ip6": 6, "tcp": 0}[protocol]
                return "test", Code.FILTER_IP, 0, version, 0
        kind = kind or "host"
        if protocol == "tcp" and kind in ("host", "net"):
            self.fail(f"'tcp' does not go with {kind!r}", start)
        if protocol in ("ip", "ip6") and kind in ("port", "portrange"):
            self.fail(f"{protocol!r} does not go with {kind!r}", start)
        self.qualifier = (protocol, end or EITHER, kind)
        return self.named(*self.qualifier)

    def direction(self) -> int:
        """`src`, `dst`, `src or dst`, `src and dst`; 0 for none."""
        first = self.accept("src", "dst")
        if not first:
            return 0
        mark = self.at
        joint = self.accept("or", "||", "and", "&&")
        if joint and self.accept("dst" if first == "src" else "src"):
            return EITHER if joint in ("or", "||") else BOTH
        self.at = mark
        return SRC if first == "src" else DST

    def vlan(self) -> Node:
        self.take()
        self.qualifier = None
        number = ANY_ID
        token = self.peek()
        if token[:1].isdigit():
            position = self.at
            number = self.constant()[1]
            if number > 4095:
                self.fail("a VLAN has a number up to 4095", position)
        depth = min(self.tags, VLAN_MAX)
        self.tags += 1
        return "test", Code.FILTER_VLAN, depth, number, 0

    def named(self, protocol: str, end: int, kind: str) -> Node:
        """What the qualifiers say of the name, or the names in parentheses, that follow."""
        if self.accept("("):
            self.enter()
            node = self.named(protocol, end, kind)
            while word := self.accept("and", "&&", "or", "||"):
                right = self.named(protocol, end, kind)
                node = ("and" if word in ("and", "&&") else "or", node, right)
            self.expect(")")
            self.nesting -= 1
            return node
        if self.accept("not", "!"):
            self.enter()
            node = ("not", self.named(protocol, end, kind))
            self.nesting -= 1
            return node
        self.peek()
        found = _NAME.match(self.text, self.at)
        if not found:
            self.fail(f"a name is missing after {kind!r}")
        if kind in ("port", "portrange"):
            return self.ports(found[0], end, kind)
        return self.addresses(found[0], protocol, end, kind)

    def ports(self, name: str, end: int, kind: str) -> Node:
        low, dash, high = name.partition("-") if kind == "portrange" else (name, "", "")
        first = self.port(low)
        last = self.port(high) if dash else first
        if kind == "portrange" and not dash and not name.isdigit():
            self.fail("a range of ports is written LOW-HIGH")
        self.at += len(name)
        first, last = min(first, last), max(first, last)
        return "test", Code.FILTER_PORT, end, first, last

    def port(self, name: str) -> int:
        if name.isdigit() and len(name) < 10:
            if int(name) > 65535:
                self.fail("a port has a number up to 65535")
            return int(name)
        import socket

        try:
            return socket.getservbyname(name, "tcp")
        except (OSError, ValueError):
            self.fail(f"no TCP port is named {name!r}")

    def addresses(self, name: str, protocol: str, end: int, kind: str) -> Node:
        import ipaddress

        position = self.at
        host, slash, length = name.partition("/")
        six = ":" in host
        if slash and kind == "host":
            self.fail("a host has no prefix length: write net")
        if protocol == ("ip" if six else "ip6"):
            self.fail(f"{host!r} is no address of {protocol!r}")
        bits = 128 if six else 32
        value, prefix = 0, bits
        try:
            if kind == "net" and not six and host.count(".") < 3:
                parts = [int(part) for part in host.split(".")]
                if max(parts) > 255:
                    raise ValueError
                prefix = 8 * len(parts)
                value = int.from_bytes(bytes(parts + [0] * (4 - len(parts))), "big")
            else:
                value = int(ipaddress.ip_address(host))
        except ValueError:
            self.fail(f"{host!r} is no address (names of hosts are not looked up)")
        if slash:
            if not length.isdigit() or len(length) > 3 or int(length) > bits:
                self.fail(f"a prefix length is a number up to {bits}", position + len(host) + 1)
            prefix = int(length)
        self.at += len(name)
        mask = (1 << bits) - (1 << (bits - prefix))
        if kind == "net" and not six and not slash and self.accept("mask"):
            self.peek()
            found = _NAME.match(self.text, self.at)
            try:
                mask = int(ipaddress.IPv4Address(found[0] if found else ""))
            except ValueError:
                self.fail("a mask is written like an IPv4 address")
            self.at += len(found[0]) if found else 0
        if value & ~mask:
            self.fail(f"{name!r} has bits set beyond its mask", position)
        return "test", Code.FILTER_ADDR6 if six else Code.FILTER_ADDR4, end, value, mask


def _is_number(node: Node) -> bool:
    return node[0] in ("number", "len", "load", "binary")


def _versions(node: Node) -> set[int]:
    """IP versions whose headers a number is read from."""
    return set(node[4]) if node[0] in ("load", "binary") else set()


class _Assembler:
    """Nodes to instructions, the last one first: where a jump goes is then known already.

    A place is counted from the end of the program: 0 takes the frame, -1 leaves it out.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.backwards: list[Instruction] = []

    def program(self, node: Node) -> list[Instruction]:
        self.condition(node, 0, -1)
        size = len(self.backwards)
        return [
            (code, arg, size - jt, size - jf, k, m)
            for code, arg, jt, jf, k, m in reversed(self.backwards)
        ]

    def emit(self, code: int, arg: int, jt: int, jf: int, k: int, m: int) -> int:
        if len(self.backwards) >= PROGRAM_MAX:
            raise FilterError(
                f"more than {PROGRAM_MAX} instructions are needed", self.text, len(self.text)
            )
        self.backwards.append((int(code), arg, jt, jf, k, m))
        return len(self.backwards)

    def condition(self, node: Node, jt: int, jf: int) -> int:
        """Where the code of `node` begins; chains that lean to the left may be of any length."""
        while True:
            kind = node[0]
            if kind == "and":
                jt = self.condition(node[2], jt, jf)
            elif kind == "or":
                jf = self.condition(node[2], jt, jf)
            elif kind == "not":
                jt, jf = jf, jt
            elif kind == "test":
                return self.emit(node[1], node[2], jt, jf, node[3], node[4])
            else:
                _, code, left, right, position = node
                if max(_depth(left), 1 + _depth(right)) > STACK_MAX:
                    raise FilterError("the arithmetic is nested too deeply", self.text, position)
                self.emit(code, 0, jt, jf, 0, 0)
                self.number(right)
                return self.number(left)
            node = node[1]

    def number(self, node: Node) -> int:
        while True:
            kind = node[0]
            if kind == "number":
                return self.emit(Code.FILTER_CONST, 0, 0, 0, node[1], 0)
            if kind == "len":
                return self.emit(Code.FILTER_WIRELEN, 0, 0, 0, 0, 0)
            if kind == "load":
                self.emit(Code.FILTER_LOAD, node[1], 0, 0, node[2], 0)
                node = node[3]
            else:
                self.emit(node[1], 0, 0, 0, 0, 0)
                self.number(node[3])
                node = node[2]


def _depth(node: Node) -> int:
    """Numbers that are held at a time to compute this one; chains lean to the left."""
    most = held = 0
    while True:
        most = max(most, held + 1)
        if node[0] == "load":
            node = node[3]
        elif node[0] == "binary":
            most = max(most, 1 + _depth(node[3]))
            node = node[2]
        else:
            return most
