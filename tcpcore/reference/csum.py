"""The Internet checksum: ones' complement sums of 16-bit words in network order.

Linux: lib/checksum.c, include/net/checksum.h.  RFC 1071; RFC 791 3.1; RFC 9293 3.1 (pseudo header).
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def csum_partial(data: Buffer, start: int = 0) -> int:
    """Add data, as 16-bit words and an odd last byte padded by zero, to a sum.

    Parameters
    ----------
    data : buffer of bytes
    start : int, a sum that is not folded, or 0

    Returns
    -------
    int : a sum that is not folded; 0 only when start and every byte are 0
    """
    # 2**16 is 1 modulo 0xFFFF, so the number that the bytes spell has the remainder of the sum of
    # its words; a remainder of 0 is 0xFFFF unless every byte is 0, as carries end around.
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    return start + (number % 0xFFFF or (0xFFFF if number else 0))


def csum_fold(csum: int) -> int:
    """Fold a sum to 16 bits: 0xFFFF over data that include their own checksum.

    Deviation: Linux's complements too; here the two functions below do.
    """
    while csum >> 16:
        csum = (csum & 0xFFFF) + (csum >> 16)
    return csum


def csum_tcpudp_magic(saddr: bytes, daddr: bytes, length: int, proto: int, csum: int) -> int:
    """Complete the sum of a segment by its pseudo header, of IPv4 and IPv6 alike.

    Parameters
    ----------
    saddr, daddr : bytes, 16 each, IPv4 mapped
    length : int, bytes of the segment, header included
    proto : int, 6 for TCP
    csum : int, sum of the segment, folded or not

    Returns
    -------
    int : the checksum; 0 when the segment includes the right one
    """
    # The prefix ::ffff: of a mapped address adds 0xFFFF, which is ones' complement's other zero.
    return csum_fold(csum_partial(saddr + daddr, csum + length + proto)) ^ 0xFFFF


def ip_fast_csum(header: Buffer) -> int:
    """Sum an IPv4 header with its options: its checksum, 0 when it includes the right one."""
    return csum_fold(csum_partial(header)) ^ 0xFFFF
