"""Requests and what becomes of them; segments for what is in TIME-WAIT.

Linux: net/ipv4/tcp_minisocks.c, tcp_input.c (tcp_conn_request).  RFC 9293 3.10.7.2, 3.10.7.4.
"""

from __future__ import annotations

from .errqueue import sk_errors_inherit
from .inet_connection_sock import (
    inet_csk_reqsk_queue_add,
    inet_csk_reqsk_queue_is_full,
    sk_acceptq_is_full,
    sk_alloc,
)
from .inet_ports import inet_ehash_insert, inet_inherit_port, inet_unhash
from .inet_timewait_sock import inet_twsk_kill, inet_twsk_schedule
from .ip_output import Options, ip_queue_xmit, tcp_options_write
from .netns import Netns, sk_reset_timer, sk_stop_timer, tcp_md5_key_copy
from .secure_seq import secure_tcp_seq, secure_tcp_ts_off
from .snmp import Mib
from .sock import (
    SOCK_RCVBUF_LOCK,
    TCP_TIMEOUT_INIT_NS,
    TCP_TIMEWAIT_LEN_NS,
    RequestSock,
    TcpSock,
    TimewaitSock,
)
from .syncookies import cookie_init_timestamp, cookie_v4_init_sequence, tcp_synq_overflow
from .tcb import (
    TCB_PEER_WINDOW,
    TCB_RCV,
    TCB_SND,
    TCB_TSTAMP,
    TCB_WINDOW,
    TCB_WSCALE_RCVD,
    TCB_WSCALE_SENT,
    tsval_before,
)
from .tcp import (
    MASK32,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Opt,
    Segment,
    after,
    before,
)
from .tcp_cong import tcp_init_congestion_control
from .tcp_ecn import TCPHDR_ECE, tcp_ecn_create_request, tcp_ecn_openreq_child
from .tcp_md5 import Md5SigKey, tcp_md5_do_lookup
from .tcp_output import tcp_oow_rate_limited
from .tcp_rtt import tcp_rtt_estimator, tcp_rtt_tsopt_us, tcp_set_rto
from .tcp_window import dst_metric_advmss, tcp_full_space, tcp_select_initial_window
from .timer import NSEC_PER_MSEC, NSEC_PER_SEC, jiffies_up

OPT_TIMESTAMP, OPT_SACK_PERM = int(Opt.OPT_TIMESTAMP), int(Opt.OPT_SACK_PERM)
OPT_WSCALE, OPT_MSS = int(Opt.OPT_WSCALE), int(Opt.OPT_MSS)
TW_SUCCESS, TW_RST, TW_ACK, TW_SYN = 0, 1, 2, 3


# Requests.


def reqsk_addr(net: Netns, req: RequestSock, th: Segment) -> None:
    """Whose a request is, and what only this host knows of the two."""
    secret = secure_tcp_ts_off(net.key, th.daddr, th.saddr, th.dport, th.sport)
    req.ts_off, req.cookie_base = secret & MASK32, secret >> 32
    req.ip = th.ip
    req.saddr, req.daddr, req.sport, req.dport = th.daddr, th.saddr, th.dport, th.sport


def tcp_openreq_init(net: Netns, req: RequestSock, th: Segment) -> None:
    """What a SYN offers, as far as this stack takes it."""
    sysctl = net.sysctl
    reqsk_addr(net, req, th)
    req.rcv_isn = th.seq
    req.rcv_nxt = (th.seq + 1) & MASK32
    req.mss = 536 if th.ip == 4 else 1220
    if th.opts & OPT_MSS and th.mss:
        user_mss = req.listener.user_mss
        req.mss = min(th.mss, user_mss) if user_mss else th.mss
    req.wscale_ok = bool(th.opts & OPT_WSCALE and sysctl.tcp_window_scaling)
    req.snd_wscale = min(th.wscale, TCP_MAX_WSCALE) if req.wscale_ok else 0
    req.sack_ok = bool(th.opts & OPT_SACK_PERM and sysctl.tcp_sack)
    req.tstamp_ok = bool(th.opts & OPT_TIMESTAMP and sysctl.tcp_timestamps)
    req.ts_recent = th.tsval if req.tstamp_ok else 0
    req.tos = req.listener.tos
    tcp_ecn_create_request(req, th.flags, net.ip_dsfield, sysctl.tcp_ecn, net.route.ecn)


def reqsk_md5_lookup(req: RequestSock) -> Md5SigKey | None:
    """The listener's key for who has asked."""
    keys = req.listener.md5sig_info
    return tcp_md5_do_lookup(keys, req.daddr) if keys else None


def reqsk_advmss(net: Netns, req: RequestSock) -> int:
    """What the SYN-ACK offers: what fits the link, or less where the caller asks for it."""
    mss = dst_metric_advmss(net, req.daddr)
    user_mss = req.listener.user_mss
    return min(mss, user_mss) if user_mss else mss


def tcp_openreq_init_rwin(net: Netns, req: RequestSock, mss: int) -> None:
    """The window that the SYN-ACK offers; of a cookie's connection in whole segments of its MSS."""
    listener = req.listener
    clamp = listener.window_clamp
    if listener.userlocks & SOCK_RCVBUF_LOCK:  # no more than the caller wants to hold
        clamp = min(clamp or tcp_full_space(listener), tcp_full_space(listener))
    req.rsk_rcv_wnd, req.rsk_window_clamp, req.rcv_wscale = tcp_select_initial_window(
        net,
        tcp_full_space(listener),
        mss - (12 if req.tstamp_ok else 0),
        req.wscale_ok,
        clamp,
    )


def tcp_conn_request(net: Netns, listener: TcpSock, th: Segment, tw_isn: int) -> None:
    """A SYN for a listener: keep a request and answer, or answer with a cookie and keep nothing."""
    sysctl = net.sysctl
    want_cookie = False
    if sysctl.tcp_syncookies == 2 or (inet_csk_reqsk_queue_is_full(listener) and not tw_isn):
        if not sysctl.tcp_syncookies:
            net.mib[Mib.TCP_REQQFULLDROP] += 1
            return
        net.mib[Mib.TCP_REQQFULLDOCOOKIES] += 1
        want_cookie = True
    if sk_acceptq_is_full(listener):
        net.mib[Mib.TCP_LISTENOVERFLOWS] += 1
        net.mib[Mib.TCP_LISTENDROPS] += 1
        return
    req = RequestSock(listener)
    tcp_openreq_init(net, req, th)
    if want_cookie:
        if not req.tstamp_ok:  # no room for them
            req.wscale_ok = req.sack_ok = req.ecn_ok = False
            req.snd_wscale = 0
        mss = reqsk_advmss(net, req)
        tcp_openreq_init_rwin(net, req, mss)
        req.snt_isn = cookie_v4_init_sequence(net, req)
        tcp_synq_overflow(net, listener)
        net.mib[Mib.TCP_SYNCOOKIESSENT] += 1
        tcp_v4_send_synack(net, req, mss, cookie=True)
        return
    if not sysctl.tcp_syncookies:
        backlog = min(sysctl.tcp_max_syn_backlog, listener.max_ack_backlog)
        if backlog - listener.n_reqs < backlog >> 2:
            net.mib[Mib.TCP_LISTENDROPS] += 1
            return
    mss = reqsk_advmss(net, req)
    tcp_openreq_init_rwin(net, req, mss)
    req.snt_isn = tw_isn or secure_tcp_seq(
        net.key, req.saddr, req.daddr, req.sport, req.dport, net.now_ns
    )
    inet_ehash_insert(net, req)
    listener.n_reqs += 1
    delay_ns = TCP_TIMEOUT_INIT_NS
    sk_reset_timer(net, req.timer, jiffies_up(net.now_ns, delay_ns))
    tcp_v4_send_synack(net, req, mss)


def tcp_v4_send_synack(net: Netns, req: RequestSock, mss: int, cookie: bool = False) -> int:
    """Send a request's SYN-ACK, which offers `mss` (tcp_make_synack)."""
    opts = Options()
    opts.mss = mss
    opts.md5 = reqsk_md5_lookup(req)
    if opts.md5 is not None and req.sack_ok and not cookie:
        req.tstamp_ok = False  # no block would fit beside both
    now_ms = net.now_ns // NSEC_PER_MSEC
    if req.tstamp_ok:
        stamp = cookie_init_timestamp(req, now_ms) if cookie else now_ms
        opts.tsval, opts.tsecr = (stamp + req.ts_off) & MASK32, req.ts_recent
        req.snt_tsval_last = opts.tsval
    if req.wscale_ok:
        opts.wscale = req.rcv_wscale
    opts.sack_perm = req.sack_ok
    req.snt_synack_ns = req.snt_synack_ns or max(net.now_ns, 1)
    net.mib[Mib.TCP_OUTSEGS] += 1
    return ip_queue_xmit(
        net, req.saddr, req.daddr, req.sport, req.dport, req.snt_isn, req.rcv_nxt,
        TCPHDR_SYN | TCPHDR_ACK | (TCPHDR_ECE if req.ecn_ok else 0),
        min(req.rsk_rcv_wnd, 65535), 0, tcp_options_write(opts), b"", 0,
        req.tos, net.sysctl.ip_default_ttl, 0, True, opts.md5,
    )  # fmt: skip


def reqsk_drop(net: Netns, req: RequestSock) -> None:
    """Forget a request."""
    sk_stop_timer(req.timer)
    inet_unhash(net, req)
    req.listener.n_reqs -= 1


def reqsk_timer_handler(net: Netns, req: RequestSock) -> None:
    """The SYN-ACK again, each time after twice the time, `tcp_synack_retries` times."""
    listener = req.listener
    if listener.tcb.state != TCP_LISTEN:
        reqsk_drop(net, req)
        return
    most = listener.syn_retries or net.sysctl.tcp_synack_retries
    qlen = listener.n_reqs
    if (qlen << 1) > max(8, listener.max_ack_backlog):  # the old give way when it is crowded
        young = qlen << 1
        while most > 2 and qlen >= young:
            most -= 1
            young <<= 1
    net.mib[Mib.TCP_TIMEOUTS] += 1
    waits = listener.defer_accept
    expire = req.num_timeout >= most and (not req.acked or req.num_timeout >= max(most, waits))
    resend = not req.acked or req.num_timeout >= waits - 1
    if expire:
        reqsk_drop(net, req)
        return
    if resend:
        req.num_retrans += 1
        net.mib[Mib.TCP_RETRANSSEGS] += 1
        net.mib[Mib.TCP_SYNRETRANS] += 1
        tcp_v4_send_synack(net, req, reqsk_advmss(net, req))
    req.num_timeout += 1
    sk_reset_timer(net, req.timer, jiffies_up(net.now_ns, reqsk_timeout_ns(net, req)))


def reqsk_timeout_ns(net: Netns, req: RequestSock) -> int:
    most: int = net.sysctl.tcp_rto_max_ms * NSEC_PER_MSEC
    return min(TCP_TIMEOUT_INIT_NS << req.num_timeout, most)


REQ_DROP, REQ_CHILD, REQ_ACK, REQ_RST = 0, 1, 2, 3


def tcp_oow_limited(net: Netns, owner: RequestSock | TimewaitSock, th: Segment, mib: Mib) -> bool:
    """Only what is empty, and SYNs, can go round in a loop: of the rest each is answered."""
    if th.seq != th.end_seq and not th.flags & TCPHDR_SYN:
        return False
    return tcp_oow_rate_limited(net, owner, mib)


def tcp_tsecr_reject(req: RequestSock, th: Segment) -> bool:
    """Whether a stamp is echoed that no SYN-ACK had; 0 is none (RFC 7323 3.2)."""
    if not (th.opts & OPT_TIMESTAMP and req.tstamp_ok and th.tsecr):
        return False
    first = req.snt_synack_ns // NSEC_PER_MSEC + req.ts_off
    return (th.tsecr - first) & MASK32 > (req.snt_tsval_last - first) & MASK32


def tcp_in_window(th: Segment, start: int, end: int) -> bool:
    """True if a segment is in a window, on whose right edge only an empty one may stand."""
    if th.seq == start or (after(th.end_seq, start) and before(th.seq, end)):
        return True
    return th.seq == th.end_seq == end


def tcp_check_req(net: Netns, req: RequestSock, th: Segment) -> tuple[int, TcpSock | None]:
    """A segment for a request (RFC 9293 3.10.7.4, SYN-RECEIVED): (REQ_, child)."""
    paws = th.opts & OPT_TIMESTAMP and req.tstamp_ok and tsval_before(th.tsval, req.ts_recent)
    flags = th.flags
    if th.seq == req.rcv_isn and flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST) == TCPHDR_SYN:
        if not paws and not tcp_oow_rate_limited(net, req, Mib.TCP_ACKSKIPPEDSYNRECV):
            net.mib[Mib.TCP_RETRANSSEGS] += 1
            net.mib[Mib.TCP_SYNRETRANS] += 1
            tcp_v4_send_synack(net, req, reqsk_advmss(net, req))
            req.num_retrans += 1
            sk_reset_timer(net, req.timer, jiffies_up(net.now_ns, reqsk_timeout_ns(net, req)))
        return REQ_DROP, None
    if flags & TCPHDR_ACK and th.ack != (req.snt_isn + 1) & MASK32:
        return REQ_RST, None
    window = (req.rcv_nxt + min(req.rsk_rcv_wnd, 65535)) & MASK32  # what the SYN-ACK told
    astray = tcp_tsecr_reject(req, th)
    if paws or astray or not tcp_in_window(th, req.rcv_nxt, window):
        if paws or astray:
            net.mib[Mib.TCP_PAWSESTABREJECTED if paws else Mib.TCP_TSECRREJECTED] += 1
        if flags & TCPHDR_RST or tcp_oow_limited(net, req, th, Mib.TCP_ACKSKIPPEDSYNRECV):
            return REQ_DROP, None
        return REQ_ACK, None
    if th.opts & OPT_TIMESTAMP and req.tstamp_ok and not after(th.seq, req.rcv_nxt):
        req.ts_recent = th.tsval
    if flags & TCPHDR_RST or flags & TCPHDR_SYN:
        if flags & TCPHDR_RST and th.seq != req.rcv_nxt:  # RFC 5961 3.2
            limited = tcp_oow_limited(net, req, th, Mib.TCP_ACKSKIPPEDSYNRECV)
            net.mib[Mib.TCP_CHALLENGEACK] += not limited
            return (REQ_DROP if limited else REQ_ACK), None
        # Deviation: as in Linux a SYN in the window ends the request; RFC 5961 4.2 asks back.
        net.mib[Mib.TCP_ATTEMPTFAILS] += 1
        net.mib[Mib.TCP_EMBRYONICRSTS] += 1
        reqsk_drop(net, req)
        return (REQ_DROP if flags & TCPHDR_RST else REQ_RST), None
    if not flags & TCPHDR_ACK:
        return REQ_DROP, None
    listener = req.listener
    if req.num_timeout < listener.defer_accept and th.end_seq == req.rcv_nxt:
        req.acked = True
        net.mib[Mib.TCP_DEFERACCEPTDROP] += 1
        return REQ_DROP, None
    if sk_acceptq_is_full(listener):
        net.mib[Mib.TCP_LISTENOVERFLOWS] += 1
        net.mib[Mib.TCP_LISTENDROPS] += 1
        if net.sysctl.tcp_abort_on_overflow:
            net.mib[Mib.TCP_EMBRYONICRSTS] += 1
            reqsk_drop(net, req)
            return REQ_RST, None
        req.acked = True
        return REQ_DROP, None
    child = tcp_v4_syn_recv_sock(net, req)
    tcp_synack_rtt_meas(net, child, req, th)
    reqsk_drop(net, req)
    inet_ehash_insert(net, child)
    inet_csk_reqsk_queue_add(net, listener, child)
    return REQ_CHILD, child


def tcp_synack_rtt_meas(net: Netns, tp: TcpSock, req: RequestSock, th: Segment) -> None:
    """The handshake is the first round trip; of a SYN-ACK that went twice, or was a cookie, only
    an echoed time stamp tells it (Karn's rule)."""
    rtt_us = -1
    if req.snt_synack_ns and not req.num_retrans:
        rtt_us = max((net.now_ns - req.snt_synack_ns) // 1000, 1)
    elif req.tstamp_ok and th.opts & OPT_TIMESTAMP and th.tsecr:
        rtt_us = tcp_rtt_tsopt_us(net.now_ns, th.tsecr, req.ts_off)
    if rtt_us > 0:
        tp.rtt_min_us = min(tp.rtt_min_us, rtt_us)
        tcp_rtt_estimator(tp, rtt_us)
        tcp_set_rto(tp)


def tcp_v4_syn_recv_sock(net: Netns, req: RequestSock) -> TcpSock:
    """Make the socket of a request (tcp_create_openreq_child): in SYN-RECEIVED, for its ACK."""
    listener = req.listener
    tp = sk_alloc(net)
    tcb = tp.tcb
    for name in INHERITED:
        setattr(tp, name, getattr(listener, name))
    tp.rto_min_us = net.route.rto_min * 1000 or tp.rto_min_us
    tp.ip = req.ip
    tp.saddr, tp.daddr, tp.sport, tp.dport = req.saddr, req.daddr, req.sport, req.dport
    sk_errors_inherit(tp, listener)
    tcp_md5_key_copy(tp, reqsk_md5_lookup(req))
    inet_inherit_port(net, tp)
    tcp_init_congestion_control(tp, listener.ca.name, net.now_ns)
    tcb.state = TCP_SYN_RECV
    tcb.flags = TCB_SND | TCB_RCV | TCB_WINDOW | TCB_PEER_WINDOW
    tcb.rcv_nxt = tp.rcv_wup = tp.copied_seq = req.rcv_nxt
    tcb.snd_una = req.snt_isn
    tcb.snd_nxt = tp.snd_sml = tp.snd_up = tp.write_seq = (req.snt_isn + 1) & MASK32
    tp.pushed_seq = tp.write_seq
    tcb.snd_wl1 = req.rcv_isn
    tcb.rcv_mwnd_seq = (req.rcv_nxt + req.rsk_rcv_wnd) & MASK32
    tp.window_clamp = req.rsk_window_clamp
    tp.rcv_wnd = tp.rcv_ssthresh = req.rsk_rcv_wnd
    tp.wscale_ok = req.wscale_ok
    if req.wscale_ok:
        tcb.snd_wscale, tcb.rcv_wscale = req.snd_wscale, req.rcv_wscale
        tcb.flags |= TCB_WSCALE_SENT | TCB_WSCALE_RCVD
    else:
        tp.window_clamp = min(tp.window_clamp, 65535)
    tcp_ecn_openreq_child(tp, req)
    tp.sack_ok = int(req.sack_ok)
    tp.tstamp_ok = req.tstamp_ok
    tp.tsoffset = req.ts_off
    if req.tstamp_ok:
        tcb.ts_recent = req.ts_recent
        tcb.flags |= TCB_TSTAMP
        tp.ts_recent_stamp_ns = net.now_ns
        tp.tcp_header_len += 12
    tp.mss_clamp = req.mss
    tp.advmss = reqsk_advmss(net, req)
    tp.total_retrans = req.num_retrans
    if req.num_timeout:
        tp.undo_marker = req.snt_isn
        tp.retrans_stamp = req.snt_synack_ns // NSEC_PER_MSEC
        tp.total_rto = req.num_timeout
        tp.total_rto_recoveries = 1
        tp.total_rto_time = (net.now_ns - req.snt_synack_ns) // NSEC_PER_MSEC
    tp.segs_in = 1  # its SYN
    tp.rcv_tstamp_ns = tp.ack_lrcvtime_ns = net.now_ns
    if not req.num_retrans:
        tp.lsndtime_ns = req.snt_synack_ns
    net.mib[Mib.TCP_PASSIVEOPENS] += 1
    return tp


# What a child has of its listener.
INHERITED = (
    "userlocks",
    "reuse",
    "reuseport",
    "nonagle",
    "keepopen",
    "oobinline",
    "ipv6only",
    "linger",
    "linger_s",
    "sk_rcvbuf",
    "sk_sndbuf",
    "sk_rcvlowat",
    "tos",
    "ttl",
    "recverr",
    "user_mss",
    "user_timeout_ms",
    "syn_retries",
    "keepalive_time_s",
    "keepalive_intvl_s",
    "keepalive_probes",
    "linger2_s",
    "notsent_lowat",
    "pmtudisc",
    "rto_min_us",
    "rto_max_ms",
    "delack_max_ticks",
)


# TIME-WAIT.


def tcp_timewait_state_process(net: Netns, tw: TimewaitSock, th: Segment) -> tuple[int, int]:
    """A segment for what is left of a connection: (TW_, number for a new one)."""
    flags = th.flags
    stamped = th.opts & OPT_TIMESTAMP and tw.tstamp_ok
    paws = bool(stamped and tsval_before(th.tsval, tw.ts_recent) and not flags & TCPHDR_RST)
    if tw.substate != TCP_TIME_WAIT:
        return tw_fin_wait2(net, tw, th, paws), 0
    if not paws and th.seq == tw.rcv_nxt and (th.seq == th.end_seq or flags & TCPHDR_RST):
        if flags & TCPHDR_RST:
            if not net.sysctl.tcp_rfc1337:
                inet_twsk_kill(net, tw)
            return TW_SUCCESS, 0
        if stamped:
            tw.ts_recent = th.tsval
            tw.ts_recent_stamp = net.now_ns // NSEC_PER_SEC
        inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
        return TW_SUCCESS, 0
    if (
        flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK) == TCPHDR_SYN
        and not paws
        and (after(th.seq, tw.rcv_nxt) or (stamped and before(tw.ts_recent, th.tsval)))
    ):
        return TW_SYN, (tw.snd_nxt + 65535 + 2) & MASK32 or 1
    if paws:
        net.mib[Mib.TCP_PAWSTIMEWAIT] += 1
    if not flags & TCPHDR_RST:
        if paws or flags & TCPHDR_ACK:
            inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
        limited = tcp_oow_limited(net, tw, th, Mib.TCP_ACKSKIPPEDTIMEWAIT)
        return (TW_SUCCESS if limited else TW_ACK), 0
    return TW_SUCCESS, 0


def tw_fin_wait2(net: Netns, tw: TimewaitSock, th: Segment, paws: bool) -> int:
    """In FIN-WAIT-2 without a socket only the peer's FIN is waited for."""
    end = (tw.rcv_nxt + tw.rcv_wnd) & MASK32
    if paws or not tcp_in_window(th, tw.rcv_nxt, end):
        limited = tcp_oow_limited(net, tw, th, Mib.TCP_ACKSKIPPEDFINWAIT2)
        return TW_SUCCESS if limited else TW_ACK
    if th.flags & TCPHDR_RST:
        inet_twsk_kill(net, tw)
        return TW_SUCCESS
    if th.flags & TCPHDR_SYN and not before(th.seq, tw.rcv_nxt):
        return TW_RST
    if not th.flags & TCPHDR_ACK or not after(th.end_seq, tw.rcv_nxt) or th.seq == th.end_seq:
        return TW_SUCCESS
    if not th.flags & TCPHDR_FIN or th.end_seq != (tw.rcv_nxt + 1) & MASK32:
        return TW_RST
    tw.substate = TCP_TIME_WAIT
    tw.rcv_nxt = th.end_seq
    if th.opts & OPT_TIMESTAMP and tw.tstamp_ok:
        tw.ts_recent = th.tsval
        tw.ts_recent_stamp = net.now_ns // NSEC_PER_SEC
    inet_twsk_schedule(net, tw, TCP_TIMEWAIT_LEN_NS)
    return TW_ACK
