"""Packet scripts: data that goes out, time-outs, windows of the peer's."""

from __future__ import annotations

from capgen import NOP, mss, timestamp, wscale
from script import Script
from scripts import (
    ALL,
    CORK,
    EOR,
    KEEPCNT,
    KEEPIDLE,
    KEEPINTVL,
    MORE,
    NODELAY,
    OOB,
    SACK,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_SNDBUF,
    SOL_SOCKET,
    SOL_TCP,
    USER_TIMEOUT,
    WIDE,
    script,
)


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
    """9293:MUST-19; RFC 5681 3.1, 6928: ten segments, then two for each acknowledged."""
    s.hold = True
    s.accepted(WIDE)
    s.rcv = 1
    s.send(1460 * 80)
    s.wait(0.1)
    for i in range(1, 16):
        s.put("A", ack=1 + 1460 * 2 * i, win=2000)
        s.wait(0.004)  # no train of ACKs to HyStart


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
    """RFC 5681 3.2, 6582, 3042: three duplicate ACKs; a partial ACK shows the next hole."""
    s.hold = True
    s.accepted()
    s.rcv = 1
    s.send(14600)
    s.wait(0.02)
    s.send(14600)
    for _ in range(8):
        s.wait(0.002)
        s.put("A", ack=1)
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
    """9293:MUST-34, SHLD-15, SHLD-16, SHLD-17, MUST-35, MAY-7: it shrinks below what flies."""
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


@script()
def send_stamps(s: Script) -> None:
    """9293:MUST-16, MUST-18; RFC 7323 4.1: a slow path measured by time stamps; after loss, too."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0) + NOP + wscale(7))
    for i in range(6):
        s.hold = True
        s.send(100)
        s.wait(0.3)
        s.hold = False
        s.ts = 1000 + 300 * i, s.ts[1]
        s.put("A", ack=1 + 100 * (i + 1))
        s.wait(0.05)
    s.mark()
    s.send(100)
    s.wait(3)
    s.put("A", ack=701)
    s.mark()
    s.send(100)
    s.wait(3)


@script()
def idle_restart(s: Script) -> None:
    """RFC 5681 4.1: after silence the window begins again."""
    s.accepted(WIDE)
    for _ in range(6):
        s.send(29200)
        s.wait(0.02)
        s.put("A")
        s.wait(0.02)
        s.put("A")
        s.put("A")
    s.wait(5)
    s.lines.clear()
    s.mark()
    s.hold = True
    s.send(58400)
    s.wait(0.01)


@script()
def buffer_full(s: Script) -> None:
    """Issue: partial writes: what a small send buffer takes."""
    s.accepted(SACK)
    s.set(SOL_SOCKET, SO_SNDBUF, 10000)
    s.say("buffer", s.host.getsockopt(s.sk, SOL_SOCKET, SO_SNDBUF))
    s.put("A", win=1000)
    s.send(100000)
    s.send(100)
    s.say("poll", s.host.poll(s.sk))
    s.wait(0.01)
    s.put("A", win=60000)
    s.wait(0.01)
    s.put("A", win=60000)
    s.say("poll", s.host.poll(s.sk))
    s.send(100)
