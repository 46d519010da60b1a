"""Datasets that many tests read."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa


def sample_table(rows: int, start: int = 0) -> pa.Table:
    """Rows whose every value follows from their id: id, label (id % 10), vec (float32[4]), text."""
    ids = np.arange(start, start + rows)
    vectors = np.repeat(ids.astype(np.float32), 4)
    return pa.table(
        {
            "id": pa.array(ids),
            "label": pa.array(ids % 10),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4),
            "text": pa.array([f"row {i}" for i in ids], pa.string()),
        }
    )


def write_fragments(uri: str, sizes: list[int], *, deleted: str | None = None) -> lance.LanceDataset:
    """A dataset of one fragment per entry of ``sizes``, ids counting up, less the rows where ``deleted`` holds."""
    start = 0
    dataset = lance.write_dataset(sample_table(0), uri)
    for size in sizes:
        dataset = lance.write_dataset(sample_table(size, start), uri, mode="append", max_rows_per_file=max(1, size))
        start += size
    if deleted is not None:
        dataset.delete(deleted)
    return lance.dataset(uri)
