"""What forward and backward cost over forward alone, for every kind of layer: `python -P -m tests.benchmarks.layer_costs`.

The least time of each on one batch of 256 rows, 100-256-256-256-10, one BLAS thread.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, get_args

import numpy as np

from common.network.embedding import Embedding
from common.network.masks import DropoutMasks
from common.network.network import Network
from common.network.quiet import quiet
from common.network.structure import initialize, parameter_count
from common.processes import ONE_BLAS_THREAD
from common.schemas.losses import CrossEntropy
from common.schemas.network import Dense, NetworkShape

ROWS, INPUTS, UNITS, OUTPUTS = 256, 100, 256, 10
SECONDS = 1.0
MOST = 4.0


def shapes() -> dict[str, NetworkShape]:
    """A network for each kind of layer, and for each activation."""
    activations = get_args(Dense.model_fields["activation"].annotation)
    dense = {"kind": "dense", "units": UNITS}
    block = {"kind": "residual", "layers": [{"kind": "layer_norm"}, dense, {**dense, "activation": "identity"}]}
    kinds: dict[str, list[dict[str, Any]]] = {
        **{name: [{**dense, "activation": name}] * 3 for name in activations},
        "dropout": [{**dense, "dropout": 0.5}] * 3,
        "layer_norm": [dense, {"kind": "layer_norm"}] * 3,
        "residual": [dense, block],
    }
    found = {name: NetworkShape.model_validate({"layers": layers}) for name, layers in kinds.items()}
    return {**found, "input_dropout": found["relu"].model_copy(update={"input_dropout": 0.2})}


def over_forward(shape: NetworkShape, embeddings: tuple[Embedding, ...] = ()) -> float:
    """The least time of both passes, by the least time of the forward pass."""
    count = parameter_count(shape, INPUTS, OUTPUTS, embeddings)
    parameters, gradient = np.empty(count, np.float32), np.empty(count, np.float32)
    random = np.random.default_rng(1)
    initialize(shape, INPUTS, OUTPUTS, random, parameters, embeddings)
    network = Network(
        shape,
        INPUTS,
        OUTPUTS,
        CrossEntropy(),
        max_rows=ROWS,
        parameters=parameters,
        gradient=gradient,
        embeddings=embeddings,
    )
    x, y = network.x(ROWS), random.integers(0, OUTPUTS, ROWS)
    x[:] = random.standard_normal(x.shape)
    for embedding in embeddings:
        x[:, embedding.place] = random.integers(0, embedding.categories, ROWS)
    masks = DropoutMasks(1, 1) if shape.has_dropout else None
    both, forward = math.inf, math.inf
    end = time.perf_counter() + SECONDS
    with quiet():
        while time.perf_counter() < end:
            began = time.perf_counter()
            network.gradients(x, y, masks, 0)
            middle = time.perf_counter()
            network.outputs(x)
            both, forward = min(both, middle - began), min(forward, time.perf_counter() - middle)
    return both / forward


def main() -> None:
    """Prints a line for each."""
    if any(os.environ.get(name) != value for name, value in ONE_BLAS_THREAD.items()):
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **ONE_BLAS_THREAD})  # noqa: S606
    found = {name: over_forward(shape) for name, shape in shapes().items()}
    found["embedding"] = over_forward(shapes()["relu"], (Embedding(0, 500, 32),))
    for name, ratio in found.items():
        sys.stdout.write(f"{name:15} {ratio:5.2f}\n")
    sys.stdout.write(f"most            {max(found.values()):5.2f}; the aim is {MOST:g} at most\n")


if __name__ == "__main__":
    main()
