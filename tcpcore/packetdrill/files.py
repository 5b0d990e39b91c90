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
    POLLOUT,
    EpollFile,
    PipeFile,
    SocketFile,
    ZeroFile,
)
from tcpcore.packetdrill.polling import Polling
from tcpcore.packetdrill.target import Address, Answer, Unsupported
from tcpcore.sockopt import (
    ASKED_IN_VAIN,
    IP_MTU,
    KEPT,
    READ_ONLY,
    SO_MEMINFO,
    TCP_MD5SIG,
    TCP_MD5SIG_EXT,
    TIMEOUTS,
    inherited,
    keep,
    keep_timeout,
    md5sig,
    refused,
    shortened,
    tcp_info,
    timeout_data,
)
from tcpcore.transfer import SO_RCVTIMEO, SO_SNDTIMEO, TCP_INQ, mapped

if TYPE_CHECKING:
    from collections.abc import Generator

    Wait = Generator[int | None, None, Any]

MSG_PEEK, MSG_OOB, MSG_DONTWAIT, MSG_WAITALL = 0x2, 0x1, 0x40, 0x100
MSG_ERRQUEUE, MSG_FASTOPEN = 0x2000, 0x20000000
MSG_TRUNC = 0x20
O_NONBLOCK = 0x800
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
SYN_SENT, SYN_RECV, CLOSE, LISTEN = 2, 3, 7, 10
SOCK_MAX, IPPROTO_MAX = 11, 256 + 7  # that of MPTCP is the last
CLOSING_STATES = (4, 11, 9)
PIPE_SIZE = 65536
FILES_MAX = 1024  # RLIMIT_NOFILE, as Linux has it
SOL_SOCKET, SOL_TCP, SO_LINGER, TCP_CONGESTION, TCP_INFO = 1, 6, 13, 13, 11
SO_RCVLOWAT, SO_TIMESTAMPING = 18, 37
SO_BINDTODEVICE, TCP_ULP = (1, 25), (6, 31)
DEVICES = ("", "lo", "tun0")
SIOCATMARK = CONSTANTS["SIOCATMARK"]
REQUESTS = {CONSTANTS[name] for name in ("SIOCINQ", "SIOCOUTQ", "SIOCOUTQNSD", "SIOCATMARK")}
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
    if name.startswith(prefix) and not name.startswith("TCP_NLA_")
}


class Files(Polling):
    """Descriptors and calls; `net`, `now_ns`, `note` and `commands` are the target's."""

    if TYPE_CHECKING:
        net: Any
        now_ns: int
        commands: Any

        def note(self, what: str) -> None: ...
        def reaches(self, where: str) -> bool: ...

    def __init__(self) -> None:
        self.files: dict[int, Any] = {}
        self.last_fd = 2

    def install(self, file: Any, least: int = 0) -> int:
        """Give a file a descriptor; a negative errno if there are too many."""
        if not 0 <= least < FILES_MAX:
            return -errno.EINVAL
        if self.is_full():
            return -errno.EMFILE
        self.last_fd = max(self.last_fd + 1, least)
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
        kind, flags = kind & 0xF, kind & ~0xF
        if flags & ~(O_NONBLOCK | 0x80000) or not 0 <= kind < SOCK_MAX:
            return -errno.EINVAL
        if protocol == CONSTANTS["IPPROTO_MPTCP"]:
            raise Unsupported("sockets of other protocols")
        if not 0 <= protocol < IPPROTO_MAX:
            return -errno.EINVAL
        if kind not in (1, 2, 3):
            return -errno.ESOCKTNOSUPPORT
        if kind == 3 or (kind == 2 and protocol != 6):
            raise Unsupported("sockets of other protocols")
        if kind == 2 or protocol not in (0, 6):
            return -errno.EPROTONOSUPPORT
        if self.is_full():
            return -errno.EMFILE
        handle = self.net.socket(4 if family == 2 else 6)
        return self.install(SocketFile(handle, family, bool(flags & O_NONBLOCK)))

    def do_bind(self, fd: int, where: Address | None) -> int:
        file = self.socket_of(fd)
        if file is None:
            return self.no_socket(fd)
        if where is None and file.family == 2:  # AF_UNSPEC: of old that is any address
            where = "0.0.0.0", 0
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
        end_ns = file.end_ns(self.now_ns, SO_RCVTIMEO)
        while (handle := self.net.accept(file.handle)) == -errno.EAGAIN:
            if file.nonblock or over(self.now_ns, end_ns):
                return handle
            yield end_ns
        if handle < 0:
            return handle
        child = SocketFile(handle, file.family, bool(flags & O_NONBLOCK))
        child.kept = inherited(file.kept)
        made = self.install(child)
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
        late = -errno.EALREADY if file.connecting else -errno.EINPROGRESS
        end_ns = file.end_ns(self.now_ns, SO_SNDTIMEO)
        if file.connecting:
            if state in (SYN_SENT, SYN_RECV) and file.nonblock:
                return -errno.EALREADY
        else:
            if not self.reaches(where[0]):
                return -errno.ENETUNREACH
            family = 10 if ":" in where[0] else 2
            failed = self.net.connect(file.handle, family, *packed(where))
            if failed:
                return failed
            file.connecting = True
            if file.nonblock:
                return -errno.EINPROGRESS
        while self.net.state(file.handle) in (SYN_SENT, SYN_RECV):
            if over(self.now_ns, end_ns):
                return late
            yield end_ns
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
        if isinstance(file, SocketFile) and file not in self.files.values():
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
        if not size:
            return 0  # whatever has become of the connection
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
        messages = cmsg.of_data(self.net, file.handle, bool(file.kept.get(TCP_INQ)))
        return Answer(made.value, (flags & MSG_OOB, messages))

    def receive(self, file: SocketFile, size: int, flags: int, fault: bool) -> Wait:
        """What recv does; an Answer."""
        if flags & MSG_ERRQUEUE:
            found = cmsg.of_error(self.net, file.handle, self.now_ns)
            return Answer(-errno.EAGAIN if found is None else min(len(found[0]), size))
        got = 0
        least = size if flags & MSG_WAITALL else self.net.getsockopt(file.handle, 1, SO_RCVLOWAT)[1]
        end_ns = file.end_ns(self.now_ns, SO_RCVTIMEO)
        now = file.nonblock or flags & MSG_DONTWAIT
        while True:
            take = flags | MSG_PEEK if fault else flags
            if now or over(self.now_ns, end_ns):
                take &= ~MSG_WAITALL  # then a look gives what is there
            err, data = self.net.recvmsg(file.handle, size - got, take)
            if err == 0:
                if fault and data and not flags & MSG_TRUNC:
                    return Answer(-errno.EFAULT)
                got += len(data)
                if not data or got >= min(least, size) or flags & MSG_PEEK:
                    return Answer(got)
                if self.net.ioctl(file.handle, SIOCATMARK)[1]:
                    return Answer(got)
            elif err != -errno.EAGAIN or now or over(self.now_ns, end_ns):
                return Answer(got or err)
            else:
                yield end_ns
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
        if flags & MSG_FASTOPEN and self.net.state(file.handle) not in (CLOSE, SYN_SENT, LISTEN):
            return -errno.EISCONN
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
        end_ns = file.end_ns(self.now_ns, SO_SNDTIMEO)
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
            if file.nonblock or flags & MSG_DONTWAIT or over(self.now_ns, end_ns):
                return done or -errno.EAGAIN
            yield end_ns
            while not self.net.poll(file.handle) & (POLLOUT | POLLERR | POLLHUP):
                if over(self.now_ns, end_ns):
                    return done or -errno.EAGAIN
                yield end_ns
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
        if key in (TCP_MD5SIG, TCP_MD5SIG_EXT):
            family = 2 if self.net.sockname(file.handle)[0] == 4 else 10
            try:
                signed = md5sig(family, key == TCP_MD5SIG_EXT, data or b"")
            except OSError as error:
                return -(error.errno or 0)
            return int(self.net.set_md5(file.handle, *signed))
        if key == (SOL_SOCKET, SO_LINGER):
            if size < 8:
                return -errno.EINVAL
            if data is None:
                return -errno.EFAULT
            on, seconds = struct.unpack_from("=ii", data.ljust(8, b"\0"))
            return int(self.net.set_linger(file.handle, bool(on), seconds))
        if key in (SO_BINDTODEVICE, TCP_ULP):
            if data is None:
                return -errno.EFAULT
            word = data.split(b"\0")[0].decode("latin-1")
            if word not in (DEVICES if key == SO_BINDTODEVICE else ("tls", "mptcp")):
                return -(errno.ENODEV if key == SO_BINDTODEVICE else errno.ENOENT)
            self.note(f"{NAMES[key]} {word}")
            return 0
        least = 0 if level == 0 else 1 if level == 41 else 4
        if size < least:
            return -errno.EINVAL
        if key in TIMEOUTS and size < 16:
            return -errno.EINVAL
        if data is None:
            return -errno.EFAULT
        if key in TIMEOUTS:
            return keep_timeout(file.kept, key, data)
        value = int.from_bytes(data[:4], "little", signed=len(data) >= 4)
        if key in KEPT:
            return keep(file.kept, level, name, value)
        made = int(self.net.setsockopt(file.handle, level, name, value))
        if made == -errno.ENOPROTOOPT and name in KNOWN.get(level, ()) and key not in NEVER_SET:
            if failed := refused(key, value, self.net.state(file.handle)):
                return -failed
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
        elif key in TIMEOUTS:
            data = timeout_data(file.kept, key)
        elif key in file.passed_over:
            data = file.passed_over[key]
        else:
            failed, value = self.net.getsockopt(file.handle, level, name)
            if failed and name not in KNOWN.get(level, ()):
                return Answer(failed if level in KNOWN else -errno.EOPNOTSUPP)
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
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            return self.install(file, argument)
        return 0 if command in (F_GETFD, F_SETFD) else -errno.EINVAL

    def do_ioctl(self, fd: int, request: int) -> Answer:
        file = self.socket_of(fd)
        if file is None:
            return Answer(self.no_socket(fd))
        if request not in REQUESTS and request >> 8 not in (0x54, 0x89):
            return Answer(-errno.ENOTTY)
        if request not in REQUESTS:
            raise Unsupported(f"the request {request:#x} of ioctl")
        failed, value = self.net.ioctl(file.handle, request)
        return Answer(failed, value)


def over(now_ns: int, end_ns: int | None) -> bool:
    """Whether a call has waited as long as it may."""
    return end_ns is not None and now_ns >= end_ns


def packed(where: Address) -> tuple[bytes, int]:
    """16 bytes and a port."""
    return mapped(ipaddress.ip_address(where[0]).packed), where[1]
