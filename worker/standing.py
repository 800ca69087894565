"""Where a training stands between two segments, as its driver knows it: a checkpoint holds it beside the arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.exact_sum import exact_parts
from common.network.health import LayerHealth
from common.network.metrics import MetricSums
from common.schemas.jobs import Progress
from worker.health_rule import HealthRule
from worker.parameter_server import Told
from worker.schedules import Plateau
from worker.stopping import StoppingRule
from worker.task import SegmentSums


@dataclass(slots=True)
class Tally:
    """What was seen of the epoch in work."""

    rows: int = 0
    losses: tuple[float, ...] = ()
    """Numbers whose exact sum is that over all rows."""
    weights: tuple[float, ...] = ()
    seconds: float = 0.0
    """Summed over the workers."""
    waiting: float = 0.0
    told: Told = field(default_factory=Told)
    health: list[LayerHealth] = field(default_factory=list)
    evaluation: list[MetricSums] = field(default_factory=list)
    """These two are not kept in a document: evaluation is done anew by whoever resumes."""

    def add(self, sums: Sequence[SegmentSums], told: Told) -> None:
        """Takes in a segment."""
        self.rows += sum(part.rows for part in sums)
        self.losses = exact_parts([*self.losses, *(loss for part in sums for loss in part.losses)])
        self.weights = exact_parts([*self.weights, *(weight for part in sums for weight in part.weights)])
        self.seconds += sum(part.seconds for part in sums)
        self.waiting += sum(part.waiting for part in sums)
        self.told += told
        self.evaluation += [piece for part in sums for piece in part.evaluation]
        self.health += [layer for part in sums for layer in part.health]

    @property
    def loss(self) -> float:
        """The mean training loss; 0 as long as no row had a weight."""
        weight = math.fsum(self.weights)
        return math.fsum(self.losses) / weight if weight else 0.0

    @property
    def communication(self) -> float:
        """The share of the workers' time in which they did not compute."""
        return self.waiting / max(self.seconds, 1e-9)

    def document(self) -> dict[str, Any]:
        """All but health and evaluation, as JSON can say it."""
        return {
            "rows": self.rows,
            "losses": self.losses,
            "weights": self.weights,
            "seconds": self.seconds,
            "waiting": self.waiting,
            "staleness": self.told.staleness,
            "rounds": self.told.rounds,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Tally:
        """The tally whose `document` this is."""
        return cls(
            rows=document["rows"],
            losses=tuple(document["losses"]),
            weights=tuple(document["weights"]),
            seconds=document["seconds"],
            waiting=document["waiting"],
            told=Told(tuple(document["staleness"]), document["rounds"]),
        )


@dataclass(slots=True)
class Standing:
    """Where a training stands."""

    rule: StoppingRule
    plateau: Plateau | None = None
    """Where the learning rate depends on the losses."""
    health: HealthRule = field(default_factory=HealthRule)
    epoch: int = 1
    """In work."""
    step: int = 0
    """Steps of it that are done."""
    rows_seen: int = 0
    """In the epochs before."""
    seconds: float = 0.0
    """Of training, over all attempts; what was lost with one is not counted."""
    tally: Tally = field(default_factory=Tally)
    best_metrics: dict[str, float] | None = None
    progress: Progress | None = None
    """As last told."""

    def document(self) -> dict[str, Any]:
        """The standing as JSON can say it."""
        return {
            "rule": self.rule.document(),
            "plateau": self.plateau and self.plateau.document(),
            "health": self.health.document(),
            "epoch": self.epoch,
            "step": self.step,
            "rows_seen": self.rows_seen,
            "seconds": self.seconds,
            "tally": self.tally.document(),
            "best_metrics": self.best_metrics,
            "progress": self.progress and self.progress.model_dump(mode="json"),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], rule: StoppingRule, plateau: Plateau | None = None) -> Standing:
        """The standing whose `document` this is; `rule` and `plateau` are fresh ones."""
        rule.restore(document["rule"])
        health = HealthRule()
        health.restore(document["health"])
        if plateau is not None:
            plateau.restore(document["plateau"])
        progress = document["progress"]
        return cls(
            rule=rule,
            plateau=plateau,
            health=health,
            epoch=document["epoch"],
            step=document["step"],
            rows_seen=document["rows_seen"],
            seconds=document["seconds"],
            tally=Tally.from_document(document["tally"]),
            best_metrics=document["best_metrics"],
            progress=progress and Progress.model_validate(progress),
        )
