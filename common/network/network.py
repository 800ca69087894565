"""The whole network: gradients for training, outputs for evaluation, predictions for callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.dropout import DropoutMasks
from common.network.layers import Dense, DenseBuffers, dense_layers
from common.network.losses import LOSSES, make_loss
from common.network.parameters import Floats, network_layout
from common.schemas import training

_MAX_CACHED_SIZES = 16


def _quiet() -> np.errstate:
    # A diverging network shows in its loss, which the caller checks; a warning per step would add nothing.
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def _check_inputs(x: Floats, width: int, dtype: np.dtype[Any]) -> None:
    if x.ndim != 2 or x.shape[1] != width or x.dtype != dtype:
        raise ValueError(f"{dtype} inputs of shape (rows, {width}) are needed, not {x.dtype} of shape {x.shape}")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Views of all buffers for one number of rows."""

    layers: tuple[DenseBuffers, ...]
    gradients: tuple[Floats, ...]
    """With respect to each layer's outputs; empty when the network computes no gradients."""
    ones: Floats


class Network:
    """A network with every buffer of a training step allocated beforehand, for one thread.

    `parameters` and `gradient` are flat vectors of `parameter_count` float32 or float64 numbers that belong
    to the caller: the parameters are only read, and whoever changes them between steps changes the network.
    Without `gradient` the network evaluates only. A step on at most `max_rows` rows allocates nothing but
    view objects. Raises ValueError when the vectors do not fit the shape.
    """

    def __init__(
        self,
        shape: training.NetworkShape,
        inputs: int,
        outputs: int,
        loss: training.Loss,
        *,
        max_rows: int,
        parameters: Floats,
        gradient: Floats | None = None,
    ) -> None:
        if gradient is not None and gradient.dtype != parameters.dtype:
            raise ValueError(f"the gradient is {gradient.dtype}, the parameters are {parameters.dtype}")
        self.inputs = inputs
        self.max_rows = max_rows
        self.parameters = parameters
        self.gradient = gradient
        self.dtype: np.dtype[Any] = parameters.dtype
        self.layers: tuple[Dense, ...] = dense_layers(shape, inputs, outputs, parameters)
        self.loss = make_loss(loss, outputs, max_rows, self.dtype)
        self._buffers = tuple(self._allocate(layer) for layer in self.layers)
        self._ones = np.ones(max_rows, self.dtype)
        self._gradient_views: list[tuple[Floats, Floats]] = []
        self._spare: tuple[Floats, ...] = ()
        if gradient is not None:
            views = network_layout(shape, inputs, outputs).views(gradient)
            self._gradient_views = [
                (views[f"layer{i}.weights"], views[f"layer{i}.bias"]) for i in range(len(self.layers))
            ]
            # Going backward, a layer reads one gradient and writes the next: two buffers take turns.
            widest = max((layer.units for layer in shape.layers), default=0)
            self._spare = tuple(np.empty(max_rows * widest, self.dtype) for _ in range(2))
        self._batches: dict[int, _Batch] = {}

    def gradients(
        self,
        x: Floats,
        targets: NDArray[Any],
        masks: DropoutMasks | None = None,
        first_position: int = 0,
    ) -> float:
        """The sum of the rows' losses in training; the gradient of that sum overwrites `gradient`.

        `x` has shape (rows, inputs), targets are those of the loss. A network with dropout needs the epoch's
        `masks` and the position of the first row in the epoch's order over all workers. Backpropagation:
        Rumelhart, Hinton and Williams (Nature, 1986). Raises ValueError for arrays that do not fit, too many
        rows, or missing masks.
        """
        if self.gradient is None:
            raise ValueError("this network was made without a gradient vector: it evaluates only")
        _check_inputs(x, self.inputs, self.dtype)
        if not len(x):
            self.gradient.fill(0)
            return 0.0
        batch = self._batch(len(x))
        with _quiet():
            below = x
            for i, (layer, buffers) in enumerate(zip(self.layers, batch.layers, strict=True)):
                if buffers.mask is not None:
                    if masks is None:
                        raise ValueError("a network with dropout needs masks to train")
                    masks.fill(i, layer.dropout, first_position, buffers.mask)
                layer.forward(below, buffers)
                below = buffers.outputs
            loss = self.loss.forward_backward(below, targets, batch.gradients[-1])
            for i in range(len(self.layers) - 1, -1, -1):
                self.layers[i].backward(
                    batch.layers[i - 1].outputs if i else x,
                    batch.layers[i],
                    batch.gradients[i],
                    batch.ones,
                    *self._gradient_views[i],
                    batch.gradients[i - 1] if i else None,
                )
        return loss

    def outputs(self, x: Floats) -> Floats:
        """The outputs for `x`, shape (rows, inputs), without dropout: a view that the next call overwrites.

        Raises ValueError for arrays that do not fit or more than `max_rows` rows.
        """
        _check_inputs(x, self.inputs, self.dtype)
        with _quiet():
            for layer, buffers in zip(self.layers, self._batch(len(x)).layers, strict=True):
                layer.apply(x, buffers.activated)
                x = buffers.activated
        return x

    def _allocate(self, layer: Dense) -> DenseBuffers:
        size = (self.max_rows, layer.bias.size)
        activated = np.empty(size, self.dtype)
        if not layer.dropout:
            return DenseBuffers(activated, None, activated)
        return DenseBuffers(activated, np.empty(size, self.dtype), np.empty(size, self.dtype))

    def _batch(self, rows: int) -> _Batch:
        """The views for so many rows, made once: a run knows two sizes, a full batch and the last one."""
        batch = self._batches.get(rows)
        if batch is None:
            if rows > self.max_rows:
                raise ValueError(f"{rows} rows are more than the {self.max_rows} that this network has room for")
            if len(self._batches) >= _MAX_CACHED_SIZES:
                self._batches.clear()
            batch = self._batches[rows] = self._make_batch(rows)
        return batch

    def _make_batch(self, rows: int) -> _Batch:
        layers = []
        for buffers in self._buffers:
            activated = buffers.activated[:rows]
            if buffers.mask is None:
                layers.append(DenseBuffers(activated, None, activated))
            else:
                layers.append(DenseBuffers(activated, buffers.mask[:rows], buffers.outputs[:rows]))
        gradients: list[Floats] = []
        if self._spare:
            for i, layer in enumerate(self.layers[:-1]):
                units = layer.bias.size
                gradients.append(self._spare[i % 2][: rows * units].reshape(rows, units))
            gradients.append(layers[-1].outputs)  # the loss turns the outputs into their gradient in place
        return _Batch(tuple(layers), tuple(gradients), self._ones[:rows])


class Predictor:
    """A learned network that answers. It changes nothing it holds: any number of threads may share it.

    `parameters` is the flat vector, float32 or float64; inputs have its dtype. Raises ValueError when the
    vector does not fit the shape.
    """

    def __init__(
        self,
        shape: training.NetworkShape,
        inputs: int,
        outputs: int,
        loss: training.Loss,
        parameters: Floats,
    ) -> None:
        self.inputs = inputs
        self.dtype: np.dtype[Any] = parameters.dtype
        self._layers = dense_layers(shape, inputs, outputs, parameters)
        self._loss = LOSSES[loss.kind]

    def outputs(self, x: Floats) -> Floats:
        """The outputs, shape (rows, outputs), a new array, for `x`, shape (rows, inputs).

        Inputs near the limits of the dtype can give infinities. Raises ValueError for inputs that do not fit.
        """
        _check_inputs(x, self.inputs, self.dtype)
        with _quiet():
            for layer in self._layers:
                out = np.empty((len(x), layer.bias.size), self.dtype)
                layer.apply(x, out)
                x = out
        return x

    def predict(self, x: Floats) -> Floats:
        """What `outputs` says about the target: probabilities of the classes, or the outputs themselves."""
        outputs = self.outputs(x)
        with _quiet():
            self._loss.predict(outputs, outputs)
        return outputs
