"""Conditions on the columns of connections: ``initial_rtt_ns > 50e6 and b_port == 443``.

Python's grammar, of which comparisons, `and` `or` `not`, arithmetic, columns and constants are
taken and nothing else; evaluated by numpy on whole columns. docs/filter.md has the language.
"""

from __future__ import annotations

import ast

from tcpcore.assembler import FilterError
from tcpcore.columns import CONNECTIONS, STATE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    import numpy as np
    from numpy.typing import NDArray

    from tcpcore.columns import Column

    Values = tuple[Any, Any]  # numbers, and True where there is one
    Step = Callable[[Any], Values]  # a table to values

TEXT_MAX = 10_000  # characters
NESTING_MAX = 100
GRAMMAR = "only comparisons, and, or, not, arithmetic, columns and constants are known here"

_STATES = {name: number for number, name in enumerate(STATE_NAMES) if name}
_COMPARE = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "true_divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
}
_BITS = {ast.BitAnd: "bitwise_and", ast.BitOr: "bitwise_or", ast.BitXor: "bitwise_xor"}
NUMBER, CONDITION, NONE = "number", "condition", "none"  # what an expression is, or:
TEXT, STATE, ADDRESS, BYTES = "text", "state", "address", "bytes"


class Where:
    """A condition on the columns of the connection table.

    Parameters
    ----------
    text
        The condition. A comparison with a value that is absent does not hold, but `== None`.
    schema
        The columns that there are.

    Raises
    ------
    FilterError
        With the place that is wrong.
    """

    def __init__(self, text: str, schema: Sequence[Column] = CONNECTIONS) -> None:
        if not isinstance(text, str):
            raise TypeError(f"where must be a string or None, not {type(text).__name__}")
        self.text = text
        self._columns = {column.name: column for column in schema}
        self.names: list[str] = []  # of the columns that it reads
        self._nesting = 0
        if len(text) > TEXT_MAX:
            raise FilterError(f"more than {TEXT_MAX} characters", text, TEXT_MAX)
        line = " ".join(text.splitlines())
        self._indent = len(line) - len(line.lstrip())
        self._line = line.lstrip()
        try:
            tree = ast.parse(self._line, mode="eval").body
        except SyntaxError as error:
            place = self._indent + (error.offset or 1) - 1
            raise FilterError(error.msg or "no expression", text, place) from None
        except (ValueError, MemoryError, RecursionError):
            raise FilterError("no expression", text, 0) from None
        kind, self._step = self._node(tree)
        if kind is not CONDITION:
            self._fail(tree, "no condition: a comparison is missing")

    def rows(self, table: Any) -> NDArray[np.int64]:
        """Give the rows that it selects.

        Parameters
        ----------
        table
            With the columns of `names` as numpy arrays by name, of one length, and that `len`.

        Returns
        -------
        int64[k] : indices, ascending
        """
        import numpy as np

        with np.errstate(all="ignore"):
            values, _ = self._step(table)
        selected = np.broadcast_to(np.asarray(values, bool), len(table))
        return np.flatnonzero(selected).astype(np.int64, copy=False)

    def _fail(self, node: ast.expr, reason: str) -> NoReturn:
        before = self._line.encode()[: node.col_offset].decode(errors="ignore")
        raise FilterError(reason, self.text, self._indent + len(before))

    def _node(self, node: ast.expr) -> tuple[str, Step]:
        """What a node is, and how it is evaluated."""
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail(node, f"nested more than {NESTING_MAX} deep")
        if isinstance(node, ast.Constant):
            found = self._constant(node)
        elif isinstance(node, ast.Name):
            found = self._column(node)
        elif isinstance(node, ast.BoolOp):
            found = self._bool(node)
        elif isinstance(node, ast.UnaryOp):
            found = self._unary(node)
        elif isinstance(node, ast.BinOp):
            found = self._binary(node)
        elif isinstance(node, ast.Compare):
            found = self._compare(node)
        else:
            self._fail(node, GRAMMAR)
        self._nesting -= 1
        return found

    def _constant(self, node: ast.Constant) -> tuple[str, Step]:
        value = node.value
        if value is None:
            return NONE, lambda table: (None, None)
        if isinstance(value, bool):
            return CONDITION, lambda table: (value, True)
        if isinstance(value, (int, float)):
            if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                try:
                    number: int | float = float(value)
                except OverflowError:
                    self._fail(node, "a number that large is no value of a column")
            else:
                number = value
            return NUMBER, lambda table: (number, True)
        if not isinstance(value, str):
            self._fail(node, "a constant is a number, a string, True, False or None")
        return TEXT, lambda table: (value, True)

    def _column(self, node: ast.Name) -> tuple[str, Step]:
        name = node.id
        column = self._columns.get(name)
        if column is None:
            self._fail(node, f"there is no column {name!r}")
        if name not in self.names:
            self.names.append(name)
        if column.unit == "address":
            return ADDRESS, lambda table: ((table["ip"], table[name]), True)
        if column.unit == "state":
            return STATE, lambda table: (table[name].astype("int64"), True)
        if column.dtype[0] in "SU":
            return BYTES, lambda table: (table[name], True)
        if column.dtype == "bool":
            return CONDITION, lambda table: (table[name].astype(bool), True)
        kind = "float64" if column.dtype.startswith("float") else "int64"

        def values(table: Any) -> Values:
            found = table[name].astype(kind)
            return found, (found != -1 if column.absent else True)

        return NUMBER, values

    def _bool(self, node: ast.BoolOp) -> tuple[str, Step]:
        steps = [self._condition(one) for one in node.values]
        both = isinstance(node.op, ast.And)

        def values(table: Any) -> Values:
            import numpy as np

            join = np.logical_and if both else np.logical_or
            found = steps[0](table)[0]
            for step in steps[1:]:
                found = join(found, step(table)[0])
            return found, True

        return CONDITION, values

    def _condition(self, node: ast.expr) -> Step:
        kind, step = self._node(node)
        if kind is not CONDITION:
            self._fail(node, "no condition: a comparison is missing")
        return step

    def _number(self, node: ast.expr) -> Step:
        kind, step = self._node(node)
        if kind not in (NUMBER, STATE):
            self._fail(node, "a number is missing")
        return step

    def _unary(self, node: ast.UnaryOp) -> tuple[str, Step]:
        import operator

        if isinstance(node.op, ast.Not):
            condition = self._condition(node.operand)

            def inverted(table: Any) -> Values:
                import numpy as np

                return np.logical_not(condition(table)[0]), True

            return CONDITION, inverted
        if isinstance(node.op, ast.Invert):
            self._fail(node, GRAMMAR)
        step = self._number(node.operand)
        turn = operator.neg if isinstance(node.op, ast.USub) else operator.pos

        def values(table: Any) -> Values:
            found, present = step(table)
            return turn(found), present

        return NUMBER, values

    def _binary(self, node: ast.BinOp) -> tuple[str, Step]:
        kind = type(node.op)
        name = _ARITHMETIC.get(kind) or _BITS.get(kind)
        if name is None:
            self._fail(node.right, "the operators are + - * / // % & | ^")
        left, right = self._number(node.left), self._number(node.right)
        divides = kind in (ast.Div, ast.FloorDiv, ast.Mod)

        def values(table: Any) -> Values:
            import numpy as np

            (one, there), (other, here) = left(table), right(table)
            present = np.logical_and(there, here)
            if divides:
                present = np.logical_and(present, np.asarray(other) != 0)
            if kind in _BITS:
                whole = [np.asarray(value) for value in (one, other)]
                if any(value.dtype.kind == "f" for value in whole):
                    present, one, other = False, 0, 0  # a fraction has no bits
            elif kind is ast.Mult:  # what does not fit 64 bits is near enough, not negative
                one = np.asarray(one, "float64")
            return getattr(np, name)(one, other), present

        return NUMBER, values

    def _compare(self, node: ast.Compare) -> tuple[str, Step]:
        terms = [node.left, *node.comparators]
        found = [(*self._node(term), term) for term in terms]
        steps = [
            self._pair(operator, *one, *other)
            for operator, one, other in zip(node.ops, found, found[1:], strict=False)
        ]

        def values(table: Any) -> Values:
            import numpy as np

            result: Any = True
            for step in steps:
                result = np.logical_and(result, step(table)[0])
            return result, True

        return CONDITION, values

    def _pair(
        self,
        operator: ast.cmpop,
        kind: str,
        left: Step,
        one: ast.expr,
        other_kind: str,
        right: Step,
        other: ast.expr,
    ) -> Step:
        """One comparison of two values."""
        if isinstance(operator, (ast.Is, ast.IsNot)) and NONE in (kind, other_kind):
            operator = ast.Eq() if isinstance(operator, ast.Is) else ast.NotEq()
        name = _COMPARE.get(type(operator))
        if name is None:
            self._fail(other, "the comparisons are == != < <= > >=")
        equality = name in ("equal", "not_equal")
        if other_kind in (NONE, TEXT) and kind not in (NONE, TEXT):
            pass
        elif kind in (NONE, TEXT) and other_kind not in (NONE, TEXT):
            kind, left, one, other_kind, right, other = other_kind, right, other, kind, left, one
        elif kind in (NONE, TEXT):
            self._fail(one, "a column is missing")
        if kind == STATE and other_kind == TEXT:
            right, other_kind = self._state(other), STATE
        if ADDRESS in (kind, other_kind) and other_kind != NONE:
            right = self._address(other) if other_kind == TEXT else right
            if not equality or kind != ADDRESS or other_kind not in (ADDRESS, TEXT):
                self._fail(other, "an address is equal to an address in quotes, or is not")
            return _addresses(left, right, name == "equal")
        if other_kind == NONE:
            if not equality:
                self._fail(other, "None is compared by == and !=")
            return _absent(left, name == "equal")
        if kind == BYTES and other_kind == TEXT:
            return _texts(left, right, name)
        sorts = {STATE: NUMBER}
        if other_kind == TEXT:
            self._fail(other, "text is compared with a state or an address")
        if sorts.get(kind, kind) != sorts.get(other_kind, other_kind):
            self._fail(other, f"a {kind} is not compared with a {other_kind}")
        return _numbers(left, right, name)

    def _state(self, node: ast.expr) -> Step:
        assert isinstance(node, ast.Constant)
        number = _STATES.get(str(node.value).upper())
        if number is None:
            self._fail(node, f"no state; the states are {', '.join(_STATES)}")
        return lambda table: (number, True)

    def _address(self, node: ast.expr) -> Step:
        import ipaddress

        assert isinstance(node, ast.Constant)
        try:
            address = ipaddress.ip_address(str(node.value))
        except ValueError:
            self._fail(node, f"{node.value!r} is no address")
        mapped = bytes(10) + b"\xff\xff" if address.version == 4 else b""

        def values(table: Any) -> Values:
            import numpy as np

            return (address.version, np.frombuffer(mapped + address.packed, "uint8")), True

        return values


class Selection:
    """The rows that a condition selects of tables that come one after the other.

    Parameters
    ----------
    text
        The condition, as in `Where`.
    top
        How many of the busiest connections it remembers.
    schema
        The columns that there are.
    """

    def __init__(self, text: str, top: int, schema: Sequence[Column] = CONNECTIONS) -> None:
        self._where = Where(text, schema)
        self._limit = top
        self._top: list[dict[str, Any]] = []

    def tables(self, tables: dict[str, Any]) -> dict[str, Any]:
        """Give what is selected of the table 'connections' and, if there is one, of the table
        'packets': of that the frames of these connections."""
        chosen = dict(tables)
        if "connections" in tables:
            table = tables["connections"]
            chosen["connections"] = table.take(self._where.rows(table))
            self._top = self.top(table)
            if "packets" in tables:
                import numpy as np

                wanted = np.isin(tables["packets"]["conn"], chosen["connections"]["conn"])
                chosen["packets"] = tables["packets"].take(np.flatnonzero(wanted))
        return chosen

    def top(self, table: Any) -> list[dict[str, Any]]:
        """Give the busiest connections, most frame bytes first, of this table and those before."""
        rows = self._where.rows(table)
        if len(rows):
            import numpy as np

            size = (table["frame_bytes_ab"] + table["frame_bytes_ba"])[rows]
            rows = rows[np.lexsort((table["conn"][rows], -size))[: self._limit]]
        found = {one["conn"]: one for one in self._top}
        found |= {one["conn"]: one for one in (_row(table, int(i)) for i in rows)}
        busiest = sorted(found.values(), key=lambda one: (-one["frame_bytes"], one["conn"]))
        return busiest[: self._limit]


def _row(table: Any, i: int) -> dict[str, Any]:
    """A connection as an engine names it in its summary."""
    names = ("conn", "ip", "a_port", "b_port", "state_a", "state_b", "first_ns", "last_ns")
    row: dict[str, Any] = {name: int(table[name][i]) for name in names}
    for name in ("a_addr", "b_addr"):
        row[name] = table[name][i].tobytes()
    for name in ("packets", "frame_bytes", "payload_bytes"):
        row[name] = int(table[f"{name}_ab"][i]) + int(table[f"{name}_ba"][i])
    return row


def _numbers(left: Step, right: Step, name: str) -> Step:
    def values(table: Any) -> Values:
        import numpy as np

        (one, there), (other, here) = left(table), right(table)
        compared = getattr(np, name)(one, other)
        return np.logical_and(compared, np.logical_and(there, here)), True

    return values


def _texts(left: Step, right: Step, name: str) -> Step:
    def values(table: Any) -> Values:
        import numpy as np

        one, text = left(table)[0], str(right(table)[0])
        other = text.encode() if one.dtype.kind == "S" else text
        return getattr(np, name)(one, other), True

    return values


def _addresses(left: Step, right: Step, equal: bool) -> Step:
    def values(table: Any) -> Values:
        (version, one), (other_version, other) = left(table)[0], right(table)[0]
        same = (one == other).all(axis=1) & (version == other_version)
        return (same if equal else ~same), True

    return values


def _absent(step: Step, absent: bool) -> Step:
    def values(table: Any) -> Values:
        import numpy as np

        present = np.asarray(step(table)[1], bool)
        return np.broadcast_to(~present if absent else present, len(table)), True

    return values
