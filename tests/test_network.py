"""Networks: what each fault does and how much of it, routers, partitions, taps, programs."""

from __future__ import annotations

import io
import random
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import tcpcore
from tcpcore.router import checksum, icmp, one_hop

ENGINES = ["reference", "compiled"]


@pytest.fixture(params=ENGINES)
def network(request: pytest.FixtureRequest) -> Iterator[tcpcore.Network]:
    with tcpcore.Network(seed=1, engine=request.param) as made:
        yield made


def two(network: tcpcore.Network, **path: object) -> tuple[tcpcore.Stack, tcpcore.Stack]:
    hosts = network.host("client"), network.host("server")
    network.link(*hosts, **path)
    return hosts


def pair(client: tcpcore.Stack, server: tcpcore.Stack) -> tuple[tcpcore.Socket, tcpcore.Socket]:
    with server.listen(("", 80)) as listener:
        one = client.connect(("server", 80))
        other, _ = listener.accept()
    return one, other


def test_a_handshake_takes_a_round_trip(network: tcpcore.Network) -> None:
    one, other = pair(*two(network, delay_s=0.02))
    assert network.now_s == pytest.approx(0.06)  # one for connect, half a one more for accept
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    assert network.now_s == pytest.approx(0.08)
    one.close()
    other.close()


def test_hosts_have_names_and_both_families(network: tcpcore.Network) -> None:
    client, server = two(network)
    assert client.addresses == ("10.0.0.1", "fd00::1")
    with server.listen(("::", 80)) as listener:
        one = client.connect(("fd00::2", 80))
        other, address = listener.accept()
    assert address[0] == "fd00::1"
    assert one.family == other.family == socket.AF_INET6
    one.close()
    other.close()
    with pytest.raises(socket.gaierror):
        client.connect(("nobody", 80))


def test_names_are_unique(network: tcpcore.Network) -> None:
    network.host("a")
    for make in (network.host, network.router):
        with pytest.raises(ValueError, match="there is a 'a'"):
            make("a")
    with pytest.raises(ValueError, match="there is no 'b'"):
        network.link("a", "b")


def test_a_host_has_one_link(network: tcpcore.Network) -> None:
    two(network)
    network.host("third")
    with pytest.raises(ValueError, match="client has a link"):
        network.link("client", "third")


def test_routers_find_the_shortest_way(network: tcpcore.Network) -> None:
    client, server = network.host("client"), network.host("server")
    for name in ("r1", "r2", "r3"):
        network.router(name)
    for a, b in (("client", "r1"), ("r1", "r2"), ("r2", "r3"), ("r3", "server"), ("r1", "r3")):
        network.link(a, b, delay_s=0.001)
    one, other = pair(client, server)
    long_way = network.links[1]
    assert not any(long_way.counts["r1"].values())
    one.close()
    other.close()


def test_a_hop_less() -> None:
    network = tcpcore.Network(seed=1)
    client, server = two(network)
    seen: list[bytes] = []
    network.links[0].ends[0].tap(lambda frame, now_ns: seen.append(frame))
    one, other = pair(client, server)
    packet = seen[0]
    for _ in range(63):
        packet = one_hop(packet)
        words = struct.unpack(">10H", packet[:20])
        assert sum(words) % 0xFFFF == 0, "the header's checksum holds"
    assert packet[8] == 1
    assert one_hop(packet) == b""
    one.close()
    other.close()
    network.close()


def test_a_ring_ends_what_is_for_nobody(network: tcpcore.Network) -> None:
    client = network.host("client")
    left, right = network.router("left"), network.router("right")
    network.link("client", "left")
    network.link("left", "right")
    left.default, right.default = "right", "left"
    sock = client.socket()
    sock.settimeout(0.5)
    with pytest.raises(OSError, match="No route to host"):
        sock.connect(("192.0.2.1", 80))
    assert left.dropped + right.dropped == 1
    assert sum(one["sent"] for one in network.links[1].counts.values()) == 64, (
        "63 hops, and ICMP back"
    )
    sock.close()


def test_fragments_where_they_are_allowed(network: tcpcore.Network) -> None:
    client, server = network.host("client"), network.host("server")
    for name in ("r1", "r2"):
        network.router(name)
    network.link("client", "r1")
    network.link("r1", "r2", mtu=600)
    network.link("r2", "server")
    sizes: list[int] = []
    network.links[1].ends[0].tap(lambda frame, now_ns: sizes.append(len(frame)))
    one = client.socket()
    one.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
    with server.listen(("", 80)) as listener:
        one.connect(("server", 80))
        other, _ = listener.accept()
    one.sendall(bytes(range(256)) * 100)
    assert other.recv(25600, socket.MSG_WAITALL) == bytes(range(256)) * 100
    assert max(sizes) <= 600
    assert server.counters["IpReasmOKs"] > 5
    one.close()
    other.close()


@pytest.mark.parametrize("host", ["server", "fd00::2"])
def test_too_large_is_told(network: tcpcore.Network, host: str) -> None:
    """The sender hears of it from the router, with the size that fits."""
    client, server = network.host("client"), network.host("server")
    router = network.router("r")
    network.link("client", "r", mtu=1500)
    network.link("r", "server", mtu=1300)
    told: list[bytes] = []
    network.links[0].ends[1].tap(lambda frame, now_ns: told.append(frame))
    v6 = ":" in host
    sizes = (60, 1400)
    for size in sizes:
        router.forward(packet_of(size, v6), 0)
    assert router.dropped == 1
    (message,) = told
    at = 40 if v6 else 20
    assert (message[at], message[at + 1]) == ((2, 0) if v6 else (3, 4))
    assert int.from_bytes(message[at + 6 : at + 8], "big") == 1300
    assert message[at + 8 : at + 28] == packet_of(1400, v6)[:20]
    assert icmp(message, ((3, 0), (1, 0)), 0) == b"", "no answer to an answer"
    client.receive([message])
    server.receive([message])


@pytest.mark.parametrize("host", ["server", "fd00::2"])
def test_the_path_tells_what_fits(network: tcpcore.Network, host: str) -> None:
    """A smaller link in the midst of the way: the sender learns of it and goes on (RFC 1191)."""
    client, server = network.host("client"), network.host("server")
    for name in ("r1", "r2"):
        network.router(name)
    network.link("client", "r1", delay_s=0.005)
    network.link("r1", "r2", delay_s=0.005, mtu=1300)
    network.link("r2", "server", delay_s=0.005)
    with server.listen(("::" if ":" in host else "", 80)) as listener:
        one = client.connect((host, 80))
        other, _ = listener.accept()
    data = bytes(range(256)) * 400

    def read() -> bytes:
        return other.recv(len(data), socket.MSG_WAITALL)

    begun_s = network.now_s
    _, got = network.run(lambda: one.sendall(data), read)
    assert got == data
    assert network.now_s - begun_s < 0.5, "no time-out was waited for"
    assert one.info()["tcpi_pmtu"] == 1300
    assert client.counters["TcpExtTCPTimeouts"] == 0
    other.sendall(data)
    assert one.recv(len(data), socket.MSG_WAITALL) == data
    one.close()
    other.close()


def test_nobody_there_is_told(network: tcpcore.Network) -> None:
    client = network.host("client")
    network.router("r")
    network.link("client", "r", delay_s=0.01)
    sock = client.socket()
    with pytest.raises(OSError, match="Network is unreachable"):
        sock.connect(("192.0.2.1", 80))
    assert network.now_s == pytest.approx(0.02)
    sock.close()


def test_icmp_of_what_is_not_in_flight_is_ignored(network: tcpcore.Network) -> None:
    """RFC 5927: who guesses has to guess the sequence number too; errors are soft anyhow."""
    client, server = two(network)
    frames: list[bytes] = []
    network.links[0].ends[0].tap(lambda frame, now_ns: frames.append(frame))
    one, other = pair(client, server)
    one.sendall(b"x")
    sent = frames[-1]
    guess = bytearray(sent)
    guess[24:28] = bytes(4)
    client.receive([icmp(bytes(guess), ((3, 4), (2, 0)), 600)])
    assert one.info()["tcpi_pmtu"] == 1500
    client.receive([icmp(sent, ((3, 1), (1, 0)), 0)])
    client.receive([icmp(sent, ((3, 4), (2, 0)), 10)])
    assert one.info()["tcpi_pmtu"] == 552, "never below min_pmtu"
    one.sendall(b"y" * 5000)
    assert len(other.recv(5001, socket.MSG_WAITALL)) == 5001
    cut = icmp(sent, ((3, 4), (2, 0)), 600)
    client.receive([cut[:size] for size in range(len(cut))])
    one.close()
    other.close()


def packet_of(size: int, v6: bool) -> bytes:
    """A packet from the first host to the second."""
    if v6:
        ends = b"\xfd" + bytes(14) + b"\1\xfd" + bytes(14) + b"\2"
        return struct.pack(">IHBB", 6 << 28, size - 40, 6, 64) + ends + bytes(size - 40)
    head = struct.pack(">BBHHHBB", 0x45, 0, size, 0, 0x4000, 64, 6)
    ends = bytes((10, 0, 0, 1, 10, 0, 0, 2))
    check = checksum(head + b"\0\0" + ends).to_bytes(2, "big")
    return head + check + ends + bytes(size - 20)


def test_partition_and_heal(network: tcpcore.Network) -> None:
    client, server = two(network, delay_s=0.001)
    one, other = pair(client, server)
    network.partition("server")
    one.sendall(b"late")
    other.settimeout(2)
    with pytest.raises(TimeoutError):
        other.recv(1)
    network.heal()
    assert other.recv(9) == b"late"
    one.close()
    other.close()


def test_changes_at_a_time(network: tcpcore.Network) -> None:
    client, server = two(network, delay_s=0.01)
    one, other = pair(client, server)
    cable = network.links[0]
    network.at(1.0, lambda: cable.change("client", delay_s=0.5))
    network.at(2.0, cable.down)
    network.at(3.0, cable.up)
    network.clock.advance(1.5 - network.now_s)
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    assert network.now_s == pytest.approx(2.0)  # the frame was under way when the link went down
    one.sendall(b"y")
    assert other.recv(1) == b"y"
    assert network.now_s > 3.5
    with pytest.raises(ValueError, match="not at this link"):
        cable.change("nobody", loss=1)
    one.close()
    other.close()


def test_no_event_is_left(network: tcpcore.Network) -> None:
    _, server = two(network)
    with server.listen(("", 80)) as listener:
        with pytest.raises(tcpcore.DeadlockError):
            listener.accept()
        listener.settimeout(5)
        before = network.now_s
        with pytest.raises(TimeoutError):
            listener.accept()
        assert network.now_s == before + 5


def test_programs_take_turns(network: tcpcore.Network) -> None:
    two(network)
    order: list[str] = []

    def program(name: str, seconds: float) -> str:
        for _ in range(3):
            order.append(name)
            network.advance(seconds)
        return name

    assert network.run(lambda: program("a", 2), lambda: program("b", 3)) == ["a", "b"]
    assert "".join(order) == "ababab"
    assert network.now_s == 9


def test_programs_that_all_wait(network: tcpcore.Network) -> None:
    client, server = two(network)
    listeners = [client.listen(("", 1)), server.listen(("", 2))]
    with pytest.raises(tcpcore.DeadlockError, match="every program waits"):
        network.run(listeners[0].accept, listeners[1].accept)
    for one in listeners:
        one.close()


def test_a_program_that_fails_ends_the_others(network: tcpcore.Network) -> None:
    _, server = two(network)
    ended: list[str] = []

    def waits() -> None:
        with server.listen(("", 80)) as listener:
            try:
                listener.accept()
            finally:
                ended.append("waits")

    def fails() -> None:
        network.advance(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        network.run(waits, fails)
    assert ended == ["waits"]
    with pytest.raises(ZeroDivisionError):
        network.run(lambda: 1 // 0)


def test_settle(network: tcpcore.Network) -> None:
    client, server = two(network, delay_s=0.3)
    one, other = pair(client, server)
    one.sendall(b"x")
    assert not network.settle(0.1)
    assert network.settle()
    assert other.poll() & tcpcore.socket.POLLIN
    one.close()
    other.close()


def test_a_tap_writes_what_enters(network: tcpcore.Network, tmp_path: Path) -> None:
    path = tmp_path / "tap.pcapng"
    client, server = two(network, delay_s=0.01)
    network.tap(path)
    one, other = pair(client, server)
    one.sendall(b"hello")
    other.recv(9)
    one.close()
    other.close()
    network.close()
    capture = tcpcore.replay(path, packets=True, engine="reference")
    assert capture.error is None
    packets = capture.packets
    assert packets["time_ns"][:3].tolist() == [0, 10_000_000, 20_000_000]
    assert capture.connections["payload_bytes_ab"][0] == 5


def test_one_capture_of_several_links(network: tcpcore.Network) -> None:
    client, server = network.host("client"), network.host("server")
    network.router("r")
    network.link("client", "r")
    network.link("r", "server")
    capture = io.BytesIO()
    network.tap(capture)
    one, other = pair(client, server)
    one.close()
    other.close()
    network.close()
    capture.seek(0)
    packets = tcpcore.replay(capture, packets=True, engine="reference").packets
    assert set(packets["interface"]) == {0, 1}


def share(kind: str, **path: object) -> float:
    """Of 4,000 frames, those that this happened to."""
    a, b = tcpcore.MemoryLink.pair(seed=3, **path)
    for number in range(4000):
        a.send([bytes(100)], number)
    b.recv(1 << 60)
    return a.counts[kind] / 4000


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("lost", {"loss": 0.1}),
        ("lost", {"burst": (0.02, 0.18)}),
        ("reordered", {"reorder": 0.1}),
        ("duplicated", {"duplicate": 0.1}),
        ("corrupted", {"corrupt": 0.1}),
    ],
)
def test_how_much_of_it(kind: str, path: dict[str, object]) -> None:
    assert share(kind, **path) == pytest.approx(0.1, abs=0.02)


def test_bursts_come_together() -> None:
    a, b = tcpcore.MemoryLink.pair(seed=1, burst=(0.01, 0.1))
    for number in range(5000):
        a.send([number.to_bytes(4, "big")], number)
    came = {int.from_bytes(frame, "big") for frame in b.recv(1 << 60)}
    lost = [number for number in range(5000) if number not in came]
    together = sum(after - before == 1 for before, after in pairwise(lost))
    assert together / len(lost) > 0.8


def test_rate_delay_and_order() -> None:
    a, b = tcpcore.MemoryLink.pair(rate_bps=8e6, delay_s=0.01, jitter_s=0.005, seed=2)
    a.send([bytes(1000), bytes(1000)], 0)
    assert 11_000_000 <= b.next_arrival <= 16_000_000
    for number in range(200):
        a.send([number.to_bytes(4, "big")], 1_000_000 * number)
    frames = [frame for frame in b.recv(1 << 60) if len(frame) == 4]
    assert frames == sorted(frames), "jitter keeps the order"


def test_a_full_queue_drops_or_marks() -> None:
    def frame(tos: int) -> bytes:
        head = struct.pack(">BBHHHBBH4s4s", 0x45, tos, 100, 0, 0, 64, 6, 0, bytes(4), bytes(4))
        check = ~(sum(struct.unpack(">10H", head)) % 0xFFFF) & 0xFFFF
        return head[:10] + check.to_bytes(2, "big") + head[12:] + bytes(80)

    a, b = tcpcore.MemoryLink.pair(rate_bps=1e6, queue=10, mark=4)
    a.send([frame(2)] * 8 + [frame(0)] * 8, 0)
    came = b.recv(1 << 60)
    assert [one[1] & 3 for one in came].count(3) == 3
    assert all(sum(struct.unpack(">10H", one[:20])) % 0xFFFF == 0 for one in came)
    assert a.counts["marked"] == 3
    assert a.counts["dropped"] == 16 - len(came)
    assert len(came) in (10, 11)


def test_one_fault_leaves_the_others_as_they_are() -> None:
    def lost(**path: object) -> list[bytes]:
        a, b = tcpcore.MemoryLink.pair(seed=9, loss=0.2, **path)
        for number in range(300):
            a.send([number.to_bytes(4, "big")], number)
        return sorted(set(b.recv(1 << 60)))

    assert lost() == lost(duplicate=0.5) == lost(jitter_s=0.001) == lost(reorder=0.2)


def test_hosts_survive_anything(network: tcpcore.Network) -> None:
    """Frames that hold nonsense, whole and cut, change nothing for those that make sense."""
    client, server = two(network, delay_s=0.001)
    frames: list[bytes] = []
    network.links[0].ends[0].tap(lambda frame, now_ns: frames.append(frame))
    one, other = pair(client, server)
    one.sendall(bytes(5000))
    lot = random.Random(4)
    junk = [lot.randbytes(lot.randrange(120)) for _ in range(300)]
    for frame in frames * 20:
        bad = bytearray(frame)
        bad[lot.randrange(len(bad))] ^= 1 << lot.randrange(8)
        junk += [bytes(bad[: lot.randrange(len(bad))]), bytes(bad)]
    server.receive(junk)
    assert len(other.recv(5000, socket.MSG_WAITALL)) == 5000
    one.close()
    other.close()
