"""Reads strings of more than 2 GiB: a read that fails because of their size in, several smaller batches out.

Arrow's 32-bit offsets hold no more in one array, and Lance gives no arrays with larger offsets. How much memory strings
take is known only when they have been read. So reads begin with as many rows as are fast, and continue with fewer where
they fail for that reason.
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
    """Whether a read failed because its strings take more than 2 GiB together."""
    return "offset overflow" in str(error).lower()


def in_smaller_batches(read: Callable[[int, int], Iterator[Batch]], rows: int) -> Iterator[Batch]:
    """Yield the batches of ``read(0, rows)``, and smaller ones from where that fails because of their strings.

    Args:
        read: Called with the number of rows to skip and the most rows of a batch.
        rows: Rows of the first batches.
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
    """Put values into another order, in as few arrays as can hold them.

    Args:
        chunks: The values, one array at least.
        rows: Which of them to take, over all arrays; none more than once: shape ``(k,)``.
    """
    if len(rows) < 2 or sum(chunk.nbytes for chunk in chunks) <= MAX_BYTES:
        # Arrow concatenates all chunks first, so that they must fit into one.
        taken: list[pa.Array] = pa.chunked_array(chunks).take(pa.array(rows)).chunks
        return taken
    halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    return [array for half in halves for array in reordered(*_narrowed(chunks, half))]


def _narrowed(
    chunks: list[pa.Array], rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> tuple[list[pa.Array], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Arrays of only the given rows, and the indices of these in them."""
    order = np.argsort(rows)
    ascending = rows[order]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    bounds = np.searchsorted(ascending, ends)
    parts = np.split(ascending, bounds[:-1])
    starts = [0, *ends[:-1]]
    parts_of_chunks = [
        chunk.take(pa.array(part - start)) for chunk, part, start in zip(chunks, parts, starts, strict=True)
    ]
    indices = np.empty_like(order)
    indices[order] = np.arange(len(order))
    return parts_of_chunks, indices
