"""The forms in which rows come and predictions go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

Form = Literal["csv", "tsv", "ndjson", "parquet", "json"]

MEDIA_TYPES: Final[Mapping[Form, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
FORMS: Final[Mapping[str, Form]] = {media: form for form, media in MEDIA_TYPES.items()}

_MOST_RANGES: Final = 100
"""That are looked at: it is done in the event loop, before any key is."""


def wanted_form(accept: str | None, own: Form, among: Collection[Form] = tuple(MEDIA_TYPES)) -> Form | None:
    """The form that an Accept header asks for (RFC 9110, section 12.5.1), `own` where it leaves the choice; None for none."""
    if not (accept or "").strip():
        return own
    parts = (accept or "").lower().split(",", _MOST_RANGES)[:_MOST_RANGES]
    ranges = [_range(part) for part in parts if part.strip()]
    best: tuple[float, bool, int] = (0.0, False, 0)
    found: Form | None = None
    for form, media in MEDIA_TYPES.items():
        if form not in among:
            continue
        matching = [
            (_precision(pattern), weight, -place)
            for place, (pattern, weight) in enumerate(ranges)
            if pattern in (media, f"{media.partition('/')[0]}/*", "*/*")
        ]
        if not matching:
            continue
        _, weight, place = max(matching)
        if weight > 0 and (weight, form == own, place) > best:
            best, found = (weight, form == own, place), form
    return found


def _range(part: str) -> tuple[str, float]:
    """A media range and its weight, 1 where it has none."""
    pattern, *parameters = (piece.strip() for piece in part.split(";"))
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name.strip() == "q":
            try:
                return pattern, min(1.0, max(0.0, float(value)))
            except ValueError:
                return pattern, 0.0
    return pattern, 1.0


def _precision(pattern: str) -> int:
    return 0 if pattern == "*/*" else 1 if pattern.endswith("/*") else 2
