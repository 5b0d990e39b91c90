# Both ends of every connection, segment by segment: look-up, prediction, the judge.
# Linux: net/netfilter/nf_conntrack_proto_tcp.c.  RFC 9293 3.10; docs/replay.md has the rules.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from conntrack cimport *
from conntrack_analyze cimport (
    analyze_type,
    conntrack_analyze,
    conntrack_analyze_init,
    conntrack_analyze_plain,
)
from conntrack_acct cimport conntrack_count, conntrack_splits
from conntrack_queue cimport conntrack_queue
from inet_hashtables cimport *
from ip_fragment cimport datagram
from ip_tunnel cimport outer
from net cimport net
from offload cimport offload_learn
from pcap cimport frame
from secure_seq cimport SIPHASH_LANES
from snmp cimport *
from synack cimport SYNACK_EACH, synack_keep, synack_pick, synack_rival
from slab cimport slab_at
from tcb cimport (
    TCB_KNOWN,
    tcb_pull,
    tcb_rcv,
    tcb_rcv_established,
    tcb_xmit,
    tcb_xmit_established,
    tcp_predicted,
    tcp_shift,
)
from tcp cimport *
from unaligned cimport held

cdef enum:
    BATCH = 16  # frames that go through the stages together
    TCB_REFUSED = (
        TCB_PAWS
        | TCB_OLD
        | TCB_OVERWINDOW
        | TCB_ACK_OLD
        | TCB_ACK_UNSENT
        | TCB_CHALLENGE
        | TCB_NO_CONN
    )

cdef extern from *:
    """
    #define TS_RECENT_STALE_NS (24 * 86400 * 1000000000ull) /* RFC 7323 5.5 */
    """
    const uint64_t TS_RECENT_STALE_NS

# What became of a frame, for the columns.
cdef struct fate:
    int64_t conn
    uint32_t verdict
    uint32_t window
    int8_t dir
    uint8_t drop
    analysed analysed


cdef inline uint32_t conntrack_syn(
    conntrack *ct,
    flow *fl,
    flow_rest *rest,
    const segment *th,
    int64_t time_ns,
    uint32_t wirelen,
) noexcept nogil:
    """What accounting and the judge make of a SYN that begins a connection, in one go: floods
    consist of them."""
    cdef end *e = <end *>held(&fl.ends[0])
    cdef tcb *rcv = <tcb *>held(&fl.ends[1].tcb)
    cdef uint8_t known = TCB_RCV | TCB_PEER_WINDOW
    e.tcb.snd_una = th.seq
    e.tcb.snd_nxt = th.end_seq
    e.tcb.state = TCP_SYN_SENT
    e.tcb.flags = TCB_SND
    rcv.snd_wl1 = th.seq
    rcv.snd_wnd = rcv.max_window = th.window
    rcv.rcv_nxt = th.seq + 1
    rcv.state = TCP_SYN_RECV
    if th.opts & (OPT_WSCALE | OPT_CUT):
        e.tcb.flags = TCB_SND | TCB_WSCALE_SENT
        e.tcb.rcv_wscale = rcv.snd_wscale = (
            min(th.wscale, <uint8_t>TCP_MAX_WSCALE) if th.opts & OPT_WSCALE else TCP_MAX_WSCALE
        )
        known |= TCB_WSCALE_RCVD
    if th.opts & OPT_TIMESTAMP:
        rcv.ts_recent = th.tsval
        known |= TCB_TSTAMP
    rcv.flags = known
    e.packets = 1
    e.frame_bytes = wirelen
    e.payload_bytes = th.payload_len
    e.flags = th.flags
    e.opts = th.opts | OPT_ISN
    if th.opts & OPT_MSS:
        rest.mss[0] = th.mss
    if th.opts & OPT_WSCALE:
        rest.wscale[0] = th.wscale
        e.shift = e.tcb.rcv_wscale
    rest.isn[0] = th.seq
    rest.rtt_ns = time_ns
    fl.completeness = COMPLETE_SYN
    fl.bits = FLOW_JUDGED | FLOW_SYN
    ct.net.mib[TCP_ACTIVEOPENS] += 1
    ct.net.mib[TCP_PASSIVEOPENS] += 1
    return TCB_SYN_TAKEN


cdef inline void conntrack_begin(tcb *snd, tcb *rcv, const segment *th) noexcept nogil:
    """States before the first segment that the judge gets."""
    if (th.flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN:
        rcv.state = TCP_LISTEN
    elif th.flags & TCPHDR_SYN:
        snd.state = TCP_LISTEN
        rcv.state = TCP_SYN_SENT
        rcv.snd_una = th.ack - 1
        rcv.snd_nxt = th.ack
        rcv.flags = TCB_SND
    else:  # picked up in the middle: any shift is possible, so the widest windows are believed
        snd.state = rcv.state = TCP_ESTABLISHED
        snd.snd_wscale = snd.rcv_wscale = rcv.snd_wscale = rcv.rcv_wscale = TCP_MAX_WSCALE
        snd.flags = rcv.flags = TCB_WSCALE_SENT | TCB_WSCALE_RCVD


cdef inline uint32_t conntrack_judge(
    net *net, flow *fl, int side, const segment *th, uint8_t *drop
) noexcept nogil:
    """Both ends' judgment of one segment: the end that sent, then the end it reaches."""
    cdef tcb *snd = <tcb *>held(&fl.ends[side].tcb)
    cdef tcb *rcv = <tcb *>held(&fl.ends[1 - side].tcb)
    cdef uint8_t snd_was = snd.state, rcv_was = rcv.state
    cdef uint32_t verdict = 0, took
    if not fl.bits & FLOW_JUDGED:
        fl.bits |= FLOW_JUDGED
        conntrack_begin(snd, rcv, th)
        if not th.flags & TCPHDR_SYN:
            verdict = CT_MIDSTREAM
    elif rcv.state == TCP_CLOSE and (th.flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN:
        rcv.state = TCP_LISTEN  # refused once, it asks again
        rcv.flags = 0
    if rcv.flags & TCB_FIN_SENT and th.flags & TCPHDR_ACK and th.ack == rcv.snd_nxt:
        tcb_pull(snd, th.ack, True)
    verdict |= tcb_xmit(snd, th)
    took = tcb_rcv(rcv, th)
    if took & TCB_ACK_UNSENT and rcv.state != TCP_SYN_SENT:
        rcv.snd_nxt = th.ack  # what was not sent cannot be acknowledged: the tap missed it
        took = tcb_rcv(rcv, th) | CT_HOLE
    if th.flags & TCPHDR_RST and took & (TCB_RST_TAKEN | TCB_CHALLENGE):
        # An endpoint would challenge a reset that is only near; an observer believes it.
        took = (took & ~<uint32_t>TCB_CHALLENGE) | TCB_RST_TAKEN
        snd.state = rcv.state = TCP_CLOSE
    conntrack_mib(net, snd_was, snd.state, 0)
    conntrack_mib(net, rcv_was, rcv.state, took)
    drop[0] = conntrack_drop(th, took)
    return verdict | took


cdef inline bint conntrack_handshake(
    conntrack *ct, flow *fl, uint32_t index, int side, const segment *th
) noexcept nogil:
    """Before both ends are open: of several SYN-ACKs the first counts, until an ACK picks another.
    True of a SYN-ACK that is to be kept, not counted."""
    if synack_rival(fl, side, th):
        return True
    if (
        rest_at(ct, index).synacks
        and (th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST)) == TCPHDR_ACK
        and fl.ends[1 - side].tcb.snd_nxt != th.ack
        and synack_pick(&ct.synacks, conn_at(ct, index), fl, side, th)
    ):
        rest_at(ct, index).synacks = 0
    return False


cdef inline uint64_t conn_at(const conntrack *ct, uint32_t index) noexcept nogil:
    return link_at(ct, index).conn if ct.linked else index


cdef inline void conntrack_mib(
    net *net, uint8_t was, uint8_t state, uint32_t took
) noexcept nogil:
    """The counters that an end's host would have moved."""
    if took & (TCB_PAWS | TCB_OFO | TCB_CHALLENGE):
        if took & TCB_PAWS:
            net.mib[TCP_PAWSESTABREJECTED] += 1
        if took & TCB_OFO:
            net.mib[TCP_OFOQUEUE] += 1
        if took & TCB_CHALLENGE:
            net.mib[TCP_CHALLENGEACK] += 1
            net.mib[TCP_SYNCHALLENGE] += 1
    if was == state:
        return
    if state == TCP_SYN_SENT and was == TCP_CLOSE:
        net.mib[TCP_ACTIVEOPENS] += 1
    elif state == TCP_SYN_RECV and (was == TCP_LISTEN or was == TCP_CLOSE):
        net.mib[TCP_PASSIVEOPENS] += 1
    elif state == TCP_TIME_WAIT:
        net.mib[TCP_TW] += 1
    elif state == TCP_CLOSE:
        if was == TCP_SYN_SENT or was == TCP_SYN_RECV:
            net.mib[TCP_ATTEMPTFAILS] += 1
        elif was == TCP_ESTABLISHED or was == TCP_CLOSE_WAIT:
            net.mib[TCP_ESTABRESETS] += 1


cdef inline uint8_t conntrack_drop(const segment *th, uint32_t verdict) noexcept nogil:
    """Why state did not take the segment; 0 if it did.

    Only SYN-SENT leaves TCB_ACK_UNSENT standing: later a wrong acknowledgment is the sign of a hole.
    """
    if not verdict & TCB_REFUSED:
        if th.flags & TCPHDR_RST and not verdict & TCB_RST_TAKEN:
            return TCP_INVALID_RST
        if not th.flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK):
            return TCP_FLAGS
        return 0
    if verdict & TCB_NO_CONN:
        return TCP_CLOSED
    if verdict & TCB_PAWS:
        return TCP_RFC7323_PAWS
    if verdict & TCB_OVERWINDOW:
        return TCP_OVERWINDOW
    if verdict & TCB_ACK_UNSENT:
        return TCP_INVALID_ACK
    if verdict & TCB_ACK_OLD:
        return TCP_TOO_OLD_ACK
    if verdict & TCB_CHALLENGE:
        return TCP_INVALID_SYN
    return TCP_OLD_DATA

# Up to BATCH frames on their way through the stages; the arrays go by frame.
cdef struct batch:
    frame frames[BATCH]
    segment segs[BATCH]  # ip is 0 where a frame has none
    outer outers[BATCH]  # what is around them, where `wrapped` has a bit
    uint32_t wrapped
    uint64_t contexts[BATCH]  # what of it is part of the key, if anything is
    uint64_t packets[BATCH]  # their numbers
    fate fates[BATCH]
    int n  # frames here
    uint64_t hashes[SIPHASH_LANES]
    flow *flows[BATCH]  # a guess at its flow, or NULL
    uint32_t guesses[BATCH]  # the index of that flow
    uint64_t releases  # the tracker's before the first guess: while it stands, all guesses are live


cdef inline const datagram *batch_whole(const batch *b, int i) noexcept nogil:
    """The datagram that a segment lies in, if it came in fragments, else NULL."""
    return b.outers[i].whole if b.wrapped >> i & 1 else NULL


cdef inline int64_t conntrack_lookup(
    const conntrack *ct, const segment *th, uint32_t tag, uint64_t context, int *side
) noexcept nogil:
    """The flow of a segment and the side that sent it; -1 if there is none.

    `context` is what is part of its key besides the 4-tuple.
    """
    cdef uint32_t at = inet_home(&ct.table, tag), index
    cdef const bucket *b
    cdef const flow *fl
    cdef unsigned int found
    while True:
        b = &ct.table.buckets[at]
        found = lanes_equal(b.tags, tag) & ~lanes_equal(b.flows, 0)
        while found:
            index = b.flows[__builtin_ctz(found)] - 1
            found &= found - 1
            fl = flow_at(ct, index)
            side[0] = flow_side(fl, addrs_of(ct, fl, index), th)
            if side[0] >= 0 and not (ct.keyed and flow_context(ct, fl, index) != context):
                return index
        if lanes_equal(b.flows, 0):
            side[0] = -1
            return -1
        at = inet_next(&ct.table, at)


cdef inline bint conntrack_open(const flow *fl) noexcept nogil:
    """True if headers can be predicted: both ends are established, nothing is unknown of them, and
    each knows the shift that the other sends by."""
    cdef const tcb *a = &fl.ends[0].tcb
    cdef const tcb *b = &fl.ends[1].tcb
    return (
        fl.bits & FLOW_PLAIN
        and fl.completeness & COMPLETE_ACK
        and a.state == TCP_ESTABLISHED
        and b.state == TCP_ESTABLISHED
        and (a.flags & b.flags & TCB_KNOWN) == TCB_KNOWN
        and tcp_shift(a, a.rcv_wscale) == tcp_shift(b, b.snd_wscale)
        and tcp_shift(b, b.rcv_wscale) == tcp_shift(a, a.snd_wscale)
    )


cdef inline bint conntrack_predict(
    flow *fl,
    int side,
    const segment *th,
    int64_t time_ns,
    uint32_t wirelen,
    uint32_t *verdict,
) noexcept nogil:
    """Header prediction for both ends at once, which does in few steps what accounting and the
    judge would do, but for `last_ns`: the next segment, by its sender's count and by its receiver's,
    of an open connection, with nothing special on it. False, and nothing done, for anything
    else."""
    cdef end *e = <end *>held(&fl.ends[side])
    cdef tcb *snd = &e.tcb
    cdef tcb *rcv = <tcb *>held(&fl.ends[1 - side].tcb)
    cdef uint32_t packets = e.packets + 1
    cdef uint32_t frame_bytes = e.frame_bytes + wirelen
    cdef uint32_t payload_bytes = e.payload_bytes + th.payload_len
    cdef uint32_t wnd
    if (
        not fl.bits & FLOW_OPEN
        or th.bad
        or th.opts & ~e.opts
        or th.seq != snd.snd_nxt
        or not tcp_predicted(rcv, th)
        or time_ns < fl.last_ns
        or <uint64_t>time_ns - <uint64_t>fl.last_ns > TS_RECENT_STALE_NS
        or packets == 0
        or frame_bytes < wirelen
        or payload_bytes < th.payload_len
    ):
        return False
    e.packets = packets
    e.frame_bytes = frame_bytes
    e.payload_bytes = payload_bytes
    e.flags |= th.flags
    wnd = <uint32_t>th.window << tcp_shift(snd, snd.rcv_wscale)
    tcb_xmit_established(snd, th, wnd)
    verdict[0] = tcb_rcv_established(rcv, th, wnd)
    return True


cdef inline int tcp_conntrack(conntrack *ct, batch *b, int i) noexcept nogil:
    """Follow one segment, the i-th of its batch; -1 without memory."""
    cdef const segment *th = <const segment *>held(&b.segs[i])
    cdef const frame *at = <const frame *>held(&b.frames[i])
    cdef int64_t index = -1
    cdef int side = -1
    cdef uint32_t verdict
    cdef flow *fl = NULL
    cdef analyze_type *analyze
    if at.time_ns > ct.net.now_ns and not at.clamped:
        ct.net.now_ns = at.time_ns
    if ct.bounded and conntrack_expire(ct):
        return -1
    if b.flows[i] != NULL and b.releases == ct.releases:  # none has left, so this one has not
        index = b.guesses[i]
        fl = b.flows[i]
        side = flow_side(fl, addrs_of(ct, fl, <uint32_t>index), th)
        if ct.keyed and flow_context(ct, fl, <uint32_t>index) != b.contexts[i]:
            side = -1
    if side < 0 or not conntrack_predict(fl, side, th, at.time_ns, at.wirelen, &verdict):
        return conntrack_follow(ct, b, i, index, side)
    if ct.queues.on and th.payload_len:
        if conntrack_queue(ct, fl, <uint32_t>index, side, th, at, batch_whole(b, i), verdict, 0):
            return -1
    if ct.linked:
        conntrack_requeue(ct, fl, <uint32_t>index)
    if ct.want_fates:
        conntrack_fate(ct, &b.fates[i], fl, <uint32_t>index, side, th, verdict, 0)
    if ct.analysis:  # held, so that it takes no registers where it is not wanted
        analyze = <analyze_type *>held(<void *>conntrack_analyze_plain)
        return analyze(ct, &b.fates[i].analysed, fl, <uint32_t>index, side, th, at.time_ns)
    fl.last_ns = at.time_ns
    return 0


cdef inline void conntrack_around(
    const conntrack *ct, const batch *b, int i, flow_outer *out, bint reply
) noexcept nogil:
    """Keep what is around a first segment, the i-th of a batch; b sent it if it is a reply."""
    cdef const outer *around = &b.outers[i]
    cdef bint wrapped = b.wrapped >> i & 1
    memset(out, 0, sizeof(flow_outer))
    out.vlan = around.vlan if wrapped else -1
    out.inner_vlan = around.inner_vlan if wrapped else -1
    out.interface = b.frames[i].interface
    if wrapped:
        out.encap = around.encap
        if around.ip:
            memcpy(out.addrs, around.addrs + (16 if reply else 0), 16)
            memcpy(out.addrs + 16, around.addrs + (0 if reply else 16), 16)
    if ct.keyed:
        out.context = b.contexts[i]


cdef inline int conntrack_follow(
    conntrack *ct, batch *b, int i, int64_t index, int side
) noexcept nogil:
    """Follow a segment that was not predicted; `index` and `side` are a guess, -1 for none."""
    cdef const segment *th = &b.segs[i]
    cdef const frame *at = &b.frames[i]
    cdef int64_t time_ns = at.time_ns, was_ns
    cdef uint32_t verdict = 0, tag = b.hashes[i] >> 32
    cdef flow *fl
    cdef flow_rest *rest
    cdef tcb was
    cdef bint wrapped
    cdef uint8_t drop = 0
    cdef analysed *out
    cdef bint reused, rival
    if side < 0:
        index = conntrack_lookup(ct, th, tag, b.contexts[i] if ct.keyed else 0, &side)
    fl = flow_at(ct, <uint32_t>index) if index >= 0 else NULL
    if (
        fl != NULL
        and (th.flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN
        and conntrack_splits(&fl.ends[side], rest_at(ct, <uint32_t>index), side, th)
    ):
        if conntrack_release(ct, <uint32_t>index, tag):
            return -1
        fl = NULL
        verdict = CT_REUSED
    if fl == NULL:
        wrapped = b.wrapped >> i & 1 or at.interface
        index = conntrack_new(ct, th, tag, time_ns, b.packets[i], wrapped)
        if index < 0:
            return -1
        fl = flow_at(ct, <uint32_t>index)
        side = 0
        if tcp_is_synack(th):  # from b, unless its ends are one and the same
            side = flow_side(fl, addrs_of(ct, fl, <uint32_t>index), th)
        verdict |= CT_NEW
        if wrapped:
            conntrack_around(
                ct, b, i, <flow_outer *>slab_at(&ct.outers, <uint32_t>index), side
            )
    was_ns = fl.last_ns
    if (
        verdict & CT_NEW
        and (th.flags & (TCPHDR_FIN | TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK)) == TCPHDR_SYN
        and not th.bad
    ):
        verdict |= conntrack_syn(
            ct, fl, rest_at(ct, <uint32_t>index), th, time_ns, at.wirelen
        )
    else:
        if time_ns > fl.last_ns and <uint64_t>time_ns - <uint64_t>fl.last_ns > TS_RECENT_STALE_NS:
            # RFC 7323 5.5: after 24 idle days a time stamp says nothing.
            fl.ends[0].tcb.flags &= ~TCB_TSTAMP
            fl.ends[1].tcb.flags &= ~TCB_TSTAMP
        conntrack_count(ct, fl, <uint32_t>index, side, th, time_ns, at.wirelen)
        if th.bad:
            drop = conntrack_bad(ct, fl, <uint32_t>index, side, th, at.interface)
        if not drop:
            rival = (
                fl.ends[0].tcb.state == TCP_SYN_RECV or fl.ends[1].tcb.state == TCP_SYN_RECV
            ) and conntrack_handshake(ct, fl, <uint32_t>index, side, th)
            if rival:
                was = fl.ends[side].tcb
            verdict |= conntrack_judge(&ct.net, fl, side, th, &drop)
            if rival:
                rest = rest_at(ct, <uint32_t>index)
                if rest.synacks < SYNACK_EACH and synack_keep(
                    &ct.synacks, conn_at(ct, <uint32_t>index), fl, side, th
                ):
                    rest.synacks += 1
                fl.ends[side].tcb = was
        if drop:
            ct.drops[drop] += 1
        fl.bits = fl.bits | FLOW_OPEN if conntrack_open(fl) else fl.bits & ~FLOW_OPEN
    if ct.queues.on and conntrack_queue(
        ct, fl, <uint32_t>index, side, th, at, batch_whole(b, i), verdict, drop
    ):
        return -1
    if ct.linked:
        conntrack_requeue(ct, fl, <uint32_t>index)
    if ct.want_fates:
        conntrack_fate(ct, &b.fates[i], fl, <uint32_t>index, side, th, verdict, drop)
    if ct.analysis:
        if verdict & CT_NEW:
            conntrack_analyze_init(ct, <uint32_t>index)
        out = &b.fates[i].analysed
        reused = (verdict & CT_REUSED) != 0
        return conntrack_analyze(
            ct, out, fl, <uint32_t>index, side, th, time_ns, was_ns, reused
        )
    return 0


cdef inline uint8_t conntrack_bad(
    conntrack *ct,
    const flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    uint32_t interface,
) noexcept nogil:
    """Count what is wrong with a segment: Drop where the judge shall not have it, else 0."""
    cdef uint16_t mss = 0
    cdef uint8_t bad
    if th.bad & BAD_TCP_CSUM:
        ct.net.mib[TCP_CSUMERRORS] += 1
    if th.bad & (BAD_TCP_CSUM | BAD_DOFF):
        ct.net.mib[TCP_INERRS] += 1
    if th.bad & BAD_DOFF:
        return TCP_BAD_DOFF
    if fl.ends[1 - side].opts & OPT_MSS:
        mss = rest_at(ct, index).mss[1 - side]
    bad = offload_learn(ct.offload, ct.key, th, interface, mss)
    if ct.strict:
        bad = th.bad
    elif not ct.auto:
        bad = 0
    if not bad:
        return 0
    return IP_CSUM if bad & BAD_IP_CSUM else TCP_CSUM


cdef inline void conntrack_fate(
    const conntrack *ct,
    fate *out,
    const flow *fl,
    uint32_t index,
    int side,
    const segment *th,
    uint32_t verdict,
    uint8_t drop,
) noexcept nogil:
    """What the columns say of a segment."""
    out.conn = conn_at(ct, index)
    out.dir = side
    out.verdict = verdict
    out.drop = drop
    out.window = th.window
    if not th.flags & TCPHDR_SYN and (
        fl.ends[0].opts & fl.ends[1].opts & (OPT_ISN | OPT_WSCALE)
    ) == (OPT_ISN | OPT_WSCALE):
        out.window <<= fl.ends[side].shift
