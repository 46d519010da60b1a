"""The fast way of plans: Ray's logical operators. See ``plans.py``."""

from __future__ import annotations

import copy
from dataclasses import is_dataclass, replace
from typing import Any

from ray.data import Dataset
from ray.data._internal.logical.interfaces import LogicalPlan
from ray.data._internal.logical.operators import MapBatches, Read
from ray.data._internal.logical.optimizers import LogicalOptimizer

from ray_lance.ray_internals.lineage import BottomRead
from ray_lance.ray_internals.ways import MissingNameError, needs

__all__ = ["bottom_read", "optimized_sources", "over", "read_cpus", "read_sources"]

needs(Dataset, "_logical_plan", "_in_stats")
needs(Read, "datasource", "_apply_transform", "post_order_iter", "input_dependencies")
if not is_dataclass(Read):
    raise MissingNameError("Ray's Read is no dataclass")


def read_sources(dataset: Dataset) -> list[Any]:
    """The datasources in the plan, before anything is pushed down."""
    return [operator.datasource for operator in _operators(dataset) if isinstance(operator, Read)]


def optimized_sources(dataset: Dataset) -> list[Any]:
    """The datasources in the plan that is executed."""
    dag = LogicalOptimizer().optimize(dataset._logical_plan).dag
    return [operator.datasource for operator in dag.post_order_iter() if isinstance(operator, Read)]


def bottom_read(dataset: Dataset) -> BottomRead:
    """What the plan begins with, and the first transformation that changes which rows there are or their order."""
    read, *transformations = _operators(dataset)
    # Without inputs it is a read of its own: what joins it to the first one comes later.
    changing = [each.name for each in transformations if each.input_dependencies and not _keeps_rows(each)]
    return BottomRead(read.name, read.datasource if isinstance(read, Read) else None, next(iter(changing), None))


def read_cpus(dataset: Dataset) -> float:
    """CPUs that each task of the first read reserves."""
    read = next(operator for operator in _operators(dataset) if isinstance(operator, Read))
    return float(read.ray_remote_args.get("num_cpus", 1))


def over(dataset: Dataset, source: Any, kind: type[Dataset]) -> Dataset:
    """The same transformations over another read, with a context of its own.

    Args:
        dataset: The transformations.
        source: What to read.
        kind: The class of the result.
    """

    def replaced(operator: Any) -> Any:
        if not isinstance(operator, Read):
            return operator
        return replace(operator, datasource=source, datasource_or_legacy_reader=source, num_outputs=None)

    context = dataset.context.copy()
    plan = LogicalPlan(dataset._logical_plan.dag._apply_transform(replaced), context)
    return kind(plan, context, copy.copy(dataset._in_stats), dataset_name=dataset.name)


def _operators(dataset: Dataset) -> list[Any]:
    return list(dataset._logical_plan.dag.post_order_iter())


def _keeps_rows(operator: Any) -> bool:
    # map_batches says that it may change the number of rows unless told otherwise: there the rows are counted.
    return isinstance(operator, MapBatches) or not getattr(operator, "can_modify_num_rows", True)
