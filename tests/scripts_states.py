"""Packet scripts: errors from the network; every state and every segment."""

from __future__ import annotations

from script import Script
from scripts import SACK, SO_ERROR, SOL_SOCKET, script

ERRORS4 = [(3, code) for code in range(16) if code != 4] + [
    (11, 0),
    (11, 1),
    (12, 0),
    (4, 0),
    (5, 1),
]
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
    """9293:MUST-47, MUST-54, MUST-55, MUST-56, SHLD-25, SHLD-26; RFC 5927: which does what."""
    s.listen(100)
    _errors(s, ERRORS4)


@script(ip=6)
def icmp_errors_6(s: Script) -> None:
    """9293:MUST-54, MUST-56, SHLD-26; RFC 5927: the same over IPv6."""
    s.listen(100)
    _errors(s, ERRORS6)


@script()
def path_mtu(s: Script) -> None:
    """9293:MUST-16; RFC 1191: what flies is cut anew; out of window; too small."""
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
