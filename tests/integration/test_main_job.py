"""The main job through a whole stack: uploaded, trained by real actors, served."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split

from service.client import ApiError
from tests.conftest import RunningStack
from tests.integration.data import await_epochs, await_job, endless, train, upload, upload_noise

pytestmark = pytest.mark.integration


def events(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    return found


def processes(stack: RunningStack, job_id: str, phase: str) -> list[dict[str, Any]]:
    return [e["data"] for e in events(stack, job_id) if e["kind"] == "worker" and e["data"]["phase"] == phase]


def everything(stack: RunningStack) -> dict[str, int]:
    """As many workers as there are processors, so that other jobs wait."""
    return {"workers": min(64, int(stack.client.call("GET", "/v1/cluster")["cpus"]))}


def segments(pid: int) -> dict[str, str]:
    """The anonymous segments that a process maps: inode -> how."""
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if match := re.match(r"\S+ (\S+) \S+ \S+ (\d+)\s+/memfd:chainrule \(deleted\)", line):
            found[match[2]] = match[1]
    return found


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_gradients_are_computed_in_the_workers_and_applied_in_the_servers_process(
    stack: RunningStack, workers: int
) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset, cluster={"workers": workers}))["id"]
    await_epochs(stack.client, job_id, 2)
    started = processes(stack, job_id, "started")
    server = next(p["pid"] for p in started if p["role"] == "server")
    workers_pids = [p["pid"] for p in started if p["role"] == "worker"]
    assert len({server, *workers_pids}) == workers + 1
    for pid, role in [(server, "ServerProcess"), *((pid, "WorkerProcess") for pid in workers_pids)]:
        assert psutil.Process(pid).cmdline()[0].startswith(f"ray::{role}")
    # Who can write what: the server alone its parameters, every worker alone its gradient.
    parameters = [inode for inode, how in segments(server).items() if how == "rw-s"]
    assert len(parameters) == 1
    gradients: set[str] = set()
    for pid in workers_pids:
        mine = segments(pid)
        assert mine.pop(parameters[0]) == "r--s"
        assert list(mine.values()) == ["rw-s"]
        gradients |= mine.keys()
    assert segments(server) == {parameters[0]: "rw-s", **dict.fromkeys(gradients, "r--s")}
    assert len(gradients) == workers

    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = await_job(stack.client, job_id, lambda _: False)
    finished = {p["pid"]: p for p in processes(stack, job_id, "finished")}
    assert finished.keys() == {server, *workers_pids}
    assert finished[server]["updates"] >= job["progress"]["step"]
    for pid in workers_pids:
        assert 0 <= finished[pid]["gradients"] - finished[server]["updates"] <= 1


def test_the_same_request_gives_the_same_bits(stack: RunningStack) -> None:
    columns, target = datasets.load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    request = {"dataset_id": dataset, "target": "target", "training": {"seed": 3, "epochs": 20}}
    answers = [
        stack.client.predict(train(stack.client, request)["model_id"], columns.tolist())["predictions"]
        for _ in range(2)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "name", ["iris", *(pytest.param(name, marks=pytest.mark.slow) for name in ("breast_cancer", "wine"))]
)
def test_the_defaults_learn_small_sets_of_classes(stack: RunningStack, name: str) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    labels = [str(bunch.target_names[i]) for i in bunch.target]
    accuracies = []
    for seed in range(5):
        kept, held_back, kept_labels, true = train_test_split(
            bunch.data, labels, test_size=0.2, random_state=seed, stratify=labels
        )
        dataset = upload(stack.client, name, kept, kept_labels)
        job = train(stack.client, {"dataset_id": dataset, "target": "target", "training": {"seed": seed}})
        assert job["task"] == "classification"
        answer = stack.client.predict(job["model_id"], held_back.tolist())
        accuracies.append(np.mean([p["label"] == t for p, t in zip(answer["predictions"], true, strict=True)]))
    assert statistics.median(accuracies) >= 0.93


@pytest.mark.slow
def test_the_defaults_beat_the_mean_on_a_small_regression(stack: RunningStack) -> None:
    columns, target = datasets.load_diabetes(return_X_y=True)
    gains = []
    for seed in range(5):
        kept, held_back, kept_target, true = train_test_split(columns, target, test_size=0.2, random_state=seed)
        dataset = upload(stack.client, "diabetes", kept, kept_target.tolist())
        job = train(stack.client, {"dataset_id": dataset, "target": "target", "training": {"seed": seed}})
        assert job["task"] == "regression"
        answer = stack.client.predict(job["model_id"], held_back.tolist())
        error = np.sqrt(np.mean((np.array([p["value"] for p in answer["predictions"]]) - true) ** 2))
        gains.append(1 - error / np.sqrt(np.mean((kept_target.mean() - true) ** 2)))
    assert statistics.median(gains) >= 0.22


def test_text_and_boolean_columns_and_blanks_are_learned_from_and_predicted(stack: RunningStack) -> None:
    random = np.random.default_rng(1)
    rows = ["color,is_big,weight,kind"]
    for _ in range(300):
        color, is_big = random.choice(["red", "blue", ""]), bool(random.integers(2))
        weight = "" if random.random() < 0.1 else f"{random.normal(10 if is_big else 5):.2f}"
        kind = "plum" if color == "blue" and not is_big else "apple"
        rows.append(f"{color},{str(is_big).lower()},{weight},{kind}")
    headers = {"Content-Type": "text/csv"}
    dataset = stack.client.call(
        "POST", "/v1/datasets", params={"name": "fruit"}, content="\n".join(rows).encode(), headers=headers
    )
    kinds = {column["name"]: column["kind"] for column in dataset["columns"]}
    assert kinds == {"color": "categorical", "is_big": "boolean", "weight": "numeric", "kind": "categorical"}
    job = train(stack.client, {"dataset_id": dataset["id"], "target": "kind", "training": {"seed": 1}})
    instances = [
        {"color": "blue", "is_big": False, "weight": 5.0},
        {"color": "red", "is_big": False, "weight": None},
        {"color": None, "is_big": True, "weight": 11},
        {"color": "mauve", "is_big": True, "weight": 9.5},
    ]
    answer = stack.client.predict(job["model_id"], instances)["predictions"]
    assert [p["label"] for p in answer[:3]] == ["plum", "apple", "apple"]
    assert answer[3] == stack.client.predict(job["model_id"], instances)["predictions"][3]
    assert all(sum(p["probabilities"].values()) == pytest.approx(1, abs=1e-5) for p in answer)
    model = stack.client.call("GET", f"/v1/models/{job['model_id']}")
    assert model["lineage"]["dataset_sha256"] == dataset["sha256"]
    assert model["lineage"]["seed"] == 1


def test_a_job_stops_when_the_error_that_was_asked_for_is_reached(stack: RunningStack) -> None:
    columns, target = datasets.load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    request = {"dataset_id": dataset, "target": "target", "training": {"seed": 1}}
    job = train(stack.client, {**request, "stopping": {"target_error": 0.1}})
    assert job["stop_reason"] == "target_reached"
    assert 1 - job["metrics"]["accuracy"] <= 0.1
    assert job["progress"]["fraction"] == 1.0
    job = train(stack.client, {**request, "stopping": {"target_loss": 0.5}})
    assert job["stop_reason"] == "target_reached"
    assert job["progress"]["validation_loss"] <= 0.5


def test_the_time_limit_ends_a_job_with_its_best_model(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    job = train(stack.client, endless(dataset, stopping={"patience": None, "max_seconds": 1.0}))
    assert (job["state"], job["stop_reason"]) == ("succeeded", "time_limit")
    assert job["model_id"]


def test_a_time_limit_that_comes_at_the_end_of_a_segment_leaves_a_model_as_well(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    request = {"dataset_id": dataset, "target": "target", "training": {"batch_size": 1, "seed": 1}}
    job = train(
        stack.client, {**request, "stopping": {"max_seconds": 1e-9}}
    )  # no halt is as quick as the first segment
    assert (job["state"], job["stop_reason"]) == ("succeeded", "time_limit")
    assert job["metrics"]["accuracy"] > 0
    assert job["model_id"] is not None


def test_the_time_limit_ends_a_job_inside_its_first_epoch(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client, rows=20_000)
    layers = [{"kind": "dense", "units": 2048}] * 3
    request = endless(dataset, network={"layers": layers}, stopping={"max_seconds": 0.5})
    request["training"]["batch_size"] = 8
    job = train(stack.client, request)
    assert (job["state"], job["stop_reason"]) == ("succeeded", "time_limit")
    assert job["progress"] is None
    assert stack.client.predict(job["model_id"], [[0.0] * 20])["predictions"]


def test_a_training_without_validation_rows_keeps_the_best_training_loss(stack: RunningStack) -> None:
    columns, target = datasets.load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    request = {"dataset_id": dataset, "target": "target", "validation": "none", "training": {"seed": 1, "epochs": 60}}
    job = train(stack.client, request)
    assert job["progress"]["validation_loss"] is None
    history = stack.client.call("GET", f"/v1/jobs/{job['id']}/metrics")["data"]
    assert [row["epoch"] for row in history] == list(range(1, 61))
    assert job["metrics"]["log_loss"] == pytest.approx(min(row["train_loss"] for row in history))


def test_a_training_that_runs_away_fails_and_says_so(stack: RunningStack) -> None:
    columns, target = datasets.load_diabetes(return_X_y=True)
    dataset = upload(stack.client, "diabetes", columns, target.tolist())
    optimizer = {"kind": "sgd", "learning_rate": 1e6}
    job = train(stack.client, {"dataset_id": dataset, "target": "target", "optimizer": optimizer})
    assert job["state"] == "failed"
    assert job["error"]["code"] == "diverged"
    assert "step" in job["error"]["message"]
    assert job["error"]["hint"]
    assert job["model_id"] is None


def test_a_job_that_is_next_says_what_it_waits_for_while_processors_are_free(stack: RunningStack) -> None:
    dataset, cpus = upload_noise(stack.client), int(stack.client.call("GET", "/v1/cluster")["cpus"])
    small = stack.client.submit(endless(dataset, cluster={"workers": 1}))["id"]
    await_epochs(stack.client, small, 1)
    large = stack.client.submit(endless(dataset, cluster={"workers": cpus}))["id"]
    behind = stack.client.submit(endless(dataset, cluster={"workers": 1}))["id"]
    job = await_job(stack.client, large, lambda job: job["waiting_for"])
    assert (job["state"], job["queue_position"]) == ("queued", 0)
    assert f"its {cpus} workers need {cpus} CPUs at once" in job["waiting_for"]
    assert stack.client.job(behind)["waiting_for"] is None
    for job_id in (behind, small):
        stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = await_job(stack.client, large, lambda job: job["state"] == "running")
    assert job["waiting_for"] is None
    stack.client.call("POST", f"/v1/jobs/{large}/cancel")
    await_job(stack.client, large, lambda _: False)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_keeps_its_best_model(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    first = stack.client.submit(endless(dataset, cluster=everything(stack)))["id"]
    await_epochs(stack.client, first, 3)
    second = stack.client.submit(endless(dataset))
    assert (second["state"], second["queue_position"]) == ("queued", 0)
    assert stack.client.call("POST", f"/v1/jobs/{second['id']}/cancel")["state"] == "cancelled"
    with pytest.raises(ApiError, match="dataset_in_use"):
        stack.client.call("DELETE", f"/v1/datasets/{dataset}")
    stack.client.call("POST", f"/v1/jobs/{first}/cancel")
    job = await_job(stack.client, first, lambda _: False)
    assert (job["state"], job["stop_reason"]) == ("cancelled", "cancelled")
    assert stack.client.predict(job["model_id"], [[0.0] * 20])["predictions"]
    stack.client.call("DELETE", f"/v1/jobs/{first}")
    stack.client.call("DELETE", f"/v1/jobs/{second['id']}")
    stack.client.call("DELETE", f"/v1/datasets/{dataset}")
    stack.client.call("DELETE", f"/v1/models/{job['model_id']}")
    for path in (f"jobs/{first}", f"datasets/{dataset}", f"models/{job['model_id']}"):
        with pytest.raises(ApiError, match="not_found"):
            stack.client.call("GET", f"/v1/{path}")


def test_more_important_jobs_start_first(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    holder = stack.client.submit(endless(dataset, cluster=everything(stack)))["id"]
    await_epochs(stack.client, holder, 1)
    short = {"dataset_id": dataset, "target": "target", "training": {"epochs": 1}}
    usual = stack.client.submit(short)["id"]
    urgent = stack.client.submit({**short, "priority": 5})["id"]
    assert stack.client.job(urgent)["queue_position"] == 0
    assert stack.client.job(usual)["queue_position"] == 1
    stack.client.call("POST", f"/v1/jobs/{holder}/cancel")
    ended = [await_job(stack.client, job_id, lambda _: False) for job_id in (usual, urgent)]
    assert ended[1]["started_at"] < ended[0]["started_at"]


def test_the_cluster_is_described(stack: RunningStack) -> None:
    cluster = stack.client.call("GET", "/v1/cluster")
    assert cluster["cpus"] >= 1
    assert len(cluster["nodes"]) == 1
    assert len(cluster["supervisors"]) == 1
    assert stack.client.call("GET", "/readyz") == {"redis": True, "supervisors": 1}


def test_the_api_never_imports_ray(stack: RunningStack) -> None:
    stack.client.call("GET", "/healthz")
    api = next(p for p in psutil.Process(stack.process.pid).children() if "service" in p.cmdline())
    assert not [m.path for m in api.memory_maps() if "/ray/" in m.path]


def test_a_row_far_outside_of_the_training_rows_ends_a_job_as_bad_data_at_once(stack: RunningStack) -> None:
    values = [0.1, 0.2, 0.3, 0.4] * 10 + [1e300]
    dataset = upload(stack.client, "outlier", np.array(values)[:, None], (["a", "b"] * 21)[:41])
    request = {"dataset_id": dataset, "target": "target", "validation": {"kind": "random", "fraction": 0.5}}
    jobs = [train(stack.client, {**request, "training": {"seed": seed, "epochs": 1}}) for seed in range(8)]
    failed = [job for job in jobs if job["state"] == "failed"]
    assert 0 < len(failed) < len(jobs)  # the row is among the validation rows in about half of them
    assert {(job["error"]["code"], job["attempt"]) for job in failed} == {("bad_data", 1)}


def test_a_target_at_the_end_of_the_numbers_gives_a_finite_answer_or_a_clear_one(stack: RunningStack) -> None:
    columns = np.arange(41.0)[:, None]
    dataset = upload(stack.client, "huge", columns, (1.7e308 * (columns[:, 0] / 20 - 1)).tolist())
    job = train(stack.client, {"dataset_id": dataset, "target": "target", "training": {"seed": 1, "epochs": 30}})
    if job["state"] == "failed":
        assert job["error"]["code"] == "diverged"
        return
    with pytest.raises(ApiError, match="no finite number"):
        stack.client.predict(job["model_id"], [[1e30]])


def test_progress_does_not_crowd_other_events_out(stack: RunningStack) -> None:
    columns, target = datasets.load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    request = {"dataset_id": dataset, "target": "target", "stopping": {"patience": None}, "training": {"seed": 1}}
    job = train(stack.client, request)
    kinds = [event["kind"] for event in events(stack, job["id"])]
    assert job["progress"]["epoch"] == 100
    assert 2 <= kinds.count("progress") < 50
    assert kinds[0] == kinds[-1] == "state"
