# The seam of active mode, a part of _core.pyx: one host; handles, bytes and frames in, frames and
# answers out.  Linux: include/net/net_namespace.h, net/socket.c.

import errno as _errno

from libc.stdlib cimport free, realloc
from libc.string cimport memcmp
from errqueue cimport sock_dequeue_err
from inet_connection_sock cimport sk_alloc
from inet_ports cimport request_or_sock
from inet_timewait_sock cimport tw_timer_handler
from ip_output cimport skb_copy_and_csum
from netns cimport (
    ifaddr,
    netns,
    netns_free,
    netns_init,
    netns_reap,
    out_frame,
    out_purge,
    route,
    sk_lookup,
    sk_memory_allocated,
    timer_owner,
)
from rbtree cimport rb_depth
from skbuff cimport SKB_LEND_MIN, skb_data_lend, skb_data_owner, skb_data_put
from sock cimport (
    ICSK_TIME_DACK,
    ICSK_TIME_KEEPOPEN,
    ICSK_TIME_RETRANS,
    SK_REQUEST,
    SK_TIMEWAIT,
    TCP_SYNACK_TIMER,
    err_skb,
    request_sock,
    skb_data,
    sock_common,
    tcp_sock,
    timewait_sock,
)
from tcp cimport TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, tcb
from tcp_close cimport tcp_close, tcp_disconnect, tcp_shutdown
from tcp_ipv4 cimport tcp_v4_connect
from tcp_minisocks cimport reqsk_timer_handler
from tcp_sockopt cimport (
    sock_set_linger,
    tcp_getsockopt_level,
    tcp_inq_hint,
    tcp_poll,
    tcp_ioctl,
    tcp_md5_setsockopt,
    tcp_set_congestion_control,
    tcp_setsockopt_level,
)
from tcp_timer cimport tcp_delack_timer, tcp_keepalive_timer, tcp_write_timer
from tcp_user cimport (
    MSG_TRUNC,
    inet_bind,
    inet_csk_accept,
    inet_csk_listen_start,
    tcp_recvmsg,
    tcp_sendmsg,
)
from timer cimport NSEC_PER_MSEC, timer, timer_advance, timer_next
from veth cimport ip_rcv_flat, veth_xmit

cdef enum:
    EXCHANGE_MAX = 1 << 20  # frames of one exchange

# The knobs in the order of `sysctls`, and how many numbers each has.
cdef tuple SYSCTLS = tuple(
    (name, {"ip_local_port_range": 2, "tcp_rmem": 3, "tcp_wmem": 3}.get(name, 1))
    for name in (
        "ip_default_ttl ip_local_port_range ip_no_pmtu_disc icmp_ratelimit min_pmtu mtu_expires "
        "rmem_max somaxconn tcp_abort_on_overflow tcp_adv_win_scale tcp_autocorking tcp_base_mss "
        "tcp_challenge_ack_limit tcp_comp_sack_delay_ns tcp_comp_sack_nr tcp_comp_sack_rtt_percent "
        "tcp_comp_sack_slack_ns tcp_congestion_control tcp_early_retrans tcp_ecn tcp_ecn_fallback "
        "tcp_fin_timeout "
        "tcp_frto tcp_invalid_ratelimit tcp_keepalive_intvl tcp_keepalive_probes tcp_keepalive_time "
        "tcp_limit_output_bytes tcp_max_orphans tcp_max_reordering tcp_max_syn_backlog "
        "tcp_max_tw_buckets tcp_min_snd_mss tcp_min_tso_segs tcp_moderate_rcvbuf "
        "tcp_notsent_lowat "
        "tcp_orphan_retries tcp_recovery tcp_reordering tcp_retries1 tcp_retries2 tcp_rfc1337 tcp_rmem "
        "tcp_rto_max_ms tcp_rto_min_us tcp_sack tcp_dsack tcp_shrink_window "
        "tcp_slow_start_after_idle tcp_stdurg tcp_syn_linear_timeouts tcp_syn_retries "
        "tcp_synack_retries tcp_syncookies tcp_timestamps tcp_tso_win_divisor tcp_tw_reuse "
        "tcp_window_scaling "
        "tcp_wmem tcp_workaround_signed_windows wmem_max"
    ).split()
)
cdef tuple CONGESTION_CONTROLS = ("reno", "cubic")


cdef class Net:
    """A host without I/O: `receive`, `advance` and the calls of sockets change it."""

    cdef netns *net
    cdef uint64_t received
    cdef uint64_t sent
    cdef bint real_time

    def __cinit__(self, bytes key):
        if len(key) != 16:
            raise ValueError(f"key must have 16 bytes, not {len(key)}")
        self.net = <netns *>vzalloc(sizeof(netns))
        if self.net == NULL or netns_init(self.net, <const uint8_t *>PyBytes_AS_STRING(key)):
            raise MemoryError()

    def __dealloc__(self):
        if self.net != NULL:
            netns_free(self.net)
            self.settle()
            vfree(self.net, sizeof(netns))

    cdef void settle(self) noexcept:
        """A call is over: free whom it ended, give back what callers have lent."""
        cdef void *owner
        netns_reap(self.net)
        while self.net.skbs.lent != NULL:
            owner = skb_data_owner(&self.net.skbs)
            Py_DECREF(<object>owner)

    cdef tcp_sock *sock(self, uint64_t handle) except NULL:
        cdef tcp_sock *tp = sk_lookup(self.net, handle)
        if tp == NULL:
            raise OSError(_errno.EBADF, "no such socket")
        return tp

    cdef const uint8_t *address(self, bytes addr) except NULL:
        if len(addr) != 16:
            raise ValueError(f"address must have 16 bytes, not {len(addr)}")
        return <const uint8_t *>PyBytes_AS_STRING(addr)

    def socket(self, int ip):
        cdef tcp_sock *tp = sk_alloc(self.net)
        if tp == NULL:
            raise MemoryError()
        tp.sk.ip = <uint8_t>ip
        return tp.handle

    def connect(self, uint64_t handle, int family, bytes addr, uint16_t port, int64_t size=28):
        cdef int err = tcp_v4_connect(
            self.net, self.sock(handle), family, self.address(addr), port, size
        )
        self.settle()
        return err

    def bind(self, uint64_t handle, bytes addr, uint16_t port):
        return inet_bind(self.net, self.sock(handle), self.address(addr), port)

    def listen(self, uint64_t handle, int64_t backlog, bint every_port=False):
        return inet_csk_listen_start(self.net, self.sock(handle), backlog, every_port)

    def accept(self, uint64_t handle):
        cdef tcp_sock *child = NULL
        cdef int err = inet_csk_accept(self.sock(handle), &child)
        return err if err else <int64_t>child.handle

    cpdef sendmsg(
        self, uint64_t handle, data, int flags=0, int64_t tsflags=-1, int64_t stride=0
    ):
        cdef tcp_sock *tp = self.sock(handle)
        cdef Py_buffer view
        cdef int64_t sent
        cdef skb_data *page = NULL
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        if view.len >= SKB_LEND_MIN and PyBytes_CheckExact(data):  # which never change
            page = skb_data_lend(<void *>data)
            if page != NULL:
                Py_INCREF(data)
        sent = tcp_sendmsg(
            self.net, tp, page, <const uint8_t *>view.buf, view.len, flags, tsflags, stride
        )
        skb_data_put(&self.net.skbs, page)
        PyBuffer_Release(&view)
        self.settle()
        return sent

    cpdef recvmsg(self, uint64_t handle, int64_t size, int flags=0):
        cdef tcp_sock *tp = self.sock(handle)
        cdef int64_t copied = 0, room = 1
        cdef int err
        cdef bytes out
        if tp.sk_receive_queue.first != NULL:
            room = max(<int64_t>(<uint32_t>(tp.sk_receive_queue.last.end_seq - tp.copied_seq)), 1)
        out = PyBytes_FromStringAndSize(NULL, max(min(room, size), 1))
        if flags & MSG_TRUNC:
            memset(PyBytes_AS_STRING(out), 0, len(out))
        err = tcp_recvmsg(
            self.net, tp, <uint8_t *>PyBytes_AS_STRING(out), size, flags, &copied
        )
        self.settle()
        return err, out if copied == len(out) else out[:copied]

    def recv_into(self, uint64_t handle, buffer, int flags=0):
        """`recvmsg` into a buffer: a negative errno, or how many bytes."""
        cdef tcp_sock *tp = self.sock(handle)
        cdef Py_buffer view
        cdef int64_t copied = 0
        cdef int err
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        err = tcp_recvmsg(self.net, tp, <uint8_t *>view.buf, view.len, flags, &copied)
        PyBuffer_Release(&view)
        self.settle()
        return err if err else copied

    def rx_stamp(self, uint64_t handle):
        """When what was read last had come, ns; 0: nobody has asked for that."""
        cdef tcp_sock *tp = self.sock(handle)
        return 0 if tp.errors == NULL else tp.errors.rx_stamp_ns

    def inq(self, uint64_t handle):
        """Bytes that reads would give; 1 where the end alone is left."""
        return tcp_inq_hint(self.sock(handle))

    def recv_error(self, uint64_t handle):
        """The oldest message of the error queue, None if there is none.

        ee_errno, ee_origin, ee_type, ee_code, ee_info and ee_data; a time, ns (0: none); 16 bytes
        of who told it, zeros for nobody; what it is about; whether that is statistics.
        """
        cdef err_skb *one = sock_dequeue_err(self.net, self.sock(handle))
        if one == NULL:
            return None
        try:
            return (
                (one.ee_errno, one.ee_origin, one.ee_type, one.ee_code, one.ee_info, one.ee_data),
                one.stamp_ns,
                PyBytes_FromStringAndSize(<const char *>one.offender, 16),
                PyBytes_FromStringAndSize(<const char *>(one + 1), one.len),
                one.opt_stats != 0,
            )
        finally:
            free(one)

    def error_reports(self, uint64_t handle):
        """How often the caller was told that the queue has something."""
        cdef tcp_sock *tp = self.sock(handle)
        return 0 if tp.errors == NULL else tp.errors.reports

    def shutdown(self, uint64_t handle, int how):
        cdef int err = tcp_shutdown(self.net, self.sock(handle), how)
        self.settle()
        return err

    def close(self, uint64_t handle):
        cdef tcp_sock *tp = self.sock(handle)
        if tp.dead or tp.listener != NULL:
            raise OSError(_errno.EBADF, "no such socket")
        tcp_close(self.net, tp)
        self.settle()

    def abort(self, uint64_t handle):
        cdef tcp_sock *tp = self.sock(handle)
        if tp.listener != NULL:
            raise OSError(_errno.EBADF, "no such socket")
        tcp_disconnect(self.net, tp)
        self.settle()

    def setsockopt(self, uint64_t handle, int level, int name, int64_t value):
        cdef int err = tcp_setsockopt_level(self.net, self.sock(handle), level, name, value)
        self.settle()
        return err

    def getsockopt(self, uint64_t handle, int level, int name):
        cdef int64_t value = 0
        cdef int err = tcp_getsockopt_level(self.net, self.sock(handle), level, name, &value)
        return err, value

    def set_linger(self, uint64_t handle, bint on, int64_t seconds):
        return sock_set_linger(self.sock(handle), on, seconds)

    def linger(self, uint64_t handle):
        cdef tcp_sock *tp = self.sock(handle)
        return bool(tp.linger), tp.linger_s

    def set_congestion(self, uint64_t handle, str name):
        cdef tcp_sock *tp = self.sock(handle)
        if name not in CONGESTION_CONTROLS:
            return -_errno.ENOENT
        return tcp_set_congestion_control(self.net, tp, CONGESTION_CONTROLS.index(name))

    def set_md5(self, uint64_t handle, bytes addr, int prefixlen, int flags, bytes key):
        cdef tcp_sock *tp = self.sock(handle)
        if len(addr) != 16 or not 0 <= prefixlen <= 128 or len(key) > 80:
            raise ValueError("an address of 16 bytes, at most 128 bits of it and 80 bytes of key")
        return tcp_md5_setsockopt(
            self.net,
            tp,
            <const uint8_t *>PyBytes_AS_STRING(addr),
            prefixlen,
            flags & 0xFF,
            <const uint8_t *>PyBytes_AS_STRING(key),
            <int>len(key),
        )

    def congestion(self, uint64_t handle):
        return CONGESTION_CONTROLS[self.sock(handle).ca]

    def ioctl(self, uint64_t handle, int request):
        cdef int64_t value
        cdef int err = tcp_ioctl(self.sock(handle), request, &value)
        return err, value

    def meminfo(self, uint64_t handle):
        return sk_get_meminfo(self.sock(handle))

    def state(self, uint64_t handle):
        return self.sock(handle).tcb.state

    def queued(self, uint64_t handle):
        """Of a listener: requests that wait for their ACK, connections that wait for `accept`."""
        cdef tcp_sock *tp = self.sock(handle)
        return tp.n_reqs, tp.accept_len

    def steps(self, uint64_t handle):
        """Of the retransmit queue and of what lies behind holes: pieces, and steps to the farthest."""
        cdef tcp_sock *tp = self.sock(handle)
        cdef uint32_t sent = 0, early = 0
        cdef uint32_t sent_depth = rb_depth(&tp.tcp_rtx_queue, &sent)
        cdef uint32_t early_depth = rb_depth(&tp.out_of_order_queue, &early)
        return (sent, sent_depth), (early, early_depth)

    def state_of(self, bytes saddr, uint16_t sport, bytes daddr, uint16_t dport):
        """What is known of a 4-tuple, ours first: a state, CLOSE if nothing."""
        cdef sock_common *sk = request_or_sock(
            self.net, self.address(saddr), sport, self.address(daddr), dport
        )
        if sk == NULL:
            return TCP_CLOSE
        if sk.kind == SK_REQUEST:
            return TCP_SYN_RECV
        if sk.kind == SK_TIMEWAIT:
            return (<timewait_sock *>sk).substate
        return (<tcp_sock *>sk).tcb.state

    def sockname(self, uint64_t handle):
        """(4 or 6, address, port); any address and 0 before there are others."""
        cdef tcp_sock *tp = self.sock(handle)
        cdef bytes addr = PyBytes_FromStringAndSize(<const char *>tp.sk.saddr, 16)
        if not tp.has_saddr and tp.sk.ip == 4:
            addr = bytes(10) + b"\xff\xff" + bytes(4)
        return tp.sk.ip, addr, tp.sk.sport

    def peername(self, uint64_t handle):
        """(4 or 6, address, port); no bytes of address without a peer."""
        cdef tcp_sock *tp = self.sock(handle)
        cdef int state = tp.tcb.state
        if state == TCP_CLOSE or state == TCP_LISTEN or state == TCP_SYN_SENT or not tp.has_daddr:
            return tp.sk.ip, b"", 0
        return tp.sk.ip, PyBytes_FromStringAndSize(<const char *>tp.sk.daddr, 16), tp.sk.dport

    def endpoints(self, uint64_t handle):
        """Both ends, as `sockname` tells the first; the peer's is kept after the end."""
        cdef tcp_sock *tp = self.sock(handle)
        cdef bytes addr = PyBytes_FromStringAndSize(<const char *>tp.sk.daddr, 16)
        if not tp.has_daddr and tp.sk.ip == 4:
            addr = bytes(10) + b"\xff\xff" + bytes(4)
        return self.sockname(handle), (tp.sk.ip, addr, tp.sk.dport)

    def set_link(self, int64_t mtu, bint gso, bint hw_csum=False):
        """What the link does: bytes of a packet; if it cuts larger segments, finishes checksums."""
        self.net.mtu = mtu
        self.net.gso = gso
        self.net.hw_csum = hw_csum

    def set_qdisc(self, bint drops):
        """Whether the queue before the link refuses every packet (`tc ... limit 0`)."""
        self.net.qdisc_drops = drops

    def set_route(
        self, *, uint32_t mtu=0, bint mtu_lock=False, uint32_t advmss=0, uint16_t initcwnd=0,
        uint16_t initrwnd=0, uint32_t rto_min=0, bint quickack=False, bint ecn=False
    ):
        """What is said of the way to peers (`ip route`); rto_min in ms, 0: nothing is said."""
        self.net.route = route(
            mtu, mtu_lock, advmss, initcwnd, initrwnd, rto_min, quickack, ecn
        )

    def wakes(self):
        """Handles of which something may have changed since the last call."""
        cdef list woken = []
        cdef tcp_sock *tp
        cdef uint32_t i
        for i in range(self.net.n_wake):
            tp = sk_lookup(self.net, self.net.wake[i])
            if tp != NULL:
                tp.woken = 0
            woken.append(self.net.wake[i])
        self.net.n_wake = 0
        return woken

    def add_address(self, bytes addr, uint32_t prefix):
        cdef const uint8_t *known = self.address(addr)
        cdef ifaddr *addrs
        cdef uint32_t i = 0
        while i < self.net.n_addrs and memcmp(self.net.addrs[i].addr, known, 16):
            i += 1
        if i == self.net.n_addrs:
            addrs = <ifaddr *>realloc(self.net.addrs, (i + 1) * sizeof(ifaddr))
            if addrs == NULL:
                raise MemoryError()
            self.net.addrs = addrs
            self.net.n_addrs += 1
        memcpy(self.net.addrs[i].addr, known, 16)
        self.net.addrs[i].prefix = prefix

    def set_sysctl(self, str name, value):
        cdef int64_t *knobs = <int64_t *>&self.net.sysctl
        cdef int at = 0, i
        if name == "tcp_congestion_control":
            value = CONGESTION_CONTROLS.index(value)
        for known, count in SYSCTLS:
            if known == name:
                values = (value,) if count == 1 else tuple(value)
                if len(values) != count:
                    raise ValueError(f"{name} has {count} numbers")
                for i in range(count):
                    knobs[at + i] = values[i]
                return
            at += count
        raise AttributeError(f"no sysctl {name!r}")

    def counters(self):
        return [self.net.net.mib[i] for i in range(NR_MIBS)]

    def sockstat(self):
        """What is held, as /proc/net/sockstat counts it; `mem` is truesize, in bytes."""
        cdef netns *net = self.net
        return {
            "used": net.sock_cache.used,
            "requests": net.request_cache.used,
            "tw": net.timewait_cache.used,
            "inuse": net.n_established,
            "orphan": net.n_orphans,
            "any_address": net.any_address,
            "skbs": net.skbs.records.used,
            "mem": sk_memory_allocated(net),
        }

    def poll(self, uint64_t handle):
        return tcp_poll(self.net, self.sock(handle))

    def receive_batch(self, packets, int64_t now_ns):
        """IP packets that have come by now, in their order.

        A packet that is a subclass of bytes has `ip_summed` (CHECKSUM_NONE 0: to be verified) and
        `time_ns`, when it came, or None.
        """
        cdef int64_t when_ns
        for packet in packets:
            if type(packet) is bytes:
                self.advance(now_ns)
                self.net.net.ip_summed = 0
                ip_rcv_flat(
                    self.net,
                    <const uint8_t *>PyBytes_AS_STRING(packet),
                    <uint32_t>PyBytes_GET_SIZE(packet),
                )
                netns_reap(self.net)
            else:
                came_ns = getattr(packet, "time_ns", None)
                when_ns = now_ns if came_ns is None else min(<int64_t>came_ns, now_ns)
                self.receive(packet, when_ns, getattr(packet, "ip_summed", 0))
        self.settle()

    cpdef int receive(
        self, packet, int64_t now_ns, int ip_summed=0, uint16_t gso_size=0
    ) except -1:
        """One IP packet: Drop, or 0. Its checksum is verified unless `ip_summed` says it is right.

        That is anything but CHECKSUM_NONE, 0; IP's own is verified all the same.  A card may have
        joined it of segments with `gso_size` bytes of payload each; 0: not. It counts as one.
        """
        cdef int drop
        if not isinstance(packet, bytes):
            raise TypeError(f"a packet is bytes, not {type(packet).__name__}")
        self.advance(now_ns)
        self.net.net.ip_summed = ip_summed > 0
        self.net.net.gso_size = gso_size
        drop = ip_rcv_flat(
            self.net, <const uint8_t *>PyBytes_AS_STRING(packet), <uint32_t>len(packet)
        )
        self.net.net.ip_summed = 0
        self.net.net.gso_size = 0
        self.settle()
        return drop

    cpdef exchange(self, Net other, int64_t now_ns):
        """Hand over what leaves each of two hosts to the other until none is left: how many.

        What they share is the process: checksums are neither made nor tested, and text is handed
        on where it lies. Two that would never be done are stopped after a million.
        """
        cdef uint64_t most = EXCHANGE_MAX, there = 0, back = 0
        if other is self:
            raise ValueError("a host is no peer of its own")
        self.advance(now_ns)
        other.advance(now_ns)
        while there < most and self.net.n_out + other.net.n_out:
            there += veth_xmit(self.net, other.net)
            back += veth_xmit(other.net, self.net)
        self.sent += there
        self.received += back
        other.sent += back
        other.received += there
        self.settle()
        other.settle()
        return there + back

    def send_beside(self, uint64_t handle, data, Net other, int64_t now_ns):
        """`sendmsg` at a time, and `exchange`: three calls in one."""
        self.advance(now_ns)
        sent = self.sendmsg(handle, data)
        self.exchange(other, now_ns)
        return sent

    def recv_beside(self, uint64_t handle, int64_t size, Net other, int64_t now_ns):
        """`recvmsg` at a time, and `exchange`."""
        self.advance(now_ns)
        found = self.recvmsg(handle, size)
        self.exchange(other, now_ns)
        return found

    def frames(self):
        """How many came and left by `exchange`."""
        return self.received, self.sent

    def set_real_time(self, bint on):
        """Whether what is overdue happens now, once, as in the system's time, or at its own."""
        self.real_time = on

    cpdef advance(self, int64_t now_ns):
        """Let everything happen that is due by now."""
        cdef netns *net = self.net
        cdef int64_t due_ns = timer_next(&net.timers)
        cdef timer *due = timer_advance(&net.timers, now_ns)
        if self.real_time:
            net.net.now_ns = max(net.net.now_ns, now_ns)
        while due != NULL:
            net.net.now_ns = max(net.net.now_ns, due_ns)
            if due.kind == ICSK_TIME_RETRANS:
                tcp_write_timer(net, <tcp_sock *>timer_owner(due))
            elif due.kind == ICSK_TIME_DACK:
                tcp_delack_timer(net, <tcp_sock *>timer_owner(due))
            elif due.kind == ICSK_TIME_KEEPOPEN:
                tcp_keepalive_timer(net, <tcp_sock *>timer_owner(due))
            elif due.kind == TCP_SYNACK_TIMER:
                reqsk_timer_handler(net, <request_sock *>timer_owner(due))
            else:
                tw_timer_handler(net, <timewait_sock *>timer_owner(due))
            netns_reap(net)
            due_ns = timer_next(&net.timers)
            due = timer_advance(&net.timers, now_ns)
        net.net.now_ns = max(net.net.now_ns, now_ns)

    def next_deadline(self):
        return timer_next(&self.net.timers)

    def transmit(self):
        """Packets that leave; the payload of the segments to cut each into, 0 for none."""
        cdef netns *net = self.net
        cdef out_frame *one
        cdef list frames = [], sizes = []
        cdef uint32_t i
        for i in range(net.n_out):
            one = &net.out[i]
            frame = PyBytes_FromStringAndSize(NULL, one.length + one.data_len)
            skb_copy_and_csum(net, i, <uint8_t *>PyBytes_AS_STRING(frame))
            frames.append(frame)
            sizes.append(one.gso_size)
        out_purge(net)
        self.settle()
        return frames, sizes

    def info(self, uint64_t handle):
        return tcp_get_info(self.net, self.sock(handle))
