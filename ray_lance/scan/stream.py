"""A stream of batches of one size over tables that threads read ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

from ray_lance.ahead import ordered_map

__all__ = ["batches_of", "read_ahead"]

T = TypeVar("T")


def read_ahead(read: Callable[[T], pa.Table], tasks: Iterable[T], threads: int) -> Generator[pa.Table, None, None]:
    """The tables of the tasks, in order, while threads read the next ones.

    Args:
        read: Reads one task.
        tasks: The tasks.
        threads: Tasks that are read at one time, beside the table that was yielded last.
    """
    return ordered_map(read, tasks, threads, ahead=threads)


def batches_of(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of ``tables`` in tables of ``size`` rows; the last may be shorter. Copies only where two tables meet."""
    rest: pa.Table | None = None
    for table in tables:
        if rest is not None:
            needed = min(size - rest.num_rows, table.num_rows)
            rest, left = pa.concat_tables([rest, table.slice(0, needed)]), table.slice(needed)
            if rest.num_rows < size:
                continue
            yield rest.combine_chunks()
        else:
            left = table
        whole = left.num_rows - left.num_rows % size
        for start in range(0, whole, size):
            yield left.slice(start, size)
        rest = left.slice(whole) if whole < left.num_rows else None
    if rest is not None:
        yield rest.combine_chunks()
