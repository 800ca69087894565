"""Polars alone on a CSV file: inferred types, null counts, quantiles, Parquet. Arguments: the file, where to write."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import polars as pl

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def main(source: Path, destination: Path) -> None:
    """Does the work and tells how long it took."""
    start = time.perf_counter()
    frame = pl.scan_csv(source).collect()
    frame.null_count()
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    frame.select(pl.col(numbers).quantile(place).name.suffix(f" {place}") for place in QUANTILES)
    frame.write_parquet(destination, compression="zstd")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "rows": frame.height}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
