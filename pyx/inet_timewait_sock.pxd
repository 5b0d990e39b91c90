# What is left of a connection for 2 MSL after this end closed it first.
# Linux: net/ipv4/inet_timewait_sock.c, tcp_minisocks.c (tcp_time_wait).  RFC 9293 3.6.1.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy
from inet_connection_sock cimport tcp_clear_xmit_timers, tcp_done
from inet_ports cimport inet_ehash_insert, inet_inherit_port, inet_put_port, inet_unhash
from netns cimport (
    NET_INC_STATS,
    netns,
    sk_bury,
    sk_prot_alloc,
    sk_reset_timer,
    sk_stop_timer,
    tcp_md5_key_copy,
    tcp_md5_lookup,
)
from snmp cimport TCP_TIMEWAITOVERFLOW, TCP_TW, TCP_TWKILLED
from sock cimport *
from tcp cimport TCP_TIME_WAIT
from tcp_window cimport tcp_receive_window
from timer cimport NSEC_PER_SEC


cdef inline void tcp_time_wait(
    netns *net, tcp_sock *tp, int state, int64_t timeout_ns
) noexcept nogil:
    """Leave a small rest of a socket in its place, and end the socket."""
    cdef timewait_sock *tw = NULL
    cdef int64_t stamp_ns
    if net.n_tw < net.sysctl.tcp_max_tw_buckets:
        tw = <timewait_sock *>sk_prot_alloc(net, SK_TIMEWAIT)
    if tw != NULL:
        memcpy(tw.sk.daddr, tp.sk.daddr, 16)
        if tcp_md5_key_copy(net, &tw.sk, tcp_md5_lookup(net, &tp.sk)):
            sk_bury(net, &tw.sk)
            tw = NULL
    if tw == NULL:
        NET_INC_STATS(net, TCP_TIMEWAITOVERFLOW)
        tcp_done(net, tp)
        return
    tw.sk.ip = tp.sk.ip
    memcpy(tw.sk.saddr, tp.sk.saddr, 16)
    tw.sk.sport = tp.sk.sport
    tw.sk.dport = tp.sk.dport
    tw.sk.tos = tp.sk.tos
    tw.substate = <uint8_t>state
    tw.rcv_nxt = tp.tcb.rcv_nxt
    tw.snd_nxt = tp.tcb.snd_nxt
    tw.rcv_wnd = <uint32_t>tcp_receive_window(tp)
    tw.rcv_wscale = tp.tcb.rcv_wscale if tp.wscale_ok else 0
    tw.ts_recent = tp.tcb.ts_recent
    stamp_ns = tp.ts_recent_stamp_ns if tp.ts_recent_stamp_ns else net.net.now_ns
    tw.ts_recent_stamp = <uint32_t>(stamp_ns // NSEC_PER_SEC)
    tw.ts_offset = tp.tsoffset
    tw.tstamp_ok = tp.tstamp_ok
    tw.last_oow_ack_ms = tp.last_oow_ack_ms
    tcp_clear_xmit_timers(tp)
    inet_unhash(net, &tp.sk)
    if tp.bind_pprev != NULL:
        inet_put_port(net, &tp.sk)
        inet_inherit_port(net, &tw.sk)
    inet_ehash_insert(net, &tw.sk)
    net.n_tw += 1
    timeout_ns = max(timeout_ns, (tp.rto_ns << 2) - (tp.rto_ns >> 1))
    if state == TCP_TIME_WAIT:
        timeout_ns = TCP_TIMEWAIT_LEN_NS
    NET_INC_STATS(net, TCP_TWKILLED if timeout_ns <= TCP_TW_SHORT_NS else TCP_TW)
    inet_twsk_schedule(net, tw, timeout_ns)
    tcp_done(net, tp)


cdef inline void inet_twsk_schedule(
    netns *net, timewait_sock *tw, int64_t timeout_ns
) noexcept nogil:
    sk_reset_timer(net, &tw.sk.sk_timer, net.net.now_ns + timeout_ns)


cdef inline void inet_twsk_kill(netns *net, timewait_sock *tw) noexcept nogil:
    """Its time is over, or its place is needed."""
    sk_stop_timer(&tw.sk.sk_timer)
    inet_unhash(net, &tw.sk)
    inet_put_port(net, &tw.sk)
    net.n_tw -= 1
    sk_bury(net, &tw.sk)


cdef inline void tw_timer_handler(netns *net, timewait_sock *tw) noexcept nogil:
    inet_twsk_kill(net, tw)
