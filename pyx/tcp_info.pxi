# What is told of a socket, a part of _core.pyx: TCP_INFO, SO_MEMINFO.
# Linux: tcp_get_info in net/ipv4/tcp.c, sk_get_meminfo in net/core/sock.c.

from netns cimport netns
from sock cimport PAGE, tcp_sock
from tcp cimport TCP_LISTEN, tcb
from tcp_ecn cimport TCP_ECN_MODE_RFC3168, TCP_ECN_SEEN
from tcp_rate cimport (
    PACING_RATE_MAX,
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_SNDBUF_LIMITED,
    tcp_chrono_us,
    tcp_delivery_rate,
)
from tcp_rtt cimport tcp_delack_max_ns
from timer cimport NSEC_PER_MSEC


cdef tuple sk_get_meminfo(const tcp_sock *tp):
    """What SO_MEMINFO tells, in the order of SK_MEMINFO_; what is sent is at once on the wire.

    Forward allocated is the rest of the last page.
    """
    cdef int64_t spare = -(tp.sk_wmem_queued + tp.sk_rmem_alloc) & (PAGE - 1)
    return (
        tp.sk_rmem_alloc, tp.sk_rcvbuf, 0, tp.sk_sndbuf, spare, tp.sk_wmem_queued, 0, 0, 0
    )


cdef dict tcp_get_info(const netns *net, const tcp_sock *tp):
    """What TCP_INFO tells, by Linux's names; times in us, those with `last` and of RTOs in ms.

    Of a listener: who waits to be accepted, and of how many.
    """
    cdef const tcb *known = &tp.tcb
    cdef int64_t now_ns = net.net.now_ns
    cdef uint32_t now_ms = <uint32_t>(now_ns // NSEC_PER_MSEC)
    cdef int options = tp.tstamp_ok | (2 if tp.sack_ok else 0) | (4 if tp.wscale_ok else 0)
    cdef uint64_t busy_us = tcp_chrono_us(tp, TCP_CHRONO_BUSY, now_ns)
    cdef uint64_t rwnd_us = tcp_chrono_us(tp, TCP_CHRONO_RWND_LIMITED, now_ns)
    cdef uint64_t sndbuf_us = tcp_chrono_us(tp, TCP_CHRONO_SNDBUF_LIMITED, now_ns)
    cdef uint32_t rto_time = tp.total_rto_time
    if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
        options |= 8
    if tp.ecn_flags & TCP_ECN_SEEN:
        options |= 16
    if tp.rto_stamp_ms:
        rto_time += now_ms - tp.rto_stamp_ms
    found = {
        "tcpi_state": known.state,
        "tcpi_ca_state": tp.ca_state,
        "tcpi_retransmits": tp.retransmits,
        "tcpi_probes": tp.probes_out,
        "tcpi_backoff": tp.backoff,
        "tcpi_options": options,
        "tcpi_snd_wscale": known.snd_wscale if tp.wscale_ok else 0,
        "tcpi_rcv_wscale": known.rcv_wscale if tp.wscale_ok else 0,
        "tcpi_rto": tp.rto_ns // 1000,
        "tcpi_ato": min(tp.ack_ato_ns, tcp_delack_max_ns(tp)) // 1000,
        "tcpi_snd_mss": tp.mss_cache,
        "tcpi_rcv_mss": tp.rcv_mss,
        "tcpi_unacked": tp.packets_out,
        "tcpi_sacked": tp.sacked_out,
        "tcpi_lost": tp.lost_out,
        "tcpi_retrans": tp.retrans_out,
        "tcpi_fackets": 0,
        "tcpi_last_data_sent": <uint32_t>((now_ns - tp.lsndtime_ns) // NSEC_PER_MSEC),
        "tcpi_last_ack_sent": 0,
        "tcpi_last_data_recv": <uint32_t>((now_ns - tp.ack_lrcvtime_ns) // NSEC_PER_MSEC),
        "tcpi_last_ack_recv": <uint32_t>((now_ns - tp.rcv_tstamp_ns) // NSEC_PER_MSEC),
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
        "tcpi_notsent_bytes": <uint32_t>(tp.write_seq - known.snd_nxt),
        "tcpi_min_rtt": tp.rtt_min_us,
        "tcpi_data_segs_in": tp.data_segs_in,
        "tcpi_data_segs_out": tp.data_segs_out,
        "tcpi_delivery_rate": tcp_delivery_rate(tp),
        "tcpi_delivery_rate_app_limited": tp.rate_app_limited,
        "tcpi_busy_time": busy_us + rwnd_us + sndbuf_us,
        "tcpi_rwnd_limited": rwnd_us,
        "tcpi_sndbuf_limited": sndbuf_us,
        "tcpi_delivered": tp.delivered,
        "tcpi_delivered_ce": tp.delivered_ce,
        "tcpi_bytes_sent": tp.bytes_sent,
        "tcpi_bytes_retrans": tp.bytes_retrans,
        "tcpi_dsack_dups": tp.dsack_dups,
        "tcpi_reord_seen": tp.reord_seen,
        "tcpi_rcv_ooopack": tp.rcv_ooopack,
        "tcpi_snd_wnd": known.snd_wnd,
        "tcpi_rcv_wnd": tp.rcv_wnd,
        "tcpi_rehash": tp.timeout_rehash,
        "tcpi_total_rto": tp.total_rto,
        "tcpi_total_rto_recoveries": tp.total_rto_recoveries,
        "tcpi_total_rto_time": rto_time,
        "tcpi_ecn_mode": tp.ecn_flags & TCP_ECN_MODE_RFC3168,
    }
    if known.state != TCP_LISTEN:
        return found
    told = "state", "snd_cwnd", "reordering", "pacing_rate", "max_pacing_rate"
    return dict.fromkeys(found, 0) | {f"tcpi_{name}": found[f"tcpi_{name}"] for name in told} | {
        "tcpi_unacked": tp.accept_len, "tcpi_sacked": tp.max_ack_backlog
    }
