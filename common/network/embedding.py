"""Embeddings: what categories mean, learned like any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.network.batch import Batch
from common.network.initializers import Initializer
from common.network.layer import BoundLayer, Layer
from common.network.operations import Operation
from common.network.parameters import Floats


@dataclass(frozen=True, slots=True)
class Embedding:
    """A column of the input that holds numbers of categories, each of which gets a vector of its own."""

    place: int
    """Of the column."""
    categories: int
    """How many there are: 0 ... categories - 1."""
    width: int
    """Of a vector."""


class EmbeddedInputs(Layer):
    """The input with every embedded column replaced by its category's vector (Guo and Berkhahn, 2016).

    First come all other columns, in order, then the vectors. The vectors of a column are the rows of weights of shape
    (categories, width). Raises ValueError for a column that is not there, or given twice.
    """

    def __init__(self, inputs: int, embeddings: Sequence[Embedding]) -> None:
        self.embeddings = tuple(embeddings)
        places = {embedding.place for embedding in self.embeddings}
        if len(places) < len(self.embeddings) or not places <= set(range(inputs)):
            raise ValueError(f"embeddings need columns of their own among the {inputs} there are")
        self.plain = [place for place in range(inputs) if place not in places]
        width = len(self.plain) + sum(embedding.width for embedding in self.embeddings)
        super().__init__("embedding", inputs, width)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """One matrix of vectors for each embedded column."""
        return {f"embedding{e.place}.weights": (e.categories, e.width) for e in self.embeddings}

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """Near zero, so that the categories begin about equal. The last one begins at zero: see `FeatureEncoder`."""
        del initializer
        for name, shape in self.shapes.items():
            parameters[name][...] = generator.normal(0, DEVIATION, shape)
            parameters[name][-1] = 0

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The layer over these inputs."""
        return _BoundEmbeddings(self, x, batch)


DEVIATION = 0.1


class _BoundEmbeddings(BoundLayer):
    def __init__(self, layer: EmbeddedInputs, x: Floats, batch: Batch) -> None:
        outputs = batch.array(f"{layer.name}.outputs", layer.width)
        self._runs = _runs(layer.plain)
        forward: list[Operation] = [partial(np.copyto, outputs[:, to], x[:, since]) for since, to in self._runs]
        self._columns: list[_Column] = []
        start = len(layer.plain)
        for (name, _), embedding in zip(layer.shapes.items(), layer.embeddings, strict=True):
            span = slice(start, start + embedding.width)
            column = _Column(name, embedding, span, batch)
            forward += [
                partial(np.copyto, column.codes, x[:, embedding.place], "unsafe"),
                # "clip" because the default mode goes through a copy.
                partial(column.vectors.take, column.codes, 0, column.taken, "clip"),
                partial(np.copyto, outputs[:, span], column.taken),
            ]
            self._columns.append(column)
            start += embedding.width
        super().__init__(x, outputs, forward)

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """The gradient of a vector is the sum over the rows that hold its category; numbers of categories have none."""
        operations: list[Operation] = []
        for column in self._columns:
            assert column.gradient is not None
            operations += [
                partial(column.gradient.fill, 0),
                partial(np.copyto, column.taken, gradient[:, column.span]),
                partial(np.multiply, column.codes, column.stride, column.codes),
                partial(np.add, column.codes[:, np.newaxis], column.offsets, column.places),
                # on flat arrays: with rows of a matrix it takes six times as long
                partial(np.add.at, column.gradient.reshape(-1), column.places.reshape(-1), column.taken.reshape(-1)),
            ]
        if out is not None:
            operations.append(partial(out.fill, 0))
            operations += [partial(np.copyto, out[:, since], gradient[:, to]) for since, to in self._runs]
        return operations


class _Column:
    def __init__(self, name: str, embedding: Embedding, span: slice, batch: Batch) -> None:
        self.span = span
        self.vectors = batch.parameters[name]
        self.gradient = None if batch.gradients is None else batch.gradients[name]
        self.codes = batch.room.array(f"{name}.codes", batch.rows, 1, np.int64)[:, 0]
        self.places = batch.room.array(f"{name}.places", batch.rows, embedding.width, np.int64)
        self.taken = batch.array(f"{name}.taken", embedding.width)
        self.stride = np.array(embedding.width)
        self.offsets = np.arange(embedding.width)


def _runs(plain: Sequence[int]) -> list[tuple[slice, slice]]:
    """Columns side by side, where they are and where they go."""
    runs: list[tuple[slice, slice]] = []
    for place, column in enumerate(plain):
        if runs and runs[-1][0].stop == column:
            since, to = runs.pop()
            runs.append((slice(since.start, column + 1), slice(to.start, place + 1)))
        else:
            runs.append((slice(column, column + 1), slice(place, place + 1)))
    return runs
