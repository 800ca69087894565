"""Options of a prediction as query parameters: all forms of bodies share them; JSON may hold them itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from common.errors import Fault
from common.schemas.predictions import PredictionOptions
from service.problems import invalid

Explain = Annotated[bool | None, Query(description="Tell what each column adds to each prediction.")]
TopK = Annotated[int | None, Query(ge=1, description="Only so many probabilities, the largest first.")]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Of two classes, the second from this probability on, else the first.",
    ),
]


def merged(in_query: PredictionOptions, in_body: PredictionOptions) -> PredictionOptions:
    """The options of a request, from wherever they are given.

    Raises:
        Invalid: one is given in both places, whether they agree or not.

    """
    if both := [name for name in in_query.given if name in in_body.given]:
        message = "can be given once only: in the query or in the body"
        raise invalid([Fault(name, "repeated_parameter", message) for name in both])
    return PredictionOptions(
        explain=in_query.explain if in_body.explain is None else in_body.explain,
        top_k=in_query.top_k if in_body.top_k is None else in_body.top_k,
        threshold=in_query.threshold if in_body.threshold is None else in_body.threshold,
    )
