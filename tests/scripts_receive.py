"""Packet scripts: data that comes in, and when it is acknowledged."""

from __future__ import annotations

from capgen import NOP, mss, timestamp
from script import Script
from scripts import ALL, OOB, QUICKACK, SACK, SO_OOBINLINE, SO_RCVBUF, SOL_SOCKET, SOL_TCP, script


@script()
def quick_acks(s: Script) -> None:
    """9293:SHLD-18, SHLD-19, MUST-40, MUST-58: when full segments are acknowledged, and windows."""
    s.accepted(ALL)
    for _ in range(30):
        s.put("A", 1460)
        s.wait(0.06)
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
    for _ in range(16):
        s.put("PA", 100)
        s.wait(0.001)
    s.wait(0.5)
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
    for _ in range(16):
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
        s.wait(0.06)
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
        s.wait(0.1)
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
def pruned_small(s: Script) -> None:
    """T-06: what came in small pieces is copied into larger ones where the buffer is full."""
    s.listener = s.host.socket(4)
    s.host.bind(s.listener, s.any(), 80)
    s.host.setsockopt(s.listener, SOL_SOCKET, SO_RCVBUF, 10000)
    s.host.listen(s.listener, 5)
    s.accepted(ALL, quiet=False)
    for i in range(60):
        s.put("PA" if i % 7 else "A", 230 - i % 20)
        s.wait(0.06)
    s.wait(0.3)
    s.recv()
    s.wait(0.3)


@script(tcp_comp_sack_nr=0)
def pruned_holes(s: Script) -> None:
    """T-06: pieces behind holes are joined, then dropped from the last on."""
    s.listener = s.host.socket(4)
    s.host.bind(s.listener, s.any(), 80)
    s.host.setsockopt(s.listener, SOL_SOCKET, SO_RCVBUF, 10000)
    s.host.listen(s.listener, 5)
    s.accepted(ALL, quiet=False)
    at = s.seq
    for i in range(40):
        s.put("A", 230, seq=at + 230 * (i + 1 + i // 9))
    for i in range(12):
        s.put("A", 230, seq=at + 230 * i)
    s.recv()
    s.put("A", 230, seq=at + 230 * 12)
    s.recv()
    s.wait(0.3)


@script()
def zero_window_rst(s: Script) -> None:
    """9293:MUST-66: with the window shut a RST and URG are processed."""
    s.accepted()
    for _ in range(70):
        s.put("A", 1460)
        s.wait(0.06)
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
