# The vocabulary: states, flags, options, verdicts, drop reasons, structs, sequence arithmetic.
# Linux: include/net/tcp.h, tcp_states.h, dropreason-core.h.  RFC 9293 3.1 to 3.4.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# Linux's numbers, which the columns state_a and state_b carry.
cdef enum:
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

cdef enum:
    TCPHDR_FIN = 0x001
    TCPHDR_SYN = 0x002
    TCPHDR_RST = 0x004
    TCPHDR_PSH = 0x008
    TCPHDR_ACK = 0x010
    TCPHDR_URG = 0x020
    TCPHDR_CONTROL = TCPHDR_SYN | TCPHDR_FIN | TCPHDR_RST

cdef enum:
    TCPOPT_EOL = 0
    TCPOPT_NOP = 1
    TCPOPT_MSS = 2
    TCPOPT_WINDOW = 3
    TCPOPT_SACK_PERM = 4
    TCPOPT_TIMESTAMP = 8

cdef enum:
    TCPOLEN_MSS = 4
    TCPOLEN_WINDOW = 3
    TCPOLEN_SACK_PERM = 2
    TCPOLEN_TIMESTAMP = 10

cdef enum:
    TCP_MAX_WSCALE = 14  # RFC 7323 2.3

# Options a segment carries; kept per end as the OR over its segments.
cdef enum:  # Opt
    OPT_MSS = 1
    OPT_WSCALE = 2
    OPT_SACK_PERM = 4
    OPT_TIMESTAMP = 8
    OPT_ISN = 16  # end only: a SYN of this end was seen, `isn` is its number
    OPT_BASE = 32  # end only: `isn` is a base inferred from other segments
    OPT_CUT = 64  # options go on where the capture ends: what they say is not known

# What is wrong with a segment.
cdef enum:  # Bad
    BAD_IP_CSUM = 1
    BAD_TCP_CSUM = 2
    BAD_DOFF = 4  # nobody can tell where its header ends
    # Of a wrong checksum, what tells that the sender's network card was to fill it in.
    BAD_PARTIAL = 8  # TCP's is the pseudo header's sum, with or without a length
    BAD_ZERO = 16  # TCP's is 0
    BAD_TSO = 32  # IP's length is 0: the card cuts it into segments
    BAD_IP_ZERO = 64  # IP's is 0

# What is known of one end.
cdef enum:  # TcbFlag
    TCB_SND = 1  # snd_una and snd_nxt are known
    TCB_RCV = 2  # rcv_nxt is known
    TCB_WINDOW = 4  # rcv_mwnd_seq is known: this end has offered a window
    TCB_PEER_WINDOW = 8  # snd_wnd is known: a window for this end was seen
    TCB_WSCALE_SENT = 16  # this end's SYN offered a shift (rcv_wscale)
    TCB_WSCALE_RCVD = 32  # its peer's SYN offered one (snd_wscale)
    TCB_TSTAMP = 64  # ts_recent is valid
    TCB_FIN_SENT = 128  # snd_nxt counts a FIN

# What the judge and the tracker say of a segment (the column `verdict`).
cdef enum:  # Verdict
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

# Wireshark's classes (the column `analysis`).
cdef enum:  # Class
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

cdef enum:
    NR_CLASSES = 15

# Why a frame is no segment, or why state did not take a segment.
cdef enum:  # Drop
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

# Completeness, OR over all segments in any order.
cdef enum:
    COMPLETE_SYN = 1
    COMPLETE_SYNACK = 2
    COMPLETE_ACK = 4
    COMPLETE_DATA = 8
    COMPLETE_FIN = 16
    COMPLETE_RST = 32

cdef enum:  # FlowBit
    FLOW_JUDGED = 1  # a segment has reached the judge
    FLOW_SYN = 2  # rtt_ns holds the time of a SYN
    FLOW_SYN_BA = 4  # which b sent
    FLOW_RTT = 8  # rtt_ns is the initial RTT
    FLOW_HALF_OPEN = 16  # waits in the tracker's list of half-open connections
    FLOW_CLOSED = 32  # waits in its list of closed ones
    FLOW_PLAIN = 64  # both ends were seen and no RTT is pending: most segments add only to counts
    FLOW_OPEN = 128  # plain, established, all known of both ends: headers can be predicted


cdef inline bint before(uint32_t seq1, uint32_t seq2) noexcept nogil:
    """True if seq1 comes before seq2 on the circle (RFC 9293 3.4)."""
    return <int32_t>(seq1 - seq2) < 0

cdef inline bint after(uint32_t seq1, uint32_t seq2) noexcept nogil:
    """True if seq1 comes after seq2 on the circle."""
    return <int32_t>(seq2 - seq1) < 0

cdef inline bint between(uint32_t seq1, uint32_t seq2, uint32_t seq3) noexcept nogil:
    """True if seq2 <= seq1 <= seq3 on the circle."""
    return seq3 - seq2 >= seq1 - seq2


# What is known of one end: the judge's whole state, 36 bytes.
cdef struct tcb:
    uint32_t snd_una  # first number not acknowledged
    uint32_t snd_nxt  # number after the last one sent
    uint32_t snd_wl1  # number of the segment that last moved snd_wnd
    uint32_t snd_wnd  # bytes the peer allows, scaled
    uint32_t max_window  # largest snd_wnd ever
    uint32_t rcv_nxt  # number expected next
    uint32_t rcv_mwnd_seq  # rightmost edge ever offered (a window never shrinks)
    uint32_t ts_recent
    uint8_t state
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t flags  # TcbFlag

# One segment's fields in host order, as `ip_rcv` and `tcp_parse` leave them.
cdef struct segment:
    const uint8_t *transport_header  # where TCP's header lies
    const uint8_t *addrs  # of IPv6: where they lie in the frame or its datagram, both side by side
    uint64_t acookie  # both side by side as on the wire, of IPv6 the last four bytes of each
    uint32_t ports  # both, as on the wire
    uint32_t seq
    uint32_t ack
    uint32_t end_seq  # seq + payload_len + SYN + FIN
    uint32_t payload_len
    uint16_t flags  # low 12 bits of the flag word, reserved ones included
    uint16_t window  # as sent, not scaled
    uint8_t ip  # 4 or 6
    uint8_t doff  # header length in 32-bit words
    uint8_t opts  # Opt
    uint8_t bad  # Bad
    uint32_t tsval
    uint32_t tsecr
    uint16_t mss
    uint16_t urgent  # with URG: one above the urgent byte's place behind seq; 0 if it was cut
    uint8_t wscale  # as sent, not clamped


cdef inline bint tcp_is_synack(const segment *th) noexcept nogil:
    return (th.flags & (TCPHDR_SYN | TCPHDR_ACK)) == (TCPHDR_SYN | TCPHDR_ACK)


# What every segment of one end moves: the judge's state, then the counts' low words.
cdef struct end:
    tcb tcb
    uint32_t packets
    uint32_t frame_bytes
    uint32_t payload_bytes
    uint16_t flags
    uint8_t opts  # Opt
    uint8_t shift  # what its SYN offered (OPT_WSCALE), clamped

# One followed connection: two cache lines that each of its segments reads and writes;
# ends[0] is a, ends[1] is b. A miss costs more than all the rest, so nothing else is here.
cdef struct flow:
    uint32_t a_addr  # as on the wire; of IPv6 the last four bytes, all 16 are in flow_addrs
    uint32_t b_addr
    uint16_t a_port  # as on the wire
    uint16_t b_port
    uint8_t ip
    uint8_t completeness  # of its SYNs and ACKs; the counts tell of the rest
    uint8_t bits  # FlowBit
    uint8_t wrapped  # it has a flow_outer
    int64_t last_ns
    end ends[2]

# The rest of it, one line that handshakes touch: what is written once, and what rarely moves.
cdef struct flow_rest:
    int64_t first_ns
    uint64_t first_packet
    int64_t rtt_ns  # time of the latest SYN until FLOW_RTT is set
    uint32_t addrs  # index of its flow_addrs, where ip is 6
    uint32_t isn[2]  # of the end's first SYN (OPT_ISN), else a base inferred (OPT_BASE)
    uint32_t bad_checksum[2]
    uint16_t packets_hi[2]  # counts are 48 bits: these are the high half words
    uint16_t frame_bytes_hi[2]
    uint16_t payload_bytes_hi[2]
    uint16_t mss[2]
    uint8_t wscale[2]
    uint8_t has_addrs  # `addrs` is set; it stays so when another flow takes this one's place
    uint8_t synacks  # SYN-ACKs with other numbers than the first that are kept of it

# Addresses of an IPv6 connection.
cdef struct flow_addrs:
    uint8_t a[16]
    uint8_t b[16]

# What was around the first segment of a connection, where there was anything.
cdef struct flow_outer:
    uint8_t addrs[32]  # a's end of the outermost packet, then b's; zeros if there is none
    uint64_t context  # what of it is part of the key
    uint16_t encap
    int16_t vlan
    int16_t inner_vlan
    uint16_t interface

# What else than addresses and ports tells connections apart.
cdef enum:  # Key
    KEY_VLAN = 1
    KEY_INTERFACE = 2
    KEY_TUNNEL = 4

# A row whose connection is no longer followed.
cdef struct flow_row:
    flow flow
    flow_rest rest
    flow_addrs addrs
    uint64_t conn

# What the analysis of one end needs of most segments, one line; numbers that are 0 are not known.
cdef struct analysis_end:
    uint32_t nextseq  # number after the highest one sent
    uint32_t lastack  # of its last segment
    uint16_t window  # of its last segment, as sent
    uint8_t bits  # AnalysisBit
    uint8_t noted  # which letters of the history it has
    uint32_t rtt_seq
    int64_t nextseq_ns  # when nextseq moved
    int64_t rtt_sent_ns  # when what ends at rtt_seq was sent
    uint64_t rtt_sum_ns
    uint32_t rtt_samples
    uint32_t rtt_min_ns  # the largest number stands for what analysis_far has
    uint32_t rtt_max_ns
    uint32_t in_flight_max
    uint16_t window_min  # as sent
    uint16_t window_max
    uint16_t full_size  # of a segment that it could not have made longer
    uint8_t limits  # LimitBit

# The analysis of a connection: what each segment needs, the rest is in analysis_more.
cdef struct analysis:
    analysis_end ends[2]

# The rest of it, by the same index: clocks and text, which move when what limits an end changes.
cdef struct analysis_more:
    uint64_t history[3]  # twelve letters each, of five bits
    uint8_t history_len
    uint8_t rounds  # RoundBit
    uint32_t base[2]  # number of the end's SYN, the last one that differs
    uint32_t rare[2]  # index of the end's analysis_rare, and one; 0 for none
    uint32_t answer_end  # when the end that was last idle could have answered, the low word in ns
    int64_t limited_since_ns  # up to then the clocks have counted
    uint64_t handshake_ns
    uint64_t app_limited_ns[2]
    uint64_t network_limited_ns[2]
    int64_t round_end_ns
    uint32_t round_edge  # where the window ended when the round began

cdef struct hole:
    uint32_t begin
    uint32_t end

# What only an end has where something happened.
cdef struct analysis_rare:
    uint64_t places  # four bits a class: where its count is, and one; the top four: how many are
    uint32_t counts[5]
    uint32_t far  # index of its analysis_far, and one; 0 for none
    uint64_t retrans_bytes
    uint64_t duplicate_bytes
    int64_t dupack_ns  # when its last duplicate ACK came
    uint32_t dupacks  # in a row, while AN_DUPACKS stands
    uint32_t recover  # what has to be acknowledged to end a recovery
    uint32_t maxack  # up to where all was seen, while AN_HOLE stands
    uint32_t rtt_tsval  # of the first copy of what is timed, 0 for none

# What few of them have.
cdef struct analysis_far:
    uint64_t rwnd_limited_ns
    uint64_t rtt_min_ns
    uint64_t rtt_max_ns
    uint64_t gap_bytes
    uint32_t gaps  # holes that were given up
    uint32_t n_holes
    hole holes[3]  # ascending
    uint32_t counts[10]  # of more classes

# What the analysis says of a segment.
cdef struct analysed:
    uint32_t classes
    uint32_t dup_ack_num
    uint8_t reason

# Where flows come and go: a flow's place in the queues, its number and its clock.
cdef struct flow_link:
    uint32_t prev[2]
    uint32_t next[2]
    uint64_t conn
    int64_t stamp_ns  # the tracker's clock when its last segment came
    uint32_t tag  # where it is in the table
    uint32_t pad
