"""`make bench`: MNIST through the whole stack beside scikit-learn's MLPClassifier, alternating in one run.

Same network (784-512-256-10), batch of 256, Adam, same rows. Chainrule: two workers of one BLAS thread each, rows/s as
the job reports them (training rows over wall time since the first step, evaluation and waits included).
scikit-learn: one process, BLAS threads as many as there are cores, rows over the time of `partial_fit`, without any
evaluation. Prints a table, and with --json FILE writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_info

from service.client import ApiClient
from tests.conftest import start_stack
from tests.integration.data import train
from tests.integration.mnist import FOLDER, accuracy, request, upload_mnist

ROUNDS = 5
PEER_EPOCHS = 2

console = Console(highlight=False)


def chainrule_round(client: ApiClient, dataset_id: str, seed: int) -> dict[str, Any]:
    """One job of five epochs: rows/s, test accuracy, seconds from submit to model."""
    began = time.perf_counter()
    job = train(client, request(dataset_id, seed))
    seconds = time.perf_counter() - began
    return {
        "rows_per_second": job["progress"]["rows_per_second"],
        "test_accuracy": accuracy(client, job["model_id"]),
        "seconds_to_model": seconds,
    }


def peer_round(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], seed: int) -> float:
    """Rows/s of scikit-learn."""
    network = MLPClassifier((512, 256), batch_size=256, solver="adam", random_state=seed)
    network.partial_fit(x[:256], y[:256], classes=np.unique(y))
    began = time.perf_counter()
    for _ in range(PEER_EPOCHS):
        network.partial_fit(x, y)
    return float(PEER_EPOCHS * len(x) / (time.perf_counter() - began))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if not FOLDER.exists():
        sys.exit(f"The benchmark reads MNIST from {FOLDER}, which is not here.")
    frame = pl.read_parquet(FOLDER / "mnist_train.parquet")
    x = (frame.drop("digit").to_numpy() / 255).astype(np.float32, order="C")
    y = frame["digit"].to_numpy()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        stack = start_stack(Path(folder))
        try:
            dataset = upload_mnist(stack.client)
            for seed in range(ROUNDS):
                ours.append(chainrule_round(stack.client, dataset, seed))
                theirs.append(peer_round(x, y, seed))
                console.print(
                    f"round {seed + 1}: Chainrule {ours[-1]['rows_per_second']:,.0f} rows/s, "
                    f"test accuracy {ours[-1]['test_accuracy']:.4f}; scikit-learn {theirs[-1]:,.0f} rows/s"
                )
        finally:
            stack.stop()
    report(ours, theirs, arguments.json)


def report(ours: list[dict[str, Any]], theirs: list[float], file: Path | None) -> None:
    """The table, and the JSON."""
    rates = [figures["rows_per_second"] for figures in ours]
    ratios = [mine / other for mine, other in zip(rates, theirs, strict=True)]
    table = Table("", "median", "from", "to", box=None)
    for name, values, form in (
        ("Chainrule, 2 workers, rows/s", rates, ",.0f"),
        ("scikit-learn, rows/s", theirs, ",.0f"),
        ("ratio in the same round", ratios, ".2f"),
        ("Chainrule, test accuracy after 5 epochs", [f["test_accuracy"] for f in ours], ".4f"),
        ("Chainrule, seconds from submit to model", [f["seconds_to_model"] for f in ours], ".1f"),
    ):
        table.add_row(name, *(format(v, form) for v in (statistics.median(values), min(values), max(values))))
    console.print(table)
    blas = [{k: info[k] for k in ("internal_api", "version", "num_threads")} for info in threadpool_info()]
    console.print(f"BLAS of scikit-learn's process: {blas}", markup=False)
    if file is not None:
        file.write_text(json.dumps({"chainrule": ours, "scikit_learn_rows_per_second": theirs, "blas": blas}, indent=1))


if __name__ == "__main__":
    main()
