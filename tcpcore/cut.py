"""Some packets of a capture as a capture of the same format, byte for byte.

Drafts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct

from tcpcore.pcap import RECORD_MAX, Input, PcapError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import BinaryIO

PIECE = 1 << 20  # bytes copied at once
RECORDS = {0xA1B2C3D4: 16, 0xA1B23C4D: 16, 0xA1B2CD34: 24}  # bytes of a record's header, by magic
SECTION = 0x0A0D0D0A
PACKETS = (2, 3, 6)  # types of blocks that hold one packet: obsolete, simple, enhanced
BYTE_ORDER_MAGIC = 0x1A2B3C4D


def cut(one: Input, wanted: Container[int], out: BinaryIO) -> int:
    """Copy the packets whose numbers are wanted, and all that is no packet.

    Of a pcapng every other block is copied, interfaces and names too; only a section that tells
    its length tells none afterwards.

    Parameters
    ----------
    one
        The capture, not yet open.
    wanted
        Numbers of packets as the column `packet` has them, from 1.
    out
        Where to write, in the format of the capture (not compressed).

    Returns
    -------
    int
        Packets written.

    Raises
    ------
    PcapError
        Where the capture is damaged: what is before it was written.
    OSError
        When it cannot be opened, or `out` not be written.
    """
    one.open()
    try:
        source = _Source(one)
        head = source.read(4)
        if len(head) < 4:
            raise PcapError(one.name, 0, "not a pcap or pcapng capture")
        if struct.unpack("<I", head)[0] == SECTION:
            return _blocks(source, head, wanted, out)
        for endian in "<>":
            header = RECORDS.get(struct.unpack(f"{endian}I", head)[0])
            if header is not None:
                return _records(source, head, endian, header, wanted, out)
        raise PcapError(one.name, 0, "not a pcap or pcapng capture")
    finally:
        one.close()


class _Source:
    """Bytes of a capture, as many as are asked for."""

    def __init__(self, one: Input) -> None:
        self._input = one
        self._room = memoryview(bytearray(PIECE))
        self._held = self._room[:0]
        self.offset = 0

    def read(self, count: int) -> bytes:
        """The next bytes; fewer only at the end."""
        parts = []
        while count:
            if not self._held:
                self._held = self._room[: self._input.readinto(self._room)]
                if not self._held:
                    break
            part = bytes(self._held[:count])
            self._held = self._held[count:]
            parts.append(part)
            count -= len(part)
            self.offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def need(self, count: int, what: str) -> bytes:
        """The next bytes, all of them."""
        start = self.offset
        data = self.read(count)
        if len(data) < count:
            raise self.damage(start, f"{what} is cut")
        return data

    def damage(self, offset: int, reason: str) -> PcapError:
        return PcapError(self._input.name, offset, reason)


def _records(
    source: _Source, head: bytes, endian: str, header: int, wanted: Container[int], out: BinaryIO
) -> int:
    out.write(head + source.need(20, "file header"))
    number = written = 0
    while True:
        start = source.offset
        record = source.read(header)
        if not record:
            return written
        if len(record) < header:
            raise source.damage(start, "record header is cut")
        (caplen,) = struct.unpack_from(f"{endian}I", record, 8)
        if caplen > RECORD_MAX:
            raise source.damage(start, f"record claims {caplen} bytes")
        data = source.need(caplen, "record")
        number += 1
        if number in wanted:
            out.write(record + data)
            written += 1


def _blocks(source: _Source, head: bytes, wanted: Container[int], out: BinaryIO) -> int:
    number = written = 0
    endian = "<"
    while head:
        start = source.offset - len(head)
        if len(head) < 4:
            raise source.damage(start, "block header is cut")
        head += source.need(4, "block header")
        if struct.unpack_from("<I", head)[0] == SECTION:
            head += source.need(4, "block")
            for endian in "<>":
                if struct.unpack_from(f"{endian}I", head, 8)[0] == BYTE_ORDER_MAGIC:
                    break
            else:
                raise source.damage(start, "section has no byte-order magic")
        kind, total = struct.unpack_from(f"{endian}II", head)
        if total < 12 or total < len(head) + 4 or total % 4:
            raise source.damage(start, f"block claims {total} bytes")
        if kind in PACKETS:
            if total > RECORD_MAX:
                raise source.damage(start, f"block claims {total} bytes")
            block = head + source.need(total - len(head), "block")
            number += 1
            if number in wanted:
                out.write(block)
                written += 1
        elif kind == SECTION:
            if not 28 <= total <= RECORD_MAX:
                raise source.damage(start, f"block claims {total} bytes")
            block = head + source.need(total - len(head), "block")
            out.write(block[:16] + b"\xff" * 8 + block[24:])
        else:
            out.write(head)
            left = total - len(head)
            while left:
                piece = source.need(min(left, PIECE), "block")
                out.write(piece)
                left -= len(piece)
        head = source.read(4)
    return written
