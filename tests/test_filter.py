"""Filters: the language against its meaning, programs on both engines, errors with their place."""

from __future__ import annotations

import io
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, FIN, PSH, SYN

import tcpcore
from tcpcore.assembler import PROGRAM_MAX, Code, FilterError
from tcpcore.filter import NESTING_MAX, compile_filter
from tcpcore.reference import tcp

# Frames by name; each expression below names those that it wants.
SYN_OUT = capgen.frame("10.0.0.1", "10.0.0.2", 40000, 80, flags=SYN, seq=7)
SYN_IN = capgen.frame("10.0.0.2", "10.0.0.1", 80, 40000, flags=SYN | ACK, seq=9, ack=8)
DATA = capgen.frame("10.1.2.3", "192.0.2.9", 443, 8080, flags=PSH | ACK, payload=b"GET /" * 20)
SIX = capgen.frame("2001:db8::1", "2001:db8:1::2", 40000, 80, flags=FIN | ACK)
TAGGED = capgen.ethernet(capgen.packet("10.0.0.1", "10.0.0.9", 5, 6), 0x0800, (0x88A8, 0x8100))
OPTIONS = capgen.frame(
    "172.16.0.1", "172.16.0.1", 80, 80, ip={"options": b"\1\1\1\1"}, payload=b"\x47\x45"
)
UDP = capgen.ethernet(capgen.ipv4(bytes(8), proto=17), 0x0800)
ARP = capgen.ethernet(bytes(28), 0x0806)
FRAMES = {
    "syn_out": SYN_OUT,
    "syn_in": SYN_IN,
    "data": DATA,
    "six": SIX,
    "tagged": TAGGED,
    "options": OPTIONS,
    "udp": UDP,
    "arp": ARP,
}
TCP = "syn_out syn_in data six tagged options"

WANTS = {
    "": f"{TCP} udp arp",
    "tcp": TCP,
    "ip": "syn_out syn_in data tagged options",
    "ip6": "six",
    "host 10.0.0.1": "syn_out syn_in tagged",
    "src host 10.0.0.1": "syn_out tagged",
    "dst 10.0.0.1": "syn_in",
    "ip host 10.0.0.1 and not dst port 80": "syn_in tagged",
    "host 10.0.0.2 or 10.1.2.3": "syn_out syn_in data",
    "host (10.0.0.9 or 10.1.2.3)": "data tagged",
    "src or dst host 10.0.0.2": "syn_out syn_in",
    "src and dst host 172.16.0.1": "options",
    "dst or src 10.0.0.9": "tagged",
    "net 10.0.0.0/8": "syn_out syn_in data tagged",
    "net 10": "syn_out syn_in data tagged",
    "net 10.1": "data",
    "net 10.0.0.0 mask 255.255.0.0": "syn_out syn_in tagged",
    "src net 192.0.2.0/24": "",
    "dst net 192.0.2.0/24": "data",
    "net 2001:db8::/48": "six",
    "dst net 2001:db8:1::/48": "six",
    "src host 2001:db8::1": "six",
    "host ::1": "",
    "net 0.0.0.0/0": "syn_out syn_in data tagged options",
    "net ::/0": "six",
    "port 80": "syn_out syn_in six options",
    "port http or https": "syn_out syn_in data six options",
    "tcp src port 80": "syn_in options",
    "src and dst port 80": "options",
    "tcp port (80 or 443) and ip": "syn_out syn_in data options",
    "portrange 1-10 or 440-450": "data tagged",
    "portrange 10-1": "tagged",
    "dst portrange 8000-9000": "data",
    "less 54": "syn_out syn_in udp arp",
    "greater 62": "data six tagged",
    "len > 60 and len <= 74": "six tagged",
    "60 = len": "options",
    "len - 14 < 28": "",
    "vlan": "tagged",
    "vlan 100": "tagged",
    "vlan 101": "",
    "vlan and vlan 101": "tagged",
    "vlan 100 and vlan 101 and vlan": "",
    "vlan 7 or vlan 100": "tagged",
    "not vlan 7 and vlan 100": "tagged",
    "vlan and tcp port 5": "tagged",
    "not vlan and tcp": "syn_out syn_in data six options",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn": "syn_out",
    "tcp[13] = 0x18": "data",
    "tcp[tcpflags] & tcp-fin != 0": "",  # as in libpcap, IPv4 alone
    "ip6[53] & tcp-fin != 0": "six",
    "tcp[((tcp[12] & 0xf0) >> 2):2] = 0x4745": "data options",
    "tcp[2:2] = 80 or tcp[0:2] == 0120": "syn_out syn_in options",
    "tcp[4:4] < 8 and ip[8] = 64": "syn_out",
    "tcp[100] >= 0": "data",
    "not tcp[100] >= 0": "six udp arp",  # of the others the byte is not there
    "tcp[100] = 1 or tcp": "data six",
    "ether[12:2] = 0x0806": "arp",
    "link[0] = 2 && !tcp": "udp arp",
    "ether host 02:00:00:00:00:02": f"{TCP} udp arp",
    "ether src 2-0-0-0-0-1 and ip6": "six",
    "not ether dst 02:00:00:00:00:02": "",
    "ether src host 02:00:00:00:00:03 or 02:00:00:00:00:01": f"{TCP} udp arp",
    "ether src and dst 02:00:00:00:00:01": "",
    "ether proto 0x806": "arp",
    r"ether proto \ip6 or ether proto arp": "six arp",
    "ether proto 0x88a8": "tagged",
    r"ip proto \tcp": "syn_out syn_in data tagged options",
    "ip6 proto 6": "six",
    "proto tcp and not ip protochain 6": "six",
    "10 / (ip[8] - 64) > 0": "",
    "len % 2 = 0 and ip[0] = 0x46": "options",
    "1 << 2 + 1 = 8 and ip6": "six",
    "3 - 5 > 4000000000 and ip6": "six",
    "-1 = 0xffffffff and ip6": "six",
    "(2 | 1 ^ 3 & 2) * 3 = 9 and ip6": "six",
    "1 << 32 = 0 and 1 >> 40 = 0 and ip6": "six",
    "port 80 or port 443 and ip6": "six",  # from left to right, both alike
    "ip6 and port 443 or port 80": "syn_out syn_in six options",
    "not (port 80 or vlan) and tcp": "data",
    "!!ip6": "six",
    "not port 80": "data tagged udp arp",
}


def wanted(engine: ModuleType, program: Any) -> str:
    capture = capgen.pcap([(i, data) for i, data in enumerate(FRAMES.values())], fmt="pcap-ns")
    told = lockstep.outcome(engine, [capture], filter=program)
    names = list(FRAMES)
    numbers = memoryview(told["packets"]["packet"]).cast("q")
    assert told["summary"]["filtered"] == len(FRAMES) - len(numbers)
    return " ".join(names[number - 1] for number in numbers)


@pytest.mark.parametrize("text", WANTS)
def test_language(engine: ModuleType, text: str) -> None:
    assert wanted(engine, compile_filter(text)) == " ".join(
        name for name in FRAMES if name in WANTS[text].split()
    )


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("prot 80", 0, "'prot'"),
        ("tcp port 80 adn host 10.0.0.1", 12, "'adn'"),
        ("port 80 and", 11, "ends here"),
        ("host 1.2.3.4.5", 5, "no address"),
        ("host example.com", 5, "not looked up"),
        ("host 10.0.0.0/8", 5, "write net"),
        ("net 10.0.0.1/8", 4, "beyond its mask"),
        ("net 10.0.0.0/33", 13, "up to 32"),
        ("net 10.0.0.0 mask 255", 18, "mask"),
        ("port 65536", 5, "65535"),
        ("port nosuchport", 5, "nosuchport"),
        ("portrange http", 10, "LOW-HIGH"),
        ("udp port 53", 0, "TCP"),
        ("tcp and proto 17", 14, "TCP"),
        (r"ip proto \udp", 9, "TCP"),
        ("tcp proto 6", 0, "does not go"),
        ("src proto 6", 0, "does not go"),
        ("port 80 or mpls 5", 11, "tunnels"),
        ("ether proto 1500", 12, "0x600"),
        ("ether proto foo", 12, "'foo'"),
        ("ether host 10.0.0.1", 11, "Ethernet"),
        ("ether port 80", 6, "of 'ether' are known"),
        ("ether", 5, "of 'ether' are known"),
        ("tcp host 10.0.0.1", 0, "does not go"),
        ("ip port 80", 0, "does not go"),
        ("10.0.0.1", 0, "host, net or port"),
        ("tcp or 10.0.0.1", 7, "host, net or port"),
        ("tcp[13", 6, "']'"),
        ("tcp[13:3] = 1", 7, "1, 2 or 4"),
        ("tcp[13]", 7, "comparison"),
        ("len", 3, "comparison"),
        ("len > tcp", 6, "number"),
        ("(tcp) + 1 = 2", 6, "takes numbers"),
        ("len / 0 = 1", 6, "division"),
        ("len = 0x1ffffffff", 6, "32 bits"),
        ("len = 09", 6, "no number"),
        ("vlan 5000", 5, "4095"),
        ("(tcp", 4, "')'"),
        ("tcp)", 3, "')'"),
        ("ip host ::1", 8, "'ip'"),
    ],
)
def test_errors_show_the_place(text: str, position: int, word: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    assert caught.value.position == position
    assert word in caught.value.reason
    reason, line, caret = str(caught.value).split("\n")
    assert (reason, line) == (caught.value.reason, "  " + text)
    assert caret == "  " + " " * position + "^"


def test_bounds() -> None:
    """T-25: length, nesting and the stack are bounded, whatever is written."""
    long = "port 1" + " or 2" * (PROGRAM_MAX - 1)
    assert len(compile_filter(long)) == PROGRAM_MAX
    deep = "(" * NESTING_MAX + "tcp" + ")" * NESTING_MAX
    assert len(compile_filter(deep)) == 1
    sums = " + ".join(["len"] * 1500)
    assert len(compile_filter(f"{sums} > 1")) == 2 * 1500 + 1
    for text in (long + " or 3", f"({deep})", "not " * 200 + "tcp", "-" * 5000 + "1 = len"):
        with pytest.raises(FilterError):
            compile_filter(text)
    with pytest.raises(FilterError, match="deeply"):
        compile_filter("1 + (" * 20 + "len" + ")" * 20 + " = 5")
    with pytest.raises(FilterError):
        compile_filter("tcp[" * 5000)


def test_steps_are_bounded(engine: ModuleType) -> None:
    """T-25: the longest program that looks at bytes costs its length a frame, not more."""
    text = " and ".join(["ether[0] = 2"] * (PROGRAM_MAX // 4))
    assert wanted(engine, compile_filter(text)) == " ".join(FRAMES)


@pytest.mark.parametrize(
    "program",
    [
        [(99, 0, 1, 2, 0, 0)],
        [(Code.FILTER_IP, 0, 0, 1, 0, 0)],  # to itself
        [(Code.FILTER_IP, 0, 1, 3, 0, 0)],  # beyond the end
        [(Code.FILTER_PORT, 7, 1, 2, 0, 0)],
        [(Code.FILTER_EQ, 0, 1, 2, 0, 0)],  # nothing to compare
        [(Code.FILTER_CONST, 0, 1, 1, 0, 0)],  # a number is left
        [(Code.FILTER_CONST, 0, 1, 1, 0, 0)] * 17,
        [(Code.FILTER_CONST, 0, 0, 0, 0, 0), (Code.FILTER_LOAD, 3, 0, 0, 1, 0)],
        [(Code.FILTER_CONST, 0, 0, 0, 0, 0), (Code.FILTER_LOAD, 0, 0, 0, 3, 0)],
        [(Code.FILTER_ADD, 0, 0, 0, 0, 0)],
        [  # into the middle of arithmetic
            (Code.FILTER_IP, 0, 2, 3, 0, 0),
            (Code.FILTER_CONST, 0, 0, 0, 0, 0),
            (Code.FILTER_CONST, 0, 0, 0, 0, 0),
            (Code.FILTER_EQ, 0, 4, 5, 0, 0),
        ],
        [(Code.FILTER_IP, 0, 1, 2, 0, 0)] * (PROGRAM_MAX + 1),
    ],
    ids=lambda program: str(len(program)),
)
def test_programs_are_checked(engine: ModuleType, program: Any) -> None:
    """T-25: an engine takes no program that may not end."""
    with pytest.raises(ValueError, match=r"filter"):
        engine.Conntrack(filter=program)


def random_text(rng: random.Random, depth: int = 3) -> str:
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice(("tcp", "ip", "ip6", "vlan", "vlan 100", "vlan and vlan 101"))
    if kind == 1:
        address = rng.choice(("10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1"))
        return f"{rng.choice(('', 'src ', 'dst ', 'src and dst '))}host {address}"
    if kind == 2:
        return rng.choice(("net 10", "src net 192.0.2.0/24", "net ::ffff:0:0/96", "dst net ::/1"))
    if kind == 3:
        return f"{rng.choice(('', 'src ', 'dst '))}port {rng.choice((80, 443, 40000))} or 40001"
    if kind < 6:
        load = f"{rng.choice(('ether', 'ip', 'ip6', 'tcp'))}[{rng.choice((0, 12, 13, 40, 70))}"
        load += rng.choice(("]", ":2]", ":4]"))
        word = rng.choice(("len", load, f"{load} & 18", f"{load} % (len - 60)", f"{load} << len"))
        return f"{word} {rng.choice(('=', '!=', '<', '>='))} {rng.choice((0, 16, 60, 2048, 65535))}"
    if kind == 6:
        return f"not ({random_text(rng, depth - 1)})"
    joint = rng.choice((" and ", " or "))
    return f"({random_text(rng, depth - 1)}{joint}{random_text(rng, depth - 1)})"


@pytest.mark.parametrize("seed", range(25))
def test_lockstep(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    data = [lockstep.mutated(lockstep.capture(seed, talks=15), seed)]
    for _ in range(4):
        options = {"filter": compile_filter(random_text(rng)), "count": rng.choice((0, 0, 40))}
        one = lockstep.outcome(reference, data, **options)
        lockstep.assert_same(one, lockstep.outcome(compiled, data, **options))


def test_shared_captures(reference: ModuleType, compiled: ModuleType, capture: Path) -> None:
    data = [capture.read_bytes()[:100_000]]
    for text in ("tcp port 80 or 443 and not net 10", "tcp[13] & 7 != 0 or ip6[6] = 6"):
        options = {"filter": compile_filter(text)}
        one = lockstep.outcome(reference, data, **options)
        lockstep.assert_same(one, lockstep.outcome(compiled, data, **options))


def test_what_is_not_wanted_leaves_no_trace(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, sums and counters are those of a capture that has the wanted frames alone, but for
    fragments: those that are not wanted make datagrams whole all the same."""
    monkeypatch.setattr(lockstep.Talk, "pieces", lambda _, ip: [capgen.frame_of(ip)])
    records = lockstep.traffic(5)
    kept = lockstep.outcome(
        engine, [capgen.pcap(records, fmt="pcap-ns")], filter=compile_filter("port 80")
    )
    numbers = memoryview(kept["packets"]["packet"]).cast("q")
    fewer = [records[number - 1] for number in numbers]
    alone = lockstep.outcome(engine, [capgen.pcap(fewer, fmt="pcap-ns")])
    for name in ("connections", "drops", "counters", "tcp_segments", "states", "bad_ip_checksums"):
        if name != "top":
            assert kept["summary"][name] == alone["summary"][name]
    for name in kept["connections"].keys() - {"first_packet"}:
        assert kept["connections"][name] == alone["connections"][name], name


@pytest.mark.parametrize("ip", [4, 6])
def test_in_tunnels(engine: ModuleType, ip: int) -> None:
    """Hosts, ports and headers are the innermost packet's, in tunnels and in fragments."""
    ends = ("10.0.0.1", "10.0.0.2") if ip == 4 else ("2001:db8::1", "2001:db8::2")
    packet = capgen.packet(*ends, 1000, 80, flags=capgen.ACK, payload=bytes(99))
    other = capgen.packet(*ends, 1000, 81, flags=capgen.ACK, payload=bytes(99))
    frames = [*capgen.tunnels(packet).values(), *capgen.tunnels(other).values()]
    frames += map(capgen.frame_of, capgen.fragments(packet, 8, 40))
    wanted = [*range(1, len(capgen.tunnels(packet)) + 1), len(frames)]
    data = capgen.pcap([(capgen.SEC, frame) for frame in frames])
    headers = {
        4: "ip[12:4] == 0x0a000001 and ip[9] == 6 and tcp[2:2] == 80",
        6: "ip6[8:4] == 0x20010db8 and ip6[24:4] == 0x20010db8",
    }
    for text in (
        f"src host {ends[0]} and dst host {ends[1]} and port 80",
        f"port 80 and {headers[ip]}",
    ):
        found = tcpcore.replay(io.BytesIO(data), filter=text, packets=True, engine=engine.ENGINE)
        assert found.packets["packet"].tolist() == wanted
        assert found.packets["encap"].all()


def test_replay(engine: ModuleType) -> None:
    capture = capgen.pcap([*capgen.conversation(), *capgen.conversation(dport=443)])

    def run(**options: Any) -> tcpcore.Replay:
        return tcpcore.replay(io.BytesIO(capture), engine=engine.ENGINE, packets=True, **options)

    found = run(filter="dst port 443")
    assert found.summary["packets"] == 16
    assert found.summary["filtered"] == 11
    assert found.packets["packet"].tolist() == [9, 11, 12, 14, 16]
    assert found.connections["packets_ba"].tolist() == [0]
    assert found.connections["first_packet"].tolist() == [9]
    assert "11 packets not wanted by the filter" in repr(found)
    assert run(filter="port 443", count=3).packets["packet"].tolist() == [9, 10, 11]
    assert "filtered" not in run(filter=" ").summary
    rows = sum(
        len(batch.packets)
        for batch in tcpcore.replay_batches(io.BytesIO(capture), packets=True, filter="port 443")
    )
    assert rows == 8
    with pytest.raises(FilterError):
        run(filter="nonsense")
    with pytest.raises(TypeError, match="filter"):
        run(filter=80)


def test_numbers_are_the_engines(engine: ModuleType) -> None:
    assert tcp.Drop.SOCKET_FILTER == tcp.Drop.NR_DROPS - 1
    assert engine.Conntrack(filter=[(int(Code.FILTER_RSH) + 1 - 22, 0, 1, 2, 0, 0)]) is not None
