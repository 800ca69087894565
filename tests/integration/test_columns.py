"""What a caller can say of columns and of the rows that judge, through a whole stack."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from service.client import ApiError
from tests.conftest import RunningStack
from tests.integration.test_network_options import trained, upload_frame

pytestmark = pytest.mark.integration


def rents() -> pl.DataFrame:
    """Hourly rents of bicycles of three stations: by hour, by weekday, by station, skewed, with gaps."""
    random = np.random.default_rng(5)
    rows = 6000
    hours = random.integers(0, 24 * 365, rows)
    moments = [datetime(2023, 1, 1, tzinfo=UTC) + timedelta(hours=int(hour)) for hour in hours]
    station = random.integers(0, 3, rows)
    crowd = np.exp(random.normal(0, 1.5, rows))
    base = 3 + 2 * np.sin(2 * np.pi * (hours % 24 - 6) / 24) + np.array([m.weekday() < 5 for m in moments]) + station
    rents = base + np.log1p(crowd) + random.normal(0, 0.1, rows)
    return pl.DataFrame(
        {
            "at": [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments],
            "station": station,
            "crowd": [
                None if gap else round(float(c), 4) for c, gap in zip(crowd, random.random(rows) < 0.1, strict=True)
            ],
            "note": [f"remark {n}" for n in range(rows)],
            "rents": rents.round(3),
        }
    )


OPTIONS: dict[str, Any] = {
    "station": {"kind": "categorical"},
    "crowd": {"scale": "log", "missing": {"kind": "median", "indicator": True}},
}


def test_times_categories_and_gaps_are_learned_from_as_they_were_asked_for(stack: RunningStack) -> None:
    dataset = upload_frame(stack, "rents", rents())
    job, _ = trained(
        stack,
        dataset_id=dataset,
        target="rents",
        columns=OPTIONS,
        training={"seed": 1, "epochs": 30},
        optimizer={"kind": "adam", "learning_rate": 0.003},
        validation={"kind": "time", "column": "at", "fraction": 0.2},
    )
    assert job["request"]["features"] == ["at", "station", "crowd"]
    assert job["metrics"]["rmse"] < 0.4  # the spread of the target is 1.9, the noise 0.1, and a tenth has no crowd
    inputs = {column["name"]: column for column in stack.client.call("GET", f"/v1/models/{job['model_id']}")["inputs"]}
    assert inputs["at"]["kind"] == "datetime"
    assert inputs["station"] == {"name": "station", "kind": "categorical", "categories": ["0", "1", "2"]}
    noon, night = ({"at": f"2023-06-07T{hour}:00:00Z", "station": 1, "crowd": None} for hour in ("12", "00"))
    at_noon, at_night = (p["value"] for p in stack.client.predict(job["model_id"], [noon, night])["predictions"])
    assert at_noon - at_night == pytest.approx(4, abs=0.6)
    evaluated = stack.client.call("POST", f"/v1/models/{job['model_id']}/evaluate", json={"dataset_id": dataset})
    assert evaluated["metrics"]["rmse"] < 0.4
    with pytest.raises(ApiError, match="expected a date or time"):
        stack.client.predict(job["model_id"], [{**noon, "at": "noon"}])


def test_rows_of_a_value_judge_and_what_does_not_fit_the_columns_is_told_at_once(stack: RunningStack) -> None:
    frame = rents().with_columns(pl.Series("part", ["train", "train", "train", "test"] * 1500))
    dataset = upload_frame(stack, "parted", frame)
    request: dict[str, Any] = {
        "dataset_id": dataset,
        "target": "rents",
        "validation": {"kind": "column", "column": "part", "value": "test"},
    }
    job, _ = trained(stack, **request, training={"seed": 1, "epochs": 1})
    assert "part" not in job["request"]["features"]
    assert job["progress"]["rows_seen"] == 4500
    judge = upload_frame(stack, "later", frame.tail(500))
    judged, _ = trained(
        stack,
        dataset_id=dataset,
        target="rents",
        validation={"kind": "dataset", "dataset_id": judge},
        training={"seed": 1, "epochs": 1},
    )
    assert judged["progress"]["rows_seen"] == 6000
    wrong = {
        **request,
        "columns": {"at": {"scale": "log"}, "crowd": {"missing": "error"}},
        "validation": {"kind": "column", "column": "part", "value": 3},
    }
    answer = stack.client.call("POST", "/v1/jobs", params={"dry_run": True}, json=wrong)
    assert {(fault["pointer"], fault["code"]) for fault in answer["errors"]} == {
        ("/columns/at/scale", "unsuitable_column"),
        ("/columns/crowd/missing", "missing_values"),
        ("/validation/value", "unsuitable_column"),
    }
