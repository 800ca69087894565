"""What each number of an input adds to an output: integrated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats
from common.network.quiet import quiet

Function = Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]]
"""The output, shape (points,), and its gradient, shape (points, width), at points of that shape; the second argument is
the number of the row to which the path leads that each point lies on."""

TOLERANCE = 1e-3
"""How far contributions may be from what they are to sum to, as a share of it …"""
SMALL = 1e-2
"""… or of so much, where it is less."""
NODES = 9
"""Where a panel is looked at; an odd number, so that one is its middle."""
_PARTS = 4
"""A panel is halved when it misses more than such a part of its row's tolerance …"""
MOST_HALVED = 8
"""… and is among the worst of its row …"""
MOST_DEPTH = 20
"""… so many times in a row."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(NODES)


def integrated_gradients(function: Function, x: Floats, baseline: Floats, most: int) -> NDArray[np.float64]:
    """(x - baseline) times the mean gradient on the straight path between both, shape (rows, width).

    Sundararajan, Taly and Yan (ICML 2017), equation 1: what the numbers of a row add sums to the difference between the
    outputs at both ends (completeness). That holds for every part of the path, and so tells where the integral is not
    good enough yet: such panels are halved, which finds the places where a gradient jumps, as those of rectifiers do.
    Each is integrated by the rule of Gauss and Legendre.

    Args:
        function: gives outputs and gradients.
        x: shape (rows, width).
        baseline: shape (width,), of the same dtype.
        most: points that are asked for at a time.

    """
    contributions = np.empty(x.shape)
    at_once = max(1, most // NODES)
    for first in range(0, len(x), at_once):
        rows = np.arange(first, min(first + at_once, len(x)))
        contributions[rows] = _Paths(function, x[rows], baseline, rows, most).contributions()
    return contributions


@dataclass(frozen=True, slots=True)
class _Panels:
    """Parts of paths."""

    path: NDArray[np.intp]
    start: NDArray[np.float64]
    """On a path that goes from 0 to 1."""
    width: NDArray[np.float64]
    low: NDArray[np.float64]
    """The output at the start."""
    high: NDArray[np.float64]
    """At the end."""

    def halves(self, which: NDArray[np.bool_], middle: NDArray[np.float64]) -> _Panels:
        """Two for each of those chosen, by the outputs in the middle of all."""
        half, middle = self.width[which] / 2, middle[which]
        return _Panels(
            np.tile(self.path[which], 2),
            np.concatenate([self.start[which], self.start[which] + half]),
            np.tile(half, 2),
            np.concatenate([self.low[which], middle]),
            np.concatenate([middle, self.high[which]]),
        )


@dataclass(frozen=True, slots=True)
class _Paths:
    """From the baseline to some rows."""

    function: Function
    x: Floats
    baseline: Floats
    rows: NDArray[np.intp]
    """Their numbers."""
    most: int

    def contributions(self) -> NDArray[np.float64]:
        count = len(self.x)
        low, high = (self._outputs(points) for points in (np.tile(self.baseline, (count, 1)), self.x))
        panels = _Panels(np.arange(count), np.zeros(count), np.ones(count), low, high)
        contributions, missed_before = np.zeros(self.x.shape), np.zeros(count)
        with quiet():
            tolerances = TOLERANCE * np.maximum(np.abs(high - low), SMALL)
            for depth in range(MOST_DEPTH + 1):
                added, middle = self._integrals(panels)
                missed = np.abs(panels.high - panels.low - added.sum(axis=1))
                of_paths = missed_before + np.bincount(panels.path, missed, count)
                halved = (of_paths > tolerances)[panels.path] & (missed > (tolerances / _PARTS)[panels.path])
                halved &= _ranks(panels.path, missed) < MOST_HALVED
                if depth == MOST_DEPTH:
                    halved[:] = False
                np.add.at(contributions, panels.path[~halved], added[~halved])
                if not halved.any():
                    break
                missed_before += np.bincount(panels.path[~halved], missed[~halved], count)
                panels = panels.halves(halved, middle)
        return contributions

    def _outputs(self, points: Floats) -> NDArray[np.float64]:
        count = len(points)
        parts = [slice(start, start + self.most) for start in range(0, count, self.most)]
        return np.concatenate([self.function(points[part], self.rows[part])[0] for part in parts]).astype(np.float64)

    def _integrals(self, panels: _Panels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each number adds on each panel, shape (panels, width), and the outputs in the middle of these."""
        count = len(panels.path)
        means, middle = np.zeros((count, self.x.shape[1])), np.empty(count)
        for start in range(0, count * NODES, self.most):
            panel, node = np.divmod(np.arange(start, min(start + self.most, count * NODES)), NODES)
            path = panels.path[panel]
            places = panels.start[panel] + panels.width[panel] * (_NODES[node] + 1) / 2
            steps = self.x[path] - self.baseline
            points = self.baseline + places[:, np.newaxis].astype(steps.dtype) * steps
            outputs, slopes = self.function(points, self.rows[path])
            firsts = np.flatnonzero(np.diff(panel, prepend=-1))
            means[panel[firsts]] += np.add.reduceat(_WEIGHTS[node, np.newaxis] / 2 * slopes, firsts, axis=0)
            is_middle = node == NODES // 2
            middle[panel[is_middle]] = outputs[is_middle]
        means *= (self.x - self.baseline)[panels.path] * panels.width[:, np.newaxis]
        return means, middle


def _ranks(path: NDArray[np.intp], missed: NDArray[np.float64]) -> NDArray[np.intp]:
    """How many panels of the same path miss more than each."""
    order = np.lexsort((-missed, path))
    ranks = np.empty(len(path), np.intp)
    ranks[order] = np.arange(len(path)) - np.searchsorted(path[order], path[order])
    return ranks
