"""A host: frames in and out, its knobs, clocks, threads, and a listener for everything."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
import threading
import time

import pytest

import tcpcore
from tcpcore.engine import load_net
from tcpcore.link import CHECKSUM_NONE, CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY
from tcpcore.mib import COUNTERS
from tcpcore.router import fragments
from tcpcore.sysctl import KNOBS

ENGINES = ["reference", "compiled"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- frames -------------------------------------------------------------------------------------


def carry(a: tcpcore.Stack, b: tcpcore.Stack, now_ns: int) -> int:
    """Carry frames between two hosts until none are left; how many there were."""
    count = 0
    while True:
        there, back = a.transmit(now_ns), b.transmit(now_ns)
        if not there and not back:
            return count
        b.receive(there, now_ns)
        a.receive(back, now_ns)
        count += len(there) + len(back)


def test_frames_by_hand(engine: str) -> None:
    """No link: the caller's loop carries frames, and time is an argument."""
    a = tcpcore.Stack("10.0.0.1/24", seed=1, engine=engine)
    b = tcpcore.Stack("10.0.0.2/24", seed=2, engine=engine)
    listener = b.listen(("", 80))
    sock = a.socket()
    sock.setblocking(False)
    assert sock.connect_ex(("10.0.0.2", 80)) == 115
    assert carry(a, b, 1_000_000) == 3
    other, address = listener.accept()
    assert address[0] == "10.0.0.1"
    sock.sendall(b"by hand")
    assert carry(a, b, 2_000_000) >= 1
    assert other.recv(99) == b"by hand"
    for one in (sock, other, listener):
        one.close()


def test_lost_frames_are_sent_again(engine: str) -> None:
    a = tcpcore.Stack("10.0.0.1", seed=1, engine=engine)
    sock = a.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.2", 80))
    (syn,) = a.transmit(0)
    when = a.next_deadline
    assert when == 1_000_000_000
    assert a.transmit(when - 1) == []
    (again,) = a.transmit(when)
    assert again[24:28] == syn[24:28], "the same sequence number"
    sock.close()


def test_the_same_seed_gives_the_same_frames(engine: str) -> None:
    def syn(seed: int | bytes | None) -> bytes:
        stack = tcpcore.Stack("10.0.0.1", seed=seed, engine=engine)
        sock = stack.socket()
        sock.setblocking(False)
        sock.connect_ex(("10.0.0.2", 80))
        (frame,) = stack.transmit(0)
        sock.close()
        return frame

    assert syn(1) == syn(1) != syn(2)
    assert syn(bytes(16)) == syn(bytes(16))
    assert syn(None) != syn(None)
    with pytest.raises(ValueError, match="16 of them"):
        syn(b"short")


def syn_of(engine: str, **link: object) -> tuple[tcpcore.Frame, tcpcore.Socket]:
    """A SYN to 10.0.0.2, and whose it is."""
    sent: list[bytes] = []
    wire = tcpcore.CallableLink(sent.append, **link)
    sock = tcpcore.Stack("10.0.0.1", seed=1, link=wire, engine=engine).socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.2", 80))
    return sent[0], sock


def test_what_is_known_of_a_checksum(engine: str) -> None:
    """T-13: it is verified unless the link says that somebody has, or that there is none yet."""
    syn, sock = syn_of(engine)
    assert type(syn) is bytes
    wrong = syn[:36] + bytes((syn[36] ^ 1, *syn[37:]))
    for summed, taken in ((CHECKSUM_NONE, 0), (CHECKSUM_UNNECESSARY, 1), (CHECKSUM_PARTIAL, 1)):
        server = tcpcore.Stack("10.0.0.2", seed=2, engine=engine)
        listener = server.listen(("", 80))
        server.receive([tcpcore.Frame(wrong, ip_summed=summed)], 0)
        assert len(server.transmit(0)) == taken
        assert server.counters["TcpInCsumErrors"] == 1 - taken
        # IP's own is verified all the same, and so is what is put together of fragments.
        headless = wrong[:10] + b"\0\0" + wrong[12:]
        parts = [tcpcore.Frame(one, ip_summed=summed) for one in fragments(wrong, 48)]
        assert len(parts) == 2
        server.receive([tcpcore.Frame(headless, ip_summed=summed), *parts], 0)
        assert server.transmit(0) == []
        listener.close()
    sock.close()


def test_a_link_that_makes_checksums(engine: str) -> None:
    """CHECKSUM_PARTIAL: only the pseudo-header is summed, and who carries it is told."""
    whole, one = syn_of(engine)
    partial, other = syn_of(engine, hw_csum=True)
    assert partial.ip_summed == CHECKSUM_PARTIAL
    assert (partial[:36], partial[38:]) == (whole[:36], whole[38:])
    pseudo = partial[12:20] + struct.pack(">HH", 6, len(partial) - 20)
    assert int.from_bytes(partial[36:38], "big") == sum(struct.unpack(">6H", pseudo)) % 0xFFFF
    one.close()
    other.close()


def test_when_a_frame_came(engine: str) -> None:
    """Of a batch each frame is taken at its own time, none after the batch's."""
    syn, sock = syn_of(engine)
    server = tcpcore.Stack("10.0.0.2", seed=2, engine=engine)
    listener = server.listen(("", 80))
    server.receive([tcpcore.Frame(syn, time_ns=5_000_000_000)], 5_500_000_000)
    assert server.next_deadline == 6_000_000_000
    (synack,) = server.transmit(5_600_000_000)
    assert (synack.time_ns, synack.gso_size, synack.ip_summed) == (5_600_000_000, 0, CHECKSUM_NONE)
    (again,) = server.transmit(6_000_000_000)
    assert again.time_ns == 6_000_000_000
    server.receive([tcpcore.Frame(syn, time_ns=1 << 62)], 6_100_000_000)
    assert len(server.transmit(6_100_000_000)) == 1
    assert server.next_deadline < 1 << 40
    sock.close()
    listener.close()


def test_large_segments_by_hand(engine: str) -> None:
    """A link that takes large segments is told how to cut them, and gives such back."""
    sent: list[bytes] = []
    link = tcpcore.CallableLink(sent.append, gso=True, hw_csum=True)
    clock = tcpcore.VirtualClock()
    client = tcpcore.Stack("10.0.0.1", seed=1, link=link, clock=clock, engine=engine)
    server = tcpcore.Stack("10.0.0.2", seed=2, clock=clock, engine=engine)
    listener = server.listen(("", 80))
    sock = client.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.2", 80))
    data = bytes(range(256)) * 400
    todo, got, largest = memoryview(data), bytearray(), 0
    other = None
    for _ in range(200):
        server.receive(sent)
        largest = max([largest, *(one.gso_size and len(one) for one in sent)])
        sent.clear()
        link.deliver(server.transmit())
        client.run()
        if other is None and tcpcore.select([listener], [], [], 0)[0]:
            other, _ = listener.accept()
            other.setblocking(False)
        if other is not None:
            try:
                todo = todo[sock.send(todo) :] if todo else todo
                got += other.recv(1 << 20)
            except BlockingIOError:
                pass
        clock.advance(0.001)
    assert got == data
    assert 1500 < largest <= 65535
    for one in (sock, other, listener):
        one.close()


def test_nothing_for_others_is_taken(engine: str) -> None:
    """A host answers for its own addresses alone, and takes nothing out of tunnels."""
    a = tcpcore.Stack("10.0.0.1", seed=1, engine=engine)
    listener = a.listen(("", 80))
    b = tcpcore.Stack("10.0.0.2", seed=1, engine=engine)
    sock = b.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.3", 80))
    frames = b.transmit(0)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 80, 0, 0, 64, 4, 0, bytes(4), bytes((10, 0, 0, 1)))
    check = ~(sum(struct.unpack(">10H", head)) % 0xFFFF) & 0xFFFF
    head = head[:10] + check.to_bytes(2, "big") + head[12:]
    a.receive([*frames, head + frames[0]], 0)
    assert a.transmit(0) == []
    sock.close()
    listener.close()


def test_counters(engine: str) -> None:
    stack = tcpcore.Stack("10.0.0.1", seed=1, engine=engine)
    assert stack.counters.keys() == {*COUNTERS, "frames_received", "frames_sent"}
    stack.receive([b"", b"\x45", bytes(40)])
    assert stack.counters["frames_received"] == 3


def test_arguments(engine: str) -> None:
    for address in ([], "10.0.0.256", "host"):
        with pytest.raises(ValueError):  # noqa: PT011
            tcpcore.Stack(address, engine=engine)
    with pytest.raises(ValueError, match="engine must be"):
        tcpcore.Stack("10.0.0.1", engine="fast")
    with tcpcore.Stack(["10.0.0.1/8", "fd00::1/64"], engine=engine, name="me") as stack:
        assert stack.addresses == ("10.0.0.1", "fd00::1")
        assert "me" in repr(stack)
        with pytest.raises(OSError, match="family"):
            stack.socket(1)
        with pytest.raises(OSError, match="ocket type"):
            stack.socket(socket.AF_INET, socket.SOCK_DGRAM)


# ---- knobs --------------------------------------------------------------------------------------


def test_knobs_reach_the_engine(engine: str) -> None:
    stack = tcpcore.Stack("10.0.0.1", engine=engine, sysctl={"net.ipv4.tcp_syn_retries": 2})
    sock = stack.socket()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT) == 2
    sock.settimeout(100)
    with pytest.raises(TimeoutError) as caught:
        sock.connect(("10.0.0.9", 80))
    assert caught.value.errno == 110
    sock.close()


def test_knobs_are_frozen_and_held_to_bounds() -> None:
    knobs = tcpcore.Sysctl(tcp_sack=0, tcp_rmem=[4096, 8192, 8192])
    assert knobs["tcp_rmem"] == knobs.tcp_rmem == (4096, 8192, 8192)
    assert repr(knobs) == "Sysctl(tcp_rmem=(4096, 8192, 8192), tcp_sack=0)"
    assert pickle.loads(pickle.dumps(knobs)) == knobs != tcpcore.Sysctl()
    assert hash(knobs.replace(tcp_sack=1, tcp_rmem=KNOBS["tcp_rmem"].default)) == hash(
        tcpcore.Sysctl()
    )
    with pytest.raises(AttributeError, match="frozen"):
        knobs.tcp_sack = 1
    for bad in (
        {"tcp_sack": 256},
        {"tcp_min_snd_mss": 47},
        {"tcp_retries2": -1},
        {"tcp_rto_max_ms": 120001},
        {"tcp_keepalive_time": 1 << 31},
        {"tcp_rmem": (3, 2, 1)},
        {"tcp_rmem": (4096, 8192)},
        {"tcp_congestion_control": "fastest"},
        {"ip_default_ttl": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            tcpcore.Sysctl(**bad)
    for bad in ({"tcp_sack": "1"}, {"tcp_rmem": 5}, {"tcp_congestion_control": 1}, {"no": 1}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            tcpcore.Sysctl(**bad)


def test_every_knob_is_told_and_known_to_the_engine(engine: str) -> None:
    net = load_net(engine)(bytes(16))
    for name, knob in KNOBS.items():
        assert getattr(tcpcore.Sysctl, name).__doc__.startswith(knob.doc)
        assert knob.check(name, knob.default) == knob.default
        net.set_sysctl(name, knob.default)


# ---- a listener for everything ------------------------------------------------------------------


PLACES = {
    "": [("192.0.2.7", 443), ("198.51.100.1", 1), ("proxy", 8080), ("10.0.0.2", 65535)],
    "::": [("2001:db8::7", 443), ("2001:db8::ffff", 1), ("fd00::2", 8080)],
}


@pytest.mark.parametrize("host", PLACES)
def test_a_listener_for_every_address_and_port(host: str, engine: str) -> None:
    """Who is accepted tells by `getsockname` where he had sent to, and is answered from there."""
    with tcpcore.Network(1, engine=engine) as network:
        client, proxy = network.host("client"), network.host("proxy")
        network.router("r").default = "proxy"
        network.link("client", "r", delay_s=0.001)
        network.link("r", "proxy", delay_s=0.001)
        listener = proxy.listen((host, 0), every_port=True)
        assert listener.getsockname()[0] == (host or "0.0.0.0")
        own = proxy.listen((host, 22))
        for where in PLACES[host]:
            one = client.connect(where)
            other, address = listener.accept()
            assert address == one.getsockname()
            assert other.getsockname() == one.getpeername()
            assert other.getsockname()[1] == where[1]
            assert other.getsockname()[0] == client.hosts.get(where[0], where[0])
            one.sendall(b"for somebody else")
            assert other.recv(99) == b"for somebody else"
            other.sendall(b"answered in his name")
            assert one.recv(99) == b"answered in his name"
            one.close()
            other.close()
        mine = proxy.addresses[1] if host else "proxy"
        one = client.connect((mine, 22))
        other, _ = own.accept()
        for sock in (one, other, own, listener):
            sock.close()
        network.advance(1)
        with pytest.raises(ConnectionRefusedError):
            client.connect((mine, 8080))


def test_ipv6_alone_or_both(engine: str) -> None:
    """A listener of IPv6 for every address takes IPv4 too, mapped; IPV6_V6ONLY if it has it."""
    with tcpcore.Network(1, engine=engine) as network:
        client, proxy = network.host("client"), network.host("proxy")
        network.router("r").default = "proxy"
        network.link("client", "r", delay_s=0.001)
        network.link("r", "proxy", delay_s=0.001)
        listener = proxy.listen(("::", 0), every_port=True)
        one = client.connect(("192.0.2.7", 443))
        other, address = listener.accept()
        assert address[0] == "::ffff:10.0.0.1"
        assert other.getsockname()[:2] == ("::ffff:192.0.2.7", 443)
        one.sendall(b"mapped")
        assert other.recv(9) == b"mapped"
        for sock in (one, other, listener):
            sock.close()


def test_one_for_every_port(engine: str) -> None:
    """A second listener for every port is EADDRINUSE, but for the other version of IP."""
    with tcpcore.Stack("10.0.0.1", engine=engine) as stack:
        four = stack.listen(("0.0.0.0", 0), every_port=True)
        for host in ("0.0.0.0", "::"):
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                stack.listen((host, 0), every_port=True)
        six = stack.socket(socket.AF_INET6)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.listen(every_port=True)
        four.close()
        again = stack.listen(("0.0.0.0", 0), every_port=True)
        for sock in (six, again):
            sock.close()


# ---- the system's clock -------------------------------------------------------------------------


def real_pair(engine: str, **path: object) -> tuple[tcpcore.Stack, tcpcore.Stack]:
    a, b = tcpcore.MemoryLink.pair(seed=1, **path)
    return (
        tcpcore.Stack(
            "10.0.0.1/24", link=a, clock=(clock := tcpcore.MonotonicClock()), engine=engine
        ),
        tcpcore.Stack("10.0.0.2/24", link=b, clock=clock, engine=engine),
    )


def test_many_threads_block(engine: str) -> None:
    """One that waits drives its host, the others wait for it; the lead passes on."""
    client, server = real_pair(engine, delay_s=0.002, loss=0.02)
    count, rounds = 8, 5
    listener = server.listen(("", 80))
    failed: list[BaseException] = []

    def echo(sock: tcpcore.Socket) -> None:
        with sock:
            while data := sock.recv(4096):
                sock.sendall(data)

    def serve() -> None:
        for _ in range(count):
            sock, _ = listener.accept()
            start(lambda sock=sock: echo(sock))

    def ask(number: int) -> None:
        with client.connect(("10.0.0.2", 80), timeout=20) as sock:
            for turn in range(rounds):
                words = f"{number} {turn}".encode() * 50
                sock.sendall(words)
                assert sock.recv(len(words), socket.MSG_WAITALL) == words

    threads: list[threading.Thread] = []

    def start(program: object) -> None:
        def run() -> None:
            try:
                program()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        threads.append(thread)
        thread.start()

    start(serve)
    for number in range(count):
        start(lambda number=number: ask(number))
    end = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        client.drive(0.05)  # a lost FIN is sent again only while somebody drives
    assert not failed
    assert not any(thread.is_alive() for thread in threads)
    listener.close()
    client.close()
    server.close()


def test_a_timeout_takes_as_long_as_it_says(engine: str) -> None:
    client, server = real_pair(engine)
    with server.listen(("", 80)) as listener:
        listener.settimeout(0.05)
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="timed out"):
            listener.accept()
        assert 0.045 < time.monotonic() - begun < 1
    server.drive(0.01)
    client.close()
    server.close()
    server.close()


def test_more_descriptors_than_select_takes(engine: str) -> None:
    """Many hosts, more descriptors than select(2) takes."""
    import os

    held = [os.dup(0) for _ in range(1030)]
    try:
        client, server = real_pair(engine)
        listener = server.listen(("", 80))
        timer = threading.Timer(0.05, lambda: client.connect(("10.0.0.2", 80)).close())
        timer.start()
        sock, _ = listener.accept()
        assert sock.recv(1) == b""
        timer.join()
        sock.close()
        listener.close()
    finally:
        for fd in held:
            os.close(fd)


def test_select_over_threads(engine: str) -> None:
    client, server = real_pair(engine)
    listener = server.listen(("", 80))
    later = threading.Timer(0.05, lambda: client.connect(("10.0.0.2", 80)).close())
    later.start()
    found = tcpcore.select([listener], [], [], 10)
    assert found == ([listener], [], [])
    sock, _ = listener.accept()
    assert tcpcore.select([sock], [], [], 10)[0] == [sock]
    assert sock.recv(1) == b""
    later.join()
    other = client.socket()
    with pytest.raises(ValueError, match="one virtual time"):
        tcpcore.select([sock, other], [], [], 0)
    other.close()
    sock.close()
    listener.close()


# ---- many ---------------------------------------------------------------------------------------


def test_a_flood_leaves_no_memory_and_takes_the_honest(engine: str) -> None:
    knobs = {"tcp_max_syn_backlog": 16, "somaxconn": 16}
    with tcpcore.Network(1, sysctl=knobs, engine=engine) as network:
        client, server = network.host("client"), network.host("server")
        network.link(client, server, delay_s=0.001)
        listener = server.listen(("", 80), backlog=8)
        server.receive(flood(2000))
        assert server.counters["TcpExtSyncookiesSent"] > 1900
        one = client.connect(("server", 80))
        other, _ = listener.accept()
        assert server.counters["TcpExtSyncookiesRecv"] == 1
        one.sendall(bytes(100_000))
        assert len(other.recv(100_000, socket.MSG_WAITALL)) == 100_000
        info = other.info()
        assert info["tcpi_options"] & 7 == 7, "time stamps, SACK and the window's scale"
        for sock in (one, other, listener):
            sock.close()


def flood(count: int) -> list[bytes]:
    """SYNs from addresses that nobody has."""
    made = []
    for number in range(count):
        source = struct.pack(">I", 0xC0000200 + number)
        tcp = struct.pack(">HHIIHHHH", 1024 + number, 80, number * 7919, 0, 0x5002, 1024, 0, 0)
        target = bytes((10, 0, 0, 2))
        pseudo = source + target + struct.pack(">HH", 6, len(tcp))
        check = ~(sum(struct.unpack(">16H", pseudo + tcp)) % 0xFFFF) & 0xFFFF
        tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, target)
        check = ~(sum(struct.unpack(">10H", head)) % 0xFFFF) & 0xFFFF
        made.append(head[:10] + check.to_bytes(2, "big") + head[12:] + tcp)
    return made


# ---- misuse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "::"])
def test_what_cannot_be_an_address(engine: str, address: str) -> None:
    """An address that nobody can have is refused where it is given."""
    with pytest.raises(ValueError, match="cannot be a host's address"):
        tcpcore.Stack(address, engine=engine)


def test_arguments_of_the_wrong_kind(engine: str) -> None:
    """Types are complained of at once, alike in both engines."""
    for wrong in ({"seed": "x"}, {"seed": 1.5}, {"clock": 3}):
        with pytest.raises(TypeError):
            tcpcore.Stack("10.0.0.1", engine=engine, **wrong)  # type: ignore[arg-type]
    stack = tcpcore.Stack("10.0.0.1", engine=engine)
    for frames in (b"one frame", [5], ["text"], [None]):
        with pytest.raises(TypeError, match="bytes-like object is required"):
            stack.receive(frames)  # type: ignore[arg-type]
    for now in (1.5, "1"):
        with pytest.raises(TypeError):
            stack.transmit(now)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        stack.transmit(1 << 62)
    for address in (None, (), "10.0.0.2:80", (5, 80)):
        for call in (stack.connect, stack.listen):
            with pytest.raises(TypeError):
                call(address)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tcpcore\.Socket is required"):
        tcpcore.select([5], [], [])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"tcpcore\.Socket is required"):
        tcpcore.poll().register(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes-like"):
        tcpcore.CallableLink(print).deliver(b"one frame")  # type: ignore[arg-type]


def test_a_link_has_one_host_at_an_end(engine: str) -> None:
    """Two hosts at one end are refused, until the first one is closed."""
    a, _ = tcpcore.MemoryLink.pair()
    for link in (a, tcpcore.CallableLink(print)):
        first = tcpcore.Stack("10.0.0.1", link=link, engine=engine)
        with pytest.raises(ValueError, match=r"this link is 10\.0\.0\.1's"):
            tcpcore.Stack("10.0.0.2", link=link, engine=engine)
        first.close()
        tcpcore.Stack("10.0.0.2", link=link, engine=engine).close()


def test_hosts_of_one_link_share_a_clock(engine: str) -> None:
    """The second host takes the first one's clock; another virtual one would never end a wait."""
    a, b = tcpcore.MemoryLink.pair(delay_s=0.01)
    one = tcpcore.Stack("10.0.0.1", link=a, engine=engine)
    with pytest.raises(ValueError, match="the same clock"):
        tcpcore.Stack("10.0.0.2", link=b, clock=tcpcore.VirtualClock(), engine=engine)
    other = tcpcore.Stack("10.0.0.2", link=b, engine=engine)
    assert other.clock is one.clock
    listener = other.listen(("", 80))
    with one.connect(("10.0.0.2", 80)), listener.accept()[0], listener:
        pass


def test_a_closed_host_is_silent(engine: str) -> None:
    """After close nothing leaves, nothing is due and what arrives is ignored."""
    stack = tcpcore.Stack("10.0.0.1", engine=engine)
    sock = stack.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.0.0.2", 80))
    assert stack.next_deadline is not None
    stack.close()
    stack.receive([b"whatever"])
    assert stack.transmit() == []
    assert stack.next_deadline is None
    sock.close()


def test_mistakes_of_a_network(engine: str) -> None:
    """A link that cannot be leaves no trace; names that are none are told."""
    network = tcpcore.Network(engine=engine)
    a, b = network.host("a"), network.host("b")
    with pytest.raises(ValueError, match="to itself"):
        network.link(a, a)
    network.link(a, b)
    c = network.host("c")
    with pytest.raises(ValueError, match="a has a link"):
        network.link(c, a)
    assert c.link is None
    with pytest.raises(ValueError, match="no 'nobody'"):
        network.partition("nobody")
    with pytest.raises(TypeError, match="function is required"):
        network.at(1, None)  # type: ignore[arg-type]
