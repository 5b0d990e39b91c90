"""Every byte arrives once and in order, whatever a seeded network does; an observer agrees.

Each case is a network of two hosts, a transfer both ways, and the capture of a tap between them.
"""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

import tcpcore
from tcpcore.columns import STATE_NAMES

SIZE = 120_000
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "delay": {"delay_s": 0.02},
    "loss 1%": {"delay_s": 0.01, "loss": 0.01},
    "loss 5%": {"delay_s": 0.01, "loss": 0.05},
    "loss 20%": {"delay_s": 0.005, "loss": 0.2},
    "bursts": {"delay_s": 0.01, "burst": (0.01, 0.3)},
    "reorder": {"delay_s": 0.01, "reorder": 0.1},
    "reorder far": {"delay_s": 0.01, "reorder": 0.05, "reorder_s": 0.05},
    "duplicate": {"delay_s": 0.01, "duplicate": 0.2},
    "corrupt": {"delay_s": 0.01, "corrupt": 0.05},
    "jitter": {"delay_s": 0.01, "jitter_s": 0.02},
    "slow": {"rate_bps": 1e6, "delay_s": 0.01},
    "short queue": {"rate_bps": 10e6, "delay_s": 0.02, "queue": 5},
    "mtu 576": {"delay_s": 0.01, "mtu": 576, "loss": 0.02},
    "mtu 9000": {"delay_s": 0.01, "mtu": 9000, "loss": 0.02},
    "mtu 296": {"delay_s": 0.002, "mtu": 296},
    "large segments": {"delay_s": 0.01, "gso": True, "loss": 0.02},
    "all of it": {
        "rate_bps": 20e6,
        "delay_s": 0.01,
        "jitter_s": 0.005,
        "loss": 0.03,
        "reorder": 0.03,
        "duplicate": 0.03,
        "corrupt": 0.02,
    },
}
SYSCTLS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no sack": {"tcp_sack": 0},
    "no time stamps": {"tcp_timestamps": 0},
    "bare": {"tcp_sack": 0, "tcp_timestamps": 0, "tcp_window_scaling": 0},
    "small windows": {"tcp_rmem": (4096, 8192, 8192), "tcp_wmem": (4096, 8192, 8192)},
    "reno": {"tcp_congestion_control": "reno"},
}
FEW = ("plain", "loss 5%", "reorder", "all of it")  # those that run with every set of knobs


@pytest.fixture(params=["reference", "compiled"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exchange(
    network: tcpcore.Network, data: bytes, answer: bytes, piece: int = 16384
) -> tuple[tcpcore.Socket, tcpcore.Socket, bytes, bytes]:
    """Data one way, then an answer; both sockets, still open, and what each end got."""
    client, server = network.hosts["client"], network.hosts["server"]
    with server.listen(("", 80)) as listener:

        def serve() -> tuple[tcpcore.Socket, bytes]:
            sock, _ = listener.accept()
            got = bytearray()
            while more := sock.recv(piece):
                got += more
            sock.sendall(answer)
            return sock, bytes(got)

        def ask() -> tuple[tcpcore.Socket, bytes]:
            sock = client.connect(("server", 80))
            for at in range(0, len(data), piece):
                sock.sendall(data[at : at + piece])
            sock.shutdown(1)
            return sock, sock.recv(len(answer), 0x100)

        (one, there), (other, back) = network.run(serve, ask)
    return other, one, there, back


def check(seed: int, engine: str, knobs: dict[str, Any], link: dict[str, Any]) -> None:
    random_bytes = random.Random(seed).randbytes
    data, answer = random_bytes(SIZE), random_bytes(SIZE // 4)
    with tcpcore.Network(seed, sysctl=knobs, engine=engine) as network:
        network.host("client")
        network.host("server")
        cable = network.link("client", "server", **link)
        capture = io.BytesIO()
        network.tap(capture)
        client, server, there, back = exchange(network, data, answer)
        assert there == data
        assert back == answer
        observe(network, capture, client, server, cable)
        client.close()
        server.close()
        network.advance(300)
        assert not any(one.in_flight for one in cable.ends)
        for host in network.hosts.values():
            assert host.next_deadline is None, "nothing is left behind"


def observe(
    network: tcpcore.Network,
    capture: io.BytesIO,
    client: tcpcore.Socket,
    server: tcpcore.Socket,
    cable: Any,
) -> None:
    """An observer of the wire has the states that the ends have, once all is quiet."""
    for end in cable.ends:  # whatever is told again is to arrive
        end.path = tcpcore.Path(delay_s=0.001)
    network.advance(400)
    network.settle()
    network.flush()
    capture.seek(0)
    # The ends judge damaged segments by their checksums, so does the observer.
    seen = tcpcore.replay(capture, engine="reference", checksum="strict").connections
    assert len(seen) == 1
    assert STATE_NAMES[seen["state_a"][0]] == client.state == "FIN-WAIT-2"
    assert STATE_NAMES[seen["state_b"][0]] == server.state == "CLOSE-WAIT"
    assert seen["a_port"][0] == client.getsockname()[1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_links(name: str, seed: int, engine: str) -> None:
    check(seed, engine, {}, CASES[name])


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("knobs", list(SYSCTLS)[1:])
def test_knobs(knobs: str, name: str, engine: str) -> None:
    check(7, engine, SYSCTLS[knobs], CASES[name])


@pytest.mark.parametrize("seed", range(20))
def test_seeds(seed: int, engine: str) -> None:
    """A link, knobs and a rhythm of writes and reads by lot."""
    lot = random.Random(seed)
    link = {
        "delay_s": lot.choice([0, 0.001, 0.05]),
        "loss": lot.choice([0, 0.02, 0.1]),
        "reorder": lot.choice([0, 0.05]),
        "duplicate": lot.choice([0, 0.05]),
        "corrupt": lot.choice([0, 0.02]),
        "mtu": lot.choice([400, 1500, 4000]),
        "rate_bps": lot.choice([0, 5e6, 50e6]),
        "queue": lot.choice([10, 100]),
    }
    knobs = lot.choice(list(SYSCTLS.values()))
    check(seed, engine, knobs, link)


def test_the_same_seed_gives_the_same_bytes(engine: str) -> None:
    def run(seed: int) -> bytes:
        with tcpcore.Network(seed, engine=engine) as network:
            network.host("client")
            network.host("server")
            network.link("client", "server", **CASES["all of it"])
            capture = io.BytesIO()
            network.tap(capture)
            client, server, _, _ = exchange(network, bytes(50_000), b"thanks")
            client.close()
            server.close()
            network.advance(100)
            network.flush()
            return capture.getvalue()

    assert run(5) == run(5)
    assert run(5) != run(6)


@pytest.mark.parametrize("control", ["cubic", "reno"])
@pytest.mark.parametrize("queue_bdp", [1, 4])
@pytest.mark.parametrize("rtt_s", [0.002, 0.04, 0.1])
def test_a_link_is_filled(rtt_s: float, queue_bdp: int, control: str, engine: str) -> None:
    """Past slow start, a bulk transfer leaves nothing of a link unused."""
    rate_bps, size = 10e6, 3_000_000
    queue = max(4, int(queue_bdp * rate_bps * rtt_s / 8 / 1500))
    knobs = {"tcp_congestion_control": control}
    with tcpcore.Network(1, engine=engine, sysctl=knobs) as network:
        client, server = network.host("client"), network.host("server")
        network.link(client, server, rate_bps=rate_bps, delay_s=rtt_s / 2, queue=queue)
        got: list[tuple[float, int]] = [(0.0, 0)]

        def serve() -> None:
            with server.listen(("", 80)) as listener:
                sock, _ = listener.accept()
            with sock:
                while more := sock.recv(1 << 20):
                    got.append((network.now_s, got[-1][1] + len(more)))

        def ask() -> None:
            with client.connect(("server", 80)) as sock:
                sock.sendall(bytes(size))

        network.run(serve, ask)
        assert client.counters["TcpExtTCPTimeouts"] == 0
    assert got[-1][1] == size
    late = [one for one in got if one[0] > got[-1][0] / 2]
    seconds, count = late[-1][0] - late[0][0], late[-1][1] - late[0][1]
    headers = 1500 / 1448
    assert count * headers * 8 / seconds >= 0.95 * rate_bps
