"""An endpoint's whole state: clock, timers, tables, addresses, keys, knobs, what waits to leave.

Linux: include/net/net_namespace.h, netns/ipv4.h.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from .net import Net
from .secure_seq import siphash
from .snmp import Mib
from .sock import TcpSock, TimewaitSock
from .tcp_md5 import Md5SigKey, tcp_md5_do_lookup
from .timer import Timer, Timers, timer_del, timer_mod

TYPE_CHECKING = False
LOOPBACK_MTU = 65536


@dataclass(slots=True)
class Sysctl:
    """The knobs of one stack by their Linux names, with Linux's defaults, in Linux's units."""

    ip_default_ttl: int = 64
    ip_local_port_range: tuple[int, int] = (32768, 60999)
    ip_no_pmtu_disc: int = 0
    icmp_ratelimit: int = 1000
    min_pmtu: int = 552
    mtu_expires: int = 600
    rmem_max: int = 4194304
    somaxconn: int = 4096
    tcp_abort_on_overflow: int = 0
    tcp_adv_win_scale: int = 1
    tcp_autocorking: int = 1
    tcp_base_mss: int = 1024
    tcp_challenge_ack_limit: int = 0x7FFFFFFF
    tcp_comp_sack_delay_ns: int = 1000000
    tcp_comp_sack_nr: int = 44
    tcp_comp_sack_rtt_percent: int = 33
    tcp_comp_sack_slack_ns: int = 10000
    tcp_congestion_control: str = "cubic"
    tcp_early_retrans: int = 3
    tcp_ecn: int = 2
    tcp_ecn_fallback: int = 1
    tcp_fin_timeout: int = 60
    tcp_frto: int = 2
    tcp_invalid_ratelimit: int = 500
    tcp_keepalive_intvl: int = 75
    tcp_keepalive_probes: int = 9
    tcp_keepalive_time: int = 7200
    tcp_limit_output_bytes: int = 4194304
    tcp_max_orphans: int = 65536
    tcp_max_reordering: int = 300
    tcp_max_syn_backlog: int = 4096
    tcp_max_tw_buckets: int = 65536
    tcp_min_snd_mss: int = 48
    tcp_min_tso_segs: int = 2
    tcp_moderate_rcvbuf: int = 1
    tcp_notsent_lowat: int = 0xFFFFFFFF
    tcp_orphan_retries: int = 0
    tcp_recovery: int = 1
    tcp_reordering: int = 3
    tcp_retries1: int = 3
    tcp_retries2: int = 15
    tcp_rfc1337: int = 0
    tcp_rmem: tuple[int, int, int] = (4096, 131072, 33554432)
    tcp_rto_max_ms: int = 120000
    tcp_rto_min_us: int = 200000
    tcp_sack: int = 1
    tcp_dsack: int = 1
    tcp_shrink_window: int = 0
    tcp_slow_start_after_idle: int = 1
    tcp_stdurg: int = 0
    tcp_syn_linear_timeouts: int = 4
    tcp_syn_retries: int = 6
    tcp_synack_retries: int = 5
    tcp_syncookies: int = 1
    tcp_timestamps: int = 1
    tcp_tso_win_divisor: int = 3
    tcp_tw_reuse: int = 2
    tcp_window_scaling: int = 1
    tcp_wmem: tuple[int, int, int] = (4096, 16384, 4194304)
    tcp_workaround_signed_windows: int = 0
    wmem_max: int = 4194304

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


@dataclass(slots=True)
class Route:
    """What the administrator has said of the way to peers (RTAX_); 0: nothing."""

    mtu: int = 0
    mtu_lock: bool = False  # what routers say does not matter
    advmss: int = 0
    initcwnd: int = 0
    initrwnd: int = 0
    rto_min: int = 0  # ms
    quickack: bool = False
    ecn: bool = False  # RTAX_FEATURE_ECN


class Netns(Net):
    """One host. Sockets are known outside by a handle that is never used again."""

    __slots__ = (
        "key",
        "sysctl",
        "timers",
        "addrs",
        "any_address",
        "mtu",
        "loopback_mtu",
        "gso",
        "hw_csum",
        "qdisc_drops",
        "route",
        "pmtu",
        "pmtu_max",
        "established",
        "listening",
        "bound",
        "perturb",
        "out",
        "socks",
        "handles",
        "n_orphans",
        "n_tw",
        "wake",
        "ip_id",
        "ip_dsfield",
        "rng",
    )

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.now_ns = 0
        self.key = key
        self.sysctl = Sysctl()
        self.timers = Timers()
        self.addrs: dict[bytes, int] = {}  # 16 bytes each, and the length of its prefix
        self.any_address = 0  # listeners that take every address for theirs
        self.mtu = 1500
        self.loopback_mtu = LOOPBACK_MTU
        self.gso = False  # the link takes segments larger than its MTU
        self.hw_csum = False  # the link finishes checksums
        self.qdisc_drops = False  # the queue before the link refuses every packet
        self.route = Route()
        self.pmtu: dict[bytes, tuple[int, int]] = {}
        self.pmtu_max = 4096
        # By (saddr, sport, daddr, dport), ours first: sockets, requests, what is in TIME-WAIT.
        self.established: dict[tuple[bytes, int, bytes, int], Any] = {}
        self.listening: dict[int, list[TcpSock]] = {}
        self.bound: dict[int, list[Any]] = {}
        self.perturb = [0] * 256
        self.out: deque[tuple[bytes, int]] = deque()
        self.socks: dict[int, TcpSock] = {}
        self.handles = 0
        self.n_orphans = 0
        self.n_tw = 0
        self.wake: dict[int, None] = {}  # handles of which something can be told
        self.ip_id = 0
        self.ip_dsfield = 0  # TOS or traffic class of what comes now
        self.rng = 0


def sk_memory_allocated(net: Netns) -> int:
    """Truesize of all that sockets have queued, bytes."""
    return sum(tp.sk_wmem_queued + tp.sk_rmem_alloc for tp in net.socks.values())


def get_random_u32(net: Netns) -> int:
    """The next number of the engine's own series."""
    net.rng += 1
    return siphash(net.key, b"rng" + net.rng.to_bytes(8, "little")) & 0xFFFFFFFF


def get_random_u32_below(net: Netns, n: int) -> int:
    return get_random_u32(net) * n >> 32


def ip_rcv_ecn(net: Netns, packet: bytes) -> None:
    """Count a packet by its ECN field (RFC 3168 5), which is kept for the segment in it."""
    net.ip_dsfield = 0
    if len(packet) < 20:
        return
    if packet[0] >> 4 == 4:
        net.ip_dsfield = packet[1]
        net.mib[Mib.IP_NOECTPKTS + (packet[1] & 3)] += 1
    elif len(packet) >= 40:
        net.ip_dsfield = (packet[0] << 4 | packet[1] >> 4) & 0xFF
        net.mib[Mib.IP6_NOECTPKTS + (net.ip_dsfield & 3)] += 1


def sk_reset_timer(net: Netns, timer: Timer, expires_ns: int) -> None:
    timer_mod(net.timers, timer, expires_ns)


def sk_stop_timer(timer: Timer) -> None:
    timer_del(timer)


def sk_wake(net: Netns, tp: TcpSock) -> None:
    """Tell whoever drives the engine that a socket may be ready for something."""
    if tp.handle and not tp.dead:
        net.wake[tp.handle] = None


def tcp_md5_lookup(sk: TcpSock | TimewaitSock) -> Md5SigKey | None:
    """The key of a connection, or of what is left of it."""
    return tcp_md5_do_lookup(sk.md5sig_info, sk.daddr) if sk.md5sig_info else None


def tcp_md5_key_copy(to: TcpSock | TimewaitSock, key: Md5SigKey | None) -> int:
    """Let a child, or the rest of a connection, have the key for its peer alone; 0."""
    if key is not None:
        to.md5sig_info = [Md5SigKey(to.daddr, 128, key.flags, key.key)]
    return 0
