"""Rows as clients of MLflow, SageMaker and TensorFlow Serving send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from common.features.categories import OneHot
from common.features.columns import Column
from common.features.numbers import Scaled
from common.features.target import ClassTarget
from common.schemas.losses import CrossEntropy
from common.settings import Settings
from common.store.stores import Stores
from service.app import create_app
from service.invocations.documents import FORMS, without_nan
from tests.contract import publish, running
from tests.integration.learned_models import KINDS, Kind, publish_kind

MARK = "M4RKER"
NAMES = ["length", "width", "income", "rank"]
TEXTS = KINDS["texts"].rows


@pytest.fixture
def by_default(settings: Settings, stores: Stores) -> Iterator[TestClient]:
    """An API with a default model, and small limits."""
    changes = {"default_model": "usual", "max_predict_rows": 5, "max_predict_bytes": 2048}
    app = create_app(settings.model_copy(update=changes), stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def refused(answer: Any, status: int, code: str) -> list[tuple[str, str]]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == code, answer.text
    assert MARK not in answer.text
    assert "error" not in answer.json()
    return [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]


def said(api: TestClient, ref: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Labels or values, as `/v1` says them."""
    predictions = api.post(f"/v1/models/{ref}/predict", json={"instances": rows}).json()["predictions"]
    return [prediction.get("label", prediction.get("value")) for prediction in predictions]


def invoke(api: TestClient, body: object, model: str | None = "m", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    query = {} if model is None else {"model": model}
    headers = {"Content-Type": "application/json", **headers}
    return api.post("/invocations", content=content, params=query, headers=headers)


def forms(rows: list[dict[str, Any]]) -> dict[str, object]:
    """The same rows in every form of JSON."""
    names = list(rows[0])
    turned = [*names[2:], *names[:2]]
    lists = [list(row.values()) for row in rows]
    return {
        "split": {
            "dataframe_split": {
                "index": list(range(len(rows))),
                "columns": turned,
                "data": [[row[name] for name in turned] for row in rows],
            }
        },
        "split without an index": {"dataframe_split": {"columns": names, "data": lists}},
        "records": {"dataframe_records": [dict(reversed(row.items())) for row in rows]},
        "named instances": {"instances": rows},
        "instances": {"instances": lists},
        "inputs by name": {"inputs": {name: [row[name] for row in rows] for name in turned}},
        "inputs": {"inputs": lists},
        "inputs as records": {"inputs": rows},
        "an array": lists,
        "without parameters": {"instances": rows, "params": {}},
        "with null for parameters": {"instances": rows, "params": None},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_rows_has_the_answer_that_they_have_below_v1(api: TestClient, stores: Stores, kind: str) -> None:
    publish_kind(stores, KINDS[kind], "m")
    rows = KINDS[kind].rows
    expected = said(api, "m", rows)
    for form, body in forms(rows).items():
        answer = invoke(api, body)
        assert answer.status_code == 200, (form, answer.text)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == {"predictions": expected}, form
        assert [type(label) for label in answer.json()["predictions"]] == list(map(type, expected))


def cells(row: dict[str, Any], *, none: str = "") -> list[str]:
    return [none if cell is None else str(cell) for cell in row.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_csv_with_names_or_in_the_order_of_the_inputs_has_the_same_answer(
    api: TestClient, stores: Stores, kind: str
) -> None:
    publish_kind(stores, KINDS[kind], "m")
    rows = KINDS[kind].rows
    expected = said(api, "m", rows)
    turned = [dict(reversed(row.items())) for row in rows]
    bodies = [
        "\n".join(",".join(cells(row)) for row in rows),
        "\r\n".join([",".join(rows[0]), *(",".join(cells(row, none="NaN")) for row in rows)]) + "\r\n",
        "\ufeff" + "\n".join([" , ".join(turned[0]), *(", ".join(cells(row)) for row in turned)]) + "\n\n",
        "\n".join([",".join(f'"{name}"' for name in rows[0]), *(",".join(f'"{c}"' for c in cells(r)) for r in rows)]),
    ]
    for body in bodies:
        answer = invoke(api, body.encode(), **{"Content-Type": "text/csv; charset=utf-8"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"predictions": expected}, body


def test_who_accepts_csv_gets_a_line_for_each_row(api: TestClient, stores: Stores) -> None:
    for name in ("texts", "truths", "digits", "value"):
        publish_kind(stores, KINDS[name], name)
        rows = KINDS[name].rows
        answer = invoke(api, {"instances": rows}, name, Accept="text/csv")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        words = {True: "true", False: "false"}
        expected = [words[label] if isinstance(label, bool) else str(label) for label in said(api, name, rows)]
        assert answer.text.splitlines() == expected
        assert answer.text.endswith("\n")


def test_a_model_is_named_in_the_query_else_it_is_the_operators(by_default: TestClient, stores: Stores) -> None:
    rows = TEXTS[:1]
    refused(invoke(by_default, {"instances": rows}, None), 404, "model_not_found")
    refused(by_default.get("/ping"), 404, "model_not_found")
    for name, seed in (("usual", 1), ("other", 2), ("usual", 3)):
        publish_kind(stores, KINDS["value"], name, seed)
    value = KINDS["value"].rows[:1]
    answers = {
        ref: invoke(by_default, {"instances": value}, ref).json()["predictions"] for ref in (None, "other", "usual@1")
    }
    assert answers[None] == said(by_default, "usual@2", value)
    assert answers["other"] == said(by_default, "other", value)
    assert answers["usual@1"] == said(by_default, "usual@1", value)
    assert by_default.get("/ping").status_code == 200


def test_a_ping_is_answered_without_a_key_and_without_a_model(api: TestClient, stores: Stores) -> None:
    key = stores.access.create("ci")
    assert api.get("/ping").json() == {"status": "ok"}
    refused(invoke(api, [[1]], "m"), 401, "unauthorized")
    refused(invoke(api, b"[" * 200, "m"), 401, "unauthorized")
    publish_kind(stores, KINDS["value"], "m")
    assert invoke(api, {"instances": KINDS["value"].rows}, Authorization=f"Bearer {key}").status_code == 200


def test_no_model_at_all_is_told(api: TestClient, stores: Stores) -> None:
    assert refused(invoke(api, [[1]], None), 422, "invalid_request") == [("model", "missing")]
    refused(invoke(api, [[1]], "nothing"), 404, "model_not_found")
    refused(invoke(api, [[1]], running(stores).job_id), 409, "model_not_ready")
    assert refused(invoke(api, [[1]], "m" * 300), 422, "invalid_request") == [("model", "out_of_range")]


def all_as(values: list[Any]) -> dict[str, Any]:
    return {name: values for name in NAMES}  # noqa: C420  # each its own list is not needed


SPLIT = {"columns": NAMES, "data": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, [("", "missing")]),
        ("x", [("", "wrong_type")]),
        (1, [("", "wrong_type")]),
        ([], [("", "empty")]),
        ([1], [("/0", "wrong_type")]),
        ([[1, 2, 3]], [("/0", "wrong_length")]),
        ([[1, 2, MARK, 4]], [("/0/income", "wrong_type")]),
        ({"instances": [[1, 2, 3, 4]], "inputs": []}, [("", "conflicting_options")]),
        ({"instances": [[1, 2, 3, 4]], "signature_name": MARK}, [("/signature_name", "unknown_field")]),
        ({"instances": [[1, 2, 3, 4]], "params": {"temperature": 1}}, [("/params", "not_supported_yet")]),
        ({"instances": {}}, [("/instances", "wrong_type")]),
        ({"instances": []}, [("/instances", "empty")]),
        ({"instances": [[1, 2, 3, 4], [1, 2, 3, 1e308]]}, None),
        ({"instances": [[1e308, 2, 3, 4]]}, [("/instances/0/length", "number_too_large")]),
        (
            {"dataframe_records": [{"length": 1, "width": 2, "income": 3}]},
            [("/dataframe_records/0/rank", "missing_column")],
        ),
        ({"dataframe_records": {"length": 1}}, [("/dataframe_records", "wrong_type")]),
        ({"dataframe_split": []}, [("/dataframe_split", "wrong_type")]),
        (
            {"dataframe_split": {}},
            [("/dataframe_split/columns", "wrong_type"), ("/dataframe_split/data", "wrong_type")],
        ),
        ({"dataframe_split": {**SPLIT, "more": 1}}, [("/dataframe_split/more", "unknown_field")]),
        ({"dataframe_split": {**SPLIT, "data": []}}, [("/dataframe_split/data", "empty")]),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, 3]]}}, [("/dataframe_split/data/0", "wrong_length")]),
        ({"dataframe_split": {**SPLIT, "data": [1]}}, [("/dataframe_split/data/0", "wrong_length")]),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, MARK, 4]]}}, [("/dataframe_split/data/0/2", "wrong_type")]),
        ({"dataframe_split": {**SPLIT, "columns": [0, 1, 2, 3]}}, [("/dataframe_split/columns", "wrong_type")]),
        (
            {"dataframe_split": {**SPLIT, "columns": [*NAMES[:3], "x"]}},
            [("/dataframe_split/columns", "missing_column"), ("/dataframe_split/columns/3", "unknown_column")],
        ),
        (
            {"dataframe_split": {"columns": [*NAMES, "width"], "data": [[1] * 5]}},
            [("/dataframe_split/columns/4", "duplicate_name")],
        ),
        ({"inputs": 1}, [("/inputs", "wrong_type")]),
        ({"inputs": {}}, [("/inputs", "missing_column")] * 4),
        ({"inputs": dict.fromkeys(NAMES, 1)}, [(f"/inputs/{name}", "wrong_type") for name in NAMES]),
        ({"inputs": all_as([])}, [("/inputs", "empty")]),
        ({"inputs": {**all_as([1]), "rank": [1, 2]}}, [("/inputs", "wrong_length")]),
        ({"inputs": {**all_as([1]), "a/b": [1]}}, [("/inputs/a~1b", "unknown_column")]),
        ({"inputs": {**all_as([1, 2]), "rank": [1, MARK]}}, [("/inputs/rank/1", "wrong_type")]),
    ],
)
def test_rows_that_do_not_fit_are_refused_where_their_form_has_them(
    api: TestClient, stores: Stores, body: object, faults: list[tuple[str, str]] | None
) -> None:
    publish_kind(stores, KINDS["numbers"], "m")
    if faults is None:  # beyond the largest of training, ranks stay what they are there
        assert invoke(api, body).status_code == 200
    else:
        assert refused(invoke(api, body), 422, "invalid_request") == faults


@pytest.mark.parametrize(
    ("body", "code", "faults"),
    [
        (b"", "invalid_data", [("row 1", "empty_file")]),
        (b"length,width,income,rank\n", "invalid_data", [("row 1", "no_rows")]),
        (b"1,2,3\n", "invalid_request", [("row 1", "wrong_length")]),
        (b"1,2,3,4\n1,2,3\n", "invalid_data", [("row 2", "ragged_row")]),
        (b"length,width,income,rank\n1,2,3\n", "invalid_data", [("row 1", "ragged_row")]),
        (b"1,2,M4RKER,4\n", "invalid_request", [("row 1, column income", "wrong_type")]),
        (b"1,2,inf,4\n", "invalid_request", [("row 1, column income", "wrong_type")]),
        (b"1,2,1_0,4\n", "invalid_request", [("row 1, column income", "wrong_type")]),
        (b"1,2,3,4\n1e308,2,3,4\n", "invalid_request", [("row 2, column length", "number_too_large")]),
        (b"length,width,income,rank,x\n1,2,3,4,5\n", "invalid_request", [("row 1, column x", "unknown_column")]),
        (b"length,width,income,rank,rank\n1,2,3,4,5\n", "invalid_data", [("header, column 5", "duplicate_name")]),
        (b'1,2,3,"4\n', "invalid_data", [("row 1", "unclosed_quote")]),
        (b"1,2,3,\xff\n", "invalid_data", [("row 1, column 4", "not_utf8")]),
        (b"1,2,3,\x00\n", "invalid_data", [("row 1, column 4", "nul_character")]),
        (b"\xff\xfe1\x00", "invalid_data", [("row 1", "not_utf8")]),
        (b"\x1f\x8b\x08", "invalid_data", [("file", "compressed")]),
    ],
)
def test_csv_that_does_not_fit_is_refused_with_row_and_column(
    api: TestClient, stores: Stores, body: bytes, code: str, faults: list[tuple[str, str]]
) -> None:
    publish_kind(stores, KINDS["numbers"], "m")
    assert refused(invoke(api, body, **{"Content-Type": "text/csv"}), 422, code) == faults


def test_a_body_that_is_none_is_refused(by_default: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["numbers"], "m")
    row = [1, 2, 3, 4]
    refused(invoke(by_default, b"{"), 400, "malformed_json")
    refused(invoke(by_default, b'{"instances":[[Infinity,1,1,1]]}'), 400, "non_finite_number")
    refused(invoke(by_default, b'{"instances":[[1NaN,1,1,1]]}'), 400, "malformed_json")
    refused(invoke(by_default, b"[" * 200 + b"]" * 200), 400, "too_deep")
    refused(invoke(by_default, [row], **{"Content-Type": "application/x-npy"}), 415, "unsupported_media_type")
    refused(invoke(by_default, [row], **{"Content-Encoding": "gzip"}), 415, "unsupported_media_type")
    refused(by_default.post("/invocations", content=b"[]", params={"model": "m"}), 415, "unsupported_media_type")
    assert invoke(by_default, [row] * 5).status_code == 200
    refused(invoke(by_default, [row] * 6), 413, "too_large")
    refused(invoke(by_default, b"1,2,3,4\n" * 6, **{"Content-Type": "text/csv"}), 413, "too_large")
    refused(invoke(by_default, b" " * 2049), 413, "too_large")
    refused(by_default.get("/invocations"), 405, "method_not_allowed")
    found = refused(by_default.post("/invocations", params={"ref": "m"}), 422, "invalid_request")
    assert found == [("ref", "unknown_parameter")]


# What clients send, byte by byte


@pytest.mark.parametrize(
    ("sent", "row_by_row"),
    [
        (  # a DataFrame
            b'{"dataframe_split": {"index": [0, 1], "columns": ["length", "colour"], "data": [[5.5, "red"], [-3.0, "blue"]]}}',
            [{"length": 5.5, "colour": "red"}, {"length": -3.0, "colour": "blue"}],
        ),
        (  # one with gaps, and with a text that says so
            b'{"dataframe_split": {"index": [0, 1], "columns": ["length", "colour"], "data": [[NaN, "NaN"], [5.5, NaN]]}}',
            [{"length": None, "colour": "NaN"}, {"length": 5.5, "colour": None}],
        ),
        (  # a list
            b'{"inputs": [[5.5, "red"]]}',
            [{"length": 5.5, "colour": "red"}],
        ),
    ],
)
def test_what_mlflow_s_client_sends_is_answered(
    api: TestClient, stores: Stores, sent: bytes, row_by_row: list[dict[str, Any]]
) -> None:
    """Recorded from `ScoringServerClient` of mlflow-skinny 3.17.2 with pandas 3.1.1."""
    publish(stores, "m")
    headers = {"User-Agent": "python-requests/2.34.2", "Accept": "*/*", "Content-Type": "application/json"}
    answer = invoke(api, sent, **headers)
    assert answer.json() == {"predictions": said(api, "m", row_by_row)}


def test_what_mlflow_s_client_sends_for_an_array_is_answered(api: TestClient, stores: Stores) -> None:
    """Recorded as above; a NumPy array."""
    publish_kind(stores, KINDS["numbers"], "m")
    sent = b'{"inputs": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]}'
    rows = [dict(zip(NAMES, row, strict=True)) for row in json.loads(sent)["inputs"]]
    assert invoke(api, sent).json() == {"predictions": said(api, "m", rows)}


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (
            b"5.5,red\n-3,blue",
            "text/csv",
        ),  # boto3's invoke_endpoint passes bytes on; CSVSerializer ends without a line feed
        (b'[[5.5, "red"], [-3, "blue"]]', "application/json"),  # JSONSerializer, for a list
        (b'{"instances": [[5.5, "red"], [-3, "blue"]]}', "application/json"),  # TensorFlowPredictor
    ],
)
def test_what_sagemaker_s_clients_send_is_answered(api: TestClient, stores: Stores, sent: bytes, kind: str) -> None:
    """As boto3 1.44.8 and the serializers of SageMaker's Python SDK 2 make them."""
    publish(stores, "m")
    expected = said(api, "m", [{"length": 5.5, "colour": "red"}, {"length": -3, "colour": "blue"}])
    assert invoke(api, sent, **{"Content-Type": kind, "Accept": "*/*"}).json() == {"predictions": expected}
    assert invoke(api, sent, **{"Content-Type": kind, "Accept": "text/csv"}).text.split() == expected


@settings_of(max_examples=40)
@given(st.recursive(st.none() | st.text(alphabet='aN"\\{', max_size=6), lambda inner: st.lists(inner, max_size=4)))
def test_only_what_is_missing_is_taken_for_missing(document: object) -> None:
    sent = json.dumps(document).replace("null", "NaN").encode()
    assert json.loads(without_nan(sent)) == document


def test_a_text_that_never_ends_takes_no_time() -> None:
    assert without_nan(b"NaN" + b'"' + b'\\"' * 1_000_000).startswith(b'null"')


def test_the_examples_of_the_description_are_taken(api: TestClient, stores: Stores) -> None:
    columns: list[Column] = [
        Scaled(name="age", kind="numeric", mean=40.0, scale=10.0),
        OneHot(name="city", categories=("Oslo", "Rome"), missing=False),
        Scaled(name="member", kind="boolean", mean=0.5, scale=0.5),
    ]
    publish_kind(stores, Kind(columns, ClassTarget(classes=("leaves", "stays")), CrossEntropy(), []), "m")
    paths = api.get("/openapi.json").json()["paths"]
    bodies = paths["/invocations"]["post"]["requestBody"]["content"]
    examples = {form: example["value"] for form, example in bodies["application/json"]["examples"].items()}
    assert set(examples) == set(FORMS)
    answers = [invoke(api, example).json() for example in examples.values()]
    answers.append(invoke(api, bodies["text/csv"]["example"].encode(), **{"Content-Type": "text/csv"}).json())
    for path in ("/v2/models/{ref}/infer", "/v2/models/{ref}/versions/{version}/infer"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = api.post(path.format(ref="m", version=1), json=example).json()
        answers.append({"predictions": answer["outputs"][0]["data"]})
    assert answers == [answers[0]] * 7
    assert set(answers[0]["predictions"]) <= {"leaves", "stays"}
    assert len(answers[0]["predictions"]) == 2
