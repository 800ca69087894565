"""Identifiers: their form, and that nothing else has it."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.identifiers import _ALPHABET, is_id, new_id

PREFIXES = ("ds", "job", "mdl", "sup")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_new_id_has_the_form_and_no_other_prefix_s(prefix: str) -> None:
    for _ in range(200):
        identifier = new_id(prefix)
        assert re.fullmatch(rf"{prefix}_[0-9a-z]{{25}}", identifier)
        assert [other for other in PREFIXES if is_id(identifier, other)] == [prefix]


def test_ids_hold_enough_random_bits_that_none_comes_twice() -> None:
    assert 25 * math.log2(len(set(_ALPHABET))) >= 122
    assert len({new_id("job") for _ in range(5_000)}) == 5_000


def test_every_letter_of_an_id_is_drawn() -> None:
    drawn = "".join(new_id("job").removeprefix("job_") for _ in range(200))
    assert set(drawn) == set(_ALPHABET)
    assert not set(drawn) & set("ilou")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_other_text_is_an_id(text: str) -> None:
    assert not is_id(text, "job")


GOOD = "job_" + "0" * 25


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "\n",
        GOOD + " ",
        " " + GOOD,
        GOOD + "0",
        GOOD[:-1],
        GOOD[:-1] + "l",
        GOOD[:-1] + "A",
        GOOD[:-1] + "\u0661",
        GOOD[:-1] + "\0",
        GOOD[:-1] + "*",
        GOOD.upper(),
        "mdl_" + "0" * 25,
        "job_../../../../etc/passwd",
        "job_" + "%2f" * 8 + "0",
        "",
        "job",
        "job_",
    ],
)
def test_almost_an_id_is_none(text: str) -> None:
    assert is_id(GOOD, "job")
    assert not is_id(text, "job")
