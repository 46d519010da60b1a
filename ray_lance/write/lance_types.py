"""Converts types: an Arrow schema in, the nearest types that Lance stores out."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from ray_lance.errors import SchemaMismatchError
from ray_lance.tensors.kinds import child_fields, with_children

__all__ = ["has_narrow_indices", "lance_schema", "lance_type", "without_categories"]

_INDEX_BITS = 32
_DECIMAL_BITS = 128


def lance_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` in types that Lance stores, at any depth.

    ===========================================  =====================================================================
    in Arrow                                     stored as
    ===========================================  =====================================================================
    string_view, binary_view                     string, binary
    list_view, large_list_view                   list, large_list
    run_end_encoded<T>                           T
    decimal32, decimal64                         decimal128
    dictionary<int8 or int16, T>                 dictionary<int32, T>: the categories of all batches of a file share one
                                                 dictionary, which may outgrow narrow indices
    dictionary that is ordered                   dictionary
    dictionary<T> of times, decimals and lists   T
    ===========================================  =====================================================================

    Raises:
        SchemaMismatchError: A column has a type without a counterpart in Lance: a union or an interval.
    """
    return pa.schema([_field(field) for field in schema], metadata=schema.metadata)


def lance_type(dtype: pa.DataType) -> pa.DataType:
    """``dtype`` as :func:`lance_schema` converts it; unions and intervals stay."""
    if pa.types.is_run_end_encoded(dtype):
        return lance_type(dtype.value_type)
    if pa.types.is_dictionary(dtype):
        return _dictionary(dtype)
    if pa.types.is_decimal(dtype) and dtype.bit_width < _DECIMAL_BITS:
        return pa.decimal128(dtype.precision, dtype.scale)
    plain: dict[Callable[[pa.DataType], bool], pa.DataType] = {
        pa.types.is_string_view: pa.string(),
        pa.types.is_binary_view: pa.binary(),
    }
    dtype = next((stored for is_view, stored in plain.items() if is_view(dtype)), dtype)
    if pa.types.is_list_view(dtype):
        dtype = pa.list_(dtype.value_field)
    elif pa.types.is_large_list_view(dtype):
        dtype = pa.large_list(dtype.value_field)
    return with_children(dtype, [child.with_type(lance_type(child.type)) for child in child_fields(dtype)])


def has_narrow_indices(dtype: pa.DataType) -> bool:
    """Whether ``dtype`` has categories of which a file may have more than the indices can count."""
    if pa.types.is_dictionary(dtype):
        return bool(dtype.index_type.bit_width < _INDEX_BITS)
    return any(has_narrow_indices(child.type) for child in child_fields(dtype))


def without_categories(dtype: pa.DataType) -> pa.DataType:
    """``dtype`` with dictionaries replaced by the type of their values."""
    if pa.types.is_dictionary(dtype):
        return dtype.value_type
    return with_children(dtype, [child.with_type(without_categories(child.type)) for child in child_fields(dtype)])


def _field(field: pa.Field) -> pa.Field:
    dtype = lance_type(field.type)
    if (foreign := _foreign(dtype)) is not None:
        raise SchemaMismatchError(
            f"column {field.name!r} is {field.type}, and Lance has no type {foreign}: convert the column first"
        )
    return field.with_type(dtype)


def _dictionary(dtype: pa.DictionaryType) -> pa.DataType:
    values = lance_type(dtype.value_type)
    refused = (pa.types.is_null, pa.types.is_temporal, pa.types.is_decimal, pa.types.is_fixed_size_binary)
    if values.num_fields or any(is_refused(values) for is_refused in refused):
        return values
    indices = dtype.index_type if dtype.index_type.bit_width >= _INDEX_BITS else pa.int32()
    return pa.dictionary(indices, values)


def _foreign(dtype: pa.DataType) -> pa.DataType | None:
    """The first type in ``dtype`` that Lance does not have."""
    if pa.types.is_union(dtype) or pa.types.is_interval(dtype):
        return dtype
    return next((found for child in child_fields(dtype) if (found := _foreign(child.type)) is not None), None)
