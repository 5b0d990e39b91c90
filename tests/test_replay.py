"""replay and replay_batches: what goes in, in which order, and what comes out of whole and broken.

Captures are small and built here; tests of formats and of state are elsewhere.
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import threading
from pathlib import Path

import capgen
import numpy as np
import pytest

import tcpcore
from tcpcore.passive import Run

SEC = capgen.SEC
US = 1000


def talk(conns: int = 1, start_ns: int = SEC, **fields: object) -> list[tuple[int, bytes]]:
    """Whole connections one after the other, 7 or more frames each."""
    frames = []
    for i in range(conns):
        frames += capgen.conversation(sport=40000 + i, start_ns=start_ns + i * SEC, **fields)
    return frames


ONE = talk()
CAPTURE = capgen.pcap(ONE)


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = memoryview(data)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, room: memoryview) -> int:
        count = min(self._size, len(room), len(self._data))
        room[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def columns(table: tcpcore.table.Table) -> dict[str, list[object]]:
    return {name: table[name].tolist() for name in table.names}


def seen(found: tcpcore.Replay) -> dict[str, object]:
    """A summary without what depends on the clock and on names."""
    summary = {k: v for k, v in found.summary.items() if "second" not in k}
    summary["files"] = [{**one, "path": ""} for one in summary["files"]]
    return summary


# ---- what comes out -----------------------------------------------------------------------------


def test_one_connection(engine, tmp_path):
    path = tmp_path / "one.pcap"
    path.write_bytes(CAPTURE)
    found = tcpcore.replay(path, packets=True, engine=engine.ENGINE)
    assert len(found.connections) == 1
    assert len(found.packets) == len(ONE)
    assert found.connections["a_port"].tolist() == [40000]
    assert found.connections["a_addr"].tobytes() == capgen.address16("10.0.0.1")
    assert found.packets["packet"].tolist() == list(range(1, len(ONE) + 1))
    assert found.error is None
    assert found.errors == []
    summary = found.summary
    assert summary["files"] == [
        {
            "path": str(path),
            "format": "pcap",
            "link_types": ["ETHERNET"],
            "packets": len(ONE),
            "bytes": sum(len(data) for _, data in ONE),
            "first_ns": ONE[0][0],
            "last_ns": ONE[-1][0],
            "error": None,
        }
    ]
    assert summary["connections"] == 1
    assert summary["tcp_segments"] == len(ONE)
    assert summary["engine"] == engine.ENGINE
    assert summary["isa"] == engine.isa()
    assert sum(summary["states"].values()) == 1
    assert found.counters["TcpInSegs"] == len(ONE)
    top = summary["top"][0]
    assert (top["a"], top["a_port"], top["b"], top["b_port"]) == ("10.0.0.1", 40000, "10.0.0.2", 80)
    assert top["duration_ns"] == ONE[-1][0] - ONE[0][0]


def test_summary_keys(engine):
    """The object of --json: these keys, in this order, all of it plain data."""
    summary = tcpcore.replay(io.BytesIO(CAPTURE), engine=engine.ENGINE).summary
    assert " ".join(summary) == (
        "schema_version files packets bytes tcp_segments connections first_ns last_ns "
        "cpu_seconds packets_per_second bits_per_second states top analysis drop_reasons "
        "bad_ip_checksums bad_tcp_checksums checksum_offload evicted counters engine isa"
    )
    assert " ".join(summary["files"][0]) == (
        "path format link_types packets bytes first_ns last_ns error"
    )
    assert json.loads(json.dumps(summary)) == summary
    assert summary["packets_per_second"] == summary["packets"] / summary["cpu_seconds"]
    assert summary["bits_per_second"] == 8 * summary["bytes"] / summary["cpu_seconds"]


def test_columns_are_read_only_and_kept(engine):
    table = tcpcore.replay(io.BytesIO(CAPTURE), engine=engine.ENGINE).connections
    times = table["first_ns"]
    assert times is table["first_ns"]
    assert times.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        times[0] = 0


def test_packets_only_when_asked(engine):
    found = tcpcore.replay(io.BytesIO(CAPTURE), engine=engine.ENGINE)
    with pytest.raises(ValueError, match="packets=True"):
        _ = found.packets


def test_shows_itself(engine):
    found = tcpcore.replay(io.BytesIO(CAPTURE), engine=engine.ENGINE)
    assert "1 connection" in repr(found)
    assert "BytesIO" in repr(found)
    assert "&lt;BytesIO&gt;" in found._repr_html_()
    assert "10.0.0.1:40000" in found._repr_html_()


def test_no_packets_no_times(engine):
    found = tcpcore.replay(io.BytesIO(capgen.pcap([])), packets=True, engine=engine.ENGINE)
    assert found.error is None
    assert len(found.connections) == len(found.packets) == 0
    assert found.connections["a_addr"].shape == (0, 16)
    assert found.summary["first_ns"] is None
    assert found.summary["files"][0]["format"] == "pcap"


def test_link_types_have_official_names(engine):
    data = capgen.section() + b"".join(map(capgen.interface, (1, 101, 113, 147)))
    data += b"".join(capgen.enhanced(1, b"", number=i) for i in range(4))
    found = tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE)
    assert set(found.summary["files"][0]["link_types"]) == {
        "ETHERNET",
        "RAW",
        "LINUX_SLL",
        "LINKTYPE_147",
    }


# ---- sources ------------------------------------------------------------------------------------


class OnlyRead:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_reads_of_any_size(engine, form, size):
    data = getattr(capgen, form)(talk(3))
    whole = tcpcore.replay(io.BytesIO(data), packets=True, engine=engine.ENGINE)
    pieces = tcpcore.replay(Dribble(data, size), packets=True, engine=engine.ENGINE)
    assert columns(pieces.connections) == columns(whole.connections)
    assert columns(pieces.packets) == columns(whole.packets)
    assert seen(pieces) == seen(whole)


def test_kinds_of_sources(engine, tmp_path, monkeypatch):
    path = tmp_path / "one.pcap"
    path.write_bytes(CAPTURE)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CAPTURE)))
    want = columns(tcpcore.replay(path, engine=engine.ENGINE).connections)
    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw:
        for source in (str(path), os.fsencode(path), file, raw, OnlyRead(CAPTURE), "-", [path]):
            assert columns(tcpcore.replay(source, engine=engine.ENGINE).connections) == want
        assert not file.closed
        assert not raw.closed


def test_object_is_read_from_where_it_stands(engine):
    file = io.BytesIO(b"header" + CAPTURE)
    file.seek(6)
    assert tcpcore.replay(file, engine=engine.ENGINE).summary["packets"] == len(ONE)


def test_fifo(engine, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CAPTURE,))
    writer.start()
    found = tcpcore.replay(path, engine=engine.ENGINE)
    writer.join()
    assert found.summary["packets"] == len(ONE)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (5, TypeError),
        (None, TypeError),
        (io.StringIO("x"), TypeError),
        ([b"x", 7], TypeError),
        ([], ValueError),
        (["-", "-"], ValueError),
        ([io.BytesIO(CAPTURE)] * 2, ValueError),
    ],
)
def test_what_is_no_source(source, error):
    with pytest.raises(error):
        tcpcore.replay(source)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"checksum": "loose"}, ValueError),
        ({"engine": "other"}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"max_connections": 1.5}, TypeError),
        ({"count": -1}, ValueError),
        ({"expire_idle_s": 0}, ValueError),
        ({"expire_idle_s": float("nan")}, ValueError),
        ({"expire_closed_s": float("inf")}, ValueError),
        ({"expire_closed_s": "1"}, TypeError),
        ({"from_ns": 2, "to_ns": 1}, ValueError),
        ({"from_ns": 1 << 63}, ValueError),
        ({"from_ns": 0.5}, TypeError),
        ({"progress": 1}, TypeError),
    ],
)
@pytest.mark.parametrize("function", [tcpcore.replay, tcpcore.replay_batches])
def test_bad_arguments(function, options, error):
    """They raise when called, before anything is read."""
    with pytest.raises(error):
        function(io.BytesIO(CAPTURE), **options)


def test_missing_path_raises():
    with pytest.raises(FileNotFoundError):
        tcpcore.replay("/nonexistent/capture")
    with pytest.raises(FileNotFoundError):
        list(tcpcore.replay_batches("/nonexistent/capture"))


def test_directory_raises(tmp_path):
    with pytest.raises(IsADirectoryError):
        tcpcore.replay(tmp_path)


# ---- several inputs -----------------------------------------------------------------------------


def test_order_of_first_packets(engine, tmp_path):
    """By the first packet's time; equal ones as given; then what has no packets, and no capture."""
    late, early = capgen.pcap(talk(start_ns=9 * SEC)), capgen.pcapng(talk(start_ns=2 * SEC))
    files = {
        "late": late,
        "empty": capgen.pcap([]),
        "junk": b"no capture at all, but long enough to tell",
        "early": gzip.compress(early),
        "twin": late,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    source = [tmp_path / name for name in [*files, "missing"]]
    found = tcpcore.replay(source, packets=True, engine=engine.ENGINE)
    names = [Path(one["path"]).name for one in found.summary["files"]]
    assert names == ["early", "late", "twin", "empty", "junk", "missing"]
    n = len(ONE)
    assert found.packets["file"].tolist() == [0] * n + [1] * n + [2] * n
    assert found.packets["packet"].tolist() == list(range(1, 3 * n + 1))
    assert [Path(error.file).name for error in found.errors] == ["junk", "missing"]
    assert isinstance(found.errors[1].__cause__, FileNotFoundError)
    assert found.error is found.errors[0]
    errors = [one["error"] for one in found.summary["files"]]
    assert errors[:4] == [None] * 4
    assert errors[5] == "No such file or directory"


def test_pipes_keep_what_was_peeked(engine):
    """The order needs first packets; a pipe's are not lost by looking."""
    late, early = capgen.pcap(talk(start_ns=9 * SEC)), capgen.pcap(talk(start_ns=2 * SEC))
    found = tcpcore.replay([Dribble(late, 5), Dribble(early, 1 << 20)], engine=engine.ENGINE)
    assert [one["first_ns"] for one in found.summary["files"]] == [2 * SEC, 9 * SEC]
    assert found.summary["packets"] == 2 * len(ONE)


def test_damage_met_by_peeking_stays(engine):
    """A cut pipe gives what it has, and its error, when its turn comes."""
    cut = gzip.compress(CAPTURE)[:-30]
    found = tcpcore.replay([Dribble(cut, 50), io.BytesIO(CAPTURE)], engine=engine.ENGINE)
    assert len(found.errors) == 1
    assert "cut" in found.errors[0].reason
    assert found.summary["packets"] > len(ONE)


def test_many_files_few_descriptors(engine, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "one.pcap"
    path.write_bytes(capgen.pcap(ONE[:1]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        found = tcpcore.replay([path] * 200, engine=engine.ENGINE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.summary["packets"] == 200


# ---- what is taken ------------------------------------------------------------------------------


def test_time_is_half_open(engine):
    times = [time for time, _ in ONE]
    options = {"from_ns": times[2], "to_ns": times[5], "packets": True, "engine": engine.ENGINE}
    found = tcpcore.replay(io.BytesIO(CAPTURE), **options)
    assert found.packets["packet"].tolist() == [3, 4, 5]
    assert found.packets["time_ns"].tolist() == times[2:5]


@pytest.mark.parametrize("count", [1, 5, 7, 8, 10])
def test_count(engine, count):
    """It runs over all inputs; those behind it are named, and not read."""
    source = [io.BytesIO(capgen.pcap(ONE[:7])), io.BytesIO(capgen.pcap(ONE[:7]))]
    found = tcpcore.replay(source, count=count, packets=True, engine=engine.ENGINE)
    assert found.summary["packets"] == len(found.packets) == count
    assert [one["packets"] for one in found.summary["files"]] == [min(count, 7), max(count - 7, 0)]
    assert found.errors == []


def test_count_does_not_hide_a_missing_file(engine):
    source = [io.BytesIO(CAPTURE), "/nonexistent/capture"]
    found = tcpcore.replay(source, count=1, engine=engine.ENGINE)
    assert found.summary["packets"] == 1
    assert [one["error"] for one in found.summary["files"]] == [None, "No such file or directory"]
    assert [error.file for error in found.errors] == ["/nonexistent/capture"]


def test_count_stops_before_damage(engine):
    cut = CAPTURE[:-1]
    assert tcpcore.replay(io.BytesIO(cut), count=3, engine=engine.ENGINE).error is None


# ---- damage -------------------------------------------------------------------------------------


def test_cut_record(engine):
    at = len(capgen.pcap(ONE[:-1]))
    for length in (at + 1, at + 15, at + 16, len(CAPTURE) - 1):
        found = tcpcore.replay(io.BytesIO(CAPTURE[:length]), engine=engine.ENGINE)
        assert found.summary["packets"] == len(ONE) - 1
        assert found.error is not None
        assert found.error.offset == at
        assert found.summary["files"][0]["error"] == f"byte {at}: {found.error.reason}"


def test_lying_length(engine):
    data = CAPTURE + capgen.pcap_record(SEC, b"", caplen=1 << 30) + bytes(100)
    found = tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE)
    assert found.summary["packets"] == len(ONE)
    assert found.error is not None
    assert found.error.offset == len(CAPTURE)
    assert str(1 << 30) in found.error.reason


def test_others_are_still_read(engine):
    found = tcpcore.replay([io.BytesIO(CAPTURE[:-1]), io.BytesIO(CAPTURE)], engine=engine.ENGINE)
    assert found.summary["packets"] == 2 * len(ONE) - 1
    assert len(found.errors) == 1


@pytest.mark.parametrize("data", [b"", b"\xd4", b"junk", b"a text of some length, no capture" * 9])
def test_no_capture(engine, data):
    found = tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE)
    assert found.error is not None
    assert found.error.offset == 0
    assert found.summary["files"][0]["format"] == ""


def test_strict_raises_with_what_came_out(engine):
    with pytest.raises(tcpcore.PcapError) as caught:
        tcpcore.replay(io.BytesIO(CAPTURE[:-1]), strict=True, engine=engine.ENGINE)
    error = caught.value
    assert error.replay.summary["packets"] == len(ONE) - 1
    assert error.replay.error is error
    assert str(error) == f"<BytesIO>: byte {error.offset}: {error.reason}"
    assert isinstance(error, ValueError)


def test_a_record_as_large_as_allowed(engine):
    """16 MiB is taken whole; a byte more is damage."""
    big = 16 << 20
    head = capgen.pcap_header()
    data = head + capgen.pcap_record(SEC, bytes(big)) + capgen.pcap_record(SEC, ONE[0][1])
    assert tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE).summary["packets"] == 2
    data = head + capgen.pcap_record(SEC, bytes(big + 1))
    found = tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE)
    assert found.error is not None
    assert found.summary["packets"] == 0


def test_read_error(engine):
    class Broken(Dribble):
        def readinto(self, room: memoryview) -> int:
            if not self._data:
                raise OSError(5, "Input/output error")
            return super().readinto(room)

    found = tcpcore.replay(Broken(CAPTURE, 50), engine=engine.ENGINE)
    assert found.error is not None
    assert found.error.reason == "Input/output error"
    assert found.error.offset == len(CAPTURE)
    assert found.summary["packets"] == len(ONE)


# ---- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 10, 1000])
def test_batches_add_up(engine, batch):
    data = capgen.pcap(talk(20))
    whole = tcpcore.replay(io.BytesIO(data), packets=True, engine=engine.ENGINE)
    batches = list(
        tcpcore.replay_batches(
            Dribble(data, 700), batch_packets=batch, packets=True, engine=engine.ENGINE
        )
    )
    assert (len(batches) > 1) == (batch < 1000)
    for name in whole.packets.names:
        parts = np.concatenate([one.packets[name] for one in batches])
        assert np.array_equal(parts, whole.packets[name])
    order = np.argsort(np.concatenate([one.connections["conn"] for one in batches]))
    for name in whole.connections.names:
        parts = np.concatenate([one.connections[name] for one in batches])
        assert np.array_equal(parts[order], whole.connections[name])
    assert seen(batches[-1]) == seen(whole)
    counts = [one.summary["packets"] for one in batches]
    assert counts == sorted(counts)


def test_batch_stays_valid(engine):
    """A batch's columns may be read after the next ones came."""
    data = capgen.pcap(talk(20))
    batches = list(
        tcpcore.replay_batches(
            Dribble(data, 700), batch_packets=10, packets=True, engine=engine.ENGINE
        )
    )
    numbers = np.concatenate([one.packets["packet"] for one in batches])
    assert numbers.tolist() == list(range(1, len(talk(20)) + 1))


def test_batches_let_go_of_the_ended(engine):
    """Expired connections come out at once, in order of closing, and only once."""
    data = capgen.pcap(talk(20))
    batches = list(
        tcpcore.replay_batches(
            Dribble(data, 700), batch_packets=10, expire_idle_s=1.5, engine=engine.ENGINE
        )
    )
    early = [conn for one in batches[:-1] for conn in one.connections["conn"].tolist()]
    assert len(early) > 10
    everyone = [conn for one in batches for conn in one.connections["conn"].tolist()]
    assert sorted(everyone) == list(range(20))


def test_batches_strict(engine):
    batches = []
    with pytest.raises(tcpcore.PcapError) as caught:  # noqa: PT012
        for one in tcpcore.replay_batches(
            io.BytesIO(CAPTURE[:-1]), strict=True, engine=engine.ENGINE
        ):
            batches.append(one)
    assert caught.value.replay is batches[-1]


def test_limit_keeps_rows_of_the_evicted(engine):
    frames = [
        (SEC + i * US, capgen.frame("10.0.0.1", "10.0.0.2", 1000 + i, 80, flags=capgen.SYN))
        for i in range(50)
    ]
    found = tcpcore.replay(
        io.BytesIO(capgen.pcap(frames)), max_connections=10, engine=engine.ENGINE
    )
    assert found.summary["evicted"] == 40
    assert found.connections["conn"].tolist() == list(range(50))


# ---- running ------------------------------------------------------------------------------------


def test_progress(engine, monkeypatch):
    monkeypatch.setattr("tcpcore.passive.TICK", 0)
    calls = []
    tcpcore.replay(
        Dribble(CAPTURE, 100), engine=engine.ENGINE, progress=lambda *call: calls.append(call)
    )
    assert calls[-1] == (len(CAPTURE), None, len(ONE))
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)


def test_progress_knows_the_size(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("tcpcore.passive.TICK", 0)
    path = tmp_path / "one.pcap"
    path.write_bytes(CAPTURE)
    calls = []
    tcpcore.replay(path, engine=engine.ENGINE, progress=lambda *call: calls.append(call))
    assert calls[-1] == (len(CAPTURE), len(CAPTURE), len(ONE))


def test_two_threads(engine):
    data = capgen.pcap(talk(30))
    want = columns(tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE).connections)
    results = []

    def work() -> None:
        for _ in range(3):
            found = tcpcore.replay(io.BytesIO(data), engine=engine.ENGINE)
            results.append(columns(found.connections) == want)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def test_tables_are_read_by_threads(engine):
    """Columns are made when first read, by whoever comes first; all get the same."""
    found = tcpcore.replay(io.BytesIO(capgen.pcap(talk(300))), packets=True, engine=engine.ENGINE)
    start = threading.Barrier(4)
    results: list[object] = []

    def work() -> None:
        start.wait()
        try:
            tables = (found.connections, found.packets)
            results.append([[id(table[name]) for name in table.names] for table in tables])
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == results[:1] * 4


def runs() -> int:
    return sum(isinstance(one, Run) for one in gc.get_objects())


@pytest.mark.parametrize("options", [{}, {"packets": True}, {"streams": True}], ids=str)
def test_memory_goes_with_the_last_reference(engine, options):
    """A replay is in no cycle, so its memory is there for the next one at once."""
    gc.collect()
    gc.disable()
    try:
        before = runs()
        found = tcpcore.replay(io.BytesIO(CAPTURE), engine=engine.ENGINE, **options)
        found.connections["conn"]
        assert runs() == before + 1
        del found
        assert runs() == before
    finally:
        gc.enable()
