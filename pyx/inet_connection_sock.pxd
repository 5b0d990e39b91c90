# A socket's life: made, moved from state to state, put into the accept queue, ended.
# Linux: net/ipv4/inet_connection_sock.c, tcp.c (tcp_set_state, tcp_done).

from libc.stdint cimport int32_t, int64_t, uint8_t
from errqueue cimport skb_zcopy_clear
from inet_ports cimport inet_listen_unhash, inet_put_port, inet_unhash
from netns cimport (
    NET_ADD_STATS,
    NET_INC_STATS,
    netns,
    sk_bury,
    sk_enter,
    sk_leave,
    sk_prot_alloc,
    sk_reset_timer,
    sk_queues_purge,
    sk_stop_timer,
    sk_wake,
)
from skbuff cimport skb_queue_purge
from slab cimport kmem_cache_free
from snmp cimport TCP_ATTEMPTFAILS, TCP_CURRESTAB, TCP_ESTABRESETS
from sock cimport *
from tcp cimport TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT
from tcp_cong cimport tcp_init_congestion_control
from tcp_rate cimport PACING_RATE_MAX, TCP_CHRONO_BUSY, tcp_chrono_stop
from tcp_rtt cimport tcp_rto_min_ns, tcp_rto_max_ns, tcp_user_timeout_ns
from timer cimport NSEC_PER_MSEC, TICK_NS, jiffies_up


cdef inline void tcp_init_sock(tcp_sock *tp) noexcept nogil:
    """What a connection begins with, where that is not zero."""
    tp.tcb.state = TCP_CLOSE
    tp.mss_clamp = tp.mss_cache = TCP_MSS_DEFAULT
    tp.tcp_header_len = 20
    tp.rtt_min_us = 0xFFFFFFFF
    tp.rto_ns = TCP_TIMEOUT_INIT_NS
    tp.snd_cwnd = TCP_INIT_CWND
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH
    tp.mdev_us = 1000000
    tp.rack_reo_wnd_steps = 1
    tp.app_limited = 0xFFFFFFFF
    tp.rate_app_limited = 1
    tp.sk_pacing_rate = PACING_RATE_MAX
    tp.scaling_ratio = TCP_DEFAULT_SCALING_RATIO


cdef inline tcp_sock *sk_alloc(netns *net) noexcept nogil:
    """A new socket with the stack's defaults; NULL without memory."""
    cdef const sysctls *sysctl = &net.sysctl
    cdef tcp_sock *tp = <tcp_sock *>sk_prot_alloc(net, SK_TCP)
    if tp == NULL:
        return NULL
    if sk_enter(net, tp):
        net.timers.reserved -= 3
        kmem_cache_free(&net.sock_cache, tp)
        return NULL
    tcp_init_sock(tp)
    tp.sk_rcvlowat = 1
    tp.pmtudisc = 0 if net.sysctl.ip_no_pmtu_disc else 1
    tp.sk_rcvbuf = <int32_t>sysctl.tcp_rmem[1]
    tp.sk_sndbuf = <int32_t>sysctl.tcp_wmem[1]
    tp.ttl = <uint8_t>sysctl.ip_default_ttl
    tp.reordering = <int32_t>sysctl.tcp_reordering
    tp.rto_min_us = <uint32_t>sysctl.tcp_rto_min_us
    tp.rto_max_ms = <uint32_t>sysctl.tcp_rto_max_ms
    tp.delack_max_ticks = <uint8_t>(TCP_DELACK_MAX_NS // TICK_NS)
    tp.linger2_s = <int32_t>sysctl.tcp_fin_timeout
    tcp_init_congestion_control(tp, <int>sysctl.tcp_congestion_control, net.net.now_ns)
    return tp


cdef inline void tcp_set_state(netns *net, tcp_sock *tp, int state) noexcept nogil:
    """Move a socket that no segment moves: connect, listen, close, abort, time-out."""
    cdef int old = tp.tcb.state
    tp.tcb.state = <uint8_t>state
    tcp_count_state(net, tp, old, state)


cdef inline void tcp_count_state(netns *net, tcp_sock *tp, int old, int state) noexcept nogil:
    """Count and tidy what a change of state means to the host."""
    cdef bint was_open = old == TCP_ESTABLISHED or old == TCP_CLOSE_WAIT
    cdef bint is_open = state == TCP_ESTABLISHED or state == TCP_CLOSE_WAIT
    NET_ADD_STATS(net, TCP_CURRESTAB, <int>is_open - <int>was_open)
    if state == TCP_CLOSE:
        NET_ADD_STATS(net, TCP_ESTABRESETS, was_open)
        sk_unhash(net, tp)


cdef inline void sk_unhash(netns *net, tcp_sock *tp) noexcept nogil:
    inet_listen_unhash(net, tp)
    inet_unhash(net, &tp.sk)


cdef inline void tcp_write_queue_purge(netns *net, tcp_sock *tp) noexcept nogil:
    cdef skb *one
    tcp_chrono_stop(tp, TCP_CHRONO_BUSY, net.net.now_ns)
    if tp.errors != NULL and tp.errors.ubufs != NULL:
        one = tp.sk_write_queue.first
        while one != NULL:
            skb_zcopy_clear(net, tp, one)
            one = one.next
        one = tp.tcp_rtx_queue.first
        while one != NULL:
            skb_zcopy_clear(net, tp, one)
            one = one.next
    skb_queue_purge(&net.skbs, &tp.sk_write_queue)
    skb_queue_purge(&net.skbs, &tp.tcp_rtx_queue)
    tp.sk_wmem_queued = 0
    tp.packets_out = 0  # what was lost, repeated or told of by SACK is left for TCP_INFO
    tp.backoff = 0


cdef inline void tcp_clear_xmit_timers(tcp_sock *tp) noexcept nogil:
    tp.icsk_pending = 0
    tp.ack_pending = 0
    sk_stop_timer(&tp.retransmit_timer.timer)
    sk_stop_timer(&tp.delack_timer.timer)
    sk_stop_timer(&tp.sk.sk_timer)


cdef inline void tcp_done(netns *net, tcp_sock *tp) noexcept nogil:
    """The connection is over."""
    if tp.tcb.state == TCP_SYN_SENT or tp.tcb.state == TCP_SYN_RECV:
        NET_INC_STATS(net, TCP_ATTEMPTFAILS)
    tcp_set_state(net, tp, TCP_CLOSE)
    tcp_clear_xmit_timers(tp)
    tp.shutdown = SHUTDOWN_MASK
    if tp.dead:
        inet_csk_destroy_sock(net, tp)
    else:
        sk_wake(net, tp)


cdef inline void tcp_done_with_error(netns *net, tcp_sock *tp, int err) noexcept nogil:
    tp.sk_err = err
    tcp_write_queue_purge(net, tp)
    tcp_done(net, tp)


cdef inline void inet_csk_destroy_sock(netns *net, tcp_sock *tp) noexcept nogil:
    """Nobody has it any more: give everything back."""
    tcp_clear_xmit_timers(tp)
    tcp_write_queue_purge(net, tp)
    sk_queues_purge(net, tp)
    tp.sk_rmem_alloc = 0
    sk_unhash(net, tp)
    inet_put_port(net, &tp.sk)
    if not tp.gone:
        tp.gone = 1
        sk_leave(net, tp)
        sk_bury(net, &tp.sk)
        if tp.dead:
            net.n_orphans -= tp.zapped
            tp.zapped = 0


cdef inline bint sk_acceptq_is_full(const tcp_sock *tp) noexcept nogil:
    return tp.accept_len > tp.max_ack_backlog


cdef inline bint inet_csk_reqsk_queue_is_full(const tcp_sock *tp) noexcept nogil:
    return tp.n_reqs > tp.max_ack_backlog


cdef inline bint inet_csk_reqsk_queue_add(
    netns *net, tcp_sock *listener, tcp_sock *child
) noexcept nogil:
    """A connection is ready to be accepted; False if nobody listens any more."""
    if listener.tcb.state != TCP_LISTEN:
        return False
    child.listener = listener
    child.accept_next = child
    if listener.accept_tail != NULL:
        child.accept_next = listener.accept_tail.accept_next
        listener.accept_tail.accept_next = child
    listener.accept_tail = child
    listener.accept_len += 1
    sk_wake(net, listener)
    return True


cdef inline tcp_sock *inet_csk_reqsk_queue_remove(tcp_sock *listener) noexcept nogil:
    """Who waits longest, of some who do."""
    cdef tcp_sock *oldest = listener.accept_tail.accept_next
    listener.accept_tail.accept_next = oldest.accept_next
    if oldest == listener.accept_tail:
        listener.accept_tail = NULL
    listener.accept_len -= 1
    oldest.accept_next = NULL
    return oldest


cdef inline void tcp_error(netns *net, tcp_sock *tp, int err) noexcept nogil:
    """Let the caller know, once."""
    tp.sk_err = err
    sk_wake(net, tp)


# Timers that sending arms.


cdef inline void tcp_reset_xmit_timer(
    netns *net, tcp_sock *tp, int what, int64_t delay_ns
) noexcept nogil:
    tp.icsk_pending = <uint8_t>what
    delay_ns = min(delay_ns, tcp_rto_max_ns(tp))
    sk_reset_timer(net, &tp.retransmit_timer.timer, jiffies_up(net.net.now_ns, delay_ns))


cdef inline void tcp_clear_xmit_timer(tcp_sock *tp) noexcept nogil:
    tp.icsk_pending = 0
    sk_stop_timer(&tp.retransmit_timer.timer)


cdef inline void tcp_rearm_rto(netns *net, tcp_sock *tp) noexcept nogil:
    """Start the time-out anew while something is in flight (RFC 6298 5.1 to 5.3).

    Where it takes the place of a probe's or of RACK's, it runs since the first segment was sent.
    """
    cdef int64_t delay_ns = tp.rto_ns
    if not tp.packets_out:
        tcp_clear_xmit_timer(tp)
        return
    if tp.icsk_pending == ICSK_TIME_LOSS_PROBE or tp.icsk_pending == ICSK_TIME_REO_TIMEOUT:
        delay_ns = max(tcp_rto_delta_ns(net, tp), <int64_t>1000)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, delay_ns)


cdef inline int64_t tcp_rto_delta_ns(const netns *net, const tcp_sock *tp) noexcept nogil:
    """How long until the first segment's time-out; not positive once that is past."""
    cdef const skb *head = tp.tcp_rtx_queue.first
    if head == NULL:
        return tp.rto_ns
    return head.skb_mstamp_ns + tp.rto_ns - net.net.now_ns


cdef inline bint tcp_schedule_loss_probe(
    netns *net, tcp_sock *tp, bint advancing_rto
) noexcept nogil:
    """Probe the tail after two round trips, before the time-out would (RFC 8985 7.2).

    True if that timer runs now. `advancing_rto` if the time-out would start anew with it.
    """
    cdef int64_t timeout_ns = TCP_TIMEOUT_INIT_NS, rto_ns = tp.rto_ns
    if net.sysctl.tcp_early_retrans != 3 and net.sysctl.tcp_early_retrans != 4:
        return False
    if not tp.packets_out or not tp.sack_ok:
        return False
    if tp.ca_state != TCP_CA_OPEN and tp.ca_state != TCP_CA_CWR:
        return False
    if tp.srtt_us:
        timeout_ns = (tp.srtt_us >> 2) * 1000
        # One segment alone: its acknowledgment may be delayed.
        timeout_ns += tcp_rto_min_ns(tp) if tp.packets_out == 1 else TCP_TLP_SLACK_NS
    if not advancing_rto:
        rto_ns = tcp_rto_delta_ns(net, tp)
    if rto_ns > 0:
        timeout_ns = min(timeout_ns, rto_ns)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_LOSS_PROBE, timeout_ns)
    return True


cdef inline void tcp_set_xmit_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """Something was acknowledged: wait anew for a probe or the time-out."""
    if not tcp_schedule_loss_probe(net, tp, True):
        tcp_rearm_rto(net, tp)


cdef inline int64_t tcp_probe0_base_ns(const tcp_sock *tp) noexcept nogil:
    return max(tp.rto_ns, <int64_t>200 * NSEC_PER_MSEC)


cdef inline int64_t tcp_probe0_when_ns(const tcp_sock *tp) noexcept nogil:
    """Twice as long for each time-out, up to the longest."""
    cdef int64_t when_ns = tcp_probe0_base_ns(tp)
    cdef int i = 0
    while i < tp.backoff and when_ns < tcp_rto_max_ns(tp):
        when_ns <<= 1
        i += 1
    return min(when_ns, tcp_rto_max_ns(tp))


cdef inline int64_t tcp_clamp_probe0_to_user_timeout(
    const netns *net, const tcp_sock *tp, int64_t delay_ns
) noexcept nogil:
    """Not beyond the time that the caller gives a shut window."""
    cdef int64_t left_ns
    if not tp.user_timeout_ms or not tp.probes_tstamp_ns:
        return delay_ns
    left_ns = tcp_user_timeout_ns(tp) - (net.net.now_ns - tp.probes_tstamp_ns)
    return min(delay_ns, max(left_ns, <int64_t>2 * TICK_NS))


cdef inline void tcp_check_probe_timer(netns *net, tcp_sock *tp) noexcept nogil:
    """Nothing is in flight to wait for, but something waits: look after it."""
    if not tp.packets_out and not tp.icsk_pending:
        tcp_reset_xmit_timer(net, tp, ICSK_TIME_PROBE0, tcp_probe0_base_ns(tp))
