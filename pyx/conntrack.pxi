# What the summary tells of connections; a part of _core.pyx.

from conntrack cimport RTT_BUCKETS
from tcp cimport NR_CLASSES


cdef dict analysis_dict(const conntrack *ct, const departed *gone):
    return {
        "classes": [ct.classes[i] for i in range(NR_CLASSES)],
        "retrans_bytes": ct.retrans_bytes,
        "rtts": {i: gone.rtts[i] for i in range(RTT_BUCKETS) if gone.rtts[i]},
    }


cdef dict row_dict(const flow_row *row):
    cdef const end *a = &row.flow.ends[0]
    cdef const end *b = &row.flow.ends[1]
    return {
        "conn": row.conn,
        "ip": row.flow.ip,
        "a_addr": PyBytes_FromStringAndSize(<const char *>row.addrs.a, 16),
        "a_port": cpu_to_be16(row.flow.a_port),
        "b_addr": PyBytes_FromStringAndSize(<const char *>row.addrs.b, 16),
        "b_port": cpu_to_be16(row.flow.b_port),
        "packets": wide(a.packets, row.rest.packets_hi[0]) + wide(b.packets, row.rest.packets_hi[1]),
        "frame_bytes": <int64_t>flow_frame_bytes(&row.flow, &row.rest),
        "payload_bytes": wide(a.payload_bytes, row.rest.payload_bytes_hi[0])
        + wide(b.payload_bytes, row.rest.payload_bytes_hi[1]),
        "state_a": a.tcb.state,
        "state_b": b.tcb.state,
        "first_ns": row.rest.first_ns,
        "last_ns": row.flow.last_ns,
    }
