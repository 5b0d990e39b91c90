"""The vocabulary: states, flags, options, verdicts, drop reasons, structs, sequence arithmetic.

Linux: include/net/tcp.h, tcp_states.h, dropreason-core.h.  RFC 9293 3.1 to 3.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

MASK32 = 0xFFFFFFFF
# Linux's numbers, which the columns state_a and state_b carry.
TCP_ESTABLISHED = 1
TCP_SYN_SENT = 2
TCP_SYN_RECV = 3
TCP_FIN_WAIT1 = 4
TCP_FIN_WAIT2 = 5
TCP_TIME_WAIT = 6
TCP_CLOSE = 7
TCP_CLOSE_WAIT = 8
TCP_LAST_ACK = 9
TCP_LISTEN = 10
TCP_CLOSING = 11
TCP_MAX_STATES = 12
TCPHDR_FIN = 0x001
TCPHDR_SYN = 0x002
TCPHDR_RST = 0x004
TCPHDR_PSH = 0x008
TCPHDR_ACK = 0x010
TCPHDR_URG = 0x020
TCPHDR_CONTROL = TCPHDR_SYN | TCPHDR_FIN | TCPHDR_RST
TCPOPT_EOL = 0
TCPOPT_NOP = 1
TCPOPT_MSS = 2
TCPOPT_WINDOW = 3
TCPOPT_SACK_PERM = 4
TCPOPT_TIMESTAMP = 8
TCPOLEN_MSS, TCPOLEN_WINDOW, TCPOLEN_SACK_PERM, TCPOLEN_TIMESTAMP = 4, 3, 2, 10
TCP_MAX_WSCALE = 14  # RFC 7323 2.3


class Opt(IntFlag):
    """Options a segment carries; kept per end as the OR over its segments."""

    OPT_MSS = 1
    OPT_WSCALE = 2
    OPT_SACK_PERM = 4
    OPT_TIMESTAMP = 8
    OPT_ISN = 16  # end only: a SYN of this end was seen, `isn` is its number
    OPT_BASE = 32  # end only: `isn` is a base inferred from other segments
    OPT_CUT = 64  # options go on where the capture ends: what they say is not known


class Bad(IntFlag):
    """What is wrong with a segment."""

    BAD_IP_CSUM = 1
    BAD_TCP_CSUM = 2
    BAD_DOFF = 4  # nobody can tell where its header ends
    # Of a wrong checksum, what tells that the sender's network card was to fill it in.
    BAD_PARTIAL = 8  # TCP's is the pseudo header's sum, with or without a length
    BAD_ZERO = 16  # TCP's is 0
    BAD_TSO = 32  # IP's length is 0: the card cuts it into segments
    BAD_IP_ZERO = 64  # IP's is 0


class TcbFlag(IntFlag):
    """What is known of one end."""

    TCB_SND = 1  # snd_una and snd_nxt are known
    TCB_RCV = 2  # rcv_nxt is known
    TCB_WINDOW = 4  # rcv_mwnd_seq is known: this end has offered a window
    TCB_PEER_WINDOW = 8  # snd_wnd is known: a window for this end was seen
    TCB_WSCALE_SENT = 16  # this end's SYN offered a shift (rcv_wscale)
    TCB_WSCALE_RCVD = 32  # its peer's SYN offered one (snd_wscale)
    TCB_TSTAMP = 64  # ts_recent is valid
    TCB_FIN_SENT = 128  # snd_nxt counts a FIN


class Verdict(IntFlag):
    """What the judge and the tracker say of a segment (the column `verdict`)."""

    TCB_FAST = 1 << 0  # header prediction took it
    TCB_DATA = 1 << 1  # moved rcv_nxt by data
    TCB_PARTIAL = 1 << 2  # its front was old
    TCB_OFO = 1 << 3  # acceptable, waits behind a hole
    TCB_OLD = 1 << 4  # everything in it was received before
    TCB_OVERWINDOW = 1 << 5  # begins beyond the window
    TCB_PAWS = 1 << 6  # time stamp too old (RFC 7323 5)
    TCB_ACKED = 1 << 7  # moved snd_una
    TCB_ACK_OLD = 1 << 8  # acknowledges too little (RFC 5961 5)
    TCB_ACK_UNSENT = 1 << 9  # acknowledges what was not sent
    TCB_WINUPDATE = 1 << 10  # moved the send window
    TCB_SYN_TAKEN = 1 << 11
    TCB_FIN_TAKEN = 1 << 12
    TCB_RST_TAKEN = 1 << 13
    TCB_CHALLENGE = 1 << 14  # an endpoint answers with a challenge ACK (RFC 5961)
    TCB_ESTAB = 1 << 15  # made the end it reached ESTABLISHED
    TCB_NO_CONN = 1 << 16  # reached an end that is closed or only listens
    TCB_RESENT = 1 << 17  # begins before what its sender had sent
    TCB_JUMP = 1 << 18  # begins after what its sender had sent: a hole of the tap
    CT_NEW = 1 << 19  # first segment of its connection
    CT_MIDSTREAM = 1 << 20  # first segment, and not a SYN
    CT_REUSED = 1 << 21  # first segment of a new connection on a known 4-tuple
    CT_HOLE = 1 << 22  # acknowledges what the tap did not see
    CT_TIME_CLAMPED = 1 << 23  # its time does not fit 64-bit nanoseconds


class Class(IntFlag):
    """Wireshark's classes (the column `analysis`)."""

    TCP_A_RETRANSMISSION = 1 << 0
    TCP_A_FAST_RETRANSMISSION = 1 << 1
    TCP_A_SPURIOUS_RETRANSMISSION = 1 << 2
    TCP_A_OUT_OF_ORDER = 1 << 3
    TCP_A_LOST_PACKET = 1 << 4
    TCP_A_ACK_LOST_PACKET = 1 << 5
    TCP_A_DUPLICATE_ACK = 1 << 6
    TCP_A_KEEP_ALIVE = 1 << 7
    TCP_A_KEEP_ALIVE_ACK = 1 << 8
    TCP_A_ZERO_WINDOW = 1 << 9
    TCP_A_ZERO_WINDOW_PROBE = 1 << 10
    TCP_A_ZERO_WINDOW_PROBE_ACK = 1 << 11
    TCP_A_WINDOW_FULL = 1 << 12
    TCP_A_WINDOW_UPDATE = 1 << 13
    TCP_A_REUSED_PORTS = 1 << 14


NR_CLASSES = 15


class Drop(IntEnum):
    """Why a frame is no segment, or why state did not take a segment."""

    SKB_NOT_DROPPED_YET = 0
    # No segment: these frames count nowhere else.
    LINKTYPE_UNKNOWN = 1
    PKT_TOO_SMALL = 2  # a header is cut, by the capture or by a length
    UNHANDLED_PROTO = 3  # not IP
    IP_NOPROTO = 4  # IP, but not TCP
    IP_INHDR = 5  # version, header length or total length is wrong
    IPV6_BAD_EXTHDR = 6
    IP_FRAGMENT = 7  # a part, of a datagram whose segment is in another frame, if it got whole
    ENCAP_DEPTH = 8  # more headers in each other than the loop takes
    # A tunnel's header that is wrong, or says that no frame or packet is in it.
    ENCAP_MPLS = 9
    ENCAP_PPPOE = 10
    ENCAP_LLC = 11
    ENCAP_GRE = 12
    ENCAP_ERSPAN = 13
    ENCAP_IPIP = 14
    ENCAP_IP6 = 15
    ENCAP_VXLAN = 16
    ENCAP_GENEVE = 17
    ENCAP_GTPU = 18
    ENCAP_TEREDO = 19
    # A segment, counted, but state did not take it.
    IP_CSUM = 20
    TCP_CSUM = 21
    TCP_BAD_DOFF = 22
    TCP_RFC7323_PAWS = 23
    TCP_OLD_DATA = 24
    TCP_OVERWINDOW = 25
    TCP_TOO_OLD_ACK = 26
    TCP_ACK_UNSENT_DATA = 27  # an endpoint's: a tracker takes it for a hole of the tap
    TCP_INVALID_SYN = 28
    TCP_INVALID_ACK = 29  # in SYN-SENT, the ACK of something else
    TCP_INVALID_RST = 30
    TCP_CLOSED = 31  # nobody is there to take it
    TCP_FLAGS = 32  # neither SYN, RST nor ACK
    # Neither: a frame that the filter does not want is in no row.
    SOCKET_FILTER = 33
    NR_DROPS = 34


COMPLETE_SYN = 1  # completeness: OR over all segments in any order
COMPLETE_SYNACK = 2
COMPLETE_ACK = 4
COMPLETE_DATA = 8
COMPLETE_FIN = 16
COMPLETE_RST = 32


def before(seq1: int, seq2: int) -> bool:
    """True if seq1 comes before seq2 on the circle (RFC 9293 3.4)."""
    return ((seq1 - seq2) & MASK32) > 0x7FFFFFFF


def after(seq1: int, seq2: int) -> bool:
    """True if seq1 comes after seq2 on the circle."""
    return ((seq2 - seq1) & MASK32) > 0x7FFFFFFF


def between(seq1: int, seq2: int, seq3: int) -> bool:
    """True if seq2 <= seq1 <= seq3 on the circle."""
    return ((seq3 - seq2) & MASK32) >= ((seq1 - seq2) & MASK32)


class Tcb:
    """What is known of one end: the judge's whole state (36 bytes in the compiled build)."""

    __slots__ = (
        "snd_una",
        "snd_nxt",
        "snd_wl1",
        "snd_wnd",
        "max_window",
        "rcv_nxt",
        "rcv_mwnd_seq",
        "ts_recent",
        "state",
        "snd_wscale",
        "rcv_wscale",
        "flags",
    )

    def __init__(self) -> None:
        self.snd_una = 0  # first number not acknowledged
        self.snd_nxt = 0  # number after the last one sent
        self.snd_wl1 = 0  # number of the segment that last moved snd_wnd
        self.snd_wnd = 0  # bytes the peer allows, scaled
        self.max_window = 0  # largest snd_wnd ever
        self.rcv_nxt = 0  # number expected next
        self.rcv_mwnd_seq = 0  # rightmost edge ever offered (a window never shrinks)
        self.ts_recent = 0
        self.state = TCP_CLOSE
        self.snd_wscale = 0
        self.rcv_wscale = 0
        self.flags = 0


class Segment:
    """One segment's fields in host order, as `ip_rcv` and `tcp_parse` leave them."""

    __slots__ = (
        "saddr",
        "daddr",
        "sport",
        "dport",
        "ip",
        "seq",
        "ack",
        "end_seq",
        "payload_len",
        "flags",
        "window",
        "doff",
        "opts",
        "mss",
        "urgent",
        "wscale",
        "tsval",
        "tsecr",
        "bad",
        "transport_header",
    )

    def __init__(self) -> None:
        self.saddr = b""  # 16 bytes, IPv4 as ::ffff:a.b.c.d
        self.daddr = b""
        self.sport = 0
        self.dport = 0
        self.ip = 0  # 4 or 6
        self.seq = 0
        self.ack = 0
        self.end_seq = 0  # seq + payload_len + SYN + FIN
        self.payload_len = 0
        self.flags = 0  # low 12 bits of the flag word, reserved ones included
        self.window = 0  # as sent, not scaled
        self.doff = 0  # header length in 32-bit words
        self.opts = 0  # Opt
        self.mss = 0
        self.urgent = 0  # with URG: one above the urgent byte's place behind seq; 0 if it was cut
        self.wscale = 0  # as sent, not clamped
        self.tsval = 0
        self.tsecr = 0
        self.bad = 0  # Bad
        self.transport_header = 0  # where TCP's header lies in the data


def tcp_is_synack(th: Segment) -> bool:
    return th.flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN | TCPHDR_ACK


class End:
    """One end of a followed connection: the judge's state, then what its segments counted."""

    __slots__ = (
        "tcb",
        "isn",
        "packets",
        "frame_bytes",
        "payload_bytes",
        "flags",
        "mss",
        "wscale",
        "opts",
    )

    def __init__(self) -> None:
        self.tcb = Tcb()
        self.isn = 0  # of its first SYN (OPT_ISN), else a base inferred (OPT_BASE)
        self.packets = 0
        self.frame_bytes = 0
        self.payload_bytes = 0
        self.flags = 0
        self.mss = 0
        self.wscale = 0
        self.opts = 0  # Opt


class FlowOuter:
    """What was around the first segment of a connection."""

    __slots__ = ("a_addr", "b_addr", "context", "encap", "vlan", "inner_vlan", "interface")

    def __init__(self) -> None:
        self.a_addr = bytes(16)  # of the outermost packet, zeros if there is none
        self.b_addr = bytes(16)
        self.context: tuple[int, ...] = ()  # what of it is part of the key
        self.encap = 0
        self.vlan = -1
        self.inner_vlan = -1
        self.interface = 0


NOTHING_AROUND = FlowOuter()


KEY_VLAN = 1  # what else than addresses and ports tells connections apart
KEY_INTERFACE = 2
KEY_TUNNEL = 4


class Flow:
    """One followed connection; `ends[0]` is a, `ends[1]` is b."""

    __slots__ = (
        "a_addr",
        "b_addr",
        "a_port",
        "b_port",
        "ip",
        "completeness",
        "bits",
        "last_ns",
        "rtt_ns",
        "bad_checksum",
        "ends",
        "first_ns",
        "first_packet",
        "conn",
        "stamp_ns",
        "analysis",
        "synacks",
        "around",
    )

    def __init__(self) -> None:
        self.a_addr = b""
        self.b_addr = b""
        self.a_port = 0
        self.b_port = 0
        self.ip = 0
        self.completeness = 0
        self.bits = 0  # FlowBit
        self.last_ns = 0
        self.rtt_ns = 0  # time of the latest SYN until FLOW_RTT is set
        self.bad_checksum = [0, 0]
        self.ends = (End(), End())
        self.first_ns = 0
        self.first_packet = 0
        self.conn = 0
        self.stamp_ns = 0  # the tracker's clock when its last segment came
        self.synacks = 0  # SYN-ACKs with other numbers than the first that are kept of it
        self.around = NOTHING_AROUND  # its first segment
        self.analysis: Analysis | None = None  # where it is wanted


class AnalysisEnd:
    """What the analysis knows of one end: numbers that are 0 are not known, as in Wireshark."""

    __slots__ = (
        "nextseq",
        "maxack",
        "lastack",
        "window",
        "last",
        "syn_last",
        "nextseq_ns",
        "seen",
        "last_ns",
        "dupacks",
        "base",
        "timing",
        "resent",
        "rtt_seq",
        "rtt_tsval",
        "rtt_sent_ns",
        "rtt_samples",
        "rtt_sum_ns",
        "rtt_min_ns",
        "rtt_max_ns",
        "window_min",
        "window_max",
        "in_flight_max",
        "counts",
        "retrans_bytes",
        "duplicate_bytes",
        "gaps",
        "gap_bytes",
        "holes",
    )

    def __init__(self) -> None:
        self.nextseq = 0  # number after the highest one sent
        self.maxack = 0  # up to where all was seen: the most that can be acknowledged
        self.lastack = 0  # of its last segment
        self.window = 0  # of its last segment, as sent
        self.last = 0  # whether that was a keep-alive or a probe
        self.syn_last = False  # or a SYN, whose window is not scaled
        self.nextseq_ns = 0  # when nextseq moved
        self.seen = False  # there was a segment of this end
        self.last_ns = 0  # when its last one came
        self.dupacks = 0
        self.base = 0  # number of its SYN, the last one that differs
        self.timing = False  # rtt_sent_ns is when what ends at rtt_seq was sent
        self.resent = False  # and it was sent again since
        self.rtt_seq = 0
        self.rtt_tsval = 0  # of the first copy, 0 for none
        self.rtt_sent_ns = 0
        self.rtt_samples = 0
        self.rtt_sum_ns = 0
        self.rtt_min_ns = 0
        self.rtt_max_ns = 0
        self.window_min = 0xFFFF  # as sent
        self.window_max = 0
        self.in_flight_max = 0
        self.counts = [0] * 15  # of each class
        self.retrans_bytes = 0
        self.duplicate_bytes = 0
        self.gaps = 0  # holes that were given up
        self.gap_bytes = 0
        self.holes: list[tuple[int, int]] = []  # ascending


class ChronoEnd:
    """What limits one end: the cause that holds, and what it is told by."""

    __slots__ = (
        "cause", "answering", "answer_end_ns", "limited_ns", "full_size", "short", "full",
        "recovering", "recover",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cause = 0  # Cause
        self.answering = False  # idle, but it cannot have answered before answer_end_ns
        self.answer_end_ns = 0
        self.limited_ns = [0] * 5  # by Cause
        self.full_size = 512  # of a segment that it could not have made longer
        self.short = False  # its last segment was shorter
        self.full = False  # the last round filled the window
        self.recovering = False  # until `recover` is acknowledged
        self.recover = 0


class Chrono:
    """Clocks of a connection: what limited each end, and for how long."""

    __slots__ = ("ends", "handshake_ns", "round_edge", "round_end_ns", "round_full", "round_side")

    def __init__(self) -> None:
        self.ends = (ChronoEnd(), ChronoEnd())
        self.handshake_ns = 0
        self.round_side: int | None = None  # whose flight is measured; None while none is
        self.round_end_ns: int | None = None
        self.round_edge = 0  # where the window ended when the round began
        self.round_full = False


class Analysis:
    """What the analysis knows of a connection."""

    __slots__ = ("chrono", "ends", "history", "noted")

    def __init__(self) -> None:
        self.chrono = Chrono()
        self.ends = (AnalysisEnd(), AnalysisEnd())
        self.history = bytearray()
        self.noted = [0, 0]  # which letters of the history each side has


class FlowBit(IntFlag):
    FLOW_JUDGED = 1  # a segment has reached the judge
    FLOW_SYN = 2  # rtt_ns holds the time of a SYN
    FLOW_SYN_BA = 4  # which b sent
    FLOW_RTT = 8  # rtt_ns is the initial RTT
    FLOW_HALF_OPEN = 16  # waits in the tracker's list of half-open connections
    FLOW_CLOSED = 32  # waits in its list of closed ones
