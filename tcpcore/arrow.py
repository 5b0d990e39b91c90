"""A table as Arrow arrays: the PyCapsule interface by ctypes, over the columns' own memory.

Arrow: C data interface, C stream interface, PyCapsule interface.  Imported when a table is
exported.  What consumers call to give memory back is in C where it can be: see `_release`.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from ctypes import c_char_p, c_int, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from tcpcore import engine
from tcpcore.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tcpcore.columns import Column
    from tcpcore.table import Table

    # How many are null, then the buffers: validity (None: all are valid) and values.
    Data = tuple[int, list[NDArray[Any] | None]]

NULLABLE = 2  # ARROW_FLAG_NULLABLE
SCHEMA = b"arrow_schema"
STREAM = b"arrow_array_stream"

FORMATS = {
    "bool": b"b",
    "int8": b"c",
    "uint8": b"C",
    "int16": b"s",
    "uint16": b"S",
    "int32": b"i",
    "uint32": b"I",
    "int64": b"l",
    "uint8[16]": b"w:16",
    "S48": b"U",
}
STRUCT = b"+s"


class ArrowSchema(ctypes.Structure):
    _fields_ = (
        ("format", c_char_p),
        ("name", c_char_p),
        ("metadata", c_char_p),
        ("flags", c_int64),
        ("n_children", c_int64),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class ArrowArray(ctypes.Structure):
    _fields_ = (
        ("length", c_int64),
        ("null_count", c_int64),
        ("offset", c_int64),
        ("n_buffers", c_int64),
        ("n_children", c_int64),
        ("buffers", c_void_p),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class ArrowArrayStream(ctypes.Structure):
    _fields_ = (
        ("get_schema", c_void_p),
        ("get_next", c_void_p),
        ("get_last_error", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


def _python(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of Python's C API with a prototype that is ours alone."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_incref = _python("Py_IncRef", None, ctypes.py_object)
_capsule_new = _python("PyCapsule_New", ctypes.py_object, c_void_p, c_char_p, c_void_p)
_capsule_set_context = _python("PyCapsule_SetContext", c_int, ctypes.py_object, c_void_p)


def _own(*things: object) -> int:
    """Keep `things` alive for the struct whose private_data is the address returned."""
    _incref(things)
    return id(things)


def _callback(result: Any, arguments: int, function: Callable[..., Any]) -> int:
    """Return the address of a C function, which stays: a consumer may call at the very end."""
    pointer = ctypes.CFUNCTYPE(result, *[c_void_p] * arguments)(function)
    _own(pointer)
    return ctypes.cast(pointer, c_void_p).value or 0


def _release() -> tuple[int, int, int, int]:
    """Return the addresses of release of a schema, an array and a stream, and of a capsule's end.

    They run in any thread, and while an exception is on its way: ``pyarrow.table(t)['typo']``
    drops the arrays with the KeyError raised. Python code must not run then, so the compiled
    engine has these four in C. These here, the same in Python, are for the reference, and
    `stream_capsule` keeps them away from pyarrow, which aborts when one fails.
    """
    # Closures, since a module's globals are gone when the last consumer leaves.
    array, schema, stream = ArrowArray, ArrowSchema, ArrowArrayStream
    pointer, schema_name = c_void_p, SCHEMA
    decref = _python("Py_DecRef", None, c_void_p)
    capsule_name = _python("PyCapsule_GetName", c_char_p, c_void_p)
    capsule_pointer = _python("PyCapsule_GetPointer", c_void_p, c_void_p, c_char_p)
    capsule_context = _python("PyCapsule_GetContext", c_void_p, c_void_p)

    def release(kind: Any, address: int) -> None:
        struct = kind.from_address(address)
        if kind is not stream and struct.n_children:
            for child in (pointer * struct.n_children).from_address(struct.children):
                if kind.from_address(child).release:  # or it was moved away
                    release(kind, child)
        struct.release = None
        decref(struct.private_data)

    def release_schema(address: int) -> None:
        release(schema, address)

    def release_array(address: int) -> None:
        release(array, address)

    def release_stream(address: int) -> None:
        release(stream, address)

    def free_capsule(capsule: int) -> None:
        name = capsule_name(capsule)
        kind = schema if name == schema_name else stream
        address = capsule_pointer(capsule, name)
        if kind.from_address(address).release:  # nobody took it
            release(kind, address)
        decref(capsule_context(capsule))

    return (
        _callback(None, 1, release_schema),
        _callback(None, 1, release_array),
        _callback(None, 1, release_stream),
        _callback(None, 1, free_capsule),
    )


_native: tuple[int, int, int, int] | None = engine.load().arrow_release()
RELEASE_SCHEMA, RELEASE_ARRAY, RELEASE_STREAM, FREE_CAPSULE = _native or _release()


def schema_capsule(columns: Sequence[Column]) -> object:
    """Export a schema as the capsule that ``__arrow_c_schema__`` returns."""
    schema = ArrowSchema()
    _fill_schema(ctypes.addressof(schema), columns)
    return _capsule(schema, SCHEMA)


def stream_capsule(table: Table) -> object:
    """Export rows as the capsule that ``__arrow_c_stream__`` returns: one batch."""
    if _native is None and "pyarrow" in sys.modules:
        return to_pyarrow(table).__arrow_c_stream__()
    stream = ArrowArrayStream(
        GET_SCHEMA, GET_NEXT, GET_LAST_ERROR, RELEASE_STREAM, _own(_Stream(table))
    )
    return _capsule(stream, STREAM)


def pyarrow_schema(columns: Sequence[Column]) -> Any:
    """Return a ``pyarrow.Schema``."""
    import pyarrow

    return pyarrow.schema(_Schema(columns))


def to_pyarrow(table: Table) -> Any:
    """Return a ``pyarrow.Table`` over the columns' memory."""
    import pyarrow

    schema = pyarrow_schema(table.schema)
    arrays = []
    for field, column in zip(schema, table.schema, strict=True):
        nulls, data = _data(column, table[column.name])
        buffers = [None if buffer is None else pyarrow.py_buffer(buffer) for buffer in data]
        arrays.append(pyarrow.Array.from_buffers(field.type, len(table), buffers, nulls))
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _capsule(struct: ctypes.Structure, name: bytes) -> object:
    capsule = _capsule_new(ctypes.addressof(struct), name, FREE_CAPSULE)
    _capsule_set_context(capsule, _own(struct, name))
    return capsule


def _data(column: Column, values: NDArray[Any]) -> Data:
    if column.dtype == "bool":
        return 0, [None, np.packbits(values, bitorder="little")]
    if column.unit == "text":  # where each begins, then all of them
        letters = values.view("uint8").reshape(len(values), values.itemsize)
        offsets = np.zeros(len(values) + 1, "int64")
        np.cumsum(np.count_nonzero(letters, axis=1), out=offsets[1:])
        return 0, [None, offsets, letters[letters != 0]]
    if column.absent:
        valid = values != -1
        nulls = len(values) - int(np.count_nonzero(valid))
        if nulls:
            return nulls, [np.packbits(valid, bitorder="little"), values]
    return 0, [None, values]


def _metadata(pairs: dict[str, str]) -> bytes:
    """Encode as the C data interface asks: counts and lengths as native int32."""
    parts = [len(pairs).to_bytes(4, sys.byteorder)]
    for pair in pairs.items():
        for text in pair:
            raw = text.encode()
            parts += [len(raw).to_bytes(4, sys.byteorder), raw]
    return b"".join(parts)


def _addresses(structs: Any) -> Any:
    """Return an array of pointers to the structs of an array."""
    start, size = ctypes.addressof(structs), ctypes.sizeof(structs._type_)
    return (c_void_p * len(structs))(*[start + size * i for i in range(len(structs))])


def _fill_schema(out: int, columns: Sequence[Column]) -> None:
    children = (ArrowSchema * len(columns))()
    for child, column in zip(children, columns, strict=True):
        name = column.name.encode()
        metadata = _metadata({"unit": column.unit, "meaning": column.meaning})
        child.format = FORMATS[column.dtype]
        child.name = name
        child.metadata = metadata
        child.flags = NULLABLE if column.absent else 0
        child.release = RELEASE_SCHEMA
        child.private_data = _own(name, metadata)
    pointers = _addresses(children)
    metadata = _metadata({"tcpcore.schema_version": str(SCHEMA_VERSION)})
    schema = ArrowSchema.from_address(out)
    schema.format = STRUCT
    schema.name = b""
    schema.metadata = metadata
    schema.flags = 0
    schema.n_children = len(columns)
    schema.children = ctypes.addressof(pointers)
    schema.dictionary = None
    schema.release = RELEASE_SCHEMA
    schema.private_data = _own(metadata, children, pointers)


def _fill_array(
    out: int, length: int, nulls: int, data: Sequence[NDArray[Any] | None], children: Any = ()
) -> None:
    buffers = (c_void_p * len(data))(*[None if one is None else one.ctypes.data for one in data])
    pointers = _addresses(children) if children else None
    array = ArrowArray.from_address(out)
    array.length = length
    array.null_count = nulls
    array.offset = 0
    array.n_buffers = len(data)
    array.buffers = ctypes.addressof(buffers)
    array.n_children = len(children)
    array.children = ctypes.addressof(pointers) if pointers else None
    array.dictionary = None
    array.release = RELEASE_ARRAY
    array.private_data = _own(data, buffers, children, pointers)


class _Schema:
    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def __arrow_c_schema__(self) -> object:
        return schema_capsule(self._columns)


class _Stream:
    """What a stream hands out; columns are read here, where an error can still be raised."""

    __slots__ = ("columns", "data", "error", "length")

    def __init__(self, table: Table) -> None:
        self.columns = table.schema
        self.length = len(table)
        self.data: list[Data] | None = [_data(c, table[c.name]) for c in self.columns]
        self.error: Any = None

    def schema(self, out: int) -> None:
        _fill_schema(out, self.columns)

    def next(self, out: int) -> None:
        if self.data is None:
            ctypes.memset(out, 0, ctypes.sizeof(ArrowArray))  # released: the end
            return
        children = (ArrowArray * len(self.data))()
        for pointer, (nulls, data) in zip(_addresses(children), self.data, strict=True):
            _fill_array(pointer, self.length, nulls, data)
        _fill_array(out, self.length, 0, [None], children)
        self.data = None


def _stream(address: int) -> _Stream:
    owner = ArrowArrayStream.from_address(address).private_data
    stream: _Stream = ctypes.cast(owner, ctypes.py_object).value[0]
    return stream


def _call(address: int, method: Callable[[_Stream, int], None], out: int) -> int:
    stream = _stream(address)
    try:
        method(stream, out)
    except BaseException as error:  # nothing passes through C
        stream.error = ctypes.create_string_buffer(repr(error).encode())
        return errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO
    return 0


def _last_error(address: int) -> int | None:
    error = _stream(address).error
    return None if error is None else ctypes.addressof(error)


GET_SCHEMA = _callback(c_int, 2, lambda address, out: _call(address, _Stream.schema, out))
GET_NEXT = _callback(c_int, 2, lambda address, out: _call(address, _Stream.next, out))
GET_LAST_ERROR = _callback(c_void_p, 1, _last_error)
