"""Whole files, predicted over HTTP."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from common.schemas.models import Model
from common.settings import Settings
from common.store.stores import Stores
from service import parser
from service.app import create_app
from service.ingest import DEFAULT_NULLS, Parsed, ParseLimits, ParseOptions
from service.routes import file_predictions
from tests.contract import publish
from tests.integration.test_api import refused
from tests.learned import EVERY_FORM, TARGETS, publish_network

CSV, TSV = "text/csv", "text/tab-separated-values"
NDJSON, PARQUET, JSON = "application/x-ndjson", "application/vnd.apache.parquet", "application/json"
Rows = list[dict[str, Any]]

SCHEMA = {
    "age": pl.Float64(),
    "income": pl.Float64(),
    "guess": pl.String(),
    "member": pl.Boolean(),
    "since": pl.String(),
    "told": pl.String(),
    "city": pl.String(),
    "rank": pl.String(),
    "shop": pl.Float64(),
    "flag": pl.Boolean(),
}
ROW = {
    "age": 41.0,
    "income": 10.0,
    "guess": "1.5",
    "member": True,
    "since": "2024-01-02",
    "told": "never",
    "city": "Oslo",
    "rank": "low",
    "shop": 1.0,
    "flag": False,
}


@pytest.fixture
def mixed(stores: Stores) -> Model:
    """A model with a column of every form."""
    return publish_network(stores, EVERY_FORM, *TARGETS[0])


def predict(api: Any, model: Model, body: bytes, kind: str, accept: str | None = None, **options: Any) -> Any:
    headers = {"Content-Type": kind, **({"Accept": accept} if accept else {}), **options.pop("headers", {})}
    return api.post(f"/v1/models/{model.id}/predict", content=body, headers=headers, params=options)


# Bodies


def as_csv(rows: Rows, gap: str = "", separator: str = ",") -> bytes:
    """Numbers and booleans as Python writes them."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([gap if value is None else value for value in row.values()] for row in rows)
    return text.getvalue().encode()


def as_ndjson(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows, schema={name: SCHEMA.get(name, pl.Int64()) for name in rows[0]}).write_parquet(file)
    return file.getvalue()


def as_json(rows: Rows) -> bytes:
    return json.dumps({"instances": [{name: row[name] for name in SCHEMA if name in row} for row in rows]}).encode()


# Answers, each as `predictions` of JSON


def predictions_of(answer: Any) -> Rows:
    assert answer.status_code == 200, answer.text
    kind = answer.headers["Content-Type"].partition(";")[0]
    if kind == JSON:
        return list(answer.json()["predictions"])
    if kind == NDJSON:
        return [json.loads(line) for line in answer.content.splitlines()]
    if kind == PARQUET:
        return [nested(row) for row in pl.read_parquet(answer.content).to_dicts()]
    separator = "\t" if kind == TSV else ","
    rows = csv.DictReader(io.StringIO(answer.content.decode(), newline=""), delimiter=separator)
    return [nested({name: value if name == "label" else float(value) for name, value in row.items()}) for row in rows]


def nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row of columns as an object of JSON."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        outer, _, inner = name.partition("_")
        if outer in ("probability", "quantile"):
            found.setdefault({"probability": "probabilities", "quantile": "quantiles"}[outer], {})[inner] = value
        else:
            found[name] = value
    return found


def assert_same(found: Rows, expected: Rows, *, typed: bool = True) -> None:
    """The same answers to 1e-6; labels of CSV are texts."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        if "label" in one:
            assert one["label"] == (other["label"] if typed else as_text(other["label"]))
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        else:
            assert one["value"] == pytest.approx(other["value"], rel=1e-6)
            assert one.get("quantiles", {}) == pytest.approx(other.get("quantiles", {}), rel=1e-6)


def as_text(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label)


GAP = "(none)"
TEXT = (
    st.sampled_from(["", "007", "Oslo", 'naïve, "quoted"', "true", "low", "high", "1.5", "1e3", "2024-05-17"])
    | st.text(st.characters(exclude_categories=("C", "Z")), max_size=4)
    | st.text('a, "\n\t', max_size=5).map(str.strip)
)
TIME = st.datetimes().map(lambda moment: moment.isoformat()) | st.dates().map(str)
TABLE = st.lists(
    st.fixed_dictionaries(
        {
            name: st.none()
            | {
                pl.Float64(): st.floats(-1e6, 1e6) | st.sampled_from([1.0, 2.5, -0.0, 1e-320]),
                pl.Boolean(): st.booleans(),
                pl.String(): TIME if name == "since" else TEXT,
            }[kind]
            for name, kind in SCHEMA.items()
        }
    ),
    min_size=1,
    max_size=12,
)


def parse_here(
    source: Path, destination: Path, options: ParseOptions, limits: ParseLimits, *, described: bool
) -> Parsed:
    """Reads Parquet in this process: it is not the child that matters."""
    return parser.parse(source, destination, options, limits, wants_description=described)


@examples(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(TABLE, st.sampled_from(range(len(TARGETS))), st.randoms(use_true_random=False))
def test_a_file_of_any_form_is_answered_as_its_rows_are_as_json(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch, rows: Rows, target: int, random: Any
) -> None:
    monkeypatch.setattr(file_predictions, "parse_in_child", parse_here)
    model = publish_network(stores, EVERY_FORM, *TARGETS[target])
    expected = predictions_of(predict(api, model, as_json(rows), JSON))
    names = [*SCHEMA, "an id"]
    random.shuffle(names)
    shuffled = [{name: row.get(name, place) for name in names} for place, row in enumerate(rows)]
    bodies = {
        CSV: as_csv(shuffled, GAP),
        TSV: as_csv(shuffled, GAP, "\t"),
        NDJSON: as_ndjson(shuffled),
        PARQUET: as_parquet(shuffled),
        JSON: as_json(rows),
    }
    for kind, body in bodies.items():
        options = {"null": GAP} if kind in (CSV, TSV) else {}
        assert_same(predictions_of(predict(api, model, body, kind, NDJSON, **options)), expected)
        answer = predict(api, model, body, kind, **options)
        assert answer.headers["Content-Type"].partition(";")[0] == kind
        assert_same(predictions_of(answer), expected, typed=kind not in (CSV, TSV))


def test_the_answer_has_the_form_that_is_asked_for_and_names_the_model(
    api: TestClient, mixed: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_predictions, "parse_in_child", parse_here)
    bodies = {CSV: as_csv([ROW]), NDJSON: as_ndjson([ROW]), PARQUET: as_parquet([ROW]), JSON: as_json([ROW])}
    expected = predictions_of(predict(api, mixed, bodies[JSON], JSON))
    for kind, body in bodies.items():
        for wanted in (CSV, TSV, NDJSON, PARQUET, JSON):
            answer = predict(api, mixed, body, kind, f"{wanted}, */*;q=0.1")
            assert answer.headers["Content-Type"].partition(";")[0] == wanted
            assert_same(predictions_of(answer), expected)
            if (kind, wanted) != (JSON, JSON):
                assert answer.headers["X-Model-Id"] == mixed.id
            if wanted == JSON:
                assert answer.json()["model_id"] == mixed.id
        refused(predict(api, mixed, body, kind, "image/png"), 406, "not_acceptable")


def test_missing_values_of_csv_are_those_of_an_upload(api: TestClient, mixed: Model) -> None:
    rows = [dict.fromkeys(SCHEMA)]
    expected = predictions_of(predict(api, mixed, as_json(rows), JSON))
    for gap in DEFAULT_NULLS:
        assert_same(predictions_of(predict(api, mixed, as_csv(rows, f" {gap}" if gap else ""), CSV)), expected)


def test_labels_have_the_type_of_the_data(api: TestClient, stores: Stores) -> None:
    for target, kind in ((TARGETS[0], str), (TARGETS[1], int), (TARGETS[2], bool)):
        model = publish_network(stores, EVERY_FORM, *target)
        answer = predict(api, model, as_csv([ROW]), CSV, PARQUET)
        (label,) = pl.read_parquet(answer.content)["label"].to_list()
        assert type(label) is kind
        line = predict(api, model, as_csv([ROW]), CSV).text.splitlines()[1]
        assert line.startswith(json.dumps(label).strip('"') + ",")


def test_the_columns_of_an_answer_are_named_by_classes_and_quantiles(api: TestClient, stores: Stores) -> None:
    for target, names in (
        (TARGETS[1], ["label", "probability_-1", "probability_7"]),
        (TARGETS[3], ["value"]),
        (TARGETS[4], ["value", "quantile_0.1", "quantile_0.5", "quantile_0.9"]),
    ):
        model = publish_network(stores, EVERY_FORM, *target)
        assert predict(api, model, as_csv([ROW]), CSV).text.splitlines()[0].split(",") == names
        assert pl.read_parquet(predict(api, model, as_csv([ROW]), CSV, PARQUET).content).columns == names


def test_csv_is_read_as_the_query_says_and_other_forms_take_no_such_options(api: TestClient, mixed: Model) -> None:
    expected = predictions_of(predict(api, mixed, as_csv([ROW]), CSV))
    european = as_csv([ROW], separator=";").replace(b".0;", b",0;").replace(b"Oslo", b"Oslo ")
    assert_same(predictions_of(predict(api, mixed, european, CSV, delimiter=";", decimal=",")), expected)
    bare = as_csv([ROW]).partition(b"\n")[2]
    assert_same(predictions_of(predict(api, mixed, bare, CSV, header="false")), expected)
    assert refused(predict(api, mixed, as_ndjson([ROW]), NDJSON, header="false"), 422, "invalid_request") == [
        ("header", "unsuitable_option")
    ]
    assert refused(predict(api, mixed, bare, CSV, headers={}, headr="x"), 422, "invalid_request") == [
        ("headr", "unknown_parameter")
    ]


def test_what_is_no_file_for_the_model_is_refused(api: TestClient, mixed: Model) -> None:
    refused(predict(api, mixed, b"", CSV), 422, "empty_body")
    refused(predict(api, mixed, b"x", "text/plain"), 415, "unsupported_media_type")
    refused(predict(api, mixed, b"x", "text/csv; charset=latin1"), 415, "unsupported_media_type")
    refused(predict(api, mixed, b"x", CSV, headers={"Content-Encoding": "br"}), 415, "unsupported_media_type")
    refused(predict(api, mixed, b"x", CSV, headers={"Content-Encoding": "gzip"}), 422, "malformed_gzip")
    short = gzip.compress(as_csv([ROW]))[:-4]
    refused(predict(api, mixed, short, CSV, headers={"Content-Encoding": "gzip"}), 422, "malformed_gzip")
    answer = api.post("/v1/models/nobody/predict", content=b"x", headers={"Content-Type": CSV})
    refused(answer, 404, "model_not_found")
    faults = refused(predict(api, mixed, b"age,id\n1,2\n", CSV), 422, "invalid_data")
    assert set(faults) == {(f"column {name}", "missing_column") for name in SCHEMA if name != "age"}
    wrong = as_csv([ROW, {**ROW, "age": "old", "flag": "maybe"}])
    assert refused(predict(api, mixed, wrong, CSV), 422, "invalid_data") == [
        ("row 2, column age", "wrong_type"),
        ("row 2, column flag", "wrong_type"),
    ]
    assert refused(predict(api, mixed, b'{"instances":[[1]]}', JSON, CSV), 422, "invalid_request") == [
        ("/instances/0", "wrong_length")
    ]
    assert refused(predict(api, mixed, b'{"instances":[]}', JSON, CSV), 422, "invalid_request") == [
        ("/instances", "out_of_range")
    ]


def test_a_parquet_file_must_hold_what_the_model_needs(
    api: TestClient, stores: Stores, mixed: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pl.DataFrame([ROW], schema=SCHEMA)

    def answer(frame: pl.DataFrame) -> Any:
        file = io.BytesIO()
        frame.write_parquet(file)
        return predict(api, mixed, file.getvalue(), PARQUET)

    refused(predict(api, mixed, b"PAR1 is no file", PARQUET), 422, "invalid_data")
    monkeypatch.setattr(file_predictions, "parse_in_child", parse_here)
    wrong = frame.with_columns(age=pl.lit("41"), city=pl.lit(7), flag=pl.lit(1))
    names = ("age", "city", "flag")
    assert refused(answer(wrong), 422, "invalid_data") == [(f"column {name}", "unsuitable_column") for name in names]
    assert refused(answer(frame.drop("shop")), 422, "invalid_data") == [("column shop", "missing_column")]
    assert refused(answer(frame.with_columns(since=pl.lit("soon"))), 422, "invalid_data") == [
        ("row 1, column since", "wrong_type")
    ]
    expected = predictions_of(answer(frame))
    other = frame.with_columns(
        pl.col("age").cast(pl.Int8),
        pl.col("guess").cast(pl.Float32),
        pl.col("since").str.to_date(),
        pl.col("city").cast(pl.Categorical),
    )
    assert_same(predictions_of(answer(other)), expected)
    nothing = pl.DataFrame({name: pl.Series([None], dtype=pl.Null) for name in SCHEMA})
    gaps = predictions_of(predict(api, mixed, as_json([dict.fromkeys(SCHEMA)]), JSON))
    assert_same(predictions_of(answer(nothing)), gaps)
    assert list((stores.files.root / "uploads").iterdir()) == []


def test_a_compressed_file_is_expanded_and_no_body_is_larger_than_allowed(settings: Settings, stores: Stores) -> None:
    limits = {"max_upload_bytes": 4000, "max_predict_bytes": 2000}
    app = create_app(settings.model_copy(update=limits), stores)
    model = publish_network(stores, EVERY_FORM, *TARGETS[0])
    zipped: dict[str, Any] = {"headers": {"Content-Encoding": "gzip"}}
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as api:
        body = as_csv([ROW] * 50)
        assert 2000 < len(body) < 4000
        expected = predictions_of(predict(api, model, body, CSV))
        assert_same(predictions_of(predict(api, model, gzip.compress(body), CSV, **zipped)), expected)
        assert_same(
            predictions_of(predict(api, model, gzip.compress(as_parquet([ROW] * 50)), PARQUET, **zipped)), expected
        )
        refused(predict(api, model, as_csv([ROW] * 100), CSV), 413, "too_large")
        refused(predict(api, model, gzip.compress(as_csv([ROW] * 100)), CSV, **zipped), 413, "too_large")
        refused(predict(api, model, as_json([ROW] * 50), JSON), 413, "too_large")
        refused(predict(api, model, as_json([ROW] * 50), JSON, CSV), 413, "too_large")


def test_a_threshold_sets_labels_as_in_json_and_other_options_are_refused(api: TestClient, stores: Stores) -> None:
    model = publish(stores)
    body = b"length,colour\n" + b"".join(b"%d,red\n" % length for length in range(-20, 20))
    for threshold in (0.0, 0.2, 0.8):
        found = predictions_of(predict(api, model, body, CSV, threshold=threshold))
        instances = {"instances": [[length, "red"] for length in range(-20, 20)], "threshold": threshold}
        expected = api.post(f"/v1/models/{model.id}/predict", json=instances).json()["predictions"]
        assert [row["label"] for row in found] == [row["label"] for row in expected]
    refused(predict(api, model, body, CSV, top_k=1), 422, "invalid_request")
    refused(predict(api, model, body, CSV, explain=True), 422, "invalid_request")
    told = {"instances": [[1.0, "red"]], "threshold": 0.5, "top_k": 1}
    answer = predict(api, model, json.dumps(told).encode(), JSON, CSV)
    assert refused(answer, 422, "invalid_request") == [(f"/{n}", "unsuitable_option") for n in ("top_k", "threshold")]
    number = publish(stores, "wine", number=True)
    assert refused(predict(api, number, body, CSV, threshold=0.5), 422, "invalid_request") == [
        ("threshold", "unsuitable_option")
    ]


def test_keys_are_checked_before_anything_of_a_file_is_read(api: TestClient, stores: Stores, mixed: Model) -> None:
    key = stores.access.create("somebody")
    refused(predict(api, mixed, b"\0", CSV), 401, "unauthorized")
    assert predict(api, mixed, as_csv([ROW]), CSV, headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_the_description_of_the_api_shows_files_on_both_sides(api: TestClient) -> None:
    operation = api.get("/openapi.json").json()["paths"]["/v1/models/{ref}/predict"]["post"]
    forms = {JSON, CSV, TSV, NDJSON, PARQUET}
    assert set(operation["requestBody"]["content"]) == forms
    assert set(operation["responses"]["200"]["content"]) == forms
    assert {p["name"] for p in operation["parameters"]} >= {"ref", "header", "delimiter", "decimal", "null", "Accept"}
    assert "406" in operation["responses"]
