"""What sets two models apart: their metrics, what was asked for, what came of it, their inputs and outputs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

from pydantic import ConfigDict
from pydantic.config import JsonDict

from common.errors import pointer_part
from common.schemas.models import Model, ModelInput, Task
from common.schemas.record import Listed, Record, Time

Json: TypeAlias = object
"""What a JSON document may hold."""


class Difference(Record):
    """One place where two documents are not alike."""

    pointer: str
    """Of the place (RFC 6901)."""
    kind: Literal["changed", "added", "removed"]
    """Whether both have it, only the second has it, or only the first."""
    first: object
    """Null where only the second has it."""
    second: object
    """Null where only the first has it."""


class MetricDifference(Record):
    """A metric of both models."""

    metric: str
    first: float | None
    """Null where the model has no such metric."""
    second: float | None
    difference: float | None
    """The second less the first; null unless both have it, and where it is too large for a number."""


class InputDifference(Record):
    """An input of both models that is not the same."""

    name: str
    kind: Listed[str]
    """Of the first model and of the second."""
    categories_added: Listed[str]
    """That only the second knows."""
    categories_removed: Listed[str]
    """That only the first knows."""


class InputDifferences(Record):
    """What sets the inputs of two models apart."""

    added: Listed[str]
    """Names of those that only the second has."""
    removed: Listed[str]
    """Names of those that only the first has."""
    changed: Listed[InputDifference]
    reordered: bool
    """Whether those that both have come in another order, which matters for instances that are arrays."""


class ModelBrief(Record):
    """A model in short."""

    id: str
    name: str
    version: int
    job_id: str
    dataset_id: str
    dataset_sha256: str
    task: Task
    seed: int
    parameters: int
    created_at: Time
    aliases: Listed[str]

    @classmethod
    def of(cls, model: Model) -> ModelBrief:
        """In short."""
        own = {name: getattr(model, name) for name in cls.model_fields if name in Model.model_fields}
        return cls(**own, dataset_sha256=model.lineage.dataset_sha256, seed=model.lineage.seed)


_EXAMPLE: JsonDict = {
    "first": {
        "id": "mdl_9x0d3t5c1v7b2n4m6k8j0h1g3",
        "name": "iris",
        "version": 2,
        "job_id": "job_3v8n1m5k7j9h2g4f6d8s0a1q3",
        "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
        "dataset_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "task": "classification",
        "seed": 7,
        "parameters": 8707,
        "created_at": "2026-01-20T08:00:00.000Z",
        "aliases": ["live"],
    },
    "second": {
        "id": "mdl_4jv2k0m8x7w3q9h5r1t6n0c8y",
        "name": "iris",
        "version": 3,
        "job_id": "job_6w1r4t7y9p2s5d8f0g3h6j9k1",
        "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
        "dataset_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "task": "classification",
        "seed": 7,
        "parameters": 8707,
        "created_at": "2026-01-27T10:15:00.000Z",
        "aliases": [],
    },
    "metrics": [{"metric": "accuracy", "first": 0.9333, "second": 0.9667, "difference": 0.0334}],
    "request": [{"pointer": "/optimizer/learning_rate", "kind": "changed", "first": 0.001, "second": 0.003}],
    "lineage": [],
    "inputs": {"added": [], "removed": [], "changed": [], "reordered": False},
    "output": [],
}


class ModelComparison(Record):
    """Two models side by side."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    first: ModelBrief
    second: ModelBrief
    metrics: Listed[MetricDifference]
    """All that one of them has, by the alphabet; each on the validation rows of its own training."""
    request: Listed[Difference]
    """Of the training requests, every default filled in."""
    lineage: Listed[Difference]
    """Of all else that they came from: data, seed, attempt, versions of software."""
    inputs: InputDifferences
    output: Listed[Difference]


def compare_models(first: Model, second: Model) -> ModelComparison:
    """What sets the second apart from the first."""
    ours, theirs = (model.model_dump(mode="json", include={"lineage", "output"}) for model in (first, second))
    requests = [document["lineage"].pop("request") for document in (ours, theirs)]
    return ModelComparison(
        first=ModelBrief.of(first),
        second=ModelBrief.of(second),
        metrics=tuple(_metrics(first.metrics, second.metrics)),
        request=tuple(differences(requests[0], requests[1])),
        lineage=tuple(differences(ours["lineage"], theirs["lineage"])),
        inputs=_inputs(first, second),
        output=tuple(differences(ours["output"], theirs["output"])),
    )


def differences(first: Json, second: Json, pointer: str = "") -> Iterator[Difference]:
    """Every place where two JSON documents are not alike, in the order of the first.

    Objects are compared by their names and arrays of objects by place; all else, arrays of plain values too, as a whole.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in [*first, *(name for name in second if name not in first)]:
            at = f"{pointer}/{pointer_part(name)}"
            if name not in second:
                yield Difference(pointer=at, kind="removed", first=first[name], second=None)
            elif name not in first:
                yield Difference(pointer=at, kind="added", first=None, second=second[name])
            else:
                yield from differences(first[name], second[name], at)
    elif _are_objects(first) and _are_objects(second):
        assert isinstance(first, list | tuple)
        assert isinstance(second, list | tuple)
        yield from differences(dict(enumerate(first)), dict(enumerate(second)), pointer)
    elif not _is_same(first, second):
        yield Difference(pointer=pointer, kind="changed", first=first, second=second)


def _are_objects(value: Json) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)


def _is_same(first: Json, second: Json) -> bool:
    """Whether two values are the same in JSON, where true is no number."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_is_same, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return next(differences(first, second), None) is None
    return isinstance(first, bool) is isinstance(second, bool) and first == second


def _metrics(first: Mapping[str, float], second: Mapping[str, float]) -> Iterator[MetricDifference]:
    for name in sorted({*first, *second}):
        ours, theirs = first.get(name), second.get(name)
        difference = None if ours is None or theirs is None else theirs - ours
        if difference is not None and not math.isfinite(difference):
            difference = None
        yield MetricDifference(metric=name, first=ours, second=theirs, difference=difference)


def _inputs(first: Model, second: Model) -> InputDifferences:
    ours, theirs = ({each.name: each for each in model.inputs} for model in (first, second))
    changed = (_input(each, theirs[each.name]) for each in first.inputs if each.name in theirs)
    return InputDifferences(
        added=tuple(name for name in theirs if name not in ours),
        removed=tuple(name for name in ours if name not in theirs),
        changed=tuple(each for each in changed if each is not None),
        reordered=[name for name in ours if name in theirs] != [name for name in theirs if name in ours],
    )


def _input(first: ModelInput, second: ModelInput) -> InputDifference | None:
    ours, theirs = dict.fromkeys(first.categories or ()), dict.fromkeys(second.categories or ())
    if first.kind == second.kind and ours.keys() == theirs.keys():
        return None
    return InputDifference(
        name=first.name,
        kind=(first.kind, second.kind),
        categories_added=tuple(text for text in theirs if text not in ours),
        categories_removed=tuple(text for text in ours if text not in theirs),
    )
