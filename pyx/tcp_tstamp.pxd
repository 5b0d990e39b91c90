# Time stamps of what was written, and how the connection stands then.
# Linux: __skb_tstamp_tx in net/core/skbuff.c, tcp_get_timestamping_opt_stats in net/ipv4/tcp.c.

from libc.errno cimport ENOMSG
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from errqueue cimport (
    ERR_TRUESIZE,
    SCM_TSTAMP_ACK,
    SKBTX_ACK_TSTAMP,
    SO_EE_ORIGIN_TIMESTAMPING,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_STATS,
    err_skb_alloc,
    sock_queue_err,
    tstamp_only,
)
from netns cimport netns
from sock cimport err_skb, skb, sock_errors, tcp_sock
from tcp cimport before
from tcp_rate cimport (
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_SNDBUF_LIMITED,
    tcp_chrono_us,
    tcp_delivery_rate,
)

cdef enum:
    TCP_NLA_MAX = 256  # bytes of the statistics of a stamp


cdef inline uint32_t nla_put(
    uint8_t *out, uint32_t at, uint16_t kind, uint64_t value, uint16_t size
) noexcept nogil:
    """A number of netlink's: its length and kind, then so many bytes; where the next one lies."""
    cdef uint16_t head[2]
    head[0] = 4 + size
    head[1] = kind
    memcpy(out + at, head, 4)
    memset(out + at + 4, 0, 4)
    memcpy(out + at + 4, &value, size)  # the low bytes are first
    return at + 4 + ((size + 3) & ~3)


cdef inline uint32_t tcp_get_timestamping_opt_stats(
    const netns *net, const tcp_sock *tp, int64_t sent_ns, uint8_t *out
) noexcept nogil:
    """How the connection stands when a piece is stamped, as netlink lays numbers out; its size."""
    cdef int64_t now_ns = net.net.now_ns
    cdef uint64_t rwnd = tcp_chrono_us(tp, TCP_CHRONO_RWND_LIMITED, now_ns)
    cdef uint64_t sndbuf = tcp_chrono_us(tp, TCP_CHRONO_SNDBUF_LIMITED, now_ns)
    cdef uint32_t n = 0
    n = nla_put(out, n, 1, tcp_chrono_us(tp, TCP_CHRONO_BUSY, now_ns) + rwnd + sndbuf, 8)
    n = nla_put(out, n, 2, rwnd, 8)
    n = nla_put(out, n, 3, sndbuf, 8)
    n = nla_put(out, n, 4, tp.data_segs_out, 8)
    n = nla_put(out, n, 5, tp.total_retrans, 8)
    n = nla_put(out, n, 6, tp.sk_pacing_rate, 8)
    n = nla_put(out, n, 7, tcp_delivery_rate(tp), 8)
    n = nla_put(out, n, 8, <uint32_t>tp.snd_cwnd, 4)
    n = nla_put(out, n, 9, <uint32_t>tp.reordering, 4)
    n = nla_put(out, n, 10, tp.rtt_min_us, 4)
    n = nla_put(out, n, 11, tp.retransmits & 0xFF, 1)
    n = nla_put(out, n, 12, tp.rate_app_limited, 1)
    n = nla_put(out, n, 15, <uint32_t>tp.snd_ssthresh, 4)
    n = nla_put(out, n, 16, tp.delivered, 4)
    n = nla_put(out, n, 17, 0, 4)  # delivered with ECN's CE
    n = nla_put(out, n, 13, <uint32_t>(tp.write_seq - tp.tcb.snd_una), 4)
    n = nla_put(out, n, 14, tp.ca_state, 1)
    n = nla_put(out, n, 18, tp.bytes_sent, 8)
    n = nla_put(out, n, 19, tp.bytes_retrans, 8)
    n = nla_put(out, n, 20, tp.dsack_dups, 4)
    n = nla_put(out, n, 21, tp.reord_seen, 4)
    n = nla_put(out, n, 22, <uint32_t>(tp.srtt_us >> 3), 4)
    n = nla_put(out, n, 23, tp.timeout_rehash, 2)
    n = nla_put(out, n, 24, <uint32_t>(tp.write_seq - tp.tcb.snd_nxt), 4)
    n = nla_put(out, n, 25, <uint64_t>sent_ns, 8)
    return nla_put(out, n, 27, tp.timeout_rehash, 4)


cdef inline void skb_tstamp_tx(
    netns *net, tcp_sock *tp, const skb *one, int which, const uint8_t *data, uint32_t length
) noexcept nogil:
    """Tell when a byte was queued, sent or acknowledged (SCM_TSTAMP_), with what it was part of."""
    cdef sock_errors *errors = tp.errors
    cdef err_skb *made
    cdef uint8_t stats[TCP_NLA_MAX]
    cdef int64_t sent_ns = net.net.now_ns
    if errors == NULL or tp.dead:
        return
    if errors.tsflags & SOF_TIMESTAMPING_OPT_STATS:
        if which == SCM_TSTAMP_ACK:
            sent_ns = one.skb_mstamp_ns
        data = stats
        length = tcp_get_timestamping_opt_stats(net, tp, sent_ns, stats)
    made = err_skb_alloc(ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, data, length)
    if made == NULL:
        return
    if errors.tsflags & SOF_TIMESTAMPING_OPT_STATS:
        made.opt_stats = 1
        made.truesize = ERR_TRUESIZE  # they lie in what a message takes anyway
    made.ee_info = which
    if errors.tsflags & SOF_TIMESTAMPING_OPT_ID:
        made.ee_data = one.tskey - errors.tskey
    made.stamp_ns = net.net.now_ns
    sock_queue_err(net, tp, made)


cdef inline void tcp_ack_tstamp(
    netns *net, tcp_sock *tp, const skb *one, uint32_t prior_una
) noexcept nogil:
    """Tell that a byte is acknowledged, once."""
    if not one.tx_flags & SKBTX_ACK_TSTAMP:
        return
    if before(one.tskey, prior_una) or not before(one.tskey, tp.tcb.snd_una):
        return
    skb_tstamp_tx(net, tp, one, SCM_TSTAMP_ACK, one.data, 0 if tstamp_only(tp) else one.len)
