"""Row numbers in, the same in ascending order with scatter indices out; rows read in that order go back by these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.scan.fixed_width import FixedWidthValues, array_over, fixed_width_values
from ray_lance.scan.overflow import reordered

__all__ = ["scatter", "sort_rows"]

Indices = npt.NDArray[np.int64]

_BLOCK_BITS = 6
_IN_BLOCK = (1 << _BLOCK_BITS) - 1
# Bounds for each row: with more blocks or slots, passing over them takes longer than sorting.
_MOST_BLOCKS = 16
_MOST_SLOTS = 4


def sort_rows(rows: RowArray) -> tuple[RowArray, Indices]:
    """Sort row numbers.

    Returns:
        ``rows`` in ascending order, and the index in ``rows`` that each of them has; both of shape ``(len(rows),)``.
    """
    if len(rows) and (found := _sorted_by_blocks(rows)) is not None:
        return found
    indices = np.argsort(rows)  # not a stable sort, which is slower: equal numbers are the same row
    return rows[indices], indices


def _sorted_by_blocks(rows: RowArray) -> tuple[RowArray, Indices] | None:
    """``sort_rows`` in a fifth of the time, for distinct rows that come from whole runs of neighbours, as clumps are.

    The blocks that have rows are numbered in order, so that each row has its own slot, and slots are in order.
    """
    low = int(rows.min()) >> _BLOCK_BITS
    blocks = (rows >> _BLOCK_BITS).view(np.int64) - low
    span = int(blocks.max()) + 1
    if span > _MOST_BLOCKS * len(rows):
        return None
    is_used = np.zeros(span, np.bool_)
    is_used[blocks] = True
    used = np.flatnonzero(is_used)
    if len(used) << _BLOCK_BITS > _MOST_SLOTS * len(rows):
        return None
    number = np.empty(span, np.int64)
    number[used] = np.arange(len(used))
    slots = np.full(len(used) << _BLOCK_BITS, -1, np.int64)
    slots[number[blocks] << _BLOCK_BITS | (rows & _IN_BLOCK).view(np.int64)] = np.arange(len(rows))
    filled = np.flatnonzero(slots >= 0)
    if len(filled) != len(rows):  # some rows come more than once
        return None
    ascending = (used[filled >> _BLOCK_BITS] + low << _BLOCK_BITS) + (filled & _IN_BLOCK)
    return ascending.astype(rows.dtype, copy=False), slots[filled]


def scatter(tables: Iterable[pa.Table], indices: Indices) -> pa.Table:
    """Put the rows of some tables into another order, in one table of the first one's schema.

    Each table is released when the next one has come, as far as the types of its columns allow.

    Args:
        tables: One at least, whose columns are the same.
        indices: Index in the result of each row, over all tables: shape ``(rows of all,)``.

    Raises:
        IndexError: The tables have another number of rows.
    """
    rows: _ScatteredRows | None = None
    for table in tables:
        rows = rows or _ScatteredRows(table.schema, indices)
        rows.add(table)
    if rows is None:
        raise IndexError(f"no table was read for {len(indices)} rows")
    return rows.table()


class _ScatteredRows:
    """Columns of rows that come table by table."""

    def __init__(self, schema: pa.Schema, indices: Indices) -> None:
        self._schema, self._indices = schema, indices
        self._columns = [_ScatteredColumn(field.type, indices) for field in schema]
        self._count = 0

    def add(self, table: pa.Table) -> None:
        if self._count + len(table) <= len(self._indices):
            for column, added in zip(self._columns, table.columns, strict=True):
                column.add(added, self._count)
        self._count += len(table)

    def table(self) -> pa.Table:
        if self._count != len(self._indices):
            raise IndexError(f"{self._count} rows were read, and {len(self._indices)} were asked for")
        inverse = cache(self._inverse)  # at most once for all columns
        return pa.Table.from_arrays([column.scattered(inverse) for column in self._columns], schema=self._schema)

    def _inverse(self) -> Indices:
        inverse = np.empty_like(self._indices)
        inverse[self._indices] = np.arange(len(self._indices))
        return inverse


class _ScatteredColumn:
    """A column whose values are scattered as they come, while rows have one width and none is null.

    Then each piece is copied while it is in the processor's cache. Other values wait until all have come: Arrow's own
    take first concatenates the chunks, which takes half as long again.
    """

    def __init__(self, dtype: pa.DataType, indices: Indices) -> None:
        self._type, self._indices = dtype, indices
        self._buffer: pa.Buffer | None = None
        self._waiting: list[pa.Array] = []

    def add(self, column: pa.ChunkedArray, start: int) -> None:
        """Take up the values of the rows from ``start`` on."""
        for chunk in column.chunks:
            values = None if self._waiting else fixed_width_values(chunk)
            if values is None:
                self._wait(chunk, start)
            elif len(chunk):
                self._copy(values, start)
            start += len(chunk)

    def scattered(self, inverse: Callable[[], Indices]) -> pa.ChunkedArray:
        """All values in the wanted order; ``inverse`` gives the indices to take them by from the order they came in."""
        if self._waiting:
            return pa.chunked_array(reordered(self._waiting, inverse()), self._type)
        return pa.chunked_array([] if self._buffer is None else [self._copied()], self._type)

    def _copy(self, values: FixedWidthValues, start: int) -> None:
        if self._buffer is None:
            # Arrow's allocator: it gives the memory of earlier reads again, where numpy's comes from the kernel.
            self._buffer = pa.allocate_buffer(len(self._indices) * values.itemsize)
        np.frombuffer(self._buffer, values.dtype)[self._indices[start : start + len(values)]] = values

    def _wait(self, chunk: pa.Array, start: int) -> None:
        if self._buffer is not None:
            self._waiting.append(self._copied().take(pa.array(self._indices[:start])))
            self._buffer = None
        self._waiting.append(_without_null_values(chunk))

    def _copied(self) -> pa.Array:
        return array_over(self._type, len(self._indices), self._buffer)


def _without_null_values(array: pa.Array) -> pa.Array:
    """A dictionary array whose nulls are no values: Arrow cannot merge what files of format 2.0 give."""
    if not pa.types.is_dictionary(array.type) or not array.dictionary.null_count:
        return array
    return array.dictionary_decode().dictionary_encode().cast(array.type)
