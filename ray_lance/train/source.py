"""The Lance read at the bottom of a Ray dataset's plan: found, checked, and replaced.

Ray shows plans nowhere in its public interface; this is the only file of the package that looks into them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from ray.data import Dataset
from ray.data._internal.logical.interfaces import LogicalPlan
from ray.data._internal.logical.operators import MapBatches, Read

from ray_lance.data.dataset import ReadDataset
from ray_lance.data.datasource import LanceDatasource
from ray_lance.data.permuted import PermutationDatasource, check_numbered
from ray_lance.errors import InvalidArgumentError

__all__ = ["check_source", "read_cpus", "scheduled_source", "with_source"]


def scheduled_source(name: str, dataset: Dataset) -> PermutationDatasource:
    """What ``dataset`` reads, in an order that can be cut into ranges.

    A read in scan order counts as the identity permutation. The rows that its SQL filter lets through are found here.

    Args:
        name: Name of the dataset in the trainer, for messages.
        dataset: One read of one Lance table, with any transformations that keep rows and their order.

    Raises:
        InvalidArgumentError: It reads something else, or a transformation changes the rows.
    """
    read = _lance_read(name, dataset)
    if isinstance(read.datasource, PermutationDatasource):
        return read.datasource
    try:
        return PermutationDatasource.of(read.datasource)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"dataset {name!r}: {error}") from None


def check_source(name: str, dataset: Dataset) -> int | None:
    """Refuse, without looking up rows, what :func:`scheduled_source` refuses.

    Returns:
        The number of rows, where it is known without reading.
    """
    source = _lance_read(name, dataset).datasource
    if isinstance(source, PermutationDatasource):
        return len(source.order)
    try:
        check_numbered(source)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"dataset {name!r}: {error}") from None
    return None if source.scan.filter is not None else source.scan.tables[0].open().count_rows()


def with_source(dataset: Dataset, source: PermutationDatasource) -> Dataset:
    """A Ray dataset of the same transformations over another read, with a context of its own."""

    def replaced(operator: Any) -> Any:
        if not isinstance(operator, Read):
            return operator
        return replace(operator, datasource=source, datasource_or_legacy_reader=source, num_outputs=None)

    context = dataset.context.copy()
    plan = LogicalPlan(dataset._logical_plan.dag._apply_transform(replaced), context)
    return ReadDataset(plan, context, copy.copy(dataset._in_stats), dataset_name=dataset.name)


def read_cpus(dataset: Dataset) -> float:
    """CPUs that each read task of ``dataset`` reserves."""
    read = next(operator for operator in dataset._logical_plan.dag.post_order_iter() if isinstance(operator, Read))
    return float(read.ray_remote_args.get("num_cpus", 1))


def _lance_read(name: str, dataset: Dataset) -> Any:
    operators = list(dataset._logical_plan.dag.post_order_iter())
    read, *transformations = operators
    if not isinstance(read, Read) or not isinstance(read.datasource, LanceDatasource):
        raise InvalidArgumentError(
            f"dataset {name!r} does not read a Lance table through ray_lance: its plan begins with {read.name}. Pass "
            "ray_lance.read_lance(...), with transformations such as map_batches if need be but not materialized, or "
            "train with Ray's own ray.train.DataConfig"
        )
    for operator in transformations:
        # Without inputs it is a read of its own: what joins it to the first one comes later.
        if operator.input_dependencies and not _keeps_rows(operator):
            raise InvalidArgumentError(
                f"dataset {name!r}: {operator.name} changes which rows there are or their order, so that batches "
                "could not be counted from a cursor. Choose rows with Permutation(source, filter=...), order them "
                "with its shuffle(seed), and keep to map_batches, map, with_column and select_columns after the read"
            )
    return read


def _keeps_rows(operator: Any) -> bool:
    # map_batches says that it may change the number of rows unless told otherwise: there the rows are counted.
    return isinstance(operator, MapBatches) or not getattr(operator, "can_modify_num_rows", True)
