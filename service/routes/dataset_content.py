"""`/v1/datasets/{id}/content`: all rows of a data set, as one file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Final

import polars as pl
import polars.selectors as cs
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from common.errors import CorruptRecord, NotAcceptable
from common.schemas.datasets import Dataset
from common.store.files import DataFolder
from service.bulk.forms import MEDIA_TYPES, Form, wanted_form
from service.routes.datasets import written
from service.routes.shared import Behind, errors

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_FORMS: Final[tuple[Form, ...]] = ("csv", "tsv", "ndjson", "parquet")
_CELLS: Final = 1 << 18
"""That are read and written at a time."""
_MOST_ROWS: Final = 1 << 16
_MOST_TEXT_ROWS: Final = 1 << 12
"""The same where cells may be long."""
_CHUNK_BYTES: Final = 1 << 18

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "All rows",
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "label,probability_setosa,probability_virginica\nsetosa,0.75,0.25\n",
            },
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"label":"setosa","probability_setosa":0.75,"probability_virginica":0.25}\n',
            },
            MEDIA_TYPES["tsv"]: {"schema": {"type": "string"}},
            MEDIA_TYPES["parquet"]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("/{dataset_id}/content", response_class=StreamingResponse, responses={**_FILE, **errors(404, 406)})
def content(
    dataset_id: str, behind: Behind, accept: Annotated[str, Header(include_in_schema=False)] = "*/*"
) -> StreamingResponse:
    """All rows of a data set in their order, as they were understood. `Accept` chooses the form; CSV unless it says."""
    form = wanted_form(accept, "csv", _FORMS)
    if form is None:
        raise NotAcceptable(f"Rows come as one of: {', '.join(MEDIA_TYPES[form] for form in _FORMS)}.")
    dataset = behind.stores.datasets.get(dataset_id)
    pieces = _bytes(dataset, behind.stores.files) if form == "parquet" else _texts(dataset, behind.stores.files, form)
    try:
        first = next(pieces)  # what is wrong is told before anything is sent
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CorruptRecord("The rows of this data set are damaged.") from error
    name = f'attachment; filename="{dataset.id}.{form}"'
    return StreamingResponse(
        chain([first], pieces), media_type=MEDIA_TYPES[form], headers={"Content-Disposition": name}
    )


def _bytes(dataset: Dataset, files: DataFolder) -> Iterator[bytes]:
    """The file as it is stored."""
    with files.rows(dataset.id) as path, path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _texts(dataset: Dataset, files: DataFolder, form: Form) -> Iterator[bytes]:
    """The rows as text, some at a time."""
    most = _MOST_TEXT_ROWS if any(column.kind == "text" for column in dataset.columns) else _MOST_ROWS
    height = max(1, min(most, _CELLS // len(dataset.columns)))
    with files.rows(dataset.id) as path:
        scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        for start in range(0, dataset.rows, height):
            rows = scan.slice(start, height).with_columns(written(cs.temporal())).collect()
            if form == "ndjson":
                yield rows.write_ndjson().encode()
            else:
                yield rows.write_csv(include_header=start == 0, separator="\t" if form == "tsv" else ",").encode()
