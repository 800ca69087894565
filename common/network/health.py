"""How well each layer learns: what vanishing and exploding gradients, dead and saturated units look like."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from common.network.layer import BoundChain
from common.network.parameters import Floats, ParameterLayout


@dataclass(frozen=True, slots=True)
class LayerHealth:
    """What is known of a layer; None: nothing."""

    name: str
    gradient_norm: float | None = None
    """Of the mean gradient over a worker's rows of a batch."""
    update_norm: float | None = None
    """How far the parameters have moved."""
    dead: float | None = None
    """The share of relus that are 0 for all rows."""
    saturated: float | None = None
    """The share of sigmoid or tanh outputs within 0.01 of a limit, where the derivative is next to nothing."""

    def merged(self, other: LayerHealth) -> LayerHealth:
        """What both know of the same layer; the other where both know something."""
        known = {field.name: getattr(other, field.name) for field in fields(other)}
        return replace(self, **{name: value for name, value in known.items() if value is not None})


def merge(parts: Iterable[LayerHealth]) -> tuple[LayerHealth, ...]:
    """Everything known of each layer, in the order in which they are first met."""
    known: dict[str, LayerHealth] = {}
    for part in parts:
        known[part.name] = known[part.name].merged(part) if part.name in known else part
    return tuple(known.values())


def gradient_norms(layout: ParameterLayout, gradient: Floats, weight: float) -> tuple[LayerHealth, ...]:
    """The norm of `gradient`, shape (size,), summed over rows of that weight, layer by layer; none without weight."""
    if not weight:
        return ()
    return tuple(LayerHealth(name, gradient_norm=norm / weight) for name, norm in _norms(layout, gradient).items())


def update_norms(layout: ParameterLayout, before: Floats, after: Floats) -> tuple[LayerHealth, ...]:
    """How far the parameters of each layer have moved."""
    return tuple(LayerHealth(name, update_norm=norm) for name, norm in _norms(layout, after - before).items())


def unit_health(activations: BoundChain) -> tuple[LayerHealth, ...]:
    """Of each layer whose units can die or saturate, judged by the outputs that it has for some rows."""
    return tuple(
        LayerHealth(name, dead=_dead(outputs)) if kind == "relu" else LayerHealth(name, saturated=_near(outputs, kind))
        for name, kind, outputs in activations.units()
        if kind in ("relu", "sigmoid", "tanh") and len(outputs)
    )


def _dead(outputs: Floats) -> float:
    return 1 - float(outputs.any(axis=0).mean())


def _near(outputs: Floats, kind: str) -> float:
    margin = 0.01
    low = margin if kind == "sigmoid" else margin - 1
    return float(((outputs < low) | (outputs > 1 - margin)).mean())


def _norms(layout: ParameterLayout, vector: Floats) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, span in layout.slices.items():
        layer = name.rpartition(".")[0]
        part = vector[span]
        squares[layer] = squares.get(layer, 0.0) + float(np.square(part, dtype=np.float64).sum())
    return {layer: math.sqrt(square) for layer, square in squares.items()}
