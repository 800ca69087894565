"""The life of a job through a whole stack: watched, paused, lost and resumed, and the same bits in the end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from sklearn import datasets

from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import Stores, open_stores
from service.client import ApiError
from service.stack import running_redis_url
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload, upload_noise

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that writes checkpoints often."""
    running = start_stack(tmp_path_factory.mktemp("stack"), CHAINRULE_CHECKPOINT_SECONDS="0.4")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def own_stores(stack: RunningStack) -> Stores:
    """The stack's stores, to look at what no caller sees."""
    settings = Settings(state_dir=stack.state_dir)
    return open_stores(connect(running_redis_url(settings), retries=3), DataFolder(settings.data_path))


@pytest.fixture(scope="module")
def dataset(stack: RunningStack) -> str:
    return upload_noise(stack.client)


def lasting(dataset: str, epochs: int = 200, **changes: Any) -> dict[str, Any]:
    """A request that takes some seconds."""
    return {**endless(dataset, **changes), "training": {"epochs": epochs, "batch_size": 64, "seed": 7}}


@pytest.fixture(scope="module")
def twin(stack: RunningStack, dataset: str) -> dict[str, Any]:
    """The same job as in the tests below, undisturbed."""
    job = train(stack.client, lasting(dataset))
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    return job


def history(stack: RunningStack, job_id: str) -> list[tuple[Any, ...]]:
    rows = stack.client.call("GET", f"/v1/jobs/{job_id}/metrics")["data"]
    return [(row["epoch"], row["train_loss"], row["validation_loss"], row["metrics"]) for row in rows]


def events(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    return list(stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"])


def states(stack: RunningStack, job_id: str) -> list[str]:
    return [event["data"]["state"] for event in events(stack, job_id) if event["kind"] == "state"]


def pids(stack: RunningStack, job_id: str, role: str) -> list[int]:
    """The processes of a job's newest attempt."""
    started = [e["data"] for e in events(stack, job_id) if e["kind"] == "worker" and e["data"]["phase"] == "started"]
    last = max(place for place, process in enumerate(started) if process["role"] == "server")
    return [process["pid"] for process in started[last:] if process["role"] == role]


def checkpoints(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    return list(stack.client.call("GET", f"/v1/jobs/{job_id}/checkpoints")["data"])


def same_bits(own_stores: Stores, one: dict[str, Any], other: dict[str, Any]) -> bool:
    first, second = (own_stores.models.load(job["model_id"]) for job in (one, other))
    return first.weights == second.weights and first.document == second.document


def test_a_paused_job_gives_its_processors_back_and_goes_on_with_the_same_bits(
    stack: RunningStack, own_stores: Stores, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = stack.client.submit(lasting(dataset))["id"]
    await_epochs(stack.client, job_id, 60)
    actors = [psutil.Process(pid) for role in ("server", "worker") for pid in pids(stack, job_id, role)]
    stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
    paused = await_job(stack.client, job_id, lambda job: job["state"] == "paused")
    assert psutil.wait_procs(actors, timeout=30)[1] == []
    assert paused["queue_position"] is None
    assert paused["progress"]["epoch"] >= 60
    assert checkpoints(stack, job_id)[0]["epoch"] == paused["progress"]["epoch"]

    other = train(stack.client, lasting(dataset, epochs=3))  # others have the processors meanwhile
    assert other["state"] == "succeeded"
    assert stack.client.job(job_id)["state"] == "paused"

    assert stack.client.call("POST", f"/v1/jobs/{job_id}/resume")["state"] == "queued"
    job = await_job(stack.client, job_id, lambda _: False)
    assert (job["state"], job["attempt"], job["metrics"]) == ("succeeded", 1, twin["metrics"])
    assert states(stack, job_id) == [
        *("queued", "starting", "running", "paused"),
        *("queued", "starting", "running", "succeeded"),
    ]
    assert history(stack, job_id) == history(stack, twin["id"])
    assert same_bits(own_stores, job, twin)


@pytest.mark.parametrize(
    "victim", ["worker", "run", *(pytest.param(v, marks=pytest.mark.slow) for v in ("server", "all workers"))]
)
def test_a_job_that_loses_a_process_is_resumed_from_its_checkpoint_with_the_same_bits(
    stack: RunningStack, own_stores: Stores, dataset: str, twin: dict[str, Any], victim: str
) -> None:
    job_id = stack.client.submit(lasting(dataset))["id"]
    await_job(stack.client, job_id, lambda _: len(checkpoints(stack, job_id)) >= 2)
    newest = checkpoints(stack, job_id)[0]["number"]
    if victim == "run":
        drivers = [p for p in psutil.process_iter(["cmdline"]) if "worker.run_process" in (p.info["cmdline"] or ())]
        mine = [p for p in drivers if psutil.Process(stack.process.pid) in p.parents()]
        busy = max(mine, key=lambda p: sum(p.cpu_times()[:2]))
        os.kill(busy.pid, signal.SIGKILL)
    else:
        found = pids(stack, job_id, victim.removeprefix("all ").removesuffix("s") if " " in victim else victim)
        for pid in found if " " in victim else found[:1]:
            os.kill(pid, signal.SIGKILL)
    job = await_job(stack.client, job_id, lambda _: False)
    assert (job["state"], job["attempt"], job["metrics"]) == ("succeeded", 2, twin["metrics"])
    resumed = [e["data"] for e in events(stack, job_id) if e["kind"] == "state" and "checkpoint" in e["data"]]
    assert len(resumed) == 1
    assert resumed[0]["checkpoint"] >= newest
    assert history(stack, job_id) == history(stack, twin["id"])
    assert same_bits(own_stores, job, twin)
    assert own_stores.files.jobs_with_checkpoints() == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_serves(
    stack: RunningStack, own_stores: Stores, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = stack.client.submit(lasting(dataset))["id"]
    await_job(stack.client, job_id, lambda _: len(checkpoints(stack, job_id)) >= 2)
    stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
    await_job(stack.client, job_id, lambda job: job["state"] == "paused")
    newest, before = checkpoints(stack, job_id)[:2]
    file = max(own_stores.files.checkpoints(job_id).iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    stack.client.call("POST", f"/v1/jobs/{job_id}/resume")
    job = await_job(stack.client, job_id, lambda _: False)
    assert job["state"] == "succeeded"
    found = events(stack, job_id)
    assert f"Checkpoint {newest['number']} is damaged or gone." in [e["data"].get("message") for e in found]
    assert [e["data"]["checkpoint"] for e in found if "checkpoint" in e["data"]] == [before["number"]]
    assert same_bits(own_stores, job, twin)


def test_a_running_job_predicts_by_its_best_weights_so_far(stack: RunningStack) -> None:
    columns, target = datasets.load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    job_id = stack.client.submit(endless(dataset))["id"]
    with pytest.raises(ApiError, match="model_not_ready"):
        stack.client.call("GET", f"/v1/models/{job_id}")
    await_job(stack.client, job_id, lambda job: len(checkpoints(stack, job_id)) >= 2 and job["progress"]["epoch"] > 50)
    answer = stack.client.predict(job_id, columns.tolist())
    assert answer["model_id"] == job_id
    right = [p["label"] == int(label) for p, label in zip(answer["predictions"], target, strict=True)]
    assert np.mean(right) > 0.9
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = await_job(stack.client, job_id, lambda _: False)
    assert stack.client.predict(job_id, columns[:1].tolist())["model_id"] == job["model_id"]


def test_a_job_without_a_checkpoint_predicts_nothing_yet(stack: RunningStack, dataset: str) -> None:
    holder = stack.client.submit(endless(dataset, cluster={"workers": min(64, 2 * (os.cpu_count() or 1))}))["id"]
    await_epochs(stack.client, holder, 1)
    waiting = stack.client.submit(endless(dataset))["id"]
    with pytest.raises(ApiError, match="model_not_ready"):
        stack.client.predict(waiting, [[0.0] * 20])
    for job_id in (waiting, holder):
        stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        await_job(stack.client, job_id, lambda _: False)
    with pytest.raises(ApiError, match="cancelled before it had learned anything"):
        stack.client.predict(waiting, [[0.0] * 20])


def test_a_training_that_begins_with_a_model_begins_where_that_one_stopped(stack: RunningStack) -> None:
    columns, target = datasets.load_digits(return_X_y=True)
    known, everything = target < 8, slice(None)
    first = upload(stack.client, "eight digits", columns[known], target[known].tolist())
    layers = {"layers": [{"kind": "dense", "units": 48, "activation": "tanh"}]}
    request = {"dataset_id": first, "target": "target", "training": {"seed": 1, "epochs": 20}, "network": layers}
    base = train(stack.client, request)
    assert base["metrics"]["accuracy"] > 0.9
    second = upload(stack.client, "ten digits", columns[everything], target.tolist())
    fresh, warm = (
        train(stack.client, {**request, "dataset_id": second, "training": {"seed": 1, "epochs": 1}, **more})
        for more in ({}, {"base_model_id": base["model_id"]})
    )
    assert warm["metrics"]["log_loss"] < 0.7 * fresh["metrics"]["log_loss"]
    model = stack.client.call("GET", f"/v1/models/{warm['model_id']}")
    assert model["lineage"]["base_model_id"] == base["model_id"]
    assert model["output"]["classes"] == list(range(10))

    request = {"dataset_id": second, "target": "target", "base_model_id": base["model_id"]}
    job = stack.client.submit(request)
    assert job["request"]["network"]["layers"][0]["units"] == 48
    with pytest.raises(ApiError, match="model_in_use"):
        stack.client.call("DELETE", f"/v1/models/{base['model_id']}")
    stack.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    await_job(stack.client, job["id"], lambda _: False)
    with pytest.raises(ApiError, match="must have the layers"):
        stack.client.submit({**request, "network": {"layers": [{"kind": "dense", "units": 47}]}})
    stack.client.call("DELETE", f"/v1/models/{base['model_id']}")
    with pytest.raises(ApiError, match="there is no such model"):
        stack.client.submit(request)


def test_a_rerun_is_the_same_job_again_but_for_what_is_asked_to_differ(
    stack: RunningStack, own_stores: Stores, dataset: str
) -> None:
    request = {"dataset_id": dataset, "target": "target", "training": {"epochs": 3}, "labels": {"team": "a"}}
    job = train(stack.client, request)
    again = stack.client.call("POST", f"/v1/jobs/{job['id']}/rerun")
    assert again["id"] != job["id"]
    assert again["request"] == job["request"]
    again = await_job(stack.client, again["id"], lambda _: False)
    assert same_bits(own_stores, job, again)
    other = stack.client.call("POST", f"/v1/jobs/{job['id']}/rerun", json={"training": {"epochs": 5}, "priority": 2})
    assert other["request"]["training"] == {**job["request"]["training"], "epochs": 5}
    assert other["request"]["priority"] == 2
    assert await_job(stack.client, other["id"], lambda _: False)["progress"]["epochs"] == 5
    with pytest.raises(ApiError, match="/training/epochs"):
        stack.client.call("POST", f"/v1/jobs/{job['id']}/rerun", json={"training": {"epochs": 0}})


def read_events(stack: RunningStack, job_id: str, seen: list[tuple[str, str, dict[str, Any]]], *, most: int) -> bool:
    """Reads server-sent events after those seen; whether the stream ended by itself."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen[-1][1]} if seen else {})
    with httpx2.Client(timeout=60) as client:
        try:
            with client.stream("GET", f"{stack.url}/v1/jobs/{job_id}/events", headers=headers) as answer:
                assert answer.status_code in (200, 204)
                fields: dict[str, str] = {}
                for line in answer.iter_lines():
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif "id" in fields:
                        seen.append((fields["event"], fields["id"], json.loads(fields["data"])))
                        fields = {}
                        if len(seen) >= most:
                            return False
        except httpx2.TransportError:
            return False
    return True


def test_a_watcher_sees_every_event_once_through_restarts_of_the_api(stack: RunningStack, dataset: str) -> None:
    job_id = stack.client.submit(lasting(dataset))["id"]
    seen: list[tuple[str, str, dict[str, Any]]] = []
    for most in (6, 9):  # cut off by a kill; what follows is read from where it stopped
        read_events(stack, job_id, seen, most=most)
        api = next(p for p in psutil.Process(stack.process.pid).children() if "service" in p.cmdline())
        api.kill()
    while not read_events(stack, job_id, seen, most=10_000):
        pass
    listed = events(stack, job_id)
    assert [(kind, event_id) for kind, event_id, _ in seen] == [(event["kind"], event["id"]) for event in listed]
    assert [data for _, _, data in seen] == [{**event["data"], "at": event["at"]} for event in listed]
    assert seen[-1][2]["state"] == "succeeded"
    count = len(seen)
    assert read_events(stack, job_id, seen, most=10_000)
    assert len(seen) == count


def test_a_long_poll_is_answered_by_a_change_and_not_before(stack: RunningStack, dataset: str) -> None:
    job_id = stack.client.submit(endless(dataset))["id"]
    await_epochs(stack.client, job_id, 1)
    stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
    revision = await_job(stack.client, job_id, lambda job: job["state"] == "paused")["revision"]
    same = stack.client.call("GET", f"/v1/jobs/{job_id}", params={"wait": 0.3, "revision": revision})
    assert same["revision"] == revision
    answers = []

    def wait() -> None:
        answers.append(stack.client.call("GET", f"/v1/jobs/{job_id}", params={"wait": 60, "revision": revision}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    waiting.join(30)
    assert answers[0]["revision"] > revision
    assert answers[0]["state"] == "cancelled"


@pytest.mark.slow
def test_an_operator_s_limit_on_time_fails_a_job_and_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = {"CHAINRULE_MAX_JOB_SECONDS": "1", "CHAINRULE_MAX_WORKERS": "2", "CHAINRULE_MAX_ROWS": "5000"}
    limited = start_stack(tmp_path_factory.mktemp("limited"), **limits)
    try:
        dataset = upload_noise(limited.client)
        job = train(limited.client, endless(dataset))
        assert (job["state"], job["error"]["code"]) == ("failed", "operator_limit")
        assert "1 seconds" in job["error"]["message"]
        with pytest.raises(ApiError, match="must be at most 2 here"):
            limited.client.submit(endless(dataset, cluster={"workers": 3}))
        with pytest.raises(ApiError, match="5000 are allowed"):
            limited.client.submit(endless(upload_noise(limited.client, rows=5001)))
    finally:
        assert limited.stop() == 0


def test_a_job_whose_rows_take_long_to_make_is_cancelled_at_once(stack: RunningStack) -> None:
    random = np.random.default_rng(0)
    columns = np.array([[f"{value:x}" for value in row] for row in random.integers(0, 900, (6000, 30))])
    wide = upload(stack.client, "wide", columns, random.integers(0, 3, 6000).tolist())  # becomes 27,000 columns
    job_id = stack.client.submit(
        {
            "dataset_id": wide,
            "target": "target",
            "columns": {f"x{i}": {"encoding": "one_hot"} for i in range(30)},
            "network": {"layers": [{"kind": "dense", "units": 4}]},
        }
    )["id"]
    await_job(stack.client, job_id, lambda job: job["state"] == "starting")
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = await_job(stack.client, job_id, lambda _: False)
    assert (job["state"], job["attempt"], job["progress"]) == ("cancelled", 1, None)
    assert "running" not in states(stack, job_id)
