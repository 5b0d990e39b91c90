# A filter's program as Python hands it over, a part of _core.pyx.

from libc.stdlib cimport calloc
from libc.string cimport memcpy

from filter cimport FILTER_ADDR4, FILTER_ADDR6, FILTER_MAX, filter_check, filter_insn, filter_run


cdef int take_filter(filter *wanted, program) except -1:
    """Take a program over, if it is one that ends and is sound."""
    cdef filter_insn *insn
    cdef bytes addr, mask
    cdef int width
    if len(program) > FILTER_MAX:
        raise ValueError(f"a filter has at most {FILTER_MAX} instructions")
    wanted.insns = <filter_insn *>calloc(len(program) + 1, sizeof(filter_insn))
    if wanted.insns == NULL:
        raise MemoryError()
    for i, (code, arg, jt, jf, k, m) in enumerate(program):
        insn = &wanted.insns[i]
        insn.code, insn.arg, insn.jt, insn.jf = code, arg, jt, jf
        if code == FILTER_ADDR4 or code == FILTER_ADDR6:
            width = 4 if code == FILTER_ADDR4 else 16
            addr = k.to_bytes(width, "big").ljust(16, b"\0")
            mask = m.to_bytes(width, "big").ljust(16, b"\0")
            memcpy(insn.addr, PyBytes_AS_STRING(addr), 16)
            memcpy(insn.mask, PyBytes_AS_STRING(mask), 16)
        else:
            insn.k, insn.m = k, m
    wanted.length = len(program)
    wanted.run = filter_run
    if not filter_check(wanted):
        raise ValueError("this program is no filter")
    return 0
