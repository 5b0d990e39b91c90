"""Descriptors of a host in virtual time, and their calls: those that wait are generators.

A generator yields when it has to wait, with the time at which it looks again by itself, or None.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from typing import TYPE_CHECKING, Any

from tcpcore import cmsg
from tcpcore.packetdrill.constants import CONSTANTS
from tcpcore.packetdrill.descriptors import (
    POLLERR,
    POLLHUP,
    POLLNVAL,
    POLLOUT,
    EpollFile,
    Interest,
    PipeFile,
    SocketFile,
    ZeroFile,
)
from tcpcore.packetdrill.target import Address, Answer, Unsupported
from tcpcore.sockopt import (
    ASKED_IN_VAIN,
    IP_MTU,
    KEPT,
    READ_ONLY,
    SO_MEMINFO,
    keep,
    shortened,
    tcp_info,
)
from tcpcore.transfer import mapped

if TYPE_CHECKING:
    from collections.abc import Generator

    Wait = Generator[int | None, None, Any]

MSG_PEEK, MSG_OOB, MSG_DONTWAIT, MSG_WAITALL = 0x2, 0x1, 0x40, 0x100
MSG_ERRQUEUE, MSG_FASTOPEN = 0x2000, 0x20000000
MSG_TRUNC = 0x20
O_NONBLOCK = 0x800
F_GETFD, F_SETFD, F_GETFL, F_SETFL = 1, 2, 3, 4
SYN_SENT, SYN_RECV, LISTEN = 2, 3, 10
CLOSING_STATES = (4, 11, 9)
EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLET = 1 << 28, 1 << 30, 1 << 31
# POLLIN, OUT, ERR, HUP, RDNORM, WRNORM and EPOLLWAKEUP may stand beside EPOLLEXCLUSIVE.
EXCLUSIVE_MAY = 1 | 4 | 8 | 16 | 0x40 | 0x100 | 1 << 29 | EPOLLET | EPOLLEXCLUSIVE
PIPE_SIZE = 65536
FILES_MAX = 1024  # RLIMIT_NOFILE, as Linux has it
SOL_SOCKET, SOL_TCP, SO_LINGER, TCP_CONGESTION, TCP_INFO = 1, 6, 13, 13, 11
SO_RCVLOWAT, SO_TIMESTAMPING, TCP_INQ = 18, 37, 36
REQUESTS = {CONSTANTS[name] for name in ("SIOCINQ", "SIOCOUTQ", "SIOCOUTQNSD", "SIOCATMARK")}
FORCED = {32: 7, 33: 8}  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
# Options that Linux has: where the engine has not, they are passed over.
KNOWN = {
    level: {value for name, value in CONSTANTS.items() if name.startswith(prefix)}
    for level, prefix in ((0, "IP_"), (1, "SO_"), (6, "TCP_"), (41, "IPV6_"))
}
NEVER_SET = {(SOL_TCP, TCP_INFO), (SOL_TCP, 26), (SOL_TCP, 28), IP_MTU, SO_MEMINFO, *READ_ONLY}
NEVER_SET |= {(SOL_SOCKET, name) for name in (3, 4, 17, 30, 38, 39, 56, 57)}
NAMES = {
    (level, value): name
    for level, prefix in ((0, "IP_"), (1, "SO_"), (6, "TCP_"), (41, "IPV6_"))
    for name, value in CONSTANTS.items()
    if name.startswith(prefix)
}


class Files:
    """Descriptors and calls; `net`, `now_ns`, `note` and `commands` are the target's."""

    if TYPE_CHECKING:
        net: Any
        now_ns: int
        commands: Any

        def note(self, what: str) -> None: ...

    def __init__(self) -> None:
        self.files: dict[int, Any] = {}
        self.last_fd = 2

    def install(self, file: Any) -> int:
        """Give a file a descriptor; a negative errno if there are too many."""
        if self.is_full():
            return -errno.EMFILE
        self.last_fd += 1
        self.files[self.last_fd] = file
        return self.last_fd

    def is_full(self) -> bool:
        """Whether no descriptor is left; a process has three before the script's first one."""
        return len(self.files) + 3 >= FILES_MAX

    def socket_of(self, fd: int) -> SocketFile | None:
        file = self.files.get(fd)
        return file if isinstance(file, SocketFile) else None

    def no_socket(self, fd: int) -> int:
        """The errno of a descriptor that is no socket."""
        return -(errno.ENOTSOCK if fd in self.files else errno.EBADF)

    # Sockets.

    def do_socket(self, family: int, kind: int, protocol: int) -> int:
        if family not in (2, 10):
            return -errno.EAFNOSUPPORT
        if kind & 0xF != 1 or protocol not in (0, 6):
            if kind & 0xF in (2, 3) or protocol == CONSTANTS["IPPROTO_MPTCP"]:
                raise Unsupported("sockets of other protocols")
            return -errno.EPROTONOSUPPORT
        if kind & ~(0xF | O_NONBLOCK | 0x80000):
            return -errno.EINVAL
        if self.is_full():
            return -errno.EMFILE
        handle = self.net.socket(4 if family == 2 else 6)
        return self.install(SocketFile(handle, family, bool(kind & O_NONBLOCK)))

    def do_bind(self, fd: int, where: Address | None) -> int:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if where is None:
            return -errno.EAFNOSUPPORT
        return int(self.net.bind(file.handle, *packed(where)))

    def do_listen(self, fd: int, backlog: int) -> int:
        file = self.socket_of(fd)
        return self.no_socket(fd) if file is None else int(self.net.listen(file.handle, backlog))

    def do_accept(self, fd: int, flags: int) -> Wait:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if self.is_full():
            return -errno.EMFILE
        while (handle := self.net.accept(file.handle)) == -errno.EAGAIN:
            if file.nonblock:
                return handle
            yield None
        if handle < 0:
            return handle
        made = self.install(SocketFile(handle, file.family, bool(flags & O_NONBLOCK)))
        _, addr, port = self.net.endpoints(handle)[1]
        host = ipaddress.ip_address(addr[12:] if file.family == 2 else addr)
        shown = str(host)
        if file.family == 10 and addr[:12] == bytes(10) + b"\xff\xff":
            shown = f"::ffff:{ipaddress.ip_address(addr[12:])}"
        return Answer(made, (shown, port))

    def do_connect(self, fd: int, where: Address | None) -> Wait:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if where is None:
            self.net.abort(file.handle)
            file.connecting = False
            return 0
        state = self.net.state(file.handle)
        if file.connecting:
            if state in (SYN_SENT, SYN_RECV) and file.nonblock:
                return -errno.EALREADY
        else:
            family = 10 if ":" in where[0] else 2
            failed = self.net.connect(file.handle, family, *packed(where))
            if failed:
                return failed
            file.connecting = True
            if file.nonblock:
                return -errno.EINPROGRESS
        while self.net.state(file.handle) in (SYN_SENT, SYN_RECV):
            yield None
        file.connecting = False
        _, error = self.net.getsockopt(file.handle, SOL_SOCKET, 4)
        if not error and not self.net.peername(file.handle)[1]:
            error = errno.ECONNABORTED
        if error:
            self.net.abort(file.handle)
        return -error

    def do_shutdown(self, fd: int, how: int) -> int:
        file = self.socket_of(fd)
        return self.no_socket(fd) if file is None else int(self.net.shutdown(file.handle, how))

    def do_close(self, fd: int) -> Wait:
        file = self.files.get(fd)
        if file is None:
            return -errno.EBADF
        if not isinstance(file, SocketFile):
            del self.files[fd]
            return 0
        on, seconds = self.net.linger(file.handle)
        self.do_close_now(fd)
        end_ns = self.now_ns + seconds * 1_000_000_000
        while on and not file.nonblock and self.now_ns < end_ns:
            try:
                if self.net.state(file.handle) not in CLOSING_STATES:
                    break
            except OSError:
                break
            yield end_ns
        return 0

    def do_close_now(self, fd: int) -> None:
        """Let go of a descriptor."""
        file = self.files.pop(fd, None)
        for epoll in self.files.values():
            if isinstance(epoll, EpollFile):
                epoll.watched.pop(fd, None)
        if isinstance(file, SocketFile):
            self.net.close(file.handle)

    # Data.

    def do_read(self, fd: int, size: int, fault: bool) -> Wait:
        file = self.files.get(fd)
        if isinstance(file, ZeroFile):
            taken = min(size, file.size - file.at)
            file.at += taken
            return taken
        if not isinstance(file, SocketFile):
            return -errno.EBADF if file is None else -errno.EINVAL
        return (yield from self.receive(file, size, 0, fault)).value

    def do_readv(self, fd: int, sizes: list[int]) -> Wait:
        return (yield from self.do_read(fd, sum(sizes), False))

    def do_recv(self, fd: int, size: int, flags: int, fault: bool) -> Wait:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        return (yield from self.receive(file, size, flags, fault)).value

    def do_recvmsg(self, fd: int, sizes: list[int], flags: int) -> Wait:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        size = sum(sizes)
        if flags & MSG_ERRQUEUE:
            found = cmsg.of_error(self.net, file.handle, self.now_ns)
            if found is None:
                return -errno.EAGAIN
            data, messages = found
            cut = MSG_TRUNC if len(data) > size else 0
            return Answer(min(len(data), size), (MSG_ERRQUEUE | cut, messages))
        made = yield from self.receive(file, size, flags, False)
        if made.value < 0:
            return made
        messages = cmsg.of_data(self.net, file.handle, file.inq)
        return Answer(made.value, (flags & MSG_OOB, messages))

    def receive(self, file: SocketFile, size: int, flags: int, fault: bool) -> Wait:
        """What recv does; an Answer."""
        if flags & MSG_ERRQUEUE:
            found = cmsg.of_error(self.net, file.handle, self.now_ns)
            return Answer(-errno.EAGAIN if found is None else min(len(found[0]), size))
        got = 0
        least = size if flags & MSG_WAITALL else self.net.getsockopt(file.handle, 1, SO_RCVLOWAT)[1]
        while True:
            take = flags | MSG_PEEK if fault else flags
            err, data = self.net.recvmsg(file.handle, size - got, take)
            if err == 0:
                if fault and data and not flags & MSG_TRUNC:
                    return Answer(-errno.EFAULT)
                got += len(data)
                if not data or got >= min(least, size) or flags & MSG_PEEK:
                    return Answer(got)
            elif err != -errno.EAGAIN or file.nonblock or flags & MSG_DONTWAIT:
                return Answer(got or err)
            else:
                yield None
                if got and self.net.poll(file.handle) & POLLERR:
                    return Answer(got)  # the error is for the next call

    def do_write(self, fd: int, size: int, fault: bool) -> Wait:
        file = self.files.get(fd)
        if isinstance(file, PipeFile):
            file.held[0] += size
            return size
        if not isinstance(file, SocketFile):
            return -errno.EBADF if file is None else -errno.EINVAL
        return (yield from self.transmit(file, size, 0, fault))

    def do_writev(self, fd: int, sizes: list[int]) -> Wait:
        return (yield from self.do_write(fd, sum(sizes), False))

    def do_send(self, fd: int, size: int, flags: int, fault: bool) -> Wait:
        return (yield from self.do_sendto(fd, size, flags, None, fault))

    def do_sendto(
        self,
        fd: int,
        size: int,
        flags: int,
        to: Any,
        fault: bool,
        tsflags: int = -1,
        stride: int = 0,
    ) -> Wait:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if flags & MSG_FASTOPEN:
            raise Unsupported("MSG_FASTOPEN")
        return (yield from self.transmit(file, size, flags, fault, tsflags, stride))

    def do_sendmsg(
        self,
        fd: int,
        sizes: list[int],
        flags: int,
        to: Any,
        control: list[tuple[int, int, bytes]],
    ) -> Wait:
        tsflags = -1
        for level, kind, data in control:
            if level == SOL_SOCKET and kind != SO_TIMESTAMPING:
                return -errno.EINVAL
            if level == SOL_SOCKET:
                tsflags = int.from_bytes(data, "little")
        return (
            yield from self.do_sendto(
                fd, sum(sizes), flags, to, False, tsflags, max(sizes, default=0)
            )
        )

    def transmit(
        self,
        file: SocketFile,
        size: int,
        flags: int,
        fault: bool,
        tsflags: int = -1,
        stride: int = 0,
    ) -> Wait:
        """What send does."""
        done = 0
        if not file.nonblock and not flags & MSG_DONTWAIT:
            flags |= MSG_WAITALL  # the rest follows
        while True:
            data = b"" if fault else bytes(size - done)
            made = self.net.sendmsg(file.handle, data, flags, tsflags, stride)
            file.full = made < len(data)
            if fault and size and made == 0:
                return -errno.EFAULT
            if made < 0 and made != -errno.EAGAIN:
                return done or made
            done += max(made, 0)
            if done == size:
                return done
            if file.nonblock or flags & MSG_DONTWAIT:
                return done or -errno.EAGAIN
            yield None
            while not self.net.poll(file.handle) & (POLLOUT | POLLERR | POLLHUP):
                yield None
            if done and self.net.poll(file.handle) & POLLERR:
                return done

    def do_open(self, path: str, flags: int) -> int:
        size = self.commands.paths.get(path)
        return -errno.ENOENT if size is None else self.install(ZeroFile(size))

    def do_sendfile(self, out: int, source: int, offset: int | None, size: int) -> Wait:
        file, to = self.files.get(source), self.socket_of(out)
        if to is None or file is None:
            return -errno.EBADF
        if not isinstance(file, ZeroFile):
            return -errno.EINVAL
        at = file.at if offset is None else offset
        sent = yield from self.transmit(to, max(min(size, file.size - at), 0), 0, False)
        if offset is None:
            file.at += max(sent, 0)
        return sent

    def do_pipe(self) -> Answer:
        if len(self.files) + 4 >= FILES_MAX:
            return Answer(-errno.EMFILE)
        held = [0]
        return Answer(0, (self.install(PipeFile(held)), self.install(PipeFile(held))))

    def do_splice(self, source: int, out: int, size: int, flags: int) -> Wait:
        file, to = self.files.get(source), self.files.get(out)
        if isinstance(file, ZeroFile) and isinstance(to, PipeFile):
            moved = min(size, file.size - file.at, PIPE_SIZE - to.held[0])
            file.at += moved
            to.held[0] += moved
            return moved
        if isinstance(file, SocketFile) and isinstance(to, PipeFile):
            room = min(size, PIPE_SIZE - to.held[0])
            got = yield from self.splice_read(file, room)
            to.held[0] += max(got, 0)
            return got
        if isinstance(file, PipeFile) and isinstance(to, SocketFile):
            more = CONSTANTS["MSG_MORE"] if flags & CONSTANTS["SPLICE_F_MORE"] else 0
            sent = yield from self.transmit(to, min(size, file.held[0]), more, False)
            file.held[0] -= max(sent, 0)
            return sent
        return -errno.EBADF if file is None or to is None else -errno.EINVAL

    def splice_read(self, file: SocketFile, size: int) -> Wait:
        """Take what there is; an urgent octet is neither taken nor waited for."""
        while True:
            at_mark = self.net.ioctl(file.handle, CONSTANTS["SIOCATMARK"])[1]
            if at_mark and self.net.poll(file.handle) & CONSTANTS["POLLPRI"]:
                return 0
            got = (yield from self.receive(file, size, MSG_DONTWAIT, False)).value
            if got != -errno.EAGAIN or file.nonblock:
                return got
            yield None

    # Options.

    def do_setsockopt(self, fd: int, level: int, name: int, data: bytes | None, size: int) -> int:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if size < 0:
            return -errno.EINVAL
        key = level, name
        if key == (SOL_TCP, TCP_CONGESTION):
            if size < 1:
                return -errno.EINVAL
            if data is None:
                return -errno.EFAULT
            word = data.split(b"\0")[0].decode("latin-1")
            return int(self.net.set_congestion(file.handle, word))
        if key == (SOL_SOCKET, SO_LINGER):
            if size < 8:
                return -errno.EINVAL
            if data is None:
                return -errno.EFAULT
            on, seconds = struct.unpack_from("=ii", data.ljust(8, b"\0"))
            return int(self.net.set_linger(file.handle, bool(on), seconds))
        least = 0 if level == 0 else 1 if level == 41 else 4
        if size < least:
            return -errno.EINVAL
        if data is None:
            return -errno.EFAULT
        value = int.from_bytes(data[:4], "little", signed=len(data) >= 4)
        if key == (SOL_TCP, TCP_INQ):
            file.inq = bool(value)
            return 0 if value in (0, 1) else -errno.EINVAL
        if key in KEPT:
            return keep(file.kept, level, name, value)
        option = FORCED.get(name, name) if level == SOL_SOCKET else name
        made = int(self.net.setsockopt(file.handle, level, option, value))
        if made == -errno.ENOPROTOOPT and name in KNOWN.get(level, ()) and key not in NEVER_SET:
            self.note(NAMES.get(key, str(key)))
            file.passed_over[key] = data
            return 0
        return made

    def do_getsockopt(self, fd: int, level: int, name: int, size: int) -> Answer:
        file = self.socket_of(fd)
        if file is None:
            return Answer(self.no_socket(fd))
        if size < 0:
            return Answer(-errno.EINVAL)
        key = level, name
        if key == (SOL_SOCKET, SO_LINGER):
            data = struct.pack("=ii", *self.net.linger(file.handle))
        elif key == (SOL_TCP, TCP_CONGESTION):
            data = self.net.congestion(file.handle).encode().ljust(16, b"\0")
        elif key == (SOL_TCP, TCP_INFO):
            data = tcp_info(self.net.info(file.handle))
        elif key == SO_MEMINFO:
            data = struct.pack("=9I", *self.net.meminfo(file.handle))
        elif key in READ_ONLY:
            data = struct.pack("=i", READ_ONLY[key])
        elif key in ASKED_IN_VAIN:
            return Answer(-ASKED_IN_VAIN[key])
        elif key == IP_MTU and not self.net.peername(file.handle)[1]:
            return Answer(-errno.ENOTCONN)
        elif key in KEPT:
            data = struct.pack("=i", file.kept.get(key, KEPT[key][0]))
        elif key == (SOL_TCP, TCP_INQ):
            data = struct.pack("<I", file.inq)
        elif key in file.passed_over:
            data = file.passed_over[key]
        else:
            failed, value = self.net.getsockopt(file.handle, level, name)
            if failed and name not in KNOWN.get(level, ()):
                return Answer(failed)
            if failed:
                self.note(NAMES.get(key, str(key)))
            data = struct.pack("<I", value & 0xFFFFFFFF)
        return Answer(0, shortened(level, data, size))

    def do_fcntl(self, fd: int, command: int, argument: int) -> int:
        file = self.files.get(fd)
        if file is None:
            return -errno.EBADF
        if command == F_GETFL:
            return 2 | (O_NONBLOCK if file.nonblock else 0)
        if command == F_SETFL:
            file.nonblock = bool(argument & O_NONBLOCK)
            return 0
        return 0 if command in (F_GETFD, F_SETFD) else -errno.EINVAL

    def do_ioctl(self, fd: int, request: int) -> Answer:
        file = self.socket_of(fd)
        if file is None:
            return Answer(self.no_socket(fd))
        if request not in REQUESTS:
            raise Unsupported(f"the request {request:#x} of ioctl")
        failed, value = self.net.ioctl(file.handle, request)
        return Answer(failed, value)

    # Readiness.

    def mask(self, fd: int) -> int:
        """What a descriptor is ready for."""
        file = self.files.get(fd)
        if not isinstance(file, SocketFile):
            return POLLNVAL if file is None else 5
        bits = int(self.net.poll(file.handle))
        return bits | (0x40 if bits & 1 else 0) | (0x100 if bits & 4 else 0)

    def do_poll(self, wanted: list[tuple[int, int]], timeout_ms: int) -> Wait:
        end_ns = None if timeout_ms < 0 else self.now_ns + timeout_ms * 1_000_000
        while True:
            seen = [
                0 if fd == -1 else self.mask(fd) & (events | POLLERR | POLLHUP | POLLNVAL)
                for fd, events in wanted
            ]
            ready = sum(1 for one in seen if one)
            if ready or (end_ns is not None and self.now_ns >= end_ns):
                return Answer(ready, seen)
            yield end_ns

    def do_epoll_create(self, size: int) -> int:
        return -errno.EINVAL if size <= 0 else self.install(EpollFile(self))

    def do_epoll_ctl(self, ep: int, op: int, fd: int, events: int, data: int) -> int:
        epoll = self.files.get(ep)
        if epoll is None or fd not in self.files:
            return -errno.EBADF
        if not isinstance(epoll, EpollFile) or epoll is self.files[fd]:
            return -errno.EINVAL
        there = fd in epoll.watched
        if events & EPOLLEXCLUSIVE and (
            op == CONSTANTS["EPOLL_CTL_MOD"]
            or (op == CONSTANTS["EPOLL_CTL_ADD"] and events & ~EXCLUSIVE_MAY)
        ):
            return -errno.EINVAL
        if op == CONSTANTS["EPOLL_CTL_ADD"]:
            if there:
                return -errno.EEXIST
        elif op not in (CONSTANTS["EPOLL_CTL_MOD"], CONSTANTS["EPOLL_CTL_DEL"]):
            return -errno.EINVAL
        elif not there:
            return -errno.ENOENT
        elif op == CONSTANTS["EPOLL_CTL_MOD"] and epoll.watched[fd].events & EPOLLEXCLUSIVE:
            return -errno.EINVAL
        if op == CONSTANTS["EPOLL_CTL_DEL"]:
            del epoll.watched[fd]
        else:
            epoll.watched[fd] = Interest(events & 0xFFFFFFFF, data)
            epoll.watched[fd].mask = self.mask(fd)
        return 0

    def do_epoll_wait(self, ep: int, most: int, timeout_ms: int) -> Wait:
        epoll = self.files.get(ep)
        if not isinstance(epoll, EpollFile) or most <= 0:
            return -errno.EBADF if epoll is None else -errno.EINVAL
        end_ns = None if timeout_ms < 0 else self.now_ns + timeout_ms * 1_000_000
        while True:
            seen: list[tuple[int, int]] = []
            for fd, interest in epoll.watched.items():
                if len(seen) == most:
                    break
                mask = self.mask(fd)
                interest.mask &= mask
                bits = mask & interest.events
                if not bits or not interest.ready:
                    continue
                seen.append((bits, interest.data))
                if interest.events & EPOLLET:
                    interest.ready = False
                if interest.events & EPOLLONESHOT:
                    interest.events &= EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
            if seen or (end_ns is not None and self.now_ns >= end_ns):
                return Answer(len(seen), seen)
            yield end_ns


def packed(where: Address) -> tuple[bytes, int]:
    """16 bytes and a port."""
    return mapped(ipaddress.ip_address(where[0]).packed), where[1]
