"""`/v2`: the Open Inference Protocol, version 2, with its binary tensor extension, as KServe and Triton clients speak it.

`{ref}` is whatever stands for a model below `/v1`; with `/versions/{version}` it is a name.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version as version_of
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from common.errors import StoreUnavailable, TooLarge, Unreadable, UnsupportedMedia
from common.network.parameters import Floats
from service.body import BodyReader, only, room
from service.gunzip import Gunzip
from service.inference_protocol import description, metadata
from service.inference_protocol.inference import Answer, Inference, Limits
from service.inference_protocol.metadata import ModelMetadata
from service.inference_protocol.request import header_length, read_request
from service.predictor import Found
from service.routes.shared import Behind, Services, errors, expander, open_errors

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
health = APIRouter(prefix="/v2/health", tags=["open inference protocol"])

_JSON = "application/json"
_BINARY = "application/octet-stream"
_HEADER = "Inference-Header-Content-Length"
_VERSIONS = 200

HeaderLength = Annotated[
    str | None,
    Header(alias=_HEADER, description="How many bytes of the body are JSON, where binary tensors follow."),
]


class Live(BaseModel):
    """The process answers."""

    live: Literal[True] = True


class Ready(BaseModel):
    """It can work."""

    ready: Literal[True] = True


class ModelReady(Ready):
    """The model can be inferred with."""

    name: str


class Server(BaseModel):
    """What answers here."""

    name: str = "chainrule"
    version: str = version_of("chainrule")
    extensions: tuple[str, ...] = ("binary_tensor_data", "model_configuration")


@health.get("/live", responses=open_errors())
async def live() -> Live:
    """Whether this process is alive."""
    return Live()


@health.get("/ready", responses=open_errors())
def ready(behind: Behind) -> Ready:
    """Whether Redis answers."""
    if not behind.stores.client.ping():
        raise StoreUnavailable("The store is out of reach.")
    return Ready()


@router.get("", responses=errors())
async def server() -> Server:
    """The server, and which extensions of the protocol it has."""
    return Server()


@router.get("/models/{ref}", responses=errors(404, 409))
def model(ref: str, behind: Behind) -> ModelMetadata:
    """The tensors that a model takes and answers with."""
    return _described(behind, ref)


@router.get("/models/{ref}/versions/{version}", responses=errors(404, 409))
def model_version(ref: str, version: str, behind: Behind) -> ModelMetadata:
    """The same of one version of a name."""
    return _described(behind, f"{ref}@{version}")


@router.get("/models/{ref}/ready", responses=errors(404, 409))
def model_ready(ref: str, behind: Behind) -> ModelReady:
    """Whether a model can be inferred with."""
    behind.predictor.find(ref)
    return ModelReady(name=ref)


@router.get("/models/{ref}/versions/{version}/ready", responses=errors(404, 409))
def model_version_ready(ref: str, version: str, behind: Behind) -> ModelReady:
    """Whether one version of a name can be inferred with."""
    behind.predictor.find(f"{ref}@{version}")
    return ModelReady(name=ref)


@router.get("/models/{ref}/config", responses=errors(404, 409))
def configuration(ref: str, behind: Behind) -> dict[str, Any]:
    """The same as its metadata, in the words of Triton's model configuration extension."""
    found = behind.predictor.find(ref)
    return metadata.configuration_of(_name_of(behind, found), found.network)


@router.get("/models/{ref}/versions/{version}/config", responses=errors(404, 409))
def version_configuration(ref: str, version: str, behind: Behind) -> dict[str, Any]:
    """The same of one version of a name."""
    return configuration(f"{ref}@{version}", behind)


_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": description.REQUEST, "example": description.REQUEST_EXAMPLE},
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs; in binary form as application/octet-stream, JSON first.",
        "content": {
            _JSON: {"schema": {"type": "object"}, "example": description.ANSWER_EXAMPLE},
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    **errors(400, 404, 409, 413, 415, 422),
}


@router.post("/models/{ref}/infer", response_class=Response, responses=_RESPONSES, openapi_extra=_OPENAPI)
async def infer_model(ref: str, request: Request, behind: Behind, header: HeaderLength = None) -> Response:
    """Predicts. One tensor per input, named as it is; or `instances` of all, where they are numbers.

    With the header `Inference-Header-Content-Length` the values may follow the JSON document in binary form.
    docs/protocols.md has the datatypes and examples.
    """
    return await _infer(behind, request, ref, None, header)


@router.post(
    "/models/{ref}/versions/{version}/infer", response_class=Response, responses=_RESPONSES, openapi_extra=_OPENAPI
)
async def infer_version(
    ref: str, version: str, request: Request, behind: Behind, header: HeaderLength = None
) -> Response:
    """The same with one version of a name."""
    return await _infer(behind, request, ref, version, header)


async def _infer(behind: Services, request: Request, ref: str, version: str | None, header: str | None) -> Response:
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind not in (_JSON, _BINARY):  # clients of Triton's say nothing
        raise UnsupportedMedia(f"The body must be {_JSON} or {_BINARY}.")
    wanted = ref if version is None else f"{ref}@{version}"
    if header is None:
        document = await (await _reader(request, behind.settings.max_predict_bytes)).rest()
        answer = await run_in_threadpool(_answer_at_once, behind, wanted, document)
    else:
        answer = await _answer_in_parts(behind, wanted, request, header_length(header))
    if answer.header_length is None:
        return Response(answer.body, media_type=_JSON)
    return Response(answer.body, headers={_HEADER: str(answer.header_length)}, media_type=_BINARY)


def _answer_at_once(behind: Services, ref: str, document: bytes) -> Answer:
    """The answer to a request that is all JSON."""
    inference, said = _begin(behind, ref, document)
    if inference.parts != [0]:
        raise inference.wrong_length()
    return inference.answer(inference.predict(memoryview(b""), 0), said)


async def _answer_in_parts(behind: Services, ref: str, request: Request, length: int) -> Answer:
    """The answer to a request with binary data: nothing of a large matrix waits for its end, or is kept."""
    settings = behind.settings
    if length > settings.max_predict_bytes:
        raise TooLarge(f"The JSON part is larger than the {settings.max_predict_bytes} bytes allowed here.")
    reader = await _reader(request, max(settings.max_tensor_bytes, settings.max_predict_bytes))
    document = await reader.read(length)
    if len(document) < length:
        raise Unreadable(f"The body is shorter than {_HEADER} says.", code="malformed_request")
    inference, said = await run_in_threadpool(_begin, behind, ref, bytes(document))
    return await run_in_threadpool(inference.answer, await _predict(inference, reader), said)


async def _reader(request: Request, limit: int) -> BodyReader:
    gunzip = expander(request, limit)
    if gunzip is None:
        return BodyReader(request.stream(), limit)
    return BodyReader(only(await run_in_threadpool(_expanded, gunzip, await request.body())), limit)


def _expanded(gunzip: Gunzip, body: bytes) -> bytes:
    expanded = b"".join(gunzip.pieces(body))
    gunzip.end()
    return expanded


def _begin(behind: Services, ref: str, document: bytes) -> tuple[Inference, dict[str, object]]:
    """The inference that a document asks for, and what its answer says of the model."""
    found = behind.predictor.find(ref)
    name, _, version = ref.partition("@")
    said: dict[str, object] = {"model_name": name, **({"model_version": version} if version else {})}
    limits = Limits(behind.settings.max_predict_rows, behind.settings.max_tensor_bytes)
    return Inference(found.network, read_request(document), limits), {**said, "parameters": {"model_id": found.id}}


async def _predict(inference: Inference, reader: BodyReader) -> Floats:
    """While one part is predicted the next one is read."""
    answers, start = list[Floats](), 0
    sizes = inference.parts
    place, other = (room(max(part, default=0)) for part in (sizes[:1], sizes[1:]))
    received = await reader.read_into(place)
    for size, next_size in pairwise([*sizes, 0]):
        if received < size:
            raise inference.wrong_length()
        predicting = run_in_threadpool(inference.predict, place[:size], start)
        answered, received = await asyncio.gather(predicting, reader.read_into(other[:next_size]))
        answers.append(answered)
        start += size
        place, other = other, place
    if await reader.read(1):
        raise inference.wrong_length()
    return np.concatenate(answers)


def _described(behind: Services, ref: str) -> ModelMetadata:
    found = behind.predictor.find(ref)
    name = _name_of(behind, found)
    versions: tuple[str, ...] = ()
    if found.job is None:
        models = behind.stores.models.page(_VERSIONS, name=name).data
        versions = tuple(str(model.version) for model in reversed(models))
    return ModelMetadata(
        name=name,
        versions=versions,
        inputs=metadata.inputs_of(found.network),
        outputs=metadata.described_outputs_of(found.network),
    )


def _name_of(behind: Services, found: Found) -> str:
    """The name of a model; of a job that has none yet, its id."""
    return found.id if found.job is not None else behind.stores.models.get(found.id).name
