"""Whatever a packetdrill script holds, it ends: with an answer, soon, and in so much memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tcpcore import cli, packetdrill
from tcpcore.packetdrill import target as targets
from tcpcore.packetdrill.files import FILES_MAX
from tcpcore.packetdrill.lexer import SCRIPT_MAX
from tcpcore.packetdrill.target import Result

pytest_plugins = ["pytester"]

SOCKET = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n"
SERVER = f"""{SOCKET}
+0 bind(3, ..., ...) = 0
+0 listen(3, 1) = 0
+0 < S 0:0(0) win 1000 <mss 1000>
+0 > S. 0:0(0) ack 1 <mss 1460>
+0 < . 1:1(0) ack 1 win 1000
+0 accept(3, ..., ...) = 4
"""
HUGE = 1 << 63


def run(text: str, **options: object) -> Result:
    options.setdefault("engine", "reference")
    return packetdrill.run("here.pkt", text=text, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SOCKET + "+0 listen(3, 1) = 0\n" * (SCRIPT_MAX // 10), "more than 4 Mi characters"),
        (SOCKET + f"+0 close({'9' * 5000}) = 0", "a number has too many digits"),
        (SOCKET + f"+0 close(0x{'9' * 5000}) = 0", "too many digits"),
        (SOCKET + f"+0 close({'~' * 100_000}3) = 0", "nested too deep"),
        (SOCKET + f"+0 close({'[' * 100_000}3) = 0", "nested too deep"),
        (SOCKET + f"+0 > {'ipv4 a > b : ' * 10_000}. 1:1(0) ack 1", "headers are nested too deep"),
        (SOCKET + "/* " * 300_000, "a comment without an end"),
        (SOCKET + "%{ " * 300_000, "a snippet without an end"),
        ('"' * 300_001, "a string without an end"),
        (os.urandom(4096).decode("utf-8", "surrogateescape").replace("/", "?"), ""),
        ("\0" * 100_000, "unexpected character '\\x00'"),
        (SOCKET + "+0 _init__(3) = 0", "unknown system call _init__"),
        (SOCKET + "+0 check_result(3, 4) = 0", "unknown system call check_result"),
        (SERVER + "+0 writev(4, [{..., 1073741824}, {..., 1}], 2) = 1", "of 1073741825 bytes"),
        ("--mtu=67\n" + SOCKET, "--mtu must be from 68 to 65535, not 67"),
        ("--bind_port=65536\n" + SOCKET, "--bind_port must be from 0 to 65535, not 65536"),
        (f"--tolerance_percent={'9' * 400}\n" + SOCKET, "--tolerance_percent must be a number"),
        (f"--{'x' * 100_000}\n" + SOCKET, "unknown option --xxx"),
    ],
)  # fmt: skip
def test_what_is_no_script(text: str, words: str) -> None:
    result = run(text)
    assert result.kind == "parse"
    assert words in str(result.error)
    assert len(result.report()) < 1000


@pytest.mark.parametrize(
    ("events", "kind", "words"),
    [
        (f"+0 listen(3, {HUGE}) = 0", "pass", ""),
        (f"+0 shutdown({HUGE - 1}, 1) = -1 EBADF", "pass", ""),
        (f"+0 poll([{{fd=4, events=POLLIN}}], 1, {HUGE - 1}) = 0", "fail", "the call blocks"),
        ("+0 poll([{fd=4, events=POLLIN}], 1, 2147483647) = 0", "pass", ""),
        ("+0...999999999 read(4, ..., 10) = 0", "fail", "the call does not return"),
        ("+0...1 write(4, ..., 1073741824) = 1", "fail", "the call does not return"),
        ("+999999999 close(4) = 0", "pass", ""),
        (f"+0 epoll_create({HUGE}) = -1 EINVAL", "pass", ""),
        (f"+0 fcntl(4, F_SETFL, {HUGE}) = 0", "pass", ""),
        ('+0 setsockopt(4, SOL_TCP, TCP_CONGESTION, "c€", 4) = 0', "fail", "-1 ENOENT"),
        ("+0 %{ raise GeneratorExit }%", "fail", "GeneratorExit"),
        ("+0 %{ \udc80 }%", "fail", "snippet: line 9: "),
        ("+0 `sysctl tcp_sack=$((1 << 9999999999))`", "fail", "exit status is 1"),
        ("+0 `sysctl tcp_sack=$((7 / 2 - 5 % 3 - ~-1))`", "pass", ""),
        ("+0 `sysctl tcp_sack=$((1 / 0))`", "unsupported", "the shell's $((1 / 0))"),
        ("+0 `sysctl tcp_sack=$((f.x))`", "unsupported", "the shell's $((f.x))"),
        (f"+0 `rm {'a ' * 1001}`", "unsupported", "a command of more than 1000 words"),
        (f"+0 `{'a' * 100_000}`", "unsupported", "the command aaa"),
        ("* > . 1:1(0) ack 1", "fail", "no packet came"),
    ],
)  # fmt: skip
def test_what_is_odd(events: str, kind: str, words: str) -> None:
    result = run(SERVER + events)
    assert (result.kind, words in str(result.error)) == (kind, True), result.report()
    assert len(result.report()) < 2000


def test_descriptors() -> None:
    text = "".join(f"+0 socket(..., SOCK_STREAM, 0) = {i}\n" for i in range(3, FILES_MAX))
    assert run(text).passed
    assert run(text + "+0 socket(..., SOCK_STREAM, 0) = -1 EMFILE\n+0 close(3) = 0\n"
               "+0 pipe([5000, 5001]) = -1 EMFILE\n+0 epoll_create(1) = 3").passed  # fmt: skip


def test_many_events() -> None:
    assert run(SERVER + "+0 close(4) = 0\n+0 socket(..., SOCK_STREAM, 0) = 4\n" * 5000).passed
    assert run(SERVER + "+0 %{}%\n" * 5000).passed
    assert run(SERVER + "+0 listen(3, 1) = 0 " * 5000).passed


@pytest.mark.skipif(sys.platform == "win32", reason="has no alarms")
@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("%{\nwhile True:\n    pass\n}%", "snippet: line 10: Overtime: no end within 0.2 seconds"),
        ("%{ import time; time.sleep(1e6) }%", "snippet: line 9: Overtime"),
        ("%{\ntry:\n    while True: pass\nexcept Exception:\n    pass\n}%", "Overtime"),
        ("`nstat -z | grep -E '(( *)*)*(.*)*(.*)*[|]$'`", "the command has no end within 0.2"),
    ],
)
def test_what_does_not_end(event: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "WORK_MAX_S", 0.2)
    result = run(f"{SERVER}+0 {event}")
    assert result.kind == "fail"
    assert words in str(result.error)
    assert run(SERVER + "+0 %{ pass }%").passed


def test_a_snippet_that_ends_its_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(6):
        event = "+0 %{ import os; os._exit(0) }%" if i == 2 else ""
        Path(tmp_path, f"{i}.pkt").write_text(SERVER + event)
    assert cli.main(["packetdrill", "--json", "-j", "2", str(tmp_path)]) == 5
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["result"] for one in told] == ["pass"] * 2 + ["fail"] + ["pass"] * 3
    assert told[2]["error"] == "internal error: the script's process died"


def test_more_jobs_than_scripts(tmp_path: Path) -> None:
    for i in range(2):
        Path(tmp_path, f"{i}.pkt").write_text(SERVER)
    assert cli.main(["packetdrill", "-j", "1000000", str(tmp_path)]) == 0


def test_a_folder_without_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    good.write_text(SERVER)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert cli.main(["packetdrill", "--json", str(folder), str(good)]) == 2
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["result"] for one in told] == ["fail", "pass"]
    assert told[0]["error"] == "no *.pkt in it"


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("what", ["KeyboardInterrupt", "SystemExit(0)", "GeneratorExit"])
def test_a_snippet_ends_its_script_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, jobs: str
) -> None:
    for i in range(3):
        event = "+0 %{ raise " + what + " }%" if i == 1 else ""
        Path(tmp_path, f"{i}.pkt").write_text(SERVER + event)
    assert cli.main(["packetdrill", "--json", "-j", jobs, str(tmp_path)]) == 1
    told = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["pass", "fail", "pass"]


def test_arguments_of_run() -> None:
    with pytest.raises(ValueError, match="--mtu must be"):
        run(SERVER, options={"mtu": 1})
    with pytest.raises(ValueError, match="engine"):
        run(SERVER, engine="another", dry_run=True)
    with pytest.raises(ValueError, match="target"):
        run(SERVER, target="another")
    with pytest.raises(FileNotFoundError):
        packetdrill.run("/nowhere/x.pkt")
    if os.path.exists("/dev/zero"):
        assert packetdrill.run("/dev/zero").kind == "parse"


def test_no_script_is_too_long_for_a_kernel() -> None:
    result = run(SERVER + "+3601 close(4) = 0", target="kernel")
    assert (result.kind, result.line) == ("unsupported", 9)
    assert result.error == "more than 3600 seconds of real time"


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux and root"
)
def test_commands_of_a_kernel_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from tcpcore.packetdrill import kernel

    monkeypatch.setattr(kernel, "COMMAND_MAX_S", 0.5)
    result = run(SOCKET + "+0 `sleep 1000 | cat`", target="kernel")
    if result.kind == "skipped":
        pytest.skip(str(result.error))
    assert result.error == "the command has no end within 0.5 seconds: sleep 1000 | cat"
    result = run(SOCKET + "+0 `sleep 30 &`\n+0 `echo why >&2; exit 3`", target="kernel")
    assert (result.kind, result.line, result.details[0]) == ("fail", 3, "why")


def test_pytest_tells_why_it_skips(pytester: pytest.Pytester) -> None:
    Path(pytester.path, "one.pkt").write_text("0 `frobnicate`")
    Path(pytester.path, "two.pkt").write_text("--ip_version=ipv6\n" + SOCKET)
    result = pytester.runpytest_inprocess("-p", "tcpcore.pytest_plugin", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        ["*one.pkt:1: unsupported: *the command frobnicate", "*two.pkt: skipped: IPv6"]
    )
