"""Values of one width: types in, their bytes out; arrays in, the bytes of each row out, and back, without a copy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["FixedWidthValues", "array_over", "copied_bytes", "fixed_width_values", "value_bytes"]

FixedWidthValues: TypeAlias = npt.NDArray[np.void]
"""The bytes of each row, of dtype ``V<width>`` and shape ``(rows,)``: numpy copies them without looking at types."""


def value_bytes(dtype: pa.DataType) -> float | None:
    """Bytes of one value of ``dtype``, an eighth for bool; None where values differ in size."""
    if isinstance(dtype, pa.BaseExtensionType):
        return value_bytes(dtype.storage_type)
    if pa.types.is_fixed_size_list(dtype):
        width = value_bytes(dtype.value_type)
        return None if width is None else width * dtype.list_size
    if pa.types.is_struct(dtype):
        widths = [value_bytes(field.type) for field in dtype]
        return None if None in widths else sum(width for width in widths if width is not None)
    if pa.types.is_null(dtype):
        return 0.0
    try:
        return float(dtype.bit_width) / 8
    except ValueError:
        return None


def copied_bytes(dtype: pa.DataType) -> int | None:
    """Bytes of each row that :func:`fixed_width_values` gives; None for types whose rows it cannot tell apart."""
    inner = dtype
    while isinstance(inner, pa.BaseExtensionType) or pa.types.is_fixed_size_list(inner):
        inner = inner.storage_type if isinstance(inner, pa.BaseExtensionType) else inner.value_type
    is_fixed = pa.types.is_primitive(inner) or pa.types.is_decimal(inner) or pa.types.is_fixed_size_binary(inner)
    if not is_fixed or inner.bit_width < 8:  # bits of bool are packed over rows
        return None
    return int(value_bytes(dtype) or 0) or None


def fixed_width_values(array: pa.Array) -> FixedWidthValues | None:
    """The bytes of each row, without a copy; None where rows have no width of whole bytes, or hold nulls."""
    width, leaves = copied_bytes(array.type), array
    if width is None:
        return None
    while not leaves.null_count:
        if isinstance(leaves.type, pa.BaseExtensionType):
            leaves = leaves.storage
        elif pa.types.is_fixed_size_list(leaves.type):
            leaves = leaves.flatten()
        elif len(leaves) == 0:  # without a buffer, perhaps
            return np.empty(0, f"V{width}")
        else:
            size = leaves.type.bit_width // 8
            data = np.frombuffer(leaves.buffers()[1], np.uint8, len(leaves) * size, leaves.offset * size)
            return data.view(f"V{width}")
    return None


def array_over(dtype: pa.DataType, length: int, buffer: pa.Buffer) -> pa.Array:
    """An array of ``dtype`` without nulls over the bytes of its rows."""
    if isinstance(dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(dtype, array_over(dtype.storage_type, length, buffer))
    if pa.types.is_fixed_size_list(dtype):
        values = array_over(dtype.value_type, length * dtype.list_size, buffer)
        return pa.FixedSizeListArray.from_arrays(values, type=dtype)
    return pa.Array.from_buffers(dtype, length, [None, buffer])
