"""The seam of active mode: one host; handles, bytes and frames in, frames and answers out.

Linux: include/net/net_namespace.h, net/socket.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from . import tcp_user as user
from .errqueue import sock_dequeue_err
from .inet_connection_sock import sk_alloc
from .inet_ports import request_or_sock
from .inet_timewait_sock import tw_timer_handler
from .ip_input import ip_rcv
from .ip_output import V4MAPPED, inet_addr_is_local, is_loopback
from .ip_tunnel import Encap, Outer
from .netns import Netns, Route, ip_rcv_ecn, sk_memory_allocated
from .snmp import Mib
from .sock import (
    ICSK_TIME_DACK,
    ICSK_TIME_KEEPOPEN,
    ICSK_TIME_RETRANS,
    TCP_SYNACK_TIMER,
    RequestSock,
    TcpSock,
    TimewaitSock,
)
from .tcp import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, Bad, Drop, Segment
from .tcp_close import tcp_close, tcp_disconnect, tcp_shutdown
from .tcp_icmp import icmp_rcv, is_icmp
from .tcp_info import sk_get_meminfo, tcp_get_info
from .tcp_ipv4 import any_address, ip_source_routed, tcp_v4_connect, tcp_v4_rcv
from .tcp_minisocks import reqsk_timer_handler
from .tcp_sockopt import (
    sock_set_linger,
    tcp_getsockopt_level,
    tcp_inq_hint,
    tcp_ioctl,
    tcp_md5_setsockopt,
    tcp_poll,
    tcp_set_congestion_control,
    tcp_setsockopt_level,
)
from .tcp_timer import tcp_delack_timer, tcp_keepalive_timer, tcp_write_timer
from .timer import timer_advance, timer_next

CHECKSUM_UNNECESSARY = 1
EXCHANGE_MAX = 1 << 20  # frames of one exchange


class Net:
    """A host without I/O: `receive`, `advance` and the calls of sockets change it."""

    def __init__(self, key: bytes) -> None:
        self.net = Netns(key)
        self.received = 0
        self.sent = 0
        self.real_time = False

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

    def listen(self, handle: int, backlog: int, every_port: bool = False) -> int:
        return user.inet_csk_listen_start(self.net, self.sock(handle), backlog, every_port)

    def accept(self, handle: int) -> int:
        err, child = user.inet_csk_accept(self.sock(handle))
        return child.handle if child is not None else err

    def sendmsg(
        self, handle: int, data: bytes, flags: int = 0, tsflags: int = -1, stride: int = 0
    ) -> int:
        return user.tcp_sendmsg(self.net, self.sock(handle), data, flags, tsflags, stride)

    def recvmsg(self, handle: int, size: int, flags: int = 0) -> tuple[int, bytes]:
        return user.tcp_recvmsg(self.net, self.sock(handle), size, flags)

    def recv_into(self, handle: int, buffer: bytearray | memoryview, flags: int = 0) -> int:
        """`recvmsg` into a buffer: a negative errno, or how many bytes."""
        err, data = self.recvmsg(handle, len(buffer), flags)
        if not flags & user.MSG_TRUNC:
            buffer[: len(data)] = data
        return err if err else len(data)

    def rx_stamp(self, handle: int) -> int:
        """When what was read last had come, ns; 0: nobody has asked for that."""
        errors = self.sock(handle).errors
        return 0 if errors is None else errors.rx_stamp_ns

    def inq(self, handle: int) -> int:
        """Bytes that reads would give; 1 where the end alone is left."""
        return tcp_inq_hint(self.sock(handle))

    def recv_error(
        self, handle: int
    ) -> tuple[tuple[int, int, int, int, int, int], int, bytes, bytes, bool] | None:
        """The oldest message of the error queue, None if there is none.

        ee_errno, ee_origin, ee_type, ee_code, ee_info and ee_data; a time, ns (0: none); 16 bytes
        of who told it, zeros for nobody; what it is about; whether that is statistics.
        """
        one = sock_dequeue_err(self.net, self.sock(handle))
        if one is None:
            return None
        told = one.ee_errno, one.ee_origin, one.ee_type, one.ee_code, one.ee_info, one.ee_data
        return told, one.stamp_ns, one.offender, one.data, one.opt_stats

    def error_reports(self, handle: int) -> int:
        """How often the caller was told that the queue has something."""
        errors = self.sock(handle).errors
        return 0 if errors is None else errors.reports

    def shutdown(self, handle: int, how: int) -> int:
        return tcp_shutdown(self.net, self.sock(handle), how)

    def close(self, handle: int) -> None:
        tp = self.sock(handle)
        if tp.dead or tp.listener is not None:
            raise OSError(errno.EBADF, "no such socket")
        tcp_close(self.net, tp)

    def abort(self, handle: int) -> None:
        tp = self.sock(handle)
        if tp.listener is not None:
            raise OSError(errno.EBADF, "no such socket")
        tcp_disconnect(self.net, tp)

    def setsockopt(self, handle: int, level: int, name: int, value: int) -> int:
        return tcp_setsockopt_level(self.net, self.sock(handle), level, name, value)

    def getsockopt(self, handle: int, level: int, name: int) -> tuple[int, int]:
        return tcp_getsockopt_level(self.net, self.sock(handle), level, name)

    def set_linger(self, handle: int, on: bool, seconds: int) -> int:
        return sock_set_linger(self.sock(handle), on, seconds)

    def linger(self, handle: int) -> tuple[bool, int]:
        tp = self.sock(handle)
        return tp.linger, tp.linger_s

    def set_congestion(self, handle: int, name: str) -> int:
        return tcp_set_congestion_control(self.net, self.sock(handle), name)

    def set_md5(self, handle: int, addr: bytes, prefixlen: int, flags: int, key: bytes) -> int:
        if len(addr) != 16 or not 0 <= prefixlen <= 128 or len(key) > 80:
            raise ValueError("an address of 16 bytes, at most 128 bits of it and 80 bytes of key")
        return tcp_md5_setsockopt(self.sock(handle), addr, prefixlen, flags, key)

    def congestion(self, handle: int) -> str:
        return str(self.sock(handle).ca.name)

    def info(self, handle: int) -> dict[str, int]:
        return tcp_get_info(self.net, self.sock(handle))

    def ioctl(self, handle: int, request: int) -> tuple[int, int]:
        return tcp_ioctl(self.sock(handle), request)

    def meminfo(self, handle: int) -> tuple[int, ...]:
        return sk_get_meminfo(self.sock(handle))

    def state(self, handle: int) -> int:
        return self.sock(handle).tcb.state

    def queued(self, handle: int) -> tuple[int, int]:
        """Of a listener: requests that wait for their ACK, connections that wait for `accept`."""
        tp = self.sock(handle)
        return tp.n_reqs, len(tp.accept_queue)

    def state_of(self, saddr: bytes, sport: int, daddr: bytes, dport: int) -> int:
        """What is known of a 4-tuple, ours first: a state, CLOSE if nothing."""
        sk = request_or_sock(self.net, saddr, sport, daddr, dport)
        if isinstance(sk, RequestSock):
            return TCP_SYN_RECV
        if isinstance(sk, TimewaitSock):
            return sk.substate
        return sk.tcb.state if sk is not None else TCP_CLOSE

    def sockname(self, handle: int) -> tuple[int, bytes, int]:
        """(4 or 6, address, port); any address and 0 before there are others."""
        tp = self.sock(handle)
        return tp.ip, tp.saddr or any_address(tp.ip), tp.sport

    def peername(self, handle: int) -> tuple[int, bytes, int]:
        """(4 or 6, address, port); no bytes of address without a peer."""
        tp = self.sock(handle)
        connected = tp.tcb.state not in (TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT)
        return (tp.ip, tp.daddr, tp.dport) if connected else (tp.ip, b"", 0)

    def endpoints(self, handle: int) -> tuple[tuple[int, bytes, int], tuple[int, bytes, int]]:
        """Both ends, as `sockname` tells the first; the peer's is kept after the end."""
        tp = self.sock(handle)
        return self.sockname(handle), (tp.ip, tp.daddr or any_address(tp.ip), tp.dport)

    def wakes(self) -> list[int]:
        """Handles of which something may have changed since the last call."""
        woken = list(self.net.wake)
        self.net.wake.clear()
        return woken

    def set_link(self, mtu: int, gso: bool, hw_csum: bool = False) -> None:
        """What the link does: bytes of a packet; if it cuts larger segments, finishes checksums."""
        self.net.mtu = mtu
        self.net.gso = gso
        self.net.hw_csum = hw_csum

    def set_qdisc(self, drops: bool) -> None:
        """Whether the queue before the link refuses every packet (`tc … limit 0`)."""
        self.net.qdisc_drops = drops

    def set_route(
        self,
        *,
        mtu: int = 0,
        mtu_lock: bool = False,
        advmss: int = 0,
        initcwnd: int = 0,
        initrwnd: int = 0,
        rto_min: int = 0,
        quickack: bool = False,
        ecn: bool = False,
    ) -> None:
        """What is said of the way to peers (`ip route`); rto_min in ms, 0: nothing is said."""
        self.net.route = Route(mtu, mtu_lock, advmss, initcwnd, initrwnd, rto_min, quickack, ecn)

    def add_address(self, addr: bytes, prefix: int) -> None:
        self.net.addrs[addr] = prefix

    def set_sysctl(self, name: str, value: object) -> None:
        setattr(self.net.sysctl, name, value)

    def counters(self) -> list[int]:
        return list(self.net.mib)

    def sockstat(self) -> dict[str, int]:
        """What is held, as /proc/net/sockstat counts it; `mem` is truesize, in bytes."""
        net = self.net
        held, socks = net.established.values(), net.socks.values()
        queues = "sk_write_queue", "tcp_rtx_queue", "sk_receive_queue", "out_of_order_queue"
        return {
            "used": len(net.socks),
            "requests": sum(isinstance(sk, RequestSock) for sk in held),
            "tw": net.n_tw,
            "inuse": len(held),
            "orphan": net.n_orphans,
            "any_address": net.any_address,
            "skbs": sum(len(getattr(tp, queue)) for tp in socks for queue in queues),
            "mem": sk_memory_allocated(net),
        }

    def poll(self, handle: int) -> int:
        return tcp_poll(self.net, self.sock(handle))

    def receive_batch(self, packets: Sequence[bytes], now_ns: int) -> None:
        """IP packets that have come by now, in their order.

        A packet that is a subclass of bytes has `ip_summed` (CHECKSUM_NONE 0: to be verified) and
        `time_ns`, when it came, or None.
        """
        for packet in packets:
            if type(packet) is bytes:
                self.receive(packet, now_ns)
            else:
                came_ns = getattr(packet, "time_ns", None)
                when_ns = now_ns if came_ns is None else min(came_ns, now_ns)
                self.receive(packet, when_ns, getattr(packet, "ip_summed", 0))

    def receive(self, packet: bytes, now_ns: int, ip_summed: int = 0, gso_size: int = 0) -> int:
        """One IP packet: Drop, or 0. Its checksum is verified unless `ip_summed` says it is right.

        That is anything but CHECKSUM_NONE, 0; IP's own is verified all the same.  A card may have
        joined it of segments with `gso_size` bytes of payload each; 0: not. It counts as one.
        """
        self.advance(now_ns)
        net = self.net
        net.ip_summed = ip_summed > 0
        net.gso_size = gso_size
        ip_rcv_ecn(net, packet)
        if is_icmp(packet):
            return icmp_rcv(net, packet)
        th = Segment()
        length = len(packet)
        drop, outer = ip_rcv(net, 101, packet, 0, length, length, th, time_ns=net.now_ns)
        if drop:
            return drop
        if outer.encap & ~Encap.WRAP_FRAGMENTS or ip_source_routed(packet):
            return Drop.IP_NOPROTO  # a host takes nothing out of tunnels
        if th.bad & Bad.BAD_IP_CSUM:
            return Drop.IP_CSUM
        if is_truncated(th, outer):
            net.mib[Mib.IP_INTRUNCATEDPKTS if th.ip == 4 else Mib.IP6_INTRUNCATEDPKTS] += 1
            return Drop.PKT_TOO_SMALL
        if not inet_addr_is_local(net, th.daddr):
            return Drop.TCP_CLOSED  # somebody else's: nobody here says anything
        return tcp_v4_rcv(net, th, bytes(outer.transport[0]))

    def exchange(self, other: Net, now_ns: int) -> int:
        """Hand over what leaves each of two hosts to the other until none is left: how many.

        What they share is the process. Two that would never be done are stopped after a million.
        """
        if other is self:
            raise ValueError("a host is no peer of its own")
        self.advance(now_ns)
        other.advance(now_ns)
        before = self.sent + self.received
        sent = self.sent
        while self.sent - sent < EXCHANGE_MAX and (self.net.out or other.net.out):
            self.hand(other, now_ns)
            other.hand(self, now_ns)
        return self.sent + self.received - before

    def hand(self, other: Net, now_ns: int) -> None:
        """Let frames reach another host; what this one sends to itself stays here."""
        out = self.net.out
        i = 0
        while i < len(out):  # it grows meanwhile
            packet, _ = out[i]
            i += 1
            if self.is_loopback_frame(packet):
                self.receive(packet, now_ns, CHECKSUM_UNNECESSARY)
            else:
                self.sent += 1
                other.received += 1
                other.receive(packet, now_ns, CHECKSUM_UNNECESSARY)
        out.clear()

    def is_loopback_frame(self, packet: bytes) -> bool:
        """True for a packet of a host to itself."""
        daddr = packet[24:40] if packet[0] >> 4 == 6 else V4MAPPED + packet[16:20]
        return daddr in self.net.addrs or is_loopback(daddr)

    def send_beside(self, handle: int, data: bytes, other: Net, now_ns: int) -> int:
        """`sendmsg` at a time, and `exchange`: three calls in one."""
        self.advance(now_ns)
        sent = self.sendmsg(handle, data)
        self.exchange(other, now_ns)
        return sent

    def recv_beside(self, handle: int, size: int, other: Net, now_ns: int) -> tuple[int, bytes]:
        """`recvmsg` at a time, and `exchange`."""
        self.advance(now_ns)
        found = self.recvmsg(handle, size)
        self.exchange(other, now_ns)
        return found

    def frames(self) -> tuple[int, int]:
        """How many came and left by `exchange`."""
        return self.received, self.sent

    def set_real_time(self, on: bool) -> None:
        """Whether what is overdue happens now, once, as in the system's time, or at its own."""
        self.real_time = on

    def advance(self, now_ns: int) -> None:
        """Let everything happen that is due by now."""
        net = self.net
        if self.real_time:
            net.now_ns = max(net.now_ns, now_ns)
        while (timer := timer_advance(net.timers, now_ns)) is not None:
            net.now_ns = max(net.now_ns, timer.expires_ns)
            handler = HANDLERS.get(timer.kind, tw_timer_handler)
            handler(net, timer.owner)
        net.now_ns = max(net.now_ns, now_ns)

    def next_deadline(self) -> int:
        return timer_next(self.net.timers)

    def transmit(self) -> tuple[list[bytes], list[int]]:
        """Packets that leave; the payload of the segments to cut each into, 0 for none."""
        frames = list(self.net.out)
        self.net.out.clear()
        return [frame for frame, _ in frames], [gso_size for _, gso_size in frames]


HANDLERS: dict[int, Callable[[Any, Any], object]] = {
    ICSK_TIME_RETRANS: tcp_write_timer,
    ICSK_TIME_DACK: tcp_delack_timer,
    ICSK_TIME_KEEPOPEN: tcp_keepalive_timer,
    TCP_SYNACK_TIMER: reqsk_timer_handler,
}


def is_truncated(th: Segment, outer: Outer) -> bool:
    """True if the packet is longer than what came of it, or its headers than the packet."""
    data, at, room = outer.network
    if not outer.encap:  # what is put together of fragments is whole
        told = data[at + 2 : at + 4] if th.ip == 4 else data[at + 4 : at + 6]
        length = int.from_bytes(told, "big") + (0 if th.ip == 4 else 40)
        if length > room or not any(told):  # a length of none is of what a card would cut
            return True
    room = outer.transport[2]
    return 4 * th.doff > room or 4 * th.doff + th.payload_len > room
