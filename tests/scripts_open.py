"""Packet scripts: how connections begin."""

from __future__ import annotations

from capgen import NOP, SACK_PERM, mss, timestamp, wscale
from script import Script
from scripts import ALL, DEFER, MAXSEG, SACK, SO_ERROR, SOL_SOCKET, SOL_TCP, SYNCNT, script


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
