"""Predictions of whole tables, beside those of the same rows as instances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import Invalid
from common.features.numbers import Scaled
from common.features.table import Coded, TableColumn, code_values
from common.features.target import NumberTarget, Target
from common.learned import LearnedNetwork
from common.prediction_table import predicted_columns, table_height
from common.schemas.losses import Loss, MeanSquaredError
from tests.learned import EVERY_FORM, TARGETS, network_of

ROWS = 5000
"""More than go through the network at once."""


def random_rows(rows: int) -> tuple[dict[str, TableColumn], list[dict[str, Any]]]:
    """The same rows as columns and as instances."""
    random = np.random.default_rng(3)
    gaps = random.random(rows) < 0.1

    def chosen(values: list[str]) -> list[str | None]:
        return [
            None if gap else values[place]
            for gap, place in zip(gaps, random.integers(0, len(values), rows), strict=True)
        ]

    def numbers(values: Any) -> list[float | None]:
        return [None if gap else float(value) for gap, value in zip(gaps, values, strict=True)]

    days = [
        None if gap else f"2024-{month:02d}-03" for gap, month in zip(gaps, random.integers(1, 13, rows), strict=True)
    ]
    seconds = pl.Series(days, dtype=pl.String).str.to_datetime("%Y-%m-%d").dt.epoch("s").cast(pl.Float64)
    flags = [None if gap else bool(flag) for gap, flag in zip(gaps, random.random(rows) < 0.5, strict=True)]
    records: dict[str, list[Any]] = {
        "age": numbers(random.normal(40, 12, rows)),
        "income": numbers(random.exponential(100, rows)),
        "guess": chosen(["1.5", "-2", "many", "1e3"]),
        "member": flags,
        "since": days,
        "told": chosen(["2024-05-17", "never", "2023-01-01T10:00:00Z"]),
        "city": chosen(["", "007", "Oslo", "Rome", "true"]),
        "rank": chosen(["low", "high", "unheard of"]),
        "shop": numbers(random.choice([1, 2, 2.5, 3], rows)),
        "flag": flags,
    }
    table: dict[str, TableColumn] = {
        name: code_values(values)
        if name in ("guess", "told", "city", "rank")
        else np.array([math.nan if value is None else value for value in values], np.float64)
        for name, values in records.items()
        if name != "since"
    }
    table["since"] = seconds.fill_null(math.nan).to_numpy()
    return table, [dict(zip(records, row, strict=True)) for row in zip(*records.values(), strict=True)]


def answers_of(network: LearnedNetwork, instances: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The predictions of instances in the columns that a table's predictions have."""
    columns: dict[str, list[Any]] = {}
    for prediction in network.predict(instances):
        found: dict[str, Any] = {"value": prediction.value} if prediction.label is None else {"label": prediction.label}
        found |= {f"probability_{name}": value for name, value in (prediction.probabilities or {}).items()}
        found |= {f"quantile_{name}": value for name, value in (prediction.quantiles or {}).items()}
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    return columns


@pytest.mark.parametrize(("target", "loss"), TARGETS)
def test_a_table_is_predicted_as_its_rows_are_one_by_one(target: Target, loss: Loss) -> None:
    network = network_of(EVERY_FORM, target, loss)
    table, instances = random_rows(ROWS)
    found = predicted_columns(network, table)
    expected = answers_of(network, instances)
    assert found.columns == list(expected)
    for name, values in expected.items():
        if name == "label":
            assert found[name].to_list() == values
            assert type(found[name][0]) is type(values[0])
        else:
            np.testing.assert_allclose(found[name].to_numpy(), values, atol=1e-6)


def test_a_row_whose_answer_is_no_finite_number_is_told_by_its_place() -> None:
    network = network_of(
        [Scaled(name="x", kind="numeric", mean=0, scale=1)], NumberTarget(mean=0, scale=1e300), MeanSquaredError()
    )
    x = np.zeros(3000)
    x[2500] = 1e30
    with pytest.raises(Invalid) as caught:
        predicted_columns(network, {"x": x}, first_row=100)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("row 2601", "non_finite_output")]


def test_a_value_that_cannot_be_taken_is_told_by_its_row() -> None:
    column = Scaled(name="x", kind="numeric", mean=0, scale=1, refuses_missing=True)
    network = network_of([column], *TARGETS[0])
    with pytest.raises(Invalid) as caught:
        predicted_columns(network, {"x": np.array([0.0, math.nan])}, first_row=10)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("row 12, column x", "missing_value")]


def test_so_many_rows_are_taken_at_once_as_fit_into_some_megabytes() -> None:
    network = network_of(EVERY_FORM, *TARGETS[0])
    assert 64 << 10 < table_height(network) <= 1 << 18
    assert isinstance(random_rows(10)[0]["city"], Coded)
