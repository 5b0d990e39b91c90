"""A capture in, tables out: both ends of every connection followed, packet by packet.

The loop here fetches bytes and hands them to the engine; it never looks at one.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from functools import partial

from tcpcore import engine as engines
from tcpcore import pcap, summary
from tcpcore.arguments import INT64_MAX, INT64_MIN, key_bits, nanoseconds, whole
from tcpcore.columns import CONFLICTS, schemas
from tcpcore.conflicts import Conflicts
from tcpcore.filter import compile_filter
from tcpcore.pcap import PcapError
from tcpcore.result import Replay
from tcpcore.sources import SPOOL, Sources, identity
from tcpcore.stream import RECORDS, Streams
from tcpcore.table import Table, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from tcpcore.pcap import Input, Source
    from tcpcore.table import Fetch
    from tcpcore.where import Selection

    Progress = Callable[[int, int | None, int], object]

TICK = 0.05  # seconds between two calls of `progress`


def replay(
    source: Source,
    *,
    packets: bool = False,
    analysis: bool = True,
    checksum: str = "auto",
    filter: str | None = None,
    where: str | None = None,
    key: str = "5tuple",
    max_connections: int | None = None,
    expire_idle_s: float | None = None,
    expire_closed_s: float | None = None,
    engine: str | None = None,
    strict: bool = False,
    count: int | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    streams: bool = False,
    stream_memory: int | None = None,
    spool: int | None = None,
    unpack_max: int | None = None,
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
        Classify segments as Wireshark does, time round trips, keep Zeek's history: columns of
        connections and packets more (docs/analysis.md).
    checksum
        'auto': state does not take a segment with a bad checksum, unless its sender leaves
        checksums to the network card (`summary['checksum_offload']` tells what was found).
        'strict': it takes none. 'ignore': it takes all. They are counted in every mode.
    filter
        An expression of pcap-filter(7), ``'host 10.0.0.1 and port 443'``: frames that it does not
        want are counted in the summary (`filtered`), and that is all. See docs/filter.md.
    where
        A condition on columns of connections, ``'initial_rtt_ns > 50e6 and b_port == 443'``, that
        selects rows of the tables and of the summary's `top`; of packets, and of what `streams`
        hands out, those of the connections selected.
    key
        What tells connections apart besides addresses and ports: '5tuple' for nothing, or 'vlan'
        (all tags), 'interface', 'tunnel' (outer addresses; network ids, GRE keys and sessions), of
        these several separated by commas.
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
        Stop after so many frames that `filter` wants.
    from_ns, to_ns
        Take only frames with ``from_ns <= time < to_ns`` (ns since 1970). The others keep their
        numbers, and that is all they do.
    streams
        Note where payload lies, for `Replay.stream` and `Replay.streams`.
    stream_memory
        Bytes these notes may take (default 1 GiB, 32 a segment); docs/streams.md has who gives up.
    spool
        Bytes kept for streams of inputs that cannot be read again (default 1 GiB).
    unpack_max
        Bytes that a compressed input may unpack to (default: any number); more are damage.
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
    FilterError
        For a `filter` or `where` that cannot be understood, with the place; a ValueError.
    ValueError, TypeError
        For arguments that make no sense.
    """
    run = Run(
        source,
        packets=packets,
        analysis=analysis,
        rows="keep",
        checksum=checksum,
        filter=filter,
        where=where,
        key=key,
        max_connections=max_connections,
        expire_idle_s=expire_idle_s,
        expire_closed_s=expire_closed_s,
        engine=engine,
        count=count,
        from_ns=from_ns,
        to_ns=to_ns,
        streams=streams,
        stream_memory=stream_memory,
        spool=spool,
        unpack_max=unpack_max,
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
    checksum: str = "auto",
    filter: str | None = None,
    where: str | None = None,
    key: str = "5tuple",
    max_connections: int | None = None,
    expire_idle_s: float | None = None,
    expire_closed_s: float | None = None,
    engine: str | None = None,
    strict: bool = False,
    count: int | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    unpack_max: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Replay]:
    """Do what `replay` does, a batch at a time, and forget what was handed out.

    A connection ends when its 4-tuple is taken by a new one, when it expires or when it is given
    up for `max_connections`; so memory is bounded where one of these options bounds it.

    Parameters
    ----------
    batch_packets
        Frames after which a batch is handed out; it ends with the read in which it got so many.
    packets, analysis, checksum, filter, where, key, max_connections, expire_idle_s, \
expire_closed_s, engine, strict, count, from_ns, to_ns, unpack_max, progress
        See `replay`. `where` does not go with `packets`, whose connections have yet to end.

    Yields
    ------
    Replay
        Its tables hold what this batch added: `packets` its frames, `connections` those that
        ended, in order of closing; the last batch has those still followed too, in order of
        `conn`. `summary` is of everything so far. All batches' rows together are the same
        whatever the size of a batch or a read.
    """
    if whole("batch_packets", batch_packets, 1) is None:
        raise TypeError("batch_packets must be an integer")
    if where is not None and packets:
        raise ValueError("where selects packets once their connections have ended: use replay")
    run = Run(
        source,
        packets=packets,
        analysis=analysis,
        rows="drain",
        checksum=checksum,
        filter=filter,
        where=where,
        key=key,
        max_connections=max_connections,
        expire_idle_s=expire_idle_s,
        expire_closed_s=expire_closed_s,
        engine=engine,
        count=count,
        from_ns=from_ns,
        to_ns=to_ns,
        unpack_max=unpack_max,
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
        filter: str | None,
        where: str | None,
        key: str,
        max_connections: int | None,
        expire_idle_s: float | None,
        expire_closed_s: float | None,
        engine: str | None,
        count: int | None,
        from_ns: int | None,
        to_ns: int | None,
        progress: Progress | None,
        collect: bool = False,
        streams: bool = False,
        stream_memory: int | None = None,
        spool: int | None = None,
        handing: bool = False,
        unpack_max: int | None = None,
    ) -> None:
        if checksum not in ("auto", "strict", "ignore"):
            raise ValueError(f"checksum must be 'auto', 'strict' or 'ignore', not {checksum!r}")
        if progress is not None and not callable(progress):
            raise TypeError("progress must be callable")
        start = whole("from_ns", from_ns, INT64_MIN)
        end = whole("to_ns", to_ns, INT64_MIN)
        if start is not None and end is not None and start > end:
            raise ValueError("from_ns is after to_ns")
        options = {
            "packets": bool(packets),
            "analysis": bool(analysis),
            "strict": checksum == "strict",
            "auto": checksum == "auto",
            "keyed": key_bits(key),
            "rows": rows,
            "max_connections": whole("max_connections", max_connections, 1) or 0,
            "expire_idle_ns": nanoseconds("expire_idle_s", expire_idle_s),
            "expire_closed_ns": nanoseconds("expire_closed_s", expire_closed_s),
            "from_ns": INT64_MIN if start is None else start,
            "to_ns": INT64_MAX if end is None else end,
            "count": whole("count", count, 1) or 0,
            "filter": compile_filter("" if filter is None else filter),
        }
        memory, kept = whole("stream_memory", stream_memory, 1), whole("spool", spool, 0)
        options["streams"] = (memory or RECORDS) if streams else 0
        options["handing"] = handing
        self._options = options
        self.lock = allocate_lock()  # the engine serves one thread at a time, the tables any number
        self._opened: list[Input] = []
        self._conflicting: list[dict[int, int]] = []  # counted when first asked for
        self.sources = Sources(SPOOL if kept is None else kept) if streams else None
        self._schemas = schemas(analysis)
        self._selection: Selection | None = None
        if where is not None:
            from tcpcore.where import Selection

            self._selection = Selection(where, summary.TOP, self._schemas[0])
        self.inputs = pcap.inputs(source)
        for one in self.inputs:
            one.unpack_max = whole("unpack_max", unpack_max, 1)
        # One path that is missing is the caller's mistake; the command collects them all.
        self._collect = collect or isinstance(source, (list, tuple)) or len(self.inputs) > 1
        self.module = engines.load(engine)
        self.conntrack = self.module.Conntrack(key=os.urandom(16), **options)
        self.errors: list[PcapError] = []
        self.status = 0
        self.stop = False
        self.blocked = False
        self.cpu_seconds = 0.0
        self.received: tuple[list[Any], list[Any]] | None = ([], []) if handing else None
        self._rows = rows
        self._checksum = checksum
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
            self._opened.append(one)
            conntrack.size = one.size or 0
            if self.sources is not None:
                self.sources.begin(number, one)
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
        self._files.append(summary.entry(one, capture, error))

    def _feed(self, one: Input) -> Iterator[None]:
        """Feed the engine; what it leaves, a record's first part, moves to the front."""
        conntrack = self.conntrack
        chunk: int = self.module.CHUNK
        length = place = 0
        while not conntrack.done and not self.stop:
            started = time.thread_time()
            try:
                view = self._room(max(conntrack.want, length) + chunk, length)
                self.blocked = True
                try:
                    count = one.readinto(view[length : length + chunk])
                finally:
                    self.blocked = False
                if self.sources is not None:
                    self.sources.keep(view[length : length + count])
                length += count
                if length >= conntrack.want or not count:
                    used = conntrack.feed(self._buffer, length) if length else 0
                    if self.received is not None:
                        assert self.sources is not None
                        again = self.sources.again
                        came = self.module.stream_receive(
                            conntrack, self._buffer, used, place, again
                        )
                        for held, new in zip(self.received, came, strict=True):
                            held.extend(new)
                    place += used
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
            names = [column.name for column in self._schemas[0] if column.name not in CONFLICTS]
            rows = conntrack.connections(names, final)
            taken["connections"] = self._table(lambda names: rows)
        if self._packets:
            frames = conntrack.packets([column.name for column in self._schemas[1]])
            taken["packets"] = Table(self._schemas[1], lambda names: frames)
        if self._selection is not None:
            taken = self._selection.tables(taken)
        conntrack.drain()
        return taken

    def batch(self, final: bool = False) -> Replay:
        """What came since the last batch, and the summary of everything."""
        taken = self.take(final)
        return self._replay(taken["connections"], taken.get("packets"))

    def replay(self) -> Replay:
        """Everything, as tables that ask the engine for a column when it is read."""
        conntrack, lock = self.conntrack, self.lock
        connections = self._table(locked(lock, conntrack.connections, True))
        packets = None
        if self._packets:
            packets = Table(self._schemas[1], locked(lock, conntrack.packets))
        if self._selection is not None:
            tables = {"connections": connections} | ({"packets": packets} if packets else {})
            tables = self._selection.tables(tables)
            connections, packets = tables["connections"], tables.get("packets")
        streams = None
        if self.sources is not None and self.received is None:
            chosen = None
            if self._selection is not None:
                chosen = lambda: set(connections["conn"].tolist())  # noqa: E731
            streams = partial(Streams, self.module, conntrack, lock, self.sources, chosen=chosen)
        return self._replay(connections, packets, streams)

    def _table(self, fetch: Fetch) -> Table:
        """Connections, with the columns that no engine has."""
        return Table(
            self._schemas[0], Conflicts(self._streams_again, self._conflicting).fetch(fetch)
        )

    def _streams_again(self) -> Streams | None:
        """Streams of what was replayed, if need be of a second replay; None if it cannot be."""
        if self.sources is not None:
            return Streams(self.module, self.conntrack, self.lock, self.sources)
        if self._rows != "keep" or any(one.status is None for one in self._opened):
            return None
        from copy import copy

        again = copy(self)
        again.inputs = [pcap.Input(one.path) for one in self._opened if one.path is not None]
        again._files, again._opened, again.errors = [], [], []
        again._progress, again._collect, again.sources = None, True, Sources()
        more = {"packets": False, "analysis": False, "streams": RECORDS}
        again.conntrack = self.module.Conntrack(key=os.urandom(16), **self._options | more)
        for _ in again.chunks():
            again.stop = self.stop
        same = [identity(one) for one in again._opened] == [identity(one) for one in self._opened]
        return again._streams_again() if same and not again.stop else None

    def _replay(
        self,
        connections: Table,
        packets: Table | None,
        streams: Callable[..., Streams] | None = None,
    ) -> Replay:
        told, details = self.summary()
        return Replay(connections, packets, told, list(self.errors), details, streams)

    def summary(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The object of ``--json``, and what the text report tells beyond it."""
        found = self.conntrack.summary(summary.TOP)
        if self._selection is not None:
            rows = self._table(lambda names: self.conntrack.connections(names, True))
            found["top"] = self._selection.top(rows)
        details = {
            "compression": [one.compression for one in self.inputs],
            "bad_tcp_checksums": tuple(found["bad_tcp_checksums"]),
            "expired": found["expired"],
            "live": found["live"],
            "time_clamped": found["time_clamped"],
            "repaired": found["repaired"],
            "interrupted": self.stop,
        }
        files = list(self._files)
        if self._current is not None:
            files.append(summary.entry(self._current, self.conntrack.capture(), None))
        told = summary.summary(
            found, files, self.cpu_seconds, self._checksum, self._options, self.module
        )
        return told, details
