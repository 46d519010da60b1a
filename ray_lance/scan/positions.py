"""Reading in a permutation's order: its tasks, which are runs of positions, and what each of them delivers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_lance.order import ExplicitRows, RowPermutation
from ray_lance.order.rows import RowArray
from ray_lance.retry import RetryPolicy
from ray_lance.scan.delivery import delivered
from ray_lance.scan.plan import MAX_WINDOW_BYTES, TaskSizing, cut_first
from ray_lance.scan.reader import Fill
from ray_lance.scan.scan import Scan
from ray_lance.scan.steps import StepRange
from ray_lance.scan.take import take_rows
from ray_lance.table import TableRef

__all__ = ["PermutationPlan", "PermutationRange", "parts_are_cheap", "plan_positions", "suited"]


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


def _ranges(bounds: list[int]) -> list[PermutationRange]:
    return [PermutationRange(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
