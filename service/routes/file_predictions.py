"""`POST /v1/models/{ref}/predict` with a file: CSV, TSV, NDJSON or Parquet in, any of them or JSON out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.routing import Match

from common.errors import Fault, NotAcceptable, TooLarge
from common.learned import LearnedNetwork
from common.prediction_table import columns_of_matrix, table_height
from common.schemas.predictions import PredictionOptions, PredictionRequest
from service import problems, strict_json
from service.bulk.csv_reader import CsvReader
from service.bulk.forms import FORMS, MEDIA_TYPES, Form, wanted_form
from service.bulk.incoming import Incoming
from service.bulk.ndjson_reader import NdjsonReader
from service.bulk.reader import PART, Encoded, Reader
from service.bulk.stored_reader import StoredReader
from service.bulk.writers import Writer, make_writer
from service.ingest import ParseLimits, ParseOptions, parse_in_child
from service.predictor import Found
from service.routes.answer_stream import AnswerStream
from service.routes.file_options import Decimal, Delimiter, Nulls, media_type, parse_options
from service.routes.prediction_options import Threshold
from service.routes.shared import Behind, Services, check_encoding, expander
from service.uploads import receive

Result = TypeVar("Result")
_AT_WORK: Final = asyncio.Semaphore(2)
"""So many files are worked on in one moment; callers who are slow hold up nobody else."""

_HEAD: Final = 8 << 20
"""Bytes of an answer that are held back until all that was read first is known to be right."""


class FileRoute(APIRoute):
    """Takes what is not JSON on both sides."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Leaves JSON that is to be answered with JSON, and a body that does not say what it is, to another route."""
        match = super().matches(scope)
        if match[0] is Match.NONE:
            return match
        accepts_json = wanted_form(Headers(scope=scope).get("accept"), "json") == "json"
        if accepts_json and _media_type(scope) in ("", MEDIA_TYPES["json"]):
            return Match.NONE, {}
        return match


def is_streamed(scope: MutableMapping[str, Any]) -> bool:
    """Whether the body of a request to predict is a file, of which only a part is in memory."""
    return FORMS.get(_media_type(scope), "json") != "json"


def _media_type(scope: MutableMapping[str, Any]) -> str:
    return Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()


router = APIRouter(prefix="/v1/models", tags=["models"], route_class=FileRoute)


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What a caller wants.

    Attributes:
        body: the form of the body.
        answer: the form of the answer.
        parsing: how the body is to be read.
        threshold: of two classes, the second from this probability on.

    """

    body: Form
    answer: Form
    parsing: ParseOptions
    threshold: float | None = None


@router.post("/{ref}/predict", include_in_schema=False)
async def predict(
    ref: str,
    request: Request,
    behind: Behind,
    header: Annotated[bool, Query()] = True,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    null: Nulls = None,
    threshold: Threshold = None,
) -> Response:
    """Predicts the rows of a file; `DESCRIPTION` describes it."""
    kind = media_type(request, FORMS)
    answer = wanted_form(request.headers.get("accept"), FORMS[kind])
    if answer is None:
        raise NotAcceptable(f"An answer can be one of: {', '.join(FORMS)}.")
    parsing = parse_options(kind, header=header, delimiter=delimiter, decimal=decimal, null=null)
    found = await run_in_threadpool(behind.predictor.find, ref)
    found.network.check(PredictionOptions(threshold=threshold), in_query=("threshold",))
    return await predict_file(request, found, behind, FileOptions(FORMS[kind], answer, parsing, threshold))


async def predict_file(request: Request, found: Found, behind: Services, options: FileOptions) -> Response:
    """Predicts the rows of the body, block by block; what is wrong with the first block is told before the answer begins.

    Raises:
        Invalid: it is no file of its form, or does not fit the model.
        TooLarge: there is more of it than is allowed.
        Stalled: nothing of it comes any more.

    """
    if options.body == "json":
        check_encoding(request)
        incoming = Incoming(request)
    else:
        incoming = Incoming(request, expander(request, behind.settings.max_upload_bytes))
    files, most = behind.stores.files, behind.settings.max_upload_bytes
    writer = make_writer(options.answer, found.id, files.new_upload, most)
    pieces = _predicted(found.network, _sources(incoming, found.network, behind, options), writer, options.threshold)
    first = await anext(pieces, b"")
    return AnswerStream(
        request,
        incoming,
        _joined(first, pieces),
        writer.failure,
        place=files.new_upload,
        limit=most,
        media_type=MEDIA_TYPES[options.answer],
        headers={"X-Model-Id": found.id},
    )


async def _joined(first: bytes, others: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(others):
        yield first
        async for piece in others:
            yield piece


async def _predicted(
    network: LearnedNetwork, sources: AsyncGenerator[Iterator[Encoded]], writer: Writer, threshold: float | None
) -> AsyncGenerator[bytes]:
    """The answer, piece by piece; the first comes when all that was read first is known to be right."""

    def predict_next(rows: Iterator[Encoded]) -> bytes | None:
        encoded = next(rows, None)
        if encoded is None:
            return None
        return writer.rows(columns_of_matrix(network, encoded.matrix, encoded.first_row, threshold))

    head: list[bytes] | None = []
    try:
        async with aclosing(sources):
            async for source in sources:
                while (piece := await _at_work(predict_next, source)) is not None:
                    if head is None:
                        yield piece
                        continue
                    head.append(piece)
                    if sum(map(len, head)) > _HEAD:
                        yield b"".join(head)
                        head = None
                if head and (piece := b"".join(head)):  # else the writer holds all back until it is known to be right
                    yield piece
                    head = None
        rest = writer.end()
        while (piece := await _at_work(next, rest, None)) is not None:
            yield piece
    finally:
        writer.close()


async def _at_work(work: Callable[..., Result], *given: object) -> Result:
    async with _AT_WORK:
        return await run_in_threadpool(work, *given)


def _sources(
    incoming: Incoming, network: LearnedNetwork, behind: Services, options: FileOptions
) -> AsyncGenerator[Iterator[Encoded]]:
    """The rows, as soon as they are there."""
    settings = behind.settings
    limits = ParseLimits(
        max_columns=settings.max_columns,
        max_cells=settings.max_cells,
        memory_bytes=settings.parser_memory_bytes,
        cpu_seconds=settings.parser_seconds,
        wall_seconds=settings.parser_seconds,
    )
    if options.body == "json":
        return _instances(incoming, network, settings.max_predict_rows)
    if options.body == "parquet":
        return _stored(incoming, network, behind, options.parsing, limits)
    if options.body == "ndjson":
        return _read(incoming, NdjsonReader(network, limits))
    return _read(incoming, CsvReader(network, options.parsing, limits))


async def _read(incoming: Incoming, reader: Reader) -> AsyncGenerator[Iterator[Encoded]]:
    """Of a form that can be read as it comes."""
    async with aclosing(incoming.parts(PART)) as parts:
        async for data, at_end in parts:
            yield reader.take(data, at_end=at_end)


async def _stored(
    incoming: Incoming, network: LearnedNetwork, behind: Services, options: ParseOptions, limits: ParseLimits
) -> AsyncGenerator[Iterator[Encoded]]:
    """Of a Parquet file, which is read in a child process when it has come."""
    files = behind.stores.files
    received = await receive(incoming.chunks(), files.new_upload())
    rows = files.new_upload()
    try:
        await _at_work(partial(parse_in_child, received.path, rows, options, limits, described=False))
        received.path.unlink()
        yield StoredReader(network, rows).all_rows()
    finally:
        received.path.unlink(missing_ok=True)
        rows.unlink(missing_ok=True)


async def _instances(incoming: Incoming, network: LearnedNetwork, most: int) -> AsyncGenerator[Iterator[Encoded]]:
    """Of a JSON document."""
    body = b"".join([chunk async for chunk in incoming.chunks()])

    def read() -> Iterator[Encoded]:
        document = strict_json.parse(body)
        try:
            wanted = PredictionRequest.model_validate(document)
        except ValidationError as error:
            raise problems.invalid(problems.faults_of_body(error.errors(), document)) from None
        if wanted.given:
            message = "is for answers in JSON; a threshold may stand in the query"
            raise problems.invalid([Fault(f"/{name}", "unsuitable_option", message) for name in wanted.given])
        instances = wanted.instances
        if len(instances) > most:
            raise TooLarge(f"At most {most} instances are predicted at once.")
        matrix, height = network.encoder.encode_records(instances), table_height(network)
        for start in range(0, len(matrix), height):
            yield Encoded(start, matrix[start : start + height])

    yield read()
