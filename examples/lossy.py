"""A file goes through a bad link; what a tap saw of it is then replayed.

Usage: python examples/lossy.py [CAPTURE.pcapng]
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
from pathlib import Path

import tcpcore

SIZE = 300_000


def transfer(capture: Path) -> None:
    """Send a file over a link that loses, reorders, repeats and damages packets."""
    data = random.Random(1).randbytes(SIZE)
    with tcpcore.Network(seed=7) as network:
        client, server = network.host("client"), network.host("server")
        network.link(
            client,
            server,
            rate_bps=20e6,
            delay_s=0.015,
            loss=0.02,
            reorder=0.02,
            duplicate=0.01,
            corrupt=0.01,
        )
        network.tap(capture)

        def receive() -> bytes:
            with server.listen(("", 80)) as listener:
                sock, _ = listener.accept()
                with sock, sock.makefile("rb") as file:
                    return file.read()

        def send() -> None:
            with client.connect(("server", 80)) as sock:
                sock.sendall(data)

        got, _ = network.run(receive, send)
        network.advance(1)  # until the last packet is acknowledged
        same = hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        print(f"{len(got)} bytes, {'the same' if same else 'NOT the same'}")
        counters = client.counters
        print(
            f"sent again: {counters['TcpRetransSegs']}, time-outs: {counters['TcpExtTCPTimeouts']}"
        )


def main(capture: Path) -> None:
    transfer(capture)
    replay = tcpcore.replay(capture, streams=True)
    print(replay)
    stream = replay.stream(0, "ab").data
    print(f"in the capture: {len(stream)} bytes of the stream")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "lossy.pcapng")
