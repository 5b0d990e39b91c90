"""The seam of active mode: one host; handles, bytes and frames in, frames and answers out.

Linux: include/net/net_namespace.h, net/socket.c.
"""

from __future__ import annotations

import errno

from . import tcp_user as user
from .inet_connection_sock import sk_alloc
from .inet_timewait_sock import tw_timer_handler
from .ip_input import ip_rcv
from .netns import Netns
from .sock import (
    ICSK_TIME_DACK,
    ICSK_TIME_KEEPOPEN,
    ICSK_TIME_RETRANS,
    TCP_SYNACK_TIMER,
    TcpSock,
)
from .tcp import Segment
from .tcp_ipv4 import tcp_v4_connect, tcp_v4_rcv
from .tcp_minisocks import reqsk_timer_handler
from .tcp_timer import tcp_delack_timer, tcp_keepalive_timer, tcp_write_timer
from .timer import timer_advance, timer_next


class Net:
    """A host without I/O: `receive`, `advance` and the calls of sockets change it."""

    def __init__(self, key: bytes) -> None:
        self.net = Netns(key)

    def sock(self, handle: int) -> TcpSock:
        tp = self.net.socks.get(handle)
        if tp is None:
            raise OSError(errno.EBADF, "no such socket")
        return tp

    def socket(self, ip: int) -> int:
        tp = sk_alloc(self.net)
        tp.ip = ip
        return tp.handle

    def connect(self, handle: int, family: int, addr: bytes, port: int, size: int = 28) -> int:
        return tcp_v4_connect(self.net, self.sock(handle), family, addr, port, size)

    def bind(self, handle: int, addr: bytes, port: int) -> int:
        return user.inet_bind(self.net, self.sock(handle), addr, port)

    def listen(self, handle: int, backlog: int) -> int:
        return user.inet_csk_listen_start(self.net, self.sock(handle), backlog, False)

    def accept(self, handle: int) -> int:
        err, child = user.inet_csk_accept(self.net, self.sock(handle))
        return child.handle if child is not None else err

    def sendmsg(self, handle: int, data: bytes, flags: int = 0) -> int:
        return user.tcp_sendmsg(self.net, self.sock(handle), data, flags)

    def recvmsg(self, handle: int, size: int, flags: int = 0) -> tuple[int, bytes]:
        return user.tcp_recvmsg(self.net, self.sock(handle), size, flags)

    def shutdown(self, handle: int, how: int) -> int:
        return user.tcp_shutdown(self.net, self.sock(handle), how)

    def close(self, handle: int) -> None:
        user.tcp_close(self.net, self.sock(handle))

    def poll(self, handle: int) -> int:
        return user.tcp_poll(self.sock(handle))

    def receive(self, packet: bytes, now_ns: int) -> int:
        """One IP packet: Drop, or 0."""
        self.advance(now_ns)
        th = Segment()
        drop, _ = ip_rcv(self.net, 101, packet, 0, len(packet), len(packet), th)
        return drop or tcp_v4_rcv(self.net, th, packet)

    def advance(self, now_ns: int) -> None:
        """Let everything happen that is due by now."""
        net = self.net
        while (timer := timer_advance(net.timers, now_ns)) is not None:
            net.now_ns = max(net.now_ns, timer.expires_ns)
            handler = HANDLERS.get(timer.kind, tw_timer_handler)
            handler(net, timer.owner)
        net.now_ns = max(net.now_ns, now_ns)

    def next_deadline(self) -> int:
        return timer_next(self.net.timers)

    def transmit(self) -> list[bytes]:
        frames = [frame for frame, _ in self.net.out]
        self.net.out.clear()
        return frames


HANDLERS = {
    ICSK_TIME_RETRANS: tcp_write_timer,
    ICSK_TIME_DACK: tcp_delack_timer,
    ICSK_TIME_KEEPOPEN: tcp_keepalive_timer,
    TCP_SYNACK_TIMER: reqsk_timer_handler,
}
