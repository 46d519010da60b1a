"""Sorting row numbers before a read, and bringing the rows that were read to their places after it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray

__all__ = ["sorted_rows", "to_places"]

Places = npt.NDArray[np.int64]
_Cells = npt.NDArray[np.void]


def sorted_rows(rows: RowArray) -> tuple[RowArray, Places]:
    """``rows`` in ascending order, and the place that each of them has in ``rows``; both of shape ``(len(rows),)``."""
    places = np.argsort(rows)  # not a stable sort, which is slower: equal numbers are the same row
    return rows[places], places


def to_places(table: pa.Table, places: Places) -> pa.Table:
    """The rows of a table in another order: row ``i`` comes to ``places[i]``, shape ``(len(table),)``."""
    if len(table) != len(places):
        raise IndexError(f"{len(table)} rows were read for {len(places)} places")
    columns = [_scattered(column, places) for column in table.columns]
    if any(column is None for column in columns):
        rows = np.empty_like(places)
        rows[places] = np.arange(len(places))
        taken = pa.array(rows)
        columns = [
            column.take(taken) if moved is None else moved for column, moved in zip(table.columns, columns, strict=True)
        ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _scattered(column: pa.ChunkedArray, places: Places) -> pa.ChunkedArray | None:
    """The values at their places, in one chunk; None where rows are not all of one width, or some are null.

    Arrow's own take would first bring the chunks together, which takes half as long again.
    """
    chunks = [cells for cells in map(_cells, column.chunks) if cells is not None]
    if not chunks or len(chunks) < column.num_chunks:
        return None
    width = chunks[0].itemsize
    # Arrow's allocator: it gives the memory of earlier reads again, where numpy's would come from the kernel each time.
    buffer = pa.allocate_buffer(len(places) * width)
    cells = np.frombuffer(buffer, f"V{width}")
    start = 0
    for chunk in chunks:
        cells[places[start : start + len(chunk)]] = chunk
        start += len(chunk)
    return pa.chunked_array([_assembled(column.type, len(places), buffer)])


def _cells(array: pa.Array) -> _Cells | None:
    """The bytes of each row, shape ``(len(array),)``, without a copy; None where rows have no such bytes or nulls."""
    width, leaves = 1, array
    while True:
        if leaves.null_count:
            return None
        if isinstance(leaves.type, pa.BaseExtensionType):
            leaves = leaves.storage
        elif pa.types.is_fixed_size_list(leaves.type):
            width *= leaves.type.list_size
            leaves = leaves.flatten()
        else:
            break
    if not _has_bytes(leaves.type) or width == 0:
        return None
    size = leaves.type.bit_width // 8
    if len(leaves) == 0:  # without a buffer, perhaps
        return np.empty(0, f"V{width * size}")
    data = np.frombuffer(leaves.buffers()[1], np.uint8, len(leaves) * size, leaves.offset * size)
    return data.view(f"V{width * size}")


def _has_bytes(dtype: pa.DataType) -> bool:
    """Whether values lie one after another, in whole bytes."""
    is_fixed = pa.types.is_primitive(dtype) or pa.types.is_decimal(dtype) or pa.types.is_fixed_size_binary(dtype)
    return bool(is_fixed and dtype.bit_width >= 8)


def _assembled(dtype: pa.DataType, length: int, buffer: pa.Buffer) -> pa.Array:
    """An array without nulls over the bytes of its rows."""
    if isinstance(dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(dtype, _assembled(dtype.storage_type, length, buffer))
    if pa.types.is_fixed_size_list(dtype):
        values = _assembled(dtype.value_type, length * dtype.list_size, buffer)
        return pa.FixedSizeListArray.from_arrays(values, type=dtype)
    return pa.Array.from_buffers(dtype, length, [None, buffer])
