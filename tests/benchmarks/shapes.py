"""The networks that are measured, and the rows they learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.features.split import split_rows
from common.schemas.training import RandomSplit
from tests.integration.mnist import FOLDER


@dataclass(frozen=True)
class Shape:
    """A network, a global batch, and how much data to measure it on.

    Attributes:
        name: as `--shapes` names it.
        sizes: inputs, hidden layers' units, classes.
        batch: rows of a step over two workers.
        rows: of the data set.
        few_rows: for a contender that is very slow.
        seconds: how long a measurement should last.

    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    few_rows: int
    seconds: float

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{'-'.join(map(str, self.sizes))} at 2 x {self.batch // 2}"


SHAPES = (
    Shape("mnist", (784, 512, 256, 10), 256, 60_000, 5_000, 6.0),
    Shape("small", (20, 64, 32, 2), 128, 400_000, 200_000, 4.0),
    Shape("big", (784, 1024, 1024, 10), 512, 30_000, 2_000, 6.0),
)
ENGINE = tuple(
    Shape(f"{'-'.join(map(str, sizes))} at {batch}", sizes, batch, rows, rows, 3.0)
    for sizes, batch, rows in (
        ((20, 64, 32, 2), 32, 100_000),
        ((20, 64, 32, 2), 256, 200_000),
        ((784, 30, 10), 10, 20_000),
        ((784, 128, 10), 128, 20_000),
        ((784, 512, 256, 10), 128, 20_000),
        ((784, 512, 256, 10), 512, 20_000),
        ((784, 1024, 1024, 10), 256, 20_000),
        ((100, 512, 512, 512, 512, 10), 256, 20_000),
    )
)
"""Of one process: networks and the rows of a step."""
QUICK = {
    "mnist": Shape("mnist", (784, 512, 256, 10), 256, 6_000, 500, 0.5),
    "small": Shape("small", (20, 64, 32, 2), 128, 40_000, 5_000, 0.5),
    "big": Shape("big", (784, 1024, 1024, 10), 512, 3_000, 200, 0.5),
}


@dataclass(frozen=True)
class Rows:
    """A shape's rows, on disk in the forms that contenders read.

    Attributes:
        shape: what they are for.
        folder: x.npy, y.npy and few.csv.
        table: the same as Parquet, for an upload.
        target: the class's column there.
        source: for the report.

    """

    shape: Shape
    folder: Path
    table: Path
    target: str
    source: str


def prepare(shape: Shape, folder: Path) -> Rows:
    """Writes the rows: MNIST where it is at hand and fits, else random numbers of a fixed seed."""
    folder.mkdir()
    if shape.name == "mnist" and FOLDER.exists():
        frame = pl.read_parquet(FOLDER / "mnist_train.parquet").head(shape.rows)
        target, source = "digit", "MNIST"
        pixels = _pixels(frame)
        x, y = _standardized(pixels, pixels), frame[target].to_numpy().astype(np.int64)
    else:
        random = np.random.default_rng(0)
        x = random.standard_normal((shape.rows, shape.sizes[0]), np.float32)
        y = random.integers(0, shape.sizes[-1], shape.rows)
        target, source = "target", "random"
        frame = _frame(x, y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    _frame(x[: shape.few_rows], y[: shape.few_rows]).write_csv(folder / "few.csv", float_precision=5)
    table = folder / "rows.parquet"
    frame.write_parquet(table)
    return Rows(shape, folder, table, target, source)


def _frame(x: NDArray[np.float32], y: NDArray[np.int64]) -> pl.DataFrame:
    columns: dict[str, Any] = {"target": y, **{f"x{i}": x[:, i] for i in range(x.shape[1])}}
    return pl.DataFrame(columns)


def _pixels(frame: pl.DataFrame) -> NDArray[np.float32]:
    return frame.drop("digit").to_numpy().astype(np.float32, order="C")


def _standardized(pixels: NDArray[np.float32], training: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the service scales pixels: one mean and one standard deviation for all of them."""
    mean, std = training.mean(dtype=np.float64), training.std(dtype=np.float64)
    standardized: NDArray[np.float32] = ((pixels - mean) / std).astype(np.float32)
    return standardized


@dataclass(frozen=True)
class Race:
    """What the race to an accuracy runs on.

    Attributes:
        folder: x.npy, y.npy, test_x.npy, test_y.npy of a seed, made by `race_rows`.
        table: all training rows, for an upload.
        sizes, batch, dropout: of the network, as in a `Shape`; dropout in every hidden layer.
        accuracy: of the test rows, to be reached.
        target_error: of the validation rows, at which our job stops.
        epochs, seconds: limits.
        validation: share of the rows that judges our job; the rest is trained on, by all.

    """

    folder: Path
    table: Path
    accuracy: float
    target_error: float
    epochs: int
    seconds: float
    sizes: tuple[int, ...] = (784, 512, 256, 10)
    batch: int = 256
    dropout: float = 0.2
    validation: float = 0.05


def race(folder: Path, *, quick: bool) -> Race:
    """The race, its table written."""
    folder.mkdir()
    table = folder / "rows.parquet"
    frame = pl.read_parquet(FOLDER / "mnist_train.parquet")
    frame.head(12_000 if quick else len(frame)).write_parquet(table)
    return Race(folder, table, *((0.9, 0.08, 3, 60.0) if quick else (0.98, 0.018, 30, 300.0)))


def race_rows(race: Race, seed: int) -> int:
    """Writes, for those that are not the service, the rows that it trains on with this seed; how many they are."""
    frame = pl.read_parquet(race.table)
    digits = frame["digit"].to_numpy().astype(np.int64)
    rows, _ = split_rows(digits, RandomSplit(fraction=race.validation), seed)
    training = _pixels(frame)[rows]
    test = pl.read_parquet(FOLDER / "mnist_test.parquet")
    np.save(race.folder / "x.npy", _standardized(training, training))
    np.save(race.folder / "y.npy", digits[rows])
    np.save(race.folder / "test_x.npy", _standardized(_pixels(test), training))
    np.save(race.folder / "test_y.npy", test["digit"].to_numpy().astype(np.int64))
    return len(rows)
