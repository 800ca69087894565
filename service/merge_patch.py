"""Changes to a JSON document as a merge patch (RFC 7396)."""

from __future__ import annotations

from collections.abc import Mapping


def merged(document: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """The document with what the patch holds in place of its own; null takes a field back to its default.

    An object of another `kind` takes the place of the whole: the options of the one mean nothing to the other.
    """
    result = dict(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merged(_same_kind(result.get(name), value), value)
        else:
            result[name] = value
    return result


def _same_kind(before: object, value: Mapping[str, object]) -> Mapping[str, object]:
    """What a new value is merged into."""
    is_same = isinstance(before, dict) and value.get("kind") in (None, before.get("kind"))
    return before if is_same and isinstance(before, dict) else {}
