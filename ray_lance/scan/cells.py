"""The bytes of rows of one width: what can be copied row by row without looking at types."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Cells", "array_of_cells", "cell_bytes", "cells_of"]

Cells: TypeAlias = npt.NDArray[np.void]


def cell_bytes(dtype: pa.DataType) -> int | None:
    """Bytes of a row; None where rows have no width in whole bytes of their own."""
    width = 1
    while True:
        if isinstance(dtype, pa.BaseExtensionType):
            dtype = dtype.storage_type
        elif pa.types.is_fixed_size_list(dtype):
            width *= dtype.list_size
            dtype = dtype.value_type
        else:
            break
    is_fixed = pa.types.is_primitive(dtype) or pa.types.is_decimal(dtype) or pa.types.is_fixed_size_binary(dtype)
    bits: int = width * dtype.bit_width if is_fixed else 0
    return bits // 8 if bits and dtype.bit_width >= 8 else None


def cells_of(array: pa.Array) -> Cells | None:
    """The bytes of each row, shape ``(len(array),)``, without a copy; None where rows have no width, or hold nulls."""
    width, leaves = cell_bytes(array.type), array
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


def array_of_cells(dtype: pa.DataType, length: int, buffer: pa.Buffer) -> pa.Array:
    """An array without nulls over the bytes of its rows."""
    if isinstance(dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(dtype, array_of_cells(dtype.storage_type, length, buffer))
    if pa.types.is_fixed_size_list(dtype):
        values = array_of_cells(dtype.value_type, length * dtype.list_size, buffer)
        return pa.FixedSizeListArray.from_arrays(values, type=dtype)
    return pa.Array.from_buffers(dtype, length, [None, buffer])
