"""Reads rows by number: offsets or row ids in, their rows out, read in the order in which they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.lance_internals import take_by_row_id
from ray_lance.order.rows import RowArray
from ray_lance.paths import sql_path
from ray_lance.retry import RetryPolicy
from ray_lance.scan.blob_contents import with_blob_contents
from ray_lance.scan.overflow import in_smaller_batches, is_overflow
from ray_lance.scan.row_ids import layout_of
from ray_lance.scan.row_sets import number_of_runs, row_set
from ray_lance.scan.scan import FRAGMENT_ID, ROW_ADDRESS, Scan
from ray_lance.scan.scatter import scatter, sort_rows

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

T = TypeVar("T")


def take_rows(
    scan: Scan, rows: RowArray, retry: RetryPolicy | None = None, on_retry: Callable[[], object] | None = None
) -> pa.Table:
    """Read rows by number, in the given order; a row may be asked for more than once.

    Args:
        scan: One table and its columns, as stored; a filter is not looked at.
        rows: Shape ``(k,)``: offsets among the live rows where they are int64, row ids where they are uint64.
        retry: What to do when storage fails.
        on_retry: Called before each further attempt.

    Returns:
        The columns ``scan.read_names``.

    Raises:
        IndexError: Some of the rows do not exist.
    """

    def take() -> pa.Table:
        if bool((rows[1:] >= rows[:-1]).all()):
            return _selected(pa.concat_tables(_read_ascending(scan, rows)), scan)
        ascending, indices = sort_rows(rows)
        return _selected(scatter(_read(scan, ascending), indices), scan)

    return _retried(take, scan, rows, retry, on_retry)


def take_in_pieces(
    scan: Scan,
    rows: RowArray,
    receive: Callable[[RowArray, pa.Table], bool],
    retry: RetryPolicy | None = None,
    on_retry: Callable[[], object] | None = None,
) -> bool:
    """Read rows as :func:`take_rows` does, and hand them over table by table, so that each can be released early.

    After a storage fault all are handed over once more, from the first on.

    Args:
        scan: One table and its columns, as stored; a filter is not looked at.
        rows: In ascending order.
        receive: Gets the numbers of some rows and a table of them, and returns whether it wants more.
        retry: What to do when storage fails.
        on_retry: Called before each further attempt.

    Returns:
        Whether all of them were received.

    Raises:
        IndexError: Some of the rows do not exist: what was received may be other rows.
    """

    def take() -> bool:
        start = 0
        for table in _read_ascending(scan, rows):
            if not receive(rows[start : start + len(table)], _selected(table, scan)):
                return False
            start += len(table)
        return True

    return _retried(take, scan, rows, retry, on_retry)


def _retried(
    take: Callable[[], T], scan: Scan, rows: RowArray, retry: RetryPolicy | None, on_retry: Callable[[], object] | None
) -> T:
    return (retry or RetryPolicy()).call(take, f"taking {len(rows)} rows of {scan.tables[0]}", on_retry)


def _selected(table: pa.Table, scan: Scan) -> pa.Table:
    return scan.with_fragment_id(table).select(list(scan.read_names))


def _are_offsets(rows: RowArray) -> bool:
    return rows.dtype == np.int64


def _read(scan: Scan, rows: RowArray) -> Iterator[pa.Table]:
    """Rows in ascending order, in one table or several: scanned or taken, whichever is faster."""
    layout = layout_of(scan.tables[0])
    is_scanned = layout is not None and layout.is_scannable and _is_worth_scanning(scan, rows, len(layout.fragment_ids))
    row_ids = None if _are_offsets(rows) else rows.astype(np.uint64, copy=False)
    if _are_offsets(rows) and layout is not None and (is_scanned or layout.has_deletions):
        row_ids = layout.row_ids(rows)
    if is_scanned and row_ids is not None:
        return _complete(_scan_set(scan, row_ids), len(rows), scan)
    return _complete(_take(scan, rows if row_ids is None else row_ids), len(rows), scan)


def _read_ascending(scan: Scan, rows: RowArray) -> Iterator[pa.Table]:
    """As :func:`_read`, for rows whose order need not be restored: of them, neighbours are scanned."""
    if _are_offsets(rows) and _is_run(rows):
        return _complete(_scan_run(scan, int(rows[0]), len(rows)), len(rows), scan)
    return _read(scan, rows)


def _complete(tables: Iterator[pa.Table], count: int, scan: Scan) -> Iterator[pa.Table]:
    """The tables, which must have so many rows together."""
    found = 0
    for table in tables:
        found += len(table)
        yield table
    if found != count:
        raise IndexError(f"only {found} of {count} rows exist in {scan.tables[0]}")


def _is_run(rows: RowArray) -> bool:
    """Whether the rows are neighbours, and enough of them for a scan to be faster than a take."""
    return len(rows) >= _MIN_RUN and bool((np.diff(rows) == 1).all())


def _scan_run(scan: Scan, start: int, count: int) -> Iterator[pa.Table]:
    def read(done: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        scanner = scan.of_table(0).scanner(0, offset=start + done, limit=count - done, batch_size=batch_rows)
        return iter(scanner.to_batches())

    for batch in in_smaller_batches(read, _RUN_BATCH_ROWS):
        yield pa.Table.from_batches([batch])


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


def _take(scan: Scan, rows: RowArray) -> Iterator[pa.Table]:
    """One take; on a local file system several.

    The buffers of a take of some MiB are small enough for the allocator to use them again. An object store is asked for
    all at once, since each take waits for its answers.
    """
    table, blobs = scan.tables[0], scan.blob_columns()
    columns, dataset, are_offsets = _take_columns(scan, blobs), table.open_for_takes(), _are_offsets(rows)

    def take(piece: list[int]) -> pa.Table:
        taken = dataset.take(piece, columns) if are_offsets else take_by_row_id(dataset, piece, columns)
        return with_blob_contents(taken, table, blobs, {"indices" if are_offsets else "ids": piece})

    numbers = rows.tolist()  # a quarter of a take's time would go into looking at an array's elements one by one
    return _pieces(take, numbers, len(numbers) if table.is_remote else _FIRST_PIECE_ROWS)


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
