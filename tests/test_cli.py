"""The command: what it prints where, its tables, its exit statuses, Ctrl-C and broken pipes."""

from __future__ import annotations

import csv
import doctest
import fcntl
import gzip
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import capgen
import pytest

import tcpcore
from tcpcore import cli

SEC = capgen.SEC
ONE = capgen.conversation()
CAPTURE = capgen.pcap(ONE)


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A capture of one connection."""
    path = tmp_path / "one.pcap"
    path.write_bytes(CAPTURE)
    return str(path)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> object:
    """`main` takes SIGINT for itself: give it back. Standard error is the command's alone."""
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::RuntimeWarning")
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def tcpcore_command(*args: str) -> list[str]:
    return [sys.executable, "-m", "tcpcore", *args]


def run(*args: str, data: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        tcpcore_command(*args),
        input=data,
        capture_output=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )


def usage(args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said to a call that makes no sense."""
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


# ---- the report ---------------------------------------------------------------------------------


def test_report(engine, one, capsys):
    assert cli.main(["replay", one, "--engine", engine.ENGINE]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        one,
        "pcap, ETHERNET",
        f"{len(ONE)} packets",
        "1970-01-01 00:00:01.000000 UTC",
        f"{len(ONE)} segments in 1 connection\n",
        "packets/s",
        "Gbit/s",
        "100.0%",
        "10.0.0.1:40000",
        "TcpInSegs",
        f"{engine.ENGINE}, {engine.isa()}",
    ):
        assert words in out
    assert "\x1b" not in out


def test_json(engine, one, capsys):
    assert cli.main(["replay", one, "--json", "--engine", engine.ENGINE]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = tcpcore.replay(one, engine=engine.ENGINE).summary
    for key in ("cpu_seconds", "packets_per_second", "bits_per_second"):
        assert printed.pop(key) > 0
        del found[key]
    assert printed == found


def test_report_tells_drops_and_bad_checksums(engine, tmp_path, capsys):
    frames = [
        (SEC, capgen.frame(flags=capgen.SYN, csum=1)),
        (SEC, capgen.ethernet(b"", 0x0806)),
    ]
    path = tmp_path / "bad.pcap"
    path.write_bytes(capgen.pcap(frames))
    assert cli.main(["replay", str(path), "--engine", engine.ENGINE]) == 0
    out, err = capsys.readouterr()
    assert "UNHANDLED_PROTO" in out
    assert "not IP" in out
    assert err.count("\n") == 1
    assert "1 bad TCP checksum (1 from a to b, 0 from b to a)" in err
    assert "checksum auto: 1 is really wrong: state did not take it" in err
    ignore = ["--checksum", "ignore", "--engine", engine.ENGINE]
    assert cli.main(["replay", str(path), *ignore]) == 0
    assert "offload" in capsys.readouterr().err
    assert cli.main(["replay", str(path), "--checksum", "strict", "--engine", engine.ENGINE]) == 0
    assert "TCP_CSUM" in capsys.readouterr().out


def test_ascii_where_it_must_be(one):
    done = run("replay", one, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert b"##" in done.stdout


def test_names_cannot_command_the_terminal(tmp_path):
    path = os.fsencode(tmp_path) + b"/\x1b[31m\xff.pcap"
    with open(path, "wb") as file:
        file.write(CAPTURE[:-1])
    done = run("replay", os.fsdecode(path))
    assert done.returncode == 1
    for text in (done.stdout, done.stderr):
        assert b"\x1b" not in text
        assert b"\\x1b[31m\\xff.pcap" in text
    done = run("replay", "--json", os.fsdecode(path))
    assert os.fsencode(json.loads(done.stdout)["files"][0]["path"]) == path


def test_arguments_cannot_command_the_terminal(capsys):
    err = usage(["replay", "x", "--\x1b[31m"], capsys)
    assert "\x1b" not in err
    assert "--\\x1b[31m" in err


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_report_fits_the_terminal(one, width):
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        tcpcore_command("replay", one), stdout=side, env={**env, "TERM": "xterm"}
    ) as process:
        os.close(side)
        text = everything(main)
        assert process.wait(60) == 0
    assert b"\x1b[1m" in text
    table = text.replace(b"\x1b[0m", b"").partition(b"Busiest connections")[2]
    lines = table.decode().splitlines()[1:3]
    assert max(map(len, lines)) <= width


def test_no_color(one):
    main, side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(tcpcore_command("replay", one), stdout=side, env=env) as process:
        os.close(side)
        text = everything(main)
        assert process.wait(60) == 0
    assert b"packets/s" in text
    assert b"\x1b" not in text


def everything(fd: int) -> bytes:
    """What a terminal shows until the other end is closed."""
    text = b""
    try:
        while data := os.read(fd, 65536):
            text += data
    except OSError:  # EIO: nobody holds the other end
        pass
    os.close(fd)
    return text


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tcpcore {tcpcore.__version__} ")
    assert tcpcore.ENGINE in out


def test_no_verb(capsys):
    assert cli.main([]) == 2
    assert "replay" in capsys.readouterr().err


# ---- inputs and exit statuses -------------------------------------------------------------------


def test_standard_input(one):
    done = run("replay", "-", "--json", data=gzip.compress(CAPTURE))
    assert done.returncode == 0
    assert json.loads(done.stdout)["packets"] == len(ONE)


def test_damage_is_told_after_the_report(one, tmp_path, capsys):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(CAPTURE[:-1])
    assert cli.main(["replay", one, str(cut)]) == 1
    out, err = capsys.readouterr()
    assert f"{2 * len(ONE) - 1} packets" in out
    at = len(capgen.pcap(ONE[:-1]))
    assert err.startswith(f"tcpcore: {cut}: byte {at}: ")


def test_worst_status_wins_and_the_rest_is_read(one, tmp_path, capsys):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(CAPTURE[:-1])
    missing = str(tmp_path / "missing")
    assert cli.main(["replay", "--json", missing, str(cut), one]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["packets"] == 2 * len(ONE) - 1
    assert f"tcpcore: {missing}: No such file or directory\n" in err


@pytest.mark.parametrize("data", [b"", b"no capture, but bytes enough to tell that"])
def test_no_capture(tmp_path, capsys, data):
    path = tmp_path / "junk"
    path.write_bytes(data)
    assert cli.main(["replay", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tcpcore: {path}: ")


def test_directory(tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["replay"],
        ["rewind", "x"],
        ["replay", "x", "--count", "0"],
        ["replay", "x", "--count", "many"],
        ["replay", "x", "--from", "yesterday"],
        ["replay", "x", "--from", "2024-13-01"],
        ["replay", "x", "--from", "9223372037"],
        ["replay", "x", "--from", "2", "--to", "1"],
        ["replay", "x", "--checksum", "maybe"],
        ["replay", "x", "--engine", "steam"],
        ["replay", "x", "--max-connections", "-1"],
        ["replay", "x", "--expire-idle", "-1"],
        ["replay", "x", "--expire-closed", "nan"],
        ["replay", "x", "--connections", "-"],
        ["replay", "x", "--connections", "-", "--packets", "-", "--format", "csv"],
        ["replay", "x", "--connections", "table.xls"],
        ["replay", "x", "--packets", "table"],
        ["replay", "x", "--format", "csv"],
        ["replay", "-", "-"],
    ],
)
def test_usage(args, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "error: " in usage(args, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("-0.000000001", -1),
        ("9223372036.854775807", (1 << 63) - 1),
        ("1970-01-02", 86_400 * SEC),
        ("2001-09-09T01:46:40Z", 10**18),
        ("2001-09-09 01:46:40.000000001", 10**18 + 1),
        ("2001-09-09T03:46:40+02:00", 10**18),
        ("2001-09-09T03:46+0200", 10**18 - 40 * SEC),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_times_are_exact(text, ns):
    assert cli._moment(text) == ns


def test_from_to_count(one, capsys):
    first = ONE[0][0]
    args = ["replay", one, "--json", "--from", f"{first / SEC + 0.002}", "--to", "1.005"]
    assert cli.main(args) == 0
    assert json.loads(capsys.readouterr().out)["packets"] == 3
    assert cli.main([*args, "--count", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["packets"] == 2


def test_limits(engine, tmp_path, capsys):
    """Half-open connections past the limit are given up, and still counted."""
    frames = [
        (SEC + i, capgen.frame("10.0.0.1", "10.0.0.2", 1000 + i, 80, flags=capgen.SYN))
        for i in range(100)
    ]
    path, table = tmp_path / "flood.pcap", tmp_path / "flood.csv"
    path.write_bytes(capgen.pcap(frames, fmt="pcap-ns"))
    args = ["replay", str(path), "--json", "--max-connections", "10", "--engine", engine.ENGINE]
    for more in ([], ["--connections", str(table)]):
        assert cli.main([*args, *more]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["connections"] == 100
        assert summary["evicted"] == 90
        assert sum(summary["states"].values()) == 100
    with open(table, newline="") as file:
        assert sorted(int(row["conn"]) for row in csv.DictReader(file)) == list(range(100))


# ---- tables -------------------------------------------------------------------------------------


def test_csv(one, tmp_path):
    connections, packets = tmp_path / "connections.csv", tmp_path / "packets.csv"
    assert (
        cli.main(["replay", one, "--connections", str(connections), "--packets", str(packets)]) == 0
    )
    with open(connections, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert rows[0]["a_addr"] == "10.0.0.1"
    assert rows[0]["state_a"] in ("TIME-WAIT", "CLOSED")
    with open(packets, newline="") as file:
        assert len(list(csv.DictReader(file))) == len(ONE)


@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "arrow", "parquet"])
def test_table_on_standard_output(one, form):
    """The table alone goes there, and the report to standard error."""
    if form in ("arrow", "parquet"):
        pytest.importorskip("pyarrow")
    done = run("replay", one, "--packets", "-", "--format", form)
    assert done.returncode == 0
    assert b"packets/s" in done.stderr
    assert b"packets/s" not in done.stdout
    out = io.BytesIO(done.stdout)
    if form == "csv":
        rows = len(list(csv.DictReader(io.TextIOWrapper(out))))
    elif form == "jsonl":
        rows = len([json.loads(line) for line in out])
    elif form == "npz":
        import numpy as np

        rows = len(np.load(out)["packet"])
    elif form == "arrow":
        import pyarrow.ipc

        rows = pyarrow.ipc.open_stream(out).read_all().num_rows
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).num_rows
    assert rows == len(ONE)


def test_batches_of_rows_are_the_whole_table(one, tmp_path, monkeypatch, capsys):
    frames = [frame for i in range(40) for frame in capgen.conversation(sport=1000 + i)]
    path = tmp_path / "many.pcap"
    path.write_bytes(capgen.pcap(frames))
    texts = []
    for batch in (1 << 30, 1):
        monkeypatch.setattr(cli, "BATCH", batch)
        table = tmp_path / f"{batch}.csv"
        source = [str(path), one, str(path)]
        assert cli.main(["replay", *source, "--packets", str(table)]) == 0
        texts.append(table.read_text())
    assert texts[0] == texts[1]


def test_table_cannot_be_written(one, tmp_path, capsys):
    target = tmp_path / "no" / "table.csv"
    assert cli.main(["replay", one, "--connections", str(target)]) == 2
    assert capsys.readouterr().err == f"tcpcore: {target}: No such file or directory\n"


@pytest.mark.parametrize("descriptor", [1, 2])
def test_closed_stream(tmp_path, descriptor):
    """What would go there goes nowhere, above all not into the other one."""
    path = tmp_path / "cut.pcap"
    path.write_bytes(CAPTURE[:-1])
    command = tcpcore_command("replay", "--json", str(path))
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *command],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    if descriptor == 1:
        assert done.stderr.count(b"\n") == 1
        assert b"record is cut" in done.stderr
    else:
        assert json.loads(done.stdout)["packets"] == len(ONE) - 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_disk(one):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            tcpcore_command("replay", one, "--packets", "-", "--format", "csv"),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"tcpcore: No space left on device")
    assert b"Traceback" not in done.stderr


# ---- the pages about it -------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("replay", "filter", "streams", "analysis")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_page_python(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    programs = blocks(page, "python")
    assert programs
    for program in programs:
        exec(program, names)


@pytest.mark.parametrize("page", PAGES)
def test_page_commands(page):
    """Each command prints what the page shows; ... stands for anything."""
    shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks(page, "console")), re.M)
    assert shown or page == "analysis"
    shell = 'tcpcore() { "$PYTHON" -m tcpcore "$@"; }\n'
    for command, want in shown:
        done = subprocess.run(
            ["bash", "-c", shell + command],
            cwd=ROOT,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert doctest.OutputChecker().check_output(want, done.stdout, doctest.ELLIPSIS), (
            f"{command}\n{done.stdout}{done.stderr}"
        )


# ---- signals, pipes, terminals ------------------------------------------------------------------


def waits_for_input(process: subprocess.Popen[bytes]) -> None:
    """Return once all that was written to it has been read."""
    assert process.stdin is not None
    unread = bytearray(4)
    for _ in range(3000):
        fcntl.ioctl(process.stdin, termios.FIONREAD, unread)
        if unread == bytes(4):
            time.sleep(0.2)
            return
        time.sleep(0.01)
    pytest.fail("it does not read")


def test_interrupt_gives_the_report_so_far():
    with subprocess.Popen(
        tcpcore_command("replay", "-", "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(CAPTURE[:-1])
        process.stdin.flush()
        waits_for_input(process)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - start < 1  # a tenth, and what a busy machine adds
    assert process.returncode == 130
    assert json.loads(out)["packets"] == len(ONE) - 1
    assert b"Traceback" not in err


def test_interrupt_between_chunks(one, capsys, monkeypatch):
    """The handler alone does not tear a chunk: it is processed, and then the run ends."""
    feed = tcpcore.passive.Run._feed

    def interrupted(self: tcpcore.passive.Run, source: object) -> object:
        for _ in feed(self, source):
            assert not self.blocked
            os.kill(os.getpid(), signal.SIGINT)
            yield

    monkeypatch.setattr(tcpcore.passive.Run, "_feed", interrupted)
    assert cli.main(["replay", one, one]) == 130
    out = capsys.readouterr().out
    assert "interrupted" in out
    assert f"{len(ONE)} segments" in out


def test_broken_pipe(one):
    """`tcpcore replay … | head -0` says nothing of it."""
    read, write = os.pipe()
    os.close(read)
    for args in (["--json"], ["--packets", "-", "--format", "csv"]):
        done = subprocess.run(
            tcpcore_command("replay", one, *args),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        assert done.returncode == 141
        assert b"Traceback" not in done.stderr
        assert b"BrokenPipe" not in done.stderr
    os.close(write)


def test_progress_on_a_terminal(tmp_path):
    """A bar after a second, gone at the end; the report is not touched by it."""
    main, side = pty.openpty()
    with subprocess.Popen(
        tcpcore_command("replay", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=side,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(side)
        assert process.stdin is not None
        process.stdin.write(CAPTURE)
        process.stdin.flush()
        waits_for_input(process)
        shown = b""
        for i in range(100):
            process.stdin.write(capgen.pcap_record((10 + i) * SEC, ONE[0][1]))
            process.stdin.flush()
            if select.select([main], [], [], 0.1)[0]:
                shown += os.read(main, 4096)
                break
        assert process.stdin is not None
        process.stdin.close()
        shown += everything(main)
        out = process.stdout.read() if process.stdout else b""
        assert process.wait(60) == 0
    assert b"packets/s" in shown
    assert shown.endswith(b"\r\x1b[K")
    assert b"\r" not in out


def test_quiet_in_a_pipe(one):
    done = run("replay", one)
    assert done.stderr == b""


def test_light_start(one):
    """numpy and what else costs time is imported where it is used."""
    code = (
        "import sys; from tcpcore.cli import main; main(sys.argv[1:]); "
        "heavy = {'numpy', 'pyarrow', 'gzip', 'zlib', 'shutil', 'ctypes', 'inspect', 'logging', "
        "'dataclasses', 'pathlib', 'subprocess', 'asyncio', 'socket', 'datetime', 'ipaddress'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, "replay", one],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(tcpcore.__file__))},
        check=False,
    )
    assert done.stderr.decode().splitlines()[-1] == "[]"
