"""Which rows are learned from, and which ones only judge."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import BadData
from common.features.table import MISSING, Coded, TableColumn
from common.schemas.training import (
    ColumnSplit,
    DatasetSplit,
    GroupSplit,
    NoSplit,
    RandomSplit,
    TimeSplit,
    Validation,
)

Rows = NDArray[np.intp]
_PURPOSE = 0x5B117  # keeps these draws apart from others made with the same seed
_PIECE = 1 << 16  # rows that are drawn together: a few columns of all rows may be more than memory has room for


def split_rows(
    rows: int | NDArray[np.int64], validation: Validation, seed: int, column: TableColumn | None = None
) -> tuple[Rows, Rows]:
    """Training rows and validation rows, each ascending; the same for the same arguments.

    `rows` is their number, or a class code for each of them; a row with a negative code has no label and is
    left out. With codes and `stratify`, every class gives round(fraction x its rows) to validation, but keeps
    one row for training; else all rows are drawn from alike. One row is drawn in any case. `column` is that of the
    split, where it has one: groups are drawn until their rows are the fraction, the latest times are taken, or the rows
    of a value.

    Raises `BadData` when there is no row for one of the sides.
    """
    codes = np.zeros(rows, np.int64) if isinstance(rows, int) else rows
    candidates = np.flatnonzero(codes >= 0)
    if candidates.size == 0:
        raise BadData("no row has a value for the target")
    if isinstance(validation, NoSplit | DatasetSplit):
        return candidates, candidates[:0]
    if isinstance(validation, RandomSplit):
        is_validation = _random(codes[candidates], validation, np.random.default_rng([seed, _PURPOSE]))
    else:
        assert column is not None
        chosen = (
            column[candidates] if isinstance(column, np.ndarray) else Coded(column.codes[candidates], column.values)
        )
        is_validation = _by_column(chosen, validation, np.random.default_rng([seed, _PURPOSE]))
        for side, what in ((~is_validation, "learn from"), (is_validation, "judge by")):
            if not side.any():
                raise BadData(f"the validation by column {validation.column} leaves no row to {what}")
    return candidates[~is_validation], candidates[is_validation]


def _random(groups: NDArray[np.int64], validation: RandomSplit, random: np.random.Generator) -> NDArray[np.bool_]:
    groups = groups if validation.stratify else np.zeros(groups.size, np.int64)
    shares = _shares(np.bincount(groups), validation.fraction)
    order = np.arange(groups.size, dtype=np.min_scalar_type(groups.size))
    random.shuffle(order)
    is_validation = np.zeros(groups.size, np.bool_)
    for start in range(0, order.size, _PIECE):
        piece = order[start : start + _PIECE]
        is_validation[piece] = _take_from(shares, groups[piece])
    return is_validation


def _by_column(
    column: TableColumn, validation: GroupSplit | TimeSplit | ColumnSplit, random: np.random.Generator
) -> NDArray[np.bool_]:
    if isinstance(validation, ColumnSplit):
        return _has_value(column, validation)
    if isinstance(validation, TimeSplit):
        return _latest(column, validation)
    return _groups(column, validation, random)


def _has_value(column: TableColumn, validation: ColumnSplit) -> NDArray[np.bool_]:
    value = validation.value
    if isinstance(column, np.ndarray):  # fractions
        return np.asarray(column == (math.nan if isinstance(value, str) else float(value)))
    places: dict[tuple[type, object], int] = {(type(v), v): place for place, v in enumerate(column.values)}
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return np.asarray(column.codes == places.get((type(whole), whole), MISSING - 1))


def _latest(column: TableColumn, validation: TimeSplit) -> NDArray[np.bool_]:
    if isinstance(column, Coded):
        raise BadData(f"column {validation.column} holds text, where times or numbers are expected")
    known = np.sort(column[~np.isnan(column)])
    if known.size == 0:
        raise BadData(f"column {validation.column} has no value to tell the latest rows by")
    share = min(max(1, math.floor(known.size * validation.fraction + 0.5)), known.size)
    latest: NDArray[np.bool_] = column >= known[known.size - share]
    return latest if not latest.all() else column > known[known.size - share]


def _groups(column: TableColumn, validation: GroupSplit, random: np.random.Generator) -> NDArray[np.bool_]:
    """Groups in random order, each that brings the rows nearer to the fraction; one at least, and not all."""
    if isinstance(column, Coded):
        groups, is_missing = column.codes.copy(), column.codes < 0
    else:
        is_missing = np.isnan(column)
        groups = np.unique(np.where(is_missing, 0.0, column), return_inverse=True)[1]
    groups[is_missing] = groups.max(initial=0) + 1 + np.arange(int(is_missing.sum()))
    _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = random.permutation(counts.size)
    wanted, taken = len(column) * validation.fraction, 0
    chosen = np.zeros(counts.size, np.bool_)
    sizes = counts.tolist()
    for group in order.tolist():
        is_all = taken + sizes[group] == len(column)
        if not is_all and abs(taken + sizes[group] - wanted) < abs(taken - wanted):
            chosen[group] = True
            taken += sizes[group]
    if not taken:
        chosen[counts.argmin()] = True
    is_validation: NDArray[np.bool_] = chosen[groups]
    return is_validation


def _take_from(shares: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row, in the order of `groups`, still finds something left of its group's share, which it takes."""
    by_group = np.argsort(groups, kind="stable")
    in_order = groups[by_group]
    rank = np.arange(in_order.size) - np.searchsorted(in_order, in_order)
    taken = np.empty(groups.size, np.bool_)
    taken[by_group] = rank < shares[in_order]
    shares -= np.bincount(groups[taken], minlength=shares.size)
    return taken


def _shares(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many rows of each class are for validation."""
    rounded = np.floor(counts * fraction + 0.5).astype(np.int64)
    shares: NDArray[np.int64] = np.minimum(rounded, np.maximum(counts - 1, 0))
    if shares.sum() == 0:
        if counts.max() < 2:
            raise BadData("too few rows to set some aside for validation: give more rows, or ask for no validation")
        shares[counts.argmax()] = 1
    return shares
