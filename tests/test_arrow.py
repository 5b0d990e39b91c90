"""The Arrow export: what consumers read, that nothing is copied, that everything comes back."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tables import buffers, table

from tcpcore import arrow
from tcpcore.arrow import ArrowArray, ArrowArrayStream, ArrowSchema
from tcpcore.columns import CONNECTIONS, PACKETS, SCHEMA_VERSION, Column
from tcpcore.table import Table

BOTH = pytest.mark.parametrize("schema", [CONNECTIONS, PACKETS], ids=["connections", "packets"])


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pyarrow from tests that take structs apart: without C it would make them instead."""
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)


def watched(rows: int) -> tuple[Table, list[weakref.ref[Any]]]:
    """Make a table, and references that tell when its buffers are gone."""
    made = {name: array("B", data) for name, data in buffers(CONNECTIONS, rows).items()}
    refs: list[weakref.ref[Any]] = [weakref.ref(buffer) for buffer in made.values()]
    return Table(CONNECTIONS, lambda names: (rows, made)), refs


def listed(values: Any) -> list[Any]:
    """Turn a column into Python's values: an address to bytes, text to str."""
    if values.ndim == 2:
        return [row.tobytes() for row in values]
    wanted: list[Any] = values.astype("U").tolist() if values.dtype.kind == "S" else values.tolist()
    return wanted


def alive(refs: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(ref() is not None for ref in refs)


# Consumers.


@BOTH
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000])
def test_pyarrow(schema: tuple[Column, ...], rows: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    t = table(schema, rows)
    read = pyarrow.table(t)
    read.validate(full=True)
    assert read == t.to_arrow()
    assert read.schema == pyarrow.schema(t)
    assert read.column_names == t.names
    assert read.schema.metadata == {b"tcpcore.schema_version": b"%d" % SCHEMA_VERSION}
    for column, field in zip(schema, read.schema, strict=True):
        assert field.metadata == {
            b"unit": column.unit.encode(),
            b"meaning": column.meaning.encode(),
        }
        assert field.nullable == column.absent
        values = t[column.name]
        if values.ndim == 2:
            assert field.type == pyarrow.binary(16)
            assert read[column.name].to_pylist() == [row.tobytes() for row in values]
            continue
        if column.unit == "text":
            assert field.type == pyarrow.large_utf8()
        else:
            assert field.type == pyarrow.from_numpy_dtype(values.dtype)
        wanted = listed(values)
        if column.absent:
            wanted = [None if value == -1 else value for value in wanted]
        assert read[column.name].to_pylist() == wanted


def test_pyarrow_reads_our_memory() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    t = table(rows=1000)
    for read in (pyarrow.table(t), t.to_arrow()):
        for column in CONNECTIONS:
            if column.dtype not in ("bool", "S48"):
                data = read[column.name].chunk(0).buffers()[1]
                assert data.address == t[column.name].ctypes.data


@BOTH
@pytest.mark.parametrize("rows", [0, 9])
def test_polars(schema: tuple[Column, ...], rows: int) -> None:
    polars = pytest.importorskip("polars")
    t = table(schema, rows)
    read = t.to_polars()
    assert read.equals(polars.DataFrame(t))
    assert read.columns == t.names
    assert read.height == rows
    for column in schema:
        values = t[column.name]
        wanted = listed(values)
        if column.absent:
            wanted = [None if value == -1 else value for value in wanted]
        assert read[column.name].to_list() == wanted


@BOTH
@pytest.mark.parametrize("rows", [0, 9])
def test_pandas(schema: tuple[Column, ...], rows: int) -> None:
    pandas = pytest.importorskip("pandas")
    t = table(schema, rows)
    read = t.to_pandas()
    assert list(read.columns) == t.names
    assert len(read) == rows
    for column in schema:
        values = t[column.name]
        wanted = listed(values)
        if column.absent:
            assert str(read[column.name].dtype) == column.dtype.replace("int", "Int")
            wanted = [pandas.NA if value == -1 else value for value in wanted]
        elif values.ndim == 1 and column.unit != "text":
            assert read[column.name].dtype == values.dtype
        assert read[column.name].tolist() == wanted
    if hasattr(pandas.DataFrame, "from_arrow"):
        assert list(pandas.DataFrame.from_arrow(t).columns) == t.names


def test_duckdb() -> None:
    duckdb = pytest.importorskip("duckdb")
    t = table(rows=5000)
    found = duckdb.sql("SELECT count(*), count(isn_ab), sum(a_port) FROM t").fetchall()
    assert found == [(5000, int((t["isn_ab"] != -1).sum()), int(t["a_port"].sum()))]


# The protocol by hand, as a consumer in C would speak it.

_PyCapsule_GetPointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_two = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_error = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)
_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def release(struct: Any) -> None:
    _release(struct.release)(ctypes.addressof(struct))
    assert not struct.release


def moved(struct: Any) -> Any:
    """Do what a consumer does to own a struct: copy its bytes and mark the old one released."""
    copy = type(struct).from_buffer_copy(struct)
    struct.release = None
    return copy


def take(t: Table) -> ArrowArrayStream:
    capsule = t.__arrow_c_stream__()
    address = _PyCapsule_GetPointer(capsule, b"arrow_array_stream")
    return moved(ArrowArrayStream.from_address(address))  # type: ignore[no-any-return]


def pull(stream: ArrowArrayStream, callback: int, struct: Any) -> Any:
    assert _two(callback)(ctypes.addressof(stream), ctypes.addressof(struct)) == 0
    return struct


def child(struct: Any, i: int) -> Any:
    pointers = (ctypes.c_void_p * struct.n_children).from_address(struct.children)
    return type(struct).from_address(pointers[i])


@pytest.mark.usefixtures("by_hand")
def test_the_stream_outlives_capsule_and_table() -> None:
    t, refs = watched(100)
    stream = take(t)
    del t
    assert alive(refs)
    schemas = [pull(stream, stream.get_schema, ArrowSchema()) for _ in range(2)]
    batch = pull(stream, stream.get_next, ArrowArray())
    assert _error(stream.get_last_error)(ctypes.addressof(stream)) is None
    end = pull(stream, stream.get_next, ArrowArray())
    assert not end.release
    release(stream)
    assert [s.n_children for s in schemas] == [len(CONNECTIONS)] * 2
    assert [child(schemas[0], i).name.decode() for i in range(3)] == ["conn", "ip", "a_addr"]
    for schema in schemas:
        release(schema)
    assert (batch.length, batch.n_children) == (100, len(CONNECTIONS))
    packed = sum(column.dtype in ("bool", "S48") for column in CONNECTIONS)
    assert alive(refs) == len(refs) - packed
    release(batch)
    assert alive(refs) == 0


@pytest.mark.usefixtures("by_hand")
def test_a_child_that_was_moved_lives_on() -> None:
    t, refs = watched(50)
    conn = t["conn"].tobytes()
    stream = take(t)
    del t
    batch = pull(stream, stream.get_next, ArrowArray())
    kept = moved(child(batch, 0))
    release(stream)
    release(batch)
    assert alive(refs) == 1
    data = (ctypes.c_void_p * 2).from_address(kept.buffers)[1]
    assert ctypes.string_at(data, 400) == conn
    release(kept)
    assert alive(refs) == 0


@pytest.mark.usefixtures("by_hand")
def test_a_schema_child_that_was_moved_lives_on() -> None:
    capsule = table(rows=0).__arrow_c_schema__()
    address = _PyCapsule_GetPointer(capsule, b"arrow_schema")
    schema = moved(ArrowSchema.from_address(address))
    kept = moved(child(schema, 2))
    release(schema)
    del capsule
    gc.collect()
    assert (kept.name, kept.format) == (b"a_addr", b"w:16")
    release(kept)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.skipif(sys.platform == "win32", reason="needs pthreads")
def test_release_in_a_thread_that_python_never_saw() -> None:
    libc = ctypes.CDLL(None)
    for _ in range(20):
        t, refs = watched(10)
        stream = take(t)
        del t
        batch = pull(stream, stream.get_next, ArrowArray())
        for struct in (stream, batch):
            thread = ctypes.c_ulong()
            started = libc.pthread_create(
                ctypes.byref(thread),
                None,
                ctypes.c_void_p(struct.release),
                ctypes.c_void_p(ctypes.addressof(struct)),
            )
            assert started == 0
            libc.pthread_join(thread, None)
            assert not struct.release
        assert alive(refs) == 0


@pytest.mark.usefixtures("by_hand")
def test_a_failure_is_an_errno_and_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = take(table(rows=3))

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(arrow, "_fill_array", fail)
    batch = ArrowArray()
    code = _two(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(batch))
    assert code == 12
    assert not batch.release
    assert _error(stream.get_last_error)(ctypes.addressof(stream)) == b"MemoryError('no room')"
    release(stream)


# Nothing leaks.


def resident() -> int:
    """Pages of this process in memory, where the system tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) if statm.exists() else 0


def drop_stream(t: Table) -> None:
    t.__arrow_c_stream__()


def drop_schema(t: Table) -> None:
    t.__arrow_c_schema__()


def read_all(t: Table) -> None:
    stream = take(t)
    release(pull(stream, stream.get_schema, ArrowSchema()))
    release(pull(stream, stream.get_next, ArrowArray()))
    release(stream)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("use", [drop_stream, drop_schema, read_all])
def test_10_000_exports_leave_nothing(use: Callable[[Table], object]) -> None:
    t = table(CONNECTIONS[:3] + CONNECTIONS[12:14], 100_000)
    for _ in range(10):
        use(t)
    gc.collect()
    blocks, pages = sys.getallocatedblocks(), resident()
    for _ in range(10_000):
        use(t)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500
    assert resident() - pages < 500


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_frames_give_everything_back(library: str) -> None:
    module = pytest.importorskip(library)
    make = module.DataFrame if library == "polars" else module.table
    t, refs = watched(100)
    frames = [make(t) for _ in range(3)]
    del t
    assert alive(refs)
    threads = [threading.Thread(target=frames.pop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alive(refs) == 0


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_an_exception_on_its_way_survives_a_release(library: str) -> None:
    """A frame that only an operand held goes while the exception is already raised."""
    module = pytest.importorskip(library)
    if library == "polars" and arrow._native is None and "pyarrow" not in sys.modules:
        pytest.skip("needs the compiled engine")
    make = module.DataFrame if library == "polars" else module.table
    t, refs = watched(100)
    for _ in range(3):
        with pytest.raises(TypeError, match="int"):
            int(make(t))
        with pytest.raises(AttributeError, match="typo"):
            _ = make(t).typo
    del t
    assert alive(refs) == 0


@pytest.mark.skipif(arrow._native is None, reason="needs the compiled engine")
def test_an_exception_on_its_way_survives_a_capsule() -> None:
    t, refs = watched(100)
    for name in ("__arrow_c_stream__", "__arrow_c_schema__"):
        with pytest.raises(TypeError, match="int"):
            int(getattr(t, name)())
    del t
    assert alive(refs) == 0


@pytest.mark.parametrize("library", ["polars", "pyarrow", "duckdb"])
def test_what_is_left_at_the_end_makes_no_noise(library: str) -> None:
    pytest.importorskip(library)
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tables import table
t = table(rows=100)
import {library} as library
capsules = t.__arrow_c_stream__(), t.__arrow_c_schema__()
if library.__name__ == "duckdb":
    kept = library.sql("SELECT * FROM t"), library.from_arrow
else:
    kept = (library.DataFrame if library.__name__ == "polars" else library.table)(t)
    sys.kept = kept, capsules
print("end")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "end\n"), run.stderr
    assert "Traceback" not in run.stderr
