"""Who a segment is for, what is done with one that is for nobody, and the active open.

Linux: net/ipv4/tcp_ipv4.c.  RFC 9293 3.10.7, 3.5.2, 3.10.1; RFC 5961.
"""

from __future__ import annotations

from errno import EAFNOSUPPORT, EINVAL, EISCONN, ENETUNREACH
from struct import Struct

from .inet_connection_sock import inet_csk_reqsk_queue_add, sk_acceptq_is_full, tcp_set_state
from .inet_ports import (
    ANY4,
    ANY6,
    bind_unlock,
    inet_ehash_insert,
    inet_hash_connect,
    inet_lookup_listener,
    inet_put_port,
    is_any,
    request_or_sock,
)
from .inet_timewait_sock import inet_twsk_kill
from .ip_output import (
    V4MAPPED,
    Options,
    inet_addr_is_local,
    ip_queue_xmit,
    ip_route_connect,
    is_multicast,
    tcp_options_write,
)
from .netns import Netns, tcp_md5_lookup
from .secure_seq import secure_tcp_seq, secure_tcp_ts_off
from .snmp import Mib
from .sock import RequestSock, TcpSock, TimewaitSock
from .syncookies import cookie_v4_check, tcp_synq_no_recent_overflow
from .tcp import (
    MASK32,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    Bad,
    Drop,
    Segment,
)
from .tcp_input import (
    tcp_rcv_established,
    tcp_rcv_state_process,
    tcp_rcv_synsent_state_process,
)
from .tcp_md5 import (
    MD5_AT,
    MD5_OPTION,
    Md5SigKey,
    tcp_md5_do_lookup,
    tcp_md5_verify,
    tcp_parse_auth_options,
)
from .tcp_minisocks import (
    REQ_ACK,
    REQ_CHILD,
    REQ_RST,
    TW_ACK,
    TW_RST,
    TW_SYN,
    reqsk_addr,
    reqsk_md5_lookup,
    tcp_check_req,
    tcp_conn_request,
    tcp_openreq_init_rwin,
    tcp_synack_rtt_meas,
    tcp_timewait_state_process,
    tcp_v4_syn_recv_sock,
)
from .tcp_output import tcp_connect
from .tcp_validate import REPLY_RST
from .timer import NSEC_PER_MSEC

AF_INET, AF_INET6 = 2, 10
IPOPT_ROUTES = (131, 137)  # loose and strict
SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN = 16, 28
_U32 = Struct(">I")


def tcp_v4_connect(net: Netns, tp: TcpSock, family: int, addr: bytes, port: int, size: int) -> int:
    """An active open up to its SYN; 0 or a negative errno, and then the socket is as new.

    Parameters
    ----------
    net : Netns
    tp : TcpSock, in CLOSE
    family : int, AF_INET or AF_INET6
    addr : bytes, 16, IPv4 mapped
    port : int
    size : int, bytes of address that the caller has given
    """
    if size < (SOCKADDR_IN_LEN if family == AF_INET else SOCKADDR_IN6_LEN):
        return -EINVAL
    if family != (AF_INET if tp.ip == 4 else AF_INET6):
        return -EAFNOSUPPORT
    if tp.tcb.state != TCP_CLOSE:
        return -EISCONN
    if is_any(addr):  # to nobody means to oneself
        addr = V4MAPPED + b"\x7f\0\0\1" if tp.ip == 4 else bytes(15) + b"\1"
    if tp.ipv6only and addr.startswith(V4MAPPED):
        return -ENETUNREACH
    err, saddr = ip_route_connect(net, addr, b"" if is_any(tp.saddr) else tp.saddr)
    if err:
        if err == -ENETUNREACH:
            net.mib[Mib.IP_OUTNOROUTES] += 1
        return err
    tcb = tp.tcb
    tcb.ts_recent = 0
    tp.ts_recent_stamp_ns = 0
    tp.write_seq = 0
    tp.saddr, tp.daddr, tp.dport = saddr, addr, port
    tp.mss_clamp = 536 if tp.ip == 4 else 1220
    tcp_set_state(net, tp, TCP_SYN_SENT)
    err = inet_hash_connect(net, tp)
    if not err:
        if isinstance(tp.req, TimewaitSock):
            inet_twsk_kill_replaced(net, tp)
        if not tp.write_seq:
            tp.write_seq = secure_tcp_seq(
                net.key, tp.saddr, tp.daddr, tp.sport, tp.dport, net.now_ns
            )
        tp.tsoffset = MASK32 & secure_tcp_ts_off(net.key, tp.saddr, tp.daddr, tp.sport, tp.dport)
        err = tcp_connect(net, tp)
    if err:
        tcp_set_state(net, tp, TCP_CLOSE)
        if not tp.userlocks & 2:
            inet_put_port(net, tp)
            tp.sport = 0
        bind_unlock(tp)
        tp.daddr, tp.dport = b"", 0
    return err


def inet_twsk_kill_replaced(net: Netns, tp: TcpSock) -> None:
    """The rest in TIME-WAIT whose place the connection has taken."""
    tw, tp.req = tp.req, None
    inet_twsk_kill(net, tw)


def tcp_sack_parse(data: bytes, th: Segment) -> list[tuple[int, int]]:
    """The blocks of a segment's SACK option, in its order (RFC 2018 3)."""
    at = th.transport_header + 20
    end = th.transport_header + 4 * th.doff
    while at + 1 < end:
        kind = data[at]
        if kind == 1:
            at += 1
            continue
        size = data[at + 1]
        if kind == 0 or size < 2 or at + size > end:
            break
        if kind == 5 and size >= 10 and (size - 2) % 8 == 0:
            return [
                (_U32.unpack_from(data, i)[0], _U32.unpack_from(data, i + 4)[0])
                for i in range(at + 2, at + size, 8)
            ]
        at += size
    return []


def tcp_inbound_hash(net: Netns, sk: TcpSock, data: bytes, th: Segment) -> bool:
    """Whether a segment may be looked at: signed as the socket asks for, or not (RFC 2385 2.0).

    What is not is dropped without a word, and counted.
    """
    at = tcp_parse_auth_options(data, th)
    if at < 0:
        return False
    key = tcp_md5_do_lookup(sk.md5sig_info, th.saddr) if sk.md5sig_info else None
    if not at:
        if key is not None:
            net.mib[Mib.TCP_MD5NOTFOUND] += 1
        return key is None
    if key is None:
        net.mib[Mib.TCP_MD5UNEXPECTED] += 1
        return False
    if not tcp_md5_verify(key, th, data, at):
        net.mib[Mib.TCP_MD5FAILURE] += 1
        return False
    return True


def ip_source_routed(packet: bytes) -> bool:
    """True for an IPv4 packet that its sender routes (accept_source_route 0: not taken)."""
    if packet[0] >> 4 != 4:
        return False
    at, end = 20, (packet[0] & 15) * 4
    while at < end and packet[at]:
        if packet[at] in IPOPT_ROUTES:
            return True
        if packet[at] != 1 and (at + 1 >= end or packet[at + 1] < 2):
            return False
        at += 1 if packet[at] == 1 else packet[at + 1]
    return False


def tcp_v4_rcv(net: Netns, th: Segment, data: bytes) -> int:
    """A segment for this host (RFC 9293 3.10.7): Drop, or 0."""
    net.mib[Mib.TCP_INSEGS] += 1
    if th.bad & Bad.BAD_DOFF:
        net.mib[Mib.TCP_INERRS] += 1
        return Drop.TCP_BAD_DOFF
    if th.bad & Bad.BAD_TCP_CSUM:
        net.mib[Mib.TCP_CSUMERRORS] += 1
        net.mib[Mib.TCP_INERRS] += 1
        return Drop.TCP_CSUM
    if is_multicast(th.daddr) or is_multicast(th.saddr):
        return Drop.TCP_CLOSED  # 9293:MUST-57, MUST-63: and nothing is said
    at = th.transport_header
    th.urgent = data[at + 18] << 8 | data[at + 19]  # as it is: tcp_stdurg tells 0 and 1 apart
    start = at + 4 * th.doff
    payload = bytes(data[start : start + th.payload_len])
    sack = tcp_sack_parse(data, th) if th.doff > 5 and th.flags & TCPHDR_ACK else []
    sk = request_or_sock(net, th.daddr, th.dport, th.saddr, th.sport)
    if isinstance(sk, TimewaitSock):
        sk = tcp_v4_timewait(net, sk, th, data)
        if sk is None:
            return 0
    if sk is None:
        sk = inet_lookup_listener(net, th.daddr, th.dport)
        if sk is None:
            tcp_v4_send_reset(net, th, None, data)
            return Drop.TCP_CLOSED
    if not tcp_inbound_hash(net, sk.listener if isinstance(sk, RequestSock) else sk, data, th):
        return Drop.TCP_BAD_DOFF
    if isinstance(sk, RequestSock):
        what, child = tcp_check_req(net, sk, th)
        if what == REQ_RST:
            tcp_v4_send_reset(net, th, sk.listener)
        elif what == REQ_ACK:
            tcp_v4_reqsk_send_ack(net, sk)
        elif what == REQ_CHILD and child is not None:
            return tcp_child_process(net, child, th, payload, sack)
        return 0
    return tcp_v4_do_rcv(net, sk, th, payload, sack)


def tcp_segs_in(tp: TcpSock, th: Segment) -> None:
    tp.segs_in += 1
    tp.data_segs_in += th.payload_len > 0


def tcp_child_process(
    net: Netns, child: TcpSock, th: Segment, data: bytes, sack: list[tuple[int, int]]
) -> int:
    """The handshake's ACK reaches the socket that was made for it."""
    tcp_segs_in(child, th)
    if tcp_rcv_state_process(net, child, th, data, sack) == REPLY_RST:
        tcp_v4_send_reset(net, th, child)
    return 0


def tcp_v4_do_rcv(
    net: Netns, tp: TcpSock, th: Segment, data: bytes, sack: list[tuple[int, int]]
) -> int:
    """Dispatch by state."""
    tcp_segs_in(tp, th)
    state = tp.tcb.state
    if state == TCP_ESTABLISHED:
        reply = tcp_rcv_established(net, tp, th, data, sack)
    elif state == TCP_LISTEN:
        return tcp_v4_listen_rcv(net, tp, th, data, sack)
    elif state == TCP_SYN_SENT:
        reply = tcp_rcv_synsent_state_process(net, tp, th, sack)
    else:
        reply = tcp_rcv_state_process(net, tp, th, data, sack)
    if reply == REPLY_RST:
        tcp_v4_send_reset(net, th, tp)
    return 0


def tcp_v4_listen_rcv(
    net: Netns, listener: TcpSock, th: Segment, data: bytes, sack: list[tuple[int, int]]
) -> int:
    """For a listener: a SYN, or the ACK of a cookie; else nobody asked for it."""
    flags = th.flags
    if flags & TCPHDR_RST:
        return 0
    if flags & TCPHDR_ACK:
        if not flags & TCPHDR_SYN:
            valid, child = tcp_v4_cookie_check(net, listener, th)
            if child is not None:
                return tcp_child_process(net, child, th, data, sack)
            if valid:  # but there is no room: the peer is left alone
                return 0
        tcp_v4_send_reset(net, th, listener)
        return 0
    if flags & TCPHDR_SYN and not flags & TCPHDR_FIN:
        tcp_conn_request(net, listener, th, 0)
    return 0


def tcp_v4_cookie_check(net: Netns, listener: TcpSock, th: Segment) -> tuple[bool, TcpSock | None]:
    """An ACK for a listener may answer a cookie: whether it does, and the socket made of it."""
    if not net.sysctl.tcp_syncookies or tcp_synq_no_recent_overflow(net, listener):
        return False, None
    req = RequestSock(listener)
    reqsk_addr(net, req, th)
    req.tos = listener.tos
    if not cookie_v4_check(net, req, th):
        net.mib[Mib.TCP_SYNCOOKIESFAILED] += 1
        return False, None
    net.mib[Mib.TCP_SYNCOOKIESRECV] += 1
    if sk_acceptq_is_full(listener):
        net.mib[Mib.TCP_LISTENOVERFLOWS] += 1
        net.mib[Mib.TCP_LISTENDROPS] += 1
        return True, None
    tcp_openreq_init_rwin(net, req, req.mss)
    child = tcp_v4_syn_recv_sock(net, req)
    tcp_synack_rtt_meas(net, child, req, th)
    inet_ehash_insert(net, child)
    inet_csk_reqsk_queue_add(net, listener, child)
    return True, child


def tcp_v4_timewait(net: Netns, tw: TimewaitSock, th: Segment, data: bytes) -> TcpSock | None:
    """For what is in TIME-WAIT; a listener where a SYN may begin anew (RFC 6191)."""
    what, isn = tcp_timewait_state_process(net, tw, th)
    if what == TW_SYN:
        listener = inet_lookup_listener(net, th.daddr, th.dport)
        if listener is not None:
            inet_twsk_kill(net, tw)
            if tcp_inbound_hash(net, listener, data, th):
                tcp_conn_request(net, listener, th, isn)
            return None
        what = TW_ACK
    if what == TW_ACK:
        tcp_v4_timewait_ack(net, tw)
    elif what == TW_RST:
        tcp_v4_send_reset(net, th, None, data)
        inet_twsk_kill(net, tw)
    return None


# Answers without a socket.


def tcp_v4_send_reset(net: Netns, th: Segment, sk: TcpSock | None, data: bytes = b"") -> None:
    """Nobody is here (RFC 9293 3.5.2): never in answer to a reset, nor from an address not ours.

    `sk` is whose key signs it; without one a segment that is signed, of which `data` is the packet,
    is answered where `tcp_md5_of_the_lost` finds one.
    """
    if th.flags & TCPHDR_RST or not inet_addr_is_local(net, th.daddr):
        return
    key = None
    if sk is None:
        at = tcp_parse_auth_options(data, th)
        if at:
            key = tcp_md5_of_the_lost(net, th, data, at)
            if key is None:
                return
    elif sk.md5sig_info:
        key = tcp_md5_do_lookup(sk.md5sig_info, th.saddr)
    if th.flags & TCPHDR_ACK:
        seq, ack, flags = th.ack, 0, TCPHDR_RST
    else:
        length = th.payload_len + bool(th.flags & TCPHDR_SYN) + bool(th.flags & TCPHDR_FIN)
        seq, ack, flags = 0, (th.seq + length) & MASK32, TCPHDR_RST | TCPHDR_ACK
    net.mib[Mib.TCP_OUTRSTS] += 1
    net.mib[Mib.TCP_OUTSEGS] += 1
    ip_queue_xmit(
        net, th.daddr, th.saddr, th.dport, th.sport, seq, ack, flags, 0, 0,
        b"" if key is None else MD5_OPTION, b"", 0, 0, net.sysctl.ip_default_ttl, 0, True, key,
    )  # fmt: skip


def tcp_md5_of_the_lost(net: Netns, th: Segment, data: bytes, at: int) -> Md5SigKey | None:
    """The key of a signed segment whose connection is gone: a listener may still have it.

    That is one on the port it comes from, as both ends of BGP have; and only if it signs rightly.
    """
    listener = inet_lookup_listener(net, th.daddr, th.sport) if at > 0 else None
    if listener is None or not listener.md5sig_info:
        return None
    key = tcp_md5_do_lookup(listener.md5sig_info, th.saddr)
    return key if key is not None and tcp_md5_verify(key, th, data, at) else None


def tcp_v4_send_ack(
    net: Netns,
    sk: RequestSock | TimewaitSock,
    seq: int,
    ack: int,
    window: int,
    tsval: int | None,
    tsecr: int,
    key: Md5SigKey | None,
) -> None:
    """An acknowledgment for what has no socket; its signature comes last."""
    opts = Options()
    opts.tsval, opts.tsecr = tsval, tsecr
    options = tcp_options_write(opts)
    net.mib[Mib.TCP_OUTSEGS] += 1
    ip_queue_xmit(
        net, sk.saddr, sk.daddr, sk.sport, sk.dport, seq, ack, TCPHDR_ACK, window, 0,
        options if key is None else options + MD5_OPTION, b"", 0, sk.tos,
        net.sysctl.ip_default_ttl, 0, True, key, len(options) + MD5_AT,
    )  # fmt: skip


def tcp_v4_timewait_ack(net: Netns, tw: TimewaitSock) -> None:
    stamp = (net.now_ns // NSEC_PER_MSEC + tw.ts_offset) & MASK32 if tw.tstamp_ok else None
    window = min(tw.rcv_wnd >> tw.rcv_wscale, 65535)
    key = tcp_md5_lookup(tw)
    tcp_v4_send_ack(net, tw, tw.snd_nxt, tw.rcv_nxt, window, stamp, tw.ts_recent, key)


def tcp_v4_reqsk_send_ack(net: Netns, req: RequestSock) -> None:
    stamp = (net.now_ns // NSEC_PER_MSEC + req.ts_off) & MASK32 if req.tstamp_ok else None
    window = min(req.rsk_rcv_wnd, 65535) >> req.rcv_wscale
    seq = (req.snt_isn + 1) & MASK32
    key = reqsk_md5_lookup(req)
    tcp_v4_send_ack(net, req, seq, req.rcv_nxt, window, stamp, req.ts_recent, key)


def any_address(ip: int) -> bytes:
    return ANY4 if ip == 4 else ANY6
