"""What a read would do on a cluster of a given size: planned in this process, with no Ray running."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_lance.data.datasource import PlannedRead
from ray_lance.data.explain import Explanation, explain_planned
from ray_lance.permutation import Permutation
from ray_lance.scan.plan import FragmentRows, TaskSizing, plan_scan
from ray_lance.scan.positions import PermutationPlan, plan_positions, suited
from ray_lance.scan.pushdown import build_scan
from ray_lance.scan.reader import ReadPlan
from ray_lance.scan.size import row_bytes
from ray_lance.table import TableRef

__all__ = ["preview"]


def preview(
    table: TableRef, columns: Sequence[str] | None, filter: str | None, shuffle: int | None, cpus: float
) -> Explanation:
    """What ``read_lance`` with these arguments would do.

    Args:
        table: The pinned table.
        columns: Names; None for all.
        filter: SQL condition.
        shuffle: Seed of a shuffle; None reads in scan order.
        cpus: CPUs of the cluster.

    Raises:
        UnknownColumnError: There is no such column.
        InvalidArgumentError: Lance refuses the filter.
    """
    if shuffle is not None:
        order = Permutation(table, filter).shuffle(shuffle).order
        scan = build_scan([table], columns, None, [], {})
        sizing = suited(TaskSizing.for_cluster(len(order), row_bytes(scan), cpus), order, table)
        plan = PermutationPlan(scan, order, scan.schema(), sizing.row_bytes)
        found = explain_planned(PlannedRead(plan, tuple(plan_positions(order, sizing)), sizing))
        return found if filter is None else replace(found, order=f"rows where {filter}, {found.order}")
    scan = build_scan([table], columns, filter, [], {})
    fragments = [FragmentRows(each.fragment_id, each.count_rows()) for each in table.open().get_fragments()]
    sizing = TaskSizing.for_cluster(sum(each.rows for each in fragments), row_bytes(scan), cpus)
    tasks = plan_scan(scan, [fragments], sizing)
    return explain_planned(PlannedRead(ReadPlan(scan, scan.schema(), sizing.row_bytes), tuple(tasks), sizing))
