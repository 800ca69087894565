"""A training request against its data set: everything that is wrong with it, or the request with all defaults filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from common.errors import Fault, NotFound, pointer_part
from common.features.categories import name_of_value
from common.network.embedding import Embedding
from common.network.parameters import GRAIN
from common.network.structure import parameter_count
from common.schemas import training
from common.schemas.datasets import Column, ColumnKind, Dataset
from common.schemas.losses import FITTING, CrossEntropy, Loss, MeanSquaredError, Quantile
from common.schemas.models import Model, Task
from common.schemas.network import NetworkShape
from common.schemas.optimizers import Regularization
from common.schemas.training import TrainingRequest, slug
from common.settings import Settings
from service.describing.cautions import training_cautions
from service.inputs import Inputs, inputs_of, values_of
from service.problems import faults_of_body

MAX_CLASSES_OF_INTEGERS = 20
MAX_CLASSES = 10_000
ADAMW_DECAY = 0.01
_FLOAT_BYTES = 4
_VECTORS = 7
"""Parameters, their mean gradient, two moments, the best so far, the mean since then, and the copy that becomes the model."""
_VECTORS_OF_REPRODUCIBLE = 8
"""At most, for each worker: the gradient of a leaf, sums that are not complete yet, and those that it sends."""
_VECTORS_PER_WORKER = {"synchronous": 1, "bounded_staleness": 2, "local_steps": 5}
"""Its gradient; parameters that the server does not write meanwhile; gradient and moments of its own."""


@dataclass(slots=True)
class Assessment:
    """What a request comes to."""

    request: TrainingRequest | None = None
    """With every default filled in; None if there are faults."""
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    task: Task | None = None
    rows: int | None = None
    features: int | None = None
    """Inputs of the network."""
    classes: int | None = None
    parameters: int | None = None
    memory_bytes: int | None = None


def assess(
    body: Mapping[str, object],
    find_dataset: Callable[[str], Dataset],
    find_model: Callable[[str], Model],
    settings: Settings,
    draw_seed: Callable[[], int],
) -> Assessment:
    """Checks the whole of a request and fills in what it leaves open.

    Args:
        body: as it came.
        find_dataset: the data set of an id.
        find_model: the model of an id.
        settings: the operator's limits.
        draw_seed: called when the request has no seed.

    Raises:
        NotFound: the request is well formed, and there is no such data set.

    """
    found = Assessment()
    request = _read(body, found)
    if request is None:
        return found
    base = None
    if request.base_model_id is not None:
        base = _base(request.base_model_id, find_model, found)
    if base is not None and "network" not in body:
        request = request.model_copy(update={"network": _network_of(base)})
    request = request.model_copy(update={"cluster": _allowed(request.cluster, settings)})
    try:
        dataset = find_dataset(request.dataset_id)
    except NotFound:
        if not found.faults:
            raise
        found.faults.append(Fault("/dataset_id", "dataset_not_found", "there is no such data set"))
        return found
    if isinstance(request.validation, training.DatasetSplit):
        _check_judge(request, request.validation, dataset, find_dataset, found)
    resolved = _check(request, dataset, settings, found, draw_seed)
    if base is not None:
        _check_base(request, base, found)
    found.request = None if found.faults else resolved
    return found


def _base(model_id: str, find_model: Callable[[str], Model], found: Assessment) -> Model | None:
    try:
        return find_model(model_id)
    except NotFound:
        message = "there is no such model; must be the id of one, not a name or a job"
        found.faults.append(Fault("/base_model_id", "model_not_found", message))
        return None


def _network_of(base: Model) -> NetworkShape:
    return NetworkShape.model_validate(base.lineage.request["network"])


def _allowed(cluster: training.Cluster, settings: Settings) -> training.Cluster:
    """A default must not be refused: where no number of workers is given, there are no more than the operator allows."""
    if "workers" in cluster.model_fields_set or settings.max_workers is None:
        return cluster
    return cluster.model_copy(update={"workers": min(cluster.workers, settings.max_workers)})


def _check_base(request: TrainingRequest, base: Model, found: Assessment) -> None:
    if found.task is not None and base.task != found.task:
        message = f"is for {base.task}, and this is {found.task}"
        found.faults.append(Fault("/base_model_id", "unsuitable_base_model", message))
    if _skeleton(request.network) != _skeleton(_network_of(base)):
        message = "must have the layers of the model to begin with, or be left out"
        found.faults.append(Fault("/network/layers", "unsuitable_base_model", message))


def _skeleton(shape: NetworkShape) -> list[object]:
    """What two networks must have in common for one to begin with the other's weights."""
    return [layer.model_dump(exclude={"dropout": True, "layers": {"__all__": {"dropout"}}}) for layer in shape.layers]


def _read(body: Mapping[str, object], found: Assessment) -> TrainingRequest | None:
    """The request; where it has faults, what is left of it without the fields that have, so that these are checked too."""
    try:
        return TrainingRequest.model_validate(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    found.faults += faults_of_body(details, body)
    bad = {detail["loc"][0] for detail in details}
    rest = {name: value for name, value in body.items() if name not in bad}
    places = [detail["loc"] for detail in details if detail["loc"][0] == "columns"]
    if isinstance(columns := body.get("columns"), dict) and ("columns",) not in places:
        odd = {place[1] for place in places}  # what is wrong with one says nothing of the others
        rest["columns"] = {name: options for name, options in columns.items() if name not in odd}
    try:
        return TrainingRequest.model_validate(rest)
    except ValidationError:
        return None


def _check(
    request: TrainingRequest,
    dataset: Dataset,
    settings: Settings,
    found: Assessment,
    draw_seed: Callable[[], int],
) -> TrainingRequest | None:
    target = dataset.column(request.target)
    if target is None:
        found.faults.append(Fault("/target", "unknown_column", "the data set has no column of this name"))
        return None
    task = _task(request, target, found)
    inputs = inputs_of(request, dataset, found.faults, found.warnings)
    _check_weights(request, dataset, found)
    _check_validation(request, dataset, found)
    loss = _loss(request, task, target, found)
    _check_class_weights(request, task, target, found)
    regularization = _regularization(request, found)
    rows = dataset.rows - target.missing
    if not request.network.layers:
        found.faults.append(Fault("/network/layers", "out_of_range", "must hold at least one layer"))
    found.task, found.rows = task, rows
    found.features = inputs.width
    found.classes = target.distinct if task == "classification" else None
    _check_rows(request, rows, target, found)
    found.warnings += training_cautions(
        target, [*inputs.columns.values()], dataset.rows, classes=task == "classification"
    )
    _check_reproducible(request, found)
    if inputs.features:
        outputs = len(loss.quantiles) if isinstance(loss, Quantile) else found.classes or 1
        _check_size(request, rows, found.features, outputs, inputs.embeddings, settings, found)
    return _resolved(request, dataset, task, inputs, loss, regularization, draw_seed)


def _task(request: TrainingRequest, target: Column, found: Assessment) -> Task:
    if target.kind in ("datetime", "text"):
        what = (
            "a date or time"
            if target.kind == "datetime"
            else f"text of too many different values ({target.distinct:,})"
        )
        found.faults.append(Fault("/target", "unsuitable_target", f"{what} cannot be a target"))
    is_number = target.kind == "numeric"
    task: Task = "regression" if is_number and not _are_classes(request, target) else request.task or "classification"
    if task == "regression" and not is_number:
        found.faults.append(Fault("/task", "unsuitable_target", "regression needs a target of numbers"))
    if task == "classification":
        if is_number and not target.integer:
            found.faults.append(
                Fault(
                    "/task",
                    "unsuitable_target",
                    "classification needs a target of text, booleans or whole numbers",
                )
            )
        if target.distinct > MAX_CLASSES:
            found.faults.append(Fault("/target", "too_many_classes", f"must have at most {MAX_CLASSES} classes"))
        if target.distinct < 2:
            found.faults.append(Fault("/target", "one_class", "must have at least two different values"))
    elif target.distinct == 1:
        found.warnings.append("The target has the same value in every row.")
    return task


def _are_classes(request: TrainingRequest, target: Column) -> bool:
    """Whether a target of numbers is one of classes."""
    if request.task is not None:
        return request.task == "classification"
    return target.integer and target.distinct <= MAX_CLASSES_OF_INTEGERS


def _check_weights(request: TrainingRequest, dataset: Dataset, found: Assessment) -> None:
    if request.weight_column is not None:
        fault = _fault_of_weights(dataset.column(request.weight_column), request.target)
        found.faults += [fault] if fault else []


_SPLITTING: Mapping[str, tuple[ColumnKind, ...]] = {
    "group": ("numeric", "boolean", "categorical", "text", "datetime"),
    "time": ("numeric", "datetime"),
    "column": ("numeric", "boolean", "categorical", "text"),
}


def _check_validation(request: TrainingRequest, dataset: Dataset, found: Assessment) -> None:
    """The column that says which rows judge, where one does."""
    validation, pointer = request.validation, "/validation/column"
    if not isinstance(validation, training.GroupSplit | training.TimeSplit | training.ColumnSplit):
        return
    column, kinds = dataset.column(validation.column), _SPLITTING[validation.kind]
    if column is None:
        found.faults.append(Fault(pointer, "unknown_column", "the data set has no column of this name"))
        return
    if column.name == request.target:
        found.faults.append(Fault(pointer, "unsuitable_column", "the target cannot also say what validates"))
    if column.kind not in kinds:
        message = f"is of kind {column.kind}; must be of one of the kinds {', '.join(kinds)}"
        found.faults.append(Fault(pointer, "unsuitable_column", message))
    elif column.distinct < 2 and validation.kind != "group":
        message = "has the same value in every row; nothing would be left to learn from or to judge by"
        found.faults.append(Fault(pointer, "unsuitable_column", message))
    if isinstance(validation, training.ColumnSplit) and not _is_of(validation.value, column):
        message = f"must be of the type of the column, whose kind is {column.kind}"
        found.faults.append(Fault("/validation/value", "unsuitable_column", message))
    elif isinstance(validation, training.ColumnSplit) and _is_unknown(validation.value, column):
        message = "is no value of the column; no row would be left to judge by"
        found.faults.append(Fault("/validation/value", "unknown_category", message))


def _is_unknown(value: bool | float | str, column: Column) -> bool:
    values = values_of(column)
    return values is not None and name_of_value(value) not in values


_STORED_AS: Mapping[ColumnKind, str] = {"categorical": "text"}
_NAMED = 5


def _check_judge(
    request: TrainingRequest,
    validation: training.DatasetSplit,
    dataset: Dataset,
    find_dataset: Callable[[str], Dataset],
    found: Assessment,
) -> None:
    """The other data set, whose rows judge."""
    pointer = "/validation/dataset_id"
    try:
        judge = find_dataset(validation.dataset_id)
    except NotFound:
        found.faults.append(Fault(pointer, "dataset_not_found", "there is no such data set"))
        return
    names = request.features or tuple(c.name for c in dataset.columns if c.kind != "text" or c.name in request.columns)
    theirs = {column.name: column for column in judge.columns}
    missing, unlike = [], []
    for name in dict.fromkeys(filter(None, (*names, request.target, request.weight_column))):
        ours, column = dataset.column(name), theirs.get(name)
        if ours is None:
            continue  # is told elsewhere
        if column is None:
            missing.append(name)
        elif _STORED_AS.get(ours.kind, ours.kind) != _STORED_AS.get(column.kind, column.kind) and column.distinct:
            unlike.append(name)
    for columns, what in ((missing, "has no column"), (unlike, "has values of another type in the column")):
        if columns:
            more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
            message = f"{what} {', '.join(columns[:_NAMED])}{more}"
            found.faults.append(Fault(pointer, "unsuitable_dataset", message))
    target = theirs.get(request.target)
    ours = dataset.column(request.target)
    is_class = ours is not None and ours.kind == "numeric" and _are_classes(request, ours)
    if target is not None and is_class and target.distinct and not target.integer:
        found.faults.append(Fault(pointer, "unsuitable_dataset", "has a target of numbers that are not whole"))
    if target is not None and target.missing == judge.rows:
        found.faults.append(Fault(pointer, "unsuitable_dataset", "has no row with a target"))
    if request.weight_column is not None and (
        fault := _fault_of_weights(theirs.get(request.weight_column), request.target)
    ):
        found.faults.append(Fault(pointer, fault.code, f"its column of weights: {fault.message}"))


def _is_of(value: object, column: Column) -> bool:
    if isinstance(value, bool):
        return column.kind == "boolean"
    return column.kind == "numeric" if isinstance(value, int | float) else column.kind in ("categorical", "text")


def _fault_of_weights(column: Column | None, target: str) -> Fault | None:
    pointer, why = "/weight_column", None
    if column is None:
        return Fault(pointer, "unknown_column", "the data set has no column of this name")
    if column.name == target:
        return Fault(pointer, "weight_is_target", "the target cannot also be the weights")
    if column.kind not in ("numeric", "boolean"):
        why = "weights must be numbers"
    elif column.missing:
        why = f"{column.missing} rows have no weight"
    elif column.min is not None and column.min < 0:
        why = "no weight may be below zero"
    elif column.distinct == 1 and column.mean == 0:
        why = "all weights are zero"
    return Fault(pointer, "unsuitable_weight", why) if why else None


def _loss(request: TrainingRequest, task: Task, target: Column, found: Assessment) -> Loss:
    loss = request.loss or (CrossEntropy() if task == "classification" else MeanSquaredError())
    if loss.kind not in FITTING[task]:
        found.faults.append(
            Fault("/loss", "unsuitable_loss", f"{task} needs one of the losses {', '.join(FITTING[task])}")
        )
    elif loss.kind == "poisson" and target.min is not None and target.min < 0:
        found.faults.append(Fault("/loss", "unsuitable_loss", "poisson needs a target that is never below zero"))
    elif loss.kind == "poisson" and target.max == 0:
        found.faults.append(Fault("/loss", "unsuitable_loss", "poisson needs a target that is not always zero"))
    return loss


def _check_class_weights(request: TrainingRequest, task: Task, target: Column, found: Assessment) -> None:
    weights, pointer = request.class_weights, "/class_weights"
    if weights is None:
        return
    if task != "classification":
        found.faults.append(Fault(pointer, "unsuitable_weight", "only a classification has classes to weigh"))
    elif weights != "balanced" and weights and not any(weights.values()):
        found.faults.append(Fault(pointer, "unsuitable_weight", "all weights are zero"))
    elif weights != "balanced" and (classes := values_of(target)) is not None and (odd := set(weights) - classes):
        found.faults += [
            Fault(f"{pointer}/{pointer_part(name)}", "unknown_class", "is no class of the target")
            for name in sorted(odd)
        ]


def _regularization(request: TrainingRequest, found: Assessment) -> Regularization:
    given = request.regularization
    if given.clip_norm is not None and given.clip_value is not None:
        message = "cannot be given together with clip_norm"
        found.faults.append(Fault("/regularization/clip_value", "conflicting_options", message))
    if given.max_norm is not None and request.cluster.servers > 1:
        message = "needs one server: a unit's weights would lie on several"
        found.faults.append(Fault("/regularization/max_norm", "conflicting_options", message))
    if request.optimizer.kind == "adamw" and "weight_decay" not in given.model_fields_set:
        return given.model_copy(update={"weight_decay": ADAMW_DECAY})
    return given


def _check_rows(request: TrainingRequest, rows: int, target: Column, found: Assessment) -> None:
    validation = request.validation
    least = 2 if isinstance(validation, training.RandomSplit) else 1
    if rows < least:
        found.faults.append(
            Fault("/dataset_id", "too_few_rows", f"needs at least {least} rows with a target; it has {rows}")
        )
    elif isinstance(validation, training.RandomSplit) and rows * (1 - validation.fraction) < 0.5:
        found.faults.append(Fault("/validation/fraction", "out_of_range", "leaves no rows to learn from"))
    elif (
        found.task == "classification"
        and isinstance(validation, training.RandomSplit)
        and target.kind not in ("text", "datetime")  # which has been refused
        and target.distinct == rows
    ):
        found.faults.append(
            Fault("/target", "too_few_rows", "no class has two rows, one to learn from and one to judge by")
        )
    if target.missing:
        found.warnings.append(f"{target.missing} rows have no target and are left out.")


def _check_size(
    request: TrainingRequest,
    rows: int,
    inputs: int,
    outputs: int,
    embeddings: list[Embedding],
    settings: Settings,
    found: Assessment,
) -> None:
    found.parameters = parameter_count(request.network, inputs, outputs, embeddings)
    batch = request.training.batch_size or _batch_size(rows)
    activations = 3 * batch * (request.network.units + inputs)
    per_worker = (
        _VECTORS_OF_REPRODUCIBLE
        if request.training.reproducible
        else _VECTORS_PER_WORKER[request.cluster.synchrony.kind]
    )
    vectors = (_VECTORS + per_worker * request.cluster.workers) * found.parameters
    found.memory_bytes = _FLOAT_BYTES * (vectors + activations + rows * inputs)
    if found.parameters > settings.max_parameters:
        limit = settings.max_parameters
        found.faults.append(
            Fault(
                "/network/layers",
                "too_many_parameters",
                f"makes {found.parameters} parameters; {limit} are allowed",
            )
        )
    if settings.max_rows is not None and rows > settings.max_rows:
        found.faults.append(
            Fault("/dataset_id", "too_many_rows", f"has {rows} rows with a target; {settings.max_rows} are allowed")
        )
    if settings.max_workers is not None and request.cluster.workers > settings.max_workers:
        found.faults.append(Fault("/cluster/workers", "out_of_range", f"must be at most {settings.max_workers} here"))
    grains = -(-found.parameters // GRAIN)
    if request.cluster.servers > grains:
        found.faults.append(
            Fault(
                "/cluster/servers",
                "out_of_range",
                f"must be at most {grains} for a network of {found.parameters} parameters, which are split by {GRAIN}",
            )
        )


def _check_reproducible(request: TrainingRequest, found: Assessment) -> None:
    if not request.training.reproducible:
        return
    if request.cluster.synchrony.kind != "synchronous":
        found.faults.append(
            Fault("/cluster/synchrony", "unsuitable_synchrony", "a reproducible training must be synchronous")
        )
    if request.cluster.workers > training.MAX_REPRODUCIBLE_WORKERS:
        most = training.MAX_REPRODUCIBLE_WORKERS
        found.faults.append(
            Fault("/cluster/workers", "out_of_range", f"must be at most {most} for a reproducible training")
        )


def _resolved(
    request: TrainingRequest,
    dataset: Dataset,
    task: Task,
    inputs: Inputs,
    loss: Loss,
    regularization: Regularization,
    draw_seed: Callable[[], int],
) -> TrainingRequest:
    steps = request.training
    steps = steps.model_copy(
        update={
            "batch_size": steps.batch_size or _batch_size(dataset.rows),
            "seed": draw_seed() if steps.seed is None else steps.seed,
        }
    )
    return request.model_copy(
        update={
            "task": task,
            "features": tuple(feature.name for feature in inputs.features),
            "columns": inputs.options,
            "loss": loss,
            "regularization": regularization,
            "training": steps,
            "model_name": request.model_name or slug(request.name or "") or slug(dataset.name) or "model",
        }
    )


def _batch_size(rows: int) -> int:
    """The default: small data sets take many small steps, large ones fewer large ones."""
    return 32 if rows < 2_000 else 128 if rows < 20_000 else 256
