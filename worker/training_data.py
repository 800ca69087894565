"""The rows of a data set as a training needs them: split, encoded, target and weight beside them.

However large the set, making them takes memory for a few copies of one column and for one tile of the matrix: columns
are read one by one to learn how to encode them, and then again in tiles, some columns of some rows, that are encoded
straight to their place in `SharedRows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import BadData, Invalid
from common.features.columns import FeatureKind
from common.features.encoder import FeatureEncoder
from common.features.split import Rows, split_rows
from common.features.table import Coded, StoredTable, TableColumn
from common.features.target import Target, fit_target
from common.schemas.datasets import Dataset
from common.schemas.models import Task
from common.schemas.training import TrainingRequest
from common.settings import Settings
from common.store.files import DataFolder
from worker.shared_rows import RowsShape, SharedRows

_TILE_CELLS = 1 << 21
"""Numbers of the matrix that are made together: 8 MiB, and 16 MiB of the values they are made of."""
_STRIPE_BYTES = 1 << 28
"""Of the matrix that is in work at a time: every page of it is written several times, so it should stay in memory."""
_STRIPE_ROWS = 1 << 18
"""Most rows in work at a time: more are not read more quickly, for Parquet files come in groups of so many rows."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What was made of a data set for one training."""

    data: SharedRows
    encoder: FeatureEncoder
    target: Target
    has_validation: bool
    warnings: tuple[str, ...]


class Preparation:
    """How the rows of a training are made: on every machine that sees the data folder the same, bit by bit.

    Args:
        request: resolved: `features` and the seed are given.
        task: what the target is.
        dataset: the description of the rows.
        settings: where the rows lie, and the memory budget; looked at here and now, so that a preparation that is sent
            to another machine keeps to the same budget, and so to the same order of rows.

    """

    def __init__(self, request: TrainingRequest, task: Task, dataset: Dataset, settings: Settings) -> None:
        self._request = request
        self._task = task
        self._dataset = dataset
        self._files = DataFolder(settings.data_path)
        self._memory_bytes = settings.data_budget
        self._scratch = settings.scratch_path

    def prepare(self) -> PreparedData:
        """Reads, splits and encodes the rows; statistics are taken from training rows only.

        Raises:
            BadData: the rows do not allow this training.
            StorageFull, OutOfMemory: there is no room for the encoded rows.

        """
        request, path = self._request, self._files.dataset(self._dataset.id)
        if not path.exists():
            raise BadData("The rows of the data set are gone.")
        assert request.features is not None
        assert request.training.seed is not None
        table = StoredTable(path, request.features)
        values = self._target_values(table)
        training_rows, validation_rows = split_rows(_codes(values), request.validation, request.training.seed)
        target = fit_target(self._task, values, training_rows)
        del values  # a column may be all that memory has room for
        encoder = FeatureEncoder.fit(table, self._columns(), training_rows)
        shape = RowsShape(
            rows=len(training_rows),
            validation_rows=len(validation_rows),
            inputs=encoder.width,
            labels=self._task == "classification",
            weighted=request.weight_column is not None,
        )
        mean_weight = self._mean_weight(table, training_rows)
        data = SharedRows.create(shape, self._memory_bytes, self._scratch)
        try:
            self._fill(_sides(data, training_rows, validation_rows), table, encoder, target, mean_weight)
        except BaseException:
            data.close()
            raise
        warnings = tuple(_warnings(self._dataset, request.target, table.rows, encoder))
        return PreparedData(data, encoder, target, len(validation_rows) > 0, warnings)

    def _columns(self) -> list[tuple[str, FeatureKind]]:
        assert self._request.features is not None
        kinds = {column.name: column.kind for column in self._dataset.columns}
        columns = list[tuple[str, FeatureKind]]()
        for name in self._request.features:
            kind = kinds.get(name)
            if kind is None or kind == "text" or kind == "datetime":
                raise BadData(f"The column {name} cannot be learned from.")
            columns.append((name, kind))
        return columns

    def _target_values(self, table: StoredTable, start: int = 0, stop: int | None = None) -> TableColumn:
        name = self._request.target
        if self._task == "classification":
            return table.labels(name, start, stop)
        return table.read([name], start, stop)[name]

    def _mean_weight(self, table: StoredTable, training_rows: Rows) -> float:
        """That of the training rows. Weights are divided by it, which changes no mean, and keeps them near 1."""
        name = self._request.weight_column
        if name is None:
            return 1.0
        values = table.read([name])[name]
        if isinstance(values, Coded):
            raise BadData(f"The column {name} holds text; weights are numbers.")
        if not ((values >= 0) & (values < np.inf)).all():  # nor is a missing one
            raise BadData(f"The column {name} holds weights that are missing, negative or infinite.")
        values = values[training_rows]
        largest = float(values.max())
        if not largest:
            raise BadData("The weights of all training rows are zero.")
        return float((values / largest).mean()) * largest

    def _fill(
        self,
        sides: list[_Side],
        table: StoredTable,
        encoder: FeatureEncoder,
        target: Target,
        mean_weight: float,
    ) -> None:
        height = min(
            table.rows,
            _STRIPE_ROWS,
            max(1, _STRIPE_BYTES // (encoder.width * 4)),
            max(1, _TILE_CELLS // encoder.widest),
        )
        parts = list(encoder.parts(_TILE_CELLS // height))
        room = np.empty(height * max(part.width for _, _, part in parts), np.float32)
        for start in range(0, table.rows, height):
            stop = min(start + height, table.rows)
            chosen = [(side, *side.between(start, stop)) for side in sides]
            targets = target.encode(self._target_values(table, start, stop))  # type: ignore[arg-type]
            for side, place, rows in chosen:
                side.targets[place] = targets[rows]
            if self._request.weight_column is not None:
                column = table.read([self._request.weight_column], start, stop)[self._request.weight_column]
                assert not isinstance(column, Coded)
                with np.errstate(under="ignore", over="ignore"):
                    weights = (column / mean_weight).astype(np.float32)
                if not np.isfinite(weights).all():
                    raise BadData("A weight is too far from those of the training rows.")
                for side, place, rows in chosen:
                    assert side.weights is not None
                    side.weights[place] = weights[rows]
            for places, names, part in parts:
                tile = room[: (stop - start) * part.width].reshape(-1, part.width)
                try:
                    part.encode(table.read(names, start, stop), tile, start)
                except Invalid as error:  # a row far outside of what the training rows hold
                    where = error.faults[0].pointer if error.faults else "a row"
                    raise BadData(f"The number in {where} is too far from those of the training rows.") from error
                for side, place, rows in chosen:
                    side.x[place, places] = tile[rows]
        for side in sides:
            if side.weights is not None and not side.weights.any():
                raise BadData(f"The weights of all {side.name} rows are zero.")


@dataclass(frozen=True, slots=True)
class _Side:
    """Rows of the set, ascending, and the arrays that they go to, one after the other."""

    name: str
    rows: Rows
    x: NDArray[np.float32]
    targets: NDArray[np.int64] | NDArray[np.float32]
    weights: NDArray[np.float32] | None

    def between(self, start: int, stop: int) -> tuple[slice, Rows]:
        """Which of its places belong to the rows `start` … `stop` - 1 of the set, and to which of these rows."""
        first, last = np.searchsorted(self.rows, (start, stop))
        return slice(first, last), self.rows[first:last] - start


def _sides(data: SharedRows, training_rows: Rows, validation_rows: Rows) -> list[_Side]:
    training = _Side("training", training_rows, data.x, data.targets, data.weights)
    if not len(validation_rows):
        return [training]
    arrays = data.validation_x, data.validation_targets, data.validation_weights
    return [training, _Side("validation", validation_rows, *arrays)]


def _codes(values: TableColumn) -> NDArray[np.int64]:
    """Class codes for the split, negative where a row has no target; numbers are all of one class."""
    if isinstance(values, Coded):
        return values.codes
    return np.where(np.isnan(values), -1, 0).astype(np.int64, copy=False)


def _warnings(dataset: Dataset, target: str, rows: int, encoder: FeatureEncoder) -> list[str]:
    column = dataset.column(target)
    found = []
    if column is not None and column.missing:
        found.append(f"{column.missing} of {rows} rows have no target and were left out.")
    if encoder.joint_columns:
        found.append(f"{len(encoder.joint_columns)} columns look like pixels and are scaled together.")
    return found
