"""A capture in, tables out: both ends of every connection followed, packet by packet.

The loop here fetches bytes and hands them to the engine; it never looks at one.
"""

from __future__ import annotations

import os
import time

from tcpcore import engine as engines
from tcpcore import pcap, report
from tcpcore.columns import (
    CONNECTIONS,
    DROP_NAMES,
    LINKTYPES,
    PACKETS,
    SCHEMA_VERSION,
    STATE_NAMES,
    address_text,
)
from tcpcore.mib import COUNTERS
from tcpcore.pcap import PcapError
from tcpcore.table import Table, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from tcpcore.pcap import Input, Source

    Progress = Callable[[int, int | None, int], object]

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1
TICK = 0.05  # seconds between two calls of `progress`
TOP = 10  # busiest connections named in a summary


def replay(
    source: Source,
    *,
    packets: bool = False,
    analysis: bool = True,
    checksum: str = "ignore",
    max_connections: int | None = None,
    expire_idle_s: float | None = None,
    expire_closed_s: float | None = None,
    engine: str | None = None,
    strict: bool = False,
    count: int | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Follow both ends of every TCP connection of a capture.

    Parameters
    ----------
    source
        A path, '-' for standard input, a binary file object, or a list of them, which then are
        one input in the order of their first packets. pcap and pcapng; gzip is undone, and with
        the extras zstd and lz4.
    packets
        Keep a row for every frame too (`Replay.packets`).
    analysis
        Classify segments as Wireshark does, time round trips, keep Zeek's history. Without it
        these columns are 0, absent or empty.
    checksum
        'ignore': state takes segments with bad checksums. 'strict': it does not. They are
        counted either way.
    max_connections
        At most so many connections are followed at a time. The oldest half-open one is given up
        first, then the one idle longest; their rows stay.
    expire_idle_s, expire_closed_s
        Seconds of capture time after which an idle (a closed) connection is no longer followed.
    engine
        'compiled', 'reference', or None for `tcpcore.ENGINE`.
    strict
        Raise the first `PcapError`, with what could be read as its attribute `replay`.
    count
        Stop after so many frames.
    from_ns, to_ns
        Take only frames with ``from_ns <= time < to_ns`` (ns since 1970). The others keep their
        numbers, and that is all they do.
    progress
        Called about twenty times a second with bytes read, bytes in all (None when not known)
        and frames taken.

    Returns
    -------
    Replay
        Damage ends an input, but is not raised: see `Replay.error`.

    Raises
    ------
    OSError
        When `source` is one path and it cannot be opened. In a list it is an error of that input
        (`Replay.errors`), and the others are read.
    ValueError, TypeError
        For arguments that make no sense.
    """
    run = Run(
        source,
        packets=packets,
        analysis=analysis,
        rows="keep",
        checksum=checksum,
        max_connections=max_connections,
        expire_idle_s=expire_idle_s,
        expire_closed_s=expire_closed_s,
        engine=engine,
        count=count,
        from_ns=from_ns,
        to_ns=to_ns,
        progress=progress,
    )
    for _ in run.chunks():
        pass
    result = run.replay()
    if strict and result.error is not None:
        result.error.replay = result
        raise result.error
    return result


def replay_batches(
    source: Source,
    *,
    batch_packets: int = 1_000_000,
    packets: bool = False,
    analysis: bool = True,
    checksum: str = "ignore",
    max_connections: int | None = None,
    expire_idle_s: float | None = None,
    expire_closed_s: float | None = None,
    engine: str | None = None,
    strict: bool = False,
    count: int | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Replay]:
    """Do what `replay` does, a batch at a time, and forget what was handed out.

    A connection ends when its 4-tuple is taken by a new one, when it expires or when it is given
    up for `max_connections`; so memory is bounded where one of these options bounds it.

    Parameters
    ----------
    batch_packets
        Frames after which a batch is handed out; it ends with the read in which it got so many.
    packets, analysis, checksum, max_connections, expire_idle_s, expire_closed_s, engine, strict, \
count, from_ns, to_ns, progress
        See `replay`.

    Yields
    ------
    Replay
        Its tables hold what this batch added: `packets` its frames, `connections` those that
        ended, in order of closing; the last batch has those still followed too, in order of
        `conn`. `summary` is of everything so far. All batches' rows together are the same
        whatever the size of a batch or a read.
    """
    if _whole("batch_packets", batch_packets, 1) is None:
        raise TypeError("batch_packets must be an integer")
    run = Run(
        source,
        packets=packets,
        analysis=analysis,
        rows="drain",
        checksum=checksum,
        max_connections=max_connections,
        expire_idle_s=expire_idle_s,
        expire_closed_s=expire_closed_s,
        engine=engine,
        count=count,
        from_ns=from_ns,
        to_ns=to_ns,
        progress=progress,
    )
    return _batches(run, batch_packets, strict)


def _batches(run: Run, batch_packets: int, strict: bool) -> Iterator[Replay]:
    done = 0
    for _ in run.chunks():
        if run.frames() - done >= batch_packets:
            done = run.frames()
            yield run.batch()
    last = run.batch(final=True)
    yield last
    if strict and last.error is not None:
        last.error.replay = last
        raise last.error


class Replay:
    """What a replay learned.

    Attributes
    ----------
    connections : Table
        A row for each connection, in order of `conn`.
    summary : dict
        The object that ``tcpcore replay --json`` prints.
    counters : dict
        Counters by their Linux names.
    error : PcapError or None
        The first input that could not be read, or not to its end.
    errors : list of PcapError
        All of them.
    """

    def __init__(
        self,
        connections: Table,
        packets: Table | None,
        summary: dict[str, Any],
        errors: list[PcapError],
        details: dict[str, Any],
    ) -> None:
        self.connections = connections
        self._packets = packets
        self.summary = summary
        self.errors = errors
        self._details = details  # what the text report tells beyond the summary

    @property
    def packets(self) -> Table:
        """A row for each frame. Raises ValueError unless asked for with ``packets=True``."""
        if self._packets is None:
            raise ValueError("no packet rows were kept: use replay(..., packets=True)")
        return self._packets

    @property
    def counters(self) -> dict[str, int]:
        """Counters by their Linux names."""
        return dict(self.summary["counters"])

    @property
    def error(self) -> PcapError | None:
        """The first input that could not be read, or not to its end."""
        return self.errors[0] if self.errors else None

    def __repr__(self) -> str:
        return report.short(self.summary, self._details)

    def _repr_html_(self) -> str:
        return report.html(self.summary, self._details)


class Run:
    """One pass over the inputs: what `replay`, `replay_batches` and the command share.

    Attributes
    ----------
    stop : bool
        Set it, from a signal handler say, and `chunks` ends after the chunk it is at.
    blocked : bool
        True while bytes are waited for: then an exception tears nothing of the engine's state.
    status : int
        0; 1 if an input is damaged; 2 if one cannot be opened or is no capture.
    """

    def __init__(
        self,
        source: Source,
        *,
        packets: bool,
        analysis: bool = True,
        rows: str,
        checksum: str,
        max_connections: int | None,
        expire_idle_s: float | None,
        expire_closed_s: float | None,
        engine: str | None,
        count: int | None,
        from_ns: int | None,
        to_ns: int | None,
        progress: Progress | None,
        collect: bool = False,
    ) -> None:
        if checksum not in ("ignore", "strict"):
            raise ValueError(f"checksum must be 'ignore' or 'strict', not {checksum!r}")
        if progress is not None and not callable(progress):
            raise TypeError("progress must be callable")
        start = _whole("from_ns", from_ns, INT64_MIN)
        end = _whole("to_ns", to_ns, INT64_MIN)
        if start is not None and end is not None and start > end:
            raise ValueError("from_ns is after to_ns")
        options = {
            "packets": bool(packets),
            "analysis": bool(analysis),
            "strict": checksum == "strict",
            "rows": rows,
            "max_connections": _whole("max_connections", max_connections, 1) or 0,
            "expire_idle_ns": _nanoseconds("expire_idle_s", expire_idle_s),
            "expire_closed_ns": _nanoseconds("expire_closed_s", expire_closed_s),
            "from_ns": INT64_MIN if start is None else start,
            "to_ns": INT64_MAX if end is None else end,
            "count": _whole("count", count, 1) or 0,
        }
        self.inputs = pcap.inputs(source)
        # One path that is missing is the caller's mistake; the command collects them all.
        self._collect = collect or isinstance(source, (list, tuple)) or len(self.inputs) > 1
        self.module = engines.load(engine)
        self.conntrack = self.module.Conntrack(key=os.urandom(16), **options)
        self.errors: list[PcapError] = []
        self.status = 0
        self.stop = False
        self.blocked = False
        self.cpu_seconds = 0.0
        self._rows = rows
        self._packets = bool(packets)
        self._progress = progress
        self._next_tick = 0.0
        self._files: list[dict[str, Any]] = []
        self._current: Input | None = None
        self._buffer = bytearray(self.module.CHUNK + 65536)

    def chunks(self) -> Iterator[None]:
        """Read and process, giving control back after each chunk."""
        try:
            started = time.thread_time()
            if len(self.inputs) > 1:
                self.blocked = True
                try:
                    self.inputs = pcap.arrange(self.inputs, self.module.pcap_peek)
                finally:
                    self.blocked = False
                    self.cpu_seconds += time.thread_time() - started
            for number, one in enumerate(self.inputs):
                if self.stop or (self.conntrack.done and self.conntrack.error is None):
                    break
                yield from self._read(number, one)
        finally:
            for one in self.inputs[len(self._files) :]:  # not needed, but it should be there
                self._note(one, None, one.missing)
            for one in self.inputs:
                one.close()

    def _read(self, number: int, one: Input) -> Iterator[None]:
        conntrack = self.conntrack
        conntrack.begin(number)
        self._current = one
        error: PcapError | OSError | None = None
        try:
            self.blocked = True
            try:
                one.open()
            except OSError as problem:
                if not self._collect:
                    raise
                error = problem
                return
            finally:
                self.blocked = False
            conntrack.size = one.size or 0
            yield from self._feed(one)
            if conntrack.error is not None:
                error = PcapError(one.name, *conntrack.error)
        except PcapError as problem:
            error = problem
        finally:
            one.close()
            self._note(one, conntrack.capture(), error)
            self._current = None

    def _note(
        self, one: Input, capture: dict[str, Any] | None, error: PcapError | OSError | None
    ) -> None:
        """Nothing more is read of this input."""
        if isinstance(error, OSError):
            problem, error = error, PcapError(one.name, 0, error.strerror or str(error))
            error.__cause__ = problem
        if error is not None:
            self.errors.append(error)
            self.status = max(self.status, 1 if capture and capture["format"] else 2)
        self._files.append(self._entry(one, capture, error))

    def _feed(self, one: Input) -> Iterator[None]:
        """Feed the engine; what it leaves, a record's first part, moves to the front."""
        conntrack = self.conntrack
        chunk: int = self.module.CHUNK
        length = 0
        while not conntrack.done and not self.stop:
            started = time.thread_time()
            try:
                view = self._room(max(conntrack.want, length) + chunk, length)
                self.blocked = True
                try:
                    count = one.readinto(view[length : length + chunk])
                finally:
                    self.blocked = False
                length += count
                if length >= conntrack.want or not count:
                    used = conntrack.feed(self._buffer, length) if length else 0
                    length -= used
                    if used and length:
                        view[:length] = view[used : used + length]
                    if not count and not conntrack.done:
                        conntrack.end(length)
                        return
            finally:
                self.cpu_seconds += time.thread_time() - started
            if self._progress is not None:
                self._tick(self._progress)
            yield

    def _room(self, size: int, held: int) -> memoryview:
        """The buffer, made larger if a record needs it (`RECORD_MAX` and a chunk at most)."""
        if size > len(self._buffer):
            larger = bytearray(max(size, min(2 * len(self._buffer), pcap.RECORD_MAX)))
            larger[:held] = memoryview(self._buffer)[:held]
            self._buffer = larger
        return memoryview(self._buffer)

    def _tick(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            sizes = [one.size for one in self.inputs]
            known = [size for size in sizes if size is not None]
            total = sum(known) if len(known) == len(sizes) else None
            progress(sum(one.taken for one in self.inputs), total, self.frames())

    def frames(self) -> int:
        """Frames taken so far."""
        done = sum(entry["packets"] for entry in self._files)
        if self._current is not None:
            done += self.conntrack.capture()["packets"]
        return int(done)

    def take(self, final: bool = False) -> dict[str, Table]:
        """Rows that came since the last call, which the engine then forgets.

        With rows='keep' the connections come with the final call alone, all of them.
        """
        conntrack = self.conntrack
        taken: dict[str, Table] = {}
        if self._rows == "drain" or (self._rows == "keep" and final):
            rows = conntrack.connections([column.name for column in CONNECTIONS], final)
            taken["connections"] = Table(CONNECTIONS, lambda names: rows)
        if self._packets:
            frames = conntrack.packets([column.name for column in PACKETS])
            taken["packets"] = Table(PACKETS, lambda names: frames)
        conntrack.drain()
        return taken

    def batch(self, final: bool = False) -> Replay:
        """What came since the last batch, and the summary of everything."""
        taken = self.take(final)
        return self._replay(taken["connections"], taken.get("packets"))

    def replay(self) -> Replay:
        """Everything, as tables that ask the engine for a column when it is read."""
        from threading import Lock

        conntrack = self.conntrack
        lock = Lock()  # the engine serves one thread at a time, the tables any number
        connections = Table(CONNECTIONS, locked(lock, conntrack.connections, True))
        packets = Table(PACKETS, locked(lock, conntrack.packets)) if self._packets else None
        return self._replay(connections, packets)

    def _replay(self, connections: Table, packets: Table | None) -> Replay:
        summary, details = self.summary()
        return Replay(connections, packets, summary, list(self.errors), details)

    def summary(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The object of ``--json``, and what the text report tells beyond it."""
        found = self.conntrack.summary(TOP)
        details = {
            "compression": [one.compression for one in self.inputs],
            "bad_tcp_checksums": tuple(found["bad_tcp_checksums"]),
            "expired": found["expired"],
            "live": found["live"],
            "time_clamped": found["time_clamped"],
            "interrupted": self.stop,
        }
        return self._summary(found), details

    def _summary(self, found: dict[str, Any]) -> dict[str, Any]:
        files = list(self._files)
        if self._current is not None:
            files.append(self._entry(self._current, self.conntrack.capture(), None))
        seconds = self.cpu_seconds
        states = sorted(found["states"].items(), key=lambda item: (-item[1], item[0]))
        return {
            "schema_version": SCHEMA_VERSION,
            "files": files,
            "packets": found["packets"],
            "bytes": found["bytes"],
            "tcp_segments": found["tcp_segments"],
            "connections": found["connections"],
            "first_ns": found["first_ns"],
            "last_ns": found["last_ns"],
            "cpu_seconds": seconds,
            "packets_per_second": found["packets"] / seconds if seconds else 0.0,
            "bits_per_second": 8 * found["bytes"] / seconds if seconds else 0.0,
            "states": {f"{STATE_NAMES[a]}/{STATE_NAMES[b]}": n for (a, b), n in states},
            "top": [_top(one) for one in found["top"]],
            "drop_reasons": {DROP_NAMES[d]: n for d, n in sorted(found["drops"].items())},
            "bad_ip_checksums": found["bad_ip_checksums"],
            "bad_tcp_checksums": sum(found["bad_tcp_checksums"]),
            "evicted": found["evicted"],
            "counters": dict(zip(COUNTERS, found["counters"], strict=True)),
            "engine": self.module.ENGINE,
            "isa": self.module.isa(),
        }

    def _entry(
        self, one: Input, capture: dict[str, Any] | None, error: PcapError | None
    ) -> dict[str, Any]:
        """One file of the summary; `capture` is None for one that was never begun."""
        if capture is None:
            capture = {"format": one.format, "link_types": [], "packets": 0, "bytes": 0}
        text = None
        if error is not None:
            text = f"byte {error.offset}: {error.reason}" if capture["format"] else error.reason
        return {
            "path": one.name,
            "format": capture["format"],
            "link_types": [LINKTYPES.get(n, f"LINKTYPE_{n}") for n in capture["link_types"]],
            "packets": capture["packets"],
            "bytes": capture["bytes"],
            "first_ns": capture.get("first_ns"),
            "last_ns": capture.get("last_ns"),
            "error": text,
        }


def _top(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "conn": one["conn"],
        "a": address_text(one["a_addr"], one["ip"]),
        "a_port": one["a_port"],
        "b": address_text(one["b_addr"], one["ip"]),
        "b_port": one["b_port"],
        "packets": one["packets"],
        "frame_bytes": one["frame_bytes"],
        "payload_bytes": one["payload_bytes"],
        "state_a": STATE_NAMES[one["state_a"]],
        "state_b": STATE_NAMES[one["state_b"]],
        "first_ns": one["first_ns"],
        "last_ns": one["last_ns"],
        "duration_ns": one["last_ns"] - one["first_ns"],
    }


def _whole(name: str, value: int | None, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer or None, not {type(value).__name__}")
    value = value.__index__()
    if not least <= value <= INT64_MAX:
        raise ValueError(f"{name} must be {least} or more, and fit 64 bits: {value}")
    return value


def _nanoseconds(name: str, seconds: float | None) -> int:
    if seconds is None:
        return 0
    if isinstance(seconds, (bool, str, bytes)):
        raise TypeError(f"{name} must be a number or None, not {type(seconds).__name__}")
    try:
        value = round(seconds * 1_000_000_000)
    except (ValueError, OverflowError):  # not a number, infinity
        value = 0
    if not 0 < value <= INT64_MAX:
        raise ValueError(f"{name} must be above 0, and fit 64 bits of nanoseconds: {seconds}")
    return value
