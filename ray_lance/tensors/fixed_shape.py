"""Tensors of one shape: columns of any layout in, flat values and null masks out, and back.

The layouts are fixed-size lists, nested ones, Arrow's fixed-shape tensors, and the variable-size lists that Ray's
tensor types store. A null row of floats can pass through Ray as a row of NaNs with a special bit pattern (see
:func:`mark_rows`), as R does for its NA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_lance.errors import TensorConversionError
from ray_lance.tensors.kinds import bfloat16_field, is_bfloat16, storage_type
from ray_lance.tensors.memory import Mask, null_mask, rebased, storage

__all__ = ["Leaves", "assemble", "fixed_type", "mark_rows", "marked_rows", "take_apart"]

# Quiet NaNs with a payload that arithmetic never makes by itself (1954 as in R's NA, cut to fit float16) and that
# arithmetic passes on: what is computed from a null row is a null row again.
_NULL_BITS: dict[pa.DataType, np.unsignedinteger[Any]] = {
    pa.float16(): np.uint16(0x7FA2),
    pa.float32(): np.uint32(0x7FC007A2),
    pa.float64(): np.uint64(0x7FF80000000007A2),
}


@dataclass(frozen=True)
class Leaves:
    """The flat values of ``n`` rows of ``size`` elements, and where they are null.

    Attributes:
        values: Array of ``n * size`` elements. What lies under nulls is undefined.
        elements: ``(n * size,)`` bool, True for null elements of any row; None where there is none.
        rows: ``(n,)`` bool, True for null rows; None where there is none.
    """

    values: pa.Array
    elements: Mask | None
    rows: Mask | None

    def nulls(self, size: int) -> Mask | None:
        """``(n * size,)`` bool, True for each element that is null or lies in a null row."""
        if self.rows is None:
            return self.elements
        spread = np.repeat(self.rows, size)
        return spread if self.elements is None else spread | self.elements


def take_apart(array: pa.Array, size: int, name: str) -> Leaves:
    """Flatten rows of ``size`` elements each. Copies nothing unless a variable-size list holds null rows.

    Args:
        array: Fixed-size list (nested or not), fixed-shape tensor, or list whose rows have one length.
        size: Elements per row, over all dimensions.
        name: Name of the column, for errors.

    Raises:
        TensorConversionError: A variable-size list with a row of another length.
    """
    array = storage(array)
    rows = null_mask(array)
    if pa.types.is_fixed_size_list(array.type):
        length = array.type.list_size
        values = storage(array.values.slice(array.offset * length, len(array) * length))
        if pa.types.is_fixed_size_list(values.type):
            inner_size = size // length if length else 0
            inner = take_apart(values, inner_size, name)
            return Leaves(inner.values, _hide(inner.nulls(inner_size), rows, size), rows)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        values = storage(_equal_rows(array, size, rows, name))
    else:  # a tensor of no dimensions is a plain value
        return Leaves(array, None, rows)
    return Leaves(values, _hide(null_mask(values), rows, size), rows)


def fixed_type(value: pa.Field, shape: tuple[int, ...]) -> pa.DataType:
    """The standard Arrow type of tensors of ``shape``: what this library writes.

    Returns:
        ``value.type`` for no dimension, fixed_size_list for one (so that a vector index can be built on it),
        arrow.fixed_shape_tensor for more; nested fixed_size_list for bfloat16, which a fixed-shape tensor cannot name.
    """
    if not shape:
        return value.type
    half = is_bfloat16(value)
    item = bfloat16_field("item") if half else pa.field("item", value.type)
    if len(shape) > 1 and not half:
        return pa.fixed_shape_tensor(value.type, list(shape))
    dtype = item
    for length in reversed(shape):
        dtype = pa.list_(dtype, length)
    return dtype


def assemble(dtype: pa.DataType, values: pa.Array, length: int, rows: Mask | None = None) -> pa.Array:
    """Make rows of ``dtype`` over flat ``values``, without copying them.

    Args:
        dtype: Fixed-size list (nested or not) or fixed-shape tensor; any other type stands for its own values.
        values: ``length * size`` elements.
        length: Rows.
        rows: ``(length,)`` bool, True for null rows.
    """
    stored = storage_type(dtype)
    validity = None if rows is None else pa.array(~rows).buffers()[1]
    if not pa.types.is_fixed_size_list(stored):
        return values if rows is None else pc.if_else(pa.array(rows), None, values)
    if pa.types.is_fixed_size_list(stored.value_type):
        values = assemble(stored.value_type, values, length * stored.list_size)
    else:
        values = rebased(values)
        if isinstance(stored.value_type, pa.BaseExtensionType):
            values = pa.ExtensionArray.from_storage(stored.value_type, values)
    array = pa.Array.from_buffers(stored, length, [validity], children=[values])
    return array if stored is dtype else pa.ExtensionArray.from_storage(dtype, array)


def mark_rows(values: pa.Array, rows: Mask, size: int) -> pa.Array:
    """Copy floating-point ``values`` with the NaN that means null in null rows, and without nulls."""
    bits_of_null = _NULL_BITS[values.type]
    bits = _bits(values).copy().reshape(-1, size)
    bits[rows] = bits_of_null
    return pa.Array.from_buffers(values.type, len(values), [None, pa.py_buffer(bits)])


def marked_rows(values: pa.Array, size: int) -> Mask | None:
    """``(n,)`` bool, True where a whole row holds the NaN that means null; None if no row does."""
    bits_of_null = _NULL_BITS.get(values.type)
    if bits_of_null is None or size == 0 or len(values) == 0:
        return None
    bits = _bits(values).reshape(-1, size)
    candidates = np.flatnonzero(bits[:, 0] == bits_of_null)
    hits = candidates[(bits[candidates] == bits_of_null).all(axis=1)]
    if len(hits) == 0:
        return None
    rows = np.zeros(len(bits), np.bool_)
    rows[hits] = True
    return rows


def _bits(values: pa.Array) -> npt.NDArray[Any]:
    unsigned = _NULL_BITS[values.type].dtype
    return np.frombuffer(values.buffers()[1], unsigned, len(values), values.offset * unsigned.itemsize)


def _hide(elements: Mask | None, rows: Mask | None, size: int) -> Mask | None:
    """Null elements that lie outside null rows."""
    if elements is None or rows is None:
        return elements
    visible = elements & ~np.repeat(rows, size)
    return visible if visible.any() else None


def _equal_rows(array: pa.Array, size: int, rows: Mask | None, name: str) -> pa.Array:
    lengths = np.diff(np.asarray(array.offsets))
    wrong = lengths != size if rows is None else (lengths != size) & ~rows
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise TensorConversionError(
            f"column {name!r}: row {row} has {lengths[row]} elements where its type's shape says {size}; "
            "the data is damaged"
        )
    if rows is None:
        return array.flatten()
    starts = np.asarray(array.offsets)[:-1].astype(np.int64)
    indices = starts[:, None] + np.arange(size)
    indices[rows] = 0
    if len(array.values) == 0:
        return pa.nulls(math.prod(indices.shape), array.type.value_type)
    return array.values.take(pa.array(indices.reshape(-1)))
