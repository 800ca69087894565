"""What is wanted of a column: the kind it is taken for, and how it becomes inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.schemas.columns import ColumnOptions, FeatureKind
from common.schemas.datasets import ColumnKind

TAKEN_FOR: Mapping[ColumnKind, tuple[FeatureKind, ...]] = {
    "numeric": ("numeric", "categorical"),
    "boolean": ("boolean", "categorical"),
    "categorical": ("categorical", "numeric", "datetime"),
    "text": ("categorical", "numeric", "datetime"),
    "datetime": ("datetime",),
}
"""What a column of each stored kind can be taken for; first what it is taken for unless something else is asked for."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A column to learn from."""

    name: str
    kind: FeatureKind
    stored: ColumnKind
    """What the data set holds."""
    options: ColumnOptions = field(default_factory=ColumnOptions)
