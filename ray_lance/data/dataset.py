"""The Ray dataset that a read returns: Ray's own, with an iterator of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ray.data import DataIterator, Dataset
from ray.data.dataset import MaterializedDataset

from ray_lance.data.batching import ARRAY_FORMATS
from ray_lance.data.faults import own_errors
from ray_lance.data.plan import categories_read
from ray_lance.ray_internals.batches import iterates_itself, over_batches, with_category_values
from ray_lance.ray_internals.errors import raise_while_executing
from ray_lance.ray_internals.lineage import Lineage, lineage_of
from ray_lance.tensors import Categories

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
# Methods that execute a Ray dataset, and raise what its tasks have raised.
_CONSUMING = ("count", "iter_rows", "show", "take", "take_all", "take_batch", "to_pandas")


class ReadDataset(Dataset):
    """A ``ray.data.Dataset`` whose batches of tensors hold every type that Lance stores; see ``iterator``.

    So are those of what its transformations return. Splits, groups and joins are plain Ray datasets.
    """

    lineage = Lineage()

    @classmethod
    def of(cls, dataset: Dataset, lineage: Lineage | None = None) -> ReadDataset:
        """The same object as one of these.

        Args:
            dataset: What a function or method of Ray has just returned.
            lineage: What it reads.
        """
        if not isinstance(dataset, ReadDataset):
            dataset.__class__ = MaterializedReadDataset if isinstance(dataset, MaterializedDataset) else ReadDataset
        assert isinstance(dataset, ReadDataset)
        if lineage is not None:
            dataset.lineage = lineage
        return dataset

    @property
    def categories(self) -> Categories:
        """The categories of the dictionary-encoded columns that are read, by column: those of the whole version.

        What ``TensorCollate(categories="codes")`` makes of them are their places in these lists.
        """
        return categories_read(self)

    def iterator(self) -> DataIterator:
        """A ``ray.data.DataIterator`` over the rows."""
        return over_batches(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "lineage": self.lineage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lineage = state["lineage"]


class MaterializedReadDataset(ReadDataset, MaterializedDataset):
    """What ``materialize`` of a :class:`ReadDataset` returns."""


def _of_own_kind(name: str, method: Callable[..., Dataset]) -> Callable[..., ReadDataset]:
    @wraps(method)
    def transformed(self: ReadDataset, *args: Any, **kwargs: Any) -> ReadDataset:
        return ReadDataset.of(method(self, *args, **kwargs), lineage_of(self).then(name, args, kwargs))

    return transformed


def _with_values(method: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Ray's ``map_batches``, with categories decoded where a function is given arrays."""

    @wraps(method)
    def transformed(self: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        given = with_category_values(self) if kwargs.get("batch_format", "default") in ARRAY_FORMATS else self
        return method(given, *args, **kwargs)

    return transformed


def _raising_own(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: ReadDataset, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            return method(self, *args, **kwargs)

    return called


def _materialized(self: ReadDataset) -> ReadDataset:
    """As ``ray.data.Dataset.materialize``."""
    with own_errors():
        return ReadDataset.of(Dataset.materialize(self), Lineage())


def _through_iterator(name: str) -> Callable[..., Any]:
    @wraps(getattr(Dataset, name))
    def called(self: ReadDataset, **options: Any) -> Any:
        return getattr(self.iterator(), name)(**options)

    return called


# Ray names its own class where it makes the result of a transformation, and where it executes a copy.
for _name in _TRANSFORMATIONS:
    if _method := getattr(Dataset, _name, None):
        setattr(ReadDataset, _name, _of_own_kind(_name, _with_values(_method) if _name == "map_batches" else _method))
for _name in _CONSUMING:
    setattr(ReadDataset, _name, _raising_own(getattr(Dataset, _name)))
ReadDataset.materialize = _materialized
raise_while_executing(ReadDataset, own_errors)
if not iterates_itself():
    # Ray's methods call private ones of the iterator.
    ReadDataset.iter_batches, ReadDataset.iter_rows = _through_iterator("iter_batches"), _through_iterator("iter_rows")
