"""Virtual time: the order of events, waiting, programs that take turns."""

from __future__ import annotations

import threading
import time
from types import ModuleType

import pytest

import tcpcore


class Beat:
    """Something that happens every second, so often."""

    def __init__(self, clock: tcpcore.VirtualClock, times: int) -> None:
        self.clock = clock
        self.left = times
        self.seen: list[int] = []

    @property
    def next_deadline(self) -> int | None:
        return (len(self.seen) + 1) * 1_000_000_000 if self.left else None

    def run(self, now_ns: int) -> None:
        self.left -= 1
        self.seen.append(now_ns)


def test_events_come_in_order() -> None:
    clock = tcpcore.VirtualClock()
    seen: list[object] = []
    clock.at(20, lambda: seen.append("b"))
    clock.at(10, lambda: seen.append("a"))
    clock.at(20, lambda: seen.append("c"))
    clock.at(20, lambda: clock.at(5, lambda: seen.append("d")))
    assert clock.next_deadline == 10
    while clock.step():
        seen.append(clock.now_ns())
    assert seen == ["a", 10, "b", "c", "d", 20]
    assert clock.next_deadline is None


def test_parties_are_driven_by_their_deadlines() -> None:
    clock = tcpcore.VirtualClock()
    beat = Beat(clock, 3)
    clock.attach(beat)
    clock.advance(1.5)
    assert beat.seen == [1_000_000_000]
    assert clock.now_ns() == 1_500_000_000
    assert not clock.step(1_600_000_000)
    clock.detach(beat)
    clock.advance(5)
    assert len(beat.seen) == 1


def test_waiting() -> None:
    clock = tcpcore.VirtualClock(5)
    beat = Beat(clock, 3)
    clock.attach(beat)
    assert clock.wait(lambda: len(beat.seen) == 2)
    assert not clock.wait(lambda: False, 2_500_000_000)
    assert clock.now_ns() == 2_500_000_000
    with pytest.raises(tcpcore.DeadlockError):
        clock.wait(lambda: False)
    assert not clock.wait(lambda: False, 9_000_000_000), "with a deadline it is no deadlock"


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="negative"):
        tcpcore.VirtualClock(-1)
    with pytest.raises(ValueError, match="negative"):
        tcpcore.VirtualClock().advance(-1)


def test_virtual_time_ends(engine: ModuleType) -> None:
    """After 2**62 ns, in both engines, with words that say so."""
    with tcpcore.Network(engine=engine.ENGINE) as network:
        host = network.host("a")
        sock = host.socket()
        for seconds in (1e10, 1e300, float("inf")):
            with pytest.raises(OverflowError, match=r"2\*\*62"):
                network.advance(seconds)
            with pytest.raises(OverflowError, match=r"2\*\*62"):
                host.drive(seconds)
        for seconds in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="seconds must not be negative"):
                host.drive(seconds)
            with pytest.raises(ValueError, match="seconds must not be negative"):
                network.settle(seconds)
        with pytest.raises(OverflowError, match=r"2\*\*62"):
            network.clock.at(1 << 63, lambda: None)
        with pytest.raises(OverflowError, match=r"2\*\*62"):
            tcpcore.VirtualClock(1 << 63)
        network.clock.at((1 << 62) - 10**9, lambda: None)
        network.clock.step()
        with pytest.raises(OverflowError, match=r"2\*\*62"):
            network.advance(2)
        assert network.clock.now_ns() == (1 << 62) - 10**9
        sock.close()


def test_turns_are_the_same_every_time() -> None:
    def once() -> list[tuple[str, int]]:
        clock = tcpcore.VirtualClock()
        seen: list[tuple[str, int]] = []

        def program(name: str, step_s: float) -> None:
            for _ in range(5):
                seen.append((name, clock.now_ns()))
                clock.advance(step_s)

        clock.run(*(lambda n=n: program(str(n), 0.1 * (n + 1)) for n in range(4)))
        return seen

    assert all(once() == once() for _ in range(5))


def test_one_runs_at_a_time() -> None:
    clock = tcpcore.VirtualClock()
    inside = 0

    def program() -> None:
        nonlocal inside
        for _ in range(20):
            inside += 1
            assert inside == 1
            time.sleep(0)
            inside -= 1
            clock.advance(0.001)

    clock.run(*[program] * 5)


def test_run_within_run() -> None:
    clock = tcpcore.VirtualClock()
    with pytest.raises(RuntimeError, match="is running"):
        clock.run(lambda: clock.run(lambda: None))
    assert clock.run() == []


def test_no_thread_is_left() -> None:
    clock = tcpcore.VirtualClock()
    before = threading.active_count()
    with pytest.raises(tcpcore.DeadlockError):
        clock.run(lambda: clock.wait(lambda: False), lambda: clock.wait(lambda: False))
    clock.run(lambda: clock.advance(1), lambda: None)
    assert threading.active_count() == before


def test_a_program_may_take_a_deadlock_for_an_end() -> None:
    clock = tcpcore.VirtualClock()

    def patient() -> str:
        try:
            clock.wait(lambda: False)
        except tcpcore.DeadlockError:
            return "nobody comes"
        return ""

    assert clock.run(patient, patient) == ["nobody comes"] * 2


def test_the_system_s_clock() -> None:
    clock = tcpcore.MonotonicClock()
    first = clock.now_ns()
    assert 0 <= first <= clock.now_ns() < 10_000_000_000
