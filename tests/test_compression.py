"""Compressed captures: members and frames, cut and corrupt ones, what comes out before the end.

RFC 1952 (gzip), RFC 8878 (zstd), the lz4 frame format.
"""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import tracemalloc
import zlib

import capgen
import numpy as np
import pytest

import tcpcore
from tcpcore import pcap

ONE = capgen.conversation()
CAPTURE = capgen.pcap(ONE)


class Pipe:
    """Gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size))


def noise(size: int) -> bytes:
    return np.random.default_rng(7).bytes(size)


def unpacked(data: bytes, size: int = 1 << 20, room: int = 4096) -> tuple[bytes, str]:
    """What an input gives, to its end or its error."""
    one = pcap.Input(Pipe(data, size))
    one.open()
    out, buffer = bytearray(), memoryview(bytearray(room))
    try:
        while count := one.readinto(buffer):
            out += buffer[:count]
    except pcap.PcapError as error:
        assert error.offset == len(out)  # noqa: PT017
        return bytes(out), error.reason
    return bytes(out), ""


PLAIN = noise(50_000) + bytes(3_000_000) + noise(50_000)


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_gzip_members(size):
    """Several members, empty ones and zero padding too, are one stream."""
    members = [b"", PLAIN[:70_000], b"", PLAIN[70_000:], b""]
    packed = b"".join(gzip.compress(member) for member in members)
    assert unpacked(packed, size) == (PLAIN, "")
    assert unpacked(packed + bytes(1000), size) == (PLAIN, "")


def test_gzip_tiny_members():
    """Ten thousand members in one read do not cost the square of it."""
    packed = b"".join(gzip.compress(bytes((i & 0xFF,))) for i in range(10_000))
    assert unpacked(packed) == (bytes(i & 0xFF for i in range(10_000)), "")


@pytest.mark.parametrize("size", [1, 999, 1 << 20])
def test_gzip_cut(size):
    """All that a cut file has comes out, whatever the reads were."""
    packed = gzip.compress(PLAIN)
    for length in (2, 9, 11, 5000, len(packed) - 9, len(packed) - 1):
        out, reason = unpacked(packed[:length], size)
        assert out == zlib.decompressobj(wbits=31).decompress(packed[:length])
        assert "cut" in reason


@pytest.mark.parametrize("size", [1, 999, 1 << 20])
def test_gzip_corrupt(size):
    packed = bytearray(gzip.compress(PLAIN))
    packed[-6] ^= 1  # the checksum
    assert unpacked(bytes(packed), size) == (PLAIN, "gzip: incorrect data check")
    garbage = bytes(gzip.compress(PLAIN)) + b"garbage"
    assert unpacked(garbage, size) == (PLAIN, "gzip: what follows the compressed data is no gzip")


def test_gzip_corrupt_inside_is_the_same_for_any_read():
    packed = bytearray(gzip.compress(PLAIN))
    packed[20_000:20_100] = bytes(100)
    results = {unpacked(bytes(packed), size) for size in (1, 777, 1 << 20)}
    assert len(results) == 1
    out, reason = results.pop()
    assert PLAIN.startswith(out[:15_000])
    assert len(out) > 15_000
    assert reason.startswith("gzip: ")


def test_gzip_bomb_stays_small():
    """T-24: what comes out at once is bounded, however well it was packed."""
    packed = gzip.compress(bytes(64 << 20))
    one = pcap.Input(io.BytesIO(packed))
    one.open()
    room = memoryview(bytearray(4096))
    tracemalloc.start()
    try:
        for _ in range(200):
            one.readinto(room)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_extras(engine, name):
    if name == "zstd":
        pack = pytest.importorskip("zstandard").compress
    else:
        pack = pytest.importorskip("lz4.frame").compress
    packed = pack(PLAIN[:70_000]) + pack(PLAIN[70_000:])
    for size in (100, 1 << 20):
        assert unpacked(packed, size) == (PLAIN, "")
        out, reason = unpacked(packed[:-20], size)
        assert PLAIN.startswith(out)
        assert reason.startswith(f"{name}: ")
    found = tcpcore.replay(io.BytesIO(pack(CAPTURE)), engine=engine.ENGINE)
    assert found.summary["packets"] == len(ONE)
    assert name in repr(found)


@pytest.mark.parametrize(("name", "module"), [("zstd", "zstandard"), ("lz4", "lz4.frame")])
def test_extra_missing(engine, monkeypatch, name, module):
    magic = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}[name]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    found = tcpcore.replay(io.BytesIO(magic + bytes(100)), engine=engine.ENGINE)
    assert found.error is not None
    assert f"tcpcore[{name}]" in found.error.reason


def test_gzip_capture(engine):
    whole = tcpcore.replay(io.BytesIO(CAPTURE), packets=True, engine=engine.ENGINE)
    packed = io.BytesIO(gzip.compress(CAPTURE))
    found = tcpcore.replay(packed, packets=True, engine=engine.ENGINE)
    assert found.summary["files"] == whole.summary["files"]
    for name in whole.packets.names:
        assert found.packets[name].tobytes() == whole.packets[name].tobytes()
    assert "gzip" in repr(found)


def packers():
    yield "gzip", gzip.compress
    for name, module in (("zstd", "zstandard"), ("lz4", "lz4.frame")):
        try:
            yield name, importlib.import_module(module).compress
        except ImportError:
            continue


PACKERS = dict(packers())


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("several", [False, True])
def test_unpack_max(engine, name, several):
    """T-24: more than was allowed is damage there; what came before it counts."""
    packed = PACKERS[name](CAPTURE)
    sources = [io.BytesIO(packed), io.BytesIO(CAPTURE)] if several else io.BytesIO(packed)
    for limit in (len(CAPTURE), len(CAPTURE) + 1, None):
        found = tcpcore.replay(sources, unpack_max=limit, engine=engine.ENGINE)
        assert found.error is None
        sources = [io.BytesIO(packed), io.BytesIO(CAPTURE)] if several else io.BytesIO(packed)
    limit = len(CAPTURE) - 1
    for found in (
        tcpcore.replay(sources, unpack_max=limit, engine=engine.ENGINE),
        *tcpcore.replay_batches(io.BytesIO(packed), unpack_max=limit, engine=engine.ENGINE),
    ):
        assert len(found.errors) == 1
        assert found.error.reason == f"{name}: unpacks to more than {limit} bytes"
        assert found.error.offset == limit
        assert found.summary["files"][0]["packets"] == len(ONE) - 1
    with pytest.raises(ValueError, match="unpack_max"):
        tcpcore.replay(io.BytesIO(packed), unpack_max=0)


class Bomb(io.RawIOBase):
    """A gzip without an end: a capture of empty frames, and it never stops."""

    MEMBER = gzip.compress(bytes(16 << 20))

    def __init__(self) -> None:
        self.held = gzip.compress(capgen.pcap_header())
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, room) -> int:
        self.held = self.held or self.MEMBER
        count = min(len(room), len(self.held))
        room[:count] = self.held[:count]
        self.held = self.held[count:]
        self.given += count
        return count


def test_bomb_stops_at_the_cap(engine):
    """T-24: whatever a bomb would become, it ends at the cap, in bounded memory."""
    bomb = Bomb()
    cap = (64 if engine.ENGINE == "compiled" else 1) << 20
    tracemalloc.start()
    try:
        found = tcpcore.replay(bomb, unpack_max=cap, engine=engine.ENGINE)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert found.error.offset == cap
    assert bomb.given < 1 << 20


def test_zstd_window():
    """T-24: a frame that wants a window above 128 MiB is refused before it has the memory."""
    zstandard = pytest.importorskip("zstandard")
    wide = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    packed = packer.compress(CAPTURE) + packer.flush()
    out, reason = unpacked(packed)
    assert out == b""
    assert reason.startswith("zstd: ")
