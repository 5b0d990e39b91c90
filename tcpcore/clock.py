"""Time: virtual, where nothing happens but events, or the system's, the only place that reads it.

A virtual clock is driven by whoever waits. Programs that wait at the same time take turns, so
that what they do depends on nothing but the seeds.
"""

from __future__ import annotations

import heapq
import math
import select
import threading
import time

FD_SETSIZE = 1024  # descriptors that select takes
TIME_MAX_NS = 1 << 62  # 146 years: deadlines beyond it still fit 64 bits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Party(Protocol):
        """What lives by a clock: a host, a router."""

        @property
        def next_deadline(self) -> int | None: ...

        def run(self, now_ns: int) -> None: ...


def span_ns(seconds: float) -> int:
    """A time that is to pass, in ns.

    Raises
    ------
    ValueError
        If it is negative, or no number.
    OverflowError
        If a clock cannot count so far.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds must not be negative, {seconds} is")
    if seconds * 1e9 >= TIME_MAX_NS:
        raise OverflowError(f"{seconds} seconds are more than a clock counts (2**62 ns)")
    return round(seconds * 1e9)


class DeadlockError(RuntimeError):
    """A call waits in virtual time, and nothing is left that could ever end its wait."""


class MonotonicClock:
    """The system's monotonic clock, from 0 when it is made."""

    def __init__(self) -> None:
        self._start_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since the clock was made."""
        return time.monotonic_ns() - self._start_ns


class VirtualClock:
    """A clock that stands still until somebody waits, then jumps to the next event.

    Parameters
    ----------
    start_ns
        What it shows at first, in ns; it counts to 2**62, 146 years, and then raises
        OverflowError.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever changes anything that lives by this clock.
    """

    def __init__(self, start_ns: int = 0) -> None:
        if start_ns < 0:
            raise ValueError("start_ns must not be negative")
        self._check(start_ns)
        self.lock = threading.RLock()
        self._now_ns = start_ns
        self._parties: list[Party] = []
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._order = 0
        self._turns: _Turns | None = None

    def now_ns(self) -> int:
        """Nanoseconds of virtual time."""
        return self._now_ns

    def _check(self, when_ns: int) -> int:
        if when_ns >= TIME_MAX_NS:
            raise OverflowError("a virtual clock counts to 2**62 ns, 146 years")
        return when_ns

    def attach(self, party: Party) -> None:
        """Drive a host or router; those that are due at one time run in this order."""
        with self.lock:
            self._parties.append(party)

    def detach(self, party: Party) -> None:
        """Drive it no more."""
        with self.lock:
            self._parties = [one for one in self._parties if one is not party]

    def at(self, when_ns: int, call: Callable[[], object]) -> None:
        """Call a function at a time; at once, within the next step, if that is over."""
        if not callable(call):
            raise TypeError(f"a function is required, not {type(call).__name__}")
        with self.lock:
            self._order += 1
            heapq.heappush(
                self._events, (max(self._check(when_ns), self._now_ns), self._order, call)
            )

    @property
    def next_deadline(self) -> int | None:
        """When something happens next, in ns; None if nothing will."""
        with self.lock:
            times = [self._events[0][0]] if self._events else []
            for party in self._parties:
                when = party.next_deadline
                if when is not None:
                    times.append(when)
            return max(min(times), self._now_ns) if times else None

    def step(self, until_ns: int | None = None) -> bool:
        """Go to the next event and let it happen.

        Parameters
        ----------
        until_ns
            Not beyond this time.

        Returns
        -------
        bool
            False if there is no event (until then).
        """
        with self.lock:
            due = []
            when = self._events[0][0] if self._events else None
            for party in self._parties:
                deadline = party.next_deadline
                if deadline is not None:
                    due.append((deadline, party))
                    when = deadline if when is None else min(when, deadline)
            if when is None:
                return False
            when = max(when, self._now_ns)
            if until_ns is not None and when > until_ns:
                return False
            self._now_ns = self._check(when)
            while self._events and self._events[0][0] <= when:
                heapq.heappop(self._events)[2]()
            for deadline, party in due:
                if deadline <= when:
                    party.run(when)
            return True

    def advance(self, seconds: float) -> None:
        """Let all happen that happens within so many seconds."""
        until_ns = self._check(self._now_ns + span_ns(seconds))
        if self._mine() is not None:
            self.wait(lambda: False, until_ns)
            return
        with self.lock:
            while self.step(until_ns):
                pass
            self._now_ns = max(self._now_ns, until_ns)

    def wait(self, ready: Callable[[], bool], deadline_ns: int | None = None) -> bool:
        """Let time pass until `ready()` is true.

        Parameters
        ----------
        ready
            Asked after every event. It must not wait itself.
        deadline_ns
            Give up then.

        Returns
        -------
        bool
            What `ready()` says at the end.

        Raises
        ------
        DeadlockError
            When no event is left and there is no deadline.
        """
        turn = self._mine()
        if turn is not None:
            return turn.wait(ready, deadline_ns)
        with self.lock:
            while not ready():
                if deadline_ns is not None and self._now_ns >= deadline_ns:
                    return False
                if self.step(deadline_ns):
                    continue
                if deadline_ns is None:
                    raise DeadlockError("nothing is left to happen that this call could wait for")
                self._now_ns = self._check(deadline_ns)
            return True

    def run(self, *programs: Callable[[], Any]) -> list[Any]:
        """Run programs at the same (virtual) time, each written as if it were alone.

        They run one at a time, in the order given; one that waits lets the next one on, and when
        all wait, time goes to the next event. So the same seeds give the same run.

        Returns
        -------
        list
            What each of them returned.

        Raises
        ------
        DeadlockError
            When all that are left wait for what will never happen.
        BaseException
            The first one that a program raises; the others are ended.
        """
        if self._turns is not None:
            raise RuntimeError("run() is running")
        self._turns = _Turns(self, programs)
        try:
            return self._turns.run()
        finally:
            self._turns = None

    def _mine(self) -> _Turn | None:
        return self._turns.mine() if self._turns is not None else None


class _Ended(BaseException):
    """Ends a program whose fellow has failed."""


class _Turn:
    """One program: a thread that runs only while it has its turn."""

    def __init__(self, turns: _Turns, program: Callable[[], Any]) -> None:
        self.turns = turns
        self.program = program
        self.go = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.ready: Callable[[], bool] | None = None
        self.deadline_ns: int | None = None
        self.answer = False
        self.throw: BaseException | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False

    def main(self) -> None:
        self.go.acquire()
        try:
            if self.throw is None:
                self.result = self.program()
        except _Ended:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self.turns.back.release()

    def wait(self, ready: Callable[[], bool], deadline_ns: int | None) -> bool:
        if ready():
            return True
        self.ready, self.deadline_ns = ready, deadline_ns
        self.turns.back.release()
        self.go.acquire()
        self.ready = None
        if self.throw is not None:
            error, self.throw = self.throw, None
            raise error
        return self.answer

    def resume(self) -> None:
        """Let it run until it waits again or ends."""
        self.go.release()
        self.turns.back.acquire()


class _Turns:
    """Programs that take turns."""

    def __init__(self, clock: VirtualClock, programs: tuple[Callable[[], Any], ...]) -> None:
        self.clock = clock
        self.back = threading.Semaphore(0)
        self.all = [_Turn(self, program) for program in programs]

    def mine(self) -> _Turn | None:
        me = threading.current_thread()
        return next((turn for turn in self.all if turn.thread is me), None)

    def run(self) -> list[Any]:
        for turn in self.all:
            turn.thread.start()
        try:
            for turn in self.all:
                self.resume(turn)
            while waiting := [turn for turn in self.all if not turn.done]:
                self.round(waiting)
        finally:
            for turn in self.all:
                while not turn.done:
                    turn.throw = _Ended()
                    turn.resume()
                turn.thread.join()
        return [turn.result for turn in self.all]

    def round(self, waiting: list[_Turn]) -> None:
        """Go on with those that can; if none can, let time pass."""
        went = False
        for turn in waiting:
            assert turn.ready is not None
            turn.answer = turn.ready()
            late = turn.deadline_ns is not None and self.clock.now_ns() >= turn.deadline_ns
            if turn.answer or late:
                went = True
                self.resume(turn)
        if went:
            return
        deadlines = [turn.deadline_ns for turn in waiting if turn.deadline_ns is not None]
        until_ns = min(deadlines) if deadlines else None
        if self.clock.step(until_ns):
            return
        if until_ns is None:
            first = waiting[0]
            first.throw = DeadlockError("every program waits, and nothing is left to happen")
            self.resume(first)
        else:
            self.clock._now_ns = max(self.clock._now_ns, self.clock._check(until_ns))

    def resume(self, turn: _Turn) -> None:
        turn.resume()
        if turn.error is not None:
            raise turn.error


def readable(fds: list[int], seconds: float | None) -> list[int]:
    """Those descriptors that can be read from, waiting for at most so long."""
    if max(fds) < FD_SETSIZE:  # finer than poll, which counts milliseconds
        return select.select(fds, [], [], seconds)[0]
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(None if seconds is None else math.ceil(1000 * seconds))]
