"""Uploaded files: what is taken, what is refused and where the fault is said to be."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import time
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Invalid, StorageFull, TooLarge
from common.schemas.datasets import Column
from service import parser
from service.ingest import Parsed, ParseLimits, ParseOptions, parse_in_child
from service.parsing import parquet as parquet_form

ROOMY = ParseLimits()


def parse(folder: Path, content: bytes, options: ParseOptions | None = None, limits: ParseLimits = ROOMY) -> Parsed:
    """Parse in this process, which is quicker than in a child and otherwise the same."""
    source = folder / "source"
    source.write_bytes(content)
    return parser.parse(source, folder / "out.parquet", options or ParseOptions(), limits)


def column(parsed: Parsed, name: str) -> Column:
    return next(column for column in parsed.columns if column.name == name)


def stored(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "out.parquet")


ACCEPTED: list[tuple[str, bytes, dict[str, list[object]]]] = [
    ("plain", b"a,b\n1,x\n2,y\n", {"a": [1, 2], "b": ["x", "y"]}),
    ("no newline at the end", b"a,b\n1,x\n2,y", {"a": [1, 2], "b": ["x", "y"]}),
    ("byte order mark", b"\xef\xbb\xbfa\n1\n2\n", {"a": [1, 2]}),
    ("byte order mark before a quoted name", b'\xef\xbb\xbf"a",b\n1,2\n', {"a": [1], "b": [2]}),
    ("CRLF", b"a,b\r\n1,x\r\n2,y\r\n", {"a": [1, 2], "b": ["x", "y"]}),
    ("quoted newline", b'a,b\n"x\ny",1\nz,2\n', {"a": ["x\ny", "z"], "b": [1, 2]}),
    ("quoted CRLF", b'a,b\r\n"x\r\ny",1\r\n', {"a": ["x\r\ny"], "b": [1]}),
    ("quoted delimiter", b'a,b\n"x,y",1\n', {"a": ["x,y"], "b": [1]}),
    ("doubled quotes", b'a,b\n"say ""hi""",1\n', {"a": ['say "hi"'], "b": [1]}),
    ("spaces around cells", b"a, b\n 1 , x \n2,x\n", {"a": [1, 2], "b": ["x", "x"]}),
    ("blank lines at the end", b"a,b\n1,2\n\n\r\n\n", {"a": [1], "b": [2]}),
    ("blank line in a single column", b"a\n1\n\n3\n\n", {"a": [1, None, 3]}),
    ("quoted empty cells", b'a,b\n"",1\n', {"a": [None], "b": [1]}),
    (
        "default tokens for missing",
        b"a\n1\n?\nNA\nN/A\nNaN\nnan\nnull\nNULL\nNone\n - \n",
        {"a": [1, *[None] * 9]},
    ),
    ("emoji and CJK", "naïve,名\n🙂,1\n".encode(), {"naïve": ["🙂"], "名": [1]}),
    ("emoji that is joined", "👩\u200d🔬\n1\n".encode(), {"👩\u200d🔬": [1]}),
    ("whole numbers", b"a\n+5\n-0\n007\n", {"a": [5, 0, 7]}),
    ("largest whole number", b"a\n9223372036854775807\n", {"a": [2**63 - 1]}),
    ("number beyond 64 bits", b"a\n9223372036854775808\n1\n", {"a": [2.0**63, 1.0]}),
    ("decimals", b"a\n1.5\n.5\n5.\n1e3\n-1E-3\n", {"a": [1.5, 0.5, 5.0, 1000.0, -0.001]}),
    ("underflow", b"a\n1e-400\n1\n", {"a": [0.0, 1.0]}),
    ("near the largest float", b"a\n1e308\n-1e308\n", {"a": [1e308, -1e308]}),
    ("booleans of any case", b"a\ntrue\nFALSE\n?\nTrue\n", {"a": [True, False, None, True]}),
    ("underscore is no number", b"a\n1_000\n2\n", {"a": ["1_000", "2"]}),
    ("hexadecimal is no number", b"a\n0x10\n2\n", {"a": ["0x10", "2"]}),
    ("infinity among texts", b"a\ninf\nx\n", {"a": ["inf", "x"]}),
    ("all missing", b"a,b\n?,1\nNA,2\n", {"a": [None, None], "b": [1, 2]}),
    ("a row of delimiters only", b"a,b\n,\n1,2\n", {"a": [None, 1], "b": [None, 2]}),
    ("shell and path text", b"a\n../x\n$HOME\n`id`\n=1+1\n", {"a": ["../x", "$HOME", "`id`", "=1+1"]}),
    ("comment sign is data", b"a,b\n#x,1\n", {"a": ["#x"], "b": [1]}),
    ("longest cell", b"a\n" + b"x" * 1_000_000 + b"\n", {"a": ["x" * 1_000_000]}),
    ("longest name", b"x" * 1000 + b"\n1\n", {"x" * 1000: [1]}),
]


@pytest.mark.parametrize(("content", "expected"), [c[1:] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED])
def test_csv_is_read_as_written(tmp_path: Path, content: bytes, expected: dict[str, list[object]]) -> None:
    parsed = parse(tmp_path, content)
    frame = stored(tmp_path)
    assert {name: frame[name].to_list() for name in frame.columns} == expected
    assert parsed.rows == frame.height
    assert [c.name for c in parsed.columns] == list(expected)
    assert [type(v) for v in frame.row(0)] == [type(values[0]) for values in expected.values()]


REFUSED: list[tuple[str, bytes, str, str]] = [
    ("empty", b"", "header", "empty_file"),
    ("header only", b"a,b\n", "row 1", "no_rows"),
    ("header without newline", b"a,b", "row 1", "no_rows"),
    ("header and blank lines", b"a,b\n\n\n", "row 1", "no_rows"),
    ("blank header", b"\n1,2\n", "header, column 1", "empty_name"),
    ("too few cells", b"a,b\n1,2\n3\n", "row 2", "ragged_row"),
    ("too many cells", b"a,b\n1,2\n3,4\n5,6,7\n", "row 3", "ragged_row"),
    ("blank line in the middle", b"a,b\n1,2\n\n3,4\n", "row 2", "ragged_row"),
    ("end-of-file mark", b"a,b\n1,2\n\x1a", "row 2", "ragged_row"),
    ("unclosed quote", b'a,b\n1,2\n"3,4\n5,6\n', "row 2", "unclosed_quote"),
    ("unclosed quote in the header", b'a,"b\n1,2\n', "header", "unclosed_quote"),
    ("text after a quote", b'a,b\n"x"y,2\n', "row 1", "stray_quote"),
    ("quote inside a cell", b'a,b\nx"y,2\n', "row 1", "stray_quote"),
    ("quote after a space", b'a,b\n1, "2"\n', "row 1", "stray_quote"),
    ("duplicate names", b"a,b,a\n1,2,3\n", "header, column 3", "duplicate_name"),
    ("duplicate names but for spaces", b"a,b, a\n1,2,3\n", "header, column 3", "duplicate_name"),
    ("empty name", b"a,,c\n1,2,3\n", "header, column 2", "empty_name"),
    ("newline in a name", b'"a\nb",c\n1,2\n', "header, column 1", "invalid_name"),
    ("direction override in a name", "a,b\u202e\n1,2\n".encode(), "header, column 2", "invalid_name"),
    ("long name", b"x" * 1001 + b"\n1\n", "header, column 1", "invalid_name"),
    ("NUL", b"a,b\n1,2\n3,x\0y\n", "row 2, column b", "nul_character"),
    ("NUL in the header", b"a,b\0\n1,2\n", "header, column 2", "nul_character"),
    ("UTF-16", "a,b\n1,2\n".encode("utf-16"), "row 1", "not_utf8"),
    ("UTF-16 without mark", "a,b\n1,2\n".encode("utf-16-le"), "header, column 1", "nul_character"),
    ("Latin-1", "a,b\n1,x\n2,é\n".encode("latin-1"), "row 2, column b", "not_utf8"),
    ("lone surrogate", b"a\n\xed\xa0\x80\n", "row 1, column a", "not_utf8"),
    ("long cell", b"a,b\n1," + b"x" * 1_000_001 + b"\n", "row 1", "cell_too_long"),
    ("carriage returns only", b"a,b\r1,2\r3,4\r", "header", "stray_carriage_return"),
    ("infinity", b"a,b\n1,1\n2,inf\n", "row 2, column b", "invalid_data"),
    ("minus infinity", b"a\n1.5\n-Infinity\n", "row 2, column a", "invalid_data"),
    ("overflow", b"a\n1\n?\n1e400\n", "row 3, column a", "invalid_data"),
    ("pickle", b"\x80" + pickle.dumps({"a": 1}, 2)[1:], "header, column 1", "nul_character"),
    ("zip", b"PK\x03\x04\x14\0\0\0\x08\0,\n\n", "header, column 1", "nul_character"),
]


@pytest.mark.parametrize(("content", "pointer", "code"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_csv_is_refused_with_row_and_column(tmp_path: Path, content: bytes, pointer: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, content)
    assert caught.value.stable_code == "invalid_data"
    assert [(fault.pointer, fault.code) for fault in caught.value.faults][:1] == [(pointer, code)]
    assert not (tmp_path / "out.parquet").exists()


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    parsed = parse(tmp_path, b"^a$,a,*,^.*$\nx,1,2,3\nx,2,3,4\n")
    assert [found.name for found in parsed.columns] == ["^a$", "a", "*", "^.*$"]
    assert column(parsed, "^a$").top
    assert (column(parsed, "*").min, column(parsed, "^.*$").max) == (2, 4)


def test_every_ragged_row_is_told_up_to_twenty(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, b"a,b\n" + b"1\n" * 30)
    assert [fault.pointer for fault in caught.value.faults] == [f"row {n}" for n in range(1, 21)]


def test_too_many_columns_are_refused_and_too_many_rows_or_cells_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, b",".join(b"c%d" % i for i in range(10_001)) + b"\n")
    assert caught.value.faults[0].code == "too_many_columns"
    with pytest.raises(TooLarge):
        parse(tmp_path, b"a,b\n" + b"1,2\n" * 4, limits=ParseLimits(max_rows=3))
    with pytest.raises(TooLarge):
        parse(tmp_path, b"a,b\n" + b"1,2\n" * 4, limits=ParseLimits(max_cells=7))


def test_options_for_header_delimiter_and_missing_values(tmp_path: Path) -> None:
    options = ParseOptions(header=False, delimiter=";", null=("-999", ""))
    parse(tmp_path, b"1;?\n-999;x\n;y\n", options)
    assert stored(tmp_path).to_dict(as_series=False) == {"c0": [1, None, None], "c1": ["?", "x", "y"]}
    for bad in ('"', "\n", "ab", "", "é"):
        with pytest.raises(ValueError, match="delimiter"):
            ParseOptions(delimiter=bad)


def test_a_byte_order_mark_is_skipped_without_header_too(tmp_path: Path) -> None:
    parse(tmp_path, b"\xef\xbb\xbf1,2\n3,4\n", ParseOptions(header=False))
    assert stored(tmp_path).rows() == [(1, 2), (3, 4)]


def test_text_in_the_last_row_of_a_number_column_is_reported(tmp_path: Path) -> None:
    parsed = parse(tmp_path, b"age\n" + b"".join(b"%d\n" % (i % 30) for i in range(999)) + b"old\n")
    assert column(parsed, "age").kind == "categorical"
    assert (
        parsed.warnings[0]
        == "column age: 1 of 1,000 values are not numbers (first at row 1000); the column is treated as categorical"
    )
    assert "old" not in " ".join(parsed.warnings)


def test_few_different_texts_are_categories_and_many_are_text(tmp_path: Path) -> None:
    rows = "".join(f"{i % 20},u{i},{i % 40 // 2}x\n" for i in range(40))
    parsed = parse(tmp_path, f"n,unique,half\n{rows}".encode())
    assert [c.kind for c in parsed.columns] == ["numeric", "text", "categorical"]
    assert parsed.warnings[0].startswith("column unique: of text, too many different ones; left out of training")
    assert column(parsed, "unique").top == ()


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("2024-01-27", "2024-02-29"), "datetime"),
        (("2024-01-27 10:00", "2024-01-28T11:30"), "datetime"),
        (("2024-01-27T10:00:00Z", "2024-01-28 11:30:00.5+02:00"), "datetime"),
        (("2024-01-27", "2024-02-30"), "categorical"),
        (("2024-01-27", "soon"), "categorical"),
    ],
)
def test_dates_and_times_are_told_from_text(tmp_path: Path, cells: tuple[str, str], kind: str) -> None:
    parsed = parse(tmp_path, "\n".join(["at,n", *(f"{cell},1" for cell in cells), ",2"]).encode())
    assert column(parsed, "at").kind == kind
    assert column(parsed, "at").missing == 1


def test_constant_and_empty_columns_are_accepted_and_warned_of(tmp_path: Path) -> None:
    parsed = parse(tmp_path, b"a,b,c,d\n1,?,x,1\n1,?,x,2\n")
    assert parsed.warnings == (
        "column b: without any value",
        "2 columns (a, c): with one value only (constant)",
    )
    assert column(parsed, "b") == Column(name="b", kind="numeric", missing=2, distinct=0)
    assert column(parsed, "a").std == 0


def test_the_description_counts_what_is_there(tmp_path: Path) -> None:
    parsed = parse(tmp_path, b"n,f,b,c\n2,0.5,true,y\n1,1.5,false,x\n1,?,true,x\n?,2.5,?,y\n")
    n, f, b, c = parsed.columns
    assert (n.integer, n.missing, n.distinct, n.min, n.max) == (True, 1, 2, 1.0, 2.0)
    assert n.mean == pytest.approx(4 / 3, rel=1e-15)
    assert n.std == pytest.approx(math.sqrt(2 / 9), rel=1e-15)
    assert [(t.value, t.count) for t in n.top] == [(1, 2), (2, 1)]
    assert (f.integer, f.mean, f.top) == (False, 1.5, ())
    assert (b.kind, b.std, [(t.value, t.count) for t in b.top]) == ("boolean", None, [(True, 2), (False, 1)])
    assert (c.mean, [(t.value, t.count) for t in c.top]) == (None, [("x", 2), ("y", 2)])  # ties by value


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_any_quoted_text_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], newline: str
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [("a", "b"), *rows]]
    options = ParseOptions(null=("\x01never",))
    try:
        parsed = parse(folder, newline.join(lines).encode(), options)
    except Invalid as error:  # "inf" and "nan" in a column of numbers
        assert [fault.code for fault in error.faults] in (["invalid_data"], ["invalid_data"] * 2)  # noqa: PT017
        return
    assert parsed.rows == len(rows)
    frame = stored(folder)
    for place, name in enumerate("ab"):
        if frame[name].dtype == pl.String:
            assert frame[name].to_list() == pl.Series([row[place] for row in rows]).str.strip_chars().to_list()


def parquet(folder: Path, frame: pl.DataFrame, **options: int) -> bytes:
    frame.write_parquet(folder / "made.parquet", **options)  # type: ignore[arg-type]
    return (folder / "made.parquet").read_bytes()


PARQUET = ParseOptions(format="parquet")


def test_parquet_types_are_kept_and_nan_is_missing(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "u8": pl.Series([0, 255], dtype=pl.UInt8),
            "u64": pl.Series([0, 2**64 - 1], dtype=pl.UInt64),
            "f32": pl.Series([0.5, float("nan")], dtype=pl.Float32),
            "dec": pl.Series(["1.50", None]).cast(pl.Decimal(10, 2)),
            "flag": [True, None],
            "text": ["x", None],
            "cat": pl.Series(["p", "q"], dtype=pl.Categorical),
            "enum": pl.Series(["p", "q"], dtype=pl.Enum(["p", "q"])),
            "day": [date(2020, 1, 1), None],
            "time": [datetime(2020, 1, 1, 12), None],  # noqa: DTZ001
            "none": [None, None],
        }
    )
    parsed = parse(tmp_path, parquet(tmp_path, frame), PARQUET)
    kinds = [*["numeric"] * 4, "boolean", *["categorical"] * 3, *["datetime"] * 2, "numeric"]
    assert [c.kind for c in parsed.columns] == kinds
    assert [c.integer for c in parsed.columns[:3]] == [True, False, False]
    assert stored(tmp_path)["f32"].to_list() == [0.5, None]
    assert stored(tmp_path)["cat"].to_list() == ["p", "q"]
    assert column(parsed, "f32").missing == 1
    assert not any("dates" in warning for warning in parsed.warnings)  # their parts are learned from


def test_parquet_with_nested_or_binary_columns_is_refused_column_by_column(tmp_path: Path) -> None:
    frame = pl.DataFrame({"ok": [1], "list": [[1]], "struct": [{"a": 1}], "bytes": [b"x"]})
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, parquet(tmp_path, frame), PARQUET)
    assert [(f.pointer, f.code) for f in caught.value.faults] == [
        (f"column {name}", "unsupported_type") for name in ("list", "struct", "bytes")
    ]


def test_an_infinite_number_in_parquet_is_refused_at_its_row(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, parquet(tmp_path, pl.DataFrame({"a": [1.0, None, -math.inf]})), PARQUET)
    assert caught.value.faults[0].pointer == "row 3, column a"


def test_a_parquet_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = parquet(tmp_path, pl.DataFrame({"a": np.zeros(5_000_000), "b": np.zeros(5_000_000)}))
    assert len(content) < 100_000
    monkeypatch.setattr(parquet_form.ParquetTable, "_canonical", None)
    with pytest.raises(TooLarge):
        parse(tmp_path, content, PARQUET, ParseLimits(max_cells=9_999_999))


def test_parquet_of_too_many_row_groups_columns_or_without_rows_is_refused(tmp_path: Path) -> None:
    many = parquet(tmp_path, pl.DataFrame({"a": range(10_001)}), row_group_size=1)
    wide = parquet(tmp_path, pl.DataFrame({"a": [1], "b": [2], "c": [3]}))
    empty = parquet(tmp_path, pl.DataFrame({"a": []}, schema={"a": pl.Int64}))
    for content, code in ((many, "too_many_row_groups"), (wide, "too_many_columns"), (empty, "no_rows")):
        with pytest.raises(Invalid) as caught:
            parse(tmp_path, content, PARQUET, ParseLimits(max_columns=2))
        assert caught.value.faults[0].code == code


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    good = parquet(tmp_path, pl.DataFrame({"a": [1, 2]}))
    garbage = [
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1" + b"\xff" * 64 + b"PAR1",
        good[:-1],
        good[1:],
        b"a,b\n1,2\n",
    ]
    garbage += [
        good[:-8] + b"\xff\xff\xff\x7fPAR1",
        b"PAR1" + good[-40:],
        b"PAR1" + b"\x19" * 500 + b"\xf4\1\0\0PAR1",
    ]
    for content in garbage:
        with pytest.raises(Invalid, match="not a readable Parquet file"):
            parse(tmp_path, content, PARQUET)
    with pytest.raises(Invalid) as caught:
        parse(tmp_path, b"PARE" + good[4:-4] + b"PARE", PARQUET)
    assert caught.value.faults[0].code == "encrypted"


def child(folder: Path, content: bytes, options: ParseOptions, limits: ParseLimits = ROOMY) -> Parsed:
    (folder / "upload").write_bytes(content)
    return parse_in_child(folder / "upload", folder / "out.parquet", options, limits)


def test_a_child_gives_the_same_answer(tmp_path: Path) -> None:
    content = "a,b\n1,ü\n2,?\n".encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANG", "en_US.ISO-8859-1")
        assert child(tmp_path, content, ParseOptions()) == parse(tmp_path, content)
    assert stored(tmp_path).rows() == [(1, "ü"), (2, None)]


def test_a_child_hands_its_faults_over_without_path_or_traceback(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        child(tmp_path, b"a,b\n1\n", ParseOptions())
    assert caught.value.stable_code == "invalid_data"
    assert caught.value.faults[0].pointer == "row 1"
    assert str(tmp_path) not in caught.value.message
    with pytest.raises(TooLarge):
        child(tmp_path, b"a\n1\n2\n", ParseOptions(), ParseLimits(max_rows=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["upload"]


def test_a_child_out_of_memory_leaves_the_parent_alone(tmp_path: Path) -> None:
    content = parquet(tmp_path, pl.DataFrame({"a": np.zeros(100_000_000, np.int8)}))
    with pytest.raises(Invalid, match="ran out of memory") as caught:
        child(tmp_path, content, PARQUET, ParseLimits(memory_bytes=600 << 20))
    assert caught.value.stable_code == "parser_failed"
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("place", [50, 191, 300, 500, 700])
def test_a_damaged_parquet_file_ends_the_child_at_most(tmp_path: Path, place: int) -> None:
    content = bytearray(parquet(tmp_path, pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})))
    content[place] = 1  # the first two make the decoder ask for all memory there is, and abort
    try:
        assert child(tmp_path, bytes(content), PARQUET).rows == 2
    except Invalid as error:
        assert error.stable_code in ("invalid_data", "parser_failed")  # noqa: PT017


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    start = time.monotonic()
    with pytest.raises(Invalid, match="longer than 1 seconds") as caught:
        parse_in_child(tmp_path / "endless", tmp_path / "out.parquet", PARQUET, ParseLimits(wall_seconds=1))
    assert caught.value.stable_code == "parser_failed"
    assert time.monotonic() - start < 5


def test_a_child_imports_nothing_from_the_folder_of_uploads(tmp_path: Path) -> None:
    for name in ("polars.py", "json.py", "service.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')")
    assert child(tmp_path, b"a\n1\n", ParseOptions()).rows == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise pl.exceptions.ComputeError(f"parquet: underlying IO error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
    with pytest.raises(StorageFull):
        parse(tmp_path, b"a\n1\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_child_whose_disk_is_full_says_so(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.part").symlink_to("/dev/full")
    with pytest.raises(StorageFull):
        child(tmp_path, b"a\n1\n", ParseOptions())


def test_the_parser_is_a_program_with_one_argument_and_one_answer(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"a;b\n1;2\n")
    task = {"source": str(tmp_path / "upload"), "destination": str(tmp_path / "out"), "delimiter": ";"}
    command = [sys.executable, "-m", "service.parser", json.dumps(task)]
    root = Path(parser.__file__).parents[1]
    answer = json.loads(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout)
    assert answer["rows"] == 1
    assert [c["name"] for c in answer["columns"]] == ["a", "b"]
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY  # the child's limits are its own


def test_long_texts_are_no_categories_and_whole_floats_are_whole_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"long": ["x" * 2000, "y"] * 20, "label": [0.0, 1.0] * 20, "half": [0.5, 1.0] * 20})
    parsed = parse(tmp_path, parquet(tmp_path, frame), ParseOptions(format="parquet"))
    assert column(parsed, "long").kind == "text"
    assert [column(parsed, name).integer for name in ("label", "half")] == [True, False]
