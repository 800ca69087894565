"""What a caller can say of a network, through a whole stack, on real tables and what real tables hold."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from tests.conftest import RunningStack
from tests.integration.data import train, upload

pytestmark = pytest.mark.integration


def upload_frame(stack: RunningStack, name: str, frame: pl.DataFrame) -> str:
    body = io.BytesIO()
    frame.write_csv(body)
    headers = {"Content-Type": "text/csv"}
    answer = stack.client.call("POST", "/v1/datasets", params={"name": name}, content=body.getvalue(), headers=headers)
    return str(answer["id"])


def visits() -> pl.DataFrame:
    """Counts that depend on a shop, of which there are 150, and on the weather."""
    random = np.random.default_rng(3)
    rows, shops = 6000, 150
    shop, warmth = random.integers(0, shops, rows), random.normal(15, 8, rows).round(1)
    popularity = np.exp(random.normal(1.0, 0.7, shops))
    rate = popularity[shop] * np.exp(0.04 * (warmth - 15))
    return pl.DataFrame(
        {"shop": [f"shop {number}" for number in shop], "warmth": warmth, "visits": random.poisson(rate)}
    )


def trained(stack: RunningStack, **request: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    job = train(stack.client, {"training": {"seed": 1}, **request})
    assert job["state"] == "succeeded", job["error"]
    return job, stack.client.call("GET", f"/v1/jobs/{job['id']}/metrics")["data"]


def test_counts_of_many_categories_are_learned_with_vectors_for_the_categories(stack: RunningStack) -> None:
    frame = visits()
    dataset = upload_frame(stack, "visits", frame)
    job, _ = trained(
        stack,
        dataset_id=dataset,
        target="visits",
        task="regression",
        loss="poisson",
        training={"seed": 1, "epochs": 40},
        optimizer={"kind": "adam", "learning_rate": 0.003},
    )
    assert job["request"]["columns"]["shop"]["encoding"] == "embedding"
    mean = frame.group_by("shop").agg(pl.col("visits").mean().alias("mean"))
    by_shop = dict(zip(mean["shop"], mean["mean"], strict=True))
    instances = [{"shop": shop, "warmth": 15.0} for shop in by_shop]
    answers = stack.client.predict(job["model_id"], [*instances, {"shop": "never seen", "warmth": 15.0}])
    values = np.array([prediction["value"] for prediction in answers["predictions"]])
    assert (values > 0).all()
    assert np.corrcoef(values[:-1], list(by_shop.values()))[0, 1] > 0.9
    assert 0.2 * np.mean(list(by_shop.values())) < values[-1] < 5 * np.mean(list(by_shop.values()))


def test_quantiles_make_intervals_that_cover_what_they_say(stack: RunningStack) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-2, 2, (4000, 1)).round(3)
    y = (np.sin(2 * x[:, 0]) + (0.2 + 0.2 * np.abs(x[:, 0])) * random.standard_normal(4000)).round(4)
    dataset = upload(stack.client, "spread", x[:3000], y[:3000].tolist())
    job, _ = trained(
        stack,
        dataset_id=dataset,
        target="target",
        loss={"kind": "quantile", "quantiles": [0.05, 0.5, 0.95]},
        network={
            "layers": [
                {"kind": "dense", "units": 64, "activation": "silu"},
                {"kind": "residual", "layers": [{"kind": "layer_norm"}, {"kind": "dense", "units": 64}]},
            ]
        },
        optimizer="adamw",
        schedule={"kind": "warm_up", "epochs": 1, "then": "cosine"},
        training={"seed": 1, "epochs": 40},
    )
    answers = stack.client.predict(job["model_id"], x[3000:].tolist())["predictions"]
    low, middle, high = (np.array([a["quantiles"][name] for a in answers]) for name in ("0.05", "0.5", "0.95"))
    assert [answer["value"] for answer in answers] == middle.tolist()
    assert ((low <= middle) & (middle <= high)).all()
    covered = ((low <= y[3000:]) & (y[3000:] <= high)).mean()
    assert 0.84 < covered < 0.96
    wide = np.abs(x[3000:, 0]) > 1.5
    assert (high - low)[wide].mean() > 1.3 * (high - low)[~wide].mean()


def test_class_weights_find_more_of_the_rare_class(stack: RunningStack) -> None:
    columns, target = load_breast_cancer(return_X_y=True)
    random = np.random.default_rng(0)
    noisy = columns + 3 * columns.std(axis=0) * random.standard_normal(columns.shape)
    kept = np.concatenate([np.flatnonzero(target == 1), np.flatnonzero(target == 0)[:40]])
    dataset = upload(stack.client, "rare", noisy[kept].round(4), ["rare" if t == 0 else "common" for t in target[kept]])
    found = []
    for weights in (None, "balanced", {"rare": 9.0}):
        job, _ = trained(
            stack,
            dataset_id=dataset,
            target="target",
            class_weights=weights,
            network={"layers": [{"kind": "dense", "units": 16, "activation": "elu", "dropout": 0.2}]},
            loss={"kind": "cross_entropy", "label_smoothing": 0.05},
            regularization={"l2": 1e-3, "max_norm": 4.0},
        )
        answers = stack.client.predict(job["model_id"], noisy[kept][-40:].tolist())["predictions"]
        found.append(sum(answer["label"] == "rare" for answer in answers))
    assert min(found[1:]) > found[0]


def test_the_metrics_tell_of_each_layers_health_and_an_event_of_what_goes_wrong(stack: RunningStack) -> None:
    columns, target = load_diabetes(return_X_y=True)
    dataset = upload(stack.client, "diabetes", columns.round(5), target.tolist())
    job, rows = trained(
        stack,
        dataset_id=dataset,
        target="target",
        network={
            "layers": [{"kind": "dense", "units": 16, "activation": "sigmoid"}],
            "initializer": {"kind": "normal", "deviation": 100.0},
        },
        schedule={"kind": "reduce_on_plateau", "patience": 0, "factor": 0.5, "threshold": 0.5},
        training={"seed": 1, "epochs": 6},
        stopping={"patience": None},
    )
    assert set(rows[0]["layers"]) == {"layer0", "layer1"}
    assert rows[0]["layers"]["layer0"]["saturated"] > 0.9
    assert rows[-1]["layers"]["layer1"]["gradient_norm"] > 0
    assert rows[-1]["layers"]["layer1"]["update_norm"] > 0
    events = stack.client.call("GET", f"/v1/jobs/{job['id']}/events")["data"]
    warnings = [event["data"]["message"] for event in events if event["kind"] == "warning"]
    assert any("saturated" in warning for warning in warnings)
    assert any("learning rate is now" in warning for warning in warnings)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adagrad", "adadelta", "rmsprop"])
@pytest.mark.slow
def test_every_optimizer_learns_through_the_stack(stack: RunningStack, optimizer: str) -> None:
    columns, target = load_breast_cancer(return_X_y=True)
    dataset = upload(stack.client, "cancer", columns.round(4), target.tolist())
    job, _ = trained(stack, dataset_id=dataset, target="target", optimizer=optimizer, loss="quadratic")
    assert job["metrics"]["accuracy"] > 0.9


def test_the_mean_of_the_weights_from_the_best_epoch_on_is_kept_where_it_is_better(stack: RunningStack) -> None:
    x, y = load_diabetes(return_X_y=True)
    dataset = upload(stack.client, "diabetes", x, y.tolist())
    averaged = []
    for seed in range(1, 5):
        job, rows = trained(
            stack,
            dataset_id=dataset,
            target="target",
            training={"seed": seed, "batch_size": 16},
            optimizer={"kind": "adam", "learning_rate": 0.01},
            validation={"kind": "random", "fraction": 0.3},
            stopping={"patience": 6},
        )
        model = stack.client.call("GET", f"/v1/models/{job['model_id']}")
        best = min(rows, key=lambda row: row["validation_loss"])
        averaged.append(model["lineage"]["averaged_epochs"])
        assert averaged[-1] in (1, 1 + len(rows) - best["epoch"])
        assert model["metrics"] == job["metrics"]
        if averaged[-1] == 1:
            assert best["metrics"].items() <= job["metrics"].items()
        else:
            assert job["metrics"]["rmse"] < best["metrics"]["rmse"]
    assert max(averaged) == 7
