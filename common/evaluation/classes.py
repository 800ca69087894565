"""The evaluation of a classification."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.evaluation.ranking import Ranking, rank
from common.exact_sum import ExactSum
from common.features.target import name_of
from common.network.parameters import Floats
from common.schemas.models import ClassEvaluation, Evaluation, Label

BINS = 15
MOST_SCORES = 1 << 24
"""Probabilities that are kept to rank rows by: 64 MiB of float32."""
MATRIX_CLASSES = 100
_NAMED, _LONGEST_NAME = 10, 100
_LEAST = float(np.finfo(np.float32).tiny)


class ClassTally:
    """What is known of the rows seen so far.

    Counts are whole numbers and sums are exact, so that the parts in which rows come, and their order, change nothing.

    Args:
        labels: the classes that the model knows, in the order of its probabilities.

    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = tuple(labels)
        count = len(labels)
        self._hits = np.zeros(count, np.int64)
        self._rows = np.zeros(count, np.int64)
        self._predicted = np.zeros(count, np.int64)
        self._of_unknown = np.zeros(count, np.int64)
        self._unknown: set[Label] = set()
        self._matrix = np.zeros((count, count), np.int64) if count <= MATRIX_CLASSES else None
        self._log_loss, self._weight, self._brier = ExactSum(), ExactSum(), ExactSum()
        self._confidence = [ExactSum() for _ in range(BINS)]
        self._right_in_bin = np.zeros(BINS, np.int64)
        self._scores: list[Floats] = []
        self._codes: list[NDArray[np.int32]] = []
        self._room = MOST_SCORES // count
        """For the scores of so many rows more."""

    def add(
        self,
        probabilities: Floats,
        codes: NDArray[np.int64],
        weights: NDArray[np.floating[Any]] | None = None,
        unknown: Iterable[Label] = (),
    ) -> None:
        """Takes in rows.

        `probabilities` has shape (rows, classes); `codes`, shape (rows,), are the numbers of their classes, -1 for one
        that the model does not know, and `unknown` names those. `weights`, shape (rows,), counts in the log loss only.
        """
        if not len(codes):
            return
        count = len(self._labels)
        exact = np.array(probabilities, np.float64, order="C")
        best, is_known = exact.argmax(axis=1), codes >= 0
        known = np.flatnonzero(is_known)
        right = best == codes
        self._unknown.update(unknown)
        self._hits += np.bincount(codes[right], minlength=count)
        self._rows += np.bincount(codes[known], minlength=count)
        self._predicted += np.bincount(best, minlength=count)
        self._of_unknown += np.bincount(best[~is_known], minlength=count)
        if self._matrix is not None:
            np.add.at(self._matrix, (codes[known], best[known]), 1)
        self._add_losses(exact, codes, known, weights)
        self._add_confidence(exact.max(axis=1), right)
        self._keep(probabilities, codes)

    def _add_losses(
        self,
        probabilities: NDArray[np.float64],
        codes: NDArray[np.int64],
        known: NDArray[np.intp],
        weights: NDArray[np.floating[Any]] | None,
    ) -> None:
        chosen = np.zeros(len(codes))
        chosen[known] = probabilities[known, codes[known]]
        losses = -np.log(np.maximum(chosen, _LEAST))
        counted = np.ones(len(codes)) if weights is None else weights.astype(np.float64)
        self._log_loss.add(losses * counted)
        self._weight.add(counted)
        distance = probabilities.copy()
        distance[known, codes[known]] -= 1
        squares = np.square(distance).sum(axis=1)
        squares[codes < 0] += 1  # its own class, to which the model gives nothing
        self._brier.add(squares)

    def _add_confidence(self, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self._right_in_bin += np.bincount(bins[right], minlength=BINS)
        for place in np.unique(bins):
            self._confidence[place].add(confidence[bins == place])

    def _keep(self, probabilities: Floats, codes: NDArray[np.int64]) -> None:
        self._room = max(-1, self._room - len(codes))
        if self._room < 0:
            self._scores, self._codes = [], []
            return
        self._scores.append(np.array(probabilities, order="C"))
        self._codes.append(codes.astype(np.int32))

    def result(self) -> tuple[dict[str, float], Evaluation]:
        """The metrics, and what they are made of. Raises ValueError without rows."""
        rows = int(self._predicted.sum())
        if not rows:
            raise ValueError("metrics need at least one row")
        rankings = self._rankings()
        classes = [self._of_class(code, rankings[code]) for code in range(len(self._labels))]
        found = [c for c in classes if c.rows or c.predicted]
        unknown = len(self._unknown)
        metrics = {"accuracy": int(self._hits.sum()) / rows}
        log_loss = self._mean_log_loss()
        if math.isfinite(log_loss):
            metrics["log_loss"] = log_loss
        with_rows = [c for c in classes if c.rows]
        metrics["balanced_accuracy"] = math.fsum(c.recall for c in with_rows) / (len(with_rows) + unknown)
        for name in ("precision", "recall", "f1"):
            values = [getattr(c, name) for c in found]
            metrics[f"{name}_macro"] = math.fsum(values) / (len(found) + unknown)
            shares = (value * c.rows for value, c in zip(values, found, strict=True))
            metrics[f"{name}_weighted"] = math.fsum(shares) / rows
        metrics |= self._areas(rankings)
        metrics["brier"] = self._brier.value / rows / (2 if len(classes) == 2 else 1)
        gaps = zip(self._right_in_bin.tolist(), self._confidence, strict=True)
        metrics["expected_calibration_error"] = math.fsum(abs(right - sure.value) for right, sure in gaps) / rows
        of_unknown = tuple(self._of_unknown.tolist()) if unknown else None
        evaluation = Evaluation(
            rows=rows,
            classes=tuple(classes),
            confusion_matrix=None if self._matrix is None else tuple(map(tuple, self._matrix.tolist())),
            unknown_class_predictions=of_unknown,
            warnings=tuple(self._warnings(rankings)),
        )
        return metrics, evaluation

    def _mean_log_loss(self) -> float:
        weight = self._weight.value
        return self._log_loss.value / weight if 0 < weight < math.inf else math.nan

    def _rankings(self) -> list[Ranking | None]:
        if self._room < 0:
            return [None] * len(self._labels)
        codes = np.concatenate(self._codes)
        # One column at a time, so that nothing else of the size of all scores is needed.
        return [
            rank(np.concatenate([scores[:, code] for scores in self._scores]), codes == code)
            for code in range(len(self._labels))
        ]

    def _of_class(self, code: int, ranking: Ranking | None) -> ClassEvaluation:
        hits, rows, predicted = (int(counts[code]) for counts in (self._hits, self._rows, self._predicted))
        return ClassEvaluation(
            label=self._labels[code],
            rows=rows,
            predicted=predicted,
            precision=hits / predicted if predicted else 0.0,
            recall=hits / rows if rows else 0.0,
            f1=2 * hits / (rows + predicted) if rows + predicted else 0.0,
            roc_auc=None if ranking is None else ranking.roc_auc,
            pr_auc=None if ranking is None else ranking.pr_auc,
        )

    def _areas(self, rankings: Sequence[Ranking | None]) -> dict[str, float]:
        """Of two classes, those of the second against the first; of more, the means over each against the rest."""
        known = [ranking for ranking in (rankings[1:] if len(rankings) == 2 else rankings) if ranking is not None]
        if not known:
            return {}
        return {
            "roc_auc": math.fsum(ranking.roc_auc for ranking in known) / len(known),
            "pr_auc": math.fsum(ranking.pr_auc for ranking in known) / len(known),
        }

    def _warnings(self, rankings: Sequence[Ranking | None]) -> list[str]:
        found = []
        if self._unknown:
            rows, names = int(self._of_unknown.sum()), _named(self._unknown)
            found.append(f"{rows} rows are of classes that the model does not know, and count as wrong: {names}.")
        if not math.isfinite(self._mean_log_loss()):
            found.append("log_loss is left out: the weights of all rows are zero, or their sum is infinite.")
        without = [label for label, count in zip(self._labels, self._rows, strict=True) if not count]
        if self._room < 0:
            most = MOST_SCORES // len(self._labels)
            found.append(f"roc_auc and pr_auc are left out: they are computed over at most {most} rows here.")
        elif not self._areas(rankings):
            found.append("roc_auc and pr_auc are left out: they need rows of a class, and of others.")
        elif without and len(self._labels) > 2:
            names = _named(without)
            found.append(f"roc_auc and pr_auc are those of the other classes: no row is of the classes {names}.")
        return found


def _named(labels: Iterable[Label]) -> str:
    names = sorted(map(name_of, labels))
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names[:_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
