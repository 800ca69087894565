"""Changes to a JSON document as a merge patch (RFC 7396), and to a training request, whose choices have kinds."""

from __future__ import annotations

from collections.abc import Mapping

from common.schemas.record import Record

Kinds = Mapping[str, object]
"""Of a document's choices by their names: the kind of each; below the name of an object that holds choices, theirs."""


def kinds_of(record: Record) -> dict[str, object]:
    """The kinds of a record's choices, those included that were left at their defaults."""
    fields = ((name, getattr(record, name)) for name in type(record).model_fields)
    return {
        name: getattr(value, "kind", None) or kinds_of(value) for name, value in fields if isinstance(value, Record)
    }


def merged(
    document: Mapping[str, object], patch: Mapping[str, object], kinds: Kinds | None = None
) -> dict[str, object]:
    """The document with what the patch holds in place of its own; null takes a field back to its default.

    A choice of another `kind` takes the place of the whole: the options of the one mean nothing to the other. Options
    alone are those of the kind that the document has.
    """
    result = dict(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            kind = (kinds or {}).get(name)
            before = result.get(name)
            if isinstance(kind, str):
                before = _options(before, kind, value)
            below = kind if isinstance(kind, Mapping) else None
            result[name] = merged(before if isinstance(before, dict) else {}, value, below)
        else:
            result[name] = value
    return result


def _options(before: object, kind: str, value: Mapping[str, object]) -> object:
    """What the new options of a choice are merged into; `kind`: what it is now, which it may say bare, or not at all."""
    full = before if isinstance(before, dict) else {"kind": kind}
    return full if value.get("kind") in (None, kind) else {}
