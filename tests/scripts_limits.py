"""Packet scripts: sizes and edges that random sequences have shown."""

from __future__ import annotations

from capgen import NOP, mss, timestamp
from script import Script
from scripts import ALL, EOR, MAXSEG, OOB, SACK, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, SOL_TCP, script

WINDOW_CLAMP = 10


@script()
def too_large(s: Script) -> None:
    """Issue: a segment across the largest window is taken by an empty queue alone."""
    s.listen()
    s.host.setsockopt(s.listener, SOL_SOCKET, SO_RCVBUF, 4000)
    s.accepted(SACK)
    s.put("A", 1460)
    s.wait(0.05)
    s.recv()
    s.put("A", 1460)
    s.put("A", 1460)
    s.put("A", 1460)
    s.wait(0.3)
    s.put("FA", 1460)
    s.wait(0.3)
    s.recv()
    s.put("A", 4000)
    s.wait(0.3)


@script()
def late_segments(s: Script) -> None:
    """Issue: the acknowledgment of data that came twice counts; its window as ever."""
    s.accepted(SACK)
    s.put("A", 1000)
    s.hold = True
    s.send(5000)
    s.put("A", 1000, seq=1, ack=1461)
    s.put("A", 500, seq=501, ack=2921)
    s.put("A", 500, seq=1, ack=4381)
    s.put("A", 0, seq=501, ack=5001)
    s.wait(0.5)


@script()
def overtaken_stamps(s: Script) -> None:
    """RFC 7323 4.3; issue: what stands behind the last ACK changes no time stamp."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    for i in range(12):
        s.put("A", 100, ts=(1010 + i, s.ts[1]))
    s.wait(0.1)
    s.put("A", 100, ts=(1100, s.ts[1]))
    s.put("A", 100, ts=(1105, s.ts[1]))
    s.send(10)
    s.wait(0.3)


@script()
def tails_filled(s: Script) -> None:
    """Issue: unsent tails are filled, urgent segments have pointers of their own."""
    s.accepted(mss(1000))
    s.hold = True
    s.rcv = 1
    s.send(10000)
    s.wait(0.05)
    s.send(500)
    s.send(700, EOR)
    s.send(900)
    s.send(100)
    s.put("A", ack=10001)
    s.wait(0.05)
    s.put("A", ack=13001)
    s.wait(0.05)
    s.send(2500, OOB)
    s.send(10)
    s.wait(0.05)


@script()
def joined_again(s: Script) -> None:
    """Issue: small pieces that go again are joined."""
    s.accepted(SACK)
    s.set(SOL_TCP, 1, 1)
    s.hold = True
    s.rcv = 1
    for n in (10, 20, 30, 1400, 100):
        s.send(n)
    s.wait(1)
    s.put("A", ack=1461)
    s.wait(0.5)


@script()
def buffers(s: Script) -> None:
    """Issue: SO_RCVBUF and SO_SNDBUF are counted in truesize; clamps of an open window."""
    for port, opts in ((40000, SACK), (40001, mss(100)), (40002, ALL)):
        s.accepted(opts, port=port, quiet=False)
        s.say("SO_SNDBUF", s.host.getsockopt(s.sk, SOL_SOCKET, SO_SNDBUF))
        s.set(SOL_SOCKET, SO_SNDBUF, 5000)
        s.say("send", s.host.send(s.sk, bytes(20000)))
        s.say("send", s.host.send(s.sk, bytes(20000)))
        s.put("PA", 100)
        s.set(SOL_SOCKET, SO_RCVBUF, 10000)
        s.put("PA", 1000)
        s.set(SOL_TCP, WINDOW_CLAMP, 3000)
        s.put("PA", 1000)
        s.wait(0.1)


@script()
def no_mss(s: Script) -> None:
    """9293:MUST-15: a SYN without an MSS, where the caller asks for one."""
    s.listen()
    s.host.setsockopt(s.listener, SOL_TCP, MAXSEG, 300)
    s.accepted(b"")
    s.send(1000)
    s.dial(9001, lambda sk: s.host.setsockopt(sk, SOL_TCP, MAXSEG, 700))
    s.put("SA", opts=b"")
    s.send(2000)
    s.wait(0.05)


@script()
def options_lie(s: Script) -> None:
    """Deviates from 9293:MUST-7: options that lie, or are of a key, and nothing is said."""
    s.accepted(SACK)
    lies = b"\5\x0a" * 4, b"\x6f" + bytes(7), b"\x1d\x08" + bytes(6), NOP + b"\x13\x12" + bytes(16)
    for opts in lies:
        s.put("PA", 10, seq=1, opts=opts)
    s.put("PA", 10, seq=1, opts=b"\x6f\x09\0\0")
    s.port = 81
    s.put("A", 0, opts=b"\5\x0a" * 4)
    s.put("A", 0)


@script()
def syn_sent_ack(s: Script) -> None:
    """9293:MUST-12: an ACK of something else is reset, and the SYN goes again at once."""
    s.dial()
    s.put("A", ack=500)
    s.wait(0.1)
    s.put("A", ack=500)
    s.wait(0.5)


@script()
def shut_both(s: Script) -> None:
    """RFC 9293 3.6.1: data after shutdown of both ways."""
    s.accepted(SACK)
    s.shutdown(2)
    s.put("A")
    s.put("PA", 10)
    s.say(s.state())
    s.say("send", s.host.send(s.sk, b"x"))
