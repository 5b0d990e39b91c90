"""System calls made for real, through libc: what packetdrill scripts ask for, of the kernel."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from typing import Any

from tcpcore.packetdrill.constants import SK_MEMINFO
from tcpcore.packetdrill.target import Address, Answer
from tcpcore.packetdrill.values import octets
from tcpcore.sockopt import TCP_INFO_FIELDS

SO_MEMINFO, INFO_SIZE = 55, 512
CONTROL_SIZE = 1024
EVENTS_MAX = 1024
MSG_ZEROCOPY = 0x4000000
EPOLL_EVENT = struct.Struct("<IQ")  # packed, on x86-64
_INFO = struct.Struct("=" + "".join(TCP_INFO_FIELDS))
_INFO_NAMES = " ".join(TCP_INFO_FIELDS.values()).split()


class Iovec(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


def sockaddr(where: Address) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    host = ipaddress.ip_address(where[0])
    if host.version == 4:
        return (
            struct.pack("=H", socket.AF_INET) + struct.pack(">H", where[1]) + host.packed + bytes(8)
        )
    head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", where[1], 0)
    return head + host.packed + bytes(4)


def from_sockaddr(data: bytes) -> Address:
    """An address and port."""
    (family,) = struct.unpack_from("=H", data)
    (port,) = struct.unpack_from(">H", data, 2)
    if family == socket.AF_INET6:
        found = ipaddress.IPv6Address(data[8:24])
        mapped = found.ipv4_mapped
        return (f"::ffff:{mapped}" if mapped else str(found)), port
    return str(ipaddress.ip_address(data[4:8])), port


class KernelCalls:
    """The calls; each gives a value or a negative errno, or an `Answer`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.libc = ctypes.CDLL(None, use_errno=True)
        for name in ("read", "write", "recv", "send", "sendto", "recvfrom", "readv", "writev",
                     "recvmsg", "sendmsg", "sendfile", "splice"):  # fmt: skip
            getattr(self.libc, name).restype = ctypes.c_ssize_t
        self.kept: list[Any] = []

    def _call(self, name: str, *arguments: Any) -> int:
        made = int(getattr(self.libc, name)(*arguments))
        return -ctypes.get_errno() if made < 0 else made

    def do_socket(self, family: int, kind: int, protocol: int) -> int:
        return self._call("socket", family, kind, protocol)

    def do_bind(self, fd: int, where: Address | None) -> int:
        data = bytes(16) if where is None else sockaddr(where)
        return self._call("bind", fd, data, len(data))

    def do_listen(self, fd: int, backlog: int) -> int:
        return self._call("listen", fd, backlog)

    def do_accept(self, fd: int, flags: int) -> int | Answer:
        room = ctypes.create_string_buffer(28)
        size = ctypes.c_uint32(28)
        made = self._call("accept4", fd, room, ctypes.byref(size), flags)
        return made if made < 0 else Answer(made, from_sockaddr(room.raw))

    def do_connect(self, fd: int, where: Address | None) -> int:
        data = bytes(16) if where is None else sockaddr(where)
        return self._call("connect", fd, data, len(data))

    def do_shutdown(self, fd: int, how: int) -> int:
        return self._call("shutdown", fd, how)

    def do_close(self, fd: int) -> int:
        return self._call("close", fd)

    def do_read(self, fd: int, size: int, fault: bool) -> int:
        return self._call("read", fd, None if fault else self._room(size), size)

    def do_write(self, fd: int, size: int, fault: bool) -> int:
        return self._call("write", fd, None if fault else self._room(size), size)

    def do_recv(self, fd: int, size: int, flags: int, fault: bool) -> int:
        return self._call("recv", fd, None if fault else self._room(size), size, flags)

    def do_send(self, fd: int, size: int, flags: int, fault: bool) -> int:
        return self._call("send", fd, None if fault else self._kept(size, flags), size, flags)

    def do_sendto(self, fd: int, size: int, flags: int, to: Any, fault: bool) -> int:
        data = None if to is None else sockaddr(to) if to else bytes(16)
        room = None if fault else self._kept(size, flags)
        return self._call("sendto", fd, room, size, flags, data, len(data or b""))

    def _room(self, size: int) -> Any:
        return ctypes.create_string_buffer(max(size, 1))

    def _kept(self, size: int, flags: int) -> Any:
        """What is sent without copying has to stay as it is."""
        room = self._room(size)
        if flags & MSG_ZEROCOPY:
            self.kept.append(room)
        return room

    def _iovec(self, sizes: list[int]) -> tuple[Any, list[Any]]:
        rooms = [self._room(size) for size in sizes]
        pieces = (Iovec * max(len(sizes), 1))()
        for piece, room, size in zip(pieces, rooms, sizes, strict=False):
            piece.base, piece.len = ctypes.addressof(room), size
        return pieces, rooms

    def do_readv(self, fd: int, sizes: list[int]) -> int:
        pieces, rooms = self._iovec(sizes)
        made = self._call("readv", fd, pieces, len(sizes))
        del rooms
        return made

    def do_writev(self, fd: int, sizes: list[int]) -> int:
        pieces, rooms = self._iovec(sizes)
        made = self._call("writev", fd, pieces, len(sizes))
        del rooms
        return made

    def do_recvmsg(self, fd: int, sizes: list[int], flags: int) -> int | Answer:
        pieces, rooms = self._iovec(sizes)
        control = ctypes.create_string_buffer(CONTROL_SIZE)
        head = Msghdr()
        head.iov, head.iovlen = pieces, len(sizes)
        head.control, head.controllen = ctypes.addressof(control), CONTROL_SIZE
        made = self._call("recvmsg", fd, ctypes.byref(head), flags)
        del rooms
        if made < 0:
            return made
        return Answer(made, (head.flags, _messages(control.raw[: head.controllen])))

    def do_sendmsg(
        self,
        fd: int,
        sizes: list[int],
        flags: int,
        to: Any,
        control: list[tuple[int, int, bytes]],
    ) -> int:
        pieces, rooms = self._iovec(sizes)
        head = Msghdr()
        head.iov, head.iovlen = pieces, len(sizes)
        name = ctypes.create_string_buffer(sockaddr(to)) if to else None
        if name is not None:
            head.name, head.namelen = ctypes.addressof(name), len(name) - 1
        if control:
            data = b"".join(
                struct.pack("=Qii", 16 + len(value), level, kind) + value.ljust(8, b"\0")
                for level, kind, value in control
            )
            sent = ctypes.create_string_buffer(data, len(data))
            head.control, head.controllen = ctypes.addressof(sent), len(data)
        made = self._call("sendmsg", fd, ctypes.byref(head), flags)
        if flags & MSG_ZEROCOPY:
            self.kept += rooms
        del rooms
        return made

    def do_setsockopt(self, fd: int, level: int, name: int, data: bytes | None, size: int) -> int:
        return self._call("setsockopt", fd, level, name, data, size)

    def do_getsockopt(self, fd: int, level: int, name: int, size: int) -> int | Answer:
        room = self._room(max(size, 0))
        length = ctypes.c_int32(size)
        made = self._call("getsockopt", fd, level, name, room, ctypes.byref(length))
        return made if made < 0 else Answer(made, room.raw[: length.value])

    def do_fcntl(self, fd: int, command: int, argument: int) -> int:
        return self._call("fcntl", fd, command, argument)

    def do_ioctl(self, fd: int, request: int) -> int | Answer:
        value = ctypes.c_int(0)
        made = self._call("ioctl", fd, ctypes.c_ulong(request), ctypes.byref(value))
        return made if made < 0 else Answer(made, value.value)

    def do_poll(self, wanted: list[tuple[int, int]], timeout_ms: int) -> int | Answer:
        data = b"".join(struct.pack("=ihh", fd, _short(events), 0) for fd, events in wanted)
        room = ctypes.create_string_buffer(data, max(len(data), 1))
        made = self._call("poll", room, ctypes.c_ulong(len(wanted)), timeout_ms)
        if made < 0:
            return made
        seen = [struct.unpack_from("=ihH", room.raw, 8 * i)[2] for i in range(len(wanted))]
        return Answer(made, seen)

    def do_epoll_create(self, size: int) -> int:
        return self._call("epoll_create", size)

    def do_epoll_ctl(self, ep: int, op: int, fd: int, events: int, data: int) -> int:
        event = EPOLL_EVENT.pack(events & 0xFFFFFFFF, data)
        return self._call("epoll_ctl", ep, op, fd, event)

    def do_epoll_wait(self, ep: int, most: int, timeout_ms: int) -> int | Answer:
        if most < EVENTS_MAX << 16:  # more is EINVAL
            most = min(most, EVENTS_MAX)
        room = self._room(EPOLL_EVENT.size * EVENTS_MAX)
        made = self._call("epoll_wait", ep, room, most, timeout_ms)
        if made < 0:
            return made
        size = EPOLL_EVENT.size
        return Answer(made, [EPOLL_EVENT.unpack_from(room.raw, size * i) for i in range(made)])

    def do_open(self, path: str, flags: int) -> int:
        return self._call("open", octets(path), flags, 0o600)

    def do_sendfile(self, out: int, source: int, offset: int | None, size: int) -> int:
        at = None if offset is None else ctypes.byref(ctypes.c_int64(offset))
        return self._call("sendfile", out, source, at, ctypes.c_size_t(size))

    def do_pipe(self) -> int | Answer:
        ends = (ctypes.c_int * 2)()
        made = self._call("pipe", ends)
        if made < 0:
            return made
        return Answer(made, (ends[0], ends[1]))

    def do_splice(self, source: int, out: int, size: int, flags: int) -> int:
        return self._call("splice", source, None, out, None, ctypes.c_size_t(size), flags)

    def info(self, fd: int) -> dict[str, int]:
        """TCP_INFO by its fields' names, and SO_MEMINFO."""
        made = self.do_getsockopt(fd, socket.IPPROTO_TCP, 11, INFO_SIZE)
        if not isinstance(made, Answer):
            raise OSError(-made, os.strerror(-made))
        values = _INFO.unpack(made.extra[: _INFO.size].ljust(_INFO.size, b"\0"))
        found = {f"tcpi_{name}": value for name, value in zip(_INFO_NAMES, values, strict=True)}
        scales, more = found["tcpi_scales"], found["tcpi_flags"]
        found["tcpi_snd_wscale"], found["tcpi_rcv_wscale"] = scales & 15, scales >> 4
        found["tcpi_delivery_rate_app_limited"] = more & 1
        found["tcpi_fastopen_client_fail"] = more >> 1 & 3
        modes, fails = found["tcpi_ecn_modes"], found["tcpi_accecn_fail_opt"]
        found["tcpi_ecn_mode"], found["tcpi_accecn_opt_seen"] = modes & 3, modes >> 2 & 3
        found["tcpi_accecn_fail_mode"], found["tcpi_options2"] = modes >> 4 & 15, fails
        memory = self.do_getsockopt(fd, socket.SOL_SOCKET, SO_MEMINFO, 4 * len(SK_MEMINFO))
        if isinstance(memory, Answer):
            numbers = struct.iter_unpack("=I", memory.extra)
            for name, (value,) in zip(SK_MEMINFO, numbers, strict=False):
                found[f"SK_MEMINFO_{name}"] = value
        return found


def _short(events: int) -> int:
    return events - 0x10000 if events & 0x8000 else events & 0x7FFF


def _messages(data: bytes) -> list[tuple[int, int, bytes]]:
    """Control messages: level, type, bytes."""
    found = []
    while len(data) >= 16:
        size, level, kind = struct.unpack_from("=Qii", data)
        if not 16 <= size <= len(data):
            break
        found.append((level, kind, data[16:size]))
        data = data[(size + 7) & ~7 :]
    return found
