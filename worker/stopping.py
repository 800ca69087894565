"""When a training ends before its last epoch; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import Diverged
from common.schemas.jobs import StopReason
from common.schemas.training import Stopping

_GROWTH, _EVALUATIONS = 1000.0, 3
_LEAST_LOSS = 1e-3
"""A training that starts at a loss of nothing has not run away when it has some."""


@dataclass(slots=True)
class StoppingRule:
    """Watches the losses of a run, epoch by epoch.

    Args:
        stopping: what was asked for.
        epochs: the last epoch.

    """

    stopping: Stopping
    epochs: int
    best_epoch: int = 0
    best_loss: float = math.inf
    _patient_epoch: int = field(default=0, init=False)
    _patient_loss: float = field(default=math.inf, init=False)
    _first_loss: float | None = field(default=None, init=False)
    _grown: int = field(default=0, init=False)

    def document(self) -> dict[str, float | None]:
        """What was seen so far, as JSON can say it."""
        return {
            "best_epoch": self.best_epoch,
            "best_loss": _finite(self.best_loss),
            "patient_epoch": self._patient_epoch,
            "patient_loss": _finite(self._patient_loss),
            "first_loss": self._first_loss,
            "grown": self._grown,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Goes on where the rule stood whose `document` this is."""
        self.best_epoch, self.best_loss = document["best_epoch"], _or_infinite(document["best_loss"])
        self._patient_epoch, self._patient_loss = document["patient_epoch"], _or_infinite(document["patient_loss"])
        self._first_loss, self._grown = document["first_loss"], document["grown"]

    def is_best(self, epoch: int, loss: float) -> bool:
        """Notes an epoch's loss; whether it is the best so far.

        Raises:
            Diverged: the loss is no finite number.

        """
        if not math.isfinite(loss):
            raise Diverged(f"The validation loss of epoch {epoch} is no finite number.")
        if loss < self._patient_loss - self.stopping.min_delta:
            self._patient_epoch, self._patient_loss = epoch, loss
        better = loss < self.best_loss
        if better:
            self.best_epoch, self.best_loss = epoch, loss
        return better

    def check_growth(self, train_loss: float) -> None:
        """Refuses a training that runs away.

        Raises:
            Diverged: the loss is no finite number, or was over 1,000 times its first value three times in a row.

        """
        if not math.isfinite(train_loss):
            raise Diverged("The training loss stopped being a finite number.")
        if self._first_loss is None:
            self._first_loss = train_loss
        self._grown = self._grown + 1 if train_loss > _GROWTH * max(self._first_loss, _LEAST_LOSS) else 0
        if self._grown >= _EVALUATIONS:
            raise Diverged("The training loss grew to more than 1,000 times its first value.")

    def decide(self, epoch: int, loss: float, error: float, seconds: float) -> StopReason | None:
        """Why to stop after this epoch, or None.

        Args:
            epoch: from 1.
            loss: the mean loss of the evaluation.
            error: the misclassified fraction, or the root mean squared error in the target's units.
            seconds: training time so far.

        """
        wanted = self.stopping
        if wanted.target_loss is not None and loss <= wanted.target_loss:
            return "target_reached"
        if wanted.target_error is not None and error <= wanted.target_error:
            return "target_reached"
        if epoch >= self.epochs:
            return "epochs_done"
        if wanted.patience is not None and epoch - self._patient_epoch >= wanted.patience:
            return "patience"
        if wanted.max_seconds is not None and seconds >= wanted.max_seconds:
            return "time_limit"
        return None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _or_infinite(number: float | None) -> float:
    return math.inf if number is None else number
