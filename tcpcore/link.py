"""Links: where frames come from and go to. What is lost, late or changed on one is seeded.

A frame is bytes: an IP packet, or an Ethernet frame where the link says so.
"""

from __future__ import annotations

import heapq
import math
import random
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from tcpcore.clock import MonotonicClock, VirtualClock
    from tcpcore.stack import Stack


class Link(Protocol):
    """What a stack asks of a link.

    Attributes
    ----------
    mtu : int
        The largest IP packet that it carries, bytes.
    ethernet : bool
        Whether frames begin with an Ethernet header.
    gso : bool
        Whether it takes segments larger than its MTU, and gives such.
    hw_csum : bool
        Whether it finishes TCP's checksums (CHECKSUM_PARTIAL); a link without this does not.
    """

    @property
    def mtu(self) -> int: ...
    @property
    def ethernet(self) -> bool: ...
    @property
    def gso(self) -> bool: ...

    @property
    def next_arrival(self) -> int | None:
        """When the next frame arrives, ns of the stack's clock, where the link knows; else None."""

    def fileno(self) -> int:
        """A descriptor that can be read from when a frame is there, or -1."""
        raise NotImplementedError

    def attach(self, wake: Callable[[], None]) -> None:
        """Without a descriptor: call `wake()`, from any thread, when a frame has come."""

    def send(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Send frames in their order; what cannot be sent is lost. It must not wait."""

    def recv(self, now_ns: int) -> list[bytes]:
        """Frames that have come by now, all or a batch of them; none: nothing is there."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds."""


ETH_HLEN = 14
CE = 3
INBOX_MAX = 65536  # frames that wait for a host that nobody drives
CHECKSUM_NONE, CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL = 0, 1, 3
_U16 = struct.Struct(">H")


class Frame(bytes):
    """A frame, and what its bytes do not tell: a plain one is bytes alone.

    Attributes
    ----------
    gso_size : int
        Payload of each segment that it is to be cut into; 0: it is one.
    ip_summed : int
        What is known of TCP's checksum, by Linux's names. CHECKSUM_NONE: nothing, it is in its
        place and to be verified. CHECKSUM_UNNECESSARY: somebody has verified it.
        CHECKSUM_PARTIAL: it is not made yet, its place holds the sum of the pseudo-header.
    time_ns : int or None
        When it came or left, ns of the stack's clock; None: nobody said.
    """

    gso_size: int
    ip_summed: int
    time_ns: int | None

    def __new__(
        cls,
        data: bytes,
        gso_size: int = 0,
        ip_summed: int = CHECKSUM_NONE,
        time_ns: int | None = None,
    ) -> Frame:
        made = super().__new__(cls, data)
        made.gso_size = gso_size
        made.ip_summed = ip_summed
        made.time_ns = time_ns
        return made


def like(frame: bytes, data: bytes) -> bytes:
    """Other bytes with what is known of a frame, if more is known than its bytes."""
    if isinstance(frame, Frame):
        return Frame(data, frame.gso_size, frame.ip_summed, frame.time_ns)
    return data


@dataclass(frozen=True)
class Path:
    """What one direction of a link does to frames.

    Attributes
    ----------
    rate_bps : float
        Bits a second; 0: as fast as can be.
    delay_s, jitter_s : float
        How long a frame is under way, and how much longer at most, evenly; order is kept.
    loss : float
        Share of frames that are lost, each by itself.
    burst : tuple of float
        Share of frames that begin a burst of losses, share of a burst's frames that end it
        (Gilbert's model); all of a burst is lost.
    reorder, reorder_s : float
        Share of frames that are overtaken; how much later they come (0: a delay, at least 1 ms).
    duplicate, corrupt : float
        Share of frames that come twice; of which one bit is turned.
    queue : int
        Frames that may wait where there is a rate; more are dropped (drop-tail).
    mark : int
        Where more wait than this, those that can be (RFC 3168) are marked; 0: none.
    up : bool
        False: nothing comes through.
    """

    rate_bps: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    burst: tuple[float, float] = (0.0, 1.0)
    reorder: float = 0.0
    reorder_s: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    queue: int = 1000
    mark: int = 0
    up: bool = True

    def __post_init__(self) -> None:
        for name in ("rate_bps", "delay_s", "jitter_s", "reorder_s", "queue", "mark"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 0, not {getattr(self, name)}")
        if not isinstance(self.burst, (tuple, list)) or len(self.burst) != 2:
            raise ValueError(f"burst must be two shares, (begin, end), not {self.burst!r}")
        for share in (self.loss, *self.burst, self.reorder, self.duplicate, self.corrupt):
            if not 0 <= share <= 1:
                raise ValueError(f"a share must be from 0 to 1, not {share}")


class _Wire:
    """One direction: frames in at a time, out at later ones."""

    def __init__(self, path: Path, seed: str) -> None:
        self.path = path
        self.seed = seed
        self.randoms: dict[str, random.Random] = {}
        self.burst = False
        self.busy_ns = 0  # until when the sender's line is taken
        self.last_ns = 0  # arrival of the last one in order
        self.leaving: deque[int] = deque()  # when those that wait begin to leave
        self.order = 0
        self.flying: list[tuple[int, int, bytes]] = []
        self.taps: list[Callable[[bytes, int], object]] = []
        self.wake: Callable[[], None] | None = None
        self.host: Stack | None = None  # at the far end
        self.counts = dict.fromkeys(
            ("sent", "dropped", "lost", "marked", "reordered", "duplicated", "corrupted"), 0
        )
        self.lock = threading.Lock()

    def is_plain(self) -> bool:
        """True while frames arrive at once as they were sent, and nobody looks."""
        return self.path == Path() and not self.taps and not self.flying

    def chance(self, kind: str, share: float) -> bool:
        return share > 0 and self.draw(kind).random() < share

    def draw(self, kind: str) -> random.Random:
        """Of each kind a series of its own: what one fault does leaves the others as they are."""
        found = self.randoms.get(kind)
        if found is None:
            found = self.randoms[kind] = random.Random(f"{self.seed}/{kind}")
        return found

    def send(self, frame: bytes, now_ns: int, ethernet: bool) -> None:
        path, counts = self.path, self.counts
        if not path.up:
            counts["dropped"] += 1
            return
        leave_ns = now_ns
        if path.rate_bps:
            while self.leaving and self.leaving[0] <= now_ns:
                self.leaving.popleft()
            if len(self.leaving) >= path.queue > 0 or (not path.queue and self.busy_ns > now_ns):
                counts["dropped"] += 1
                return
            if path.mark and len(self.leaving) >= path.mark:
                marked = mark_ce(frame, ETH_HLEN if ethernet else 0)
                counts["marked"] += marked != frame
                frame = marked
            begin_ns = max(now_ns, self.busy_ns)
            self.leaving.append(begin_ns)
            leave_ns = self.busy_ns = begin_ns + round(len(frame) * 8e9 / path.rate_bps)
        counts["sent"] += 1
        for tap in self.taps:
            tap(frame, now_ns)
        if self.is_lost():
            counts["lost"] += 1
            return
        arrive_ns = leave_ns + round(path.delay_s * 1e9)
        if path.jitter_s:
            arrive_ns += round(self.draw("jitter").random() * path.jitter_s * 1e9)
        if self.chance("reorder", path.reorder):
            counts["reordered"] += 1
            arrive_ns += round((path.reorder_s or max(path.delay_s, 0.001)) * 1e9)
        else:
            self.last_ns = arrive_ns = max(arrive_ns, self.last_ns)
        if self.chance("corrupt", path.corrupt):
            counts["corrupted"] += 1
            frame = self.corrupted(frame)
        self.push(arrive_ns, frame)
        if self.chance("duplicate", path.duplicate):
            counts["duplicated"] += 1
            self.push(arrive_ns, frame)

    def is_lost(self) -> bool:
        begin, end = self.path.burst
        if begin:
            if not self.burst:
                self.burst = self.chance("burst", begin)
            elif self.chance("burst", end):
                self.burst = False
            if self.burst:
                return True
        return self.chance("loss", self.path.loss)

    def corrupted(self, frame: bytes) -> bytes:
        bit = self.draw("bit").randrange(8 * len(frame))
        changed = bytearray(frame)
        changed[bit >> 3] ^= 1 << (bit & 7)
        return bytes(changed)

    def push(self, arrive_ns: int, frame: bytes) -> None:
        self.order += 1
        heapq.heappush(self.flying, (arrive_ns, self.order, frame))


def mark_ce(frame: bytes, at: int) -> bytes:
    """Congestion Experienced in a packet that can carry it (RFC 3168 5), else as it is."""
    if len(frame) < at + 20:
        return frame
    version = frame[at] >> 4
    if version == 4 and frame[at + 1] & CE:
        changed = bytearray(frame)
        changed[at + 1] |= CE
        changed[at + 10 : at + 12] = b"\0\0"
        words = bytes(changed[at : at + 4 * (frame[at] & 15)])
        total = sum(_U16.unpack_from(words, i)[0] for i in range(0, len(words) & ~1, 2)) % 0xFFFF
        _U16.pack_into(changed, at + 10, ~total & 0xFFFF)
        return bytes(changed)
    if version == 6 and frame[at + 1] >> 4 & CE:
        changed = bytearray(frame)
        changed[at + 1] |= CE << 4
        return bytes(changed)
    return frame


class MemoryLink:
    """One end of a link inside the process; `pair` makes both.

    Attributes
    ----------
    mtu : int
    ethernet, gso : bool
    name : str
    dropped : int
        Frames that were too large for it.
    """

    def __init__(
        self, out: _Wire, into: _Wire, mtu: int, ethernet: bool, gso: bool, name: str
    ) -> None:
        self._out = out
        self._into = into
        self.mtu = mtu
        self.ethernet = ethernet
        self.gso = gso
        self.name = name
        self.dropped = 0

    @classmethod
    def pair(
        cls,
        *,
        mtu: int = 1500,
        ethernet: bool = False,
        gso: bool = False,
        seed: int | str = 0,
        names: tuple[str, str] = ("a", "b"),
        back: Path | None = None,
        **path: Any,
    ) -> tuple[MemoryLink, MemoryLink]:
        """Both ends of a new link.

        Parameters
        ----------
        mtu
            Of both, bytes.
        ethernet, gso
            As `Link` has them.
        seed
            Decides what is lost, late and changed.
        names
            Of the ends.
        back
            What the direction from the second to the first does, if it is not the same.
        **path
            What both directions do: the attributes of `Path`.

        Raises
        ------
        ValueError
            If the MTU is less than 68, or a value is none that a `Path` takes.
        """
        if mtu < 68:
            raise ValueError("mtu must be at least 68 (RFC 791)")
        there = Path(**path)
        a, b = _Wire(there, f"{seed}/0"), _Wire(back or there, f"{seed}/1")
        return cls(a, b, mtu, ethernet, gso, names[0]), cls(b, a, mtu, ethernet, gso, names[1])

    @property
    def path(self) -> Path:
        """What happens to the frames that leave at this end."""
        return self._out.path

    @path.setter
    def path(self, path: Path) -> None:
        self._out.path = path
        self.arrange()

    @property
    def counts(self) -> dict[str, int]:
        """Of frames sent at this end: sent, dropped (queue, down), lost, marked and so on."""
        counts = dict(self._out.counts)
        if self._into.host is not None:
            counts["sent"] += self._into.host._net.frames()[1]
        return counts

    def plug(self, host: Stack) -> None:
        """Say which host is at this end."""
        self._into.host = host
        self.arrange()

    def arrange(self) -> None:
        """Let both hosts pass this link by while nothing happens to a frame on it."""
        here, there = self._into.host, self._out.host
        if here is None or there is None:
            return
        plain = not self.ethernet and self._out.is_plain() and self._into.is_plain()
        here.join(there if plain else None)
        there.join(here if plain else None)

    @property
    def clock(self) -> VirtualClock | MonotonicClock | None:
        """What the host at the other end lives by; None while nobody is there."""
        there = self._out.host
        return None if there is None or there._closed else there.clock

    def tap(self, call: Callable[[bytes, int], object]) -> None:
        """Show every frame that leaves at this end, with its time in ns, before it can be lost."""
        self._out.taps.append(call)
        self.arrange()

    def attach(self, wake: Callable[[], None]) -> None:
        """Call `wake()` when something is on its way to this end."""
        self._into.wake = wake

    def fileno(self) -> int:
        """-1: there is no descriptor."""
        return -1

    def send(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Send frames; those that are too large are dropped."""
        most = self.mtu + (ETH_HLEN if self.ethernet else 0)
        with self._out.lock:
            for frame in frames:
                if len(frame) > most and not self.gso:
                    self.dropped += 1
                    continue
                self._out.send(frame, now_ns, self.ethernet)
        if self._out.wake is not None:
            self._out.wake()

    def recv(self, now_ns: int) -> list[bytes]:
        """What has arrived by now."""
        wire = self._into
        found = []
        with wire.lock:
            while wire.flying and wire.flying[0][0] <= now_ns:
                found.append(heapq.heappop(wire.flying)[2])
        return found

    @property
    def next_arrival(self) -> int | None:
        """When the next frame arrives, ns; None if none is on its way."""
        flying = self._into.flying
        return flying[0][0] if flying else None

    @property
    def in_flight(self) -> int:
        """Frames on their way, both ways together."""
        return len(self._into.flying) + len(self._out.flying)

    def close(self) -> None:
        """Forget what is on its way to this end."""
        with self._into.lock:
            self._into.flying.clear()


class CallableLink:
    """A link of two functions, for whatever can carry frames.

    Parameters
    ----------
    send
        Called with each frame that leaves.
    mtu, ethernet, gso, hw_csum
        As `Link` has them.

    Attributes
    ----------
    dropped : int
        Frames that were delivered while 65,536 waited for the host to be driven.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        *,
        mtu: int = 1500,
        ethernet: bool = False,
        gso: bool = False,
        hw_csum: bool = False,
    ) -> None:
        self._send = send
        self._inbox: deque[bytes] = deque()
        self._wake: Callable[[], None] | None = None
        self.dropped = 0
        self.mtu = mtu
        self.ethernet = ethernet
        self.gso = gso
        self.hw_csum = hw_csum

    def deliver(self, frames: Iterable[bytes]) -> None:
        """Let frames arrive, from any thread."""
        for one in frames:
            if len(self._inbox) >= INBOX_MAX:
                self.dropped += 1
            else:
                self._inbox.append(one if isinstance(one, bytes) else bytes(memoryview(one)))
        if self._wake is not None:
            self._wake()

    def attach(self, wake: Callable[[], None]) -> None:
        """Call `wake()` when something is delivered."""
        self._wake = wake

    def fileno(self) -> int:
        """-1: there is no descriptor."""
        return -1

    def send(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Hand frames to the function."""
        for frame in frames:
            self._send(frame)

    def recv(self, now_ns: int) -> list[bytes]:
        """What was delivered."""
        found = []
        while self._inbox:
            found.append(self._inbox.popleft())
        return found

    @property
    def next_arrival(self) -> int | None:
        """0 (at once) while something is there."""
        return 0 if self._inbox else None

    def close(self) -> None:
        """Forget what was delivered."""
        self._inbox.clear()
