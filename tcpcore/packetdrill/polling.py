"""What descriptors of a host in virtual time are ready for: poll and epoll.

As in files, a call that waits is a generator.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from tcpcore.packetdrill.constants import CONSTANTS
from tcpcore.packetdrill.descriptors import (
    POLLERR,
    POLLHUP,
    POLLNVAL,
    EpollFile,
    Interest,
    SocketFile,
)
from tcpcore.packetdrill.target import Answer

if TYPE_CHECKING:
    from collections.abc import Generator

    Wait = Generator[int | None, None, Any]

EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLET = 1 << 28, 1 << 30, 1 << 31
# POLLIN, OUT, ERR, HUP, RDNORM, WRNORM and EPOLLWAKEUP may stand beside EPOLLEXCLUSIVE.
EXCLUSIVE_MAY = 1 | 4 | 8 | 16 | 0x40 | 0x100 | 1 << 29 | EPOLLET | EPOLLEXCLUSIVE


class Polling:
    """Readiness and its calls; the rest of a descriptor is in `Files`."""

    if TYPE_CHECKING:
        net: Any
        now_ns: int
        files: dict[int, Any]

        def install(self, file: Any) -> int: ...

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
