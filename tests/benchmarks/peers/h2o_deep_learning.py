"""H2O's Deep Learning, on a server of its own in Java.

It updates the weights row by row, from all threads at once (Hogwild), with ADADELTA; it has no Adam. The figure is
its own training speed of one epoch over few rows, for it is slow: neither start nor scoring counts.
"""

from __future__ import annotations

import shutil
import socket
import sys
from typing import Any

import h2o  # type: ignore[import-not-found]
from h2o.estimators import H2ODeepLearningEstimator  # type: ignore[import-not-found]

from tests.benchmarks.peers.task import Task, answer, read_task


def main() -> None:
    """Measures."""
    task = read_task()
    if shutil.which("java") is None:
        sys.exit("there is no java on the PATH")
    h2o.no_progress()
    h2o.init(
        port=free_port(),
        nthreads=task.threads,
        max_mem_size="4g",
        ice_root=task.scratch,
        log_dir=task.scratch,
        bind_to_localhost=True,
        strict_version_check=False,
        verbose=False,
    )
    try:
        rows = h2o.import_file(str(task.file("few.csv")), header=1)
        rows["target"] = rows["target"].asfactor()
        train(task, rows.head(max(100, rows.nrow // 20)))  # warms up
        answer({"rows_per_second": train(task, rows), "note": "ADADELTA", "versions": {"h2o": h2o.__version__}})
    finally:
        h2o.cluster().shutdown()


def train(task: Task, rows: Any) -> float:
    """One epoch; rows per second as H2O reports them."""
    network = H2ODeepLearningEstimator(
        hidden=list(task.sizes[1:-1]),
        activation="Rectifier",
        epochs=1,
        seed=task.seed,
        train_samples_per_iteration=0,
        score_interval=1e6,
        score_training_samples=100,
        overwrite_with_best_model=False,
        stopping_rounds=0,
        variable_importances=False,
    )
    network.train(y="target", training_frame=rows)
    history = network._model_json["output"]["scoring_history"]
    speed = history.cell_values[-1][history.col_header.index("training_speed")]  # e.g. "428 obs/sec"
    return float(speed.split()[0])


def free_port() -> int:
    """A port that is free, as is the next one, which H2O takes too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


if __name__ == "__main__":
    main()
