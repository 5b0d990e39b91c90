"""The schema against the vocabulary, the documentation against the schema, addresses as text."""

from __future__ import annotations

import ipaddress
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tcpcore.columns import (
    CONNECTIONS,
    DROP_NAMES,
    FLAG_NAMES,
    PACKETS,
    STATE_NAMES,
    VERDICT_NAMES,
    Column,
    address_text,
)
from tcpcore.mib import COUNTERS
from tcpcore.reference import snmp, tcp

DOCS = Path(__file__).resolve().parent.parent / "docs" / "tables.md"


def test_names_are_those_of_the_vocabulary() -> None:
    drops = [drop for drop in tcp.Drop if drop is not tcp.Drop.NR_DROPS]
    assert [(i, name) for i, name in enumerate(DROP_NAMES)] == [(d.value, d.name) for d in drops]
    assert [(1 << i, name) for i, name in enumerate(VERDICT_NAMES)] == [
        (verdict.value, verdict.name) for verdict in tcp.Verdict
    ]
    assert len(COUNTERS) == snmp.Mib.NR_MIBS == len(set(COUNTERS))
    mib = snmp.Mib
    assert [COUNTERS[i] for i in (mib.TCP_INSEGS, mib.TCP_TW)] == ["TcpInSegs", "TcpExtTW"]
    assert len(STATE_NAMES) == tcp.TCP_MAX_STATES
    assert STATE_NAMES[tcp.TCP_CLOSE] == "CLOSED"
    assert STATE_NAMES[tcp.TCP_CLOSING] == "CLOSING"
    assert FLAG_NAMES.index("ACK") == tcp.TCPHDR_ACK.bit_length() - 1


@pytest.mark.parametrize("schema", [CONNECTIONS, PACKETS], ids=["connections", "packets"])
def test_every_column_says_what_it_is(schema: tuple[Column, ...]) -> None:
    names = [column.name for column in schema]
    assert len(names) == len(set(names))
    for column in schema:
        assert column.meaning
        assert re.fullmatch("[a-z][a-z0-9_]*", column.name)
        dtype = np.dtype(column.dtype.partition("[")[0])
        assert not column.absent or dtype.kind == "i", "-1 must fit"
        assert not column.name.endswith("_ns") or column.unit.startswith("ns")


def test_both_directions_have_the_same_columns() -> None:
    ab = [column.name[:-3] for column in CONNECTIONS if column.name.endswith("_ab")]
    ba = [column.name[:-3] for column in CONNECTIONS if column.name.endswith("_ba")]
    assert ab == ba
    assert len(ab) == 40


def rows_of(schema: tuple[Column, ...]) -> str:
    """Write the table of a schema as docs/tables.md has it."""
    lines = ["| column | dtype | unit | absent | meaning |", "|---|---|---|---|---|"]
    for c in schema:
        absent = "-1" if c.absent else ""
        lines.append(f"| `{c.name}` | {c.dtype} | {c.unit} | {absent} | {c.meaning} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("schema", [CONNECTIONS, PACKETS], ids=["connections", "packets"])
def test_the_documentation_has_every_column(schema: tuple[Column, ...]) -> None:
    assert rows_of(schema) in DOCS.read_text(encoding="utf-8"), rows_of(schema)


def test_the_documentation_has_every_word() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in (*STATE_NAMES, *DROP_NAMES[1:], *VERDICT_NAMES, *FLAG_NAMES):
        assert name in text


@pytest.mark.parametrize("module", ["columns", "mib", "table", "export"])
def test_import_is_light(module: str) -> None:
    """None of them brings in numpy, pyarrow or ctypes before it is used."""
    code = f"""
import sys
sys.modules['tcpcore'] = type(sys)('tcpcore')
sys.modules['tcpcore'].__path__ = [{str(DOCS.parent.parent / "tcpcore")!r}]
import tcpcore.{module}
heavy = {{'numpy', 'pyarrow', 'ctypes', 'typing', 'enum', 'dataclasses', 're', 'pathlib'}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-S", "-c", code], check=True)


RFC_5952 = [
    ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # 4.2.3: of equal runs the first
    ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # 4.2.2: never a single group
    ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),  # 4.2.3: the longest run
    ("2001:DB8::A", "2001:db8::a"),  # 4.3: lower case
    ("0:0:0:0:0:0:0:0", "::"),
    ("0:0:0:0:0:0:0:1", "::1"),
    ("1:0:0:0:0:0:0:0", "1::"),
    ("0:0:1:0:0:0:0:0", "0:0:1::"),
    ("0:1:0:1:0:1:0:1", "0:1:0:1:0:1:0:1"),
    ("10:0:0:20:0:0:0:30", "10:0:0:20::30"),
    ("::1.2.3.4", "::102:304"),  # 5: only well-known prefixes take dots
    ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
    ("::ffff:0:0", "::ffff:0.0.0.0"),
    ("::fffe:1.2.3.4", "::fffe:102:304"),
]


@pytest.mark.parametrize(("given", "text"), RFC_5952)
def test_address_as_rfc_5952_writes_it(given: str, text: str) -> None:
    assert address_text(ipaddress.IPv6Address(given).packed, 6) == text


def test_address_agrees_with_ipaddress() -> None:
    rng = random.Random(5952)
    for _ in range(20_000):
        groups = [
            rng.choice([0, 0, 0, 1, 0x10, 0xA0, 0xFFFF, rng.getrandbits(16)]) for _ in "x" * 8
        ]
        packed = b"".join(group.to_bytes(2, "big") for group in groups)
        if not packed.startswith(bytes(10) + b"\xff\xff"):  # some versions write it in hex
            assert address_text(packed, 6) == str(ipaddress.IPv6Address(packed))
        assert address_text(packed, 4) == str(ipaddress.IPv4Address(packed[12:]))
