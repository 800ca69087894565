"""Results that others have published, through the API."""

from __future__ import annotations

import statistics

import pytest

from tests.conftest import RunningStack
from tests.integration.data import train
from tests.integration.mnist import FOLDER, accuracy, upload_mnist

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason=f"needs MNIST in {FOLDER}"),
]
# Five trainings of 30 epochs of 5,000 steps each.
pytestmark.append(pytest.mark.timeout(1800))
SEEDS = range(1, 6)


@pytest.mark.parametrize(("units", "published"), [(30, 0.954), (100, 0.966)])
def test_nielsens_networks_know_as_many_digits_as_in_his_book(
    stack: RunningStack, units: int, published: float
) -> None:
    """Nielsen (Neural Networks and Deep Learning, 2015, chapter 1): sigmoid, quadratic cost, unit normal weights."""
    dataset = upload_mnist(stack.client)
    found = []
    for seed in SEEDS:
        job = train(
            stack.client,
            {
                "dataset_id": dataset,
                "target": "digit",
                "columns": {f"p{pixel}": {"scale": "min_max"} for pixel in range(784)},
                "network": {
                    "layers": [{"kind": "dense", "units": units, "activation": "sigmoid"}],
                    "initializer": "normal",
                },
                "loss": "quadratic",
                "optimizer": {"kind": "sgd", "learning_rate": 3.0},
                "training": {"epochs": 30, "batch_size": 10, "seed": seed},
                "validation": {"kind": "random", "fraction": 1 / 6},  # he kept 50,000 of the 60,000 to learn from
                "stopping": {"patience": None},
            },
        )
        assert job["state"] == "succeeded", job["error"]
        assert job["progress"]["epoch"] == 30
        found.append(accuracy(stack.client, job["model_id"]))
    assert statistics.median(found) >= published - 0.007, found
