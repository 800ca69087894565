"""The `chainrule` command: the stack, and the API from a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from common.lifecycle import HELD
from common.processes import ONE_BLAS_THREAD
from common.settings import read_settings
from common.store.client import connect
from common.store.files import open_files
from common.store.stores import open_stores
from service import portrait
from service.cli_models import models_app
from service.cli_predict import evaluate, predict
from service.cli_reading import Decimal, Delimiter, Header, Null, is_dataset, reading
from service.cli_watching import watch_job
from service.client import DOWNLOADS, ApiClient, ApiError, check_output, name_of
from service.several import serve_by_several
from service.stack import Stack, running_redis_url
from service.terminal import AsJson, Most, err, explained, headline, out, server, show

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(
    help="API keys of the stack that runs here, or of the Redis that CHAINRULE_REDIS_URL names.", no_args_is_help=True
)
app.add_typer(keys_app, name="keys")
datasets_app = typer.Typer(
    help="List data sets, newest first; `add`, `show`, `download` and `delete` are for one of them."
)
app.add_typer(datasets_app, name="datasets")
app.add_typer(models_app, name="models")

ApiProcesses = Annotated[int | None, typer.Option(help="API processes, which share the port.", min=1, max=256)]


def main() -> None:
    """The command."""
    app()


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(version("chainrule"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Train neural networks over HTTP. CHAINRULE_URL and CHAINRULE_KEY say where the server is."""


# The stack


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port of the API; 0 takes a free one.", min=0, max=65535)] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where database, data sets and logs are kept.")] = None,
    processes: ApiProcesses = None,
) -> None:
    """Start the whole stack here: Redis, Ray, a supervisor, the API. Ctrl-C ends it; the next start carries on."""
    with explained():
        settings = read_settings(port=port, state_dir=state_dir, processes=processes)
        Stack(settings, lambda text: out.print(text, markup=False)).run()


@app.command()
def serve(processes: ApiProcesses = None) -> None:
    """Run the API alone, for a cluster; settings come from CHAINRULE_* variables."""
    with explained():
        count = read_settings(processes=processes).processes
        if count > 1:
            serve_by_several(count, lambda text: out.print(text, markup=False))
            return
    environment = {**ONE_BLAS_THREAD, **os.environ}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "service"], environment)  # noqa: S606


@app.command()
def work() -> None:
    """Run one supervisor, for a cluster; settings come from CHAINRULE_* variables."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "worker"])  # noqa: S606


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose key it is.")] = "key",
    if_none: Annotated[bool, typer.Option("--if-none", help="Only if there is no key yet.")] = False,
    key_file: Annotated[Path | None, typer.Option(help="Accept the key in this file instead of making one.")] = None,
) -> None:
    """Make an API key and print it; only its hash is kept. With the first key, every call needs one."""
    with explained():
        settings = read_settings()
        access = open_stores(connect(running_redis_url(settings), retries=4), open_files(settings, patience=1.0)).access
        if if_none and access.digests():
            return
        if key_file is None:
            out.print(access.create(name))
            return
        try:
            access.add(_read_key(key_file), name)
        except OSError as error:
            raise ApiError(f"{key_file}: {error.strerror}") from error


def _read_key(file: Path) -> str:
    key = file.read_text().strip()
    if len(key) < 32:  # a guessable key is worse than none: it looks like protection
        raise ApiError(f"{file}: a key has at least 32 characters")
    return key


# The API


@app.command()
def train(
    file: Annotated[
        str,
        typer.Argument(
            help="A .csv, .tsv, .parquet, .ndjson or .json file, or one of them as .gz, the URI of one that the server may fetch, "
            "or the id of a data set."
        ),
    ],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    name: Annotated[str | None, typer.Option(help="Name of the job and its model; default: the file's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Gradient workers.")] = None,
    servers: Annotated[int | None, typer.Option(help="Parameter servers.")] = None,
    synchrony: Annotated[
        str | None, typer.Option(help="synchronous, bounded_staleness or local_steps; options of theirs: --request.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the rows.")] = None,
    request: Annotated[Path | None, typer.Option(help="A JSON file with more of the training request.")] = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    null: Null = None,
    header: Header = True,
    as_json: AsJson = False,
) -> None:
    """Upload a file, train a network on it, watch it, and name its model."""
    with server() as client:
        body, how = _read_request(request), reading(delimiter, decimal, null, header=header)
        body |= {"target": target, **_source(client, file, name, how, as_json=as_json)}
        cluster = {"workers": workers, "servers": servers, "synchrony": synchrony}
        if given := {name: value for name, value in cluster.items() if value is not None}:
            body["cluster"] = {**body.get("cluster", {}), **given}
        if epochs is not None:
            body["training"] = {**body.get("training", {}), "epochs": epochs}
        job = _submit(client, body)
        if not as_json:
            out.print(f"{job['id']}: {job['task']} of {target}", markup=False)
            for warning in job["warnings"]:
                err.print(f"note: {warning}", markup=False)
        watch_job(client, job["id"], as_json=as_json)


def _source(
    client: ApiClient, file: str, name: str | None, how: Mapping[str, object], *, as_json: bool
) -> dict[str, str]:
    """The data set of a training request, which is added if it is not there yet, and the name."""
    if is_dataset(file):
        if how:
            raise ApiError("Options for CSV have no effect on a data set: it has been read already.")
        return {"dataset_id": file, **({"name": name} if name else {})}
    name = name or name_of(file)
    dataset = client.add(file, name, how)
    if not as_json:
        _tell_dataset(dataset)
    return {"dataset_id": dataset["id"], "name": name}


def _submit(client: ApiClient, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return client.submit(body)
    except ApiError:
        dataset_id = body["dataset_id"]
        err.print(f"note: {dataset_id} is kept; `chainrule train {dataset_id}` uses it", markup=False)
        raise


def _tell_dataset(dataset: dict[str, Any]) -> None:
    out.print(f"{dataset['id']}: {dataset['rows']:,} rows, {len(dataset['columns'])} columns", markup=False)
    for warning in dataset["warnings"]:
        err.print(f"note: {warning}", markup=False)


def _read_request(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        request = json.loads(file.read_text())
    except OSError as error:
        raise ApiError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ApiError(f"{file}: not JSON: {error}") from error
    if not isinstance(request, dict):
        raise ApiError(f"{file}: must hold a JSON object")
    return request


@app.command()
def watch(job_id: str, as_json: AsJson = False) -> None:
    """Watch a job until it ends; exit status 0 if it succeeded."""
    with server() as client:
        watch_job(client, job_id, as_json=as_json)


@app.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs with this label, key:value.")] = None,
    limit: Most = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with server() as client:
        found = client.pages("/v1/jobs", limit, state=state, label=label)
        waits = any(job["waiting_for"] for job in found)
        columns = (
            "id",
            "name",
            "state",
            *(("waiting_for",) if waits else ()),
            "epoch",
            "metrics",
            "model_id",
            "created_at",
        )
        rows = [
            {
                **job,
                "epoch": (job["progress"] or {}).get("epoch"),
                "metrics": headline(job["metrics"]),
                **(_as_prediction(job) if job["kind"] == "prediction" else {}),
            }
            for job in found
        ]
        show(found, rows, columns, as_json=as_json)


def _as_prediction(job: dict[str, Any]) -> dict[str, Any]:
    """What a list shows of a job that predicts, below the heads of what one that learns has."""
    result = job["result_dataset_id"]
    return {"metrics": result and f"predictions: {result}", "model_id": job["request"]["model_id"]}


@datasets_app.callback(invoke_without_command=True)
def datasets(context: typer.Context, limit: Most = 20, as_json: AsJson = False) -> None:
    """List data sets, newest first; `add` adds one, `show` describes one."""
    if context.invoked_subcommand is not None:
        return
    with server() as client:
        found = client.pages("/v1/datasets", limit)
        rows = [{**dataset, "columns": len(dataset["columns"])} for dataset in found]
        show(found, rows, ("id", "name", "version", "format", "rows", "columns", "created_at"), as_json=as_json)


@datasets_app.command("show")
def show_dataset(
    dataset_id: Annotated[str, typer.Argument(metavar="ID")],
    target: Annotated[
        str | None, typer.Option(help="Also tell how strongly each column goes along with this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Describe the columns of a data set, and what to beware of."""
    with server() as client:
        path = f"/v1/datasets/{dataset_id}"
        dataset = client.call("GET", path)
        found = None if target is None else client.call("GET", f"{path}/associations", params={"target": target})
        if as_json:
            out.print_json(data=dataset if found is None else {**dataset, "associations": found})
            return
        out.print(f"{dataset['name']} ({dataset['id']}): {dataset['rows']:,} rows", markup=False)
        out.print(portrait.of_columns(dataset))
        if found is not None:
            out.print(portrait.of_associations(found))
        for warning in [*dataset["warnings"], *(found["warnings"] if found else ())]:
            err.print(f"note: {portrait.plain(warning)}", markup=False)


@datasets_app.command("add")
def add_dataset(
    source: Annotated[
        str,
        typer.Argument(help="A file as for `train`, or the https, s3 or file URI of one that the server may fetch."),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: the file's.")] = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    null: Null = None,
    header: Header = True,
    as_json: AsJson = False,
) -> None:
    """Upload a data set, or have the server fetch it."""
    with server() as client:
        dataset = client.add(source, name, reading(delimiter, decimal, null, header=header))
        if as_json:
            out.print_json(data=dataset)
        else:
            _tell_dataset(dataset)


@datasets_app.command("delete")
def delete_dataset(dataset_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Delete a data set that no job uses."""
    with server() as client:
        client.call("DELETE", f"/v1/datasets/{dataset_id}")


@datasets_app.command("download")
def download_dataset(
    dataset_id: Annotated[str, typer.Argument(metavar="ID")],
    file: Annotated[Path, typer.Argument(help="The .csv, .ndjson or .parquet file for its rows.")],
) -> None:
    """Write all rows of a data set to a file."""
    with server() as client:
        check_output(file, DOWNLOADS)
        client.download_rows(dataset_id, file)


def _steer(job_id: str, verb: str, meanwhile: Mapping[str, str], *, as_json: bool) -> None:
    """Asks for something to happen to a job, and tells its state; `meanwhile` has other words for those on the way."""
    with server() as client:
        job = client.call("POST", f"/v1/jobs/{job_id}/{verb}")
        if as_json:
            out.print_json(data=job)
        else:
            out.print(meanwhile.get(job["state"], job["state"]), markup=False)


@app.command()
def cancel(job_id: str, as_json: AsJson = False) -> None:
    """Cancel a job. One that runs keeps its best weights so far as a model."""
    _steer(job_id, "cancel", dict.fromkeys(HELD, "cancelling"), as_json=as_json)


@app.command()
def pause(job_id: str, as_json: AsJson = False) -> None:
    """Pause a job: it is written down whole and gives its processors back."""
    _steer(job_id, "pause", dict.fromkeys(HELD, "pausing"), as_json=as_json)


@app.command()
def resume(job_id: str, as_json: AsJson = False) -> None:
    """Let a paused job go on exactly where it stopped."""
    _steer(job_id, "resume", {}, as_json=as_json)


@app.command()
def rerun(
    job_id: str,
    request: Annotated[Path | None, typer.Option(help="A JSON file with what is to be different.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit the request of an earlier job once more, and watch the new one."""
    with server() as client:
        job = client.call("POST", f"/v1/jobs/{job_id}/rerun", json=_read_request(request))
        if not as_json:
            out.print(job["id"], markup=False)
        watch_job(client, job["id"], as_json=as_json)


@app.command()
def checkpoints(job_id: str, as_json: AsJson = False) -> None:
    """List the newest checkpoints of a job, newest first."""
    with server() as client:
        found = client.call("GET", f"/v1/jobs/{job_id}/checkpoints")["data"]
        show(found, found, ("number", "attempt", "epoch", "step", "bytes", "seconds", "created_at"), as_json=as_json)


app.command()(predict)
app.command()(evaluate)


if __name__ == "__main__":
    main()
