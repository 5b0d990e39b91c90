# What was learnt of checksum offload, for the summary; a part of _core.pyx.

from offload cimport offload_host

from cpython.bytes cimport PyBytes_FromStringAndSize


cdef dict offload_dict(const offload *o):
    cdef const offload_host *host
    cdef list hosts = []
    for i in range(o.n_hosts):
        host = &o.hosts[i]
        hosts.append(
            {
                "addr": PyBytes_FromStringAndSize(<const char *>host.addr, 16),
                "ip": host.ip,
                "interface": host.interface,
                "partial": host.partial,
                "zero": host.zero,
                "tso": host.tso,
                "other": host.other,
            }
        )
    return {
        "explained": o.explained,
        "learnt": o.learnt,
        "damaged": o.damaged,
        "hosts": hosts,
    }
