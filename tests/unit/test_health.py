"""What a training is told of its gradients and units, and when."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.network.health import LayerHealth, gradient_norms, merge, unit_health, update_norms
from common.network.network import Network
from common.network.structure import initialize, network_layout
from common.schemas.losses import CrossEntropy
from common.schemas.network import Dense, NetworkShape, Residual
from worker.health_rule import HealthRule

SHAPE = NetworkShape(layers=(Dense(units=4), Dense(units=3, activation="tanh"), Dense(units=2, activation="sigmoid")))


def test_norms_are_taken_layer_by_layer() -> None:
    layout = network_layout(SHAPE, 5, 2)
    vector = np.arange(1.0, layout.size + 1)
    for layer, health in enumerate(gradient_norms(layout, vector, 2.0)):
        names = [f"layer{layer}.weights", f"layer{layer}.bias"]
        whole = np.concatenate([vector[layout.slices[name]] for name in names])
        assert health.name == f"layer{layer}"
        assert health.gradient_norm == pytest.approx(np.linalg.norm(whole) / 2)
    assert gradient_norms(layout, vector, 0.0) == ()
    assert [h.update_norm for h in update_norms(layout, vector, vector)] == [0.0] * 4


def test_dead_and_saturated_units_are_counted() -> None:
    inner = Residual(layers=(Dense(units=4),))
    shape = NetworkShape(layers=(*SHAPE.layers[:1], inner, *SHAPE.layers[1:], Dense(units=2, activation="gelu")))
    layout = network_layout(shape, 5, 2)
    parameters = np.zeros(layout.size)
    initialize(shape, 5, 2, np.random.default_rng(0), parameters)
    views = layout.views(parameters)
    views["layer0.weights"][:, :3] = 0
    views["layer0.bias"][:3] = [-1, -1, 1]
    views["layer1.0.weights"][...] = 0
    views["layer1.0.bias"][...] = [-1, 1, 1, 1]
    views["layer2.bias"][...] = [100, 0, 0]
    views["layer2.weights"][...] = 0
    views["layer3.bias"][...] = [100, -100]
    views["layer3.weights"][...] = 0
    network = Network(shape, 5, 2, CrossEntropy(), max_rows=50, parameters=parameters)
    network.outputs(np.random.default_rng(1).normal(size=(50, 5)))
    health = {layer.name: layer for layer in unit_health(network.last)}
    assert sorted(health) == ["layer0", "layer1.0", "layer2", "layer3"]
    assert (health["layer0"].dead, health["layer0"].saturated) == (0.5, None)
    assert health["layer1.0"].dead == 0.25
    assert health["layer2"].saturated == pytest.approx(1 / 3)
    assert health["layer3"].saturated == 1


def test_what_is_known_of_a_layer_from_two_sides_is_put_together() -> None:
    parts = (LayerHealth("a", gradient_norm=1.0), LayerHealth("b"), LayerHealth("a", dead=0.5))
    assert merge(parts) == (LayerHealth("a", gradient_norm=1.0, dead=0.5), LayerHealth("b"))


def epoch(**norms: float) -> list[LayerHealth]:
    return [LayerHealth(name, gradient_norm=norm) for name, norm in norms.items()]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (epoch(layer0=1e-6, layer1=1.0), "vanish"),
        (epoch(layer0=5e3, layer1=1.0), "explode"),
        ([LayerHealth("layer0", dead=0.75)], "75% of the units of layer0 are 0"),
        ([LayerHealth("layer0", saturated=0.95)], "saturated"),
    ],
)
def test_what_goes_wrong_three_epochs_in_a_row_is_told_once(bad: list[LayerHealth], word: str) -> None:
    rule, good = HealthRule(), epoch(layer0=1.0, layer1=1.0)
    assert rule.note(good) == []
    assert rule.note(bad) == rule.note(bad) == []
    assert rule.note(good) == []  # not in a row
    assert rule.note(bad) == rule.note(bad) == []
    resumed = HealthRule()
    resumed.restore(json.loads(json.dumps(rule.document())))
    messages = resumed.note(bad)
    assert len(messages) == 1
    assert word in messages[0]
    for health in (bad, good, bad, bad, bad, bad):
        assert resumed.note(health) == []


def test_a_layer_without_a_gradient_at_first_is_compared_with_the_first_one_it_has() -> None:
    rule = HealthRule()
    for norm in (0.0, 20.0, 20.0, 20.0, 20.0):
        assert rule.note(epoch(layer0=norm, layer1=1.0)) == []
    messages = [rule.note(epoch(layer0=1e5, layer1=1.0)) for _ in range(3)]
    assert "5,000 times what they were" in messages[-1][0]


def test_gradients_that_are_all_small_have_not_vanished() -> None:
    rule = HealthRule()
    for norm in (1.0, 1e-3, 1e-9, 1e-12, 0.0, 0.0, 0.0):
        assert rule.note(epoch(layer0=norm, layer1=norm)) == []
