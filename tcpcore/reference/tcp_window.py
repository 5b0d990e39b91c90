"""What a segment may say and hold: the window to tell, its size, its options.

Linux: net/ipv4/tcp_output.c (tcp_select_window, tcp_sync_mss, tcp_established_options).
RFC 9293 3.7.1, 3.8.6.2.2; RFC 7323 2; RFC 2018 4.
"""

from __future__ import annotations

from .errqueue import tcp_skb_collapse_tstamp
from .ip_output import IPV4_HDR_LEN, IPV6_HDR_LEN, IPV6_MIN_MTU, V4MAPPED, Options, dst_mtu
from .netns import Netns, tcp_md5_lookup
from .snmp import Mib
from .sock import (
    GSO_MAX_SIZE,
    ICSK_ACK_NOMEM,
    MAX_TCP_HEADER,
    TCP_NAGLE_CORK,
    TCP_NAGLE_PUSH,
    TCP_RMEM_TO_WIN_SCALE,
    CaState,
    SkBuff,
    TcpSock,
)
from .tcp import MASK32, TCP_MAX_WSCALE, TCPHDR_FIN, after
from .tcp_md5 import TCPOLEN_MD5SIG_ALIGNED
from .timer import NSEC_PER_MSEC
from .wire import TCP_HDR_LEN

TCPOLEN_TSTAMP_ALIGNED = 12
TCPOLEN_SACK_BASE_ALIGNED = 4
TCPOLEN_SACK_PERBLOCK = 8
MAX_TCP_OPTION_SPACE = 40
SOCK_MIN_RCVBUF = 2304
TCP_TSO_DEFERRED = 3  # segments, if tcp_tso_win_divisor is off

# Windows.


def tcp_win_from_space(tp: TcpSock, space: int) -> int:
    """Of memory for receiving, what data may take: the rest is what buffers cost."""
    return space * tp.scaling_ratio >> TCP_RMEM_TO_WIN_SCALE


def tcp_space_from_win(tp: TcpSock, win: int) -> int:
    """Memory for a window."""
    return (win << TCP_RMEM_TO_WIN_SCALE) // tp.scaling_ratio


def tcp_space(tp: TcpSock) -> int:
    return tcp_win_from_space(tp, tp.sk_rcvbuf - tp.sk_rmem_alloc)


def tcp_full_space(tp: TcpSock) -> int:
    return tcp_win_from_space(tp, tp.sk_rcvbuf)


def tcp_set_window_clamp(tp: TcpSock, clamp: int) -> None:
    """Bound the window; what was offered already stays."""
    old, tp.window_clamp = tp.window_clamp, max(clamp, SOCK_MIN_RCVBUF // 2)
    if tp.window_clamp < old:
        tp.rcv_ssthresh = min(tp.rcv_ssthresh, tp.window_clamp)
    elif tp.window_clamp > old:
        tp.rcv_ssthresh = max(tp.rcv_ssthresh, min(tp.rcv_wnd, tp.window_clamp))


def tcp_receive_window(tp: TcpSock) -> int:
    """What is left of the window that was told last."""
    win = (tp.rcv_wup + tp.rcv_wnd - tp.tcb.rcv_nxt) & MASK32
    return 0 if win > 0x7FFFFFFF else win


def tcp_select_initial_window(
    net: Netns, space: int, mss: int, scaling: bool, window_clamp: int
) -> tuple[int, int, int]:
    """Of a SYN: (rcv_wnd, window_clamp, rcv_wscale)."""
    space = max(space, 0)
    if not window_clamp:
        window_clamp = 65535 << TCP_MAX_WSCALE
    space = min(window_clamp, space)
    if space > mss:
        space = space // mss * mss
    rcv_wnd = min(space, 32767) if net.sysctl.tcp_workaround_signed_windows else space
    if net.route.initrwnd:
        rcv_wnd = min(rcv_wnd, net.route.initrwnd * mss)
    wscale = 0
    if scaling:
        most = min(max(space, net.sysctl.tcp_rmem[2], net.sysctl.rmem_max), window_clamp)
        wscale = min(max(most.bit_length() - 16, 0), TCP_MAX_WSCALE)
    return rcv_wnd, min(65535 << wscale, window_clamp), wscale


def tcp_unscaled_max(net: Netns) -> int:
    """The largest window without scaling; some old peers take the field for a signed number."""
    return 32767 if net.sysctl.tcp_workaround_signed_windows else 65535


def tcp_choose_window(net: Netns, tp: TcpSock) -> int:
    """The window to tell, in steps that are worth telling (RFC 9293 3.8.6.2.2)."""
    mss = tp.rcv_mss
    free_space = tcp_space(tp)
    allowed = tcp_full_space(tp)
    full_space = min(tp.window_clamp, allowed)
    if mss > full_space:
        mss = full_space
        if mss <= 0:
            return 0
    scale = tp.tcb.rcv_wscale if tp.wscale_ok else 0
    if free_space < full_space >> 1:
        tp.ack_quick = 0
        free_space = max(free_space, 0) >> scale << scale
        if free_space < allowed >> 4 or free_space < mss:
            return 0
    if scale and net.sysctl.tcp_shrink_window and free_space <= tp.rcv_ssthresh:
        return free_space >> scale << scale  # never more than there is
    free_space = min(free_space, tp.rcv_ssthresh)
    if scale:
        return -(-free_space >> scale) << scale
    window = tp.rcv_wnd
    if window <= free_space - mss or window > free_space:
        return free_space // mss * mss
    if mss == full_space and free_space > window + (full_space >> 1):
        return free_space
    return window


def tcp_select_window(net: Netns, tp: TcpSock) -> int:
    """The window of the segment that leaves now.

    Its right edge never moves left (9293:SHLD-14), but where memory runs out: by tcp_shrink_window,
    and where a segment was dropped for that.
    """
    scale = tp.tcb.rcv_wscale if tp.wscale_ok else 0
    old = tp.rcv_wnd
    if tp.ack_pending & ICSK_ACK_NOMEM:
        tp.rcv_wnd = 0
        tp.rcv_wup = tp.tcb.rcv_nxt
        return 0
    current = tcp_receive_window(tp)
    new = tcp_choose_window(net, tp)
    if new < current and not (scale and net.sysctl.tcp_shrink_window):
        if not new:
            net.mib[Mib.TCP_WANTZEROWINDOWADV] += 1
        new = -(-current >> scale) << scale
    tp.rcv_wnd = new
    tp.rcv_wup = tp.tcb.rcv_nxt
    new = min(new, 65535 << scale if scale else tcp_unscaled_max(net)) >> scale
    if not new and old:
        net.mib[Mib.TCP_TOZEROWINDOWADV] += 1
    elif new and not old:
        net.mib[Mib.TCP_FROMZEROWINDOWADV] += 1
    return new


def tcp_wnd_end(tp: TcpSock) -> int:
    return (tp.tcb.snd_una + tp.tcb.snd_wnd) & MASK32


# Segment sizes.


def ip_header_len(tp: TcpSock) -> int:
    return IPV4_HDR_LEN if tp.daddr.startswith(V4MAPPED) else IPV6_HDR_LEN


def tcp_mtu_to_mss(net: Netns, tp: TcpSock, mtu: int) -> int:
    """Payload that fits, options of every segment counted (RFC 9293 3.7.1)."""
    mss = min(mtu - ip_header_len(tp) - TCP_HDR_LEN, tp.mss_clamp)
    least: int = net.sysctl.tcp_min_snd_mss
    return max(mss, least) - (tp.tcp_header_len - TCP_HDR_LEN)


def tcp_sync_mss(net: Netns, tp: TcpSock, mtu: int) -> int:
    """Follow the path's MTU; never more than half of the largest window seen."""
    mss = tcp_mtu_to_mss(net, tp, mtu)
    most = tp.tcb.max_window
    half = most >> 1 if most > 536 else most
    if half and mss > half:
        mss = max(half, 68 - tp.tcp_header_len)
    tp.pmtu_cookie = mtu
    tp.mss_cache = mss
    return mss


def tcp_current_mss(net: Netns, tp: TcpSock) -> int:
    """Payload of a full segment now, with the options that it would have."""
    mtu = dst_mtu(net, tp.daddr)
    mss = tp.mss_cache
    if mtu != tp.pmtu_cookie:
        mss = tcp_sync_mss(net, tp, mtu)
    header = TCP_HDR_LEN + tcp_established_options_size(tp)
    return mss - (header - tp.tcp_header_len)


def tcp_send_mss(net: Netns, tp: TcpSock, oob: bool) -> tuple[int, int]:
    """(MSS, how large a piece a write makes): whole segments, at most 64 KiB."""
    mss = tcp_current_mss(net, tp)
    if oob or tp.md5sig_info is not None:
        return mss, mss
    most = GSO_MAX_SIZE - 1 - MAX_TCP_HEADER
    half = tp.tcb.max_window >> 1 if tp.tcb.max_window > 536 else tp.tcb.max_window
    if half:
        most = min(most, max(half, 68 - tp.tcp_header_len))
    return mss, max(most // mss * mss, mss)


def tcp_set_skb_tso_segs(skb: SkBuff, mss: int) -> int:
    """Count a piece in segments of `mss`."""
    skb.pcount = max(1, -(-len(skb.data) // mss))
    skb.gso_size = mss if skb.pcount > 1 else 0
    return skb.pcount


# Bursts.


def tcp_packets_in_flight(tp: TcpSock) -> int:
    return tp.packets_out - (tp.sacked_out + tp.lost_out) + tp.retrans_out


def tcp_tso_segs(net: Netns, tp: TcpSock, mss: int) -> int:
    """Segments to send at once: what the pace brings in about a millisecond, more on short ways.

    Of what is signed one: each segment has its own signature.
    """
    if tp.md5sig_info is not None:
        return 1
    most = GSO_MAX_SIZE - 1 - MAX_TCP_HEADER
    size = most
    if tp.srtt_us:
        size = tp.sk_pacing_rate >> 10
        if tp.rtt_min_us >> 9 < 32:
            size += most >> (tp.rtt_min_us >> 9)
    return max(min(size, most) // mss, min(net.sysctl.tcp_min_tso_segs, max(most // mss, 2)))


def tcp_tso_should_defer(net: Netns, tp: TcpSock, skb: SkBuff, mss: int, most: int) -> int:
    """Whether a burst that could be longer may wait for the ACK that is about to come.

    Returns
    -------
    int : 0 to send, 1 to wait; 2 where the congestion window limits, 3 where the peer's does
    """
    if tp.ca_state >= CaState.TCP_CA_RECOVERY or net.now_ns - tp.wstamp_ns > NSEC_PER_MSEC:
        return 0
    send_window = (tcp_wnd_end(tp) - skb.seq) & MASK32
    cong_window = (tp.snd_cwnd - tcp_packets_in_flight(tp)) * mss
    limit = min(send_window, cong_window)
    last = skb is tp.sk_write_queue[-1]
    if limit >= most * mss or (not last and limit >= len(skb.data)):
        return 0
    share = net.sysctl.tcp_tso_win_divisor
    if share:
        enough = limit >= min(tp.tcb.snd_wnd, tp.snd_cwnd * mss) // share
    else:
        enough = limit > TCP_TSO_DEFERRED * mss
    if enough or not tp.tcp_rtx_queue:
        return 0
    srtt_ns = max((tp.srtt_us >> 3) - 1, 0) * 1000  # no time at all counts as 1 us
    expected_ns = tp.tcp_rtx_queue[0].skb_mstamp_ns + srtt_ns - net.now_ns
    if expected_ns > min(srtt_ns >> 1, NSEC_PER_MSEC):
        return 0
    if cong_window < send_window and cong_window <= len(skb.data):
        return 2
    if cong_window >= send_window and send_window <= len(skb.data):
        return 3
    return 0 if skb.tcp_flags & TCPHDR_FIN or skb.eor else 1


def tcp_grow_skb(tp: TcpSock, amount: int) -> None:
    """Fill the piece that goes next from the one behind it."""
    queue = tp.sk_write_queue
    skb = queue[0]
    if len(queue) == 1 or skb.eor:
        return
    behind = queue[1]
    if skb.ubuf is not None or behind.ubuf is not None:
        return
    length = min(amount, len(behind.data))
    if not length:
        return
    skb.data = bytearray(skb.data) + behind.data[:length]
    skb.end_seq = (skb.end_seq + length) & MASK32
    skb.truesize += length
    behind.data = behind.data[length:]
    behind.seq = (behind.seq + length) & MASK32
    behind.truesize -= length
    if not behind.data:
        skb.end_seq = behind.end_seq
        skb.eor = behind.eor
        skb.tcp_flags |= behind.tcp_flags
        tcp_skb_collapse_tstamp(skb, behind)
        tp.sk_wmem_queued -= behind.truesize
        del queue[1]


def tcp_cwnd_test(tp: TcpSock) -> int:
    """Segments that the congestion window has room for, at most half of it at once."""
    room = tp.snd_cwnd - tcp_packets_in_flight(tp)
    return 0 if room <= 0 else min(max(tp.snd_cwnd >> 1, 1), room)


def tcp_snd_wnd_test(tp: TcpSock, skb: SkBuff, mss: int) -> bool:
    """True if the first segment of a piece is inside the peer's window."""
    end = (skb.seq + mss) & MASK32 if len(skb.data) > mss else skb.end_seq
    return not after(end, tcp_wnd_end(tp))


def tcp_nagle_check(tp: TcpSock, length: int, mss: int, nonagle: int) -> bool:
    """True if a small segment has to wait (RFC 1122 4.2.3.4; Minshall: for a small one only)."""
    if length >= mss:
        return False
    if nonagle & TCP_NAGLE_CORK:
        return True
    return not nonagle and bool(tp.packets_out) and tcp_minshall_check(tp)


def tcp_minshall_check(tp: TcpSock) -> bool:
    tcb = tp.tcb
    return after(tp.snd_sml, tcb.snd_una) and not after(tp.snd_sml, tcb.snd_nxt)


def tcp_nagle_test(tp: TcpSock, skb: SkBuff, mss: int, nonagle: int) -> bool:
    if nonagle & TCP_NAGLE_PUSH:
        return True
    if tp.snd_up != tp.tcb.snd_una or skb.tcp_flags & TCPHDR_FIN:
        return True
    return not tcp_nagle_check(tp, len(skb.data), mss, nonagle)


def tcp_mss_split_point(tp: TcpSock, skb: SkBuff, mss: int, quota: int, nonagle: int) -> int:
    """How much of a piece may go: whole segments, unless the rest is the last and may go too."""
    room = (tcp_wnd_end(tp) - skb.seq) & MASK32
    most = mss * quota
    whole = skb is tp.sk_write_queue[-1]
    if most <= room and not whole:
        return most
    needed = min(len(skb.data), room)
    if most <= needed:
        return most
    partial = needed % mss
    if partial and tcp_nagle_check(tp, partial, mss, nonagle):
        return needed - partial
    return needed


# Options.


def tcp_time_stamp(net: Netns, tp: TcpSock) -> int:
    return (net.now_ns // NSEC_PER_MSEC + tp.tsoffset) & MASK32


def tcp_syn_options(net: Netns, tp: TcpSock) -> Options:
    """A SYN offers all that this end can (RFC 7323 2.2, 3.2; RFC 2018 2); stamps or a signature."""
    opts = Options()
    opts.mss = tcp_advertise_mss(net, tp)
    opts.md5 = tcp_md5_lookup(tp)
    if net.sysctl.tcp_timestamps and opts.md5 is None:
        opts.tsval, opts.tsecr = tcp_time_stamp(net, tp), tp.tcb.ts_recent
    if net.sysctl.tcp_window_scaling:
        opts.wscale = tp.tcb.rcv_wscale
    opts.sack_perm = bool(net.sysctl.tcp_sack)
    return opts


def tcp_advertise_mss(net: Netns, tp: TcpSock) -> int:
    """What fits this end's link (RFC 9293 3.7.1), but no more than was offered first."""
    tp.advmss = min(dst_metric_advmss(net, tp.daddr), tp.advmss)
    return tp.advmss


def dst_metric_advmss(net: Netns, daddr: bytes) -> int:
    """The MSS to offer on a path: no IPv6 link has less than 1280 bytes (RFC 8200 5)."""
    if net.route.advmss:
        return min(net.route.advmss, 65535)
    if daddr.startswith(V4MAPPED):
        return min(dst_mtu(net, daddr) - IPV4_HDR_LEN - TCP_HDR_LEN, 65535)
    mtu = max(dst_mtu(net, daddr), IPV6_MIN_MTU)
    return min(mtu - IPV6_HDR_LEN - TCP_HDR_LEN, 65535)


def tcp_sack_blocks(tp: TcpSock, room: int) -> list[tuple[int, int]]:
    """What to tell of data behind holes; a duplicate first (RFC 2018 4, RFC 2883 4)."""
    if not tp.sack_ok:
        return []
    blocks = [tp.duplicate_sack] if tp.duplicate_sack else []
    blocks += tp.sack
    return blocks[: (room - TCPOLEN_SACK_BASE_ALIGNED) // TCPOLEN_SACK_PERBLOCK]


def tcp_established_options(net: Netns, tp: TcpSock) -> Options:
    opts = Options()
    room = MAX_TCP_OPTION_SPACE
    opts.md5 = tcp_md5_lookup(tp)
    if opts.md5 is not None:
        room -= TCPOLEN_MD5SIG_ALIGNED
    if tp.tstamp_ok:
        opts.tsval, opts.tsecr = tcp_time_stamp(net, tp), tp.tcb.ts_recent
        room -= TCPOLEN_TSTAMP_ALIGNED
    opts.sack = tcp_sack_blocks(tp, room)
    return opts


def tcp_established_options_size(tp: TcpSock) -> int:
    size = TCPOLEN_TSTAMP_ALIGNED if tp.tstamp_ok else 0
    if tcp_md5_lookup(tp) is not None:
        size += TCPOLEN_MD5SIG_ALIGNED
    blocks = tcp_sack_blocks(tp, MAX_TCP_OPTION_SPACE - size)
    if blocks:
        size += TCPOLEN_SACK_BASE_ALIGNED + TCPOLEN_SACK_PERBLOCK * len(blocks)
    return size
