# Duplicate ACKs that wait to be one, where SACK tells of all of them.
# Linux: net/ipv4/tcp_input.c (__tcp_ack_snd_check, tcp_sack_compress_send_ack).  RFC 2018 4.

from libc.stdint cimport int64_t, uint32_t
from netns cimport NET_ADD_STATS, netns, sk_reset_timer
from snmp cimport TCP_ACKCOMPRESSED
from sock cimport TCP_FASTRETRANS_THRESH, sysctls, tcp_sock
from tcp cimport after, before
from tcp_output cimport tcp_send_ack

cdef enum:
    TCP_SACK_BLOCKS_EXPECTED = 2  # that ACKs may wait with


cdef inline void tcp_send_dup_ack(netns *net, tcp_sock *tp) noexcept nogil:
    """Tell of a hole: three times at once, as that mends it (RFC 5681 3.2), then together."""
    cdef const sysctls *sysctl = &net.sysctl
    cdef int64_t now_ns = net.net.now_ns
    cdef int64_t rtt_us = tp.rcv_rtt_us  # times 8; 0 while it is not known
    cdef int64_t wait_ns, expires_ns
    if not tp.sack_ok or tp.compressed_ack >= sysctl.tcp_comp_sack_nr:
        tcp_send_ack(net, tp)
        return
    if tp.compressed_ack_rcv_nxt != tp.tcb.rcv_nxt:
        tp.compressed_ack_rcv_nxt = tp.tcb.rcv_nxt
        tp.dup_ack_counter = 0
    if tp.dup_ack_counter < TCP_FASTRETRANS_THRESH:
        tp.dup_ack_counter += 1
        tcp_send_ack(net, tp)
        return
    tp.compressed_ack += 1
    if tp.compressed_ack > 1:
        return
    if 0 < tp.srtt_us < rtt_us:
        rtt_us = tp.srtt_us
    wait_ns = (rtt_us + (rtt_us >> 2)) * sysctl.tcp_comp_sack_rtt_percent
    wait_ns = min(wait_ns, sysctl.tcp_comp_sack_delay_ns) + sysctl.tcp_comp_sack_slack_ns
    expires_ns = now_ns + wait_ns
    if now_ns < tp.delack_timer.expires_ns < expires_ns:
        expires_ns = tp.delack_timer.expires_ns  # Linux leaves that of an ACK that has gone running
    sk_reset_timer(net, &tp.delack_timer.timer, expires_ns)


cdef inline void tcp_sack_compress_send_ack(netns *net, tcp_sock *tp) noexcept nogil:
    """One ACK for all that wait, if any do."""
    if tp.compressed_ack:
        NET_ADD_STATS(net, TCP_ACKCOMPRESSED, tp.compressed_ack - 1)
        tp.compressed_ack = 0
        tp.delack_timer.expires_ns = 0
        tcp_send_ack(net, tp)


cdef inline void tcp_sack_compress_blocks(
    netns *net, tcp_sock *tp, uint32_t start, uint32_t end
) noexcept nogil:
    """ACKs wait no longer when what comes is of a third block: few fit, and losses hide some.

    As in Linux what grew a block is told with them, and what begins one with the next ACK.
    """
    cdef int i
    for i in range(tp.n_sacks):
        if not before(end, tp.sack[i].start) and not after(start, tp.sack[i].end):
            if i < TCP_SACK_BLOCKS_EXPECTED:
                return
            if before(start, tp.sack[i].start):
                tp.sack[i].start = start
            if after(end, tp.sack[i].end):
                tp.sack[i].end = end
            break
    if tp.n_sacks >= TCP_SACK_BLOCKS_EXPECTED:
        tcp_sack_compress_send_ack(net, tp)
