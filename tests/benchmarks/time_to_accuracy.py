"""The second suite: seconds until the test images are known well enough, from several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.benchmarks.contender import Contender
from tests.benchmarks.measurement import Measurement, Recorder, errors_of, notes_of, spread
from tests.benchmarks.report import Sheet, span
from tests.benchmarks.shapes import Race, race_rows

SUBJECT = "accuracy"
OURS = {
    "chainrule-2": "synchronous",
    "chainrule-local": "local steps",
    "chainrule-bounded": "bounded staleness",
}
THEIRS = {
    "torch-ddp": "PyTorch DDP",
    "torch-2": "PyTorch, 2 threads",
    "scikit-learn": "scikit-learn",
}


def measure(recorder: Recorder, contenders: Sequence[Contender], race: Race, rounds: int) -> None:
    """All contenders with one seed, then with the next."""
    for seed in range(1, rounds + 1):
        race_rows(race, seed)
        for contender in contenders if seed % 2 else reversed(contenders):
            recorder.take(
                SUBJECT,
                contender,
                seed,
                partial(contender.race, race, seed),
                "{seconds:.1f} s, {epochs} epochs, test accuracy {test_accuracy:.4f}",
            )


def seconds(measurements: Sequence[Measurement], contender: str, race: Race) -> dict[int, float]:
    """By seed; infinite where the accuracy was not reached."""
    return {
        m.round: float(m.figures["seconds"]) if m.figures["test_accuracy"] >= race.accuracy else math.inf
        for m in measurements
        if m.figures and (m.subject, m.contender) == (SUBJECT, contender)
    }


def sheets(measurements: Sequence[Measurement], contenders: Sequence[Contender], race: Race) -> list[Sheet]:
    """A table of times, and one of ratios."""
    lines: list[tuple[str, ...]] = []
    for contender in contenders:
        own = [m for m in measurements if (m.subject, m.contender) == (SUBJECT, contender.name)]
        if not own:
            continue
        times = seconds(measurements, contender.name, race)
        reached = [time for time in times.values() if math.isfinite(time)]
        accuracy = spread(m.figures["test_accuracy"] for m in own if m.figures)
        epochs = spread(m.figures["epochs"] for m in own if m.figures)
        median = statistics.median(times.values()) if times else None
        lines.append(
            (
                contender.title,
                contender.threads,
                "" if median is None else "missed" if median == math.inf else f"{median:.1f}",
                span(spread(reached), "{:.1f}")[1],
                f"{len(reached)} of {len(own)}",
                f"{epochs.median:g}" if epochs else "",
                *span(accuracy, "{:.4f}"),
                "; ".join(filter(None, (notes_of(own), errors_of(own)))),
            )
        )
    title = f"Time to {race.accuracy:.1%} of MNIST's test images, {'-'.join(map(str, race.sizes))}, batch {race.batch}"
    columns = ("contender", "threads", "seconds", "min - max", "reached", "epochs", "accuracy", "min - max", "remarks")
    remarks = (
        f"All train on the same rows, 60,000 less {race.validation:.0%}, for {race.epochs} epochs or "
        f"{race.seconds:.0f} s at most; Adam with a learning rate of 0.001. The median counts a seed that did not "
        "reach the accuracy as infinitely long; min - max are of those that did.",
        "Chainrule: from the accepted request to the first prediction of the served model. It stops when at most "
        f"{race.target_error:.1%} of its validation rows are wrong, and does not know the test images.",
        "The others: the time of their epochs alone, up to the first after which the test images are known well "
        "enough. Start, reading, warm-up and evaluation do not count, and they may look at the test images after "
        "every epoch: both favour them.",
        f"Dropout of {race.dropout:g} in both hidden layers, except for scikit-learn, which has none.",
    )
    return [Sheet(title, columns, lines, remarks), _ratios(measurements, race)]


def _ratios(measurements: Sequence[Measurement], race: Race) -> Sheet:
    lines: list[tuple[str, ...]] = []
    for theirs, their_title in THEIRS.items():
        for ours, our_title in OURS.items():
            found = _ratio(seconds(measurements, theirs, race), seconds(measurements, ours, race))
            if found:
                median = statistics.median(found)
                verdict = "met" if median > 1 else "missed"
                least, most = (_times(pick(found)) for pick in (min, max))
                title = f"{their_title} ÷ {our_title}"
                lines.append((title, _times(median), f"{least} - {most}", "> 1", verdict))
    columns = ("ratio", "median", "min - max", "aim", "verdict")
    return Sheet(
        "Seconds of others ÷ those of Chainrule, seed by seed",
        columns,
        lines,
        ("∞: only Chainrule reached it; 0: only the other.",),
    )


def _ratio(above: dict[int, float], below: dict[int, float]) -> list[float]:
    """By seed; where both missed it there is none."""
    both = [(above[seed], below[seed]) for seed in above if seed in below]
    return [first / second for first, second in both if math.isfinite(first) or math.isfinite(second)]


def _times(ratio: float) -> str:
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}"


def summary(measurements: Sequence[Measurement], race: Race) -> dict[str, Any]:
    """The goal, for the file; its infinities stand in `measurements` as accuracies below it."""
    return {
        "goal": race.accuracy,
        "target_error": race.target_error,
        "reached": {
            name: sum(map(math.isfinite, seconds(measurements, name, race).values()))
            for name in {m.contender for m in measurements if m.subject == SUBJECT}
        },
    }
