"""The Ray dataset that a read returns: Ray's own, with an iterator of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pyarrow as pa
from ray.data import DataIterator, Dataset
from ray.data.dataset import MaterializedDataset

from ray_lance.data.faults import own_errors
from ray_lance.data.iterator import BlockwiseIterator
from ray_lance.data.plan import categories_read, lance_reads
from ray_lance.tensors import Categories
from ray_lance.tensors.categories import with_values

__all__ = ["ReadDataset"]

_TRANSFORMATIONS = (
    "add_column",
    "drop_columns",
    "filter",
    "flat_map",
    "limit",
    "map",
    "map_batches",
    "random_sample",
    "random_shuffle",
    "randomize_block_order",
    "rename_columns",
    "repartition",
    "select_columns",
    "sort",
    "union",
    "with_column",
    "with_columns",
    "zip",
)
_ARRAYS = ("default", "numpy")


class ReadDataset(Dataset):
    """A ``ray.data.Dataset`` whose batches of tensors are made by :class:`~ray_lance.data.iterator.BlockwiseIterator`.

    So are those of what its transformations return. Splits, groups and joins are plain Ray datasets.
    """

    @classmethod
    def of(cls, dataset: Dataset) -> ReadDataset:
        """The same Ray dataset as one of these."""
        if isinstance(dataset, ReadDataset):
            return dataset
        kind = MaterializedReadDataset if isinstance(dataset, MaterializedDataset) else ReadDataset
        own: ReadDataset = Dataset.copy(dataset, _as=kind)
        return own

    @property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns that are read, by column: those of the whole version.

        What ``TensorCollate(categories="codes")`` makes of them are their places in these lists.
        """
        return categories_read(self)

    def iterator(self) -> DataIterator:
        """A ``ray.data.DataIterator`` over the rows."""
        return BlockwiseIterator(self)

    def _execute(self, *args: Any, **kwargs: Any) -> Any:
        # Both ways of Ray to execute a Ray dataset come through here or the next method.
        with own_errors():
            return super()._execute(*args, **kwargs)

    def _execute_to_iterator(self, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            bundles, *rest = super()._execute_to_iterator(*args, **kwargs)
        return (_with_own_errors(bundles), *rest)


class MaterializedReadDataset(ReadDataset, MaterializedDataset):
    """What ``materialize`` of a :class:`ReadDataset` returns."""


def _with_own_errors(bundles: Iterator[Any]) -> Iterator[Any]:
    with own_errors():
        yield from bundles


def _of_own_kind(method: Callable[..., Dataset]) -> Callable[..., ReadDataset]:
    @wraps(method)
    def transformed(self: ReadDataset, *args: Any, **kwargs: Any) -> ReadDataset:
        return ReadDataset.of(method(self, *args, **kwargs))

    return transformed


def _with_values(method: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Ray's ``map_batches``, with categories decoded where a function is given arrays."""

    @wraps(method)
    def transformed(self: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        if kwargs.get("batch_format", "default") in _ARRAYS and _reads_categories(self):
            self = method(self, with_values, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        return method(self, *args, **kwargs)

    return transformed


def _reads_categories(dataset: Dataset) -> bool:
    return any(pa.types.is_dictionary(field.type) for read in lance_reads(dataset) for field in read.scan.schema())


def _raising_own(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: ReadDataset, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            return method(self, *args, **kwargs)

    return called


# Ray names its own class where it makes the result of a transformation, and where it executes a copy.
for _name in _TRANSFORMATIONS:
    _method = getattr(Dataset, _name)
    setattr(ReadDataset, _name, _of_own_kind(_with_values(_method) if _name == "map_batches" else _method))
ReadDataset.materialize = _of_own_kind(_raising_own(Dataset.materialize))
ReadDataset.count = _raising_own(Dataset.count)
