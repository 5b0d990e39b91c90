# Who is at which port: binding, the search for one, and who takes a segment.
# Linux: inet_csk_get_port in net/ipv4/inet_connection_sock.c, inet_hashtables.c.  RFC 6056 3.3.4.

from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from ip_output cimport ipv6_addr_any
from netns cimport LISTEN_BUCKETS, get_random_u32_below, inet_bind_bucket, netns
from secure_seq cimport secure_port, siphash, siphash_words
from sock cimport *
from tcp cimport TCP_LISTEN
from timer cimport NSEC_PER_SEC
from unaligned cimport get_u32, ipv6_addr_v4mapped


cdef inline bint is_any(const uint8_t *addr) noexcept nogil:
    return ipv6_addr_any(addr) or (ipv6_addr_v4mapped(addr) and get_u32(addr + 12) == 0)


cdef inline uint32_t inet_ehashfn(
    const netns *net, const uint8_t *saddr, uint16_t sport, const uint8_t *daddr, uint16_t dport
) noexcept nogil:
    """The keyed hash of a 4-tuple, ours first (T-02)."""
    cdef uint8_t data[36]
    cdef uint64_t addrs
    if ipv6_addr_v4mapped(saddr) and ipv6_addr_v4mapped(daddr):
        addrs = get_u32(saddr + 12) | <uint64_t>get_u32(daddr + 12) << 32
        return <uint32_t>siphash_words(net.key, addrs, sport | <uint64_t>dport << 16, 12)
    memcpy(data, saddr, 16)
    memcpy(data + 16, daddr, 16)
    memcpy(data + 32, &sport, 2)
    memcpy(data + 34, &dport, 2)
    return <uint32_t>siphash(net.key, data, 36)


cdef inline bint ehash_match(
    const sock_common *sk,
    uint32_t hash,
    const uint8_t *saddr,
    uint16_t sport,
    const uint8_t *daddr,
    uint16_t dport,
) noexcept nogil:
    return (
        sk.hash == hash
        and sk.sport == sport
        and sk.dport == dport
        and memcmp(sk.saddr, saddr, 16) == 0
        and memcmp(sk.daddr, daddr, 16) == 0
    )


cdef inline void ehash_grow(netns *net) noexcept nogil:
    """Keep chains short; where there is no memory they grow longer."""
    cdef uint32_t i, mask = net.established_mask * 2 + 1
    cdef sock_common **table
    cdef sock_common *sk
    cdef sock_common *next
    if net.n_established <= net.established_mask:
        return
    table = <sock_common **>calloc(<size_t>mask + 1, sizeof(sock_common *))
    if table == NULL:
        return
    for i in range(net.established_mask + 1):
        sk = net.established[i]
        while sk != NULL:
            next = sk.ehash_next
            sk.ehash_next = table[sk.hash & mask]
            table[sk.hash & mask] = sk
            sk = next
    free(net.established)
    net.established = table
    net.established_mask = mask


cdef inline void inet_ehash_insert(netns *net, sock_common *sk) noexcept nogil:
    """Enter somebody by his 4-tuple, in the place of who had it."""
    cdef sock_common *other = request_or_sock(net, sk.saddr, sk.sport, sk.daddr, sk.dport)
    if other == sk:
        return
    if other != NULL:
        inet_unhash(net, other)
    ehash_grow(net)
    sk.hash = inet_ehashfn(net, sk.saddr, sk.sport, sk.daddr, sk.dport)
    sk.ehash_next = net.established[sk.hash & net.established_mask]
    net.established[sk.hash & net.established_mask] = sk
    sk.hashed = 1
    net.n_established += 1


cdef inline void inet_unhash(netns *net, sock_common *sk) noexcept nogil:
    """Forget whoever it is, if it is him who is known by his 4-tuple."""
    cdef sock_common **at
    if not sk.hashed:
        return
    at = &net.established[sk.hash & net.established_mask]
    while at[0] != sk:
        at = &at[0].ehash_next
    at[0] = sk.ehash_next
    sk.hashed = 0
    net.n_established -= 1


cdef inline bint is_only(const tcp_sock *tp, int version) noexcept nogil:
    """True if somebody is there for one version of IP alone (IPV6_V6ONLY, or his address)."""
    cdef bint four = tp.sk.ip == 4 or ipv6_addr_v4mapped(tp.sk.saddr)
    if version == 4:
        return four
    return not four and (not is_any(tp.sk.saddr) or tp.ipv6only)


cdef inline tcp_sock *inet_lookup_listener(
    netns *net, const uint8_t *daddr, uint16_t dport
) noexcept nogil:
    """The listener that suits best: on this very address before one on any, port before none."""
    cdef tcp_sock *best = NULL
    cdef tcp_sock *tp
    cdef int score = 0, value, turn
    cdef uint16_t port = dport
    for turn in range(2):
        tp = net.listening[port & (LISTEN_BUCKETS - 1)]
        while tp != NULL:
            value = 0
            if tp.sk.sport == port:
                if not tp.has_saddr or is_any(tp.sk.saddr):
                    if not is_only(tp, 6 if ipv6_addr_v4mapped(daddr) else 4):
                        value = 2 if port else 1
                elif memcmp(tp.sk.saddr, daddr, 16) == 0:
                    value = 3
            if value > score:
                best = tp
                score = value
            tp = tp.listen_next
        port = 0
    return best


cdef inline void inet_listen_hash(netns *net, tcp_sock *tp) noexcept nogil:
    """Enter a listener behind those that came before."""
    cdef tcp_sock **at = &net.listening[tp.sk.sport & (LISTEN_BUCKETS - 1)]
    while at[0] != NULL:
        at = &at[0].listen_next
    at[0] = tp
    tp.listen_next = NULL
    tp.listening = 1


cdef inline void inet_listen_unhash(netns *net, tcp_sock *tp) noexcept nogil:
    cdef tcp_sock **at
    if not tp.listening:
        return
    at = &net.listening[tp.sk.sport & (LISTEN_BUCKETS - 1)]
    while at[0] != tp:
        at = &at[0].listen_next
    at[0] = tp.listen_next
    tp.listening = 0


cdef inline bint bind_conflict(const tcp_sock *tp, const tcp_sock *other) noexcept nogil:
    """True if two cannot be at one port (Linux's rules of SO_REUSEADDR and SO_REUSEPORT)."""
    if (is_only(tp, 4) and is_only(other, 6)) or (is_only(tp, 6) and is_only(other, 4)):
        return False
    if (
        not is_any(tp.sk.saddr)
        and not is_any(other.sk.saddr)
        and memcmp(tp.sk.saddr, other.sk.saddr, 16)
    ):
        return False
    if tp.reuse and other.reuse and other.tcb.state != TCP_LISTEN:
        return False
    return not (tp.reuseport and other.reuseport)


cdef inline bint tw_conflict(netns *net, const tcp_sock *tp, uint16_t port) noexcept nogil:
    """True if what is in TIME-WAIT at a port stands in the way."""
    cdef const sock_common *sk
    cdef uint32_t i
    cdef bint any_one = is_any(tp.sk.saddr)
    cdef bint four = is_only(tp, 4)
    cdef bint six = is_only(tp, 6)
    if not net.bound[port].n_tw or tp.reuse:
        return False
    for i in range(net.established_mask + 1):  # rare, and a caller's: a rest has no list
        sk = net.established[i]
        while sk != NULL:
            if (
                sk.kind == SK_TIMEWAIT
                and sk.sport == port
                and (<const timewait_sock *>sk).bound
                and (any_one or memcmp(sk.saddr, tp.sk.saddr, 16) == 0)
                and not (six if ipv6_addr_v4mapped(sk.saddr) else four)
            ):
                return True
            sk = sk.ehash_next
    return False


cdef inline bint port_conflict(netns *net, const tcp_sock *tp, uint16_t port) noexcept nogil:
    """True if somebody is at a port, 0: listens at all of them, who does not share it."""
    cdef const tcp_sock *other = net.bound[port].owners
    if not port:
        other = net.listening[0]
        while other != NULL and (other.sk.sport or not bind_conflict(tp, other)):
            other = other.listen_next
        return other != NULL
    while other != NULL:
        if other != tp and bind_conflict(tp, other):
            return True
        other = other.bind_next
    return tw_conflict(net, tp, port)


cdef inline int inet_csk_get_port(netns *net, tcp_sock *tp, uint16_t port) noexcept nogil:
    """Bind to a port, or to a free one for 0; 0 or a negative errno."""
    cdef int64_t low, count, start, i, even
    if port:
        if port_conflict(net, tp, port):
            return -EADDRINUSE
    else:
        low = net.sysctl.ip_local_port_range[0]
        count = net.sysctl.ip_local_port_range[1] - low + 1
        start = get_random_u32_below(net, <uint32_t>count) | 1
        even = count & ~<int64_t>1
        for i in range(2 * (count // 2)):
            port = <uint16_t>(low + (start + 2 * (i % (count // 2)) + i // (count // 2)) % even)
            if net.bound[port].owners == NULL and not net.bound[port].n_tw:
                break
        else:
            return -EADDRINUSE
    tp.sk.sport = port
    inet_inherit_port(net, &tp.sk)
    return 0


cdef inline void inet_put_port(netns *net, sock_common *sk) noexcept nogil:
    """Give a port back."""
    cdef tcp_sock *tp = <tcp_sock *>sk
    cdef timewait_sock *tw = <timewait_sock *>sk
    if sk.kind == SK_TIMEWAIT:
        net.bound[sk.sport].n_tw -= tw.bound
        tw.bound = 0
    elif tp.bind_pprev != NULL:
        tp.bind_pprev[0] = tp.bind_next
        if tp.bind_next != NULL:
            tp.bind_next.bind_pprev = tp.bind_pprev
        tp.bind_pprev = NULL


cdef inline void inet_inherit_port(netns *net, sock_common *sk) noexcept nogil:
    """Share the port of the listener, or of what it is a rest of."""
    cdef tcp_sock *tp = <tcp_sock *>sk
    cdef inet_bind_bucket *bucket = &net.bound[sk.sport]
    if sk.kind == SK_TIMEWAIT:
        (<timewait_sock *>sk).bound = 1
        bucket.n_tw += 1
        return
    tp.bind_next = bucket.owners
    if tp.bind_next != NULL:
        tp.bind_next.bind_pprev = &tp.bind_next
    bucket.owners = tp
    tp.bind_pprev = &bucket.owners


cdef inline bint check_established(netns *net, tcp_sock *tp, uint16_t port) noexcept nogil:
    """True if the 4-tuple is free: nobody has it, or what is in TIME-WAIT may be replaced."""
    cdef sock_common *other
    cdef timewait_sock *tw
    other = request_or_sock(net, tp.sk.saddr, port, tp.sk.daddr, tp.sk.dport)
    if other == NULL:
        return True
    tw = <timewait_sock *>other
    if other.kind != SK_TIMEWAIT or not tw.tstamp_ok:
        return False
    return tw_reuse(net, tp, tw)


cdef inline bint tw_reuse(netns *net, tcp_sock *tp, timewait_sock *tw) noexcept nogil:
    """A connection in TIME-WAIT for over a second, with time stamps, may begin again (RFC 6191)."""
    cdef int64_t mode = net.sysctl.tcp_tw_reuse
    cdef bint loopback = ipv6_addr_v4mapped(tw.sk.daddr) and tw.sk.daddr[12] == 127
    if not mode or (mode == 2 and not loopback):
        return False
    if net.net.now_ns // NSEC_PER_SEC - tw.ts_recent_stamp <= 1:
        return False
    tp.write_seq = tw.snd_nxt + 65535 + 2
    if tp.write_seq == 0:
        tp.write_seq = 1
    tp.tcb.ts_recent = tw.ts_recent
    tp.ts_recent_stamp_ns = <int64_t>tw.ts_recent_stamp * NSEC_PER_SEC
    net.replaced = tw  # to be ended once the place is taken
    return True


cdef inline bint port_is_asked_for(const netns *net, uint16_t port) noexcept nogil:
    """True if somebody asked for this very port."""
    cdef const tcp_sock *owner = net.bound[port].owners
    while owner != NULL:
        if owner.userlocks & SOCK_BINDPORT_LOCK:
            return True
        owner = owner.bind_next
    return False


cdef inline int inet_hash_connect(netns *net, tcp_sock *tp) noexcept nogil:
    """Find a port for a connection and enter it; 0 or -EADDRNOTAVAIL (RFC 6056 3.3.4)."""
    cdef int64_t low, count, i
    cdef uint64_t hashed, offset
    cdef uint32_t index
    cdef int parity
    cdef uint16_t port
    if tp.sk.sport:
        if not check_established(net, tp, tp.sk.sport):
            return -EADDRNOTAVAIL
        inet_ehash_insert(net, &tp.sk)
        return 0
    low = net.sysctl.ip_local_port_range[0]
    count = net.sysctl.ip_local_port_range[1] - low + 1
    if count > 1:
        count &= ~<int64_t>1
    hashed = secure_port(net.key, tp.sk.saddr, tp.sk.daddr, tp.sk.dport)
    index = hashed & 255
    offset = (net.perturb[index] + (hashed >> 32)) % <uint64_t>count & ~<uint64_t>1
    for parity in range(2):
        i = 0
        while i < count:
            port = <uint16_t>(low + <int64_t>(offset + parity + i) % count)
            if not port_is_asked_for(net, port) and check_established(net, tp, port):
                net.perturb[index] += i + 2
                tp.sk.sport = port
                inet_inherit_port(net, &tp.sk)
                inet_ehash_insert(net, &tp.sk)
                return 0
            i += 2
    return -EADDRNOTAVAIL


cdef inline void bind_unlock(tcp_sock *tp) noexcept nogil:
    """Forget what the caller did not ask for himself."""
    if not tp.userlocks & SOCK_BINDADDR_LOCK:
        memset(tp.sk.saddr, 0, 16)
        tp.has_saddr = 0


cdef inline sock_common *request_or_sock(
    netns *net, const uint8_t *saddr, uint16_t sport, const uint8_t *daddr, uint16_t dport
) noexcept nogil:
    """Whoever has a 4-tuple, ours first, or NULL."""
    cdef uint32_t hash = inet_ehashfn(net, saddr, sport, daddr, dport)
    cdef sock_common *sk = net.established[hash & net.established_mask]
    while sk != NULL and not ehash_match(sk, hash, saddr, sport, daddr, dport):
        sk = sk.ehash_next
    return sk
