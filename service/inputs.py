"""What a training request wants of each column: everything that is wrong with it, and what follows where nothing is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from common.errors import Fault, pointer_part
from common.features import times
from common.features.categories import MAX_CATEGORIES, name_of_value
from common.features.feature import TAKEN_FOR, Feature
from common.features.moments import EXACT
from common.network.embedding import Embedding
from common.schemas.columns import ColumnOptions, ConstantMissing, ErrorMissing, FeatureKind
from common.schemas.datasets import Column, Dataset
from common.schemas.training import ColumnSplit, GroupSplit, TrainingRequest, Validation
from service.describing.cautions import named

MAX_ONE_HOT = 100
"""Distinct values up to which a categorical column becomes one input per category."""
_OF_CATEGORIES = ("encoding", "order", "min_count", "width")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The columns to learn from, with everything that was left open filled in."""

    features: tuple[Feature, ...]
    columns: Mapping[str, Column]
    """Their descriptions, by name."""

    @property
    def options(self) -> dict[str, ColumnOptions]:
        """What the request says of columns in full."""
        return {f.name: f.options for f in self.features if f.options != ColumnOptions()}

    @property
    def width(self) -> int:
        """How many inputs of the network they become, if the training rows hold every category."""
        return sum(map(self._width, self.features))

    @property
    def embeddings(self) -> list[Embedding]:
        """Those that the encoder will ask for if the training rows hold every category."""
        found, place = list[Embedding](), 0
        for feature in self.features:
            if feature.options.encoding == "embedding" and feature.options.width is not None:
                found.append(Embedding(place, self._categories(feature) + 1, feature.options.width))
            place += self._width(feature)
        return found

    def _width(self, feature: Feature) -> int:
        options = feature.options
        if feature.kind == "categorical":
            return self._categories(feature, others=True) if options.encoding in (None, "one_hot") else 1
        indicator = getattr(options.missing, "indicator", False)
        return (times.WIDTH if feature.kind == "datetime" else 1) + indicator

    def _categories(self, feature: Feature, *, others: bool = False) -> int:
        """Categories, and missing as one; with `others`, the rare ones as another."""
        column, options = self.columns[feature.name], feature.options
        missing = bool(column.missing) and not isinstance(options.missing, ConstantMissing)
        has_rare = column.distinct > MAX_CATEGORIES or (options.min_count or 1) > 1
        return min(column.distinct, MAX_CATEGORIES) + missing + (others and has_rare)


def inputs_of(request: TrainingRequest, dataset: Dataset, faults: list[Fault], warnings: list[str]) -> Inputs:
    """The columns to learn from; what is wrong or worth knowing is added to `faults` and `warnings`."""
    columns = _chosen(request, dataset, faults, warnings)
    for name in request.columns:
        if name not in columns:
            fault = Fault(f"/columns/{pointer_part(name)}", "unknown_column", "is none of the features")
            faults.append(fault)
    features = []
    for name, column in columns.items():
        options = request.columns.get(name, ColumnOptions())
        kind = options.kind or TAKEN_FOR[column.kind][0]
        if name in request.columns:
            faults += _faults(f"/columns/{pointer_part(name)}", kind, column, options)
        features.append(Feature(name, kind, column.kind, _in_full(kind, column, options)))
    return Inputs(tuple(features), columns)


def _chosen(request: TrainingRequest, dataset: Dataset, faults: list[Fault], warnings: list[str]) -> dict[str, Column]:
    if request.features is None:
        apart = {request.target, request.weight_column, _splitting(request.validation)}
        columns = [column for column in dataset.columns if column.name not in apart]
        usable = {c.name: c for c in columns if c.kind != "text" or _has_kind(request, c.name)}
        left_out = [column.name for column in columns if column.name not in usable]
        if left_out:
            warnings.append(f"{named(left_out)} text of too many different values; left out of this training")
        if not usable:
            message = "the data set has no column to learn from beside the target"
            faults.append(Fault("/features", "no_features", message))
        return usable
    found, known = dict[str, Column](), {column.name: column for column in dataset.columns}
    seen = set[str]()
    for index, name in enumerate(request.features):
        column = known.get(name)
        if name == request.target:
            fault = "target_is_feature", "the target cannot also be a feature"
        elif name == request.weight_column:
            fault = "weight_is_feature", "the weights cannot also be a feature"
        elif name == _splitting(request.validation):
            fault = "validation_is_feature", "the column that says what validates cannot also be a feature"
        elif name in seen:
            fault = "duplicate_feature", "stands twice"
        elif column is None:
            fault = "unknown_column", "the data set has no column of this name"
        elif column.kind == "text" and not _has_kind(request, name):
            message = 'is text with too many different values; its columns entry can say {"kind": "categorical"}'
            fault = "unsuitable_column", message
        else:
            found[name] = column
            fault = None
        if fault:
            faults.append(Fault(f"/features/{index}", *fault))
        seen.add(name)
    return found


def _splitting(validation: Validation) -> str | None:
    """The column that says which rows judge, where it is nothing to learn from."""
    return validation.column if isinstance(validation, GroupSplit | ColumnSplit) else None


def _has_kind(request: TrainingRequest, name: str) -> bool:
    return name in request.columns and request.columns[name].kind is not None


def _faults(pointer: str, kind: FeatureKind, column: Column, options: ColumnOptions) -> Iterator[Fault]:
    if kind not in TAKEN_FOR[column.kind]:
        allowed = " or ".join(TAKEN_FOR[column.kind])
        message = f"a column of kind {column.kind} can be taken for {allowed} only"
        yield Fault(f"{pointer}/kind", "unsuitable_column", message)
        return
    if kind == "categorical" and column.kind == "numeric" and _is_beyond_exact(column):
        message = "holds whole numbers of more than 53 bits, which are not told apart as categories; send them as text"
        yield Fault(f"{pointer}/kind", "unsuitable_column", message)
        return
    if kind != "categorical" and any(getattr(options, name) is not None for name in _OF_CATEGORIES):
        yield Fault(pointer, "unsuitable_column", f"a column of kind {kind} has no encoding to choose")
        return
    if kind != "numeric" and options.scale is not None:
        yield Fault(f"{pointer}/scale", "unsuitable_column", f"a column of kind {kind} has no scale to choose")
    if options.width is not None and options.encoding != "embedding":
        yield Fault(f"{pointer}/width", "unsuitable_column", "is for the encoding embedding")
    if options.order is not None and options.encoding != "ordinal":
        yield Fault(f"{pointer}/order", "unsuitable_column", "is for the encoding ordinal")
    if options.order is not None:
        yield from _faults_of_order(pointer, column, [name_of_value(value) for value in options.order])
    if why := _unsuitable_missing(kind, column, options):
        yield Fault(f"{pointer}/missing", "unsuitable_column", why)
    if isinstance(options.missing, ErrorMissing) and column.missing:
        why = f"{column.missing:,} rows have no value; they would all be refused"
        yield Fault(f"{pointer}/missing", "missing_values", why)


def _is_beyond_exact(column: Column) -> bool:
    return column.integer and max(-(column.min or 0.0), column.max or 0.0) >= EXACT


def _faults_of_order(pointer: str, column: Column, order: list[str]) -> Iterator[Fault]:
    if len(set(order)) < len(order):
        yield Fault(f"{pointer}/order", "duplicate_category", "names a category twice")
    known = values_of(column)
    if known is not None and not known & set(order):
        yield Fault(f"{pointer}/order", "unknown_category", "names no value that the column has")


def values_of(column: Column) -> set[str] | None:
    """The names of all values of a column, where its description has all of them."""
    return {name_of_value(v.value) for v in column.top if v.value is not None} if _has_all(column) else None


def _has_all(column: Column) -> bool:
    return 0 < column.distinct == len(column.top)


_MISSING: Mapping[FeatureKind, tuple[str, ...]] = {
    "numeric": ("mean", "median", "constant", "error"),
    "boolean": ("mean", "median", "constant", "error"),
    "datetime": ("mean", "median", "error"),
    "categorical": ("category", "constant", "error"),
}


def _unsuitable_missing(kind: FeatureKind, column: Column, options: ColumnOptions) -> str | None:
    missing = options.missing
    if missing is None:
        return None
    if missing.kind not in _MISSING[kind]:
        return f"of a column of kind {kind} must be one of: {', '.join(_MISSING[kind])}"
    if not isinstance(missing, ConstantMissing):
        return None
    if kind == "categorical" and missing.indicator:
        return "a category needs no indicator; leave missing out to give it a category of its own"
    holds = "numeric" if kind == "numeric" else column.kind
    if isinstance(missing.value, bool):
        return None if holds == "boolean" else f"value must be of the type of the column, whose kind is {column.kind}"
    is_number = isinstance(missing.value, float)
    if kind == "categorical" and column.kind == "numeric" and isinstance(missing.value, str):
        return None  # as the model names it
    if (holds == "numeric") != is_number or holds == "boolean":
        return f"value must be of the type of the column, whose kind is {column.kind}"
    return None


def _in_full(kind: FeatureKind, column: Column, options: ColumnOptions) -> ColumnOptions:
    encoding = options.encoding
    if kind == "categorical" and encoding is None and column.distinct > MAX_ONE_HOT:
        encoding = "embedding"
    if kind != "categorical" or encoding != "embedding":
        return options
    width = options.width or max(1, min(64, round(1.6 * min(column.distinct, MAX_CATEGORIES) ** 0.56)))
    return options.model_copy(update={"encoding": encoding, "width": width})
