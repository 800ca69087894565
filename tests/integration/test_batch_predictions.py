"""Whole data sets predicted by jobs, through a whole stack."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import psutil
import pytest

from service.client import ApiError
from tests.conftest import RunningStack
from tests.integration.data import await_job, insistently, train
from tests.integration.test_cli import chainrule
from tests.integration.test_evaluation import fruit, prices, upload

pytestmark = pytest.mark.integration

Job = dict[str, Any]
HEAVY = {"layers": [{"kind": "dense", "units": 2048}, {"kind": "dense", "units": 2048}]}
"""A network that takes seconds for some ten thousand rows."""
MANY = 20_000
PARQUET = "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def fruit_model(stack: RunningStack) -> str:
    request = {"dataset_id": upload(stack, fruit(600, 0).drop("importance")), "target": "kind"}
    return str(train(stack.client, {**request, "training": {"seed": 1, "epochs": 2}})["model_id"])


@pytest.fixture(scope="module")
def heavy_model(stack: RunningStack) -> str:
    request = {"dataset_id": upload(stack, prices(100, 0)), "target": "price", "network": HEAVY}
    return str(train(stack.client, {**request, "training": {"seed": 1, "epochs": 1}})["model_id"])


@pytest.fixture(scope="module")
def many_prices(stack: RunningStack) -> str:
    return upload(stack, prices(MANY, 3).select("size"))


def submit(stack: RunningStack, model: str, dataset: str, **more: Any) -> Job:
    return dict(stack.client.call("POST", f"/v1/models/{model}/predictions", json={"dataset_id": dataset, **more}))


def content(stack: RunningStack, dataset: str) -> pl.DataFrame:
    url, headers = f"{stack.url}/v1/datasets/{dataset}/content", {"Accept": PARQUET}
    return pl.read_parquet(httpx2.get(url, headers=headers, timeout=60).content)


def begun(stack: RunningStack, job_id: str, share: float = 0.0) -> Job:
    job = await_job(stack.client, job_id, lambda job: job["progress"] and job["progress"]["fraction"] > share)
    assert job["state"] == "running", job
    return job


def ended(stack: RunningStack, job_id: str) -> Job:
    return await_job(stack.client, job_id, lambda _: False)


def states(stack: RunningStack, job_id: str) -> list[str]:
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    return [event["data"]["state"] for event in events if event["kind"] == "state"]


def test_rows_are_predicted_as_they_are_one_by_one_and_in_their_order(stack: RunningStack, fruit_model: str) -> None:
    rows = fruit(2000, 1)
    dataset = upload(stack, rows.select("weight", "kind", "color", "is_big"))
    job = ended(stack, submit(stack, fruit_model, dataset)["id"])
    assert (job["state"], job["stop_reason"], job["metrics"]) == ("succeeded", "rows_done", {})
    answers = content(stack, job["result_dataset_id"])
    instances = rows.select("color", "is_big", "weight").to_dicts()
    expected = stack.client.predict(fruit_model, instances)["predictions"]
    assert answers.columns == ["label", "probability_apple", "probability_fig", "probability_plum"]
    assert answers["label"].to_list() == [one["label"] for one in expected]
    for name in ("apple", "fig", "plum"):
        told = [one["probabilities"][name] for one in expected]
        np.testing.assert_allclose(answers[f"probability_{name}"], told, rtol=1e-4, atol=1e-6)
    result = stack.client.call("GET", f"/v1/datasets/{job['result_dataset_id']}")
    assert (result["name"], result["rows"], result["columns"][0]["kind"]) == ("judged-predictions", 2000, "categorical")
    page = stack.client.call("GET", f"/v1/datasets/{result['id']}/rows", params={"limit": 5, "offset": 1000})
    assert page["rows"] == answers.slice(1000, 5).to_dicts()


def test_a_job_is_watched_while_it_predicts(stack: RunningStack, heavy_model: str, many_prices: str) -> None:
    job_id = submit(stack, heavy_model, many_prices)["id"]
    seen = [job["progress"] for job in stack.client.follow(job_id) if job["state"] == "running"]
    shares = [progress["fraction"] for progress in seen]
    assert shares == sorted(shares)
    part = next(progress for progress in seen if 0 < progress["fraction"] < 1)
    assert part.keys() == {"fraction", "rows_seen", "rows", "rows_per_second", "eta_seconds"}
    assert (part["rows"], part["fraction"]) == (MANY, part["rows_seen"] / MANY)
    assert part["eta_seconds"] == pytest.approx((MANY - part["rows_seen"]) / part["rows_per_second"])
    assert states(stack, job_id) == ["queued", "starting", "running", "succeeded"]
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    told = [event["data"] for event in events if event["kind"] == "progress"]
    assert len(told) >= 2
    assert told[-1]["rows_seen"] == MANY


def test_a_job_at_work_holds_what_it_reads_and_can_be_cancelled(
    stack: RunningStack, heavy_model: str, many_prices: str
) -> None:
    job_id = submit(stack, heavy_model, many_prices)["id"]
    begun(stack, job_id)
    with pytest.raises(ApiError, match="dataset_in_use"):
        stack.client.call("DELETE", f"/v1/datasets/{many_prices}")
    with pytest.raises(ApiError, match="model_in_use"):
        stack.client.call("DELETE", f"/v1/models/{heavy_model}")
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = ended(stack, job_id)
    assert (job["state"], job["stop_reason"], job["result_dataset_id"]) == ("cancelled", "cancelled", None)


def test_the_command_watches_and_fetches(stack: RunningStack, fruit_model: str, tmp_path: Path) -> None:
    dataset, file = upload(stack, fruit(40, 5)), tmp_path / "answers.csv"
    told = chainrule(stack.url, "predict", fruit_model, dataset, "-o", str(file))
    assert told.returncode == 0, told.stderr
    assert "succeeded (rows_done): data set ds_" in told.stdout
    assert "40/40 rows" in told.stderr
    assert pl.read_csv(file).columns[0] == "label"
    listed = chainrule(stack.url, "jobs", "--limit", "2")
    assert listed.returncode == 0, listed.stderr
    assert "succeeded" in listed.stdout


@pytest.mark.slow
def test_the_command_answers_with_the_job_as_json_and_knows_where_it_can_write(
    stack: RunningStack, fruit_model: str
) -> None:
    dataset = upload(stack, fruit(40, 5))
    wrong = chainrule(stack.url, "predict", fruit_model, dataset, "-o", "answers.xlsx")
    assert (wrong.returncode, "must end in one of" in wrong.stderr) == (1, True)
    answer = chainrule(stack.url, "predict", fruit_model, dataset, "--json")
    assert json.loads(answer.stdout)["result_dataset_id"].startswith("ds_")


# What dies on the way


def parts(stack: RunningStack, module: str) -> list[psutil.Process]:
    """The processes of a stack that run a module."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    return [
        child for child in children if child.cmdline()[1:3] == ["-m", module] or child.cmdline()[2:4] == ["-m", module]
    ]


def run_at_work(stack: RunningStack) -> psutil.Process:
    """The one of the runs' processes that computes."""
    runs = parts(stack, "worker.run_process")
    before = [sum(run.cpu_times()[:2]) for run in runs]
    threading.Event().wait(0.5)
    worked = [sum(run.cpu_times()[:2]) - then for run, then in zip(runs, before, strict=True)]
    return runs[worked.index(max(worked))]


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["run", "supervisor"])
def test_a_job_whose_run_or_supervisor_is_killed_is_run_anew_and_has_one_result(
    stack: RunningStack, heavy_model: str, victim: str
) -> None:
    dataset = upload(stack, prices(3 * MANY, 3).select("size"))
    before = {one["id"] for one in stack.client.pages("/v1/datasets", 200)}
    job_id = submit(stack, heavy_model, dataset)["id"]
    begun(stack, job_id, 0.2)
    kill(run_at_work(stack) if victim == "run" else parts(stack, "worker")[0])
    job = ended(stack, job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert states(stack, job_id).count("succeeded") == 1
    after = {one["id"] for one in stack.client.pages("/v1/datasets", 200)}
    assert after - before == {job["result_dataset_id"]}
    assert content(stack, job["result_dataset_id"]).height == 3 * MANY
    drafts = stack.state_dir / "data" / "drafts"
    deadline = time.monotonic() + 90  # a supervisor tidies up every half a minute
    while [*drafts.iterdir()]:
        assert time.monotonic() < deadline
        threading.Event().wait(0.5)


@pytest.mark.slow
def test_a_job_does_not_notice_the_death_of_the_api(stack: RunningStack, heavy_model: str, many_prices: str) -> None:
    job_id = submit(stack, heavy_model, many_prices)["id"]
    begun(stack, job_id)
    kill(parts(stack, "service")[0])
    insistently(lambda: stack.client.job(job_id))
    job = ended(stack, job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    assert content(stack, job["result_dataset_id"]).height == MANY


@pytest.mark.slow
def test_what_the_documentation_shows_works_when_it_is_pasted(stack: RunningStack, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch_predictions.md").read_text()
    script = page.split("```sh\n")[1].split("```")[0].replace("http://127.0.0.1:8000", stack.url)
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("label,probability_fig,probability_plum\n")
    answers = pl.read_csv(tmp_path / "answers.csv")
    assert (answers.height, set(answers["label"])) == (100, {"fig", "plum"})
