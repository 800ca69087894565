"""Chainrule as a contender: the whole stack, over HTTP."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from common.lifecycle import TERMINAL
from service.client import ApiClient, ApiError
from tests.benchmarks.contender import Contender, Failed, Figures, NotAvailable, Say
from tests.benchmarks.shapes import Race, Rows
from tests.conftest import RunningStack, start_stack
from tests.integration.mnist import FOLDER, accuracy

LOOK_SECONDS = 0.1
LEAST_EPOCHS = 2
LIMIT_SECONDS = 200.0
"""Of a job whose throughput is measured, its wait included."""
LEARNING_RATE = 1e-3
NOT_BUILT = "not supported yet"
"""What a refusal says of something that the API knows and does not act on."""


class Stack:
    """`chainrule up`, started when it is needed and not there; what was uploaded to it outlives it.

    Args:
        folder: of its state.
        settle: seconds after its start, in which Ray comes to rest.
        say: tells the person at the terminal.

    """

    def __init__(self, folder: Path, settle: float, say: Say) -> None:
        self._folder = folder
        self._settle = settle
        self._say = say
        self._running: RunningStack | None = None
        self._datasets: dict[Path, str] = {}
        self._refusal: str | None = None

    def client(self) -> ApiClient:
        """Speaks to it.

        Raises:
            NotAvailable: it does not start.

        """
        if self._refusal is not None:
            raise NotAvailable(self._refusal)
        if self._running is not None and self._running.process.poll() is not None:
            self._say("The stack has ended, and is started again …")
            self.stop()
        if self._running is None:
            self._say("Starting the stack …")
            try:
                self._running = start_stack(self._folder)
            except AssertionError as error:
                self._refusal = str(error).splitlines()[-1]
                raise NotAvailable(self._refusal) from None
            except BaseException:
                self._stop_unfinished()
                raise
            time.sleep(self._settle)
        return self._running.client

    @property
    def pid(self) -> int:
        """Of its root process; there is one."""
        assert self._running is not None
        return self._running.process.pid

    def dataset(self, table: Path) -> str:
        """The id of an uploaded Parquet file."""
        client = self.client()
        if table not in self._datasets:
            self._say("Uploading rows …")
            self._datasets[table] = str(client.upload(table, table.parent.name)["id"])
        return self._datasets[table]

    def stop(self) -> None:
        """Ends it."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _stop_unfinished(self) -> None:
        """Ends a stack whose start was interrupted."""
        for child in psutil.Process().children():
            if str(self._folder) in child.cmdline():
                child.send_signal(signal.SIGINT)
                child.wait(60)


@dataclass(frozen=True, kw_only=True)
class Chainrule(Contender):
    """Jobs of the same kind."""

    stack: Stack
    workers: int
    servers: int = 1
    synchrony: str = "synchronous"
    _rates: dict[str, float] = field(default_factory=dict)
    """Rows per second of each shape as last measured, which says how many epochs fill the time."""

    def throughput(self, rows: Rows, seed: int) -> Figures:
        shape = rows.shape
        dataset = self.stack.dataset(rows.table)
        if shape.name not in self._rates:
            warm_up = self._request(dataset, rows.target, shape.sizes, shape.batch, 1, seed)
            self._rates[shape.name] = self._job(warm_up, LIMIT_SECONDS).rows_per_second
        epochs = max(LEAST_EPOCHS, math.ceil(shape.seconds * self._rates[shape.name] / shape.rows))
        request = self._request(dataset, rows.target, shape.sizes, shape.batch, epochs, seed)
        run = self._job(request, LIMIT_SECONDS)
        self._rates[shape.name] = run.rows_per_second
        return {
            "rows_per_second": run.rows_per_second,
            "outside_rows_per_second": run.rows_seen / run.seconds_running if run.seconds_running else None,
            "epochs": epochs,
        }

    def race(self, race: Race, seed: int) -> Figures:
        dataset = self.stack.dataset(race.table)
        request = self._request(dataset, "digit", race.sizes, race.batch, race.epochs, seed, race.dropout)
        request["validation"] = {"kind": "random", "fraction": race.validation}
        request["stopping"] |= {"target_error": race.target_error, "max_seconds": race.seconds}
        client = self.stack.client()
        image = list(pl.read_parquet(FOLDER / "mnist_test.parquet").drop("digit").row(0))
        run = self._job(request, 2 * race.seconds)
        client.predict(run.job["model_id"], [image])
        seconds = time.perf_counter() - run.accepted
        return {
            "seconds": seconds,
            "epochs": run.job["progress"]["epoch"],
            "test_accuracy": accuracy(client, run.job["model_id"]),
            "note": run.job["stop_reason"],
        }

    def _request(
        self,
        dataset: str,
        target: str,
        sizes: tuple[int, ...],
        batch: int,
        epochs: int,
        seed: int,
        dropout: float = 0.0,
    ) -> dict[str, Any]:
        layers = [{"kind": "dense", "units": units, "activation": "relu", "dropout": dropout} for units in sizes[1:-1]]
        cluster: dict[str, Any] = {"workers": self.workers}
        if self.servers > 1:
            cluster["servers"] = self.servers
        if self.synchrony != "synchronous":
            cluster["synchrony"] = {"kind": self.synchrony}
        return {
            "dataset_id": dataset,
            "target": target,
            "name": "benchmark",
            "network": {"layers": layers},
            "optimizer": {"kind": "adam", "learning_rate": LEARNING_RATE},
            "training": {"epochs": epochs, "batch_size": batch, "seed": seed},
            "validation": {"kind": "random", "fraction": 0.01},
            "stopping": {"patience": None},
            "cluster": cluster,
        }

    def _job(self, request: dict[str, Any], limit: float) -> _Run:
        """Runs a job to its end.

        Raises:
            NotAvailable: what it asks for is not built.
            Failed: it was refused, did not succeed, or not in time.

        """
        client = self.stack.client()
        try:
            job_id = client.submit(request)["id"]
        except ApiError as error:
            said = str(error).splitlines()[-1].strip()
            raise (NotAvailable if NOT_BUILT in said else Failed)(said) from error
        accepted = time.perf_counter()
        return _follow(client, job_id, accepted, accepted + limit)


@dataclass(frozen=True)
class _Run:
    """A job that succeeded, and its times on this process's clock."""

    job: dict[str, Any]
    accepted: float
    seconds_running: float | None
    """From the moment it was seen running to its end; None when it was not seen running."""

    @property
    def rows_seen(self) -> int:
        return int(self.job["progress"]["rows_seen"])

    @property
    def rows_per_second(self) -> float:
        return float(self.job["progress"]["rows_per_second"])


def _follow(client: ApiClient, job_id: str, accepted: float, deadline: float) -> _Run:
    running: float | None = None
    while True:
        job = client.job(job_id)
        now = time.perf_counter()
        if job["state"] == "running" and running is None:
            running = now
        if job["state"] in TERMINAL:
            break
        if now > deadline:
            client.call("POST", f"/v1/jobs/{job_id}/cancel")
            raise Failed(f"not done {now - accepted:.0f} s after it was accepted; cancelled")
        time.sleep(LOOK_SECONDS)
    if job["state"] != "succeeded":
        error = job["error"] or {}
        raise Failed(error.get("message") or f"the job was {job['state']}")
    return _Run(job, accepted, None if running is None else now - running)
