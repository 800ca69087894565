"""The whole network: gradients for training, outputs for evaluation, predictions for callers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.batch import Batch
from common.network.embedding import EmbeddedInputs, Embedding
from common.network.layer import BoundChain, Chain
from common.network.losses import BoundLoss, NumberLoss, make_loss
from common.network.masks import DropoutMasks, Mask
from common.network.operations import Operation
from common.network.parameters import Floats, ParameterLayout
from common.network.quiet import quiet
from common.network.room import Room
from common.network.structure import network_layers
from common.schemas.losses import Loss
from common.schemas.network import NetworkShape

_MAX_CACHED_SIZES = 16


def _check_inputs(x: Floats, width: int, dtype: np.dtype[Any]) -> None:
    if x.ndim != 2 or x.shape[1] != width or x.dtype != dtype:
        raise ValueError(f"{dtype} inputs of shape (rows, {width}) are needed, not {x.dtype} of shape {x.shape}")


@dataclass(frozen=True, slots=True)
class _Pass:
    """All operations on one number of rows."""

    x: Floats
    evaluation: BoundChain
    forward: list[Operation]
    masks: list[Mask]
    loss: BoundLoss
    backward: list[Operation]


class Network:
    """A network with every buffer of a training step allocated beforehand, for one thread.

    `parameters` and `gradient` are flat vectors of as many float32 or float64 numbers as the network learns. They
    belong to the caller: the parameters are only read, and whoever changes them between steps changes the network.
    Without `gradient` the network evaluates only. A step on at most `max_rows` rows allocates nothing but
    a few small objects, once it has seen that number of rows. With `input_gradient` the gradient with respect to the
    inputs is computed too. Raises ValueError when the vectors do not fit the shape.
    """

    def __init__(
        self,
        shape: NetworkShape,
        inputs: int,
        outputs: int,
        loss: Loss,
        *,
        max_rows: int,
        parameters: Floats,
        gradient: Floats | None = None,
        embeddings: Sequence[Embedding] = (),
        input_gradient: bool = False,
    ) -> None:
        if gradient is not None and gradient.dtype != parameters.dtype:
            raise ValueError(f"the gradient is {gradient.dtype}, the parameters are {parameters.dtype}")
        self.inputs = inputs
        self.max_rows = max_rows
        self.parameters = parameters
        self.gradient = gradient
        self.dtype: np.dtype[Any] = parameters.dtype
        self.layers = network_layers(shape, inputs, outputs, embeddings)
        self.layout = ParameterLayout(self.layers.shapes)
        self.loss = make_loss(loss, outputs, self.dtype)
        self._room = Room(max_rows, self.dtype)
        self._views = self.layout.views(parameters)
        self._gradients = None if gradient is None else self.layout.views(gradient)
        self._wants_input_gradient = input_gradient
        self._passes: dict[int, _Pass] = {}
        self.last: BoundChain
        """The layers as the last call of `outputs` left them."""

    def x(self, rows: int) -> Floats:
        """Where the next so many rows can be put, shape (rows, inputs), so that they need not be copied there.

        Raises ValueError for more than `max_rows`.
        """
        return self._pass(rows).x

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
        if self._gradients is None:
            raise ValueError("this network was made without a gradient vector: it evaluates only")
        run = self._take(x)
        if run.masks:
            if masks is None:
                raise ValueError("a network with dropout needs masks to train")
            for mask in run.masks:
                masks.fill(mask.stream, mask.rate, first_position, mask.numbers)
        for operation in run.forward:
            operation()
        loss = run.loss.forward_backward(targets, weights)
        for operation in run.backward:
            operation()
        return loss

    def input_gradient(self, rows: int) -> Floats:
        """With respect to the inputs of the last `gradients`, which had so many rows: a view, overwritten by the next.

        Raises ValueError for a network that was not made to compute it.
        """
        if not self._wants_input_gradient:
            raise ValueError("this network was made without the gradient with respect to its inputs")
        return self._room.array("input_gradient", rows, self.inputs)

    def outputs(self, x: Floats) -> Floats:
        """The outputs for `x`, shape (rows, inputs), without dropout: a view that the next call overwrites.

        Raises ValueError for arrays that do not fit or more than `max_rows` rows.
        """
        run = self._take(x)
        with quiet():
            for operation in run.evaluation.forward:
                operation()
        self.last = run.evaluation
        return run.evaluation.outputs

    def _take(self, x: Floats) -> _Pass:
        run = self._passes.get(len(x))
        if run is None or x is not run.x:
            _check_inputs(x, self.inputs, self.dtype)
            run = self._pass(len(x))
            np.copyto(run.x, x)
        return run

    def _pass(self, rows: int) -> _Pass:
        """The operations on so many rows, made once: a run knows two sizes, a full batch and the last one."""
        run = self._passes.get(rows)
        if run is None:
            if rows > self.max_rows:
                raise ValueError(f"{rows} rows are more than the {self.max_rows} that this network has room for")
            if len(self._passes) >= _MAX_CACHED_SIZES:
                self._passes.clear()
            run = self._passes[rows] = self._make_pass(rows)
        return run

    def _make_pass(self, rows: int) -> _Pass:
        x = self._room.array("x", rows, self.inputs)
        evaluation = self.layers.bind(x, Batch(rows, self._room, self._views))
        training_batch = Batch(rows, self._room, self._views, self._gradients)
        bound = self.layers.bind(x, training_batch)
        backward: list[Operation] = []
        if self._gradients is not None:
            out = self._room.array("input_gradient", rows, self.inputs) if self._wants_input_gradient else None
            backward = bound.backward(bound.outputs, out)  # the loss turns the outputs into their gradient in place
        loss = self.loss.bind(bound.outputs)
        return _Pass(x, evaluation, bound.forward, training_batch.masks, loss, backward)


class Predictor:
    """A learned network that answers. It changes nothing it holds: any number of threads may share it.

    `parameters` is the flat vector, float32 or float64; inputs have its dtype. Raises ValueError when the
    vector does not fit the shape.
    """

    def __init__(
        self,
        shape: NetworkShape,
        inputs: int,
        outputs: int,
        loss: Loss,
        parameters: Floats,
        embeddings: Sequence[Embedding] = (),
    ) -> None:
        self.inputs = inputs
        self.dtype: np.dtype[Any] = parameters.dtype
        self.layers = network_layers(shape, inputs, outputs, embeddings)
        self.parameters = ParameterLayout(self.layers.shapes).views(parameters)
        """By the names that the layers have for them."""
        self.size: int = parameters.size
        """How many numbers it has learned."""
        self.loss = make_loss(loss, outputs, self.dtype)
        first, *others = self.layers.layers
        self._embedding = first if isinstance(first, EmbeddedInputs) else None
        self._inner = Chain("", first.width, others) if self._embedding else self.layers
        self._of_thread = threading.local()

    @property
    def widest(self) -> int:
        """The most numbers that a row becomes on its way."""
        return max(layer.width for layer in (self.layers, *self.layers.layers))

    @property
    def middle(self) -> int:
        """Which of the predicted numbers is the value."""
        return self.loss.middle if isinstance(self.loss, NumberLoss) else 0

    def outputs(self, x: Floats) -> Floats:
        """The outputs, shape (rows, outputs), a new array, for `x`, shape (rows, inputs).

        Inputs near the limits of the dtype can give infinities. Raises ValueError for inputs that do not fit.
        """
        with quiet():
            return self._outputs(x)

    def _outputs(self, x: Floats) -> Floats:
        _check_inputs(x, self.inputs, self.dtype)
        if len(x) == 1:
            bound = self._for_one_row
            np.copyto(bound.x, x)
        else:
            bound = self.layers.bind(x, Batch(len(x), Room(len(x), self.dtype), self.parameters))
        for operation in bound.forward:
            operation()
        return bound.outputs.copy() if len(x) == 1 else bound.outputs

    @property
    def _for_one_row(self) -> BoundChain:
        """Kept for each thread: to make it takes longer than to run it, and most callers predict a row at a time."""
        bound: BoundChain | None = getattr(self._of_thread, "one_row", None)
        if bound is None:
            x = np.empty((1, self.inputs), self.dtype)
            bound = self._of_thread.one_row = self.layers.bind(x, Batch(1, Room(1, self.dtype), self.parameters))
        return bound

    def predict(self, x: Floats) -> Floats:
        """What `outputs` says about the target: probabilities of the classes, or the outputs themselves."""
        with quiet():
            outputs = self._outputs(x)
            self.loss.predict(outputs, outputs)
        return outputs

    def embedded(self, x: Floats) -> Floats:
        """The inputs with categories replaced by their vectors, as `EmbeddedInputs` orders them; `x` without any.

        Raises ValueError for inputs that do not fit.
        """
        _check_inputs(x, self.inputs, self.dtype)
        if self._embedding is None:
            return x
        bound = self._embedding.bind(x, Batch(len(x), Room(len(x), self.dtype), self.parameters))
        for operation in bound.forward:
            operation()
        return bound.outputs

    def slopes(self, embedded: Floats, chosen: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """One prediction of each row, and how it changes with each number of the row, once categories are vectors.

        `embedded` has shape (rows, numbers); `chosen`, shape (rows,), says which of the predictions. New arrays of
        shape (rows,) and like `embedded`: what `predict` says, and the gradient of that.
        """
        _check_inputs(embedded, self._inner.inputs, self.dtype)
        batch = Batch(len(embedded), Room(len(embedded), self.dtype), self.parameters, to_inputs=True)
        bound = self._inner.bind(embedded, batch)
        slopes = np.empty_like(embedded)
        with quiet():
            for operation in bound.forward:
                operation()
            predictions = np.empty_like(bound.outputs)
            self.loss.predict(bound.outputs, predictions)
            self.loss.slope(bound.outputs, chosen)
            for operation in bound.backward(bound.outputs, slopes):
                operation()
        return predictions[np.arange(len(chosen)), chosen], slopes
