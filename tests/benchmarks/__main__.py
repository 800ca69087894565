"""`make bench`: Chainrule beside its peers, in turn, in one run.

Five suites: rows per second of three networks, the time to an accuracy of MNIST, the arithmetic alone, the upload of a
large file, and predictions under load. Prints tables with medians, spread and ratios; also as JSON and Markdown. Ctrl-C
ends everything, and reports what there is.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import (
    engine,
    ingest,
    load,
    machine,
    prediction,
    prediction_report,
    throughput,
    time_to_accuracy,
)
from tests.benchmarks.chainrule import Stack
from tests.benchmarks.contender import Contender
from tests.benchmarks.contenders import all_contenders
from tests.benchmarks.measurement import Recorder
from tests.benchmarks.peer import Peer
from tests.benchmarks.report import Sheet, show, to_markdown
from tests.benchmarks.shapes import ENGINE, QUICK, SHAPES, Race, Rows, prepare, race
from tests.integration.mnist import FOLDER

ROUNDS = 5
SUITES = ("throughput", "accuracy", "engine", "ingest", "prediction")
INTERRUPTED = 130
SETTLE_SECONDS = 5.0
WIDTH = 150
"""Of the tables where the output is no terminal."""

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=WIDTH)


def say(text: str) -> None:
    """Tells what takes a while."""
    console.print(text, markup=False, soft_wrap=True)


def main() -> None:
    """Measures and reports."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    arguments = _arguments()
    bench = Bench(arguments)
    status = 0
    with ExitStack() as things:
        folder = Path(things.enter_context(tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True)))
        stack = Stack(folder / "state", 0.0 if arguments.quick else SETTLE_SECONDS, say)
        things.callback(stack.stop)
        try:
            everyone = _chosen([*all_contenders(stack, say), *engine.contenders(say, stack.stop)], arguments.contenders)
            bench.run(folder, everyone, stack)
        except KeyboardInterrupt:
            say("Interrupted; this is what there is.")
            status = INTERRUPTED
    bench.report()
    sys.exit(status)


class Bench:
    """One run of the suites that were asked for."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._rounds: int = 1 if arguments.quick else arguments.rounds
        self._recorder = Recorder(console, 0, self._write_json)
        self._contenders: Sequence[Contender] = ()
        self._rows: list[Rows] = []
        self._engine_rows: list[Rows] = []
        self._compared = ""
        self._race: Race | None = None
        self._ingests: list[ingest.Ingest] = []
        self._predictions = prediction.Predictions()

    def run(self, folder: Path, contenders: Sequence[Contender], stack: Stack) -> None:
        """Measures."""
        suites = self._arguments.suite
        engines = [one for one in contenders if one.name.startswith("engine")] if "engine" in suites else []
        contenders = [one for one in contenders if not one.name.startswith("engine")]
        self._contenders = contenders
        shapes = [shape for shape in SHAPES if shape.name in self._arguments.shapes] if "throughput" in suites else []
        racers = [contender for contender in contenders if contender.races] if "accuracy" in suites else []
        if racers and not FOLDER.exists():
            say(f"The time to an accuracy needs MNIST in {FOLDER}, and is left out.")
            racers = []
        expected = throughput.count(contenders, len(shapes), self._rounds) + len(racers) * self._rounds
        expected += throughput.count(engines, len(ENGINE), self._rounds)
        self._recorder.expected = expected
        self._write_json()  # a file that cannot be written is better known now
        for contender in (*(contenders if shapes or racers else []), *engines):
            if isinstance(contender, Peer):
                contender.install()
        for shape in shapes:
            say(f"Preparing the rows of {shape.name} …")
            self._rows.append(prepare(QUICK[shape.name] if self._arguments.quick else shape, folder / shape.name))
        throughput.measure(self._recorder, contenders, self._rows, self._rounds)
        if racers:
            say("Preparing the race …")
            self._race = race(folder / "race", quick=self._arguments.quick)
            time_to_accuracy.measure(self._recorder, racers, self._race, self._rounds)
        if engines:
            quick = self._arguments.quick
            for number, shape in enumerate(ENGINE):
                shape = replace(shape, seconds=0.3) if quick else shape
                self._engine_rows.append(prepare(shape, folder / f"engine{number}"))
            throughput.measure(self._recorder, engines, self._engine_rows, self._rounds)
            self._compared = engine.compare_trajectories(say)
        if "ingest" in suites:
            quick = self._arguments.quick
            self._ingests = ingest.measure(stack, folder / "ingest", quick=quick, rounds=self._rounds, say=say)
        if "prediction" in suites and not load.is_installed():
            say(f"Predictions under load need wrk ({load.HOW_TO_INSTALL}), and are left out.")
        elif "prediction" in suites:
            stack.stop()
            quick = self._arguments.quick
            prediction.measure(self._predictions, folder / "prediction", quick=quick, rounds=self._rounds, say=say)

    def report(self) -> None:
        """Prints the tables, and writes the files that were asked for."""
        sheets = self._sheets()
        show(console, sheets)
        if self._arguments.quick:
            say("A quick run: it shows that everything works; its figures mean nothing.")
        self._write_json()
        if self._arguments.markdown is not None:
            self._arguments.markdown.write_text(to_markdown(sheets))

    def _sheets(self) -> list[Sheet]:
        measurements = self._recorder.measurements
        sheets = [machine.sheet(machine.describe(measurements))]
        if self._rows:
            sheets += throughput.sheets(measurements, self._contenders, self._rows)
        if self._race is not None:
            sheets += time_to_accuracy.sheets(measurements, self._contenders, self._race)
        if self._engine_rows:
            sheets += engine.sheets(measurements, self._engine_rows, self._compared)
        if self._ingests:
            sheets += ingest.sheets(self._ingests)
        if self._predictions.titles:
            sheets += prediction_report.sheets(self._predictions)
        return sheets

    def _write_json(self) -> None:
        if self._arguments.json is None:
            return
        measurements = self._recorder.measurements
        document: dict[str, Any] = {
            "machine": machine.describe(measurements),
            "rounds": self._rounds,
            "quick": self._arguments.quick,
            "ratios": throughput.summary(measurements, [rows.shape.name for rows in self._rows]),
            "measurements": [measurement.to_json() for measurement in measurements],
        }
        if self._race is not None:
            document["accuracy"] = time_to_accuracy.summary(measurements, self._race)
        if self._engine_rows:
            document["engine"] = engine.summary(measurements, self._engine_rows)
        if self._ingests:
            document["ingest"] = ingest.summary(self._ingests)
        if self._predictions.titles:
            document["prediction"] = prediction_report.summary(self._predictions)
        self._arguments.json.write_text(json.dumps(document, indent=1))


def _chosen(contenders: list[Contender], names: list[str]) -> list[Contender]:
    known = [contender.name for contender in contenders]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"No such contender: {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [contender for contender in contenders if not names or contender.name in names]


def _names(allowed: Sequence[str]) -> Any:
    """Reads names with commas between them."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not among {', '.join(allowed)}")
        return names

    return read


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _arguments() -> argparse.Namespace:
    shapes = [shape.name for shape in SHAPES]
    parser = argparse.ArgumentParser(prog="python -P -m tests.benchmarks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--suite", metavar="NAMES", type=_names(SUITES), default=list(SUITES), help=f"of {','.join(SUITES)}; all"
    )
    parser.add_argument(
        "--shapes", metavar="NAMES", type=_names(shapes), default=shapes, help=f"of {','.join(shapes)}; all"
    )
    parser.add_argument(
        "--contenders",
        metavar="NAMES",
        type=lambda text: text.split(","),
        default=[],
        help="all; a wrong name lists them",
    )
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, help=f"of each measurement, and seeds; {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
