"""Tables: lazy read-only columns, how they show themselves, and the formats of their files."""

from __future__ import annotations

import csv
import gc
import io
import ipaddress
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import ADDRESSES, NAMES, buffers, table

from tcpcore.columns import CONFLICTS, CONNECTIONS, PACKETS, Column
from tcpcore.export import writer
from tcpcore.table import Table

BOTH = pytest.mark.parametrize("schema", [CONNECTIONS, PACKETS], ids=["connections", "packets"])


class Source:
    """A source that remembers what it was asked for."""

    def __init__(self, schema: tuple[Column, ...], rows: int) -> None:
        self.rows = rows
        self.made = buffers(schema, rows)
        self.asked: list[list[str]] = []

    def __call__(self, names: list[str]) -> tuple[int, dict[str, bytes]]:
        self.asked.append(names)
        return self.rows, {name: self.made[name] for name in names}


def test_a_column_is_read_when_asked_for_with_its_group_and_once() -> None:
    source = Source(CONNECTIONS, 7)
    t = Table(CONNECTIONS, source)
    assert source.asked == []
    assert len(t) == 7
    assert source.asked == [[]]
    first = t["conn"]
    assert source.asked[1] == ["conn", "ip", "a_addr", "a_port", "b_addr", "b_port"]
    assert t["conn"] is first
    assert len(t["a_port"]) == 7
    assert len(source.asked) == 2
    for name in t.names:
        assert len(t[name]) == 7
    assert len(source.asked) == 4, "who goes through the table gets the rest in one go"
    assert list(CONFLICTS) in source.asked, "but for what may take a second replay"
    assert sorted(name for names in source.asked for name in names) == sorted(t.names)


def test_columns_here_and_there_do_not_bring_the_rest() -> None:
    source = Source(CONNECTIONS, 7)
    t = Table(CONNECTIONS, source)
    for name in ("conn", "first_ns", "packets_ab", "packets_ba"):
        assert len(t[name]) == 7
    assert len(source.asked) == 4
    assert all(len(names) < 15 for names in source.asked)


def test_packets_are_read_column_by_column() -> None:
    source = Source(PACKETS, 3)
    t = Table(PACKETS, source)
    assert t["seq"].dtype == np.uint32
    assert source.asked == [["seq"]]


@BOTH
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_arrays(schema: tuple[Column, ...], rows: int) -> None:
    made = buffers(schema, rows)
    t = Table(schema, lambda names: (rows, made))
    assert t.names == [column.name for column in schema]
    assert t.schema == schema
    for column in schema:
        array = t[column.name]
        scalar, _, width = column.dtype.rstrip("]").partition("[")
        assert array.dtype == scalar
        assert array.shape == ((rows, int(width)) if width else (rows,))
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        assert array.tobytes() == made[column.name]
        if rows:
            data = np.frombuffer(made[column.name], "uint8").ctypes.data
            assert array.ctypes.data == data, "no copy"
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


def test_a_column_lives_without_its_table() -> None:
    column = table(rows=1000)["conn"]
    expected = buffers(CONNECTIONS, 1000)["conn"]
    gc.collect()
    assert column.tobytes() == expected


def test_a_writable_buffer_is_shown_read_only() -> None:
    t = Table(PACKETS, lambda names: (2, {"conn": bytearray(16)}))
    assert not t["conn"].flags.writeable


def test_wrong_name() -> None:
    t = table(rows=1)
    for wrong in ("nothing", 0):
        with pytest.raises(KeyError, match="the columns are conn, ip, a_addr"):
            t[wrong]  # type: ignore[index]
    assert "conn" in t
    assert "nothing" not in t
    with pytest.raises(TypeError):
        iter(t)  # type: ignore[call-overload]


def test_a_source_that_changes_is_an_error() -> None:
    rows = iter([2, 3])
    t = Table(PACKETS, lambda names: (next(rows), {name: bytes(80) for name in names}))
    assert len(t["seq"]) == 2
    with pytest.raises(RuntimeError, match="had 2 rows and now has 3"):
        t["ack"]


def test_a_short_buffer_is_an_error() -> None:
    t = Table(PACKETS, lambda names: (4, {"seq": bytes(15)}))
    with pytest.raises(ValueError, match="buffer"):
        t["seq"]


# How a table shows itself.


def test_repr() -> None:
    lines = repr(table(rows=1000)).splitlines()
    assert lines[0] == "1,000 rows x 103 columns"
    assert lines[1].split()[:5] == ["conn", "a_addr", "a_port", "b_addr", "b_port"]
    assert len(lines) == 2 + 5 + 1 + 5
    assert set(lines[7]) == {".", " "}
    assert repr(table(rows=0)).startswith("0 rows x 103 columns\n")
    assert len(repr(table(rows=10)).splitlines()) == 12


def test_repr_has_words() -> None:
    values = {
        "packet": (7, "int64"),
        "conn": (-1, "int64"),
        "dir": (-1, "int8"),
        "flags": (0x112, "uint16"),
        "payload_len": (5, "uint32"),
        "verdict": (0b11, "uint32"),
        "drop_reason": (7, "uint8"),
    }
    made = {name: np.array([value], dtype).tobytes() for name, (value, dtype) in values.items()}
    row = repr(Table(PACKETS, lambda names: (1, made))).splitlines()[2]
    assert " ".join(row.split()) == "7 SYN ACK AE 5 TCB_FAST TCB_DATA IP_FRAGMENT"


class Text(HTMLParser):
    cells: int = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("div", "table", "thead", "tbody", "tr", "th", "td", "p")
        self.cells += tag in ("td", "th")


def test_html() -> None:
    parser = Text()
    parser.feed(table(rows=1000)._repr_html_())
    assert parser.cells == 11 * 12
    odd = (Column("<b>&", "int64", "", "a name to escape"),)
    html = Table(odd, lambda names: (1, {"<b>&": bytes(8)}))._repr_html_()
    assert "<th>&lt;b&gt;&amp;</th>" in html


# Formats.


def expected(t: Table, column: Column, i: int) -> Any:
    """Say what a cell is in JSON."""
    value = t[column.name][i]
    if column.unit == "address":
        if t["ip"][i] == 4:
            return str(ipaddress.IPv4Address(value[12:].tobytes()))
        address = ipaddress.IPv6Address(value.tobytes())
        return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)
    if column.unit == "outer address":
        address = ipaddress.IPv6Address(value.tobytes())
        return str(address.ipv4_mapped or address)
    if column.unit in NAMES:
        return (
            NAMES[column.unit][value] if value or column.unit in ("conn_state", "cause") else None
        )
    if column.unit == "text":
        return value.decode()
    if column.dtype == "bool":
        return bool(value)
    return None if column.absent and value == -1 else int(value)


def write(t: Table, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    with writer(out, form, t.schema, **options) as w:
        w.write(t)
    return out.getvalue()


@BOTH
def test_jsonl(schema: tuple[Column, ...]) -> None:
    t = table(schema, 9000)
    lines = write(t, "jsonl").decode().splitlines(keepends=True)
    assert len(lines) == 9000
    for i in [*range(50), 4095, 4096, 8191, 8192, 8999]:
        assert lines[i].endswith("}\n")
        pairs = json.loads(lines[i], object_pairs_hook=list)
        assert pairs == [(c.name, expected(t, c, i)) for c in schema]


@BOTH
def test_csv(schema: tuple[Column, ...]) -> None:
    t = table(schema, 9000)
    raw = write(t, "csv")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    header, *rows = csv.reader(io.StringIO(raw.decode(), newline=""))
    assert header == t.names
    assert len(rows) == 9000
    for i in [*range(50), 4095, 4096, 8999]:
        cells = [expected(t, c, i) for c in schema]
        texts = ["" if x is None else str(int(x)) if x in (True, False) else str(x) for x in cells]
        assert rows[i] == texts


def test_numbers_of_every_length() -> None:
    values = [0, 1, 9999, 10000, 10**8 - 1, 10**8, 2**32 - 1, 2**32, 10**16, 2**63 - 1]
    values += [10**n + d for n in range(1, 19) for d in (-1, 0, 1)]
    values += [-value for value in values] + [-(2**63)]
    schema = (Column("time_ns", "int64", "ns", ""),)
    for some in (values, values[:3], [0], [-1]):
        rows = len(some), {"time_ns": np.array(some, "int64").tobytes()}
        raw = write(Table(schema, lambda names, rows=rows: rows), "csv")
        assert raw.decode().split() == ["time_ns", *map(str, some)]


@BOTH
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_is_safe_to_print_and_to_open_in_a_spreadsheet(
    schema: tuple[Column, ...], form: str
) -> None:
    """No control byte, and no cell that begins like a formula: '-' only opens a number."""
    raw = write(table(schema, 5000), form)
    assert set(raw) <= {*range(0x20, 0x7F), 0x0A}
    if form == "csv":
        for cell in re.split(b"[,\n]", raw):
            assert re.fullmatch(rb"-?[0-9]+|[A-Za-z0-9_.:^-]*", cell)
            assert not re.match(rb"[=+@]|-[^0-9]", cell)


@BOTH
def test_npz(schema: tuple[Column, ...], tmp_path: Path) -> None:
    parts = [table(schema, rows, rows) for rows in (5, 0, 7)]
    with writer(tmp_path / "t.npz", schema=schema) as w:
        for part in parts:
            w.write(part)
    with np.load(tmp_path / "t.npz") as read:
        assert read.files == [column.name for column in schema]
        for name in read.files:
            array = np.concatenate([part[name] for part in parts])
            assert read[name].dtype == array.dtype
            assert np.array_equal(read[name], array)


@BOTH
@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize("text", [False, True])
def test_arrow_files(schema: tuple[Column, ...], form: str, text: bool, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / f"t.{form}"
    parts = [table(schema, rows, rows) for rows in (50, 0, 7)]
    with writer(path, schema=schema, text_addresses=text) as w:
        for part in parts:
            w.write(part)
    if form == "arrow":
        with pyarrow.ipc.open_file(path) as file:
            read = file.read_all()
    else:
        read = parquet.read_table(path)
    read.validate(full=True)
    assert read.schema.metadata[b"tcpcore.schema_version"] == b"1"
    i = 0
    rows = read.to_pylist()
    assert len(rows) == 57
    for part in parts:
        for k in range(len(part)):
            for column in schema:
                wanted = expected(part, column, k)
                if column.unit in NAMES:
                    wanted = part[column.name][k]
                elif column.dtype == "uint8[16]" and not text:
                    wanted = part[column.name][k].tobytes()
                assert rows[i][column.name] == wanted
            i += 1


def test_an_arrow_stream_where_one_cannot_seek() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    t = table(rows=30)  # a pipe holds them
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as source:
        with open(write_end, "wb", buffering=0) as pipe, writer(pipe, "arrow") as w:
            w.write(t)
        assert pyarrow.ipc.open_stream(source.read()).read_all() == t.to_arrow()


@BOTH
@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "arrow", "parquet"])
def test_nothing_to_write_is_a_whole_file(schema: tuple[Column, ...], form: str) -> None:
    if form in ("arrow", "parquet"):
        pytest.importorskip("pyarrow")
    raw = write(table(schema, 0), form)
    names = [column.name for column in schema]
    if form == "csv":
        assert raw.decode() == ",".join(names) + "\n"
    elif form == "jsonl":
        assert raw == b""
    elif form == "npz":
        assert all(len(np.load(io.BytesIO(raw))[name]) == 0 for name in names)
    else:
        from pyarrow import ipc, parquet

        read = (
            ipc.open_file(raw).read_all()
            if form == "arrow"
            else parquet.read_table(io.BytesIO(raw))
        )
        assert (read.num_rows, read.column_names) == (0, names)


@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "arrow", "parquet"])
def test_the_same_rows_are_the_same_bytes(form: str) -> None:
    if form in ("arrow", "parquet"):
        pytest.importorskip("pyarrow")
    assert write(table(rows=500), form) == write(table(rows=500), form)


@pytest.mark.parametrize("form", ["csv", "jsonl", "npz"])
def test_batches_make_no_difference(form: str) -> None:
    made = buffers(CONNECTIONS, 60)
    sizes = {c.name: len(made[c.name]) // 60 for c in CONNECTIONS}
    out = io.BytesIO()
    with writer(out, form) as w:
        for start, stop in [(0, 1), (1, 40), (40, 40), (40, 60)]:
            part = {k: made[k][start * n : stop * n] for k, n in sizes.items()}
            w.write(Table(CONNECTIONS, lambda names, p=part, n=stop - start: (n, p)))
    assert out.getvalue() == write(table(rows=60), form)


# Outputs.


def test_the_suffix_names_the_format(tmp_path: Path) -> None:
    with writer(tmp_path / "T.CSV") as w:
        w.write(table(rows=1))
    assert (tmp_path / "T.CSV").read_bytes().startswith(b"conn,ip,")
    known = r"\.csv, \.jsonl, \.npz, \.arrow, \.parquet"
    for name in ("t.txt", "t", "t.csv.gz"):
        with pytest.raises(ValueError, match=known):
            writer(str(tmp_path / name))
        assert not (tmp_path / name).exists()
    with pytest.raises(ValueError, match="csv, jsonl, npz, arrow, parquet, not 'xls'"):
        writer(tmp_path / "t.csv", "xls")
    with pytest.raises(ValueError, match="a stream needs a format"):
        writer(io.BytesIO())


def test_a_stream_stays_open_and_a_file_does_not(tmp_path: Path) -> None:
    out = io.BytesIO()
    w = writer(out, "csv")
    w.close()
    w.close()
    assert not out.closed
    with pytest.raises(ValueError, match="closed"):
        w.write(table(rows=1))
    with pytest.raises(FileNotFoundError):
        writer(tmp_path / "no" / "t.csv")


class Miser(io.RawIOBase):
    """A raw stream that takes seven bytes at a time."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:7])
        return min(7, len(data))


@pytest.mark.parametrize("form", ["csv", "npz", "parquet"])
def test_short_writes_are_completed(form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    miser = Miser()
    with writer(miser, form) as w:
        w.write(table(rows=20))
    assert bytes(miser.taken) == write(table(rows=20), form)


class Full(io.BytesIO):
    """A stream on a disk that has room for so many bytes."""

    room = 20_000

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(data)


def readable(raw: bytes, form: str) -> bool:
    """Tell whether a file of the format has its end."""
    try:
        if form == "npz":
            np.load(io.BytesIO(raw))
        elif form == "arrow":
            from pyarrow import ipc

            ipc.open_file(raw)
        else:
            from pyarrow import parquet

            parquet.read_table(io.BytesIO(raw))
    except Exception:
        return False
    return True


def write_many(out: Any, form: str) -> None:
    with writer(out, form) as w:
        for seed in range(40):
            w.write(table(rows=2000, seed=seed))


@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "arrow", "parquet"])
def test_a_full_disk_is_an_error_and_no_whole_file(form: str) -> None:
    if form in ("arrow", "parquet"):
        pytest.importorskip("pyarrow")
    full = Full()
    with pytest.raises(OSError, match="No space left"):
        write_many(full, form)
    gc.collect()
    assert form in ("csv", "jsonl") or not readable(full.getvalue(), form)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("form", ["csv", "npz"])
def test_dev_full(form: str) -> None:
    w = writer("/dev/full", form)
    with pytest.raises(OSError, match="No space left"), w:
        w.write(table(rows=5))


@pytest.mark.parametrize("form", ["npz", "arrow", "parquet"])
def test_what_is_interrupted_has_no_end(form: str, tmp_path: Path) -> None:
    if form != "npz":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t.{form}"
    w = writer(path)
    w.write(table(rows=10))
    w.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    del w
    gc.collect()
    assert not readable(path.read_bytes(), form)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for form in ("arrow", "parquet"):
        with pytest.raises(ImportError, match=r"pip install tcpcore\[arrow\]"):
            writer(tmp_path / f"t.{form}")
        assert not (tmp_path / f"t.{form}").exists()
    with pytest.raises(ImportError, match=r"pip install tcpcore\[arrow\]"):
        table(rows=1).to_arrow()
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=r"pip install tcpcore\[polars\]"):
        table(rows=1).to_polars()


def test_addresses_in_the_first_rows_are_hard_ones() -> None:
    """What `tables.py` promises the tests above."""
    t = table(rows=400)
    seen = {bytes(row) for row in t["b_addr"][t["ip"] == 6]}
    assert seen & set(ADDRESSES)
    assert (t["ip"] == 4).any()
