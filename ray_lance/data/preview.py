"""Previews a read with no Ray running: columns, a filter, a seed and CPUs in, an explanation out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_lance.data.explain import Explanation, explain_datasource
from ray_lance.data.fragments import FragmentDatasource
from ray_lance.data.permuted import PermutationDatasource
from ray_lance.order import ExplicitRows
from ray_lance.permutation import Permutation
from ray_lance.scan.pushdown import build_scan
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
    if shuffle is None:
        return explain_datasource(FragmentDatasource(build_scan([table], columns, filter, [], {}), cpus=cpus))
    order = Permutation(table, filter).shuffle(shuffle).order
    if isinstance(order.base, ExplicitRows):
        order = order.with_base(order.base.detached())  # a datasource puts row ids into Ray's object store
    found = explain_datasource(PermutationDatasource(build_scan([table], columns, None, [], {}), order, cpus=cpus))
    return found if filter is None else replace(found, order=f"rows where {filter}, {found.order}")
