"""The fourth suite: a large CSV file, uploaded, described and trained on, beside Polars alone on the same file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from service.client import ApiClient
from tests.benchmarks.chainrule import Stack
from tests.benchmarks.contender import Say
from tests.benchmarks.measurement import spread
from tests.benchmarks.report import Sheet, span

ROWS, QUICK_ROWS = 10_000_000, 100_000
COLUMNS = 20
ROUNDS = 3
LEAST_RATIO = 0.5
API_BYTES = 300 << 20
LOOK_SECONDS = 0.02
AT_ONCE = 500_000
WORDS = np.array(["red", "green", "blue", "north", "south east", "x"])
REMARKS = (
    "Polars: inferred types, null counts, nine quantiles of each number, zstd Parquet; two threads, as the parser has.",
    "The parser does the same from the stored upload on, and looks at all rows before it decides; the upload is all of it, over HTTP.",
    "An epoch: a job on the data set with everything at its default but one epoch, from its submission to its end.",
    f"Aims: parser ÷ Polars at least {LEAST_RATIO:g}; the API below {API_BYTES >> 20} MiB.",
)


@dataclass(frozen=True)
class Ingest:
    """One round; seconds, and bytes at the peak."""

    polars: float
    parser: float
    upload: float
    training: float
    """A job of one epoch, from its submission to its end."""
    polars_bytes: int
    parser_bytes: int
    api_bytes: int


def make(file: Path, rows: int) -> None:
    """Writes a table of whole numbers, floats and short categories, a third of its columns with some blanks."""
    rng = np.random.default_rng(1)
    with file.open("wb") as out:
        for start in range(0, rows, AT_ONCE):
            columns = [_column(rng, place, min(AT_ONCE, rows - start)) for place in range(COLUMNS)]
            pl.DataFrame(columns).write_csv(out, include_header=start == 0)


def _column(rng: np.random.Generator, place: int, count: int) -> pl.Series:
    if place % 4 == 0:
        values = pl.Series(rng.integers(0, 10 ** (2 + place // 2), count))
    elif place % 4 == 3:
        values = pl.Series(WORDS[rng.integers(0, len(WORDS), count)])
    else:
        values = pl.Series(rng.normal(size=count) if place % 4 == 1 else np.round(rng.normal(size=count) * 100, 3))
    if place % 3 == 0:
        values = values.set(pl.Series(rng.random(count) < 0.05), None)
    return values.rename(f"c{place}")


def measure(stack: Stack, folder: Path, *, quick: bool, rounds: int, say: Say) -> list[Ingest]:
    """Polars and Chainrule in turn; what is uploaded is deleted again."""
    rows = QUICK_ROWS if quick else ROWS
    folder.mkdir()
    file = folder / "table.csv"
    say(f"Writing {rows:,} rows of {COLUMNS} columns …")
    make(file, rows)
    say(f"{file.stat().st_size / 1e9:.2f} GB")
    found = []
    for number in range(1, min(rounds, ROUNDS) + 1):
        alone = _polars(file, folder / "alone.parquet")
        one = _chainrule(stack, file, f"ingest-{number}", alone)
        say(
            f"ingest, round {number}: Polars {one.polars:.1f} s, parser {one.parser:.1f} s, upload {one.upload:.1f} s, "
            f"an epoch {one.training:.1f} s; "
            f"parser {one.parser_bytes >> 20:,} MiB, API {one.api_bytes >> 20:,} MiB"
        )
        found.append(one)
    file.unlink()
    return found


def _polars(file: Path, destination: Path) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "tests.benchmarks.peers.polars_ingest", str(file), str(destination)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _chainrule(stack: Stack, file: Path, name: str, alone: dict[str, Any]) -> Ingest:
    client = stack.client()
    with _Watch(stack.pid) as watch:
        start = time.perf_counter()
        dataset = client.upload(file, name)
        upload = time.perf_counter() - start
        job = _train(client, dataset["id"])
        training = time.perf_counter() - start - upload
    client.call("DELETE", f"/v1/jobs/{job['id']}")
    client.call("DELETE", f"/v1/datasets/{dataset['id']}")  # else the next round would share its rows
    if dataset["rows"] != alone["rows"]:
        raise AssertionError(f"Polars has read {alone['rows']:,} rows, and Chainrule {dataset['rows']:,}")
    return Ingest(
        polars=alone["seconds"],
        parser=watch.seconds,
        upload=upload,
        training=training,
        polars_bytes=alone["peak_bytes"],
        parser_bytes=watch.peaks["service.parser"],
        api_bytes=watch.peaks["service"],
    )


def _train(client: ApiClient, dataset_id: str) -> dict[str, Any]:
    request = {"dataset_id": dataset_id, "target": "c1", "training": {"epochs": 1, "seed": 1}}
    *_, job = client.follow(client.submit(request)["id"])
    if job["state"] != "succeeded":
        raise AssertionError(f"The training ended as {job['state']}: {job['error']}")
    return job


@dataclass
class _Watch:
    """Looks at the API and its parser while an upload runs.

    Attributes:
        seconds: for which there was a parser.
        peaks: bytes of resident memory, by the module that a process runs.

    """

    stack: int
    seconds: float = 0.0
    peaks: dict[str, int] = field(default_factory=lambda: {"service": 0, "service.parser": 0})
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _look(self) -> None:
        api = next(child for child in psutil.Process(self.stack).children() if _module(child) == "service")
        begun: float | None = None
        while not self._done.wait(LOOK_SECONDS):
            with suppress(psutil.NoSuchProcess):
                self.peaks["service"] = max(self.peaks["service"], api.memory_info().rss)
                for parser in api.children():
                    begun = begun or time.perf_counter()
                    self.peaks["service.parser"] = max(self.peaks["service.parser"], parser.memory_info().rss)
                    self.seconds = time.perf_counter() - begun


def _module(process: psutil.Process) -> str:
    command = process.cmdline()
    return command[command.index("-m") + 1] if "-m" in command else ""


def sheets(rounds: Sequence[Ingest]) -> list[Sheet]:
    """One table."""
    lines = [
        (
            "Polars alone",
            *span(spread(one.polars for one in rounds), "{:.1f} s"),
            _most(o.polars_bytes for o in rounds),
        ),
        ("the parser", *span(spread(one.parser for one in rounds), "{:.1f} s"), _most(o.parser_bytes for o in rounds)),
        ("the upload", *span(spread(one.upload for one in rounds), "{:.1f} s"), _most(o.api_bytes for o in rounds)),
        ("an epoch", *span(spread(one.training for one in rounds), "{:.1f} s"), ""),
        ("parser ÷ Polars", *span(spread(one.polars / one.parser for one in rounds), "{:.2f}"), ""),
        ("upload ÷ Polars", *span(spread(one.polars / one.upload for one in rounds), "{:.2f}"), ""),
    ]
    return [Sheet("A large CSV file", ("who", "median", "span", "peak"), lines, REMARKS)]


def _most(values: Any) -> str:
    return f"{max(values) / 2**20:,.0f} MiB"


def summary(rounds: Sequence[Ingest]) -> list[dict[str, Any]]:
    """The figures, for the file."""
    return [asdict(one) for one in rounds]
