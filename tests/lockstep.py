"""Seeded random traffic, and everything an engine tells of it, to hold two engines against.

The traffic is what a tap may see at worst: any order, any flags, numbers about to wrap, clocks that
go back, frames that are cut, wrong or no TCP at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import capgen
from capgen import ACK, FIN, PSH, RST, SEC, SYN, URG

from tcpcore.columns import CONFLICTS, CONNECTIONS, PACKETS

CONNECTION_NAMES = [column.name for column in CONNECTIONS if column.name not in CONFLICTS]
PACKET_NAMES = [column.name for column in PACKETS]

# Of the pcapng captures: link type, if_tsresol, if_tsoffset. Times of some do not fit 64 bits.
INTERFACES = (
    (capgen.ETHERNET, 9, None),
    (capgen.ETHERNET, 0, None),
    (capgen.ETHERNET, 0x80 | 30, -5),
    (147, 9, 100),
)

Record = tuple[int, bytes, int]  # time in ns, data captured, length on the wire

# Pairs of hosts: two of IPv4, one of IPv6, and one of IPv6 whose addresses look like IPv4's.
HOSTS = (
    ("10.0.0.1", "10.0.0.2"),
    ("10.0.0.2", "192.0.2.1"),
    ("2001:db8::1", "2001:db8::2"),
    ("::ffff:10.0.0.1", "::ffff:10.0.0.2"),
)
ODD_FLAGS = (0, FIN, SYN | FIN, SYN | RST, PSH, URG, 0xFFF, SYN | ACK | RST, FIN | RST | ACK)
# Frames that are no segment, or not plainly one.
STRANGERS = (
    *(b"", b"\x45", bytes(14), bytes(60), b"\xff" * 80),
    *(capgen.ethernet(bytes(40), kind) for kind in (0x8847, 0x8863, 0x0806, 0x0040)),
    *(capgen.ethernet(capgen.ipv4(bytes(24), proto=n), 0x0800) for n in (1, 4, 17, 41, 47)),
    *(
        capgen.ethernet(
            capgen.ipv4(b"\0\0" + port.to_bytes(2, "big") + bytes(20), proto=17), 0x0800
        )
        for port in (4789, 6081, 2152, 3544)
    ),
    capgen.ethernet(capgen.ipv4(b"\0\0\x88\xbe" + bytes(20), proto=47), 0x0800),
    capgen.ethernet(capgen.packet(), 0x0800, (0x8100,) * 9),
    *(
        capgen.ethernet(
            capgen.packet(*HOSTS[2], ip={"headers": [(kind, capgen.extension(size))]}), 0x86DD
        )
        for kind, size in ((0, 8), (43, 16), (44, 8), (51, 16), (60, 2040), (44, 8))
    ),
    capgen.ethernet(capgen.ipv6(bytes(8), proto=60, length=8), 0x86DD),
)


class Talk:
    """One connection as its ends see it, and how the tap sees it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hosts = rng.choice(HOSTS)
        ports = rng.choice((40000, 40001, 40002)), rng.choice((80, 443))
        if rng.random() < 0.02:
            ports = (80, 80)
        self.ends = ((*self.hosts, *ports), (*self.hosts[::-1], *ports[::-1]))
        near = (1 << 32) - rng.randrange(1, 5000)
        self.seq = [rng.choice((near, rng.randrange(1 << 32))) for _ in range(2)]
        self.stamp = [rng.choice((near, rng.randrange(1 << 32))) for _ in range(2)]
        self.stamps = rng.random() < 0.5
        self.window = [rng.choice((0, 1, 512, 8192, 65535)) for _ in range(2)]
        self.tags = rng.choice(((), (), (), (0x8100,), (0x88A8, 0x8100)))
        self.wrapped = rng.choice((0, 0, 0, 0, 0.05, 1))  # how much of it goes through tunnels
        self.broken = rng.choice((0, 0, 0, 0, 0.05, 0.5))  # how much of it comes in fragments
        self.sent: list[bytes] = []

    def pieces(self, ip: bytes) -> Iterable[bytes]:
        """A packet in fragments: some late, lost, twice, or over one another."""
        rng = self.rng
        size = len(ip) - (40 if ip[0] >> 4 == 6 else 20)
        places = range(8, max(size, 9), 8)
        cuts = sorted(rng.sample(places, min(len(places), rng.choice((1, 1, 2, 3, 9)))))
        number = rng.randrange(4)
        found = capgen.fragments(ip, *cuts, number=number)
        kind = rng.random()
        if kind < 0.3:
            rng.shuffle(found)
        elif kind < 0.4:
            found.insert(rng.randrange(len(found)), rng.choice(found))
        elif kind < 0.5:
            found.pop(rng.randrange(len(found)))
        elif kind < 0.6 and ip[0] >> 4 in (4, 6) and size > 16:
            head = ip[: 40 if ip[0] >> 4 == 6 else 20]
            begin = rng.choice(places)
            piece = capgen.fragment(head, bytes(rng.choice((0, 8, 24, 40))), begin, True)
            found.insert(rng.randrange(len(found)), piece)
        for piece in found:
            if rng.random() < 0.2:
                piece = capgen.ipv4(piece, proto=41 if piece[0] >> 4 == 6 else 4)
                if rng.random() < 0.5 and len(piece) > 40:
                    for part in capgen.fragments(piece, 24, number=rng.randrange(4)):
                        yield capgen.frame_of(part)
                    continue
            yield capgen.frame_of(piece)

    def options(self, side: int, flags: int) -> bytes:
        rng, out = self.rng, b""
        if flags & SYN:
            if rng.random() < 0.9:
                out += capgen.mss(rng.choice((0, 536, 1460, 65535)))
            if rng.random() < 0.7:
                out += capgen.NOP + capgen.wscale(rng.choice((0, 2, 7, 14, 15, 255)))
            if rng.random() < 0.7:
                out += capgen.SACK_PERM
        if self.stamps and rng.random() < 0.97:
            self.stamp[side] += rng.randrange(20)
            late = rng.choice((0, 0, 0, 0, 0, 0, 30, 1 << 31))
            out += capgen.timestamp(self.stamp[side] - late, self.stamp[1 - side])
        if rng.random() < 0.03:
            out += rng.randbytes(rng.randrange(1, 12))
        return out[:40]

    def send(self, side: int, flags: int, size: int = 0, back: int = 0) -> Iterable[bytes]:
        """A segment of one end, `back` bytes before its place; lost, twice, late or damaged."""
        rng = self.rng
        seq, ack = self.seq[side] - back, self.seq[1 - side] if flags & ACK else 0
        if rng.random() < 0.03:
            seq += rng.choice((-1, 1, 1 << 20, -(1 << 20), 1 << 31, 3000, -70000))
        if rng.random() < 0.03:
            ack += rng.choice((-1, 1, 1 << 20, -(1 << 20), 1 << 31, 3000, -70000))
        if rng.random() < 0.02:
            flags = rng.choice(ODD_FLAGS)
        if rng.random() < 0.05:
            self.window[side] = rng.choice((0, 1, 512, 65535))
        fields: dict[str, Any] = {
            "seq": seq,
            "ack": ack,
            "flags": flags,
            "window": self.window[side],
            "options": self.options(side, flags),
            "payload": bytes(size),
        }
        if rng.random() < 0.03:
            fields["flags"] = flags | URG
            fields["urgent"] = rng.choice((0, 1, 2, 50, 1400, 65535))
        if rng.random() < 0.03:
            fields["csum"] = rng.randrange(1 << 16)
        if rng.random() < 0.01:
            fields["doff"] = rng.randrange(16)
        if rng.random() < 0.03 and ":" not in self.hosts[0]:
            wrong = rng.choice(("csum", "total", "fragment", "ihl"))
            fields["ip"] = {wrong: rng.randrange(16 if wrong == "ihl" else 1 << 16)}
        self.seq[side] += max(size - back, 0) + (flags & SYN != 0) + (flags & FIN != 0)
        ip = capgen.packet(*self.ends[side], **fields)
        frame = capgen.ethernet(ip, 0x86DD if ":" in self.hosts[0] else 0x0800, self.tags)
        if rng.random() < self.wrapped:
            frame = rng.choice(list(capgen.tunnels(ip).values()))
            ip = frame[14:] if frame[12:14] == b"\x08\0" else ip
        if rng.random() < self.broken:
            yield from self.pieces(ip)
            return
        if rng.random() < 0.03:
            frame += bytes(rng.randrange(1, 20))  # padding
        if rng.random() >= 0.05:
            yield frame
        if rng.random() < 0.05:
            yield frame
        if self.sent and rng.random() < 0.03:
            yield rng.choice(self.sent)
        self.sent.append(frame)

    def frames(self) -> Iterable[bytes]:
        """What the tap sees, from the first segment to the last."""
        rng = self.rng
        opening = rng.choice(("plain", "plain", "plain", "crossed", "split", "synack", "middle"))
        steps = {
            "plain": ((0, SYN), (1, SYN | ACK), (0, ACK)),
            "crossed": ((0, SYN), (1, SYN), (0, SYN | ACK), (1, SYN | ACK)),
            "split": ((0, SYN), (1, ACK), (1, SYN), (0, SYN | ACK), (1, ACK)),
            "synack": ((1, SYN | ACK), (0, SYN), (0, ACK)),
            "middle": (),
        }[opening]
        for side, flags in steps:
            if flags == SYN | ACK and opening == "crossed":
                self.seq[side] -= 1  # it repeats the SYN
            yield from self.send(side, flags, rng.choice((0, 0, 0, 0, 0, 0, 9)))
            if rng.random() < 0.05:
                yield from self.send(1 - side, RST | ACK)
        for _ in range(rng.randrange(12)):
            side, kind = rng.randrange(2), rng.random()
            if kind < 0.5:
                yield from self.send(side, PSH | ACK, rng.choice((1, 7, 100, 1400)))
            elif kind < 0.8:
                yield from self.send(side, ACK)
            elif kind < 0.86:
                yield from self.send(side, ACK, 50, back=rng.choice((1, 30, 50, 200)))
            elif kind < 0.9:
                yield from self.send(side, ACK, rng.randrange(2), back=1)  # keepalive
            elif kind < 0.94:
                self.seq[side] += rng.choice((100, 1400, 1 << 22, 3 << 30))  # a hole of the tap
            elif kind < 0.96:
                yield from self.send(side, SYN, back=rng.choice((0, 1, 500)))
        if rng.random() < 0.2:
            yield from self.send(rng.randrange(2), rng.choice((RST, RST | ACK)))
        elif rng.random() < 0.8:
            first = rng.randrange(2)
            steps = ((first, FIN | ACK), (1 - first, ACK), (1 - first, FIN | ACK), (first, ACK))
            if rng.random() < 0.3:
                self.seq[first] += 1
                ack_late = ((first, FIN | ACK), (1 - first, FIN | ACK), (first, ACK))
                steps = (*ack_late, (1 - first, ACK))
                self.seq[first] -= 1
            for side, flags in steps[: rng.randrange(1, 5)]:
                yield from self.send(side, flags, rng.choice((0, 0, 20)))


def traffic(seed: int, talks: int = 30) -> list[Record]:
    """Frames of many connections, interleaved."""
    rng = random.Random(seed)
    now = rng.choice((0, SEC, 1_700_000_000 * SEC))
    open_talks: list[list[bytes]] = []
    records: list[Record] = []
    while talks or open_talks:
        if talks and (not open_talks or rng.random() < 0.2):
            talks -= 1
            frames = list(Talk(rng).frames())
            for i in range(1, len(frames)):
                if rng.random() < 0.04:
                    frames[i - 1 : i + 1] = frames[i - 1 : i + 1][::-1]
            open_talks.append(frames)
        chosen = rng.choice(open_talks)
        if not chosen:
            open_talks.remove(chosen)
            continue
        data = chosen.pop(0)
        if rng.random() < 0.02:
            data = rng.choice((rng.randbytes(rng.randrange(100)), *STRANGERS))
        wirelen = len(data)
        if rng.random() < 0.02:
            wirelen += rng.randrange(2000)
        if rng.random() < 0.03:
            data = data[: rng.randrange(len(data) + 1)]
        now += rng.choice((0, 1000, 20_000, 1_000_000, 50_000_000, SEC))
        if rng.random() < 0.01:
            now += rng.choice((-2 * SEC, 300 * SEC, 30 * 86400 * SEC))
        now = max(now, 0)
        records.append((now, data, wirelen))
    return records


def capture(seed: int, talks: int = 30) -> bytes:
    """The same as a capture, of a format that the seed picks."""
    records = traffic(seed, talks)
    endian = "<>"[seed & 1]
    fmt = (*capgen.PCAP_FORMATS, "pcapng")[seed // 2 % 4]
    if fmt == "pcapng":
        rng = random.Random(seed)
        out = capgen.section(endian) + b"".join(
            capgen.interface(linktype, resolution=resolution, offset_s=offset_s, endian=endian)
            for linktype, resolution, offset_s in INTERFACES
        )
        for time_ns, data, wirelen in records:
            number = rng.choice((0, 0, 0, 0, 0, 0, 0, 0, *range(len(INTERFACES))))
            out += capgen.enhanced(time_ns, data, wirelen, number=number, endian=endian)
        return out
    return capgen.pcap(records, fmt=fmt, endian=endian)


def mutated(data: bytes, seed: int) -> bytes:
    """A capture with some of its bytes changed, left out or doubled."""
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.randrange(1, 40)):
        at = rng.randrange(len(out))
        kind = rng.random()
        if kind < 0.9:
            out[at] = rng.choice((0, 255, 1 << rng.randrange(8), rng.randrange(256)))
        elif kind < 0.95:
            del out[at : at + rng.randrange(1, 9)]
        else:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
    return bytes(out)


def feed(
    conntrack: Any, data: bytes, chunk: int = 1 << 16, after: Callable[[], None] = lambda: None
) -> None:
    """Give a capture to an engine `chunk` bytes at a time, as a reader does; call `after` each."""
    buffer = bytearray()
    at = 0
    while not conntrack.done:
        piece = data[at : at + chunk]
        at += len(piece)
        buffer += piece
        used = conntrack.feed(bytes(buffer), len(buffer)) if buffer else 0
        del buffer[:used]
        after()
        if not piece and not conntrack.done:
            conntrack.end(len(buffer))
            return


def rows(got: tuple[int, dict[str, Any]]) -> dict[str, bytes]:
    """Columns as bytes, which compare."""
    count, columns = got
    return {"rows": count.to_bytes(8, "little")} | {k: bytes(v) for k, v in columns.items()}


def by_row(told: dict[str, bytes]) -> list[dict[str, bytes]]:
    """Columns turned into rows."""
    count = int.from_bytes(told["rows"], "little")
    widths = {name: len(told[name]) // count for name in told if name != "rows"} if count else {}
    return [
        {name: told[name][i * width : (i + 1) * width] for name, width in widths.items()}
        for i in range(count)
    ]


def outcome(
    engine: ModuleType, captures: Iterable[bytes], chunk: int = 1 << 16, **options: Any
) -> dict[str, Any]:
    """Everything that an engine tells of captures that are one input."""
    conntrack = engine.Conntrack(packets=True, **{"analysis": True} | options)
    return told_of(conntrack, captures, chunk)


def told_of(
    conntrack: Any,
    captures: Iterable[bytes],
    chunk: int = 1 << 16,
    after: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything that a new Conntrack tells of captures that are one input; `after` is called with
    the number of each."""
    told: dict[str, Any] = {}
    for number, data in enumerate(captures):
        conntrack.begin(number)
        feed(conntrack, data, chunk)
        told[f"capture {number}"] = conntrack.capture()
        told[f"error {number}"] = conntrack.error
        after(number)
    told["connections"] = rows(conntrack.connections(CONNECTION_NAMES, True))
    told["packets"] = rows(conntrack.packets(PACKET_NAMES))
    told["summary"] = conntrack.summary()
    return told


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare two outcomes; what differs is named, and where in a column it first does."""
    assert one.keys() == other.keys()
    for part, told in one.items():
        if not isinstance(told, dict):
            assert told == other[part], part
            continue
        assert told.keys() == other[part].keys(), part
        for name, value in told.items():
            if value != other[part][name] and isinstance(value, bytes):
                pairs = enumerate(zip(value, other[part][name], strict=False))
                at = next((i for i, (x, y) in pairs if x != y), None)
                count = int.from_bytes(told["rows"], "little")
                width = len(value) // count if count else 0
                row = at // width if at is not None and width else None
                raise AssertionError(f"{part}: column {name} differs first in row {row}")
            assert value == other[part][name], f"{part}: {name}"


class Nets:
    """One host in each engine: every call goes to all, and all have to answer alike."""

    def __init__(self, makers: Iterable[Callable[[bytes], Any]], key: bytes) -> None:
        self.nets = [make(key) for make in makers]
        self.open: list[int] = []

    def __getattr__(self, name: str) -> Any:
        methods = [getattr(net, name) for net in self.nets]

        def call(*args: Any, **more: Any) -> Any:
            answers = []
            for method in methods:
                try:
                    answers.append(method(*args, **more))
                except OSError as error:
                    answers.append(error.errno)
            assert answers[1:] == answers[:-1], f"{name}: {differing(answers)}"
            return answers[0]

        return call


def differing(answers: list[Any]) -> str:
    """What two engines said, as far as it is not the same."""
    one, other = answers
    if isinstance(one, dict) and isinstance(other, dict):
        return str({key: (one[key], other.get(key)) for key in one if one[key] != other.get(key)})
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return str([(i, a, b) for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b])
    return f"{one!r:.300} or {other!r:.300}"
