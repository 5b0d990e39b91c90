"""Who served the most: the connection table in polars, by Arrow and without a copy.

Usage: python examples/talkers.py [CAPTURE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

import tcpcore
from tcpcore.columns import address_text


def main(capture: str | Path) -> None:
    servers = (
        pl.DataFrame(tcpcore.replay(capture).connections)
        .group_by("ip", "b_addr", "b_port")
        .agg(
            connections=pl.len(),
            sent=pl.col("payload_bytes_ba").sum(),
            received=pl.col("payload_bytes_ab").sum(),
        )
        .sort("sent", descending=True)
        .head(10)
    )
    for ip, address, port, connections, sent, received in servers.iter_rows():
        text = address_text(address, ip)
        print(f"{text:<24} {port:>5} {connections:>6} {sent:>12} {received:>12}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("http.pcap"))
