"""Timers: deadlines in nanoseconds, handed back in exact order, equal ones in arming order.

Linux: kernel/time/timer.c.  Callers round to ticks where Linux counts jiffies.
"""

from __future__ import annotations

import heapq
from typing import Any

TICK_NS = 4_000_000  # HZ=250
NSEC_PER_SEC = 1_000_000_000
NSEC_PER_MSEC = 1_000_000


class Timer:
    """One deadline of one owner; `kind` says to the owner which."""

    __slots__ = ("owner", "kind", "expires_ns", "order")

    def __init__(self, owner: Any, kind: int) -> None:
        self.owner = owner
        self.kind = kind
        self.expires_ns = 0
        self.order = 0  # 0 while not armed; then its entry in the heap is the one with this number


class Timers:
    """All armed timers of an engine."""

    __slots__ = ("heap", "armed")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Timer]] = []
        self.armed = 0  # how often one was armed


def jiffies_up(now_ns: int, delay_ns: int) -> int:
    """The first tick at which `delay_ns` has passed: where Linux counts in jiffies."""
    return -(-(now_ns + delay_ns) // TICK_NS) * TICK_NS


def timer_mod(timers: Timers, timer: Timer, expires_ns: int) -> None:
    """Arm a timer, or move it."""
    timers.armed += 1
    timer.expires_ns = expires_ns
    timer.order = timers.armed
    heapq.heappush(timers.heap, (expires_ns, timers.armed, timer))


def timer_del(timer: Timer) -> None:
    """Disarm a timer."""
    timer.order = 0


def timer_next(timers: Timers) -> int:
    """When the next timer is due; -1 if none is armed."""
    heap = timers.heap
    while heap and heap[0][2].order != heap[0][1]:
        heapq.heappop(heap)
    return heap[0][0] if heap else -1


def timer_advance(timers: Timers, now_ns: int) -> Timer | None:
    """Disarm and hand back the first timer that is due by now, if any."""
    due = timer_next(timers)
    if due < 0 or due > now_ns:
        return None
    timer = heapq.heappop(timers.heap)[2]
    timer.order = 0
    return timer
