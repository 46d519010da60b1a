"""The Ray Data datasource that reads in the order of a permutation; each execution of the Ray dataset is an epoch."""

from __future__ import annotations

import ray

from ray_lance.data.datasource import LanceDatasource, PlannedRead
from ray_lance.order import ExplicitRows, RowPermutation
from ray_lance.scan.reader import Fill
from ray_lance.scan.scan import Scan
from ray_lance.scan.take import PermutationPlan, PermutationRange, plan_positions

__all__ = ["PermutationDatasource"]


class PermutationDatasource(LanceDatasource):
    """Reads the rows of one table in the order of a permutation. Filters stay with Ray: the order is made before them.

    Args:
        scan: The table and the columns; without a filter.
        order: The order. Row addresses that it runs over go into the object store here, once.
        fixed_epoch: Whether every execution reads the epoch of ``order``; otherwise the k-th execution reads the k-th
            epoch after it.
        num_tasks: Wanted number of read tasks; None sizes them by bytes.
        fill: What replaces nulls where a tensor cannot hold them: one value, or one by column.
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
    ) -> None:
        super().__init__(scan, num_tasks=num_tasks, fill=fill)
        base = order.base
        if isinstance(base, ExplicitRows):
            self._row_addresses = ray.put(base.addresses)
            order = order.with_base(base.detached())
        self._order = order
        self._fixed_epoch = fixed_epoch
        self._planned_epoch = -1

    @property
    def order(self) -> RowPermutation:
        """The order of the first execution, without its row addresses."""
        return self._order

    def planned(self, execution: int = 0) -> PlannedRead:
        """The plan of an execution, made once.

        Args:
            execution: How often the Ray dataset has been executed before.
        """
        epoch = self._order.epoch_number + (0 if self._fixed_epoch else execution)
        if self._planned is None or self._planned_epoch != epoch:
            scan, order, sizing = self._scan, self._order.epoch(epoch), self._sizing(len(self._order))
            plan = PermutationPlan(scan, order, scan.schema(), sizing.row_bytes, self._fill_of_columns())
            self._planned = PlannedRead(plan, tuple(plan_positions(order, sizing)), sizing)
            self._planned_epoch = epoch
        return self._planned
