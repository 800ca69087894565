"""The first suite: rows per second, contender by contender in turn, and the ratios within a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.benchmarks.contender import Contender
from tests.benchmarks.measurement import Measurement, Recorder, Spread, errors_of, notes_of, spread
from tests.benchmarks.report import Sheet, span
from tests.benchmarks.shapes import Rows

PYTORCH = ("torch-1", "torch-2", "torch-ddp", "torch-trainer")


@dataclass(frozen=True)
class Ratio:
    """A contender's rows/s over the best of some others', and the aims by shape."""

    title: str
    above: str
    below: tuple[str, ...]
    aims: dict[str, float] = field(default_factory=dict)


RATIOS = (
    Ratio("synchronous ÷ PyTorch DDP", "chainrule-2", ("torch-ddp",), {"mnist": 2.2, "small": 20, "big": 1.4}),
    Ratio("synchronous ÷ fastest PyTorch of the round", "chainrule-2", PYTORCH, {"mnist": 1.6}),
    Ratio("synchronous ÷ the limit", "chainrule-2", ("limit",), {"mnist": 0.88}),
    Ratio("synchronous ÷ TorchTrainer", "chainrule-2", ("torch-trainer",)),
    Ratio("synchronous ÷ scikit-learn", "chainrule-2", ("scikit-learn",), {"mnist": 1.5}),
    Ratio("synchronous ÷ H2O", "chainrule-2", ("h2o",), {"mnist": 60}),
    Ratio("local steps ÷ the limit", "chainrule-local", ("limit",), {"mnist": 0.95, "small": 0.95, "big": 0.95}),
    Ratio("bounded staleness ÷ the limit", "chainrule-bounded", ("limit",)),
    Ratio("2 workers ÷ 1 worker, synchronous", "chainrule-2", ("chainrule-1",)),
    Ratio("2 servers ÷ 1 server, synchronous", "chainrule-servers", ("chainrule-2",)),
)
REMARKS = (
    "Threads: processes x BLAS threads of each. All: ReLU, cross-entropy, Adam with a learning rate of 0.001, float32.",
    "Chainrule: a job over HTTP through the whole stack, as its progress reports it: all training rows over the time "
    "since the first step, the evaluation after each epoch and all waits included; reported ÷ outside: the same over "
    "the rows and time that a caller sees between `running` and the end.",
    "The others: rows over the time of steps alone, after a warm-up; no evaluation, no waits. No stack runs meanwhile.",
    "The limit: two processes with Chainrule's own arithmetic, each updating its own weights with its own gradients; "
    "they exchange nothing.",
)


def measure(recorder: Recorder, contenders: Sequence[Contender], rows: Sequence[Rows], rounds: int) -> None:
    """All rounds of all shapes; every other round in reverse order, so that nobody is always first."""
    for one in rows:
        for round_number in range(1, rounds + 1):
            for contender in contenders if round_number % 2 else reversed(contenders):
                if contender.rounds is None or round_number <= contender.rounds:
                    recorder.take(
                        one.shape.name,
                        contender,
                        round_number,
                        partial(contender.throughput, one, round_number),
                        "{rows_per_second:,.0f} rows/s",
                    )


def count(contenders: Sequence[Contender], shapes: int, rounds: int) -> int:
    """How many measurements `measure` takes."""
    return shapes * sum(min(rounds, contender.rounds or rounds) for contender in contenders)


def rates(measurements: Sequence[Measurement], subject: str, contender: str) -> dict[int, float]:
    """Rows per second by round."""
    return {
        m.round: float(m.figures["rows_per_second"])
        for m in measurements
        if m.figures and (m.subject, m.contender) == (subject, contender)
    }


def ratio(measurements: Sequence[Measurement], subject: str, wanted: Ratio) -> Spread | None:
    """The ratio of each round in which both sides were measured."""
    above = rates(measurements, subject, wanted.above)
    below = [rates(measurements, subject, name) for name in wanted.below]
    best = {n: max(rate[n] for rate in below if n in rate) for n in above if any(n in rate for rate in below)}
    return spread(above[n] / rate for n, rate in best.items())


def sheets(measurements: Sequence[Measurement], contenders: Sequence[Contender], rows: Sequence[Rows]) -> list[Sheet]:
    """A table of figures for each shape, and one of ratios."""
    made = [_figures(measurements, contenders, one) for one in rows]
    lines: list[tuple[str, ...]] = []
    for wanted in RATIOS:
        for one in rows:
            found = ratio(measurements, one.shape.name, wanted)
            aim = wanted.aims.get(one.shape.name)
            if found is not None or aim is not None:
                lines.append((wanted.title, one.shape.name, *_judged(found, aim)))
    columns = ("ratio", "shape", "median", "min - max", "aim", "verdict")
    return [
        *made,
        Sheet("Rows/s of Chainrule with 2 workers ÷ those of others, within a round", columns, lines, REMARKS),
    ]


def _judged(found: Spread | None, aim: float | None) -> tuple[str, ...]:
    verdict = ""
    if aim is not None:
        verdict = "not measured" if found is None else "met" if found.median >= aim else "missed"
    return (*span(found, "{:.2f}"), "" if aim is None else f"≥ {aim:g}", verdict)


def _figures(measurements: Sequence[Measurement], contenders: Sequence[Contender], rows: Rows) -> Sheet:
    lines: list[tuple[str, ...]] = []
    for contender in contenders:
        own = [m for m in measurements if (m.subject, m.contender) == (rows.shape.name, contender.name)]
        if not own:
            continue
        found = spread(float(m.figures["rows_per_second"]) for m in own if m.figures)
        outside = spread(
            m.figures["rows_per_second"] / m.figures["outside_rows_per_second"]
            for m in own
            if m.figures and m.figures.get("outside_rows_per_second")
        )
        lines.append(
            (
                contender.title,
                contender.threads,
                *span(found, "{:,.0f}"),
                str(found.count) if found else "",
                f"{outside.median:.1%}" if outside else "",
                "; ".join(filter(None, (notes_of(own), errors_of(own)))),
            )
        )
    shape = rows.shape
    columns = ("contender", "threads", "rows/s", "min - max", "rounds", "reported ÷ outside", "remarks")
    return Sheet(f"{shape.title} ({shape.name}): {shape.rows:,} rows, {rows.source}", columns, lines)


def summary(measurements: Sequence[Measurement], subjects: Sequence[str]) -> dict[str, Any]:
    """The ratios, for the file."""
    return {
        subject: [
            {
                "title": wanted.title,
                "aim": wanted.aims.get(subject),
                "median": found.median,
                "min": found.least,
                "max": found.most,
                "rounds": found.count,
            }
            for wanted in RATIOS
            if (found := ratio(measurements, subject, wanted)) is not None
        ]
        for subject in subjects
    }
