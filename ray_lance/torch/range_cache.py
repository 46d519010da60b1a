"""Caches ranges of a table that single rows are often taken from: offsets in, rows out."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.scan.planning import MAX_TASK_BYTES
from ray_lance.scan.scatter import scatter
from ray_lance.torch.cache_budget import budget

__all__ = ["RangeCache"]

# As many rows as can be taken one by one in the time of scanning a range: Lance needs some 15 microseconds for each.
_TAKEN_BEFORE = 1024


class RangeCache:
    """Takes rows by offset, and keeps ranges of the table in memory of which many rows have been taken.

    A range is read as a whole when 1,024 single rows of it have been taken, or as many as it has: by then they have
    cost as much as the range does, so that a range that is never asked for again costs at most twice its time. Ranges
    are not evicted, because at random no row is likelier than another to be asked for next.

    Args:
        read: Reads rows in the given order, neighbours fast.
        count: Live rows of the table.
        row_bytes: Mean bytes of a row, as far as it is known.
        max_bytes: Bytes that all caches of this process may use together.
    """

    def __init__(self, read: Callable[[RowArray], pa.Table], count: int, row_bytes: float, max_bytes: int) -> None:
        self._read, self._count, self._max_bytes = read, count, max_bytes
        self._row_bytes = row_bytes
        self._range_rows = max(1, int(MAX_TASK_BYTES / row_bytes))
        self._taken: npt.NDArray[np.int64] = np.zeros(-(-count // self._range_rows), np.int64)
        self._tables: dict[int, pa.Table] = {}
        self._is_full = max_bytes == 0
        self._lock = threading.Lock()
        weakref.finalize(self, _release, self._tables).atexit = False

    def take(self, rows: RowArray) -> tuple[pa.Table, int]:
        """Take rows, from storage those that are not in memory.

        Args:
            rows: Offsets among the live rows, in any order; one may come more than once: int64, shape ``(k,)``.

        Returns:
            The rows in the given order, and how many of them were in memory.
        """
        if self._is_full and not self._tables:
            return self._read(rows), 0
        numbers = rows // self._range_rows
        by_range = np.argsort(numbers, kind="stable")
        tables, indices, missing, found = [], [], [], 0
        for part in np.split(by_range, np.flatnonzero(np.diff(numbers[by_range])) + 1):
            number = int(numbers[part[0]])
            found += len(part) if number in self._tables else 0
            table = self._table(number, len(part))
            if table is None:
                missing.append(part)
            else:
                tables.append(table.take(pa.array(rows[part] - number * self._range_rows)))
                indices.append(part)
        if not tables:
            return self._taken_singly(rows), 0
        if missing:
            indices.append(np.concatenate(missing))
            tables.append(self._taken_singly(rows[indices[-1]]))
        return scatter(tables, np.concatenate(indices)), found

    def _table(self, number: int, rows: int) -> pa.Table | None:
        """A range that is in memory, or is read now; None if its ``rows`` are to be taken one by one."""
        with self._lock:
            if number in self._tables:
                return self._tables[number]
            if self._is_full:
                return None
            self._taken[number] += rows
            start = number * self._range_rows
            stop = min(self._count, start + self._range_rows)
            if self._taken[number] < min(_TAKEN_BEFORE, stop - start):
                return None
            # What rows take is an estimate until they are there: it must not make a read of any size.
            estimate = int((stop - start) * self._row_bytes)
            self._is_full = not budget.reserve(estimate, self._max_bytes)
            if self._is_full:
                return None
            try:
                table = self._read(np.arange(start, stop)).combine_chunks()
            finally:
                budget.release(estimate)
            self._is_full = not budget.reserve(table.nbytes, self._max_bytes)
            if not self._is_full:
                self._tables[number] = table
            return table

    def _taken_singly(self, rows: RowArray) -> pa.Table:
        table = self._read(rows)
        self._row_bytes = max(self._row_bytes, table.nbytes / len(table))
        return table


def _release(tables: dict[int, pa.Table]) -> None:
    budget.release_later(sum(table.nbytes for table in tables.values()))
