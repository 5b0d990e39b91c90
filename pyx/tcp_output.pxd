# Every segment that leaves a socket, and when it may.
# Linux: net/ipv4/tcp_output.c.  RFC 9293 3.8; RFC 1122 4.2.3.4; RFC 7323; RFC 2018.

from libc.errno cimport ENOBUFS, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from errqueue cimport (
    SCM_TSTAMP_SCHED,
    SCM_TSTAMP_SND,
    SKBTX_SCHED_TSTAMP,
    SKBTX_SW_TSTAMP,
    tcp_fragment_tstamp,
    tstamp_only,
)
from inet_connection_sock cimport (
    tcp_check_probe_timer,
    tcp_done_with_error,
    tcp_rearm_rto,
    tcp_reset_xmit_timer,
    tcp_schedule_loss_probe,
)
from ip_output cimport dst_mtu, ip_queue_xmit, options, segment_out, skb_copy_and_csum
from ip_output cimport tcp_options_write
from netns cimport NET_ADD_STATS, NET_INC_STATS, netns, out_frame, sk_reset_timer, sk_stop_timer
from rbtree cimport rb_changed, rb_insert
from skbuff cimport alloc_skb, refcount_inc, skb_queue_after, skb_queue_tail, skb_unlink
from snmp cimport *
from sock cimport *
from tcb cimport tcb_xmit
from tcp cimport *
from tcp_cong cimport CA_EVENT_TX_START, ca_cwnd_event, tcp_enter_cwr
from tcp_ecn cimport TCP_ECN_MODE_RFC3168, tcp_ecn_send, tcp_ecn_send_syn, tcp_ecn_send_synack
from tcp_rate cimport (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    tcp_chrono_start,
    tcp_chrono_stop,
    tcp_cwnd_validate,
    tcp_rate_skb_sent,
)
from tcp_window cimport (
    TCPOLEN_TSTAMP_ALIGNED,
    tcp_advertise_mss,
    tcp_current_mss,
    tcp_cwnd_test,
    tcp_established_options,
    tcp_full_space,
    tcp_grow_skb,
    tcp_mss_split_point,
    tcp_nagle_test,
    tcp_packets_in_flight,
    tcp_select_initial_window,
    tcp_select_window,
    tcp_set_skb_tso_segs,
    tcp_snd_wnd_test,
    tcp_syn_options,
    tcp_sync_mss,
    tcp_tso_segs,
    tcp_tso_should_defer,
    tcp_wnd_end,
)
from tcp_md5 cimport MD5_AT
from tcp_rtt cimport tcp_delack_max_ns, tcp_rto_min_ns
from tcp_tstamp cimport skb_tstamp_tx
from timer cimport NSEC_PER_MSEC, jiffies_up
from wire cimport TCP_HDR_LEN

cdef enum:
    SKB_TRUESIZE_EMPTY = 896  # of what is sent: head, shared info, room for headers
    SKB_TRUESIZE_GSO = GSO_MAX_SIZE + SKB_OVERHEAD + SKB_SHARED_INFO  # of the largest piece


# One segment.


cdef inline int tcp_transmit_skb(
    netns *net, tcp_sock *tp, skb *one, uint32_t ack, int64_t mss
) noexcept nogil:
    """Send one piece with today's options and window; the judge is told. 0, -ENOBUFS, or
    NET_XMIT_DROP: as if it had been lost at once."""
    cdef options opts
    cdef segment_out out
    cdef segment th
    cdef uint16_t flags = one.tcp_flags, window, urg = 0
    cdef int err
    if flags & TCPHDR_SYN:
        tcp_syn_options(net, tp, &opts)  # whole in a simultaneous open's SYN-ACK, too
        window = <uint16_t>min(tp.rcv_wnd, <int64_t>65535)
    else:
        if one.pcount > 1:
            flags |= TCPHDR_PSH  # whoever joins segments need not wait for more
        tcp_established_options(net, tp, &opts)
        window = tcp_select_window(net, tp)
        if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
            flags |= tcp_ecn_send(tp, one.len and not before(one.seq, tp.tcb.snd_nxt))
    if tp.snd_up != tp.tcb.snd_una and before(one.seq, tp.snd_up):
        if before(tp.snd_up, one.seq + 0x10000):
            urg = <uint16_t>(tp.snd_up - one.seq)
            flags |= TCPHDR_URG
        elif after(one.seq + 0xFFFF, tp.tcb.snd_nxt):
            urg = 0xFFFF
            flags |= TCPHDR_URG
    out.options_len = <uint8_t>tcp_options_write(out.options, &opts)
    out.md5, out.md5_at = opts.md5, MD5_AT
    out.saddr = tp.sk.saddr
    out.daddr = tp.sk.daddr
    out.sport = tp.sk.sport
    out.dport = tp.sk.dport
    out.seq = one.seq
    out.ack = ack
    out.flags = flags
    out.window = window
    out.urg = urg
    out.ident = net.ip_id
    out.tos = tp.sk.tos
    out.ttl = tp.ttl
    out.df = tp.pmtudisc > 0
    err = ip_queue_xmit(net, &out, one.head, one.data, one.len, mss)
    if err < 0:
        return err
    if after(one.end_seq, tp.tcb.snd_nxt) or one.seq == one.end_seq:  # repeats count elsewhere
        NET_ADD_STATS(net, TCP_OUTSEGS, one.pcount if one.pcount > 1 else 1)
    net.ip_id += <uint16_t>one.pcount
    if flags & TCPHDR_ACK:
        tcp_event_ack_sent(net, tp, ack)
    tp.segs_out += one.pcount if one.pcount > 1 else 1
    if one.len:
        tcp_event_data_sent(net, tp)
        tp.data_segs_out += one.pcount
        tp.bytes_sent += one.len
    if not err and one.tx_flags & (SKBTX_SCHED_TSTAMP | SKBTX_SW_TSTAMP):
        tcp_tstamp_sent(net, tp, one)
    th.seq = one.seq
    th.end_seq = one.end_seq
    th.ack = ack
    th.flags = flags
    th.window = window
    th.payload_len = one.len
    th.opts = 0
    th.wscale = 0
    if opts.has_wscale:
        th.opts = OPT_WSCALE
        th.wscale = opts.wscale
    if not err or one.end_seq == one.seq:
        tcb_xmit(&tp.tcb, &th)
    if err:
        tcp_enter_cwr(tp, net.net.now_ns)  # this end's own queue is what is congested
        return err
    tp.wstamp_ns = net.net.now_ns
    one.skb_mstamp_ns = net.net.now_ns
    one.overtaken = one.rack_off = 0
    if one.end_seq != one.seq:
        tcp_rate_skb_sent(tp, one, net.net.now_ns)
    if one.ubuf != NULL:
        one.ubuf.zerocopy = 0
    return 0


cdef inline void tcp_tstamp_sent(netns *net, tcp_sock *tp, skb *one) noexcept nogil:
    """Tell when a piece was queued and sent, which here is one; each time that it is."""
    cdef const out_frame *last = &net.out[net.n_out - 1]
    cdef uint32_t length = 0
    cdef uint8_t *frame = NULL
    if not tstamp_only(tp):
        frame = <uint8_t *>malloc(last.length + last.data_len)
        if frame != NULL:
            length = last.length + last.data_len
            skb_copy_and_csum(net, net.n_out - 1, frame)
    if one.tx_flags & SKBTX_SCHED_TSTAMP:
        skb_tstamp_tx(net, tp, one, SCM_TSTAMP_SCHED, frame, length)
    if one.tx_flags & SKBTX_SW_TSTAMP:
        skb_tstamp_tx(net, tp, one, SCM_TSTAMP_SND, frame, length)
    free(frame)


cdef inline void tcp_event_ack_sent(netns *net, tcp_sock *tp, uint32_t ack) noexcept nogil:
    """Whatever carries an ACK pays what was owed."""
    tp.has_dsack = 0
    if tp.compressed_ack:
        NET_ADD_STATS(net, TCP_ACKCOMPRESSED, tp.compressed_ack)
        tp.compressed_ack = 0
        tp.delack_timer.expires_ns = 0  # it was theirs
    if ack != tp.tcb.rcv_nxt:
        return
    if tp.ack_quick and tp.ack_pending & ICSK_ACK_SCHED:
        tp.ack_quick -= 1
        if not tp.ack_quick:
            tp.ack_ato_ns = TCP_ATO_MIN_NS
    tp.ack_pending = 0
    sk_stop_timer(&tp.delack_timer.timer)


cdef inline void tcp_event_data_sent(netns *net, tcp_sock *tp) noexcept nogil:
    """An answer that comes soon makes the connection interactive: ACKs may wait for data."""
    cdef int64_t now_ns = net.net.now_ns
    if not tp.packets_out:
        ca_cwnd_event(tp, CA_EVENT_TX_START, now_ns)
    tp.lsndtime_ns = now_ns
    if now_ns - tp.ack_lrcvtime_ns >= tp.ack_ato_ns:
        return
    if tp.ack_pingpong < TCP_PINGPONG_THRESH:
        tp.ack_pingpong += 1


cdef inline void tcp_event_new_data_sent(netns *net, tcp_sock *tp, skb *one) noexcept nogil:
    """The head of the write queue was sent for the first time."""
    cdef int32_t had = tp.packets_out
    skb_unlink(&tp.sk_write_queue, one)
    rb_insert(&tp.tcp_rtx_queue, tp.tcp_rtx_queue.last, one)
    tp.packets_out += one.pcount
    if (
        not had
        or tp.icsk_pending == ICSK_TIME_PROBE0
        or tp.icsk_pending == ICSK_TIME_LOSS_PROBE
    ):
        tcp_rearm_rto(net, tp)
    NET_ADD_STATS(net, TCP_ORIGDATASENT, one.pcount)


# When data may go.


cdef inline int tcp_fragment(
    netns *net, tcp_sock *tp, skb_queue *queue, skb *one, int64_t length, int64_t mss
) noexcept nogil:
    """Cut a piece of a queue in two; 0 or -ENOMEM: a peer's blocks make only so many (T-03)."""
    cdef int32_t was = one.pcount
    cdef bint between = queue == &tp.tcp_rtx_queue and one != queue.first and one != queue.last
    cdef skb *rest
    if between and tp.sk_wmem_queued >> 1 > <int64_t>tp.sk_sndbuf + 2 * SKB_TRUESIZE_GSO:
        NET_INC_STATS(net, TCP_WQUEUETOOBIG)
        return -ENOMEM
    rest = alloc_skb(&net.skbs, 0)
    if rest == NULL:
        return -ENOMEM
    rest.head = one.head
    refcount_inc(&rest.head.refs)
    rest.lent = one.lent
    rest.data = one.data + length
    rest.len = one.len - <uint32_t>length
    rest.seq = one.seq + <uint32_t>length
    rest.end_seq = one.end_seq
    rest.tcp_flags = one.tcp_flags
    rest.truesize = SKB_TRUESIZE_EMPTY + rest.len
    rest.sacked = one.sacked
    rest.eor = one.eor
    one.eor = 0
    rest.skb_mstamp_ns = one.skb_mstamp_ns
    rest.overtaken = one.overtaken
    rest.rack_off = one.rack_off
    rest.delivered = one.delivered
    rest.delivered_us = one.delivered_us
    rest.first_tx_us = one.first_tx_us
    rest.is_app_limited = one.is_app_limited
    tcp_fragment_tstamp(one, rest)
    rest.ubuf = one.ubuf
    if rest.ubuf != NULL:
        rest.ubuf.refs += 1
    one.len = <uint32_t>length
    one.end_seq = rest.seq
    one.tcp_flags &= <uint8_t>~(TCPHDR_FIN | TCPHDR_PSH)
    one.truesize -= rest.len
    tp.sk_wmem_queued += SKB_TRUESIZE_EMPTY
    tcp_set_skb_tso_segs(one, mss)
    tcp_set_skb_tso_segs(rest, mss)
    if queue != &tp.tcp_rtx_queue:
        skb_queue_after(queue, one, rest)
        return 0
    rb_insert(queue, one, rest)
    rb_changed(one)
    if was != one.pcount + rest.pcount:
        tcp_adjust_pcount(tp, one.sacked, was - one.pcount - rest.pcount)
    return 0


cdef inline void tcp_adjust_pcount(tcp_sock *tp, int sacked, int32_t less) noexcept nogil:
    tp.packets_out -= less
    if sacked & TCPCB_SACKED_ACKED:
        tp.sacked_out -= less
    if sacked & TCPCB_SACKED_RETRANS:
        tp.retrans_out -= less
    if sacked & TCPCB_LOST:
        tp.lost_out -= less


cdef inline bint tcp_write_xmit(
    netns *net, tcp_sock *tp, int64_t mss, int nonagle, int push_one
) noexcept nogil:
    """Send what may go; True if nothing is in flight and something waits: a probe is needed.

    `push_one` 1: one piece; 2: one, whatever the congestion window is, to probe the tail.
    """
    cdef skb *one
    cdef int32_t sent = 0, segs, quota, most
    cdef int64_t limit
    cdef bint cwnd_limited = False, rwnd_limited = False
    cdef int wait
    while tp.sk_write_queue.first != NULL:
        one = tp.sk_write_queue.first
        quota = tcp_cwnd_test(tp)
        if not quota:
            if push_one != 2:
                cwnd_limited = True
                break
            quota = 1
        most = tcp_tso_segs(net, tp, mss)
        quota = min(quota, most)
        if quota * mss > one.len:
            tcp_grow_skb(net, tp, quota * mss - one.len)
        segs = tcp_set_skb_tso_segs(one, mss)
        if not tcp_snd_wnd_test(tp, one, mss):
            rwnd_limited = True
            break
        limit = mss
        wait = 0
        if segs > 1 and not push_one:
            wait = tcp_tso_should_defer(net, tp, one, mss, most)
        if segs == 1:
            if not tcp_nagle_test(
                tp, one, mss, nonagle if one.next == NULL else <int>TCP_NAGLE_PUSH
            ):
                break
        elif wait:
            cwnd_limited = wait == 2
            rwnd_limited = wait == 3
            break
        elif tp.snd_up == tp.tcb.snd_una:  # each segment has its own urgent pointer
            limit = tcp_mss_split_point(tp, one, mss, min(quota, segs), nonagle)
            if not limit:
                break
        if one.len > limit and tcp_fragment(net, tp, &tp.sk_write_queue, one, limit, mss):
            break
        if tcp_transmit_skb(net, tp, one, tp.tcb.rcv_nxt, mss):
            break
        tcp_event_new_data_sent(net, tp, one)
        if one.len < one.pcount * mss:
            tp.snd_sml = one.end_seq
        sent += one.pcount
        if push_one:
            break
    if rwnd_limited:
        tcp_chrono_start(tp, TCP_CHRONO_RWND_LIMITED, net.net.now_ns)
    else:
        tcp_chrono_stop(tp, TCP_CHRONO_RWND_LIMITED, net.net.now_ns)
    if tp.ca_state == TCP_CA_CWR or tp.ca_state == TCP_CA_RECOVERY:
        tp.prr_out += sent
    cwnd_limited = cwnd_limited or tcp_packets_in_flight(tp) >= tp.snd_cwnd
    if sent or cwnd_limited:
        tcp_cwnd_validate(net, tp, cwnd_limited)
    if sent and push_one != 2:
        tcp_schedule_loss_probe(net, tp, False)
    return not tp.packets_out and tp.sk_write_queue.first != NULL


cdef inline void tcp_push_pending_frames(
    netns *net, tcp_sock *tp, int64_t mss, int nonagle
) noexcept nogil:
    """Send what waits; arm the probe where the peer's window holds it all back."""
    if tp.tcb.state == TCP_CLOSE or tp.sk_write_queue.first == NULL:
        return
    if tcp_write_xmit(net, tp, mss, nonagle, 0):
        tcp_check_probe_timer(net, tp)


cdef inline void tcp_push_one(netns *net, tcp_sock *tp, int64_t mss) noexcept nogil:
    """Send one burst while a write goes on: the next may be filled further."""
    if tp.tcb.state != TCP_CLOSE:
        tcp_write_xmit(net, tp, mss, TCP_NAGLE_PUSH, True)


cdef inline void tcp_data_snd_check(netns *net, tcp_sock *tp) noexcept nogil:
    """Something has changed that sending may have waited for."""
    if tp.sk_write_queue.first != NULL:
        tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), tp.nonagle)


# Acknowledgments.


cdef inline void skb_control(skb *one, uint32_t seq, uint8_t flags) noexcept nogil:
    """A segment without text that is in no queue."""
    memset(one, 0, sizeof(skb))
    one.seq = one.end_seq = seq
    one.tcp_flags = flags


cdef inline void tcp_send_ack(netns *net, tcp_sock *tp) noexcept nogil:
    cdef skb one
    if tp.tcb.state == TCP_CLOSE:
        return
    skb_control(&one, tcp_acceptable_seq(tp), TCPHDR_ACK)
    if tcp_transmit_skb(net, tp, &one, tp.tcb.rcv_nxt, 0) < 0:
        tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
        sk_reset_timer(net, &tp.delack_timer.timer, jiffies_up(net.net.now_ns, TCP_DELACK_MAX_NS))


cdef inline uint32_t tcp_acceptable_seq(const tcp_sock *tp) noexcept nogil:
    """Where an empty segment stands: inside the peer's window, even when that has shrunk."""
    cdef uint32_t end = tcp_wnd_end(tp)
    if not before(end, tp.tcb.snd_nxt):
        return tp.tcb.snd_nxt
    if tp.wscale_ok and tp.tcb.snd_nxt - end < <uint32_t>1 << tp.tcb.snd_wscale:
        return tp.tcb.snd_nxt
    return end


cdef inline void tcp_send_delayed_ack(netns *net, tcp_sock *tp) noexcept nogil:
    """Owe an acknowledgment for a while (RFC 9293 3.8.6.3)."""
    cdef int64_t ato_ns = tp.ack_ato_ns
    cdef int64_t now_ns = net.net.now_ns
    cdef int64_t most, timeout_ns
    if ato_ns > TCP_DELACK_MIN_NS:
        most = TCP_DELACK_MAX_NS
        if tp.srtt_us:
            most = min(most, max((tp.srtt_us >> 3) * 1000, TCP_DELACK_MIN_NS))
        ato_ns = min(ato_ns, most)
    ato_ns = min(ato_ns, tcp_delack_max_ns(tp))
    timeout_ns = jiffies_up(now_ns, max(ato_ns, <int64_t>1))
    if tp.ack_pending & ICSK_ACK_TIMER:
        if tp.delack_timer.expires_ns <= jiffies_up(now_ns, ato_ns >> 2):
            tcp_send_ack(net, tp)
            return
        timeout_ns = min(timeout_ns, tp.delack_timer.expires_ns)
    tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
    if tp.compressed_ack:  # they wait for it, too
        timeout_ns = min(timeout_ns, tp.delack_timer.expires_ns)
    sk_reset_timer(net, &tp.delack_timer.timer, timeout_ns)


cdef inline void tcp_send_challenge_ack(netns *net, tcp_sock *tp) noexcept nogil:
    """Ask whoever it was to show that he is the peer (RFC 5961); per connection, not often."""
    if not tcp_oow_rate_limited(net, &tp.last_oow_ack_ms, TCP_ACKSKIPPEDCHALLENGE):
        NET_INC_STATS(net, TCP_CHALLENGEACK)
        tcp_send_ack(net, tp)


cdef inline bint tcp_oow_rate_limited(
    netns *net, uint32_t *last_oow_ack_ms, int mib
) noexcept nogil:
    """True, and counted, if an answer to what is not acceptable was given a moment ago."""
    cdef uint32_t now_ms = <uint32_t>tcp_clock_ms(net)
    if not now_ms:
        now_ms = 1
    if (
        last_oow_ack_ms[0]
        and <uint32_t>(now_ms - last_oow_ack_ms[0]) < net.sysctl.tcp_invalid_ratelimit
    ):
        NET_INC_STATS(net, mib)
        return True
    last_oow_ack_ms[0] = now_ms
    return False


# Opening and closing.


cdef inline void tcp_connect_init(netns *net, tcp_sock *tp) noexcept nogil:
    """What an active open begins with."""
    cdef int64_t advmss, most
    if net.route.rto_min:
        tp.rto_min_us = <uint32_t>(net.route.rto_min * 1000)
    tp.tcp_header_len = TCP_HDR_LEN
    if net.sysctl.tcp_timestamps:
        tp.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED
    if tp.user_mss:
        tp.mss_clamp = tp.user_mss
    tp.tcb.max_window = 0
    tcp_sync_mss(net, tp, dst_mtu(net, tp.sk.daddr))
    tp.advmss = tp.user_mss if tp.user_mss else 65535
    advmss = tcp_advertise_mss(net, tp)
    most = tp.window_clamp
    if tp.userlocks & SOCK_RCVBUF_LOCK and (most > tcp_full_space(tp) or not most):
        most = tcp_full_space(tp)
    tcp_select_initial_window(
        net,
        tcp_full_space(tp),
        advmss,
        net.sysctl.tcp_window_scaling != 0,
        most,
        &tp.rcv_wnd,
        &tp.window_clamp,
        &tp.tcb.rcv_wscale,
    )
    tp.rcv_ssthresh = tp.rcv_wnd
    tp.sk_err = 0
    tp.tcb.snd_wnd = 0
    tp.tcb.snd_wl1 = 0
    tp.tcb.snd_una = tp.tcb.snd_nxt = tp.snd_sml = tp.snd_up = tp.write_seq
    tp.tcb.rcv_nxt = 0
    tp.rcv_wup = 0
    tp.copied_seq = 0
    tp.rcv_mss = TCP_MIN_MSS  # until a window is known
    tp.rto_ns = net_timeout_init(tp)
    tp.retransmits = 0


cdef inline int64_t net_timeout_init(const tcp_sock *tp) noexcept nogil:
    return max(TCP_TIMEOUT_INIT_NS, tcp_rto_min_ns(tp))


cdef inline int64_t tcp_clock_ms(const netns *net) noexcept nogil:
    """The clock in ms, for stamps of which 0 is none."""
    cdef int64_t ms = net.net.now_ns // NSEC_PER_MSEC
    return ms if ms else 1


cdef inline int tcp_connect(netns *net, tcp_sock *tp) noexcept nogil:
    """Send the SYN of an active open (RFC 9293 3.10.1)."""
    cdef skb *one
    cdef int err
    tcp_connect_init(net, tp)
    one = alloc_skb(&net.skbs, 0)
    if one == NULL:
        return -ENOMEM
    one.seq = tp.write_seq
    tp.write_seq += 1
    one.end_seq = tp.write_seq
    one.tcp_flags = TCPHDR_SYN | tcp_ecn_send_syn(tp, net.sysctl.tcp_ecn, net.route.ecn)
    one.pcount = 1
    one.truesize = SKB_TRUESIZE_EMPTY
    tp.pushed_seq = tp.write_seq
    tp.retrans_stamp = tcp_clock_ms(net)
    rb_insert(&tp.tcp_rtx_queue, NULL, one)
    tp.sk_wmem_queued += one.truesize
    tp.packets_out += 1
    err = tcp_transmit_skb(net, tp, one, 0, 0)
    if err < 0 and err != -ENOBUFS:
        return err
    NET_INC_STATS(net, TCP_ACTIVEOPENS)
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, tp.rto_ns)
    return 0


cdef inline int tcp_send_synack(netns *net, tcp_sock *tp) noexcept nogil:
    """In a simultaneous open the SYN is sent again as a SYN-ACK (RFC 9293 3.5)."""
    cdef skb *one = tp.tcp_rtx_queue.first
    one.tcp_flags = tcp_ecn_send_synack(tp, one.tcp_flags) | <uint8_t>TCPHDR_ACK
    return tcp_transmit_skb(net, tp, one, tp.tcb.rcv_nxt, 0)


cdef inline void tcp_send_fin(netns *net, tcp_sock *tp) noexcept nogil:
    """End the stream: on the last piece if that still waits, else on a segment of its own."""
    cdef int64_t mss = tcp_current_mss(net, tp)
    cdef skb *tail = tp.sk_write_queue.last
    if tail != NULL:
        tail.tcp_flags |= TCPHDR_FIN
        tail.end_seq += 1
    else:
        tail = alloc_skb(&net.skbs, 0)
        if tail == NULL:  # and nothing would ever send it
            tcp_send_active_reset(net, tp)
            tcp_done_with_error(net, tp, ENOBUFS)
            return
        tail.seq = tp.write_seq
        tail.end_seq = tp.write_seq + 1
        tail.tcp_flags = TCPHDR_ACK | TCPHDR_FIN
        tail.pcount = 1
        tail.truesize = SKB_TRUESIZE_EMPTY
        tp.sk_wmem_queued += tail.truesize
        skb_queue_tail(&tp.sk_write_queue, tail)
        tcp_chrono_start(tp, TCP_CHRONO_BUSY, net.net.now_ns)
    tp.write_seq += 1
    tcp_push_pending_frames(net, tp, mss, TCP_NAGLE_OFF)


cdef inline void tcp_send_active_reset(netns *net, tcp_sock *tp) noexcept nogil:
    """Tell the peer that this end gives up (RFC 9293 3.10.5)."""
    cdef skb one
    NET_INC_STATS(net, TCP_OUTRSTS)
    skb_control(&one, tcp_acceptable_seq(tp), TCPHDR_ACK | TCPHDR_RST)
    one.pcount = 1
    tcp_transmit_skb(net, tp, &one, tp.tcb.rcv_nxt, 0)
