"""`python -m tests.benchmarks.jobs`: how quickly a stack reacts, on the machine that it runs on.

Submitting while a job trains, listing with many ended jobs, cancelling, pausing, hearing of a change, what checkpoints
cost, and the memory that an ended job takes. Prints a JSON object; seconds where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sklearn import datasets

from common.errors import Conflict
from common.identifiers import new_id
from common.schemas.training import TrainingRequest
from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import Stores, open_stores
from service.stack import running_redis_url
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload, upload_noise


class Jobs:
    """The measurements, over one stack."""

    def __init__(self, stack: RunningStack, rounds: int, history: int) -> None:
        self._stack = stack
        self._rounds = rounds
        self._history = history
        settings = Settings(state_dir=stack.state_dir)
        files = DataFolder(settings.data_path)
        self._stores: Stores = open_stores(connect(running_redis_url(settings), retries=3), files)
        self._noise = upload_noise(stack.client)
        columns, target = datasets.load_iris(return_X_y=True)
        self._iris = upload(stack.client, "iris", columns, target.tolist())

    def run(self) -> dict[str, Any]:
        """All of them; each is printed when it is there."""
        measured: dict[str, Callable[[], Any]] = {
            "checkpoints": self.checkpoints,
            "submit_while_training": self.submit,
            "cancel": self.cancel,
            "pause_until_processors_are_free": self.pause,
            "change_until_heard_of": self.hear,
            "small_job": self.small,
            "bytes_of_an_ended_job": self.memory,
            "list_with_history": self.listing,
        }
        report: dict[str, Any] = {}
        for name, measure in measured.items():
            report[name] = measure()
            print(f"{name}: {report[name]}", file=sys.stderr)  # noqa: T201
        return report

    def _running(self, **changes: Any) -> str:
        job_id = str(self._stack.client.submit(endless(self._noise, **changes))["id"])
        await_epochs(self._stack.client, job_id, 3)
        return job_id

    def _cancel(self, job_id: str) -> None:
        self._stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        await_job(self._stack.client, job_id, lambda _: False)

    def submit(self) -> dict[str, float]:
        """A submission, while a job trains with all processors."""
        training = self._running()
        waiting = []
        request = {"dataset_id": self._iris, "target": "target"}
        times = []
        for _ in range(50 * self._rounds):  # of fewer, the 99th percentile is the largest
            began = time.perf_counter()
            waiting.append(self._stack.client.submit(request)["id"])
            times.append(time.perf_counter() - began)
        for job_id in waiting:
            self._stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        self._cancel(training)
        return spread(times)

    def cancel(self) -> dict[str, dict[str, float]]:
        """From the cancel of a job to its end, in every state that it can be cancelled in."""
        long_epochs = upload_noise(self._stack.client, rows=200_000)
        layers = {"layers": [{"kind": "dense", "units": 512}, {"kind": "dense", "units": 512}]}

        def start(request: dict[str, Any], state: str) -> str:
            job_id = str(self._stack.client.submit(request)["id"])
            await_job(self._stack.client, job_id, lambda job: job["state"] == state)
            return job_id

        def paused() -> str:
            job_id = self._running()
            self._stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
            await_job(self._stack.client, job_id, lambda job: job["state"] == "paused")
            return job_id

        situations: dict[str, Callable[[], str]] = {
            "starting": lambda: start(endless(self._noise), "starting"),
            "making its rows": lambda: start(endless(long_epochs), "starting"),
            "running": self._running,
            "in a long epoch": lambda: start(endless(long_epochs, network=layers), "running"),
            "paused": paused,
        }

        def once(situation: str) -> float:
            job_id = situations[situation]()
            began = time.perf_counter()
            self._cancel(job_id)
            return time.perf_counter() - began

        return {situation: spread([once(situation) for _ in range(self._rounds)]) for situation in situations}

    def pause(self) -> dict[str, float]:
        """From the pause of a running job until none of its processes is left."""

        def once() -> float:
            job_id = self._running()
            events = self._stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
            processes = [psutil.Process(e["data"]["pid"]) for e in events if e["kind"] == "worker"]
            began = time.perf_counter()
            self._stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
            psutil.wait_procs(processes)
            took = time.perf_counter() - began
            self._cancel(job_id)
            return took

        return spread([once() for _ in range(self._rounds)])

    def hear(self) -> dict[str, float]:
        """From a change of state in the store, by its time, until a client that watches has read it."""

        def once() -> float:
            job_id = self._running()
            url, headers = f"{self._stack.url}/v1/jobs/{job_id}/events", {"Accept": "text/event-stream"}
            with httpx2.Client(timeout=60) as client, client.stream("GET", url, headers=headers) as answer:
                ending: threading.Thread | None = None
                for line in answer.iter_lines():
                    if '"state":"running"' in line:
                        ending = threading.Thread(target=self._cancel, args=(job_id,))
                        ending.start()
                    if '"state":"cancelled"' in line:
                        heard = datetime.now(UTC)
                        assert ending is not None
                        ending.join()
                        at = datetime.fromisoformat(json.loads(line.removeprefix("data: "))["at"])
                        return (heard - at).total_seconds()
            raise AssertionError("the stream ended without the end of the job")

        return spread([once() for _ in range(self._rounds)])

    def small(self) -> dict[str, float]:
        """A job on 150 rows, from its submission to its model, with nothing else to do."""

        def once() -> float:
            threading.Event().wait(5)
            began = time.perf_counter()
            train(self._stack.client, {"dataset_id": self._iris, "target": "target"})
            return time.perf_counter() - began

        return spread([once() for _ in range(max(3, self._rounds // 3))])

    def checkpoints(self) -> dict[str, float]:
        """The share of its time that a job of half a million parameters spends on checkpoints, and that of a small one."""
        layers = {"layers": [{"kind": "dense", "units": 700}, {"kind": "dense", "units": 700}]}
        shares = {}
        for name, changes in (("small", {}), ("half a million parameters", {"network": layers})):
            job_id = self._running(**changes, stopping={"patience": None, "max_seconds": 25})
            job = await_job(self._stack.client, job_id, lambda _: False)
            events = self._stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
            spent = sum(e["data"]["seconds"] for e in events if e["kind"] == "checkpoint")
            shares[name] = spent / (job["progress"]["rows_seen"] / job["progress"]["rows_per_second"])
        return shares

    def memory(self) -> float:
        """Of a job with 100 epochs, without its model, once its history is compressed."""
        job = train(self._stack.client, {**endless(self._iris), "training": {"epochs": 100, "seed": 1}})
        while job["id"] in self._stores.history.to_archive(1000):
            threading.Event().wait(1)
        found = self._stores.client.keys(f"*{job['id']}*")
        return float(sum(self._stores.client.memory_usage(key) or 0 for key in found))

    def listing(self) -> dict[str, float]:
        """`GET /v1/jobs` with so many ended jobs."""
        request = TrainingRequest(dataset_id=self._iris, target="target")

        def end_one(_: int) -> None:
            job_id = self._stores.jobs.submit(new_id("job"), request, "classification", max_queued=10**6).id
            with suppress(Conflict):  # a supervisor was quicker, and has ended it
                self._stores.jobs.cancel(job_id)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(end_one, range(self._history)))
        return spread(timed(lambda: self._stack.client.call("GET", "/v1/jobs"), 20 * self._rounds))

    def burst(self, count: int, clients: int = 20) -> dict[str, Any]:
        """Jobs submitted at once by many clients: how they end, and how many start before one that came earlier."""
        request = {"dataset_id": self._iris, "target": "target", "training": {"epochs": 3}, "cluster": {"workers": 1}}
        times: list[float] = []

        def submit(_: int) -> str:
            began = time.perf_counter()
            job_id = str(self._stack.client.submit(request)["id"])
            times.append(time.perf_counter() - began)
            return job_id

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            ids = list(threads.map(submit, range(count)))
        jobs = [await_job(self._stack.client, job_id, lambda _: False) for job_id in ids]
        came = [job["id"] for job in reversed(self._stack.client.pages("/v1/jobs", count))]
        starts = {job["id"]: job["started_at"] for job in jobs}
        overtaken = sum(starts[earlier] > starts[later] for earlier, later in pairwise(came))
        states = Counter(job["state"] for job in jobs)
        took = time.perf_counter() - began
        return {"states": dict(states), "overtaken": overtaken, "seconds": round(took, 1), "submit": spread(times)}


def timed(call: Callable[[], object], times: int) -> list[float]:
    """How long each of so many calls takes."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, and how many."""
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)

    return {"median": round(statistics.median(ordered), 4), "p95": at(0.95), "p99": at(0.99), "count": len(ordered)}


def main() -> None:
    """Starts a stack, measures, and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.jobs")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--burst", type=int, default=0, help="measure so many jobs at once instead")
    parser.add_argument("--history", type=int, default=10_000, help="ended jobs, when lists are measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobs", ignore_cleanup_errors=True) as folder:
        stack = start_stack(Path(folder))
        try:
            jobs = Jobs(stack, arguments.rounds, arguments.history)
            report = jobs.burst(arguments.burst) if arguments.burst else jobs.run()
            print(json.dumps(report, indent=1))  # noqa: T201
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
