"""How long a handshake took, by server: numpy arrays straight from the columns.

Usage: python examples/handshakes.py [CAPTURE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tcpcore
from tcpcore.columns import address_text


def main(capture: str | Path) -> None:
    table = tcpcore.replay(capture).connections
    rtt_ns = table["initial_rtt_ns"]
    measured = np.flatnonzero(rtt_ns >= 0)  # -1: the capture lacks a part of the handshake
    servers: dict[str, list[int]] = {}
    for row in measured:
        address = address_text(table["b_addr"][row].tobytes(), int(table["ip"][row]))
        host = f"[{address}]" if ":" in address else address
        servers.setdefault(f"{host}:{table['b_port'][row]}", []).append(int(rtt_ns[row]))
    for server, times in sorted(servers.items()):
        print(f"{server:<24} {len(times):>4} handshakes, median {np.median(times) / 1000:.1f} µs")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("http.pcap"))
