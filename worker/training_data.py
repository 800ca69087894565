"""The rows of a data set as a run needs them: split, encoded, and the target beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import BadData, Invalid
from common.features.columns import FeatureKind
from common.features.encoder import FeatureEncoder
from common.features.split import split_rows
from common.features.table import Coded, TableColumn, read_labels, read_table
from common.features.target import Target, fit_target
from common.schemas.datasets import Dataset
from common.schemas.models import Task
from common.schemas.training import TrainingRequest
from common.store.files import DataFolder
from worker.task import TrainingData


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What was made of a data set for one training."""

    data: TrainingData
    encoder: FeatureEncoder
    target: Target
    has_validation: bool
    warnings: tuple[str, ...]


def prepare(request: TrainingRequest, task: Task, dataset: Dataset, files: DataFolder) -> PreparedData:
    """Reads, splits and encodes the rows; statistics are taken from training rows only.

    Args:
        request: resolved: `features` and the seed are given.
        task: what the target is.
        dataset: its description.
        files: where its rows lie.

    Raises:
        BadData: the rows do not allow this training.

    """
    path = files.dataset(dataset.id)
    if not path.exists():
        raise BadData("The rows of the data set are gone.")
    assert request.features is not None
    assert request.training.seed is not None
    columns = [(name, _feature_kind(dataset, name)) for name in request.features]
    table = read_table(path, request.features)
    values = (
        read_labels(path, request.target)
        if task == "classification"
        else read_table(path, [request.target])[request.target]
    )
    training_rows, validation_rows = split_rows(_codes(values), request.validation, request.training.seed)
    encoder = FeatureEncoder.fit(table, columns, training_rows)
    target = fit_target(task, values, training_rows)
    try:
        x = encoder.encode(table)
    except Invalid as error:  # a row far outside of what the training rows hold
        where = error.faults[0].pointer if error.faults else "a row"
        raise BadData(f"The number in {where} is too far from those of the training rows.") from error
    targets = target.encode(values)  # type: ignore[arg-type]
    train_x, train_targets = np.take(x, training_rows, axis=0), np.take(targets, training_rows, axis=0)
    has_validation = len(validation_rows) > 0
    data = TrainingData(
        train_x,
        train_targets,
        np.take(x, validation_rows, axis=0) if has_validation else train_x,
        np.take(targets, validation_rows, axis=0) if has_validation else train_targets,
    )
    return PreparedData(
        data, encoder, target, has_validation, tuple(_warnings(dataset, request.target, len(x), encoder))
    )


def _codes(values: TableColumn) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Class codes for the split, negative where a row has no target; numbers are all of one class."""
    if isinstance(values, Coded):
        return values.codes
    return np.where(np.isnan(values), -1, 0).astype(np.int64)


def _feature_kind(dataset: Dataset, name: str) -> FeatureKind:
    column = dataset.column(name)
    if column is None or column.kind == "text" or column.kind == "datetime":
        raise BadData(f"The column {name} cannot be learned from.")
    return column.kind


def _warnings(dataset: Dataset, target: str, rows: int, encoder: FeatureEncoder) -> list[str]:
    column = dataset.column(target)
    found = []
    if column is not None and column.missing:
        found.append(f"{column.missing} of {rows} rows have no target and were left out.")
    if encoder.joint_columns:
        found.append(f"{len(encoder.joint_columns)} columns look like pixels and are scaled together.")
    return found
