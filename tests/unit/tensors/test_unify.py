"""Whatever two blocks hold, one type holds the values of both as they are, or an error says that none does."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.casts import conform
from ray_lance.tensors.kinds import VariableShape, bfloat16_field, tensor_kind, variable_shape_field
from ray_lance.tensors.unify import unify_fields, unify_schemas


def struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


def categories(values: pa.DataType, indices: pa.DataType | None = None) -> pa.DataType:
    return pa.dictionary(indices or pa.int32(), values)


UNIFIED = [
    (pa.null(), pa.string(), pa.string()),
    (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.int8(), pa.int32(), pa.int32()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int32(), pa.int64()),
    (pa.uint64(), pa.int64(), pa.uint64()),
    (pa.int64(), pa.float64(), pa.float64()),
    (pa.int64(), pa.float32(), pa.float64()),
    (pa.int16(), pa.float32(), pa.float32()),
    (pa.int8(), pa.float16(), pa.float16()),
    (pa.int32(), pa.float32(), pa.float64()),
    (pa.float16(), pa.float64(), pa.float64()),
    (pa.decimal128(2, 1), pa.decimal128(7, 2), pa.decimal128(7, 2)),
    (pa.decimal128(5, 0), pa.decimal128(4, 3), pa.decimal128(8, 3)),
    (pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal256(48, 10)),
    (pa.decimal128(4, 2), pa.int32(), pa.decimal128(12, 2)),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.string_view(), pa.string(), pa.string()),
    (pa.binary(2), pa.binary(3), pa.binary()),
    (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (pa.time32("s"), pa.time32("ms"), pa.time32("ms")),
    (pa.duration("s"), pa.duration("us"), pa.duration("us")),
    (pa.date32(), pa.date64(), pa.date64()),
    (pa.list_(pa.int8()), pa.large_list(pa.int16()), pa.large_list(pa.int16())),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int16(), 2), pa.list_(pa.int16(), 2)),
    (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
    (pa.list_(pa.int8(), 2), pa.list_(pa.null()), pa.list_(pa.int8())),
    (struct(a=pa.int8()), struct(b=pa.string()), struct(a=pa.int8(), b=pa.string())),
    (
        struct(a=struct(b=pa.null())),
        struct(a=struct(b=pa.int8(), c=pa.int8())),
        struct(a=struct(b=pa.int8(), c=pa.int8())),
    ),
    (pa.list_(struct(a=pa.null())), pa.list_(struct(a=pa.string())), pa.list_(struct(a=pa.string()))),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.float64())),
    (categories(pa.string()), categories(pa.large_string(), pa.int64()), categories(pa.large_string(), pa.int64())),
    (categories(pa.string()), pa.string(), pa.string()),
    (categories(pa.null()), categories(pa.string()), categories(pa.string())),
    (
        pa.fixed_shape_tensor(pa.int8(), [2, 3]),
        pa.fixed_shape_tensor(pa.int16(), [2, 3]),
        pa.fixed_shape_tensor(pa.int16(), [2, 3]),
    ),
    (
        pa.fixed_shape_tensor(pa.int8(), [2, 3]),
        pa.list_(pa.list_(pa.int8(), 3), 2),
        pa.fixed_shape_tensor(pa.int8(), [2, 3]),
    ),
    (pa.list_(pa.list_(pa.int8(), 3), 2), pa.list_(pa.list_(pa.int8(), 3), 4), pa.list_(pa.list_(pa.int8(), 3))),
]


@pytest.mark.parametrize(("left", "right", "expected"), UNIFIED, ids=str)
def test_the_narrowest_type_of_both(left, right, expected):
    for one, other in ((left, right), (right, left)):
        unified = unify_fields(pa.field("x", one), pa.field("x", other))

        assert unified.type == expected or {*unified.type} == {*expected}  # structs: in order of appearance
        assert unified.name == "x"


TENSORS = [
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.fixed_shape_tensor(pa.uint8(), [4, 3]), 2),
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.list_(pa.list_(pa.uint8(), 4), 3), 2),
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.list_(pa.list_(pa.uint8(), 3)), 2),
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3, 1]), pa.fixed_shape_tensor(pa.uint8(), [2, 3, 3]), 3),
]


@pytest.mark.parametrize(("left", "right", "ndim"), TENSORS, ids=str)
def test_tensors_of_different_shapes_become_tensors_of_varying_shape(left, right, ndim):
    varying = variable_shape_field(pa.field("x", pa.null()), pa.field("item", pa.uint8()), ndim)
    for one, other in ((left, right), (right, left)):
        unified = unify_fields(pa.field("x", one), pa.field("x", other))

        assert tensor_kind(unified) == VariableShape(pa.field("item", pa.uint8()), ndim)
        assert tensor_kind(unify_fields(varying, pa.field("x", one))) == tensor_kind(unified)
        assert tensor_kind(unify_fields(pa.field("x", one), varying)) == tensor_kind(unified)


APART = [
    (pa.int64(), pa.string()),
    (pa.bool_(), pa.int8()),
    (pa.float64(), pa.decimal128(5, 2)),
    (pa.string(), pa.binary()),
    (pa.timestamp("us"), pa.timestamp("us", "UTC")),
    (pa.timestamp("us", "America/New_York"), pa.timestamp("us", "UTC")),
    (pa.timestamp("us"), pa.date32()),
    (pa.int64(), pa.timestamp("us")),
    (pa.list_(pa.int8()), pa.int8()),
    (struct(a=pa.int8()), pa.string()),
    (pa.decimal256(76, 0), pa.decimal256(76, 76)),
    *([(pa.uuid(), pa.binary(16))] if hasattr(pa, "uuid") else []),  # pyarrow 18
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.fixed_shape_tensor(pa.uint8(), [2, 3, 3])),
    (pa.fixed_shape_tensor(pa.uint8(), [2, 3]), pa.int8()),
]


@pytest.mark.parametrize(("left", "right"), APART, ids=str)
@pytest.mark.parametrize(
    ("nested", "path"),
    [
        (lambda dtype: dtype, "x"),
        (lambda dtype: struct(a=dtype), "x.a"),
        (lambda dtype: pa.list_(struct(a=struct(b=dtype))), "x.a.b"),
    ],
)
def test_what_no_type_holds_is_refused_by_path_and_says_what_to_write(left, right, nested, path):
    for one, other in ((left, right), (right, left)):
        with pytest.raises(SchemaMismatchError, match=rf"column '{path}' is .*schema=\[pyarrow.field\('x', "):
            unify_schemas([pa.schema([("x", nested(one))]), pa.schema([("x", nested(other))])])


def test_bfloat16_is_nothing_but_bfloat16():
    half = bfloat16_field("x")

    assert unify_fields(half, half) == half
    with pytest.raises(SchemaMismatchError, match=r"lance\.bfloat16"):
        unify_fields(half, pa.field("x", pa.binary(2)))


def test_columns_come_in_order_of_appearance_and_are_nullable_where_one_lacks_them():
    first = pa.schema([pa.field("a", pa.int8(), nullable=False, metadata={"k": "v"})], metadata={"m": "1"})
    second = pa.schema([("b", pa.int8()), pa.field("a", pa.int8(), nullable=False)], metadata={"m": "2", "n": "3"})

    unified = unify_schemas([first, second])

    expected = [pa.field("a", pa.int8(), nullable=False, metadata={"k": "v"}), pa.field("b", pa.int8())]
    assert unified.equals(pa.schema(expected, metadata={"m": "1", "n": "3"}), check_metadata=True)
    assert unify_schemas([second, pa.schema([("b", pa.int8())])]).field("a").nullable


SCALARS = st.none() | st.integers(-100, 100) | st.floats(-4, 4, width=32)
ROWS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_every_block_can_be_cast_to_the_unified_schema(rows):
    tables = [pa.Table.from_pylist([{"x": row}]) for row in rows if _is_one_type(row)]
    if not tables:
        return
    try:
        schema = unify_schemas([table.schema for table in tables])
    except SchemaMismatchError:
        return

    for table in tables:
        cast = conform(table, schema)["x"].to_pylist()[0]
        assert _same(table["x"].to_pylist()[0], cast)


def _is_one_type(row: object) -> bool:
    try:
        pa.array([row])
    except pa.ArrowException:
        return False
    return True


def _same(before: object, after: object) -> bool:
    """Equal, with nulls for the fields that were added."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(_same(before.get(name), value) for name, value in after.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_same, before, after))
    return before == after
