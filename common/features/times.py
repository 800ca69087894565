"""Columns of dates and times: how long ago, and where in the year, the week and the day."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.errors import BadData
from common.features.feature import Feature
from common.features.moments import mean_and_std, standardize, usable_scale
from common.features.numbers import MISSING_REFUSED, Cells, NumberColumn, Wrong, extremes, known_values
from common.features.table import Coded, TableColumn
from common.schemas.columns import MeanMissing, MedianMissing

DAY = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
"""Dates and times of ISO 8601 as they are understood; without a zone they are UTC."""
WIDTH = 7
"""How many places a column of times takes, without an indicator."""
_DAY = re.compile(DAY, re.ASCII)
_SECONDS_PER_DAY = 86_400.0
_EXPECTED = "expected a date or time such as 2024-05-17 or 2024-05-17T08:30:00Z, or null"


class Times(NumberColumn):
    """A column of times, whose cells are seconds since 1970 in UTC.

    It becomes one number, standardized, and two on a circle (sine and cosine) for each of the year, the week and the day.
    A missing one stands in the middle of the circles.
    """

    form: Literal["times"] = "times"
    kind: Literal["datetime"] = "datetime"
    mean: float
    scale: Annotated[float, Field(gt=0)]
    fill: float

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return WIDTH + self.indicator

    def cells(self, values: TableColumn) -> Cells:
        """The times of a whole column, shape (n,); texts that are none are missing."""
        if not isinstance(values, Coded):
            return values
        if not self.texts and values.values:
            raise BadData(f"column {self.name} holds text, where dates or times are expected")
        seconds = [seconds_of(str(value)) for value in values.values]
        return np.array([*(math.nan if s is None else s for s in seconds), math.nan], np.float64)[values.codes]

    def cell(self, value: object) -> float | Wrong:
        """One value in seconds, or what is wrong with it."""
        seconds = seconds_of(value) if isinstance(value, str) else None
        if value is None or (seconds is None and self.texts and isinstance(value, str)):
            return MISSING_REFUSED if self.refuses_missing else math.nan
        return ("wrong_type", _EXPECTED) if seconds is None else seconds

    def write(self, cells: Cells, out: NDArray[np.float32]) -> None:
        """The places of a column's `cells`, shape (n,), to `out`, shape (n, width)."""
        missing = np.isnan(cells)
        seconds = np.where(missing, self.fill, cells)
        out[:, 0] = standardize(seconds, self.mean, self.scale)
        place = 1
        for turn in self._turns(seconds):
            angle = 2 * np.pi * turn
            out[:, place] = np.where(missing, 0.0, np.sin(angle))
            out[:, place + 1] = np.where(missing, 0.0, np.cos(angle))
            place += 2
        if self.indicator:
            out[:, place] = missing

    def _turns(self, seconds: Cells) -> list[Cells]:
        """Where each time is in its year, its week and its day: 0 at the start, 1 at the end."""
        moments = np.floor(seconds).astype("datetime64[s]")
        years = moments.astype("datetime64[Y]")
        starts = years.astype("datetime64[s]").astype(np.float64)
        ends = (years + 1).astype("datetime64[s]").astype(np.float64)
        days = seconds / _SECONDS_PER_DAY
        year = (seconds - starts) / (ends - starts)
        return [year, np.mod(days + 3, 7) / 7, np.mod(days, 1)]  # 1970 began on a Thursday


def fit_times(feature: Feature, column: TableColumn, rows: NDArray[np.intp]) -> Times:
    """What the training rows say about a column of times; raises `BadData` where its values don't fit."""
    missing = feature.options.missing or MeanMissing()
    texts = feature.stored in ("categorical", "text")
    values = Times(name=feature.name, mean=0, scale=1, fill=0, texts=texts).cells(column)
    known = known_values(feature.name, values[rows], missing)
    mean, std = mean_and_std(known)
    return Times(
        name=feature.name,
        mean=mean,
        scale=usable_scale(std),
        fill=float(np.median(known)) if isinstance(missing, MedianMissing) and known.size else mean,
        indicator=getattr(missing, "indicator", False),
        refuses_missing=missing.kind == "error",
        texts=texts,
        seen=extremes(known),
    )


def seconds_of(text: str) -> float | None:
    """A date or time in seconds since 1970, UTC where it names no zone; None for any other text."""
    text = text.strip()
    if not _DAY.match(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
