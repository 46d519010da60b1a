"""Reading rows by number: one sorted, batched take, with the order restored in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order import ExplicitRows, RowPermutation
from ray_lance.order.rows import RowArray
from ray_lance.retry import RetryPolicy
from ray_lance.scan.delivery import delivered, with_fragment_id
from ray_lance.scan.places import sorted_rows, to_places
from ray_lance.scan.plan import MAX_WINDOW_BYTES, TaskSizing, cut_first
from ray_lance.scan.reader import Fill
from ray_lance.scan.scan import FRAGMENT_ID, META_COLUMNS, ROW_ADDRESS, Scan, quoted_path
from ray_lance.scan.steps import StepRange
from ray_lance.table import TableRef

__all__ = ["PermutationPlan", "PermutationRange", "parts_are_cheap", "plan_positions", "suited", "take_rows"]

_MIN_RUN = 64
# Buffers of such batches are small enough for the allocator to use them again, where those of a whole run are not.
_RUN_BATCH_ROWS = 8192
# A local take is made in pieces of about so many bytes; how many rows that is, the first piece tells.
_FIRST_PIECE_ROWS = 4096
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class PermutationRange:
    """Positions ``[start, stop)`` of a permutation."""

    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Rows of the range."""
        return self.stop - self.start

    def positions(self) -> npt.NDArray[np.int64]:
        """The positions as an array: int64, shape ``(num_rows,)``."""
        return np.arange(self.start, self.stop, dtype=np.int64)


@dataclass(frozen=True)
class PermutationPlan:
    """What all tasks of one read in a permutation's order share; sent to the workers once.

    Attributes:
        scan: The table and the columns to read; without a filter.
        order: The order, with its epoch. Its row addresses, if it has any, may travel apart: see :meth:`with_rows`.
        schema: Schema of the tables to deliver.
        row_bytes: Mean bytes of a row.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        retry: What to do when storage fails.
    """

    scan: Scan
    order: RowPermutation
    schema: pa.Schema
    row_bytes: float
    fill: Fill = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def with_rows(self, addresses: RowArray) -> PermutationPlan:
        """The same plan with the row addresses that its order runs over."""
        return replace(self, order=self.order.with_base(ExplicitRows(addresses)))

    def read(self, task: PermutationRange | StepRange, limit: int | None = None) -> Iterator[pa.Table]:
        """Read a task in one take.

        Args:
            task: The positions to read.
            limit: Read no more rows than this.

        Yields:
            Tables of ``schema``, in the order of the task's positions; one, unless images are decoded.
        """
        rows = self.order.take(task.positions()[:limit])
        what = f"taking {len(rows)} rows of {self.scan.tables[0]}"
        is_dense = rows.dtype == np.int64
        table = self.retry.call(lambda: take_rows(self.scan, rows, are_offsets=is_dense), what)
        yield from delivered(table, self.scan, self.schema, self.row_bytes, self.fill)


def plan_positions(order: RowPermutation, sizing: TaskSizing) -> list[PermutationRange]:
    """Tasks of about the wanted size that cover ``order``, cut between windows where that is possible.

    Args:
        order: The order to read.
        sizing: Wanted size of the tasks.
    """
    count = len(order)
    if count == 0:
        return []
    if sizing.num_tasks is not None:
        tasks = min(count, sizing.num_tasks)
        return _ranges([task * count // tasks for task in range(tasks + 1)])
    return cut_first(_windows(order, sizing), sizing)


def parts_are_cheap(order: RowPermutation, table: TableRef) -> bool:
    """Whether a small part of the order is read in less time than a whole window of it.

    Rows that are mixed in a window lie in all of its clumps, so that few of them need as many requests as all: on an
    object store they cost the same.
    """
    return order.mixing is None or not table.is_remote


def suited(sizing: TaskSizing, order: RowPermutation, table: TableRef) -> TaskSizing:
    """``sizing`` for an order over a table: without small first tasks where those would not be done sooner."""
    return sizing if parts_are_cheap(order, table) else replace(sizing, first_tasks=0)


def _windows(order: RowPermutation, sizing: TaskSizing) -> list[PermutationRange]:
    count = len(order)
    rows_per_task = int(max(1, sizing.rows_per_task(count)))
    edges = order.window_edges()
    longest = int(np.diff(edges).max(initial=0))
    if longest * sizing.row_bytes > MAX_WINDOW_BYTES or len(edges) <= 2:
        tasks = -(-count // rows_per_task)
        return _ranges([task * count // tasks for task in range(tasks + 1)])
    # The last edge within each task's share of the rows; a window that is larger than the share is a task of its own.
    windows = max(1, rows_per_task // max(1, longest))
    return _ranges([*edges[:-1:windows].tolist(), int(edges[-1])])


def take_rows(scan: Scan, rows: RowArray, *, are_offsets: bool) -> pa.Table:
    """Rows of the scan's table by number, in the given order; a row may be asked for more than once.

    Args:
        scan: One table and its columns, as stored; a filter is not looked at.
        rows: Shape ``(k,)``: offsets among the live rows, or row ids.
        are_offsets: Which of both they are.

    Returns:
        The columns ``scan.read_names``.
    """
    if are_offsets and _is_run(rows):
        return _scan_run(scan, int(rows[0]), len(rows))
    if bool((rows[1:] >= rows[:-1]).all()):
        return _take(scan, rows, are_offsets)
    ascending, places = sorted_rows(rows)
    table = _take(scan, ascending, are_offsets)
    return to_places(table, places) if scan.names else table


def _is_run(rows: RowArray) -> bool:
    """Whether the rows are neighbours, and enough of them for a scan to be faster than a take."""
    return len(rows) >= _MIN_RUN and bool((np.diff(rows) == 1).all())


def _scan_run(scan: Scan, start: int, count: int) -> pa.Table:
    scanner = scan.of_table(0).scanner(0, offset=start, limit=count, batch_size=_RUN_BATCH_ROWS)
    return with_fragment_id(scanner.to_table(), scan).select(list(scan.read_names))


def _take(scan: Scan, rows: RowArray, are_offsets: bool) -> pa.Table:
    blobs = scan.blob_columns()
    table = _take_in_pieces(scan.tables[0], rows, _take_columns(scan, blobs), are_offsets)
    for name in blobs:
        selection: dict[str, Any] = {"indices" if are_offsets else "ids": rows}
        values = [value for _, value in scan.tables[0].open().read_blobs(name, **selection, preserve_order=True)]
        table = table.append_column(name, pa.array(values, pa.large_binary()))
    return with_fragment_id(table, scan).select(list(scan.read_names))


def _take_in_pieces(
    table: TableRef, rows: RowArray, columns: list[str] | dict[str, str], are_offsets: bool
) -> pa.Table:
    """Rows in ascending order, by one take; on a local file system by several.

    The buffers of a take of some MiB are small enough for the allocator to use them again. An object store is asked for
    all at once, since each take waits for its answers.
    """
    dataset = table.open_for_takes()
    take = dataset.take if are_offsets else dataset._take_rows
    numbers = rows.tolist()  # a quarter of a take's time would go into looking at an array's elements one by one
    if table.is_remote:
        return take(numbers, columns)
    first = take(numbers[:_FIRST_PIECE_ROWS], columns)
    count = max(1, _PIECE_BYTES * len(first) // max(1, first.nbytes))
    rest = [take(numbers[start : start + count], columns) for start in range(_FIRST_PIECE_ROWS, len(numbers), count)]
    return pa.concat_tables([first, *rest])


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


def _ranges(bounds: list[int]) -> list[PermutationRange]:
    return [PermutationRange(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
