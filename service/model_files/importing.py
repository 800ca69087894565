"""From a file of a model to a model: whatever a stranger has written into it, a whole model comes of it or a refusal.

First the header is read, then the description by its schema, then what no schema says is checked, then sizes are computed;
only then is room made for the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import CorruptRecord, Fault, Invalid
from common.features.columns import Column, EncodedColumn, EncoderDocument
from common.features.encoder import FeatureEncoder
from common.features.target import ClassTarget, NumberTarget, Target, target_from_document
from common.identifiers import new_id
from common.learned import LearnedDocument, LearnedNetwork, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import network_layout
from common.schemas.models import Imported, Model
from common.store.models import StoredModel
from service import problems
from service.model_files import form
from service.model_files.plausible import faults_of_columns, faults_of_model, faults_of_target, is_any_longer
from service.model_files.tensors import Header, Unfit, read_header, read_json, read_vector
from service.submission import MAX_CLASSES

_DESCRIPTION = f"/__metadata__/{form.DESCRIPTION}"
_COLUMN: TypeAdapter[Column] = TypeAdapter(EncodedColumn)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows."""

    columns: int
    parameters: int
    lineage_bytes: int
    """Of where a model came from, as JSON."""


def read_model(path: Path, size: int, sha256: str, limits: Limits, name: str | None, now: datetime) -> StoredModel:
    """The model in a file.

    Args:
        path: of the file.
        size: of the file, in bytes.
        sha256: of the file.
        limits: what is allowed.
        name: of the model; None: the one that the file says.
        now: when it is imported.

    Raises:
        Invalid: it holds none (`invalid_model_file`); every fault that was found is named. Pointers lead into the header,
            and from `/model` and `/network` on into the description.

    """
    try:
        header = read_header(path, size)
        return _whole(path, header, *_described(header, limits), sha256, limits, name, now)
    except Unfit as error:
        raise _refusal(error.faults) from None
    except CorruptRecord:  # whatever the checks before have let pass
        raise _refusal([Fault("", "inconsistent", "the parts of the file do not fit each other")]) from None


def _refusal(faults: tuple[Fault, ...] | list[Fault]) -> Invalid:
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Invalid(f"The file of the model has {count}.", faults[: problems.MAX_FAULTS], code="invalid_model_file")


def _described(header: Header, limits: Limits) -> tuple[form.Description, object]:
    """The description, as its schema has it, and what it says of the inputs, which has to be what the encoder says.

    What could hold endlessly many faults is not validated in one piece: all of them would be kept until the last is found.

    Raises:
        Unfit: it is none.

    """
    if form.DESCRIPTION not in header.metadata:
        raise Unfit(Fault(_DESCRIPTION, "missing", "is required: is this a model that was exported here?"))
    document = read_json(header.metadata[form.DESCRIPTION].encode(), _DESCRIPTION)
    longest = max(limits.columns, MAX_CLASSES)
    if is_any_longer(document, longest):
        message = f"no array or object may have more than {longest} entries"
        raise Unfit(Fault(_DESCRIPTION, "out_of_range", message))
    model = document.get("model") if isinstance(document, dict) else None
    inputs: object = None
    if isinstance(model, dict):
        inputs = model.pop("inputs", None)
        for name in ("evaluation", "aliases"):
            model.pop(name, None)
        model["inputs"] = []
    try:
        return form.Description.model_validate(document), inputs
    except ValidationError as error:
        raise Unfit(*problems.faults_of_body(error.errors(), document)) from None


def _whole(
    path: Path,
    header: Header,
    description: form.Description,
    inputs: object,
    sha256: str,
    limits: Limits,
    name: str | None,
    now: datetime,
) -> StoredModel:
    model, network = description.model, description.network
    encoder, target = _encoder(network, limits), _target(network)
    faults = [
        *faults_of_target(target, network.loss, "/network"),
        *faults_of_model(model, network.network, limits.lineage_bytes),
        *_mismatches(model, inputs, encoder, target),
    ]
    if faults:
        raise Unfit(*faults)
    outputs = width_of(target, network.loss)
    try:
        layout = network_layout(network.network, encoder.width, outputs, encoder.embeddings)
    except ValueError:
        message = "the layers do not fit each other, or the inputs"
        raise Unfit(Fault("/network/network/layers", "inconsistent", message)) from None
    if layout.size > limits.parameters:
        message = f"makes {layout.size} parameters; {limits.parameters} are allowed"
        raise Unfit(Fault("/network/network/layers", "too_many_parameters", message))
    if layout.size != model.parameters:
        raise Unfit(Fault("/model/parameters", "inconsistent", f"the network has {layout.size} parameters"))
    weights = weights_to_bytes(read_vector(path, header, layout))
    learned = LearnedNetwork.load(network.model_dump(mode="json"), weights)
    came = Imported(
        sha256=sha256,
        model_id=model.id,
        name=model.name,
        version=model.version,
        created_at=model.created_at,
    )
    record = model.model_copy(
        update={
            "id": new_id("mdl"),
            "name": name or model.name,
            "version": 0,  # given when it is published
            "inputs": encoder.inputs,
            "created_at": now,
            "lineage": model.lineage.model_copy(update={"imported": came}),
        }
    )
    return StoredModel(record, learned.to_document().model_dump(mode="json"), weights)


def _encoder(network: LearnedDocument, limits: Limits) -> FeatureEncoder:
    at, columns = "/network/encoder", network.encoder.get("columns")
    try:
        EncoderDocument.model_validate({**network.encoder, "columns": []})
    except ValidationError as error:
        raise Unfit(*_below(at, error, network.encoder)) from None
    if not isinstance(columns, list) or not 1 <= len(columns) <= limits.columns:
        raise Unfit(Fault(f"{at}/columns", "too_many_columns", f"must be an array of 1 to {limits.columns}"))
    read: list[Column] = []
    faults: list[Fault] = []
    for place, column in enumerate(columns):
        try:
            read.append(_COLUMN.validate_python(column))
        except ValidationError as error:
            faults += _below(f"{at}/columns/{place}", error, column)
        if len(faults) >= problems.MAX_FAULTS:
            break
    faults = faults or [*faults_of_columns(read, at)]
    if faults:
        raise Unfit(*faults)
    return FeatureEncoder(read)


def _target(network: LearnedDocument) -> Target:
    kind = ClassTarget if network.target.get("task") == "classification" else NumberTarget
    try:
        kind.model_validate(network.target)
    except ValidationError as error:
        raise Unfit(*_below("/network/target", error, network.target)) from None
    return target_from_document(network.target)


def _below(pointer: str, error: ValidationError, document: object) -> Iterator[Fault]:
    for fault in problems.faults_of_body(error.errors(), document):
        yield Fault(pointer + fault.pointer, fault.code, fault.message)


def _mismatches(model: Model, inputs: object, encoder: FeatureEncoder, target: Target) -> Iterator[Fault]:
    """Where the record says other things of the network than the network does."""
    if model.task != target.task:
        yield Fault("/model/task", "inconsistent", "is not the task of the target")
    if inputs != [each.model_dump(mode="json") for each in encoder.inputs]:
        yield Fault("/model/inputs", "inconsistent", "are not those of the encoder")
    if model.output != output_of(model.output.name, target):
        yield Fault("/model/output", "inconsistent", "is not what the target says")
    if any(column.name == model.output.name for column in encoder.columns):
        yield Fault("/model/output/name", "target_is_feature", "is an input as well")
