"""The third suite: one process and one BLAS thread each, on eight networks."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.contender import Contender, NotAvailable, Say
from tests.benchmarks.environments import ROOT, SCIKIT_LEARN, TORCH, python_of
from tests.benchmarks.measurement import Measurement, Spread, spread
from tests.benchmarks.peer import Peer
from tests.benchmarks.report import Sheet, span
from tests.benchmarks.shapes import Rows
from tests.benchmarks.throughput import Ratio, rates, ratio

TRAJECTORIES = ROOT / "tests" / "unit" / "trajectories"
LEAST, MEAN = 1.0, 2.2
OVER_FORWARD = 3.0
OVER_TORCH = Ratio("engine ÷ PyTorch", "engine", ("engine-torch",))
OVER_SCIKIT_LEARN = Ratio("engine ÷ scikit-learn", "engine", ("engine-sklearn",))
REMARKS = (
    "Steps alone: rows gathered, forward, backward, Adam. ReLU, cross-entropy, float32. No stack runs.",
    "Forward and backward ÷ forward: the least time of each on one batch.",
)


def contenders(say: Say, alone: Callable[[], None]) -> list[Contender]:
    """Ours and theirs."""
    return [
        Peer(
            name=name,
            title=title,
            threads="1 x 1",
            module=module,
            environment=environment,
            threads_each=1,
            say=say,
            alone=alone,
        )
        for name, title, module, environment in (
            ("engine", "Chainrule's engine", "engine", None),
            ("engine-torch", "PyTorch", "torch_alone", TORCH),
            ("engine-sklearn", "scikit-learn's MLPClassifier", "sklearn_mlp", SCIKIT_LEARN),
        )
    ]


def compare_trajectories(say: Say) -> str:
    """Whether PyTorch's optimizers and schedules still move as the tests have it on record; in words."""
    record = TRAJECTORIES / "torch.json"
    try:
        python = python_of(TORCH, say)
    except NotAvailable as error:
        return f"Trajectories were not compared: {error}."
    done = subprocess.run([python, "-P", TRAJECTORIES / "record.py"], capture_output=True, text=True, check=False)
    if done.returncode:
        return "Trajectories were not compared: the script that records them failed."
    found, recorded = (_numbers(json.loads(text)) for text in (done.stdout, record.read_text()))
    if len(found) != len(recorded):
        return "Trajectories: PyTorch's are others than those on record."
    apart = max(abs(a - b) for a, b in zip(found, recorded, strict=True))
    return f"Trajectories: PyTorch's optimizers and schedules, run now, differ from those on record by {apart:.1e} at most."


def _numbers(node: Any) -> list[float]:
    """All numbers of a document, in order."""
    if isinstance(node, dict):
        return [number for key in sorted(node) for number in _numbers(node[key])]
    if isinstance(node, list):
        return [number for item in node for number in _numbers(item)]
    return [float(node)] if isinstance(node, int | float) else []


def sheets(measurements: Sequence[Measurement], rows: Sequence[Rows], compared: str) -> list[Sheet]:
    """One table: a line for each network, and the geometric means."""
    lines = [_line(measurements, one.shape.name) for one in rows]
    means = [_mean(measurements, rows, wanted) for wanted in (OVER_TORCH, OVER_SCIKIT_LEARN)]
    lines.append(("geometric mean", "", "", "", *means, ""))
    columns = ("network at batch", "rows/s", "PyTorch", "scikit-learn", "÷ PyTorch", "÷ scikit-learn", "÷ forward")
    aims = (
        f"Aims: nowhere below {LEAST:g}; geometric mean over PyTorch at least {MEAN}; forward and backward at most {OVER_FORWARD:g}.",
    )
    return [Sheet("One process, one BLAS thread each", columns, lines, (*aims, *REMARKS, compared))]


def summary(measurements: Sequence[Measurement], rows: Sequence[Rows]) -> dict[str, Any]:
    """The figures, for the file."""
    return {
        one.shape.name: {
            "over_torch": _median(ratio(measurements, one.shape.name, OVER_TORCH)),
            "over_scikit_learn": _median(ratio(measurements, one.shape.name, OVER_SCIKIT_LEARN)),
            "over_forward": _median(_over_forward(measurements, one.shape.name)),
        }
        for one in rows
    }


def _line(measurements: Sequence[Measurement], name: str) -> tuple[str, ...]:
    found = [spread(rates(measurements, name, who).values()) for who in ("engine", "engine-torch", "engine-sklearn")]
    ratios = [ratio(measurements, name, wanted) for wanted in (OVER_TORCH, OVER_SCIKIT_LEARN)]
    shares = _over_forward(measurements, name)
    return (
        name,
        *(span(one, "{:,.0f}")[0] for one in found),
        *(f"{one.median:.2f} ({one.least:.2f} - {one.most:.2f})" if one else "" for one in ratios),
        f"{shares.median:.2f}" if shares else "",
    )


def _over_forward(measurements: Sequence[Measurement], name: str) -> Spread | None:
    return spread(
        float(m.figures["over_forward"])
        for m in measurements
        if m.figures and (m.subject, m.contender) == (name, "engine")
    )


def _mean(measurements: Sequence[Measurement], rows: Sequence[Rows], wanted: Ratio) -> str:
    found = [ratio(measurements, one.shape.name, wanted) for one in rows]
    medians = [one.median for one in found if one]
    return f"{math.exp(sum(map(math.log, medians)) / len(medians)):.2f}" if medians else ""


def _median(found: Spread | None) -> float | None:
    return None if found is None else found.median
