# Time-outs: retransmission, window probe, delayed acknowledgment, keep-alive.
# Linux: net/ipv4/tcp_timer.c.  RFC 6298 5, 9293 3.8.3.

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport int64_t, uint8_t, uint32_t
from inet_connection_sock cimport (
    tcp_done,
    tcp_done_with_error,
    tcp_probe0_when_ns,
    tcp_reset_xmit_timer,
)
from inet_timewait_sock cimport tcp_time_wait
from netns cimport NET_INC_STATS, netns, sk_reset_timer
from snmp cimport TCP_ABORTONTIMEOUT, TCP_DELAYEDACKS, TCP_KEEPALIVES, TCP_TIMEOUTS
from sock cimport *
from tcp cimport TCP_CLOSE, TCP_FIN_WAIT2, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT
from tcp_comp_sack cimport tcp_sack_compress_send_ack
from tcp_input cimport keepalive_time_when, tcp_fin_time_ns
from tcp_output cimport tcp_send_ack, tcp_send_active_reset
from tcp_recovery cimport tcp_enter_loss, tcp_rack_reo_timeout
from tcp_retransmit cimport (
    tcp_retransmit_skb,
    tcp_send_loss_probe,
    tcp_send_probe0,
    tcp_write_wakeup,
)
from tcp_rtt cimport tcp_rto_min_ns, tcp_rto_max_ns, tcp_user_timeout_ns
from timer cimport NSEC_PER_MSEC, NSEC_PER_SEC, jiffies_up


cdef inline void tcp_write_err(netns *net, tcp_sock *tp) noexcept nogil:
    """Nobody answers (9293:MUST-20)."""
    NET_INC_STATS(net, TCP_ABORTONTIMEOUT)
    tcp_done_with_error(net, tp, tp.sk_err_soft if tp.sk_err_soft else ETIMEDOUT)


cdef inline int64_t tcp_orphan_retries(const netns *net, const tcp_sock *tp, bint alive) noexcept nogil:
    cdef int64_t retries = net.sysctl.tcp_orphan_retries
    if tp.sk_err_soft and not alive:
        return 0
    return 8 if not retries and alive else retries


cdef inline int64_t tcp_model_timeout_ns(
    const tcp_sock *tp, int64_t boundary, int64_t base_ns
) noexcept nogil:
    """How long `boundary` retransmissions take, each after twice the time of the one before."""
    cdef int64_t ratio = tcp_rto_max_ns(tp) // base_ns
    cdef int64_t threshold = -1
    while ratio:
        ratio >>= 1
        threshold += 1
    if boundary <= threshold:
        return ((<int64_t>2 << boundary) - 1) * base_ns
    return ((<int64_t>2 << threshold) - 1) * base_ns + (boundary - threshold) * tcp_rto_max_ns(tp)


cdef inline bint retransmits_timed_out(
    const netns *net, const tcp_sock *tp, int64_t boundary, int64_t timeout_ns
) noexcept nogil:
    cdef int64_t base_ns = tcp_rto_min_ns(tp)
    if not tp.retransmits:
        return False
    if not timeout_ns:
        if tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV:
            base_ns = NSEC_PER_SEC
        timeout_ns = tcp_model_timeout_ns(tp, boundary, base_ns)
    return net.net.now_ns - tp.retrans_stamp * NSEC_PER_MSEC >= timeout_ns


cdef inline bint tcp_write_timeout(netns *net, tcp_sock *tp) noexcept nogil:
    """True if it is time to give up (R2; 9293:MUST-20, MUST-23, SHLD-11)."""
    cdef int64_t retry_until, linear = 0
    cdef bint alive, expired = False
    if tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV:
        retry_until = tp.syn_retries if tp.syn_retries else net.sysctl.tcp_syn_retries
        if tp.tcb.state == TCP_SYN_SENT:
            linear = net.sysctl.tcp_syn_linear_timeouts
        expired = tp.retransmits >= retry_until + linear
    else:
        retry_until = net.sysctl.tcp_retries2
        if tp.dead:
            alive = tp.rto_ns < tcp_rto_max_ns(tp)
            retry_until = tcp_orphan_retries(net, tp, alive)
            if not alive and not tp.retransmits:
                retry_until = 0
    expired = expired or retransmits_timed_out(net, tp, retry_until, tcp_user_timeout_ns(tp))
    if expired:
        tcp_write_err(net, tp)
    else:
        tp.timeout_rehash += 1  # another way may work
    return expired


cdef inline void tcp_update_rto_stats(netns *net, tcp_sock *tp) noexcept nogil:
    if not tp.retransmits:
        tp.total_rto_recoveries += 1
        tp.rto_stamp_ms = <uint32_t>(net.net.now_ns // NSEC_PER_MSEC)
    tp.retransmits += 1
    tp.total_rto += 1


cdef inline void tcp_retransmit_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """The time-out of what was sent first (RFC 6298 5.4 to 5.7)."""
    cdef skb *head = tp.tcp_rtx_queue.first
    if not tp.packets_out or head == NULL:
        return
    if (
        not tp.tcb.snd_wnd
        and not tp.dead
        and tp.tcb.state != TCP_SYN_SENT
        and tp.tcb.state != TCP_SYN_RECV
    ):
        # The window has shrunk to nothing: as long as the peer answers it lives (9293:SHLD-17).
        if tcp_rtx_probe0_timed_out(net, tp):
            tcp_write_err(net, tp)
            return
        tcp_enter_loss(net, tp)
        tcp_retransmit_skb(net, tp, head, 1)
        tcp_out_reset_timer(net, tp)
        return
    NET_INC_STATS(net, TCP_TIMEOUTS)
    if tcp_write_timeout(net, tp):
        return
    tcp_enter_loss(net, tp)
    tcp_update_rto_stats(net, tp)
    if tcp_retransmit_skb(net, tp, head, 1) and tp.tcb.state != TCP_CLOSE:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, <int64_t>500 * NSEC_PER_MSEC)
        return
    tcp_out_reset_timer(net, tp)


cdef inline bint tcp_rtx_probe0_timed_out(const netns *net, const tcp_sock *tp) noexcept nogil:
    cdef int64_t timeout_ns = 2 * tcp_rto_max_ns(tp), since_ns
    if tp.user_timeout_ms:
        since_ns = net.net.now_ns - tp.retrans_stamp * NSEC_PER_MSEC
        if tp.retrans_stamp and since_ns > tcp_user_timeout_ns(tp):
            return True  # whatever the peer answers, nothing gets on
        timeout_ns = min(timeout_ns, tcp_user_timeout_ns(tp))
    return net.net.now_ns - max(tp.rcv_tstamp_ns, <int64_t>1) > timeout_ns


cdef inline void tcp_out_reset_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """Wait twice as long (RFC 6298 5.5); the first SYNs go at even times."""
    cdef int64_t delay_ns, left_ns
    if tp.tcb.state != TCP_SYN_SENT or tp.retransmits > net.sysctl.tcp_syn_linear_timeouts:
        if tp.backoff < 255:
            tp.backoff += 1
        tp.rto_ns = min(tp.rto_ns << 1, tcp_rto_max_ns(tp))
    delay_ns = tp.rto_ns
    if tp.user_timeout_ms and tp.retrans_stamp:
        left_ns = tcp_user_timeout_ns(tp) - (net.net.now_ns - tp.retrans_stamp * NSEC_PER_MSEC)
        delay_ns = max(min(delay_ns, left_ns), <int64_t>NSEC_PER_MSEC)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, delay_ns)


cdef inline void tcp_probe_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """The peer's window is shut: ask, and go on as long as it answers (9293:MUST-36, MUST-37)."""
    cdef int64_t most
    cdef bint alive
    if tp.packets_out or tp.sk_write_queue.first == NULL:
        tp.probes_out = 0
        tp.probes_tstamp_ns = 0
        return
    if not tp.probes_tstamp_ns:
        tp.probes_tstamp_ns = max(net.net.now_ns, <int64_t>1)
    elif tp.user_timeout_ms and net.net.now_ns - tp.probes_tstamp_ns >= tcp_user_timeout_ns(tp):
        tcp_write_err(net, tp)
        return
    most = net.sysctl.tcp_retries2
    if tp.dead:
        alive = tcp_probe0_when_ns(tp) < tcp_rto_max_ns(tp)
        most = tcp_orphan_retries(net, tp, alive)
        if not alive and tp.backoff >= most:
            tcp_write_err(net, tp)
            return
    if tp.probes_out >= most:
        tcp_write_err(net, tp)
    else:
        tcp_send_probe0(net, tp)


cdef inline void tcp_write_timer(netns *net, tcp_sock *tp) noexcept nogil:
    cdef int event = tp.icsk_pending
    if tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
        tp.icsk_pending = 0
        return
    if event == ICSK_TIME_LOSS_PROBE:
        tcp_send_loss_probe(net, tp)
        return
    if event == ICSK_TIME_REO_TIMEOUT:
        tcp_rack_reo_timeout(net, tp)
        return
    tp.icsk_pending = 0
    if event == ICSK_TIME_RETRANS:
        tcp_retransmit_timer(net, tp)
    elif event == ICSK_TIME_PROBE0:
        tcp_probe_timer(net, tp)


cdef inline void tcp_delack_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """What was owed is due."""
    if tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
        return
    if tp.compressed_ack:
        tcp_sack_compress_send_ack(net, tp)
        return
    if not tp.ack_pending & ICSK_ACK_TIMER:
        return
    tp.ack_pending &= <uint8_t>~ICSK_ACK_TIMER
    if tp.ack_pending & ICSK_ACK_SCHED:
        if tp.ack_pingpong < TCP_PINGPONG_THRESH:
            tp.ack_ato_ns = min(tp.ack_ato_ns << 1, tp.rto_ns)
        else:
            tp.ack_pingpong = 0
            tp.ack_ato_ns = TCP_ATO_MIN_NS
        NET_INC_STATS(net, TCP_DELAYEDACKS)
        tcp_send_ack(net, tp)


cdef inline void tcp_keepalive_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """Silence: is the peer there? (9293:MUST-24 to MUST-29). An orphan in FIN-WAIT-2 ends."""
    cdef int64_t wait_ns, elapsed_ns, idle_ns, probes
    cdef bint late
    if tp.tcb.state == TCP_LISTEN:
        return
    if tp.tcb.state == TCP_FIN_WAIT2 and tp.dead:
        wait_ns = tcp_fin_time_ns(tp) - TCP_TIMEWAIT_LEN_NS
        if tp.linger2_s >= 0 and wait_ns > 0:
            tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)
        else:
            tcp_send_active_reset(net, tp)
            tcp_done(net, tp)
        return
    if not tp.keepopen or tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_SYN_SENT:
        return
    elapsed_ns = keepalive_time_when(net, tp)
    if not tp.packets_out and tp.sk_write_queue.first == NULL:
        idle_ns = net.net.now_ns - max(tp.ack_lrcvtime_ns, tp.rcv_tstamp_ns)
        if idle_ns >= elapsed_ns:
            probes = tp.keepalive_probes
            if not probes:
                probes = net.sysctl.tcp_keepalive_probes
            if tp.user_timeout_ms:
                late = idle_ns >= tcp_user_timeout_ns(tp) and tp.probes_out != 0
            else:
                late = tp.probes_out >= probes
            if late:
                tcp_send_active_reset(net, tp)
                tcp_write_err(net, tp)
                return
            NET_INC_STATS(net, TCP_KEEPALIVES)
            if tcp_write_wakeup(net, tp) <= 0:
                tp.probes_out += 1
                elapsed_ns = keepalive_intvl_when(net, tp)
            else:
                elapsed_ns = <int64_t>500 * NSEC_PER_MSEC
        else:
            elapsed_ns -= idle_ns
    sk_reset_timer(net, &tp.sk.sk_timer, jiffies_up(net.net.now_ns, elapsed_ns))


cdef inline int64_t keepalive_intvl_when(const netns *net, const tcp_sock *tp) noexcept nogil:
    if tp.keepalive_intvl_s:
        return <int64_t>tp.keepalive_intvl_s * NSEC_PER_SEC
    return net.sysctl.tcp_keepalive_intvl * NSEC_PER_SEC
