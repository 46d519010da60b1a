"""A DataLoader that is right for Lance: spawned workers that stay, and batches that are passed through whole."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ray_lance.errors import InvalidArgumentError
from ray_lance.torch.mapped import Rows
from ray_lance.torch.transport import packed

__all__ = ["make_loader"]


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int | None = None,
    shuffle: bool = False,
    num_workers: int = 0,
    multiprocessing_context: Any = "spawn",
    stateful: bool = False,
    **options: Any,
) -> DataLoader[Any]:
    """A ``DataLoader`` over a dataset of this module, or over one that wraps it (``Subset``, ``ConcatDataset``).

    Args:
        dataset: A :class:`LanceMapDataset`, or a :class:`LanceIterableDataset`, which makes its own batches, order
            and prefetching: ``num_workers=0`` is enough for it, and keeps its state elastic.
        batch_size: Rows of a batch, 32 if not given; for an iterable dataset, give it there.
        shuffle: Whether torch draws the order anew for each epoch; for an iterable dataset, give it there.
        num_workers: Worker processes. They are spawned and stay from epoch to epoch (``persistent_workers``).
        multiprocessing_context: How workers start, a name or a context: anything but ``"fork"``.
        stateful: Make a ``torchdata.stateful_dataloader.StatefulDataLoader``.
        **options: Further arguments of the loader, such as ``sampler`` or ``pin_memory``.

    Raises:
        InvalidArgumentError: Forked workers, or an argument that the dataset has decided.
    """
    if _start_method(multiprocessing_context) == "fork":
        raise InvalidArgumentError(
            f"multiprocessing_context={multiprocessing_context!r}: Lance's threads do not survive a fork, and workers "
            "would hang; use 'spawn' or 'forkserver'"
        )
    if isinstance(dataset, IterableDataset):
        for name, value in (("batch_size", batch_size), ("shuffle", shuffle or None)):
            if value is not None:
                raise InvalidArgumentError(
                    f"{name}={value!r}: an iterable dataset makes its own batches and order; pass {name} to "
                    "LanceIterableDataset"
                )
        arguments: dict[str, Any] = {"batch_size": None}
    else:
        arguments = {"batch_size": 32 if batch_size is None else batch_size, "shuffle": shuffle}
        if "batch_sampler" in options:
            arguments = {}
    if num_workers:
        arguments |= {"multiprocessing_context": multiprocessing_context, "persistent_workers": True}
    arguments |= {"num_workers": num_workers, "collate_fn": _whole_batch, **options}
    loader: DataLoader[Any] = _loader_class(stateful)(dataset, **arguments)
    return loader


def _whole_batch(data: Any) -> Any:
    if isinstance(data, Rows):
        return packed(data.batch)
    return default_collate(data) if isinstance(data, list) else packed(data)


def _start_method(context: Any) -> str | None:
    return context if isinstance(context, str) or context is None else context.get_start_method()


def _loader_class(stateful: bool) -> Any:
    if not stateful:
        return DataLoader
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError as error:
        raise InvalidArgumentError("stateful=True needs torchdata: pip install torchdata") from error
    return StatefulDataLoader
