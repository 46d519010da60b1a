from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_lance.errors import TensorConversionError
from ray_lance.tensors import deliver, delivered_schema, to_tensors
from ray_lance.tensors.filling import check_values
from tests.unit.tensors.type_cases import plain

MOMENT = datetime.datetime(1970, 1, 1, 0, 0, 5)
CATEGORIES = pa.dictionary(pa.int8(), pa.string())

FILLED = [
    (pa.array([1, None], pa.int8()), -1, [1, -1]),
    (pa.array([1, None], pa.uint64()), 7, [1, 7]),
    (pa.array([1.5, None], pa.float32()), 0, [1.5, 0.0]),
    (pa.array([np.float16(1.5), None], pa.float16()), 2, [1.5, 2.0]),
    (pa.array([True, None]), False, [True, False]),
    (pa.array([True, None]), 1, [True, True]),
    (pa.array([None, MOMENT], pa.timestamp("s")), 5, [MOMENT, MOMENT]),
    (pa.array([None], pa.date32()), 1, [datetime.date(1970, 1, 2)]),
    (pa.array([None], pa.time64("us")), 10**6, [datetime.time(0, 0, 1)]),
    (pa.array([None], pa.duration("s")), 3, [datetime.timedelta(seconds=3)]),
    (pa.array([None], pa.decimal128(5, 2)), 1.25, [decimal.Decimal("1.25")]),
    (pa.array(["a", None]), "?", ["a", "?"]),
    (pa.array([b"a", None]), b"?", [b"a", b"?"]),
    (pa.array(["a", None, "b"], CATEGORIES), "b", ["a", "b", "b"]),
    (pa.array(["a", None, "b"], CATEGORIES), "new", ["a", "new", "b"]),
    (pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None])), "b", ["a", "b"]),
    (pa.array([3, None]).dictionary_encode(), 9, [3, 9]),
    (pa.array([[1, None], None], pa.list_(pa.int16())), 0, [[1, 0], []]),
    (pa.array([[1, None], None], pa.large_list(pa.int16())), 0, [[1, 0], []]),
    (pa.array([["a", None], None]), "?", [["a", "?"], None]),
    (pa.array([[1, None], None], pa.list_(pa.int16(), 2)), 0, [[1, 0], [0, 0]]),
    (pa.array([[True, None], None], pa.list_(pa.bool_(), 2)), True, [[True, True], [True, True]]),
    (pa.array([[[1, None]], None], pa.list_(pa.list_(pa.int16()))), 0, [[[1, 0]], None]),
]


def filled(array: pa.Array, fill: Any) -> list[Any]:
    table = pa.table({"x": array})
    result = deliver(table, delivered_schema(table.schema), fill=fill)
    assert result.schema == delivered_schema(table.schema)
    result.validate(full=True)
    return [
        row if row is None else np.asarray(row).tolist() if isinstance(row, np.ndarray) else row for row in rows(result)
    ]


def rows(table: pa.Table) -> list[Any]:
    column = table["x"].combine_chunks()
    return (column.storage if isinstance(column, pa.ExtensionArray) else column).to_pylist()


@pytest.mark.parametrize(("array", "value", "expected"), FILLED, ids=lambda value: str(getattr(value, "type", "")))
def test_nulls_of_every_type_are_filled_where_they_are_named(array: pa.Array, value: Any, expected: list[Any]) -> None:
    assert filled(array, {"x": value}) == expected
    assert filled(pa.concat_arrays([array, array]).slice(len(array)), {"x": value}) == expected


@pytest.mark.parametrize("array", [array for array, value, _ in FILLED if not isinstance(value, (str, bytes))])
def test_one_value_is_for_all_that_becomes_a_tensor(array: pa.Array) -> None:
    assert filled(array, 1) == filled(array, {"x": 1})


@pytest.mark.parametrize("array", [array for array, value, _ in FILLED if isinstance(value, (str, bytes))])
def test_one_value_leaves_texts_alone(array: pa.Array) -> None:
    assert filled(array, 1) == array.to_pylist()


@pytest.mark.parametrize(("array", "value", "_"), FILLED, ids=lambda value: str(getattr(value, "type", "")))
def test_what_is_filled_becomes_the_tensors_that_filling_them_gives(array: pa.Array, value: Any, _: list[Any]) -> None:
    table, fill = pa.table({"x": array}), {"x": value}
    delivered = deliver(table, delivered_schema(table.schema), fill=fill)
    expected = to_tensors(table, ragged="list", fill=fill)["x"]
    if expected != array.to_pylist() and not (isinstance(expected, list) and None in expected):  # rows of lists
        assert plain(to_tensors(delivered, ragged="list")["x"]) == plain(expected)


def test_leaves_of_structs() -> None:
    inner = pa.struct([("a", pa.int32()), ("b", pa.string()), ("c", pa.struct([("d", pa.list_(pa.int8(), 2))]))])
    array = pa.array([{"a": 1, "b": "x", "c": {"d": [1, 2]}}, None, {"a": None, "b": None, "c": None}], inner)

    assert filled(array, {"x.a": 5}) == [
        {"a": 1, "b": "x", "c": {"d": [1, 2]}},
        {"a": 5, "b": None, "c": None},
        {"a": 5, "b": None, "c": None},
    ]
    assert filled(array, 0)[1:] == [{"a": 0, "b": None, "c": {"d": [0, 0]}}] * 2
    assert filled(array, {"x.b": "?"})[1]["b"] == "?"


def test_what_needs_no_fill_is_the_same_memory() -> None:
    table = pa.table({"a": [1, 2], "s": ["x", None], "l": [[1], [2]], "t": [{"b": 1}, {"b": 2}]})
    delivered = deliver(table, delivered_schema(table.schema), fill=0)
    for name in table.column_names:
        assert delivered[name].chunk(0).buffers()[-1].address == table[name].chunk(0).buffers()[-1].address


REFUSED = [
    (pa.int8(), 128),
    (pa.uint8(), -1),
    (pa.int64(), 0.5),
    (pa.int64(), float("nan")),
    (pa.bool_(), 2),
    (pa.float32(), "x"),
    (pa.decimal128(3, 2), 1.005),
    (pa.timestamp("s"), "now"),
    (pa.string(), 0),
    (CATEGORIES, 0),
    (pa.list_(pa.string()), 0),
    (pa.map_(pa.string(), pa.int8()), 0),
]


@pytest.mark.parametrize(("dtype", "value"), REFUSED, ids=str)
def test_a_value_that_the_type_cannot_hold_is_refused_before_reading(dtype: pa.DataType, value: Any) -> None:
    with pytest.raises(TensorConversionError, match=r"fill=.*column 'x' cannot be held by"):
        check_values({"x": value}, pa.schema([("x", dtype)]))
