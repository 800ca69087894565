"""Merge patches, by the examples of RFC 7396 and by what a rerun asks for."""

from __future__ import annotations

from typing import Any

import pytest

from service.merge_patch import merged


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [  # RFC 7396, appendix A, those with two objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # and of our own
        ({"training": {"epochs": 5, "seed": 1}}, {"training": {"epochs": 9}}, {"training": {"epochs": 9, "seed": 1}}),
        ({"optimizer": {"kind": "adam", "beta1": 0.8}}, {"optimizer": {"kind": "sgd"}}, {"optimizer": {"kind": "sgd"}}),
        (
            {"optimizer": {"kind": "adam", "beta1": 0.8}},
            {"optimizer": {"kind": "adam", "beta2": 0.9}},
            {"optimizer": {"kind": "adam", "beta1": 0.8, "beta2": 0.9}},
        ),
        ({"loss": "mae"}, {"loss": {"kind": "mse"}}, {"loss": {"kind": "mse"}}),
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_a_patch_takes_the_place_of_what_it_names(
    document: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    before = str(document)
    assert merged(document, patch) == result
    assert str(document) == before
