"""Models as files: what is exported comes back as it was, and what a stranger sends is refused or whole."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from fastapi.testclient import TestClient
from safetensors import safe_open

from common.learned import LearnedNetwork
from common.network.structure import network_layout
from common.schemas.models import Model
from common.settings import Settings
from common.store import keys
from common.store.client import raw
from common.store.models import CHUNK_BYTES
from common.store.stores import Stores
from service.app import create_app
from tests.contract import publish, running
from tests.integration.test_api import MARK, files_in, predict, refused, request_of
from tests.unit.rich_models import TARGETS, a_rich_model, instances

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


def test_an_onnx_file_answers_raw_columns_as_the_api_does(api: TestClient, stores: Stores) -> None:
    model = publish(stores)
    answer = api.get(f"/v1/models/{model.id}/export?format=onnx")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"] == 'attachment; filename="iris-1.onnx"'
    session = onnxruntime.InferenceSession(answer.content)
    lengths, colours = [4.5, 6.0, float("nan")], ["red", "blue", "never seen"]
    labels, probabilities = session.run(
        ["label", "probabilities"],
        {"length": np.array(lengths)[:, None], "colour": np.array(colours, object)[:, None]},
    )
    rows = [[None if np.isnan(length) else length, colour] for length, colour in zip(lengths, colours, strict=True)]
    expected = predict(api, model.id, rows).json()["predictions"]
    assert labels.tolist() == [one["label"] for one in expected]
    assert probabilities == pytest.approx(np.array([list(one["probabilities"].values()) for one in expected]), abs=1e-5)


def test_a_model_that_onnx_cannot_express_is_refused_with_its_columns(api: TestClient, stores: Stores) -> None:
    answer = api.get(f"/v1/models/{rich(stores).id}/export?format=onnx")
    [(pointer, _)] = refused(answer, 422, "not_exportable")
    assert "seen" in pointer


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


@pytest.mark.slow
def test_a_model_of_many_chunks_is_stored_exported_and_imported(api: TestClient, stores: Stores) -> None:
    model = a_rich_model("a number", layers=[{"kind": "dense", "units": units} for units in (3000, 5000)])
    assert len(model.weights) > 3 * CHUNK_BYTES
    stores.models.publish(model)
    fields = stores.client.hkeys(keys.model(model.record.id))
    sizes = [stores.client.hstrlen(keys.model(model.record.id), raw(name).decode()) for name in fields]
    assert max(sizes) == CHUNK_BYTES
    twin = import_of(api, exported(api, "rich"), name="twin").json()
    assert stores.models.load(twin["id"]).weights == model.weights
    body = {"instances": instances(5)}
    one, other = (api.post(f"/v1/models/{ref}/predict", json=body).json() for ref in ("rich", "twin"))
    assert one["predictions"] == other["predictions"]
