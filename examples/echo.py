"""An echo server and its client, two hosts in memory, written as if each were alone.

Usage: python examples/echo.py
"""

from __future__ import annotations

import tcpcore


def main() -> None:
    network = tcpcore.Network(seed=1)
    client, server = network.host("client"), network.host("server")
    network.link(client, server, delay_s=0.02, rate_bps=10e6)

    def serve() -> None:
        with server.listen(("", 7)) as listener:
            sock, address = listener.accept()
            with sock:
                print(f"{network.now_s:.3f} s  server: {address[0]} is here")
                while data := sock.recv(4096):
                    sock.sendall(data)

    def ask() -> None:
        with client.connect(("server", 7)) as sock:
            for words in (b"hello", b"how are you", b"goodbye"):
                sock.sendall(words)
                answer = sock.recv(4096)
                print(f"{network.now_s:.3f} s  client: {answer.decode()}")

    network.run(serve, ask)
    network.close()


if __name__ == "__main__":
    main()
