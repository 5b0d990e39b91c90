"""A stack's knobs by their Linux names, frozen: what may be set, to what, and what it does.

Linux: Documentation/networking/ip-sysctl.rst; the defaults are Linux's.
"""

from __future__ import annotations

from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

INT_MAX = 0x7FFFFFFF
UINT_MAX = 0xFFFFFFFF
MAX_SOCK_BUF = INT_MAX // 2  # what is doubled and still a number
SECONDS_MAX = INT_MAX // 250  # what Linux can count in ticks
BYTE_MAX = 255  # of switches that Linux holds to no other bound

CONGESTION_CONTROLS = ("cubic", "reno")


class Knob:
    """One knob: its default, what it may be, and what it is for.

    Attributes
    ----------
    default : int, tuple of int or str
    low, high : int
        Bounds of the number, or of each of several.
    doc : str
    """

    __slots__ = ("default", "low", "high", "doc")

    def __init__(self, default: Any, low: int, high: int, doc: str) -> None:
        self.default = default
        self.low = low
        self.high = high
        self.doc = doc

    def check(self, name: str, value: Any) -> Any:
        """The value as the engine takes it.

        Raises
        ------
        TypeError
            If it is of another kind.
        ValueError
            If it is out of bounds.
        """
        if isinstance(self.default, str):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a word, not {type(value).__name__}")
            if value not in CONGESTION_CONTROLS:
                raise ValueError(f"{name} must be one of {', '.join(CONGESTION_CONTROLS)}")
            return value
        if isinstance(self.default, tuple):
            if not isinstance(value, (tuple, list)):
                raise TypeError(f"{name} must be {len(self.default)} numbers")
            if len(value) != len(self.default):
                raise ValueError(f"{name} must be {len(self.default)} numbers")
            numbers = tuple(self._number(name, one) for one in value)
            if any(a > b for a, b in pairwise(numbers)):
                raise ValueError(f"{name}: {value!r} is not in ascending order")
            return numbers
        return self._number(name, value)

    def _number(self, name: str, value: Any) -> int:
        if not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} must be from {self.low} to {self.high}, not {value}")
        return int(value)


def _switch(default: int, doc: str, most: int = BYTE_MAX) -> Knob:
    return Knob(default, 0, most, doc)


KNOBS = {
    "icmp_ratelimit": Knob(1000, 0, INT_MAX, "Kept only: least time between ICMP messages, ms."),
    "ip_default_ttl": Knob(64, 1, 255, "Time to live of what is sent."),
    "ip_local_port_range": Knob(
        (32768, 60999), 1, 65535, "First and last port that connect() may choose."
    ),
    "ip_no_pmtu_disc": _switch(0, "1: path MTU discovery is off, routers may fragment."),
    "min_pmtu": Knob(
        552, 68, INT_MAX, "An ICMP message lowers a path's MTU to this at most, bytes."
    ),
    "mtu_expires": Knob(600, 1, SECONDS_MAX, "How long a lowered path MTU is believed, s."),
    "rmem_max": Knob(4194304, 2304, MAX_SOCK_BUF, "Bound of SO_RCVBUF, bytes."),
    "somaxconn": Knob(4096, 0, INT_MAX, "Bound of listen()'s backlog, connections."),
    "tcp_abort_on_overflow": _switch(
        0, "1: reset a connection that finds the accept queue full; 0: let the peer try again."
    ),
    "tcp_adv_win_scale": Knob(
        1,
        -31,
        31,
        "How receive memory is shared between data and their cost: kept, and fixed at 1.",
    ),
    "tcp_autocorking": _switch(1, "Kept only: small writes wait while segments queue.", 1),
    "tcp_base_mss": Knob(1024, 48, 65535, "Kept only: where probing for an MTU begins."),
    "tcp_challenge_ack_limit": Knob(
        INT_MAX, 0, INT_MAX, "Kept only: challenge ACKs of a host in a second."
    ),
    "tcp_comp_sack_delay_ns": Knob(
        1_000_000, 0, SECONDS_MAX * 10**9, "Longest that duplicate ACKs wait to be one, ns."
    ),
    "tcp_comp_sack_nr": Knob(44, 0, 255, "How many duplicate ACKs become one; 0: none waits."),
    "tcp_comp_sack_rtt_percent": Knob(33, 1, 1000, "Share of a round trip that they wait, %."),
    "tcp_comp_sack_slack_ns": Knob(
        10_000, 0, SECONDS_MAX * 10**9, "By how much their timer may be late, ns."
    ),
    "tcp_congestion_control": Knob(
        "cubic", 0, 0, "Congestion control of new sockets: cubic, reno."
    ),
    "tcp_dsack": _switch(1, "Tell the sender of what came twice (RFC 2883)."),
    "tcp_early_retrans": _switch(3, "Tail loss probes (RFC 8985 7): 3 and 4.", 4),
    "tcp_ecn": Knob(
        2, 0, 5, "ECN (RFC 3168): 0 not; 1, 3, 4 asked for, too; 2, 5 only where the peer asks."
    ),
    "tcp_ecn_fallback": _switch(1, "1: a SYN that goes again does not ask for ECN.", 1),
    "tcp_fin_timeout": Knob(60, 0, SECONDS_MAX, "How long an orphan stays in FIN-WAIT-2, s."),
    "tcp_frto": _switch(2, "Find out whether a time-out was spurious (RFC 5682).", 255),
    "tcp_invalid_ratelimit": Knob(
        500, 0, INT_MAX, "Least time between ACKs that answer segments out of window, ms."
    ),
    "tcp_keepalive_intvl": Knob(75, 1, SECONDS_MAX, "Time between keep-alive probes, s."),
    "tcp_keepalive_probes": Knob(9, 0, 255, "Unanswered probes that end a connection."),
    "tcp_keepalive_time": Knob(
        7200, 1, SECONDS_MAX, "Idle time before the first keep-alive probe, s."
    ),
    "tcp_limit_output_bytes": Knob(
        4194304, 1, INT_MAX, "Kept only: bytes of a socket in the link's queue."
    ),
    "tcp_max_orphans": Knob(
        65536, 0, INT_MAX, "Sockets that are closed but not done yet; more are reset."
    ),
    "tcp_max_reordering": Knob(
        300, 1, INT_MAX, "How far reordering may be believed to go, segments."
    ),
    "tcp_max_syn_backlog": Knob(
        4096, 1, INT_MAX, "Requests of one listener that wait for the handshake's ACK."
    ),
    "tcp_max_tw_buckets": Knob(65536, 0, INT_MAX, "Connections kept in TIME-WAIT."),
    "tcp_min_snd_mss": Knob(48, 48, 65535, "Segments are never made smaller, bytes."),
    "tcp_min_tso_segs": Knob(
        2, 1, 255, "A burst may have so many segments, however slow the pace."
    ),
    "tcp_moderate_rcvbuf": _switch(1, "Grow the receive buffer as the transfer needs it."),
    "tcp_notsent_lowat": Knob(
        UINT_MAX, 0, UINT_MAX, "A socket is writable while fewer bytes wait to be sent."
    ),
    "tcp_orphan_retries": Knob(0, 0, 255, "Retransmissions of a closed socket; 0 stands for 8."),
    "tcp_recovery": Knob(
        1, 0, 255, "RACK (RFC 8985 6): 2 a window that stays as it is, 4 none for three duplicates."
    ),
    "tcp_reordering": Knob(3, 1, 300, "Duplicate ACKs that mean loss, until more is learned."),
    "tcp_retries1": Knob(3, 0, 255, "Kept only: retransmissions before doubt (R1)."),
    "tcp_retries2": Knob(15, 0, 255, "Retransmissions before the connection is given up (R2)."),
    "tcp_rfc1337": _switch(0, "1: resets do not end TIME-WAIT (RFC 1337)."),
    "tcp_rmem": Knob(
        (4096, 131072, 33554432),
        4096,
        INT_MAX,
        "Receive buffer of a socket: least, at first, most; bytes of memory.",
    ),
    "tcp_rto_max_ms": Knob(120000, 1000, 120000, "The retransmission timeout's upper bound, ms."),
    "tcp_rto_min_us": Knob(200000, 1, INT_MAX, "The retransmission timeout's lower bound, us."),
    "tcp_sack": _switch(1, "Selective acknowledgments (RFC 2018)."),
    "tcp_shrink_window": _switch(0, "1: the window may shrink when memory is short.", 1),
    "tcp_slow_start_after_idle": _switch(1, "Begin anew after an idle RTO (RFC 5681 4.1)."),
    "tcp_stdurg": _switch(0, "1: the urgent pointer as RFC 1122 has it; 0: as BSD has it."),
    "tcp_syn_linear_timeouts": Knob(4, 0, 127, "SYNs sent 1 s apart before the time doubles."),
    "tcp_syn_retries": Knob(6, 1, 127, "Retransmissions of a SYN."),
    "tcp_synack_retries": Knob(5, 0, 255, "Retransmissions of a SYN-ACK."),
    "tcp_syncookies": _switch(1, "SYN cookies: 0 never, 1 when requests overflow, 2 always."),
    "tcp_timestamps": _switch(1, "Time stamps (RFC 7323): 1 with an offset for each peer."),
    "tcp_tso_win_divisor": Knob(
        3, 0, 255, "A burst that fills such a share of the window waits for no ACK; 0: 3 segments."
    ),
    "tcp_tw_reuse": _switch(
        2, "Connect from a port in TIME-WAIT (RFC 6191): 0 never, 1 always, 2 to loopback.", 2
    ),
    "tcp_window_scaling": _switch(1, "Windows beyond 64 KiB (RFC 7323)."),
    "tcp_wmem": Knob(
        (4096, 16384, 4194304),
        4096,
        INT_MAX,
        "Send buffer of a socket: least, at first, most; bytes of memory.",
    ),
    "tcp_workaround_signed_windows": _switch(
        0, "1: windows that are not scaled stay below 32 KiB."
    ),
    "wmem_max": Knob(4194304, 4608, MAX_SOCK_BUF, "Bound of SO_SNDBUF, bytes."),
}


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as knobs keep them; TypeError or ValueError for what is none."""
    unknown = values.keys() - KNOBS.keys()
    if unknown:
        raise TypeError(f"no such sysctl: {', '.join(sorted(unknown))}")
    return {name: KNOBS[name].check(name, value) for name, value in values.items()}


class Sysctl:
    """A stack's knobs, by their Linux names; what is not given has Linux's default.

    Parameters
    ----------
    **values
        Of each knob as in `KNOBS`, which tells its default, its bounds and its meaning;
        ``help(Sysctl.tcp_rmem)`` does, too.

    Raises
    ------
    TypeError, ValueError
        If there is no such knob, or its value is not one.

    Examples
    --------
    >>> Sysctl(tcp_syn_retries=2).tcp_syn_retries
    2
    """

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        made = {name: knob.default for name, knob in KNOBS.items()}
        object.__setattr__(self, "_values", made | checked(values))

    @classmethod
    def of(cls, given: Sysctl | Mapping[str, Any] | None) -> Sysctl:
        """From a mapping; names may be written as ``net.ipv4.tcp_rmem`` too."""
        if given is None:
            return cls()
        if isinstance(given, Sysctl):
            return given
        return cls(**{name.rpartition(".")[2]: value for name, value in given.items()})

    def replace(self, **values: Any) -> Sysctl:
        """A copy with other values."""
        made = object.__new__(Sysctl)
        object.__setattr__(made, "_values", self._values | checked(values))
        return made

    def items(self) -> Iterator[tuple[str, Any]]:
        """Every knob and its value."""
        return iter(self._values.items())

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Sysctl is frozen: Sysctl.replace makes another")

    __delattr__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sysctl) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        changed = (
            f"{name}={value!r}"
            for name, value in self._values.items()
            if value != KNOBS[name].default
        )
        return f"Sysctl({', '.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Sysctl.of, (dict(self._values),)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _property(name: str, knob: Knob) -> property:
    def value(self: Sysctl) -> Any:
        return self._values[name]

    bounds = "" if isinstance(knob.default, str) else f", {knob.low} to {knob.high}"
    return property(value, doc=f"{knob.doc}\n\nDefault {knob.default!r}{bounds}.")


for _name, _knob in KNOBS.items():
    setattr(Sysctl, _name, _property(_name, _knob))
