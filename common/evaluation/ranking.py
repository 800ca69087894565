"""How well scores put the rows of a class before all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats

_CHUNK = 1 << 16
"""Rows that are looked up at a time: all else but the sorted scores stays small."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The areas under two curves, exact: nothing is binned or sampled."""

    roc_auc: float
    """The share of pairs, one row of the class and one other, in which the first has the higher score; equal scores count
    half (Mann and Whitney, 1947)."""
    pr_auc: float
    """Average precision: the mean, over the rows of the class, of the precision among all rows with at least its score."""


def rank(scores: Floats, is_positive: NDArray[np.bool_]) -> Ranking | None:
    """The ranking of rows by their scores, both of shape (rows,); None unless some rows are positive and others not."""
    positive, negative = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    if not (len(positive) and len(negative)):
        return None
    twice_right, precisions = 0, list[float]()
    for start in range(0, len(positive), _CHUNK):
        part = positive[start : start + _CHUNK]
        below = negative.searchsorted(part, "left")
        twice_right += int(below.sum()) + int(negative.searchsorted(part, "right").sum())
        found = len(positive) - positive.searchsorted(part, "left")
        precisions.append(float((found / (found + len(negative) - below)).sum()))
    return Ranking(twice_right / (2 * len(positive) * len(negative)), math.fsum(precisions) / len(positive))
