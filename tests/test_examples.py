"""The programs in examples/ run as the README says, on the capture that is shipped with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tcpcore
from tcpcore import packetdrill

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def lines(name: str, *arguments: str | Path) -> list[str]:
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, kind: str = "") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    monkeypatch.chdir(ROOT)
    exec(blocks(README, "python")[0], {})


def test_readme_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = blocks(README, "python")[1]
    exec(program, {})
    assert f"# {capsys.readouterr().out}" in program
    assert len(tcpcore.replay("hello.pcapng").connections) == 1


def test_readme_script(tmp_path: Path) -> None:
    (script,) = blocks(README.partition("<!-- script: hello.pkt -->")[2].partition("## ")[0])
    path = tmp_path / "hello.pkt"
    path.write_text(script, encoding="utf-8")
    result = packetdrill.run(path)
    assert result.passed, result.report()


# Programs of the pages on hosts of one's own; those that need a device of the machine are left out.
PAGES = [
    (page, number, program)
    for page in ("socket", "network", "handshake")
    for number, program in enumerate(
        blocks((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "python")
    )
    if "TunLink" not in program
]


@pytest.mark.parametrize(
    ("page", "program"), [(p, t) for p, _, t in PAGES], ids=[f"{p}-{n}" for p, n, _ in PAGES]
)
def test_programs_of_pages(
    page: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = {"serve": lambda: None, "ask": lambda: None}  # the programs that it runs
    exec(program, nothing)


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda p: p.name
)
def test_links(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_names_of_pages() -> None:
    """What pages call tcpcore.something is there after `import tcpcore` alone."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = sorted(set(re.findall(r"\btcpcore\.(?!pytest_plugin)[a-z_]+\.[A-Z]\w+", text)))
    program = "import tcpcore\n" + "\n".join(names)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert names
    assert done.returncode == 0, done.stderr


def test_handshakes() -> None:
    report = lines("handshakes.py", EXAMPLES / "http.pcap")
    assert len(report) == 3
    assert any("[fd00::2]:80" in line for line in report)
    assert any("10.0.0.2:80" in line for line in report)
    assert all(line.endswith("µs") for line in report)


def test_why_dropped() -> None:
    report = lines("why_dropped.py", EXAMPLES / "http.pcap")
    assert any("IP_NOPROTO" in line for line in report)


def test_talkers() -> None:
    pytest.importorskip("polars")
    report = "\n".join(lines("talkers.py", EXAMPLES / "http.pcap"))
    assert "10.0.0.2" in report
    assert "fd00::2" in report


def test_follow() -> None:
    report = lines("follow.py", EXAMPLES / "http.pcap")
    assert len(report) == 6


def test_record(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("recording needs Linux, root and iproute2")
    capture = tmp_path / "http.pcap"
    done = run("record.py", capture)
    if done.returncode != 0 and "Operation not permitted" in done.stderr:
        pytest.skip("no network namespaces here")
    assert done.returncode == 0, done.stderr
    assert capture.stat().st_size > 24
    assert len(lines("handshakes.py", capture)) == 3


WEB = """
    import http.server, subprocess, sys, threading, time, urllib.request

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    program, folder = sys.argv[1:]
    words = [sys.executable, program]
    serving = subprocess.Popen([*words, "serve", folder], stdout=-1, stderr=-1, text=True)
    assert serving.stdout.readline().startswith("http://"), serving.communicate()[1]
    for url in ("http://10.77.0.2/large", "http://[fd77::2]/large"):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read() == open(f"{folder}/large", "rb").read()
    serving.send_signal(2)
    out, _ = serving.communicate(timeout=30)
    assert "'TcpPassiveOpens': 2" in out, out

    handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=folder)
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 80), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = subprocess.run([*words, "get", "/large"], capture_output=True, text=True, timeout=30)
    print(done.stdout, done.stderr)
"""


def test_web(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a device of the machine's network needs Linux and root")
    if not (shutil.which("ip") and shutil.which("unshare") and os.path.exists("/dev/net/tun")):
        pytest.skip("needs iproute2, util-linux and /dev/net/tun")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 8000)
    command = ["unshare", "-n", sys.executable, "-c", textwrap.dedent(WEB)]
    done = subprocess.run(
        [*command, str(EXAMPLES / "web.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no network namespaces here")
    assert done.returncode == 0, done.stderr
    assert "200 OK 2048000 bytes" in done.stdout
