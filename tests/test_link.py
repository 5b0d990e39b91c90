"""Links: in memory, of functions, and to the machine's kernel by TUN, TAP and packet sockets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tcpcore

ENGINES = ["reference", "compiled"]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def talk(client: tcpcore.Stack, server: tcpcore.Stack, address: str = "10.0.0.2") -> None:
    """Some data both ways."""
    with server.listen(("::" if ":" in address else "", 80)) as listener:
        one = client.connect((address, 80), timeout=30)
        other, _ = listener.accept()
    one.sendall(b"question" * 1000)
    assert other.recv(8000, 0x100) == b"question" * 1000
    other.sendall(b"answer")
    assert one.recv(99) == b"answer"
    one.close()
    other.close()


def test_memory(engine: str) -> None:
    a, b = tcpcore.MemoryLink.pair(delay_s=0.01, mtu=600)
    clock = tcpcore.VirtualClock()
    sizes: list[int] = []
    a.tap(lambda frame, now_ns: sizes.append(len(frame)))
    client = tcpcore.Stack("10.0.0.1/24", link=a, clock=clock, seed=1, engine=engine)
    server = tcpcore.Stack("10.0.0.2/24", link=b, clock=clock, seed=2, engine=engine)
    talk(client, server)
    assert max(sizes) == 600
    assert a.fileno() == b.fileno() == -1
    assert a.in_flight
    a.close()
    b.close()
    assert not a.in_flight


def test_too_large_is_dropped() -> None:
    a, b = tcpcore.MemoryLink.pair(mtu=100)
    a.send([bytes(101), bytes(100)], 0)
    assert [len(frame) for frame in b.recv(0)] == [100]
    assert a.dropped == 1
    with pytest.raises(ValueError, match="at least 68"):
        tcpcore.MemoryLink.pair(mtu=60)


@pytest.mark.parametrize(
    "bad",
    [
        {"loss": 1.1},
        {"loss": -0.1},
        {"delay_s": -1},
        {"burst": (2, 0)},
        {"queue": -1},
        {"burst": 0.5},
        {"burst": (0.5,)},
        {"delay_s": float("nan")},
        {"rate_bps": float("inf")},
    ],
)
def test_a_path_is_held_to_bounds(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        tcpcore.Path(**bad)


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_ethernet(address: str, engine: str) -> None:
    """Two hosts find each other by ARP, or by neighbour discovery."""
    a, b = tcpcore.MemoryLink.pair(delay_s=0.001, ethernet=True)
    clock = tcpcore.VirtualClock()
    kinds: list[bytes] = []
    a.tap(lambda frame, now_ns: kinds.append(frame[12:14]))
    hosts = [
        tcpcore.Stack(
            (f"10.0.0.{number}/24", f"fd00::{number}/64"),
            link=link,
            clock=clock,
            seed=number,
            engine=engine,
        )
        for number, link in ((1, a), (2, b))
    ]
    talk(*hosts, address)
    six = ":" in address
    assert kinds[0] == (b"\x86\xdd" if six else b"\x08\x06")
    assert kinds.count(b"\x08\x06") == (not six)


def test_functions(engine: str) -> None:
    """Frames by a caller's own means, here from hand to hand."""
    clock = tcpcore.VirtualClock()
    a = tcpcore.CallableLink(lambda frame: b.deliver([frame]))
    b = tcpcore.CallableLink(lambda frame: a.deliver([frame]))
    client = tcpcore.Stack("10.0.0.1", link=a, clock=clock, seed=1, engine=engine)
    server = tcpcore.Stack("10.0.0.2", link=b, clock=clock, seed=2, engine=engine)
    talk(client, server)
    a.deliver([b"x"])
    a.close()
    assert a.next_arrival is None


KERNEL = """
    import socket, subprocess, sys, threading
    import tcpcore

    kind, engine = sys.argv[1:]
    def sh(words):
        subprocess.run(words, shell=True, check=True)
    sh("ip link set lo up")
    if kind == "packet":
        sh("ip link add veth0 type veth peer name veth1")
        sh("ip link set veth1 up")
        name, link = "veth0", lambda: tcpcore.PacketLink("veth1")
    else:
        gso = kind.endswith("gso")
        link = (tcpcore.TunLink if "tun" in kind else tcpcore.TapLink)("t0", gso=gso)
        name, made = "t0", link
        link = lambda: made
    sh(f"ip addr add 10.77.0.1/24 dev {name}; ip link set {name} up")
    stack = tcpcore.Stack("10.77.0.2/24", link=link(), engine=engine)
    data = bytes(range(256)) * 2000

    def kernel_client():
        with socket.create_connection(("10.77.0.2", 80), timeout=30) as sock:
            sock.sendall(data)
            sock.shutdown(1)
            got = bytearray()
            while more := sock.recv(65536):
                got += more
        assert bytes(got) == data

    listener = stack.listen(("", 80))
    listener.settimeout(20)
    thread = threading.Thread(target=kernel_client, daemon=True)
    thread.start()
    sock, address = listener.accept()
    assert address[0] == "10.77.0.1"
    sock.settimeout(20)
    got = bytearray()
    while more := sock.recv(65536):
        got += more
    assert bytes(got) == data
    sock.sendall(got)
    sock.close()
    while thread.is_alive():
        stack.drive(0.05)

    server = socket.create_server(("10.77.0.1", 99))
    def kernel_server():
        sock, _ = server.accept()
        with sock:
            while more := sock.recv(65536):
                sock.sendall(more)
    thread = threading.Thread(target=kernel_server, daemon=True)
    thread.start()
    with stack.connect(("10.77.0.1", 99), timeout=30) as sock:
        sock.sendall(data[:50000])
        assert sock.recv(50000, socket.MSG_WAITALL) == data[:50000]
    while thread.is_alive():
        stack.drive(0.05)
    try:
        stack.connect(("10.77.0.1", 5), timeout=30)
    except ConnectionRefusedError:
        print("talked to the kernel")
    listener.close()
    assert stack.counters["TcpInCsumErrors"] == 0
    if "gso" in kind:
        assert stack.counters["frames_sent"] < 200, "pieces of up to 64 KiB"
        assert stack.counters["frames_received"] < 200
    stack.close()
    stack.link.close()
"""


@pytest.mark.parametrize("kind", ["tun", "tap", "tun gso", "tap gso", "packet"])
def test_with_the_kernel(kind: str, engine: str) -> None:
    """Both ways, both ends, with the machine's own TCP, in a network namespace of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root")
    if not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("needs iproute2 and util-linux")
    if kind != "packet" and not os.path.exists("/dev/net/tun"):
        pytest.skip("there is no /dev/net/tun")
    script = textwrap.dedent(KERNEL)
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", script, kind, engine],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TCPCORE_PURE": "1"},
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no network namespaces here")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "talked to the kernel\n"
