"""Requests to be disturbed, and ways to look at a real stack and to break it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from common.lifecycle import TERMINAL
from common.processes import is_there
from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import Stores, open_stores
from service.client import ApiError
from service.stack import running_redis_url
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train

TIMES = {"CHAINRULE_CHECKPOINT_SECONDS": "0.4", "CHAINRULE_LEASE_SECONDS": "3"}


@contextmanager
def own_stack(folder: Path, *, within: Sequence[str] = (), **environment: str) -> Iterator[RunningStack]:
    """A stack that writes checkpoints often, and is quick to take jobs over."""
    running = start_stack(folder, within=within, **TIMES, **environment)
    try:
        yield running
    finally:
        assert running.stop() == 0


def lasting(dataset: str, epochs: int = 200, **changes: Any) -> dict[str, Any]:
    """A request that takes some seconds."""
    return {**endless(dataset, **changes), "training": {"epochs": epochs, "batch_size": 64, "seed": 7}}


def large(dataset: str) -> dict[str, Any]:
    """A request whose checkpoints take a while to write."""
    layers = {"layers": [{"kind": "dense", "units": 1024}, {"kind": "dense", "units": 1024}]}
    return {**endless(dataset, network=layers), "training": {"epochs": 40, "batch_size": 512, "seed": 7}}


def undisturbed(stack: RunningStack, request: dict[str, Any]) -> dict[str, Any]:
    """Trains a request to its end, in one attempt; the job."""
    job = train(stack.client, request)
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    return job


# What can only be looked at again and again


def eventually(happens: Callable[[], object], seconds: float = 60.0) -> None:
    """Looks until something has happened."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)


def all_end(processes: list[psutil.Process]) -> None:
    """Waits until none of them is there."""
    eventually(lambda: not any(is_there(process) for process in processes))


# Processes


def descendants(process: psutil.Process | RunningStack) -> list[psutil.Process]:
    """All processes that it started, and those that these started."""
    root = psutil.Process(process.process.pid) if isinstance(process, RunningStack) else process
    return root.children(recursive=True)


def parts(stack: RunningStack, module: str) -> list[psutil.Process]:
    """The processes of a stack that run a module."""
    found = []
    for process in descendants(stack):
        with suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", module] and is_there(process):
                found.append(process)
    return found


def living_actors(stack: RunningStack, kind: str) -> list[psutil.Process]:
    """Those of a stack, with a job or without; `kind`: how their class is called, its beginning at least."""
    found = []
    for each in descendants(stack):
        with suppress(psutil.NoSuchProcess):  # one that ended since it was listed
            if each.name().startswith(f"ray::{kind}") and is_there(each):
                found.append(each)
    return found


def named(stack: RunningStack, name: str) -> psutil.Process:
    """The process of a stack with that name."""
    return next(process for process in descendants(stack) if name in process.name())


def run_of(stack: RunningStack, job_id: str) -> psutil.Process:
    """The driver of a running job: of all drivers, the one that works while the job goes on."""
    drivers = parts(stack, "worker.run_process")
    before = [sum(driver.cpu_times()[:2]) for driver in drivers]
    if len(drivers) > 1:
        await_epochs(stack.client, job_id, stack.client.job(job_id)["progress"]["epoch"] + 20)
    worked = [sum(driver.cpu_times()[:2]) - then for driver, then in zip(drivers, before, strict=True)]
    return drivers[worked.index(max(worked))]


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT if it is still there afterwards."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


@contextmanager
def second_supervisor(stack: RunningStack) -> Iterator[psutil.Process]:
    """A supervisor with a Ray of its own, beside the one of a stack."""
    settings = Settings(state_dir=stack.state_dir)
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp") as folder:
        environment = {
            **TIMES,
            "TMPDIR": folder,  # the sockets of Ray have short names
            "CHAINRULE_REDIS_URL": running_redis_url(settings),
            "CHAINRULE_DATA_URL": str(settings.data_path),
            "CHAINRULE_STATE_DIR": f"{folder}/state",
        }
        command = [sys.executable, "-P", "-m", "worker", "--ready-fd", str(writing)]
        with subprocess.Popen(
            command, env={**os.environ, **environment}, pass_fds=(writing,), stderr=subprocess.DEVNULL
        ) as process:
            os.close(writing)
            try:
                with os.fdopen(reading) as pipe:
                    assert pipe.readline() == "ready\n"
                yield psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait(60)


# What is kept


@contextmanager
def stores_of(stack: RunningStack) -> Iterator[Stores]:
    """A stack's stores, to look at what no caller sees."""
    settings = Settings(state_dir=stack.state_dir)
    with closing(connect(running_redis_url(settings), retries=3)) as client:
        yield open_stores(client, DataFolder(settings.data_path))


def events(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    """Those of a job, in order."""
    return list(stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"])


def states(stack: RunningStack, job_id: str) -> list[str]:
    """Those that a job went through, in order."""
    return [event["data"]["state"] for event in events(stack, job_id) if event["kind"] == "state"]


def checkpoints(stack: RunningStack, job_id: str) -> list[dict[str, Any]]:
    """Those of a job, newest first."""
    return list(stack.client.call("GET", f"/v1/jobs/{job_id}/checkpoints")["data"])


def submit_and_await_checkpoints(stack: RunningStack, request: dict[str, Any], count: int = 2) -> str:
    """A job that runs and has some; its id."""
    job_id = str(stack.client.submit(request)["id"])
    job = await_job(stack.client, job_id, lambda _: len(checkpoints(stack, job_id)) >= count)
    assert job["state"] == "running"
    return job_id


def actors(listed: list[dict[str, Any]]) -> list[psutil.Process]:
    """Those processes that served a job, by its events, and have not ended."""
    found = []
    for event in listed:
        if event["kind"] == "worker":
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(event["data"]["pid"])
                if process.create_time() <= datetime.fromisoformat(event["at"]).timestamp() + 1 and is_there(process):
                    found.append(process)  # and no later one with the same number
    return found


def await_right_end(stack: RunningStack, job_id: str) -> dict[str, Any]:
    """Waits for the end of a job and checks all that holds for every job, whatever has happened; the job."""
    await_job(stack.client, job_id, lambda _: False)
    listed = events(stack, job_id)
    moves = [event["data"] for event in listed if event["kind"] == "state"]
    job = stack.client.job(job_id)
    assert [move["state"] for move in moves if move["state"] in TERMINAL] == [moves[-1]["state"]] == [job["state"]]
    has_checkpoint = False
    for event in listed:
        has_checkpoint = has_checkpoint or event["kind"] == "checkpoint"
        if event["data"].get("state") == "running":
            assert ("checkpoint" in event["data"]) == has_checkpoint
    eventually(lambda: actors(listed) == [])
    return job


def await_same_end(stack: RunningStack, job_id: str, twin: dict[str, Any], attempts: tuple[int, ...] = (2,)) -> None:
    """Waits for the end of a job and checks that it has learned, bit for bit, what its twin has."""
    job = await_right_end(stack, job_id)
    assert job["state"] == "succeeded"
    assert job["attempt"] in attempts
    assert job["metrics"] == twin["metrics"]
    losses = [
        [(row["epoch"], row["train_loss"], row["validation_loss"]) for row in history["data"]]
        for history in (stack.client.call("GET", f"/v1/jobs/{i}/metrics") for i in (job_id, twin["id"]))
    ]
    assert losses[0] == losses[1]
    with stores_of(stack) as stores:
        mine, other = (stores.models.load(each["model_id"]) for each in (job, twin))
        assert mine.weights == other.weights
        assert mine.document == other.document
        eventually(lambda: job_id not in stores.files.jobs_with_checkpoints())


def is_readable(stack: RunningStack) -> bool:
    """Whether the store answers; while it does not, callers are told so."""
    try:
        stack.client.call("GET", "/v1/jobs")
    except ApiError as error:
        if "store_unavailable" not in str(error):
            raise
        return False
    return True


# Callers


def api_of(stack: RunningStack) -> psutil.Process:
    """Its API process, as soon as there is one again."""
    eventually(lambda: parts(stack, "service"))
    return parts(stack, "service")[0]


def connection(url: str) -> socket.socket:
    """A new one to an API."""
    parts_of = urlsplit(url)
    return socket.create_connection((parts_of.hostname, parts_of.port or 80), timeout=60)


def raw_request(
    stack: RunningStack, method: str, path: str, body: bytes = b"", kind: str = "application/json"
) -> bytes:
    host = urlsplit(stack.url).netloc
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
