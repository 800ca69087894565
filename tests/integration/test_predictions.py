"""Options and warnings of predictions over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.store.stores import Stores
from tests.contract import publish
from tests.integration.test_api import refused

INSTANCES = [{"length": 4.5, "colour": "red"}, {"length": None, "colour": "green"}]
FLOWER = {"setosa", "virginica"}


@pytest.fixture(autouse=True)
def _models(stores: Stores) -> None:
    """One of two classes, and one of numbers."""
    publish(stores)
    publish(stores, "price", number=True)


def predict(api: TestClient, query: str = "", model: str = "iris", **body: object) -> Any:
    return api.post(f"/v1/models/{model}/predict{query}", json={"instances": INSTANCES, **body})


def answered(api: TestClient, query: str = "", model: str = "iris", **body: object) -> Any:
    answer = predict(api, query, model, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_explanations_sum_to_the_probability_of_the_label_or_to_the_value(api: TestClient) -> None:
    plain = answered(api)
    assert not any("explanation" in prediction for prediction in plain["predictions"])
    for model, query, body in (("iris", "", {"explain": True}), ("price", "?explain=true", {})):
        for prediction in answered(api, query, model, **body)["predictions"]:
            explanation = prediction["explanation"]
            assert set(explanation) == {"baseline", "contributions", "remainder"}
            assert set(explanation["contributions"]) == {"length", "colour"}
            added = sum(explanation["contributions"].values()) + explanation["remainder"]
            said = prediction["value"] if model == "price" else prediction["probabilities"][prediction["label"]]
            assert explanation["baseline"] + added == pytest.approx(said)
    assert answered(api, "?explain=false") == plain


def test_options_are_the_same_in_the_query_and_in_the_body(api: TestClient) -> None:
    in_query = answered(api, "?top_k=1&threshold=0.3&explain=true")
    assert in_query == answered(api, top_k=1, threshold=0.3, explain=True)
    assert in_query == answered(api, "?top_k=1", threshold=0.3, explain=True)
    assert all(len(prediction["probabilities"]) == 1 for prediction in in_query["predictions"])
    assert answered(api, top_k=10**300) == answered(api, "?top_k=2")
    for threshold, label in ((0.0, "virginica"), (1.0, "setosa")):
        predictions = answered(api, f"?threshold={threshold}")["predictions"]
        assert {prediction["label"] for prediction in predictions} == {label}
        assert all(set(prediction["probabilities"]) == FLOWER for prediction in predictions)


def test_an_option_that_is_given_twice_is_refused_even_where_both_agree(api: TestClient) -> None:
    answer = predict(api, "?top_k=2&explain=true", top_k=2, explain=False, threshold=0.5)
    assert refused(answer, 422, "invalid_request") == [
        ("explain", "repeated_parameter"),
        ("top_k", "repeated_parameter"),
    ]
    assert refused(predict(api, "?top_k=2&top_k=2"), 422, "invalid_request") == [("top_k", "repeated_parameter")]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("explain", (1, "true", [], {})),
        ("top_k", (0, -1, 1.5, True, "3", [1])),
        ("threshold", (-0.01, 1.01, True, "0.5", 1e308, -1)),
    ],
)
def test_options_of_the_body_are_of_their_type_and_range(
    api: TestClient, option: str, values: tuple[object, ...]
) -> None:
    for value in values:
        ((pointer, code),) = refused(predict(api, "", "iris", **{option: value}), 422, "invalid_request")
        assert pointer == f"/{option}"
        assert code in ("wrong_type", "out_of_range")


@pytest.mark.parametrize(
    "query",
    [
        *("explain=maybe", "explain=", "top_k=0", "top_k=many", "top_k=1e400", "threshold=nan", "threshold=inf"),
        *("threshold=1.01", "threshold=-1e-9", "threshold=", "threshold=1e400"),
    ],
)
def test_options_of_the_query_are_of_their_type_and_range(api: TestClient, query: str) -> None:
    ((pointer, code),) = refused(predict(api, f"?{query}"), 422, "invalid_request")
    assert pointer == query.partition("=")[0]
    assert code in ("wrong_type", "out_of_range")
    assert refused(predict(api, f"?un{query}"), 422, "invalid_request") == [(f"un{pointer}", "unknown_parameter")]


def test_options_that_do_not_suit_the_model_are_refused_where_they_were_given(api: TestClient) -> None:
    answer = predict(api, "?threshold=0.5", "price", top_k=3)
    assert refused(answer, 422, "invalid_request") == [
        ("/top_k", "unsuitable_option"),
        ("threshold", "unsuitable_option"),
    ]


def test_warnings_name_the_values_that_training_rows_had_nothing_like(api: TestClient) -> None:
    assert [(warning["pointer"], warning["code"]) for warning in answered(api)["warnings"]] == [
        ("/instances/1/colour", "unknown_category")
    ]
    assert answered(api, instances=[[1e6, "red"]])["warnings"] == []  # this model knows no range of lengths


def test_too_many_are_not_explained_at_once(api: TestClient) -> None:
    many = [{"length": 1.0, "colour": "red"}] * 1001
    answer = predict(api, instances=many, explain=True)
    assert refused(answer, 413, "too_large") == []
    assert "1000 instances are explained" in answer.json()["detail"]
    assert len(answered(api, instances=many)["predictions"]) == 1001


def test_options_and_explanations_are_described_with_examples(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    route = document["paths"]["/v1/models/{ref}/predict"]["post"]
    assert {"explain", "top_k", "threshold"} <= {parameter["name"] for parameter in route["parameters"]}
    assert all(parameter.get("description") for parameter in route["parameters"] if parameter["in"] == "query")
    schemas = document["components"]["schemas"]
    assert "explanation" in str(schemas["Predictions"]["examples"])
    assert "explain" in str(schemas["PredictionRequest"]["examples"])
