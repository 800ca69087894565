"""None of them crashes the parser, hangs it, or is taken for something else in silence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.errors import Invalid, Unreadable
from service import parser
from service.ingest import Parsed, ParseLimits, ParseOptions, parse_in_child
from tests.messy.case import Case
from tests.messy.csv_files import CSV_FILES
from tests.messy.json_files import NDJSON_FILES, ROWS_FILES
from tests.messy.parquet_files import DAMAGED, PARQUET_FILES

CASES = [*CSV_FILES, *NDJSON_FILES, *ROWS_FILES, *PARQUET_FILES]
DESCRIBED = (
    "without any value",
    "(constant)",
    "left out of training",
    "almost unique",
    "repeat an earlier row",
    "more than half",
    "hold the same",
    "an id?",
)
"""Warnings about what a column holds, which are tested elsewhere."""


def test_there_are_many_and_each_has_its_origin() -> None:
    assert len(CASES) + len(DAMAGED) >= 120
    assert len({(case.options.get("format"), case.name) for case in CASES}) == len(CASES)
    assert all(case.origin for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.options.get('format', 'csv')}: {case.name}")
def test_what_comes_of_a_messy_file(tmp_path: Path, case: Case) -> None:
    source, destination = tmp_path / "source", tmp_path / "out.parquet"
    source.write_bytes(case.content)
    if case.values is not None:
        check(parser.parse(source, destination, case.parse_options, ParseLimits()), destination, case)
        return
    with pytest.raises((Invalid, Unreadable)) as caught:
        parser.parse(source, destination, case.parse_options, ParseLimits())
    assert caught.value.stable_code == case.error
    if case.refused is not None:
        assert isinstance(caught.value, Invalid)
        assert [(fault.code, fault.pointer) for fault in caught.value.faults][:1] == [case.refused]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def check(parsed: Parsed, stored: Path, case: Case) -> None:
    assert case.values is not None
    frame = pl.read_parquet(stored)
    found = frame.to_dict(as_series=False)
    assert list(found) == list(case.values)
    for name, values in case.values.items():
        assert len(found[name]) == len(values)
        assert all(map(same, found[name], values)), (name, found[name], values)
    assert parsed.rows == frame.height
    assert [column.missing for column in parsed.columns] == [values.count(None) for values in case.values.values()]
    told = [warning for warning in parsed.warnings if not any(words in warning for words in DESCRIBED)]
    assert len(told) == len(case.warnings), told
    assert all(part in warning for part, warning in zip(case.warnings, told, strict=True)), told


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return found == expected and math.copysign(1, found) == math.copysign(1, expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_parquet_file_gets_an_answer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    limits = ParseLimits(memory_bytes=3 << 30, wall_seconds=30)
    try:
        parsed = parse_in_child(tmp_path / "source", tmp_path / "out", ParseOptions(format="parquet"), limits)
    except Invalid as error:
        assert error.stable_code in ("invalid_data", "parser_failed")  # noqa: PT017
        assert not list(tmp_path.glob("out*"))
    else:
        assert parsed.rows == 2
