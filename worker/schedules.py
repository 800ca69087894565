"""How the learning rate changes from step to step: pure functions of where a training stands.

A new schedule is one class, and a line in `make_schedule`; docs/network.md shows it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.schemas import optimizers as schema


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a training is, at most."""

    steps: int
    """In an epoch."""
    epochs: int

    @property
    def total(self) -> int:
        """Steps in all epochs."""
        return self.steps * self.epochs


class Schedule(ABC):
    """A multiple of the learning rate for each step."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by in a step, counted from 0."""


class Constant(Schedule):
    """The learning rate as it was given."""

    def factor(self, step: int) -> float:  # noqa: ARG002
        """1."""
        return 1.0


class Step(Schedule):
    """Multiplied by `factor` after every so many epochs."""

    def __init__(self, spec: schema.StepSchedule, extent: Extent) -> None:
        self._spec = spec
        self._extent = extent

    def factor(self, step: int) -> float:
        """factor^(epochs done // epochs)."""
        return self._spec.factor ** (step // self._extent.steps // self._spec.epochs)


class Exponential(Schedule):
    """Multiplied by `factor` after every epoch."""

    def __init__(self, spec: schema.ExponentialSchedule, extent: Extent) -> None:
        self._spec = spec
        self._extent = extent

    def factor(self, step: int) -> float:
        """factor^(epochs done)."""
        return self._spec.factor ** (step // self._extent.steps)


class Cosine(Schedule):
    """Down along half a cosine, then up again at once, each time more slowly (Loshchilov and Hutter, ICLR 2017, equation 5).

    A cycle is `restart_epochs` long (None: all of them), and each next one `restart_factor` times as long.
    """

    def __init__(self, spec: schema.CosineSchedule, extent: Extent) -> None:
        self._spec = spec
        self._extent = extent

    def factor(self, step: int) -> float:
        """From 1 to `floor`."""
        spec = self._spec
        epochs = step / self._extent.steps
        length = float(spec.restart_epochs or self._extent.epochs)
        if spec.restart_factor == 1:
            epochs %= length
        elif epochs >= length:
            cycle = int(math.log(1 - epochs / length * (1 - spec.restart_factor), spec.restart_factor) + 1e-9)
            epochs -= length * (1 - spec.restart_factor**cycle) / (1 - spec.restart_factor)
            length *= spec.restart_factor**cycle
        share = min(1.0, epochs / length)
        return spec.floor + (1 - spec.floor) * (1 + math.cos(math.pi * share)) / 2


class OneCycle(Schedule):
    """Up to the learning rate along half a cosine, and down to almost nothing (Smith and Topin, 2019), as in PyTorch."""

    def __init__(self, spec: schema.OneCycleSchedule, extent: Extent) -> None:
        self._spec = spec
        self._extent = extent

    def factor(self, step: int) -> float:
        """From 1 / start_divisor up to 1, and down to that / end_divisor."""
        spec, total = self._spec, self._extent.total
        start = 1 / spec.start_divisor
        up = spec.rise * total - 1
        if step <= up:
            return _anneal(start, 1.0, step / up)
        down = total - 1 - up
        return _anneal(1.0, start / spec.end_divisor, min(1.0, (step - up) / down) if down > 0 else 1.0)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


class WarmUp(Schedule):
    """Another schedule after a rise in even steps from almost nothing (Goyal et al., 2017, section 2.2)."""

    def __init__(self, epochs: float, extent: Extent, then: Schedule) -> None:
        self._steps = max(1, round(epochs * extent.steps))
        self._then = then

    def factor(self, step: int) -> float:
        """(step + 1) / steps of what the other schedule has there."""
        return min(1.0, (step + 1) / self._steps) * self._then.factor(step)


def make_schedule(spec: schema.Schedule, extent: Extent) -> Schedule:
    """The schedule that a training request asks for; of `reduce_on_plateau`, what does not depend on losses."""
    schedule: Schedule
    match spec:
        case schema.StepSchedule():
            schedule = Step(spec, extent)
        case schema.ExponentialSchedule():
            schedule = Exponential(spec, extent)
        case schema.CosineSchedule():
            schedule = Cosine(spec, extent)
        case schema.OneCycleSchedule():
            schedule = OneCycle(spec, extent)
        case schema.WarmUpSchedule():
            schedule = WarmUp(spec.epochs, extent, make_schedule(spec.then, extent))
        case _:
            schedule = Constant()
    return schedule


def plateau_of(spec: schema.Schedule) -> Plateau | None:
    """What depends on losses of the schedule that a training request asks for, if anything does."""
    if isinstance(spec, schema.WarmUpSchedule):
        spec = spec.then
    return Plateau(spec) if isinstance(spec, schema.PlateauSchedule) else None


class Plateau:
    """Reduces the learning rate when the loss has stopped falling, as PyTorch's ReduceLROnPlateau does.

    With `patience` epochs in a row that are not better than the best by `threshold` of it, and then one more, the rate
    is multiplied by `factor`, but not below `floor` times the learning rate.
    """

    def __init__(self, spec: schema.PlateauSchedule) -> None:
        self._spec = spec
        self.factor = 1.0
        self._best = math.inf
        self._bad = 0

    def note(self, loss: float) -> bool:
        """Takes in the loss of an epoch; whether that reduced the rate."""
        if loss < self._best * (1 - self._spec.threshold):
            self._best, self._bad = loss, 0
            return False
        self._bad += 1
        if self._bad <= self._spec.patience:
            return False
        before, self._bad = self.factor, 0
        self.factor = max(self._spec.floor, before * self._spec.factor)
        return self.factor < before

    def document(self) -> dict[str, float | None]:
        """What was seen so far, as JSON can say it."""
        return {"factor": self.factor, "best": None if math.isinf(self._best) else self._best, "bad": self._bad}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Goes on where the one stood whose `document` this is."""
        best = document["best"]
        self.factor, self._bad = document["factor"], document["bad"]
        self._best = math.inf if best is None else best
