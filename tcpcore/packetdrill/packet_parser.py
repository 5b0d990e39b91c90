"""Packet lines: direction, IP's part, then TCP with its options, ICMP, or what is not supported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tcpcore.packetdrill.script import IcmpPacket, OtherPacket, Packet, TcpOption, TcpPacket

if TYPE_CHECKING:
    from tcpcore.packetdrill.lexer import ScriptError, Token

FLAGS = re.compile(r"(?P<letters>[FSRPUEWA]*)(?P<early>[0-7]?)(?P<dot>\.?)(?P<digit>[0-7]?)")
# Bits of the 13th and 14th octet: FIN to CWR, and AE above them.
FLAG_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128, "A": 256}
ACE_SHIFT = 6  # ECE, CWR, AE: the three bits of the counter

ICMP_TYPES = {
    "echo_reply": 0, "unreachable": 3, "source_quench": 4, "redirect": 5, "echo_request": 8,
    "time_exceeded": 11, "parameter_problem": 12, "timestamp_request": 13,
    "timestamp_reply": 14, "information_request": 15, "information_reply": 16,
    "address_mask_request": 17, "address_mask_reply": 18,
}  # fmt: skip
ICMP6_TYPES = {
    "unreachable": 1, "packet_too_big": 2, "time_exceeded": 3, "parameter_problem": 4,
    "echo_request": 128, "echo_reply": 129,
}  # fmt: skip
UNREACHABLE = (
    "net_unreachable", "host_unreachable", "protocol_unreachable", "port_unreachable",
    "frag_needed", "source_route_failed", "net_unknown", "host_unknown", "source_host_isolated",
    "net_prohibited", "host_prohibited", "net_unreachable_for_tos", "host_unreachable_for_tos",
    "packet_filtered", "precedence_violation", "precedence_cutoff",
)  # fmt: skip
UNREACHABLE6 = (
    "no_route", "admin_prohibited", "not_neighbour", "addr_unreachable", "port_unreachable",
)  # fmt: skip
FRAG_NEEDED = 4
OPTIONS_MAX = 40
HEADERS_MAX = 16


class PacketParser:
    """The part of the parser that knows packets."""

    if TYPE_CHECKING:
        text: str
        tokens: list[Token]
        at: int

        @property
        def token(self) -> Token: ...
        def error(self, message: str, token: Token | None = None) -> ScriptError: ...
        def unexpected(self, wanted: str) -> ScriptError: ...
        def take(self) -> Token: ...
        def sees(self, text: str, ahead: int = 0) -> bool: ...
        def accept(self, text: str) -> bool: ...
        def expect(self, text: str, wanted: str = "") -> Token: ...
        def number(self, wanted: str, low: int = 0, high: int = 0xFFFFFFFF) -> int: ...

    def packet(self) -> Packet:
        """DIR [IPINFO] and the rest."""
        base = Packet(self.take().text == "<")
        if self.sees("[") or self.sees("("):
            self.ip_info(base)
        head = self.token.text if self.token.kind == "word" else ""
        if head == "icmp" or head == "icmpv6":
            return self.icmp(base)
        if head in ("udp", "gre", "mpls", "ipv4", "ipv6", "encap"):
            return self.other(base, head)
        return self.tcp(base)

    def ip_info(self, base: Packet) -> None:
        """[ect0], (tos 0x20), [ce, flowlabel 7], [ttl 64]."""
        end = "]" if self.take().text == "[" else ")"
        while not self.sees(end):
            word = self.take()
            if word.text in ("ect0", "ect1", "ce", "noecn", "ect01"):
                if word.text == "ect01" and base.inbound:
                    raise self.error("ect01 is for outbound packets", word)
                base.ecn = word.text
            elif word.text == "tos":
                base.tos = self.number("a TOS", 0, 255)
            elif word.text == "ttl":
                base.ttl = self.number("a TTL", 0, 255)
            elif word.text == "flowlabel":
                base.flowlabel = self.number("a flow label", 0, 0xFFFFF)
            else:
                raise self.error(f"expected ECN, tos, ttl or flowlabel, found {word.text!r}", word)
            if not self.sees(end):
                self.expect(",", f"',' or '{end}'")
        self.take()

    def other(self, base: Packet, head: str, depth: int = 1) -> OtherPacket:
        """What is not supported: UDP in full, of encapsulation what is in front of TCP."""
        made = OtherPacket(base.inbound, what=head)
        self.take()
        if head == "udp":
            if self.sees(">", 1):
                self.ports()
            self.expect("(")
            self.number("a length", 0, 65535)
            self.expect(")")
            return made
        while not self.sees(":"):
            if self.token.kind == "end":
                raise self.unexpected(f"':' after {head}")
            self.take()
        self.take()
        inner = self.token.text
        if inner in ("udp", "gre", "mpls", "ipv4", "ipv6"):
            if depth == HEADERS_MAX:
                raise self.error("headers are nested too deep")
            self.other(base, inner, depth + 1)
        elif inner == "icmp":
            self.icmp(base)
        else:
            self.tcp(base)
        return made

    def ports(self) -> tuple[int, int]:
        source = self.number("a port", 0, 65535)
        self.expect(">")
        return source, self.number("a port", 0, 65535)

    # TCP.

    def tcp(self, base: Packet) -> TcpPacket:
        """[PORTS] FLAGS SEQ [ack N] [win N] [urg N] [<OPTIONS>]."""
        made = TcpPacket(base.inbound, base.ecn, base.tos, base.ttl, base.flowlabel)
        if self.token.kind == "integer" and self.sees(">", 1):
            made.ports = self.ports()
        self.flags(made)
        made.seq, made.length = self.sequence()
        if self.accept("ack"):
            made.ack = self.number("an acknowledgment number")
        if self.accept("win"):
            made.window = self.number("a window", 0, 65535)
        elif base.inbound:
            raise self.unexpected("'win': an inbound packet has a window")
        if self.accept("urg"):
            made.urg = self.number("an urgent pointer", 0, 65535)
        if self.sees("<"):  # the next event has a time first
            self.options(made)
        return made

    def flags(self, made: TcpPacket) -> None:
        """FSRPUEWA with a dot for ACK and a digit for the ACE counter; - for none."""
        token = self.token
        found = re.compile(r"\S*").match(self.text, token.start)
        word = found[0] if found else ""
        parts = FLAGS.fullmatch(word)
        if not word or (word != "-" and (parts is None or (parts["early"] and parts["digit"]))):
            raise self.unexpected("TCP flags")
        while self.token.kind != "end" and self.token.start < token.start + len(word):
            self.take()
        if word == "-" or parts is None:
            return
        for letter in parts["letters"] + parts["dot"]:
            made.flags |= FLAG_BITS[letter]
        digit = parts["early"] or parts["digit"]
        if digit:
            if set(parts["letters"]) & set("EWA"):
                raise self.error("an ACE digit and one of E, W, A", token)
            made.ace = int(digit)
            made.flags |= int(digit) << ACE_SHIFT

    def sequence(self) -> tuple[int, int]:
        """START:END(LEN)."""
        token = self.token
        start = self.number("a sequence number")
        self.expect(":")
        end = self.number("a sequence number")
        self.expect("(")
        length = self.number("a length", 0, 65535)
        self.expect(")")
        if (start + length) & 0xFFFFFFFF != end & 0xFFFFFFFF:
            raise self.error(f"{start}:{end} is not {length} bytes", token)
        return start, length

    def options(self, made: TcpPacket) -> None:
        """<a, b, c> or <...>."""
        token = self.expect("<")
        if self.token.kind == "ellipsis":
            if made.inbound:
                raise self.error("<...> is for outbound packets")
            self.take()
            self.expect(">")
            made.options = None
            return
        options: list[TcpOption] = []
        while not self.sees(">"):
            if options:
                self.expect(",", "',' or '>'")
            options.append(self.option())
        self.take()
        size = sum(option_size(one) for one in options)
        if size % 4:
            raise self.error(f"options take {size} bytes, which is no multiple of 4", token)
        if size > OPTIONS_MAX:
            raise self.error(f"options take {size} bytes: more than {OPTIONS_MAX}", token)
        made.options = options

    def option(self) -> TcpOption:
        token = self.token
        name = self.take().text if token.kind == "word" else ""
        if name in ("nop", "eol", "sackOK"):
            return TcpOption(name)
        if name == "mss":
            return TcpOption(name, (self.number("an MSS", 0, 65535),))
        if name == "wscale":
            return TcpOption(name, (self.number("a window scale", 0, 255),))
        if name == "TS":
            self.expect("val")
            value = self.number("a timestamp")
            self.expect("ecr")
            return TcpOption(name, (value, self.number("a timestamp")))
        if name == "sack":
            edges: list[int] = []
            while not (self.sees(",") or self.sees(">")):
                edges.append(self.number("a SACK block"))
                self.expect(":")
                edges.append(self.number("the end of a SACK block"))
            return TcpOption(name, tuple(edges))
        if name in ("FO", "FOEXP", "md5"):
            return TcpOption(name, blob=self.hexadecimal(name))
        if name == "ECN":
            return self.accecn()
        raise (
            self.error("expected a TCP option", token) if name else self.unexpected("a TCP option")
        )

    def hexadecimal(self, name: str) -> bytes:
        """A cookie or digest, as it is written; none is one, too."""
        token = self.token
        if token.kind not in ("word", "integer", "hex"):
            return b""
        text = token.text.removeprefix("0x") if token.kind == "hex" else token.text
        if len(text) % 2 or len(text) > 32 or not re.fullmatch(r"[0-9a-fA-F]*", text):
            raise self.error(f"{name} takes an even number of hex digits, at most 32")
        self.take()
        return bytes.fromhex(text)

    def accecn(self) -> TcpOption:
        """ECN e0b N ceb N e1b N, or with e1b first; the later ones may be left out."""
        orders = {"e0b": ("e0b", "ceb", "e1b"), "e1b": ("e1b", "ceb", "e0b")}
        token = self.token
        order = orders.get(token.text)
        if order is None:
            if self.sees(",") or self.sees(">"):
                return TcpOption("ECN0")
            raise self.unexpected("e0b or e1b")
        values = []
        for word in order:
            if not self.accept(word):
                break
            values.append(self.number("a counter of 24 bits", 0, 0xFFFFFF))
        return TcpOption("ECN0" if order[0] == "e0b" else "ECN1", tuple(values))

    # ICMP.

    def icmp(self, base: Packet) -> IcmpPacket:
        """icmp TYPE [CODE] [mtu N] [id N] [[SEQ]]."""
        made = IcmpPacket(base.inbound, base.ecn, base.tos, base.ttl, base.flowlabel)
        head = self.take()
        word = self.take()
        made.type = self.icmp_word(word, ICMP_TYPES, "type", -1)
        if made.type < 0 or head.text == "icmpv6":
            made.type = self.icmp_word(word, ICMP6_TYPES, "type", -1)
            made.version = 6
        if made.type < 0:
            raise self.error(f"no ICMP type: {word.text!r}", word)
        if self.token.kind == "word" and not (self.sees("mtu") or self.sees("id")):
            code = self.take()
            table = {name: i for i, name in enumerate(UNREACHABLE)}
            if code.text in UNREACHABLE6 and code.text not in table:
                table = {name: i for i, name in enumerate(UNREACHABLE6)}
            made.code = self.icmp_word(code, table, "code", -1)
            if made.code < 0:
                raise self.error(f"no ICMP code: {code.text!r}", code)
        while self.sees("mtu") or self.sees("id"):
            if self.take().text == "mtu":
                made.mtu = self.number("an MTU", 0, 65535)
            else:
                made.ident = self.number("an id", 0, 65535)
        if made.mtu is not None and made.version == 4 and (made.type, made.code) != (3, 4):
            raise self.error("an MTU is for frag_needed", word)
        if self.accept("["):
            self.echoed(made)
        return made

    def icmp_word(self, token: Token, table: dict[str, int], kind: str, missing: int) -> int:
        if token.text in table:
            return table[token.text]
        found = re.fullmatch(rf"{kind}_(\d{{1,3}})", token.text)
        return int(found[1]) if found and int(found[1]) < 256 else missing

    def echoed(self, made: IcmpPacket) -> None:
        """What an error talks about."""
        if self.sees("udp") or self.sees("raw"):
            made.protocol = 17 if self.take().text == "udp" else 255
            self.expect("(")
            made.length = self.number("a length", 0, 65535)
            self.expect(")")
        else:
            made.seq, made.length = self.sequence()
        self.expect("]")


def option_size(option: TcpOption) -> int:
    """Bytes that an option takes."""
    name = option.name
    if name in ("nop", "eol"):
        return 1
    fixed = {"mss": 4, "wscale": 3, "sackOK": 2, "TS": 10}
    if name in fixed:
        return fixed[name]
    if name == "sack":
        return 2 + 4 * len(option.values)
    if name in ("ECN0", "ECN1"):
        return 2 + 3 * len(option.values)
    return (4 if name == "FOEXP" else 2) + len(option.blob)
