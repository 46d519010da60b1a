"""Rows in memory, for access at random: single rows are dear to read, and are read again in each epoch."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.rows import RowArray
from ray_lance.scan.places import to_places
from ray_lance.scan.plan import MAX_TASK_BYTES
from ray_lance.torch.ranks import current_worker

__all__ = ["CacheBytes", "RowCache", "cache_limit", "check_cache_bytes"]

CacheBytes: TypeAlias = int | Literal["auto"]

# As many rows as can be taken one by one in the time of scanning a range: Lance needs some 15 microseconds for each.
_TAKEN_BEFORE = 1024
_AUTO_BYTES = 512 * 2**20
_AUTO_SHARE = 16
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_cache_bytes(cache_bytes: CacheBytes) -> None:
    """Raise InvalidArgumentError unless ``cache_bytes`` is ``"auto"`` or a number of bytes."""
    is_size = isinstance(cache_bytes, int) and not isinstance(cache_bytes, bool) and cache_bytes >= 0
    if not is_size and cache_bytes != "auto":
        raise InvalidArgumentError(
            f"cache_bytes={cache_bytes!r} must be 'auto' or a whole number of bytes for this process, 0 for no cache"
        )


def cache_limit(cache_bytes: CacheBytes) -> int:
    """Bytes that this process may keep, in the caches of all its datasets together.

    ``"auto"`` is 512 MiB, but no more than a sixteenth of the memory for all workers of a loader, on all ranks of the
    machine as far as ``LOCAL_WORLD_SIZE`` tells their number.
    """
    if cache_bytes != "auto":
        return cache_bytes
    ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    return min(_AUTO_BYTES, _memory() // _AUTO_SHARE // (current_worker().size * ranks))


def _memory() -> int:
    """Bytes of memory of the machine or of the container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            limits.append(int(text))
    return min(limits)


class _Account:
    """Bytes that all caches of this process keep."""

    def __init__(self) -> None:
        self.bytes = 0
        self.lock = threading.RLock()

    def close(self, tables: dict[int, pa.Table]) -> None:
        """Give back what a cache has kept."""
        with self.lock:
            self.bytes -= sum(table.nbytes for table in tables.values())


_account = _Account()


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
    """

    def __init__(self, read: Callable[[RowArray], pa.Table], count: int, row_bytes: float, max_bytes: int) -> None:
        self._read, self._count, self._max_bytes = read, count, max_bytes
        self._row_bytes = row_bytes
        self._range_rows = max(1, int(MAX_TASK_BYTES / row_bytes))
        self._taken: npt.NDArray[np.int64] = np.zeros(-(-count // self._range_rows), np.int64)
        self._tables: dict[int, pa.Table] = {}
        self._is_full = max_bytes == 0
        weakref.finalize(self, _account.close, self._tables)

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
        return to_places(tables, np.concatenate(places))

    def _table(self, number: int, rows: int) -> pa.Table | None:
        """A range that is kept, or is kept from now on; None if its ``rows`` are to be taken one by one."""
        with _account.lock:
            if number in self._tables or self._is_full:
                return self._tables.get(number)
            self._taken[number] += rows
            start = number * self._range_rows
            stop = min(self._count, start + self._range_rows)
            if self._taken[number] < min(_TAKEN_BEFORE, stop - start):
                return None
            # What rows take is an estimate until they are there: it must not make a read of any size.
            self._is_full = _account.bytes + (stop - start) * self._row_bytes > self._max_bytes
            if self._is_full:
                return None
            table = self._read(np.arange(start, stop)).combine_chunks()
            self._is_full = _account.bytes + table.nbytes > self._max_bytes
            if not self._is_full:
                _account.bytes += table.nbytes
                self._tables[number] = table
            return table

    def _taken_singly(self, offsets: RowArray) -> pa.Table:
        table = self._read(offsets)
        self._row_bytes = max(self._row_bytes, table.nbytes / len(table))
        return table
