"""Shares memory: flat Arrow arrays in, flat tensors and null masks over the same memory out, and back.

Tensors share memory with Arrow wherever the layout allows: single chunk, fixed-width values, not bit-packed. Such
memory is read-only by contract (it may be mapped from Ray's object store), which torch cannot express: writing to such
a tensor is undefined. Call ``clone()`` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.errors import TensorConversionError
from ray_lance.lazy import torch
from ray_lance.tensors.kinds import storage_type

__all__ = [
    "Mask",
    "combine",
    "flat_array",
    "flat_view",
    "null_mask",
    "nulls_of",
    "rebased",
    "storage",
    "wide_type",
    "with_type",
    "write_bits",
]

Mask = npt.NDArray[np.bool_]

_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def combine(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """Combine the chunks of column ``name`` into one array; no copy if there is one chunk.

    It has the type of the column if one array of that type can hold all values, else :func:`wide_type`.

    Raises:
        TensorConversionError: They do not fit into one array.
    """
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.nulls(0, column.type)
    if isinstance(column.type, pa.BaseExtensionType):
        stored = column.type.storage_type
        chunks = [chunk.storage for chunk in column.chunks]
        combined = combine(pa.chunked_array(chunks, type=stored), name)
        same = combined.type == stored
        return pa.ExtensionArray.from_storage(column.type, combined) if same else combined
    try:
        return column.combine_chunks()
    except pa.ArrowInvalid:  # offsets of 32 bits, or the codes of a dictionary, do not reach as far
        return _combine_wide(column, name)


def wide_type(dtype: pa.DataType) -> pa.DataType:
    """``dtype`` with 64-bit offsets and dictionary codes at every depth."""
    if pa.types.is_string(dtype) or pa.types.is_binary(dtype):
        return pa.large_string() if pa.types.is_string(dtype) else pa.large_binary()
    if pa.types.is_dictionary(dtype):
        return pa.dictionary(pa.int64(), dtype.value_type, dtype.ordered)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.large_list(_wide_field(dtype.value_field))
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(_wide_field(dtype.value_field), dtype.list_size)
    if pa.types.is_struct(dtype):
        return pa.struct([_wide_field(dtype.field(index)) for index in range(dtype.num_fields)])
    return dtype


def storage(array: pa.Array) -> pa.Array:
    """The stored values of an extension array; any other array itself."""
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def with_type(stored: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Stored values as an array of ``dtype``, the inverse of :func:`storage`."""
    return pa.ExtensionArray.from_storage(dtype, stored) if isinstance(dtype, pa.BaseExtensionType) else stored


def nulls_of(length: int, dtype: pa.DataType) -> pa.Array:
    """So many nulls of any type."""
    return with_type(pa.nulls(length, storage_type(dtype)), dtype)


def null_mask(array: pa.Array) -> Mask | None:
    """True for each null of ``array``, as a ``(n,)`` bool array; None where there is none."""
    if array.null_count == 0:
        return None
    return np.asarray(array.is_null())


def flat_view(array: pa.Array) -> torch.Tensor:
    """The values of a fixed-width ``array`` as a ``(n,)`` tensor; what lies under nulls is undefined.

    Numbers keep their dtype, two-byte binary becomes bfloat16, times and dates become int64 in the unit of
    their type. Shares memory except for bool (bit-packed) and 32-bit times and dates.
    """
    array = storage(array)
    dtype = array.type
    if pa.types.is_boolean(dtype):
        return torch.from_numpy(_unpack_bits(array))
    if pa.types.is_fixed_size_binary(dtype):
        return torch.utils.dlpack.from_dlpack(_without_nulls(array, pa.int16())).view(torch.bfloat16)
    if pa.types.is_temporal(dtype):
        signed = _without_nulls(array, _SIGNED[dtype.bit_width])
        return torch.utils.dlpack.from_dlpack(signed).to(torch.int64)
    return torch.utils.dlpack.from_dlpack(array if array.null_count == 0 else _without_nulls(array, dtype))


def flat_array(values: npt.NDArray[Any] | torch.Tensor) -> pa.Array:
    """A flat, contiguous tensor or array as an Arrow array of the same values, sharing memory except for bool.

    bfloat16 becomes two-byte binary.
    """
    if not isinstance(values, np.ndarray) and values.dtype == torch.bfloat16:
        bits = values.view(torch.int16).numpy()
        return pa.Array.from_buffers(pa.binary(2), len(bits), [None, pa.py_buffer(bits)])
    try:
        return pa.array(values if isinstance(values, np.ndarray) else values.numpy(), from_pandas=False)
    except (TypeError, RuntimeError, pa.ArrowException) as error:
        raise TensorConversionError(f"{values.dtype} has no counterpart in Arrow: {error}") from None


def rebased(array: pa.Array) -> pa.Array:
    """The same values at offset 0 of their buffer; no copy except for bool.

    pyarrow's ``FixedShapeTensorArray.to_numpy_ndarray`` ignores the offset of its values (seen in 26.0), so a tensor
    array must not be built over values that have one.
    """
    if array.offset == 0:
        return array
    if pa.types.is_boolean(array.type):
        return array.take(pa.array(np.arange(len(array))))
    nulls = null_mask(array)
    validity = None if nulls is None else pa.array(~nulls).buffers()[1]
    width = array.type.bit_width // 8
    data = array.buffers()[1].slice(array.offset * width, len(array) * width)
    return pa.Array.from_buffers(array.type, len(array), [validity, data])


def write_bits(tensor: torch.Tensor, mask: Mask, value: float | int | bool) -> None:
    """Set ``tensor[mask] = value`` in place, for the dtypes too that torch cannot index (uint16 to uint64).

    Raises:
        OverflowError: An integer or bool tensor cannot hold ``value`` exactly.
    """
    if tensor.dtype == torch.bfloat16:
        bits = torch.tensor(value, dtype=torch.bfloat16).view(torch.int16).item()
        tensor.view(torch.int16).numpy()[mask] = bits
        return
    array = tensor.numpy()
    if array.dtype.kind != "f" and array.dtype.type(value) != value:
        raise OverflowError(f"{value!r} cannot be held by {array.dtype}")
    array[mask] = value


def _wide_field(field: pa.Field) -> pa.Field:
    return field.with_type(wide_type(field.type))


def _combine_wide(column: pa.ChunkedArray, name: str) -> pa.Array:
    try:
        return column.cast(wide_type(column.type)).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TensorConversionError(
            f"column {name!r} ({column.type}): {len(column)} rows do not fit into one array of Arrow ({error}); take "
            "smaller batches"
        ) from None


def _without_nulls(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    assert storage_type(dtype).bit_width == array.type.bit_width
    return pa.Array.from_buffers(dtype, len(array), [None, array.buffers()[1]], offset=array.offset)


def _unpack_bits(array: pa.Array) -> npt.NDArray[np.bool_]:
    if len(array) == 0:
        return np.empty(0, np.bool_)
    first, skip = divmod(array.offset, 8)
    count = (skip + len(array) + 7) // 8
    packed = np.frombuffer(array.buffers()[1], np.uint8, count, first)
    return np.unpackbits(packed, count=skip + len(array), bitorder="little")[skip:].view(np.bool_)
