"""The rows of a data set as a training needs them: split, encoded, target and weight beside them.

However large the set, making them takes memory for a few copies of one column and for one tile of the matrix: columns
are read one by one to learn how to encode them, and then again in tiles, some columns of some rows, that are encoded
straight to their place in `SharedRows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import BadData, CorruptRecord, Invalid, NotFound
from common.features.categories import CategoryColumn
from common.features.encoder import FeatureEncoder
from common.features.feature import TAKEN_FOR, Feature
from common.features.split import Rows, split_rows
from common.features.table import Coded, StoredTable, TableColumn
from common.features.target import ClassTarget, Target, fit_target, name_of
from common.schemas.columns import ColumnOptions
from common.schemas.datasets import Dataset
from common.schemas.models import Task
from common.schemas.training import GroupSplit, TimeSplit, TrainingRequest
from common.settings import Settings
from common.store.files import open_files
from worker.shared_rows import RowsShape, SharedRows

_TILE_CELLS = 1 << 21
"""Numbers of the matrix that are made together: 8 MiB, and 16 MiB of the values they are made of."""
_STRIPE_BYTES = 1 << 28
"""Of the matrix that is in work at a time: every page of it is written several times, so it should stay in memory."""
_STRIPE_ROWS = 1 << 18
"""Most rows in work at a time: more are not read more quickly, for Parquet files come in groups of so many rows."""
FILES_SECONDS = 20.0
"""For which an object store is waited for; then the job is tried again, as after any other loss."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What was made of a data set for one training."""

    data: SharedRows
    encoder: FeatureEncoder
    target: Target
    has_validation: bool
    warnings: tuple[str, ...]
    class_weights: NDArray[np.float64] | None = None
    """How much a row of each class counts in the weights of rows, shape (classes,)."""


class Preparation:
    """How the rows of a training are made: on every machine that sees the data folder the same, bit by bit.

    Args:
        request: resolved: `features` and the seed are given.
        task: what the target is.
        dataset: the description of the rows.
        judge: the description of the data set whose rows judge, where that is another one.
        settings: where the rows lie, and the memory budget; looked at here and now, so that a preparation that is sent
            to another machine keeps to the same budget, and so to the same order of rows.

    """

    def __init__(
        self, request: TrainingRequest, task: Task, dataset: Dataset, judge: Dataset | None, settings: Settings
    ) -> None:
        self._request = request
        self._task = task
        self._dataset = dataset
        self._judge = judge
        self._files = open_files(settings, patience=FILES_SECONDS)
        self._memory_bytes = settings.data_budget
        self._scratch = settings.scratch_path

    def prepare(self) -> PreparedData:
        """Reads, splits and encodes the rows; statistics are taken from training rows only.

        Raises:
            BadData: the rows do not allow this training.
            StorageFull, OutOfMemory: there is no room for the encoded rows.
            FilesUnavailable: the rows are in an object store that does not answer.

        """
        with ExitStack() as held:
            judge = self._table(held, self._judge) if self._judge else None
            return self._prepare(self._table(held, self._dataset), judge)

    def _prepare(self, table: StoredTable, judge: StoredTable | None) -> PreparedData:
        """`judge` holds the validation rows, where these are of another data set."""
        request = self._request
        values = self._target_values(table)
        training_rows, validation_rows = self._split(table, values)
        counts = request.loss is not None and request.loss.kind == "poisson"
        target = fit_target(self._task, values, training_rows, counts=counts)
        shares = (
            None
            if request.class_weights is None
            else _class_weights(request.class_weights, target, values, training_rows)
        )
        del values  # a column may be all that memory has room for
        if judge is not None:
            validation_rows = self._labelled(judge, target)
        encoder = FeatureEncoder.fit(table, self._features(), training_rows)
        shape = RowsShape(
            rows=len(training_rows),
            validation_rows=len(validation_rows),
            inputs=encoder.width,
            labels=self._task == "classification",
            weighted=request.weight_column is not None or shares is not None,
        )
        mean_weight = self._mean_weight(table, training_rows)
        data = SharedRows.create(shape, self._memory_bytes, self._scratch)
        try:
            sides = _sides(data, training_rows, validation_rows)
            for rows, chosen in ((table, sides),) if judge is None else ((table, sides[:1]), (judge, sides[1:])):
                self._fill(chosen, rows, encoder, target, mean_weight, shares)
        except BaseException:
            data.close()
            raise
        warnings = [*_warnings(self._dataset, request.target, table.rows, encoder)]
        warnings += _share_warnings(request, len(training_rows), len(validation_rows))
        if judge is not None and (left_out := judge.rows - len(validation_rows)):
            warnings.append(f"{left_out} validation rows have no target, or one of no class known, and were left out.")
        return PreparedData(data, encoder, target, len(validation_rows) > 0, tuple(warnings), shares)

    def validation_numbers(self) -> NDArray[np.float64]:
        """The targets of a regression's validation rows, or else of its training rows, as they stand in the data set.

        Raises:
            BadData: the rows are gone.

        """
        with ExitStack() as held:
            table = self._table(held, self._judge or self._dataset)
            values = self._target_values(table)
            assert not isinstance(values, Coded)
            if self._judge is not None:
                return values[~np.isnan(values)]
            training_rows, validation_rows = self._split(table, values)
            return values[validation_rows if len(validation_rows) else training_rows]

    def _split(self, table: StoredTable, values: TableColumn) -> tuple[Rows, Rows]:
        """Training rows and validation rows, by the values of their target."""
        assert self._request.training.seed is not None
        validation, name = self._request.validation, getattr(self._request.validation, "column", None)
        column = None if name is None else table.exact(name) if validation.kind != "time" else table.read([name])[name]
        return split_rows(_codes(values), validation, self._request.training.seed, column)

    def _table(self, held: ExitStack, dataset: Dataset) -> StoredTable:
        """The rows of a data set, to be read as long as `held` is open."""
        try:
            path = held.enter_context(self._files.rows(dataset.id))
        except NotFound as error:
            raise BadData("The rows of the data set are gone.") from error
        except CorruptRecord as error:
            raise BadData("The rows of the data set are damaged.") from error
        assert self._request.features is not None
        return StoredTable(path, self._request.features)

    def _labelled(self, table: StoredTable, target: Target) -> Rows:
        """The rows of another data set that can judge."""
        encoded = target.encode(self._target_values(table))  # type: ignore[arg-type]
        is_known = encoded >= 0 if isinstance(target, ClassTarget) else ~np.isnan(encoded[:, 0])
        rows = np.flatnonzero(is_known)
        if not rows.size:
            raise BadData("No row of the validation data set has a target that can be judged by.")
        return rows

    def _features(self) -> list[Feature]:
        assert self._request.features is not None
        columns = {column.name: column for column in self._dataset.columns}
        found = list[Feature]()
        for name in self._request.features:
            column, options = columns.get(name), self._request.columns.get(name, ColumnOptions())
            if column is None:
                raise BadData(f"The data set has no column {name}.")
            if column.kind == "text" and options.kind is None:
                raise BadData(f"The column {name} cannot be learned from.")
            found.append(Feature(name, options.kind or TAKEN_FOR[column.kind][0], column.kind, options))
        return found

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

    def _weights(self, table: StoredTable, start: int, stop: int, mean_weight: float) -> NDArray[np.float64] | float:
        """The weights of some rows, in units of the mean."""
        name = self._request.weight_column
        if name is None:
            return 1.0
        column = table.read([name], start, stop)[name]
        assert not isinstance(column, Coded)
        return column / mean_weight

    def _fill(
        self,
        sides: list[_Side],
        table: StoredTable,
        encoder: FeatureEncoder,
        target: Target,
        mean_weight: float,
        shares: NDArray[np.float64] | None,
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
            if np.isinf(targets).any():
                row = start + int(np.argmax(np.isinf(targets))) + 1
                raise BadData(f"The target in row {row} is too far from those of the training rows.")
            for side, place, rows in chosen:
                side.targets[place] = targets[rows]
            if sides[0].weights is not None:
                numbers = np.ones(stop - start) if shares is None else shares[targets]
                with np.errstate(under="ignore", over="ignore"):
                    weights = (numbers * self._weights(table, start, stop, mean_weight)).astype(np.float32)
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


def _class_weights(
    wanted: Literal["balanced"] | Mapping[str, float], target: Target, values: TableColumn, training_rows: Rows
) -> NDArray[np.float64]:
    """How much a row of each class counts, shape (classes,)."""
    assert isinstance(target, ClassTarget)
    assert isinstance(values, Coded)
    if wanted == "balanced":  # King and Zeng (Political Analysis, 2001), as in scikit-learn
        counts = np.bincount(target.encode(values)[training_rows], minlength=len(target.classes))
        return len(training_rows) / (len(counts) * np.maximum(counts, 1))
    names = [name_of(label) for label in target.classes]
    if unknown := set(wanted) - set(names):
        raise BadData(f"class_weights names {min(unknown)}, which is no class of the target.")
    return np.array([wanted.get(name, 1.0) for name in names])


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
    empty = [c.name for c in encoder.columns if isinstance(c, CategoryColumn) and not c.categories]
    if empty:
        found.append(f"No category is in enough training rows, and all are one and the same: {', '.join(empty[:5])}.")
    if encoder.joint_columns:
        found.append(f"{len(encoder.joint_columns)} columns look like pixels and are scaled together.")
    return found


def _share_warnings(request: TrainingRequest, rows: int, validation_rows: int) -> list[str]:
    """Where whole groups or times do not allow what was asked for."""
    validation = request.validation
    if not isinstance(validation, GroupSplit | TimeSplit):
        return []
    share = validation_rows / (rows + validation_rows)
    if abs(share - validation.fraction) <= _ODD_SHARE * validation.fraction:
        return []
    what = "groups" if isinstance(validation, GroupSplit) else "rows of one time"
    return [f"{share:.1%} of the rows validate, for {what} stay together; {validation.fraction:.1%} were asked for."]


_ODD_SHARE = 0.25
