# Why it is slow: time of each direction by what limited it, as a tap can tell.
# Linux: tcp_output.c (tcp_chrono_start).  RFC 4898 4.5 (SndLimTime); docs/slow.md has the rules.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from slab cimport slab_recycled
from tcp cimport *
from tcp_history cimport analysis_far_of, analysis_rare_of
from unaligned cimport held

cdef enum:  # Cause
    LIMITED_NONE = 0
    LIMITED_APPLICATION = 1
    LIMITED_RECEIVER = 2
    LIMITED_NETWORK = 3
    LIMITED_HANDSHAKE = 4

cdef enum:  # LimitBit
    LIMIT_CAUSE = 7  # the cause that holds
    LIMIT_SHORT = 8  # its last segment was shorter than it could have been
    LIMIT_FULL = 16  # its last round filled the window
    LIMIT_RECOVERY = 32  # until `recover` is acknowledged
    LIMIT_ANSWER = 64  # idle, but it cannot have answered before answer_end
    LIMIT_ROUND = 128  # a round is under way that it began

cdef enum:  # RoundBit
    ROUND_FULL = 1  # its flight has filled the window
    ROUND_BLIND = 2  # nothing is measured, a pause

cdef enum:
    FULL_SIZE_MIN = 512  # no path carries less: 576 bytes and headers with options (RFC 791 3.2)
    NEAR_FACTOR = 8  # a sender that is so much nearer than its peer is as good as here
    FAR_NS = 1000000000  # nobody is farther away than that
    PAUSE_NS = 100000000
    TIMESTAMP_ROOM = 12  # its option, padded
    HALF_OPEN = 1 << TCP_LISTEN | 1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV
    NOT_NEW = (
        TCP_A_RETRANSMISSION | TCP_A_OUT_OF_ORDER | TCP_A_KEEP_ALIVE | TCP_A_ZERO_WINDOW_PROBE
    )


ctypedef int limit_type(
    analysis *, analysis_more *, slab_recycled *, slab_recycled *, const flow *, int, int64_t
) noexcept nogil


cdef inline void chrono_init(analysis *an) noexcept nogil:
    an.ends[0].full_size = an.ends[1].full_size = FULL_SIZE_MIN


cdef inline bint chrono_in_round(const analysis *an) noexcept nogil:
    return ((an.ends[0].limits | an.ends[1].limits) & LIMIT_ROUND) != 0


cdef inline uint32_t chrono_distance(const analysis *an, int side) noexcept nogil:
    """Time from here to an end and back, as its quickest acknowledgment tells; 0 if none has."""
    cdef const analysis_end *e = &an.ends[1 - side]
    return min(e.rtt_min_ns, <uint32_t>FAR_NS) if e.rtt_samples else 0


cdef inline int64_t chrono_later(int64_t time_ns, uint32_t by_ns) noexcept nogil:
    return min(time_ns, INT64_MAX - by_ns) + by_ns


cdef inline uint32_t chrono_flight(const tcb *snd) noexcept nogil:
    """Bytes in flight."""
    cdef uint32_t flight = snd.snd_nxt - snd.snd_una
    return 0 if not snd.flags & TCB_SND or flight >> 31 else flight


cdef inline int chrono_cause(const analysis *an, const flow *fl, int side) noexcept nogil:
    """What limits an end from now on."""
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef uint32_t flight = chrono_flight(snd), size = an.ends[side].full_size
    cdef uint8_t bits = an.ends[side].limits
    if not fl.bits & FLOW_OPEN:
        if (
            not fl.bits & FLOW_JUDGED
            or (1 << snd.state | 1 << fl.ends[1 - side].tcb.state) & HALF_OPEN
        ):
            return LIMITED_HANDSHAKE
        if snd.state == TCP_CLOSE or (snd.flags & TCB_FIN_SENT and not flight):
            return LIMITED_NONE
    if not flight:
        if snd.flags & TCB_PEER_WINDOW and (
            snd.snd_wnd == 0 or (snd.snd_wnd < size and not bits & LIMIT_SHORT)
        ):
            return LIMITED_RECEIVER
        return LIMITED_APPLICATION
    if bits & LIMIT_RECOVERY:
        return LIMITED_NETWORK
    if snd.flags & TCB_PEER_WINDOW and (bits & LIMIT_FULL or flight + size > snd.snd_wnd):
        return LIMITED_RECEIVER
    return LIMITED_APPLICATION if bits & LIMIT_SHORT else LIMITED_NETWORK


cdef inline void chrono_add(
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    int side,
    int cause,
    uint64_t passed,
) noexcept nogil:
    """Add to a clock of an end; who has been limited by the receiver has an analysis_far."""
    if cause == LIMITED_APPLICATION:
        more.app_limited_ns[side] += passed
    elif cause == LIMITED_NETWORK:
        more.network_limited_ns[side] += passed
    elif cause == LIMITED_RECEIVER:
        analysis_far_of(analysis_rare_of(more, side, rares), fars).rwnd_limited_ns += passed


cdef inline void chrono_settle(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    int64_t until_ns,
) noexcept nogil:
    """Bring the clocks up to a time; since when they were, no cause has changed."""
    cdef uint64_t passed = <uint64_t>until_ns - <uint64_t>more.limited_since_ns
    cdef int side
    more.limited_since_ns = until_ns
    if (an.ends[0].limits & LIMIT_CAUSE) == LIMITED_HANDSHAKE:
        more.handshake_ns += passed
        return
    for side in range(2):
        chrono_add(more, rares, fars, side, an.ends[side].limits & LIMIT_CAUSE, passed)


cdef inline void chrono_spend(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    int side,
    uint64_t passed,
    uint32_t was,
    bint lost,
) noexcept nogil:
    """Add the time since the last segment, which came at `was`, to the cause that held; if
    something was `lost`, the end has waited for it."""
    cdef uint8_t bits = an.ends[side].limits
    cdef uint32_t left
    if lost and bits & LIMIT_CAUSE:
        bits = (bits & ~(LIMIT_CAUSE | LIMIT_ANSWER)) | LIMITED_NETWORK
        an.ends[side].limits = bits
    elif bits & LIMIT_ANSWER:
        left = more.answer_end - was
        if passed >= left:
            chrono_add(more, rares, fars, side, bits & LIMIT_CAUSE, left)
            passed -= left
            bits = (bits & ~(LIMIT_CAUSE | LIMIT_ANSWER | LIMIT_FULL)) | LIMITED_APPLICATION
            an.ends[side].limits = bits
    chrono_add(more, rares, fars, side, bits & LIMIT_CAUSE, passed)


cdef inline void chrono_round(
    analysis *an, analysis_more *more, const flow *fl, int side, int64_t now_ns
) noexcept nogil:
    """Begin a round: what comes within it was sent without knowing a later window than this."""
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef uint32_t distance = chrono_distance(an, side)
    more.rounds = 0
    an.ends[side].limits |= LIMIT_ROUND
    if (
        not snd.flags & TCB_PEER_WINDOW
        or distance == 0
        or distance < chrono_distance(an, 1 - side) // NEAR_FACTOR
    ):
        more.rounds = ROUND_BLIND
        an.ends[side].limits &= ~LIMIT_FULL
        more.round_end_ns = chrono_later(now_ns, PAUSE_NS)
    else:
        more.round_edge = snd.snd_una + snd.snd_wnd
        more.round_end_ns = chrono_later(now_ns, distance)


cdef inline void chrono_round_ends(
    analysis *an, const analysis_more *more, int side, const segment *th
) noexcept nogil:
    """A round is over: did what came within it, and the segment after it, fill the window?"""
    cdef int of = (an.ends[1].limits & LIMIT_ROUND) != 0
    cdef uint32_t size = an.ends[of].full_size
    cdef bint full = (more.rounds & ROUND_FULL) != 0
    if not more.rounds & ROUND_BLIND:
        if of == side and th.payload_len:
            full = full or after(th.seq + min(th.payload_len, size) + size, more.round_edge)
        if full:
            an.ends[of].limits |= LIMIT_FULL
        else:
            an.ends[of].limits &= ~LIMIT_FULL
    an.ends[of].limits &= ~LIMIT_ROUND


cdef inline void chrono_sent(
    analysis *an,
    analysis_more *more,
    const flow *fl,
    const flow_rest *rest,
    int side,
    const segment *th,
    int64_t now_ns,
) noexcept nogil:
    """New data of an end: is the segment as long as it could be, and the window full?"""
    cdef uint32_t length = th.payload_len, size = an.ends[side].full_size, room = 0xFFFF
    if length > size:
        if fl.ends[1 - side].opts & OPT_MSS:
            room = rest.mss[1 - side]
        if th.opts & OPT_TIMESTAMP and room > TIMESTAMP_ROOM:
            room -= TIMESTAMP_ROOM
        size = max(size, min(length, room))
        an.ends[side].full_size = <uint16_t>size
    if length < size:
        an.ends[side].limits |= LIMIT_SHORT
    else:
        an.ends[side].limits &= ~LIMIT_SHORT
    if length >= size and not chrono_in_round(an):
        chrono_round(an, more, fl, side, now_ns)
    if an.ends[side].limits & LIMIT_ROUND and not more.rounds:
        if after(fl.ends[side].tcb.snd_nxt + size, more.round_edge):
            more.rounds = ROUND_FULL


cdef inline int chrono_limit(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    const flow *fl,
    int side,
    int64_t now_ns,
) noexcept nogil:
    """Find out what limits an end from now on; -1 without memory."""
    cdef uint8_t bits = an.ends[side].limits
    cdef limit_type *changes
    if not bits & (LIMIT_RECOVERY | LIMIT_ANSWER):
        if chrono_cause(an, fl, side) == bits & LIMIT_CAUSE:
            return 0
    changes = <limit_type *>held(<void *>chrono_limit_changes)
    return changes(an, more, rares, fars, fl, side, now_ns)


cdef inline int chrono_limit_changes(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    const flow *fl,
    int side,
    int64_t now_ns,
) noexcept nogil:
    """The same, where it is not what it was, or something is waited for."""
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef analysis_rare *c
    cdef uint8_t bits = an.ends[side].limits
    cdef uint32_t distance
    cdef int cause
    if bits & LIMIT_RECOVERY:
        c = analysis_rare_of(more, side, rares)
        if not before(snd.snd_una, c.recover):
            bits &= ~LIMIT_RECOVERY
            an.ends[side].limits = bits
    cause = chrono_cause(an, fl, side)
    if cause == LIMITED_APPLICATION and (bits & LIMIT_CAUSE) != LIMITED_APPLICATION:
        if chrono_flight(snd) == 0:
            if bits & LIMIT_ANSWER:
                return 0
            distance = chrono_distance(an, side)
            if distance and LIMITED_RECEIVER <= (bits & LIMIT_CAUSE) <= LIMITED_NETWORK:
                more.answer_end = <uint32_t>now_ns + distance + distance // 8
                an.ends[side].limits = bits | LIMIT_ANSWER
                if an.ends[1 - side].limits & LIMIT_ANSWER:  # only one is waited for
                    chrono_settle(an, more, rares, fars, now_ns)
                    an.ends[1 - side].limits = (
                        an.ends[1 - side].limits & ~(LIMIT_CAUSE | LIMIT_ANSWER)
                    ) | LIMITED_APPLICATION
                return 0
    if cause == LIMITED_RECEIVER:
        c = analysis_rare_of(more, side, rares)
        if c == NULL or analysis_far_of(c, fars) == NULL:
            return -1
    if (bits & LIMIT_CAUSE) != cause:
        chrono_settle(an, more, rares, fars, now_ns)
    an.ends[side].limits = (bits & ~(LIMIT_CAUSE | LIMIT_ANSWER)) | cause
    return 0


cdef inline bint chrono_holds(const tcb *snd, uint32_t size, uint8_t bits) noexcept nogil:
    """True if what limits an end of an open connection is what did, where that is neither the
    receiver nor a loss and no answer is waited for."""
    cdef uint32_t flight = snd.snd_nxt - snd.snd_una
    cdef uint8_t cause = LIMITED_APPLICATION
    if <uint64_t>flight + size > snd.snd_wnd:
        return False
    if flight and not bits & LIMIT_SHORT:
        cause = LIMITED_NETWORK
    return (bits & ~(LIMIT_SHORT | LIMIT_ROUND)) == cause


cdef inline bint chrono_predict(
    analysis_end *e,
    const analysis_end *peer,
    analysis_more *mores,
    uint32_t index,
    const tcb *snd,
    const tcb *rcv,
    const segment *th,
    int64_t now_ns,
) noexcept nogil:
    """What `tcp_chrono` would do, in few steps, for a predicted segment of no class that changes no
    cause. False, and nothing done, for anything else."""
    cdef bint in_round = ((e.limits | peer.limits) & LIMIT_ROUND) != 0
    cdef uint8_t bits
    if not chrono_holds(rcv, peer.full_size, peer.limits) or (
        in_round and now_ns >= mores[index].round_end_ns
    ):
        return False
    if not th.payload_len:  # nothing has changed for who sent it
        return (e.limits & (LIMIT_RECOVERY | LIMIT_ANSWER)) == 0
    bits = e.limits | LIMIT_SHORT
    if th.payload_len >= e.full_size:
        if th.payload_len > e.full_size or not in_round:
            return False
        bits &= ~LIMIT_SHORT
    if not chrono_holds(snd, e.full_size, bits):
        return False
    e.limits = bits
    if bits & LIMIT_ROUND and not mores[index].rounds:
        if after(snd.snd_nxt + e.full_size, mores[index].round_edge):
            mores[index].rounds = ROUND_FULL
    return True


cdef inline int tcp_chrono(
    analysis *an,
    analysis_more *more,
    slab_recycled *rares,
    slab_recycled *fars,
    const flow *fl,
    const flow_rest *rest,
    int side,
    const segment *th,
    int64_t was_ns,
    uint32_t classes,
) noexcept nogil:
    """Move the clocks by one segment of `side`; `was_ns` is the flow's last time before it. -1
    without memory."""
    cdef int64_t now_ns = fl.last_ns
    cdef uint64_t passed = <uint64_t>now_ns - <uint64_t>was_ns
    cdef uint32_t was = <uint32_t>was_ns
    cdef const tcb *snd = &fl.ends[side].tcb
    cdef analysis_rare *c
    cdef bint lost = False
    if classes & TCP_A_RETRANSMISSION:
        lost = not snd.flags & TCB_PEER_WINDOW or snd.snd_wnd != 0
    if passed:
        if (lost or (an.ends[0].limits | an.ends[1].limits) & LIMIT_ANSWER) and (
            an.ends[0].limits & LIMIT_CAUSE
        ) != LIMITED_HANDSHAKE:
            chrono_settle(an, more, rares, fars, was_ns)
            chrono_spend(an, more, rares, fars, side, passed, was, lost)
            chrono_spend(an, more, rares, fars, 1 - side, passed, was, False)
            more.limited_since_ns = now_ns
        if chrono_in_round(an) and now_ns >= more.round_end_ns:
            chrono_round_ends(an, more, side, th)
    if th.payload_len and not classes & NOT_NEW:
        chrono_sent(an, more, fl, rest, side, th, now_ns)
    elif (classes & (TCP_A_RETRANSMISSION | TCP_A_SPURIOUS_RETRANSMISSION)) == TCP_A_RETRANSMISSION:
        c = analysis_rare_of(more, side, rares)
        c.recover = snd.snd_nxt
        an.ends[side].limits |= LIMIT_RECOVERY
    if th.opts & OPT_MSS and th.flags & TCPHDR_SYN:
        an.ends[1 - side].full_size = min(an.ends[1 - side].full_size, rest.mss[side])
    if chrono_limit(an, more, rares, fars, fl, side, now_ns):
        return -1
    return chrono_limit(an, more, rares, fars, fl, 1 - side, now_ns)


cdef inline int64_t limited_value(
    const analysis *an,
    const analysis_more *more,
    const analysis_far *far,
    int64_t last_ns,
    int side,
    int cause,
) noexcept nogil:
    """How long a cause held, as the column has it; `far` is the end's, NULL for none."""
    cdef uint64_t value = 0
    if cause == LIMITED_HANDSHAKE:
        value = more.handshake_ns
    elif cause == LIMITED_APPLICATION:
        value = more.app_limited_ns[side]
    elif cause == LIMITED_NETWORK:
        value = more.network_limited_ns[side]
    elif far != NULL:
        value = far.rwnd_limited_ns
    if (an.ends[0 if cause == LIMITED_HANDSHAKE else side].limits & LIMIT_CAUSE) == cause:
        value += <uint64_t>last_ns - <uint64_t>more.limited_since_ns
    return <int64_t>min(value, <uint64_t>INT64_MAX)


cdef inline uint8_t chrono_slow(
    const analysis *an,
    const analysis_more *more,
    const analysis_far *far,
    int64_t last_ns,
    int side,
) noexcept nogil:
    """The cause that held longest in a direction, if there is one; `side` is -1 for none."""
    cdef int64_t most = 0, value
    cdef uint8_t found = LIMITED_NONE
    cdef int cause
    if side < 0:
        return LIMITED_NONE
    for cause in range(LIMITED_APPLICATION, LIMITED_HANDSHAKE + 1):
        value = limited_value(an, more, far, last_ns, side, cause)
        if value > most:
            most = value
            found = cause
        elif value == most:
            found = LIMITED_NONE
    return found
