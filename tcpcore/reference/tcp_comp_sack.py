"""Duplicate ACKs that wait to be one, where SACK tells of all of them.

Linux: net/ipv4/tcp_input.c (__tcp_ack_snd_check, tcp_sack_compress_send_ack).  RFC 2018 4.
"""

from __future__ import annotations

from .netns import Netns, sk_reset_timer
from .snmp import Mib
from .sock import TCP_FASTRETRANS_THRESH, TcpSock
from .tcp import after, before
from .tcp_output import tcp_send_ack

TCP_SACK_BLOCKS_EXPECTED = 2  # that ACKs may wait with


def tcp_send_dup_ack(net: Netns, tp: TcpSock) -> None:
    """Tell of a hole: three times at once, as that mends it (RFC 5681 3.2), then together."""
    sysctl = net.sysctl
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
    rtt_us = tp.rcv_rtt_us  # times 8; 0 while it is not known
    if 0 < tp.srtt_us < rtt_us:
        rtt_us = tp.srtt_us
    wait_ns = (rtt_us + (rtt_us >> 2)) * sysctl.tcp_comp_sack_rtt_percent
    wait_ns = min(wait_ns, sysctl.tcp_comp_sack_delay_ns) + sysctl.tcp_comp_sack_slack_ns
    expires_ns = net.now_ns + wait_ns
    if net.now_ns < tp.delack_timer.expires_ns < expires_ns:
        expires_ns = tp.delack_timer.expires_ns  # Linux leaves that of an ACK that has gone running
    sk_reset_timer(net, tp.delack_timer, expires_ns)


def tcp_sack_compress_send_ack(net: Netns, tp: TcpSock) -> None:
    """One ACK for all that wait, if any do."""
    if tp.compressed_ack:
        net.mib[Mib.TCP_ACKCOMPRESSED] += tp.compressed_ack - 1
        tp.compressed_ack = 0
        tp.delack_timer.expires_ns = 0
        tcp_send_ack(net, tp)


def tcp_sack_compress_blocks(net: Netns, tp: TcpSock, start: int, end: int) -> None:
    """ACKs wait no longer when what comes is of a third block: few fit, and losses hide some.

    As in Linux what grew a block is told with them, and what begins one with the next ACK.
    """
    for i, (low, high) in enumerate(tp.sack):
        if not before(end, low) and not after(start, high):
            if i < TCP_SACK_BLOCKS_EXPECTED:
                return
            tp.sack[i] = start if before(start, low) else low, end if after(end, high) else high
            break
    if len(tp.sack) >= TCP_SACK_BLOCKS_EXPECTED:
        tcp_sack_compress_send_ack(net, tp)
