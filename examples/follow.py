"""A line for each connection when it ends, in bounded memory: `tcpdump -w - | follow.py -` works.

Usage: python examples/follow.py [CAPTURE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import tcpcore
from tcpcore.columns import STATE_NAMES


def main(capture: str | Path) -> None:
    for batch in tcpcore.replay_batches(capture, batch_packets=10_000, expire_idle_s=600):
        table = batch.connections
        for row in range(len(table)):
            states = (STATE_NAMES[table[name][row]] for name in ("state_a", "state_b"))
            payload = table["payload_bytes_ab"][row] + table["payload_bytes_ba"][row]
            print(f"{table['conn'][row]:>8} {payload:>12} bytes  {'/'.join(states)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("http.pcap"))
