"""Chooses rows of a table: a filter or key columns in, row ids (and hashes of the keys) out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.native_errors import native_errors
from ray_lance.order import DenseRows, RowPermutation, stable_hash64
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.scan import ROW_ID
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef
from ray_lance.tensors.objects import to_objects

__all__ = ["filtered_row_ids", "hashed_row_ids"]


def filtered_row_ids(table: TableRef, filter: str) -> npt.NDArray[np.uint64]:
    """Row ids of the rows that pass a filter, in scan order: uint64, shape ``(rows,)``."""
    scan = build_scan([table], [ROW_ID], filter, [], {})
    with native_errors(f"filter={filter!r} on {table}"):
        return _row_ids(scan.scanner(0).to_table())


def hashed_row_ids(
    table: TableRef, order: RowPermutation, by: Sequence[str]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Row ids of an order's rows, and hashes of their values in the columns ``by``: both uint64, shape ``(rows,)``."""
    scan = build_scan([table], [*by, ROW_ID], None, [], {})
    rows = order.rows()
    if isinstance(order.base, DenseRows) and len(rows) == order.base.count:
        with native_errors(f"reading the columns {list(by)} of {table}"):
            found = scan.scanner(0).to_table().take(pa.array(rows))
    else:
        found = take_rows(scan, rows)
    return _row_ids(found), stable_hash64(*(_hashable(name, found[name]) for name in by))


def _row_ids(table: pa.Table) -> npt.NDArray[np.uint64]:
    row_ids: npt.NDArray[np.uint64] = table[ROW_ID].to_numpy().astype(np.uint64, copy=False)
    return row_ids


def _hashable(name: str, column: pa.ChunkedArray) -> Any:
    if pa.types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy()
    return to_objects(column, name)
