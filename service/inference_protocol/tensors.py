"""The tensors of a request: their bytes or JSON values as arrays, whatever is wrong with them told with its place."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault
from common.features.records import MAX_FAULTS
from service.inference_protocol.datatypes import BOOL, BYTES, DATATYPES, INTEGERS, WIRE
from service.inference_protocol.request import InputTensor

Texts = list[str | None]
LENGTH_BYTES = 4
_SIZE = "binary_data_size"
_MOST_BYTES = 2**63
_NOT_HERE = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that was read; `values` are flat, row after row."""

    name: str
    datatype: str
    rows: int
    width: int
    """Values in a row."""
    values: NDArray[Any] | Texts
    """Numbers and booleans as they came, or as float64 where JSON said them; NaN is missing. Texts; None is missing."""
    pointer: str
    """Where it stands in the request."""

    def place(self, index: int) -> str:
        """Where its value of that number stands, or would in JSON."""
        return f"{self.pointer}/data/{index}"


def faults_of_form(inputs: Sequence[InputTensor]) -> Iterator[Fault]:
    """What keeps tensors from being read, as far as the JSON document alone tells."""
    names = Counter(tensor.name for tensor in inputs)
    for index, tensor in enumerate(inputs):
        pointer = f"/inputs/{index}"
        if names[tensor.name] > 1:
            yield Fault(f"{pointer}/name", "duplicate_tensor", "stands twice")
        if tensor.datatype not in DATATYPES:
            yield Fault(f"{pointer}/datatype", "unknown_choice", f"must be one of: {', '.join(DATATYPES)}")
        yield from _faults_of_size(tensor, pointer)


def _faults_of_size(tensor: InputTensor, pointer: str) -> Iterator[Fault]:
    if elsewhere := [name for name in _NOT_HERE if name in tensor.parameters]:
        message = "values in shared memory are not taken; send them in the body"
        yield Fault(f"{pointer}/parameters/{elsewhere[0]}", "not_supported_yet", message)
        return
    size, where = tensor.parameters.get(_SIZE), f"{pointer}/parameters/{_SIZE}"
    if size is None:
        if tensor.data is None:
            yield Fault(f"{pointer}/data", "missing", f"is required, or a {_SIZE} among the parameters")
    elif tensor.data is not None:
        yield Fault(f"{pointer}/data", "conflicting_options", f"cannot be given with a {_SIZE}")
    elif type(size) is not int:
        yield Fault(where, "wrong_type", "must be a whole number")
    elif tensor.datatype in WIRE and size != (expected := math.prod(tensor.shape) * WIRE[tensor.datatype].itemsize):
        yield Fault(where, "wrong_size", f"must be {expected}, as the shape and {tensor.datatype} say")
    elif not 0 <= size < _MOST_BYTES:
        yield Fault(where, "out_of_range", "must be a number of bytes")


def binary_size(tensor: InputTensor) -> int | None:
    """How many bytes behind the JSON document are a tensor's values; None where they stand in it."""
    size = tensor.parameters.get(_SIZE)
    assert size is None or isinstance(size, int)
    return size


def read_tensors(inputs: Sequence[InputTensor], binary: memoryview, faults: list[Fault]) -> list[Tensor]:
    """Tensors whose form is right; what is wrong with their values goes to `faults`.

    `binary` is all that follows the JSON document: the values of the tensors that are not in it, in their order. Arrays
    are views of it.
    """
    sizes = [binary_size(tensor) or 0 for tensor in inputs]
    found = list[Tensor]()
    for index, (tensor, size, end) in enumerate(zip(inputs, sizes, accumulate(sizes), strict=True)):
        pointer = f"/inputs/{index}"
        values = _values(tensor, binary[end - size : end], pointer, faults)
        found.append(Tensor(tensor.name, tensor.datatype, tensor.rows, tensor.width, values, pointer))
    return found


def _values(tensor: InputTensor, binary: memoryview, pointer: str, faults: list[Fault]) -> NDArray[Any] | Texts:
    if binary_size(tensor) is None:
        return _from_json(tensor, pointer, faults)
    if tensor.datatype == BYTES:
        return _texts(binary, math.prod(tensor.shape), pointer, faults)
    values: NDArray[Any] = np.frombuffer(binary, WIRE[tensor.datatype])
    if tensor.datatype == BOOL:
        wrong = np.flatnonzero(values > 1)[:MAX_FAULTS].tolist()
        message = "a boolean must be a byte of 0 or 1"
        faults += [Fault(f"{pointer}/data/{place}", "wrong_type", message) for place in wrong]
    return values


def _texts(binary: memoryview, count: int, pointer: str, faults: list[Fault]) -> Texts:
    """Texts, each behind its length in 4 bytes."""
    found: Texts = []
    end = 0
    while len(found) < count and end + LENGTH_BYTES <= len(binary):
        begin = end + LENGTH_BYTES
        end = begin + int.from_bytes(binary[end:begin], "little")
        if end > len(binary):
            break
        try:
            found.append(str(binary[begin:end], "utf-8"))
        except UnicodeDecodeError:
            faults.append(Fault(f"{pointer}/data/{len(found)}", "not_utf8", "must be UTF-8"))
            found.append(None)
    if len(found) != count or end != len(binary):
        message = f"{count:,} texts, each behind its length in {LENGTH_BYTES} bytes, must fill the binary data"
        faults.append(Fault(pointer, "wrong_size", message))
    return found


def _from_json(given: InputTensor, pointer: str, faults: list[Fault]) -> NDArray[Any] | Texts:
    data, count = _flat(given.data or [], given.shape), math.prod(given.shape)
    if data is None or len(data) != count:
        message = f"must hold the {count:,} values that the shape makes, flat or as an array of rows"
        faults.append(Fault(f"{pointer}/data", "wrong_size", message))
        return []
    allowed, words = _ALLOWED.get(given.datatype, _ANY_NUMBER)
    if not set(map(type, data)) <= allowed:
        wrong = [place for place, value in enumerate(data) if type(value) not in allowed][:MAX_FAULTS]
        message = f"must be {words}, or null"
        faults += [Fault(f"{pointer}/data/{place}", "wrong_type", message) for place in wrong]
        return []
    if given.datatype == BYTES:
        return data
    try:
        return np.array([math.nan if value is None else value for value in data], np.float64)
    except OverflowError:
        wrong = [place for place, value in enumerate(data) if isinstance(value, int) and abs(value) > _LARGEST]
        message = "the number is too large"
        faults += [Fault(f"{pointer}/data/{place}", "number_too_large", message) for place in wrong[:MAX_FAULTS]]
        return []


def _flat(data: list[Any], shape: Sequence[int]) -> list[Any] | None:
    """The values row after row; None where rows are not of the shape."""
    if not any(isinstance(row, list) for row in data):
        return data
    if len(shape) < 2 or not all(isinstance(row, list) and len(row) == shape[1] for row in data):
        return None
    return list(chain.from_iterable(data))


_NONE = type(None)
_ANY_NUMBER = ({int, float, _NONE}, "a number")
_ALLOWED: dict[str, tuple[set[type], str]] = {
    BOOL: ({bool, _NONE}, "true or false"),
    BYTES: ({str, _NONE}, "a text"),
    **dict.fromkeys(INTEGERS, ({int, _NONE}, "a whole number")),
}
_LARGEST = sys.float_info.max
