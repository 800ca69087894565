"""Which rows are learned from, and which ones only judge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import BadData
from common.schemas.training import NoSplit, RandomSplit

Rows = NDArray[np.intp]
_PURPOSE = 0x5B117  # keeps these draws apart from others made with the same seed
_PIECE = 1 << 16  # rows that are drawn together: a few columns of all rows may be more than memory has room for


def split_rows(rows: int | NDArray[np.int64], validation: RandomSplit | NoSplit, seed: int) -> tuple[Rows, Rows]:
    """Training rows and validation rows, each ascending; the same for the same arguments.

    `rows` is their number, or a class code for each of them; a row with a negative code has no label and is
    left out. With codes and `stratify`, every class gives round(fraction x its rows) to validation, but keeps
    one row for training; else all rows are drawn from alike. One row is drawn in any case.

    Raises `BadData` when there is no row for one of the sides.
    """
    codes = np.zeros(rows, np.int64) if isinstance(rows, int) else rows
    candidates = np.flatnonzero(codes >= 0)
    if candidates.size == 0:
        raise BadData("no row has a value for the target")
    if isinstance(validation, NoSplit):
        return candidates, candidates[:0]
    groups = codes[candidates] if validation.stratify else np.zeros(candidates.size, np.int64)
    shares = _shares(np.bincount(groups), validation.fraction)
    order = np.arange(candidates.size, dtype=np.min_scalar_type(candidates.size))
    np.random.default_rng([seed, _PURPOSE]).shuffle(order)
    is_validation = np.zeros(candidates.size, np.bool_)
    for start in range(0, order.size, _PIECE):
        piece = order[start : start + _PIECE]
        is_validation[piece] = _take_from(shares, groups[piece])
    return candidates[~is_validation], candidates[is_validation]


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
