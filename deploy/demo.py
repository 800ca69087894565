"""`make demo`: the main job on a stack of its own, with real data, told as it happens.

Starts everything on free ports in a temporary folder, uploads scikit-learn's digits, trains a network with two
workers, predicts the digits that were held back, and stops everything.
"""

from __future__ import annotations

import csv
import io
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from service.cli_watching import follow, outcome
from service.client import ApiClient, ApiError

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def stack(folder: str) -> Iterator[str]:
    """`chainrule up` on a free port; its address."""
    command = [sys.executable, "-P", "-m", "service.cli", "up", "--port", "0", "--state-dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            console.print(f"  {line.rstrip()}", markup=False)
            if found := re.search(r"http://\S+", line):
                yield found[0]
                return
        sys.exit("The stack did not start.")
    finally:
        process.send_signal(signal.SIGINT)
        if process.wait(60) != 0:
            sys.exit("The stack did not stop cleanly.")


class Laps:
    """Where the time went."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        """Ends a part."""
        now = time.perf_counter()
        self._laps.append((name, now - self._last))
        self._last = now

    def __str__(self) -> str:
        total = sum(seconds for _, seconds in self._laps)
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in [*self._laps, ("all", total)])


def as_csv(rows: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> bytes:
    """The rows with a header p0 … p63, digit."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*(f"p{i}" for i in range(rows.shape[1])), "digit"])
    writer.writerows([*row, label] for row, label in zip(rows.astype(int).tolist(), labels.tolist(), strict=True))
    return text.getvalue().encode()


def train(client: ApiClient, dataset_id: str) -> dict[str, Any]:
    """Submits the job and shows it until it has ended."""
    request = {
        "dataset_id": dataset_id,
        "target": "digit",
        "name": "digits",
        "network": {
            "layers": [
                {"kind": "dense", "units": 128, "activation": "relu", "dropout": 0.2},
                {"kind": "dense", "units": 64, "activation": "relu", "dropout": 0.2},
            ]
        },
        "training": {"seed": 7},
        "cluster": {"workers": 2},
    }
    job = follow(client, client.submit(request)["id"], console)
    if job["state"] != "succeeded":
        sys.exit(outcome(job))
    return job


def who_worked(client: ApiClient, job_id: str) -> list[str]:
    """What each process of the run did, as the job's events tell it."""
    events = client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    finished = [event["data"] for event in events if event["data"].get("phase") == "finished"]
    return [
        f"process {e['pid']}: parameter server, {e['updates']:,} updates applied"
        if e["role"] == "server"
        else f"process {e['pid']}: gradient worker {e['rank']}, {e['gradients']:,} gradients computed"
        for e in finished
    ]


def run(client: ApiClient, laps: Laps) -> None:
    """The tour."""
    digits, labels = load_digits(return_X_y=True)
    kept, held_back, kept_labels, true_labels = train_test_split(
        digits, labels, test_size=0.25, random_state=0, stratify=labels
    )
    console.print(f"\nUploading {len(kept):,} images of handwritten digits (64 pixels each) …")
    body = as_csv(kept, kept_labels)
    dataset = client.call(
        "POST", "/v1/datasets", params={"name": "digits"}, content=body, headers={"Content-Type": "text/csv"}
    )
    console.print(f"  {dataset['id']}: {dataset['rows']:,} rows, {len(dataset['columns'])} columns")
    laps.lap("upload")

    console.print("\nTraining a network 64-128-64-10 with two workers and a parameter server …")
    job = train(client, dataset["id"])
    console.print(f"  {outcome(job)}", markup=False)
    for line in who_worked(client, job["id"]):
        console.print(f"  {line}")
    laps.lap("training")

    console.print(f"\nPredicting the {len(held_back)} images that were held back …")
    answer = client.predict("digits", held_back.astype(int).tolist())
    predicted = [prediction["label"] for prediction in answer["predictions"]]
    show(held_back[0], answer["predictions"][0])
    laps.lap("prediction")
    accuracy = float(np.mean(np.array(predicted) == true_labels))
    console.print(f"\ntest accuracy {accuracy:.4f}")


def show(image: np.ndarray[Any, Any], prediction: dict[str, Any]) -> None:
    """One image as characters, and what the model says it is."""
    shades = " .:-=+*#%@"
    for row in image.reshape(8, 8):
        console.print("    " + "".join(shades[int(pixel) * 9 // 16] * 2 for pixel in row), markup=False)
    label = prediction["label"]
    console.print(f"  is a {label} (probability {prediction['probabilities'][str(label)]:.3f})")


def main() -> None:
    """Runs the demonstration; exit status 0 if all went well."""
    laps = Laps()
    console.print("Starting the stack: Redis, Ray, a supervisor, the API …")
    with tempfile.TemporaryDirectory(prefix="chainrule-demo-") as folder:
        with stack(folder) as url:
            laps.lap("stack")
            try:
                with ApiClient(url) as client:
                    run(client, laps)
            except ApiError as error:
                sys.exit(str(error))
        laps.lap("shutdown")
    console.print(f"time: {laps}")
    console.print("\nNow for your own data: make up, then chainrule train FILE --target COLUMN")


if __name__ == "__main__":
    main()
