"""Rows in memory, for access at random: single rows are dear to read, and are read again in each epoch."""

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
from ray_lance.torch.budget import budget

__all__ = ["RowCache"]

# As many rows as can be taken one by one in the time of scanning a range: Lance needs some 15 microseconds for each.
_TAKEN_BEFORE = 1024


class RowCache:
    """Takes rows by offset, and keeps ranges of the dataset in memory of which many rows have been taken.

    A range is read as a whole when 1,024 single rows of it have been, or as many as it has: by then they have cost as
    much as the range does, so that what is never asked for again costs no more than twice its time. What has been read
    stays; nothing is evicted, because at random no row is likelier than another to be asked for next.

    Args:
        read: Reads rows in the given order, neighbours fast.
        count: Live rows of the dataset.
        row_bytes: Mean bytes of a row, as far as it is known.
        max_bytes: Bytes that all caches of this process may keep for this one to keep more.
        on_found: Called with how many rows of a take are in memory.
    """

    def __init__(
        self,
        read: Callable[[RowArray], pa.Table],
        count: int,
        row_bytes: float,
        max_bytes: int,
        on_found: Callable[[int], object] = lambda rows: None,  # noqa: ARG005
    ) -> None:
        self._read, self._count, self._max_bytes = read, count, max_bytes
        self._row_bytes = row_bytes
        self._range_rows = max(1, int(MAX_TASK_BYTES / row_bytes))
        self._taken: npt.NDArray[np.int64] = np.zeros(-(-count // self._range_rows), np.int64)
        self._tables: dict[int, pa.Table] = {}
        self._is_full = max_bytes == 0
        self._on_found = on_found
        self._lock = threading.Lock()
        weakref.finalize(self, _release, self._tables).atexit = False

    def take(self, offsets: RowArray) -> pa.Table:
        """The rows at the given offsets among the live rows, in that order; an offset may come more than once."""
        if self._is_full and not self._tables:
            return self._read(offsets)
        numbers = offsets // self._range_rows
        by_range = np.argsort(numbers, kind="stable")
        tables, places, missing = [], [], []
        for place in np.split(by_range, np.flatnonzero(np.diff(numbers[by_range])) + 1):
            number = int(numbers[place[0]])
            table = self._table(number, len(place))
            if table is None:
                missing.append(place)
            else:
                tables.append(table.take(pa.array(offsets[place] - number * self._range_rows)))
                places.append(place)
        if not tables:
            return self._taken_singly(offsets)
        if missing:
            places.append(np.concatenate(missing))
            tables.append(self._taken_singly(offsets[places[-1]]))
        return scatter(tables, np.concatenate(places))

    def _table(self, number: int, rows: int) -> pa.Table | None:
        """A range that is kept, or is kept from now on; None if its ``rows`` are to be taken one by one."""
        with self._lock:
            if number in self._tables:
                self._on_found(rows)
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

    def _taken_singly(self, offsets: RowArray) -> pa.Table:
        table = self._read(offsets)
        self._row_bytes = max(self._row_bytes, table.nbytes / len(table))
        return table


def _release(tables: dict[int, pa.Table]) -> None:
    budget.release_later(sum(table.nbytes for table in tables.values()))
