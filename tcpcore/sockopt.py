"""Options of a socket as C lays them out.

Linux: socket(7), tcp(7), struct tcp_info in include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import errno
import operator
import socket as _socket
import struct

from tcpcore.transfer import SO_RCVTIMEO, SO_SNDTIMEO, TCP_INQ, Transfer, fail, view_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tcpcore.transfer import Buffer

TCP_CONGESTION = (_socket.IPPROTO_TCP, 13)
TCP_INFO = (_socket.IPPROTO_TCP, 11)
SO_MEMINFO = (_socket.SOL_SOCKET, 55)
IP_MTU = (_socket.IPPROTO_IP, 14)
# SO_RCVTIMEO_NEW and SO_SNDTIMEO_NEW are the same where a long has 64 bits.
TIMEOUTS = {one: one for one in (SO_RCVTIMEO, SO_SNDTIMEO)}
TIMEOUTS |= {(_socket.SOL_SOCKET, 66): SO_RCVTIMEO, (_socket.SOL_SOCKET, 67): SO_SNDTIMEO}
TICK_NS = 4_000_000
TICKS_MAX = (1 << 63) - 1  # which is no time at all
TCP_MD5SIG = (_socket.IPPROTO_TCP, 14)
TCP_MD5SIG_EXT = (_socket.IPPROTO_TCP, 32)
TCP_MD5SIG_MAXKEYLEN = 80
MD5SIG = struct.Struct("=128sBBHi80s")  # struct tcp_md5sig: an address, then the key's
FLAG_PREFIX, FLAG_IFINDEX = 1, 2
V4MAPPED = bytes(10) + b"\xff\xff"

# What Linux takes and gives back, and nothing here depends on: (default, least, most); a flag
# where those are 0 and None, which is 1 for whatever is not 0.
KEPT: dict[tuple[int, int], tuple[int, int, int | None]] = {
    **{(1, name): (0, 0, None) for name in (1, 5, 6, 11, 40, 41, 43, 44, 45, 63, 64, 69, 75, 82)},
    **{(0, name): (0, 0, None) for name in (6, 7, 8, 12, 13, 15, 18, 19, 20, 24)},
    (1, 12): (0, -(1 << 31), (1 << 31) - 1),  # SO_PRIORITY
    (1, 36): (0, -(1 << 31), (1 << 31) - 1),  # SO_MARK
    (1, 46): (0, 0, (1 << 31) - 1),  # SO_BUSY_POLL
    (1, 49): (-1, -(1 << 31), (1 << 31) - 1),  # SO_INCOMING_CPU
    (1, 72): (0, 0, 2),  # SO_BUF_LOCK
    (6, 16): (0, 0, 1),  # TCP_THIN_LINEAR_TIMEOUTS
    (6, 27): (0, 0, 2),  # TCP_SAVE_SYN
    TCP_INQ: (0, 0, 1),  # the caller's side has it
}


NOT_INHERITED = ((1, 12), (1, 49))  # SO_PRIORITY and SO_INCOMING_CPU are of one socket

# What Linux says to these where TCP_REPAIR is off, as it always is here.
NEEDS_REPAIR: dict[tuple[int, int], int] = {
    **{(6, name): errno.EPERM for name in (20, 21, 24, 29)},  # queue, its number, stamp, window
    (6, 22): errno.EINVAL,  # TCP_REPAIR_OPTIONS
}
# Values that Linux takes, and whether only of a socket that is not connected.
BOUNDS: dict[tuple[int, int], tuple[int, int, bool]] = {
    (6, 17): (0, 1, False),  # TCP_THIN_DUPACK
    (6, 19): (-1, 1, False),  # TCP_REPAIR
    (6, 23): (0, (1 << 31) - 1, True),  # TCP_FASTOPEN
    (6, 30): (0, 1, True),  # TCP_FASTOPEN_CONNECT
}
TCP_CLOSE, TCP_LISTEN = 7, 10

# Of what is asked for alone: SO_SNDLOWAT, SO_BPF_EXTENSIONS; and what asking gives instead.
READ_ONLY: dict[tuple[int, int], int] = {(1, 19): 1, (1, 48): 64}
ASKED_IN_VAIN: dict[tuple[int, int], int] = {
    **{(6, name): errno.ENOPROTOOPT for name in (14, 22, 32)},  # keys of MD5, TCP_REPAIR_OPTIONS
    **{(6, name): errno.EINVAL for name in (20, 21, 29)},  # of TCP_REPAIR, which is never on
    **{(1, name): errno.ENOPROTOOPT for name in (32, 33)},  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
}


def refused(key: tuple[int, int], value: int, state: int) -> int:
    """The errno with which Linux refuses to set an option that is not here; 0 where it would not.

    Linux: do_tcp_setsockopt.
    """
    if key in NEEDS_REPAIR:
        return NEEDS_REPAIR[key]
    least, most, closed = BOUNDS.get(key, (value, value, False))
    if not least <= value <= most or (closed and state not in (TCP_CLOSE, TCP_LISTEN)):
        return errno.EINVAL
    return 0


def keep(kept: dict[tuple[int, int], int], level: int, name: int, value: int) -> int:
    """Take an option that is only kept: 0 or a negative errno; what Linux does with the value."""
    _, least, most = KEPT[level, name]
    if most is None:
        value = int(value != 0)
    elif not least <= value <= most:
        return -errno.EINVAL
    kept[level, name] = value
    return 0


def inherited(kept: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """What of a listener's kept options an accepted socket begins with."""
    return {key: value for key, value in kept.items() if key not in NOT_INHERITED}


def keep_timeout(kept: dict[tuple[int, int], int], key: tuple[int, int], data: bytes) -> int:
    """SO_RCVTIMEO or SO_SNDTIMEO, a struct timeval: 0 or a negative errno.

    It is kept in ns, in whole ticks of 4 ms; none where it is 0 or too long, 0 where it is
    negative: a call does not wait then.
    """
    if len(data) < 16:
        return -errno.EINVAL
    seconds, micros = struct.unpack_from("qq", data)
    if not 0 <= micros < 1_000_000:
        return -errno.EDOM
    name = TIMEOUTS[key]
    kept.pop(name, None)
    if seconds < 0:
        kept[name] = 0
    elif (seconds or micros) and seconds < TICKS_MAX * TICK_NS // 1_000_000_000 - 1:
        span_ns = seconds * 1_000_000_000 + micros * 1000
        kept[name] = -(-span_ns // TICK_NS) * TICK_NS
    return 0


def timeout_data(kept: Mapping[tuple[int, int], int], key: tuple[int, int]) -> bytes:
    """SO_RCVTIMEO or SO_SNDTIMEO as it is told: zeros for none."""
    span_us = kept.get(TIMEOUTS[key], 0) // 1000
    return struct.pack("qq", *divmod(span_us, 1_000_000))


# The fields of struct tcp_info in their order: how wide, their names.
TCP_INFO_FIELDS = {
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
    "2H": "total_rto total_rto_recoveries",
    "8I": "total_rto_time received_ce delivered_e1_bytes delivered_e0_bytes delivered_ce_bytes "
    "received_e1_bytes received_e0_bytes received_ce_bytes",
    "2H ": "ecn_modes accecn_fail_opt",
}
_BITS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def tcp_info(info: Mapping[str, int]) -> bytes:
    """`struct tcp_info` of what the engine tells; what it does not know is 0."""
    scales = info["tcpi_snd_wscale"] & 15 | (info["tcpi_rcv_wscale"] & 15) << 4
    told = {**info, "tcpi_scales": scales, "tcpi_flags": info["tcpi_delivery_rate_app_limited"]}
    told["tcpi_ecn_modes"] = info["tcpi_ecn_mode"] & 3
    values = []
    for code, names in TCP_INFO_FIELDS.items():
        mask = (1 << _BITS[code.strip()[-1]]) - 1
        values += [told.get(f"tcpi_{name}", 0) & mask for name in names.split()]
    return struct.pack("=" + "".join(TCP_INFO_FIELDS), *values)


def md5sig(family: int, extended: bool, data: bytes) -> tuple[bytes, int, int, bytes]:
    """`struct tcp_md5sig` as the engine takes it: (address, bits of it, flags, key).

    The address has 16 bytes, IPv4 mapped; an empty key forgets one.

    Raises
    ------
    OSError
        EINVAL for what Linux does not take: another family than the socket's, a prefix longer than
        an address, a key of more than 80 bytes, the key of a VRF, of which there is none here.
    """
    if len(data) < MD5SIG.size:
        fail(errno.EINVAL)
    address, flags, prefixlen, keylen, ifindex, key = MD5SIG.unpack_from(data)
    if struct.unpack_from("=H", address)[0] != family:
        fail(errno.EINVAL)
    found = V4MAPPED + address[4:8] if family == _socket.AF_INET else address[8:24]
    most = 32 if found.startswith(V4MAPPED) else 128
    if not (extended and flags & FLAG_PREFIX):
        prefixlen = most
    if prefixlen > most or (extended and flags & FLAG_IFINDEX and ifindex):
        fail(errno.EINVAL)
    if keylen > TCP_MD5SIG_MAXKEYLEN:
        fail(errno.EINVAL)
    return found, 128 - most + prefixlen, flags & FLAG_IFINDEX, key[:keylen]


def shortened(level: int, data: bytes, size: int) -> bytes:
    """As much as is asked for; of SOL_IP one byte where the value fits it."""
    if level == 0 and 0 < size < 4 == len(data) and not any(data[1:]):
        return data[:1]
    return data[:size]


class Options(Transfer):
    """What may be asked for and asked about by number."""

    _family: _socket.AddressFamily

    def setsockopt(
        self, level: int, optname: int, value: int | Buffer | None, optlen: int | None = None
    ) -> None:
        """An option by its number: an int, or bytes as C has them."""
        level, optname = operator.index(level), operator.index(optname)
        handle = self._open()
        linger = level == _socket.SOL_SOCKET and optname == _socket.SO_LINGER
        if value is None and optlen is not None:
            fail(errno.EFAULT if optlen >= 4 else errno.EINVAL)
        made: int
        with self._stack._lock:
            self._stack._sync()
            if (level, optname) in TIMEOUTS:
                data = b"" if isinstance(value, int) else bytes(view_of(value))
                made = keep_timeout(self._kept, (level, optname), data)
            elif isinstance(value, int):
                if not -(1 << 31) <= value < 1 << 31:
                    raise TypeError("a bytes-like object is required, not 'int'")
                if linger or (level, optname) == TCP_CONGESTION:
                    fail(errno.EINVAL if linger else errno.ENOENT)
                if (level, optname) in (TCP_MD5SIG, TCP_MD5SIG_EXT):
                    fail(errno.EINVAL)
                made = self._set_number(handle, level, optname, value)
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
                elif (level, optname) in (TCP_MD5SIG, TCP_MD5SIG_EXT):
                    extended = (level, optname) == TCP_MD5SIG_EXT
                    made = self._net.set_md5(handle, *md5sig(self._family, extended, data))
                elif len(data) < 4 and level:
                    made = -errno.EINVAL
                else:  # of SOL_IP one byte will do, and none is 0
                    number = int.from_bytes(data[:4], "little") if len(data) < 4 else None
                    if number is None:
                        (number,) = struct.unpack_from("i", data)
                    made = self._set_number(handle, level, optname, number)
            self._stack._flush(self._stack.clock.now_ns())
            self._stack._stir()
        if made:
            fail(-made)

    def _set_number(self, handle: int, level: int, name: int, value: int) -> int:
        if (level, name) in KEPT:
            return keep(self._kept, level, name, value)
        return int(self._net.setsockopt(handle, level, name, value))

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
            elif (level, optname) == TCP_INFO:
                data = tcp_info(self._net.info(handle))
            elif (level, optname) == SO_MEMINFO:
                data = struct.pack("9I", *self._net.meminfo(handle))
            elif (level, optname) in READ_ONLY:
                data = struct.pack("i", READ_ONLY[level, optname])
            elif (level, optname) in ASKED_IN_VAIN:
                fail(ASKED_IN_VAIN[level, optname])
            elif (level, optname) == IP_MTU and not self._net.peername(handle)[1]:
                fail(errno.ENOTCONN)
            elif (level, optname) in TIMEOUTS:
                data = timeout_data(self._kept, (level, optname))
            elif (level, optname) in KEPT:
                data = struct.pack("i", self._kept.get((level, optname), KEPT[level, optname][0]))
            else:
                failed, value = self._net.getsockopt(handle, level, optname)
                if failed:
                    fail(-failed)
                data = struct.pack("I", value & 0xFFFFFFFF)
        if buflen:
            return shortened(level, data, buflen)
        number: int = struct.unpack_from("i", data)[0]
        return number
