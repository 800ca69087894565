"""Results that others have published, through the API."""

from __future__ import annotations

import statistics

import pytest

from service.client import ApiClient
from tests.conftest import RunningStack
from tests.integration.data import train
from tests.integration.mnist import FOLDER, accuracy, upload_mnist

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # five trainings of 30 epochs of 5,000 steps
    pytest.mark.skipif(not FOLDER.exists(), reason=f"needs MNIST in {FOLDER}"),
]
SEEDS = range(1, 6)
WITHIN = 0.007


def accuracies(client: ApiClient, units: int) -> list[float]:
    """Of Nielsen's network with so many hidden units: sigmoid, quadratic cost, unit normal weights (2015, chapter 1)."""
    dataset = upload_mnist(client)
    found = []
    for seed in SEEDS:
        job = train(
            client,
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
        found.append(accuracy(client, job["model_id"]))
    return found


def test_thirty_hidden_units_know_as_many_digits_as_in_the_book(stack: RunningStack) -> None:
    found = accuracies(stack.client, 30)
    assert statistics.median(found) >= 0.954 - WITHIN, found


def test_a_hundred_hidden_units_can_know_as_many_digits_as_in_the_book(stack: RunningStack) -> None:
    """The book tells of one run with 96.6 %, and of others that are "quite a bit worse": a digit or two is never learned.

    Its own program (`nielsen.py`) reaches 77.8, 96.7, 78.7, 87.5, 86.9, 78.8 and 87.4 % with seven seeds, 86.9 % in the
    median.
    """
    found = accuracies(stack.client, 100)
    assert max(found) >= 0.966 - WITHIN, found
    assert statistics.median(found) >= 0.869 - WITHIN, found
