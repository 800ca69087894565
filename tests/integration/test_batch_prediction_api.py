"""The routes of predictions of whole data sets, and of data sets as files."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from polars.testing import assert_frame_equal

from common.features.categories import OneHot
from common.features.numbers import Scaled
from common.identifiers import new_id
from common.schemas.datasets import Column
from common.schemas.models import Model
from common.settings import Settings
from common.store.stores import Stores
from service.app import create_app
from service.bulk.forms import FORMS, Form
from service.routes.dataset_content import _texts
from tests.contract import a_dataset, running
from tests.learned import TARGETS, publish_network

COLUMNS = (
    Scaled(name="age", kind="numeric", mean=40.0, scale=12.0),
    Scaled(name="member", kind="boolean", mean=0.5, scale=0.5),
    OneHot(name="city", categories=("Oslo", "Rome"), missing=False),
)
PEOPLE = pl.DataFrame({"age": [31.0, None], "member": [True, False], "city": ["Oslo", "Rome"], "more": [1, 2]})
PARQUET = "application/vnd.apache.parquet"


def upload(api: TestClient, frame: pl.DataFrame) -> str:
    body = io.BytesIO()
    frame.write_parquet(body)
    answer = api.post("/v1/datasets?name=people", content=body.getvalue(), headers={"Content-Type": PARQUET})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def model(stores: Stores) -> Model:
    return publish_network(stores, COLUMNS, *TARGETS[0])


def submit(api: TestClient, ref: str, body: Any, key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(f"/v1/models/{ref}/predictions", json=body, headers=headers)


# Submission


def test_a_data_set_and_a_model_become_a_queued_job(api: TestClient, model: Model) -> None:
    dataset = upload(api, PEOPLE)
    answer = submit(api, "mixed@1", {"dataset_id": dataset, "priority": 3, "labels": {"team": "sales"}})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job.pop("created_at")
    assert job == {
        "id": job["id"],
        "kind": "prediction",
        "name": None,
        "state": "queued",
        "revision": 1,
        "attempt": 0,
        "started_at": None,
        "finished_at": None,
        "queue_position": 0,
        "waiting_for": None,
        "request": {
            "dataset_id": dataset,
            "model_id": model.id,
            "name": None,
            "priority": 3,
            "labels": {"team": "sales"},
        },
        "task": "classification",
        "progress": None,
        "metrics": None,
        "stop_reason": None,
        "model_id": None,
        "result_dataset_id": None,
        "error": None,
        "labels": {"team": "sales"},
        "warnings": [],
    }
    assert api.get(f"/v1/jobs/{job['id']}").json() == api.get("/v1/jobs?label=team:sales").json()["data"][0]
    assert api.get(f"/v1/jobs/{job['id']}/metrics").json() == {"data": []}
    assert api.get(f"/v1/jobs/{job['id']}/checkpoints").json() == {"data": []}
    assert api.get(f"/v1/models/{job['id']}").json()["code"] == "model_not_ready"
    assert submit(api, job["id"], {"dataset_id": dataset}).json()["code"] == "model_not_ready"
    assert submit(api, model.job_id, {"dataset_id": dataset}).json()["request"]["model_id"] == model.id
    assert api.delete(f"/v1/datasets/{dataset}").json()["code"] == "dataset_in_use"
    assert api.delete(f"/v1/models/{model.id}").json()["code"] == "model_in_use"
    for verb in ("pause", "rerun"):
        answer = api.post(f"/v1/jobs/{job['id']}/{verb}")
        assert (answer.status_code, answer.json()["code"]) == (409, "job_not_training")
    assert api.post(f"/v1/jobs/{job['id']}/resume").json()["code"] == "job_not_paused"
    assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"


def test_what_a_data_set_lacks_is_named_all_at_once_before_there_is_a_job(
    api: TestClient, stores: Stores, model: Model
) -> None:
    before = stores.jobs.page(10).data
    dataset = upload(api, PEOPLE.select(town="city", member="age", age="city"))
    answer = submit(api, model.id, {"dataset_id": dataset})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(fault["pointer"], fault["code"], fault["message"]) for fault in answer.json()["errors"]] == [
        ("/dataset_id", "unsuitable_column", "the column age holds texts; the model needs numbers"),
        ("/dataset_id", "unsuitable_column", "the column member holds numbers; the model needs booleans"),
        ("/dataset_id", "missing_column", "has no column city, an input of the model"),
    ]
    assert stores.jobs.page(10).data == before


def test_what_is_not_there_is_told_and_a_body_is_read_strictly(api: TestClient, stores: Stores, model: Model) -> None:
    dataset = upload(api, PEOPLE)
    assert submit(api, model.id, {"dataset_id": new_id("ds")}).json()["code"] == "dataset_not_found"
    assert submit(api, new_id("mdl"), {"dataset_id": dataset}).json()["code"] == "model_not_found"
    assert submit(api, running(stores).job_id, {"dataset_id": dataset}).json()["code"] == "model_not_ready"
    for body, pointer in (
        ({}, "/dataset_id"),
        ({"dataset_id": 7}, "/dataset_id"),
        ({"dataset_id": dataset, "model_id": model.id}, "/model_id"),
        ({"dataset_id": dataset, "priority": 1001}, "/priority"),
        ({"dataset_id": dataset, "name": "a\nb"}, "/name"),
        ({"dataset_id": dataset, "labels": {"": "x"}}, "/labels"),
    ):
        answer = submit(api, model.id, body)
        assert answer.status_code == 422
        assert [fault["pointer"][: len(pointer)] for fault in answer.json()["errors"]] == [pointer]


def test_a_key_makes_one_job_whatever_its_reference_has_come_to_mean(
    api: TestClient, stores: Stores, model: Model
) -> None:
    dataset = upload(api, PEOPLE)
    first = submit(api, "mixed", {"dataset_id": dataset}, "k")
    publish_network(stores, COLUMNS, *TARGETS[3])
    again = submit(api, "mixed", {"dataset_id": dataset}, "k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    for ref, body in ((model.id, {"dataset_id": dataset}), ("mixed", {"dataset_id": dataset, "priority": 1})):
        assert submit(api, ref, body, "k").json()["code"] == "idempotency_key_reused"
    assert submit(api, "mixed", {"dataset_id": dataset}, "other").json()["task"] == "regression"


def test_a_full_queue_takes_no_more(settings: Settings, stores: Stores, model: Model) -> None:
    app = create_app(settings.model_copy(update={"max_queued_jobs": 1}), stores)
    with TestClient(app, base_url="http://localhost") as api:
        dataset = upload(api, PEOPLE)
        assert submit(api, model.id, {"dataset_id": dataset}).status_code == 201
        answer = submit(api, model.id, {"dataset_id": dataset})
        assert (answer.status_code, answer.json()["code"]) == (409, "queue_full")


# A data set as a file

MIXED = pl.DataFrame(
    {
        "number": [0.1, None, -1e300],
        "count": [1, 2**53 - 1, None],
        "flag": [True, None, False],
        "text": ['with, comma and "quotes"', "line\nbreak", None],
        "day": [date(2024, 1, 27), None, date(1, 1, 1)],
        "time": [datetime(2024, 1, 27, 10, 0, 0, 500000, tzinfo=UTC), None, datetime(1970, 1, 1, tzinfo=UTC)],
    }
)
TOLD = MIXED.with_columns(
    day=pl.Series(["2024-01-27", None, "0001-01-01"]),
    time=pl.Series(["2024-01-27T10:00:00.5Z", None, "1970-01-01T00:00:00Z"]),
)


def of_csv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, try_parse_dates=False)


def of_tsv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, try_parse_dates=False, separator="\t")


def test_all_rows_come_in_the_form_that_is_liked_best(api: TestClient) -> None:
    dataset = upload(api, MIXED)

    def rows(accept: str) -> tuple[str, pl.DataFrame]:
        answer = api.get(f"/v1/datasets/{dataset}/content", headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        kind = answer.headers["content-type"].partition(";")[0]
        ending = FORMS[kind]
        assert answer.headers["content-disposition"] == f'attachment; filename="{dataset}.{ending}"'
        readers: dict[str, Callable[[bytes], pl.DataFrame]] = {
            "csv": of_csv,
            "tsv": of_tsv,
            "ndjson": pl.read_ndjson,
            "parquet": pl.read_parquet,
        }
        return ending, readers[ending](answer.content)

    for accept in ("text/csv", "*/*", "", "text/html, */*;q=0.1"):
        ending, found = rows(accept)
        assert ending == "csv"
        assert_frame_equal(found, TOLD, check_exact=True)
    ending, found = rows("text/tab-separated-values")
    assert ending == "tsv"
    assert_frame_equal(found, TOLD, check_exact=True)
    for accept in ("application/x-ndjson", "text/html, application/*;q=0.5", "*/*;q=0.1, Application/X-NDJSON; q=0.2"):
        ending, found = rows(accept)
        assert ending == "ndjson"
        assert_frame_equal(found, TOLD, check_exact=True)
    for accept in (f"{PARQUET}, text/csv;q=0.9", f"text/csv;q=0.1, {PARQUET};q=0.2"):
        ending, found = rows(accept)
        assert ending == "parquet"
        assert_frame_equal(found, MIXED, check_exact=True)
    for accept in ("image/png", "text/csv;q=0", "text/html, */*;q=0", "text/csv;q=much"):
        answer = api.get(f"/v1/datasets/{dataset}/content", headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


def test_rows_that_are_written_some_at_a_time_are_all_there_in_their_order(api: TestClient) -> None:
    rows = pl.DataFrame({"place": range(150_000), "text": [f"t{place}" for place in range(150_000)]})
    path = f"/v1/datasets/{upload(api, rows)}/content"
    assert_frame_equal(of_csv(api.get(path, headers={"Accept": "text/csv"}).content), rows)
    assert_frame_equal(pl.read_ndjson(api.get(path, headers={"Accept": "application/x-ndjson"}).content), rows)


def test_rows_that_are_gone_or_damaged_are_told(api: TestClient, stores: Stores) -> None:
    dataset = upload(api, PEOPLE)
    file = stores.files.dataset(dataset)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert api.get(f"/v1/datasets/{dataset}/content").json()["code"] == "corrupt_record"
    file.unlink()
    for form in ("text/csv", PARQUET):
        for gone in (dataset, new_id("ds")):
            answer = api.get(f"/v1/datasets/{gone}/content", headers={"Accept": form})
            assert (answer.status_code, answer.json()["code"]) == (404, "dataset_not_found")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_what_it_takes_to_write_rows_does_not_grow_with_them(stores: Stores, form: Form) -> None:
    rows = 2_000_000
    columns = tuple(Column(name=f"c{place}", kind="numeric", missing=0, distinct=rows) for place in range(5))
    dataset, random = a_dataset(columns=columns, rows=rows), np.random.default_rng(0)
    frame = pl.DataFrame({column.name: random.random(rows) for column in columns})
    frame.write_parquet(stores.files.dataset(dataset.id))
    del frame
    process, written = psutil.Process(), 0
    before = most = process.memory_info().rss
    for piece in _texts(dataset, stores.files, form):
        written += len(piece)
        most = max(most, process.memory_info().rss)
    assert written > 180 << 20
    assert most - before < 120 << 20


# The description


def test_the_description_shows_both_kinds_of_jobs_and_its_examples_are_taken(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"TrainingJob", "PredictionJob"} <= schemas.keys()
    request = schemas["BatchPrediction"]
    assert len(request["examples"]) == 2
    for example in request["examples"]:
        Draft202012Validator({**request, "components": document["components"]}).validate(example)
    content = document["paths"]["/v1/datasets/{dataset_id}/content"]["get"]["responses"]["200"]["content"]
    assert content.keys() == {"text/csv", "text/tab-separated-values", "application/x-ndjson", PARQUET}
