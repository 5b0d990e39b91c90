"""Which frames did not move a connection's state, and why: the packet columns.

Usage: python examples/why_dropped.py [CAPTURE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tcpcore
from tcpcore.columns import DROP_NAMES


def main(capture: str | Path) -> None:
    packets = tcpcore.replay(capture, packets=True).packets
    reasons = packets["drop_reason"]
    for reason, frames in enumerate(np.bincount(reasons)):
        if reason and frames:
            first = packets["packet"][np.argmax(reasons == reason)]
            print(f"{DROP_NAMES[reason]:<20} {frames:>6} frames, the first is number {first}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("http.pcap"))
