"""The iterator over a Ray dataset of ours, whose batches of tensors hold every type that Lance stores."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from functools import cache, partial
from typing import Any

import pyarrow as pa
import ray.train.torch
from ray.data import DataIterator, Dataset

from ray_lance.data.batching import ARRAY_FORMATS, check_batching, own_collation
from ray_lance.data.collate import PlacingCollate, TensorCollate, as_dict
from ray_lance.data.datasource import without_stub
from ray_lance.data.faults import own_errors
from ray_lance.data.plan import categories_read, lance_reads
from ray_lance.ray_internals.ways import fast_module
from ray_lance.tensors.categories import with_values

__all__ = ["iterates_itself", "over_batches", "placing", "with_category_values"]

_batches = fast_module("_batches", "batches of tensors are cut in the thread that uses them")


def iterates_itself() -> bool:
    """Whether our iterator gives Ray's private methods as well as the public ones."""
    return _batches is not None


def over_batches(dataset: Dataset) -> DataIterator:
    """An iterator over the rows of ``dataset``.

    Args:
        dataset: One of our own class.
    """
    if _batches is not None:
        return _batches.BlockwiseIterator(dataset)
    # Ray's own object, so that it has all of its other methods, with two of them replaced.
    rays = Dataset.iterator(with_category_values(dataset))
    rays.__class__ = _of(type(rays))  # type: ignore[arg-type]
    rays.dataset = dataset
    return rays


def _iter_batches(self: Any, **options: Any) -> Iterable[Any]:
    """Batches; see ``ray.data.DataIterator.iter_batches``."""
    check_batching(options)
    is_array = options.get("batch_format", "default") in ARRAY_FORMATS
    rows = with_category_values(self.dataset) if is_array else self.dataset
    return _Items(Dataset.iterator(rows).iter_batches(**options), without_stub)


def _iter_torch_batches(
    self: Any,
    *,
    dtypes: Any = None,
    collate_fn: Any = None,
    pin_memory: bool = False,
    device: Any = "auto",
    **options: Any,
) -> Iterable[Any]:
    """Batches of tensors; see ``ray.data.DataIterator.iter_torch_batches``."""
    check_batching({**options, "device": device})
    own = own_collation(collate_fn, dtypes, pin_memory, partial(categories_read, self.dataset))
    options |= placing({"device": device, **own})
    return _Items(Dataset.iterator(self.dataset).iter_torch_batches(**options), _tensors)


def _iter_rows(self: Any) -> Iterable[Any]:
    """Rows; see ``ray.data.DataIterator.iter_rows``."""
    return _Items(Dataset.iterator(self.dataset).iter_rows(), without_stub)


def _tensors(batch: Any) -> Any:
    return without_stub(as_dict(batch))


def placing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``iter_torch_batches``, in which a collation of ours places its tensors instead of Ray.

    Args:
        options: At least ``collate_fn`` and ``device``.
    """
    collate, device = options["collate_fn"], options["device"]
    if not isinstance(collate, TensorCollate):
        return dict(options)
    place = _train_device() if device == "auto" else device
    return {**options, "collate_fn": PlacingCollate(collate, place), "device": "auto"}


class _Items(Iterable[Any]):
    """What Ray makes, changed by a function, with errors as they were raised in the tasks."""

    def __init__(self, items: Iterable[Any], change: Callable[[Any], Any]) -> None:
        self._items = items
        self._change = change

    def __iter__(self) -> Generator[Any, None, None]:
        with own_errors():
            for item in self._items:
                yield self._change(item)


@cache
def _of(kind: Any) -> Any:
    methods = {"iter_batches": _iter_batches, "iter_torch_batches": _iter_torch_batches, "iter_rows": _iter_rows}
    return type("LanceDataIterator", (kind,), methods)


def _train_device() -> Any:
    """The device that Ray Train gave this worker; the CPU outside of one."""
    try:
        ray.train.get_context().get_world_size()
    except Exception:  # each version of Ray Train has its own for a process that is no worker
        return "cpu"
    return ray.train.torch.get_device()


def with_category_values(dataset: Dataset) -> Dataset:
    """The same rows with the values of categories, which arrays show."""
    if not any(pa.types.is_dictionary(field.type) for read in lance_reads(dataset) for field in read.scan.schema()):
        return dataset
    return dataset.map_batches(with_values, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
