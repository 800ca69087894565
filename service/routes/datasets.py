"""`/v1/datasets`: uploads, descriptions, rows."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator

from common.errors import CorruptRecord, NotFound, UnsupportedMedia
from common.schemas.choice import only_default
from common.schemas.datasets import Cell, Dataset
from common.schemas.record import Record
from common.schemas.training import clean_name
from common.store.stores import utc_now
from service.ingest import DEFAULT_NULLS, DELIMITER, ParseOptions
from service.routes.shared import (
    Behind,
    Cursor,
    IdempotencyKey,
    Limit,
    Listing,
    check_encoding,
    errors,
)
from service.uploads import publish, receive

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_FORMATS = {"text/csv": "csv", "application/vnd.apache.parquet": "parquet"}

DatasetName = Annotated[
    str,
    Query(min_length=1, max_length=200, description="A name; the same again is its next version."),
    AfterValidator(clean_name),
]


class Rows(Record):
    """The first rows of a data set."""

    rows: list[dict[str, Cell]]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "petal_length,petal_width,species\n1.4,0.2,setosa\n4.7,1.4,versicolor\n",
            },
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("", status_code=201, responses=errors(400, 413, 415, 422, 507), openapi_extra=_BODY)
async def upload(
    request: Request,
    response: Response,
    behind: Behind,
    idempotency_key: IdempotencyKey,
    name: DatasetName = "dataset",
    header: Annotated[
        bool, Query(description="CSV: whether the first line names the columns; else they are c0, c1, …")
    ] = True,
    delimiter: Annotated[str, Query(pattern=DELIMITER, description="CSV: what separates cells.")] = ",",
    decimal: Annotated[  # noqa: ARG001  # its only value today
        str, Query(description="CSV: the decimal mark; only the point for now."), AfterValidator(only_default("."))
    ] = ".",
    null: Annotated[
        list[str] | None, Query(description="CSV: what stands for a missing value; replaces the default.")
    ] = None,
) -> Dataset:
    """Uploads a CSV or Parquet file as the raw body. Column types are inferred from all rows and described."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _FORMATS:
        raise UnsupportedMedia(f"The body must be one of: {', '.join(_FORMATS)}.")
    check_encoding(request)
    options = ParseOptions.model_validate(
        {
            "format": _FORMATS[kind],
            "header": header,
            "delimiter": delimiter,
            "null": DEFAULT_NULLS if null is None else tuple(null),
        }
    )
    received = await receive(request.stream(), behind.stores.files.new_upload())
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
def show(dataset_id: str, behind: Behind) -> Dataset:
    """A data set's description."""
    return behind.stores.datasets.get(dataset_id)


@router.get("/{dataset_id}/rows", responses=errors(404, 422))
def rows(dataset_id: str, behind: Behind, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Rows:
    """The first rows, as they were understood."""
    behind.stores.datasets.get(dataset_id)
    path = behind.stores.files.dataset(dataset_id)
    if not path.exists():
        raise NotFound("The rows of this data set are gone.", code="dataset_not_found")
    try:
        head = pl.scan_parquet(path, glob=False, hive_partitioning=False).head(limit).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CorruptRecord("The rows of this data set are damaged.") from error
    dates = [name for name, kind in head.schema.items() if kind.is_temporal()]
    return Rows(rows=head.with_columns(pl.col(dates).cast(pl.String) if dates else []).to_dicts())


@router.delete("/{dataset_id}", status_code=204, responses=errors(404, 409))
def delete(dataset_id: str, behind: Behind) -> None:
    """Deletes a data set that no unended job uses."""
    behind.stores.datasets.delete(dataset_id)
    behind.stores.files.dataset(dataset_id).unlink(missing_ok=True)
