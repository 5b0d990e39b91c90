# SYN cookies: what a handshake has to remember, carried by its numbers and its time stamp.
# Linux: net/ipv4/syncookies.c.  RFC 4987 3.6.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from netns cimport netns
from secure_seq cimport secure_tcp_cookie
from sock cimport rcv_skb, request_sock, tcp_sock
from tcp cimport OPT_TIMESTAMP

cdef enum:
    COOKIEBITS = 24
    COOKIEMASK = (1 << 24) - 1
    MAX_SYNCOOKIE_AGE = 2  # minutes
    # In the low bits of the SYN-ACK's time stamp.
    TSBITS = 6
    TSMASK = (1 << 6) - 1
    TS_OPT_WSCALE_MASK = 0xF
    TS_OPT_SACK = 1 << 4
    TS_OPT_ECN = 1 << 5

cdef extern from *:
    """
    #define MINUTE_NS 60000000000ll
    /* What the peer's MSS is rounded down to; the number's low bits tell which. */
    static const uint16_t MSSTAB4[4] = {536, 1300, 1440, 1460};
    static const uint16_t MSSTAB6[4] = {1220, 1420, 1440, 9000 - 60};
    """
    const int64_t MINUTE_NS
    const uint16_t *MSSTAB4
    const uint16_t *MSSTAB6


cdef inline uint32_t cookie_hash(
    const netns *net, const request_sock *req, uint32_t count
) noexcept nogil:
    cdef uint64_t tuple = <uint64_t>req.cookie_base << 32 | req.ts_off
    return <uint32_t>secure_tcp_cookie(net.key, tuple, count)


cdef inline uint32_t tcp_cookie_time(const netns *net) noexcept nogil:
    return <uint32_t>(net.net.now_ns // MINUTE_NS)


cdef inline uint32_t secure_tcp_syn_cookie(
    const netns *net, const request_sock *req, uint32_t seq, uint32_t data
) noexcept nogil:
    """A number that only this host can have chosen for this peer, in this minute."""
    cdef uint32_t count = tcp_cookie_time(net)
    cdef uint32_t mixed = cookie_hash(net, req, count) + data
    return req.cookie_base + seq + (count << COOKIEBITS) + (mixed & <uint32_t>COOKIEMASK)


cdef inline int64_t check_tcp_syn_cookie(
    const netns *net, const request_sock *req, uint32_t cookie, uint32_t seq
) noexcept nogil:
    """What such a number carries; -1 if it is none of ours, or too old."""
    cdef uint32_t count = tcp_cookie_time(net)
    cdef uint32_t age
    cookie -= req.cookie_base + seq
    age = (count - (cookie >> COOKIEBITS)) & 0xFF
    if age >= MAX_SYNCOOKIE_AGE:
        return -1
    return (cookie - cookie_hash(net, req, count - age)) & <uint32_t>COOKIEMASK


cdef inline void tcp_synq_overflow(const netns *net, tcp_sock *listener) noexcept nogil:
    """A cookie goes out: for a while an ACK may bring it back."""
    listener.ts_recent_stamp_ns = net.net.now_ns if net.net.now_ns else 1


cdef inline bint tcp_synq_no_recent_overflow(
    const netns *net, const tcp_sock *listener
) noexcept nogil:
    """True if no cookie can be valid: an ACK's number is not even looked at."""
    cdef int64_t stamp_ns = listener.ts_recent_stamp_ns
    return not stamp_ns or net.net.now_ns - stamp_ns > MAX_SYNCOOKIE_AGE * MINUTE_NS


cdef inline uint32_t cookie_v4_init_sequence(netns *net, request_sock *req) noexcept nogil:
    """The SYN-ACK's number; the peer's MSS is rounded down to what it can carry."""
    cdef const uint16_t *table = MSSTAB4 if req.sk.ip == 4 else MSSTAB6
    cdef uint32_t i, index = 0
    for i in range(4):
        if req.mss >= table[i]:
            index = i
    req.mss = table[index]
    return secure_tcp_syn_cookie(net, req, req.rcv_isn, index)


cdef inline int64_t cookie_init_timestamp(const request_sock *req, int64_t now_ms) noexcept nogil:
    """A time stamp whose low bits tell window scale, SACK and ECN; never in the future."""
    cdef int64_t stamp = req.snd_wscale if req.wscale_ok else <int>TS_OPT_WSCALE_MASK
    if req.sack_ok:
        stamp |= TS_OPT_SACK
    if req.ecn_ok:
        stamp |= TS_OPT_ECN
    stamp |= now_ms >> TSBITS << TSBITS
    return stamp if stamp <= now_ms else stamp - (1 << TSBITS)


cdef inline bint cookie_timestamp_decode(
    netns *net, request_sock *req, const rcv_skb *r
) noexcept nogil:
    """Read the options back from the echo; False if they are none that this host would offer."""
    cdef uint32_t options
    cdef uint8_t wscale
    if not r.th.opts & OPT_TIMESTAMP:
        req.tstamp_ok = 0
        return True
    if not net.sysctl.tcp_timestamps:
        return False
    req.tstamp_ok = 1
    req.ts_recent = r.th.tsval
    options = (r.th.tsecr - req.ts_off) & TSMASK
    req.sack_ok = options & TS_OPT_SACK != 0
    req.ecn_ok = options & TS_OPT_ECN and (net.sysctl.tcp_ecn or net.route.ecn)
    if req.sack_ok and not net.sysctl.tcp_sack:
        return False
    wscale = options & TS_OPT_WSCALE_MASK
    req.wscale_ok = wscale != TS_OPT_WSCALE_MASK
    req.snd_wscale = wscale if req.wscale_ok else 0
    return not req.wscale_ok or net.sysctl.tcp_window_scaling != 0


cdef inline bint cookie_v4_check(netns *net, request_sock *req, const rcv_skb *r) noexcept nogil:
    """True if an ACK answers one of our cookies; the request is filled by what it carries."""
    cdef uint32_t cookie = r.th.ack - 1
    cdef int64_t index
    req.rcv_isn = r.th.seq - 1
    index = check_tcp_syn_cookie(net, req, cookie, req.rcv_isn)
    if not 0 <= index < 4:
        return False
    req.mss = MSSTAB4[index] if req.sk.ip == 4 else MSSTAB6[index]
    req.snt_isn = cookie
    return cookie_timestamp_decode(net, req, r)
