"""Every segment that leaves a socket, and when it may.

Linux: net/ipv4/tcp_output.c.  RFC 9293 3.8; RFC 1122 4.2.3.4; RFC 7323; RFC 2018.
"""

from __future__ import annotations

from errno import ENOBUFS, ENOMEM

from .errqueue import (
    SCM_TSTAMP_SCHED,
    SCM_TSTAMP_SND,
    SKBTX_SCHED_TSTAMP,
    SKBTX_SW_TSTAMP,
    tcp_fragment_tstamp,
    tstamp_only,
)
from .inet_connection_sock import (
    tcp_check_probe_timer,
    tcp_rearm_rto,
    tcp_reset_xmit_timer,
    tcp_schedule_loss_probe,
)
from .ip_output import (
    dst_mtu,
    ip_queue_xmit,
    tcp_options_write,
)
from .netns import Netns, sk_reset_timer, sk_stop_timer
from .snmp import Mib
from .sock import (
    GSO_MAX_SIZE,
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_RETRANS,
    SKB_OVERHEAD,
    SKB_SHARED_INFO,
    TCP_ATO_MIN_NS,
    TCP_DELACK_MAX_NS,
    TCP_DELACK_MIN_NS,
    TCP_MIN_MSS,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_PINGPONG_THRESH,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcb import tcb_xmit
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPHDR_URG,
    Opt,
    Segment,
    after,
    before,
)
from .tcp_cong import (
    CA_EVENT_TX_START,
    tcp_enter_cwr,
)
from .tcp_ecn import (
    TCP_ECN_MODE_RFC3168,
    tcp_ecn_send,
    tcp_ecn_send_syn,
    tcp_ecn_send_synack,
)
from .tcp_rate import (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    tcp_chrono_start,
    tcp_chrono_stop,
    tcp_cwnd_validate,
    tcp_rate_skb_sent,
)
from .tcp_rtt import tcp_delack_max_ns, tcp_rto_min_ns
from .tcp_tstamp import skb_tstamp_tx
from .tcp_window import (
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
from .timer import NSEC_PER_MSEC, jiffies_up
from .wire import TCP_HDR_LEN

SKB_TRUESIZE_EMPTY = 896  # of what is sent: head, shared info, room for headers
SKB_TRUESIZE_GSO = GSO_MAX_SIZE + SKB_OVERHEAD + SKB_SHARED_INFO  # of the largest piece


# One segment.


def tcp_transmit_skb(net: Netns, tp: TcpSock, skb: SkBuff, ack: int, mss: int) -> int:
    """Send one piece with today's options and window; the judge is told. 0, -ENOBUFS, or
    NET_XMIT_DROP: as if it had been lost at once."""
    tcb = tp.tcb
    flags = skb.tcp_flags
    if flags & TCPHDR_SYN:
        opts = tcp_syn_options(net, tp)  # whole in a simultaneous open's SYN-ACK, too
        window = min(tp.rcv_wnd, 65535)
    else:
        if skb.pcount > 1:
            flags |= TCPHDR_PSH  # whoever joins segments need not wait for more
        opts = tcp_established_options(net, tp)
        window = tcp_select_window(net, tp)
        if tp.ecn_flags & TCP_ECN_MODE_RFC3168:
            flags |= tcp_ecn_send(tp, len(skb.data) > 0 and not before(skb.seq, tcb.snd_nxt))
    urg = 0
    if tp.snd_up != tcb.snd_una and before(skb.seq, tp.snd_up):
        if before(tp.snd_up, (skb.seq + 0x10000) & MASK32):
            urg = (tp.snd_up - skb.seq) & MASK32
            flags |= TCPHDR_URG
        elif after((skb.seq + 0xFFFF) & MASK32, tcb.snd_nxt):
            urg = 0xFFFF
            flags |= TCPHDR_URG
    options = tcp_options_write(opts)
    th = Segment()
    th.seq, th.end_seq, th.ack = skb.seq, skb.end_seq, ack
    th.flags, th.window, th.payload_len = flags, window, len(skb.data)
    if opts.wscale is not None:
        th.opts, th.wscale = int(Opt.OPT_WSCALE), opts.wscale
    err = ip_queue_xmit(
        net, tp.saddr, tp.daddr, tp.sport, tp.dport, skb.seq, ack, flags, window, urg, options,
        bytes(skb.data), mss, tp.tos, tp.ttl, net.ip_id, tp.pmtudisc > 0, opts.md5,
    )  # fmt: skip
    if err < 0:
        return err
    if after(skb.end_seq, tcb.snd_nxt) or skb.seq == skb.end_seq:  # repeats count elsewhere
        net.mib[Mib.TCP_OUTSEGS] += max(skb.pcount, 1)
    net.ip_id = net.ip_id + skb.pcount & 0xFFFF
    if flags & TCPHDR_ACK:
        tcp_event_ack_sent(net, tp, ack)
    tp.segs_out += max(skb.pcount, 1)
    if len(skb.data):
        tcp_event_data_sent(net, tp)
        tp.data_segs_out += skb.pcount
        tp.bytes_sent += len(skb.data)
    if not err and skb.tx_flags & (SKBTX_SCHED_TSTAMP | SKBTX_SW_TSTAMP):
        tcp_tstamp_sent(net, tp, skb)
    if not err or skb.end_seq == skb.seq:
        tcb_xmit(tcb, th)
    if err:
        tcp_enter_cwr(tp, net.now_ns)  # this end's own queue is what is congested
        return err
    tp.wstamp_ns = net.now_ns
    skb.skb_mstamp_ns = net.now_ns
    skb.rack_off = False
    if skb.end_seq != skb.seq:
        tcp_rate_skb_sent(tp, skb, net.now_ns)
    if skb.ubuf is not None:
        skb.ubuf.zerocopy = False
    return 0


def tcp_tstamp_sent(net: Netns, tp: TcpSock, skb: SkBuff) -> None:
    """Tell when a piece was queued and sent, which here is one; each time that it is."""
    frame = b"" if tstamp_only(tp) else bytes(net.out[-1][0])
    if skb.tx_flags & SKBTX_SCHED_TSTAMP:
        skb_tstamp_tx(net, tp, skb, SCM_TSTAMP_SCHED, frame)
    if skb.tx_flags & SKBTX_SW_TSTAMP:
        skb_tstamp_tx(net, tp, skb, SCM_TSTAMP_SND, frame)


def tcp_event_ack_sent(net: Netns, tp: TcpSock, ack: int) -> None:
    """Whatever carries an ACK pays what was owed."""
    if tp.duplicate_sack:
        tp.duplicate_sack = None
    if tp.compressed_ack:
        net.mib[Mib.TCP_ACKCOMPRESSED] += tp.compressed_ack
        tp.compressed_ack = 0
        tp.delack_timer.expires_ns = 0  # it was theirs
    if ack != tp.tcb.rcv_nxt:
        return
    if tp.ack_quick and tp.ack_pending & ICSK_ACK_SCHED:
        tp.ack_quick -= 1
        if not tp.ack_quick:
            tp.ack_ato_ns = TCP_ATO_MIN_NS
    tp.ack_pending = 0
    sk_stop_timer(tp.delack_timer)


def tcp_event_data_sent(net: Netns, tp: TcpSock) -> None:
    """An answer that comes soon makes the connection interactive: ACKs may wait for data."""
    if not tp.packets_out:
        tp.ca.cwnd_event(tp, CA_EVENT_TX_START, net.now_ns)
    tp.lsndtime_ns = net.now_ns
    if net.now_ns - tp.ack_lrcvtime_ns >= tp.ack_ato_ns:
        return
    if tp.ack_pingpong < TCP_PINGPONG_THRESH:
        tp.ack_pingpong += 1


def tcp_event_new_data_sent(net: Netns, tp: TcpSock, skb: SkBuff) -> None:
    """The head of the write queue was sent for the first time."""
    had = tp.packets_out
    tp.sk_write_queue.popleft()
    tp.tcp_rtx_queue.append(skb)
    tp.packets_out += skb.pcount
    if not had or tp.icsk_pending in (ICSK_TIME_PROBE0, ICSK_TIME_LOSS_PROBE):
        tcp_rearm_rto(net, tp)
    net.mib[Mib.TCP_ORIGDATASENT] += skb.pcount


# When data may go.


def tcp_fragment(net: Netns, tp: TcpSock, queue: object, index: int, length: int, mss: int) -> int:
    """Cut a piece of a queue in two; 0 or -ENOMEM: a peer's blocks make only so many (T-03)."""
    skb = queue[index]  # type: ignore[index]
    between = queue is tp.tcp_rtx_queue and 0 < index < len(tp.tcp_rtx_queue) - 1
    if between and tp.sk_wmem_queued >> 1 > tp.sk_sndbuf + 2 * SKB_TRUESIZE_GSO:
        net.mib[Mib.TCP_WQUEUETOOBIG] += 1
        return -ENOMEM
    was = skb.pcount
    rest = SkBuff((skb.seq + length) & MASK32, skb.data[length:], skb.tcp_flags)
    rest.end_seq = skb.end_seq
    rest.truesize = SKB_TRUESIZE_EMPTY + len(rest.data)
    rest.sacked = skb.sacked
    rest.eor, skb.eor = skb.eor, False
    rest.skb_mstamp_ns = skb.skb_mstamp_ns
    rest.rack_off = skb.rack_off
    rest.delivered, rest.delivered_us = skb.delivered, skb.delivered_us
    rest.first_tx_us, rest.is_app_limited = skb.first_tx_us, skb.is_app_limited
    tcp_fragment_tstamp(skb, rest)
    if skb.ubuf is not None:
        rest.ubuf = skb.ubuf
        rest.ubuf.refs += 1
    skb.data = skb.data[:length]
    skb.end_seq = rest.seq
    skb.tcp_flags &= ~(TCPHDR_FIN | TCPHDR_PSH)
    skb.truesize -= len(rest.data)
    tp.sk_wmem_queued += SKB_TRUESIZE_EMPTY
    tcp_set_skb_tso_segs(skb, mss)
    tcp_set_skb_tso_segs(rest, mss)
    queue.insert(index + 1, rest)  # type: ignore[attr-defined]
    if queue is tp.tcp_rtx_queue and was != skb.pcount + rest.pcount:
        tcp_adjust_pcount(tp, skb.sacked, was - skb.pcount - rest.pcount)
    return 0


def tcp_adjust_pcount(tp: TcpSock, sacked: int, less: int) -> None:
    tp.packets_out -= less
    if sacked & TCPCB_SACKED_ACKED:
        tp.sacked_out -= less
    if sacked & TCPCB_SACKED_RETRANS:
        tp.retrans_out -= less
    if sacked & TCPCB_LOST:
        tp.lost_out -= less


def tcp_write_xmit(net: Netns, tp: TcpSock, mss: int, nonagle: int, push_one: int) -> bool:
    """Send what may go; True if nothing is in flight and something waits: a probe is needed.

    `push_one` 1: one piece; 2: one, whatever the congestion window is, to probe the tail.
    """
    sent = 0
    cwnd_limited = rwnd_limited = False
    queue = tp.sk_write_queue
    while queue:
        skb = queue[0]
        quota = tcp_cwnd_test(tp)
        if not quota:
            if push_one != 2:
                cwnd_limited = True
                break
            quota = 1
        most = tcp_tso_segs(net, tp, mss)
        quota = min(quota, most)
        if quota * mss > len(skb.data):
            tcp_grow_skb(tp, quota * mss - len(skb.data))
        segs = tcp_set_skb_tso_segs(skb, mss)
        if not tcp_snd_wnd_test(tp, skb, mss):
            rwnd_limited = True
            break
        limit = mss
        if segs == 1:
            last = len(queue) == 1
            if not tcp_nagle_test(tp, skb, mss, nonagle if last else TCP_NAGLE_PUSH):
                break
        elif not push_one and (wait := tcp_tso_should_defer(net, tp, skb, mss, most)):
            cwnd_limited, rwnd_limited = wait == 2, wait == 3
            break
        elif tp.snd_up == tp.tcb.snd_una:  # each segment has its own urgent pointer
            limit = tcp_mss_split_point(tp, skb, mss, min(quota, segs), nonagle)
            if not limit:
                break
        if len(skb.data) > limit:
            tcp_fragment(net, tp, queue, 0, limit, mss)
        err = tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, mss)
        if err:
            break
        tcp_event_new_data_sent(net, tp, skb)
        if len(skb.data) < skb.pcount * mss:
            tp.snd_sml = skb.end_seq
        sent += skb.pcount
        if push_one:
            break
    if rwnd_limited:
        tcp_chrono_start(tp, TCP_CHRONO_RWND_LIMITED, net.now_ns)
    else:
        tcp_chrono_stop(tp, TCP_CHRONO_RWND_LIMITED, net.now_ns)
    if tp.ca_state in (CaState.TCP_CA_CWR, CaState.TCP_CA_RECOVERY):
        tp.prr_out += sent
    cwnd_limited = cwnd_limited or tcp_packets_in_flight(tp) >= tp.snd_cwnd
    if sent or cwnd_limited:
        tcp_cwnd_validate(net, tp, cwnd_limited)
    if sent and push_one != 2:
        tcp_schedule_loss_probe(net, tp, False)
    return not tp.packets_out and bool(queue)


def tcp_push_pending_frames(net: Netns, tp: TcpSock, mss: int, nonagle: int) -> None:
    """Send what waits; arm the probe where the peer's window holds it all back."""
    if tp.tcb.state == TCP_CLOSE or not tp.sk_write_queue:
        return
    if tcp_write_xmit(net, tp, mss, nonagle, 0):
        tcp_check_probe_timer(net, tp)


def tcp_push_one(net: Netns, tp: TcpSock, mss: int) -> None:
    """Send one burst while a write goes on: the next may be filled further."""
    if tp.tcb.state != TCP_CLOSE:
        tcp_write_xmit(net, tp, mss, TCP_NAGLE_PUSH, True)


def tcp_data_snd_check(net: Netns, tp: TcpSock) -> None:
    """Something has changed that sending may have waited for."""
    if tp.sk_write_queue:
        tcp_push_pending_frames(net, tp, tcp_current_mss(net, tp), tp.nonagle)


# Acknowledgments.


def tcp_send_ack(net: Netns, tp: TcpSock) -> None:
    if tp.tcb.state == TCP_CLOSE:
        return
    skb = SkBuff(tcp_acceptable_seq(tp), b"", TCPHDR_ACK)
    if tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, 0) < 0:
        tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
        delay_ns = TCP_DELACK_MAX_NS
        sk_reset_timer(net, tp.delack_timer, jiffies_up(net.now_ns, delay_ns))


def tcp_acceptable_seq(tp: TcpSock) -> int:
    """Where an empty segment stands: inside the peer's window, even when that has shrunk."""
    tcb = tp.tcb
    end = tcp_wnd_end(tp)
    if not before(end, tcb.snd_nxt):
        return tcb.snd_nxt
    if tp.wscale_ok and (tcb.snd_nxt - end) & MASK32 < 1 << tcb.snd_wscale:
        return tcb.snd_nxt
    return end


def tcp_send_delayed_ack(net: Netns, tp: TcpSock) -> None:
    """Owe an acknowledgment for a while (RFC 9293 3.8.6.3)."""
    ato_ns = tp.ack_ato_ns
    if ato_ns > TCP_DELACK_MIN_NS:
        most = TCP_DELACK_MAX_NS
        if tp.srtt_us:
            most = min(most, max((tp.srtt_us >> 3) * 1000, TCP_DELACK_MIN_NS))
        ato_ns = min(ato_ns, most)
    ato_ns = min(ato_ns, tcp_delack_max_ns(tp))
    timeout_ns = jiffies_up(net.now_ns, max(ato_ns, 1))
    if tp.ack_pending & ICSK_ACK_TIMER:
        if tp.delack_timer.expires_ns <= jiffies_up(net.now_ns, ato_ns >> 2):
            tcp_send_ack(net, tp)
            return
        timeout_ns = min(timeout_ns, tp.delack_timer.expires_ns)
    tp.ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
    if tp.compressed_ack:  # they wait for it, too
        timeout_ns = min(timeout_ns, tp.delack_timer.expires_ns)
    sk_reset_timer(net, tp.delack_timer, timeout_ns)


def tcp_send_challenge_ack(net: Netns, tp: TcpSock) -> None:
    """Ask whoever it was to show that he is the peer (RFC 5961); per connection, not often."""
    if not tcp_oow_rate_limited(net, tp, Mib.TCP_ACKSKIPPEDCHALLENGE):
        net.mib[Mib.TCP_CHALLENGEACK] += 1
        tcp_send_ack(net, tp)


def tcp_oow_rate_limited(net: Netns, owner: object, mib: int) -> bool:
    """True, and counted, if an answer to what is not acceptable was given a moment ago."""
    last_ms = owner.last_oow_ack_ms  # type: ignore[attr-defined]
    now_ms = net.now_ns // NSEC_PER_MSEC & MASK32 or 1
    if last_ms and (now_ms - last_ms) & MASK32 < net.sysctl.tcp_invalid_ratelimit:
        net.mib[mib] += 1
        return True
    owner.last_oow_ack_ms = now_ms  # type: ignore[attr-defined]
    return False


# Opening and closing.


def tcp_connect_init(net: Netns, tp: TcpSock) -> None:
    """What an active open begins with."""
    tp.rto_min_us = net.route.rto_min * 1000 or tp.rto_min_us
    tp.tcp_header_len = TCP_HDR_LEN
    if net.sysctl.tcp_timestamps:
        tp.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED
    if tp.user_mss:
        tp.mss_clamp = tp.user_mss
    tp.tcb.max_window = 0
    tcp_sync_mss(net, tp, dst_mtu(net, tp.daddr))
    tp.advmss = tp.user_mss or 65535
    advmss = tcp_advertise_mss(net, tp)
    most = tp.window_clamp
    if tp.userlocks & 8 and (most > tcp_full_space(tp) or not most):
        most = tcp_full_space(tp)
    tp.rcv_wnd, tp.window_clamp, tp.tcb.rcv_wscale = tcp_select_initial_window(
        net, tcp_full_space(tp), advmss, bool(net.sysctl.tcp_window_scaling), most
    )
    tp.rcv_ssthresh = tp.rcv_wnd
    tp.sk_err = 0
    tcb = tp.tcb
    tcb.snd_wnd = 0
    tcb.snd_wl1 = 0
    tcb.snd_una = tcb.snd_nxt = tp.snd_sml = tp.snd_up = tp.write_seq
    tcb.rcv_nxt = 0
    tp.rcv_wup = 0
    tp.copied_seq = 0
    tp.rcv_mss = TCP_MIN_MSS  # until a window is known
    tp.rto_ns = net_timeout_init(tp)
    tp.retransmits = 0


def net_timeout_init(tp: TcpSock) -> int:
    return max(1_000_000_000, tcp_rto_min_ns(tp))


def tcp_connect(net: Netns, tp: TcpSock) -> int:
    """Send the SYN of an active open (RFC 9293 3.10.1)."""
    tcp_connect_init(net, tp)
    skb = SkBuff(tp.write_seq, b"", TCPHDR_SYN)
    skb.tcp_flags |= tcp_ecn_send_syn(tp, net.sysctl.tcp_ecn, net.route.ecn)
    skb.end_seq = tp.write_seq = (tp.write_seq + 1) & MASK32
    skb.pcount = 1
    skb.truesize = SKB_TRUESIZE_EMPTY
    tp.pushed_seq = tp.write_seq
    tp.retrans_stamp = net.now_ns // NSEC_PER_MSEC or 1
    tp.tcp_rtx_queue.append(skb)
    tp.sk_wmem_queued += skb.truesize
    tp.packets_out += 1
    err = tcp_transmit_skb(net, tp, skb, 0, 0)
    if err < 0 and err != -ENOBUFS:
        return err
    net.mib[Mib.TCP_ACTIVEOPENS] += 1
    tcp_reset_xmit_timer(net, tp, ICSK_TIME_RETRANS, tp.rto_ns)
    return 0


def tcp_send_synack(net: Netns, tp: TcpSock) -> int:
    """In a simultaneous open the SYN is sent again as a SYN-ACK (RFC 9293 3.5)."""
    skb = tp.tcp_rtx_queue[0]
    skb.tcp_flags = tcp_ecn_send_synack(tp, skb.tcp_flags) | TCPHDR_ACK
    return tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, 0)


def tcp_send_fin(net: Netns, tp: TcpSock) -> None:
    """End the stream: on the last piece if that still waits, else on a segment of its own."""
    mss = tcp_current_mss(net, tp)
    if tp.sk_write_queue:
        tail = tp.sk_write_queue[-1]
        tail.tcp_flags |= TCPHDR_FIN
        tail.end_seq = (tail.end_seq + 1) & MASK32
    else:
        tail = SkBuff(tp.write_seq, b"", TCPHDR_ACK | TCPHDR_FIN)
        tail.end_seq = (tp.write_seq + 1) & MASK32
        tail.pcount = 1
        tail.truesize = SKB_TRUESIZE_EMPTY
        tp.sk_wmem_queued += tail.truesize
        tp.sk_write_queue.append(tail)
        tcp_chrono_start(tp, TCP_CHRONO_BUSY, net.now_ns)
    tp.write_seq = (tp.write_seq + 1) & MASK32
    tcp_push_pending_frames(net, tp, mss, TCP_NAGLE_OFF)


def tcp_send_active_reset(net: Netns, tp: TcpSock) -> None:
    """Tell the peer that this end gives up (RFC 9293 3.10.5)."""
    net.mib[Mib.TCP_OUTRSTS] += 1
    skb = SkBuff(tcp_acceptable_seq(tp), b"", TCPHDR_ACK | TCPHDR_RST)
    skb.pcount = 1
    tcp_transmit_skb(net, tp, skb, tp.tcb.rcv_nxt, 0)
