"""Planning: cuts a scan into read tasks. A task is data: fragment ids and a range of rows, nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ray_lance.scan.scan import Scan

if TYPE_CHECKING:
    from ray_lance.scan.positions import PermutationRange

__all__ = ["FragmentRange", "FragmentRows", "TaskSizing", "cut_first", "plan_fragments", "plan_scan"]

MIN_TASK_BYTES = 4 * 2**20
MAX_TASK_BYTES = 32 * 2**20
FIRST_TASK_BYTES = 2**19
# A window of a shuffle is read whole where it can be: a part of one touches all of its clumps.
MAX_WINDOW_BYTES = 4 * MAX_TASK_BYTES

Range = TypeVar("Range", "FragmentRange", "PermutationRange")


@dataclass(frozen=True)
class FragmentRange:
    """Rows ``[start, stop)`` of the concatenated live rows of some neighbouring fragments of one table.

    Attributes:
        table: Index of the table in the scan.
        fragment_ids: The fragments, in scan order. None stands for the whole dataset.
        start: Live rows to leave out at the beginning.
        stop: Live rows up to which to read, counted from the first fragment's start.
    """

    table: int
    fragment_ids: tuple[int, ...] | None
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Live rows of the range, before any filter."""
        return self.stop - self.start


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
        num_tasks: Wanted number of tasks; goes before ``target_bytes``.
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
        """Two tasks per CPU, within bounds: a task costs about 15 ms, and a large one holds up the first batch."""
        share = total_rows * row_bytes / max(1.0, 2 * cpus)
        return cls(row_bytes, min(max(share, MIN_TASK_BYTES), MAX_TASK_BYTES), num_tasks, max(1, int(cpus)))

    def rows_per_task(self, total_rows: int) -> float:
        """Rows that one task should read."""
        if self.num_tasks is not None:
            return max(1.0, total_rows / self.num_tasks)
        return max(1.0, self.target_bytes / self.row_bytes)


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
    return cut_first(tasks, sizing) if scan.is_divisible else tasks


def cut_first(tasks: list[Range], sizing: TaskSizing) -> list[Range]:
    """``tasks`` with small ones cut from the beginning of the first, if that is large; see :class:`TaskSizing`."""
    small = max(1, int(FIRST_TASK_BYTES / sizing.row_bytes))
    if not tasks or sizing.num_tasks is not None or tasks[0].num_rows < 2 * sizing.first_tasks * small:
        return tasks
    first = tasks[0]
    cuts: list[int] = [first.start + small * task for task in range(sizing.first_tasks + 1)] + [first.stop]
    parts: list[Range] = [replace(first, start=start, stop=stop) for start, stop in itertools.pairwise(cuts)]
    return parts + tasks[1:]


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
            bounds = [part * fragment.rows // parts for part in range(parts + 1)]
            for start, stop in itertools.pairwise(bounds):
                yield FragmentRange(table, (fragment.fragment_id,), start, stop)
        else:
            packed.append(fragment)
            packed_rows += fragment.rows
    if packed:
        yield _whole(table, packed)


def _whole(table: int, fragments: Sequence[FragmentRows]) -> FragmentRange:
    ids = tuple(fragment.fragment_id for fragment in fragments)
    return FragmentRange(table, ids, 0, sum(fragment.rows for fragment in fragments))


def _equal_ranges(table: int, fragments: Sequence[FragmentRows], rows_per_task: float) -> Iterator[FragmentRange]:
    total = sum(fragment.rows for fragment in fragments)
    count = min(total, max(1, round(total / rows_per_task)))
    first = first_row = 0  # the fragment the task starts in, and the position of its first row
    for task in range(count):
        start, stop = task * total // count, (task + 1) * total // count
        while first_row + fragments[first].rows <= start:
            first_row += fragments[first].rows
            first += 1
        last, end = first, first_row + fragments[first].rows
        while end < stop:
            last += 1
            end += fragments[last].rows
        ids = tuple(fragment.fragment_id for fragment in fragments[first : last + 1])
        yield FragmentRange(table, ids, start - first_row, stop - first_row)
