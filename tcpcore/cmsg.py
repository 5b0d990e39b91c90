"""Ancillary data of a socket as C lays it out, made of what an engine tells.

Linux: socket(7), ip(7), include/uapi/linux/errqueue.h; tcp_recv_timestamp, ip_recv_error.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Message = tuple[int, int, bytes]

AF_INET, AF_INET6 = 2, 10
SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6 = 0, 1, 6, 41
SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING = 29, 35, 37
SCM_TIMESTAMPING_OPT_STATS = 54
IP_RECVERR, IPV6_RECVERR, TCP_CM_INQ = 11, 25, 36
RX_SOFTWARE, SOFTWARE, OPT_RX_FILTER = 0x8, 0x10, 0x20000
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
MSG_CTRUNC, MSG_TRUNC, MSG_ERRQUEUE = 0x8, 0x20, 0x2000
HEADER, ALIGN = 16, 8  # of struct cmsghdr


def stamps(net: Any, handle: int, stamp_ns: int, error: bool) -> list[Message]:
    """What the options make of a time: SO_TIMESTAMP or SO_TIMESTAMPNS, and SO_TIMESTAMPING."""
    made = []
    seconds, rest = divmod(stamp_ns, 1_000_000_000)
    if net.getsockopt(handle, SOL_SOCKET, SO_TIMESTAMPNS)[1]:
        made.append((SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("=qq", seconds, rest)))
    elif net.getsockopt(handle, SOL_SOCKET, SO_TIMESTAMP)[1]:
        made.append((SOL_SOCKET, SO_TIMESTAMP, struct.pack("=qq", seconds, rest // 1000)))
    flags = net.getsockopt(handle, SOL_SOCKET, SO_TIMESTAMPING)[1]
    if flags & SOFTWARE and (error or flags & RX_SOFTWARE or not flags & OPT_RX_FILTER):
        made.append((SOL_SOCKET, SO_TIMESTAMPING, struct.pack("=6q", seconds, rest, 0, 0, 0, 0)))
    return made


def of_data(net: Any, handle: int, inq: bool) -> list[Message]:
    """What goes with data that were read just now; with TCP_INQ how much is left."""
    stamp_ns = net.rx_stamp(handle)
    made = stamps(net, handle, stamp_ns, False) if stamp_ns else []
    if inq:
        made.append((SOL_TCP, TCP_CM_INQ, struct.pack("=i", net.inq(handle))))
    return made


def of_error(net: Any, handle: int, now_ns: int) -> tuple[bytes, list[Message]] | None:
    """The oldest message of the error queue: what it is about, and what is told of it.

    None if there is none.
    """
    found = net.recv_error(handle)
    if found is None:
        return None
    told, stamp_ns, offender, data, statistics = found
    errno, origin, kind, code, info, value = told
    made = []
    if stamp_ns:
        made = stamps(net, handle, stamp_ns, True)
        if statistics and made and made[-1][1] == SO_TIMESTAMPING:
            made.append((SOL_SOCKET, SCM_TIMESTAMPING_OPT_STATS, data))
    else:  # SO_TIMESTAMP has a time for everything, if it is that of now
        made = [one for one in stamps(net, handle, now_ns, True) if one[1] != SO_TIMESTAMPING]
    extended = struct.pack("=IBBBBII", errno, origin, kind, code, 0, info, value)
    six = net.sockname(handle)[0] == 6
    told_by = origin in (ORIGIN_ICMP, ORIGIN_ICMP6)
    if six:
        where = struct.pack("=HHI16sI", AF_INET6 * told_by, 0, 0, offender, 0)
        made.append((SOL_IPV6, IPV6_RECVERR, extended + where))
    else:
        where = struct.pack("=HH4s8x", AF_INET * told_by, 0, offender[12:])
        made.append((SOL_IP, IP_RECVERR, extended + where))
    return data, made


def space(size: int) -> int:
    """Room that a message of so many bytes takes (CMSG_SPACE)."""
    return HEADER + (size + ALIGN - 1) // ALIGN * ALIGN


def fit(messages: Iterable[Message], room: int) -> tuple[list[Message], int]:
    """As many as there is room for, the last one perhaps cut, and MSG_CTRUNC if it is not all."""
    made: list[Message] = []
    for level, kind, data in messages:
        if room < HEADER + len(data):
            if room >= HEADER:
                made.append((level, kind, data[: room - HEADER]))
            return made, MSG_CTRUNC
        made.append((level, kind, data))
        room -= min(space(len(data)), room)
    return made, 0
