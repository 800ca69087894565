"""The one table from errors to HTTP answers: application/problem+json after RFC 9457, never an echo of the input."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import redis
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from common import errors
from common.errors import ChainruleError, Fault, Invalid, pointer_part
from common.schemas.record import Record
from common.store.client import explain

log = logging.getLogger("chainrule.api")

STATUS: dict[type[ChainruleError], HTTPStatus] = {
    errors.Unreadable: HTTPStatus.BAD_REQUEST,
    errors.Stalled: HTTPStatus.REQUEST_TIMEOUT,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BadData: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.SourceUnavailable: HTTPStatus.BAD_GATEWAY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Busy: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.CorruptRecord: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}

_CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "not_supported_yet": "not_supported_yet",
    "unknown_choice": "unknown_choice",
    "invalid_name": "invalid_name",
    "finite_number": "out_of_range",
    "literal_error": "unknown_choice",
    "residual_width": "residual_width",
    "conflicting_options": "conflicting_options",
    "out_of_order": "out_of_order",
    "union_tag_invalid": "unknown_choice",
    "union_tag_not_found": "missing",
}
_MESSAGES = {
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "union_tag_invalid": "is of no kind that is known",  # pydantic repeats the kind
    "union_tag_not_found": "does not say of which kind it is",
}
_CODE_OF_SUFFIX = {"_type": "wrong_type", "_parsing": "wrong_type", "_mismatch": "wrong_form"}

MAX_FAULTS = 100
"""Most faults in an answer: a small request must not make a huge one."""

_FAULTS_IN_TEXT = 5

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class FaultView(Record):
    """One thing wrong with a request."""

    pointer: str
    code: str
    message: str


class Problem(Record):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    """Stable; see the API documentation for all of them."""
    detail: str
    errors: list[FaultView] = []
    """Every fault of a request at once."""
    request_id: str
    error: str | None = None
    """Below /v2 only: all of it in one text, for clients of the Open Inference Protocol."""


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    faults: Iterable[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer for an error."""
    request_id = request.scope.get("request_id", "")
    faults = list(faults)
    body = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        errors=[FaultView(pointer=fault.pointer, code=fault.code, message=fault.message) for fault in faults],
        request_id=request_id,
        error=_in_one_text(detail, faults) if request.scope["path"].startswith("/v2") else None,
    )
    named = {"X-Request-Id": request_id, **(headers or {})}  # an unforeseen error is answered outside of `RequestId`
    return Response(body.model_dump_json(exclude_none=True), status, named, "application/problem+json")


def _in_one_text(detail: str, faults: Sequence[Fault]) -> str:
    return " ".join([detail, *(f"{fault.pointer}: {fault.message}." for fault in faults[:_FAULTS_IN_TEXT])])


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(ChainruleError, _on_known)
    app.add_exception_handler(redis.RedisError, _on_redis)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_unknown)


async def answer_to(request: Request, error: Exception) -> Response:
    """The problem that an error makes, for who cannot raise it."""
    return await (_on_known if isinstance(error, ChainruleError) else _on_unknown)(request, error)


async def _on_known(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChainruleError)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    detail = f"{error.message} {error.hint}" if error.hint else error.message
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "2"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"  # what is left of the body is not read
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", request.scope.get("request_id"), error, exc_info=error if status == 500 else None)
    return problem(
        request,
        status,
        error.stable_code,
        detail,
        error.faults if isinstance(error, Invalid) else (),
        headers,
    )


async def _on_redis(request: Request, error: Exception) -> Response:
    assert isinstance(error, redis.RedisError)
    return await _on_known(request, explain(error))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [_fault(detail, error.body) for detail in error.errors()[:MAX_FAULTS]]
    return problem(request, 422, "invalid_request", _summary(found), found)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "malformed_request")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(request, error.status_code, code, HTTPStatus(error.status_code).description, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods that the path takes: the router tells of its first route's only."""
    scopes = [{**request.scope, "method": method} for method in _METHODS]
    routes: list[BaseRoute] = request.app.routes
    return [scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _on_gone(request: Request, _: Exception) -> Response:
    return problem(request, 400, "incomplete_body", "The body ended before it was whole.")


async def _on_unknown(request: Request, error: Exception) -> Response:
    log.error("%s failed", request.scope.get("request_id"), exc_info=error)
    return problem(request, 500, "internal", "Something went wrong here. The operator's log has the details.")


def invalid(faults: Sequence[Fault]) -> Invalid:
    """The error for a request with these faults."""
    return Invalid(_summary(faults), faults[:MAX_FAULTS])


def _summary(faults: Sequence[Fault]) -> str:
    return "The request has a fault." if len(faults) == 1 else f"The request has {len(faults)} faults."


def faults_of_body(details: Sequence[ErrorDetails], body: object) -> list[Fault]:
    """Pydantic's findings as faults: where in the body, a stable code, and what is allowed; never the input itself."""
    around = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    own = [
        detail
        for detail in details
        if detail["type"] != "too_short" or detail["loc"] not in around  # what has been refused inside is not counted
    ]
    return [_fault({**detail, "loc": ("body", *detail["loc"])}, body) for detail in own[:MAX_FAULTS]]


def _fault(detail: Mapping[str, Any], body: object) -> Fault:
    kind = str(detail["type"])
    place, *path = detail["loc"]
    code = _CODES.get(kind) or next(
        (c for suffix, c in _CODE_OF_SUFFIX.items() if kind.endswith(suffix)), "out_of_range"
    )
    message = _MESSAGES.get(kind) or (
        str(detail["msg"])
        .removeprefix("Value error, ")
        .replace("Input should", "should")
        .replace("Tuple should", "should")
        .replace("List should", "should")
        .replace("String should", "should")
        .replace(" after validation,", ",")
        .replace("Extra inputs are not permitted", "there is no such field")
        .replace("Field required", "is required")
    )
    pointer = _pointer(path, body) if place == "body" else ".".join(str(part) for part in path)
    return Fault(pointer, code, message)


def _pointer(path: Sequence[int | str], body: object) -> str:
    """A JSON pointer (RFC 6901): pydantic's names of union members are left out, as the body does not hold them."""
    parts, node = [], body
    for index, step in enumerate(path):
        if isinstance(node, dict):
            if step not in node and index < len(path) - 1:
                continue
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        elif not (index == len(path) - 1 and isinstance(node, dict)):
            continue
        parts.append(pointer_part(step))
    return "".join(f"/{part}" for part in parts)


def dump(found: Sequence[Fault]) -> list[dict[str, str]]:
    """Faults as JSON can say them."""
    return [{"pointer": f.pointer, "code": f.code, "message": f.message} for f in found[:MAX_FAULTS]]
