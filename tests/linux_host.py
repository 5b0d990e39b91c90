"""The machine's own kernel as a host for packet scripts, over TUN in a network namespace; root.

`python tests/linux_host.py > tests/data/linux.txt` writes what Linux answers to every script.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import select
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from script import HOST4, HOST6, STATES, Script

SYSCTL = {
    "net/ipv4/tcp_rmem": "4096 131072 6291456",
    "net/ipv4/tcp_wmem": "4096 16384 4194304",
    "net/ipv4/tcp_ecn": "0",
    "net/ipv4/tcp_early_retrans": "0",
    "net/ipv4/tcp_congestion_control": "cubic",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/core/somaxconn": "4096",
}
NEWNET = 0x40000000
# struct tcp_info of linux/tcp.h.
INFO = struct.Struct("<6B2x24I4Q6I4Q2I2Q5I")
INFO_FIELDS = [
    "state",
    "ca_state",
    "retransmits",
    "probes",
    "backoff",
    "options",
    "rto",
    "ato",
    "snd_mss",
    "rcv_mss",
    "unacked",
    "sacked",
    "lost",
    "retrans",
    "fackets",
    "last_data_sent",
    "last_ack_sent",
    "last_data_recv",
    "last_ack_recv",
    "pmtu",
    "rcv_ssthresh",
    "rtt",
    "rttvar",
    "snd_ssthresh",
    "snd_cwnd",
    "advmss",
    "reordering",
    "rcv_rtt",
    "rcv_space",
    "total_retrans",
    "pacing_rate",
    "max_pacing_rate",
    "bytes_acked",
    "bytes_received",
    "segs_out",
    "segs_in",
    "notsent_bytes",
    "min_rtt",
    "data_segs_in",
    "data_segs_out",
    "delivery_rate",
    "busy_time",
    "rwnd_limited",
    "sndbuf_limited",
    "delivered",
    "delivered_ce",
    "bytes_sent",
    "bytes_retrans",
    "dsack_dups",
    "reord_seen",
    "rcv_ooopack",
    "snd_wnd",
    "rcv_wnd",
]


class LinuxHost:
    """What `script.Host` is, of the kernel."""

    patience = 20  # milliseconds that `accept` waits
    acted_ns = 0  # when something was last done to the kernel

    def __init__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(NEWNET):
            raise OSError("no namespace")
        for name, value in SYSCTL.items():
            try:
                with open(f"/proc/sys/{name}", "w") as file:
                    file.write(value)
            except OSError as error:
                print(f"# {name}: {error}", file=sys.stderr)
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))
        commands = (
            "ip link set lo up",
            f"ip addr add {HOST4}/24 dev tun0",
            f"ip -6 addr add {HOST6}/64 dev tun0 nodad",
            "ip link set tun0 up",
        )
        for command in commands:
            subprocess.run(command.split(), check=True)
        self.sockets: dict[int, socket.socket] = {}
        self.out: list[tuple[int, bytes]] = []
        time.sleep(1)

    @property
    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sysctl(self, name: str, value: str) -> None:
        with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
            file.write(value)

    def _drain(self) -> None:
        while True:
            try:
                packet = os.read(self.fd, 70000)
            except BlockingIOError:
                return
            self.out.append((self.now_ns, packet))

    def inject(self, packet: bytes) -> None:
        self._drain()
        self.acted_ns = self.now_ns
        os.write(self.fd, packet)
        self._drain()

    def wait(self, ns: int) -> None:
        end_ns = self.now_ns + ns
        while (left := end_ns - self.now_ns) > 0:
            select.select([self.fd], [], [], left / 1e9)
            self._drain()

    def drain(self) -> list[tuple[int, bytes]]:
        self._drain()
        out, self.out = self.out, []
        return out

    def socket(self, ip: int) -> int:
        sock = socket.socket(socket.AF_INET if ip == 4 else socket.AF_INET6)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        self.sockets[sock.fileno()] = sock
        return sock.fileno()

    def _try(self, call: Any, *args: Any) -> Any:
        self.acted_ns = self.now_ns
        try:
            result = call(*args)
        except OSError as error:
            return -(error.errno or 0)
        return 0 if result is None else result

    def bind(self, sk: int, addr: str, port: int) -> int:
        self.sockets[sk].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return int(self._try(self.sockets[sk].bind, (addr, port)))

    def listen(self, sk: int, backlog: int) -> int:
        return int(self._try(self.sockets[sk].listen, backlog))

    def accept(self, sk: int) -> int:
        for _ in range(self.patience):
            result = self._try(self.sockets[sk].accept)
            if not isinstance(result, int):
                break
            time.sleep(0.001)
        else:
            return int(result)
        result[0].setblocking(False)
        self.sockets[result[0].fileno()] = result[0]
        return int(result[0].fileno())

    def connect(self, sk: int, addr: str, port: int) -> int:
        made = int(self._try(self.sockets[sk].connect, (addr, port)))
        self.acted_ns = self.now_ns  # the SYN leaves at the end of a call that takes milliseconds
        return made

    def send(self, sk: int, data: bytes, flags: int = 0) -> int:
        return int(self._try(self.sockets[sk].send, data, flags | socket.MSG_NOSIGNAL))

    def recv(self, sk: int, size: int, flags: int = 0) -> bytes | int:
        return self._try(self.sockets[sk].recv, size, flags)  # type: ignore[no-any-return]

    def shutdown(self, sk: int, how: int) -> int:
        return int(self._try(self.sockets[sk].shutdown, how))

    def close(self, sk: int) -> None:
        self.sockets.pop(sk).close()

    def setsockopt(self, sk: int, level: int, name: int, value: int) -> int:
        return int(self._try(self.sockets[sk].setsockopt, level, name, value))

    def getsockopt(self, sk: int, level: int, name: int) -> int:
        return int(self._try(self.sockets[sk].getsockopt, level, name))

    def linger(self, sk: int, on: bool, seconds: int) -> int:
        option = struct.pack("ii", on, seconds)
        return int(
            self._try(self.sockets[sk].setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, option)
        )

    def poll(self, sk: int) -> int:
        poll = select.poll()
        poll.register(sk, 0x2007)
        return sum(mask for _, mask in poll.poll(0))

    def info(self, sk: int) -> dict[str, int]:
        raw = self.sockets[sk].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 248)
        values = INFO.unpack_from(raw)
        found = {f"tcpi_{name}": value for name, value in zip(INFO_FIELDS, values, strict=True)}
        found["tcpi_snd_wscale"], found["tcpi_rcv_wscale"] = raw[6] & 15, raw[6] >> 4
        return found

    def state(self, host: str, port: int, peer: str, peer_port: int) -> str:
        name = "tcp6" if ":" in host else "tcp"
        ends = f"{_hex(host)}:{port:04X}", f"{_hex(peer)}:{peer_port:04X}"
        with open(f"/proc/net/{name}") as file:
            for line in file:
                words = line.split()
                if (words[1], words[2]) == ends:
                    return STATES[min(int(words[3], 16), 12) % 12 or 3]
        return STATES[7]

    def finish(self) -> None:
        for sock in self.sockets.values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        os.close(self.fd)


def _hex(addr: str) -> str:
    words = struct.iter_unpack("<I", ipaddress.ip_address(addr).packed)
    return "".join(f"{word:08X}" for (word,) in words)


def main() -> None:
    from scripts import every_script

    wanted = sys.argv[1:]
    for name, function in every_script().items():
        if wanted and name not in wanted:
            continue
        read, write = os.pipe()
        if not (child := os.fork()):  # a namespace of its own for each
            lines = []
            try:
                host = LinuxHost()
                for knob, value in getattr(function, "sysctl", {}).items():
                    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                    host.sysctl(knob, text)
                script = Script(host, getattr(function, "ip", 4))
                function(script)
                script.take()
                lines = script.lines
            except Exception as error:  # the others go on
                lines += [f"# {error!r}"]
            with os.fdopen(write, "w") as file:
                file.write("\n".join([f"== {name}", *lines, ""]))
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as file:
            sys.stdout.write(file.read())
        sys.stdout.flush()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
