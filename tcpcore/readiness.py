"""Waiting for several sockets at once: twins of `select.poll`, `select.select` and `selectors`.

Linux: poll(2), select(2).
"""

from __future__ import annotations

import selectors

from tcpcore.clock import VirtualClock
from tcpcore.socket import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

POLLNVAL = 32
ALWAYS = POLLERR | POLLHUP
READABLE, WRITABLE, SPECIAL = POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI


class poll:
    """Like the object that `select.poll()` gives, with sockets in the place of descriptors."""

    def __init__(self) -> None:
        self._wanted: dict[int, tuple[Socket, int]] = {}

    def register(self, sock: Socket, eventmask: int = POLLIN | POLLPRI | POLLOUT) -> None:
        """Watch a socket, or watch it for something else."""
        self._wanted[id(_mine(sock))] = (sock, eventmask)

    def modify(self, sock: Socket, eventmask: int) -> None:
        """Watch for something else. Raises FileNotFoundError if it was not watched."""
        if id(sock) not in self._wanted:
            raise FileNotFoundError(2, "No such file or directory")
        self._wanted[id(sock)] = (sock, eventmask)

    def unregister(self, sock: Socket) -> None:
        """Watch it no more. Raises KeyError if it was not watched."""
        if self._wanted.pop(id(sock), None) is None:
            raise KeyError(sock)

    def poll(self, timeout: float | None = None) -> list[tuple[Socket, int]]:
        """Wait until one is ready.

        Parameters
        ----------
        timeout
            Milliseconds at most; None or negative: as long as it takes.

        Returns
        -------
        list of (Socket, int)
            Those that are ready, and for what.
        """

        def ready() -> list[tuple[Socket, int]]:
            found = []
            for sock, mask in self._wanted.values():
                if sock._handle < 0:
                    found.append((sock, POLLNVAL))
                elif bits := sock._net.poll(sock._handle) & (mask | ALWAYS):
                    found.append((sock, bits))
            return found

        endless = timeout is None or timeout < 0
        seconds = None if endless or timeout is None else timeout / 1000
        return _wait([sock for sock, _ in self._wanted.values()], ready, seconds)


def select(
    rlist: Iterable[Socket],
    wlist: Iterable[Socket],
    xlist: Iterable[Socket],
    timeout: float | None = None,
) -> tuple[list[Socket], list[Socket], list[Socket]]:
    """Like `select.select`, for sockets of one stack, or of stacks with one virtual clock.

    Raises
    ------
    ValueError
        If one is closed, or the timeout is negative.
    TypeError
        If one is none of ours.
    """
    lists = [list(one) for one in (rlist, wlist, xlist)]
    everyone = [_mine(sock) for one in lists for sock in one]
    if any(sock._handle < 0 for sock in everyone):
        raise ValueError("file descriptor cannot be a negative integer (-1)")
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")

    def ready() -> list[list[Socket]]:
        masks = (READABLE, WRITABLE, SPECIAL)
        found = [
            [sock for sock in one if sock._net.poll(sock._handle) & mask]
            for one, mask in zip(lists, masks, strict=True)
        ]
        return found if any(found) else []

    found = _wait(everyone, ready, timeout)
    return (found[0], found[1], found[2]) if found else ([], [], [])


class Selector(selectors.BaseSelector):
    """Like `selectors.DefaultSelector`, with sockets in the place of descriptors.

    A key's `fd` is the engine's handle.
    """

    def __init__(self) -> None:
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a socket; KeyError if it is watched, ValueError for no events or a closed one."""
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        if _mine(fileobj)._handle < 0:
            raise ValueError("Invalid file descriptor: -1")
        if fileobj in self._map:
            raise KeyError(f"{fileobj!r} is already registered")
        made = selectors.SelectorKey(fileobj, fileobj._handle, events, data)
        self._map[fileobj] = made
        return made

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch it no more; KeyError if it was not watched. It may be closed."""
        if fileobj not in self._map:
            raise KeyError(f"{fileobj!r} is not registered")
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until one is ready.

        Parameters
        ----------
        timeout
            Seconds at most; None: as long as it takes; 0 or less: do not wait.

        Returns
        -------
        list of (SelectorKey, int)
            Those that are ready, and for which of the events that they are watched for. None, and
            at once, where nothing is watched: there is no host whose time could pass.

        Raises
        ------
        ValueError
            If nothing is watched and there is no timeout.
        """

        def ready() -> list[tuple[selectors.SelectorKey, int]]:
            found = []
            for key in self._map.values():
                sock: Any = key.fileobj
                bits = sock._net.poll(sock._handle) if sock._handle >= 0 else 0
                events = selectors.EVENT_READ * bool(bits & READABLE)
                events |= selectors.EVENT_WRITE * bool(bits & (WRITABLE | POLLHUP))
                if events & key.events:
                    found.append((key, events & key.events))
            return found

        return _wait(list(self._map), ready, None if timeout is None else max(timeout, 0))

    def close(self) -> None:
        """Watch nothing any more."""
        self._map.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """The keys by their sockets."""
        return self._map


def _mine(sock: Socket) -> Socket:
    if not isinstance(sock, Socket):
        raise TypeError(f"a tcpcore.Socket is required, not {type(sock).__name__}")
    return sock


def _wait(socks: list[Socket], ready: Callable[[], list[Any]], seconds: float | None) -> list[Any]:
    stacks = list({id(sock.stack): sock.stack for sock in socks}.values())
    if not stacks:
        if seconds is None:
            raise ValueError("there is nothing to wait for")
        return []  # nobody's time could pass
    clocks = {id(stack.clock) for stack in stacks}
    if len(clocks) > 1 or (len(stacks) > 1 and not isinstance(stacks[0].clock, VirtualClock)):
        raise ValueError("sockets of several stacks can be waited for in one virtual time alone")
    for stack in stacks[1:]:
        stack.run()
    nanoseconds = None if seconds is None else round(seconds * 1e9)
    found = stacks[0].wait(lambda: ready() or None, nanoseconds)
    return list(found) if found is not None else []
