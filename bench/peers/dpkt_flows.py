"""What is written first in Python: dpkt's parser and a dict of flows. No checksum, no state.

Prints how many packets there were.
"""

from __future__ import annotations

import sys

import dpkt


def main(path: str) -> int:
    flows: dict[tuple[bytes, ...], list[float]] = {}
    packets = 0
    with open(path, "rb") as file:
        for time_s, frame in dpkt.pcap.Reader(file):
            packets += 1
            ip = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.tcp.TCP):
                continue
            tcp = ip.data
            one, other = (ip.src, tcp.sport), (ip.dst, tcp.dport)
            key = (one, other) if one < other else (other, one)
            flow = flows.get(key)
            if flow is None:
                flow = flows[key] = [time_s, time_s, 0, 0, 0]
            flow[1] = time_s
            flow[2] += 1
            flow[3] += len(tcp.data)
            flow[4] |= tcp.flags
    return packets


if __name__ == "__main__":
    print(main(sys.argv[1]))
