"""What may be an alias."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.schemas.aliases import AliasName
from common.schemas.training import MODEL_NAME

_ALIAS: TypeAdapter[str] = TypeAdapter(AliasName)


def is_alias(text: str) -> bool:
    try:
        return _ALIAS.validate_python(text) == text
    except ValidationError:
        return False


@given(st.from_regex(MODEL_NAME.rstrip("$") + r"\Z") | st.from_regex(r"[0-9]{1,70}\Z") | st.text(max_size=70))
def test_an_alias_is_a_slug_that_is_no_whole_number(text: str) -> None:
    is_slug = re.fullmatch(MODEL_NAME, text) is not None
    assert is_alias(text) is (is_slug and not text.isdigit())
