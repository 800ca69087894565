"""The target column to what a loss needs, and back to what people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field, StrictBool, StrictInt, StrictStr, ValidationError

from common.errors import BadData, CorruptRecord
from common.features.moments import mean_and_std, standardize, usable_scale
from common.features.table import MISSING, Coded, TableColumn
from common.schemas.models import Label, Task
from common.schemas.record import Listed, Record


class ClassTarget(Record):
    """Classes, sorted, in the type they have in the data: text, boolean or integer."""

    task: Literal["classification"] = "classification"
    classes: Annotated[Listed[StrictBool | StrictInt | StrictStr], Field(min_length=2)]

    @classmethod
    def fit(cls, values: Coded) -> ClassTarget:
        """The classes of all labelled rows, so that no validation row holds an unknown one.

        Raises `BadData` for fewer than two.
        """
        counts = np.bincount(values.codes[values.codes >= 0], minlength=len(values.values))
        classes = tuple(label for label, count in zip(values.values, counts, strict=True) if count)
        if len(classes) < 2:
            raise BadData(f"the target holds {len(classes)} classes; at least 2 are needed")
        return cls(classes=classes)

    def encode(self, values: Coded) -> NDArray[np.int64]:
        """The number of each row's class, int64, shape (n,); -1 where there is none, or an unknown one."""
        codes = {label: code for code, label in enumerate(self.classes)}
        lookup = [codes.get(label, MISSING) for label in values.values] + [MISSING]
        return np.array(lookup, np.int64)[values.codes]

    def decode(self, code: int) -> Label:
        """The class of that number."""
        return self.classes[code]

    def to_document(self) -> dict[str, object]:
        """The target as JSON can say it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> ClassTarget:
        """The target that was saved; raises `CorruptRecord` for anything else."""
        return _restored(cls, document)


class NumberTarget(Record):
    """A number, standardized over the training rows so that its units don't matter to losses."""

    task: Literal["regression"] = "regression"
    mean: float
    scale: Annotated[float, Field(gt=0)]

    @classmethod
    def fit(cls, values: NDArray[np.float64], training_rows: NDArray[np.intp], *, counts: bool = False) -> NumberTarget:
        """Mean and standard deviation of the training rows that have a value; scale 1 for a constant target.

        Counts keep their zero, and their scale is their mean. Raises `BadData` when no training row has a value, or
        one is infinite, and for counts below zero.
        """
        known = values[training_rows]
        known = known[~np.isnan(known)]
        if known.size == 0:
            raise BadData("no training row has a value for the target")
        if not np.isfinite(known).all():
            raise BadData("the target holds an infinite number")
        mean, std = mean_and_std(known)
        if counts:
            if np.nanmin(values) < 0:
                raise BadData("the target holds a number below zero, which is no count")
            return cls(mean=0.0, scale=usable_scale(mean))
        return cls(mean=mean, scale=usable_scale(std))

    def encode(self, values: NDArray[np.float64], dtype: DTypeLike = np.float32) -> NDArray[np.floating]:
        """The standardized numbers, shape (n, 1), of `dtype`; NaN where there is none, infinite where it is too far."""
        with np.errstate(over="ignore"):
            return standardize(values, self.mean, self.scale).astype(dtype)[:, None]

    def decode(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Standardized numbers of any shape back in the target's own units, float64."""
        return 2 * (values.astype(np.float64) * (self.scale / 2) + self.mean / 2)

    def to_document(self) -> dict[str, object]:
        """The target as JSON can say it; `from_document` gives back the same, to the last bit."""
        return self.model_dump(mode="json")

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> NumberTarget:
        """The target that was saved; raises `CorruptRecord` for anything else."""
        return _restored(cls, document)


Target = ClassTarget | NumberTarget
_Kind = TypeVar("_Kind", ClassTarget, NumberTarget)


def fit_target(task: Task, values: TableColumn, training_rows: NDArray[np.intp], *, counts: bool = False) -> Target:
    """The target of a task: classes of all labelled rows, or numbers standardized over the training rows.

    Numbers that are `counts` are only scaled.

    `values` are `Coded` labels for classification and float64 with NaN for missing for regression. Raises
    `BadData` when they aren't, or don't allow the task.
    """
    if task == "classification":
        if not isinstance(values, Coded):
            raise BadData("classification needs labels: text, booleans or whole numbers")
        return ClassTarget.fit(values)
    if isinstance(values, Coded):
        raise BadData("regression needs a target of numbers")
    return NumberTarget.fit(values, training_rows, counts=counts)


def target_from_document(document: Mapping[str, object]) -> Target:
    """The target that was saved, of either kind; raises `CorruptRecord` for anything else."""
    kind = ClassTarget if document.get("task") == "classification" else NumberTarget
    return kind.from_document(document)


def _restored(kind: type[_Kind], document: Mapping[str, object]) -> _Kind:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise CorruptRecord("the saved target can't be read") from error


def name_of(label: Label) -> str:
    """A class as a key of a JSON object."""
    return ("true" if label else "false") if isinstance(label, bool) else str(label)
