"""scikit-learn's MLPClassifier, one process, BLAS threads as many as there are cores."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from tests.benchmarks.peers.blas import blas
from tests.benchmarks.peers.task import Goal, Task, answer, read_task


def main() -> None:
    """Measures."""
    task = read_task()
    found = race(task, task.goal) if task.goal else throughput(task)
    answer({**found, "blas": blas(), "versions": {"scikit-learn": sklearn.__version__}})


def throughput(task: Task) -> dict[str, Any]:
    """Rows per second of whole epochs, as many as fill the time."""
    x, y = np.load(task.file("x.npy")), np.load(task.file("y.npy"))
    network = make(task)
    warm = slice(0, 10 * task.batch)
    network.partial_fit(x[warm], y[warm], classes=np.unique(y))
    began = time.perf_counter()
    rows = 0
    while (elapsed := time.perf_counter() - began) < task.seconds or not rows:
        network.partial_fit(x, y)
        rows += len(x)
    return {"rows_per_second": rows / elapsed}


def race(task: Task, goal: Goal) -> dict[str, Any]:
    """Epochs until the goal is reached; the evaluation does not count."""
    x, y = np.load(task.file("x.npy")), np.load(task.file("y.npy"))
    test_x, test_y = np.load(task.file("test_x.npy")), np.load(task.file("test_y.npy"))
    network, classes = make(task), np.unique(y)
    seconds, epoch, accuracy = 0.0, 0, 0.0
    while accuracy < goal.accuracy and epoch < goal.epochs and seconds <= goal.seconds:
        epoch += 1
        began = time.perf_counter()
        network.partial_fit(x, y, classes=classes)
        seconds += time.perf_counter() - began
        accuracy = float((network.predict(test_x) == test_y).mean())
    return {"seconds": seconds, "epochs": epoch, "test_accuracy": accuracy}


def make(task: Task) -> Any:
    """The network: ReLU and Adam are its defaults, and so is alpha; it has no dropout."""
    return MLPClassifier(
        task.sizes[1:-1], batch_size=task.batch, learning_rate_init=1e-3, random_state=task.seed, shuffle=True
    )


if __name__ == "__main__":
    main()
