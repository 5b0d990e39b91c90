"""Segments that are signed with a key which both ends know: TCP_MD5SIG.

Linux: tcp_md5_do_lookup, tcp_md5_do_add, tcp_v4_md5_hash_skb in net/ipv4/tcp_ipv4.c,
tcp_parse_auth_options in tcp_input.c.  RFC 2385; RFC 1321.
"""

from __future__ import annotations

import hashlib
import hmac
from errno import ENOENT, ENOMEM
from struct import Struct

from .tcp import TCPOPT_EOL, TCPOPT_NOP, Segment
from .wire import IPPROTO_TCP, TCP_HDR_LEN

TCPOPT_MD5SIG, TCPOPT_AO = 19, 29
TCPOLEN_MD5SIG = 18
TCPOLEN_MD5SIG_ALIGNED = 20
MD5_AT = 4  # where a digest stands behind the option's own place: padding, kind and length
MD5_DIGEST = 16
TCP_MD5SIG_MAXKEYLEN = 80
TCP_MD5SIG_KEYS_MAX = 963  # of one socket: what optmem_max, 128 KiB, has room for in Linux
OPTIONS_UNSEEN = 4  # no option of a key is so short
MD5_OPTION = bytes((TCPOPT_NOP, TCPOPT_NOP, TCPOPT_MD5SIG, TCPOLEN_MD5SIG)) + bytes(MD5_DIGEST)
_V4MAPPED = bytes(10) + b"\xff\xff"
_V4_PSEUDO = Struct(">4s4sBBH")
_V6_PSEUDO = Struct(">16s16sII")


class Md5SigKey:
    """Whose segments are signed with which secret; addresses of 16 bytes, IPv4 mapped."""

    __slots__ = ("addr", "prefixlen", "flags", "key")

    def __init__(self, addr: bytes, prefixlen: int, flags: int, key: bytes) -> None:
        self.addr = addr
        self.prefixlen = prefixlen  # of the 16 bytes
        self.flags = flags
        self.key = key


def md5(data: bytes) -> bytes:
    """MD5 of data."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def tcp_md5_do_lookup(keys: list[Md5SigKey], addr: bytes) -> Md5SigKey | None:
    """The key for a peer: that of the longest prefix, of equals the newest."""
    best = None
    number = int.from_bytes(addr, "big")
    v4 = addr.startswith(_V4MAPPED)
    for one in reversed(keys):
        if best is not None and one.prefixlen <= best.prefixlen:
            continue
        if one.addr.startswith(_V4MAPPED) == v4:
            other = number ^ int.from_bytes(one.addr, "big")
            if not other >> (128 - one.prefixlen):
                best = one
    return best


def tcp_md5_do_lookup_exact(
    keys: list[Md5SigKey], addr: bytes, prefixlen: int, flags: int
) -> Md5SigKey | None:
    """The key that was set for just this."""
    for one in keys:
        if (one.addr, one.prefixlen, one.flags) == (addr, prefixlen, flags):
            return one
    return None


def tcp_md5_do_add(
    keys: list[Md5SigKey], addr: bytes, prefixlen: int, flags: int, key: bytes
) -> int:
    """Set a key, or another secret of one that is there; 0 or -ENOMEM beyond the bound."""
    known = tcp_md5_do_lookup_exact(keys, addr, prefixlen, flags)
    if known is not None:
        known.key = key
        return 0
    if len(keys) >= TCP_MD5SIG_KEYS_MAX:
        return -ENOMEM
    keys.append(Md5SigKey(addr, prefixlen, flags, key))
    return 0


def tcp_md5_do_del(keys: list[Md5SigKey], addr: bytes, prefixlen: int, flags: int) -> int:
    """Forget a key; 0 or -ENOENT."""
    known = tcp_md5_do_lookup_exact(keys, addr, prefixlen, flags)
    if known is None:
        return -ENOENT
    keys.remove(known)
    return 0


def tcp_md5_hash(
    key: Md5SigKey, saddr: bytes, daddr: bytes, header: bytes, length: int, data: bytes
) -> bytes:
    """The signature of a segment (RFC 2385 2.0).

    Covered are the pseudo header, the header without options and checksum, the text, the secret.

    Parameters
    ----------
    key : Md5SigKey
    saddr, daddr : bytes, 16, IPv4 mapped
    header : bytes, 20 at least
    length : int, of header, options and text
    data : bytes, the text
    """
    if saddr.startswith(_V4MAPPED):
        pseudo = _V4_PSEUDO.pack(saddr[12:], daddr[12:], 0, IPPROTO_TCP, length & 0xFFFF)
    else:
        pseudo = _V6_PSEUDO.pack(saddr, daddr, length, IPPROTO_TCP)
    bare = header[:16] + bytes(2) + header[18:TCP_HDR_LEN]
    return md5(pseudo + bare + data + key.key)


def tcp_md5_verify(key: Md5SigKey, th: Segment, data: bytes, at: int) -> bool:
    """Whether the digest at `at` of a packet is right, in a time that tells nothing of it."""
    start = th.transport_header
    text = start + 4 * th.doff
    made = tcp_md5_hash(
        key,
        th.saddr,
        th.daddr,
        data[start : start + TCP_HDR_LEN],
        4 * th.doff + th.payload_len,
        data[text : text + th.payload_len],
    )
    return hmac.compare_digest(made, data[at : at + MD5_DIGEST])


def tcp_parse_auth_options(data: bytes, th: Segment) -> int:
    """Where a segment's digest lies: 0 for none, -1 for options to be dropped for.

    Those lie of their lengths, sign twice, or sign as nobody here can (RFC 5925).

    Deviation: as Linux, from 9293:MUST-7, a segment whose options lie is dropped without a word;
    the last four bytes may say what they will.
    """
    at = th.transport_header + TCP_HDR_LEN
    end = th.transport_header + 4 * th.doff
    found = 0
    while at + OPTIONS_UNSEEN < end and data[at] != TCPOPT_EOL:
        kind = data[at]
        if kind == TCPOPT_NOP:
            at += 1
            continue
        size = data[at + 1]
        if size < 2 or at + size > end or kind == TCPOPT_AO:
            return -1
        if kind == TCPOPT_MD5SIG:
            if found or size != TCPOLEN_MD5SIG:
                return -1
            found = at + 2
        at += size
    return found
