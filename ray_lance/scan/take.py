"""Reading rows by number: in the order in which they lie, with the wanted order restored in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order.rows import RowArray
from ray_lance.paths import sql_path
from ray_lance.scan.blobs import with_blobs
from ray_lance.scan.delivery import with_fragment_id
from ray_lance.scan.layout import layout_of
from ray_lance.scan.overflow import in_smaller_batches, is_overflow
from ray_lance.scan.places import sorted_rows, to_places
from ray_lance.scan.row_sets import number_of_runs, row_set
from ray_lance.scan.scan import FRAGMENT_ID, ROW_ADDRESS, Scan

__all__ = ["take_in_pieces", "take_rows"]

_MIN_RUN = 64
# Buffers of such batches are small enough for the allocator to use them again, where those of a whole run are not.
_RUN_BATCH_ROWS = 8192
# A local take is made in pieces of about so many bytes; how many rows that is, each piece tells for the next.
_FIRST_PIECE_ROWS = 4096
_PIECE_BYTES = 4 * 2**20
# A scan of a set of rows costs a quarter of a millisecond for each fragment, and a take some time for each row.
_MIN_ROWS_PER_FRAGMENT = 2048
_MIN_ROWS_PER_RUN = 16
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
    if bool((rows[1:] >= rows[:-1]).all()):
        table = pa.concat_tables(_read_in_order(scan, rows, are_offsets))
    else:
        ascending, places = sorted_rows(rows)
        table = to_places(_read(scan, ascending, are_offsets), places)
    return _delivered(table, scan)


def take_in_pieces(scan: Scan, rows: RowArray, *, are_offsets: bool) -> Iterator[pa.Table]:
    """As :func:`take_rows`, for rows in ascending order and one table after another, for each to be let go early.

    Yields:
        Tables of the columns ``scan.read_names``, of any number of rows.

    Raises:
        IndexError: Some of the rows do not exist; perhaps only after tables whose rows are then not those asked for.
    """
    for table in _read_in_order(scan, rows, are_offsets):
        yield _delivered(table, scan)


def _delivered(table: pa.Table, scan: Scan) -> pa.Table:
    return with_fragment_id(table, scan).select(list(scan.read_names))


def _is_run(rows: RowArray) -> bool:
    """Whether the rows are neighbours, and enough of them for a scan to be faster than a take."""
    return len(rows) >= _MIN_RUN and bool((np.diff(rows) == 1).all())


def _scan_run(scan: Scan, start: int, count: int) -> Iterator[pa.Table]:
    def read(done: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        scanner = scan.of_table(0).scanner(0, offset=start + done, limit=count - done, batch_size=batch_rows)
        return iter(scanner.to_batches())

    for batch in in_smaller_batches(read, _RUN_BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _read(scan: Scan, rows: RowArray, are_offsets: bool) -> Iterator[pa.Table]:
    """Rows in ascending order, in one table or several: scanned or taken, whichever is faster."""
    layout = layout_of(scan.tables[0])
    is_scanned = layout is not None and layout.is_scannable and _is_worth_scanning(scan, rows, len(layout.numbers))
    row_ids = None if are_offsets else rows.astype(np.uint64, copy=False)
    if are_offsets and layout is not None and (is_scanned or not layout.is_dense):
        row_ids = layout.row_ids(rows)
    if row_ids is None:
        tables = _take(scan, rows, are_offsets=True)
    else:
        tables = _scan_set(scan, row_ids) if is_scanned else _take(scan, row_ids, are_offsets=False)
    yield from _complete(tables, len(rows), scan)


def _read_in_order(scan: Scan, rows: RowArray, are_offsets: bool) -> Iterator[pa.Table]:
    """As :func:`_read`, for rows whose order need not be restored: of them, neighbours are scanned."""
    if are_offsets and _is_run(rows):
        return _complete(_scan_run(scan, int(rows[0]), len(rows)), len(rows), scan)
    return _read(scan, rows, are_offsets)


def _complete(tables: Iterator[pa.Table], count: int, scan: Scan) -> Iterator[pa.Table]:
    """The tables, which must have so many rows together."""
    found = 0
    for table in tables:
        found += len(table)
        yield table
    if found != count:
        raise IndexError(f"only {found} of {count} rows exist in {scan.tables[0]}")


def _is_worth_scanning(scan: Scan, rows: RowArray, fragments: int) -> bool:
    """Whether a scan reads ascending rows in less time than takes would, and reads the same."""
    if scan.tables[0].is_remote or len(rows) < fragments * _MIN_ROWS_PER_FRAGMENT:
        return False
    if len(rows) < number_of_runs(rows) * _MIN_ROWS_PER_RUN or bool((rows[1:] == rows[:-1]).any()):
        return False
    # Inside of structs and expressions, blobs are bytes in a scan and descriptors in a take.
    return not scan.reads_blobs()


def _scan_set(scan: Scan, addresses: npt.NDArray[np.uint64]) -> Iterator[pa.Table]:
    def read(done: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        batches = {"batch_size": batch_rows, "batch_size_bytes": _PIECE_BYTES}
        scanner = scan.of_table(0).scanner_of_rows(row_set(addresses[done:]), **batches, **_READAHEAD)
        return iter(scanner.to_batches())

    for batch in in_smaller_batches(read, _RUN_BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def _take(scan: Scan, rows: RowArray, are_offsets: bool) -> Iterator[pa.Table]:
    """One take; on a local file system several.

    The buffers of a take of some MiB are small enough for the allocator to use them again. An object store is asked for
    all at once, since each take waits for its answers.
    """
    table, blobs = scan.tables[0], scan.blob_columns()
    columns, dataset = _take_columns(scan, blobs), table.open_for_takes()

    def take(piece: list[int]) -> pa.Table:
        taken = (dataset.take if are_offsets else dataset._take_rows)(piece, columns)
        return with_blobs(taken, table, blobs, {"indices" if are_offsets else "ids": piece})

    numbers = rows.tolist()  # a quarter of a take's time would go into looking at an array's elements one by one
    yield from _pieces(take, numbers, len(numbers) if table.is_remote else _FIRST_PIECE_ROWS)


def _pieces(take: Callable[[list[int]], pa.Table], numbers: list[int], first: int) -> Iterator[pa.Table]:
    """Takes of pieces of ``numbers``, one at least: the first of so many rows, the others of so many bytes."""
    start, count = 0, first
    while True:
        piece = numbers[start : start + count]
        try:
            taken = take(piece)
        except (OSError, pa.ArrowException) as error:
            if len(piece) < 2 or not is_overflow(error):
                raise
            count = len(piece) // 2
            continue
        yield taken
        start += len(piece)
        if start >= len(numbers):
            return
        count = max(1, _PIECE_BYTES * len(piece) // max(1, taken.nbytes))


def _take_columns(scan: Scan, blobs: dict[str, str]) -> list[str] | dict[str, str]:
    wanted = [name for name in scan.read_names if name not in blobs and not (name == FRAGMENT_ID and name in scan.meta)]
    if FRAGMENT_ID in scan.meta and ROW_ADDRESS not in wanted:
        wanted.append(ROW_ADDRESS)
    if not wanted:
        wanted.append(ROW_ADDRESS)  # something has to carry the number of rows
    if isinstance(scan.columns, Mapping):
        return {name: scan.columns.get(name, name) for name in wanted}
    paths = scan.stored_paths
    # A take gives the columns of paths as structs, and under other names, unless they are asked for as expressions.
    if any(paths.get(name, (name,)) != (name,) for name in wanted):
        return {name: sql_path(paths.get(name, (name,))) for name in wanted}
    return wanted
