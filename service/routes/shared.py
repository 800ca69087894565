"""What all routes share: the services behind them, pages, idempotency keys, and bodies read strictly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Generic, Self, TypeVar, get_args, get_origin

from fastapi import Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import BaseModel

from common.errors import Fault, Unreadable, UnsupportedMedia
from common.settings import Settings
from common.store.client import impatient
from common.store.page import Page
from common.store.stores import Stores, open_stores
from service import problems, strict_json
from service.changes import Changes
from service.connections import MOST_CONNECTIONS, MOST_WATCHERS, Room
from service.fetching import Fetcher
from service.gathering import Gathering
from service.gunzip import Gunzip
from service.middleware import KeyRing
from service.predictor import Predictor
from service.shared_reads import SharedReads

Item = TypeVar("Item")
_MOST_EVALUATIONS = 2
_LONGEST_NAME = 100
"""That an answer repeats."""


@dataclass(frozen=True, slots=True)
class Services:
    """What stands behind the routes; made once, by `create_app`."""

    settings: Settings
    stores: Stores
    predictor: Predictor
    keys: KeyRing
    changes: Changes
    fetcher: Fetcher
    reads: SharedReads = field(default_factory=SharedReads)
    gathering: Gathering = field(default_factory=Gathering)
    room: Room = field(default_factory=lambda: Room(MOST_CONNECTIONS))
    evaluations: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_EVALUATIONS))
    """Holds what takes long to a few at a time: all else needs threads and processors too."""

    @classmethod
    def over(cls, settings: Settings, stores: Stores) -> Services:
        """All of them, over these stores.

        Raises:
            CannotStart: the settings name no sources of data sets where they should.

        """
        quick = open_stores(impatient(stores.client), stores.files)
        predictor = Predictor(stores, quick, settings.model_cache_bytes)
        changes = Changes(stores.client, MOST_WATCHERS, predictor.forget, predictor.look_again)
        return cls(settings, stores, predictor, KeyRing(stores.access), changes, Fetcher(settings))


async def services(request: Request) -> Services:
    """The services of the app that a request came to."""
    return services_of(request)


def services_of(request: Request) -> Services:
    """The same, for who is no route."""
    found: Services = request.app.state.services
    return found


Behind = Annotated[Services, Depends(services)]


async def check_key(request: Request, behind: Behind) -> None:
    """Lets pass whoever has a key, or everyone if there are none."""
    await admit(behind, request.headers.get("authorization"))


async def admit(behind: Services, authorization: str | None) -> None:
    """The same, for who is no route; all who come with the same key at the same time cause one look into the store."""
    if not behind.keys.recalls(authorization):
        await behind.reads.read(("key", authorization), partial(behind.keys.check, authorization))


async def check_query(request: Request) -> None:
    """Refuses query parameters that a route does not have, or not twice: a misspelt `dry_run` must not start a job.

    Raises:
        Invalid: with every such parameter.

    """
    if not request.scope["query_string"]:
        return
    route: APIRoute = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        allowed = f"may be one of: {', '.join(sorted(known))}" if known else "there are none here"
        message = f"there is no such query parameter; {allowed}"
        raise problems.invalid([Fault(name[:_LONGEST_NAME], "unknown_parameter", message) for name in unknown])
    lists = {field.alias for field in route.dependant.query_params if _is_list(field.field_info.annotation)}
    names = [name for name, _ in request.query_params.multi_items() if name not in lists]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise problems.invalid([Fault(name, "repeated_parameter", "can be given once only") for name in repeated])


def _is_list(annotation: object) -> bool:
    return list in (get_origin(annotation), *map(get_origin, get_args(annotation)))


def _clean_key(value: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> str | None:
    if value is not None and not (1 <= len(value) <= 255 and value.isascii() and value.isprintable()):
        raise Unreadable(
            "An Idempotency-Key must have 1 to 255 printable ASCII characters.",
            code="malformed_idempotency_key",
        )
    return value


IdempotencyKey = Annotated[str | None, Depends(_clean_key)]
Limit = Annotated[int, Query(ge=1, le=200, description="Most items in the answer.")]
Cursor = Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before.")]


class Listing(BaseModel, Generic[Item]):
    """A page of a list, newest first."""

    data: list[Item]
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Item]) -> Self:
        """A page of the store as it is answered."""
        return cls(data=page.data, next_cursor=page.next_cursor)


class _StrictRequest(Request):
    document: object

    async def json(self) -> object:
        return self.document


class JsonRoute(APIRoute):
    """Reads a JSON body by `strict_json` before the route sees it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind a strict reader."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        may_be_empty = self.body_field is not None and not self.body_field.field_info.is_required()

        async def strictly(request: Request) -> Response:
            if not takes_body:
                return await handle(request)
            # before anything of the body is looked at
            await check_key(request, services_of(request))
            strict = _StrictRequest(request.scope, request.receive)
            if may_be_empty and not await strict.body():
                return await handle(strict)
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise UnsupportedMedia("The body must be application/json.")
            check_encoding(request)
            strict.document = await run_in_threadpool(strict_json.parse, await strict.body())
            return await handle(strict)

        return strictly


def check_encoding(request: Request) -> None:
    """Refuses compressed bodies.

    Raises:
        UnsupportedMedia: the body is coded.

    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("A compressed body is not taken here; send it as it is.")


def expander(request: Request, limit: int) -> Gunzip | None:
    """What expands a body that is compressed by gzip, to `limit` bytes at most; None for one that is not compressed.

    Raises:
        UnsupportedMedia: it is coded in another way.

    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("gzip", "x-gzip"):
        return Gunzip(limit)
    if coding != "identity":
        raise UnsupportedMedia("A body may be compressed by gzip, once, and in no other way.")
    return None


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the problems a route behind a key answers with, beside those of every such route."""
    return open_errors(401, *statuses)


def open_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same, for a route that asks for no key."""
    problem = {
        "description": "Problem",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return {**dict.fromkeys(sorted({503, *statuses}), problem), "default": problem}
