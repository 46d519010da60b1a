"""Rows in memory, for access at random: single rows are dear to read, and are read again in each epoch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.rows import RowArray
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
            f"cache_bytes={cache_bytes!r} must be 'auto' or a whole number of bytes for each process, 0 for no cache"
        )


def cache_limit(cache_bytes: CacheBytes) -> int:
    """Bytes that this process may keep.

    ``"auto"`` is 512 MiB, but no more than a sixteenth of the memory for all of the machine's training processes, as
    far as ``LOCAL_WORLD_SIZE`` tells their number, and their loaders' workers together.
    """
    if cache_bytes != "auto":
        return cache_bytes
    processes = current_worker().size * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(_AUTO_BYTES, _memory() // _AUTO_SHARE // processes)


def _memory() -> int:
    """Bytes of memory of the machine or of the container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            limits.append(int(text))
    return min(limits)


class RowCache:
    """Takes rows by offset, and keeps ranges of the dataset in memory of which many rows have been taken.

    A range is read as a whole when 1,024 single rows of it have been: by then they have cost as much as the range
    does, so that what is never asked for again costs no more than twice its time. What has been read stays; nothing is
    evicted, because at random no row is likelier than another to be asked for next.

    Args:
        read: Reads rows in the given order, neighbours fast.
        count: Live rows of the dataset.
        row_bytes: Mean bytes of a row.
        max_bytes: Bytes that may be kept.
    """

    def __init__(self, read: Callable[[RowArray], pa.Table], count: int, row_bytes: float, max_bytes: int) -> None:
        self._read, self._count, self._max_bytes = read, count, max_bytes
        self._range_rows = max(1, int(MAX_TASK_BYTES / row_bytes))
        self._taken: npt.NDArray[np.int64] = np.zeros(-(-count // self._range_rows), np.int64)
        self._tables: dict[int, pa.Table] = {}
        self._bytes = 0
        self._is_full = False

    def take(self, offsets: RowArray) -> pa.Table:
        """The rows at the given offsets among the live rows, in that order; an offset may come more than once."""
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
        if missing:
            places.append(np.concatenate(missing))
            tables.append(self._read(offsets[places[-1]]))
        return _in_places(tables, np.concatenate(places))

    def _table(self, number: int, rows: int) -> pa.Table | None:
        """A range that is kept, or is kept from now on; None if its ``rows`` are to be taken one by one."""
        if number in self._tables or self._is_full:
            return self._tables.get(number)
        self._taken[number] += rows
        if self._taken[number] < _TAKEN_BEFORE:
            return None
        start = number * self._range_rows
        stop = min(self._count, start + self._range_rows)
        if self._bytes + MAX_TASK_BYTES * (stop - start) / self._range_rows > self._max_bytes:
            self._is_full = True
            return None
        table = self._read(np.arange(start, stop)).combine_chunks()
        self._bytes += table.nbytes
        self._tables[number] = table
        return table


def _in_places(tables: list[pa.Table], places: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of all tables, each at its place among them."""
    table = pa.concat_tables(tables)
    inverse = np.empty_like(places)
    inverse[places] = np.arange(len(places))
    return table.combine_chunks().take(pa.array(inverse))
