"""Packet scripts: how connections end, and what is not acceptable."""

from __future__ import annotations

from capgen import timestamp
from script import Script
from scripts import LINGER2, SACK, SOL_TCP, script


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
def paws_disorder(s: Script) -> None:
    """RFC 7323 5.3: old stamps on ACKs: overtaken, before the window, by one tick; on a SYN."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    value = s.ts[1]
    s.put("PA", 10, ts=(1010, value))
    s.put("PA", 10, ts=(1009, value))
    s.wait(0.6)
    s.put("A", 0, ts=(1000, value))
    s.put("A", 0, ts=(10, value))
    s.put("A", 0, seq=5, ts=(10, value))
    s.wait(0.6)
    s.put("A", 0, win=65000, ts=(1000, value))
    s.wait(0.6)
    s.put("S", seq=21, ts=(10, value))
    s.wait(0.6)
    s.put("FA", ts=(10, value))
    s.say(s.state())


@script()
def connect_stamps(s: Script) -> None:
    """RFC 7323 5.2: a SYN-ACK whose echo is none of ours; one without; then data without stamps."""
    s.dial()
    s.put("SA", opts=SACK + timestamp(5, 12345), ts=False, seq=0)
    s.say(s.state())
    s.put("SA", opts=SACK, ts=False)
    s.say(s.state())
    s.send(10)
    s.put("PA", 10, ts=(77, 0))
    s.wait(0.1)


@script()
def connect_loss(s: Script) -> None:
    """9293:MUST-18; RFC 6298 5.7: a SYN that went twice: the time-out and the first window."""
    s.hold = True
    s.dial()
    s.wait(1.2)
    s.put("SA", ack=1, opts=SACK)
    s.send(14600)
    s.wait(2.5)
    s.put("A", ack=14601)
    s.send(10)
    s.wait(1)


@script()
def connect_loss_stamps(s: Script) -> None:
    """RFC 7323 4: with time stamps the handshake is a sample all the same."""
    s.hold = True
    s.dial()
    s.wait(1.2)
    s.ts = 700, 0
    s.take()
    s.dial(9001)
    first = s.ts[1]
    s.wait(1.2)
    s.put("SA", ack=1, opts=SACK + timestamp(700, s.ts[1] or first), ts=False)
    s.ts = None
    s.send(1000)
    s.wait(2)


@script()
def accept_loss(s: Script) -> None:
    """RFC 6298 5.7: a SYN-ACK that went twice, then data that is lost."""
    s.hold = True
    s.listen()
    s.put("S", opts=SACK)
    s.wait(1.5)
    s.put("A", ack=1)
    s.sk = s.host.accept(s.listener)
    s.send(100)
    s.wait(5)
    s.put("A", ack=101)
    s.send(100)
    s.wait(4)


@script()
def fin_lost(s: Script) -> None:
    """RFC 9293 3.6: data and FIN are lost; FIN-WAIT-1 and LAST-ACK send again."""
    s.hold = True
    s.accepted(SACK)
    s.rcv = 1
    s.send(100)
    s.close()
    s.wait(1)
    s.put("A", ack=101)
    s.wait(1)
    s.put("FA", ack=101)
    s.say(s.state())
    s.wait(1)
    s.put("A", ack=102)
    s.say(s.state())
    s.accepted(SACK, port=40001)
    s.put("FA", ack=1)
    s.close()
    s.wait(1)
    s.put("FA", seq=1, ack=1)
    s.put("A", ack=2)
    s.say(s.state())


@script()
def syn_sent_data(s: Script) -> None:
    """RFC 9293 3.10.2: writing and closing before the connection is there."""
    s.dial()
    s.say("send", s.host.send(s.sk, b"x"))
    s.say("poll", s.host.poll(s.sk))
    s.put("SA", opts=SACK)
    s.say("poll", s.host.poll(s.sk))
    s.say("send", s.host.send(s.sk, b"x"))
    s.take()


@script()
def paws_24_days(s: Script) -> None:
    """RFC 7323 5.5: after 24 days a time stamp says nothing."""
    s.ts = 1000, 0
    s.accepted(SACK + timestamp(1000, 0))
    value = s.ts[1]
    s.put("PA", 10, ts=(1010, value))
    s.wait(25 * 86400)  # in virtual time alone
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


@script()
def orphan_zero_window(s: Script) -> None:
    """T-26: data and FIN of an orphan before a shut window; it opens."""
    s.accepted(SACK)
    s.put("A", win=0)
    s.send(100)
    s.close()
    s.wait(1)
    s.put("A", win=0)
    s.wait(1)
    s.put("A", win=50)
    s.wait(1)
    s.put("A", win=5000)
    s.wait(0.1)
    s.put("A", win=5000)
    s.say(s.state())
