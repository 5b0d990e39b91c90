"""Packet scripts of one host: what a peer sends, what is asked of the socket, when.

Each names what it shows (rows of RFC 9293, threats); tests/data/linux.txt holds Linux's answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capgen import NOP, SACK_PERM, mss, timestamp, wscale
from script import Script

SOL_SOCKET, SOL_TCP = 1, 6
SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_OOBINLINE = 4, 7, 8, 9, 10
NODELAY, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER = 1, 3, 4, 5, 6, 7, 8, 9
QUICKACK, USER_TIMEOUT, MAXSEG = 12, 18, 2
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


# Opening.


@script()
def syn_4(s: Script) -> None:
    """9293:MUST-14, SHLD-5, MAY-3, MUST-22, MUST-23, SHLD-10: the SYN, and how long it is tried."""
    s.say("connect", s.dial())
    s.wait(250)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))
    s.say(s.state())


@script(ip=6)
def syn_6(s: Script) -> None:
    """9293:SHLD-5: over IPv6."""
    s.say("connect", s.dial())
    s.wait(1.5)
    s.put("SA", opts=mss(1440))
    s.send(5000)
    s.wait(0.5)


@script()
def syn_maxseg(s: Script) -> None:
    """9293:MUST-16: TCP_MAXSEG bounds both ways; TCP_SYNCNT."""

    def setup(sk: int) -> None:
        s.set(SOL_TCP, MAXSEG, 500)
        s.set(SOL_TCP, SYNCNT, 2)

    s.dial(setup=setup)
    s.wait(30)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def synack(s: Script) -> None:
    """9293:MUST-4, MUST-6, MUST-64, SHLD-5, MUST-14: a SYN-ACK's options follow the SYN's."""
    s.listen()
    for i, opts in enumerate(
        (
            b"",
            mss(1460),
            mss(1460) + SACK_PERM,
            mss(1460) + NOP + wscale(7),
            mss(1460) + NOP + NOP + timestamp(7, 0),
            mss(1460) + SACK_PERM + timestamp(7, 0) + NOP + wscale(14),
            NOP + timestamp(7, 0) + wscale(15),
            b"\xfd\x04ab" + mss(900) + b"\x6f\x02",
            NOP + mss(1000) + SACK_PERM + b"\x00\xff\xff\xff",
            timestamp(7, 0) + NOP + NOP + mss(1460),
        )
    ):
        s.fresh(41000 + i)
        s.put("S", opts=opts)
        s.put("R")
        s.wait(0.1)


@script()
def synack_again(s: Script) -> None:
    """RFC 4987; T-27: a SYN-ACK is sent again five times, then the request is forgotten."""
    s.listen()
    s.fresh(40000)
    s.put("S", opts=ALL)
    s.wait(100)
    s.say(s.state())
    s.put("A", seq=1, ack=1)


@script()
def syn_recv(s: Script) -> None:
    """9293:MUST-11: SYN-RECEIVED of a passive open: SYN again, wrong ACK, data, RST."""
    s.listen()
    s.fresh(40000)
    s.put("S", opts=SACK)
    s.wait(0.6)
    s.put("S", seq=0, opts=SACK)
    s.say(s.state())
    s.wait(0.1)
    s.put("A", seq=1, ack=5)
    s.put("A", seq=1, ack=0)
    s.say(s.state())
    s.wait(0.6)
    s.put("", 10, seq=1)
    s.put("S", seq=100, opts=SACK)
    s.wait(0.6)
    s.put("A", 10, seq=100000)
    s.wait(0.6)
    s.put("R", seq=100)
    s.say(s.state())
    s.put("R", seq=1)
    s.say(s.state())
    s.put("A", seq=1, ack=1)


@script()
def third_ack(s: Script) -> None:
    """9293:MUST-58: data with the handshake's ACK; FIN with it."""
    s.listen()
    s.fresh(40000)
    s.put("S", opts=ALL)
    s.put("PA", b"hello", win=500)
    s.sk = s.host.accept(s.listener)
    s.recv()
    s.wait(0.3)
    s.fresh(40001)
    s.put("S", opts=ALL)
    s.put("FA", b"bye", win=500)
    s.say(s.state())
    s.sk = s.host.accept(s.listener)
    s.recv()
    s.recv()
    s.wait(0.3)


@script()
def to_listener(s: Script) -> None:
    """9293:MUST-41, MUST-42: what no SYN is, to a listener and to nobody (3.10.7.1, 3.10.7.2)."""
    s.listen()
    for port in (80, 81):
        for i, (flags, n) in enumerate(
            (("A", 0), ("R", 0), ("RA", 0), ("F", 0), ("FA", 0), ("", 5), ("SF", 0), ("SA", 0),
             ("SR", 0), ("PA", 10), ("SU", 0), ("SP", 3))
        ):  # fmt: skip
            s.fresh(42000 + i)
            s.port = port
            s.say(f"{port} {flags} {n}")
            s.put(flags, n, seq=50, ack=70 if "A" in flags else None)
            s.wait(0.1)


@script()
def connect_answers(s: Script) -> None:
    """9293:MUST-12: SYN-SENT: wrong ACK, RST without ACK, RST, SYN-ACK (3.10.7.3)."""
    s.dial()
    s.put("A", seq=9, ack=1)
    s.put("SA", seq=0, ack=0)
    s.put("SA", seq=0, ack=2)
    s.put("R", seq=0)
    s.put("RA", seq=0, ack=2)
    s.put("FA", seq=0, ack=1)
    s.put("A", 7, seq=0, ack=1)
    s.say(s.state())
    s.put("RA", seq=0, ack=1)
    s.say(s.state())
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))
    s.recv()


@script()
def connect_done(s: Script) -> None:
    """9293:MUST-14: SYN-ACK with options, then data at once, small and large."""
    s.dial()
    s.ts = 700, 0
    s.put("SA", opts=SACK + NOP + wscale(3))
    s.say(s.state())
    s.send(5)
    s.put("A")
    s.send(4000)
    s.wait(0.1)
    s.put("A")
    s.put("SA", seq=0, opts=SACK + NOP + wscale(3))
    s.wait(0.1)


@script()
def connect_data_on_synack(s: Script) -> None:
    """RFC 9293 3.10.7.3: text that comes with the SYN-ACK."""
    s.dial()
    s.put("SA", b"greet", opts=SACK)
    s.wait(0.3)
    s.recv()


@script()
def simultaneous_open(s: Script) -> None:
    """9293:MUST-10: crossing SYNs."""
    s.dial()
    s.put("S", opts=ALL)
    s.say(s.state())
    s.put("SA", seq=0, opts=ALL)
    s.say(s.state())
    s.put("PA", b"abc")
    s.recv()
    s.send(10)
    s.wait(0.1)


@script()
def simultaneous_open_ack(s: Script) -> None:
    """9293:MUST-10, MUST-11: the crossing SYN is answered by an ACK alone; by a RST."""
    s.dial()
    s.put("S", opts=mss(1000))
    s.wait(1.5)
    s.put("A")
    s.say(s.state())
    s.send(3000)
    s.wait(0.1)
    s.dial(9001)
    s.put("S", opts=mss(1000))
    s.put("R")
    s.say(s.state())
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def tiny_mss(s: Script) -> None:
    """9293:MUST-15; T-03, T-04: without an MSS 536; what is too small has a floor."""
    s.listen()
    for i, opts in enumerate((b"", mss(0), mss(1), mss(8), mss(48), mss(100), mss(536))):
        s.fresh(43000 + i)
        s.put("S", opts=opts)
        s.put("A")
        s.sk = s.host.accept(s.listener)
        s.send(1200)
        s.wait(0.01)
        s.put("R")


@script(ip=6)
def tiny_mss_6(s: Script) -> None:
    """9293:MUST-15: without an MSS 1220 over IPv6."""
    s.listen()
    for i, opts in enumerate((b"", mss(300))):
        s.fresh(43000 + i)
        s.put("S", opts=opts)
        s.put("A")
        s.sk = s.host.accept(s.listener)
        s.send(3000)
        s.wait(0.01)
        s.put("R")


@script()
def backlog(s: Script) -> None:
    """T-01: the accept queue is full: the ACK is dropped, the SYN-ACK goes again."""
    s.listen(backlog=1)
    for i in range(4):
        s.fresh(44000 + i)
        s.put("S", opts=SACK)
        s.put("A")
        s.say(s.state())
    s.fresh(44002)
    s.host_isn = None
    s.wait(4)


@script(tcp_abort_on_overflow=1)
def backlog_abort(s: Script) -> None:
    """Issue: tcp_abort_on_overflow."""
    s.listen(backlog=0)
    for i in range(2):
        s.fresh(44000 + i)
        s.put("S", opts=SACK)
        s.put("A")
        s.say(s.state())


@script()
def defer_accept(s: Script) -> None:
    """Issue: TCP_DEFER_ACCEPT: a bare ACK makes no connection, data does."""
    s.listener = s.host.socket(4)
    s.host.bind(s.listener, s.any(), 80)
    s.host.setsockopt(s.listener, SOL_TCP, DEFER, 3)
    s.host.listen(s.listener, 5)
    s.fresh(40000)
    s.put("S", opts=SACK)
    s.put("A")
    s.say(s.state())
    s.wait(0.5)
    s.put("PA", b"x")
    s.say(s.state())
    s.fresh(40001)
    s.put("S", opts=SACK)
    s.put("A")
    s.wait(12)
    s.say(s.state())


@script(tcp_syncookies=2)
def cookies(s: Script) -> None:
    """T-01; RFC 4987: SYN-ACKs with cookies, with and without time stamps; what is accepted."""
    s.listen()
    for i, opts in enumerate((ALL, mss(1460) + SACK_PERM + timestamp(7, 0) + NOP + wscale(5))):
        s.fresh(45000 + i)
        s.put("S", opts=opts)
        if i:
            s.ts = 9, 0
        s.wait(1.5)
        s.put("A", seq=1, ack=2, ts=False)
        s.say(s.state())
    s.ts = None
    s.fresh(45002)
    s.put("S", opts=mss(1460))
    s.put("A")
    s.say(s.state())
    s.sk = s.host.accept(s.listener)
    s.send(4000)
    s.wait(0.1)
    s.fresh(45003)
    s.put("S", opts=mss(1000))
    s.put("A")
    s.sk = s.host.accept(s.listener)
    s.send(4000)
    s.wait(0.1)


# Data in.


@script()
def quick_acks(s: Script) -> None:
    """9293:SHLD-18, SHLD-19, MUST-40, MUST-58: when full segments are acknowledged, and windows."""
    s.accepted(ALL)
    for _ in range(60):
        s.put("A", 1460)
        s.wait(0.002)
    s.wait(0.5)
    s.recv(1 << 20)
    s.wait(0.3)


@script()
def quick_acks_read(s: Script) -> None:
    """9293:SHLD-19: the same with a reader."""
    s.accepted(ALL)
    for i in range(60):
        s.put("A" if i % 10 != 9 else "PA", 1460)
        if i % 5 == 4:
            s.recv(1 << 20)
        s.wait(0.002)
    s.wait(0.5)


@script()
def delayed_ack(s: Script) -> None:
    """9293:SHLD-18, MUST-40: small segments far apart, after the quick ones."""
    s.accepted(SACK)
    for _ in range(40):
        s.put("PA", 100)
        s.wait(0.001)
    s.recv()
    s.mark()
    for gap in (0.5, 0.5, 0.1, 0.05, 0.02, 1.0, 3.0, 0.2):
        s.put("PA", 100)
        s.wait(gap)
    s.recv()


@script()
def pingpong(s: Script) -> None:
    """9293:SHLD-18: an answer carries the ACK; then ACKs are delayed."""
    s.accepted(SACK)
    for _ in range(6):
        s.put("PA", 50)
        s.recv()
        s.send(20)
        s.wait(0.05)
        s.put("A")
        s.wait(0.05)
    s.mark()
    s.put("PA", 50)
    s.recv()
    s.wait(0.3)
    s.put("PA", 50)
    s.wait(0.3)
    s.put("PA", 50)
    s.wait(0.3)


@script()
def quickack_option(s: Script) -> None:
    """Issue: TCP_QUICKACK."""
    s.accepted(SACK)
    for _ in range(40):
        s.put("PA", 100)
        s.wait(0.001)
    s.wait(1)
    s.set(SOL_TCP, QUICKACK, 0)
    s.mark()
    s.put("PA", 100)
    s.wait(0.3)
    s.set(SOL_TCP, QUICKACK, 1)
    s.put("PA", 100)
    s.wait(0.3)


@script()
def out_of_order(s: Script) -> None:
    """9293:MAY-13, SHLD-31, MUST-59, MUST-58; RFC 2018: holes, SACK blocks, one ACK for the run."""
    s.accepted(SACK)
    s.put("A", 1000)
    s.put("A", 1000, seq=2001)
    s.put("A", 1000, seq=4001)
    s.put("A", 1000, seq=6001)
    s.put("A", 1000, seq=8001)
    s.put("A", 1000, seq=10001)
    s.put("A", 1000, seq=6001)
    s.put("A", 1000, seq=5001)
    s.put("A", 1000, seq=1001)
    s.put("A", 4500, seq=3001)
    s.put("A", 1000, seq=7001)
    s.put("A", 3000, seq=9001)
    s.seq = 12001
    s.wait(0.3)
    s.recv()
    s.wait(0.3)


@script()
def out_of_order_no_sack(s: Script) -> None:
    """9293:MAY-13, SHLD-31: without SACK."""
    s.accepted()
    s.put("A", 1000)
    s.put("A", 1000, seq=2001)
    s.put("A", 1000, seq=4001)
    s.put("A", 1000, seq=1001)
    s.put("A", 1000, seq=3001)
    s.wait(0.3)
    s.recv()


@script()
def duplicates(s: Script) -> None:
    """RFC 2883: D-SACK for what comes twice, wholly and in part; data before the window."""
    s.accepted(SACK)
    s.put("A", 1000)
    s.put("A", 1000)
    s.put("A", 1000, seq=1)
    s.put("A", 1000, seq=501)
    s.put("A", 1000, seq=1501)
    s.wait(0.3)
    s.put("A", 1000, seq=1)
    s.put("A", 0, seq=1)
    s.wait(0.6)
    s.put("A", 0, seq=1)
    s.put("A", 0, seq=2)
    s.wait(0.6)
    s.put("A", 1, seq=0)
    s.recv()


@script()
def partial_fin(s: Script) -> None:
    """T-28: a FIN that comes early waits for what is before it."""
    s.accepted(SACK)
    s.put("FA", 100, seq=101)
    s.say(s.state())
    s.put("A", 100, seq=1)
    s.say(s.state())
    s.recv()
    s.recv()
    s.wait(0.3)


@script()
def zero_window(s: Script) -> None:
    """9293:SHLD-14, MUST-39, MAY-8, MUST-66: the window shuts, probes are answered, it opens."""
    s.accepted()
    for _ in range(70):
        s.put("A", 1460)
    s.wait(0.3)
    s.say("shut")
    s.put("A", 1)
    s.wait(1)
    s.put("A", 1, seq=s.seq - 1)
    s.wait(1)
    s.put("A", 0, seq=s.rcv - 1)
    s.wait(1)
    s.recv(1000)
    s.wait(0.3)
    s.recv(20000)
    s.wait(0.3)
    s.recv(1 << 20)
    s.wait(0.3)


@script()
def zero_window_small(s: Script) -> None:
    """9293:MUST-39: a small buffer, full segments, byte-wise reads."""
    s.listener = s.host.socket(4)
    s.host.bind(s.listener, s.any(), 80)
    s.host.setsockopt(s.listener, SOL_SOCKET, SO_RCVBUF, 4000)
    s.host.listen(s.listener, 5)
    s.accepted(ALL, quiet=False)
    for _ in range(12):
        s.put("A", 500)
        s.wait(0.05)
    s.wait(0.3)
    for _ in range(4):
        s.recv(10)
        s.wait(0.05)
    s.recv(1000)
    s.wait(0.05)
    s.recv(1000)
    s.wait(0.05)
    s.recv(1000)
    s.wait(0.3)


@script()
def zero_window_rst(s: Script) -> None:
    """9293:MUST-66: with the window shut a RST and URG are processed."""
    s.accepted()
    for _ in range(70):
        s.put("A", 1460)
    s.wait(0.3)
    at = s.seq
    s.say(s.state())
    s.put("R", seq=at - 1460)
    s.say(s.state())
    s.put("R", seq=at)
    s.say(s.state())
    s.recv()
    s.recv()


@script()
def urgent_in(s: Script) -> None:
    """9293:MUST-30, MUST-31, MUST-32, MUST-33, MUST-62; T-12: the octet before the pointer."""
    s.accepted()
    s.say("poll", s.host.poll(s.sk))
    s.put("PAU", b"abcdef", urg=3)
    s.say("poll", s.host.poll(s.sk))
    s.recv(100, OOB)
    s.recv(100, OOB)
    s.recv(100)
    s.recv(100)
    s.recv(100)
    s.put("AU", b"ghi", urg=10)
    s.say("poll", s.host.poll(s.sk))
    s.recv(100, OOB)
    s.put("PA", b"jklmnopq")
    s.say("poll", s.host.poll(s.sk))
    s.recv(100)
    s.recv(100)
    s.set(SOL_SOCKET, SO_OOBINLINE, 1)
    s.put("PAU", b"rst", urg=2)
    s.recv(100)
    s.recv(100)
    s.recv(100)
    s.put("AU", 0, urg=0)
    s.put("AU", b"uv", urg=0)
    s.recv(100)
    s.put("AU", b"wx", urg=65535)
    s.recv(100)
    s.put("A", b"y")
    s.recv(100)
    s.wait(0.3)


@script()
def odd_options(s: Script) -> None:
    """9293:MUST-5, MUST-6, MUST-7, MUST-64, MUST-69: options anywhere, at any place, damaged."""
    s.ts = 100, 0
    s.accepted(mss(1460) + NOP + NOP + timestamp(100, 0))
    value = s.ts[1]
    for opts in (
        NOP * 2 + timestamp(101, value),
        timestamp(102, value) + NOP * 2,
        NOP + timestamp(103, value),
        NOP * 3 + timestamp(104, value),
        b"\x6f\x04ab" + timestamp(105, value),
        b"\xfd\x02" + timestamp(106, value),
    ):
        s.put("PA", b"ab", opts=opts, ts=False)
        s.wait(0.05)
    for opts in (b"\x6f\x00\x00\x00", b"\x6f\x01\x00\x00", b"\x6f\x09\x00\x00", b"\x01\x01\x01\x08",
                 b"\x00\x12\x34\x56", mss(5), b"\x05\x0a" + bytes(8)):  # fmt: skip
        s.put("PA", b"cd", opts=opts, ts=False)
        s.wait(0.05)
    s.wait(0.3)


@script()
def bad_checksum(s: Script) -> None:
    """9293:MUST-3: a wrong checksum is not answered."""
    s.accepted()
    s.put("PA", 10, csum=0x1234)
    s.seq = 1
    s.wait(0.3)
    s.put("PA", 10)
    s.put("R", csum=0x4321)
    s.say(s.state())
    s.wait(0.3)


# Data out.


@script()
def write_sizes(s: Script) -> None:
    """9293:MUST-60, MUST-61, SHLD-27, SHLD-28, MAY-15: how writes are cut, where PSH stands."""
    s.accepted(ALL)
    s.send(1)
    s.wait(0.01)
    s.put("A")
    s.send(1460)
    s.put("A")
    s.send(1461)
    s.put("A")
    s.send(3000)
    s.wait(0.01)
    s.put("A")
    s.send(13000)
    s.wait(0.01)
    s.put("A")
    s.send(70000)
    s.wait(0.01)
    s.put("A")
    s.wait(0.01)
    s.put("A")
    s.wait(0.01)


@script()
def nagle(s: Script) -> None:
    """9293:SHLD-7, MUST-17: one small segment in flight; TCP_NODELAY; Minshall's variant."""
    s.accepted(SACK)
    s.send(1)
    s.send(1)
    s.send(1)
    s.wait(0.05)
    s.put("A")
    s.put("A")
    s.send(2000)
    s.send(1)
    s.wait(0.05)
    s.put("A")
    s.send(1)
    s.set(SOL_TCP, NODELAY, 1)
    s.send(1)
    s.send(1)
    s.put("A")
    s.set(SOL_TCP, NODELAY, 0)
    s.send(1)
    s.send(5)
    s.set(SOL_TCP, NODELAY, 1)
    s.wait(0.01)
    s.put("A")


@script()
def cork(s: Script) -> None:
    """9293:MAY-16, MUST-60: TCP_CORK and MSG_MORE hold what is small, for 200 ms at most."""
    s.accepted(SACK)
    s.set(SOL_TCP, CORK, 1)
    s.send(100)
    s.send(2000)
    s.wait(0.05)
    s.put("A")
    s.set(SOL_TCP, CORK, 0)
    s.put("A")
    s.mark()
    s.send(10, MORE)
    s.send(10, MORE)
    s.send(10)
    s.put("A")
    s.send(1460, MORE)
    s.put("A")
    s.mark()
    s.send(10, MORE)
    s.wait(0.5)
    s.put("A")
    s.set(SOL_TCP, CORK, 1)
    s.mark()
    s.send(10)
    s.wait(0.5)
    s.put("A")


@script()
def record_ends(s: Script) -> None:
    """Issue: MSG_EOR keeps records apart."""
    s.accepted(SACK)
    s.set(SOL_TCP, CORK, 1)
    s.send(100, EOR)
    s.send(100)
    s.send(100, EOR)
    s.send(100)
    s.set(SOL_TCP, CORK, 0)
    s.put("A")
    s.wait(0.01)
    s.put("A")
    s.wait(0.01)
    s.put("A")


@script()
def slow_start(s: Script) -> None:
    """9293:MUST-19; RFC 5681 3.1: ten segments, then two for each acknowledged."""
    s.hold = True
    s.accepted(WIDE)
    s.rcv = 1
    s.send(1460 * 80)
    s.wait(0.1)
    for i in range(1, 16):
        s.put("A", ack=1 + 1460 * 2 * i, win=2000)
        s.wait(0.001)


@script()
def ack_division(s: Script) -> None:
    """T-09; RFC 3465: bytewise ACKs do not open the window; optimistic ones are refused."""
    s.hold = True
    s.accepted(WIDE)
    s.rcv = 1
    s.send(1460 * 40)
    s.wait(0.1)
    for i in range(1, 20):
        s.put("A", ack=1 + 70 * i, win=2000)
    s.wait(0.01)
    s.put("A", ack=60000, win=2000)
    s.wait(0.01)


@script()
def rto_series(s: Script) -> None:
    """9293:MUST-18, MUST-20, SHLD-10, SHLD-11; RFC 6298: time-outs double up to R2."""
    s.accepted(SACK)
    s.send(100)
    s.wait(0.05)
    s.put("A")
    s.send(100)
    s.wait(1100)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))
    s.say(s.state())


@script()
def rto_karn(s: Script) -> None:
    """9293:MUST-18: Karn's rule; after a time-out the window is one segment, then slow start."""
    s.hold = True
    s.accepted(SACK)
    s.rcv = 1
    s.send(14600)
    s.wait(0.9)
    s.put("A", ack=1461)
    s.wait(0.01)
    s.put("A", ack=4381)
    s.wait(0.01)
    s.put("A", ack=14601)
    s.wait(0.01)
    s.send(100)
    s.wait(2)


@script()
def user_timeout(s: Script) -> None:
    """9293:MUST-21: TCP_USER_TIMEOUT sets R2."""
    s.accepted(SACK)
    s.set(SOL_TCP, USER_TIMEOUT, 3000)
    s.send(100)
    s.wait(20)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def fast_retransmit_sack(s: Script) -> None:
    """RFC 5681 3.2, 6675, 3042: limited transmit, fast retransmit with SACK."""
    s.hold = True
    s.accepted(SACK)
    s.rcv = 1
    s.send(14600)
    s.wait(0.02)
    s.put("A", ack=1)
    s.send(14600)
    s.wait(0.02)
    for i in range(1, 10):
        block = b"\x05\x0a" + _edges(s, 1461, 1461 + 1460 * i)
        s.put("A", ack=1, opts=NOP * 2 + block)
        s.wait(0.001)
    s.put("A", ack=14601)
    s.wait(0.02)
    s.put("A", ack=29201)
    s.wait(0.02)


def _edges(s: Script, low: int, high: int) -> bytes:
    base = s.host_isn or 0
    return b"".join((base + edge & 0xFFFFFFFF).to_bytes(4, "big") for edge in (low, high))


@script()
def fast_retransmit_reno(s: Script) -> None:
    """RFC 5681 3.2, 6582, 3042: three duplicates without SACK; a partial ACK shows the next hole."""
    s.hold = True
    s.accepted()
    s.rcv = 1
    s.send(14600)
    s.wait(0.02)
    s.send(14600)
    for _ in range(8):
        s.put("A", ack=1)
        s.wait(0.001)
    s.put("A", ack=4381)
    s.wait(0.02)
    s.put("A", ack=14601)
    s.wait(0.02)
    s.put("A", ack=29201)
    s.wait(0.02)


@script()
def window_probes(s: Script) -> None:
    """9293:MUST-36, MUST-37, SHLD-29, SHLD-30, MUST-35: the peer's window is shut; probes."""
    s.accepted(SACK)
    s.send(100)
    s.wait(0.02)
    s.put("A", win=0)
    s.send(200)
    s.mark()
    for _ in range(40):
        s.wait(0.5)
        s.put("A", win=0)
    s.wait(60)
    s.put("A", win=0)
    s.wait(300)
    s.put("A", win=150)
    s.wait(1)
    s.put("A", win=1500)
    s.wait(1)
    s.put("A", win=1500)


@script()
def window_probes_silent(s: Script) -> None:
    """9293:MUST-36; T-26: nobody answers the probes."""
    s.accepted(SACK)
    s.put("A", win=0)
    s.send(200)
    s.mark()
    s.wait(1500)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def window_probes_user_timeout(s: Script) -> None:
    """T-26: the user's time-out holds for the persist state, too."""
    s.accepted(SACK)
    s.set(SOL_TCP, USER_TIMEOUT, 4000)
    s.put("A", win=0)
    s.send(200)
    s.mark()
    for _ in range(20):
        s.wait(0.5)
        s.put("A", win=0)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def window_shrinks(s: Script) -> None:
    """9293:MUST-34, SHLD-15, SHLD-16, SHLD-17, MUST-35, MAY-7: the window shrinks below what flies."""
    s.hold = True
    s.accepted()
    s.rcv = 1
    s.send(10000)
    s.wait(0.01)
    s.put("A", ack=1, win=100)
    s.send(5000)
    s.wait(3)
    s.put("A", ack=1461, win=0)
    s.wait(3)
    s.put("A", ack=10001, win=0)
    s.wait(1)
    s.put("A", ack=10001, win=8000)
    s.wait(0.1)


@script()
def silly_window(s: Script) -> None:
    """9293:MUST-38: the window opens by little."""
    s.accepted()
    s.put("A", win=2000)
    s.send(8000)
    s.wait(0.02)
    s.put("A", win=0)
    s.wait(0.05)
    for win in (1, 50, 100, 500, 1000, 1100, 1459):
        s.put("A", win=win)
        s.wait(0.02)
    s.wait(0.5)
    s.put("A", win=1460)
    s.wait(0.02)
    s.put("A", win=4000)
    s.wait(0.02)
    s.put("A", win=4000)


@script()
def wide_window(s: Script) -> None:
    """9293:MUST-1, REC-1; RFC 7323 2: the peer's shift is 14."""
    s.accepted(mss(1460) + NOP + wscale(14))
    s.put("A", win=65535)
    s.send(40000)
    s.wait(0.02)
    s.put("A", win=1)
    s.wait(0.02)
    s.put("A", win=65535)
    s.wait(0.1)


@script()
def keepalive(s: Script) -> None:
    """9293:MAY-5, MUST-24, MUST-26, MUST-27, MUST-29, SHLD-12: probes, answered and not."""
    s.accepted(SACK)
    s.set(SOL_TCP, KEEPIDLE, 10)
    s.set(SOL_TCP, KEEPINTVL, 3)
    s.set(SOL_TCP, KEEPCNT, 3)
    s.set(SOL_SOCKET, SO_KEEPALIVE, 1)
    s.wait(11)
    s.put("A")
    s.wait(15)
    s.put("A")
    s.mark()
    s.wait(40)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def keepalive_default(s: Script) -> None:
    """9293:MUST-25, MUST-28: off by itself; two hours."""
    s.accepted(SACK)
    s.wait(9000)
    s.set(SOL_SOCKET, SO_KEEPALIVE, 1)
    s.wait(10)
    s.put("PA", 10)
    s.mark()
    s.wait(9000)
    s.say("SO_ERROR", s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR))


@script()
def urgent_out(s: Script) -> None:
    """9293:MUST-30, MUST-31, MUST-62; T-12: MSG_OOB."""
    s.accepted()
    s.send(5)
    s.wait(0.01)
    s.send(3, OOB)
    s.wait(0.01)
    s.put("A")
    s.send(1, OOB)
    s.send(5)
    s.wait(0.01)
    s.put("A")
    s.send(5000, OOB)
    s.wait(0.01)
    s.put("A")
    s.put("A", win=0)
    s.send(10, OOB)
    s.wait(1)


# Closing.


@script()
def close_active(s: Script) -> None:
    """9293:MUST-13: FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, and what that answers for a minute."""
    s.accepted(SACK)
    s.close()
    s.say(s.state())
    s.wait(0.05)
    s.put("A")
    s.say(s.state())
    s.wait(0.5)
    s.put("FA")
    s.say(s.state())
    s.wait(10)
    s.put("FA", seq=s.seq - 1)
    s.wait(1)
    s.put("A")
    s.wait(1)
    s.put("PA", 10, seq=s.seq)
    s.wait(57.4)
    s.say(s.state())
    s.wait(3.5)
    s.say(s.state())


@script()
def close_passive(s: Script) -> None:
    """9293:MUST-12: CLOSE-WAIT, LAST-ACK."""
    s.accepted(SACK)
    s.put("FA", 10)
    s.say(s.state())
    s.recv()
    s.recv()
    s.send(100)
    s.wait(0.05)
    s.close()
    s.say(s.state())
    s.wait(0.1)
    s.put("A")
    s.say(s.state())
    s.put("A")


@script()
def close_simultaneous(s: Script) -> None:
    """RFC 9293 3.6: CLOSING."""
    s.accepted(SACK)
    s.close()
    s.put("FA", ack=1)
    s.say(s.state())
    s.put("A")
    s.say(s.state())
    s.put("FA", seq=1)


@script()
def close_fin_both(s: Script) -> None:
    """RFC 9293 3.6: the peer's FIN acknowledges ours."""
    s.accepted(SACK)
    s.close()
    s.put("FA")
    s.say(s.state())


@script()
def half_close(s: Script) -> None:
    """9293:MAY-1: data after our FIN is taken until close."""
    s.accepted(SACK)
    s.send(10)
    s.shutdown()
    s.wait(0.01)
    s.put("A")
    s.say(s.state())
    s.put("PA", 100)
    s.recv()
    s.say("send", s.host.send(s.sk, b"x"))
    s.wait(1)
    s.put("FA", 50)
    s.say(s.state())
    s.recv()
    s.recv()


@script()
def close_unread(s: Script) -> None:
    """9293:SHLD-3: close with data unread, and data after close."""
    s.accepted(SACK)
    s.put("PA", 10)
    s.close()
    s.say(s.state())
    s.accepted(SACK, port=40001)
    s.close()
    s.put("A")
    s.say(s.state())
    s.put("PA", 10)
    s.say(s.state())
    s.accepted(SACK, port=40002, quiet=False)
    s.close()
    s.put("PA", 10)
    s.say(s.state())
    s.accepted(SACK, port=40003)
    s.host.linger(s.sk, True, 0)
    s.send(10)
    s.close()
    s.say(s.state())


@script()
def close_with_data(s: Script) -> None:
    """RFC 9293 3.10.4: what is queued is sent, the FIN with its last segment; again after loss."""
    s.hold = True
    s.accepted()
    s.rcv = 1
    s.send(20000)
    s.close()
    s.put("A", ack=14601)
    s.put("A", ack=20001)
    s.wait(2)
    s.put("A", ack=20002)
    s.say(s.state())
    s.wait(70)
    s.say(s.state())


@script()
def close_orphan_lost(s: Script) -> None:
    """T-26: nobody acknowledges an orphan's FIN."""
    s.accepted(SACK)
    s.close()
    s.wait(300)
    s.say(s.state())


@script()
def fin_wait2(s: Script) -> None:
    """T-26; MUST-13: an orphan in FIN-WAIT-2 ends after tcp_fin_timeout; TCP_LINGER2."""
    s.accepted(SACK)
    s.close()
    s.put("A")
    s.wait(59)
    s.say(s.state())
    s.wait(3)
    s.say(s.state())
    s.put("FA")
    s.accepted(SACK, port=40001)
    s.set(SOL_TCP, LINGER2, 10)
    s.close()
    s.put("A")
    s.wait(9)
    s.say(s.state())
    s.wait(2)
    s.say(s.state())
    s.accepted(SACK, port=40002)
    s.set(SOL_TCP, LINGER2, -1)
    s.close()
    s.put("A")
    s.say(s.state())


@script()
def shutdown_early(s: Script) -> None:
    """RFC 9293 3.10.4: shutdown and close in SYN-SENT."""
    s.dial()
    s.shutdown()
    s.say(s.state())
    s.put("SA", opts=SACK)
    s.dial(9001)
    s.close()
    s.say(s.state())
    s.put("SA", opts=SACK)


# Resets and what is not acceptable.


@script()
def rst_rules(s: Script) -> None:
    """T-08; RFC 5961 3.2; 9293:SHLD-2, MUST-12: only the exact number resets."""
    s.accepted(SACK)
    s.put("R", seq=2)
    s.wait(1)
    s.put("R", seq=0)
    s.put("R", seq=30000)
    s.wait(1)
    s.put("R", seq=200000)
    s.put("RA", seq=500, ack=1)
    s.say(s.state())
    s.wait(1)
    s.put("R", 5, seq=1)
    s.say(s.state())
    s.recv()
    s.recv()
    s.say("send", s.host.send(s.sk, b"x"))


@script()
def rst_after_sack(s: Script) -> None:
    """RFC 5961 3.2 as Linux has it: a RST at the end of what waits behind a hole."""
    s.accepted(SACK)
    s.put("A", 100, seq=101)
    s.put("R", seq=150)
    s.say(s.state())
    s.wait(1)
    s.put("R", seq=201)
    s.say(s.state())


@script()
def rst_states(s: Script) -> None:
    """9293:MUST-12: what a reset tells in CLOSE-WAIT and FIN-WAIT-2."""
    s.accepted(SACK)
    s.put("FA")
    s.put("R")
    s.say("send", s.host.send(s.sk, b"x"))
    s.say("send", s.host.send(s.sk, b"x"))
    s.accepted(SACK, port=40001)
    s.shutdown()
    s.put("A")
    s.put("R")
    s.say(s.state())
    s.recv()
    s.recv()


@script()
def syn_in_window(s: Script) -> None:
    """T-08; RFC 5961 4.2: a SYN is answered by a challenge ACK, seldom."""
    s.accepted(SACK)
    s.put("S", seq=1)
    s.put("S", seq=100)
    s.wait(0.3)
    s.put("S", seq=100)
    s.wait(0.3)
    s.put("S", seq=100000)
    s.wait(0.6)
    s.put("SA", seq=0)
    s.wait(0.6)
    s.put("SA", seq=500, ack=1)
    s.say(s.state())


@script()
def ack_rules(s: Script) -> None:
    """9293:MAY-12; T-09; RFC 5961 5.2: ACKs of what was not sent, and of long ago."""
    s.accepted(SACK)
    s.send(100)
    s.put("A")
    s.put("PA", 10, ack=102)
    s.recv()
    s.wait(1)
    s.put("PA", 10, seq=1, ack=50)
    s.recv()
    s.wait(1)
    s.put("PA", 10, seq=11, ack=-65000)
    s.recv()
    s.wait(1)
    s.put("PA", 10, seq=21, ack=-70000)
    s.recv()
    s.wait(1)
    s.put("A", 0, seq=21, ack=5000)
    s.put("", 10, seq=21)
    s.recv()
    s.wait(1)


@script()
def beyond_window(s: Script) -> None:
    """T-08; RFC 9293 3.4: data beyond the window, across its edge, an empty segment at it."""
    s.accepted(SACK)
    s.put("A", 10, seq=100001)
    s.put("A", 10, seq=100001)
    s.wait(0.6)
    s.put("A", 0, seq=100001)
    s.put("A", 0, seq=100001)
    s.wait(0.6)
    s.put("A", 0, seq=64241)
    s.put("A", 0, seq=64242)
    s.wait(0.6)
    s.put("A", 1000, seq=63742)
    s.put("A", 1000, seq=64242)
    s.wait(0.6)


@script()
def paws(s: Script) -> None:
    """T-28; RFC 7323 5: old time stamps are refused, resets are not; a missing one is taken."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    value = s.ts[1]
    s.put("PA", 10, ts=(1010, value))
    s.put("PA", 10, ts=(1005, value))
    s.wait(0.6)
    s.seq -= 10
    s.put("A", 0, ts=(900, value))
    s.wait(0.6)
    s.put("PA", 10, ts=False)
    s.wait(0.6)
    s.put("PA", 10, ts=(1020, value))
    s.wait(0.3)
    s.put("A", 100, seq=s.seq + 100, ts=(1030, value))
    s.put("PA", 10, ts=(1025, value))
    s.wait(0.3)
    s.put("R", ts=(5, value))
    s.say(s.state())


@script()
def paws_24_days(s: Script) -> None:
    """RFC 7323 5.5: after 24 days a time stamp says nothing."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    value = s.ts[1]
    s.put("PA", 10, ts=(1010, value))
    s.wait(25 * 86400)
    s.put("PA", 10, ts=(5, value))
    s.wait(1)


@script()
def time_wait(s: Script) -> None:
    """9293:MAY-2, SHLD-4; T-28; RFC 6191: a SYN in TIME-WAIT: new, old; RST."""
    s.accepted(SACK)
    s.close()
    s.put("FA")
    s.wait(2)
    s.put("S", seq=1, opts=SACK)
    s.wait(1)
    s.say(s.state())
    s.put("S", seq=100000, opts=SACK)
    s.say(s.state())
    s.accepted(SACK, port=40001)
    s.close()
    s.put("FA")
    s.wait(2)
    s.put("R", seq=s.seq + 5)
    s.say(s.state())
    s.put("R", seq=s.seq)
    s.say(s.state())


@script()
def time_wait_stamps(s: Script) -> None:
    """9293:SHLD-4; RFC 6191: a larger time stamp opens anew even with a lower number."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    s.close()
    s.put("FA")
    s.wait(2)
    s.put("S", seq=0, opts=SACK + timestamp(900, 0), ts=False)
    s.wait(1)
    s.put("S", seq=0, opts=SACK + timestamp(2000, 0), ts=False)
    s.say(s.state())


@script(tcp_rfc1337=1)
def time_wait_1337(s: Script) -> None:
    """T-28; RFC 1337: with tcp_rfc1337 a RST does not end TIME-WAIT."""
    s.accepted(SACK)
    s.close()
    s.put("FA")
    s.wait(2)
    s.put("R", seq=s.seq)
    s.say(s.state())


# Errors from the network.

ERRORS4 = [(3, code) for code in range(16) if code != 4] + [(11, 0), (11, 1), (12, 0), (4, 0), (5, 1)]
ERRORS6 = [(1, code) for code in range(7)] + [(3, 0), (4, 0), (4, 1)]


def _errors(s: Script, errors: list[tuple[int, int]]) -> None:
    for i, (kind, code) in enumerate(errors):
        s.dial(47000 + i)
        s.icmp(kind, code, seq=5)
        s.icmp(kind, code, inner=4)
        before = s.state()
        s.icmp(kind, code)
        err = s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR)
        s.lines = [line for line in s.lines if line.startswith(">")]
        s.lines.append(f"> SYN-SENT {kind} {code}: {before} {s.state()} {err}")
        s.put("R")
    for i, (kind, code) in enumerate(errors):
        s.accepted(SACK, port=48000 + i, quiet=False)
        s.send(10)
        s.icmp(kind, code, seq=500)
        first = s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR)
        s.icmp(kind, code, seq=1)
        err = s.host.getsockopt(s.sk, SOL_SOCKET, SO_ERROR)
        s.lines = [line for line in s.lines if line.startswith(">")]
        s.lines.append(f"> ESTABLISHED {kind} {code}: {s.state()} {first} {err}")
        s.put("R")
    for i, (kind, code) in enumerate(errors):
        s.fresh(49000 + i)
        s.put("S", opts=SACK)
        s.icmp(kind, code, seq=1)
        before = s.state()
        s.icmp(kind, code, seq=0)
        s.lines = [line for line in s.lines if line.startswith(">")]
        s.lines.append(f"> SYN-RECV {kind} {code}: {before} {s.state()}")
        s.put("R")


@script()
def icmp_errors(s: Script) -> None:
    """9293:MUST-47, MUST-54, MUST-55, MUST-56, SHLD-25, SHLD-26; RFC 5927: which error does what."""
    s.listen(100)
    _errors(s, ERRORS4)


@script(ip=6)
def icmp_errors_6(s: Script) -> None:
    """9293:MUST-54, MUST-56, SHLD-26; RFC 5927: the same over IPv6."""
    s.listen(100)
    _errors(s, ERRORS6)


@script()
def path_mtu(s: Script) -> None:
    """9293:MUST-16; RFC 1191: a smaller path MTU: what flies is cut anew; out of window, too small."""
    s.hold = True
    s.accepted(SACK)
    s.rcv = 1
    s.send(5000)
    s.wait(0.02)
    s.icmp(3, 4, rest=1400, seq=90000)
    s.icmp(3, 4, rest=1400, seq=1)
    s.wait(0.02)
    s.put("A", ack=5001)
    s.send(3000)
    s.wait(0.02)
    s.put("A", ack=8001)
    s.icmp(3, 4, rest=1450, seq=8001)
    s.send(3000)
    s.icmp(3, 4, rest=68, seq=8001)
    s.wait(0.05)
    s.put("A", ack=11001)
    s.send(1000)
    s.wait(0.05)
    s.host.close(s.listener)
    s.dial(9000)


@script(ip=6)
def path_mtu_6(s: Script) -> None:
    """9293:MUST-16; RFC 8201: packet too big."""
    s.hold = True
    s.accepted(SACK)
    s.rcv = 1
    s.send(5000)
    s.wait(0.02)
    s.icmp(2, 0, rest=1300, seq=1)
    s.wait(0.02)
    s.put("A", ack=5001)
    s.send(3000)
    s.icmp(2, 0, rest=600, seq=5001)
    s.wait(0.02)


@script()
def rto_revert(s: Script) -> None:
    """RFC 6069: an unreachable network takes a doubling back."""
    s.accepted(SACK)
    s.send(10)
    s.wait(1)
    s.icmp(3, 1, seq=1)
    s.wait(3)


# Every state and every segment.

SEGMENTS = ("S", "A", "F", "FA", "R", "RA", "SA", "data", "none")
PLACES = {"at": 0, "in": 100, "below": -100, "above": 200000}


def _enter(s: Script, state: str, port: int) -> None:
    s.fresh(port)
    s.ts = None
    if state in ("SYN_SENT", "SYN_RECV_ACTIVE"):
        s.dial(port)
        if state == "SYN_RECV_ACTIVE":
            s.put("S", opts=SACK)
        return
    if state == "CLOSE":
        s.port = 81
        return
    if state == "LISTEN":
        return
    s.put("S", opts=SACK)
    if state == "SYN_RECV":
        return
    s.put("A")
    s.sk = s.host.accept(s.listener)
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        s.put("FA")
        if state == "LAST_ACK":
            s.shutdown()
        return
    if state == "ESTABLISHED":
        return
    s.shutdown()
    if state == "CLOSING":
        s.put("FA", ack=1)
    elif state in ("FIN_WAIT2", "TIME_WAIT"):
        s.put("A")
        if state == "TIME_WAIT":
            s.put("FA")


def _matrix(state: str) -> None:
    def run(s: Script) -> None:
        s.listen(100)
        port = 46000
        for flags in SEGMENTS:
            for place, offset in PLACES.items():
                port += 1
                _enter(s, state, port)
                s.wait(0.01)
                kept, s.lines = [line for line in s.lines if line.startswith(">")], []
                rel = s.seq + offset
                if flags == "data":
                    s.put("A", 10, seq=rel)
                elif flags == "none":
                    s.put("", 10, seq=rel)
                else:
                    ack = s.rcv if "A" in flags else None
                    if flags == "S" or flags == "SA":
                        s.put(flags, seq=rel, ack=ack, opts=SACK)
                    else:
                        s.put(flags, seq=rel, ack=ack)
                now = s.state()
                answers = [" ".join(line.split()[1:]) for line in s.lines]
                kept.append(f"> {flags} {place}: {'; '.join(answers) or '-'} -> {now}")
                s.lines = kept
                s.ts = None

    run.__doc__ = "RFC 9293 3.10.7; RFC 5961: what comes in " + state + ", by flags and place."
    run.__name__ = f"matrix_{state}"
    script()(run)


for _state in (
    "CLOSE", "LISTEN", "SYN_SENT", "SYN_RECV", "SYN_RECV_ACTIVE", "ESTABLISHED", "FIN_WAIT1",
    "FIN_WAIT2", "CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT",
):  # fmt: skip
    _matrix(_state)
