"""The body of a request for a data set that is fetched from where it lies."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from common.errors import Unreadable, UnsupportedMedia
from common.schemas.record import Record
from common.schemas.training import Name
from service import problems, strict_json
from service.client import FORMATS
from service.fetching import Opened
from service.uploads import Received


class Import(Record):
    """What is to be fetched."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    """An https://, s3:// or file:// URI in a place that the operator allows (CHAINRULE_IMPORT_SOURCES)."""
    name: Annotated[Name, Field(min_length=1)] | None = None
    """A name; the same again is its next version. May be given in the query instead."""


def import_in(received: Received, most_bytes: int) -> Import | None:
    """What a JSON body wants to have fetched, whose file is then removed; None for one that has no `uri`.

    Raises:
        Invalid: it has one, but is no such request.

    """
    if received.size > most_bytes:  # than any such request: these are rows
        return None
    try:
        document = strict_json.parse(received.path.read_bytes())
    except Unreadable:  # who reads the rows will say why
        return None
    if not isinstance(document, dict) or "uri" not in document:
        return None
    received.path.unlink()
    try:
        return Import.model_validate(document)
    except ValidationError as error:
        raise problems.invalid(problems.faults_of_body(error.errors(), document)) from None


def media_type(opened: Opened) -> tuple[str, bool]:
    """What a source is, and whether it is compressed by gzip.

    It is what it says itself where that is one of the forms that may be uploaded, else what the file's ending says.

    Raises:
        UnsupportedMedia: it is none of them, or compressed in another way.

    """
    if opened.coding not in ("identity", "gzip"):
        raise UnsupportedMedia("The source sends a file that is compressed, and not by gzip.")
    endings = [suffix.lower() for suffix in opened.source.suffixes]
    is_gz = endings[-1:] == [".gz"]
    compressed = opened.coding == "gzip" or is_gz
    said = (opened.media_type or "").partition(";")[0].strip().lower()
    if said in FORMATS.values():
        return said, compressed
    kind = FORMATS.get("".join(endings[:-1][-1:] if is_gz else endings[-1:]))
    if kind is None:
        raise UnsupportedMedia(f"The name of the file must end in one of: {', '.join(FORMATS)}, and may then in .gz.")
    return kind, compressed
