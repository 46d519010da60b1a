"""Estimates the size of rows: a scan in, the mean bytes of a delivered row out, which planning divides by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import pyarrow as pa

from ray_lance.decode import decoded_schema, mean_decoded_bytes
from ray_lance.native_errors import native_errors
from ray_lance.scan.fixed_width import value_bytes
from ray_lance.scan.scan import Scan

__all__ = ["row_bytes"]

_SAMPLE_ROWS = 32
_SAMPLE_IMAGES = 4
_SAMPLES = 3
_UNKNOWN_BYTES = 64.0


def row_bytes(scan: Scan) -> float:
    """Estimate the mean bytes of one delivered row of ``scan``, before any filter.

    The sizes of columns of fixed width follow from their types. For others a few rows at the start, the middle and the
    end of each table are read; of blobs only the descriptors, which hold their sizes, and of images to decode only the
    headers are used. Lance's statistics are of no use: they are compressed bytes on disk, which can be any fraction of
    the bytes in memory.
    """
    if scan.is_whole:  # one task reads it, and the columns that a search adds exist only in its result
        return sum(value_bytes(field.type) or _UNKNOWN_BYTES for field in scan.schema())
    total_rows = total_bytes = 0.0
    for table, ref in enumerate(scan.tables):
        rows = max(1, ref.open().count_rows())
        total_rows += rows
        total_bytes += rows * _table_row_bytes(_Table(scan.of_table(table)))
    return max(1.0, total_bytes / total_rows)


class _Table:
    """Key of the cache below: a scan of one table, by its reference and columns."""

    def __init__(self, scan: Scan) -> None:
        columns = tuple(scan.columns.items()) if isinstance(scan.columns, Mapping) else scan.columns
        self.scan = scan
        self._key = (scan.tables[0].cache_key, columns, tuple(scan.decoders.items()))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and other._key == self._key


@lru_cache(maxsize=256)
def _table_row_bytes(table: _Table) -> float:
    scan = table.scan
    widths = {field.name: value_bytes(field.type) for field in decoded_schema(scan.stored_schema(), scan.decoders)}
    unknown = [name for name, width in widths.items() if width is None]
    known = sum(width for width in widths.values() if width is not None)
    images = [name for name in unknown if name in scan.decoders]
    others = [name for name in unknown if name not in scan.decoders]
    return known + (_sampled_bytes(scan.select(others)) if others else 0.0) + _image_bytes(scan.select(images))


def _sampled_bytes(scan: Scan) -> float:
    sampled_rows = sampled_bytes = 0
    for table in _samples(scan, _SAMPLE_ROWS, blob_handling="blobs_descriptions"):
        sampled_rows += table.num_rows
        sampled_bytes += sum(_column_bytes(column) for column in table.columns)
    return sampled_bytes / max(1, sampled_rows)


def _image_bytes(scan: Scan) -> float:
    """Mean bytes of a row of images that are not resized."""
    if not scan.decoders:
        return 0.0
    sample = pa.concat_tables(_samples(scan, _SAMPLE_IMAGES, blob_handling="all_binary"))
    return sum(mean_decoded_bytes(sample[name], decoder) for name, decoder in scan.decoders.items())


def _samples(scan: Scan, count: int, blob_handling: str) -> Iterator[pa.Table]:
    """Some neighbouring rows at the start, the middle and the end of a table."""
    rows = scan.tables[0].open().count_rows()
    for sample_number in range(1 if rows <= count else _SAMPLES):
        offset = sample_number * max(0, rows - count) // (_SAMPLES - 1)
        with native_errors(f"reading a sample of {scan.tables[0]}"):
            sample = scan.scanner(0, offset=offset, limit=count, blob_handling=blob_handling).to_table()
        yield sample


def _column_bytes(column: pa.ChunkedArray) -> int:
    if pa.types.is_struct(column.type) and {"blob_id", "size"} <= {field.name for field in column.type}:
        sizes = pa.compute.struct_field(column, "size")
        return int(pa.compute.sum(sizes).as_py() or 0)
    return int(column.nbytes)
