"""One tree of errors by cause. Each has a stable code; none knows of HTTP."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where (a JSON pointer, or `row 7, column age`), a stable code, and what to do."""

    pointer: str
    code: str
    message: str


def pointer_part(name: object) -> str:
    """A name as a part of a JSON pointer (RFC 6901), cut where it is too long to be anybody's field."""
    text = str(name)
    return (text if len(text) <= _LONGEST_PART else f"{text[:_LONGEST_PART]}…").replace("~", "~0").replace("/", "~1")


_LONGEST_PART = 100


class ChainruleError(Exception):
    """The root: something this product knows how to explain. `code` is stable, `hint` says what to do next."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.stable_code = code or type(self).code
        self.hint = hint


class Unreadable(ChainruleError):
    """The bytes that came are not what they claim to be: no JSON, a duplicate key, too deep."""

    code = "malformed_json"


class Invalid(ChainruleError):
    """Readable, but wrong: `faults` names everything that is wrong with it, all at once."""

    code = "invalid_request"

    def __init__(self, message: str, faults: Iterable[Fault] = (), *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.faults = tuple(faults)


class Stalled(ChainruleError):
    """The caller stopped sending in the middle of a body."""

    code = "upload_stalled"


class UnsupportedMedia(ChainruleError):
    """The content type, or the coding of the body, is none that is taken here."""

    code = "unsupported_media_type"


class NotAcceptable(ChainruleError):
    """The caller takes no form of the answer that there is."""

    code = "not_acceptable"


class TooLarge(ChainruleError):
    """More bytes, rows or numbers than the operator allows."""

    code = "too_large"


class NotFound(ChainruleError):
    """There is no such data set, job or model."""

    code = "not_found"


class Conflict(ChainruleError):
    """The thing exists, but not in a state that allows this."""

    code = "conflict"


class SourceUnavailable(ChainruleError):
    """What a data set was to be fetched from does not answer, or not with a file."""

    code = "source_unavailable"


class Unauthorized(ChainruleError):
    """No key, or one that is not known."""

    code = "unauthorized"


class StoreUnavailable(ChainruleError):
    """Redis does not answer."""

    code = "store_unavailable"


class FilesUnavailable(StoreUnavailable):
    """The object store of data sets and checkpoints does not answer, or does not let us in."""


class Busy(ChainruleError):
    """As many are waiting as there is room for."""

    code = "too_many_watchers"


class StorageFull(ChainruleError):
    """Redis, its disk or the disk of the data sets has no room left."""

    code = "storage_full"


class CorruptRecord(ChainruleError):
    """What is stored does not read back as what was written."""

    code = "corrupt_record"


class FenceLost(ChainruleError):
    """The job belongs to somebody else by now: whoever sees this stops writing."""

    code = "fence_lost"


class CannotStart(ChainruleError):
    """A part of the stack cannot start; the message says which and what to do."""

    code = "cannot_start"


class TrainingFailure(ChainruleError):
    """A training run that ends `failed`; the code is one of those in a job's `error`."""


class Diverged(TrainingFailure):
    """A loss or a gradient became infinite or not a number, or the loss grew without bound."""

    code = "diverged"


class BadData(TrainingFailure):
    """The rows do not allow the training that was asked for."""

    code = "bad_data"


class OutOfMemory(TrainingFailure):
    """The run needed more memory than there is."""

    code = "out_of_memory"


def lacks_disk(error: BaseException) -> bool:
    """Whether a disk had no room (ENOSPC or EDQUOT), as Python or Polars says it."""
    return re.search(r"os error (28|122)\b|Errno (28|122)\b", str(error)) is not None


def lacks_memory(error: BaseException) -> bool:
    """Whether the system refused memory: to Python, or to a mapping or a process that was to be made."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
