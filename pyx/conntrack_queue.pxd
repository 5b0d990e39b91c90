# Which segments' payload is noted for streams, and where it lies: in a frame, or in fragments.
# Linux: net/ipv4/tcp_input.c (tcp_data_queue).  docs/streams.md has the rules.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from conntrack cimport *
from ip_fragment cimport datagram, piece
from pcap cimport frame
from tcp cimport *
from tcp_queue cimport *


cdef inline bint queue_takes(uint8_t drop, uint32_t sent) noexcept nogil:
    """True for what a receiver took or had, or may have taken all the same, of a sender that `sent`
    these flags: not what is damaged, and not what comes after the sender's own reset."""
    return not (
        drop == IP_CSUM
        or drop == TCP_CSUM
        or drop == TCP_BAD_DOFF
        or (drop == TCP_CLOSED and sent & TCPHDR_RST)
    )


cdef inline int queue_pieces(
    queue_pool *pool,
    skb_queue *q,
    int64_t seq,
    uint32_t length,
    const datagram *whole,
    const uint8_t *payload,
    uint32_t bits,
) noexcept nogil:
    """Append a record for each run of a payload that lies in a datagram of fragments; -1 without
    memory. `bits` go beside the number of the input."""
    cdef uint32_t begin = <uint32_t>(payload - whole.data), end = begin + length, low, high, i
    cdef const piece *one
    for i in range(whole.n_pieces):
        one = &whole.pieces[i]
        low = max(begin, one.offset)
        high = min(end, one.offset + one.length)
        if low < high and skb_queue_tail(
            pool,
            q,
            seq + (low - begin),
            high - low,
            one.source + (low - one.offset),
            high - low,
            one.file | bits,
        ):
            return -1
    return 0


cdef inline int conntrack_queue(
    conntrack *ct,
    flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    const frame *at,
    const datagram *whole,
    uint32_t verdict,
    uint8_t drop,
) noexcept nogil:
    """Record where a segment's payload lies, if it may be of the stream: in the frame, or in a
    datagram that was made `whole`, else NULL. -1 without memory."""
    cdef queue_pool *pool = &ct.queues
    cdef const uint8_t *payload
    cdef uint32_t caplen = 0, bits = 0
    cdef int64_t made, seq
    cdef uint64_t skip
    cdef bint doubtful
    cdef sock_queue *sk
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef uint32_t records = 1 if whole == NULL else whole.n_pieces
    if th.payload_len or th.flags & (TCPHDR_SYN | TCPHDR_FIN | TCPHDR_URG):
        records += (th.flags & TCPHDR_URG) != 0
        while sk_rmem_full(pool, records) and pool.live_socks:
            sk_prune(pool)
        if sock_of(ct, index)[0] == <uint32_t>QUEUE_NONE and (
            th.payload_len or th.flags & (TCPHDR_FIN | TCPHDR_URG)
        ):
            made = sk_alloc(pool, link_at(ct, index).conn if ct.linked else index, index)
            if made < 0:
                return -1
            sock_of(ct, index)[0] = <uint32_t>made
        sk = conntrack_sock(ct, index)
        if sk != NULL and not th.flags & TCPHDR_RST and queue_takes(drop, fl.ends[side].flags):
            if not sk.sides[side].begun:
                queue_begin(
                    &sk.sides[side],
                    rest_at(ct, index).isn[side],
                    (fl.ends[side].opts & OPT_ISN) != 0,
                )
            doubtful = drop != 0 and drop != TCP_OLD_DATA
            seq = tcp_data_queue(
                &sk.sides[side],
                th,
                verdict,
                doubtful,
                snd.snd_una if snd.flags & TCB_SND else <uint32_t>sk.sides[side].last,
            )
            if doubtful:
                bits = <uint32_t>SKB_DOUBTFUL
                if verdict & TCB_OVERWINDOW or drop == TCP_CLOSED:
                    bits |= SKB_OVERWINDOW
            if (
                th.flags & TCPHDR_URG
                and th.urgent
                and not pool.handing  # there they stay in line
                and tcp_check_urg(pool, &sk.sides[side], th, bits & <uint32_t>SKB_DOUBTFUL)
            ):
                return -1
            if seq >= 0:
                payload = th.transport_header + 4 * th.doff
                if whole != NULL:
                    if queue_pieces(
                        pool, &sk.sides[side], seq, th.payload_len, whole, payload, bits
                    ):
                        return -1
                else:
                    skip = <uint64_t>(payload - at.data)
                    if skip < at.caplen:  # what is not in the frame was not captured
                        caplen = min(th.payload_len, <uint32_t>(at.caplen - skip))
                    if skb_queue_tail(
                        pool,
                        &sk.sides[side],
                        seq,
                        th.payload_len,
                        at.offset + <int64_t>skip,
                        caplen,
                        pool.file | bits,
                    ):
                        return -1
                if pool.handing and sk_touch(pool, sock_of(ct, index)[0]):
                    return -1
    if is_closed(fl.ends[0].tcb.state) and is_closed(fl.ends[1].tcb.state):
        conntrack_close(ct, index)
    return 0
