"""docs/rfc-coverage.md is what the tests say, and nothing in it is silent."""

from __future__ import annotations

import re
from pathlib import Path

import rfc_coverage

PAGE = Path(__file__).parent.parent / "docs" / "rfc-coverage.md"


def test_the_page_is_current() -> None:
    """`python tests/rfc_coverage.py > docs/rfc-coverage.md` makes it so."""
    assert PAGE.read_text(encoding="utf-8") == rfc_coverage.page()


def test_every_row_is_there() -> None:
    """69 MUST, 31 SHOULD, 18 MAY and a RECOMMENDED, each passed, deviating or waived."""
    kinds = (("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1))
    expected = {f"{kind}-{i}" for kind, count in kinds for i in range(1, count + 1)}
    assert rfc_coverage.rows().keys() == expected
    assert len(expected) == 119
    shown = rfc_coverage.named()
    for row in expected:
        state, why = rfc_coverage.state_of(row, shown)
        assert state, row
        assert why, row
    assert not rfc_coverage.WAIVED.keys() & shown.keys(), "shown after all"
    assert rfc_coverage.DEVIATING.keys() <= shown.keys()


def test_nothing_else_is_silent() -> None:
    shown = rfc_coverage.named()
    for rfc in rfc_coverage.CORE:
        assert shown.get(rfc) or rfc in rfc_coverage.LATER, rfc
    for threat in rfc_coverage.ENDPOINT_THREATS:
        assert shown.get(threat), threat


def test_every_name_in_it_is_a_test_or_a_script() -> None:
    tests = Path(__file__).parent
    text = PAGE.read_text(encoding="utf-8").partition("## RFC 9293")[2]
    for file, name in set(re.findall(r"`([a-z]\w*)::([\w*]+)`", text)):
        source = (tests / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source or name == "matrix_*", (file, name)
