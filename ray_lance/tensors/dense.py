"""Converts dense columns: numbers, times, decimals and tensors of one shape in, one tensor with a row per row out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors.arrow_releases import type_ids
from ray_lance.tensors.fixed_shape import marked_rows, take_apart
from ray_lance.tensors.kinds import FixedShape, is_bfloat16, is_numeric, tensor_kind
from ray_lance.tensors.memory import Mask, flat_view, null_mask, write_bits
from ray_lance.tensors.tensor_options import NOT_GIVEN, Options

__all__ = [
    "DENSE",
    "Column",
    "check_value",
    "dense_converter",
    "filled",
    "null_error",
    "write_fill",
]


class Column(NamedTuple):
    """A column to be converted: ``name`` is the entry that it becomes, and its name in errors."""

    name: str
    field: pa.Field
    array: pa.Array
    options: Options

    def child(self, field: pa.Field, array: pa.Array, name: str | None = None) -> Column:
        """The values inside this column, to be converted with the same options."""
        return Column(self.name if name is None else name, field, array, self.options)


def numbers(column: Column) -> torch.Tensor:
    return filled(column, flat_view(column.array), null_mask(column.array))


def decimals(column: Column) -> torch.Tensor:
    # pyarrow's own cast to float64 is off by a rounding error for 0.47; its parser of numbers is not.
    return numbers(column.child(column.field, column.array.cast(pa.string()).cast(pa.float64())))


def all_null(column: Column) -> torch.Tensor:
    value = column.options.fill_for(column.name)
    if value is NOT_GIVEN or isinstance(value, (str, bytes)):
        value = float("nan")
    return torch.full((len(column.array),), value)


def fixed(column: Column, kind: FixedShape) -> torch.Tensor:
    check_value(column, kind.value)
    length, size = len(column.array), kind.size
    leaves = take_apart(column.array, size, column.name)
    nulls = leaves.nulls(size)
    if column.options.fill_for(column.name) is not NOT_GIVEN:
        rows = marked_rows(leaves.values, size)
        if rows is not None:
            spread = np.repeat(rows, size)
            nulls = spread if nulls is None else nulls | spread
    tensor = filled(column, flat_view(leaves.values), nulls).view(length, *kind.shape)
    if kind.permutation is not None:
        tensor = tensor.permute(0, *(dimension + 1 for dimension in kind.permutation))
    return tensor


def filled(column: Column, tensor: torch.Tensor, nulls: Mask | None) -> torch.Tensor:
    """``tensor`` with its nulls replaced, in a copy; itself where there is none."""
    if nulls is None:
        return tensor
    value = column.options.fill_for(column.name)
    if value is NOT_GIVEN:
        if not tensor.is_floating_point():
            raise null_error(column, f"and {tensor.dtype} has no value for them")
        value = float("nan")
    tensor = tensor.clone()
    write_fill(column, tensor, nulls, value)
    return tensor


def write_fill(column: Column, tensor: torch.Tensor, mask: Mask, value: Any) -> None:
    """Set ``tensor[mask] = value`` in place, or raise TensorConversionError where the dtype cannot hold it."""
    try:
        write_bits(tensor, mask, value)
    except (OverflowError, TypeError, ValueError) as error:
        raise TensorConversionError(
            f"fill={value!r} for column {column.name!r} cannot be held by {tensor.dtype}: {error}"
        ) from None


def null_error(column: Column, why: str) -> TensorConversionError:
    """The error to raise for nulls that have no representation."""
    return TensorConversionError(
        f"column {column.name!r} ({column.field.type}) holds nulls, {why}: give fill={{{column.name!r}: value}}, "
        "or leave such rows out with a filter"
    )


def check_value(column: Column, value: pa.Field) -> None:
    """Raise TensorConversionError where torch has no dtype for the elements of a tensor column."""
    if not (is_numeric(value.type) or pa.types.is_boolean(value.type) or is_bfloat16(value)):
        raise TensorConversionError(
            f"column {column.name!r} holds tensors of {value.type}, which torch has no dtype for: leave the column out"
        )


def dense_converter(field: pa.Field) -> Callable[[Column], torch.Tensor] | None:
    """The converter of ``field`` where it makes one tensor with one row per row, else None."""
    if isinstance(field.type, pa.BaseExtensionType) or field.type.id not in DENSE:
        if is_bfloat16(field):
            return numbers
        kind = tensor_kind(field)
        return (lambda column: fixed(column, kind)) if isinstance(kind, FixedShape) else None
    return DENSE[field.type.id]


DENSE: dict[int, Callable[[Column], torch.Tensor]] = {
    **dict.fromkeys(type_ids("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"), numbers),
    **dict.fromkeys(type_ids("HALF_FLOAT", "FLOAT", "DOUBLE", "BOOL"), numbers),
    **dict.fromkeys(type_ids("TIMESTAMP", "DATE32", "DATE64", "TIME32", "TIME64", "DURATION"), numbers),
    **dict.fromkeys(type_ids("DECIMAL32", "DECIMAL64", "DECIMAL128", "DECIMAL256"), decimals),
    **dict.fromkeys(type_ids("NA"), all_null),
}
