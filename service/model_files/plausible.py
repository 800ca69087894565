"""What holds of every model that was trained here and no schema says: who imports one has to find it out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic_core import PydanticCustomError

from common.errors import Fault
from common.features.categories import MAX_CATEGORIES, CategoryColumn, Embedded, Numbered
from common.features.columns import Column
from common.features.moments import EXACT, usable_scale
from common.features.numbers import QuantileNormal, Scaled
from common.features.target import ClassTarget, Target, name_of
from common.features.times import Times
from common.identifiers import is_id
from common.schemas.columns import MAX_EMBEDDING
from common.schemas.losses import FITTING, Loss
from common.schemas.models import Model
from common.schemas.network import NetworkShape
from common.schemas.training import MODEL_NAME, clean_name
from service.submission import MAX_CLASSES

_LONGEST_NAME = 1000
_MOST_METRICS = 200
_LARGEST = float(np.finfo(np.float32).max)
_FARTHEST_TIME = 3e11
"""In seconds from 1970: beyond the year 9999."""
_SHORTEST_TIME = 1e-9
"""In seconds: no deviation of times that floats hold is shorter."""


def is_any_longer(document: object, most: int) -> bool:
    """Whether an array or object anywhere in a JSON document has more than so many entries."""
    nodes = [document]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict | list):
            if len(node) > most:
                return True
            nodes += node.values() if isinstance(node, dict) else node
    return False


def faults_of_columns(columns: Sequence[Column], pointer: str) -> Iterator[Fault]:
    """What is wrong with the columns of an encoder."""
    names: set[str] = set()
    for place, column in enumerate(columns):
        at = f"{pointer}/columns/{place}"
        yield from _faults_of_name(column.name, f"{at}/name")
        if column.name in names:
            yield Fault(f"{at}/name", "duplicate_name", "is the name of a column before")
        names.add(column.name)
        if isinstance(column, CategoryColumn):
            yield from _faults_of_categories(column, at)
        yield from _faults_of_numbers(column, at)


def _faults_of_name(name: str, pointer: str) -> Iterator[Fault]:
    if not 1 <= len(name) <= _LONGEST_NAME:
        yield Fault(pointer, "invalid_name", f"must have 1 to {_LONGEST_NAME} characters")
    try:
        clean_name(name)
    except PydanticCustomError as error:
        yield Fault(pointer, "invalid_name", error.message())


def _faults_of_categories(column: CategoryColumn, pointer: str) -> Iterator[Fault]:
    if len(column.categories) > MAX_CATEGORIES + 1:  # those kept, and the one that missing values count as
        yield Fault(f"{pointer}/categories", "out_of_range", f"must be at most {MAX_CATEGORIES + 1}")
    if len(set(column.categories)) < len(column.categories):
        yield Fault(f"{pointer}/categories", "duplicate_category", "must be different from each other")
    if isinstance(column, Embedded) and column.vector > MAX_EMBEDDING:
        yield Fault(f"{pointer}/vector", "out_of_range", f"must be at most {MAX_EMBEDDING}")


def _faults_of_numbers(column: Column, pointer: str) -> Iterator[Fault]:
    """Numbers that make inputs float32 cannot hold."""
    largest = 0.0
    if isinstance(column, Scaled):
        yield from _faults_of_scale(column.scale, 0.0, pointer)
        with np.errstate(all="ignore"):
            largest = abs(column.filled)
    elif isinstance(column, Times):
        yield from _faults_of_scale(column.scale, _SHORTEST_TIME, pointer)
        if max(abs(column.mean), abs(column.fill)) > _FARTHEST_TIME:
            yield Fault(pointer, "out_of_range", "must lie between the years 1 and 9999")
    elif isinstance(column, QuantileNormal):
        largest = max(map(abs, column.normals))
    elif isinstance(column, Numbered):
        largest = max(map(abs, (*column.numbers, column.unknown)))
    if not largest <= _LARGEST:
        yield Fault(pointer, "out_of_range", "makes numbers that are too large for the network")


def _faults_of_scale(scale: float, least: float, pointer: str) -> Iterator[Fault]:
    if scale != usable_scale(scale) or scale < least:
        yield Fault(f"{pointer}/scale", "out_of_range", "is too small to divide by")


def faults_of_target(target: Target, loss: Loss, pointer: str) -> Iterator[Fault]:
    """What is wrong with the target of a network with that loss."""
    if loss.kind not in FITTING[target.task]:
        yield Fault(f"{pointer}/loss", "unsuitable_loss", f"must be one of: {', '.join(FITTING[target.task])}")
    if not isinstance(target, ClassTarget):
        yield from _faults_of_scale(target.scale, 0.0, f"{pointer}/target")
        return
    at, classes = f"{pointer}/target/classes", target.classes
    if len(classes) > MAX_CLASSES:
        yield Fault(at, "too_many_classes", f"must be at most {MAX_CLASSES}")
    if len({type(label) for label in classes}) > 1:
        yield Fault(at, "wrong_type", "must all be of one type")
    elif len({name_of(label) for label in classes}) < len(classes):
        yield Fault(at, "duplicate_category", "must be different from each other")
    if any(isinstance(label, int) and abs(label) > EXACT for label in classes):
        yield Fault(at, "out_of_range", f"must be whole numbers up to {EXACT:.0f}")


def faults_of_model(model: Model, shape: NetworkShape, lineage_bytes: int) -> Iterator[Fault]:
    """What is wrong with the record of a model of that shape, whose lineage may have so many bytes as JSON."""
    yield from _faults_of_name(model.output.name, "/model/output/name")
    if re.fullmatch(MODEL_NAME, model.name) is None:
        yield Fault("/model/name", "invalid_name", "must be the name of a model")
    for name, prefix in (("id", "mdl"), ("job_id", "job"), ("dataset_id", "ds")):
        if not is_id(getattr(model, name), prefix):
            yield Fault(f"/model/{name}", "wrong_form", "must be an id")
    if len(model.metrics) > _MOST_METRICS or any(len(name) > _LONGEST_NAME for name in model.metrics):
        yield Fault("/model/metrics", "out_of_range", f"must be at most {_MOST_METRICS}, with short names")
    lineage = model.lineage
    counts = (model.version, model.parameters, lineage.seed, lineage.attempt, lineage.averaged_epochs)
    if not all(0 <= count < 2**63 for count in counts):
        yield Fault("/model", "out_of_range", "must hold whole numbers from 0 to 2^63 - 1")
    if re.fullmatch("[0-9a-f]{64}", lineage.dataset_sha256) is None:
        yield Fault("/model/lineage/dataset_sha256", "wrong_form", "must be a SHA-256 in hex")
    if lineage.base_model_id is not None and not is_id(lineage.base_model_id, "mdl"):
        yield Fault("/model/lineage/base_model_id", "wrong_form", "must be an id")
    try:
        told = {**lineage.model_dump(mode="json", exclude={"request"}), "request": lineage.request}
        size = len(json.dumps(told, allow_nan=False))
        named = NetworkShape.model_validate(lineage.request.get("network"))
    except ValueError:  # of pydantic too
        yield Fault(
            "/model/lineage/request", "inconsistent", "must be a training request with the layers of the network"
        )
        return
    if size > lineage_bytes:
        yield Fault("/model/lineage", "out_of_range", f"must have at most {lineage_bytes} bytes")
    if named != shape:
        yield Fault("/model/lineage/request/network", "inconsistent", "must have the layers of the network")
