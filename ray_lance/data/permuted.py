"""The Ray Data datasource that reads in the order of a permutation; each execution of the Ray dataset is an epoch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from ray_lance.data.datasource import LanceDatasource, PlannedRead
from ray_lance.errors import InvalidArgumentError
from ray_lance.order import BatchSchedule, ExplicitRows, RowPermutation
from ray_lance.permutation import Permutation
from ray_lance.scan.planning import TaskSizing, plan_positions, plan_steps
from ray_lance.scan.reader import Fill, PermutationPlan
from ray_lance.scan.scan import Scan
from ray_lance.scan.tasks import PermutationRange, StepRange

__all__ = ["PermutationDatasource", "check_numbered"]


class PermutationDatasource(LanceDatasource):
    """Reads the rows of one table in the order of a permutation. Filters stay with Ray: the order is made before them.

    Args:
        scan: The table and the columns; without a filter.
        order: The order. Row ids that it runs over go into the object store here, once.
        fixed_epoch: Whether every execution reads the epoch of ``order``; otherwise the k-th execution reads the k-th
            epoch after it.
        num_tasks: Wanted number of read tasks; None sizes them by bytes.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
        cpus: CPUs to plan for; None for those of the cluster.
        description: What the permutation tells of itself; see :meth:`ray_lance.Permutation.describe`.
    """

    _empty_task = PermutationRange(0, 0)

    def __init__(
        self,
        scan: Scan,
        order: RowPermutation,
        *,
        fixed_epoch: bool = False,
        num_tasks: int | None = None,
        fill: Fill = None,
        cpus: float | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scan, num_tasks=num_tasks, fill=fill, cpus=cpus)
        base = order.base
        if isinstance(base, ExplicitRows):
            self._row_ids = ray.put(base.row_ids)
            order = order.with_base(base.detached())
        self._order = order
        self._fixed_epoch = fixed_epoch
        self._planned_epoch = -1
        self._description = dict(description or order.describe())
        self._schedule: BatchSchedule | None = None

    @classmethod
    def of(cls, source: LanceDatasource) -> PermutationDatasource:
        """The rows of a scan, in scan order, as a permutation. Rows that pass its filter are found here.

        Args:
            source: Reads all of one table through its scanner, with an SQL filter or none.

        Raises:
            InvalidArgumentError: It reads several tables or some fragments only, or has options of the scanner.
        """
        check_numbered(source)
        scan = source._scan
        permutation = Permutation(scan.tables[0], scan.filter)
        return cls(
            replace(scan, filter=None),
            permutation.order,
            num_tasks=source._num_tasks,
            fill=source._fill,
            description=permutation.describe(),
        )

    @property
    def order(self) -> RowPermutation:
        """The order of the first execution, without its row ids."""
        return self._order

    @property
    def fixed_epoch(self) -> bool:
        """Whether every execution reads the epoch of ``order``."""
        return self._fixed_epoch

    @property
    def description(self) -> dict[str, Any]:
        """What makes the order what it is, except the epoch, in plain JSON types."""
        return dict(self._description)

    def scheduled(self, schedule: BatchSchedule, epoch: int) -> PermutationDatasource:
        """A datasource that reads one rank's batches of one epoch, one after another.

        Args:
            schedule: The rank's steps; its batches are cut from what is read in ``batch_size`` rows each.
            epoch: Epochs after that of ``order``; without effect where the epoch is fixed.
        """
        clone = copy.copy(self)
        clone._order = self._order.epoch(self._order.epoch_number + (0 if self._fixed_epoch else epoch))
        clone._fixed_epoch = True
        clone._schedule = schedule
        clone._planned = None
        return clone

    def planned(self, execution: int = 0) -> PlannedRead:
        """The plan of an execution, made once.

        Args:
            execution: How often the Ray dataset has been executed before.
        """
        epoch = self._order.epoch_number + (0 if self._fixed_epoch else execution)
        if self._planned is None or self._planned_epoch != epoch:
            scan, order = self._scan, self._order.epoch(epoch)
            tasks, sizing = self._tasks(order)
            plan = PermutationPlan(scan, order, scan.schema(), sizing.row_bytes, self._fill_of_columns())
            self._planned = PlannedRead(plan, tasks, sizing)
            self._planned_epoch = epoch
        return self._planned

    def _tasks(self, order: RowPermutation) -> tuple[tuple[PermutationRange, ...] | tuple[StepRange, ...], TaskSizing]:
        if self._schedule is None:
            sizing = self._sizing_of(order, len(order))
            return tuple(plan_positions(order, sizing)), sizing
        schedule = self._schedule
        # The other ranks read at the same time: all of them together are what the cluster has to do.
        sizing = self._sizing_of(order, schedule.steps * schedule.global_batch)
        window = 0 if order.mixing is None else order.mixing.window
        return tuple(plan_steps(schedule, sizing, window)), sizing

    def _sizing_of(self, order: RowPermutation, rows: int) -> TaskSizing:
        return self._sizing(rows).for_order(order, self._scan.tables[0])


def check_numbered(source: LanceDatasource) -> None:
    """Refuse a read whose rows have no number of their own in a table.

    Raises:
        InvalidArgumentError: It reads several tables or some fragments only, or has options of the scanner.
    """
    scan = source._scan
    if len(scan.tables) > 1:
        raise InvalidArgumentError(f"uri names {len(scan.tables)} datasets, and rows can be numbered in one only")
    if scan.options:
        raise InvalidArgumentError(
            f"scanner_options={sorted(scan.options)} do not apply where rows are read by number: leave them out"
        )
    if sum(task.num_rows for task in source.planned().tasks) != scan.tables[0].open().count_rows():
        raise InvalidArgumentError(
            "fragment_ids do not apply where rows are read by number: choose rows with Permutation(source, filter=...)"
        )
