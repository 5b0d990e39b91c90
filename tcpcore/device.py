"""Links to the machine's own network: TUN, TAP and packet sockets of Linux.

Linux: Documentation/networking/tuntap.rst, packet(7), struct virtio_net_hdr.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from tcpcore.link import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    ETH_HLEN,
    Frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
TUN_F_CSUM_TSO = 1 | 2 | 4  # checksums, TSO over IPv4 and IPv6 are ours to do
VNET_HDR = struct.Struct("=BBHHHH")
NEEDS_CSUM, DATA_VALID, GSO_TCPV4, GSO_TCPV6 = 1, 2, 1, 4
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 3, 263, 8, 4
TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID = 8, 128
FRAME_MAX = 65536 + ETH_HLEN + 14  # what the kernel leaves to a card to cut


class _FileLink:
    """A descriptor that gives and takes a frame at a time."""

    BATCH = 64
    ethernet = False
    gso = False
    hw_csum = False

    def __init__(self, fd: int, mtu: int) -> None:
        self._fd = fd
        self.mtu = mtu
        self.dropped = 0
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._fd

    def attach(self, wake: Callable[[], None]) -> None:
        """Nothing to do: the descriptor wakes who waits for it."""

    @property
    def next_arrival(self) -> int | None:
        """None: it is the descriptor that tells."""
        return None

    def send(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Send frames; those that the system has no room for are dropped, as on any link."""
        for frame in frames:
            try:
                os.write(self._fd, frame)
            except OSError:
                self.dropped += 1

    def recv(self, now_ns: int) -> list[bytes]:
        """What is there, a batch at most."""
        found = []
        size = FRAME_MAX if self.gso else self.mtu + ETH_HLEN + 4
        for _ in range(self.BATCH):
            try:
                frame = os.read(self._fd, size)
            except BlockingIOError:
                break
            if not frame:
                break
            found.append(frame)
        return found

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class TunLink(_FileLink):
    """A TUN interface of Linux: IP packets between this process and the machine's kernel.

    Parameters
    ----------
    name
        Of the interface, which is made if it is not there; '' lets Linux choose.
    mtu
        As the interface has it.
    gso
        Segments of up to 64 KiB go whole, both ways, and the kernel cuts them and makes their
        checksums, which nobody verifies on what comes from it.

    Raises
    ------
    OSError
        Without /dev/net/tun, or the right to use it.
    """

    KIND = IFF_TUN

    def __init__(self, name: str = "", mtu: int = 1500, *, gso: bool = False) -> None:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            flags = self.KIND | IFF_NO_PI | (IFF_VNET_HDR if gso else 0)
            answer = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            if gso:
                fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM_TSO)
        except OSError:
            os.close(fd)
            raise
        self.name = answer[:16].rstrip(b"\0").decode()
        self.gso = self.hw_csum = gso
        super().__init__(fd, mtu)

    def send(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Send frames; those that the system has no room for are dropped, as on any link."""
        if self.gso:
            frames = [virtio(frame, self.ethernet) for frame in frames]
        super().send(frames, now_ns)

    def recv(self, now_ns: int) -> list[bytes]:
        """What is there, a batch at most, with what the kernel tells of its checksums."""
        found = super().recv(now_ns)
        if not self.gso:
            return found
        return [unwrapped(one) for one in found if len(one) > VNET_HDR.size]


class TapLink(TunLink):
    """A TAP interface of Linux: Ethernet frames between this process and the kernel.

    Parameters and errors are those of `TunLink`.
    """

    KIND = IFF_TAP
    ethernet = True


class PacketLink(_FileLink):
    """An interface of the machine by a packet socket: Ethernet frames, its kernel's own too.

    Parameters
    ----------
    interface
        Its name.
    mtu
        As the interface has it.

    Raises
    ------
    OSError
        Without the right (CAP_NET_RAW), or without the interface.
    """

    ethernet = True

    def __init__(self, interface: str, mtu: int = 1500) -> None:
        import socket

        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        try:
            made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            made.bind((interface, 0))
        except OSError:
            made.close()
            raise
        self.name = interface
        self._socket = made
        super().__init__(made.fileno(), mtu)

    def recv(self, now_ns: int) -> list[bytes]:
        """What is there, a batch at most, with what the kernel tells of its checksums."""
        found = []
        for _ in range(self.BATCH):
            try:
                frame, told, _, address = self._socket.recvmsg(FRAME_MAX, 128)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                break  # told once: an interface that is down brings nothing, and may come up again
            if address[2] == PACKET_OUTGOING:
                continue
            for level, kind, data in told:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status = struct.unpack_from("I", data)[0]
                    if status & TP_STATUS_CSUMNOTREADY:
                        frame = Frame(frame, ip_summed=CHECKSUM_PARTIAL)
                    elif status & TP_STATUS_CSUM_VALID:
                        frame = Frame(frame, ip_summed=CHECKSUM_UNNECESSARY)
            found.append(frame)
        return found

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        self._fd = -1


def segment_at(frame: bytes, at: int) -> int:
    """Where the TCP header of the IP packet at `at` begins; 0 if there is none."""
    if len(frame) < at + 40:
        return 0
    four = frame[at] >> 4 == 4
    start = at + (4 * (frame[at] & 15) if four else 40)
    tcp = frame[at + 9 if four else at + 6] == 6 and len(frame) >= start + 20
    return start if tcp else 0


def unwrapped(read: bytes) -> Frame:
    """A frame without the header in front of it that tells of its segments and checksum."""
    flags, _, _, size, _, _ = VNET_HDR.unpack_from(read)
    summed = CHECKSUM_UNNECESSARY if flags & DATA_VALID else CHECKSUM_NONE
    if flags & NEEDS_CSUM:
        summed = CHECKSUM_PARTIAL
    return Frame(read[VNET_HDR.size :], size, summed)


def virtio(frame: bytes, ethernet: bool) -> bytes:
    """A frame behind the header that tells the kernel what to do with it: cut it, sum it."""
    at = ETH_HLEN if ethernet else 0
    start = 0
    if isinstance(frame, Frame) and frame.ip_summed == CHECKSUM_PARTIAL:
        start = segment_at(frame, at)
    if not start:
        return bytes(VNET_HDR.size) + frame
    size = getattr(frame, "gso_size", 0)
    kind = GSO_TCPV4 if frame[at] >> 4 == 4 else GSO_TCPV6
    header = start + 4 * (frame[start + 12] >> 4)
    return VNET_HDR.pack(NEEDS_CSUM, kind if size else 0, header, size, start, 16) + frame
