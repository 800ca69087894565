"""`chainrule models`: the registry from a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from service import portrait
from service.client import ApiClient, ApiError, check_output
from service.terminal import AsJson, Most, err, headline, out, server, show

models_app = typer.Typer(
    help="List models, newest first; `show`, `compare` and `export` look at them, `alias` and `delete` change what there is."
)

Ref = Annotated[
    str, typer.Argument(metavar="REF", help="A model's id, its name, name@version, name@alias, or a job's id.")
]
_MOST_CLASSES = 20
_MODEL_FILES = (".safetensors", ".onnx")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the models.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="A slug that is no whole number.")]


def _path(ref: str, *more: str) -> str:
    return "/".join(["/v1/models", *(quote(part, safe="@") for part in (ref, *more))])


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only versions of this name.")] = None,
    limit: Most = 20,
    as_json: AsJson = False,
) -> None:
    """List models, newest first."""
    if context.invoked_subcommand is not None:
        return
    with server() as client:
        found = client.pages("/v1/models", limit, name=name)
        rows = [
            {
                **model,
                "target": model["output"]["name"],
                "metrics": headline(model["metrics"]),
                "aliases": ", ".join(model["aliases"]),
            }
            for model in found
        ]
        aliases = ("aliases",) if any(model["aliases"] for model in found) else ()
        columns = ("id", "name", "version", *aliases, "task", "target", "metrics", "created_at")
        show(found, rows, columns, as_json=as_json)


@models_app.command("show")
def show_model(ref: Ref, as_json: AsJson = False) -> None:
    """Tell what goes into a model, what comes out, how good it is and where it came from."""
    with server() as client:
        model = client.call("GET", _path(ref))
        if as_json:
            out.print_json(data=model)
            return
        lineage = model["lineage"]
        imported = lineage["imported"]
        facts = {
            "id": model["id"],
            "name": _named(model),
            "aliases": ", ".join(model["aliases"]),
            "task": f"{model['task']} of {portrait.plain(model['output']['name'])}",
            "classes": _shown(model["output"]["classes"] or ()),
            "parameters": f"{model['parameters']:,}",
            "created": model["created_at"],
            "job": model["job_id"],
            "data set": f"{model['dataset_id']} (SHA-256 {lineage['dataset_sha256']})",
            "seed": lineage["seed"],
            "begun with": lineage["base_model_id"],
            "imported": imported and f"from a file with SHA-256 {imported['sha256']}",
            **{name: f"{value:.4f}" for name, value in model["metrics"].items()},
        }
        for name, value in facts.items():
            if value not in (None, ""):
                out.print(f"{name}: {value}", markup=False)
        rows = [
            {**each, "name": portrait.plain(each["name"]), "categories": _counted(each)} for each in model["inputs"]
        ]
        show(rows, rows, ("name", "kind", "categories"), as_json=False)


def _named(model: Mapping[str, Any]) -> str:
    return f"{model['name']}@{model['version']}"


def _shown(classes: Sequence[object]) -> str:
    named = ", ".join(portrait.plain(str(label)) for label in classes[:_MOST_CLASSES])
    more = len(classes) - _MOST_CLASSES
    return f"{named} and {more:,} more" if more > 0 else named


def _counted(each: Mapping[str, Any]) -> int | None:
    return None if each["categories"] is None else len(each["categories"])


@models_app.command()
def delete(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A model's id, or name@version.")],
) -> None:
    """Delete a model with all its traces; its aliases point to nothing then."""
    with server() as client:
        aliases = _aliases_of(client, ref)
        client.call("DELETE", _path(ref))
        for alias in aliases:
            err.print(f"note: {alias} points to nothing now", markup=False)


def _aliases_of(client: ApiClient, ref: str) -> list[str]:
    try:
        model = client.call("GET", _path(ref))
    except ApiError:  # a damaged one tells nothing, and can be deleted all the same
        return []
    return [f"{model['name']}@{alias}" for alias in model["aliases"]]


@models_app.command()
def alias(name: Name, alias: AliasArgument, ref: Ref, as_json: AsJson = False) -> None:
    """Let NAME@ALIAS stand for a model of that name, from the next request on."""
    with server() as client:
        model_id = client.call("GET", _path(ref))["id"]
        moved = client.call("PUT", _path(name, "aliases", alias), json={"model_id": model_id})
        if as_json:
            out.print_json(data=moved)
        else:
            out.print(f"{name}@{alias} is {moved['model_id']}, version {moved['version']}", markup=False)


@models_app.command()
def unalias(name: Name, alias: AliasArgument) -> None:
    """Remove an alias; its history stays."""
    with server() as client:
        client.call("DELETE", _path(name, "aliases", alias))


@models_app.command()
def aliases(name: Name, as_json: AsJson = False) -> None:
    """List what the aliases of a name have pointed to, newest first."""
    with server() as client:
        found = client.call("GET", _path(name, "aliases"))["data"]
        rows = [{"alias": each["alias"], **move} for each in found for move in each["history"]]
        show(found, rows, ("alias", "version", "model_id", "changed_at"), as_json=as_json)


@models_app.command()
def compare(
    first: Ref,
    second: Annotated[str, typer.Argument(metavar="REF", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Tell what sets the second of two models apart from the first."""
    with server() as client:
        found = client.call("GET", _path(first, "compare"), params={"with": second})
        if as_json:
            out.print_json(data=found)
            return
        rows = [*_briefs(found), *_metrics(found), *_changes(found)]
        show(rows, rows, ("", "first", "second"), as_json=False)


def _briefs(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first, second = found["first"], found["second"]
    yield {"": "model", "first": _named(first), "second": _named(second)}
    for name in ("id", "dataset_id", "created_at"):
        yield {"": name, "first": first[name], "second": second[name]}


def _metrics(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for each in found["metrics"]:
        first, second = (None if each[name] is None else f"{each[name]:.4f}" for name in ("first", "second"))
        difference = "" if each["difference"] is None else f" ({each['difference']:+.4f})"
        yield {"": each["metric"], "first": first, "second": second and second + difference}


def _changes(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for part in ("request", "lineage", "output"):
        for each in found[part]:
            yield {
                "": portrait.plain(f"{part} {each['pointer']}"),
                "first": None if each["kind"] == "added" else _written(each["first"]),
                "second": None if each["kind"] == "removed" else _written(each["second"]),
            }
    inputs = found["inputs"]
    for name in inputs["removed"]:
        yield {"": portrait.plain(f"input {name}"), "first": "yes", "second": None}
    for name in inputs["added"]:
        yield {"": portrait.plain(f"input {name}"), "first": None, "second": "yes"}
    for each in inputs["changed"]:
        less, more = (f" ({sign}{len(each[name])} categories)" if each[name] else "" for sign, name in _SIGNS)
        yield {
            "": portrait.plain(f"input {each['name']}"),
            "first": each["kind"][0],
            "second": each["kind"][1] + less + more,
        }


_SIGNS = (("-", "categories_removed"), ("+", "categories_added"))
_LONGEST = 60


def _written(value: Any) -> str:
    text = portrait.plain(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@models_app.command()
def export(
    ref: Ref,
    file_format: Annotated[
        Literal["safetensors", "onnx"] | None,
        typer.Option("--format", help="The format of the file; default: what its name ends in, else safetensors."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; default: NAME-VERSION.FORMAT, here.")
    ] = None,
) -> None:
    """Write a model to a file that other tools read, and `import` if it is of safetensors."""
    with server() as client:
        if file is not None:  # whose name says what is in it
            ending = check_output(file, [f".{file_format}"] if file_format else _MODEL_FILES)
            file_format = "onnx" if ending == ".onnx" else "safetensors"
        file_format = file_format or "safetensors"
        model = client.call("GET", _path(ref))
        file = file or Path(f"{model['name']}-{model['version']}.{file_format}")
        client.download(_path(model["id"], "export"), file, {"format": file_format})
        err.print(f"{file}: {_named(model)} as {file_format}, {file.stat().st_size:,} bytes", markup=False)


@models_app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="What `export` has written in the format safetensors.")],
    name: Annotated[str | None, typer.Option(help="The model's name; default: the one in the file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take a model from a file."""
    with server() as client:
        model = _import(client, file, name)
        if as_json:
            out.print_json(data=model)
        else:
            out.print(f"{model['id']}: {_named(model)}", markup=False)


def _import(client: ApiClient, file: Path, name: str | None) -> dict[str, Any]:
    parameters = {} if name is None else {"name": name}
    headers = {"Content-Type": "application/octet-stream"}
    try:
        with file.open("rb") as body:
            return dict(client.call("POST", "/v1/models/import", params=parameters, content=body, headers=headers))
    except OSError as error:
        raise ApiError(f"{file}: {error.strerror}") from error
