"""Name, dtype, unit and meaning of every column, once, and the words their numbers stand for.

States: Linux include/net/tcp_states.h, RFC 9293 3.3.2.  Addresses as text: RFC 5952.
"""

from __future__ import annotations

SCHEMA_VERSION = 1


class Column:
    """What a column holds.

    Attributes
    ----------
    name : str
    dtype : str
        A numpy dtype, or ``'uint8[16]'`` for an address; ``'S48'`` is ASCII text.
    unit : str
        Empty where the number has none.
    meaning : str
    absent : bool
        Whether -1 stands for "there is none": null in Arrow and JSON, empty in CSV.
    group : str
        Columns of one group are read from the engine together.
    """

    __slots__ = ("absent", "dtype", "group", "meaning", "name", "unit")

    def __init__(
        self,
        name: str,
        dtype: str,
        unit: str,
        meaning: str,
        absent: bool = False,
        group: str = "",
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.unit = unit
        self.meaning = meaning
        self.absent = absent
        self.group = group or name

    def __repr__(self) -> str:
        return f"Column({self.name!r}, {self.dtype!r})"


def _direction(d: str, side: str, words: str) -> tuple[Column, ...]:
    return (
        Column(f"packets_{d}", "int64", "packets", f"segments {words}", group=d),
        Column(f"frame_bytes_{d}", "int64", "bytes", f"wire lengths {words}", group=d),
        Column(
            f"payload_bytes_{d}",
            "int64",
            "bytes",
            f"TCP payload {words}, every copy of a repeated byte counted",
            group=d,
        ),
        Column(
            f"flags_{d}",
            "uint16",
            "bits",
            f"OR of the low 12 bits of the flag words {words}, reserved bits included",
            group=d,
        ),
        Column(
            f"isn_{d}",
            "int64",
            "sequence number",
            f"initial sequence number: that of {side}'s first SYN",
            absent=True,
            group=d,
        ),
        Column(
            f"mss_{d}",
            "int32",
            "bytes",
            f"maximum segment size in {side}'s first SYN that has the option",
            absent=True,
            group=d,
        ),
        Column(
            f"wscale_{d}",
            "int16",
            "bits",
            f"window shift in {side}'s first SYN that has the option, as sent (used: at most 14)",
            absent=True,
            group=d,
        ),
        Column(f"sack_permitted_{d}", "bool", "", f"{side} sent SACK-permitted in a SYN", group=d),
        Column(f"timestamps_{d}", "bool", "", f"{side} sent time stamps, in any segment", group=d),
        Column(
            f"bad_checksum_{d}",
            "int64",
            "packets",
            f"segments {words} whose TCP checksum is wrong; one that cannot be verified is not",
            group=d,
        ),
    )


# Wireshark's classes: index is the bit of the column `analysis`.
ANALYSIS_NAMES = (
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "out_of_order",
    "lost_segment",
    "ack_lost_segment",
    "duplicate_ack",
    "keep_alive",
    "keep_alive_ack",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "window_full",
    "window_update",
    "reused_ports",
)

# Columns that no engine has: bytes tell, and those are read again (tcpcore/conflicts.py).
CONFLICTS = ("conflicting_bytes_ab", "conflicting_bytes_ba")

# What else the analysis tells of a direction: name, unit, meaning, whether it may be absent.
_ANALYSIS = (
    ("retrans_bytes", "bytes", "payload of the segments counted as retransmission", False),
    ("rtt_min_ns", "ns", "shortest time from a segment to its acknowledgment", True),
    ("rtt_mean_ns", "ns", "mean of the times from a segment to its acknowledgment", True),
    ("rtt_max_ns", "ns", "longest time from a segment to its acknowledgment", True),
    ("rtt_samples", "samples", "segments whose round trip was timed, one at a time", False),
    ("in_flight_max", "bytes", "most that was sent and not yet acknowledged", False),
    ("window_min", "bytes", "smallest window offered, SYN and RST left out", True),
    ("window_max", "bytes", "largest window offered, SYN and RST left out", True),
    ("gaps", "holes", "ranges of sequence numbers that were never seen", False),
    ("gap_bytes", "bytes", "sequence numbers in them", False),
    ("duplicate_bytes", "bytes", "payload whose sequence numbers had been seen before", False),
    (
        "conflicting_bytes",
        "bytes",
        "payload that differs from what had been seen before at its sequence numbers",
        True,
    ),
)


def _group(name: str, d: str) -> str:
    return "analysis_conflicts" if f"{name}_{d}" in CONFLICTS else f"analysis_{d}"


def _analysis() -> tuple[Column, ...]:
    sides = (("ab", "from a to b"), ("ba", "from b to a"))
    classes = tuple(
        Column(
            f"{name}_{d}",
            "int64",
            "packets",
            f"segments {words} that Wireshark's rules call {name}",
            group=f"analysis_{d}",
        )
        for name in ANALYSIS_NAMES
        for d, words in sides
    )
    rest = tuple(
        Column(f"{name}_{d}", "int64", unit, f"{meaning}, {words}", absent, _group(name, d))
        for name, unit, meaning, absent in _ANALYSIS
        for d, words in sides
    )
    return classes + rest


# What may limit a direction: the word in the names of columns, and what it is.
_LIMITS = (
    ("app", "its application had nothing to send"),
    ("rwnd", "the other end's window was full"),
    ("network", "the network carried no more: losses, congestion window"),
)


def _limits() -> tuple[Column, ...]:
    return tuple(
        Column(
            f"{name}_limited_ns_{d}",
            "int64",
            "ns",
            f"how long {meaning}, {words}",
            group="analysis_slow",
        )
        for name, meaning in _LIMITS
        for d, words in (("ab", "from a to b"), ("ba", "from b to a"))
    )


CONNECTIONS = (
    Column("conn", "int64", "", "number of the connection, from 0, by first segment", group="who"),
    Column("ip", "uint8", "", "IP version: 4 or 6", group="who"),
    Column(
        "a_addr",
        "uint8[16]",
        "address",
        "address of a: the first SYN's sender, a SYN-ACK's receiver, else the first sender",
        group="who",
    ),
    Column("a_port", "uint16", "", "port of a", group="who"),
    Column("b_addr", "uint8[16]", "address", "address of b, the other end", group="who"),
    Column("b_port", "uint16", "", "port of b", group="who"),
    Column("first_ns", "int64", "ns since 1970", "time of the first segment", group="life"),
    Column("last_ns", "int64", "ns since 1970", "time of the last segment", group="life"),
    Column("first_packet", "int64", "", "number of the first segment's packet", group="life"),
    *_direction("ab", "a", "from a to b"),
    *_direction("ba", "b", "from b to a"),
    Column("state_a", "uint8", "state", "TCP state of a at the end, Linux's number", group="life"),
    Column("state_b", "uint8", "state", "TCP state of b at the end, Linux's number", group="life"),
    Column(
        "completeness",
        "uint8",
        "bits",
        "what was seen: SYN 1, SYN-ACK 2, another ACK 4, payload 8, FIN 16, RST 32",
        group="life",
    ),
    Column(
        "initial_rtt_ns",
        "int64",
        "ns",
        "from the latest SYN to its sender's first ACK, once SYN and SYN-ACK were seen",
        absent=True,
        group="life",
    ),
    Column("interface", "uint16", "", "pcapng interface of the first segment", group="outer"),
    Column("vlan", "int16", "", "first VLAN id of the first segment", absent=True, group="outer"),
    Column("inner_vlan", "int16", "", "second VLAN id of it", absent=True, group="outer"),
    Column("encap", "uint16", "bits", "what the first segment was wrapped in", group="outer"),
    Column(
        "outer_a",
        "uint8[16]",
        "outer address",
        "address of a's end of the tunnel that the first segment came by, :: for none",
        group="outer",
    ),
    Column(
        "outer_b", "uint8[16]", "outer address", "address of b's end of the tunnel", group="outer"
    ),
    *_analysis(),
    Column(
        "history",
        "S48",
        "text",
        "Zeek's history: a letter for what was first seen of a, a small one of b; ASCII",
    ),
    Column("conn_state", "uint8", "conn_state", "Zeek's state of the connection", group="life"),
    Column(
        "handshake_ns",
        "int64",
        "ns",
        "how long the handshake lasted, as far as seen",
        group="analysis_slow",
    ),
    *_limits(),
    Column(
        "slow",
        "uint8",
        "cause",
        "what limited the direction with more payload longest (docs/slow.md)",
        group="analysis_slow",
    ),
)

PACKETS = (
    Column("packet", "int64", "", "number of the packet, from 1 over all inputs"),
    Column("file", "int32", "", "number of the input, from 0 in the order they were read"),
    Column("conn", "int64", "", "number of the connection", absent=True),
    Column("dir", "int8", "", "direction: 0 from a to b, 1 from b to a", absent=True),
    Column("time_ns", "int64", "ns since 1970", "time of the packet"),
    Column("offset", "int64", "bytes", "where its data begins in the decompressed input"),
    Column("caplen", "uint32", "bytes", "length that was captured"),
    Column("wirelen", "uint32", "bytes", "length on the wire"),
    Column("seq", "uint32", "sequence number", "sequence number"),
    Column("ack", "uint32", "sequence number", "acknowledgment number"),
    Column("flags", "uint16", "bits", "low 12 bits of the flag word, reserved bits included"),
    Column(
        "window",
        "uint32",
        "bytes",
        "window offered, scaled; as sent in a SYN and where the scale is not known",
    ),
    Column("payload_len", "uint32", "bytes", "TCP payload"),
    Column("verdict", "uint32", "bits", "what the judge and the tracker say of the segment"),
    Column("drop_reason", "uint8", "reason", "why it is no segment or state did not take it"),
    Column("interface", "uint16", "", "pcapng interface, by its number in the section"),
    Column("vlan", "int16", "", "first VLAN id", absent=True),
    Column("inner_vlan", "int16", "", "second VLAN id", absent=True),
    Column("encap", "uint16", "bits", "what it was wrapped in, as far as that was taken off"),
    Column("analysis", "uint32", "bits", "Wireshark's classes of the segment, a bit each"),
    Column("dup_ack_num", "uint32", "", "which repetition a duplicate ACK is, from 1"),
    Column("reason", "uint8", "kind", "our own verdict: what the segment is"),
)

_ANALYSED = {"history", "conn_state", "analysis", "dup_ack_num", "reason"}


def schemas(analysis: bool) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The columns of connections and of packets, those of the analysis where it is wanted."""

    def wanted(column: Column) -> bool:
        return analysis or not (column.group.startswith("analysis") or column.name in _ANALYSED)

    return tuple(filter(wanted, CONNECTIONS)), tuple(filter(wanted, PACKETS))


# Index: Linux's number.
STATE_NAMES = (
    "",
    "ESTABLISHED",
    "SYN-SENT",
    "SYN-RECEIVED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSED",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
)

# Index: bit of a flag word.
FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")

# Index: bit of the column `verdict`.
VERDICT_NAMES = (
    "TCB_FAST",
    "TCB_DATA",
    "TCB_PARTIAL",
    "TCB_OFO",
    "TCB_OLD",
    "TCB_OVERWINDOW",
    "TCB_PAWS",
    "TCB_ACKED",
    "TCB_ACK_OLD",
    "TCB_ACK_UNSENT",
    "TCB_WINUPDATE",
    "TCB_SYN_TAKEN",
    "TCB_FIN_TAKEN",
    "TCB_RST_TAKEN",
    "TCB_CHALLENGE",
    "TCB_ESTAB",
    "TCB_NO_CONN",
    "TCB_RESENT",
    "TCB_JUMP",
    "CT_NEW",
    "CT_MIDSTREAM",
    "CT_REUSED",
    "CT_HOLE",
    "CT_TIME_CLAMPED",
)

# Index: number in the column `drop_reason`; 0 is no drop.
# Names of link types at tcpdump.org/linktypes.html; 12 and 14 are raw IP on other systems.
LINKTYPES = {
    0: "NULL",
    1: "ETHERNET",
    6: "IEEE802_5",
    7: "ARCNET_BSD",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    12: "RAW",
    14: "RAW",
    50: "PPP_HDLC",
    51: "PPP_ETHER",
    100: "ATM_RFC1483",
    101: "RAW",
    104: "C_HDLC",
    105: "IEEE802_11",
    107: "FRELAY",
    108: "LOOP",
    113: "LINUX_SLL",
    117: "PFLOG",
    127: "IEEE802_11_RADIOTAP",
    189: "USB_LINUX",
    192: "PPI",
    195: "IEEE802_15_4_WITHFCS",
    201: "BLUETOOTH_HCI_H4_WITH_PHDR",
    220: "USB_LINUX_MMAPPED",
    227: "CAN_SOCKETCAN",
    228: "IPV4",
    229: "IPV6",
    239: "NFLOG",
    253: "NETLINK",
    276: "LINUX_SLL2",
}

DROP_NAMES = (
    "SKB_NOT_DROPPED_YET",
    "LINKTYPE_UNKNOWN",
    "PKT_TOO_SMALL",
    "UNHANDLED_PROTO",
    "IP_NOPROTO",
    "IP_INHDR",
    "IPV6_BAD_EXTHDR",
    "IP_FRAGMENT",
    "ENCAP_DEPTH",
    "ENCAP_MPLS",
    "ENCAP_PPPOE",
    "ENCAP_LLC",
    "ENCAP_GRE",
    "ENCAP_ERSPAN",
    "ENCAP_IPIP",
    "ENCAP_IP6",
    "ENCAP_VXLAN",
    "ENCAP_GENEVE",
    "ENCAP_GTPU",
    "ENCAP_TEREDO",
    "IP_CSUM",
    "TCP_CSUM",
    "TCP_BAD_DOFF",
    "TCP_RFC7323_PAWS",
    "TCP_OLD_DATA",
    "TCP_OVERWINDOW",
    "TCP_TOO_OLD_ACK",
    "TCP_ACK_UNSENT_DATA",
    "TCP_INVALID_SYN",
    "TCP_INVALID_ACK",
    "TCP_INVALID_RST",
    "TCP_CLOSED",
    "TCP_FLAGS",
    "SOCKET_FILTER",
)

# Index: number in the column `reason`.
REASON_NAMES = (
    "",
    "control",
    "ack",
    "new_data",
    "after_hole",
    "reordered",
    "hole_filled",
    "full_retransmission",
    "partial_retransmission",
    "duplicated",
    "probe",
)

# Index: number in the column `conn_state`; Zeek's names.
CONN_STATE_NAMES = (
    "OTH",
    "S0",
    "S1",
    "SF",
    "REJ",
    "S2",
    "S3",
    "RSTO",
    "RSTR",
    "RSTOS0",
    "RSTRH",
    "SH",
    "SHR",
)

# Index: number in the column `slow`.
CAUSE_NAMES = ("none", "application", "receiver", "network", "handshake")

# Index: bit of the column `encap`.
ENCAP_NAMES = (
    "MPLS",
    "PPPOE",
    "LLC",
    "GRE",
    "ERSPAN",
    "IPIP",
    "IP6",
    "VXLAN",
    "GENEVE",
    "GTPU",
    "TEREDO",
    "FRAGMENTS",
)

_MAPPED = bytes(10) + b"\xff\xff"
_ZERO_RUNS = tuple(":" + "0:" * n for n in range(8, 1, -1))


def outer_text(address: bytes) -> str:
    """Write an outer address, which is IPv4's if it is mapped."""
    return address_text(address, 4 if address.startswith(_MAPPED) else 6)


def address_text(address: bytes, ip: int) -> str:
    """Write an address as RFC 5952 recommends.

    Parameters
    ----------
    address : bytes
        16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
    ip : int
        4 or 6: whether a mapped address is IPv4 (``a.b.c.d``) or stood in an IPv6 header
        (``::ffff:a.b.c.d``).
    """
    if ip == 4:
        return ".".join(map(str, address[12:]))
    if address.startswith(_MAPPED):
        return "::ffff:" + ".".join(map(str, address[12:]))
    groups = address.hex(":", 2).split(":")
    text = ":" + ":".join([group.lstrip("0") or "0" for group in groups]) + ":"
    for run in _ZERO_RUNS:
        if run in text:  # the longest, and its leftmost one
            text = text.replace(run, "::", 1)
            break
    if not text.startswith("::"):
        text = text[1:]
    return text if text.endswith("::") else text[:-1]
