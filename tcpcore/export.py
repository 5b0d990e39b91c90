"""Tables to files: CSV, JSON lines and npz with numpy alone, Arrow and Parquet with pyarrow.

A chunk of rows becomes a matrix of characters, a column's cells side by side and NUL where a
cell is shorter than the widest; one pass over the bytes then takes the NULs out.
"""

from __future__ import annotations

import io
import os

from tcpcore.columns import (
    CAUSE_NAMES,
    CONN_STATE_NAMES,
    CONNECTIONS,
    DROP_NAMES,
    REASON_NAMES,
    STATE_NAMES,
    address_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import IO, Any

    from numpy.typing import NDArray

    from tcpcore.columns import Column
    from tcpcore.table import Table

    Target = str | os.PathLike[str] | IO[bytes]
    Cells = Any  # uint8[rows, width]: a row for a cell, NUL where it is shorter

TEXT_ROWS = 4096  # a chunk's matrix stays in the processor's cache
BATCH_ROWS = 1 << 17
GROUP_ROWS = 1 << 20  # of a Parquet row group
ADDRESSES = 1 << 16  # IPv6 addresses whose text is remembered

__all__ = ["FORMATS", "Writer", "address_text", "format_of", "writer"]


class Writer:
    """Writes tables of one schema, one after the other, to one output.

    Use it in a ``with`` statement. When something fails, the output is left without its end: a
    Parquet, Arrow or npz file then cannot be read, and a CSV or JSON-lines one stops in between.
    """

    def __init__(self, target: Target, schema: Sequence[Column], text_addresses: bool) -> None:
        self._schema = schema
        self._text_addresses = text_addresses
        self._load()
        self._owned = isinstance(target, (str, os.PathLike))
        self._file: Any = target
        if isinstance(target, (str, os.PathLike)):
            self._file = open(target, "wb")  # noqa: SIM115
        self._sink = _Sink(self._file)
        self._open = True
        try:
            self._begin()
        except BaseException:
            self.abort()
            raise

    def write(self, table: Table) -> None:
        """Append the rows of a table.

        Raises
        ------
        OSError
            When the output does not take them. The writer is then closed.
        """
        if not self._open:
            raise ValueError("the writer is closed")
        try:
            if len(table):
                self._rows(table)
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """End the output. A file that was opened by name is closed, a stream is flushed."""
        if not self._open:
            return
        try:
            self._finish()
            if self._owned:
                self._file.close()
            elif hasattr(self._file, "flush"):
                self._file.flush()
        except BaseException:
            self.abort()
            raise
        self._end()

    def abort(self) -> None:
        """Stop writing, and leave the output without its end."""
        if not self._open:
            return
        self._end()
        if self._owned:
            from contextlib import suppress

            with suppress(OSError):  # what brought us here says more
                self._file.close()

    def _end(self) -> None:
        self._open = False
        self._sink.shut = True

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _load(self) -> None:
        """Import what the format needs, before a file is made."""
        import numpy  # noqa: F401

    def _begin(self) -> None:
        """Write what stands before the rows."""

    def _rows(self, table: Table) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what stands after the rows."""


class _TextWriter(Writer):
    """Rows of text: between the cells stands what the format puts there."""

    null = b""
    quote = b""
    booleans = (b"0", b"1")

    def _load(self) -> None:
        self._text = _Text(self)

    def _around(self) -> list[bytes]:
        """What stands before each cell, and after the last."""
        raise NotImplementedError

    def _rows(self, table: Table) -> None:
        for start in range(0, len(table), TEXT_ROWS):
            rows = slice(start, start + TEXT_ROWS)
            parts: list[Any] = []
            for column, before in zip(self._schema, self._fixed, strict=False):
                parts.append(before)
                parts.append(self._text.cells(column, table, rows))
            parts.append(self._fixed[-1])
            self._sink.write(_join(parts))

    def _begin(self) -> None:
        import numpy as np

        self._fixed = [np.frombuffer(text, "uint8") for text in self._around()]


class _CsvWriter(_TextWriter):
    def _begin(self) -> None:
        super()._begin()
        self._sink.write((",".join([column.name for column in self._schema]) + "\n").encode())

    def _around(self) -> list[bytes]:
        return [b"", *[b","] * (len(self._schema) - 1), b"\n"]


class _JsonlWriter(_TextWriter):
    null = b"null"
    quote = b'"'
    booleans = (b"false", b"true")

    def _around(self) -> list[bytes]:
        keys = [f'"{column.name}":'.encode() for column in self._schema]
        return [b"{" + keys[0], *[b"," + key for key in keys[1:]], b"}\n"]


class _NpzWriter(Writer):
    def _begin(self) -> None:
        self._parts: dict[str, list[Any]] = {column.name: [] for column in self._schema}

    def _rows(self, table: Table) -> None:
        for name, parts in self._parts.items():
            parts.append(table[name])

    def _finish(self) -> None:
        import zipfile

        import numpy as np

        # Not numpy.savez: a column may be called `file`, which is an argument of it.
        archive = zipfile.ZipFile(self._sink, "w")
        for column in self._schema:
            scalar, _, width = column.dtype.rstrip("]").partition("[")
            shape = (0, int(width)) if width else (0,)
            parts = self._parts.pop(column.name)
            array = np.concatenate([np.empty(shape, scalar), *parts])
            entry = zipfile.ZipInfo(f"{column.name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.close()


class _PyarrowWriter(Writer):
    def _load(self) -> None:
        try:
            import pyarrow
        except ImportError as error:
            raise ImportError(
                "Arrow and Parquet files need pyarrow: pip install tcpcore[arrow]"
            ) from error
        self._pyarrow = pyarrow
        self._text = _Text(_CsvWriter)
        self._writer: Any = None

    def _begin(self) -> None:
        from tcpcore.arrow import pyarrow_schema

        schema = pyarrow_schema(self._schema)
        if self._text_addresses:
            for i, column in enumerate(self._schema):
                if column.dtype == "uint8[16]":
                    schema = schema.set(i, schema.field(i).with_type(self._pyarrow.utf8()))
        self._types = schema
        self._writer = self._create(self._pyarrow.PythonFile(self._sink, "w"))

    def _create(self, sink: Any) -> Any:
        raise NotImplementedError

    def _rows(self, table: Table) -> None:
        rows = table.to_arrow()
        if not self._text_addresses:
            self._put(rows)
            return
        for start in range(0, len(table), GROUP_ROWS):
            part = rows.slice(start, GROUP_ROWS)
            for i, column in enumerate(self._schema):
                if column.dtype == "uint8[16]":
                    texts = self._addresses(column, table, slice(start, start + GROUP_ROWS))
                    part = part.set_column(i, self._types.field(i), texts)
            self._put(part)

    def _put(self, rows: Any) -> None:
        raise NotImplementedError

    def _addresses(self, column: Column, table: Table, rows: slice) -> Any:
        """Return a string array: the cells' characters and where each begins."""
        import numpy as np

        cells = self._text.cells(column, table, rows)
        offsets = np.zeros(len(cells) + 1, "int32")
        np.cumsum(np.count_nonzero(cells, axis=1), out=offsets[1:])
        buffers = [None, self._pyarrow.py_buffer(offsets), self._pyarrow.py_buffer(_join([cells]))]
        return self._pyarrow.Array.from_buffers(self._pyarrow.utf8(), len(cells), buffers, 0)

    def _finish(self) -> None:
        self._writer.close()

    def _end(self) -> None:
        super()._end()
        self._writer = None


class _ArrowWriter(_PyarrowWriter):
    def _create(self, sink: Any) -> Any:
        # The file format is read from its end, which a pipe does not have.
        seekable = getattr(self._file, "seekable", None)
        kind = "new_file" if seekable is not None and seekable() else "new_stream"
        return getattr(self._pyarrow.ipc, kind)(sink, self._types)

    def _put(self, rows: Any) -> None:
        self._writer.write_table(rows, max_chunksize=BATCH_ROWS)


class _ParquetWriter(_PyarrowWriter):
    def _create(self, sink: Any) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetWriter(sink, self._types, compression="zstd")

    def _put(self, rows: Any) -> None:
        self._writer.write_table(rows, row_group_size=GROUP_ROWS)


FORMATS: dict[str, type[Writer]] = {
    "csv": _CsvWriter,
    "jsonl": _JsonlWriter,
    "npz": _NpzWriter,
    "arrow": _ArrowWriter,
    "parquet": _ParquetWriter,
}


def writer(
    target: Target,
    format: str | None = None,
    schema: Sequence[Column] = CONNECTIONS,
    text_addresses: bool = False,
) -> Writer:
    """Open an output for tables.

    Parameters
    ----------
    target
        A path, or a binary stream, which is left open.
    format
        'csv', 'jsonl', 'npz', 'arrow' or 'parquet'; None: what the path's suffix says.
        'arrow' is the IPC file format, and the IPC stream format where one cannot seek.
    schema
        `tcpcore.columns.CONNECTIONS` or `PACKETS`.
    text_addresses
        Write addresses as text in Arrow and Parquet too.

    Raises
    ------
    ValueError
        If the format is not known.
    ImportError
        If the format needs pyarrow and there is none.
    OSError
        If the path cannot be opened for writing.
    """
    known = ", ".join(FORMATS)
    if format is None:
        if not isinstance(target, (str, os.PathLike)):
            raise ValueError(f"a stream needs a format: {known}")
        format = format_of(target)
    elif format not in FORMATS:
        raise ValueError(f"format must be one of {known}, not {format!r}")
    return FORMATS[format](target, schema, text_addresses)


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format that a path's suffix names, or raise ValueError."""
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix[1:] not in FORMATS:
        known = ", ".join(f".{format}" for format in FORMATS)
        raise ValueError(f"{name!r}: the suffix must be one of {known}")
    return suffix[1:]


class _Sink:
    """The one door to the output; shut, it swallows what libraries write on their way out."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._position = 0
        self.shut = False

    def write(self, data: Any) -> int:
        size = len(data)
        self._position += size
        rest = memoryview(data)
        while not self.shut and len(rest):
            taken = self._stream.write(rest)
            if taken is None:
                if isinstance(self._stream, io.RawIOBase):
                    raise BlockingIOError("the output is full and does not block")
                break
            rest = rest[taken:]  # a raw stream may take less than it is given
        return size

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Leave it to the writer, at the end."""

    def close(self) -> None:
        """Leave it to the writer."""


class _Text:
    """Cells as characters, in the dialect of a text format."""

    def __init__(self, dialect: type[_TextWriter] | _TextWriter) -> None:
        import numpy as np

        self._np: Any = np
        self._null = np.frombuffer(dialect.null, "uint8")
        self._quote = np.frombuffer(dialect.quote, "uint8")
        self._booleans = self._words(dialect.booleans)
        self._names = {
            unit: self._words(
                [dialect.null, *[dialect.quote + n.encode() + dialect.quote for n in names[1:]]]
            )
            for unit, names in (
                ("state", STATE_NAMES),
                ("reason", DROP_NAMES),
                ("kind", REASON_NAMES),
            )
        }
        for unit, names in (("conn_state", CONN_STATE_NAMES), ("cause", CAUSE_NAMES)):
            self._names[unit] = self._words(
                [dialect.quote + name.encode() + dialect.quote for name in names]
            )
        # Four digits at a time: those of 0 to 9999, then again without leading zeros.
        digits = np.arange(10000)[:, None] // [1000, 100, 10, 1] % 10 + ord("0")
        bare = np.where(np.arange(10000)[:, None] >= [1000, 100, 10, 1], digits, 0)
        self._upper = np.concatenate([digits, bare]).astype("uint8").view("uint32")[:, 0]
        self._units = self._upper.copy()
        self._units[10000] = self._words([b"\0\0\0" + b"0"]).view("uint32")[0, 0]
        self._octets = self._words([b"%d" % n for n in range(256)], 4).view("uint32")[:, 0]
        self._dotted = self._words([b"%d." % n for n in range(256)], 4).view("uint32")[:, 0]
        self._known: dict[bytes, bytes] = {}

    def _words(self, words: Sequence[bytes], width: int = 0) -> Cells:
        width = width or max(map(len, words))
        raw = b"".join([word.ljust(width, b"\0") for word in words])
        cells: Cells = self._np.frombuffer(raw, "uint8").reshape(len(words), width)
        return cells

    def cells(self, column: Column, table: Table, rows: slice) -> Cells:
        """Return the text of a column's rows."""
        np = self._np
        values = table[column.name][rows]
        if column.unit == "address":
            return self._addresses(values, table["ip"][rows])
        if column.unit == "outer address":
            mapped = (values[:, :10] == 0).all(1) & (values[:, 10:12] == 0xFF).all(1)
            return self._addresses(values, np.where(mapped, 4, 6))
        if column.unit in self._names:
            return self._names[column.unit][values]
        if column.unit == "text":  # letters, which no format has to escape
            cells = values.view("uint8").reshape(len(values), values.itemsize)
            if len(self._quote):
                cells = np.pad(cells, ((0, 0), (1, 1)), constant_values=self._quote[0])
            return cells
        if column.dtype == "bool":
            return self._booleans[values.view("uint8")]
        if not column.absent:
            return self._decimals(values)
        absent = values == -1
        if not absent.any():
            return self._decimals(values)
        cells = self._decimals(np.where(absent, 0, values))
        if cells.shape[1] < len(self._null):
            cells = np.pad(cells, ((0, 0), (len(self._null) - cells.shape[1], 0)))
        cells[absent] = 0
        cells[absent, : len(self._null)] = self._null
        return cells

    def _decimals(self, values: NDArray[Any]) -> Cells:
        np = self._np
        negative = values < 0
        signed = bool(negative.any())
        if signed:
            values = values.astype("int64")
            values = np.where(negative, -values, values)  # -2**63 stays, and is 2**63 unsigned
        rest = values.astype("uint64")
        top = int(rest.max(initial=0))
        groups = (len(str(top)) + 3) // 4
        out = np.empty((len(rest), groups), "uint32")
        table = self._units
        for group in range(groups - 1, -1, -1):
            if top < 1 << 32 and rest.dtype != "uint32":
                rest = rest.astype("uint32")
            if group:
                upper = rest // 10000
                index = rest - upper * 10000 + (upper == 0) * rest.dtype.type(10000)
            else:
                upper, index = rest, rest + 10000
            table.take(index.astype("intp"), out=out[:, group], mode="clip")
            table, rest, top = self._upper, upper, top // 10000
        cells = out.view("uint8")
        if signed:
            return np.concatenate([(negative * ord("-")).astype("uint8")[:, None], cells], axis=1)
        return cells

    def _addresses(self, values: NDArray[Any], ip: NDArray[Any]) -> Cells:
        np = self._np
        longer = np.flatnonzero(ip != 4)
        width, quote = (40 if len(longer) else 16), len(self._quote)
        cells = np.zeros((len(values), width + 2 * quote), "uint8")
        text = cells[:, quote : width + quote]
        cells[:, :quote] = cells[:, width + quote :] = self._quote
        four = np.empty((len(values), 4), "uint32")
        for i in range(3):
            four[:, i] = self._dotted[values[:, 12 + i]]
        four[:, 3] = self._octets[values[:, 15]]
        text[:, :16] = four.view("uint8")
        if len(longer):
            text[longer] = self._words(self._long(values[longer].tobytes()), width)
        return cells

    def _long(self, raw: bytes) -> list[bytes]:
        known = self._known
        texts = []
        for i in range(0, len(raw), 16):
            address = raw[i : i + 16]
            text = known.get(address)
            if text is None:
                if len(known) >= ADDRESSES:
                    known.clear()
                text = known[address] = address_text(address, 6).encode()
            texts.append(text)
        return texts


def _join(parts: Sequence[NDArray[Any]]) -> bytes:
    """Put matrices, and vectors that each row repeats, side by side, and take the NULs out."""
    import numpy as np

    rows = max(len(part) for part in parts if part.ndim == 2)
    out = np.empty((rows, sum(part.shape[-1] for part in parts)), "uint8")
    start = 0
    for part in parts:
        out[:, start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return out.tobytes().translate(None, b"\0")
