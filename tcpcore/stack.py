"""One host: an engine, its link, its clock, and the only loop that drives one.

A call that waits drives the host: in virtual time it goes from event to event, with the system's
clock one of the threads that wait drives and the others wait for what it finds.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import operator
import os
import socket as _socket
import threading
import weakref
from collections import deque

from tcpcore import engine as _engine
from tcpcore.arguments import family_of, seed_key
from tcpcore.clock import DeadlockError, MonotonicClock, VirtualClock, readable, span_ns
from tcpcore.link import CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, Frame, MemoryLink, like
from tcpcore.mib import COUNTERS
from tcpcore.neigh import Neighbours
from tcpcore.socket import Socket
from tcpcore.sysctl import Sysctl
from tcpcore.transfer import mapped, view_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from tcpcore.link import Link

__all__ = ["DeadlockError", "Stack"]

OUT_MAX = 65536  # frames that nobody has fetched; the oldest are lost
LOOPBACK_MAX = 1 << 20  # frames to oneself that one call lets pass
_HOSTS: weakref.WeakValueDictionary[int, Stack] = weakref.WeakValueDictionary()  # by link's id


class Stack:
    """A host with TCP, inside this process.

    Parameters
    ----------
    address
        Its address or addresses, IPv4 or IPv6, each with the length of its network's prefix
        (``'10.0.0.1/24'``) or without one.
    link
        Where its packets go. None: `receive` and `transmit` are called by the caller's own loop.
    clock
        None: the system's for a link that has a descriptor, that of the host at the other end of
        a `MemoryLink`, else a virtual one of its own. Hosts that are to talk in virtual time need
        the same one.
    seed
        Decides initial sequence numbers, ports and cookies: an int or bytes. None: unpredictable,
        as whatever meets a real network has to be.
    sysctl
        Knobs, a `Sysctl` or a mapping of Linux's names.
    name
        For messages.
    hosts
        Addresses by names, for `Socket.connect` and others: no name is asked of any server.
    gateway
        On Ethernet: the router's address, for all that is on no network of ours.
    engine
        'compiled', 'reference', or None for the default.

    Attributes
    ----------
    addresses : tuple of str
    clock, link, sysctl, name, hosts
        As given or chosen.

    Raises
    ------
    ValueError
        If an address or a knob is none, or the link is another host's.
    """

    def __init__(
        self,
        address: str | Iterable[str],
        *,
        link: Link | None = None,
        clock: VirtualClock | MonotonicClock | None = None,
        seed: int | bytes | None = None,
        sysctl: Sysctl | Mapping[str, Any] | None = None,
        name: str = "",
        hosts: Mapping[str, str] | None = None,
        gateway: str | None = None,
        engine: str | None = None,
    ) -> None:
        given = [address] if isinstance(address, str) else list(address)
        if not given:
            raise ValueError("a stack needs an address")
        interfaces = [ipaddress.ip_interface(one) for one in given]
        for one in interfaces:
            if one.ip.is_multicast or one.ip.is_unspecified or int(one.ip) == 0xFFFFFFFF:
                raise ValueError(f"{one.ip} cannot be a host's address")
        if clock is None:
            clock = link.clock if isinstance(link, MemoryLink) else None
        if clock is None:
            real = link is not None and link.fileno() >= 0
            clock = MonotonicClock() if real else VirtualClock()
        if not isinstance(clock, (VirtualClock, MonotonicClock)):
            raise TypeError(f"clock must be a clock, not {type(clock).__name__}")
        self.clock = clock
        self.name = name or str(interfaces[0].ip)
        self.hosts = {} if hosts is None else hosts
        self.sysctl = Sysctl.of(sysctl)
        self.addresses = tuple(str(one.ip) for one in interfaces)
        self._net = _engine.load_net(engine)(seed_key(seed))
        self._local = set()
        for given_address, one in zip(given, interfaces, strict=True):
            packed = mapped(one.ip.packed)
            whole = "/" not in given_address
            length = one.network.max_prefixlen if whole else one.network.prefixlen
            self._net.add_address(packed, length + 128 - one.network.max_prefixlen)
            self._local.add(packed)
        for knob, value in self.sysctl.items():
            self._net.set_sysctl(knob, value)
        self._virtual = clock if isinstance(clock, VirtualClock) else None
        self._net.set_real_time(self._virtual is None)
        self._lock = self._virtual.lock if self._virtual else threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._leader = False
        self._asleep = False
        self._until_ns: int | None = None  # when the leader wakes by itself
        self._sending = False
        self._events = 0  # how often something has changed for somebody
        self._missed = 0  # how often that was while the link was sending
        self._fd_lock = threading.Lock()
        self._closed = False
        self._out: deque[bytes] = deque(maxlen=OUT_MAX)
        self._garbage: deque[int] = deque()
        self._shared: dict[int, int] = {}  # of handles with several sockets how many
        self._wake_fds: tuple[int, int] | None = None
        self._frames = [0, 0]
        self._partial = False
        self._peer: Any = None  # the engine of a host with nothing between it and this one
        self._neighbours: Neighbours | None = None
        self._interfaces = interfaces
        self._gateway = mapped(ipaddress.ip_address(gateway).packed) if gateway else b""
        self.link: Link | None = None
        if link is not None:
            self.attach(link)
        if self._virtual:
            self._virtual.attach(self)

    def attach(self, link: Link) -> None:
        """Plug a link in, where there is none.

        Raises
        ------
        ValueError
            If there is one, if another host has this one, or if the host at the other end of a
            `MemoryLink` lives by another virtual clock.
        """
        if self.link is not None:
            raise ValueError(f"{self.name} has a link")
        other = _HOSTS.get(id(link))
        if other is not None and not other._closed:
            raise ValueError(f"this link is {other.name}'s")
        there = link.clock if isinstance(link, MemoryLink) else None
        if there not in (None, self.clock) and (self._virtual or isinstance(there, VirtualClock)):
            raise ValueError("hosts that talk in virtual time need the same clock")
        _HOSTS[id(link)] = self
        self.link = link
        self._partial = bool(getattr(link, "hw_csum", False))
        self._net.set_link(link.mtu, link.gso, self._partial)
        link.attach(self._wake)
        if isinstance(link, MemoryLink):
            link.plug(self)
        if link.ethernet:
            hwaddr = getattr(link, "hwaddr", None)
            self._neighbours = Neighbours(self._interfaces, hwaddr, self._gateway)

    def join(self, other: Stack | None) -> None:
        """Hand all frames to another host's engine at once, as long as a link does nothing else.

        Both live by one virtual clock and are of one kind; None: each frame goes to the link.
        """
        self._peer = None
        if other is None or other is self or self._virtual is None or self._closed:
            return
        if self._virtual is other._virtual and type(self._net) is type(other._net):
            self._peer = None if other._closed else other._net

    # Sockets.

    def socket(
        self,
        family: int = _socket.AF_INET,
        type: int = _socket.SOCK_STREAM,
        proto: int = 0,
    ) -> Socket:
        """A new TCP socket.

        Raises
        ------
        OSError
            As the system's for a family, type or protocol that is not there.
        """
        return Socket(self, family, type, proto)

    def connect(self, address: tuple[Any, ...], timeout: float | None = None) -> Socket:
        """A socket connected to an address, as `socket.create_connection` makes one."""
        made = self.socket(family_of(address, self.hosts))
        try:
            made.settimeout(timeout)
            made.connect(address)
        except BaseException:
            made.close()
            raise
        return made

    def listen(
        self, address: tuple[Any, ...], backlog: int = 128, *, every_port: bool = False
    ) -> Socket:
        """A socket that listens, as `socket.create_server` makes one.

        Parameters
        ----------
        address
            Host ('' for any) and port; with `every_port` only the host's family counts.
        backlog
            How many connections may wait to be accepted.
        every_port
            Listen at all ports that nobody else has, of every address there is: whatever reaches
            this host is for it, and `getsockname` of an accepted socket tells where it was sent.
        """
        made = self.socket(family_of(address, self.hosts))
        try:
            made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            if not every_port:
                made.bind(address)
            made.listen(backlog, every_port=every_port)
        except BaseException:
            made.close()
            raise
        return made

    # Frames, for a loop of the caller's own.

    def receive(self, frames: Iterable[bytes], now_ns: int | None = None) -> None:
        """Take frames that have arrived: IP packets, or Ethernet frames where the link has them.

        Parameters
        ----------
        frames
            Any bytes; whatever they hold, nothing is raised. A `tcpcore.Frame` tells more: when it
            came (not after `now_ns`), and that its checksum is not to be verified.
        now_ns
            When, ns of this host's clock; None: what the clock says. Time never goes back.
        """
        came = [one if isinstance(one, bytes) else bytes(view_of(one)) for one in frames]
        with self._lock:
            now = self._now(now_ns)
            if self._closed:
                return
            self._input(came, now)
            self._flush(now)

    def transmit(self, now_ns: int | None = None) -> list[Frame]:
        """Let happen what is due by now, and hand out the frames that leave.

        With a link they have gone there, and the list is empty. A `tcpcore.Frame` is bytes, and
        tells the rest: how it is to be cut where it is larger than the MTU, and when it left.
        """
        with self._lock:
            now = self._now(now_ns)
            if self._closed:
                return []
            self._net.advance(now)
            self._flush(now)
            found = [Frame(one, getattr(one, "gso_size", 0), time_ns=now) for one in self._out]
            self._frames[1] += len(found)
            self._out.clear()
            return found

    @property
    def next_deadline(self) -> int | None:
        """When `transmit` is to be called at the latest, ns; None: not until frames arrive."""
        with self._lock:
            when = -1 if self._closed else self._net.next_deadline()
            times = [] if when < 0 else [when]
            if self.link is not None:
                arrival = self.link.next_arrival
                if arrival is not None:
                    times.append(arrival)
            return min(times) if times else None

    def run(self, now_ns: int | None = None) -> None:
        """Fetch what the link has and let happen what is due; never waits."""
        with self._lock:
            self._pump(self._now(now_ns))

    def drive(self, seconds: float) -> None:
        """Live for so long: what was sent is sent again where need be, timers expire.

        A host lives only while a call drives it. After the last `close` its peer may not have
        everything yet: this sees to it.
        """
        self.wait(lambda: None, max(span_ns(seconds), 1))

    # What it has counted.

    @property
    def counters(self) -> dict[str, int]:
        """All counters by Linux's names, and how many frames came and left."""
        with self._lock:
            made = dict(zip(COUNTERS, self._net.counters(), strict=True))
            frames = zip(self._frames, self._net.frames(), strict=True)
            made["frames_received"], made["frames_sent"] = map(sum, frames)
            return made

    def close(self) -> None:
        """End the host: nothing of it is sent any more. Its link stays open.

        Calls that wait, in whatever thread, fail with ENETDOWN, as do later ones that would.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._virtual:
                self._virtual.detach(self)
            if isinstance(self.link, MemoryLink):
                self.link.arrange()
            self._stir()
            if not self._leader:  # else he closes what he waits for
                self._close_fds()

    def _close_fds(self) -> None:
        with self._fd_lock:
            fds, self._wake_fds = self._wake_fds, None
            for fd in fds or ():
                os.close(fd)

    def _alive(self) -> None:
        if self._closed:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))

    def __del__(self) -> None:
        if getattr(self, "_wake_fds", None):
            self._close_fds()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Stack {self.name} {', '.join(self.addresses)}>"

    # How it is driven.

    def wait(self, attempt: Callable[[], Any], timeout_ns: int | None = None) -> Any:
        """Drive the host until `attempt()` gives something else than None; give that.

        Parameters
        ----------
        attempt
            Tries what the caller wants, with the stack's lock held; it may raise.
        timeout_ns
            How long at most; 0: try once. None: as long as it takes.

        Returns
        -------
        object
            What `attempt` gave; None when the time was over.

        Raises
        ------
        DeadlockError
            In virtual time, when nothing can happen any more.
        """
        if timeout_ns == 0 or self._peer is not None:
            with self._lock:
                self._alive()
                self._pump(self._now(None))
                value = attempt()
                self._flush(self._now(None))
                if value is not None or timeout_ns == 0:
                    return value
        if self._virtual:
            return self._wait_virtual(self._virtual, attempt, timeout_ns)
        return self._wait_real(attempt, timeout_ns)

    def _wait_virtual(
        self, clock: VirtualClock, attempt: Callable[[], Any], timeout_ns: int | None
    ) -> Any:
        found: list[Any] = []
        failed: list[BaseException] = []

        def ready() -> bool:
            with self._lock:
                try:
                    self._alive()
                    self._sync()
                    value = attempt()
                except Exception as error:
                    failed.append(error)
                    return True
                finally:
                    self._flush(clock.now_ns())
                if value is None:
                    return False
                found.append(value)
                return True

        self.run()
        clock.wait(ready, None if timeout_ns is None else clock.now_ns() + timeout_ns)
        if failed:
            raise failed[0]
        return found[0] if found else None

    def _wait_real(self, attempt: Callable[[], Any], timeout_ns: int | None) -> Any:
        clock = self.clock
        end_ns = None if timeout_ns is None else clock.now_ns() + timeout_ns
        with self._lock:
            try:
                while True:
                    self._alive()
                    self._pump(clock.now_ns())
                    missed = self._missed
                    value = attempt()
                    self._flush(clock.now_ns())
                    if value is not None:
                        return value
                    left_ns = None if end_ns is None else end_ns - clock.now_ns()
                    if left_ns is not None and left_ns <= 0:
                        return None
                    if self._missed != missed or self._closed:
                        continue
                    if self._leader:
                        self._changed.wait(None if left_ns is None else left_ns / 1e9)
                    else:
                        self._lead(end_ns)
            finally:
                if not self._leader:
                    self._changed.notify()  # the lead passes on

    def _lead(self, end_ns: int | None) -> None:
        """Wait for the link or for time, for all; the lock is given up meanwhile."""
        held = None
        try:
            self._leader = True
            if self._wake_fds is None:
                self._wake_fds = os.pipe()
                for fd in self._wake_fds:
                    os.set_blocking(fd, False)
            times = [one for one in (self.next_deadline, end_ns) if one is not None]
            self._until_ns = min(times) if times else None
            seconds = None
            if self._until_ns is not None:
                seconds = max((self._until_ns - self.clock.now_ns()) / 1e9, 0)
            fds = [self._wake_fds[0]]
            if self.link is not None and self.link.fileno() >= 0:
                fds.append(self.link.fileno())
            self._asleep = True
            held = self._lock._release_save()  # type: ignore[attr-defined]
            ready = readable(fds, seconds)
        finally:
            if held is not None:
                self._lock._acquire_restore(held)  # type: ignore[attr-defined]
            self._leader = self._asleep = False
            if self._closed:
                self._close_fds()
        if fds[0] in ready and self._wake_fds is not None:
            os.read(fds[0], 4096)

    def _stir(self) -> None:
        """Let everybody who waits look again: a call has changed what no segment has."""
        if self._virtual is not None:
            return  # who waits looks again whenever time or a turn goes on
        self._events += 1
        self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        """Something is on its way, or a deadline is earlier than it was; from any thread."""
        if not self._asleep:
            return
        with self._fd_lock, contextlib.suppress(BlockingIOError):  # full of wakes
            if self._wake_fds is not None:
                os.write(self._wake_fds[1], b"\0")

    def _sync(self) -> None:
        """Let the engine know what time it is, before it is asked for anything."""
        self._net.advance(self.clock.now_ns())

    def _now(self, now_ns: int | None) -> int:
        if now_ns is None:
            return self.clock.now_ns()
        if operator.index(now_ns) >> 62 > 0:
            raise OverflowError("now_ns must be below 2**62")
        return now_ns

    def _pump(self, now: int) -> None:
        while self._garbage:
            handle = self._garbage.popleft()
            if not self._unshare(handle):
                with contextlib.suppress(OSError):  # somebody else has made a socket of it
                    self._net.close(handle)
        if self.link is not None:
            self._input(self.link.recv(now), now)
        self._net.advance(now)
        self._flush(now)

    def _unshare(self, handle: int) -> bool:
        """A socket lets go of a handle: True if another one has it still."""
        others = self._shared.pop(handle, 1) - 1
        if others > 1:
            self._shared[handle] = others
        return others > 0

    def _input(self, frames: list[bytes], now: int) -> None:
        self._frames[0] += len(frames)
        if self._neighbours is not None:
            found = []
            for frame in frames:
                packet = self._neighbours.receive(frame, self._out)
                if packet is not None:
                    found.append(like(frame, packet))
            frames = found
        if frames:
            self._net.receive_batch(frames, now)

    def _flush(self, now: int) -> None:
        """Send what wants to leave; what is for this host itself comes in again."""
        if self._peer is not None:
            self._net.exchange(self._peer, now)
            return
        for _ in range(LOOPBACK_MAX):
            packets, sizes = self._net.transmit()
            if not packets:
                break
            for packet, gso_size in zip(packets, sizes, strict=True):
                if self._is_mine(packet):
                    self._net.receive(packet, now, CHECKSUM_UNNECESSARY)
                    continue
                frame = packet
                if gso_size or self._partial:
                    frame = Frame(packet, gso_size, CHECKSUM_PARTIAL * self._partial)
                if self._neighbours is not None:
                    self._neighbours.send(frame, self._out)
                else:
                    self._out.append(frame)
        if self._net.wakes() and not self._virtual:
            self._stir()
        if self.link is not None and self._out and not self._sending:
            self._send(self.link, now)
        if self._asleep:
            when, until = self._net.next_deadline(), self._until_ns
            if when >= 0 and (until is None or when < until):
                self._wake()

    def _send(self, link: Link, now: int) -> None:
        """Hand frames to the link, one call at a time and in order.

        What a link calls may come back here: what wants to leave then waits for this one to
        return. In real time the lock is given up meanwhile, so that links may take their own.
        """
        self._sending = True
        try:
            while self._out and not self._closed:
                frames = list(self._out)
                self._out.clear()
                self._frames[1] += len(frames)
                if self._virtual is not None:
                    link.send(frames, now)
                    continue
                before = self._events
                held = self._lock._release_save()  # type: ignore[attr-defined]
                try:
                    link.send(frames, now)
                finally:
                    self._lock._acquire_restore(held)  # type: ignore[attr-defined]
                    self._missed += self._events != before
        finally:
            self._sending = False

    def _is_mine(self, packet: bytes) -> bool:
        if packet[0] >> 4 == 4:
            return packet[16] == 127 or mapped(packet[16:20]) in self._local
        return packet[24:40] == b"\0" * 15 + b"\1" or packet[24:40] in self._local
