"""Every metric of an evaluation against scikit-learn, in any order and any parts."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.evaluation import classes as classes_module
from common.evaluation.classes import ClassTally
from common.evaluation.numbers import NumberTally
from common.evaluation.ranking import rank
from common.schemas.models import Evaluation

quick = settings(max_examples=30, deadline=None)
LABELS = ("a", "b", "c", "d")
UNKNOWN = ("x", "y")
pytestmark = [
    pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning"),
    pytest.mark.filterwarnings("ignore:A single label was found:UserWarning"),
]


@st.composite
def judged(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Probabilities with ties, classes of which some may be absent (-1, -2: unknown to the model), and weights."""
    count, rows = draw(st.integers(2, 4)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from((1, 2, 5, 1000)))
    scores = np.round(random.uniform(size=(rows, count)) * levels) + 1e-3
    present = draw(st.lists(st.sampled_from([*range(count), -1, -2]), min_size=1, max_size=6))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    weights = random.uniform(0, 3, rows) + 0.01 if draw(st.booleans()) else None
    return probabilities, random.choice(np.array(present), rows), weights


def tallied(
    probabilities: NDArray[Any],
    codes: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
    order: NDArray[np.intp] | None = None,
    cuts: list[int] | None = None,
) -> tuple[dict[str, float], Evaluation]:
    tally = ClassTally(LABELS[: probabilities.shape[1]])
    order = np.arange(len(codes)) if order is None else order
    for start, stop in pairwise([0, *sorted(cuts or []), len(codes)]):
        rows = order[start:stop]
        unknown = [UNKNOWN[-code - 1] for code in codes[rows].tolist() if code < 0]
        tally.add(probabilities[rows], np.maximum(codes[rows], -1), None if weights is None else weights[rows], unknown)
    return tally.result()


@quick
@given(judged())
def test_a_classification_has_scikit_learns_metrics(
    case: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None],
) -> None:
    probabilities, codes, weights = case
    count = probabilities.shape[1]
    metrics, evaluation = tallied(probabilities, codes, weights)
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": oracle.accuracy_score(codes, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(codes, predicted),
    }
    for average in ("macro", "weighted"):
        scores = oracle.precision_recall_fscore_support(codes, predicted, average=average, zero_division=0)
        expected |= dict(zip([f"{n}_{average}" for n in ("precision", "recall", "f1")], scores, strict=False))
    one_hot = np.zeros((len(codes), count + 1))  # the last: a class of which the model says nothing
    one_hot[np.arange(len(codes)), codes.clip(-1)] = 1
    with_unknown = np.column_stack([probabilities, np.zeros(len(codes))])
    expected["brier"] = ((one_hot - with_unknown) ** 2).sum(axis=1).mean() / (2 if count == 2 else 1)
    losses = -np.log(np.maximum((one_hot * with_unknown).sum(axis=1), np.finfo(np.float32).tiny))
    expected["log_loss"] = np.average(losses, weights=weights)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-12)

    each = oracle.precision_recall_fscore_support(codes, predicted, labels=range(count), zero_division=0)
    assert evaluation.rows == len(codes)
    assert evaluation.classes is not None
    found = np.array([(c.precision, c.recall, c.f1, c.rows) for c in evaluation.classes])
    np.testing.assert_allclose(found.T, np.array(each), rtol=0, atol=1e-12)
    matrix = oracle.confusion_matrix(codes, predicted, labels=[*range(count), -1, -2])
    assert evaluation.confusion_matrix == tuple(map(tuple, matrix[:count, :count].tolist()))
    if (codes < 0).any():
        assert evaluation.unknown_class_predictions == tuple(matrix[count:, :count].sum(axis=0).tolist())
    else:
        assert evaluation.unknown_class_predictions is None


@quick
@given(judged())
def test_areas_are_scikit_learns_for_each_class_against_the_rest(
    case: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None],
) -> None:
    probabilities, codes, _ = case
    metrics, evaluation = tallied(probabilities, codes)
    assert evaluation.classes is not None
    areas = {}
    for code, found in enumerate(evaluation.classes):
        truth = codes == code
        if truth.all() or not truth.any():
            assert (found.roc_auc, found.pr_auc) == (None, None)
            continue
        areas[code] = (
            oracle.roc_auc_score(truth, probabilities[:, code]),
            oracle.average_precision_score(truth, probabilities[:, code]),
        )
        assert (found.roc_auc, found.pr_auc) == pytest.approx(areas[code], rel=1e-9, abs=1e-9)
    if probabilities.shape[1] == 2:
        areas.pop(0, None)
    if areas:
        means = np.mean(list(areas.values()), axis=0)
        assert (metrics["roc_auc"], metrics["pr_auc"]) == pytest.approx(means, rel=1e-9, abs=1e-9)
    else:
        assert "roc_auc" not in metrics
        assert "pr_auc" not in metrics
        assert any("roc_auc and pr_auc are left out" in warning for warning in evaluation.warnings)


def test_areas_and_brier_scores_are_scikit_learns_own_means_where_every_class_is_there() -> None:
    random = np.random.default_rng(1)
    for count in (2, 4):
        codes = np.arange(200) % count
        probabilities = random.dirichlet(np.ones(count), 200)
        metrics, _ = tallied(probabilities, codes)
        scores = probabilities[:, 1] if count == 2 else probabilities
        assert metrics["roc_auc"] == pytest.approx(oracle.roc_auc_score(codes, scores, multi_class="ovr"), rel=1e-9)
        assert metrics["pr_auc"] == pytest.approx(oracle.average_precision_score(codes, scores), rel=1e-9)
        assert metrics["log_loss"] == pytest.approx(oracle.log_loss(codes, probabilities), rel=1e-12)
        assert metrics["brier"] == pytest.approx(oracle.brier_score_loss(codes, scores), rel=1e-12)


@quick
@given(st.integers(1, 300), st.sampled_from((1, 7, 1 << 16)), st.integers(0, 2**32))
def test_a_ranking_does_not_depend_on_how_many_rows_are_looked_up_at_a_time(rows: int, chunk: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 20, rows).astype(np.float32) / 20
    truth = random.uniform(size=rows) < 0.4
    truth[0], found = True, None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.evaluation.ranking._CHUNK", chunk)
        found = rank(scores, truth)
    if truth.all():
        assert found is None
        return
    assert found is not None
    assert found.roc_auc == pytest.approx(oracle.roc_auc_score(truth, scores), rel=1e-12)
    assert found.pr_auc == pytest.approx(oracle.average_precision_score(truth, scores), rel=1e-12)


@quick
@given(judged(), st.lists(st.integers(0, 60), max_size=5), st.randoms(use_true_random=False))
def test_parts_and_order_of_rows_change_no_bit_of_a_classification(
    case: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None], cuts: list[int], random: Any
) -> None:
    probabilities, codes, weights = case
    order = list(range(len(codes)))
    random.shuffle(order)
    bounds = [min(cut, len(codes)) for cut in cuts]
    whole = tallied(probabilities, codes, weights)
    assert tallied(probabilities, codes, weights, np.array(order), bounds) == whole
    assert tallied(np.asfortranarray(probabilities), codes, weights, np.array(order), bounds) == whole


@quick
@given(judged())
def test_the_calibration_error_is_that_of_fifteen_bins_of_equal_width(
    case: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None],
) -> None:
    probabilities, codes, _ = case
    metrics, _ = tallied(probabilities, codes)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == codes
    expected = 0.0
    for number in range(15):
        inside = (confidence * 15 > number) & (confidence * 15 <= number + 1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics["expected_calibration_error"] == pytest.approx(expected, abs=1e-12)


def test_classes_that_the_model_does_not_know_are_named_and_count_as_wrong() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    metrics, evaluation = tallied(probabilities, np.array([0, 1, -1]))
    assert metrics["accuracy"] == 2 / 3
    assert metrics["log_loss"] > 29
    assert evaluation.unknown_class_predictions == (1, 0)
    assert evaluation.warnings == ("1 rows are of classes that the model does not know, and count as wrong: x.",)


def test_many_and_long_names_of_unknown_classes_are_cut() -> None:
    tally = ClassTally((False, True))
    names = ["z" * 500, *(f"class {number:02}" for number in range(20))]
    tally.add(np.full((21, 2), 0.5), np.full(21, -1), None, names)
    _, evaluation = tally.result()
    assert "class 09 and 11 more" in evaluation.warnings[0]
    assert len(evaluation.warnings[0]) < 300


def test_rows_beyond_the_limit_have_no_areas_and_the_warnings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes_module, "MOST_SCORES", 40)
    at_limit = tallied(np.full((20, 2), 0.5), np.arange(20) % 2)
    beyond = tallied(np.full((21, 2), 0.5), np.arange(21) % 2, cuts=[19])
    assert at_limit[0]["roc_auc"] == at_limit[0]["pr_auc"] == 0.5
    assert set(at_limit[0]) - set(beyond[0]) == {"roc_auc", "pr_auc"}
    assert beyond[1].warnings == ("roc_auc and pr_auc are left out: they are computed over at most 20 rows here.",)


def test_many_classes_have_no_confusion_matrix() -> None:
    tally = ClassTally(tuple(range(101)))
    tally.add(np.eye(101), np.arange(101))
    metrics, evaluation = tally.result()
    assert evaluation.confusion_matrix is None
    assert metrics["accuracy"] == metrics["roc_auc"] == metrics["pr_auc"] == 1
    assert metrics["expected_calibration_error"] == metrics["brier"] == 0


# Numbers

QUANTILES = (0.1, 0.5, 0.8)


@st.composite
def measured(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Three rising predictions a row, and targets, some of them 0 or all the same."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 60))
    scale, offset = draw(st.sampled_from((1e-6, 1.0, 1e9))), draw(st.sampled_from((0.0, -3.0)))
    targets = (random.integers(-3, 4, rows) + draw(st.sampled_from((0.0, 0.25)))).astype(np.float64) * scale
    if draw(st.booleans()):
        targets[:] = targets[0]
    values: NDArray[np.float64] = np.sort(random.normal(offset, 2, (rows, 3)), axis=1) * scale
    return values, targets


@quick
@given(measured())
def test_a_regression_has_scikit_learns_metrics(case: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    values, targets = case
    tally = NumberTally(QUANTILES, 1)
    tally.add(values, targets)
    metrics, evaluation = tally.result()
    value, kept = values[:, 1], targets != 0
    losses = [oracle.mean_pinball_loss(targets, values[:, i], alpha=q) for i, q in enumerate(QUANTILES)]
    expected = {
        "rmse": oracle.root_mean_squared_error(targets, value),
        "mae": oracle.mean_absolute_error(targets, value),
        # scikit-learn divides by the rounding error of the mean where all targets are the same
        "r2": oracle.r2_score(targets, value) if len(set(targets)) > 1 else 0.0,
        "quantile_loss": np.mean(losses),
        "coverage": np.mean((values[:, 0] <= targets) & (targets <= values[:, 2])),
    }
    if kept.any():
        expected["mape"] = oracle.mean_absolute_percentage_error(targets[kept], value[kept])
    assert metrics == pytest.approx(expected, rel=1e-12)
    assert evaluation.quantiles is not None
    assert [q.quantile for q in evaluation.quantiles] == list(QUANTILES)
    assert [q.loss for q in evaluation.quantiles] == pytest.approx(losses, rel=1e-12)
    assert [q.below for q in evaluation.quantiles] == [np.mean(targets <= values[:, i]) for i in range(3)]
    left_out = [warning for warning in evaluation.warnings if f"{(~kept).sum()} rows whose target is 0" in warning]
    assert len(left_out) == bool((~kept).any())


@quick
@given(measured(), st.lists(st.integers(0, 60), max_size=5), st.randoms(use_true_random=False))
def test_parts_and_order_of_rows_change_no_bit_of_a_regression(
    case: tuple[NDArray[np.float64], NDArray[np.float64]], cuts: list[int], random: Any
) -> None:
    values, targets = case
    order = list(range(len(targets)))
    random.shuffle(order)
    whole, parts = NumberTally(QUANTILES, 1), NumberTally(QUANTILES, 1)
    whole.add(values, targets)
    for start, stop in pairwise([0, *sorted(min(cut, len(targets)) for cut in cuts), len(targets)]):
        parts.add(values[order[start:stop]], targets[order[start:stop]])
    assert parts.result() == whole.result()


@pytest.mark.parametrize(("value", "r2"), [(3.0, 1.0), (3.1, 0.0)])
def test_r2_of_equal_targets_is_finite(value: float, r2: float) -> None:
    tally = NumberTally()
    tally.add(np.full((7, 1), value), np.full(7, 3.0))
    assert tally.result()[0]["r2"] == r2


@pytest.mark.parametrize(("center", "spread"), [(1e9, 100.0), (1e6, 0.1), (0.0, 1e-3), (-1e12, 1.0)])
def test_r2_is_exact_far_from_zero(center: float, spread: float) -> None:
    targets = center + spread * np.random.default_rng(1).normal(size=500)
    tally = NumberTally()
    tally.add(np.zeros((500, 1)), targets)
    exact = [Fraction(target) for target in targets.tolist()]
    mean = sum(exact) / len(exact)
    expected = 1 - sum(t * t for t in exact) / sum((t - mean) ** 2 for t in exact)
    assert tally.result()[0]["r2"] == pytest.approx(float(expected), rel=1e-12)


def test_what_is_too_large_to_be_told_is_left_out_and_named() -> None:
    tally = NumberTally((0.5,))
    tally.add(np.array([[1e308], [-1e308], [math.inf]]), np.array([-1e308, 1e308, 1.0]))
    metrics, evaluation = tally.result()
    assert metrics == {}
    assert evaluation.quantiles is None
    assert evaluation.warnings == ("Left out, for they are too large to be told: rmse, mae, r2, mape, quantile_loss.",)


def test_one_number_has_no_interval() -> None:
    tally = NumberTally((0.5,))
    tally.add(np.ones((3, 1)), np.array([1.0, 2.0, 3.0]))
    assert "coverage" not in tally.result()[0]


def test_metrics_of_no_rows_are_refused() -> None:
    for tally in (ClassTally(LABELS), NumberTally()):
        with pytest.raises(ValueError, match="at least one row"):
            tally.result()
