"""Options of a socket as C lays them out.

Linux: socket(7), tcp(7), struct tcp_info in include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import errno
import operator
import socket as _socket
import struct

from tcpcore.transfer import Transfer, fail, view_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tcpcore.transfer import Buffer

TCP_CONGESTION = (_socket.IPPROTO_TCP, 13)
TCP_INFO = (_socket.IPPROTO_TCP, 11)
TCP_INQ = (_socket.IPPROTO_TCP, 36)

# The fields of struct tcp_info in their order: how wide, their names.
_TCP_INFO = {
    "6B": "state ca_state retransmits probes backoff options",
    "2B": "scales flags",
    "24I": "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent "
    "last_ack_sent last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh "
    "snd_cwnd advmss reordering rcv_rtt rcv_space total_retrans",
    "4Q": "pacing_rate max_pacing_rate bytes_acked bytes_received",
    "6I": "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out",
    "4Q ": "delivery_rate busy_time rwnd_limited sndbuf_limited",
    "2I": "delivered delivered_ce",
    "2Q": "bytes_sent bytes_retrans",
    "6I ": "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash",
}
_BITS = {"B": 8, "I": 32, "Q": 64}


def tcp_info(info: Mapping[str, int]) -> bytes:
    """`struct tcp_info` of what the engine tells; what it does not know is 0."""
    scales = info["tcpi_snd_wscale"] & 15 | (info["tcpi_rcv_wscale"] & 15) << 4
    told = {**info, "tcpi_scales": scales}
    values = []
    for code, names in _TCP_INFO.items():
        mask = (1 << _BITS[code.strip()[-1]]) - 1
        values += [told.get(f"tcpi_{name}", 0) & mask for name in names.split()]
    return struct.pack("=" + "".join(_TCP_INFO), *values)


class Options(Transfer):
    """What may be asked for and asked about by number."""

    def setsockopt(
        self, level: int, optname: int, value: int | Buffer | None, optlen: int | None = None
    ) -> None:
        """An option by its number: an int, or bytes as C has them."""
        level, optname = operator.index(level), operator.index(optname)
        handle = self._open()
        linger = level == _socket.SOL_SOCKET and optname == _socket.SO_LINGER
        if value is None and optlen is not None:
            fail(errno.EFAULT if optlen >= 4 else errno.EINVAL)
        with self._stack._lock:
            self._stack._sync()
            if isinstance(value, int):
                if not -(1 << 31) <= value < 1 << 31:
                    raise TypeError("a bytes-like object is required, not 'int'")
                if linger or (level, optname) == TCP_CONGESTION:
                    fail(errno.EINVAL if linger else errno.ENOENT)
                if (level, optname) == TCP_INQ:
                    if value not in (0, 1):
                        fail(errno.EINVAL)
                    self._inq = bool(value)
                    return
                made: int = self._net.setsockopt(handle, level, optname, value)
            else:
                data = bytes(view_of(value))
                if (level, optname) == TCP_CONGESTION:
                    word = data.split(b"\0")[0].decode("ascii", "replace")
                    made = self._net.set_congestion(handle, word) if data else -errno.EINVAL
                elif linger:
                    if len(data) < 8:
                        fail(errno.EINVAL)
                    on, seconds = struct.unpack_from("ii", data)
                    if not on:
                        seconds = self._net.linger(handle)[1]
                    made = self._net.set_linger(handle, bool(on), seconds)
                elif len(data) < 4:
                    made = -errno.EINVAL
                else:
                    made = self._net.setsockopt(
                        handle, level, optname, struct.unpack_from("i", data)[0]
                    )
            self._stack._flush(self._stack.clock.now_ns())
            self._stack._stir()
        if made:
            fail(-made)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """An option: an int, or `buflen` bytes at most as C has them."""
        level, optname = operator.index(level), operator.index(optname)
        handle = self._open()
        if not 0 <= buflen <= 1024:
            raise OSError("getsockopt buflen out of range")
        with self._stack._lock:
            if level == _socket.SOL_SOCKET and optname == _socket.SO_LINGER:
                on, seconds = self._net.linger(handle)
                data = struct.pack("ii", on, seconds)
            elif (level, optname) == TCP_CONGESTION:
                data = self._net.congestion(handle).encode().ljust(16, b"\0")
            elif (level, optname) == TCP_INQ:
                data = struct.pack("i", self._inq)
            elif (level, optname) == TCP_INFO:
                data = tcp_info(self._net.info(handle))
            else:
                failed, value = self._net.getsockopt(handle, level, optname)
                if failed:
                    fail(-failed)
                data = struct.pack("I", value & 0xFFFFFFFF)
        if buflen:
            return data[:buflen]
        number: int = struct.unpack_from("i", data)[0]
        return number
