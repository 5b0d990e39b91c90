"""Captures that are written: read back byte for byte, and refused where they make no sense."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

import tcpcore


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Types and bodies of a pcapng's blocks."""
    found = []
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, at + size - 4) == (size,)
        found.append((kind, data[at + 8 : at + size - 4]))
        at += size
    return found


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 1499, 65535])
def test_frames(size: int) -> None:
    file = io.BytesIO()
    frame = bytes(range(256)) * 256
    with tcpcore.PcapWriter(file) as writer:
        writer.write(frame[:size], 5_000_000_007)
    head, interface, packet = blocks(file.getvalue())
    assert [kind for kind, _ in (head, interface, packet)] == [0x0A0D0D0A, 1, 6]
    number, high, low, captured, length = struct.unpack_from("<5I", packet[1])
    assert (number, high << 32 | low, captured, length) == (0, 5_000_000_007, size, size)
    assert packet[1][20 : 20 + size] == frame[:size]


def test_interfaces(tmp_path: Path) -> None:
    path = tmp_path / "two.pcapng"
    with tcpcore.PcapWriter(path) as writer:
        assert writer.interface("ethernet", 1) == 0
        assert writer.interface("x" * 300) == 1
        writer.write(bytes(60), 1, 0)
        writer.write(b"\x45" + bytes(39), 2, 1)
        with pytest.raises(ValueError, match="no interface 2"):
            writer.write(b"", 3, 2)
    writer.close()
    packets = tcpcore.replay(path, packets=True, engine="reference").packets
    assert packets["interface"].tolist() == [0, 1]
    assert packets["time_ns"].tolist() == [1, 2]


def test_empty() -> None:
    file = io.BytesIO()
    tcpcore.PcapWriter(file, linktype=1).close()
    assert not file.closed
    assert [kind for kind, _ in blocks(file.getvalue())] == [0x0A0D0D0A, 1]
