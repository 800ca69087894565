"""Real tables, uploaded."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.client import ApiClient, ApiError


def as_csv(columns: NDArray[Any], target: list[Any]) -> bytes:
    """Rows with the header x0 … xn, target."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*(f"x{i}" for i in range(columns.shape[1])), "target"])
    writer.writerows([*row, label] for row, label in zip(columns.tolist(), target, strict=True))
    return text.getvalue().encode()


def upload(client: ApiClient, name: str, columns: NDArray[Any], target: list[Any]) -> str:
    """Uploads a table as CSV; the data set's id."""
    body = as_csv(columns, target)
    headers = {"Content-Type": "text/csv"}
    dataset = client.call("POST", "/v1/datasets", params={"name": name}, content=body, headers=headers)
    return str(dataset["id"])


def upload_noise(client: ApiClient, rows: int = 4000) -> str:
    """A table of random numbers and classes, for jobs that are to run until something happens to them."""
    random = np.random.default_rng(0)
    return upload(client, "noise", random.standard_normal((rows, 20)).round(4), random.integers(0, 3, rows).tolist())


def endless(dataset_id: str, **changes: Any) -> dict[str, Any]:
    """A request that would train for hours."""
    return {
        "dataset_id": dataset_id,
        "target": "target",
        "training": {"epochs": 100_000, "batch_size": 64, "seed": 1},
        "stopping": {"patience": None},
        **changes,
    }


def train(client: ApiClient, request: dict[str, Any]) -> dict[str, Any]:
    """Submits a job and waits for its end; the job."""
    return await_job(client, client.submit(request)["id"], lambda _: False)


def await_job(client: ApiClient, job_id: str, happened: Any) -> dict[str, Any]:
    """Follows a job until something has happened to it, or it has ended; the job."""
    for job in client.follow(job_id):
        if happened(job):
            return dict(job)
    return client.job(job_id)


def insistently(call: Callable[[], Any]) -> Any:
    """Repeats a call whose answer is lost with the API, as a caller would who has a key for what it creates."""
    while True:
        try:
            return call()
        except ApiError as error:
            if not any(sign in str(error) for sign in ("does not answer", "store_unavailable")):
                raise
            threading.Event().wait(0.05)


def await_epochs(client: ApiClient, job_id: str, epochs: int) -> dict[str, Any]:
    """Follows a job until it has done so many epochs."""
    job = await_job(client, job_id, lambda job: job["progress"] and job["progress"]["epoch"] >= epochs)
    assert job["state"] == "running", job
    return job
