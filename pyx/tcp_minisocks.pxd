# Requests and what becomes of them; segments for what is in TIME-WAIT.
# Linux: net/ipv4/tcp_minisocks.c, tcp_input.c (tcp_conn_request).  RFC 9293 3.10.7.2, 3.10.7.4.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from errqueue cimport sk_errors_inherit
from inet_connection_sock cimport (
    inet_csk_destroy_sock,
    inet_csk_reqsk_queue_add,
    inet_csk_reqsk_queue_is_full,
    sk_acceptq_is_full,
    sk_alloc,
)
from inet_ports cimport inet_ehash_insert, inet_inherit_port, inet_unhash
from inet_timewait_sock cimport inet_twsk_kill, inet_twsk_schedule
from ip_output cimport ip_queue_xmit, options, segment_out, tcp_options_write
from netns cimport (
    NET_INC_STATS,
    netns,
    sk_bury,
    sk_prot_alloc,
    sk_reset_timer,
    sk_stop_timer,
    tcp_md5_key_copy,
)
from secure_seq cimport secure_tcp_seq, secure_tcp_ts_off
from snmp cimport *
from sock cimport *
from syncookies cimport cookie_init_timestamp, cookie_v4_init_sequence, tcp_synq_overflow
from tcb cimport tsval_before
from tcp cimport *
from tcp_cong cimport tcp_init_congestion_control
from tcp_ecn cimport TCPHDR_ECE, tcp_ecn_create_request, tcp_ecn_openreq_child
from tcp_md5 cimport MD5_AT, tcp_md5_do_lookup
from tcp_output cimport tcp_oow_rate_limited
from tcp_rtt cimport tcp_rtt_estimator, tcp_rtt_tsopt_us, tcp_set_rto
from tcp_window cimport dst_metric_advmss, tcp_full_space, tcp_select_initial_window
from timer cimport NSEC_PER_MSEC, NSEC_PER_SEC, jiffies_up

cdef enum:
    TW_SUCCESS = 0
    TW_RST = 1
    TW_ACK = 2
    TW_SYN = 3

cdef enum:
    REQ_DROP = 0
    REQ_CHILD = 1
    REQ_ACK = 2
    REQ_RST = 3


# Requests.


cdef inline void reqsk_addr(
    const netns *net, request_sock *req, const rcv_skb *r
) noexcept nogil:
    """Whose a request is, and what only this host knows of the two."""
    cdef uint64_t secret = secure_tcp_ts_off(net.key, r.daddr, r.saddr, r.dport, r.sport)
    req.ts_off = <uint32_t>secret
    req.cookie_base = secret >> 32
    req.sk.ip = r.th.ip
    memcpy(req.sk.saddr, r.daddr, 16)
    memcpy(req.sk.daddr, r.saddr, 16)
    req.sk.sport = r.dport
    req.sk.dport = r.sport


cdef inline void tcp_openreq_init(netns *net, request_sock *req, const rcv_skb *r) noexcept nogil:
    """What a SYN offers, as far as this stack takes it."""
    cdef const sysctls *sysctl = &net.sysctl
    cdef const segment *th = &r.th
    cdef int32_t user_mss = req.listener.user_mss, mss = 536 if th.ip == 4 else 1220
    reqsk_addr(net, req, r)
    req.rcv_isn = th.seq
    if th.opts & OPT_MSS and th.mss:
        mss = min(<int32_t>th.mss, user_mss) if user_mss else th.mss
    req.mss = <uint16_t>mss
    req.wscale_ok = th.opts & OPT_WSCALE != 0 and sysctl.tcp_window_scaling != 0
    req.snd_wscale = min(th.wscale, <uint8_t>TCP_MAX_WSCALE) if req.wscale_ok else 0
    req.sack_ok = th.opts & OPT_SACK_PERM != 0 and sysctl.tcp_sack != 0
    req.tstamp_ok = th.opts & OPT_TIMESTAMP != 0 and sysctl.tcp_timestamps != 0
    req.ts_recent = th.tsval if req.tstamp_ok else 0
    req.sk.tos = req.listener.sk.tos
    tcp_ecn_create_request(req, th.flags, net.ip_dsfield, sysctl.tcp_ecn, net.route.ecn)


cdef inline const tcp_md5sig_key *reqsk_md5_lookup(
    const netns *net, const request_sock *req
) noexcept nogil:
    """The listener's key for who has asked, or NULL."""
    cdef uint32_t number = req.listener.sk.md5sig_info
    return tcp_md5_do_lookup(&net.md5sigs[number], req.sk.daddr) if number else NULL


cdef inline int64_t reqsk_advmss(netns *net, const request_sock *req) noexcept nogil:
    """What the SYN-ACK offers: what fits the link, or less where the caller asks for it."""
    cdef int64_t mss = dst_metric_advmss(net, req.sk.daddr)
    cdef int64_t user_mss = req.listener.user_mss
    return min(mss, user_mss) if user_mss else mss


cdef inline void tcp_openreq_init_rwin(netns *net, request_sock *req, int64_t mss) noexcept nogil:
    """The window that the SYN-ACK offers; of a cookie's connection in whole segments of its MSS."""
    cdef const tcp_sock *listener = req.listener
    cdef int64_t full = tcp_full_space(listener), most = listener.window_clamp
    cdef int32_t rcv_wnd, clamp
    if listener.userlocks & SOCK_RCVBUF_LOCK:  # no more than the caller wants to hold
        most = min(most, full) if most else full
    tcp_select_initial_window(
        net,
        full,
        mss - (12 if req.tstamp_ok else 0),
        req.wscale_ok,
        most,
        &rcv_wnd,
        &clamp,
        &req.rcv_wscale,
    )
    req.rsk_rcv_wnd = <uint32_t>rcv_wnd
    req.rsk_window_clamp = <uint32_t>clamp


cdef inline void tcp_conn_request(
    netns *net, tcp_sock *listener, const rcv_skb *r, uint32_t tw_isn
) noexcept nogil:
    """A SYN for a listener: keep a request and answer, or answer with a cookie and keep nothing."""
    cdef const sysctls *sysctl = &net.sysctl
    cdef request_sock passing
    cdef request_sock *req = &passing
    cdef int64_t backlog, mss
    cdef bint want_cookie = False
    if sysctl.tcp_syncookies == 2 or (inet_csk_reqsk_queue_is_full(listener) and not tw_isn):
        if not sysctl.tcp_syncookies:
            NET_INC_STATS(net, TCP_REQQFULLDROP)
            return
        NET_INC_STATS(net, TCP_REQQFULLDOCOOKIES)
        want_cookie = True
    if sk_acceptq_is_full(listener):
        NET_INC_STATS(net, TCP_LISTENOVERFLOWS)
        NET_INC_STATS(net, TCP_LISTENDROPS)
        return
    if want_cookie:
        req.listener = listener
        req.num_retrans, req.snt_synack_ns = 0, 0
        tcp_openreq_init(net, req, r)
        if not req.tstamp_ok:  # no room for them
            req.wscale_ok = req.sack_ok = req.snd_wscale = req.ecn_ok = 0
        mss = reqsk_advmss(net, req)
        tcp_openreq_init_rwin(net, req, mss)
        req.snt_isn = cookie_v4_init_sequence(net, req)
        tcp_synq_overflow(net, listener)
        NET_INC_STATS(net, TCP_SYNCOOKIESSENT)
        tcp_v4_send_synack(net, req, mss, True)
        return
    if not sysctl.tcp_syncookies:
        backlog = min(sysctl.tcp_max_syn_backlog, listener.max_ack_backlog)
        if backlog - listener.n_reqs < backlog >> 2:
            NET_INC_STATS(net, TCP_LISTENDROPS)
            return
    req = <request_sock *>sk_prot_alloc(net, SK_REQUEST)
    if req == NULL:
        NET_INC_STATS(net, TCP_LISTENDROPS)
        return
    req.listener = listener
    tcp_openreq_init(net, req, r)
    mss = reqsk_advmss(net, req)
    tcp_openreq_init_rwin(net, req, mss)
    req.snt_isn = tw_isn
    if not tw_isn:
        req.snt_isn = secure_tcp_seq(
            net.key, req.sk.saddr, req.sk.daddr, req.sk.sport, req.sk.dport, net.net.now_ns
        )
    inet_ehash_insert(net, &req.sk)
    listener.n_reqs += 1
    sk_reset_timer(net, &req.sk.sk_timer, jiffies_up(net.net.now_ns, TCP_TIMEOUT_INIT_NS))
    tcp_v4_send_synack(net, req, mss, False)


cdef inline int tcp_v4_send_synack(
    netns *net, request_sock *req, int64_t mss, bint cookie
) noexcept nogil:
    """Send a request's SYN-ACK, which offers `mss` (tcp_make_synack)."""
    cdef segment_out out
    cdef options opts
    cdef int64_t now_ms = net.net.now_ns // NSEC_PER_MSEC
    opts.md5 = reqsk_md5_lookup(net, req)
    if opts.md5 != NULL and req.sack_ok and not cookie:
        req.tstamp_ok = 0  # no block would fit beside both
    opts.mss = <uint16_t>mss
    opts.has_tstamp = req.tstamp_ok
    if req.tstamp_ok:
        if cookie:
            now_ms = cookie_init_timestamp(req, now_ms)
        opts.tsval = <uint32_t>now_ms + req.ts_off
        opts.tsecr = req.ts_recent
        req.snt_tsval_last = opts.tsval
    opts.has_wscale = req.wscale_ok
    opts.wscale = req.rcv_wscale
    opts.sack_perm = req.sack_ok
    opts.n_sacks = 0
    if not req.snt_synack_ns:
        req.snt_synack_ns = max(net.net.now_ns, <int64_t>1)
    out.options_len = <uint8_t>tcp_options_write(out.options, &opts)
    out.md5 = opts.md5
    out.md5_at = MD5_AT
    out.saddr = req.sk.saddr
    out.daddr = req.sk.daddr
    out.sport = req.sk.sport
    out.dport = req.sk.dport
    out.seq = req.snt_isn
    out.ack = req.rcv_isn + 1
    out.flags = TCPHDR_SYN | TCPHDR_ACK
    if req.ecn_ok:
        out.flags |= TCPHDR_ECE
    out.window = <uint16_t>min(req.rsk_rcv_wnd, <uint32_t>65535)
    out.urg = out.ident = 0
    out.tos = req.sk.tos
    out.ttl = <uint8_t>net.sysctl.ip_default_ttl
    out.df = 1
    NET_INC_STATS(net, TCP_OUTSEGS)
    return ip_queue_xmit(net, &out, NULL, NULL, 0, 0)


cdef inline void reqsk_drop(netns *net, request_sock *req) noexcept nogil:
    """Forget a request."""
    sk_stop_timer(&req.sk.sk_timer)
    inet_unhash(net, &req.sk)
    req.listener.n_reqs -= 1
    sk_bury(net, &req.sk)


cdef inline void reqsk_timer_handler(netns *net, request_sock *req) noexcept nogil:
    """The SYN-ACK again, each time after twice the time, `tcp_synack_retries` times."""
    cdef tcp_sock *listener = req.listener
    cdef int64_t most, young, waits, delay_ns, qlen = listener.n_reqs
    cdef bint resend
    if listener.tcb.state != TCP_LISTEN:
        reqsk_drop(net, req)
        return
    most = listener.syn_retries if listener.syn_retries else net.sysctl.tcp_synack_retries
    if qlen << 1 > max(<int64_t>8, listener.max_ack_backlog):  # the old give way in a crowd
        young = qlen << 1
        while most > 2 and qlen >= young:
            most -= 1
            young <<= 1
    NET_INC_STATS(net, TCP_TIMEOUTS)
    waits = listener.defer_accept
    resend = not req.acked or req.num_timeout >= waits - 1
    if req.num_timeout >= most and (not req.acked or req.num_timeout >= max(most, waits)):
        reqsk_drop(net, req)
        return
    if resend:
        req.num_retrans += 1
        NET_INC_STATS(net, TCP_RETRANSSEGS)
        NET_INC_STATS(net, TCP_SYNRETRANS)
        tcp_v4_send_synack(net, req, reqsk_advmss(net, req), False)
    req.num_timeout += 1
    delay_ns = reqsk_timeout_ns(net, req)
    sk_reset_timer(net, &req.sk.sk_timer, jiffies_up(net.net.now_ns, delay_ns))


cdef inline int64_t reqsk_timeout_ns(const netns *net, const request_sock *req) noexcept nogil:
    cdef int64_t delay_ns = TCP_TIMEOUT_INIT_NS << min(<int>req.num_timeout, 30)
    return min(delay_ns, net.sysctl.tcp_rto_max_ms * NSEC_PER_MSEC)


cdef inline bint tcp_oow_limited(
    netns *net, uint32_t *last_ms, const segment *th, int mib
) noexcept nogil:
    """Only what is empty, and SYNs, can go round in a loop: of the rest each is answered."""
    if th.seq != th.end_seq and not th.flags & TCPHDR_SYN:
        return False
    return tcp_oow_rate_limited(net, last_ms, mib)


cdef inline bint tcp_tsecr_reject(const request_sock *req, const segment *th) noexcept nogil:
    """Whether a stamp is echoed that no SYN-ACK had; 0 is none (RFC 7323 3.2)."""
    cdef uint32_t first
    if not (th.opts & OPT_TIMESTAMP and req.tstamp_ok and th.tsecr):
        return False
    first = <uint32_t>(req.snt_synack_ns // NSEC_PER_MSEC) + req.ts_off
    return th.tsecr - first > req.snt_tsval_last - first


cdef inline bint tcp_in_window(const segment *th, uint32_t start, uint32_t end) noexcept nogil:
    """True if a segment is in a window, on whose right edge only an empty one may stand."""
    if th.seq == start or (after(th.end_seq, start) and before(th.seq, end)):
        return True
    return th.seq == end and th.end_seq == end


cdef inline int tcp_check_req(
    netns *net, request_sock *req, const rcv_skb *r, tcp_sock **child
) noexcept nogil:
    """A segment for a request (RFC 9293 3.10.7.4, SYN-RECEIVED): REQ_, with REQ_CHILD a child."""
    cdef const segment *th = &r.th
    cdef tcp_sock *listener = req.listener
    cdef bint stamped = th.opts & OPT_TIMESTAMP != 0 and req.tstamp_ok
    cdef bint paws = stamped and tsval_before(th.tsval, req.ts_recent)
    cdef bint astray, limited
    cdef uint16_t flags = th.flags
    cdef uint32_t rcv_nxt = req.rcv_isn + 1, window
    cdef int64_t delay_ns
    if (
        th.seq == req.rcv_isn
        and (flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST)) == TCPHDR_SYN
    ):
        if not paws and not tcp_oow_rate_limited(
            net, &req.last_oow_ack_ms, TCP_ACKSKIPPEDSYNRECV
        ):
            NET_INC_STATS(net, TCP_RETRANSSEGS)
            NET_INC_STATS(net, TCP_SYNRETRANS)
            tcp_v4_send_synack(net, req, reqsk_advmss(net, req), False)
            req.num_retrans += 1
            delay_ns = reqsk_timeout_ns(net, req)
            sk_reset_timer(net, &req.sk.sk_timer, jiffies_up(net.net.now_ns, delay_ns))
        return REQ_DROP
    if flags & TCPHDR_ACK and th.ack != req.snt_isn + 1:
        return REQ_RST
    window = rcv_nxt + min(req.rsk_rcv_wnd, <uint32_t>65535)  # what the SYN-ACK told
    astray = tcp_tsecr_reject(req, th)
    if paws or astray or not tcp_in_window(th, rcv_nxt, window):
        if paws or astray:
            NET_INC_STATS(net, TCP_PAWSESTABREJECTED if paws else TCP_TSECRREJECTED)
        if flags & TCPHDR_RST or tcp_oow_limited(
            net, &req.last_oow_ack_ms, th, TCP_ACKSKIPPEDSYNRECV
        ):
            return REQ_DROP
        return REQ_ACK
    if stamped and not after(th.seq, rcv_nxt):
        req.ts_recent = th.tsval
    if flags & TCPHDR_RST or flags & TCPHDR_SYN:
        if flags & TCPHDR_RST and th.seq != rcv_nxt:  # RFC 5961 3.2
            limited = tcp_oow_limited(net, &req.last_oow_ack_ms, th, TCP_ACKSKIPPEDSYNRECV)
            if not limited:
                NET_INC_STATS(net, TCP_CHALLENGEACK)
            return REQ_DROP if limited else REQ_ACK
        # Deviation: as in Linux a SYN in the window ends the request; RFC 5961 4.2 asks back.
        NET_INC_STATS(net, TCP_ATTEMPTFAILS)
        NET_INC_STATS(net, TCP_EMBRYONICRSTS)
        reqsk_drop(net, req)
        return REQ_DROP if flags & TCPHDR_RST else REQ_RST
    if not flags & TCPHDR_ACK:
        return REQ_DROP
    if req.num_timeout < listener.defer_accept and th.end_seq == rcv_nxt:
        req.acked = 1
        NET_INC_STATS(net, TCP_DEFERACCEPTDROP)
        return REQ_DROP
    if sk_acceptq_is_full(listener):
        NET_INC_STATS(net, TCP_LISTENOVERFLOWS)
        NET_INC_STATS(net, TCP_LISTENDROPS)
        if net.sysctl.tcp_abort_on_overflow:
            NET_INC_STATS(net, TCP_EMBRYONICRSTS)
            reqsk_drop(net, req)
            return REQ_RST
        req.acked = 1
        return REQ_DROP
    child[0] = tcp_v4_syn_recv_sock(net, req)
    if child[0] == NULL:
        NET_INC_STATS(net, TCP_LISTENDROPS)
        return REQ_DROP
    tcp_synack_rtt_meas(net, child[0], req, th)
    reqsk_drop(net, req)
    inet_ehash_insert(net, &child[0].sk)
    inet_csk_reqsk_queue_add(net, listener, child[0])
    return REQ_CHILD


cdef inline void tcp_synack_rtt_meas(
    const netns *net, tcp_sock *tp, const request_sock *req, const segment *th
) noexcept nogil:
    """The handshake is the first round trip; of a SYN-ACK that went twice, or was a cookie, only
    an echoed time stamp tells it (Karn's rule)."""
    cdef int64_t rtt_us = -1
    if req.snt_synack_ns and not req.num_retrans:
        rtt_us = max((net.net.now_ns - req.snt_synack_ns) // 1000, <int64_t>1)
    elif req.tstamp_ok and th.opts & OPT_TIMESTAMP and th.tsecr:
        rtt_us = tcp_rtt_tsopt_us(net.net.now_ns, th.tsecr, req.ts_off)
    if rtt_us > 0:
        tp.rtt_min_us = <uint32_t>min(<int64_t>tp.rtt_min_us, rtt_us)
        tcp_rtt_estimator(tp, rtt_us)
        tcp_set_rto(tp)


cdef inline void tcp_inherit(tcp_sock *tp, const tcp_sock *listener) noexcept nogil:
    """What a child has of its listener."""
    tp.userlocks = listener.userlocks
    tp.reuse = listener.reuse
    tp.reuseport = listener.reuseport
    tp.nonagle = listener.nonagle
    tp.keepopen = listener.keepopen
    tp.oobinline = listener.oobinline
    tp.ipv6only = listener.ipv6only
    tp.linger = listener.linger
    tp.linger_s = listener.linger_s
    tp.sk_rcvbuf = listener.sk_rcvbuf
    tp.sk_sndbuf = listener.sk_sndbuf
    tp.sk_rcvlowat = listener.sk_rcvlowat
    tp.sk.tos = listener.sk.tos
    tp.ttl = listener.ttl
    tp.recverr = listener.recverr
    tp.user_mss = listener.user_mss
    tp.user_timeout_ms = listener.user_timeout_ms
    tp.syn_retries = listener.syn_retries
    tp.keepalive_time_s = listener.keepalive_time_s
    tp.keepalive_intvl_s = listener.keepalive_intvl_s
    tp.keepalive_probes = listener.keepalive_probes
    tp.linger2_s = listener.linger2_s
    tp.notsent_lowat = listener.notsent_lowat
    tp.pmtudisc = listener.pmtudisc
    tp.rto_min_us = listener.rto_min_us
    tp.rto_max_ms = listener.rto_max_ms
    tp.delack_max_ticks = listener.delack_max_ticks


cdef inline tcp_sock *tcp_v4_syn_recv_sock(netns *net, const request_sock *req) noexcept nogil:
    """Make the socket of a request (tcp_create_openreq_child), in SYN-RECEIVED; NULL: no memory."""
    cdef tcp_sock *listener = req.listener
    cdef tcp_sock *tp = sk_alloc(net)
    cdef tcb *known
    if tp == NULL:
        return NULL
    memcpy(tp.sk.daddr, req.sk.daddr, 16)
    if tcp_md5_key_copy(net, &tp.sk, reqsk_md5_lookup(net, req)):
        inet_csk_destroy_sock(net, tp)
        return NULL
    known = &tp.tcb
    tcp_inherit(tp, listener)
    if net.route.rto_min:
        tp.rto_min_us = <uint32_t>(net.route.rto_min * 1000)
    sk_errors_inherit(tp, listener)
    tp.sk.ip = req.sk.ip
    memcpy(tp.sk.saddr, req.sk.saddr, 16)
    tp.sk.sport = req.sk.sport
    tp.sk.dport = req.sk.dport
    tp.has_saddr = tp.has_daddr = 1
    inet_inherit_port(net, &tp.sk)
    tcp_init_congestion_control(tp, listener.ca, net.net.now_ns)
    known.state = TCP_SYN_RECV
    known.flags = TCB_SND | TCB_RCV | TCB_WINDOW | TCB_PEER_WINDOW
    known.rcv_nxt = tp.rcv_wup = tp.copied_seq = req.rcv_isn + 1
    known.snd_una = req.snt_isn
    known.snd_nxt = tp.snd_sml = tp.snd_up = tp.write_seq = req.snt_isn + 1
    tp.pushed_seq = tp.write_seq
    known.snd_wl1 = req.rcv_isn
    known.rcv_mwnd_seq = req.rcv_isn + 1 + req.rsk_rcv_wnd
    tp.window_clamp = <int32_t>req.rsk_window_clamp
    tp.rcv_wnd = tp.rcv_ssthresh = <int32_t>req.rsk_rcv_wnd
    tp.wscale_ok = req.wscale_ok
    if req.wscale_ok:
        known.snd_wscale = req.snd_wscale
        known.rcv_wscale = req.rcv_wscale
        known.flags |= TCB_WSCALE_SENT | TCB_WSCALE_RCVD
    else:
        tp.window_clamp = min(tp.window_clamp, <int32_t>65535)
    tcp_ecn_openreq_child(tp, req)
    tp.sack_ok = req.sack_ok
    tp.tstamp_ok = req.tstamp_ok
    tp.tsoffset = req.ts_off
    if req.tstamp_ok:
        known.ts_recent = req.ts_recent
        known.flags |= TCB_TSTAMP
        tp.ts_recent_stamp_ns = net.net.now_ns
        tp.tcp_header_len += 12
    tp.mss_clamp = req.mss
    tp.advmss = <int32_t>reqsk_advmss(net, req)
    tp.total_retrans = req.num_retrans
    if req.num_timeout:
        tp.undo_marker = req.snt_isn
        tp.retrans_stamp = req.snt_synack_ns // NSEC_PER_MSEC
        tp.total_rto = req.num_timeout
        tp.total_rto_recoveries = 1
        tp.total_rto_time = <uint32_t>((net.net.now_ns - req.snt_synack_ns) // NSEC_PER_MSEC)
    tp.segs_in = 1  # its SYN
    tp.rcv_tstamp_ns = tp.ack_lrcvtime_ns = net.net.now_ns
    if not req.num_retrans:
        tp.lsndtime_ns = req.snt_synack_ns
    NET_INC_STATS(net, TCP_PASSIVEOPENS)
    return tp


# TIME-WAIT.


cdef inline int tcp_timewait_state_process(
    netns *net, timewait_sock *tw, const rcv_skb *r, uint32_t *isn
) noexcept nogil:
    """A segment for what is left of a connection: TW_, with TW_SYN the number for a new one."""
    cdef const segment *th = &r.th
    cdef uint16_t flags = th.flags
    cdef bint stamped = th.opts & OPT_TIMESTAMP != 0 and tw.tstamp_ok
    cdef bint paws = stamped and tsval_before(th.tsval, tw.ts_recent) and not flags & TCPHDR_RST
    if tw.substate != TCP_TIME_WAIT:
        return tw_fin_wait2(net, tw, th, paws)
    if not paws and th.seq == tw.rcv_nxt and (th.seq == th.end_seq or flags & TCPHDR_RST):
        if flags & TCPHDR_RST:
            if not net.sysctl.tcp_rfc1337:
                inet_twsk_kill(net, tw)
            return TW_SUCCESS
        if stamped:
            tw.ts_recent = th.tsval
            tw.ts_recent_stamp = <uint32_t>(net.net.now_ns // NSEC_PER_SEC)
        inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
        return TW_SUCCESS
    if (
        (flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK)) == TCPHDR_SYN
        and not paws
        and (after(th.seq, tw.rcv_nxt) or (stamped and before(tw.ts_recent, th.tsval)))
    ):
        isn[0] = tw.snd_nxt + 65535 + 2
        if isn[0] == 0:
            isn[0] = 1
        return TW_SYN
    if paws:
        NET_INC_STATS(net, TCP_PAWSTIMEWAIT)
    if not flags & TCPHDR_RST:
        if paws or flags & TCPHDR_ACK:
            inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
        limited = tcp_oow_limited(net, &tw.last_oow_ack_ms, th, TCP_ACKSKIPPEDTIMEWAIT)
        return TW_SUCCESS if limited else TW_ACK
    return TW_SUCCESS


cdef inline int tw_fin_wait2(
    netns *net, timewait_sock *tw, const segment *th, bint paws
) noexcept nogil:
    """In FIN-WAIT-2 without a socket only the peer's FIN is waited for."""
    cdef uint32_t end = tw.rcv_nxt + tw.rcv_wnd
    cdef bint limited
    if paws or not tcp_in_window(th, tw.rcv_nxt, end):
        limited = tcp_oow_limited(net, &tw.last_oow_ack_ms, th, TCP_ACKSKIPPEDFINWAIT2)
        return TW_SUCCESS if limited else TW_ACK
    if th.flags & TCPHDR_RST:
        inet_twsk_kill(net, tw)
        return TW_SUCCESS
    if th.flags & TCPHDR_SYN and not before(th.seq, tw.rcv_nxt):
        return TW_RST
    if not th.flags & TCPHDR_ACK or not after(th.end_seq, tw.rcv_nxt) or th.seq == th.end_seq:
        return TW_SUCCESS
    if not th.flags & TCPHDR_FIN or th.end_seq != tw.rcv_nxt + 1:
        return TW_RST
    tw.substate = TCP_TIME_WAIT
    tw.rcv_nxt = th.end_seq
    if th.opts & OPT_TIMESTAMP and tw.tstamp_ok:
        tw.ts_recent = th.tsval
        tw.ts_recent_stamp = <uint32_t>(net.net.now_ns // NSEC_PER_SEC)
    inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
    return TW_ACK
