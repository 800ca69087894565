"""Files that come piece by piece, read as if they came at once; what callers accept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Invalid, TooLarge
from common.features.categories import OneHot
from common.features.columns import Column
from common.features.numbers import Scaled
from common.features.times import Times
from common.learned import LearnedNetwork
from service.bulk.csv_reader import CsvReader
from service.bulk.forms import Form, wanted_form
from service.bulk.ndjson_reader import NdjsonReader
from service.bulk.reader import Reader
from service.ingest import ParseLimits, ParseOptions
from service.parsing import csv_stream
from service.parsing.csv_cells import CsvCells
from service.parsing.csv_stream import CsvStream
from service.parsing.csv_structure import Block, CsvStructure
from tests.learned import TARGETS, network_of
from tests.messy.csv_files import CSV_FILES

LIMITS = ParseLimits()
COLUMNS: tuple[Column, ...] = (
    Scaled(name="a", kind="numeric", mean=0.0, scale=1.0),
    OneHot(name="b", categories=("007", "x"), missing=True),
    Times(name="c", mean=0.0, scale=1e9, fill=0.0),
)


@pytest.fixture(scope="module")
def network() -> LearnedNetwork:
    return network_of(COLUMNS, *TARGETS[0])


def pieces_of(content: bytes, cuts: list[int]) -> list[bytes]:
    """The content in pieces of these lengths, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(content):
        pieces.append(content[at : at + cuts[turn % len(cuts)]])
        at, turn = at + len(pieces[-1]), turn + 1
    return pieces


def taken(reader: Reader, pieces: list[bytes]) -> np.ndarray[Any, Any]:
    """All rows that a reader makes of the pieces."""
    parts = [(piece, False) for piece in pieces] + [(b"", True)]
    found = [encoded for data, at_end in parts for encoded in reader.take(data, at_end=at_end)]
    rows = np.cumsum([0, *(len(encoded.matrix) for encoded in found)])
    assert [encoded.first_row for encoded in found] == rows[:-1].tolist()
    return np.concatenate([encoded.matrix for encoded in found])


def faults_of(reader: Reader, content: bytes) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        taken(reader, [content])
    assert caught.value.stable_code == "invalid_data"
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


# CSV


def rows_of(blocks: Callable[[], list[Block]]) -> list[tuple[str, ...]] | str:
    """The cells of all blocks, or that the file is refused."""
    cells = CsvCells(ParseOptions())
    try:
        return [row for block in blocks() for row in cells.exact(block).rows()]
    except Invalid:
        return "refused"


CELL = st.sampled_from(["", "1", "x", "2.5", '"q"', '"a,b"', '"l\nm"', '"r\r\ns"', '""""', "é", "7 "])
PROPER = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=30).map(
    lambda rows: "a,b\n" + "\n".join(",".join(row) for row in rows)
)


@settings(max_examples=60)
@given(
    PROPER | st.text('a1,"\n\r \0', max_size=40), st.lists(st.integers(1, 30), min_size=1), st.sampled_from(["", "\n"])
)
def test_where_the_pieces_of_a_csv_file_end_changes_nothing(text: str, cuts: list[int], end: str) -> None:
    content = (text + end).encode()
    whole = rows_of(lambda: list(CsvStructure(io.BytesIO(content), ParseOptions(), LIMITS).blocks()))

    def in_pieces() -> list[Block]:
        stream = CsvStream(ParseOptions(), LIMITS)
        blocks = [block for piece in pieces_of(content, cuts) for block in stream.take(piece, at_end=False)]
        return [*blocks, *stream.take(b"", at_end=True)]

    assert rows_of(in_pieces) == whole


@pytest.mark.parametrize("cut", [10**9, 7])
def test_a_messy_file_in_pieces_has_the_rows_or_the_fault_that_it_has_as_a_whole(cut: int) -> None:
    judged = [case for case in CSV_FILES if case.content and (case.refused or ("",))[0] != "invalid_data"]
    assert len(judged) > 140
    for case in judged:
        stream, cells, rows = CsvStream(case.parse_options, LIMITS), CsvCells(case.parse_options), 0
        try:
            for data in (*pieces_of(case.content, [cut]), b""):
                rows += sum(cells.exact(block).height for block in stream.take(data, at_end=not data))
        except Invalid as error:
            assert (error.faults[0].code, error.faults[0].pointer) == case.refused, case.name  # noqa: PT017
        else:
            assert case.values is not None, case.name
            assert {len(column) for column in case.values.values()} == {rows}, case.name


def test_numbers_are_read_alike_however_they_are_written(network: LearnedNetwork) -> None:
    plain = b"a,b,c\n1.5,x,2024-01-02\n-2,007,2024-01-03\n,,\n"
    others = [
        b"c,a,z,b\n2024-01-02,1.5,9,x\n2024-01-03,-2,9,007\n,,,\n",
        b'\xef\xbb\xbfa,b,c\r\n 1.5 ,"x",2024-01-02T00:00\r\n"-2.0",007,2024-01-03T00:00:00Z\r\nNA,NULL,?\r\n',
        b"a,b,c\n+1.50,x ,2024-01-02 00:00:00\n-02,007,2024-01-03T02:00+02:00\n-,None,-\n\n\n",
    ]
    expected = taken(CsvReader(network, ParseOptions(), LIMITS), [plain])
    for content in others:
        np.testing.assert_array_equal(taken(CsvReader(network, ParseOptions(), LIMITS), [content]), expected)
    as_wanted: list[tuple[bytes, dict[str, Any]]] = [
        (plain.replace(b",", b";").replace(b".", b","), {"delimiter": ";", "decimal": ","}),
        (plain.partition(b"\n")[2], {"header": False}),
        (plain.replace(b"\n,,\n", b"\nno,no,no\n"), {"null": ("no",)}),
    ]
    for content, options in as_wanted:
        reader = CsvReader(network, ParseOptions.model_validate(options), LIMITS)
        np.testing.assert_array_equal(taken(reader, [content]), expected)


def test_a_file_of_one_column_makes_one_think_of_the_delimiter(network: LearnedNetwork) -> None:
    for content, asked in ((b"a;b;c\n1;x;\n", "another one"), (b"a\tb\tc\n1\tx\t\n", "a tab"), (b"a,b\n1,x\n", None)):
        with pytest.raises(Invalid) as error:
            taken(CsvReader(network, ParseOptions(), LIMITS), [content])
        for fault in error.value.faults:
            assert ("is the delimiter" in fault.message) == (asked is not None)
            assert asked is None or f"is the delimiter {asked}?" in fault.message


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"a,b\n1,x\n", [("column c", "missing_column")]),
        (b"A,b,c\n1,x,\n", [("column a", "missing_column")]),
        (b"a,b,c\n1,x,\nx1,x,\n", [("row 2, column a", "wrong_type")]),
        (b"a,b,c\n1e999,x,\n", [("row 1, column a", "non_finite_number")]),
        (b"a,b,c\n1,x,\n inf,x,\n", [("row 2, column a", "non_finite_number")]),
        (b'a,b,c\n"1,5",x,\n', [("row 1, column a", "wrong_type")]),
        (b"a,b,c\n0x1,x,\n1_0,x,\n", [("row 1, column a", "wrong_type"), ("row 2, column a", "wrong_type")]),
        (
            b"a,b,c\n1,x,tomorrow\n1,x,2024-02-30\n",
            [("row 1, column c", "wrong_type"), ("row 2, column c", "wrong_type")],
        ),
        (b"a,b,c\n1e300,x,\n", [("row 1, column a", "number_too_large")]),
        (b"a,b,c\n1,x\n", [("row 1", "ragged_row")]),
        (b"a,b,c\n1,x,,\n", [("row 1", "ragged_row")]),
        (b"a,b,c\n1,x\0,\n", [("row 1, column b", "nul_character")]),
        (b"a,b,c\n1,\xff,\n", [("row 1, column b", "not_utf8")]),
        (b'a,b,c\n1,"x,\n', [("row 1", "unclosed_quote")]),
        (b'a,b,c\n1,x"y,\n', [("row 1", "stray_quote")]),
        (b"a,b,c\n1," + b"x" * 2_000_000 + b",\n", [("row 1", "cell_too_long")]),
        (b"a,b,a\n1,x,\n", [("header, column 3", "duplicate_name")]),
        (b"a,b,c\n", [("row 1", "no_rows")]),
        ("a,b,c\n1,x,\n".encode("utf-16"), [("row 1", "not_utf8")]),
        (b"\x1f\x8b\x08\x00", [("file", "compressed")]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value[:30]),
)
def test_a_csv_file_that_does_not_fit_is_refused_at_its_place(
    network: LearnedNetwork, content: bytes, faults: list[tuple[str, str]]
) -> None:
    assert faults_of(CsvReader(network, ParseOptions(), LIMITS), content) == faults


def test_a_file_without_a_header_must_have_as_many_columns_as_the_model(network: LearnedNetwork) -> None:
    options = ParseOptions(header=False)
    assert faults_of(CsvReader(network, options, LIMITS), b"1,x\n") == [("row 1", "wrong_length")]


def test_a_record_that_does_not_end_is_refused_before_it_fills_the_memory(
    network: LearnedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_stream, "MAX_RECORD", 1000)
    for begin, code in ((b'1,"x', "unclosed_quote"), (b'1,x"', "stray_quote"), (b"1,x", "line_too_long")):
        reader = CsvReader(network, ParseOptions(), LIMITS)
        given = 0
        with pytest.raises(Invalid) as caught:  # noqa: PT012
            for piece in (b"a,b,c\n1,x,\n", begin, *[b"y" * 100] * 100):
                given += len(piece)
                list(reader.take(piece, at_end=False))
        assert given < 1500
        assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("row 2", code)]


def test_more_rows_or_cells_than_are_allowed_are_too_many(network: LearnedNetwork) -> None:
    content, lines = b"a,b,c\n" + b"1,x,\n" * 10, b'{"a":1,"b":"x","c":null}\n' * 10
    for limits in (ParseLimits(max_rows=9), ParseLimits(max_cells=29)):
        with pytest.raises(TooLarge):
            taken(CsvReader(network, ParseOptions(), limits), [content])
        with pytest.raises(TooLarge):
            taken(NdjsonReader(network, limits), [lines])
    assert len(taken(CsvReader(network, ParseOptions(), ParseLimits(max_rows=10, max_cells=30)), [content])) == 10
    assert len(taken(NdjsonReader(network, ParseLimits(max_rows=10, max_cells=30)), [lines])) == 10


# NDJSON

ROWS = st.lists(
    st.fixed_dictionaries(
        {"a": st.none() | st.floats(-1e6, 1e6), "b": st.sampled_from(["007", "x", "y\n", "", None]), "c": st.none()},
        optional={"z": st.integers()},
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=25)
@given(ROWS, st.lists(st.integers(1, 40), min_size=1), st.sampled_from(["", "\n", "\r\n\n"]))
def test_where_the_pieces_of_ndjson_end_changes_nothing(
    network: LearnedNetwork, rows: list[dict[str, Any]], cuts: list[int], end: str
) -> None:
    content = ("\n".join(map(json.dumps, rows)) + end).encode()
    instances = [{name: row[name] for name in "abc"} for row in rows]
    expected = network.encoder.encode_records(instances)
    np.testing.assert_array_equal(taken(NdjsonReader(network, LIMITS), pieces_of(content, cuts)), expected)
    arrays = "\n".join(json.dumps(list(instance.values())) for instance in instances).encode()
    np.testing.assert_array_equal(taken(NdjsonReader(network, LIMITS), pieces_of(arrays, cuts)), expected)


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b'[1,"x",null]\n{"a":1,"b":"x"}\n', [("row 2, column c", "missing_column")]),
        (b'{"a":1,"b":"x","C":null}\n', [("row 1, column c", "missing_column"), ("row 1, column C", "unknown_column")]),
        (b'["1","x",null]\n', [("row 1, column a", "wrong_type")]),
        (b"[1,2,null]\n", [("row 1, column b", "wrong_type")]),
        (b'[1e999,"x",null]\n', [("row 1, column a", "non_finite_number")]),
        (b'[1,"x"]\n', [("row 1", "wrong_length")]),
        (b"7\n", [("row 1", "wrong_type")]),
        (b'[1,"x",null]\n{"a":1,"a":1}\n', [("row 2", "duplicate_key")]),
        (b'[NaN,"x",null]\n', [("row 1", "non_finite_number")]),
        (b"[" * 200 + b"]" * 200, [("row 1", "too_deep")]),
        (b'[1,"x",null]\n[1,\n', [("row 2", "malformed_json")]),
        (b'[1,"\xff",null]\n', [("row 1", "malformed_json")]),
        (b'[1,"x",null]\n\n[1,"x",null]\n', [("row 2", "ragged_row")]),
        (b"\n", [("row 1", "no_rows")]),
        (b"\xff\xfe[\0", [("row 1", "not_utf8")]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value[:30]),
)
def test_a_line_that_does_not_fit_is_refused_at_its_place(
    network: LearnedNetwork, content: bytes, faults: list[tuple[str, str]]
) -> None:
    assert faults_of(NdjsonReader(network, LIMITS), content) == faults


def test_a_line_that_does_not_end_is_refused_before_it_fills_the_memory(network: LearnedNetwork) -> None:
    reader = NdjsonReader(network, LIMITS)
    with pytest.raises(Invalid) as caught:  # noqa: PT012
        for piece in (b'[1,"x",null]\n', b"[", *[b" " * (1 << 20)] * 17):
            list(reader.take(piece, at_end=False))
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("row 2", "line_too_long")]


# Forms


@pytest.mark.parametrize(
    ("accept", "own", "form"),
    [
        (None, "csv", "csv"),
        ("", "parquet", "parquet"),
        ("*/*", "ndjson", "ndjson"),
        ("application/json", "csv", "json"),
        ("TEXT/CSV; header=present", "json", "csv"),
        ("text/*", "json", "csv"),
        ("text/*", "tsv", "tsv"),
        ("application/*", "parquet", "parquet"),
        ("text/csv;q=0.5, application/x-ndjson", "csv", "ndjson"),
        ("text/csv, application/x-ndjson", "ndjson", "ndjson"),
        ("application/x-ndjson, text/csv", "json", "ndjson"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "json", "json"),
        ("*/*, text/csv;q=0", "csv", "json"),
        ("application/json;q=0, */*;q=0.1", "json", "csv"),
        ("image/png", "csv", None),
        ("text/csv;q=0", "csv", None),
        ("text/csv;q=x", "csv", None),
        (";;,,/", "csv", None),
        ("image/png," * 99 + "text/csv", "json", "csv"),
        ("image/png," * 100 + "text/csv", "json", None),
    ],
)
def test_the_form_of_an_answer_is_the_one_that_is_accepted_most(
    accept: str | None, own: Form, form: Form | None
) -> None:
    assert wanted_form(accept, own) == form
