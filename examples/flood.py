"""SYNs from nobody pour in; a listener with SYN cookies keeps nothing of them, and still accepts.

Usage: python examples/flood.py
"""

from __future__ import annotations

import random
import struct

import tcpcore

SYNS = 5000


def checksum(data: bytes) -> int:
    return ~(sum(struct.unpack(f">{len(data) // 2}H", data)) % 0xFFFF) & 0xFFFF


def syn(lot: random.Random, target: bytes) -> bytes:
    """A SYN from an address that is nobody's."""
    source = b"\xc6\x33\x64" + lot.randbytes(1)  # 198.51.100.0/24: for documents
    ports = struct.pack(">HH", lot.randrange(1024, 65536), 80)
    head, tail = ports + lot.randbytes(4) + bytes(4) + b"\x50\x02\xff\xff", b"\0\0"
    pseudo = source + target + b"\0\6\0\x14"
    tcp = head + struct.pack(">H", checksum(pseudo + head + b"\0\0" + tail)) + tail
    ip = struct.pack(">BBHHHBB", 0x45, 0, 40, 0, 0, 64, 6)
    return ip + struct.pack(">H", checksum(ip + b"\0\0" + source + target)) + source + target + tcp


def main() -> None:
    lot = random.Random(1)
    knobs = {"tcp_max_syn_backlog": 64, "somaxconn": 64}
    with tcpcore.Network(seed=1, sysctl=knobs) as network:
        client, server = network.host("client"), network.host("server")
        network.link(client, server, delay_s=0.005)
        listener = server.listen(("", 80), backlog=64)
        server.receive([syn(lot, bytes((10, 0, 0, 2))) for _ in range(SYNS)])
        counters = server.counters
        print(f"{SYNS} SYNs: {counters['TcpExtSyncookiesSent']} answered with a cookie")
        sock = client.connect(("server", 80))
        other, address = listener.accept()
        sock.sendall(b"I am real")
        print(f"accepted {address[0]}: {other.recv(99).decode()}")
        print(f"cookies that came back: {server.counters['TcpExtSyncookiesRecv']}")
        for one in (sock, other, listener):
            one.close()


if __name__ == "__main__":
    main()
