"""Packet scripts: what a socket tells its caller."""

from __future__ import annotations

from capgen import NOP
from script import Script
from scripts import ALL, NOTSENT_LOWAT, SACK, SO_SNDBUF, SOL_SOCKET, SOL_TCP, script


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


@script(tcp_notsent_lowat=20000)
def notsent_lowat(s: Script) -> None:
    """A write waits while much waits to be sent; who polls is told when half of it is left."""
    s.accepted(ALL)
    s.hold = True
    s.set(SOL_SOCKET, SO_SNDBUF, 1 << 20)
    for _ in range(3):
        s.say("send(15000)", s.host.send(s.sk, bytes(15000), 0))
        s.say("poll", s.host.poll(s.sk))
    s.wait(0.1)
    s.put("A", ack=7301)
    s.say("poll", s.host.poll(s.sk))
    s.wait(0.1)
    s.put("A", ack=14601)
    s.say("poll", s.host.poll(s.sk))
    s.set(SOL_TCP, NOTSENT_LOWAT, 100000)
    s.say("poll", s.host.poll(s.sk))


@script(ip_no_pmtu_disc=1)
def no_pmtu_disc(s: Script) -> None:
    """Sockets are made without path MTU discovery: no ICMP error makes segments smaller."""
    s.say("discover", s.host.getsockopt(s.host.socket(4), 0, 10))


@script(tcp_workaround_signed_windows=1)
def signed_windows(s: Script) -> None:
    """Without scaling no window is larger than a signed number of 16 bits."""
    s.accepted(SACK, quiet=False)
    for _ in range(12):
        s.put("A", 1460)
        s.wait(0.05)
    s.recv()


@script(tcp_shrink_window=1)
def shrink_window(s: Script) -> None:
    """The window follows the memory that is left, to the left too (9293:SHLD-14 deviates by it)."""
    s.accepted(ALL)
    for _ in range(60):
        s.put("A", 700)
        s.wait(0.05)
