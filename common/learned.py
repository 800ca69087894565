"""A learned network ready to answer: the same encoder and the same forward pass as in training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.attribution import integrated_gradients
from common.errors import CorruptRecord, Fault, Invalid, TooLarge, pointer_part
from common.features.bounds import StrangerCode, Strangers
from common.features.encoder import FeatureEncoder
from common.features.records import EMPTY, refusal
from common.features.target import ClassTarget, NumberTarget, Target, name_of, target_from_document
from common.network.network import Predictor
from common.network.parameters import Floats
from common.network.saved import weights_from_bytes
from common.network.structure import parameter_count
from common.schemas.losses import Loss, Quantile
from common.schemas.models import ModelOutput
from common.schemas.network import NetworkShape
from common.schemas.predictions import (
    LEAST_EXPLAINED,
    Explanation,
    Prediction,
    PredictionOptions,
    PredictionWarning,
)
from common.schemas.record import Record

_BYTES_PER_INPUT = 1024
MOST_EXPLAINED = 1000
_MOST_WORK = 1 << 27
"""Rows times parameters of one request for explanations."""
_MOST_POINTS = 1024
_MOST_NUMBERS = 1 << 19
"""Points, and numbers of any layer, that are looked at at a time for explanations."""
_NO_OPTIONS = PredictionOptions()
_STRANGE: Mapping[StrangerCode, str] = {
    "far_outside_training_range": "is far outside the range of the training rows: the prediction is a guess",
    "unknown_category": "counts as unknown: no training row had this category, or too few to learn from",
}


class LearnedDocument(Record):
    """All of a learned network but its weights, as JSON can say it."""

    network: NetworkShape
    loss: Loss
    encoder: dict[str, object]
    target: dict[str, object]


def output_of(name: str, target: Target) -> ModelOutput:
    """How a model describes what it answers with."""
    if isinstance(target, ClassTarget):
        return ModelOutput(name=name, kind="label", classes=target.classes)
    return ModelOutput(name=name, kind="value")


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction per instance, and what to know of the instances."""

    predictions: list[Prediction]
    warnings: list[PredictionWarning]


@dataclass(frozen=True, slots=True)
class LearnedNetwork:
    """Turns records into predictions; holds no state, so that any number of threads may share it."""

    encoder: FeatureEncoder
    target: Target
    predictor: Predictor
    shape: NetworkShape
    loss: Loss
    quantiles: tuple[float, ...] = ()
    """What its outputs are quantiles for, where they are."""
    nbytes: int = 0
    """Memory that it takes, in bytes: that of the weights, and what the columns take by a rough measure."""

    @classmethod
    def load(cls, document: Mapping[str, object], weights: bytes) -> LearnedNetwork:
        """The network of a stored model.

        Raises:
            CorruptRecord: the parts do not fit each other.

        """
        try:
            read = LearnedDocument.model_validate(document)
            encoder = FeatureEncoder.from_document(read.encoder)
            target = target_from_document(read.target)
            inputs, outputs, embeddings = encoder.width, width_of(target, read.loss), encoder.embeddings
            vector = weights_from_bytes(weights, parameter_count(read.network, inputs, outputs, embeddings))
            predictor = Predictor(read.network, inputs, outputs, read.loss, vector, embeddings)
            quantiles = read.loss.quantiles if isinstance(read.loss, Quantile) else ()
            nbytes = vector.nbytes + _BYTES_PER_INPUT * inputs
            return cls(encoder, target, predictor, read.network, read.loss, quantiles, nbytes)
        except (ValidationError, ValueError) as error:
            raise CorruptRecord("The stored model is damaged.", code="model_corrupt") from error

    def to_document(self) -> LearnedDocument:
        """What `load` makes the same network of, together with its weights."""
        return LearnedDocument(
            network=self.shape,
            loss=self.loss,
            encoder=self.encoder.to_document(),
            target=self.target.to_document(),
        )

    def predict(self, instances: Sequence[object]) -> list[Prediction]:
        """One prediction per instance, each an object by column name or an array in the order of the inputs.

        Raises:
            Invalid: an instance does not fit the inputs, or its answer is no finite number.

        """
        return self.answer(instances).predictions

    def answer(
        self, instances: Sequence[object], options: PredictionOptions = _NO_OPTIONS, in_query: Collection[str] = ()
    ) -> Answer:
        """The same with what the options ask for, and warnings of values that training rows had nothing like.

        Raises:
            Invalid: as `predict` and `check`.
            TooLarge: these are more than are explained at once.

        """
        self.check(options, in_query)
        if options.explain and len(instances) > self.most_explained:
            raise TooLarge(f"At most {self.most_explained} instances are explained at once by this model.")
        cells = self.encoder.cells(instances)
        x = self.encoder.encode_cells(cells)
        outputs = self._finite_answers(x)
        chosen = self.chosen(outputs, options.threshold)
        predictions = self._predictions(outputs, chosen, options.top_k)
        if options.explain:
            explained = zip(predictions, self.explanations(x, outputs, chosen), strict=True)
            predictions = [prediction.model_copy(update={"explanation": e}) for prediction, e in explained]
        return Answer(predictions, warnings_of(self.encoder.strangers(cells)))

    def answer_together(self, several: Sequence[Sequence[object]]) -> list[Answer]:
        """What `answer` says without options to each of `several` requests, computed as one.

        Numbers may differ in the last digit from those of each alone, as they may within a request of many instances.

        Raises:
            Invalid: as `predict`, without a hint at whose instance it is.

        """
        if len(several) == 1:
            return [self.answer(several[0])]
        if not all(several):
            raise refusal([EMPTY])
        cells = self.encoder.cells([instance for instances in several for instance in instances])
        outputs = self._finite_answers(self.encoder.encode_cells(cells))
        predictions = self._predictions(outputs, self.chosen(outputs), None)
        none_strange = not self.encoder.strangers(cells).count
        answers, start = [], 0
        for instances in several:
            rows = slice(start, start + len(instances))
            warnings = [] if none_strange else warnings_of(self.encoder.strangers(cells[rows]))
            answers.append(Answer(predictions[rows], warnings))
            start = rows.stop
        return answers

    def _finite_answers(self, x: Floats) -> Floats:
        outputs = self.answers(x)
        refuse_infinite(outputs, "/instances/{}".format)
        return outputs

    def _predictions(self, outputs: Floats, chosen: NDArray[np.intp], top_k: int | None) -> list[Prediction]:
        if isinstance(self.target, NumberTarget):
            return self._valued(outputs)
        return _labelled(self.target, outputs, chosen, top_k)

    def check(self, options: PredictionOptions, in_query: Collection[str] = ()) -> None:
        """Refuse options that do not suit what is predicted; `in_query` names those that no body holds.

        Raises:
            Invalid: with each of them (`unsuitable_option`).

        """
        unsuitable: dict[str, str] = {}
        if options.top_k is not None and isinstance(self.target, NumberTarget):
            unsuitable["top_k"] = "is for classes only, and the model predicts a number"
        if options.threshold is not None and (isinstance(self.target, NumberTarget) or len(self.target.classes) != 2):
            unsuitable["threshold"] = "is for two classes only"
        if unsuitable:
            pointers = {name: name if name in in_query else f"/{name}" for name in unsuitable}
            faults = [Fault(pointers[name], "unsuitable_option", message) for name, message in unsuitable.items()]
            raise Invalid("The options do not suit what the model predicts.", faults)

    @property
    def width(self) -> int:
        """How many numbers it answers each row with."""
        return width_of(self.target, self.loss)

    @property
    def most_explained(self) -> int:
        """How many instances are explained at once."""
        return max(LEAST_EXPLAINED, min(MOST_EXPLAINED, _MOST_WORK // self.predictor.size))

    def chosen(self, outputs: Floats, threshold: float | None = None) -> NDArray[np.intp]:
        """Which of a row's `answers` is its label or its value, shape (rows,).

        The class of the largest probability, or by the threshold for that of the second; the middle one of quantiles.
        """
        if isinstance(self.target, NumberTarget):
            return np.full(len(outputs), self.predictor.middle, np.intp)
        if threshold is not None:
            return (outputs[:, 1].astype(np.float64) >= threshold).astype(np.intp)
        best: NDArray[np.intp] = outputs.argmax(axis=1)
        return best

    def explanations(self, x: Floats, outputs: Floats, chosen: NDArray[np.intp]) -> list[Explanation]:
        """What each column adds to the answer that is `chosen` of each row's `outputs`, by integrated gradients.

        Their path begins at a row whose every value is missing: what the model says when nothing is known. The path of
        an embedded category goes from vector to vector.

        Raises:
            Invalid: one of the numbers is not finite.

        """
        nothing = self.encoder.all_missing
        unit = self.target.scale if isinstance(self.target, NumberTarget) else 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            baselines = self.answers(nothing)[0].astype(np.float64)[chosen]
            differences = outputs[np.arange(len(x)), chosen].astype(np.float64) - baselines
            numbers = unit * integrated_gradients(
                lambda points, rows: self.predictor.slopes(points, chosen[rows]),
                self.predictor.embedded(x),
                self.predictor.embedded(nothing)[0],
                most=max(1, min(_MOST_POINTS, _MOST_NUMBERS // self.predictor.widest)),
            )
            contributions = np.zeros((len(x), len(self.encoder.columns)))
            np.add.at(contributions.T, self.encoder.owners, numbers.T)
            remainders = differences - contributions.sum(axis=1)
        refuse_infinite(np.column_stack([baselines, contributions, remainders]), "/instances/{}".format)
        names = [column.name for column in self.encoder.columns]
        return [
            Explanation(baseline=baseline, contributions=dict(zip(names, row, strict=True)), remainder=remainder)
            for baseline, row, remainder in zip(
                baselines.tolist(), contributions.tolist(), remainders.tolist(), strict=True
            )
        ]

    def answers(self, x: Floats) -> Floats:
        """The probabilities of the classes, or the values in the target's units, for rows as the encoder makes them.

        A new array of shape (rows, classes), (rows, 1) or (rows, quantiles); values too large are infinite.
        """
        outputs: Floats = self.predictor.predict(x)
        if isinstance(self.target, NumberTarget):
            with np.errstate(over="ignore"):
                outputs = self.target.decode(outputs)
        return outputs

    def _valued(self, outputs: Floats) -> list[Prediction]:
        values = outputs[:, self.predictor.middle].tolist()
        if not self.quantiles:
            return [Prediction(value=value) for value in values]
        names = [f"{quantile:g}" for quantile in self.quantiles]
        return [
            Prediction(value=value, quantiles=dict(zip(names, row, strict=True)))
            for value, row in zip(values, outputs.tolist(), strict=True)
        ]


def width_of(target: Target, loss: Loss) -> int:
    """How many outputs a network needs for a target."""
    if isinstance(target, ClassTarget):
        return len(target.classes)
    return len(loss.quantiles) if isinstance(loss, Quantile) else 1


def warnings_of(strangers: Strangers) -> list[PredictionWarning]:
    """Cells unlike those of training, as they are told of: the first ones each, and how many more there are."""
    warnings = [
        PredictionWarning(
            pointer=f"/instances/{stranger.row}/{pointer_part(stranger.column)}",
            code=stranger.code,
            message=_STRANGE[stranger.code],
        )
        for stranger in strangers.first
    ]
    if more := strangers.count - len(warnings):
        message = f"{more:,} more values are unlike those of the training rows"
        warnings.append(PredictionWarning(pointer="/instances", code="more_warnings", message=message))
    return warnings


def refuse_infinite(answers: Floats, place: Callable[[int], str]) -> None:
    """Refuse answers that are no finite numbers, shape (rows, …); `place` says where a row stands.

    Raises:
        Invalid: with the first of them (`non_finite_output`).

    """
    finite = np.isfinite(answers)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=1)))
        fault = Fault(place(first), "non_finite_output", "the values are too large for this model")
        raise Invalid("A prediction is no finite number.", [fault])


def _labelled(
    target: ClassTarget, probabilities: Floats, chosen: NDArray[np.intp], top_k: int | None
) -> list[Prediction]:
    names = [name_of(label) for label in target.classes]
    rows = zip(chosen.tolist(), probabilities.tolist(), strict=True)
    if top_k is None:
        return [
            Prediction(label=target.decode(code), probabilities=dict(zip(names, row, strict=True)))
            for code, row in rows
        ]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
    return [
        Prediction(label=target.decode(code), probabilities={names[place]: row[place] for place in places})
        for (code, row), places in zip(rows, order, strict=True)
    ]
