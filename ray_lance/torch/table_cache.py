"""Caches all rows of a table from one pass to the next: offsets in, rows out, read from storage once."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.scan.fixed_width import array_over, copied_bytes, fixed_width_values
from ray_lance.scan.scatter import sort_rows
from ray_lance.torch.cache_budget import budget
from ray_lance.torch.row_reader import RowReader

__all__ = ["RowStorage", "TableCache", "begin_pass"]

_MAX_TABLES = 64
# Up to this share of a read's rows, missing ones are read alone: a single row takes Lance as long as scanning some 50.
_MOST_MISSING = 1 / 16


class RowStorage(Protocol):
    """Reads rows as they are stored; see :class:`~ray_lance.torch.row_reader.StoredRows`."""

    def take(self, rows: RowArray) -> pa.Table:
        """Read the given rows, in the given order."""

    def take_in_pieces(self, rows: RowArray, receive: Callable[[RowArray, pa.Table], bool]) -> bool:
        """Read ascending rows and hand them over piece by piece; returns whether all of them were received."""


class TableCache:
    """Takes rows by offset, and keeps those that it has read.

    Rows are kept as bytes, in one piece of memory for each column. So the values of all columns must have one width and
    hold no nulls, and there must be room for all rows of the table; rows of other tables are read each time.

    Args:
        schema: Schema of the columns.
        count: Live rows of the table.
    """

    def __init__(self, schema: pa.Schema, count: int) -> None:
        widths = [copied_bytes(dtype) for dtype in schema.types]
        self._widths = [width for width in widths if width is not None]
        self._can_cache = count > 0 and 0 < len(widths) == len(self._widths)
        self._count = count
        self._memory: _Memory | None = None
        self._rows_read = 0
        self._users: list[weakref.ref[object]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, with one for each that tells whether it is there."""
        return self._count * (sum(self._widths) + 1)

    @property
    def is_idle(self) -> bool:
        """Whether none of those for whom rows were read is alive."""
        return not any(user() is not None for user in self._users)

    def begin(self, user: object, rows: int, max_bytes: int, *, keeps_first: bool) -> None:
        """Begin a pass over so many rows, and reserve memory for all rows of the table if there is none yet.

        Args:
            user: Whom they are read for: while it lives, the cache is not cleared for others.
            rows: Rows of the pass.
            max_bytes: Bytes that all caches of this process may use together.
            keeps_first: Whether to keep rows before as many have been read as the pass has: it may be the only one.
        """
        others = [other for other in self._users if other() is not None and other() is not user]
        self._users = [*others, weakref.ref(user)]
        if self._memory is not None or not self._can_cache or not (keeps_first or self._rows_read >= rows):
            return
        if budget.reserve(self.nbytes, max_bytes, self):
            try:
                self._memory = _Memory(self._widths, self._count)
            except (OSError, MemoryError):  # a limit of the process: rows are read each time
                self.clear()

    def clear(self) -> None:
        """Release the memory."""
        self._memory = None
        budget.release_all(self)

    def has(self, rows: RowArray) -> bool:
        """Whether all of these rows are in memory."""
        return self._memory is not None and not len(self._memory.missing(rows))

    def take(self, rows: RowArray, storage: RowStorage) -> tuple[pa.Table, int]:
        """Take rows, from storage those that are not in memory.

        Args:
            rows: Offsets among the live rows, in any order; one may come more than once: int64, shape ``(k,)``.
            storage: Reads what is not in memory.

        Returns:
            The rows in the given order, and how many of them were in memory.
        """
        memory = self._memory
        if memory is None or not len(rows):
            self._rows_read += len(rows)
            return storage.take(rows), 0
        if memory.is_empty:
            # The first batch waits for this read, so it is not sorted first; and it shows whether columns hold nulls.
            table = storage.take(rows)
            if memory.write(rows, table):
                memory.confirm(rows)
            else:
                self._give_up()
            return table, 0
        missing = memory.missing(rows)
        if not len(missing):
            return memory.take(rows), len(rows)
        wanted, _ = sort_rows(rows if len(missing) > _MOST_MISSING * len(rows) else missing)
        if not storage.take_in_pieces(wanted, memory.write):
            self._give_up()
            return storage.take(rows), 0
        memory.confirm(wanted)
        return memory.take(rows), len(rows) - len(wanted)

    def _give_up(self) -> None:
        """Cache no more: some rows hold nulls."""
        self._can_cache = False
        self.clear()


class _Memory:
    """The bytes of a table's rows, as far as they are there.

    Threads may take and write at once: a row is there once all of the read that brought it has been written.
    """

    def __init__(self, widths: Sequence[int], count: int) -> None:
        # Not numpy's memory, which comes in huge pages: the first batch would wait until all of them are cleared.
        memory = [mmap.mmap(-1, count * width, flags=mmap.MAP_PRIVATE) for width in widths]
        self._columns = [np.frombuffer(each, f"V{width}") for each, width in zip(memory, widths, strict=True)]
        self._is_there: npt.NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._schema: pa.Schema | None = None
        self.is_empty = True

    def missing(self, rows: RowArray) -> RowArray:
        """Those of the rows that are not there."""
        is_there = self._is_there[rows]
        return rows[:0] if is_there.all() else rows[~is_there]

    def write(self, rows: RowArray, table: pa.Table) -> bool:
        """Write the rows of a table, which have these offsets; False if some hold nulls, which have no bytes.

        Rows that are there stay as they are: others may be reading them.
        """
        is_new = ~self._is_there[rows]
        is_all_new = bool(is_new.all())
        for memory, column in zip(self._columns, table.columns, strict=True):
            start = 0
            for chunk in column.chunks:
                values = fixed_width_values(chunk)
                if values is None or values.dtype != memory.dtype:
                    return False
                part = slice(start, start + len(values))
                if is_all_new:
                    memory[rows[part]] = values
                else:
                    memory[rows[part][is_new[part]]] = values[is_new[part]]
                start += len(values)
        self._schema = table.schema
        return True

    def confirm(self, rows: RowArray) -> None:
        """Count these rows as there: all of them have been written."""
        self._is_there[rows] = True
        self.is_empty = False

    def take(self, rows: RowArray) -> pa.Table:
        """Copy rows that are there."""
        assert self._schema is not None
        arrays = []
        for dtype, memory in zip(self._schema.types, self._columns, strict=True):
            # Arrow's allocator: it gives the memory of earlier reads again, where numpy's comes from the kernel.
            buffer = pa.allocate_buffer(len(rows) * memory.itemsize)
            # By default ("raise") numpy would copy everything twice.
            memory.take(rows, out=np.frombuffer(buffer, memory.dtype), mode="clip")
            arrays.append(array_over(dtype, len(rows), buffer))
        return pa.Table.from_arrays(arrays, schema=self._schema)


class _Caches:
    """The caches of this process, by table and columns; the one that was used last comes last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.of_tables: OrderedDict[tuple[str, ...], TableCache] = OrderedDict()

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # the parent may have held it at the moment of the fork

    def trim(self) -> None:
        """Drop caches that nobody has used for long where they are many."""
        idle = [key for key, cache in self.of_tables.items() if cache.is_idle]
        for key in idle[: max(0, len(self.of_tables) - _MAX_TABLES)]:
            self.of_tables.pop(key).clear()


_caches = _Caches()
os.register_at_fork(after_in_child=_caches.after_fork)


def begin_pass(user: object, reader: RowReader, rows: int, max_bytes: int) -> TableCache | None:
    """The cache for a pass over a reader's order that begins now.

    All readers of the same columns of a table share one. It stays when nobody uses it any more, until another table
    needs the room. A shuffled pass is an epoch of many; one in order may be the only one, as in inference, and caching
    would make it two or three times as long for nothing: of a table that is read in order the second pass is cached
    first.

    Args:
        user: Whom the rows are read for: while it lives, the cache is not cleared for others.
        reader: Who reads them.
        rows: Rows of the pass.
        max_bytes: Bytes that all caches of this process may use together.

    Returns:
        None where rows are read by row id, from several tables, or by expressions, which may give others each time.
    """
    stored = reader.stored
    if (key := stored.cache_key) is None:
        return None
    cache = _caches.of_tables.get(key) or TableCache(stored.schema(), stored.count)
    with _caches.lock:
        cache = _caches.of_tables.setdefault(key, cache)
        _caches.of_tables.move_to_end(key)
        cache.begin(user, rows, max_bytes, keeps_first=reader.permutation.order.is_shuffled)
        _caches.trim()
    return cache
