"""Packet scripts: one host, a peer played by the script, each emitted segment one line.

The host is an engine's `Net` in virtual time (`Host`) or the machine's own kernel (linux_host.py),
so that the same script tells what each does. A line reads: when, flags, seq:end, ack, window,
options; numbers relative to each side's initial one.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import capgen
from capgen import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG

SEC = 1_000_000_000
HOST4, PEER4 = "10.77.0.2", "10.77.0.1"
HOST6, PEER6 = "fd77::2", "fd77::1"
PORT = 80  # of the host where it listens
FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": PSH, "A": ACK, "U": URG, "E": ECE, "C": CWR}
STATES = (
    "?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING",
)  # fmt: skip


def net_of(engine: ModuleType) -> Any:
    """The engine's `Net`, or None where it has none."""
    if engine.ENGINE == "reference":
        return import_module("tcpcore.reference.core_net").Net
    return getattr(engine, "Net", None)


class Host:
    """An engine under a virtual clock, with the calls that scripts make."""

    def __init__(self, net_class: Any, sysctl: dict[str, Any] | None = None) -> None:
        self.net = net_class(b"0123456789abcdef")
        self.net.add_address(capgen.address16(HOST4), 120)
        self.net.add_address(capgen.address16(HOST6), 64)
        for name, value in (sysctl or {}).items():
            self.net.set_sysctl(name, value)
        self.now_ns = 1000 * SEC
        self.net.advance(self.now_ns)
        self.out: list[tuple[int, bytes]] = []

    def _drain(self) -> None:
        self.out += [(self.now_ns, bytes(packet)) for packet in self.net.transmit()[0]]

    def inject(self, packet: bytes) -> None:
        self.net.receive(packet, self.now_ns)
        self._drain()

    def wait(self, ns: int) -> None:
        end_ns = self.now_ns + ns
        while 0 <= (due_ns := self.net.next_deadline()) <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.net.advance(self.now_ns)
            self._drain()
        self.now_ns = end_ns
        self.net.advance(end_ns)
        self._drain()

    def drain(self) -> list[tuple[int, bytes]]:
        self._drain()
        out, self.out = self.out, []
        return out

    def socket(self, ip: int) -> int:
        return int(self.net.socket(ip))

    def bind(self, sk: int, addr: str, port: int) -> int:
        return int(self.net.bind(sk, capgen.address16(addr), port))

    def listen(self, sk: int, backlog: int) -> int:
        return int(self.net.listen(sk, backlog))

    def accept(self, sk: int) -> int:
        return int(self.net.accept(sk))

    def connect(self, sk: int, addr: str, port: int) -> int:
        family = 10 if ":" in addr else 2
        err = self.net.connect(sk, family, capgen.address16(addr), port)
        self._drain()
        return -errno.EINPROGRESS if not err else int(err)

    def send(self, sk: int, data: bytes, flags: int = 0) -> int:
        sent = int(self.net.sendmsg(sk, data, flags))
        self._drain()
        return sent

    def recv(self, sk: int, size: int, flags: int = 0) -> bytes | int:
        err, data = self.net.recvmsg(sk, size, flags)
        self._drain()
        return err or data

    def shutdown(self, sk: int, how: int) -> int:
        err = int(self.net.shutdown(sk, how))
        self._drain()
        return err

    def close(self, sk: int) -> None:
        self.net.close(sk)
        self._drain()

    def setsockopt(self, sk: int, level: int, name: int, value: int) -> int:
        err = int(self.net.setsockopt(sk, level, name, value))
        self._drain()
        return err

    def getsockopt(self, sk: int, level: int, name: int) -> int:
        err, value = self.net.getsockopt(sk, level, name)
        return int(err or value)

    def linger(self, sk: int, on: bool, seconds: int) -> int:
        return int(self.net.set_linger(sk, on, seconds))

    def poll(self, sk: int) -> int:
        return int(self.net.poll(sk))

    def info(self, sk: int) -> dict[str, int]:
        return dict(self.net.info(sk))

    def state(self, host: str, port: int, peer: str, peer_port: int) -> str:
        key = capgen.address16(host), port, capgen.address16(peer), peer_port
        return STATES[self.net.state_of(*key)]


def word(result: Any) -> str:
    """What a call gave: a negative number is an errno's name."""
    if isinstance(result, int) and result < 0:
        return errno.errorcode[-result]
    if isinstance(result, bytes):
        return repr(result) if len(result) < 20 else f"{len(result)} bytes"
    return str(result)


class Script:
    """A peer and the trace of what a host answers it.

    `put` sends a segment; what it leaves out goes on where the peer is. Everything that the host
    emits, and what calls gave, goes to `lines`.
    """

    def __init__(self, host: Any, ip: int = 4) -> None:
        self.host = host
        self.ip = ip
        self.lines: list[str] = []
        self.here, self.peer = (HOST4, PEER4) if ip == 4 else (HOST6, PEER6)
        self.port, self.peer_port = PORT, 40000
        self.isn = 5_000_000
        self.seq = 0  # the peer's next number, relative
        self.rcv = 0  # what the peer has of the host, relative
        self.host_isn: int | None = None
        self.win = 65535
        self.ts: tuple[int, int] | None = None  # value for the next segment; last of the host's
        self.start_ns = host.now_ns
        self.sk = self.listener = -1
        self.hold = False  # the peer does not take in what comes

    # What the script does.

    def put(
        self,
        flags: str,
        n: int | bytes = 0,
        *,
        seq: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        opts: bytes = b"",
        urg: int = 0,
        csum: int | None = None,
        ip: dict[str, object] | None = None,
        ts: tuple[int, int] | bool | None = True,
    ) -> None:
        """One segment of the peer's, with n bytes."""
        data = n if isinstance(n, bytes) else bytes(i & 0xFF for i in range(n))
        at = self.seq if seq is None else seq
        bits = sum(FLAGS[letter] for letter in flags)
        number = 0
        if bits & ACK:
            number = (self.host_isn or 0) + (self.rcv if ack is None else ack)
        elif ack is not None:
            number = ack
        if ts is True and self.ts is not None:
            opts = capgen.NOP * 2 + capgen.timestamp(*self.ts) + opts
        elif isinstance(ts, tuple):
            opts = capgen.NOP * 2 + capgen.timestamp(*ts) + opts
        packet = capgen.packet(
            self.peer, self.here, self.peer_port, self.port, seq=self.isn + at, ack=number,
            flags=bits, window=self.win if win is None else win, options=opts, urgent=urg,
            payload=data, csum=csum, ip=ip,
        )  # fmt: skip
        if seq is None:
            self.seq = at + len(data) + bool(bits & SYN) + bool(bits & FIN)
        self.host.inject(packet)
        self.take()

    def icmp(self, kind: int, code: int, *, rest: int = 0, seq: int = 0, inner: int = 8) -> None:
        """An error about the segment at a number of the host's stream; `rest` may hold an MTU."""
        number = (self.host_isn or 0) + seq
        sent = capgen.packet(
            self.here,
            self.peer,
            self.port,
            self.peer_port,
            seq=number,
            flags=ACK,
            payload=bytes(64),
        )
        body = (
            struct.pack(">BBHI", kind, code, 0, rest) + sent[: (20 if self.ip == 4 else 40) + inner]
        )
        if self.ip == 4:
            check = capgen.checksum(body)
        else:
            pseudo = capgen.address(self.peer) + capgen.address(self.here)
            check = capgen.checksum(pseudo + struct.pack(">II", len(body), 58) + body)
        body = body[:2] + check.to_bytes(2, "big") + body[4:]
        wrap, proto = (capgen.ipv4, 1) if self.ip == 4 else (capgen.ipv6, 58)
        self.host.inject(wrap(body, self.peer, self.here, proto=proto))
        self.take()

    def wait(self, seconds: float) -> None:
        self.host.wait(round(seconds * SEC))
        self.take()

    def take(self) -> None:
        """Write down what the host has emitted."""
        for time_ns, packet in self.host.drain():
            line = self.line(packet)
            if line:
                self.lines.append(f"{(time_ns - self.start_ns) / SEC:9.3f} {line}")

    def say(self, what: str, result: Any = None) -> Any:
        self.take()
        self.lines.append(
            f"          {what}" + (f" = {word(result)}" if result is not None else "")
        )
        return result

    def mark(self) -> None:
        """Times count from here."""
        self.take()
        self.start_ns = self.host.now_ns

    def line(self, packet: bytes) -> str:
        """One emitted segment in words; what the peer is told is taken in."""
        if packet[0] >> 4 == 4:
            if packet[9] != 6:
                return ""
            at, end = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)[0]
        else:
            if packet[6] != 6:
                return ""
            at, end = 40, 40 + struct.unpack_from(">H", packet, 4)[0]
        source = str(ipaddress.ip_address(packet[12:16] if at < 40 else packet[8:24]))
        if source != self.here:
            return ""
        sport, dport, seq, ack, bits, win, _, urg = struct.unpack_from(">HHIIHHHH", packet, at)
        if dport != self.peer_port:
            return ""  # another connection's
        head = (bits >> 12) * 4
        data = packet[at + head : end]
        flags = "".join(letter for letter in "SFRPAUEC" if bits & FLAGS[letter])
        if bits & SYN:
            if self.host_isn is None or not bits & ACK:
                self.rcv = 0
            self.host_isn = seq
            self.port = sport
        base = 0 if self.host_isn is None else self.host_isn
        rel = (seq - base) & 0xFFFFFFFF
        if bits & RST and not seq:  # the number of none
            rel = 0
        over = rel + len(data) + bool(bits & SYN) + bool(bits & FIN)
        if rel >= 1 << 31:
            rel, over = rel - (1 << 32), over - (1 << 32)
        if not self.hold and not bits & RST:
            self.rcv = max(self.rcv, over)
        words = [flags, f"{rel}:{over}({len(data)})"]
        if bits & ACK:
            words.append(f"ack {(ack - self.isn) & 0xFFFFFFFF}")
        words.append(f"win {win}")
        if bits & URG:
            words.append(f"urg {urg}")
        words += self.options(packet[at + 20 : at + head])
        return " ".join(words)

    def options(self, raw: bytes) -> list[str]:
        words, at = [], 0
        while at < len(raw):
            kind = raw[at]
            if kind in (0, 1):
                words += ["nop"] if kind else ["eol"]
                at += 1
                continue
            body = raw[at + 2 : at + raw[at + 1]]
            if kind == 2:
                words.append(f"mss {int.from_bytes(body, 'big')}")
            elif kind == 3:
                words.append(f"wscale {body[0]}")
            elif kind == 4:
                words.append("sackOK")
            elif kind == 8:
                value, echo = struct.unpack(">II", body)
                if self.ts is not None:
                    self.ts = self.ts[0], value
                words.append(f"ts ecr {echo}")
            elif kind == 5:
                edges = [(e - self.isn) & 0xFFFFFFFF for (e,) in struct.iter_unpack(">I", body)]
                pairs = zip(edges[::2], edges[1::2], strict=True)
                words.append("sack " + ",".join(f"{a}:{b}" for a, b in pairs))
            else:
                words.append(f"opt{kind}")
            at += raw[at + 1]
        return words

    # Ways to begin.

    def any(self) -> str:
        return "0.0.0.0" if self.ip == 4 else "::"

    def listen(self, backlog: int = 5, **options: int) -> None:
        self.listener = self.host.socket(self.ip)
        self.host.bind(self.listener, self.any(), PORT)
        self.host.listen(self.listener, backlog)

    def accepted(self, opts: bytes | None = None, port: int = 40000, quiet: bool = True) -> None:
        """A connection that the peer has opened, with the options of its SYN."""
        if self.listener < 0:
            self.listen()
        hold, self.hold = self.hold, False
        self.fresh(port)
        self.put("S", opts=capgen.mss(1460) if opts is None else opts, ts=False)
        self.put("A")
        self.hold = hold
        self.sk = self.host.accept(self.listener)
        if quiet:
            self.lines.clear()
        self.mark()

    def connected(
        self, opts: bytes | None = None, setup: Callable[[int], Any] | None = None
    ) -> None:
        """A connection that the host has opened."""
        self.dial(setup=setup)
        self.put("SA", opts=capgen.mss(1460) if opts is None else opts, ts=False)
        self.lines.clear()
        self.mark()

    def dial(self, port: int = 9000, setup: Callable[[int], Any] | None = None) -> int:
        """Let the host open a connection."""
        self.sk = self.host.socket(self.ip)
        if setup:
            setup(self.sk)
        self.fresh(port)
        err = self.host.connect(self.sk, self.peer, port)
        self.take()
        return int(err)

    def fresh(self, port: int) -> None:
        self.port, self.peer_port = PORT, port
        self.seq = self.rcv = 0
        self.host_isn = None

    def state(self) -> str:
        return str(self.host.state(self.here, self.port, self.peer, self.peer_port))

    def send(self, n: int, flags: int = 0) -> int:
        result = self.host.send(self.sk, bytes(n), flags)
        self.take()
        if result != n:
            self.say(f"send({n})", result)
        return int(result)

    def recv(self, size: int = 1 << 20, flags: int = 0) -> Any:
        result = self.host.recv(self.sk, size, flags)
        self.take()
        return self.say("recv", result)

    def close(self) -> None:
        self.host.close(self.sk)
        self.take()

    def shutdown(self, how: int = 1) -> None:
        err = self.host.shutdown(self.sk, how)
        self.take()
        if err:
            self.say("shutdown", err)

    def set(self, level: int, name: int, value: int) -> None:
        err = self.host.setsockopt(self.sk, level, name, value)
        self.take()
        if err:
            self.say(f"setsockopt({level}, {name}, {value})", err)
