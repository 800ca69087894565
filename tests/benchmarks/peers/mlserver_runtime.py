"""A network as MLServer serves it: a custom runtime, found by its path in `model-settings.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from tests.benchmarks.peers.plain_network import PlainNetwork


class PlainRuntime(MLModel):  # type: ignore[misc]  # MLServer is not in the project's environment
    """One tensor of instances in, one of probabilities out."""

    async def load(self) -> bool:
        self._network = PlainNetwork(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        instances: Any = NumpyCodec.decode_input(payload.inputs[0])
        found = self._network.probabilities(instances)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", found)])
