"""`make chaos`: many jobs while something breaks every few seconds, from a printed seed; then every promise is checked.

- Every acknowledged job ends in exactly one terminal state.
- Every succeeded model equals that of its undisturbed twin, bit for bit.
- No job begins from its beginning once it had a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from common.lifecycle import TERMINAL
from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.models import ModelStore
from common.store.stores import open_stores
from service.client import ApiError
from service.stack import running_redis_url
from tests.conftest import RunningStack, start_stack
from tests.integration.data import endless, insistently, upload_noise

TWINS = 5
_EPOCHS = 400
_THAW_SECONDS = 4.0
_SETTLE_SECONDS = 600.0


@dataclass
class Chaos:
    """One run.

    Args:
        seed: of what breaks, and when.
        minutes: for how long.
        jobs: how many are submitted, evenly over that time.
        folder: of the stack's state.

    """

    seed: int
    minutes: float
    jobs: int
    folder: Path
    broken: Counter[str] = field(default_factory=Counter)

    def run(self) -> bool:
        """Whether every promise was kept."""
        self._dice = random.Random(self.seed)
        say(f"seed {self.seed}: {self.jobs} jobs in {self.minutes:g} minutes")
        self._start()
        self._dataset = insistently(lambda: upload_noise(self._stack.client))
        say("the twins are trained, undisturbed …")
        twins = [self._weights(self._finish(self._submit(f"twin-{n}", n))["model_id"]) for n in range(TWINS)]
        end, submitted = time.monotonic() + 60 * self.minutes, list[tuple[str, int]]()
        pause = 60 * self.minutes / self.jobs
        next_job = time.monotonic()
        while (now := time.monotonic()) < end or len(submitted) < self.jobs:
            if now >= next_job and len(submitted) < self.jobs:
                twin = self._dice.randrange(TWINS)
                submitted.append((self._submit(f"job-{len(submitted)}", twin), twin))
                next_job = now + pause
            self._break()
            threading.Event().wait(self._dice.uniform(1.0, 6.0))
        say(f"peace; broken: {dict(self.broken)}")
        ended = [(self._finish(job_id), twin) for job_id, twin in submitted]
        faults = [fault for job, twin in ended for fault in self._faults(job, twins[twin])]
        states = Counter(job["state"] for job, _ in ended)
        attempts = [job["attempt"] for job, _ in ended]
        report = {
            "seed": self.seed,
            "jobs": len(ended),
            "states": dict(states),
            "errors": dict(Counter(job["error"]["code"] for job, _ in ended if job["error"])),
            "attempts": {"most": max(attempts), "mean": sum(attempts) / len(attempts)},
            "broken": dict(self.broken),
            "faults": faults,
        }
        say(json.dumps(report, indent=1))
        self._stack.stop()
        return not faults

    def _start(self) -> None:
        self._stack: RunningStack = start_stack(
            self.folder, CHAINRULE_CHECKPOINT_SECONDS="1", CHAINRULE_LEASE_SECONDS="5", CHAINRULE_MAX_ATTEMPTS="20"
        )
        threading.Thread(target=self._drain, args=(self._stack,), daemon=True).start()

    @staticmethod
    def _drain(stack: RunningStack) -> None:
        assert stack.process.stdout is not None
        with suppress(ValueError):
            for _ in stack.process.stdout:
                pass

    # What breaks

    def _break(self) -> None:
        breaks: list[tuple[int, str, Callable[[], None]]] = [
            (20, "worker killed", lambda: self._kill(self._actors("ray::WorkerProcess"))),
            (5, "all workers killed", self._kill_workers),
            (10, "server killed", lambda: self._kill(self._actors("ray::ServerProcess"))),
            (10, "run killed", lambda: self._kill(self._parts("worker.run_process"))),
            (4, "supervisor killed", lambda: self._kill(self._parts("worker"))),
            (6, "API killed", lambda: self._kill(self._parts("service"))),
            (4, "Redis killed", lambda: self._kill(self._named("valkey-server"))),
            (3, "raylet killed", lambda: self._kill(self._named("raylet"))),
            (2, "GCS killed", lambda: self._kill(self._named("gcs_server"))),
            (10, "worker frozen", lambda: self._freeze(self._actors("ray::WorkerProcess"))),
            (4, "run frozen", lambda: self._freeze(self._parts("worker.run_process"))),
            (3, "supervisor frozen", lambda: self._freeze(self._parts("worker"), 9.0)),
            (10, "paused and resumed", self._pause_and_resume),
            (1, "everything killed", self._kill_everything),
        ]
        weights, names, acts = zip(*breaks, strict=True)
        place = self._dice.choices(range(len(breaks)), weights)[0]
        self.broken[names[place]] += 1
        with suppress(psutil.Error, ProcessLookupError):
            acts[place]()

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._stack.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _those(self, matches: Callable[[list[str], str], bool]) -> list[psutil.Process]:
        found = []
        for process in self._family():
            with suppress(psutil.Error):
                if matches(process.cmdline(), process.name()):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def _actors(self, title: str) -> list[psutil.Process]:
        return self._those(lambda command, _: bool(command) and command[0].startswith(title))

    def _parts(self, module: str) -> list[psutil.Process]:
        return self._those(lambda command, _: command[1:3] == ["-m", module])

    def _named(self, name: str) -> list[psutil.Process]:
        return self._those(lambda _, own: name in own)

    def _kill(self, processes: list[psutil.Process]) -> None:
        if processes:
            self._dice.choice(processes).kill()

    def _kill_workers(self) -> None:
        for process in self._actors("ray::WorkerProcess"):
            process.kill()

    def _freeze(self, processes: list[psutil.Process], seconds: float = _THAW_SECONDS) -> None:
        if not processes:
            return
        frozen = self._dice.choice(processes)
        frozen.suspend()
        threading.Event().wait(seconds)
        with suppress(psutil.Error):
            frozen.resume()

    def _pause_and_resume(self) -> None:
        with suppress(ApiError):
            running = self._stack.client.pages("/v1/jobs", 5, state="running")
            if running:
                job_id = self._dice.choice(running)["id"]
                self._stack.client.call("POST", f"/v1/jobs/{job_id}/pause")
                threading.Event().wait(self._dice.uniform(0.1, 2.0))
                insistently(lambda: self._resume(job_id))

    def _resume(self, job_id: str) -> None:
        if self._stack.client.job(job_id)["state"] not in TERMINAL:
            try:
                self._stack.client.call("POST", f"/v1/jobs/{job_id}/resume")
            except ApiError as error:
                if not any(code in str(error) for code in ("job_not_paused", "job_ended")):
                    raise

    def _kill_everything(self) -> None:
        family = self._family()
        self._stack.kill()
        psutil.wait_procs(family, timeout=0.5)
        self._start()

    # Jobs

    def _submit(self, name: str, twin: int) -> str:
        request = endless(self._dataset, name=name)
        request["training"] = {"epochs": _EPOCHS, "batch_size": 64, "seed": twin}
        headers = {"Idempotency-Key": f"{self.seed}-{name}"}
        job = insistently(lambda: self._stack.client.call("POST", "/v1/jobs", json=request, headers=headers))
        return str(job["id"])

    def _finish(self, job_id: str) -> dict[str, Any]:
        end = time.monotonic() + _SETTLE_SECONDS
        while (job := insistently(lambda: self._wait(job_id)))["state"] not in TERMINAL:
            if job["state"] == "paused":
                insistently(lambda: self._resume(job_id))
            if time.monotonic() > end:
                break
        return dict(job)

    def _wait(self, job_id: str) -> dict[str, Any]:
        job = self._stack.client.job(job_id)
        if job["state"] in TERMINAL:
            return job
        parameters = {"wait": 5, "revision": job["revision"]}
        return dict(self._stack.client.call("GET", f"/v1/jobs/{job_id}", params=parameters))

    # Promises

    def _weights(self, model_id: str) -> bytes:
        settings = Settings(state_dir=self.folder)
        models: ModelStore = open_stores(
            connect(running_redis_url(settings), retries=60), DataFolder(settings.data_path)
        ).models
        return models.load(model_id).weights

    def _faults(self, job: dict[str, Any], twin: bytes) -> list[str]:
        name = f"{job['name']} ({job['id']})"
        if job["state"] not in TERMINAL:
            return [f"{name} is {job['state']}"]
        faults = []
        events = self._stack.client.call("GET", f"/v1/jobs/{job['id']}/events")["data"]
        ends = [e for e in events if e["kind"] == "state" and e["data"]["state"] in TERMINAL]
        if len(ends) != 1 or events[-1] != ends[0]:
            faults.append(f"{name} has {len(ends)} ends")
        has_checkpoint = False
        for event in events:
            has_checkpoint = has_checkpoint or event["kind"] == "checkpoint"
            if event["data"].get("state") == "running" and has_checkpoint and "checkpoint" not in event["data"]:
                faults.append(f"{name} began from its beginning at {event['at']}")
        if job["state"] != "succeeded":
            faults.append(f"{name} {job['state']}: {job['error']}")
        elif self._weights(job["model_id"]) != twin:
            faults.append(f"{name} learned something else than its twin")
        return faults


def say(text: str) -> None:
    """To whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    kept = Chaos(arguments.seed, arguments.minutes, arguments.jobs, folder).run()
    if kept:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"the logs are in {folder}/logs")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
