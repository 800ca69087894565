"""A few JSON records as rows of floats: quick, and every fault told with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault, Invalid, pointer_part
from common.features.columns import Column

MAX_FAULTS = 100
_NAMES_SHOWN = 20
_NUMBERS = {int, float}
EMPTY = Fault("/instances", "empty", "must hold at least one instance")


class RecordReader:
    """Reads instances for the given columns: each value as the cell that its column makes of it.

    An instance is a mapping by column name, or a sequence in the order of the columns; None is a missing
    value.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._names = [column.name for column in columns]
        self._known = set(self._names)
        self._all_numeric = all(column.kind == "numeric" for column in columns)
        self._pick: Callable[[Any], tuple[object, ...]] = (
            itemgetter(*self._names) if len(self._names) > 1 else lambda row: (row[self._names[0]],)
        )

    def read(self, instances: Sequence[object]) -> NDArray[np.float64]:
        """The instances as float64, shape (instances, columns).

        Raises `Invalid` with every fault, 100 at most, at pointers such as `/instances/3/age`.
        """
        if not instances:
            raise refusal([EMPTY])
        plain = self._plain_numbers(instances)
        if plain is not None:
            return plain
        rows: list[list[float]] = []
        faults: list[Fault] = []
        for index, instance in enumerate(instances):
            rows.append(self._row(f"/instances/{index}", instance, faults))
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            raise refusal(faults)
        return np.array(rows, np.float64)

    def _row(self, pointer: str, instance: object, faults: list[Fault]) -> list[float]:
        """One instance as floats; whatever is wrong with it goes to `faults`."""
        if isinstance(instance, Mapping):
            if instance.keys() != self._known:
                faults += self._name_faults(pointer, instance)
            cells = [instance.get(name) for name in self._names]  # what is there is checked all the same
        elif isinstance(instance, Sequence) and not isinstance(instance, str | bytes):
            if len(instance) != len(self._names):
                message = f"expected {len(self._names)} values, one for each input; got {len(instance)}"
                faults.append(Fault(pointer, "wrong_length", message))
                return []
            cells = list(instance)
        else:
            faults.append(Fault(pointer, "wrong_type", "expected an object by column name, or an array of values"))
            return []
        return self._checked_cells(pointer, cells, faults)

    def _plain_numbers(self, instances: Sequence[object]) -> NDArray[np.float64] | None:
        """The instances as they are where all hold finite numbers alone, which is the common case; else None."""
        if not self._all_numeric:
            return None
        rows = list(map(self._plain_cells, instances))
        if not all(rows):
            return None
        try:
            values = np.array(rows, np.float64)
        except OverflowError:
            return None
        return values if np.isfinite(values).all() else None

    def _plain_cells(self, instance: object) -> Sequence[object]:
        """The cells of an instance, if they are numbers of the right number and names; else none."""
        if not isinstance(instance, dict | list) or len(instance) != len(self._names):
            return ()
        try:
            cells = self._pick(instance) if isinstance(instance, dict) else instance
        except KeyError:
            return ()
        return cells if set(map(type, cells)) <= _NUMBERS else ()

    def _checked_cells(self, pointer: str, cells: list[object], faults: list[Fault]) -> list[float]:
        row = []
        for column, cell in zip(self._columns, cells, strict=True):
            value = column.cell(cell)
            if isinstance(value, float):
                row.append(value)
            else:
                faults.append(Fault(f"{pointer}/{pointer_part(column.name)}", *value))
        return row

    def _name_faults(self, pointer: str, instance: Mapping[object, object]) -> list[Fault]:
        shown = ", ".join(self._names[:_NAMES_SHOWN]) + (", …" if len(self._names) > _NAMES_SHOWN else "")
        missing = [
            Fault(f"{pointer}/{pointer_part(name)}", "missing_column", f"this input is missing; expected: {shown}")
            for name in self._names
            if name not in instance
        ]
        unknown = [
            Fault(f"{pointer}/{pointer_part(name)}", "unknown_column", f"this is none of the inputs: {shown}")
            for name in instance
            if name not in self._known
        ]
        return missing + unknown


def refusal(faults: Sequence[Fault]) -> Invalid:
    """The error for instances that a model can't take."""
    return Invalid("the instances do not fit the model's inputs", faults[:MAX_FAULTS])
