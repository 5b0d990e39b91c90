"""`tcpcore handshake`, the pytest plugin, and the programs in examples/ that have hosts."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tcpcore
from tcpcore import cli
from tcpcore.handshake import SHOWN, describe, walk

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ["reference", "compiled"]


def said(**options: object) -> list[str]:
    lines: list[str] = []
    walk(lines.append, **options)
    return lines


def names(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.startswith(" " * 13)]


# ---- the walk -----------------------------------------------------------------------------------


def test_the_functions_that_are_shown_exist() -> None:
    there = set()
    for path in (ROOT / "tcpcore" / "reference").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        there |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert there >= SHOWN


def test_the_walk() -> None:
    lines = said()
    passed = names(lines)
    path = [
        "tcp_v4_connect",
        "inet_hash_connect",
        "secure_tcp_seq",
        "tcp_connect",
        "tcp_transmit_skb",
        "tcp_v4_rcv",
        "tcp_v4_do_rcv",
        "tcp_conn_request",
        "tcp_v4_send_synack",
        "tcp_rcv_synsent_state_process",
        "tcp_send_ack",
        "tcp_check_req",
        "tcp_child_process",
        "inet_csk_accept",
    ]
    places = []
    for name in path:
        places.append(passed.index(name, places[-1] if places else 0))
    assert places == sorted(places)
    states = [line.strip() for line in lines if line.strip().startswith("client ")]
    assert states == [
        "client CLOSED, server CLOSED",
        "client CLOSED, server LISTEN (requests 0, to accept 0)",
        "client SYN-SENT, server LISTEN (requests 0, to accept 0)",
        "client SYN-SENT, server LISTEN (requests 1, to accept 0)",
        "client ESTABLISHED, server LISTEN (requests 1, to accept 0)",
        "client ESTABLISHED, server LISTEN (requests 0, to accept 1)",
        "client ESTABLISHED, server ESTABLISHED",
        "client FIN-WAIT-1, server ESTABLISHED",
        "client FIN-WAIT-1, server CLOSE-WAIT",
        "client FIN-WAIT-1, server LAST-ACK",
        "client TIME-WAIT (without a socket), server LAST-ACK",
        "client TIME-WAIT (without a socket), server CLOSED",
    ]
    assert said() == lines, "always the same"


def test_with_cookies_there_is_no_request() -> None:
    lines = said(cookies=True)
    assert "cookie_v4_init_sequence" in names(lines)
    assert "tcp_v4_cookie_check" in names(lines)
    assert "tcp_check_req" not in names(lines)
    assert not any("requests 1" in line for line in lines)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "walk.pcapng"
    assert cli.main(["handshake", "--ipv6", "--brief", "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert not names(out.splitlines())
    assert out.count("-->") + out.count("<--") == 6
    assert out.isascii()
    seen = tcpcore.replay(path, engine="reference")
    assert seen.connections["ip"][0] == 6
    assert seen.summary["packets"] == 6


def test_options_that_nobody_knows() -> None:
    head = b"\x45" + bytes(19) + bytes(12) + b"\x80\x02" + bytes(6)
    assert "option 99 1" in describe(head + b"\x01\x63\x03\x01" + bytes(8))


def test_the_page_shows_what_runs() -> None:
    """Every packet and state of the page's trace is what the command prints."""
    page = (ROOT / "docs" / "handshake.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if "-->" in line or "<--" in line]
    told = [line.strip() for line in said()]
    assert shown
    assert all(line.strip() in told for line in shown)


# The path that issue and page walk along.
PATH = (
    "tcp_v4_connect inet_hash_connect secure_tcp_seq secure_tcp_ts_off tcp_connect "
    "tcp_rcv_synsent_state_process tcp_send_ack tcp_conn_request tcp_v4_send_synack tcp_check_req "
    "tcp_child_process inet_csk_accept tcp_v4_rcv tcp_v4_do_rcv tcp_rcv_established "
    "tcp_v4_cookie_check cookie_v4_check cookie_v4_init_sequence tcp_rcv_state_process "
    "tcp_v4_send_reset"
)


def test_the_functions_of_the_page_are_in_both_engines() -> None:
    page = (ROOT / "docs" / "handshake.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    compiled = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pyx").glob("*.pxd"))
    there = set(re.findall(r"^cdef inline [^(]*?(\w+)\(", compiled, re.MULTILINE))
    assert named >= set(PATH.split())
    assert there >= SHOWN
    reference = set()
    for path in (ROOT / "tcpcore" / "reference").glob("*.py"):
        reference |= set(
            re.findall(r"^def (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    functions = named & (reference | there)
    assert len(functions) > 40
    assert functions <= reference & there


def test_the_program_of_the_page() -> None:
    page = (ROOT / "docs" / "socket.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(program.replace("\nnetwork.run", "\nfound = network.run"), names)
    assert names["found"] == [None, b"HELLO"]


# ---- the plugin ---------------------------------------------------------------------------------

ONE_TEST = """
    def test_it(tcpcore_network):
        client, server = tcpcore_network.host("client"), tcpcore_network.host("server")
        tcpcore_network.link(client, server, delay_s=0.01)
        with server.listen(("", 80)) as listener:
            sock = client.connect(("server", 80))
            other, _ = listener.accept()
        sock.close()
        other.close()
        assert {condition}
"""


def plugin(pytester: pytest.Pytester, condition: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(ONE_TEST.format(condition=condition))
    return pytester.runpytest("-p", "tcpcore.pytest_plugin", *options)


def test_the_fixture(pytester: pytest.Pytester) -> None:
    done = plugin(pytester, "tcpcore_network.seed == 5", "--tcpcore-seed=5")
    done.assert_outcomes(passed=1)
    assert "capture:" not in done.stdout.str()


def test_a_failure_tells_how_to_repeat_it(pytester: pytest.Pytester) -> None:
    done = plugin(pytester, "False")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*tcpcore network*", "seed: 0 (--tcpcore-seed=0)", "capture: *"])
    (line,) = (one for one in done.outlines if one.startswith("capture: "))
    replay = tcpcore.replay(line.removeprefix("capture: "), engine="reference")
    assert len(replay.connections) == 1


# ---- the examples -------------------------------------------------------------------------------


def example(name: str, *arguments: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TCPCORE_PURE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_echo() -> None:
    assert example("echo.py") == [
        "0.060 s  server: 10.0.0.1 is here",
        "0.080 s  client: hello",
        "0.120 s  client: how are you",
        "0.161 s  client: goodbye",
    ]


def test_lossy(tmp_path: Path) -> None:
    report = example("lossy.py", tmp_path / "lossy.pcapng")
    assert report[0] == "300000 bytes, the same"
    assert report[-1] == "in the capture: 300000 bytes of the stream"


def test_flood() -> None:
    report = example("flood.py")
    assert report[-2:] == ["accepted 10.0.0.1: I am real", "cookies that came back: 1"]
