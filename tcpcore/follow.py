"""Streams handed out while a capture is read: bytes as they come to be in order.

docs/streams.md has the rules.
"""

from __future__ import annotations

from tcpcore.passive import Run
from tcpcore.stream import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from tcpcore.passive import Progress
    from tcpcore.pcap import Source
    from tcpcore.result import Replay

    Chunk = tuple[int, str, int, bytes]


def replay_streams(
    source: Source,
    *,
    checksum: str = "auto",
    filter: str | None = None,
    key: str = "5tuple",
    max_connections: int | None = None,
    expire_idle_s: float | None = None,
    expire_closed_s: float | None = None,
    engine: str | None = None,
    count: int | None = None,
    from_ns: int | None = None,
    to_ns: int | None = None,
    stream_memory: int | None = None,
    spool: int | None = None,
    unpack_max: int | None = None,
    progress: Progress | None = None,
) -> StreamReplay:
    """Do what `replay` does, and hand out what the connections' ends sent while reading.

    Bytes are handed out as soon as they are in order. Behind a hole they wait until it is filled,
    at most to the end of the capture. They are those of `Replay.streams` with ``overlap='first'``,
    except that what was handed out stays: bytes captured later that lie before it, or a FIN below
    its end, change nothing.

    Parameters
    ----------
    source, checksum, filter, key, max_connections, expire_idle_s, expire_closed_s, engine, count, \
from_ns, to_ns, unpack_max, progress
        See `replay`.
    stream_memory
        Bytes that notes of what waits may take (default 1 GiB, 32 a segment and 160 a connection).
    spool
        Bytes kept of inputs that cannot be read again, for what waits (default 1 GiB).

    Returns
    -------
    StreamReplay
        To be iterated over once.

    Raises
    ------
    ValueError, TypeError, FilterError
        As of `replay`.
    """
    run = Run(
        source,
        packets=False,
        analysis=False,
        rows="keep",
        checksum=checksum,
        filter=filter,
        where=None,
        key=key,
        max_connections=max_connections,
        expire_idle_s=expire_idle_s,
        expire_closed_s=expire_closed_s,
        engine=engine,
        count=count,
        from_ns=from_ns,
        to_ns=to_ns,
        progress=progress,
        streams=True,
        stream_memory=stream_memory,
        spool=spool,
        unpack_max=unpack_max,
        handing=True,
    )
    return StreamReplay(run)


class StreamReplay:
    """Streams while they are read: an iterable of (conn, direction, offset, data).

    `data` is bytes that `conn`'s a ('ab') or b ('ba') sent; offsets of one direction ascend, and
    where one is above the end of the last data, there is a gap.

    Attributes
    ----------
    replay : Replay or None
        Once the capture is read: its connections, summary and errors, without streams.

    Raises
    ------
    OSError
        When iterated over, if `source` is one path and it cannot be opened.
    PcapError
        If what had to wait cannot be read again: the capture changed, or the spool was too small.
    """

    def __init__(self, run: Run) -> None:
        self.replay: Replay | None = None
        self._chunks = self._hand_out(run)

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def _hand_out(self, run: Run) -> Iterator[Chunk]:
        assert run.sources is not None
        for _ in run.chunks():
            yield from self._received(run)
        yield from self._received(run)
        run.sources.close()
        self.replay = run.replay()
        streams = Streams(run.module, run.conntrack, run.lock, run.sources)
        for one in streams.some(1):
            for offset, data in one.runs():
                yield one.conn, one.direction, offset, data

    def _received(self, run: Run) -> Iterator[Chunk]:
        """What has come since the last call."""
        assert run.sources is not None
        assert run.received is not None
        ready, late = run.received
        yield from ready
        for conn, direction, offset, reads in late:
            yield conn, direction, offset, run.sources.read_list(reads)
        run.received = [], []
