"""The caller's side: bind, listen, accept, send, receive.

Linux: net/ipv4/tcp.c, af_inet.c, inet_connection_sock.c.  RFC 9293 3.9.1, 3.10.1 to 3.10.3.
"""

from __future__ import annotations

from errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    EINVAL,
    ENOBUFS,
    ENOTCONN,
    EPIPE,
)

from .errqueue import (
    MAX_SKB_FRAGS,
    SOF_TIMESTAMPING_TX_RECORD_MASK,
    UbufInfo,
    msg_zerocopy_put_abort,
    msg_zerocopy_realloc,
    net_zcopy_put,
    sk_errors_alloc,
    tcp_tx_timestamp,
)
from .inet_connection_sock import inet_csk_reqsk_queue_remove, tcp_set_state
from .inet_ports import inet_csk_get_port, is_any, port_conflict
from .ip_output import V4MAPPED, inet_addr_is_local
from .netns import Netns
from .sock import (
    PAGE,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    TCP_NAGLE_CORK,
    TCP_NAGLE_PUSH,
    TCP_PINGPONG_THRESH,
    TCP_URG_VALID,
    SkBuff,
    TcpSock,
)
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCPHDR_ACK,
    TCPHDR_PSH,
    after,
    before,
)
from .tcp_ack import sk_stream_memory_free
from .tcp_output import (
    SKB_TRUESIZE_EMPTY,
    tcp_push_one,
    tcp_push_pending_frames,
    tcp_send_ack,
)
from .tcp_rate import (
    TCP_CHRONO_BUSY,
    tcp_chrono_start,
    tcp_rate_check_app_limited,
    tcp_slow_start_after_idle_check,
)
from .tcp_rcv_space import tcp_rcv_space_adjust
from .tcp_window import (
    tcp_choose_window,
    tcp_packets_in_flight,
    tcp_receive_window,
    tcp_send_mss,
)

MSG_OOB = 0x1
MSG_PEEK = 0x2
MSG_TRUNC = 0x20
MSG_DONTWAIT = 0x40
MSG_EOR = 0x80
MSG_WAITALL = 0x100
MSG_NOSIGNAL = 0x4000
MSG_MORE = 0x8000
MSG_ZEROCOPY = 0x4000000


def inet_bind(net: Netns, tp: TcpSock, addr: bytes, port: int) -> int:
    """Give a socket its own address and port (9293:MUST-43); 0 or a negative errno."""
    if tp.tcb.state != TCP_CLOSE or tp.sport:
        return -EINVAL
    if not is_any(addr) and not inet_addr_is_local(net, addr):
        return -EADDRNOTAVAIL
    mapped = addr.startswith(V4MAPPED)
    if tp.ipv6only and mapped:
        return -EINVAL
    tp.saddr = addr
    err = inet_csk_get_port(net, tp, port)
    if err:
        tp.saddr = b""
        return err
    if not is_any(addr):
        tp.userlocks |= SOCK_BINDADDR_LOCK
        tp.ipv6only |= not mapped
    if port:
        tp.userlocks |= SOCK_BINDPORT_LOCK
    return 0


def inet_csk_listen_start(net: Netns, tp: TcpSock, backlog: int, every_port: bool) -> int:
    """Passive open (RFC 9293 3.10.1); a second call changes the backlog alone."""
    if tp.tcb.state not in (TCP_CLOSE, TCP_LISTEN) or tp.daddr:
        return -EINVAL
    tp.max_ack_backlog = min(backlog if backlog >= 0 else 0xFFFFFFFF, net.sysctl.somaxconn)
    if tp.tcb.state == TCP_LISTEN:
        return 0
    if tp.sport or every_port:
        if port_conflict(net, tp, tp.sport):
            return -EADDRINUSE
    else:
        err = inet_csk_get_port(net, tp, 0)
        if err:
            return err
    if not tp.sport:
        net.any_address += 1
    tcp_set_state(net, tp, TCP_LISTEN)
    net.listening.setdefault(tp.sport, []).append(tp)
    return 0


def inet_csk_accept(tp: TcpSock) -> tuple[int, TcpSock | None]:
    """The oldest connection that is ready: (0, socket), or a negative errno."""
    if tp.tcb.state != TCP_LISTEN:
        return -EINVAL, None
    if not tp.accept_queue:
        return -EAGAIN, None
    child = inet_csk_reqsk_queue_remove(tp)
    child.listener = None
    return 0, child


# Send.


def tcp_skb_can_collapse_to(skb: SkBuff) -> bool:
    return not skb.eor


def skb_zcopy_room(skb: SkBuff, ubuf: UbufInfo) -> bool:
    """True if a piece takes more of a send without copying."""
    return skb.frags < MAX_SKB_FRAGS and (skb.ubuf is None or skb.ubuf is ubuf)


def forced_push(tp: TcpSock) -> bool:
    return after(tp.write_seq, (tp.pushed_seq + (tp.tcb.max_window >> 1)) & MASK32)


def tcp_mark_push(tp: TcpSock, skb: SkBuff) -> None:
    skb.tcp_flags |= TCPHDR_PSH
    tp.pushed_seq = tp.write_seq


def tcp_push(net: Netns, tp: TcpSock, flags: int, mss: int, nonagle: int) -> None:
    """A write is over: its last piece is pushed, unless more was announced (9293:MUST-61)."""
    if not tp.sk_write_queue:
        return
    tail = tp.sk_write_queue[-1]
    if not flags & MSG_MORE or forced_push(tp):
        tcp_mark_push(tp, tail)
    if flags & MSG_OOB:
        tp.snd_up = tp.write_seq
    if flags & MSG_MORE:
        nonagle = TCP_NAGLE_CORK
    tcp_push_pending_frames(net, tp, mss, nonagle)


def tcp_sendmsg(
    net: Netns, tp: TcpSock, data: bytes, flags: int, tsflags: int = -1, stride: int = 0
) -> int:
    """Queue data and send what may go (RFC 9293 3.10.2).

    Stamps are the socket's, or `tsflags`; without copying data lie in pieces of `stride` bytes,
    and of a send of which the rest comes (MSG_WAITALL) the last part alone has a number.

    Returns
    -------
    int : bytes taken, which may be fewer; -EAGAIN where there is room for none, or an errno
    """
    state = tp.tcb.state
    if tp.sk_err:
        err, tp.sk_err = tp.sk_err, 0
        return -err
    if tp.shutdown & SEND_SHUTDOWN:
        return -EPIPE
    if state not in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
        return -EAGAIN if state in (TCP_SYN_SENT, TCP_SYN_RECV) else -EPIPE
    if tsflags >= 0:
        if tsflags & ~SOF_TIMESTAMPING_TX_RECORD_MASK:
            return -EINVAL
        if sk_errors_alloc(tp) is None:
            return -ENOBUFS
    elif tp.errors is not None:
        tsflags = tp.errors.tsflags
    ubuf = None
    if flags & MSG_ZEROCOPY and data and tp.errors is not None and tp.errors.zerocopy:
        tail = tp.sk_write_queue[-1] if tp.sk_write_queue else None
        ubuf = msg_zerocopy_realloc(tp, len(data), tail.ubuf if tail is not None else None)
        if ubuf is None:
            return -ENOBUFS
    stride = min(stride, PAGE) if stride > 0 else PAGE
    tcp_rate_check_app_limited(tp, tcp_packets_in_flight(tp))
    tcp_slow_start_after_idle_check(net, tp)
    mss, goal = tcp_send_mss(net, tp, bool(flags & MSG_OOB))
    copied = 0
    queue = tp.sk_write_queue
    view = memoryview(data)
    while copied < len(view):
        skb = queue[-1] if queue else None
        room = goal - len(skb.data) if skb is not None else 0
        if ubuf is not None and skb is not None and not skb_zcopy_room(skb, ubuf):
            tcp_mark_push(tp, skb)
            room = 0
        if skb is None or room <= 0 or not tcp_skb_can_collapse_to(skb):
            if not sk_stream_memory_free(net, tp, 0):
                tp.nospace = True
                if copied:
                    tcp_push(net, tp, flags & ~MSG_MORE, mss, TCP_NAGLE_PUSH)
                break
            skb = SkBuff(tp.write_seq, bytearray(), TCPHDR_ACK)
            skb.truesize = SKB_TRUESIZE_EMPTY
            tp.sk_wmem_queued += skb.truesize
            if not queue:
                tcp_chrono_start(tp, TCP_CHRONO_BUSY, net.now_ns)
            queue.append(skb)
            tp.nonagle &= ~TCP_NAGLE_PUSH
            room = goal
        if ubuf is not None:
            room = min(room, (MAX_SKB_FRAGS - skb.frags) * stride)
            if skb.ubuf is None:
                skb.ubuf = ubuf
                ubuf.refs += 1
            skb.frags += -(-min(room, len(view) - copied) // stride)
        piece = view[copied : copied + room]
        if not copied:
            skb.tcp_flags &= ~TCPHDR_PSH
        skb.data = bytearray(skb.data) + piece
        skb.end_seq = tp.write_seq = (tp.write_seq + len(piece)) & MASK32
        skb.truesize += len(piece)
        tp.sk_wmem_queued += len(piece)
        copied += len(piece)
        if copied == len(view):
            if flags & MSG_EOR:
                skb.eor = True
            break
        if len(skb.data) < goal or flags & MSG_OOB:
            continue
        if forced_push(tp):
            tcp_mark_push(tp, skb)
            tcp_push_pending_frames(net, tp, mss, TCP_NAGLE_PUSH)
        elif skb is queue[0]:
            # What is left of it is filled again: a write may take twice what the buffer holds.
            tcp_push_one(net, tp, mss)
    if copied:
        if tsflags > 0:
            tail = tp.sk_write_queue[-1] if tp.sk_write_queue else tp.tcp_rtx_queue[-1]
            tcp_tx_timestamp(tail, tsflags)
        tcp_push(net, tp, flags, mss, tp.nonagle)
    if ubuf is not None:
        if copied and (copied == len(view) or not flags & MSG_WAITALL):
            net_zcopy_put(net, tp, ubuf)
        else:
            msg_zerocopy_put_abort(net, tp, ubuf)
    if copied:
        return copied
    return -EAGAIN if len(view) else 0


# Receive.


def tcp_recvmsg(net: Netns, tp: TcpSock, size: int, flags: int) -> tuple[int, bytes]:
    """Hand out what is there (RFC 9293 3.10.3): (0 or a negative errno, bytes).

    No bytes and no error: the peer has closed. The urgent octet is left out unless it is in line.
    With MSG_TRUNC data are dropped, and zeros handed out; a look (MSG_PEEK) with MSG_WAITALL is
    -EAGAIN while less than `size` is there and more may come.
    """
    if tp.errors is not None:
        tp.errors.rx_stamp_ns = 0
    if tp.tcb.state == TCP_LISTEN:
        return -ENOTCONN, b""
    if flags & MSG_OOB:
        return tcp_recv_urg(tp, flags)
    out = bytearray()
    queue = tp.sk_receive_queue
    seq = tp.copied_seq
    index = 0
    at_mark = False
    if flags & MSG_PEEK and tp.errors is not None and tp.errors.peek_off > 0:
        seq = (seq + tp.errors.peek_off) & MASK32
        while index < len(queue) and not before(seq, queue[index].end_seq):
            index += 1
    while len(out) < size and index < len(queue):
        skb = queue[index]
        at = (seq - skb.seq) & MASK32
        take = min(len(skb.data) - at, size - len(out))
        if tp.urg_data and not before(tp.urg_seq, seq):
            ahead = (tp.urg_seq - seq) & MASK32
            if ahead < take:
                if ahead:
                    take = ahead  # reading stops at the mark
                elif not tp.oobinline:
                    seq = (seq + 1) & MASK32
                    if not flags & MSG_PEEK:
                        tp.copied_seq = seq
                        tp.urg_data = 0
                    if at + 1 >= len(skb.data):
                        index = tcp_eat_skb(tp, index, flags)
                    continue
                elif out:
                    at_mark = True
                    break
        out += bytes(take) if flags & MSG_TRUNC else bytes(skb.data[at : at + take])
        if tp.errors is not None and take > 0:
            tp.errors.rx_stamp_ns = skb.skb_mstamp_ns
        seq = (seq + take) & MASK32
        if tp.urg_data and after(seq, tp.urg_seq) and not flags & MSG_PEEK:
            tp.urg_data = 0
        if at + take >= len(skb.data):
            index = tcp_eat_skb(tp, index, flags)
        if tp.urg_data and seq == tp.urg_seq and out:
            at_mark = True
            break
    if flags & MSG_PEEK and flags & MSG_WAITALL and len(out) < size:
        ended = tp.done or tp.sk_err or tp.shutdown & RCV_SHUTDOWN or tp.tcb.state == TCP_CLOSE
        if not at_mark and not ended:
            return -EAGAIN, b""
    sk_peek_offset(tp, len(out), flags)
    if out and not flags & MSG_PEEK:
        tp.copied_seq = seq
        tcp_rcv_space_adjust(net, tp)
    tcp_cleanup_rbuf(net, tp, len(out))
    if out:
        return 0, bytes(out)
    if tp.done:
        return 0, b""
    if tp.sk_err:
        err, tp.sk_err = tp.sk_err, 0
        return -err, b""
    if tp.shutdown & RCV_SHUTDOWN:
        return 0, b""
    if tp.tcb.state == TCP_CLOSE:
        return -ENOTCONN, b""
    return -EAGAIN, b""


def sk_peek_offset(tp: TcpSock, copied: int, flags: int) -> None:
    """SO_PEEK_OFF goes on with a look, and back with what was read."""
    errors = tp.errors
    if errors is None or errors.peek_off < 0:
        return
    moved = copied if flags & MSG_PEEK else -copied
    errors.peek_off = min(max(errors.peek_off + moved, 0), 0x7FFFFFFF)


def tcp_eat_skb(tp: TcpSock, index: int, flags: int) -> int:
    if flags & MSG_PEEK:
        return index + 1
    tp.sk_rmem_alloc -= tp.sk_receive_queue[index].truesize
    del tp.sk_receive_queue[index]
    return index


def tcp_recv_urg(tp: TcpSock, flags: int) -> tuple[int, bytes]:
    """The urgent octet by itself (9293:MUST-30)."""
    if tp.oobinline or not tp.urg_data or tp.urg_data & 0x400:
        return -EINVAL, b""
    if tp.urg_data & TCP_URG_VALID:
        octet = b"\0" if flags & MSG_TRUNC else bytes([tp.urg_data & 0xFF])
        if not flags & MSG_PEEK:
            tp.urg_data = 0x400
        return 0, octet
    if tp.tcb.state == TCP_CLOSE or tp.shutdown & RCV_SHUTDOWN:
        return 0, b""
    return -EAGAIN, b""


def tcp_cleanup_rbuf(net: Netns, tp: TcpSock, copied: int) -> None:
    """Reading made room: tell the peer where that is worth a segment (9293:MUST-39)."""
    if tp.tcb.state == TCP_CLOSE:
        return
    tell = False
    if tp.ack_pending & 1:
        unsent = (tp.tcb.rcv_nxt - tp.rcv_wup) & MASK32
        tell = unsent > tp.rcv_mss or bool(
            copied > 0
            and (
                tp.ack_pending & 8 or (tp.ack_pending & 4 and tp.ack_pingpong < TCP_PINGPONG_THRESH)
            )
            and not tp.sk_rmem_alloc
        )
    if copied > 0 and not tell and not tp.shutdown & RCV_SHUTDOWN:
        now = tcp_receive_window(tp)
        if 2 * now <= tp.window_clamp:
            new = tcp_choose_window(net, tp)
            tell = bool(new) and new >= 2 * now
    if tell:
        tcp_send_ack(net, tp)
