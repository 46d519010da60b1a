"""The Ray Data datasource that reads in scan order, fragment by fragment, and takes filters from Ray."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import pyarrow as pa
from ray.data.expressions import Expr

from ray_lance.data.datasource import LanceDatasource, PlannedRead
from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.ray_internals.pushdown import columns_of, note_predicate, pushes_down
from ray_lance.scan.planning import FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.pushdown import takes_filter
from ray_lance.scan.reader import Fill, ReadPlan
from ray_lance.scan.scan import Scan
from ray_lance.scan.tasks import FragmentRange

__all__ = ["FragmentDatasource"]


class FragmentDatasource(LanceDatasource):
    """Reads one or more tables in scan order.

    Args:
        scan: What to read.
        fragment_ids: Fragments to read; None reads all.
        num_tasks: Wanted number of read tasks; None sizes them by bytes.
        fragments_per_task: Most fragments of the one table that a task may read, wholly or in part; None for any.
        batch_size: With ``fragments_per_task``: tasks are cut so that only the last of so many fragments has rows that
            fill no batch, where Lance can cut fragments.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        cpus: CPUs to plan for; None for those of the cluster.
    """

    def __init__(
        self,
        scan: Scan,
        *,
        fragment_ids: Sequence[int] | None = None,
        num_tasks: int | None = None,
        fragments_per_task: int | None = None,
        batch_size: int = 1,
        fill: Fill = None,
        cpus: float | None = None,
    ) -> None:
        super().__init__(scan, num_tasks=num_tasks, fill=fill, cpus=cpus)
        self._fragments_per_task = fragments_per_task
        self._batch_size = batch_size
        self._fragments = _live_fragments(scan, fragment_ids)

    def planned(self, execution: int = 0) -> PlannedRead:  # noqa: ARG002  a scan is the same in every execution
        """The plan, made once."""
        if self._planned is None:
            scan = self._scan
            sizing = self._sizing(sum(fragment.rows for table in self._fragments for fragment in table))
            plan = ReadPlan(scan, scan.schema(), sizing.row_bytes, self._fill_of_columns())
            self._planned = PlannedRead(plan, tuple(self._tasks(sizing)), sizing)
        return self._planned

    def last_fragments(self) -> list[int]:
        """Of each task the id of the last fragment that it reads from."""
        tasks = self.planned().tasks
        return [task.fragment_ids[-1] for task in tasks if isinstance(task, FragmentRange) and task.fragment_ids]

    def _tasks(self, sizing: TaskSizing) -> list[FragmentRange]:
        most = self._fragments_per_task
        if most is None:
            return plan_scan(self._scan, self._fragments, sizing)
        (fragments,) = self._fragments
        rows_per_task = sizing.rows_per_task(sum(fragment.rows for fragment in fragments))
        tasks: list[FragmentRange] = []
        for first in range(0, len(fragments), most):
            group = fragments[first : first + most]
            if self._scan.is_divisible:
                tasks += _cut(group, self._batch_size * max(1, round(rows_per_task / self._batch_size)))
            else:
                rows = sum(fragment.rows for fragment in group)
                tasks += plan_scan(self._scan, [group], replace(sizing, num_tasks=math.ceil(rows / rows_per_task)))
        return tasks

    def supports_predicate_pushdown(self) -> bool:
        """Filters go to Lance where it can take them."""
        return pushes_down()

    def apply_predicate(self, predicate_expr: Expr) -> LanceDatasource:
        """A datasource that filters in Lance; this one itself where Lance cannot, which leaves the filter to Ray."""
        names = _checked_columns(predicate_expr, self._scan.schema())
        if self._scan.is_whole or isinstance(self._scan.filter, str) or not self._delivers_stored(names):
            return self
        try:
            expression = predicate_expr.to_pyarrow()
        except (TypeError, ValueError, NotImplementedError, pa.ArrowException):
            return self
        if self._scan.filter is not None:
            expression = self._scan.filter & expression
        if not takes_filter(self._scan, expression):
            return self
        filtered = self._with_scan(replace(self._scan, filter=expression))
        note_predicate(filtered, predicate_expr)
        return filtered


def _cut(fragments: Sequence[FragmentRows], rows_per_task: int) -> Iterator[FragmentRange]:
    """Ranges of so many rows, the last one of the rest. Each fragment has at least one row."""
    ends = list(accumulate(fragment.rows for fragment in fragments))
    for start in range(0, ends[-1], rows_per_task):
        stop = min(start + rows_per_task, ends[-1])
        first, last = bisect_right(ends, start), bisect_left(ends, stop)
        before = ends[first] - fragments[first].rows
        ids = tuple(fragment.fragment_id for fragment in fragments[first : last + 1])
        yield FragmentRange(0, ids, start - before, stop - before)


def _live_fragments(scan: Scan, fragment_ids: Sequence[int] | None) -> list[list[FragmentRows]]:
    if fragment_ids is not None:
        fragment_ids = _checked_ids(fragment_ids)
    tables = [
        [FragmentRows(fragment.fragment_id, fragment.count_rows()) for fragment in table.open().get_fragments()]
        for table in scan.tables
    ]
    if fragment_ids is None:
        return tables
    if scan.is_whole:
        raise InvalidArgumentError(
            f"fragment_ids={list(fragment_ids)} conflicts with scanner_options {sorted(scan.options)}, which speak of "
            "the dataset as a whole: give one of them"
        )
    if len(tables) > 1:
        raise InvalidArgumentError(
            f"fragment_ids={list(fragment_ids)}: only fragments of one dataset can be chosen; uri names {len(tables)}"
        )
    known = {fragment.fragment_id for fragment in tables[0]}
    if missing := sorted(set(fragment_ids) - known):
        raise InvalidArgumentError(
            f"fragment_ids: the dataset has no fragments {missing}; it has {len(known)}, "
            f"with ids {_shortened(sorted(known))}"
        )
    chosen = set(fragment_ids)
    return [[fragment for fragment in tables[0] if fragment.fragment_id in chosen]]


def _checked_ids(fragment_ids: Sequence[int]) -> list[int]:
    try:
        return [operator.index(fragment_id) for fragment_id in fragment_ids]
    except TypeError as error:
        raise InvalidArgumentError(f"fragment_ids={fragment_ids!r} must be a list of whole numbers") from error


def _shortened(ids: Sequence[int]) -> str:
    return str(list(ids)) if len(ids) <= 10 else f"[{', '.join(map(str, ids[:5]))}, ..., {ids[-1]}]"


def _checked_columns(predicate: Expr, schema: pa.Schema) -> list[str]:
    names = columns_of(predicate)
    for name in names:
        if name not in schema.names:
            raise UnknownColumnError("filter(expr=)", name, schema.names)
    return names
