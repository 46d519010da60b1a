"""Strings of more than 2 GiB: Arrow's 32-bit offsets hold no more of them in one array, and Lance gives no larger ones.

How much room strings take is known when they have been read. So reads begin with as many rows as are fast, and go on
with fewer where they fail for that reason; what has been read comes in several arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa

__all__ = ["MAX_BYTES", "in_smaller_batches", "is_overflow", "reordered"]

MAX_BYTES = 2**31 - 1

_FEWER = 8

Batch = TypeVar("Batch", pa.RecordBatch, pa.Table)


def is_overflow(error: Exception) -> bool:
    """Whether a read failed because its strings have more than 2 GiB together."""
    return "offset overflow" in str(error).lower()


def in_smaller_batches(read: Callable[[int, int], Iterator[Batch]], rows: int) -> Iterator[Batch]:
    """The batches of ``read(0, rows)``, in smaller ones from where that fails because of their strings.

    Args:
        read: Reads, without so many rows at the beginning, in batches of so many rows at most.
        rows: Rows of the batches to begin with.
    """
    done = 0
    batches = read(done, rows)
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            if rows == 1 or not is_overflow(error):
                raise
            rows = max(1, rows // _FEWER)
            batches = read(done, rows)
            continue
        if batch is None:
            return
        done += batch.num_rows
        yield batch


def reordered(chunks: list[pa.Array], rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[pa.Array]:
    """Values in another order, in as few arrays as hold them.

    Args:
        chunks: The values, one array at least.
        rows: Which of them to take, over all arrays; none more than once: shape ``(k,)``.
    """
    if len(rows) < 2 or sum(chunk.nbytes for chunk in chunks) <= MAX_BYTES:
        # Arrow brings all chunks together first.
        taken: list[pa.Array] = pa.chunked_array(chunks).take(pa.array(rows)).chunks
        return taken
    halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    return [array for half in halves for array in reordered(*_narrowed(chunks, half))]


def _narrowed(
    chunks: list[pa.Array], rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> tuple[list[pa.Array], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Arrays of the given rows alone, and where these are in them."""
    order = np.argsort(rows)
    ascending = rows[order]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    bounds = np.searchsorted(ascending, ends)
    parts = np.split(ascending, bounds[:-1])
    starts = [0, *ends[:-1]]
    kept = [chunk.take(pa.array(part - start)) for chunk, part, start in zip(chunks, parts, starts, strict=True)]
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return kept, places
