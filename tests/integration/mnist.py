"""MNIST through the API, where the data is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from service.client import ApiClient

FOLDER = Path(__file__).parents[3] / "shared" / "data"
EPOCHS = 5


def upload_mnist(client: ApiClient) -> str:
    """Uploads the 60,000 training images; the data set's id."""
    return str(client.upload(FOLDER / "mnist_train.parquet", "mnist")["id"])


def request(dataset_id: str, seed: int) -> dict[str, Any]:
    """784-512-256-10, Adam, batches of 256, two workers, five epochs; a twentieth of the rows judges."""
    layers = [{"kind": "dense", "units": units, "activation": "relu", "dropout": 0.2} for units in (512, 256)]
    return {
        "dataset_id": dataset_id,
        "target": "digit",
        "name": "mnist",
        "network": {"layers": layers},
        "training": {"epochs": EPOCHS, "batch_size": 256, "seed": seed},
        "validation": {"kind": "random", "fraction": 0.05},
        "cluster": {"workers": 2},
    }


def accuracy(client: ApiClient, model_id: str) -> float:
    """The share of the 10,000 test images that a model knows."""
    frame = pl.read_parquet(FOLDER / "mnist_test.parquet")
    images, digits = frame.drop("digit").rows(), frame["digit"].to_list()
    right = 0
    for start in range(0, len(images), 1000):
        answer = client.predict(model_id, [list(image) for image in images[start : start + 1000]])
        right += sum(p["label"] == d for p, d in zip(answer["predictions"], digits[start : start + 1000], strict=True))
    return right / len(images)
