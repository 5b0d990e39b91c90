"""Record examples/http.pcap: real TCP between two hosts, each a network namespace of this machine.

Needs Linux, root and iproute2. Nothing outside of the two namespaces is used or recorded.
Usage: python examples/record.py [OUTPUT]
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import http.server
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
CLIENT6, SERVER6 = "fd00::1", "fd00::2"
HTTP, ECHO, CLOSED = 80, 7, 81
PAGES = {
    "/": b"<title>tcpcore</title><a href=/segments>segments</a>\n",
    "/segments": b"".join(b"segment %04d of a body that needs several\n" % n for n in range(500)),
}

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 0x0003
SO_TIMESTAMPNS = 35
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM, ETHTOOL_SGSO = 0x17, 0x24


def unshare_net() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def configure(device: str, mac: str, address: str, address6: str) -> None:
    """Bring up one end, without offloads: checksums are real and no frame is above the MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (ETHTOOL_STXCSUM, ETHTOOL_SGSO):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(sock, SIOCETHTOOL, request)
    ip(f"link set {device} address {mac}")
    ip(f"addr add {address}/24 dev {device}")
    ip(f"addr add {address6}/64 dev {device} nodad")
    ip(f"link set {device} up")


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = PAGES.get(self.path, b"no such page\n")
        self.send_response(200 if self.path in PAGES else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # IPv4 too, as mapped addresses
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Echo(socketserver.StreamRequestHandler):
    """Answer with all that came, once its sender is done."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            self.wfile.write(self.rfile.read())


def serve(ready: int, configured: int) -> None:
    unshare_net()
    os.write(ready, b"n")
    os.read(configured, 1)  # the other end has moved a device into this namespace
    configure("server", "02:00:00:00:00:02", SERVER, SERVER6)
    echo = socketserver.ThreadingTCPServer(("", ECHO), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    web = Server(("::", HTTP), Pages)
    os.write(ready, b"s")
    web.serve_forever()


def get(host: str, *paths: str) -> None:
    """All pages over one connection, which this side closes."""
    connection = http.client.HTTPConnection(host, HTTP, timeout=5)
    for path in paths:
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()


def traffic() -> None:
    get(SERVER, "/", "/segments")
    get(SERVER6, "/", "/nowhere")
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((SERVER, CLOSED), timeout=5)
    with socket.create_connection((SERVER, ECHO), timeout=5) as half:  # a half-close
        half.sendall(b"all of it comes back\n" * 100)
        half.shutdown(socket.SHUT_WR)
        while half.recv(65536):
            pass
    with socket.create_connection((SERVER, ECHO), timeout=5) as reset:
        reset.sendall(b"and this one ends in a RST\n")
        time.sleep(0.05)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def recording(device: str, path: Path) -> Iterator[None]:
    """Write every frame that `device` sends or receives to a nanosecond pcap."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((device, ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    tap.settimeout(0.2)
    stop = threading.Event()

    def write() -> None:
        with path.open("wb") as out:
            out.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
            while True:
                try:
                    frame, control, _, _ = tap.recvmsg(65535, 64)
                except TimeoutError:
                    if stop.is_set():
                        return
                    continue
                second, nanosecond = struct.unpack("qq", control[0][2])
                out.write(struct.pack("=IIII", second, nanosecond, len(frame), len(frame)))
                out.write(frame)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()
        tap.close()


def main(path: Path) -> None:
    unshare_net()
    ready, ready_w = os.pipe()
    configured_r, configured = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            serve(ready_w, configured_r)
        finally:
            os._exit(1)
    os.close(ready_w)
    try:
        os.read(ready, 1)
        ip(f"link add client type veth peer name server netns {child}")
        configure("client", "02:00:00:00:00:01", CLIENT, CLIENT6)
        os.write(configured, b"c")
        if os.read(ready, 1) != b"s":
            raise RuntimeError("the server's host did not start")
        time.sleep(0.5)
        # This one is open before the first frame is recorded and still open after the last.
        lasting = socket.create_connection((SERVER, ECHO), timeout=5)
        with lasting, recording("client", path):
            traffic()
            lasting.sendall(b"open before and after\n")
            time.sleep(0.3)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("http.pcap"))
