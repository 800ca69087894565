"""The parameter server (Li et al., OSDI 2014): averages the workers' gradients and applies the update.

A plain class that knows neither Ray nor sockets; `actors.py` makes it a process of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.errors import ChainruleError, Diverged
from worker.channel import ServerChannel, Vector
from worker.optimizers import BLOCK, Optimizer


class ParameterServer:
    """Owns the parameters and the optimizer's state.

    Args:
        channel: its end of the channel to the workers.
        optimizer: updates a range of the flat vector in place.
        initial: the parameters to start from, copied.

    """

    def __init__(self, channel: ServerChannel, optimizer: Optimizer, initial: Vector) -> None:
        self._channel = channel
        self._optimizer = optimizer
        self._parameters = channel.parameters
        self._parameters[:] = initial
        self._best = self._parameters.copy()
        self._mean = np.empty_like(self._parameters)
        self._version = 0

    @property
    def version(self) -> int:
        """Updates applied so far."""
        return self._version

    def serve(self, steps: int) -> int:
        """Takes part in so many synchronous steps; answers the version reached.

        Raises:
            Diverged: a worker met a loss that is no finite number.
            Halted: the training was halted; the parameters are those of the last whole step.
            PeerLost: a worker's process is gone.

        """
        try:
            for _ in range(steps):
                self._step()
        except ChainruleError:
            self.halt()  # nobody is left waiting for a version that will not come
            raise
        return self._version

    def _step(self) -> None:
        gradients, weights = self._channel.gradients(self._version + 1)
        total = math.fsum(weights)
        if not math.isfinite(total):
            raise Diverged(f"The loss stopped being a finite number at step {self._version + 1}.")
        self._apply(gradients, total)
        self._version += 1
        self._channel.publish(self._version)

    def _apply(self, gradients: Sequence[Vector], total: float) -> None:
        self._optimizer.begin_step()
        for start in range(0, self._mean.size, BLOCK):  # averaged and applied while it is in the processor's cache
            block = slice(start, min(start + BLOCK, self._mean.size))
            mean = self._mean[block]
            np.copyto(mean, gradients[0][block])
            for gradient in gradients[1:]:
                np.add(mean, gradient[block], out=mean)
            np.multiply(mean, 1 / total, out=mean)
            self._optimizer.update(self._parameters, self._mean, block.start, block.stop)

    def remember_best(self) -> None:
        """Keeps a copy of the parameters as the best so far."""
        self._best[:] = self._parameters

    def best(self) -> Vector:
        """The parameters last remembered, or the initial ones."""
        return self._best

    def halt(self) -> None:
        """Ends the training at the next wait, on the server's side and the workers'; from any thread."""
        self._channel.halt()
