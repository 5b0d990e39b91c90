"""Fragments of IPv4 and IPv6 to datagrams: copied, bounded in every respect, in capture time.

Linux: net/ipv4/ip_fragment.c, inet_fragment.c, net/ipv6/reassembly.c.
RFC 791 3.2, RFC 5722, RFC 8200 4.5.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from .csum import Buffer
from .snmp import Mib

IPFRAG_HIGH_THRESH = 4 << 20  # bytes of all datagrams under way, as Linux counts by default
IPFRAG_TIME_S = 30
IPFRAG_MAX_DATAGRAMS = 4096  # at a time
IPFRAG_MAX_DIST = 64  # at a time of one source
IPFRAG_MAX_PIECES = 1024  # of a datagram
IPFRAG_MAX_LENGTH = 65515  # bytes that any IP header leaves room for
IPFRAG_TRUESIZE = 128  # what a datagram costs besides its pieces
IPFRAG_PIECE = 32  # what a piece costs besides its bytes

INT64_MIN = -(1 << 63)


class FragKey(NamedTuple):
    """Whose fragment it is (T-20): also which VLANs and tunnels it came by."""

    ip: int
    saddr: bytes
    daddr: bytes
    id: int
    proto: int  # of IPv4; an IPv6 identification serves all
    vlans: int
    tunnel: int


TIMEOUT = {4: Mib.IP_REASMTIMEOUT, 6: Mib.IP6_REASMTIMEOUT}
OKS = {4: Mib.IP_REASMOKS, 6: Mib.IP6_REASMOKS}
FAILS = {4: Mib.IP_REASMFAILS, 6: Mib.IP6_REASMFAILS}


class Piece:
    """A run of bytes that lie together in the capture."""

    __slots__ = ("offset", "length", "data", "source", "file")

    def __init__(self, offset: int, length: int, data: bytes, source: int, file: int) -> None:
        self.offset = offset  # in the datagram
        self.length = length
        self.data = data
        self.source = source  # offset in the capture
        self.file = file  # number of the input

    @property
    def end(self) -> int:
        """Where the next one would begin."""
        return self.offset + self.length


class Datagram:
    """What is there of a datagram; `data` when it is whole."""

    __slots__ = (
        "key",
        "stamp_ns",
        "pieces",
        "used",
        "length",
        "truesize",
        "last",
        "protocol",
        "data",
    )

    def __init__(self, key: FragKey, stamp_ns: int) -> None:
        self.key = key
        self.stamp_ns = stamp_ns  # when it began
        self.pieces: list[Piece] = []  # in order of offset
        self.used = 0  # bytes here
        self.length = 0  # of the whole, as far as one can tell
        self.truesize = IPFRAG_TRUESIZE
        self.last = False  # its end is here
        self.protocol = 0  # what it carries, by its first fragment
        self.data = b""


class IpFrags:
    """All datagrams that are under way, the oldest first, and those of each source."""

    def __init__(self) -> None:
        self.datagrams: dict[FragKey, Datagram] = {}
        self.sources: dict[tuple[int, bytes], dict[FragKey, Datagram]] = {}
        self.mem = 0
        self.now_ns = INT64_MIN  # the largest time of a fragment
        self.file = 0  # number of the input at hand


def frag_unlink(frags: IpFrags, one: Datagram) -> None:
    """Take a datagram out of those that are under way."""
    source = one.key.ip, one.key.saddr
    del frags.datagrams[one.key]
    del frags.sources[source][one.key]
    if not frags.sources[source]:
        del frags.sources[source]
    frags.mem -= one.truesize


def frag_kill(frags: IpFrags, one: Datagram, mib: list[int]) -> None:
    """Give a datagram up."""
    mib[FAILS[one.key.ip]] += 1
    frag_unlink(frags, one)


def frag_expire(frags: IpFrags, mib: list[int]) -> None:
    """Give up the datagrams that began too long ago by the capture's clock."""
    while frags.datagrams:
        one = next(iter(frags.datagrams.values()))
        if frags.now_ns - one.stamp_ns <= IPFRAG_TIME_S * 1_000_000_000:
            break
        mib[TIMEOUT[one.key.ip]] += 1
        frag_kill(frags, one, mib)


def frag_create(frags: IpFrags, key: FragKey) -> Datagram:
    """A datagram begins."""
    one = Datagram(key, frags.now_ns)
    frags.datagrams[key] = one
    frags.sources.setdefault((key.ip, key.saddr), {})[key] = one
    frags.mem += one.truesize
    return one


def frag_find(frags: IpFrags, key: FragKey, mib: list[int]) -> Datagram:
    """The datagram that a fragment belongs to, maybe a new one.

    A source that has its share under way loses its oldest (T-07), and so do all when they are too
    many.
    """
    if key in frags.datagrams:
        return frags.datagrams[key]
    of_source = frags.sources.get((key.ip, key.saddr), {})
    if len(of_source) == IPFRAG_MAX_DIST:
        frag_kill(frags, next(iter(of_source.values())), mib)
    elif len(frags.datagrams) == IPFRAG_MAX_DATAGRAMS:
        frag_kill(frags, next(iter(frags.datagrams.values())), mib)
    return frag_create(frags, key)


def frag_runs(
    frags: IpFrags, inside: Datagram | None, pos: int, length: int, source: int
) -> list[tuple[int, int, int]]:
    """Where bytes lie in the captures: (length, offset, input) of each run that they consist of.

    They lie in a frame, at `source`, or at `pos` `inside` a datagram of fragments.
    """
    if inside is None:
        return [(length, source, frags.file)]
    runs = []
    for piece in inside.pieces:
        low, high = max(pos, piece.offset), min(pos + length, piece.end)
        if low < high:
            runs.append((high - low, piece.source + (low - piece.offset), piece.file))
    return runs


def frag_dup(one: Datagram, i: int, begin: int, end: int) -> bool:
    """True if bytes that overlap the i-th piece, and none before, are all here already.

    Linux takes that for a repetition. IPv6 has to abandon the datagram (RFC 5722) unless they
    begin and end where fragments did (RFC 8200 4.5).
    """
    pieces = one.pieces
    six = one.key.ip == 6
    if pieces[i].offset > begin or (six and pieces[i].offset != begin):
        return False
    to = pieces[i].end
    for piece in pieces[i + 1 :]:
        if to >= end or piece.offset != to:
            break
        to = piece.end
    return to == end or (to > end and not six)


def frag_queue(
    frags: IpFrags,
    one: Datagram,
    data: bytes,
    runs: list[tuple[int, int, int]],
    begin: int,
    more: bool,
    mib: list[int],
) -> int:
    """Put bytes that belong at `begin` into their datagram; -1 if that has to be given up."""
    end = begin + len(data)
    if end > IPFRAG_MAX_LENGTH:
        return -1
    if more:
        end &= ~7  # only the last may have an odd length
        if end > one.length:
            if one.last:
                return -1
            one.length = end
    else:
        if end < one.length or (one.last and end != one.length):
            return -1
        one.last = True
        one.length = end
    if end <= begin:
        return -1
    at = bisect_right(one.pieces, begin, key=_end)  # the first piece that ends behind `begin`
    if at < len(one.pieces) and one.pieces[at].offset < end:
        if frag_dup(one, at, begin, end):
            return 0
        if one.key.ip == 4:
            mib[Mib.IP_REASMOVERLAPS] += 1
        return -1
    fresh = []
    offset = begin
    for length, source, file in runs:
        length = min(length, end - offset)
        if length:
            piece = data[offset - begin : offset - begin + length]
            fresh.append(Piece(offset, length, piece, source, file))
            offset += length
    if len(one.pieces) + len(fresh) > IPFRAG_MAX_PIECES:
        return -1
    one.pieces[at:at] = fresh
    one.used += end - begin
    cost = end - begin + len(fresh) * IPFRAG_PIECE
    one.truesize += cost
    frags.mem += cost
    return 0


def _end(piece: Piece) -> int:
    return piece.end


def frag_reasm(frags: IpFrags, one: Datagram) -> None:
    """A datagram is whole: its bytes in order."""
    one.data = b"".join(piece.data for piece in one.pieces)
    frag_unlink(frags, one)


def ip_defrag(
    frags: IpFrags,
    key: FragKey,
    inside: Datagram | None,
    data: Buffer,
    pos: int,
    source: int,
    begin: int,
    length: int,
    more: bool,
    protocol: int,
    time_ns: int,
    clamped: bool,
    mib: list[int],
) -> Datagram | None:
    """Take a fragment.

    Parameters
    ----------
    key : FragKey
    inside : Datagram, itself made of fragments, whose `data` this is, or None
    data : buffer of bytes
    pos : int, where in data the fragment's payload is
    source : int, where it is in the capture, if it is not `inside` a datagram
    begin : int, where in the datagram it belongs
    length : int, its bytes
    more : bool, whether it is not the last
    protocol : int, what the datagram carries, if this is its first fragment
    time_ns, clamped : int and bool, time of the frame, and whether that is not to be believed
    mib : list of int, counters

    Returns
    -------
    Datagram if it is whole now, else None
    """
    if time_ns > frags.now_ns and not clamped:
        frags.now_ns = time_ns
    frag_expire(frags, mib)
    one = frag_find(frags, key, mib)
    if begin == 0:
        one.protocol = protocol
    runs = frag_runs(frags, inside, pos, length, source)
    if frag_queue(frags, one, bytes(data[pos : pos + length]), runs, begin, more, mib):
        frag_kill(frags, one, mib)
        return None
    if one.last and one.used == one.length:
        frag_reasm(frags, one)
        mib[OKS[key.ip]] += 1
        return one
    while frags.mem > IPFRAG_HIGH_THRESH:  # the oldest make room, and this one last of all
        frag_kill(frags, next(iter(frags.datagrams.values())), mib)
    return None
