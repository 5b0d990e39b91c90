"""Both ends write, read, sleep and turn options at random over a link that changes: seeded.

Whatever comes, every byte arrives once and in order, and at the end nothing is left.
"""

from __future__ import annotations

import random
import socket

import pytest

import tcpcore

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
ENGINES = ["reference", "compiled"]
SIZE = 150_000


def end(network: tcpcore.Network, sock: tcpcore.Socket, data: bytes, lot: random.Random) -> bytes:
    """One end's program: write all of `data`, read all that comes."""
    sock.setblocking(False)
    sent = 0
    got = bytearray()
    done = closed = False
    while not (done and closed):
        what = lot.random()
        if what < 0.05:
            network.advance(lot.choice([0.0001, 0.01, 0.3, 2]))
        elif what < 0.1:
            option(sock, lot)
        elif what < 0.55 and not closed:
            if sent == len(data):
                sock.shutdown(socket.SHUT_WR)
                closed = True
                continue
            flags = socket.MSG_MORE if lot.random() < 0.1 else 0
            flags |= socket.MSG_EOR if lot.random() < 0.1 else 0
            try:
                sent += sock.send(data[sent : sent + lot.choice([1, 100, 1448, 40000])], flags)
            except BlockingIOError:
                tcpcore.select([sock], [sock], [])
        elif not done:
            try:
                more = sock.recv(lot.choice([1, 1000, 65536]))
                got += more
                done = not more
            except BlockingIOError:
                tcpcore.select([sock], [] if closed else [sock], [])
    return bytes(got)


def option(sock: tcpcore.Socket, lot: random.Random) -> None:
    level, name, values = lot.choice(
        [
            (TCP, socket.TCP_NODELAY, (0, 1)),
            (TCP, socket.TCP_QUICKACK, (0, 1)),
            (SOL, socket.SO_RCVBUF, (3000, 20000, 200000)),
            (SOL, socket.SO_SNDBUF, (3000, 20000, 200000)),
            (SOL, socket.SO_RCVLOWAT, (1,)),
            (SOL, socket.SO_KEEPALIVE, (0, 1)),
            (TCP, socket.TCP_NOTSENT_LOWAT, (2000, 1 << 30)),
        ]
    )
    sock.setsockopt(level, name, lot.choice(values))


def path(lot: random.Random) -> dict[str, float | int]:
    return {
        "delay_s": lot.choice([0, 0.001, 0.03]),
        "jitter_s": lot.choice([0, 0.01]),
        "loss": lot.choice([0, 0.01, 0.1]),
        "reorder": lot.choice([0, 0.1]),
        "duplicate": lot.choice([0, 0.1]),
        "corrupt": lot.choice([0, 0.02]),
        "rate_bps": lot.choice([0, 2e6, 100e6]),
        "queue": lot.choice([4, 50, 1000]),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(24))
def test_chaos(seed: int, engine: str) -> None:
    lot = random.Random(seed)
    v6 = seed % 3 == 2
    with tcpcore.Network(seed, engine=engine) as network:
        client, server = network.host("client"), network.host("server")
        cable = network.link(client, server, mtu=lot.choice([500 if not v6 else 1280, 1500, 9000]))
        for turn in range(40):
            network.at(0.5 * turn, lambda: cable.change(**path(lot)))
        network.at(25, lambda: cable.change(loss=0, corrupt=0, up=True))
        data = [lot.randbytes(lot.randrange(SIZE)) for _ in range(2)]
        listener = server.listen(("::" if v6 else "", 80))
        address = (server.addresses[v6], 80)

        def serve() -> bytes:
            sock, _ = listener.accept()
            with sock:
                return end(network, sock, data[0], random.Random(seed + 1000))

        def ask() -> bytes:
            with client.connect(address) as sock:
                return end(network, sock, data[1], random.Random(seed + 2000))

        got = network.run(serve, ask)
        listener.close()
        assert got == [data[1], data[0]]
        network.advance(300)
        assert client.next_deadline is None
        assert server.next_deadline is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.1"])
def test_to_oneself(host: str, engine: str) -> None:
    with tcpcore.Stack(("10.0.0.1", "fd00::1"), seed=1, engine=engine) as stack:
        listener = stack.listen((host, 0))
        data = random.Random(1).randbytes(400_000)

        def serve() -> bytes:
            sock, _ = listener.accept()
            with sock:
                return sock.recv(len(data), socket.MSG_WAITALL)

        def ask() -> None:
            with stack.connect(listener.getsockname()[:2]) as sock:
                sock.sendall(data)

        assert stack.clock.run(serve, ask)[0] == data
        listener.close()
