"""`/v1/datasets`: uploads, descriptions, rows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import polars as pl
import polars.selectors as cs
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator

from common.errors import CorruptRecord, Fault, Invalid, NotFound
from common.schemas.datasets import Cell, Column, Dataset
from common.schemas.record import Record
from common.schemas.training import clean_name
from common.store.files import DataFolder
from common.store.stores import utc_now
from service.describing.associations import Associations, associate
from service.gunzip import Gunzip
from service.imports import Import, import_in, media_type
from service.routes import file_options
from service.routes.file_options import JSON, TSV, Decimal, Delimiter, Nulls, parse_options
from service.routes.shared import (
    Behind,
    Cursor,
    IdempotencyKey,
    Limit,
    Listing,
    errors,
    expander,
)
from service.uploads import publish, receive

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

DatasetName = Annotated[
    str,
    Query(min_length=1, max_length=200, description="A name; the same again is its next version."),
    AfterValidator(clean_name),
]


class Rows(Record):
    """Rows of a data set, in their order."""

    rows: list[dict[str, Cell]]
    next_offset: int | None
    """The `offset` of the rows that follow; null behind the last."""


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "petal_length,petal_width,species\n1.4,0.2,setosa\n4.7,1.4,versicolor\n",
            },
            TSV: {"schema": {"type": "string"}, "example": "petal_length\tspecies\n1.4\tsetosa\n4.7\tversicolor\n"},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"petal_length": 1.4, "species": "setosa"}\n{"petal_length": null, "species": "versicolor"}\n',
            },
            "application/json": {
                "schema": {
                    "anyOf": [
                        {
                            "type": "object",
                            "required": ["rows"],
                            "additionalProperties": False,
                            "properties": {
                                "name": {"type": "string", "minLength": 1, "maxLength": 200},
                                "rows": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                            },
                        },
                        Import.model_json_schema(),
                    ]
                },
                "examples": {
                    "rows": {"value": {"name": "iris", "rows": [{"petal_length": 1.4, "species": "setosa"}]}},
                    "uri": {"value": {"name": "flowers", "uri": "https://data.example.org/flowers.csv"}},
                },
            },
        },
    }
}


@router.post("", status_code=201, responses=errors(400, 413, 415, 422, 502, 507), openapi_extra=_BODY)
async def upload(
    request: Request,
    response: Response,
    behind: Behind,
    idempotency_key: IdempotencyKey,
    name: DatasetName = "dataset",
    header: Annotated[
        bool, Query(description="CSV: whether the first line names the columns; else they are c0, c1, …")
    ] = True,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    null: Nulls = None,
) -> Dataset:
    """Uploads a CSV, TSV, Parquet or NDJSON file as the raw body, or rows as JSON.

    The body may be compressed: `Content-Encoding: gzip`. With a `uri` in a JSON body the file is fetched from there, if the
    operator allows that place. Column types are inferred from all rows and described.
    """
    kind = file_options.media_type(request)
    read_as = partial(parse_options, header=header, delimiter=delimiter, decimal=decimal, null=null)
    if kind != JSON:
        read_as(kind)  # what is wrong with it is told before anything is sent
    place, limit = behind.stores.files.new_upload(), behind.settings.max_upload_bytes
    received = await receive(request.stream(), place, expander(request, limit))
    wanted = await run_in_threadpool(import_in, received, behind.settings.max_request_bytes) if kind == JSON else None
    if wanted is not None:
        name = wanted.name or name
        async with behind.fetcher.open(wanted.uri) as opened:
            kind, compressed = media_type(opened)
            read_as(kind)
            received = await receive(opened.chunks, place, Gunzip(limit) if compressed else None)
    try:
        options = read_as(kind)
    except Invalid:
        received.path.unlink()
        raise
    created = await publish(
        behind.stores,
        behind.settings,
        received,
        options,
        name=name,
        now=utc_now,
        idempotency_key=idempotency_key,
    )
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/datasets/{created.id}"
    return await run_in_threadpool(behind.stores.datasets.get, created.id)


@router.get("", responses=errors(422))
def list_datasets(behind: Behind, limit: Limit = 50, cursor: Cursor = None) -> Listing[Dataset]:
    """Data sets, newest first."""
    return Listing.of(behind.stores.datasets.page(limit, cursor))


@router.get("/{dataset_id}", responses=errors(404))
def show_dataset(dataset_id: str, behind: Behind) -> Dataset:
    """A data set's description."""
    return behind.stores.datasets.get(dataset_id)


@router.get("/{dataset_id}/rows", responses=errors(404, 422))
def rows(
    dataset_id: str,
    behind: Behind,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="Most rows in the answer; fewer where their texts are long.")
    ] = 20,
    offset: Annotated[
        int, Query(ge=0, le=2**53, description="Rows to pass over: `next_offset` of the answer before.")
    ] = 0,
) -> Rows:
    """Rows as they were understood, in the order in which they came."""
    dataset = behind.stores.datasets.get(dataset_id)
    try:
        with behind.stores.files.rows(dataset_id) as path:
            scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            found = scan.slice(offset, limit).with_columns(written(cs.temporal())).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CorruptRecord("The rows of this data set are damaged.") from error
    found = _fitting(found)
    following = offset + found.height
    return Rows(rows=found.to_dicts(), next_offset=following if found.height and following < dataset.rows else None)


def _fitting(rows: pl.DataFrame) -> pl.DataFrame:
    """As many of the rows as make an answer of no more than some megabytes, one at least."""
    texts = [pl.nth(place).str.len_bytes() for place, kind in enumerate(rows.dtypes) if kind == pl.String]
    if not texts or not rows.height:
        return rows
    sizes = rows.select(pl.sum_horizontal(texts).cum_sum()).to_series()
    return rows.head(max(1, int((sizes <= _MOST_TEXT).sum())))


_MOST_TEXT = 16 << 20


def written(times: pl.Expr) -> pl.Expr:
    """Dates and times as RFC 3339 has them: 2024-01-27, 2024-01-27T10:00:00.5Z; without a zone where they have none."""
    text = times.dt.to_string("iso:strict")
    for pattern, short in ((r"\.0+($|[+-])", "$1"), (r"(\.\d*[1-9])0+($|[+-])", "$1$2"), (r"\+00:00$", "Z")):
        text = text.str.replace(pattern, short)
    return text


_EXAMPLE = {
    "target": "species",
    "data": [
        {
            "column": "petal_length",
            "kind": "numeric",
            "measure": "eta",
            "value": 0.97,
            "rows": 149,
            "grouped": False,
        },
        {
            "column": "colour",
            "kind": "categorical",
            "measure": "cramers_v",
            "value": 0.31,
            "rows": 150,
            "grouped": False,
        },
    ],
    "warnings": ["column number: with a value of its own in more than 95% of the rows (an id?); nothing general can …"],
}

_MEASURING = asyncio.Semaphore(2)
"""So many callers' data sets are read at once; others wait their turn."""


@router.get(
    "/{dataset_id}/associations",
    responses={**errors(404, 422), 200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
async def associations(
    dataset_id: str,
    behind: Behind,
    target: Annotated[str, Query(description="The column that is to be predicted.", max_length=1000)],
) -> Associations:
    """How strongly every column goes along with the target, strongest first, and what to beware of before training.

    Pearson's correlation between numbers, the correlation ratio eta between numbers and categories, Cramér's V corrected
    for bias between categories. Takes seconds for millions of rows.
    """
    dataset = await run_in_threadpool(behind.stores.datasets.get, dataset_id)
    column = dataset.column(target)
    if column is None:
        fault = Fault("target", "unknown_column", "the data set has no column of this name")
        raise Invalid("The request has a fault.", [fault])
    async with _MEASURING:
        return await run_in_threadpool(_associate, behind.stores.files, dataset, column)


def _associate(files: DataFolder, dataset: Dataset, target: Column) -> Associations:
    try:
        with files.rows(dataset.id) as path:
            return associate(path, dataset, target)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CorruptRecord("The rows of this data set are damaged.") from error


@router.delete("/{dataset_id}", status_code=204, responses=errors(404, 409))
def delete_dataset(dataset_id: str, behind: Behind) -> None:
    """Deletes a data set that no unended job uses."""
    try:
        behind.stores.datasets.delete(dataset_id)
    except NotFound:  # perhaps by an earlier call, which did not reach the rows
        behind.stores.files.discard_dataset(dataset_id)
        raise
    behind.stores.files.discard_dataset(dataset_id)
