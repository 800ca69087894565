"""Networks of every kind with rows to train on, and the same written anew in the terms of an autodiff library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import autograd.numpy as anp
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.network.embedding import Embedding
from common.network.masks import DropoutMasks
from common.network.network import Network
from common.network.parameters import Floats
from common.network.structure import INPUT_STREAM, initialize, network_layout, parameter_count
from common.schemas.losses import (
    CrossEntropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quadratic,
    Quantile,
)
from common.schemas.network import Dense, Layer, LayerNorm, NetworkShape, Residual

ACTIVATIONS: tuple[Any, ...] = (
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "sigmoid",
    "tanh",
    "maxout",
    "identity",
)
LOSSES: tuple[Loss, ...] = (
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    Quadratic(),
    MeanSquaredError(),
    MeanAbsoluteError(),
    Huber(delta=0.7),
    Quantile(quantiles=(0.1, 0.5, 0.75)),
    Poisson(),
)
CLASS_LOSSES = ("cross_entropy", "quadratic")


@dataclass
class Case:
    """A network in float64 with rows and targets to train it on."""

    shape: NetworkShape
    inputs: int
    outputs: int
    loss: Loss
    parameters: NDArray[np.float64]
    x: NDArray[np.float64]
    targets: NDArray[Any]
    masks_seed: int
    weights: NDArray[np.float64] | None = None
    embeddings: tuple[Embedding, ...] = ()

    def network(
        self, dtype: type[np.floating] = np.float64, max_rows: int | None = None, *, input_gradient: bool = False
    ) -> Network:
        parameters = self.parameters.astype(dtype)
        return Network(
            self.shape,
            self.inputs,
            self.outputs,
            self.loss,
            max_rows=max_rows or len(self.x),
            parameters=parameters,
            gradient=np.full_like(parameters, np.nan),
            embeddings=self.embeddings,
            input_gradient=input_gradient,
        )

    def masks(self) -> DropoutMasks:
        return DropoutMasks(self.masks_seed, epoch=3)

    def gradients(self, network: Network) -> float:
        return network.gradients(self.x, self.targets, self.masks(), weights=self.weights)

    def rounded(self) -> tuple[Floats, NDArray[Any], Floats | None]:
        """Rows, targets and weights in float32."""
        targets = self.targets if self.loss.kind in CLASS_LOSSES else self.targets.astype(np.float32)
        weights = None if self.weights is None else self.weights.astype(np.float32)
        return self.x.astype(np.float32), targets, weights


def make_case(
    shape: NetworkShape,
    inputs: int,
    outputs: int,
    loss: Loss,
    rows: int,
    seed: int,
    *,
    weighted: bool = False,
    embeddings: tuple[Embedding, ...] = (),
    scale: float = 1.0,
) -> Case:
    """`scale` stretches the inputs: units saturate."""
    outputs = len(loss.quantiles) if isinstance(loss, Quantile) else outputs
    generator = np.random.default_rng(seed)
    parameters = np.empty(parameter_count(shape, inputs, outputs, embeddings))
    initialize(shape, inputs, outputs, generator, parameters, embeddings)
    parameters += generator.normal(0, 0.1, parameters.shape)  # biases other than zero
    x = generator.normal(size=(rows, inputs)) * scale
    for embedding in embeddings:
        x[:, embedding.place] = generator.integers(0, embedding.categories, rows)
    targets: NDArray[Any]
    if loss.kind in CLASS_LOSSES:
        targets = generator.integers(0, outputs, rows)
    elif isinstance(loss, Quantile):
        targets = generator.normal(size=(rows, 1))
    elif isinstance(loss, Poisson):
        targets = generator.integers(0, 4, (rows, outputs)).astype(np.float64)
    else:
        targets = generator.normal(size=(rows, outputs))
    weights = generator.uniform(0, 3, rows) * generator.integers(0, 2, rows) if weighted else None
    return Case(shape, inputs, outputs, loss, parameters, x, targets, seed, weights, embeddings)


def _dense(draw: st.DrawFn, dropout: tuple[float, ...], units: int | None = None) -> Dense:
    return Dense(
        units=draw(st.integers(1, 6)) if units is None else units,
        activation=(activation := draw(st.sampled_from(ACTIVATIONS))),
        dropout=draw(st.sampled_from(dropout)),
        pieces=draw(st.sampled_from((None, 2, 3))) if activation == "maxout" else None,
    )


@st.composite
def shapes(draw: st.DrawFn, dropout: tuple[float, ...] = (0.0,)) -> NetworkShape:
    """Networks of all kinds of layers that fit each other."""
    layers: list[Layer] = []
    width: int | None = None
    for _ in range(draw(st.integers(0, 3))):
        kinds = ["dense", "layer_norm"] + (["residual"] if width is not None else [])
        kind = draw(st.sampled_from(kinds))
        if kind == "dense":
            layer = _dense(draw, dropout)
            width = layer.units
            layers.append(layer)
        elif kind == "layer_norm":
            layers.append(LayerNorm())
        else:
            inner: list[Dense | LayerNorm] = [LayerNorm()] if draw(st.booleans()) else []
            if draw(st.booleans()):
                inner.append(_dense(draw, dropout))
            inner.append(_dense(draw, dropout, width))
            layers.append(Residual(layers=tuple(inner)))
    return NetworkShape(layers=tuple(layers), input_dropout=draw(st.sampled_from(dropout)))


@st.composite
def cases(draw: st.DrawFn, dropout: tuple[float, ...] = (0.0,), losses: tuple[Loss, ...] = LOSSES) -> Case:
    inputs = draw(st.integers(1, 5))
    places = draw(st.lists(st.integers(0, inputs - 1), unique=True, max_size=2))
    return make_case(
        draw(shapes(dropout)),
        inputs,
        outputs=draw(st.integers(1, 4)),
        loss=draw(st.sampled_from(losses)),
        rows=draw(st.sampled_from((1, 2, 3, 7))),
        seed=draw(st.integers(0, 2**32)),
        weighted=draw(st.booleans()),
        embeddings=tuple(Embedding(place, draw(st.integers(1, 4)), draw(st.integers(1, 3))) for place in places),
        scale=draw(st.sampled_from((1.0, 1.0, 30.0))),
    )


@dataclass
class Kinks:
    """How far the numbers of a forward pass are from where a derivative jumps."""

    nearest: float = math.inf

    def note(self, distances: Any) -> None:
        if isinstance(distances, np.ndarray) and distances.size:
            self.nearest = min(self.nearest, float(np.abs(distances).min()))


@dataclass
class Oracle:
    """The weighted sum of a case's losses as a function of parameters and rows, in autograd's terms."""

    case: Case
    kinks: Kinks = field(default_factory=Kinks)
    with_dropout: bool = True

    def __call__(self, vector: Any, x: Any = None) -> Any:
        case = self.case
        self._masks = case.masks()
        self._streams = iter(range(1000))
        layout = network_layout(case.shape, case.inputs, case.outputs, case.embeddings)
        named = {name: anp.reshape(vector[span], layout.shapes[name]) for name, span in layout.slices.items()}
        value = self._embedded(case.x if x is None else x, named)
        value = self._dropped(value, case.shape.input_dropout, INPUT_STREAM)
        for i, layer in enumerate(case.shape.layers):
            value = self._layer(layer, f"layer{i}", value, named)
        last = f"layer{len(case.shape.layers)}"
        outputs = anp.dot(value, named[f"{last}.weights"]) + named[f"{last}.bias"]
        losses = self._losses(outputs)
        return anp.sum(losses if case.weights is None else losses * case.weights)

    def _embedded(self, x: Any, named: dict[str, Any]) -> Any:
        if not self.case.embeddings:
            return x
        places = [embedding.place for embedding in self.case.embeddings]
        plain = [place for place in range(self.case.inputs) if place not in places]
        codes = self.case.x.astype(np.int64)
        vectors = [named[f"embedding{place}.weights"][codes[:, place]] for place in places]
        return anp.concatenate([x[:, plain], *vectors], axis=1)

    def _dropped(self, value: Any, rate: float, stream: int) -> Any:
        if not rate or not self.with_dropout:
            return value
        mask = np.empty(value.shape)
        self._masks.fill(stream, rate, 0, mask)
        return value * mask

    def _layer(self, layer: Layer, name: str, value: Any, named: dict[str, Any]) -> Any:
        if isinstance(layer, LayerNorm):
            next(self._streams)
            mean = anp.mean(value, axis=1, keepdims=True)
            variance = anp.mean((value - mean) ** 2, axis=1, keepdims=True)
            return named[f"{name}.gain"] * (value - mean) / anp.sqrt(variance + 1e-5) + named[f"{name}.shift"]
        if isinstance(layer, Residual):
            inside = value
            for i, inner in enumerate(layer.layers):
                inside = self._layer(inner, f"{name}.{i}", inside, named)
            return value + inside
        z = anp.dot(value, named[f"{name}.weights"]) + named[f"{name}.bias"]
        return self._dropped(self._activated(layer, z), layer.dropout, next(self._streams))

    def _activated(self, layer: Dense, z: Any) -> Any:
        match layer.activation:
            case "relu":
                self.kinks.note(z)
                return anp.where(z > 0, z, 0.0)
            case "leaky_relu":
                self.kinks.note(z)
                return anp.where(z > 0, z, 0.01 * z)
            case "elu":
                return anp.where(z > 0, z, anp.exp(anp.minimum(z, 0)) - 1)
            case "gelu":
                return 0.5 * z * (1 + anp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
            case "silu":
                return z * _sigmoid(z)
            case "softplus":
                return anp.logaddexp(0.0, z)
            case "sigmoid":
                return _sigmoid(z)
            case "tanh":
                return anp.tanh(z)
            case "maxout":
                pieces = anp.reshape(z, (len(z), layer.pieces or 2, layer.units))
                if isinstance(z, np.ndarray) and z.size:
                    ordered = np.sort(pieces, axis=1)
                    self.kinks.note(ordered[:, -1] - ordered[:, -2])
                return anp.max(pieces, axis=1)
        return z

    def _losses(self, outputs: Any) -> Any:
        loss, targets = self.case.loss, self.case.targets
        rows = np.arange(len(self.case.x))
        if isinstance(loss, CrossEntropy):
            highest = anp.max(outputs, axis=1, keepdims=True)
            logarithms = outputs - highest - anp.log(anp.sum(anp.exp(outputs - highest), axis=1, keepdims=True))
            smoothing = loss.label_smoothing
            return -(1 - smoothing) * logarithms[rows, targets] - smoothing * anp.mean(logarithms, axis=1)
        if isinstance(loss, Quadratic):
            wanted = np.eye(self.case.outputs)[targets]
            return 0.5 * anp.sum((_sigmoid(outputs) - wanted) ** 2, axis=1)
        if isinstance(loss, Poisson):
            constant = np.where(targets > 0, targets * np.log(np.maximum(targets, 1)), 0) - targets
            return anp.mean(anp.exp(outputs) - targets * outputs + constant, axis=1)
        difference = outputs - targets
        if isinstance(loss, MeanSquaredError):
            return anp.mean(difference**2, axis=1)
        self.kinks.note(difference)
        if isinstance(loss, MeanAbsoluteError):
            return anp.mean(anp.abs(difference), axis=1)
        if isinstance(loss, Huber):
            size = anp.abs(difference)
            self.kinks.note(size - loss.delta)
            return anp.mean(
                anp.where(size <= loss.delta, 0.5 * difference**2, loss.delta * (size - 0.5 * loss.delta)), axis=1
            )
        assert isinstance(loss, Quantile)
        quantiles = np.array(loss.quantiles)
        return anp.mean(anp.where(difference > 0, (1 - quantiles) * difference, -quantiles * difference), axis=1)


def _sigmoid(z: Any) -> Any:
    return 0.5 * (1 + anp.tanh(0.5 * z))


def central_differences(loss: Callable[[], float], vector: Floats, step: float = 1e-6) -> NDArray[np.float64]:
    """The slopes of `loss` along every number of `vector`, which are moved and put back."""
    slopes = np.empty(vector.size)
    flat = vector.reshape(-1)
    for i, kept in enumerate(flat.tolist()):
        flat[i] = kept + step
        above = loss()
        flat[i] = kept - step
        below = loss()
        flat[i] = kept
        slopes[i] = (above - below) / (2 * step)
    return slopes.reshape(vector.shape)


def largest_error(ours: Floats, theirs: Floats) -> float:
    """Relative to max(1, |theirs|)."""
    if not ours.size:
        return 0.0
    return float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))


def one_of_each() -> Iterator[tuple[str, NetworkShape]]:
    """Every layer with every activation, deep enough for both of a layer's neighbours."""
    for activation in ACTIVATIONS:
        dense = Dense(units=4, activation=activation)
        yield f"dense-{activation}", NetworkShape(layers=(dense, Dense(units=3, activation=activation)))
        yield f"norm-{activation}", NetworkShape(layers=(LayerNorm(), dense, LayerNorm()))
        yield f"residual-{activation}", NetworkShape(layers=(Dense(units=4), Residual(layers=(LayerNorm(), dense))))
        dropped = Dense(units=4, activation=activation, dropout=0.3)
        yield f"dropout-{activation}", NetworkShape(layers=(dropped, Residual(layers=(dropped,))), input_dropout=0.2)
