"""Writes one data file: record batches in, a Lance file in a local folder out. Nothing else gives Lance rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import pyarrow as pa
from lance.fragment import write_fragments

from ray_lance.errors import CommitError
from ray_lance.tensors.kinds import child_fields, storage_type
from ray_lance.tensors.memory import storage
from ray_lance.write.one_dictionary import with_one_dictionary

__all__ = ["WatchedBatches", "write_data_file"]

# Lance keeps rows per file in 32 bits, and a larger number wraps around.
_MAX_ROWS = 2**31
_MAX_BYTES = 2**60


class WatchedBatches:
    """Iterates over batches, in a layout that Lance takes, and keeps the error that ended it."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                yield pa.RecordBatch.from_arrays([_whole(column) for column in batch.columns], schema=batch.schema)
        except BaseException as error:  # an interrupt too: otherwise the write would be retried
            self.error = error
            raise


def write_data_file(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, **target: Any
) -> lance.LanceOperation.BaseOperation:
    """Write ``batches`` as one data file.

    Args:
        batches: The rows.
        schema: Their schema.
        target: Further arguments of ``lance.fragment.write_fragments``: where to, and how.

    Returns:
        The operation that would make a dataset of the file; it has one fragment.

    Raises:
        CommitError: Lance made another number of fragments.
    """
    source = WatchedBatches(with_one_dictionary(batches, schema))
    reader = pa.RecordBatchReader.from_batches(schema, source)
    try:
        operation = write_fragments(
            reader, max_rows_per_file=_MAX_ROWS, max_bytes_per_file=_MAX_BYTES, return_transaction=True, **target
        ).operation
    except Exception as error:
        # Lance reports an error of its source as text inside an error of its own.
        raise source.error or error from None
    if len(operation.fragments) != 1:
        raise CommitError(f"Lance made {len(operation.fragments)} fragments where one was expected")
    return operation


def _whole(array: pa.Array) -> pa.Array:
    """The same values in a layout that Lance accepts.

    It fails on slices of structs and of types that contain structs, and on values of 16 bytes whose address is not a
    multiple of 16, as in blocks of Ray.
    """
    is_sliced = _holds_structs(array.type) and _has_offset(array)
    return pa.concat_arrays([array]) if is_sliced or _is_misaligned(array) else array


def _holds_structs(dtype: pa.DataType) -> bool:
    dtype = storage_type(dtype)
    return bool(pa.types.is_struct(dtype)) or any(_holds_structs(child.type) for child in child_fields(dtype))


def _has_offset(array: pa.Array) -> bool:
    array = storage(array)
    return array.offset != 0 or any(map(_has_offset, _children(array)))


def _is_misaligned(array: pa.Array) -> bool:
    array = storage(array)
    if pa.types.is_decimal(array.type):
        return any(buffer is not None and buffer.address % 16 for buffer in array.buffers())
    return any(map(_is_misaligned, _children(array)))


def _children(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(array.type):
        return [array.field(index) for index in range(array.type.num_fields)]
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type)
    return [array.values] if is_list or pa.types.is_fixed_size_list(array.type) else []
