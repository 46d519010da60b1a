"""Ray Data -> Lance: blocks in, tables of standard Arrow types out, which are what a write stores."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.fixed_shape import assemble, fixed_type, marked_rows, take_apart
from ray_lance.tensors.kinds import (
    RAY_FIXED,
    RAY_VARIABLE,
    ROW_COUNT_COLUMN,
    FixedShape,
    VariableShape,
    extension_name,
    is_numeric,
    refuse_pickled,
    retyped,
    tensor_kind,
    variable_shape_field,
)
from ray_lance.tensors.memory import storage
from ray_lance.tensors.ragged import Rows, data_and_shapes, make_lists, make_shaped, row_shapes

__all__ = ["storable", "storable_schema"]


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that :func:`storable` gives to blocks of ``schema``: standard Arrow types only.

    Raises:
        SchemaMismatchError: A column of pickled objects, of Ray's string tensors, or of Ray's tensors inside another
            type; or no column at all.
    """
    if schema.names == [ROW_COUNT_COLUMN]:
        raise SchemaMismatchError("the rows to write have no columns: a dataset needs one at least")
    return pa.schema([_storable_field(field) for field in schema], metadata=schema.metadata)


def storable(table: pa.Table) -> pa.Table:
    """A Ray Data block in standard Arrow types: what a write stores.

    ===========================================================  ==================================================
    in the block                                                 stored as
    ===========================================================  ==================================================
    Ray's tensor types, arrow.fixed_shape_tensor: one dimension  fixed_size_list<T>[d]
    the same, two dimensions and more                            arrow.fixed_shape_tensor
    Ray's variable-shaped tensors: one dimension                 list<T>
    the same, two dimensions and more                            arrow.variable_shape_tensor: struct{data, shape}
    all other types                                              unchanged
    ===========================================================  ==================================================

    Nulls, field metadata and schema metadata are kept. Values are not copied. Rows that :func:`deliver` marked as
    null are null again.

    Raises:
        SchemaMismatchError: As :func:`storable_schema`.
    """
    schema = storable_schema(table.schema)
    before = table.columns
    columns = [
        _storable_column(field, column, target)
        for field, column, target in zip(table.schema, before, schema, strict=True)
    ]
    same = all(new is old for new, old in zip(columns, before, strict=True))
    if same and schema.equals(table.schema, check_metadata=True):
        return table
    return pa.Table.from_arrays(columns, schema=schema)


def _storable_field(field: pa.Field) -> pa.Field:
    refuse_pickled(field)
    name, kind = extension_name(field), tensor_kind(field)
    if name in RAY_FIXED or name == RAY_VARIABLE:
        assert kind is not None
        if not (is_numeric(kind.value.type) or pa.types.is_boolean(kind.value.type)):
            raise SchemaMismatchError(
                f"column {field.name!r} holds tensors of {kind.value.type}: only numbers and bool can be stored as "
                "tensors; give strings as lists"
            )
    else:
        _refuse_inner(field, field.type)
    if isinstance(kind, VariableShape):
        if name == RAY_VARIABLE and kind.ndim <= 1:
            return retyped(field, pa.list_(kind.value))
        return variable_shape_field(field, kind.value, kind.ndim)
    flat = isinstance(field.type, pa.FixedShapeTensorType) and len(field.type.shape) == 1
    if isinstance(kind, FixedShape) and (name in RAY_FIXED or flat):
        return retyped(field, fixed_type(kind.value, kind.shape))
    return field


def _refuse_inner(field: pa.Field, dtype: pa.DataType) -> None:
    for index in range(dtype.num_fields):
        child = dtype.field(index)
        name = extension_name(child)
        if name in RAY_FIXED or name == RAY_VARIABLE:
            raise SchemaMismatchError(
                f"column {field.name!r} holds Ray's tensors inside {field.type}: give each tensor a column of its own"
            )
        _refuse_inner(field, child.type)


def _storable_column(field: pa.Field, column: pa.ChunkedArray, target: pa.Field) -> pa.ChunkedArray:
    kind, name = tensor_kind(field), extension_name(field)
    if isinstance(kind, FixedShape) and (name in RAY_FIXED or isinstance(field.type, pa.FixedShapeTensorType)):
        convert: Any = _stored_fixed
    elif name == RAY_VARIABLE:
        convert = _stored_variable
    elif field.type != target.type:  # the same storage under another name
        convert = _stored_as_is
    else:
        return column
    before = column.chunks
    chunks = [convert(field, chunk, target) for chunk in before]
    if field.type == target.type and all(new is old for new, old in zip(chunks, before, strict=True)):
        return column
    return pa.chunked_array(chunks, type=target.type)


def _stored_as_is(_field: pa.Field, array: pa.Array, _target: pa.Field) -> pa.Array:
    return storage(array)


def _stored_fixed(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    kind = tensor_kind(field)
    assert isinstance(kind, FixedShape)
    leaves = take_apart(array, kind.size, field.name)
    rows, marked = leaves.rows, marked_rows(leaves.values, kind.size)
    if marked is not None:
        rows = marked if rows is None else rows | marked
    elif array.type == target.type:
        return array
    return assemble(target.type, leaves.values, len(array), rows)


def _stored_variable(field: pa.Field, array: pa.Array, target: pa.Field) -> pa.Array:
    kind = tensor_kind(field)
    assert isinstance(kind, VariableShape)
    data, shapes = data_and_shapes(array)
    rows = Rows.of_lists(data)
    if kind.ndim <= 1:
        return make_lists(target.type.value_field, data.flatten(), rows.offsets, rows.nulls)
    sizes = row_shapes(rows, shapes, kind.ndim, field.name)
    return make_shaped(target.type, data.flatten(), sizes, rows.nulls)
