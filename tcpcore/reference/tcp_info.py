"""What is told of a socket: TCP_INFO, SO_MEMINFO.

Linux: tcp_get_info in net/ipv4/tcp.c, sk_get_meminfo in net/core/sock.c.
"""

from __future__ import annotations

from .netns import Netns
from .sock import PAGE, TcpSock
from .tcp import MASK32, TCP_LISTEN
from .tcp_ecn import TCP_ECN_MODE_RFC3168, TCP_ECN_SEEN
from .tcp_rate import PACING_RATE_MAX, tcp_chrono_us, tcp_delivery_rate
from .tcp_rtt import tcp_delack_max_ns
from .timer import NSEC_PER_MSEC

TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4
TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN = 8, 16


def sk_get_meminfo(tp: TcpSock) -> tuple[int, ...]:
    """What SO_MEMINFO tells, in the order of SK_MEMINFO_; what is sent is at once on the wire.

    Forward allocated is the rest of the last page.
    """
    used = tp.sk_wmem_queued + tp.sk_rmem_alloc
    return tp.sk_rmem_alloc, tp.sk_rcvbuf, 0, tp.sk_sndbuf, -used % PAGE, tp.sk_wmem_queued, 0, 0, 0


def tcp_get_info(net: Netns, tp: TcpSock) -> dict[str, int]:
    """What TCP_INFO tells, by Linux's names; times in us, those with `last` and of RTOs in ms."""
    tcb = tp.tcb
    options = TCPI_OPT_TIMESTAMPS * tp.tstamp_ok | TCPI_OPT_SACK * bool(tp.sack_ok)
    if tp.wscale_ok:
        options |= TCPI_OPT_WSCALE
    if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        options |= TCPI_OPT_ECN
    if tp.ecn_flags & TCP_ECN_SEEN:
        options |= TCPI_OPT_ECN_SEEN

    def since_ms(then_ns: int) -> int:
        return (net.now_ns - then_ns) // NSEC_PER_MSEC & MASK32

    rto_time = tp.total_rto_time
    if tp.rto_stamp_ms:
        rto_time += (net.now_ns // NSEC_PER_MSEC - tp.rto_stamp_ms) & MASK32
    limited = [tcp_chrono_us(tp, kind, net.now_ns) for kind in (1, 2, 3)]

    found = {
        "tcpi_state": tcb.state,
        "tcpi_ca_state": int(tp.ca_state),
        "tcpi_retransmits": tp.retransmits,
        "tcpi_probes": tp.probes_out,
        "tcpi_backoff": tp.backoff,
        "tcpi_options": options,
        "tcpi_snd_wscale": tcb.snd_wscale if tp.wscale_ok else 0,
        "tcpi_rcv_wscale": tcb.rcv_wscale if tp.wscale_ok else 0,
        "tcpi_rto": tp.rto_ns // 1000,
        "tcpi_ato": min(tp.ack_ato_ns, tcp_delack_max_ns(tp)) // 1000,
        "tcpi_snd_mss": tp.mss_cache,
        "tcpi_rcv_mss": tp.rcv_mss,
        "tcpi_unacked": tp.packets_out,
        "tcpi_sacked": tp.sacked_out,
        "tcpi_lost": tp.lost_out,
        "tcpi_retrans": tp.retrans_out,
        "tcpi_fackets": 0,
        "tcpi_last_data_sent": since_ms(tp.lsndtime_ns),
        "tcpi_last_ack_sent": 0,
        "tcpi_last_data_recv": since_ms(tp.ack_lrcvtime_ns),
        "tcpi_last_ack_recv": since_ms(tp.rcv_tstamp_ns),
        "tcpi_pmtu": tp.pmtu_cookie,
        "tcpi_rcv_ssthresh": tp.rcv_ssthresh,
        "tcpi_rtt": tp.srtt_us >> 3,
        "tcpi_rttvar": tp.mdev_us >> 2,
        "tcpi_snd_ssthresh": tp.snd_ssthresh,
        "tcpi_snd_cwnd": tp.snd_cwnd,
        "tcpi_advmss": tp.advmss,
        "tcpi_reordering": tp.reordering,
        "tcpi_rcv_rtt": tp.rcv_rtt_us >> 3,
        "tcpi_rcv_space": tp.rcvq_space,
        "tcpi_total_retrans": tp.total_retrans,
        "tcpi_pacing_rate": tp.sk_pacing_rate,
        "tcpi_max_pacing_rate": PACING_RATE_MAX,
        "tcpi_bytes_acked": tp.bytes_acked,
        "tcpi_bytes_received": tp.bytes_received,
        "tcpi_segs_out": tp.segs_out,
        "tcpi_segs_in": tp.segs_in,
        "tcpi_notsent_bytes": max((tp.write_seq - tcb.snd_nxt) & 0xFFFFFFFF, 0),
        "tcpi_min_rtt": tp.rtt_min_us,
        "tcpi_data_segs_in": tp.data_segs_in,
        "tcpi_data_segs_out": tp.data_segs_out,
        "tcpi_delivery_rate": tcp_delivery_rate(tp),
        "tcpi_delivery_rate_app_limited": int(tp.rate_app_limited),
        "tcpi_busy_time": sum(limited),
        "tcpi_rwnd_limited": limited[1],
        "tcpi_sndbuf_limited": limited[2],
        "tcpi_delivered": tp.delivered,
        "tcpi_delivered_ce": tp.delivered_ce,
        "tcpi_bytes_sent": tp.bytes_sent,
        "tcpi_bytes_retrans": tp.bytes_retrans,
        "tcpi_dsack_dups": tp.dsack_dups,
        "tcpi_reord_seen": tp.reord_seen,
        "tcpi_rcv_ooopack": tp.rcv_ooopack,
        "tcpi_snd_wnd": tcb.snd_wnd,
        "tcpi_rcv_wnd": tp.rcv_wnd,
        "tcpi_rehash": tp.timeout_rehash,
        "tcpi_total_rto": tp.total_rto,
        "tcpi_total_rto_recoveries": tp.total_rto_recoveries,
        "tcpi_total_rto_time": rto_time,
        "tcpi_ecn_mode": tp.ecn_flags & TCP_ECN_MODE_RFC3168,
    }
    if tcb.state != TCP_LISTEN:
        return found
    told = "state", "snd_cwnd", "reordering", "pacing_rate", "max_pacing_rate"
    return dict.fromkeys(found, 0) | {f"tcpi_{name}": found[f"tcpi_{name}"] for name in told} | {
        "tcpi_unacked": len(tp.accept_queue), "tcpi_sacked": tp.max_ack_backlog
    }  # fmt: skip
