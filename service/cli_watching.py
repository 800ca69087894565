"""Watching a job from a terminal until it has ended."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from service.client import ApiClient
from service.terminal import err, headline, out

_PATIENCE_SECONDS = 120.0
"""A stack that is started again is there long before."""


def watch_job(client: ApiClient, job_id: str, *, as_json: bool) -> dict[str, Any]:
    """Watches a job until it has ended, and tells how; the job.

    Raises:
        Exit: it has not succeeded; the status is 1.

    """
    job = follow(client, job_id, err, silent=as_json)
    if as_json:
        out.print_json(data=job)
    else:
        out.print(outcome(job), markup=False)
    if job["state"] != "succeeded":
        raise typer.Exit(1)
    return job


def follow(client: ApiClient, job_id: str, console: Console, *, silent: bool = False) -> dict[str, Any]:
    """Shows a job's progress until it has ended; the job."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=console, disable=silent) as bar:
        task = bar.add_task("queued", total=1.0, line="")
        for job in client.follow(job_id, patience=_PATIENCE_SECONDS):
            if job["progress"]:
                bar.update(task, completed=job["progress"]["fraction"], line=progress_line(job))
            bar.update(task, description=job["state"])
            if job["waiting_for"]:
                bar.update(task, line=job["waiting_for"])
    return client.job(job_id)


def progress_line(job: dict[str, Any]) -> str:
    """Where a run stands, in a line."""
    p = job["progress"]
    if job["kind"] == "prediction":
        return f"{p['rows_seen']:,}/{p['rows']:,} rows  {p['rows_per_second']:,.0f} rows/s"
    loss = p["train_loss"] if p["validation_loss"] is None else p["validation_loss"]
    return f"epoch {p['epoch']}/{p['epochs']}  loss {loss:.4f}  {p['rows_per_second']:,.0f} rows/s"


def outcome(job: dict[str, Any]) -> str:
    """How a job ended, in a line."""
    if job["error"]:
        hint = f" {job['error']['hint']}" if job["error"]["hint"] else ""
        return f"failed ({job['error']['code']}): {job['error']['message']}{hint}"
    if job["kind"] == "prediction":
        result = f": data set {job['result_dataset_id']}" if job["result_dataset_id"] else ""
        return f"{job['state']} ({job['stop_reason']}){result}"
    metrics = headline(job["metrics"])
    model = f"; model {job['model_id']}" if job["model_id"] else ""
    return f"{job['state']} ({job['stop_reason']}): {metrics or 'no epoch was finished'}{model}"
