"""Many threads on one host, signals, callbacks of links, sockets that nobody closed: T-31.

All in real time but the last part; every wait has an end, so nothing here can hang.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tcpcore

ENGINES = ["reference", "compiled"]
ROOT = Path(__file__).resolve().parent.parent
SERVER = ("10.0.0.2", 80)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Threads:
    """Threads, what they raised, and an end to all of it."""

    def __init__(self) -> None:
        self.all: list[threading.Thread] = []
        self.failed: list[BaseException] = []

    def start(self, program: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                program()
            except BaseException as error:
                self.failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.all.append(thread)
        thread.start()
        return thread

    def join(self, *stacks: tcpcore.Stack, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while any(thread.is_alive() for thread in self.all) and time.monotonic() < end:
            for stack in stacks:
                stack.drive(0.02)  # what is lost at the end is sent again while somebody drives
            if not stacks:
                time.sleep(0.01)
        assert not self.failed, self.failed
        assert not any(thread.is_alive() for thread in self.all)


def pair(engine: str, **path: Any) -> tuple[tcpcore.Stack, tcpcore.Stack]:
    a, b = tcpcore.MemoryLink.pair(seed=1, **path)
    clock = tcpcore.MonotonicClock()
    return (
        tcpcore.Stack("10.0.0.1/24", link=a, clock=clock, seed=1, engine=engine),
        tcpcore.Stack("10.0.0.2/24", link=b, clock=clock, seed=2, engine=engine),
    )


def echo(sock: tcpcore.Socket) -> None:
    with sock:
        while data := sock.recv(4096):
            sock.sendall(data)


# ---- many threads -------------------------------------------------------------------------------


def test_fifty_threads_of_one_host(engine: str) -> None:
    """T-31: 25 connect, send and wait for answers, 25 serve; one at a time leads its host."""
    client, server = pair(engine, delay_s=0.001, loss=0.01)
    threads = Threads()
    listener = server.listen(("", 80))

    def serve() -> None:
        sock, _ = listener.accept()
        echo(sock)

    def ask(number: int) -> None:
        with client.connect(SERVER, timeout=30) as sock:
            for turn in range(4):
                words = f"{number} {turn} ".encode() * 300
                sock.sendall(words)
                assert sock.recv(len(words), socket.MSG_WAITALL) == words

    for number in range(25):
        threads.start(serve)
        threads.start(lambda number=number: ask(number))
    threads.join(client, server)
    assert not client._leader
    assert not server._leader
    listener.close()
    client.close()
    server.close()


def test_both_ends_in_one_host(engine: str) -> None:
    """Threads that talk to each other over loopback: no link wakes anybody."""
    with tcpcore.Stack("10.0.0.1", clock=tcpcore.MonotonicClock(), engine=engine) as stack:
        threads = Threads()
        listener = stack.listen(("", 80))
        for number in range(10):
            threads.start(lambda: echo(listener.accept()[0]))

            def ask(number: int = number) -> None:
                with stack.connect(("10.0.0.1", 80), timeout=30) as sock:
                    words = bytes([number]) * 100_000
                    threads.start(lambda: sock.sendall(words))
                    assert sock.recv(len(words), socket.MSG_WAITALL) == words

            threads.start(ask)
        threads.join()
        listener.close()


def test_a_waiter_has_its_own_timeout(engine: str) -> None:
    """Who waits beside the leader gives up when his time is over, and so does the leader."""
    client, server = pair(engine)
    listeners = [server.listen(("", 80 + i)) for i in range(3)]
    took: dict[int, float] = {}

    def wait(index: int, seconds: float) -> None:
        listeners[index].settimeout(seconds)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            listeners[index].accept()
        took[index] = time.monotonic() - begun

    threads = Threads()
    for index, seconds in enumerate((0.3, 0.05, 0.15)):
        threads.start(lambda index=index, seconds=seconds: wait(index, seconds))
    threads.join()
    assert 0.04 < took[1] < took[2] < took[0] < 5
    for one in (*listeners, client, server):
        one.close()


def test_a_socket_closed_under_a_waiting_thread(engine: str) -> None:
    """T-31: the call fails with EBADF; the others go on waiting."""
    client, server = pair(engine)
    listener, other = server.listen(("", 80)), server.listen(("", 81))
    threads = Threads()
    caught: list[int | None] = []

    def wait() -> None:
        with pytest.raises(OSError) as error:  # noqa: PT011
            listener.accept()
        caught.append(error.value.errno)

    accepted: list[Any] = []
    threads.start(lambda: accepted.append(other.accept()))
    time.sleep(0.05)
    threads.start(wait)
    time.sleep(0.05)
    listener.close()
    threads.start(lambda: client.connect(("10.0.0.2", 81), timeout=30).close())
    threads.join()
    assert caught == [errno.EBADF]
    assert len(accepted) == 1
    for one in (accepted[0][0], other, client, server):
        one.close()


def test_a_host_closed_under_waiting_threads(engine: str) -> None:
    """T-31: every call that waits fails, and no descriptor is left."""
    client, server = pair(engine)
    listeners = [server.listen(("", 80 + i)) for i in range(3)]
    threads = Threads()
    caught: list[int | None] = []

    def wait(listener: tcpcore.Socket) -> None:
        with pytest.raises(OSError) as error:  # noqa: PT011
            listener.accept()
        caught.append(error.value.errno)

    for listener in listeners:
        threads.start(lambda listener=listener: wait(listener))
    time.sleep(0.05)
    server.close()
    threads.join()
    assert caught == [errno.ENETDOWN] * 3
    assert server._wake_fds is None
    with pytest.raises(OSError, match="Network is down"):
        listeners[0].accept()
    for one in (*listeners, client):
        one.close()


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="a signal")
@pytest.mark.parametrize("leads", [True, False])
def test_interrupted(leads: bool, engine: str) -> None:
    """KeyboardInterrupt ends the call that waits, and the lead passes on to another thread."""
    client, server = pair(engine)
    listener, other = server.listen(("", 80)), server.listen(("", 81))
    threads = Threads()
    accepted: list[Any] = []
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        if leads:
            later = threading.Timer(0.05, lambda: accepted.append(other.accept()))
            later.daemon = True
            later.start()
        else:
            threads.start(lambda: accepted.append(other.accept()))
            time.sleep(0.05)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            listener.accept()
    finally:
        signal.signal(signal.SIGALRM, before)
    client.connect(("10.0.0.2", 81), timeout=30).close()
    end = time.monotonic() + 30
    while not accepted and time.monotonic() < end:
        time.sleep(0.01)
    threads.start(lambda: listener.accept()[0].close())
    late = client.connect(SERVER, timeout=30)
    threads.join()
    assert len(accepted) == 1
    for one in (late, accepted[0][0], listener, other, client, server):
        one.close()


def test_interrupted_in_virtual_time(engine: str) -> None:
    with tcpcore.Network(1, engine=engine) as network:
        client, server = network.host("client"), network.host("server")
        network.link(client, server, delay_s=0.001)
        listener = server.listen(("", 80))

        def interrupt() -> None:
            raise KeyboardInterrupt

        network.at(1, interrupt)
        with pytest.raises(KeyboardInterrupt):
            listener.accept()
        network.at(2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            network.run(listener.accept, lambda: network.advance(3))
        sock = client.connect(("server", 80))
        listener.accept()[0].close()
        sock.close()
        listener.close()


KERNEL = """
    import socket, subprocess, sys, threading
    import tcpcore

    COUNT = 25
    subprocess.run("ip link set lo up", shell=True, check=True)
    link = tcpcore.TunLink("t0")
    subprocess.run("ip addr add 10.77.0.1/24 dev t0; ip link set t0 up", shell=True, check=True)
    stack = tcpcore.Stack("10.77.0.2/24", link=link, engine=sys.argv[1])
    ours, theirs = stack.listen(("", 80)), socket.create_server(("10.77.0.1", 99), backlog=64)
    threads, failed = [], []

    def start(program, *arguments):
        def run():
            try:
                program(*arguments)
            except BaseException as error:
                failed.append(error)
        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    def echo(listener):
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data)

    def ask(connect, where, number):
        words = bytes([number]) * 20_000
        with connect(where, timeout=30) as sock:
            for _ in range(3):
                sock.sendall(words)
                got = bytearray()
                while len(got) < len(words):
                    got += sock.recv(65536)
                assert got == words

    for number in range(COUNT):
        start(echo, ours)
        start(echo, theirs)
        start(ask, socket.create_connection, ("10.77.0.2", 80), number)
        start(ask, stack.connect, ("10.77.0.1", 99), number)
    while any(thread.is_alive() for thread in threads):
        stack.drive(0.02)
    assert not failed, failed
    ours.close()
    theirs.close()
    stack.close()
    link.close()
    print("a hundred threads")
"""


def test_with_the_kernel(engine: str) -> None:
    """Fifty threads block in the stack over TUN, fifty in the kernel at its other end."""
    if sys.platform != "linux" or os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs Linux, root and /dev/net/tun")
    if not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("needs iproute2 and util-linux")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", textwrap.dedent(KERNEL), engine],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no network namespaces here")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a hundred threads\n"


# ---- callbacks ----------------------------------------------------------------------------------


def test_a_link_may_come_back(engine: str) -> None:
    """T-31: a function that is handed frames closes sockets, sends, even ends the host."""
    for what in ("close", "send", "poll", "stack"):
        clock = tcpcore.VirtualClock()
        server = tcpcore.Stack("10.0.0.2", seed=2, clock=clock, engine=engine)
        listener = server.listen(("", 80))
        order: list[bytes] = []
        state: dict[str, Any] = {"depth": 0, "sock": None}

        def carry(frame: bytes, what: str = what, state: dict[str, Any] = state) -> None:
            state["depth"] += 1
            assert state["depth"] == 1, "never called again from within"
            order.append(frame)  # noqa: B023
            sock, data = state["sock"], len(frame) > 52
            if sock is not None and data and what == "close":
                sock.close()
            elif sock is not None and data and what == "send" and len(order) < 20:  # noqa: B023
                sock.send(b"and more")
            elif sock is not None and what == "poll":
                sock.poll()
            elif sock is not None and data and what == "stack":
                sock.stack.close()
            server.receive([frame])  # noqa: B023
            link.deliver(server.transmit())  # noqa: B023
            state["depth"] -= 1

        link = tcpcore.CallableLink(carry)
        client = tcpcore.Stack("10.0.0.1", seed=1, link=link, clock=clock, engine=engine)
        sock = client.connect(SERVER)
        other, _ = listener.accept()
        state["sock"] = sock
        sock.send(b"first")
        clock.advance(1)
        assert other.recv(5) == b"first"
        if what == "send":
            assert other.recv(8) == b"and more"
        state["sock"] = None
        for one in (sock, other, listener, client, server):
            one.close()


def test_a_link_that_raises(engine: str) -> None:
    """T-31: who drives gets the exception, the frames are lost, and all goes on after it."""
    clock = tcpcore.VirtualClock()
    server = tcpcore.Stack("10.0.0.2", seed=2, clock=clock, engine=engine)
    listener = server.listen(("", 80))
    broken = False

    def carry(frame: bytes) -> None:
        if broken:
            raise RuntimeError("unplugged")
        server.receive([frame])
        link.deliver(server.transmit())

    link = tcpcore.CallableLink(carry)
    client = tcpcore.Stack("10.0.0.1", seed=1, link=link, clock=clock, engine=engine)
    sock = client.connect(SERVER)
    other, _ = listener.accept()
    broken = True
    with pytest.raises(RuntimeError, match="unplugged"):
        sock.send(b"lost at first")
    broken = False
    clock.advance(1)
    assert other.recv(99) == b"lost at first"
    for one in (sock, other, listener, client, server):
        one.close()


def test_no_lock_is_held_while_a_link_sends(engine: str) -> None:
    """T-31: two hosts hand each other frames directly, from two threads: no deadlock."""
    clock = tcpcore.MonotonicClock()
    hosts: list[tcpcore.Stack] = []
    links = [tcpcore.CallableLink(lambda frame, to=to: hosts[to].receive([frame])) for to in (1, 0)]
    for i, link in enumerate(links):
        hosts.append(
            tcpcore.Stack(f"10.0.0.{i + 1}", seed=i, link=link, clock=clock, engine=engine)
        )
    threads = Threads()
    listeners = [host.listen(("", 80)) for host in hosts]
    for host, other, listener in zip(hosts, reversed(hosts), listeners, strict=True):
        threads.start(lambda listener=listener: echo(listener.accept()[0]))

        def ask(host: tcpcore.Stack = other, to: str = host.addresses[0]) -> None:
            with host.connect((to, 80), timeout=30) as sock:
                for _ in range(20):
                    sock.sendall(bytes(5000))
                    assert len(sock.recv(5000, socket.MSG_WAITALL)) == 5000

        threads.start(ask)
    threads.join(*hosts)
    for one in (*listeners, *hosts):
        one.close()


# ---- what nobody closed -------------------------------------------------------------------------


def test_sockets_that_nobody_closed(engine: str) -> None:
    """T-31: each is told (ResourceWarning) and closed, in whatever state; nothing is left."""
    with tcpcore.Network(1, engine=engine) as network:
        client, server = network.host("client"), network.host("server")
        network.link(client, server, delay_s=0.001)

        def leave() -> None:
            listener = server.listen(("", 80))
            fresh = [client.socket() for _ in range(20)]
            socks = [client.connect(("server", 80)) for _ in range(20)]
            accepted = [listener.accept()[0] for _ in range(10)]  # the others wait for it
            fresh[0].bind(("", 99))
            fresh[1].setblocking(False)
            fresh[1].connect_ex(("10.0.0.77", 80))
            socks[0].sendall(bytes(30_000))
            accepted[1].shutdown(socket.SHUT_WR)

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ResourceWarning)
            leave()
            gc.collect()
        mine = [
            one
            for one in told
            if "of client," in str(one.message) or "of server," in str(one.message)
        ]
        assert len(mine) == 51
        network.advance(600)
        for host in (client, server):
            assert host.next_deadline is None
            for handle in range(200):
                with pytest.raises(OSError, match="socket"):
                    host._net.state(handle)
        again = server.listen(("", 80))
        client.connect(("server", 80)).close()
        again.accept()[0].close()
        again.close()


def test_a_handle_given_twice(engine: str) -> None:
    """T-31: two objects of one handle: the second to close finds it gone, and breaks nothing."""
    with tcpcore.Stack("10.0.0.1", engine=engine) as stack:
        one = stack.socket()
        handle = one.detach()
        assert one.detach() == -1
        first = tcpcore.Socket(stack, handle=handle)
        second = tcpcore.Socket(stack, handle=handle)
        first.close()
        with pytest.raises(OSError, match=r"Bad file|no such socket") as caught:
            second.getsockname()
        assert caught.value.errno == errno.EBADF
        del caught  # its traceback holds it
        assert repr(second) == "<tcpcore.Socket of 10.0.0.1, gone>"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del second
            gc.collect()
        stack.run()
        for bad in (0, 12345):
            made = tcpcore.Socket(stack, handle=bad)
            with pytest.raises(OSError) as caught:  # noqa: PT011
                made.recv(1)
            assert caught.value.errno == errno.EBADF
            made.detach()
