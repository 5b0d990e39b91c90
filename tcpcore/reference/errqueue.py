"""What a socket tells beside its stream: time stamps, sends whose bytes are free, ICMP errors.

Linux: net/core/skbuff.c (sock_queue_err_skb, __skb_tstamp_tx, msg_zerocopy_*), sock.c
(sock_set_timestamping), net/ipv4/ip_sockglue.c (ip_icmp_error, ip_recv_error), tcp_input.c.
"""

from __future__ import annotations

from collections import deque
from errno import EINVAL

from .netns import Netns, sk_wake
from .sock import SkBuff, TcpSock
from .tcp import MASK32, TCP_CLOSE, TCP_LISTEN, before

SOF_TIMESTAMPING_TX_HARDWARE = 0x1
SOF_TIMESTAMPING_TX_SOFTWARE = 0x2
SOF_TIMESTAMPING_RX_SOFTWARE = 0x8
SOF_TIMESTAMPING_SOFTWARE = 0x10
SOF_TIMESTAMPING_OPT_ID = 0x80
SOF_TIMESTAMPING_TX_SCHED = 0x100
SOF_TIMESTAMPING_TX_ACK = 0x200
SOF_TIMESTAMPING_OPT_TSONLY = 0x800
SOF_TIMESTAMPING_OPT_STATS = 0x1000
SOF_TIMESTAMPING_OPT_ID_TCP = 0x10000
SOF_TIMESTAMPING_TX_COMPLETION = 0x40000
SOF_TIMESTAMPING_MASK = 0x7FFFF
SOF_TIMESTAMPING_TX_RECORD_MASK = 0x40303  # what one write may ask for

SCM_TSTAMP_SND = 0
SCM_TSTAMP_SCHED = 1
SCM_TSTAMP_ACK = 2
SO_EE_ORIGIN_ICMP = 2
SO_EE_ORIGIN_ICMP6 = 3
SO_EE_ORIGIN_TIMESTAMPING = 4
SO_EE_ORIGIN_ZEROCOPY = 5
SO_EE_CODE_ZEROCOPY_COPIED = 1

# Of a piece: which stamps its last byte is to have.
SKBTX_ACK_TSTAMP = 1
SKBTX_SW_TSTAMP = 2
SKBTX_SCHED_TSTAMP = 64

ERR_TRUESIZE = 896  # of a message without bytes
ZEROCOPY_RESERVE = 576  # what has to be free for one send more
OPTMEM_MAX = 131072  # of sends without copying, and of their messages
ZEROCOPY_BYTES = 1 << 19  # of sends that are told as one
ZEROCOPY_LEN = 65534
MAX_SKB_FRAGS = 17


class UbufInfo:
    """Sends without copying whose bytes are in use: told when the last piece is gone."""

    __slots__ = ("id", "len", "bytelen", "refs", "zerocopy")

    def __init__(self, number: int, size: int) -> None:
        self.id = number
        self.len = 1
        self.bytelen = size
        self.refs = 1
        self.zerocopy = True  # none of it was copied


class ErrSkb:
    """A message of the error queue: `struct sock_extended_err`, a time and some bytes."""

    __slots__ = (
        "ee_errno",
        "ee_origin",
        "ee_type",
        "ee_code",
        "ee_info",
        "ee_data",
        "stamp_ns",
        "opt_stats",
        "truesize",
        "offender",
        "data",
    )

    def __init__(self, ee_errno: int, ee_origin: int, data: bytes) -> None:
        self.ee_errno = ee_errno
        self.ee_origin = ee_origin
        self.ee_type = 0
        self.ee_code = 0
        self.ee_info = 0
        self.ee_data = 0
        self.stamp_ns = 0
        self.opt_stats = False  # its bytes are TCP_NLA_
        self.truesize = ERR_TRUESIZE + len(data)
        self.offender = bytes(16)  # who told it
        self.data = data


class SockErrors:
    """What a socket has that was ever asked for such messages."""

    __slots__ = (
        "tsflags",
        "tskey",
        "rcvtstamp",
        "zerocopy",
        "zckey",
        "omem_alloc",
        "rmem_alloc",
        "reports",
        "rx_stamp_ns",
        "peek_off",
        "queue",
    )

    def __init__(self) -> None:
        self.tsflags = 0  # SOF_TIMESTAMPING_
        self.tskey = 0  # where bytes are counted from
        self.rcvtstamp = 0  # 1 SO_TIMESTAMP, 2 SO_TIMESTAMPNS
        self.zerocopy = False
        self.zckey = 0  # number of the next send
        self.omem_alloc = 0
        self.rmem_alloc = 0  # of sk_rmem_alloc, what the queue takes
        self.reports = 0  # how often the caller was told
        self.rx_stamp_ns = 0  # when what was read last had come
        self.peek_off = -1  # SO_PEEK_OFF: where the next look begins, behind what was read
        self.queue: deque[ErrSkb] = deque()


def sk_errors_alloc(tp: TcpSock) -> SockErrors | None:
    """What there is, or a new one."""
    if tp.errors is None:
        tp.errors = SockErrors()
    made: SockErrors = tp.errors
    return made


def sk_errors_inherit(tp: TcpSock, listener: TcpSock) -> None:
    """A child has its listener's options."""
    if listener.errors is None:
        return
    made = sk_errors_alloc(tp)
    if made is None:
        return
    made.tsflags = listener.errors.tsflags
    made.rcvtstamp = listener.errors.rcvtstamp
    made.zerocopy = listener.errors.zerocopy
    made.peek_off = listener.errors.peek_off


def sk_error_report(net: Netns, tp: TcpSock) -> None:
    tp.errors.reports += 1
    sk_wake(net, tp)


def sock_queue_err(net: Netns, tp: TcpSock, one: ErrSkb) -> bool:
    """Put a message into the queue, within the receive buffer; False if there is no room."""
    errors = tp.errors
    if tp.dead or tp.sk_rmem_alloc + one.truesize >= tp.sk_rcvbuf:
        return False
    tp.sk_rmem_alloc += one.truesize
    errors.rmem_alloc += one.truesize
    errors.queue.append(one)
    sk_error_report(net, tp)
    return True


def is_icmp_err(one: ErrSkb) -> bool:
    return one.ee_origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6)


def err_uncharge(tp: TcpSock, one: ErrSkb) -> None:
    if one.ee_origin == SO_EE_ORIGIN_ZEROCOPY:
        tp.errors.omem_alloc -= ERR_TRUESIZE
    else:
        tp.sk_rmem_alloc -= one.truesize
        tp.errors.rmem_alloc -= one.truesize


def sock_dequeue_err(net: Netns, tp: TcpSock) -> ErrSkb | None:
    """The oldest message; SO_ERROR is that of the ICMP error which comes first now."""
    errors = tp.errors
    if errors is None or not errors.queue:
        return None
    one: ErrSkb = errors.queue.popleft()
    err_uncharge(tp, one)
    if errors.queue and is_icmp_err(errors.queue[0]):
        tp.sk_err = errors.queue[0].ee_errno
    elif is_icmp_err(one):
        tp.sk_err = 0
    if errors.queue:
        sk_error_report(net, tp)
    return one


def skb_errqueue_purge(tp: TcpSock, everything: bool) -> None:
    """IP_RECVERR is off: ICMP errors are forgotten; or nobody asks for any message any more."""
    errors = tp.errors
    if errors is None:
        return
    for one in [one for one in errors.queue if everything or is_icmp_err(one)]:
        errors.queue.remove(one)
        err_uncharge(tp, one)


# Time stamps.


def sock_set_timestamping(tp: TcpSock, value: int) -> int:
    """SO_TIMESTAMPING; 0 or a negative errno."""
    if value & ~SOF_TIMESTAMPING_MASK:
        return -EINVAL
    if value & SOF_TIMESTAMPING_OPT_ID_TCP and not value & SOF_TIMESTAMPING_OPT_ID:
        return -EINVAL
    errors = sk_errors_alloc(tp)
    if errors is None:
        return -EINVAL
    if value & SOF_TIMESTAMPING_OPT_ID and not errors.tsflags & SOF_TIMESTAMPING_OPT_ID:
        if tp.tcb.state in (TCP_CLOSE, TCP_LISTEN):
            return -EINVAL
        counted = value & SOF_TIMESTAMPING_OPT_ID_TCP
        errors.tskey = tp.write_seq if counted else tp.tcb.snd_una
    if value & SOF_TIMESTAMPING_OPT_STATS and not value & SOF_TIMESTAMPING_OPT_TSONLY:
        return -EINVAL
    errors.tsflags = value
    return 0


def tcp_tx_timestamp(skb: SkBuff, tsflags: int) -> None:
    """A write is over: its last byte is to be stamped."""
    if not tsflags & SOF_TIMESTAMPING_TX_RECORD_MASK:
        return
    skb.tx_flags &= SKBTX_ACK_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_SOFTWARE:
        skb.tx_flags |= SKBTX_SW_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_SCHED:
        skb.tx_flags |= SKBTX_SCHED_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_ACK:
        skb.tx_flags |= SKBTX_ACK_TSTAMP
    skb.tskey = (skb.seq + len(skb.data) - 1) & MASK32


def tcp_fragment_tstamp(skb: SkBuff, rest: SkBuff) -> None:
    """Of two halves the one with the byte has its stamps."""
    if skb.tx_flags and not before(skb.tskey, rest.seq):
        rest.tx_flags, skb.tx_flags = skb.tx_flags, 0
        rest.tskey = skb.tskey


def tcp_skb_collapse_tstamp(skb: SkBuff, behind: SkBuff) -> None:
    """Pieces that are joined have the stamps of the last."""
    if behind.tx_flags:
        skb.tx_flags |= behind.tx_flags
        skb.tskey = behind.tskey


def tstamp_only(tp: TcpSock) -> bool:
    """True if a stamp comes without what it is of."""
    return tp.errors is not None and bool(tp.errors.tsflags & SOF_TIMESTAMPING_OPT_TSONLY)


# Sends without copying.


def msg_zerocopy_realloc(tp: TcpSock, size: int, ubuf: UbufInfo | None) -> UbufInfo | None:
    """A number for a send: joined to the one before where they will be told together; None: full.

    The bytes are copied all the same, here as where a packet leaves by TUN: what is told is so.
    """
    errors = tp.errors
    if (
        ubuf is not None
        and ubuf.len < ZEROCOPY_LEN
        and ubuf.bytelen + size <= ZEROCOPY_BYTES
        and (ubuf.id + ubuf.len) & MASK32 == errors.zckey
    ):
        ubuf.len += 1
        ubuf.bytelen += size
        ubuf.refs += 1
        errors.zckey = (errors.zckey + 1) & MASK32
        return ubuf
    if errors.omem_alloc + ZEROCOPY_RESERVE > OPTMEM_MAX:
        return None
    errors.omem_alloc += ERR_TRUESIZE
    made = UbufInfo(errors.zckey, size)
    errors.zckey = (errors.zckey + 1) & MASK32
    return made


def msg_zerocopy_put_abort(net: Netns, tp: TcpSock, ubuf: UbufInfo) -> None:
    """A send that has failed has no number."""
    tp.errors.zckey = (tp.errors.zckey - 1) & MASK32
    ubuf.len -= 1
    net_zcopy_put(net, tp, ubuf)


def net_zcopy_put(net: Netns, tp: TcpSock, ubuf: UbufInfo) -> None:
    """One piece fewer; with the last the caller is told, ranges that follow each other as one."""
    ubuf.refs -= 1
    errors = tp.errors
    if ubuf.refs:
        return
    if not ubuf.len or tp.dead:
        errors.omem_alloc -= ERR_TRUESIZE
        return
    last = errors.queue[-1] if errors.queue else None
    if (
        last is not None
        and last.ee_origin == SO_EE_ORIGIN_ZEROCOPY
        and (last.ee_data + 1) & MASK32 == ubuf.id
        and ((last.ee_data - last.ee_info) & MASK32) + 1 + ubuf.len <= MASK32
    ):
        last.ee_data = (last.ee_data + ubuf.len) & MASK32
        errors.omem_alloc -= ERR_TRUESIZE
    else:
        one = ErrSkb(0, SO_EE_ORIGIN_ZEROCOPY, b"")
        one.ee_info = ubuf.id
        one.ee_data = (ubuf.id + ubuf.len - 1) & MASK32
        one.ee_code = 0 if ubuf.zerocopy else SO_EE_CODE_ZEROCOPY_COPIED
        errors.queue.append(one)
    sk_error_report(net, tp)


def skb_zcopy_clear(net: Netns, tp: TcpSock, skb: SkBuff) -> None:
    """A piece is gone."""
    if skb.ubuf is not None:
        ubuf, skb.ubuf = skb.ubuf, None
        net_zcopy_put(net, tp, ubuf)


# ICMP.


def ip_icmp_error(
    net: Netns, tp: TcpSock, err: int, kind: int, code: int, info: int, who: bytes, front: bytes
) -> None:
    """Keep an error with the front of the segment that it is about; `who` has told it."""
    if sk_errors_alloc(tp) is None:
        return
    one = ErrSkb(err, SO_EE_ORIGIN_ICMP if tp.ip == 4 else SO_EE_ORIGIN_ICMP6, front)
    one.ee_type = kind
    one.ee_code = code
    one.ee_info = info
    one.offender = who
    sock_queue_err(net, tp, one)
