"""The conditions of a filter, as a tree, to the program that an engine runs.

A program jumps forward alone, so it takes at most as many steps as it has instructions (T-25).
"""

from __future__ import annotations

from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Instruction = tuple[int, int, int, int, int, int]
    Node = tuple[Any, ...]

PROGRAM_MAX = 4096  # instructions
STACK_MAX = 16  # numbers that one comparison may hold at a time


class Code(IntEnum):
    """Instructions; `tcpcore/reference/filter.py` says what each does."""

    FILTER_IP = 0
    FILTER_ADDR4 = 1
    FILTER_ADDR6 = 2
    FILTER_PORT = 3
    FILTER_LEN = 4
    FILTER_VLAN = 5
    FILTER_EQ = 6
    FILTER_GT = 7
    FILTER_GE = 8
    FILTER_CONST = 9
    FILTER_WIRELEN = 10
    FILTER_LOAD = 11
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


class FilterError(ValueError):
    """A filter, or a condition on columns, that cannot be understood.

    Attributes
    ----------
    reason : str
    text : str
        The expression.
    position : int
        Index in `text` of the place that is wrong.
    """

    def __init__(self, reason: str, text: str, position: int) -> None:
        self.reason = reason
        self.text = text
        self.position = min(max(position, 0), len(text))
        super().__init__(reason, text, position)

    def __str__(self) -> str:
        shown = "".join(c if c.isprintable() else " " for c in self.text)
        first = max(self.position - 60, 0)  # of a long expression only what is around the place
        line = shown[first : self.position + 40]
        return f"{self.reason}\n  {line}\n  {' ' * (self.position - first)}^"


class Assembler:
    """Nodes to instructions, the last one first: where a jump goes is then known already.

    A place is counted from the end of the program: 0 takes the frame, -1 leaves it out.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.backwards: list[Instruction] = []

    def program(self, node: Node) -> list[Instruction]:
        self.condition(node, 0, -1)
        size = len(self.backwards)
        return [
            (code, arg, size - jt, size - jf, k, m)
            for code, arg, jt, jf, k, m in reversed(self.backwards)
        ]

    def emit(self, code: int, arg: int, jt: int, jf: int, k: int, m: int) -> int:
        if len(self.backwards) >= PROGRAM_MAX:
            raise FilterError(
                f"more than {PROGRAM_MAX} instructions are needed", self.text, len(self.text)
            )
        self.backwards.append((int(code), arg, jt, jf, k, m))
        return len(self.backwards)

    def condition(self, node: Node, jt: int, jf: int) -> int:
        """Where the code of `node` begins; chains that lean to the left may be of any length."""
        while True:
            kind = node[0]
            if kind == "and":
                jt = self.condition(node[2], jt, jf)
            elif kind == "or":
                jf = self.condition(node[2], jt, jf)
            elif kind == "not":
                jt, jf = jf, jt
            elif kind == "test":
                return self.emit(node[1], node[2], jt, jf, node[3], node[4])
            else:
                _, code, left, right, position = node
                if max(_depth(left), 1 + _depth(right)) > STACK_MAX:
                    raise FilterError("the arithmetic is nested too deeply", self.text, position)
                self.emit(code, 0, jt, jf, 0, 0)
                self.number(right)
                return self.number(left)
            node = node[1]

    def number(self, node: Node) -> int:
        while True:
            kind = node[0]
            if kind == "number":
                return self.emit(Code.FILTER_CONST, 0, 0, 0, node[1], 0)
            if kind == "len":
                return self.emit(Code.FILTER_WIRELEN, 0, 0, 0, 0, 0)
            if kind == "load":
                self.emit(Code.FILTER_LOAD, node[1], 0, 0, node[2], 0)
                node = node[3]
            else:
                self.emit(node[1], 0, 0, 0, 0, 0)
                self.number(node[3])
                node = node[2]


def _depth(node: Node) -> int:
    """Numbers that are held at a time to compute this one; chains lean to the left."""
    most = held = 0
    while True:
        most = max(most, held + 1)
        if node[0] == "load":
            node = node[3]
        elif node[0] == "binary":
            most = max(most, 1 + _depth(node[3]))
            node = node[2]
        else:
            return most
