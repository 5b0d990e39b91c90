# Who a segment is for, what is done with one that is for nobody, and the active open.
# Linux: net/ipv4/tcp_ipv4.c.  RFC 9293 3.10.7, 3.5.2, 3.10.1; RFC 5961.

from libc.errno cimport EAFNOSUPPORT, EINVAL, EISCONN, ENETUNREACH
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from inet_connection_sock cimport inet_csk_reqsk_queue_add, sk_acceptq_is_full, tcp_set_state
from inet_ports cimport (
    bind_unlock,
    inet_ehash_insert,
    inet_hash_connect,
    inet_lookup_listener,
    inet_put_port,
    is_any,
    request_or_sock,
)
from inet_timewait_sock cimport inet_twsk_kill
from ip_output cimport (
    inet_addr_is_local,
    ip_queue_xmit,
    ip_route_connect,
    is_multicast,
    options,
    segment_out,
    tcp_md5_option,
    tcp_options_write,
)
from netns cimport NET_INC_STATS, netns, tcp_md5_lookup
from secure_seq cimport secure_tcp_seq, secure_tcp_ts_off
from snmp cimport *
from sock cimport *
from syncookies cimport cookie_v4_check, tcp_synq_no_recent_overflow
from tcp cimport *
from tcp_input cimport (
    tcp_rcv_established,
    tcp_rcv_state_process,
    tcp_rcv_synsent_state_process,
)
from tcp_md5 cimport MD5_AT, tcp_md5_do_lookup, tcp_md5_verify, tcp_parse_auth_options
from tcp_minisocks cimport *
from tcp_output cimport tcp_connect
from tcp_validate cimport REPLY_RST
from timer cimport NSEC_PER_MSEC
from unaligned cimport get_be16, get_be32, ipv6_addr_set_v4mapped, ipv6_addr_v4mapped

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    SOCKADDR_IN_LEN = 16
    SOCKADDR_IN6_LEN = 28
    IPOPT_LSRR = 131
    IPOPT_SSRR = 137


cdef inline int tcp_v4_connect(
    netns *net, tcp_sock *tp, int family, const uint8_t *addr, uint16_t port, int64_t size
) noexcept nogil:
    """An active open up to its SYN; 0 or a negative errno, and then the socket is as new.

    `addr` has 16 bytes, IPv4 mapped; `size` is how many bytes of address the caller has given.
    """
    cdef uint8_t daddr[16]
    cdef uint8_t saddr[16]
    cdef timewait_sock *tw
    cdef int err
    if size < (SOCKADDR_IN_LEN if family == AF_INET else SOCKADDR_IN6_LEN):
        return -EINVAL
    if family != (AF_INET if tp.sk.ip == 4 else AF_INET6):
        return -EAFNOSUPPORT
    if tp.tcb.state != TCP_CLOSE:
        return -EISCONN
    memcpy(daddr, addr, 16)
    if is_any(daddr):  # to nobody means to oneself
        memset(daddr, 0, 16)
        if tp.sk.ip == 4:
            daddr[10] = daddr[11] = 0xFF
            daddr[12] = 127
        daddr[15] = 1
    if tp.ipv6only and ipv6_addr_v4mapped(daddr):
        return -ENETUNREACH
    err = ip_route_connect(net, daddr, NULL if is_any(tp.sk.saddr) else tp.sk.saddr, saddr)
    if err:
        if err == -ENETUNREACH:
            NET_INC_STATS(net, IP_OUTNOROUTES)
        return err
    tp.tcb.ts_recent = 0
    tp.ts_recent_stamp_ns = 0
    tp.write_seq = 0
    memcpy(tp.sk.saddr, saddr, 16)
    memcpy(tp.sk.daddr, daddr, 16)
    tp.sk.dport = port
    tp.has_saddr = tp.has_daddr = 1
    tp.mss_clamp = 536 if tp.sk.ip == 4 else 1220
    tcp_set_state(net, tp, TCP_SYN_SENT)
    net.replaced = NULL
    err = inet_hash_connect(net, tp)
    if not err:
        if net.replaced != NULL:
            tw = net.replaced
            net.replaced = NULL
            inet_twsk_kill_replaced(net, tw)
        if not tp.write_seq:
            tp.write_seq = secure_tcp_seq(
                net.key, tp.sk.saddr, tp.sk.daddr, tp.sk.sport, tp.sk.dport, net.net.now_ns
            )
        tp.tsoffset = <uint32_t>secure_tcp_ts_off(
            net.key, tp.sk.saddr, tp.sk.daddr, tp.sk.sport, tp.sk.dport
        )
        err = tcp_connect(net, tp)
    if err:
        tcp_set_state(net, tp, TCP_CLOSE)
        if not tp.userlocks & SOCK_BINDPORT_LOCK:
            inet_put_port(net, &tp.sk)
            tp.sk.sport = 0
        bind_unlock(tp)
        memset(tp.sk.daddr, 0, 16)
        tp.has_daddr = 0
        tp.sk.dport = 0
    return err


cdef inline void inet_twsk_kill_replaced(netns *net, timewait_sock *tw) noexcept nogil:
    """The rest in TIME-WAIT whose place the connection has taken."""
    inet_twsk_kill(net, tw)


cdef inline bint tcp_only_stamped(const segment *th) noexcept nogil:
    """True for the options of most segments: a time stamp, as everybody lays it out."""
    return th.doff == 8 and get_be32(th.transport_header + 20) == 0x0101080A


cdef inline int tcp_sack_parse(rcv_skb *r) noexcept nogil:
    """The blocks of a segment's SACK option, in its order (RFC 2018 3): how many."""
    cdef const uint8_t *at = r.th.transport_header + 20
    cdef const uint8_t *end = r.th.transport_header + 4 * r.th.doff
    cdef uint8_t kind, size
    cdef int i, n
    if tcp_only_stamped(&r.th):
        return 0
    while at + 1 < end:
        kind = at[0]
        if kind == 1:
            at += 1
            continue
        size = at[1]
        if kind == 0 or size < 2 or size > end - at:
            break
        if kind == 5 and size >= 10 and (size - 2) % 8 == 0:
            n = (size - 2) // 8
            for i in range(n):
                r.sack[i].start = get_be32(at + 2 + 8 * i)
                r.sack[i].end = get_be32(at + 6 + 8 * i)
            return n
        at += size
    return 0


cdef inline bint tcp_inbound_hash(
    netns *net, const sock_common *sk, const rcv_skb *r
) noexcept nogil:
    """Whether a segment may be looked at: signed as the socket asks for, or not (RFC 2385 2.0).

    What is not is dropped without a word, and counted.
    """
    cdef const tcp_md5sig_key *key = NULL
    cdef const uint8_t *at
    if not sk.md5sig_info and tcp_only_stamped(&r.th):
        return True
    if tcp_parse_auth_options(&r.th, &at):
        return False
    if sk.md5sig_info:
        key = tcp_md5_do_lookup(&net.md5sigs[sk.md5sig_info], r.saddr)
    if at == NULL:
        if key != NULL:
            NET_INC_STATS(net, TCP_MD5NOTFOUND)
        return key == NULL
    if key == NULL:
        NET_INC_STATS(net, TCP_MD5UNEXPECTED)
        return False
    if not tcp_md5_verify(key, r, at):
        NET_INC_STATS(net, TCP_MD5FAILURE)
        return False
    return True


cdef inline void rcv_skb_addr(rcv_skb *r) noexcept nogil:
    """Whose a segment is, as tables have it."""
    cdef const uint8_t *ports = <const uint8_t *>&r.th.ports
    cdef const uint8_t *addrs = <const uint8_t *>&r.th.acookie
    if r.th.ip == 4:
        ipv6_addr_set_v4mapped(r.saddr, addrs)
        ipv6_addr_set_v4mapped(r.daddr, addrs + 4)
    else:
        memcpy(r.saddr, r.th.addrs, 16)
        memcpy(r.daddr, r.th.addrs + 16, 16)
    r.sport = get_be16(ports)
    r.dport = get_be16(ports + 2)


cdef inline bint ip_source_routed(const uint8_t *packet) noexcept nogil:
    """True for an IPv4 packet that its sender routes (accept_source_route 0: not taken)."""
    cdef uint32_t at = 20, end = <uint32_t>(packet[0] & 15) * 4
    if packet[0] >> 4 != 4:
        return False
    while at < end and packet[at]:
        if packet[at] == IPOPT_LSRR or packet[at] == IPOPT_SSRR:
            return True
        if packet[at] == 1:
            at += 1
        elif at + 1 >= end or packet[at + 1] < 2:
            return False
        else:
            at += packet[at + 1]
    return False


cdef inline int tcp_v4_rcv(netns *net, rcv_skb *r) noexcept nogil:
    """A segment for this host, its addresses known (RFC 9293 3.10.7): Drop, or 0."""
    cdef segment *th = &r.th
    cdef sock_common *sk
    cdef tcp_sock *tp
    cdef tcp_sock *child = NULL
    cdef int what
    NET_INC_STATS(net, TCP_INSEGS)
    if th.bad & BAD_DOFF:
        NET_INC_STATS(net, TCP_INERRS)
        return TCP_BAD_DOFF
    if th.bad & BAD_TCP_CSUM:
        NET_INC_STATS(net, TCP_CSUMERRORS)
        NET_INC_STATS(net, TCP_INERRS)
        return TCP_CSUM
    if is_multicast(r.daddr) or is_multicast(r.saddr):
        return TCP_CLOSED  # 9293:MUST-57, MUST-63: and nothing is said
    if r.page == NULL:
        r.data = th.transport_header + 4 * th.doff
    r.len = th.payload_len
    r.urgent = get_be16(th.transport_header + 18)
    r.n_sacks = 0
    if th.doff > 5 and th.flags & TCPHDR_ACK:
        r.n_sacks = <uint8_t>tcp_sack_parse(r)
    sk = request_or_sock(net, r.daddr, r.dport, r.saddr, r.sport)
    if sk != NULL and sk.kind == SK_TIMEWAIT:
        tcp_v4_timewait(net, <timewait_sock *>sk, r)
        return 0
    if sk == NULL:
        tp = inet_lookup_listener(net, r.daddr, r.dport)
        if tp == NULL:
            tcp_v4_send_reset(net, r, NULL)
            return TCP_CLOSED
        if not tcp_inbound_hash(net, &tp.sk, r):
            return TCP_BAD_DOFF
        return tcp_v4_do_rcv(net, tp, r)
    if sk.kind == SK_REQUEST:
        tp = (<request_sock *>sk).listener
        if not tcp_inbound_hash(net, &tp.sk, r):
            return TCP_BAD_DOFF
        what = tcp_check_req(net, <request_sock *>sk, r, &child)
        if what == REQ_RST:
            tcp_v4_send_reset(net, r, tp)
        elif what == REQ_ACK:
            tcp_v4_reqsk_send_ack(net, <request_sock *>sk)
        elif what == REQ_CHILD:
            return tcp_child_process(net, child, r)
        return 0
    if not tcp_inbound_hash(net, sk, r):
        return TCP_BAD_DOFF
    return tcp_v4_do_rcv(net, <tcp_sock *>sk, r)


cdef inline void tcp_segs_in(tcp_sock *tp, const segment *th) noexcept nogil:
    tp.segs_in += 1
    tp.data_segs_in += th.payload_len > 0


cdef inline int tcp_child_process(netns *net, tcp_sock *child, rcv_skb *r) noexcept nogil:
    """The handshake's ACK reaches the socket that was made for it."""
    tcp_segs_in(child, &r.th)
    if tcp_rcv_state_process(net, child, r) == REPLY_RST:
        tcp_v4_send_reset(net, r, child)
    return 0


cdef inline int tcp_v4_do_rcv(netns *net, tcp_sock *tp, rcv_skb *r) noexcept nogil:
    """Dispatch by state."""
    cdef int state = tp.tcb.state, reply
    tcp_segs_in(tp, &r.th)
    if state == TCP_ESTABLISHED:
        reply = tcp_rcv_established(net, tp, r)
    elif state == TCP_LISTEN:
        return tcp_v4_listen_rcv(net, tp, r)
    elif state == TCP_SYN_SENT:
        reply = tcp_rcv_synsent_state_process(net, tp, r)
    else:
        reply = tcp_rcv_state_process(net, tp, r)
    if reply == REPLY_RST:
        tcp_v4_send_reset(net, r, tp)
    return 0


cdef inline int tcp_v4_listen_rcv(netns *net, tcp_sock *listener, rcv_skb *r) noexcept nogil:
    """For a listener: a SYN, or the ACK of a cookie; else nobody asked for it."""
    cdef uint16_t flags = r.th.flags
    cdef tcp_sock *child = NULL
    cdef bint valid
    if flags & TCPHDR_RST:
        return 0
    if flags & TCPHDR_ACK:
        if not flags & TCPHDR_SYN:
            valid = tcp_v4_cookie_check(net, listener, r, &child)
            if child != NULL:
                return tcp_child_process(net, child, r)
            if valid:  # but there is no room: the peer is left alone
                return 0
        tcp_v4_send_reset(net, r, listener)
        return 0
    if flags & TCPHDR_SYN and not flags & TCPHDR_FIN:
        tcp_conn_request(net, listener, r, 0)
    return 0


cdef inline bint tcp_v4_cookie_check(
    netns *net, tcp_sock *listener, const rcv_skb *r, tcp_sock **child
) noexcept nogil:
    """An ACK for a listener may answer a cookie: whether it does, and the socket made of it."""
    cdef request_sock passing
    cdef request_sock *req = &passing
    if not net.sysctl.tcp_syncookies or tcp_synq_no_recent_overflow(net, listener):
        return False
    memset(req, 0, sizeof(passing))
    req.listener = listener
    reqsk_addr(net, req, r)
    req.sk.tos = listener.sk.tos
    if not cookie_v4_check(net, req, r):
        NET_INC_STATS(net, TCP_SYNCOOKIESFAILED)
        return False
    NET_INC_STATS(net, TCP_SYNCOOKIESRECV)
    if sk_acceptq_is_full(listener):
        NET_INC_STATS(net, TCP_LISTENOVERFLOWS)
        NET_INC_STATS(net, TCP_LISTENDROPS)
        return True
    tcp_openreq_init_rwin(net, req, req.mss)
    child[0] = tcp_v4_syn_recv_sock(net, req)
    if child[0] != NULL:
        tcp_synack_rtt_meas(net, child[0], req, &r.th)
        inet_ehash_insert(net, &child[0].sk)
        inet_csk_reqsk_queue_add(net, listener, child[0])
    return True


cdef inline void tcp_v4_timewait(netns *net, timewait_sock *tw, rcv_skb *r) noexcept nogil:
    """For what is in TIME-WAIT; a listener where a SYN may begin anew (RFC 6191)."""
    cdef uint32_t isn = 0
    cdef int what = tcp_timewait_state_process(net, tw, r, &isn)
    cdef tcp_sock *listener
    if what == TW_SYN:
        listener = inet_lookup_listener(net, r.daddr, r.dport)
        if listener != NULL:
            inet_twsk_kill(net, tw)
            if tcp_inbound_hash(net, &listener.sk, r):
                tcp_conn_request(net, listener, r, isn)
            return
        what = TW_ACK
    if what == TW_ACK:
        tcp_v4_timewait_ack(net, tw)
    elif what == TW_RST:
        tcp_v4_send_reset(net, r, NULL)
        inet_twsk_kill(net, tw)


# Answers without a socket.


cdef inline void tcp_v4_send_reset(
    netns *net, const rcv_skb *r, const tcp_sock *sk
) noexcept nogil:
    """Nobody is here (RFC 9293 3.5.2): never in answer to a reset, nor from an address not ours.

    `sk` is whose key signs it; without one a segment that is signed is answered where
    `tcp_md5_of_the_lost` finds one.
    """
    cdef const segment *th = &r.th
    cdef const uint8_t *at
    cdef segment_out out
    if th.flags & TCPHDR_RST or not inet_addr_is_local(net, r.daddr):
        return
    memset(&out, 0, sizeof(out))
    if sk == NULL:
        if tcp_parse_auth_options(th, &at):
            return
        if at != NULL:
            out.md5 = tcp_md5_of_the_lost(net, r, at)
            if out.md5 == NULL:
                return
    elif sk.sk.md5sig_info:
        out.md5 = tcp_md5_do_lookup(&net.md5sigs[sk.sk.md5sig_info], r.saddr)
    if out.md5 != NULL:
        out.options_len = <uint8_t>tcp_md5_option(out.options)
        out.md5_at = MD5_AT
    out.flags = TCPHDR_RST
    if th.flags & TCPHDR_ACK:
        out.seq = th.ack
    else:
        out.ack = th.seq + th.payload_len
        out.ack += (1 if th.flags & TCPHDR_SYN else 0) + (1 if th.flags & TCPHDR_FIN else 0)
        out.flags = TCPHDR_RST | TCPHDR_ACK
    NET_INC_STATS(net, TCP_OUTRSTS)
    out.saddr = r.daddr
    out.daddr = r.saddr
    out.sport = r.dport
    out.dport = r.sport
    out.ttl = <uint8_t>net.sysctl.ip_default_ttl
    out.df = 1
    NET_INC_STATS(net, TCP_OUTSEGS)
    ip_queue_xmit(net, &out, NULL, NULL, 0, 0)


cdef inline const tcp_md5sig_key *tcp_md5_of_the_lost(
    netns *net, const rcv_skb *r, const uint8_t *at
) noexcept nogil:
    """The key of a signed segment whose connection is gone: a listener may still have it.

    That is one on the port it comes from, as both ends of BGP have; and only if it signs rightly.
    """
    cdef const tcp_sock *listener = inet_lookup_listener(net, r.daddr, r.sport)
    cdef const tcp_md5sig_key *key
    if listener == NULL or not listener.sk.md5sig_info:
        return NULL
    key = tcp_md5_do_lookup(&net.md5sigs[listener.sk.md5sig_info], r.saddr)
    return key if key != NULL and tcp_md5_verify(key, r, at) else NULL


cdef inline void tcp_v4_send_ack(
    netns *net,
    const sock_common *sk,
    uint32_t seq,
    uint32_t ack,
    uint32_t window,
    bint stamped,
    uint32_t tsval,
    uint32_t tsecr,
    const tcp_md5sig_key *key,
) noexcept nogil:
    """An acknowledgment for what has no socket; its signature comes last."""
    cdef segment_out out
    cdef options opts
    memset(&out, 0, sizeof(out))
    memset(&opts, 0, sizeof(opts))
    opts.has_tstamp = stamped
    opts.tsval = tsval
    opts.tsecr = tsecr
    out.options_len = <uint8_t>tcp_options_write(out.options, &opts)
    if key != NULL:
        out.md5 = key
        out.md5_at = out.options_len + MD5_AT
        out.options_len += <uint8_t>tcp_md5_option(out.options + out.options_len)
    out.saddr = sk.saddr
    out.daddr = sk.daddr
    out.sport = sk.sport
    out.dport = sk.dport
    out.seq = seq
    out.ack = ack
    out.flags = TCPHDR_ACK
    out.window = <uint16_t>window
    out.tos = sk.tos
    out.ttl = <uint8_t>net.sysctl.ip_default_ttl
    out.df = 1
    NET_INC_STATS(net, TCP_OUTSEGS)
    ip_queue_xmit(net, &out, NULL, NULL, 0, 0)


cdef inline void tcp_v4_timewait_ack(netns *net, const timewait_sock *tw) noexcept nogil:
    cdef uint32_t stamp = <uint32_t>(net.net.now_ns // NSEC_PER_MSEC) + tw.ts_offset
    cdef uint32_t window = min(tw.rcv_wnd >> tw.rcv_wscale, <uint32_t>65535)
    tcp_v4_send_ack(
        net,
        &tw.sk,
        tw.snd_nxt,
        tw.rcv_nxt,
        window,
        tw.tstamp_ok,
        stamp,
        tw.ts_recent,
        tcp_md5_lookup(net, &tw.sk),
    )


cdef inline void tcp_v4_reqsk_send_ack(netns *net, const request_sock *req) noexcept nogil:
    cdef uint32_t stamp = <uint32_t>(net.net.now_ns // NSEC_PER_MSEC) + req.ts_off
    cdef uint32_t window = min(req.rsk_rcv_wnd, <uint32_t>65535) >> req.rcv_wscale
    tcp_v4_send_ack(
        net,
        &req.sk,
        req.snt_isn + 1,
        req.rcv_isn + 1,
        window,
        req.tstamp_ok,
        stamp,
        req.ts_recent,
        reqsk_md5_lookup(net, req),
    )
