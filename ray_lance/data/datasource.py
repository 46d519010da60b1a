"""The Ray Data datasource: turns a scan into read tasks, and takes projections, filters and limits from Ray."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from ray_lance.allocator import keep_freed_memory
from ray_lance.data.faults import faults_of_data
from ray_lance.data.interrupts import interrupts_held
from ray_lance.ray_internals.pushdown import pushes_down
from ray_lance.ray_internals.tasks import execution_number
from ray_lance.scan.planning import TaskSizing
from ray_lance.scan.reader import Fill, PermutationPlan, ReadPlan
from ray_lance.scan.scan import Scan
from ray_lance.scan.size import row_bytes
from ray_lance.scan.tasks import FragmentRange, PermutationRange, StepRange
from ray_lance.tensors import named_fill
from ray_lance.tensors.kinds import ROW_COUNT_COLUMN

__all__ = ["LanceDatasource", "PlannedRead", "without_stub"]


@dataclass(frozen=True)
class PlannedRead:
    """A planned read: what all tasks share, and the tasks.

    Attributes:
        plan: What all tasks share.
        tasks: The tasks, in the order of delivery.
        sizing: What the tasks were sized by.
    """

    plan: ReadPlan | PermutationPlan
    tasks: tuple[FragmentRange, ...] | tuple[PermutationRange, ...] | tuple[StepRange, ...]
    sizing: TaskSizing


class LanceDatasource(Datasource):
    """What every read of Lance has in common; subclasses say in which order and tasks.

    Args:
        scan: What to read.
        num_tasks: Wanted number of read tasks; None sizes them by bytes.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        cpus: CPUs to plan for; None for those of the cluster that this process is connected to.
    """

    # Whether an interrupt of a read task waits for a point at which its process stays fit for other tasks.
    holds_interrupts = True
    # What the read task of an empty dataset reads, and where the row ids of an order are that has any.
    _empty_task: FragmentRange | PermutationRange = FragmentRange(0, (), 0, 0)
    _row_ids: ray.ObjectRef | None = None

    def __init__(
        self, scan: Scan, *, num_tasks: int | None = None, fill: Fill = None, cpus: float | None = None
    ) -> None:
        super().__init__()
        self._scan = scan
        self._cpus = cpus
        self._num_tasks = num_tasks
        self._fill = fill
        self._projection_map: dict[str, str] | None = None
        self._planned: PlannedRead | None = None
        # The columns without values for which the rows are read; see read_lance(missing=).
        self.missing: tuple[str, ...] = ()

    @property
    def scan(self) -> Scan:
        """What is read, with everything that Ray has pushed down."""
        return self._scan

    def planned(self, execution: int = 0) -> PlannedRead:
        """The plan, made once: Ray asks for it several times per execution.

        Args:
            execution: How often the Ray dataset has been executed before.
        """
        raise NotImplementedError

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
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """The read tasks; at least one, so that an empty dataset still has a schema."""
        planned = self.planned(execution_number(data_context))
        shared = ray.put((planned.plan, self._row_ids))
        exact = self._scan.is_divisible
        return [
            ReadTask(
                partial(_read_blocks, shared, task, per_task_row_limit),
                _metadata(task, planned.plan, exact),
                schema=planned.plan.schema,
                per_task_row_limit=per_task_row_limit,
            )
            for task in planned.tasks or (self._empty_task,)
        ]

    def supports_projection_pushdown(self) -> bool:
        """Lance reads only the columns that are asked for."""
        return pushes_down()

    def apply_projection(self, projection_map: Mapping[str, str] | None) -> LanceDatasource:
        """A datasource that reads only the given columns."""
        if projection_map is None:
            return self
        names = list(projection_map)
        projected = self._with_scan(self._scan.select(names))
        projected._projection_map = {name: name for name in names}
        return projected

    def _sizing(self, rows: int) -> TaskSizing:
        cpus = _cluster_cpus() if self._cpus is None else self._cpus
        return TaskSizing.for_cluster(rows, row_bytes(self._scan), cpus, self._num_tasks)

    def _fill_of_columns(self) -> Fill:
        """What was given as ``fill``, without the columns that a projection has left out."""
        return named_fill(self._fill, self._scan.stored_schema(), is_part=True)

    def _delivers_stored(self, names: Sequence[str]) -> bool:
        """Whether each of the columns is delivered as it is stored: not decoded, computed or filled."""
        fill = self._fill_of_columns()
        if isinstance(fill, Mapping):
            is_filled = any(entry == name or entry.startswith(f"{name}.") for entry in fill for name in names)
        else:
            is_filled = fill is not None
        return not is_filled and self._scan.delivers_stored(names)

    def _with_scan(self, scan: Scan) -> LanceDatasource:
        clone = copy.copy(self)
        clone._scan = scan
        clone._planned = None
        return clone


def without_stub(rows: Any) -> Any:
    """A block, batch or row without the column that carries the number of rows where there is no other."""
    if isinstance(rows, dict):
        return {} if list(rows) == [ROW_COUNT_COLUMN] else rows
    names = rows.column_names if isinstance(rows, pa.Table) else list(getattr(rows, "columns", []))
    if names != [ROW_COUNT_COLUMN]:
        return rows
    return rows.select([]) if isinstance(rows, pa.Table) else rows.drop(columns=[ROW_COUNT_COLUMN])


def _read_blocks(
    shared: ray.ObjectRef, task: FragmentRange | PermutationRange | StepRange, limit: int | None
) -> Iterator[pa.Table]:
    keep_freed_memory()
    with faults_of_data(), interrupts_held() as raise_interrupt:
        for table in _fetch_plan(shared).read(task, limit):
            if not table.schema.names:
                table = table.append_column(ROW_COUNT_COLUMN, pa.nulls(table.num_rows))
            raise_interrupt()
            yield table
            raise_interrupt()


# Few: a plan may hold the row ids of all rows, and an idle worker would keep it in the object store.
@lru_cache(maxsize=2)
def _fetch_plan(shared: ray.ObjectRef) -> Any:
    plan, row_ids = ray.get(shared)
    return plan if row_ids is None else plan.with_rows(ray.get(row_ids))


def _metadata(
    task: FragmentRange | PermutationRange | StepRange, plan: ReadPlan | PermutationPlan, exact: bool
) -> BlockMetadata:
    return BlockMetadata(
        num_rows=task.num_rows if exact else None,
        size_bytes=int(task.num_rows * plan.row_bytes),
        input_files=None,
        exec_stats=None,
    )


def _cluster_cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 1.0)) if ray.is_initialized() else 1.0
