# The caller's side: bind, listen, accept, send, receive.
# Linux: net/ipv4/tcp.c, af_inet.c, inet_connection_sock.c.  RFC 9293 3.9.1, 3.10.1 to 3.10.3.

from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EINVAL, ENOBUFS
from libc.errno cimport ENOTCONN, EPIPE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from errqueue cimport (
    MAX_SKB_FRAGS,
    SOF_TIMESTAMPING_TX_RECORD_MASK,
    msg_zerocopy_put_abort,
    msg_zerocopy_realloc,
    net_zcopy_put,
    sk_errors_alloc,
    tcp_tx_timestamp,
)
from inet_connection_sock cimport inet_csk_reqsk_queue_remove, tcp_set_state
from inet_ports cimport inet_csk_get_port, inet_listen_hash, is_any, port_conflict
from ip_output cimport inet_addr_is_local
from netns cimport netns
from skbuff cimport build_skb, kfree_skb, skb_append, skb_queue_tail, skb_unlink
from sock cimport *
from tcp cimport *
from tcp_ack cimport sk_stream_memory_free
from tcp_rcv_space cimport tcp_rcv_space_adjust
from tcp_output cimport (
    SKB_TRUESIZE_EMPTY,
    tcp_push_one,
    tcp_push_pending_frames,
    tcp_send_ack,
)
from tcp_rate cimport (
    TCP_CHRONO_BUSY,
    tcp_chrono_start,
    tcp_rate_check_app_limited,
    tcp_slow_start_after_idle_check,
)
from tcp_window cimport tcp_choose_window, tcp_packets_in_flight, tcp_receive_window, tcp_send_mss
from unaligned cimport ipv6_addr_v4mapped

cdef enum:
    MSG_OOB = 0x1
    MSG_PEEK = 0x2
    MSG_TRUNC = 0x20
    MSG_DONTWAIT = 0x40
    MSG_EOR = 0x80
    MSG_WAITALL = 0x100
    MSG_NOSIGNAL = 0x4000
    MSG_MORE = 0x8000
    MSG_ZEROCOPY = 0x4000000


cdef inline int inet_bind(
    netns *net, tcp_sock *tp, const uint8_t *addr, uint16_t port
) noexcept nogil:
    """Give a socket its own address and port (9293:MUST-43); 0 or a negative errno."""
    cdef bint any_one = is_any(addr)
    cdef int err
    if tp.tcb.state != TCP_CLOSE or tp.sk.sport:
        return -EINVAL
    if not any_one and not inet_addr_is_local(net, addr):
        return -EADDRNOTAVAIL
    if tp.ipv6only and ipv6_addr_v4mapped(addr):
        return -EINVAL
    memcpy(tp.sk.saddr, addr, 16)
    tp.has_saddr = 1
    err = inet_csk_get_port(net, tp, port)
    if err:
        memset(tp.sk.saddr, 0, 16)
        tp.has_saddr = 0
        return err
    if not any_one:
        tp.userlocks |= SOCK_BINDADDR_LOCK
        tp.ipv6only |= not ipv6_addr_v4mapped(addr)
    if port:
        tp.userlocks |= SOCK_BINDPORT_LOCK
    return 0


cdef inline int inet_csk_listen_start(
    netns *net, tcp_sock *tp, int64_t backlog, bint every_port
) noexcept nogil:
    """Passive open (RFC 9293 3.10.1); a second call changes the backlog alone."""
    cdef int err
    if (tp.tcb.state != TCP_CLOSE and tp.tcb.state != TCP_LISTEN) or tp.has_daddr:
        return -EINVAL
    tp.max_ack_backlog = min(
        backlog if backlog >= 0 else <int64_t>0xFFFFFFFF, net.sysctl.somaxconn
    )
    if tp.tcb.state == TCP_LISTEN:
        return 0
    if tp.sk.sport or every_port:
        if port_conflict(net, tp, tp.sk.sport):
            return -EADDRINUSE
    else:
        err = inet_csk_get_port(net, tp, 0)
        if err:
            return err
    if not tp.sk.sport:
        net.any_address += 1
    tcp_set_state(net, tp, TCP_LISTEN)
    inet_listen_hash(net, tp)
    return 0


cdef inline int inet_csk_accept(tcp_sock *tp, tcp_sock **child) noexcept nogil:
    """The oldest connection that is ready; 0 or a negative errno."""
    if tp.tcb.state != TCP_LISTEN:
        return -EINVAL
    if tp.accept_tail == NULL:
        return -EAGAIN
    child[0] = inet_csk_reqsk_queue_remove(tp)
    child[0].listener = NULL
    return 0


# Send.


cdef inline bint tcp_skb_can_collapse_to(const skb *one) noexcept nogil:
    return not one.eor


cdef inline bint skb_zcopy_room(const skb *one, const ubuf_info *ubuf) noexcept nogil:
    """True if a piece takes more of a send without copying."""
    return one.frags < MAX_SKB_FRAGS and (one.ubuf == NULL or one.ubuf == ubuf)


cdef inline bint forced_push(const tcp_sock *tp) noexcept nogil:
    return after(tp.write_seq, tp.pushed_seq + (tp.tcb.max_window >> 1))


cdef inline void tcp_mark_push(tcp_sock *tp, skb *one) noexcept nogil:
    one.tcp_flags |= TCPHDR_PSH
    tp.pushed_seq = tp.write_seq


cdef inline void tcp_push(
    netns *net, tcp_sock *tp, int flags, int64_t mss, int nonagle
) noexcept nogil:
    """A write is over: its last piece is pushed, unless more was announced (9293:MUST-61)."""
    cdef skb *tail = tp.sk_write_queue.last
    if tail == NULL:
        return
    if not flags & MSG_MORE or forced_push(tp):
        tcp_mark_push(tp, tail)
    if flags & MSG_OOB:
        tp.snd_up = tp.write_seq
    if flags & MSG_MORE:
        nonagle = TCP_NAGLE_CORK
    tcp_push_pending_frames(net, tp, mss, nonagle)


cdef inline int64_t tcp_sendmsg(
    netns *net,
    tcp_sock *tp,
    skb_data *page,
    const uint8_t *data,
    int64_t length,
    int flags,
    int64_t tsflags,
    int64_t stride,
) noexcept nogil:
    """Queue data and send what may go (RFC 9293 3.10.2); with a page by reference, else copied.

    Stamps are the socket's, or `tsflags`; without copying data lie in pieces of `stride` bytes,
    and of a send of which the rest comes (MSG_WAITALL) the last part alone has a number.
    Bytes taken, which may be fewer; -EAGAIN where there is room for none, or an errno.
    """
    cdef int state = tp.tcb.state, err
    cdef int64_t goal, mss, room, copied = 0
    cdef uint32_t piece
    cdef skb *one
    cdef ubuf_info *ubuf = NULL
    if tp.sk_err:
        err = tp.sk_err
        tp.sk_err = 0
        return -err
    if tp.shutdown & SEND_SHUTDOWN:
        return -EPIPE
    if state != TCP_ESTABLISHED and state != TCP_CLOSE_WAIT:
        return -EAGAIN if state == TCP_SYN_SENT or state == TCP_SYN_RECV else -EPIPE
    if tsflags >= 0:
        if tsflags & ~<int64_t>SOF_TIMESTAMPING_TX_RECORD_MASK:
            return -EINVAL
        if sk_errors_alloc(tp) == NULL:
            return -ENOBUFS
    elif tp.errors != NULL:
        tsflags = tp.errors.tsflags
    if flags & MSG_ZEROCOPY and length and tp.errors != NULL and tp.errors.zerocopy:
        one = tp.sk_write_queue.last
        ubuf = msg_zerocopy_realloc(tp, length, one.ubuf if one != NULL else NULL)
        if ubuf == NULL:
            return -ENOBUFS
    stride = min(stride, <int64_t>PAGE) if stride > 0 else PAGE
    tcp_rate_check_app_limited(tp, tcp_packets_in_flight(tp))
    tcp_slow_start_after_idle_check(net, tp)
    mss = tcp_send_mss(net, tp, flags & MSG_OOB, &goal)
    err = -EAGAIN
    while copied < length:
        one = tp.sk_write_queue.last
        room = goal - one.len if one != NULL else 0
        if ubuf != NULL and one != NULL and not skb_zcopy_room(one, ubuf):
            tcp_mark_push(tp, one)
            room = 0
        if one == NULL or room <= 0 or not tcp_skb_can_collapse_to(one):
            if not sk_stream_memory_free(net, tp, 0):
                tp.nospace = True
                if copied:
                    tcp_push(net, tp, flags & ~MSG_MORE, mss, TCP_NAGLE_PUSH)
                break
            room = goal
            if ubuf != NULL:
                room = min(room, MAX_SKB_FRAGS * stride)
            piece = <uint32_t>min(room, length - copied)
            one = build_skb(&net.skbs, page, data + copied, piece, piece)
            if one == NULL:
                err = -ENOBUFS
                break
            one.seq = one.end_seq = tp.write_seq
            one.tcp_flags = TCPHDR_ACK
            one.truesize = SKB_TRUESIZE_EMPTY
            tp.sk_wmem_queued += one.truesize
            if tp.sk_write_queue.first == NULL:
                tcp_chrono_start(tp, TCP_CHRONO_BUSY, net.net.now_ns)
            skb_queue_tail(&tp.sk_write_queue, one)
            tp.nonagle &= <uint8_t>~TCP_NAGLE_PUSH
        if ubuf != NULL:
            room = min(room, (MAX_SKB_FRAGS - one.frags) * stride)
            if one.ubuf == NULL:
                one.ubuf = ubuf
                ubuf.refs += 1
            one.frags += <uint8_t>((min(room, length - copied) + stride - 1) // stride)
        piece = <uint32_t>min(room, length - copied)
        if one.seq + one.len == one.end_seq:  # its bytes are not there yet
            if skb_append(&net.skbs, one, data + copied, piece, <uint32_t>goal):
                err = -ENOBUFS
                break
        if not copied:
            one.tcp_flags &= <uint8_t>~TCPHDR_PSH
        tp.write_seq += piece
        one.end_seq = tp.write_seq
        one.truesize += piece
        tp.sk_wmem_queued += piece
        copied += piece
        if copied == length:
            if flags & MSG_EOR:
                one.eor = 1
            break
        if one.len < goal or flags & MSG_OOB:
            continue
        if forced_push(tp):
            tcp_mark_push(tp, one)
            tcp_push_pending_frames(net, tp, mss, TCP_NAGLE_PUSH)
        elif one == tp.sk_write_queue.first:
            # What is left of it is filled again: a write may take twice what the buffer holds.
            tcp_push_one(net, tp, mss)
    if copied:
        if tsflags > 0:
            one = tp.sk_write_queue.last
            tcp_tx_timestamp(one if one != NULL else tp.tcp_rtx_queue.last, tsflags)
        tcp_push(net, tp, flags, mss, tp.nonagle)
    if ubuf != NULL:
        if copied and (copied == length or not flags & MSG_WAITALL):
            net_zcopy_put(net, tp, ubuf)
        else:
            msg_zerocopy_put_abort(net, tp, ubuf)
    if copied:
        return copied
    return err if length else 0


# Receive.


cdef inline int tcp_recvmsg(
    netns *net, tcp_sock *tp, uint8_t *out, int64_t size, int flags, int64_t *copied
) noexcept nogil:
    """Hand out what is there (RFC 9293 3.10.3): 0 or a negative errno.

    No bytes and no error: the peer has closed. The urgent octet is left out unless it is in line.
    With MSG_TRUNC data are dropped, and `out` is as it was; a look (MSG_PEEK) with MSG_WAITALL is
    -EAGAIN while less than `size` is there and more may come.
    """
    cdef skb *one = tp.sk_receive_queue.first
    cdef uint32_t seq = tp.copied_seq, at, ahead
    cdef int64_t n = 0, take
    cdef bint peek = flags & MSG_PEEK, at_mark = False
    cdef int err
    copied[0] = 0
    if tp.errors != NULL:
        tp.errors.rx_stamp_ns = 0
    if tp.tcb.state == TCP_LISTEN:
        return -ENOTCONN
    if flags & MSG_OOB:
        return tcp_recv_urg(tp, out, flags, copied)
    if peek and tp.errors != NULL and tp.errors.peek_off > 0:
        seq += <uint32_t>tp.errors.peek_off
        while one != NULL and not before(seq, one.end_seq):
            one = one.next
    while n < size and one != NULL:
        at = seq - one.seq
        take = min(<int64_t>one.len - at, size - n)
        if tp.urg_data and not before(tp.urg_seq, seq):
            ahead = tp.urg_seq - seq
            if ahead < take:
                if ahead:
                    take = ahead  # reading stops at the mark
                elif not tp.oobinline:
                    seq += 1
                    if not peek:
                        tp.copied_seq = seq
                        tp.urg_data = 0
                    if at + 1 >= one.len:
                        one = tcp_eat_skb(net, tp, one, flags)
                    continue
                elif n:
                    at_mark = True
                    break
        if take > 0:
            if not flags & MSG_TRUNC:
                memcpy(out + n, one.data + at, take)
            if tp.errors != NULL:
                tp.errors.rx_stamp_ns = one.skb_mstamp_ns
            n += take
            seq += <uint32_t>take
        if tp.urg_data and after(seq, tp.urg_seq) and not peek:
            tp.urg_data = 0
        if at + take >= one.len:
            one = tcp_eat_skb(net, tp, one, flags)
        if tp.urg_data and seq == tp.urg_seq and n:
            at_mark = True
            break
    if peek and flags & MSG_WAITALL and n < size and not at_mark:
        if not (
            tp.done
            or tp.sk_err
            or tp.shutdown & RCV_SHUTDOWN
            or tp.tcb.state == TCP_CLOSE
        ):
            return -EAGAIN
    sk_peek_offset(tp, n, peek)
    if n and not peek:
        tp.copied_seq = seq
        tcp_rcv_space_adjust(net, tp)
    tcp_cleanup_rbuf(net, tp, n)
    if n:
        copied[0] = n
        return 0
    if tp.done:
        return 0
    if tp.sk_err:
        err = tp.sk_err
        tp.sk_err = 0
        return -err
    if tp.shutdown & RCV_SHUTDOWN:
        return 0
    if tp.tcb.state == TCP_CLOSE:
        return -ENOTCONN
    return -EAGAIN


cdef inline void sk_peek_offset(tcp_sock *tp, int64_t copied, bint peek) noexcept nogil:
    """SO_PEEK_OFF goes on with a look, and back with what was read."""
    if tp.errors == NULL or tp.errors.peek_off < 0:
        return
    copied = tp.errors.peek_off + (copied if peek else -copied)
    tp.errors.peek_off = <int32_t>min(max(copied, <int64_t>0), <int64_t>0x7FFFFFFF)


cdef inline skb *tcp_eat_skb(netns *net, tcp_sock *tp, skb *one, int flags) noexcept nogil:
    """Pass over a piece, and free it unless it was only looked at; the next."""
    cdef skb *next = one.next
    if not flags & MSG_PEEK:
        tp.sk_rmem_alloc -= one.truesize
        skb_unlink(&tp.sk_receive_queue, one)
        kfree_skb(&net.skbs, one)
    return next


cdef inline int tcp_recv_urg(tcp_sock *tp, uint8_t *out, int flags, int64_t *copied) noexcept nogil:
    """The urgent octet by itself (9293:MUST-30)."""
    if tp.oobinline or not tp.urg_data or tp.urg_data & TCP_URG_READ:
        return -EINVAL
    if tp.urg_data & TCP_URG_VALID:
        if not flags & MSG_TRUNC:
            out[0] = tp.urg_data & 0xFF
        copied[0] = 1
        if not flags & MSG_PEEK:
            tp.urg_data = TCP_URG_READ
        return 0
    if tp.tcb.state == TCP_CLOSE or tp.shutdown & RCV_SHUTDOWN:
        return 0
    return -EAGAIN


cdef inline void tcp_cleanup_rbuf(netns *net, tcp_sock *tp, int64_t copied) noexcept nogil:
    """Reading made room: tell the peer where that is worth a segment (9293:MUST-39)."""
    cdef bint tell = False
    cdef int64_t now, new
    if tp.tcb.state == TCP_CLOSE:
        return
    if tp.ack_pending & ICSK_ACK_SCHED:
        now = <uint32_t>(tp.tcb.rcv_nxt - tp.rcv_wup)
        tell = now > tp.rcv_mss or (
            copied > 0
            and (
                tp.ack_pending & ICSK_ACK_PUSHED2
                or (tp.ack_pending & ICSK_ACK_PUSHED and tp.ack_pingpong < TCP_PINGPONG_THRESH)
            )
            and not tp.sk_rmem_alloc
        )
    if copied > 0 and not tell and not tp.shutdown & RCV_SHUTDOWN:
        now = tcp_receive_window(tp)
        if 2 * now <= tp.window_clamp:
            new = tcp_choose_window(net, tp)
            tell = new and new >= 2 * now
    if tell:
        tcp_send_ack(net, tp)
