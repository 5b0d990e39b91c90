"""Options that are more than a number, laid out as C has them.

Linux: struct tcp_info in include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import socket as _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TCP_CONGESTION = (_socket.IPPROTO_TCP, 13)
TCP_INFO = (_socket.IPPROTO_TCP, 11)

_WORDS = (
    "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent last_ack_sent "
    "last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss "
    "reordering rcv_rtt rcv_space total_retrans"
).split()
_LONGS = "pacing_rate max_pacing_rate bytes_acked bytes_received".split()
_SEGMENTS = "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out".split()
_TIMES = "delivery_rate busy_time rwnd_limited sndbuf_limited".split()
_DELIVERED = "delivered delivered_ce".split()
_BYTES = "bytes_sent bytes_retrans".split()
_REST = "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash".split()
_FLAGS = "state ca_state retransmits probes backoff options".split()


def tcp_info(info: Mapping[str, int]) -> bytes:
    """`struct tcp_info` of what the engine tells; what it does not know is 0."""

    def of(names: list[str], bits: int) -> list[int]:
        return [info.get(f"tcpi_{name}", 0) & ((1 << bits) - 1) for name in names]

    scales = info.get("tcpi_snd_wscale", 0) & 15 | (info.get("tcpi_rcv_wscale", 0) & 15) << 4
    return struct.pack(
        "=8B24I4Q6I4Q2I2Q6I",
        *of(_FLAGS, 8),
        scales,
        0,
        *of(_WORDS, 32),
        *of(_LONGS, 64),
        *of(_SEGMENTS, 32),
        *of(_TIMES, 64),
        *of(_DELIVERED, 32),
        *of(_BYTES, 64),
        *of(_REST, 32),
    )
