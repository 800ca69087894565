"""The program of Nielsen's book (2015, chapter 1), whole batches at a time: `python -m tests.integration.nielsen 100`.

An oracle for what his networks reach: he tells of one run, and that others are "quite a bit worse". In float64, as his.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tests.integration.mnist import FOLDER

RATE, BATCH, EPOCHS, SEEDS = 3.0, 10, 30, 7


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z))."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-z)))


def images(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels from 0 to 1, and digits."""
    frame = pl.read_parquet(FOLDER / name)
    return frame.drop("digit").to_numpy() / 255, frame["digit"].to_numpy()


def best_accuracy(units: int, seed: int) -> float:
    """Of 784-`units`-10 on the test images after the best of 30 epochs over 50,000 images."""
    x, digits = images("mnist_train.parquet")
    test_x, test_digits = images("mnist_test.parquet")
    random, wanted = np.random.default_rng(seed), np.eye(10)
    w1, b1 = random.standard_normal((784, units)), random.standard_normal(units)
    w2, b2 = random.standard_normal((units, 10)), random.standard_normal(10)
    best = 0.0
    for _ in range(EPOCHS):
        order = random.permutation(50_000)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            hidden = sigmoid(x[rows] @ w1 + b1)
            outputs = sigmoid(hidden @ w2 + b2)
            error2 = (outputs - wanted[digits[rows]]) * outputs * (1 - outputs)
            error1 = (error2 @ w2.T) * hidden * (1 - hidden)
            w2 -= RATE / BATCH * hidden.T @ error2
            b2 -= RATE / BATCH * error2.sum(axis=0)
            w1 -= RATE / BATCH * x[rows].T @ error1
            b1 -= RATE / BATCH * error1.sum(axis=0)
        right = sigmoid(sigmoid(test_x @ w1 + b1) @ w2 + b2).argmax(axis=1) == test_digits
        best = max(best, float(right.mean()))
    return best


if __name__ == "__main__":
    for number in range(1, SEEDS + 1):
        sys.stdout.write(f"seed {number}: {best_accuracy(int(sys.argv[1]), number):.4f}\n")
        sys.stdout.flush()
