"""pcap-filter(7) to a small program that an engine runs on every frame.

docs/filter.md has the language, and where it differs from libpcap's.
"""

from __future__ import annotations

import re

from tcpcore.assembler import Assembler, Code, FilterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from tcpcore.assembler import Instruction, Node

NESTING_MAX = 30  # parentheses, `not` and brackets inside of one another
VLAN_MAX = 8  # tags of a frame

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
ETHERTYPES = {"ip": 0x0800, "arp": 0x0806, "rarp": 0x8035, "ip6": 0x86DD}
ETHERTYPE_MIN = 0x0600  # below, it is a length
# Words of libpcap's language that are about what is no TCP.
_OTHERS = re.compile(
    "udp|icmp6?|igmp|r?arp|sctp|ah|esp|pim|vrrp|atalk|aarp|decnet|iso|stp|ipx|netbeui|fddi|tr|wlan|"
    "lat|moprc|mopdl|broadcast|multicast|gateway"
)
_TUNNELS = re.compile("mpls|pppoe[ds]|geneve|vxlan")

_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r"[A-Za-z][A-Za-z0-9]*(?:-[a-z]+)?|[0-9][0-9A-Za-z.:]*|&&|\|\||<<|>>|[=!<>]=|\S"
)
_NAME = re.compile(r"[0-9A-Za-z:][-0-9A-Za-z_.:/]*")
_PROTOCOL = re.compile(r"\\?[0-9A-Za-z]+")
_ETHER = re.compile(r"[0-9A-Fa-f]{1,2}([:.-])[0-9A-Fa-f]{1,2}(?:\1[0-9A-Fa-f]{1,2}){4}")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+")
_BRACKET = re.compile(r"\s*\[")
_OPERATOR = re.compile(r"\s*(?!&&|\|\|)(?:[-=<>+*/%&|^]|!=)")


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
    return Assembler(text).program(node)


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
        if self.qualifier is None or not token[0].isalpha():
            return False
        if _OTHERS.fullmatch(token) or _TUNNELS.fullmatch(token):
            return False
        return token not in (
            *("host", "net", "port", "portrange", "src", "dst", "ip", "ip6", "tcp", "ether"),
            *("proto", "protochain", "link", "vlan", "less", "greater", "and", "or", "not", "mask"),
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
        if _TUNNELS.fullmatch(token):
            self.fail(
                f"{token!r} is not supported: what is in tunnels is found without their names"
            )
        protocol = self.accept("ip", "ip6", "tcp", "ether", "link")
        if protocol in ("ether", "link"):
            return self.ether()
        end = self.direction()
        kind = self.accept("host", "net", "portrange", "port", "proto", "protochain")
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
        if protocol == "tcp" and kind in ("host", "net", "proto", "protochain"):
            self.fail(f"'tcp' does not go with {kind!r}", start)
        if protocol in ("ip", "ip6") and kind in ("port", "portrange"):
            self.fail(f"{protocol!r} does not go with {kind!r}", start)
        if end and kind in ("proto", "protochain"):
            self.fail(f"a direction does not go with {kind!r}", start)
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
        if protocol == "ether":
            return self.station(end)
        if kind in ("proto", "protochain"):
            return self.protocol(protocol, kind)
        found = _NAME.match(self.text, self.at)
        if not found:
            self.fail(f"a name is missing after {kind!r}")
        if kind in ("port", "portrange"):
            return self.ports(found[0], end, kind)
        return self.addresses(found[0], protocol, end, kind)

    def protocol(self, version: str, kind: str) -> Node:
        """What IP carries, by name or number: TCP, or it is an error."""
        found = _PROTOCOL.match(self.text, self.at)
        if not found:
            self.fail(f"a protocol is missing after {kind!r}")
        name = found[0].removeprefix("\\")
        if name not in ("tcp", "6"):
            self.fail(f"{name!r} is not supported: connections of TCP are followed, nothing else")
        self.at = found.end()
        return "test", Code.FILTER_IP, 0, {"": 0, "ip": 4, "ip6": 6}[version], 0

    def ether(self) -> Node:
        """`ether host`, `ether src`, `ether dst`, `ether proto`: bytes of the outermost header."""
        if self.accept("proto"):
            return self.ethertype()
        if self.peek() not in ("host", "src", "dst"):
            self.fail("of 'ether' are known: host, src, dst, proto, and bytes as in ether[0]")
        end = self.direction()
        self.accept("host")
        self.qualifier = ("ether", end or EITHER, "host")
        return self.named(*self.qualifier)

    def ethertype(self) -> Node:
        self.qualifier = None
        self.peek()
        position = self.at
        found = _PROTOCOL.match(self.text, self.at)
        name = found[0].removeprefix("\\") if found else ""
        if name in ETHERTYPES:
            self.at += len(found[0]) if found else 0
            value = ETHERTYPES[name]
        elif not name.isalpha():
            value = self.constant()[1]
        else:
            self.fail(f"{name!r} is no EtherType that is known: write its number")
        if not ETHERTYPE_MIN <= value <= 0xFFFF:
            self.fail(f"an EtherType is from {ETHERTYPE_MIN:#x} to 0xffff", position)
        return _link_bytes(12, 2, value, position)

    def station(self, end: int) -> Node:
        """An address of Ethernet, in the outermost header of the frame."""
        position = self.at
        found = _ETHER.match(self.text, self.at)
        if not found:
            self.fail("an address of Ethernet is written 00:11:22:aa:bb:cc")
        self.at = found.end()
        address = 0
        for part in found[0].split(found[1]):
            address = address << 8 | int(part, 16)
        src, dst = (
            (
                "and",
                _link_bytes(at, 4, address >> 16, position),
                _link_bytes(at + 4, 2, address & 0xFFFF, position),
            )
            for at in (6, 0)
        )
        if end in (SRC, DST):
            return src if end == SRC else dst
        return "or" if end == EITHER else "and", src, dst

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


def _link_bytes(at: int, size: int, value: int, position: int) -> Node:
    """That bytes of the outermost header are a number."""
    load: Node = ("load", BASES["link"], size, ("number", at), set())
    return "compare", Code.FILTER_EQ, load, ("number", value), position
