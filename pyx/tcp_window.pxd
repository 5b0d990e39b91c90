# What a segment may say and hold: the window to tell, its size, its options.
# Linux: net/ipv4/tcp_output.c (tcp_select_window, tcp_sync_mss, tcp_established_options).
# RFC 9293 3.7.1, 3.8.6.2.2; RFC 7323 2; RFC 2018 4.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from errqueue cimport tcp_skb_collapse_tstamp
from ip_output cimport IPV4_HDR_LEN, IPV6_HDR_LEN, IPV6_MIN_MTU, dst_mtu, options
from netns cimport NET_INC_STATS, netns, tcp_md5_lookup
from skbuff cimport kfree_skb, skb_shift, skb_unlink
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_md5 cimport TCPOLEN_MD5SIG_ALIGNED, unlikely
from timer cimport NSEC_PER_MSEC
from wire cimport TCP_HDR_LEN
from unaligned cimport fls64, ipv6_addr_v4mapped

cdef enum:
    TCPOLEN_TSTAMP_ALIGNED = 12
    TCPOLEN_SACK_BASE_ALIGNED = 4
    TCPOLEN_SACK_PERBLOCK = 8
    MAX_TCP_OPTION_SPACE = 40
    SOCK_MIN_RCVBUF = 2304
    TCP_TSO_DEFERRED = 3  # segments, if tcp_tso_win_divisor is off

# Windows.


cdef inline int64_t tcp_win_from_space(const tcp_sock *tp, int64_t space) noexcept nogil:
    """Of memory for receiving, what data may take: the rest is what buffers cost."""
    return space * tp.scaling_ratio >> TCP_RMEM_TO_WIN_SCALE


cdef inline int64_t tcp_space_from_win(const tcp_sock *tp, int64_t win) noexcept nogil:
    """Memory for a window."""
    return (win << TCP_RMEM_TO_WIN_SCALE) // tp.scaling_ratio


cdef inline int64_t tcp_space(const tcp_sock *tp) noexcept nogil:
    return tcp_win_from_space(tp, tp.sk_rcvbuf - tp.sk_rmem_alloc)


cdef inline int64_t tcp_full_space(const tcp_sock *tp) noexcept nogil:
    return tcp_win_from_space(tp, tp.sk_rcvbuf)


cdef inline void tcp_set_window_clamp(tcp_sock *tp, int64_t clamp) noexcept nogil:
    """Bound the window; what was offered already stays."""
    cdef int64_t old = tp.window_clamp
    tp.window_clamp = <int32_t>max(clamp, <int64_t>(SOCK_MIN_RCVBUF // 2))
    if tp.window_clamp < old:
        tp.rcv_ssthresh = min(tp.rcv_ssthresh, tp.window_clamp)
    elif tp.window_clamp > old:
        tp.rcv_ssthresh = max(tp.rcv_ssthresh, min(tp.rcv_wnd, tp.window_clamp))


cdef inline int64_t tcp_receive_window(const tcp_sock *tp) noexcept nogil:
    """What is left of the window that was told last."""
    cdef uint32_t win = tp.rcv_wup + <uint32_t>tp.rcv_wnd - tp.tcb.rcv_nxt
    return 0 if win > 0x7FFFFFFF else win


cdef inline int64_t tcp_unscaled_max(const netns *net) noexcept nogil:
    """The largest window without scaling; some old peers take the field for a signed number."""
    return 32767 if net.sysctl.tcp_workaround_signed_windows else 65535


cdef inline void tcp_select_initial_window(
    const netns *net,
    int64_t space,
    int64_t mss,
    bint scaling,
    int64_t window_clamp,
    int32_t *rcv_wnd,
    int32_t *clamp,
    uint8_t *rcv_wscale,
) noexcept nogil:
    """Of a SYN: its window, the most that will ever be told, the shift."""
    cdef int64_t most
    cdef int wscale = 0
    space = max(space, <int64_t>0)
    if not window_clamp:
        window_clamp = <int64_t>65535 << TCP_MAX_WSCALE
    space = min(window_clamp, space)
    if space > mss:
        space = space // mss * mss
    rcv_wnd[0] = <int32_t>space
    if net.sysctl.tcp_workaround_signed_windows:
        rcv_wnd[0] = <int32_t>min(space, <int64_t>32767)
    if net.route.initrwnd:
        rcv_wnd[0] = <int32_t>min(<int64_t>rcv_wnd[0], net.route.initrwnd * mss)
    if scaling:
        most = max(net.sysctl.tcp_rmem[2], net.sysctl.rmem_max)
        most = min(max(space, most), window_clamp)
        wscale = min(max(fls64(<uint64_t>most) - 16, 0), <int>TCP_MAX_WSCALE)
    clamp[0] = <int32_t>min(<int64_t>65535 << wscale, window_clamp)
    rcv_wscale[0] = <uint8_t>wscale


cdef inline int64_t tcp_choose_window(const netns *net, tcp_sock *tp) noexcept nogil:
    """The window to tell, in steps that are worth telling (RFC 9293 3.8.6.2.2)."""
    cdef int64_t mss = tp.rcv_mss
    cdef int64_t free_space = tcp_space(tp)
    cdef int64_t allowed = tcp_full_space(tp)
    cdef int64_t full_space = min(tp.window_clamp, allowed)
    cdef int64_t window
    cdef int scale
    if mss > full_space:
        mss = full_space
        if mss <= 0:
            return 0
    scale = tp.tcb.rcv_wscale if tp.wscale_ok else 0
    if free_space < full_space >> 1:
        tp.ack_quick = 0
        free_space = max(free_space, <int64_t>0) >> scale << scale
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


cdef inline uint16_t tcp_select_window(netns *net, tcp_sock *tp) noexcept nogil:
    """The window of the segment that leaves now.

    Its right edge never moves left (9293:SHLD-14), but where memory runs out: by tcp_shrink_window,
    and where a segment was dropped for that.
    """
    cdef int scale = tp.tcb.rcv_wscale if tp.wscale_ok else 0
    cdef int64_t old = tp.rcv_wnd, current, new
    if tp.ack_pending & ICSK_ACK_NOMEM:
        tp.rcv_wnd = 0
        tp.rcv_wup = tp.tcb.rcv_nxt
        return 0
    current = tcp_receive_window(tp)
    new = tcp_choose_window(net, tp)
    if new < current and not (scale and net.sysctl.tcp_shrink_window):
        if not new:
            NET_INC_STATS(net, TCP_WANTZEROWINDOWADV)
        new = -(-current >> scale) << scale
    tp.rcv_wnd = <int32_t>new
    tp.rcv_wup = tp.tcb.rcv_nxt
    new = min(new, <int64_t>65535 << scale if scale else tcp_unscaled_max(net)) >> scale
    if not new and old:
        NET_INC_STATS(net, TCP_TOZEROWINDOWADV)
    elif new and not old:
        NET_INC_STATS(net, TCP_FROMZEROWINDOWADV)
    return <uint16_t>new


cdef inline uint32_t tcp_wnd_end(const tcp_sock *tp) noexcept nogil:
    return tp.tcb.snd_una + tp.tcb.snd_wnd


# Segment sizes.


cdef inline int64_t ip_header_len(const tcp_sock *tp) noexcept nogil:
    return IPV4_HDR_LEN if ipv6_addr_v4mapped(tp.sk.daddr) else IPV6_HDR_LEN


cdef inline int64_t tcp_mtu_to_mss(const netns *net, const tcp_sock *tp, int64_t mtu) noexcept nogil:
    """Payload that fits, options of every segment counted (RFC 9293 3.7.1)."""
    cdef int64_t mss = min(mtu - ip_header_len(tp) - TCP_HDR_LEN, <int64_t>tp.mss_clamp)
    return max(mss, net.sysctl.tcp_min_snd_mss) - (<int64_t>tp.tcp_header_len - TCP_HDR_LEN)


cdef inline int64_t tcp_bound_to_half_wnd(const tcp_sock *tp, int64_t size) noexcept nogil:
    """Never more than half of the largest window seen."""
    cdef int64_t most = tp.tcb.max_window
    cdef int64_t half = most >> 1 if most > 536 else most
    if half and size > half:
        return max(half, <int64_t>68 - tp.tcp_header_len)
    return size


cdef inline int64_t tcp_sync_mss(netns *net, tcp_sock *tp, int64_t mtu) noexcept nogil:
    """Follow the path's MTU; never more than half of the largest window seen."""
    cdef int64_t mss = tcp_bound_to_half_wnd(tp, tcp_mtu_to_mss(net, tp, mtu))
    tp.pmtu_cookie = <int32_t>mtu
    tp.mss_cache = <uint16_t>mss
    return mss


cdef inline int64_t tcp_current_mss(netns *net, tcp_sock *tp) noexcept nogil:
    """Payload of a full segment now, with the options that it would have."""
    cdef int64_t mtu = dst_mtu(net, tp.sk.daddr)
    cdef int64_t mss = tp.mss_cache
    if mtu != tp.pmtu_cookie:
        mss = tcp_sync_mss(net, tp, mtu)
    return mss - (TCP_HDR_LEN + tcp_established_options_size(net, tp) - tp.tcp_header_len)


cdef inline int64_t tcp_send_mss(netns *net, tcp_sock *tp, bint oob, int64_t *goal) noexcept nogil:
    """MSS, and how large a piece a write makes: whole segments, at most 64 KiB."""
    cdef int64_t mss = tcp_current_mss(net, tp)
    cdef int64_t most
    goal[0] = mss
    if not unlikely(oob or tp.sk.md5sig_info != 0):
        most = tcp_bound_to_half_wnd(tp, GSO_MAX_SIZE - 1 - MAX_TCP_HEADER)
        goal[0] = max(most // mss * mss, mss)
    return mss


cdef inline int32_t tcp_set_skb_tso_segs(skb *one, int64_t mss) noexcept nogil:
    """Count a piece in segments of `mss`."""
    if one.len <= mss:
        one.pcount = 1
        one.gso_size = 0
    else:
        one.gso_size = <uint16_t>mss
        one.pcount = <int32_t>((one.len + mss - 1) // mss)
    return one.pcount


# Bursts.


cdef inline int32_t tcp_packets_in_flight(const tcp_sock *tp) noexcept nogil:
    return tp.packets_out - (tp.sacked_out + tp.lost_out) + tp.retrans_out


cdef inline int32_t tcp_tso_segs(
    const netns *net, const tcp_sock *tp, int64_t mss
) noexcept nogil:
    """Segments to send at once: what the pace brings in about a millisecond, more on short ways.

    Of what is signed one: each segment has its own signature.
    """
    cdef int64_t most = GSO_MAX_SIZE - 1 - MAX_TCP_HEADER, size = most
    if unlikely(tp.sk.md5sig_info != 0):
        return 1
    if tp.srtt_us:
        size = <int64_t>(tp.sk_pacing_rate >> 10)
        if tp.rtt_min_us >> 9 < 32:
            size += most >> (tp.rtt_min_us >> 9)
    return <int32_t>max(
        min(size, most) // mss, min(net.sysctl.tcp_min_tso_segs, max(most // mss, <int64_t>2))
    )


cdef inline int tcp_tso_should_defer(
    const netns *net, const tcp_sock *tp, const skb *one, int64_t mss, int32_t most
) noexcept nogil:
    """Whether a burst that could be longer may wait for the ACK that is about to come.

    0 to send, 1 to wait; 2 where the congestion window limits, 3 where the peer's does.
    """
    cdef int64_t now_ns = net.net.now_ns, srtt_ns, expected_ns
    cdef int64_t send_window = <uint32_t>(tcp_wnd_end(tp) - one.seq)
    cdef int64_t cong_window = (tp.snd_cwnd - tcp_packets_in_flight(tp)) * mss
    cdef int64_t limit = min(send_window, cong_window), share = net.sysctl.tcp_tso_win_divisor
    cdef bint enough
    if tp.ca_state >= TCP_CA_RECOVERY or now_ns - tp.wstamp_ns > NSEC_PER_MSEC:
        return 0
    if limit >= most * mss or (one.next != NULL and limit >= one.len):
        return 0
    if share:
        enough = limit >= min(<int64_t>tp.tcb.snd_wnd, tp.snd_cwnd * mss) // share
    else:
        enough = limit > TCP_TSO_DEFERRED * mss
    if enough or tp.tcp_rtx_queue.first == NULL:
        return 0
    srtt_ns = max((tp.srtt_us >> 3) - 1, <int64_t>0) * 1000  # no time at all counts as 1 us
    expected_ns = tp.tcp_rtx_queue.first.skb_mstamp_ns + srtt_ns - now_ns
    if expected_ns > min(srtt_ns >> 1, NSEC_PER_MSEC):
        return 0
    if cong_window < send_window and cong_window <= one.len:
        return 2
    if cong_window >= send_window and send_window <= one.len:
        return 3
    return 0 if one.tcp_flags & TCPHDR_FIN or one.eor else 1


cdef inline void tcp_grow_skb(netns *net, tcp_sock *tp, int64_t amount) noexcept nogil:
    """Fill the piece that goes next from the one behind it."""
    cdef skb *one = tp.sk_write_queue.first
    cdef skb *behind = one.next
    cdef uint32_t length
    if behind == NULL or one.eor or one.ubuf != NULL or behind.ubuf != NULL:
        return
    length = <uint32_t>min(amount, <int64_t>behind.len)
    if not length or skb_shift(&net.skbs, one, behind, length, <uint32_t>(one.len + amount)):
        return
    one.end_seq += length
    one.truesize += length
    behind.seq += length
    behind.truesize -= length
    if not behind.len:
        one.end_seq = behind.end_seq
        one.eor = behind.eor
        one.tcp_flags |= behind.tcp_flags
        tcp_skb_collapse_tstamp(one, behind)
        tp.sk_wmem_queued -= behind.truesize
        skb_unlink(&tp.sk_write_queue, behind)
        kfree_skb(&net.skbs, behind)


cdef inline int32_t tcp_cwnd_test(const tcp_sock *tp) noexcept nogil:
    """Segments that the congestion window has room for, at most half of it at once."""
    cdef int32_t room = tp.snd_cwnd - tcp_packets_in_flight(tp)
    if room <= 0:
        return 0
    return min(max(tp.snd_cwnd >> 1, 1), room)


cdef inline bint tcp_snd_wnd_test(const tcp_sock *tp, const skb *one, int64_t mss) noexcept nogil:
    """True if the first segment of a piece is inside the peer's window."""
    cdef uint32_t end = one.seq + <uint32_t>mss if one.len > mss else one.end_seq
    return not after(end, tcp_wnd_end(tp))


cdef inline bint tcp_nagle_check(
    const tcp_sock *tp, uint32_t length, int64_t mss, int nonagle
) noexcept nogil:
    """True if a small segment has to wait (RFC 1122 4.2.3.4; Minshall: for a small one only)."""
    if length >= mss:
        return False
    if nonagle & TCP_NAGLE_CORK:
        return True
    return not nonagle and tp.packets_out != 0 and tcp_minshall_check(tp)


cdef inline bint tcp_minshall_check(const tcp_sock *tp) noexcept nogil:
    return after(tp.snd_sml, tp.tcb.snd_una) and not after(tp.snd_sml, tp.tcb.snd_nxt)


cdef inline bint tcp_nagle_test(
    const tcp_sock *tp, const skb *one, int64_t mss, int nonagle
) noexcept nogil:
    if nonagle & TCP_NAGLE_PUSH:
        return True
    if tp.snd_up != tp.tcb.snd_una or one.tcp_flags & TCPHDR_FIN:
        return True
    return not tcp_nagle_check(tp, one.len, mss, nonagle)


cdef inline int64_t tcp_mss_split_point(
    const tcp_sock *tp, const skb *one, int64_t mss, int64_t quota, int nonagle
) noexcept nogil:
    """How much of a piece may go: whole segments, unless the rest is the last and may go too."""
    cdef int64_t room = <uint32_t>(tcp_wnd_end(tp) - one.seq)
    cdef int64_t most = mss * quota
    cdef int64_t needed, partial
    if most <= room and one.next != NULL:
        return most
    needed = min(<int64_t>one.len, room)
    if most <= needed:
        return most
    partial = needed % mss
    if partial and tcp_nagle_check(tp, <uint32_t>partial, mss, nonagle):
        return needed - partial
    return needed


# Options.


cdef inline uint32_t tcp_time_stamp(const netns *net, const tcp_sock *tp) noexcept nogil:
    return <uint32_t>(net.net.now_ns // NSEC_PER_MSEC) + tp.tsoffset


cdef inline void tcp_syn_options(netns *net, tcp_sock *tp, options *opts) noexcept nogil:
    """A SYN offers all that this end can (RFC 7323 2.2, 3.2; RFC 2018 2); stamps or a signature."""
    opts.n_sacks = 0
    opts.mss = <uint16_t>tcp_advertise_mss(net, tp)
    opts.md5 = tcp_md5_lookup(net, &tp.sk)
    opts.has_tstamp = net.sysctl.tcp_timestamps != 0 and opts.md5 == NULL
    if opts.has_tstamp:
        opts.tsval = tcp_time_stamp(net, tp)
        opts.tsecr = tp.tcb.ts_recent
    opts.has_wscale = net.sysctl.tcp_window_scaling != 0
    opts.wscale = tp.tcb.rcv_wscale
    opts.sack_perm = net.sysctl.tcp_sack != 0


cdef inline int64_t tcp_advertise_mss(netns *net, tcp_sock *tp) noexcept nogil:
    """What fits this end's link (RFC 9293 3.7.1), but no more than was offered first."""
    tp.advmss = <int32_t>min(dst_metric_advmss(net, tp.sk.daddr), <int64_t>tp.advmss)
    return tp.advmss


cdef inline int64_t dst_metric_advmss(netns *net, const uint8_t *daddr) noexcept nogil:
    """The MSS to offer on a path: no IPv6 link has less than 1280 bytes (RFC 8200 5)."""
    cdef int64_t mtu = dst_mtu(net, daddr)
    if net.route.advmss:
        return min(net.route.advmss, <int64_t>65535)
    if ipv6_addr_v4mapped(daddr):
        return min(mtu - IPV4_HDR_LEN - TCP_HDR_LEN, <int64_t>65535)
    return min(max(mtu, <int64_t>IPV6_MIN_MTU) - IPV6_HDR_LEN - TCP_HDR_LEN, <int64_t>65535)


cdef inline int tcp_sack_blocks(const tcp_sock *tp, int room) noexcept nogil:
    """How many blocks tell of data behind holes; a duplicate is the first (RFC 2018 4, 2883 4)."""
    cdef int count = tp.n_sacks + tp.has_dsack
    cdef int most = (room - TCPOLEN_SACK_BASE_ALIGNED) // TCPOLEN_SACK_PERBLOCK
    if not tp.sack_ok:
        return 0
    return count if count < most else most


cdef inline void tcp_established_options(
    const netns *net, const tcp_sock *tp, options *opts
) noexcept nogil:
    cdef int room = MAX_TCP_OPTION_SPACE
    cdef int i, own = 0
    opts.md5 = tcp_md5_lookup(net, &tp.sk)
    if unlikely(opts.md5 != NULL):
        room -= TCPOLEN_MD5SIG_ALIGNED
    opts.mss = 0
    opts.has_wscale = opts.sack_perm = 0
    opts.has_tstamp = tp.tstamp_ok
    if tp.tstamp_ok:
        opts.tsval = tcp_time_stamp(net, tp)
        opts.tsecr = tp.tcb.ts_recent
        room -= TCPOLEN_TSTAMP_ALIGNED
    opts.n_sacks = <uint8_t>tcp_sack_blocks(tp, room)
    if opts.n_sacks and tp.has_dsack:
        opts.sack[0] = tp.duplicate_sack
        own = 1
    for i in range(own, opts.n_sacks):
        opts.sack[i] = tp.sack[i - own]


cdef inline int64_t tcp_established_options_size(
    const netns *net, const tcp_sock *tp
) noexcept nogil:
    cdef int size = TCPOLEN_TSTAMP_ALIGNED if tp.tstamp_ok else 0
    cdef int blocks
    if tcp_md5_lookup(net, &tp.sk) != NULL:
        size += TCPOLEN_MD5SIG_ALIGNED
    blocks = tcp_sack_blocks(tp, MAX_TCP_OPTION_SPACE - size)
    if blocks:
        size += TCPOLEN_SACK_BASE_ALIGNED + TCPOLEN_SACK_PERBLOCK * blocks
    return size
