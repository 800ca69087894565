"""When a training ends, and why."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Diverged
from common.schemas.jobs import StopReason
from common.schemas.training import Stopping
from worker.stopping import StoppingRule


def stopped(
    losses: list[float],
    *,
    epochs: int = 100,
    errors: list[float] | None = None,
    seconds_per_epoch: float = 1.0,
    **wanted: float | None,
) -> tuple[int, StopReason | None]:
    """The epoch at which such a run stops, and why."""
    rule = StoppingRule(Stopping.model_validate(wanted), epochs)
    for epoch, loss in enumerate(losses, start=1):
        rule.is_best(epoch, loss)
        error = errors[epoch - 1] if errors else 1.0
        reason = rule.decide(epoch, loss, error, epoch * seconds_per_epoch)
        if reason:
            return epoch, reason
    return len(losses), None


def test_it_stops_after_the_last_epoch() -> None:
    assert stopped([3, 2, 1, 0.5], epochs=3) == (3, "epochs_done")


def test_it_stops_when_the_loss_is_at_or_below_its_target() -> None:
    assert stopped([3, 0.51, 0.5, 0.1], target_loss=0.5) == (3, "target_reached")
    assert stopped([3, 0.0], target_loss=0) == (2, "target_reached")


def test_it_stops_when_the_error_is_at_or_below_its_target_whatever_the_loss() -> None:
    assert stopped([3, 4, 5], errors=[0.3, 0.2, 0.1], target_error=0.2) == (2, "target_reached")
    assert stopped([3, 2, 1], errors=[0.3, 0.2, 0.0], target_error=0) == (3, "target_reached")


def test_a_target_reached_in_the_last_epoch_counts_as_reached() -> None:
    assert stopped([3, 0.5], epochs=2, target_loss=0.5) == (2, "target_reached")


def test_it_stops_after_so_many_epochs_without_a_better_loss() -> None:
    assert stopped([3, 2, 2, 2.5, 2, 1], patience=3) == (5, "patience")
    assert stopped([3, 2, 2, 2.5, 1.9, 2, 2, 2], patience=3) == (8, "patience")
    assert stopped([1, 2], patience=1) == (2, "patience")


def test_without_patience_it_goes_on_to_the_last_epoch() -> None:
    assert stopped([1.0] * 50, epochs=50, patience=None) == (50, "epochs_done")


def test_a_loss_counts_as_better_only_if_lower_by_the_least_difference() -> None:
    assert stopped([1, 0.95, 0.9, 0.85], patience=2, min_delta=0.1) == (3, "patience")
    assert stopped([1, 0.95, 0.89, 0.85, 0.8], patience=2, min_delta=0.1) == (5, "patience")
    assert stopped([1, 0.99, 0.98, 0.97], patience=2) == (4, None)


def test_slow_progress_counts_from_the_last_loss_that_was_better() -> None:
    """Small steps add up: it is the total since then that must pass the least difference."""
    assert stopped([1, 0.94, 0.88, 0.82, 0.76], patience=2, min_delta=0.1) == (5, None)


def test_the_best_weights_are_those_of_the_lowest_loss_even_if_lower_by_less_than_that() -> None:
    rule = StoppingRule(Stopping(min_delta=0.5, patience=5), 10)
    assert [rule.is_best(epoch, loss) for epoch, loss in enumerate([1, 0.9, 0.9, 0.95, 0.8], start=1)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert (rule.best_epoch, rule.best_loss) == (5, 0.8)


def test_it_stops_when_its_time_is_over() -> None:
    assert stopped([3, 2, 1], max_seconds=2) == (2, "time_limit")
    assert stopped([3, 2, 1], max_seconds=2.5) == (3, "time_limit")


def test_a_target_goes_before_every_other_reason() -> None:
    assert stopped([1, 1], errors=[1, 0], epochs=2, target_error=0, patience=1, max_seconds=2) == (2, "target_reached")
    assert stopped([1, 1], epochs=2, patience=1, max_seconds=2) == (2, "epochs_done")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_is_divergence(loss: float) -> None:
    rule = StoppingRule(Stopping(), 10)
    rule.is_best(1, 0.5)
    with pytest.raises(Diverged, match="epoch 2"):
        rule.is_best(2, loss)
    assert (rule.best_epoch, rule.best_loss) == (1, 0.5)
    with pytest.raises(Diverged):
        rule.check_growth(loss)


def test_a_thousandfold_loss_three_times_in_a_row_is_divergence() -> None:
    rule = StoppingRule(Stopping(), 10)
    for loss in (2.0, 2001.0, 2001.0, 2000.0, 2001.0, 2001.0):
        rule.check_growth(loss)
    with pytest.raises(Diverged, match=r"1,000"):
        rule.check_growth(2001.0)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40))
def test_a_loss_that_stays_within_a_thousandfold_never_diverges(losses: list[float]) -> None:
    rule = StoppingRule(Stopping(), 100)
    for loss in losses:
        rule.check_growth(loss)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 5))
def test_patience_stops_exactly_when_the_best_is_that_old(losses: list[float], patience: int) -> None:
    epoch, reason = stopped(losses, patience=patience)
    ages = [place - losses[: place + 1].index(min(losses[: place + 1])) for place in range(len(losses))]
    wanted = next((place + 1 for place, age in enumerate(ages) if age >= patience), None)
    assert (epoch, reason) == ((wanted, "patience") if wanted else (len(losses), None))
