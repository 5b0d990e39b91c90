"""What a target is: something with a clock, a wire and system calls. And what may go wrong."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from tcpcore.packetdrill.options import Config

Address = tuple[str, int]
WORK_MAX_S = 10  # of one snippet or command


class Overtime(BaseException):
    """It works for too long; a snippet's own ``except Exception`` does not catch it."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Let something work for so long and no longer; only where there are alarms, in a main thread.

    Raises
    ------
    Overtime
        Out of the work.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise Overtime(f"no end within {WORK_MAX_S} seconds")

    handler = signal.signal(signal.SIGALRM, late)
    others = signal.setitimer(signal.ITIMER_REAL, WORK_MAX_S, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)


class Failure(Exception):
    """The stack did other than the script says."""

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


class Unsupported(Exception):
    """The script asks for something that the target has not; on which line, where one knows."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Skipped(Unsupported):
    """The script cannot be run here."""


@dataclass
class Answer:
    """What a call gave: a value, or a negative errno, and what else it filled in."""

    value: int
    extra: Any = None


@dataclass
class Pending:
    """A call that was made, and its answer once it has returned."""

    name: str
    answer: Answer | None = None
    error: BaseException | None = None
    time_us: int = 0
    work: Any = None


@dataclass
class Emitted:
    """A packet that the target has sent.

    Attributes
    ----------
    time_us : int
    packet : bytes
    offloaded : bool
        Its TCP checksum is left to the device.
    """

    time_us: int
    packet: bytes
    offloaded: bool = False


class Target(ABC):
    """A stack under test. Times are microseconds since the script's start.

    Attributes
    ----------
    name, engine : str
    sent : deque of Emitted
        What left and was not asked for yet.
    notes : list of str
        What the script asked for and the target passed over.
    tap : callable or None
        Told of each packet: its time and its bytes.
    """

    name = ""
    engine = ""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sent: deque[Emitted] = deque()
        self.notes: list[str] = []
        self.tap: Callable[[int, bytes], object] | None = None

    @abstractmethod
    def begin(self) -> None:
        """The script's time begins here."""

    @abstractmethod
    def now_us(self) -> int:
        """What time it is."""

    @abstractmethod
    def wait_until(self, time_us: int) -> None:
        """Let time pass."""

    @abstractmethod
    def wait_packet(self, limit_us: int | None) -> bool:
        """Let time pass until something is in `sent`; False if nothing came by then."""

    @abstractmethod
    def wait_call(self, pending: Pending, limit_us: int) -> bool:
        """Let time pass until a call has returned; False if it has not by then."""

    @abstractmethod
    def inject(self, packet: bytes, gso_size: int) -> None:
        """Give it a packet, aggregated of segments with so much payload, or plain (0)."""

    @abstractmethod
    def start(self, name: str, arguments: tuple[Any, ...], blocking: bool) -> Pending:
        """Make a call; if it is not to block, it has returned when this returns."""

    @abstractmethod
    def info(self, fd: int) -> dict[str, int]:
        """TCP_INFO by its fields' names, and SK_MEMINFO_* of a socket."""

    @abstractmethod
    def stamp_ns(self, live_ns: int) -> int:
        """A time stamp of the target's, as ns since the script's start."""

    @abstractmethod
    def shell(self, text: str) -> None:
        """Run a command.

        Raises
        ------
        Failure
            If its exit status is not 0.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def note(self, what: str) -> None:
        """Remember what was passed over."""
        if what not in self.notes:
            self.notes.append(what)


@dataclass
class Result:
    """How a script ended.

    Attributes
    ----------
    script : str
        Its path or name.
    target : 'tcpcore' or 'kernel'
    engine : 'compiled', 'reference' or None
    kind : str
        As `result`, and 'parse' for what is no script, 'internal' for a fault of the runner.
    line : int or None
        Of the event at which it ended; None on a pass.
    error : str or None
    virtual_seconds, wall_seconds : float
        How long it took by the script's clock, and by ours.
    details : list of str
        Both packets in script notation, the last ten packets, and the like.
    log : list of str
        With `verbose`: packets and calls as they came.
    packets : list of (int, bytes)
        Where they are kept: microseconds since the start, and the packet.
    """

    script: str
    target: str
    engine: str | None
    kind: str = "pass"
    line: int | None = None
    error: str | None = None
    virtual_seconds: float = 0.0
    wall_seconds: float = 0.0
    details: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    packets: list[tuple[int, bytes]] = field(default_factory=list)
    column: int | None = None

    @property
    def result(self) -> str:
        """'pass', 'fail', 'unsupported' or 'skipped'."""
        return "fail" if self.kind in ("parse", "internal") else self.kind

    @property
    def passed(self) -> bool:
        """Whether it did."""
        return self.kind == "pass"

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "script": self.script,
            "target": self.target,
            "engine": self.engine,
            "result": self.result,
            "line": self.line,
            "error": self.error,
            "virtual_seconds": self.virtual_seconds,
            "wall_seconds": round(self.wall_seconds, 6),
        }

    def report(self) -> str:
        """What the command prints of it."""
        if self.passed:
            return f"{self.script}: pass"
        place = f"{self.script}:{self.line}" if self.line else self.script
        if self.column:
            place += f":{self.column}"
        words = "" if self.kind in ("fail", "parse") else f"{self.kind}: "
        return "\n".join([f"{place}: {words}{self.error}", *self.details])
