"""What a script's descriptors stand for: sockets, epoll, files of zeros, ends of pipes."""

from __future__ import annotations

from typing import Any

POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDHUP = 1, 4, 8, 16, 32, 0x2000


class SocketFile:
    """A socket of the host."""

    def __init__(self, handle: int, family: int, nonblock: bool) -> None:
        self.handle = handle
        self.family = family
        self.nonblock = nonblock
        self.connecting = False
        self.kept: dict[tuple[int, int], int] = {}
        self.full = False  # a write has found no room
        self.passed_over: dict[tuple[int, int], bytes] = {}

    def end_ns(self, now_ns: int, option: tuple[int, int]) -> int | None:
        """When SO_RCVTIMEO or SO_SNDTIMEO ends a call that begins now; None: never."""
        span_ns = self.kept.get(option)
        return None if span_ns is None else now_ns + span_ns


class Interest:
    """What an epoll descriptor watches of another."""

    def __init__(self, events: int, data: int) -> None:
        self.events = events | POLLERR | POLLHUP
        self.data = data
        self.ready = True  # something may have changed since it was told
        self.mask = 0  # what it was when it was looked at
        self.reports = 0  # errors that were told by then


class EpollFile:
    """What epoll_create gives."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.nonblock = False
        self.watched: dict[int, Interest] = {}

    def wake(self, handles: list[int]) -> None:
        """Sockets of which something has changed."""
        for fd, interest in self.watched.items():
            file = self.owner.files.get(fd)
            if not isinstance(file, SocketFile) or file.handle not in handles:
                continue
            mask = self.owner.mask(fd)
            reports = self.owner.net.error_reports(file.handle)
            fresh = mask & ~interest.mask | (POLLOUT if file.full else 0) | POLLIN | POLLRDHUP
            if interest.events & mask & fresh or reports != interest.reports:
                interest.ready = True
            interest.mask, interest.reports = mask, reports
            file.full = file.full and not mask & POLLOUT


class ZeroFile:
    """A file of so many zeros."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.at = 0
        self.nonblock = False


class PipeFile:
    """An end of a pipe: bytes that are in it, in a list that both ends have."""

    def __init__(self, held: list[int]) -> None:
        self.held = held
        self.nonblock = False
