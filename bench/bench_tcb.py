"""The judge: `tcb_xmit` for the end that sent and `tcb_rcv` for the end it reaches.

64 connections in turn, so that no step waits for the one before. `net_ns` is the judge alone: the
same frames with wrong checksums in strict mode, which end at the look-up, are taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from bench.captures import START_US, Conversations
from bench.conftest import feed

CONNS = 64


def in_order(steps: np.ndarray) -> np.ndarray:
    return steps


def out_of_order(steps: np.ndarray) -> np.ndarray:
    """Data, ACK, data, ACK: the second pair comes before the first."""
    return steps.reshape(-1, 2, 2)[:, ::-1].reshape(-1)


CASES = {
    "data and ACK in turn": (160, 3, in_order),
    "every second piece of data early": (160, 3, out_of_order),
    "handshake, one exchange, close": (9, 0, in_order),
}


@pytest.mark.parametrize("case", CASES)
def bench_tcb(
    case: str,
    engine: ModuleType,
    quick: bool,
    followed: Callable[..., object],
    gauge: Callable[..., None],
) -> None:
    length, first, arranged = CASES[case]
    conns = CONNS if first else (100 if quick else 1_000)
    talk = Conversations(conns, length)
    last = first + (length - 7) // 4 * 4 if first else length

    def frames(steps: np.ndarray, damaged: bool) -> np.ndarray:
        conn, step = np.tile(np.arange(conns), len(steps)), np.repeat(steps, conns)
        return talk.records(conn, step, START_US + np.arange(len(step)), damaged=damaged)

    def work(damaged: bool) -> tuple[Callable[..., object], Callable[[], object], int]:
        warm = frames(np.arange(first), damaged) if first else None
        timed = frames(arranged(np.arange(first, last)), damaged)
        return (
            lambda ct: feed(ct, timed, engine.CHUNK),
            lambda: followed(warm, strict=damaged),
            len(timed),
        )

    judged, fresh, n = work(False)
    gauge("tcb step", case, n, judged, fresh, base=work(True)[:2])
