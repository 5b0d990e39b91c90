"""C's constants by their names, with Linux's numbers, as scripts and snippets use them.

Linux: include/uapi/linux/{socket,tcp,in,errqueue,net_tstamp,eventpoll,fcntl}.h.
"""

from __future__ import annotations

import errno


def _table(*lines: str) -> dict[str, int]:
    """From 'NAME=1 OTHER=0x2' and so on."""
    pairs = (word.partition("=") for line in lines for word in line.split())
    return {name: int(number, 0) for name, _, number in pairs}


CONSTANTS = _table(
    "NULL=0 AF_UNSPEC=0 AF_UNIX=1 AF_INET=2 AF_INET6=10 PF_INET=2 PF_INET6=10",
    "SOCK_STREAM=1 SOCK_DGRAM=2 SOCK_RAW=3 SOCK_NONBLOCK=0x800 SOCK_CLOEXEC=0x80000",
    "IPPROTO_IP=0 IPPROTO_ICMP=1 IPPROTO_TCP=6 IPPROTO_UDP=17 IPPROTO_IPV6=41 IPPROTO_MPTCP=262",
    "SOL_IP=0 SOL_SOCKET=1 SOL_TCP=6 SOL_UDP=17 SOL_IPV6=41 SOL_MPTCP=284",
    # SOL_SOCKET
    "SO_DEBUG=1 SO_REUSEADDR=2 SO_TYPE=3 SO_ERROR=4 SO_DONTROUTE=5 SO_BROADCAST=6 SO_SNDBUF=7",
    "SO_RCVBUF=8 SO_KEEPALIVE=9 SO_OOBINLINE=10 SO_NO_CHECK=11 SO_PRIORITY=12 SO_LINGER=13",
    "SO_BSDCOMPAT=14 SO_REUSEPORT=15 SO_PASSCRED=16 SO_PEERCRED=17 SO_RCVLOWAT=18",
    "SO_SNDLOWAT=19 SO_RCVTIMEO=20 SO_SNDTIMEO=21 SO_BINDTODEVICE=25 SO_TIMESTAMP=29",
    "SO_ACCEPTCONN=30 SO_SNDBUFFORCE=32 SO_RCVBUFFORCE=33 SO_TIMESTAMPNS=35 SO_MARK=36",
    "SO_TIMESTAMPING=37 SO_PROTOCOL=38 SO_DOMAIN=39 SO_RXQ_OVFL=40 SO_PEEK_OFF=42",
    "SO_BUSY_POLL=46 SO_MAX_PACING_RATE=47 SO_INCOMING_CPU=49 SO_MEMINFO=55",
    "SO_INCOMING_NAPI_ID=56 SO_COOKIE=57 SO_ZEROCOPY=60 SO_TXTIME=61 SO_RESERVE_MEM=73",
    "SO_TXREHASH=74 SO_RCVMARK=75 SO_RCVPRIORITY=82",
    # SOL_TCP
    "TCP_NODELAY=1 TCP_MAXSEG=2 TCP_CORK=3 TCP_KEEPIDLE=4 TCP_KEEPINTVL=5 TCP_KEEPCNT=6",
    "TCP_SYNCNT=7 TCP_LINGER2=8 TCP_DEFER_ACCEPT=9 TCP_WINDOW_CLAMP=10 TCP_INFO=11",
    "TCP_QUICKACK=12 TCP_CONGESTION=13 TCP_MD5SIG=14 TCP_THIN_LINEAR_TIMEOUTS=16",
    "TCP_THIN_DUPACK=17 TCP_USER_TIMEOUT=18 TCP_REPAIR=19 TCP_REPAIR_QUEUE=20 TCP_QUEUE_SEQ=21",
    "TCP_REPAIR_OPTIONS=22 TCP_FASTOPEN=23 TCP_TIMESTAMP=24 TCP_NOTSENT_LOWAT=25 TCP_CC_INFO=26",
    "TCP_SAVE_SYN=27 TCP_SAVED_SYN=28 TCP_REPAIR_WINDOW=29 TCP_FASTOPEN_CONNECT=30 TCP_ULP=31",
    "TCP_MD5SIG_EXT=32 TCP_FASTOPEN_KEY=33 TCP_FASTOPEN_NO_COOKIE=34 TCP_ZEROCOPY_RECEIVE=35",
    "TCP_INQ=36 TCP_CM_INQ=36 TCP_TX_DELAY=37 TCP_RTO_MAX_MS=44 TCP_RTO_MIN_US=45",
    "TCP_DELACK_MAX_US=46",
    # SOL_IP, SOL_IPV6
    "IP_TOS=1 IP_TTL=2 IP_HDRINCL=3 IP_OPTIONS=4 IP_RECVOPTS=6 IP_PKTINFO=8 IP_MTU_DISCOVER=10",
    "IP_RECVERR=11 IP_RECVTTL=12 IP_RECVTOS=13 IP_MTU=14 IP_FREEBIND=15 IP_TRANSPARENT=19",
    "IP_BIND_ADDRESS_NO_PORT=24 IP_LOCAL_PORT_RANGE=51 IP_PMTUDISC_DONT=0 IP_PMTUDISC_WANT=1",
    "IP_PMTUDISC_DO=2 IP_PMTUDISC_PROBE=3 IP_PMTUDISC_INTERFACE=4 IP_PMTUDISC_OMIT=5",
    "IPV6_UNICAST_HOPS=16 IPV6_MTU_DISCOVER=23 IPV6_MTU=24 IPV6_RECVERR=25 IPV6_V6ONLY=26",
    "IPV6_TCLASS=67 IPV6_FREEBIND=78",
    # Flags of calls
    "MSG_OOB=1 MSG_PEEK=2 MSG_DONTROUTE=4 MSG_CTRUNC=8 MSG_TRUNC=0x20 MSG_DONTWAIT=0x40",
    "MSG_EOR=0x80 MSG_WAITALL=0x100 MSG_FIN=0x200 MSG_SYN=0x400 MSG_CONFIRM=0x800 MSG_RST=0x1000",
    "MSG_ERRQUEUE=0x2000 MSG_NOSIGNAL=0x4000 MSG_MORE=0x8000 MSG_WAITFORONE=0x10000",
    "MSG_ZEROCOPY=0x4000000 MSG_FASTOPEN=0x20000000 MSG_CMSG_CLOEXEC=0x40000000",
    "SHUT_RD=0 SHUT_WR=1 SHUT_RDWR=2",
    "F_DUPFD=0 F_GETFD=1 F_SETFD=2 F_GETFL=3 F_SETFL=4 FD_CLOEXEC=1",
    "O_RDONLY=0 O_WRONLY=1 O_RDWR=2 O_CREAT=0x40 O_EXCL=0x80 O_TRUNC=0x200 O_APPEND=0x400",
    "O_NONBLOCK=0x800 O_CLOEXEC=0x80000",
    "FIONREAD=0x541B SIOCINQ=0x541B TIOCOUTQ=0x5411 SIOCOUTQ=0x5411 SIOCOUTQNSD=0x894B",
    "SIOCATMARK=0x8905",
    "POLLIN=1 POLLPRI=2 POLLOUT=4 POLLERR=8 POLLHUP=0x10 POLLNVAL=0x20 POLLRDNORM=0x40",
    "POLLRDBAND=0x80 POLLWRNORM=0x100 POLLWRBAND=0x200 POLLRDHUP=0x2000",
    "EPOLLIN=1 EPOLLPRI=2 EPOLLOUT=4 EPOLLERR=8 EPOLLHUP=0x10 EPOLLRDNORM=0x40 EPOLLRDBAND=0x80",
    "EPOLLWRNORM=0x100 EPOLLWRBAND=0x200 EPOLLRDHUP=0x2000 EPOLLEXCLUSIVE=0x10000000",
    "EPOLLWAKEUP=0x20000000 EPOLLONESHOT=0x40000000 EPOLLET=0x80000000",
    "EPOLL_CTL_ADD=1 EPOLL_CTL_DEL=2 EPOLL_CTL_MOD=3",
    "SPLICE_F_MOVE=1 SPLICE_F_NONBLOCK=2 SPLICE_F_MORE=4",
    # Error queue and timestamps
    "SO_EE_ORIGIN_NONE=0 SO_EE_ORIGIN_LOCAL=1 SO_EE_ORIGIN_ICMP=2 SO_EE_ORIGIN_ICMP6=3",
    "SO_EE_ORIGIN_TIMESTAMPING=4 SO_EE_ORIGIN_ZEROCOPY=5 SO_EE_ORIGIN_TXTIME=6",
    "SO_EE_CODE_ZEROCOPY_COPIED=1 SCM_TSTAMP_SND=0 SCM_TSTAMP_SCHED=1 SCM_TSTAMP_ACK=2",
    "SCM_TIMESTAMPING=37 SCM_TIMESTAMPING_OPT_STATS=54 SCM_SECURITY=3",
    "SOF_TIMESTAMPING_TX_HARDWARE=0x1 SOF_TIMESTAMPING_TX_SOFTWARE=0x2",
    "SOF_TIMESTAMPING_RX_HARDWARE=0x4 SOF_TIMESTAMPING_RX_SOFTWARE=0x8",
    "SOF_TIMESTAMPING_SOFTWARE=0x10 SOF_TIMESTAMPING_SYS_HARDWARE=0x20",
    "SOF_TIMESTAMPING_RAW_HARDWARE=0x40 SOF_TIMESTAMPING_OPT_ID=0x80",
    "SOF_TIMESTAMPING_TX_SCHED=0x100 SOF_TIMESTAMPING_TX_ACK=0x200",
    "SOF_TIMESTAMPING_OPT_CMSG=0x400 SOF_TIMESTAMPING_OPT_TSONLY=0x800",
    "SOF_TIMESTAMPING_OPT_STATS=0x1000 SOF_TIMESTAMPING_OPT_PKTINFO=0x2000",
    "SOF_TIMESTAMPING_OPT_TX_SWHW=0x4000 SOF_TIMESTAMPING_BIND_PHC=0x8000",
    "SOF_TIMESTAMPING_OPT_ID_TCP=0x10000",
)
_NLA = (
    "PAD BUSY RWND_LIMITED SNDBUF_LIMITED DATA_SEGS_OUT TOTAL_RETRANS PACING_RATE DELIVERY_RATE "
    "SND_CWND REORDERING MIN_RTT RECUR_RETRANS DELIVERY_RATE_APP_LMT SNDQ_SIZE CA_STATE "
    "SND_SSTHRESH DELIVERED DELIVERED_CE BYTES_SENT BYTES_RETRANS DSACK_DUPS REORD_SEEN SRTT "
    "TIMEOUT_REHASH BYTES_NOTSENT EDT TTL REHASH"
)
CONSTANTS |= {f"TCP_NLA_{name}": i for i, name in enumerate(_NLA.split())}
CONSTANTS |= {
    name: value for name, value in vars(errno).items() if name.startswith("E") and name.isupper()
}

# What snippets may name.
CODE_CONSTANTS = _table(
    "TCP_ESTABLISHED=1 TCP_SYN_SENT=2 TCP_SYN_RECV=3 TCP_FIN_WAIT1=4 TCP_FIN_WAIT2=5",
    "TCP_TIME_WAIT=6 TCP_CLOSE=7 TCP_CLOSE_WAIT=8 TCP_LAST_ACK=9 TCP_LISTEN=10 TCP_CLOSING=11",
    "TCP_NEW_SYN_RECV=12 TCP_CA_Open=0 TCP_CA_Disorder=1 TCP_CA_CWR=2 TCP_CA_Recovery=3",
    "TCP_CA_Loss=4 TCPI_OPT_TIMESTAMPS=1 TCPI_OPT_SACK=2 TCPI_OPT_WSCALE=4 TCPI_OPT_ECN=8",
    "TCPI_OPT_ECN_SEEN=16 TCPI_OPT_SYN_DATA=32 TCPI_OPT_USEC_TS=64 TCPI_OPT_TFO_CHILD=128",
)
# The fields of struct tcp_info in their order: how wide, their names.
TCP_INFO = {
    "6B": "state ca_state retransmits probes backoff options",
    "2B": "scales flags",
    "24I": "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent "
    "last_ack_sent last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh "
    "snd_cwnd advmss reordering rcv_rtt rcv_space total_retrans",
    "4Q": "pacing_rate max_pacing_rate bytes_acked bytes_received",
    "6I": "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out",
    "4Q ": "delivery_rate busy_time rwnd_limited sndbuf_limited",
    "2I": "delivered delivered_ce",
    "2Q": "bytes_sent bytes_retrans",
    "6I ": "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash",
    "2H": "total_rto total_rto_recoveries",
    "8I": "total_rto_time received_ce delivered_e1_bytes delivered_e0_bytes delivered_ce_bytes "
    "received_e1_bytes received_e0_bytes received_ce_bytes",
    "2H ": "ecn_modes accecn_fail_opt",
}
MORE_INFO = "snd_wscale rcv_wscale delivery_rate_app_limited fastopen_client_fail ecn_mode "
MORE_INFO += "accecn_opt_seen accecn_fail_mode options2"
INFO_NAMES = tuple(f"tcpi_{name}" for names in TCP_INFO.values() for name in names.split())
INFO_NAMES += tuple(f"tcpi_{name}" for name in MORE_INFO.split())
SK_MEMINFO = (
    "RMEM_ALLOC", "RCVBUF", "WMEM_ALLOC", "SNDBUF", "FWD_ALLOC", "WMEM_QUEUED", "OPTMEM",
    "BACKLOG", "DROPS",
)  # fmt: skip

# Linux's default knobs of `net.ipv4.tcp_*` that the public collections' defaults.sh changes.
BASELINE: dict[str, str] = {
    "tcp_rmem": "4096 540000 15728640",
    "tcp_wmem": "4096 262144 4194304",
    "tcp_timestamps": "1",
    "tcp_sack": "1",
    "tcp_dsack": "1",
    "tcp_fack": "0",
    "tcp_syn_retries": "5",
    "tcp_synack_retries": "5",
    "tcp_frto": "2",
    "tcp_reordering": "3",
    "tcp_congestion_control": "cubic",
    "tcp_slow_start_after_idle": "0",
    "tcp_early_retrans": "4",
    "tcp_recovery": "1",
    "tcp_tso_win_divisor": "3",
    "tcp_ecn": "0",
    "tcp_ecn_option": "2",
    "tcp_pacing_ss_ratio": "200",
    "tcp_pacing_ca_ratio": "120",
    "tcp_notsent_lowat": "4294967295",
    "tcp_fastopen": "0x70403",
    "tcp_fastopen_key": "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4",
    "tcp_syncookies": "1",
}
