"""`chainrule predict` and `chainrule evaluate`: models at work, from a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from common.identifiers import is_id
from service.cli_reading import Decimal, Delimiter, Header, Null, is_dataset, reading
from service.cli_watching import watch_job
from service.client import DOWNLOADS, FORMATS, ApiClient, ApiError, check_output
from service.terminal import AsJson, err, out, server, show

Model = Annotated[str, typer.Argument(help="A model's id, its name, name@version, name@alias, or a job's id.")]
_MOST_NOTES = 20


def predict(
    model: Model,
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
    explain: Annotated[
        bool, typer.Option("--explain", help="Of instances: tell what each column adds, the most first.")
    ] = False,
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
        typer.Option(
            "--output", "-o", help="Of a file or a data set: the .csv, .ndjson or .parquet file for the predictions."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict rows of a file, or instances given as JSON; one line of answer per row. Or a whole data set, by a job."""
    wanted = {"explain": explain or None, "top_k": top_k, "threshold": threshold}
    options = {name: value for name, value in wanted.items() if value is not None}
    how = reading(delimiter, decimal, null, header=header)
    with server() as client:
        if (file is None) == (not instance):
            raise ApiError("Give either a file or --instance.")
        if file is None:
            _predict_instances(client, model, instance or [], options, output, as_json=as_json)
        elif is_dataset(str(file)):
            if options or how:
                raise ApiError("A job that predicts a data set takes no options but --output.")
            _predict_dataset(client, model, str(file), output, as_json=as_json)
        else:
            _predict_file(client, model, file, options, how, output, as_json=as_json)


def _predict_instances(
    client: ApiClient,
    model: str,
    instances: list[str],
    options: Mapping[str, object],
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    if output is not None:
        raise ApiError("--output is for the predictions of a file or a data set.")
    predicted = client.predict(model, [_read_instance(text) for text in instances], **options)
    if as_json:
        out.print_json(data=predicted)
        return
    for warning in predicted["warnings"][:_MOST_NOTES]:
        err.print(f"note: {warning['pointer']}: {warning['message']}", markup=False)
    if more := predicted["warnings"][_MOST_NOTES:]:
        err.print(f"note: {len(more):,} more; --json has them", markup=False)
    for prediction in predicted["predictions"]:
        out.print(_as_line(prediction, probabilities="top_k" in options), markup=False)


def _read_instance(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ApiError(f"--instance is not JSON: {error}") from error


def _predict_dataset(client: ApiClient, model: str, dataset_id: str, output: Path | None, *, as_json: bool) -> None:
    """Submits the job, watches it, and fetches what it made if a file for it is named."""
    if output is not None:
        check_output(output, DOWNLOADS)  # before there is anything to lose
    job_id = client.predict_dataset(model, dataset_id)["id"]
    if not as_json:
        out.print(job_id, markup=False)
    job = watch_job(client, job_id, as_json=as_json)
    if output is not None:
        client.download_rows(job["result_dataset_id"], output)


def _predict_file(
    client: ApiClient,
    model: str,
    file: Path,
    options: Mapping[str, object],
    how: Mapping[str, object],
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Predicts the rows of a file; the answer goes to another whole, or to the terminal as it comes."""
    if options.keys() - {"threshold"}:
        raise ApiError("--explain and --top-k are for rows given by --instance; --output writes all probabilities.")
    if as_json and output is not None:
        raise ApiError("Give --json, or an --output whose name ends in .json.")
    if output is not None and output.exists() and file.exists() and output.samefile(file):
        raise ApiError(f"{output}: the predictions would replace the rows")
    form = ".json" if as_json else ".ndjson" if output is None else check_output(output, FORMATS)
    with client.predict_file(model, file, FORMATS[form], {**how, **options}) as answer:
        if output is not None:
            answer.save(output)
            err.print(f"{output}: predicted by {answer.model_id}", markup=False)
        elif as_json:
            sys.stdout.writelines(answer.texts())
            sys.stdout.write("\n")
        else:  # too many lines for a console that looks at each
            sys.stdout.writelines(f"{_as_line(prediction, probabilities=False)}\n" for prediction in answer.objects())


def _as_line(prediction: Mapping[str, Any], *, probabilities: bool) -> str:
    parts = [str(prediction.get("label", prediction.get("value")))]
    if probabilities:
        parts += [f"{name}={probability:.4f}" for name, probability in prediction["probabilities"].items()]
    if explanation := prediction.get("explanation"):
        added = sorted(explanation["contributions"].items(), key=lambda column: -abs(column[1]))
        parts += [f"{name} {contribution:+.4g}" for name, contribution in added]
    return "  ".join(parts)


def evaluate(
    model: Model,
    dataset: Annotated[str, typer.Argument(help="The id of a data set with the model's inputs and its target.")],
    as_json: AsJson = False,
) -> None:
    """Tell how good a model is on a stored data set: every metric, and each class or quantile."""
    with server() as client:
        if not is_id(dataset, "ds"):
            raise ApiError(f"{dataset}: no id of a data set; `datasets` lists them, `datasets add` uploads a file")
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
