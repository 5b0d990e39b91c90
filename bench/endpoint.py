"""Jobs of the endpoint for bench.worker: whole transfers, handshakes, floods, memory, two hosts.

Two engines hand each other their frames (`Net.exchange`); Python only writes, reads and counts.
CPU time of the process, both ends together; memory is what the process grew by.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from typing import Any

import numpy as np

from bench import captures
from bench.captures import START_US, Conversations
from bench.conftest import KEY, feed, resident
from tcpcore import MemoryLink, Stack, VirtualClock
from tcpcore.engine import load, load_net

V4 = bytes(10) + b"\xff\xff"
HERE, THERE, ELSEWHERE = (V4 + bytes((10, 0, 0, last)) for last in (1, 2, 3))
MTU = 1500
SEC = 1_000_000_000
PORTS = 14_000  # connections to one port: half of the ports there are, which are found at once
SYN_OPTIONS = bytes.fromhex("020405b40402080a0000000100000000") + bytes.fromhex("01030307")


class Pair:
    """Two hosts and a listener of the second."""

    def __init__(self, engine: str, mtu: int = MTU, gso: bool = False) -> None:
        net = load_net(engine)
        self.a, self.b = net(KEY), net(KEY[::-1])
        self.now = SEC
        for host, address in ((self.a, HERE), (self.b, THERE)):
            host.add_address(address, 120)
            host.set_link(mtu, gso)
            host.advance(self.now)
        self.listener = self.listen(80)

    def listen(self, port: int, backlog: int = 4096) -> int:
        handle: int = self.b.socket(4)
        self.b.bind(handle, THERE, port)
        self.b.listen(handle, backlog)
        return handle

    def exchange(self) -> int:
        n: int = self.a.exchange(self.b, self.now)
        return n

    def connect(self, port: int = 80, listener: int | None = None) -> tuple[int, int]:
        handle = self.a.socket(4)
        self.a.connect(handle, 2, THERE, port)
        self.exchange()
        return handle, self.b.accept(self.listener if listener is None else listener)

    def populate(self, count: int) -> None:
        """Connections on which nothing happens."""
        for first in range(0, count, PORTS):
            listener = self.listen(1000 + first // PORTS)
            for _ in range(min(PORTS, count - first)):
                self.now += 1_000_000  # what the handshake has armed runs out meanwhile
                self.connect(1000 + first // PORTS, listener)
                self.a.wakes()
                self.b.wakes()

    def transfer(self, ends: tuple[int, int], data: bytes, room: bytearray, total: int) -> None:
        """Write the same bytes again and again, read all of them."""
        a, b, (handle, child) = self.a, self.b, ends
        read = 0
        while read < total:
            a.sendmsg(handle, data)
            a.exchange(b, self.now)
            while (n := b.recv_into(child, room)) > 0:
                read += n
            a.exchange(b, self.now)
            self.now += 10_000


def bulk(
    engine: str, total: int, write: int, mtu: int = MTU, gso: bool = False, idle: int = 0
) -> dict[str, float]:
    """One transfer, after one that brings windows and memory to their size."""
    pair = Pair(engine, mtu, gso)
    pair.populate(idle)
    ends = pair.connect()
    data, room = bytes(write), bytearray(write)
    pair.transfer(ends, data, room, total // 10)
    started = time.process_time()
    pair.transfer(ends, data, room, total)
    seconds = time.process_time() - started
    info = pair.a.info(ends[0])
    return {"seconds": seconds, "bytes": total, "mss": info["tcpi_snd_mss"]}


def connects(engine: str, count: int) -> dict[str, float]:
    """Connect, accept, close by both, one after the other; the server keeps TIME-WAIT."""
    pair = Pair(engine)
    a, b = pair.a, pair.b
    started = time.process_time()
    for _ in range(count):
        handle, child = pair.connect()
        b.close(child)
        a.exchange(b, pair.now)
        a.close(handle)
        a.exchange(b, pair.now)
        pair.now += 100_000
    return {"seconds": time.process_time() - started, "count": count}


def stacks() -> tuple[Stack, Stack]:
    """Two hosts as programs have them."""
    a, b = MemoryLink.pair()
    clock = VirtualClock()
    return Stack("10.0.0.1/24", link=a, clock=clock), Stack("10.0.0.2/24", link=b, clock=clock)


def system_socket(*_: Any) -> socket.socket:
    """One of the system's, with the congestion control that ours has."""
    made = socket.socket()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    return made


def system_listener() -> socket.socket:
    listener = system_socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def pingpong(system: bool, count: int) -> dict[str, float]:
    """64 bytes there and back, by `send` and `recv` of Python's sockets or of ours."""
    if system:
        listener: Any = system_listener()
        client: Any = system_socket()
        client.connect(listener.getsockname())
    else:
        a, b = stacks()
        listener = b.listen(("", 80))
        client = a.connect(("10.0.0.2", 80))
    server, _ = listener.accept()
    data = bytes(64)
    for one in (client, server):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    started = time.process_time()
    for _ in range(count):
        client.send(data)
        server.recv(64)
        server.send(data)
        client.recv(64)
    seconds = time.process_time() - started
    for one in (client, server, listener):
        one.close()
    return {"seconds": seconds, "count": count}


def api_connects(system: bool, count: int) -> dict[str, float]:
    """Connect, accept, close by both, through `socket.socket` or `tcpcore.Socket`."""
    if system:
        listener: Any = system_listener()
        where = listener.getsockname()
        make: Any = system_socket
    else:
        a, b = stacks()
        listener, where, make = b.listen(("", 80)), ("10.0.0.2", 80), a.socket
    started = time.process_time()
    for _ in range(count):
        client = make()
        client.connect(where)
        server, _ = listener.accept()
        server.close()
        client.close()
    seconds = time.process_time() - started
    listener.close()
    return {"seconds": seconds, "count": count}


def segments(count: int) -> dict[str, float]:
    """An in-order 64-byte segment, parsed, and through `tcp_v4_do_rcv`; a frame of the judge's."""
    pair = Pair("compiled")
    handle, child = pair.connect()
    pair.a.setsockopt(handle, 6, 1, 1)
    room, data = bytearray(1 << 16), bytes(64)
    spent = done = 0
    while done < count:
        for _ in range(100):
            pair.a.sendmsg(handle, data)
        frames = pair.a.transmit()[0]
        started = time.process_time_ns()
        pair.b.receive_batch(frames, pair.now)
        spent += time.process_time_ns() - started
        done += len(frames)
        pair.b.recv_into(child, room)
        pair.exchange()
        pair.now += 100_000
    engine = load("compiled")
    talk = Conversations(64, 160)
    steps = np.arange(3, 3 + (160 - 7) // 4 * 4)
    conn, step = np.tile(np.arange(64), len(steps)), np.repeat(steps, 64)
    records = talk.records(conn, step, START_US + np.arange(len(step)), damaged=False)
    judged = []
    for _ in range(9):
        conntrack = engine.Conntrack(key=KEY, analysis=False)
        conntrack.begin(0)
        conntrack.feed(captures.HEADER, len(captures.HEADER))
        first = talk.records(
            np.tile(np.arange(64), 3), np.repeat(np.arange(3), 64), START_US + np.arange(192)
        )
        feed(conntrack, first, engine.CHUNK)
        started = time.process_time_ns()
        feed(conntrack, records, engine.CHUNK)
        judged.append((time.process_time_ns() - started) / len(records))
    return {"segment_ns": spent / done, "step_ns": sorted(judged)[len(judged) // 2]}


def memory(what: str, count: int) -> dict[str, float]:
    """Bytes that the process grows by for each of something idle, by the name of its record."""
    pair = Pair("compiled")
    pair.b.set_sysctl("tcp_max_syn_backlog", count)
    pair.b.set_sysctl("tcp_max_tw_buckets", count)
    pair.b.set_sysctl("somaxconn", count)
    pair.b.listen(pair.listener, count)
    pair.populate(100)  # what is made once
    frames = syns(count) if what == "request_sock" else []
    before = resident()
    started = time.process_time()
    if what == "tcp_sock":
        pair.populate(count)
        count *= 2
    elif what == "request_sock":
        for at in range(0, count, 1000):
            pair.b.receive_batch(frames[at : at + 1000], pair.now)
            pair.b.transmit()
    else:
        for first in range(0, count, PORTS):
            listener = pair.listen(2000 + first // PORTS)
            for _ in range(min(PORTS, count - first)):
                handle, child = pair.connect(2000 + first // PORTS, listener)
                pair.b.close(child)
                pair.exchange()
                pair.a.close(handle)
                pair.exchange()
                pair.now += 1000
    return {
        "bytes": (resident() - before) / count,
        "count": count,
        "seconds": time.process_time() - started,
    }


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total + (total >> 16)) & 0xFFFF ^ 0xFFFF


def syns(count: int) -> list[bytes]:
    """SYNs of hosts that never say more, with the options that Linux sends."""
    rng = random.Random(1)
    made = []
    for _ in range(count):
        source = rng.randrange(0x0B000001, 0x7F000000).to_bytes(4, "big")
        addresses = source + THERE[12:]
        ports = rng.randrange(1024, 65536), 80
        head = struct.pack(">HHIIHHHH", *ports, rng.getrandbits(32), 0, 0xA002, 64240, 0, 0)
        tcp = head + SYN_OPTIONS
        check = checksum(addresses + struct.pack(">HH", 6, len(tcp)) + tcp)
        tcp = tcp[:16] + check.to_bytes(2, "big") + tcp[18:]
        ip = struct.pack(">BBHIBBH", 0x45, 0, 20 + len(tcp), 0x4000, 64, 6, 0) + addresses
        made.append(ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:] + tcp)
    return made


def flood(count: int, total: int) -> dict[str, float]:
    """SYNs answered with cookies, beside the same ones parsed and summed only, and a transfer."""
    made = syns(count)
    frames = [made[at : at + 1000] for at in range(0, count, 1000)]
    pair = Pair("compiled")
    pair.b.set_sysctl("tcp_syncookies", 2)
    bystander = load_net("compiled")(KEY)
    bystander.add_address(ELSEWHERE, 120)
    ends = pair.connect()
    data, room = bytes(1 << 16), bytearray(1 << 16)
    share = total // len(frames)

    def answered(batch: list[bytes]) -> None:
        pair.b.receive_batch(batch, pair.now)
        pair.b.transmit()

    def timed(*works: Any) -> float:
        started = time.process_time()
        for batch in frames:
            for work in works:
                work(batch)
        return time.process_time() - started

    def transfer(_: list[bytes]) -> None:
        pair.transfer(ends, data, room, share)

    timed(answered, transfer)
    before = resident()
    bare = timed(lambda batch: bystander.receive_batch(batch, pair.now))
    cookies, alone = timed(answered), timed(transfer)
    both = timed(answered, transfer)
    return {
        "bare_ns": bare / count * 1e9,
        "cookie_ns": cookies / count * 1e9,
        "beside": both / (cookies + alone),
        "requests": pair.b.queued(pair.listener)[0],
        "grown": resident() - before,
    }


JOBS = {
    "bulk": bulk,
    "connects": connects,
    "pingpong": pingpong,
    "api_connects": api_connects,
    "segments": segments,
    "memory": memory,
    "flood": flood,
}
