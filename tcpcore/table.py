"""A table: columns that the engine holds, read as numpy arrays without a copy, when asked for."""

from __future__ import annotations

from tcpcore.columns import (
    ANALYSIS_NAMES,
    CAUSE_NAMES,
    CONFLICTS,
    CONN_STATE_NAMES,
    DROP_NAMES,
    FLAG_NAMES,
    REASON_NAMES,
    STATE_NAMES,
    VERDICT_NAMES,
    address_text,
    outer_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Lock
    from typing import Any

    from numpy.typing import NDArray

    from tcpcore.columns import Column

    Fetch = Callable[[list[str]], tuple[int, dict[str, Any]]]

HEAD = 5  # rows shown from each end

# Columns that __repr__ shows, of either table.
SHOWN = {
    *("conn", "a_addr", "a_port", "b_addr", "b_port", "state_a", "state_b"),
    *("packets_ab", "packets_ba", "payload_bytes_ab", "payload_bytes_ba"),
    *("packet", "dir", "flags", "payload_len", "verdict", "drop_reason"),
}


class Table:
    """Columns of one length.

    ``len(t)`` is the number of rows and ``t['name']`` a column: a read-only, contiguous numpy
    array over the engine's own memory, made when first read and kept. An address column is
    uint8[n, 16]. polars, pandas, duckdb and pyarrow take the table itself, through the Arrow
    PyCapsule interface (``polars.DataFrame(t)``).

    Parameters
    ----------
    schema : sequence of Column
    fetch : callable
        ``fetch(names)`` returns the number of rows and a dict of buffers, which hold at least
        the columns named. A buffer is C-contiguous and stays valid as long as it is referred to.
    """

    __slots__ = ("_arrays", "_columns", "_fetch", "_length", "_unasked")

    def __init__(self, schema: Sequence[Column], fetch: Fetch) -> None:
        self._columns = {column.name: column for column in schema}
        self._fetch = fetch
        self._length: int | None = None
        self._arrays: dict[str, NDArray[Any]] = {}
        self._unasked: set[str] = set()  # of the arrays, those that nobody has asked for yet

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._columns)

    @property
    def schema(self) -> tuple[Column, ...]:
        """The columns: name, dtype, unit and meaning of each."""
        return tuple(self._columns.values())

    def __len__(self) -> int:
        if self._length is None:
            self._length = self._fetch([])[0]
        return self._length

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None:
            if name not in self._columns:
                known = ", ".join(self._columns)
                raise KeyError(f"no column {name!r}; the columns are {known}")
            self._read(self._wanted_with(name))
            array = self._arrays[name]
        self._unasked.discard(name)
        return array

    # Without this, iteration would ask for column 0.
    __iter__ = None

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def _wanted_with(self, name: str) -> list[Column]:
        """Tell which columns to read when one is asked for: its group, or all that are left.

        Each reading goes through all rows. Whoever has asked for every column that was read goes
        through the table, and is about to ask for the rest. Columns of conflicts may take as long
        as the replay took, so they are read when they are asked for themselves.
        """
        if name in CONFLICTS:
            return [self._columns[other] for other in CONFLICTS]
        left = [
            column
            for column in self._columns.values()
            if column.name not in self._arrays and column.name not in CONFLICTS
        ]
        group = [column for column in left if column.group == self._columns[name].group]
        return left if len(group) > 1 and self._arrays and not self._unasked else group

    def _read(self, columns: list[Column]) -> None:
        count, buffers = self._fetch([column.name for column in columns])
        if self._length is None:
            self._length = count
        if count != self._length:
            raise RuntimeError(f"the table had {self._length} rows and now has {count}")
        for column in columns:  # another thread may have been here too: one array stays
            array = _array(buffers[column.name], column.dtype, count)
            self._arrays.setdefault(column.name, array)
            self._unasked.add(column.name)

    def take(self, rows: NDArray[Any]) -> Table:
        """Return the table of some rows, whose columns are copied when they are read.

        Parameters
        ----------
        rows : int64[k]
            Their indices, in the order wanted.
        """

        def fetch(names: list[str]) -> tuple[int, dict[str, Any]]:
            return len(rows), {name: self[name][rows] for name in names}

        return Table(self.schema, fetch)

    def to_polars(self) -> Any:
        """Return a ``polars.DataFrame``; addresses are Binary of 16 bytes."""
        polars = _import("polars")
        return polars.DataFrame(self)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``.

        Columns that may be absent are pandas' nullable integers; addresses are `bytes`.
        """
        pandas = _import("pandas")
        columns: dict[str, Any] = {}
        for column in self.schema:
            values = self[column.name]
            if values.ndim == 2:
                raw = values.tobytes()
                columns[column.name] = [raw[i : i + 16] for i in range(0, len(raw), 16)]
            elif column.unit == "text":
                columns[column.name] = values.astype("U").astype(object)
            elif column.absent:
                columns[column.name] = pandas.arrays.IntegerArray(values, values == -1)
            else:
                columns[column.name] = values
        return pandas.DataFrame(columns, copy=False)

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table`` over the same memory; absent is null."""
        _import("pyarrow")
        from tcpcore import arrow

        return arrow.to_pyarrow(self)

    def __arrow_c_schema__(self) -> object:
        """Export the schema (Arrow PyCapsule interface)."""
        from tcpcore import arrow

        return arrow.schema_capsule(self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the rows (Arrow PyCapsule interface); `requested_schema` is not heeded."""
        from tcpcore import arrow

        return arrow.stream_capsule(self)

    def __repr__(self) -> str:
        shown, rows = self._excerpt()
        rows.insert(0, [column.name for column in shown])
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = [f"{len(self):,} rows x {len(self._columns)} columns"]
        for row in rows:
            cells = [
                cell.ljust(width) if _is_text(column) else cell.rjust(width)
                for column, cell, width in zip(shown, row, widths, strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        shown, rows = self._excerpt()
        header = [column.name for column in shown]
        body = "".join(line(row, "td") for row in rows)
        return (
            f"<div><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{len(self):,} rows &times; {len(self._columns)} columns</p></div>"
        )

    def _excerpt(self) -> tuple[Sequence[Column], list[list[str]]]:
        """Return the columns worth a look and the text of their first and last rows."""
        count = len(self)
        shown = [column for column in self.schema if column.name in SHOWN] or self.schema[:8]
        if count <= 2 * HEAD:
            rows = [self._row(shown, i) for i in range(count)]
        else:
            rows = [self._row(shown, i) for i in range(HEAD)]
            rows.append(["..."] * len(shown))
            rows += [self._row(shown, i) for i in range(count - HEAD, count)]
        return shown, rows

    def _row(self, columns: Sequence[Column], i: int) -> list[str]:
        return [self._text(column, i) for column in columns]

    def _text(self, column: Column, i: int) -> str:
        value = self[column.name][i]
        if column.unit == "address":
            return address_text(value.tobytes(), int(self["ip"][i]))
        if column.unit == "text":
            return str(value, "ascii")
        if column.unit == "outer address":
            return outer_text(value.tobytes())
        number = int(value)
        if column.absent and number == -1:
            return ""
        if column.unit == "state":
            return STATE_NAMES[number]
        if column.unit == "reason":
            return DROP_NAMES[number] if number else ""
        if column.unit == "kind":
            return REASON_NAMES[number]
        if column.unit == "conn_state":
            return CONN_STATE_NAMES[number]
        if column.unit == "cause":
            return CAUSE_NAMES[number]
        if column.name == "analysis":
            return _bits(number, ANALYSIS_NAMES)
        if column.name == "flags":
            return _bits(number, FLAG_NAMES)
        if column.name == "verdict":
            return _bits(number, VERDICT_NAMES)
        return str(number)


def locked(lock: Lock, function: Callable[..., Any], *more: object) -> Fetch:
    """Return what calls ``function(names, *more)``, in one thread at a time."""

    def fetch(names: list[str]) -> tuple[int, dict[str, Any]]:
        with lock:
            count, buffers = function(names, *more)
        return count, buffers

    return fetch


def _array(buffer: Any, dtype: str, count: int) -> NDArray[Any]:
    import numpy as np

    scalar, _, width = dtype.rstrip("]").partition("[")
    items = count * int(width or 1)
    # An empty buffer is not one that frombuffer takes.
    array: NDArray[Any] = np.frombuffer(buffer, scalar, items) if items else np.empty(0, scalar)
    if width:
        array = array.reshape(count, int(width))
    array.flags.writeable = False
    return array


def _is_text(column: Column) -> bool:
    words = ("address", "state", "reason", "kind", "conn_state", "cause", "text")
    return column.unit in words or column.name in ("flags", "verdict", "analysis")


def _bits(number: int, names: Sequence[str]) -> str:
    return " ".join([name for bit, name in enumerate(names) if number >> bit & 1])


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        extra = "arrow" if name == "pyarrow" else name
        raise ImportError(f"{name} is needed: pip install tcpcore[{extra}]") from error
