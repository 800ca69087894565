"""The short way of small predictions answers as the long way does, and leaves to it what is not plain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from common.features.numbers import Scaled
from common.features.target import ClassTarget
from common.learned import LearnedNetwork
from common.schemas.losses import CrossEntropy
from common.settings import Settings
from common.store.stores import Stores
from service import middleware, quick_lane
from service.app import create_app
from service.routes import predictions
from tests.contract import publish
from tests.integration.test_api import GOOD, refused
from tests.learned import publish_network

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def short(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the answers that went the short way."""
    monkeypatch.setattr(middleware, "_FRESH_SECONDS", 3600.0)
    assert api.get("/v1/models").status_code == 200  # whoever asks first has the keys looked up
    lengths: list[int] = []

    async def counted(*given: Any) -> bytes | None:
        answer = await predictions.quick_answer(*given)
        if answer is not None:
            lengths.append(len(answer))
        return answer

    monkeypatch.setattr(quick_lane, "quick_answer", counted)
    return lengths


BODIES: list[object] = [
    {"instances": [GOOD]},
    {"instances": [GOOD, [1e9, "never seen"], {"length": None, "colour": None}]},
    {"instances": [list(GOOD.values())] * 20},
    {"instances": [GOOD], "top_k": 1},
    {"instances": [GOOD], "threshold": 0.9},
]


@pytest.mark.parametrize("body", BODIES, ids=["one", "strange values", "arrays", "top_k", "threshold"])
@pytest.mark.parametrize("reference", ["id", "name", "version", "job"])
def test_both_ways_give_the_same_answer(
    api: TestClient, stores: Stores, short: list[int], reference: str, body: object
) -> None:
    model = publish(stores)
    ref = {"id": model.id, "name": "iris", "version": "iris@1", "job": model.job_id}[reference]
    quick = api.post(f"/v1/models/{ref}/predict", json=body)
    assert len(short) == 1
    slow = api.post(f"/v1/models/{ref}/predict?explain=false", json=body)
    assert len(short) == 1
    assert (quick.status_code, quick.content) == (slow.status_code, slow.content)
    assert quick.status_code == 200
    assert quick.headers.keys() == slow.headers.keys()
    assert quick.headers["content-type"] == slow.headers["content-type"] == "application/json"


def test_what_is_not_plain_goes_the_long_way(api: TestClient, stores: Stores, short: list[int]) -> None:
    model = publish(stores)
    path, body = f"/v1/models/{model.id}/predict", json.dumps({"instances": [GOOD]}).encode()
    refused(api.post(path, content=b"{", headers=JSON), 400, "malformed_json")
    refused(api.post(path, json={"instances": [[1]]}), 422, "invalid_request")
    refused(api.post(path, content=body), 415, "unsupported_media_type")
    refused(api.post(path, content=body, headers={**JSON, "Content-Encoding": "gzip"}), 415, "unsupported_media_type")
    refused(api.post("/v1/models/nobody/predict", json={"instances": [GOOD]}), 404, "model_not_found")
    for zeros in (20, 5000):
        length = "0" * zeros + str(len(body))
        refused(api.post(path, content=body, headers={**JSON, "Content-Length": length}), 413, "too_large")
    refused(api.post(path, json={"instances": [GOOD], "top_k": 0}), 422, "invalid_request")
    assert api.post(path, json={"instances": [GOOD], "explain": True}).json()["predictions"][0]["explanation"]
    as_csv = api.post(path, content=body, headers={**JSON, "Accept": "text/csv"})
    assert as_csv.headers["content-type"].startswith("text/csv")
    assert api.post(path, content=body, headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200
    assert short == []


MANY = ClassTarget(classes=tuple(f"c{place}" for place in range(1000)))
WIDE = ([Scaled(name="length", kind="numeric", mean=0.0, scale=1.0)], MANY, CrossEntropy(), (1,))
"""A network of few weights whose every answer is long."""


def test_a_long_answer_to_a_small_body_goes_the_long_way(api: TestClient, stores: Stores, short: list[int]) -> None:
    path = f"/v1/models/{publish_network(stores, *WIDE).id}/predict"
    for count in (4, 5):
        answer = api.post(path, json={"instances": [[1]] * count})
        assert [len(row["probabilities"]) for row in answer.json()["predictions"]] == [1000] * count
    assert len(short) == 1


def test_an_answer_that_would_be_huge_is_refused_and_comes_as_a_file(settings: Settings, stores: Stores) -> None:
    path = f"/v1/models/{publish_network(stores, *WIDE).id}/predict"
    limited = settings.model_copy(update={"max_tensor_bytes": 1 << 20})
    with TestClient(create_app(limited, stores), base_url="http://localhost") as api:
        for count, status in ((131, 200), (132, 413), (10_000, 413)):
            assert api.post(path, json={"instances": [[1]] * count}).status_code == status
        few = settings.model_copy(update={"max_tensor_bytes": 1024})
        with TestClient(create_app(few, stores), base_url="http://localhost") as strict:
            refused(strict.post(path, json={"instances": [[1]]}), 413, "too_large")  # small enough for the short way
        rows = {"instances": [[1]] * 10_000}
        answer = api.post(path, json=rows, headers={"Accept": "application/vnd.apache.parquet"})
        assert pl.read_parquet(answer.content).shape == (10_000, 1001)


def test_a_body_in_many_pieces_is_read_whole_whichever_way_it_goes(
    api: TestClient, stores: Stores, short: list[int]
) -> None:
    model = publish(stores)
    for count in (1, 3000):  # the second is too long for the short way
        body = json.dumps({"instances": [GOOD] * count}).encode()

        def pieces(whole: bytes = body) -> Iterator[bytes]:
            for start in range(0, len(whole), 7):
                yield whole[start : start + 7]

        answer = api.post(f"/v1/models/{model.id}/predict", content=pieces(), headers=JSON)
        assert len(answer.json()["predictions"]) == count
    assert len(short) == 1


def test_the_short_way_needs_a_key_too(
    api: TestClient, stores: Stores, short: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = publish(stores)
    key = {"Authorization": f"Bearer {stores.access.create('somebody')}"}
    monkeypatch.setattr(middleware, "_FRESH_SECONDS", 0.0)
    assert api.get("/v1/models", headers=key).status_code == 200
    monkeypatch.setattr(middleware, "_FRESH_SECONDS", 3600.0)
    path = f"/v1/models/{model.id}/predict"
    refused(api.post(path, json={"instances": [GOOD]}), 401, "unauthorized")
    refused(api.post(path, json={"instances": [GOOD]}, headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")
    twice = [("Authorization", "Bearer wrong"), *key.items()]
    refused(api.post(path, json={"instances": [GOOD]}, headers=twice), 401, "unauthorized")
    assert short == []
    assert api.post(path, json={"instances": [GOOD]}, headers=key).status_code == 200
    assert len(short) == 1


def test_a_failure_that_nobody_foresaw_is_a_problem_too(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = publish(stores)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(LearnedNetwork, "answer", fail)
    answer = refused(api.post(f"/v1/models/{model.id}/predict", json={"instances": [GOOD]}), 500, "internal")
    assert answer == []
