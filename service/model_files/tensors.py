"""A file in the safetensors format, read as what a stranger sends: nothing is believed, nothing allocated by its word.

The form: 8 bytes with the length of the header, the header as JSON, and the numbers of all tensors, back to back.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault, Unreadable, pointer_part
from common.network.parameters import ParameterLayout
from service import strict_json

MAX_HEADER = 16 * 2**20
"""Bytes of JSON: ten thousand columns of numbers need four million."""
MAX_VALUES = 1_000_000
"""In all JSON together: Python takes seconds to look at so many."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FLOAT_BYTES = 4
_MOST_NAMED = 10


class Unfit(Exception):
    """The file is not what it has to be; `faults` says why."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("the file is not what it has to be")
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; only its metadata have been checked."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, object]
    start: int
    """Of the numbers, in bytes from the beginning."""
    size: int
    """Of all numbers, in bytes."""


def read_header(path: Path, size: int) -> Header:
    """The header of a file of so many bytes.

    Raises:
        Unfit: it is none.

    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
            raise Unfit(Fault("", "unreadable", "is no file in the safetensors format, which is what can be imported"))
        if length > MAX_HEADER:
            raise Unfit(Fault("", "header_too_large", f"the header is longer than the {MAX_HEADER} bytes allowed"))
        header = read_json(file.read(length), "")
    if not isinstance(header, dict):
        raise Unfit(Fault("", "wrong_type", "the header must be an object"))
    metadata = header.pop(_METADATA, None)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Unfit(Fault(f"/{_METADATA}", "wrong_type", "must be an object of texts"))
    start = _LENGTH_BYTES + length
    return Header(metadata, header, start, size - start)


def read_json(text: bytes, pointer: str) -> object:
    """JSON at some place of a file, as strictly as in a request.

    Raises:
        Unfit: it is none.

    """
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise Unfit(Fault(pointer, "header_too_large", f"holds more than the {MAX_VALUES} values allowed"))
    try:
        return strict_json.parse(text)
    except Unreadable as error:
        raise Unfit(Fault(pointer, error.stable_code, "holds no JSON as it is taken here")) from None


def read_vector(path: Path, header: Header, layout: ParameterLayout) -> NDArray[np.float32]:
    """The numbers of all tensors as one vector, shape (layout.size,), each where the layout has it.

    Raises:
        Unfit: the file does not hold the layout's tensors, each once, and nothing else.

    """
    faults = [*_misnamed(header, layout)]
    places: dict[str, int] = {}
    for name, shape in layout.shapes.items():
        if name in header.tensors:
            found = _place(header.tensors[name], shape)
            if isinstance(found, int):
                places[name] = found
            else:
                faults.append(Fault(f"/{pointer_part(name)}", *found))
    if faults:
        raise Unfit(*faults)
    _check_tiling(places, header, layout)
    vector = np.empty(layout.size, np.float32)
    with path.open("rb") as file:
        for name, place in places.items():
            part = layout.slices[name]
            file.seek(header.start + place)
            numbers = np.fromfile(file, "<f4", part.stop - part.start)
            if not np.isfinite(numbers).all():
                faults.append(Fault(f"/{pointer_part(name)}", "non_finite_number", "must hold finite numbers"))
            vector[part] = numbers
    if faults:
        raise Unfit(*faults)
    return vector


def _misnamed(header: Header, layout: ParameterLayout) -> Iterator[Fault]:
    for name in [name for name in layout.shapes if name not in header.tensors][:_MOST_NAMED]:
        yield Fault(f"/{pointer_part(name)}", "missing", "is a tensor that the network needs")
    for name in [name for name in header.tensors if name not in layout.shapes][:_MOST_NAMED]:
        yield Fault(f"/{pointer_part(name)}", "unknown_field", "the network has no such tensor")


def _place(entry: object, shape: tuple[int, ...]) -> int | tuple[str, str]:
    """Where a tensor begins among the numbers, or what is wrong with it."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return "wrong_type", "must be an object with dtype, shape and data_offsets"
    if entry["dtype"] != "F32":
        return "wrong_type", "must be of dtype F32"
    if not _is(entry["shape"], [*shape]):
        return "wrong_shape", f"must be of shape {[*shape]}"
    begin = entry["data_offsets"][0] if isinstance(entry["data_offsets"], list) and entry["data_offsets"] else None
    if type(begin) is not int or not _is(entry["data_offsets"], [begin, begin + _FLOAT_BYTES * math.prod(shape)]):
        return "wrong_offsets", "the offsets must be as far apart as the shape says"
    return begin


def _is(value: object, wanted: list[int]) -> bool:
    """Whether a value is that list of whole numbers, where true is none."""
    return isinstance(value, list) and all(type(number) is int for number in value) and value == wanted


def _check_tiling(places: Mapping[str, int], header: Header, layout: ParameterLayout) -> None:
    """That the tensors lie back to back, from the first byte to the last."""
    stop = 0
    sizes = {name: _FLOAT_BYTES * (layout.slices[name].stop - layout.slices[name].start) for name in places}
    for name, place in sorted(places.items(), key=lambda item: (item[1], sizes[item[0]])):
        if place != stop:
            raise Unfit(Fault(f"/{pointer_part(name)}", "wrong_offsets", "overlaps another tensor, or leaves a gap"))
        stop += sizes[name]
    if stop != header.size:
        raise Unfit(Fault("", "wrong_size", f"has {header.size} bytes of numbers, where {stop} are needed"))
