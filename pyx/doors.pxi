# Doors to lower floors, for the tests that hold the twins equal; a part of _core.pyx.

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from csum cimport csum_fold, csum_partial
from inet_hashtables cimport flow_hash as c_flow_hash
from inet_hashtables cimport bucket
from ip_fragment cimport ip_frags_free
from ip_input cimport ip_rcv, ip_rcv_plain
from ip_tunnel cimport outer, outer_clear
from net cimport net
from pcap cimport frame
from secure_seq cimport siphash as c_siphash
from tcb cimport tcb_rcv as c_tcb_rcv
from tcb cimport tcb_xmit as c_tcb_xmit
from tcb cimport tcp_sequence as c_tcp_sequence
from tcp cimport (
    BAD_DOFF,
    BAD_IP_CSUM,
    BAD_TCP_CSUM,
    TCP_BAD_DOFF,
    TCP_CLOSE,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TCPHDR_URG,
    end,
    flow,
    flow_link,
    flow_rest,
    segment,
    tcb,
)
from tcp_md5 cimport md5 as c_md5
from tcp_queue cimport skb, sock_queue
from unaligned cimport cpu_to_be32, get_be16, ipv6_addr_set_v4mapped
from wire cimport tcp_parse_options


def csum(bytes data, uint32_t start=0):
    """The folded ones' complement sum of data, in network order."""
    cdef uint16_t folded = csum_fold(start)
    folded = csum_fold(csum_partial(PyBytes_AS_STRING(data), len(data), get_be16(&folded)))
    return get_be16(&folded)


def md5(bytes data):
    """MD5 of data."""
    cdef uint8_t digest[16]
    c_md5(PyBytes_AS_STRING(data), len(data), digest)
    return (<char *>digest)[:16]


def siphash(bytes key, bytes data):
    """SipHash-2-4 of data, 64 bits."""
    cdef uint64_t k[2]
    if len(key) != 16:
        raise ValueError(f"key must have 16 bytes, not {len(key)}")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    return c_siphash(k, PyBytes_AS_STRING(data), len(data))


def flow_hash(bytes key, bytes saddr, bytes daddr, uint16_t sport, uint16_t dport):
    """The hash of a 4-tuple, the same for both directions; addresses of 4 or of 16 bytes."""
    cdef uint64_t k[2]
    cdef uint32_t ports = cpu_to_be32(<uint32_t>sport << 16 | dport)
    if len(key) != 16 or len(saddr) != len(daddr) or len(saddr) not in (4, 16):
        raise ValueError("a key has 16 bytes, addresses have 4 or 16")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    addrs = saddr + daddr
    return c_flow_hash(
        k, <const uint8_t *>PyBytes_AS_STRING(addrs), ports, 4 if len(saddr) == 4 else 6
    )


def parse_frame(int linktype, bytes data, uint32_t wirelen):
    """Every field of the segment in a frame, or only `drop` where it is none."""
    cdef frame at
    cdef segment seg
    cdef net n
    cdef outer out
    cdef int drop = 0
    cdef char addrs[32]
    memset(&at, 0, sizeof(at))
    memset(&seg, 0, sizeof(seg))
    memset(&n, 0, sizeof(n))
    at.data = <const uint8_t *>PyBytes_AS_STRING(data)
    at.caplen = len(data)
    at.wirelen = max(<uint32_t>len(data), wirelen)
    at.linktype = linktype
    outer_clear(&out)
    if not ip_rcv_plain(&n, &at, &seg):
        drop = ip_rcv(&n, &at, &seg, &out)
        ip_frags_free(&n.frags)
    if drop:
        return {"drop": drop}
    if seg.ip == 4:
        ipv6_addr_set_v4mapped(addrs, &seg.acookie)
        ipv6_addr_set_v4mapped(addrs + 16, <char *>&seg.acookie + 4)
    else:
        memcpy(addrs, seg.addrs, 32)
    return {
        "saddr": addrs[:16],
        "daddr": addrs[16:32],
        "sport": cpu_to_be32(seg.ports) >> 16,
        "dport": cpu_to_be32(seg.ports) & 0xFFFF,
        "ip": seg.ip,
        "seq": seg.seq,
        "ack": seg.ack,
        "end_seq": seg.end_seq,
        "payload_len": seg.payload_len,
        "flags": seg.flags,
        "window": seg.window,
        "doff": seg.doff,
        "opts": seg.opts,
        "transport_header": seg.transport_header - at.data,
        "mss": seg.mss,
        "urgent": seg.urgent if seg.flags & TCPHDR_URG else 0,
        "wscale": seg.wscale,
        "tsval": seg.tsval,
        "tsecr": seg.tsecr,
        "vlan": out.vlan,
        "inner_vlan": out.inner_vlan,
        "vlans": out.vlans,
        "encap": out.encap,
        "tunnel": out.tunnel,
        "outer": ((<char *>out.addrs)[:16], (<char *>out.addrs)[16:32]) if out.ip else (),
        "bad_ip_csum": (seg.bad & BAD_IP_CSUM) != 0,
        "bad_tcp_csum": (seg.bad & BAD_TCP_CSUM) != 0,
        "drop": TCP_BAD_DOFF if seg.bad & BAD_DOFF else 0,
    }


def fragment_pieces(int linktype, list frames):
    """Where the datagram lies that the last of these frames makes whole, if their bytes follow one
    another in a capture: (offset in the datagram, length, offset in the capture) of each piece."""
    cdef frame at
    cdef segment seg
    cdef net n
    cdef outer out
    cdef bytes data
    cdef int drop = 0
    cdef list found = []
    memset(&at, 0, sizeof(at))
    memset(&n, 0, sizeof(n))
    outer_clear(&out)
    for data in frames:
        at.data = <const uint8_t *>PyBytes_AS_STRING(data)
        at.caplen = at.wirelen = len(data)
        at.linktype = linktype
        drop = ip_rcv(&n, &at, &seg, &out)
        at.offset += len(data)
    if drop == 0 and out.whole != NULL:
        for i in range(out.whole.n_pieces):
            one = out.whole.pieces[i]
            found.append((one.offset, one.length, one.source))
    ip_frags_free(&n.frags)
    return found


def parse_options(bytes options):
    """The options that a header's option bytes hold."""
    cdef segment seg
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(options)
    memset(&seg, 0, sizeof(seg))
    tcp_parse_options(&seg, data, data + len(options))
    return {
        "opts": seg.opts,
        "mss": seg.mss,
        "wscale": seg.wscale,
        "tsval": seg.tsval,
        "tsecr": seg.tsecr,
    }


cdef int fill_segment(segment *seg, dict fields) except -1:
    """A segment from its judged fields; what is not named is 0, end_seq follows from the rest."""
    memset(seg, 0, sizeof(seg[0]))
    seg.seq = fields.get("seq", 0)
    seg.ack = fields.get("ack", 0)
    seg.flags = fields.get("flags", 0)
    seg.window = fields.get("window", 0)
    seg.payload_len = fields.get("payload_len", 0)
    seg.opts = fields.get("opts", 0)
    seg.mss = fields.get("mss", 0)
    seg.wscale = fields.get("wscale", 0)
    seg.tsval = fields.get("tsval", 0)
    seg.tsecr = fields.get("tsecr", 0)
    seg.end_seq = (
        seg.seq
        + seg.payload_len
        + ((seg.flags & TCPHDR_SYN) != 0)
        + ((seg.flags & TCPHDR_FIN) != 0)
    )
    return 0


cdef int fill_tcb(tcb *tp, dict fields) except -1:
    memset(tp, 0, sizeof(tp[0]))
    tp.state = fields.get("state", TCP_CLOSE)
    tp.snd_una = fields.get("snd_una", 0)
    tp.snd_nxt = fields.get("snd_nxt", 0)
    tp.snd_wl1 = fields.get("snd_wl1", 0)
    tp.snd_wnd = fields.get("snd_wnd", 0)
    tp.max_window = fields.get("max_window", 0)
    tp.rcv_nxt = fields.get("rcv_nxt", 0)
    tp.rcv_mwnd_seq = fields.get("rcv_mwnd_seq", 0)
    tp.ts_recent = fields.get("ts_recent", 0)
    tp.snd_wscale = fields.get("snd_wscale", 0)
    tp.rcv_wscale = fields.get("rcv_wscale", 0)
    tp.flags = fields.get("flags", 0)
    return 0


def tcb_xmit(dict tcb_fields, dict seg):
    """Move one end by a segment that it sent: (tcb, verdict)."""
    cdef tcb tp
    cdef segment th
    fill_tcb(&tp, tcb_fields)
    fill_segment(&th, seg)
    verdict = c_tcb_xmit(&tp, &th)
    return dict(tp), verdict


def tcb_rcv(dict tcb_fields, dict seg):
    """Move one end by a segment that reached it: (tcb, verdict)."""
    cdef tcb tp
    cdef segment th
    fill_tcb(&tp, tcb_fields)
    fill_segment(&th, seg)
    verdict = c_tcb_rcv(&tp, &th)
    return dict(tp), verdict


def tcp_sequence(dict tcb_fields, uint32_t seq, uint32_t end_seq):
    """0 if a segment of these numbers is acceptable, else TCB_OLD or TCB_OVERWINDOW."""
    cdef tcb tp
    fill_tcb(&tp, tcb_fields)
    return c_tcp_sequence(&tp, seq, end_seq)


def sizes():
    """Bytes of the structs whose layout is a promise: whole cache lines by use."""
    return {
        "tcb": sizeof(tcb),
        "end": sizeof(end),
        "flow": sizeof(flow),
        "flow_rest": sizeof(flow_rest),
        "flow_link": sizeof(flow_link),
        "analysis": sizeof(analysis),
        "analysis_more": sizeof(analysis_more),
        "analysis_rare": sizeof(analysis_rare),
        "analysis_far": sizeof(analysis_far),
        "bucket": sizeof(bucket),
        "skb": sizeof(skb),
        "sock_queue": sizeof(sock_queue),
        "tcp_sock": sizeof(tcp_sock),
        "request_sock": sizeof(request_sock),
        "timewait_sock": sizeof(timewait_sock),
    }
