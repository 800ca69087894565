"""One inference, from the body of a request to the body of its answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from common.errors import Fault, Invalid, TooLarge
from common.learned import LearnedNetwork
from common.network.parameters import Floats
from service import problems
from service.batches import Rows, predict, rows_at_once
from service.inference_protocol.datatypes import NUMBERS
from service.inference_protocol.outputs import Output, outputs_of
from service.inference_protocol.request import InferenceRequest, Parameters
from service.inference_protocol.rows import MatrixRows, faults_of_inputs, is_matrix, read_rows
from service.inference_protocol.tensors import binary_size

_NUMBER_BYTES = 8
_PART_BYTES = 1 << 20
"""Of a matrix that are waited for at least, where rows are short."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: JSON alone, or behind it tensors in binary form."""

    body: bytes
    header_length: int | None
    """How much of it is JSON, where that is not all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one inference may take."""

    rows: int
    tensor_bytes: int
    """Of all inputs in binary form, or of all numbers that a model answers with."""


class Inference:
    """One inference.

    Args:
        network: answers.
        request: what is asked.
        limits: what it may take.

    Raises:
        Invalid: what is asked does not fit the model, as far as the JSON document tells; every fault is named.
        TooLarge: there are more rows than are allowed, or the answer would be too large.

    """

    def __init__(self, network: LearnedNetwork, request: InferenceRequest, limits: Limits) -> None:
        self._network = network
        self._request = request
        self._columns = network.encoder.columns
        self._rows = request.inputs[0].rows
        outputs = outputs_of(network)
        self._wanted, faults = _wanted(request, outputs)
        if max(tensor.rows for tensor in request.inputs) > limits.rows:
            raise TooLarge(f"At most {limits.rows} rows are predicted at once.")
        found = list(islice(chain(faults_of_inputs(request.inputs, self._columns), faults), problems.MAX_FAULTS))
        if found:
            raise problems.invalid(found)
        if self._rows * sum(output.width for output in outputs) * _NUMBER_BYTES > limits.tensor_bytes:
            raise TooLarge("The answer would be larger than is allowed; send fewer rows at once.")
        self._binary_bytes = sum(binary_size(tensor) or 0 for tensor in request.inputs)
        if self._binary_bytes > limits.tensor_bytes:
            raise TooLarge(f"At most {limits.tensor_bytes} bytes of binary data are taken.")
        self._is_matrix = self._binary_bytes > 0 and is_matrix(request.inputs, self._columns)
        self._row_bytes = self._binary_bytes // self._rows

    @property
    def parts(self) -> list[int]:
        """How many bytes each part has of what follows the JSON document: a matrix comes in parts of some rows."""
        if not self._is_matrix:
            return [self._binary_bytes]
        rows = rows_at_once(self._network)
        step = self._row_bytes * rows * max(1, _PART_BYTES // (self._row_bytes * rows))
        return [min(step, self._binary_bytes - start) for start in range(0, self._binary_bytes, step)]

    def predict(self, part: memoryview, start: int) -> Floats:
        """What the network answers to the rows of a part, before which there are `start` bytes.

        Raises:
            Invalid: values do not fit, or an answer is no finite number.

        """
        return np.concatenate(list(predict(self._network, self._read(part, start))))

    def _read(self, part: memoryview, start: int) -> Rows:
        if not self._is_matrix:
            return read_rows(self._request.inputs, part, self._columns)
        (tensor,) = self._request.inputs
        numbers = np.frombuffer(part, NUMBERS[tensor.datatype]).reshape(-1, tensor.width)
        return MatrixRows(numbers, self._columns, "/inputs/0", start // self._row_bytes)

    def wrong_length(self) -> Invalid:
        """The error for a body that is shorter or longer."""
        message = f"exactly {self._binary_bytes:,} bytes of binary data must follow the JSON document"
        return problems.invalid([Fault("/inputs", "wrong_size", message)])

    def answer(self, answers: Floats, said: Mapping[str, object]) -> Answer:
        """What is sent back; `said` is said of the model."""
        described, parts = list[dict[str, Any]](), list[bytes]()
        for output, as_bytes in self._wanted:
            shape = [len(answers), output.width]
            tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
            if as_bytes:
                parts.append(output.to_bytes(answers))
                tensor["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                tensor["data"] = output.to_json(answers)
            described.append(tensor)
        name = {} if self._request.id is None else {"id": self._request.id}
        header = json.dumps({**said, **name, "outputs": described}, separators=(",", ":")).encode()
        return Answer(b"".join((header, *parts)), len(header) if parts else None)


def _wanted(request: InferenceRequest, outputs: Sequence[Output]) -> tuple[list[tuple[Output, bool]], list[Fault]]:
    """The outputs that are asked for, all if none is named, and whether each is to be binary."""
    faults = list[Fault]()
    all_binary = _flag(request.parameters, "binary_data_output", "/parameters", faults) or False
    if not request.outputs:
        return [(output, all_binary) for output in outputs], faults
    by_name = {output.name: output for output in outputs}
    names = Counter(output.name for output in request.outputs)
    found = list[tuple[Output, bool]]()
    for index, asked in enumerate(request.outputs):
        pointer, output = f"/outputs/{index}", by_name.get(asked.name)
        binary = _flag(asked.parameters, "binary_data", f"{pointer}/parameters", faults)
        if "classification" in asked.parameters:
            message = "there are no classifications; ask for label and probabilities"
            faults.append(Fault(f"{pointer}/parameters/classification", "not_supported_yet", message))
        if output is None:
            faults.append(Fault(f"{pointer}/name", "unknown_choice", f"must be one of: {', '.join(by_name)}"))
            continue
        if names[asked.name] > 1:
            faults.append(Fault(f"{pointer}/name", "duplicate_tensor", "stands twice"))
        found.append((output, all_binary if binary is None else binary))
    return found, faults


def _flag(parameters: Parameters, name: str, pointer: str, faults: list[Fault]) -> bool | None:
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    faults.append(Fault(f"{pointer}/{name}", "wrong_type", "must be true or false"))
    return None
