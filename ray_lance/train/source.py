"""The Lance read at the bottom of a Ray dataset's plan: found, checked, and replaced."""

from __future__ import annotations

from ray.data import Dataset

from ray_lance.data.dataset import ReadDataset
from ray_lance.data.datasource import LanceDatasource
from ray_lance.data.permuted import PermutationDatasource, check_numbered
from ray_lance.errors import InvalidArgumentError
from ray_lance.ray_internals.plans import bottom_read, over

__all__ = ["check_source", "scheduled_source", "with_source"]


def scheduled_source(name: str, dataset: Dataset) -> PermutationDatasource:
    """What ``dataset`` reads, in an order that can be cut into ranges.

    A read in scan order counts as the identity permutation. The rows that its SQL filter lets through are found here.

    Args:
        name: Name of the dataset in the trainer, for messages.
        dataset: One read of one Lance table, with any transformations that keep rows and their order.

    Raises:
        InvalidArgumentError: It reads something else, or a transformation changes the rows.
    """
    source = _lance_read(name, dataset)
    if isinstance(source, PermutationDatasource):
        return source
    try:
        return PermutationDatasource.of(source)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"dataset {name!r}: {error}") from None


def check_source(name: str, dataset: Dataset) -> int | None:
    """Refuse, without looking up rows, what :func:`scheduled_source` refuses.

    Returns:
        The number of rows, where it is known without reading.
    """
    source = _lance_read(name, dataset)
    if isinstance(source, PermutationDatasource):
        return len(source.order)
    try:
        check_numbered(source)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"dataset {name!r}: {error}") from None
    return None if source.scan.filter is not None else source.scan.tables[0].open().count_rows()


def with_source(dataset: Dataset, source: PermutationDatasource) -> Dataset:
    """A Ray dataset of the same transformations over another read, with a context of its own."""
    own: Dataset = over(dataset, source, ReadDataset)
    return own


def _lance_read(name: str, dataset: Dataset) -> LanceDatasource:
    read = bottom_read(dataset)
    if not isinstance(read.source, LanceDatasource):
        raise InvalidArgumentError(
            f"dataset {name!r} does not read a Lance table through ray_lance: its plan begins with {read.name}. Pass "
            "ray_lance.read_lance(...), with transformations such as map_batches if need be but not materialized, or "
            "train with Ray's own ray.train.DataConfig"
        )
    if read.changed_by is not None:
        raise InvalidArgumentError(
            f"dataset {name!r}: {read.changed_by} changes which rows there are or their order, so that batches "
            "could not be counted from a cursor. Choose rows with Permutation(source, filter=...), order them "
            "with its shuffle(seed), and keep to map_batches, map, with_column and select_columns after the read"
        )
    return read.source
