"""What the evaluation of a model on a data set asks and answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from common.schemas.models import Evaluation
from common.schemas.record import Record


class EvaluationRequest(Record):
    """What to evaluate a model on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"dataset_id": "ds_48ff0qyk8ww7nbvctabx3698y"}]},
    )

    dataset_id: Annotated[str, Field(description="A data set that has the model's inputs and its target.")]


class DatasetEvaluation(Evaluation):
    """How good a model is on a data set."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_id": "mdl_4s0ncz7ddbnryhwr1b0wezczw",
                    "dataset_id": "ds_48ff0qyk8ww7nbvctabx3698y",
                    "rows": 200,
                    "left_out": 3,
                    "metrics": {"accuracy": 0.925, "log_loss": 0.21, "balanced_accuracy": 0.9, "roc_auc": 0.97},
                    "classes": [
                        {
                            "label": "no",
                            "rows": 150,
                            "predicted": 155,
                            "precision": 0.9354838709677419,
                            "recall": 0.9666666666666667,
                            "f1": 0.9508196721311475,
                            "roc_auc": 0.97,
                            "pr_auc": 0.98,
                        },
                        {
                            "label": "yes",
                            "rows": 50,
                            "predicted": 45,
                            "precision": 0.8888888888888888,
                            "recall": 0.8,
                            "f1": 0.8421052631578947,
                            "roc_auc": 0.97,
                            "pr_auc": 0.93,
                        },
                    ],
                    "confusion_matrix": [[145, 5], [10, 40]],
                    "unknown_class_predictions": None,
                    "quantiles": None,
                    "warnings": [],
                }
            ]
        },
    )

    model_id: str
    """The job's id while it has no model yet."""
    dataset_id: str
    left_out: int
    """Rows without a target."""
    metrics: dict[str, float]
