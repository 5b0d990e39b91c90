"""The machine's own kernel as a target: TUN in a network namespace, calls made for real; root.

Each script has a process of its own, which ends with its namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import pickle
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcpcore.packetdrill.constants import BASELINE
from tcpcore.packetdrill.kernel_calls import KernelCalls
from tcpcore.packetdrill.packet import ACK, MASK32, RST, SYN, dissect
from tcpcore.packetdrill.target import (
    Answer,
    Emitted,
    Failure,
    Pending,
    Skipped,
    Target,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tcpcore.packetdrill.options import Config
    from tcpcore.packetdrill.target import Result

    Drive = Callable[[Target], None]

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 1, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 1, 2
SIOCADDRT, SIOCSIFFLAGS, SIOCSIFADDR = 0x890B, 0x8914, 0x8916
SIOCSIFNETMASK, SIOCSIFMTU = 0x891C, 0x8922
IFF_UP, IFF_RUNNING, RTF_UP, RTF_HOST = 1, 0x40, 1, 4
VNET = struct.Struct("<BBHHHH")  # struct virtio_net_hdr
NEEDS_CSUM, GSO_TCPV4 = 1, 1
NEIGHBOUR = "198.18.0.1"  # somebody else on the wire (RFC 2544)
SETTLE_S = 0.02  # in which the new interface says what it has to
COMMAND_MAX_S = 60  # of one command
CALL_MAX_S = 2.0  # what a call that has no time of return may take
SPIN_US = 150  # the last of a wait, which sleeping would overshoot
INFO_SIZE = 512
TOOLS = {
    "defaults.sh": "#!/bin/sh\n{baseline}\nexit 0\n",
    "set_sysctls.py": """#!/bin/sh
file=/tmp/sysctl_restore_$PACKETDRILL_PID.sh
for one in "$@"; do
    path=${one%%=*}
    echo "echo '$(cat "$path")' > $path" >> "$file"
    echo "${one#*=}" > "$path" || exit 1
done
chmod +x "$file"
""",
}


class KernelTarget(KernelCalls, Target):
    """The kernel, in the network namespace that this process is in."""

    name = "kernel"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.tools = tempfile.mkdtemp(prefix="packetdrill")
        self._write_tools()
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", flags))
        fcntl.ioctl(self.tun, TUNSETVNETHDRSZ, struct.pack("i", VNET.size))
        fcntl.ioctl(self.tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        set_up("lo", "127.0.0.1", "255.0.0.0", 65536)
        set_up("tun0", config.local_ip, config.netmask_ip, config.mtu)
        for host in (config.remote_ip, NEIGHBOUR):
            add_route(host, "tun0")
        self.start_ns = time.monotonic_ns()

    def _write_tools(self) -> None:
        lines = (
            f"echo '{value}' > /proc/sys/net/ipv4/{name} 2>/dev/null"
            for name, value in BASELINE.items()
        )
        for name, text in TOOLS.items():
            path = Path(self.tools, name)
            path.write_text(text.replace("{baseline}", "\n".join(lines)))
            path.chmod(0o755)

    # Time.

    def begin(self) -> None:
        time.sleep(SETTLE_S)
        self._warm_up()
        self._discard()
        self.sent.clear()
        tick_ns = 4_000_000
        while time.monotonic_ns() % tick_ns > tick_ns // 8:  # a little into the kernel's tick
            time.sleep(0.0001)
        self.start_ns = time.monotonic_ns()

    def _warm_up(self) -> None:
        """Go once through all that a script needs, with somebody else: it is slow at first."""
        tap, self.tap = self.tap, None
        for _ in range(2):
            fd = self.do_socket(socket.AF_INET, socket.SOCK_STREAM, 0)
            pending = self.start("connect", (fd, (NEIGHBOUR, 9)), True)
            limit_us = self.now_us() + 1_000_000
            while self.wait_packet(limit_us):
                one = self.sent.popleft()
                seen = dissect(one.packet, one.time_us, one.offloaded)
                if seen is not None and seen.flags & SYN:
                    seen.source, seen.destination = seen.destination, seen.source
                    seen.sport, seen.dport = seen.dport, seen.sport
                    seen.ack, seen.flags, seen.raw_options = seen.seq + 1 & MASK32, RST | ACK, b""
                    self.inject(seen.build(), 0)
                    break
            self.wait_call(pending, limit_us)
            self.do_close(fd)
        self.tap = tap

    def now_us(self) -> int:
        return (time.monotonic_ns() - self.start_ns) // 1000

    def stamp_ns(self, live_ns: int) -> int:
        return live_ns - (time.time_ns() - time.monotonic_ns()) - self.start_ns

    def wait_until(self, time_us: int) -> None:
        while (left_us := time_us - self.now_us()) > 0:
            self._read((left_us - SPIN_US) / 1e6 if left_us > SPIN_US else 0)
        self._read(0)

    def wait_packet(self, limit_us: int | None) -> bool:
        limit_us = self.now_us() + 60_000_000 if limit_us is None else limit_us
        while not self.sent:
            left_us = limit_us - self.now_us()
            self._read(max(left_us, 0) / 1e6)
            if left_us <= 0:
                break
        return bool(self.sent)

    def wait_call(self, pending: Pending, limit_us: int) -> bool:
        while pending.answer is None and pending.error is None:
            if self.now_us() >= limit_us:
                return False
            self._read(0.0005)
        return True

    # The wire.

    def _read(self, seconds: float) -> None:
        """Take what the kernel has sent, waiting so long for the first of it."""
        if not select.select([self.tun], [], [], seconds)[0]:
            return
        while True:
            try:
                data = os.read(self.tun, 70000)
            except BlockingIOError:
                return
            time_us = self.now_us()
            offloaded = bool(data[0] & NEEDS_CSUM)
            one = Emitted(time_us, data[VNET.size :], offloaded)
            if one.packet[0] >> 4 == 4:
                self.sent.append(one)
                if self.tap:
                    self.tap(time_us, one.packet)

    def _discard(self) -> None:
        while True:
            try:
                os.read(self.tun, 70000)
            except BlockingIOError:
                return

    def inject(self, packet: bytes, gso_size: int) -> None:
        self._read(0)
        head = bytes(VNET.size)
        if gso_size:
            at = (packet[0] & 15) * 4
            length = at + (packet[at + 12] >> 4) * 4
            head = VNET.pack(NEEDS_CSUM, GSO_TCPV4, length, gso_size, at, 16)
            packet = _pseudo_checksum(packet, at)
        os.write(self.tun, head + packet)

    # Calls.

    def start(self, name: str, arguments: tuple[Any, ...], blocking: bool) -> Pending:
        pending = Pending(name)
        call = getattr(self, f"do_{name}")

        def make() -> None:
            try:
                made = call(*arguments)
                pending.time_us = self.now_us()
                pending.answer = made if isinstance(made, Answer) else Answer(made)
            except Exception as error:
                pending.error = error

        if not blocking and not self._may_wait(name, arguments):
            make()
            return pending
        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        if not blocking:
            self.wait_call(pending, self.now_us() + round(CALL_MAX_S * 1e6))
        return pending

    def _may_wait(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a call could block for good."""
        if name == "open":
            return True
        if name in ("poll", "epoll_wait"):
            return bool(arguments[-1])
        if not WAITING.fullmatch(name) or not isinstance(arguments[0], int):
            return False
        made = self.do_fcntl(arguments[0], 3, 0)
        return made >= 0 and not made & os.O_NONBLOCK

    def shell(self, text: str) -> None:
        lines = text.strip().split("\n")
        while lines and self._native(lines[0].strip()):
            del lines[0]
        text = "\n".join(lines)
        if not text.strip():
            return
        for name in TOOLS:
            text = re_path(name).sub(f"{self.tools}/{name}", text)
        environment = {**os.environ, "PACKETDRILL_PID": str(os.getpid())}
        with tempfile.TemporaryFile() as output:  # a pipe would wait for what runs on behind it
            shell = subprocess.Popen(
                ["/bin/sh", "-c", text],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = shell.wait(COMMAND_MAX_S)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
                words = f"no end within {COMMAND_MAX_S} seconds"
                raise Failure(f"the command has {words}: {text.strip()[:200]}") from None
            if status:
                output.seek(max(output.tell() - 200, 0))
                told = output.read(200).decode(errors="replace").strip()
                raise Failure(
                    f"the command's exit status is {status}: {text.strip()[:200]}",
                    [told] if told else [],
                )

    def _native(self, line: str) -> bool:
        """Do what needs no shell: the knobs that nearly every script sets."""
        if re.fullmatch(r"[\w./-]*defaults\.sh", line):
            for name, value in BASELINE.items():
                with contextlib.suppress(OSError):
                    set_knob(f"net.ipv4.{name}", value)
            return True
        found = re.fullmatch(r"sysctl -q((?: [\w.]+=\w+)+)", line)
        if found is None:
            return False
        for pair in found[1].split():
            name, _, value = pair.partition("=")
            try:
                set_knob(name, value)
            except OSError as error:
                raise Failure(f"{pair}: {error.strerror}") from None
        return True

    def close(self) -> None:
        # Descriptors end with this process: a thread that waits in a call can hold one fast.
        shutil.rmtree(self.tools, ignore_errors=True)


WAITING = re.compile(r"accept|connect|close|readv?|recv(msg)?|writev?|send(to|msg|file)?|splice")


def re_path(name: str) -> Any:
    """A tool's name with any folder in front of it."""
    return re.compile(rf"(?<![\w./-])(?:[\w./-]*/)?{re.escape(name)}(?![\w.])")


def set_knob(name: str, value: str) -> None:
    """A knob of this namespace."""
    Path("/proc/sys", name.replace(".", "/")).write_text(value)


def _sockaddr_in(host: str) -> bytes:
    return struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton(host) + bytes(8)


def set_up(device: str, address: str, netmask: str, mtu: int) -> None:
    """Give an interface its address and MTU, and switch it on (netdevice(7))."""
    name = device.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFMTU, struct.pack("=16si20x", name, mtu))
        for request, host in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, netmask)):
            fcntl.ioctl(control, request, struct.pack("=16s16s8x", name, _sockaddr_in(host)))
        flags = struct.pack("=16sH22x", name, IFF_UP | IFF_RUNNING)
        fcntl.ioctl(control, SIOCSIFFLAGS, flags)


def add_route(host: str, device: str) -> None:
    """A host that is reached through an interface (struct rtentry of route(8))."""
    name = ctypes.create_string_buffer(device.encode())
    ends = _sockaddr_in(host) + _sockaddr_in("0.0.0.0") + _sockaddr_in("255.255.255.255")
    tail = struct.pack("=QQh6xQQQH6x", 0, 0, 0, ctypes.addressof(name), 0, 0, 0)
    entry = struct.pack("=Q48sHh4x", 0, ends, RTF_UP | RTF_HOST, 0) + tail
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCADDRT, entry)


def _pseudo_checksum(packet: bytes, at: int) -> bytes:
    """A packet whose TCP checksum is that of the pseudo-header alone, as a device is given it."""
    total = packet[12:20] + struct.pack(">HH", 6, len(packet) - at)
    value = sum(struct.unpack(f">{len(total) // 2}H", total))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return packet[: at + 16] + struct.pack(">H", value) + packet[at + 18 :]


def run_kernel(config: Config, result: Result, drive: Drive) -> None:
    """Run a script in a process with a namespace of its own.

    Parameters
    ----------
    config : Config
    result : Result
        What the script's process has made of it.
    drive : callable
        Runs the script against the target that it is given.

    Raises
    ------
    Skipped
        If this machine does not let us.
    """
    if not sys.platform.startswith("linux"):
        raise Skipped("the kernel target needs Linux")
    if os.geteuid():
        raise Skipped("the kernel target needs root")
    if not os.path.exists("/dev/net/tun"):
        raise Skipped("the kernel target needs /dev/net/tun")
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _in_child(config, result, drive, write)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    if not data:
        result.kind, result.error = "internal", "internal error: the script's process died"
        return
    made = pickle.loads(data)
    vars(result).update(vars(made))


def _in_child(config: Config, result: Result, drive: Drive, write: int) -> None:
    """What the script's process does; it never comes back."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        gc.disable()
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS):
            number = ctypes.get_errno()
            raise Skipped(f"no network namespace: {errno.errorcode.get(number, number)}")
        drive(KernelTarget(config))
    except (Skipped, OSError) as error:
        result.kind, result.error = "skipped", str(error)
    except Exception as error:
        result.kind = "internal"
        result.error = f"internal error: {type(error).__name__}: {error}"
    try:
        with os.fdopen(write, "wb") as file:
            file.write(pickle.dumps(result))
    finally:
        os._exit(0)
