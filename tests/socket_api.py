"""The system's sockets and ours behind one `api`, and cases that both have to see the same of.

A case is a function of an api that returns what it saw.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import tcpcore

HOST, HOST6 = "127.0.0.1", "::1"
Seen = list[Any]
Case = Callable[[Any], Any]


class Api:
    """What both have: sockets, a way to wait for what is under way, readiness."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def keep(self, sock: Any) -> Any:
        self.made.append(sock)
        return sock

    def listener(self, **options: Any) -> Any:
        sock = self.socket(**options)
        sock.bind((HOST6 if options.get("family") == socket.AF_INET6 else HOST, 0))
        sock.listen()
        return sock

    def pair(self) -> tuple[Any, Any]:
        listener = self.listener()
        one = self.socket()
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        return one, self.keep(other)

    def close(self) -> None:
        for sock in self.made:
            sock.close()


class System(Api):
    select = staticmethod(select.select)

    def socket(self, family: int = socket.AF_INET, *args: int) -> Any:
        return self.keep(socket.socket(family, *(args or (socket.SOCK_STREAM,))))

    def settle(self) -> None:
        time.sleep(0.01)

    def poll(self, sock: Any, mask: int = 0x2007) -> int:
        poller = select.poll()
        poller.register(sock, mask)
        return sum(bits for _, bits in poller.poll(0))


class Ours(Api):
    select = staticmethod(tcpcore.select)

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.stack = tcpcore.Stack([HOST + "/8", HOST6, "10.9.9.9"], seed=1, engine=engine)

    def socket(self, family: int = socket.AF_INET, *args: int) -> Any:
        return self.keep(self.stack.socket(family, *args))

    def settle(self) -> None:
        self.stack.clock.advance(0.01)

    def poll(self, sock: Any, mask: int = 0x2007) -> int:
        poller = tcpcore.poll()
        poller.register(sock, mask)
        return sum(bits for _, bits in poller.poll(0))

    def close(self) -> None:
        super().close()
        self.stack.close()


def of(call: Callable[[], Any]) -> Any:
    """What a call gives or raises, in words that can be compared."""
    try:
        value = call()
    except Exception as error:
        number = getattr(error, "errno", None)
        return type(error).__name__, errno.errorcode.get(number or 0), str(error)
    return value


def ends(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """An address without its port, which is random."""
    return (address[0], address[1] > 0, *address[2:])


def same(case: Case, engine: str) -> None:
    """Let a case run on the system's sockets and on ours, and compare."""
    system = System()
    try:
        expected = case(system)
    finally:
        system.close()
    ours = Ours(engine)
    try:
        found = case(ours)
    finally:
        ours.close()
    different = [
        (place, a, b) for place, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b
    ]
    assert not different, "(place, the system's, ours)"
    assert len(found) == len(expected)
