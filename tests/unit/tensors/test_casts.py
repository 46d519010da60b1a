from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors import conform
from ray_lance.tensors.kinds import bfloat16_field
from tests.unit.tensors.type_cases import plain


def cast(array: pa.Array, target: pa.DataType | pa.Field) -> pa.Array:
    field = target if isinstance(target, pa.Field) else pa.field("x", target)
    return conform(pa.table({"x": array}), pa.schema([field]))["x"].combine_chunks()


NUMBERS = [pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("target", NUMBERS, ids=str)
@pytest.mark.parametrize("source", NUMBERS, ids=str)
@given(data=st.data())
def test_a_number_is_kept_exactly_or_refused_by_name(source: pa.DataType, target: pa.DataType, data) -> None:
    dtype = np.dtype(source.to_pandas_dtype())
    if dtype.kind == "f":
        values = data.draw(st.lists(st.floats(width=8 * dtype.itemsize, allow_infinity=False), max_size=4))
    else:
        bounds = np.iinfo(dtype)
        values = data.draw(st.lists(st.integers(int(bounds.min), int(bounds.max)), max_size=4))
    array = pa.array(np.array(values, dtype))

    lost = [row for row, value in enumerate(values) if not exactly(value, target)]
    if lost:
        value = array[lost[0]].as_py()
        with pytest.raises(SchemaMismatchError, match=re.escape(f"'x': {value!r} in row {lost[0]} ")):
            cast(array, target)
    else:
        result = cast(array, target)
        assert result.type == target
        # Python compares integers and floats exactly.
        assert plain(result.to_pylist()) == plain(array.to_pylist())


def exactly(value: float, target: pa.DataType) -> bool:
    dtype = np.dtype(target.to_pandas_dtype())
    if value != value:
        return dtype.kind == "f"
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = dtype.type(value)
        return bool(np.isfinite(held)) and (int(held) == value if isinstance(value, int) else float(held) == value)
    bounds = np.iinfo(dtype)
    return value == int(value) and int(bounds.min) <= int(value) <= int(bounds.max)


VECTORS = [[1.0, 2.0], None, [3.0, None]]
TENSOR = pa.fixed_shape_tensor(pa.float32(), [2])


@pytest.mark.parametrize(
    ("source", "target", "rows"),
    [
        (pa.list_(pa.float32(), 2), TENSOR, VECTORS),
        (pa.list_(pa.float32(), 2), pa.list_(pa.float64(), 2), VECTORS),
        (pa.list_(pa.float64(), 2), pa.list_(pa.float32()), VECTORS),
        (pa.large_list(pa.float64()), pa.list_(pa.float32(), 2), VECTORS),
        (pa.list_(pa.float64()), pa.large_list(pa.float16()), [[1.0], None, [], [2.0, None]]),
        (pa.string(), pa.large_string(), ["a", None]),
        (pa.large_binary(), pa.binary(), [b"a", None]),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), ["a", None]),
        (pa.string(), pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
        (pa.struct([("a", pa.int64())]), pa.struct([("b", pa.string()), ("a", pa.int8())]), [{"a": 1}, None]),
        (pa.null(), pa.list_(pa.int8(), 2), [None]),
        (pa.timestamp("s"), pa.timestamp("ms"), [0, None]),
    ],
    ids=str,
)
def test_other_forms_of_the_same_values(source: pa.DataType, target: pa.DataType, rows: list) -> None:
    array = pa.array(rows, source)
    result = cast(pa.concat_arrays([array, array])[1:], target)
    assert result.type == target
    expected = pa.concat_arrays([array, array])[1:].to_pylist()
    if pa.types.is_struct(target):
        expected = [None if row is None else {"b": None, **row} for row in expected]
    assert result.to_pylist() == expected


@pytest.mark.parametrize(
    ("array", "target", "message"),
    [
        (pa.array([1, 300]), pa.uint8(), "300 in row 1"),
        (pa.array([0.5, 0.1]), pa.float32(), "0.1 in row 1"),
        (pa.array([2**53, 2**53 + 1]), pa.float64(), f"{2**53 + 1} in row 1"),
        (pa.array([[1, 300]], pa.list_(pa.int64(), 2)), pa.list_(pa.int8(), 2), "300"),
        (pa.array([[1.0]], pa.list_(pa.float32(), 1)), pa.list_(pa.float32(), 2), r"shape \[1\].*\[2\]"),
        (pa.array([[1.0], [1.0, 2.0]]), pa.list_(pa.float64(), 1), "row 1 has 2 elements"),
        (pa.array([1]), pa.string(), "no cast between"),
        (pa.array([True]), pa.int8(), "no cast between"),
        (pa.array([1]), pa.bool_(), "no cast between"),
        (pa.array([1]), pa.timestamp("s"), "no cast between"),
        (pa.array([1500], pa.timestamp("ms")), pa.timestamp("s"), "in row 0"),
        (pa.array([b"ab"], pa.binary(2)), bfloat16_field("x"), "bfloat16"),
        (pa.array([{"a": 1}]), pa.struct([("b", pa.int64())]), r"fields \['a'\]"),
        (pa.array([1, None]), pa.field("x", pa.int64(), nullable=False), "not nullable"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(array: pa.Array, target: pa.DataType | pa.Field, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=f"(?s)'x'.*{message}"):
        cast(array, target)


def test_columns_are_matched_by_name() -> None:
    table = pa.table({"b": [1], "a": [2]})
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("c", TENSOR)])
    result = conform(table, schema)
    assert result.schema == schema
    assert result.to_pydict() == {"a": [2], "b": [1], "c": [None]}
    with pytest.raises(SchemaMismatchError, match=r"columns \['b'\] are not in the schema"):
        conform(table, pa.schema([("a", pa.int64())]))
    with pytest.raises(SchemaMismatchError, match="'c' is missing"):
        conform(table, pa.schema([*table.schema, pa.field("c", pa.int8(), nullable=False)]))


def test_a_column_that_fits_is_not_copied() -> None:
    table = pa.table({"x": [1, 2]})
    result = conform(table, pa.schema([pa.field("x", pa.int64(), metadata={"k": "v"})]))
    assert result["x"].chunk(0).buffers()[1].address == table["x"].chunk(0).buffers()[1].address
    assert result.schema.field("x").metadata == {b"k": b"v"}
