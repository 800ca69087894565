"""The whole network: gradients for training, outputs for evaluation, predictions for callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.dropout import DropoutMasks
from common.network.layers import Dense, DenseBuffers, DenseGradients, dense_layers
from common.network.losses import LOSSES, BoundLoss, make_loss
from common.network.operations import Operation
from common.network.parameters import Floats, network_layout
from common.network.quiet import quiet
from common.schemas import training

_MAX_CACHED_SIZES = 16


def _check_inputs(x: Floats, width: int, dtype: np.dtype[Any]) -> None:
    if x.ndim != 2 or x.shape[1] != width or x.dtype != dtype:
        raise ValueError(f"{dtype} inputs of shape (rows, {width}) are needed, not {x.dtype} of shape {x.shape}")


@dataclass(frozen=True, slots=True)
class _Batch:
    """All operations on one number of rows, but the two that read the rows themselves: the first layer's products."""

    layers: tuple[DenseBuffers, ...]
    evaluate: list[Operation]
    forward: list[Operation]
    masks: list[tuple[int, float, Floats]]
    """Layer, dropout and mask of every layer with dropout."""
    loss: BoundLoss
    backward: list[Operation]
    first: DenseGradients | None
    """The gradients of the first layer; None when the network computes none."""


class Network:
    """A network with every buffer of a training step allocated beforehand, for one thread.

    `parameters` and `gradient` are flat vectors of `parameter_count` float32 or float64 numbers that belong
    to the caller: the parameters are only read, and whoever changes them between steps changes the network.
    Without `gradient` the network evaluates only. A step on at most `max_rows` rows allocates nothing but
    a few small objects, once it has seen that number of rows. Raises ValueError when the vectors do not fit the
    shape.
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
        self.loss = make_loss(loss, outputs, self.dtype)
        self._hidden = tuple(self._allocate(layer) for layer in self.layers[:-1])
        self._outputs = np.empty(max_rows * outputs, self.dtype)
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
        self._batches: dict[tuple[int, ...], _Batch] = {}

    def gradients(
        self,
        x: Floats,
        targets: NDArray[Any],
        masks: DropoutMasks | None = None,
        first_position: int = 0,
        weights: Floats | None = None,
    ) -> float:
        """The weighted sum of the rows' losses in training; the gradient of that sum overwrites `gradient`.

        `x` has shape (rows, inputs), targets are those of the loss, `weights` has shape (rows,) and the network's
        dtype, or is None for ones. A network with dropout needs the epoch's `masks` and the position of the first
        row in the epoch's order over all workers. Whoever calls this has had `loss.check` look at all targets, and
        holds `quiet()`, or is warned of infinities. Backpropagation: Rumelhart, Hinton and Williams (Nature, 1986).
        Raises ValueError for arrays that do not fit, too many rows, or missing masks.
        """
        if self.gradient is None:
            raise ValueError("this network was made without a gradient vector: it evaluates only")
        batch = self._batch(x)
        if batch.masks:
            if masks is None:
                raise ValueError("a network with dropout needs masks to train")
            for layer, dropout, mask in batch.masks:
                masks.fill(layer, dropout, first_position, mask)
        self.layers[0].multiply(x, batch.layers[0].activated)()
        for operation in batch.forward:
            operation()
        loss = batch.loss.forward_backward(targets, weights)
        for operation in batch.backward:
            operation()
        assert batch.first is not None
        self.layers[0].multiply_back(x, batch.first)()
        return loss

    def outputs(self, x: Floats) -> Floats:
        """The outputs for `x`, shape (rows, inputs), without dropout: a view that the next call overwrites.

        Raises ValueError for arrays that do not fit or more than `max_rows` rows.
        """
        batch = self._batch(x)
        with quiet():
            self.layers[0].multiply(x, batch.layers[0].activated)()
            for operation in batch.evaluate:
                operation()
        return batch.layers[-1].activated

    def _allocate(self, layer: Dense) -> DenseBuffers:
        size = (self.max_rows, layer.bias.size)
        activated = np.empty(size, self.dtype)
        if not layer.dropout:
            return DenseBuffers(activated, None, activated)
        return DenseBuffers(activated, np.empty(size, self.dtype), np.empty(size, self.dtype))

    def _batch(self, x: Floats) -> _Batch:
        """The operations on rows like these, made once: a run knows two sizes, a full batch and the last one."""
        batch = self._batches.get(x.shape)
        if batch is None or x.dtype != self.dtype:
            _check_inputs(x, self.inputs, self.dtype)
            if len(x) > self.max_rows:
                raise ValueError(f"{len(x)} rows are more than the {self.max_rows} that this network has room for")
            if len(self._batches) >= _MAX_CACHED_SIZES:
                self._batches.clear()
            batch = self._batches[x.shape] = self._make_batch(len(x))
        return batch

    def _make_batch(self, rows: int) -> _Batch:
        outputs = self._outputs[: rows * self.loss.width].reshape(self.loss.width, rows).T  # the order that losses want
        layers = (*(buffers.first(rows) for buffers in self._hidden), DenseBuffers(outputs, None, outputs))
        gradients = self._make_gradients(layers)
        evaluate: list[Operation] = []
        forward: list[Operation] = []
        backward: list[Operation] = []
        masks: list[tuple[int, float, Floats]] = []
        for i, (layer, buffers) in enumerate(zip(self.layers, layers, strict=True)):
            if i:
                evaluate.append(layer.multiply(layers[i - 1].activated, buffers.activated))
                forward.append(layer.multiply(layers[i - 1].outputs, buffers.activated))
            evaluate += layer.activate(buffers.activated)
            forward += layer.activate(buffers.activated) + layer.drop(buffers)
            if buffers.mask is not None:
                masks.append((i, layer.dropout, buffers.mask))
        for i in reversed(range(len(gradients))):
            backward += self.layers[i].backward(layers[i], gradients[i], self._ones[:rows])
            if i:
                backward.append(self.layers[i].multiply_back(layers[i - 1].outputs, gradients[i]))
        return _Batch(layers, evaluate, forward, masks, self.loss.bind(outputs), backward, next(iter(gradients), None))

    def _make_gradients(self, layers: Sequence[DenseBuffers]) -> list[DenseGradients]:
        """Those of each layer; none when the network computes none."""
        made: list[DenseGradients] = []
        below: Floats | None = None
        for i, (weights, bias) in enumerate(self._gradient_views):
            outputs = layers[i].outputs  # of the last layer: the loss turns them into their gradient in place
            if i < len(layers) - 1:
                outputs = self._spare[i % 2][: outputs.size].reshape(outputs.shape)
            made.append(DenseGradients(outputs, weights, bias, below))
            below = outputs
        return made


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
        with quiet():
            for layer in self._layers:
                out = np.empty((len(x), layer.bias.size), self.dtype)
                for operation in (layer.multiply(x, out), *layer.activate(out)):
                    operation()
                x = out
        return x

    def predict(self, x: Floats) -> Floats:
        """What `outputs` says about the target: probabilities of the classes, or the outputs themselves."""
        outputs = self.outputs(x)
        with quiet():
            self._loss.predict(outputs, outputs)
        return outputs
