"""Time stamps of what was written, and how the connection stands then.

Linux: __skb_tstamp_tx in net/core/skbuff.c, tcp_get_timestamping_opt_stats in net/ipv4/tcp.c.
"""

from __future__ import annotations

import struct
from errno import ENOMSG

from .errqueue import (
    ERR_TRUESIZE,
    SCM_TSTAMP_ACK,
    SKBTX_ACK_TSTAMP,
    SO_EE_ORIGIN_TIMESTAMPING,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_STATS,
    ErrSkb,
    sock_queue_err,
    tstamp_only,
)
from .netns import Netns
from .sock import SkBuff, TcpSock
from .tcp import MASK32, before
from .tcp_rate import (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_SNDBUF_LIMITED,
    tcp_chrono_us,
    tcp_delivery_rate,
)

# What statistics come with a stamp: TCP_NLA_, and how many bytes.
TCP_NLA = (
    *((1, "Q"), (2, "Q"), (3, "Q"), (4, "Q"), (5, "Q"), (6, "Q"), (7, "Q"), (8, "I"), (9, "I")),
    *((10, "I"), (11, "B"), (12, "B"), (15, "I"), (16, "I"), (17, "I"), (13, "I"), (14, "B")),
    *((18, "Q"), (19, "Q"), (20, "I"), (21, "I"), (22, "I"), (23, "H"), (24, "I"), (25, "Q")),
    (27, "I"),
)


def tcp_get_timestamping_opt_stats(net: Netns, tp: TcpSock, sent_ns: int) -> bytes:
    """How the connection stands when a piece is stamped, as netlink lays numbers out."""
    rwnd = tcp_chrono_us(tp, TCP_CHRONO_RWND_LIMITED, net.now_ns)
    sndbuf = tcp_chrono_us(tp, TCP_CHRONO_SNDBUF_LIMITED, net.now_ns)
    values = (
        tcp_chrono_us(tp, TCP_CHRONO_BUSY, net.now_ns) + rwnd + sndbuf,
        rwnd,
        sndbuf,
        tp.data_segs_out,
        tp.total_retrans,
        tp.sk_pacing_rate,
        tcp_delivery_rate(tp),
        tp.snd_cwnd,
        tp.reordering,
        tp.rtt_min_us,
        tp.retransmits & 0xFF,
        int(tp.rate_app_limited),
        tp.snd_ssthresh,
        tp.delivered,
        0,  # delivered with ECN's CE
        (tp.write_seq - tp.tcb.snd_una) & MASK32,
        int(tp.ca_state),
        tp.bytes_sent,
        tp.bytes_retrans,
        tp.dsack_dups,
        tp.reord_seen,
        tp.srtt_us >> 3,
        tp.timeout_rehash,
        (tp.write_seq - tp.tcb.snd_nxt) & MASK32,
        sent_ns,
        tp.timeout_rehash,
    )
    out = bytearray()
    for (kind, code), value in zip(TCP_NLA, values, strict=True):
        size = struct.calcsize(code)
        out += struct.pack("=HH" + code, 4 + size, kind, value) + bytes(-size & 3)
    return bytes(out)


def skb_tstamp_tx(net: Netns, tp: TcpSock, skb: SkBuff, which: int, data: bytes) -> None:
    """Tell when a byte was queued, sent or acknowledged (SCM_TSTAMP_), with what it was part of."""
    errors = tp.errors
    if errors is None or tp.dead:
        return
    stats = bool(errors.tsflags & SOF_TIMESTAMPING_OPT_STATS)
    if stats:
        sent_ns = skb.skb_mstamp_ns if which == SCM_TSTAMP_ACK else net.now_ns
        data = tcp_get_timestamping_opt_stats(net, tp, sent_ns)
    one = ErrSkb(ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, data)
    if stats:
        one.opt_stats = True
        one.truesize = ERR_TRUESIZE  # they lie in what a message takes anyway
    one.ee_info = which
    if errors.tsflags & SOF_TIMESTAMPING_OPT_ID:
        one.ee_data = (skb.tskey - errors.tskey) & MASK32
    one.stamp_ns = net.now_ns
    sock_queue_err(net, tp, one)


def tcp_ack_tstamp(net: Netns, tp: TcpSock, skb: SkBuff, prior_una: int) -> None:
    """Tell that a byte is acknowledged, once."""
    if not skb.tx_flags & SKBTX_ACK_TSTAMP:
        return
    if before(skb.tskey, prior_una) or not before(skb.tskey, tp.tcb.snd_una):
        return
    skb_tstamp_tx(net, tp, skb, SCM_TSTAMP_ACK, b"" if tstamp_only(tp) else bytes(skb.data))
