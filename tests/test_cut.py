"""`tcpcore cut` and `tcpcore streams`: packets and bytes of chosen connections, as files."""

from __future__ import annotations

import gzip
import os
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import capgen
import pytest
from capgen import ACK, SEC, SYN

import tcpcore
from tcpcore.cli import main
from tcpcore.cut import cut
from tcpcore.pcap import Input, PcapError

EXAMPLE = Path(__file__).parent.parent / "examples" / "http.pcap"


def records(count: int = 12) -> list[capgen.Record]:
    """Frames of four connections in turn."""
    return [
        (SEC + i, frame, len(frame))
        for i in range(count)
        for frame in [
            capgen.frame("fd00::1", "fd00::2", 1000 + i % 4, 80, flags=ACK, seq=i, payload=b"x")
        ]
    ]


@pytest.mark.parametrize("fmt", capgen.PCAP_FORMATS)
@pytest.mark.parametrize("endian", "<>")
def test_cut_of_a_pcap(tmp_path: Path, fmt: str, endian: str) -> None:
    """Those records, byte for byte, under the same file header."""
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(capgen.pcap(records(), fmt=fmt, endian=endian))
    assert main(["cut", str(path), "--conn", "1", "3-3", "-o", str(out)]) == 0
    wanted = [record for i, record in enumerate(records()) if i % 4 in (1, 3)]
    assert out.read_bytes() == capgen.pcap(wanted, fmt=fmt, endian=endian)


@pytest.mark.parametrize("endian", "<>")
def test_cut_of_a_pcapng(tmp_path: Path, endian: str) -> None:
    """Every block that is no packet stays, and options of packets; lengths of sections go."""

    def blocks(chosen: set[int]) -> bytes:
        out = b""
        for _ in range(2):
            out += capgen.section(endian, options=capgen.option(4, b"me", endian))
            out += capgen.interface(1, endian=endian) + capgen.block(5, bytes(8), endian=endian)
            for i, (time_ns, data, wirelen) in enumerate(records()):
                if i % 4 in chosen:
                    out += capgen.enhanced(time_ns, data, wirelen, endian=endian)
            out += capgen.block(0x40000BAD, bytes(40), endian=endian)
        return out

    path, out = tmp_path / "in.pcapng", tmp_path / "out.pcapng"
    path.write_bytes(blocks({0, 1, 2, 3}))
    assert main(["cut", str(path), "--conn", "0-1", "-o", str(out)]) == 0
    assert out.read_bytes() == blocks({0, 1})


def test_cut_of_a_compressed_capture(tmp_path: Path) -> None:
    path, out = tmp_path / "in.gz", tmp_path / "out.pcap"
    path.write_bytes(gzip.compress(capgen.pcap(records())))
    assert main(["cut", str(path), "--conn", "2", "-o", str(out)]) == 0
    assert tcpcore.replay(out).summary["packets"] == 3


WITH_A_DATAGRAM = [*records(), (2 * SEC, capgen.ethernet(capgen.ipv4(bytes(8), proto=17), 0x0800))]
CHOSEN = {
    "--filter|src port 1001": [i for i in range(12) if i % 4 == 1],
    "--filter|port 1000 or not tcp": [0, 4, 8, 12],  # frames without a segment too
    "--where|a_port > 1001": [i for i in range(12) if i % 4 > 1],
    "--where|a_port > 1001|--conn|0-2": [2, 6, 10],
    "--where|rtt_samples_ab == 0 and conn == 0": [0, 4, 8],  # columns of the analysis
    "--filter|src port 1001 or 1003|--conn|1": [3, 7, 11],  # numbered as the filter leaves them
    "--filter|ip6[44:4] > 3|--where|packets_ab == 2 and b_port == 80": list(range(4, 12)),
    "--filter|not tcp|--where|True": [],
}


@pytest.mark.parametrize("options", CHOSEN)
def test_cut_by_filter_and_condition(tmp_path: Path, options: str) -> None:
    """All that is given must hold."""
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(capgen.pcap(WITH_A_DATAGRAM))
    assert main(["cut", str(path), *options.split("|"), "-o", str(out)]) == 0
    wanted = [WITH_A_DATAGRAM[i] for i in CHOSEN[options]]
    assert out.read_bytes() == capgen.pcap(wanted)


def test_a_set_of_numbers_decides() -> None:
    out = BytesIO()
    assert cut(Input(EXAMPLE), {2, 3, 5, 10**9}, out) == 3
    assert tcpcore.replay(BytesIO(out.getvalue())).summary["packets"] == 3


def test_cut_of_a_damaged_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T-23: what is before the damage is written."""
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(capgen.pcap(records())[:-3])
    assert main(["cut", str(path), "--conn", "0-3", "-o", str(out)]) == 1
    assert "record is cut" in capsys.readouterr().err
    assert tcpcore.replay(out).summary["packets"] == 11


def test_every_cut_of_every_capture_ends() -> None:
    """T-23: wherever the bytes end, an error or a capture."""
    for whole in (capgen.pcap(records(3)), capgen.pcapng(records(3))):
        assert cut(Input(BytesIO(whole)), {1, 2, 3}, BytesIO()) == 3
        for size in range(4, len(whole)):
            with suppress(PcapError):
                assert cut(Input(BytesIO(whole[:size])), {1, 2, 3}, BytesIO()) < 3


def test_cut_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capgen.pcap(records()))
    assert main(["cut", str(path), "--conn", "4", "-o", str(tmp_path / "x")]) == 2
    assert "no connection 4" in capsys.readouterr().err
    assert main(["cut", str(tmp_path / "no"), "--conn", "4", "-o", str(tmp_path / "x")]) == 2
    assert main(["cut", "-", "--conn", "4", "-o", str(tmp_path / "x")]) == 2
    with pytest.raises(SystemExit):
        main(["cut", str(path), "--conn", "0", "-o", str(path)])
    with pytest.raises(SystemExit):
        main(["cut", str(path), "--conn", "7-3", "-o", str(tmp_path / "x")])
    for options in ([], ["--filter", "port"], ["--where", "nothing > 0"]):
        with pytest.raises(SystemExit):
            main(["cut", str(path), *options, "-o", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()
    assert path.read_bytes() == capgen.pcap(records())


# tcpcore streams.


def test_streams_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T-32: names of digits, letters, dots, dashes and underscores."""
    path, out = tmp_path / "in.pcap", tmp_path / "out"
    path.write_bytes(capgen.pcap(records()))
    assert main(["streams", str(path), "--out", str(out)]) == 0
    assert sorted(os.listdir(out)) == [
        f"{i:08d}-fd00__1.{1000 + i}-fd00__2.80.ab" for i in range(4)
    ]
    assert "4 streams, 12 bytes, 8 gaps of 24 bytes" in capsys.readouterr().out
    made = out / "00000001-fd00__1.1001-fd00__2.80.ab"
    assert made.read_bytes() == b"xxx"
    assert main(["streams", str(path), "--out", str(out), "--fill"]) == 0
    assert made.read_bytes() == b"x\0\0\0x\0\0\0x"
    fill = ["--fill", "--fill-max", "8"]
    assert main(["streams", str(path), "--out", str(out), *fill]) == 1
    assert os.listdir(out) == []


def test_streams_by_filter_and_condition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "in.pcap", tmp_path / "out"
    path.write_bytes(capgen.pcap(WITH_A_DATAGRAM))

    def run(*options: str) -> list[str]:
        assert main(["streams", str(path), "--out", str(out), *options]) == 0
        capsys.readouterr()
        return [os.path.basename(made) for made in sorted(out.iterdir()) if not made.unlink()]

    names = [f"{i:08d}-fd00__1.{1000 + i}-fd00__2.80.ab" for i in range(4)]
    assert run("--where", "a_port != 1001 and rtt_samples_ab == 0") == names[:1] + names[2:]
    assert run("--filter", "port 1002", "--where", "conn == 0") == [
        "00000000-fd00__1.1002-fd00__2.80.ab"
    ]
    assert run("--where", "conn > 9") == []
    for options in (["--filter", "port"], ["--where", "nothing > 0"]):
        with pytest.raises(SystemExit):
            main(["streams", str(path), "--out", str(out), *options])
    with pytest.raises(SystemExit):
        main(["streams", str(path), "--stream", "0:ab", "--where", "conn == 0"])


def test_streams_of_chosen_connections() -> None:
    found = tcpcore.replay(EXAMPLE, streams=True, where="b_port == 81 or conn == 0")
    assert {one.conn for one in found.streams()} <= set(found.connections["conn"].tolist())
    assert found.stream(1, "ab").length > 0  # by its number any


def test_one_stream(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["streams", str(EXAMPLE), "--stream", "0:ab"]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out.startswith(b"GET / HTTP/1.1\r\n")
    assert main(["streams", str(EXAMPLE), "--stream", "99:ab"]) == 2


def test_conflicts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T-14, T-32: in hexadecimal, so nothing of them reaches a terminal."""
    frames = [capgen.frame(flags=SYN, seq=9)]
    frames += [capgen.frame(flags=ACK, seq=10, payload=data) for data in (b"GOOD", b"\x1b[2J")]
    path = tmp_path / "in.pcap"
    path.write_bytes(capgen.pcap([(0, one, len(one)) for one in frames]))
    out = ["--out", str(tmp_path / "out"), "--conflicts"]
    assert main(["streams", str(path), *out]) == 0
    assert "0:ab 0 kept 474f4f44 other 1b5b324a" in capsys.readouterr().err
