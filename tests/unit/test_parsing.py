"""Reading in blocks: where they end, and how quickly each was read, changes nothing of what is understood."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import Invalid
from service import parser
from service.ingest import Parsed, ParseLimits, ParseOptions
from service.parsing import csv_structure, json_rows
from service.parsing.csv_cells import CsvCells

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
Outcome = tuple[Any, ...]


def outcome(folder: Path, content: bytes, options: ParseOptions) -> Outcome:
    """What the parser makes of it: the rows with their types and warnings, or the faults."""
    (folder / "source").write_bytes(content)
    try:
        parsed: Parsed = parser.parse(folder / "source", folder / "out.parquet", options, ParseLimits())
    except Invalid as error:
        return error.message, [(fault.pointer, fault.code) for fault in error.faults]
    frame = pl.read_parquet(folder / "out.parquet")
    return frame.schema, frame.rows(), parsed.warnings


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few lines."""
    monkeypatch.setattr(csv_structure, "BLOCK", 24)
    monkeypatch.setattr(csv_structure, "BLOCK_PER_COLUMN", 1)
    monkeypatch.setattr(json_rows, "BATCH_ROWS", 2)


ODD = st.text(st.sampled_from('ab01.,;-e"\n\r \té\0'), max_size=60)
CELLS = st.sampled_from(
    [
        *("1", "-2", "007", "1.5", "1e5", " 3 ", "", "?", "NA", " NaN", "NaN", "x", "é", "true", "FALSE", "inf", "-0"),
        *('"q"', '"a,b"', '"c""d"', '"l\nm"', "9007199254740993", "9223372036854775808"),
        *("2024-01-27", "2024-01-27 10:00", "2024-01-27T10:00:05Z"),
    ]
)
TIDY = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=14).map(
    lambda rows: "\n".join(",".join(row) for row in [("a", "b"), *rows])
)


@settings(max_examples=120, deadline=None, suppress_health_check=QUIET)
@given(ODD | TIDY | TIDY.map(lambda text: text.replace("\n", "\r\n")) | ODD.map(lambda text: "a,b\n1,2\n" + text))
@example("a,b\n1,2,3\n4\n")
@example("a,b\n1\n2,3,4\n")
@example("a,b\nx\ry,1\n")
@example('a,b\n"x\ry",1\n')
@example("a\n1\n" * 9 + "\n" * 40)
@example("a,b\n" + "1.5,2\n" * 20 + " NaN,2\n" + "1.5,2\n" * 20)
@example('a,b\n"' + "x\n" * 40 + '",1\n' + "1,2\n" * 20)
@example("a,b\n" + "1,2\n" * 20 + '1,"2\n' + "1,2\n" * 20)
@pytest.mark.usefixtures("small_blocks")
def test_small_blocks_and_quick_ways_understand_what_the_exact_way_does(tmp_path: Path, text: str) -> None:
    for options in (ParseOptions(), ParseOptions(header=False, null=("?",)), ParseOptions(decimal=",", delimiter=";")):
        with pytest.MonkeyPatch.context() as patch:  # all in one block, each record and cell by the csv module
            patch.setattr(csv_structure, "BLOCK", 1 << 20)
            patch.setattr(csv_structure, "_layout", lambda data, *_, **__: (len(data), 0, True))
            careful = outcome(tmp_path, text.encode(), options)
        assert outcome(tmp_path, text.encode(), options) == careful


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(TIDY, st.integers(1, 300))
def test_where_blocks_end_changes_nothing(tmp_path: Path, text: str, size: int) -> None:
    whole = outcome(tmp_path, text.encode(), ParseOptions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_structure, "BLOCK", size)
        patch.setattr(csv_structure, "BLOCK_PER_COLUMN", 1)
        assert outcome(tmp_path, text.encode(), ParseOptions()) == whole


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(
    st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2), max_size=8)
)
@pytest.mark.usefixtures("small_blocks")
def test_cells_are_those_of_python_s_csv_module(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows, ("end", "end")])
    (tmp_path / "source").write_bytes(text.getvalue().encode())
    options = ParseOptions(null=("\x01never",))
    parser.parse(tmp_path / "source", tmp_path / "out.parquet", options, ParseLimits())
    stripped = [tuple(pl.Series(row).str.strip_chars()) for row in [*rows, ("end", "end")]]
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == stripped


@pytest.mark.parametrize(
    ("early", "late", "kept", "kind"),
    [
        ("1", "2.5", 1.0, pl.Float64),
        ("1", "x", "1", pl.String),
        ("007", "x", "007", pl.String),
        ("1.50", "x", "1.50", pl.String),
        ("true", "1", "true", pl.String),
        ("2024-01-27", "soon", "2024-01-27", pl.String),
        ("2024-01-27T10:00:00+02:00", "2024-01-27", "2024-01-27T10:00:00+02:00", pl.String),
        ("", "7", None, pl.Int64),
        ("", "x", None, pl.String),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_a_last_value_of_another_kind_leaves_the_first_as_they_were_written(
    tmp_path: Path, early: str, late: str, kept: object, kind: pl.DataType
) -> None:
    rows = [early] * 50 + [late]
    content = "\n".join(["a,b", *(f"{cell},1" for cell in rows)]).encode()
    schema, found, _ = outcome(tmp_path, content, ParseOptions())
    assert schema["a"] == kind
    assert [row[0] for row in found[:50]] == [kept] * 50


@pytest.mark.usefixtures("small_blocks")
def test_warnings_count_all_rows_once_though_they_are_read_twice(tmp_path: Path) -> None:
    cells = ["5"] * 60 + ["x"] + ["5"] * 60 + ["y"]
    *_, warnings = outcome(tmp_path, "\n".join(["a,b", *(f"{cell},01" for cell in cells)]).encode(), ParseOptions())
    assert warnings[0].startswith("column a: 2 of 122 values are not numbers (first at row 61)")
    assert warnings[1].startswith("column b: 122 of 122 values begin with a zero")


def test_padded_numbers_are_read_as_texts_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_structure, "BLOCK", 64)
    monkeypatch.setattr(csv_structure, "BLOCK_PER_COLUMN", 1)
    tried: list[bool] = []
    real = CsvCells.quick

    def watch(self: CsvCells, block: csv_structure.Block, schema: dict[str, pl.DataType]) -> pl.DataFrame:
        tried.append(pl.Int64 in schema.values())
        return real(self, block, schema)

    monkeypatch.setattr(CsvCells, "quick", watch)
    schema, rows, _ = outcome(tmp_path, b"a\n" + b"1\n" * 100 + b"2 \n" * 200, ParseOptions())
    assert (schema, rows) == ({"a": pl.Int64}, [(1,)] * 100 + [(2,)] * 200)
    assert sum(tried) < len(tried) / 2


VALUES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e9, 1e9) | st.text(max_size=3)


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1), min_size=1, max_size=12))
def test_where_batches_of_json_end_changes_nothing(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    content = "\n".join(map(json.dumps, rows)).encode()
    whole = outcome(tmp_path, content, ParseOptions(format="ndjson"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "BATCH_ROWS", 1)
        assert outcome(tmp_path, content, ParseOptions(format="ndjson")) == whole
    as_rows = outcome(tmp_path, b'{"rows": [' + b", ".join(content.split(b"\n")) + b"]}", ParseOptions(format="rows"))
    assert as_rows == whole
