"""How workers and servers keep step, through a whole stack: what each synchrony promises, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

from common import processes
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload, upload_noise

pytestmark = pytest.mark.integration

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written to


def upload_digits(stack: RunningStack) -> tuple[str, Any]:
    columns, target = load_digits(return_X_y=True)
    return upload(stack.client, "digits", columns, target.tolist()), columns


def metrics(stack: RunningStack, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.client.call("GET", f"/v1/jobs/{job['id']}/metrics")["data"]
    return found


def started(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    return [e["data"] for e in events if e["kind"] == "worker" and e["data"]["phase"] == "started"]


def is_gone(pid: int) -> bool:
    try:
        return not processes.is_there(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_reproducible_training_gives_the_same_bits_for_any_number_of_workers_and_servers(stack: RunningStack) -> None:
    dataset, columns = upload_digits(stack)
    answers = []
    for workers, servers in [(1, 1), (2, 1), (3, 2), (4, 1), (8, 2)]:
        request = {
            "dataset_id": dataset,
            "target": "target",
            "training": {"epochs": 4, "batch_size": 100, "seed": 7, "reproducible": True},
            "regularization": {"clip_norm": 1.0},
            "cluster": {"workers": workers, "servers": servers},
        }
        job = train(stack.client, request)
        assert job["state"] == "succeeded"
        taking_part = [process["role"] for process in started(stack, job["id"])]
        assert taking_part == ["server"] * servers + ["worker"] * workers
        curve = [(row["validation_loss"], row["train_loss"]) for row in metrics(stack, job)]
        answers.append((curve, stack.client.predict(job["model_id"], columns[:200].tolist())["predictions"]))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("synchrony", "field"),
    [
        ("synchronous", None),
        ({"kind": "bounded_staleness", "max_staleness": 2}, "staleness"),
        ("local_steps", "local_steps"),
        ({"kind": "local_steps", "steps": 5, "outer_momentum": 0.3}, "local_steps"),
    ],
    ids=["synchronous", "bounded staleness", "local steps", "outer momentum"],
)
def test_every_synchrony_learns_and_says_how_it_went(stack: RunningStack, synchrony: Any, field: str | None) -> None:
    dataset, _ = upload_digits(stack)
    request = {
        "dataset_id": dataset,
        "target": "target",
        "training": {"epochs": 40, "seed": 2},
        "cluster": {"workers": 2, "synchrony": synchrony},
    }
    job = train(stack.client, request)
    assert job["state"] == "succeeded"
    assert job["metrics"]["accuracy"] >= 0.93
    rows = metrics(stack, job)
    for row in rows:
        assert 0 <= row["communication"] <= 1
        assert {name for name in ("staleness", "local_steps") if row[name] is not None} == ({field} if field else set())
    if field == "staleness":
        steps = -(-1617 // 32)  # a tenth of the 1,797 rows judges
        assert all(len(row["staleness"]) <= 3 for row in rows)
        assert all(abs(sum(row["staleness"]) - 2 * steps) <= 2 for row in rows)
    if synchrony == {"kind": "local_steps", "steps": 5, "outer_momentum": 0.3}:
        assert all(4 <= row["local_steps"] <= 5 for row in rows)


def test_rows_that_weigh_nothing_teach_nothing(stack: RunningStack) -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((800, 3)).round(3)
    right = (x[:, 0] > 0).astype(float)
    wrong = np.arange(800) % 2 == 0
    labels = np.where(wrong, 1 - right, right).astype(int).tolist()  # half of them lie
    columns = np.column_stack([x, np.where(wrong, 0.0, 2.5)])
    dataset = upload(stack.client, "weighted", columns, labels)
    request = {"dataset_id": dataset, "target": "target", "weight_column": "x3", "training": {"epochs": 30, "seed": 1}}
    model = train(stack.client, request)["model_id"]
    assert [column["name"] for column in stack.client.call("GET", f"/v1/models/{model}")["inputs"]] == [
        "x0",
        "x1",
        "x2",
    ]
    answers = stack.client.predict(model, x.tolist())["predictions"]
    assert np.mean([answer["label"] == bool_ for answer, bool_ in zip(answers, right, strict=True)]) > 0.95


def test_jobs_of_different_sizes_that_come_together_all_succeed(stack: RunningStack) -> None:
    dataset, _ = upload_digits(stack)
    request = {"dataset_id": dataset, "target": "target", "training": {"epochs": 3, "seed": 2}}
    ids = [stack.client.submit({**request, "cluster": {"workers": workers}})["id"] for workers in (1, 1, 2)]
    assert [await_job(stack.client, job_id, lambda _: False)["state"] for job_id in ids] == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("victim", "synchrony"),
    [
        ("nobody", "synchronous"),
        ("worker", "synchronous"),
        pytest.param("server", "synchronous", marks=pytest.mark.slow),
        pytest.param("run", "synchronous", marks=pytest.mark.slow),
        pytest.param("worker", "bounded_staleness", marks=pytest.mark.slow),
        pytest.param("worker", "local_steps", marks=pytest.mark.slow),
    ],
)
def test_whatever_ends_a_job_nothing_of_it_is_left(stack: RunningStack, victim: str, synchrony: str) -> None:
    before = set(SHARED_MEMORY.iterdir())
    dataset = upload_noise(stack.client)
    cluster = {"workers": 2, "servers": 2, "synchrony": synchrony}
    job_id = stack.client.submit(endless(dataset, cluster=cluster))["id"]
    await_epochs(stack.client, job_id, 1)
    of_job = started(stack, job_id)
    pids = {process["pid"] for process in of_job}
    assert len(pids) == 4
    if victim == "run":
        os.kill(next(run.pid for run in runs(stack) if holds_rows(run.pid)), signal.SIGKILL)
    elif victim != "nobody":
        os.kill(next(process["pid"] for process in of_job if process["role"] == victim), signal.SIGKILL)
    if victim != "nobody":
        await_job(stack.client, job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
        pids |= {process["pid"] for process in started(stack, job_id)}
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"
    until = time.monotonic() + 30
    while not all(map(is_gone, pids)) or any(holds_rows(run.pid) for run in runs(stack)):
        assert time.monotonic() < until, "something is left"
        time.sleep(0.05)
    assert set(SHARED_MEMORY.iterdir()) == before


def runs(stack: RunningStack) -> list[psutil.Process]:
    """The drivers, idle or at work."""
    found = []
    for child in psutil.Process(stack.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "worker.run_process" in child.cmdline():
                found.append(child)
    return found


def holds_rows(pid: int) -> bool:
    """Whether a process owns the rows of a job."""
    with suppress(FileNotFoundError):
        return any("chainrule-rows" in str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_rows_beyond_the_memory_budget_are_read_from_a_disk_and_still_teach(tmp_path: Path) -> None:
    running = start_stack(tmp_path / "state", CHAINRULE_DATA_MEMORY_BYTES=str(100_000))
    try:
        dataset, columns = upload_digits(running)  # 460,000 bytes of rows
        job_id = running.client.submit(endless(dataset))["id"]
        await_epochs(running.client, job_id, 1)
        worker = next(process["pid"] for process in started(running, job_id) if process["role"] == "worker")
        mapped = [line for line in Path(f"/proc/{worker}/maps").read_text().splitlines() if "/state/scratch/" in line]
        assert mapped, "the worker reads its rows from the scratch folder"
        assert all(line.split()[1] == "r--s" for line in mapped)
        running.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        request = {"dataset_id": dataset, "target": "target", "training": {"epochs": 40, "seed": 2}}
        job = train(running.client, request)
        assert job["metrics"]["accuracy"] >= 0.93
        assert list((tmp_path / "state" / "scratch").iterdir()) == []
        assert len(running.client.predict(job["model_id"], columns[:5].tolist())["predictions"]) == 5
    finally:
        assert running.stop() == 0
