"""What counts the rows of an evaluation, by the kind of target."""

from __future__ import annotations

from collections.abc import Sequence

from common.evaluation.classes import ClassTally
from common.evaluation.numbers import NumberTally
from common.features.target import ClassTarget, Target

Tally = ClassTally | NumberTally


def make_tally(target: Target, quantiles: Sequence[float], middle: int) -> Tally:
    """The tally of a target, and of the quantiles that a loss gives of it, of which the `middle` one is the value."""
    if isinstance(target, ClassTarget):
        return ClassTally(target.classes)
    return NumberTally(quantiles, middle)
