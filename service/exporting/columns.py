"""Raw columns to the matrix that a network takes, in the terms of ONNX: what `FeatureEncoder.encode_records` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from common.errors import Fault, pointer_part
from common.features.categories import CategoryColumn, Embedded, Numbered, OneHot, name_of_number
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.numbers import QuantileNormal, Scaled, number_of
from common.features.times import Times
from service.exporting.graph import DOUBLE, FLOAT, INT64, STRING, Graph

_LARGEST = float(np.finfo(np.float64).max)
_ABOUT_NUMBERS = {
    "numeric": "a number; NaN where it is missing",
    "boolean": "1 for true, 0 for false, NaN where it is missing",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Columns of the matrix: a tensor of float32, shape (rows, places), and where they belong."""

    tensor: str
    places: Sequence[int]


def faults_of_columns(encoder: FeatureEncoder) -> list[Fault]:
    """Every column that ONNX has no operators for."""
    why = "the column holds dates or times, and ONNX has no calendar"
    return [
        Fault(f"/inputs/{pointer_part(column.name)}", "unsuitable_column", why)
        for column in encoder.columns
        if isinstance(column, Times)
    ]


def missing_text(column: CategoryColumn) -> str:
    """What stands for a missing text: an empty one, or the character NUL where that is a category."""
    return "\0" if "" in column.categories else ""


def encoded(graph: Graph, encoder: FeatureEncoder) -> str:
    """The matrix, float32, shape (rows, width), of inputs with the names of the columns, each of shape (rows, 1)."""
    for column in encoder.columns:
        _take(graph, column)
    placed = list(encoder.placed)
    pieces: list[_Piece] = []
    for logarithm in (False, True):
        scaled = [(place, c) for place, c in placed if isinstance(c, Scaled) and c.logarithm is logarithm]
        if scaled:
            pieces += _scaled(graph, scaled)
    for place, column in placed:
        if not isinstance(column, Scaled):
            pieces += _pieces(column, graph, place)
    matrix = graph.add_joined([piece.tensor for piece in pieces])
    places = [place for piece in pieces for place in piece.places]
    return matrix if places == sorted(places) else graph.columns(matrix, np.argsort(places).tolist())


def _take(graph: Graph, column: Column) -> None:
    if not isinstance(column, CategoryColumn):
        graph.take(column.name, DOUBLE, _ABOUT_NUMBERS[column.kind])
    elif column.of == "text":
        graph.take(column.name, STRING, f"a text; {missing_text(column)!r} where it is missing")
    else:
        graph.take(column.name, DOUBLE, _ABOUT_NUMBERS["numeric" if column.of == "number" else "boolean"])


# Numbers. A value that is missing, but must not be, becomes no number: neither does the answer.


def _scaled(graph: Graph, placed: Sequence[tuple[int, Scaled]]) -> Iterator[_Piece]:
    """Columns that are scaled, all at once: a table of pixels has hundreds."""
    columns = [column for _, column in placed]
    cells = graph.add_joined([column.name for column in columns])
    missing = graph.add("IsNaN", cells)
    values = _signed_log(graph, cells) if columns[0].logarithm else cells
    # in halves, as `standardize` does it
    means = graph.constant(np.array([[c.mean for c in columns]]) * 0.5)
    scales = graph.constant(np.array([[c.scale for c in columns]]) * 0.5)
    values = graph.add("Mul", values, graph.constant(np.array(0.5)))
    values = graph.add("Div", graph.add("Sub", values, means), scales)
    fills = graph.constant(np.array([[math.nan if c.refuses_missing else c.filled for c in columns]]))
    yield _Piece(graph.cast(graph.add("Where", missing, fills, values), FLOAT), [place for place, _ in placed])
    indicated = [index for index, column in enumerate(columns) if column.indicator]
    if indicated:
        flags = graph.cast(graph.columns(missing, indicated), FLOAT)
        yield _Piece(flags, [placed[index][0] + 1 for index in indicated])


def _signed_log(graph: Graph, cells: str) -> str:
    """sign(x) log(1 + |x|), exact near zero too: log(u) |x| / (u - 1), u = 1 + |x| as rounded (Kahan, HP-15C, 1982)."""
    one, zero = graph.constant(np.array(1.0)), graph.constant(np.array(0.0))
    size = graph.add("Abs", cells)
    above = graph.add("Add", size, one)
    gained = graph.add("Sub", above, one)
    logarithm = graph.add("Mul", graph.add("Log", above), graph.add("Div", size, gained))
    logarithm = graph.add("Where", graph.add("Equal", gained, zero), size, logarithm)
    return graph.add("Mul", graph.add("Sign", cells), logarithm)


@singledispatch
def _pieces(column: Column, graph: Graph, place: int) -> Iterator[_Piece]:
    """What a column becomes, from that place on."""
    raise NotImplementedError(type(column).__name__)


@_pieces.register
def _quantile_normal(column: QuantileNormal, graph: Graph, place: int) -> Iterator[_Piece]:
    """The first knot's number, and of the rise to each next one the share that the value has of the way there."""
    values, normals = column.knots
    with np.errstate(over="ignore"):
        ways = np.append(np.minimum(np.diff(values), _LARGEST), 1.0)
    rises = np.append(np.diff(normals), 0.0)
    missing = graph.add("IsNaN", column.name)
    cells = graph.add("Div", column.name, graph.constant(np.array(column.unit)))
    distances = graph.add("Sub", cells, graph.constant(values[np.newaxis]))
    shares = graph.add("Div", distances, graph.constant(ways[np.newaxis]))
    shares = graph.add("Clip", shares, graph.constant(np.array(0.0)), graph.constant(np.array(1.0)))
    risen = graph.add("MatMul", shares, graph.constant(rises[:, np.newaxis]))
    found = graph.add("Add", risen, graph.constant(normals[:1]))
    fill = graph.constant(np.array(math.nan if column.refuses_missing else _filled(column)))
    yield _Piece(graph.cast(graph.add("Where", missing, fill, found), FLOAT), [place])
    if column.indicator:
        yield _Piece(graph.cast(missing, FLOAT), [place + 1])


def _filled(column: QuantileNormal) -> float:
    """What a missing value becomes."""
    out = np.empty((1, column.width), np.float32)
    column.write(np.array([math.nan]), out)
    return float(out[0, 0])


# Categories


@_pieces.register
def _one_hot(column: OneHot, graph: Graph, place: int) -> Iterator[_Piece]:
    found, width = _category(graph, column), column.width
    hits = graph.add("Equal", found, graph.constant(np.arange(width)[np.newaxis]))
    yield _Piece(graph.cast(hits, FLOAT), range(place, place + width))


@_pieces.register
def _numbered(column: Numbered, graph: Graph, place: int) -> Iterator[_Piece]:
    numbers = graph.constant(np.array([*column.numbers, column.unknown], np.float32))
    yield _Piece(graph.add("Gather", numbers, _category(graph, column)), [place])


@_pieces.register
def _embedded(column: Embedded, graph: Graph, place: int) -> Iterator[_Piece]:
    yield _Piece(graph.cast(_category(graph, column), FLOAT), [place])


def _category(graph: Graph, column: CategoryColumn) -> str:
    """The place of each value among the categories, int64, shape (rows, 1); after all others that of unknown ones."""
    unknown = len(column.categories) + column.missing
    missing = column.missing_place if column.default is None else _place(column, column.default)
    missing = unknown if missing < 0 else missing
    if column.of != "text":
        return _category_of_numbers(graph, column, unknown, missing)
    places = {missing_text(column): missing, **{text: place for place, text in enumerate(column.categories)}}
    return graph.add(
        "LabelEncoder",
        column.name,
        keys_strings=list(places),
        values_int64s=list(places.values()),
        default_int64=unknown,
    )


def _place(column: CategoryColumn, category: str) -> int:
    return column.categories.index(category) if category in column.categories else -1


def _category_of_numbers(graph: Graph, column: CategoryColumn, unknown: int, missing: int) -> str:
    """The same where a category is a number, or a boolean: each is compared with all, and equal to one at most."""
    keys = [*(_number(name, column.of) for name in column.categories), math.nan]  # at least one, which nothing equals
    less = np.arange(len(keys), dtype=np.float32) - unknown
    hits = graph.cast(graph.add("Equal", column.name, graph.constant(np.array([keys]))), FLOAT)
    found = graph.add("MatMul", hits, graph.constant(less[:, np.newaxis]))
    found = graph.add("Add", found, graph.constant(np.array(unknown, np.float32)))
    if missing != unknown:
        is_missing = graph.add("IsNaN", column.name)
        found = graph.add("Where", is_missing, graph.constant(np.array(missing, np.float32)), found)
    return graph.cast(found, INT64)


def _number(name: str, of: str) -> float:
    """The number that is known by a name; NaN where none is."""
    if of == "boolean":
        return {"false": 0.0, "true": 1.0}.get(name, math.nan)
    number = number_of(name)
    return number if name_of_number(number) == name else math.nan  # a model that was imported may have any names
