"""What OpenAPI says of an inference, whose body the route reads by itself."""

from __future__ import annotations

from service.inference_protocol.datatypes import DATATYPES

REQUEST_EXAMPLE = {
    "inputs": [
        {"name": "age", "shape": [2, 1], "datatype": "FP64", "data": [41, 29]},
        {"name": "city", "shape": [2, 1], "datatype": "BYTES", "data": ["Oslo", "Rome"]},
        {"name": "member", "shape": [2, 1], "datatype": "BOOL", "data": [True, False]},
    ],
    "outputs": [{"name": "label"}],
}
ANSWER_EXAMPLE = {
    "model_name": "customers",
    "parameters": {"model_id": "mdl_0000000000000000000000000"},
    "outputs": [{"name": "label", "datatype": "BYTES", "shape": [2, 1], "data": ["stays", "leaves"]}],
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        "datatype": {"type": "string", "enum": list(DATATYPES)},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        "data": {"type": "array", "items": {}, "description": "Flat, or an array of rows; null is missing."},
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
    },
}
REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
}
