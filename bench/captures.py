"""Seeded captures: minimal frames, a flood of SYNs, one-byte segments, real traffic replicated.

Little-endian microsecond pcap, Ethernet and IPv4, every checksum right unless asked otherwise.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import tcpcore
from tcpcore import engine

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
START_US = 1_700_000_000_000_000
FIN, SYN, PSH, ACK = 1, 2, 8, 16
TIMESTAMPS = bytes.fromhex("0101080a0000000100000001")
CHUNK = 500_000  # records made at a time

Records = np.ndarray  # structured, one element a record: see `layout`


# ---- records ------------------------------------------------------------------------------------


def layout(size: int) -> np.dtype:
    """A pcap record of one Ethernet frame of `size` bytes with a TCP segment."""
    fields = (
        "sec:<u4 usec:<u4 caplen:<u4 wirelen:<u4 dmac:V6 smac:V6 ethertype:>u2 version:u1 tos:u1 "
        "total:>u2 id:>u2 fragment:>u2 ttl:u1 protocol:u1 ip_csum:>u2 saddr:>u4 daddr:>u4 "
        "sport:>u2 dport:>u2 seq:>u4 ack:>u4 doff:u1 flags:u1 window:>u2 csum:>u2 urgent:>u2"
    )
    pairs = [tuple(field.split(":")) for field in fields.split()]
    return np.dtype([*pairs, ("rest", "u1", (size - 54,))])


def folded(sums: np.ndarray) -> np.ndarray:
    """Sums of 16-bit words with the carries added, RFC 1071."""
    for _ in range(3):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return sums


def records(
    time_us: np.ndarray,
    *,
    payload: np.ndarray | int = 0,
    options: bytes = b"",
    size: int = 60,
    protocol: int = 6,
    damaged: bool = False,
    **fields: np.ndarray | int,
) -> Records:
    """Frames of one size, padded where header and payload are shorter.

    Parameters
    ----------
    time_us
        int64[n], microseconds since 1970.
    payload
        Bytes of payload, for each frame or for all.
    options
        The TCP options of every frame, whole words.
    size
        Bytes of a frame without FCS, an even number; 60 is Ethernet's least.
    protocol
        17 makes frames whose look ends at the IP header.
    damaged
        Make every TCP checksum wrong.
    **fields
        saddr, daddr, sport, dport, seq, ack, flags: for each frame or for all.
    """
    made = np.zeros(len(time_us), layout(size))
    made["sec"], made["usec"] = np.divmod(time_us, 1_000_000)
    made["caplen"] = made["wirelen"] = size
    made["dmac"], made["smac"] = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    made["ethertype"], made["version"] = 0x0800, 0x45
    made["total"] = 40 + len(options) + payload
    made["fragment"], made["ttl"], made["protocol"] = 0x4000, 64, protocol
    made["doff"], made["window"] = (5 + len(options) // 4) << 4, 64240
    for name, value in fields.items():
        made[name] = value
    made["rest"][:, : len(options)] = np.frombuffer(options, np.uint8)
    room = made["rest"][:, len(options) :]
    column = np.arange(room.shape[1])
    letters = 97 + (made["seq"][:, None].astype(np.int64) + column) % 26
    room[:] = np.where(column < np.broadcast_to(payload, len(made))[:, None], letters, 0)

    words = made.view(np.uint8).reshape(len(made), -1).view(">u2")
    made["ip_csum"] = 0xFFFF - folded(words[:, 15:25].sum(1, dtype=np.int64))
    pseudo = words[:, 21:25].sum(1, dtype=np.int64) + protocol + made["total"] - 20
    made["csum"] = 0xFFFF - folded(words[:, 25:].sum(1, dtype=np.int64) + pseudo)
    if damaged:
        made["csum"] ^= 0x5555
    return made


class Conversations:
    """Connections of `length` segments each: handshake, small data that is acknowledged, close."""

    def __init__(self, conns: int, length: int, seed: int = 1) -> None:
        if length < 8:
            raise ValueError("a conversation has 8 segments or more")
        pairs, odd = divmod(length - 7, 2)
        data, ack = (0, PSH | ACK, 6), (1, ACK, 0)
        script = [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0)]
        script += [data, ack] * pairs + [(1, PSH | ACK, 6)] * odd
        script += [(0, FIN | ACK, 0), (1, ACK, 0), (1, FIN | ACK, 0), (0, ACK, 0)]
        sent, rows = [0, 0], []
        for side, flags, payload in script:
            rows.append((side, flags, payload, sent[side], sent[1 - side]))
            sent[side] += payload + bool(flags & (SYN | FIN))
        self.side, self.flags, self.payload, self.seq, self.ack = np.array(rows).T
        rng = np.random.default_rng(seed)
        client = (10 << 24) + rng.integers(1 << 16, 1 << 24, conns)
        server = (192 << 24) + (168 << 16) + rng.integers(1, 65000, conns)
        self.addr = np.array([client, server], np.uint32)
        self.port = np.array(
            [rng.integers(1024, 65535, conns), rng.choice([22, 80, 443, 8080], conns)], np.uint16
        )
        self.isn = rng.integers(0, 1 << 32, (2, conns), np.uint32)
        self.rng = rng

    def records(
        self, conn: np.ndarray, step: np.ndarray, time_us: np.ndarray, **shape: object
    ) -> Records:
        """Frames of the steps `step` of the connections `conn`; `shape` as in `records`."""
        one, other = self.side[step], 1 - self.side[step]
        flags = self.flags[step]
        return records(
            time_us,
            saddr=self.addr[one, conn],
            daddr=self.addr[other, conn],
            sport=self.port[one, conn],
            dport=self.port[other, conn],
            seq=self.isn[one, conn] + self.seq[step].astype(np.uint32),
            ack=np.where(flags & ACK, self.isn[other, conn] + self.ack[step].astype(np.uint32), 0),
            flags=flags,
            id=conn & 0xFFFF,
            **{"payload": self.payload[step], **shape},
        )


def minimal(conns: int = 100_000, packets: int = 5_000_000, seed: int = 1) -> Iterator[Records]:
    """Minimal frames: conversations that begin within 10 s and go on at the same time."""
    length = packets // conns
    talk = Conversations(conns, length, seed)
    time_us = np.empty((length, conns), np.int64)
    time_us[0] = talk.rng.integers(0, 10_000_000, conns)
    for step in range(1, length):
        time_us[step] = time_us[step - 1] + talk.rng.integers(1, 400_000, conns)
    time_us = time_us.ravel()
    order = np.argsort(time_us, kind="stable")
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        yield talk.records(part % conns, part // conns, START_US + time_us[part])


def flood(packets: int = 2_000_000, seed: int = 2, chunk: int = CHUNK) -> Iterator[Records]:
    """SYNs from random addresses and ports to one server, one a microsecond."""
    rng = np.random.default_rng(seed)
    for start in range(0, packets, chunk):
        n = min(chunk, packets - start)
        yield records(
            START_US + start + np.arange(n),
            saddr=rng.integers(1 << 24, 223 << 24, n),
            daddr=0xC0A80001,
            sport=rng.integers(1024, 65536, n),
            dport=80,
            seq=rng.integers(0, 1 << 32, n),
            flags=SYN,
        )


ORDERS = ("in order", "backwards", "at random", "worst order")


def one_byte(count: int, order: str, seed: int = 3) -> Iterator[Records]:
    """One connection of one-byte segments, picked up in the middle.

    The worst order leaves holes everywhere: every third byte backwards, then every third of the
    rest, then the last.
    """
    places = np.arange(count)
    if order == "backwards":
        places = places[::-1]
    elif order == "at random":
        places = np.random.default_rng(seed).permutation(count)
    elif order == "worst order":
        places = np.concatenate([np.arange(count - 1 - start, -1, -3) for start in range(3)])
    ends = {"saddr": 0x0A000001, "daddr": 0x0A000002, "sport": 1000, "dport": 80}
    for start in range(0, count, CHUNK):
        part = places[start : start + CHUNK]
        time_us = START_US + start + np.arange(len(part))
        yield records(time_us, payload=1, seq=part, ack=501, flags=ACK, **ends)


# ---- real traffic -------------------------------------------------------------------------------

SUFFIXES = (".pcap", ".pcapng", ".cap")
UNUSUAL = ("evasion", "fuzz", "flood", "ip-frag", "oss", "asan", "bad", "crack")


def read_source(path: Path) -> tuple[np.ndarray, list[bytes]] | None:
    """Times in us and frames of a capture, if it is Ethernet and IPv4 and mostly TCP with data."""
    found = tcpcore.replay(path, packets=True, analysis=False, checksum="ignore")
    if any(kind != "ETHERNET" for kind in found.summary["files"][0]["link_types"]):
        return None
    data, table = path.read_bytes(), found.packets
    columns = [table[name].tolist() for name in ("time_ns", "offset", "caplen", "wirelen")]
    kept = [
        (time_ns // 1000, data[offset : offset + caplen])
        for time_ns, offset, caplen, wirelen in zip(*columns, strict=True)
        if caplen == wirelen and is_ipv4(data[offset : offset + caplen])
    ]
    kept.sort(key=lambda row: row[0])
    frames = [frame for _, frame in kept]
    tcp = sum(frame[23] == 6 for frame in frames)
    if len(frames) < 40 or 2 * tcp < len(frames) or sum(map(len, frames)) < 250 * len(frames):
        return None
    return np.array([time_us for time_us, _ in kept], np.int64), frames


def is_ipv4(frame: bytes) -> bool:
    """Whether a frame has an IPv4 header and 8 bytes behind it, and is no giant."""
    return (
        34 <= len(frame) <= 1518
        and frame[12:14] == b"\x08\x00"
        and 0x45 <= frame[14] <= 0x4F
        and len(frame) >= 22 + 4 * (frame[14] & 15)
    )


def mend(frame: bytes) -> bytes:
    """The frame with its IP and TCP checksums right: offload leaves them to the hardware."""
    csum = engine.load().csum
    whole = bytearray(frame)
    tcp = 14 + 4 * (frame[14] & 15)
    end = min(14 + int.from_bytes(frame[16:18], "big"), len(frame))
    whole[24:26] = bytes(2)
    whole[24:26] = (0xFFFF ^ csum(bytes(whole[14:tcp]))).to_bytes(2, "big")
    fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
    if frame[23] == 6 and not fragment and end >= tcp + 20:
        whole[tcp + 16 : tcp + 18] = bytes(2)
        pseudo = frame[26:34] + struct.pack(">HH", 6, end - tcp)
        value = 0xFFFF ^ csum(pseudo + bytes(whole[tcp:end]))
        whole[tcp + 16 : tcp + 18] = value.to_bytes(2, "big")
    return bytes(whole)


class Replicas:
    """Real captures merged in time, to be written many times over, each time to new addresses."""

    def __init__(self, folder: Path, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)
        times, frames, owners, seen = [], [], [], set()
        for path in sorted(folder.rglob("*")):
            if path.suffix not in SUFFIXES or any(word in path.name for word in UNUSUAL):
                continue
            source = read_source(path)
            if source is None or (start := b"".join(source[1][:50])) in seen:
                continue
            seen.add(start)
            gaps = np.diff(source[0], prepend=source[0][0])
            gaps = np.minimum(gaps, 2_000_000)  # no long silence
            times.append(np.cumsum(gaps) + self.rng.integers(0, 60_000_000))
            owners.append(np.full(len(gaps), len(owners)))
            frames += source[1]
        if not frames:
            raise FileNotFoundError(f"{folder} has no capture of TCP over Ethernet and IPv4")
        self.sources = len(owners)
        time_us = np.concatenate(times)
        order = np.argsort(time_us, kind="stable")
        self.time_us, self.owner = time_us[order], np.concatenate(owners)[order]
        frames = [mend(frames[i]) for i in order]
        sizes = np.array([len(frame) for frame in frames])
        self.bounds = np.concatenate(([0], np.cumsum(sizes + 16)))
        head = np.repeat(sizes.astype("<u4")[:, None], 4, 1)  # the first two become the time
        joined = b"".join(h.tobytes() + f for h, f in zip(head, frames, strict=True))
        self.base = np.frombuffer(joined, np.uint8)
        self._places()

    def _places(self) -> None:
        """Where the addresses and the checksums over them stand."""
        eth = self.bounds[:-1] + 16
        size = np.diff(self.bounds) - 16
        tcp = 14 + 4 * (self.base[eth + 14] & 15).astype(np.int64)
        first = ((self.base[eth + 20] & 0x1F) == 0) & (self.base[eth + 21] == 0)
        protocol = self.base[eth + 23]
        udp_csum = np.minimum(eth + tcp + 6, len(self.base) - 2)
        given = (self.base[udp_csum] != 0) | (self.base[udp_csum + 1] != 0)
        has_tcp = np.flatnonzero(first & (protocol == 6) & (size >= tcp + 20))
        has_udp = np.flatnonzero(first & (protocol == 17) & given)
        self.eth = eth
        self.csums = [
            (eth + 24, slice(None)),
            ((eth + tcp + 16)[has_tcp], has_tcp),
            ((eth + tcp + 6)[has_udp], has_udp),
        ]

    def replica(self, time_us: int) -> tuple[np.ndarray, np.ndarray]:
        """Times and bytes of one copy that starts at `time_us`, checksums updated (RFC 1624)."""
        data = self.base.copy()
        key = self.rng.integers(1, 1 << 24, self.sources)[self.owner]
        change = np.zeros(len(key), np.int64)
        for place in (self.eth + 26, self.eth + 30):
            old = gather(data, place, 4)
            top = old >> 24
            top = np.where((top == 0) | (top == 127) | (top >= 224), 10, top)
            new = top << 24 | ((old ^ key) & 0xFFFFFF)
            scatter(data, place, new, 4)
            change += (new >> 16) + (new & 0xFFFF) + 2 * 0xFFFF - (old >> 16) - (old & 0xFFFF)
        for place, which in self.csums:
            total = 0xFFFF - gather(data, place, 2) + change[which]
            scatter(data, place, 0xFFFF - folded(total), 2)
        times = self.time_us + time_us
        seconds, rest = np.divmod(times, 1_000_000)
        scatter(data, self.bounds[:-1], seconds.astype(np.uint32).byteswap(), 4)
        scatter(data, self.bounds[:-1] + 4, rest.astype(np.uint32).byteswap(), 4)
        return times, data

    def records(self, size: int = 400_000_000, together: int = 10) -> Iterator[np.ndarray]:
        """About `size` bytes of records; `together` replicas run at the same time."""
        span = int(self.time_us.max()) + 1_000_000
        for group in range(-(-round(size / len(self.base)) // together) or 1):
            begin = START_US + 2 * span * group
            left = max(1, round(size / len(self.base))) - group * together
            copies = [
                self.replica(begin + int(self.rng.integers(0, span)))
                for _ in range(min(together, left))
            ]
            yield from self.merged(copies)

    def merged(self, copies: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        """The records of several replicas in the order of their times."""
        data = np.concatenate([data for _, data in copies])
        starts = np.concatenate([self.bounds[:-1] + i * len(self.base) for i in range(len(copies))])
        sizes = np.tile(np.diff(self.bounds), len(copies))
        order = np.argsort(np.concatenate([times for times, _ in copies]), kind="stable")
        for part in np.array_split(order, max(1, len(data) >> 25)):
            n = sizes[part]
            shift = np.repeat(starts[part] - (np.cumsum(n) - n), n)
            yield data[shift + np.arange(len(shift))]


def gather(data: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """Big-endian numbers of `n` bytes at each place."""
    value = np.zeros(len(place), np.int64)
    for i in range(n):
        value = value << 8 | data[place + i]
    return value


def scatter(data: np.ndarray, place: np.ndarray, value: np.ndarray, n: int) -> None:
    """Write numbers as `gather` reads them."""
    for i in range(n):
        data[place + i] = (value >> (8 * (n - 1 - i))) & 0xFF


# ---- files --------------------------------------------------------------------------------------


def write(path: Path, parts: Iterable[np.ndarray]) -> Path:
    """Write a capture, unless it is there from another run."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with open(unfinished, "wb") as file:
            file.write(HEADER)
            for part in parts:
                part.tofile(file)
        os.replace(unfinished, path)
    return path


def head(source: Path, path: Path, *, packets: int = 1 << 62, size: int = 1 << 62) -> int:
    """Copy the first records of a capture of ours, so many or so many bytes; returns how many."""
    taken = 0
    with open(source, "rb") as file, open(path, "wb") as out:
        out.write(file.read(24))
        while taken < packets and len(record := file.read(16)) == 16:
            record += file.read(struct.unpack_from("<I", record, 8)[0])
            if out.tell() + len(record) > size:
                break
            out.write(record)
            taken += 1
    return taken
