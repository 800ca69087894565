"""Real signals to the parts of a real stack; what was acknowledged ends as promised, and nothing is left behind."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn import datasets

from common.processes import is_there
from service.client import ApiError
from tests.conftest import RunningStack, start_stack
from tests.faults.breaking import (
    TIMES,
    actors,
    all_end,
    api_of,
    await_right_end,
    await_same_end,
    checkpoints,
    connection,
    descendants,
    events,
    eventually,
    frozen,
    is_readable,
    large,
    lasting,
    living_actors,
    named,
    own_stack,
    parts,
    raw_request,
    run_of,
    second_supervisor,
    states,
    stores_of,
    submit_and_await_checkpoints,
    undisturbed,
)
from tests.integration.data import as_csv, await_epochs, await_job, endless, insistently, train, upload, upload_noise

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LONG = 600
"""Epochs of a job that is still at work when a lease has run out."""


# A part freezes, dies, or loses what it was doing


def test_a_job_whose_worker_freezes_is_resumed_with_the_same_bits_and_without_the_frozen_process(
    stack: RunningStack, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    pid = next(e["data"]["pid"] for e in events(stack, job_id) if e["data"].get("role") == "worker")
    worker = psutil.Process(pid)
    with frozen(worker):
        await_same_end(stack, job_id, twin)
        all_end([worker])


def test_a_worker_that_froze_before_it_had_a_job_only_delays_the_job(stack: RunningStack, dataset: str) -> None:
    job_id = undisturbed(stack, lasting(dataset, 1))["id"]
    used = [event["data"].get("pid") for event in events(stack, job_id)]

    def idle() -> list[psutil.Process]:
        return [worker for worker in living_actors(stack, "Worker") if worker.pid not in used]

    eventually(lambda: len(idle()) == 2)
    worker = idle()[0]
    with frozen(worker):
        job = train(stack.client, lasting(dataset, 1))
        assert job["state"] == "succeeded"
        assert job["attempt"] <= 2  # 1 where it froze before its driver could count on it
        all_end([worker])


def test_a_job_whose_run_freezes_is_resumed_with_the_same_bits_and_without_the_frozen_process(
    stack: RunningStack, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    run = run_of(stack, job_id)
    with frozen(run):
        await_same_end(stack, job_id, twin)
        all_end([run])


def kill_while_it_writes(run: psutil.Process, folder: Path) -> Path:
    """SIGKILL to a process that has begun to write a file but not named it yet; the file."""

    def unfinished() -> Path | None:
        return next(folder.glob("*.part"), None)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        part = unfinished()
        if part is None:
            continue
        run.suspend()
        while run.status() != psutil.STATUS_STOPPED:
            pass
        if unfinished() == part:
            run.kill()
            return part
        run.resume()
    raise AssertionError("no checkpoint was being written")


def test_a_checkpoint_that_is_only_half_written_harms_neither_the_one_before_it_nor_the_job(
    stack: RunningStack, dataset: str
) -> None:
    twin = undisturbed(stack, large(dataset))
    job_id = submit_and_await_checkpoints(stack, large(dataset), 1)
    newest = checkpoints(stack, job_id)[0]["number"]
    with stores_of(stack) as stores:
        folder = stores.files.checkpoints(job_id)
        half = kill_while_it_writes(run_of(stack, job_id), folder)
        assert half.exists()
        before = {file.name for file in folder.iterdir() if file != half}
        job = await_job(stack.client, job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
        assert job["state"] == "running"
        resumed = next(e["data"]["checkpoint"] for e in events(stack, job_id) if "checkpoint" in e["data"])
        assert resumed == newest
        assert any(name.startswith(f"{newest:08d}-") for name in before)
        assert not [e for e in events(stack, job_id) if e["kind"] == "warning"]
        await_same_end(stack, job_id, twin)
        assert not folder.exists()


def test_a_job_whose_supervisor_is_killed_is_resumed_by_the_next_with_the_same_bits(
    stack: RunningStack, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    (supervisor,) = parts(stack, "worker")
    its_own = descendants(supervisor)
    supervisor.kill()
    all_end([supervisor, *its_own])
    await_same_end(stack, job_id, twin)


def test_a_job_whose_supervisor_freezes_is_taken_over_and_the_old_one_does_nothing_more_to_it(
    stack: RunningStack, dataset: str
) -> None:
    twin = undisturbed(stack, lasting(dataset, LONG))
    with second_supervisor(stack) as other, stores_of(stack) as stores:
        job_id = submit_and_await_checkpoints(stack, lasting(dataset, LONG))

        def holder() -> int | None:
            return next((report.pid for report in stores.supervisors.fresh() if job_id in report.running), None)

        eventually(holder)
        old = next(each for each in (other, *parts(stack, "worker")) if each.pid == holder())
        with frozen(old):
            job = await_job(stack.client, job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
            assert job["state"] == "running"
        eventually(lambda: old.pid in [report.pid for report in stores.supervisors.fresh() if not report.running])
        await_same_end(stack, job_id, twin)
    first, second = ["queued", "starting", "running"], ["queued", "starting", "running", "succeeded"]
    assert states(stack, job_id) == first + second


def test_two_supervisors_start_every_job_once(stack: RunningStack, dataset: str) -> None:
    with second_supervisor(stack):
        with ThreadPoolExecutor(8) as pool:
            ids = [job["id"] for job in pool.map(stack.client.submit, [lasting(dataset, 3)] * 8)]
        jobs = [await_right_end(stack, job_id) for job_id in ids]
    assert [(job["state"], job["attempt"]) for job in jobs] == [("succeeded", 1)] * 8
    assert [states(stack, job_id).count("starting") for job_id in ids] == [1] * 8


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_when_ray_dies_it_is_started_again_and_the_job_is_resumed_with_the_same_bits(
    stack: RunningStack, dataset: str, twin: dict[str, Any], part: str
) -> None:
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    (supervisor,) = parts(stack, "worker")
    old = descendants(supervisor)
    named(stack, part).kill()
    await_same_end(stack, job_id, twin)
    all_end(old)
    assert parts(stack, "worker") == [supervisor]


def kill_everything(stack: RunningStack) -> list[psutil.Process]:
    """SIGKILL to every process of a stack, before any of them can do something about it; the processes."""
    root = psutil.Process(stack.process.pid)
    family: list[psutil.Process] = [root]
    root.suspend()
    while new := [process for process in descendants(root) if process not in family]:
        for process in new:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        family += new
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    stack.close()
    return family


def test_when_everything_dies_at_once_the_next_start_resumes_with_the_same_bits_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    stack = start_stack(tmp_path, **TIMES)
    dataset = upload_noise(stack.client)
    twin = undisturbed(stack, lasting(dataset))
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    family = kill_everything(stack)
    assert len(family) > 10

    with own_stack(tmp_path) as again:
        assert not any(is_there(process) for process in family)
        assert again.client.job(twin["id"]) == twin
        assert again.client.call("GET", f"/v1/datasets/{dataset}")["rows"] == 4000
        await_same_end(again, job_id, twin)
        second = descendants(again)
    all_end(second)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]


def test_while_redis_is_frozen_callers_are_told_and_afterwards_the_job_has_the_same_bits(
    stack: RunningStack, dataset: str, twin: dict[str, Any]
) -> None:
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    answers = []
    with frozen(named(stack, "valkey-server")):
        thaw = time.monotonic() + 8
        while time.monotonic() < thaw:
            answers.append(is_readable(stack))
    assert False in answers
    eventually(lambda: is_readable(stack))
    await_same_end(stack, job_id, twin, attempts=(1, 2))


def test_a_flush_by_hand_ends_what_runs_and_leaves_a_stack_that_works(tmp_path: Path) -> None:
    with own_stack(tmp_path) as stack, stores_of(stack) as stores:
        job_id = submit_and_await_checkpoints(stack, endless(upload_noise(stack.client)), 1)
        listed = events(stack, job_id)
        assert len(actors(listed)) == 3
        stores.client.flushall()
        for path in ("", "/events", "/checkpoints", "/metrics"):
            with pytest.raises(ApiError, match="job_not_found"):
                stack.client.call("GET", f"/v1/jobs/{job_id}{path}")
        eventually(lambda: actors(listed) == [])
        assert stack.client.pages("/v1/jobs", 10) == []
        job = train(stack.client, lasting(upload_noise(stack.client), 3))
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        eventually(lambda: stores.files.jobs_with_checkpoints() == [])  # supervisors tidy up every half a minute


# Callers


def noisy_upload(stack: RunningStack, name: str) -> bytes:
    """A request that uploads 4,000 rows."""
    dice = np.random.default_rng(0)
    body = as_csv(dice.standard_normal((4000, 20)).round(4), dice.integers(0, 3, 4000).tolist())
    return raw_request(stack, "POST", f"/v1/datasets?name={name}", body, "text/csv")


def uploads(stack: RunningStack) -> list[Path]:
    """Files that are coming in."""
    return [file for file in (stack.state_dir / "data" / "uploads").iterdir() if file.stat().st_size]


def datasets_named(stack: RunningStack, name: str) -> list[dict[str, Any]]:
    return [each for each in stack.client.pages("/v1/datasets", 1000) if each["name"] == name]


def test_of_an_upload_that_dies_with_the_api_nothing_is_seen_and_nothing_is_left(stack: RunningStack) -> None:
    request = noisy_upload(stack, "half")
    with connection(stack.url) as caller:
        caller.sendall(request[: len(request) // 2])
        eventually(lambda: uploads(stack))
        api = api_of(stack)
        api.kill()
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b""
    assert datasets_named(stack, "half") == []  # the next one answers
    assert api_of(stack) != api
    assert list((stack.state_dir / "data" / "uploads").iterdir()) == []


def test_a_request_in_work_is_answered_before_the_api_ends_and_the_next_one_goes_on(
    stack: RunningStack, dataset: str
) -> None:
    job_id = stack.client.submit(endless(dataset))["id"]
    before = await_epochs(stack.client, job_id, 2)["progress"]["epoch"]
    request, log = noisy_upload(stack, "whole"), stack.state_dir / "logs" / "api.log"
    with connection(stack.url) as caller:
        caller.sendall(request[: len(request) // 2])
        eventually(lambda: uploads(stack))
        api, said = api_of(stack), log.stat().st_size
        api.terminate()
        eventually(lambda: b"Shutting down" in log.read_bytes()[said:])
        caller.sendall(request[len(request) // 2 :])
        assert caller.recv(12) == b"HTTP/1.1 201"
    all_end([api])
    (uploaded,) = datasets_named(stack, "whole")
    assert uploaded["rows"] == 4000
    assert await_epochs(stack.client, job_id, before + 5)["attempt"] == 1
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_right_end(stack, job_id)["state"] == "cancelled"


def test_a_key_makes_one_job_however_often_the_api_dies_while_it_is_used(stack: RunningStack, dataset: str) -> None:
    dice, made = random.Random(1), dict[str, str]()

    def submit(name: str) -> None:
        def once() -> Any:
            headers = {"Idempotency-Key": name}
            return stack.client.call("POST", "/v1/jobs", json=lasting(dataset, 1, name=name), headers=headers)

        made[name] = insistently(once)["id"]
        assert insistently(once)["id"] == made[name]

    for number in range(3):
        api = api_of(stack)
        with ThreadPoolExecutor(6) as pool:
            calls = [pool.submit(submit, f"key-{number}-{caller}") for caller in range(6)]
            threading.Event().wait(dice.uniform(0, 0.05))
            api.kill()
            for call in calls:
                call.result()
        all_end([api])
    jobs = stack.client.pages("/v1/jobs", 1000)
    assert {job["name"]: job["id"] for job in jobs if job["id"] in made.values()} == made
    assert len([job for job in jobs if (job["name"] or "").startswith("key-")]) == len(made) == 18
    for job_id in made.values():
        assert await_right_end(stack, job_id)["state"] == "succeeded"


@pytest.fixture(scope="module")
def iris(stack: RunningStack) -> str:
    columns, target = datasets.load_iris(return_X_y=True)
    return upload(stack.client, "iris", columns, target.tolist())


def test_a_cancel_that_was_acknowledged_is_kept_whenever_it_comes(stack: RunningStack, iris: str) -> None:
    def submit_and_cancel(number: int) -> tuple[str, bool]:
        dice = random.Random(number)
        training = {"epochs": dice.randint(1, 3), "seed": number}
        request = {"dataset_id": iris, "target": "target", "training": training, "cluster": {"workers": 1}}
        job_id = str(stack.client.submit(request)["id"])
        longest = 1.5
        if dice.random() < 0.5:
            await_job(stack.client, job_id, lambda job: job["state"] != "queued")
            longest = 0.3
        threading.Event().wait(dice.uniform(0, longest))
        try:
            stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        except ApiError as error:
            if "job_ended" not in str(error):
                raise
            return job_id, False
        return job_id, True

    with ThreadPoolExecutor(4) as pool:
        for job_id, is_acknowledged in pool.map(submit_and_cancel, range(40)):
            assert await_right_end(stack, job_id)["state"] == ("cancelled" if is_acknowledged else "succeeded")


def test_callers_that_go_away_in_the_middle_of_a_request_disturb_nobody(stack: RunningStack, iris: str) -> None:
    job = train(stack.client, {"dataset_id": iris, "target": "target", "training": {"epochs": 3, "seed": 1}})
    model, rows = job["model_id"], datasets.load_iris(return_X_y=True)[0].tolist()
    right = [stack.client.predict(model, [row])["predictions"] for row in rows]
    lists = [stack.client.pages(path, 1000) for path in ("/v1/datasets", "/v1/jobs", "/v1/models")]
    body = json.dumps({"instances": rows}).encode()
    predict = raw_request(stack, "POST", f"/v1/models/{model}/predict", body)
    harmless = [
        predict,
        raw_request(stack, "GET", "/v1/jobs"),
        raw_request(stack, "GET", f"/v1/jobs/{job['id']}?wait=9"),
    ]
    submission = json.dumps({"dataset_id": iris, "target": "target"}).encode()
    creating = [noisy_upload(stack, "cut off"), raw_request(stack, "POST", "/v1/jobs", submission)]

    def go_away(number: int) -> None:
        dice = random.Random(number)
        request = dice.choice(harmless + creating)
        length = dice.randrange(1, len(request))
        if request in harmless and dice.random() < 0.5:
            length = len(request)  # and the answer is not waited for
        with connection(stack.url) as caller:
            if dice.random() < 0.5:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
            with suppress(ConnectionError):  # a part of a request may be refused already
                caller.sendall(request[:length])

    def stay(number: int) -> None:
        place = number % len(rows)
        assert stack.client.predict(model, [rows[place]])["predictions"] == right[place]

    with ThreadPoolExecutor(8) as leaving, ThreadPoolExecutor(2) as staying:
        for call in [leaving.submit(go_away, n) for n in range(500)] + [staying.submit(stay, n) for n in range(200)]:
            call.result()
    assert stack.client.call("GET", "/healthz") == {"status": "ok"}
    assert [stack.client.predict(model, [row])["predictions"] for row in rows] == right
    assert [stack.client.pages(path, 1000) for path in ("/v1/datasets", "/v1/jobs", "/v1/models")] == lists
    eventually(lambda: list((stack.state_dir / "data" / "uploads").iterdir()) == [])


# Long lives


def test_a_training_that_runs_away_late_fails_and_keeps_its_checkpoints(stack: RunningStack) -> None:
    dice = np.random.default_rng(0)
    column = dice.standard_normal((400, 1))
    rows = upload(stack.client, "line", column, (3 * column[:, 0] + dice.standard_normal(400)).tolist())
    request = {
        "dataset_id": rows,
        "target": "target",
        "task": "regression",
        "network": {"layers": [{"kind": "dense", "units": 1}]},  # one that dies, and leaves a line
        "validation": "none",
        "optimizer": {"kind": "sgd", "learning_rate": 1.0005},  # whose error is times -1.001, step by step
        "training": {"epochs": 100_000, "batch_size": 100, "seed": 1},
        "stopping": {"patience": None},
    }
    job_id = submit_and_await_checkpoints(stack, request, 1)
    job = await_right_end(stack, job_id)
    assert (job["state"], job["attempt"], job["error"]["code"]) == ("failed", 1, "diverged")
    written = [event["data"]["number"] for event in events(stack, job_id) if event["kind"] == "checkpoint"]
    assert [checkpoint["number"] for checkpoint in checkpoints(stack, job_id)] == written[:-4:-1]
    stack.client.call("DELETE", f"/v1/jobs/{job_id}")
    with stores_of(stack) as stores:
        eventually(lambda: job_id not in stores.files.jobs_with_checkpoints())


def test_one_job_after_the_other_takes_no_more_memory_and_no_more_files(stack: RunningStack, iris: str) -> None:
    def sizes() -> dict[int, tuple[int, int]]:
        processes = [*parts(stack, "service"), *parts(stack, "worker"), *parts(stack, "worker.run_process")]
        processes.append(named(stack, "valkey-server"))
        return {process.pid: (process.memory_info().rss, process.num_fds()) for process in processes}

    before: dict[int, tuple[int, int]] = {}
    for number in range(1, 31):
        job = train(stack.client, {"dataset_id": iris, "target": "target", "training": {"epochs": 3, "seed": number}})
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        if number == 10:
            before = sizes()
    after = sizes()
    assert after.keys() == before.keys()
    for pid, (memory, files) in after.items():
        assert memory <= 1.3 * before[pid][0], psutil.Process(pid).cmdline()
        assert files <= before[pid][1] + 10, psutil.Process(pid).cmdline()
