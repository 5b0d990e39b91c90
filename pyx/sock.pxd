# What an endpoint is made of: sockets, requests, what waits in TIME-WAIT, buffers, knobs.
# Linux: include/net/sock.h, inet_connection_sock.h, request_sock.h, inet_timewait_sock.h,
# include/linux/tcp.h, skbuff.h.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from tcp cimport segment, tcb
from timer cimport lazy_timer, timer

# Which of a socket's timers.
cdef enum:
    ICSK_TIME_RETRANS = 1
    ICSK_TIME_DACK = 2
    ICSK_TIME_PROBE0 = 3
    ICSK_TIME_KEEPOPEN = 4
    ICSK_TIME_LOSS_PROBE = 5
    TCP_SYNACK_TIMER = 6  # a request's
    TCP_TW_TIMER = 7  # of what is in TIME-WAIT
    ICSK_TIME_REO_TIMEOUT = 8

cdef enum:
    TCP_MSS_DEFAULT = 536
    TCP_MIN_MSS = 88
    TCP_MAX_QUICKACKS = 16
    TCP_PINGPONG_THRESH = 1  # answers that make a connection interactive
    TCP_INIT_CWND = 10
    TCP_INFINITE_SSTHRESH = 0x7FFFFFFF
    TCP_FASTRETRANS_THRESH = 3
    TCP_RACK_RECOVERY_THRESH = 16  # recoveries that a wider window lasts
    MAX_TCP_KEEPIDLE = 32767  # s
    MAX_TCP_KEEPINTVL = 32767
    MAX_TCP_KEEPCNT = 127
    MAX_TCP_SYNCNT = 127
    GSO_MAX_SIZE = 65536
    MAX_TCP_HEADER = 256
    SKB_OVERHEAD = 256  # of truesize: what Linux's struct sk_buff takes
    SKB_SHARED_INFO = 320  # at the end of each buffer
    SKB_HEADROOM = 104  # before the data of a segment: room, IP and TCP headers
    SKB_SMALL_HEAD = 640  # a buffer for little
    SKB_HEAD_TEXT = 3672  # of a segment beyond 4 KiB, what its head has room for
    TCP_RMEM_TO_WIN_SCALE = 8
    TCP_DEFAULT_SCALING_RATIO = 128  # of 256
    PAGE = 4096

cdef extern from *:
    """
    #define TCP_TIMEOUT_INIT_NS 1000000000ll
    #define TCP_TIMEOUT_MIN_NS 8000000ll
    #define TCP_TLP_SLACK_NS 2000000ll
    #define TCP_TIMEOUT_FALLBACK_NS 3000000000ll
    #define TCP_RTO_MIN_NS 200000000ll
    #define TCP_RTO_MAX_NS 120000000000ll
    #define TCP_DELACK_MIN_NS 40000000ll
    #define TCP_DELACK_MAX_NS 200000000ll
    #define TCP_ATO_MIN_NS 40000000ll
    #define TCP_TIMEWAIT_LEN_NS 60000000000ll
    #define TCP_TW_SHORT_NS 4000000000ll
    #define TCP_PAWS_24DAYS_NS 2073600000000000ll
    """
    const int64_t TCP_TIMEOUT_INIT_NS
    const int64_t TCP_TIMEOUT_MIN_NS  # two ticks
    const int64_t TCP_TLP_SLACK_NS  # of a probe of several segments
    const int64_t TCP_TIMEOUT_FALLBACK_NS
    const int64_t TCP_RTO_MIN_NS
    const int64_t TCP_RTO_MAX_NS
    const int64_t TCP_DELACK_MIN_NS
    const int64_t TCP_DELACK_MAX_NS
    const int64_t TCP_ATO_MIN_NS
    const int64_t TCP_TIMEWAIT_LEN_NS
    const int64_t TCP_TW_SHORT_NS  # counted apart
    const int64_t TCP_PAWS_24DAYS_NS

cdef enum:
    RCV_SHUTDOWN = 1
    SEND_SHUTDOWN = 2
    SHUTDOWN_MASK = 3

cdef enum:
    SOCK_BINDADDR_LOCK = 1
    SOCK_BINDPORT_LOCK = 2
    SOCK_SNDBUF_LOCK = 4
    SOCK_RCVBUF_LOCK = 8

cdef enum:
    TCP_NAGLE_OFF = 1
    TCP_NAGLE_CORK = 2
    TCP_NAGLE_PUSH = 4

cdef enum:
    ICSK_ACK_SCHED = 1
    ICSK_ACK_TIMER = 2
    ICSK_ACK_PUSHED = 4
    ICSK_ACK_PUSHED2 = 8
    ICSK_ACK_NOW = 16
    ICSK_ACK_NOMEM = 32  # a segment was dropped as there was no room: tell of no window

cdef enum:
    TCPCB_SACKED_ACKED = 1
    TCPCB_SACKED_RETRANS = 2
    TCPCB_LOST = 4
    TCPCB_EVER_RETRANS = 0x80

cdef enum:
    TCP_URG_VALID = 0x0100
    TCP_URG_NOTYET = 0x0200
    TCP_URG_READ = 0x0400

# What congestion control is about.
cdef enum:  # CaState
    TCP_CA_OPEN = 0
    TCP_CA_DISORDER = 1
    TCP_CA_CWR = 2
    TCP_CA_RECOVERY = 3
    TCP_CA_LOSS = 4

# What begins with a sock_common.
cdef enum:
    SK_TCP = 0
    SK_REQUEST = 1
    SK_TIMEWAIT = 2

cdef enum:
    TCP_NUM_SACKS = 4

# A page: bytes that pieces of streams share, of one host's or of two that hand them on.
cdef struct skb_data:
    skb_data *next  # while it is free, or waits to be given back
    void *owner  # a caller's object that has the bytes; NULL: they lie behind this header
    int32_t refs
    uint32_t size  # bytes behind this header

# Sends without copying whose bytes are in use: told when the last piece is gone.
cdef struct ubuf_info:
    ubuf_info *next  # of a socket's
    ubuf_info *prev
    int64_t bytelen
    uint32_t id
    uint32_t len
    int32_t refs
    uint8_t zerocopy  # none of it was copied

# A message of the error queue: struct sock_extended_err, a time and, behind it, some bytes.
cdef struct err_skb:
    err_skb *next
    int64_t stamp_ns
    uint32_t ee_errno
    uint32_t ee_info
    uint32_t ee_data
    uint8_t ee_origin
    uint8_t ee_type
    uint8_t ee_code
    uint8_t opt_stats  # its bytes are TCP_NLA_
    uint32_t truesize
    uint32_t len
    uint8_t offender[16]  # who told it

# What a socket has that was ever asked for such messages.
cdef struct sock_errors:
    err_skb *first
    err_skb *last
    ubuf_info *ubufs
    int64_t rx_stamp_ns  # when what was read last had come
    int64_t omem_alloc
    int64_t rmem_alloc  # of sk_rmem_alloc, what the queue takes
    uint64_t reports  # how often the caller was told
    uint32_t tsflags  # SOF_TIMESTAMPING_
    uint32_t tskey  # where bytes are counted from
    uint32_t zckey  # number of the next send
    int32_t peek_off  # SO_PEEK_OFF: where the next look begins, behind what was read
    uint8_t rcvtstamp  # 1 SO_TIMESTAMP, 2 SO_TIMESTAMPNS
    uint8_t zerocopy

# Whose segments are signed with which secret (tcp_md5).
cdef struct tcp_md5sig_key:
    uint8_t addr[16]  # IPv4 mapped
    uint8_t prefixlen  # of the 16 bytes
    uint8_t flags
    uint8_t keylen
    uint8_t key[80]

# The keys of one socket, or of what is left of it.
cdef struct tcp_md5sig_info:
    tcp_md5sig_key *keys
    uint32_t n
    uint32_t room
    uint32_t spare  # number of the next that nobody has

# A piece of a stream with its sequence numbers, sent or received.
cdef struct skb:
    skb *next
    skb *prev
    skb_data *head
    uint8_t *data
    uint32_t len
    uint32_t seq
    uint32_t end_seq
    uint32_t truesize
    int64_t skb_mstamp_ns  # when it was sent last
    int32_t pcount  # segments of it, in MSS
    uint32_t frag  # bytes that it may have
    uint8_t tcp_flags
    uint8_t sacked
    uint8_t eor  # a record ends here: nothing is added
    uint8_t lent  # its bytes are not its own: nothing is written behind them
    uint8_t is_app_limited
    uint8_t overtaken  # something that was sent later has arrived
    uint8_t rack_off  # RACK has done with it, until it is sent again
    uint16_t gso_size  # bytes of a segment, where it is sent in several
    uint32_t rb_priority
    uint32_t delivered  # tp.delivered when it was sent
    uint32_t delivered_us  # and when that was; 0 once it has arrived
    uint32_t first_tx_us
    uint32_t tskey  # number of the byte that is stamped
    ubuf_info *ubuf  # whose bytes it has without copying
    # Its place in the tree of a queue, and what its branch holds (rbtree).
    skb *rb_parent
    skb *rb_left
    skb *rb_right
    int64_t rb_sent_ns  # when the first of RB_SENT was sent
    int64_t rb_overtaken_ns  # when the first of RB_OVERTAKEN was, and the last
    int64_t rb_overtaken_last_ns
    uint32_t rb_marks  # RB_
    uint8_t tx_flags  # SKBTX_
    uint8_t frags  # pieces of memory that those without copying are

cdef struct skb_queue:
    skb *first
    skb *last

# A stack's knobs by their Linux names, in Linux's units and the reference's order.
cdef struct sysctls:
    int64_t ip_default_ttl
    int64_t ip_local_port_range[2]
    int64_t ip_no_pmtu_disc
    int64_t icmp_ratelimit
    int64_t min_pmtu
    int64_t mtu_expires
    int64_t rmem_max
    int64_t somaxconn
    int64_t tcp_abort_on_overflow
    int64_t tcp_adv_win_scale
    int64_t tcp_autocorking
    int64_t tcp_base_mss
    int64_t tcp_challenge_ack_limit
    int64_t tcp_comp_sack_delay_ns
    int64_t tcp_comp_sack_nr
    int64_t tcp_comp_sack_rtt_percent
    int64_t tcp_comp_sack_slack_ns
    int64_t tcp_congestion_control
    int64_t tcp_early_retrans
    int64_t tcp_ecn
    int64_t tcp_ecn_fallback
    int64_t tcp_fin_timeout
    int64_t tcp_frto
    int64_t tcp_invalid_ratelimit
    int64_t tcp_keepalive_intvl
    int64_t tcp_keepalive_probes
    int64_t tcp_keepalive_time
    int64_t tcp_limit_output_bytes
    int64_t tcp_max_orphans
    int64_t tcp_max_reordering
    int64_t tcp_max_syn_backlog
    int64_t tcp_max_tw_buckets
    int64_t tcp_min_snd_mss
    int64_t tcp_min_tso_segs
    int64_t tcp_moderate_rcvbuf
    int64_t tcp_notsent_lowat
    int64_t tcp_orphan_retries
    int64_t tcp_recovery
    int64_t tcp_reordering
    int64_t tcp_retries1
    int64_t tcp_retries2
    int64_t tcp_rfc1337
    int64_t tcp_rmem[3]
    int64_t tcp_rto_max_ms
    int64_t tcp_rto_min_us
    int64_t tcp_sack
    int64_t tcp_dsack
    int64_t tcp_shrink_window
    int64_t tcp_slow_start_after_idle
    int64_t tcp_stdurg
    int64_t tcp_syn_linear_timeouts
    int64_t tcp_syn_retries
    int64_t tcp_synack_retries
    int64_t tcp_syncookies
    int64_t tcp_timestamps
    int64_t tcp_tso_win_divisor
    int64_t tcp_tw_reuse
    int64_t tcp_window_scaling
    int64_t tcp_wmem[3]
    int64_t tcp_workaround_signed_windows
    int64_t wmem_max

# CUBIC's and HyStart's (tcp_cong).
cdef struct cubic:
    int64_t last_time
    int64_t epoch_start
    int64_t round_start_ns
    int64_t last_ack_ns
    uint32_t delay_min_us
    uint32_t curr_rtt_us
    int32_t cnt  # acknowledged segments that are worth one segment of window
    int32_t last_max_cwnd
    int32_t last_cwnd
    int32_t bic_origin_point
    int32_t bic_k
    int32_t ack_cnt
    int32_t tcp_cwnd
    uint32_t end_seq
    uint16_t sample_cnt
    uint8_t found

# How everything that has a 4-tuple begins; sk_common of a connection, a request or a rest.
cdef struct sock_common:
    timer sk_timer  # keep-alive, SYN-ACK or TIME-WAIT
    sock_common *ehash_next
    uint8_t saddr[16]  # ours; zeros while any will do
    uint8_t daddr[16]
    uint16_t sport
    uint16_t dport
    uint32_t hash
    uint8_t kind
    uint8_t ip
    uint8_t tos
    uint8_t hashed
    uint32_t md5sig_info  # number of its keys among the host's, once there was one; 0: none

cdef struct sack_block:
    uint32_t start
    uint32_t end

# A connection, or a listener, of an endpoint.
cdef struct tcp_sock:
    sock_common sk
    lazy_timer retransmit_timer
    lazy_timer delack_timer
    tcp_sock *bind_next
    tcp_sock **bind_pprev  # NULL while it has no port
    uint64_t handle
    tcp_sock *handle_next
    tcb tcb
    # Numbers beside the judge's.
    uint32_t rcv_wup  # rcv_nxt when the last window was told
    uint32_t write_seq  # number after the last byte written
    uint32_t pushed_seq
    uint32_t copied_seq  # number of the byte read next
    uint32_t snd_sml  # end of the last small segment
    uint32_t snd_up
    uint32_t urg_seq
    uint32_t tsoffset
    uint32_t rcv_tsecr
    uint32_t rtt_seq
    uint32_t cwnd_usage_seq
    uint32_t high_seq
    uint32_t undo_marker
    uint32_t tlp_high_seq  # snd_nxt when a tail loss probe was sent; 0 for none
    uint32_t highest_sack  # 0 for none
    uint32_t rcvq_seq
    uint32_t rcvq_space
    uint32_t rcv_rtt_seq
    uint32_t rcv_rtt_last_tsecr
    uint32_t compressed_ack_rcv_nxt
    uint32_t last_oow_ack_ms
    uint32_t rto_stamp_ms  # when the first time-out of a row came; 0 for none
    uint32_t rtt_min_us
    # Queues.
    skb_queue sk_write_queue  # not sent yet
    skb_queue tcp_rtx_queue  # sent, not acknowledged
    skb_queue sk_receive_queue
    skb_queue out_of_order_queue
    int64_t sk_wmem_queued
    int64_t sk_rmem_alloc
    int32_t sk_rcvbuf
    int32_t sk_sndbuf
    int32_t rcv_wnd
    int32_t rcv_ssthresh
    int32_t window_clamp
    # Round trips, times 8, 4, 1 and 4.
    int64_t srtt_us
    int64_t mdev_us
    int64_t mdev_max_us
    int64_t rttvar_us
    int64_t rto_ns
    uint32_t rto_min_us
    uint32_t rto_max_ms
    # Congestion control.
    int32_t snd_cwnd
    int32_t snd_cwnd_cnt
    int32_t snd_ssthresh
    int32_t prior_cwnd
    int32_t prior_ssthresh
    int32_t max_packets_out
    int32_t undo_retrans
    int32_t packets_out
    int32_t sacked_out
    int32_t lost_out
    int32_t retrans_out
    int32_t reordering
    int32_t prr_delivered
    int32_t prr_out
    uint32_t delivered
    uint32_t lost
    cubic cubic
    # Times.
    int64_t ts_recent_stamp_ns
    int64_t lsndtime_ns
    int64_t wstamp_ns  # of the last segment of any kind
    int64_t rcv_tstamp_ns
    int64_t retrans_stamp  # ms
    int64_t probes_tstamp_ns
    int64_t ack_ato_ns
    int64_t ack_lrcvtime_ns
    int64_t rcvq_time_ns
    int64_t rcv_rtt_us  # times 8
    int64_t rcv_rtt_time_ns
    # Sizes.
    int32_t pmtu_cookie
    uint16_t mss_cache
    uint16_t retransmits
    uint16_t ofo_due  # so many pieces more until those behind holes are looked at again
    uint16_t advmss
    uint16_t mss_clamp
    uint16_t rcv_mss
    uint16_t last_seg_size
    uint16_t user_mss
    uint16_t probes_out
    uint16_t tcp_header_len
    uint16_t urg_data
    uint8_t scaling_ratio  # data in 256 bytes of receive memory
    uint8_t backoff
    uint8_t ack_pending  # ICSK_ACK_
    uint8_t ack_quick
    uint8_t ack_pingpong
    uint8_t compressed_ack  # duplicate ACKs that wait, with the timer of delayed ones
    uint8_t dup_ack_counter  # sent at once with compressed_ack_rcv_nxt
    uint8_t icsk_pending
    uint8_t ca  # which controller
    uint8_t ca_state
    uint8_t is_cwnd_limited
    uint8_t frto  # a time-out may have been spurious (RFC 5682)
    uint8_t tlp_retrans  # that probe was a retransmission
    uint8_t tstamp_ok
    uint8_t sack_ok  # 1 agreed; 4: a D-SACK was seen
    uint8_t wscale_ok
    uint8_t saw_tstamp
    uint8_t has_saddr  # the caller or a route has said which
    uint8_t has_daddr
    uint8_t userlocks  # SOCK_..._LOCK
    uint8_t reuse
    uint8_t reuseport
    uint8_t dead  # the caller has closed it: an orphan
    uint8_t done  # the peer's FIN is in
    uint8_t gone  # it is freed once the event is over
    uint8_t zapped
    uint8_t nomem  # something that was taken could not be kept
    uint8_t listening  # in the table of listeners
    uint8_t woken
    uint8_t nospace  # the caller has found no room to write
    uint8_t shutdown
    uint8_t nonagle
    uint8_t keepopen
    uint8_t oobinline
    uint8_t linger
    uint8_t recverr
    uint8_t ipv6only
    uint8_t pmtudisc
    uint8_t ttl
    uint8_t has_dsack
    uint8_t n_sacks
    uint8_t defer_accept
    uint8_t syn_retries
    uint8_t keepalive_probes
    uint8_t delack_max_ticks
    uint8_t rack_reo_wnd_steps  # of a quarter of the least round trip
    uint8_t rack_reo_wnd_persist  # recoveries that this lasts
    uint8_t rack_dsack_seen
    uint8_t rack_advanced  # something has arrived since it looked
    uint8_t rack_waits  # this acknowledgment has armed its timer
    uint8_t ecn_flags  # TCP_ECN_
    int16_t sk_err  # errno, told once
    int16_t sk_err_soft
    sack_block sack[4]  # blocks received
    sack_block duplicate_sack
    # What the caller asked for.
    uint32_t user_timeout_ms
    uint32_t notsent_lowat
    int32_t sk_rcvlowat
    int32_t linger_s
    uint16_t keepalive_time_s
    uint16_t keepalive_intvl_s
    uint32_t delivered_ce  # `delivered` that the peer says was marked
    # Listener, and who waits to be accepted.
    uint32_t max_ack_backlog
    tcp_sock *accept_tail  # who came last, and behind him who came first
    tcp_sock *accept_next
    tcp_sock *listener  # of a child that is not accepted yet
    tcp_sock *listen_next
    uint32_t accept_len
    uint32_t n_reqs
    # TCP_INFO.
    uint64_t bytes_sent
    uint64_t bytes_retrans
    uint64_t bytes_acked
    uint64_t bytes_received
    uint32_t total_retrans
    uint32_t segs_in
    uint32_t segs_out
    uint32_t data_segs_in
    uint32_t data_segs_out
    uint32_t dsack_dups
    uint32_t reord_seen
    uint32_t rcv_ooopack
    # RACK (tcp_rack): of what has arrived, the latest sent, and its round trip.
    int64_t rack_mstamp_us
    uint32_t rack_end_seq
    uint32_t rack_rtt_us
    uint32_t rack_last_delivered  # tp.delivered when its window was widened
    int32_t linger2_s  # how long FIN-WAIT-2 of an orphan lasts; -1: not at all
    # Rates (tcp_rate).
    uint64_t sk_pacing_rate
    uint32_t first_tx_us  # when what arrived last was sent
    uint32_t delivered_us
    uint32_t app_limited  # the rate is the caller's until so much has arrived
    uint32_t rate_delivered
    uint32_t rate_interval_us
    uint32_t chrono_start_ms
    uint32_t chrono_stat_ms[3]
    uint32_t total_rto_time  # ms
    uint16_t total_rto
    uint16_t total_rto_recoveries
    uint16_t timeout_rehash
    uint8_t rate_app_limited
    uint8_t chrono_type  # TCP_CHRONO_
    sock_errors *errors  # what is told beside the stream, once somebody has asked

# A SYN that was answered: what the listener keeps until the handshake's ACK.
cdef struct request_sock:
    sock_common sk
    tcp_sock *listener
    int64_t snt_synack_ns  # of the first
    uint32_t last_oow_ack_ms
    uint32_t rcv_isn
    uint32_t snt_isn
    uint32_t ts_recent
    uint32_t ts_off
    uint32_t cookie_base
    uint32_t rsk_window_clamp
    uint32_t rsk_rcv_wnd
    uint32_t snt_tsval_last
    uint16_t num_retrans
    uint16_t mss  # the peer's, clamped
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t wscale_ok
    uint8_t sack_ok
    uint8_t tstamp_ok
    uint8_t acked  # the ACK came, but nothing could be made of it yet
    uint8_t num_timeout
    uint8_t ecn_ok

# What is left of a connection that this end closed first.
cdef struct timewait_sock:
    sock_common sk
    uint32_t ts_recent_stamp  # s
    uint32_t last_oow_ack_ms
    uint32_t rcv_nxt
    uint32_t snd_nxt
    uint32_t rcv_wnd
    uint32_t ts_recent
    uint32_t ts_offset
    uint8_t rcv_wscale
    uint8_t tstamp_ok
    uint8_t substate  # TCP_FIN_WAIT2 of an orphan, or TCP_TIME_WAIT
    uint8_t bound  # it counts at its port

# A segment on its way through the stack: its fields, whose it is, what it carries.
cdef struct rcv_skb:
    segment th
    uint8_t saddr[16]
    uint8_t daddr[16]
    uint16_t sport
    uint16_t dport
    uint16_t urgent
    uint8_t n_sacks
    const uint8_t *data  # its text
    skb_data *page  # where that lies, if it may be kept by reference
    uint32_t len
    sack_block sack[4]
