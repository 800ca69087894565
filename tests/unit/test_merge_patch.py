"""Merge patches, by the examples of RFC 7396 and by what a rerun asks for."""

from __future__ import annotations

from typing import Any

import pytest

from common.schemas.training import TrainingRequest
from service.merge_patch import kinds_of, merged


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
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_a_patch_takes_the_place_of_what_it_names(
    document: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    before = str(document)
    assert merged(document, patch) == result
    assert str(document) == before


@pytest.mark.parametrize(
    ("given", "patch", "result"),
    [
        ({"training": {"epochs": 5, "seed": 1}}, {"training": {"epochs": 9}}, {"training": {"epochs": 9, "seed": 1}}),
        # another kind takes the place of the whole
        ({"optimizer": {"kind": "adam", "beta1": 0.8}}, {"optimizer": {"kind": "sgd"}}, {"optimizer": {"kind": "sgd"}}),
        ({"optimizer": "adam"}, {"optimizer": {"kind": "sgd"}}, {"optimizer": {"kind": "sgd"}}),
        ({"optimizer": {"kind": "adam", "beta1": 0.8}}, {"optimizer": "adam"}, {"optimizer": "adam"}),
        # options are those of the kind that there is: in full, bare, or the default
        (
            {"optimizer": {"kind": "adam", "beta1": 0.8}},
            {"optimizer": {"kind": "adam", "beta2": 0.9}},
            {"optimizer": {"kind": "adam", "beta1": 0.8, "beta2": 0.9}},
        ),
        (
            {"optimizer": {"kind": "sgd", "momentum": 0.5}},
            {"optimizer": {"learning_rate": 0.1}},
            {"optimizer": {"kind": "sgd", "momentum": 0.5, "learning_rate": 0.1}},
        ),
        (
            {"optimizer": "sgd"},
            {"optimizer": {"learning_rate": 0.1}},
            {"optimizer": {"kind": "sgd", "learning_rate": 0.1}},
        ),
        ({}, {"optimizer": {"learning_rate": 0.1}}, {"optimizer": {"kind": "adam", "learning_rate": 0.1}}),
        (
            {"validation": {"kind": "random", "stratify": False}},
            {"validation": {"fraction": 0.2}},
            {"validation": {"kind": "random", "stratify": False, "fraction": 0.2}},
        ),
        ({}, {"validation": {"fraction": 0.2}}, {"validation": {"kind": "random", "fraction": 0.2}}),
        ({"loss": None}, {"loss": {"label_smoothing": 0}}, {"loss": {"kind": "cross_entropy", "label_smoothing": 0}}),
        (
            {"cluster": {"synchrony": "local_steps", "workers": 3}},
            {"cluster": {"synchrony": {"steps": 8}}},
            {"cluster": {"synchrony": {"kind": "local_steps", "steps": 8}, "workers": 3}},
        ),
        (
            {},
            {"cluster": {"synchrony": {"kind": "local_steps", "steps": 8}}},
            {"cluster": {"synchrony": {"kind": "local_steps", "steps": 8}}},
        ),
        # a label may be called `kind`, and is no choice
        ({"labels": {"kind": "a", "team": "x"}}, {"labels": {"kind": "b"}}, {"labels": {"kind": "b", "team": "x"}}),
        ({"labels": {"team": "x"}}, {"labels": {"kind": "b"}}, {"labels": {"kind": "b", "team": "x"}}),
    ],
)
def test_a_patch_of_a_training_request_knows_the_kinds_of_its_choices(
    given: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    resolved = {"dataset_id": "ds", "target": "species", **given, "loss": given.get("loss") or "cross_entropy"}
    request = TrainingRequest.model_validate(resolved)
    assert merged(given, patch, kinds_of(request)) == result
