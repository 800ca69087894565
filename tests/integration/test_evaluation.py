"""How good a model is: after its training, and on any data set, through a whole stack."""

from __future__ import annotations

import io
import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as oracle

from service.client import ApiError
from tests.conftest import RunningStack
from tests.integration.data import await_job, endless, train, upload_noise
from tests.integration.test_cli import chainrule

pytestmark = pytest.mark.integration
Job = dict[str, Any]


def upload(stack: RunningStack, frame: pl.DataFrame) -> str:
    body = io.BytesIO()
    frame.write_parquet(body)
    headers = {"Content-Type": "application/vnd.apache.parquet"}
    answer = stack.client.call(
        "POST", "/v1/datasets", params={"name": "judged"}, content=body.getvalue(), headers=headers
    )
    return str(answer["id"])


def fruit(rows: int, seed: int) -> pl.DataFrame:
    """Fruit whose kind can be told from its color, size and weight, but not always; some values are missing."""
    random = np.random.default_rng(seed)
    color, is_big = random.choice(["red", "blue", "green"], rows), random.random(rows) < 0.5
    weight = random.normal(np.where(is_big, 10.0, 5.0), 2.0)
    score = (color == "blue") + (weight > 8) + 0.3 * random.normal(size=rows)
    kind = np.select([score > 1.4, score > 0.5], ["plum", "apple"], "fig")
    return pl.DataFrame(
        {
            "color": [None if gap else str(value) for value, gap in zip(color, random.random(rows) < 0.1, strict=True)],
            "is_big": is_big,
            "weight": [None if gap else value for value, gap in zip(weight, random.random(rows) < 0.1, strict=True)],
            "kind": kind,
            "importance": random.integers(1, 4, rows),
        }
    )


def prices(rows: int, seed: int) -> pl.DataFrame:
    """Numbers, a tenth of which are exactly 0."""
    random = np.random.default_rng(seed)
    size = random.uniform(0, 10, rows)
    price = 100 + 30 * size + 10 * size * random.normal(size=rows)
    return pl.DataFrame({"size": size, "price": np.where(random.random(rows) < 0.1, 0.0, price)})


def orders(rows: int, seed: int) -> pl.DataFrame:
    """A kind that depends on a time, on the number of a shop and on an amount, some of which are told in words."""
    random = np.random.default_rng(seed)
    day, shop, amount = random.integers(0, 700, rows), random.integers(1, 6, rows), random.normal(50, 20, rows).round(1)
    return pl.DataFrame(
        {
            "when": pl.Series([date(2023, 1, 1) + timedelta(days=int(days)) for days in day]),
            "shop": shop,
            "amount": [
                "a few" if few else str(value) for few, value in zip(random.random(rows) < 0.1, amount, strict=True)
            ],
            "kind": np.where((shop < 3) ^ (amount > 50) ^ (day % 7 < 2), "sale", "return"),
        }
    )


@pytest.fixture(scope="module")
def fruit_job(stack: RunningStack) -> Job:
    dataset = upload(stack, fruit(1500, 0))
    request = {
        "target": "kind",
        "name": "judged fruit",
        "weight_column": "importance",
        "training": {"seed": 1, "epochs": 15},
    }
    return train(stack.client, {"dataset_id": dataset, **request})


@pytest.fixture(scope="module")
def price_job(stack: RunningStack) -> Job:
    return train(
        stack.client,
        {
            "dataset_id": upload(stack, prices(1500, 0)),
            "target": "price",
            "loss": {"kind": "quantile", "quantiles": [0.1, 0.5, 0.9]},
            "training": {"seed": 1, "epochs": 15},
        },
    )


def evaluated(stack: RunningStack, reference: str, dataset: str) -> dict[str, Any]:
    return dict(stack.client.call("POST", f"/v1/models/{reference}/evaluate", json={"dataset_id": dataset}))


def test_a_job_and_its_model_tell_every_metric_of_the_best_weights(stack: RunningStack, fruit_job: Job) -> None:
    model = stack.client.call("GET", f"/v1/models/{fruit_job['model_id']}")
    assert fruit_job["metrics"] == model["metrics"]
    best = stack.client.call("GET", f"/v1/jobs/{fruit_job['id']}/metrics")["data"]
    best = best[fruit_job["progress"]["best_epoch"] - 1]["metrics"]
    assert set(best) == {"accuracy", "log_loss"}
    if model["lineage"]["averaged_epochs"] == 1:
        assert best.items() <= model["metrics"].items()
    assert set(model["metrics"]) == {
        *best,
        "balanced_accuracy",
        *(f"{name}_{mean}" for name in ("precision", "recall", "f1") for mean in ("macro", "weighted")),
        *("roc_auc", "pr_auc", "brier", "expected_calibration_error"),
    }
    evaluation = model["evaluation"]
    assert [c["label"] for c in evaluation["classes"]] == ["apple", "fig", "plum"] == model["output"]["classes"]
    matrix = np.array(evaluation["confusion_matrix"])
    assert matrix.sum() == evaluation["rows"] == sum(c["rows"] for c in evaluation["classes"])
    assert matrix.trace() / evaluation["rows"] == model["metrics"]["accuracy"]
    listed = stack.client.call("GET", "/v1/models", params={"name": model["name"]})["data"]
    assert [one["evaluation"] for one in listed if one["id"] == model["id"]] == [None]


def test_the_data_set_of_a_training_without_validation_gives_the_metrics_of_the_model(stack: RunningStack) -> None:
    cases: list[tuple[str, pl.DataFrame, dict[str, Any]]] = [
        ("kind", fruit(300, 5).drop("importance"), {}),
        ("price", prices(300, 5), {}),
        ("kind", orders(300, 5), {"shop": {"kind": "categorical"}, "amount": {"kind": "numeric"}}),
    ]
    for target, frame, columns in cases:
        dataset = upload(stack, frame)
        how = {"target": target, "validation": "none", "columns": columns, "training": {"seed": 1, "epochs": 5}}
        job = train(stack.client, {"dataset_id": dataset, **how})
        answer = evaluated(stack, job["model_id"], dataset)
        assert answer["metrics"] == pytest.approx(job["metrics"], rel=1e-4)
        evaluation = stack.client.call("GET", f"/v1/models/{job['model_id']}")["evaluation"]
        assert evaluation["rows"] == answer["rows"] == 300
        assert evaluation["confusion_matrix"] == answer["confusion_matrix"]
        assert evaluation["warnings"] == answer["warnings"]
        empty = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in frame.columns if name != target)
        assert evaluated(stack, job["model_id"], upload(stack, empty))["rows"] == 300


def test_an_evaluation_of_classes_is_scikit_learns_of_the_predictions(stack: RunningStack, fruit_job: Job) -> None:
    frame = fruit(1200, 7).select("weight", "importance", "kind", "is_big", "color")  # in another order
    kind = pl.Series([*frame["kind"][:1100], *["pear", "melon"] * 25, *[None] * 50])
    dataset = upload(stack, frame.with_columns(kind=kind))
    answer = evaluated(stack, fruit_job["id"], dataset)
    frame, labels = frame[:1150], kind[:1150].to_list()
    instances = frame.select("color", "is_big", "weight").to_dicts()
    predictions = stack.client.predict(fruit_job["model_id"], instances)["predictions"]
    predicted = [p["label"] for p in predictions]
    probabilities = np.array([list(p["probabilities"].values()) for p in predictions])
    truth = np.array(labels)[:, None] == ["apple", "fig", "plum"]
    metrics = answer["metrics"]
    assert (answer["rows"], answer["left_out"]) == (1150, 50)
    assert (answer["model_id"], answer["dataset_id"]) == (fruit_job["model_id"], dataset)
    chosen = np.maximum((probabilities * truth).sum(axis=1), np.finfo(np.float32).tiny)
    expected = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": np.sum(oracle.recall_score(labels, predicted, average=None, zero_division=0)) / 5,
        "f1_macro": oracle.f1_score(labels, predicted, average="macro", zero_division=0),
        "precision_weighted": oracle.precision_score(labels, predicted, average="weighted", zero_division=0),
        "roc_auc": np.mean([oracle.roc_auc_score(truth[:, i], probabilities[:, i]) for i in range(3)]),
        "pr_auc": oracle.average_precision_score(truth, probabilities),
        "log_loss": np.average(-np.log(chosen), weights=frame["importance"]),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert metrics["accuracy"] > 0.75
    matrix = oracle.confusion_matrix(labels, predicted, labels=["apple", "fig", "plum", "melon", "pear"])
    assert answer["confusion_matrix"] == matrix[:3, :3].tolist()
    assert answer["unknown_class_predictions"] == matrix[3:, :3].sum(axis=0).tolist()
    assert answer["warnings"] == [
        "50 rows are of classes that the model does not know, and count as wrong: melon, pear."
    ]
    assert evaluated(stack, "judged-fruit", dataset) == answer


def test_an_evaluation_of_numbers_is_scikit_learns_of_the_predictions(stack: RunningStack, price_job: Job) -> None:
    frame = prices(1000, 7)
    answer = evaluated(stack, price_job["model_id"], upload(stack, frame))
    predictions = stack.client.predict(price_job["model_id"], frame.select("size").to_dicts())["predictions"]
    truth, value = frame["price"].to_numpy(), np.array([p["value"] for p in predictions])
    levels = {q: np.array([p["quantiles"][f"{q:g}"] for p in predictions]) for q in (0.1, 0.5, 0.9)}
    losses = [oracle.mean_pinball_loss(truth, level, alpha=q) for q, level in levels.items()]
    kept = truth != 0
    expected = {
        "rmse": oracle.root_mean_squared_error(truth, value),
        "mae": oracle.mean_absolute_error(truth, value),
        "r2": oracle.r2_score(truth, value),
        "mape": oracle.mean_absolute_percentage_error(truth[kept], value[kept]),
        "quantile_loss": np.mean(losses),
        "coverage": np.mean((levels[0.1] <= truth) & (truth <= levels[0.9])),
    }
    assert answer["metrics"] == pytest.approx(expected, rel=1e-9)
    assert [(q["quantile"], q["below"]) for q in answer["quantiles"]] == [
        (q, np.mean(truth <= level)) for q, level in levels.items()
    ]
    assert answer["warnings"] == [f"mape leaves out {(~kept).sum()} rows whose target is 0."]
    assert set(price_job["metrics"]) == set(expected)
    assert price_job["metrics"]["mape"] < 10  # a 0 that was rounded away would make it astronomical


def test_a_running_job_is_evaluated_by_its_best_weights_so_far(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    checkpoints = f"/v1/jobs/{job_id}/checkpoints"
    await_job(stack.client, job_id, lambda _: stack.client.call("GET", checkpoints)["data"])
    answer = evaluated(stack, job_id, dataset)
    assert (answer["model_id"], answer["rows"]) == (job_id, 4000)
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")


def test_the_command_tells_the_metrics_and_what_they_are_made_of(
    stack: RunningStack, fruit_job: Job, price_job: Job
) -> None:
    dataset = upload(stack, fruit(100, 3))
    told = chainrule(stack.url, "evaluate", fruit_job["model_id"], dataset)
    assert told.returncode == 0, told.stderr
    assert "100 rows" in told.stdout
    assert "balanced_accuracy 0." in told.stdout
    assert "plum" in told.stdout
    answer = chainrule(stack.url, "evaluate", fruit_job["model_id"], dataset, "--json")
    assert json.loads(answer.stdout) == evaluated(stack, fruit_job["model_id"], dataset)
    told = chainrule(stack.url, "evaluate", price_job["model_id"], upload(stack, prices(100, 3)))
    assert "coverage 0." in told.stdout
    assert "note: mape leaves out" in told.stderr
    for wrong, complaint in (("ds_" + "0" * 25, "dataset_not_found"), ("ds_nothing", "no id of a data set")):
        refused = chainrule(stack.url, "evaluate", fruit_job["model_id"], wrong)
        assert refused.returncode == 1
        assert complaint in refused.stderr


def test_what_a_data_set_lacks_is_named_all_at_once(stack: RunningStack, fruit_job: Job, price_job: Job) -> None:
    frame = fruit(60, 1)

    def refused(job: Job, frame: pl.DataFrame) -> str:
        with pytest.raises(ApiError) as refusal:
            evaluated(stack, job["model_id"], upload(stack, frame))
        assert "(invalid_request)" in str(refusal.value)
        return str(refusal.value)

    found = refused(fruit_job, frame.select("is_big", weight=pl.col("kind"), shape=pl.col("color")))
    assert "has no column color, an input of the model" in found
    assert "has no column kind, the target of the model" in found
    assert "the column weight holds texts; the model needs numbers" in found
    found = refused(fruit_job, frame.with_columns(kind=pl.Series(range(60)), is_big=pl.Series(range(60))))
    assert "the column is_big holds numbers; the model needs booleans" in found
    assert "the column kind cannot be compared with the model's target: it must hold texts" in found
    found = refused(price_job, frame.select("weight", size="weight", price="kind"))
    assert "the column price cannot be compared with the model's target: it must hold numbers" in found
    found = refused(fruit_job, frame.with_columns(kind=pl.lit(None, pl.String)))
    assert "no row has a value for the target kind" in found


def test_an_unknown_data_set_or_model_is_not_found_and_a_body_is_read_strictly(
    stack: RunningStack, fruit_job: Job
) -> None:
    unknown = f"ds_{'0' * 25}"
    with pytest.raises(ApiError, match="dataset_not_found"):
        evaluated(stack, fruit_job["model_id"], unknown)
    with pytest.raises(ApiError, match="model_not_found"):
        evaluated(stack, "nobody", unknown)
    path = f"/v1/models/{fruit_job['model_id']}/evaluate"
    for body in ({}, {"dataset_id": 7}, {"dataset_id": unknown, "more": 1}):
        with pytest.raises(ApiError, match="invalid_request"):
            stack.client.call("POST", path, json=body)


def test_an_input_without_any_value_is_a_missing_one_in_every_row(stack: RunningStack, fruit_job: Job) -> None:
    frame = fruit(80, 2).with_columns(weight=pl.lit(None, pl.Float64), color=pl.lit(None, pl.String))
    answer = evaluated(stack, fruit_job["model_id"], upload(stack, frame))
    instances = [{"color": None, "is_big": is_big, "weight": None} for is_big in frame["is_big"]]
    predictions = stack.client.predict(fruit_job["model_id"], instances)["predictions"]
    right = [p["label"] == kind for p, kind in zip(predictions, frame["kind"], strict=True)]
    assert answer["metrics"]["accuracy"] == np.mean(right)


def test_weights_of_the_training_that_a_data_set_lacks_are_told(stack: RunningStack, fruit_job: Job) -> None:
    answer = evaluated(stack, fruit_job["model_id"], upload(stack, fruit(80, 2).drop("importance")))
    assert any("log_loss counts every row once" in warning for warning in answer["warnings"])


def test_rows_that_are_gone_or_damaged_are_told(stack: RunningStack, fruit_job: Job) -> None:
    dataset = upload(stack, fruit(80, 2))
    file = stack.state_dir / "data" / "datasets" / f"{dataset}.parquet"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4] + bytes(len(whole) - 300) + whole[-296:]):
        file.write_bytes(damaged)
        with pytest.raises(ApiError, match="corrupt_record"):
            evaluated(stack, fruit_job["model_id"], dataset)
    file.unlink()
    with pytest.raises(ApiError, match="dataset_not_found"):
        evaluated(stack, fruit_job["model_id"], dataset)


def test_a_value_too_far_from_those_of_training_is_named(stack: RunningStack, fruit_job: Job) -> None:
    frame = fruit(80, 2).with_columns(weight=pl.when(pl.int_range(pl.len()) == 40).then(1e300).otherwise("weight"))
    with pytest.raises(ApiError, match=r"(?s)invalid_data.*row 41, column weight"):
        evaluated(stack, fruit_job["model_id"], upload(stack, frame))


def test_the_log_loss_of_a_model_does_not_depend_on_the_weights_of_classes(stack: RunningStack) -> None:
    random = np.random.default_rng(4)
    x = random.normal(size=600).round(3)
    frame = pl.DataFrame({"x": x, "rare": (x + random.normal(size=600) > 1.5)})
    dataset, judge = upload(stack, frame.head(400)), upload(stack, frame.tail(200))
    job = train(
        stack.client,
        {
            "dataset_id": dataset,
            "target": "rare",
            "class_weights": "balanced",
            "validation": {"kind": "dataset", "dataset_id": judge},
            "training": {"epochs": 5, "seed": 1},
        },
    )
    again = evaluated(stack, job["model_id"], judge)
    assert again["metrics"] == pytest.approx(job["metrics"], rel=1e-5)
