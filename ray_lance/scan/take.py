"""Reading rows by number: in the order in which they lie, with the wanted order restored in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.scan.delivery import with_fragment_id
from ray_lance.scan.places import sorted_rows, to_places
from ray_lance.scan.row_sets import number_of_runs, row_set
from ray_lance.scan.scan import FRAGMENT_ID, META_COLUMNS, ROW_ADDRESS, Scan, quoted_path
from ray_lance.table import TableRef

__all__ = ["take_rows"]

_MIN_RUN = 64
# Buffers of such batches are small enough for the allocator to use them again, where those of a whole run are not.
_RUN_BATCH_ROWS = 8192
# A local take is made in pieces of about so many bytes; how many rows that is, the first piece tells.
_FIRST_PIECE_ROWS = 4096
_PIECE_BYTES = 4 * 2**20
# A scan of a set of rows costs a quarter of a millisecond for each fragment, a take some microseconds for each run.
_SCANNED_ROWS = 2048
_SCANNED_RUN = 16
# Several threads make such reads at once.
_READAHEAD = {"fragment_readahead": 1, "batch_readahead": 1}


def take_rows(scan: Scan, rows: RowArray, *, are_offsets: bool) -> pa.Table:
    """Rows of the scan's table by number, in the given order; a row may be asked for more than once.

    Args:
        scan: One table and its columns, as stored; a filter is not looked at.
        rows: Shape ``(k,)``: offsets among the live rows, or row ids.
        are_offsets: Which of both they are.

    Returns:
        The columns ``scan.read_names``.

    Raises:
        IndexError: Some of the rows do not exist.
    """
    if are_offsets and _is_run(rows):
        return _scan_run(scan, int(rows[0]), len(rows))
    if bool((rows[1:] >= rows[:-1]).all()):
        return pa.concat_tables(_read(scan, rows, are_offsets))
    ascending, places = sorted_rows(rows)
    tables = _read(scan, ascending, are_offsets)
    return to_places(tables, places) if scan.names else pa.concat_tables(tables)


def _is_run(rows: RowArray) -> bool:
    """Whether the rows are neighbours, and enough of them for a scan to be faster than a take."""
    return len(rows) >= _MIN_RUN and bool((np.diff(rows) == 1).all())


def _scan_run(scan: Scan, start: int, count: int) -> pa.Table:
    scanner = scan.of_table(0).scanner(0, offset=start, limit=count, batch_size=_RUN_BATCH_ROWS)
    return with_fragment_id(scanner.to_table(), scan).select(list(scan.read_names))


def _read(scan: Scan, rows: RowArray, are_offsets: bool) -> Iterator[pa.Table]:
    """Rows in ascending order, in one table or several, whichever way is the fastest."""
    row_ids = _scannable(scan.tables[0], rows, are_offsets)
    tables = _take(scan, rows, are_offsets) if row_ids is None else _scan_set(scan, row_ids)
    found = 0
    for table in tables:
        found += len(table)
        yield with_fragment_id(table, scan).select(list(scan.read_names))
    if found != len(rows):
        raise IndexError(f"only {found} of {len(rows)} rows exist in {scan.tables[0]}")


def _scannable(table: TableRef, rows: RowArray, are_offsets: bool) -> npt.NDArray[np.uint64] | None:
    """The row ids of ascending rows that a scan reads in less time than takes would; None for others."""
    if table.is_remote or len(rows) < _SCANNED_ROWS or number_of_runs(rows) * _SCANNED_RUN > len(rows):
        return None
    fragments: int = table.open()._ds.count_fragments()
    if fragments * _SCANNED_ROWS > len(rows) or bool((rows[1:] == rows[:-1]).any()):
        return None
    layout = _layout(table)
    if layout is None:
        return None
    return layout.row_ids(rows) if are_offsets else rows.astype(np.uint64, copy=False)


def _scan_set(scan: Scan, row_ids: npt.NDArray[np.uint64]) -> Iterator[pa.Table]:
    batches = {"batch_size": _RUN_BATCH_ROWS, "batch_size_bytes": _PIECE_BYTES}
    scanner = scan.of_table(0).scanner_of_rows(row_set(row_ids), **batches, **_READAHEAD)
    for batch in scanner.to_batches():
        yield pa.Table.from_batches([batch])


def _take(scan: Scan, rows: RowArray, are_offsets: bool) -> Iterator[pa.Table]:
    """One take; on a local file system several.

    The buffers of a take of some MiB are small enough for the allocator to use them again. An object store is asked for
    all at once, since each take waits for its answers.
    """
    table, blobs = scan.tables[0], scan.blob_columns()
    columns, dataset = _take_columns(scan, blobs), table.open_for_takes()
    take = dataset.take if are_offsets else dataset._take_rows
    numbers = rows.tolist()  # a quarter of a take's time would go into looking at an array's elements one by one
    start, count = 0, len(rows) if table.is_remote else _FIRST_PIECE_ROWS
    while True:
        piece = numbers[start : start + count]
        taken = take(piece, columns)
        yield _with_blobs(taken, table, blobs, {"indices" if are_offsets else "ids": piece})
        start += len(piece)
        if start >= len(numbers):
            return
        count = max(1, _PIECE_BYTES * len(taken) // max(1, taken.nbytes))


def _with_blobs(taken: pa.Table, table: TableRef, blobs: tuple[str, ...], rows: dict[str, list[int]]) -> pa.Table:
    """``taken`` with the contents of its blob columns, of which takes give only descriptors."""
    for name in blobs:
        values = [value for _, value in table.open().read_blobs(name, **rows, preserve_order=True)]
        taken = taken.append_column(name, pa.array(values, pa.large_binary()))
    return taken


def _take_columns(scan: Scan, blobs: tuple[str, ...]) -> list[str] | dict[str, str]:
    wanted = [name for name in scan.read_names if name not in blobs and name != FRAGMENT_ID]
    if FRAGMENT_ID in scan.names and ROW_ADDRESS not in wanted:
        wanted.append(ROW_ADDRESS)
    if not wanted:
        wanted.append(ROW_ADDRESS)  # something has to carry the number of rows
    if isinstance(scan.columns, Mapping):
        return {name: scan.columns.get(name, name) for name in wanted}
    # A take gives "a.b" as a struct, unless it is asked for as an expression.
    if any("." in name for name in wanted):
        return {name: name if name in META_COLUMNS else quoted_path(name) for name in wanted}
    return wanted


@dataclass(frozen=True)
class _Layout:
    """Where the fragments of a table lie.

    Attributes:
        numbers: Ids of the fragments, ascending: int64, shape ``(k,)``.
        starts: Offset of each one's first row, and the number of rows: int64, shape ``(k + 1,)``.
        is_dense: Whether no rows have been deleted.
    """

    numbers: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    is_dense: bool

    def row_ids(self, offsets: RowArray) -> npt.NDArray[np.uint64] | None:
        """The row ids of ascending offsets; None where the deleted rows would have to be known for it."""
        if not self.is_dense:
            return None
        counts = np.diff(np.searchsorted(offsets, self.starts))
        ids: npt.NDArray[np.uint64] = (offsets + np.repeat((self.numbers << 32) - self.starts[:-1], counts)).view(
            np.uint64
        )
        return ids


@lru_cache(maxsize=64)
def _layout(table: TableRef) -> _Layout | None:
    """The layout of one version of a table; None where row ids are no addresses, or ascend in another order."""
    dataset = table.open()
    if table.version is None or dataset.has_stable_row_ids:
        return None
    fragments = dataset.get_fragments()
    numbers = np.array([fragment.fragment_id for fragment in fragments], dtype=np.int64)
    if bool((np.diff(numbers) < 0).any()):
        return None
    starts = np.cumsum([0, *(fragment.physical_rows for fragment in fragments)])
    return _Layout(numbers, starts, all(fragment.num_deletions == 0 for fragment in fragments))
