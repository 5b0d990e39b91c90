# What numbers of the engine are called; a part of _core.pyx.

# By Format and by Damage of pcap.pxd.
cdef tuple FORMATS = ("", "pcap", "pcap-ns", "pcap-modified", "pcapng")
cdef tuple PCAP_REASONS = (
    "",
    "not a pcap or pcapng capture",
    "file header is cut",
    "record header is cut",
    "record is cut",
    "record claims {} bytes",
    "block header is cut",
    "block is cut",
    "block claims {} bytes",
    "block lengths differ",
    "section has no byte-order magic",
    "section is of version {}",
    "section has more than 65536 interfaces",
    "packet of interface {}, which is not declared",
    "packet claims {} bytes",
    "no memory to go on",
)

# The columns of tcpcore/columns.py, in its order and that of the enums in rows.pxd.
cdef tuple CONNECTIONS = tuple(
    "conn ip a_addr a_port b_addr b_port first_ns last_ns first_packet packets_ab packets_ba "
    "frame_bytes_ab frame_bytes_ba payload_bytes_ab payload_bytes_ba flags_ab flags_ba isn_ab "
    "isn_ba mss_ab mss_ba wscale_ab wscale_ba sack_permitted_ab sack_permitted_ba timestamps_ab "
    "timestamps_ba bad_checksum_ab bad_checksum_ba state_a state_b completeness "
    "initial_rtt_ns interface vlan inner_vlan encap outer_a outer_b".split()
) + tuple(
    f"{name}_{way}"
    for name in (
        "retransmission fast_retransmission spurious_retransmission out_of_order lost_segment "
        "ack_lost_segment duplicate_ack keep_alive keep_alive_ack zero_window zero_window_probe "
        "zero_window_probe_ack window_full window_update reused_ports retrans_bytes rtt_min_ns "
        "rtt_mean_ns rtt_max_ns rtt_samples in_flight_max window_min window_max gaps gap_bytes "
        "duplicate_bytes".split()
    )
    for way in ("ab", "ba")
) + tuple(
    "history conn_state handshake_ns app_limited_ns_ab app_limited_ns_ba rwnd_limited_ns_ab "
    "rwnd_limited_ns_ba network_limited_ns_ab network_limited_ns_ba slow".split()
)
cdef tuple PACKETS = tuple(
    "packet file conn dir time_ns offset caplen wirelen seq ack flags window payload_len verdict "
    "drop_reason interface vlan inner_vlan encap analysis dup_ack_num reason".split()
)
