"""Public tables, uploaded as they are: the defaults give what a multilayer perceptron can reach on them."""

from __future__ import annotations

import statistics

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from service.client import ApiClient
from tests.conftest import RunningStack
from tests.integration.data import train
from tests.integration.mnist import FOLDER

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason=f"needs the public tables in {FOLDER}"),
]


def answers(client: ApiClient, model_id: str, frame: pl.DataFrame) -> list[dict[str, object]]:
    rows = frame.to_dicts()
    found: list[dict[str, object]] = []
    for start in range(0, len(rows), 1000):
        found += client.predict(model_id, rows[start : start + 1000])["predictions"]
    return found


def test_who_earns_more_is_told_from_the_raw_census_file(stack: RunningStack) -> None:
    """Adult (Kohavi, 1996): `?` for missing, skewed counts, 42 countries; the test split is the published one."""
    dataset = stack.client.upload(FOLDER / "adult_train.csv", "adult")["id"]
    test = pl.read_csv(FOLDER / "adult_test.csv", null_values=["?"])
    is_rich = test["income"].str.starts_with(">50K").to_numpy()
    areas, accuracies = [], []
    for seed in (1, 2, 3):
        job = train(stack.client, {"dataset_id": dataset, "target": "income", "training": {"seed": seed}})
        assert job["state"] == "succeeded", job["error"]
        found = answers(stack.client, job["model_id"], test.drop("income"))
        chances = np.array([p["probabilities"][">50K"] for p in found])  # type: ignore[index]
        areas.append(roc_auc_score(is_rich, chances))
        accuracies.append(accuracy_score(is_rich, [p["label"] == ">50K" for p in found]))
    assert statistics.median(areas) >= 0.910, areas
    assert statistics.median(accuracies) >= 0.853, accuracies


def test_house_prices_are_told_from_the_raw_file(stack: RunningStack) -> None:
    """California Housing (Pace and Barry, 1997): 207 blank cells, one column of text; a random fifth is held out."""
    frame = pl.read_csv(FOLDER / "california_housing.csv")
    errors = []
    for seed in (1, 2, 3):
        held_out = np.zeros(len(frame), np.bool_)
        held_out[np.random.default_rng(seed).permutation(len(frame))[: len(frame) // 5]] = True
        body = frame.filter(~held_out).write_csv().encode()
        headers = {"Content-Type": "text/csv"}
        dataset = stack.client.call("POST", "/v1/datasets", params={"name": "housing"}, content=body, headers=headers)
        request = {"dataset_id": dataset["id"], "target": "median_house_value", "training": {"seed": seed}}
        job = train(stack.client, request)
        assert job["state"] == "succeeded", job["error"]
        test = frame.filter(held_out)
        found = answers(stack.client, job["model_id"], test.drop("median_house_value"))
        misses = np.array([p["value"] for p in found], np.float64) - test["median_house_value"].to_numpy()
        errors.append(float(np.sqrt(np.mean(misses**2))))
    assert statistics.median(errors) <= 52_500, errors
