"""ECN (RFC 3168): over links that mark, over IPv6, beside another host, and of odd handshakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tcpcore
from tcpcore import packetdrill, sockopt

SIZE = 4_000_000
MARK = 10  # frames that wait before the next is marked
ASKS = {"tcp_ecn": 1}
ECN_MODES = -4  # where `struct tcp_info` has them
TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN = 8, 16
CLIENT = """`../defaults.sh
sysctl -q net.ipv4.tcp_ecn=1`
0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0
+0 connect(3, ..., ...) = -1 EINPROGRESS (Operation now in progress)
+0 > [noecn] SEW 0:0(0) <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 8>
+.1 < {flags}. 0:0(0) ack 1 win 32792 <mss 1000,sackOK,nop,nop,nop,wscale 7>
+0 > [noecn] . 1:1(0) ack 1
+0 write(3, ..., 1000) = 1000
+0 > [noecn] P. 1:1001(1000) ack 1
+0 %{{ assert tcpi_options & 24 == 0, tcpi_options }}%
"""


@pytest.fixture(params=["reference", "compiled"])
def network(request: pytest.FixtureRequest) -> Iterator[tcpcore.Network]:
    with tcpcore.Network(seed=1, engine=request.param) as made:
        yield made


def transfer(
    network: tcpcore.Network, to: str, sysctl: dict[str, int], size: int = SIZE, **path: float
) -> tuple[dict[str, int], dict[str, int], dict[str, int], tcpcore.Stack]:
    """Send over a link: TCP_INFO of both ends, the link's counts on the way, and who received."""
    client, server = network.host("client", sysctl=sysctl), network.host("server")
    cable = network.link(client, server, **path)
    with server.listen(("::", 80)) as listener:
        one = client.connect((to, 80))
        other, _ = listener.accept()
    got = []

    def send() -> None:
        one.sendall(bytes(size))

    def receive() -> None:
        left = size
        while left:
            left -= len(other.recv(1 << 20))
        got.append(size)

    network.run(send, receive)
    network.settle()
    assert got == [size]
    told = one.info(), other.info()
    one.close()
    other.close()
    return *told, cable.counts["client"], server


@pytest.mark.parametrize("to", ["10.0.0.2", "fd00::2"])
def test_a_queue_that_marks_loses_nothing(network: tcpcore.Network, to: str) -> None:
    """9293:SHLD-8, RFC 3168 6.1: marks hold the queue short, and nothing has to go again."""
    path = {"rate_bps": 20e6, "delay_s": 0.01, "queue": 100, "mark": MARK}
    sender, receiver, counts, server = transfer(network, to, ASKS, **path)
    assert counts["marked"] > 0
    assert counts["dropped"] == counts["lost"] == sender["tcpi_total_retrans"] == 0
    assert sender["tcpi_options"] & TCPI_OPT_ECN
    assert sender["tcpi_ecn_mode"] == receiver["tcpi_ecn_mode"] == 1
    assert sockopt.tcp_info(sender)[ECN_MODES] & 3 == 1
    assert receiver["tcpi_options"] & TCPI_OPT_ECN_SEEN
    assert 0 < sender["tcpi_delivered_ce"] < sender["tcpi_delivered"]
    assert server.counters["IpExtInCEPkts" if "." in to else "Ip6InCEPkts"] == counts["marked"]
    most = 2 * 0.01 + (MARK + 40) * 1500 * 8 / 20e6
    assert sender["tcpi_rtt"] < most * 1e6
    assert network.now_s < SIZE * 8 / 20e6 * 1.25 + 1


def test_the_same_queue_loses_without_it(network: tcpcore.Network) -> None:
    """RFC 3168 5: what cannot be marked is dropped where the queue ends."""
    path = {"rate_bps": 20e6, "delay_s": 0.01, "queue": 100, "mark": MARK}
    sender, receiver, counts, server = transfer(network, "10.0.0.2", {"tcp_ecn": 0}, **path)
    assert counts["marked"] == server.counters["IpExtInCEPkts"] == 0
    assert counts["dropped"] > 0
    assert sender["tcpi_total_retrans"] > 0
    assert sender["tcpi_options"] & TCPI_OPT_ECN == sender["tcpi_delivered_ce"] == 0
    assert not receiver["tcpi_options"] & TCPI_OPT_ECN_SEEN
    assert sender["tcpi_ecn_mode"] == receiver["tcpi_ecn_mode"] == 0


def test_hosts_with_nothing_between_them(network: tcpcore.Network) -> None:
    """RFC 3168 6.1.4: data alone is ECT(0), of segments that are handed over whole, too."""
    sender, _, _, server = transfer(network, "10.0.0.2", ASKS, size=100_000)
    counters = server.counters
    assert counters["IpExtInECT0Pkts"] > 0
    assert counters["IpExtInECT0Pkts"] + counters["IpExtInNoECTPkts"] == counters["IpInReceives"]
    assert sender["tcpi_options"] & TCPI_OPT_ECN


@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("flags", ["SEW", "SW", "S"])
def test_an_answer_that_does_not_agree(engine: str, flags: str) -> None:
    """RFC 3168 6.1.1: a SYN-ACK with both bits is somebody's copy of the SYN's."""
    script = CLIENT.format(flags=flags)
    result = packetdrill.run("here.pkt", text=script, engine=engine)
    assert result.kind == "pass", result.error


def test_the_knobs() -> None:
    for bad in ({"tcp_ecn": 6}, {"tcp_ecn": -1}, {"tcp_ecn_fallback": 2}):
        with pytest.raises(ValueError, match="must be from"):
            tcpcore.Sysctl(**bad)
