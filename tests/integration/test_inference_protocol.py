"""The Open Inference Protocol as bytes on the wire: whatever a caller sends gets an answer that protocol knows."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from common.errors import StoreUnavailable
from common.features.numbers import Scaled
from common.features.target import ClassTarget
from common.settings import Settings
from common.store.stores import Stores
from service.app import create_app
from service.batches import rows_at_once
from service.inference_protocol.inference import Inference, Limits
from service.inference_protocol.request import read_request
from tests.contract import running, save_checkpoint
from tests.integration.learned_models import KINDS, MIXED, NUMBERS, PLAIN, Kind, network_of, publish_kind

HEADER = "Inference-Header-Content-Length"
MARK = "M4RKER"
Document = dict[str, Any]
CITY = Kind([MIXED[5]], KINDS["texts"].target, KINDS["texts"].loss, [])
"""A model of one column, of texts."""


@pytest.fixture
def small(settings: Settings, stores: Stores) -> Iterator[TestClient]:
    """An API with small limits."""
    limits = {"max_tensor_bytes": 4096, "max_predict_bytes": 2048, "max_predict_rows": 30}
    app = create_app(settings.model_copy(update=limits), stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def tensor(name: str, datatype: str, data: list[Any] | None, **more: Any) -> Document:
    rows = len(data) if data is not None else 1
    given = {"name": name, "shape": [rows, 1], "datatype": datatype, "data": data, **more}
    return {key: value for key, value in given.items() if value is not None}


def numbers(**changes: Any) -> list[Document]:
    """Inputs of a model of numbers, one row; changed by name."""
    given = {name: tensor(name, "FP64", [PLAIN[0][name]]) for name in ("length", "width", "income", "rank")}
    return [{**given[name], **changes.get(name, {})} for name in given]


def matrix(rows: int = 2, **changes: Any) -> Document:
    return {"name": "instances", "shape": [rows, 4], "datatype": "FP64", "data": [[1.0] * 4] * rows, **changes}


def infer(api: TestClient, document: object, binary: bytes = b"", path: str = "numbers", **headers: str) -> Any:
    head = json.dumps(document).encode()
    headers = {**({HEADER: str(len(head))} if binary else {}), **headers}
    return api.post(f"/v2/models/{path}/infer", content=head + binary, headers=headers)


def refused(answer: Any, status: int, code: str) -> list[tuple[str, str]]:
    """Checks that it is a problem that clients of the protocol can read too; the pointers and codes of its faults."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code), answer.text
    assert problem["error"].startswith(problem["detail"])
    for fault in problem["errors"][:5]:
        assert f"{fault['pointer']}: {fault['message']}" in problem["error"]
    for betrayal in ("Traceback", ".py", MARK, "pydantic", "/tmp"):  # noqa: S108
        assert betrayal not in answer.text
    return [(fault["pointer"], fault["code"]) for fault in problem["errors"]]


# What is there


def test_a_server_is_alive_ready_and_says_what_it_is(api: TestClient) -> None:
    assert api.get("/v2/health/live").json() == {"live": True}
    assert api.get("/v2/health/ready").json() == {"ready": True}
    said = api.get("/v2").json()
    assert said["name"] == "chainrule"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", said["version"])
    assert "binary_tensor_data" in said["extensions"]


def test_a_server_whose_store_is_away_is_alive_and_not_ready(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(stores.client, "ping", away)
    assert api.get("/v2/health/live").status_code == 200
    assert api.get("/v2/health/ready").status_code == 503


def test_a_model_is_described_with_its_tensors_and_versions(api: TestClient, stores: Stores) -> None:
    first = publish_kind(stores, KINDS["texts"], "texts")
    publish_kind(stores, KINDS["texts"], "texts")
    described = api.get("/v2/models/texts").json()
    columns = {"member": "BOOL", "city": "BYTES", "size": "FP64", "open": "BOOL", "since": "BYTES"}
    datatypes = {**dict.fromkeys(("length", "width", "income", "rank"), "FP64"), **columns}
    assert described == {
        "name": "texts",
        "versions": ["1", "2"],
        "platform": "chainrule_network",
        "inputs": [{"name": name, "datatype": kind, "shape": [-1, 1]} for name, kind in datatypes.items()],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1, 1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    for same in (f"/v2/models/{first.id}", "/v2/models/texts@1", "/v2/models/texts/versions/2"):
        assert api.get(same).json() == described
    assert api.get("/v2/models/texts/config").json() == {
        "name": "texts",
        "platform": "chainrule_network",
        "backend": "",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": f"TYPE_{'STRING' if kind == 'BYTES' else kind}", "dims": [-1, 1]}
            for name, kind in datatypes.items()
        ],
        "output": [
            {"name": "label", "data_type": "TYPE_STRING", "dims": [-1, 1]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 3]},
        ],
    }
    assert api.get("/v2/models/texts/versions/1/config").json()["name"] == "texts"


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("digits", [("label", "INT64", 1), ("probabilities", "FP32", 3)]),
        ("truths", [("label", "BOOL", 1), ("probabilities", "FP32", 2)]),
        ("value", [("value", "FP64", 1)]),
        ("quantiles", [("value", "FP64", 1), ("quantiles", "FP64", 3)]),
    ],
)
def test_outputs_have_the_datatype_of_what_the_model_has_learned(
    api: TestClient, stores: Stores, kind: str, outputs: list[tuple[str, str, int]]
) -> None:
    publish_kind(stores, KINDS[kind], "m")
    found = api.get("/v2/models/m").json()["outputs"]
    assert found == [{"name": name, "datatype": datatype, "shape": [-1, width]} for name, datatype, width in outputs]


def test_a_model_is_ready_when_it_can_be_inferred_with(api: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    claim = running(stores)
    assert api.get("/v2/models/numbers/ready").json() == {"ready": True, "name": "numbers"}
    assert api.get("/v2/models/numbers/versions/1/ready").json() == {"ready": True, "name": "numbers"}
    for path in ("numbers/versions/2", "nothing", "numbers@1/versions/1", "numbers/versions/x", "numbers/versions/@1"):
        refused(api.get(f"/v2/models/{path}/ready"), 404, "model_not_found")
        refused(api.get(f"/v2/models/{path}"), 404, "model_not_found")
        refused(infer(api, {"inputs": numbers()}, path=path), 404, "model_not_found")
    refused(api.get(f"/v2/models/{claim.job_id}/ready"), 409, "model_not_ready")
    save_checkpoint(stores, claim)
    refused(infer(api, {"inputs": numbers()}, path=claim.job_id), 409, "model_not_ready")
    refused(api.get("/v2/nothing"), 404, "not_found")


def test_with_keys_all_but_health_needs_one(api: TestClient, stores: Stores) -> None:
    key = stores.access.create("ci")
    publish_kind(stores, KINDS["numbers"], "numbers")
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert api.get(path).status_code == 200
    for path in ("/v2", "/v2/models/numbers", "/v2/models/numbers/ready", "/v2/models/numbers/config"):
        refused(api.get(path), 401, "unauthorized")
    refused(infer(api, {"inputs": numbers()}), 401, "unauthorized")
    assert infer(api, {"inputs": numbers()}, Authorization=f"Bearer {key}").status_code == 200


# What is answered


def test_an_answer_says_which_request_and_which_model_it_is_of(api: TestClient, stores: Stores) -> None:
    first, second = (publish_kind(stores, KINDS["numbers"], "numbers", seed) for seed in (1, 2))
    document = {"id": "№ 7", "model_name": "x", "inputs": numbers(), "parameters": {"priority": 3, "hint": "x"}}
    answers = {
        path: infer(api, document, path=path).json()
        for path in ("numbers", "numbers@1", "numbers/versions/1", first.id, second.id)
    }
    assert {path: answer["parameters"]["model_id"] for path, answer in answers.items()} == {
        "numbers": second.id,
        "numbers@1": first.id,
        "numbers/versions/1": first.id,
        first.id: first.id,
        second.id: second.id,
    }
    assert {answer["id"] for answer in answers.values()} == {"№ 7"}
    assert answers["numbers"]["model_name"] == "numbers"
    assert "model_version" not in answers["numbers"]
    assert answers["numbers@1"]["model_version"] == answers["numbers/versions/1"]["model_version"] == "1"
    assert answers["numbers@1"]["outputs"] == answers[first.id]["outputs"] != answers[second.id]["outputs"]
    assert "id" not in infer(api, {"inputs": numbers()}).json()


def test_outputs_are_those_asked_for_in_their_order_each_in_the_form_asked_for(api: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["digits"], "numbers")
    plain = infer(api, {"inputs": [matrix()]})
    assert plain.headers["Content-Type"] == "application/json"
    assert HEADER not in plain.headers
    label, probabilities = plain.json()["outputs"]
    assert (label["datatype"], label["shape"], len(label["data"])) == ("INT64", [2, 1], 2)
    assert (probabilities["shape"], len(probabilities["data"])) == ([2, 3], 6)
    wanted = [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": False}}]
    mixed = infer(api, {"inputs": [matrix()], "outputs": wanted, "parameters": {"binary_data_output": True}})
    assert mixed.headers["Content-Type"] == "application/octet-stream"
    length = int(mixed.headers[HEADER])
    first, second = json.loads(mixed.content[:length])["outputs"]
    assert (first["name"], first["parameters"]) == ("probabilities", {"binary_data_size": 24})
    assert "data" not in first
    np.testing.assert_allclose(np.frombuffer(mixed.content[length:], "<f4"), probabilities["data"], rtol=1e-7)
    assert second == label
    only = infer(api, {"inputs": [matrix()], "outputs": [{"name": "label"}]}).json()["outputs"]
    assert only == [label]


@pytest.mark.parametrize("rows", [1, 300])
def test_however_values_come_the_answer_is_the_same(api: TestClient, stores: Stores, rows: int) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    values = np.random.default_rng(rows).integers(-9, 9, (rows, 4)).astype(np.float64)
    wanted = {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    answers = []
    for datatype, wire in (("FP64", "<f8"), ("FP32", "<f4"), ("FP16", "<f2"), ("INT8", "i1"), ("INT64", "<i8")):
        content = values.astype(wire).tobytes()
        given = matrix(rows, datatype=datatype, data=None, parameters={"binary_data_size": len(content)})
        answers.append(infer(api, {"inputs": [given], **wanted}, content))
    columns = values.T.astype("<f4")
    given_columns = [
        {"name": c.name, "shape": [rows], "datatype": "FP32", "parameters": {"binary_data_size": 4 * rows}}
        for c in NUMBERS
    ]
    answers.append(infer(api, {"inputs": given_columns, **wanted}, columns.tobytes()))
    answers.append(infer(api, {"inputs": [matrix(rows, data=values.ravel().tolist())], **wanted}))
    answers.append(infer(api, {"inputs": [matrix(rows, data=values.tolist())], **wanted}))
    shaped = [tensor(c.name, "FP64", values[:, [place]].tolist()) for place, c in enumerate(NUMBERS)]
    answers.append(infer(api, {"inputs": shaped, **wanted}))
    found = {answer.content[int(answer.headers[HEADER]) :] for answer in answers}
    assert len(found) == 1
    assert len(found.pop()) == rows * 2 * 4


def test_values_are_missing_as_null_in_json_and_nan_in_binary_form(api: TestClient, stores: Stores) -> None:
    kind = KINDS["truths"]
    publish_kind(stores, kind, "numbers")
    gaps = {**PLAIN[0], "width": None, "member": None, "city": None, "size": None, "open": None, "since": None}
    said = api.post("/v1/models/numbers/predict", json={"instances": [gaps]}).json()["predictions"][0]
    datatypes = {"member": "BOOL", "city": "BYTES", "open": "BOOL", "since": "BYTES"}
    as_json = [tensor(name, datatypes.get(name, "FP64"), [value]) for name, value in gaps.items()]
    binary, parts = list[Document](), list[bytes]()
    for name, value in gaps.items():
        if datatypes.get(name) == "BYTES":
            binary.append(tensor(name, "BYTES", [None]))
            continue
        parts.append(np.array([np.nan if value is None else value], "<f4").tobytes())
        binary.append(tensor(name, "FP32", None, parameters={"binary_data_size": 4}))
    for answer in (infer(api, {"inputs": as_json}), infer(api, {"inputs": binary}, b"".join(parts))):
        assert answer.status_code == 200, answer.text
        label, probabilities = answer.json()["outputs"]
        assert label["data"] == [said["label"]]
        assert probabilities["data"] == pytest.approx(list(said["probabilities"].values()), abs=1e-6)


def test_an_empty_text_is_a_text_and_no_missing_value(api: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["texts"], "numbers")
    row = {**KINDS["texts"].rows[0], "city": ""}
    said = api.post("/v1/models/numbers/predict", json={"instances": [row]}).json()["predictions"][0]
    datatypes = {bool: "BOOL", str: "BYTES"}
    inputs = [tensor(name, datatypes.get(type(value), "FP64"), [value]) for name, value in row.items()]
    binary = [
        {**given, "parameters": {"binary_data_size": 4}, "data": None} if given["name"] == "city" else given
        for given in inputs
    ]
    for answer in (infer(api, {"inputs": inputs}), infer(api, {"inputs": binary}, bytes(4))):
        assert answer.json()["outputs"][1]["data"] == pytest.approx(list(said["probabilities"].values()), abs=1e-6)


def test_a_compressed_request_is_expanded(api: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    content = np.ones((2, 4)).tobytes()
    given = matrix(data=None, parameters={"binary_data_size": len(content)})
    head = json.dumps({"inputs": [given]}).encode()
    packed = gzip.compress(head + content)
    headers = {HEADER: str(len(head)), "Content-Encoding": "gzip"}
    answer = api.post("/v2/models/numbers/infer", content=packed, headers=headers)
    assert answer.json() == infer(api, {"inputs": [given]}, content).json()
    damaged = api.post("/v2/models/numbers/infer", content=packed[:-5], headers=headers)
    refused(damaged, 422, "malformed_gzip")
    other = {**headers, "Content-Encoding": "deflate"}
    refused(api.post("/v2/models/numbers/infer", content=packed, headers=other), 415, "unsupported_media_type")


def test_a_running_job_is_inferred_with_by_its_id(api: TestClient, stores: Stores) -> None:
    kind = KINDS["numbers"]
    model = publish_kind(stores, kind, "numbers")
    assert api.get(f"/v2/models/{model.job_id}").json()["name"] == "numbers"
    answer = infer(api, {"inputs": numbers()}, path=model.job_id).json()
    assert (answer["model_name"], answer["parameters"]) == (model.job_id, {"model_id": model.id})


# What is refused


@pytest.mark.parametrize(
    ("inputs", "faults"),
    [
        (numbers()[:3], [("/inputs", "missing_column")]),
        ([*numbers(), tensor(MARK, "FP64", [1])], [("/inputs/4/name", "unknown_column")]),
        ([*numbers(), numbers()[0]], [("/inputs/0/name", "duplicate_tensor"), ("/inputs/4/name", "duplicate_tensor")]),
        (numbers(width={"datatype": MARK}), [("/inputs/1/datatype", "unknown_choice")]),
        (numbers(width={"datatype": "BOOL", "data": [True]}), [("/inputs/1/datatype", "wrong_type")]),
        (numbers(width={"datatype": "BYTES", "data": ["1"]}), [("/inputs/1/datatype", "wrong_type")]),
        (numbers(width={"shape": [1, 2]}), [("/inputs/1/shape", "wrong_shape")]),
        (numbers(width={"shape": [2, 1]}), [("/inputs", "wrong_shape")]),
        (numbers(width={"shape": [1, 1, 1]}), [("/inputs/1/shape", "out_of_range")]),
        (numbers(width={"shape": []}), [("/inputs/1/shape", "out_of_range")]),
        (numbers(width={"shape": [-1, 1]}), [("/inputs/1/shape/0", "out_of_range")]),
        (numbers(width={"shape": [1, -(2**70)]}), [("/inputs/1/shape/1", "out_of_range")]),
        (numbers(width={"shape": [1, 2**63]}), [("/inputs/1/shape/1", "out_of_range")]),
        (numbers(width={"shape": [1.0, 1]}), [("/inputs/1/shape/0", "wrong_type")]),
        (numbers(width={"shape": [True, 1]}), [("/inputs/1/shape/0", "wrong_type")]),
        (numbers(width={"data": [1, 2]}), [("/inputs/1/data", "wrong_size")]),
        (numbers(width={"data": []}), [("/inputs/1/data", "wrong_size")]),
        (numbers(width={"data": [[1, 2]]}), [("/inputs/1/data", "wrong_size")]),
        (numbers(width={"data": [[[1]]]}), [("/inputs/1/data/0", "wrong_type")]),
        (numbers(width={"data": [MARK]}), [("/inputs/1/data/0", "wrong_type")]),
        (numbers(width={"data": [True]}), [("/inputs/1/data/0", "wrong_type")]),
        (numbers(width={"data": [{}]}), [("/inputs/1/data/0", "wrong_type")]),
        (numbers(width={"data": 1}), [("/inputs/1/data", "wrong_type")]),
        (numbers(width={"data": [10**400]}), [("/inputs/1/data/0", "number_too_large")]),
        (numbers(width={"data": [1e308]}), [("/inputs/1/data/0", "number_too_large")]),
        (numbers(width={"datatype": "INT64", "data": [1.5]}), [("/inputs/1/data/0", "wrong_type")]),
        (numbers(width={"data": None}), [("/inputs/1/data", "missing")]),
        (
            numbers(width={"data": None, "parameters": {"shared_memory_region": "r"}}),
            [("/inputs/1/parameters/shared_memory_region", "not_supported_yet")],
        ),
        (numbers(width={"more": 1}), [("/inputs/1/more", "unknown_field")]),
        (numbers(width={"parameters": []}), [("/inputs/1/parameters", "wrong_type")]),
        ([], [("/inputs", "out_of_range")]),
        ([1], [("/inputs/0", "wrong_type")]),
        ([matrix(0)], [("/inputs/0/shape/0", "empty")]),
        ([matrix(shape=[2, 3])], [("/inputs/0/shape", "wrong_shape")]),
        ([matrix(shape=[8])], [("/inputs/0/shape", "wrong_shape")]),
        ([matrix(datatype="BOOL")], [("/inputs/0/datatype", "wrong_type")]),
        ([matrix(datatype="BYTES", data=["x"] * 8)], [("/inputs/0/datatype", "wrong_type")]),
        ([matrix(data=[[1.0] * 4, [1.0] * 3])], [("/inputs/0/data", "wrong_size")]),
        ([matrix(data=[[1.0] * 4, 1.0])], [("/inputs/0/data", "wrong_size")]),
    ],
)
def test_tensors_that_do_not_fit_are_refused_at_their_place(
    api: TestClient, stores: Stores, inputs: object, faults: list[tuple[str, str]]
) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    assert refused(infer(api, {"inputs": inputs}), 422, "invalid_request") == faults


@pytest.mark.parametrize(
    ("given", "binary", "faults"),
    [
        ({"data": [1]}, b"", [("/inputs/0/data", "conflicting_options")]),
        ({"parameters": {"binary_data_size": 8}}, b"1234567", [("/inputs", "wrong_size")]),
        ({"parameters": {"binary_data_size": 8}}, b"123456789", [("/inputs", "wrong_size")]),
        (
            {"parameters": {"binary_data_size": 7}},
            b"1234567",
            [("/inputs/0/parameters/binary_data_size", "wrong_size")],
        ),
        ({"parameters": {"binary_data_size": -8}}, b"1", [("/inputs/0/parameters/binary_data_size", "wrong_size")]),
        ({"parameters": {"binary_data_size": True}}, b"1", [("/inputs/0/parameters/binary_data_size", "wrong_type")]),
        ({"parameters": {"binary_data_size": "8"}}, b"1", [("/inputs/0/parameters/binary_data_size", "wrong_type")]),
        ({"parameters": {"binary_data_size": 8.0}}, b"1", [("/inputs/0/parameters/binary_data_size", "wrong_type")]),
        (
            {"parameters": {"binary_data_size": 2**66}, "shape": [2**63 - 1]},
            b"1",
            None,
        ),
        ({"parameters": {}, "data": [1]}, b"1", [("/inputs", "wrong_size")]),
        (
            {"parameters": {"binary_data_size": 8}},
            np.float64("inf").tobytes(),
            [("/inputs/0/data/0", "non_finite_number")],
        ),
        (
            {"parameters": {"binary_data_size": 8}},
            np.float64(1e308).tobytes(),
            [("/inputs/0/data/0", "number_too_large")],
        ),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(
    api: TestClient, stores: Stores, given: Document, binary: bytes, faults: list[tuple[str, str]] | None
) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    inputs = numbers()
    inputs[0] = {"name": "length", "shape": [1, 1], "datatype": "FP64", "parameters": {"binary_data_size": 8}, **given}
    answer = infer(api, {"inputs": inputs}, binary)
    if faults is None:
        refused(answer, 413, "too_large")
    else:
        assert refused(answer, 422, "invalid_request") == faults


@pytest.mark.parametrize(
    ("content", "pointer", "code"),
    [
        (b"\x02\x00\x00\x00abX", "/inputs/5", "wrong_size"),
        (b"\x03\x00\x00\x00ab", "/inputs/5", "wrong_size"),
        (b"\xff\xff\xff\xffab", "/inputs/5", "wrong_size"),
        (b"\x00\x00", "/inputs/5", "wrong_size"),
        (b"", "/inputs/5", "wrong_size"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", "/inputs/5", "wrong_size"),
        (b"\x02\x00\x00\x00\xff\xfe", "/inputs/5/data/0", "not_utf8"),
        (b"\x03\x00\x00\x00\xed\xa0\x80", "/inputs/5/data/0", "not_utf8"),
    ],
)
def test_texts_in_binary_form_are_read_within_their_bounds(
    api: TestClient, stores: Stores, content: bytes, pointer: str, code: str
) -> None:
    publish_kind(stores, KINDS["texts"], "numbers")
    datatypes = {bool: "BOOL", str: "BYTES"}
    row = KINDS["texts"].rows[0]
    inputs = [tensor(name, datatypes.get(type(value), "FP64"), [value]) for name, value in row.items()]
    inputs[5] = tensor("city", "BYTES", None, parameters={"binary_data_size": len(content)})
    head = json.dumps({"inputs": inputs}).encode()
    answer = api.post("/v2/models/numbers/infer", content=head + content, headers={HEADER: str(len(head))})
    assert refused(answer, 422, "invalid_request") == [(pointer, code)]


@pytest.mark.parametrize(
    ("name", "datatype", "value", "code"),
    [
        ("member", "FP64", 0.5, "wrong_type"),
        ("since", "BYTES", "yesterday", "wrong_type"),
        ("open", "FP64", 2, "wrong_type"),
    ],
)
def test_values_that_are_none_of_a_column_are_refused(
    api: TestClient, stores: Stores, name: str, datatype: str, value: object, code: str
) -> None:
    publish_kind(stores, KINDS["texts"], "numbers")
    row = KINDS["texts"].rows[0]
    datatypes = {bool: "BOOL", str: "BYTES"}
    inputs = {key: tensor(key, datatypes.get(type(cell), "FP64"), [cell]) for key, cell in row.items()}
    inputs[name] = tensor(name, datatype, [value])
    place = list(inputs).index(name)
    answer = infer(api, {"inputs": list(inputs.values())})
    assert refused(answer, 422, "invalid_request") == [(f"/inputs/{place}/data/0", code)]


def test_a_byte_that_is_no_boolean_is_refused(api: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["truths"], "numbers")
    datatypes = {bool: "BOOL", str: "BYTES"}
    row = KINDS["truths"].rows[0]
    inputs = [tensor(key, datatypes.get(type(cell), "FP64"), [cell]) for key, cell in row.items()]
    inputs[4] = tensor("member", "BOOL", None, parameters={"binary_data_size": 1})
    assert infer(api, {"inputs": inputs}, b"\x01").status_code == 200
    assert refused(infer(api, {"inputs": inputs}, b"\x02"), 422, "invalid_request") == [
        ("/inputs/4/data/0", "wrong_type")
    ]


def test_a_missing_value_that_a_model_refuses_is_told_with_its_place(api: TestClient, stores: Stores) -> None:
    columns = [column.model_copy(update={"refuses_missing": column.name == "width"}) for column in NUMBERS]
    kind = KINDS["numbers"]
    publish_kind(stores, Kind(columns, kind.target, kind.loss, kind.rows), "numbers")
    cells = np.ones((9, 4), "<f4")
    cells[7, 1] = cells[8, 0] = np.nan
    given = matrix(len(cells), datatype="FP32", data=None, parameters={"binary_data_size": cells.nbytes})
    found = refused(infer(api, {"inputs": [given]}, cells.tobytes()), 422, "invalid_request")
    assert found == [("/inputs/0/data/29", "missing_value")]
    answer = infer(api, {"inputs": numbers(width={"data": [None]})})
    assert refused(answer, 422, "invalid_request") == [("/inputs/1/data/0", "missing_value")]


def test_a_matrix_that_is_predicted_while_it_comes_in_is_answered_as_a_whole(api: TestClient, stores: Stores) -> None:
    wide = Kind(
        [Scaled(name=f"p{place}", kind="numeric", mean=100.0, scale=50.0 + place) for place in range(600)],
        KINDS["digits"].target,
        KINDS["digits"].loss,
        [],
    )
    publish_kind(stores, wide, "numbers")
    network = network_of(wide)
    cells = np.random.default_rng(0).integers(0, 256, (3 * rows_at_once(network) + 5, 600)).astype("<f4")
    assert len(Inference(network, read_request(matrix_of(cells)), Limits(10**6, 10**9)).parts) == 4

    def sent(content: bytes, extra: bytes = b"") -> Any:
        head = matrix_of(cells)
        return api.post(
            "/v2/models/numbers/infer", content=pieces(head + content + extra, 99_999), headers={HEADER: str(len(head))}
        )

    answer = sent(cells.tobytes())
    probabilities = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f4").reshape(-1, 3)
    expected = network.answers(network.encoder.encode_cells(cells, lambda row, name: f"{row} {name}"))
    np.testing.assert_allclose(probabilities, expected.tolist(), atol=1e-6)
    for content in (cells.tobytes()[:-1], cells.tobytes()[: 2400 * 900], cells.tobytes() + b"x"):
        assert refused(sent(content), 422, "invalid_request") == [("/inputs", "wrong_size")]
    for row in (0, len(cells) - 1):
        broken = cells.copy()
        broken[row, 7] = np.inf
        found = refused(sent(broken.tobytes()), 422, "invalid_request")
        assert found == [(f"/inputs/0/data/{row * 600 + 7}", "non_finite_number")]


def matrix_of(cells: Any) -> bytes:
    """The document before a binary matrix."""
    given = {"name": "instances", "shape": list(cells.shape), "datatype": "FP32"}
    inputs = [{**given, "parameters": {"binary_data_size": cells.nbytes}}]
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    return json.dumps({"inputs": inputs, "outputs": outputs}).encode()


def pieces(content: bytes, size: int = 500) -> Iterable[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.mark.parametrize(
    ("more", "faults"),
    [
        ({"outputs": [{"name": MARK}]}, [("/outputs/0/name", "unknown_choice")]),
        ({"outputs": [{"name": "label"}] * 2}, [(f"/outputs/{place}/name", "duplicate_tensor") for place in (0, 1)]),
        (
            {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
            [("/outputs/0/parameters/binary_data", "wrong_type")],
        ),
        (
            {"outputs": [{"name": "label", "parameters": {"classification": 2}}]},
            [("/outputs/0/parameters/classification", "not_supported_yet")],
        ),
        ({"parameters": {"binary_data_output": "yes"}}, [("/parameters/binary_data_output", "wrong_type")]),
        ({"id": 7}, [("/id", "wrong_type")]),
        ({MARK.lower(): 1}, [(f"/{MARK.lower()}", "unknown_field")]),
        ({"outputs": [{"name": "label"}, {"name": "x"}], "inputs": []}, [("/inputs", "out_of_range")]),
        (
            {"outputs": [{"name": "x"}], "inputs": numbers()[1:]},
            [("/inputs", "missing_column"), ("/outputs/0/name", "unknown_choice")],
        ),
    ],
)
def test_a_request_that_asks_what_cannot_be_is_refused(
    api: TestClient, stores: Stores, more: Document, faults: list[tuple[str, str]]
) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    assert refused(infer(api, {"inputs": numbers(), **more}), 422, "invalid_request") == faults


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "malformed_json"),
        (b"{", {}, 400, "malformed_json"),
        (b"[]", {}, 422, "invalid_request"),
        (b"[" * 200 + b"]" * 200, {}, 400, "too_deep"),
        (b'{"inputs":[],"inputs":[]}', {}, 400, "duplicate_key"),
        (b'{"inputs":[{"name":"length","shape":[1],"datatype":"FP64","data":[NaN]}]}', {}, 400, "non_finite_number"),
        (b"{}", {HEADER: "-1"}, 400, "malformed_request"),
        (b"{}", {HEADER: "x"}, 400, "malformed_request"),
        (b"{}", {HEADER: ""}, 400, "malformed_request"),
        (b"{}", {HEADER: "\u0663".encode()}, 400, "malformed_request"),
        (b"{}", {HEADER: "9" * 4000}, 400, "malformed_request"),
        (b"{}", {HEADER: "3"}, 400, "malformed_request"),
        (b"{}", {HEADER: "0"}, 400, "malformed_json"),
        (b"{}", {HEADER: "1"}, 400, "malformed_json"),
        (b"{}", {HEADER: "999999999999"}, 413, "too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/x-npy"}, 415, "unsupported_media_type"),
    ],
)
def test_a_body_that_is_none_is_refused(
    api: TestClient, stores: Stores, content: bytes, headers: dict[str, Any], status: int, code: str
) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")
    refused(api.post("/v2/models/numbers/infer", content=content, headers=headers), status, code)


def test_a_query_parameter_is_refused(api: TestClient) -> None:
    found = refused(api.get("/v2/models/numbers", params={"x": 1}), 422, "invalid_request")
    assert found == [("x", "unknown_parameter")]


def test_what_is_too_large_is_refused(small: TestClient, stores: Stores) -> None:
    publish_kind(stores, KINDS["numbers"], "numbers")

    def sized(rows: int, *, padding: int = 0) -> tuple[bytes, dict[str, str]]:
        content = bytes(rows * 32)
        given = matrix(rows, data=None, parameters={"binary_data_size": len(content)})
        head = json.dumps({"inputs": [given]}).encode() + b" " * padding
        return head + content, {HEADER: str(len(head))}

    path = "/v2/models/numbers/infer"
    for rows, padding, status in ((30, 0, 200), (31, 0, 413), (30, 2100, 413), (200, 0, 413)):
        body, headers = sized(rows, padding=padding)
        for content in (body, pieces(body)):
            answer = small.post(path, content=content, headers=headers)
            if status == 200:
                assert answer.status_code == 200, answer.text
            else:
                refused(answer, 413, "too_large")
                assert answer.headers["Connection"] == "close"
    texts = [{"name": "city", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 2**62}}]
    publish_kind(stores, CITY, "cities")
    refused(infer(small, {"inputs": texts}, bytes(4), "cities"), 413, "too_large")
    refused(small.post(path, content=b" " * 2049), 413, "too_large")
    refused(small.post(path, content=pieces(b" " * 2049)), 413, "too_large")
    refused(
        small.post(path, content=gzip.compress(b" " * 2049), headers={"Content-Encoding": "gzip"}), 413, "too_large"
    )
    refused(small.post("/v2/models/numbers/config", content=b" " * 2**21), 413, "too_large")


def test_an_answer_that_would_be_too_large_is_refused(small: TestClient, stores: Stores) -> None:
    kind = KINDS["numbers"]
    many = ClassTarget(classes=tuple(f"c{place}" for place in range(50)))
    publish_kind(stores, Kind(NUMBERS, many, kind.loss, kind.rows), "numbers")
    assert infer(small, {"inputs": [matrix(10)]}).status_code == 200
    refused(infer(small, {"inputs": [matrix(11)]}), 413, "too_large")
