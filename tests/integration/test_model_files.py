"""Models as files: what is exported comes back as it was, and what a stranger sends is refused or whole."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fastapi.testclient import TestClient
from safetensors import safe_open

from common.learned import LearnedNetwork
from common.network.structure import network_layout
from common.schemas.models import Model
from common.settings import Settings
from common.store.stores import Stores
from service.app import create_app
from tests.contract import publish, running
from tests.integration.rich_models import TARGETS, a_rich_model, instances
from tests.integration.test_api import MARK, api, files_in, refused, request_of

__all__ = ["api"]

BINARY = {"Content-Type": "application/octet-stream"}


def rich(stores: Stores, target: str = "texts", seed: int = 0) -> Model:
    model = a_rich_model(target, seed=seed)
    stores.models.publish(model)
    return stores.models.get(model.record.id)


def exported(api: TestClient, ref: str) -> bytes:
    answer = api.get(f"/v1/models/{ref}/export", params={"format": "safetensors"})
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


def import_of(api: TestClient, content: bytes, **options: Any) -> Any:
    headers = {**BINARY, **options.pop("headers", {})}
    return api.post("/v1/models/import", content=content, params=options, headers=headers)


# There and back


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_that_was_exported_and_imported_predicts_the_same_bits(
    api: TestClient, stores: Stores, target: str
) -> None:
    model = rich(stores, target)
    answer = import_of(api, exported(api, model.id), name="twin")
    assert answer.status_code == 201, answer.text
    twin = answer.json()
    assert answer.headers["Location"] == f"/v1/models/{twin['id']}"
    body = {"instances": instances(50)}
    one, other = (api.post(f"/v1/models/{ref}/predict", json=body) for ref in ("rich", "twin"))
    assert one.status_code == 200, one.text
    assert one.json()["predictions"] == other.json()["predictions"]
    assert stores.models.load(twin["id"]).weights == stores.models.load(model.id).weights
    assert files_in(stores) == []


def test_an_imported_model_is_the_next_version_and_says_where_it_came_from(api: TestClient, stores: Stores) -> None:
    model = rich(stores)
    content = exported(api, model.id)
    twin = import_of(api, content).json()
    assert (twin["name"], twin["version"]) == ("rich", 2)
    imported = twin["lineage"].pop("imported")
    assert imported == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "model_id": model.id,
        "name": "rich",
        "version": 1,
        "created_at": "2020-01-01T00:00:00.000Z",
    }
    was = model.model_dump(mode="json")
    assert was["lineage"].pop("imported") is None
    own = {"id", "version", "created_at"}
    assert {name: twin[name] for name in twin if name not in own} == {
        name: was[name] for name in was if name not in own
    }
    assert twin["id"] != model.id
    assert twin["created_at"] > was["created_at"]


def test_an_imported_model_can_be_exported_compared_and_trained_on_from(api: TestClient, stores: Stores) -> None:
    model = publish(stores)
    twin = import_of(api, exported(api, model.id), name="twin").json()
    again = import_of(api, exported(api, twin["id"]), name="twin").json()
    assert again["lineage"]["imported"]["model_id"] == twin["id"]
    assert stores.models.load(again["id"]).weights == stores.models.load(model.id).weights
    dataset = stores.datasets.get(stores.jobs.get(model.job_id).request.dataset_id)
    body = {**request_of(dataset), "base_model_id": again["id"]}
    assert api.post("/v1/jobs", json=body).status_code == 201
    compared = api.get("/v1/models/iris/compare", params={"with": again["id"]}).json()
    assert [each["pointer"] for each in compared["lineage"]] == ["/imported"]


def test_the_file_is_one_that_other_tools_read(api: TestClient, stores: Stores, tmp_path: Path) -> None:
    model = rich(stores)
    answer = api.get("/v1/models/rich@1/export")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="rich-1.safetensors"'
    (tmp_path / "file").write_bytes(answer.content)
    stored = stores.models.load(model.id)
    network = LearnedNetwork.load(stored.document, stored.weights)
    layout = network_layout(network.shape, network.encoder.width, 3, network.encoder.embeddings)
    vector = np.frombuffer(stored.weights, "<f4")
    with safe_open(tmp_path / "file", "numpy") as file:
        description = json.loads(file.metadata()["description"])
        assert set(file.keys()) == set(layout.shapes)
        for name, part in layout.slices.items():
            np.testing.assert_array_equal(file.get_tensor(name), vector[part].reshape(layout.shapes[name]))
    assert (description["format"], description["version"]) == ("chainrule-model", 1)
    assert description["network"] == stored.document
    assert description["model"]["inputs"][5]["categories"] == ["blau", "rot", "grün ☃"]


def test_the_same_model_gives_the_same_file(api: TestClient, stores: Stores) -> None:
    model = rich(stores)
    assert len({exported(api, model.id) for _ in range(5)}) == 1


def test_a_job_is_exported_once_it_has_a_model(api: TestClient, stores: Stores) -> None:
    model = publish(stores)
    assert exported(api, model.job_id) == exported(api, model.id)
    refused(api.get(f"/v1/models/{running(stores).job_id}/export"), 409, "model_not_ready")
    refused(api.get("/v1/models/iris@9/export"), 404, "model_not_found")
    refused(api.get("/v1/models/iris/export", params={"format": "pickle"}), 422, "invalid_request")


def test_the_same_key_imports_once(api: TestClient, stores: Stores) -> None:
    content, other = (exported(api, rich(stores, seed=seed).id) for seed in (1, 2))
    key = {"Idempotency-Key": "once"}
    first = import_of(api, content, headers=key, name="twin")
    again = import_of(api, content, headers=key, name="twin")
    assert (first.status_code, again.status_code) == (201, 201)
    assert (first.json(), again.headers["Idempotent-Replayed"]) == (again.json(), "true")
    assert "Idempotent-Replayed" not in first.headers
    refused(import_of(api, other, headers=key, name="twin"), 422, "idempotency_key_reused")
    refused(import_of(api, content, headers=key, name="other"), 422, "idempotency_key_reused")
    assert len(api.get("/v1/models", params={"name": "twin"}).json()["data"]) == 1
    assert len(stores.client.keys("chainrule:model:*")) == 3  # nothing is left of those that were not needed
    stores.models.delete(first.json()["id"])
    assert import_of(api, content, headers=key, name="twin").json()["version"] == 2


# What is refused


def parts_of(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, description and numbers of a file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["description"]), content[8 + length :]


def made_of(header: object, numbers: bytes, description: object = None) -> bytes:
    """A file of these parts."""
    if description is not None:
        assert isinstance(header, dict)
        header["__metadata__"]["description"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


@pytest.fixture
def content(api: TestClient, stores: Stores) -> bytes:
    """The file of a model with one hidden layer."""
    return exported(api, publish(stores).id)


def test_what_is_no_file_of_a_model_is_refused(api: TestClient, stores: Stores, content: bytes) -> None:
    refused(import_of(api, b""), 422, "empty_body")
    for nonsense in (b"x", content[:7], MARK.encode() * 100, b"\0" * 8, b"\xff" * 8, struct.pack("<Q", 2) + b"[]"):
        assert refused(import_of(api, nonsense), 422, "invalid_model_file")
    other = safetensors.numpy.save({"a": np.zeros(3, np.float32)})
    assert refused(import_of(api, other), 422, "invalid_model_file") == [("/__metadata__", "wrong_type")]
    foreign = safetensors.numpy.save({"a": np.zeros(3, np.float32)}, {"format": "pt"})
    assert refused(import_of(api, foreign), 422, "invalid_model_file") == [("/__metadata__/description", "missing")]
    refused(import_of(api, content, headers={"Content-Type": "application/json"}), 415, "unsupported_media_type")
    refused(import_of(api, content, headers={"Content-Encoding": "gzip"}), 415, "unsupported_media_type")
    refused(import_of(api, content, name="No Slug"), 422, "invalid_request")
    assert [model["name"] for model in api.get("/v1/models").json()["data"]] == ["iris"]
    assert files_in(stores) == []


def test_a_file_that_is_too_large_is_refused(settings: Settings, stores: Stores, content: bytes) -> None:
    for limit, status in ((len(content) - 1, 413), (len(content), 201)):
        app = create_app(settings.model_copy(update={"max_model_bytes": limit}), stores)
        with TestClient(app, base_url="http://localhost") as api:
            answer = import_of(api, content)
            assert answer.status_code == status, answer.text
            assert import_of(api, content + b"\0").status_code == 413


def test_a_file_cut_short_anywhere_is_refused(api: TestClient, content: bytes) -> None:
    for end in [*range(0, len(content), 97), len(content) - 1]:
        answer = import_of(api, content[:end])
        refused(answer, 422, "invalid_model_file" if end else "empty_body")
    refused(import_of(api, content + b"\0"), 422, "invalid_model_file")


Spoil = Callable[[dict[str, Any], dict[str, Any]], object]


def _set(*path: str | int, value: object) -> Spoil:
    def spoil(_: dict[str, Any], description: dict[str, Any]) -> None:
        node: Any = description
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return spoil


def _tensor(name: str, **entries: object) -> Spoil:
    return lambda header, _: header[name].update(entries)


COLUMN = ("network", "encoder", "columns")
SPOILT: list[tuple[str, Spoil, list[tuple[str, str]]]] = [
    ("no tensor", lambda h, _: h.pop("layer0.bias"), [("/layer0.bias", "missing")]),
    ("a tensor too many", lambda h, _: h.update(more=h["layer0.bias"]), [("/more", "unknown_field")]),
    ("another dtype", _tensor("layer0.bias", dtype="F16"), [("/layer0.bias", "wrong_type")]),
    ("no dtype", _tensor("layer0.bias", dtype=None), [("/layer0.bias", "wrong_type")]),
    ("a huge shape", _tensor("layer0.weights", shape=[2**62, 2**62]), [("/layer0.weights", "wrong_shape")]),
    ("a shape below zero", _tensor("layer0.weights", shape=[-3, -4]), [("/layer0.weights", "wrong_shape")]),
    ("a flat shape", _tensor("layer0.weights", shape=[12]), [("/layer0.weights", "wrong_shape")]),
    ("a shape of truths", _tensor("layer0.bias", shape=[True]), [("/layer0.bias", "wrong_shape")]),
    ("offsets below zero", _tensor("layer0.bias", data_offsets=[-16, 0]), [("/layer0.bias", "wrong_offsets")]),
    ("far offsets", _tensor("layer0.bias", data_offsets=[2**63, 2**63 + 16]), [("/layer0.weights", "wrong_offsets")]),
    ("an overlap", _tensor("layer1.bias", data_offsets=[0, 8]), [("/layer0.bias", "wrong_offsets")]),
    ("no offsets", _tensor("layer0.bias", data_offsets=[]), [("/layer0.bias", "wrong_offsets")]),
    ("a tensor that is none", lambda h, _: h.update({"layer0.bias": 7}), [("/layer0.bias", "wrong_type")]),
    ("no metadata", lambda h, _: h.pop("__metadata__"), [("/__metadata__", "wrong_type")]),
    ("another format", _set("format", value="M4RKER"), [("/format", "unknown_choice")]),
    ("a later version", _set("version", value=2), [("/version", "unknown_choice")]),
    ("no model", lambda _, d: d.pop("model"), [("/model", "missing")]),
    ("more than that", lambda _, d: d.update(more=1), [("/more", "unknown_field")]),
    ("wider layers", _set("network", "network", "layers", 0, "units", value=5), [("/model/lineage/request/network", "inconsistent")]),
    ("huge layers", _set("network", "network", "layers", 0, "units", value=10**9), [("/network/network/layers/0/units", "out_of_range")]),
    ("too many layers", _set("network", "network", "layers", value=[{"kind": "layer_norm"}] * 65), [("/network/network/layers", "out_of_range")]),
    ("an unknown layer", _set("network", "network", "layers", 0, "kind", value="M4RKER"), [("/network/network/layers/0", "unknown_choice")]),
    ("a loss for numbers", _set("network", "loss", value={"kind": "mse"}), [("/network/loss", "unsuitable_loss")]),
    ("an unknown form of column", _set(*COLUMN, 0, "form", value="M4RKER"), [("/network/encoder/columns/0", "unknown_choice")]),
    ("a form that is none", _set(*COLUMN, 0, "form", value=["M4RKER"]), [("/network/encoder/columns/0", "unknown_choice")]),
    ("a column twice", _set(*COLUMN, 1, "name", value="length"), [("/network/encoder/columns/1/name", "duplicate_name")]),
    ("a name that deceives", _set(*COLUMN, 1, "name", value="a\u202eb"), [("/network/encoder/columns/1/name", "invalid_name")]),
    ("a category twice", _set(*COLUMN, 1, "categories", value=["blue", "blue"]), [("/network/encoder/columns/1/categories", "duplicate_category")]),
    ("too many categories", _set(*COLUMN, 1, "categories", value=[*map(str, range(1002))]), [("/network/encoder/columns/1/categories", "out_of_range")]),
    ("no scale", _set(*COLUMN, 0, "scale", value=0), [("/network/encoder/columns/0/scale", "out_of_range")]),
    ("a mean that is text", _set(*COLUMN, 0, "mean", value="M4RKER"), [("/network/encoder/columns/0/mean", "wrong_type")]),
    ("a fill that is too far", _set(*COLUMN, 0, "fill", value=1e300), [("/network/encoder/columns/0", "out_of_range")]),
    ("an endless fill", _set(*COLUMN, 0, "fill", value=-1.7e308), [("/network/encoder/columns/0", "out_of_range")]),
    ("no columns", _set(*COLUMN, value=[]), [("/network/encoder/columns", "too_many_columns")]),
    ("an encoder that is none", _set("network", "encoder", value=[]), [("/network/encoder", "wrong_type")]),
    ("one class", _set("network", "target", "classes", value=["a"]), [("/network/target/classes", "out_of_range")]),
    ("a class twice", _set("network", "target", "classes", value=["a", "a"]), [("/network/target/classes", "duplicate_category"), ("/model/output", "inconsistent")]),
    ("classes of two types", _set("network", "target", "classes", value=["true", True]), [("/network/target/classes", "wrong_type"), ("/model/output", "inconsistent")]),
    ("huge classes", _set("network", "target", "classes", value=[0, 10**300]), [("/network/target/classes", "out_of_range"), ("/model/output", "inconsistent")]),
    ("a task that is another", _set("model", "task", value="regression"), [("/model/task", "inconsistent")]),
    ("other inputs", _set("model", "inputs", value=[]), [("/model/inputs", "inconsistent")]),
    ("an output that is an input", _set("model", "output", "name", value="length"), [("/model/output/name", "target_is_feature")]),
    ("another number of parameters", _set("model", "parameters", value=25), [("/model/parameters", "inconsistent")]),
    ("a name that is no slug", _set("model", "name", value="M4RKER"), [("/model/name", "invalid_name")]),
    ("an id that is none", _set("model", "job_id", value="../M4RKER"), [("/model/job_id", "wrong_form")]),
    ("a time that is none", _set("model", "created_at", value="M4RKER"), [("/model/created_at", "out_of_range")]),
    ("a time before all times", _set("model", "created_at", value="0001-01-01T00:00:00+23:59"), [("/model/created_at", "out_of_range")]),
    ("a hash that is none", _set("model", "lineage", "dataset_sha256", value="M4RKER"), [("/model/lineage/dataset_sha256", "wrong_form")]),
    ("a huge lineage", _set("model", "lineage", "request", "a", value="x" * 2**20), [("/model/lineage", "out_of_range")]),
    ("a lineage without a network", _set("model", "lineage", "request", value={}), [("/model/lineage/request", "inconsistent")]),
    ("an endless number", _set("model", "lineage", "request", "a", value="INFINITE"), [("/model/lineage/request", "inconsistent")]),
    ("metrics without end", _set("model", "metrics", value={str(i): 0.5 for i in range(201)}), [("/model/metrics", "out_of_range")]),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "found"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_every_part_of_a_file_is_checked_before_any_is_used(
    api: TestClient, stores: Stores, content: bytes, spoil: Spoil, found: list[tuple[str, str]]
) -> None:
    header, description, numbers = parts_of(content)
    header["__metadata__"]["description"] = ""
    spoil(header, description)
    if "__metadata__" in header:
        header["__metadata__"]["description"] = json.dumps(description).replace('"INFINITE"', "1e999")
    assert refused(import_of(api, made_of(header, numbers)), 422, "invalid_model_file") == found
    assert len(api.get("/v1/models").json()["data"]) == 1
    assert files_in(stores) == []
