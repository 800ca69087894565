"""What a caller of the protocol sends: a JSON document, and behind it what tensors hold in binary form."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from common.errors import Unreadable
from common.schemas.record import Listed, Record
from service import problems, strict_json

Parameters = dict[str, object]
"""Those that are not known are hints for other servers, which the protocol allows to ignore."""
Count = Annotated[int, Field(ge=0, lt=2**63)]


class InputTensor(Record):
    """A tensor that comes in."""

    name: str
    shape: Annotated[Listed[Count], Field(min_length=1, max_length=2)]
    datatype: str
    parameters: Parameters = {}
    data: list[object] | None = None
    """In JSON; else `binary_data_size` among the parameters says how many bytes behind the document are it."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.shape[1] if len(self.shape) > 1 else 1


class RequestedOutput(Record):
    """A tensor that is wanted."""

    name: str
    parameters: Parameters = {}


class InferenceRequest(Record):
    """The JSON document."""

    id: str | None = None
    model_name: str | None = None
    """Not looked at, as the path names the model; some clients send it."""
    model_version: str | None = None
    parameters: Parameters = {}
    inputs: Annotated[Listed[InputTensor], Field(min_length=1)]
    outputs: Listed[RequestedOutput] = ()


def read_request(document: bytes) -> InferenceRequest:
    """The request in a JSON document.

    Raises:
        Unreadable: it is no JSON as this API takes it.
        Invalid: it is no such request; every fault is named.

    """
    parsed = strict_json.parse(document)
    try:
        return InferenceRequest.model_validate(parsed)
    except ValidationError as error:
        raise problems.invalid(problems.faults_of_body(error.errors(), parsed)) from None


def header_length(said: str) -> int:
    """How many bytes of a body are the JSON document, by what `Inference-Header-Content-Length` says.

    Raises:
        Unreadable: it is no number (`malformed_request`).

    """
    if not (said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS):
        message = (
            "Inference-Header-Content-Length must be the length of the JSON document at the beginning of the body."
        )
        raise Unreadable(message, code="malformed_request")
    return int(said)


_MOST_DIGITS = 15
