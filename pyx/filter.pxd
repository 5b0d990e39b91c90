# What a filter's program says of a frame; tcpcore/filter.py compiles the language to it.
# Linux: net/core/filter.c.  A program only jumps forward, so it takes as many steps as it has
# instructions at most (T-25); a load is held against the captured bytes.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from ip_input cimport DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2
from ip_tunnel cimport ETH_HLEN, VLAN_HLEN, is_vlan, outer
from pcap cimport frame
from tcp cimport segment
from unaligned cimport cpu_to_be16, get_be16, get_be32, get_u64

# Tests of what was parsed, which go on at jt or jf.
cdef enum:  # Code
    FILTER_IP = 0  # the segment came in version k of IP, in any if k is 0
    FILTER_ADDR4 = 1  # an IPv4 address & m is k; arg tells whose
    FILTER_ADDR6 = 2
    FILTER_PORT = 3  # a port is from k to m
    FILTER_LEN = 4  # the wire length is from k to m
    FILTER_VLAN = 5  # there is a VLAN tag below `arg` others, of number k unless that is ANY_ID
    # Comparisons of the two numbers on the stack.
    FILTER_EQ = 6
    FILTER_GT = 7
    FILTER_GE = 8
    # Numbers are pushed, and operators put one in place of two.
    FILTER_CONST = 9
    FILTER_WIRELEN = 10
    FILTER_LOAD = 11  # in place of an index, k bytes of the header that arg names
    FILTER_ADD = 12
    FILTER_SUB = 13
    FILTER_MUL = 14
    FILTER_DIV = 15
    FILTER_MOD = 16
    FILTER_AND = 17
    FILTER_OR = 18
    FILTER_XOR = 19
    FILTER_LSH = 20
    FILTER_RSH = 21
    FILTER_CODES = 22

cdef enum:
    SRC = 1
    DST = 2
    EITHER = 3
    BOTH = 4
    BASE_LINK = 0
    BASE_IP = 1
    BASE_TCP = 2
    ANY_ID = 0xFFFFFFFF
    FILTER_MAX = 4096  # instructions
    FILTER_STACK = 16
    FILTER_TAGS = 8

cdef struct filter_insn:
    uint8_t code
    uint8_t arg
    uint16_t jt
    uint16_t jf
    uint32_t k
    uint32_t m
    uint64_t addr[2]  # as on the wire; of IPv4 the low word of the first
    uint64_t mask[2]

# A program; without instructions it takes every frame.
cdef struct filter:
    filter_insn *insns
    uint32_t length
    # `filter_run`, by its address: in line it would cost those who have no filter.
    bint (*run)(const filter *, const frame *, const segment *, const outer *) noexcept nogil


cdef inline bint filter_check(const filter *program) noexcept nogil:
    """True if a program ends whatever it is run on, and never uses a number that is not there."""
    cdef uint32_t size = program.length, i
    cdef uint8_t empty[FILTER_MAX]
    cdef const filter_insn *insn
    cdef int depth = 0
    if size > FILTER_MAX:
        return False
    for i in range(size):
        insn = &program.insns[i]
        empty[i] = depth == 0
        if insn.code >= FILTER_CODES:
            return False
        if insn.code < FILTER_CONST:
            if not (i < insn.jt <= size + 1 and i < insn.jf <= size + 1):
                return False
            if depth != (2 if insn.code >= FILTER_EQ else 0):
                return False
            if insn.code == FILTER_ADDR4 or insn.code == FILTER_ADDR6 or insn.code == FILTER_PORT:
                if not SRC <= insn.arg <= BOTH:
                    return False
            depth = 0
        elif insn.code <= FILTER_WIRELEN:
            depth += 1
            if depth > FILTER_STACK:
                return False
        elif insn.code == FILTER_LOAD:
            if depth < 1 or insn.arg > BASE_TCP or not (insn.k == 1 or insn.k == 2 or insn.k == 4):
                return False
        else:
            if depth < 2:
                return False
            depth -= 1
    # Where a jump goes the stack is empty, as it is at the end.
    for i in range(size):
        insn = &program.insns[i]
        if insn.code < FILTER_CONST:
            if (insn.jt < size and not empty[insn.jt]) or (insn.jf < size and not empty[insn.jf]):
                return False
    return depth == 0


cdef inline bint filter_run(
    const filter *program, const frame *frame, const segment *th, const outer *around
) noexcept nogil:
    """Tell whether a program takes a frame; `th` is the segment in it, NULL if there is none,
    `around` what is around that, NULL for a plain one."""
    cdef uint32_t stack[FILTER_STACK]
    cdef uint32_t i = 0, left, right
    cdef int depth = 0
    cdef int64_t value
    cdef bint holds
    cdef const filter_insn *insn
    while i < program.length:
        insn = &program.insns[i]
        if insn.code < FILTER_EQ:
            if insn.code == FILTER_LEN:
                holds = insn.k <= frame.wirelen <= insn.m
            elif insn.code == FILTER_VLAN:
                value = filter_vlan(frame, insn.arg)
                holds = value >= 0 and (insn.k == <uint32_t>ANY_ID or insn.k == <uint32_t>value)
            else:
                holds = th != NULL and filter_test(insn, th)
            i = insn.jt if holds else insn.jf
            continue
        if insn.code < FILTER_CONST:
            depth -= 2
            left = stack[depth]
            right = stack[depth + 1]
            if insn.code == FILTER_EQ:
                holds = left == right
            else:
                holds = left > right if insn.code == FILTER_GT else left >= right
            i = insn.jt if holds else insn.jf
            continue
        i += 1
        if insn.code == FILTER_CONST:
            value = insn.k
        elif insn.code == FILTER_WIRELEN:
            value = frame.wirelen
        elif insn.code == FILTER_LOAD:
            depth -= 1
            value = filter_load(insn.arg, insn.k, stack[depth], frame, th, around)
        else:
            depth -= 2
            value = filter_alu(insn.code, stack[depth], stack[depth + 1])
        if value < 0:
            return False
        stack[depth] = <uint32_t>value
        depth += 1
    return i == program.length


cdef inline bint filter_test(const filter_insn *insn, const segment *th) noexcept nogil:
    """Test what was parsed of a segment."""
    cdef uint32_t port
    cdef bint src, dst
    if insn.code == FILTER_IP:
        return insn.k == 0 or insn.k == th.ip
    if insn.code == FILTER_PORT:
        port = cpu_to_be16(<uint16_t>(th.ports & 0xFFFF))
        src = insn.k <= port <= insn.m
        port = cpu_to_be16(<uint16_t>(th.ports >> 16))
        dst = insn.k <= port <= insn.m
    elif insn.code == FILTER_ADDR4:
        if th.ip != 4:
            return False
        src = (th.acookie & insn.mask[0]) == insn.addr[0]
        dst = (th.acookie >> 32 & insn.mask[0]) == insn.addr[0]
    else:
        if th.ip != 6:
            return False
        src = filter_addr6(insn, th.addrs)
        dst = filter_addr6(insn, th.addrs + 16)
    if insn.arg == SRC:
        return src
    if insn.arg == DST:
        return dst
    return src or dst if insn.arg == EITHER else src and dst


cdef inline bint filter_addr6(const filter_insn *insn, const uint8_t *addr) noexcept nogil:
    return (get_u64(addr) & insn.mask[0]) == insn.addr[0] and (
        get_u64(addr + 8) & insn.mask[1]
    ) == insn.addr[1]


cdef inline int filter_vlan(const frame *frame, uint32_t depth) noexcept nogil:
    """Find the number of the VLAN tag below `depth` others, -1 where there is none."""
    cdef uint32_t field, tag
    cdef int i
    if frame.linktype == DLT_EN10MB:
        field = 12
    elif frame.linktype == DLT_LINUX_SLL:
        field = 14
    elif frame.linktype == DLT_LINUX_SLL2:
        field = 0
    else:
        return -1
    tag = 20 if frame.linktype == DLT_LINUX_SLL2 else field + 2
    for i in range(FILTER_TAGS):
        if tag + VLAN_HLEN > frame.caplen:
            return -1
        if not is_vlan(get_be16(frame.data + field)):
            return -1
        if <uint32_t>i == depth:
            return get_be16(frame.data + tag) & 0xFFF
        field = tag + 2
        tag += VLAN_HLEN
    return -1


cdef inline int64_t filter_load(
    uint8_t base,
    uint32_t size,
    uint32_t index,
    const frame *frame,
    const segment *th,
    const outer *around,
) noexcept nogil:
    """Load bytes of a header, -1 if they were not captured; then the frame is not taken."""
    cdef const uint8_t *data = frame.data
    cdef uint64_t room = frame.caplen
    if base != BASE_LINK:
        if th == NULL:
            return -1
        if around == NULL:  # as `ip_rcv_plain` found it
            data = frame.data + ETH_HLEN if base == BASE_IP else th.transport_header
            room -= <uint64_t>(data - frame.data)
        elif base == BASE_IP:
            data = around.network_header
            room = around.network_room
        else:
            data = th.transport_header
            room = around.transport_room
    if <uint64_t>index + size > room:
        return -1
    data += index
    if size == 4:
        return get_be32(data)
    return get_be16(data) if size == 2 else data[0]


cdef inline int64_t filter_alu(uint8_t code, uint32_t left, uint32_t right) noexcept nogil:
    """Compute in 32 bits, as BPF does; -1 for a division by zero."""
    if code == FILTER_ADD:
        return <uint32_t>(left + right)
    if code == FILTER_SUB:
        return <uint32_t>(left - right)
    if code == FILTER_MUL:
        return <uint32_t>(left * right)
    if code == FILTER_DIV:
        return <int64_t>(left // right) if right else -1
    if code == FILTER_MOD:
        return <int64_t>(left % right) if right else -1
    if code == FILTER_AND:
        return left & right
    if code == FILTER_OR:
        return left | right
    if code == FILTER_XOR:
        return left ^ right
    if code == FILTER_LSH:
        return <uint32_t>(left << right) if right < 32 else 0
    return left >> right if right < 32 else 0
