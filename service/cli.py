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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from common.identifiers import is_id
from common.lifecycle import HELD
from common.processes import ONE_BLAS_THREAD
from common.settings import read_settings
from common.store.client import connect
from common.store.files import open_files
from common.store.stores import open_stores
from service import portrait
from service.cli_models import models_app
from service.client import FORMATS, ApiClient, ApiError, FileAnswer, check_ending, name_of
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
datasets_app = typer.Typer(help="List data sets, newest first; `add` adds one, `show` describes one.")
app.add_typer(datasets_app, name="datasets")
app.add_typer(models_app, name="models")

Delimiter = Annotated[str | None, typer.Option(help="CSV: what separates cells.")]
Decimal = Annotated[str | None, typer.Option(help="CSV: the decimal mark, . or ,")]
Null = Annotated[
    list[str] | None, typer.Option(help="CSV: what stands for a missing value; may be given several times.")
]
Header = Annotated[bool, typer.Option("--header/--no-header", help="CSV: whether the first line names the columns.")]
ApiProcesses = Annotated[int | None, typer.Option(help="API processes, which share the port.", min=1, max=256)]
_MOST_NOTES = 20


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
        body, reading = _read_request(request), _reading(delimiter, decimal, null, header=header)
        if is_id(file, "ds"):
            if reading:
                raise ApiError("Options for CSV have no effect on a data set: it has been read already.")
            body |= {"dataset_id": file, "target": target, **({"name": name} if name else {})}
        else:
            name = name or name_of(file)
            dataset = client.add(file, name, reading)
            if not as_json:
                _tell_dataset(dataset)
            body |= {"dataset_id": dataset["id"], "target": target, "name": name}
        cluster = {"workers": workers, "servers": servers, "synchrony": synchrony}
        if given := {name: value for name, value in cluster.items() if value is not None}:
            body["cluster"] = {**body.get("cluster", {}), **given}
        if epochs is not None:
            body["training"] = {**body.get("training", {}), "epochs": epochs}
        job = client.submit(body)
        if not as_json:
            out.print(f"{job['id']}: {job['task']} of {target}", markup=False)
            for warning in job["warnings"]:
                err.print(f"note: {warning}", markup=False)
        _watch(client, job["id"], as_json=as_json)


def _reading(delimiter: str | None, decimal: str | None, null: list[str] | None, *, header: bool) -> dict[str, object]:
    given = {"delimiter": delimiter, "decimal": decimal, "null": null or None, "header": None if header else False}
    return {name: value for name, value in given.items() if value is not None}


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
        _watch(client, job_id, as_json=as_json)


def _watch(client: ApiClient, job_id: str, *, as_json: bool) -> None:
    job = follow(client, job_id, err, silent=as_json)
    if as_json:
        out.print_json(data=job)
    else:
        out.print(outcome(job), markup=False)
    if job["state"] != "succeeded":
        raise typer.Exit(1)


_PATIENCE_SECONDS = 120.0
"""A stack that is started again is there long before."""


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
            }
            for job in found
        ]
        show(found, rows, columns, as_json=as_json)


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
        dataset = client.add(source, name, _reading(delimiter, decimal, null, header=header))
        if as_json:
            out.print_json(data=dataset)
        else:
            _tell_dataset(dataset)


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
        _watch(client, job["id"], as_json=as_json)


@app.command()
def checkpoints(job_id: str, as_json: AsJson = False) -> None:
    """List the newest checkpoints of a job, newest first."""
    with server() as client:
        found = client.call("GET", f"/v1/jobs/{job_id}/checkpoints")["data"]
        show(found, found, ("number", "attempt", "epoch", "step", "bytes", "seconds", "created_at"), as_json=as_json)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A model's id, its name, name@version, name@alias, or a job's id.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A .csv, .tsv, .ndjson or .parquet file of rows to predict, or one of them as .gz, or the id of a data set, "
            "which a job predicts."
        ),
    ] = None,
    instance: Annotated[
        list[str] | None, typer.Option(help="One row as JSON: '{\"age\": 31}'. May be repeated.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what each column adds, the most first.")] = False,
    top_k: Annotated[int | None, typer.Option(help="Tell so many probabilities, the largest first.", min=1)] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of two classes, the second from this probability on, else the first.", min=0, max=1),
    ] = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    null: Null = None,
    header: Header = True,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Of a data set: the .csv, .ndjson or .parquet file for the predictions."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict rows of a file, or instances given as JSON; one line of answer per row. Or a whole data set, by a job."""
    wanted = {"explain": explain or None, "top_k": top_k, "threshold": threshold}
    options = {name: value for name, value in wanted.items() if value is not None}
    with server() as client:
        reading = _reading(delimiter, decimal, null, header=header)
        if file is not None and is_id(str(file), "ds"):
            if options or reading:
                raise ApiError("A job that predicts a data set takes no options but --output.")
            _predict_dataset(client, model, str(file), output, as_json=as_json)
            return
        if output is not None:
            raise ApiError("--output is for the predictions of a data set, which is named by its id.")
        if (file is None) == (not instance):
            raise ApiError("Give a file, or --instance.")
        if file is not None:
            if explain or top_k:
                raise ApiError("--explain and --top-k are for rows given by --instance.")
            form = FORMATS[".json" if as_json else ".ndjson"]
            with client.predict_file(model, file, form, reading | options) as answer:
                _print_answer(answer, as_json=as_json)
            return
        predicted = client.predict(model, [_read_instance(text) for text in instance or ()], **options)
        if as_json:
            out.print_json(data=predicted)
            return
        for warning in predicted["warnings"][:_MOST_NOTES]:
            err.print(f"note: {warning['pointer']}: {warning['message']}", markup=False)
        if more := predicted["warnings"][_MOST_NOTES:]:
            err.print(f"note: {len(more):,} more; --json has them", markup=False)
        for prediction in predicted["predictions"]:
            out.print(_as_line(prediction, probabilities=top_k is not None), markup=False)


def _as_line(prediction: Mapping[str, Any], *, probabilities: bool) -> str:
    parts = [str(prediction.get("label", prediction.get("value")))]
    if probabilities:
        parts += [f"{name}={probability:.4f}" for name, probability in prediction["probabilities"].items()]
    if explanation := prediction.get("explanation"):
        added = sorted(explanation["contributions"].items(), key=lambda column: -abs(column[1]))
        parts += [f"{name} {contribution:+.4g}" for name, contribution in added]
    return "  ".join(parts)


def _predict_dataset(client: ApiClient, model: str, dataset_id: str, output: Path | None, *, as_json: bool) -> None:
    """Submits the job, watches it, and fetches what it made if a file for it is named."""
    if output is not None:
        check_ending(output)  # before there is anything to lose
    job_id = client.predict_dataset(model, dataset_id)["id"]
    if not as_json:
        out.print(job_id, markup=False)
    _watch(client, job_id, as_json=as_json)
    if output is not None:
        client.download_rows(client.job(job_id)["result_dataset_id"], output)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model's id, its name, name@version, name@alias, or a job's id.")],
    dataset: Annotated[str, typer.Argument(help="The id of a data set with the model's inputs and its target.")],
    as_json: AsJson = False,
) -> None:
    """Tell how good a model is on a stored data set: every metric, and each class or quantile."""
    with server() as client:
        answer = client.call("POST", f"/v1/models/{model}/evaluate", json={"dataset_id": dataset})
        if as_json:
            out.print_json(data=answer)
            return
        for warning in answer["warnings"]:
            err.print(f"note: {warning}", markup=False)
        left_out = f", {answer['left_out']:,} without a target left out" if answer["left_out"] else ""
        out.print(f"{answer['model_id']}: {answer['rows']:,} rows{left_out}", markup=False)
        for name, value in answer["metrics"].items():
            out.print(f"{name} {value:.4f}", markup=False)
        if details := answer["classes"] or answer["quantiles"]:
            rows = [{name: _rounded(value) for name, value in detail.items()} for detail in details]
            show(details, rows, tuple(details[0]), as_json=False)


def _rounded(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _print_answer(answer: FileAnswer, *, as_json: bool) -> None:
    """What a file is answered with, as it comes: too many lines for a console that looks at each."""
    if as_json:
        sys.stdout.writelines(answer.texts())
        sys.stdout.write("\n")
        return
    sys.stdout.writelines(f"{_as_line(prediction, probabilities=False)}\n" for prediction in answer.objects())


def _read_instance(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ApiError(f"--instance is not JSON: {error}") from error


if __name__ == "__main__":
    main()
