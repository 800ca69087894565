"""The datatypes of the protocol, and which of them each column of a model takes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from common.features.categories import CategoryColumn
from common.features.columns import Column

BOOL = "BOOL"
BYTES = "BYTES"
FLOATS: dict[str, np.dtype[Any]] = {"FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
INTEGERS: dict[str, np.dtype[Any]] = {
    f"{name}{size}": np.dtype(f"<{code}{size // 8}")
    for name, code in (("INT", "i"), ("UINT", "u"))
    for size in (8, 16, 32, 64)
}
NUMBERS: dict[str, np.dtype[Any]] = {**INTEGERS, **FLOATS}
WIRE: dict[str, np.dtype[Any]] = {BOOL: np.dtype(np.uint8), **NUMBERS}
"""In binary form: little endian, without gaps."""
DATATYPES = (BOOL, *NUMBERS, BYTES)

Holds = Literal["number", "boolean", "text"]


def held_by(column: Column) -> Holds:
    """What the values of a column are."""
    if isinstance(column, CategoryColumn):
        return column.of
    if column.kind == "datetime":
        return "text"
    return "boolean" if column.kind == "boolean" else "number"


def datatype_of(column: Column) -> str:
    """The datatype that a column is described with."""
    return {"number": "FP64", "boolean": BOOL, "text": BYTES}[held_by(column)]


def datatypes_for(column: Column) -> tuple[str, ...]:
    """All that it takes: any number for numbers; for booleans 0, 1 and NaN too, as a boolean cannot be missing."""
    if held_by(column) == "number":
        return (*NUMBERS, BYTES) if getattr(column, "texts", False) else tuple(NUMBERS)
    return (BOOL, *FLOATS) if held_by(column) == "boolean" else (BYTES,)
