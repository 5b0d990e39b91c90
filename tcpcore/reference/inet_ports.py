"""Who is at which port: binding, the search for one, and who takes a segment.

Linux: inet_csk_get_port in net/ipv4/inet_connection_sock.c, inet_hashtables.c.  RFC 6056 3.3.4.
"""

from __future__ import annotations

from errno import EADDRINUSE, EADDRNOTAVAIL
from typing import Any

from .netns import Netns, get_random_u32_below
from .secure_seq import secure_port
from .sock import (
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    TcpSock,
    TimewaitSock,
)
from .tcp import TCP_LISTEN
from .timer import NSEC_PER_SEC

ANY4 = bytes(10) + b"\xff\xff" + bytes(4)
ANY6 = bytes(16)


def is_any(addr: bytes) -> bool:
    return addr in (b"", ANY4, ANY6)


def ehash_key(sk: Any) -> tuple[bytes, int, bytes, int]:
    return sk.saddr, sk.sport, sk.daddr, sk.dport


def inet_ehash_insert(net: Netns, sk: Any) -> None:
    net.established[ehash_key(sk)] = sk


def inet_unhash(net: Netns, sk: Any) -> None:
    """Forget whoever it is, if it is him who is known by his 4-tuple."""
    if net.established.get(ehash_key(sk)) is sk:
        del net.established[ehash_key(sk)]


def inet_lookup_listener(net: Netns, daddr: bytes, dport: int) -> TcpSock | None:
    """The listener that suits best: on this very address before one on any, port before none."""
    best, score = None, 0
    for port in (dport, 0):
        for sk in net.listening.get(port, ()):
            if is_any(sk.saddr):
                if is_only(sk, 6 if daddr.startswith(ANY4[:12]) else 4):
                    continue
                value = 2 if port else 1
            elif sk.saddr == daddr:
                value = 3
            else:
                continue
            if value > score:
                best, score = sk, value
    return best


def is_only(sk: Any, version: int) -> bool:
    """True if somebody is there for one version of IP alone (IPV6_V6ONLY, or his address)."""
    four: bool = sk.ip == 4 or sk.saddr.startswith(ANY4[:12])
    if version == 4:
        return four
    return not four and (not is_any(sk.saddr) or bool(sk.ipv6only))


def bind_conflict(sk: TcpSock, other: Any) -> bool:
    """True if two cannot be at one port (Linux's rules of SO_REUSEADDR and SO_REUSEPORT)."""
    if (is_only(sk, 4) and is_only(other, 6)) or (is_only(sk, 6) and is_only(other, 4)):
        return False
    if not is_any(sk.saddr) and not is_any(other.saddr) and sk.saddr != other.saddr:
        return False
    if isinstance(other, TimewaitSock):
        return not sk.reuse
    listens = other.tcb.state == TCP_LISTEN
    if sk.reuse and other.reuse and not listens:
        return False
    return not (sk.reuseport and other.reuseport)


def port_conflict(net: Netns, sk: TcpSock, port: int) -> bool:
    """True if somebody is at a port, 0: listens at all of them, who does not share it."""
    others = (net.bound if port else net.listening).get(port, ())
    return any(other is not sk and bind_conflict(sk, other) for other in others)


def inet_csk_get_port(net: Netns, sk: TcpSock, port: int) -> int:
    """Bind to a port, or to a free one for 0; 0 or a negative errno."""
    if port:
        if port_conflict(net, sk, port):
            return -EADDRINUSE
    else:
        low, high = net.sysctl.ip_local_port_range
        count = high - low + 1
        start = get_random_u32_below(net, count) | 1
        tries = [low + (start + 2 * i) % (count & ~1) for i in range(count // 2)]
        tries += [low + (start + 1 + 2 * i) % (count & ~1) for i in range(count // 2)]
        for port in tries:
            if not net.bound.get(port):
                break
        else:
            return -EADDRINUSE
    sk.sport = port
    sk.bound = True
    net.bound.setdefault(port, []).append(sk)
    return 0


def inet_put_port(net: Netns, sk: Any) -> None:
    """Give a port back."""
    if sk.bound:
        owners = net.bound[sk.sport]
        owners.remove(sk)
        if not owners:
            del net.bound[sk.sport]
        sk.bound = False


def inet_inherit_port(net: Netns, sk: Any) -> None:
    """Share the port of the listener, or of what it is a rest of."""
    net.bound.setdefault(sk.sport, []).append(sk)
    sk.bound = True


def check_established(net: Netns, sk: TcpSock, port: int) -> bool:
    """True if the 4-tuple is free: nobody has it, or what is in TIME-WAIT may be replaced."""
    other = request_or_sock(net, sk.saddr, port, sk.daddr, sk.dport)
    if other is None:
        return True
    if not isinstance(other, TimewaitSock) or not other.tstamp_ok:
        return False
    return tw_reuse(net, sk, other)


def tw_reuse(net: Netns, sk: TcpSock, tw: TimewaitSock) -> bool:
    """A connection in TIME-WAIT for over a second, with time stamps, may begin again (RFC 6191)."""
    mode = net.sysctl.tcp_tw_reuse
    loopback = tw.daddr.startswith(ANY4[:12]) and tw.daddr[12] == 127
    if not mode or (mode == 2 and not loopback):
        return False
    if net.now_ns // NSEC_PER_SEC - tw.ts_recent_stamp <= 1:
        return False
    sk.write_seq = (tw.snd_nxt + 65535 + 2) & 0xFFFFFFFF or 1
    sk.tcb.ts_recent = tw.ts_recent
    sk.ts_recent_stamp_ns = tw.ts_recent_stamp * NSEC_PER_SEC
    sk.req = tw  # to be ended once the place is taken
    return True


def inet_hash_connect(net: Netns, sk: TcpSock) -> int:
    """Find a port for a connection and enter it; 0 or -EADDRNOTAVAIL (RFC 6056 3.3.4)."""
    if sk.sport:
        if not check_established(net, sk, sk.sport):
            return -EADDRNOTAVAIL
        inet_ehash_insert(net, sk)
        return 0
    low, high = net.sysctl.ip_local_port_range
    count = high - low + 1
    if count > 1:
        count &= ~1
    hashed = secure_port(net.key, sk.saddr, sk.daddr, sk.dport)
    index = hashed & 255
    offset = (net.perturb[index] + (hashed >> 32)) % count & ~1
    for parity in (0, 1):
        for i in range(0, count, 2):
            port = low + (offset + parity + i) % count
            owners = net.bound.get(port, ())
            if any(
                owner.userlocks & SOCK_BINDPORT_LOCK
                for owner in owners
                if isinstance(owner, TcpSock)
            ):
                continue  # somebody asked for this very port
            if not check_established(net, sk, port):
                continue
            net.perturb[index] += i + 2
            sk.sport = port
            inet_inherit_port(net, sk)
            inet_ehash_insert(net, sk)
            return 0
    return -EADDRNOTAVAIL


def bind_unlock(sk: TcpSock) -> None:
    """Forget what the caller did not ask for himself."""
    if not sk.userlocks & SOCK_BINDADDR_LOCK:
        sk.saddr = b""


def request_or_sock(net: Netns, saddr: bytes, sport: int, daddr: bytes, dport: int) -> Any:
    """Whoever has a 4-tuple, ours first: TcpSock, RequestSock, TimewaitSock or None."""
    return net.established.get((saddr, sport, daddr, dport))
