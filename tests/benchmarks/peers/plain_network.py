"""The forward pass as everybody would write it with NumPy, for the servers that have none of their own. Needs NumPy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PlainNetwork:
    """Standardized inputs, dense layers with ReLU between them, a softmax.

    Args:
        file: means, scales, and the layers' weights of shape (inputs, units) and biases in turn, as `.npz`.
        dtype: to compute in.

    """

    def __init__(self, file: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        with np.load(file) as stored:
            arrays = {name: stored[name].astype(dtype) for name in sorted(stored.files)}
        self._dtype = dtype
        self._means, self._scales = arrays.pop("means"), arrays.pop("scales")
        layers = list(arrays.values())
        self._layers = list(zip(layers[::2], layers[1::2], strict=True))

    def probabilities(self, instances: Any) -> NDArray[Any]:
        """Of the classes, shape (rows, classes), for whatever makes an array of shape (rows, inputs)."""
        x = (np.asarray(instances, self._dtype) - self._means) / self._scales
        *hidden, (weights, biases) = self._layers
        for inner, shift in hidden:
            x = np.maximum(x @ inner + shift, 0)
        x = x @ weights + biases
        x = np.exp(x - x.max(axis=1, keepdims=True))
        found: NDArray[Any] = x / x.sum(axis=1, keepdims=True)
        return found
