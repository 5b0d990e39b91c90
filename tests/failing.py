"""Run in a process of its own, with failing_malloc preloaded: no memory at each allocation in turn.

Two hosts of the compiled engine open, transfer, lose, close; from some allocation on, one or many
fail. Nothing may crash or leak, errors are the caller's to see, counters tell what was not sent,
and with memory again the hosts go on.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import random
import sys
from pathlib import Path

import capgen

from tcpcore import _core
from tcpcore.mib import COUNTERS

MS, SEC = 1_000_000, 1_000_000_000
ADDRS = [capgen.address16(text) for text in ("10.0.0.1", "10.0.0.2")]
ANY = capgen.address16("0.0.0.0")
FINE = {0, -errno.EAGAIN, -errno.ENOBUFS, -errno.ENOMEM, -errno.EPIPE, -errno.ECONNRESET,
        -errno.ENOTCONN, -errno.ETIMEDOUT, -errno.ECONNREFUSED, -errno.EISCONN}  # fmt: skip
OUTDISCARDS, CURRESTAB = COUNTERS.index("IpOutDiscards"), COUNTERS.index("TcpCurrEstab")


class Failing:
    """The preloaded library."""

    def __init__(self) -> None:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ranges = [line.split()[0] for line in lines if line.endswith(_core.__file__)]
        edges = [int(edge, 16) for span in ranges for edge in span.split("-")]
        library = ctypes.CDLL(None)
        self.calls, self.failed = library.failing_calls, library.failing_failed
        self.live = library.failing_live
        for call in (self.calls, self.failed, self.live):
            call.restype = ctypes.c_long
        self.arm = library.failing_arm
        self.arm.argtypes = [ctypes.c_long, ctypes.c_long]
        library.failing_watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        library.failing_watch(min(edges), max(edges))


class Run:
    """Connections between two hosts, each step able to fail."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hosts = [_core.Net(bytes([i]) * 16) for i in range(2)]
        for host, addr in zip(self.hosts, ADDRS, strict=True):
            host.add_address(addr, 120)
        self.open: list[set[int]] = [set(), set()]
        self.now_ns = 0
        self.wire: list[list[bytes]] = [[], []]
        self.refused = 0

    def call(self, function: object, *args: object) -> object:
        """What a call gives; None where there was no memory."""
        try:
            return function(*args)  # type: ignore[operator]
        except MemoryError:
            self.refused += 1
            return None

    def pass_frames(self, ns: int) -> None:
        self.now_ns += ns
        for i, host in enumerate(self.hosts):
            self.call(host.advance, self.now_ns)
            for frame in (self.call(host.transmit) or [[]])[0]:
                if self.random.random() > 0.05:
                    self.wire[1 - i].append(frame)
            arrived, self.wire[i] = self.wire[i], []
            self.random.shuffle(arrived)
            for frame in arrived:
                pieces = [frame]
                if len(frame) > 600 and self.random.random() < 0.1:
                    pieces = capgen.fragments(frame, 400, number=self.random.randrange(1 << 16))
                for piece in pieces:
                    self.call(host.receive, piece, self.now_ns)

    def life(self) -> None:
        """Six connections, one after the other and beside each other."""
        server = self.call(self.hosts[1].socket, 4)
        if server is None:
            return
        self.open[1].add(server)
        assert self.hosts[1].bind(server, ANY, 80) in FINE
        assert self.hosts[1].listen(server, 2) in FINE
        for _ in range(6):
            handle = self.call(self.hosts[0].socket, 4)
            if handle is not None:
                self.open[0].add(handle)
                error = self.hosts[0].connect(handle, 2, ADDRS[1], 80)
                assert error in FINE, error
            for _ in range(5):
                self.pass_frames(5 * MS)
            child = self.hosts[1].accept(server)
            if child is not None and child > 0:
                self.open[1].add(child)
            for i, host in enumerate(self.hosts):
                for one in sorted(self.open[i]):
                    sent = self.call(host.sendmsg, one, bytes(self.random.choice((1, 3000, 30000))))
                    assert sent is None or sent > 0 or sent in FINE, sent
            for _ in range(8):
                self.pass_frames(10 * MS)
            for i, host in enumerate(self.hosts):
                for one in sorted(self.open[i]):
                    found = self.call(host.recvmsg, one, 1 << 20)
                    assert found is None or found[0] in FINE, found[0]
                for one in sorted(self.open[i]):
                    if one != server and self.random.random() < 0.4:
                        self.open[i].discard(one)
                        self.call(host.close, one)
            self.pass_frames(300 * MS)

    def finish(self) -> None:
        for i, host in enumerate(self.hosts):
            for one in self.open[i]:
                host.close(one)
        for _ in range(40):
            self.pass_frames(100 * SEC)
        for host in self.hosts:
            assert not any(host.sockstat().values()), host.sockstat()
            assert host.next_deadline() == -1
            assert host.counters()[CURRESTAB] == 0


def main() -> None:
    failing = Failing()
    seed, most, step = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    told = refused = 0
    for more in (1, 3, 1 << 40):
        n = 1
        while n <= most:
            gc.collect()
            before = failing.live()
            failing.arm(n, more)
            try:
                run = Run(seed)
                run.life()
            except MemoryError:  # not even a host
                failing.arm(0, 0)
                run = None
            else:
                done = failing.failed() == 0
                failing.arm(0, 0)
                run.finish()
                told += run.hosts[0].counters()[OUTDISCARDS] + run.hosts[1].counters()[OUTDISCARDS]
                refused += run.refused
                if done:
                    n = most
            del run
            gc.collect()
            assert failing.live() == before, (n, more, failing.live() - before)
            n += step
    print(told, refused)


if __name__ == "__main__":
    main()
