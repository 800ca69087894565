"""The forward pass of a stored network alone, in Chainrule's own code.

Arguments: a folder with document.json, weights and rows.npy (float32, as a network sees them), and how long to measure.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from common.learned import LearnedNetwork
from tests.benchmarks.peers.blas import blas
from tests.benchmarks.peers.task import answer


def main(folder: Path, seconds: float) -> None:
    """Measures; the first pass warms up."""
    document = json.loads((folder / "document.json").read_text())
    network = LearnedNetwork.load(document, (folder / "weights").read_bytes())
    rows = np.load(folder / "rows.npy")
    network.predictor.predict(rows)
    taken = list[float]()
    while sum(taken) < seconds:
        start = time.perf_counter()
        network.predictor.predict(rows)
        taken.append(time.perf_counter() - start)
    answer({"seconds": taken, "blas": blas()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
