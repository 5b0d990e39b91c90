"""What a socket tells beside its stream: `recvmsg` and MSG_ERRQUEUE, on both engines."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

import tcpcore
from tcpcore import cmsg
from tcpcore.engine import ENGINE

ENGINES = ("reference", "compiled") if ENGINE == "compiled" else ("reference",)
MSG_ERRQUEUE, MSG_ZEROCOPY = 0x2000, 0x4000000
SO_ZEROCOPY, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, TCP_INQ = 60, 29, 35, 37, 36
TX_SOFTWARE, RX_SOFTWARE, SOFTWARE, OPT_ID, TX_SCHED, TX_ACK = 0x2, 0x8, 0x10, 0x80, 0x100, 0x200
TSONLY, OPT_STATS = 0x800, 0x1000
DELAY_NS = 10_000_000
Pair = tuple[tcpcore.Network, tcpcore.Socket, tcpcore.Socket]


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    network = tcpcore.Network(seed=1, engine=request.param)
    a, b = network.host("a"), network.host("b")
    network.link(a, b, delay_s=DELAY_NS / 1e9)
    listener = b.listen(("", 80))
    sock = a.connect(("b", 80))
    other, _ = listener.accept()
    listener.close()
    yield network, sock, other
    sock.close()
    other.close()


def extended(message: tuple[int, int, bytes]) -> tuple[int, ...]:
    """ee_errno, ee_origin, ee_type, ee_code, ee_info, ee_data."""
    level, kind, data = message
    assert (level, kind, len(data)) == (socket.SOL_IP, 11, 32)
    one = struct.unpack_from("=IBBBBII", data)
    return one[:4] + one[5:]


def test_stamps_of_a_write(pair: Pair) -> None:
    network, sock, other = pair
    sock.setsockopt(
        socket.SOL_SOCKET,
        SO_TIMESTAMPING,
        TX_SOFTWARE | TX_SCHED | TX_ACK | SOFTWARE | OPT_ID | TSONLY,
    )
    began_ns = network.clock.now_ns()
    sock.send(b"x" * 100)
    assert sock.poll() & 8
    assert other.recv(100) == b"x" * 100
    network.advance(1)
    seen = []
    for _ in range(3):
        data, messages, flags, address = sock.recvmsg(0, 200, MSG_ERRQUEUE)
        assert (data, flags, address) == (b"", MSG_ERRQUEUE, None)
        (level, kind, stamp), told = messages
        assert (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING)
        seconds, rest, *zeros = struct.unpack("=6q", stamp)
        assert not any(zeros)
        seen.append((extended(told), seconds * 1_000_000_000 + rest - began_ns >= DELAY_NS))
    assert [one for one, _ in seen] == [(errno.ENOMSG, 4, 0, 0, what, 99) for what in (1, 0, 2)]
    assert [late for _, late in seen] == [False, False, True]
    assert not sock.poll() & 8
    with pytest.raises(BlockingIOError):
        sock.recvmsg(0, 200, MSG_ERRQUEUE)
    with pytest.raises(BlockingIOError):
        sock.recv(10, MSG_ERRQUEUE)


def test_stamps_of_one_write(pair: Pair) -> None:
    _, sock, _ = pair
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE | TSONLY)
    stamps = (TX_SOFTWARE).to_bytes(4, "little")
    assert sock.sendmsg([b"a", b"b"], [(socket.SOL_SOCKET, SO_TIMESTAMPING, stamps)]) == 2
    assert extended(sock.recvmsg(0, 200, MSG_ERRQUEUE)[1][1])[4] == 0
    for item in (
        (socket.SOL_SOCKET, SO_TIMESTAMPING, b"\1"),
        (socket.SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE.to_bytes(4, "little")),
        (socket.SOL_SOCKET, 99, stamps),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            sock.sendmsg([b"x"], [item])


def test_a_packet_with_its_stamp(pair: Pair) -> None:
    """Without OPT_TSONLY; what has no room is cut off."""
    _, sock, _ = pair
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE | TX_SCHED | SOFTWARE)
    sock.send(b"payload")
    data, _, flags, _ = sock.recvmsg(200, 200, MSG_ERRQUEUE)
    assert data[0] == 0x45
    assert data.endswith(b"payload")
    assert flags == MSG_ERRQUEUE
    data, _, flags, _ = sock.recvmsg(20, 200, MSG_ERRQUEUE)
    assert (len(data), flags) == (20, MSG_ERRQUEUE | socket.MSG_TRUNC)


def test_sends_without_copying(pair: Pair) -> None:
    network, sock, other = pair
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert sock.getsockopt(socket.SOL_SOCKET, SO_ZEROCOPY) == 1
    size = 1_000_000

    def write() -> None:
        for _ in range(3):
            assert sock.send(bytes(size), MSG_ZEROCOPY) == size  # each is one, however long

    def read() -> None:
        assert len(other.recv(3 * size, socket.MSG_WAITALL)) == 3 * size

    network.run(write, read)
    network.advance(1)
    data, messages, flags, _ = sock.recvmsg(10, 200, MSG_ERRQUEUE)
    assert (data, flags) == (b"", MSG_ERRQUEUE)
    assert [extended(one) for one in messages] == [(0, 5, 0, 1, 0, 2)]
    with pytest.raises(BlockingIOError):
        sock.recvmsg(0, 200, MSG_ERRQUEUE)


def test_stamps_of_what_is_read(pair: Pair) -> None:
    network, sock, other = pair
    other.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE | RX_SOFTWARE)
    other.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
    assert other.getsockopt(socket.IPPROTO_TCP, TCP_INQ) == 1
    with pytest.raises(OSError, match="Invalid argument"):
        other.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 2)
    sent_ns = network.clock.now_ns()
    sock.send(b"abcdef")
    network.advance(1)
    data, messages, flags, _ = other.recvmsg(2, 200)
    assert (data, flags) == (b"ab", 0)
    (_, _, stamp), inq = messages
    seconds, rest = struct.unpack_from("=qq", stamp)
    assert seconds * 1_000_000_000 + rest - sent_ns == pytest.approx(DELAY_NS, abs=1e6)
    assert inq == (socket.IPPROTO_TCP, TCP_INQ, struct.pack("=i", 4))
    room = bytearray(1)
    size, messages, _, _ = other.recvmsg_into([room], 200)
    assert (size, len(messages)) == (1, 2)
    for option, width in ((SO_TIMESTAMP, 1000), (SO_TIMESTAMPNS, 1)):
        other.setsockopt(socket.SOL_SOCKET, option, 1)
        _, messages, _, _ = other.recvmsg(1, 200, socket.MSG_PEEK)
        assert messages[0][:2] == (socket.SOL_SOCKET, option)
        assert struct.unpack("=qq", messages[0][2]) == (seconds, rest // width)


def test_short_control_buffers(pair: Pair) -> None:
    network, sock, other = pair
    other.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    other.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
    sock.send(b"abc")
    network.advance(1)
    seen = [other.recvmsg(1, room, socket.MSG_PEEK)[1:3] for room in (0, 15, 16, 20, 32, 50, 52)]
    assert [flags for _, flags in seen] == [socket.MSG_CTRUNC] * 6 + [0]
    sizes = [[len(data) for _, _, data in found] for found, _ in seen]
    assert sizes == [[], [], [0], [4], [16], [16, 2], [16, 4]]


def test_an_attempt_that_a_host_refuses() -> None:
    """The ICMP error that ends it waits in the queue, with who has told it."""
    for engine in ENGINES:
        stack = tcpcore.Stack("10.0.0.1", engine=engine)
        sock = stack.socket()
        sock.setblocking(False)
        sock.connect_ex(("10.0.0.2", 80))
        (syn,) = stack.transmit(0)
        stack.receive([unreachable(bytes(syn), 3)], 1000)
        data, messages, flags, _ = sock.recvmsg(100, 200, MSG_ERRQUEUE)
        assert (data, flags) == (bytes(syn)[20:28], MSG_ERRQUEUE)
        assert extended(messages[0]) == (errno.ECONNREFUSED, 2, 3, 3, 0, 0)
        offender = messages[0][2][16:]
        assert offender[:2] == struct.pack("=H", socket.AF_INET)
        assert socket.inet_ntoa(offender[4:8]) == "10.0.0.9"
        sock.close()


def unreachable(packet: bytes, code: int) -> bytes:
    """An ICMP error of a router's about a packet."""

    def checked(data: bytes, at: int) -> bytes:
        total = sum(struct.unpack(f">{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return data[:at] + struct.pack(">H", ~total & 0xFFFF) + data[at + 2 :]

    body = checked(struct.pack(">BBHI", 3, code, 0, 0) + packet[:28], 2)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0,
                       bytes((10, 0, 0, 9)), packet[12:16])  # fmt: skip
    return checked(head, 10) + body


def test_nobody_reads(pair: Pair) -> None:
    """T-26: a queue that is not read holds no more than the receive buffer."""
    network, sock, other = pair
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE | TX_ACK | SOFTWARE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    for _ in range(100):
        sock.send(b"x" * 500)
        other.recv(500)
    assert sock.stack._net.sockstat()["mem"] < 20_000
    network.advance(1)
    count = 0
    while True:
        try:
            sock.recvmsg(0, 200, MSG_ERRQUEUE)
        except BlockingIOError:
            break
        count += 1
    assert 1 <= count <= 12
    assert sock.stack._net.sockstat()["mem"] == 0


def test_closed_with_messages(pair: Pair) -> None:
    """What is told to nobody is given back."""
    network, sock, other = pair
    stack = sock.stack
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE | TX_ACK | SOFTWARE)
    sock.send(b"x" * 1000, MSG_ZEROCOPY)
    sock.send(b"x" * 1000, MSG_ZEROCOPY)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.recvmsg(0, 200, MSG_ERRQUEUE)
    assert other.recv(3000, socket.MSG_WAITALL) == b"x" * 2000
    other.close()
    network.advance(1)
    assert stack._net.sockstat()["mem"] == 0


def test_messages_fit() -> None:
    told = [(1, 35, bytes(16)), (6, 36, bytes(4))]
    assert cmsg.fit(told, 56) == (told, 0)
    assert cmsg.fit(told, 52) == (told, 0)
    assert cmsg.fit(told, 50) == ([told[0], (6, 36, bytes(2))], cmsg.MSG_CTRUNC)
    assert cmsg.fit(told, 32) == (told[:1], cmsg.MSG_CTRUNC)
    assert cmsg.fit([], 0) == ([], 0)
    assert cmsg.space(4) == 24


def test_statistics_with_a_stamp(pair: Pair) -> None:
    network, sock, _ = pair
    flags = TX_ACK | SOFTWARE | OPT_ID | TSONLY | OPT_STATS
    with pytest.raises(OSError, match="Invalid"):
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, OPT_STATS)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
    sent_ns = network.clock.now_ns()
    sock.send(b"x" * 100)
    network.advance(1)
    data, messages, _, _ = sock.recvmsg(1000, 1000, MSG_ERRQUEUE)
    assert [message[:2] for message in messages] == [(1, SO_TIMESTAMPING), (1, 54), (0, 11)]
    assert messages[1][2] == data
    told = {}
    while data:
        size, kind = struct.unpack_from("=HH", data)
        told[kind] = int.from_bytes(data[4:size], "little")
        data = data[(size + 3) & ~3 :]
    assert sorted(told) == [*range(1, 26), 27]
    info = sock.info()
    assert told[4] == info["tcpi_data_segs_out"] == 1
    assert told[8] == info["tcpi_snd_cwnd"]
    assert (told[13], told[16], told[18]) == (0, info["tcpi_delivered"], 100)
    assert told[25] == sent_ns
