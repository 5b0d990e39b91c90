"""What an endpoint is made of: sockets, requests, what waits in TIME-WAIT, buffers, knobs.

Linux: include/net/sock.h, inet_connection_sock.h, request_sock.h, inet_timewait_sock.h,
include/linux/tcp.h, skbuff.h.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any

from .tcp import Tcb
from .timer import NSEC_PER_SEC, Timer

# Which of a socket's timers.
ICSK_TIME_RETRANS = 1
ICSK_TIME_DACK = 2
ICSK_TIME_PROBE0 = 3
ICSK_TIME_KEEPOPEN = 4
ICSK_TIME_LOSS_PROBE = 5
ICSK_TIME_REO_TIMEOUT = 8
TCP_SYNACK_TIMER = 6  # a request's
TCP_TW_TIMER = 7  # of what is in TIME-WAIT

TCP_MSS_DEFAULT = 536
TCP_MIN_MSS = 88
TCP_MAX_QUICKACKS = 16
TCP_PINGPONG_THRESH = 1  # answers that make a connection interactive
TCP_INIT_CWND = 10
TCP_INFINITE_SSTHRESH = 0x7FFFFFFF
TCP_FASTRETRANS_THRESH = 3
TCP_RACK_RECOVERY_THRESH = 16  # recoveries that a wider window lasts
MAX_TCP_KEEPIDLE = 32767  # s
MAX_TCP_KEEPINTVL = 32767
MAX_TCP_KEEPCNT = 127
MAX_TCP_SYNCNT = 127
GSO_MAX_SIZE = 65536
MAX_TCP_HEADER = 256
SKB_OVERHEAD = 256  # of truesize: what Linux's struct sk_buff takes
SKB_SHARED_INFO = 320  # at the end of each buffer
SKB_HEADROOM = 104  # before the data of a segment: room, IP and TCP headers
SKB_SMALL_HEAD = 640  # a buffer for little
SKB_HEAD_TEXT = 3672  # of a segment beyond 4 KiB, what its head has room for
TCP_RMEM_TO_WIN_SCALE = 8
TCP_DEFAULT_SCALING_RATIO = 128  # of 256
PAGE = 4096

TCP_TIMEOUT_INIT_NS = NSEC_PER_SEC
TCP_TIMEOUT_MIN_NS = 8_000_000  # two ticks
TCP_TLP_SLACK_NS = 2_000_000  # of a probe of several segments
TCP_TIMEOUT_FALLBACK_NS = 3 * NSEC_PER_SEC
TCP_RTO_MIN_NS = NSEC_PER_SEC // 5
TCP_RTO_MAX_NS = 120 * NSEC_PER_SEC
TCP_DELACK_MIN_NS = NSEC_PER_SEC // 25
TCP_DELACK_MAX_NS = NSEC_PER_SEC // 5
TCP_ATO_MIN_NS = NSEC_PER_SEC // 25
TCP_TIMEWAIT_LEN_NS = 60 * NSEC_PER_SEC
TCP_TW_SHORT_NS = 4 * NSEC_PER_SEC  # counted apart
TCP_PAWS_24DAYS_NS = 24 * 86400 * NSEC_PER_SEC

RCV_SHUTDOWN = 1
SEND_SHUTDOWN = 2
SHUTDOWN_MASK = 3

SOCK_BINDADDR_LOCK = 1
SOCK_BINDPORT_LOCK = 2
SOCK_SNDBUF_LOCK = 4
SOCK_RCVBUF_LOCK = 8

TCP_NAGLE_OFF = 1
TCP_NAGLE_CORK = 2
TCP_NAGLE_PUSH = 4

ICSK_ACK_SCHED = 1
ICSK_ACK_TIMER = 2
ICSK_ACK_PUSHED = 4
ICSK_ACK_PUSHED2 = 8
ICSK_ACK_NOW = 16
ICSK_ACK_NOMEM = 32  # a segment was dropped as there was no room: tell of no window

TCPCB_SACKED_ACKED = 1
TCPCB_SACKED_RETRANS = 2
TCPCB_LOST = 4
TCPCB_EVER_RETRANS = 0x80

TCP_URG_VALID = 0x0100
TCP_URG_NOTYET = 0x0200
TCP_URG_READ = 0x0400


class CaState(IntEnum):
    """What congestion control is about."""

    TCP_CA_OPEN = 0
    TCP_CA_DISORDER = 1
    TCP_CA_CWR = 2
    TCP_CA_RECOVERY = 3
    TCP_CA_LOSS = 4


class SkBuff:
    """A piece of a stream with its sequence numbers, sent or received."""

    __slots__ = (
        "seq", "end_seq", "data", "truesize", "tcp_flags", "sacked", "eor", "pcount", "gso_size",
        "skb_mstamp_ns", "rack_off", "delivered", "delivered_us", "first_tx_us", "is_app_limited",
        "tx_flags", "tskey", "ubuf", "frags", "frag",
    )  # fmt: skip

    def __init__(self, seq: int, data: bytes | bytearray | memoryview, flags: int) -> None:
        self.seq = seq
        self.end_seq = seq
        self.data = data
        self.truesize = 0
        self.tcp_flags = flags
        self.sacked = 0
        self.eor = False  # a record ends here: nothing is added
        self.pcount = 0  # segments of it, in MSS
        self.gso_size = 0  # bytes of a segment, where it is sent in several
        self.skb_mstamp_ns = 0  # when it was sent last
        self.rack_off = False  # RACK has done with it, until it is sent again
        self.delivered = 0  # tp.delivered when it was sent
        self.delivered_us = 0  # and when that was; 0 once it has arrived
        self.first_tx_us = 0
        self.is_app_limited = False
        self.tx_flags = 0  # SKBTX_
        self.tskey = 0  # number of the byte that is stamped
        self.ubuf: Any = None  # whose bytes it has without copying
        self.frags = 0  # pieces of memory that those are
        self.frag = 0  # bytes of its last page that are free


class TcpSock:
    """A connection, or a listener, of an endpoint."""

    __slots__ = (
        "handle", "tcb", "ip", "saddr", "daddr", "sport", "dport", "userlocks", "reuse",
        "reuseport", "bound", "dead", "done", "zapped", "nospace", "sk_err", "sk_err_soft",
        "shutdown", "nonagle", "keepopen", "oobinline", "ipv6only", "linger", "linger_s",
        "sk_rcvbuf", "sk_sndbuf", "sk_rcvlowat", "tos", "ttl", "recverr", "user_mss",
        "user_timeout_ms", "syn_retries", "keepalive_time_s", "keepalive_intvl_s",
        "keepalive_probes", "linger2_s", "defer_accept", "notsent_lowat", "pmtudisc",
        "window_clamp", "max_ack_backlog", "accept_queue", "n_reqs", "listener", "req",
        "sk_write_queue", "tcp_rtx_queue", "sk_receive_queue", "out_of_order_queue",
        "sk_wmem_queued", "sk_rmem_alloc", "write_seq", "pushed_seq", "copied_seq", "snd_sml",
        "snd_up", "urg_seq", "urg_data", "rcv_wup", "rcv_wnd", "rcv_ssthresh", "scaling_ratio",
        "advmss", "mss_clamp", "mss_cache", "pmtu_cookie", "tcp_header_len", "tstamp_ok", "sack_ok",
        "wscale_ok", "tsoffset", "rcv_tsecr", "saw_tstamp", "ts_recent_stamp_ns", "last_oow_ack_ms",
        "lsndtime_ns", "wstamp_ns", "rcv_tstamp_ns", "retrans_stamp", "sack", "duplicate_sack",
        "highest_sack", "srtt_us", "mdev_us", "mdev_max_us", "rttvar_us", "rtt_seq", "rtt_min_us",
        "rto_ns", "rto_min_us", "rto_max_ms", "delack_max_ticks", "backoff", "retransmits",
        "probes_out", "probes_tstamp_ns", "ca", "ca_state", "snd_cwnd", "snd_cwnd_cnt",
        "snd_cwnd_clamp", "snd_ssthresh", "prior_cwnd", "prior_ssthresh", "cwnd_usage_seq",
        "max_packets_out", "is_cwnd_limited", "high_seq", "undo_marker", "undo_retrans",
        "tlp_high_seq", "tlp_retrans", "frto", "packets_out", "sacked_out", "lost_out",
        "retrans_out", "reordering", "prr_delivered", "prr_out", "delivered", "lost", "ack_pending",
        "ack_quick", "ack_pingpong", "ack_ato_ns", "ack_lrcvtime_ns", "compressed_ack",
        "compressed_ack_rcv_nxt", "dup_ack_counter", "rcv_mss", "last_seg_size", "rcvq_space",
        "rcvq_seq", "ofo_due", "rcvq_time_ns", "rcv_rtt_us", "rcv_rtt_seq", "rcv_rtt_time_ns",
        "rcv_rtt_last_tsecr", "icsk_pending", "retransmit_timer", "delack_timer", "sk_timer",
        "total_retrans", "bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_in",
        "segs_out", "data_segs_in", "data_segs_out", "dsack_dups", "reord_seen", "rack_mstamp_us",
        "rack_end_seq", "rack_rtt_us", "rack_last_delivered", "rack_reo_wnd_steps",
        "rack_reo_wnd_persist", "rack_dsack_seen", "rack_advanced", "rack_waits", "rcv_ooopack",
        "first_tx_us", "delivered_us", "app_limited", "rate_delivered", "rate_interval_us",
        "rate_app_limited", "sk_pacing_rate", "chrono_type", "chrono_start_ms", "chrono_stat_ms",
        "total_rto", "total_rto_recoveries", "total_rto_time", "rto_stamp_ms", "timeout_rehash",
        "errors", "md5sig_info", "ecn_flags", "delivered_ce",
    )  # fmt: skip

    def __init__(self) -> None:
        self.handle = 0  # index and generation, for the caller
        self.tcb = Tcb()
        self.ip = 4
        self.saddr = b""  # 16 bytes; empty while any address will do
        self.daddr = b""
        self.sport = 0
        self.dport = 0
        self.userlocks = 0  # SOCK_..._LOCK
        self.reuse = False
        self.reuseport = False
        self.bound = False  # in the table of ports
        self.dead = False  # the caller has closed it: an orphan
        self.done = False  # the peer's FIN is in
        self.zapped = False
        self.nospace = False  # the caller has found no room to write
        # What the caller asked for, and was told.
        self.sk_err = 0  # errno, told once
        self.sk_err_soft = 0
        self.shutdown = 0
        self.nonagle = 0
        self.keepopen = False
        self.oobinline = False
        self.ipv6only = False
        self.linger = False
        self.linger_s = 0
        self.sk_rcvbuf = 0
        self.sk_sndbuf = 0
        self.sk_rcvlowat = 1
        self.tos = 0
        self.ttl = 64
        self.recverr = False
        self.user_mss = 0
        self.user_timeout_ms = 0
        self.syn_retries = 0
        self.keepalive_time_s = 0
        self.keepalive_intvl_s = 0
        self.keepalive_probes = 0
        self.linger2_s = 0  # how long FIN-WAIT-2 of an orphan lasts; -1: not at all
        self.defer_accept = 0
        self.notsent_lowat = 0
        self.pmtudisc = 1
        self.window_clamp = 0
        # Listener.
        self.max_ack_backlog = 0
        self.accept_queue: deque[Any] = deque()
        self.n_reqs = 0
        self.listener: Any = None  # of a child that is not accepted yet
        self.req: Any = None  # of a child that Fast Open made
        # Queues.
        self.sk_write_queue: deque[Any] = deque()  # not sent yet
        self.tcp_rtx_queue: deque[Any] = deque()  # sent, not acknowledged
        self.sk_receive_queue: deque[Any] = deque()
        self.out_of_order_queue: list[Any] = []
        self.sk_wmem_queued = 0
        self.sk_rmem_alloc = 0
        self.write_seq = 0  # number after the last byte written
        self.pushed_seq = 0
        self.copied_seq = 0  # number of the byte read next
        self.snd_sml = 0  # end of the last small segment
        self.snd_up = 0
        self.urg_seq = 0
        self.urg_data = 0
        # Numbers beside the judge's.
        self.rcv_wup = 0  # rcv_nxt when the last window was told
        self.rcv_wnd = 0
        self.rcv_ssthresh = 0
        self.scaling_ratio = TCP_DEFAULT_SCALING_RATIO  # data in 256 bytes of receive memory
        self.advmss = 0
        self.mss_clamp = 536
        self.mss_cache = 536
        self.pmtu_cookie = 0
        self.tcp_header_len = 20
        self.tstamp_ok = False
        self.sack_ok = 0  # 1 agreed; 4: a D-SACK was seen
        self.wscale_ok = False
        self.tsoffset = 0
        self.rcv_tsecr = 0
        self.saw_tstamp = False
        self.ts_recent_stamp_ns = 0
        self.last_oow_ack_ms = 0
        self.lsndtime_ns = 0
        self.wstamp_ns = 0  # of the last segment of any kind
        self.rcv_tstamp_ns = 0
        self.retrans_stamp = 0
        self.sack: list[Any] = []  # blocks received, (start, end)
        self.duplicate_sack: Any = None
        self.highest_sack = 0
        # Round trips.
        self.srtt_us = 0  # times 8
        self.mdev_us = 1_000_000  # times 4
        self.mdev_max_us = 0
        self.rttvar_us = 0  # times 4
        self.rtt_seq = 0
        self.rtt_min_us = 0xFFFFFFFF
        self.rto_ns = TCP_TIMEOUT_INIT_NS
        self.rto_min_us = TCP_RTO_MIN_NS // 1000
        self.rto_max_ms = TCP_RTO_MAX_NS // 1_000_000
        self.delack_max_ticks = 50
        self.backoff = 0
        self.retransmits = 0
        self.probes_out = 0
        self.probes_tstamp_ns = 0
        # Congestion control.
        self.ca: Any = None
        self.ca_state = 0
        self.snd_cwnd = TCP_INIT_CWND
        self.snd_cwnd_cnt = 0
        self.snd_cwnd_clamp = 0xFFFFFFFF
        self.snd_ssthresh = TCP_INFINITE_SSTHRESH
        self.prior_cwnd = 0
        self.prior_ssthresh = 0
        self.cwnd_usage_seq = 0
        self.max_packets_out = 0
        self.is_cwnd_limited = False
        self.high_seq = 0
        self.undo_marker = 0
        self.undo_retrans = 0
        self.tlp_high_seq = 0  # snd_nxt when a tail loss probe was sent; 0 for none
        self.tlp_retrans = False  # that probe was a retransmission
        self.frto = False  # a time-out may have been spurious (RFC 5682)
        self.packets_out = 0
        self.sacked_out = 0
        self.lost_out = 0
        self.retrans_out = 0
        self.reordering = 3
        self.prr_delivered = 0
        self.prr_out = 0
        self.delivered = 0
        self.lost = 0
        # Acknowledgments.
        self.ack_pending = 0  # ICSK_ACK_
        self.ack_quick = 0
        self.ack_pingpong = 0
        self.ack_ato_ns = 0  # until data come
        self.ack_lrcvtime_ns = 0
        self.compressed_ack = 0  # duplicate ACKs that wait, with the timer of delayed ones
        self.compressed_ack_rcv_nxt = 0
        self.dup_ack_counter = 0  # sent at once with that number
        self.rcv_mss = 0
        self.last_seg_size = 0
        self.rcvq_space = 0
        self.rcvq_seq = 0
        self.ofo_due = 0  # so many pieces more until those behind holes are looked at again
        self.rcvq_time_ns = 0
        self.rcv_rtt_us = 0  # times 8
        self.rcv_rtt_seq = 0
        self.rcv_rtt_time_ns = 0
        self.rcv_rtt_last_tsecr = 0
        # Timers.
        self.icsk_pending = 0
        self.retransmit_timer = Timer(self, ICSK_TIME_RETRANS)
        self.delack_timer = Timer(self, ICSK_TIME_DACK)
        self.sk_timer = Timer(self, ICSK_TIME_KEEPOPEN)
        # TCP_INFO.
        self.total_retrans = 0
        self.bytes_sent = 0
        self.bytes_retrans = 0
        self.bytes_acked = 0
        self.bytes_received = 0
        self.segs_in = 0
        self.segs_out = 0
        self.data_segs_in = 0
        self.data_segs_out = 0
        self.dsack_dups = 0
        self.reord_seen = 0
        # RACK (tcp_rack): of what has arrived, the latest sent, and its round trip.
        self.rack_mstamp_us = 0
        self.rack_end_seq = 0
        self.rack_rtt_us = 0
        self.rack_last_delivered = 0  # tp.delivered when its window was widened
        self.rack_reo_wnd_steps = 1  # of a quarter of the least round trip
        self.rack_reo_wnd_persist = 0  # recoveries that this lasts
        self.rack_dsack_seen = False
        self.rack_advanced = False  # something has arrived since it looked
        self.rack_waits = False  # this acknowledgment has armed its timer
        self.rcv_ooopack = 0
        # Rates (tcp_rate).
        self.first_tx_us = 0  # when what arrived last was sent
        self.delivered_us = 0
        self.app_limited = 0xFFFFFFFF  # the rate is the caller's until so much has arrived
        self.rate_delivered = self.rate_interval_us = 0
        self.rate_app_limited = True
        self.sk_pacing_rate = (1 << 64) - 1
        self.chrono_type = 0  # TCP_CHRONO_
        self.chrono_start_ms = 0
        self.chrono_stat_ms = [0, 0, 0]
        self.total_rto = self.total_rto_recoveries = self.total_rto_time = 0  # the last in ms
        self.rto_stamp_ms = 0  # when the first time-out of a row came; 0 for none
        self.timeout_rehash = self.delivered_ce = 0  # `delivered` that the peer says was marked
        self.ecn_flags = 0  # TCP_ECN_
        self.errors: Any = None  # what is told beside the stream, once somebody has asked
        self.md5sig_info: Any = None  # keys, once there was one (tcp_md5)


class RequestSock:
    """A SYN that was answered: what the listener keeps until the handshake's ACK."""

    __slots__ = (
        "listener", "timer", "ip", "saddr", "daddr", "sport", "dport", "rcv_isn", "snt_isn",
        "rcv_nxt", "mss", "snd_wscale", "rcv_wscale", "wscale_ok", "sack_ok", "tstamp_ok", "acked",
        "num_timeout", "num_retrans", "ts_recent", "ts_off", "cookie_base", "snt_synack_ns",
        "snt_tsval_last", "rsk_window_clamp", "rsk_rcv_wnd", "last_oow_ack_ms", "tos", "ecn_ok",
    )  # fmt: skip

    def __init__(self, listener: TcpSock) -> None:
        self.listener = listener
        self.timer = Timer(self, TCP_SYNACK_TIMER)
        self.ip = 4
        self.saddr = self.daddr = b""  # ours, the peer's
        self.sport = self.dport = 0
        self.rcv_isn = 0
        self.snt_isn = 0
        self.rcv_nxt = 0
        self.mss = 0  # the peer's, clamped
        self.snd_wscale = 0
        self.rcv_wscale = 0
        self.wscale_ok = False
        self.sack_ok = False
        self.tstamp_ok = False
        self.acked = False  # the ACK came, but nothing could be made of it yet
        self.num_timeout = 0
        self.num_retrans = 0
        self.ts_recent = 0
        self.ts_off = 0
        self.cookie_base = 0
        self.snt_synack_ns = 0  # of the first
        self.snt_tsval_last = 0
        self.rsk_window_clamp = 0
        self.rsk_rcv_wnd = 0
        self.last_oow_ack_ms = self.tos = 0
        self.ecn_ok = False


class TimewaitSock:
    """What is left of a connection that this end closed first."""

    __slots__ = (
        "timer", "ip", "saddr", "daddr", "sport", "dport", "substate", "rcv_nxt", "snd_nxt",
        "rcv_wnd", "rcv_wscale", "ts_recent", "ts_recent_stamp", "ts_offset", "tstamp_ok",
        "last_oow_ack_ms", "tos", "bound", "md5sig_info",
    )  # fmt: skip

    def __init__(self) -> None:
        self.timer = Timer(self, TCP_TW_TIMER)
        self.ip = 4
        self.saddr = b""
        self.daddr = b""
        self.sport = 0
        self.dport = 0
        self.substate = 0  # TCP_FIN_WAIT2 of an orphan, or TCP_TIME_WAIT
        self.rcv_nxt = 0
        self.snd_nxt = 0
        self.rcv_wnd = 0
        self.rcv_wscale = 0
        self.ts_recent = 0
        self.ts_recent_stamp = 0  # s
        self.ts_offset = 0
        self.tstamp_ok = False
        self.last_oow_ack_ms = 0
        self.tos = 0
        self.bound = False
        self.md5sig_info: Any = None
