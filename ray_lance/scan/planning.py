"""Cuts a read into tasks: a scan's fragments, a permutation or a rank's schedule in, tasks of about equal bytes out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ray_lance.order import BatchSchedule, RowOrder
from ray_lance.scan.scan import Scan
from ray_lance.scan.tasks import FragmentRange, PermutationRange, StepRange
from ray_lance.table import TableRef

__all__ = [
    "FragmentRows",
    "TaskSizing",
    "are_parts_cheap",
    "plan_fragments",
    "plan_positions",
    "plan_scan",
    "plan_steps",
]

MIN_TASK_BYTES = 4 * 2**20
MAX_TASK_BYTES = 32 * 2**20
FIRST_TASK_BYTES = 2**19
# A shuffle window is read whole where it can be: a part of one touches all of its clumps.
MAX_WINDOW_BYTES = 4 * MAX_TASK_BYTES

Range = TypeVar("Range", FragmentRange, PermutationRange)


@dataclass(frozen=True)
class FragmentRows:
    """A fragment as planning sees it: its id and how many rows of it are live."""

    fragment_id: int
    rows: int


@dataclass(frozen=True)
class TaskSizing:
    """How large tasks should be.

    Attributes:
        row_bytes: Mean bytes of a delivered row.
        target_bytes: Bytes that a task should deliver.
        num_tasks: Wanted number of tasks; overrides ``target_bytes``.
        first_tasks: Small tasks at the beginning, as many as run at once, for the sake of the first batch. Ray looks
            for results when every running task has one, or after 100 ms, so that a single small one would not do.
            0 where small tasks take as long as large ones.
    """

    row_bytes: float
    target_bytes: float
    num_tasks: int | None = None
    first_tasks: int = 0

    @classmethod
    def for_cluster(cls, total_rows: int, row_bytes: float, cpus: float, num_tasks: int | None = None) -> TaskSizing:
        """Two tasks per CPU, within bounds: a task costs about 15 ms, and a large one delays the first batch."""
        share = total_rows * row_bytes / max(1.0, 2 * cpus)
        return cls(row_bytes, min(max(share, MIN_TASK_BYTES), MAX_TASK_BYTES), num_tasks, max(1, int(cpus)))

    def for_order(self, order: RowOrder, table: TableRef) -> TaskSizing:
        """The sizing of an order over a table: without small first tasks where those would be done no sooner."""
        return self if are_parts_cheap(order, is_remote=table.is_remote) else replace(self, first_tasks=0)

    def rows_per_task(self, total_rows: int) -> float:
        """Rows that one task should read."""
        if self.num_tasks is not None:
            return max(1.0, total_rows / self.num_tasks)
        return max(1.0, self.target_bytes / self.row_bytes)


def are_parts_cheap(order: RowOrder, *, is_remote: bool) -> bool:
    """Whether a small part of the order is read in less time than a whole window of it.

    Rows that are mixed in a window lie in all of its clumps, so that few of them need as many requests as all: on an
    object store they cost the same.
    """
    return not (order.is_shuffled and is_remote)


def plan_scan(scan: Scan, fragments: Sequence[Sequence[FragmentRows]], sizing: TaskSizing) -> list[FragmentRange]:
    """The tasks of ``scan``, in scan order. Together they cover every live row exactly once.

    Args:
        scan: What to read.
        fragments: The fragments to read of each table of the scan.
        sizing: Wanted size of the tasks.
    """
    if scan.is_whole:
        return [
            FragmentRange(table, None, 0, sum(fragment.rows for fragment in table_fragments))
            for table, table_fragments in enumerate(fragments)
        ]
    total = sum(fragment.rows for table in fragments for fragment in table)
    rows_per_task = sizing.rows_per_task(total)
    exact = sizing.num_tasks is not None
    tasks: list[FragmentRange] = []
    for table, table_fragments in enumerate(fragments):
        live = [fragment for fragment in table_fragments if fragment.rows > 0]
        if exact and scan.is_divisible:
            tasks += _equal_ranges(table, live, rows_per_task)
        else:
            tasks += plan_fragments(table, live, rows_per_task, divisible=scan.is_divisible)
    return _with_small_first(tasks, sizing) if scan.is_divisible else tasks


def plan_fragments(
    table: int, fragments: Iterable[FragmentRows], rows_per_task: float, *, divisible: bool
) -> Iterator[FragmentRange]:
    """Packs small fragments into one task and cuts large ones into equal parts; no task straddles a cut.

    Args:
        table: Index of the table in the scan.
        fragments: Fragments with at least one live row, in scan order.
        rows_per_task: Wanted rows per task.
        divisible: Whether fragments may be cut. Under a filter they may not: Lance counts an offset in rows that pass
            the filter, so that every part would have to read the filter's columns of the whole fragment.
    """
    packed: list[FragmentRows] = []
    packed_rows = 0
    for fragment in fragments:
        if packed and packed_rows + fragment.rows > rows_per_task:
            yield _whole(table, packed)
            packed, packed_rows = [], 0
        parts = math.ceil(fragment.rows / rows_per_task) if divisible else 1
        if parts > 1:
            for start, stop in _even_ranges(0, fragment.rows, parts):
                yield FragmentRange(table, (fragment.fragment_id,), start, stop)
        else:
            packed.append(fragment)
            packed_rows += fragment.rows
    if packed:
        yield _whole(table, packed)


def plan_positions(order: RowOrder, sizing: TaskSizing) -> list[PermutationRange]:
    """Tasks of about the wanted size that cover ``order``, cut between windows where that is possible.

    Args:
        order: The order to read.
        sizing: Wanted size of the tasks.
    """
    count = len(order)
    if count == 0:
        return []
    if sizing.num_tasks is not None:
        ranges = _even_ranges(0, count, min(count, sizing.num_tasks))
        return [PermutationRange(start, stop) for start, stop in ranges]
    tasks = [PermutationRange(start, stop) for start, stop in _window_ranges(order, sizing)]
    return _with_small_first(tasks, sizing)


def plan_steps(schedule: BatchSchedule, sizing: TaskSizing, window: int = 0) -> list[StepRange]:
    """Tasks of about the wanted size that cover every step of one rank; small ones first, for an early first batch.

    Args:
        schedule: The rank's schedule.
        sizing: Wanted size of the tasks; ``num_tasks`` counts those of all ranks together.
        window: Positions within which the order mixes rows. A task that reads a whole window in each of its lanes finds
            neighbouring rows together, so tasks grow up to that, within bounds.
    """
    steps = schedule.rank_steps
    if steps == 0:
        return []
    if sizing.num_tasks is not None:
        ranges = _even_ranges(0, steps, min(steps, -(-sizing.num_tasks // schedule.world_size)))
        return [StepRange(schedule, first, end) for first, end in ranges]
    step_bytes = sizing.row_bytes * schedule.batch_size
    lanes = len({piece.lane for piece in schedule.pieces(0)})
    windows_bytes = min(lanes * window * sizing.row_bytes, MAX_WINDOW_BYTES)
    steps_per_task = max(1, int(max(sizing.target_bytes, windows_bytes) / step_bytes))
    small = max(1, int(FIRST_TASK_BYTES / step_bytes))
    first_tasks = max(1, sizing.first_tasks // schedule.world_size) if sizing.first_tasks else 0
    small_steps = min(steps, small * first_tasks)
    ranges = [(first, min(first + small, small_steps)) for first in range(0, small_steps, small)]
    ranges += _even_ranges(small_steps, steps, -(-(steps - small_steps) // steps_per_task))
    return [StepRange(schedule, first, end) for first, end in ranges]


def _with_small_first(tasks: list[Range], sizing: TaskSizing) -> list[Range]:
    """``tasks`` with small ones cut from the beginning of the first, if that is large; see :class:`TaskSizing`."""
    small = max(1, int(FIRST_TASK_BYTES / sizing.row_bytes))
    if not tasks or sizing.num_tasks is not None or tasks[0].num_rows < 2 * sizing.first_tasks * small:
        return tasks
    first = tasks[0]
    cuts: list[int] = [first.start + small * task for task in range(sizing.first_tasks + 1)] + [first.stop]
    parts: list[Range] = [replace(first, start=start, stop=stop) for start, stop in itertools.pairwise(cuts)]
    return parts + tasks[1:]


def _window_ranges(order: RowOrder, sizing: TaskSizing) -> list[tuple[int, int]]:
    """Ranges that hold whole windows, or even ones where a window is too large for a task."""
    rows_per_task = int(max(1, sizing.rows_per_task(len(order))))
    edges = order.window_edges()
    longest = int(np.diff(edges).max(initial=0))
    if longest * sizing.row_bytes > MAX_WINDOW_BYTES or len(edges) <= 2:
        return _even_ranges(0, len(order), -(-len(order) // rows_per_task))
    # The last edge within each task's share of the rows; a larger window is one task.
    windows = max(1, rows_per_task // max(1, longest))
    bounds = [*edges[:-1:windows].tolist(), int(edges[-1])]
    return [(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]


def _whole(table: int, fragments: Sequence[FragmentRows]) -> FragmentRange:
    ids = tuple(fragment.fragment_id for fragment in fragments)
    return FragmentRange(table, ids, 0, sum(fragment.rows for fragment in fragments))


def _equal_ranges(table: int, fragments: Sequence[FragmentRows], rows_per_task: float) -> Iterator[FragmentRange]:
    """Tasks of equal numbers of rows, which may span several fragments and parts of them."""
    total = sum(fragment.rows for fragment in fragments)
    first = first_row = 0  # the fragment that the task starts in, and the position of its first row
    for start, stop in _even_ranges(0, total, min(total, max(1, round(total / rows_per_task)))):
        while first_row + fragments[first].rows <= start:
            first_row += fragments[first].rows
            first += 1
        last, end = first, first_row + fragments[first].rows
        while end < stop:
            last += 1
            end += fragments[last].rows
        ids = tuple(fragment.fragment_id for fragment in fragments[first : last + 1])
        yield FragmentRange(table, ids, start - first_row, stop - first_row)


def _even_ranges(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """``[start, stop)`` in so many parts, whose sizes differ by at most one."""
    count = stop - start
    return [(start + part * count // parts, start + (part + 1) * count // parts) for part in range(parts)]
