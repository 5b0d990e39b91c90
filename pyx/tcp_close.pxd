# The end of a socket: shut down, abort, close.
# Linux: net/ipv4/tcp.c (tcp_shutdown, tcp_disconnect, __tcp_close), inet_connection_sock.c.
# RFC 9293 3.10.4, 3.10.5.

from libc.errno cimport ECONNRESET, EINVAL, ENOTCONN
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset
from errqueue cimport skb_errqueue_purge
from inet_connection_sock cimport (
    inet_csk_destroy_sock,
    inet_csk_reqsk_queue_remove,
    tcp_done,
    tcp_init_sock,
    tcp_set_state,
    tcp_write_queue_purge,
)
from inet_ports cimport inet_put_port
from inet_timewait_sock cimport tcp_time_wait
from netns cimport NET_INC_STATS, netns, sk_reset_timer
from skbuff cimport skb_queue_bytes, skb_queue_purge
from snmp cimport *
from sock cimport *
from tcp cimport *
from tcp_cong cimport tcp_init_congestion_control
from tcp_input cimport tcp_fin_time_ns
from tcp_minisocks cimport reqsk_drop, tcp_inherit
from tcp_output cimport tcp_send_active_reset, tcp_send_fin


cdef inline bint tcp_close_state(netns *net, tcp_sock *tp) noexcept nogil:
    """Move as this end has nothing more to send; True if a FIN is to be sent."""
    cdef int state = tp.tcb.state
    if state == TCP_ESTABLISHED or state == TCP_SYN_RECV:
        tcp_set_state(net, tp, TCP_FIN_WAIT1)
        return True
    if state == TCP_CLOSE_WAIT:
        tcp_set_state(net, tp, TCP_LAST_ACK)
        return True
    if state == TCP_SYN_SENT or state == TCP_LISTEN:
        state = TCP_CLOSE
    tcp_set_state(net, tp, state)
    return False


cdef inline int tcp_shutdown(netns *net, tcp_sock *tp, int how) noexcept nogil:
    """SHUT_RD 0, SHUT_WR 1, SHUT_RDWR 2; 0 or a negative errno."""
    cdef int state = tp.tcb.state
    how += 1
    if how & ~SHUTDOWN_MASK or not how:
        return -EINVAL
    if state == TCP_CLOSE:
        tp.shutdown |= <uint8_t>how  # whoever polls it is to see that
        return -ENOTCONN
    if state == TCP_LISTEN:
        if how & RCV_SHUTDOWN:
            inet_csk_listen_stop(net, tp)
            tcp_set_state(net, tp, TCP_CLOSE)
        return 0
    if state == TCP_SYN_SENT:
        tcp_disconnect(net, tp)
        return 0
    tp.shutdown |= <uint8_t>how
    if how & SEND_SHUTDOWN and (
        state == TCP_ESTABLISHED or state == TCP_SYN_RECV or state == TCP_CLOSE_WAIT
    ):
        if tcp_close_state(net, tp):
            tcp_send_fin(net, tp)
    return 0


cdef inline bint tcp_need_reset(int state) noexcept nogil:
    return (
        state == TCP_ESTABLISHED
        or state == TCP_CLOSE_WAIT
        or state == TCP_FIN_WAIT1
        or state == TCP_FIN_WAIT2
        or state == TCP_SYN_RECV
    )


cdef inline void tcp_disconnect(netns *net, tcp_sock *tp) noexcept nogil:
    """ABORT (RFC 9293 3.10.5): what is queued is lost, the peer is told; then it is as new."""
    if tp.tcb.state == TCP_LISTEN:
        inet_csk_listen_stop(net, tp)
    if tcp_need_reset(tp.tcb.state):
        tcp_send_active_reset(net, tp)
        tp.sk_err = ECONNRESET
    elif tp.tcb.state == TCP_SYN_SENT:
        tp.sk_err = ECONNRESET
    tcp_write_queue_purge(net, tp)
    tcp_set_state(net, tp, TCP_CLOSE)  # its caller's wish: no attempt has failed
    tcp_done(net, tp)
    skb_queue_purge(&net.skbs, &tp.sk_receive_queue)
    skb_queue_purge(&net.skbs, &tp.out_of_order_queue)
    tp.sk_rmem_alloc = 0 if tp.errors == NULL else tp.errors.rmem_alloc
    if not tp.dead:
        tcp_renew(net, tp)


cdef inline void tcp_renew(netns *net, tcp_sock *tp) noexcept nogil:
    """Forget a connection, keep what the caller has asked for: options, and what he bound."""
    cdef tcp_sock old
    if not tp.userlocks & SOCK_BINDPORT_LOCK:
        inet_put_port(net, &tp.sk)
        tp.sk.sport = 0
    old = tp[0]
    memset(tp, 0, sizeof(old))
    tcp_init_sock(tp)
    tp.sk = old.sk
    tp.retransmit_timer = old.retransmit_timer
    tp.delack_timer = old.delack_timer
    tp.bind_next = old.bind_next
    tp.bind_pprev = old.bind_pprev
    tp.handle = old.handle
    tp.handle_next = old.handle_next
    tp.woken = old.woken
    tp.errors = old.errors
    tp.sk_rmem_alloc = old.sk_rmem_alloc
    memset(tp.sk.daddr, 0, 16)
    tp.sk.dport = 0
    if old.userlocks & SOCK_BINDADDR_LOCK:
        tp.has_saddr = 1
    else:
        memset(tp.sk.saddr, 0, 16)
    tcp_inherit(tp, &old)
    tp.zapped = old.zapped
    tp.sk_err = old.sk_err
    tp.defer_accept = old.defer_accept
    tp.reordering = old.reordering
    tcp_init_congestion_control(tp, old.ca, net.net.now_ns)


cdef inline void inet_csk_listen_stop(netns *net, tcp_sock *tp) noexcept nogil:
    """Requests are forgotten, connections that nobody has accepted are reset."""
    cdef tcp_sock *child
    cdef sock_common *sk
    cdef sock_common *next
    cdef uint32_t i
    while tp.accept_tail != NULL:
        child = inet_csk_reqsk_queue_remove(tp)
        child.dead = 1
        tcp_disconnect(net, child)
    if not tp.sk.sport:
        net.any_address -= 1
    if not tp.n_reqs:
        return
    for i in range(net.established_mask + 1):
        sk = net.established[i]
        while sk != NULL:
            next = sk.ehash_next
            if sk.kind == SK_REQUEST and (<request_sock *>sk).listener == tp:
                reqsk_drop(net, <request_sock *>sk)
            sk = next


cdef inline void tcp_close(netns *net, tcp_sock *tp) noexcept nogil:
    """The caller lets go (RFC 9293 3.10.4): the rest goes, or the peer learns what is lost."""
    cdef int state = tp.tcb.state
    cdef int64_t unread = 0, wait_ns
    tp.shutdown = SHUTDOWN_MASK
    if state == TCP_LISTEN:
        inet_csk_listen_stop(net, tp)
        tcp_set_state(net, tp, TCP_CLOSE)
    if tp.sk_receive_queue.first != NULL:
        unread = <int64_t>skb_queue_bytes(&tp.sk_receive_queue)
        unread -= <uint32_t>(tp.copied_seq - tp.sk_receive_queue.first.seq)
        skb_queue_purge(&net.skbs, &tp.sk_receive_queue)
    skb_errqueue_purge(tp, True)
    tp.sk_rmem_alloc = 0
    if tp.tcb.state == TCP_CLOSE:
        tp.dead = 1
        inet_csk_destroy_sock(net, tp)
        return
    if unread:
        NET_INC_STATS(net, TCP_ABORTONCLOSE)
        tcp_set_state(net, tp, TCP_CLOSE)
        tcp_send_reset_now(net, tp, state)
    elif tp.linger and not tp.linger_s:
        NET_INC_STATS(net, TCP_ABORTONDATA)
        tcp_disconnect(net, tp)
    elif tcp_close_state(net, tp):
        tcp_send_fin(net, tp)
    tp.dead = 1
    if tp.tcb.state == TCP_CLOSE:
        inet_csk_destroy_sock(net, tp)
        return
    net.n_orphans += 1
    tp.zapped = 1
    if tp.tcb.state == TCP_FIN_WAIT2:
        if tp.linger2_s < 0:
            tcp_set_state(net, tp, TCP_CLOSE)
            tcp_send_reset_now(net, tp, TCP_FIN_WAIT2)
            NET_INC_STATS(net, TCP_ABORTONLINGER)
        else:
            wait_ns = tcp_fin_time_ns(tp)
            if wait_ns > TCP_TIMEWAIT_LEN_NS:
                sk_reset_timer(
                    net, &tp.sk.sk_timer, net.net.now_ns + wait_ns - TCP_TIMEWAIT_LEN_NS
                )
            else:
                tcp_time_wait(net, tp, TCP_FIN_WAIT2, wait_ns)
                return
    if tp.tcb.state != TCP_CLOSE and net.n_orphans > net.sysctl.tcp_max_orphans:
        NET_INC_STATS(net, TCP_ABORTONMEMORY)
        tcp_send_active_reset(net, tp)
        tcp_set_state(net, tp, TCP_CLOSE)
    if tp.tcb.state == TCP_CLOSE:
        inet_csk_destroy_sock(net, tp)


cdef inline void tcp_send_reset_now(netns *net, tcp_sock *tp, int state) noexcept nogil:
    """A reset from a socket that is closed already."""
    tp.tcb.state = <uint8_t>state
    tcp_send_active_reset(net, tp)
    tp.tcb.state = TCP_CLOSE
