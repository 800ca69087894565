"""The API over real stores, from its first upload to its last prediction."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from common.errors import StorageFull
from common.identifiers import is_id
from common.schemas.cluster import Node, SupervisorReport
from common.schemas.datasets import Column, Dataset
from common.schemas.jobs import JobError
from common.settings import Settings
from common.store import keys
from common.store.jobs import JobStore
from common.store.stores import Stores
from service import parser, uploads
from service.app import create_app
from service.ingest import Parsed, ParseLimits, ParseOptions
from service.middleware import KeyRing
from tests.contract import (
    FULL_FORM,
    MIXED,
    a_model,
    a_progress,
    an_epoch,
    claimed,
    create,
    publish,
    running,
    submit,
)
from tests.shared_app import app_of

CSV = b"length,colour,species\n1.5,blue,setosa\n2.5,red,virginica\n,blue,setosa\n"
UNKNOWN = {"ds": "ds_0000000000000000000000000", "job": "job_0000000000000000000000000"}
UNKNOWN |= {"mdl": "mdl_0000000000000000000000000"}
MARK = "M4RKER"


def refused(answer: Any, status: int, code: str) -> list[tuple[str, str]]:
    """Checks that an answer is a problem of that kind; the pointers and codes of its faults."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    below_v2 = {"error"} if problem.keys() >= {"error"} else set()
    assert set(problem) == {"type", "title", "status", "code", "detail", "errors", "request_id"} | below_v2
    assert (problem["status"], problem["code"]) == (status, code), answer.text
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert re.fullmatch("req_[0-9a-f]{24}", problem["request_id"])
    for betrayal in ("Traceback", ".py", MARK, "pydantic", "/tmp"):  # noqa: S108
        assert betrayal not in answer.text
    return [(fault["pointer"], fault["code"]) for fault in problem["errors"]]


def upload(api: TestClient, content: bytes = CSV, kind: str = "text/csv", **options: Any) -> Any:
    """An upload."""
    headers = {"Content-Type": kind, **options.pop("headers", {})}
    return api.post("/v1/datasets", content=content, headers=headers, params=options)


@pytest.fixture
def quick_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads uploads in this process, where it is not the child that matters."""

    def parse(source: Path, destination: Path, options: ParseOptions, limits: ParseLimits) -> Parsed:
        return parser.parse(source, destination, options, limits)

    monkeypatch.setattr(uploads, "parse_in_child", parse)


@pytest.fixture
def small(settings: Settings, stores: Stores) -> Iterator[TestClient]:
    """An API with small limits."""
    limits = {"max_upload_bytes": 2000, "max_request_bytes": 1024, "max_predict_bytes": 2048, "max_predict_rows": 3}
    limits |= {"max_columns": 3, "max_cells": 9, "max_queued_jobs": 2, "max_parameters": 200}
    app = create_app(settings.model_copy(update=limits), stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


# Data sets


def test_a_csv_file_is_described_shown_listed_and_deleted(api: TestClient, stores: Stores) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    answer = upload(api, name="Flowers 名 🙂")
    dataset = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert is_id(dataset["id"], "ds")
    assert (dataset["name"], dataset["version"], dataset["format"]) == ("Flowers 名 🙂", 1, "csv")
    assert (dataset["bytes"], dataset["sha256"]) == (len(CSV), hashlib.sha256(CSV).hexdigest())
    assert dataset["rows"] == 3
    length, colour, species = dataset["columns"]
    assert length == {
        "name": "length",
        "kind": "numeric",
        "missing": 1,
        "distinct": 2,
        "integer": False,
        "mean": 2.0,
        "std": 0.5,
        "min": 1.5,
        "max": 2.5,
        "earliest": None,
        "latest": None,
        "quantiles": {
            "0": 1.5,
            "1": 1.51,
            "5": 1.55,
            "25": 1.75,
            "50": 2.0,
            "75": 2.25,
            "95": 2.45,
            "99": 2.49,
            "100": 2.5,
        },
        "histogram": {"low": 1.5, "high": 2.5, "counts": [1, *[0] * 18, 1], "below": 0, "above": 0},
        "top": [],
    }
    assert (colour["kind"], colour["top"][0]) == ("categorical", {"value": "blue", "count": 2})
    assert species["distinct"] == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", dataset["created_at"])
    assert before <= datetime.fromisoformat(dataset["created_at"]) <= datetime.now(UTC)
    path = f"/v1/datasets/{dataset['id']}"
    assert api.get(path).json() == dataset
    assert api.get("/v1/datasets").json() == {"data": [dataset], "next_cursor": None}
    rows = [
        {"length": 1.5, "colour": "blue", "species": "setosa"},
        {"length": 2.5, "colour": "red", "species": "virginica"},
        {"length": None, "colour": "blue", "species": "setosa"},
    ]
    assert api.get(f"{path}/rows").json() == {"rows": rows, "next_offset": None}
    assert api.get(f"{path}/rows", params={"limit": 1}).json() == {"rows": rows[:1], "next_offset": 1}
    assert stores.files.dataset(dataset["id"]).exists()
    assert api.delete(path).status_code == 204
    for gone in (api.get(path), api.get(f"{path}/rows"), api.delete(path)):
        refused(gone, 404, "dataset_not_found")
    assert files_in(stores) == []


@pytest.mark.usefixtures("quick_parser")
def test_columns_are_associated_with_a_target(api: TestClient, stores: Stores) -> None:
    rows = "".join(f"{i % 50},{'ab'[i % 2]},{'xy'[i % 2]}{MARK}\n" for i in range(100))
    dataset = upload(api, f"n,c,y\n{rows}".encode()).json()
    path = f"/v1/datasets/{dataset['id']}"
    answer = api.get(f"{path}/associations", params={"target": "y"})
    assert answer.status_code == 200, answer.text
    assert MARK not in answer.text
    found = answer.json()
    assert [(a["column"], a["measure"], a["rows"]) for a in found["data"]] == [
        ("c", "cramers_v", 100),
        ("n", "eta", 100),
    ]
    assert found["data"][0]["value"] == pytest.approx(1)
    assert found["warnings"][0].startswith("2 columns (c, n): what the target is can be told")
    assert refused(api.get(f"{path}/associations", params={"target": MARK}), 422, "invalid_request") == [
        ("target", "unknown_column")
    ]
    assert refused(api.get(f"{path}/associations"), 422, "invalid_request") == [("target", "missing")]
    stores.files.dataset(dataset["id"]).write_bytes(b"PAR1")
    refused(api.get(f"{path}/associations", params={"target": "y"}), 500, "corrupt_record")
    assert api.delete(path).status_code == 204
    refused(api.get(f"{path}/associations", params={"target": "y"}), 404, "dataset_not_found")


def files_in(stores: Stores) -> list[str]:
    return [path.name for path in stores.files.root.rglob("*") if path.is_file()]


def test_a_parquet_file_is_taken_with_its_types(api: TestClient) -> None:
    frame = pl.DataFrame(
        {"n": [1, 2], "flag": [True, None], "day": [date(2020, 1, 2), None], "text": ["x", "y"], "f": [0.5, 1e300]}
    )
    file = io.BytesIO()
    frame.write_parquet(file)
    answer = upload(api, file.getvalue(), "application/vnd.apache.parquet", name="p")
    assert answer.status_code == 201, answer.text
    kinds = ["numeric", "boolean", "datetime", "categorical", "numeric"]
    assert [column["kind"] for column in answer.json()["columns"]] == kinds
    day = answer.json()["columns"][2]
    assert (day["earliest"], day["quantiles"]["50"]) == ("2020-01-02", "2020-01-02")
    rows = api.get(f"/v1/datasets/{answer.json()['id']}/rows").json()["rows"]
    assert rows[0] == {"n": 1, "flag": True, "day": "2020-01-02", "text": "x", "f": 0.5}
    assert rows[1] == {"n": 2, "flag": None, "day": None, "text": "y", "f": 1e300}


@pytest.mark.usefixtures("quick_parser")
def test_the_options_of_a_csv_file_are_heeded(api: TestClient) -> None:
    answer = upload(api, b"1;?\n-9;x\n;y\n", header="false", delimiter=";", null=["-9", ""])
    assert answer.status_code == 201, answer.text
    rows = api.get(f"/v1/datasets/{answer.json()['id']}/rows").json()["rows"]
    assert rows == [{"c0": 1, "c1": "?"}, {"c0": None, "c1": "x"}, {"c0": None, "c1": "y"}]
    tabs = upload(api, b"a\tb\n1\t2\n", "TEXT/CSV; charset=utf-8", delimiter="\t", decimal=".")
    assert [column["name"] for column in tabs.json()["columns"]] == ["a", "b"]
    assert tabs.json()["name"] == "dataset"


@pytest.mark.parametrize(
    ("options", "place", "code"),
    [
        ({"delimiter": '"'}, "delimiter", "wrong_form"),
        ({"delimiter": "é"}, "delimiter", "wrong_form"),
        ({"delimiter": "\n"}, "delimiter", "wrong_form"),
        ({"delimiter": ""}, "delimiter", "wrong_form"),
        ({"delimiter": ";;"}, "delimiter", "wrong_form"),
        ({"header": MARK}, "header", "wrong_type"),
        ({"decimal": ";"}, "decimal", "unknown_choice"),
        ({"name": ""}, "name", "out_of_range"),
        ({"name": "x" * 201}, "name", "out_of_range"),
        ({"name": f"{MARK}\n"}, "name", "invalid_name"),
        ({"name": f"{MARK}\u202e"}, "name", "invalid_name"),
        ({"name": "\0"}, "name", "invalid_name"),
    ],
)
def test_an_option_that_is_none_is_refused_before_the_file_is_read(
    api: TestClient, stores: Stores, options: dict[str, Any], place: str, code: str
) -> None:
    assert refused(upload(api, **options), 422, "invalid_request") == [(place, code)]
    assert files_in(stores) == []


@pytest.mark.usefixtures("quick_parser")
def test_the_same_name_again_is_its_next_version(api: TestClient) -> None:
    assert [upload(api, name=name).json()["version"] for name in ("a", "a", "b")] == [1, 2, 1]


@pytest.mark.usefixtures("quick_parser")
def test_an_upload_with_the_same_key_is_made_once(api: TestClient, stores: Stores) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = upload(api, headers=key), upload(api, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    for other in (
        upload(api, CSV + b"1,red,setosa\n", headers=key),
        upload(api, headers=key, name="other"),
        upload(api, headers=key, null=["x"]),
    ):
        refused(other, 422, "idempotency_key_reused")
    assert files_in(stores) == [f"{first.json()['id']}.parquet"]


@pytest.mark.usefixtures("quick_parser")
def test_nothing_is_left_of_an_upload_that_was_refused(api: TestClient, stores: Stores) -> None:
    assert refused(upload(api, b"a,b\n1\n"), 422, "invalid_data") == [("row 1", "ragged_row")]
    refused(upload(api, b""), 422, "empty_body")
    refused(upload(api, b"PAR1", "application/vnd.apache.parquet"), 422, "invalid_data")
    assert files_in(stores) == []
    assert api.get("/v1/datasets").json()["data"] == []


def test_a_full_disk_is_told_and_leaves_nothing(
    api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StorageFull("The disk of the data sets has no room left.", hint="Free some space.")

    monkeypatch.setattr(uploads, "parse_in_child", fails)
    refused(upload(api), 507, "storage_full")
    assert files_in(stores) == []


def test_too_many_columns_or_cells_are_refused(small: TestClient, stores: Stores) -> None:
    assert refused(upload(small, b"a,b,c,d\n1,2,3,4\n"), 422, "invalid_data") == [("header", "too_many_columns")]
    refused(upload(small, b"a,b,c\n" + b"1,2,3\n" * 4), 413, "too_large")
    assert files_in(stores) == []


@pytest.mark.usefixtures("quick_parser")
def test_rows_that_are_gone_or_damaged_are_told_of(api: TestClient, stores: Stores) -> None:
    dataset = upload(api).json()
    path = stores.files.dataset(dataset["id"])
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], whole[len(whole) // 2 :], whole[:4] + bytes(100) + whole[104:], b"PAR1" * 9):
        path.write_bytes(damaged)
        refused(api.get(f"/v1/datasets/{dataset['id']}/rows"), 500, "corrupt_record")
    path.unlink()
    refused(api.get(f"/v1/datasets/{dataset['id']}/rows"), 404, "dataset_not_found")
    assert api.get(f"/v1/datasets/{dataset['id']}").json() == dataset


@pytest.mark.usefixtures("quick_parser")
def test_a_data_set_in_use_is_deleted_only_after_its_job_has_ended(api: TestClient, stores: Stores) -> None:
    dataset = upload(api).json()
    job = api.post("/v1/jobs", json={"dataset_id": dataset["id"], "target": "species"}).json()
    path = f"/v1/datasets/{dataset['id']}"
    refused(api.delete(path), 409, "dataset_in_use")
    assert stores.files.dataset(dataset["id"]).exists()
    assert api.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert api.delete(path).status_code == 204
    assert api.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


# Jobs


def request_of(dataset: Dataset, **changes: object) -> dict[str, object]:
    return {"dataset_id": dataset.id, "target": "species", **changes}


def test_a_minimal_request_becomes_a_queued_job_shown_in_full(api: TestClient, stores: Stores) -> None:
    dataset = create(stores)
    answer = api.post("/v1/jobs", json=request_of(dataset))
    job = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert is_id(job["id"], "job")
    assert api.get(f"/v1/jobs/{job['id']}").json() == job
    seed = job["request"]["training"].pop("seed")
    assert isinstance(seed, int)
    decided = {
        "dataset_id": dataset.id,
        "name": None,
        "model_name": "iris",
        "task": "classification",
        "features": ["length", "colour"],
        "training": {"epochs": 100, "batch_size": 32, "shuffle": True, "reproducible": False},
    }
    assert job.pop("request") == {**FULL_FORM, **decided}
    created_at = job.pop("created_at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", created_at)
    assert job == {
        "id": job["id"],
        "name": None,
        "state": "queued",
        "revision": 1,
        "attempt": 0,
        "started_at": None,
        "finished_at": None,
        "queue_position": 0,
        "waiting_for": None,
        "task": "classification",
        "progress": None,
        "metrics": None,
        "stop_reason": None,
        "model_id": None,
        "kind": "training",
        "result_dataset_id": None,
        "error": None,
        "labels": {},
        "warnings": [],
    }


def test_the_full_form_with_its_defaults_is_taken_and_shown_as_it_was_sent(api: TestClient, stores: Stores) -> None:
    dataset = create(stores)
    form = {**FULL_FORM, "dataset_id": dataset.id, "labels": {"team": "vision"}, "priority": 3}
    answer = api.post("/v1/jobs", json=form)
    assert answer.status_code == 201, answer.text
    shown = answer.json()["request"]
    for decided in ("task", "features", "training"):
        shown.pop(decided)
        form.pop(decided)
    assert shown == form
    assert answer.json()["labels"] == {"team": "vision"}
    assert answer.json()["name"] == FULL_FORM["name"]


def test_a_seed_is_drawn_anew_for_each_job_and_shown(api: TestClient, stores: Stores) -> None:
    dataset = create(stores)
    seeds = [api.post("/v1/jobs", json=request_of(dataset)).json()["request"]["training"]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3


def test_a_dry_run_tells_what_would_come_and_stores_nothing(api: TestClient, stores: Stores) -> None:
    dataset = create(stores)
    answer = api.post("/v1/jobs", params={"dry_run": "true"}, json=request_of(dataset))
    assert answer.status_code == 200
    memory = answer.json().pop("memory_bytes")
    assert memory > 4 * 8898
    assert answer.json() == {
        "valid": True,
        "errors": [],
        "task": "classification",
        "parameters": 3 * 128 + 128 + 128 * 64 + 64 + 64 * 2 + 2,
        "memory_bytes": memory,
        "rows": 100,
        "features": 3,
        "classes": 2,
        "warnings": [],
    }
    wrong = api.post(
        "/v1/jobs", params={"dry_run": "true"}, json=request_of(dataset, loss="mse", training={"epochs": 0})
    )
    assert wrong.status_code == 200
    assert wrong.json()["valid"] is False
    assert [(fault["pointer"], fault["code"]) for fault in wrong.json()["errors"]] == [
        ("/training/epochs", "out_of_range"),
        ("/loss", "unsuitable_loss"),
    ]
    assert api.get("/v1/jobs").json()["data"] == []


def test_all_faults_of_a_request_come_at_once_each_with_its_pointer(api: TestClient, stores: Stores) -> None:
    body = request_of(
        create(stores),
        name=f"{MARK}\n",
        task=MARK,
        loss="huber",
        optimizer={"kind": "adam", "learning_rate": MARK, "momentum": 0.9},
        network={"layers": [{"kind": "dense", "units": 0, "activation": MARK}, {"kind": MARK}]},
        features=["length", MARK],
        cluster={"servers": 0},
        query=1,
    )
    answer = api.post("/v1/jobs", json=body)
    assert sorted(refused(answer, 422, "invalid_request")) == [
        ("/cluster/servers", "out_of_range"),
        ("/features/1", "unknown_column"),
        ("/loss", "unsuitable_loss"),
        ("/name", "invalid_name"),
        ("/network/layers/0/activation", "unknown_choice"),
        ("/network/layers/0/units", "out_of_range"),
        ("/network/layers/1", "unknown_choice"),
        ("/optimizer/learning_rate", "wrong_type"),
        ("/optimizer/momentum", "unknown_field"),
        ("/query", "unknown_field"),
        ("/task", "unknown_choice"),
    ]
    assert answer.json()["detail"] == "The request has 11 faults."
    messages = {fault["pointer"]: fault["message"] for fault in answer.json()["errors"]}
    assert "relu, leaky_relu, elu" in messages["/network/layers/0/activation"]
    assert "'classification' or 'regression'" in messages["/task"]
    assert api.get("/v1/jobs").json()["data"] == []


def test_a_request_for_data_that_is_not_there_is_not_found(api: TestClient) -> None:
    for dataset_id in (UNKNOWN["ds"], UNKNOWN["job"], "../x", "*", ""):
        refused(api.post("/v1/jobs", json={"dataset_id": dataset_id, "target": "x"}), 404, "dataset_not_found")


def test_a_network_larger_than_allowed_is_refused(small: TestClient, stores: Stores) -> None:
    answer = small.post("/v1/jobs", json=request_of(create(stores)))
    assert refused(answer, 422, "invalid_request") == [("/network/layers", "too_many_parameters")]
    assert "8898 parameters; 200 are allowed" in answer.text


def test_a_full_queue_is_told(small: TestClient, stores: Stores) -> None:
    body = request_of(create(stores), network={"layers": [{"kind": "dense", "units": 2}]})
    assert [small.post("/v1/jobs", json=body).status_code for _ in range(2)] == [201, 201]
    refused(small.post("/v1/jobs", json=body), 409, "queue_full")


def test_a_job_is_told_from_start_to_end(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    path = f"/v1/jobs/{claim.job_id}"
    assert api.get(path).json()["progress"] is None
    stores.jobs.record(claim, kind="progress", event={"epoch": 1}, epoch=an_epoch(1), progress=a_progress(1))
    job = api.get(path).json()
    assert (job["state"], job["attempt"], job["queue_position"]) == ("running", 1, None)
    assert job["progress"] == a_progress(1).model_dump()
    assert api.get(f"{path}/metrics").json() == {"data": [an_epoch(1).model_dump()]}
    model = a_model(claim.job_id)
    stores.models.save(model)
    stores.jobs.succeed(claim, "target_reached", {"accuracy": 0.9}, (model.record.id, "iris"))
    job = api.get(path).json()
    assert (job["state"], job["stop_reason"], job["model_id"]) == ("succeeded", "target_reached", model.record.id)
    assert job["metrics"] == {"accuracy": 0.9}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    events = api.get(f"{path}/events").json()["data"]
    assert [event["data"].get("state", event["kind"]) for event in events] == [
        "queued",
        "starting",
        "running",
        "progress",
        "succeeded",
    ]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert all(event["at"].endswith("Z") for event in events)


def test_a_failed_job_says_why(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.fail(claim, JobError(code="diverged", message="It grew.", hint="Lower the learning rate."))
    job = api.get(f"/v1/jobs/{claim.job_id}").json()
    assert job["error"] == {"code": "diverged", "message": "It grew.", "hint": "Lower the learning rate."}
    assert (job["state"], job["stop_reason"], job["model_id"]) == ("failed", None, None)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(api: TestClient, stores: Stores) -> None:
    job_id = submit(stores)
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    refused(api.post(f"/v1/jobs/{job_id}/cancel"), 409, "job_ended")
    claim = running(stores)
    answer = api.post(f"/v1/jobs/{claim.job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert stores.jobs.asked(claim) == "cancel"


def test_only_an_ended_job_is_deleted_and_only_once(api: TestClient, stores: Stores) -> None:
    claim = claimed(stores)
    path = f"/v1/jobs/{claim.job_id}"
    refused(api.delete(path), 409, "job_not_ended")
    stores.jobs.end_cancelled(claim)
    deleted = api.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for gone in (api.delete(path), api.get(path), api.get(f"{path}/events"), api.post(f"{path}/cancel")):
        refused(gone, 404, "job_not_found")


def test_jobs_are_listed_newest_first_by_state_by_label_and_in_pages(api: TestClient, stores: Stores) -> None:
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id, labels={"team": "vision"} if place % 2 else {}) for place in range(5)]
    stores.jobs.cancel(ids[1])
    assert listed(api) == ids[::-1]
    assert listed(api, state="queued") == [ids[place] for place in (4, 3, 2, 0)]
    assert listed(api, label="team:vision") == [ids[3], ids[1]]
    assert listed(api, label="team:vision", state="cancelled") == [ids[1]]
    assert listed(api, label="team:none") == []
    assert listed(api, label="a:b:c") == []
    first = api.get("/v1/jobs", params={"limit": 2}).json()
    second = api.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = api.get("/v1/jobs", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert [job["id"] for page in (first, second, third) for job in page["data"]] == ids[::-1]
    assert third["next_cursor"] is None


def listed(api: TestClient, **filters: str) -> list[str]:
    return [job["id"] for job in api.get("/v1/jobs", params=filters).json()["data"]]


def test_a_damaged_job_is_told_of_and_hides_no_other(api: TestClient, stores: Stores) -> None:
    first, broken, last = (submit(stores) for _ in range(3))
    stores.client.hset(keys.job(broken), "request", "{")
    for answer in (api.get(f"/v1/jobs/{broken}"), api.post(f"/v1/jobs/{broken}/cancel")):
        refused(answer, 500, "corrupt_record")
    assert listed(api) == [last, first]
    assert api.post(f"/v1/jobs/{last}/cancel").status_code == 202


def test_the_same_key_and_body_give_the_same_job_whatever_the_order_of_fields(api: TestClient, stores: Stores) -> None:
    body = request_of(create(stores))
    headers = {"Idempotency-Key": "k"}
    first = api.post("/v1/jobs", json=body, headers=headers)
    again = api.post("/v1/jobs", json=dict(reversed(body.items())), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    refused(api.post("/v1/jobs", json={**body, "priority": 1}, headers=headers), 422, "idempotency_key_reused")
    assert listed(api) == [first.json()["id"]]
    assert api.post("/v1/jobs", json=body).json()["id"] != first.json()["id"]


def test_the_same_key_many_times_at_once_makes_one_job(api: TestClient, stores: Stores) -> None:
    body = request_of(create(stores))
    answers: list[Any] = []
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait()
        answers.append(api.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["id"] for answer in answers} == set(listed(api))
    assert len(listed(api)) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 7


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 1_000_000, "ü", "a\tb", "\x7f"])
def test_a_malformed_idempotency_key_is_refused(api: TestClient, stores: Stores, key: str) -> None:
    named = {b"Idempotency-Key": key.encode("latin-1")}
    uploaded = api.post("/v1/datasets", content=CSV, headers={**named, b"Content-Type": b"text/csv"})
    submitted = api.post("/v1/jobs", json=request_of(create(stores)), headers=named)
    for answer in (uploaded, submitted):
        if len(key) > 32_768:
            refused(answer, 431, "headers_too_large")
        else:
            refused(answer, 400, "malformed_idempotency_key")
    assert listed(api) == []


# Models and predictions

GOOD = {"length": 5.5, "colour": "red"}


def predict(api: TestClient, reference: str, instances: object) -> Any:
    return api.post(f"/v1/models/{reference}/predict", json={"instances": instances})


def test_a_model_is_shown_listed_and_deleted(api: TestClient, stores: Stores) -> None:
    first, second = publish(stores), publish(stores, "wine", number=True)
    shown = api.get(f"/v1/models/{first.id}").json()
    assert is_id(shown["id"], "mdl")
    assert (shown["name"], shown["version"], shown["job_id"]) == ("iris", 1, first.job_id)
    assert shown["inputs"] == [
        {"name": "length", "kind": "numeric", "categories": None},
        {"name": "colour", "kind": "categorical", "categories": ["blue", "red"]},
    ]
    assert shown["output"] == {"name": "species", "kind": "label", "classes": ["setosa", "virginica"]}
    assert shown["aliases"] == []
    assert re.fullmatch(r"\d{4}-.*Z", shown["created_at"])
    assert api.get("/v1/models/wine").json()["output"]["kind"] == "value"
    assert [model["id"] for model in api.get("/v1/models").json()["data"]] == [second.id, first.id]
    assert [model["id"] for model in api.get("/v1/models", params={"name": "iris"}).json()["data"]] == [first.id]
    assert predict(api, first.id, [GOOD]).status_code == 200
    assert api.delete(f"/v1/models/{first.id}").status_code == 204
    for gone in (
        api.get(f"/v1/models/{first.id}"),
        api.get("/v1/models/iris"),
        api.delete(f"/v1/models/{first.id}"),
        predict(api, first.id, [GOOD]),
        predict(api, "iris@1", [GOOD]),
    ):
        refused(gone, 404, "model_not_found")


def test_a_class_is_predicted_with_the_probability_of_each(api: TestClient, stores: Stores) -> None:
    model = publish(stores)
    answer = predict(api, model.id, [GOOD, {"length": -3, "colour": "blue"}])
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_id"] == model.id
    for prediction in answer.json()["predictions"]:
        assert set(prediction) == {"label", "probabilities"}
        assert set(prediction["probabilities"]) == {"setosa", "virginica"}
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        best = max(prediction["probabilities"], key=prediction["probabilities"].__getitem__)
        assert prediction["label"] == best
    one, other = answer.json()["predictions"]
    assert one != other


def test_a_number_is_predicted_in_the_units_of_the_target(api: TestClient, stores: Stores) -> None:
    answer = predict(api, publish(stores, number=True).id, [GOOD])
    (prediction,) = answer.json()["predictions"]
    assert set(prediction) == {"value"}
    assert isinstance(prediction["value"], float)


def test_columns_are_told_by_name_in_any_order_or_by_their_place_in_an_array(api: TestClient, stores: Stores) -> None:
    model_id = publish(stores).id
    instances = [GOOD, dict(reversed(GOOD.items())), [5.5, "red"]]
    one, other, array = predict(api, model_id, instances).json()["predictions"]
    assert one == other == array


def test_a_model_is_predicted_with_by_id_name_or_version(api: TestClient, stores: Stores) -> None:
    first, second = publish(stores, seed=1), publish(stores, seed=2)
    by_reference = {
        reference: predict(api, reference, [GOOD]).json() for reference in (first.id, "iris@1", second.id, "iris")
    }
    assert by_reference["iris@1"] == by_reference[first.id]
    assert by_reference["iris"] == by_reference[second.id]
    assert by_reference["iris"]["model_id"] == second.id
    assert by_reference[first.id]["predictions"] != by_reference[second.id]["predictions"]


def test_a_category_never_seen_is_the_same_unknown_every_time_and_null_is_missing(
    api: TestClient, stores: Stores
) -> None:
    model_id = publish(stores).id
    instances: list[object] = [{"length": 1, "colour": colour} for colour in ("green", "Red", "", "🙂")]
    instances += [{"length": None, "colour": "red"}, {"length": 5.0, "colour": "red"}]
    predictions = predict(api, model_id, instances).json()["predictions"]
    assert predictions[0] == predictions[1] == predictions[2] == predictions[3]
    assert predictions[4] == predictions[5]


@pytest.mark.parametrize(
    ("instance", "faults"),
    [
        ({"length": 1}, [("/colour", "missing_column")]),
        ({**GOOD, "extra": 1}, [("/extra", "unknown_column")]),
        ({"Length": 1, "colour": "red"}, [("/length", "missing_column"), ("/Length", "unknown_column")]),
        ({"length": MARK, "colour": "red"}, [("/length", "wrong_type")]),
        ({"length": "1.5", "colour": "red"}, [("/length", "wrong_type")]),
        ({"length": True, "colour": "red"}, [("/length", "wrong_type")]),
        ({"length": [MARK], "colour": "red"}, [("/length", "wrong_type")]),
        ({"length": 1, "colour": 7}, [("/colour", "wrong_type")]),
        ({"length": 1, "colour": {MARK: 1}}, [("/colour", "wrong_type")]),
        ({"length": 10**400, "colour": "red"}, [("/length", "number_too_large")]),
        ([1], [("", "wrong_length")]),
        ([1, "red", 2], [("", "wrong_length")]),
        ([], [("", "wrong_length")]),
        (["red", 1], [("/length", "wrong_type"), ("/colour", "wrong_type")]),
        (MARK, [("", "wrong_type")]),
        (1, [("", "wrong_type")]),
        (None, [("", "wrong_type")]),
    ],
)
def test_an_instance_that_does_not_fit_is_refused_at_its_place(
    api: TestClient, stores: Stores, instance: object, faults: list[tuple[str, str]]
) -> None:
    found = refused(predict(api, publish(stores).id, [GOOD, instance]), 422, "invalid_request")
    assert found[: len(faults)] == [(f"/instances/1{place}", code) for place, code in faults]
    assert all(pointer.startswith("/instances/1") for pointer, _ in found)


def test_a_number_beyond_all_bounds_is_refused_at_its_place(api: TestClient, stores: Stores) -> None:
    path = f"/v1/models/{publish(stores).id}/predict"
    headers = {"Content-Type": "application/json"}
    answer = api.post(path, content=b'{"instances":[{"length":1e400,"colour":"red"}]}', headers=headers)
    assert refused(answer, 422, "invalid_request") == [("/instances/0/length", "non_finite_number")]
    answer = api.post(path, content=b'{"instances":[{"length":1e308,"colour":"red"}]}', headers=headers)
    found = refused(answer, 422, "invalid_request")
    assert found
    assert found[0][0].startswith("/instances/0")


def test_none_or_too_many_instances_are_refused(small: TestClient, stores: Stores) -> None:
    model_id = publish(stores).id
    assert refused(predict(small, model_id, []), 422, "invalid_request") == [("/instances", "out_of_range")]
    assert predict(small, model_id, [GOOD] * 3).status_code == 200
    refused(predict(small, model_id, [GOOD] * 4), 413, "too_large")
    refused(predict(small, model_id, [GOOD] * 100), 413, "too_large")
    assert refused(predict(small, model_id, GOOD), 422, "invalid_request") == [("/instances", "wrong_type")]
    refused(small.post(f"/v1/models/{model_id}/predict", json={}), 422, "invalid_request")
    refused(small.post(f"/v1/models/{model_id}/predict", json=[GOOD]), 422, "invalid_request")


def test_very_many_wrong_instances_make_a_short_answer(api: TestClient, stores: Stores) -> None:
    answer = predict(api, publish(stores).id, [5] * 100_000)
    assert len(refused(answer, 422, "invalid_request")) == 100
    assert len(answer.content) < 50_000


@pytest.mark.parametrize(
    "reference", [UNKNOWN["mdl"], "nothing", "iris@9", "IRIS", "iris@", "%2e%2e", "a%2fb", "*", "mdl_x", "x" * 300]
)
def test_a_model_that_is_not_there_is_not_found(api: TestClient, stores: Stores, reference: str) -> None:
    publish(stores)
    path = f"/v1/models/{reference}"
    answers = [api.get(path), api.delete(path)]
    if "%2" not in reference:
        answers.append(predict(api, reference, [GOOD]))
    for answer in answers:
        assert refused(answer, 404, answer.json()["code"]) == []
        assert answer.json()["code"] in ("model_not_found", "not_found")


def test_a_model_that_is_not_published_yet_is_not_found(api: TestClient, stores: Stores) -> None:
    model = a_model(running(stores).job_id)
    stores.models.save(model)
    refused(api.get(f"/v1/models/{model.record.id}"), 404, "model_not_found")
    refused(predict(api, model.record.id, [GOOD]), 404, "model_not_found")
    assert api.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize("part", ["chunk:0", "sha256", "record"])
def test_a_damaged_model_is_told_of_and_no_other_is_touched(api: TestClient, stores: Stores, part: str) -> None:
    broken, whole = publish(stores), publish(stores, "wine")
    stored = stores.client.hget(keys.model(broken.id), part)
    assert isinstance(stored, bytes)
    stores.client.hset(keys.model(broken.id), part, stored[:5] + bytes([stored[5] ^ 1]) + stored[6:])
    for _ in range(2):
        refused(predict(api, broken.id, [GOOD]), 500, "model_corrupt")
        assert predict(api, whole.id, [GOOD]).status_code == 200


# Errors


def test_every_answer_has_a_number_of_its_own(api: TestClient, stores: Stores) -> None:
    job_id = submit(stores)
    answers = [
        api.get("/healthz"),
        api.get("/readyz"),
        api.get("/"),
        api.get("/docs"),
        api.get("/openapi.json"),
        api.get("/v1/jobs"),
        api.get(f"/v1/jobs/{job_id}"),
        api.get("/nowhere"),
        api.put("/v1/jobs"),
        api.delete(f"/v1/jobs/{job_id}"),
        api.get("/v1/jobs", params={"limit": 0}),
        api.post("/v1/jobs", content=b"x"),
        api.get("/v1/jobs", headers={"Host": "evil.example"}),
    ]
    numbers = [answer.headers["X-Request-Id"] for answer in answers]
    assert len(set(numbers)) == len(answers)
    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}


def test_a_number_that_a_caller_sends_is_not_taken_for_ours(api: TestClient) -> None:
    assert MARK not in str(api.get("/healthz", headers={"X-Request-Id": MARK}).headers)


def test_what_nobody_foresaw_is_a_problem_with_its_number_and_tells_nothing(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError(MARK)

    monkeypatch.setattr(JobStore, "page", breaks)
    answer = api.get("/v1/jobs")
    assert refused(answer, 500, "internal") == []
    assert answer.headers["X-Request-Id"] in caplog.text
    assert MARK in caplog.text


@pytest.mark.parametrize("kind", ["ds", "job", "mdl"])
@pytest.mark.parametrize("suffix", ["", "/rows", "/events", "/metrics", "/cancel", "/predict"])
def test_an_unknown_id_is_not_found_everywhere(api: TestClient, kind: str, suffix: str) -> None:
    collection = {"ds": "datasets", "job": "jobs", "mdl": "models"}[kind]
    taken = {"ds": {"", "/rows"}, "job": {"", "/events", "/metrics", "/cancel"}, "mdl": {"", "/predict"}}[kind]
    code = {"ds": "dataset_not_found", "job": "job_not_found", "mdl": "model_not_found"}[kind]
    path = f"/v1/{collection}/{UNKNOWN[kind]}{suffix}"
    call: Callable[[], Any] = {
        "/cancel": lambda: api.post(path),
        "/predict": lambda: api.post(path, json={"instances": [1]}),
    }.get(suffix, lambda: api.get(path))
    refused(call(), 404, code if suffix in taken else "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, POST"),
        ("PATCH", f"/v1/jobs/{UNKNOWN['job']}", "DELETE, GET"),
        ("GET", f"/v1/jobs/{UNKNOWN['job']}/cancel", "POST"),
        ("POST", f"/v1/jobs/{UNKNOWN['job']}/events", "GET"),
        ("DELETE", "/v1/datasets", "GET, POST"),
        ("POST", f"/v1/datasets/{UNKNOWN['ds']}", "DELETE, GET"),
        ("GET", "/v1/models/iris/predict", "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/healthz", "GET"),
        ("OPTIONS", "/v1/jobs", "GET, POST"),
        ("TRACE", "/v1/jobs", "GET, POST"),
        (MARK, "/v1/jobs", "GET, POST"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_refused_with_all_that_it_takes(
    api: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = api.request(method, path)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/jobs", "/v1/models"])
@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": 10**9}, "limit"),
        ({"limit": MARK}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"cursor": MARK}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": MARK * 100}, "cursor"),
        ({"cursor": "é\n\0"}, "cursor"),
    ],
)
def test_a_page_that_cannot_be_is_refused(api: TestClient, path: str, query: dict[str, Any], place: str) -> None:
    found = refused(api.get(path, params=query), 422, "invalid_request")
    assert [pointer for pointer, _ in found] == [place]


@pytest.mark.parametrize(
    ("query", "place", "code"),
    [
        ({"state": MARK}, "state", "unknown_choice"),
        ({"label": MARK}, "label", "wrong_form"),
        ({"label": "a:" + "x" * 300}, "label", "out_of_range"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(api: TestClient, query: dict[str, str], place: str, code: str) -> None:
    assert refused(api.get("/v1/jobs", params=query), 422, "invalid_request") == [(place, code)]


# Sizes


def chunks(size: int, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * size


def test_a_body_that_says_it_is_too_long_is_refused_and_the_connection_closed(
    small: TestClient, stores: Stores
) -> None:
    headers = {"Content-Type": "text/csv"}
    for answer in (
        small.post("/v1/datasets", content=b"a\n" + b"1\n" * 1000, headers=headers),
        small.post("/v1/datasets/", content=b"a\n" + b"1\n" * 1000, headers=headers),
        small.post("/v1/datasets", content=b"a\n1\n", headers={**headers, "Content-Length": "9" * 400}),
        small.post("/v1/jobs", content=b" " * 1025, headers={"Content-Type": "application/json"}),
        small.post("/v1/models/iris/predict", content=b" " * 2049, headers={"Content-Type": "application/json"}),
        small.post("/nowhere", content=b" " * 1025),
    ):
        refused(answer, 413, "too_large")
        assert answer.headers["Connection"] == "close"
    assert files_in(stores) == []


def test_a_body_that_turns_out_too_long_is_refused_and_leaves_nothing(small: TestClient, stores: Stores) -> None:
    for path, kind in (("/v1/datasets", "text/csv"), ("/v1/jobs", "application/json")):
        answer = small.post(path, content=chunks(500, 5), headers={"Content-Type": kind})
        assert "Content-Length" not in answer.request.headers
        refused(answer, 413, "too_large")
        assert answer.headers["Connection"] == "close"
    assert files_in(stores) == []


def test_a_body_of_just_the_allowed_size_is_read(small: TestClient) -> None:
    body = b" " * 1022 + b"{}"
    refused(small.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 422, "invalid_request")


def test_headers_of_64_kb_are_refused(api: TestClient) -> None:
    refused(api.get("/healthz", headers={"X-Much": "a" * 65_536}), 431, "headers_too_large")
    refused(api.get("/healthz", headers={f"X-{place}": "a" * 10 for place in range(5000)}), 431, "headers_too_large")


# Keys


def test_without_keys_everyone_may_call(api: TestClient) -> None:
    assert api.get("/v1/jobs").status_code == 200
    assert api.get("/v1/jobs", headers={"Authorization": "Bearer whatever"}).status_code == 200


def test_with_keys_every_call_needs_one_but_for_health_and_documentation(api: TestClient, stores: Stores) -> None:
    key = stores.access.create("ci")
    schema = api.get("/openapi.json").json()
    called = 0
    for path, methods in schema["paths"].items():
        for method in methods:
            answer = api.request(method, re.sub(r"\{\w+\}", "x", path), content=b"{" * 200)
            if path in ("/healthz", "/readyz", "/ping") or path.startswith("/v2/health/"):
                assert answer.status_code == 200
                continue
            refused(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            called += 1
    assert called >= 14
    assert api.get("/docs").status_code == 200
    for header in (f"Bearer {key}x", "Bearer ", key, f"Basic {key}"):
        refused(api.get("/v1/jobs", headers={"Authorization": header}), 401, "unauthorized")
    assert api.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert api.get("/v1/cluster", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_body_is_not_read_from_whoever_has_no_key(api: TestClient, stores: Stores) -> None:
    stores.access.create("ci")
    json_kind = {"Content-Type": "application/json"}
    refused(api.post("/v1/jobs", content=b'{"a":1,"a":1}', headers=json_kind), 401, "unauthorized")
    refused(api.post("/v1/models/iris/predict", content=b"[" * 500, headers=json_kind), 401, "unauthorized")
    refused(upload(api), 401, "unauthorized")
    assert files_in(stores) == []


def test_the_first_key_closes_the_door_within_seconds(api: TestClient, stores: Stores) -> None:
    now = [0.0]
    services = app_of(api).state.services
    app_of(api).state.services = replace(services, keys=KeyRing(stores.access, lambda: now[0]))
    assert api.get("/v1/jobs").status_code == 200
    key = stores.access.create("ci")
    now[0] += 5.1
    refused(api.get("/v1/jobs"), 401, "unauthorized")
    assert api.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "127.0.0.9", "[::1]:80", "[::1]"]
)
def test_on_loopback_this_machine_s_own_names_are_answered(api: TestClient, host: str) -> None:
    assert api.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "localhost:x",
        "[::2]",
        "::1",
        "localhost@evil.example",
        "evil.example:localhost",
        "127.0.0.1:80:80",
        "localhost, evil.example",
    ],
)
def test_on_loopback_any_other_name_is_refused(api: TestClient, host: str) -> None:
    for path in ("/v1/jobs", "/healthz", "/docs", "/nowhere"):
        refused(api.get(path, headers={"Host": host}), 400, "host_not_allowed")


def test_beyond_loopback_any_name_is_answered(settings: Settings, stores: Stores) -> None:
    app = create_app(settings.model_copy(update={"host": "10.0.0.1"}), stores)
    with TestClient(app, base_url="http://chainrule.example") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", headers={"Host": "[2001:db8::1]:8000"}).status_code == 200
        for host in ("", "a b", "evil.example/path", "a:b:c", "user@host"):
            refused(client.get("/healthz", headers={"Host": host}), 400, "host_not_allowed")


# Health, documentation


def test_health_counts_the_supervisors_that_live(api: TestClient, stores: Stores) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"redis": True, "supervisors": 0}
    node = Node(id="n", address="10.0.0.1", cpus=4, memory_bytes=1, alive=True)
    for name in ("sup_a", "sup_b"):
        stores.supervisors.report(SupervisorReport(id=name, host="h", pid=1, ready=True, nodes=(node,)))
    running(stores)
    submit(stores)
    assert api.get("/readyz").json() == {"redis": True, "supervisors": 2}
    cluster = api.get("/v1/cluster").json()
    assert (cluster["cpus"], len(cluster["nodes"]), len(cluster["supervisors"])) == (4, 1, 2)
    assert (cluster["running_jobs"], cluster["queued_jobs"]) == (1, 1)
    stores.supervisors.leave("sup_a")
    assert api.get("/readyz").json()["supervisors"] == 1


def test_the_description_has_examples_and_documents_every_problem(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    text = json.dumps(schema)
    assert "HTTPValidationError" not in text
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', text):
        node = schema
        for step in reference.split("/"):
            node = node[step]
    operations = {
        (method, path): operation for path, methods in schema["paths"].items() for method, operation in methods.items()
    }
    for (_, path), operation in operations.items():
        for status, response in operation["responses"].items():
            if status == "default" or int(status) >= 400:
                assert response["content"] == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                }
        assert path == "/healthz" or {"503", "default"} <= set(operation["responses"])
        assert ("401" in operation["responses"]) == ("security" in operation), path
    assert len({operation["summary"] for operation in operations.values()}) == len(operations)
    submit_body = operations["post", "/v1/jobs"]["requestBody"]["content"]["application/json"]
    assert {"short", "full"} <= set(submit_body["examples"])
    assert {"400", "404", "409", "413", "415", "422", "507"} <= set(operations["post", "/v1/jobs"]["responses"])
    assert set(operations["post", "/v1/datasets"]["requestBody"]["content"]) == {
        "text/csv",
        "text/tab-separated-values",
        "application/vnd.apache.parquet",
        "application/x-ndjson",
        "application/json",
    }
    assert "example" in operations["post", "/v1/datasets"]["requestBody"]["content"]["text/csv"]
    assert schema["components"]["schemas"]["PredictionRequest"]["examples"]
    assert set(schema["components"]["schemas"]["Problem"]["properties"]) >= {"code", "detail", "errors", "request_id"}


def test_the_examples_of_the_description_are_taken(api: TestClient, stores: Stores) -> None:
    schema = api.get("/openapi.json").json()
    examples = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    price = Column(name="price", kind="numeric", missing=0, distinct=90, min=1.0, max=9.0)
    words = [Column(name=name, kind="categorical", missing=0, distinct=2) for name in ("zip", "digit", "fraud")]
    dataset = create(stores, columns=(*MIXED, price, *words))
    base = {"base_model_id": publish(stores).id}
    for example in examples.values():
        given = example["value"]
        body = {**given, "dataset_id": dataset.id, **(base if "base_model_id" in given else {})}
        answer = api.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text


def test_the_documentation_loads_nothing_from_elsewhere(api: TestClient) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    assets = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/")
        assert api.get(asset).status_code == 200
    assert api.get("/", follow_redirects=False).headers["Location"] == "/docs"
