"""Schedules step for step against PyTorch's, as recorded in `trajectories`, and against their formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.schemas.optimizers import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    Schedule,
    StepSchedule,
    WarmUpSchedule,
)
from worker.schedules import Extent, Plateau, make_schedule, plateau_of

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "trajectories" / "torch.json").read_text())
STEPS = 24

SAME: dict[str, tuple[Schedule, Extent]] = {
    "step": (StepSchedule(epochs=3, factor=0.5), Extent(steps=1, epochs=STEPS)),
    "exponential": (ExponentialSchedule(factor=0.9), Extent(steps=1, epochs=STEPS)),
    "cosine": (CosineSchedule(floor=0.01), Extent(steps=1, epochs=STEPS)),
    "cosine restarts": (CosineSchedule(restart_epochs=3, restart_factor=2), Extent(steps=1, epochs=STEPS)),
    "one cycle": (OneCycleSchedule(), Extent(steps=4, epochs=6)),
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_a_schedule_has_pytorchs_learning_rate_at_every_step(name: str) -> None:
    schedule = make_schedule(*SAME[name])
    factors = [schedule.factor(step) for step in range(STEPS)]
    assert factors == pytest.approx(RECORD["schedules"][name], rel=1e-6, abs=1e-9)


def test_a_plateau_reduces_the_rate_when_pytorchs_does() -> None:
    plateau = Plateau(PlateauSchedule(factor=0.5, patience=2))
    factors = []
    for loss in RECORD["plateau"]["losses"]:
        before = plateau.factor
        assert plateau.note(loss) == (plateau.factor < before)
        factors.append(plateau.factor)
    assert factors == pytest.approx(RECORD["plateau"]["factors"], rel=1e-9)
    assert min(factors) < 0.3  # it did


def test_a_plateau_goes_no_lower_than_its_floor_and_goes_on_where_another_stood() -> None:
    spec = PlateauSchedule(factor=0.1, patience=0, floor=0.05)
    plateau = Plateau(spec)
    assert json.loads(json.dumps(plateau.document()))["best"] is None
    assert [plateau.note(1.0) for _ in range(4)] == [False, True, True, False]
    assert plateau.factor == 0.05
    other = Plateau(spec)
    other.restore(json.loads(json.dumps(plateau.document())))
    assert other.document() == plateau.document()


@pytest.mark.parametrize(
    "spec",
    [ConstantSchedule(), StepSchedule(epochs=1), ExponentialSchedule(), CosineSchedule(), OneCycleSchedule()],
    ids=lambda spec: spec.kind,
)
def test_any_schedule_may_begin_with_a_linear_rise(spec: Any) -> None:
    extent = Extent(steps=10, epochs=4)
    warm, plain = make_schedule(WarmUpSchedule(epochs=1.5, then=spec), extent), make_schedule(spec, extent)
    for step in range(extent.total):
        share = min(1.0, (step + 1) / 15)
        assert warm.factor(step) == pytest.approx(share * plain.factor(step), rel=1e-12)


def test_a_plateau_after_a_rise_is_found() -> None:
    spec = PlateauSchedule(patience=3)
    for schedule in (spec, WarmUpSchedule(then=spec)):
        assert plateau_of(schedule) is not None
    assert plateau_of(WarmUpSchedule()) is None
    assert plateau_of(ConstantSchedule()) is None


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60), st.integers(1, 4), st.floats(0, 1))
def test_a_cosine_stays_between_its_floor_and_one_and_starts_anew_at_each_restart(
    steps: int, epochs: int, length: int, factor: int, floor: float
) -> None:
    schedule = make_schedule(
        CosineSchedule(restart_epochs=length, restart_factor=factor, floor=floor), Extent(steps, epochs)
    )
    factors = [schedule.factor(step) for step in range(steps * epochs)]
    assert all(floor - 1e-9 <= factor <= 1 + 1e-9 for factor in factors)
    start, cycle = 0, length
    while start < epochs:
        assert factors[start * steps] == pytest.approx(1, abs=1e-6)
        start, cycle = start + cycle, cycle * factor


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.99))
def test_one_cycle_rises_and_falls_once_however_short_the_training(steps: int, epochs: int, rise: float) -> None:
    schedule = make_schedule(OneCycleSchedule(rise=rise), Extent(steps, epochs))
    factors = [schedule.factor(step) for step in range(steps * epochs)]
    assert all(math.isfinite(factor) and 0 < factor <= 1 + 1e-9 for factor in factors)
    highest = factors.index(max(factors))
    assert factors[: highest + 1] == sorted(factors[: highest + 1])
    assert factors[highest:] == sorted(factors[highest:], reverse=True)
