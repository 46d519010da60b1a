"""The Ray Data datasource: turns a scan into read tasks, and takes projections, filters and limits from Ray."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask
from ray.data.expressions import Expr

from ray_lance.errors import InvalidArgumentError, UnknownColumnError
from ray_lance.retry import RetryPolicy
from ray_lance.scan.plan import FragmentRange, FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.pushdown import takes_filter
from ray_lance.scan.reader import Fill, ReadPlan
from ray_lance.scan.scan import Scan
from ray_lance.scan.size import row_bytes

__all__ = ["LanceDatasource", "PlannedRead"]

# Ray's own name for the column that carries the number of rows of a table without columns.
_ROW_COUNT_COLUMN = "__bsp_stub"


@dataclass(frozen=True)
class PlannedRead:
    """A planned read: what all tasks share, and the tasks.

    Attributes:
        plan: What all tasks share.
        tasks: The tasks, in scan order.
        sizing: What the tasks were sized by.
    """

    plan: ReadPlan
    tasks: tuple[FragmentRange, ...]
    sizing: TaskSizing


class LanceDatasource(Datasource):
    """Reads a :class:`~ray_lance.scan.scan.Scan` as a Ray dataset.

    Args:
        scan: What to read.
        fragment_ids: Fragments to read; None reads all.
        num_tasks: Wanted number of read tasks; None sizes them by bytes.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        retry: What to do when storage fails.
    """

    def __init__(
        self,
        scan: Scan,
        *,
        fragment_ids: Sequence[int] | None = None,
        num_tasks: int | None = None,
        fill: Fill = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__()
        self._scan = scan
        self._num_tasks = num_tasks
        self._fill = fill
        self._retry = retry or RetryPolicy()
        self._fragments = _live_fragments(scan, fragment_ids)
        self._projection_map: dict[str, str] | None = None
        self._planned: PlannedRead | None = None

    @property
    def scan(self) -> Scan:
        """What is read, with everything that Ray has pushed down."""
        return self._scan

    def planned(self) -> PlannedRead:
        """The plan, made once: Ray asks for it several times per execution."""
        if self._planned is None:
            scan = self._scan
            total = sum(fragment.rows for table in self._fragments for fragment in table)
            row_size = row_bytes(scan)
            sizing = TaskSizing.for_cluster(total, row_size, _cluster_cpus(), self._num_tasks)
            plan = ReadPlan(scan, scan.schema(), row_size, _fill_of(self._fill, scan.names), self._retry)
            self._planned = PlannedRead(plan, tuple(plan_scan(scan, self._fragments, sizing)), sizing)
        return self._planned

    def get_name(self) -> str:
        """Name of the read operator."""
        return "Lance"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of the delivered columns, before any filter."""
        planned = self.planned()
        return int(sum(task.num_rows for task in planned.tasks) * planned.plan.row_bytes)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  tasks are sized by bytes, or by num_tasks
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """The read tasks; at least one, so that an empty dataset still has a schema."""
        planned = self.planned()
        shared = ray.put(planned.plan)
        exact = self._scan.is_divisible
        return [
            ReadTask(
                partial(_read_blocks, shared, task, per_task_row_limit),
                _metadata(task, planned.plan, exact),
                schema=planned.plan.schema,
                per_task_row_limit=per_task_row_limit,
            )
            for task in planned.tasks or (FragmentRange(0, (), 0, 0),)
        ]

    def supports_projection_pushdown(self) -> bool:
        """Lance reads only the columns that are asked for."""
        return True

    def apply_projection(self, projection_map: Mapping[str, str] | None) -> LanceDatasource:
        """A datasource that reads only the given columns."""
        if projection_map is None:
            return self
        names = list(projection_map)
        projected = self._with_scan(self._scan.select(names))
        projected._projection_map = {name: name for name in names}
        return projected

    def supports_predicate_pushdown(self) -> bool:
        """Filters go to Lance where it can take them."""
        return True

    def apply_predicate(self, predicate_expr: Expr) -> LanceDatasource:
        """A datasource that filters in Lance; this one itself where Lance cannot, which leaves the filter to Ray."""
        _check_columns(predicate_expr, self._scan.schema())
        if self._scan.is_whole or isinstance(self._scan.filter, str):
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
        filtered._predicate_expr = (
            predicate_expr if self._predicate_expr is None else self._predicate_expr & predicate_expr
        )
        return filtered

    def _with_scan(self, scan: Scan) -> LanceDatasource:
        clone = copy.copy(self)
        clone._scan = scan
        clone._planned = None
        return clone


def _read_blocks(shared: ray.ObjectRef, task: FragmentRange, limit: int | None) -> Iterator[pa.Table]:
    plan = _fetch_plan(shared)
    for table in plan.read(task, limit):
        if not table.schema.names:
            table = table.append_column(_ROW_COUNT_COLUMN, pa.nulls(table.num_rows))
        yield table


@lru_cache(maxsize=16)
def _fetch_plan(shared: ray.ObjectRef) -> ReadPlan:
    plan: ReadPlan = ray.get(shared)
    return plan


def _fill_of(fill: Fill, names: Sequence[str]) -> Fill:
    """``fill`` without the columns that a projection has left out."""
    if not isinstance(fill, Mapping):
        return fill
    return {name: value for name, value in fill.items() if name in names or name.split(".")[0] in names}


def _metadata(task: FragmentRange, plan: ReadPlan, exact: bool) -> BlockMetadata:
    return BlockMetadata(
        num_rows=task.num_rows if exact else None,
        size_bytes=int(task.num_rows * plan.row_bytes),
        input_files=None,
        exec_stats=None,
    )


def _live_fragments(scan: Scan, fragment_ids: Sequence[int] | None) -> list[list[FragmentRows]]:
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


def _shortened(ids: Sequence[int]) -> str:
    return str(list(ids)) if len(ids) <= 10 else f"[{', '.join(map(str, ids[:5]))}, ..., {ids[-1]}]"


def _check_columns(predicate: Expr, schema: pa.Schema) -> None:
    from ray.data._internal.planner.plan_expression.expression_visitors import _ColumnReferenceCollector

    collector = _ColumnReferenceCollector()
    collector.visit(predicate)
    for name in collector.get_column_refs():
        if name not in schema.names:
            raise UnknownColumnError("filter(expr=)", name, schema.names)


def _cluster_cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1.0)) if ray.is_initialized() else 1.0
