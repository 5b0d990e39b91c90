"""The benchmarks' own parts: captures are what they say, rows and pages add up, all of it runs.

Nothing is timed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import capgen
import numpy as np
import pytest

import tcpcore

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `bench` is beside the tests, not installed

from bench import captures, compare, endpoint, worker, yardsticks  # noqa: E402
from bench.endpoint_yardsticks import EndpointYardsticks, Entrant  # noqa: E402


def replayed(tmp_path: Path, parts: object, **options: object) -> tcpcore.Replay:
    return tcpcore.replay(captures.write(tmp_path / "made.pcap", parts), **options)


def sound(summary: dict[str, object]) -> bool:
    return not (summary["bad_ip_checksums"] or summary["bad_tcp_checksums"])


def test_minimal(tmp_path: Path) -> None:
    done = replayed(tmp_path, captures.minimal(20, 400))
    assert (done.summary["packets"], done.summary["connections"]) == (400, 20)
    assert (done.summary["bytes"], done.summary["tcp_segments"]) == (400 * 60, 400)
    assert done.error is None
    assert sound(done.summary)
    table = done.connections
    assert set(table["packets_ab"] + table["packets_ba"]) == {20}
    assert set(table["completeness"]) == {1 | 2 | 4 | 8 | 16}, "from SYN to FIN"
    assert set(table["payload_bytes_ab"]) == {6 * 6}
    assert done.summary["states"] == {"TIME-WAIT/CLOSED": 20}
    assert not done.summary["drop_reasons"]


def test_minimal_is_seeded() -> None:
    one, same = (b"".join(p.tobytes() for p in captures.minimal(5, 50)) for _ in range(2))
    assert one == same
    assert one != b"".join(p.tobytes() for p in captures.minimal(5, 50, seed=9))


def test_flood(tmp_path: Path) -> None:
    done = replayed(tmp_path, captures.flood(300, chunk=128))
    assert (done.summary["packets"], done.summary["connections"]) == (300, 300)
    assert sound(done.summary)
    assert set(done.connections["flags_ab"]) == {captures.SYN}
    assert np.all(np.diff(done.connections["first_ns"]) > 0)


@pytest.mark.parametrize("payload", [0, 1, 7, 100])
@pytest.mark.parametrize("options", [b"", captures.TIMESTAMPS])
def test_records(payload: int, options: bytes) -> None:
    size = max(60, 54 + len(options) + payload + payload % 2)
    fields = {"saddr": 0x0A000001, "daddr": 0x0A000002, "sport": 1, "dport": 2, "flags": 16}
    made = captures.records(
        np.array([captures.START_US]), payload=payload, options=options, size=size, **fields
    )
    frame = made.tobytes()[16:]
    end = 54 + len(options) + payload
    pseudo = frame[26:34] + bytes((0, 6)) + (end - 34).to_bytes(2, "big")
    assert len(frame) == size
    assert capgen.checksum(frame[14:34]) == 0
    assert capgen.checksum(pseudo + frame[34:end]) == 0
    assert frame[end:] == bytes(size - end)


def test_damaged_records_have_wrong_tcp_checksums(tmp_path: Path) -> None:
    talk = captures.Conversations(3, 10)
    step, conn = np.divmod(np.arange(30), 3)
    made = talk.records(conn, step, captures.START_US + np.arange(30), damaged=True)
    summary = replayed(tmp_path, [made], checksum="strict").summary
    assert (summary["bad_tcp_checksums"], summary["bad_ip_checksums"]) == (30, 0)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder with a capture that has enough TCP with data, one checksum wrong."""
    folder = tmp_path / "real"
    folder.mkdir()
    talk = capgen.conversation(payloads=[bytes(600)] * 50)
    talk += capgen.conversation(sport=40001, payloads=[bytes(700)] * 20, start_ns=2 * capgen.SEC)
    talk[5] = (talk[5][0], talk[5][1][:50] + b"\0\0" + talk[5][1][52:])
    (folder / "talk.pcap").write_bytes(capgen.pcap(talk))
    (folder / "small.pcapng").write_bytes(capgen.pcapng(capgen.conversation()))
    (folder / "fuzz.pcap").write_bytes(capgen.pcap(talk))
    return folder


def test_replicas(tmp_path: Path, real: Path) -> None:
    replicas = captures.Replicas(real)
    frames = len(replicas.time_us)
    assert replicas.sources == 1
    assert frames == 50 + 20 + 2 * 6
    size = 5 * len(replicas.base)
    done = replayed(tmp_path, replicas.records(size, together=2), packets=True)
    assert done.summary["packets"] == 5 * frames
    assert done.summary["connections"] == 5 * 2, "each copy has its own addresses"
    assert sound(done.summary)
    assert done.error is None
    once = tcpcore.replay(real / "talk.pcap").connections
    for name in ("payload_bytes_ab", "payload_bytes_ba", "isn_ab", "completeness"):
        assert sorted(done.connections[name]) == sorted(5 * list(once[name]))
    assert np.all(np.diff(done.packets["time_ns"][: 2 * frames]) >= 0), "copies are merged"


def test_no_real_captures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no capture of TCP"):
        captures.Replicas(tmp_path)


def test_head(tmp_path: Path) -> None:
    whole = captures.write(tmp_path / "whole.pcap", captures.flood(50))
    assert captures.head(whole, tmp_path / "a.pcap", packets=7) == 7
    assert captures.head(whole, tmp_path / "b.pcap", size=24 + 76 * 9 + 75) == 9
    assert (tmp_path / "b.pcap").read_bytes() == whole.read_bytes()[: 24 + 76 * 9]


def test_a_capture_is_made_once(tmp_path: Path) -> None:
    path = captures.write(tmp_path / "x.pcap", captures.flood(5))
    assert captures.write(path, captures.flood(500)).stat().st_size == 24 + 76 * 5


def test_worker(tmp_path: Path) -> None:
    path = str(captures.write(tmp_path / "x.pcap", captures.flood(5_000)))
    assert worker.replay(path, tables=True, packets=True)["connections"] == 5_000
    found = worker.bounded(path, most=100)
    assert (found["packets"], found["live"]) == (5_000, 100)
    plain, analysed = (worker.live(path, analysis=analysis) for analysis in (False, True))
    assert plain["live"] == analysed["live"] == 5_000
    if tcpcore.ENGINE == "compiled":  # the reference counts what rows take
        assert plain["memory"] < analysed["memory"]


@pytest.mark.parametrize("order", captures.ORDERS)
def test_one_byte(tmp_path: Path, order: str) -> None:
    path = str(captures.write(tmp_path / "x.pcap", captures.one_byte(1_000, order)))
    assert worker.replay(path, tables=False, streams=True)["handed"] == 1_000
    made = tcpcore.replay(path, packets=True)
    assert sorted(made.packets["seq"].tolist()) == list(range(1_000))
    assert sound(made.summary)


def test_a_missing_peer_is_a_reason(tmp_path: Path) -> None:
    def absent() -> tuple[float, int]:
        raise yardsticks.Unavailable("not here")

    races = yardsticks.Yardsticks(tmp_path, quick=True)
    here = yardsticks.Contender("here", lambda: (2.0, 100))
    half = yardsticks.Contender("half", lambda: (4.0, 100))
    gone = yardsticks.Contender("gone", absent)
    races.race("flood", [here, half, gone])
    races.faster("a", here, half, 1.9)
    races.slower("b", half, here, 1.9)
    races.faster("c", here, gone, 1.0)
    assert [row["measured"] for row in races.targets] == [2.0, 2.0, None]
    assert [row["met"] for row in races.targets] == [True, False, None]
    assert races.targets[2]["note"] == races.rates[2]["note"] == "not here"


def test_an_entrant_without_a_peer_is_a_reason(tmp_path: Path) -> None:
    def absent() -> float:
        raise yardsticks.Unavailable("not here")

    races = EndpointYardsticks(tmp_path, quick=True)
    here, half, gone = Entrant(lambda: 2.0), Entrant(lambda: 4.0), Entrant(absent)
    races.compete(here, half, gone)
    races.beats("a", here, half, 1.9, lambda: "told")
    races.beats("b", half, here, 1.9, lambda: "")
    races.beats("c", here, gone, 1.0, lambda: "")
    assert [row["measured"] for row in races.targets] == [2.0, 0.5, None]
    assert [row["met"] for row in races.targets] == [True, False, None]
    assert [row["note"] for row in races.targets] == ["told", "", "not here"]


@pytest.mark.parametrize("engine", ["reference", tcpcore.ENGINE])
def test_a_transfer_carries_all_of_it(engine: str) -> None:
    pair = endpoint.Pair(engine)
    pair.populate(3)
    ends = pair.connect()
    pair.transfer(ends, bytes(50_000), bytearray(50_000), 500_000)
    assert pair.a.info(ends[0])["tcpi_bytes_acked"] >= 500_000
    assert pair.b.info(ends[1])["tcpi_rcv_ooopack"] == 0


def test_the_floods_of_the_endpoint_are_sound() -> None:
    pair = endpoint.Pair("reference")
    pair.b.receive_batch(endpoint.syns(20), pair.now)
    answers = pair.b.transmit()[0]
    assert len(answers) == 20
    assert {frame[33] for frame in answers} == {0x12}, "SYN and ACK"
    assert pair.b.queued(pair.listener) == (20, 0)


@pytest.mark.parametrize("system", [False, True])
def test_python_jobs_of_the_endpoint(system: bool) -> None:
    assert endpoint.pingpong(system, 3)["count"] == 3
    assert endpoint.api_connects(system, 3)["count"] == 3


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(yardsticks.Unavailable, match="of some kind"):
        yardsticks.spend([sys.executable, "-c", "raise SystemExit('of some kind')"])


def test_update(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"head\n{compare.BEGIN}\nold\n{compare.END}\ntail\n")
    compare.update(page, "new")
    compare.update(page, "newer")
    assert page.read_text() == f"head\n{compare.BEGIN}\n\nnewer\n\n{compare.END}\ntail\n"
    page.write_text("none")
    with pytest.raises(SystemExit):
        compare.update(page, "new")


def test_the_page_can_be_updated() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert 0 < page.index(compare.BEGIN) < page.index(compare.END)
    assert 0 < page.index(compare.ENDPOINT[0]) < page.index(compare.ENDPOINT[1])


def test_it_runs(tmp_path: Path, real: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "bench.compare", "--quick", f"--work={tmp_path}"]
    command += [f"--captures={real}", f"--json={tmp_path / 'out.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert {row["operation"] for row in report["operations"]} == {
        *("checksum", "parse", "hash and look-up", "tcb step", "replay", "new connection"),
        *("streams", "fragments"),
    }
    assert all(row[tcpcore.ENGINE]["ns"] > 0 for row in report["operations"])
    assert len(report["targets"]) == 31
    assert len(report["endpoint"]) == (18 if tcpcore.ENGINE == "compiled" else 0)
    for row in report["targets"] + report["endpoint"]:
        assert (row["measured"] is None) == (row["met"] is None)
        assert row["measured"] is not None or row["note"], "what is not measured has a reason"
        assert row["what"] in done.stdout
