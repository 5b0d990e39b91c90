"""Tables made of seeded random numbers, extremes in the first rows."""

from __future__ import annotations

import numpy as np

from tcpcore.columns import (
    CAUSE_NAMES,
    CONN_STATE_NAMES,
    CONNECTIONS,
    DROP_NAMES,
    REASON_NAMES,
    STATE_NAMES,
    Column,
)
from tcpcore.table import Table

NAMES = {
    "state": STATE_NAMES,
    "reason": DROP_NAMES,
    "kind": REASON_NAMES,
    "conn_state": CONN_STATE_NAMES,
    "cause": CAUSE_NAMES,
}
ADDRESSES = (
    bytes(16),
    bytes(15) + b"\1",
    bytes(12) + b"\1\2\3\4",
    bytes(10) + b"\xff\xff\1\2\3\4",
    b"\xff" * 16,
    bytes.fromhex("20010db8000000000001000000000001"),
)


def buffers(schema: tuple[Column, ...], rows: int, seed: int = 1) -> dict[str, bytes]:
    """Make the buffers of a table; half of what may be absent is."""
    rng = np.random.default_rng(seed)
    ip = rng.choice(np.array([4, 6], "uint8"), rows)
    made = {}
    for column in schema:
        if column.name == "ip":
            values = ip
        elif column.dtype == "uint8[16]":
            values = rng.integers(0, 256, (rows, 16), "uint8")
            values[:, :8][rng.integers(0, 2, (rows, 8)) == 1] = 0
            for i, address in enumerate(ADDRESSES[:rows]):
                values[i] = np.frombuffer(address, "uint8")
            values[ip == 4, :12] = np.frombuffer(bytes(10) + b"\xff\xff", "uint8")
        elif column.dtype == "bool":
            values = rng.integers(0, 2, rows, "uint8")
        elif column.unit in NAMES:
            values = rng.integers(0, len(NAMES[column.unit]), rows, "uint8")
        elif column.unit == "text":
            texts = [b"Sh"[: i % 3] * (i % 25) for i in range(rows)]
            values = np.array(texts, column.dtype)
        else:
            limits = np.iinfo(column.dtype)
            values = rng.integers(0, limits.max, rows, column.dtype, endpoint=True)
            values >>= rng.integers(0, limits.bits, rows).astype(column.dtype)
            values[:2] = [0, limits.max][:rows]
            if column.absent:
                values[rng.integers(0, 2, rows) == 0] = -1
            elif limits.min < 0:
                values[2:4] = [limits.min, -1][: max(rows - 2, 0)]
        made[column.name] = values.tobytes()
    return made


def table(schema: tuple[Column, ...] = CONNECTIONS, rows: int = 100, seed: int = 1) -> Table:
    """Make a table whose source holds `buffers`."""
    made = buffers(schema, rows, seed)
    return Table(schema, lambda names: (rows, {name: made[name] for name in names}))
