"""A training that is cut into segments, stopped between any two of them and resumed elsewhere is the same training."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.exact_sum import exact_parts
from common.schemas import training
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import Adam, Optimizer, Sgd
from tests.unit.training import SMALL, Cast, make_rows, make_task, train
from worker.evaluator import pieces
from worker.task import Segment

WIDE = NetworkShape(layers=(Dense(units=300, activation="tanh", dropout=0.25),))
OPTIMIZERS: list[Optimizer] = [
    Sgd(learning_rate=0.1),
    Sgd(learning_rate=0.05, momentum=0.9),
    Adam(learning_rate=0.01),
]


def segments_of(cuts: set[int], steps: int, epochs: int, everything: range) -> list[Segment]:
    """Whole epochs, cut after these steps (counted over all epochs); validation rows in two goes where one is cut."""
    found = []
    for epoch in range(1, epochs + 1):
        inside = sorted(cut - (epoch - 1) * steps for cut in cuts if (epoch - 1) * steps < cut < epoch * steps)
        bounds = [0, *inside, steps]
        if not inside:
            found.append(Segment(epoch, 0, steps, everything))
            continue
        found += [Segment(epoch, *pair) for pair in pairwise(bounds)]
        half = len(everything) // 2
        found += [Segment(epoch, steps, steps, part) for part in (everything[:half], everything[half:])]
    return found


@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "momentum", "adam"])
def test_a_synchronous_training_resumed_at_any_step_has_the_same_bits(
    optimizer: Optimizer, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, 3), "workers")
    reproducible = data.draw(st.booleans(), "reproducible")
    changes: dict[str, Any] = {
        "optimizer": optimizer,
        "dtype": "float32",
        "reproducible": reproducible,
        "shape": data.draw(st.sampled_from([SMALL, WIDE]), "shape"),
        "clip_norm": data.draw(st.sampled_from([None, 0.3]), "clip_norm"),
    }
    if changes["shape"] is WIDE:
        changes["lanes"] = data.draw(st.integers(1, 3), "lanes")
    rows = make_rows(53, make_task(1, dtype="float32"), weighted=data.draw(st.booleans(), "weighted"))
    task = make_task(workers, **changes)
    undisturbed = train(task, rows, 3)

    steps = task.steps(53)
    cuts = data.draw(st.sets(st.integers(1, 3 * steps - 1), min_size=1, max_size=4), "cuts")
    stops = data.draw(st.sets(st.sampled_from(sorted(cuts)), min_size=1), "stops")
    everything = pieces(rows)  # type: ignore[arg-type]
    seen, states, trained = [], None, undisturbed
    for group_segments in split_at(segments_of(cuts, steps, 3, everything), stops, steps):
        group = Cast(make_task(workers, **changes), rows, states=states)
        trained = group.run(group_segments)
        states = group.states()
        seen += trained.epochs
        group.close()
    np.testing.assert_array_equal(trained.parameters, undisturbed.parameters)
    assert [server.updates for server in trained.servers] == [3 * steps] * len(trained.servers)
    for part in ("losses", "weights"):
        together, alone = (
            math.fsum(number for sums in epochs for one in sums for number in getattr(one, part))
            for epochs in (seen, undisturbed.epochs)
        )
        assert together == alone


def split_at(segments: list[Segment], stops: set[int], steps: int) -> list[list[Segment]]:
    """The segments in groups: the processes are others after each of these steps."""
    groups: list[list[Segment]] = [[]]
    for segment in segments:
        groups[-1].append(segment)
        if (segment.epoch - 1) * steps + segment.last in stops:
            groups.append([])
    return [group for group in groups if group]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_local_steps_are_resumed_with_each_worker_s_own_moments(momentum: float) -> None:
    synchrony = training.LocalSteps.model_validate({"steps": 2, "outer_momentum": momentum})
    task = make_task(2, synchrony=synchrony)
    rows = make_rows(64, task)
    undisturbed = train(task, rows, 4)
    first = Cast(task, rows)
    first.train(2)
    states = first.states()
    first.close()
    second = Cast(make_task(2, synchrony=synchrony), rows, states=states)
    trained = second.run([Segment(epoch, 0, second.steps) for epoch in (3, 4)])
    second.close()
    np.testing.assert_array_equal(trained.parameters, undisturbed.parameters)


def test_bounded_staleness_goes_on_with_all_that_the_server_knew() -> None:
    synchrony = training.BoundedStaleness(max_staleness=0)  # of one worker, so that there is but one order
    task = make_task(1, synchrony=synchrony)
    rows = make_rows(53, task)
    undisturbed = train(task, rows, 4)
    first = Cast(task, rows)
    first.run([Segment(1, 0, first.steps), Segment(2, 0, 2)])
    states = first.states()
    first.close()
    second = Cast(make_task(1, synchrony=synchrony), rows, states=states)
    trained = second.run([Segment(2, 2, second.steps), *(Segment(epoch, 0, second.steps) for epoch in (3, 4))])
    second.close()
    np.testing.assert_array_equal(trained.parameters, undisturbed.parameters)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)))
def test_the_parts_of_a_sum_hold_all_of_it_however_it_was_split(numbers: list[float]) -> None:
    half = len(numbers) // 2
    parts = [*exact_parts(numbers[:half]), *exact_parts(numbers[half:])]
    assert math.fsum(exact_parts(parts)) == math.fsum(numbers)
    assert len(exact_parts(numbers)) <= 40


@pytest.mark.parametrize("numbers", [[math.nan], [1.0, math.inf], [math.nan, 1.0, 2.0]])
def test_a_sum_that_is_no_finite_number_says_so(numbers: list[float]) -> None:
    assert not math.isfinite(math.fsum(exact_parts(numbers)))
