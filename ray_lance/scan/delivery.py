"""Delivers rows: tables as Lance gave them in; tables of the promised schema, with images decoded, out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_lance.decode import decode_table
from ray_lance.scan.scan import Scan
from ray_lance.tensors import Fill, deliver

__all__ = ["delivered"]

_MAX_DECODED_BYTES = 32 * 2**20


def delivered(
    table: pa.Table,
    scan: Scan,
    schema: pa.Schema,
    row_bytes: float,
    fill: Fill = None,
) -> Iterator[pa.Table]:
    """Yield the rows of ``table`` in order; in several tables where decoded images take much memory.

    Args:
        table: The columns ``scan.read_names`` as stored. A column that one of several tables lacks may be missing.
        scan: What is read.
        schema: Schema to deliver.
        row_bytes: Mean bytes of a delivered row.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.

    Yields:
        Tables of ``schema``, at least one; as many rows together as ``table`` has.

    Raises:
        TensorConversionError: An image cannot be decoded, or nulls have no representation and no ``fill``.
    """
    if not scan.decoders:
        yield _promised(table, scan, schema, fill)
        return
    rows = max(1, int(_MAX_DECODED_BYTES / row_bytes))
    for start in range(0, max(1, table.num_rows), rows):
        part = _with_missing_images(table.slice(start, rows), scan)
        yield _promised(decode_table(part, scan.decoders), scan, schema, fill)


def _promised(table: pa.Table, scan: Scan, schema: pa.Schema, fill: Fill) -> pa.Table:
    table = table.select([name for name in scan.names if name in table.column_names])
    return deliver(table, schema, fill=fill, nullable=scan.decoders) if scan.names else table


def _with_missing_images(table: pa.Table, scan: Scan) -> pa.Table:
    """``table`` with nulls for encoded columns that this one of several tables lacks."""
    for name in scan.decoders:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.binary()))
    return table
