"""Whole data sets predicted by jobs, through a whole stack."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import Stores, open_stores
from service.client import ApiError
from service.stack import running_redis_url
from tests.conftest import RunningStack
from tests.integration.data import await_job, train
from tests.integration.test_cli import chainrule
from tests.integration.test_evaluation import fruit, prices, upload

pytestmark = pytest.mark.integration

Job = dict[str, Any]
HEAVY = {"layers": [{"kind": "dense", "units": 2048}, {"kind": "dense", "units": 2048}]}
"""A network that takes seconds for some ten thousand rows."""
LONG = 40_000
"""Rows of a data set that a job predicts until something happens to it."""


@pytest.fixture(scope="module")
def fruit_model(stack: RunningStack) -> str:
    request = {"dataset_id": upload(stack, fruit(600, 0).drop("importance")), "target": "kind", "name": "batch fruit"}
    return str(train(stack.client, {**request, "training": {"seed": 1, "epochs": 2}})["model_id"])


@pytest.fixture(scope="module")
def price_model(stack: RunningStack) -> str:
    request = {"dataset_id": upload(stack, prices(600, 0)), "target": "price"}
    loss = {"kind": "quantile", "quantiles": [0.1, 0.5, 0.9]}
    return str(train(stack.client, {**request, "loss": loss, "training": {"seed": 1, "epochs": 2}})["model_id"])


@pytest.fixture(scope="module")
def heavy_model(stack: RunningStack) -> str:
    request = {"dataset_id": upload(stack, prices(100, 0)), "target": "price", "network": HEAVY}
    return str(train(stack.client, {**request, "training": {"seed": 1, "epochs": 1}})["model_id"])


@pytest.fixture(scope="module")
def many_prices(stack: RunningStack) -> str:
    return upload(stack, prices(LONG, 3).select("size"))


def submit(stack: RunningStack, model: str, dataset: str, **more: Any) -> Job:
    return dict(stack.client.call("POST", f"/v1/models/{model}/predictions", json={"dataset_id": dataset, **more}))


def predicted(stack: RunningStack, model: str, dataset: str) -> tuple[Job, pl.DataFrame]:
    """The job, when it has ended well, and all that it made."""
    job = await_job(stack.client, submit(stack, model, dataset)["id"], lambda _: False)
    assert (job["state"], job["stop_reason"]) == ("succeeded", "rows_done"), job
    return job, pl.read_parquet(content(stack, job["result_dataset_id"], "application/vnd.apache.parquet").content)


def content(stack: RunningStack, dataset: str, accept: str) -> httpx2.Response:
    return httpx2.get(f"{stack.url}/v1/datasets/{dataset}/content", headers={"Accept": accept}, timeout=60)


def one_by_one(stack: RunningStack, model: str, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the endpoint for single rows says, some at a time."""
    return [
        prediction
        for start in range(0, len(instances), 500)
        for prediction in stack.client.predict(model, instances[start : start + 500])["predictions"]
    ]


def refused(stack: RunningStack, model: str, **body: Any) -> str:
    with pytest.raises(ApiError) as refusal:
        stack.client.call("POST", f"/v1/models/{model}/predictions", json=body)
    return str(refusal.value)


# What comes out


def test_classes_are_those_of_single_predictions_row_for_row(stack: RunningStack, fruit_model: str) -> None:
    rows = fruit(3000, 1)
    dataset = upload(stack, rows.select("weight", "kind", "color", "is_big"))
    job, answers = predicted(stack, fruit_model, dataset)
    expected = one_by_one(stack, fruit_model, rows.select("color", "is_big", "weight").to_dicts())
    assert answers.columns == ["label", "probability_apple", "probability_fig", "probability_plum"]
    assert answers["label"].to_list() == [one["label"] for one in expected]
    for name in ("apple", "fig", "plum"):
        told = [one["probabilities"][name] for one in expected]
        np.testing.assert_allclose(answers[f"probability_{name}"], told, rtol=1e-4, atol=1e-6)
    result = stack.client.call("GET", f"/v1/datasets/{job['result_dataset_id']}")
    assert (result["name"], result["rows"], result["warnings"]) == ("judged-predictions", 3000, [])
    label, apple = result["columns"][:2]
    counts = {one["value"]: one["count"] for one in label["top"]}
    assert (label["kind"], counts) == ("categorical", dict(answers["label"].value_counts().iter_rows()))
    assert apple["mean"] == pytest.approx(answers["probability_apple"].mean())
    assert apple["max"] == answers["probability_apple"].max()


def test_numbers_and_their_quantiles_are_those_of_single_predictions(stack: RunningStack, price_model: str) -> None:
    rows = prices(1500, 1).select("size")
    job, answers = predicted(stack, price_model, upload(stack, rows))
    expected = one_by_one(stack, price_model, rows.to_dicts())
    assert answers.columns == ["value", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    np.testing.assert_allclose(answers["value"], [one["value"] for one in expected], rtol=1e-4)
    for name in ("0.1", "0.5", "0.9"):
        np.testing.assert_allclose(answers[f"quantile_{name}"], [one["quantiles"][name] for one in expected], rtol=1e-4)
    page = stack.client.call("GET", f"/v1/datasets/{job['result_dataset_id']}/rows", params={"limit": 5})
    assert page["rows"] == answers.head(5).to_dicts()


def test_a_column_without_any_value_is_a_missing_one_in_every_row(stack: RunningStack, fruit_model: str) -> None:
    rows = fruit(50, 2).with_columns(weight=pl.lit(None, pl.String))
    _, answers = predicted(stack, fruit_model, upload(stack, rows))
    instances = [
        {"color": color, "is_big": is_big, "weight": None} for color, is_big in rows.select("color", "is_big").rows()
    ]
    assert answers["label"].to_list() == [one["label"] for one in one_by_one(stack, fruit_model, instances)]


def test_a_result_is_downloaded_whole_in_three_forms(stack: RunningStack, price_model: str) -> None:
    dataset = upload(stack, prices(70_000, 4).select("size"))  # more than are written at a time
    _, stored = predicted(stack, price_model, dataset)
    for accept, kind, read in (
        ("text/csv", "text/csv", pl.read_csv),
        ("application/x-ndjson;q=0.9, text/csv;q=0.1", "application/x-ndjson", pl.read_ndjson),
    ):
        answer = content(stack, _["result_dataset_id"], accept)
        assert answer.headers["content-type"].startswith(kind)
        assert_frame_equal(read(io.BytesIO(answer.content)), stored, check_exact=True)


# On the way


def test_a_job_is_watched_while_it_predicts(stack: RunningStack, heavy_model: str, many_prices: str) -> None:
    job = submit(stack, heavy_model, many_prices, name="many", labels={"team": "sales"})
    assert (job["kind"], job["name"], job["state"], job["task"]) == ("prediction", "many", "queued", "regression")
    assert (job["progress"], job["model_id"], job["result_dataset_id"]) == (None, None, None)
    assert job["request"] == {
        "dataset_id": many_prices,
        "model_id": heavy_model,
        "name": "many",
        "priority": 0,
        "labels": {"team": "sales"},
    }
    seen = [one["progress"] for one in stack.client.follow(job["id"]) if one["state"] == "running"]
    shares = [progress["fraction"] for progress in seen]
    assert len(shares) >= 3
    assert shares == sorted(shares)
    part = next(progress for progress in seen if 0 < progress["fraction"] < 1)
    assert part["fraction"] == part["rows_seen"] / part["rows"]
    assert part["rows"] == LONG
    left = (part["rows"] - part["rows_seen"]) / part["rows_per_second"]
    assert part["eta_seconds"] == pytest.approx(left)
    events = stack.client.call("GET", f"/v1/jobs/{job['id']}/events")["data"]
    assert [event["data"]["state"] for event in events if event["kind"] == "state"] == [
        "queued",
        "starting",
        "running",
        "succeeded",
    ]
    assert [event["data"]["rows_seen"] for event in events if event["kind"] == "progress"][-1] == LONG
    listed = stack.client.pages("/v1/jobs", 10, label="team:sales")
    assert [one["id"] for one in listed] == [job["id"]]
    assert stack.client.call("GET", f"/v1/jobs/{job['id']}/metrics") == {"data": []}


def test_a_job_holds_what_it_reads_and_can_be_cancelled(
    stack: RunningStack, heavy_model: str, many_prices: str
) -> None:
    job_id = submit(stack, heavy_model, many_prices)["id"]
    await_job(stack.client, job_id, lambda job: job["progress"] and job["progress"]["fraction"] > 0)
    with pytest.raises(ApiError, match="dataset_in_use"):
        stack.client.call("DELETE", f"/v1/datasets/{many_prices}")
    with pytest.raises(ApiError, match="model_in_use"):
        stack.client.call("DELETE", f"/v1/models/{heavy_model}")
    for verb in ("pause", "rerun"):
        with pytest.raises(ApiError, match="job_not_training"):
            stack.client.call("POST", f"/v1/jobs/{job_id}/{verb}")
    with pytest.raises(ApiError, match="model_not_ready"):
        stack.client.predict(job_id, [{"size": 1}])
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    asked = time.monotonic()
    job = await_job(stack.client, job_id, lambda _: False)
    assert time.monotonic() - asked < 5
    assert (job["state"], job["stop_reason"], job["result_dataset_id"]) == ("cancelled", "cancelled", None)


def test_a_row_that_cannot_be_predicted_fails_the_job_and_is_named(stack: RunningStack, price_model: str) -> None:
    rows = prices(90, 2).select("size").with_columns(size=pl.when(pl.int_range(90) == 40).then(1e300).otherwise("size"))
    job = await_job(stack.client, submit(stack, price_model, upload(stack, rows))["id"], lambda _: False)
    assert (job["state"], job["error"]["code"], job["result_dataset_id"]) == ("failed", "bad_data", None)
    assert "row 41, column size" in job["error"]["message"]


# What is refused


def test_what_a_data_set_lacks_is_named_all_at_once_before_there_is_a_job(
    stack: RunningStack, fruit_model: str
) -> None:
    dataset = upload(stack, fruit(20, 1).select(shape="color", is_big=pl.col("weight"), weight=pl.col("kind")))
    before = stack.client.pages("/v1/jobs", 1)
    found = refused(stack, fruit_model, dataset_id=dataset)
    assert "(invalid_request)" in found
    assert "has no column color, an input of the model" in found
    assert "the column is_big holds numbers; the model needs booleans" in found
    assert "the column weight holds texts; the model needs numbers" in found
    assert stack.client.pages("/v1/jobs", 1) == before


def test_what_is_not_there_is_told_and_a_body_is_read_strictly(stack: RunningStack, fruit_model: str) -> None:
    dataset = upload(stack, fruit(20, 1))
    assert "dataset_not_found" in refused(stack, fruit_model, dataset_id=f"ds_{'0' * 25}")
    assert "model_not_found" in refused(stack, "nobody", dataset_id=dataset)
    for body in ({}, {"dataset_id": 7}, {"dataset_id": dataset, "model_id": fruit_model}):
        assert "invalid_request" in refused(stack, fruit_model, **body)


def test_a_key_makes_one_job_whatever_its_reference_has_come_to_mean(stack: RunningStack, fruit_model: str) -> None:
    dataset, headers = upload(stack, fruit(20, 1)), {"Idempotency-Key": os.urandom(8).hex()}
    path, body = "/v1/models/batch-fruit@1/predictions", {"dataset_id": dataset}
    first, again = (httpx2.post(f"{stack.url}{path}", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    other = httpx2.post(f"{stack.url}/v1/models/{fruit_model}/predictions", json=body, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", ""])
def test_rows_come_in_no_other_form(stack: RunningStack, accept: str) -> None:
    answer = content(stack, upload(stack, fruit(20, 1)), accept)
    if accept:
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    else:
        assert answer.text.startswith("color,is_big,weight,kind,importance\n")


# The command


def test_the_command_watches_and_fetches(stack: RunningStack, fruit_model: str, tmp_path: Path) -> None:
    dataset = upload(stack, fruit(40, 5))
    file = tmp_path / "answers.csv"
    told = chainrule(stack.url, "predict", "batch-fruit", dataset, "-o", str(file))
    assert told.returncode == 0, told.stderr
    assert "succeeded (rows_done): data set ds_" in told.stdout
    assert "40/40 rows" in told.stderr
    assert pl.read_csv(file).columns[0] == "label"
    as_json = chainrule(stack.url, "predict", fruit_model, dataset, "--json")
    assert json.loads(as_json.stdout)["result_dataset_id"].startswith("ds_")
    for arguments in ((dataset, "-o", "answers.xlsx"), (str(file), "-o", str(file))):
        wrong = chainrule(stack.url, "predict", fruit_model, *arguments)
        assert wrong.returncode == 1
    listed = chainrule(stack.url, "jobs")
    assert listed.returncode == 0, listed.stderr


# What dies on the way


@pytest.fixture(scope="module")
def own_stores(stack: RunningStack) -> Stores:
    """The stack's stores, to look at what no caller sees."""
    settings = Settings(state_dir=stack.state_dir)
    return open_stores(connect(running_redis_url(settings), retries=3), DataFolder(settings.data_path))


def run_at_work(stack: RunningStack) -> psutil.Process:
    """The one of the runs' processes that computes."""
    runs = [
        process
        for process in psutil.Process(stack.process.pid).children(recursive=True)
        if "worker.run_process" in process.cmdline()
    ]
    before = [sum(run.cpu_times()[:2]) for run in runs]
    threading.Event().wait(0.4)
    worked = [sum(run.cpu_times()[:2]) - then for run, then in zip(runs, before, strict=True)]
    return runs[worked.index(max(worked))]


def test_a_job_whose_run_is_killed_is_run_anew_and_has_one_result(
    stack: RunningStack, own_stores: Stores, heavy_model: str, many_prices: str
) -> None:
    datasets = len(stack.client.pages("/v1/datasets", 200))
    job_id = submit(stack, heavy_model, many_prices)["id"]
    await_job(stack.client, job_id, lambda job: job["progress"] and job["progress"]["fraction"] > 0.2)
    lost = own_stores.files.drafts()
    run_at_work(stack).send_signal(signal.SIGKILL)
    job = await_job(stack.client, job_id, lambda _: False)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert len(stack.client.pages("/v1/datasets", 200)) == datasets + 1
    assert len(lost) == 1
    assert job["result_dataset_id"] not in lost
    assert content(stack, job["result_dataset_id"], "text/csv").text.count("\n") == LONG + 1
