"""The Ray dataset that a read returns: Ray's own, with an iterator of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from ray.data import DataIterator, Dataset

from ray_lance.data.faults import own_errors
from ray_lance.data.iterator import BlockwiseIterator

__all__ = ["ReadDataset"]

_STREAMING = (
    "add_column",
    "drop_columns",
    "filter",
    "flat_map",
    "limit",
    "map",
    "map_batches",
    "rename_columns",
    "select_columns",
    "with_column",
    "with_columns",
)

_EXECUTING_COPIES = ("count", "materialize")


class ReadDataset(Dataset):
    """A ``ray.data.Dataset`` whose batches of tensors are cut by :class:`~ray_lance.data.iterator.BlockwiseIterator`.

    So are those of what its transformations return, as far as they stream; the others return plain Ray datasets.
    """

    @classmethod
    def of(cls, dataset: Dataset) -> ReadDataset:
        """The same Ray dataset as one of these."""
        return dataset if isinstance(dataset, cls) else Dataset.copy(dataset, _as=cls)

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


def _with_own_errors(bundles: Iterator[Any]) -> Iterator[Any]:
    with own_errors():
        yield from bundles


def _of_own_kind(method: Callable[..., Dataset]) -> Callable[..., ReadDataset]:
    @wraps(method)
    def transformed(self: ReadDataset, *args: Any, **kwargs: Any) -> ReadDataset:
        return ReadDataset.of(method(self, *args, **kwargs))

    return transformed


def _raising_own(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: ReadDataset, *args: Any, **kwargs: Any) -> Any:
        with own_errors():
            return method(self, *args, **kwargs)

    return called


# Ray names its own class where it makes the result of a transformation, and where it executes a copy.
for _name in _STREAMING:
    setattr(ReadDataset, _name, _of_own_kind(getattr(Dataset, _name)))
for _name in _EXECUTING_COPIES:
    setattr(ReadDataset, _name, _raising_own(getattr(Dataset, _name)))
