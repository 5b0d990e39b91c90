"""What a filter's program says of a frame; `tcpcore/filter.py` compiles the language to it.

Linux: net/core/filter.c.  A program only jumps forward, so it takes as many steps as it has
instructions at most (T-25); a load is held against the captured bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .csum import Buffer
from .ip_input import DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2
from .ip_tunnel import ETH_P_VLAN, VLAN_HLEN, Outer
from .tcp import Segment

# Tests of what was parsed, which go on at jt or jf.
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

Instruction = tuple[int, int, int, int, int, int]  # code, arg, jt, jf, k, m


def filter_check(program: Sequence[Instruction]) -> bool:
    """True if a program ends whatever it is run on, and never uses a number that is not there."""
    size = len(program)
    if size > FILTER_MAX:
        return False
    depths = []
    depth = 0
    for i, (code, arg, jt, jf, k, _) in enumerate(program):
        depths.append(depth)
        if not 0 <= code < FILTER_CODES:
            return False
        if code < FILTER_CONST:
            if not (i < jt <= size + 1 and i < jf <= size + 1):
                return False
            if depth != (2 if code >= FILTER_EQ else 0):
                return False
            if code in (FILTER_ADDR4, FILTER_ADDR6, FILTER_PORT) and not SRC <= arg <= BOTH:
                return False
            depth = 0
        elif code <= FILTER_WIRELEN:
            depth += 1
            if depth > FILTER_STACK:
                return False
        elif code == FILTER_LOAD:
            if depth < 1 or not BASE_LINK <= arg <= BASE_TCP or k not in (1, 2, 4):
                return False
        else:
            if depth < 2:
                return False
            depth -= 1
    # Where a jump goes the stack is empty, as it is at the end.
    targets = {target for row in program if row[0] < FILTER_CONST for target in row[2:4]}
    return depth == 0 and all(target >= size or not depths[target] for target in targets)


def filter_run(
    program: Sequence[Instruction],
    linktype: int,
    data: Buffer,
    start: int,
    caplen: int,
    wirelen: int,
    th: Segment | None,
    outer: Outer,
) -> bool:
    """Tell whether a program takes a frame.

    Parameters
    ----------
    program : sequence of instructions that `filter_check` accepts
    linktype, data, start, caplen, wirelen : the frame, as in `ip_rcv`
    th : Segment in it, None if there is none
    outer : Outer, what is around the segment
    """
    stack: list[int] = []
    i = 0
    while i < len(program):
        code, arg, jt, jf, k, m = program[i]
        if code < FILTER_EQ:
            if code == FILTER_LEN:
                holds = k <= wirelen <= m
            elif code == FILTER_VLAN:
                tag = filter_vlan(linktype, data, start, start + caplen, arg)
                holds = tag >= 0 and k in (tag, ANY_ID)
            else:
                holds = th is not None and filter_test(code, arg, k, m, th)
            i = jt if holds else jf
            continue
        if code < FILTER_CONST:
            right, left = stack.pop(), stack.pop()
            if code == FILTER_EQ:
                holds = left == right
            else:
                holds = left > right if code == FILTER_GT else left >= right
            i = jt if holds else jf
            continue
        i += 1
        if code == FILTER_CONST:
            stack.append(k)
        elif code == FILTER_WIRELEN:
            stack.append(wirelen)
        else:
            if code == FILTER_LOAD:
                value = filter_load(arg, k, stack.pop(), data, start, caplen, th, outer)
            else:
                right, left = stack.pop(), stack.pop()
                value = filter_alu(code, left, right)
            if value < 0:
                return False
            stack.append(value)
    return i == len(program)


def filter_test(code: int, arg: int, k: int, m: int, th: Segment) -> bool:
    """Test what was parsed of a segment."""
    if code == FILTER_IP:
        return k in (0, th.ip)
    if code == FILTER_PORT:
        src, dst = k <= th.sport <= m, k <= th.dport <= m
    else:
        if th.ip != (4 if code == FILTER_ADDR4 else 6):
            return False
        skip = 12 if code == FILTER_ADDR4 else 0
        src = int.from_bytes(th.saddr[skip:], "big") & m == k
        dst = int.from_bytes(th.daddr[skip:], "big") & m == k
    if arg == SRC:
        return src
    if arg == DST:
        return dst
    return src or dst if arg == EITHER else src and dst


def filter_vlan(linktype: int, data: Buffer, pos: int, end: int, depth: int) -> int:
    """Find the number of the VLAN tag below `depth` others, -1 where there is none."""
    if linktype == DLT_EN10MB:
        field = pos + 12
    elif linktype == DLT_LINUX_SLL:
        field = pos + 14
    elif linktype == DLT_LINUX_SLL2:
        field, pos = pos, pos + 20
    else:
        return -1
    tag = pos if linktype == DLT_LINUX_SLL2 else field + 2
    for i in range(FILTER_TAGS):
        if tag + VLAN_HLEN > end:
            return -1
        if data[field] << 8 | data[field + 1] not in ETH_P_VLAN:
            return -1
        if i == depth:
            return (data[tag] << 8 | data[tag + 1]) & 0xFFF
        field = tag + 2
        tag += VLAN_HLEN
    return -1


def filter_load(
    base: int,
    size: int,
    index: int,
    data: Buffer,
    start: int,
    caplen: int,
    th: Segment | None,
    outer: Outer,
) -> int:
    """Load bytes of a header, -1 if they were not captured; then the frame is not taken."""
    if base == BASE_LINK:
        header, pos, room = data, start, caplen
    elif th is None:
        return -1
    else:
        header, pos, room = outer.network if base == BASE_IP else outer.transport
    if index + size > room:
        return -1
    pos += index
    return int.from_bytes(bytes(header[pos : pos + size]), "big")


def filter_alu(code: int, left: int, right: int) -> int:
    """Compute in 32 bits, as BPF does; -1 for a division by zero."""
    if code == FILTER_ADD:
        return (left + right) & 0xFFFFFFFF
    if code == FILTER_SUB:
        return (left - right) & 0xFFFFFFFF
    if code == FILTER_MUL:
        return left * right & 0xFFFFFFFF
    if code == FILTER_DIV:
        return left // right if right else -1
    if code == FILTER_MOD:
        return left % right if right else -1
    if code == FILTER_AND:
        return left & right
    if code == FILTER_OR:
        return left | right
    if code == FILTER_XOR:
        return left ^ right
    if code == FILTER_LSH:
        return left << right & 0xFFFFFFFF if right < 32 else 0
    return left >> right if right < 32 else 0
