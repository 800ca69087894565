"""Uploads of every form, over real stores: what is sent comes back, compressed or not, once or again."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import TooLarge
from common.schemas.datasets import Dataset
from common.store.stores import Stores
from service import gunzip, uploads
from tests.integration.test_api import CSV, files_in, quick_parser, refused, small, upload

__all__ = ["quick_parser", "small"]

NDJSON = "application/x-ndjson"
PARQUET = "application/vnd.apache.parquet"
GZIP = {"Content-Encoding": "gzip"}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

pytestmark = pytest.mark.usefixtures("quick_parser")


def rows_of(api: TestClient, dataset: dict[str, Any], **query: int) -> list[dict[str, Any]]:
    """All its rows, page by page."""
    found: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        answer = api.get(f"/v1/datasets/{dataset['id']}/rows", params={"offset": offset, **query})
        assert answer.status_code == 200, answer.text
        found += answer.json()["rows"]
        offset = answer.json()["next_offset"]
    return found


def taken(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


# Options and forms


def test_a_decimal_comma_changes_the_decimal_mark_and_nothing_else(api: TestClient) -> None:
    sheet = b"price;thousands;point;whole\n1,5;1.234,5;1.5;7\n-0,25;2.000,0;2.5;8\n1e3;3;4;9\n"
    dataset = taken(upload(api, sheet, delimiter=";", decimal=","))
    assert [(row["price"], row["whole"]) for row in rows_of(api, dataset)] == [(1.5, 7), (-0.25, 8), (1000.0, 9)]
    assert [column["kind"] for column in dataset["columns"]] == ["numeric", "categorical", "categorical", "numeric"]


def test_a_mark_between_thousands_makes_a_text_with_a_warning(api: TestClient) -> None:
    cells = [f"{n},5" for n in range(30)] + ["1.234,5"]
    dataset = taken(upload(api, "\n".join(["price", *cells]).encode(), delimiter=";", decimal=","))
    assert dataset["columns"][0]["kind"] == "text"
    assert dataset["warnings"][0].startswith("column price: 1 of 31 values are not numbers (first at row 31)")


def test_tabs_part_the_cells_of_tsv_unless_told_otherwise(api: TestClient) -> None:
    assert rows_of(api, taken(upload(api, b"a\tb\n1\tx, y\n", "text/tab-separated-values"))) == [{"a": 1, "b": "x, y"}]
    other = taken(upload(api, b"a|b\n1|2\n", "text/tab-separated-values", delimiter="|"))
    assert rows_of(api, other) == [{"a": 1, "b": 2}]
    assert other["format"] == "csv"


def test_rows_as_ndjson_and_as_json_are_the_same_data_set(api: TestClient) -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": " x "}, {"b": None, "c": True}, {"a": 2**62 + 1, "c": False, "b": "7"}]
    whole = [{"a": row.get("a"), "b": row.get("b"), "c": row.get("c")} for row in rows]
    lines = "\r\n".join(map(json.dumps, rows)).encode() + b"\n\n"
    found = taken(upload(api, lines, NDJSON, name="lines"))
    assert (found["format"], rows_of(api, found)) == ("ndjson", whole)
    body = json.dumps({"name": "名", "rows": rows}).encode()
    found = taken(upload(api, body, "application/json", name="other"))
    assert (found["format"], found["name"], rows_of(api, found)) == ("rows", "名", whole)
    unnamed = taken(upload(api, json.dumps({"rows": rows}).encode(), "application/json", name="query"))
    assert unnamed["name"] == "query"


def test_mixed_types_become_texts_and_a_warning_tells_the_first_rows(api: TestClient) -> None:
    values = [1, 2.5, "x", None, True, 3, "y", "z"]
    lines = "\n".join(json.dumps({"a": value, "n": 1.0 if value == 1 else 2}) for value in values).encode()
    dataset = taken(upload(api, lines, NDJSON))
    assert [row["a"] for row in rows_of(api, dataset)] == ["1", "2.5", "x", None, "true", "3", "y", "z"]
    assert dataset["warnings"] == [
        "column a: mixed types, numbers and texts and booleans (first at rows 3, 5, 7); all are taken as texts and the "
        "column is treated as categorical"
    ]
    assert dataset["columns"][1]["kind"] == "numeric"


@pytest.mark.parametrize(
    ("line", "place", "code"),
    [
        (b'{"a": [1]}', "row 2, column a", "nested_value"),
        (b'{"a": {"b": 1}}', "row 2, column a", "nested_value"),
        (b'{"a": 1, "a": 2}', "row 2", "duplicate_key"),
        (b'{"a": NaN}', "row 2", "non_finite_number"),
        (b'{"a": 1e400}', "row 2, column a", "invalid_data"),
        (b'{"a": 1', "row 2", "malformed_json"),
        (b'{"a": "\xff"}', "row 2", "malformed_json"),
        (b'{"a": "\\ud800"}', "row 2", "malformed_json"),
        (b"[1]", "row 2", "no_object"),
        (b"1", "row 2", "no_object"),
        (b"", "row 2", "ragged_row"),
        (b'{"": 1}', "row 2", "empty_name"),
        (b'{"\\u202e": 1}', "row 2", "invalid_name"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "row 2", "too_deep"),
    ],
)
def test_a_line_of_ndjson_that_is_wrong_is_named(
    api: TestClient, stores: Stores, line: bytes, place: str, code: str
) -> None:
    answer = upload(api, b'{"a": 1}\n' + line + b'\n{"a": 3}\n', NDJSON)
    assert (place, code) in refused(answer, 422, "invalid_data")
    assert files_in(stores) == []


@pytest.mark.parametrize(
    ("body", "status", "code", "places"),
    [
        (b"", 422, "empty_body", []),
        (b"{", 400, "malformed_json", []),
        (b'{"rows": [{"a": 1, "a": 2}]}', 400, "duplicate_key", []),
        (b'{"rows": [{"a": NaN}]}', 400, "non_finite_number", []),
        (b"[]", 422, "invalid_request", [("", "wrong_type")]),
        (b"{}", 422, "invalid_request", [("/rows", "missing")]),
        (b'{"rows": {}, "name": ""}', 422, "invalid_request", [("/rows", "wrong_type"), ("/name", "out_of_range")]),
        (b'{"rows": [], "name": 1}', 422, "invalid_request", [("/name", "wrong_type")]),
        (b'{"rows": [], "name": "\\n"}', 422, "invalid_request", [("/name", "invalid_name")]),
        (b'{"rows": [{"a": 1}], "x/y": 1}', 422, "invalid_request", [("/x~1y", "unknown_field")]),
        (b'{"rows": []}', 422, "invalid_data", [("row 1", "no_rows")]),
        (b'{"rows": [{}]}', 422, "invalid_data", [("row 1", "empty_name")]),
        (b'{"rows": [{"a": 1}, 2]}', 422, "invalid_data", [("row 2", "no_object")]),
        (b'{"rows": [{"a": 1}, {"a": []}]}', 422, "invalid_data", [("row 2, column a", "nested_value")]),
    ],
)
def test_a_document_of_rows_that_is_wrong_is_refused_at_its_place(
    api: TestClient, stores: Stores, body: bytes, status: int, code: str, places: list[tuple[str, str]]
) -> None:
    assert refused(upload(api, body, "application/json"), status, code) == places
    assert files_in(stores) == []


# Compressed


def test_a_compressed_upload_is_the_same_data_set(api: TestClient) -> None:
    plain = taken(upload(api, name="plain"))
    for body in (gzip.compress(CSV), gzip.compress(CSV[:9]) + gzip.compress(CSV[9:])):
        found = taken(upload(api, body, headers=GZIP, name="small"))
        assert (found["bytes"], found["sha256"]) == (len(CSV), plain["sha256"])
        assert rows_of(api, found) == rows_of(api, plain)


def test_a_bomb_is_too_large_and_is_not_expanded_whole(small: TestClient, stores: Stores) -> None:
    bomb = gzip.compress(bytes(1 << 26), 9)
    assert len(bomb) < 70_000
    answer = upload(small, gzip.compress(bytes(1 << 20), 9), headers=GZIP)  # 2,000 bytes are allowed
    refused(answer, 413, "too_large")
    assert answer.headers["Connection"] == "close"
    assert files_in(stores) == []
    expand, sizes = gunzip.Gunzip(10 << 20), list[int]()
    with pytest.raises(TooLarge):
        sizes.extend(len(piece) for piece in expand.pieces(bomb))
    assert sizes == [1 << 20] * 10


WHOLE = gzip.compress(CSV)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        *((WHOLE[:size], "malformed_gzip") for size in (1, 9, 10, 20, len(WHOLE) - 8, len(WHOLE) - 1)),
        (WHOLE + b"\0", "malformed_gzip"),
        (WHOLE + CSV, "malformed_gzip"),
        (WHOLE + WHOLE[:12], "malformed_gzip"),
        (WHOLE[:-8] + bytes(8), "malformed_gzip"),
        (WHOLE[:15] + b"\xff\xff" + WHOLE[17:], "malformed_gzip"),
        (CSV, "malformed_gzip"),
        (zlib.compress(CSV), "malformed_gzip"),
        (b"", "empty_body"),
        (gzip.compress(b""), "empty_body"),
    ],
)
def test_what_is_not_whole_gzip_is_refused(api: TestClient, stores: Stores, body: bytes, code: str) -> None:
    refused(upload(api, body, headers=GZIP), 422, code)
    assert files_in(stores) == []


@pytest.mark.parametrize("kind", ["text/csv", "text/tab-separated-values", PARQUET, NDJSON, "application/json"])
def test_a_compressed_file_that_does_not_say_so_is_refused_with_a_hint(api: TestClient, kind: str) -> None:
    answer = upload(api, WHOLE, kind)
    assert refused(answer, 422, "invalid_data") == [("file", "compressed")]
    assert "Content-Encoding: gzip" in answer.json()["errors"][0]["message"]


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=5), st.integers(1, 9))
def test_a_body_expands_to_what_was_compressed_however_it_comes(data: bytes, cuts: list[int], level: int) -> None:
    body = gzip.compress(data, level)
    parts = [body[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(body)], strict=True)]
    expand = gunzip.Gunzip(len(data))
    assert b"".join(piece for part in parts if part for piece in expand.pieces(part)) == data
    expand.end()


# The same again


def count_parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parsed: list[str] = []
    real: Callable[..., Any] = getattr(uploads, "parse_in_child")  # noqa: B009  # whichever stands there

    def parse(source: Any, destination: Any, *rest: Any) -> Any:
        parsed.append(destination.stem)
        return real(source, destination, *rest)

    monkeypatch.setattr(uploads, "parse_in_child", parse)
    return parsed


def test_the_same_bytes_are_read_once_and_live_apart(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = count_parsed(monkeypatch)
    first, second = taken(upload(api, name="a")), taken(upload(api, name="a"))
    third = taken(upload(api, gzip.compress(CSV), headers=GZIP, name="b"))
    assert parsed == [first["id"]]
    assert [found["version"] for found in (first, second, third)] == [1, 2, 1]
    assert first["warnings"] == []
    assert second["warnings"] == [f"the same bytes as version 1 ({first['id']}), whose rows are shared"]
    assert third["warnings"] == [f"the same bytes as version 2 ({second['id']}), whose rows are shared"]
    assert second["columns"] == third["columns"] == first["columns"]
    assert len({stores.files.dataset(found["id"]).stat().st_ino for found in (first, second, third)}) == 1
    rows = rows_of(api, first)
    for gone, left in ((first, [second, third]), (third, [second])):
        assert api.delete(f"/v1/datasets/{gone['id']}").status_code == 204
        assert all(rows_of(api, found) == rows for found in left)


def test_other_options_other_bytes_or_rows_that_are_gone_are_read(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = count_parsed(monkeypatch)
    first = taken(upload(api))
    taken(upload(api, header="false"))
    taken(upload(api, CSV + b"1,red,setosa\n"))
    assert len(parsed) == 3
    stores.files.dataset(first["id"]).write_bytes(b"PAR1 damaged")
    healed = taken(upload(api))
    assert (len(parsed), healed["warnings"]) == (4, [])
    assert len(rows_of(api, healed)) == 3
    stores.files.dataset(healed["id"]).unlink()
    taken(upload(api))
    assert len(parsed) == 5
    for dataset in list(stores.datasets.page(100).data):
        assert api.delete(f"/v1/datasets/{dataset.id}").status_code == 204
    assert taken(upload(api))["warnings"] == []


# Rows


def test_all_rows_can_be_paged_through_in_their_order(api: TestClient) -> None:
    dataset = taken(upload(api, b"n\n" + b"".join(b"%d\n" % n for n in range(250))))
    for limit in (1000, 100, 125):
        assert [row["n"] for row in rows_of(api, dataset, limit=limit)] == list(range(250))
    path = f"/v1/datasets/{dataset['id']}/rows"
    assert api.get(path, params={"offset": 250}).json() == {"rows": [], "next_offset": None}
    assert api.get(path, params={"offset": 2**53}).json() == {"rows": [], "next_offset": None}
    assert refused(api.get(path, params={"offset": -1}), 422, "invalid_request") == [("offset", "out_of_range")]


def test_times_come_back_as_rfc_3339_has_them(api: TestClient) -> None:
    sheet = b"d,t,z\n2024-01-27,2024-01-27 10:00:00.50,2024-01-27T10:00:00+02:00\n,,\n2024-02-29,2024-02-29T00:00:10,2024-02-29T01:02:03.000001Z\n"
    assert rows_of(api, taken(upload(api, sheet))) == [
        {"d": "2024-01-27", "t": "2024-01-27T10:00:00.5", "z": "2024-01-27T08:00:00Z"},
        {"d": None, "t": None, "z": None},
        {"d": "2024-02-29", "t": "2024-02-29T00:00:10", "z": "2024-02-29T01:02:03.000001Z"},
    ]
    moments = pl.Series("z", [datetime(2024, 1, 1, tzinfo=UTC)]).dt.convert_time_zone("Europe/Berlin")
    frame = pl.DataFrame([moments.rename("^a$"), pl.Series("a", [date(1, 1, 1)])])
    file = io.BytesIO()
    frame.write_parquet(file)
    assert rows_of(api, taken(upload(api, file.getvalue(), PARQUET))) == [
        {"^a$": "2024-01-01T00:00:00Z", "a": "0001-01-01"}
    ]


INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 2, 2**53 + 9)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
DAYS = st.dates(date(1, 1, 1))
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001
COLUMNS = {"i": INTEGERS, "f": FLOATS, "b": st.booleans(), "t": WORDS, "d": DAYS, "z": MOMENTS}


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of every type, some values missing, each column with one at least."""
    count = draw(st.integers(1, 6))
    columns = {
        name: [draw(values), *draw(st.lists(st.none() | values, min_size=count, max_size=count))]
        for name, values in COLUMNS.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def written(value: object) -> object:
    """A value as JSON has it."""
    return value.isoformat() if isinstance(value, date) else value


def same(value: object, sent: object) -> bool:
    if isinstance(sent, datetime):
        return datetime.fromisoformat(str(value)) == sent and len(str(value)) > 10
    if isinstance(sent, date):
        return value == sent.isoformat()
    if isinstance(sent, float):
        return (
            isinstance(value, int | float)
            and float(value) == sent
            and math.copysign(1, value) == math.copysign(1, sent)
        )
    return type(value) is type(sent) and value == sent


def check(api: TestClient, dataset: dict[str, Any], rows: list[dict[str, Any]], *, texts: bool = False) -> None:
    found = rows_of(api, dataset, limit=4)
    assert len(found) == len(rows)
    for got, sent in zip(found, rows, strict=True):
        assert list(got) == list(sent)
        for name, value in sent.items():
            assert same(got[name], written(value) if texts else value), (name, got[name], value)


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(tables())
def test_rows_in_are_rows_out_for_json_ndjson_and_parquet(api: TestClient, rows: list[dict[str, Any]]) -> None:
    plain = [{name: written(value) for name, value in row.items()} for row in rows]
    lines = "\n".join(json.dumps(row) for row in plain).encode()
    check(api, taken(upload(api, lines, NDJSON)), rows, texts=True)
    body = json.dumps({"rows": plain}, ensure_ascii=False).encode()
    check(api, taken(upload(api, body, "application/json")), rows, texts=True)
    frame = pl.DataFrame(
        {name: pl.Series([row[name] for row in rows]) for name in COLUMNS if name != "z"}
        | {"z": pl.Series([row["z"] for row in rows], dtype=pl.Datetime("us", "UTC"))}
    )
    file = io.BytesIO()
    frame.write_parquet(file)
    check(api, taken(upload(api, file.getvalue(), PARQUET)), rows)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(tables(), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]), st.sampled_from([",", "."]))
def test_rows_in_are_rows_out_for_csv(
    api: TestClient, rows: list[dict[str, Any]], delimiter: str, newline: str, decimal: str
) -> None:
    for place, row in enumerate(rows):  # texts that are nothing else, and neither empty nor with spaces around
        row["t"] = None if row["t"] is None else f"#{place} {row['t']}#"

    def cell(value: object) -> str:
        if isinstance(value, float):
            return repr(value).replace(".", decimal)
        return "" if value is None else str(written(value))

    sheet = io.StringIO()
    writer = csv.writer(sheet, delimiter=delimiter, lineterminator=newline)
    writer.writerow(rows[0])
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    content = sheet.getvalue().encode()
    dataset = Dataset.model_validate_json(upload(api, content, delimiter=delimiter, decimal=decimal).content)
    check(api, dataset.model_dump(), rows)


def test_a_page_of_long_texts_is_short(api: TestClient) -> None:
    body = io.BytesIO()
    pl.DataFrame({"text": ["x" * 999_999] * 40, "n": range(40)}).write_parquet(body)
    assert len(body.getvalue()) < 100_000
    headers = {"Content-Type": "application/vnd.apache.parquet"}
    dataset = api.post("/v1/datasets", content=body.getvalue(), headers=headers).json()["id"]
    seen = list[int]()
    offset: int | None = 0
    while offset is not None:
        page = api.get(f"/v1/datasets/{dataset}/rows", params={"limit": 1000, "offset": offset}).json()
        assert 0 < len(page["rows"]) <= 16
        seen += [row["n"] for row in page["rows"]]
        offset = page["next_offset"]
    assert seen == list(range(40))
