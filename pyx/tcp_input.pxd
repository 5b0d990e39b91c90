# What an endpoint does with a segment: the judge decides, here it is done.
# Linux: net/ipv4/tcp_input.c.  RFC 9293 3.10.7; RFC 5961; RFC 7323; RFC 2018 3.

from libc.errno cimport ECONNREFUSED, ECONNRESET, ENOMEM, EPIPE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from inet_connection_sock cimport tcp_count_state, tcp_done, tcp_done_with_error
from inet_connection_sock cimport tcp_reset_xmit_timer
from inet_timewait_sock cimport tcp_time_wait
from ip_output cimport dst_mtu
from netns cimport NET_INC_STATS, netns, sk_reset_timer, sk_wake
from skbuff cimport skb_queue_purge
from snmp cimport *
from sock cimport *
from tcb cimport (
    tcb_rcv,
    tcb_rcv_established,
    tcb_rcv_steps,
    tcp_fast_path_on,
    tcp_may_update_window,
    tcp_shift,
    tsval_before,
)
from tcp cimport *
from tcp_ack cimport tcp_ack, tcp_check_space, tcp_sndbuf_expand
from tcp_cong cimport ca_init
from tcp_data_queue cimport (
    tcp_ack_snd_check,
    tcp_check_urg,
    tcp_data_queue,
    tcp_dsack_set,
    tcp_enter_quickack_mode,
    tcp_initialize_rcv_mss,
    tcp_is_predicted,
    tcp_try_rmem_schedule,
    tcp_urg,
)
from tcp_ecn cimport tcp_ecn_rcv_syn, tcp_ecn_rcv_synack
from tcp_output cimport (
    tcp_data_snd_check,
    tcp_send_ack,
    tcp_send_active_reset,
    tcp_send_delayed_ack,
    tcp_send_synack,
)
from tcp_rate cimport tcp_slow_start_after_idle_check, tcp_update_pacing_rate
from tcp_rcv_space cimport tcp_init_buffer_space, tcp_rcv_rtt_measure_ts
from tcp_recovery cimport FLAG_DATA, FLAG_WIN_UPDATE
from tcp_validate cimport (
    REPLY_NONE,
    REPLY_RST,
    tcp_beyond_window,
    tcp_is_late,
    tcp_note_timestamp,
    tcp_paws_pardon,
    tcp_refuse,
    tcp_reset_check,
    tcp_unacceptable,
)
from tcp_window cimport tcp_receive_window, tcp_sync_mss
from timer cimport NSEC_PER_SEC

cdef inline int tcp_rcv_established(netns *net, tcp_sock *tp, rcv_skb *r) noexcept nogil:
    """A segment of an open connection; the predicted one passes everything else by.

    That is, of `tcp_rcv_state_process`, what the prediction says cannot be.
    """
    cdef segment *th = &r.th
    cdef tcb *known = &tp.tcb
    cdef uint32_t prior_una = known.snd_una, rcv_nxt = known.rcv_nxt, ts_recent = known.ts_recent
    cdef uint32_t verdict, snd_wnd = known.snd_wnd, wnd
    cdef int flags = 0
    cdef bint predicted
    tcp_note_timestamp(tp, th)
    if not tcp_fast_path_on(known, th) or not tcp_is_simple(tp, th):
        return tcp_rcv_state_process(net, tp, r)
    wnd = <uint32_t>th.window << tcp_shift(known, known.snd_wscale)
    if tcp_may_update_window(known, th.ack, th.seq, wnd):
        flags = FLAG_WIN_UPDATE  # no duplicate, even if the window is the same
    predicted = tp.sk_write_queue.first != NULL and tcp_is_predicted(net, tp, th)
    verdict = tcb_rcv_established(known, th, wnd)
    if after(th.seq, tp.rcv_wup):  # RFC 7323 4.3, as below
        known.ts_recent = ts_recent
    elif th.opts & OPT_TIMESTAMP:
        tp.ts_recent_stamp_ns = net.net.now_ns
    if verdict & TCB_WINUPDATE:
        if known.snd_wnd != snd_wnd and tp.sk_write_queue.first != NULL:
            tcp_slow_start_after_idle_check(net, tp)
        tcp_sync_after_window(net, tp)
    tcp_ack(net, tp, r, prior_una, flags | FLAG_DATA if th.payload_len else flags)
    if th.payload_len:
        tcp_rcv_rtt_measure_ts(net, tp, th)
        tcp_urg(net, tp, r)
        tcp_data_queue(net, tp, r, verdict, rcv_nxt)
        if tp.nomem:
            tcp_send_active_reset(net, tp)
            tcp_done_with_error(net, tp, ENOMEM)
            return REPLY_NONE
    if not predicted:
        tcp_data_snd_check(net, tp)
    tcp_ack_snd_check(net, tp)
    tcp_check_space(net, tp)
    return REPLY_NONE


cdef inline bint tcp_is_simple(const tcp_sock *tp, const segment *th) noexcept nogil:
    """True where there is room for what was predicted, and it fills no hole."""
    if th.opts & OPT_TIMESTAMP and tsval_before(th.tsval, tp.tcb.ts_recent):
        return False
    return not th.payload_len or (
        tp.out_of_order_queue.first == NULL
        and tp.sk_rmem_alloc <= tp.sk_rcvbuf
        and tcp_receive_window(tp) > 0
    )


cdef inline int tcp_rcv_state_process(netns *net, tcp_sock *tp, rcv_skb *r) noexcept nogil:
    """Judge a segment and do what the verdict says (RFC 9293 3.10.7.4): REPLY_."""
    cdef segment *th = &r.th
    cdef tcb *known = &tp.tcb
    cdef int state = known.state, flags, before_data
    cdef uint32_t prior_una = known.snd_una, rcv_nxt, verdict, refused, most
    cdef uint32_t length = th.payload_len, ts_recent, snd_wnd = known.snd_wnd, snd_wl1 = known.snd_wl1
    cdef bint early, behind, ended, late, moved, shut, update, fresh, predicted
    if not th.flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN):
        return REPLY_NONE  # RFC 9293 3.10.7.4, fifth: Linux does not even look at its number
    tcp_note_timestamp(tp, th)
    if th.opts & OPT_TIMESTAMP and tsval_before(th.tsval, known.ts_recent):
        tcp_paws_pardon(net, tp, th)
    if tcp_beyond_window(tp, th):
        tcp_unacceptable(net, tp, th, length, True)
        return REPLY_NONE
    early = after(th.seq, known.rcv_nxt)  # that is for tcp_data_queue_ofo to take or to drop
    shut = length and th.seq == known.rcv_nxt and not tcp_receive_window(tp)
    fresh = (length or th.flags & TCPHDR_FIN) and not early and after(th.end_seq, known.rcv_nxt)
    if fresh and (shut or not tcp_try_rmem_schedule(net, tp, th.seq, length)):
        th.payload_len = 0
        th.flags &= <uint16_t>~TCPHDR_FIN
        th.end_seq = th.seq + (1 if th.flags & TCPHDR_SYN else 0)
        NET_INC_STATS(net, TCP_ZEROWINDOWDROP if shut else TCP_RCVQDROP)
        tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_NOW | (0 if shut else ICSK_ACK_NOMEM)
    rcv_nxt = known.rcv_nxt
    ts_recent = known.ts_recent
    predicted = tp.sk_write_queue.first != NULL and tcp_is_predicted(net, tp, th)
    late = tcp_is_late(tp, th)
    update = tcp_may_update_window(
        known, th.ack, th.seq, <uint32_t>th.window << known.snd_wscale
    )
    if th.flags & TCPHDR_ACK and before(th.ack, prior_una):
        # RFC 5961 5.2: old is what was acknowledged once, not all that a window reaches back to.
        most = known.max_window
        known.max_window = <uint32_t>min(<uint64_t>most, tp.bytes_acked)
        verdict = tcb_rcv_steps(known, th, 0) if late else tcb_rcv(known, th)
        known.max_window = max(known.max_window, most)
        verdict &= ~<uint32_t>TCB_WINUPDATE  # and it tells nothing of the window
        update = False
        known.snd_wnd = snd_wnd
        known.snd_wl1 = snd_wl1
    else:
        verdict = tcb_rcv_steps(known, th, 0) if late else tcb_rcv(known, th)
    if after(th.seq, tp.rcv_wup):  # RFC 7323 4.3: what lies behind the last ACK may be overtaken
        known.ts_recent = ts_recent
    if th.flags & TCPHDR_RST and tcp_reset_check(tp, th, verdict):
        known.state = TCP_CLOSE
        verdict = TCB_RST_TAKEN
    if known.state != state:
        tcp_count_state(net, tp, state, known.state)
    if verdict & TCB_NO_CONN:
        return REPLY_RST
    if verdict & TCB_RST_TAKEN:
        tcp_reset(net, tp, state)
        return REPLY_NONE
    if verdict & (TCB_PAWS | TCB_CHALLENGE | TCB_ACK_OLD | TCB_ACK_UNSENT):
        return tcp_refuse(net, tp, th, verdict, state)
    # Behind the peer's FIN only the acknowledgment counts; nothing is said of the rest.
    behind = state == TCP_CLOSE_WAIT or state == TCP_CLOSING or state == TCP_LAST_ACK
    ended = behind and not before(th.seq, rcv_nxt)
    refused = verdict & (TCB_OLD | TCB_OVERWINDOW)
    if refused and not late and not verdict & TCB_ACKED:
        moved = th.flags & TCPHDR_ACK and known.state != state
        if refused != TCB_OLD or not (ended or moved or behind and tcp_is_across(th, rcv_nxt)):
            tcp_unacceptable(net, tp, th, length, verdict & TCB_OVERWINDOW != 0)
            return REPLY_NONE
    if not th.flags & TCPHDR_ACK:
        return REPLY_NONE
    flags = FLAG_DATA if th.payload_len else 0
    if update:
        flags |= FLAG_WIN_UPDATE  # no duplicate, even if the window is the same
    if verdict & TCB_WINUPDATE:
        if known.snd_wnd != snd_wnd and tp.sk_write_queue.first != NULL:
            tcp_slow_start_after_idle_check(net, tp)  # it may have been shut for long
        tcp_sync_after_window(net, tp)
    if th.opts & OPT_TIMESTAMP and not after(th.seq, tp.rcv_wup):
        tp.ts_recent_stamp_ns = net.net.now_ns
    if state == TCP_SYN_RECV and verdict & TCB_ESTAB:
        tcp_finish_handshake(net, tp)
        if tp.tcp_rtx_queue.first == NULL:  # the request's SYN is none of the socket's bytes
            prior_una += 1
    tcp_ack(net, tp, r, prior_una, flags)
    if known.state != state:
        if state == TCP_FIN_WAIT1 and tcp_data_after_close(net, tp, th, state, rcv_nxt):
            return REPLY_RST
        if tcp_closing_states(net, tp, state):
            return REPLY_RST if state == TCP_FIN_WAIT1 and tp.linger2_s < 0 else REPLY_NONE
    if th.flags & TCPHDR_SYN:  # a simultaneous open's SYN-ACK repeats the SYN
        NET_INC_STATS(net, TCP_DELAYEDACKLOST)
        tcp_dsack_set(net, tp, th.seq, th.end_seq)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    if th.flags & TCPHDR_URG:
        tcp_check_urg(net, tp, r, rcv_nxt)
    if state == TCP_ESTABLISHED and th.payload_len:
        tcp_rcv_rtt_measure_ts(net, tp, th)
    tcp_urg(net, tp, r)
    if (th.payload_len or th.flags & TCPHDR_FIN) and not ended:
        if tcp_data_after_close(net, tp, th, state, rcv_nxt):
            return REPLY_RST
        before_data = known.state
        if tcp_data_queue(net, tp, r, verdict, rcv_nxt):
            if known.state != before_data:  # by a FIN that waited behind a hole
                tcp_count_state(net, tp, before_data, known.state)
            tcp_fin(net, tp, state)
        if tp.nomem:
            tcp_send_active_reset(net, tp)
            tcp_done_with_error(net, tp, ENOMEM)
    if known.state != TCP_CLOSE:
        if not predicted:
            tcp_data_snd_check(net, tp)
        tcp_ack_snd_check(net, tp)
        tcp_check_space(net, tp)
    return REPLY_NONE


# States.


cdef inline void tcp_reset(netns *net, tcp_sock *tp, int state) noexcept nogil:
    """The peer has given up; the judge has closed this end (RFC 9293 3.10.7.4, second)."""
    cdef int err = ECONNRESET
    if state == TCP_SYN_SENT or state == TCP_SYN_RECV:
        NET_INC_STATS(net, TCP_ATTEMPTFAILS)
    if state == TCP_SYN_SENT:
        err = ECONNREFUSED
    elif state == TCP_CLOSE_WAIT:
        err = EPIPE
    elif state == TCP_CLOSE:
        err = 0
    tcp_done_with_error(net, tp, err)


cdef inline void tcp_finish_handshake(netns *net, tcp_sock *tp) noexcept nogil:
    """SYN-RECEIVED is over: what the handshake has agreed on counts from here."""
    if tp.tstamp_ok:
        tp.advmss -= 12
    if tp.saw_tstamp and tp.undo_marker:
        if tp.rcv_tsecr - tp.tsoffset == <uint32_t>tp.retrans_stamp:
            tp.undo_marker = 0  # the first one arrived: its time-out was needless (RFC 3522)
    tcp_init_transfer(net, tp)
    tcp_update_pacing_rate(tp)
    tp.tcb.max_window = max(tp.tcb.max_window, tp.tcb.snd_wnd)
    tp.delivered += 1  # the SYN-ACK
    tp.retrans_stamp = 0
    sk_wake(net, tp)
    tp.lsndtime_ns = net.net.now_ns
    tcp_initialize_rcv_mss(tp)


cdef inline void tcp_init_transfer(netns *net, tcp_sock *tp) noexcept nogil:
    """First window and buffers of an open connection (RFC 6928; a lost SYN leaves one segment)."""
    tcp_sync_mss(net, tp, dst_mtu(net, tp.sk.daddr))
    tp.snd_cwnd = TCP_INIT_CWND
    if tp.total_retrans > 1 and tp.undo_marker:
        tp.snd_cwnd = 1
    elif net.route.initcwnd:
        tp.snd_cwnd = <int32_t>net.route.initcwnd
    if not tp.srtt_us:  # the handshake gave no sample, as it was lost (RFC 6298 5.7)
        tp.rttvar_us = tp.mdev_us = tp.mdev_max_us = TCP_TIMEOUT_FALLBACK_NS // 1000
        tp.rto_ns = TCP_TIMEOUT_FALLBACK_NS
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH  # a SYN that was lost says nothing of the path
    ca_init(tp, net.net.now_ns)
    tcp_init_buffer_space(net, tp)
    tcp_sndbuf_expand(net, tp)


cdef inline void tcp_sync_after_window(netns *net, tcp_sock *tp) noexcept nogil:
    if <int64_t>(tp.tcb.max_window >> 1) < tp.mss_cache or tp.mss_cache < tp.mss_clamp:
        tcp_sync_mss(net, tp, tp.pmtu_cookie)


cdef inline bint tcp_closing_states(netns *net, tcp_sock *tp, int state) noexcept nogil:
    """This end's FIN was acknowledged: True if the socket is gone."""
    if state == TCP_FIN_WAIT1 and tp.tcb.state != TCP_FIN_WAIT1:
        tp.shutdown |= SEND_SHUTDOWN
        if not tp.dead:
            sk_wake(net, tp)
        elif tp.tcb.state == TCP_FIN_WAIT2:
            if tp.linger2_s < 0:
                tcp_done(net, tp)
                NET_INC_STATS(net, TCP_ABORTONDATA)
                return True
            tcp_fin_wait2_orphan(net, tp)
            return tp.tcb.state == TCP_CLOSE
    elif state == TCP_CLOSING and tp.tcb.state == TCP_TIME_WAIT:
        tcp_time_wait(net, tp, TCP_TIME_WAIT, 0)
        return True
    elif state == TCP_LAST_ACK and tp.tcb.state == TCP_CLOSE:
        tcp_done(net, tp)
        return True
    return False


cdef inline void tcp_fin_wait2_orphan(netns *net, tcp_sock *tp) noexcept nogil:
    """Nobody reads any more: wait for the peer's FIN in a small rest, or by a timer."""
    cdef int64_t wait_ns = tcp_fin_time_ns(tp)
    if wait_ns > TCP_TIMEWAIT_LEN_NS:
        sk_reset_timer(
            net, &tp.sk.sk_timer, net.net.now_ns + wait_ns - TCP_TIMEWAIT_LEN_NS
        )
    else:
        tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)


cdef inline int64_t tcp_fin_time_ns(const tcp_sock *tp) noexcept nogil:
    return max(<int64_t>tp.linger2_s * NSEC_PER_SEC, (tp.rto_ns << 2) - (tp.rto_ns >> 1))


cdef inline bint tcp_data_after_close(
    netns *net, tcp_sock *tp, const segment *th, int state, uint32_t rcv_nxt
) noexcept nogil:
    """Data for whom nobody reads is refused with a reset (RFC 9293 3.6.1)."""
    if state == TCP_ESTABLISHED or not tp.shutdown & RCV_SHUTDOWN:
        return False
    if not tcp_is_across(th, rcv_nxt):
        return False
    NET_INC_STATS(net, TCP_ABORTONDATA)
    tcp_reset(net, tp, state)
    return True


cdef inline bint tcp_is_across(const segment *th, uint32_t rcv_nxt) noexcept nogil:
    """True if a segment has text behind what is in."""
    cdef uint32_t end = th.end_seq - (1 if th.flags & TCPHDR_FIN else 0)
    return th.end_seq != th.seq and after(end, rcv_nxt)


cdef inline void tcp_fin(netns *net, tcp_sock *tp, int state) noexcept nogil:
    """The peer's FIN is in, and the judge has moved the state (RFC 9293 3.10.7.4, eighth)."""
    cdef int now = tp.tcb.state
    tp.ack_pending |= ICSK_ACK_SCHED
    tp.shutdown |= RCV_SHUTDOWN
    tp.done = 1
    if now == TCP_CLOSE_WAIT:
        tp.ack_pingpong = TCP_PINGPONG_THRESH
    elif now == TCP_CLOSING and state == TCP_FIN_WAIT1:
        tcp_send_ack(net, tp)
    elif now == TCP_TIME_WAIT:
        tcp_send_ack(net, tp)
        tcp_time_wait(net, tp, TCP_TIME_WAIT, 0)
        return
    skb_queue_purge(&net.skbs, &tp.out_of_order_queue)
    tp.n_sacks = 0
    tp.has_dsack = 0
    if not tp.dead:
        sk_wake(net, tp)


# SYN-SENT.


cdef inline int tcp_rcv_synsent_state_process(netns *net, tcp_sock *tp, rcv_skb *r) noexcept nogil:
    """What an active open gets (RFC 9293 3.10.7.3): REPLY_."""
    cdef segment *th = &r.th
    cdef bint offered_ts = tp.tcp_header_len > 20
    cdef uint32_t sent, first, prior_una, verdict
    if th.flags & TCPHDR_ACK and th.opts & OPT_TIMESTAMP and th.tsecr and offered_ts:
        sent = <uint32_t>(net.net.now_ns // 1000000) + tp.tsoffset
        first = <uint32_t>(tp.retrans_stamp - 1) + tp.tsoffset  # 0 is no time
        if before(th.tsecr, first) or after(th.tsecr, sent):
            NET_INC_STATS(net, TCP_PAWSACTIVEREJECTED)
            return REPLY_RST if not th.flags & TCPHDR_RST else REPLY_NONE
    if not offered_ts:
        th.opts &= <uint8_t>~OPT_TIMESTAMP
    prior_una = tp.tcb.snd_una
    if th.flags & TCPHDR_SYN:
        # Deviation: as in Linux, text and FIN on a SYN-ACK are left for the peer to send again.
        th.payload_len = 0
        th.flags &= <uint16_t>~TCPHDR_FIN
        th.end_seq = th.seq + 1
    verdict = tcb_rcv(&tp.tcb, th)
    if verdict & TCB_ACK_UNSENT:
        if not tp.retransmits:  # an old connection's end may have lost its reset: ask again soon
            tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, TCP_TIMEOUT_MIN_NS)
        return REPLY_NONE if th.flags & TCPHDR_RST else REPLY_RST
    if verdict & TCB_RST_TAKEN:
        tcp_reset(net, tp, TCP_SYN_SENT)
        return REPLY_NONE
    if not verdict & TCB_SYN_TAKEN:
        return REPLY_NONE
    tcp_take_syn_options(net, tp, th, offered_ts)
    tp.copied_seq = tp.rcv_wup = th.seq + 1
    if not verdict & TCB_ESTAB:
        tcp_ecn_rcv_syn(tp, th.flags)
        tcp_simultaneous_open(net, tp)
        return REPLY_NONE
    tcp_ecn_rcv_synack(tp, th.flags)
    if tp.tstamp_ok:
        tp.advmss -= 12
    tcp_count_state(net, tp, TCP_SYN_SENT, TCP_ESTABLISHED)
    tp.tcb.max_window = max(tp.tcb.max_window, tp.tcb.snd_wnd)
    tp.sk_err_soft = 0
    tcp_ack(net, tp, r, prior_una, 0)
    tcp_init_transfer(net, tp)
    tcp_initialize_rcv_mss(tp)
    tp.lsndtime_ns = tp.ack_lrcvtime_ns = net.net.now_ns
    if tp.keepopen:
        sk_reset_timer(net, &tp.sk.sk_timer, net.net.now_ns + keepalive_time_when(net, tp))
    if not tp.dead:
        sk_wake(net, tp)
    if tp.sk_write_queue.first != NULL or tp.defer_accept or tp.ack_pingpong >= TCP_PINGPONG_THRESH:
        tp.ack_pending |= ICSK_ACK_SCHED
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tcp_data_snd_check(net, tp)
        if tp.ack_pending & ICSK_ACK_SCHED:
            tcp_send_delayed_ack(net, tp)
    else:
        tcp_send_ack(net, tp)
    return REPLY_NONE


cdef inline void tcp_take_syn_options(
    netns *net, tcp_sock *tp, segment *th, bint offered_ts
) noexcept nogil:
    """What both have offered counts from here."""
    tp.wscale_ok = th.opts & OPT_WSCALE != 0 and net.sysctl.tcp_window_scaling != 0
    if not tp.wscale_ok:
        tp.tcb.snd_wscale = 0
        tp.window_clamp = min(tp.window_clamp, <int32_t>65535)
    tp.sack_ok = th.opts & OPT_SACK_PERM != 0 and net.sysctl.tcp_sack != 0
    tp.tstamp_ok = th.opts & OPT_TIMESTAMP != 0 and offered_ts
    tp.tcp_header_len = 20
    if tp.tstamp_ok:
        tp.tcp_header_len += 12
        tp.ts_recent_stamp_ns = net.net.now_ns
        tcp_note_timestamp(tp, th)
    tp.mss_clamp = tcp_clamp_peer_mss(tp, th)
    tcp_sync_mss(net, tp, dst_mtu(net, tp.sk.daddr))


cdef inline int32_t tcp_clamp_peer_mss(const tcp_sock *tp, const segment *th) noexcept nogil:
    """The peer's MSS, or what stands for it (9293:MUST-15); never above what the user wants."""
    if th.opts & OPT_MSS and th.mss:
        return min(<int32_t>th.mss, tp.user_mss) if tp.user_mss else th.mss
    if tp.user_mss:
        return tp.user_mss
    return 536 if tp.sk.ip == 4 else 1220


cdef inline void tcp_simultaneous_open(netns *net, tcp_sock *tp) noexcept nogil:
    """Both have sent a SYN: answer with a SYN-ACK (9293:MUST-10)."""
    tcp_count_state(net, tp, TCP_SYN_SENT, TCP_SYN_RECV)
    tp.rcv_wup = tp.copied_seq = tp.tcb.rcv_nxt
    tcp_initialize_rcv_mss(tp)
    tcp_send_synack(net, tp)


cdef inline int64_t keepalive_time_when(const netns *net, const tcp_sock *tp) noexcept nogil:
    if tp.keepalive_time_s:
        return tp.keepalive_time_s * <int64_t>1000000000
    return net.sysctl.tcp_keepalive_time * 1000000000
