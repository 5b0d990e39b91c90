"""Packet scripts: what a socket tells its caller."""

from __future__ import annotations

from capgen import NOP
from script import Script
from scripts import ALL, SACK, script


@script()
def what_poll_says(s: Script) -> None:
    """9293:MUST-12: readiness from opening to end; peeking; no more reading."""
    s.listen()
    s.say("poll", s.host.poll(s.listener))
    s.fresh(40000)
    s.put("S", opts=SACK)
    s.say("poll", s.host.poll(s.listener))
    s.put("A")
    s.say("poll", s.host.poll(s.listener))
    s.sk = s.host.accept(s.listener)
    s.say("poll", s.host.poll(s.sk))
    s.put("PA", b"hello")
    s.say("poll", s.host.poll(s.sk))
    s.recv(3, 2)
    s.recv(3)
    s.say("poll", s.host.poll(s.sk))
    s.shutdown(0)
    s.say("poll", s.host.poll(s.sk))
    s.recv()
    s.recv()
    s.put("PA", b"more")
    s.wait(0.1)
    s.recv()
    s.shutdown(1)
    s.say("poll", s.host.poll(s.sk))
    s.put("FA")
    s.say(s.state())
    s.say("poll", s.host.poll(s.sk))
    s.accepted(SACK, port=40001, quiet=False)
    s.put("FA")
    s.say("poll", s.host.poll(s.sk))
    s.put("R")
    s.say("poll", s.host.poll(s.sk))
    s.recv()
    s.say("poll", s.host.poll(s.sk))


FIELDS = [
    "state",
    "ca_state",
    "retransmits",
    "probes",
    "backoff",
    "options",
    "snd_wscale",
    "rcv_wscale",
    "rto",
    "snd_mss",
    "rcv_mss",
    "unacked",
    "sacked",
    "lost",
    "retrans",
    "pmtu",
    "rcv_ssthresh",
    "snd_ssthresh",
    "snd_cwnd",
    "advmss",
    "reordering",
    "rcv_space",
    "total_retrans",
    "bytes_acked",
    "bytes_received",
    "segs_out",
    "segs_in",
    "notsent_bytes",
    "data_segs_in",
    "data_segs_out",
    "delivered",
    "bytes_sent",
    "bytes_retrans",
    "dsack_dups",
    "reord_seen",
    "rcv_ooopack",
    "snd_wnd",
    "rcv_wnd",
]


def _info(s: Script) -> None:
    info = s.host.info(s.sk)
    s.say(" ".join(f"{name}={info['tcpi_' + name]}" for name in FIELDS))


@script()
def info(s: Script) -> None:
    """Issue: TCP_INFO with Linux's fields: new, after data both ways, in loss."""
    s.hold = True
    s.accepted(ALL)
    s.rcv = 1
    _info(s)
    s.put("PA", 1000)
    _info(s)
    s.send(30000)
    _info(s)
    s.wait(0.01)
    s.put("A", ack=2921, win=1000)
    _info(s)
    edges = b"".join(((s.host_isn or 0) + n & 0xFFFFFFFF).to_bytes(4, "big") for n in (4381, 8761))
    s.put("A", ack=2921, win=1000, opts=NOP * 2 + b"\x05\x0a" + edges)
    _info(s)
    s.wait(1)
    _info(s)
    s.put("A", ack=30001, win=1000)
    _info(s)


@script()
def info_connected(s: Script) -> None:
    """Issue: TCP_INFO of an active open, and at its end."""
    s.connected(SACK)
    _info(s)
    s.send(100)
    s.put("PA", 100)
    s.put("A", 100, seq=201)
    _info(s)
    s.shutdown()
    s.put("A")
    _info(s)
