"""What an endpoint does with a segment: the judge decides, here it is done.

Linux: net/ipv4/tcp_input.c.  RFC 9293 3.10.7; RFC 5961; RFC 7323; RFC 2018 3.
"""

from __future__ import annotations

from errno import ECONNREFUSED, ECONNRESET, EPIPE

from .inet_connection_sock import (
    tcp_count_state,
    tcp_done,
    tcp_done_with_error,
    tcp_reset_xmit_timer,
)
from .inet_timewait_sock import tcp_time_wait
from .ip_output import dst_mtu
from .netns import Netns, sk_reset_timer, sk_wake
from .snmp import Mib
from .sock import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_NOW,
    ICSK_ACK_SCHED,
    ICSK_TIME_RETRANS,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    TCP_INFINITE_SSTHRESH,
    TCP_INIT_CWND,
    TCP_MAX_QUICKACKS,
    TCP_PINGPONG_THRESH,
    TCP_TIMEOUT_FALLBACK_NS,
    TCP_TIMEOUT_MIN_NS,
    TCP_TIMEWAIT_LEN_NS,
    TcpSock,
)
from .tcb import (
    TCB_ACK_OLD,
    TCB_ACK_UNSENT,
    TCB_ACKED,
    TCB_CHALLENGE,
    TCB_ESTAB,
    TCB_NO_CONN,
    TCB_OLD,
    TCB_OVERWINDOW,
    TCB_PAWS,
    TCB_RST_TAKEN,
    TCB_SYN_TAKEN,
    TCB_WINUPDATE,
    tcb_rcv,
    tcb_rcv_steps,
    tcp_may_update_window,
    tsval_before,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPHDR_URG,
    Opt,
    Segment,
    after,
    before,
)
from .tcp_ack import tcp_ack, tcp_check_space, tcp_sndbuf_expand
from .tcp_data_queue import (
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
from .tcp_ecn import tcp_ecn_rcv_syn, tcp_ecn_rcv_synack
from .tcp_output import (
    tcp_data_snd_check,
    tcp_send_ack,
    tcp_send_delayed_ack,
    tcp_send_synack,
)
from .tcp_rate import tcp_slow_start_after_idle_check, tcp_update_pacing_rate
from .tcp_rcv_space import tcp_init_buffer_space, tcp_rcv_rtt_measure_ts
from .tcp_recovery import FLAG_DATA, FLAG_WIN_UPDATE
from .tcp_validate import (
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
from .tcp_window import tcp_receive_window, tcp_sync_mss
from .timer import NSEC_PER_SEC

OPT_TIMESTAMP, OPT_SACK_PERM = int(Opt.OPT_TIMESTAMP), int(Opt.OPT_SACK_PERM)
OPT_WSCALE, OPT_MSS = int(Opt.OPT_WSCALE), int(Opt.OPT_MSS)


def tcp_rcv_established(
    net: Netns, tp: TcpSock, th: Segment, data: bytes, sack: list[tuple[int, int]]
) -> int:
    """A segment of an open connection.

    Here it takes all steps; the compiled engine leaves out those that a predicted one cannot need.
    """
    return tcp_rcv_state_process(net, tp, th, data, sack)


def tcp_rcv_state_process(
    net: Netns, tp: TcpSock, th: Segment, data: bytes, sack: list[tuple[int, int]]
) -> int:
    """Judge a segment and do what the verdict says (RFC 9293 3.10.7.4): REPLY_."""
    tcb = tp.tcb
    if not th.flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN):
        return REPLY_NONE  # RFC 9293 3.10.7.4, fifth: Linux does not even look at its number
    state, prior_una = tcb.state, tcb.snd_una
    snd_wnd, snd_wl1 = tcb.snd_wnd, tcb.snd_wl1
    tcp_note_timestamp(tp, th)
    if th.opts & OPT_TIMESTAMP and tsval_before(th.tsval, tcb.ts_recent):
        tcp_paws_pardon(net, tp, th)
    length = th.payload_len
    if tcp_beyond_window(tp, th):
        tcp_unacceptable(net, tp, th, length, True)
        return REPLY_NONE
    early = after(th.seq, tcb.rcv_nxt)  # that is for tcp_data_queue_ofo to take or to drop
    shut = bool(length) and th.seq == tcb.rcv_nxt and not tcp_receive_window(tp)
    fresh = (length or th.flags & TCPHDR_FIN) and not early and after(th.end_seq, tcb.rcv_nxt)
    if fresh and (shut or not tcp_try_rmem_schedule(net, tp, th.seq, length)):
        th.payload_len = 0
        th.flags &= ~TCPHDR_FIN
        th.end_seq = th.seq + (th.flags & TCPHDR_SYN != 0) & MASK32
        net.mib[Mib.TCP_ZEROWINDOWDROP if shut else Mib.TCP_RCVQDROP] += 1
        tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_NOW | (0 if shut else ICSK_ACK_NOMEM)
    rcv_nxt, ts_recent = tcb.rcv_nxt, tcb.ts_recent
    predicted = bool(tp.sk_write_queue) and tcp_is_predicted(net, tp, th)
    late = tcp_is_late(tp, th)
    update = tcp_may_update_window(tcb, th.ack, th.seq, th.window << tcb.snd_wscale)
    if th.flags & TCPHDR_ACK and before(th.ack, prior_una):
        # RFC 5961 5.2: old is what was acknowledged once, not all that a window reaches back to.
        most, tcb.max_window = tcb.max_window, min(tcb.max_window, tp.bytes_acked)
        verdict = tcb_rcv_steps(tcb, th, 0) if late else tcb_rcv(tcb, th)
        tcb.max_window = max(tcb.max_window, most)
        verdict &= ~TCB_WINUPDATE  # and it tells nothing of the window
        update = False
        tcb.snd_wnd, tcb.snd_wl1 = snd_wnd, snd_wl1
    else:
        verdict = tcb_rcv_steps(tcb, th, 0) if late else tcb_rcv(tcb, th)
    if after(th.seq, tp.rcv_wup):  # RFC 7323 4.3: what lies behind the last ACK may be overtaken
        tcb.ts_recent = ts_recent
    if th.flags & TCPHDR_RST and tcp_reset_check(tp, th, verdict):
        tcb.state = TCP_CLOSE
        verdict = TCB_RST_TAKEN
    if tcb.state != state:
        tcp_count_state(net, tp, state, tcb.state)
    if verdict & TCB_NO_CONN:
        return REPLY_RST
    if verdict & TCB_RST_TAKEN:
        tcp_reset(net, tp, state)
        return REPLY_NONE
    if verdict & (TCB_PAWS | TCB_CHALLENGE | TCB_ACK_OLD | TCB_ACK_UNSENT):
        return tcp_refuse(net, tp, th, verdict, state)
    # Behind the peer's FIN only the acknowledgment counts; nothing is said of the rest.
    behind = state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK)
    ended = behind and not before(th.seq, rcv_nxt)
    refused = verdict & (TCB_OLD | TCB_OVERWINDOW)
    if refused and not late and not verdict & TCB_ACKED:
        moved = th.flags & TCPHDR_ACK and tcb.state != state
        if refused != TCB_OLD or not (ended or moved or (behind and tcp_is_across(th, rcv_nxt))):
            tcp_unacceptable(net, tp, th, length, verdict & TCB_OVERWINDOW != 0)
            return REPLY_NONE
    if not th.flags & TCPHDR_ACK:
        return REPLY_NONE
    flags = FLAG_DATA if th.payload_len else 0
    if update:
        flags |= FLAG_WIN_UPDATE  # no duplicate, even if the window is the same
    if verdict & TCB_WINUPDATE:
        if tcb.snd_wnd != snd_wnd and tp.sk_write_queue:  # it may have been shut for long
            tcp_slow_start_after_idle_check(net, tp)
        tcp_sync_after_window(net, tp)
    if th.opts & OPT_TIMESTAMP and not after(th.seq, tp.rcv_wup):
        tp.ts_recent_stamp_ns = net.now_ns
    if state == TCP_SYN_RECV and verdict & TCB_ESTAB:
        tcp_finish_handshake(net, tp)
        if not tp.tcp_rtx_queue:  # the request's SYN is none of the socket's bytes
            prior_una = prior_una + 1 & MASK32
    tcp_ack(net, tp, th, sack, prior_una, flags)
    if tcb.state != state:
        if state == TCP_FIN_WAIT1 and tcp_data_after_close(net, tp, th, state, rcv_nxt):
            return REPLY_RST
        if tcp_closing_states(net, tp, state):
            return REPLY_RST if state == TCP_FIN_WAIT1 and tp.linger2_s < 0 else REPLY_NONE
    if th.flags & TCPHDR_SYN:  # a simultaneous open's SYN-ACK repeats the SYN
        net.mib[Mib.TCP_DELAYEDACKLOST] += 1
        tcp_dsack_set(net, tp, th.seq, th.end_seq)
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tp.ack_pending |= ICSK_ACK_SCHED
    if th.flags & TCPHDR_URG:
        tcp_check_urg(net, tp, th, rcv_nxt)
    if state == TCP_ESTABLISHED and th.payload_len:
        tcp_rcv_rtt_measure_ts(net, tp, th)
    tcp_urg(net, tp, th, data)
    if (th.payload_len or th.flags & TCPHDR_FIN) and not ended:
        if tcp_data_after_close(net, tp, th, state, rcv_nxt):
            return REPLY_RST
        before_data = tcb.state
        if tcp_data_queue(net, tp, th, data, verdict, rcv_nxt):
            if tcb.state != before_data:  # by a FIN that waited behind a hole
                tcp_count_state(net, tp, before_data, tcb.state)
            tcp_fin(net, tp, state)
    if tcb.state != TCP_CLOSE:
        if not predicted:
            tcp_data_snd_check(net, tp)
        tcp_ack_snd_check(net, tp)
        tcp_check_space(net, tp)
    return REPLY_NONE


# States.


def tcp_reset(net: Netns, tp: TcpSock, state: int) -> None:
    """The peer has given up; the judge has closed this end (RFC 9293 3.10.7.4, second)."""
    err = {TCP_SYN_SENT: ECONNREFUSED, TCP_CLOSE_WAIT: EPIPE, TCP_CLOSE: 0}.get(state, ECONNRESET)
    if state in (TCP_SYN_SENT, TCP_SYN_RECV):
        net.mib[Mib.TCP_ATTEMPTFAILS] += 1
    tcp_done_with_error(net, tp, err)


def tcp_finish_handshake(net: Netns, tp: TcpSock) -> None:
    """SYN-RECEIVED is over: what the handshake has agreed on counts from here."""
    if tp.tstamp_ok:
        tp.advmss -= 12
    echoed = (tp.rcv_tsecr - tp.tsoffset) & MASK32
    if tp.saw_tstamp and tp.undo_marker and echoed == tp.retrans_stamp & MASK32:
        tp.undo_marker = 0  # the first one arrived: its time-out was needless (RFC 3522)
    tcp_init_transfer(net, tp)
    tcp_update_pacing_rate(tp)
    tp.tcb.max_window = max(tp.tcb.max_window, tp.tcb.snd_wnd)
    tp.delivered += 1  # the SYN-ACK
    tp.retrans_stamp = 0
    sk_wake(net, tp)
    tp.lsndtime_ns = net.now_ns
    tcp_initialize_rcv_mss(tp)


def tcp_init_transfer(net: Netns, tp: TcpSock) -> None:
    """First window and buffers of an open connection (RFC 6928; a lost SYN leaves one segment)."""
    tcp_sync_mss(net, tp, dst_mtu(net, tp.daddr))
    lost = tp.total_retrans > 1 and tp.undo_marker
    tp.snd_cwnd = 1 if lost else net.route.initcwnd or TCP_INIT_CWND
    if not tp.srtt_us:  # the handshake gave no sample, as it was lost (RFC 6298 5.7)
        tp.rttvar_us = tp.mdev_us = tp.mdev_max_us = TCP_TIMEOUT_FALLBACK_NS // 1000
        tp.rto_ns = TCP_TIMEOUT_FALLBACK_NS
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH  # a SYN that was lost says nothing of the path
    tp.ca.init(tp, net.now_ns)
    tcp_init_buffer_space(net, tp)
    tcp_sndbuf_expand(net, tp)


def tcp_sync_after_window(net: Netns, tp: TcpSock) -> None:
    if tp.tcb.max_window >> 1 < tp.mss_cache or tp.mss_cache < tp.mss_clamp:
        tcp_sync_mss(net, tp, tp.pmtu_cookie)


def tcp_closing_states(net: Netns, tp: TcpSock, state: int) -> bool:
    """This end's FIN was acknowledged: True if the socket is gone."""
    tcb = tp.tcb
    if state == TCP_FIN_WAIT1 and tcb.state != TCP_FIN_WAIT1:
        tp.shutdown |= SEND_SHUTDOWN
        if not tp.dead:
            sk_wake(net, tp)
        elif tcb.state == TCP_FIN_WAIT2:
            if tp.linger2_s < 0:
                tcp_done(net, tp)
                net.mib[Mib.TCP_ABORTONDATA] += 1
                return True
            tcp_fin_wait2_orphan(net, tp)
            return tcb.state == TCP_CLOSE
    elif state == TCP_CLOSING and tcb.state == TCP_TIME_WAIT:
        tcp_time_wait(net, tp, TCP_TIME_WAIT, 0)
        return True
    elif state == TCP_LAST_ACK and tcb.state == TCP_CLOSE:
        tcp_done(net, tp)
        return True
    return False


def tcp_fin_wait2_orphan(net: Netns, tp: TcpSock) -> None:
    """Nobody reads any more: wait for the peer's FIN in a small rest, or by a timer."""
    wait_ns = tcp_fin_time_ns(tp)
    if wait_ns > TCP_TIMEWAIT_LEN_NS:
        sk_reset_timer(net, tp.sk_timer, net.now_ns + wait_ns - TCP_TIMEWAIT_LEN_NS)
    else:
        tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)


def tcp_fin_time_ns(tp: TcpSock) -> int:
    return max(tp.linger2_s * NSEC_PER_SEC, (tp.rto_ns << 2) - (tp.rto_ns >> 1))


def tcp_data_after_close(net: Netns, tp: TcpSock, th: Segment, state: int, rcv_nxt: int) -> bool:
    """Data for whom nobody reads is refused with a reset (RFC 9293 3.6.1)."""
    if state == TCP_ESTABLISHED or not tp.shutdown & RCV_SHUTDOWN or not tcp_is_across(th, rcv_nxt):
        return False
    net.mib[Mib.TCP_ABORTONDATA] += 1
    tcp_reset(net, tp, state)
    return True


def tcp_is_across(th: Segment, rcv_nxt: int) -> bool:
    """True if a segment has text behind what is in."""
    fin = th.flags & TCPHDR_FIN != 0
    return th.end_seq != th.seq and after((th.end_seq - fin) & MASK32, rcv_nxt)


def tcp_fin(net: Netns, tp: TcpSock, state: int) -> None:
    """The peer's FIN is in, and the judge has moved the state (RFC 9293 3.10.7.4, eighth)."""
    tp.ack_pending |= ICSK_ACK_SCHED
    tp.shutdown |= RCV_SHUTDOWN
    tp.done = True
    now = tp.tcb.state
    if now == TCP_CLOSE_WAIT:
        tp.ack_pingpong = TCP_PINGPONG_THRESH
    elif now == TCP_CLOSING and state == TCP_FIN_WAIT1:
        tcp_send_ack(net, tp)
    elif now == TCP_TIME_WAIT:
        tcp_send_ack(net, tp)
        tcp_time_wait(net, tp, TCP_TIME_WAIT, 0)
        return
    tp.out_of_order_queue.clear()
    tp.sack.clear()
    tp.duplicate_sack = None
    if not tp.dead:
        sk_wake(net, tp)


# SYN-SENT.


def tcp_rcv_synsent_state_process(
    net: Netns, tp: TcpSock, th: Segment, sack: list[tuple[int, int]]
) -> int:
    """What an active open gets (RFC 9293 3.10.7.3): REPLY_."""
    tcb = tp.tcb
    offered_ts = tp.tcp_header_len > 20
    if th.flags & TCPHDR_ACK and th.opts & OPT_TIMESTAMP and th.tsecr and offered_ts:
        sent = (net.now_ns // 1_000_000 + tp.tsoffset) & MASK32
        first = (tp.retrans_stamp - 1 + tp.tsoffset) & MASK32  # 0 is no time
        if before(th.tsecr, first) or after(th.tsecr, sent):
            net.mib[Mib.TCP_PAWSACTIVEREJECTED] += 1
            return REPLY_RST if not th.flags & TCPHDR_RST else REPLY_NONE
    if not offered_ts:
        th.opts &= ~OPT_TIMESTAMP
    prior_una = tcb.snd_una
    if th.flags & TCPHDR_SYN:
        # Deviation: as in Linux, text and FIN on a SYN-ACK are left for the peer to send again.
        th.payload_len = 0
        th.flags &= ~TCPHDR_FIN
        th.end_seq = (th.seq + 1) & MASK32
    verdict = tcb_rcv(tcb, th)
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
    tp.copied_seq = tp.rcv_wup = (th.seq + 1) & MASK32
    if not verdict & TCB_ESTAB:
        tcp_ecn_rcv_syn(tp, th.flags)
        tcp_simultaneous_open(net, tp)
        return REPLY_NONE
    tcp_ecn_rcv_synack(tp, th.flags)
    if tp.tstamp_ok:
        tp.advmss -= 12
    tcp_count_state(net, tp, TCP_SYN_SENT, TCP_ESTABLISHED)
    tcb.max_window = max(tcb.max_window, tcb.snd_wnd)
    tp.sk_err_soft = 0
    tcp_ack(net, tp, th, sack, prior_una, 0)
    tcp_init_transfer(net, tp)
    tcp_initialize_rcv_mss(tp)
    tp.lsndtime_ns = tp.ack_lrcvtime_ns = net.now_ns
    if tp.keepopen:
        sk_reset_timer(net, tp.sk_timer, net.now_ns + keepalive_time_when(net, tp))
    if not tp.dead:
        sk_wake(net, tp)
    if tp.sk_write_queue or tp.defer_accept or tp.ack_pingpong >= TCP_PINGPONG_THRESH:
        tp.ack_pending |= ICSK_ACK_SCHED
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS)
        tcp_data_snd_check(net, tp)
        if tp.ack_pending & ICSK_ACK_SCHED:
            tcp_send_delayed_ack(net, tp)
    else:
        tcp_send_ack(net, tp)
    return REPLY_NONE


def tcp_take_syn_options(net: Netns, tp: TcpSock, th: Segment, offered_ts: bool) -> None:
    """What both have offered counts from here."""
    tp.wscale_ok = bool(th.opts & OPT_WSCALE and net.sysctl.tcp_window_scaling)
    if not tp.wscale_ok:
        tp.tcb.snd_wscale = 0
        tp.window_clamp = min(tp.window_clamp, 65535)
    tp.sack_ok = int(bool(th.opts & OPT_SACK_PERM and net.sysctl.tcp_sack))
    tp.tstamp_ok = bool(th.opts & OPT_TIMESTAMP and offered_ts)
    tp.tcp_header_len = 20
    if tp.tstamp_ok:
        tp.tcp_header_len += 12
        tp.ts_recent_stamp_ns = net.now_ns
        tcp_note_timestamp(tp, th)
    tp.mss_clamp = tcp_clamp_peer_mss(tp, th)
    tcp_sync_mss(net, tp, dst_mtu(net, tp.daddr))


def tcp_clamp_peer_mss(tp: TcpSock, th: Segment) -> int:
    """The peer's MSS, or what stands for it (9293:MUST-15); never above what the user wants."""
    if not th.opts & OPT_MSS or not th.mss:
        return tp.user_mss or (536 if tp.ip == 4 else 1220)
    return min(th.mss, tp.user_mss) if tp.user_mss else th.mss


def tcp_simultaneous_open(net: Netns, tp: TcpSock) -> None:
    """Both have sent a SYN: answer with a SYN-ACK (9293:MUST-10)."""
    tcp_count_state(net, tp, TCP_SYN_SENT, TCP_SYN_RECV)
    tp.rcv_wup = tp.copied_seq = tp.tcb.rcv_nxt
    tcp_initialize_rcv_mss(tp)
    tcp_send_synack(net, tp)


def keepalive_time_when(net: Netns, tp: TcpSock) -> int:
    return (tp.keepalive_time_s or net.sysctl.tcp_keepalive_time) * 1_000_000_000
