"""SYN cookies: what a handshake has to remember, carried by its numbers and its time stamp.

Linux: net/ipv4/syncookies.c.  RFC 4987 3.6.
"""

from __future__ import annotations

from .netns import Netns
from .secure_seq import secure_tcp_cookie
from .sock import RequestSock, TcpSock
from .tcp import MASK32, Opt, Segment

COOKIEBITS = 24
COOKIEMASK = (1 << COOKIEBITS) - 1
MAX_SYNCOOKIE_AGE = 2  # minutes
MINUTE_NS = 60_000_000_000
# What the peer's MSS is rounded down to; the number's low bits tell which.
MSSTAB4 = (536, 1300, 1440, 1460)
MSSTAB6 = (1220, 1420, 1440, 9000 - 60)
# In the low bits of the SYN-ACK's time stamp.
TSBITS = 6
TSMASK = (1 << TSBITS) - 1
TS_OPT_WSCALE_MASK = 0xF
TS_OPT_SACK = 1 << 4
TS_OPT_ECN = 1 << 5


def cookie_hash(net: Netns, req: RequestSock, count: int) -> int:
    return secure_tcp_cookie(net.key, req.cookie_base << 32 | req.ts_off, count) & MASK32


def tcp_cookie_time(net: Netns) -> int:
    return net.now_ns // MINUTE_NS & MASK32


def secure_tcp_syn_cookie(net: Netns, req: RequestSock, seq: int, data: int) -> int:
    """A number that only this host can have chosen for this peer, in this minute."""
    count = tcp_cookie_time(net)
    mixed = cookie_hash(net, req, count) + data
    return (req.cookie_base + seq + (count << COOKIEBITS) + (mixed & COOKIEMASK)) & MASK32


def check_tcp_syn_cookie(net: Netns, req: RequestSock, cookie: int, seq: int) -> int:
    """What such a number carries; -1 if it is none of ours, or too old."""
    cookie = (cookie - req.cookie_base - seq) & MASK32
    count = tcp_cookie_time(net)
    age = (count - (cookie >> COOKIEBITS)) & (MASK32 >> COOKIEBITS)
    if age >= MAX_SYNCOOKIE_AGE:
        return -1
    return (cookie - cookie_hash(net, req, (count - age) & MASK32)) & COOKIEMASK


def tcp_synq_overflow(net: Netns, listener: TcpSock) -> None:
    """A cookie goes out: for a while an ACK may bring it back."""
    listener.ts_recent_stamp_ns = net.now_ns or 1


def tcp_synq_no_recent_overflow(net: Netns, listener: TcpSock) -> bool:
    """True if no cookie can be valid: an ACK's number is not even looked at."""
    stamp_ns = listener.ts_recent_stamp_ns
    return not stamp_ns or net.now_ns - stamp_ns > MAX_SYNCOOKIE_AGE * MINUTE_NS


def cookie_v4_init_sequence(net: Netns, req: RequestSock) -> int:
    """The SYN-ACK's number; the peer's MSS is rounded down to what it can carry."""
    table = MSSTAB4 if req.ip == 4 else MSSTAB6
    index = 0
    for i, mss in enumerate(table):
        if req.mss >= mss:
            index = i
    req.mss = table[index]
    return secure_tcp_syn_cookie(net, req, req.rcv_isn, index)


def cookie_init_timestamp(req: RequestSock, now_ms: int) -> int:
    """A time stamp whose low bits tell window scale, SACK and ECN; never in the future."""
    options = req.snd_wscale if req.wscale_ok else TS_OPT_WSCALE_MASK
    if req.sack_ok:
        options |= TS_OPT_SACK
    if req.ecn_ok:
        options |= TS_OPT_ECN
    stamp = now_ms >> TSBITS << TSBITS | options
    return stamp if stamp <= now_ms else stamp - (1 << TSBITS)


def cookie_timestamp_decode(net: Netns, req: RequestSock, th: Segment) -> bool:
    """Read the options back from the echo; False if they are none that this host would offer."""
    if not th.opts & int(Opt.OPT_TIMESTAMP):
        req.tstamp_ok = False
        return True
    if not net.sysctl.tcp_timestamps:
        return False
    req.tstamp_ok = True
    req.ts_recent = th.tsval
    options = (th.tsecr - req.ts_off) & TSMASK
    req.sack_ok = bool(options & TS_OPT_SACK)
    req.ecn_ok = bool(options & TS_OPT_ECN and (net.sysctl.tcp_ecn or net.route.ecn))
    if req.sack_ok and not net.sysctl.tcp_sack:
        return False
    wscale = options & TS_OPT_WSCALE_MASK
    req.wscale_ok = wscale != TS_OPT_WSCALE_MASK
    req.snd_wscale = wscale if req.wscale_ok else 0
    return not req.wscale_ok or bool(net.sysctl.tcp_window_scaling)


def cookie_v4_check(net: Netns, req: RequestSock, th: Segment) -> bool:
    """True if an ACK answers one of our cookies; the request is filled by what it carries."""
    cookie = (th.ack - 1) & MASK32
    req.rcv_isn = (th.seq - 1) & MASK32
    index = check_tcp_syn_cookie(net, req, cookie, req.rcv_isn)
    table = MSSTAB4 if req.ip == 4 else MSSTAB6
    if not 0 <= index < len(table):
        return False
    req.mss = table[index]
    req.snt_isn = cookie
    req.rcv_nxt = th.seq
    return cookie_timestamp_decode(net, req, th)
