"""Identifiers: a prefix that says what it is, and 125 random bits."""

from __future__ import annotations

import re
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letters that look like digits
_FORM = re.compile(r"(ds|job|mdl|sup)_[0-9a-hjkmnp-tv-z]{25}\Z")


def new_id(prefix: str) -> str:
    """A fresh id such as `job_3v8…`."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(25))


def is_id(text: str, prefix: str) -> bool:
    """Whether the text has the form of an id of that prefix; anything else never reaches the store."""
    return text.startswith(f"{prefix}_") and _FORM.match(text) is not None
