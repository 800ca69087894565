"""What is asked for when a whole data set is to be predicted."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from common.schemas.record import Record
from common.schemas.training import Labels, Name, Priority


class BatchPrediction(Record):
    """A stored data set whose rows are to be predicted; it needs the model's inputs under their names."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y"},
                {
                    "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
                    "name": "customers of May",
                    "priority": 10,
                    "labels": {"team": "sales"},
                },
            ]
        }
    )

    dataset_id: Annotated[str, Field(max_length=100)]
    name: Name | None = None
    """Of the job."""
    priority: Priority = 0
    """Higher starts first, among all jobs."""
    labels: Labels = {}


class BatchPredictionRequest(BatchPrediction):
    """The same with the model that its reference stood for."""

    model_id: str
