"""The network against finite differences, an autodiff library, and itself cut in pieces."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import autograd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import CorruptRecord
from common.network.activations import ACTIVATIONS
from common.network.embedding import Embedding
from common.network.losses import ClassLoss
from common.network.masks import DropoutMasks
from common.network.network import Network, Predictor
from common.network.parameters import ParameterLayout
from common.network.quiet import quiet
from common.network.saved import weights_from_bytes, weights_to_bytes
from common.network.structure import initialize, network_layout, parameter_count
from common.schemas.losses import CrossEntropy, Loss
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import Adam, Sgd
from tests.unit.networks import LOSSES, Case, Oracle, cases, central_differences, largest_error, make_case, one_of_each
from worker.optimizers import make_optimizer

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


EACH = [(name, shape, loss) for name, shape in one_of_each() for loss in LOSSES]
each = pytest.mark.parametrize(
    ("shape", "loss"), [(shape, loss) for _, shape, loss in EACH], ids=[f"{name}-{loss.kind}" for name, _, loss in EACH]
)


@each
def test_every_layer_activation_and_loss_that_can_meet_give_exact_gradients(shape: NetworkShape, loss: Loss) -> None:
    case = make_case(shape, 5, 3, loss, rows=6, seed=11, weighted=True, embeddings=(Embedding(1, 3, 2),))
    check_against_autodiff(case)
    check_against_differences(case)


def check_against_autodiff(case: Case) -> None:
    network, oracle = case.network(input_gradient=True), Oracle(case)
    assert case.gradients(network) == pytest.approx(float(oracle(case.parameters, case.x)), rel=1e-11, abs=1e-11)
    assert network.gradient is not None
    of_parameters, of_inputs = (autograd.grad(oracle, which)(case.parameters, case.x) for which in (0, 1))
    if oracle.kinks.nearest > 1e-12:
        assert largest_error(network.gradient, of_parameters) < 1e-10
        assert largest_error(network.input_gradient(len(case.x)), of_inputs) < 1e-10


def check_against_differences(case: Case) -> None:
    oracle = Oracle(case)
    oracle(case.parameters, case.x)
    if oracle.kinks.nearest < 1e-4:
        return  # a difference across a kink says nothing about the slope on either side
    network = case.network(input_gradient=True)
    case.gradients(network)
    assert network.gradient is not None
    gradient, of_inputs = network.gradient.copy(), network.input_gradient(len(case.x)).copy()
    probe = case.network()
    slopes = central_differences(lambda: case.gradients(probe), probe.parameters)
    assert largest_error(gradient, slopes) < 1e-6
    plain = [i for i in range(case.inputs) if i not in {embedding.place for embedding in case.embeddings}]
    slopes_of_inputs = central_differences(lambda: case.gradients(probe), case.x)
    assert largest_error(of_inputs[:, plain], slopes_of_inputs[:, plain]) < 1e-6


@quick
@given(cases(dropout=(0.0, 0.3)))
def test_gradients_equal_those_of_an_autodiff_library(case: Case) -> None:
    check_against_autodiff(case)


@quick
@given(cases(dropout=(0.0, 0.3)))
def test_gradients_equal_central_differences_of_the_loss(case: Case) -> None:
    check_against_differences(case)


@quick
@given(cases(dropout=(0.0, 0.3)))
def test_float32_gradients_are_close_to_float64_ones(case: Case) -> None:
    oracle = Oracle(case)
    oracle(case.parameters, case.x)
    if oracle.kinks.nearest < 1e-4:
        return  # rounding may fall on the other side
    exact, rounded = case.network(), case.network(np.float32)
    x, targets, weights = case.rounded()
    loss = case.gradients(exact)
    rounded_loss = rounded.gradients(x, targets, case.masks(), weights=weights)
    assert rounded_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert exact.gradient is not None
    assert rounded.gradient is not None
    assert rounded.gradient.dtype == np.float32
    assert largest_error(rounded.gradient, exact.gradient) < 1e-4


@quick
@given(cases(dropout=(0.0, 0.5)), st.data())
def test_gradients_of_unequal_parts_of_a_batch_add_up_to_the_whole(case: Case, data: st.DataObject) -> None:
    rows = len(case.x)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    network, part = case.network(), case.network()
    assert network.gradient is not None
    assert part.gradient is not None
    loss = case.gradients(network)
    total, total_loss = np.zeros_like(network.gradient), 0.0
    for first, last in zip([0, *cuts], [*cuts, rows], strict=True):
        weights = None if case.weights is None else case.weights[first:last]
        total_loss += part.gradients(case.x[first:last], case.targets[first:last], case.masks(), first, weights)
        total += part.gradient
    assert total_loss == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert largest_error(total, network.gradient) < 1e-12


@quick
@given(cases())  # without dropout: a repeated row would get a mask of its own
def test_a_row_of_weight_two_counts_like_two_rows_and_one_of_weight_zero_not_at_all(case: Case) -> None:
    rows = len(case.x)
    case.weights = (np.arange(rows) % 3).astype(np.float64)
    twice = np.repeat(np.arange(rows), np.arange(rows) % 3)
    network, repeated = case.network(), case.network(max_rows=2 * rows)
    repeated_loss = repeated.gradients(case.x[twice], case.targets[twice])
    assert case.gradients(network) == pytest.approx(repeated_loss, rel=1e-12, abs=1e-12)
    assert network.gradient is not None
    assert repeated.gradient is not None
    assert largest_error(network.gradient, repeated.gradient) < 1e-12


def test_weights_of_one_step_are_forgotten_in_the_next() -> None:
    for loss in LOSSES:
        case = make_case(NetworkShape(), 3, 2, loss, rows=5, seed=1, weighted=True)
        network, fresh = case.network(), case.network()
        case.gradients(network)
        case.weights = None
        assert case.gradients(network) == case.gradients(fresh)
        assert network.gradient is not None
        assert fresh.gradient is not None
        assert np.array_equal(network.gradient, fresh.gradient)


STEADY = [
    *(("dropout", shape, loss) for name, shape in one_of_each() if name == "dropout-gelu" for loss in LOSSES),
    *((name, shape, CrossEntropy()) for name, shape in one_of_each() if name.startswith(("residual", "dropout"))),
]


@pytest.mark.parametrize(
    ("shape", "loss"), [case[1:] for case in STEADY], ids=[f"{name}-{loss.kind}" for name, _, loss in STEADY]
)
def test_a_step_allocates_no_arrays(shape: NetworkShape, loss: Loss) -> None:
    case = make_case(shape, 8, 3, loss, rows=8192, seed=1, weighted=True, embeddings=(Embedding(2, 5, 3),))
    weights = case.weights
    assert weights is not None
    network = case.network()
    assert network.gradient is not None
    optimizers = [make_optimizer(spec, case.parameters, network.gradient) for spec in (Adam(), Sgd(momentum=0.9))]
    masks = case.masks()
    sizes = (8192, 8000)

    def steps() -> None:
        for rows in sizes:
            network.gradients(case.x[:rows], case.targets[:rows], masks, 5)
            network.gradients(case.x[:rows], case.targets[:rows], masks, 5, weights[:rows])
            network.outputs(case.x[:rows])
            for optimizer in optimizers:
                optimizer.step(1 / rows)

    steps()
    # Where numpy broadcasts or converts, it works through a buffer of its own of 8192 numbers, however large
    # the arrays. It is made small here so as not to hide an array.
    buffer_size = np.setbufsize(16)
    tracemalloc.start()
    try:
        steps()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(5):
            steps()
        after, peak = tracemalloc.get_traced_memory()
        arrays = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)]
        )
    finally:
        tracemalloc.stop()
        np.setbufsize(buffer_size)
    # The smallest array that a step could need holds a bool per row, 8 kB; views are some hundred bytes.
    assert peak - before < 6000
    assert after - before < 6000
    assert sum(trace.size for trace in arrays.traces) == 0


def test_no_rows_give_a_zero_gradient_and_no_loss() -> None:
    case = make_case(NetworkShape(), 3, 2, CrossEntropy(), rows=4, seed=1)
    network = case.network()
    assert network.gradients(case.x[:0], case.targets[:0]) == 0
    assert network.gradients(case.x[:0], case.targets[:0], weights=np.empty(0)) == 0
    assert network.gradient is not None
    assert not network.gradient.any()
    assert network.outputs(case.x[:0]).shape == (0, 2)


@quick
@given(cases(dropout=(0.0, 0.3)))
def test_evaluation_and_prediction_agree_and_know_no_dropout(case: Case) -> None:
    network = case.network()
    predictor = Predictor(case.shape, case.inputs, case.outputs, case.loss, case.parameters, case.embeddings)
    outputs = network.outputs(case.x)
    np.testing.assert_allclose(predictor.outputs(case.x), outputs, rtol=1e-12, atol=1e-12)
    weighted_loss = network.loss.forward(outputs, case.targets, case.weights)
    expected = float(Oracle(case, with_dropout=False)(case.parameters))
    assert weighted_loss == pytest.approx(expected, rel=1e-11, abs=1e-11)
    predicted = predictor.predict(case.x)
    if isinstance(network.loss, ClassLoss):
        np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-12)
        chosen = predicted[np.arange(len(case.x)), case.targets]
        log_loss = network.loss.log_loss(outputs, case.targets)
        if chosen.min() > 1e-30:
            assert -np.log(chosen).sum() == pytest.approx(log_loss, rel=1e-9, abs=1e-9)
    elif case.loss.kind == "quantile":
        np.testing.assert_array_equal(predicted, np.sort(outputs, axis=1))
    else:
        np.testing.assert_allclose(predicted, np.exp(outputs) if case.loss.kind == "poisson" else outputs, rtol=1e-12)


def test_threads_that_share_a_predictor_do_not_disturb_each_other() -> None:
    case = make_case(NetworkShape(), 20, 5, CrossEntropy(), rows=64, seed=2)
    parameters = case.parameters.astype(np.float32)
    parameters.flags.writeable = False
    predictor = Predictor(case.shape, 20, 5, case.loss, parameters)
    parts = [case.x[i::4].astype(np.float32) for i in range(4)]
    expected = [predictor.predict(part) for part in parts]
    wrong: list[int] = []

    def answer(i: int) -> None:
        wrong.extend(i for _ in range(200) if not np.array_equal(predictor.predict(parts[i]), expected[i]))

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_parameters_may_be_read_only_and_change_from_outside() -> None:
    case = make_case(NetworkShape(), 4, 3, CrossEntropy(), rows=5, seed=3)
    shared = case.parameters.copy()
    seen = shared.view()
    seen.flags.writeable = False
    network = Network(case.shape, 4, 3, case.loss, max_rows=5, parameters=seen, gradient=np.empty_like(shared))
    first = network.gradients(case.x, case.targets)
    network.gradients(case.x, case.targets)
    assert network.gradient is not None
    shared -= 0.01 * network.gradient
    assert network.gradients(case.x, case.targets) < first


def test_a_diverged_network_says_so_in_its_loss_without_a_warning() -> None:
    case = make_case(NetworkShape(), 4, 3, CrossEntropy(), rows=5, seed=3)
    case.parameters *= 1e30
    network = case.network(np.float32)
    with quiet():
        assert not np.isfinite(network.gradients(case.x.astype(np.float32), case.targets))


def test_what_does_not_fit_is_refused() -> None:
    case = make_case(NetworkShape(layers=(Dense(units=3, dropout=0.5),)), 4, 3, CrossEntropy(), rows=5, seed=3)
    network = case.network()
    with pytest.raises(ValueError, match="masks"):
        network.gradients(case.x, case.targets)
    with pytest.raises(ValueError, match="shape"):
        network.gradients(case.x[:, :3], case.targets, case.masks())
    with pytest.raises(ValueError, match="float64 inputs"):
        network.outputs(case.x.astype(np.float32))
    with pytest.raises(ValueError, match="6 rows are more than the 5"):
        network.outputs(np.zeros((6, 4)))
    for weights in (np.ones(4), np.ones((5, 1)), np.ones(5, np.float32)):
        with pytest.raises(ValueError, match="5 float64 weights"):
            network.gradients(case.x, case.targets, case.masks(), weights=weights)
    with pytest.raises(ValueError, match="5 int64 targets"):
        network.gradients(case.x, case.targets[:4], case.masks())
    with pytest.raises(ValueError, match="contiguous vector"):
        Network(case.shape, 4, 3, case.loss, max_rows=5, parameters=np.zeros(7))
    with pytest.raises(ValueError, match="the gradient is float32"):
        Network(
            case.shape,
            4,
            3,
            case.loss,
            max_rows=5,
            parameters=case.parameters,
            gradient=case.parameters.astype(np.float32),
        )
    evaluating = Network(case.shape, 4, 3, case.loss, max_rows=5, parameters=case.parameters)
    assert evaluating.outputs(case.x).shape == (5, 3)
    with pytest.raises(ValueError, match="evaluates only"):
        evaluating.gradients(case.x, case.targets, case.masks())


# The flat vector


def test_named_views_lie_back_to_back_and_share_the_vectors_memory() -> None:
    layout = network_layout(NetworkShape(layers=(Dense(units=3),)), inputs=2, outputs=4)
    assert layout.shapes == {
        "layer0.weights": (2, 3),
        "layer0.bias": (3,),
        "layer1.weights": (3, 4),
        "layer1.bias": (4,),
    }
    assert layout.size == 2 * 3 + 3 + 3 * 4 + 4
    vector = np.arange(layout.size, dtype=np.float32)
    views = layout.views(vector)
    assert np.array_equal(np.concatenate([view.ravel() for view in views.values()]), vector)
    views["layer1.weights"][0, 0] = -1
    assert vector[9] == -1
    with pytest.raises(ValueError, match="contiguous"):
        layout.views(np.zeros(2 * layout.size)[::2])


def test_parameters_are_counted_without_being_allocated() -> None:
    assert parameter_count(NetworkShape(layers=(Dense(units=512), Dense(units=256))), 784, 10) == 535_818
    tracemalloc.start()
    try:
        widest = NetworkShape(layers=(Dense(units=65_536),) * 64)
        assert parameter_count(widest, 65_536, 10) > 2**38
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_an_empty_layout_has_no_parameters() -> None:
    assert ParameterLayout({}).views(np.empty(0)) == {}


# Activations


def activate(name: str, z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """f(z) and f'(z)."""
    activation = ACTIVATIONS[name](z.dtype)
    output, scratch, derivative, gradient = z.copy(), np.empty_like(z), np.empty_like(z), np.ones_like(z)
    with quiet():
        for operation in activation.forward(output, scratch, derivative):
            operation()
        kept = derivative if activation.keeps_derivative else output
        for operation in activation.backward(kept.copy(), gradient, scratch):
            operation()
    return output, gradient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_stay_finite_far_from_zero(name: str, dtype: type[np.floating]) -> None:
    z = np.array([-1e30, -1e10, -1e4, -1000, -100, -89, 0, 89, 100, 1e4, 1e10, 1e30], dtype)
    output, gradient = activate(name, z)
    assert output.dtype == dtype
    assert np.isfinite(output).all()
    assert np.isfinite(gradient).all()
    limits = {
        "sigmoid": (0, 1),
        "tanh": (-1, 1),
        "elu": (-1, 1e30),
        "leaky_relu": (-1e28, 1e30),
        "identity": (-1e30, 1e30),
    }
    np.testing.assert_allclose(output[[0, -1]], limits.get(name, (0, 1e30)), atol=1e-30, rtol=1e-6)
    slopes = {"sigmoid": (0, 0), "tanh": (0, 0), "leaky_relu": (0.01, 1), "identity": (1, 1)}
    np.testing.assert_allclose(gradient[[0, -1]], slopes.get(name, (0, 1)), atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_pass_on_what_is_no_number(name: str) -> None:
    output, _ = activate(name, np.array([np.nan, -np.nan, 1.0]))
    assert list(np.isnan(output)) == [True, True, False]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_an_activation_keeps_may_serve_as_its_scratch(name: str) -> None:
    z = np.random.default_rng(0).normal(size=(5, 3))
    activation = ACTIVATIONS[name](np.float64)
    _, expected = activate(name, z)
    output, derivative, gradient = z.copy(), np.empty_like(z), np.ones_like(z)
    for operation in activation.forward(output, np.empty_like(z), derivative):
        operation()
    kept = derivative if activation.keeps_derivative else output
    for operation in activation.backward(kept, gradient, scratch=kept):
        operation()
    assert np.array_equal(gradient, expected)


# Dropout


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 1000),
    st.integers(1, 9),
    st.sampled_from((0.1, 0.5, 0.9)),
    st.lists(st.integers(0, 40), max_size=5),
)
@quick
def test_masks_do_not_depend_on_how_rows_are_split(
    seed: int, epoch: int, units: int, rate: float, cuts: list[int]
) -> None:
    whole = np.empty((40, units))
    DropoutMasks(seed, epoch).fill(2, rate, 0, whole)
    shared = DropoutMasks(seed, epoch)
    bounds = sorted(cuts)
    parts = list(zip([0, *bounds], [*bounds, 40], strict=True))
    for first, last in reversed(parts):  # out of order too
        part = np.empty((last - first, units), np.float32)
        shared.fill(2, rate, first, part)
        assert np.array_equal(part, whole[first:last].astype(np.float32))
        DropoutMasks(seed, epoch).fill(2, rate, first, part)
        assert np.array_equal(part, whole[first:last].astype(np.float32))


def test_masks_differ_between_seeds_epochs_layers_and_rows() -> None:
    def mask(seed: int, epoch: int, layer: int, first: int) -> bytes:
        out = np.empty((1, 64))
        DropoutMasks(seed, epoch).fill(layer, 0.5, first, out)
        return out.tobytes()

    # 2^32 + 5 is two 32-bit words, which must not be taken for seed 5 and something else.
    keys = [(5, 0, 0, 0), (5, 1, 0, 0), (5, 0, 1, 0), (5, 0, 0, 1), (6, 0, 0, 0), (5 + 2**32, 0, 0, 0)]
    assert len({mask(*key) for key in keys}) == len(keys)


def test_masks_drop_the_asked_share_and_keep_the_mean() -> None:
    out = np.empty((1000, 101), np.float32)
    DropoutMasks(7, 0).fill(0, 0.3, 0, out)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    deviation = (0.3 * 0.7 / out.size) ** 0.5
    assert abs(np.mean(out == 0) - 0.3) < 5 * deviation
    assert np.all(np.abs(np.mean(out == 0, axis=0) - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5)


# Initial weights


@pytest.mark.parametrize(
    ("activation", "variance"),
    [("relu", 2 / 300), ("tanh", 2 / (300 + 200)), ("sigmoid", 2 / (300 + 200))],
)
def test_initial_weights_have_the_papers_variance_and_the_output_a_hundredth_of_it(
    activation: Any, variance: float
) -> None:
    shape = NetworkShape(layers=(Dense(units=200, activation=activation),))
    vector = np.full(parameter_count(shape, 300, 50), np.nan)
    initialize(shape, 300, 50, np.random.default_rng(0), vector)
    views = network_layout(shape, 300, 50).views(vector)
    for weights, expected in ((views["layer0.weights"], variance), (views["layer1.weights"], 0.01 * 2 / 250)):
        count = weights.size
        assert abs(weights.mean()) < 5 * (expected / count) ** 0.5
        assert weights.var() == pytest.approx(expected, rel=5 * (2 / count) ** 0.5)
    largest = np.abs(views["layer0.weights"]).max()
    if activation == "relu":
        assert largest > 3 * variance**0.5  # normal: has tails
    else:
        assert largest <= (6 / 500) ** 0.5  # uniform: has none
    biases = views["layer0.bias"]
    assert 0.9 * 2 / 300**0.5 < np.abs(biases).max() <= 2 / 300**0.5  # uniform within 2 / sqrt(inputs)
    assert abs(biases.mean()) < 5 * 2 / (3 * 300 * 200) ** 0.5
    assert not views["layer1.bias"].any()


VARIANCES = {
    "he": (2 / 300, 2 / 200),
    "glorot": (2 / 500, 2 / 250),
    "lecun": (1 / 300, 1 / 200),
}


@pytest.mark.parametrize("form", ["normal", "uniform"])
@pytest.mark.parametrize("rule", sorted(VARIANCES))
def test_an_initializer_that_is_asked_for_draws_all_layers_with_its_papers_variance(rule: str, form: str) -> None:
    views = initialized({"kind": f"{rule}_{form}"})
    for layer, expected in enumerate(VARIANCES[rule]):
        weights = views[f"layer{layer}.weights"]
        assert abs(weights.mean()) < 5 * (expected / weights.size) ** 0.5
        assert weights.var() == pytest.approx(expected, rel=5 * (2 / weights.size) ** 0.5)
        assert (np.abs(weights).max() <= (3 * expected) ** 0.5) == (form == "uniform")
        assert not views[f"layer{layer}.bias"].any()


def test_orthogonal_weights_have_orthonormal_columns_and_normal_ones_their_deviation_in_biases_too() -> None:
    views = initialized({"kind": "orthogonal"})
    for layer in (0, 1):
        weights = views[f"layer{layer}.weights"]
        np.testing.assert_allclose(weights.T @ weights, np.eye(weights.shape[1]), atol=1e-12)
    views = initialized({"kind": "normal", "deviation": 3.0})
    for numbers in views.values():
        assert numbers.std() == pytest.approx(3, rel=5 / (2 * numbers.size) ** 0.5)


def initialized(initializer: dict[str, Any]) -> dict[str, Any]:
    shape = NetworkShape.model_validate({"layers": [{"kind": "dense", "units": 200}], "initializer": initializer})
    vector = np.full(parameter_count(shape, 300, 50), np.nan)
    initialize(shape, 300, 50, np.random.default_rng(0), vector)
    return dict(network_layout(shape, 300, 50).views(vector))


def test_initial_weights_do_not_depend_on_the_dtype() -> None:
    shape = NetworkShape(layers=(Dense(units=7), Dense(units=5, activation="tanh")))
    exact = np.empty(parameter_count(shape, 6, 3))
    rounded = np.empty(exact.size, np.float32)
    initialize(shape, 6, 3, np.random.default_rng(9), exact)
    initialize(shape, 6, 3, np.random.default_rng(9), rounded)
    assert np.array_equal(exact.astype(np.float32), rounded)


# Saved weights


def test_saved_weights_read_back_as_they_were() -> None:
    vector = np.random.default_rng(0).normal(size=100).astype(np.float32)
    saved = weights_to_bytes(vector)
    read = weights_from_bytes(saved, 100)
    assert np.array_equal(read, vector)
    assert saved[:4] == vector[:1].astype("<f4").tobytes()
    with pytest.raises(ValueError, match="read-only"):
        read[0] = 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda saved: saved[:-1], "bytes, not"),
        (lambda saved: saved + b"\0\0\0\0", "bytes, not"),
        (lambda _: b"", "bytes, not"),
        (lambda _: weights_to_bytes(np.full(100, np.nan, np.float32)), "not finite"),
    ],
)
def test_damaged_weights_are_refused(damage: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(CorruptRecord, match=reason):
        weights_from_bytes(damage(weights_to_bytes(np.zeros(100, np.float32))), 100)
