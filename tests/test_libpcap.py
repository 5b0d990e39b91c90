"""Filters against libpcap's on the shared captures: the same frames, expression by expression."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

import tcpcore

# Of each expression, joined with `and tcp`: how many frames of the captures libpcap 1.10.3 takes,
# and a CRC-32 over their numbers, capture by capture (`told`). Those with `ether`: of the captures
# of Ethernet alone.
TAKEN = {
    "ip": (41384, 0xF4877454),
    "ip6": (2172, 0xCCBE96D5),
    "tcp port 80": (9926, 0xC819C4BB),
    "src port 80": (5760, 0xBD102A82),
    "tcp dst port http": (4172, 0x1C6D85CF),
    "port 443 or 80": (16837, 0x014399AF),
    "tcp port http or https": (16837, 0x014399AF),
    "portrange 1024-5000": (2617, 0xCB2349D1),
    "src portrange 1-1023 and dst portrange 40000-65535": (16481, 0xC7AB1A06),
    "host 192.168.1.219 or 10.0.2.15 or 10.0.0.1": (97, 0xDA6BE74B),
    "net 10.0.0.0/8": (8888, 0xC2ED805E),
    "src net 192.168.0.0/16": (11370, 0x06B85BB1),
    "dst net 192.168": (10373, 0x91941DF9),
    "net 172.16.0.0 mask 255.240.0.0": (145, 0x5EE3E647),
    "src and dst net 10.0.0.0/8": (627, 0x5B0B6858),
    "src or dst net 192.168.1": (10064, 0x25C91994),
    "net 2000::/3": (2074, 0x3FE98BF3),
    "src net fe80::/10 or dst net 2001::/16": (131, 0xD9D35870),
    "ip6 host 2001:db8::1 or ip6 net 2000::/4": (2074, 0x3FE98BF3),
    "ip proto 6": (41384, 0xF4877454),
    r"ip6 proto \tcp": (2172, 0xCCBE96D5),
    "proto 6 and port 80": (9926, 0xC819C4BB),
    "less 60": (8157, 0x546223E3),
    "greater 1000": (6984, 0x586CDE01),
    "len > 100 and len < 600": (7657, 0xAE969F5B),
    "len % 2 = 1": (7545, 0xB6C79583),
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn": (1078, 0x0614D176),
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0": (2918, 0x0D27B7A2),
    "tcp[tcpflags] & tcp-rst != 0": (292, 0xF33EBBF5),
    "tcp[tcpflags] & (tcp-ece|tcp-cwr|tcp-urg) != 0": (47, 0xB90CD85D),
    "tcp[13] = 0x18": (20640, 0x05F41638),
    "tcp[13] & 7 != 0 and not port 80": (2683, 0x29C3FD5E),
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420": (589, 0x5DA03204),
    "tcp[0:2] > tcp[2:2]": (20637, 0x4F7FE0B3),
    "tcp[4:4] > 0x7fffffff": (17922, 0xD7A32CA2),
    "tcp[14:2] < 1000": (12410, 0x7812AE39),
    "tcp[12] >> 4 > 5": (16189, 0xF9DD8738),
    "tcp[16:2] ^ 0xffff < 30000": (15562, 0x2CEAD166),
    "ip[1] != 0 and ip[0] & 0xf == 5": (2850, 0xBC72383D),
    "ip[2:2] > 576": (7409, 0x859CC326),
    "ip[2:2] - 40 < 100 or ip[2:2] / 10 = 150": (30684, 0xDB827A31),
    "ip[8] < 64": (9962, 0x0CBF212A),
    "ip[6:2] & 0x1fff = 0": (41384, 0xF4877454),
    "ip[6] & 0x40 == 0": (6557, 0x55C0741D),
    "((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0": (26707, 0x4490B42D),
    "ip[12:4] > ip[16:4]": (21593, 0x5DACFADF),
    "ip6[6] = 6 and ip6[4:2] > 100": (817, 0xC1761567),
    "ip6[53] & 2 != 0": (136, 0x1E852464),
    "-ip[8] & 0xff < 128": (201, 0xD96EA3A7),
    "ip and not net 10": (32496, 0x2E6CDF26),
    "not (tcp port 80 or tcp port 443) and ip": (26620, 0x729FCCB5),
    "port 80 or port 443 and ip6": (2073, 0x09D1BEF7),
    "tcp port 80 and (tcp[tcpflags] & tcp-push != 0 or less 60)": (3315, 0x391F96FC),
    "!(tcp dst port 80) && (greater 200 || ip[8] = 64)": (20928, 0x8D0F0DAF),
    "ether[0] & 1 = 0": (42895, 0x759A86E9),
    "ether[12:2] = 0x0800 and ether[14] = 0x45": (40968, 0x696520CD),
    "ether src 00:00:00:00:00:01 or 00:0d:93:77:f7:a2": (3, 0x10889EE0),
    r"ether host 00:0d:93:77:f7:a2 or ether proto \ip6": (1943, 0xE795D48A),
}
# Where the two differ in what a TCP segment is (docs/filter.md), and why.
TUNNEL = "in tunnels or behind VLAN tags, where libpcap sees no TCP unless it is told"
FRAGMENTS = "of fragments the frame has the segment that makes the datagram whole, not the first"
HEADER = "an IP header that is wrong: to libpcap the protocol's number is enough"
LEFT_OUT = {
    "ndpi__6in4tunnel.pcap": TUNNEL,
    "ndpi__fuzz-2006-09-29-28586.pcap": HEADER,
    "ndpi__ip_fragmented_garbage.pcap": FRAGMENTS,
    "ndpi__vxlan.pcap": TUNNEL,
    "pcapplusplus__pcapng-example.pcapng": "libpcap ends at an interface of another link type",
    "suricata-verify__syn_retransmit_with_ts.pcap": TUNNEL,
    "suricata-verify__tcp-overlap.pcap": TUNNEL,
    "tcpdump__kday3.pcap": HEADER,
    "tcpflow__jpegs.cap": FRAGMENTS,
    "zeek__fragmented-4.pcap": FRAGMENTS,
    "zeek__ipv6-http-atomic-frag.pcap": FRAGMENTS,
    "zeek__mixed-vlan-mpls.pcap": TUNNEL,
    "zeek__pppoe-over-qinq.pcap": TUNNEL,
    "zeek__vlan-collisions.pcap": TUNNEL,
}


def told(found: Sequence[tuple[str, Sequence[int]]]) -> tuple[int, int]:
    """The frames taken of each capture in one number, and how many there are."""
    lines = "".join(f"{name} {list(numbers)}\n" for name, numbers in found)
    return sum(len(numbers) for _, numbers in found), zlib.crc32(lines.encode())


def taken(capture: Path, text: str) -> list[int]:
    found = tcpcore.replay(capture, filter=text, packets=True)
    numbers: list[int] = found.packets["packet"].tolist()
    return numbers


@pytest.mark.parametrize("text", TAKEN)
def test_the_same_frames_as_libpcap(captures: list[Path], text: str) -> None:
    found = []
    for capture in captures:
        if capture.name in LEFT_OUT:
            continue
        if "ether" in text and not is_ethernet(capture):
            continue
        found.append((capture.name, taken(capture, f"({text}) and tcp")))
    assert told(found) == TAKEN[text]


def is_ethernet(capture: Path) -> bool:
    return bool(tcpcore.replay(capture, count=1).summary["files"][0]["link_types"] == ["ETHERNET"])
