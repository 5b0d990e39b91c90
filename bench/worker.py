"""One measured job in a process of its own: its arguments and its result are JSON.

CPU time of the process, taken inside it, so that starting Python is not in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import tcpcore
from bench import endpoint
from tcpcore import engine, packetdrill
from tcpcore.columns import CONFLICTS
from tcpcore.table import Table


def peak() -> int:
    """Bytes this process has had in memory at most; it may never have been told its parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def read(table: Table) -> None:
    """Every column of a table that is made of its rows: `CONFLICTS` are of a second replay."""
    for name in table.names:
        if name not in CONFLICTS:
            table[name]


def replay(path: str, tables: bool, runs: int = 2, **options: object) -> dict[str, float]:
    """Replay a file, in the last of several runs with the clock on; `tables`: read every column.

    With streams, until all their bytes were handed out.
    """
    before = peak()
    grown = 0
    for _ in range(runs):
        started = time.process_time()
        done = tcpcore.replay(path, **options)
        summary = done.summary
        if tables:
            read(done.connections)
        if options.get("packets"):
            read(done.packets)
        handed = 0
        if options.get("streams"):
            handed = sum(len(one.data) for one in done.streams())
        seconds = time.process_time() - started
        grown = grown or peak() - before
        del done
    return {
        "seconds": seconds,
        "packets": summary["packets"],
        "connections": summary["connections"],
        "handed": handed,
        "grown": grown,
    }


def live(path: str, analysis: bool) -> dict[str, float]:
    """Live state at the end of a capture: as the engine counts it, and as the process grew by."""
    module = engine.load()
    buffer = bytearray(module.CHUNK)
    conntrack = module.Conntrack(analysis=analysis)
    conntrack.begin(0)
    before, used = peak(), 0
    with open(path, "rb", buffering=0) as file:
        view, held = memoryview(buffer), 0
        while length := held + file.readinto(view[held:]):
            used = conntrack.feed(buffer, length)
            held = length - used
            view[:held] = view[used:length]
            if not used:
                break
    return {"live": conntrack.live, "memory": conntrack.memory, "grown": peak() - before}


def reading(path: str, runs: int = 2) -> dict[str, float]:
    """The least that any replay takes: every byte out of the page cache, into a small buffer."""
    buffer = bytearray(engine.load().CHUNK)
    for _ in range(runs):
        started = time.process_time()
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        seconds = time.process_time() - started
    return {"seconds": seconds}


def handing(path: str, runs: int = 2) -> dict[str, float]:
    """All bytes of all streams, handed out while the capture is read."""
    for _ in range(runs):
        started = time.process_time()
        run = tcpcore.replay_streams(path, checksum="ignore")
        handed = sum(len(data) for _, _, _, data in run)
        seconds = time.process_time() - started
        packets = run.replay.summary["packets"]
        del run
    return {"seconds": seconds, "packets": packets, "handed": handed}


def bounded(path: str, most: int, runs: int = 2) -> dict[str, float]:
    """What `tcpcore replay --max-connections` does: until `most` are followed, and from then on."""
    module = engine.load()
    buffer = bytearray(module.CHUNK)
    before, grown_filling, grown = peak(), 0, 0
    for _ in range(runs):
        conntrack = module.Conntrack(rows="drop", max_connections=most, analysis=False)
        conntrack.begin(0)
        filling, full, filled_at, filled_peak = 0, 0, 0, before
        with open(path, "rb", buffering=0) as file:
            view, held = memoryview(buffer), 0
            while True:
                started = time.process_time_ns()
                length = held + file.readinto(view[held:])
                used = conntrack.feed(buffer, length)
                held = length - used
                view[:held] = view[used:length]
                spent = time.process_time_ns() - started
                if not used:
                    break
                if conntrack.live < most:
                    filling += spent
                    filled_at = conntrack.capture()["packets"]
                    filled_peak = peak()
                else:
                    full += spent
        grown_filling = grown_filling or filled_peak - before  # memory is of the first run,
        grown = grown or peak() - before  # time of the last
        packets = conntrack.capture()["packets"]
        live = conntrack.live
        del conntrack
    return {
        "seconds": (filling + full) / 1e9,
        "packets": packets,
        "live": live,
        "filling_ns": filling / max(filled_at, 1),
        "full_ns": full / max(packets - filled_at, 1),
        "grown_filling": grown_filling,
        "grown": grown,
    }


def scripts(paths: list[str], target: str, runs: int = 1) -> dict[str, object]:
    """packetdrill scripts one after the other: CPU time, and of each that passed the wall time."""
    for _ in range(runs):
        started = time.process_time()
        results = [packetdrill.run(path, target=target) for path in paths]
    return {
        "seconds": time.process_time() - started,
        "walls": {one.script: one.wall_seconds for one in results if one.passed},
        "reason": next((str(one.error) for one in results if not one.passed), ""),
    }


JOBS: dict[str, Callable[..., dict[str, object]]] = {
    "replay": replay,
    "live": live,
    "reading": reading,
    "handing": handing,
    "bounded": bounded,
    "scripts": scripts,
    **endpoint.JOBS,
}

if __name__ == "__main__":
    job, arguments = json.loads(sys.argv[1])
    json.dump(JOBS[job](**arguments), sys.stdout)
