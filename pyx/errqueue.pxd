# What a socket tells beside its stream: time stamps, sends whose bytes are free, ICMP errors.
# Linux: net/core/skbuff.c (sock_queue_err_skb, __skb_tstamp_tx, msg_zerocopy_*), sock.c
# (sock_set_timestamping), net/ipv4/ip_sockglue.c (ip_icmp_error, ip_recv_error), tcp_input.c.

from libc.errno cimport EINVAL
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from netns cimport netns, sk_wake
from sock cimport err_skb, skb, sock_errors, tcp_sock, ubuf_info
from tcp cimport TCP_CLOSE, TCP_LISTEN, before

cdef enum:
    SOF_TIMESTAMPING_TX_HARDWARE = 0x1
    SOF_TIMESTAMPING_TX_SOFTWARE = 0x2
    SOF_TIMESTAMPING_RX_SOFTWARE = 0x8
    SOF_TIMESTAMPING_SOFTWARE = 0x10
    SOF_TIMESTAMPING_OPT_ID = 0x80
    SOF_TIMESTAMPING_TX_SCHED = 0x100
    SOF_TIMESTAMPING_TX_ACK = 0x200
    SOF_TIMESTAMPING_OPT_TSONLY = 0x800
    SOF_TIMESTAMPING_OPT_STATS = 0x1000
    SOF_TIMESTAMPING_OPT_ID_TCP = 0x10000
    SOF_TIMESTAMPING_TX_COMPLETION = 0x40000
    SOF_TIMESTAMPING_MASK = 0x7FFFF
    SOF_TIMESTAMPING_TX_RECORD_MASK = 0x40303  # what one write may ask for

cdef enum:
    SCM_TSTAMP_SND = 0
    SCM_TSTAMP_SCHED = 1
    SCM_TSTAMP_ACK = 2
    SO_EE_ORIGIN_ICMP = 2
    SO_EE_ORIGIN_ICMP6 = 3
    SO_EE_ORIGIN_TIMESTAMPING = 4
    SO_EE_ORIGIN_ZEROCOPY = 5
    SO_EE_CODE_ZEROCOPY_COPIED = 1

# Of a piece: which stamps its last byte is to have.
cdef enum:
    SKBTX_ACK_TSTAMP = 1
    SKBTX_SW_TSTAMP = 2
    SKBTX_SCHED_TSTAMP = 64

cdef enum:
    ERR_TRUESIZE = 896  # of a message without bytes
    ZEROCOPY_RESERVE = 576  # what has to be free for one send more
    OPTMEM_MAX = 131072  # of sends without copying, and of their messages
    ZEROCOPY_BYTES = 1 << 19  # of sends that are told as one
    ZEROCOPY_LEN = 65534
    MAX_SKB_FRAGS = 17


cdef inline sock_errors *sk_errors_alloc(tcp_sock *tp) noexcept nogil:
    """What there is, or a new one; NULL without memory."""
    if tp.errors == NULL:
        tp.errors = <sock_errors *>calloc(1, sizeof(sock_errors))
        if tp.errors != NULL:
            tp.errors.peek_off = -1
    return tp.errors


cdef inline void sk_errors_inherit(tcp_sock *tp, const tcp_sock *listener) noexcept nogil:
    """A child has its listener's options."""
    cdef sock_errors *made
    if listener.errors == NULL:
        return
    made = sk_errors_alloc(tp)
    if made == NULL:
        return
    made.tsflags = listener.errors.tsflags
    made.rcvtstamp = listener.errors.rcvtstamp
    made.zerocopy = listener.errors.zerocopy
    made.peek_off = listener.errors.peek_off


cdef inline void sk_error_report(netns *net, tcp_sock *tp) noexcept nogil:
    tp.errors.reports += 1
    sk_wake(net, tp)


cdef inline err_skb *err_skb_alloc(
    int ee_errno, int ee_origin, const uint8_t *data, uint32_t length
) noexcept nogil:
    """A message with some bytes; NULL without memory."""
    cdef err_skb *one = <err_skb *>calloc(1, sizeof(err_skb) + <size_t>length)
    if one == NULL:
        return NULL
    one.ee_errno = ee_errno
    one.ee_origin = <uint8_t>ee_origin
    one.len = length
    one.truesize = ERR_TRUESIZE + length
    if length:
        memcpy(one + 1, data, length)
    return one


cdef inline void err_queue_tail(sock_errors *errors, err_skb *one) noexcept nogil:
    one.next = NULL
    if errors.last != NULL:
        errors.last.next = one
    else:
        errors.first = one
    errors.last = one


cdef inline bint sock_queue_err(netns *net, tcp_sock *tp, err_skb *one) noexcept nogil:
    """Put a message into the queue, within the receive buffer; False if there is no room."""
    if tp.dead or tp.sk_rmem_alloc + one.truesize >= tp.sk_rcvbuf:
        free(one)
        return False
    tp.sk_rmem_alloc += one.truesize
    tp.errors.rmem_alloc += one.truesize
    err_queue_tail(tp.errors, one)
    sk_error_report(net, tp)
    return True


cdef inline bint is_icmp_err(const err_skb *one) noexcept nogil:
    return one.ee_origin == SO_EE_ORIGIN_ICMP or one.ee_origin == SO_EE_ORIGIN_ICMP6


cdef inline void err_uncharge(tcp_sock *tp, const err_skb *one) noexcept nogil:
    if one.ee_origin == SO_EE_ORIGIN_ZEROCOPY:
        tp.errors.omem_alloc -= ERR_TRUESIZE
    else:
        tp.sk_rmem_alloc -= one.truesize
        tp.errors.rmem_alloc -= one.truesize


cdef inline err_skb *sock_dequeue_err(netns *net, tcp_sock *tp) noexcept nogil:
    """The oldest message, NULL for none; SO_ERROR is that of the ICMP error which comes first now.

    Whoever asks frees it.
    """
    cdef sock_errors *errors = tp.errors
    cdef err_skb *one
    if errors == NULL or errors.first == NULL:
        return NULL
    one = errors.first
    errors.first = one.next
    if errors.first == NULL:
        errors.last = NULL
    err_uncharge(tp, one)
    if errors.first != NULL and is_icmp_err(errors.first):
        tp.sk_err = errors.first.ee_errno
    elif is_icmp_err(one):
        tp.sk_err = 0
    if errors.first != NULL:
        sk_error_report(net, tp)
    return one


cdef inline void skb_errqueue_purge(tcp_sock *tp, bint everything) noexcept nogil:
    """IP_RECVERR is off: ICMP errors are forgotten; or nobody asks for any message any more."""
    cdef sock_errors *errors = tp.errors
    cdef err_skb *one
    cdef err_skb *next
    if errors == NULL:
        return
    next = errors.first
    errors.first = errors.last = NULL
    while next != NULL:
        one = next
        next = one.next
        if everything or is_icmp_err(one):
            err_uncharge(tp, one)
            free(one)
        else:
            err_queue_tail(errors, one)


# Time stamps.


cdef inline int sock_set_timestamping(tcp_sock *tp, int64_t value) noexcept nogil:
    """SO_TIMESTAMPING; 0 or a negative errno."""
    cdef sock_errors *errors
    if value & ~<int64_t>SOF_TIMESTAMPING_MASK:
        return -EINVAL
    if value & SOF_TIMESTAMPING_OPT_ID_TCP and not value & SOF_TIMESTAMPING_OPT_ID:
        return -EINVAL
    errors = sk_errors_alloc(tp)
    if errors == NULL:
        return -EINVAL
    if value & SOF_TIMESTAMPING_OPT_ID and not errors.tsflags & SOF_TIMESTAMPING_OPT_ID:
        if tp.tcb.state == TCP_CLOSE or tp.tcb.state == TCP_LISTEN:
            return -EINVAL
        errors.tskey = tp.tcb.snd_una
        if value & SOF_TIMESTAMPING_OPT_ID_TCP:
            errors.tskey = tp.write_seq
    if value & SOF_TIMESTAMPING_OPT_STATS and not value & SOF_TIMESTAMPING_OPT_TSONLY:
        return -EINVAL
    errors.tsflags = <uint32_t>value
    return 0


cdef inline void tcp_tx_timestamp(skb *one, int64_t tsflags) noexcept nogil:
    """A write is over: its last byte is to be stamped."""
    if not tsflags & SOF_TIMESTAMPING_TX_RECORD_MASK:
        return
    one.tx_flags &= SKBTX_ACK_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_SOFTWARE:
        one.tx_flags |= SKBTX_SW_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_SCHED:
        one.tx_flags |= SKBTX_SCHED_TSTAMP
    if tsflags & SOF_TIMESTAMPING_TX_ACK:
        one.tx_flags |= SKBTX_ACK_TSTAMP
    one.tskey = one.seq + one.len - 1


cdef inline void tcp_fragment_tstamp(skb *one, skb *rest) noexcept nogil:
    """Of two halves the one with the byte has its stamps."""
    if one.tx_flags and not before(one.tskey, rest.seq):
        rest.tx_flags = one.tx_flags
        rest.tskey = one.tskey
        one.tx_flags = 0


cdef inline void tcp_skb_collapse_tstamp(skb *one, const skb *behind) noexcept nogil:
    """Pieces that are joined have the stamps of the last."""
    if behind.tx_flags:
        one.tx_flags |= behind.tx_flags
        one.tskey = behind.tskey


cdef inline bint tstamp_only(const tcp_sock *tp) noexcept nogil:
    """True if a stamp comes without what it is of."""
    return tp.errors != NULL and tp.errors.tsflags & SOF_TIMESTAMPING_OPT_TSONLY != 0


# Sends without copying.


cdef inline ubuf_info *msg_zerocopy_realloc(
    tcp_sock *tp, int64_t size, ubuf_info *ubuf
) noexcept nogil:
    """A number for a send: joined to the one before where they will be told together; NULL: full.

    The bytes are copied all the same, here as where a packet leaves by TUN: what is told is so.
    """
    cdef sock_errors *errors = tp.errors
    if (
        ubuf != NULL
        and ubuf.len < ZEROCOPY_LEN
        and ubuf.bytelen + size <= ZEROCOPY_BYTES
        and <uint32_t>(ubuf.id + ubuf.len) == errors.zckey
    ):
        ubuf.len += 1
        ubuf.bytelen += size
        ubuf.refs += 1
        errors.zckey += 1
        return ubuf
    if errors.omem_alloc + ZEROCOPY_RESERVE > OPTMEM_MAX:
        return NULL
    ubuf = <ubuf_info *>calloc(1, sizeof(ubuf_info))
    if ubuf == NULL:
        return NULL
    errors.omem_alloc += ERR_TRUESIZE
    ubuf.id = errors.zckey
    ubuf.len = 1
    ubuf.bytelen = size
    ubuf.refs = 1
    ubuf.zerocopy = 1
    ubuf.next = errors.ubufs
    if ubuf.next != NULL:
        ubuf.next.prev = ubuf
    errors.ubufs = ubuf
    errors.zckey += 1
    return ubuf


cdef inline void msg_zerocopy_put_abort(netns *net, tcp_sock *tp, ubuf_info *ubuf) noexcept nogil:
    """A send that has failed has no number."""
    tp.errors.zckey -= 1
    ubuf.len -= 1
    net_zcopy_put(net, tp, ubuf)


cdef inline void ubuf_free(sock_errors *errors, ubuf_info *ubuf) noexcept nogil:
    if ubuf.prev != NULL:
        ubuf.prev.next = ubuf.next
    else:
        errors.ubufs = ubuf.next
    if ubuf.next != NULL:
        ubuf.next.prev = ubuf.prev
    free(ubuf)


cdef inline void net_zcopy_put(netns *net, tcp_sock *tp, ubuf_info *ubuf) noexcept nogil:
    """One piece fewer; with the last the caller is told, ranges that follow each other as one."""
    cdef sock_errors *errors = tp.errors
    cdef err_skb *last = errors.last
    cdef err_skb *one = NULL
    ubuf.refs -= 1
    if ubuf.refs:
        return
    if not ubuf.len or tp.dead:
        errors.omem_alloc -= ERR_TRUESIZE
        ubuf_free(errors, ubuf)
        return
    if (
        last != NULL
        and last.ee_origin == SO_EE_ORIGIN_ZEROCOPY
        and last.ee_data + 1 == ubuf.id
        and <int64_t>(last.ee_data - last.ee_info) + 1 + ubuf.len <= <int64_t>0xFFFFFFFF
    ):
        last.ee_data += ubuf.len
        errors.omem_alloc -= ERR_TRUESIZE
    else:
        one = err_skb_alloc(0, SO_EE_ORIGIN_ZEROCOPY, NULL, 0)
        if one != NULL:
            one.ee_info = ubuf.id
            one.ee_data = ubuf.id + ubuf.len - 1
            one.ee_code = 0 if ubuf.zerocopy else SO_EE_CODE_ZEROCOPY_COPIED
            err_queue_tail(errors, one)
    ubuf_free(errors, ubuf)
    sk_error_report(net, tp)


cdef inline void skb_zcopy_clear(netns *net, tcp_sock *tp, skb *one) noexcept nogil:
    """A piece is gone."""
    cdef ubuf_info *ubuf = one.ubuf
    if ubuf != NULL:
        one.ubuf = NULL
        net_zcopy_put(net, tp, ubuf)


# ICMP.


cdef inline void ip_icmp_error(
    netns *net,
    tcp_sock *tp,
    int err,
    uint8_t kind,
    uint8_t code,
    uint32_t info,
    const uint8_t *who,
    const uint8_t *front,
    uint32_t length,
) noexcept nogil:
    """Keep an error with the front of the segment that it is about; `who` has told it."""
    cdef err_skb *one
    if sk_errors_alloc(tp) == NULL:
        return
    one = err_skb_alloc(
        err, SO_EE_ORIGIN_ICMP if tp.sk.ip == 4 else SO_EE_ORIGIN_ICMP6, front, length
    )
    if one == NULL:
        return
    one.ee_type = kind
    one.ee_code = code
    one.ee_info = info
    memcpy(one.offender, who, 16)
    sock_queue_err(net, tp, one)
