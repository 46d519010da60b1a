"""Lance -> Ray Data: tables as Lance scans them in, blocks out whose tensors Ray converts rightly.

Ray turns arrow.fixed_shape_tensor columns into arrays and torch tensors without a copy, but it reads whatever lies
under null elements, fails on null rows, and cannot convert bool tensors of that type at all. So tensors are delivered
in the type that Ray converts rightly, and nulls are made explicit first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.tensors.arrow_releases import loses_null_tensors
from ray_lance.tensors.casts import conform
from ray_lance.tensors.dense import Column, filled, null_error
from ray_lance.tensors.filling import without_nulls
from ray_lance.tensors.fixed_shape import assemble, fixed_type, mark_rows, take_apart
from ray_lance.tensors.from_ray import storable_schema
from ray_lance.tensors.kinds import (
    RAY_FIXED,
    FixedShape,
    VariableShape,
    extension_name,
    is_numeric,
    refuse_pickled,
    retyped,
    tensor_kind,
)
from ray_lance.tensors.memory import flat_array, flat_view, nulls_of
from ray_lance.tensors.ragged import Rows, data_and_shapes, make_lists, row_shapes
from ray_lance.tensors.tensor_options import NOT_GIVEN, Fill, Options, named_fill

__all__ = ["deliver", "delivered_schema"]


def delivered_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the blocks that a read of ``schema`` delivers; it depends on no data.

    ==========================================================  ===================================================
    stored as                                                   delivered as
    ==========================================================  ===================================================
    fixed_size_list of numbers, nested or not; Ray's tensors    arrow.fixed_shape_tensor
    bool vectors                                                fixed_size_list<bool>[d]
    bool tensors of two dimensions and more                     Ray's ArrowTensorTypeV2 (the only one it converts)
    variable-shape tensors, ours and Ray's                      list<T> for one dimension, else Ray's
                                                                ArrowVariableShapedTensorType
    all other types                                             unchanged
    ==========================================================  ===================================================

    Raises:
        TensorConversionError: A column of pickled objects, or tensor metadata that is not JSON.
    """
    return pa.schema([_delivered_field(field) for field in schema], metadata=schema.metadata)


def deliver(
    table: pa.Table,
    schema: pa.Schema,
    *,
    fill: Fill = None,
    nullable: Iterable[str] = (),
) -> pa.Table:
    """``table`` as scanned by Lance, in the types that Ray converts to arrays and tensors rightly.

    Tensors without nulls are not copied. In float tensors, null elements become NaN, and a null row becomes a row of
    NaNs whose bits say that it is null: :func:`storable` makes it null again, so that reading and writing back loses
    nothing. Null rows of integer tensors stay null, and Ray refuses to convert them (``TensorCollate(fill=)`` does).

    Args:
        table: Columns as Lance returns them, with Ray's types registered or not.
        schema: :func:`delivered_schema` of the dataset's (projected) schema. A column that ``table`` lacks is null.
        fill: What replaces nulls; a null row of numbers of varying length or shape becomes an empty one. As for
            :func:`ray_lance.tensors.to_tensors`, except that what has no type for the value is refused.
        nullable: Columns of tensors of varying shape whose null rows stay null without a ``fill``. Ray's rows and
            Arrow batches tell them from tensors; its numpy batches hold an empty tensor for each.

    Returns:
        A table of ``schema``.

    Raises:
        TensorConversionError: Nulls that Ray would silently turn into numbers and that have no ``fill``: null
            elements of integer and bool tensors, null rows of n-dimensional bool tensors and of variable-shape tensors
            that are not ``nullable``. Or a ``fill`` that the column's type cannot hold.
        SchemaMismatchError: A column that cannot be cast to ``schema`` without loss.
    """
    options = Options("list", named_fill(fill, schema), frozenset(nullable))
    columns = []
    for target in schema:
        if target.name in table.column_names:
            field, column = table.schema.field(target.name), table.column(target.name)
        else:
            field, column = target, pa.chunked_array([nulls_of(len(table), target.type)])
        columns.append(_delivered_column(field, column, target, options))
    return pa.Table.from_arrays(columns, schema=schema)


def _delivered_field(field: pa.Field) -> pa.Field:
    refuse_pickled(field, TensorConversionError)
    kind = tensor_kind(field)
    if kind is None or not (is_numeric(kind.value.type) or pa.types.is_boolean(kind.value.type)):
        return field
    if isinstance(kind, VariableShape):
        return retyped(field, _ray_variable(kind) if kind.ndim > 1 else pa.list_(kind.value))
    if kind.permutation is not None:
        return field
    if pa.types.is_boolean(kind.value.type):
        return retyped(field, _ray_fixed(kind) if len(kind.shape) > 1 else fixed_type(kind.value, kind.shape))
    dtype = pa.fixed_shape_tensor(kind.value.type, list(kind.shape)) if kind.shape else kind.value.type
    return retyped(field, dtype)


def _ray_fixed(kind: FixedShape) -> pa.DataType:
    from ray.data.extensions import ArrowTensorTypeV2

    return ArrowTensorTypeV2(kind.shape, kind.value.type)


def _ray_variable(kind: VariableShape) -> pa.DataType:
    from ray.data.extensions import ArrowVariableShapedTensorType

    return ArrowVariableShapedTensorType(kind.value.type, kind.ndim)


def _delivered_column(field: pa.Field, column: pa.ChunkedArray, target: pa.Field, options: Options) -> pa.ChunkedArray:
    source, wanted = tensor_kind(field), tensor_kind(target)
    convert: Callable[[Column, pa.Field], pa.Array]
    if isinstance(source, FixedShape) and isinstance(wanted, FixedShape) and source.value.type == wanted.value.type:
        convert = _delivered_fixed
    elif isinstance(source, VariableShape):
        convert = _delivered_variable
    elif field.type == target.type:
        if options.fill is None:
            return column
        convert = _delivered_filled
    else:
        one = pa.Table.from_arrays([column], schema=pa.schema([field]))
        fitting = conform(one, storable_schema(pa.schema([target])))
        return _delivered_column(fitting.schema.field(0), fitting.column(0), target, options)
    chunks = [convert(Column(field.name, field, chunk, options), target) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=target.type)


def _delivered_filled(column: Column, target: pa.Field) -> pa.Array:  # noqa: ARG001
    return without_nulls(column)


def _delivered_fixed(column: Column, target: pa.Field) -> pa.Array:
    kind = tensor_kind(target)
    assert isinstance(kind, FixedShape)
    leaves = take_apart(column.array, kind.size, column.name)
    values, rows = leaves.values, leaves.rows
    keeps_nulls = pa.types.is_fixed_size_list(target.type)  # Ray converts these through Python's None
    given = column.options.fill_for(column.name) is not NOT_GIVEN
    if (leaves.elements is not None or rows is not None) and (given or not keeps_nulls):
        ray_type = extension_name(target) in RAY_FIXED
        is_lost = not pa.types.is_floating(values.type) and loses_null_tensors()
        if given or (rows is not None and (ray_type or is_lost)):
            values = flat_array(filled(column, flat_view(values), leaves.nulls(kind.size)))
            rows = None
        elif leaves.elements is not None:
            values = flat_array(filled(column, flat_view(values), leaves.elements))
        if rows is not None and pa.types.is_floating(values.type):
            values, rows = mark_rows(values, rows, kind.size), None
    elif column.array.type == target.type and values.offset == 0:
        return column.array
    if extension_name(target) in RAY_FIXED:
        offsets = pa.array(np.arange(len(column.array) + 1) * kind.size)
        return target.type.wrap_array(pa.LargeListArray.from_arrays(offsets, values))
    return assemble(target.type, values, len(column.array), rows)


def _delivered_variable(column: Column, target: pa.Field) -> pa.Array:
    source = tensor_kind(column.field)
    assert isinstance(source, VariableShape)
    if column.field.type == target.type and column.array.null_count == 0:
        return column.array
    data, shapes = data_and_shapes(column.array)
    rows = Rows.of_lists(data)
    if not isinstance(tensor_kind(target), VariableShape):
        lists = make_lists(target.type.value_field, data.flatten(), rows.offsets, rows.nulls)
        return without_nulls(Column(column.name, target, lists, column.options))
    nulls = rows.nulls if column.options.fill_for(column.name) is NOT_GIVEN else None
    if nulls is not None and column.name not in column.options.nullable:
        raise null_error(column, "which Ray cannot tell from tensors")
    sizes = row_shapes(rows, shapes, source.ndim, column.name)
    values = data.flatten()
    if values.null_count:
        missing = np.asarray(values.is_null())
        values = flat_array(filled(column.child(source.value, values), flat_view(values), missing))
    lists = pa.LargeListArray.from_arrays(pa.array(rows.offsets), values)
    dimensions = pa.array(np.arange(len(sizes) + 1, dtype=np.int32) * source.ndim)
    shape = pa.ListArray.from_arrays(dimensions, pa.array(sizes.reshape(-1)))
    mask = None if nulls is None else pa.array(nulls)
    return target.type.wrap_array(pa.StructArray.from_arrays([lists, shape], ["data", "shape"], mask=mask))
