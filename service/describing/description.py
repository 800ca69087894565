"""What the columns of a canonical Parquet file hold, and what is worth a warning.

One column is in memory at a time, in a few copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.describing.column import describe_column
from common.describing.stored_columns import StoredColumns
from common.schemas.datasets import Column
from service.describing.cautions import column_cautions, repetition_caution, twin_cautions
from service.describing.fingerprints import Fingerprints


@dataclass(frozen=True, slots=True)
class Description:
    """All columns, and sentences about them."""

    columns: tuple[Column, ...]
    warnings: tuple[str, ...]


def describe(path: Path) -> Description:
    """Describe a file whose columns are of stored types: integers, finite Float64, Boolean, String, dates."""
    stored = StoredColumns(path)
    fingerprints = Fingerprints(stored.rows)
    columns, twins = list[Column](), dict[tuple[object, ...], list[str]]()
    for name, series in stored.each():
        fingerprint = fingerprints.add(series)
        column = describe_column(name, series)
        columns.append(column)
        if column.distinct > 1:
            alike = (fingerprint, series.dtype, column.missing, column.distinct)
            twins.setdefault(alike, []).append(name)
        del series  # before the next one is read
    warnings = (
        *column_cautions(columns, stored.rows),
        *twin_cautions([names for names in twins.values() if len(names) > 1]),
        *repetition_caution(fingerprints.repeated_rows(), stored.rows),
    )
    return Description(tuple(columns), warnings)
