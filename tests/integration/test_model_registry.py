"""Aliases, comparison and deletion over HTTP; predictions by an alias while it moves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from fastapi.testclient import TestClient

from common.schemas.aliases import Alias
from common.store.stores import Stores
from service.client import ApiClient
from service.model_differences import ModelComparison
from service.routes.aliases import Aliases
from tests.conftest import start_api
from tests.contract import publish, submit, traces
from tests.integration.test_api import MARK, UNKNOWN, refused

GOOD = {"length": 1.5, "colour": "blue"}
LIVE = "/v1/models/iris/aliases/live"


def test_an_alias_is_moved_and_moved_back(api: TestClient, stores: Stores) -> None:
    first, second = publish(stores, seed=1), publish(stores, seed=2)
    told_last = None
    for model in (first, second, first):
        moved = api.put(LIVE, json={"model_id": model.id})
        assert moved.status_code == 200, moved.text
        told_last = moved.json()
        assert (moved.json()["model_id"], moved.json()["version"]) == (model.id, model.version)
        predicted = api.post("/v1/models/iris@live/predict", json={"instances": [GOOD]}).json()
        assert predicted["model_id"] == model.id
        assert api.get("/v1/models/iris%40live").json()["aliases"] == ["live"]
    [told] = api.get("/v1/models/iris/aliases").json()["data"]
    assert [move["version"] for move in told["history"]] == [1, 2, 1]
    assert told["changed_at"] == told["history"][0]["changed_at"]
    assert told == told_last
    assert [model["aliases"] for model in api.get("/v1/models").json()["data"]] == [[], ["live"]]
    assert api.delete(LIVE).status_code == 204
    refused(api.delete(LIVE), 404, "alias_not_found")
    refused(api.get("/v1/models/iris@live"), 404, "model_not_found")
    assert api.get("/v1/models/iris/aliases").json()["data"][0]["model_id"] is None


def test_an_alias_that_cannot_be_is_refused(api: TestClient, stores: Stores) -> None:
    model, wine = publish(stores), publish(stores, "wine")
    for alias in ("3", "007", "-a", ".a", "A", "a" * 64, MARK, "a@b", "é", "a b", "a:b"):
        answer = api.put(f"/v1/models/iris/aliases/{alias}", json={"model_id": model.id})
        assert refused(answer, 422, "invalid_request") == [("alias", "invalid_name")]
    for model_id, code in (
        (wine.id, "unsuitable_model"),
        (UNKNOWN["mdl"], "model_not_found"),
        ("iris", "model_not_found"),
        (MARK, "model_not_found"),
        (7, "wrong_type"),
    ):
        answer = api.put(LIVE, json={"model_id": model_id})
        assert refused(answer, 422, "invalid_request") == [("/model_id", code)]
    answer = api.put(LIVE, json={"model_id": model.id, "more": 1})
    assert refused(answer, 422, "invalid_request") == [("/more", "unknown_field")]
    refused(api.put(f"/v1/models/{MARK}/aliases/live", json={"model_id": model.id}), 422, "invalid_request")
    refused(api.put(LIVE, content=b"{"), 415, "unsupported_media_type")
    refused(api.get("/v1/models/nobody/aliases"), 404, "model_not_found")
    assert api.get("/v1/models/iris/aliases").json() == {"data": []}


def test_a_model_is_deleted_with_all_its_traces_by_what_names_it_alone(api: TestClient, stores: Stores) -> None:
    first, second = publish(stores), publish(stores)
    api.put(LIVE, json={"model_id": first.id})
    for ref in ("iris", "iris@live"):
        assert refused(api.delete(f"/v1/models/{ref}"), 422, "invalid_request") == [("ref", "ambiguous_reference")]
    job_id = submit(stores, base_model_id=first.id)
    refused(api.delete(f"/v1/models/{first.id}"), 409, "model_in_use")
    stores.jobs.cancel(job_id)
    assert api.delete("/v1/models/iris@1").status_code == 204
    assert traces(stores, first.id) == set()
    refused(api.post("/v1/models/iris@live/predict", json={"instances": [GOOD]}), 404, "model_not_found")
    assert api.delete(f"/v1/models/{second.id}").status_code == 204
    assert publish(stores).version == 3


def test_two_models_are_compared_by_any_reference(api: TestClient, stores: Stores) -> None:
    first, second = publish(stores, seed=1), publish(stores, seed=2)
    api.put(LIVE, json={"model_id": first.id})
    answer = api.get("/v1/models/iris@live/compare", params={"with": "iris"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["first"]["id"], found["second"]["id"]) == (first.id, second.id)
    assert found["first"]["aliases"] == ["live"]
    assert found["metrics"] == [{"metric": "accuracy", "first": 0.5, "second": 0.5, "difference": 0.0}]
    assert found["lineage"] == [{"pointer": "/seed", "kind": "changed", "first": 1, "second": 2}]
    assert api.get(f"/v1/models/{first.job_id}/compare", params={"with": second.id}).json() == found
    refused(api.get("/v1/models/iris/compare", params={"with": "iris@9"}), 404, "model_not_found")
    refused(api.get("/v1/models/iris/compare"), 422, "invalid_request")


@pytest.fixture(scope="module")
def url(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an API process over the stores."""
    folder = tmp_path_factory.mktemp("api")
    with start_api(folder / "log", redis_url, CHAINRULE_STATE_DIR=str(folder)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_while_an_alias_moves_every_prediction_is_of_one_of_both_models_and_then_of_the_new_one(
    url: str, stores: Stores
) -> None:
    models = [publish(stores, seed=seed) for seed in (1, 2)]
    stores.aliases.move("iris", "live", models[0].id)
    moves: list[tuple[float, float, str]] = []
    answers: list[tuple[float, float, str, object]] = []
    answered, done = threading.Semaphore(0), threading.Event()

    def predicts() -> None:
        with closing(ApiClient(url)) as client:
            while not done.is_set():
                began = time.monotonic()
                answer = client.predict("iris@live", [GOOD])
                answers.append((began, time.monotonic(), answer["model_id"], answer["predictions"]))
                answered.release()

    with ThreadPoolExecutor(4) as pool, closing(ApiClient(url)) as client:
        own = {model.id: client.predict(model.id, [GOOD])["predictions"] for model in models}
        predicting = [pool.submit(predicts) for _ in range(4)]
        for count in range(1, 31):
            model_id = models[count % 2].id
            began = time.monotonic()
            if count % 3:
                client.call("PUT", LIVE, json={"model_id": model_id})
            else:  # as another process does
                stores.aliases.move("iris", "live", model_id)
            seen, moved = len(answers), time.monotonic()
            moves.append((began, moved, model_id))
            while not any(asked > moved for asked, *_ in answers[seen:]):
                assert answered.acquire(timeout=30)
        done.set()
        for each in predicting:
            each.result()  # none has failed
    assert own[models[0].id] != own[models[1].id]
    assert all(predictions == own[model_id] for _, _, model_id, predictions in answers)
    settled = 0
    for (_, moved, model_id), (next_move, _, _) in zip(moves, [*moves[1:], (time.monotonic(), 0.0, "")], strict=True):
        between = [found for began, ended, found, _ in answers if began > moved and ended < next_move]
        assert set(between) <= {model_id}
        settled += len(between)
    assert settled >= len(moves)
    assert {found for _, _, found, _ in answers} == set(own)


def test_the_examples_of_the_description_are_what_is_answered(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    listed, moved = (
        schema["paths"][path][method]["responses"]["200"]["content"]["application/json"]["example"]
        for path, method in (("/v1/models/{name}/aliases", "get"), ("/v1/models/{name}/aliases/{alias}", "put"))
    )
    Aliases.model_validate_json(json.dumps(listed))
    Alias.model_validate_json(json.dumps(moved))
    [compared] = schema["components"]["schemas"]["ModelComparison"]["examples"]
    ModelComparison.model_validate_json(json.dumps(compared))
    for path in ("/v1/models/{ref}/export", "/v1/models/import"):
        assert "application/octet-stream" in json.dumps(schema["paths"][path])
