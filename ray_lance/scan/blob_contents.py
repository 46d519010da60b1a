"""Reads the contents of blobs: rows of a take, which have only descriptors, in; the same rows with the bytes out."""

from __future__ import annotations

from typing import Any

import lance
import pyarrow as pa

from ray_lance.paths import sql_path
from ray_lance.scan.scan import ROW_ID
from ray_lance.table import TableRef
from ray_lance.tensors.kinds import is_older_blob

__all__ = ["with_blob_contents"]


def with_blob_contents(taken: pa.Table, table: TableRef, blobs: dict[str, str], rows: dict[str, list[int]]) -> pa.Table:
    """Add the contents of blob columns to rows of a take.

    Args:
        taken: Rows of ``table``.
        table: The table that they are rows of.
        blobs: Names of the blob columns, with their names in the table.
        rows: The numbers of the rows, as ``"indices"`` or ``"ids"``.
    """
    dataset = table.open()
    for name, column in blobs.items():
        stored = dataset.schema.field(column)
        field = pa.field(name, pa.large_binary(), stored.nullable)
        # Of the older layout Lance looks for the files of a branch's or clone's origin in the wrong folder.
        reads = _scanned if dataset.base_paths() and is_older_blob(stored) else _read
        taken = taken.append_column(field, pa.array(reads(dataset, column, rows), field.type))
    return taken


def _read(dataset: lance.LanceDataset, column: str, rows: dict[str, list[int]]) -> list[bytes | None]:
    return [value for _, value in dataset.read_blobs(column, **rows, preserve_order=True)]


def _scanned(dataset: lance.LanceDataset, column: str, rows: dict[str, list[int]]) -> list[bytes | None]:
    ids = rows["ids"] if "ids" in rows else dataset.take(rows["indices"], [ROW_ID])[ROW_ID].to_pylist()
    if not ids:
        return []
    wanted = f"{ROW_ID} IN ({', '.join(map(str, sorted(set(ids))))})"
    options: dict[str, Any] = {"filter": wanted, "with_row_id": True, "blob_handling": "all_binary"}
    found = dataset.scanner(columns={"value": sql_path((column,))}, **options).to_table()
    values = dict(zip(found[ROW_ID].to_pylist(), found["value"].to_pylist(), strict=True))
    return [values[row_id] for row_id in ids]
