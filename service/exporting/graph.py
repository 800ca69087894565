"""An ONNX graph while it is put together: its nodes, constants, inputs and outputs, each under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

BOOL, DOUBLE, FLOAT, INT64, STRING = (
    TensorProto.BOOL,
    TensorProto.DOUBLE,
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
)
"""Types of tensors."""

ROWS = "N"
_ML = "ai.onnx.ml"
_OPSETS = {"": 13, _ML: 2}
"""Every operator used here is as old as these, and as the runtimes of December 2020 that brought them."""
_IR_VERSION = 7


class Graph:
    """Tensors are known by their names, which `add`, `constant` and `take` give. Rows are always the first dimension."""

    def __init__(self) -> None:
        self._model = ModelProto(
            ir_version=_IR_VERSION,
            opset_import=[helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()],
            producer_name="chainrule",
        )
        self._graph = self._model.graph
        self._taken: set[str] = set()
        self._numbers = count()

    def take(self, name: str, kind: TensorProto.DataType, about: str) -> None:
        """An input of that name, shape (rows, 1). All come before whatever else has a name."""
        self._taken.add(name)
        self._graph.input.append(helper.make_tensor_value_info(name, kind, [ROWS, 1], about))

    def constant(self, values: NDArray[np.generic] | Sequence[str]) -> str:
        """A tensor of numbers as they are, or of texts."""
        name = self._new_name("constant")
        array = values if isinstance(values, np.ndarray) else np.array(values, object)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, unused: int = 0, **attributes: Any) -> str:
        """A node, by its first output; of more outputs, which `unused` counts, nobody hears."""
        names = [self._new_name(operator) for _ in range(1 + unused)]
        domain = _ML if operator == "LabelEncoder" else ""
        self._graph.node.append(helper.make_node(operator, inputs, names, names[0], domain=domain, **attributes))
        return names[0]

    def add_joined(self, tensors: Sequence[str]) -> str:
        """Tensors of shape (rows, …) side by side."""
        return self.add("Concat", *tensors, axis=1)

    def cast(self, tensor: str, kind: TensorProto.DataType) -> str:
        """The tensor as one of another type."""
        return self.add("Cast", tensor, to=kind)

    def columns(self, tensor: str, places: Sequence[int]) -> str:
        """Some columns of a tensor of shape (rows, …)."""
        return self.add("Gather", tensor, self.constant(np.array(places, np.int64)), axis=1)

    def give(self, name: str, tensor: str, kind: TensorProto.DataType, width: int | None, about: str) -> None:
        """An output, shape (rows, width) or (rows,); where an input has its name, one with underscores after it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self._graph.node.append(helper.make_node("Identity", [tensor], [name], name))
        shape: list[str | int] = [ROWS] if width is None else [ROWS, width]
        self._graph.output.append(helper.make_tensor_value_info(name, kind, shape, about))

    def describe(self, name: str, version: int, producer_version: str, properties: Mapping[str, str]) -> None:
        """What the file says of itself."""
        self._graph.name = name
        self._model.model_version = version
        self._model.producer_version = producer_version
        helper.set_metadata_props(self._model, dict(properties))

    def to_bytes(self) -> bytes:
        """The file, once ONNX's own checker has found nothing wrong with it."""
        saved: bytes = self._model.SerializeToString()
        checker.check_model(saved)
        return saved

    def _new_name(self, what: str) -> str:
        return next(name for name in (f"{what}_{number}" for number in self._numbers) if name not in self._taken)
