"""Replaces nulls: Arrow columns and fill values in, columns without nulls out, by the rules that tensors follow."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.tensors.arrow_releases import fill_nulls
from ray_lance.tensors.dense import DENSE, Column, dense_converter, filled
from ray_lance.tensors.fixed_shape import assemble, take_apart
from ray_lance.tensors.kinds import FixedShape, is_bfloat16, tensor_kind
from ray_lance.tensors.memory import flat_array, flat_view, null_mask
from ray_lance.tensors.ragged import Rows
from ray_lance.tensors.tensor_options import NOT_GIVEN, FillValue

__all__ = ["check_values", "without_nulls"]


def without_nulls(column: Column) -> pa.Array:
    """Replace the nulls of a column by what was given as ``fill``; returns its array itself where nothing changes.

    A null list of numbers becomes an empty list, and a null struct one whose leaves are filled.

    Raises:
        TensorConversionError: The type cannot hold the value.
    """
    dtype = column.array.type
    if pa.types.is_struct(dtype) and tensor_kind(column.field) is None:
        return _struct(column)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return _list(column)
    if not _has_fill(column):
        return column.array
    kind = tensor_kind(column.field)
    if isinstance(kind, FixedShape):
        return _fixed(column, kind)
    if column.array.null_count == 0 and not pa.types.is_dictionary(dtype):
        return column.array
    if is_bfloat16(column.field):
        return flat_array(filled(column, flat_view(column.array), null_mask(column.array)))
    return _replaced(column.array, _scalar(column.name, dtype, column.options.fill_for(column.name)))


def check_values(fill: Any, schema: pa.Schema) -> None:
    """Refuse values that their column cannot hold.

    Args:
        fill: Values by entry of ``schema``, which are checked; or one for all columns, which is not.
        schema: The columns.

    Raises:
        TensorConversionError: A column cannot hold its value.
    """
    if isinstance(fill, Mapping):
        for field in schema:
            _check_value(field.name, field, fill)


def _check_value(name: str, field: pa.Field, fill: Mapping[str, FillValue]) -> None:
    if tensor_kind(field) is not None or is_bfloat16(field):  # checked when there are nulls
        return
    if pa.types.is_struct(field.type):
        for index in range(field.type.num_fields):
            child = field.type.field(index)
            _check_value(f"{name}.{child.name}", child, fill)
    elif pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        _check_value(name, field.type.value_field, fill)
    elif name in fill and not pa.types.is_null(field.type):
        _scalar(name, field.type, fill[name])


def _has_fill(column: Column) -> bool:
    """Whether a value was given for the column; one for all columns is meant for those that become tensors."""
    if isinstance(column.options.fill, Mapping):
        return column.name in column.options.fill
    field = column.field
    if pa.types.is_dictionary(field.type):
        field = pa.field(field.name, field.type.value_type)
    becomes_tensor = dense_converter(field) is not None and not pa.types.is_null(field.type)
    return becomes_tensor and column.options.fill is not None


def _struct(column: Column) -> pa.Array:
    before, dtype = column.array.flatten(), column.field.type
    after = []
    for index, array in enumerate(before):
        field = dtype.field(index)
        after.append(without_nulls(column.child(field, array, f"{column.name}.{field.name}")))
    if all(new is old for new, old in zip(after, before, strict=True)):
        return column.array
    return pa.StructArray.from_arrays(after, fields=list(dtype))


def _list(column: Column) -> pa.Array:
    array, item = column.array, column.field.type.value_field
    if column.options.fill_for(column.name) is NOT_GIVEN:
        return array
    before = array.flatten()
    child = column.child(item, before)
    after = without_nulls(child)
    nulls = null_mask(array) if dense_converter(item) is None else None
    if after is before and (array.null_count == 0 or nulls is not None):
        return array
    offsets = pa.array(Rows.of_lists(array).offsets)
    mask = None if nulls is None else pa.array(nulls)
    kind = pa.LargeListArray if pa.types.is_large_list(array.type) else pa.ListArray
    narrow = offsets if kind is pa.LargeListArray else offsets.cast(pa.int32())
    return kind.from_arrays(narrow, after, type=array.type, mask=mask)


def _fixed(column: Column, kind: FixedShape) -> pa.Array:
    leaves = take_apart(column.array, kind.size, column.name)
    nulls = leaves.nulls(kind.size)
    if nulls is None:
        return column.array
    values = flat_array(filled(column, flat_view(leaves.values), nulls))
    return assemble(column.array.type, values, len(column.array))


def _replaced(array: pa.Array, value: pa.Scalar) -> pa.Array:
    if not pa.types.is_dictionary(array.type):
        return fill_nulls(array, value)
    values = array.dictionary.take(array.indices)
    return fill_nulls(values, value).dictionary_encode().cast(array.type) if values.null_count else array


def _scalar(name: str, dtype: pa.DataType, value: Any) -> pa.Scalar:
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    try:
        return _converted(dtype, value)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
        raise TensorConversionError(f"fill={value!r} for column {name!r} cannot be held by {dtype}: {error}") from None


def _converted(dtype: pa.DataType, value: Any) -> pa.Scalar:
    if dtype.id not in DENSE:
        return pa.scalar(value, dtype)
    if isinstance(value, (str, bytes)):
        raise TypeError("it is no number")
    if pa.types.is_floating(dtype):
        return pa.scalar(np.dtype(dtype.to_pandas_dtype()).type(value))
    if pa.types.is_decimal(dtype):
        return pa.scalar(decimal.Decimal(str(value)), dtype)
    if int(value) != value or (pa.types.is_boolean(dtype) and value not in (0, 1)):
        raise ValueError("it is none of its values")
    if pa.types.is_boolean(dtype):
        return pa.scalar(bool(value))
    if pa.types.is_temporal(dtype):
        return pa.scalar(int(value), pa.int32() if dtype.bit_width == 32 else pa.int64()).cast(dtype)
    return pa.scalar(int(value), dtype)
